"""The only six names that a pickle stream of ours may contain.

A stream never names a class or function of Python or of a library. Where ordinary pickle would, ours names one of these
operations and gives it plain strings; the reader binds each to a method that checks its arguments (``reader.Reader``).
So nothing on the unpickler's stack is callable but these six, and classes which the policy lets through as values.

=========  ===========================================================================================
``MAKE``   ``(name, *arguments)``: a value of a type that an adapter knows, from validated parts
``NEW``    ``(module, qualname, arguments, keywords)``: ``cls.__new__`` of a class that the caller allowed
``CALL``   ``(module, qualname, arguments)``: a class, or an exactly named function, that the caller allowed
``NAME``   ``(module, qualname)``: the class (or exactly named function) itself, as a value
``STATE``  ``(object, state)``: state of an object of such a class, set after it was made, so that cycles close
``FILL``   ``(object, (name, content))``: the same for a type that an adapter knows
=========  ===========================================================================================

The path of this module and the names are part of the stored format.
"""

from __future__ import annotations

__all__ = ["CALL", "FILL", "MAKE", "NAME", "NEW", "STATE", "Op"]


class Op:
    """A placeholder that pickles as a global of this module, and which only the reader gives a meaning."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    def __call__(self, *args: object) -> object:
        # The pickler insists on a callable; that nobody calls it here is what makes the stream inert.
        raise TypeError(f"{self!r} has a meaning in a stored value only")


MAKE = Op("MAKE")
NEW = Op("NEW")
CALL = Op("CALL")
NAME = Op("NAME")
STATE = Op("STATE")
FILL = Op("FILL")
