"""Packages whose classes are all trusted: an object is made empty and gets its state back, and no function is called.

``trust("sklearn", reconstructors=[…])`` declares one, in the ``install`` of that package's adapter. From then on
an object of any class that the package itself defines needs no permission:

* It is written as its own ``__reduce_ex__`` takes it apart, and read by ``object.__new__`` (or that of the plain type
  which it derives from) and by putting attributes, slots and content back; neither ``__new__`` nor ``__setstate__`` nor
  any other method of the class runs. A reduction that has something else called is refused, with one exception:
* ``reconstructors`` are exact names, ``module.qualname``, of functions of the package that may be called with any
  arguments, and of classes whose own ``__new__`` and ``__setstate__`` may run with any: C and Cython code that checks
  what it gets. Show that for each of them, in a test.
* ``names`` are exact names of classes and functions of the package that may be values themselves, as attributes of its
  objects. A class there may be called with anything by whoever can write to the store, so its constructor has to be as
  harmless as a reconstructor.

Never trusted are classes of classes, classes with a ``__del__``, exceptions, what lies in a module of tests or called
``__main__``, and what a module of the package merely imported from elsewhere.
"""

from __future__ import annotations

import copyreg
import functools
from typing import TYPE_CHECKING, Any, Dict, FrozenSet, Iterable, NamedTuple, Tuple

from vineyard_client.exceptions import UnsafeType

from ..makings import base_of, give
from ..ops import FILL, MAKE
from ..parts import checked, damaged, refused, set_state
from ..policy import lookup, qualified
from ..table import table
from ..writer import own_reduction, reduce_instance

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

__all__ = ["install", "trust"]


class _Trust(NamedTuple):
    reconstructors: FrozenSet[str]
    names: FrozenSet[str]


_trusted: Dict[str, _Trust] = {}
_NOT_IN = frozenset(["__main__", "conftest", "test", "tests", "testing", "_testing"])


def trust(package: str, *, reconstructors: Iterable[str] = (), names: Iterable[str] = ()) -> None:
    """Declare that all classes of a package are trusted; see above for what that means.

    Args:
        package: the top-level package.
        reconstructors: exact names of its functions that may be called, and of classes that rebuild themselves.
        names: exact names of its classes and functions that may be values.
    """
    table.load("trusted")
    _trusted[package] = _Trust(frozenset(reconstructors), frozenset(names))
    table.families[package] = _reduce
    table.namers[package] = _reduce_name


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    cls = type(value)
    if isinstance(value, type) or _why_not(cls) is not None:
        return reduce_instance(writer, value)
    reduced = own_reduction(value)
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 5:
        raise _own_way(cls, "it pickles in a way of its own")
    function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    head: Tuple[Any, ...]
    exact = _is_listed(cls, "reconstructors")
    base = base_of(cls)[1]
    if function is copyreg.__newobj__ and arguments[0] is cls:  # type: ignore[attr-defined]
        parts = tuple(arguments[1:]) if exact else base.make_parts(value)
        if len(arguments) - 1 > len(parts) or not (exact or _can_be_made(cls)):
            raise _own_way(cls, "its class has to be made by code of its own")
        head = "trusted.new", cls.__module__, cls.__qualname__, parts
    elif function is copyreg._reconstructor and arguments[0] is cls and _can_be_made(cls):  # type: ignore[attr-defined]
        head = "trusted.new", cls.__module__, cls.__qualname__, base.make_parts(value)
    elif _is_listed(function, "reconstructors"):
        head = "trusted.call", function.__module__, function.__qualname__, tuple(arguments)
    else:
        writer.name_of(function)  # which may say more about it
        raise _own_way(cls, f"reading it would have to call {qualified(function)}")
    if not exact and not _is_plain(state):
        raise _own_way(cls, "its state is of a form of its own")
    if (items is not None or pairs is not None) and base.take is None:
        raise _own_way(cls, "it has items in a way of its own")
    content = base.take(value) if base.take is not None and not exact else None
    if state is None and content is None:
        return MAKE, head
    return MAKE, head, ("trusted", (state, content)), None, None, FILL


def _reduce_name(thing: Any) -> Tuple[Any, ...] | None:
    return (MAKE, ("trusted.name", thing.__module__, thing.__qualname__)) if _is_listed(thing, "names") else None


def _own_way(cls: type, why: str) -> UnsafeType:
    return UnsafeType(
        f"A {qualified(cls)} cannot be stored: {why}.", "Store the data it stands for instead.", qualified(cls)
    )


def _is_listed(thing: Any, kind: str) -> bool:
    module = getattr(thing, "__module__", None)
    trusted = _trusted.get(module.partition(".")[0]) if isinstance(module, str) else None
    return trusted is not None and qualified(thing) in getattr(trusted, kind)


def _is_plain(state: Any) -> bool:
    if type(state) is tuple and len(state) == 2:
        return type(state[0]) in (dict, type(None)) and type(state[1]) is dict
    return type(state) in (dict, type(None))


@functools.lru_cache(maxsize=4096)
def _can_be_made(cls: type) -> bool:
    """Tell whether an object can be made past the class's own ``__new__``: C code may not let itself be passed over."""
    kind, base = base_of(cls)
    if kind not in (object, dict, list, set):
        return True
    try:
        base.make(cls)
    except TypeError:
        return False
    return True


def _why_not(cls: type) -> str | None:
    if issubclass(cls, (type, BaseException)):
        return "it is a class of classes or an exception"
    if any("__del__" in vars(base) for base in cls.__mro__):
        return "it does something when it is let go"
    if not _NOT_IN.isdisjoint(cls.__module__.split(".")):
        return "it belongs to tests"
    return None


def _find(module: Any, qualname: Any, kind: str) -> Any:
    name = f"{module}.{checked(qualname, str)}"
    top = checked(module, str).partition(".")[0]
    table.load(top)
    trusted = _trusted.get(top)
    if trusted is None or (kind and name not in getattr(trusted, kind)) or not _NOT_IN.isdisjoint(module.split(".")):
        raise refused(f"it uses {name}, which nobody trusts", name)
    found = lookup(module, qualname)
    if qualified(found) != name:
        raise refused(f"what stands under the name {name} is {qualified(found)}", name)
    return found


def _make_new(reader: Reader, module: Any, qualname: Any, parts: Any) -> Any:
    cls = _find(module, qualname, "")
    if not isinstance(cls, type) or _why_not(cls) is not None:
        raise refused(f"it makes a {module}.{qualname}", f"{module}.{qualname}")
    if _is_listed(cls, "reconstructors"):
        return cls.__new__(cls, *checked(parts, tuple))
    return base_of(cls)[1].make(cls, *checked(parts, tuple))


def _make_call(reader: Reader, module: Any, qualname: Any, arguments: Any) -> Any:
    return _find(module, qualname, "reconstructors")(*checked(arguments, tuple))


def _make_name(reader: Reader, module: Any, qualname: Any) -> Any:
    return _find(module, qualname, "names")


def _fill(reader: Reader, value: Any, filling: Any) -> None:
    state, content = checked(filling, tuple)
    if _is_listed(type(value), "reconstructors"):
        set_state(value, state)
        return
    if not _is_plain(state):
        raise damaged(f"the state of a {qualified(type(value))} is a {type(state).__name__}")
    give(value, *(state if type(state) is tuple else (state, None)))
    if content is not None:
        fill = base_of(type(value))[1].fill
        if fill is None:
            raise damaged(f"a {qualified(type(value))} has content")
        fill(value, content)


def install(table: Table) -> None:
    """Declare how objects of trusted packages are read; ``trust`` adds the packages."""
    table.makers.update({"trusted.new": _make_new, "trusted.call": _make_call, "trusted.name": _make_name})
    table.filler("trusted", _fill, "trusted.new", "trusted.call", must=False)
