"""Types that another package declares: it names a class, and how an object of it becomes plain data and is made again.

What it gives are two functions of its own, so nothing of the writer's choice runs. Parts are plain data and nothing
else, which is checked in both directions; what they mean is for the functions to check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, List, Set, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from ..parts import damaged
from ..policy import qualified
from ..table import table

if TYPE_CHECKING:
    from ..reader import Reader
    from ..writer import Writer

__all__ = ["declare"]

_PLAIN = frozenset([type(None), bool, int, float, str, bytes])


def declare(
    name: str, classes: Tuple[str, ...], take: Callable[[Any], Tuple[Any, ...]], make: Callable[..., Any]
) -> None:
    """Declare a type, see ``vineyard_client.declare_type``.

    Raises:
        ValueError: the name has no package in front, or is one of ours.
    """
    package, dot, _ = name.partition(".")
    if not dot or package in table.adapters or (name in table.makers and name not in table.declared):
        raise ValueError(f"{name!r} cannot be declared: begin it with the name of your package, and a dot.")

    def reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
        parts = take(value)
        other = _not_plain(parts)
        if other is not None:
            raise UnsafeType(
                f"A {qualified(type(value))} cannot be stored: it holds a {qualified(type(other))}.",
                "Give it plain data only: text, numbers, and lists and dicts of them.",
                qualified(type(value)),
            )
        return MAKE, (name, *parts)

    def make_checked(reader: Reader, *parts: Any) -> Any:
        other = _not_plain(parts)
        if other is not None:
            raise damaged(f"a {qualified(type(other))} is part of a {name}")
        return make(*parts)

    table.declared.add(name)
    table.makers[name] = make_checked
    for cls in classes:
        table.by_name[cls] = reduce, take


def _not_plain(parts: Tuple[Any, ...]) -> Any:
    """Return what in some parts is no plain data, None if all is."""
    waiting: List[Any] = [parts]
    seen: Set[int] = set()
    while waiting:
        container = waiting.pop()
        if id(container) in seen:
            continue
        seen.add(id(container))
        if type(container) is dict:
            waiting.append(tuple(container))
            waiting.append(tuple(container.values()))
            continue
        for part in container:
            if type(part) in (tuple, list, dict):
                waiting.append(part)
            elif type(part) not in _PLAIN:
                return part
    return None
