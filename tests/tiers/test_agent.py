"""The agent: saves afterwards, out of a store that was killed, while others delete, into folders and buckets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.tiers import Host, array, same

import vineyard_client as vc
from vineyard_client._tiers import doorbell

VALUES = ["text", array(0.001), array(0.05), array(3), {"a": array(1), "b": [array(0.2), "x"]}]


def test_saved_behind(host: Host) -> None:
    """What is put is saved afterwards, and is there when the server is another one; deleting leaves nothing."""
    host.start_agent()
    with host.connect() as client:
        refs = [client.put(value, path=("x", "y")) for value in VALUES]
        host.all_saved()
        assert host.keys() == sorted(str(ref.copy) for ref in refs)
        host.restart()
        for ref, value in zip(refs, VALUES):
            np.testing.assert_equal(client.get(ref), value)
        for ref in refs:
            assert client.delete(ref)
            assert not client.exists(ref)
    assert host.keys() == []
    assert host.notes("saved") == host.notes("unsaved") == host.notes("loaded") == host.notes("lost") == []


def test_saved_through(host: Host) -> None:
    """With through, the value is saved when put returns."""
    host.start_agent()
    with host.connect("through") as client:
        ref = client.put(array(2))
        assert host.keys() == [ref.copy]
        host.restart()
        np.testing.assert_equal(client.get(ref), array(2))


def test_server_killed_with_a_backlog(host: Host) -> None:
    """What was not saved when the server was killed is saved out of its memory."""
    with host.killed_with_a_backlog() as client:
        refs = [client.put(array(1.5, seed)) for seed in range(20)]
        assert len(host.notes("unsaved")) == 20
    with host.connect() as client:
        for seed, ref in enumerate(refs):
            np.testing.assert_equal(client.get(ref), array(1.5, seed))


def test_agent_killed(host: Host) -> None:
    """The next agent goes on where a killed one ended."""
    host.start_agent()
    assert host.agent is not None
    host.agent.send_signal(signal.SIGSTOP)
    with host.connect() as client:
        refs = [client.put(array(1, seed)) for seed in range(5)]
        assert len(host.notes("unsaved")) == 5
        host.end_agent(signal.SIGKILL)
        host.start_agent()
        host.all_saved()
        assert host.keys() == sorted(str(ref.copy) for ref in refs)


def test_drained(host: Host) -> None:
    """An agent that is told to end saves what there is first, also when its server ended a moment before."""
    host.start_agent()
    assert host.agent is not None
    host.agent.send_signal(signal.SIGSTOP)
    with host.connect() as client:
        refs = [client.put(array(1, seed)) for seed in range(10)]
    host.kill()
    host.agent.send_signal(signal.SIGTERM)
    host.agent.send_signal(signal.SIGCONT)
    assert host.agent.wait(3 * UNIT) == 0, host.log.read_text()
    assert host.keys() == sorted(str(ref.copy) for ref in refs)
    assert not os.path.exists(doorbell.doorbell_path(host.socket))


def test_both_killed(folder_host: Host) -> None:
    """What was not saved when server and agent were killed is lost, and that is said by the agent and to the reader."""
    host = folder_host
    host.start_agent()
    assert host.agent is not None
    host.agent.send_signal(signal.SIGSTOP)
    with host.connect() as client:
        ref, tiny = client.put(array()), client.put("tiny")
    host.end_agent(signal.SIGKILL)
    host.restart()
    host.start_agent()
    host.all_saved()
    assert len(host.notes("lost")) == 1
    assert host.status()["lost"] == 1
    assert "was lost before it was saved" in host.log.read_text()
    with host.connect() as client:
        with pytest.raises(vc.ObjectNotFound, match="was not saved yet when its store ended"):
            client.get(ref)
        assert client.get(tiny) == "tiny", "what is in its note is not lost"


def test_waited_for(folder_host: Host) -> None:
    """A value that an agent is still saving out of a store that has ended is waited for."""
    host = folder_host
    host.start_agent()
    assert host.agent is not None
    host.agent.send_signal(signal.SIGSTOP)
    with host.connect() as client:
        ref = client.put(array(4))
    host.restart()
    with host.connect() as client:
        import threading

        timer = threading.Timer(0.3, host.agent.send_signal, (signal.SIGCONT,))
        timer.start()
        np.testing.assert_equal(client.get(ref), array(4))
        timer.join()


def test_no_agent(host: Host) -> None:
    """Without an agent a put saves in a folder itself; what is for a bucket is noted, or fails if it must be there."""
    with host.connect() as client:
        ref = client.put(array())
        np.testing.assert_equal(client.get(ref), array())
        if "://" in host.url:
            assert len(host.notes("unsaved")) == 1
        else:
            assert host.keys() == [ref.copy]
        assert client.delete(ref)
    if "://" in host.url:
        with host.connect("through") as client:
            with pytest.raises(vc.TierUnavailable, match="vineyard-client agent"):
                client.put(array())
            assert list(client.list()) == []
    assert host.notes("unsaved") == []


def test_more_than_the_store(host: Host) -> None:
    """Four stores full of values go in behind, and all of them come out again; then nothing is left anywhere."""
    host.start_agent()
    with host.connect() as client:
        refs = [client.put(array(8, seed)) for seed in range(32)]
        for seed, ref in enumerate(refs):
            assert same(client.get(ref), array(8, seed))
        host.all_saved()
        for ref in refs:
            client.delete(ref)
        client.collect()
        until(lambda: not client.collect() and client.status().memory_used == 0, "the store is empty")
    assert host.keys() == []
    left = [kind for kind in ("saved", "unsaved", "loaded", "lost", "overflow") if host.notes(kind)]
    assert left == []


def test_larger_than_the_store(host: Host) -> None:
    """A value that is larger than the store goes in and comes out, before and after it is saved."""
    host.start_agent()
    with host.connect() as client:
        ref = client.put(array(100))
        assert same(client.get(ref), array(100))
        host.all_saved()
        host.restart()
        assert same(client.get(ref), array(100))
        assert client.delete(ref)
    assert host.keys() == host.notes("overflow") == []


def test_deleted_while_saved(host: Host) -> None:
    """Whatever is deleted while it is being saved leaves no copy; what is not is saved."""
    host.start_agent()
    with host.connect() as client:
        kept = []
        for seed in range(40):
            ref = client.put(array(0.3, seed))
            if seed % 2:
                time.sleep((seed % 7) * 0.002)
                client.delete(ref)
            else:
                kept.append(ref)
        host.all_saved()
        until(lambda: host.keys() == sorted(str(ref.copy) for ref in kept), "only those kept are saved")


def test_one_agent(folder_host: Host) -> None:
    """A second agent for the same store says that there is one, and ends."""
    folder_host.start_agent()
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", folder_host.socket]
    done = subprocess.run([*command, "--tier", folder_host.url], capture_output=True, text=True, timeout=3 * UNIT)
    assert done.returncode == 1
    assert "Another agent serves" in done.stderr


@pytest.mark.parametrize(
    ("url", "what"),
    [("values", "neither an absolute path"), ("s3://", "names no bucket"), ("/proc/nowhere", "cannot be saved in")],
)
def test_wrong_tier(folder_host: Host, url: str, what: str) -> None:
    """A tier that cannot work ends the agent at its start, with what is wrong."""
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", folder_host.socket, "--tier", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * UNIT)
    assert done.returncode == 1
    assert what in done.stderr and "Traceback" not in done.stderr


def test_what_makes_no_sense(folder_host: Host) -> None:
    """Whatever is said at the door, it answers or hangs up, and goes on."""
    import socket

    folder_host.start_agent()
    for line in (b"nonsense\n", b"[]\n", b'{"do": 5}\n', b'{"do": "load"}\n', b'{"do": "delete", "keys": ["../x"]}\n'):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(doorbell.doorbell_path(folder_host.socket))
            sock.sendall(line)
            answer = json.loads(sock.makefile().readline())
            assert answer["error"]
    assert folder_host.status()["unsaved"] == {"number": 0, "bytes": 0, "age": 0.0}
