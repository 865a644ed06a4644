"""Keys: what they look like, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vineyard_client as vc
from vineyard_client._tiers.keys import MAX_KEY, check_key, is_key, make_key, quote_part

TOKEN = "0123456789abcdef0123456789abcdef"


@given(st.lists(st.text(st.characters()), max_size=6))
def test_every_text_makes_a_key(parts: list[str]) -> None:
    """Whatever the parts are, the key has the shape of one and ends with the token."""
    key = make_key(parts, TOKEN)
    assert is_key(key)
    check_key(key, TOKEN)
    assert len(key.split("/")) == (len(parts) or 1) + 1
    assert all(0 < len(part) <= 120 for part in key.split("/"))


def test_readable() -> None:
    """People recognise their names in a key."""
    parts = ["production", "etl", "manual__2026-11-25T00:00:00+00:00", "load", "-1", "return_value"]
    assert make_key(parts, TOKEN) == (
        f"production/etl/manual__2026-11-25T00%3A00%3A00%2B00%3A00/load/-1/return_value/{TOKEN}"
    )
    assert make_key([], TOKEN) == f"01/{TOKEN}"


def test_long_parts_stay_apart() -> None:
    """What is cut differs by its hash, and ends in no half escape."""
    names = {quote_part("ü" * 100 + str(n)) for n in range(50)}
    assert len(names) == 50
    assert not any("%~" in name or "%C~" in name for name in names)


def test_too_many_parts() -> None:
    """A key that no bucket would take is refused."""
    with pytest.raises(ValueError, match=f"{MAX_KEY} are allowed"):
        make_key(["x" * 100] * 10, TOKEN)


@pytest.mark.parametrize(
    "key",
    [
        *(None, 5, "", TOKEN, f"/{TOKEN}", f"../{TOKEN}", f"a/../{TOKEN}", f"a/./{TOKEN}", f"a b/{TOKEN}"),
        *(f"a//{TOKEN}", f"a/{TOKEN[:-1]}", f"a/{TOKEN}\n", f"a\\..\\{TOKEN}", "a/" * 450 + TOKEN, f"\0/{TOKEN}"),
        f"a/{'f' * 32}",
    ],
)
def test_forged(key: object) -> None:
    """A key that leads elsewhere, or to another value, is refused."""
    with pytest.raises(vc.InvalidReference, match="is not the key"):
        check_key(key, TOKEN)
