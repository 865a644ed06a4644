"""Server and agent on demand: both are there for who needs them, end together, and lose nothing on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.processes import running
from vineyard_testing.tiers import array

import vineyard_client as vc
from vineyard_client._tiers import doorbell
from vineyard_client._tiers.notes import Notes


class OnDemand:
    """A path at which server and agent are started on demand."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "s")
        self.values = folder / "values"
        self.tier = vc.TierOptions(str(self.values), durability="behind", reserve=0.0, timeout=5.0)

    def connect(self) -> vc.Client:
        return vc.connect(self.socket, autostart=True, size="64Mi", tier=self.tier)

    def notes(self, kind: str) -> List[str]:
        return Notes(self.socket + ".tier").names(kind)

    def agent(self) -> int:
        """Return the agent's process id, when it listens."""
        until(lambda: doorbell.ring(self.socket), "the agent listens", 3 * UNIT)
        return int(doorbell.ask(self.socket, {"do": "status"}, UNIT)["pid"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[OnDemand]:
    made = OnDemand(tmp_path)
    yield made
    if os.path.exists(made.socket):
        vc.stop_server(made.socket, discard=True)
    assert not running(made.socket)


def test_both_end_at_once(place: OnDemand) -> None:
    """An agent that was only just started is waited for; what was put meanwhile is in the folder."""
    with place.connect() as client:
        refs = [client.put(array(1, seed)) for seed in range(5)]
    vc.stop_server(place.socket)
    assert not running(place.socket)
    assert place.notes("unsaved") + place.notes("lost") == []
    with place.connect() as client:
        for seed, ref in enumerate(refs):
            np.testing.assert_equal(client.get(ref), array(1, seed))
            assert client.source == "tier"
        client.get(client.put(array(1)))
        assert client.source == "store"


def test_the_backlog_is_saved_first(place: OnDemand) -> None:
    """What is only noted when the server is to end is saved before that."""
    with place.connect() as client:
        client.put(array(1))
        agent = place.agent()
        until(lambda: not place.notes("unsaved"), "the first one is saved")
        os.kill(agent, signal.SIGSTOP)
        refs = [client.put(array(1, seed)) for seed in range(5)]
        assert len(place.notes("unsaved")) == 5
        os.kill(agent, signal.SIGCONT)
    vc.stop_server(place.socket)
    assert not running(place.socket)
    assert place.notes("unsaved") + place.notes("lost") == []
    assert all((place.values / str(ref.copy)).is_file() for ref in refs)


def test_what_cannot_be_saved_keeps_the_server(place: OnDemand) -> None:
    """Nothing ends while something would be lost by that; who wants that says so, and the note stays."""
    with place.connect() as client:
        client.put(array(1))
        agent = place.agent()
        until(lambda: not place.notes("unsaved"), "the first one is saved")
        os.kill(agent, signal.SIGSTOP)
        ref = client.put(array(1, 7))
        shutil.rmtree(place.values)
        place.values.write_text("no folder")
        os.kill(agent, signal.SIGCONT)
        with pytest.raises(vc.TierUnavailable, match=r"1 values \(\d+ bytes\) are not saved yet\. .*values"):
            vc.stop_server(place.socket, save_timeout=2.0)
        np.testing.assert_equal(client.get(ref), array(1, 7))
        assert client.saved is not None
        with pytest.raises(vc.TierUnavailable, match="are not saved yet"):
            client.saved.drain(1.0)
        assert place.agent() == agent
    vc.stop_server(place.socket, discard=True)
    assert not running(place.socket)
    assert len(place.notes("unsaved")) == 1


def test_the_agent_was_killed(place: OnDemand) -> None:
    """Who waits for what is noted starts the next one."""
    with place.connect() as client:
        client.put(array(1))
        agent = place.agent()
        until(lambda: not place.notes("unsaved"), "the first one is saved")
        os.kill(agent, signal.SIGSTOP)
        ref = client.put(array(1, 7))
        os.kill(agent, signal.SIGKILL)
        until(lambda: not doorbell.is_there(place.socket), "it has ended")
    with place.connect() as client:
        assert client.saved is not None and client.saved.status().unsaved.number == 1
        client.saved.drain(3 * UNIT)
        assert (place.values / str(ref.copy)).is_file()


def test_one_is_started(place: OnDemand) -> None:
    """Of many that want one at the same moment, one starts it."""
    script = (
        "import sys, vineyard_client as vc\n"
        "tier = vc.TierOptions(sys.argv[2], durability='behind', reserve=0.0)\n"
        "with vc.connect(sys.argv[1], autostart=True, size='64Mi', tier=tier) as client:\n"
        "    print(client.put(bytes(100_000)).copy)\n"
    )
    command = [sys.executable, "-c", script, place.socket, str(place.values)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    keys = [writer.communicate(timeout=3 * UNIT)[0].strip() for writer in writers]
    place.agent()
    assert "Another agent" not in Path(place.socket + ".agent.log").read_text()
    with place.connect() as client:
        assert client.saved is not None
        client.saved.drain(3 * UNIT)
    assert sorted(keys) == sorted(str(path.relative_to(place.values)) for path in place.values.rglob("*/*"))


def test_none(place: OnDemand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word none is stronger than the environment, and may stand in it."""
    monkeypatch.setenv("VINEYARD_TIER", str(place.values))
    with vc.connect(place.socket, autostart=True, size="64Mi", tier="none") as client:
        assert client.put(array(1)).copy is None
    with vc.connect(place.socket) as client:
        assert client.put(array(1)).copy is not None
    monkeypatch.setenv("VINEYARD_TIER", "none")
    with vc.connect(place.socket) as client:
        assert client.saved is None


def test_options_in_the_environment(tmp_path: Path) -> None:
    """Options of a bucket need not stand in arguments, which all users of a host see; nonsense is not repeated."""
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", str(tmp_path / "s"), "--tier", "s3://b/p"]
    for options, told in [
        (json.dumps({"no_such_option": "hidden"}), "no_such_option"),
        ('{"secret_access_key": "hidden"', "VINEYARD_TIER_OPTIONS is no JSON object"),
    ]:
        env = {**os.environ, "VINEYARD_TIER_OPTIONS": options}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3 * UNIT, check=False)
        assert done.returncode == 1
        assert told in done.stderr or "needs the library obstore" in done.stderr
        assert "hidden" not in done.stderr
