"""Passive classes: containers of data, whose objects can be rebuilt without running anything of the class.

A class is passive if both of this holds; the writer and the reader ask the same function.

1. It says that it holds data: a named tuple, an enumeration, a dataclass, a class of attrs, a model of pydantic, or a
   class derived from a plain type of Python (``str``, ``int``, ``list``, ``dict``, ``datetime`` …, see ``makings``) or
   an exception.
2. It brings no code to its making, to being pickled, or to its end: no ``__new__``, ``__reduce__``, ``__getstate__``,
   ``__setstate__``, ``__getnewargs__``, ``__del__`` and their like, no metaclass with functions of its own, nothing of
   C that could be left without its memory, no slot that something else stands in front of; and, because dictionaries
   and sets ask for it while they are filled, no ``__hash__`` but one that was generated, or that of a plain type.

What the standard library, attrs and pydantic generate for such classes does not count as code of theirs. Other methods
(``__init__``, ``__post_init__``, ``__setattr__``, properties, validators) may be anything, since none of them is run.
"""

from __future__ import annotations

import types
from typing import Any, Dict, Iterator, Tuple

from .makings import base_of, is_in_python

__all__ = ["fields_of", "is_bare_tuple", "is_enumeration", "is_structure", "why_not"]

_MAKING = (
    *("__new__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__"),
    *("__getnewargs_ex__", "__del__"),
)
# Where the code comes from that is generated for every class of a kind: the ``__name__`` in a function's globals.
_GENERATORS = frozenset(["attr._make", "collections", "dataclasses", "enum", "typing", "typing_extensions"])
_PYDANTIC = frozenset(["pydantic", "pydantic_core", "pydantic_settings"])
_METACLASSES = frozenset(["abc", "_py_abc", "enum", "typing", "typing_extensions", "builtins"])
# Modules of Python whose classes may stand above a class of the caller's and bring nothing that matters here.
_PLAIN_MODULES = frozenset(
    ["abc", "collections", "_collections_abc", "collections.abc", "enum", "numbers", "typing", "typing_extensions"]
)
# Classes whose own making does nothing but check: what it made is rebuilt without it.
_KNOWN = frozenset(["markupsafe.Markup", "markupsafe._native.Markup"])
_DESCRIPTORS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
_HEAP_TYPE = 1 << 9
_QUIET = frozenset(["builtins", "collections", "_collections", "typing"])


def is_enumeration(cls: type) -> bool:
    """Tell whether a class is an enumeration."""
    import enum

    return issubclass(cls, enum.Enum)


def is_structure(cls: type) -> bool:
    """Tell whether a class is a named tuple of C's, such as that of ``os.stat``."""
    return (
        issubclass(cls, tuple)
        and not cls.__flags__ & _BASE_TYPE
        and all(type(vars(cls).get(name)) is int for name in ("n_fields", "n_sequence_fields", "n_unnamed_fields"))
    )


_BASE_TYPE = 1 << 10  # Py_TPFLAGS_BASETYPE: others may derive from it


def fields_of(cls: type) -> Tuple[str, ...] | None:
    """Return the names of the fields of a named tuple, None if it is none."""
    fields = _attribute(cls, "_fields") if issubclass(cls, tuple) else None
    if type(fields) is tuple and all(type(name) is str for name in fields):
        return fields
    return None


def why_not(cls: type) -> str | None:
    """Say why a class is not passive; None if it is.

    The text completes "… may not be stored or read: nobody allowed it, and …".
    """
    if is_structure(cls):
        return None
    problem = _metaclass_problem(cls)
    if problem is not None:
        return problem
    if is_enumeration(cls):
        return _hash_problem(cls)
    if issubclass(cls, BaseException):
        kind = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    else:
        kind, _ = base_of(cls)
    if kind is object and not _declares_data(cls):
        return "it does not say that it holds data, as a dataclass does"
    slots: Dict[str, type] = {}
    for base in _own_bases(cls, kind):
        problem = _making_problem(base) or _layout_problem(base, slots) or _change_problem(base, kind)
        if problem is not None:
            return problem
    return _hash_problem(cls)


def is_quiet(cls: type) -> bool:
    """Tell whether a class has no code at all but what was generated, so that nothing of it could run by accident."""
    for base in _own_bases(cls, base_of(cls)[0]):
        for value in vars(base).values():
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType):
                file = function.__code__.co_filename
                if not (_is_generated(function) or file == "<string>" or file.startswith("<attrs generated")):
                    return False
            elif isinstance(value, property) or (
                type(value).__module__ not in _QUIET and hasattr(type(value), "__get__")
            ):
                return False
    return True


def _own_bases(cls: type, kind: type) -> Iterator[type]:
    """Return the classes above a class, itself included, that may bring code: neither the plain type nor Python's."""
    for base in cls.__mro__:
        if base in kind.__mro__ or base.__module__ in _PLAIN_MODULES or _is_pydantics(base):
            continue
        yield base


def _is_pydantics(base: type) -> bool:
    return (
        base.__module__.partition(".")[0] in _PYDANTIC
        and base.__name__ in ("BaseModel", "RootModel", "GenericModel", "BaseSettings", "Representation")
    )  # fmt: skip


def _declares_data(cls: type) -> bool:
    for base in cls.__mro__:
        own = vars(base)
        if type(own.get("__dataclass_fields__")) is dict or isinstance(own.get("__attrs_attrs__"), tuple):
            return True
        if base.__module__ == "collections" and base.__name__ in ("UserDict", "UserList", "UserString", "ChainMap"):
            return True
        if base is not cls and _is_pydantics(base) and base.__name__ != "Representation":
            return True
    return False


def _metaclass_problem(cls: type) -> str | None:
    metaclass: type = type(cls)
    for meta in type.__dict__["__mro__"].__get__(metaclass):
        if meta.__module__.partition(".")[0] in _METACLASSES | _PYDANTIC:
            continue
        if any(
            callable(value) or hasattr(type(value), "__get__")
            for name, value in vars(meta).items()
            if name not in _ALWAYS
        ):
            return f"its metaclass {meta.__module__}.{meta.__qualname__} has code of its own"
    return None


_ALWAYS = frozenset(["__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__"])


def _making_problem(base: type) -> str | None:
    own = vars(base)
    name = f"{base.__module__}.{base.__qualname__}"
    if not base.__flags__ & _HEAP_TYPE:
        return f"it derives from {name}, which is made by code of C"
    for hook in _MAKING:
        if hook in own and not _is_generated(own[hook]) and name not in _KNOWN:
            return f"{name} brings its own {hook}, which reading would have to run"
    return None


def _layout_problem(base: type, slots: Dict[str, type]) -> str | None:
    """Say what is wrong with the memory of a class's objects: parts that only its own code knows."""
    name = f"{base.__module__}.{base.__qualname__}"
    declared = vars(base).get("__slots__")
    names = [declared] if isinstance(declared, str) else list(declared or ())
    expected = len([slot for slot in names if slot not in ("__dict__", "__weakref__")])
    found = 0
    for key, value in vars(base).items():
        if type(value) not in _DESCRIPTORS or value.__objclass__ is not base or key in ("__dict__", "__weakref__"):
            continue
        if type(value) is not types.MemberDescriptorType or declared is None:
            return f"{name} is made by code of C"
        found += 1
        if key in slots:
            return f"two of its classes have a slot {key}"
        slots[key] = base
    return None if found == expected else f"something stands in front of a slot of {name}"


def _change_problem(base: type, kind: type) -> str | None:
    """Say what a class changes of a plain type that is written in Python and looks it up when it is hashed."""
    if is_in_python(kind):
        for name in vars(base):
            if name[:5] == "__abs" or name[:5] == "_abc_":
                continue  # what abc keeps
            looked_up = (name[0] == "_" or name in _LOOKED_UP) and name not in _UNRELATED
            if looked_up and (name in _ASKED or any(name in vars(plain) for plain in kind.__mro__)):
                return f"it brings its own {name}, which reading a dict or a set would run"
    return None


_LOOKED_UP = frozenset(["parser", "drive", "root", "parts", "int", "is_safe", "numerator", "denominator", "as_posix"])
_ASKED = frozenset(["__getattr__", "__getattribute__"])
_UNRELATED = frozenset(
    [
        *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__", "__init__", "__repr__"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__orig_bases__", "__parameters__", "__setattr__"),
        *("__init_subclass__", "__class_getitem__", "__static_attributes__", "__firstlineno__", "__truediv__"),
    ]
)


def _hash_problem(cls: type) -> str | None:
    """Say why an object may not be a key: its class would compute or compare by code of its own."""
    hashed = _attribute(cls, "__hash__")
    if is_in_python(base_of(cls)[0]):
        return None  # see _change_problem
    if hashed is None or (_is_plain(hashed) and _is_plain(_attribute(cls, "__eq__"))):
        return None
    for name in ("__hash__", "__eq__"):
        if not _is_plain(_attribute(cls, name)) and not _is_generated(_attribute(cls, name)):
            return f"it brings its own {name}, which reading a dict or a set would run"
    for name in _compared(cls):
        if _is_in_front(_attribute(cls, name)):
            return f"it compares by {name}, which is computed"
    for name in ("__getattribute__", "__getattr__"):
        found = _attribute(cls, name)
        if found is not None and not _is_plain(found) and not _is_generated(found):
            return f"it brings its own {name}, which reading a dict or a set would run"
    return None


def _compared(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        yield from vars(base).get("__dataclass_fields__") or ()
        for field in vars(base).get("__attrs_attrs__") or ():
            yield field.name


def _is_in_front(found: Any) -> bool:
    kind = type(found)
    return kind is not types.MemberDescriptorType and hasattr(kind, "__get__") and hasattr(kind, "__set__")


def _attribute(cls: type, name: str) -> Any:
    """Look a name up as Python does for an object's class, without running a metaclass or a descriptor."""
    for base in cls.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


def _is_plain(function: Any) -> bool:
    """Tell whether a special method is that of a plain type, by its own slot."""
    return isinstance(function, types.WrapperDescriptorType)


def _is_generated(function: Any) -> bool:
    """Tell whether a method is one that Python, attrs or pydantic give to every class of a kind."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):
        # pydantic 1 is compiled: its functions are of Cython.
        return str(getattr(function, "__module__", None)).partition(".")[0] in _PYDANTIC
    module = str(function.__globals__.get("__name__"))
    if module in _GENERATORS or module.startswith("namedtuple_") or module.partition(".")[0] in _PYDANTIC:
        return True
    file = function.__code__.co_filename
    return function.__name__ in ("__hash__", "__eq__") and (file == "<string>" or file.startswith("<attrs generated"))


def is_bare_tuple(cls: type) -> bool:
    """Tell whether a named tuple is nothing but its fields, so that another made of the same fields is as good."""
    if cls.__bases__ != (tuple,) or fields_of(cls) is None:
        return False
    for name, value in vars(cls).items():
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType) and not _is_generated(function):
            return False
        if isinstance(value, property) and name not in (fields_of(cls) or ()):
            return False
    return True
