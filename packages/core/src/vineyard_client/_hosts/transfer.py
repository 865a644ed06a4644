"""One value between two instances: copy it here, read it, delete it there, tell it where its replicas are.

A value may be deleted at its source while it is on its way, and its memory used again. So the object is looked up once
more after its last byte: if it is there, the bytes were its own.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from dataclasses import replace
from typing import Callable

from .. import _codec
from .._io.deadline import Deadline, uptime
from .._store import objects
from .._store.connection import Connection
from .._store.making import Making
from .._store.meta import REPLICA_LABEL, ValueMeta
from .._wire.messages import GetData, Label
from ..exceptions import MigrationFailed, ObjectNotFound, VineyardError
from ..ids import format_id, parse_id
from ..reference import ObjectRef
from .remote import RemoteConnection

__all__ = ["copy_here", "delete_there", "label_original", "preview_from", "read_from"]

log = logging.getLogger("vineyard_client.migration")

# Seconds after which a label is looked at again. The server reads an object's labels and writes them back with one more
# as two steps, about a millisecond apart, so of two hosts that do it at once one may lose its label (0.14.8 to 0.24.2;
# ``LabelObjects`` in ``vineyard_server.cc``). With etcd in between the steps are some ten milliseconds apart, and this
# does not always help; waiting longer for what is only shown to people would cost more than it is worth.
_LABEL_PAUSES = (0.0, 0.002)

# Seconds that it all may take: the value is here already, and somebody waits for it.
_LABEL_TIMEOUT = 1.0


def copy_here(local: Connection, remote: RemoteConnection, ref: ObjectRef, record: Callable[[int], None]) -> int:
    """Copy an object from one instance to another and return the replica's id.

    Args:
        local: where to.
        remote: where from.
        ref: the reference to the original.
        record: called with the replica's id as soon as it is whole; if it fails, there is no replica.

    Raises:
        ObjectNotFound: the original is gone, or went meanwhile.
        ObjectCorrupted: what came is not the value.
        StoreFull: there is no room here.
        ConnectionFailed: the transfer broke or stalled, or the store here took no more.
        ProtocolError: what came makes no sense.
    """
    started = time.monotonic()
    number = parse_id(ref.id)
    original = objects.find_object(remote, number, ref.token)
    here = local.instance.instance_id
    meta = replace(original, instance_id=here, origin=remote.peer, origin_id=ref.id, uptime=uptime())
    making = Making(local, meta, _guarded(remote, original))
    try:
        if meta.content is not None:
            making.store_shared()
        else:
            _pull_blob(local, remote, number, making)
        record(making.number)
    except BaseException:
        making.undo()
        raise
    finally:
        making.let_go()
    copy = making.number
    log.debug("pulled %s from %s: %d bytes in %.3f s", ref.id, remote.peer, meta.size, time.monotonic() - started)
    label_original(remote, number, local.peer)
    return copy


def _pull_blob(local: Connection, remote: RemoteConnection, number: int, making: Making) -> None:
    """Fetch a blob, and those that it shares with others there: a replica has all of them for itself."""
    meta = making.meta
    making.start(copied=bool(meta.shared), slow=True)
    payloads = [making.payload, *making.copies]
    for blob, payload in zip(meta.blobs, payloads):
        remote.fetch_into_file(blob, payload.size, local.store_fd(payload), payload.offset)
    _codec.check(*map(local.peek, payloads), token=bytes.fromhex(meta.token))
    objects.find_object(remote, number, meta.token)
    making.finish()


def read_from(remote: RemoteConnection, ref: ObjectRef) -> objects.Envelope:
    """Return the blobs with an object's envelope in anonymous memory of this process.

    Raises:
        ObjectNotFound: the original is gone, or went meanwhile.
        MigrationFailed: there is not so much memory.
        ConnectionFailed: the transfer broke or stalled.
        ProtocolError: what came makes no sense.
    """
    number = parse_id(ref.id)
    original = objects.find_object(remote, number, ref.token)
    if original.content is not None:
        return (memoryview(bytearray(original.content)),)
    try:
        memories = tuple([memoryview(mmap.mmap(-1, size)) for size in original.pieces.values()])
    except (OSError, OverflowError, ValueError) as error:
        nbytes = sum(original.pieces.values())
        raise MigrationFailed(
            f"There is no memory in this process for {nbytes} bytes from {remote.peer}: {error}.",
            "Read it with a replica in the store, or give the process more memory.",
        ) from error
    for blob, memory in zip(original.blobs, memories):
        remote.fetch_into(blob, memory)
    objects.find_object(remote, number, ref.token)
    return memories


def preview_from(remote: RemoteConnection, number: int, token: str) -> bytes:
    """Return what people are shown of a value on another host; empty if there is nothing.

    Raises:
        ObjectNotFound: it is not there, or went meanwhile.
        ConnectionFailed: the transfer broke or stalled.
        ProtocolError: what came makes no sense.
    """
    meta = objects.find_object(remote, number, token)
    if isinstance(meta.preview, str) or not meta.preview:
        return str(meta.preview or "").encode()
    # A transfer takes the mark of a writer away that is still at work; once the blob is sealed there is none.
    if meta.blob not in remote.call(GetData([meta.blob])):
        return b""
    found = _guarded(remote, meta)
    objects.find_object(remote, number, token)
    return found


def _guarded(remote: RemoteConnection, meta: ValueMeta) -> bytes:
    """Return the preview in a guard, of a value that is whole."""
    if isinstance(meta.preview, str) or not meta.preview:
        return b""
    found = bytearray(meta.guard_size)
    remote.fetch_into(meta.guard, memoryview(found))
    return bytes(found)


def delete_there(remote: RemoteConnection, ref: ObjectRef) -> bool:
    """Delete an original and return True.

    Raises:
        ObjectNotFound: it is not there.
    """
    if objects.delete_object(remote, parse_id(ref.id), ref.token):
        return True
    raise ObjectNotFound(f"{ref.id} is not in {remote.peer}.")


def label_original(remote: Connection, number: int, where: str) -> None:
    """Let an original know of its replica here, or with an empty text that it is gone.

    It is only information, so a failure does no harm.
    """
    left = remote.deadline.remaining()
    remote = remote.until(Deadline(_LABEL_TIMEOUT if left is None else min(_LABEL_TIMEOUT, left)))
    host = os.uname().nodename
    label = Label(number, {REPLICA_LABEL + host: where})
    try:
        remote.call(label)
        for pause in _LABEL_PAUSES:
            time.sleep(pause)
            tree = remote.call(GetData([number])).get(number)
            if tree is not None and (host in ValueMeta.read(tree).replicas) != bool(where):
                remote.call(label)
    except VineyardError as error:
        log.debug("%s does not note where replicas of %s are: %s", remote.peer, format_id(number), error)
