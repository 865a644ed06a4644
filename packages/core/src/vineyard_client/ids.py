"""Object ids in both of their forms, and tokens.

The server counts objects with unsigned 64-bit numbers; people and metadata write them as ``o`` and sixteen hex digits.
The highest bit marks a blob (v6d: ``src/common/util/uuid.h``). Ids may be reused after a server restart, so an id alone
never identifies a value: references carry a token as well.
"""

from __future__ import annotations

import re
from typing import NewType

from .exceptions import InvalidReference

__all__ = ["BLOB_BIT", "ObjectID", "format_id", "is_blob", "is_token", "parse_id"]

ObjectID = NewType("ObjectID", int)

BLOB_BIT = 1 << 63

_TEXT = re.compile(r"o[0-9a-f]{16}\Z")
_TOKEN = re.compile(r"[0-9a-f]{32}\Z")


def format_id(number: int) -> str:
    """Return the text form of an id: ``o`` and sixteen hex digits."""
    return f"o{number:016x}"


def parse_id(text: str) -> ObjectID:
    """Return the number behind the text form of an id.

    Raises:
        InvalidReference: the text has another shape.
    """
    if not isinstance(text, str) or not _TEXT.match(text):
        raise InvalidReference(f"{text!r} is not an object id.", "An id is the letter o and sixteen hex digits.")
    return ObjectID(int(text[1:], 16))


def is_blob(number: int) -> bool:
    """Tell whether an id belongs to a blob and not to a metadata object."""
    return bool(number & BLOB_BIT)


def is_token(text: object) -> bool:
    """Tell whether a value is the text form of a token: 32 hex digits."""
    return isinstance(text, str) and _TOKEN.match(text) is not None
