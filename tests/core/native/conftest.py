"""A store of one object in a dict: drafts become trees and blobs as the server would give them back."""

from __future__ import annotations

from itertools import count
from typing import Any, Callable, Dict, Tuple

import pytest

from vineyard_client import _native
from vineyard_client.ids import BLOB_BIT, format_id

Stored = Tuple[Dict[str, Any], Dict[int, bytearray]]


def store(draft: _native.Draft) -> Stored:
    """Return the tree and the blobs of a draft."""
    numbers = count(1)
    blobs: Dict[int, bytearray] = {}

    def blob(content: memoryview) -> Dict[str, Any]:
        number = BLOB_BIT | next(numbers) if content.nbytes else BLOB_BIT
        blobs[number] = bytearray(content)
        # The server shows the lengths of blobs inside of a tree as 0.
        return {"id": format_id(number), "typename": _native.BLOB, "length": 0, "nbytes": 0, "instance_id": 0}

    def tree(part: _native.Draft) -> Dict[str, Any]:
        members = {name: tree(m) if isinstance(m, _native.Draft) else blob(m) for name, m in part.members.items()}
        return {"id": format_id(next(numbers)), "typename": part.typename, **part.fields, **members}

    return tree(draft), blobs


@pytest.fixture
def stored() -> Callable[[object], Stored]:
    """Put a value into the dict and return its tree and blobs."""
    return lambda value: store(_native.draft(value))


@pytest.fixture
def again(stored: Callable[[object], Stored]) -> Callable[[object], Any]:
    """Put a value into the dict and return what comes back."""
    return lambda value: _native.read(*stored(value), unpickle=False)


@pytest.fixture
def tensor() -> Callable[..., Any]:
    """Read a tensor as another engine may have written it."""

    def read(content: bytes, **fields: object) -> Any:
        buffer = {"id": format_id(BLOB_BIT | 1), "typename": _native.BLOB}
        tree = {"id": format_id(2), "typename": "vineyard::Tensor<?>", "buffer_": buffer, "shape_": "[2]", **fields}
        return _native.read(tree, {BLOB_BIT | 1: bytearray(content)}, unpickle=False)

    return read
