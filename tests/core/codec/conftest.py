"""Make the modules that these tests share importable, and offer the round trip that nearly all of them need."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))


@pytest.fixture
def roundtrip():
    """Encode a value, lay its chunks out as one blob, and decode that."""
    from codec_support import roundtrip

    return roundtrip


@pytest.fixture(scope="session", autouse=True)
def warm_libraries():
    """Let libraries that keep threads or descriptors open for good open them before anybody counts."""
    try:
        import polars as pl
    except ImportError:
        return
    import io

    file = io.BytesIO()
    pl.DataFrame({"a": [1]}).lazy().collect().write_ipc(file)
    pl.read_ipc(io.BytesIO(file.getvalue()))
