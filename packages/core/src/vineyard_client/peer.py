"""``Peer``: one store of several, asked without a store of one's own: for who looks at all of them, as a page does.

Nothing that it does lists a store, which would keep all others there waiting. It brings no value here.
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Type, TypeVar, Union

from ._calls import housekeeping
from ._calls.session import Session, described, native_objects
from ._hosts.remote import RemoteConnection
from ._hosts.transfer import preview_from
from ._io.deadline import DEFAULT_TIMEOUT, Deadline
from ._io.tcp import split_endpoint
from ._store import objects
from ._store.connection import Connection
from ._store.meta import ValueMeta
from ._wire.messages import GetData
from .exceptions import ConnectionFailed, DeadlineExceeded, VineyardError
from .reference import ObjectInfo, ObjectRef, StoreStatus, number_of

__all__ = ["Peer"]

log = logging.getLogger("vineyard_client.client")

# Ids in one request for metadata: what comes back must fit into a frame from another host.
_BATCH = 200

Answer = TypeVar("Answer")


class Peer:
    """One store, here or on another host.

    Args:
        endpoint: the ``host:port`` of its RPC, or the path of its IPC socket.
        timeout: seconds that each call may take, with connecting; None is for ever. How long a host's name may take to
            resolve is the system's to say.
        username: for a server started with ``--htpasswd``. Another host is told it only if ``peers`` lists it: where an
            endpoint comes from, such as a reference, it may have been forged.
        password: likewise.
        peers: patterns of the ``host:port`` of other hosts; if there are any, no other endpoint is connected to.

    Nothing is connected yet. A path is connected to with the first call and kept so; to another host each call connects
    anew. All methods may be called from any thread and after a fork.

    Raises:
        InvalidReference: the endpoint is none.
        ConnectionFailed: it is none of the peers.
    """

    def __init__(
        self,
        endpoint: Union[str, os.PathLike[str]],
        *,
        timeout: Optional[float] = DEFAULT_TIMEOUT,
        username: str = "",
        password: str = "",
        peers: Sequence[str] = (),
    ) -> None:
        self.endpoint = os.fspath(endpoint)
        self._timeout = timeout
        self._credentials: Dict[str, Any] = {"username": username, "password": password}
        self._session: Optional[Session] = None
        if "/" in self.endpoint:
            self._session = Session(self.endpoint, timeout=timeout, **self._credentials)
            return
        split_endpoint(self.endpoint)
        listed = any(fnmatchcase(self.endpoint, pattern) for pattern in peers)
        if peers and not listed:
            raise ConnectionFailed(f"{self.endpoint:.200} is none of the peers.", "If it is a host of yours, list it.")
        if not listed:
            self._credentials = {}

    def status(self) -> StoreStatus:
        """Return how full the store is and who serves it; of one on another host, neither metadata nor identity.

        Raises:
            ConnectionFailed: it does not answer, or does not let us in.
            ProtocolError: what listens there is not vineyardd.
            UnsupportedVersion: the server is too old.
        """
        if self._session is not None:
            session = self._session
            return self._ask(lambda _: housekeeping.status(session))
        return self._ask(
            lambda connection: housekeeping.status_of(connection, connection.instance.ipc_socket, self.endpoint)
        )

    def look(self, refs: Sequence[ObjectRef]) -> List[Optional[ObjectInfo]]:
        """Return for each reference what the store knows of its object; None for one that is not there.

        This is one request for up to 200 of them.

        Args:
            refs: of values that may be in this store.

        Raises:
            InvalidReference: one of them is none.
            ConnectionFailed: as ``status``.
        """
        return self._ask(lambda connection: self._look(connection, refs))

    def _look(self, connection: Connection, refs: Sequence[ObjectRef]) -> List[Optional[ObjectInfo]]:
        numbers = list(dict.fromkeys(filter(None, map(number_of, refs))))
        trees: Dict[int, Dict[str, Any]] = {}
        for start in range(0, len(numbers), _BATCH):
            found: Dict[int, Dict[str, Any]] = connection.call(GetData(numbers[start : start + _BATCH]))
            trees.update(found)
        return [self._found(connection, ref, trees.get(number_of(ref))) for ref in refs]

    def _found(self, connection: Connection, ref: ObjectRef, tree: Optional[Dict[str, Any]]) -> Optional[ObjectInfo]:
        if tree is None:
            return None
        if tree.get("token") != ref.token:
            native = native_objects().find(connection, number_of(ref), ref.token)
            return None if native is None else replace(native.info(self.endpoint, ref.endpoint), ref=ref)
        try:
            meta = ValueMeta.read(tree)
        except VineyardError as error:
            log.warning("%s in %s cannot be looked at: %s", ref.id, self.endpoint, error)
            return None
        if meta.instance_id != connection.instance.instance_id:
            return None  # another instance has it, of those that share their metadata
        if self._session is None:
            return described(ref, meta, self.endpoint)
        return replace(self._session.info(connection, number_of(ref), meta), ref=ref)

    def preview(self, ref: ObjectRef) -> Optional[Dict[str, Any]]:
        """Return what people are shown of a value in this store; see ``Client.preview``.

        Args:
            ref: of the value.

        Raises:
            ObjectNotFound: the value is not in this store.
            ConnectionFailed: as ``status``.
        """
        from ._codec.preview import read

        number, token = number_of(ref), ref.token

        def found(connection: Connection) -> bytes:
            if isinstance(connection, RemoteConnection):
                return preview_from(connection, number, token)
            return objects.read_preview(connection, number, token)

        return read(self._ask(found))

    def delete(self, ref: ObjectRef) -> bool:
        """Delete an object in this store, and nothing elsewhere; return whether it was there.

        Values that were read from it stay as they are. A replica here of a value of another host has an id of its own,
        to which its reference does not lead.

        Args:
            ref: of the value.

        Raises:
            ConnectionFailed: as ``status``.
        """
        number = number_of(ref)
        with self._connected() as connection:
            return bool(number) and objects.delete_object(connection, number, ref.token)

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._session is not None:
            self._session.close()

    def __enter__(self) -> Peer:
        """Return the peer itself."""
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: object, traceback: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Show the endpoint."""
        return f"<Peer at {self.endpoint}>"

    def _ask(self, question: Callable[[Connection], Answer]) -> Answer:
        """Ask something that changes nothing; once more if the server was restarted since the last call."""
        with self._connected() as connection:
            try:
                return question(connection)
            except DeadlineExceeded:
                raise
            except ConnectionFailed:
                if self._session is None or connection.usable:
                    raise
        with self._connected() as connection:
            return question(connection)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        if self._session is not None:
            yield self._session.connection()
            return
        deadline = Deadline(self._timeout)
        remote = RemoteConnection(self.endpoint, deadline, timeout=self._timeout, **self._credentials)
        try:
            yield remote
        finally:
            remote.close()
