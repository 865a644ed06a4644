"""Two users of one host: one writes, the other reads, makes room and deletes, where the folders are their group's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.processes import run_python

import vineyard_client as vc
from vineyard_client._tiers import doorbell

FIRST, SECOND, GROUP = 61_001, 61_002, 61_100

PRELUDE = """
import json, os, sys
import vineyard_client as vc
from vineyard_testing.tiers import array, same
os.umask(0o022)
socket, values, spill, durability, *rest = sys.argv[1:]
tier = vc.TierOptions(values, durability=durability, spill=spill, reserve=0.0)
client = vc.Client(socket, tier=tier)
refs = [vc.ObjectRef.from_json(data) for data in json.loads(rest[0])] if rest else []
"""


def as_user(user: int) -> List[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={GROUP}"]


class Shared:
    """A store with a tier, and users."""

    def __init__(self, folder: Path, group: bool) -> None:
        self.socket = str(folder / "s")
        self.values, self.spill = folder / "values", folder / "spill"
        os.chmod(folder, 0o755)
        for path in (self.values, self.spill):
            path.mkdir()
            os.chown(path, FIRST, GROUP)
            os.chmod(path, 0o2770 if group else 0o700)
        self.start()

    def start(self) -> None:
        self.server = vc.EmbeddedServer("64Mi", socket=self.socket).start()
        os.chmod(self.socket, 0o666)

    def restart(self) -> None:
        self.server.stop()
        self.start()

    def run(self, user: int, code: str, *arguments: str, durability: str = "through") -> str:
        """Run code as a user, and return what it prints."""
        place = (self.socket, str(self.values), str(self.spill), durability)
        done = run_python(PRELUDE + code, *place, *arguments, prefix=as_user(user))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def put(self, user: int, code: str, **options: str) -> str:
        """Run code as a user that puts values, and return their references as JSON."""
        return self.run(user, f"print(json.dumps([ref.to_json() for ref in [{code}]]))", **options)


def unavailable() -> str:
    if os.getuid() != 0 or not shutil.which("setpriv"):
        return "needs root and setpriv (Debian: util-linux)"
    done = run_python("import numpy, vineyard_client, vineyard_testing", prefix=as_user(FIRST))
    return "another user cannot run this interpreter" if done.returncode else ""


pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _users() -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def shared() -> Iterator[Shared]:
    with tempfile.TemporaryDirectory(prefix="vyu-") as folder:
        made = Shared(Path(folder), True)
        yield made
        made.server.stop()


def test_read_evicted_and_deleted_by_another(shared: Shared) -> None:
    """What one user saved is read by the other from memory and from the folder, leaves for it, and is deleted by it."""
    refs = shared.put(FIRST, "*[client.put(array(6, seed), path=('a dag', 'x')) for seed in range(4)]")
    reads = "assert all(same(client.get(ref), array(6, seed)) for seed, ref in enumerate(refs))\n"
    shared.run(SECOND, reads + "assert client.source == 'store'", refs)
    # More than fits: those of the first user leave.
    more = shared.put(SECOND, "*[client.put(array(6, seed), path=('a dag', 'y')) for seed in range(8)]")
    left = "assert not {ref.token for ref in refs} <= {info.ref.token for info in client.list()}\n"
    shared.run(FIRST, left + reads, refs)
    shared.run(FIRST, reads, more)
    shared.restart()
    shared.run(SECOND, reads + "assert client.source == 'tier'", refs)
    for user, of in ((SECOND, refs), (FIRST, more)):
        shared.run(user, "assert all(client.delete(ref) for ref in refs)", of)
    assert not [path for path in shared.values.rglob("*") if path.is_file()]
    notes = [path for path in shared.spill.rglob("*") if path.is_file() and path.name not in ("lock", "journal")]
    assert notes == []


def test_modes(shared: Shared) -> None:
    """What is in a folder that is a group's is the group's, whatever the umask, and nobody else's."""
    shared.put(FIRST, "client.put(array(6), path=('a dag', 'x'))")
    made = [*shared.values.rglob("*"), *shared.spill.rglob("*")]
    assert len(made) > 4
    for path in made:
        status = path.stat()
        assert status.st_gid == GROUP and status.st_mode & 0o067 == 0o060, path
        assert path.is_file() or status.st_mode & 0o7777 == 0o2770, path


def test_saved_by_an_agent_of_the_first(shared: Shared) -> None:
    """Behind, the agent of one user saves what the other puts, and the other reads it after a restart."""
    os.chmod(Path(shared.socket).parent, 0o1777)
    command = [*as_user(FIRST), sys.executable, "-m", "vineyard_client", "agent", "--socket", shared.socket]
    command += ["--tier", str(shared.values), "--spill", str(shared.spill), "--reserve", "0"]
    agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, umask=0o022)
    try:
        until(lambda: doorbell.ring(shared.socket), "the agent listens", 3 * UNIT)
        refs = shared.put(SECOND, "*[client.put(array(1, seed)) for seed in range(3)]", durability="behind")

        def saved() -> bool:
            return len([path for path in shared.values.rglob("*") if path.is_file()]) == 3

        until(saved, "all is saved", 3 * UNIT)
        assert {path.stat().st_uid for path in shared.values.rglob("*") if path.is_file()} == {FIRST}
        shared.restart()
        reads = "assert all(same(client.get(ref), array(1, seed)) for seed, ref in enumerate(refs))\n"
        shared.run(SECOND, reads + "assert all(client.delete(ref) for ref in refs)", refs)
        assert not [path for path in shared.values.rglob("*") if path.is_file()]
    finally:
        agent.kill()
        agent.wait()


def test_folders_of_the_first_alone() -> None:
    """Where the folders are one user's alone, the other reads what is in memory, and is told what it may not do."""
    with tempfile.TemporaryDirectory(prefix="vyu-") as folder:
        shared = Shared(Path(folder), False)
        try:
            refs = shared.put(FIRST, "client.put(array(6))")
            shared.run(SECOND, "assert same(client.get(refs[0]), array(6))", refs)
            refused = """
for work in (lambda: client.put(array(1)), lambda: client.get(refs[0])):
    try:
        work()
    except vc.TierRefused as error:
        assert "Permission denied" in str(error) and "this user can read and write" in str(error), error
    else:
        raise SystemExit("no error")
"""
            shared.restart()
            shared.run(SECOND, refused, refs)
        finally:
            shared.server.stop()
