"""Hand the memory of a memoryview to pickle, so that garbage collection does not stumble over it.

Before CPython 3.12.7 the interpreter crashes when it breaks up a cycle of garbage in which a ``PickleBuffer`` shows a
memoryview (python/cpython#77894 and #122306). An exception that a function keeps in a variable is such a cycle, with
whatever its frames refer to. So there the ``PickleBuffer`` shows something else with the same memory.
"""

from __future__ import annotations

import pickle
import sys

from vineyard_client._forks import importing

__all__ = ["lend"]

_MENDED = sys.version_info >= (3, 12, 7)


def lend(view: memoryview) -> pickle.PickleBuffer:
    """Return the memory of a C-contiguous view. What is read-only and no whole ``bytes`` may be copied for that."""
    if _MENDED:
        return pickle.PickleBuffer(view)
    if view.readonly or not view.nbytes:
        whole = type(view.obj) is bytes and len(view.obj) == view.nbytes
        content = view.obj if whole else view.tobytes()
        return pickle.PickleBuffer(content if view.readonly else bytearray())
    with importing:
        import ctypes  # which most processes never need

    return pickle.PickleBuffer((ctypes.c_char * view.nbytes).from_buffer(view))
