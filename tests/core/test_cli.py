"""The command line: what it prints where, and its exit codes; in this process and in one of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.peers import Peer, nonsense
from vineyard_testing.ports import free_port
from vineyard_testing.processes import running

import vineyard_client as vc
from vineyard_client import cli

pytestmark = pytest.mark.integration

LARGE = memoryview(bytearray(200_000))


class Run:
    """Run the command line in this process, against one socket."""

    def __init__(self, socket: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.socket = socket
        self.capsys = capsys

    def __call__(self, command: str, *arguments: str, code: int = 0) -> str:
        """Run a command, check its exit code, and return what it printed where it should."""
        assert cli.main([command, "--socket", self.socket, *arguments]) == code
        out, err = self.capsys.readouterr()
        assert (out if code else err) == "", "printed to the wrong stream"
        return err if code else out


@pytest.fixture
def run(client: vc.Client, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(client.socket, capsys)


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "vineyard_client", *arguments]
    env = {key: value for key, value in os.environ.items() if key != "VINEYARD_IPC_SOCKET"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=3 * UNIT, env={**env, **environment}, check=False
    )


def pairs(text: str) -> Dict[str, str]:
    """Return what a table of two columns says."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines())


# ---- looking into a store


def test_status(run: Run, client: vc.Client, release: str) -> None:
    """``status`` shows how full the store is and who serves it."""
    found = pairs(run("status"))
    assert found["socket"] == client.socket
    assert found["vineyardd"] == release
    assert found["instance"] == "0, metadata in local"
    assert found["memory"] == "0 B of 512.0 MiB (0.0%)"
    assert int(found["clients"]) >= 1
    assert found["RPC"] == "off"
    client.put(memoryview(bytearray(100 << 20)))
    assert pairs(run("status"))["memory"] == "100.0 MiB of 512.0 MiB (19.5%)"


def test_status_as_json(run: Run, client: vc.Client) -> None:
    """With ``--json`` the same is there for programs, unrounded."""
    found = json.loads(run("status", "--json"))
    expected = client.status()
    assert found == {**vars(expected), "connections": found["connections"]}


def test_list(run: Run, client: vc.Client) -> None:
    """``list`` shows one line for each object, oldest first, in aligned columns."""
    assert run("list").split() == ["ID", "SIZE", "OWN", "CREATED", "TYPE", "SUMMARY"]
    refs = [client.put({"a": 1}, labels={"dag_id": "etl"}), client.put(LARGE)]
    header, first, second = run("list").splitlines()
    assert first.startswith(refs[0].id) and second.startswith(refs[1].id)
    for column in ("SIZE", "OWN", "CREATED", "TYPE", "SUMMARY"):
        at = header.index(column)
        assert {line[at - 1] for line in (header, first, second)} == {" "}
        assert all(line[at] != " " for line in (first, second))
    assert "195.5 KiB" in second and "builtins.memoryview" in second
    created = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", first)
    assert (
        created
        and abs((datetime.now(timezone.utc).replace(tzinfo=None) - datetime.fromisoformat(created[0])).days) <= 1
    )
    assert run("list", "--label", "dag_id=etl").count("\n") == 2
    assert run("list", "--label", "dag_id=etl", "--label", "x=").count("\n") == 1


def test_list_as_json(run: Run, client: vc.Client) -> None:
    """With ``--json`` each object is a reference with what else is known of it."""
    assert json.loads(run("list", "--json")) == []
    ref = client.put([1, "é"], labels={"k": "v"})
    (found,) = json.loads(run("list", "--json"))
    info = client.info(ref)
    assert vc.ObjectRef.from_json({key: found[key] for key in ref.to_json()}) == ref
    assert found["labels"] == {"k": "v"} and found["summary"] == info.summary
    assert datetime.fromisoformat(found["created"]) == info.created
    assert (found["host"], found["socket"]) == (os.uname().nodename, client.socket)


def test_list_deleted(run: Run, client: vc.Client) -> None:
    """``list --deleted`` shows what was deleted and is still read."""
    ref = client.put(LARGE)
    value = client.get(ref)
    client.delete(ref)
    assert run("list").count("\n") == 1
    assert run("list", "--deleted").count("\n") == 2
    del value


def test_show(run: Run, client: vc.Client) -> None:
    """``show`` tells all that is known of an object, for people or programs."""
    ref = client.put(LARGE, labels={"b": "2", "a": "1"})
    found = pairs(run("show", ref.id))
    assert (found["id"], found["token"], found["type"]) == (ref.id, ref.token, "builtins.memoryview")
    assert found["size"] == f"195.5 KiB ({ref.size} bytes)"
    assert found["endpoint"] == "none, its RPC is off"
    assert (found["label a"], found["label b"]) == ("1", "2")
    assert found["created"].endswith(" UTC")
    assert json.loads(run("show", ref.id, "--json"))["id"] == ref.id


def test_odd_characters(run: Run, client: vc.Client) -> None:
    """What programs put into labels cannot play with the terminal, or keep the command from printing."""
    ref = client.put(1, labels={"a\nb": "\x1b[2J\ud800é\t"})
    shown = run("show", ref.id)
    assert r"label a\nb" in shown and r"\x1b[2J\ud800é\t" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "id_, text",
    [
        ("o00000000000000ff", "o00000000000000ff is not in "),
        ("ff", "'ff' is not an object id. An id is the letter o and sixteen hex digits."),
    ],
)
def test_show_nothing(run: Run, id_: str, text: str) -> None:
    """An object that is not there, or an id that is none, is an error."""
    assert run("show", id_, code=1).startswith(f"vineyard-client: {text}")


def test_gc(run: Run, client: vc.Client) -> None:
    """``gc`` frees, or with ``--dry-run`` only shows, what nobody needs, and says how much that was."""
    assert run("gc") == "Freed 0 objects, 0 B.\n"
    ref = client.put(LARGE, labels={"a": "b"})
    value = client.get(ref)
    client.delete(ref)
    assert run("gc") == "Freed 0 objects, 0 B.\n"
    del value
    shown = run("gc", "--dry-run").splitlines()
    assert shown[0].split() == ["ID", "SIZE", "FREES", "REASON", "TYPE", "SUMMARY"]
    assert "deleted" in shown[1] and shown[2] == "Would free 1 objects, 195.5 KiB."
    assert run("gc", "--label", "a=c") == "Freed 0 objects, 0 B.\n"
    (freed,) = json.loads(run("gc", "--json", "--label", "a=b"))
    assert (freed["reason"], freed["size"]) == ("deleted", ref.size)
    assert json.loads(run("gc", "--json")) == []


@pytest.mark.parametrize("age, freed", [("7d", 0), ("0s", 1), ("0.0h", 1), ("90m", 0)])
def test_gc_by_age(run: Run, client: vc.Client, age: str, freed: int) -> None:
    """``gc --older-than`` deletes whole values of that age."""
    client.put(1)
    assert f"Freed {freed} objects" in run("gc", "--older-than", age)
    assert run("list").count("\n") == 2 - freed


# ---- errors


def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody listens every command says so and ends with 1; none starts a server."""
    run = Run(str(tmp_path / "v.sock"), capsys)
    for command in ("status", "list", "stop", "gc"):
        assert "There is no such file: start vineyardd there" in run(command, code=1)
    assert "There is no such file" in run("show", "o0000000000000000", code=1)
    assert os.listdir(tmp_path) == []


def test_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not vineyardd is an error, and left alone."""
    run = Run(str(tmp_path / "v.sock"), capsys)
    with Peer(run.socket, nonsense):
        for command in ("status", "stop"):
            assert "Check that the socket belongs to vineyardd" in run(command, code=1)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["show"], "ID"),
        (["list", "--label", "x"], "'x' is no label; write key=value"),
        (["list", "--label", "=x"], "'=x' is no label"),
        (["serve", "--size", "huge"], "'huge' is no size. Write bytes, or a number with"),
        (["serve", "--size", "1"], "a store needs at least 1Mi"),
        (["gc", "--older-than", "7"], "'7' is no age; write a number with s, m, h or d, such as 7d"),
        (["gc", "--older-than", "-1d"], "--older-than"),
        (["gc", "--older-than", "9" * 30 + "d"], "is no age"),
        (["status", "--timeout", "soon"], "soon"),
    ],
)
def test_wrong_arguments(arguments: List[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments end with 2 and say what is wrong with them."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and text in err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *[[c, "--help"] for c in ("serve", "stop", "status", "list", "show", "gc")]],
)
def test_help(arguments: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help and version go to standard output, with 0."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert (
        out == f"vineyard-client {vc.__version__}\n" if arguments == ["--version"] else "usage: vineyard-client" in out
    )


def test_sizes_for_people() -> None:
    """Sizes have the unit in which they are at least one, and a decimal."""
    numbers = [0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 20, 5 << 30, 1 << 40, 1 << 60]
    expected = ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1024.0 KiB", "1.0 MiB", "5.0 GiB", "1.0 TiB", "1048576.0 TiB"]
    assert [cli._bytes(number) for number in numbers] == expected


# ---- processes of their own


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "v.sock")
    yield path
    for pid in running(f"--socket={path}"):
        os.kill(pid, signal.SIGKILL)


def test_serve_and_stop(path: str) -> None:
    """``serve --detach`` starts a server and prints its path; again it does nothing; ``stop`` ends it."""
    for said in ("", "A server listens there already; it keeps the size and options that it has.\n"):
        result = script("serve", "--detach", "--size", "16Mi", "--socket", path)
        assert (result.returncode, result.stdout, result.stderr) == (0, f"{path}\n", said)
    (pid,) = running(f"--socket={path}")
    result = script("status", "--json", VINEYARD_IPC_SOCKET=path)
    assert json.loads(result.stdout)["memory_limit"] == 16 << 20
    result = script("stop", "--socket", path)
    assert (result.returncode, result.stdout) == (0, f"Stopped the server at {path} (process {pid}).\n")
    result = script("stop", "--socket", path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"vineyard-client: Cannot connect to vineyardd at {path}: ")


def test_serve_with_options(path: str) -> None:
    """What stands after ``--`` reaches a detached server, too."""
    port = free_port()
    options = ("--rpc=true", f"--rpc_socket_port={port}")
    assert script("serve", "--detach", "--size", "16Mi", "--socket", path, "--", *options).returncode == 0
    assert json.loads(script("status", "--json", "--socket", path).stdout)["endpoint"].endswith(f":{port}")
    assert script("stop", "--socket", path).returncode == 0


@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["foreground", "detached"])
def test_serve_more_than_there_is(path: str, detach: List[str]) -> None:
    """A store that the host has no memory for is refused before it starts."""
    result = script("serve", "--size", "900Ti", "--socket", path, *detach)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.search(r"A store of \d+ bytes is more than the \d+ bytes that this host or container has", result.stderr)


def test_serve_in_the_foreground(path: str) -> None:
    """``serve`` becomes the server, with what stands after ``--``, until it is interrupted."""
    command = [
        sys.executable,
        "-m",
        "vineyard_client",
        "serve",
        "--socket",
        path,
        "--size",
        "16Mi",
        "--",
        "--rpc=false",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"Serving at {path}; Ctrl-C ends it.\n"
        until(lambda: script("status", "--socket", path).returncode == 0, "the server")
        assert running(f"--socket={path}") == {process.pid}
        for again in (["serve"], ["serve", "--size", "1Mi"]):
            result = script(*again, "--socket", path)
            assert (result.returncode, result.stdout) == (1, "")
            assert result.stderr == (
                f"vineyard-client: A server listens at {path} already. Connect to it, or choose another path.\n"
            )
        process.send_signal(signal.SIGINT)
        process.wait(3 * UNIT)
    finally:
        process.kill()
        process.communicate()


def test_serve_over_a_file(tmp_path: Path) -> None:
    """``serve`` leaves what is no socket alone."""
    file = tmp_path / "precious"
    file.write_text("precious")
    for option in ([], ["--detach"]):
        result = script("serve", "--socket", str(file), *option)
        assert result.returncode == 1 and "It is not a socket" in result.stderr
    assert file.read_text() == "precious"


def test_no_binary(tmp_path: Path) -> None:
    """``serve`` without a server binary says how to get one."""
    code = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; sys.path.insert(0, sys.argv.pop(1));"
    )
    code += "from vineyard_client.cli import main; sys.exit(main())"
    source = str(Path(vc.__file__).parents[1])
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "vineyard_client").symlink_to(Path(source, "vineyard_client"))
    command = [sys.executable, "-S", "-c", code, str(tmp_path / "src"), "serve", "--socket", str(tmp_path / "v.sock")]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "There is no vineyardd on this machine" in result.stderr and "pip install" in result.stderr


def test_a_reader_that_goes_away(client: vc.Client) -> None:
    """``list | head`` ends quietly when the reader has seen enough."""
    for i in range(50):
        client.put(i)
    command = [sys.executable, "-W", "error", "-m", "vineyard_client", "list", "--socket", client.socket]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(3 * UNIT) == 1


def test_an_interrupt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C ends a command without a traceback, with the code that shells expect."""

    def interrupted(client: vc.Client) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vc.Client, "status", interrupted)
    assert run("status", code=130) == ""
