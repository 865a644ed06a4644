"""The two shapes that native objects have here: ``View`` of one that was found, ``Draft`` of one to be stored."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Union

from ..exceptions import UnsafeType, VineyardError
from ..ids import parse_id

__all__ = ["BLOB", "EMPTY_BLOB", "EXTRA", "Draft", "Tree", "View", "blob_ids", "library", "no_form"]

Tree = Dict[str, Any]

BLOB = "vineyard::Blob"

# The server's one blob without bytes, which every empty buffer shares (v6d: EmptyBlobID in src/common/util/uuid.h).
EMPTY_BLOB = 1 << 63

EXTRA = "pip install 'vineyard-client[native]'"


def library(name: str, what: str) -> Any:
    """Import a library that a type needs.

    Raises:
        VineyardError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise VineyardError(
            f"{what} needs {name}, which cannot be imported: {error}.", f"{EXTRA} brings it."
        ) from error


def no_form(what: str, hint: str, name: str = "") -> UnsafeType:
    """Return the error for a value that vineyard's own types cannot hold."""
    return UnsafeType(f"There is no native form for {what}.", hint, name)


@dataclass
class Draft:
    """An object to be stored.

    Args:
        typename: vineyard's name of its type.
        fields: what its metadata say, without members.
        members: its parts: other objects, or the bytes of a blob.
        nbytes: what its metadata call its size.
    """

    typename: str
    fields: Dict[str, Any] = field(default_factory=dict)
    members: Mapping[str, Union[Draft, memoryview]] = field(default_factory=dict)
    nbytes: int = 0

    def parts(self) -> Iterator[Draft]:
        """Iterate over all objects of the draft, members before what they are members of."""
        for member in self.members.values():
            if isinstance(member, Draft):
                yield from member.parts()
        yield self


class View:
    """One object of a metadata tree.

    Args:
        tree: its metadata; those of its members are inside.
        blobs: copies of all blobs in the tree, by id.
    """

    def __init__(self, tree: Mapping[str, Any], blobs: Mapping[int, bytearray]) -> None:
        self._tree = tree
        self._blobs = blobs
        name = tree.get("typename")
        if not isinstance(name, str):
            raise TypeError(f"the typename is {name!r:.80}")
        self.typename: str = name

    @property
    def base(self) -> str:
        """The typename without its parameters: ``vineyard::Tensor`` of ``vineyard::Tensor<int64>``."""
        return self.typename.partition("<")[0]

    @property
    def parameters(self) -> str:
        """What stands between the angle brackets of the typename."""
        return self.typename.partition("<")[2].rstrip("> ").strip()

    def __contains__(self, key: str) -> bool:
        """Tell whether a field or member exists."""
        return key in self._tree

    def field(self, key: str) -> Any:
        """Return a field as it stands in the tree."""
        value = self._tree[key]
        if isinstance(value, dict):
            raise TypeError(f"{key} is a member")
        return value

    def text(self, key: str) -> str:
        """Return a field that is a text; C++ writes some of them as JSON."""
        value = self.field(key)
        if isinstance(value, str):
            return str(json.loads(value)) if value.startswith('"') else value
        raise TypeError(f"{key} is no text")

    def count(self, key: str) -> int:
        """Return a field that is a whole number, not below zero."""
        number = int(self.field(key))
        if number < 0:
            raise ValueError(f"{key} is {number}")
        return number

    def json(self, key: str) -> Any:
        """Return what is in a field that has JSON as text."""
        value = self.field(key)
        return json.loads(value) if isinstance(value, str) else value

    def shape(self) -> List[int]:
        """Return the field ``shape_``, checked."""
        shape = self.json("shape_")
        if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"the shape is {shape!r:.80}")
        return shape

    def member(self, key: str) -> View:
        """Return a part."""
        tree = self._tree[key]
        if not isinstance(tree, dict):
            raise TypeError(f"{key} is no member")
        return View(tree, self._blobs)

    def bytes(self) -> bytearray:
        """Return what is in a blob; it is the caller's alone."""
        if self.typename != BLOB:
            raise TypeError(f"a {self.typename} stands where a blob should")
        number = parse_id(self._tree["id"])
        return bytearray() if number == EMPTY_BLOB else self._blobs[number]

    def blob(self, key: str) -> bytearray:
        """Return what is in a part that is a blob."""
        return self.member(key).bytes()


def blob_ids(tree: Mapping[str, Any]) -> Dict[int, int]:
    """Return the blobs of a tree, with the ids of the instances that have them; the empty one is left out."""
    found: Dict[int, int] = {}
    waiting = [tree]
    while waiting:
        current = waiting.pop()
        if current.get("typename") == BLOB:
            number = parse_id(current.get("id", ""))
            if number != EMPTY_BLOB:
                found[number] = int(current.get("instance_id", 0))
        else:
            waiting.extend(member for member in current.values() if isinstance(member, dict))
    return found
