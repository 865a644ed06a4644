"""Each service that is installed (session ``tiers``), from end to end: saved, loaded, listed, deleted, and refused."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator

import pytest
from vineyard_testing import UNIT, buckets, until
from vineyard_testing.tiers import Host, array, same

import vineyard_client as vc

SERVICES = [service.__name__ for service in buckets.installed()]

pytestmark = pytest.mark.skipif(not SERVICES, reason="no service is installed (session tiers)")


@pytest.fixture(params=SERVICES)
def host(request: pytest.FixtureRequest, tmp_path: Path, services: Dict[str, buckets.Bucket]) -> Iterator[Host]:
    bucket = services[request.param]
    made = Host(tmp_path, f"{bucket.url}/{os.urandom(4).hex()}", bucket.options)
    yield made
    made.close()


def test_from_end_to_end(host: Host) -> None:
    """What is put, behind or through, small or in several parts, outlives the store, and goes with its copy."""
    host.start_agent()
    values = ["text", array(0.05), array(3), array(25)]
    with host.connect() as client, host.connect("through") as through:
        refs = [client.put(value, path=("a dag", "ü:+%")) for value in values]
        refs.append(through.put(array(1, 1), same_as=through.put(array(1, 1))))
        host.all_saved()
        assert client.saved is not None
        assert {copy.key for copy in client.saved.list("a dag")} == {ref.copy for ref in refs[:4]}
        assert client.saved.check() == []
        host.restart()
        assert client.get(refs[0]) == "text"
        for ref, value in zip(refs[1:], [*values[1:], array(1, 1)]):
            assert same(client.get(ref), value)  # type: ignore[arg-type]
        for ref in refs:
            assert client.delete(ref)
        assert len(host.keys()) == 1, "of two that share memory, the other has a copy of its own"
        client.saved.delete(client.saved.list())
    assert host.keys() == [] and host.notes("unsaved") == host.notes("loaded") == []


def test_the_service_stops_and_comes_back(host: Host, tmp_path: Path) -> None:
    """While a service is away, what is in memory works and the rest waits; nothing is lost."""
    with host.connect() as client:
        refs = [client.put(array(1, seed)) for seed in range(3)]
        known = host.options
        # Nobody listens there.
        host.options = {name: value.replace("//127.0.0.1", "//127.0.0.9") for name, value in known.items()}
        host.timeout = 3
        host.start_agent()
        until(lambda: "errors.TierUnavailable" in host.status()["counts"], "the agent has tried", 3 * UNIT)
        assert "does not work yet" in host.log.read_text()
        assert all(same(client.get(ref), array(1, seed)) for seed, ref in enumerate(refs))
        host.end_agent(9)
        host.options = known
        host.start_agent()
        host.all_saved()
        assert host.keys() == sorted(str(ref.copy) for ref in refs)


WRONG = {
    "moto": {"no bucket": ("s3://not-there/p", {})},
    "google": {
        "no bucket": ("gs://not-there/p", {}),
        "no service account": ("", {"service_account_key": "{}"}),
    },
    "seaweedfs": {"secret": ("", {"secret_access_key": "wrong"})},
    "azurite": {
        "no container": ("az://not-there/p", {}),
        "key": ("", {"account_key": base64.b64encode(b"wrong" * 12).decode()}),
        "no key at all": ("", {"account_key": "%%"}),
        "account": ("", {"account_name": "nobody"}),
    },
}


@pytest.mark.parametrize(("kind", "how"), [(kind, how) for kind in SERVICES for how in WRONG[kind]])
def test_refused(folder_host: Host, services: Dict[str, buckets.Bucket], kind: str, how: str) -> None:
    """The agent says at its start what the service says, and what to do; a client's check says the same."""
    url, wrong = WRONG[kind][how]
    bucket = services[kind]
    options = {**bucket.options, **wrong}
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", folder_host.socket]
    for name, value in options.items():
        command += ["--tier-option", f"{name}={value}"]
    command += ["--tier", url or bucket.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * UNIT, check=False)
    hints = ("Make the bucket, or correct the URL", "Check the credentials that the agent has", "options of the tier")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert any(hint in done.stderr for hint in hints), done.stderr
    tier = vc.TierOptions(url or bucket.url, durability="through", timeout=2.0)
    with vc.Client(folder_host.socket, tier=tier) as client, pytest.raises(vc.TierUnavailable, match="agent"):
        client.put(array())
