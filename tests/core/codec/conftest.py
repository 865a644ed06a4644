"""Make the modules that these tests share importable, and keep what libraries do at first use out of the tests."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))


@pytest.fixture(scope="session", autouse=True)
def warm_libraries():
    """Let libraries warn about themselves, and open what they keep open for good, before anybody counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (
            "numpy",
            "pandas",
            "pandas.testing",
            "pyarrow",
            "pyarrow.compute",
            "scipy.sparse",
            "xarray",
            "torch",
        ):
            try:
                importlib.import_module(name)
            except ImportError:
                continue
        try:
            import pyproj

            pyproj.CRS(4326)  # opens its database, for good
        except ImportError:
            pass
        try:
            import polars as pl
        except ImportError:
            return
        file = io.BytesIO()
        pl.DataFrame({"a": [1]}).lazy().collect().write_ipc(file)
        pl.read_ipc(io.BytesIO(file.getvalue()))


@pytest.fixture
def unproven():
    """Do not read what is written: for values that say themselves that they come back as something else, and costs."""
    from vineyard_client._codec import proof

    before = proof.demand(False)
    yield
    proof.demand(before)


@pytest.fixture
def nothing_ran():
    """No method of the passive classes of the tests runs."""
    import passive_models

    passive_models.ran.clear()
    yield
    assert not passive_models.ran
