"""200,000 objects in a store: nothing that is done in ordinary work keeps the server busy for long with one thing.

What one exchange takes the server is what all others wait. It is measured as the time that its threads ran meanwhile,
which says the same on a busy machine; what a bystander waits is in ``benchmarks/scale.py``.
"""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Callable, Iterator, List

import pytest
from vineyard_testing.processes import fork, wait

import vineyard_client as vc
from vineyard_client._agent.keeper import collect
from vineyard_client._io.deadline import Deadline
from vineyard_client._store.conversation import Conversation, Exchange
from vineyard_client._store.inventory import WHOLE
from vineyard_client._store.meta import GUARD_SIZE
from vineyard_client._wire.messages import CreateBuffer, CreateData, Release, Seal

pytestmark = pytest.mark.integration

OBJECTS = int(os.environ.get("VINEYARD_LOAD_OBJECTS", "200000"))

# Just too large for the metadata.
SIZE = 1200

# Seconds of the server's for one exchange.
LIMIT = 0.05


def fill(socket: str, number: int) -> None:
    """Put values whose bytes nobody reads, as ``put`` does it, but many together."""
    with vc.connect(socket, timeout=600) as client:
        connection = client._connection()
        assert connection.inventory is not None
        for start in range(0, number, 30):
            metas = []
            made = connection.call_all(*[CreateBuffer(GUARD_SIZE), CreateBuffer(SIZE)] * min(30, number - start))
            for guard, blob in zip(made[::2], made[1::2]):
                meta = client._session.meta(connection, os.urandom(16), "builtins.bytes", "bytes", SIZE, {"of": "load"})
                metas.append(replace(meta, guard=guard.id, blob=blob.id))
            blobs = [blob for meta in metas for blob in (meta.guard, meta.blob)]
            connection.call_all(*map(Seal, blobs), *map(Release, blobs))
            for number_of, meta in zip(connection.call_all(*[CreateData(meta.tree()) for meta in metas]), metas):
                connection.inventory.note(WHOLE, number_of, meta)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vc.Client]:
    folder: Path = tmp_path_factory.mktemp("large")
    size = OBJECTS * (SIZE + 400) + (64 << 20)
    with vc.EmbeddedServer(size, socket=str(folder / "s")) as server:
        pids = [fork(lambda: fill(server.socket, OBJECTS // 2)) for _ in range(2)]
        assert [wait(pid, timeout=1800) for pid in pids] == [0, 0]
        with vc.connect(server.socket, timeout=600) as client:
            yield client


def ran(pid: int) -> float:
    """Return the seconds that a process's threads have run."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


@contextmanager
def measured(client: vc.Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[List[float]]:
    """Note what each exchange takes the server, of whatever client of this process."""
    took: List[float] = []
    pid, before = client._connection().peer_pid, Conversation.run

    def run(self: Conversation, exchange: Exchange, deadline: Deadline) -> None:
        started = ran(pid)
        try:
            before(self, exchange, deadline)
        finally:
            took.append(ran(pid) - started)

    with monkeypatch.context() as patched:
        patched.setattr(Conversation, "run", run)
        yield took


def status(client: vc.Client) -> None:
    assert client.status().inventory == "complete"
    assert len(list(islice(client.list(noted=True), 5001))) == min(OBJECTS, 5001)  # as the provider's status


def page(client: vc.Client) -> None:
    refs = [info.ref for info in islice(client.list(noted=True), 200)]
    with vc.Peer(client.socket) as peer:
        assert peer.status().memory_used > OBJECTS * SIZE
        assert None not in peer.look(refs)


def connecting(client: vc.Client) -> None:
    with vc.connect(client.socket) as another:
        assert another.get(another.put("small")) == "small"


def collecting(client: vc.Client) -> None:
    assert client.collect() == []


def by_age(client: vc.Client) -> None:
    assert client.collect(older_than=timedelta(days=1)) == []


def the_agent(client: vc.Client) -> None:
    collect(client._session)


def a_full_store(client: vc.Client) -> None:
    """First with garbage that is enough, then without."""
    free = client.status().memory_limit - client.status().memory_used
    chunk = memoryview(bytes(free * 2 // 3))
    refs = [client.put(chunk)]
    view = client.get(refs[0])
    client.delete(refs.pop())
    del view
    gc.collect()
    refs.append(client.put(chunk))
    with pytest.raises(vc.StoreFull):
        client.put(chunk)
    client.delete(refs.pop())


WORK: List[Callable[[vc.Client], None]] = [
    status,
    page,
    connecting,
    collecting,
    by_age,
    the_agent,
    a_full_store,
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_nobody_waits_for(work: Callable[[vc.Client], None], store: vc.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No exchange takes the server longer than 50 ms, however much there is."""
    with measured(store, monkeypatch) as took:
        work(store)
    print(f"{work.__name__}: {len(took)} exchanges, the longest {max(took) * 1000:.1f} ms")
    assert max(took) < LIMIT


def test_that_would_show(store: vc.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of everything takes it longer by far."""
    with measured(store, monkeypatch) as took:
        assert sum(1 for _ in store.list()) >= OBJECTS
    print(f"a list: the longest {max(took) * 1000:.1f} ms")
    assert max(took) > LIMIT * OBJECTS / 200_000
