"""Two hosts with an agent each, and a bucket on a third one; the first one is taken down between put and get."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Iterator, List, NamedTuple

import pytest
from vineyard_testing import UNIT, buckets, until
from vineyard_testing.hosts import Host, Network, Server, unavailable
from vineyard_testing.tiers import array, same

import vineyard_client as vc
from vineyard_client._tiers import doorbell

pytestmark = [
    pytest.mark.long,
    pytest.mark.integration,
    pytest.mark.skipif(not buckets.installed() or not buckets.WEED.exists(), reason="SeaweedFS is not installed"),
]


class Pair(NamedTuple):
    """The two, and where values last."""

    first: Server
    second: Server
    bucket: buckets.Bucket

    def tier(self, durability: str) -> vc.TierOptions:
        return vc.TierOptions(self.bucket.url, durability=durability, reserve=0.0, timeout=2 * UNIT)


def serve_bucket(host: Host, folder: Path) -> buckets.Bucket:
    """Run SeaweedFS on a host, and return when it takes an object."""
    config = folder / "s3.json"
    keys = [{"accessKey": buckets.ACCESS, "secretKey": buckets.SECRET}]
    config.write_text(json.dumps({"identities": [{"name": "t", "credentials": keys, "actions": ["Admin"]}]}))
    command = [str(buckets.WEED), "server", f"-dir={folder}", f"-ip={host.address}", f"-ip.bind={host.address}", "-s3"]
    command += ["-s3.port=8333", f"-s3.config={config}", "-volume.max=0", "-s3.iam=false"]
    host.popen([*command, "-master.volumeSizeLimitMB=256"], str(folder / "weed.log"))
    options = {
        "endpoint": f"http://{host.address}:8333",
        "region": "us-east-1",
        "access_key_id": buckets.ACCESS,
        "secret_access_key": buckets.SECRET,
        "virtual_hosted_style_request": "false",
    }
    bucket = buckets.Bucket("s3://test-bucket/values", options)
    code = "import json, sys; from vineyard_client._tiers.urls import open_tier; "
    code += "open_tier(sys.argv[1], timeout=3, options=json.loads(sys.argv[2])).check()"
    trial = host.command(sys.executable, "-c", code, bucket.url, json.dumps(options))

    def works() -> bool:
        return subprocess.run(trial, capture_output=True, check=False).returncode == 0

    until(works, "SeaweedFS takes an object", 6 * UNIT)
    return bucket


def run_agent(server: Server, bucket: buckets.Bucket) -> None:
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", server.socket, "--tier", bucket.url]
    for name, value in bucket.options.items():
        command += ["--tier-option", f"{name}={value}"]
    server.host.popen([*command, "--reserve", "0", "--timeout", "20"], server.socket + ".agent.out")
    until(lambda: doorbell.ring(server.socket), "the agent listens", 3 * UNIT)


@pytest.fixture
def pair() -> Iterator[Pair]:
    reason = unavailable()
    if reason:
        pytest.skip(f"needs hosts: {reason}")
    with tempfile.TemporaryDirectory(prefix="vyt-") as folder, Network(Path(folder), ["a", "b", "s"]) as (a, b, s):
        (s.folder / "data").mkdir()
        bucket = serve_bucket(s, s.folder / "data")
        found = Pair(a.serve(size="64Mi"), b.serve(size="64Mi"), bucket)
        for server in (found.first, found.second):
            run_agent(server, bucket)
        yield found


def saved_here(server: Server) -> bool:
    status = doorbell.ask(server.socket, {"do": "status"}, UNIT)
    return status["unsaved"]["number"] == 0


@pytest.mark.parametrize("durability", ["through", "behind"])
@pytest.mark.parametrize("how", ["its plug is pulled", "everything on it is killed"])
def test_first_host_lost(pair: Pair, durability: str, how: str) -> None:
    """A value that was saved outlives its host; it is brought to the other one once, for all who read it there."""
    tier = pair.tier(durability)
    refs: List[vc.ObjectRef] = pair.first.do(
        lambda client: [client.put(array(5, seed)) for seed in range(3)], tier=tier
    )
    until(lambda: saved_here(pair.first), "all is saved", 3 * UNIT)
    if how == "its plug is pulled":
        pair.first.host.cut()
    else:
        pair.first.host.close()
    started = time.monotonic()
    for seed, ref in enumerate(refs):
        assert pair.second.do(lambda client, ref=ref, seed=seed: same(client.get(ref), array(5, seed)), tier=tier)  # type: ignore[misc]
    assert time.monotonic() - started < 4 * UNIT
    before = doorbell.ask(pair.second.socket, {"do": "status"}, UNIT)["counts"]["loaded"]
    assert before == 3
    assert pair.second.do(lambda client: same(client.get(refs[0]), array(5, 0)), tier=tier)
    assert doorbell.ask(pair.second.socket, {"do": "status"}, UNIT)["counts"]["loaded"] == 3, "it was here already"
    for ref in refs:
        pair.second.do(lambda client, ref=ref: _deleted(client, ref), tier=tier)  # type: ignore[misc]
    left = pair.second.do(lambda client: [copy.key for copy in client.saved.list()], tier=tier)  # type: ignore[union-attr]
    assert left == []


def _deleted(client: vc.Client, ref: vc.ObjectRef) -> None:
    with suppress(vc.MigrationFailed):  # its host cannot be asked, and its copy is gone all the same
        client.delete(ref)


def test_backlog_lost_with_the_host(pair: Pair) -> None:
    """What was only noted when its host was lost is gone; the error says so in seconds, and what to do."""
    tier = pair.tier("behind")
    agents = [pid for pid in pair.first.host.processes() if pid != pair.first.pid]
    for pid in agents:
        subprocess.run(["kill", "-STOP", str(pid)], check=True)
    ref = pair.first.do(lambda client: client.put(array(2)), tier=tier)
    where = pair.first.do(lambda client: str(client.saved.where(ref)), tier=tier)  # type: ignore[union-attr]
    assert where.startswith("soon: ")
    pair.first.host.close()
    started = time.monotonic()
    with pytest.raises(vc.MigrationFailed, match=r"Nor is its copy .* If its host is lost, run again"):
        pair.second.do(lambda client: client.get(ref), tier=tier)
    assert time.monotonic() - started < 2 * UNIT


def test_read_from_its_host_while_it_lives(pair: Pair) -> None:
    """While its host lives, a value that is not saved yet comes from there."""
    tier = pair.tier("behind")
    agents = [pid for pid in pair.first.host.processes() if pid != pair.first.pid]
    for pid in agents:
        subprocess.run(["kill", "-STOP", str(pid)], check=True)
    ref = pair.first.do(lambda client: client.put(array(2)), tier=tier)
    assert pair.second.do(lambda client: same(client.get(ref), array(2)), tier=tier)
