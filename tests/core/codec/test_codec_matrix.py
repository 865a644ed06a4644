"""Lossless: every kind of value comes back with the same type and equal in everything that a program can see."""

from __future__ import annotations

import pytest
from codec_matrix import LIBRARIES, Unavailable, assert_same, cases, make
from codec_support import blob, decode

CASES = [pytest.param(case, id=f"{library}: {name}") for library in LIBRARIES for name, case in cases(library)]


@pytest.mark.parametrize("case", CASES)
def test_comes_back_the_same(case):
    """Alone; and in a container, twice: both are one object again, and what stands around it is not disturbed."""
    try:
        value = make(case)
    except Unavailable as exc:
        pytest.skip(str(exc))
    assert_same(value, decode(blob(value)))
    first, second, rest = decode(blob([value, {"again": value}, "rest"]))
    assert_same(value, first)
    # Numbers have no identity that anybody could rely on.
    assert second["again"] is first or type(value) in (int, float)
    assert rest == "rest"
