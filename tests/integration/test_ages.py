"""How old a value is, whatever the clock of its writer says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from vineyard_testing.processes import run_python

import vineyard_client as vc
from vineyard_client._store.meta import ValueMeta

pytestmark = pytest.mark.integration

WRITER = """
import sys, time
real = time.time
time.time = lambda: real() + float(sys.argv[2])
import vineyard_client as vc
with vc.connect(sys.argv[1]) as client:
    print(client.put(5).id)
"""

HOUR = 3600


@pytest.mark.parametrize("shift", [-3 * HOUR, 40 * 24 * HOUR])
def test_a_clock_that_is_wrong(server: vc.EmbeddedServer, client: vc.Client, shift: float) -> None:
    """A value is as old as the time it has been in the store, and is freed at that age, neither before nor after."""
    written = run_python(WRITER, server.socket, str(shift))
    info = client.info(written.stdout.strip())
    assert info.age is not None and timedelta(0) < info.age < timedelta(minutes=10)
    assert client.collect(older_than=timedelta(hours=1)) == []
    (freed,) = client.collect(older_than=info.age)
    assert freed.info.ref == info.ref


def test_ages_grow(client: vc.Client) -> None:
    """By a clock that nobody sets."""
    ref = client.put(5)
    first, second = client.info(ref).age, client.info(ref).age
    assert first is not None and second is not None and timedelta(0) <= first < second


def test_what_an_earlier_release_put(client: vc.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its age is what the writer's clock says."""
    tree = ValueMeta.tree

    def without(meta: ValueMeta, *arguments: str) -> object:
        return {key: value for key, value in tree(meta, *arguments).items() if key != "uptime"}

    monkeypatch.setattr(ValueMeta, "tree", without)
    ref = client.put(5)
    monkeypatch.undo()
    assert client.info(ref).age is None
    assert client.collect(older_than=timedelta(hours=1)) == []
    assert [freed.info.ref for freed in client.collect(older_than=timedelta(0))] == [ref]
