"""Which stores may be asked, what they say of objects and of themselves, and in which words a page tells it.

This host's store is asked by its socket, with all that a page shows, because it may have a copy of anything; and each
other one that ``[vineyard] peers`` lists, by its endpoint, for what rows say is there. See ``hosts`` for who is not
asked, and for how long any of it may take.
"""

from __future__ import annotations

import os
import socket
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Callable, Dict, Hashable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from airflow_provider_vineyard.clients import get_client, require_core
from airflow_provider_vineyard.settings import Settings, get_settings
from airflow_provider_vineyard.ui.hosts import BUDGET, Answer, Hosts

if TYPE_CHECKING:
    from vineyard_client import Client, ObjectInfo, ObjectRef, Peer

__all__ = ["Sight", "delete", "look", "preview", "saved", "states"]

_LOCAL = "this host"

# Stores on one page.
_MOST = 100

_hosts = Hosts()


class Sight(NamedTuple):
    """What became of looking for one object.

    Attributes:
        state: ``there``, ``gone``, ``silent`` if its store does not answer, ``unknown`` if nobody may ask it.
        info: what the store knows of it; None if it is not there.
        where: the store that has it: its endpoint, or this host.
        why: a sentence, where it was not found.
        durable: whether it is saved, as far as this host knows it; empty if it does not.
    """

    state: str
    info: Optional[ObjectInfo] = None
    where: str = ""
    why: str = ""
    durable: str = ""


def look(groups: Sequence[Tuple[str, Sequence[ObjectRef]]], *, kept: bool = True) -> List[Tuple[Sight, ...]]:
    """Return for each group of references what became of them.

    Args:
        groups: the host on which they were put, and references.
        kept: whether an answer may be some seconds old.
    """
    settings = _ready()
    if not kept:
        _hosts.forget()
    refs = list(dict.fromkeys(ref for _, group in groups for ref in group))
    by_store: Dict[str, List[ObjectRef]] = {_LOCAL: refs} if refs else {}
    for ref in refs:
        if ref.endpoint is not None and _allowed(ref.endpoint, settings):
            by_store.setdefault(ref.endpoint, []).append(ref)
    questions: Dict[Tuple[Hashable, Hashable], Callable[[float], Any]] = {
        (store, tuple((ref.id, ref.token) for ref in wanted)): _looking(store, wanted, settings)
        for store, wanted in by_store.items()
    }
    if refs:
        questions[(_LOCAL, "status")] = _status(_LOCAL, settings)
    answers = _hosts.ask(questions)
    status = answers.pop((_LOCAL, "status"), Answer()).value
    own = {settings.rpc_endpoint, status and status[0].endpoint} - {None}
    found: Dict[Tuple[str, ObjectRef], Any] = {}
    errors: Dict[str, Any] = {}
    for (store, _), answer in answers.items():
        errors[store] = answer.error
        found.update(((store, ref), each) for ref, each in zip(by_store[store], answer.value or ()))
    names = {_host_name(settings), socket.gethostname()}
    return [tuple(_sight(ref, host, found, errors, own, names) for ref in group) for host, group in groups]


def _sight(
    ref: ObjectRef, host: str, found: Dict[Any, Any], errors: Dict[str, Any], own: Iterable[Any], names: Iterable[str]
) -> Sight:
    info, durable = found.get((_LOCAL, ref)) or (None, "")
    if info is not None:
        return Sight("there", info, _LOCAL, durable=durable)
    here = ref.endpoint in own or (ref.endpoint is None and host in names)
    store = _LOCAL if here else ref.endpoint
    if store is None:
        return Sight("unknown", why=f"The store on {host} can be asked there only: its RPC is off.")
    if store not in errors:
        return Sight("unknown", why=f"[vineyard] peers does not list {store}, so it is not asked.")
    if errors[store] is not None:
        return Sight("silent", why=_words(store, errors[store]))
    there = found.get((store, ref))
    if there is not None and there[0] is not None:
        return Sight("there", there[0], store)
    return Sight("gone", where=store, why="Its store does not have it any more: it was freed, or the store restarted.")


def preview(ref: ObjectRef, where: str) -> Tuple[object, str]:
    """Return the preview of a value, unchecked, and if there is none, why not.

    Args:
        ref: to the value.
        where: the store that has it, or empty for a copy in the tier.
    """
    settings = _ready()

    def ask(seconds: float) -> Any:
        if where in ("", _LOCAL):
            return _client(settings).preview(ref)
        with _peer(where, seconds, settings) as peer:
            return peer.preview(ref)

    store = where or _LOCAL
    answer = _hosts.ask({(store, ("preview", ref.id, ref.token)): ask})[(store, ("preview", ref.id, ref.token))]
    if not where and type(answer.error).__name__ == "ObjectNotFound":
        return None, "It is kept beside the value, which is not in memory."
    if answer.error is not None:
        return None, _words(store, answer.error)
    return answer.value, "" if answer.value is not None else "It was put without a preview, or before there were any."


def saved(refs: Sequence[ObjectRef]) -> str:
    """Return whether all these are saved, as ``Durable`` says it; a tier may be asked for it. Empty if nobody knows."""
    settings = _ready()

    def ask(seconds: float) -> str:
        values = _client(settings).saved
        if values is None:
            return ""
        found = [values.where(ref) for ref in refs]
        return str(next((each for each in found if each.state != "yes"), found[0]))

    answer = _hosts.once(ask)
    return answer.value or ""


def delete(found: Sequence[Tuple[ObjectRef, Sight]]) -> Tuple[int, str]:
    """Delete objects where they were seen; return how many that were, and what went wrong."""
    settings = _ready()
    freed = 0
    for ref, sight in found:

        def ask(seconds: float, ref: ObjectRef = ref, where: str = sight.where) -> bool:
            if where == _LOCAL:
                return _client(settings).delete(ref)
            with _peer(where, seconds, settings) as peer:
                return bool(peer.delete(ref))

        answer = _hosts.once(ask)
        if answer.error is not None:
            return freed, _words(sight.where, answer.error)
        freed += bool(answer.value)
    _hosts.forget()
    return freed, ""


def states(known: Iterable[Tuple[Optional[str], Optional[str]]]) -> List[Dict[str, Any]]:
    """Return the state of this host's store, and of all that rows lead to.

    Args:
        known: endpoint and host, as rows say it, the most important first.
    """
    settings = _ready()
    pairs = list(dict.fromkeys((endpoint, None if endpoint else host) for endpoint, host in known))
    endpoints = [endpoint for endpoint, _ in pairs if endpoint is not None and _allowed(endpoint, settings)]
    questions: Dict[Tuple[Hashable, Hashable], Callable[[float], Any]] = {
        (store, "status"): _status(store, settings) for store in (_LOCAL, *endpoints[:_MOST])
    }
    answers = {store: answer for (store, _), answer in _hosts.ask(questions).items()}
    local = _state(_LOCAL, answers[_LOCAL], settings)
    name = _host_name(settings)
    local.update(name=name, local=True, socket=settings.ipc_socket, embedded=settings.embedded)
    own = {settings.rpc_endpoint, local.get("endpoint")} - {None}
    names = {name, socket.gethostname()}
    local["keys"] = [(e, h) for e, h in pairs if e in own or (e is None and h in names)]
    shown = [local]
    for endpoint, host in pairs:
        if (endpoint, host) in local["keys"] or len(shown) > _MOST:
            continue
        if endpoint is not None and endpoint in answers:
            state = _state(endpoint, answers[endpoint], settings)
        elif endpoint is not None:
            state = {"state": "unknown", "why": f"[vineyard] peers does not list {endpoint}, so it is not asked."}
        else:
            state = {"state": "unknown", "why": f"The store on {host} can be asked there only: its RPC is off."}
        shown.append({**state, "name": endpoint or host or "?", "local": False, "keys": [(endpoint, host)]})
    return shown


def _state(store: str, answer: Answer, settings: Settings) -> Dict[str, Any]:
    if answer.error is not None:
        return {"state": "silent", "why": _words(store, answer.error)}
    status, tier = answer.value
    state = {
        "state": "up",
        "why": "",
        "used": status.memory_used,
        "limit": status.memory_limit,
        "connections": status.connections,
        "version": status.version,
        "endpoint": status.endpoint,
    }
    if tier is not None:
        state["tier"] = {
            "urls": list(tier.urls),
            "durability": tier.durability,
            "agent": tier.agent is not None,
            "unsaved": tier.unsaved.number,
            "unsaved_bytes": tier.unsaved.nbytes,
            "unsaved_age": tier.unsaved.age,
            "lost": tier.lost,
            "error": tier.last_error,
        }
    return state


def _looking(store: str, refs: Sequence[ObjectRef], settings: Settings) -> Callable[[float], Any]:
    def ask(seconds: float) -> List[Tuple[Any, str]]:
        with _peer(settings.ipc_socket if store == _LOCAL else store, seconds, settings) as peer:
            infos = peer.look(refs)
        saved = _client(settings).saved if store == _LOCAL else None
        return [(info, _durable(saved, ref, info)) for ref, info in zip(refs, infos)]

    return ask


def _durable(saved: Any, ref: ObjectRef, info: Optional[ObjectInfo]) -> str:
    """Return what this host's notes say of a value that it has; no tier is asked for it."""
    return "" if saved is None or ref.copy is None or info is None else str(saved.where(ref))


def _status(store: str, settings: Settings) -> Callable[[float], Any]:
    def ask(seconds: float) -> Tuple[Any, Any]:
        if store != _LOCAL:
            with _peer(store, seconds, settings) as peer:
                return peer.status(), None
        client = _client(settings)
        return client.status(), None if client.saved is None else client.saved.status()

    return ask


def _ready() -> Settings:
    """Return the settings, with core imported: what that takes the first time is no host's silence."""
    require_core()
    from vineyard_client import Peer  # noqa: F401

    return get_settings()


def _client(settings: Settings) -> Client:
    """Return the client of this host's store, which does not wait for it longer than a page may, nor starts it."""
    return get_client(settings, start=False, timeout=BUDGET)


def _peer(place: str, seconds: float, settings: Settings) -> Peer:
    from vineyard_client import Peer

    # As core's ``connect`` finds them.
    username, password = os.environ.get("VINEYARD_USERNAME", ""), os.environ.get("VINEYARD_PASSWORD", "")
    return Peer(place, timeout=seconds, username=username, password=password, peers=settings.peers)


def _allowed(endpoint: str, settings: Settings) -> bool:
    return any(fnmatchcase(endpoint, pattern) for pattern in settings.peers)


def _host_name(settings: Settings) -> str:
    return settings.host or socket.gethostname()


def _words(store: str, error: Exception) -> str:
    """Return in words why a store gave no answer."""
    if isinstance(error, TimeoutError):
        return f"The store of {store} does not answer."
    what = getattr(error, "what", "") or str(error) or type(error).__name__
    return f"The store of {store} cannot be asked: {what}"
