"""What core costs, beside the official client and the floor: ``python benchmarks/core.py``.

Every sample is taken in a fresh process, peers take turns, and medians with their spread are printed, as a Markdown
table, and with ``--json FILE`` as JSON. Needs numpy, pandas and vineyard-client[server] in this interpreter; the
official client joins in if ``--official PYTHON`` names one that has ``vineyard==0.24.2`` and ``setuptools<81``.

A store's pages are either fresh or have been used before, and writing to fresh ones costs the kernel several times as
much; so does a write to a fresh or used memfd. Both are measured, each against its own floor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Union

from report import machine, spread, write

MIB = 1 << 20

# ---- samples: each runs alone in a fresh process, and prints one number


def frame_80mb() -> Any:
    import numpy as np
    import pandas as pd

    return pd.DataFrame(np.random.default_rng(1).random((1_000_000, 10)), columns=list("abcdefghij"))


def frame_1000_columns() -> Any:
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(1)
    return pd.DataFrame({f"c{i}": random.random(1000) for i in range(1000)})


def strings() -> Any:
    import pandas as pd

    return pd.DataFrame({"s": [f"passenger {i}" for i in range(1_000_000)]})


def small() -> Any:
    return {"rows": 17, "name": "flights", "share": 0.25}


VALUES: Dict[str, Callable[[], Any]] = {
    "frame 80 MB": frame_80mb,
    "frame 1,000 columns": frame_1000_columns,
    "frame of strings": strings,
    "small dict": small,
}


def client_of(peer: str, socket: str) -> Any:
    if peer == "ours":
        import vineyard_client

        return vineyard_client.connect(socket)
    import warnings

    warnings.simplefilter("ignore")
    import vineyard

    return vineyard.connect(socket)


def sample_put(peer: str, socket: str, what: str) -> float:
    value = VALUES[what]()
    if peer in ("floor, used pages", "floor, fresh pages"):
        fd = os.memfd_create("floor")
        data = memoryview(value.to_numpy().T).cast("B")  # pandas keeps columns together
        if peer == "floor, used pages":
            os.pwrite(fd, data, 0)
        started = time.perf_counter()
        os.pwrite(fd, data, 0)
        return time.perf_counter() - started
    client = client_of(peer, socket)
    reference = client.put(small())  # connected, and its modules loaded
    started = time.perf_counter()
    kept = client.put(value)
    seconds = time.perf_counter() - started
    for each in (reference, kept):
        client.delete(each)
    return seconds


def sample_get(peer: str, socket: str, what: str) -> float:
    value = VALUES[what]()
    client = client_of(peer, socket)
    reference = client.put(value)
    warm = client.put(value.iloc[:10] if hasattr(value, "iloc") else value)
    client.get(warm)
    started = time.perf_counter()
    result = client.get(reference)
    seconds = time.perf_counter() - started
    assert type(result) is type(value)
    for each in (reference, warm):
        client.delete(each)
    return seconds


def sample_round_trip(peer: str, socket: str, what: str) -> float:
    client = client_of(peer, socket)
    value = VALUES[what]()
    client.get(client.put(value))
    rounds = 200
    started = time.perf_counter()
    for _ in range(rounds):
        client.get(client.put(value))
    return (time.perf_counter() - started) / rounds


def sample_import(peer: str, socket: str, what: str) -> float:
    started = time.perf_counter()
    if peer == "ours":
        import vineyard_client  # noqa: F401
    else:
        import vineyard  # noqa: F401
    return time.perf_counter() - started


def sample_large(peer: str, socket: str, what: str) -> float:
    """Seconds to put and get back a value of 2.5 GiB, or of 10,000 buffers."""
    import numpy as np

    value: Any = np.arange(5 << 26) if what == "array 2.5 GiB" else [np.full(1000, i) for i in range(10_000)]
    client = client_of(peer, socket)
    started = time.perf_counter()
    reference = client.put(value)
    result = client.get(reference)
    seconds = time.perf_counter() - started
    assert len(result) == len(value)
    assert (result[-1] == value[-1]).all()
    client.delete(reference)
    return seconds


SAMPLES: Dict[str, Callable[[str, str, str], float]] = {
    "put": sample_put,
    "get": sample_get,
    "round trip": sample_round_trip,
    "import": sample_import,
    "put + get": sample_large,
}

# ---- what is compared: operation, value, peers

CASES = [
    ("put", "frame 80 MB", ["floor, used pages", "ours", "official"]),
    ("put", "frame 80 MB, fresh pages", ["floor, fresh pages", "ours", "official"]),
    ("get", "frame 80 MB", ["ours", "official"]),
    ("put", "frame 1,000 columns", ["ours", "official"]),
    ("get", "frame 1,000 columns", ["ours", "official"]),
    ("put", "frame of strings", ["ours", "official"]),
    ("get", "frame of strings", ["ours", "official"]),
    ("round trip", "small dict", ["ours", "official"]),
    ("import", "the package", ["ours", "official"]),
    ("put + get", "array 2.5 GiB", ["ours"]),
    ("put + get", "10,000 arrays of 8 kB", ["ours"]),
]


def take(python: str, operation: str, peer: str, socket: str, what: str) -> Union[float, str]:
    """Return one sample from a fresh process, or, as the official client does not manage all of them, its error."""
    command = [python, "-W", "ignore", __file__, "--sample", operation, peer, socket, what]
    # An installed package has byte code; one that runs from its source must be allowed to keep it.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, check=peer == "ours", capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else done.stderr.strip().splitlines()[-1][:80]


def measure(rounds: int, official: Optional[str]) -> List[Dict[str, Any]]:
    """Return a row for each case and peer; in each round the peers take turns."""
    from vineyard_client import EmbeddedServer

    rows = []
    for operation, label, peers in CASES:
        peers = [peer for peer in peers if peer != "official" or official]
        fresh = label.endswith("fresh pages")
        what = label[: -len(", fresh pages")] if fresh else label
        samples: Dict[str, List[float]] = {peer: [] for peer in peers}
        failures: Dict[str, str] = {}
        server = EmbeddedServer(size="6Gi").start()
        try:
            if not fresh and operation == "put":
                for peer in peers:
                    take(official if peer == "official" else sys.executable, operation, peer, server.socket, what)
            for turn in range(rounds):
                for peer in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
                    python = official if peer == "official" and official else sys.executable
                    if fresh:
                        server.stop()
                        server.start()
                    sample = take(python, operation, peer, server.socket, what)
                    if isinstance(sample, str):
                        failures[peer] = sample
                    else:
                        samples[peer].append(sample)
        finally:
            server.stop()
        base = spread(samples["ours"])["median_ms"]
        for peer in peers:
            if peer in failures:
                rows.append({"operation": operation, "value": label, "peer": peer, "fails": failures[peer]})
                continue
            figures = spread(samples[peer])
            times = figures["median_ms"] / base
            rows.append({"operation": operation, "value": label, "peer": peer, **figures, "times_ours": times})
            print(f"  {operation} {label}, {peer}: {figures['median_ms']:.3f} ms", file=sys.stderr, flush=True)
    return rows


# ---- how it scales


def latency_by_objects(counts: List[int]) -> List[Dict[str, Any]]:
    """Return put and get latency with so many objects in the store."""
    import vineyard_client as vc

    rows = []
    value = bytes(4096)
    with vc.EmbeddedServer(size="4Gi") as server, vc.connect(server.socket) as client:
        have = 0
        for count in counts:
            for _ in range(count - have):
                reference = client.put(value)
            have = count
            puts, gets = [], []
            for _ in range(500):
                started = time.perf_counter()
                reference = client.put(value)
                middle = time.perf_counter()
                client.get(reference)
                puts.append(middle - started)
                gets.append(time.perf_counter() - middle)
                client.delete(reference)
            row = {"put_ms": statistics.median(puts) * 1e3, "get_ms": statistics.median(gets) * 1e3}
            rows.append({"objects": count, **row})
            print(f"  {count} objects: {row}", file=sys.stderr, flush=True)
    return rows


def throughput(processes: int, seconds: float) -> float:
    """Return how many times per second so many processes together put, get and delete a megabyte."""
    import vineyard_client as vc

    code = (
        "import sys, time, vineyard_client as vc\n"
        "client, value, done = vc.connect(sys.argv[1]), bytearray(1 << 20), 0\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "end = time.monotonic() + float(sys.argv[2])\n"
        "while time.monotonic() < end:\n"
        "    ref = client.put(value); client.get(ref); client.delete(ref); done += 1\n"
        "print(done)\n"
    )
    with vc.EmbeddedServer(size="1Gi") as server:
        command = [sys.executable, "-c", code, server.socket, str(seconds)]
        workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        results: List[int] = []
        threads = [
            threading.Thread(target=lambda worker=worker: results.append(int(worker.communicate("go\n")[0])))
            for worker in workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(results) / seconds


# ---- output


def markdown(report: Dict[str, Any]) -> str:
    """Return the report as Markdown tables."""
    lines = ["| operation | value | peer | median | lowest – highest | × ours |", "|---|---|---|--:|--:|--:|"]
    for row in report["operations"]:
        if "fails" in row:
            lines.append(f"| {row['operation']} | {row['value']} | {row['peer']} | fails | {row['fails']} | |")
            continue
        spread = f"{row['low_ms']:.2f} – {row['high_ms']:.2f}"
        cells = [row["operation"], row["value"], row["peer"], f"{row['median_ms']:.2f} ms", spread]
        lines.append(f"| {' | '.join(cells)} | {row['times_ours']:.2f} |")
    lines += ["", "| objects in the store | put | get |", "|--:|--:|--:|"]
    lines += [f"| {r['objects']:,} | {r['put_ms']:.2f} ms | {r['get_ms']:.2f} ms |" for r in report["objects"]]
    lines += ["", "| processes | put, get and delete of 1 MiB per second, together |", "|--:|--:|"]
    lines += [f"| {row['processes']} | {row['per_second']:,.0f} |" for row in report["processes"]]
    return "\n".join(lines)


def main() -> None:
    """Take all samples and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7, help="samples per case and peer (default 7)")
    parser.add_argument("--official", metavar="PYTHON", help="an interpreter that has the official client")
    parser.add_argument("--objects", type=int, nargs="*", default=[1_000, 10_000, 50_000, 200_000])
    parser.add_argument("--json", metavar="FILE", help="write the report there as JSON")
    arguments = parser.parse_args()
    if arguments.sample:
        operation, *rest = arguments.sample
        print(SAMPLES[operation](*rest))
        return
    report: Dict[str, Any] = {"machine": machine("vineyard-client", "numpy", "pandas")}
    report["operations"] = measure(arguments.rounds, arguments.official)
    report["objects"] = latency_by_objects(arguments.objects)
    report["processes"] = [{"processes": n, "per_second": throughput(n, 5.0)} for n in (2, 8, 32)]
    write(report, markdown(report), arguments.json)


if __name__ == "__main__":
    main()
