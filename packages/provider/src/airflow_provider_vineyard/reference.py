"""The small JSON object that stands in Airflow's database in place of a value: the row. This page defines its format.

::

    {"vineyard": {
        "v": 1,                               version of this format
        "id": "o0016f0c2a4b1d3e5",            object id in vineyard
        "token": "32 hex digits",             tells this value from a later one with the same id
        "endpoint": "host:9600" or null,      where other hosts reach the instance that has it
        "type": "pandas.DataFrame",           what the value is
        "summary": "336776 rows × 19 …",      the same for people, at most 300 characters, never the value
        "size": 80000704,                     bytes in vineyard, those of its parts included
        "host": "worker-1",                   where it was put
        "created": "2026-11-22T11:09:00+00:00",
        "origin": {"dag_id": …, "run_id": …, "task_id": …, "map_index": …, "key": …},   as far as Airflow told us
        "owned": true,                        whether the row's end is the object's end
        "parts": {"a": {"v": 1, "id": …}}     members of a dict that are objects of their own; often left out
    }}

Invariants:

- A row is a dict with exactly the one key ``vineyard``. A value of a user's that has this shape is itself stored in
  vineyard, never written as a row, so the shape has one meaning.
- A row that is the text of an object id and nothing else is one that vineyard's own provider wrote before the switch. A
  text of a user's that has this shape goes to vineyard, too.
- Rows come from a database that REST clients and people can write to. ``RowReference.parse`` accepts exactly the fields
  above with exactly their types and bounds; anything else is an ``InvalidReference``. Nothing in a row names code, a
  file or a command.
- ``owned`` is false when a task returned an ``ObjectRef``: the object was there before the row and stays when the row
  goes. Whoever put it deletes it.
- The object of a dict with parts holds None in their place. They are owned as the object is. Each is core's
  ``ObjectRef`` in its JSON form; ``members`` says when there are any.
- The row is shown to people as it is, so reading it needs neither vineyard nor any data library.

``id``, ``token``, ``endpoint``, ``type``, ``size`` and ``v`` are core's ``ObjectRef`` in its JSON form.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Dict, Mapping, NamedTuple, Optional

if TYPE_CHECKING:
    from vineyard_client import ObjectInfo, ObjectRef

__all__ = [
    "DEPLOYMENT_LABEL",
    "PARTS_LIMIT",
    "ROW_KEY",
    "Origin",
    "RowReference",
    "looks_like_bare_id",
    "looks_like_row",
]

ROW_KEY = "vineyard"

# The label that each object of an XCom has in vineyard, beside those of its origin: the name of the deployment. What
# does not have it is somebody else's, and never collected.
DEPLOYMENT_LABEL = "airflow"

_BARE_ID = re.compile(r"o[0-9a-f]{16}\Z")
_SUMMARY_LIMIT = 300
# Airflow's own limit for dag_id, run_id, task_id and key is 250 (512 for keys); names of hosts are at most 255.
_TEXT_LIMIT = 1024
PARTS_LIMIT = 32

_REF_FIELDS = frozenset({"v", "id", "token", "endpoint", "type", "size"})
_OWN_FIELDS = frozenset({"summary", "host", "created", "origin", "owned"})

_HINT = (
    "Something else than this provider wrote or edited the row, or it is older than the switch to this XCom backend: "
    "clear the task that it is of."
)


def looks_like_row(value: object) -> bool:
    """Tell whether a value has the shape of a row: a dict with exactly the one key ``vineyard``."""
    return type(value) is dict and len(value) == 1 and ROW_KEY in value


def looks_like_bare_id(value: object) -> bool:
    """Tell whether a value has the shape of what vineyard's own provider wrote as a row: the text of an object id."""
    return type(value) is str and _BARE_ID.match(value) is not None


class Origin(NamedTuple):
    """Which XCom a value is, as far as Airflow told the backend; the text form is for log lines and messages.

    Airflow 2.1 and 2.2 tell nothing, later ones everything.
    """

    dag_id: Optional[str] = None
    run_id: Optional[str] = None
    task_id: Optional[str] = None
    map_index: Optional[int] = None
    key: Optional[str] = None

    def labels(self) -> Dict[str, str]:
        """Return the known parts as labels for the object in vineyard."""
        return {name: str(value) for name, value in self._asdict().items() if value is not None}

    def to_json(self) -> Dict[str, Any]:
        """Return the known parts as a JSON object."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    @classmethod
    def parse(cls, data: object) -> Origin:
        """Return the origin that ``to_json`` described.

        Raises:
            InvalidReference: a field is unknown or of another kind.
        """
        if type(data) is not dict or not data.keys() <= set(cls._fields):
            raise _invalid("its origin is not an object with dag_id, run_id, task_id, map_index and key")
        for name, value in data.items():
            if name == "map_index":
                if type(value) is not int:
                    raise _invalid("its origin's map_index is not a number")
            else:
                _text(value, f"origin's {name}")
        return cls(**data)

    def __str__(self) -> str:
        """Describe the XCom, e.g. ``XCom 'return_value' of task etl.extract[3] (run manual__2026-11-22)``."""
        text = f"XCom {self.key!r}" if self.key else "the XCom"
        if self.task_id:
            task = f"{self.dag_id}.{self.task_id}" if self.dag_id else self.task_id
            index = f"[{self.map_index}]" if self.map_index is not None and self.map_index >= 0 else ""
            text += f" of task {task}{index}"
        return f"{text} (run {self.run_id})" if self.run_id else text


class RowReference(NamedTuple):
    """A parsed row.

    Attributes:
        ref: core's reference to the object.
        summary: what the value is, for people.
        host: where it was put.
        created: when, as an ISO 8601 text in UTC.
        origin: which XCom the row was written for.
        owned: whether the object ends with the row, and its parts.
        parts: those members of a dict that are objects of their own.
    """

    ref: ObjectRef
    summary: str
    host: str
    created: str
    origin: Origin
    owned: bool = True
    parts: Mapping[str, ObjectRef] = MappingProxyType({})

    @classmethod
    def describe(cls, ref: ObjectRef, info: ObjectInfo, *, origin: Origin, owned: bool) -> RowReference:
        """Return the row for an object.

        Args:
            ref: the reference to it.
            info: what the store knows of it.
            origin: the XCom that the row is for.
            owned: whether the object ends with the row.
        """
        created = info.created.isoformat(timespec="seconds")
        return cls(ref, _cut(info.summary), info.host, created, origin, owned)

    def with_parts(self, length: int, parts: Mapping[str, ObjectRef]) -> RowReference:
        """Return the row for a dict some of whose members are objects of their own.

        Args:
            length: of the dict.
            parts: those members.
        """
        named = ", ".join(f"{key} {part.type}" for key, part in parts.items())
        summary = _cut(f"dict of {length} {'item' if length == 1 else 'items'}, with {named}")
        size = self.ref.size + sum(part.size for part in parts.values())
        return self._replace(ref=replace(self.ref, size=size), summary=summary, parts=parts)

    def to_json(self) -> Dict[str, Any]:
        """Return the row as a JSON object."""
        fields = {
            **self.ref.to_json(),
            "summary": self.summary,
            "host": self.host,
            "created": self.created,
            "origin": self.origin.to_json(),
            "owned": self.owned,
        }
        if self.parts:
            fields["parts"] = {key: part.to_json() for key, part in self.parts.items()}
        return {ROW_KEY: fields}

    @classmethod
    def parse(cls, row: object) -> RowReference:
        """Return the reference in a row.

        Raises:
            InvalidReference: this is no row, or a field is missing, unknown or of another kind.
            UnsupportedVersion: a later release wrote it.
        """
        if not looks_like_row(row):
            raise _invalid(f"it is not a JSON object with the one key {ROW_KEY!r}")
        assert isinstance(row, dict)
        data = row[ROW_KEY]
        if type(data) is not dict:
            raise _invalid(f"what it holds is a {type(data).__name__}, not a JSON object")
        # The version first: a later format may have other fields.
        ref = _object_ref({name: data[name] for name in _REF_FIELDS & data.keys()})
        if data.keys() - {"parts"} != _REF_FIELDS | _OWN_FIELDS:
            wrong = (data.keys() - {"parts"}) ^ (_REF_FIELDS | _OWN_FIELDS)
            named = ", ".join(sorted(repr(name)[:40] for name in wrong)[:10])
            raise _invalid(f"these fields are missing or too many: {named}")
        _text(data["summary"], "summary")
        _text(data["host"], "host")
        _moment(data["created"])
        if type(data["owned"]) is not bool:
            raise _invalid("its field owned is neither true nor false")
        origin = Origin.parse(data["origin"])
        parts = data.get("parts", {})
        if type(parts) is not dict or len(parts) > PARTS_LIMIT:
            raise _invalid(f"its parts are not an object with at most {PARTS_LIMIT} references")
        parts = {key: _object_ref(part) for key, part in parts.items()}
        return cls(ref, data["summary"], data["host"], data["created"], origin, data["owned"], parts)


def _cut(summary: str) -> str:
    return summary if len(summary) <= _SUMMARY_LIMIT else summary[: _SUMMARY_LIMIT - 1] + "…"


def _object_ref(data: object) -> ObjectRef:
    from vineyard_client import InvalidReference, ObjectRef

    if type(data) is not dict:
        raise _invalid(f"one of its parts is a {type(data).__name__}, not a JSON object")
    try:
        ref = ObjectRef.from_json(data)
    except InvalidReference as error:
        raise _invalid(error.what.rstrip(".")) from error
    _text(ref.type, "type")
    if ref.endpoint is not None:
        _text(ref.endpoint, "endpoint")
    return ref


def _text(value: object, name: str) -> None:
    if type(value) is not str or len(value) > _TEXT_LIMIT:
        raise _invalid(f"its {name} is not a text of at most {_TEXT_LIMIT} characters")


def _moment(value: object) -> None:
    try:
        if type(value) is str and datetime.fromisoformat(value).tzinfo is not None:
            return
    except ValueError:
        pass
    raise _invalid("its field created is not a moment in ISO 8601 with an offset")


def _invalid(reason: str) -> Exception:
    from vineyard_client import InvalidReference

    return InvalidReference(f"An XCom row looks like a reference to vineyard but is none: {reason}.", _HINT)
