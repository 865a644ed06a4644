"""What all calls of one client share: its store, a connection for each process, and how references are written.

The connection is made when it is first needed and again after it broke, so a restarted server costs one failed call at
most. All of it may be used from any thread and after a fork.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Sequence, Type

from .._hosts.migration import Migration
from .._io.deadline import Deadline, uptime
from .._io.tcp import split_endpoint
from .._io.unix import UnixStream
from .._store.connection import Connection
from .._store.debts import Debts
from .._store.identity import SIZE, Identity, identify, question
from .._store.known import open_inventory
from .._store.meta import ValueMeta
from .._store.processes import PerProcess
from ..exceptions import ConnectionFailed, ObjectNotFound
from ..ids import format_id
from ..reference import ObjectInfo, ObjectRef

if TYPE_CHECKING:
    from .._native.objects import NativeObject
    from .._tiers.local import Tiers

__all__ = ["Session", "described", "native_objects"]

log = logging.getLogger("vineyard_client.client")

# Seconds that a call may take for what an earlier one could not free.
_GRACE = 1.0

_NO_ENDPOINT_HINT = "Its reference names no host: if it was put on another one, turn vineyardd's RPC on there first."

# Seconds that an exchange with another host may take where there is a copy of the value to read instead.
_PATIENCE = 3.0


class Session:
    """One client's store, and the way to others.

    Args:
        socket: path of the IPC socket.
        timeout: seconds that each call may take; None is for ever.
        username: for a server started with ``--htpasswd``.
        password: likewise.
        endpoint: ``host:port`` to write into references; None is what the instance reports.
        peers: patterns of the ``host:port`` of other hosts' instances.
        starter: called with the socket path when nobody listens there; it must start a server or raise.
        tiers: where values are saved, if they are.

    Raises:
        InvalidReference: the endpoint is none.
    """

    def __init__(
        self,
        socket: str,
        *,
        timeout: Optional[float],
        username: str = "",
        password: str = "",
        endpoint: Optional[str] = None,
        peers: Sequence[str] = (),
        starter: Optional[Callable[[str], object]] = None,
        tiers: Optional[Tiers] = None,
    ) -> None:
        if endpoint is not None:
            split_endpoint(endpoint)
        self.socket = socket
        self.closed = False
        others: Dict[str, Any] = {"username": username, "password": password, "peers": peers}
        self.migration = Migration(socket, timeout=timeout, **others)
        # With a copy to read instead, nobody waits long for a host.
        patience = min(_PATIENCE, timeout or _PATIENCE)
        self.migration_or_copy = Migration(socket, timeout=patience, **others)
        self.tiers = tiers
        self._timeout = timeout
        self._credentials = {"username": username, "password": password}
        self._endpoint = endpoint
        self._starter = starter
        self._identity: Optional[Identity] = None
        self._connections = PerProcess()
        self._debts = Debts()
        self._found = threading.local()

    @property
    def source(self) -> str:
        """Where the last value came from that this thread found: a name of ``reading``; empty before any."""
        return getattr(self._found, "source", "")

    @source.setter
    def source(self, name: str) -> None:
        self._found.source = name

    def deadline(self) -> Deadline:
        """Return until when a call must be done that begins now."""
        return Deadline(self._timeout)

    def connection(self, deadline: Optional[Deadline] = None) -> Connection:
        """Return this process's connection, a new one if there is none that works, for one call.

        Args:
            deadline: until when all of the call must be done; by default as long from now as ``timeout`` says.

        Raises:
            ConnectionFailed: the client is closed, nobody listens, or the credentials are refused.
            DeadlineExceeded: the time is up.
            ProtocolError: what listens is not vineyardd.
            UnsupportedVersion: the server is too old.
        """
        if self.closed:
            raise ConnectionFailed(f"This client of {self.socket} is closed.", "Make another one with connect().")
        deadline = self.deadline() if deadline is None else deadline
        self._debts.pay(_GRACE)
        return self._connected(deadline)

    def _connected(self, deadline: Deadline) -> Connection:
        return self._connections.get(lambda: self._connect(deadline), deadline).until(deadline)

    def close(self) -> None:
        """Close the connection; values that were read stay valid. Idempotent."""
        self.closed = True
        self._connections.close()

    def _connect(self, deadline: Deadline) -> Connection:
        try:
            stream = UnixStream.connect(self.socket, deadline)
        except ConnectionFailed:
            if self._starter is None:
                raise
            with deadline.paused():  # it has a limit of its own
                self._starter(self.socket)
            stream = UnixStream.connect(self.socket, deadline)
        known = self._identity
        connection = Connection(stream, deadline, question(known), timeout=self._timeout, **self._credentials)
        connection.belong(self._debts, self._connected)
        try:
            identity = identify(connection.until(deadline), known, connection.answer)
            self._notice(identity)
            connection.overhead = SIZE if identity.blob else 0
            connection.inventory = open_inventory(connection.until(deadline), identity)
        except BaseException:
            connection.close()
            raise
        return connection

    def _notice(self, identity: Identity) -> None:
        """Remember which store it is, and say so if it is another one than before."""
        if self._identity not in (None, identity):
            log.warning(
                "%s is another store than before: its server was restarted or replaced, and what was put into the "
                "earlier one is gone.",
                self.socket,
            )
        self._identity = identity

    @property
    def identity(self) -> str:
        """What tells this store from every other one, and from itself after a restart; empty before any connection."""
        return self._identity.token if self._identity else ""

    # ---- where an object may be

    def advertised(self, connection: Connection) -> Optional[str]:
        """Return where other hosts reach the instance; None when its RPC is off."""
        return self._endpoint or connection.endpoint if connection.endpoint else None

    def may_be_elsewhere(self, connection: Connection, ref: ObjectRef) -> bool:
        """Whether an object that is not here may be on another host, as its reference or the cluster says."""
        if ref.endpoint not in (None, self.advertised(connection)):
            return True
        return self.migration.has_owner(connection, ref)

    def must_be_elsewhere(self, connection: Connection, ref: ObjectRef, error: ObjectNotFound) -> None:
        """Return if an object that is not here may be on another host; else raise what was found here."""
        if self.may_be_elsewhere(connection, ref):
            return
        if ref.endpoint is None:
            raise ObjectNotFound(error.what, f"{error.hint} {_NO_ENDPOINT_HINT}") from error
        raise error

    # ---- how objects are described

    def meta(
        self, connection: Connection, token: bytes, type: str, summary: str, size: int, labels: Mapping[str, str]
    ) -> ValueMeta:
        """Return the metadata of a value that is put here and now."""
        return ValueMeta(
            token=token.hex(),
            type=type,
            summary=summary,
            size=size,
            created=time.time(),
            uptime=uptime(),
            host=os.uname().nodename,
            instance_id=connection.instance.instance_id,
            labels=labels,
        )

    def reference(self, connection: Connection, number: int, meta: ValueMeta) -> ObjectRef:
        """Return the reference to an object that is here."""
        return ObjectRef(format_id(number), meta.token, self.advertised(connection), meta.type, meta.size)

    def info(self, connection: Connection, number: int, meta: ValueMeta, deleted: bool = False) -> ObjectInfo:
        """Return what people are told of an object that is here."""
        found = described(self.reference(connection, number, meta), meta, self.socket)
        return replace(found, deleted=deleted, age=_age(meta))


def described(ref: ObjectRef, meta: ValueMeta, where: str) -> ObjectInfo:
    """Return what people are told of an object, wherever it is.

    Args:
        ref: to it.
        meta: what its store says.
        where: the store's IPC socket, or its endpoint.
    """
    return ObjectInfo(
        ref=ref,
        summary=meta.summary,
        labels=meta.labels,
        created=datetime.fromtimestamp(meta.created, timezone.utc),
        host=meta.host,
        socket=where,
        origin=meta.origin,
        replicas=meta.replicas,
        memory=meta.memory,
        blobs={format_id(blob): nbytes for blob, nbytes in meta.pieces.items()},
    )


def _age(meta: ValueMeta) -> Optional[timedelta]:
    passed = None if meta.uptime is None else uptime() - meta.uptime
    # Less than nothing: it comes from a container that counts from another moment (man 7 time_namespaces).
    return None if passed is None or passed < 0 else timedelta(seconds=passed)


def native_objects() -> Type[NativeObject]:
    """Import what knows vineyard's own types; most processes never meet any."""
    from .._native.objects import NativeObject

    return NativeObject
