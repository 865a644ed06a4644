"""Types of standard library modules that are loaded when the first value of theirs comes by.

Where a type's own pickling hands opaque bytes to C (``datetime``), the parts are spelt out and go through the public
constructor, so a forged date is an error and never a date that cannot exist.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import warnings
from typing import TYPE_CHECKING, Any, Tuple

from vineyard_client.exceptions import ObjectCorrupted, UnsafeType

from ..ops import MAKE
from ..writer import own_reduction
from .common import by_attributes, by_call, by_text, checked, from_text

if TYPE_CHECKING:
    import datetime
    import random
    import time
    import uuid

    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer


def install_datetime(table: Table) -> None:
    """Declare dates and times."""
    import datetime

    first = datetime.datetime(1, 1, 1)

    def reduce_datetime(writer: Writer, value: datetime.datetime) -> Tuple[Any, ...]:
        days = value.toordinal() - 1
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        return MAKE, ("datetime.datetime", days, seconds, value.microsecond, value.fold, value.tzinfo)

    def make_datetime(reader: Reader, days: int, seconds: int, micro: int, fold: int, zone: Any) -> datetime.datetime:
        value = first + datetime.timedelta(days, seconds, micro)
        return value if zone is None and not fold else value.replace(fold=fold, tzinfo=zone)

    def reduce_time(writer: Writer, value: datetime.time) -> Tuple[Any, ...]:
        parts = value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold
        return MAKE, ("datetime.time", *parts)

    def make_time(reader: Reader, hour: int, minute: int, second: int, micro: int, zone: Any, fold: int) -> Any:
        return datetime.time(hour, minute, second, micro, zone, fold=fold)

    def reduce_timezone(writer: Writer, value: datetime.timezone) -> Tuple[Any, ...]:
        return MAKE, ("datetime.timezone", *value.__getinitargs__())  # type: ignore[attr-defined]

    table.reducers.update(
        {
            datetime.datetime: reduce_datetime,
            datetime.time: reduce_time,
            datetime.timezone: reduce_timezone,
            datetime.date: by_attributes("datetime.date", "year", "month", "day"),
            datetime.timedelta: by_attributes("datetime.timedelta", "days", "seconds", "microseconds"),
        }
    )
    table.makers.update(
        {
            "datetime.datetime": make_datetime,
            "datetime.time": make_time,
            # The constructor returns the one object for UTC, as the value's did.
            "datetime.timezone": by_call(datetime.timezone),
            "datetime.date": by_call(datetime.date),
            "datetime.timedelta": by_call(datetime.timedelta),
        }
    )
    for cls in (datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone):
        table.value(f"datetime.{cls.__name__}", cls)


def install_zoneinfo(table: Table) -> None:
    """Declare the zones of the standard library (Python 3.9 on) by their names."""
    zoneinfo: Any = importlib.import_module("zoneinfo")

    def reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
        if value.key is None:
            raise UnsafeType(
                "A time zone without a name cannot be stored.",
                "Make it with zoneinfo.ZoneInfo(key).",
                "zoneinfo.ZoneInfo",
            )
        own_reduction(value)  # refuses one that was made from a file, whatever it is called
        return MAKE, ("zoneinfo.ZoneInfo", value.key, zoneinfo.ZoneInfo(value.key) is value)

    def make(reader: Reader, key: Any, shared: bool) -> Any:
        return (zoneinfo.ZoneInfo if shared else zoneinfo.ZoneInfo.no_cache)(checked(key, str))

    table.reducers[zoneinfo.ZoneInfo] = reduce
    table.makers["zoneinfo.ZoneInfo"] = make
    table.value("zoneinfo.ZoneInfo", zoneinfo.ZoneInfo)


def install_numbers(table: Table) -> None:
    """Declare decimals and fractions."""
    import decimal
    import fractions

    def make_fraction(reader: Reader, numerator: Any, denominator: Any) -> fractions.Fraction:
        # From text a fraction would take an exponent of any size.
        return fractions.Fraction(checked(numerator, int), checked(denominator, int))

    table.reducers[decimal.Decimal] = by_text("decimal.Decimal")
    table.reducers[fractions.Fraction] = by_attributes("fractions.Fraction", "numerator", "denominator")
    table.makers["decimal.Decimal"] = from_text(decimal.Decimal)
    table.makers["fractions.Fraction"] = make_fraction
    table.value("decimal.Decimal", decimal.Decimal)
    table.value("fractions.Fraction", fractions.Fraction)


def install_uuid(table: Table) -> None:
    """Declare UUIDs."""
    import uuid

    def reduce(writer: Writer, value: uuid.UUID) -> Tuple[Any, ...]:
        number = int.__add__(value.int, 0)  # which is an int, also where the UUID was made of a number of another class
        return MAKE, ("uuid.UUID", number, value.is_safe.value)

    def make(reader: Reader, number: Any, safe: Any) -> uuid.UUID:
        return uuid.UUID(int=checked(number, int), is_safe=uuid.SafeUUID(safe))

    table.reducers[uuid.UUID] = reduce
    table.makers["uuid.UUID"] = make
    table.value("uuid.UUID", uuid.UUID)


def install_pathlib(table: Table) -> None:
    """Declare paths; a path for another kind of system fails where it is read."""
    import pathlib

    kinds = [pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath]
    for cls in kinds:
        table.reducers[cls] = by_text(f"pathlib.{cls.__name__}")
        table.makers[f"pathlib.{cls.__name__}"] = from_text(cls)
    for cls in (pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.Path):
        table.value(f"pathlib.{cls.__name__}", cls)


def install_ipaddress(table: Table) -> None:
    """Declare IP addresses, networks and interfaces."""
    import ipaddress

    for version in "46":
        for kind in ("Address", "Network", "Interface"):
            cls = getattr(ipaddress, f"IPv{version}{kind}")
            table.reducers[cls] = by_text(f"ipaddress.{cls.__name__}")
            table.makers[f"ipaddress.{cls.__name__}"] = from_text(cls)
            table.value(f"ipaddress.{cls.__name__}", cls)


def install_array(table: Table) -> None:
    """Declare arrays of machine numbers; reading copies, since an array owns its memory."""
    import array

    def reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
        if value.typecode == "u":  # wide characters differ between platforms; text does not
            return MAKE, ("array.text", value.tounicode())
        return MAKE, ("array.array", value.typecode, value.itemsize, sys.byteorder, pickle.PickleBuffer(value))

    def make(reader: Reader, typecode: Any, itemsize: int, order: str, buffer: Any) -> Any:
        result = array.array(checked(typecode, str))
        if result.itemsize != itemsize:
            raise ObjectCorrupted(
                f"The stored array has items of {itemsize} bytes, where type {typecode!r} has {result.itemsize} here.",
                "Read it on the kind of machine that wrote it, or store a numpy array.",
            )
        result.frombytes(buffer)
        if order != sys.byteorder:
            result.byteswap()
        return result

    def make_text(reader: Reader, text: Any) -> Any:
        with warnings.catch_warnings():
            # From 3.13 on Python warns of the type code; whoever made the array has been told.
            warnings.simplefilter("ignore", DeprecationWarning)
            return array.array("u", checked(text, str))

    table.reducers[array.array] = reduce
    table.makers["array.array"] = make
    table.makers["array.text"] = make_text
    table.value("array.array", array.array)


def install_time(table: Table) -> None:
    """Declare broken-down times."""
    import time

    def reduce(writer: Writer, value: time.struct_time) -> Tuple[Any, ...]:
        return MAKE, ("time.struct_time", tuple(value), {"tm_gmtoff": value.tm_gmtoff, "tm_zone": value.tm_zone})

    def make(reader: Reader, fields: Any, named: Any) -> time.struct_time:
        return time.struct_time(checked(fields, tuple), checked(named, dict))

    table.reducers[time.struct_time] = reduce
    table.makers["time.struct_time"] = make


def install_random(table: Table) -> None:
    """Declare random generators, with their state."""
    import random

    def reduce(writer: Writer, value: random.Random) -> Tuple[Any, ...]:
        return MAKE, ("random.Random", value.getstate())

    def make(reader: Reader, state: Any) -> random.Random:
        result = random.Random(0)
        result.setstate(state)
        return result

    table.reducers[random.Random] = reduce
    table.makers["random.Random"] = make
