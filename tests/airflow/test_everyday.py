"""Small values of every type live in Airflow's database: exact, readable, and without a store."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict

import pytest

from .conftest import VERSION

pytestmark = pytest.mark.airflow

TEXTS = {
    "int64": "6",
    "float32": "0.1",
    "numpy_bool": "True",
    "numpy_text": "text",
    "float": "7956.495621360727",
    "whole_float": "100.0",
    "negative_zero": "-0.0",
    "nan": "nan",
    "infinities": "{'a': [inf, -inf], 'b': 1}",
    "big_int": "1180591620717411303424",
    "date": "2024-01-01",
    "datetime": "2024-01-01 12:30:00+02:00",
    "timedelta": "0:00:01.500000",
    "timestamp": "2024-01-01 00:00:00+01:00",
    "nat": "NaT",
    "uuid": "00000000-0000-0000-0000-000000000007",
    "decimal": "1.50",
    "fraction": "1/3",
    "path": "/srv/data",
    "bytes": "b'a\\x00b'",
    "tuple": "(400000, 15)",
    "set": "{7}",
    "int_keys": "{1: 'a', None: (2,)}",
    "surrogate": "half \\ud800",
    "nul": "NUL \\x00",
    "array": "[[50, 2], [3, 45]]",
    "frame": "2 rows × 2 columns: a int64, b float64",
}


@pytest.fixture(scope="module")
def outputs(home: Any) -> Dict[str, Any]:
    """Run the DAG on two days, with a store configured that nobody can reach; return what each run wrote."""
    found = {}
    for name, days_ago in (("first", 3), ("second", 2)):
        found[name] = home.test(
            "everyday",
            (datetime.now(timezone.utc).date() - timedelta(days=days_ago)).isoformat(),
            AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).parent / "dags"),
            AIRFLOW__VINEYARD__IPC_SOCKET="/nowhere/vineyard.sock",
        )
    return found


@pytest.fixture(scope="module")
def rows(outputs: Any, home: Any) -> Dict[Any, Any]:
    """Return the rows of the newest run by task and key."""
    return {(xcom.task_id, xcom.key): xcom for xcom in home.xcoms("everyday")}


def test_everything_arrives(outputs: Any) -> None:
    """The tasks have compared types and values; a later run has what an earlier one pushed, as a watermark needs it."""
    for name, expected in (("first", "nothing"), ("second", "the same")):
        assert json.dumps({"earlier": expected}) in outputs[name].printed


@pytest.mark.parametrize("key", TEXTS)
def test_people_see_the_value(rows: Any, key: str) -> None:
    """The row has a text for people beside the encoded value."""
    row = rows["give", key].value["vineyard"]
    assert row["v"] == 2
    assert row["text"] == TEXTS[key]
    assert len(rows["give", key].text) < 4096 * 2


def test_plain_json_stays_plain(rows: Any) -> None:
    """What JSON carries exactly is as with the default backend."""
    plain = {key: rows["give", key].value for key in ("true", "plain", "short_float")}
    assert plain == {"true": True, "plain": {"a": [1, 2.5, None]}, "short_float": 1254.2}


def test_members_of_several_outputs(rows: Any) -> None:
    """Each is in its row, and so is the whole."""
    for key in ("int64", "date", "tuple", "array", "return_value"):
        assert rows["outputs", key].value["vineyard"]["v"] == 2
    assert rows["outputs", "plain"].value == {"a": [1, 2.5, None]}


def test_control_flow_on_numpy_values(outputs: Any, home: Any) -> None:
    """A truth value of numpy's decides like one of Python's."""
    states = home.states("everyday")
    assert (states["after_go_on"], states["after_stop"]) == ("success", "skipped")


def test_lines_of_the_log(outputs: Any) -> None:
    """They show the value, too."""
    lines = outputs["first"].events("airflow_provider_vineyard")
    assert any("'int64' of task everyday.give" in line and "numpy.int64 6, " in line for line in lines)


def test_floats_in_sqlite(rows: Any, home: Any) -> None:
    """No float is left to a column that would round it."""
    if VERSION >= (3, 0):
        kinds = home.query("select distinct typeof(value) from xcom where key in ('float', 'whole_float', 'nan')")
        assert kinds == [("text",)]


def test_nothing_was_started(outputs: Any, home: Any) -> None:
    """No store, no server."""
    assert not home.socket.exists()
