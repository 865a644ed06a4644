"""Arguments and results between a process and another interpreter that it starts, which meet in a store.

A program that runs a function in another interpreter, as Airflow's ``@task.external_python`` does, pickles arguments to
a file and writes a script that unpickles them, calls the function and pickles what it returned. This module takes the
place of ``pickle`` in that script: it has ``load`` and ``dump``. What is large travels through the store, and the file
has a reference in its place.

The starting side::

    os.environ[ENVIRONMENT] = Terms(socket).to_text()
    pickled argument: (take, (argument(ref),))        what __reduce__ of a stand-in returns
    received(bytes of the file)                       a reference, or the bytes of a value, or a pickle

Invariants:

- Arguments are unpickled as they would be without this module: the file is one that the starting side wrote and nobody
  else can. What lies in the store was written by anybody, and is read as ``Client.get`` reads it: it runs no code.
- A result is a reference (JSON), or what ``dumps`` makes of a value. Only what ``dumps`` refuses is pickled.
- An argument is pinned by its reader as every value is, for as long as it lives. One that was put for this call alone
  is deleted as soon as it is read.
- Without a store, a result is written to the file: nothing is lost, it is only copied.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Dict, Mapping, Optional, Sequence, Union

from .client import Client
from .encoded import encode
from .exceptions import InvalidReference, UnsafeType, UnsupportedVersion, VineyardError
from .reference import ObjectRef
from .server import connect

if TYPE_CHECKING:
    from ._tiers.options import TierOptions

__all__ = ["ENVIRONMENT", "LIMIT", "Terms", "argument", "dump", "load", "received", "take"]

log = logging.getLogger(__name__)

#: The environment variable that tells the other interpreter the terms.
ENVIRONMENT = "VINEYARD_HANDOVER"

#: Bytes from which on a value is worth an object: below, the file is as fast.
LIMIT = 64 * 1024

_VERSION = 1
_REFERENCE_START = b'{"vineyard_client": '


@dataclass(frozen=True)
class Terms:
    """What both sides have to agree on.

    Attributes:
        socket: path of the IPC socket, as the other interpreter sees it; None for what ``connect`` finds.
        endpoint: as for ``connect``.
        peers: likewise; None for what ``connect`` finds.
        tier: fields of ``TierOptions``, by which results are saved and arguments loaded; None for no tier.
        allowed_classes: patterns of classes that values may hold.
        passive_classes: whether dataclasses, named tuples and their like need no permission.
        limit: bytes above which a result goes to the store; None leaves all in the file.
        labels: of a result's object.
        path: likewise.
        persist: likewise.
        host: likewise.
        preview: likewise.
    """

    socket: Optional[str] = None
    endpoint: Optional[str] = None
    peers: Optional[Sequence[str]] = None
    tier: Optional[Mapping[str, Any]] = None
    allowed_classes: Sequence[str] = ()
    passive_classes: bool = True
    limit: Optional[int] = LIMIT
    labels: Mapping[str, str] = field(default_factory=dict)
    path: Sequence[str] = ()
    persist: bool = False
    host: Optional[str] = None
    preview: str = "off"

    def to_text(self) -> str:
        """Return the terms as a text, for ``ENVIRONMENT``."""
        return json.dumps({"v": _VERSION, **asdict(self)})

    @classmethod
    def from_text(cls, text: str) -> Terms:
        """Return the terms that ``to_text`` described; fields that are not known are left out.

        Raises:
            UnsupportedVersion: another generation of this package wrote them.
        """
        fields: Dict[str, Any] = json.loads(text)
        if fields.pop("v", None) != _VERSION:
            raise UnsupportedVersion(
                f"The terms in {ENVIRONMENT} are of another version.", "Install one release of vineyard-client on both."
            )
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name in fields})

    @property
    def trust(self) -> Dict[str, Any]:
        """What ``encode``, ``loads`` and ``connect`` are told of whom to trust."""
        return {"allowed_classes": tuple(self.allowed_classes), "passive_classes": self.passive_classes}


def argument(ref: ObjectRef, parts: Optional[Mapping[str, ObjectRef]] = None, *, once: bool = False) -> str:
    """Return the text of which ``take`` makes the value.

    Args:
        ref: the value.
        parts: of a dict, members that are objects of their own.
        once: whether the value was put for this call alone, and is deleted when it is read.
    """
    named = {key: part.to_json() for key, part in (parts or {}).items()}
    return json.dumps({"ref": ref.to_json(), "parts": named, "once": once})


def take(text: str) -> object:
    """Return the value of an argument; this is what unpickling calls in the other interpreter.

    Args:
        text: what ``argument`` returned.

    Raises:
        VineyardError: the value cannot be read; the message says why.
    """
    said = json.loads(text)
    client = _connect(_terms())
    ref = ObjectRef.from_json(said["ref"])
    value: Any = client.get(ref)
    for key, part in said["parts"].items():
        value[key] = client.get(ObjectRef.from_json(part))
    if said["once"]:
        client.delete(ref)
    return value


def load(file: IO[bytes]) -> object:
    """Unpickle what is in a file, as ``pickle.load`` does; arguments that are references become their values."""
    return pickle.load(file)


def dump(value: object, file: IO[bytes]) -> None:
    """Write a value to a file, or put it into the store and write the reference.

    Args:
        value: anything; what the codec refuses is pickled.
        file: is opened for writing bytes.
    """
    terms = _terms()
    try:
        data = _put(value, terms)
        if data is None:
            with encode(value, **terms.trust) as encoded:
                data = encoded.to_bytes()
    except UnsafeType:
        pickle.dump(value, file)
        return
    file.write(data)


def received(data: bytes) -> Union[ObjectRef, bytes, None]:
    """Return what ``dump`` wrote: the reference to a result, or the bytes for ``loads``; None if it is a pickle.

    Args:
        data: all of the file.

    Raises:
        InvalidReference: a reference is none.
    """
    if data.startswith(b"\x80"):
        return None
    if not data.startswith(_REFERENCE_START):
        return data
    try:
        return ObjectRef.from_json(json.loads(data)["vineyard_client"])
    except ValueError as error:
        raise InvalidReference(f"The other interpreter returned no reference: {error}") from error


def _put(value: object, terms: Terms) -> Optional[bytes]:
    """Put a large result and return the reference's bytes; None if it is to be in the file."""
    with encode(value, **terms.trust) as encoded:
        if terms.limit is None or encoded.size <= terms.limit:
            return None
        how: Dict[str, Any] = {"labels": terms.labels, "persist": terms.persist, "host": terms.host}
        try:
            ref = _connect(terms).put(encoded, path=terms.path, preview=terms.preview, **how)
        except VineyardError as error:
            log.warning("The result goes through a file, and is copied: %s", error)
            return None
    return json.dumps({"vineyard_client": ref.to_json()}).encode()


def _terms() -> Terms:
    text = os.environ.get(ENVIRONMENT)
    return Terms(limit=None) if text is None else Terms.from_text(text)


# By the text of the terms.
_clients: Dict[str, Client] = {}


def _connect(terms: Terms) -> Client:
    """Return the client of this process, connected; nothing is started here."""
    key = terms.to_text()
    if key not in _clients:
        tier: Union[str, TierOptions] = "none"
        if terms.tier is not None:
            from ._tiers.options import TierOptions  # who saves nothing need not pay for it

            tier = TierOptions(**terms.tier)
        peers = None if terms.peers is None else tuple(terms.peers)
        _clients[key] = connect(
            terms.socket, endpoint=terms.endpoint, peers=peers, tier=tier, autostart=False, **terms.trust
        )
    return _clients[key]
