"""Types that other packages declare: by a class's name, as plain data, made again by a function of theirs."""

from __future__ import annotations

from typing import Any

import codec_models
import pytest
from codec_support import Assembler, blob, blob_of, decode, roundtrip

import vineyard_client as vc
from vineyard_client import ObjectCorrupted, UnsafeType
from vineyard_client._codec import table


class Point:
    """What no rule of ours lets through."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __reduce__(self) -> Any:
        raise AssertionError("nobody asks")


class Point3(Point):
    """A class of its own."""


NAME = f"{__name__}.Point"


def _make(x: Any, y: Any) -> Point:
    if type(x) is not int:
        raise ValueError("no number")
    return Point(x, y)


@pytest.fixture(autouse=True)
def declared() -> Any:
    """Declare points, and forget them."""
    whole = table.by_name, table.makers, table.declared
    kept = [each.copy() for each in whole]
    vc.declare_type("shapes.point", NAME, take=lambda point: (point.x, point.y), make=_make)
    yield
    for each, before in zip(whole, kept):
        each.clear()
        each.update(before)


def test_there_and_back() -> None:
    """Objects arrive, in other values, shared, and small as plain data."""
    point = Point(1, {"a": [None, True, 2.5, b"x", (1, "b")]})
    first, second, _ = roundtrip([point, point, codec_models.Colour.RED])
    assert type(first) is Point and first is second
    assert (first.x, first.y) == (point.x, point.y)
    assert __name__.encode() not in bytes(blob(point))
    assert vc.explain(point).arrives


def test_only_that_class() -> None:
    """A class that derives from it is another, and says so."""
    with pytest.raises(UnsafeType, match="Point3"):
        blob(Point3(1, 2))


def test_the_last_declaration_counts() -> None:
    """A module that is loaded again declares again."""
    vc.declare_type("shapes.point", NAME, take=lambda point: (point.x,), make=lambda x: Point(x, "none"))
    with vc.encode(Point(1, "none")) as encoded:
        assert vc.loads(encoded.to_bytes()).y == "none"  # type: ignore[attr-defined]


def test_parts_are_plain_when_written() -> None:
    """What is no plain data is refused where it is written, and named."""
    cyclic: Any = []
    cyclic.append(cyclic)
    assert roundtrip(Point(1, cyclic)).y[0][0] is not None
    for part in (object(), [Point(1, 2)], {"a": (codec_models.Plain(),)}, {codec_models.Plain: 1}, True.__class__):
        with pytest.raises(UnsafeType, match=r"it holds a .*(object|Point|Plain|type)"):
            blob(Point(1, part))


def test_parts_are_plain_when_read() -> None:
    """A forged stream hands the function nothing but plain data, and what it raises is a damaged value."""
    made: Any = []
    vc.declare_type("shapes.point", NAME, take=lambda point: (point.x, point.y), make=lambda *parts: made.append(parts))
    plain = Assembler().call("MAKE", "shapes.point", 1, {"a": [2.5]})
    decode(blob_of(plain.finish()))
    assert made.pop() == (1, {"a": [2.5]})
    for part in (Assembler().call("NAME", "", "builtins.str"), Assembler().call("MAKE", "complex", 1.0, 2.0)):
        with pytest.raises(ObjectCorrupted, match="is part of a shapes"):
            decode(blob_of(Assembler().call("MAKE", "shapes.point", 1, [part]).finish()))
    assert not made


def test_what_the_function_raises() -> None:
    """It says what is wrong."""
    with pytest.raises(ObjectCorrupted, match="no number"):
        decode(blob_of(Assembler().call("MAKE", "shapes.point", "a", 2).finish()))


@pytest.mark.parametrize("name", ["point", "numpy.point", "complex", "passive.new", ""])
def test_names_that_are_taken(name: str) -> None:
    """Nobody can stand in for what we know ourselves."""
    with pytest.raises(ValueError, match="begin it with the name of your package"):
        vc.declare_type(name, NAME, take=lambda point: (), make=lambda: None)
