"""What people are shown of a value: a small JSON document, made where the value is put, and kept beside it.

The kinds are ``text``, ``bytes``, ``tree`` (containers of Python's), and ``table`` and ``array`` (``tabular``)::

    {"kind": "text", "length": 5, "head": "hello"}                      bytes: the head in hexadecimal digits
    {"kind": "tree", "t": "dict", "n": 1, "kids": [["a", {"t": "int", "v": 1}]]}
    {"kind": "array", "shape": [3], "dtype": "int64", "head": [1, 2, 3]}
    {"kind": "table", "rows": 2, "cols": 1, "columns": [{"name": "a", "type": "int64"}], "head": [[1], [2]]}

A leaf of a tree has its type ``t``, and what is known of ``v`` (a plain value), ``n`` (a length) and ``shape``.

Rules:

- No code of a value runs, and nothing is imported (``cells``); of what is not known the type is shown.
- Work is bounded by what is shown and by the sample, whatever the value has.
- A preview never makes ``put`` fail: if there is none, there is none.
- It holds what the level allows: see ``LEVELS``. What has a name that is to be hidden shows as ``HIDDEN``.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict, deque
from itertools import islice
from typing import Any, Callable, Dict, List, Optional

from . import tabular
from .cells import HIDDEN, Hide, Maker, cell, cut, is_known, is_plain, name_of_type, plain
from .outside import from_outside

__all__ = ["LEVELS", "LIMIT", "MOST", "SMALL", "preview", "read"]

#: ``off``: nothing. ``schema``: names, types, shapes, lengths and how many values are missing. ``head``: the first rows
#: and members as well. ``stats``: ranges and histograms of a sample as well.
LEVELS = ("off", "schema", "head", "stats")

#: Bytes of a preview at most.
LIMIT = 4096

#: Bytes that are read of what is said to be a preview; a later release may have a higher limit.
MOST = 1 << 16

#: Bytes below which a value is small: fewer rows, members and bytes of it are shown.
SMALL = 1 << 14

# Of what is bytes.
_BYTES = 256
_FEW_BYTES = 64

# Of a tree: members of one container, also where the value is small, and levels.
_KIDS = 20
_FEW_KIDS = 8
_DEPTH = 4

# Members that are shown of each container before a level is left out.
_FEW = 3


def preview(value: object, level: str, *, limit: int = LIMIT, hide: Optional[Hide] = None, nbytes: int = MOST) -> bytes:
    """Return the preview of a value as JSON; empty if there is none.

    Args:
        value: anything.
        level: one of ``LEVELS``.
        limit: bytes that it may take.
        hide: told the names of columns and members, returns whether what they name is to be hidden.
        nbytes: what the value takes; of a small one less is shown, because its preview must not cost what it does.

    Raises:
        ValueError: there is no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"{level!r:.80} is no level of a preview: write one of {', '.join(LEVELS)}.")
    if level == "off":
        return b""
    try:
        maker = Maker(level, limit, hide, nbytes < SMALL)
        return _fitted(_described(value, maker), limit)
    except Exception as error:
        if from_outside(error):
            raise
        return b""


def read(data: bytes) -> Optional[Dict[str, Any]]:
    """Return the document in a preview; None if it is none.

    Whoever writes to the store could have written anything: nothing more is known of it than that it is a JSON object
    with a ``kind``.
    """
    try:
        found = json.loads(data.decode()) if len(data) <= MOST else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("kind"), str) else None


def _described(value: Any, maker: Maker) -> Dict[str, Any]:
    kind = type(value)
    if kind is str:
        return {"kind": "text", "length": len(value), **({"head": value[: maker.limit // 2]} if maker.shows else {})}
    if kind is bytes or kind is bytearray or kind is memoryview:
        return _bytes(value, maker)
    if id(kind) not in _TREES and is_known(kind):
        found = tabular.described(value, maker)
        if found is not None:
            return found
    return {"kind": "tree", **_tree(value, maker, _DEPTH)}


def _bytes(value: Any, maker: Maker) -> Dict[str, Any]:
    most = _FEW_BYTES if maker.small else _BYTES
    if type(value) is memoryview:
        found: Dict[str, Any] = {"kind": "bytes", "length": value.nbytes}
        plain = value.c_contiguous and value.nbytes
        head = value.cast("B")[:most] if plain and value.format in "bBc" else b""
    else:
        found = {"kind": "bytes", "length": len(value)}
        head = value[:most]
    return {**found, "head": bytes(head).hex()} if maker.shows else found


# ---- trees


def _tree(value: Any, maker: Maker, depth: int) -> Dict[str, Any]:
    kind = type(value)
    look = _TREES.get(id(kind))
    if look is not None:
        node: Dict[str, Any] = {"t": name_of_type(kind), "n": len(value)}
        if depth:
            node["kids"] = look(value, maker, depth - 1)
        return node
    return _leaf(value, maker)


def _most_kids(maker: Maker) -> int:
    return _FEW_KIDS if maker.small else _KIDS


def _members(value: Any, maker: Maker, depth: int) -> List[List[Any]]:
    kids = []
    for key, member in islice(value.items(), _most_kids(maker)):
        # Even a name that is no text may hold what is not to be seen with the level "schema".
        name = key if type(key) is str else cell(key) if maker.shows else f"({name_of_type(type(key))})"
        kids.append([cut(str(name)), {"t": HIDDEN} if maker.hides(key) else _tree(member, maker, depth)])
    return kids


def _items(value: Any, maker: Maker, depth: int) -> List[List[Any]]:
    return [[None, _tree(item, maker, depth)] for item in islice(iter(value), _most_kids(maker))]


# By identity: to look a class up by itself would ask its metaclass for a hash.
_TREES: Dict[int, Callable[[Any, Maker, int], List[List[Any]]]] = {
    **{id(kind): _members for kind in (dict, OrderedDict, defaultdict, Counter)},
    **{id(kind): _items for kind in (list, tuple, set, frozenset, deque)},
}


def _leaf(value: Any, maker: Maker) -> Dict[str, Any]:
    kind = type(value)
    node: Dict[str, Any] = {"t": name_of_type(kind)}
    if kind is str or kind is bytes or kind is bytearray:
        node["n"] = len(value)
    elif is_known(kind):
        value = plain(value)
        node.update(tabular.shape(value))
        kind = type(value)
    if maker.shows and is_plain(value):
        node["v"] = cell(value)
    return node


# ---- fitting


def _fitted(found: Dict[str, Any], limit: int) -> bytes:
    """Return a document as JSON that takes at most so many bytes; empty if that cannot be.

    What goes first: rows and texts, then histograms, then columns; of a tree, the
    last members of its largest containers, then its lower levels.
    """
    data = _dumped(found)
    while len(data) > limit:
        if not _shrink(found, len(data), limit):
            return b""
        data = _dumped(found)
    return data


def _dumped(found: Dict[str, Any]) -> bytes:
    try:
        text = _encode(found)
    except ValueError:  # numbers that JSON has no form for
        found["head"] = [list(map(cell, row)) for row in found["head"]]
        text = _encode(found)
    # What cannot be encoded are halves of characters.
    return text.encode("utf-8", "replace")


_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode


def _shrink(found: Dict[str, Any], size: int, limit: int) -> bool:
    """Take something away; return False if there is nothing more."""
    head = found.get("head")
    if head:
        taken = max(1, len(_dumped({"": head})) // len(head))
        keep = min(len(head) - 1, max(0, len(head) - (size - limit) // taken - 1))
        found["head"] = head[:keep]
        return True
    columns = found.get("columns")
    if columns and any("hist" in column for column in columns):
        for column in columns:
            column.pop("hist", None)
        return True
    if found.pop("hist", None) is not None:
        return True
    if columns:
        del columns[max(1, len(columns) * 3 // 4) if len(columns) > 1 else 0 :]
        return True
    return _prune(found)


def _prune(node: Dict[str, Any]) -> bool:
    """Show fewer members of the largest containers, then one level less."""
    most = _most(node)
    if most > _FEW:
        _thin(node, most // 2)
        return True
    depth = _height(node)
    if depth:
        _drop_level(node, depth - 1)
    return depth > 0


def _most(node: Dict[str, Any]) -> int:
    kids = node.get("kids", ())
    return max([len(kids), *[_most(kid) for _, kid in kids]])


def _thin(node: Dict[str, Any], most: int) -> None:
    if "kids" in node:
        del node["kids"][most:]
        for _, kid in node["kids"]:
            _thin(kid, most)


def _height(node: Dict[str, Any]) -> int:
    return 1 + max((_height(kid) for _, kid in node["kids"]), default=0) if "kids" in node else 0


def _drop_level(node: Dict[str, Any], depth: int) -> None:
    if depth == 0:
        node.pop("kids", None)
    for _, kid in node.get("kids", ()):
        _drop_level(kid, depth - 1)
