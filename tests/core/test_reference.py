"""References: a public format, read strictly, since they come from databases and REST calls."""

from __future__ import annotations

import json
import pickle
from datetime import datetime, timezone
from typing import Any, Dict, Type

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vineyard_client.exceptions import InvalidReference, UnsupportedVersion, VineyardError
from vineyard_client.reference import ObjectInfo, ObjectRef, StoreStatus

REF = ObjectRef(
    id="o0016f0c3fcbe0005", token="0123456789abcdef" * 2, endpoint="host:9600", type="pandas.DataFrame", size=80_000_704
)
JSON: Dict[str, Any] = {
    "v": 1,
    "id": "o0016f0c3fcbe0005",
    "token": "0123456789abcdef" * 2,
    "endpoint": "host:9600",
    "type": "pandas.DataFrame",
    "size": 80_000_704,
}


def test_json_form() -> None:
    """The JSON form is what the documentation shows, and comes back as the reference it was."""
    assert REF.to_json() == JSON
    assert ObjectRef.from_json(json.loads(json.dumps(JSON))) == REF
    local = ObjectRef.from_json({**JSON, "endpoint": None})
    assert local.endpoint is None and local.to_json()["endpoint"] is None


def test_references_are_values() -> None:
    """A reference can be compared, hashed, pickled, and not be changed."""
    again = pickle.loads(pickle.dumps(REF))
    assert again == REF and hash(again) == hash(REF)
    assert ObjectRef.from_json({**JSON, "token": "f" * 32}) != REF
    with pytest.raises(AttributeError):
        REF.id = "o0000000000000000"  # type: ignore[misc]


WRONG = [
    (
        {"v": 2},
        UnsupportedVersion,
        "The reference has version 2; this release knows 1 and 3. Upgrade vineyard-client here.",
    ),
    (
        {"v": 4},
        UnsupportedVersion,
        "The reference has version 4; this release knows 1 and 3. Upgrade vineyard-client here.",
    ),
    ({"v": 3}, InvalidReference, "The reference lacks, or has beyond what it should: copy."),
    ({"v": 3, "copy": None}, InvalidReference, "The reference has a version with a copy, and none."),
    ({"v": 3, "copy": 5}, InvalidReference, "The copy in the reference to o0016f0c3fcbe0005 is not a text."),
    ({"copy": "a/b"}, InvalidReference, "The reference lacks, or has beyond what it should: copy."),
    ({"v": 0}, InvalidReference, "The reference has no version that exists: 0."),
    ({"v": "1"}, InvalidReference, "The reference has no version that exists: '1'."),
    ({"v": True}, InvalidReference, "The reference has no version that exists: True."),
    ({"v": 1.0}, InvalidReference, "The reference has no version that exists: 1.0."),
    ({"v": None}, InvalidReference, "The reference has no version that exists: None."),
    ({"extra": 1}, InvalidReference, "The reference lacks, or has beyond what it should: extra."),
    ({"id": "5"}, InvalidReference, "'5' is not an object id. An id is the letter o and sixteen hex digits."),
    ({"id": 5}, InvalidReference, "5 is not an object id. An id is the letter o and sixteen hex digits."),
    ({"token": "x"}, InvalidReference, "The token of the reference to o0016f0c3fcbe0005 is not 32 hex digits."),
    ({"token": 5}, InvalidReference, "The token of the reference to o0016f0c3fcbe0005 is not 32 hex digits."),
    ({"endpoint": 5}, InvalidReference, "The endpoint of the reference to o0016f0c3fcbe0005 is not a text."),
    ({"type": None}, InvalidReference, "The type of the reference to o0016f0c3fcbe0005 is not a text."),
    ({"size": "5"}, InvalidReference, "The size of the reference to o0016f0c3fcbe0005 is not a number of bytes."),
    ({"size": -1}, InvalidReference, "The size of the reference to o0016f0c3fcbe0005 is not a number of bytes."),
    ({"size": True}, InvalidReference, "The size of the reference to o0016f0c3fcbe0005 is not a number of bytes."),
    ({"size": 5.0}, InvalidReference, "The size of the reference to o0016f0c3fcbe0005 is not a number of bytes."),
]


@pytest.mark.parametrize("changed, kind, text", WRONG)
def test_wrong_fields(changed: Dict[str, Any], kind: Type[VineyardError], text: str) -> None:
    """A field of the wrong shape is refused by name; nothing is converted."""
    with pytest.raises(kind) as caught:
        ObjectRef.from_json({**JSON, **changed})
    assert str(caught.value) == text


@pytest.mark.parametrize("field", JSON)
def test_missing_fields(field: str) -> None:
    """Every field is required."""
    with pytest.raises(InvalidReference):
        ObjectRef.from_json({key: value for key, value in JSON.items() if key != field})


@pytest.mark.parametrize("data", [None, "o0016f0c3fcbe0005", [1], 5, b"{}"])
def test_no_object(data: Any) -> None:
    """What is no mapping is no reference."""
    with pytest.raises(InvalidReference) as caught:
        ObjectRef.from_json(data)
    assert str(caught.value) == f"A reference is a JSON object, not {type(data).__name__}."


json_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.none(), max_size=1)
)


@given(st.dictionaries(st.sampled_from([*JSON, "x"]) | st.integers(), json_values, max_size=3))
def test_any_json(fields: Dict[Any, Any]) -> None:
    """Whatever object comes: a reference whose JSON form is that object, or an error of ours."""
    data = {**JSON, **fields}
    try:
        ref = ObjectRef.from_json(data)
    except VineyardError:
        return
    assert ref.to_json() == data


def test_info() -> None:
    """What a store knows of a value repeats what the reference says of it."""
    info = ObjectInfo(ref=REF, summary="s", labels={}, created=datetime.now(timezone.utc), host="h", socket="/s")
    assert (info.type, info.size, info.deleted) == ("pandas.DataFrame", 80_000_704, False)


def test_status_is_a_value() -> None:
    """Statuses can be compared and sent to other processes."""
    status = StoreStatus("/s", "0.24.2", 0, "local", None, 1, 2, 3)
    assert pickle.loads(pickle.dumps(status)) == status
