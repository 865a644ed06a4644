"""What goes wrong with folders: full, read-only, on a network, killed writers; nothing is lost silently."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from vineyard_testing.processes import run_python

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
mount("-t", "tmpfs", "-o", sys.argv[2], "tmpfs", str(disk))
host = Host(folder, str(disk / "values"))
"""


def on_a_disk(code: str, folder: Path, options: str = "size=20M") -> None:
    """Run code where a small file system is mounted that nobody else sees, with a host whose folder is on it."""
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare (Debian: util-linux)")
    flags = ["--mount"] if os.getuid() == 0 else ["--mount", "--map-root-user"]
    if subprocess.run(["unshare", *flags, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("no file systems can be mounted here")
    done = run_python(PRELUDE + code + "host.close()\n", str(folder), options, prefix=["unshare", *flags])
    assert done.returncode == 0, done.stderr


def test_disk_full_through(tmp_path: Path) -> None:
    """A put that was to be saved on a full disk fails, leaves nothing, and works again when there is room."""
    on_a_disk(
        """
with host.connect("through") as client:
    refs = [client.put(array(6, seed)) for seed in range(3)]
    raised(vc.TierFull, "gc", lambda: client.put(array(6, 3)))
    assert len(files(disk)) == 3 and len(list(client.list())) == 3, files(disk)
    assert client.delete(refs[0])
    again = client.put(array(6, 3))
    host.restart()
    assert same(client.get(again), array(6, 3)) and same(client.get(refs[1]), array(6, 1))
""",
        tmp_path,
    )


def test_disk_full_behind(tmp_path: Path) -> None:
    """Behind, what a full disk takes no more waits in memory with its note, and is saved when there is room."""
    on_a_disk(
        """
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
""",
        tmp_path,
    )


@pytest.mark.long
def test_disk_full_without_an_agent(tmp_path: Path) -> None:
    """Behind and without an agent, what cannot be saved is in memory alone, and the row can say why."""
    on_a_disk(
        """
with host.connect() as client:
    ref = client.put(array(6))
    assert ref.copy is None and same(client.get(ref), array(6))
    where = str(client.saved.where(ref))
    assert where.startswith("no: ") and "cannot be saved" in where, where
    assert host.notes("unsaved") == [] and files(disk) == []
""",
        tmp_path,
        "size=4M",
    )


def test_everything_full(tmp_path: Path) -> None:
    """Only when memory and disk are full does a put fail, with both in the message, and everything else goes on."""
    on_a_disk(
        """
tier = vc.TierOptions(str(disk / "values"), spill=str(disk / "spill"), durability="through", reserve=0.0)
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
""",
        tmp_path,
        "size=40M",
    )


@pytest.mark.long
def test_overflow_full(tmp_path: Path) -> None:
    """The same with a bucket that nobody can reach: the overflow is full, and both are named."""
    on_a_disk(
        """
tier = vc.TierOptions("s3://nowhere/x", spill=str(disk / "spill"), durability="behind", reserve=0.0)
with vc.Client(host.socket, tier=tier) as client:
    first = client.put(array(20))
    text = raised(vc.StoreFull, "no room", lambda: client.put(array(60)))
    assert "overflow" in text and str(disk) in text, text
    small = client.put(array(8, 1))
    assert same(client.get(first), array(20)) and same(client.get(small), array(8, 1))
    assert not [path for path in files(disk) if path.name.endswith(".tmp")]
""",
        tmp_path,
        "size=10M",
    )


def test_read_only(tmp_path: Path) -> None:
    """A disk that became read-only is refused by name, and what is on it is still read."""
    on_a_disk(
        """
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
""",
        tmp_path,
    )


@pytest.mark.long
def test_notes_read_only(tmp_path: Path) -> None:
    """Notes that cannot be written end the agent at its start, and fail a put that was to be safe; both say why."""
    on_a_disk(
        """
tier = vc.TierOptions(str(folder / "values"), spill=str(disk / "spill"), durability="through", reserve=0.0)
host.url = str(folder / "values")
with vc.Client(host.socket, tier=tier) as client:
    raised(vc.TierRefused, "option spill", lambda: client.put(array(2)))
    raised(vc.TierRefused, "option spill", client.saved.check)
    assert list(client.list()) == [] and files(folder / "values") == []
host.start_agent("--spill", str(disk / "spill"), wait=False)
assert host.agent.wait(30) == 1
assert "option spill" in host.log.read_text(), host.log.read_text()
""",
        tmp_path,
        "size=20M,ro",
    )


def test_network_file_system(tmp_path: Path) -> None:
    """On a network's file system nothing is mapped, so what another host deletes takes no page from a reader."""
    on_a_disk(
        """
lines = Path("/proc/self/mountinfo").read_text().splitlines()
told = [line.replace(" - tmpfs ", " - nfs4 ") if f" {disk} " in line else line for line in lines]
assert told != lines
(folder / "mountinfo").write_text("\\n".join(told) + "\\n")
mount("--bind", str(folder / "mountinfo"), f"/proc/{os.getpid()}/mountinfo")
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
    text = str(found[0])
    assert [finding.kind for finding in found] == ["network"] and "(nfs4)" in text and "option spill" in text, found
""",
        tmp_path,
    )


@pytest.mark.long
def test_agent_warns_of_memory(tmp_path: Path) -> None:
    """An agent whose notes or tier are in memory says so at its start, with the option."""
    on_a_disk(
        """
host.start_agent("--spill", str(disk / "spill"))
host.end_agent()
log = host.log.read_text()
assert "(option tier)" in log and "(option spill)" in log, log
""",
        tmp_path,
    )
