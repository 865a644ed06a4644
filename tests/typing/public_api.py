"""A typed use of core's public names: mypy reads it in ``nox -s types``, nothing runs it.

Whoever uses the package with a type checker sees these types; a change here is a change for them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from typing_extensions import assert_type

import vineyard_client as vc


def clients(path: str) -> None:
    """Connect, with every option, and look after servers."""
    with vc.connect(path, timeout=None, allowed_classes=["mypkg.*"], endpoint="host:9600", size="1Gi") as client:
        assert_type(client, vc.Client)
    with vc.EmbeddedServer(size=1 << 30) as server:
        assert_type(server.socket, str)
    vc.ensure_server(path, size=None)
    assert_type(vc.parse_size("1Gi"), int)
    assert_type(vc.stop_server(path), int)


def values(client: vc.Client, value: object) -> None:
    """Put, get and look."""
    ref = client.put(value, labels={"key": "text"}, persist=True)
    assert_type(ref, vc.ObjectRef)
    assert_type(client.get(ref), object)
    assert_type(client.migrate(ref), vc.ObjectRef)
    assert_type(client.reference(ref.id), vc.ObjectRef)
    assert_type(client.exists(ref), bool)
    assert_type(client.delete(ref), bool)
    with client.create(100) as draft:
        assert_type(draft.ref, Optional[vc.ObjectRef])


def values_as_bytes(client: vc.Client, value: object) -> None:
    """Do without a store, or decide by the size."""
    data = vc.dumps(value, allowed_classes=["mypkg.*"])
    assert_type(data, bytes)
    assert_type(vc.loads(memoryview(data), allowed_classes=["mypkg.*"]), object)
    with vc.encode(value) as encoded:
        assert_type(encoded, vc.EncodedValue)
        assert_type((encoded.type, encoded.summary, encoded.size), Tuple[str, str, int])
        assert_type(encoded.to_bytes() if encoded.size < 4096 else client.put(encoded), Union[bytes, vc.ObjectRef])


def explanations(value: object) -> None:
    """Ask beforehand."""
    explanation = vc.explain(value, allowed_classes=["mypkg.*"], passive_classes=False)
    assert_type(explanation, vc.Explanation)
    assert_type((explanation.arrives, explanation.type, str(explanation)), Tuple[bool, str, str])
    assert_type((explanation.types, explanation.patterns), Tuple[Mapping[str, int], Tuple[str, ...]])
    for refusal in explanation.refusals:
        assert_type(refusal, vc.Refusal)
        assert_type((refusal.name, refusal.where, refusal.pattern, refusal.remedy), Tuple[str, str, str, str])


def references(ref: vc.ObjectRef) -> None:
    """Take a reference through JSON."""
    assert_type(ref.to_json(), Dict[str, Any])
    assert_type(vc.ObjectRef.from_json(ref.to_json()), vc.ObjectRef)
    assert_type((ref.id, ref.token, ref.endpoint, ref.type, ref.size), Tuple[str, str, Optional[str], str, int])


def store(client: vc.Client) -> None:
    """Look into the store and free what is old."""
    for info in client.list(labels={"key": "text"}, deleted=True):
        assert_type(info, vc.ObjectInfo)
        assert_type((info.labels, info.created), Tuple[Mapping[str, str], datetime])
    assert_type(client.collect(older_than=timedelta(days=7), dry_run=True), List[vc.Collectable])
    assert_type(client.status().memory_used, int)


def errors() -> None:
    """Errors have what they know as attributes, and are Python's own, too."""
    try:
        vc.connect()
    except vc.StoreFull as error:
        assert_type((error.what, error.hint, error.requested, error.limit), Tuple[str, str, int, Optional[int]])
    except vc.UnsafeType as error:
        assert_type(error.name, str)
    not_found: KeyError = vc.ObjectNotFound("")
    refused: ConnectionError = vc.ConnectionFailed("")
    late: TimeoutError = vc.DeadlineExceeded("")
    assert not_found and refused and late
