"""Ending a server: only the right one, and one that does not want to."""

from __future__ import annotations

import os
import signal
from typing import Any, Callable

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.peers import Peer, answering, closing, nonsense, too_old
from vineyard_testing.processes import fork, wait
from vineyard_testing.streams import REGISTERED, frame

import vineyard_client as vc
from vineyard_client._io.deadline import Deadline
from vineyard_client._io.unix import UnixStream
from vineyard_client.exceptions import ConnectionFailed, ProtocolError, UnsupportedVersion

integration = pytest.mark.integration


def test_nobody_to_stop(path: str) -> None:
    """Stopping where nobody listens is an error."""
    with pytest.raises(ConnectionFailed, match="There is no such file"):
        vc.stop_server(path)


@pytest.mark.parametrize(
    "handle, kind",
    [(nonsense, ProtocolError), (closing, ConnectionFailed), (too_old(), UnsupportedVersion)],
    ids=["nonsense", "closing", "too old"],
)
def test_somebody_else_is_not_stopped(path: str, handle: Any, kind: type) -> None:
    """What is not a vineyardd that we know is left alone; here it is this very process."""
    with Peer(path, handle):
        with pytest.raises(kind):
            vc.stop_server(path)


def listen_in_child(path: str, handle: Any, prepare: Callable[[], object] = lambda: None) -> int:
    """Fork a process that listens at a path until it is killed."""

    def serve() -> None:
        prepare()
        with Peer(path, handle):
            while True:
                signal.pause()

    pid = fork(serve)
    until(lambda: os.path.exists(path), "the listener")
    return pid


def test_one_that_does_not_end_is_killed(path: str) -> None:
    """A server that ignores the request to end is killed when the time is up."""
    pid = listen_in_child(path, answering(frame(REGISTERED)), lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    try:
        until(lambda: _connects(path), "the listener")
        assert vc.stop_server(path, timeout=0.05) == pid
    finally:
        assert os.WTERMSIG(wait(pid)) == signal.SIGKILL


def _connects(path: str) -> bool:
    try:
        UnixStream.connect(path, Deadline(UNIT)).close()
    except ConnectionFailed:
        return False
    return True


def test_one_that_has_ended_already(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends by itself at that moment is no error."""

    def ended(pid: int, number: int) -> None:
        raise ProcessLookupError

    with Peer(path, answering(frame(REGISTERED))):
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", ended)
            assert vc.stop_server(path) == os.getpid()


def test_one_of_another_user(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that this user may not end says whose it is."""

    def refused(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with Peer(path, answering(frame(REGISTERED))):
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", refused)
            with pytest.raises(ConnectionFailed) as caught:
                vc.stop_server(path)
    assert str(caught.value) == f"vineyardd at {path} is process {os.getpid()} of another user. Let that user end it."


def test_one_that_cannot_be_seen(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in another container has no process id here."""
    monkeypatch.setattr(UnixStream, "peer_pid", 0)
    with Peer(path, answering(frame(REGISTERED))):
        with pytest.raises(ConnectionFailed, match="runs where this process cannot see it"):
            vc.stop_server(path)
