"""What the page, the tabs and the link are told: JSON for each question, the same on both generations of Airflow.

Whoever calls has asked Airflow who may: a ``Reader`` says whose values somebody may see, and nothing of another DAG
leaves here. Rows can be forged by whoever may write XComs, so what a row says is shown as what it says, and what a
store says counts only where the object is one of a DAG that the reader may see, too.
"""

from __future__ import annotations

import json
import threading
import time
from typing import AbstractSet, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import unquote

from airflow_provider_vineyard import rows as database
from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import DEPLOYMENT_LABEL, RowReference, RowValue
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.ui import stores as places
from airflow_provider_vineyard.ui.previews import checked
from airflow_provider_vineyard.ui.rows import Asked, Plain, Unusable, Xcom, find, has_any, page
from airflow_provider_vineyard.ui.sums import Sum, sums

__all__ = ["Reader", "Refused", "delete", "fill", "link_wanted", "stores", "value", "values"]

# Characters of a plain value, on a page of many and on one of its own.
_LINE, _TEXT = 200, 20_000

# Seconds for which the sums of all rows are kept: to make them takes the database some tenths of a second.
_SUMS_KEPT = 60.0

# Entries of a list that a person reads.
_MOST = 100

# A DAG that frees what nobody needs; the pages about operation show it.
_MAINTENANCE = "vineyard_maintenance"


class Reader(NamedTuple):
    """Who asks.

    Attributes:
        dag_ids: DAGs whose values may be seen.
        may_delete: tells whether those of a DAG may be deleted.
    """

    dag_ids: AbstractSet[str]
    may_delete: Callable[[str], bool]


class Refused(Exception):
    """What was asked for is not done.

    Args:
        status: the number for HTTP.
        reason: a sentence for the person who asked.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def values(asked: Asked, reader: Reader) -> Dict[str, Any]:
    """Return a page of values, each with whether it is there.

    Raises:
        Refused: the page that was asked for cannot be.
    """
    try:
        with database.session_for("so there is nothing to show") as session:
            found = page(session, asked, reader.dag_ids)
    except Unusable as error:
        raise Refused(400, str(error)) from error
    referring = [xcom.held for xcom in found.rows if isinstance(xcom.held, RowReference)]
    seen = places.look([(row.host, (row.ref, *row.parts.values())) for row in referring])
    looks = iter(zip(referring, seen))
    shown = []
    for xcom in found.rows:
        line = _line(xcom, _LINE)
        if isinstance(xcom.held, RowReference):
            row, sights = next(looks)
            line.update(_presence(row, sights, reader))
        shown.append(line)
    return {"values": shown, "next": found.after}


def value(asked: Asked, reader: Reader) -> Dict[str, Any]:
    """Return all that is known of one value, with its preview.

    Raises:
        Refused: there is no such XCom.
    """
    xcom = _found(asked)
    line = _line(xcom, _TEXT)
    line["preview"] = None
    row = xcom.held
    if isinstance(row, RowReference):
        reader = reader._replace(dag_ids=reader.dag_ids | {xcom.dag_id})
        sights = places.look([(row.host, (row.ref, *row.parts.values()))])[0]
        presence = _presence(row, sights, reader)
        if presence["state"] == "away" and _is_of(row, None, reader.dag_ids):
            gone = [ref for ref, sight in zip((row.ref, *row.parts.values()), sights) if sight.info is None]
            presence.update(_of_copy(*_safe(places.saved(gone))))
        line.update(presence)
        line["deletable"] = row.owned and presence["state"] == "there" and reader.may_delete(xcom.dag_id)
        if presence["state"] == "there" or (presence["state"] != "other" and _is_of(row, None, reader.dag_ids)):
            preview, why = places.preview(row.ref, sights[0].where if sights[0].info is not None else "")
            line["preview"], line["no_preview"] = checked(preview), why
    return line


def delete(asked: Asked, reader: Reader) -> Dict[str, Any]:
    """Free the object of a value, and those of its parts; the row stays, and the value is gone.

    Raises:
        Refused: there is no such value, it is not the row's, or another DAG's, or its store does not answer.
    """
    xcom = _found(asked)
    row = xcom.held
    if not isinstance(row, RowReference):
        raise Refused(409, "It is in Airflow's database, and ends with its row: clear the task.")
    if not row.owned:
        raise Refused(409, "The task passed it on by reference: whoever put it deletes it.")
    refs = (row.ref, *row.parts.values())

    def may(info: Any) -> bool:
        dag_id = info.labels.get("dag_id") if _is_ours(info) else None
        return dag_id is not None and (dag_id == xcom.dag_id or reader.may_delete(dag_id))

    sights = places.look([(row.host, refs)], kept=False)[0]
    if any(sight.info is not None and not may(sight.info) for sight in sights):
        raise Refused(403, "The object is another DAG's, whose values you may not delete.")
    there = [(ref, sight) for ref, sight in zip(refs, sights) if sight.info is not None]
    if not there:
        raise Refused(409, sights[0].why or "It is gone already.")
    freed, why = places.delete(there)
    if why:
        raise Refused(502, why)
    return {"freed": freed}


def fill(reader: Reader) -> Dict[str, Any]:
    """Return what fills the stores, by DAG and task, as far as somebody may see it."""
    kept = _SUMS.get()
    dags: Dict[str, Dict[str, Any]] = {}
    for each in kept:
        if each.dag_id not in reader.dag_ids:
            continue
        dag = dags.setdefault(each.dag_id, {"dag_id": each.dag_id, **_nothing(), "tasks": {}})
        task = dag["tasks"].setdefault(each.task_id, {"task_id": each.task_id, **_nothing()})
        for share in (dag, task):
            _add(share, each)
    for dag in dags.values():
        dag["tasks"] = _largest(dag["tasks"])
    return {"dags": _largest(dags)}


def stores(reader: Reader) -> Dict[str, Any]:
    """Return how full each store is, and of what: DAGs that somebody may not see are together."""
    kept = _SUMS.get()
    shown = places.states((each.endpoint, each.host) for each in sorted(kept, key=lambda each: -each.bytes))
    by_place = {key: store for store in shown for key in store.pop("keys")}
    for store in shown:
        store.update(_nothing(), dags={}, hidden=0)
    for each in kept:
        found = by_place.get((each.endpoint, None if each.endpoint else each.host))
        if found is None:
            continue
        _add(found, each)
        if each.dag_id in reader.dag_ids:
            _add(found["dags"].setdefault(each.dag_id, {"dag_id": each.dag_id, **_nothing()}), each)
        else:
            found["hidden"] += each.bytes
    for store in shown:
        store["dags"] = _largest(store["dags"])
        used = store.get("used")
        store["others"] = None if used is None else max(0, used - store["bytes"])
    maintenance = _MAINTENANCE if _MAINTENANCE in reader.dag_ids else None
    return {"stores": shown, "maintenance": maintenance}


def link_wanted(dag_id: str, run_id: str, task_id: str, map_index: int) -> bool:
    """Tell whether a task instance has values, so that a link to them leads somewhere."""
    with database.session_for("so there is no link to values") as session:
        return has_any(session, dag_id, run_id, task_id, map_index)


def _found(asked: Asked) -> Xcom:
    with database.session_for("so there is nothing to show") as session:
        xcom = find(session, asked)
    if xcom is None:
        raise Refused(404, "There is no such XCom: the task was cleared, or has not run yet.")
    return xcom


# ---- one value


def _line(xcom: Xcom, most: int) -> Dict[str, Any]:
    """Return what its row says of a value."""
    line: Dict[str, Any] = {
        **{name: getattr(xcom, name) for name in ("dag_id", "run_id", "task_id", "map_index", "key")},
        "written": xcom.written.isoformat(timespec="seconds"),
        "size": xcom.length,
    }
    held = xcom.held
    if isinstance(held, RowReference):
        parts = [{"key": key, "type": part.type, "size": part.size} for key, part in held.parts.items()]
        line.update(kind="object", type=held.ref.type, text=held.summary, size=held.ref.size, host=held.host)
        line.update(created=held.created, owned=held.owned, parts=parts, endpoint=held.ref.endpoint, id=held.ref.id)
        line.update(copy=held.ref.copy, durable=held.durable)
    elif isinstance(held, RowValue):
        line.update(kind="inline", type=held.type, text=_masked(held.text, None), host=held.host)
        line.update(created=held.created, size=len(held.content), safe="yes", place="Airflow's database")
    elif isinstance(held, Plain):
        text = json.dumps(_masked(held.value, xcom.key), ensure_ascii=True)
        cut = text if len(text) <= most else text[: most - 1] + "…"
        line.update(kind="plain", type=_json_type(held.value), text=cut, safe="yes", place="Airflow's database")
    else:
        line.update(kind=held.kind, type="", text=held.detail, safe="yes" if held.kind != "bare" else "unknown")
    return line


def _json_type(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _masked(value: object, name: Optional[str]) -> object:
    """Return a value as Airflow shows it: members whose names it masks are masked, and secrets that it knows."""
    return version_compat.secrets_masker().redact(value, name)


def _presence(row: RowReference, sights: Sequence[places.Sight], reader: Reader) -> Dict[str, Any]:
    """Return whether a value is there, where, and whether it is safe."""
    shown: Dict[str, Any] = {"state": "unknown", "why": "", "replicas": [], "store": ""}
    lost = [sight for sight in sights if sight.info is None]
    strange = [sight for sight in sights if sight.info is not None and not _is_of(row, sight.info, reader.dag_ids)]
    if strange:
        shown.update(state="other", why="The object is not one of a DAG whose values you may see.")
    elif lost:
        shown.update(state=lost[0].state, why=lost[0].why)
    else:
        info = sights[0].info
        replicas = [] if info is None else list(info.replicas)
        taken = [None if sight.info is None else sight.info.memory for sight in sights]
        memory = None if None in taken else sum(each for each in taken if each is not None)
        shown.update(state="there", store=sights[0].where, replicas=replicas, memory=memory)
    saved = next((sight.durable for sight in sights if sight.durable), "")
    shown["safe"], shown["place"] = _safe(saved or row.durable)
    if shown["state"] == "gone" and (row.ref.copy is not None or shown["safe"] == "no"):
        shown.update(_of_copy(shown["safe"], shown["place"]))
    return shown


def _of_copy(safe: str, place: str) -> Dict[str, Any]:
    """Return what there is to say of a value that is in no store any more, by what is known of its copy."""
    if safe == "yes":
        return {"state": "tier", "why": "The next task that reads it loads its copy.", "safe": safe, "place": place}
    if safe == "no":
        return {"state": "gone", "why": "It was freed, or its store restarted.", "safe": "lost", "place": place}
    # Its row was written before it was saved, if it was.
    return {"state": "away", "why": "If it was saved, the next task that reads it loads its copy.", "safe": "unknown"}


def _safe(durable: str) -> Tuple[str, str]:
    """Return whether a value outlives its store, as ``Durable`` says it in a text: yes, soon, no or unknown."""
    if not durable:
        return "unknown", ""
    state, _, detail = durable.partition(":")
    if state in ("no", "soon"):
        return state, detail.strip()
    return "yes", durable


def _is_ours(info: Any) -> bool:
    return bool(info.labels.get(DEPLOYMENT_LABEL) == get_settings().deployment)


def _is_of(row: RowReference, info: Any, dag_ids: AbstractSet[str]) -> bool:
    """Whether an object, or without one the copy that a row names, is of one of these DAGs and of this deployment."""
    if info is not None:
        return _is_ours(info) and info.labels.get("dag_id") in dag_ids
    path = [unquote(part) for part in (row.ref.copy or "").split("/")]
    return len(path) > 2 and path[0] == get_settings().deployment and path[1] in dag_ids


# ---- sums


class _Kept:
    """The sums of all rows, made by one thread for all that ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._sums: List[Sum] = []

    def get(self) -> List[Sum]:
        """Return the sums; while they are made anew, all but one of those who ask get the old ones."""
        if self._sums and time.monotonic() < self._until:
            return self._sums
        if self._lock.acquire(blocking=not self._sums):
            try:
                if time.monotonic() >= self._until:
                    with database.session_for("so there are no sums") as session:
                        self._sums = sums(session)
                    self._until = time.monotonic() + _SUMS_KEPT
            finally:
                self._lock.release()
        return self._sums

    def forget(self) -> None:
        """Make them anew when they are needed next."""
        self._until = 0.0


_SUMS = _Kept()


def _nothing() -> Dict[str, Any]:
    return {"objects": 0, "bytes": 0, "ended": 0}


def _add(share: Dict[str, Any], each: Sum) -> None:
    share["objects"] += each.objects
    share["bytes"] += each.bytes
    share["ended"] += each.bytes if each.ended else 0


def _largest(shares: Dict[str, Dict[str, Any]]) -> List[Dict[str, Any]]:
    return sorted(shares.values(), key=lambda share: -share["bytes"])[:_MOST]
