"""Redis alone: what waited is moved once, in order, whole, and nothing else is touched."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any, Dict, Iterator, List

import pytest
from vineyard_testing.brokers import missing, redis_server

celery = pytest.importorskip("celery")
redis = pytest.importorskip("redis")

from airflow_provider_vineyard.placement import on_redis as subject  # noqa: E402
from airflow_provider_vineyard.placement.queues import Deadlines, Moved, driver, open_room  # noqa: E402

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(bool(missing("redis-server", "redis-server")), reason=missing("redis-server", "redis-server")),
]

HOST = "default@10.0.0.1:9600"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run a server."""
    with redis_server() as address:
        yield address


@pytest.fixture
def server(url: str) -> Iterator[Any]:
    """Return a client of an empty server."""
    client = redis.Redis.from_url(url)
    client.flushall()
    yield client
    client.close()


class App:
    """A Celery application, and what tests do with it."""

    def __init__(self, url: str, **options: Any) -> None:
        self.celery = celery.Celery("test", broker=url)
        self.celery.conf.broker_transport_options = options
        self.celery.conf.task_default_queue = "default"

    def listen(self, *queues: str) -> None:
        """Declare queues as a worker does it that listens to them."""
        with self.celery.connection_for_write() as connection:
            for queue in queues:
                self.celery.amqp.queues.new_missing(queue)(connection.default_channel).declare()

    def send(self, queue: str, count: int = 1, **options: Any) -> List[str]:
        """Send messages; return their ids."""
        ids = [uuid.uuid4().hex for _ in range(count)]
        for id in ids:
            self.celery.send_task("a_task", args=(id,), queue=queue, task_id=id, **options)
        return ids

    def take(self, queue: str) -> Any:
        """Take the next message as a worker does it, without acknowledging it."""
        with self.celery.connection_for_write() as connection:
            channel = connection.channel()
            message = channel.basic_get(queue, no_ack=False)
            return channel, message


@pytest.fixture
def app(url: str, server: Any) -> Iterator[App]:
    """Return an application on the empty server."""
    made = App(url)
    yield made
    made.celery.close()


@pytest.fixture
def room(app: App) -> Iterator[subject.RedisRoom]:
    """Return its waiting room, with one host that listens."""
    app.listen("default", HOST)
    found = open_room(app.celery)
    assert driver(app.celery) == "redis"
    assert isinstance(found, subject.RedisRoom)
    yield found
    found.close()


def ids(server: Any, key: str) -> List[str]:
    """Return the ids in a list of messages, the next one first."""
    return [json.loads(raw)["headers"]["id"] for raw in reversed(server.lrange(key, 0, -1))]


def at_once() -> Deadlines:
    """Return deadlines that have passed."""
    return Deadlines(0.0)


def test_only_queues_that_somebody_listened_to_are_sent_to(room: subject.RedisRoom, server: Any) -> None:
    """A host that never listened, or a name that somebody made up, is none to wait for, and leaves nothing behind."""
    assert room.open_to([HOST, "default@nobody:1"]) == {HOST}
    assert room.open_to([]) == set()
    assert server.zrange(subject.QUEUES, 0, -1) == [HOST.encode()]


def test_it_waits_until_its_time(room: subject.RedisRoom, app: App, server: Any) -> None:
    """Before that it stays where it is; then it is the next in line of the base queue."""
    room.open_to([HOST])
    (waiting,), (other,) = app.send(HOST), app.send("default")
    deadlines = Deadlines(10.0)
    deadlines.sent(waiting, 1000.0)
    assert room.relieve(deadlines) == []
    assert ids(server, HOST) == [waiting]
    deadlines.sent(waiting, 0.0)
    assert room.relieve(deadlines) == [Moved(waiting, HOST)]
    assert ids(server, HOST) == []
    assert ids(server, "default") == [waiting, other]
    assert len(deadlines) == 1
    assert room.relieve(deadlines) == []
    assert len(deadlines) == 0


def test_several_keep_their_order(room: subject.RedisRoom, app: App, server: Any) -> None:
    """The one that waited longest is taken first."""
    room.open_to([HOST])
    sent = app.send(HOST, 5)
    assert len(room.relieve(at_once())) == 5
    assert ids(server, "default") == sent


def test_the_message_is_the_same(room: subject.RedisRoom, app: App, server: Any) -> None:
    """Nothing but the queue it names has changed, and a worker's client reads it."""
    room.open_to([HOST])
    app.send(HOST)
    before = json.loads(server.lindex(HOST, 0))
    room.relieve(at_once())
    after = json.loads(server.lindex("default", 0))
    assert before["properties"]["delivery_info"].pop("routing_key") == HOST
    assert after["properties"]["delivery_info"].pop("routing_key") == "default"
    assert after == before
    _, message = app.take("default")
    assert message.delivery_info["routing_key"] == "default"


def test_what_a_dead_worker_held_comes_back_to_the_base_queue(room: subject.RedisRoom, app: App, server: Any) -> None:
    """A moved message that is given back stays moved; one that was taken from the host's queue is moved after that."""
    room.open_to([HOST])
    (moved,) = app.send(HOST)
    room.relieve(at_once())
    channel, message = app.take("default")
    channel.basic_reject(message.delivery_tag, requeue=True)
    assert ids(server, "default") == [moved]
    server.delete("default")
    (again,) = app.send(HOST)
    channel, message = app.take(HOST)
    channel.basic_reject(message.delivery_tag, requeue=True)
    assert ids(server, HOST) == [again]
    assert [found.id for found in room.relieve(at_once())] == [again]
    assert ids(server, "default") == [again]


def test_two_movers_and_a_worker(app: App, room: subject.RedisRoom, server: Any) -> None:
    """Each message is in one hand only, whoever reaches for it at the same time."""
    room.open_to([HOST])
    sent = set(app.send(HOST, 200))
    other = subject.RedisRoom(app.celery)
    moved: Dict[int, List[str]] = {1: [], 2: []}
    taken: List[str] = []

    def move(number: int, with_room: subject.RedisRoom) -> None:
        for _ in range(20):
            moved[number] += [found.id for found in with_room.relieve(at_once())]

    def work() -> None:
        for _ in range(60):
            raw = server.rpop(HOST)
            if raw:
                taken.append(json.loads(raw)["headers"]["id"])

    threads = [threading.Thread(target=move, args=pair) for pair in ((1, room), (2, other))]
    threads.append(threading.Thread(target=work))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    room.relieve(at_once())
    other.close()
    arrived = ids(server, "default")
    assert sorted([*arrived, *taken]) == sorted(sent)
    assert not set(moved[1]) & set(moved[2])


def test_another_scheduler_finds_what_waits(room: subject.RedisRoom, app: App, server: Any) -> None:
    """Who was just started knows the queues that others sent to, and gives unknown messages the longest time."""
    room.open_to([HOST])
    (waiting,) = app.send(HOST)
    new = subject.RedisRoom(app.celery)
    deadlines = Deadlines(1000.0)
    assert new.relieve(deadlines) == []
    assert len(deadlines) == 1
    deadlines.sent(waiting, 0.0)
    assert new.relieve(deadlines) == [Moved(waiting, HOST)]
    new.close()


def test_prefixed_keys(url: str, server: Any) -> None:
    """With a prefix for all keys, those with it are used and no others."""
    app = App(url, global_keyprefix="ours:")
    app.listen("default", HOST)
    room = subject.RedisRoom(app.celery)
    assert room.open_to([HOST]) == {HOST}
    (waiting,) = app.send(HOST)
    room.relieve(at_once())
    assert ids(server, "ours:default") == [waiting]
    assert all(key.startswith(b"ours:") for key in server.scan_iter())
    room.close()
    app.celery.close()


def test_priorities(url: str, server: Any) -> None:
    """Who gives all tasks a priority has them moved from each list to the one of the same priority."""
    app = App(url)
    app.celery.conf.task_default_priority = 6
    app.listen("default", HOST)
    room = subject.RedisRoom(app.celery)
    room.open_to([HOST])
    (waiting,) = app.send(HOST, priority=6)
    (there,) = server.scan_iter(f"{HOST}*")
    assert there != HOST.encode()
    assert [found.id for found in room.relieve(at_once())] == [waiting]
    assert ids(server, there.decode().replace(HOST, "default")) == [waiting]
    room.close()
    app.celery.close()


def test_what_is_no_message(room: subject.RedisRoom, server: Any) -> None:
    """It does not keep others from being moved, and is moved as it is."""
    room.open_to([HOST])
    server.lpush(HOST, b"\xff no json", b"7", b'{"properties": 1}')
    assert len(room.relieve(at_once())) == 3
    assert server.lrange("default", 0, -1)[::-1] == [b"\xff no json", b"7", b'{"properties": 1}']


def test_a_queue_is_forgotten(room: subject.RedisRoom, app: App, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a week without messages it is looked at no more; one that has any is."""
    other = "default@10.0.0.2:9600"
    app.listen(other)
    room.open_to([HOST, other])
    app.send(other)
    long_ago = time.time() - 8 * 86400
    server.zadd(subject.QUEUES, {HOST: long_ago, other: long_ago})
    monkeypatch.setattr(room, "_looked", 0.0)
    room.relieve(Deadlines(1000.0))
    assert server.zrange(subject.QUEUES, 0, -1) == [other.encode()]
    # Its binding is kombu's own, so it is sent to again once somebody wants to.
    assert room.open_to([HOST]) == {HOST}
    assert set(server.zrange(subject.QUEUES, 0, -1)) == {HOST.encode(), other.encode()}


def test_no_server() -> None:
    """It is said at once, and nobody waits for a connection that does not come."""
    app = celery.Celery("test", broker="redis://127.0.0.1:1/0")
    with pytest.raises(Exception, match="refused"):
        subject.RedisRoom(app)
