"""Tasks that are struck in the middle of putting and getting: by ``execution_timeout``, and by SIGTERM.

They run in one process, one after the other, so that what one leaves the next one meets. ``VINEYARD_INTERRUPTED`` says
how many there are of each kind; ``nox -s load`` strikes a hundred times.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.needs((3, 2), reason="releases differ in what becomes of a task that is told to stop"),
]

DAGS = str(Path(__file__).parent / "dags")
COUNT = int(os.environ.get("VINEYARD_INTERRUPTED", "4"))


def test_what_strikes_a_task_passes_through_and_leaves_nothing(home: Any) -> None:
    """Each task ends by what struck it, no error of ours in its place; the next one works, and no memory is lost."""
    output = home.test("interrupted", INTERRUPTED=str(COUNT), AIRFLOW__CORE__DAGS_FOLDER=DAGS)
    kinds = [line.split(" struck by ") for line in output.printed if " struck by " in line]
    struck = dict(kinds)
    assert set(struck) == {f"{kind}{number}" for kind in ("timed", "killed") for number in range(COUNT)}
    assert not [kind for kind in struck.values() if kind.startswith("vineyard_client")], struck
    assert {kind.rpartition(".")[2] for name, kind in struck.items() if name.startswith("timed")} >= {
        "AirflowTaskTimeout"
    }
    assert {kind.rpartition(".")[2] for name, kind in struck.items() if name.startswith("killed")} >= {"Stopped"}
    assert [line for line in output.printed if line.startswith("in use: ")] == ["in use: 0", "in use: 0"]
    states = home.states("interrupted")
    assert {states.pop("before"), states.pop("after")} == {"success"}
    assert set(states.values()) == {"failed"}
