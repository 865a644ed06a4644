"""Everything a DAG can do with XComs works over references, on each release as far as it can do it.

The tasks of dags/features.py check what they receive; here are their states, and the rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Tuple

import pytest

from .conftest import VERSION

pytestmark = pytest.mark.airflow

DAGS = str(Path(__file__).parent / "dags")
SCRIPT = Path(__file__).parent / "scripts" / "defer_and_resume.py"


@pytest.fixture(scope="module")
def ran(home: Any) -> Tuple[Dict[str, str], str]:
    """Run the DAG; return the states of its tasks, and what a failure needs to be understood."""
    output = home.test("features", succeeds=False, AIRFLOW__CORE__DAGS_FOLDER=DAGS)
    errors = [str(record) for record in output.records if record["level"].lower() in ("error", "critical", "warning")]
    return home.states("features"), "\n".join([*errors, *output.printed])


@pytest.fixture(scope="module")
def rows(ran: Any, home: Any) -> Dict[Tuple[str, str, int], Any]:
    """Return the rows by task, key and map index."""
    return {(xcom.task_id, xcom.key, xcom.map_index): xcom for xcom in home.xcoms("features")}


def states(ran: Any, *tasks: str) -> Dict[str, str]:
    """Return the states of some tasks, all of them if that is not what is hoped for."""
    found, errors = ran
    assert set(tasks) <= set(found), errors
    assert "failed" not in [found[task] for task in tasks], errors
    return {task: found[task] for task in tasks}


def succeeded(ran: Any, *tasks: str) -> bool:
    """Tell whether tasks ran and found what they should."""
    return set(states(ran, *tasks).values()) == {"success"}


def test_keys(ran: Any) -> None:
    """What is pushed under a key is pulled by it, its own task included; what is not there is None."""
    assert succeeded(ran, "push_keys", "pull_keys")


def test_several_tasks(ran: Any) -> None:
    """Values of several tasks come together, in the order asked for."""
    assert succeeded(ran, "give", "give__1", "pull_several")


def test_multiple_outputs(ran: Any, rows: Any) -> None:
    """Each key is an XCom, and so is the whole, which shares the memory of its large members."""
    assert succeeded(ran, "many", "outputs")
    table = rows["many", "table", -1].value["vineyard"]
    parts = rows["many", "return_value", -1].value["vineyard"]["parts"]
    assert {key: part["token"] for key, part in parts.items()} == {"table": table["token"]}
    assert parts["table"]["id"] != table["id"]
    assert rows["many", "number", -1].value == 7


def test_templates(ran: Any, rows: Any) -> None:
    """A template shows the value, not the reference; an operator that returns None leaves no row."""
    assert succeeded(ran, "template")
    assert ("template", "return_value", -1) not in rows


def test_branch(ran: Any, rows: Any) -> None:
    """What the branch is chosen by may be a reference; what Airflow notes of it is inline."""
    assert states(ran, "branch", "left", "right") == {"branch": "success", "left": "success", "right": "skipped"}
    assert rows["branch", "skipmixin_key", -1].value == {"followed": ["left"]}


def test_short_circuit(ran: Any) -> None:
    """Likewise."""
    assert states(ran, "circuit", "cut") == {"circuit": "success", "cut": "skipped"}


@pytest.mark.needs((2, 3), reason="tasks cannot be mapped")
def test_mapping(ran: Any, rows: Any) -> None:
    """A task is mapped over the elements of a reference; its instances' values are pulled all or by index."""
    assert succeeded(ran, "numbers", *(f"mapped_item[{index}]" for index in range(3)))
    assert succeeded(ran, "mapped_sum", "mapped_pull")
    assert set(rows["numbers", "return_value", -1].value) == {"vineyard"}
    assert rows["mapped_item", "return_value", 2].value["vineyard"]["origin"]["map_index"] == 2


@pytest.mark.needs((2, 5), reason="groups of tasks cannot be mapped")
def test_mapped_groups(ran: Any) -> None:
    """A group is mapped likewise; its tasks receive their own group's values."""
    assert succeeded(ran, *(f"group.{task}[{index}]" for task in ("first", "second") for index in range(3)))


@pytest.mark.needs((2, 5), reason="sensors return no value")
def test_sensor(ran: Any) -> None:
    """A sensor's value arrives."""
    assert succeeded(ran, "sensor", "sensed")


@pytest.mark.needs((2, 7), reason="there are no setup tasks")
def test_setup_and_teardown(ran: Any) -> None:
    """What a setup task returns reaches the work and the teardown."""
    assert succeeded(ran, "set_up", "work", "tear_down")


@pytest.mark.needs((2, 8), reason="dags test runs no triggers; test_deferral does what a triggerer does")
def test_deferral(ran: Any) -> None:
    """What a task pushed before it was deferred is there when it resumes."""
    assert succeeded(ran, "deferred", "resumed")


@pytest.mark.needs((2, 2), (2, 7), reason="no deferral, or dags test runs triggers itself")
def test_deferral_and_triggerer(new_home: Any) -> None:
    """Likewise, where ``dags test`` leaves a deferred task to a triggerer: its part is one call.

    Airflow 2.2 itself deletes what was pushed before.
    """
    output = new_home().run("python", str(SCRIPT), AIRFLOW__CORE__DAGS_FOLDER=DAGS)
    before = [1, 2] if VERSION >= (2, 3) else None
    assert json.loads(output.printed[-1]) == ["deferred", "success", before, [3]]
