"""The files that say what is here, by themselves: locks, notes, failures, other users."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from pathlib import Path
from typing import List

import pytest
from vineyard_testing import until
from vineyard_testing.processes import fork, in_child, wait

import vineyard_client as vc
from vineyard_client._hosts.replicas import Busy, Replicas

TOKEN = "0123456789abcdef" * 2
NUMBER = 0x6880CF8B40000003


@pytest.fixture
def replicas(tmp_path: Path) -> Replicas:
    return Replicas(str(tmp_path / "sock"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sock.replicas" / TOKEN


def test_a_note_is_read_by_all(replicas: Replicas, path: Path) -> None:
    """Once recorded, an id is seen without the lock, and the lock is free."""
    assert (replicas.number(TOKEN), replicas.has(TOKEN), replicas.tokens()) == (None, False, [])
    with replicas.claim(TOKEN, 0) as claim:
        assert (claim.number, replicas.number(TOKEN), replicas.has(TOKEN)) == (None, None, True)
        claim.record(NUMBER)
        with replicas.claim(TOKEN, 0) as other:
            assert other.number == NUMBER
    assert (replicas.number(TOKEN), replicas.tokens()) == (NUMBER, [TOKEN])
    with replicas.claim(TOKEN, 0) as claim:
        claim.remove()
    assert not path.exists()


def test_the_folder_is_for_all_users(replicas: Replicas, path: Path) -> None:
    """As the socket is; nobody can remove another's files, but all can write to them."""
    before = os.umask(0o077)
    try:
        with replicas.claim(TOKEN, 0):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o1777
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_file_of_another_user(replicas: Replicas, path: Path) -> None:
    """It can be claimed and written; what cannot be removed is emptied, and failures are not left in it."""
    for parent in list(path.parents)[1:5]:
        if parent.stat().st_uid == 0 and parent not in (Path("/tmp"), Path("/")):
            parent.chmod(0o755)
    with replicas.claim(TOKEN, 0) as claim:
        claim.record(1)

    def somebody_else() -> None:
        os.setgid(65534)
        os.setuid(65534)
        with replicas.claim(TOKEN, 0) as claim:
            assert claim.number == 1
            claim.record(NUMBER)
        assert replicas.number(TOKEN) == NUMBER
        with replicas.claim(TOKEN, 0) as claim:
            claim.fail(vc.MigrationFailed("what", "hint"))

    assert in_child(somebody_else) == 0
    assert path.read_text() == ""


def test_who_waits_gets_it_next(replicas: Replicas) -> None:
    """The lock is of the file, not of the process: threads wait for each other as well."""
    order: List[str] = []

    def second() -> None:
        with replicas.claim(TOKEN, 5) as claim:
            order.append(f"second sees {claim.number}")

    with replicas.claim(TOKEN, 0) as claim:
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        order.append("first")
        claim.record(NUMBER)
    thread.join()
    assert order == ["first", f"second sees {NUMBER}"]


def test_who_waits_too_long(replicas: Replicas, path: Path) -> None:
    """Somebody was stopped in the middle: the error names the file."""
    with replicas.claim(TOKEN, 0):
        started = time.monotonic()
        with pytest.raises(Busy, match="for 0 s") as caught, replicas.claim(TOKEN, 0.1):
            pass
        assert 0.1 <= time.monotonic() - started < 1
        assert str(path) in caught.value.hint


def test_a_killed_owner_lets_go(replicas: Replicas) -> None:
    """The kernel drops the lock of a process that dies."""
    ready, write = os.pipe()

    def hold() -> None:
        with replicas.claim(TOKEN, 0):
            os.write(write, b".")
            time.sleep(60)

    pid = fork(hold)
    os.read(ready, 1)
    with pytest.raises(Busy), replicas.claim(TOKEN, 0):
        pass
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    with replicas.claim(TOKEN, 0) as claim:
        assert claim.number is None
    os.close(ready)
    os.close(write)


def test_a_forked_child_does_not_keep_the_lock(replicas: Replicas) -> None:
    """A child that was forked during a transfer, in another thread, inherits the descriptor."""
    with replicas.claim(TOKEN, 0):
        pid = fork(lambda: time.sleep(60))
    try:
        with replicas.claim(TOKEN, 0):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        wait(pid)


def test_a_failure_is_told_to_those_who_wait(replicas: Replicas, path: Path) -> None:
    """And only to those: who comes later finds no file, and tries anew."""
    errors: List[vc.MigrationFailed] = []
    waiting = threading.Semaphore(0)

    def second() -> None:
        waiting.release()
        try:
            with replicas.claim(TOKEN, 5):
                pass
        except vc.MigrationFailed as error:
            errors.append(error)

    with replicas.claim(TOKEN, 0) as claim:
        threads = [threading.Thread(target=second) for _ in range(5)]
        for thread in threads:
            thread.start()
            waiting.acquire()
        until(lambda: _open_files(path) == 6, "they wait")
        claim.fail(vc.MigrationFailed("The cable is cut.", "Mend it."))
        assert not path.exists()
        with replicas.claim(TOKEN, 0) as later:
            assert later.number is None
    for thread in threads:
        thread.join()
    assert [(error.what, error.hint) for error in errors] == [("The cable is cut.", "Mend it.")] * 5


def _open_files(path: Path) -> int:
    return sum(os.path.realpath(f"/proc/self/fd/{fd}") == str(path) for fd in os.listdir("/proc/self/fd"))


def test_a_file_that_is_removed_while_somebody_waits(replicas: Replicas, path: Path) -> None:
    """Who was waiting takes the one that is there then."""
    done: List[bool] = []

    def second() -> None:
        with replicas.claim(TOKEN, 5) as claim:
            done.append(path.exists() and claim.number is None)

    with replicas.claim(TOKEN, 0) as claim:
        thread = threading.Thread(target=second)
        thread.start()
        until(lambda: _open_files(path) == 2, "the other waits")
        claim.remove()
    thread.join()
    assert done == [True]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"id": 7}', '{"id": "o7"}', '{"id": null}', "\xff", "[" * 100_000]
)
def test_what_makes_no_sense_is_no_note(replicas: Replicas, path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    assert replicas.number(TOKEN) is None
    with replicas.claim(TOKEN, 0) as claim:
        assert claim.number is None
        claim.record(NUMBER)
    assert replicas.number(TOKEN) == NUMBER


def test_what_is_no_file_of_its_own(replicas: Replicas, path: Path, tmp_path: Path) -> None:
    """A link that somebody put there is not followed: that would write to another file."""
    path.parent.mkdir()
    other = tmp_path / "other"
    other.write_text("precious")
    for make in (lambda: path.symlink_to(other), lambda: os.link(other, path), lambda: os.mkfifo(path), path.mkdir):
        make()
        assert replicas.number(TOKEN) is None
        with pytest.raises(vc.MigrationFailed, match="cannot be recorded") as caught, replicas.claim(TOKEN, 0):
            pass
        assert caught.value.hint
        path.rmdir() if path.is_dir() else path.unlink()
    assert other.read_text() == "precious"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The error tells the way around."""
    (tmp_path / "sock.replicas").write_text("")
    replicas = Replicas(str(tmp_path / "sock"))
    assert (replicas.number(TOKEN), replicas.has(TOKEN), replicas.tokens()) == (None, False, [])
    with pytest.raises(vc.MigrationFailed, match=str(tmp_path)) as caught, replicas.claim(TOKEN, 0):
        pass
    assert "replica=False" in caught.value.hint


def test_only_tokens_are_tokens(replicas: Replicas, path: Path) -> None:
    path.parent.mkdir()
    for name in ("README", TOKEN, TOKEN.upper(), TOKEN + "0"):
        (path.parent / name).write_text("")
    assert replicas.tokens() == [TOKEN]


def test_a_folder_that_is_a_link(replicas: Replicas, path: Path, tmp_path: Path) -> None:
    """Somebody who may write beside the socket cannot have files of ours removed elsewhere."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / TOKEN).write_text("precious")
    path.parent.symlink_to(cache)
    assert (replicas.number(TOKEN), replicas.has(TOKEN), replicas.tokens()) == (None, False, [])
    with pytest.raises(vc.MigrationFailed, match="it is a symbolic link"), replicas.claim(TOKEN, 0):
        pass
    assert (cache / TOKEN).read_text() == "precious"


def test_what_is_no_note_is_not_removed(replicas: Replicas, path: Path) -> None:
    """Another program's file, whose name looks like a token, stays."""
    path.parent.mkdir()
    path.write_text("precious")
    with replicas.claim(TOKEN, 0) as claim:
        claim.remove()
    assert path.read_text() == "precious"


@pytest.mark.integration
def test_collect_removes_notes_only(server: vc.EmbeddedServer, tmp_path: Path) -> None:
    """Neither through a link, nor what is no note."""
    cache, folder = tmp_path / "cache", Path(server.socket + ".replicas")
    cache.mkdir()
    (cache / TOKEN).write_text("")
    folder.symlink_to(cache)
    try:
        with vc.connect(server.socket) as client:
            client.collect()
            assert (cache / TOKEN).exists()
    finally:
        folder.unlink()
