"""What becomes of values: in the database, in the store, in the hands of other tasks, and when a task runs again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vineyard_client

pytestmark = pytest.mark.airflow

DAGS = Path(__file__).parent / "dags"
ARRAY_SUM = sum(range(100_000))
NUMBER_SUM = sum(range(1000))


@pytest.fixture(scope="module")
def run(home: Any) -> Any:
    """Run the DAG behaviour; return its output."""
    return home.test("behaviour", AIRFLOW__CORE__DAGS_FOLDER=str(DAGS))


@pytest.fixture(scope="module")
def rows(run: Any, home: Any) -> dict[tuple[str, str], Any]:
    """Return the rows of that run by task and key."""
    return {(xcom.task_id, xcom.key): xcom for xcom in home.xcoms("behaviour")}


def stored(home: Any, row: Any) -> Any:
    """Return the value that a row refers to, read from the store without Airflow."""
    fields = {name: row.value["vineyard"][name] for name in ("v", "id", "token", "endpoint", "type", "size", "copy")}
    with vineyard_client.connect(str(home.socket)) as client:
        return client.get(vineyard_client.ObjectRef.from_json(fields))


def test_the_row_is_a_small_reference(rows: dict[tuple[str, str], Any], home: Any) -> None:
    """In place of a value there is a JSON object with what a person wants to know, and never the value."""
    row = rows["produce", "return_value"]
    assert list(row.value) == ["vineyard"]
    reference = row.value["vineyard"]
    assert reference["v"] == 3
    assert reference["durable"] == f"soon: {home.path}/vineyard/values"
    assert Path(home.path, "vineyard", "values", reference["copy"]).stat().st_size == reference["size"]
    assert reference["id"].startswith("o") and len(reference["id"]) == 17
    assert len(reference["token"]) == 32
    assert reference["type"] == "builtins.dict"
    assert reference["size"] > 100_000 * 8
    assert {"endpoint", "summary", "host", "created"} < set(reference)
    assert len(row.text) < 1500


def test_small_values_are_inline(rows: dict[tuple[str, str], Any]) -> None:
    """What JSON carries exactly is in the row as it is; the tasks that received it have compared it."""
    expected = {"text": "ä\u2028", "numbers": [1, -2.5, 2**53], "nothing": None, "flags": [True, False], "empty": {}}
    assert rows["small", "return_value"].value == expected
    assert ("nothing", "return_value") not in rows


def test_changes_in_place_stay_with_the_task(rows: dict[tuple[str, str], Any], home: Any) -> None:
    """A task that writes to all it received sees its changes; a task after it, and the store, see the original."""
    assert rows["change", "return_value"].value == [-100_000.0, NUMBER_SUM - 1, ["number", "name"]]
    assert rows["read", "return_value"].value == [ARRAY_SUM, NUMBER_SUM, ["number", "name", "at"]]
    values = stored(home, rows["produce", "return_value"])
    assert np.array_equal(values["array"], np.arange(100_000.0))
    assert values["frame"]["number"].tolist() == list(range(1000))
    assert values["frame"]["name"].isna().sum() == 500
    assert str(values["frame"]["at"].dtype).endswith("Europe/Berlin]")


@pytest.mark.needs((2, 5), reason="dags test makes no second try")
def test_a_run_again_frees_what_it_replaces(run: Any, rows: dict[tuple[str, str], Any], home: Any) -> None:
    """The second try finds nothing left of the first; what it pushed is all there is."""
    first, second = (json.loads(line) for line in run.printed if line.startswith('{"try"'))
    assert (first["try"], first["before"], len(first["after"])) == (1, [], 1)
    assert (second["try"], second["before"], len(second["after"])) == (2, [], 1)
    row = rows["retried", "array"]
    assert second["after"] == [row.value["vineyard"]["id"]]
    assert stored(home, row).tolist() == [2] * 1000


@pytest.mark.needs((2, 2), (2, 4), reason="2.1 tells the backend nothing when it deletes rows; later, see above")
def test_a_run_again_frees_without_dags_test(new_home: Any) -> None:
    """Likewise on old releases, whose ``dags test`` makes no second try: the instance is run twice."""
    script = Path(__file__).parent / "scripts" / "run_twice.py"
    before, after, value = json.loads(new_home().run("python", str(script)).printed[-1])
    assert len(before) == len(after) == 1
    assert before != after
    assert value == [2]


def test_one_log_line_per_put_and_get(run: Any) -> None:
    """Each put and get logs key and task, type and size, and where the value is, at INFO."""
    lines = run.events("airflow_provider_vineyard")
    put = next(line for line in lines if line.startswith("put") and "behaviour.produce" in line)
    assert "'return_value'" in put and "dict" in put and "vineyard" in put
    assert any(line.startswith("get") and "behaviour.produce" in line for line in lines)
    assert any(line.startswith("put") and "behaviour.small" in line and "inline" in line for line in lines)


def test_upstreams_configured_path(new_home: Any) -> None:
    """Configurations that name upstream's backend get ours."""
    home = new_home()
    path = "vineyard.contrib.airflow.xcom.VineyardXCom"
    home.test("v6d_etl_pandas", AIRFLOW__CORE__XCOM_BACKEND=path)
    rows = {xcom.key: xcom for xcom in home.xcoms("v6d_etl_pandas") if xcom.task_id == "transform"}
    assert set(rows["regions"].value) == {"vineyard"}
    assert isinstance(rows["total"].value, float)


@pytest.mark.needs((3, 0), reason="show_xcoms.py is for Airflow 3")
def test_show_xcoms(run: Any, home: Any) -> None:
    """The table says what each XCom is, where it lives and how large its row is, for any run in the database."""
    script = Path(__file__).parents[2] / "examples" / "show_xcoms.py"
    heading, titles, *lines, totals = home.run("python", str(script), "behaviour").printed
    assert heading.startswith("behaviour, manual__")
    assert titles.split() == [
        "TASK",
        "KEY",
        "WHAT",
        "IT",
        "IS",
        "SIZE",
        "TOOK",
        "WHERE",
        "IT",
        "LIVES",
        "DATABASE",
        "ROW",
    ]
    xcoms = home.xcoms("behaviour")
    assert len(lines) == len(xcoms)
    assert totals.startswith(f"{len(xcoms)} XComs")
    for xcom in xcoms:
        (line,) = (line for line in lines if line.split()[:2] == [xcom.task_id, xcom.key])
        if "vineyard" in xcom.value:
            assert f"vineyard on {xcom.value['vineyard']['host']}, {xcom.value['vineyard']['id']}" in line
        else:
            assert "inline in the database" in line
            assert line.endswith(f"{len(xcom.text.encode())} B")


@pytest.mark.needs((3, 0), reason="show_xcoms.py is for Airflow 3")
def test_show_xcoms_of_no_run(home: Any) -> None:
    """A DAG without a run is told apart, with what to do."""
    script = Path(__file__).parents[2] / "examples" / "show_xcoms.py"
    with pytest.raises(pytest.fail.Exception, match="exited with 1:\nThe database has no such run of other") as error:
        home.run("python", str(script), "other")
    assert "airflow dags test other" in str(error.value)
