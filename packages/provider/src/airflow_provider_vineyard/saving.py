"""``save``: copy into the tier what was stored before there was one, and note in its row where the copy is.

A value that is in the store of this host and whose row has no copy is saved as if it were put now, and its row, of
version 1, becomes one of version 3 with the key of the copy, from which every host can read it. So it is with the parts
of a dict.

A task may write the row anew meanwhile, for another value: a row is changed only if it still is the one that was read,
which its time of writing tells. Else the copy belongs to no row, and ``gc --orphans`` finds it, as it finds that of a
process that is killed in between.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, List, NamedTuple, Optional, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.clients import get_client, get_client_if_running
from airflow_provider_vineyard.reference import ROW_KEY, RowReference, looks_like_row, parse_row
from airflow_provider_vineyard.rows import session_for, stream
from airflow_provider_vineyard.settings import Settings, get_settings

if TYPE_CHECKING:
    from vineyard_client import Client, ObjectRef, SavedValues

__all__ = ["Saved", "save_values"]

log = logging.getLogger(__name__)

_CONSEQUENCE = "so nobody can tell which values have rows, and nothing was saved"


class Saved(NamedTuple):
    """What was saved, or would be.

    Attributes:
        tier: where.
        saved: number of XComs.
        bytes: that they have together.
        already: how many were saved before.
        elsewhere: how many are not in the store of this host.
    """

    tier: str
    saved: int
    bytes: int
    already: int
    elsewhere: int


class _Row(NamedTuple):
    """A row that has no copy, and how to find it again."""

    identity: Tuple[Any, ...]
    reference: RowReference


def save_values(*, dag_id: Optional[str] = None, dry_run: bool = False) -> Saved:
    """Save what is in the store of this host and has a row without a copy; return when all of it is saved.

    Args:
        dag_id: only XComs of this DAG.
        dry_run: save nothing, only tell what would be.

    Raises:
        AirflowConfigException: there is no tier that is written, or an option has a wrong value.
        VineyardError: the server cannot be reached, or the tier does not take a value; what was saved by then stays.
        DatabaseUnavailable: the rows cannot be read.
    """
    settings = get_settings()
    if not settings.tier or settings.durability == "none":
        raise version_compat.config_exception()(
            "[vineyard] tier is empty or none, or [vineyard] durability is none, so there is nowhere to save anything. "
            "Set them first."
        )
    already, rows = _rows(dag_id)
    # An embedded server that does not run has nothing to save.
    client = get_client_if_running(settings) and get_client(settings)
    if client is None or client.saved is None:
        return Saved(settings.tier[0], 0, 0, already, len(rows))
    done = nbytes = 0
    for row in rows:
        if not _is_here(client, row.reference):
            continue
        if not dry_run and not _save(client.saved, row, settings):
            continue
        done += 1
        nbytes += row.reference.ref.size
    if not dry_run:
        client.saved.drain(settings.tier_timeout)
    return Saved(settings.tier[0], done, nbytes, already, len(rows) - done)


def _columns() -> List[Any]:
    """Return the columns that tell a row from all others, and from what it was before."""
    from sqlalchemy import inspect

    model = version_compat.xcom_model()
    return [*inspect(model).primary_key, model.__table__.c.timestamp]


def _rows(dag_id: Optional[str]) -> Tuple[int, List[_Row]]:
    """Return how many rows have a copy, and those that refer to an object and have none."""
    found, already = [], 0
    own = version_compat.xcom_model().__table__.c.dag_id
    with session_for(_CONSEQUENCE) as session:
        for held, (of_dag, *identity) in stream(session, own, *_columns()):
            reference = _parsed(held) if dag_id in (None, of_dag) else None
            if reference is None:
                continue
            if all(ref.copy is not None for ref in (reference.ref, *reference.parts.values())):
                already += 1
            else:
                found.append(_Row(tuple(identity), reference))
    return already, found


def _parsed(held: object) -> Optional[RowReference]:
    """Return the reference in a row; None if it holds a value, or somebody edited it."""
    from vineyard_client import VineyardError

    try:
        row = parse_row({ROW_KEY: held})
    except VineyardError as error:
        log.warning("a row is left as it is: %s", error)
        return None
    return row if isinstance(row, RowReference) else None


def _is_here(client: Client, reference: RowReference) -> bool:
    from vineyard_client import VineyardError

    try:
        # One whose own host has to be asked is saved there.
        return all(
            client.info(replace(ref, endpoint=None)).socket == client.socket
            for ref in (reference.ref, *reference.parts.values())
        )
    except VineyardError as error:
        log.debug("%s is not here: %s", reference.origin, error)
        return False


def _save(saved: SavedValues, row: _Row, settings: Settings) -> bool:
    """Save a value and its parts, and change its row; return False if the row is another one by now."""
    from airflow_provider_vineyard.xcom.store import path_of

    reference = row.reference
    path = path_of(reference.origin, settings)

    def save(ref: ObjectRef) -> ObjectRef:
        return ref if ref.copy is not None else saved.save(ref, path)

    parts = {key: save(part) for key, part in reference.parts.items()}
    ref = save(reference.alone)
    changed = reference._replace(ref=replace(ref, size=reference.ref.size), parts=parts, durable=str(saved.where(ref)))
    if _update(row.identity, changed):
        log.info("saved %s as %s", reference.origin, ref.copy)
        return True
    log.warning("%s was written anew meanwhile and is left as it is", reference.origin)
    return False


def _update(identity: Tuple[Any, ...], reference: RowReference) -> bool:
    from sqlalchemy import and_

    table = version_compat.xcom_model().__table__
    row: Any = reference.to_json()
    assert looks_like_row(row)
    value = row if version_compat.is_airflow_3() else json.dumps(row).encode()
    same = and_(*(column == known for column, known in zip(_columns(), identity)))
    with session_for(_CONSEQUENCE) as session:
        return bool(session.execute(table.update().where(same).values(value=value)).rowcount)
