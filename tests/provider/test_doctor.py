"""Each thing that can be wrong is named by its check, with what to do; a healthy store passes all of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from vineyard_testing.vineyardds import with_rpc

import vineyard_client
from airflow_provider_vineyard import doctor as subject
from airflow_provider_vineyard.doctor import FAILED, OK, WARNING, Check
from airflow_provider_vineyard.settings import get_settings

pytestmark = [pytest.mark.airflow, pytest.mark.integration]


def ignores_modes() -> bool:
    """Tell whether this process may do everything to every file, as root usually may."""
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        return os.access(file.name, os.R_OK)


ROOT = ignores_modes()


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure the backend, as people do."""
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", subject.BACKENDS[0])


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path."""
    path = Path(tempfile.mkdtemp(prefix="vp-"))
    yield path
    shutil.rmtree(path)


def found() -> Dict[str, Check]:
    """Return the checks by name; of several with the same name the worst, which comes first."""
    checks: Dict[str, Check] = {}
    for check in subject.diagnose():
        assert check.found and (check.remedy or check.result == OK), check
        checks.setdefault(check.name, check)
    return checks


def test_healthy(store: Any) -> None:
    """Everything is looked at and nothing is left in the store."""
    checks = found()
    assert [(name, check.result) for name, check in checks.items()] == [
        ("vineyard-client", OK),
        ("[vineyard]", OK),
        ("[core] xcom_backend", OK),
        ("socket", OK),
        ("server", OK),
        ("memory", OK),
        ("rpc_endpoint", OK),
        ("small value", OK),
        ("mapped value", OK),
        ("tier", OK),
    ]
    assert list(store.list()) == list(store.list(deleted=True)) == []


def test_core_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without core there is nothing more to check than the configuration."""
    monkeypatch.setitem(sys.modules, "vineyard_client", None)
    checks = found()
    assert checks["vineyard-client"].result == FAILED
    assert "pip install" in checks["vineyard-client"].remedy
    assert "socket" not in checks


def test_core_of_another_release(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two are released together."""
    monkeypatch.setattr(vineyard_client, "__version__", "0.1")
    assert found()["vineyard-client"].result == WARNING


def test_all_wrong_options_are_named(options: Callable[..., None]) -> None:
    """Not only the first one that is read."""
    options(persist="perhaps", size="plenty", ipc_socket="relative")
    problems = [check for check in subject.diagnose() if check.name == "[vineyard]"]
    assert [check.result for check in problems] == [FAILED] * 3
    assert {check.found.split()[1] for check in problems} == {"persist", "size", "ipc_socket"}
    assert "server" not in found()


def test_an_option_that_does_not_exist(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt name is a warning: Airflow says nothing about it."""
    monkeypatch.setenv("AIRFLOW__VINEYARD__IPC_SOKET", "/run/v.sock")
    check = found()["[vineyard]"]
    assert (check.result, check.found) == (WARNING, "There is no option ipc_soket.")
    assert "ipc_socket" in check.remedy


@pytest.mark.parametrize("backend", ["airflow.sdk.bases.xcom.BaseXCom", ""])
def test_another_backend(backend: str, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values would not go to vineyard at all."""
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", backend)
    check = found()["[core] xcom_backend"]
    assert check.result == FAILED and subject.BACKENDS[0] in check.remedy


def test_upstreams_path_is_ours(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same class."""
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", "vineyard.contrib.airflow.xcom.VineyardXCom")
    assert found()["[core] xcom_backend"].result == OK


def test_nothing_at_a_configured_socket(options: Callable[..., None], folder: Path) -> None:
    """It is not started, and the server is not asked for."""
    options(ipc_socket=folder / "v.sock")
    checks = found()
    assert checks["socket"].result == FAILED and "Start vineyardd there" in checks["socket"].remedy
    assert "server" not in checks
    assert list(folder.iterdir()) == []


def test_a_file_in_place_of_the_socket(options: Callable[..., None], folder: Path) -> None:
    """It is told from a server that is down."""
    (folder / "v.sock").write_text("")
    options(ipc_socket=folder / "v.sock")
    assert "is not a socket" in found()["socket"].found


@pytest.mark.skipif(ROOT, reason="root may use every socket")
@pytest.mark.parametrize("locked", ["socket", "folder"])
def test_a_socket_of_another_user(options: Callable[..., None], folder: Path, locked: str) -> None:
    """Its mode, or that of a folder above it, keeps this user out."""
    path = folder / "v.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        options(ipc_socket=path)
        closed = path if locked == "socket" else folder
        closed.chmod(0)
        check = found()["socket"]
        folder.chmod(0o700)
    assert check.result == FAILED and "this user" in check.remedy


def test_a_socket_that_nobody_listens_at(options: Callable[..., None], folder: Path) -> None:
    """Left by a server that was killed."""
    path = folder / "v.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    options(ipc_socket=path)
    checks = found()
    assert (checks["socket"].result, checks["server"].result) == (OK, FAILED)
    assert "small value" not in checks


def test_a_server_that_is_not_vineyardd(options: Callable[..., None], folder: Path) -> None:
    """What it says makes no sense, and the message says so."""
    import threading

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "v.sock"))
        listener.listen(1)

        def answer() -> None:
            with listener.accept()[0] as peer:
                peer.recv(10)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        options(ipc_socket=folder / "v.sock")
        check = found()["server"]
        thread.join()
    assert check.result == FAILED


@pytest.fixture
def embedded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that changes the settings, which are those of an embedded server in the folder."""
    values = (str(folder / "values"),)
    settings = get_settings()._replace(ipc_socket=str(folder / "v" / "v.sock"), size="64Mi", tier=values)

    def change(**changes: Any) -> None:
        nonlocal settings
        settings = settings._replace(**changes)
        monkeypatch.setattr(subject, "get_settings", lambda: settings)

    change()
    yield change
    if os.path.exists(settings.ipc_socket):
        with contextlib.suppress(vineyard_client.ConnectionFailed):  # a server that was killed leaves its socket
            vineyard_client.stop_server(settings.ipc_socket)


def test_the_embedded_server_is_started(embedded: Any) -> None:
    """It is what the next value would do, and the way to see whether it works."""
    checks = found()
    assert "started on demand" in checks["socket"].found
    assert {check.result for check in checks.values()} == {OK}
    assert "embedded" in checks["server"].found


def test_the_embedded_server_may_not_be_started(embedded: Any, folder: Path) -> None:
    """With autostart off nothing is started and nothing else is looked at."""
    embedded(autostart=False)
    checks = found()
    assert checks["socket"].result == FAILED and "autostart" in checks["socket"].remedy
    assert "server" not in checks
    assert list(folder.iterdir()) == []


def test_no_program_to_start(embedded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the embedded server would have to be started, the reason and how to install it."""
    from vineyard_client import ServerStartFailed
    from vineyard_client._server import command

    def missing(name: str = "vineyardd") -> str:
        raise ServerStartFailed("There is none.", "Install it.")

    monkeypatch.setattr(command, "find_binary", missing)
    checks = found()
    assert checks["server"] == Check("server", FAILED, "There is none.", "Install it.")


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_no_place_for_the_embedded_socket(embedded: Any, folder: Path) -> None:
    """The folder that should hold it is not for this user."""
    folder.chmod(0o500)
    check = found()["socket"]
    folder.chmod(0o700)
    assert check.result == FAILED and str(folder) in check.found


def test_memory_is_nearly_full(embedded: Any) -> None:
    """A warning in time."""
    embedded(size="8Mi")
    from airflow_provider_vineyard.clients import get_client

    get_client(subject.get_settings()).put(b"x" * 7_700_000)
    checks = found()
    assert checks["memory"].result == WARNING and "gc --orphans" in checks["memory"].remedy
    assert checks["small value"].result == OK


def test_no_room_for_a_value(embedded: Any) -> None:
    """The round trip says what a task would say."""
    embedded(size="1Mi", tier=())
    check = found()["mapped value"]
    assert check.result == FAILED and "no room" in check.found


def test_a_server_of_another_size(embedded: Any, options: Callable[..., None]) -> None:
    """It keeps the size with which it was started, whatever the option says now."""
    embedded(size="8Mi")
    assert found()["size"] == Check("size", OK, f"{8 << 20} bytes, as [vineyard] size says")
    embedded(size="16Mi")
    check = found()["size"]
    assert check.result == WARNING and "airflow-vineyard stop" in check.remedy
    assert check.found == f"The server that runs has {8 << 20} bytes, [vineyard] size says {16 << 20} (16Mi)."
    embedded(size="16K")
    assert found()["size"].result == FAILED


def test_a_size_for_a_server_of_ones_own(store: Any, options: Callable[..., None]) -> None:
    """The option has no effect on one that is configured."""
    assert "size" not in found()
    options(size="5Gi")
    check = found()["size"]
    assert check.result == WARNING and "--size" in check.remedy


def test_an_endpoint_without_rpc(store: Any, options: Callable[..., None]) -> None:
    """The option has no effect then."""
    options(rpc_endpoint="worker-1.example.org:9600")
    assert found()["rpc_endpoint"].result == WARNING


@pytest.fixture
def reachable(folder: Path) -> Iterator[Any]:
    """Return the socket and the endpoint of a server with RPC."""
    with with_rpc(folder) as found:
        yield found


def test_an_endpoint_that_answers(reachable: Any, options: Callable[..., None]) -> None:
    """An address of this host alone is of no use to others."""
    path, endpoint = reachable
    options(ipc_socket=path, rpc_endpoint=endpoint)
    check = found()["rpc_endpoint"]
    assert check.result == WARNING and "that host itself" in check.found
    everywhere = endpoint.replace("127.0.0.1", "0.0.0.0")
    options(rpc_endpoint=everywhere)
    check = found()["rpc_endpoint"]
    assert (check.result, check.found) == (OK, f"{everywhere} answers.")


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_endpoint_that_does_not_answer(reachable: Any, options: Callable[..., None], host: str) -> None:
    """A wrong port, or a name that does not resolve."""
    path, _ = reachable
    options(ipc_socket=path, rpc_endpoint=f"{host}:1")
    check = found()["rpc_endpoint"]
    assert check.result == FAILED and host in check.found and "[vineyard] rpc_endpoint" in check.remedy


def test_a_value_that_comes_back_wrong(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round trip compares."""
    monkeypatch.setattr(vineyard_client.Client, "get", lambda *_, **__: "something else")
    assert found()["small value"].found == "It came back as another value."


def test_a_value_that_stays(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it sees to it that what was deleted is gone."""
    with monkeypatch.context() as patch:
        patch.setattr(vineyard_client.Client, "delete", lambda *_: False)
        assert found()["mapped value"].found == "It is still there after it was deleted."


# ---- where values last


def tier_checks(*results: str) -> List[Check]:
    return [check for check in subject.diagnose() if check.name == "tier" and check.result in results]


def test_the_embedded_servers_folder(embedded: Any) -> None:
    """With nothing configured there is a folder and an agent; nothing of the round trips is left there."""
    (check,) = tier_checks(OK, WARNING, FAILED)
    assert check.result == OK and "(behind, agent " in check.found and "0 values (0 bytes)" in check.found


def test_a_folder_that_takes_nothing(store: Any, folder: Path, options: Callable[..., None]) -> None:
    """It is found here, and not at the first value that is lost."""
    values = folder / "values"
    values.write_text("no folder")
    options(tier=values)
    (check,) = tier_checks(FAILED)
    assert str(values) in check.found and "Give a folder that this user can read and write" in check.remedy


def test_a_bucket_without_an_agent(store: Any, options: Callable[..., None]) -> None:
    """A task would wait for it in vain."""
    options(tier="s3://bucket/prefix", tier_timeout=1)
    (check,) = tier_checks(FAILED)
    assert "The agent for the store at" in check.found and "airflow-vineyard agent" in check.remedy


def test_a_local_folder_for_several_hosts(store: Any, folder: Path, options: Callable[..., None]) -> None:
    """Other hosts could not read what is saved there; options for buckets change nothing."""
    options(tier=folder / "values", rpc_endpoint="worker-1:9600", tier_options='{"region": "r"}')
    found = subject.diagnose()
    assert any("there are others: rpc_endpoint" in check.found for check in found if check.name == "tier")
    assert [check.result for check in found if check.name == "tier_options"] == [WARNING]


def test_values_that_wait_for_too_long(store: Any, folder: Path, options: Callable[..., None]) -> None:
    """A backlog that is older than five minutes is a failure, with how large it is."""
    from vineyard_client._tiers.notes import UNSAVED, Note, Notes

    options(tier=folder / "values", durability="behind")
    token = "0" * 31 + "1"
    Notes(store.socket + ".tier").write(UNSAVED, Note(token, 7, f"airflow/{token}", 100, "int", 1.0))
    (check,) = tier_checks(FAILED)
    assert "1 values (100 bytes) are not saved yet" in check.found and "airflow-vineyard agent" in check.remedy
