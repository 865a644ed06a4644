"""``gc``: free what no XCom needs any more, in the store of this host and in the tier.

What may be freed, and what decides:

- the store's own garbage (deleted values that nobody reads any more, what killed writers left, replicas of values that
  are gone from their own host): core's ``collect`` decides, whoever put it;
- orphans: objects of this deployment (they carry its name as a label) and saved copies (whose keys begin with it) whose
  token is in no row of Airflow's table of XComs. Airflow deletes rows in many ways that no backend learns of;
- on request, objects and copies of this deployment from a certain age on, whether a row refers to them or not.

Why no live value is taken for an orphan::

    task:   puts the value ............... writes its row
    gc:           lists copies and objects ....................... reads the rows

A value that is listed before its row is written is younger than the grace period, and left alone; every other listed
value had its row before the rows are read. So they are listed first, and the rows read after that. The age of a copy
is counted by the tier's clock, which for a bucket is not that of this host: there it is a day at least. A row counts
in whatever run it stands and whether it owns its object or not. A replica is never an orphan: it goes when its original
is gone. A reader of an object that is deleted keeps its value.

The rows are read as a stream (``rows``), and only the tokens are kept that are looked for, so memory is bounded by what
is in the store and the tier. Reading fails as a whole or not at all: with half the rows read, live values
would look like orphans. That the rows are those of the right database is ``identity``'s to say.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, AbstractSet, Iterable, Iterator, List, Optional, Sequence, Set
from urllib.parse import unquote

from airflow_provider_vineyard.clients import get_client, get_client_if_running
from airflow_provider_vineyard.identity import UnknownDatabase, recognise
from airflow_provider_vineyard.reference import DEPLOYMENT_LABEL
from airflow_provider_vineyard.rows import DatabaseUnavailable, session_for, stream
from airflow_provider_vineyard.settings import Settings, get_settings, is_folder

if TYPE_CHECKING:
    from vineyard_client import Client, ObjectInfo

__all__ = [
    "DEFAULT_GRACE",
    "DatabaseUnavailable",
    "Freed",
    "UnknownDatabase",
    "find_orphans",
    "free_unneeded",
    "referenced",
]

# A task writes the row right after the value, within seconds even on a loaded host.
DEFAULT_GRACE = timedelta(hours=1)

# What the clock of a bucket's service may differ from ours, and more.
_BUCKET_GRACE = timedelta(days=1)

ORPHAN, _EXPIRED = "orphan", "expired"

# What a copy is shown as; its type is in no key.
COPY = "saved copy"

# What the key of a value begins with that has no names.
_TOKEN_START = re.compile(r"[0-9a-f]{2}\Z")

_LABELS = ("dag_id", "run_id", "task_id", "map_index", "key")


@dataclass(frozen=True)
class Freed:
    """An object that was freed, or would be.

    Attributes:
        info: what the store knew of it.
        reason: ``orphan``, or one of core's: ``expired``, ``deleted``, ``writer died``, ``original gone``.
        frees: bytes that come free with it; what it shares with objects that stay does not.
    """

    info: ObjectInfo
    reason: str
    frees: int


def free_unneeded(
    *,
    orphans: bool = False,
    older_than: Optional[timedelta] = None,
    dag_id: Optional[str] = None,
    grace: timedelta = DEFAULT_GRACE,
    dry_run: bool = False,
    trust_database: bool = False,
    thorough: bool = False,
) -> List[Freed]:
    """Free the store's garbage, and orphans or old objects on request; return what was freed.

    An embedded server that does not run is started only if there is a tier to look into: it has nothing to free itself.

    Args:
        orphans: also delete objects to which no row refers.
        older_than: without ``orphans``, delete all objects of this age or older; with it, only orphans of that age.
        dag_id: only orphans and old objects of this DAG. Garbage is freed whoever made it.
        grace: age below which no object is an orphan.
        dry_run: free nothing, only return what would be.
        trust_database: with ``orphans``, go by the rows of a database that is not known to be that of the objects.
        thorough: have the server list everything to find its garbage; all others wait meanwhile. With ``orphans`` it
            does that in any case.

    Raises:
        VineyardError: the server cannot be reached or refused. What was freed by then stays freed.
        DatabaseUnavailable: the rows cannot be read; nothing was freed.
        UnknownDatabase: the database is another one than that of the objects, or knows nothing of them; nothing was
            freed.
        AirflowConfigException: an option of ``[vineyard]`` has a wrong value.
    """
    settings = get_settings()
    wanted = orphans or older_than is not None
    client = _client_with_tier(settings) if wanted else get_client_if_running(settings)
    if client is None:
        return []
    freed: List[Freed] = []
    if orphans:
        found = find_orphans(
            client,
            settings.deployment,
            min_age=max(grace, older_than or grace),
            dag_id=dag_id,
            dry_run=dry_run,
            trust_database=trust_database,
        )
        there = _weighed(client, [info for info in found if info.type != COPY])
        freed += [each for each in there if dry_run or client.delete(each.info.ref)]
        freed += _free_copies(client, [info for info in found if info.type == COPY], freed, ORPHAN, dry_run)
    elif older_than is not None:
        labels = {DEPLOYMENT_LABEL: settings.deployment}
        if dag_id is not None:
            labels["dag_id"] = dag_id
        copies = candidates(
            _copies(client, settings.deployment, dag_id), now=datetime.now(timezone.utc), min_age=older_than
        )
        for action in client.collect(older_than=older_than, labels=labels, dry_run=dry_run, thorough=thorough):
            freed.append(Freed(action.info, action.reason, action.frees))
        freed += _free_copies(client, copies, freed, _EXPIRED, dry_run)
    # Last, so that it also frees the memory of what was deleted above and is not read any more.
    known = {found.info.ref.id for found in freed}
    freed += [
        Freed(action.info, action.reason, action.frees)
        for action in client.collect(dry_run=dry_run, thorough=thorough)
        if action.info.ref.id not in known
    ]
    return freed


def _client_with_tier(settings: Settings) -> Optional[Client]:
    """Return the client of a store; one that does not run is started if there may be something in a tier."""
    client = get_client_if_running(settings)
    if client is not None or not (settings.tier and settings.autostart):
        return client
    empty = settings.default_tier and not any(map(os.path.isdir, settings.tier))
    return None if empty else get_client(settings)


def _free_copies(
    client: Client, copies: Sequence[ObjectInfo], freed: Sequence[Freed], reason: str, dry_run: bool
) -> List[Freed]:
    """Delete copies, and return those that did not go with an object."""
    if copies and client.saved is not None and not dry_run:
        from vineyard_client import SavedCopy

        client.saved.delete(
            SavedCopy(str(info.ref.copy), info.size, info.created.timestamp(), info.socket) for info in copies
        )
    gone = {found.info.ref.token for found in freed}
    return [Freed(info, reason, info.size) for info in copies if info.ref.token not in gone]


def _weighed(client: Client, orphans: Sequence[ObjectInfo]) -> List[Freed]:
    """Return orphans with what each frees: a piece of memory comes free with the last object that has it."""
    having: Counter[str] = Counter()
    for info in client.list(noted=True) if orphans else ():
        having.update(info.blobs.keys())
    freed = []
    for info in orphans:
        having.subtract(info.blobs.keys())
        frees = sum(nbytes for blob, nbytes in info.blobs.items() if having[blob] <= 0)
        freed.append(Freed(info, ORPHAN, frees if info.blobs else info.size))
    return freed


def find_orphans(
    client: Client,
    deployment: str,
    *,
    min_age: timedelta,
    dag_id: Optional[str] = None,
    dry_run: bool = False,
    trust_database: bool = False,
) -> List[ObjectInfo]:
    """Return the objects of a deployment to which no row refers, and the copies.

    Args:
        client: of the store.
        deployment: the deployment's name.
        min_age: the age from which on an object may be an orphan.
        dag_id: only objects of this DAG.
        dry_run: leave no note of whose database this is.
        trust_database: see ``free_unneeded``.

    Raises:
        VineyardError: the server cannot be reached or refused.
        DatabaseUnavailable: the rows cannot be read.
        UnknownDatabase: it is not known that these rows decide over these objects.
    """
    everything = list(_copies(client, deployment, dag_id))
    everything += client.list(labels={DEPLOYMENT_LABEL: deployment})
    listed = [info for info in everything if dag_id in (None, info.labels.get("dag_id"))]
    listed = candidates(listed, now=datetime.now(timezone.utc), min_age=min_age)
    needed = referenced({info.ref.token for info in everything})
    found = [info for info in listed if info.ref.token not in needed]
    if found or needed:
        try:
            recognise(client, deployment, everything, referred=bool(needed), trusted=trust_database, dry_run=dry_run)
        except UnknownDatabase:
            if found:
                raise
    return found


def _copies(client: Client, deployment: str, dag_id: Optional[str]) -> Iterator[ObjectInfo]:
    """Iterate over the copies of a deployment in the tiers, as objects that are in no store."""
    from vineyard_client import ObjectInfo, ObjectRef

    path = (deployment,) if dag_id is None else (deployment, dag_id)
    for copy in client.saved.list(*path) if client.saved is not None else ():
        _, *parts, _ = map(unquote, copy.key.split("/"))
        if not parts and _TOKEN_START.match(deployment):
            continue  # a value that a task put without names may have such a key
        yield ObjectInfo(
            ref=ObjectRef(f"o{0:016x}", copy.token, None, COPY, copy.size, copy.key),
            summary="",
            labels=dict(zip(_LABELS, parts)) if len(parts) == len(_LABELS) else {},
            created=datetime.fromtimestamp(copy.modified, timezone.utc),
            host="",
            socket=copy.tier,
        )


def candidates(infos: Iterable[ObjectInfo], *, now: datetime, min_age: timedelta) -> List[ObjectInfo]:
    """Return those objects that are orphans if no row refers to them: originals, and copies, of that age or older."""
    ages = ((info, now - info.created if info.age is None else info.age) for info in infos if info.origin is None)
    return [info for info, age in ages if age >= (max(min_age, _BUCKET_GRACE) if _in_a_bucket(info) else min_age)]


def _in_a_bucket(info: ObjectInfo) -> bool:
    return info.type == COPY and not is_folder(info.socket)


def referenced(tokens: AbstractSet[str]) -> Set[str]:
    """Return those of the tokens that stand in a row of Airflow's table of XComs.

    Raises:
        DatabaseUnavailable: the rows cannot be read.
    """
    found: Set[str] = set()
    with session_for("so nobody can tell which objects are orphans") as session:
        for held, _ in stream(session):
            found.update(token for token in _tokens(held) if token in tokens)
    return found


def _tokens(held: object) -> Iterator[str]:
    """Yield the tokens in what a row holds, its own and those of its parts; it may have been edited."""
    if isinstance(held, dict):
        token, parts = held.get("token"), held.get("parts")
        if isinstance(token, str):
            yield token
        if isinstance(parts, dict):
            for part in parts.values():
                yield from _tokens({**part, "parts": None} if isinstance(part, dict) else None)
