"""What handing a value to another process costs, beside what else there is: ``python benchmarks/core.py``.

A sample is a pair of fresh processes. Both have imported the value's libraries and handed over a smaller value of the
same kind; then one puts the value, and when that is done, the other gets it and sums up all of it. ``put``, ``get``
and ``get`` with the sum are timed, and the sum is compared: a peer whose value is another one has failed. In each round
the peers take turns.

All stores have used the memory before that values are written to, as it is after some time of running: pages that are
new cost the kernel several times as much. (A file in a RAM disk always has new pages.) What new ones cost is a table of
its own.

Needs numpy, pandas, pyarrow and vineyard-client[server] in this interpreter; Ray joins in where it is installed, and
the official client if ``--official PYTHON`` names an interpreter that has ``vineyard==0.24.2`` and ``setuptools<81``.
Takes some 15 GB of memory, unless it is ``--quick``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib import util
from inspect import getdoc
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, Optional, Type

import values
from peers import PEERS
from report import FLOOR, OURS, Failed, Report, collect, environment, fresh, last_line, options

# Seconds for one step of a sample; a peer that hangs has failed.
PATIENCE = 120

# Rounds of a small value within one process, whose mean is a sample.
ROUNDS_WITHIN = 200

# What is put with a preview and without one, and how often within one process, of which the fastest is a sample.
PREVIEWED = {"frame, 4 kB (100 × 5)": 300, "bytes, 4 kB": 300, "frame, 80 MB (1,000,000 × 10)": 8}
WITH_PREVIEW = f"{OURS}, with a preview"

IMPORTS = {OURS: "vineyard_client", "official client": "vineyard", "Arrow file": "pyarrow", "Ray": "ray"}

LIBRARIES = ("vineyard-client", "vineyard-bdist", "numpy", "pandas", "pyarrow")

# ---- samples: each runs in a fresh process, hears lines of JSON and says some


def play(role: str, *arguments: str) -> None:
    """Play a role; what libraries print must not come between the lines."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: Any) -> None:
        print(json.dumps(message), file=said, flush=True)

    ROLES[role](say, lambda: json.loads(sys.stdin.readline()), *arguments)


def putting(say: Callable[[Any], None], hear: Callable[[], Any], peer: str, place: str, what: str, size: str) -> None:
    value = values.make(what, size)
    way = PEERS[peer](place)
    warm = way.put(values.make_first(what))
    say({"warm": way.write(warm), "sum": values.use(value)})
    hear()
    started = time.perf_counter()
    handle = way.put(value)
    seconds = time.perf_counter() - started
    say({"seconds": seconds, "handle": way.write(handle)})
    hear()
    way.free(warm)
    way.free(handle)


def getting(say: Callable[[Any], None], hear: Callable[[], Any], peer: str, place: str, what: str, size: str) -> None:
    values.use(values.make_first(what))
    way = PEERS[peer](place)
    say("ready")
    warm = way.get(way.read(hear()))
    values.use(warm)
    say("warm")
    handle = way.read(hear())
    started = time.perf_counter()
    value = way.get(handle)
    middle = time.perf_counter()
    total = values.use(value)
    ended = time.perf_counter()
    say({"seconds": {"get": middle - started, "get and sum": ended - started}, "sum": total})


def going_round(say: Callable[[Any], None], hear: Callable[[], Any], peer: str, place: str) -> None:
    way = PEERS[peer](place)
    value = values.make("small dict", "")

    def once() -> None:
        handle = way.put(value)
        assert way.get(handle) == value
        way.free(handle)

    once()
    started = time.perf_counter()
    for _ in range(ROUNDS_WITHIN):
        once()
    say((time.perf_counter() - started) / ROUNDS_WITHIN)


def previewing(say: Callable[[Any], None], hear: Callable[[], Any], place: str, what: str, size: str) -> None:
    from vineyard_client import Client

    value = values.make(what, size)
    best = dict.fromkeys(("off", "head"), math.inf)
    with Client(place) as client:
        for _ in range(PREVIEWED[what] + 1):
            for level in best:
                started = time.perf_counter()
                ref = client.put(value, preview=level)
                best[level] = min(best[level], time.perf_counter() - started)
                client.delete(ref)
    say(best)


def writing(say: Callable[[Any], None], hear: Callable[[], Any], what: str, size: str, used: str) -> None:
    """Be the floor of putting."""
    data = values.contents(values.make(what, size))
    fd = os.memfd_create("floor")
    if used:
        _write(fd, data)
    started = time.perf_counter()
    _write(fd, data)
    say(time.perf_counter() - started)


def _write(fd: int, data: memoryview) -> None:
    done = 0
    while done < len(data):  # the kernel takes at most 2 GiB at once
        done += os.pwrite(fd, data[done:], done)


ROLES: Dict[str, Callable[..., None]] = {
    "put": putting,
    "get": getting,
    "round trip": going_round,
    "preview": previewing,
    "floor": writing,
}

# ---- the processes, from outside


class Process:
    """A process that plays a role."""

    def __init__(self, role: str, python: str, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed with the process
        command = [python, "-W", "ignore", __file__, "--sample", role, *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment()
        )

    def say(self, message: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is nothing to hear either
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def hear(self) -> Any:
        """Return what it says next.

        Raises:
            Failed: it ended, or hangs.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._process.kill()
            raise Failed(f"hangs for {PATIENCE} s")
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise Failed(last_line(self._errors.read()) or f"exit code {code}")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if kind is not None:
            self._process.kill()
        try:
            self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()


class Places:
    """The interpreters and the stores of all peers that are here; they are there until the block ends."""

    def __init__(self, official: Optional[str], size: str) -> None:
        from vineyard_client import EmbeddedServer

        self.pythons = dict.fromkeys(PEERS, sys.executable)
        if official:
            self.pythons["official client"] = official
        else:
            del self.pythons["official client"]
        if not util.find_spec("ray"):
            del self.pythons["Ray"]
        self.server = EmbeddedServer(size=size)
        self._size = size
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Places:
        with contextlib.ExitStack() as opened:
            opened.enter_context(self.server)
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm"))
            self.where = dict.fromkeys(self.pythons, self.server.socket)
            self.where.update({"Arrow file": folder, "pickle file": folder})
            if "Ray" in self.pythons:
                self.where["Ray"] = opened.enter_context(ray_cluster(self._size))
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._opened.close()

    def sample(self, what: str, size: str, peer: str) -> Dict[str, float]:
        """Return the times of a value's way through a peer, or of the floor's."""
        return self.floor(what, size, "used") if peer == FLOOR else self.pair(peer, what, size)

    def pair(self, peer: str, what: str, size: str) -> Dict[str, float]:
        """Return the times of a value's way through a peer.

        Raises:
            Failed: it did not arrive, or it is another one.
        """
        arguments = (self.pythons[peer], peer, self.where[peer], what, size)
        with Process("put", *arguments) as giver:
            with Process("get", *arguments) as taker:
                made = giver.hear()
                taker.hear()
                taker.say(made["warm"])
                taker.hear()
                giver.say("go")
                put = giver.hear()
                taker.say(put["handle"])
                got = taker.hear()
            giver.say("end")
        if not math.isclose(made["sum"], got["sum"], rel_tol=1e-9):
            raise Failed(f"the sum is {got['sum']} instead of {made['sum']}")
        return {"put": put["seconds"], **got["seconds"]}

    def floor(self, what: str, size: str, used: str) -> Dict[str, float]:
        """Return the time that one write of a value's bytes takes."""
        with Process("floor", sys.executable, what, size, used) as process:
            return {"put": float(process.hear())}


@contextlib.contextmanager
def ray_cluster(size: str) -> Iterator[str]:
    """Run a Ray cluster of one node, without its dashboard, and give its address."""
    from vineyard_client.server import parse_size

    folder = tempfile.mkdtemp(prefix="ray-")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = os.path.join(os.path.dirname(sys.executable), "ray")
    command = [program, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += [f"--object-store-memory={parse_size(size)}", f"--temp-dir={folder}", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    with open(f"{folder}/start.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while "Ray runtime started" not in _text(f"{folder}/start.log"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Ray did not start: {_text(f'{folder}/start.log')[-2000:]}")
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()  # it ends its own children
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _text(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


# ---- what is compared


def hand_over(report: Report, places: Places, rounds: int, quick: bool) -> None:
    """Add the tables of put, get, and get with the sum."""
    size = "quick" if quick else ""
    for peer in (OURS, "Ray"):
        if peer in places.pythons:
            places.pair(peer, "array, 2.5 GiB", size)  # the store's memory is used for the first time

    found = {}
    for what in values.VALUES:
        if what != "small dict" and not (quick and what in values.LARGE):
            print(f"  {what}", file=sys.stderr, flush=True)
            peers = [*places.pythons, *([FLOOR] if what in values.IN_ONE_PIECE else [])]
            few = min(rounds, 3) if what in values.SLOW else rounds
            found[what] = collect(peers, few, partial(places.sample, what, size))
    tables = {
        "put": "The floor is one `pwrite` of the same bytes into shared memory.",
        "get": "Peers that map and peers that copy do not do the same here; the next table evens that out.",
        "get and sum": "`get`, and then a sum of every element, for which pages that were only mapped are looked at.",
    }
    for step, text in tables.items():
        report.table(step, text)
        for what, samples in found.items():
            for peer, taken in samples.items():
                if isinstance(taken, str):
                    report.add(what, peer, taken)
                elif step in taken[0]:
                    report.add(what, peer, [sample[step] for sample in taken])


def new_pages(report: Report, places: Places, rounds: int, quick: bool) -> None:
    """Add the table of putting into memory that was never used."""
    what, size = "frame, 80 MB (1,000,000 × 10)", "quick" if quick else ""

    def take(peer: str) -> float:
        if peer == FLOOR:
            return places.floor(what, size, "")["put"]
        if places.where[peer] == places.server.socket:
            places.server.stop()
            places.server.start()
        return places.pair(peer, what, size)["put"]

    report.table("put into new pages", "Each sample has a server of its own. Files in a RAM disk are new anyway.")
    peers = [peer for peer in places.pythons if peer != "Ray"]
    for peer, taken in collect([*peers, FLOOR], rounds, take).items():
        report.add(what, peer, taken)


def in_one_process(report: Report, places: Places, rounds: int) -> None:
    """Add the tables of small values and of importing."""

    def round_trip(peer: str) -> float:
        with Process("round trip", places.pythons[peer], peer, places.where[peer]) as process:
            return float(process.hear())

    def importing(peer: str) -> float:
        code = f"import time; begun = time.perf_counter(); import {IMPORTS[peer]}; print(time.perf_counter() - begun)"
        return float(fresh(places.pythons[peer], "-c", code))

    report.table("small values", f"Put, get and delete a dict of three; the mean of {ROUNDS_WITHIN} in one process.")
    peers = [peer for peer in places.pythons if peer != "Arrow file"]  # it has no such values
    for peer, taken in collect(peers, rounds, round_trip).items():
        report.add("small dict", peer, taken)
    report.table("import", "The library alone, in a fresh interpreter.")
    peers = [peer for peer in IMPORTS if peer in places.pythons]
    for peer, taken in collect(peers, rounds, importing).items():
        report.add("import", peer, taken)


def with_previews(report: Report, places: Places, rounds: int, quick: bool) -> None:
    """Add the table of what a preview adds to a put."""
    report.table("put with a preview", "By turns in one process, of which the fastest is a sample.")
    for what in PREVIEWED:
        samples = []
        for _ in range(rounds):
            arguments = (places.server.socket, what, "quick" if quick else "")
            with Process("preview", sys.executable, *arguments) as process:
                samples.append(process.hear())
        report.add(what, OURS, [sample["off"] for sample in samples])
        report.add(what, WITH_PREVIEW, [sample["head"] for sample in samples])


def describe(places: Places) -> str:
    """Return what the peers are, as a list."""
    text = "One process puts a value, another one gets it; both are fresh, with the libraries of the value loaded."
    peers = [f"- {peer}: {' '.join((getdoc(PEERS[peer]) or '').split())}" for peer in places.pythons]
    return "\n".join([text, "", *peers])


def main() -> None:
    """Take all samples and print the report."""
    arguments = options(__doc__, rounds=5, official=True)
    if arguments.sample:
        play(*arguments.sample)
        return
    with Places(arguments.official, size="200Mi" if arguments.quick else "6Gi") as places:
        ray = ["ray"] if "Ray" in places.pythons else []
        report = Report("core", "From one process to another", describe(places), arguments, *LIBRARIES, *ray)
        hand_over(report, places, arguments.rounds, arguments.quick)
        in_one_process(report, places, arguments.rounds)
        with_previews(report, places, arguments.rounds, arguments.quick)
        new_pages(report, places, arguments.rounds, arguments.quick)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
