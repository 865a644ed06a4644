"""Models, graphs, images, geometries and data sets of known libraries arrive; writing each compares what is read."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from codec_support import TOKEN, blob_of, decode, pickled, roundtrip

from vineyard_client._codec import encode, proof
from vineyard_client._codec.ops import FILL, MAKE
from vineyard_client._codec.table import table
from vineyard_client.exceptions import UnsafeType, VineyardError

DRAW = np.random.RandomState(0)
X = DRAW.standard_normal((60, 3))
CLASSES = (X[:, 0] > 0).astype(int)
THREE = np.arange(60) % 3


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Forged:
    """Is written as a test says."""


def made(name, *parts, filling=None):
    """Return a blob that makes one value of parts, which are written as the codec writes them."""
    head = MAKE, (name, *parts)
    table.reducers[Forged] = lambda writer, value: head if filling is None else (*head, filling, None, None, FILL)
    before = proof.demand(False)
    try:
        return memoryview(bytearray(b"".join(encode(Forged(), token=TOKEN).chunks)))
    finally:
        proof.demand(before)
        del table.reducers[Forged]


# --- xarray -----------------------------------------------------------------------------------------------------------


def test_a_dataset_of_a_file_leaves_the_file_behind(tmp_path):
    xr = pytest.importorskip("xarray")
    path = tmp_path / "data.nc"
    xr.Dataset({"a": ("x", [1.0, 2.0])}, coords={"x": [3, 4]}).to_netcdf(path, engine="scipy")
    with xr.open_dataset(path, engine="scipy") as data:
        with pytest.raises(UnsafeType, match=r"\.load\(\)"):
            roundtrip(data)
    loaded = xr.open_dataset(path, engine="scipy").load()
    result = roundtrip(loaded)
    assert result.identical(loaded) and result.encoding == loaded.encoding
    result.close()
    assert roundtrip(loaded.a).identical(loaded.a)
    loaded.close()


# --- networkx ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Graph", "DiGraph", "MultiGraph", "MultiDiGraph"])
def test_graphs_arrive_with_all_attributes(kind):
    nx = pytest.importorskip("networkx")
    graph = getattr(nx, kind)(name="roads")
    graph.add_node(1, colour="red")
    graph.add_edge(1, "two", weight=1.5)
    assert graph.nodes and graph.edges and graph.adj is not None and graph.degree is not None  # kept in the graph
    result = roundtrip(graph)
    assert type(result) is type(graph) and result.graph == {"name": "roads"}
    assert dict(result.nodes(data=True)) == dict(graph.nodes(data=True))
    assert list(result.edges(data=True)) == list(graph.edges(data=True))
    result.add_edge(1, 5)
    assert roundtrip(nx.freeze(nx.path_graph(3))).number_of_edges() == 2


# --- Pillow -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
)
def test_images_of_every_mode_arrive(mode):
    Image = pytest.importorskip("PIL.Image")
    image = Image.new(mode, (13, 7))
    image.info["dpi"] = (72, 72)
    result = roundtrip(image)
    assert (result.mode, result.size, result.info) == (mode, (13, 7), image.info)
    assert result.tobytes() == image.tobytes()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
def test_images_of_files_arrive_without_the_file(form):
    Image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    Image.fromarray(DRAW.randint(0, 255, (20, 30, 3)).astype("uint8")).save(file, form)
    image = Image.open(file)
    result = roundtrip(image)
    assert type(result) is type(image) and result.tobytes() == image.tobytes()
    assert result.resize((5, 5)).size == (5, 5)


def test_a_palette_with_alpha_arrives():
    Image = pytest.importorskip("PIL.Image")
    image = Image.new("RGBA", (4, 4), (1, 2, 3, 4)).quantize(4)
    assert roundtrip(image).convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize(
    "parts",
    [
        ("PIL.Image", "Image", "RGB", (10**6, 10**6), None, b"123"),
        ("PIL.Image", "Image", "RGB", (-1, 1), None, b""),
        ("PIL.Image", "Image", "nonsense", (1, 1), None, b"123"),
        ("PIL.Image", "Image", "P", (1, 1), ("RGB", b"1" * 10**5), b"1"),
        ("PIL.Image", "Exif", "RGB", (1, 1), None, b"123"),
        ("PIL.EpsImagePlugin", "Ghostscript", "RGB", (1, 1), None, b"123"),
        ("os", "system", "RGB", (1, 1), None, b"123"),
    ],
)
def test_forged_images_are_refused(parts):
    pytest.importorskip("PIL")
    with pytest.raises(VineyardError):
        decode(made("PIL.image", *parts))


# --- geometries -------------------------------------------------------------------------------------------------------


def test_geometries_arrive():
    shapely = pytest.importorskip("shapely")
    import shapely.geometry as sg

    for geometry in (
        *(sg.Point(1, 2), sg.Point(1, 2, 3), sg.LineString([(0, 0), (1, 1)]), sg.Polygon([(0, 0), (1, 1), (1, 0)])),
        *(sg.MultiPoint([(0, 0), (1, 1)]), sg.GeometryCollection([sg.Point(1, 2)]), sg.Polygon()),
        sg.LinearRing([(0, 0), (1, 1), (1, 0)]),
    ):
        result = roundtrip(geometry)
        assert type(result) is type(geometry) and result.wkt == geometry.wkt
    if hasattr(shapely, "set_srid"):
        assert shapely.get_srid(roundtrip(shapely.set_srid(sg.Point(1, 2), 4326))) == 4326
        tree = roundtrip(shapely.STRtree([sg.Point(1, 2), sg.Point(5, 5)]))
        assert tree.nearest(sg.Point(4, 4)) == 1
    for forged in (b"", b"\x01" * 9, b"\x01\x03\x00\x00\x00\xff\xff\xff\x7f"):
        with pytest.raises(VineyardError):
            decode(made("shapely.geometry", forged, False))


def test_frames_of_geometries_arrive_with_their_system():
    gpd = pytest.importorskip("geopandas")
    from shapely.geometry import Point

    frame = gpd.GeoDataFrame({"a": [1, 2]}, geometry=[Point(1, 2), None], crs=4326)
    result = roundtrip(frame)
    assert type(result) is gpd.GeoDataFrame and result.crs == frame.crs and result.geometry.name == "geometry"
    assert result.geometry.iloc[0].equals(Point(1, 2)) and result.geometry.iloc[1] is None
    assert type(roundtrip(frame.geometry)) is gpd.GeoSeries
    assert roundtrip(frame.geometry.values).crs == frame.crs


def test_a_system_is_never_read_from_a_file():
    pyproj = pytest.importorskip("pyproj")
    assert roundtrip(pyproj.CRS(4326)) == pyproj.CRS(4326)
    for text in ("+init=/etc/passwd:1", "+proj=utm +init=epsg:4326", "@/etc/passwd"):
        with pytest.raises(VineyardError):
            decode(blob_of(pickled(("MAKE", ("pyproj.CRS", "CRS", text)))))


# --- statsmodels ------------------------------------------------------------------------------------------------------


def _frame():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["x", "z", "w"])
    frame["z"] = frame.z.abs() + 1
    frame["y"] = 1 + 2 * frame.x + DRAW.standard_normal(60) * 0.1
    frame["n"] = DRAW.poisson(3, 60)
    frame["g"] = list("abc") * 20
    return frame


def _fits():
    sm = pytest.importorskip("statsmodels.api")
    import statsmodels.formula.api as smf

    frame = _frame()
    exog = sm.add_constant(frame[["x", "z"]])
    return {
        "OLS": (sm.OLS(frame.y, exog).fit(), exog),
        "arrays": (sm.OLS(frame.y.values, exog.values).fit(), exog.values),
        "GLM": (sm.GLM(frame.n, exog, family=sm.families.Poisson()).fit(), exog),
        "Poisson": (sm.Poisson(frame.n, exog).fit(disp=0), exog),
        "NegativeBinomial": (sm.NegativeBinomial(frame.n, exog).fit(disp=0), exog),
        "RLM": (sm.RLM(frame.y, exog).fit(), exog),
        "a formula": (smf.ols("y ~ x + np.log(z) + C(g)", frame).fit(), frame.head()),
        "a formula of GLM": (smf.glm("n ~ x * z - 1", frame, family=sm.families.Poisson()).fit(), frame.head()),
    }


@pytest.mark.parametrize(
    "name",
    ["OLS", "arrays", "GLM", "Poisson", "NegativeBinomial", "RLM", "a formula", "a formula of GLM"],
)
def test_results_of_statsmodels_arrive_and_predict(name):
    results, known = _fits()[name]
    result = roundtrip(results)
    assert type(result) is type(results)
    np.testing.assert_allclose(np.asarray(result.predict(known)), np.asarray(results.predict(known)))
    assert str(result.summary().tables[1]) == str(results.summary().tables[1])


@pytest.mark.parametrize("name", ["ARIMA", "SARIMAX", "ExponentialSmoothing", "AutoReg"])
def test_time_series_arrive_and_forecast(name):
    pytest.importorskip("statsmodels")
    import pandas as pd
    import statsmodels.tsa.api as tsa

    series = pd.Series(np.cumsum(X[:, 0]), index=pd.date_range("2024-01-01", periods=60))
    options = {"ARIMA": {"order": (1, 1, 1)}, "SARIMAX": {"order": (1, 0, 0)}, "AutoReg": {"lags": 2}}
    fit = {"SARIMAX": {"disp": 0}}
    results = getattr(tsa, name)(series, **options.get(name, {"trend": "add"})).fit(**fit.get(name, {}))
    np.testing.assert_allclose(roundtrip(results).forecast(3), results.forecast(3))


def _own(column):
    return column


def test_a_formula_that_calls_a_function_of_somebodys_is_refused():
    smf = pytest.importorskip("statsmodels.formula.api")
    with pytest.raises(UnsafeType, match="Compute that column before"):
        roundtrip(smf.ols("y ~ _own(x)", _frame()).fit())


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ __import__('os').system('true')",
        "y ~ np.load('x')",
        "y ~ os.system('true')",
        "y ~ x.__class__",
        "y ~ (lambda: 1)()",
        "y ~ [z for z in x]",
        "y ~ getattr(x, 'a')",
        "y ~ {exec('1')}",
        "y ~ `a` + eval('1')",
        "y ~ np.log.__globals__",
        "y ~ C(x).real",
        "y ~ f'{x}'",
        1,
    ],
)
def test_formulas_that_could_run_code_are_not_evaluated(formula):
    smf = pytest.importorskip("statsmodels.formula.api")
    from vineyard_client._codec.adapters.statsmodels_results import harmless

    assert not harmless(formula)
    data = smf.ols("y ~ x", _frame()).fit().model.data
    state = {**data.__getstate__(), "formula": formula}
    kind = type(data)
    with pytest.raises(VineyardError):
        decode(
            made(
                "statsmodels.object", kind.__module__, kind.__qualname__, filling=("statsmodels.object", (state, None))
            )
        )


# --- boosted trees ----------------------------------------------------------------------------------------------------


def _boosted(library):
    if library == "lightgbm":
        lightgbm = pytest.importorskip("lightgbm")
        options = {"n_estimators": 4, "verbose": -1, "n_jobs": 1, "min_child_samples": 2}
        yield lightgbm.LGBMClassifier(**options).fit(X, CLASSES)
        yield lightgbm.LGBMClassifier(**options).fit(X, THREE)
        yield lightgbm.LGBMRegressor(**options).fit(X, X[:, 0])
        yield lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, CLASSES), 3)
    else:
        xgboost = pytest.importorskip("xgboost")
        options = {"n_estimators": 4, "n_jobs": 1}
        yield xgboost.XGBClassifier(**options).fit(X, CLASSES)
        yield xgboost.XGBClassifier(**options).fit(X, THREE)
        yield xgboost.XGBRegressor(booster="dart", **options).fit(X, X[:, 0])
        yield xgboost.XGBRegressor(booster="gblinear", **options).fit(X, X[:, 0])


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_boosted_models_arrive_and_predict(library):
    for model in _boosted(library):
        result = roundtrip(model)
        assert type(result) is type(model)
        np.testing.assert_array_equal(result.predict(X), model.predict(X))


def test_their_data_sets_say_what_to_store():
    xgboost = pytest.importorskip("xgboost")
    with pytest.raises(UnsafeType, match="arrays or the frame"):
        roundtrip(xgboost.DMatrix(X))


@pytest.mark.parametrize(
    "change",
    [
        ("left_child=1", "left_child=9999"),
        ("split_feature=", "split_feature=99 "),
        ("leaf_value=", "leaf_value=1 "),
        ("num_leaves=", "num_leaves=9"),
        ("left_child=1", "left_child=0"),
    ],
)
def test_forged_trees_of_lightgbm_are_refused(change):
    pytest.importorskip("lightgbm")
    model = next(_boosted("lightgbm")).booster_.model_to_string()
    assert change[0] in model
    with pytest.raises(VineyardError):
        decode(made("lightgbm.booster", model.replace(*change), filling=("lightgbm.booster", {})))


@pytest.mark.parametrize("field", ["left_children", "right_children", "split_indices", "split_conditions"])
def test_forged_trees_of_xgboost_are_refused(field):
    import json

    pytest.importorskip("xgboost")
    booster = next(_boosted("xgboost")).get_booster()
    model = json.loads(booster.save_raw("json"))
    model["learner"]["gradient_booster"]["model"]["trees"][0][field][0] = 10**6
    if field == "split_conditions":
        model["learner"]["gradient_booster"]["model"]["trees"][0][field].pop()
    with pytest.raises(VineyardError):
        decode(
            made("xgboost.booster", json.dumps(model).encode(), booster.save_config(), filling=("xgboost.booster", {}))
        )


@pytest.mark.parametrize("name", ["_handle", "handle", "__class__", "append"])
def test_memory_of_a_booster_cannot_be_set(name):
    pytest.importorskip("lightgbm")
    model = next(_boosted("lightgbm")).booster_.model_to_string()
    with pytest.raises(VineyardError):
        decode(made("lightgbm.booster", model, filling=("lightgbm.booster", {name: 1})))


# --- pydantic, sympy, pint --------------------------------------------------------------------------------------------


def test_types_of_pydantic_arrive():
    pydantic = pytest.importorskip("pydantic", minversion="2.10")
    import pydantic_core

    url = pydantic.AnyUrl("http://user@host/path")
    assert roundtrip(url) == url and type(roundtrip(url)) is pydantic.AnyUrl
    assert roundtrip(pydantic.PostgresDsn("postgres://u:p@h/d")) == pydantic.PostgresDsn("postgres://u:p@h/d")
    assert roundtrip(pydantic.SecretStr("x")).get_secret_value() == "x"
    assert roundtrip(pydantic.SecretBytes(b"x")).get_secret_value() == b"x"
    assert roundtrip(pydantic.NameEmail("a", "a@b.c")) == pydantic.NameEmail("a", "a@b.c")
    assert roundtrip(pydantic_core.MultiHostUrl("mongodb://a,b/c")) == pydantic_core.MultiHostUrl("mongodb://a,b/c")
    assert roundtrip(pydantic_core.PydanticUndefined) is pydantic_core.PydanticUndefined
    assert roundtrip(pydantic_core.TzInfo(3600)) == pydantic_core.TzInfo(3600)
    for arguments in (("pydantic_core.url", "SchemaValidator", "x"), ("pydantic.object", "pydantic.main", "BaseModel")):
        with pytest.raises(VineyardError):
            decode(blob_of(pickled(("MAKE", arguments))))


def test_expressions_arrive_as_they_were_written():
    sp = pytest.importorskip("sympy")
    x, y = sp.symbols("x y", real=True)
    for value in (
        *(
            x,
            sp.Symbol("n", integer=True),
            sp.sin(x) ** 2 + sp.pi * sp.E * sp.I,
            sp.Rational(1, 3),
            sp.Float("1.5", 30),
        ),
        *(sp.oo, sp.nan, sp.true, sp.S.Half, sp.Eq(x, y), sp.Piecewise((1, x > 0), (2, True)), sp.And(x > 0, y > 0)),
        *(sp.Matrix([[1, x], [y, 2]]), sp.ImmutableMatrix([[1, x]]), sp.SparseMatrix([[1, 0], [0, x]])),
        *(sp.Integral(sp.exp(-(x**2)), (x, 0, sp.oo)), sp.Sum(x**2, (x, 1, 10)), sp.Interval(0, 1)),
        *(sp.Add(1, 1, evaluate=False), sp.Mul(2, x, 3, evaluate=False), sp.Lambda(x, x**2), sp.Dummy("d")),
        sp.solve(x**2 - 2, x, dict=True),
    ):
        assert roundtrip(value) == value


def test_an_undefined_function_arrives(unproven):
    sp = pytest.importorskip("sympy")
    x = sp.Symbol("x")
    value = sp.Derivative(sp.Function("f")(x), x)
    assert roundtrip(value) == value


@pytest.mark.parametrize(
    "arguments",
    [
        ("sympy.node", "sympy.core.add", "Add", ("__import__('os').system('touch pwned')",)),
        ("sympy.node", "sympy.integrals.integrals", "Integral", ("__import__('os')",)),
        ("sympy.node", "sympy.core.sympify", "sympify", ()),
        ("sympy.node", "sympy.parsing.sympy_parser", "parse_expr", ("1",)),
        ("sympy.node", "os", "system", ()),
        ("sympy.applied", "f", {}, ("__import__('os')",)),
        ("sympy.matrix", "MutableDenseMatrix", 1, 1, ["__import__('os')"]),
        ("sympy.matrix", "MutableDenseMatrix", 10**9, 10**9, []),
        ("sympy.constant", "register"),
        ("sympy.constant", "__call__"),
        ("sympy.symbol", "Symbol", "x", {"real": "yes"}),
        ("sympy.float", (0, 1, 0, 1), -5),
    ],
)
def test_sympy_never_reads_text(arguments):
    pytest.importorskip("sympy")
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", arguments))))


def test_quantities_arrive_in_the_registry_of_the_application():
    pint = pytest.importorskip("pint")
    units = pint.UnitRegistry()
    pint.set_application_registry(units)
    for value in (3 * units.m / units.s, np.arange(3.0) * units.kg, units.Quantity(2.5), units.m**2):
        result = roundtrip(value)
        assert type(result) is type(value) and np.all(result == value)
    text = ("pint.quantity", "3 m", {})
    for arguments in (text, ("pint.quantity", 1, {"__import__('os')": 1}), ("pint.unit", {"m": "x"})):
        with pytest.raises(VineyardError):
            decode(blob_of(pickled(("MAKE", arguments))))


def test_what_pandas_and_polars_group_by():
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=5, freq="h"), "a": range(5)})
    for grouper in (pd.Grouper(key="a"), pd.Grouper(level=0), pd.Grouper(key="when", freq="2h")):
        read = roundtrip(grouper)
        assert type(read) is type(grouper) and vars(read).keys() == vars(grouper).keys()
        pd.testing.assert_frame_equal(
            frame.groupby(read)["a"].sum().to_frame(), frame.groupby(grouper)["a"].sum().to_frame()
        )
    assert roundtrip(pd.NamedAgg("a", "sum")) == pd.NamedAgg("a", "sum")
    for field in (pl.Field("a", pl.Int64), pl.Field("b", pl.List(pl.Struct({"c": pl.String})))):
        assert roundtrip(field) == field and type(roundtrip(field)) is pl.Field
    schema = pl.Schema({"a": pl.Int64, "b": pl.List(pl.String)})
    assert roundtrip(schema) == schema and type(roundtrip(schema)) is pl.Schema
