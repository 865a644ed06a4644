"""Who sees which values through the routes on Airflow 3: roles, DAGs, forged rows, and the database behind it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import pytest
from vineyard_testing import until
from vineyard_testing.ports import free_port
from vineyard_testing.vineyardds import with_rpc

from airflow_provider_vineyard import version_compat

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.skipif(not version_compat.is_airflow_3(), reason="these are the routes on Airflow 3"),
    pytest.mark.filterwarnings("ignore"),
]

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
ROLES = ("viewer", "user", "op", "admin")
DATA = ("/vineyard/api/values", "/vineyard/api/sums", "/vineyard/api/stores")


@pytest.fixture(scope="module")
def airflow() -> Iterator[Any]:
    """Return a client of Airflow's application with a database that has two DAGs, a run of each and a task in it."""
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True, env=dict(os.environ)
    )
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    return TestClient(create_app(apps="core"), raise_server_exceptions=False)


@pytest.fixture
def rows(airflow: Any) -> Iterator[Callable[..., None]]:
    """Return a function that writes a row as the database holds it; nothing is left of it."""
    from sqlalchemy import text

    from airflow_provider_vineyard.ui import stores, views

    with version_compat.create_session() as session:
        session.execute(text("PRAGMA foreign_keys=OFF"))
        for number, dag_id in enumerate(("etl", "report"), start=1):
            session.execute(
                text(
                    "insert into dag_run(id, dag_id, run_id, run_type, state, queued_at, run_after, clear_number) "
                    "values (:id, :dag_id, 'r1', 'manual', 'success', :now, :now, 0)"
                ),
                {"id": number, "dag_id": dag_id, "now": NOW},
            )

    def write(value: Any, dag_id: str = "etl", key: str = "return_value", task_id: str = "extract") -> None:
        with version_compat.create_session() as session:
            session.execute(text("PRAGMA foreign_keys=OFF"))
            session.execute(
                text(
                    "insert into xcom(dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp) "
                    "values (:number, :task_id, -1, :key, :dag_id, 'r1', :value, :now)"
                ),
                {
                    **{"number": 1 if dag_id == "etl" else 2, "task_id": task_id, "key": key, "dag_id": dag_id},
                    **{"value": value if isinstance(value, str) else json.dumps(value), "now": NOW},
                },
            )

    yield write
    with version_compat.create_session() as session:
        for table in ("xcom", "dag_run", "log"):
            session.execute(text(f"delete from {table}"))
    stores._hosts.forget()
    views._SUMS.forget()


@pytest.fixture
def readable(airflow: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that says which DAGs everybody may read; at first both, as far as their role allows it."""
    from airflow.api_fastapi.app import get_auth_manager

    manager = get_auth_manager()
    plain = manager.is_authorized_dag

    def set_readable(*dag_ids: str) -> None:
        def authorized(*, details: Optional[Any] = None, **more: Any) -> bool:
            named = details is None or details.id is None or details.id in dag_ids
            return bool(named and plain(details=details, **more))

        monkeypatch.setattr(manager, "get_authorized_dag_ids", lambda **_: set(dag_ids))
        monkeypatch.setattr(manager, "is_authorized_dag", authorized)

    set_readable("etl", "report")
    return set_readable


def token(role: Optional[str]) -> Dict[str, str]:
    """Return the header that logs somebody of a role in; none is nobody."""
    if role is None:
        return {}
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    made = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=role, role=role))
    return {"Authorization": f"Bearer {made}"}


def get(airflow: Any, path: str, role: Optional[str] = "viewer", **more: Any) -> Tuple[int, Any]:
    """Return status and JSON of an answer."""
    answer = airflow.get(f"/vineyard{path}", headers=token(role), **more)
    return answer.status_code, answer.json()


def value_of(dag_id: str = "etl", key: str = "return_value") -> str:
    """Return the path of a value."""
    return f"/api/dags/{dag_id}/runs/r1/tasks/extract/value?key={key}"


def put(value: Any, dag_id: str = "etl") -> Dict[str, Any]:
    """Store a value as the backend does and return its row."""
    from airflow_provider_vineyard.reference import Origin
    from airflow_provider_vineyard.xcom import store as xcoms

    return xcoms.put(value, Origin(dag_id, "r1", "extract", -1, "return_value"))


def test_no_route_with_data_is_open() -> None:
    """Each route below /api/ depends on Airflow's own ``get_user``; a new one that asks nobody fails here."""
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi.routing import APIRoute

    from airflow_provider_vineyard.ui.fastapi_app import make_app

    def calls(dependant: Any) -> Iterator[Any]:
        for each in dependant.dependencies:
            yield each.call
            yield from calls(each)

    routes = [route for route in make_app().routes if isinstance(route, APIRoute)]
    open_ones = {route.path for route in routes if get_user not in set(calls(route.dependant))}
    assert open_ones == {"/", "/static/{name}"}
    assert len(routes) > len(open_ones)
    checked = {route.path for route in routes if any("inner" in call.__name__ for call in calls(route.dependant))}
    assert checked == {route.path for route in routes} - open_ones, "being logged in is not enough"


@pytest.mark.parametrize("path", DATA)
def test_nobody_is_told_nothing(airflow: Any, path: str) -> None:
    """Without a login there is no answer; the page itself has no data and a policy for what runs in it."""
    assert airflow.get(path).status_code == 401
    page = airflow.get("/vineyard/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert airflow.get("/vineyard/static/..%2fplugin.py").status_code == 404


def test_roles(airflow: Any, store: Any, rows: Any, readable: Any, options: Any) -> None:
    """All roles see values and previews; a viewer frees nothing, and nobody does without our header."""
    rows(put(b"x" * 100_000))
    for role in ROLES:
        assert get(airflow, "/api/values", role)[0] == 200
        assert get(airflow, value_of(), role)[0] == 200
    path = f"/vineyard{value_of()}"
    assert airflow.delete(path, headers={**token("viewer"), "X-Vineyard": "1"}).status_code == 403
    assert airflow.delete(path, headers=token("user")).status_code == 403
    assert get(airflow, value_of())[1]["state"] == "there"
    freed = airflow.delete(path, headers={**token("user"), "X-Vineyard": "1"})
    assert (freed.status_code, freed.json()) == (200, {"freed": 1})
    assert get(airflow, value_of())[1]["state"] == "gone"
    from sqlalchemy import text

    with version_compat.create_session() as session:
        logged = session.execute(text("select event, dag_id, task_id, owner from log")).fetchall()
    assert ("vineyard.delete_value", "etl", "extract", "user") in [tuple(each) for each in logged]


def test_what_a_value_shares(airflow: Any, store: Any, rows: Any, readable: Any) -> None:
    """Besides its size a value has the memory that was taken for it; the rest was there already."""
    from airflow_provider_vineyard.xcom import store as xcoms

    row = put(memoryview(bytearray(3_000_000)))
    rows(row)
    rows(put([xcoms.get(row), "and more"]), key="again")
    found = {each["key"]: each for each in get(airflow, "/api/values")[1]["values"]}
    assert found["return_value"]["memory"] == found["return_value"]["size"] == row["vineyard"]["size"]
    assert found["again"]["size"] > 3_000_000 > 10_000 > found["again"]["memory"]


def test_only_ones_own_dags(airflow: Any, store: Any, rows: Any, readable: Any) -> None:
    """The list, the sums and single values are those of the DAGs that somebody may read."""
    rows(put(b"x" * 100_000))
    rows(put(b"y" * 100_000, "report"), "report")
    readable("etl")
    assert [each["dag_id"] for each in get(airflow, "/api/values")[1]["values"]] == ["etl"]
    assert [each["dag_id"] for each in get(airflow, "/api/sums")[1]["dags"]] == ["etl"]
    assert get(airflow, "/api/values?dag_id=report")[0] == 403
    assert get(airflow, value_of("report"))[0] == 403
    (here,) = get(airflow, "/api/stores")[1]["stores"]
    assert [each["dag_id"] for each in here["dags"]] == ["etl"]
    assert here["hidden"] > 100_000


def test_a_forged_row_shows_no_other_dags_object(airflow: Any, store: Any, rows: Any, readable: Any) -> None:
    """A row of one DAG that names another DAG's object: neither its preview nor its end."""
    theirs = put({"secret": "s" * 20_000}, "report")
    rows(theirs, "etl")
    readable("etl")
    status, found = get(airflow, value_of())
    assert (status, found["state"], found["preview"]) == (200, "other", None)
    freed = airflow.delete(f"/vineyard{value_of()}", headers={**token("admin"), "X-Vineyard": "1"})
    assert freed.status_code == 403
    readable("etl", "report")
    assert get(airflow, value_of())[1]["state"] == "there"


def test_a_forged_endpoint_is_connected_to_by_nobody(
    airflow: Any, store: Any, rows: Any, readable: Any, options: Any
) -> None:
    """Not without peers, and not where they do not list it."""
    row = put(b"x" * 100_000)
    assert store.delete(store.reference(row["vineyard"]["id"]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        row["vineyard"]["endpoint"] = f"127.0.0.1:{listener.getsockname()[1]}"
        rows(row)
        for peers in ("", "worker-*:9600"):
            options(ipc_socket=store.socket, peers=peers)
            assert get(airflow, "/api/values")[1]["values"][0]["state"] == "unknown"
            assert get(airflow, value_of())[1]["state"] == "unknown"
            assert get(airflow, "/api/stores")[0] == 200
            with pytest.raises(TimeoutError):
                listener.accept()


def test_rows_of_all_kinds(airflow: Any, store: Any, rows: Any, readable: Any, options: Any) -> None:
    """What a row holds is shown as what it is, whoever wrote it; names that Airflow masks are masked."""
    options(ipc_socket=store.socket)
    rows(put((1, 2)), key="small")
    rows({"a": 1, "password": "hunter2"}, key="plain")
    rows('"o0000000000000001"', key="bare")
    rows({"vineyard": {"v": 1, "id": "nonsense"}}, key="invalid")
    rows({"vineyard": {"v": 99}}, key="later")
    rows("{", key="foreign")
    rows(json.dumps("x" * 100_000), key="large")
    found = {each["key"]: each for each in get(airflow, "/api/values")[1]["values"]}
    assert (found["small"]["kind"], found["small"]["text"]) == ("inline", "(1, 2)")
    assert found["plain"]["text"] == '{"a": 1, "password": "***"}'
    assert {key: each["kind"] for key, each in found.items() if key not in ("small", "plain")} == {
        "bare": "bare",
        "invalid": "invalid",
        "later": "invalid",
        "foreign": "foreign",
        "large": "large",
    }


def test_what_its_store_lost(airflow: Any, store: Any, rows: Any, readable: Any, options: Any, tmp_path: Path) -> None:
    """A row says "soon" for ever: of one value it is looked up whether it was saved, of many it is not known."""
    from airflow_provider_vineyard.clients import get_client
    from airflow_provider_vineyard.reference import RowReference
    from airflow_provider_vineyard.settings import get_settings
    from airflow_provider_vineyard.ui import stores

    options(tier=tmp_path / "values", durability="through")
    row = put({"saved": "x" * 100_000})
    ref = RowReference.parse(row).ref
    row["vineyard"]["durable"] = f"soon: {tmp_path / 'values'}"
    rows(row)
    state = ("state", "safe", "type")
    assert [get(airflow, value_of())[1][name] for name in state] == ["there", "yes", "builtins.dict"]
    # A client without a tier leaves the copy.
    assert store.delete(ref)
    stores._hosts.forget()
    assert [get(airflow, "/api/values")[1]["values"][0][name] for name in state] == ["away", "unknown", "builtins.dict"]
    found = get(airflow, value_of())[1]
    assert [found[name] for name in state] == ["tier", "yes", "builtins.dict"]
    assert "not in memory" in found["no_preview"]
    # One with the tier does not.
    get_client(get_settings()).delete(ref)
    stores._hosts.forget()
    assert [get(airflow, value_of())[1][name] for name in state] == ["gone", "lost", "builtins.dict"]


def test_the_database_pages_and_adds_up(airflow: Any, store: Any, rows: Any, readable: Any) -> None:
    """Each row is on one page; a page that begins nowhere is refused; forged sizes do not count."""
    for number in range(7):
        rows(put(bytes([number]) * 50_000), key=f"k{number}")
    rows({"vineyard": {"v": 1, "id": "o0000000000000001", "size": 1 << 62}}, key="forged")
    rows('{"vineyard": NaN}', key="nan")
    seen, after = [], ""
    for _ in range(5):
        found = get(airflow, f"/api/values?limit=2&after={after}" if after else "/api/values?limit=2")[1]
        seen += [each["key"] for each in found["values"]]
        after = found["next"]
    assert sorted(seen) == sorted([*(f"k{number}" for number in range(7)), "forged", "nan"])
    assert after is None
    for wrong in ("after=!", "after=W10", "limit=0", "limit=201"):
        assert get(airflow, f"/api/values?{wrong}")[0] == 400
    (dag,) = get(airflow, "/api/sums")[1]["dags"]
    assert dag["objects"] == 7
    assert 350_000 < dag["bytes"] == dag["ended"] < 400_000


def test_the_plugin_costs_a_task_nothing(tmp_path: Path) -> None:
    """Importing it imports no web framework, no database and nothing of core; Airflow's own class is there before."""
    code = (
        "import sys; from airflow.plugins_manager import AirflowPlugin; before = set(sys.modules)\n"
        "import airflow_provider_vineyard.ui.plugin as p; p.VineyardPlugin()\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    ours = {"airflow_provider_vineyard", "airflow_provider_vineyard._version"}
    ours |= {"airflow_provider_vineyard.ui", "airflow_provider_vineyard.ui.plugin"}
    assert set(json.loads(done.stdout.splitlines()[-1].replace("'", '"'))) <= ours


def test_what_goes_wrong_stops_no_web_server(options: Any) -> None:
    """Turned off there is nothing in the web interface, and so it is with a wrong option, which is logged."""
    from importlib import metadata

    (entry,) = (
        each
        for each in metadata.distribution("airflow-provider-vineyard").entry_points
        if each.group == "airflow.plugins"
    )
    plugin = entry.load()
    assert plugin.name == "vineyard"
    assert plugin().fastapi_apps[0]["url_prefix"] == "/vineyard"
    for value in ("False", "perhaps"):
        options(ui=value)
        off = plugin()
        kinds = (off.fastapi_apps, off.react_apps, off.flask_blueprints, off.appbuilder_views)
        assert not any((*kinds, off.global_operator_extra_links))


def test_values_of_another_host(
    airflow: Any, store: Any, rows: Any, readable: Any, options: Any, tmp_path: Path
) -> None:
    """They are looked at, shown and freed over the network, where peers lists their host."""
    with with_rpc(tmp_path) as (path, endpoint):
        options(ipc_socket=path, rpc_endpoint=endpoint)
        rows(put({"there": "x" * 100_000}))
        options(ipc_socket=store.socket, rpc_endpoint="", peers="127.0.0.1:*")
        found = get(airflow, value_of())[1]
        assert (found["state"], found["store"], found["preview"]["kind"]) == ("there", endpoint, "tree")
        assert get(airflow, "/api/values")[1]["values"][0]["state"] == "there"
        shown = {each["name"]: each for each in get(airflow, "/api/stores")[1]["stores"]}
        assert (shown[endpoint]["state"], shown[endpoint]["bytes"]) == ("up", found["size"])
        freed = airflow.delete(f"/vineyard{value_of()}", headers={**token("admin"), "X-Vineyard": "1"})
        assert (freed.status_code, freed.json()) == (200, {"freed": 1})
        assert get(airflow, value_of())[1]["state"] == "gone"


def test_hosts_that_do_not_answer(airflow: Any, store: Any, rows: Any, readable: Any, options: Any) -> None:
    """Five are silent, one speaks something else, one is closed: the page comes, and Airflow's API goes on meanwhile.

    As many pages are asked for at once as Airflow has threads for its API, and more.
    """
    options(ipc_socket=store.socket)
    row = put(b"x" * 100_000)
    rows(row, key="here")
    with ExitStack() as opened:
        listeners = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        endpoints = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
        strange = opened.enter_context(served(airflow.app))
        endpoints += [strange, f"127.0.0.1:{free_port()}"]
        for endpoint in endpoints:
            elsewhere = {**row["vineyard"], "endpoint": endpoint, "token": os.urandom(16).hex()}
            rows({"vineyard": elsewhere}, key=endpoint)
        options(ipc_socket=store.socket, peers="127.0.0.1:*")
        with ThreadPoolExecutor(50) as pool:
            paths = [f"http://{strange}/vineyard/api/{what}" for what in ("stores", "values")] * 25
            pages = [pool.submit(fetched, path, token("viewer")) for path in paths]
            answered = 0
            while not all(page.done() for page in pages):
                fetched(f"http://{strange}/api/v2/version", {})
                answered += 1
        assert answered > 1, "Airflow's API waited for the page"
        for listener in listeners:  # each was asked, within the time that one may take
            listener.settimeout(10)
            listener.accept()[0].close()
    states = {each["name"]: each["state"] for each in pages[0].result()["stores"] if not each["local"]}
    assert states == dict.fromkeys(endpoints, "silent")
    found = {each["key"]: each["state"] for each in pages[1].result()["values"]}
    assert found == {"here": "there", **dict.fromkeys(endpoints, "silent")}


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application over the network, in one thread as Airflow does; yield where."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "it serves")
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def fetched(url: str, headers: Dict[str, str]) -> Any:
    """Return the JSON that is served there."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=120) as answer:
        return json.load(answer)


def test_of_200_000_values_a_page_is_shown(airflow: Any, store: Any, rows: Any, readable: Any, options: Any) -> None:
    """Pages, filters and sums; no store is listed for it."""
    from sqlalchemy import text

    options(ipc_socket=store.socket)
    row = put(b"x" * 100_000)
    rows(row)
    statement = (
        "insert into xcom(dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp) "
        "with recursive n(i) as (select 0 union all select i + 1 from n where i < 199998) "
        "select 1, 'many', i, 'return_value', 'etl', 'r1', :value, :now from n"
    )
    with version_compat.create_session() as session:
        session.execute(text("PRAGMA foreign_keys=OFF"))
        session.execute(text(statement), {"value": json.dumps(row), "now": NOW})
    page = get(airflow, "/api/values")[1]
    assert len(page["values"]) == 50 and page["next"]
    assert {each["state"] for each in page["values"]} == {"there"}
    (one,) = get(airflow, "/api/values?dag_id=etl&task_id=many&map_index=777")[1]["values"]
    assert one["map_index"] == 777
    (dag,) = get(airflow, "/api/sums")[1]["dags"]
    assert (dag["objects"], dag["bytes"]) == (200_000, 200_000 * row["vineyard"]["size"])
