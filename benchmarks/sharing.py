"""What a put costs whose value has in it what a get returned: ``python benchmarks/sharing.py``.

Each sample is a fresh process, which gets a frame of ten columns that the store has, and puts it with one more column;
beside it stands the put of a frame of eleven columns that the store has nothing of. Who is not dumpable is not told by
the kernel which pages were written to, so there all bytes are compared. All stores have used the memory before.

The table of the store's memory is of ten steps like that, each of which keeps what the step before it made.

Needs numpy, pandas and vineyard-client[server] in this interpreter. Takes some
6 GB of memory, unless it is ``--quick``.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time

import values
from report import OURS, Report, collect, fresh, options

CASES = {"frame, 80 MB (1,000,000 × 10)": 1_000_000, "frame, 1 GB (12,500,000 × 10)": 12_500_000}

RECEIVED, NOT_DUMPABLE, NEW = f"{OURS}, received", f"{OURS}, received, not dumpable", f"{OURS}, all of it new"

STEPS = 10

_PR_SET_DUMPABLE = 4
_NOBODY = 65534


def put_once(place: str, ref: str, peer: str) -> None:
    """Print how long the put took."""
    import numpy as np

    import vineyard_client

    with vineyard_client.connect(place) as client:
        client.delete(client.put(values.make_first("frame, 80 MB (1,000,000 × 10)")))
        frame = client.get(vineyard_client.ObjectRef.from_json(json.loads(ref)))
        if peer == NEW:
            frame = frame.copy()
        frame.insert(0, "new", np.random.default_rng(2).random(len(frame)))
        values.use(frame)
        if peer == NOT_DUMPABLE:
            if os.geteuid() == 0:  # whom the kernel tells in any case
                os.setuid(_NOBODY)
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        started = time.perf_counter()
        made = client.put(frame)
        print(time.perf_counter() - started)
        client.delete(made)


def in_turns(report: Report, rounds: int, quick: bool) -> None:
    """Add the table of puts."""
    from vineyard_client import EmbeddedServer, connect

    report.table("put of what was received", "A frame of ten columns that the store has, and a column that it has not.")
    for what, rows in CASES.items():
        number = rows // 100 if quick else rows
        with EmbeddedServer(size=max(64 << 20, number * 8 * 35)) as server, connect(server.socket) as client:
            os.chmod(os.path.dirname(server.socket), 0o755)
            client.delete(client.put(b"\1" * (number * 8 * 30)))  # the memory is used for the first time
            ref = json.dumps(client.put(values.ten_columns(number)).to_json())

            def take(peer: str, place: str = server.socket, ref: str = ref) -> float:
                return float(fresh(sys.executable, __file__, "--sample", place, ref, peer))

            for peer, samples in collect([RECEIVED, NOT_DUMPABLE, NEW], rounds, take).items():
                report.add(what, peer, samples)


def in_steps(report: Report, quick: bool) -> None:
    """Add the table of memory."""
    import numpy as np

    from vineyard_client import EmbeddedServer, connect

    text = f"What {STEPS} steps take, each of which adds a column and keeps what came before, divided by the frame."
    report.table("the store's memory", text, "×")
    what, rows = next(iter(CASES.items()))
    number = rows // 100 if quick else rows
    with EmbeddedServer(size=max(64 << 20, number * 8 * 40)) as server, connect(server.socket) as client:
        before = client.status().memory_used
        ref = client.put(values.ten_columns(number))
        frame = client.status().memory_used - before
        for _ in range(STEPS):
            received = client.get(ref)
            received.insert(0, f"new {len(received.columns)}", np.random.default_rng(2).random(number))
            ref = client.put(received)
        report.add(what, OURS, [(client.status().memory_used - before) / frame])


def main() -> None:
    """Take all samples and print the report."""
    arguments = options(__doc__, rounds=7)
    if arguments.sample:
        put_once(*arguments.sample)
        return
    text = "A process gets a frame, adds a column and puts it."
    report = Report("sharing", "Put again what was received", text, arguments, "vineyard-client", "numpy", "pandas")
    in_turns(report, arguments.rounds, arguments.quick)
    in_steps(report, arguments.quick)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
