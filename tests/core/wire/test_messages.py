"""Requests and replies: recorded from real servers, and what a peer might send instead.

``recorded/`` holds conversations with vineyardd 0.14.8 and 0.24.2, made by ``record.py``. They are the table that both
directions are tested with: the request must make the bytes that were sent, and the bytes that came back must be read
as the expectations here say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vineyard_client._wire import messages
from vineyard_client._wire.framing import FrameDecoder, encode_frame
from vineyard_client._wire.messages import (
    BufferReply,
    ClusterMeta,
    CreateBuffer,
    CreateData,
    DeleteData,
    DropBuffer,
    Exists,
    GetBuffers,
    GetData,
    GetRemoteBuffers,
    InstanceReply,
    InstanceStatus,
    IsInUse,
    Label,
    ListData,
    Payload,
    Persist,
    Register,
    Release,
    Request,
    Seal,
    StatusReply,
    fds_announced,
    parse_reply,
)
from vineyard_client.exceptions import ObjectNotFound, ProtocolError, ServerError, StoreFull, VineyardError

RECORDED = {
    file.stem: json.loads(file.read_text()) for file in sorted((Path(__file__).parent / "recorded").glob("*.json"))
}
VERSIONS = list(RECORDED)
STEPS = [(version, step["name"]) for version in VERSIONS for step in RECORDED[version]]

EMPTY_BLOB = 1 << 63


def recorded(version: str, name: str) -> Dict[str, Any]:
    (step,) = [step for step in RECORDED[version] if step["name"] == name]
    return step  # type: ignore[no-any-return]


def raw(version: str, name: str) -> Dict[str, Any]:
    """Return a recorded reply, read with the standard library alone."""
    reply: Dict[str, Any] = json.loads(recorded(version, name)["received"][8:].encode("latin-1"))
    return reply


def request_of(step: Dict[str, Any]) -> Request[Any]:
    name, fields = step["request"]
    request: Request[Any] = getattr(messages, name)(**fields)
    return request


def decode(data: bytes, most: int) -> Dict[str, Any]:
    decoder = FrameDecoder()
    while True:
        count = min(most, decoder.bytes_desired)
        message, data = decoder.receive(data[:count]), data[count:]
        if message is not None:
            assert not data
            return message


def test_there_are_recordings() -> None:
    """The oldest and the newest supported server are in the table, with the same conversation."""
    assert VERSIONS == ["0.14.8", "0.24.2"]
    assert [step["name"] for step in RECORDED["0.14.8"]] == [step["name"] for step in RECORDED["0.24.2"]]
    used = {step["request"][0] for step in RECORDED["0.24.2"] if step["request"]}
    assert used == {name for name, value in vars(messages).items() if _is_request(value)}


def _is_request(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Request) and hasattr(value, "reply_type")


@pytest.mark.parametrize("version, name", [(v, n) for v, n in STEPS if recorded(v, n)["request"]])
def test_requests_make_the_bytes_that_were_sent(version: str, name: str) -> None:
    """Each request has the wire form that real servers understood."""
    step = recorded(version, name)
    assert encode_frame(request_of(step).message()) == step["sent"].encode("latin-1")


# What each recorded reply reads as. A function gets the raw reply, read with the standard library alone.
Reading = Union[object, Callable[[Dict[str, Any]], object]]


def _payload(tree: Dict[str, Any]) -> Payload:
    return Payload(tree["object_id"], tree["store_fd"], tree["data_offset"], tree["data_size"], tree["map_size"])


def _trees(reply: Dict[str, Any]) -> Dict[int, Any]:
    return {int(key[1:], 16): tree for key, tree in reply["content"].items()}


READINGS: Dict[str, Reading] = {
    "register": lambda r: InstanceReply(r["version"], 0, "v.sock", r["rpc_endpoint"]),
    "register again": lambda r: InstanceReply(r["version"], 0, "v.sock", r["rpc_endpoint"]),
    "register over RPC": lambda r: InstanceReply(r["version"], 0, "v.sock", r["rpc_endpoint"]),
    "status": StatusReply(instance_id=0, memory_used=0, memory_limit=1 << 20, connections=1),
    "create": lambda r: BufferReply(r["id"], Payload(r["id"], r["fd"], 64, 4096, (1 << 20) + 8)),
    "create another": lambda r: BufferReply(
        r["id"], Payload(r["id"], r["created"]["store_fd"], 4224, 1, (1 << 20) + 8)
    ),
    "create an empty one": BufferReply(EMPTY_BLOB, Payload(EMPTY_BLOB, -1, 0, 0, 0)),
    "create data": lambda r: r["id"],
    "seal": None,
    "seal again": None,
    "get": lambda r: [_payload(r["payloads"][0])],
    "get with fd": lambda r: [_payload(r["payloads"][0])],
    "get a missing one": lambda r: [],
    "get the empty one": [Payload(EMPTY_BLOB, -1, 0, 0, 0)],
    "get over RPC": lambda r: [_payload(r["payloads"][0])],
    "get a missing one over RPC": lambda r: [],
    "release": None,
    "release by the other": None,
    "in use by another": True,
    "not in use": False,
    "exists": True,
    "exists not": False,
    "get data": _trees,
    "get data of some": _trees,
    "get missing data": lambda r: {},
    "label": None,
    "list": _trees,
    "list nothing": lambda r: {},
    "persist": None,
    "cluster": lambda r: r["meta"],
    "delete": None,
    "delete again": None,
    "drop": None,
}

REFUSALS: Dict[str, Tuple[type, int]] = {
    "before registering": (ServerError, 1),
    "create one that is too large": (StoreFull, 41),
    "create data without a typename": (ServerError, 21),
    "get unsealed": (ServerError, 14),
    "seal a missing one": (ObjectNotFound, 12),
    "release a missing one": (ObjectNotFound, 12),
    "label a missing one": (ObjectNotFound, 12),
    "persist a missing one": (ServerError, 27),
    "drop a missing one": (ObjectNotFound, 12),
    "an unknown request": (ServerError, 1),
    "no JSON": (ServerError, 1),
}


def test_every_recorded_reply_is_expected() -> None:
    """No recorded step is left out of the two tables."""
    assert {*READINGS, *REFUSALS} == {step["name"] for step in RECORDED["0.24.2"]}


@pytest.mark.parametrize("most", [1, 1 << 30])
@pytest.mark.parametrize("version, name", [(v, n) for v, n in STEPS if n in READINGS])
def test_replies_are_read(version: str, name: str, most: int) -> None:
    """Each reply is read as it was meant, whole and byte by byte, with the fds that came behind it announced."""
    step, expected = recorded(version, name), READINGS[name]
    reply = decode(step["received"].encode("latin-1"), most)
    assert len(fds_announced(reply)) == step["fds"]
    assert parse_reply(request_of(step), reply) == (expected(raw(version, name)) if callable(expected) else expected)


@pytest.mark.parametrize("version, name", [(v, n) for v, n in STEPS if n in REFUSALS])
def test_refusals_are_raised(version: str, name: str) -> None:
    """Each error reply becomes its exception, with the server's words, and announces no fd."""
    step, (kind, code) = recorded(version, name), REFUSALS[name]
    reply = decode(step["received"].encode("latin-1"), 1 << 30)
    assert fds_announced(reply) == ()
    request = request_of(step) if step["request"] else Seal(1)
    with pytest.raises(VineyardError) as caught:
        parse_reply(request, reply)
    assert type(caught.value) is kind
    text = raw(version, name)["message"].strip()
    assert caught.value.what == f"vineyardd refused {request.type} with code {code}: {text}."


@pytest.mark.parametrize("version, name", STEPS)
def test_recorded_replies_with_trailing_data(version: str, name: str) -> None:
    """A byte behind a recorded reply is refused: it would be the one that an fd rides on."""
    data = recorded(version, name)["received"].encode("latin-1")
    decoder = FrameDecoder()
    assert decoder.receive(data[:8]) is None
    with pytest.raises(ProtocolError):
        decoder.receive(data[8:] + b"\0")


# ---- replies that no server should send

GOOD: List[Tuple[Request[Any], Dict[str, Any]]] = [
    (Register(), {"instance_id": 3, "version": "0.24.2", "ipc_socket": "s", "rpc_endpoint": "h:1"}),
    (
        CreateBuffer(10),
        {"id": 5, "created": {"store_fd": 7, "data_offset": 64, "data_size": 10, "map_size": 100}, "fd": -1},
    ),
    (
        GetBuffers([5]),
        {
            "num": 1,
            "0": {"object_id": 5, "store_fd": 7, "data_offset": 64, "data_size": 10, "map_size": 100},
            "fds": [],
        },
    ),
    (
        GetRemoteBuffers([5]),
        {
            "num": 1,
            "0": {"object_id": 5, "store_fd": 7, "data_offset": 64, "data_size": 10, "map_size": 100},
            "fds": [],
        },
    ),
    (IsInUse(5), {"is_in_use": True}),
    (CreateData({}), {"id": 5}),
    (GetData([5]), {"content": {"o0000000000000005": {"typename": "t"}}}),
    (ListData("*"), {"content": {"o0000000000000005": {"typename": "t"}}}),
    (Exists(5), {"exists": False}),
    (
        InstanceStatus(),
        {"meta": {"instance_id": 0, "memory_usage": 1, "memory_limit": 2, "ipc_connections": 3, "deployment": "local"}},
    ),
    (ClusterMeta(), {"meta": {"i0": {"hostname": "h"}}}),
    *[(request, {}) for request in (Seal(5), DropBuffer(5), Release(5), DeleteData([5]), Persist(5), Label(5, {}))],
]

REQUESTS = [request for request, _ in GOOD]


def reply_to(request: Request[Any], **fields: Any) -> Dict[str, Any]:
    """Return a good reply to a request, with some fields replaced; a dotted name is one of a field's own fields."""
    (good,) = [reply for other, reply in GOOD if other is request]
    reply = json.loads(json.dumps({"type": request.reply_type, **good}))
    for name, value in fields.items():
        *outer, last = name.split("__")
        target = reply
        for key in outer:
            target = target[key]
        target[last] = value
    return reply  # type: ignore[no-any-return]


def by_type(kind: type) -> Request[Any]:
    (request,) = [request for request in REQUESTS if type(request) is kind]
    return request


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_good_replies(request_: Request[Any]) -> None:
    """The replies that the cases below spoil are good ones."""
    parse_reply(request_, reply_to(request_))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_reply_to_another_request(request_: Request[Any]) -> None:
    """A reply of another type means that the stream is out of step."""
    with pytest.raises(ProtocolError) as caught:
        parse_reply(request_, reply_to(request_, type="other_reply"))
    assert str(caught.value) == f"The server answered {request_.type} with 'other_reply'."
    with pytest.raises(ProtocolError, match="with None"):
        parse_reply(request_, {})


@pytest.mark.parametrize("wrong", [None, "5", -1, 1 << 64, 5.0, True, [5], {}])
@pytest.mark.parametrize(
    "kind, field",
    [
        (Register, "instance_id"),
        (CreateBuffer, "id"),
        (CreateBuffer, "created__data_size"),
        (CreateBuffer, "created__data_offset"),
        (CreateBuffer, "created__map_size"),
        (GetBuffers, "num"),
        (GetBuffers, "0__object_id"),
        (GetBuffers, "0__data_size"),
        (CreateData, "id"),
        (InstanceStatus, "meta__instance_id"),
        (InstanceStatus, "meta__memory_usage"),
        (InstanceStatus, "meta__memory_limit"),
        (InstanceStatus, "meta__ipc_connections"),
    ],
)
def test_numbers_of_the_wrong_kind(kind: type, field: str, wrong: object) -> None:
    """Sizes and ids are unsigned 64-bit numbers; anything else is refused, naming the field."""
    request = by_type(kind)
    with pytest.raises(ProtocolError, match=f" has {field.split('__')[-1]} = "):
        parse_reply(request, reply_to(request, **{field: wrong}))


@pytest.mark.parametrize(
    "kind, field, wrong",
    [
        (Register, "version", 24),
        (Register, "ipc_socket", None),
        (Register, "rpc_endpoint", []),
        (CreateBuffer, "created", None),
        (CreateBuffer, "created", []),
        (CreateBuffer, "created__store_fd", "7"),
        (CreateBuffer, "created__store_fd", True),
        (GetBuffers, "0", None),
        (GetBuffers, "0", "blob"),
        (IsInUse, "is_in_use", 1),
        (IsInUse, "is_in_use", None),
        (Exists, "exists", "yes"),
        (GetData, "content", []),
        (GetData, "content", {"o0000000000000005": 5}),
        (GetData, "content", {"five": {}}),
        (ListData, "content", "none"),
        (InstanceStatus, "meta", None),
        (ClusterMeta, "meta", []),
    ],
)
def test_fields_of_the_wrong_kind(kind: type, field: str, wrong: object) -> None:
    """Other fields are checked as well; what is refused is shown, cut short."""
    request = by_type(kind)
    with pytest.raises(ProtocolError) as caught:
        parse_reply(request, reply_to(request, **{field: wrong}))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("kind", [CreateBuffer, GetBuffers])
@pytest.mark.parametrize("offset, size", [(91, 10), (64, 37), (1 << 63, 1), (0, 101), ((1 << 64) - 1, (1 << 64) - 1)])
def test_a_blob_outside_of_the_memory(kind: type, offset: int, size: int) -> None:
    """A blob that would reach past the end of the store's memory is refused: mapping it would crash the reader."""
    request = by_type(kind)
    place = "created" if kind is CreateBuffer else "0"
    with pytest.raises(ProtocolError) as caught:
        parse_reply(request, reply_to(request, **{f"{place}__data_offset": offset, f"{place}__data_size": size}))
    assert str(caught.value) == f"The server placed a blob at {offset}+{size}, outside of its memory of 100."


def test_blobs_that_nobody_asked_for() -> None:
    """Payloads of other blobs than the ones that were asked for are refused, and surplus ones are not even read."""
    tree = {"object_id": 6, "store_fd": 7, "data_offset": 64, "data_size": 10, "map_size": 100}
    with pytest.raises(ProtocolError, match="o0000000000000006, which nobody asked for"):
        parse_reply(GetBuffers([5]), {"type": "get_buffers_reply", "num": 1, "0": tree})
    both = parse_reply(GetBuffers([6]), {"type": "get_buffers_reply", "num": 1 << 60, "0": tree, "1": None})
    assert [payload.blob for payload in both] == [6]


def test_numbers_of_instances_that_are_no_objects() -> None:
    """The cluster's table may hold more than instances; only those are returned."""
    assert parse_reply(ClusterMeta(), {"type": "cluster_meta", "meta": {"i0": {}, "note": 1}}) == {"i0": {}}


# ---- file descriptors


@pytest.mark.parametrize(
    "reply, numbers",
    [
        ({}, ()),
        ({"fd": -1}, ()),
        ({"fd": -1, "fds": []}, ()),
        ({"fd": 7}, (7,)),
        ({"fd": 0}, (0,)),
        ({"fds": [7, 9]}, (7, 9)),
        ({"fd": 5, "fds": [7]}, (5, 7)),
        ({"code": 14, "message": "m", "fd": 7}, (7,)),
        ({"type": "unheard_of", "fds": [1]}, (1,)),
    ],
)
def test_fds_announced(reply: Dict[str, Any], numbers: Tuple[int, ...]) -> None:
    """Any reply may announce fds, also an error or one that is not understood."""
    assert fds_announced(reply) == numbers


@pytest.mark.parametrize(
    "reply",
    [
        {"fd": "7"},
        {"fd": None},
        {"fd": True},
        {"fd": 7.0},
        {"fd": -2},
        {"fd": [7]},
        {"fds": 7},
        {"fds": None},
        {"fds": {"0": 7}},
        {"fds": ["7"]},
        {"fds": [None]},
        {"fds": [True]},
        {"fds": [-1]},
    ],
)
def test_fds_announced_oddly(reply: Dict[str, Any]) -> None:
    """An announcement that makes no sense is refused: nobody could say how many fds to take from the stream."""
    with pytest.raises(ProtocolError, match="The server announced fds as "):
        fds_announced(reply)


# ---- anything

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 12)
    | st.sampled_from([1 << 63, 1 << 64, -1, 0.5, "", "o0000000000000005"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data_size", "data_offset", "map_size", "store_fd", "object_id"]), inner)
        | st.dictionaries(
            st.sampled_from(["o0000000000000005", "instance_id", "memory_usage", "memory_limit", "x"]), inner
        )
    ),
    max_leaves=8,
)
FIELDS = [
    "code",
    "message",
    "fd",
    "fds",
    "id",
    "num",
    "0",
    "1",
    "created",
    "content",
    "meta",
    "is_in_use",
    "exists",
    "version",
    "instance_id",
    "ipc_socket",
    "rpc_endpoint",
]


@given(st.sampled_from(REQUESTS), st.booleans(), st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6))
def test_any_reply(request_: Request[Any], right_type: bool, fields: Dict[str, Any]) -> None:
    """Whatever JSON object comes as a reply: a reading, or an error of ours; never another error."""
    reply = {**reply_to(request_), **fields} if right_type else fields
    try:
        fds_announced(reply)
        parse_reply(request_, reply)
    except VineyardError as error:
        assert str(error)


@pytest.mark.parametrize("kind", [CreateBuffer, GetBuffers])
def test_a_blob_in_a_memory_that_cannot_be(kind: type) -> None:
    """Offsets of files are signed: what lies beyond would be an OverflowError of the first system call."""
    request = by_type(kind)
    place = "created" if kind is CreateBuffer else "0"
    fields = {f"{place}__data_offset": 1 << 63, f"{place}__data_size": 5, f"{place}__map_size": (1 << 64) - 1}
    with pytest.raises(ProtocolError, match="no file is so large"):
        parse_reply(request, reply_to(request, **fields))
