"""RabbitMQ with the policy of the docs: what waited goes on by itself, and without it nothing is sent to a host."""

from __future__ import annotations

import re
import shlex
import time
import uuid
from typing import Any, Callable, Iterator, List

import pytest
from vineyard_testing.brokers import RabbitServer, missing, rabbit_server
from vineyard_testing.machines import ROOT

celery = pytest.importorskip("celery")

from airflow_provider_vineyard.placement import on_rabbitmq as subject  # noqa: E402
from airflow_provider_vineyard.placement.listen import listen  # noqa: E402
from airflow_provider_vineyard.placement.queues import Deadlines, open_room  # noqa: E402
from airflow_provider_vineyard.settings import PlacementSettings  # noqa: E402

NEEDS = missing("rabbitmq-server", "rabbitmq-server")

pytestmark = [pytest.mark.airflow, pytest.mark.skipif(bool(NEEDS), reason=NEEDS)]

PLACE = "10.0.0.1:9600"
HOST = f"default@{PLACE}"


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    """Run a server."""
    with rabbit_server() as running:
        yield running


@pytest.fixture
def app(server: RabbitServer) -> Iterator[Any]:
    """Return an application, with no policy in the broker."""
    made = celery.Celery("test", broker=server.url)
    made.conf.task_default_queue = "default"
    yield made
    made.close()
    for name in ("vineyard-default", "wrong"):
        if name in server.control("list_policies"):
            server.control("clear_policy", name)


def until(ready: Callable[[], Any], seconds: float) -> Any:
    """Return the first true answer, or the last one."""
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.05)
    return ready()


def set_policy(server: RabbitServer, command: str) -> None:
    """Run a command as the operator would."""
    program, *arguments = shlex.split(command)
    assert program == "rabbitmqctl"
    server.control(*arguments)


def worker(app: Any) -> List[str]:
    """Declare what a worker on the host listens to; return the names of its queues."""
    app.amqp.queues.select(["default"])
    listen(app.amqp.queues, PlacementSettings(True, 0, 1.0, 10.0, PLACE, ()))
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.consume_from.values():
            queue(connection.default_channel).declare()
    return list(app.amqp.queues.consume_from)


def take(app: Any, queue: str) -> List[str]:
    """Return the ids of the messages in a queue, which are acknowledged."""
    found = []
    with app.connection_for_write() as connection:
        declared = app.amqp.queues[queue](connection.default_channel)
        declared.declare()
        while True:
            message = declared.get(no_ack=True)
            if message is None:
                return found
            found.append(message.headers["id"])


def test_the_docs_have_this_policy() -> None:
    """What the page has people type is what the scheduler names, and what is tested here."""
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\$ (rabbitmqctl set_policy .*)$", text, re.MULTILINE)
    assert shlex.split(command) == shlex.split(subject.policy("default", 3.0))


def test_a_message_goes_on_by_itself(server: RabbitServer, app: Any) -> None:
    """A host that is busy, and one that is gone: after the policy's time the message is in the base queue."""
    set_policy(server, subject.policy("default", 0.5))
    assert worker(app) == ["default", HOST]
    ids = [uuid.uuid4().hex for _ in range(3)]
    for id, queue in zip(ids, (HOST, HOST, "default@10.0.0.9:9600")):
        app.send_task("a_task", queue=queue, task_id=id)
    found: List[str] = []

    def arrived() -> bool:
        found.extend(take(app, "default"))
        return len(found) == 3

    assert until(arrived, 20)
    assert sorted(found) == sorted(ids)
    assert found.index(ids[0]) < found.index(ids[1])


def test_a_host_is_open_once_the_policy_has_shown_itself(server: RabbitServer, app: Any) -> None:
    """It needs no scheduler's hand after that, and nothing of the probe is left."""
    set_policy(server, subject.policy("default", 0.2))
    room = open_room(app)
    assert isinstance(room, subject.RabbitRoom)
    assert room.open_to([HOST]) == set()
    assert until(lambda: room.open_to([HOST, "other@x:1"]) == {HOST}, 20)
    assert room.relieve(Deadlines(0.0)) == []
    assert room.complaint() == ""
    room.close()
    assert until(lambda: "vineyard-" not in server.control("list_queues", "name"), 20)
    assert take(app, "default") == []


def test_without_a_policy_no_host_is_open(server: RabbitServer, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message there would wait for ever; the operator is told what to do, and then it opens."""
    monkeypatch.setattr(subject, "_EVERY", 0.5)
    monkeypatch.setattr(subject, "_LATE", 0.2)
    room = subject.RabbitRoom(app)
    assert not until(lambda: room.open_to([HOST]), 2)
    assert until(room.complaint, 5) == (
        f"RabbitMQ does not move messages on. Set a policy: {subject.policy('default')}"
    )
    set_policy(server, subject.policy("default", 0.1))
    assert until(lambda: room.open_to([HOST]), 20)
    room.close()


@pytest.mark.parametrize(
    "definition", ['{"dead-letter-exchange": "", "dead-letter-routing-key": "default"}', '{"message-ttl": 100}']
)
def test_half_a_policy(server: RabbitServer, app: Any, definition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never moves messages, or throws them away, is none."""
    monkeypatch.setattr(subject, "_EVERY", 0.5)
    server.control("set_policy", "wrong", "^default@", definition, "--apply-to", "queues")
    room = subject.RabbitRoom(app)
    assert not until(lambda: room.open_to([HOST]), 3)
    room.close()


def test_no_server() -> None:
    """It is said at once."""
    app = celery.Celery("test", broker="amqp://127.0.0.1:1//")
    with pytest.raises(Exception, match="refused"):
        subject.RabbitRoom(app)


@pytest.mark.parametrize("queue", ["default", "a.b", "it's"])
def test_the_command_can_be_typed(queue: str) -> None:
    """Whatever the queue is called, a shell passes on what RabbitMQ needs, and the pattern is for no other queue."""
    _, _, name, pattern, definition, *_ = shlex.split(subject.policy(queue))
    assert name == f"vineyard-{queue}"
    assert re.match(pattern, f"{queue}@host:1")
    assert not re.match(pattern, "axb@host:1")
    assert f'"{queue}"' in definition
