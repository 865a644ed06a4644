"""Every error that this package raises on purpose.

::

    VineyardError
    ├── ConnectionFailed   (also ConnectionError)   the server cannot be reached, or stopped answering
    │   ├── ServerStartFailed                       vineyardd is not installed, or did not come up
    │   └── DeadlineExceeded (also TimeoutError)    no answer in time
    ├── ProtocolError                               the peer does not speak vineyard's protocol
    ├── ServerError                                 the server refused a request, with its code
    ├── UnsupportedVersion                          server, envelope or reference from another generation
    ├── ObjectNotFound     (also KeyError)          the object is gone, or another one has its id
    ├── ObjectCorrupted                             the stored bytes are not what was put
    ├── StoreFull          (also MemoryError)       no room for the value
    ├── UnsafeType         (also TypeError)         a class that nobody allowed
    ├── InvalidReference   (also ValueError)        this is no reference
    ├── MigrationFailed                             the value could not be brought here
    └── TierFailed                                  a value could not be saved, or a saved one not be had
        ├── TierUnavailable                         the tier does not answer, or breaks off: trying again may help
        ├── TierRefused                             credentials, no such bucket or folder, no tier of that kind
        └── TierFull                                the disk or the bucket takes no more

Each error keeps what it knows in attributes and makes its text in ``__str__``; all of them survive pickling.
"""

from __future__ import annotations

from typing import Sequence

__all__ = [
    "ConnectionFailed",
    "DeadlineExceeded",
    "InvalidReference",
    "MigrationFailed",
    "ObjectCorrupted",
    "ObjectNotFound",
    "ProtocolError",
    "ServerError",
    "ServerStartFailed",
    "StoreFull",
    "TierFailed",
    "TierFull",
    "TierRefused",
    "TierUnavailable",
    "UnsafeType",
    "UnsupportedVersion",
    "VineyardError",
]


class VineyardError(Exception):
    """Root of all errors of this package.

    Args:
        what: one sentence, what went wrong, naming the object, file or host.
        hint: one sentence, what to do next.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        """Return the cause, then the next step."""
        # A KeyError would show its argument's repr; every error here shows a sentence.
        return f"{self.what} {self.hint}" if self.hint else self.what


class ConnectionFailed(VineyardError, ConnectionError):
    """The server cannot be reached, refused us, or went away in the middle of a call."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        # OSError takes two arguments for its number and its text.
        self.errno = self.strerror = None


class ServerStartFailed(ConnectionFailed):
    """No vineyardd is installed for this platform, or the one we started did not become ready."""


class DeadlineExceeded(ConnectionFailed, TimeoutError):
    """The server did not answer within the caller's timeout; the connection has been closed."""


class ProtocolError(VineyardError):
    """The peer sent something that vineyard's protocol does not allow; the connection has been closed."""


class ServerError(VineyardError):
    """The server answered a request with an error that has no class of its own.

    Args:
        what: one sentence with the server's own message.
        hint: what to do next.
        code: the server's status code (``src/common/util/status.h`` of v6d).
    """

    def __init__(self, what: str, hint: str = "", code: int = 255) -> None:
        super().__init__(what, hint)
        self.code = code
        self.args = (what, hint, code)


class UnsupportedVersion(VineyardError):
    """A server, envelope or reference of a version that this release cannot read."""


class ObjectNotFound(VineyardError, KeyError):
    """The object was deleted, its server restarted, or its id now belongs to another object."""


class ObjectCorrupted(VineyardError):
    """The bytes in the store are not the ones that were put there."""


class StoreFull(VineyardError, MemoryError):
    """The store has no room for the value.

    Args:
        what: one sentence with the sizes involved.
        hint: what to do next.
        requested: bytes that were asked for.
        used: bytes in use, where known.
        limit: the store's size in bytes, where known.
    """

    def __init__(
        self, what: str, hint: str = "", requested: int = 0, used: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(what, hint)
        self.requested = requested
        self.used = used
        self.limit = limit
        self.args = (what, hint, requested, used, limit)


class UnsafeType(VineyardError, TypeError):
    """A value holds a class or function that reading it would have to run, and nobody allowed it.

    Args:
        what: one sentence that names the class.
        hint: how to allow it, or what to do instead.
        name: ``module.qualname`` of what was refused.
        patterns: what to put into ``allowed_classes`` for all of it to be allowed, as far as it can be; none if nothing
            can.
        names: those of everything in the value that was refused, the first among them.
    """

    def __init__(
        self, what: str, hint: str = "", name: str = "", patterns: Sequence[str] = (), names: Sequence[str] = ()
    ) -> None:
        super().__init__(what, hint)
        self.name = name
        self.patterns = tuple(patterns)
        self.names = tuple(names) or ((name,) if name else ())
        self.args = (what, hint, name, self.patterns, self.names)


class InvalidReference(VineyardError, ValueError):
    """A mapping or string that should be a reference is not one: wrong shape, type or version."""


class MigrationFailed(VineyardError):
    """A value that lives on another host could not be brought to this one; the original is untouched."""


class TierFailed(VineyardError):
    """A value could not be saved in a tier, or a saved one could not be had from it."""


class TierUnavailable(TierFailed):
    """The tier, or the agent that speaks for it, does not answer or broke off; trying again may help."""


class TierRefused(TierFailed):
    """The tier does not let us do it: credentials, a bucket or folder that is not there, a URL that is none."""


class TierFull(TierFailed):
    """The disk, what may be used of it, or the bucket's quota is full."""
