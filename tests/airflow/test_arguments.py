"""What Airflow 3 itself cannot take as an argument of a task: told in the log, with the way around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import VERSION

pytestmark = pytest.mark.airflow

DAGS = str(Path(__file__).parent / "dags")
TASKS = ("numbers", "text", "pull", "take_numbers", "take_text")


def test_arguments(home: Any) -> None:
    """Pulled, they arrive on every release; as arguments on Airflow 2. On 3, the log says what is wrong."""
    output = home.test("arguments", succeeds=VERSION < (3, 0), AIRFLOW__CORE__DAGS_FOLDER=DAGS)
    states = home.states("arguments")
    expected = dict.fromkeys(TASKS, "success")
    if VERSION >= (3, 0):
        expected["take_numbers"] = expected["take_text"] = "failed"
        lines = "\n".join(output.events("airflow_provider_vineyard"))
        assert "arguments.numbers (run" in lines and "holds NaN or infinity, which Airflow 3 cannot send" in lines
        assert "arguments.text (run" in lines and "holds half a surrogate, which Airflow 3 cannot send" in lines
        assert "max_templated_field_length" in lines
    assert states == expected


@pytest.mark.needs((3, 0), reason="nothing is in the way there")
def test_the_way_around(new_home: Any) -> None:
    """With short rendered templates, Airflow sends texts, and the numbers arrive as arguments."""
    home = new_home()
    output = home.test(
        "arguments",
        succeeds=False,
        AIRFLOW__CORE__DAGS_FOLDER=DAGS,
        AIRFLOW__CORE__MAX_TEMPLATED_FIELD_LENGTH="1",
    )
    assert home.states("arguments")["take_numbers"] == "success"
    assert "{\"took\": \"{'a': inf, 'b': [nan]}\"}" in output.printed
