"""Instances that share metadata through etcd: a persisted value is found from any of them, by its id."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Iterator, List

import numpy as np
import pytest
from vineyard_testing import until
from vineyard_testing.cluster import Trio
from vineyard_testing.hosts import Host, Server

import vineyard_client as vc

TIMEOUT = 2.0

# A name that other hosts do not know, and an address that nobody has: what operators may have written into references.
ELSEWHERE = ["a.another-network.invalid:9700", "10.77.0.99:9700", None]


def numbers(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, 3_000_000, dtype=np.uint8)


@pytest.fixture(scope="module")
def cluster(network: List[Host]) -> Iterator[Trio]:
    """Three servers that share metadata; what they call themselves is their host's name, which the others know."""
    url = network[0].serve_etcd()
    options = ["--meta=etcd", f"--etcd_endpoint={url}", "--etcd_prefix=cluster"]
    servers = [host.serve("shared", port=9700, options=options) for host in network]
    yield Trio(*servers)
    for server in servers:
        server.kill()


@pytest.fixture(autouse=True)
def clean(cluster: Trio) -> Iterator[None]:
    """Nothing may be left in any store."""
    yield
    for server in cluster:
        for deleted in (False, True):
            assert server.do(lambda client, deleted=deleted: list(client.list(deleted=deleted))) == []
        assert server.memory_used() == 0


def put(server: Server, value: object, persist: bool = True) -> vc.ObjectRef:
    with server.client() as client:
        return client.put(value, persist=persist)


def seen(server: Server, ref: vc.ObjectRef) -> None:
    """Wait until an instance knows a persisted object: they hear of each other's through etcd."""
    until(lambda: server.do(lambda client: client.exists(replace(ref, endpoint=None))), "the metadata arrive")


def test_status_says_where_metadata_are(cluster: Trio) -> None:
    """The server does not tell; its command line does."""
    assert [server.do(lambda client: client.status().metadata) for server in cluster] == ["etcd"] * 3


@pytest.mark.parametrize("endpoint", ELSEWHERE)
@pytest.mark.parametrize("value", [{"rows": 17}, numbers()], ids=["small", "large"])
def test_a_persisted_value_is_found_by_its_id(cluster: Trio, endpoint: str, value: object) -> None:
    """Even where the reference's endpoint does not lead to it."""
    a, b, _ = cluster
    ref = replace(put(a, value), endpoint=endpoint)
    np.testing.assert_equal(b.do(lambda client: client.get(ref), timeout=TIMEOUT), value)
    np.testing.assert_equal(b.do(lambda client: client.get(ref, replica=False), timeout=TIMEOUT), value)
    assert b.do(lambda client: client.exists(ref), timeout=TIMEOUT)
    assert b.do(lambda client: client.delete(ref), timeout=TIMEOUT)
    assert not a.do(lambda client: client.exists(replace(ref, endpoint=a.endpoint)))


def test_an_endpoint_that_leads_to_another_instance(cluster: Trio) -> None:
    """A name may mean another host here than where the reference was made: then the cluster knows better."""
    a, b, c = cluster
    for wrong in (b.endpoint, c.endpoint):
        ref = replace(put(a, numbers()), endpoint=wrong)
        assert b.do(lambda client, ref=ref: bool((client.get(ref) == numbers()).all()))
        (info,) = b.do(lambda client: list(client.list()))
        assert info.origin == "a:9700"  # by which collect will ask for the original
        assert b.do(lambda client: client.collect()) == []
        assert b.do(lambda client, ref=ref: client.delete(ref))


def test_a_value_that_is_not_persisted_is_reached_by_its_endpoint_only(cluster: Trio) -> None:
    """Nobody else knows of it; the errors tell which of the two ways failed."""
    a, b, _ = cluster
    ref = put(a, numbers(), persist=False)
    with pytest.raises(vc.ObjectNotFound, match="names no host"):
        b.do(lambda client: client.get(replace(ref, endpoint=None)))
    with pytest.raises(vc.MigrationFailed, match="does not resolve"):
        b.do(lambda client: client.get(replace(ref, endpoint=ELSEWHERE[0])), timeout=TIMEOUT)
    assert b.do(lambda client: bool((client.get(ref) == numbers()).all()))
    assert b.do(lambda client: client.delete(ref))


def test_a_listing_shows_what_is_here(cluster: Trio) -> None:
    """The server lists the persisted objects of all instances; a reference made of those would lead nowhere."""
    a, b, _ = cluster
    refs = [put(a, {"rows": 17}), put(a, numbers())]
    for ref in refs:
        seen(b, ref)
    assert [info.ref for info in a.do(lambda client: list(client.list()))] == refs
    assert b.do(lambda client: list(client.list())) == []
    b.do(lambda client: client.get(refs[1]))
    assert [info.origin for info in b.do(lambda client: list(client.list()))] == [a.endpoint]
    assert b.do(lambda client: [client.delete(ref) for ref in refs]) == [True, True]


def test_collect_leaves_the_others_alone(cluster: Trio) -> None:
    """Not even old values, and those of which only the metadata can be seen here, are freed from another instance."""
    a, b, _ = cluster
    refs = [put(a, {"rows": 17}), put(a, numbers())]
    for ref in refs:
        seen(b, ref)
    assert b.do(lambda client: client.collect(older_than=timedelta(0))) == []
    assert all(a.do(lambda client: [client.exists(ref) for ref in refs]))
    assert a.do(lambda client: [client.delete(ref) for ref in refs]) == [True, True]


def test_replicas_are_noted_in_the_cluster(cluster: Trio) -> None:
    """A persisted original knows its replicas, and loses none of its own fields by that."""
    a, b, c = cluster
    ref = put(a, numbers())
    for server in (b, c):
        server.do(lambda client: client.get(replace(ref, endpoint=None)))
    info = a.do(lambda client: client.info(ref))
    assert (info.replicas, info.ref) == (("b", "c"), ref)
    assert a.do(lambda client: client.delete(ref))
    for server in (b, c):
        assert [action.reason for action in server.do(lambda client: client.collect())] == ["original gone"]


def test_its_owner_is_gone(cluster: Trio) -> None:
    """The cluster still knows the value for a while, but nobody has it."""
    a, b, _ = cluster
    ref = put(a, numbers())
    seen(b, ref)
    a.kill()
    with pytest.raises(vc.MigrationFailed, match=r"a:9700.*refused"):
        b.do(lambda client: client.get(replace(ref, endpoint=None)), timeout=TIMEOUT)
    assert b.memory_used() == 0
    a.start()
    again = put(a, numbers())
    assert b.do(lambda client: bool((client.get(again) == numbers()).all()))
    assert b.do(lambda client: client.delete(again))


def test_what_a_server_calls_itself_can_be_set(network: List[Host], cluster: Trio) -> None:
    """Operators who cannot have host names known everywhere give vineyardd an address: MY_HOST_NAME."""
    _, b, _ = cluster
    url = f"http://{network[0].address}:2379"
    options = ["--meta=etcd", f"--etcd_endpoint={url}", "--etcd_prefix=cluster"]
    named = network[0].serve("named", port=9701, options=options, env={"MY_HOST_NAME": network[0].address})
    try:
        with named.client(endpoint=None) as client:
            ref = client.put(numbers(), persist=True)
            assert ref.endpoint == f"{network[0].address}:9701"
        assert b.do(lambda client: bool((client.get(replace(ref, endpoint=None)) == numbers()).all()))
        assert b.do(lambda client: client.delete(ref))
    finally:
        named.kill()
