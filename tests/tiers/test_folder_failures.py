"""What goes wrong with folders: full, read-only, on a network, killed writers; nothing is lost silently."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest
from vineyard_testing import until
from vineyard_testing.processes import run_python
from vineyard_testing.tiers import Host, array, same

from vineyard_client._tiers.urls import open_tier

PRELUDE = """
import logging, os, subprocess, sys
from pathlib import Path
import vineyard_client as vc
from vineyard_testing import until
from vineyard_testing.tiers import Host, array, same

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

def raised(kind, text, work):
    try:
        work()
    except kind as error:
        assert text in str(error), error
        return str(error)
    raise SystemExit(f"no {kind.__name__}")

def files(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file() and path.name not in ("lock", "journal")]

folder = Path(sys.argv[1])
disk = folder / "disk"
disk.mkdir()
"""


def in_namespace(code: str, folder: Path) -> None:
    """Run code where it may mount file systems that nobody else sees."""
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare (Debian: util-linux)")
    flags = ["--mount"] if os.getuid() == 0 else ["--mount", "--map-root-user"]
    if subprocess.run(["unshare", *flags, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("no file systems can be mounted here")
    done = run_python(PRELUDE + code, str(folder), prefix=["unshare", *flags])
    assert done.returncode == 0, done.stderr


def test_disk_full_through(tmp_path: Path) -> None:
    """A put that was to be saved on a full disk fails, leaves nothing, and works again when there is room."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=20M", "tmpfs", str(disk))
host = Host(folder, str(disk / "values"))
with host.connect("through") as client:
    refs = [client.put(array(6, seed)) for seed in range(3)]
    raised(vc.TierFull, "gc", lambda: client.put(array(6, 3)))
    assert len(files(disk)) == 3 and len(list(client.list())) == 3, files(disk)
    assert client.delete(refs[0])
    again = client.put(array(6, 3))
    host.restart()
    assert same(client.get(again), array(6, 3)) and same(client.get(refs[1]), array(6, 1))
host.close()
""",
        tmp_path,
    )


def test_disk_full_behind(tmp_path: Path) -> None:
    """Behind, what a full disk takes no more waits in memory with its note, and is saved when there is room."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=20M", "tmpfs", str(disk))
host = Host(folder, str(disk / "values"))
host.start_agent()
with host.connect() as client:
    refs = [client.put(array(6, seed)) for seed in range(5)]
    until(lambda: "errors.TierFull" in host.status()["counts"], "the agent has tried")
    until(lambda: host.status()["unsaved"]["number"] == 2, "the rest waits")
    assert "No space left" in host.status()["last_error"] or "are free" in host.status()["last_error"]
    waiting = [ref for ref in refs if client.saved.where(ref).state == "soon"]
    assert len(waiting) == 2
    assert all(same(client.get(ref), array(6, seed)) for seed, ref in enumerate(refs))
    saved = [ref for ref in refs if ref not in waiting]
    client.delete(saved[0])
    client.delete(saved[1])
    host.all_saved()
    assert {client.saved.where(ref).state for ref in waiting} == {"yes"}
host.close()
""",
        tmp_path,
    )


@pytest.mark.long
def test_disk_full_without_an_agent(tmp_path: Path) -> None:
    """Behind and without an agent, what cannot be saved is in memory alone, and the row can say why."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=4M", "tmpfs", str(disk))
host = Host(folder, str(disk / "values"))
with host.connect() as client:
    ref = client.put(array(6))
    assert ref.copy is None and same(client.get(ref), array(6))
    where = str(client.saved.where(ref))
    assert where.startswith("no: ") and "cannot be saved" in where, where
    assert host.notes("unsaved") == [] and files(disk) == []
host.close()
""",
        tmp_path,
    )


def test_everything_full(tmp_path: Path) -> None:
    """Only when memory and disk are full does a put fail, with both in the message, and everything else goes on."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=40M", "tmpfs", str(disk))
tier = vc.TierOptions(str(disk / "values"), spill=str(disk / "spill"), durability="through", reserve=0.0)
host = Host(folder, str(disk / "values"))
with vc.Client(host.socket, tier=tier) as client:
    refs = []
    for seed in range(3):
        refs.append(client.put(array(12, seed)))
    held = [client.get(ref) for ref in refs]
    text = raised(vc.StoreFull, "no room", lambda: client.put(array(60)))
    assert "Nor can it be saved outside of it" in text and str(disk) in text, text
    assert all(same(value, array(12, seed)) for seed, value in enumerate(held))
    assert all(same(client.get(ref), array(12, seed)) for seed, ref in enumerate(refs))
    assert len(files(disk / "values")) == 3
host.close()
""",
        tmp_path,
    )


@pytest.mark.long
def test_overflow_full(tmp_path: Path) -> None:
    """The same with a bucket that nobody can reach: the overflow is full, and both are named."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=10M", "tmpfs", str(disk))
tier = vc.TierOptions("s3://nowhere/x", spill=str(disk / "spill"), durability="behind", reserve=0.0)
host = Host(folder, "s3://nowhere/x")
with vc.Client(host.socket, tier=tier) as client:
    first = client.put(array(20))
    text = raised(vc.StoreFull, "no room", lambda: client.put(array(60)))
    assert "overflow" in text and str(disk) in text, text
    small = client.put(array(8, 1))
    assert same(client.get(first), array(20)) and same(client.get(small), array(8, 1))
    assert not [path for path in files(disk) if path.name.endswith(".tmp")]
host.close()
""",
        tmp_path,
    )


def test_read_only(tmp_path: Path) -> None:
    """A disk that became read-only is refused by name, and what is on it is still read."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=20M", "tmpfs", str(disk))
host = Host(folder, str(disk / "values"))
with host.connect("through") as client:
    ref = client.put(array(2))
    mount("-o", "remount,ro", str(disk))
    raised(vc.TierRefused, "Read-only file system", lambda: client.put(array(2)))
    raised(vc.TierRefused, "Read-only file system", lambda: client.saved.check())
    host.restart()
    assert same(client.get(ref), array(2))
    host.start_agent(wait=False)
    assert host.agent.wait(30) == 1
    assert "Read-only file system" in host.log.read_text(), host.log.read_text()
host.close()
""",
        tmp_path,
    )


@pytest.mark.long
def test_notes_read_only(tmp_path: Path) -> None:
    """Notes that cannot be written end the agent at its start, and fail a put that was to be safe; both say why."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=20M,ro", "tmpfs", str(disk))
tier = vc.TierOptions(str(folder / "values"), spill=str(disk / "spill"), durability="through", reserve=0.0)
host = Host(folder, str(folder / "values"))
with vc.Client(host.socket, tier=tier) as client:
    raised(vc.TierRefused, "option spill", lambda: client.put(array(2)))
    raised(vc.TierRefused, "option spill", client.saved.check)
    assert list(client.list()) == [] and files(folder / "values") == []
host.start_agent("--spill", str(disk / "spill"), wait=False)
assert host.agent.wait(30) == 1
assert "option spill" in host.log.read_text(), host.log.read_text()
host.close()
""",
        tmp_path,
    )


def test_network_file_system(tmp_path: Path) -> None:
    """On a network's file system nothing is mapped, so what another host deletes takes no page from a reader."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=20M", "tmpfs", str(disk))
lines = Path("/proc/self/mountinfo").read_text().splitlines()
told = [line.replace(" - tmpfs ", " - nfs4 ") if f" {disk} " in line else line for line in lines]
assert told != lines
(folder / "mountinfo").write_text("\\n".join(told) + "\\n")
mount("--bind", str(folder / "mountinfo"), f"/proc/{os.getpid()}/mountinfo")
host = Host(folder, str(disk / "values"))
with host.connect("through") as client:
    ref = client.put(array(3))
    host.restart()
    value = client.get(ref)
    mapped = Path("/proc/self/maps").read_text()
    assert str(disk) not in mapped, mapped
    for path in files(disk):
        os.truncate(path, 0)
    assert same(value, array(3))
    raised(vc.ObjectCorrupted, "bytes where", lambda: client.get(ref))
spilt = vc.TierOptions(str(folder / "values"), spill=str(disk / "spill"), reserve=0.0)
with vc.Client(host.socket, tier=spilt) as client:
    found = client.saved.check()
    assert len(found) == 1 and "on a network (nfs4)" in found[0] and "option spill" in found[0], found
host.close()
""",
        tmp_path,
    )


@pytest.mark.long
def test_agent_warns_of_memory(tmp_path: Path) -> None:
    """An agent whose notes or tier are in memory says so at its start, with the option."""
    in_namespace(
        """
mount("-t", "tmpfs", "-o", "size=20M", "tmpfs", str(disk))
host = Host(folder, str(disk / "values"))
host.start_agent("--spill", str(disk / "spill"))
host.end_agent()
log = host.log.read_text()
assert "(option tier)" in log and "(option spill)" in log, log
host.close()
""",
        tmp_path,
    )


@pytest.fixture
def tier_host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, str(tmp_path / "values"))
    yield made
    made.close()


# Each of these is told a step of saving a value, and ends the process there as a kill would.
STEPS = {
    "before the file is whole": "vineyard_client._tiers.folder:write_all",
    "before the file has its name": "os:replace",
    "before the note": "vineyard_client._tiers.notes:Notes.write",
    "before the note has its name": "os:rename",
}


@pytest.mark.long
@pytest.mark.parametrize("durability", ["through", "behind"])
@pytest.mark.parametrize("step", STEPS)
def test_writer_killed(tier_host: Host, step: str, durability: str) -> None:
    """A writer that is killed at any step of saving leaves no half of a value under a key, and others go on."""
    code = """
import importlib, os, signal, sys
import vineyard_client as vc
from vineyard_testing.tiers import array
module, _, names = sys.argv[4].partition(":")
client = vc.Client(sys.argv[1], tier=vc.TierOptions(sys.argv[2], durability=sys.argv[3], reserve=0.0))
client.put(array(1, 1))
owner = importlib.import_module(module)
*path, last = names.split(".")
for name in path:
    owner = getattr(owner, name)
setattr(owner, last, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
client.put(array(3))
"""
    done = run_python(code, tier_host.socket, tier_host.url, durability, STEPS[step])
    assert done.returncode == -signal.SIGKILL, done.stderr
    keys = tier_host.keys()
    assert 1 <= len(keys) <= 2
    for entry in open_tier(tier_host.url).list(""):
        assert entry.size > (1 << 20), "a key has all of its value"
    with tier_host.connect("through") as client:
        ref = client.put(array(2))
        tier_host.restart()
        assert same(client.get(ref), array(2))
    for path in (*Path(tier_host.url).rglob("*.tmp"), *Path(tier_host.socket + ".tier").rglob("*.new")):
        os.utime(path, (time.time() - 100_000,) * 2)
    tier_host.start_agent()
    until(lambda: not [*Path(tier_host.url).rglob("*.tmp")], "half written files are removed")
    until(lambda: not [*Path(tier_host.socket + ".tier").rglob("*.new")], "half written notes are removed")


# The same for the agent's steps; each is told whose value it is.
AGENT_STEPS = {
    "before it writes": "vineyard_client._tiers.folder:write_file",
    "before the file has its name": "os:replace",
    "before it looks whether it was deleted": "vineyard_client._agent.store:Store.is_deleted",
    "before the note moves": "vineyard_client._tiers.notes:Notes.promote",
}


@pytest.mark.parametrize("step", AGENT_STEPS)
def test_agent_killed_at_a_step(tier_host: Host, step: str) -> None:
    """An agent that is killed at any step of saving is followed by one that saves the value, once."""
    code = """
import importlib, os, signal, sys
from vineyard_client.cli import main
module, _, names = sys.argv[3].partition(":")
owner = importlib.import_module(module)
*path, last = names.split(".")
for name in path:
    owner = getattr(owner, name)
known = getattr(owner, last)

def killed(*args, **kwargs):
    if sys.argv[4] in str(args):
        os.kill(os.getpid(), signal.SIGKILL)
    return known(*args, **kwargs)

setattr(owner, last, killed)
sys.exit(main(["agent", "--socket", sys.argv[1], "--tier", sys.argv[2], "--reserve", "0"]))
"""
    tier_host.start_agent()
    assert tier_host.agent is not None
    tier_host.agent.send_signal(signal.SIGSTOP)
    with tier_host.connect() as client:
        ref = client.put(array(3))
        tier_host.end_agent(signal.SIGKILL)
        done = run_python(code, tier_host.socket, tier_host.url, AGENT_STEPS[step], ref.token)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert len(tier_host.notes("unsaved")) == 1
        assert same(client.get(ref), array(3))
        tier_host.start_agent()
        tier_host.all_saved()
        assert tier_host.keys() == [ref.copy] and len(tier_host.notes("saved")) == 1
        tier_host.restart()
        assert same(client.get(ref), array(3))
