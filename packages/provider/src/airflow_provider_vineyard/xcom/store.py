"""The side of the backend that knows core: put a value and write its row, get it back, free it.

A value is encoded once. If it is small then, its row holds it, and no server is asked, neither now nor when it is read;
else it goes to vineyard as it was encoded. Core is imported when a value comes here, so a task that exchanges only
plain JSON does not pay for the import. Core's errors keep their class; their text gains which XCom it was and what to
do in Airflow. One line at INFO for each put and get; with the value's text if its row holds it, else never with the
value. What shows a value follows Airflow's masking.
"""

from __future__ import annotations

import copy
import logging
import time
from typing import TYPE_CHECKING, Any, Dict, Set, Tuple, Union

from airflow_provider_vineyard import stats, version_compat
from airflow_provider_vineyard.clients import get_client, is_from_outside, require_core
from airflow_provider_vineyard.interpreters import arguments as arguments_elsewhere
from airflow_provider_vineyard.reference import (
    DEPLOYMENT_LABEL,
    SHOWN_LIMIT,
    Origin,
    RowReference,
    RowValue,
    parse_row,
    printable,
)
from airflow_provider_vineyard.settings import Settings, get_settings
from airflow_provider_vineyard.xcom import members, previews
from airflow_provider_vineyard.xcom.arguments import NOT_FINITE, unfit_as_argument

if TYPE_CHECKING:
    from vineyard_client import Client, EncodedValue, ObjectRef, UnsafeType, VineyardError

__all__ = ["adopt", "free", "get", "get_bare", "path_of", "put", "put_options"]

log = logging.getLogger(__name__)

# Seconds for which nothing is freed after the server was too slow once; and until when, in monotonic time.
_PAUSE = 60.0
_too_slow = [0.0]

# The id of what never was in a store.
_IN_NO_STORE = f"o{0:016x}"

# Tokens of results that another interpreter has put for this task.
_adopted: Set[str] = set()


def put(value: object, origin: Origin) -> Dict[str, Any]:
    """Store a value in its row or in vineyard, or pass on the one that an ``ObjectRef`` refers to; return the row.

    Raises:
        UnsafeType: the value holds a class that readers would not accept.
        StoreFull: there is no room.
        ObjectNotFound: the ``ObjectRef`` refers to nothing.
        VineyardError: the server cannot be reached or started, or refused.
    """
    require_core()
    from vineyard_client import ObjectRef, VineyardError

    settings = get_settings()
    started = time.perf_counter()
    row: Union[RowReference, RowValue]
    try:
        if isinstance(value, ObjectRef):
            client = get_client(settings)
            durable = _durable(client, settings, value) if value.token in _adopted else ""
            row = RowReference.describe(
                value, client.info(value), origin=origin, owned=value.token in _adopted, durable=durable
            )
            _adopted.discard(value.token)
        else:
            row = _put(value, origin, settings)
    except VineyardError as error:
        stats.failed("put", error, origin)
        raise _explained(error, f"{origin} cannot be stored", _put_hint(error, settings)) from error
    milliseconds = (time.perf_counter() - started) * 1000
    if isinstance(row, RowValue):
        stats.exchanged("put", stats.ROW, origin)
        _log_value("put", row, milliseconds)
        return row.to_json()
    if row.owned:
        place = "outside" if row.ref.id == _IN_NO_STORE else "store"
        stats.exchanged("put", place, origin, row.ref.size, milliseconds)
    log.info(
        "put %s: %s, %d B, %s, durable: %s, %.1f ms",
        origin,
        row.ref.type,
        row.ref.size,
        _where_put(row),
        row.durable or "no",
        milliseconds,
    )
    return row._replace(summary=_masked(row.summary)).to_json()


def _where_put(row: RowReference) -> str:
    if not row.owned:
        return f"passed on by reference, {row.ref.id}"
    if row.ref.id == _IN_NO_STORE:
        return "outside of the local vineyard, which is full"
    return f"in the local vineyard as {row.ref.id}"


def _durable(client: Client, settings: Settings, *refs: ObjectRef) -> str:
    """Say whether a value is saved, for people: for one in parts what holds for the part that is least safe.

    What is going to be saved is not looked for: that would take as long as it takes to store a small value.
    """
    from vineyard_client import Durable

    if client.saved is None:
        return "no"
    soon = Durable("soon", settings.tier[0])
    later = settings.durability == "behind"
    found = [soon if later and ref.copy and ref.id != _IN_NO_STORE else client.saved.where(ref) for ref in refs]
    return str(min(found, key=lambda durable: ("no", "soon", "yes").index(durable.state)))


def adopt(ref: ObjectRef) -> ObjectRef:
    """Return a reference to what was put for this task: the next row with it owns the object.

    Args:
        ref: to an object that is in no row, with the labels of this deployment.
    """
    _adopted.add(ref.token)
    return ref


def _put(value: Any, origin: Origin, settings: Settings) -> Union[RowReference, RowValue]:
    from vineyard_client import encode

    parts = members.pushed(value, origin)
    if parts:
        return _put_with_parts(value, parts, origin, settings)
    with encode(value, **_trust(settings)) as encoded:
        if encoded.size <= settings.inline_threshold:
            members.remember_size(origin, encoded.size)
            return RowValue.describe(encoded, _text(value, encoded, origin), origin=origin)
        client = get_client(settings)
        ref = client.put(encoded, **put_options(origin, settings), **previews.options(origin, settings))
    members.remember(origin, ref)
    durable = _durable(client, settings, ref)
    return RowReference.describe(ref, client.info(ref), origin=origin, owned=True, durable=durable)


def _put_with_parts(
    value: Dict[str, Any], pushed: Dict[str, ObjectRef], origin: Origin, settings: Settings
) -> RowReference:
    client, options = get_client(settings), put_options(origin, settings)
    parts: Dict[str, ObjectRef] = {}
    try:
        for key, ref in pushed.items():
            shown = previews.options(origin._replace(key=key), settings)
            parts[key] = client.put(value[key], same_as=ref, **options, **shown)
        ref = client.put({**value, **dict.fromkeys(parts)}, **options, **previews.options(origin, settings))
    except BaseException:
        for part in parts.values():
            client.delete(part)
        raise
    durable = _durable(client, settings, ref, *parts.values())
    row = RowReference.describe(ref, client.info(ref), origin=origin, owned=True, durable=durable)
    return row.with_parts(len(value), parts)


def put_options(origin: Origin, settings: Settings) -> Dict[str, Any]:
    """Return what core's ``put`` is told of an XCom's object beside the value."""
    labels = {**origin.labels(), DEPLOYMENT_LABEL: settings.deployment}
    path = path_of(origin, settings)
    return {"labels": labels, "persist": settings.persist, "host": settings.host, "path": path}


def path_of(origin: Origin, settings: Settings) -> Tuple[str, ...]:
    """Return the names under which people find the copy of a value in the tier."""
    known = (settings.deployment, origin.dag_id, origin.run_id, origin.task_id, origin.map_index, origin.key)
    return tuple(str(part) for part in known if part is not None)


def _trust(settings: Settings) -> Dict[str, Any]:
    return {"allowed_classes": settings.allowed_classes, "passive_classes": settings.passive_classes}


def get(row: object) -> Any:
    """Return the value that a row holds or refers to; it is the caller's to change.

    Large buffers of one that is in vineyard are mapped, copy-on-write.

    Raises:
        InvalidReference: the row was forged or edited.
        ObjectNotFound: the object is gone.
        VineyardError: the value cannot be made, or the server cannot be reached or started, or refused.
    """
    require_core()
    from vineyard_client import InvalidReference, VineyardError

    settings = get_settings()
    reference = parse_row(row)
    if isinstance(reference, RowValue):
        return _value_in(reference, settings)
    if arguments_elsewhere.wanted():
        return arguments_elsewhere.Argument(row, reference)
    started = time.perf_counter()
    try:
        client = get_client(settings)
        value: Any = client.get(reference.alone)
        source, place = client.source, _place(client.source, reference)
        if not isinstance(value, dict) and reference.parts:
            raise InvalidReference(f"{reference.ref.id} is no dict, and has no parts.", "The row was edited.")
        for key, part in reference.parts.items():
            value[key] = client.get(part)
    except VineyardError as error:
        put = f"{reference.ref.type}, put on {reference.host} at {reference.created}"
        what = f"{reference.origin} ({put}) cannot be read"
        hint = _hint_of_a_copy(error, reference, settings) or _get_hint(error, reference.origin, settings)
        stats.failed("get", error, reference.origin)
        raise _explained(error, what, hint) from error
    milliseconds = (time.perf_counter() - started) * 1000
    stats.exchanged("get", source, reference.origin, reference.ref.size, milliseconds)
    log.info(
        "get %s: %s, %d B, %s, %s, %.1f ms",
        reference.origin,
        reference.ref.type,
        reference.ref.size,
        place,
        reference.ref.id,
        milliseconds,
    )
    _warn(reference.origin, value)
    return value


def _value_in(row: RowValue, settings: Settings) -> object:
    from vineyard_client import VineyardError, loads

    started = time.perf_counter()
    try:
        value = loads(row.content, **_trust(settings))
    except VineyardError as error:
        what = f"{row.origin} ({row.type}, put on {row.host} at {row.created}) cannot be read"
        stats.failed("get", error, row.origin)
        raise _explained(error, what, _get_hint(error, row.origin, settings)) from error
    stats.exchanged("get", stats.ROW, row.origin)
    _log_value("get", row, (time.perf_counter() - started) * 1000)
    _warn(row.origin, value)
    return value


def _warn(origin: Origin, value: object) -> None:
    """Say why the task is about to fail, if it is: Airflow's own message names neither the value nor what to do."""
    unfit = unfit_as_argument(value) if version_compat.is_airflow_3() else None
    if unfit is not None:
        log.info(
            "%s holds %s, which Airflow 3 cannot send to its API server. As an argument it fails the task before its "
            "code runs: pull it in the task with ti.xcom_pull instead%s.",
            origin,
            unfit,
            ", or set [core] max_templated_field_length = 1" if unfit == NOT_FINITE else "",
        )


def get_bare(id: str, origin: Origin) -> Any:
    """Return the value of a row that is an object id alone, as vineyard's own provider wrote it; it is copied.

    Raises:
        ObjectNotFound: the object is gone.
        VineyardError: its type is not known here, or the server cannot be reached or started, or refused.
    """
    require_core()
    from vineyard_client import VineyardError

    settings = get_settings()
    started = time.perf_counter()
    try:
        client = get_client(settings)
        ref = client.reference(id)
        value = client.get(ref)
    except VineyardError as error:
        what = f"{origin} is the object id {id}, as vineyard's own provider wrote rows, and cannot be read"
        stats.failed("get", error, origin)
        raise _explained(error, what, _get_hint(error, origin, settings)) from error
    milliseconds = (time.perf_counter() - started) * 1000
    stats.exchanged("get", "store", origin, ref.size, milliseconds)
    log.info(
        "get %s: %s, %d B, written by vineyard's own provider, %s, %.1f ms",
        origin,
        ref.type,
        ref.size,
        id,
        milliseconds,
    )
    return value


def free(row: object) -> None:
    """Delete the object that a row owns; readers that have its value keep it.

    It raises nothing but what a signal handler does: Airflow would fail a task that is about to run again, on each try.
    What cannot be freed now is logged and left to ``gc --orphans`` on the host that has it. No server is started for
    it, unless the value has a copy that goes as well: an empty one has nothing to free. Airflow frees a task's rows one
    by one before it runs: when the server is too slow for one of them, the others do not wait for it as well.
    """
    if time.monotonic() < _too_slow[0]:
        log.warning("vineyard is too slow; an old XCom stays until gc --orphans runs there: %s", row)
        return
    try:
        reference = parse_row(row)
        if isinstance(reference, RowValue):
            return  # it ends with its row
        require_core()
        if not reference.owned:
            log.debug("%s was passed on by reference, its object stays: %s", reference.origin, reference.ref.id)
            return
        client = get_client(get_settings(), start=reference.ref.copy is not None)
        deleted = [client.delete(ref) for ref in (reference.ref, *reference.parts.values())]
        log.info("%s %s: %s", "freed" if any(deleted) else "already gone:", reference.origin, reference.ref.id)
    except Exception as error:
        if is_from_outside(error):
            raise
        if isinstance(error, TimeoutError):
            _too_slow[0] = time.monotonic() + _PAUSE
        log.warning(
            "An old XCom could not be freed and may still take room in vineyard, until gc --orphans runs there: %s",
            error,
        )


def _log_value(verb: str, row: RowValue, milliseconds: float) -> None:
    """Log the one line for a value that is in its row; what the row says may have been edited."""
    log.info(
        "%s %s: %s %s, %d B, inline in the database, %.1f ms",
        verb,
        row.origin,
        printable(row.type, SHOWN_LIMIT),
        _masked(printable(row.text, SHOWN_LIMIT)),
        len(row.content),
        milliseconds,
    )


def _text(value: object, encoded: EncodedValue, origin: Origin) -> str:
    """Return what people see of a value; without Airflow's masker, which some processes lack, that is no value."""
    from airflow_provider_vineyard.xcom.shown import text_of  # the backend itself has to be imported fast

    try:
        masker = version_compat.secrets_masker()
        return text_of(
            value,
            encoded.summary,
            name=origin.key,
            redact=masker.redact,
            is_hidden=masker.should_hide_value_for_key,
        )
    except RuntimeError:
        return encoded.summary


def _masked(text: str) -> str:
    """Return a text without the secrets that are registered with Airflow."""
    try:
        return str(version_compat.secrets_masker().redact(text))
    except RuntimeError:  # a logging configuration of somebody's own, without a masker
        return text


def _place(source: str, reference: RowReference) -> str:
    """Say where a value came from."""
    if source == "tier":
        return "from its copy"
    if source == "replica":
        return f"from the local replica of the one on {reference.host}"
    if source == "host":
        return f"migrated from {reference.host} ({reference.ref.endpoint})"
    return "from the local vineyard"


def _explained(error: VineyardError, what: str, hint: str) -> VineyardError:
    """Return the error with more to say: the same class and attributes, so that callers can still tell."""
    explained = copy.copy(error)
    explained.what = f"{what}: {error.what}"
    explained.hint = hint or error.hint
    explained.args = (explained.what, explained.hint, *error.args[2:])
    return explained


def _put_hint(error: VineyardError, settings: Settings) -> str:
    from vineyard_client import StoreFull, UnsafeType

    if isinstance(error, UnsafeType):
        return _class_hint(error)
    if isinstance(error, StoreFull):
        if settings.tier:
            return (
                f"Neither memory nor the disk has room. {error.hint} airflow-vineyard gc --orphans, or --older-than, "
                "frees what no DAG run needs any more."
            )
        larger = "set a larger [vineyard] size" if settings.embedded else "give vineyardd a larger --size"
        if error.limit and error.requested > error.limit:
            return f"The value is larger than the whole store: {larger} and restart it."
        return (
            "Free what no DAG run needs any more with airflow-vineyard gc --orphans, or --older-than, on this host, or "
            f"{larger} and restart it."
        )
    return _connection_hint(error, settings)


def _hint_of_a_copy(error: VineyardError, reference: RowReference, settings: Settings) -> str:
    """Return what to do about a value that is saved where this configuration does not look."""
    from vineyard_client import ObjectNotFound

    if not isinstance(error, ObjectNotFound) or reference.ref.copy is None or settings.tier:
        return ""
    return (
        f"It is saved as {reference.ref.copy}, and nothing says where that is: set [vineyard] tier to what it was (the "
        f"row says {reference.durable or 'nothing'}), with [vineyard] durability = none if nothing more is to be saved."
    )


def _get_hint(error: VineyardError, origin: Origin, settings: Settings) -> str:
    from vineyard_client import ConnectionFailed, ObjectNotFound, UnsafeType

    if isinstance(error, ObjectNotFound):
        task = f"task {origin.dag_id}.{origin.task_id}" if origin.task_id else "the task that returned it"
        return (
            "The object was deleted or it expired, or vineyardd was restarted since, and no tier has the value. "
            f"Clear {task}, so that it runs again and stores the value anew."
        )
    if isinstance(error, UnsafeType):
        return _class_hint(error)
    hint = _connection_hint(error, settings)
    if isinstance(error, ConnectionFailed) and settings.embedded:
        task = f"clear {origin.dag_id}.{origin.task_id}" if origin.task_id else "clear the task that returned it"
        hint += f" If it has ended and the value was saved nowhere, {task}."
    return hint


def _class_hint(error: UnsafeType) -> str:
    """Return core's hint, with Airflow's options in the place of core's arguments."""
    if not error.patterns:
        return error.hint  # what can never be allowed
    # Core's first sentence says what to allow; what it says of the rest stays.
    _, _, rest = error.hint.partition("].")
    listed = " ".join(error.patterns)
    return (
        f"If it is yours to trust, add {listed} to [vineyard] allowed_classes on every host, else return plain data."
        f"{rest}"
    )


def _connection_hint(error: VineyardError, settings: Settings) -> str:
    from vineyard_client import ConnectionFailed, ServerStartFailed, TierFailed

    if isinstance(error, TierFailed):
        return error.hint.replace("vineyard-client agent --socket PATH --tier URL", "airflow-vineyard agent")
    if isinstance(error, ServerStartFailed) or not isinstance(error, ConnectionFailed):
        return error.hint
    if settings.embedded and settings.autostart:
        return f"This is the embedded server, see {settings.ipc_socket}.log; the next try starts it again."
    if settings.embedded:
        return (
            "No [vineyard] ipc_socket is configured and [vineyard] autostart is off: set the one or turn on the other."
        )
    return f"Start vineyardd at {settings.ipc_socket}, or correct [vineyard] ipc_socket (or VINEYARD_IPC_SOCKET)."
