"""What functions of numpy and scipy return besides arrays, and what of it C code trusts."""

from __future__ import annotations

import types

import numpy as np
import pytest

scipy = pytest.importorskip("scipy")

import scipy.cluster.hierarchy as hierarchy
import scipy.integrate as integrate
import scipy.interpolate as interpolate
import scipy.optimize as optimize
import scipy.signal as signal
import scipy.sparse.linalg as linalg
import scipy.spatial as spatial
import scipy.special as special
import scipy.stats as stats
from codec_support import blob_of, decode, pickled, roundtrip
from scipy.spatial.transform import Rotation

from vineyard_client.exceptions import UnsafeType, VineyardError

POINTS = np.random.RandomState(0).standard_normal((24, 3))
X = np.linspace(0.0, 1.0, 12)
Y = np.sin(X)


def _goal(p):
    return ((p - 1) ** 2).sum()


RESULTS = {
    **{
        f"np.linalg.{name}": lambda name=name: getattr(np.linalg, name)(POINTS[:3] @ POINTS[:3].T)
        for name in ("svd", "qr", "eig", "eigh", "slogdet")
    },
    **{
        f"np.polynomial.{name}": lambda name=name: getattr(np.polynomial, name)([1, 2, 3])
        for name in ("Polynomial", "Chebyshev", "Legendre", "Hermite", "HermiteE", "Laguerre")
    },
    "np.poly1d": lambda: np.poly1d([1, 2, 3]),
    "np.vectorize of a ufunc": lambda: np.vectorize(np.exp),
    "ttest_ind": lambda: stats.ttest_ind(X, Y),
    "pearsonr": lambda: stats.pearsonr(X, Y),
    "spearmanr": lambda: stats.spearmanr(X, Y),
    "linregress": lambda: stats.linregress(X, Y),
    "ks_2samp": lambda: stats.ks_2samp(X, Y),
    "chi2_contingency": lambda: stats.chi2_contingency([[10, 20], [30, 5]]),
    "f_oneway": lambda: stats.f_oneway(X, Y, Y),
    "mannwhitneyu": lambda: stats.mannwhitneyu(X, Y),
    "describe": lambda: stats.describe(X),
    "mode": lambda: stats.mode([1, 1, 2]),
    "binned_statistic": lambda: stats.binned_statistic(X, Y),
    "gaussian_kde": lambda: stats.gaussian_kde(X),
    "theilslopes": lambda: stats.theilslopes(Y, X),
    "multivariate_normal": lambda: stats.multivariate_normal([0, 0], np.eye(2)),
    **{
        f"minimize {method}": lambda method=method: optimize.minimize(_goal, np.zeros(2), method=method)
        for method in ("BFGS", "L-BFGS-B", "Nelder-Mead", "SLSQP", "trust-constr")
    },
    "minimize_scalar": lambda: optimize.minimize_scalar(lambda v: (v - 1) ** 2),
    "root_scalar": lambda: optimize.root_scalar(lambda v: v - 1, bracket=[0, 3]),
    "least_squares": lambda: optimize.least_squares(lambda p: p - 1, [0.0, 0.0]),
    "linprog": lambda: optimize.linprog([1, 1], A_ub=[[-1, -1]], b_ub=[-1]),
    "Bounds": lambda: optimize.Bounds([0], [1]),
    "interp1d": lambda: interpolate.interp1d(X, Y),
    "interp1d cubic": lambda: interpolate.interp1d(X, Y, kind="cubic"),
    "CubicSpline": lambda: interpolate.CubicSpline(X, Y),
    "PchipInterpolator": lambda: interpolate.PchipInterpolator(X, Y),
    "Akima1DInterpolator": lambda: interpolate.Akima1DInterpolator(X, Y),
    "UnivariateSpline": lambda: interpolate.UnivariateSpline(X, Y),
    "InterpolatedUnivariateSpline": lambda: interpolate.InterpolatedUnivariateSpline(X, Y),
    "RectBivariateSpline": lambda: interpolate.RectBivariateSpline(X, X, np.outer(Y, Y)),
    "RegularGridInterpolator": lambda: interpolate.RegularGridInterpolator((X, X), np.outer(Y, Y)),
    "LinearNDInterpolator": lambda: interpolate.LinearNDInterpolator(POINTS[:, :2], POINTS[:, 2]),
    "CloughTocher2DInterpolator": lambda: interpolate.CloughTocher2DInterpolator(POINTS[:, :2], POINTS[:, 2]),
    "BSpline": lambda: interpolate.make_interp_spline(X, Y),
    "PPoly": lambda: interpolate.PPoly(np.ones((2, 2)), [0, 1, 2]),
    "BPoly": lambda: interpolate.BPoly(np.ones((2, 2)), [0, 1, 2]),
    "NdPPoly": lambda: interpolate.NdPPoly(np.ones((2, 2, 2, 2)), ([0, 1, 2], [0, 1, 2])),
    "a derivative": lambda: interpolate.CubicSpline(X, Y).derivative(),
    "a spline of complex numbers": lambda: interpolate.make_interp_spline(X, Y + 1j),
    "KroghInterpolator": lambda: interpolate.KroghInterpolator(X, Y),
    "aslinearoperator": lambda: linalg.aslinearoperator(np.eye(3)).H,
    "BarycentricInterpolator": lambda: interpolate.BarycentricInterpolator(X, Y),
    "ConvexHull": lambda: spatial.ConvexHull(POINTS),
    "Delaunay": lambda: spatial.Delaunay(POINTS),
    "Voronoi": lambda: spatial.Voronoi(POINTS),
    "solve_ivp": lambda: integrate.solve_ivp(lambda t, y: -y, [0, 1], [1.0], dense_output=True),
    "TransferFunction": lambda: signal.TransferFunction([1], [1, 2]),
    "StateSpace": lambda: signal.StateSpace([[1]], [[1]], [[1]], [[1]]),
    "to_tree": lambda: hierarchy.to_tree(hierarchy.linkage(POINTS)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_arrives_with_its_class(name):
    roundtrip(RESULTS[name]())  # which compares


def test_limits_are_those_of_their_type():
    for name in ("f2", "f4", "f8", "g", "c16"):
        assert roundtrip(np.finfo(name)).eps == np.finfo(name).eps
    assert roundtrip(np.iinfo("u8")).max == np.iinfo("u8").max


def test_universal_functions_are_found_by_name():
    assert roundtrip([np.exp, special.gamma]) == [np.exp, special.gamma]
    with pytest.raises(UnsafeType, match="no other process"):
        roundtrip(np.frompyfunc(abs, 1, 1))


def test_interpolators_work_afterwards():
    for name in ("interp1d", "CubicSpline", "UnivariateSpline", "BSpline"):
        value = RESULTS[name]()
        np.testing.assert_allclose(roundtrip(value)(X), value(X))
    value = RESULTS["LinearNDInterpolator"]()
    np.testing.assert_allclose(roundtrip(value)(POINTS[:5, :2] * 0.1), value(POINTS[:5, :2] * 0.1))


@pytest.mark.parametrize(
    "value",
    [stats.norm(1, 2), stats.poisson(2), stats.beta(2, 3), stats.gamma(a=2, scale=3), stats.nbinom(3, 0.4)],
    ids=lambda value: value.dist.name,
)
def test_frozen_distributions_arrive(value):
    result = roundtrip(value)
    assert type(result) is type(value) and type(result.dist) is type(value.dist)
    assert (result.args, result.kwds) == (value.args, value.kwds)
    assert result.cdf(1.5) == value.cdf(1.5) and result.mean() == value.mean()


def test_distributions_themselves_and_those_of_tables():
    assert roundtrip(stats.norm) is stats.norm
    histogram = stats.rv_histogram(np.histogram(X))
    assert roundtrip(histogram).cdf(0.3) == histogram.cdf(0.3)
    discrete = stats.rv_discrete(name="own", values=([1, 2], [0.5, 0.5]))
    assert roundtrip(discrete).pmf(1) == 0.5 and roundtrip(discrete).name == "own"
    seeded = stats.norm(0, 1)
    seeded.random_state = np.random.RandomState(3)
    expected = np.random.RandomState(3).normal(size=2)
    np.testing.assert_array_equal(roundtrip(seeded).rvs(2), expected)


def test_a_distribution_of_the_callers_own_is_refused():
    class Own(stats.rv_continuous):
        def _pdf(self, x):
            return x * 0 + 1

    with pytest.raises(UnsafeType):
        roundtrip(Own(name="own", a=0, b=1))


def test_rotations_keep_each_bit():
    for rotation in (
        Rotation.from_rotvec(POINTS),
        Rotation.from_quat([0.1, 0.2, 0.3, 0.4]),
    ):
        result = roundtrip(rotation)
        assert type(result) is Rotation and result.as_quat().shape == rotation.as_quat().shape
        assert result.as_quat().tobytes() == rotation.as_quat().tobytes()


@pytest.mark.parametrize("kind", [spatial.KDTree, spatial.cKDTree])
def test_neighbour_trees_answer_alike(kind):
    tree = kind(np.abs(POINTS), leafsize=4, **({"boxsize": 100.0} if kind is spatial.cKDTree else {}))
    result = roundtrip(tree)
    assert type(result) is kind and result.leafsize == 4
    for one, other in zip(result.query(POINTS[:4], k=3), tree.query(POINTS[:4], k=3)):
        np.testing.assert_array_equal(one, other)


def test_an_incremental_hull_says_what_to_do():
    with pytest.raises(UnsafeType, match=r"close\(\)"):
        roundtrip(spatial.ConvexHull(POINTS, incremental=True))


def _set(name, number):
    def change(value):
        setattr(value, name, number(getattr(value, name)))

    return change


FORGED = {
    "a spline of too few coefficients": ("BSpline", "c", lambda c: c[:2]),
    "a spline of a degree beyond its knots": ("BSpline", "k", lambda k: 500),
    "pieces without coefficients": ("PPoly", "c", lambda c: c[:, :1]),
    "pieces without an end": ("CubicSpline", "x", lambda x: x[:3]),
    "a grid larger than its values": ("RegularGridInterpolator", "values", lambda values: values[:2, :2]),
    "values of other points": ("LinearNDInterpolator", "values", lambda values: values[:2]),
    "a corner that is no point": ("Delaunay", "simplices", lambda simplices: simplices + 1000),
    "a neighbour that is no triangle": ("Delaunay", "neighbors", lambda neighbors: neighbors + 1000),
}


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("name", FORGED)
def test_numbers_that_c_code_trusts_are_checked(name):
    case, attribute, change = FORGED[name]
    value = RESULTS[case]()
    own = f"_{attribute}" if hasattr(value, f"_{attribute}") else attribute
    setattr(value, own, change(getattr(value, own)))
    with pytest.raises(VineyardError):
        roundtrip(value)


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("name", ["BSpline", "CubicSpline", "BPoly"])
def test_what_a_spline_stands_for_is_of_its_kind(name):
    """From scipy 1.18 on a spline holds another that does the work, and the module of a library."""
    value = RESULTS[name]()
    if not hasattr(value, "_delegate_to"):
        pytest.skip("splines hold their arrays themselves before scipy 1.18")
    others = [RESULTS[case]()._delegate_to for case in ("BSpline", "CubicSpline", "BPoly")]
    others = [other for other in others if type(other) is not type(value._delegate_to)]
    for other in (*others, types.SimpleNamespace(t=X, c=Y, k=3), None):
        value._delegate_to = other
        with pytest.raises(VineyardError):
            roundtrip(value)
    value = RESULTS[name]()
    value._xp = types.SimpleNamespace(empty=lambda length: types.SimpleNamespace())
    with pytest.raises(VineyardError):
        roundtrip(value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("scipy.distribution", "ttest_ind"),
        ("scipy.distribution", "os"),
        ("scipy.frozen", "norm", ("text",), {}, None),
        ("scipy.qhull", "Delaunay", {"_qhull": 1}),
        ("scipy.qhull", "tsearch", {}),
        ("scipy.rotation", "text"),
        ("scipy.neighbours", "KDTree", "text", 1, None),
        ("scipy.neighbours", "distance", "text", 1, None),
        ("scipy.histogram", ("a", "b"), None, None),
        ("scipy.object", "scipy.stats._distn_infrastructure", "rv_continuous"),
        ("scipy.object", "scipy.io._netcdf", "netcdf_file"),
        ("scipy.object", "scipy.spatial._ckdtree", "cKDTree"),
        ("numpy.ufunc", "os", "system"),
        ("numpy.ufunc", "numpy", "save"),
        ("numpy.limits", "memmap", "f8"),
        ("numpy.function", "numpy", "save"),
        ("numpy.function", "numpy", "load"),
        ("numpy.object", "numpy.lib._npyio_impl", "NpzFile"),
        ("held.module", "os"),
    ],
)
def test_what_is_no_value_is_refused(arguments):
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", arguments))))
