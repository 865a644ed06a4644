"""Bring a value that lives on another host into the store of this one.

The reference names the endpoint of the instance that has the value, and the token. The value is *pulled*: its metadata
are read over RPC, a blob of its size is started here, the bytes go from the socket into it, and it is made whole. Where
the reference's endpoint does not lead to the value (another name, another network), the owner is looked up in the
cluster's metadata, if instances share some.

Once per host, however many ask: ``_hosts.replicas`` says how.

What is still there after a failure: nothing at the source, which is only read. Here, a started object that is deleted
at once, or, if this process was killed, an object that ``collect`` recognises by its dead writer.

Who deletes a value deletes the original first and the replica here second: a transfer that is under way then finds the
original gone, and gives up.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple, TypeVar

from .._io.deadline import Deadline
from .._store import objects
from .._store.connection import Connection
from .._store.meta import ValueMeta
from .._wire.messages import ClusterMeta, GetData
from ..exceptions import (
    ConnectionFailed,
    InvalidReference,
    MigrationFailed,
    ObjectNotFound,
    ProtocolError,
    ServerError,
    StoreFull,
    VineyardError,
)
from ..ids import parse_id
from ..reference import ObjectRef
from .remote import RemoteConnection
from .replicas import Busy, Replicas
from .transfer import copy_here, delete_there, label_original, read_from

__all__ = ["Migration"]

log = logging.getLogger("vineyard_client.migration")

# Seconds to wait for another process that pulls the same value, and bytes per second that it may be expected to manage
# on top, where the call has no deadline. It fails by itself when its transfer stalls; this is for one that was stopped
# in the middle.
_CLAIM_TIMEOUT = 600.0
_SLOWEST = 1e6

# Seconds to wait, before deleting a replica, for somebody who is about to finish one.
_FORGET_TIMEOUT = 1.0

# Ids in one request for metadata: what comes back must fit into a frame from another host.
_BATCH = 200

Result = TypeVar("Result")


class Migration:
    """The way from other hosts into the store behind one socket.

    Args:
        socket: path of the IPC socket.
        timeout: seconds that an exchange with another host may take, and for which a transfer may stall.
        username: for instances started with ``--htpasswd``.
        password: likewise.
        peers: patterns of the endpoints that may be connected to; empty for all.
    """

    def __init__(
        self, socket: str, *, timeout: Optional[float], username: str, password: str, peers: Sequence[str] = ()
    ) -> None:
        self._socket = socket
        self._timeout = timeout
        self._credentials = {"username": username, "password": password}
        self._peers = tuple(peers)

    # ---- replicas

    def _replicas(self, local: Connection) -> Replicas:
        return Replicas(self._socket, local.instance.ipc_socket)

    def noted(self, local: Connection, token: str) -> Optional[int]:
        """Return the id under which the replica of a value was stored here; it may be gone since."""
        return self._replicas(local).number(token)

    def find(self, local: Connection, token: str) -> Optional[Tuple[int, ValueMeta]]:
        """Return id and metadata of the replica here, if there is one."""
        return _verified(local, self.noted(local, token), token)

    def replicate(self, local: Connection, ref: ObjectRef) -> int:
        """Return the id of the replica here; pull the value if there is none.

        Raises:
            ObjectNotFound: the value is gone at its source.
            MigrationFailed: its host cannot be reached, or the transfer failed; the message names host and cause.
            StoreFull: there is no room here.
        """
        found = self.find(local, ref.token)
        if found:
            return found[0]
        wait = _within(local.deadline, _CLAIM_TIMEOUT + ref.size / _SLOWEST)
        with self._replicas(local).claim(ref.token, wait) as claim:
            found = _verified(local, claim.number, ref.token)
            if found:
                return found[0]
            try:
                return self.at_source(local, ref, lambda remote: copy_here(local, remote, ref, claim.record))
            except MigrationFailed as error:
                claim.fail(error)
                raise
            except StoreFull as error:
                claim.remove()
                hint = f"{error.hint} Or read it without a replica: get(ref, replica=False)."
                raise StoreFull(error.what, hint, error.requested, error.used, error.limit) from error
            except BaseException:
                claim.remove()
                raise

    def has_owner(self, local: Connection, ref: ObjectRef) -> bool:
        """Tell whether the cluster's metadata know which instance has a value."""
        return bool(_owners(local, ref))

    def read(self, local: Connection, ref: ObjectRef) -> objects.Envelope:
        """Return the blobs with a value of another host in memory of this process, and leave no replica.

        Raises:
            ObjectNotFound: the value is gone at its source.
            MigrationFailed: its host cannot be reached, or the transfer failed.
        """
        return self.at_source(local, ref, lambda remote: read_from(remote, ref))

    def forget(self, local: Connection, token: str) -> bool:
        """Delete the replica here and its file; return whether there was one."""
        if not self._replicas(local).has(token):
            return False
        try:
            with self._replicas(local).claim(token, _within(local.deadline, _FORGET_TIMEOUT)) as claim:
                number = claim.number
                claim.remove()
        except Busy:
            log.debug("the value %s is on its way here; that will fail by itself, as the original is gone", token)
            return False
        return number is not None and objects.delete_object(local, number, token)

    def tidy(self, local: Connection) -> None:
        """Remove the files that name no replica any more."""
        replicas = self._replicas(local)
        numbers = {token: replicas.number(token) for token in replicas.tokens()}
        trees = _trees(local, [number for number in numbers.values() if number is not None])
        for token, number in numbers.items():
            if number is None or trees.get(number) != token:
                with suppress(MigrationFailed), replicas.claim(token, wait=0) as claim:
                    if _verified(local, claim.number, token) is None:
                        claim.remove()

    # ---- originals

    def delete_original(self, local: Connection, ref: ObjectRef) -> bool:
        """Delete a value on its own host and return whether it was there.

        Its memory is freed when nobody is connected there who might read it, else by ``collect`` there.

        Raises:
            MigrationFailed: the host cannot be reached.
        """
        try:
            return self.at_source(local, ref, lambda remote: delete_there(remote, ref))
        except ObjectNotFound:
            return False

    def gone_originals(self, local: Connection, replicas: Iterable[ValueMeta]) -> Set[str]:
        """Return the tokens of those replicas whose originals are known to be gone.

        Each host is asked once; one that does not answer is not "gone".
        """
        gone: Set[str] = set()
        for endpoint, metas in _by_origin(replicas).items():
            try:
                remote = self._connect(endpoint, local.deadline)
                try:
                    there = _trees(remote, list(metas))
                finally:
                    remote.close()
            except VineyardError as error:
                log.debug("%s does not say whether %d originals are there: %s", endpoint, len(metas), error)
                continue
            gone.update(meta.token for number, meta in metas.items() if there.get(number) != meta.token)
        return gone

    def withdraw(self, local: Connection, replicas: Iterable[ValueMeta]) -> None:
        """Let originals know that their replicas here are gone; it is only information, so a failure does no harm."""
        for endpoint, metas in _by_origin(replicas).items():
            try:
                remote = self._connect(endpoint, local.deadline)
            except VineyardError as error:
                log.debug("%s still believes in %d replicas here: %s", endpoint, len(metas), error)
                continue
            try:
                for number in metas:
                    label_original(remote, number, "")
            finally:
                remote.close()

    def at_source(self, local: Connection, ref: ObjectRef, action: Callable[[RemoteConnection], Result]) -> Result:
        """Do something on the instance that has the original, over RPC.

        Raises:
            ObjectNotFound: the value is nowhere.
            MigrationFailed: no instance that should have it can be reached, or the conversation broke.
        """
        failures: List[str] = []
        missing: Optional[ObjectNotFound] = None
        for endpoint, known in self._endpoints(local, ref, failures):
            try:
                remote = self._connect(endpoint, local.deadline, known=known)
            except VineyardError as error:
                failures.append(str(error) if endpoint in str(error) else f"At {endpoint}: {error}")
                continue
            try:
                return action(remote)
            except ObjectNotFound as error:
                # Perhaps the name leads to another host when it is resolved here.
                missing = missing or error
            except (ConnectionFailed, ProtocolError, ServerError) as error:
                if not local.usable:
                    raise
                raise MigrationFailed(
                    f"{ref.id} ({ref.type}, {ref.size} bytes) could not be had from {endpoint}: {error.what}",
                    f"{error.hint} Nothing is left behind here; trying again is safe.".strip(),
                ) from error
            finally:
                remote.close()
        if failures:
            raise MigrationFailed(
                f"{ref.id} ({ref.type}, {ref.size} bytes) is out of reach. {' '.join(failures)}",
                "Trying again is safe once that is mended.",
            )
        if missing:
            raise missing
        raise ObjectNotFound(
            f"{ref.id} ({ref.type}) is not in {local.peer}, its reference names no host, and no cluster knows it.",
            "It was deleted, or put where vineyardd has its RPC off: turn that on there and run its task again.",
        )

    def _connect(self, endpoint: str, deadline: Deadline, *, known: bool = False) -> RemoteConnection:
        """Connect to another instance.

        A reference may have been forged, so what it names is shown no password unless somebody vouches for it: the
        cluster (``known``), or the caller with its ``peers``.
        """
        listed = any(fnmatchcase(endpoint, pattern) for pattern in self._peers)
        if self._peers and not listed and not known:
            raise ConnectionFailed(
                f"{endpoint} is none of the peers that this client may connect to.",
                "If it is a host of yours, add it to the peers (VINEYARD_PEERS); else the reference was forged.",
            )
        if listed or known:
            return RemoteConnection(endpoint, deadline, timeout=self._timeout, **self._credentials)
        try:
            return RemoteConnection(endpoint, deadline, timeout=self._timeout)
        except ConnectionFailed as error:
            if self._credentials["username"] and "asks for a user name" in error.what:
                raise ConnectionFailed(
                    f"{error.what} It was not told them, because it is not among the peers.",
                    "If it is a host of yours, add it to the peers (VINEYARD_PEERS).",
                ) from error
            raise

    def _endpoints(self, local: Connection, ref: ObjectRef, failures: List[str]) -> Iterator[Tuple[str, bool]]:
        """Yield where the original may be, and whether the cluster says so: first what the reference says."""
        if ref.endpoint:
            yield ref.endpoint, False
        if failures and local.deadline.expired:
            return  # the host that does not answer took all the time there was; that is what to tell
        try:
            owners = _owners(local, ref)
        except ServerError as error:  # what instances share their metadata in does not answer
            failures.append(f"Nor does the cluster know: {error}")
            return
        for endpoint in owners:
            # Once more if the reference names it as well: now it may be told the password.
            if endpoint != ref.endpoint or self._credentials["username"]:
                yield endpoint, True


def _within(deadline: Deadline, seconds: float) -> float:
    """Return so many seconds, or what is left of the call's time."""
    remaining = deadline.remaining()
    return seconds if remaining is None else min(seconds, remaining)


def _owners(local: Connection, ref: ObjectRef) -> List[str]:
    """Return the RPC endpoints of the instance that has a persisted value, as the cluster's metadata know them."""
    number = parse_id(ref.id)
    tree = local.call(GetData([number], sync_remote=True)).get(number)
    if tree is None or tree.get("token") != ref.token:
        return []
    instance = local.call(ClusterMeta()).get(f"i{tree.get('instance_id')}", {})
    host, _, port = str(instance.get("rpc_endpoint") or "").rpartition(":")
    if port in ("", "0"):
        return []
    names = [host, str(instance.get("hostname") or ""), str(instance.get("nodename") or "")]
    return [f"{name}:{port}" for name in dict.fromkeys(names) if name]


def _by_origin(replicas: Iterable[ValueMeta]) -> Dict[str, Dict[int, ValueMeta]]:
    """Return for each host the originals' ids there, with what is known of their replicas."""
    hosts: Dict[str, Dict[int, ValueMeta]] = {}
    for meta in replicas:
        with suppress(InvalidReference):
            hosts.setdefault(meta.origin or "", {})[parse_id(meta.origin_id or "")] = meta
    return hosts


def _trees(connection: Connection, numbers: List[int]) -> Dict[int, object]:
    """Return the tokens of those objects that exist."""
    tokens: Dict[int, object] = {}
    for start in range(0, len(numbers), _BATCH):
        found = connection.call(GetData(numbers[start : start + _BATCH]))
        tokens.update({number: tree.get("token") for number, tree in found.items()})
    return tokens


def _verified(local: Connection, number: Optional[int], token: str) -> Optional[Tuple[int, ValueMeta]]:
    """Return the replica that a file names, if it is there."""
    if number is None:
        return None
    try:
        return number, objects.find_object(local, number, token)
    except ObjectNotFound:
        return None
