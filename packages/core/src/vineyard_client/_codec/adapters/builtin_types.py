"""Built-in types beyond those that pickle builds in, and the modules that every Python has loaded anyway.

``collections``, ``types``, ``functools.partial``, ``re`` patterns, enumerations, exceptions. Everything is made by its
ordinary constructor. Classes derived from these (``class MyDict(dict)``) are the caller's and need to be allowed, with
two exceptions in how they are written: members of enumerations by name, exceptions past their own ``__init__``, which
need not accept what ``args`` holds.
"""

from __future__ import annotations

import builtins
import collections
import enum
import functools
import importlib
import re
import types
from typing import TYPE_CHECKING, Any, Dict, Tuple

from vineyard_client.exceptions import UnsafeType

from ..lending import lend
from ..makings import attributes_of, give
from ..ops import FILL, MAKE
from ..policy import qualified
from ..writer import dump, reduce_instance
from .common import by_attributes, by_call, checked, checked_callable, damaged, from_text, refused

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

# Classes that may be values themselves: calling them with anything at worst raises or uses memory.
_VALUES = [
    *[bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, object, range, slice],
    *[collections.OrderedDict, collections.Counter, collections.deque, collections.defaultdict, collections.ChainMap],
    *[types.SimpleNamespace, type(None), type(...), type(NotImplemented)],
]

_ENUMS = {
    "http.HTTPStatus": "http",
    "http.HTTPMethod": "http",
    "inspect._ParameterKind": "inspect",
    "re.RegexFlag": "re",
    "signal.Signals": "signal",
    "uuid.SafeUUID": "uuid",
    "socket.AddressFamily": "socket",
    "socket.SocketKind": "socket",
}
_CONSTANTS: Dict[str, Any] = {"Ellipsis": ..., "NotImplemented": NotImplemented}
_WITH_ATTRIBUTES = (
    *(collections.OrderedDict, collections.Counter, collections.ChainMap),
    *(collections.UserDict, collections.UserList, collections.UserString),
    *(types.SimpleNamespace, functools.partial),
)
# Fields in C of exceptions that are not set: some travel as arguments, or in a place of their own; and where it was
# raised goes with the process that raised it.
_OTHER_FIELDS = frozenset(
    ["args", "exceptions", "message", "__cause__", "__context__", "__suppress_context__", "__traceback__", "__dict__"]
)


_LINKS = ("__cause__", "__context__", "__suppress_context__")
# Exceptions that look into what they are made with, and make numbers of it.
_LOOKING = (OSError, SyntaxError, UnicodeError)


def _reduce_pattern(writer: Writer, value: re.Pattern[Any]) -> Tuple[Any, ...]:
    text = value.pattern
    # What a pattern was compiled from may be of a class derived from these; it is the same pattern without it.
    plain = "".join([text]) if isinstance(text, str) else b"".join([text]) if isinstance(text, bytes) else text
    return MAKE, ("pattern", plain, value.flags)


def _make_pattern(reader: Reader, pattern: Any, flags: Any) -> Any:
    return re.compile(checked(pattern, str, bytes), checked(flags, int))


def _reduce_memoryview(writer: Writer, value: memoryview) -> Tuple[Any, ...]:
    letter = value.format if len(value.format) == 1 else value.format.lstrip("@")
    if len(letter) != 1:
        raise UnsafeType(
            f"A memoryview with items of format {value.format!r} cannot be stored, since Python cannot make one.",
            "Store the object behind it, such as the numpy array.",
            "builtins.memoryview",
        )
    if value.c_contiguous:
        return MAKE, ("memoryview", lend(value), letter, value.shape)
    copy = bytearray(value.tobytes())
    flat = memoryview(copy).toreadonly() if value.readonly else memoryview(copy)
    return MAKE, ("memoryview", lend(flat), letter, value.shape)


def _make_memoryview(reader: Reader, buffer: Any, letter: Any, shape: Any) -> Any:
    flat = memoryview(buffer)
    if not flat.nbytes and 0 in shape:
        # cast() takes no zero in a shape of several dimensions, nor does anybody need one.
        return flat.cast(letter)
    return flat.cast(letter, list(shape)) if len(shape) != 1 else flat.cast(letter)


# --- containers -----------------------------------------------------------------------------------------------------


def _with_attributes(head: Tuple[Any, ...], attributes: Dict[str, Any], pairs: Any = None) -> Tuple[Any, ...]:
    """Return a reduction that sets what somebody attached to an object, if anybody did."""
    if not attributes:
        return MAKE, head, None, None, pairs
    return MAKE, head, ("attributes", dict(attributes)), None, pairs, FILL


def _reduce_ordered(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return _with_attributes((type(value).__name__,), vars(value), iter(value.items()))


def _reduce_defaultdict(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, ("defaultdict", value.default_factory), None, None, iter(value.items())


def _make_defaultdict(reader: Reader, factory: Any) -> Any:
    return collections.defaultdict(None if factory is None else checked_callable(factory))


def _reduce_deque(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, ("deque", value.maxlen), None, iter(value)


def _make_deque(reader: Reader, maxlen: Any) -> Any:
    return collections.deque(maxlen=maxlen)


def _reduce_chain(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return _with_attributes(
        ("ChainMap", list(value.maps)), {name: item for name, item in vars(value).items() if name != "maps"}
    )


def _make_chain(reader: Reader, maps: Any) -> Any:
    return collections.ChainMap(*checked(maps, list))


def _reduce_user_container(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, (type(value).__name__,), ("attributes", dict(vars(value))), None, None, FILL


def _reduce_user_string(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return _with_attributes(
        ("UserString", value.data), {name: item for name, item in vars(value).items() if name != "data"}
    )


def _reduce_namespace(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, ("SimpleNamespace",), ("attributes", dict(vars(value))), None, None, FILL


def _fill_attributes(reader: Reader, value: Any, attributes: Any) -> None:
    if type(value) not in _WITH_ATTRIBUTES:
        raise damaged(f"it sets attributes of a {qualified(type(value))}")
    vars(value).update(checked(attributes, dict))


def _reduce_proxy(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, ("mappingproxy", dict(value))


def _make_proxy(reader: Reader, content: Any) -> Any:
    return types.MappingProxyType(checked(content, dict))


def _reduce_partial(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return _with_attributes(("partial", value.func, value.args, value.keywords), vars(value))


def _make_partial(reader: Reader, function: Any, arguments: Any, keywords: Any) -> Any:
    # Nothing is called: this is as harmless as the class or function in it, which came through the policy.
    return functools.partial(checked_callable(function), *checked(arguments, tuple), **checked(keywords, dict))


# --- enumerations, exceptions, constants ----------------------------------------------------------------------------


def _reduce_enum(writer: Writer, member: Any) -> Tuple[Any, ...]:
    """Write a member by its name; a combination of flags by its value."""
    cls = type(member)
    known = qualified(cls)
    passive = known not in _ENUMS and writer.policy.why_not_passive(cls) is None
    names = ("", known) if known in _ENUMS else (writer.passive_name_of if passive else writer.name_of)(cls)
    name = getattr(member, "_name_", None)
    if name is not None and cls.__members__.get(name) is member:
        return MAKE, ("enum.member", *names, name)
    if passive and _makes_differently(cls):
        writer.name_of(cls)
    return MAKE, ("enum.flags", *names, member._value_)


def _makes_differently(cls: Any) -> bool:
    """Tell whether an enumeration has code of its own that runs when a member that has no name is made."""
    makers = cls._missing_, getattr(cls, "_create_pseudo_member_", cls._missing_), cls.__new__
    members = getattr(cls, "_new_member_", cls.__new__)  # before 3.11 a flag without a name is made of the plain type
    codes = [getattr(maker, "__func__", maker) for maker in (*makers, members)]
    return not issubclass(cls, enum.Flag) or any(
        isinstance(code, types.FunctionType) and code.__globals__.get("__name__") != "enum" for code in codes
    )


def _enum_class(reader: Reader, module: str, name: str) -> Any:
    if not module:
        home = _ENUMS[name]
        return getattr(importlib.import_module(home), name.rpartition(".")[2])
    cls = reader.find_passive(module, name)
    if not issubclass(cls, enum.Enum):
        raise refused(f"it uses {module}.{name} as an enumeration", f"{module}.{name}")
    return cls


def _make_member(reader: Reader, module: str, qualname: str, name: str) -> Any:
    return _enum_class(reader, module, qualname).__members__[name]


def _make_flags(reader: Reader, module: str, qualname: str, value: Any) -> Any:
    cls = _enum_class(reader, module, qualname)
    if module and not reader.allows(cls) and _makes_differently(cls):
        raise refused(f"it makes a member of {qualified(cls)} that has no name", qualified(cls))
    return cls(checked(value, int) if module else value)


def _reduce_exception(writer: Writer, value: BaseException) -> Tuple[Any, ...]:
    cls = type(value)
    base: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    own: Any = cls
    if own.__reduce__ is not base.__reduce__ or own.__reduce_ex__ is not object.__reduce_ex__:
        return reduce_instance(writer, value)
    if cls is base:
        names: Tuple[str, str] = ("", cls.__name__)
    else:
        passive = writer.policy.why_not_passive(cls) is None
        names = (writer.passive_name_of if passive else writer.name_of)(cls)
    arguments = base.__reduce__(value)[1]
    fields = _changed_fields(writer, value, base, arguments)
    attributes, slots = attributes_of(value)
    links = [getattr(BaseException, name).__get__(value) for name in _LINKS]
    state = (attributes or {}, *links, fields, *([slots] if slots else []))
    return MAKE, ("exception", *names, arguments), ("exception", state), None, None, FILL


@functools.lru_cache(maxsize=256)
def _fields(base: Any) -> Dict[str, Any]:
    """Return the fields that a built-in exception keeps in C and that can be set, by their names."""
    found: Dict[str, Any] = {}
    for cls in base.__mro__:
        for name, field in vars(cls).items():
            if isinstance(field, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                found.setdefault(name, field)
    return {name: field for name, field in found.items() if name not in _OTHER_FIELDS and not name.startswith("__")}


def _changed_fields(writer: Writer, value: BaseException, base: Any, arguments: Any) -> Dict[str, Any]:
    """Return those fields that the arguments alone would not set to what they are."""
    fresh = base.__new__(base, *arguments)
    base.__init__(fresh, *arguments)
    changed = {}
    for name, field in _fields(base).items():
        own, usual = (_field(each, field) for each in (value, fresh))
        equal = type(own) in (int, str) and type(own) is type(usual) and own == usual
        if own is _OTHER_FIELDS or own is usual or equal:
            continue
        if name == "obj" and not _can_be_written(writer, own):
            continue  # what an attribute was missing on; pickle leaves it out as well
        changed[name] = own
    return changed


def _field(value: BaseException, field: Any) -> Any:
    """Return what a field of C holds, whatever the class of the exception has under its name."""
    try:
        return field.__get__(value)
    except AttributeError:
        return _OTHER_FIELDS


def _can_be_written(writer: Writer, value: Any) -> bool:
    try:
        dump(value, writer.policy)
    except UnsafeType:
        return False
    return True


def _make_exception(reader: Reader, module: str, qualname: str, arguments: Any) -> BaseException:
    cls = reader.find_passive(module, qualname) if module else getattr(builtins, checked(qualname, str), None)
    if not isinstance(cls, type) or not issubclass(cls, BaseException):
        raise refused(f"it uses {qualname} as an exception", str(qualname))
    base: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    if issubclass(base, _LOOKING):
        reader.check_quiet((arguments,), "exception")
    elif base.__name__.endswith("ExceptionGroup"):
        checked(checked(arguments, tuple)[1], list, tuple)
    # As BaseException does it, past the class's own __init__, whose arguments need not be those in args.
    value: BaseException = cls.__new__(cls, *arguments)
    base.__init__(value, *arguments)
    return value


def _fill_exception(reader: Reader, value: Any, state: Any) -> None:
    attributes, cause, context, suppress, fields, *slots = checked(state, tuple)
    if not isinstance(value, BaseException):
        raise damaged(f"it sets the cause of a {qualified(type(value))}")
    give(value, attributes, *slots or (None,))
    for name, content in zip(_LINKS, (cause, context, checked(suppress, bool))):
        getattr(BaseException, name).__set__(value, content)  # past what the class may have under that name
    known = _fields(next(base for base in type(value).__mro__ if base.__module__ == "builtins"))
    for name, content in checked(fields, dict).items():
        if name not in known:
            raise damaged(f"a {qualified(type(value))} has no field {name!r}")
        if name != "obj":  # which may be anything; some of the others are made numbers
            reader.check_quiet((content,), "exception")
        known[name].__set__(value, content)


def _reduce_constant(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, ("constant", "Ellipsis" if value is ... else "NotImplemented")


def _make_constant(reader: Reader, name: str) -> Any:
    return _CONSTANTS[name]


def install(table: Table) -> None:
    """Declare the built-in types."""
    errors = [
        found for found in vars(builtins).values() if isinstance(found, type) and issubclass(found, BaseException)
    ]
    cls: Any
    for cls in (*_VALUES, *errors):
        table.value(f"{cls.__module__}.{cls.__qualname__}", cls)
    table.reducers.update(
        {
            object: by_attributes("object"),
            complex: by_attributes("complex", "real", "imag"),
            range: by_attributes("range", "start", "stop", "step"),
            slice: by_attributes("slice", "start", "stop", "step"),
            re.Pattern: _reduce_pattern,
            memoryview: _reduce_memoryview,
            collections.OrderedDict: _reduce_ordered,
            collections.defaultdict: _reduce_defaultdict,
            collections.Counter: _reduce_ordered,
            collections.deque: _reduce_deque,
            collections.ChainMap: _reduce_chain,
            collections.UserDict: _reduce_user_container,
            collections.UserList: _reduce_user_container,
            collections.UserString: _reduce_user_string,
            types.SimpleNamespace: _reduce_namespace,
            types.MappingProxyType: _reduce_proxy,
            functools.partial: _reduce_partial,
            type(...): _reduce_constant,
            type(NotImplemented): _reduce_constant,
        }
    )
    table.bases.update({enum.Enum: _reduce_enum, BaseException: _reduce_exception})
    table.makers.update(
        {
            "object": by_call(object),
            "complex": by_call(complex),
            "range": by_call(range),
            "slice": by_call(slice),
            "pattern": _make_pattern,
            "memoryview": _make_memoryview,
            "OrderedDict": by_call(collections.OrderedDict),
            "defaultdict": _make_defaultdict,
            "Counter": by_call(collections.Counter),
            "deque": _make_deque,
            "ChainMap": _make_chain,
            "UserDict": by_call(collections.UserDict),
            "UserList": by_call(collections.UserList),
            "UserString": from_text(collections.UserString),
            "SimpleNamespace": by_call(types.SimpleNamespace),
            "mappingproxy": _make_proxy,
            "partial": _make_partial,
            "enum.member": _make_member,
            "enum.flags": _make_flags,
            "exception": _make_exception,
            "constant": _make_constant,
        }
    )
    containers = [cls.__name__ for cls in _WITH_ATTRIBUTES]
    table.filler("attributes", _fill_attributes, *containers, must=False, holds=True)
    table.filler("exception", _fill_exception, "exception", holds=True)
