"""Values as bytes without a store: whole, safe to read, and encoded once also where they are stored after all."""

from __future__ import annotations

import copy
import datetime
import decimal
import pickle
import sys
import uuid
from subprocess import run
from typing import Any

import pytest

import vineyard_client as vc

VALUES: Any = [
    None,
    (1, 2.5, -0.0),
    {1: {"a", "b"}, None: b"\0" * 3000},
    2**200,
    datetime.datetime(2026, 3, 29, 1, tzinfo=datetime.timezone.utc),
    decimal.Decimal("1.50"),
    uuid.UUID(int=7),
    "half \ud800",
    bytearray(b"x" * 100_000),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_there_and_back(value: Any) -> None:
    """Same type, equal; the bytes are the caller's to keep in whatever holds bytes."""
    data = vc.dumps(value)
    assert type(data) is bytes
    for kept in (data, bytearray(data), memoryview(data)):
        again = vc.loads(kept)
        assert type(again) is type(value)
        assert again == value and repr(again) == repr(value)


def test_arrays_are_the_callers_to_change() -> None:
    """Nothing that is written to a value reaches the bytes, or another value that was read from them."""
    numpy = pytest.importorskip("numpy")
    data = vc.dumps(numpy.arange(1000.0))
    first: Any = vc.loads(data)
    first[:] = 7
    second: Any = vc.loads(data)
    assert second.tolist() == list(range(1000))


def test_reading_runs_nothing() -> None:
    """Bytes that are no value, are damaged, or hold a class that nobody allowed are refused."""
    data = vc.dumps((1, 2))
    for damaged in (b"", b"x" * 100, data[:-1], data[:90] + b"\xff" + data[91:], pickle.dumps((1, 2))):
        with pytest.raises(vc.ObjectCorrupted):
            vc.loads(damaged)
    wrong: Any
    for wrong in (5, "text", None, [1]):
        with pytest.raises(TypeError):
            vc.loads(wrong)
    import string

    with pytest.raises(vc.UnsafeType, match=r"string\.Template"):
        vc.dumps(string.Template("$x"))
    held = vc.dumps(string.Template("$x"), allowed_classes=["string.Template"])
    with pytest.raises(vc.UnsafeType):
        vc.loads(held)
    template: Any = vc.loads(held, allowed_classes=["string.Template"])
    assert template.template == "$x"


def test_an_encoded_value_says_what_it_is() -> None:
    """Type, summary and size are known before anybody decides what becomes of it."""
    with vc.encode((1, "a")) as encoded:
        assert (encoded.type, encoded.summary) == ("builtins.tuple", "tuple of 2 items: int, str")
        assert encoded.size == len(encoded.to_bytes()) == len(vc.dumps((1, "a")))
        assert repr(encoded) == f"<encoded builtins.tuple, {encoded.size} bytes>"
    assert repr(encoded) == f"<encoded builtins.tuple, {encoded.size} bytes, used up>"
    with pytest.raises(ValueError, match="is used up"):
        encoded.to_bytes()
    encoded.release()


def test_memory_is_let_go() -> None:
    """A bytearray can be resized again when the block has ended: nothing keeps a view of it."""
    value = bytearray(100_000)
    with vc.encode(value):
        with pytest.raises(BufferError):
            value.append(1)
    value.append(1)


@pytest.mark.integration
def test_an_encoded_value_can_be_put(client: vc.Client) -> None:
    """It is stored without being taken apart again, once; a reference finds it like every other value."""
    value = [bytearray(b"x" * 100_000), (1, 2)]
    expected = copy.deepcopy(value)
    with vc.encode(value) as encoded:
        size = encoded.size
        ref = client.put(encoded, labels={"a": "b"})
        value[0][0] = 0  # type: ignore[index]  # what was put is not changed by it
        with pytest.raises(ValueError, match="is used up"):
            client.put(encoded)
    assert client.get(ref) == expected
    assert ref.size == size
    assert dict(client.info(ref).labels) == {"a": "b"}


@pytest.mark.integration
def test_what_an_encoded_value_cannot_be(client: vc.Client) -> None:
    """It has a token and a form of its own."""
    ref = client.put(b"x")
    for options in ({"native": True}, {"same_as": ref}):
        with vc.encode(b"x") as encoded, pytest.raises(ValueError, match="put the value itself"):
            client.put(encoded, **options)  # type: ignore[arg-type]


@pytest.mark.integration
def test_a_put_that_fails_lets_go(client: vc.Client) -> None:
    """Also of what was encoded before: no view of the value's memory is left."""
    value = bytearray(client.status().memory_limit + 1)
    with vc.encode(value) as encoded, pytest.raises(vc.StoreFull):
        client.put(encoded)
    value.append(1)


def test_no_library_is_imported() -> None:
    """Plain values load none of the data libraries, on either side."""
    code = (
        "import sys, datetime, vineyard_client as vc; "
        "vc.loads(vc.dumps((1, {datetime.date(2024, 1, 1)}, float('nan')))); "
        "print([name for name in ('numpy', 'pandas', 'pyarrow', 'polars', 'scipy') if name in sys.modules])"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
