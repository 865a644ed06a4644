"""Writers, agents, readers and deleters that are killed between any two steps: nothing is wrong, and others go on."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import List

import pytest
from vineyard_testing import UNIT, buckets, until
from vineyard_testing.buckets import FaultyService
from vineyard_testing.processes import run_python
from vineyard_testing.tiers import Host, array, same

import vineyard_client as vc
from vineyard_client._tiers.urls import open_tier

# Has a function, named as the second argument, end the process as a kill would when the text that is the third one is
# in what it is called with; ``after`` has it end when that is done.
KILLED = """
import importlib, json, os, signal, sys
import vineyard_client as vc
from vineyard_client._agent.housekeeper import Agent
from vineyard_client._calls import housekeeping
from vineyard_client.cli import main
from vineyard_testing.tiers import array

def kill_at(step, text="", after=False):
    module, _, names = step.partition(":")
    owner = importlib.import_module(module)
    *path, last = names.split(".")
    for name in path:
        owner = getattr(owner, name)
    known = getattr(owner, last)

    def killed(*args, **kwargs):
        wanted = text in str(args)
        if wanted and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return known(*args, **kwargs)
        finally:
            if wanted:
                os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, last, killed)

socket, tier, durability, step, text, after, *rest = sys.argv[1:]
tier = vc.TierOptions(tier, durability=durability, reserve=0.0)
"""


def killed(host: Host, code: str, step: str, *rest: str, text: str = "", durability: str = "through") -> None:
    """Run code in a process that is killed at a step; ``+`` before it means when it is done."""
    after = "after" if step.startswith("+") else ""
    done = run_python(KILLED + code, host.socket, host.url, durability, step.lstrip("+"), text, after, *rest)
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stdout, done.stderr)


def nothing_left(host: Host, refs: List[vc.ObjectRef]) -> None:
    """Delete values, and see that nothing is left of them: in the store, in the tier, in notes."""
    with host.connect("through") as client:
        for ref in refs:
            client.delete(ref)
        client.collect()
        gc.collect()
        until(lambda: not client.collect() and client.status().memory_used == 0, "the store is empty")
    until(lambda: host.keys() == [], "the tier is empty")
    left = {kind: host.notes(kind) for kind in ("unsaved", "saved", "loaded", "kept", "lost", "deleted")}
    assert not any(left.values()), left


# ---- writers, and the agent that saves

STEPS = {
    "before the file is whole": "vineyard_client._tiers.folder:write_all",
    "before the file has its name": "os:replace",
    "before the note": "vineyard_client._tiers.notes:Notes.write",
    "before the note has its name": "os:rename",
}


@pytest.mark.long
@pytest.mark.parametrize("durability", ["through", "behind"])
@pytest.mark.parametrize("step", STEPS)
def test_writer(folder_host: Host, step: str, durability: str) -> None:
    """A writer that is killed at any step of saving leaves no half of a value under a key, and others go on."""
    host = folder_host
    code = """
client = vc.Client(socket, tier=tier)
client.put(array(1, 1))
kill_at(step)
client.put(array(3))
"""
    killed(host, code, STEPS[step], durability=durability)
    assert 1 <= len(host.keys()) <= 2
    for entry in open_tier(host.url).list(""):
        assert entry.size > (1 << 20), "a key has all of its value"
    with host.connect("through") as client:
        ref = client.put(array(2))
        host.restart()
        assert same(client.get(ref), array(2))
    for path in (*Path(host.url).rglob("*.tmp"), *Path(host.socket + ".tier").rglob("*.new")):
        os.utime(path, (time.time() - 100_000,) * 2)
    host.start_agent()
    until(lambda: not [*Path(host.url).rglob("*.tmp")], "half written files are removed")
    until(lambda: not [*Path(host.socket + ".tier").rglob("*.new")], "half written notes are removed")


RUN_AGENT = """
kill_at(step, text, bool(after))
command = ["agent", "--socket", socket, "--reserve", "0"]
for name, value in json.loads(rest[0] if rest else "{}").items():
    command += ["--tier-option", name + "=" + value]
sys.exit(main([*command, "--tier", tier.urls[0]]))
"""

AGENT_STEPS = {
    "before it writes": "vineyard_client._tiers.folder:write_file",
    "before the file has its name": "os:replace",
    "before it looks whether it was deleted": "vineyard_client._agent.store:Store.is_deleted",
    "before the note moves": "vineyard_client._tiers.notes:Notes.promote",
}


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[pytest.mark.long] * (step != "before the note moves")) for step in AGENT_STEPS]
)
def test_agent_that_saves(folder_host: Host, step: str) -> None:
    """An agent that is killed at any step of saving is followed by one that saves the value, once."""
    host = folder_host
    host.start_agent()
    assert host.agent is not None
    host.agent.send_signal(signal.SIGSTOP)
    with host.connect() as client:
        ref = client.put(array(3))
        host.end_agent(signal.SIGKILL)
        killed(host, RUN_AGENT, AGENT_STEPS[step], text=ref.token)
        assert len(host.notes("unsaved")) == 1
        assert same(client.get(ref), array(3))
        host.start_agent()
        host.all_saved()
        assert host.keys() == [ref.copy] and len(host.notes("saved")) == 1
        host.restart()
        assert same(client.get(ref), array(3))


# ---- who deletes

DELETE_STEPS = {
    "before anything": "vineyard_client._tiers.notes:Notes.forget",
    "when the notes are gone": "+vineyard_client._tiers.notes:Notes.forget",
    "before the object goes": "vineyard_client._store.objects:delete_object",
    "when the object is gone": "+vineyard_client._store.objects:delete_object",
    "before the copy goes": "vineyard_client._tiers.folder:FolderTier.delete",
    "when the copy is gone": "+vineyard_client._tiers.folder:FolderTier.delete",
}


@pytest.mark.parametrize("where", ["in the store", "in the tier alone", "larger than the store"])
@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[pytest.mark.long] * (step != "before the copy goes")) for step in DELETE_STEPS]
)
def test_deleter(folder_host: Host, step: str, where: str) -> None:
    """Who is killed while it deletes leaves the value or none, never another; who deletes again leaves nothing."""
    host = folder_host
    size = 80.0 if where == "larger than the store" else 3.0
    with host.connect("through") as client:
        other, ref = client.put(array(1, 1)), client.put(array(size))
        if where == "in the tier alone":
            host.restart()
        code = """
client = vc.Client(socket, tier=tier)
kill_at(step, "", bool(after))
client.delete(vc.ObjectRef.from_json(json.loads(rest[0])))
os.kill(os.getpid(), signal.SIGKILL)  # where there is no such step
"""
        killed(host, code, DELETE_STEPS[step], json.dumps(ref.to_json()))
        try:
            value = client.get(ref)
        except vc.ObjectNotFound as error:
            assert "gone" in str(error)
        else:
            assert same(value, array(size))
            del value
        assert same(client.get(other), array(1, 1))
    nothing_left(host, [ref, other])


# ---- who makes room

EVICT_STEPS = {
    "holding the lock": "vineyard_client._calls.keeping:_residents",
    "before the tier is asked": "vineyard_client._tiers.local:Tiers.sizes",
    "before an object goes": "vineyard_client._store.objects:delete_object",
    "when an object is gone": "+vineyard_client._store.objects:delete_object",
    "before its note goes": "vineyard_client._tiers.notes:Notes.remove",
}


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[pytest.mark.long] * (step != "before its note goes")) for step in EVICT_STEPS]
)
def test_who_makes_room(folder_host: Host, step: str) -> None:
    """Who is killed while it makes room leaves every value readable, and room that the next one can make."""
    host = folder_host
    with host.connect("through") as client:
        refs = [client.put(array(10, seed)) for seed in range(6)]
        code = """
client = vc.Client(socket, tier=tier)
kill_at(step, "", bool(after))
client.put(array(25))
"""
        killed(host, code, EVICT_STEPS[step])
        assert all(same(client.get(ref), array(10, seed)) for seed, ref in enumerate(refs))
        refs += [client.put(array(10, seed)) for seed in range(6, 12)]
        assert all(same(client.get(ref), array(10, seed)) for seed, ref in enumerate(refs))
        assert client.status().memory_used <= client.status().memory_limit
    nothing_left(host, refs)


# ---- the agent that loads

LOAD_STEPS = {
    "before there is an object": "vineyard_client._store.making:Making.start",
    "before it is noted": "vineyard_client._agent.loading:_note",
    "when it is noted": "+vineyard_client._agent.loading:_note",
    "before the first byte": "vineyard_client._store.connection:Connection.write_at",
    "when bytes are there": "+vineyard_client._store.connection:Connection.write_at",
    "before the object is whole": "vineyard_client._store.making:Making.finish",
    "when the object is whole": "+vineyard_client._store.making:Making.finish",
}

OVERFLOW_STEPS = {
    "before the first byte": "vineyard_client._agent.loading:_write",
    "before it is noted": "vineyard_client._agent.loading:_note",
    "before the file has its name": "os:rename",
    "when the file has its name": "+os:rename",
}

needs_obstore = pytest.mark.skipif(not buckets.installed(), reason="obstore is not installed (session tiers)")


@needs_obstore
@pytest.mark.long
@pytest.mark.parametrize(
    ("where", "size", "step"),
    [
        *(("store", 3.0, step) for step in LOAD_STEPS),
        *(("store", 0.0002, step) for step in LOAD_STEPS if "byte" not in step),
        *(("overflow", 3.0, step) for step in OVERFLOW_STEPS),
    ],
)
def test_agent_that_loads(tmp_path: Path, where: str, size: float, step: str) -> None:
    """An agent that is killed while it loads a value for a reader is followed by one that loads it, whole."""
    with FaultyService() as service:
        host = Host(tmp_path, service.bucket.url, service.bucket.options)
        try:
            host.start_agent()
            with host.connect("through") as client:
                ref = client.put(array(size))
            host.end_agent()
            host.restart()
            with host.connect("none") as plain:
                filler = plain.put(array(62)) if where == "overflow" else None
                results: List[object] = []

                def read() -> None:
                    with host.connect("through") as reader:
                        results.append(reader.get(ref))

                steps = OVERFLOW_STEPS if where == "overflow" else LOAD_STEPS
                text = f"overflow/{ref.token}" if "rename" in steps[step] else ""
                dies = threading.Thread(target=die, args=(host, steps[step], text))
                dies.start()
                until(lambda: os.path.exists(host.socket + ".agent"), "the first agent listens", 3 * UNIT)
                reader = threading.Thread(target=read)
                reader.start()
                dies.join()
                host.start_agent(wait=False)
                reader.join()
                assert len(results) == 1 and same(results.pop(), array(size))
                if filler is not None:
                    assert host.notes("overflow") == [ref.token]
                    assert plain.delete(filler)
            gc.collect()
            nothing_left_in_bucket(host, service, ref)
        finally:
            host.close()


DELETE_LOADED_STEPS = {
    "before the copy goes": "vineyard_client._tiers.local:Tiers.delete",
    "when the copy is gone": "+vineyard_client._tiers.local:Tiers.delete",
    "before it leaves the store": "vineyard_client._store.objects:delete_object",
    "when it has left the store": "+vineyard_client._store.objects:delete_object",
    "before its note goes": "vineyard_client._tiers.notes:Notes.remove",
    "when its note is gone": "+vineyard_client._tiers.notes:Notes.remove",
}


@needs_obstore
@pytest.mark.long
@pytest.mark.parametrize(
    ("where", "step"),
    [
        (where, step)
        for where in ("store", "overflow")
        for step in DELETE_LOADED_STEPS
        if where == "store" or "store" not in step
    ],
)
def test_deleter_of_what_was_loaded(tmp_path: Path, step: str, where: str) -> None:
    """Who is killed while it deletes a value that was loaded from a bucket leaves nothing that the next one misses."""
    with FaultyService() as service:
        host = Host(tmp_path, service.bucket.url, service.bucket.options)
        try:
            host.start_agent()
            with host.connect("through") as client:
                ref = client.put(array(3.0))
            host.restart()
            until(lambda: host.status()["store"], "the agent has the store")
            with host.connect("through") as client, host.connect("none") as plain:
                filler = plain.put(array(62)) if where == "overflow" else None
                assert same(client.get(ref), array(3.0))
                gc.collect()
                assert host.notes("loaded") == [ref.token]
                code = """
client = vc.Client(socket, tier=tier)
client.status()
kill_at(step, text, bool(after))
client.delete(vc.ObjectRef.from_json(json.loads(rest[0])))
os.kill(os.getpid(), signal.SIGKILL)  # where there is no such step
"""
                text = "loaded" if "Notes.remove" in DELETE_LOADED_STEPS[step] else ""
                killed(host, code, DELETE_LOADED_STEPS[step], json.dumps(ref.to_json()), text=text)
                if filler is not None:
                    assert plain.delete(filler)
            nothing_left_in_bucket(host, service, ref)
        finally:
            host.close()


def die(host: Host, step: str, text: str) -> None:
    killed(host, RUN_AGENT, step, json.dumps(host.options), text=text)


def nothing_left_in_bucket(host: Host, service: FaultyService, ref: vc.ObjectRef) -> None:
    with host.connect("through") as client:
        client.delete(ref)
        client.collect()
        until(lambda: not client.collect() and client.status().memory_used == 0, "the store is empty")
        assert list(client.list()) == []
    until(lambda: not service.objects, "the bucket is empty")
    assert host.notes("loaded") == host.notes("overflow") == []
