"""Metadata trees of values: what is written is read, and what is not ours or damaged is told apart."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Dict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vineyard_client._store.meta import GUARD_SIZE, TOMBSTONE, VALUE, ValueMeta, check_labels
from vineyard_client.exceptions import ObjectCorrupted, UnsupportedVersion, VineyardError
from vineyard_client.ids import format_id, is_token

BLOB, GUARD = (1 << 63) | 5, (1 << 63) | 6

SMALL = ValueMeta(
    token="0123456789abcdef" * 2,
    type="builtins.dict",
    summary="dict of 2 items: str → int",
    size=100,
    created=1.5e9,
    host="h",
    instance_id=3,
    labels={"dag_id": "etl", "é": ""},
    content=b"\0envelope\xff",
)
LARGE = replace(SMALL, content=None, blob=BLOB, guard=GUARD, size=1 << 33)
SHARING = replace(LARGE, own=1000, shared=((1 << 63) | 7, (1 << 63) | 8), sizes=(1 << 32, 70_000))
REPLICA = replace(LARGE, origin="other:9600", origin_id="o0000000000000001")


def over_the_wire(tree: Dict[str, Any]) -> Dict[str, Any]:
    """Return a tree as the server hands it back: through JSON, with what it adds."""
    returned: Dict[str, Any] = json.loads(json.dumps(tree))
    returned.update(id="o0000000000000009", signature=5, __timestamp=7)
    for member in ("blob", "guard", "shared_0", "shared_1"):
        if member in returned:
            returned[member].update(nbytes=0, length=0)  # as of an unsealed blob
    return returned


@pytest.mark.parametrize("typename", [VALUE, TOMBSTONE])
@pytest.mark.parametrize("meta", [SMALL, LARGE, SHARING, REPLICA, replace(SMALL, labels={}, content=b"")])
def test_round_trip(meta: ValueMeta, typename: str) -> None:
    """What a tree says, of a value or a tombstone, is read back from what the server returns."""
    tree = meta.tree(typename)
    assert tree["typename"] == typename
    assert ValueMeta.read(over_the_wire(tree)) == meta


def test_form_of_a_value_that_shares() -> None:
    """The blobs of others are members like its own, and earlier releases are told not to touch it."""
    tree = SHARING.tree()
    assert (tree["version"], tree["size"], tree["nbytes"], tree["own"]) == (2, SHARING.size, 1000, 1000)
    assert json.loads(tree["sizes"]) == [1 << 32, 70_000]
    assert [tree[f"shared_{k}"]["id"] for k in (0, 1)] == [format_id(blob) for blob in SHARING.shared]
    assert tree["blob"]["length"] == 1000
    assert (SHARING.memory, replace(SHARING, origin="a:1", origin_id="o" + 16 * "0").memory) == (
        1000,
        1000 + (1 << 32) + 70_000,
    )
    assert SHARING.blobs == (BLOB, *SHARING.shared)


@pytest.mark.parametrize(
    "damage",
    [
        {"sizes": "[]"},
        {"sizes": "[1]", "shared_0": {"id": format_id(BLOB)}},
        {"sizes": "[1, 2]", "shared_1": {"id": format_id((1 << 63) | 7)}},
        {"sizes": "[1, 2, 3]"},
        {"sizes": json.dumps([1] * 200)},
        {"sizes": "[" + "1" * 10_000 + "]"},
        {"sizes": "[-1, 2]"},
        {"sizes": "[1.5, 2]"},
        {"sizes": "[true, 2]"},
        {"sizes": json.dumps([1 << 64, 2])},
        {"sizes": 5},
        {"own": 0},
        {"own": "1000"},
        {"content": ""},
        {"shared_0": 5},
        {"shared_0": {"id": "x"}},
    ],
)
def test_what_is_shared_must_make_sense(damage: Dict[str, Any]) -> None:
    """Whatever stands there, it is an error of ours, and never read as something else."""
    with pytest.raises(ObjectCorrupted):
        ValueMeta.read({**over_the_wire(SHARING.tree()), **damage})


def test_form_of_a_small_value() -> None:
    """A small value is inside of its tree, which the server requires to have certain fields."""
    assert SMALL.tree() == {
        "typename": "vineyard_client::Value",
        "version": 1,
        "nbytes": 100,
        "instance_id": 3,
        "transient": True,
        "token": "0123456789abcdef" * 2,
        "type": "builtins.dict",
        "summary": "dict of 2 items: str → int",
        "size": 100,
        "created": 1.5e9,
        "host": "h",
        "labels": json.dumps({"dag_id": "etl", "é": ""}),
        "content": "AGVudmVsb3Bl/w==",
    }


def test_form_of_a_large_value() -> None:
    """Any other value has two members, the blob and its guard."""
    tree = LARGE.tree()
    assert "content" not in tree
    for name, number, size in (("blob", BLOB, 1 << 33), ("guard", GUARD, GUARD_SIZE)):
        assert tree[name] == {
            "id": format_id(number),
            "typename": "vineyard::Blob",
            "nbytes": size,
            "length": size,
            "instance_id": 3,
            "transient": True,
        }


def test_replicas() -> None:
    """The server's own labels say which hosts have a replica; one that was taken back is empty."""
    labels = {
        "vineyard_client.replica.b": "x",
        "vineyard_client.replica.a": "y",
        "other": "z",
        "vineyard_client.replica.c": "",
    }
    tree = {**over_the_wire(LARGE.tree()), "__labels": json.dumps(labels)}
    assert ValueMeta.read(tree).replicas == ("a", "b")


def test_somebody_elses_object() -> None:
    """An object that another program put is told apart by its typename."""
    with pytest.raises(ObjectCorrupted) as caught:
        ValueMeta.read({**over_the_wire(SMALL.tree()), "typename": "vineyard::Tensor<double>"})
    assert str(caught.value) == (
        "The object o0000000000000009 is a vineyard::Tensor<double>, not a value of this package. "
        "Only objects that vineyard-client put can be read."
    )


@pytest.mark.parametrize("version", [3, "1", None])
def test_another_version(version: object) -> None:
    """Metadata of another generation are refused, not guessed at."""
    with pytest.raises(UnsupportedVersion) as caught:
        ValueMeta.read({**over_the_wire(SMALL.tree()), "version": version})
    assert str(caught.value) == (
        f"The object o0000000000000009 has metadata of version {version!r}; this release knows 1 and 2. "
        "Upgrade vineyard-client here, or put the value with the release that is installed here."
    )


DAMAGE = [
    *[
        (name, None)
        for name in ("token", "type", "summary", "size", "created", "host", "instance_id", "labels", "blob", "guard")
    ],
    *[("token", wrong) for wrong in ("", "0" * 31, "G" * 32, 5)],
    *[("size", wrong) for wrong in ("5", 5.0, -1)],
    *[("created", wrong) for wrong in ("soon", "nan", 1e300, 10**400, -1, [])],
    *[("instance_id", wrong) for wrong in ("x", float("inf"), {})],
    *[("labels", wrong) for wrong in ("", "[]", "5", '{"a":1}', '["a"]', {"a": "b"}, "[" * 100_000)],
    *[("type", 5), ("summary", []), ("host", {})],
    *[("blob", wrong) for wrong in ("o8000000000000005", {}, {"id": 5}, {"id": "o8"}, [])],
    *[("content", wrong) for wrong in ("*", "abc", 5, {})],
    *[("origin", 5), ("__labels", 5), ("__labels", "["), ("__labels", "5")],
]


@pytest.mark.parametrize("field, wrong", DAMAGE, ids=[f"{field} {str(wrong)[:20]}" for field, wrong in DAMAGE])
def test_damage(field: str, wrong: object) -> None:
    """A field that is missing, of another kind or impossible is a corrupted object, by its id."""
    tree = over_the_wire(LARGE.tree())
    tree[field] = wrong
    with pytest.raises(ObjectCorrupted, match="The metadata of the object o0000000000000009 cannot be read: "):
        ValueMeta.read(tree)
    if field not in ("origin", "content", "__labels"):
        del tree[field]
        with pytest.raises(ObjectCorrupted):
            ValueMeta.read(tree)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["{}", "o" + "8" * 17])
)
values = st.recursive(
    leaves, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.just("id"), v, max_size=1), max_leaves=4
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text takes a second where nothing is cached yet
@given(
    st.dictionaries(
        st.sampled_from([*LARGE.tree(), "content", "origin", "origin_id", "__labels", "id"]), values, max_size=4
    )
)
def test_any_tree(fields: Dict[str, Any]) -> None:
    """Whatever a tree holds: metadata that everything else can be made of, or an error of ours."""
    try:
        meta = ValueMeta.read({**over_the_wire(LARGE.tree()), **fields})
    except VineyardError as error:
        assert str(error)
        return
    assert is_token(meta.token) and meta.size >= 0
    assert datetime.fromtimestamp(meta.created, timezone.utc).year >= 1970
    assert json.dumps(dict(meta.labels))


@pytest.mark.parametrize(
    "field, text",
    [
        ("type", "x" * 1025),
        ("summary", "x" * 4097),
        ("host", "x" * 1025),
        ("labels", json.dumps({"a": "x" * 20_000})),
        ("labels", json.dumps({str(number): "" for number in range(65)})),
        ("content", "A" * 100_000),
        ("origin", "x" * 1025),
        ("__labels", json.dumps({"vineyard_client.replica.a": "x" * 2_000_000})),
        ("uptime", -1),
        ("uptime", "nan"),
        ("size", 1 << 63),
    ],
)
def test_what_a_peer_can_make_us_carry_is_bounded(field: str, text: object) -> None:
    """Each later listing of the store would have it."""
    with pytest.raises(ObjectCorrupted):
        ValueMeta.read({**LARGE.tree(), "origin_id": "o0000000000000001", field: text})


def test_labels_that_are_too_much() -> None:
    """They are refused when a value is put, and not when it is read."""
    for labels in ({"a": "x" * 20_000}, {str(number): "" for number in range(65)}):
        with pytest.raises(ValueError, match="more than an object may have: 64 labels, 16384 bytes"):
            check_labels(labels)
    most = {str(number): "x" * 200 for number in range(64)}
    assert check_labels(most) == most


def test_long_names_are_cut() -> None:
    """What is put can always be read."""
    meta = ValueMeta.read(replace(LARGE, type="x" * 5000, summary="y" * 5000).tree())
    assert (meta.type, meta.summary) == ("x" * 1024, "y" * 4096)
