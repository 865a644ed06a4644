"""Whole packages whose plain objects may be stored: an object is made empty and gets its state, and nothing else runs.

Libraries of models have hundreds of classes, and more with each release; a table of them would be out of date on the
day it is printed. What makes a class safe to read can be checked instead, at the class:

1. It is defined in a part of the package that the adapter names; a module is imported only if it lies there. So no
   tests, examples, servers or command lines of the package are imported because a stream says so.
2. It and all its bases are Python classes of such packages, or Python's own plain types: the object comes from
   ``object.__new__`` (or that of ``dict``, ``list``, ``tuple``, ``str`` …) and never from a ``__new__`` of the library.
3. None of them has a ``__del__``, or a ``__setstate__`` beyond those that the adapter lists after reading them. The
   state goes into ``__dict__`` and slots directly, past ``__setattr__`` and properties; content of a plain base goes in
   by that base's own methods (``makings``).
4. State is set once, on an object that this stream made.
5. A pickle stream can call what is on its stack, and append to it. So an object whose class has ``__call__``,
   ``append``, ``extend``, ``add`` or ``__setitem__`` is an empty shell of another class until the whole value has been
   read, and no attribute may stand in for these. A function or class is shut away in a ``Held`` until the object that
   it belongs to takes it as an attribute. What is left that can run is ``__hash__`` and ``__eq__`` of keys.

What the methods of the object do later, when the reader's code calls them, is the business of the library: it works on
data of the writer's choice. Where its C code trusts numbers, the adapter lists ``checks``, which look at the finished
object, after everything that the stream may still change has come to rest.
"""

from __future__ import annotations

import abc
import copyreg
import functools
import importlib
import sys
import types
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Tuple

from vineyard_client.exceptions import UnsafeType, UnsupportedVersion

from ..makings import attributes_of, base_of, give
from ..ops import FILL, MAKE
from ..parts import checked, damaged, refused
from ..policy import qualified
from ..table import table as known
from ..writer import own_reduction, reduce_instance, reduce_name

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

__all__ = ["Held", "Package"]

_HARMLESS_HOMES = frozenset(["abc", "builtins", "collections", "collections.abc", "numbers", "types", "typing"])
_MODULES_ASIDE = frozenset(["__main__", "conftest", "examples", "setup", "test", "testing", "tests", "_testing"])
# What the opcodes of a pickle call on an object that is no plain list, set or dict.
_REACHED = ("append", "extend", "add", "__setitem__")
# Modules of functions that objects hold because they work with arrays of several libraries.
_NUMERIC = frozenset(
    [
        "numpy",
        "scipy._lib.array_api_compat.numpy",
        "scipy._external.array_api_compat.numpy",
        "sklearn.externals.array_api_compat.numpy",
        "sklearn.externals._array_api_compat.numpy",
        "sklearn.utils._array_api._NumPyAPIWrapper",
    ]
)
_TEXTS = frozenset(["__doc__", "__name__", "__networkx_cache__"])
# Types of functions that are written in C: those of numpy, and of Cython.
_DISPATCHERS = frozenset(["_ArrayFunctionDispatcher", "cython_function_or_method"])

_packages: Dict[str, Package] = {}
_shells: Dict[type, Any] = {}
_shelled: Dict[type, Any] = {}


class Held:
    """A function, class or module, or a plain container of these, on its way into an attribute; it cannot be called."""

    __slots__ = ("content",)

    def __init__(self, content: Any) -> None:
        self.content = content


def _stands_under_its_name(cls: type) -> bool:
    """Tell whether reading, which goes by the name, will find this class."""
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is cls


class Package:
    """One library, and what of it may be rebuilt.

    Args:
        name: its top-level module.
        parts: modules of it, with a space between them and without the name in front, in or below which the classes are
            defined. An empty one (the text begins with a space) is the top-level module itself, not what is below.
        setters: qualified names of classes whose ``__setstate__`` was read and may run, with a dict.
        holding: those of the setters that keep what the state holds and ask nothing of it.
        direct: qualified names of classes whose ``__setstate__`` does no more than to update ``__dict__``, or is not
            needed; it does not run.
        functions: modules of which any function or class may be an attribute, named likewise, or ``module:function``
            for one.
        checks: class name -> what looks at a finished object of it, or of a class derived from it, and raises.
        unshelled: qualified names of classes that need no shell, because ``__call__`` and the like do no more than to
            look something up; objects of some layouts cannot have one.
        metaclasses: qualified names of metaclasses, besides Python's own, that do nothing when an object is made.
        remedy: what to do with objects that are refused.
    """

    def __init__(
        self,
        name: str,
        *,
        parts: str,
        setters: Iterable[str] = (),
        holding: Iterable[str] = (),
        direct: Iterable[str] = (),
        functions: str = "",
        checks: Dict[str, Callable[[Any], None]] | None = None,
        unshelled: Iterable[str] = (),
        metaclasses: Iterable[str] = (),
        remedy: str = "Store the data it stands for instead.",
    ) -> None:
        self.name = name
        self.parts = frozenset(f"{name}.{part}" if part else name for part in parts.split(" "))
        self.setters = frozenset(setters)
        self.holding = frozenset(holding)
        self.direct = frozenset(direct)
        self.functions = frozenset(
            f"{name}{part}" if part[:1] == ":" else f"{name}.{part}" for part in functions.split()
        )
        self.checks = checks or {}
        self.unshelled = frozenset(unshelled)
        self.metaclasses = frozenset(metaclasses)
        self.remedy = remedy
        # What runs in the place of a ``__setstate__``, because it looks at the state first.
        self.own_setters: Dict[str, Callable[[Any, Any], None]] = {}
        self._objections: Dict[type, str] = {}

    def install(self, table: Table) -> None:
        """Declare the package: all its objects that no other adapter claims."""
        _packages[self.name] = self
        table.families[self.name] = self.reduce
        table.whole.add(self.name)
        table.makers[f"{self.name}.object"] = self.make
        table.makers[f"{self.name}.function"] = self.make_function
        table.filler(f"{self.name}.object", _fill, f"{self.name}.object", must=False, holds=True)
        table.makers.update({"held": _make_held, "held.module": _make_held_module})
        table.reducers[Held] = _reduce_held

    # --- what is allowed ------------------------------------------------------------------------------------------

    def covers(self, module: str) -> bool:
        """Tell whether a module may be imported for a class in it."""
        words = module.split(".")
        if _MODULES_ASIDE.intersection(words) or any(word.startswith("test_") for word in words):
            return False
        return module in self.parts or any(".".join(words[:length]) in self.parts for length in range(2, len(words)))

    def objection(self, cls: type) -> str:
        """Say why objects of a class cannot be rebuilt; an empty text if they can."""
        reason = self._objections.get(cls)
        if reason is None:
            reason = self._objections[cls] = self._judge(cls)
        return reason

    def _judge(self, cls: type) -> str:
        if type(cls) not in (type, abc.ABCMeta) and qualified(type(cls)) not in self.metaclasses:
            return f"its class is made by {qualified(type(cls))}"
        if issubclass(cls, BaseException):
            return "it is an exception"
        kind, plain = base_of(cls)
        for base in cls.__mro__:
            if base is kind or base.__module__ in _HARMLESS_HOMES:
                continue
            package = _packages.get(base.__module__.partition(".")[0])
            name = qualified(base)
            if package is None or not package.covers(base.__module__):
                return f"it derives from {name}" if base is not cls else "that part of the package is not known"
            setter = vars(base).get("__setstate__")
            if "__del__" in vars(base):
                return f"{name} does something when it is let go"
            if setter is not None and not _of_dataclass(setter) and name not in package.setters | package.direct:
                return f"{name} does something of its own when its state is set"
        if not _stands_under_its_name(cls):
            return "what stands under its name is something else"
        try:
            # Python looks at the memory that an object needs, and refuses where C code of the library expects more.
            if _needs_shell(cls):
                _unveil(plain.make(_shell(cls)), cls)
            elif kind is object:
                plain.make(cls)
        except TypeError as exc:
            return f"it cannot be made empty ({exc})"
        return ""

    def find(self, module: Any, qualname: Any) -> Any:
        """Return the class or function of a name in a covered module.

        Raises:
            UnsafeType: it is in none.
            UnsupportedVersion: it is not there in the installed version.
        """
        if type(module) is not str or type(qualname) is not str or not self.covers(module):
            raise refused(f"it uses {module}.{qualname}, which is no class that this release knows", str(module))
        try:
            found: Any = importlib.import_module(module)
            for position, part in enumerate(qualname.split(".")):
                if position and not isinstance(found, type):
                    raise AttributeError(part)
                found = getattr(found, part)
        except (ImportError, AttributeError) as exc:
            version = getattr(importlib.import_module(self.name), "__version__", "")
            raise UnsupportedVersion(
                f"The stored value holds a {module}.{qualname}, which {self.name} {version} here does not have.",
                f"Install the version of {self.name} that wrote it where it is read.",
            ) from exc
        if qualified(found) != f"{module}.{qualname}":
            raise refused(f"what stands under {module}.{qualname} is {qualified(found)}", f"{module}.{qualname}")
        return found

    def knows(self, function: Any) -> bool:
        """Tell whether something is a function or class that may be an attribute."""
        if isinstance(function, type):
            if not self.objection(function):
                return True
        elif not _is_function(function):
            return False
        home = function.__module__
        return f"{home}:{function.__qualname__}" in self.functions or any(
            f"{home}.".startswith(f"{module}.") for module in self.functions
        )

    # --- writing --------------------------------------------------------------------------------------------------

    def reduce(self, writer: Writer, value: Any) -> Tuple[Any, ...]:
        """Write an object of the package."""
        cls = type(value)
        reason = self.objection(cls)
        if reason:
            try:
                if writer.policy.why_not_passive(cls) is None and known.load("passive") and known.passive is not None:
                    return known.passive(writer, value)
                return reduce_instance(writer, value)
            except UnsafeType as exc:
                raise UnsafeType(f"A {qualified(cls)} cannot be stored: {reason}.", self.remedy, exc.name) from exc
        kind, plain = base_of(cls)
        if kind is tuple:
            # Whatever their own reduction repeats: fields and, beside them, attributes.
            reduced: Any = copyreg.__newobj__, (cls,), attributes_of(value)[0]  # type: ignore[attr-defined]
        else:
            reduced = own_reduction(value)
        function, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
        made = arguments[0] if function in _EMPTY else None
        if made is not cls or setter is not None or ((items or pairs) is not None and plain.take is None):
            raise UnsafeType(
                f"A {qualified(cls)} cannot be stored: it is put together by {qualified(function)}, which this release "
                "does not know.",
                self.remedy,
                qualified(cls),
            )
        # A dict whose attributes are its items.
        state = True if state is value else _held_state(state)
        content = plain.take(value) if plain.take is not None else None
        head = MAKE, (f"{self.name}.object", cls.__module__, cls.__qualname__, *plain.make_parts(value))
        if state is None and content is None:
            return head
        return (*head, (f"{self.name}.object", (state, content)), None, None, FILL)

    # --- reading --------------------------------------------------------------------------------------------------

    def make(self, reader: Reader, module: Any, qualname: Any, *parts: Any) -> Any:
        """Make an empty object of a class of the package."""
        cls = self.find(module, qualname)
        if not isinstance(cls, type) or self.objection(cls):
            raise refused(f"{module}.{qualname} is no class that can be rebuilt", f"{module}.{qualname}")
        kind, plain = base_of(cls)
        fields = getattr(cls, "_fields", None)
        if kind is tuple and type(fields) is tuple and len(checked(parts[0], tuple)) != len(fields):
            raise damaged(f"a {qualname} has another number of fields")
        if _needs_shell(cls):
            value = plain.make(_shell(cls), *parts)
            reader.unveil(functools.partial(_unveil, value, cls))
        else:
            value = plain.make(cls, *parts)
        for base in cls.__mro__:
            package = _packages.get(base.__module__.partition(".")[0])
            check = package.checks.get(base.__qualname__) if package is not None else None
            if check is not None:
                reader.check(functools.partial(_check, reader, check, value))
        return value

    def make_function(self, reader: Reader, module: Any, qualname: Any) -> Held:
        """Find a function or class, and shut it away."""
        function = self.find(module, qualname)
        if not self.knows(function):
            raise refused(f"{module}.{qualname} is no function that this release knows", f"{module}.{qualname}")
        return Held(function)


_EMPTY = (copyreg.__newobj__, copyreg._reconstructor)  # type: ignore[attr-defined]


def _fill(reader: Reader, value: Any, filling: Any) -> None:
    """Give an object its content and state."""
    cls = _shelled.get(type(value), type(value))
    state, content = checked(filling, tuple)
    fill = base_of(cls)[1].fill
    if content is not None:
        if fill is None:
            raise damaged(f"a {qualified(cls)} has content")
        fill(value, content)
    if state is not None:
        _set_state(reader, value, cls, state)


def _set_state(reader: Reader, value: Any, cls: Any, state: Any) -> None:
    if state is True and base_of(cls)[0] is dict:
        object.__setattr__(value, "__dict__", value)
        return
    setter = getattr(cls, "__setstate__", None)
    if setter is not None and _of_dataclass(setter):
        names = list(cls.__dataclass_fields__)
        if type(state) is not list or len(state) != len(names):
            raise damaged(f"a {cls.__qualname__} has another number of fields")
        fields = dict(zip(names, state))
        state, setter = ((None, fields) if "__slots__" in vars(cls) else fields), None
    owner = next((base for base in cls.__mro__ if "__setstate__" in vars(base)), None)
    if setter is not None and owner is not None and qualified(owner) in _package_of_class(owner).setters:
        if type(state) is dict:
            state = _attributes(cls, state)
        setter = _package_of_class(owner).own_setters.get(qualified(owner), setter)
        # When everything that it may look at is there.
        holds = qualified(owner) in _package_of_class(owner).holding
        reader.later(functools.partial(_call_setter, reader, setter, value, checked(state, dict, tuple), holds))
        return
    slots: Any = None
    if type(state) is tuple and len(state) == 2:
        state, slots = state
    give(value, _attributes(cls, checked(state or {}, dict)), _attributes(cls, checked(slots or {}, dict)))


def _call_setter(reader: Reader, setter: Any, value: Any, state: Any, holds: bool) -> None:
    """Have an object set its state, whose code works with what is in it unless it only keeps that."""
    if not holds:
        reader.check_quiet((state,), qualified(type(value)))
    setter(value, state)


def _check(reader: Reader, check: Callable[[Any], None], value: Any) -> None:
    reader.check_quiet((getattr(value, "__dict__", {}),), qualified(type(value)))
    check(value)


def _attributes(cls: Any, state: Dict[Any, Any]) -> Dict[str, Any]:
    attributes = {key: _release(item) for key, item in state.items()}
    for key in attributes:
        if type(key) is not str or key in _REACHED or (key[:2] == key[-2:] == "__" and key not in _TEXTS):
            raise refused(f"the state of a {cls.__qualname__} has the attribute {key!r}", qualified(cls))
    return attributes


def _package_of_class(cls: type) -> Package:
    return _packages[cls.__module__.partition(".")[0]]


def _of_dataclass(setter: Any) -> bool:
    return getattr(setter, "__module__", "") == "dataclasses" and setter.__name__ == "_dataclass_setstate"


def _needs_shell(cls: type) -> bool:
    kind = base_of(cls)[0]
    if qualified(cls) in _package_of_class(cls).unshelled:
        return False
    return any(getattr(cls, name, None) is not getattr(kind, name, None) for name in _REACHED) or any(
        "__call__" in vars(base) for base in cls.__mro__
    )


def _shell(cls: Any) -> Any:
    """Return a class without methods that can be reached, whose objects are laid out in memory like a class's own."""
    shell = _shells.get(cls)
    if shell is None:
        lowest = cls  # the base that decided how the objects are laid out
        while _layout(lowest.__base__) == _layout(cls):
            lowest = lowest.__base__
        parent = lowest.__base__
        if lowest is base_of(cls)[0]:
            parent = lowest
        body: Dict[str, Any] = dict.fromkeys(name for name in (*_REACHED, "__call__") if hasattr(parent, name))
        if "__slots__" in vars(lowest):
            body["__slots__"] = vars(lowest)["__slots__"]
        shell = _shells[cls] = type(parent)(f"shell of a {cls.__name__}", (parent,), body)
        if hasattr(shell, "__abstractmethods__"):
            shell.__abstractmethods__ = frozenset()
        _shelled[shell] = cls
    return shell


def _layout(cls: Any) -> Tuple[int, ...]:
    return cls.__basicsize__, cls.__itemsize__, cls.__dictoffset__, cls.__weakrefoffset__


def _unveil(value: Any, cls: type) -> None:
    object.__setattr__(value, "__class__", cls)


# --- functions as attributes ------------------------------------------------------------------------------------------


def _is_function(thing: Any) -> bool:
    return isinstance(thing, (types.FunctionType, types.BuiltinFunctionType)) or type(thing).__name__ in _DISPATCHERS


def _package_of(function: Any) -> Package | None:
    """Return the package of a function or class that may be an attribute and can be found under its name, else None."""
    if not _is_function(function) and not isinstance(function, type):
        return None
    package = _packages.get(str(getattr(function, "__module__", "")).partition(".")[0])
    if package is None or not package.covers(function.__module__) or not package.knows(function):
        return None
    if "<" in function.__qualname__:
        return None
    return package if package.find(function.__module__, function.__qualname__) is function else None


def _held_state(state: Any) -> Any:
    if type(state) is dict:
        return {key: _hold(item) for key, item in state.items()}
    return tuple(map(_held_state, state)) if type(state) is tuple and len(state) == 2 else state


def _hold(item: Any) -> Any:
    """Shut functions of known packages away, in plain containers, too."""
    kind = type(item)
    if _package_of(item) is not None or (kind is types.ModuleType and item.__name__ in _NUMERIC):
        return Held(item)
    if kind is dict:
        changed: Any = {key: _hold(inner) for key, inner in item.items()} if len(item) < 100 else item
        return Held(changed) if any(changed[key] is not item[key] for key in item) else item
    if kind is list or kind is tuple:
        changed = kind(map(_hold, item)) if len(item) < 100 else item
        return Held(changed) if any(new is not old for new, old in zip(changed, item)) else item
    return item


def _release(item: Any) -> Any:
    if type(item) is not Held:
        return item
    content = item.content
    kind = type(content)
    if kind is dict:
        return {key: _release(inner) for key, inner in content.items()}
    if kind is list or kind is tuple:
        return kind(map(_release, content))
    return content


def _reduce_held(writer: Writer, held: Held) -> Tuple[Any, ...]:
    function = held.content
    if type(function) is types.ModuleType:
        return MAKE, ("held.module", function.__name__)
    package = _package_of(function)
    if package is None:
        return (MAKE, ("held", function)) if type(function) in (dict, list, tuple) else reduce_name(writer, function)
    return MAKE, (f"{package.name}.function", function.__module__, function.__qualname__)


def _make_held_module(reader: Reader, name: Any) -> Held:
    if name not in _NUMERIC:
        raise refused(f"{name!r} is no module that objects hold", str(name))
    return Held(importlib.import_module(name))


def _make_held(reader: Reader, content: Any) -> Held:
    return Held(checked(content, dict, list, tuple))
