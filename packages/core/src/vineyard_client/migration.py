"""Bring a value that lives on another host into the store of this one.

The reference names the endpoint of the instance that has the value, and the token. The value is *pulled*: its metadata
are read over RPC, a blob of its size is started here, the bytes go from the socket into it, and it is made whole. A
host that cannot be reached under that name is looked up in the cluster's metadata, if instances share some.

Once per host, however many ask: beside the socket is a folder ``SOCKET.replicas`` with one file per value, named by its
token. Whoever pulls holds its lock (flock, which falls with a process that dies); the others wait. Afterwards the file
has the id of the replica, which is trusted only after a look whether the token is still behind it. If the pull failed,
the file says so, and those who were waiting fail with the same words instead of trying one after the other.

What is still there after a failure: nothing at the source, which is only read. Here, a started object that is deleted
at once, or, if this process was killed, an object that ``collect`` recognises by its dead writer.

A value may be deleted at its source while it is on its way, and its memory used again. So the object is looked up once
more after its last byte: if it is there, the bytes were its own.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, TypeVar

from . import _codec, _objects
from ._connection import Connection
from ._io.deadline import Deadline
from ._io.tcp import TcpStream
from ._wire.messages import ClusterMeta, CreateData, GetData, Label
from .exceptions import ConnectionFailed, InvalidReference, MigrationFailed, ObjectNotFound, VineyardError
from .ids import format_id, parse_id
from .meta import REPLICA_LABEL, ValueMeta
from .reference import ObjectRef

__all__ = ["Migration"]

log = logging.getLogger("vineyard_client.migration")

# Seconds for finding and connecting to another host: a dropped packet is sent again after one and three.
_CONNECT_TIMEOUT = 10.0

# Seconds to wait for another process that pulls the same value. It fails by itself when its transfer stalls; this is
# for one that was stopped in the middle.
_CLAIM_TIMEOUT = 600.0

_POLL = 0.01

Result = TypeVar("Result")


class _Claimed(MigrationFailed):
    """Somebody else holds the lock of a value's file."""


class _Claim:
    """The file of one value, locked."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path

    def read(self) -> Dict[str, Any]:
        try:
            record = json.loads(os.pread(self._fd, 1 << 16, 0) or b"{}")
        except ValueError:  # its writer was killed in the middle
            return {}
        return record if isinstance(record, dict) else {}

    def write(self, record: Dict[str, Any]) -> None:
        data = json.dumps(record).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)

    def unlink(self) -> None:
        os.unlink(self._path)


class Migration:
    """The way from other hosts into the store behind one socket.

    Args:
        socket: path of the IPC socket.
        timeout: seconds that an exchange with another host may take, and for which a transfer may stall.
        username: for instances started with ``--htpasswd``.
        password: likewise.
    """

    def __init__(self, socket: str, *, timeout: Optional[float], username: str, password: str) -> None:
        self._folder = socket + ".replicas"
        self._timeout = timeout
        self._username = username
        self._password = password

    # ---- replicas

    def find(self, local: Connection, token: str) -> Optional[Tuple[int, ValueMeta]]:
        """Return id and metadata of the replica here, if there is one."""
        try:
            with open(os.path.join(self._folder, token), "rb") as file:
                record = _Claim(file.fileno(), file.name).read()
        except FileNotFoundError:
            return None
        return _verified(local, record, token)

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
        waiting_since = time.monotonic()
        with self._claim(ref.token) as claim:
            record = claim.read()
            found = _verified(local, record, ref.token)
            if found:
                return found[0]
            if record.get("failed", 0.0) > waiting_since:
                raise MigrationFailed(record["what"], record["hint"])
            try:
                number = self._from_source(local, ref, lambda remote, stream: _pull(local, remote, stream, ref))
            except MigrationFailed as error:
                claim.write({"failed": time.monotonic(), "what": error.what, "hint": error.hint})
                raise
            claim.write({"id": format_id(number)})
            return number

    def read(self, local: Connection, ref: ObjectRef) -> memoryview:
        """Return the envelope of a value on another host in memory of this process, and leave no replica.

        Raises:
            ObjectNotFound: the value is gone at its source.
            MigrationFailed: its host cannot be reached, or the transfer failed.
        """
        return self._from_source(local, ref, lambda remote, stream: _download(remote, stream, ref))

    def forget(self, local: Connection, token: str) -> bool:
        """Delete the replica here and its file; return whether there was one."""
        if not os.path.exists(os.path.join(self._folder, token)):
            return False
        with self._claim(token) as claim:
            found = _verified(local, claim.read(), token)
            claim.unlink()
            return found is not None and _objects.delete_object(local, found[0], token)

    def tidy(self, local: Connection) -> None:
        """Remove files that name no replica any more."""
        tokens = os.listdir(self._folder) if os.path.isdir(self._folder) else []
        for token in tokens:
            if self.find(local, token) is None:
                with suppress(_Claimed), self._claim(token, wait=0) as claim:
                    if _verified(local, claim.read(), token) is None:
                        claim.unlink()

    @contextmanager
    def _claim(self, token: str, wait: float = _CLAIM_TIMEOUT) -> Iterator[_Claim]:
        """Hold the lock of a value's file; ``wait`` is how many seconds to wait for another process that does."""
        deadline = Deadline(wait)
        path = os.path.join(self._folder, token)
        fd = -1
        try:
            while True:
                fd = self._open(path)
                while not _lock(fd):
                    if deadline.expired:
                        raise _Claimed(
                            f"Another process has been bringing the same value here for {deadline.timeout} s.",
                            f"See who holds {path} (fuser).",
                        )
                    time.sleep(_POLL)
                if _is_at(fd, path):
                    break
                os.close(fd)  # it was deleted while we waited
                fd = -1
            yield _Claim(fd, path)
        finally:
            if fd >= 0:
                os.close(fd)

    def _open(self, path: str) -> int:
        try:
            os.makedirs(self._folder, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise MigrationFailed(
                f"A replica cannot be recorded at {path}: {error.strerror}.",
                "Let this user write to the socket's folder, or read without a replica: get(ref, replica=False).",
            ) from error

    # ---- the other end

    def at_source(self, local: Connection, ref: ObjectRef, action: Callable[[Connection], Result]) -> Result:
        """Do something on the instance that has the original, over RPC.

        Raises:
            MigrationFailed: it cannot be reached.
        """
        return self._from_source(local, ref, lambda remote, _: action(remote))

    def original_is_gone(self, meta: ValueMeta) -> bool:
        """Tell whether the original of a replica is known to be gone; a host that does not answer is not "gone"."""
        try:
            number = parse_id(meta.origin_id or "")
            remote, _ = self._connect(meta.origin or "")
        except (ConnectionFailed, InvalidReference) as error:
            log.debug("cannot ask %s for the original of a replica: %s", meta.origin, error)
            return False
        try:
            tree = remote.call(GetData([number])).get(number)
            return tree is None or tree.get("token") != meta.token
        except VineyardError as error:
            log.debug("%s did not answer about the original of a replica: %s", meta.origin, error)
            return False
        finally:
            remote.close()

    def _connect(self, endpoint: str) -> Tuple[Connection, TcpStream]:
        limits = [seconds for seconds in (self._timeout, _CONNECT_TIMEOUT) if seconds is not None]
        stream = TcpStream.connect(endpoint, Deadline(min(limits)))
        remote = Connection(stream, timeout=self._timeout, username=self._username, password=self._password)
        return remote, stream

    def _from_source(
        self, local: Connection, ref: ObjectRef, action: Callable[[Connection, TcpStream], Result]
    ) -> Result:
        """Do something with a connection to the instance that has the original: the reference's, or the cluster's."""
        failures: List[str] = []
        endpoints = [ref.endpoint] if ref.endpoint else []
        while True:
            for endpoint in endpoints:
                try:
                    remote, stream = self._connect(endpoint)
                except VineyardError as error:
                    failures.append(str(error))
                    continue
                try:
                    return action(remote, stream)
                except ConnectionFailed as error:
                    raise MigrationFailed(
                        f"Reaching {ref.id} ({ref.type}, {ref.size} bytes) at {endpoint} failed: {error.what}",
                        f"{error.hint} Nothing is left behind; trying again is safe.".strip(),
                    ) from error
                finally:
                    remote.close()
            tried = set(endpoints)
            endpoints = [owner for owner in self._owners(local, ref) if owner not in tried]
            if not endpoints or tried - {ref.endpoint}:
                break
        if not failures:
            raise ObjectNotFound(
                f"{ref.id} ({ref.type}) is not in {local.peer}, and its reference names no host.",
                "If it was put on another host, start vineyardd there with its RPC on and run its task again.",
            )
        raise MigrationFailed(
            f"{ref.id} ({ref.type}, {ref.size} bytes) cannot be fetched: {' '.join(failures)}",
            "Nothing is left behind; trying again is safe once the cause is mended.",
        )

    def _owners(self, local: Connection, ref: ObjectRef) -> List[str]:
        """Return the RPC endpoints of the instance that has a persisted value, as the cluster's metadata know them."""
        number = parse_id(ref.id)
        tree = local.call(GetData([number], sync_remote=True)).get(number)
        if tree is None or tree.get("token") != ref.token:
            return []
        instance = local.call(ClusterMeta()).get(f"i{tree.get('instance_id')}", {})
        reported = str(instance.get("rpc_endpoint") or "")
        host, _, port = reported.rpartition(":")
        names = [host, str(instance.get("hostname") or ""), str(instance.get("nodename") or "")]
        return [f"{name}:{port}" for name in dict.fromkeys(names) if name and port not in ("", "0")]


# ---- one transfer


def _pull(local: Connection, remote: Connection, stream: TcpStream, ref: ObjectRef) -> int:
    """Copy an object from one instance to another and return its id there."""
    started = time.monotonic()
    number = parse_id(ref.id)
    original = _objects.find_object(remote, number, ref.token)
    instance = local.instance.instance_id
    meta = replace(original, instance_id=instance, origin=ref.endpoint or remote.peer, origin_id=ref.id)
    if meta.content is not None:
        return local.call(CreateData(meta.tree()))
    copy, meta, payload = _objects.start_object(local, meta)
    try:
        fd = local.store_fd(payload)
        remote.fetch(
            original.blob, meta.size, lambda: stream.receive_into_file(fd, payload.offset, payload.size, remote.timeout)
        )
        _codec.check(local.peek(payload), token=bytes.fromhex(ref.token))
        _objects.find_object(remote, number, ref.token)
        _objects.finish_object(local, meta)
    except BaseException:
        _objects.abandon_object(local, copy, meta)
        raise
    log.debug("pulled %s from %s: %d bytes in %.3f s", ref.id, remote.peer, meta.size, time.monotonic() - started)
    _announce(remote, number, os.uname().nodename, local.peer)
    return copy


def _announce(remote: Connection, number: int, host: str, where: str) -> None:
    """Let the original know of its replica; it is only information, so a refusal does no harm."""
    try:
        remote.call(Label(number, {REPLICA_LABEL + host: where}))
    except VineyardError as error:
        log.debug("%s does not note the replica of %s: %s", remote.peer, format_id(number), error)


def _download(remote: Connection, stream: TcpStream, ref: ObjectRef) -> memoryview:
    """Return an object's envelope in anonymous memory."""
    number = parse_id(ref.id)
    original = _objects.find_object(remote, number, ref.token)
    if original.content is not None:
        return memoryview(bytearray(original.content))
    memory = mmap.mmap(-1, original.size)
    remote.fetch(original.blob, original.size, lambda: stream.receive_into(memoryview(memory), remote.timeout))
    _objects.find_object(remote, number, ref.token)
    return memoryview(memory)


# ---- files


def _verified(local: Connection, record: Dict[str, Any], token: str) -> Optional[Tuple[int, ValueMeta]]:
    """Return the replica that a file names, if it is there and whole."""
    try:
        number = parse_id(record.get("id", ""))
        return number, _objects.find_object(local, number, token)
    except (InvalidReference, ObjectNotFound):
        return None


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: str) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
