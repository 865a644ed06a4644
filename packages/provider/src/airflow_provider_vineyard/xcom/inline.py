"""Which values stay in Airflow's database as plain JSON: those that it carries there and back exactly. Pure.

A value that is nearly JSON would come back as something else: a tuple as a list, ``{1: "a"}`` as ``{"1": "a"}``, a
subclass of ``str`` as ``str``. Such values keep their type: in a row that holds them, if they are small, or in vineyard
(``store`` decides). What the databases make of JSON counts as well, hence the limits below: Airflow 3 stores a JSON
column, which PostgreSQL keeps as ``jsonb``, and in SQLite has the affinity of numbers, so that the text of a number
alone is read and written anew.

The order of a dict's keys is the one thing that an inline value may lose: ``jsonb`` does not keep it, for the default
backend neither. The dicts are equal all the same.
"""

from __future__ import annotations

import json
import math
from typing import Any, List, Optional, Set, Tuple

from airflow_provider_vineyard.reference import looks_like_bare_id, looks_like_row

__all__ = ["AIRFLOW_KEYS", "RESERVED_NAMES", "inline_json", "is_airflows_own"]

# Airflow's own XComs. Its scheduler and its server read them without asking a backend: by reference, a branch that is
# cleared would run what it should skip.
AIRFLOW_KEYS = frozenset(
    {
        "skipmixin_key",
        "past_depends_met",
        "trigger_run_id",
        "trigger_execution_date_iso",
        "trigger_logical_date_iso",
        "pipeline_inlets",
        "pipeline_outlets",
    }
)
_LINK_PREFIX = "_link_"
_SKIPMIXIN_NAMES = frozenset({"skipped", "followed"})

# Airflow's serialisation takes dicts with these keys for descriptions of objects, at any depth (FORBIDDEN_XCOM_KEYS in
# Airflow 3.2, and the older names), so a user's dict that has one would come back as something else.
RESERVED_NAMES = frozenset(
    {"__classname__", "__version__", "__data__", "__id__", "__cache__", "__type", "__source", "__var"}
)

# Airflow's task processes send msgpack, whose integers have 64 bits.
_INT_LIMIT = 2**63
# From here on, repr() writes an exponent, which jsonb expands to digits without a point: an integer when read again.
_FLOAT_LIMIT = 1e16
# SQLite keeps 15 digits of a number, and computes it by dividing by a power of ten, in long double where there is one.
# With so many decimals at most, the quotient cannot come to lie in the middle of two floats without being exactly that,
# so rounding it twice does no harm.
_SQLITE_DIGITS, _SQLITE_DECIMALS = 15, 3
# Far below what the parsers between a task and the database allow (pydantic: 255).
_DEPTH_LIMIT = 50


def is_airflows_own(key: Optional[str], value: object) -> bool:
    """Tell whether an XCom is one of Airflow's own, which always stay in the database.

    Args:
        key: its key; None where Airflow does not tell, then the value decides.
        value: its value.
    """
    if key is None:
        return type(value) is dict and len(value) == 1 and value.keys() <= _SKIPMIXIN_NAMES
    return key in AIRFLOW_KEYS or key.startswith(_LINK_PREFIX)


def inline_json(value: object, limit: int) -> Optional[bytes]:
    """Return a value as JSON if that carries it exactly and takes at most so many bytes, else None.

    The walk stops as soon as the limit is passed, so it costs the same for a list of a million numbers as for one of a
    few thousand.

    Args:
        value: any value.
        limit: bytes.
    """
    if looks_like_row(value) or looks_like_bare_id(value) or not _is_exact(value, limit):
        return None
    if type(value) is float and not _survives_sqlite(value):
        return None
    text = json.dumps(value).encode("ascii")
    return text if len(text) <= limit else None


def _survives_sqlite(value: float) -> bool:
    """Whether a float that is the whole value is the same after SQLite took it for a number: 800.0 would be an int."""
    digits, point, decimals = repr(abs(value)).partition(".")
    return (
        bool(point)
        and not value.is_integer()
        and decimals.isdigit()
        and len(decimals) <= _SQLITE_DECIMALS
        and len(digits) + len(decimals) <= _SQLITE_DIGITS
    )


def _is_exact(value: object, limit: int) -> bool:
    budget = limit
    seen: Set[int] = set()
    pending: List[Tuple[Any, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        kind = type(item)
        budget -= 1
        if kind is str:
            budget -= len(item) + 1
            if budget < 0 or not _is_plain(item):
                return False
        elif kind is int:
            if not -_INT_LIMIT <= item < _INT_LIMIT:
                return False
        elif kind is float:
            # Zero's sign is lost in jsonb, too. NaN fails the comparison.
            if not abs(item) < _FLOAT_LIMIT or (item == 0 and math.copysign(1, item) < 0):
                return False
        elif kind is list or kind is dict:
            # One object in two places comes back as two, and in itself not at all.
            if depth == _DEPTH_LIMIT or id(item) in seen or len(item) > budget:
                return False
            seen.add(id(item))
            if kind is list:
                pending.extend((member, depth + 1) for member in item)
                continue
            for name, member in item.items():
                if type(name) is not str:
                    return False
                budget -= len(name) + 4
                if budget < 0 or name in RESERVED_NAMES or not _is_plain(name):
                    return False
                pending.append((member, depth + 1))
        elif item is not None and kind is not bool:
            return False
        if budget < 0:
            return False
    return True


def _is_plain(text: str) -> bool:
    """Whether a database takes a text: jsonb refuses the character NUL and half surrogates."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))
