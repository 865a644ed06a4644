"""What an object of a tier is called: parts that people can browse by, then the value's token.

A key is ``PART/PART/…/TOKEN``. Each part is percent-quoted, so it holds letters, digits and ``-._~%`` only; one longer
than 120 bytes is cut, and ends with 8 hex digits of its hash. So it fits into a file's name (255 bytes) and a bucket's
key (1,024 bytes for all). Without parts the first two digits of the token stand for one, to spread files over folders.

Keys come from references, which may have been forged: what ``check_key`` lets through leads to no place outside of a
tier, and to no value but that of the token.
"""

from __future__ import annotations

import hashlib
import re
from typing import Sequence
from urllib.parse import quote

from ..exceptions import InvalidReference
from ..ids import is_token

__all__ = ["MAX_KEY", "check_key", "is_key", "make_key", "quote_part"]

# Bytes that S3 allows for a key, less what a prefix may take.
MAX_KEY = 900

_MAX_PART = 120  # also in _PART
_PART = re.compile(r"[A-Za-z0-9._~%-]{1,120}\Z")
_DOTS = {"": "%00", ".": "%2E", "..": "%2E%2E"}


def make_key(parts: Sequence[str], token: str) -> str:
    """Return the key of a value.

    Args:
        parts: what stands before the token, such as names of a DAG and a task; any texts.
        token: the value's.

    Raises:
        ValueError: there are so many parts that the key would be too long.
    """
    key = "/".join([*map(quote_part, parts), token] if parts else [token[:2], token])
    if len(key) > MAX_KEY:
        raise ValueError(f"A key of {len(key)} bytes is too long, {MAX_KEY} are allowed: give fewer or shorter parts.")
    return key


def quote_part(text: str) -> str:
    """Return a text as one part of a key."""
    # An undecodable byte of a file name is a lone surrogate, which UTF-8 does not take.
    quoted = _DOTS.get(text) or quote(text, safe="", errors="surrogatepass")
    if len(quoted) <= _MAX_PART:
        return quoted
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    # Not in the middle of a %XX.
    return re.sub(r"%.?\Z", "", quoted[: _MAX_PART - 9]) + "~" + digest


def is_key(key: object) -> bool:
    """Tell whether a text has the shape of a key."""
    if not isinstance(key, str) or len(key) > MAX_KEY:
        return False
    *parts, token = key.split("/")
    return is_token(token) and bool(parts) and all(_PART.match(part) and part not in _DOTS for part in parts)


def check_key(key: object, token: str) -> None:
    """Return if a key can be that of a value.

    Raises:
        InvalidReference: it has another shape, or leads to another value.
    """
    if not is_key(key) or not str(key).endswith("/" + token):
        raise InvalidReference(
            f"{key!r:.200} is not the key of the copy of a value with the token {token}.", "The reference was edited."
        )
