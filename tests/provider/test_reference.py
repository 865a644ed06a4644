"""The row: its format, and that nothing else is taken for one."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Dict

import pytest

from airflow_provider_vineyard.reference import (
    Origin,
    RowReference,
    RowValue,
    looks_like_row,
    parse_row,
    printable,
)
from airflow_provider_vineyard.xcom.inline import RESERVED_NAMES
from vineyard_client import InvalidReference, ObjectInfo, ObjectRef, UnsupportedVersion, dumps, encode, loads

REF = ObjectRef("o0016f0c2a4b1d3e5", "0123456789abcdef" * 2, None, "pandas.DataFrame", 80_000_704)
ORIGIN = Origin("etl", "manual__1", "extract", -1, "return_value")

ROW: Dict[str, Any] = {
    "vineyard": {
        "v": 1,
        "id": "o0016f0c2a4b1d3e5",
        "token": "0123456789abcdef0123456789abcdef",
        "endpoint": None,
        "type": "pandas.DataFrame",
        "size": 80_000_704,
        "summary": "10 rows × 2 columns",
        "host": "worker-1",
        "created": "2026-11-22T11:09:00+00:00",
        "origin": {
            "dag_id": "etl",
            "run_id": "manual__1",
            "task_id": "extract",
            "map_index": -1,
            "key": "return_value",
        },
        "owned": True,
    }
}


def test_what_it_shares() -> None:
    """A row says what was taken for an object that shares the rest; one that shares nothing is what it always was."""
    info = ObjectInfo(
        REF, "10 rows × 2 columns", {}, datetime(2026, 11, 22, 11, 9, tzinfo=timezone.utc), "worker-1", ""
    )
    for memory in (None, REF.size):
        row = RowReference.describe(REF, replace(info, memory=memory), origin=ORIGIN, owned=True)
        assert row.to_json() == ROW
    row = RowReference.describe(REF, replace(info, memory=1000), origin=ORIGIN, owned=True)
    assert row.to_json() == {"vineyard": {**ROW["vineyard"], "memory": 1000}}
    assert parse_row(row.to_json()) == row
    for wrong in (-1, REF.size + 1, "1", None, True, 1.0):
        with pytest.raises(InvalidReference, match="memory"):
            parse_row({"vineyard": {**ROW["vineyard"], "memory": wrong}})


VALUE: Dict[str, Any] = {
    "vineyard": {
        "v": 2,
        "type": "builtins.tuple",
        "text": "(400000, 15)",
        "size": 95,
        "host": "worker-1",
        "created": "2026-11-22T11:09:00+00:00",
        "origin": ROW["vineyard"]["origin"],
        "content": base64.b64encode(dumps((400000, 15))).decode(),
    }
}
VALUE["vineyard"]["size"] = len(dumps((400000, 15)))


def info(summary: str = "10 rows × 2 columns") -> ObjectInfo:
    """Return what core says of the object."""
    created = datetime(2026, 11, 22, 11, 9, 0, 123456, tzinfo=timezone.utc)
    return ObjectInfo(REF, summary, {}, created, "worker-1", "/run/v.sock")


def edited(**changes: Any) -> Dict[str, Any]:
    """Return the row with fields changed, or taken away where the new value is Ellipsis."""
    fields = {**ROW["vineyard"], **changes}
    return {"vineyard": {name: value for name, value in fields.items() if value is not ...}}


def test_format() -> None:
    """A row has exactly the documented fields; it is the same after a journey through JSON."""
    row = RowReference.describe(REF, info(), origin=ORIGIN, owned=True)
    assert row.to_json() == ROW
    assert RowReference.parse(json.loads(json.dumps(ROW))) == row


def test_the_endpoint_may_be_a_text() -> None:
    """A server with RPC advertises where it is."""
    assert RowReference.parse(edited(endpoint="worker-1:9600")).ref.endpoint == "worker-1:9600"


def test_no_reserved_names() -> None:
    """Airflow takes dicts with these keys for descriptions of objects, so a row has none."""
    assert not RESERVED_NAMES & {*ROW, *ROW["vineyard"], *ROW["vineyard"]["origin"]}


def test_a_long_summary_is_cut() -> None:
    """The row stays small."""
    row = RowReference.describe(REF, info("x" * 1000), origin=ORIGIN, owned=True)
    assert len(row.summary) == 300
    assert row.summary.endswith("x…")


def test_what_airflow_did_not_tell_is_left_out() -> None:
    """Airflow 2.1 and 2.2 tell a backend nothing; the row can be read all the same."""
    row = RowReference.describe(REF, info(), origin=Origin(), owned=True).to_json()
    assert row["vineyard"]["origin"] == {}
    assert RowReference.parse(row).origin == Origin()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ROW, True),
        ({"vineyard": None}, True),
        ({"vineyard": {}, "more": 1}, False),
        ({}, False),
        (["vineyard"], False),
        ("vineyard", False),
        (None, False),
    ],
)
def test_looks_like_row(value: object, expected: bool) -> None:
    """Only a dict with exactly the one key does."""
    assert looks_like_row(value) is expected


@pytest.mark.parametrize(
    "forged",
    [
        None,
        "o0016f0c2a4b1d3e5",
        {"vineyard": "o0016f0c2a4b1d3e5"},
        {"vineyard": {}},
        {"vineyard": []},
        {**ROW, "more": 1},
        edited(id=...),
        edited(id="o16"),
        edited(id=16),
        edited(id="../../etc/passwd"),
        edited(token=...),
        edited(token="0" * 31),
        edited(token=None),
        edited(type=None),
        edited(type="x" * 2000),
        edited(size="80"),
        edited(size=-1),
        edited(size=True),
        edited(endpoint=1),
        edited(endpoint="x" * 2000),
        edited(summary=...),
        edited(summary={"__reduce__": "os.system"}),
        edited(summary="x" * 2000),
        edited(host=1),
        edited(created="yesterday"),
        edited(created="2026-11-22T11:09:00"),
        edited(created=1),
        edited(owned="yes"),
        edited(owned=1),
        edited(origin="etl"),
        edited(origin={"dag_id": 1}),
        edited(origin={"map_index": "0"}),
        edited(origin={"map_index": True}),
        edited(origin={"module": "os"}),
        edited(origin=...),
        edited(module="os"),
        edited(__class__="os.system"),
        edited(v=...),
        edited(v="1"),
        edited(v=0),
    ],
)
def test_a_forged_row_is_refused(forged: object) -> None:
    """A field that is missing, unknown, of another type or out of bounds makes no reference, and says what to do."""
    with pytest.raises(InvalidReference) as error:
        RowReference.parse(forged)
    assert "clear the task" in error.value.hint


def test_a_later_version_is_told_apart() -> None:
    """A row of a later release is no forgery, even if its fields differ."""
    with pytest.raises(UnsupportedVersion, match="version 2"):
        RowReference.parse(edited(v=2, new_field=1))


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (ORIGIN, "XCom 'return_value' of task etl.extract (run manual__1)"),
        (Origin("etl", "manual__1", "extract", 3, "k"), "XCom 'k' of task etl.extract[3] (run manual__1)"),
        (Origin(task_id="extract", key="k"), "XCom 'k' of task extract"),
        (Origin(key="k"), "XCom 'k'"),
        (Origin(), "the XCom"),
    ],
)
def test_origin_in_words(origin: Origin, text: str) -> None:
    """Log lines and messages name the XCom."""
    assert str(origin) == text


def test_labels() -> None:
    """Everything Airflow told is a label, as text."""
    assert ORIGIN.labels() == {
        "dag_id": "etl",
        "run_id": "manual__1",
        "task_id": "extract",
        "map_index": "-1",
        "key": "return_value",
    }
    assert Origin(key="k").labels() == {"key": "k"}


def test_format_of_a_value() -> None:
    """A row that holds its value has exactly the documented fields, also after a journey through JSON."""
    row = parse_row(json.loads(json.dumps(VALUE)))
    assert isinstance(row, RowValue)
    assert (loads(row.content), row.type, row.text) == ((400000, 15), "builtins.tuple", "(400000, 15)")
    assert row.to_json() == VALUE
    assert not RESERVED_NAMES & VALUE["vineyard"].keys()
    with encode((400000, 15)) as encoded:
        made = RowValue.describe(encoded, "(400000, 15)", origin=ORIGIN)
    assert made.to_json().keys() == VALUE.keys()
    assert parse_row(made.to_json()) == made
    assert loads(made.content) == (400000, 15)


@pytest.mark.parametrize(
    "changes",
    [
        {"content": ...},
        {"text": ...},
        {"token": "0" * 32},
        {"owned": True},
        {"v": True},
        {"v": 2.0},
        {"v": "2"},
        {"v": None},
        {"content": 7},
        {"content": "not base64!"},
        {"content": "VllW\nQUxVRQ=="},
        {"content": "Vll\u00e4"},
        {"content": ""},
        {"size": 94},
        {"size": "95"},
        {"size": True},
        {"text": "x" * 2000},
        {"text": None},
        {"type": ["x"]},
        {"created": "yesterday"},
        {"origin": None},
        {"origin": {"dag_id": 7}},
    ],
)
def test_a_value_that_was_edited(changes: Dict[str, Any]) -> None:
    """Nothing but the documented fields, of their kinds and sizes, is taken for a value."""
    fields = {name: value for name, value in {**VALUE["vineyard"], **changes}.items() if value is not ...}
    with pytest.raises(InvalidReference, match="looks like a reference to vineyard but is none"):
        parse_row({"vineyard": fields})


def test_both_versions_are_known_and_no_other() -> None:
    """Rows of earlier releases are read, those of later ones are not guessed at."""
    assert isinstance(parse_row(ROW), RowReference)
    with pytest.raises(UnsupportedVersion, match="has version 4; this release knows 1 to 3"):
        parse_row({"vineyard": {"v": 4}})
    with pytest.raises(UnsupportedVersion, match="has version 2; this release knows 1"):
        RowReference.parse(VALUE)  # what the first release says


def test_texts_are_printable() -> None:
    """Whatever a type, a column or a key is called, databases take the row."""
    origin = ORIGIN._replace(key="k\0\ud800" + "x" * 5000)
    ref = ObjectRef(REF.id, REF.token, None, "made.\ud800", 1)
    row = RowReference.describe(ref, info("column \ud800\n"), origin=origin, owned=True).to_json()
    assert row["vineyard"]["summary"] == "column \\ud800\\n"
    assert row["vineyard"]["type"] == "made.\\ud800"
    assert row["vineyard"]["origin"]["key"].startswith("k\\x00\\ud800x")
    assert parse_row(json.loads(json.dumps(row, ensure_ascii=False).encode())).to_json() == row
    assert all(text.isprintable() for text in origin.labels().values())


@pytest.mark.parametrize(
    ("text", "expected"), [("x" * 10, "x" * 10), ("x" * 11, "x" * 9 + "…"), ("a\tb", "a\\tb"), ("ä×", "ä×")]
)
def test_printable(text: str, expected: str) -> None:
    """The beginning of a text, on one line."""
    assert printable(text, 10) == expected
