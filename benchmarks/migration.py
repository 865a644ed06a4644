"""What bringing a value to another host costs: ``python benchmarks/migration.py``.

Two servers on this machine that share metadata through etcd stand for two hosts; the bytes cross the loopback device.
A value of 200 MB is persisted on the first and read on the second, by turns

- by us: ``get`` of a reference, which pulls the value into the second store (with ``splice``, and as Python 3.8 and 3.9
  do it, through a buffer);
- by the server: ``migrate_object`` of the same object, as vineyardd does it by default, which is with compression, then
  of random bytes, which do not compress, and last without compression;
- by a bare loop, the floor: a request for the blob, and the same bytes spliced into memory of the second store;
- and, once the replica is there, again: beside a read of the original on its own host.

Every sample is taken in a fresh process and with memory of the store that has been used before. The value has two
arrays as tables have them: whole numbers below 100,000, and amounts with two decimals. Needs numpy and
vineyard-client[server] in this interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import timedelta
from typing import Any, Callable, Dict, Iterator

from report import FLOOR, OURS, Report, collect, fresh, options

import vineyard_client as vc
from vineyard_client._store import objects
from vineyard_client._wire.framing import encode_frame
from vineyard_client._wire.messages import CreateBuffer, DeleteData, DropBuffer, GetRemoteBuffers, Register, Request
from vineyard_client.ids import parse_id
from vineyard_client.server import find_binary

BYTES = 200_000_000
SIZE = "700Mi"
PIPE = 1 << 20

TEXT = "Two servers of one machine, which share metadata through etcd; the bytes cross the loopback device."
FIRST = (
    "The value is on the other host only. vineyardd copies a persisted object by itself when it is asked to "
    "(`migrate_object`), with compression unless that is switched off. The floor asks for the blob and splices its "
    "bytes into the store. Without `splice` is how Python 3.8 and 3.9 do it; without a replica the value goes into the "
    "reading process only."
)
NEXT = "Whoever reads it after the first one, beside a read where the value was put."

# ---- samples: each runs alone in a fresh process


class MigrateObject(Request[int]):
    """Ask the server to copy a persisted object of another instance into its own store."""

    type = "migrate_object_request"
    reply_type = "migrate_object_reply"

    def __init__(self, number: int) -> None:
        self.number = number

    def fields(self) -> Dict[str, Any]:
        """Return the wire fields."""
        return {"object_id": self.number}

    def parse(self, reply: Dict[str, Any]) -> int:
        """Return the copy's id."""
        return int(reply["object_id"])


def sample_get(client: vc.Client, ref: vc.ObjectRef, source: str) -> float:
    """Pull the value, and remove the replica afterwards."""
    assert not list(client.list())
    started = time.perf_counter()
    value: Any = client.get(ref)
    seconds = time.perf_counter() - started
    assert 0 < ref.size - sum(array.nbytes for array in value) < 4096
    del value
    client.collect(older_than=timedelta(0))
    return seconds


def sample_get_without_splice(client: vc.Client, ref: vc.ObjectRef, source: str) -> float:
    """Pull the value as Python 3.8 and 3.9 do it."""
    if hasattr(os, "splice"):
        del os.splice
    return sample_get(client, ref, source)


def sample_get_without_replica(client: vc.Client, ref: vc.ObjectRef, source: str) -> float:
    """Read the value into memory of this process."""
    started = time.perf_counter()
    client.get(ref, replica=False)
    return time.perf_counter() - started


def sample_migrate_object(client: vc.Client, ref: vc.ObjectRef, source: str) -> float:
    """Let the server do it, and delete its copy afterwards."""
    connection = client._connection()
    number = parse_id(ref.id)
    started = time.perf_counter()
    copy = connection.call(MigrateObject(number))
    seconds = time.perf_counter() - started
    assert copy != number
    connection.call(DeleteData([copy]))
    return seconds


def sample_bare_loop(client: vc.Client, ref: vc.ObjectRef, source: str) -> float:
    """Splice the bytes of the blob into memory of the store, and do nothing else."""
    import fcntl

    with vc.connect(source) as there:
        original = objects.find_object(there._connection(), parse_id(ref.id), ref.token)
    connection = client._connection()
    blob = connection.call(CreateBuffer(original.size))
    fd, offset = connection.store_fd(blob.payload), blob.payload.offset
    host, _, port = (ref.endpoint or "").rpartition(":")
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, PIPE)  # F_SETPIPE_SZ
    started = time.perf_counter()
    with socket.create_connection((host, int(port))) as stream:
        for request in (Register(), GetRemoteBuffers([original.blob])):
            stream.sendall(encode_frame(request.message()))
            (length,) = struct.unpack("<Q", stream.recv(8, socket.MSG_WAITALL))
            reply = json.loads(stream.recv(length, socket.MSG_WAITALL))
        assert reply["num"] == 1
        left = original.size
        while left:
            count = os.splice(stream.fileno(), writer, min(left, PIPE))
            left -= count
            while count:
                moved = os.splice(reader, fd, count, offset_dst=offset)
                count -= moved
                offset += moved
    seconds = time.perf_counter() - started
    connection.call(DropBuffer(blob.id))
    return seconds


def sample_second_read(client: vc.Client, ref: vc.ObjectRef, source: str) -> float:
    """Read a replica that is there."""
    client.get(ref)
    with vc.connect(client.socket) as second:
        seconds = min(timed(lambda: second.get(ref)) for _ in range(5))
    client.collect(older_than=timedelta(0))
    return seconds


def sample_local_read(client: vc.Client, ref: vc.ObjectRef, source: str) -> float:
    """Read the original on its own host."""
    with vc.connect(source, endpoint=ref.endpoint) as there:
        return min(timed(lambda: there.get(ref)) for _ in range(5))


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - started
    del result
    return seconds


SAMPLES: Dict[str, Callable[[vc.Client, vc.ObjectRef, str], float]] = {
    OURS: sample_get,
    "vineyardd": sample_migrate_object,
    "vineyardd, random bytes": sample_migrate_object,
    "vineyardd, no compression": sample_migrate_object,
    FLOOR: sample_bare_loop,
    f"{OURS}, without splice": sample_get_without_splice,
    f"{OURS}, no replica": sample_get_without_replica,
}
# Of the same value, once it is there.
AGAIN: Dict[str, Callable[[vc.Client, vc.ObjectRef, str], float]] = {
    f"{OURS}, a replica that is there": sample_second_read,
    f"{OURS}, the original on its host": sample_local_read,
}


def sample(name: str, pair: Dict[str, Any]) -> float:
    """Take a sample; an exchange with the other server came before, so that modules are loaded and sockets warm."""
    import numpy  # noqa: F401  # what reading the value needs anyway

    with vc.connect(pair["sockets"][1], endpoint=None) as client:
        warm = vc.ObjectRef.from_json(pair["warm"])
        client.get(warm, replica=False)
        ref = vc.ObjectRef.from_json(pair["noise" if "random" in name else "table"])
        return {**SAMPLES, **AGAIN}[name](client, ref, pair["sockets"][0])


# ---- servers


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(log: str, *command: str) -> Iterator[None]:
    """Run a process for as long as the block lasts; they call themselves 127.0.0.1, which resolves everywhere."""
    with open(log, "w") as output:
        environment = {**os.environ, "MY_HOST_NAME": "127.0.0.1"}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def wait_for(answers: Callable[[], object]) -> None:
    """Return when a server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            answers()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def etcd(folder: str) -> Iterator[str]:
    url, peers = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    listen = [f"--listen-client-urls={url}", f"--advertise-client-urls={url}", f"--listen-peer-urls={peers}"]
    cluster = [f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}"]
    with running(f"{folder}/etcd.log", find_binary("etcd"), f"--data-dir={folder}/etcd", *listen, *cluster):
        wait_for(lambda: urllib.request.urlopen(f"{url}/health").close())
        yield url


@contextlib.contextmanager
def two_servers(folder: str, url: str, nbytes: int, *options: str) -> Iterator[Dict[str, Any]]:
    """Run two servers with a value on the first; yield what a sample needs to know."""
    prefix = os.path.basename(folder)
    os.mkdir(folder)
    with contextlib.ExitStack() as stack:
        sockets, endpoints = [], []
        for name in ("a", "b"):
            path, port = f"{folder}/{name}.sock", free_port()
            shared = ["--meta=etcd", f"--etcd_endpoint={url}", f"--etcd_prefix={prefix}"]
            command = [find_binary(), f"--socket={path}", f"--size={SIZE}", f"--rpc_socket_port={port}", *shared]
            stack.enter_context(running(f"{folder}/{name}.log", *command, *options))
            wait_for(lambda path=path: vc.connect(path).close())  # type: ignore[misc]
            sockets.append(path)
            endpoints.append(f"127.0.0.1:{port}")
        with vc.connect(sockets[0], endpoint=endpoints[0]) as client:
            values = {"table": table(nbytes), "noise": noise(nbytes), "warm": table(100_000)}
            refs = {name: client.put(value, persist=True).to_json() for name, value in values.items()}
        yield {"sockets": sockets, **refs}


def table(nbytes: int) -> Any:
    """Return what tables are made of: a column of whole numbers, and one of amounts with two decimals."""
    import numpy as np

    random = np.random.default_rng(1)
    return [random.integers(0, 100_000, nbytes // 16), random.lognormal(5, 1, nbytes // 16).round(2)]


def noise(nbytes: int) -> Any:
    """Return what does not compress."""
    import numpy as np

    return [np.random.default_rng(1).integers(0, 1 << 63, nbytes // 8)]


# ---- the report


def main() -> None:
    """Take all samples and print the report."""
    arguments = options(__doc__, rounds=5)
    if arguments.sample:
        name, pair = arguments.sample
        print(sample(name, json.loads(pair)))
        return
    nbytes = BYTES // 100 if arguments.quick else BYTES
    report = Report("migration", "From one host to another", TEXT, arguments, "vineyard-client", "vineyard-bdist")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vyb"))
        url = stack.enter_context(etcd(folder))
        servers = stack.enter_context(two_servers(f"{folder}/x", url, nbytes))
        plain = stack.enter_context(two_servers(f"{folder}/y", url, nbytes, "--compression=false"))

        def take(name: str) -> float:
            pair = plain if "no compression" in name else servers
            return float(fresh(sys.executable, __file__, "--sample", name, json.dumps(pair)))

        for name in SAMPLES:
            take(name)  # the store's memory is used for the first time
        for name, text, ways in (("first read", FIRST, SAMPLES), ("next reads", NEXT, AGAIN)):
            report.table(name, text)
            for way, taken in collect(list(ways), arguments.rounds, take).items():
                report.add(f"{nbytes // 10**6} MB", way, taken)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
