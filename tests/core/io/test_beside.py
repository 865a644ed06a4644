"""The folder beside a socket: the same one for all who are connected, and nothing in it is trusted."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
from vineyard_testing.processes import in_child

from vineyard_client._io.beside import Unsafe, beside, open_file


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A socket in a folder of its own."""
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "v.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        yield path


def found(path: object, told: object = "") -> str:
    with beside(str(path), str(told)) as place:
        assert place.shared
        assert os.path.samestat(os.fstat(place.fd), os.stat(os.path.dirname(place.path)))
        return place.path


def test_every_way_leads_to_one_folder(listening: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to the socket or its folder, another name, a relative path: it is where the server says."""
    (tmp_path / "link").symlink_to(listening)
    (tmp_path / "folder").symlink_to(listening.parent)
    os.link(listening, tmp_path / "name")
    monkeypatch.chdir(tmp_path)
    for way in (listening, tmp_path / "link", tmp_path / "folder" / "v.sock", tmp_path / "name", "run/v.sock", "link"):
        assert found(way, listening) == str(listening)


def test_a_server_whose_path_is_not_here(listening: Path, tmp_path: Path) -> None:
    """In another container its path leads nowhere, or to another socket; then it is where this process sees it."""
    (tmp_path / "link").symlink_to(listening)
    for told in ("", "v.sock", "/nowhere/v.sock", tmp_path / "other.sock"):
        if told == tmp_path / "other.sock":
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(told))
                assert found(tmp_path / "link", told) == str(listening)
        assert found(tmp_path / "link", told) == str(listening)


def test_a_socket_that_was_renamed(listening: Path) -> None:
    """The server does not know; its clients find the folder all the same."""
    renamed = listening.rename(listening.with_name("w.sock"))
    assert found(renamed, listening) == str(renamed)


def test_nobody_listens_yet(tmp_path: Path) -> None:
    assert found(tmp_path / "v.sock") == str(tmp_path / "v.sock")
    with pytest.raises(FileNotFoundError), beside(str(tmp_path / "missing" / "v.sock")):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.getuid() != 0, reason="needs root, to mount")
@pytest.mark.parametrize("whole", [True, False])
def test_a_mount(listening: Path, tmp_path: Path, whole: bool) -> None:
    """A mount of the folder is the folder; one of the socket alone stands in a folder that others do not see."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"]).returncode:
        pytest.skip("mount namespaces are not permitted")
    (tmp_path / "inside").mkdir()

    def in_a_container() -> None:
        assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
        inside = tmp_path / "inside" / "v.sock"
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        if whole:
            subprocess.run(["mount", "--bind", str(listening.parent), str(inside.parent)], check=True)
        else:
            inside.touch()
            subprocess.run(["mount", "--bind", str(listening), str(inside)], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(listening.parent)], check=True)  # its path is not here
        with beside(str(inside), str(listening)) as place:
            assert (place.path, place.shared) == (str(inside), whole)

    assert in_child(in_a_container) == 0


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "folder", "pipe", "dangling link"])
def test_what_is_no_file_of_its_own(listening: Path, tmp_path: Path, kind: str) -> None:
    """It is neither opened for writing nor made: what it leads to stays as it is."""
    target, path = tmp_path / "target", listening.with_name("v.sock.log")
    if kind != "dangling link":
        target.write_text("precious")
    if kind in ("symbolic link", "dangling link"):
        path.symlink_to(target)
    elif kind == "hard link":
        os.link(target, path)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with beside(str(listening)) as place, pytest.raises(OSError):
        os.close(place.open_file(".log", os.O_RDWR | os.O_CREAT))
    assert target.read_text() == "precious" if kind != "dangling link" else not target.exists()


def test_a_file_is_made(listening: Path) -> None:
    with beside(str(listening)) as place:
        for _ in range(2):
            fd = place.open_file(".log", os.O_WRONLY | os.O_CREAT, 0o600)
            os.close(fd)
        with pytest.raises(FileNotFoundError):
            open_file(place.fd, "missing", os.O_RDONLY)
    assert stat.S_IMODE(listening.with_name("v.sock.log").stat().st_mode) == 0o600


def test_a_folder_is_made_for_all(listening: Path) -> None:
    """Whatever the umask; and nobody may remove what others put there."""
    before = os.umask(0o077)
    try:
        with beside(str(listening)) as place:
            with pytest.raises(FileNotFoundError):
                place.open_folder(".replicas")
            os.close(place.open_folder(".replicas", make=True))
            os.close(place.open_folder(".replicas", make=True))
    finally:
        os.umask(before)
    assert stat.S_IMODE(listening.with_name("v.sock.replicas").stat().st_mode) == 0o1777


def test_a_folder_of_somebody_else(listening: Path, tmp_path: Path) -> None:
    """A link is not followed, and what everybody may replace is not used."""
    path = listening.with_name("v.sock.replicas")
    path.symlink_to(tmp_path)
    with beside(str(listening)) as place:
        with pytest.raises(Unsafe, match="symbolic link"):
            place.open_folder(".replicas", make=True)
        path.unlink()
        path.mkdir()
        path.chmod(0o777)
        with pytest.raises(Unsafe, match="everybody may replace"):
            place.open_folder(".replicas")
