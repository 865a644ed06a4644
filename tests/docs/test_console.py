"""Every command of every page: run here as it stands there, seen by a test that is named, or never run for a reason.

The commands of a page run in order in one shell, in the repository's folder, with an AIRFLOW_HOME of their own. What a
page shows of their output is not compared.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Iterator, List

import pytest
from vineyard_testing.markdown import ROOT, by_language
from vineyard_testing.ports import free_port

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

PAGES = by_language("console")

# Commands that another test runs, or whose work it does; "*" stands for any end.
_COMPOSE = "tests/deploy_e2e/test_compose.py::test_each_value_crosses_once"
_EXAMPLE = "tests/airflow/test_examples.py::test_run_example_shows_the_table_and_leaves_nothing"
ELSEWHERE = {
    # A machine on which nothing is set up: .ci/run takes the second command from the README.
    "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s flights": _EXAMPLE,
    "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox": ".ci/run",
    # Wheels are built of the same folders, and what installing them brings is looked at there.
    "pip install ./packages/*": "tests/test_packaging.py::test_wheel_holds_every_source_file_and_no_other",
    "pip install './packages/*": "tests/test_packaging.py::test_requirements",
    "vineyard-client serve --socket /run/*": "tests/two_hosts/test_flights.py::test_each_value_crosses_once",
    "nox -s two-hosts": "tests/two_hosts/test_flights.py::test_each_value_crosses_once",
    "nox -s two-hosts -- -s tests/two_hosts/test_placement.py": (
        "tests/two_hosts/test_placement.py::test_large_values_stay_where_they_are"
    ),
    "rabbitmqctl set_policy *": "tests/provider/test_placement_rabbitmq.py::test_a_message_goes_on_by_itself",
    "nox -s deploy-e2e": _COMPOSE,
    "airflow dags test my_dag": "tests/airflow/test_examples.py::test_etl_pandas",
    "airflow dags test v6d_dag*": "tests/airflow/test_examples.py::test_six_statistics",
    "python examples/run_example.py v6d_dag": _EXAMPLE,
    "python examples/show_xcoms.py v6d_dag": "tests/airflow/test_values.py::test_show_xcoms",
    # The guide to deployment: its steps are those of the end-to-end test.
    "airflow-vineyard-deploy *": "tests/deploy/test_cli.py::test_what_show_prints_is_what_write_writes",
    **dict.fromkeys(("docker *", "pip wheel *", "cd airflow-docker", "mkdir *", "echo *", "cp *"), _COMPOSE),
}

# Commands that no test can run, and why.
NEVER = {
    "nox -s bench": "it takes twenty minutes; the harness has tests of its own",
    "twine upload *": "it publishes",
    "git *": "it changes the repository",
    "helm *": "it needs a cluster; tests/deploy renders the chart with the values",
    "kubectl *": "it needs a cluster; tests/deploy checks the manifests",
    "vineyardctl *": "it needs a cluster",
    "sudo *": "it changes the machine; tests/deploy has systemd judge the units",
}

# What stands for something that is different for each reader, or would not come back, by page.
DIFFERENT = {
    "README.md": {"airflow standalone": "standalone"},
    "packages/core/README.md": {
        "vineyard-client serve --size 4Gi": "vineyard-client serve --detach --size 64Mi",
        "o0016f0c2e3a10001": '"$(python -c "import vineyard_client as vc; print(vc.connect().put([1]).id)")"',
    },
}

# ``standalone`` runs Airflow as ``airflow standalone`` does until it answers, and ends it.
_PRELUDE = r"""
set -euo pipefail
standalone() {
    local url="http://127.0.0.1:$AIRFLOW__API__PORT/api/v2/version"
    setsid airflow standalone >"$AIRFLOW_HOME/standalone.log" 2>&1 &
    for _ in $(seq 120); do
        if python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1])' "$url" 2>/dev/null; then
            kill -- -$!
            wait $! || true
            return 0
        fi
        sleep 0.5
    done
    cat "$AIRFLOW_HOME/standalone.log" >&2
    return 1
}
"""


def matches(command: str, pattern: str) -> bool:
    """Tell whether a command, without its comment, is one that a pattern means."""
    command = re.sub(r"\s+# .*", "", command)
    return command.startswith(pattern[:-1]) if pattern.endswith("*") else command == pattern


def to_run(page: str) -> List[str]:
    """Return the commands of a page that are run here."""
    commands = [command for block in PAGES[page] for command in block.commands]
    return [command for command in commands if not any(matches(command, known) for known in {**ELSEWHERE, **NEVER})]


RUN = [page for page in PAGES if to_run(page)]


@pytest.fixture
def home() -> Iterator[Path]:
    """An AIRFLOW_HOME with a short path; servers that were started in it are ended with it."""
    import vineyard_client

    folder = Path(tempfile.mkdtemp(prefix="docs-"))
    yield folder
    for found in folder.rglob("vineyard.sock"):
        try:
            vineyard_client.stop_server(str(found))
        except vineyard_client.ConnectionFailed:
            continue  # the page has ended it already
    shutil.rmtree(folder)


@pytest.mark.parametrize("page", RUN)
def test_console(page: str, home: Path) -> None:
    """The commands of a page succeed, in order."""
    script = "\n".join(to_run(page))
    for old, new in DIFFERENT.get(page, {}).items():
        assert old in script, f"not on the page any more: {old}"
        script = script.replace(old, new)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "VINEYARD_", "PYTEST_"))}
    env = {
        **inherited,
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "examples" / "dags"),
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
        "AIRFLOW__API__PORT": str(free_port()),
        "AIRFLOW__VINEYARD__SIZE": "256Mi",
        "PYTHONWARNINGS": "ignore",
    }
    if "airflow" not in script:
        env["VINEYARD_IPC_SOCKET"] = str(home / "vineyard.sock")
    elif "airflow dags" in script and "airflow db migrate" not in script:
        subprocess.run(["airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    done = subprocess.run(
        ["bash", "-c", f"{_PRELUDE}set -x\n{script}"], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_every_command_is_somewhere() -> None:
    """What is not run here is on a page still, and the test that runs it exists."""
    commands = [command for page in PAGES.values() for block in page for command in block.commands]
    for known in {**ELSEWHERE, **NEVER}:
        assert any(matches(command, known) for command in commands), f"on no page: {known}"
    for where in ELSEWHERE.values():
        path, _, name = where.partition("::")
        assert (ROOT / path).is_file(), where
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), where
    assert set(DIFFERENT) <= set(RUN)
