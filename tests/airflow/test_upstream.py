"""What the tests of vineyard's own provider ask of it, asked of this one, under the path that people have configured.

There, a decorated task with several outputs is run through the models of Airflow 2, without a scheduler or a command,
and what it returned is pulled from its task instance: once with plain values, once with a frame and an array.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List

import pytest

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.needs((2, 2), (2, 10), reason="vineyard's own provider has nothing for it, or a task has no run()"),
]

PATH = "vineyard.contrib.airflow.xcom.VineyardXCom"

SCRIPT = Path(__file__).parent / "scripts" / "several_outputs.py"


def test_multiple_outputs(new_home: Any) -> None:
    """Plain values, frames and arrays come back by key and as a whole, with the types that they had."""
    home = new_home()
    output = home.run("python", str(SCRIPT), AIRFLOW__CORE__XCOM_BACKEND=PATH)
    backend, plain, data = json.loads(output.printed[-1])
    assert backend == "airflow_provider_vineyard.xcom.VineyardXCom"
    keys: List[str] = ["number", "43"]
    assert plain == [keys, True]
    assert data == [[*keys, "argument"], True]
    rows = {(xcom.key, "vineyard" in xcom.text) for xcom in home.xcoms("data")}
    assert rows == {("number", True), ("43", True), ("argument", False), ("return_value", True)}
