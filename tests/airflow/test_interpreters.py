"""Tasks in other interpreters receive and return references, and DAGs need not say so."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib import util
from pathlib import Path
from typing import Any, Dict

import pytest

import vineyard_client

pytestmark = [pytest.mark.airflow, pytest.mark.needs((2, 6), (9, 9), reason="there are no policies of packages")]

ROOT = Path(__file__).resolve().parents[2]
DAGS = str(Path(__file__).parent / "dags")

ONLY_THERE = """
import dataclasses
import numpy

@dataclasses.dataclass
class Model:
    weights: numpy.ndarray
"""


def interpreter(folder: Path, *packages: str) -> Path:
    """Make an environment that has some packages of this one, and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = subprocess.check_output([str(python), "-c", "import site; print(site.getsitepackages()[0])"], text=True)
    for name in packages:
        spec = util.find_spec(name)
        assert spec is not None and spec.submodule_search_locations
        found = Path(spec.submodule_search_locations[0])
        for place in (found, found.with_name(f"{name}.libs")):
            if place.exists():
                os.symlink(place, Path(site.strip()) / place.name)
    return python


@pytest.fixture(scope="module")
def output(home: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the DAG, in which one task fails on purpose."""
    folder = tmp_path_factory.mktemp("interpreters")
    python = interpreter(folder / "other", "numpy", "vineyard_client")
    purelib = sysconfig.get_path("purelib", vars={"base": str(folder / "other")})
    (Path(purelib) / "only_there.py").write_text(ONLY_THERE)
    bare = interpreter(folder / "bare")
    env = {"OTHER_PYTHON": str(python), "BARE_PYTHON": str(bare), "AIRFLOW__CORE__DAGS_FOLDER": DAGS}
    return home.test("interpreters", succeeds=False, **env)


def test_arguments_and_results_are_references(home: Any, output: Any) -> None:
    states: Dict[str, str] = home.states("interpreters")
    failed = [str(record) for record in output.records if record["level"].lower() == "error"]
    assert {task for task, state in states.items() if state != "success"} == {"fails"}, failed
    rows = {xcom.task_id: xcom.value for xcom in home.xcoms("interpreters") if xcom.key == "return_value"}
    model = rows["model"]["vineyard"]
    assert (model["type"], model["owned"]) == ("only_there.Model", True)
    assert model["origin"]["task_id"] == "model"
    assert rows["predict"] == {"sum": 999_999 * 1_000_000}


def test_what_failed_says_why_and_leaves_nothing(home: Any, output: Any) -> None:
    assert "1000000 numbers are too many" in str(output.records) + str(output.printed)
    owned = {value["vineyard"]["id"] for value in (xcom.value for xcom in home.xcoms("interpreters")) if _is_row(value)}
    with vineyard_client.connect(home.socket, autostart=False) as client:
        ids = {info.ref.id for info in client.list()}
    assert ids == owned


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"vineyard"} and "id" in value["vineyard"]
