"""``status``: which store this configuration means, how full it is, whose objects are in it, and what is saved."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple, TypeVar
from urllib.parse import unquote

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard._version import __version__
from airflow_provider_vineyard.clients import get_client_if_running
from airflow_provider_vineyard.identity import NOTE_LABEL
from airflow_provider_vineyard.reference import DEPLOYMENT_LABEL
from airflow_provider_vineyard.settings import Settings, get_settings

if TYPE_CHECKING:
    from vineyard_client import ObjectInfo, SavedCopy, StoreStatus, TierStatus

__all__ = ["Share", "Status", "get_status", "not_running"]

# Objects, or copies, that are counted without being asked to: a fraction of a second.
_MOST = 5000

Item = TypeVar("Item")


class Share(NamedTuple):
    """A number of objects and their bytes in the store."""

    objects: int
    bytes: int


@dataclass(frozen=True)
class Status:
    """The store of this host as this Airflow sees it.

    Attributes:
        store: the state of vineyardd.
        embedded: whether it is the embedded server.
        deployment: the name of this Airflow in the labels of its objects.
        versions: of Airflow, of this provider and of core.
        xcoms: what this deployment's objects take, by DAG; objects whose DAG Airflow did not tell are under an empty
            name. None if there are too many to count them without being asked to.
        others: what other values take: another deployment's, or put by tasks themselves; None likewise.
        tier: how the work of saving stands; None if nothing is saved.
        saved: what the copies of this deployment take in the tiers, by DAG as above; None likewise.
    """

    store: StoreStatus
    embedded: bool
    deployment: str
    versions: Mapping[str, str]
    xcoms: Optional[Mapping[str, Share]]
    others: Optional[Share]
    tier: Optional[TierStatus] = None
    saved: Optional[Mapping[str, Share]] = field(default_factory=dict)


def get_status(*, objects: bool = False) -> Status:
    """Return the state of the store; no server is started for it.

    Nobody waits for it: the server is asked how full it is, and then for a few objects at a time, if there are no more
    than some thousand.

    Args:
        objects: count all objects and copies, however many; the server lists them, and all others wait meanwhile.

    Raises:
        VineyardError: the server cannot be reached, or refused, or the tier cannot be listed.
        AirflowConfigException: an option of ``[vineyard]`` has a wrong value.
        ImportError: core is not installed.
    """
    settings = get_settings()
    client = get_client_if_running(settings)
    # Not before: that is the place to fail with what to do when core is not installed.
    import vineyard_client

    if client is None:
        raise vineyard_client.ConnectionFailed(*not_running(settings))
    store = client.status()
    infos = list(client.list()) if objects else _few(client.list(noted=True))
    xcoms, others = (None, None) if infos is None else _shares(infos, settings.deployment)
    versions = {
        "airflow": version_compat.airflow_release(),
        "airflow-provider-vineyard": __version__,
        "vineyard-client": vineyard_client.__version__,
    }
    tier = None if client.saved is None else client.saved.status()
    saved: Optional[Dict[str, Share]] = {}
    if client.saved is not None:
        found = client.saved.list(settings.deployment)
        copies = list(found) if objects else _few(found)
        saved = None if copies is None else _copies(copies)
    return Status(store, settings.embedded, settings.deployment, versions, xcoms, others, tier, saved)


def not_running(settings: Settings) -> Tuple[str, str]:
    """Return in words that the embedded server does not run, and the next step."""
    remedy = "The first value starts it, and so does doctor."
    if not settings.autostart:
        remedy = "[vineyard] autostart is off: turn it on, or set [vineyard] ipc_socket."
    return f"The embedded server at {settings.ipc_socket} is not running.", remedy


def _few(items: Iterable[Item]) -> Optional[List[Item]]:
    """Return some items as a list, None if there are more than are counted without being asked to."""
    found = list(islice(items, _MOST + 1))
    return None if len(found) > _MOST else found


def _shares(infos: Iterable[ObjectInfo], deployment: str) -> Tuple[Dict[str, Share], Share]:
    xcoms: Dict[str, Share] = defaultdict(lambda: Share(0, 0))
    others = Share(0, 0)
    counted: Set[str] = set()  # what several objects share belongs to the first of them
    for info in infos:
        if NOTE_LABEL in info.labels:
            continue  # it says whose database it is
        size = sum(nbytes for blob, nbytes in info.blobs.items() if blob not in counted) if info.blobs else info.size
        counted.update(info.blobs)
        if info.labels.get(DEPLOYMENT_LABEL) == deployment:
            dag_id = info.labels.get("dag_id", "")
            xcoms[dag_id] = _plus(xcoms[dag_id], size)
        else:
            others = _plus(others, size)
    return dict(sorted(xcoms.items())), others


def _copies(copies: Iterable[SavedCopy]) -> Dict[str, Share]:
    found: Dict[str, Share] = defaultdict(lambda: Share(0, 0))
    for copy in copies:
        _, *parts, _ = map(unquote, copy.key.split("/"))
        dag_id = parts[0] if parts else ""
        found[dag_id] = _plus(found[dag_id], copy.size)
    return dict(sorted(found.items()))


def _plus(share: Share, size: int) -> Share:
    return Share(share.objects + 1, share.bytes + size)
