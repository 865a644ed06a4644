"""Object ids in both of their forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vineyard_client.exceptions import InvalidReference
from vineyard_client.ids import BLOB_BIT, format_id, is_blob, is_token, parse_id


@given(st.integers(0, (1 << 64) - 1))
def test_round_trip(number: int) -> None:
    """Every 64-bit number has one text form, which is read back as the number."""
    text = format_id(number)
    assert len(text) == 17
    assert parse_id(text) == number


@pytest.mark.parametrize("number, text", [(0, "o0000000000000000"), (BLOB_BIT | 0x2A, "o800000000000002a")])
def test_form(number: int, text: str) -> None:
    """The text form is the server's own: o and sixteen lower-case hex digits."""
    assert format_id(number) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o",
        "o123",
        "o00000000000000000",
        "O000000000000002a",
        "o000000000000002A",
        "x000000000000002a",
        "o000000000000002a\n",
        " o000000000000002a",
        "o+00000000000002a",
        "o٠٠00000000000000",
        None,
        42,
        b"o000000000000002a",
    ],
)
def test_anything_else_is_refused(text: object) -> None:
    """What is not exactly of that form is an InvalidReference that shows it."""
    with pytest.raises(InvalidReference) as caught:
        parse_id(text)  # type: ignore[arg-type]
    assert str(caught.value) == f"{text!r} is not an object id. An id is the letter o and sixteen hex digits."


def test_blobs_have_the_highest_bit() -> None:
    """The highest bit tells blobs from metadata objects."""
    assert is_blob(BLOB_BIT) and is_blob((1 << 64) - 1)
    assert not is_blob(0) and not is_blob(BLOB_BIT - 1)


@pytest.mark.parametrize("text", ["0" * 32, "0123456789abcdef" * 2])
def test_tokens(text: str) -> None:
    """A token is 32 lower-case hex digits."""
    assert is_token(text)


@pytest.mark.parametrize(
    "text", ["", "0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n", " " + "0" * 31, "g" * 32, None, 0, b"0" * 32]
)
def test_no_tokens(text: object) -> None:
    """Anything else is none."""
    assert not is_token(text)
