"""Dates and zones of packages that pandas and Airflow bring along: pytz, dateutil, pendulum.

Each is made again by the package's public constructors from names and numbers.
"""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, Any, Dict, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from ..policy import qualified
from ..writer import own_reduction
from .common import by_attributes, by_call, checked, damaged

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

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
        # The name it was asked for under, which it remembers from 4.0 on, or the file's.
        for name in (getattr(zone, "_key", None), zone._filename):
            found = tz.gettz(name) if isinstance(name, str) and in_database(name) else None
            if type(found) is tz.tzfile and found.__reduce__() == zone.__reduce__():
                return MAKE, ("dateutil.tz", "named", name)
        raise UnsafeType(
            f"The time zone {zone!r} cannot be stored: no other process would find it under its name.",
            "Use zoneinfo.ZoneInfo(key) or dateutil.tz.gettz(key).",
            qualified(type(zone)),
        )

    def in_database(name: str) -> bool:
        # Otherwise dateutil would open whatever file it is.
        paths = getattr(tz, "TZPATH", None)
        if paths is None:  # before 3.0
            paths = importlib.import_module("dateutil.tz.tz").TZPATHS
        allowed = not name.startswith("/") or name.startswith(tuple([f"{path}/" for path in paths]))
        return allowed and ".." not in name and not name.startswith(":")

    def make_zone(reader: Reader, kind: str, *parts: Any) -> Any:
        if kind == "utc":
            return tz.tzutc()
        if kind == "local":
            return tz.tzlocal()
        if kind == "offset":
            return tz.tzoffset(parts[0], parts[1])
        name = _text(parts[0])
        found = tz.gettz(name) if kind == "named" and in_database(name) else None
        if type(found) is not tz.tzfile:
            raise damaged(f"{name!r} is no time zone here")
        return found

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


def install_pendulum(table: Table) -> None:
    """Declare the dates, durations and zones of pendulum (2.1 - 3.3)."""
    import datetime

    pendulum: Any = importlib.import_module("pendulum")
    zones: Any = importlib.import_module("pendulum.tz.timezone")
    interval: Any = getattr(pendulum, "Interval", None) or importlib.import_module("pendulum").Period  # before 3.0

    def reduce_datetime(writer: Writer, value: Any) -> Tuple[Any, ...]:
        date = value.year, value.month, value.day
        return MAKE, ("pendulum.DateTime", date, value.hour, value.minute, *_small(value), value.tzinfo, value.fold)

    def make_datetime(reader: Reader, date: Any, *parts: Any) -> Any:
        *clock, zone, fold = parts
        return pendulum.DateTime(*date, *clock, tzinfo=zone, fold=fold)

    def reduce_time(writer: Writer, value: Any) -> Tuple[Any, ...]:
        return MAKE, ("pendulum.Time", value.hour, value.minute, *_small(value), value.tzinfo, value.fold)

    def make_time(reader: Reader, *parts: Any) -> Any:
        *clock, zone, fold = parts
        return pendulum.Time(*clock, tzinfo=zone, fold=fold)

    def reduce_duration(writer: Writer, value: Any) -> Tuple[Any, ...]:
        # Years and months count as so many days beside being themselves; what Python's own part holds is the sum.
        base: Any = datetime.timedelta
        days, seconds, micro = (vars(base)[name].__get__(value) for name in ("days", "seconds", "microseconds"))
        years, months = value.years, value.months
        return MAKE, ("pendulum.Duration", years, months, days - 365 * years - 30 * months, seconds, micro)

    def make_duration(reader: Reader, years: int, months: int, days: int, seconds: int, micro: int) -> Any:
        return pendulum.Duration(days, seconds, micro, years=years, months=months)

    def reduce_interval(writer: Writer, value: Any) -> Tuple[Any, ...]:
        return MAKE, ("pendulum.Interval", value.start, value.end, bool(value._absolute))

    def reduce_zone(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        # Since 3.0 one may have been made from a file, whatever it is called; how it pickles says so, or is an error.
        reduced = own_reduction(zone) if hasattr(zone, "from_file") else None
        if reduced is not None and reduced[0].__name__ == "_from_pickled_file":
            return MAKE, ("pendulum.file", *reduced[1])
        if not isinstance(zone.name, str):
            raise UnsafeType(
                f"The time zone {zone!r} cannot be stored: no other process would find it under its name.",
                "Make it with pendulum.timezone(name).",
                qualified(type(zone)),
            )
        if reduced is not None and reduced[0].__name__ == "_unpickle" and not reduced[1][1]:
            return MAKE, ("pendulum.Timezone", zone.name, False)
        return MAKE, ("pendulum.Timezone", zone.name)

    def make_zone(reader: Reader, name: Any, shared: Any = True) -> Any:
        if ".." in _text(name) or name.startswith("/"):
            raise damaged(f"{name!r} is no time zone")
        return pendulum.timezone(name) if shared else zones.Timezone.no_cache(name)

    def make_from_file(reader: Reader, content: Any, name: Any) -> Any:
        return zones.Timezone.from_file(io.BytesIO(checked(content, bytes)), key=checked(name, str, type(None)))

    def reduce_fixed(writer: Writer, zone: Any) -> Tuple[Any, ...]:
        return MAKE, ("pendulum.FixedTimezone", zone.offset, zone.name)

    def make_fixed(reader: Reader, offset: Any, name: Any) -> Any:
        zone = pendulum.timezone(checked(offset, int))  # the one that everybody has, unless it is called otherwise
        return zone if zone.name == name else zones.FixedTimezone(offset, name)

    table.reducers.update(
        {
            pendulum.DateTime: reduce_datetime,
            pendulum.Date: by_attributes("pendulum.Date", "year", "month", "day"),
            pendulum.Time: reduce_time,
            pendulum.Duration: reduce_duration,
            interval: reduce_interval,
            zones.Timezone: reduce_zone,
            zones.FixedTimezone: reduce_fixed,
        }
    )
    table.makers.update(
        {
            "pendulum.DateTime": make_datetime,
            "pendulum.Date": by_call(pendulum.Date),
            "pendulum.Time": make_time,
            "pendulum.Duration": make_duration,
            "pendulum.Interval": by_call(interval),
            "pendulum.Timezone": make_zone,
            "pendulum.file": make_from_file,
            "pendulum.FixedTimezone": make_fixed,
        }
    )


def _small(value: Any) -> Tuple[int, int]:
    return value.second, value.microsecond
