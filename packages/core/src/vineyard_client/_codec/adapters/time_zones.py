"""Dates and zones of packages that pandas and Airflow bring along: pytz, dateutil, pendulum.

Each is made again by the package's public constructors from names and numbers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from ..policy import qualified
from .common import damaged

if TYPE_CHECKING:
    from ..reader import Reader
    from ..writer import Writer
    from . import Table

_RELATIVE = [
    "years",
    "months",
    "days",
    "leapdays",
    "hours",
    "minutes",
    "seconds",
    "microseconds",
    "year",
    "month",
    "day",
    "weekday",
    "hour",
    "minute",
    "second",
    "microsecond",
    "_has_time",
]


def _text(part: Any) -> str:
    if type(part) is not str:
        raise damaged("a time zone has no name")
    return part


def install_pytz(table: Table) -> None:
    """Declare the zones of pytz (2018 - 2026)."""
    pytz: Any = importlib.import_module("pytz")
    tzinfo: Any = importlib.import_module("pytz.tzinfo")

    def reduce_zone(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        return MAKE, ("pytz.zone", zone.zone)

    def reduce_dst(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        # A zone as it applies to one date, such as CEST of Europe/Berlin.
        return MAKE, ("pytz.period", zone.zone, zone._utcoffset, zone._dst, zone._tzname)

    def reduce_fixed(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        return MAKE, ("pytz.fixed", zone._minutes)

    def make_zone(reader: Reader, name: Any) -> Any:
        return pytz.timezone(_text(name))

    def make_period(reader: Reader, name: Any, offset: Any, dst: Any, short: Any) -> Any:
        return tzinfo.unpickler(_text(name), offset.total_seconds(), dst.total_seconds(), short)

    def make_fixed(reader: Reader, minutes: Any) -> Any:
        return pytz.FixedOffset(minutes)

    table.bases[tzinfo.StaticTzInfo] = reduce_zone
    table.bases[tzinfo.DstTzInfo] = reduce_dst
    table.reducers[type(pytz.UTC)] = reduce_zone
    table.reducers[type(pytz.FixedOffset(1))] = reduce_fixed
    table.makers.update({"pytz.zone": make_zone, "pytz.period": make_period, "pytz.fixed": make_fixed})


def install_dateutil(table: Table) -> None:
    """Declare the zones and relative dates of dateutil (2.7 - 3.0)."""
    tz: Any = importlib.import_module("dateutil.tz")
    relative: Any = importlib.import_module("dateutil.relativedelta")
    weekday: Any = relative.MO.__class__

    def reduce_relative(writer: Writer, value: Any) -> Tuple[Any, ...]:
        return MAKE, ("dateutil.relativedelta", {name: getattr(value, name) for name in _RELATIVE})

    def make_relative(reader: Reader, parts: Dict[str, Any]) -> Any:
        # The constructor would normalise what was normalised before, or not at all.
        value = relative.relativedelta()
        for name in _RELATIVE:
            setattr(value, name, parts[name])
        return value

    def reduce_weekday(writer: Writer, value: Any) -> Tuple[Any, ...]:
        return MAKE, ("dateutil.weekday", value.weekday, value.n)

    def make_weekday(reader: Reader, number: int, n: Any) -> Any:
        found = (relative.MO, relative.TU, relative.WE, relative.TH, relative.FR, relative.SA, relative.SU)[number]
        return found if n is None else found(n)

    def reduce_utc(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        return MAKE, ("dateutil.tz", "utc")

    def reduce_local(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        return MAKE, ("dateutil.tz", "local")

    def reduce_offset(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        return MAKE, ("dateutil.tz", "offset", zone._name, zone._offset)

    def reduce_file(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        name = zone._filename
        found = tz.gettz(name) if isinstance(name, str) else None
        if found is None or found != zone:
            raise UnsafeType(
                f"The time zone {zone!r} cannot be stored: no other process would find it under its name.",
                "Use zoneinfo.ZoneInfo(key) or dateutil.tz.gettz(key).",
                qualified(type(zone)),
            )
        return MAKE, ("dateutil.tz", "named", name)

    def make_zone(reader: Reader, kind: str, *parts: Any) -> Any:
        if kind == "utc":
            return tz.tzutc()
        if kind == "local":
            return tz.tzlocal()
        if kind == "offset":
            return tz.tzoffset(parts[0], parts[1])
        name = _text(parts[0])
        if kind != "named" or ".." in name:
            raise damaged("a time zone has no name")
        return tz.gettz(name)

    table.reducers.update(
        {
            relative.relativedelta: reduce_relative,
            weekday: reduce_weekday,
            tz.tzutc: reduce_utc,
            tz.tzlocal: reduce_local,
            tz.tzoffset: reduce_offset,
            tz.tzfile: reduce_file,
        }
    )
    table.makers.update(
        {
            "dateutil.relativedelta": make_relative,
            "dateutil.weekday": make_weekday,
            "dateutil.tz": make_zone,
        }
    )
