"""Rows of other backends, rows that somebody wrote or edited, and the way back to the default backend.

Three runs of one DAG on three days: the first with the default backend, the second with ours, after some of the rows
were replaced in the database, the third with the default backend again. Each pulls what an earlier one pushed.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
from datetime import datetime, timedelta, timezone
from pathlib import Path
from string import Template
from typing import Any, Dict, Iterator

import numpy as np
import pytest

import vineyard_client
from airflow_provider_vineyard.reference import RowReference, RowValue

from .conftest import VERSION

pytestmark = pytest.mark.airflow

DEFAULT = "airflow.sdk.bases.xcom.BaseXCom" if VERSION >= (3, 0) else "airflow.models.xcom.BaseXCom"
VALUES = {"dict": {"a": [1, 2.5, None]}, "text": "x" * 5000, "list": [1, 2]}
ARRAY = np.arange(5.0)


def run(home: Any, days_ago: int, gives: str, takes: str = "", **env: str) -> Dict[str, str]:
    """Run the DAG on a day; return what it found."""
    output = home.test(
        "switch",
        (datetime.now(timezone.utc).date() - timedelta(days=days_ago)).isoformat(),
        AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).parent / "dags"),
        SWITCH_GIVES=gives,
        SWITCH_TAKES=takes,
        **env,
    )
    (line,) = (line for line in output.printed if line.startswith('{"took"'))
    took: Dict[str, str] = json.loads(line)["took"]
    return took


@pytest.fixture(scope="module")
def client(home: Any) -> Iterator[Any]:
    """Return a client of the home's server."""
    with vineyard_client.connect(str(home.socket), autostart=True, size="256Mi") as connected:
        yield connected


# A value of a class that somebody else allows.
_RUNS = vineyard_client.dumps(Template("$x"), allowed_classes=["string.Template"])


def _value(content: bytes, **texts: str) -> Dict[str, Any]:
    """Return a row that holds what is said to be a value."""
    fields = {
        "v": 2,
        "type": "builtins.tuple",
        "text": "(1, 2)",
        "size": len(content),
        "host": "somewhere",
        "created": "2026-11-22T11:09:00+00:00",
        "origin": {},
        "content": base64.b64encode(content).decode(),
    }
    return {"vineyard": {**fields, **texts}}


@pytest.fixture(scope="module")
def replaced(client: Any) -> Dict[str, Any]:
    """Return the JSON values by which rows are replaced."""
    ref, other = client.put((1, 2)), client.put((3, 4))
    row = {
        **ref.to_json(),
        "summary": "2 items",
        "host": "somewhere",
        "created": "2026-11-22T11:09:00+00:00",
        "origin": {},
        "owned": True,
    }
    return {
        "upstreams": client.put(ARRAY, native=True).id,
        "upstreams_gone": "o0000000000000001",
        "forged": {"vineyard": {"v": 1, "id": ref.id, "type": "os.system", "summary": "touch /tmp/x"}},
        "of_another": {"vineyard": {**row, "id": other.id}},
        "of_later": {"vineyard": {**row, "v": 99}},
        "with_code": {"vineyard": {**row, "type": "posix.system", "summary": "rm -r /"}},
        "value_with_code": _value(vineyard_client.dumps((1, 2)), type="posix.system", text="rm -r /"),
        "value_of_a_pickle": _value(b"VYVALUE\n" + pickle.dumps(os.system)),
        "value_that_runs": _value(_RUNS),
    }


@pytest.fixture(scope="module")
def after(home: Any, replaced: Dict[str, Any]) -> Dict[str, str]:
    """Return what the run with our backend found of the one with the default backend."""
    run(home, 3, " ".join([*VALUES, *replaced]), AIRFLOW__CORE__XCOM_BACKEND=DEFAULT)
    for key, value in replaced.items():
        text = json.dumps(value)
        home.query(
            "update xcom set value = ? where dag_id = 'switch' and key = ?",
            text if VERSION >= (3, 0) else text.encode(),
            key,
        )
    return run(home, 2, "pair large", " ".join([*VALUES, *replaced]))


@pytest.mark.parametrize("key", list(VALUES))
def test_rows_of_the_default_backend(after: Dict[str, str], key: str) -> None:
    """What was pushed before the switch is pulled after it, by an earlier date."""
    assert after[key] == repr(VALUES[key])


def test_a_row_of_upstreams_backend(after: Dict[str, str]) -> None:
    """It is an object id and nothing else, of an object in vineyard's own types, which is read."""
    assert after["upstreams"] == repr(ARRAY)


def test_a_row_of_upstreams_backend_whose_object_is_gone(after: Dict[str, str]) -> None:
    """The id is never returned as the value; the error says what the row is and what to do."""
    error = after["upstreams_gone"]
    assert error.startswith("ObjectNotFound: ")
    assert "o0000000000000001, as vineyard's own provider wrote rows" in error and "Clear the task" in error


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("forged", "InvalidReference: "),
        ("of_another", "ObjectNotFound: "),
        ("of_later", "UnsupportedVersion: "),
        ("value_of_a_pickle", "ObjectCorrupted: "),
        ("value_that_runs", "UnsafeType: "),
    ],
)
def test_forged_rows(after: Dict[str, str], key: str, error: str) -> None:
    """They are refused; an id with the token of another object is an object that is not there."""
    assert after[key].startswith(error)


def test_names_in_a_row_are_not_resolved(after: Dict[str, str]) -> None:
    """What a row says of a value's type is for people; the value is what its object is."""
    assert after["with_code"] == after["value_with_code"] == "(1, 2)"


def test_switching_back(home: Any, client: Any, after: Dict[str, str]) -> None:
    """The default backend gives plain JSON as it is, and of others the row; nothing of them is lost."""
    took = run(home, 1, "", "pair large dict", AIRFLOW__CORE__XCOM_BACKEND=DEFAULT)
    assert took["dict"] == repr(VALUES["dict"])
    rows = {xcom.key: xcom.value for xcom in home.xcoms("switch") if xcom.key in ("pair", "large")}
    assert took["pair"] == repr(rows["pair"])
    assert took["large"] == repr(rows["large"])
    assert vineyard_client.loads(RowValue.parse(rows["pair"]).content) == (1, {2: "x"})
    assert client.get(RowReference.parse(rows["large"]).ref) == ("x" * 5000, {2: "x"})
