"""Pipelines on two worker hosts, with placement and without, and what crossed the link between them.

    python benchmarks/placement.py hosts [LINK …]

Real Airflow with Celery, PostgreSQL and Redis, each host a network namespace of this machine, as `tests/two_hosts` has
them; root, as there. The link is as fast as memory, or limited (``1gbit``). Each pipeline runs in turn without and with
placement, several times, after one turn that is not counted; the table has the medians, of times also the least. Each
turn has a scheduler of its own, since the option is the scheduler's.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

DAGS = ("flights", "chain")
LINKS = ("memory", "1gbit")
ROUNDS = 3  # of which the first is not counted


def missing() -> str:
    """Return why it cannot be measured here, or nothing."""
    from vineyard_testing import machines

    return machines.missing()


def lines() -> Iterator[str]:
    """Yield the table."""
    from vineyard_testing.placed import PlacedHosts, Run

    hosts = PlacedHosts()
    try:
        hosts.start()
        yield "| link | DAG | moved without | moved with | run without | run with |"
        yield "|---|---|--:|--:|--:|--:|"
        for link in sys.argv[2:] or LINKS:
            if link != LINKS[0]:
                hosts.machines.limit(link)
            found: Dict[Tuple[str, bool], List[Run]] = {}
            for _ in range(ROUNDS):
                for placement in (False, True):
                    hosts.machines.end("scheduler")
                    hosts.scheduler(placement=placement)
                    # A scheduler that has just started is slow with its first run, whatever that is.
                    hosts.run("flights")
                    for dag_id in DAGS:
                        found.setdefault((dag_id, placement), []).append(hosts.run(dag_id))
            for dag_id in DAGS:
                off, on = (found[dag_id, placement][1:] for placement in (False, True))
                moved = [f"{statistics.median(run.moved for run in runs) / 1e6:.1f} MB" for runs in (off, on)]
                seconds = [[run.seconds for run in runs] for runs in (off, on)]
                took = [f"{statistics.median(all):.1f} s ({min(all):.1f} s)" for all in seconds]
                yield f"| {link} | {' | '.join([dag_id, *moved, *took])} |"
    finally:
        hosts.stop()
