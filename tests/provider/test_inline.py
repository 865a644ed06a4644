"""What stays in the database is exactly what JSON, and the databases, carry there and back."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sqlite3
import time
from collections import OrderedDict
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest

from airflow_provider_vineyard.xcom.inline import RESERVED_NAMES, inline_json, is_airflows_own

LIMIT = 4096


class Text(str):
    """A subclass, which JSON would lose."""

    __slots__ = ()


class Colour(IntEnum):
    """A subclass of int."""

    RED = 1


class Untouchable(dict):  # type: ignore[type-arg]
    """A dict that must not be asked for anything."""

    def items(self) -> Any:
        """Fail."""
        raise AssertionError

    __iter__ = __getitem__ = __len__ = items  # type: ignore[assignment]


SHARED = [1]
CYCLE: list = []  # type: ignore[type-arg]
CYCLE.append(CYCLE)


def nested(depth: int) -> Any:
    """Return lists in lists."""
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -(2**63),
        2**63 - 1,
        1.5,
        [5e-324, 7956.495621360727],
        -123456789012.125,
        0.1,
        [0.0, -9999999999999998.0],
        "",
        "äöü 🦄 \u2028 \x01",
        [],
        {},
        [1, [2, [3, None]], {"a": [True, "x"]}],
        {"vineyard": 1, "more": 2},
        [{"vineyard": 1}],
        {"b": {"a": 1}, "a": "b"},
        nested(50),
    ],
)
def test_stays_and_is_the_same(value: Any) -> None:
    """JSON text of the value gives the value again, with its types."""
    text = inline_json(value, LIMIT)
    assert text is not None
    again = json.loads(text)
    assert again == value
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        [(1, 2)],
        {1: "a"},
        {"a": {None: 1}},
        {1, 2},
        b"bytes",
        math.nan,
        math.inf,
        [-math.inf],
        -0.0,
        1e16,
        1e300,
        2**63,
        -(2**63) - 1,
        1 + 2j,
        Decimal("1.5"),
        datetime(2026, 1, 1),
        Text("x"),
        {Text("x"): 1},
        Colour.RED,
        OrderedDict(a=1),
        Untouchable(),
        "NUL \0",
        "half \ud800",
        {"NUL \0": 1},
        {"half \udfff": 1},
        [SHARED, SHARED],
        CYCLE,
        nested(51),
        object(),
    ],
)
def test_goes_to_vineyard(value: Any) -> None:
    """What JSON or a database would change, or refuse, does not stay."""
    assert inline_json(value, LIMIT) is None


def test_numpy_scalars_go_to_vineyard() -> None:
    """A numpy float is a Python float to ``isinstance``, and would come back as one."""
    numpy = pytest.importorskip("numpy")
    assert inline_json(numpy.float64(1.5), LIMIT) is None
    assert inline_json([numpy.bool_(True)], LIMIT) is None


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_names_go_to_vineyard(name: str) -> None:
    """Airflow would take such a dict for the description of an object, at any depth."""
    assert inline_json({name: 1}, LIMIT) is None
    assert inline_json([{"a": {name: 1}}], LIMIT) is None
    assert inline_json([name], LIMIT) is not None


def test_reserved_names_are_airflows() -> None:
    """No name that the installed Airflow reserves is missing."""
    serialization = pytest.importorskip("airflow.sdk._shared.serialization")
    assert serialization.FORBIDDEN_XCOM_KEYS <= RESERVED_NAMES


@pytest.mark.parametrize("value", [{"vineyard": {}}, {"vineyard": 1}, {"vineyard": {"v": 1, "id": "o0"}}])
def test_a_dict_like_a_row_goes_to_vineyard(value: Any) -> None:
    """So that a row never means a user's own dict."""
    assert inline_json(value, LIMIT) is None


def test_the_limit_counts_bytes_of_json() -> None:
    """At the limit a value stays, one byte beyond it goes."""
    text = inline_json(["x" * 10, "ä"], 24)
    assert text is not None and len(text) == 24
    assert inline_json(["x" * 10, "ä"], 23) is None


@pytest.mark.parametrize("value", [None, 0, "", [], {}])
def test_zero_keeps_nothing(value: Any) -> None:
    """A threshold of 0 sends everything to vineyard."""
    assert inline_json(value, 0) is None


@pytest.mark.parametrize("value", [list(range(1_000_000)), "x" * 100_000_000, {str(n): n for n in range(1_000_000)}])
def test_a_large_value_costs_no_more_than_a_small_one(value: Any) -> None:
    """The walk ends at the limit: a large value takes a fraction of what json.dumps of it takes."""
    started = time.perf_counter()
    assert inline_json(value, LIMIT) is None
    spent = time.perf_counter() - started
    started = time.perf_counter()
    json.dumps(value)
    assert spent < (time.perf_counter() - started) / 5


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("skipmixin_key", {"followed": ["a"]}, True),
        ("past_depends_met", True, True),
        ("trigger_run_id", "r", True),
        ("trigger_execution_date_iso", "2026", True),
        ("trigger_logical_date_iso", "2026", True),
        ("pipeline_outlets", [], True),
        ("_link_TriggerDagRunLink", "http://localhost", True),
        ("return_value", {"followed": ["a"]}, False),
        ("link_x", 1, False),
        (None, {"skipped": ["a"]}, True),
        (None, {"skipped": ["a"], "more": 1}, False),
        (None, {}, False),
        (None, "skipped", False),
    ],
)
def test_airflows_own(key: Any, value: Any, expected: bool) -> None:
    """Airflow's own XComs are known by key, and by shape where Airflow does not tell the key."""
    assert is_airflows_own(key, value) is expected


@pytest.mark.parametrize("value", [800.0, 0.0, -3.0, 7956.495621360727, 5e-324, 1e-05, 0.1234, 0.30000000000000004])
def test_a_float_alone(value: float) -> None:
    """In SQLite, a column of JSON makes a number of it, an integer or another one; within a list or dict it is text."""
    assert inline_json(value, LIMIT) is None
    assert inline_json([value], LIMIT) == f"[{value}]".encode()


def test_floats_that_stay_are_the_same_in_sqlite() -> None:
    """A column as Airflow has it gives back each float that is left to it."""
    generator = random.Random(5)
    floats = [
        round(generator.uniform(-1, 1) * 10 ** generator.randrange(13), generator.randrange(1, 4))
        for _ in range(50_000)
    ]
    kept = [value for value in floats if inline_json(value, LIMIT) is not None]
    assert len(kept) > 30_000
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table xcom (number integer, value json)")
        database.executemany("insert into xcom values (?, ?)", [(n, json.dumps(v)) for n, v in enumerate(kept)])
        again = [value for (value,) in database.execute("select value from xcom order by number")]
    assert again == kept
