"""The small JSON object that stands in Airflow's database in place of a value: the row. This page defines its format.

A row of version 1 refers to an object in vineyard::

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
        "durable": "no",                      whether it was saved when the row was written, for people; may be left out
        "memory": 2870144,                    bytes that were taken for it, for people; left out unless it shares the
                                              rest of its size with values that were there
        "parts": {"a": {"v": 1, "id": …}}     members of a dict that are objects of their own; often left out
    }}

A row of version 3 is the same for an object that is saved in a tier, or is going to be, with one field more::

        "copy": "production/etl/…/32 hex digits"    the key of its copy there

So it is with a part. Which tier that is, is for the configuration to say and not for a row: what ``durable`` says is
shown and not used. It is the tier if the value was saved by then, ``soon: `` and the tier if the agent was to save it,
and else ``no``, perhaps with the reason.

A row of version 2 holds the value itself, where that is small::

    {"vineyard": {
        "v": 2,
        "type": "numpy.int64",                what the value is
        "text": "6",                          the value for people, at most 200 characters; secrets are not in it
        "size": 158,                          bytes of the content before it became base64
        "host": "worker-1",                   where the task ran
        "created": "2026-11-22T11:09:00+00:00",
        "origin": {"dag_id": …, …},           as above
        "content": "VllWQUxVRQo…"             what core's ``dumps`` made of the value, in base64
    }}

Invariants:

- A row is a dict with exactly the one key ``vineyard``. A value of a user's that has this shape is itself stored in
  vineyard, never written as a row, so the shape has one meaning.
- A row that is the text of an object id and nothing else is one that vineyard's own provider wrote before the switch. A
  text of a user's that has this shape goes to vineyard, too.
- Rows come from a database that REST clients and people can write to. ``parse_row`` accepts exactly the fields above
  with exactly their types and bounds; anything else is an ``InvalidReference``. Nothing in a row names code, a file or
  a command. What is in ``content`` is judged by core's ``loads``, as what lies in a store is: a forged one is at worst
  another value of allowed classes.
- A row of version 2 needs no server and owns no object: it ends when it is deleted. No reference leads to its envelope,
  so the token in that is compared with none. Nothing but ``content`` is read to make the value.
- Every version has ``v``, and it is looked at first: a release that does not know it says so (``UnsupportedVersion``).
- All texts that are made here are printable: no database, log or terminal stumbles over them.
- ``owned`` is false when a task returned an ``ObjectRef``: the object was there before the row and stays when the row
  goes. Whoever put it deletes it.
- The object of a dict with parts holds None in their place. They are owned as the object is. Each is core's
  ``ObjectRef`` in its JSON form; ``members`` says when there are any.
- The row is shown to people as it is, so reading it needs neither vineyard nor any data library.

In versions 1 and 3, ``id``, ``token``, ``endpoint``, ``type``, ``size``, ``copy`` and ``v`` are core's ``ObjectRef`` in
its JSON form.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import datetime, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, AbstractSet, Any, Dict, Mapping, NamedTuple, Optional, Union

if TYPE_CHECKING:
    from vineyard_client import EncodedValue, ObjectInfo, ObjectRef

__all__ = [
    "DEPLOYMENT_LABEL",
    "PARTS_LIMIT",
    "ROW_KEY",
    "SHOWN_LIMIT",
    "Origin",
    "RowReference",
    "RowValue",
    "looks_like_bare_id",
    "looks_like_row",
    "parse_row",
    "printable",
]

ROW_KEY = "vineyard"

# The label that each object of an XCom has in vineyard, beside those of its origin: the name of the deployment. What
# does not have it is somebody else's, and never collected.
DEPLOYMENT_LABEL = "airflow"

_BARE_ID = re.compile(r"o[0-9a-f]{16}\Z")
_SUMMARY_LIMIT = 300
SHOWN_LIMIT = 200
# Airflow's own limit for dag_id, run_id, task_id and key is 250 (512 for keys); names of hosts are at most 255.
_TEXT_LIMIT = 1024
# PostgreSQL takes no longer text in a column of JSON.
_CONTENT_LIMIT = (1 << 28) - 1
PARTS_LIMIT = 32

_VALUE_VERSION, _COPY_VERSION = 2, 3

_REF_FIELDS = frozenset({"v", "id", "token", "endpoint", "type", "size"})
_OWN_FIELDS = frozenset({"summary", "host", "created", "origin", "owned"})
_OPTIONAL_FIELDS = frozenset({"durable", "memory", "parts"})
_VALUE_FIELDS = frozenset({"v", "type", "text", "size", "host", "created", "origin", "content"})

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


def printable(text: str, limit: int) -> str:
    """Return the beginning of a text, with everything escaped that is not printable, half surrogates included.

    Args:
        text: any text.
        limit: characters; what is cut shows by an ellipsis at the end.
    """
    text = text[: limit + 1]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def parse_row(row: object) -> Union[RowReference, RowValue]:
    """Return what stands in a row of any version.

    Raises:
        InvalidReference: this is no row, or a field is missing, unknown or of another kind.
        UnsupportedVersion: a later release wrote it.
    """
    version = _held(row).get("v")
    if type(version) is not int or version < _VALUE_VERSION or version == _COPY_VERSION:
        return RowReference.parse(row)
    if version == _VALUE_VERSION:
        return RowValue.parse(row)
    from vineyard_client import UnsupportedVersion

    raise UnsupportedVersion(
        f"The row has version {version}; this release knows 1 to {_COPY_VERSION}.",
        "Upgrade airflow-provider-vineyard here.",
    )


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
        return {name: str(value) for name, value in self.to_json().items()}

    def to_json(self) -> Dict[str, Any]:
        """Return the known parts as a JSON object."""
        return {
            name: printable(value, _TEXT_LIMIT) if isinstance(value, str) else value
            for name, value in self._asdict().items()
            if value is not None
        }

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
    """A parsed row that refers to an object.

    Attributes:
        ref: core's reference to the object.
        summary: what the value is, for people.
        host: where it was put.
        created: when, as an ISO 8601 text in UTC.
        origin: which XCom the row was written for.
        owned: whether the object ends with the row, and its parts.
        parts: those members of a dict that are objects of their own.
        durable: whether it was saved when the row was written, for people; empty if the row does not say.
        memory: bytes that were taken for it, for people; None if it shares nothing.
    """

    ref: ObjectRef
    summary: str
    host: str
    created: str
    origin: Origin
    owned: bool = True
    parts: Mapping[str, ObjectRef] = MappingProxyType({})
    durable: str = ""
    memory: Optional[int] = None

    @classmethod
    def describe(
        cls, ref: ObjectRef, info: ObjectInfo, *, origin: Origin, owned: bool, durable: str = ""
    ) -> RowReference:
        """Return the row for an object.

        Args:
            ref: the reference to it.
            info: what the store knows of it.
            origin: the XCom that the row is for.
            owned: whether the object ends with the row.
            durable: whether it is saved, for people.
        """
        created = info.created.isoformat(timespec="seconds")
        ref = replace(ref, type=printable(ref.type, _TEXT_LIMIT))
        summary, durable = printable(info.summary, _SUMMARY_LIMIT), printable(durable, _SUMMARY_LIMIT)
        memory = info.memory if owned and info.memory is not None and info.memory < ref.size else None
        return cls(ref, summary, info.host, created, origin, owned, durable=durable, memory=memory)

    def with_parts(self, length: int, parts: Mapping[str, ObjectRef]) -> RowReference:
        """Return the row for a dict some of whose members are objects of their own.

        Args:
            length: of the dict.
            parts: those members.
        """
        named = ", ".join(f"{key} {part.type}" for key, part in parts.items())
        summary = printable(f"dict of {length} {'item' if length == 1 else 'items'}, with {named}", _SUMMARY_LIMIT)
        size = self.ref.size + sum(part.size for part in parts.values())
        return self._replace(ref=replace(self.ref, size=size), summary=summary, parts=parts, memory=None)

    @property
    def alone(self) -> ObjectRef:
        """The reference to the object alone, whose copy has its own size: without those of its parts."""
        return replace(self.ref, size=self.ref.size - sum(part.size for part in self.parts.values()))

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
        if self.durable:
            fields["durable"] = self.durable
        if self.memory is not None:
            fields["memory"] = self.memory
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
        data = _held(row)
        # The version first: a later format may have other fields.
        fields = _REF_FIELDS | {"copy"} if data.get("v") == _COPY_VERSION else _REF_FIELDS
        ref = _object_ref({name: data[name] for name in fields & data.keys()})
        _fields({name: data[name] for name in data.keys() - _OPTIONAL_FIELDS}, fields | _OWN_FIELDS)
        _text(data["summary"], "summary")
        _text(data["host"], "host")
        _text(data.get("durable", ""), "durable")
        _moment(data["created"])
        if type(data["owned"]) is not bool:
            raise _invalid("its field owned is neither true nor false")
        origin = Origin.parse(data["origin"])
        parts = data.get("parts", {})
        if type(parts) is not dict or len(parts) > PARTS_LIMIT:
            raise _invalid(f"its parts are not an object with at most {PARTS_LIMIT} references")
        parts = {key: _object_ref(part) for key, part in parts.items()}
        durable, memory = data.get("durable", ""), data.get("memory")
        if "memory" in data and (type(memory) is not int or not 0 <= memory <= ref.size):
            raise _invalid("its memory is not a number of bytes, at most its size")
        return cls(ref, data["summary"], data["host"], data["created"], origin, data["owned"], parts, durable, memory)


class RowValue(NamedTuple):
    """A parsed row that holds its value.

    Attributes:
        content: what core's ``loads`` makes the value of.
        type: what the value is, e.g. ``numpy.int64``.
        text: the value for people.
        host: where the task ran that returned it.
        created: when, as an ISO 8601 text in UTC.
        origin: which XCom the row was written for.
    """

    content: bytes
    type: str
    text: str
    host: str
    created: str
    origin: Origin

    @classmethod
    def describe(cls, encoded: EncodedValue, text: str, *, origin: Origin) -> RowValue:
        """Return the row for a value.

        Args:
            encoded: the value, as core encodes it.
            text: the value for people.
            origin: the XCom that the row is for.
        """
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        kind, text = printable(encoded.type, _TEXT_LIMIT), printable(text, SHOWN_LIMIT)
        return cls(encoded.to_bytes(), kind, text, os.uname().nodename, created, origin)

    def to_json(self) -> Dict[str, Any]:
        """Return the row as a JSON object, with what people look for before what they do not."""
        fields = {
            "v": _VALUE_VERSION,
            "type": self.type,
            "text": self.text,
            "size": len(self.content),
            "host": self.host,
            "created": self.created,
            "origin": self.origin.to_json(),
            "content": b64encode(self.content).decode("ascii"),
        }
        return {ROW_KEY: fields}

    @classmethod
    def parse(cls, row: object) -> RowValue:
        """Return what stands in a row; the content is decoded and not read.

        Raises:
            InvalidReference: this is no row of version 2, or a field is missing, unknown or of another kind.
        """
        data = _held(row)
        _fields(data, _VALUE_FIELDS)
        if type(data["v"]) is not int or data["v"] != _VALUE_VERSION:
            raise _invalid(f"its version is not {_VALUE_VERSION}")
        for name in ("type", "text", "host"):
            _text(data[name], name)
        _moment(data["created"])
        origin = Origin.parse(data["origin"])
        content = _content(data["content"])
        if type(data["size"]) is not int or data["size"] != len(content):
            raise _invalid(f"its size is not that of its content, {len(content)} bytes")
        return cls(content, data["type"], data["text"], data["host"], data["created"], origin)


def _held(row: object) -> Dict[str, Any]:
    """Return what stands in a row, whatever that is."""
    if not looks_like_row(row):
        raise _invalid(f"it is not a JSON object with the one key {ROW_KEY!r}")
    assert isinstance(row, dict)
    data = row[ROW_KEY]
    if type(data) is not dict:
        raise _invalid(f"what it holds is a {type(data).__name__}, not a JSON object")
    return data


def _fields(data: Dict[str, Any], expected: AbstractSet[str]) -> None:
    wrong = data.keys() ^ expected
    if wrong:
        named = ", ".join(sorted(repr(name)[:40] for name in wrong)[:10])
        raise _invalid(f"these fields are missing or too many: {named}")


def _content(value: object) -> bytes:
    if type(value) is str and len(value) <= _CONTENT_LIMIT:
        try:
            return b64decode(value, validate=True)
        except ValueError:
            pass
    raise _invalid(f"its content is not base64 of at most {_CONTENT_LIMIT} characters")


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
    if ref.copy is not None:
        _text(ref.copy, "copy")
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
