"""What goes wrong with buckets: who refuses, does not answer, answers late or wrongly; nothing is lost silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Dict, Iterator

import pytest
from vineyard_testing import UNIT, buckets, until
from vineyard_testing.buckets import FaultyService, error_body
from vineyard_testing.tiers import Host, array, same

import vineyard_client as vc
from vineyard_client._tiers import doorbell

pytestmark = pytest.mark.skipif(not buckets.installed(), reason="obstore is not installed (session tiers)")

SLOW_DOWN = (503, error_body("SlowDown", "Please reduce your request rate."))


@pytest.fixture
def service() -> Iterator[FaultyService]:
    with FaultyService() as started:
        yield started


@pytest.fixture
def faulty(service: FaultyService, tmp_path: Path) -> Iterator[Host]:
    """A host whose bucket fails when a test says so; a transfer may take 3 seconds."""
    made = Host(tmp_path, service.bucket.url, service.bucket.options, timeout=3)
    yield made
    service.pause = 0
    made.close()


def run_agent(host: Host, url: str, options: Dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run an agent that cannot work, until it ends."""
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", host.socket, "--tier", url]
    for name, value in options.items():
        command += ["--tier-option", f"{name}={value}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=3 * UNIT, check=False)


REFUSED = {
    "no such bucket": (404, error_body("NoSuchBucket", "The specified bucket does not exist"), "Make the bucket"),
    "wrong key": (403, error_body("InvalidAccessKeyId", "The key does not exist in our records"), "Check the credent"),
    "wrong secret": (403, error_body("SignatureDoesNotMatch", "The signature does not match"), "Check the credentials"),
    "no permission": (403, error_body("AccessDenied", "Access Denied"), "what they allow"),
    "clock": (403, error_body("RequestTimeTooSkewed", "The difference is too large"), "clock of this host is off"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_at_the_start(service: FaultyService, folder_host: Host, kind: str) -> None:
    """An agent that is not let in ends at its start, with the service's words and what to do."""
    status, body, hint = REFUSED[kind]
    service.fault = lambda method, path: (status, body)
    done = run_agent(folder_host, service.bucket.url, service.bucket.options)
    assert done.returncode == 1
    code = body.partition(b"<Code>")[2].partition(b"<")[0].decode()
    assert hint in done.stderr and code in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_later(service: FaultyService, faulty: Host, kind: str) -> None:
    """A service that refuses later fails the put at once; behind, the value waits and is saved when it is let in."""
    status, body, hint = REFUSED[kind]
    faulty.start_agent()
    service.fault = lambda method, path: (status, body)
    with faulty.connect("through") as client:
        with pytest.raises(vc.TierRefused, match=hint):
            client.put(array())
        assert list(client.list()) == [] and faulty.notes("unsaved") == []
    with faulty.connect() as client:
        ref = client.put(array())
        until(lambda: "errors.TierRefused" in faulty.status()["counts"], "the agent has tried")
        assert same(client.get(ref), array()), "what is in memory works"
        assert str(client.saved.where(ref)).startswith("soon: ")  # type: ignore[union-attr]
        service.fault = lambda method, path: None
        faulty.all_saved()
        assert list(service.objects) == [f"/test-bucket/p/{ref.copy}"]


@pytest.mark.parametrize("url", ["s3://test-bucket/p", "s3://test-bucket-that-is-not-there/p"])
@pytest.mark.skipif("moto" not in [service.__name__ for service in buckets.installed()], reason="moto is not installed")
def test_no_bucket_for_real(services: Dict[str, buckets.Bucket], folder_host: Host, url: str) -> None:
    """A service in which the bucket is not there: the agent says so; where it is, the agent lives."""
    options = services["moto"].options
    if "not-there" in url:
        done = run_agent(folder_host, url, options)
        assert done.returncode == 1 and "NoSuchBucket" in done.stderr and "Make the bucket" in done.stderr
    else:
        folder_host.url, folder_host.options = url, options
        folder_host.start_agent()


@pytest.mark.skipif(
    "seaweedfs" not in [service.__name__ for service in buckets.installed()], reason="SeaweedFS is not installed"
)
def test_wrong_credentials_for_real(services: Dict[str, buckets.Bucket], folder_host: Host) -> None:
    """Unknown keys, a wrong secret and a user who may only read: the agent says so and ends."""
    found = services["seaweedfs"]
    for wrong in ({"access_key_id": "nobody"}, {"secret_access_key": "wrong"}, {"access_key_id": "reader"}):
        done = run_agent(folder_host, found.url, {**found.options, **wrong})
        assert done.returncode == 1 and "Check the credentials" in done.stderr, done.stderr


def test_busy_service(service: FaultyService, faulty: Host) -> None:
    """A service that asks for patience is tried again, and the put succeeds."""
    faulty.start_agent()
    left = [3]

    def busy(method: str, path: str) -> object:
        left[0] -= method == "PUT"
        return SLOW_DOWN if method == "PUT" and left[0] >= 0 else None

    service.fault = busy  # type: ignore[assignment]
    with faulty.connect("through") as client:
        ref = client.put(array())
    assert list(service.objects) == [f"/test-bucket/p/{ref.copy}"]


def test_unavailable(service: FaultyService, faulty: Host) -> None:
    """A service that is down for long: through fails in its time, and frees the value; behind waits, and is found."""
    faulty.start_agent()
    service.fault = lambda method, path: SLOW_DOWN
    with faulty.connect("through") as client:
        started = time.monotonic()
        with pytest.raises(vc.TierUnavailable):
            client.put(array())
        assert time.monotonic() - started < 3 * UNIT
        assert list(client.list()) == [] and faulty.notes("unsaved") == []
    with faulty.connect() as client:
        refs = [client.put(array(1, seed)) for seed in range(3)]
        until(lambda: faulty.status()["counts"]["errors.TierUnavailable"] > 2, "the agent has tried", 2 * UNIT)
        unsaved = faulty.status()["unsaved"]
        assert unsaved["number"] == 3 and unsaved["bytes"] == sum(ref.size for ref in refs) and unsaved["age"] > 0
        assert faulty.status()["last_error"]
        assert all(same(client.get(ref), array(1, seed)) for seed, ref in enumerate(refs))
        service.fault = lambda method, path: None
        faulty.all_saved()
        assert len(service.objects) == 3


def test_hanging_service(service: FaultyService, faulty: Host) -> None:
    """A service that never answers costs the time that a transfer may take, and no more."""
    faulty.start_agent()
    service.pause = 60
    with faulty.connect("through") as client:
        started = time.monotonic()
        with pytest.raises(vc.TierUnavailable):
            client.put(array())
        assert time.monotonic() - started < 2 * UNIT
        assert list(client.list()) == []


def test_slow_service(service: FaultyService, faulty: Host) -> None:
    """A service that answers, but slowly, is told of when the agent starts and by check; a value is saved all the same.

    A transfer that needs longer than it may have names the option.
    """
    service.pause = 1.2  # of the 3 seconds that each request has
    faulty.start_agent()
    log = faulty.log.read_text()
    assert "is slow" in log and "(option durability)" in log and "(option timeout)" in log, log
    with faulty.connect("through") as client:
        assert client.saved is not None
        assert [finding.kind for finding in client.saved.check()] == ["slow"]
        ref = client.put(array())
        assert list(service.objects) == [f"/test-bucket/p/{ref.copy}"]
        service.pause = 4.0
        with pytest.raises(vc.TierUnavailable, match=r"give each transfer more time \(option timeout\)"):
            client.put(array())
        assert same(client.get(ref), array())


def test_readers_wait_for_no_backlog(service: FaultyService, faulty: Host) -> None:
    """What somebody waits for is not behind what nobody waits for: a load and a put that is to be safe come first."""
    faulty.start_agent()
    with faulty.connect("through") as first:
        wanted = first.put(array(1, 99))
    faulty.restart()
    until(lambda: faulty.status()["store"], "the agent has the store")
    with faulty.connect("through") as through, faulty.connect() as client:
        service.pause = 1.0
        for seed in range(60):
            client.put(array(0.3, seed))
        assert same(client.get(wanted), array(1, 99))
        safe = through.put(array(0.3, 99))
        assert f"/test-bucket/p/{safe.copy}" in service.objects
        assert faulty.notes("unsaved"), "the others wait"
        service.pause = 0.0
        faulty.all_saved()


# In the words of the services' documentation: a clock that is off is told from a key that is wrong.
CLOCKS = {
    "S3": "RequestTimeTooSkewed: The difference between the request time and the current time is too large",
    "S3, later": "SignatureDoesNotMatch: Signature expired: 20261125T000000Z is now earlier than 20261125T001500Z",
    "S3, earlier": "SignatureDoesNotMatch: Signature not yet current: 20261125T010000Z is still later",
    "Azure": "AuthenticationFailed: Request date header too old: 'Wed, 25 Nov 2026 00:00:00 GMT'",
    "Google": "invalid_grant: Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable "
    "timeframe. Check your iat and exp values in the JWT claim.",
}


@pytest.mark.parametrize("of", CLOCKS)
def test_clock_in_the_words_of_a_service(of: str) -> None:
    """Whoever says it, the hint is to set the clock."""
    from vineyard_client._tiers.buckets import error_for

    error = error_for("It cannot be saved", RuntimeError(f"403 Forbidden: {CLOCKS[of]}"))
    assert isinstance(error, vc.TierRefused) and "clock of this host is off" in error.hint


def test_no_credentials(service: FaultyService, faulty: Host) -> None:
    """Where nobody gave credentials and the host has no role, that is what the agent says."""
    from vineyard_client._tiers.buckets import error_for

    for words in (
        "Error performing PUT http://169.254.169.254/latest/api/token in 4.1ms - error sending request",
        "Error performing token request: Error performing GET http://metadata.google.internal/computeMetadata/v1/",
    ):
        error = error_for("It cannot be saved", RuntimeError(words))
        assert isinstance(error, vc.TierUnavailable) and "Give the agent credentials" in error.hint


def test_options_of_the_client(service: FaultyService) -> None:
    """What is an option of the HTTP client, such as a proxy, is handed to it; what is none is refused."""
    from vineyard_client._tiers.urls import open_tier

    bucket = service.bucket
    open_tier(bucket.url, options={**bucket.options, "allow_http": "true", "proxy_excludes": "127.0.0.1"}).check()
    with pytest.raises(vc.TierRefused, match="options of the tier"):
        open_tier("gs://bucket/p", options={"endpoint": "http://127.0.0.1:1"})
    with pytest.raises(vc.TierRefused, match="options of the tier"):
        open_tier(bucket.url, options={**bucket.options, "no_such_option": "x"})


def test_full_bucket(service: FaultyService, faulty: Host) -> None:
    """A bucket that is full fails the put that was to be safe, and says what to do; behind, the value waits."""
    faulty.start_agent()
    service.fault = lambda method, path: (507, error_body("QuotaExceeded", "The quota is exceeded"))
    with faulty.connect("through") as client, pytest.raises(vc.TierFull, match="raise the quota"):
        client.put(array())
    with faulty.connect() as client:
        ref = client.put(array())
        until(lambda: "errors.TierFull" in faulty.status()["counts"], "the agent has tried", 2 * UNIT)
        service.fault = lambda method, path: None
        faulty.all_saved()
        assert same(client.get(ref), array())


@pytest.mark.parametrize("damage", ["bit", "cut", "short", "no checksum", "gone"])
def test_damaged_object(service: FaultyService, faulty: Host, damage: str) -> None:
    """An object that is not what was saved is an error, never a wrong value, and leaves nothing here."""
    faulty.start_agent()
    with faulty.connect("through") as client:
        ref = client.put(array())
        faulty.restart()
        key = f"/test-bucket/p/{ref.copy}"
        data, crc = service.objects[key]
        if damage == "bit":
            service.objects[key] = (data[:-100] + bytes([data[-100] ^ 1]) + data[-99:], crc)
        elif damage == "cut":
            service.cut = 10_000
        elif damage == "short":
            service.objects[key] = (data[:-1], crc)
        elif damage == "no checksum":
            service.objects[key] = (data, "")
        else:
            del service.objects[key]
        kinds = {"cut": vc.TierUnavailable, "gone": vc.ObjectNotFound}
        with pytest.raises(kinds.get(damage, vc.ObjectCorrupted)):
            client.get(ref)
        assert list(client.list()) == [] and faulty.notes("loaded") == faulty.notes("overflow") == []
        assert client.status().memory_used == 0


def test_deleted_while_the_service_is_down(service: FaultyService, faulty: Host) -> None:
    """What is deleted while the service is down, or no agent is there, is deleted from the bucket afterwards."""
    faulty.start_agent()
    with faulty.connect("through") as client:
        first, second = client.put(array()), client.put(array(1, 1))
        service.fault = lambda method, path: SLOW_DOWN
        assert client.delete(first)
        faulty.end_agent(signal.SIGKILL)
        assert client.delete(second)
        assert len(service.objects) == 2 and len(faulty.notes("deleted")) == 2
        service.fault = lambda method, path: None
        faulty.start_agent()
        until(lambda: not service.objects and not faulty.notes("deleted"), "both are deleted")


def test_agent_killed_in_the_middle(service: FaultyService, faulty: Host) -> None:
    """A put that waits for an agent which is killed goes on with the next one; so does a get."""
    faulty.timeout = 3 * UNIT  # for which the next one is waited for
    faulty.start_agent()
    service.pause = 1.0
    done = []

    def put() -> None:
        with faulty.connect("through") as client:
            done.append(client.put(array()))

    def replaced(run: threading.Thread) -> None:
        before = len(service.requests)
        run.start()
        until(lambda: len(service.requests) > before, "the agent is at work")
        faulty.end_agent(signal.SIGKILL)
        service.pause = 0.0
        faulty.start_agent(wait=False)
        run.join(3 * UNIT)

    replaced(threading.Thread(target=put))
    (ref,) = done
    until(lambda: doorbell.ring(faulty.socket), "the agent listens")
    faulty.restart()
    until(lambda: faulty.status()["store"], "the agent has the store")
    service.pause = 1.0

    def get() -> None:
        with faulty.connect("through") as client:
            done.append(client.get(ref))

    replaced(threading.Thread(target=get))
    assert same(done[1], array())


def test_no_agent_any_more(service: FaultyService, faulty: Host) -> None:
    """Without an agent, what needs one waits for the time that it may take, and then says how to start one."""
    faulty.start_agent()
    with faulty.connect("through") as client:
        ref = client.put(array())
        faulty.restart()
        faulty.end_agent(signal.SIGKILL)
        for work in (lambda: client.get(ref), lambda: client.put(array())):
            started = time.monotonic()
            with pytest.raises(vc.TierUnavailable, match="vineyard-client agent --socket"):
                work()
            assert time.monotonic() - started > 2
        assert list(client.list()) == []


def test_expired_in_the_bucket(service: FaultyService, faulty: Host) -> None:
    """A value whose copy a rule of the bucket removed stays in memory, and is saved again before it may leave."""
    faulty.start_agent()
    with faulty.connect("through") as client:
        ref = client.put(array(4))
        service.objects.clear()
        more = [client.put(array(4, seed)) for seed in range(1, 20)]
        assert same(client.get(ref), array(4))
        faulty.all_saved()
        until(lambda: f"/test-bucket/p/{ref.copy}" in service.objects, "it is saved again")
        assert all(same(client.get(ref), array(4, seed)) for seed, ref in enumerate(more, 1))
        service.objects.clear()
        faulty.restart()
        with pytest.raises(vc.ObjectNotFound, match="so is its copy"):
            client.get(more[0])


def test_drains_when_the_service_comes_back(service: FaultyService, faulty: Host) -> None:
    """An agent that is told to end while the service is down goes on trying, until it is killed; the notes stay."""
    faulty.start_agent()
    assert faulty.agent is not None
    with faulty.connect() as client:
        service.fault = lambda method, path: SLOW_DOWN
        first = client.put(array())
        until(lambda: service.requests, "the agent has tried")
        faulty.agent.send_signal(signal.SIGTERM)
        until(lambda: not os.path.exists(doorbell.doorbell_path(faulty.socket)), "the door is closed")
        service.fault = lambda method, path: None
        assert faulty.agent.wait(3 * UNIT) == 0, faulty.log.read_text()
        assert list(service.objects) == [f"/test-bucket/p/{first.copy}"]


def test_refused_while_draining(service: FaultyService, faulty: Host) -> None:
    """An agent that is told to end and is not let in does not try for ever: it says how many values are not saved."""
    faulty.start_agent()
    assert faulty.agent is not None
    with faulty.connect() as client:
        service.fault = lambda method, path: (403, error_body("AccessDenied", "Access Denied"))
        client.put(array())
        faulty.agent.send_signal(signal.SIGTERM)
        assert faulty.agent.wait(3 * UNIT) == 1
        assert "1 values are not saved" in faulty.log.read_text()
        assert len(faulty.notes("unsaved")) == 1
        service.fault = lambda method, path: None
        faulty.start_agent()
        faulty.all_saved()
