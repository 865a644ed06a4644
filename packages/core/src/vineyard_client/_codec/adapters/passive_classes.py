"""Objects of passive classes, of the caller's own or any library's: by the name of the class, and what is in them.

``passive`` says which classes those are, ``modules`` where they are found, ``makings`` how an object is taken apart and
put together past every method of its class. A named tuple takes the names of its fields along: where its class cannot
be found (because it was made at run time, as for the rows of ``DataFrame.itertuples``, or is not installed) another of
the same name and fields is made. A model of pydantic's with arguments, ``Page[int]``, is found as what it was made of.

No class stands among the parts, only names: a class on the unpickler's stack could be called.
"""

from __future__ import annotations

import collections
import functools
from typing import TYPE_CHECKING, Any, Tuple, Union

from vineyard_client.exceptions import UnsafeType, UnsupportedVersion

from ..makings import attributes_of, base_of, give, is_in_python
from ..modules import loaded
from ..ops import FILL, MAKE
from ..outside import from_outside
from ..parts import checked, damaged, refused
from ..passive import fields_of, is_bare_tuple, is_enumeration, is_structure
from ..policy import qualified
from ..table import table as known

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

__all__ = ["install"]

# The qualified name of a class, or that of a generic one with the names of its arguments.
_Name = Union[str, Tuple[str, Tuple[Tuple[str, str], ...]]]


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    cls = type(value)
    fields = fields_of(cls)
    bare = fields is not None and is_bare_tuple(cls) and _can_be_made_again(cls)
    module, name = _names(writer, cls, bare)
    attributes, slots = attributes_of(value)
    if attributes is not None and not all(type(key) is str for key in attributes):
        raise UnsafeType(
            f"A {qualified(cls)} cannot be stored: it has attributes whose names are no text.",
            "Keep what they hold in a dict.",
            qualified(cls),
        )
    for held in (attributes, slots):
        if held and "_attrs_cached_hash" in held:
            held["_attrs_cached_hash"] = None  # it holds in one process only
    kind, base = base_of(cls)
    head: Tuple[Any, ...]
    if is_structure(cls):
        head = "passive.structure", module, name, *value.__reduce__()[1]
    elif fields is not None:
        head = "passive.row" if bare else "passive.named", module, name, cls.__name__, fields, *base.make_parts(value)
    else:
        head = "passive.new", module, name, kind.__name__, *base.make_parts(value)
    content = None if base.take is None else base.take(value)
    if attributes or slots or content:
        return MAKE, head, ("passive", (attributes, slots or None, content)), None, None, FILL
    return MAKE, head


def _names(writer: Writer, cls: Any, bare: bool) -> Tuple[str, _Name]:
    """Return where a class is found; without a name if it is not, and another may be made in its place."""
    try:
        return writer.passive_name_of(cls)
    except UnsafeType:
        if bare:
            return cls.__module__, ""
        made_of = _made_of(cls)
        if made_of is None:
            raise
    origin, arguments = made_of
    module, name = writer.passive_name_of(origin)
    return module, (name, tuple([_argument_name(writer, argument) for argument in arguments]))


def _made_of(cls: Any) -> Tuple[Any, Tuple[Any, ...]] | None:
    """Return the generic model and the arguments that a model was made of, None if it was not."""
    metadata = vars(cls).get("__pydantic_generic_metadata__")
    if not isinstance(metadata, dict) or metadata.get("parameters") or not metadata.get("args"):
        return None
    if not all(isinstance(argument, type) for argument in metadata["args"]) or _makes_differently(metadata["origin"]):
        return None
    return metadata["origin"], metadata["args"]


def _makes_differently(origin: Any) -> bool:
    """Tell whether a generic model has code of its own that runs when it gets its arguments."""
    hooks = "__class_getitem__", "__init_subclass__", "__pydantic_init_subclass__", "model_parametrized_name"
    return any(
        hook in vars(base)
        for base in origin.__mro__
        if base.__module__.partition(".")[0] not in ("pydantic", "typing", "builtins")
        for hook in (*hooks, "__get_pydantic_core_schema__")
    )


def _argument_name(writer: Writer, argument: type) -> Tuple[str, str]:
    known.load(argument.__module__.partition(".")[0])
    value = known.values.get(argument)
    return ("", value) if value is not None else writer.passive_name_of(argument)


def _argument(reader: Reader, module: Any, name: Any) -> Any:
    return reader.name("", name) if module == "" else reader.find_passive(module, name)


def _class(reader: Reader, module: Any, name: Any) -> Any:
    if type(name) is not tuple:
        return reader.find_passive(module, name)
    key = module, name
    found = reader.notes.get(key)
    if found is None:
        origin = reader.find_passive(module, name[0])
        if not isinstance(vars(origin).get("__pydantic_generic_metadata__"), dict) or _makes_differently(origin):
            raise refused(f"it gives arguments to {qualified(origin)}", qualified(origin))
        arguments = tuple([_argument(reader, *checked(pair, tuple)) for pair in checked(name[1], tuple)])
        found = reader.notes[key] = origin[arguments if len(arguments) != 1 else arguments[0]]
    return found


# --- tuples with names ----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _made_again(module: str, name: str, fields: Tuple[str, ...]) -> Any:
    make: Any = collections.namedtuple
    cls = make(name, fields, rename=True, module=module)
    if cls._fields != fields:
        raise damaged(f"{fields} cannot be the fields of a named tuple")
    return cls


def _can_be_made_again(cls: Any) -> bool:
    try:
        return bool(_made_again(cls.__module__, cls.__name__, cls._fields))
    except Exception as exc:  # whatever else is called _fields
        if from_outside(exc):
            raise
        return False


def _make_row(reader: Reader, module: Any, name: Any, short: Any, fields: Any, items: Any) -> Any:
    """Make a named tuple that is nothing but its fields, of another class if need be."""
    cls: Any = None
    if name:
        try:
            cls = _class(reader, module, name)
        except UnsafeType:
            if loaded(module, name) is not None:
                raise  # it is here, and may not be used
    else:
        reader.policy.check_passive(module, short)
    if cls is None:
        for field in checked(fields, tuple):
            checked(field, str)
        cls = _made_again(checked(module, str), checked(short, str), fields)
    return _with_fields(cls, fields, items)


def _make_named(reader: Reader, module: Any, name: Any, short: Any, fields: Any, items: Any) -> Any:
    return _with_fields(_class(reader, module, name), fields, items)


def _with_fields(cls: Any, fields: Any, items: Any) -> Any:
    if fields_of(cls) != fields or len(checked(items, tuple)) != len(fields):
        raise _changed(cls, f"the fields {', '.join(fields)}")
    return tuple.__new__(cls, items)


def _make_structure(reader: Reader, module: Any, name: Any, items: Any, hidden: Any = None) -> Any:
    cls = _class(reader, module, name)
    if not is_structure(cls):
        raise refused(f"it uses {module}.{name} as a structure", f"{module}.{name}")
    return cls(checked(items, tuple), checked(hidden or {}, dict))


# --- everything else ------------------------------------------------------------------------------------------------


def _make_new(reader: Reader, module: Any, name: Any, kind: Any, *parts: Any) -> Any:
    cls = _class(reader, module, name)
    if is_enumeration(cls):
        raise refused(f"it makes a member of {qualified(cls)}", qualified(cls))
    plain, base = base_of(cls)
    if plain.__name__ != kind or is_structure(cls):
        raise _changed(cls, f"a {kind} below it")
    return base.make(cls, *parts)


def _changed(cls: type, what: str) -> UnsupportedVersion:
    return UnsupportedVersion(
        f"The stored {qualified(cls)} has {what}, which the class here has not.",
        "Install what defines it in the version that wrote the value, or have the task that made it run again.",
    )


def _fill(reader: Reader, value: Any, filling: Any) -> None:
    attributes, slots, content = checked(filling, tuple)
    plain = base_of(type(value))[0]
    if is_in_python(plain):
        for name in checked(attributes or {}, dict):
            if hasattr(plain, checked(name, str)):
                raise refused(f"it gives a {qualified(type(value))} a {name} of its own", qualified(type(value)))
    give(value, attributes, slots)
    if content is not None:
        fill = base_of(type(value))[1].fill
        if fill is None:
            raise damaged(f"a {qualified(type(value))} has content")
        fill(value, content)


def install(table: Table) -> None:
    """Declare how objects of passive classes are written and read."""
    table.passive = _reduce
    table.makers.update(
        {
            "passive.new": _make_new,
            "passive.row": _make_row,
            "passive.named": _make_named,
            "passive.structure": _make_structure,
        }
    )
    # Members of enumerations and the like belong to everybody: nothing is set on what was not made here.
    table.filler("passive", _fill, "passive.new", "passive.named", must=False, holds=True)
