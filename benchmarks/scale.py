"""How core behaves among many objects and many processes: ``python benchmarks/scale.py``.

The store is filled with objects by us. Then each peer, in a fresh process and by turns, puts, gets and deletes five
hundred more, and a sample is the median of one step. For throughput, so many processes at once put, get and delete a
megabyte for some seconds, and a sample is what they did per second together. At last a bystander asks for the store's
status all the time while somebody else looks at all of it, and a sample is the longest that it waited.

Needs vineyard-client[server] in this interpreter; the official client joins in if ``--official PYTHON`` names an
interpreter that has ``vineyard==0.24.2`` and ``setuptools<81``.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Dict, List, Optional

import peers
from report import OURS, Failed, Report, collect, environment, fresh, options

SIZE = 4096
COUNTS = (1_000, 10_000, 50_000, 200_000)
PROCESSES = (2, 8, 32)

# ---- samples: each runs in a fresh process


def latencies(peer: str, place: str) -> str:
    """Return the medians of put, get and delete."""
    way: Any = peers.PEERS[peer](place)
    value = bytes(SIZE)
    steps: List[List[float]] = [[], [], []]
    for _ in range(500):
        moments = [time.perf_counter()]
        handle = way.put(value)
        moments.append(time.perf_counter())
        way.get(handle)
        moments.append(time.perf_counter())
        way.free(handle)
        moments.append(time.perf_counter())
        for step, begun, ended in zip(steps, moments, moments[1:]):
            step.append(ended - begun)
    return " ".join(str(statistics.median(step)) for step in steps)


def exchanges(peer: str, place: str, seconds: str) -> str:
    """Return how often a megabyte was exchanged; begin when told to."""
    way: Any = peers.PEERS[peer](place)
    value, done = bytearray(1 << 20), 0
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        handle = way.put(value)
        way.get(handle)
        way.free(handle)
        done += 1
    return str(done)


# ---- what is compared


def by_objects(report: Report, pythons: Dict[str, str], rounds: int, counts: List[int]) -> None:
    """Add the tables of what put, get and delete take with so many objects in the store."""
    import vineyard_client as vc

    found: Dict[int, Dict[str, Any]] = {}
    with vc.EmbeddedServer(size="2Gi") as server, vc.connect(server.socket) as client:

        def take(peer: str) -> List[float]:
            return [float(each) for each in fresh(pythons[peer], __file__, "--sample", peer, server.socket).split()]

        have = 0
        for count in counts:
            for _ in range(count - have):
                client.put(bytes(SIZE))
            have = count
            found[count] = collect(list(pythons), rounds, take)
    for number, step in enumerate(("put", "get", "delete")):
        report.table(f"{step} among many objects", f"A value of {SIZE} bytes, with so many in the store already.")
        for count, samples in found.items():
            for peer, taken in samples.items():
                report.add(f"{count:,}", peer, taken if isinstance(taken, str) else [one[number] for one in taken])


def longest_wait(place: str, seconds: str) -> str:
    """Return the longest that a bystander waited for an answer in so many seconds; begin when connected."""
    import vineyard_client as vc

    longest = 0.0
    with vc.Peer(place) as peer:
        peer.status()
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            asked = time.perf_counter()
            peer.status()
            longest = max(longest, time.perf_counter() - asked)
    return str(longest)


def waits(report: Report, rounds: int, count: int, pause: float) -> None:
    """Add the table of what others wait while somebody looks at the store, so many seconds after they began to ask."""
    import vineyard_client as vc

    size = count * (SIZE + 512) + (64 << 20)
    with vc.EmbeddedServer(size=size) as server, vc.connect(server.socket, timeout=600) as client:
        for _ in range(count):
            client.put(bytes(SIZE))
        rest = bytes(client.status().memory_limit - client.status().memory_used + 1)

        def full() -> None:
            with contextlib.suppress(vc.StoreFull):
                client.put(rest)

        work: Dict[str, Any] = {
            "nothing": lambda: None,
            "status": lambda: [client.status(), list(itertools.islice(client.list(noted=True), 5001))],
            "gc": client.collect,
            "a put on a full store": full,
            "a list of everything": lambda: list(client.list()),
        }
        report.table("what others wait", f"The longest wait of a bystander, with {count:,} objects in the store.")
        for name, does in work.items():
            began = time.monotonic()
            does()
            seconds = str(time.monotonic() - began + 2 * pause)

            def take(peer: str, does: Callable[[], object] = does, seconds: str = seconds) -> float:
                with ThreadPoolExecutor(1) as pool:
                    waited = pool.submit(fresh, sys.executable, __file__, "--sample", server.socket, seconds)
                    time.sleep(pause)
                    does()
                    return float(waited.result())

            report.add(name, OURS, collect([OURS], rounds, take)[OURS])


def throughput(pythons: Dict[str, str], processes: int, seconds: float, peer: str) -> float:
    """Return how many exchanges per second so many processes do together.

    Raises:
        Failed: one of them did not.
    """
    import vineyard_client as vc

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, vc.EmbeddedServer(size="1Gi") as server:
        place = folder if peer.endswith("file") else server.socket
        command = [pythons[peer], "-W", "ignore", __file__, "--sample", peer, place, str(seconds)]
        pipes: Dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        workers = [subprocess.Popen(command, text=True, env=environment(), **pipes) for _ in range(processes)]
        try:
            for worker in workers:
                if worker.stdout.readline() != "ready\n":
                    raise Failed("a process ended early")
            for worker in workers:
                worker.stdin.write("go\n")
                worker.stdin.flush()
            counted = [worker.communicate(timeout=60 + seconds)[0] for worker in workers]
        except subprocess.TimeoutExpired:
            raise Failed("a process hangs") from None
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
    if any(worker.returncode for worker in workers):
        raise Failed("a process failed")
    return sum(map(int, counted)) / seconds


def by_processes(report: Report, pythons: Dict[str, str], rounds: int, seconds: float) -> None:
    """Add the table of throughput."""
    report.table("many processes", "Put, get and delete of 1 MiB by so many processes at once, together.", unit="1/s")
    pythons = {**pythons, "pickle file": sys.executable}
    for processes in PROCESSES:
        samples = collect(list(pythons), rounds, partial(throughput, pythons, processes, seconds))
        for peer, taken in samples.items():
            report.add(f"{processes}", peer, taken)


def interpreters(official: Optional[str]) -> Dict[str, str]:
    """Return the interpreter of each peer."""
    return {OURS: sys.executable, **({"official client": official} if official else {})}


def main() -> None:
    """Take all samples and print the report."""
    arguments = options(__doc__, rounds=3, official=True)
    if arguments.sample:
        of_sample: Any = exchanges if len(arguments.sample) == 3 else latencies
        print((of_sample if arguments.sample[0] in peers.PEERS else longest_wait)(*arguments.sample))
        return
    pythons = interpreters(arguments.official)
    report = Report("scale", "Many objects, many processes", "", arguments, "vineyard-client", "vineyard-bdist")
    by_objects(report, pythons, arguments.rounds, [count // 100 if arguments.quick else count for count in COUNTS])
    waits(report, arguments.rounds, *((300, 0.1) if arguments.quick else (COUNTS[-1], 1.0)))
    by_processes(report, pythons, arguments.rounds, 0.3 if arguments.quick else 2.0)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
