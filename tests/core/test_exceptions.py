"""The error tree: its shape, texts, attributes and pickling."""

from __future__ import annotations

import pickle
from typing import Any, Dict, List, Tuple, Type

import pytest

from vineyard_client import exceptions
from vineyard_client.exceptions import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidReference,
    MigrationFailed,
    ObjectCorrupted,
    ObjectNotFound,
    ProtocolError,
    ServerError,
    ServerStartFailed,
    StoreFull,
    TierFailed,
    TierFull,
    TierRefused,
    TierUnavailable,
    UnsafeType,
    UnsupportedVersion,
    VineyardError,
)

BASES: Dict[Type[VineyardError], Tuple[type, ...]] = {
    ConnectionFailed: (VineyardError, ConnectionError, OSError),
    ServerStartFailed: (ConnectionFailed,),
    DeadlineExceeded: (ConnectionFailed, TimeoutError),
    ProtocolError: (VineyardError,),
    ServerError: (VineyardError,),
    UnsupportedVersion: (VineyardError,),
    ObjectNotFound: (VineyardError, KeyError, LookupError),
    ObjectCorrupted: (VineyardError,),
    StoreFull: (VineyardError, MemoryError),
    UnsafeType: (VineyardError, TypeError),
    InvalidReference: (VineyardError, ValueError),
    MigrationFailed: (VineyardError,),
    TierFailed: (VineyardError,),
    TierUnavailable: (TierFailed,),
    TierRefused: (TierFailed,),
    TierFull: (TierFailed,),
}

# Further arguments of the classes that have any, and the attributes they become.
FURTHER: Dict[Type[VineyardError], Dict[str, Any]] = {
    ServerError: {"code": 14},
    StoreFull: {"requested": 10, "used": 20, "limit": 30},
    UnsafeType: {"name": "os.system"},
}

CLASSES: List[Type[VineyardError]] = [VineyardError, *BASES]


def test_the_tree_is_complete() -> None:
    """Each class that the module has is in the table above, in __all__ and in the picture in the docstring."""
    defined = {name for name, value in vars(exceptions).items() if isinstance(value, type)}
    assert defined == {cls.__name__ for cls in CLASSES} == set(exceptions.__all__)
    assert all(name in str(exceptions.__doc__) for name in defined)


@pytest.mark.parametrize("cls", BASES)
def test_builtin_bases(cls: Type[VineyardError]) -> None:
    """Whoever catches the builtin error that people expect catches ours."""
    assert issubclass(cls, BASES[cls])


@pytest.mark.parametrize("cls", CLASSES)
def test_text(cls: Type[VineyardError]) -> None:
    """The text is the cause, then the next step; the repr of neither, as KeyError would have it."""
    assert str(cls("It broke.", "Mend it.")) == "It broke. Mend it."
    assert str(cls("It broke.")) == "It broke."
    error = cls("It broke.", "Mend it.")
    assert (error.what, error.hint) == ("It broke.", "Mend it.")


@pytest.mark.parametrize("cls", CLASSES)
def test_pickling(cls: Type[VineyardError]) -> None:
    """An error crosses a process boundary with all it knows."""
    error = cls("It broke.", "Mend it.", **FURTHER.get(cls, {}))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is cls
        assert str(again) == str(error)
        assert vars(again) == vars(error) and again.args == error.args
        assert {name: getattr(again, name) for name in FURTHER.get(cls, {})} == FURTHER.get(cls, {})


def test_defaults_of_further_attributes() -> None:
    """What an error does not know reads as unknown, not as an attribute error."""
    assert ServerError("x").code == 255
    full = StoreFull("x")
    assert (full.requested, full.used, full.limit) == (0, None, None)
    assert UnsafeType("x").name == ""


@pytest.mark.parametrize("cls", [ConnectionFailed, DeadlineExceeded, ServerStartFailed])
def test_no_error_number_is_made_up(cls: Type[ConnectionFailed]) -> None:
    """An OSError made of two texts would have the first as its errno; ours has none."""
    error = cls("It broke.", "Mend it.")
    assert error.errno is None
    assert error.strerror is None
