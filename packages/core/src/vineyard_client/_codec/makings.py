"""What an object is made of besides its class: the content of a plain base, attributes, slots; taken and given back.

Nothing here runs a method of the object's class. Content is read and set by the base's own functions
(``dict.update(value, …)``, ``str.__new__(cls, …)``), attributes through the C descriptors of ``__dict__`` and of slots.
So a class with an ``__init__``, ``__setattr__``, ``__setitem__`` or ``__getattribute__`` of its own is rebuilt exactly
as it was, and none of them is asked.
"""

from __future__ import annotations

import collections
import importlib
import sys
import types
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

from .parts import checked, checked_callable, damaged

__all__ = ["Base", "attributes_of", "base_of", "give", "is_in_python", "slots_of"]


class Base(NamedTuple):
    """How the content of a plain type is handled in objects of classes that derive from it.

    Args:
        make_parts: what the object has to be made with, as plain data.
        make: makes an object of a class from them.
        take: content that can be set afterwards, so that it may hold the object itself; None if there is none.
        fill: sets it.
    """

    make_parts: Callable[[Any], Tuple[Any, ...]]
    make: Callable[..., Any]
    take: Callable[[Any], Any] | None = None
    fill: Callable[[Any, Any], Any] | None = None


def _nothing(value: Any) -> Tuple[Any, ...]:
    return ()


def _empty(kind: Any) -> Callable[[Any], Any]:
    return lambda cls: kind.__new__(cls)


def _one(kind: type, take: Callable[[Any], Any]) -> Base:
    """Return a base whose objects are made from one value of the plain type."""
    new: Any = kind.__new__
    return Base(lambda value: (take(value),), lambda cls, part: new(cls, checked(part, kind)))


def _make_complex(cls: Any, real: Any, imag: Any) -> Any:
    return complex.__new__(cls, checked(real, float), checked(imag, float))


def _members(kind: Any) -> Callable[[Any], List[Any]]:
    return lambda value: list(kind.__iter__(value))


def _fill_list(value: Any, items: Any) -> None:
    list.extend(value, checked(items, list))


def _fill_set(value: Any, items: Any) -> None:
    set.update(value, checked(items, list))


def _fill_dict(value: Any, content: Any) -> None:
    dict.update(value, checked(content, dict))


def _take_dict(value: Any) -> Dict[Any, Any]:
    return dict(dict.items(value))  # dict.copy would ask an __iter__ of its class


def _take_ordered(value: Any) -> Dict[Any, Any]:
    return dict(collections.OrderedDict.items(value))


def _fill_ordered(value: Any, content: Any) -> None:
    for key, item in checked(content, dict).items():
        collections.OrderedDict.__setitem__(value, key, item)


def _factory(value: Any) -> Tuple[Any, ...]:
    return (vars(collections.defaultdict)["default_factory"].__get__(value),)


def _make_defaultdict(cls: Any, factory: Any) -> Any:
    made = dict.__new__(cls)
    collections.defaultdict.__init__(made, None if factory is None else checked_callable(factory))
    return made


def _length(value: Any) -> Tuple[Any, ...]:
    return (vars(collections.deque)["maxlen"].__get__(value),)


def _make_deque(cls: Any, length: Any) -> Any:
    made: Any = collections.deque.__new__(cls)
    collections.deque.__init__(made, (), checked(length, int, type(None)))
    return made


def _fill_deque(value: Any, items: Any) -> None:
    collections.deque.extend(value, checked(items, list))


def _take_bytearray(value: Any) -> bytes:
    """Return the content; not by way of a view, for which a class may have a ``__buffer__`` from Python 3.12 on."""
    return bytes(bytearray.copy(value))


def _fill_bytearray(value: Any, content: Any) -> None:
    bytearray.extend(value, checked(content, bytes))


_whole = slice(None)
# The plain types that an object may derive from. Those that C knows come first where one derives from another.
_BASES: Dict[type, Base] = {
    str: _one(str, str.__str__),
    int: _one(int, int.__index__),
    float: _one(float, float.__float__),
    complex: Base(
        lambda value: (complex.real.__get__(value), complex.imag.__get__(value)),
        _make_complex,
    ),
    bytes: _one(bytes, lambda value: bytes.__getitem__(value, _whole)),
    tuple: _one(tuple, lambda value: tuple.__getitem__(value, _whole)),
    frozenset: Base(
        lambda value: (list(frozenset.__iter__(value)),),
        lambda cls, items: frozenset.__new__(cls, checked(items, list)),
    ),
    bytearray: Base(_nothing, _empty(bytearray), _take_bytearray, _fill_bytearray),
    list: Base(_nothing, _empty(list), lambda value: list.__getitem__(value, _whole), _fill_list),
    set: Base(_nothing, _empty(set), _members(set), _fill_set),
    collections.defaultdict: Base(_factory, _make_defaultdict, _take_dict, _fill_dict),
    collections.OrderedDict: Base(_nothing, _empty(collections.OrderedDict), _take_ordered, _fill_ordered),
    collections.deque: Base(_length, _make_deque, _members(collections.deque), _fill_deque),
    dict: Base(_nothing, _empty(dict), _take_dict, _fill_dict),
    types.SimpleNamespace: Base(_nothing, _empty(types.SimpleNamespace)),
    object: Base(_nothing, _empty(object)),
}


# --- types of modules that need not be loaded -----------------------------------------------------------------------

# Plain types that are written in Python: their objects keep what they are made of in slots, and their ``__hash__`` is a
# function, which looks up what else a class may have under those names.
_IN_PYTHON: Set[type] = set()


def _of_parts(kind: Any, names: str, **options: Any) -> Base:
    """Return a base of C whose objects are made from some of their fields, which its ``__new__`` checks."""
    fields = [vars(kind).get(name) or getattr(kind, name) for name in names.split()]
    new: Any = kind.__new__

    def make(cls: Any, *parts: Any) -> Any:
        if len(parts) != len(fields):
            raise damaged(f"a {kind.__name__} is made of {len(parts)} parts")
        positional = parts[:-1] if "fold" in names else parts
        return new(cls, *positional, fold=parts[-1]) if "fold" in names else new(cls, *positional)

    return Base(lambda value: tuple([field.__get__(value) for field in fields]), make)


def _in_python(kind: Any, take: Callable[[Any], Tuple[Any, ...]], make: Callable[..., Any]) -> Base:
    """Return a base of Python: an object of the plain type is made, and what is in its slots is handed on."""
    _IN_PYTHON.update(kind.__mro__[:-1])
    slots = [
        descriptor
        for base in kind.__mro__
        for descriptor in vars(base).values()
        if type(descriptor) is types.MemberDescriptorType
    ]

    def make_twin(cls: Any, *parts: Any) -> Any:
        plain, value = make(*parts), object.__new__(cls)
        for slot in slots:
            try:
                content = slot.__get__(plain)
            except AttributeError:
                continue  # it holds nothing yet
            slot.__set__(value, content)
        return value

    return Base(take, make_twin)


def _dates(module: Any) -> Dict[type, Base]:
    day, clock = "year month day", "hour minute second microsecond tzinfo fold"
    return {
        module.datetime: _of_parts(module.datetime, f"{day} {clock}"),
        module.date: _of_parts(module.date, day),
        module.time: _of_parts(module.time, clock),
        module.timedelta: _of_parts(module.timedelta, "days seconds microseconds"),
    }


def _decimals(module: Any) -> Dict[type, Base]:
    kind = module.Decimal
    return {kind: Base(lambda value: (kind.__str__(value),), lambda cls, text: kind.__new__(cls, checked(text, str)))}


def _fractions(module: Any) -> Dict[type, Base]:
    kind = module.Fraction
    slots = vars(kind)["_numerator"], vars(kind)["_denominator"]

    def make(numerator: Any, denominator: Any) -> Any:
        return kind(checked(numerator, int), checked(denominator, int))

    return {kind: _in_python(kind, lambda value: tuple([slot.__get__(value) for slot in slots]), make)}


def _uuids(module: Any) -> Dict[type, Base]:
    kind = module.UUID

    def take(value: Any) -> Tuple[Any, ...]:
        return vars(kind)["int"].__get__(value), vars(kind)["is_safe"].__get__(value).value

    def make(number: Any, safe: Any) -> Any:
        return kind(int=checked(number, int), is_safe=module.SafeUUID(checked(safe, int, type(None))))

    return {kind: _in_python(kind, take, make)}


def _paths(module: Any) -> Dict[type, Base]:
    # What a path was made of, which CPython keeps and pickles from 3.13 on; before, it is as it shows.
    given = vars(module.PurePath).get("_raw_paths") if sys.version_info >= (3, 13) else None

    def take(value: Any) -> Tuple[Any, ...]:
        return (module.PurePath.__str__(value),) if given is None else tuple(given.__get__(value))

    found = {}
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
        kind = getattr(module, name)

        def make(*texts: Any, kind: Any = kind) -> Any:
            return kind(*[checked(text, str) for text in texts])

        found[kind] = _in_python(kind, take, make)
    return found


# Module of a type -> the module that has it under its public name, and what declares it; forgotten once it has.
_LATER: Dict[str, Tuple[str, Callable[[Any], Dict[type, Base]]]] = {
    "datetime": ("datetime", _dates),
    "decimal": ("decimal", _decimals),
    "fractions": ("fractions", _fractions),
    "uuid": ("uuid", _uuids),
    "pathlib": ("pathlib", _paths),
    "pathlib._local": ("pathlib", _paths),
}


def base_of(cls: type) -> Tuple[type, Base]:
    """Return the plain type that a class derives from and how its content is handled; ``object`` at the least."""
    for base in cls.__mro__:
        if base.__module__ in _LATER:
            module, declare = _LATER[base.__module__]
            _BASES.update(declare(importlib.import_module(module)))
            _LATER.pop(base.__module__, None)
        found = _BASES.get(base)
        if found is not None:
            return base, found
    raise AssertionError(cls)


def is_in_python(kind: type) -> bool:
    """Tell whether a plain type is written in Python, so that hashing its objects looks names up at their class."""
    return kind in _IN_PYTHON


def _dict_of(value: Any) -> Dict[str, Any] | None:
    """Return the attributes of an object, past a property or ``__getattribute__`` of its class; None if it has none."""
    for base in type(value).__mro__:
        descriptor: Any = vars(base).get("__dict__")
        if type(descriptor) in (types.GetSetDescriptorType, types.MemberDescriptorType):
            attributes: Dict[str, Any] = descriptor.__get__(value)
            return attributes
    return None


def slots_of(cls: type) -> Iterator[Tuple[str, Any]]:
    """Return name and descriptor of each slot that Python code declared for objects of a class."""
    for base in cls.__mro__:
        if base.__flags__ & _HEAP_TYPE and "__slots__" in vars(base) and base not in _IN_PYTHON:
            for name, descriptor in vars(base).items():
                if type(descriptor) is types.MemberDescriptorType and descriptor.__objclass__ is base:
                    yield name, descriptor


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or by C in the same way


def attributes_of(value: Any) -> Tuple[Dict[str, Any] | None, Dict[str, Any]]:
    """Return copies of an object's attributes, and of what its slots hold, as far as they hold anything."""
    slots: Dict[str, Any] = {}
    for name, descriptor in slots_of(type(value)):
        try:
            slots.setdefault(name, descriptor.__get__(value))
        except AttributeError:
            continue  # it holds nothing
    attributes = _dict_of(value)
    return (dict(attributes) if attributes else None), slots


def give(value: Any, attributes: Any, slots: Any) -> None:
    """Set the attributes and slots of an object that was just made.

    Raises:
        ObjectCorrupted: they are not what an object of its class can have.
    """
    if attributes:
        target = _dict_of(value)
        if target is None:
            raise damaged(f"it sets attributes of a {type(value).__qualname__}, which has none")
        for key, item in checked(attributes, dict).items():
            target[sys.intern(checked(key, str))] = item
    if slots:
        declared = dict(reversed(list(slots_of(type(value)))))
        for key, item in checked(slots, dict).items():
            if key not in declared:
                raise damaged(f"the state of a {type(value).__qualname__} names {key!r}, which is no slot of it")
            declared[key].__set__(value, item)
