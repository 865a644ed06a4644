"""The hooks as every Airflow calls them: what goes into the row, and what comes out of it."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import logging
import re
import sys
import types
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List

import pendulum
import pytest
from vineyard_testing.processes import paused

from airflow_provider_vineyard import clients, version_compat
from airflow_provider_vineyard.reference import RowReference, RowValue, looks_like_row, parse_row
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.xcom import store as xcom_store
from vineyard_client import InvalidReference, ObjectNotFound, ObjectRef, UnsafeType, UnsupportedVersion

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

GENERATION = 3 if version_compat.is_airflow_3() else 2
WHERE = {"key": "return_value", "dag_id": "etl", "run_id": "r1", "task_id": "extract", "map_index": 3}


# More than stays in the database.
LARGE = tuple(range(5000))


class Mine:
    """A class that nobody allowed."""


def json_of(stored: Any) -> Any:
    """Return the JSON value in the database: Airflow 2 stores its bytes."""
    return json.loads(stored) if isinstance(stored, bytes) else json.loads(json.dumps(stored))


@pytest.fixture
def roundtrip(backend: Any, store: Any, result: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a function that stores a value and reads it from its row, as another task would."""

    def go(value: Any) -> Any:
        stored = backend.serialize_value(value, **WHERE)
        return backend.deserialize_value(result(stored if isinstance(stored, bytes) else json_of(stored)))

    return go


def test_signature_is_airflows(backend: Any) -> None:
    """Airflow before 3 compares names, and passes nothing to ``**kwargs``."""
    ours = inspect.signature(backend.serialize_value).parameters
    assert list(ours) == ["value", "key", "task_id", "dag_id", "run_id", "map_index"]
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(ours)[1:])
    base = inspect.signature(version_compat.base_xcom().serialize_value).parameters
    assert set(base) <= set(ours)


def test_small_values_stay_in_the_database(backend: Any, store: Any, roundtrip: Callable[[Any], Any]) -> None:
    """The row is the value, and vineyard is not asked."""
    value = {"b": 1, "a": ["x", None, 2.5, True]}
    assert json_of(backend.serialize_value(value, **WHERE)) == value
    assert roundtrip(value) == value
    assert list(store.list()) == []


def test_a_small_value_needs_no_server(backend: Any, options: Callable[..., None], roundtrip: Any) -> None:
    """Control flow goes on while vineyard is down."""
    options(ipc_socket="/nowhere/v.sock")
    assert roundtrip({"a": 1}) == {"a": 1}


def test_large_values_go_to_vineyard_and_come_back(backend: Any, store: Any, roundtrip: Callable[[Any], Any]) -> None:
    """Same type, same value; the row refers to it."""
    for value in (LARGE, "x" * 5000, [LARGE], {1: b"y" * 5000}):
        row = RowReference.parse(json_of(backend.serialize_value(value, **WHERE)))
        assert row.owned
        assert (row.origin.task_id, row.origin.map_index) == ("extract", 3)
        again = roundtrip(value)
        assert again == value
        assert type(again) is type(value)
    assert len(list(store.list())) == 8


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        7956.495621360727,
        800.0,
        -0.0,
        float("inf"),
        [float("nan"), 1],
        {1: "a"},
        {1, 2},
        b"bytes",
        datetime(2026, 1, 1, tzinfo=timezone.utc),
        2**70,
        "half \ud800, NUL \0",
        {"vineyard": {"v": 1, "id": "o0"}},
        {"vineyard": 1},
        {"__classname__": "os.system", "__version__": 1, "__data__": "ls"},
        {"__type": "datetime", "__var": 1},
    ],
)
def test_other_small_values_are_in_their_rows(
    backend: Any, options: Callable[..., None], result: Callable[..., Any], value: Any
) -> None:
    """Same type, same value; no server is there to be asked, and nothing is left to be freed."""
    options(ipc_socket="/nowhere/v.sock")
    stored = json_of(backend.serialize_value(value, **WHERE))
    row = parse_row(stored)
    assert isinstance(row, RowValue)
    assert (row.origin.task_id, row.origin.map_index) == ("extract", 3)
    again = backend.deserialize_value(result(json.dumps(stored).encode() if GENERATION == 2 else stored))
    assert repr(again) == repr(value)
    assert type(again) is type(value)
    assert backend.purge(result(stored)) is None


def test_frames(backend: Any, store: Any, roundtrip: Any) -> None:
    """A frame comes back equal, and is the receiver's to change: the next one sees the original."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": range(1000), "s": [None, "ä"] * 500})
    again = roundtrip(frame)
    pandas.testing.assert_frame_equal(again, frame)
    stored = backend.serialize_value(frame, **WHERE)
    first = backend.deserialize_value(SimpleNamespace(value=stored))
    first.loc[0, "n"] = -1
    second = backend.deserialize_value(SimpleNamespace(value=stored))
    pandas.testing.assert_frame_equal(second, frame)
    row = json_of(stored)["vineyard"]
    assert "DataFrame" in row["type"] and "1000" in row["summary"]
    assert len(json.dumps(row)) < 1500


def test_labels_say_which_xcom_it_is(backend: Any, store: Any) -> None:
    """By these, people and the collector find what a task has put."""
    backend.serialize_value(LARGE, **WHERE)
    (info,) = store.list(labels={"dag_id": "etl"})
    assert info.labels == {**{k: str(v) for k, v in WHERE.items()}, "airflow": "airflow"}


@pytest.mark.parametrize("key", ["skipmixin_key", "trigger_run_id", "past_depends_met", "_link_Some"])
def test_airflows_own_keys_stay(backend: Any, options: Callable[..., None], key: str) -> None:
    """Whatever the threshold: Airflow's scheduler reads them without a backend."""
    options(ipc_socket="/nowhere/v.sock", inline_threshold=0)
    value = {"followed": ["x" * 100] * 100}
    assert json_of(backend.serialize_value(value, **{**WHERE, "key": key})) == value


def test_threshold(backend: Any, store: Any, options: Callable[..., None]) -> None:
    """``inline_threshold`` moves the line."""
    options(inline_threshold=0)
    assert looks_like_row(json_of(backend.serialize_value(1, **WHERE)))
    options(inline_threshold=10_000)
    assert json_of(backend.serialize_value("x" * 5000, **WHERE)) == "x" * 5000


def test_rows_of_the_default_backend(backend: Any, store: Any, result: Any) -> None:
    """What was written before the switch can still be read."""
    base = version_compat.base_xcom()
    before: List[Any] = [{"a": 1}, "text", [1, 2], None, "x" * 10_000]
    for value in before:
        stored = base.serialize_value(value)
        assert backend.deserialize_value(result(stored)) == value


def test_a_text_like_an_object_id(backend: Any, roundtrip: Any) -> None:
    """In a row it would be one of vineyard's own provider; so it goes to vineyard, and comes back as the text."""
    text = "o0016f0c2a4b1d3e5"
    assert looks_like_row(json_of(backend.serialize_value(text, **WHERE)))
    assert roundtrip(text) == text
    assert json_of(backend.serialize_value(f"{text} ", **WHERE)) == f"{text} "


def test_rows_of_upstreams_backend(backend: Any, store: Any, result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """They are the ids of objects in vineyard's own types; such an object is read, one that is gone is an error."""
    numpy = pytest.importorskip("numpy")
    ref = store.put(numpy.arange(5), native=True)
    row = version_compat.base_xcom().serialize_value(ref.id)
    with caplog.at_level(logging.INFO, "airflow_provider_vineyard"):
        value = backend.deserialize_value(result(row, key="k"))
    assert type(value) is numpy.ndarray and value.tolist() == [0, 1, 2, 3, 4]
    assert f"written by vineyard's own provider, {ref.id}" in caplog.text
    assert backend.deserialize_value(result(row, _sa_instance_state=object())) == ref.id
    store.delete(ref)
    with pytest.raises(ObjectNotFound, match=f"is the object id {ref.id}, as vineyard's own provider wrote rows"):
        backend.deserialize_value(result(row, key="k"))


def test_purge_frees_the_object(backend: Any, store: Any, result: Any) -> None:
    """When a task runs again, what it replaces is freed; once more is no error."""
    stored = backend.serialize_value(LARGE, **WHERE)
    assert len(list(store.list())) == 1
    backend.purge(result(stored, key="return_value"))
    assert list(store.list()) == []
    backend.purge(result(stored, key="return_value"))


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        1,
        {"a": 1},
        {"vineyard": 1},
        {"vineyard": {"v": 99}},
        {"vineyard": {"v": 1, "id": "o0", "token": "x"}},
        b"\xff\x00",
        b'{"vineyard"',
        object(),
    ],
)
def test_purge_never_raises(backend: Any, store: Any, result: Any, value: Any) -> None:
    """Airflow 3 fails the task, on each try, if it does."""
    assert backend.purge(result(value)) is None
    assert backend.purge(SimpleNamespace()) is None


@pytest.mark.parametrize("broken", ["no server", "wrong option"])
def test_purge_never_raises_without_a_store(
    backend: Any, store: Any, result: Any, options: Any, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """It says in the log what may be left."""
    stored = backend.serialize_value(LARGE, **WHERE)
    options(**({"ipc_socket": "/nowhere/v.sock"} if broken == "no server" else {"size": "plenty"}))
    with caplog.at_level(logging.WARNING, "airflow_provider_vineyard"):
        backend.purge(result(stored))
    assert any("may still take room in vineyard" in record.getMessage() for record in caplog.records)


def test_purging_waits_once_for_a_server_that_does_not_answer(
    backend: Any,
    store: Any,
    server: Any,
    result: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Airflow frees a task's rows one by one before it runs: the server is too slow for the first, and that is all."""
    asked: List[object] = []

    def get_client(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return clients.get_client(*args, **{**kwargs, "timeout": 0.2})

    monkeypatch.setattr(xcom_store, "get_client", get_client)
    monkeypatch.setattr(xcom_store, "_too_slow", [0.0])
    stored = [backend.serialize_value(LARGE, **WHERE) for _ in range(3)]
    asked.clear()
    with paused(server.pid), caplog.at_level(logging.WARNING, "airflow_provider_vineyard"):
        for row in stored:
            backend.purge(result(row))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(asked) == 1 and "may still take room in vineyard" in said[0]
    assert ["too slow" in text and "gc --orphans" in text for text in said[1:]] == [True, True]


def test_an_object_that_is_gone(backend: Any, store: Any, result: Any) -> None:
    """The error names XCom and task, why it may be, and what to do."""
    stored = backend.serialize_value(LARGE, **WHERE)
    store.delete(RowReference.parse(json_of(stored)).ref)
    with pytest.raises(ObjectNotFound) as error:
        backend.deserialize_value(result(stored))
    text = str(error.value)
    assert "XCom 'return_value' of task etl.extract[3] (run r1)" in text
    assert "restarted" in text and "deleted" in text
    assert "Clear task etl.extract" in text


def test_a_value_that_cannot_be_stored_fails_the_task(backend: Any, store: Any) -> None:
    """The reason names the class and the option, and nothing is left in the store."""
    with pytest.raises(UnsafeType) as error:
        backend.serialize_value({"m": Mine()}, **WHERE)
    text = str(error.value)
    assert "XCom 'return_value' of task etl.extract[3] (run r1) cannot be stored" in text
    assert "Mine" in text and "[vineyard] allowed_classes" in text
    assert error.value.name.endswith("Mine")
    assert list(store.list()) == []


@pytest.mark.parametrize("option", ["VINEYARD__ALLOWED_CLASSES", "CORE__ALLOWED_DESERIALIZATION_CLASSES"])
def test_allowed_classes(
    store: Any, roundtrip: Any, option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A class that our option or Airflow's allows travels."""
    (tmp_path / "shop_models.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Order:\n    number: int\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AIRFLOW__VINEYARD__PASSIVE_CLASSES", "False")
    order = importlib.import_module("shop_models").Order(7)
    with pytest.raises(UnsafeType):
        roundtrip(order)
    get_settings.cache_clear()
    monkeypatch.setenv(f"AIRFLOW__{option}", "shop_models.*")
    again = roundtrip(order)
    assert again == order
    assert type(again) is type(order)


def test_classes_of_a_dag_file(store: Any, roundtrip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataclass of the file of a DAG travels, and with it goes the model in it."""
    name = "unusual_prefix_0123456789abcdef0123456789abcdef01234567_orders"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec("from dataclasses import dataclass\n@dataclass\nclass Order:\n    number: int\n", module.__dict__)
    again = roundtrip({"order": module.Order(7)})
    assert again["order"] == module.Order(7) and type(again["order"]) is module.Order


@pytest.mark.parametrize("field", [{"id": "o0000000000000001"}, {"token": "0" * 32}])
def test_a_reference_to_another_object(backend: Any, store: Any, result: Any, field: Dict[str, str]) -> None:
    """An id or token that is not the object's own yields the error, not another value."""
    row = json_of(backend.serialize_value(LARGE, **WHERE))
    row["vineyard"].update(field)
    stored = json.dumps(row).encode() if not version_compat.is_airflow_3() else row
    with pytest.raises(ObjectNotFound):
        backend.deserialize_value(result(stored))


def test_a_forged_row(backend: Any, store: Any, result: Any) -> None:
    """A row that is none is refused, and its text is never returned as the value."""
    forged: Any = {"vineyard": {"v": 1, "id": "o0"}}
    if not version_compat.is_airflow_3():
        forged = json.dumps(forged).encode()
    with pytest.raises(InvalidReference, match="looks like a reference to vineyard but is none"):
        backend.deserialize_value(result(forged))


def test_object_refs_pass_by_reference(backend: Any, store: Any, result: Any) -> None:
    """The next task gets the value; the object is not stored again, and is its maker's to delete."""
    ref = store.put([1, 2, (3,)])
    stored = backend.serialize_value(ref, **WHERE)
    row = RowReference.parse(json_of(stored))
    assert row.ref == ref
    assert not row.owned
    assert len(list(store.list())) == 1
    assert backend.deserialize_value(result(stored)) == [1, 2, (3,)]
    backend.purge(result(stored))
    assert store.exists(ref)


def test_an_object_ref_to_nothing(backend: Any, store: Any) -> None:
    """The task that returns it fails, not the next one."""
    ref = ObjectRef("o0000000000000001", "0" * 32, None, "dict", 1)
    with pytest.raises(ObjectNotFound, match="cannot be stored"):
        backend.serialize_value(ref, **WHERE)


def test_what_is_shown_is_the_row(backend: Any, store: Any, result: Any) -> None:
    """A row of the ORM is about to be shown by a server process, which needs no vineyard for it."""
    stored = backend.serialize_value(LARGE, **WHERE)
    shown = backend.deserialize_value(result(stored, _sa_instance_state=object()))
    assert shown == json_of(stored)


def test_pendulum_moments(roundtrip: Any) -> None:
    """The moments of Airflow's context are values like others."""
    for moment in (pendulum.datetime(2026, 3, 1, tz="Europe/Paris"), pendulum.datetime(2026, 3, 1)):
        again = roundtrip({"at": (moment,)})["at"][0]
        assert again == moment
        assert type(again) is type(moment)
        assert again.timezone_name == moment.timezone_name


def test_one_line_for_each_put_and_get(backend: Any, store: Any, result: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Key, type, size, time and place are logged at INFO; with the value's text only where its row shows that, too."""
    with caplog.at_level(logging.INFO, "airflow_provider_vineyard"):
        for value in (("secret", *LARGE), {"secret": 2}, (1, 2.5)):
            stored = copy.deepcopy(backend.serialize_value(value, **WHERE))
            backend.deserialize_value(result(stored, key="return_value"))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("airflow_provider_vineyard")]
    assert len(lines) == 6
    assert not any("secret" in line for line in lines)
    put, get, put_inline, get_inline, put_row, get_row = lines
    xcom = r"XCom 'return_value' of task etl\.extract\[3\] \(run r1\)"
    assert re.fullmatch(
        rf"put {xcom}: \S*tuple, \d+ B, in the local vineyard as o[0-9a-f]{{16}}, durable: no, \d+\.\d ms", put
    )
    assert re.fullmatch(rf"get {xcom}: \S*tuple, \d+ B, from the local vineyard, o[0-9a-f]{{16}}, \d+\.\d ms", get)
    assert re.fullmatch(rf"put {xcom}: dict, 13 B, inline in the database, \d+\.\d ms", put_inline)
    assert re.fullmatch(r"get XCom 'return_value': dict, (13 B, )?inline in the database, \d+\.\d ms", get_inline)
    row = rf"{xcom}: builtins\.tuple \(1, 2\.5\), \d+ B, inline in the database, \d+\.\d ms"
    assert re.fullmatch(f"put {row}", put_row)
    assert re.fullmatch(f"get {row}", get_row)


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that registers a secret with Airflow, as it does in a task."""
    if GENERATION == 2:
        monkeypatch.setattr("airflow.settings.MASK_SECRETS_IN_LOGS", True, raising=False)
    masker = version_compat.secrets_masker()
    masker.mask_secret("loaded-early")  # whatever the first one sets up stays
    yield masker.mask_secret
    masker._secrets_masker().replacer = None
    masker._secrets_masker().patterns.clear()


def test_secrets_are_masked(
    backend: Any, store: Any, result: Any, masked: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Registered ones, in texts, summaries and lines of the log; and members with names that Airflow masks."""
    numpy = pytest.importorskip("numpy")
    masked("hunter2-and-more")
    values = [
        ("x" * 190, "hunter2-and-more"),
        {1: "is hunter2-and-more.", "password": "by its name"},
        Path("/srv/hunter2-and-more"),
        numpy.zeros(5000, [("hunter2-and-more", "i4")]),
    ]
    with caplog.at_level(logging.INFO, "airflow_provider_vineyard"):
        rows = [json_of(backend.serialize_value(value, **WHERE))["vineyard"] for value in values]
        named = json_of(backend.serialize_value(Decimal(7), **{**WHERE, "key": "db_password"}))["vineyard"]
        for row in rows:
            stored = {"vineyard": row}
            backend.deserialize_value(result(json.dumps(stored).encode() if GENERATION == 2 else stored))
    texts = [row.get("text", row.get("summary")) for row in rows]
    assert texts[0].endswith("x', '***…") and len(texts[0]) == 200
    assert texts[1:] == [
        "{1: 'is ***.', 'password': ***}",
        "/srv/***",
        "numpy.ndarray [('***', '<i4')] 5000",
    ]
    assert named["text"] == "***"
    assert "hunter2" not in caplog.text and "by its name" not in caplog.text


def test_small_values_while_no_masker_is_there(
    backend: Any, options: Any, result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a logging configuration of somebody's own has none, no contents are shown, and nothing fails."""

    def missing() -> Any:
        raise RuntimeError("Logging Configuration Error! No SecretsMasker found!")

    monkeypatch.setattr(version_compat, "secrets_masker", missing)
    stored = backend.serialize_value((1, 2), **WHERE)
    assert json_of(stored)["vineyard"]["text"] == "tuple of 2 items: int"
    assert backend.deserialize_value(result(stored)) == (1, 2)


def test_an_older_release_says_what_to_do(backend: Any) -> None:
    """Its parser takes the reference out of a row first, and that has a version."""
    row = json_of(backend.serialize_value((1, 2), **WHERE))["vineyard"]
    reference = {name: row[name] for name in ("v", "id", "token", "endpoint", "type", "size") if name in row}
    with pytest.raises(UnsupportedVersion, match=r"has version 2; this release knows 1 .*Upgrade"):
        ObjectRef.from_json(reference)


def test_a_row_of_a_later_release(backend: Any, store: Any, result: Any) -> None:
    """It is not guessed at."""
    row: Any = {"vineyard": {"v": 4, "somewhere": "else"}}
    stored = json.dumps(row).encode() if GENERATION == 2 else row
    with pytest.raises(UnsupportedVersion, match="has version 4; this release knows 1 to 3"):
        backend.deserialize_value(result(stored))
    assert backend.purge(result(stored)) is None
