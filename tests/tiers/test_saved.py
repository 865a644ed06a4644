"""What people ask of the tiers: is a value safe, what is there, how does the work stand, save it now."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import List

import numpy as np
import pytest
from vineyard_testing import until
from vineyard_testing.processes import run_python
from vineyard_testing.tiers import Host, array

import vineyard_client as vc


def saved(client: vc.Client) -> vc.SavedValues:
    assert client.saved is not None
    return client.saved


def test_where(host: Host) -> None:
    """A value is safe, will be soon, or is not; the text says where, or why."""
    host.start_agent()
    assert host.agent is not None
    with host.connect("through") as client:
        ref = client.put(array())
        assert str(saved(client).where(ref)) == host.url
    with host.connect() as client:
        host.agent.send_signal(signal.SIGSTOP)
        late = client.put(array(1, 1))
        assert str(saved(client).where(late)) == f"soon: {host.url}"
        host.agent.send_signal(signal.SIGCONT)
        host.all_saved()
        assert saved(client).where(late) == vc.Durable("yes", host.url)
        host.restart()
        assert saved(client).where(ref).state == "yes", "the tier is asked where there is no note"
        client.delete(ref)
        assert "is gone from" in str(saved(client).where(ref))
    with vc.connect(host.socket) as plain:
        assert plain.saved is None
    with host.connect("none") as none:
        assert str(saved(none).where(none.put(array()))) == "no"


def test_why_not(tmp_path: Path) -> None:
    """What could not be saved is in memory alone, and says why."""
    made = Host(tmp_path, "/proc/nowhere")
    try:
        with made.connect() as client:
            ref = client.put(array())
            assert ref.copy is None
            where = saved(client).where(ref)
            assert where.state == "no" and "/proc/nowhere" in where.reason
            assert str(saved(client).where(client.put(1))).startswith("no: ")
    finally:
        made.close()


def test_list_and_delete(host: Host) -> None:
    """A tier is listed by what stood before the tokens; what is deleted is gone with its notes, and not saved again."""
    host.start_agent()
    with host.connect("through") as client:
        refs = [client.put(array(0.1, seed), path=("here & now", f"dag {seed % 2}")) for seed in range(6)]
        other = client.put(array(0.1), path=("here", "dag 0"))
        of = saved(client)
        assert sorted(copy.key for copy in of.list()) == sorted(str(ref.copy) for ref in [*refs, other])
        mine = list(of.list("here & now"))
        assert {copy.token for copy in mine} == {ref.token for ref in refs}
        assert all(copy.size == refs[0].size and copy.tier == host.url for copy in mine)
        assert all(abs(copy.modified - time.time()) < 60 for copy in mine)
        assert list(of.list("here & now", "nobody")) == []
        assert of.delete(mine) == 6
        assert of.delete(mine) == 6, "what is gone is no error"
        assert [copy.key for copy in of.list()] == [other.copy]
        assert len(host.notes("saved")) == 1
        np.testing.assert_equal(client.get(refs[0]), array(0.1))  # it is in the store
        client.delete(refs[0])
    assert host.keys() == [other.copy]


def test_long_listing(host: Host) -> None:
    """A listing has everything, also when it comes in several parts."""
    host.start_agent()
    from vineyard_client._tiers.keys import make_key
    from vineyard_client._tiers.urls import open_tier

    tier = open_tier(host.url, options=host.options)
    keys = [make_key(["x", "y" * 100], f"{number:032x}") for number in range(2301 if "://" not in host.url else 1203)]
    for key in keys:
        tier.save(key, [b"x"])
    with host.connect() as client:
        assert sorted(copy.key for copy in saved(client).list("x")) == keys
        assert saved(client).delete(saved(client).list("x")) == len(keys)
        assert list(saved(client).list()) == []


def test_loaded_and_unsaved_are_deleted(host: Host) -> None:
    """Deleting a copy also drops what was loaded from it, and what was still to be saved under its key."""
    host.start_agent()
    assert host.agent is not None
    with host.connect("through") as client:
        ref = client.put(array(2))
        host.restart()
        client.get(ref)
        saved(client).delete(saved(client).list())
        assert host.notes("loaded") == host.notes("saved") == []
        assert list(client.list()) == []
        with pytest.raises(vc.ObjectNotFound, match="so is its copy"):
            client.get(ref)


def test_status(host: Host) -> None:
    """Backlog, overflow, disks and the agent's work are told, with an agent and without."""
    with host.connect() as client:
        status = saved(client).status()
        assert status.agent is None and status.unsaved == vc.Backlog(0, 0, 0.0)
        assert status.urls == (host.url,) and status.durability == "behind"
        assert [disk.purpose for disk in status.disks] == ["tier", "spill"]["://" in host.url :]
        assert all(0 < disk.free < disk.size and disk.file_system for disk in status.disks)
        host.start_agent()
        assert host.agent is not None
        client.put(array())
        host.all_saved()
        host.agent.send_signal(signal.SIGSTOP)
        refs = [client.put(array(1, seed)) for seed in range(3)]
        outside = client.put(array(80))
        unsaved = [*refs, outside] if "://" in host.url else refs
        status = saved(client).status()
        assert (status.unsaved.number, status.unsaved.nbytes) == (len(unsaved), sum(ref.size for ref in unsaved))
        assert 0 < status.unsaved.age < 60
        held = [outside.size] if "://" in host.url else []
        assert (status.overflow, status.overflow_bytes) == (len(held), sum(held))
        assert status.agent is None, "it is held, and answers nobody"
        host.agent.send_signal(signal.SIGCONT)
        host.all_saved()
        until(lambda: saved(client).status().counts["saved"] == 1 + len(unsaved), "all of it is counted")
        status = saved(client).status()
        assert status.agent == host.agent.pid and status.overflow == 0


def test_check(host: Host) -> None:
    """The round trip works, and nothing is found; without an agent that is what is found, or raised."""
    with host.connect() as client:
        if "://" in host.url:
            with pytest.raises(vc.TierUnavailable, match="vineyard-client agent"):
                saved(client).check()
        else:
            assert "no agent" in [finding.kind for finding in saved(client).check()]
        host.start_agent()
        assert saved(client).check() == []
    with vc.Client(host.socket, tier=vc.TierOptions(host.url + "/elsewhere", spill=str(host.folder / "x"))) as client:
        found = " ".join(map(str, saved(client).check()))
        assert "Give both one tier" in found and "option spill" in found
    assert host.keys() == []


def test_check_finds_old_and_lost(host: Host) -> None:
    """Values that wait for long, and those that were lost, are found."""
    from dataclasses import replace

    from vineyard_client._tiers.notes import Notes

    host.start_agent()
    assert host.agent is not None
    host.agent.send_signal(signal.SIGSTOP)
    with host.connect() as client:
        client.put(array())
        notes = Notes(host.socket + ".tier")
        (name,) = notes.names("unsaved")
        note = notes.read("unsaved", name)
        assert note is not None
        notes.write("unsaved", replace(note, created=time.time() - 400))
        notes.write("lost", replace(note, token="1" * 32, key="dag/task/" + "1" * 32))
        host.end_agent(signal.SIGKILL)
        if "://" in host.url:
            pytest.skip("without an agent a bucket is not checked")
        found = " ".join(map(str, saved(client).check()))
        assert "1 values" in found and "Start the agent: vineyard-client agent" in found
        assert "lost with their store" in found and "dag/task/111" in found


def test_save_now(host: Host) -> None:
    """What was put without a tier is saved later; the old reference goes on working, and the new one has the copy."""
    host.start_agent()
    values: List[object] = ["text", array(0.05), array(2)]
    with vc.connect(host.socket) as plain:
        refs = [plain.put(value) for value in values]
        never = plain.put(array())
    with host.connect("through") as client:
        kept = [saved(client).save(ref, path=("moved",)) for ref in refs]
        assert [saved(client).save(ref) for ref in refs] == kept, "what is saved is left as it is"
        assert host.keys() == sorted(str(ref.copy) for ref in kept)
        host.restart()
        for ref, value in zip(kept, values):
            np.testing.assert_equal(client.get(ref), value)
        for ref, value in zip(refs, values):
            np.testing.assert_equal(client.get(ref), value)
            assert client.exists(ref) and saved(client).where(ref).state == "yes"
        with pytest.raises(vc.ObjectNotFound):
            saved(client).save(never)
        assert saved(client).where(never).state == "no" and not client.exists(never)
        for ref in refs:
            assert client.delete(ref) and not client.exists(ref)
        assert host.keys() == host.notes("kept") == []
    with host.connect("none") as none, pytest.raises(ValueError, match="saves nothing"):
        saved(none).save(refs[0])


def test_save_now_behind(host: Host) -> None:
    """Behind, it is noted, and the agent saves it."""
    host.start_agent()
    with vc.connect(host.socket) as plain:
        ref = plain.put(array())
    with host.connect() as client:
        kept = saved(client).save(ref)
        host.all_saved()
        assert host.keys() == [kept.copy]
        assert client.delete(ref), "the old reference deletes the copy as well, by the note"
    assert host.keys() == []


def test_tmpfs_and_full_disk(tmp_path: Path) -> None:
    """A tier or notes in memory, and a disk without room, are found, each with the option to change."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no tmpfs")
    code = """
import sys, tempfile
import vineyard_client as vc
with vc.EmbeddedServer("64Mi") as server, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
    tier = vc.TierOptions(memory + "/values", spill=memory + "/spill", durability="through", reserve=0.0)
    found = vc.Client(server.socket, tier=tier).saved.check()
    assert [finding.kind for finding in found] == ["memory", "memory"], found
    assert ["(option tier)" in str(finding) for finding in found] == [True, False], found
    assert ["(option spill)" in str(finding) for finding in found] == [False, True], found
    full = vc.TierOptions(sys.argv[1] + "/values", durability="through", reserve=0.9999)
    try:
        vc.Client(server.socket, tier=full).saved.check()
    except vc.TierFull as error:
        assert "stay free" in str(error), error
    else:
        raise SystemExit("the reserve is not seen")
"""
    done = run_python(code, str(tmp_path))
    assert done.returncode == 0, done.stderr
