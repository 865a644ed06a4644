"""What bringing a value to another host costs: ``python benchmarks/migration.py``.

Two servers on this machine that share metadata through etcd stand for two hosts; the bytes cross the loopback device.
A value of 200 MB is persisted on the first and read on the second, by turns

- by us: ``get`` of a reference, which pulls the value into the second store (with ``splice``, and as Python 3.8 and 3.9
  do it, through a buffer);
- by the server: ``migrate_object`` of the same object, as vineyardd does it by default, which is with compression, then
  of random bytes, which do not compress, and last without compression;
- by a bare loop, the floor: a request for the blob, and the same bytes spliced into memory of the second store;
- and, once the replica is there, again: beside a read of the original on its own host.

Every sample is taken in a fresh process and with memory of the store that has been used before; medians with their
spread are printed as Markdown, and with ``--json FILE`` as JSON. The value has two arrays as tables have them: whole
numbers below 100,000, and amounts with two decimals. Needs numpy and vineyard-client[server] in this interpreter.
"""

from __future__ import annotations

import argparse
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
from typing import Any, Callable, Dict, Iterator, List

from report import machine, spread, write

import vineyard_client as vc
from vineyard_client import _objects
from vineyard_client._wire.framing import encode_frame
from vineyard_client._wire.messages import CreateBuffer, DeleteData, DropBuffer, GetRemoteBuffers, Register, Request
from vineyard_client.ids import parse_id
from vineyard_client.server import find_binary

BYTES = 200_000_000
SIZE = "700Mi"
PIPE = 1 << 20

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
    assert sum(array.nbytes for array in value) == BYTES
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
        original = _objects.find_object(there._connection(), parse_id(ref.id), ref.token)
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
    "get": sample_get,
    "migrate_object": sample_migrate_object,
    "migrate_object, random bytes": sample_migrate_object,
    "migrate_object, no compression": sample_migrate_object,
    "bare loop": sample_bare_loop,
    "get, without splice": sample_get_without_splice,
    "get(replica=False)": sample_get_without_replica,
    "get of a replica that is there": sample_second_read,
    "get of the original, on its host": sample_local_read,
}


def take(name: str, pair: Dict[str, Any]) -> float:
    """Return one sample from a fresh process."""
    command = [sys.executable, "-W", "ignore", __file__, "--sample", name, json.dumps(pair)]
    # An installed package has byte code; one that runs from its source must be allowed to keep it.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout.split()[-1])


def sample(name: str, pair: Dict[str, Any]) -> float:
    """Take a sample; an exchange with the other server came before, so that modules are loaded and sockets warm."""
    import numpy  # noqa: F401  # what reading the value needs anyway

    with vc.connect(pair["sockets"][1], endpoint=None) as client:
        warm = vc.ObjectRef.from_json(pair["warm"])
        client.get(warm, replica=False)
        ref = vc.ObjectRef.from_json(pair["noise" if "random" in name else "table"])
        return SAMPLES[name](client, ref, pair["sockets"][0])


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
def two_servers(folder: str, url: str, *options: str) -> Iterator[Dict[str, Any]]:
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
            values = {"table": table(BYTES), "noise": noise(BYTES), "warm": table(100_000)}
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


def measure(rounds: int) -> List[Dict[str, Any]]:
    """Return a row for each way; in each round they take turns."""
    samples: Dict[str, List[float]] = {name: [] for name in SAMPLES}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vyb"))
        url = stack.enter_context(etcd(folder))
        pair = stack.enter_context(two_servers(f"{folder}/x", url))
        plain = stack.enter_context(two_servers(f"{folder}/y", url, "--compression=false"))
        names = list(SAMPLES)
        for turn in range(rounds + 1):  # the first is for the pages
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                seconds = take(name, plain if "no compression" in name else pair)
                if turn:
                    samples[name].append(seconds)
                print(f"  {turn}/{rounds} {name}: {seconds * 1e3:.2f} ms", file=sys.stderr, flush=True)
    base = spread(samples["get"])["median_ms"]
    rows = []
    for name, seconds_taken in samples.items():
        figures = spread(seconds_taken)
        rows.append({"way": name, **figures, "times_ours": figures["median_ms"] / base})
    return rows


def markdown(rows: List[Dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [f"| {BYTES // 10**6} MB to another host | median | lowest - highest | × ours |", "|---|--:|--:|--:|"]
    for row in rows:
        cells = [row["way"], f"{row['median_ms']:.2f} ms", f"{row['low_ms']:.2f} - {row['high_ms']:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {row['times_ours']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Take all samples and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=9, help="samples per way (default 9)")
    parser.add_argument("--json", metavar="FILE", help="write the report there as JSON")
    arguments = parser.parse_args()
    if arguments.sample:
        name, pair = arguments.sample
        print(sample(name, json.loads(pair)))
        return
    rows = measure(arguments.rounds)
    report = {"machine": machine("vineyard-client", "numpy"), "bytes": BYTES, "ways": rows}
    write(report, markdown(rows), arguments.json)


if __name__ == "__main__":
    main()
