"""The real CeleryExecutor of the installed provider, on real Redis: where a batch goes, and what becomes of it.

Messages are published as Airflow publishes them, and read from Redis. The tables are those of ``metadata``.
"""

from __future__ import annotations

import base64
import json
import logging
import tempfile
import uuid
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from vineyard_testing.brokers import missing, redis_server

pytest.importorskip("airflow.providers.celery")
redis = pytest.importorskip("redis")
from vineyard_testing.metadata import Metadata, row  # noqa: E402

from airflow_provider_vineyard import version_compat  # noqa: E402
from airflow_provider_vineyard.placement import on_redis, sender, shares  # noqa: E402

VERSION = version_compat.airflow_version()

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(VERSION < (2, 10), reason="placement is for Airflow 2.10 and newer"),
    pytest.mark.skipif(bool(missing("redis-server", "redis-server")), reason=missing("redis-server", "redis-server")),
    # What Airflow and Celery warn of, among it that they fork to publish.
    pytest.mark.filterwarnings("ignore"),
]

A, B = "10.0.0.1:9600", "10.0.0.2:9600"
ON_A = f"default@{A}"
LARGE = 100_000_000

# Those of the test that runs.
TABLES: List[Metadata] = []


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run the broker, which Airflow's Celery application is told of when it is imported."""
    folder = Path(tempfile.mkdtemp(prefix="vp-"))
    with redis_server() as address, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW__CELERY__BROKER_URL", address)
        environment.setenv("AIRFLOW__CELERY__RESULT_BACKEND", f"db+sqlite:///{folder}/results.db")
        environment.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret that is long enough for HMAC-SHA-512, all of it")
        yield address


@pytest.fixture
def server(url: str) -> Iterator[Any]:
    """Return a client of an empty broker."""
    client = redis.Redis.from_url(url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    """Return empty tables, which the provider reads and writes."""
    monkeypatch.setattr(shares, "_graphs", {})
    made = Metadata()
    TABLES.append(made)
    monkeypatch.setattr(version_compat, "create_session", made.session)
    yield made
    TABLES.remove(made)
    made.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """Return the names of metrics that were counted."""
    names: List[str] = []
    monkeypatch.setattr(version_compat, "count", names.append)
    return names


@pytest.fixture
def executor(server: Any, tables: Metadata, options: Callable[..., None], counted: List[str]) -> Any:
    """Return an executor with placement on and one host that listens."""
    options(placement="True")
    module = import_module("airflow_provider_vineyard.executors.celery")
    made = module.VineyardCeleryExecutor()
    made.start()
    listen(made, "default", ON_A)
    return made


def application(executor: Any) -> Any:
    """Return its Celery application."""
    module = import_module("airflow.providers.celery.executors.celery_executor")
    return getattr(executor, "celery_app", None) or module.app


def listen(executor: Any, *queues: str) -> None:
    """Declare queues, as a worker does it that listens to them."""
    app = application(executor)
    with app.connection_for_write() as connection:
        for queue in queues:
            app.amqp.queues.new_missing(queue)(connection.default_channel).declare()


def instance(task_id: str, version: str, **more: Any) -> Any:
    """Return a task instance in the form in which this release hands it to an executor."""
    values: Dict[str, Any] = {"dag_id": "kinds", "run_id": "r", "task_id": task_id, "map_index": -1, "try_number": 1}
    values.update(more)
    if not version_compat.is_airflow_3():
        key = import_module("airflow.models.taskinstancekey").TaskInstanceKey
        return key(values["dag_id"], values["task_id"], values["run_id"], values["try_number"], values["map_index"])
    workloads = import_module("airflow.executors.workloads")
    kind = getattr(workloads, "TaskInstance", None) or import_module("airflow.executors.workloads.task").TaskInstanceDTO
    given = {"id": uuid.uuid4(), "dag_version_id": uuid.UUID(version), "queue": "default", "pool_slots": 1}
    given.update(priority_weight=1, external_executor_id=str(uuid.uuid4()), **values)
    if "dag_version_id" not in kind.model_fields:  # as on 3.0, where it is looked up
        TABLES[-1].instance(version=version, **{name: values[name] for name in ("task_id", "run_id", "try_number")})
    return kind(**{name: value for name, value in given.items() if name in kind.model_fields})


def queue(executor: Any, *instances: Any) -> None:
    """Queue task instances as the scheduler does it, and have the executor send them."""
    if not version_compat.is_airflow_3():
        for key in instances:
            command = ["airflow", "tasks", "run", key.dag_id, key.task_id, key.run_id, "--local"]
            executor.queued_tasks[key] = (command, 1, "default", SimpleNamespace(executor_config=None, key=key))
    else:
        workloads = import_module("airflow.executors.workloads")
        for ti in instances:
            bundle = workloads.BundleInfo(name="dags", version=None)
            task = workloads.ExecuteTask(ti=ti, token="", dag_rel_path="kinds.py", bundle_info=bundle, log_path="log")
            executor.queue_workload(task, session=None)
    executor.trigger_tasks(100)


def waiting(server: Any, name: str) -> List[str]:
    """Return the tasks whose messages are in a queue, the next one first, having looked at their bodies."""
    found = []
    for raw in reversed(server.lrange(name, 0, -1)):
        ((body,), *_) = json.loads(base64.b64decode(json.loads(raw)["body"]))
        if version_compat.is_airflow_3():
            ti = json.loads(body)["ti"]
            assert ti["queue"] == "default", "the task's own queue is what the message says"
            found.append(ti["task_id"])
        else:
            found.append(body[4])
    return found


def test_a_task_goes_to_its_input(executor: Any, server: Any, tables: Metadata, counted: List[str]) -> None:
    """It is sent to the queue of the host that has the bytes, and log, metrics and audit log say so."""
    version = tables.dag()
    tables.xcom("extract", row(A, LARGE))
    queue(executor, instance("clean", version))
    assert waiting(server, ON_A) == ["clean"]
    assert waiting(server, "default") == []
    assert counted == [sender.PLACED]
    text = f"on {A}, which has {LARGE} of {LARGE} bytes of its inputs"
    assert tables.audit() == [("placed", "clean", -1, text)]
    ((key, (state, id)),) = executor.event_buffer.items()
    assert (key.task_id, str(state.value if hasattr(state, "value") else state)) == ("clean", "queued")
    assert json.loads(server.lindex(ON_A, 0))["headers"]["id"] == id
    assert not executor.queued_tasks and key in executor.running


def test_a_batch_is_sent_as_a_whole(executor: Any, server: Any, tables: Metadata) -> None:
    """What has no input, small input, input at a host that never listened, or is no first try, goes anywhere."""
    version = tables.dag()
    tables.xcom("extract", row(A, LARGE))
    tables.xcom("square", row(A, 1000), map_index=0)
    tables.xcom("parts", row(B, LARGE))
    names = ["clean", "extract", "total", "part_of"]
    queue(executor, *[instance(name, version) for name in names], instance("pulls", version, try_number=2))
    assert waiting(server, ON_A) == ["clean"]
    assert sorted(waiting(server, "default")) == sorted(["extract", "total", "part_of", "pulls"])
    assert not server.exists(f"default@{B}")


def test_it_is_relieved_in_time(executor: Any, server: Any, tables: Metadata, counted: List[str]) -> None:
    """A message that its host did not take is anybody's after its wait, which is that of its bytes."""
    version = tables.dag()
    tables.xcom("extract", row(A, LARGE))
    queue(executor, instance("clean", version))
    (id,) = executor._vineyard._deadlines._ends
    executor.sync()
    assert waiting(server, ON_A) == ["clean"]
    executor._vineyard._deadlines.sent(id, 0.0)
    executor.sync()
    assert (waiting(server, ON_A), waiting(server, "default")) == ([], ["clean"])
    assert counted == [sender.PLACED, sender.RELIEVED]


def test_how_long_it_waits(executor: Any, server: Any, tables: Metadata, options: Callable[..., None]) -> None:
    """Bytes ÷ bandwidth, and not longer than the limit."""
    options(placement="True", placement_bandwidth="1M", placement_wait="5")
    version = tables.dag()
    tables.xcom("extract", row(A, 100_000_000))
    tables.xcom("names", row(A, 1))
    deadlines: Dict[str, float] = {}
    executor.sync()
    executor._vineyard._deadlines.sent = deadlines.__setitem__
    queue(executor, instance("clean", version))
    assert list(deadlines.values()) == [5.0]
    options(placement="True", placement_bandwidth="100M", placement_wait="5")
    queue(executor, instance("pulls", version))
    assert list(deadlines.values()) == [5.0, 1.0]


def test_peers_bound_the_places(executor: Any, server: Any, tables: Metadata, options: Callable[..., None]) -> None:
    """Where the operator said which hosts there are, a row leads to no other."""
    options(placement="True", peers="10.9.*:9600")
    version = tables.dag()
    tables.xcom("extract", row(A, LARGE))
    queue(executor, instance("clean", version))
    assert waiting(server, "default") == ["clean"]


@pytest.mark.parametrize("settings", [{}, {"placement": "False"}, {"placement": "True", "placement_wait": "0"}])
def test_off_is_plain(
    executor: Any,
    server: Any,
    tables: Metadata,
    options: Callable[..., None],
    settings: Dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is read or placed; what waits since the option was on is anybody's at once."""
    version = tables.dag()
    tables.xcom("extract", row(A, LARGE))
    queue(executor, instance("clean", version))
    assert waiting(server, ON_A) == ["clean"]
    monkeypatch.delenv("AIRFLOW__VINEYARD__PLACEMENT")
    options(**settings)
    executor._vineyard = None  # as after a restart
    plain = instance("pulls", version)
    tables.queries.clear()
    queue(executor, plain)
    executor.sync()
    executor.sync()
    assert tables.queries == []
    assert sorted(waiting(server, "default")) == ["clean", "pulls"]


def test_a_scheduler_that_is_restarted(executor: Any, server: Any, tables: Metadata) -> None:
    """The next one finds what waits, and it waits at most the longest time from then on."""
    version = tables.dag()
    tables.xcom("extract", row(A, LARGE))
    queue(executor, instance("clean", version))
    executor._vineyard = None
    executor.sync()
    deadlines = executor._vineyard._deadlines
    assert len(deadlines) == 1
    assert deadlines.longest == 10.0
    (id,) = deadlines._ends
    deadlines.sent(id, 0.0)
    executor.sync()
    assert waiting(server, "default") == ["clean"]


def test_the_database_cannot_be_read(
    executor: Any, server: Any, tables: Metadata, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches go out as without placement, and one warning a minute says why."""

    def fail() -> None:
        raise RuntimeError("no database")

    monkeypatch.setattr(version_compat, "create_session", fail)
    with caplog.at_level(logging.WARNING, sender.__name__):
        queue(executor, instance("clean", "00000000-0000-0000-0000-000000000000"))
        queue(executor, instance("pulls", "00000000-0000-0000-0000-000000000000"))
    assert waiting(server, "default") == ["clean", "pulls"]
    texts = [record.getMessage() for record in caplog.records if record.name == sender.__name__]
    assert texts == ["[vineyard] placement: A batch is sent without placement: RuntimeError: no database"]


def test_a_wrong_option(
    executor: Any, server: Any, tables: Metadata, options: Callable[..., None], caplog: Any
) -> None:
    """It does not keep tasks from being sent, and is named."""
    options(placement="perhaps")
    with caplog.at_level(logging.WARNING, sender.__name__):
        queue(executor, instance("clean", "00000000-0000-0000-0000-000000000000"))
        executor.sync()
    assert waiting(server, "default") == ["clean"]
    assert any("[vineyard] placement is 'perhaps'" in record.getMessage() for record in caplog.records)


def test_nothing_is_placed_while_nothing_can_be_moved(
    executor: Any, server: Any, tables: Metadata, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that nobody could move on is not sent to a host; when it works again, the next one is."""
    version = tables.dag()
    tables.xcom("extract", row(A, LARGE))
    executor.sync()

    def fail(*_: Any) -> None:
        raise redis.ConnectionError("gone")

    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING, sender.__name__):
        broken.setattr(on_redis.RedisRoom, "relieve", fail)
        executor.sync()
        queue(executor, instance("clean", version))
    assert waiting(server, "default") == ["clean"]
    assert any("cannot be moved on" in record.getMessage() for record in caplog.records)
    executor._vineyard._next_try = 0.0
    executor.sync()
    queue(executor, instance("pulls", version))
    assert waiting(server, ON_A) == ["pulls"]


def test_a_broker_that_cannot_move_messages(
    executor: Any, tables: Metadata, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, and nothing is placed."""
    import celery

    made = sender.Sender(lambda: celery.Celery("test", broker="memory://"))
    version = tables.dag()
    tables.xcom("extract", row(A, LARGE))
    item = (None, SimpleNamespace(ti=instance("clean", version)), "default", None)
    if not version_compat.is_airflow_3():
        item = (instance("clean", version), [], "default", None)
    with caplog.at_level(logging.WARNING, sender.__name__):
        for _ in range(3):
            assert made.place([item]) == ([item], {})
            made.relieve()
    texts = [record.getMessage() for record in caplog.records if record.name == sender.__name__]
    assert len(texts) == 1
    assert "a broker of the kind 'memory' cannot" in texts[0]


def test_what_a_batch_costs(executor: Any, server: Any, tables: Metadata) -> None:
    """Whatever its size: one query for rows, one connection, the graph once; and the rows of the audit log."""
    version = tables.dag()
    for number in range(32):
        tables.xcom("extract", row(A, LARGE), run_id=f"r{number}")
    queue(executor, instance("clean", version, run_id="r0"))
    tables.queries.clear()
    queue(executor, *[instance("clean", version, run_id=f"r{number}") for number in range(1, 32)])
    assert sum("FROM xcom" in query for query in tables.queries) == 1
    assert [query for query in tables.queries if "serialized_dag" in query and "data" in query] == []
    assert len(waiting(server, ON_A)) == 32


def test_the_class(executor: Any) -> None:
    """It is found by its name, is the provider's own beside that, and there is one of it."""
    module: Any = import_module("airflow_provider_vineyard.executors.celery")
    base = import_module("airflow.providers.celery.executors.celery_executor").CeleryExecutor
    found = module.VineyardCeleryExecutor
    assert found is type(executor)
    assert issubclass(found, base)
    assert (found.__name__, found.__module__) == ("VineyardCeleryExecutor", module.__name__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_a_provider_that_is_not_known(caplog: pytest.LogCaptureFixture) -> None:
    """With no method that is known to send, it is the plain executor, and says so."""
    module = import_module("airflow_provider_vineyard.executors.celery")

    class Later:
        def sync(self) -> Optional[str]:
            return "synced"

    with caplog.at_level(logging.WARNING, module.__name__):
        made = module.build(Later)
    assert "not known here" in caplog.text
    assert not {"_send_workloads", "_send_tasks", "_process_tasks"} & vars(made).keys()
