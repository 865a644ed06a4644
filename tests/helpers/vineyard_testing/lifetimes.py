"""Values that are mapped when they are got, and what a store holds of them."""

from __future__ import annotations

from typing import List

import pytest

import vineyard_client as vc

SIZE = 200_000


def buffer(fill: int, size: int = SIZE) -> memoryview:
    """Return a value that is mapped, not copied, when it is got."""
    return memoryview(bytearray([fill]) * size)


def used(client: vc.Client) -> int:
    return client.status().memory_used


def tombstones(client: vc.Client) -> List[vc.ObjectInfo]:
    return list(client.list(deleted=True))


def reuse(client: vc.Client) -> None:
    """Put enough that all of the store's free memory is written."""
    with pytest.raises(vc.StoreFull):
        for _ in range(100):
            client.put(buffer(0xEE, 16 << 20))
