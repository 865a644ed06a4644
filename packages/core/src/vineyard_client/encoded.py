"""Values as bytes, without a store: ``dumps`` and ``loads``, and ``encode`` where it is not decided yet where to.

The bytes are those that a store would hold, see ``_codec.envelope``: same type, same value, and reading them runs no
code that nobody allowed. They need no server, can be kept in a database or a file, and are for readers that trust them
no more than they would trust a store.

An envelope carries the token of the reference that leads to it. To bytes that somebody keeps no reference leads, so
``loads`` compares it with none.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Type, Union

from . import _codec

__all__ = ["EncodedValue", "declare_type", "dumps", "encode", "loads"]


class EncodedValue:
    """A value taken apart by ``encode``: to be stored with ``Client.put``, or to be had as bytes.

    It shows the value's memory, so the value must not change before it is used; it is used up by ``Client.put``, and
    let go by the end of a ``with`` block.

    Attributes:
        type: what the value is, e.g. ``pandas.DataFrame``.
        summary: what it is, for people: rows and columns, shape, length; never its contents.
        size: bytes that it takes.
    """

    def __init__(self, encoded: _codec.Encoded, token: bytes, value: object) -> None:
        self.type = encoded.type_name
        self.summary = encoded.summary
        self.size = encoded.nbytes
        self._token = token
        self._encoded: Optional[_codec.Encoded] = encoded
        self._value = value

    def to_bytes(self) -> bytes:
        """Return the bytes, for ``loads``.

        Raises:
            ValueError: it is used up.
        """
        return b"".join(self._there().chunks)

    def _take(self) -> Tuple[object, _codec.Encoded, bytes]:
        """Return what ``Client.put`` needs, value, pieces and token, and use it up: two values never share a token.

        Raises:
            ValueError: it is used up already.
        """
        encoded, self._encoded = self._there(), None
        value, self._value = self._value, None
        return value, encoded, self._token

    def release(self) -> None:
        """Let go of the value's memory. Idempotent."""
        encoded, self._encoded = self._encoded, None
        self._value = None
        if encoded is not None:
            encoded.release()

    def _there(self) -> _codec.Encoded:
        if self._encoded is None:
            raise ValueError(f"This encoded {self.type} is used up: it was put, or let go. Encode the value again.")
        return self._encoded

    def __enter__(self) -> EncodedValue:
        """Return the encoded value itself."""
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: object, traceback: object) -> None:
        """Let go of the value's memory."""
        self.release()

    def __repr__(self) -> str:
        """Show type, size and state."""
        return f"<encoded {self.type}, {self.size} bytes{', used up' if self._encoded is None else ''}>"


def encode(value: object, *, allowed_classes: Sequence[str] = (), passive_classes: bool = True) -> EncodedValue:
    """Take a value apart without copying its large buffers, for who has to know its size before it is stored.

    ::

        with encode(value) as encoded:
            kept = encoded.to_bytes() if encoded.size <= 4096 else client.put(encoded)

    Args:
        value: anything made of Python's and the known data libraries' types.
        allowed_classes: patterns of further classes that the value may hold.
        passive_classes: whether dataclasses, named tuples and their like need no permission; see ``connect``.

    Raises:
        UnsafeType: the value holds a class that readers would not accept.
    """
    token = os.urandom(16)
    trust: Dict[str, Any] = {"allowed_classes": allowed_classes, "passive_classes": passive_classes}
    return EncodedValue(_codec.encode(value, token=token, **trust), token, value)


def dumps(value: object, *, allowed_classes: Sequence[str] = (), passive_classes: bool = True) -> bytes:
    """Return a value as bytes, as a store would hold it; no server is needed.

    Args:
        value: anything made of Python's and the known data libraries' types.
        allowed_classes: patterns of further classes that the value may hold.
        passive_classes: whether dataclasses, named tuples and their like need no permission; see ``connect``.

    Raises:
        UnsafeType: the value holds a class that readers would not accept.
    """
    with encode(value, allowed_classes=allowed_classes, passive_classes=passive_classes) as encoded:
        return encoded.to_bytes()


def loads(
    data: Union[bytes, bytearray, memoryview], *, allowed_classes: Sequence[str] = (), passive_classes: bool = True
) -> object:
    """Return the value in what ``dumps`` returned: same type, equal, and the caller's to change.

    Args:
        data: the bytes; they are copied, once.
        allowed_classes: patterns of further classes that the value may hold.
        passive_classes: whether dataclasses, named tuples and their like need no permission; see ``connect``.

    Raises:
        UnsafeType: the value holds a class that was not allowed; nothing of it was run.
        ObjectCorrupted: the bytes are not those of a value.
        UnsupportedVersion: another generation of this package wrote them, or a library that the value needs is missing.
    """
    blob = memoryview(bytearray(memoryview(data)))
    return _codec.decode(blob, token=None, allowed_classes=allowed_classes, passive_classes=passive_classes)


def declare_type(name: str, *classes: str, take: Callable[[Any], Tuple[Any, ...]], make: Callable[..., object]) -> None:
    """Have objects of a class stored without permission, as plain data: for packages that know a library we do not.

    ::

        vc.declare_type(
            "mypkg.point", "somelib.geometry.Point", take=lambda point: (point.x, point.y), make=mypkg.points.make
        )

    Nothing is imported: the class is known by its name when an object of it comes by. The same declaration has to be
    made where values are written and where they are read, before. Declaring it again replaces it.

    Args:
        name: what the type is called in stored values, for as long as these are kept: your package, a dot, and a word.
        classes: full names, ``module.qualname``, of classes whose objects are of the type; of one under several names,
            for example, in releases of its library. Classes derived from them are not meant.
        take: returns what an object is made of: a tuple of plain data, that is None, bool, int, float, str, bytes, and
            tuples, lists and dicts of these.
        make: makes an object of such parts. They come from stored bytes and may be any plain data: check them, and
            raise what you like if they are wrong.

    Raises:
        ValueError: the name has no package in front, or one that this client knows itself.
    """
    _codec.declare(name, classes, take, make)
