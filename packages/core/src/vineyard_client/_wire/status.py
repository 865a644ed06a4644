"""The server's error codes as exceptions.

Codes are those of v6d's ``src/common/util/status.h``. A code without a class of its own becomes ``ServerError`` and
keeps its number.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple, Type

from ..exceptions import ConnectionFailed, ObjectNotFound, ServerError, StoreFull, VineyardError

__all__ = ["CODE_NOT_ENOUGH_MEMORY", "CODE_NOT_SEALED", "CODE_OBJECT_NOT_EXISTS", "error_from"]

CODE_OBJECT_NOT_EXISTS = 12
CODE_NOT_SEALED = 14
CODE_NOT_ENOUGH_MEMORY = 41

_GONE = "It was deleted, or the server restarted since it was put."
_FULL = "Delete objects that nobody needs (vineyard-client list), or give vineyardd a larger --size."

_ERRORS: Dict[int, Tuple[Type[VineyardError], str]] = {
    CODE_OBJECT_NOT_EXISTS: (ObjectNotFound, _GONE),
    31: (ConnectionFailed, "The server is still starting: try again in a moment."),
    33: (ConnectionFailed, "Check the user name and password, and what the server's log says."),
    34: (ConnectionFailed, "Check the user name and password, and what the server's log says."),
    CODE_NOT_ENOUGH_MEMORY: (StoreFull, _FULL),
}


def error_from(message: Dict[str, Any], doing: str) -> VineyardError:
    """Return the exception for an error reply.

    Args:
        message: the reply, with ``code`` and ``message``.
        doing: what was asked, as the request's name.
    """
    code = message.get("code")
    text = str(message.get("message") or "no reason given").strip()
    if not isinstance(code, int) or isinstance(code, bool):
        return ServerError(f"vineyardd refused {doing} with the code {code!r}: {text}.")
    if code in _ERRORS:
        error, hint = _ERRORS[code]
        return error(f"vineyardd refused {doing} with code {code}: {text}.", hint)
    return ServerError(f"vineyardd refused {doing} with code {code}: {text}.", code=code)
