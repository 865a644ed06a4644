"""Whether Airflow's database is the one that the objects in a store belong to, before anything is freed by it.

A process may be given another database than the tasks have: none was configured, so it is an empty file that Airflow
has just made; or that of another deployment. Judged by its rows every value would be an orphan. Tasks of Airflow 3 have
no access to the database, so objects cannot carry its identity; they carry the deployment's name and their DAG. So:

- a database has a random id, as a variable of Airflow's (``vineyard_database_id``), made when it is first needed;
- a store has a note for each deployment, an object that has the id of its database as a label, and in the tier, if
  there is one, as part of its key;
- the note is made when the database has shown that it is the right one: a row of it refers to one of the objects, or it
  knows at least one of their DAGs;
- from then on the two must agree, whatever rows and DAGs are left in the database.

A restarted store without a tier has no note, and no objects of before either.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Iterable, List, Optional, Set

from airflow_provider_vineyard import version_compat

if TYPE_CHECKING:
    from vineyard_client import Client, ObjectInfo

__all__ = ["NOTE_LABEL", "VARIABLE", "UnknownDatabase", "recognise"]

log = logging.getLogger(__name__)

VARIABLE = "vineyard_database_id"

# The label of a note is the name of the deployment; the other one is the id of its database.
NOTE_LABEL = "airflow_database_of"
_ID_LABEL = "airflow_database_id"

# What the keys of notes begin with in a tier; no deployment can have that name.
_NOTE_PATH = "database of"

_DESCRIPTION = "Tells vineyard's gc --orphans that this is the database of its objects. Leave it as it is."

# Names of DAGs in one query.
_BATCH = 500

_OPTION = (
    "See that this process has the database of the deployment (AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, "
    "AIRFLOW__CORE__SQL_ALCHEMY_CONN before 2.3), and that no other deployment on this store has the same name "
    "([vineyard] deployment). If the database is the right one nevertheless, say so once with --trust-database."
)


class UnknownDatabase(RuntimeError):
    """Airflow's database is not known to be the one that the objects belong to; nothing was freed."""


def recognise(
    client: Client,
    deployment: str,
    infos: Iterable[ObjectInfo],
    *,
    referred: bool,
    trusted: bool = False,
    dry_run: bool = False,
) -> None:
    """Return if the database is the one that a deployment's objects belong to.

    Args:
        client: of the store.
        deployment: its name.
        infos: its objects.
        referred: whether a row of the database refers to one of them.
        trusted: somebody says that it is the right one; the note is made or replaced.
        dry_run: make no note and no variable.

    Raises:
        UnknownDatabase: it is another one, or knows nothing of the objects.
        VineyardError: the store refused the note, or the tier cannot be listed.
    """
    notes = list(client.list(labels={NOTE_LABEL: deployment}))
    saved = client.saved
    copies = list(saved.list(_NOTE_PATH, deployment)) if saved is not None else []
    noted = {note.labels.get(_ID_LABEL, "") for note in notes} | {copy.key.split("/")[-2] for copy in copies}
    here = _database_id()
    if noted and not trusted:
        if noted == {here}:
            return
        raise UnknownDatabase(
            f"The objects of the deployment {deployment!r} in {client.socket} belong to the database "
            f"{', '.join(sorted(noted))}, and this one is {here or 'without an id'}: nothing was freed. {_OPTION}"
        )
    dag_ids = {info.labels["dag_id"] for info in infos if "dag_id" in info.labels}
    if not (trusted or referred or _knows_any(dag_ids)):
        raise UnknownDatabase(
            f"Airflow's database has no row that refers to any object of the deployment {deployment!r} in "
            f"{client.socket}, and knows none of their {len(dag_ids)} DAGs: nothing was freed. {_OPTION}"
        )
    if dry_run:
        return
    here = here or _make_id()
    if here is None or noted == {here}:
        return
    labels = {NOTE_LABEL: deployment, _ID_LABEL: here}
    client.put(f"the database {here}", labels=labels, path=(_NOTE_PATH, deployment, here))
    for note in notes:
        client.delete(note.ref)
    if saved is not None:
        saved.delete(copies)


def _database_id() -> Optional[str]:
    """Return the id of the database, None if it has none."""
    from sqlalchemy.exc import SQLAlchemyError

    model = version_compat.variable_model()
    try:
        with version_compat.create_session() as session:
            # As it is stored: nothing in it is secret, and a process with another Fernet key must be able to read it.
            found: Optional[str] = session.query(model._val).filter(model.key == VARIABLE).scalar()
    except SQLAlchemyError as error:
        log.debug("the database does not tell its id: %s", error)
        return None
    return found


def _make_id() -> Optional[str]:
    """Give the database an id and return it, or the one that another process gave it meanwhile."""
    from sqlalchemy.exc import SQLAlchemyError

    variable = version_compat.variable_model()(key=VARIABLE, description=_DESCRIPTION)
    variable._val, variable.is_encrypted = os.urandom(16).hex(), False
    try:
        with version_compat.create_session() as session:
            session.add(variable)
    except SQLAlchemyError as error:
        log.debug("the database is given no id here: %s", error)
    return _database_id()


def _knows_any(dag_ids: Set[str]) -> bool:
    """Whether the database knows any of these DAGs, or a run of one."""
    from sqlalchemy.exc import SQLAlchemyError

    names: List[str] = sorted(dag_ids)
    try:
        with version_compat.create_session() as session:
            for model in version_compat.dag_models():
                for start in range(0, len(names), _BATCH):
                    some: Any = session.query(model.dag_id).filter(model.dag_id.in_(names[start : start + _BATCH]))
                    if some.first() is not None:
                        return True
    except SQLAlchemyError as error:
        log.debug("the database does not tell which DAGs it knows: %s", error)
    return False
