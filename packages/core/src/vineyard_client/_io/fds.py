"""A file descriptor with one owner."""

from __future__ import annotations

import os
import warnings
from typing import Optional

__all__ = ["OwnedFD"]


class OwnedFD:
    """Hold a file descriptor and close it exactly once.

    A received descriptor goes into one of these at once. ``close`` is idempotent; one that is dropped without being
    closed is closed then, with a ResourceWarning.
    """

    __slots__ = ("__weakref__", "_fd")

    def __init__(self, fd: int) -> None:
        self._fd: Optional[int] = fd

    @property
    def fd(self) -> int:
        """The descriptor's number.

        Raises:
            ValueError: it has been closed.
        """
        if self._fd is None:
            raise ValueError("This file descriptor has been closed.")
        return self._fd

    def close(self) -> None:
        """Close the descriptor; later calls do nothing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __repr__(self) -> str:
        """Show the number, or that it is closed."""
        return f"OwnedFD({'closed' if self._fd is None else self._fd})"

    def __del__(self) -> None:
        """Close what was forgotten, and say so."""
        if self._fd is not None:
            warnings.warn(f"{self!r} was never closed.", ResourceWarning, source=self, stacklevel=2)
            self.close()
