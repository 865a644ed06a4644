"""What the tests beside a real server share."""

from __future__ import annotations

import gc
import sys
from typing import Iterator, List

import pytest
from vineyard_testing.moments import Stage

import vineyard_client as vc
from vineyard_client._store import sharing


@pytest.fixture
def other(server: vc.EmbeddedServer, client: vc.Client) -> Iterator[vc.Client]:
    """A second client, as another process would have it."""
    with vc.connect(server.socket) as second:
        yield second


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[List[str]]:
    """What was thrown away because nobody could be told; nothing, at the end."""
    seen: List[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: seen.append(f"{found.exc_value!r} in {found.object!r}"))
    yield seen
    assert not seen, seen


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A store of its own with views that must live through everything."""
    with vc.EmbeddedServer(size="32Mi") as server:
        made = Stage(server.socket)
        yield made
        made.other.close()
        gc.unfreeze()


@pytest.fixture
def left_as_it_was(client: vc.Client) -> Iterator[None]:
    """Free what a test has put: the store is that of others, too."""
    yield
    gc.collect()
    for info in list(client.list()):
        client.delete(info.ref)
    client.collect()


@pytest.fixture(params=["pages", "bytes"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once with what the kernel tells of pages, once where it tells nothing."""
    if request.param == "bytes":
        monkeypatch.setattr(sharing, "written", lambda stretches: None)
    return str(request.param)
