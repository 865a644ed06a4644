"""What every tier does alike: a folder, and the buckets of those services that are installed (session ``tiers``)."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Dict, List

import pytest
from vineyard_testing import buckets

import vineyard_client as vc
from vineyard_client._tiers.contract import Tier
from vineyard_client._tiers.keys import make_key
from vineyard_client._tiers.urls import open_tier

SERVICES = [service.__name__ for service in buckets.installed()]


@pytest.fixture(params=["folder", *SERVICES])
def tier(request: pytest.FixtureRequest, tmp_path: Path, services: Dict[str, buckets.Bucket]) -> Tier:
    if request.param == "folder":
        return open_tier(str(tmp_path / "values"))
    bucket = services[request.param]
    return open_tier(f"{bucket.url}/{os.urandom(4).hex()}", timeout=20, options=bucket.options)


def key(*parts: str) -> str:
    return make_key(parts, os.urandom(16).hex())


def loaded(tier: Tier, name: str, size: int) -> bytes:
    found = bytearray(size)
    tier.load(name, size, lambda at, piece: found.__setitem__(slice(at, at + len(piece)), piece))
    return bytes(found)


PARTS: List[List[str]] = [
    [],
    ["plain"],
    ["production", "etl", "manual__2026-11-25T00:00:00+00:00", "load", "-1", "return_value"],
    ["a%2Fb", "c/d", "..", ".", "", " ", "ü€", "\udce4", "\n", "=?&#*\\\"'<>|"],
    ["x" * 250, "ü" * 250],
]


@pytest.mark.parametrize("parts", PARTS, ids=range(len(PARTS)))
def test_keys(tier: Tier, parts: List[str]) -> None:
    """Whatever the parts, an object is found under its key, in a listing of the same key, and under no other."""
    name = key(*parts)
    tier.save(name, [b"bytes"])
    assert loaded(tier, name, 5) == b"bytes"
    assert [entry.key for entry in tier.list("")] == [name]
    tier.delete([name])
    assert tier.size(name) is None


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_001])
def test_sizes(tier: Tier, size: int) -> None:
    """An object comes back as it was saved, in one piece or several."""
    data = random.Random(1).randbytes(size) if hasattr(random, "randbytes") else os.urandom(size)
    one, several = key("one"), key("several")
    tier.save(one, [memoryview(data)])
    tier.save(several, [data[: size // 3], memoryview(data)[size // 3 :], b""])
    for name in (one, several):
        assert tier.size(name) == size
        assert loaded(tier, name, size) == data
    tier.delete([one, several])


def test_missing(tier: Tier) -> None:
    """What is not there has no size, cannot be read or linked, and is deleted without an error."""
    name = key("missing")
    assert tier.size(name) is None
    tier.delete([name, key("missing")])
    with pytest.raises(vc.ObjectNotFound):
        loaded(tier, name, 5)
    with pytest.raises(vc.ObjectNotFound):
        fd = tier.open(name, 5)
        if fd is None:  # what cannot be mapped says so without looking
            raise vc.ObjectNotFound("")
    with pytest.raises(vc.ObjectNotFound):
        tier.link(name, key("other"))


def test_wrong_size(tier: Tier) -> None:
    """An object of another length than the reference says is damaged."""
    name = key("short")
    tier.save(name, [b"12345"])
    for size in (4, 6):
        with pytest.raises(vc.ObjectCorrupted):
            loaded(tier, name, size)
    tier.delete([name])


def test_replaced(tier: Tier) -> None:
    """A second save takes the place of the first."""
    name = key("twice")
    tier.save(name, [b"first"])
    tier.save(name, [b"second"])
    assert loaded(tier, name, 6) == b"second"
    tier.delete([name])


def test_linked(tier: Tier) -> None:
    """Either name of an object can be deleted without the other; linking again changes nothing."""
    old, new = key("old"), key("new:+%")
    tier.save(old, [b"bytes"])
    tier.link(old, new)
    tier.link(old, new)
    tier.delete([old])
    assert loaded(tier, new, 5) == b"bytes"
    tier.delete([new])
    assert list(tier.list("")) == []


def test_listing(tier: Tier) -> None:
    """A listing has whole parts of keys: those of one deployment, and not of another whose name begins alike."""
    names = sorted(key("deployment", "dag") for _ in range(12))
    other = key("deployment2", "dag")
    for name in (*names, other):
        tier.save(name, [b"bytes"])
    assert sorted(entry.key for entry in tier.list("deployment")) == names
    assert sorted(entry.key for entry in tier.list("deployment/dag/")) == names
    assert list(tier.list("nobody")) == []
    entry = next(iter(tier.list("deployment2")))
    assert (entry.key, entry.size) == (other, 5)
    tier.delete([*names, other])
    assert list(tier.list("")) == []


def test_check(tier: Tier) -> None:
    """The round trip works, and leaves nothing."""
    tier.check()
    assert list(tier.list("")) == []


def test_no_key(tier: Tier) -> None:
    """What is no key never reaches the service or the disk."""
    for name in ("../../" + "0" * 32, "a//" + "0" * 32, "/" + "0" * 32, "0" * 32, "a/b", ""):
        for use in (lambda: tier.size(name), lambda: tier.delete([name]), lambda: tier.save(name, [b""])):  # noqa: B023
            with pytest.raises(ValueError, match="no key"):
                use()
