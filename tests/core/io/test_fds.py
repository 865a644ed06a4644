"""A file descriptor with one owner."""

from __future__ import annotations

import gc
import os

import pytest

from vineyard_client._io.fds import OwnedFD


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_close_is_idempotent() -> None:
    """The descriptor is closed once: its number may be somebody else's by the second call."""
    owned = OwnedFD(os.open(os.devnull, os.O_RDONLY))
    number = owned.fd
    assert repr(owned) == f"OwnedFD({number})"
    owned.close()
    assert not is_open(number)
    other = os.open(os.devnull, os.O_RDONLY)
    assert other == number
    owned.close()
    assert is_open(other)
    os.close(other)


def test_a_closed_one_has_no_number() -> None:
    """Using a closed descriptor is an error, not a use of whatever has its number now."""
    owned = OwnedFD(os.open(os.devnull, os.O_RDONLY))
    owned.close()
    assert repr(owned) == "OwnedFD(closed)"
    with pytest.raises(ValueError, match="has been closed"):
        owned.fd  # noqa: B018


def test_a_lost_one_is_closed() -> None:
    """Nothing leaks when an exception takes the owner away."""
    owned = OwnedFD(os.open(os.devnull, os.O_RDONLY))
    number = owned.fd
    del owned
    gc.collect()
    assert not is_open(number)
