"""The reference Compose file on a real engine: the README's steps, the flights pipeline over a bucket, its end.

The tests of this module stand in the order of a deployment's life and share one.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from vineyard_testing.compose import EXTRA, Project
from vineyard_testing.engine import Engine
from vineyard_testing.markdown import ROOT, by_language
from vineyard_testing.ports import free_port

HERE = Path(__file__).parent
STORES = {"a": "vineyardd", "b": "vineyardd-2"}
WORKERS = ("airflow-worker", "airflow-worker-2")

# The README's steps.
(STEPS,) = [
    block.commands
    for block in by_language("console")["packages/deploy/README.md"]
    if "docker compose build" in block.text
]


def in_vineyard(row: Any) -> bool:
    """Tell whether a row refers to a value, and does not hold it."""
    return isinstance(row, dict) and "endpoint" in row.get("vineyard", ())


class Stack(Project):
    """The reference project.

    Attributes:
        sent_before: what the stores of hosts had sent to others before the pipeline.
    """

    def __init__(self, engine: Engine, clone: Path) -> None:
        # What is different from the README: it runs beside others, is small, and has a queue for each worker.
        env = {
            "AIRFLOW_PORT": str(free_port()),
            "AIRFLOW_IMAGE_NAME": "e2e/airflow-vineyard",
            "VINEYARD_EXTRA_PACKAGES": EXTRA,
            "VINEYARDD_SIZE": "512Mi",
            "VINEYARD_TIER": "s3://values/of-flights",
            "COMPOSE_FILE": "docker-compose.yaml:queues.yaml:bucket.yaml",
            "COMPOSE_PROJECT_NAME": "deploy-e2e",
        }
        super().__init__(engine, clone, "airflow-docker", env)
        self.sent_before: Dict[str, int] = {}

    def sent(self, store: str) -> int:
        """Return how many bytes a store's container has sent to others."""
        lines = self.execute(store, "cat", "/proc/net/dev").splitlines()
        (line,) = [line for line in lines if line.split(":")[0].strip() == "eth0"]
        return int(line.split(":")[1].split()[8])

    def run_flights(self, run_id: str, *workers: str) -> None:
        """Run the pipeline to success."""
        super().run_flights(run_id, *(workers or WORKERS))


@pytest.fixture(scope="module")
def project(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The project as the README's steps make it, not started yet."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("packages", "examples"):
        (clone / name).symlink_to(ROOT / name)
    made = Stack(engine, clone)
    made.step(*STEPS[: STEPS.index("airflow-vineyard-deploy check")])
    shutil.copy(ROOT / "examples" / "dags" / "flights.py", made.folder / "dags")
    shutil.copy(ROOT / "tests" / "two_hosts" / "config" / "airflow_local_settings.py", made.folder / "config")
    shutil.copy(HERE / "digests.py", made.folder / "config")
    for name in ("queues.yaml", "bucket.yaml", "tier.env"):
        shutil.copy(HERE / name, made.folder)
    made.append_env()
    made.give_away()
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def stack(project: Stack) -> Stack:
    """The project, built and up."""
    for step in STEPS[STEPS.index("airflow-vineyard-deploy check") + 1 :]:
        started = time.monotonic()
        project.step("cd airflow-docker", step)
        print(f"{step}: {time.monotonic() - started:.0f} s")
    return project


@pytest.fixture(scope="module")
def rows(stack: Stack) -> Dict[str, Any]:
    """Run the pipeline; return the rows of its XComs by task."""
    stack.sent_before = {host: stack.sent(store) for host, store in STORES.items()}
    stack.run_flights("first")
    found = stack.query("select task_id, value from xcom where dag_id = 'flights' and key = 'return_value'")
    return {task: json.loads(value) for task, value in found}


# ---- before anything starts


def test_check_finds_nothing_in_what_can_start(project: Stack) -> None:
    """With the README's steps done, nothing speaks against it, and nothing is there yet."""
    done = project.deploy("check", str(project.folder))
    assert (done.returncode, done.stdout) == (0, "Nothing speaks against starting it.\n")
    assert not any(project.left().values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"VINEYARDD_SIZE": "much"}, "vineyardd: 'much' is no size"),
        ({"VINEYARDD_SIZE": "9Ti"}, "The stores reserve 18874368 MiB"),
        (
            {"AIRFLOW_BASE_IMAGE": "apache/airflow:9.9.9-python3.12"},
            "There is no image apache/airflow:9.9.9-python3.12 here",
        ),
        ({"AIRFLOW_UID": ""}, "There is no .env that sets it; copy .env.example to .env"),
    ],
)
def test_check_finds_what_would_fail(change: Dict[str, str], words: str, project: Stack) -> None:
    """Each mistake is named; nothing was started, pulled or made."""
    right = (project.folder / ".env").read_text()
    project.append_env(AIRFLOW_IMAGE_NAME="e2e/not-built", **change)
    done = project.deploy("check", str(project.folder))
    (project.folder / ".env").write_text(right)
    assert done.returncode == 1
    assert words in done.stdout
    assert not any(project.left().values())


def test_check_finds_a_port_in_use(project: Stack) -> None:
    """A port that somebody listens at is named."""
    with socket.socket() as busy:
        busy.bind(("0.0.0.0", int(project.env["AIRFLOW_PORT"])))
        busy.listen()
        done = project.deploy("check", str(project.folder))
    assert done.returncode == 1
    assert f"port {project.env['AIRFLOW_PORT']} is in use" in done.stdout


# ---- up


def test_doctor_is_content(stack: Stack) -> None:
    """On both hosts settings, socket, permissions, endpoint and a round trip are as they should be."""
    for worker in WORKERS:
        found = json.loads(stack.execute(worker, "airflow", "vineyard", "doctor", "--json"))
        assert {check["result"] for check in found["checks"]} == {"ok"}, found


def test_nothing_runs_as_root(stack: Stack) -> None:
    """Airflow and the stores run as the user of .env, the stores without any capability."""
    for service in ("airflow-worker", "airflow-scheduler", *STORES.values()):
        assert stack.execute(service, "id", "-u").strip() == "50000"
    for store in STORES.values():
        status = stack.execute(store, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status


def test_memory_is_counted_to_the_store(stack: Stack) -> None:
    """Before any value is stored, each store's container has all of its memory already."""
    for store in STORES.values():
        container = stack.compose("ps", "--quiet", store).strip()
        used = stack.engine.run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container)
        assert float(used.partition("MiB")[0]) >= 512


def test_check_while_it_runs(stack: Stack) -> None:
    """The port and the memory that it has itself are no problem."""
    done = stack.deploy("check", str(stack.folder))
    assert done.returncode == 0, done.stdout


def test_each_value_crosses_once(stack: Stack, rows: Dict[str, Any]) -> None:
    """Each store sent what tasks of the other host needed, once, and hardly anything else."""
    sizes = {task: row["vineyard"]["size"] for task, row in rows.items() if "vineyard" in row}
    expected = {
        "a": sizes["extract"] + sizes["delays_per_carrier"] + sizes["delays_per_hour"],
        "b": sizes["clean"],  # which two tasks read on the other host
    }
    for host, store in STORES.items():
        sent = stack.sent(store) - stack.sent_before[host]
        # Headers of TCP, and the exchanges about the objects.
        assert expected[host] <= sent <= expected[host] * 1.1 + 300_000, (host, expected, sent)


def test_rows_name_the_store_that_has_the_value(rows: Dict[str, Any]) -> None:
    """References carry the endpoint of the producer's host."""
    endpoints = {task: row["vineyard"]["endpoint"] for task, row in rows.items() if in_vineyard(row)}
    assert endpoints["extract"] == "vineyardd:9600"
    assert endpoints["clean"] == "vineyardd-2:9600"


def test_a_killed_worker_comes_back(stack: Stack, rows: Dict[str, Any]) -> None:
    """After SIGKILL and a new start its store still has the values, and the pipeline runs over it again."""
    before = stack.execute(
        "vineyardd-2", "vineyard-client", "list", "--json", "--socket", "/var/run/vineyard/vineyard.sock"
    )
    stack.compose("kill", "airflow-worker-2")
    stack.compose("up", "--detach", "--wait", "airflow-worker-2")
    after = stack.execute(
        "vineyardd-2", "vineyard-client", "list", "--json", "--socket", "/var/run/vineyard/vineyard.sock"
    )
    assert json.loads(before) and json.loads(after) == json.loads(before)
    stack.run_flights("second")


# ---- values outlive their stores


@pytest.fixture(scope="module")
def saved(stack: Stack, rows: Dict[str, Any]) -> Dict[str, Any]:
    """Return those rows of the first run whose values are in vineyard, and in the bucket."""
    return {task: row for task, row in rows.items() if in_vineyard(row)}


@pytest.fixture(scope="module")
def values(stack: Stack, saved: Dict[str, Any]) -> Dict[str, str]:
    """Return what the values are, before anything happens to a store."""
    return read(stack, "airflow-worker", saved)


def read(stack: Stack, worker: str, rows: Dict[str, Any]) -> Dict[str, str]:
    """Return digests of the values that rows refer to, as a host reads them."""
    out = stack.execute(worker, "python", "/opt/airflow/config/digests.py", input=json.dumps(rows))
    found: Dict[str, str] = json.loads(out.splitlines()[-1])
    return found


def test_values_are_saved(stack: Stack, saved: Dict[str, Any], values: Dict[str, str]) -> None:
    """When a task has ended its value is in the bucket, by the agent of its host, which alone has the credentials."""
    assert {"extract", "clean"} <= set(saved) == set(values)
    assert all(row["vineyard"].get("copy") for row in saved.values())
    for agent in ("vineyard-agent", "vineyard-agent-2"):
        assert "AWS_SECRET_ACCESS_KEY" in stack.execute(agent, "env")
        found = stack.execute(agent, "curl", "--fail", "--silent", "http://127.0.0.1:9601/metrics")
        metrics = dict(line.split() for line in found.splitlines() if not line.startswith("#"))
        assert (metrics["vineyard_up"], metrics["vineyard_unsaved_values"]) == ("1", "0")
        assert float(metrics["vineyard_saved_values_total"]) >= 1
    for other in ("airflow-worker", "airflow-scheduler", "vineyardd"):
        assert "AWS_SECRET_ACCESS_KEY" not in stack.execute(other, "env")


def test_a_killed_store(stack: Stack, saved: Dict[str, Any], values: Dict[str, str]) -> None:
    """Its memory is gone; both hosts read the same values from the bucket, and doctor is content."""
    stack.compose("kill", "vineyardd")
    stack.compose("up", "--detach", "--wait", "vineyardd")
    for worker in WORKERS:
        assert read(stack, worker, saved) == values
    found = json.loads(stack.execute("airflow-worker", "airflow", "vineyard", "doctor", "--json"))
    assert {check["result"] for check in found["checks"]} == {"ok"}, found


def test_a_lost_host(stack: Stack, saved: Dict[str, Any], values: Dict[str, str]) -> None:
    """A worker host is gone with its store, its agent and its disk: the other host reads what it had put."""
    host = ("airflow-worker-2", "vineyard-agent-2", "vineyardd-2")
    stack.compose("kill", *host)
    stack.compose("rm", "--force", *host)
    for volume in ("spill-2", "vineyard-2"):
        stack.engine.run("docker", "volume", "rm", f"{stack.env['COMPOSE_PROJECT_NAME']}_{volume}")
    assert read(stack, "airflow-worker", saved) == values
    stack.compose("up", "--detach", "--wait", *host)
    assert read(stack, "airflow-worker-2", saved) == values


def test_everything_is_restarted(stack: Stack, saved: Dict[str, Any], values: Dict[str, str]) -> None:
    """All containers end and others start: nothing is lost, and the pipeline succeeds."""
    stack.compose("down")
    stack.compose("up", "--detach", "--wait")
    for worker in WORKERS:
        assert read(stack, worker, saved) == values
    stack.run_flights("third")


# ---- down


def test_down_leaves_nothing(stack: Stack) -> None:
    """No container, volume or network of it is left."""
    assert all(stack.left().values())
    started = time.monotonic()
    stack.compose("down", "--volumes")
    print(f"down in {time.monotonic() - started:.0f} s")
    assert not any(stack.left().values())
