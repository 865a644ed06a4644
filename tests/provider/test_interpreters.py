"""Which tasks receive references, what is asked of their interpreters, and what is set on them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Callable, List

import pytest

import vineyard_client as vc
from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.interpreters import arguments, library, prepare, task_policy
from airflow_provider_vineyard.reference import Origin, RowReference
from airflow_provider_vineyard.xcom import store as xcoms

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

ORIGIN = Origin("etl", "run", "extract", -1, "return_value")
LARGE = b"x" * 100_000


@pytest.fixture
def argument(store: Any) -> arguments.Argument:
    """Return what an XComArg resolves to."""
    row = xcoms.put(LARGE, ORIGIN)
    return arguments.Argument(row, RowReference.parse(row))


def run(**more: Any) -> Any:
    """Return an operator, as far as a library looks at it."""
    return SimpleNamespace(**{"pickling_library": pickle, "do_xcom_push": True, **more})


TI = SimpleNamespace(dag_id="etl", run_id="run", task_id="train", map_index=-1)


def elsewhere(ours: library.Library, body: str, pickled: bytes) -> bytes:
    """Return what another process writes for the arguments of a call."""
    script = "import sys, vineyard_client.handover as h\n"
    script += f"a = h.load(sys.stdin.buffer)\nh.dump({body}, sys.stdout.buffer)"
    env = {**os.environ, **ours.environment()}
    return subprocess.run([sys.executable, "-c", script], input=pickled, env=env, stdout=-1, check=True).stdout


def test_an_argument_is_its_value_where_there_is_no_core(argument: arguments.Argument) -> None:
    """Whatever pickles it."""
    assert pickle.loads(pickle.dumps([argument, {"a": argument}])) == [LARGE, {"a": LARGE}]


def test_a_call_in_another_interpreter(argument: arguments.Argument, store: Any) -> None:
    """Rows are not read here, large values go through the store for this call, and the result's row owns its object."""
    ours = library.Library(run(), TI)
    pickled = ours.dumps({"args": [argument, 1], "kwargs": {"x": [argument], "y": bytearray(100_000)}})
    assert len(pickled) < 10_000
    before = {info.ref.id for info in store.list()}
    data = elsewhere(ours, "a['args'][0] + a['kwargs']['x'][0] + bytes(a['kwargs']['y'])", pickled)
    result = ours.loads(data)
    assert isinstance(result, vc.ObjectRef)
    left = {info.ref.id for info in store.list()}
    assert left - before == {result.id} and len(before - left) == 1
    row = RowReference.parse(xcoms.put(result, ORIGIN._replace(task_id="train")))
    assert row.owned and row.ref.id == result.id
    assert store.info(result).labels["task_id"] == "train"
    assert xcoms.get(row.to_json()) == LARGE + LARGE + bytes(100_000)
    # A reference that a task returned itself is not owned, though it is to the same object.
    assert not RowReference.parse(xcoms.put(result, ORIGIN)).owned


@pytest.mark.parametrize(
    "more",
    [{"multiple_outputs": True}, {"iter_mapped_dependants": lambda: iter([1])}],
    ids=["several outputs", "mapped over"],
)
def test_results_that_airflow_looks_into_are_values(store: Any, more: Any) -> None:
    """And nothing of them stays in the store."""
    ours = library.Library(run(**more), TI)
    data = elsewhere(ours, "{'a': bytes(100_000), 'b': a}", pickle.dumps(1))
    assert isinstance(vc.handover.received(data), vc.ObjectRef)
    assert ours.loads(data) == {"a": bytes(100_000), "b": 1}
    assert list(store.list()) == []


def test_what_nobody_pushes_is_not_put(store: Any) -> None:
    """It is in the file."""
    ours = library.Library(run(do_xcom_push=False), TI)
    assert ours.loads(elsewhere(ours, "bytes(100_000)", pickle.dumps(1))) == bytes(100_000)
    assert list(store.list()) == []


def test_without_a_store_arguments_are_pickled(options: Callable[..., None], tmp_path: Any) -> None:
    """A call that would have worked without us works."""
    options(ipc_socket=str(tmp_path / "v.sock"))
    ours = library.Library(run(), TI)
    pickled = ours.dumps({"args": [LARGE], "kwargs": {}})
    assert pickle.loads(pickled) == {"args": [LARGE], "kwargs": {}}
    assert ours.loads(elsewhere(ours, "a['args'][0]", pickled)) == LARGE


@pytest.mark.parametrize(
    "requirements, found",
    [
        (["pandas", "vineyard-client==1.0"], True),
        ("pandas\nVineyard_Client[native]>=1", True),
        (["./wheels/vineyard_client-1.0-py3-none-any.whl"], True),
        (["vineyard-client @ https://example.org/vineyard_client.whl"], True),
        (["pandas", "vineyard", "my-vineyard-client-tools"], False),
        ("pandas  # not vineyard-client", False),
        ([], False),
        (None, False),
    ],
)
def test_requirements(requirements: Any, found: bool) -> None:
    """An environment that is made for the task has core if it is listed."""
    assert prepare._has_core(SimpleNamespace(requirements=requirements)) is found


def test_interpreters(tmp_path: Any) -> None:
    """An interpreter is asked with the environment that it is going to have."""
    bare: List[str] = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")]
    subprocess.run(bare, check=True)
    assert prepare._has_core(SimpleNamespace(python=sys.executable))
    assert not prepare._has_core(SimpleNamespace(python=str(tmp_path / "bare" / "bin" / "python")))
    assert not prepare._has_core(SimpleNamespace(python=str(tmp_path / "none")))
    assert not prepare._has_core(SimpleNamespace(python=sys.executable, env_vars={"PYTHONHOME": "/none"}))


def operators() -> Any:
    if version_compat.is_airflow_3():
        from airflow.providers.standard.operators import python
        from airflow.sdk import DAG
    else:
        from airflow.models.dag import DAG
        from airflow.operators import python
    return python, DAG("etl", start_date=datetime(2026, 1, 1))


def function(number: Any) -> Any:
    """Is run elsewhere."""
    return number


def test_the_policy(caplog: pytest.LogCaptureFixture) -> None:
    """It concerns operators of Airflow's own that start interpreters, and adds to what they have."""
    python, dag = operators()

    kind: Any = getattr(python, "ExternalPythonOperator", None)  # Airflow 2.4 and later
    if kind is None:
        pytest.importorskip("virtualenv")
        kind = python.PythonVirtualenvOperator
    where = {"python": sys.executable} if kind.__name__ == "ExternalPythonOperator" else {}

    class Own(kind):  # type: ignore[misc]
        """May look at its arguments itself."""

    with dag:
        first = python.PythonOperator(task_id="first", python_callable=function, op_args=[1])
        own = Own(task_id="own", python_callable=function, op_args=[first.output], **where)
        task = kind(
            task_id="task",
            python_callable=function,
            op_args=[first.output, 2],
            op_kwargs={"x": {"y": (first.output,)}},
            on_execute_callback=function,
            **where,
        )
    plain = type(first.output)
    shown = str(task.op_args[0])
    for each in (first, own, task, task):
        task_policy(each)
    assert not own.on_execute_callback and type(own.op_args[0]) is plain
    assert not first.on_execute_callback
    if version_compat.airflow_version() >= (2, 6):
        assert task.on_execute_callback == [function, prepare.prepare]
    else:
        assert task.on_execute_callback.args == (function,)
    replaced = [task.op_args[0], task.op_kwargs["x"]["y"][0]]
    assert all(isinstance(arg, plain) and type(arg) is not plain for arg in replaced)
    assert str(replaced[0]) == shown  # what stands in the serialized DAG
    assert task.upstream_task_ids == {"first"}
    assert not caplog.records


def test_it_can_be_turned_off(options: Callable[..., None]) -> None:
    """Then the task is as its author made it."""
    options(other_interpreters=False)
    task = run(python=sys.executable, serializer="pickle", env_vars=None)
    prepare.prepare({"task": task, "ti": TI})
    assert (task.pickling_library, task.serializer, task.env_vars) == (pickle, "pickle", None)


def test_another_backend_is_left_alone() -> None:
    """Nothing is handed over where rows are not ours."""
    task = run(python=sys.executable, serializer="pickle", env_vars=None)
    prepare.prepare({"task": task, "ti": TI})
    assert task.pickling_library is pickle


def test_containers_that_know_the_socket(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container's path of the socket is, its environment says."""
    monkeypatch.setattr(version_compat, "xcom_class", lambda: _backend())
    task = run(image="python", environment={"A": "1"})
    prepare.prepare({"task": task, "ti": TI})
    assert task.pickling_library is pickle
    task.environment["VINEYARD_IPC_SOCKET"] = "/there.sock"
    prepare.prepare({"task": task, "ti": TI})
    terms = vc.handover.Terms.from_text(task.environment[vc.handover.ENVIRONMENT])
    assert (terms.socket, terms.tier, terms.labels["task_id"]) == ("/there.sock", None, "train")


def _backend() -> Any:
    from airflow_provider_vineyard.xcom import VineyardXCom

    return VineyardXCom
