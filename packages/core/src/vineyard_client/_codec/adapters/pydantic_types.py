"""pydantic's own types (1.8 - 2.14): URLs, secrets, colours, addresses; models are the caller's, see ``passive``.

Those of Python are rebuilt as ``trusted`` says; those of pydantic's core in Rust are made from their text, which it
parses again. A secret is stored as it is: whoever can read the store can read it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Tuple

from ..ops import MAKE
from ..parts import checked, damaged
from .trusted import Package

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

_PACKAGE = Package("pydantic", parts="types networks color _internal._repr utils")
_URLS = ("Url", "MultiHostUrl")


def _reduce_url(writer: Writer, url: Any) -> Tuple[Any, ...]:
    return MAKE, ("pydantic_core.url", type(url).__name__, str(url))


def _make_url(reader: Reader, name: Any, text: Any) -> Any:
    if name not in _URLS:
        raise damaged(f"{name!r} is no kind of URL")
    return getattr(importlib.import_module("pydantic_core"), name)(checked(text, str))


def _reduce_zone(writer: Writer, zone: Any) -> Tuple[Any, ...]:
    return MAKE, ("pydantic_core.zone", int(zone.utcoffset(None).total_seconds()))


def _make_zone(reader: Reader, seconds: Any) -> Any:
    if not -86400 < checked(seconds, int) < 86400:
        raise damaged("a time zone is more than a day away")
    return importlib.import_module("pydantic_core").TzInfo(seconds)


def _reduce_undefined(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, ("pydantic_core.undefined",)


def _make_undefined(reader: Reader) -> Any:
    return importlib.import_module("pydantic_core").PydanticUndefined


def install(table: Table) -> None:
    """Declare the types of pydantic."""
    importlib.import_module("pydantic")
    _PACKAGE.install(table)


def install_core(table: Table) -> None:
    """Declare the types of its core."""
    core: Any = importlib.import_module("pydantic_core")
    for name in _URLS:
        table.reducers[getattr(core, name)] = _reduce_url
    table.reducers[core.TzInfo] = _reduce_zone
    table.reducers[type(core.PydanticUndefined)] = _reduce_undefined
    table.makers.update(
        {
            "pydantic_core.url": _make_url,
            "pydantic_core.zone": _make_zone,
            "pydantic_core.undefined": _make_undefined,
        }
    )
