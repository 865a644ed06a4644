"""From Airflow 2 with ``enable_xcom_pickling``: what docs/migrating.md says of it.

Runs of the DAG ``switch``, each on a later day: with Airflow's own backend, with ours, and with the option off.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from .test_switch import DEFAULT, run

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.needs((2, 1), (2, 11), reason="there is no enable_xcom_pickling any more"),
]

DAGS = str(Path(__file__).parent / "dags")
ON = {"AIRFLOW__CORE__ENABLE_XCOM_PICKLING": "True"}
ALLOWED = {"AIRFLOW__VINEYARD__ALLOWED_CLASSES": "switch_models.*"}


@pytest.fixture(scope="module")
def took(home: Any) -> Dict[str, Dict[str, str]]:
    """Return what each run found of the one before."""
    run(home, 5, "order pair dict", AIRFLOW__CORE__XCOM_BACKEND=DEFAULT, **ON)
    return {
        "after the switch": run(home, 4, "", "order pair dict", **ON, **ALLOWED),
        "later": run(home, 3, "order pair dict", "order pair dict", **ON, **ALLOWED),
        "without the option": run(home, 2, "", "order pair dict", **ALLOWED),
        "without the option, later": run(home, 1, "dict", "order pair dict", **ALLOWED),
    }


def test_rows_from_before_the_switch(took: Any) -> None:
    """They are pickles, and read as before while the option is on."""
    assert took["after the switch"] == {"order": "Order(7)", "pair": "(1, {2: 'x'})", "dict": "{'a': [1, 2.5, None]}"}


def test_values_after_the_switch(took: Any) -> None:
    """A class that brings code to its making is named once; nothing else changes."""
    assert took["later"] == took["after the switch"]


def test_new_rows_are_no_pickles(took: Any, home: Any) -> None:
    """But for plain JSON, which Airflow's own code writes."""
    columns = "select value from xcom where dag_id = 'switch' and key = ? order by timestamp"
    for key in ("order", "pair"):
        before, after = (value for (value,) in home.query(columns, key))
        assert before[:1] == b"\x80"
        assert json.loads(after)["vineyard"]["v"] == 2
    assert [value[:1] for (value,) in home.query(columns, "dict")] == [b"\x80", b"\x80", b"{"]


def test_turning_the_option_off(took: Any) -> None:
    """Rows that are no pickles stay; what a pickle holds says what to do."""
    found = took["without the option"]
    assert (found["order"], found["pair"]) == ("Order(7)", "(1, {2: 'x'})")
    assert "enable_xcom_pickling" in found["dict"]
    assert took["without the option, later"]["dict"] == "{'a': [1, 2.5, None]}"


def test_without_permission(home: Any) -> None:
    """The task that returns such an object fails, and says what to set."""
    output = home.test("switch", succeeds=False, AIRFLOW__CORE__DAGS_FOLDER=DAGS, SWITCH_GIVES="order", **ON)
    text = "\n".join([*output.printed, *output.events("")])  # a traceback is printed below its record
    assert "switch_models.Order" in text and "[vineyard] allowed_classes" in text
