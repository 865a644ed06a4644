"""The large members of a dict that a task returns with ``multiple_outputs``: in vineyard once, not twice.

Airflow pushes each member of such a dict under its own key, and after that the dict under ``return_value``. So what a
task pushed is remembered here, by key, and when its dict comes, the members that are in vineyard already become
*parts*: objects of their own that share the memory of those. Core compares them byte for byte before it shares
(``put(same_as=…)``), so it does no harm if the task has changed a member since, or never meant it to be the same.

An object in two places of the dict must come back as one object, so what may be in another member as well is no part.
A part is of a type that holds no other Python objects, and larger than every member in which it could be; what stays in
the database as plain JSON holds none.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Dict, Optional

from airflow_provider_vineyard.reference import PARTS_LIMIT, Origin
from airflow_provider_vineyard.xcom.inline import inline_json

if TYPE_CHECKING:
    from vineyard_client import ObjectRef

__all__ = ["pushed", "remember", "remember_size"]

_RETURN_KEY = "return_value"

# Bytes from which on a member is worth an object of its own, which takes some hundred in the store and in the row.
_WORTHWHILE = 64 * 1024

_OPAQUE = frozenset({bytes, bytearray, str})
_OPAQUE_PACKAGES = frozenset({"numpy", "pandas", "polars", "pyarrow", "scipy", "torch"})

# What the task instance that pushed last has pushed: a process works on one at a time.
_last: Optional[Origin] = None
_pushed: Dict[str, ObjectRef] = {}
# Bytes of those that are in their rows.
_sizes: Dict[str, int] = {}


def remember(origin: Origin, ref: ObjectRef) -> None:
    """Remember what a task has pushed, and is in vineyard.

    Args:
        origin: which XCom it is.
        ref: the object.
    """
    _begin(origin)
    if origin.key is not None:
        _pushed[origin.key] = ref
        _sizes[origin.key] = ref.size


def remember_size(origin: Origin, size: int) -> None:
    """Remember that a task has pushed something that is in its row.

    Args:
        origin: which XCom it is.
        size: bytes of the value.
    """
    _begin(origin)
    if origin.key is not None:
        _pushed.pop(origin.key, None)
        _sizes[origin.key] = size


def _begin(origin: Origin) -> None:
    global _last
    task = origin._replace(key=None)
    if task != _last:
        _last = task
        _pushed.clear()
        _sizes.clear()


def pushed(value: object, origin: Origin) -> Dict[str, ObjectRef]:
    """Return what may be the large members of a value: those that its task has pushed under their keys.

    Args:
        value: what is to be stored.
        origin: which XCom it is.
    """
    if type(value) is not dict or origin.key != _RETURN_KEY or origin._replace(key=None) != _last:
        return {}
    places = Counter(map(id, value.values()))
    least = _WORTHWHILE
    for key, member in value.items():
        if not _is_opaque(member) and inline_json(member, _WORTHWHILE) is None:
            if key not in _sizes:
                return {}
            least = max(least, _sizes[key] + 1)
    found = {key: _pushed[key] for key, member in value.items() if key in _pushed and _is_part(key, member)}
    found = {key: ref for key, ref in found.items() if ref.size >= least and places[id(value[key])] == 1}
    largest = set(sorted(found, key=lambda key: -found[key].size)[:PARTS_LIMIT])
    return {key: ref for key, ref in found.items() if key in largest}


def _is_part(key: str, member: object) -> bool:
    # The key becomes one in the row, where it has to mind what Airflow and the databases make of JSON.
    return _is_opaque(member) and inline_json({key: None}, _WORTHWHILE) is not None


def _is_opaque(member: object) -> bool:
    return type(member) in _OPAQUE or type(member).__module__.partition(".")[0] in _OPAQUE_PACKAGES
