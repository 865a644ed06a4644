"""``handover``: arguments and results of a function in another interpreter, in a script as Airflow writes it."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Tuple, Union

import numpy as np
import pytest

import vineyard_client as vc
from vineyard_client import handover

pytestmark = pytest.mark.integration

LARGE = 1 << 20

SCRIPT = """
import sys
import vineyard_client.handover
with open(sys.argv[1], "rb") as file:
    arguments = vineyard_client.handover.load(file)
result = (lambda {name}: {body})(*arguments)
with open(sys.argv[2], "wb") as file:
    vineyard_client.handover.dump(result, file)
"""


class Standing:
    """Stands for an argument."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Tuple[Any, ...]:
        return handover.take, (self.text,)


@pytest.fixture
def here(client: vc.Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be the other interpreter."""
    monkeypatch.setenv(handover.ENVIRONMENT, handover.Terms(socket=client.socket).to_text())
    yield
    while handover._clients:
        handover._clients.popitem()[1].close()


@pytest.fixture
def elsewhere(server: Any, tmp_path: Path) -> Any:
    """Return a function that runs an expression of ``x`` in another process, and what it wrote."""

    def run(body: str, argument: object, **terms: Any) -> bytes:
        given, script, returned = tmp_path / "in", tmp_path / "script.py", tmp_path / "out"
        given.write_bytes(pickle.dumps([argument]))
        script.write_text(SCRIPT.format(name="x", body=body))
        said = handover.Terms(**{"socket": server.socket, **terms})
        env = {**os.environ, handover.ENVIRONMENT: said.to_text()}
        done = subprocess.run([sys.executable, str(script), str(given), str(returned)], env=env, stderr=subprocess.PIPE)
        assert done.returncode == 0, done.stderr.decode()
        return returned.read_bytes()

    return run


def read(client: vc.Client, data: bytes) -> object:
    """Return the value of what another process wrote."""
    received: Union[vc.ObjectRef, bytes, None] = handover.received(data)
    assert received is not None
    return client.get(received) if isinstance(received, vc.ObjectRef) else vc.loads(received)


def test_large_values_travel_as_references_both_ways(client: vc.Client, elsewhere: Any) -> None:
    ref = client.put(bytearray(LARGE))
    data = elsewhere("x + b'1'", Standing(handover.argument(ref)), labels={"dag_id": "etl"})
    result = handover.received(data)
    assert isinstance(result, vc.ObjectRef)
    assert client.get(result) == bytearray(LARGE) + b"1"
    assert client.info(result).labels == {"dag_id": "etl"}
    assert client.exists(ref)


def test_an_argument_is_mapped_not_copied(client: vc.Client, elsewhere: Any) -> None:
    ref = client.put(np.zeros(64 * LARGE, "u1"))
    body = "[line.split()[0].split('-') for line in open('/proc/self/maps') if 'memfd:vineyard' in line]"
    data = elsewhere(body, Standing(handover.argument(ref)))
    found: Any = read(client, data)
    assert any(int(end, 16) - int(start, 16) >= 64 * LARGE for start, end in found)


def test_small_results_and_those_without_a_store_are_in_the_file(client: vc.Client, elsewhere: Any) -> None:
    assert read(client, elsewhere("(1, {x})", 2)) == (1, {2})
    data = elsewhere("bytearray(1 << 20)", 2, socket="/nobody/listens.sock")
    assert isinstance(handover.received(data), bytes)
    assert vc.loads(handover.received(data)) == bytearray(LARGE)  # type: ignore[arg-type]
    assert len(elsewhere("bytearray(1 << 20)", 2, limit=None)) > LARGE
    assert list(client.list()) == []


def test_what_was_put_for_one_call_goes_when_it_is_read(client: vc.Client, elsewhere: Any) -> None:
    ref = client.put(bytearray(LARGE))
    assert read(client, elsewhere("len(x)", Standing(handover.argument(ref, once=True)))) == LARGE
    assert not client.exists(ref)


def test_an_argument_that_is_gone_is_an_error_that_says_so(client: vc.Client, here: None) -> None:
    ref = client.put(bytearray(LARGE))
    client.delete(ref)
    with pytest.raises(vc.ObjectNotFound):
        handover.load(io.BytesIO(pickle.dumps(Standing(handover.argument(ref)))))


def test_members_that_are_objects_of_their_own_come_back(client: vc.Client, here: None) -> None:
    part, whole = client.put(bytearray(LARGE)), client.put({"a": None, "b": 1})
    assert handover.take(handover.argument(whole, {"a": part})) == {"a": bytearray(LARGE), "b": 1}


def test_what_the_codec_refuses_is_pickled(client: vc.Client) -> None:
    file = io.BytesIO()
    handover.dump(print, file)
    assert handover.received(file.getvalue()) is None
    assert pickle.loads(file.getvalue()) is print


def test_a_forged_reference_is_refused() -> None:
    with pytest.raises(vc.InvalidReference):
        handover.received(b'{"vineyard_client": {"v": 1}}')


def test_terms_of_another_generation_are_refused_and_unknown_ones_left_out() -> None:
    terms = handover.Terms(socket="/s", allowed_classes=("a.b",), labels={"x": "y"})
    assert handover.Terms.from_text(terms.to_text()).to_text() == terms.to_text()
    assert handover.Terms.from_text('{"v": 1, "later": 2}') == handover.Terms()
    with pytest.raises(vc.UnsupportedVersion):
        handover.Terms.from_text('{"v": 2}')
