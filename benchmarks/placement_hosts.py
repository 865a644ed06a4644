"""Pipelines on two worker hosts, with placement and without, and what crossed the link between them.

    python benchmarks/placement.py hosts

Real Airflow with Celery, PostgreSQL and Redis, each host a network namespace of this machine, as `tests/two_hosts` has
them; root, as there. The link is first as it is (memory), then limited to 1 Gb/s. Each pipeline runs in turn with and
without placement, several times, after one run of each that is not counted; the table has the medians. The scheduler is
another one for each turn, as the option is its own.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

DAGS = ("flights", "chain")
LINKS = ("", "1gbit")
ROUNDS = 4  # of which the first is not counted


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
        for link in LINKS:
            if link:
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
                took = [f"{statistics.median(run.seconds for run in runs):.1f} s" for runs in (off, on)]
                yield f"| {link or 'as it is'} | {' | '.join([dag_id, *moved, *took])} |"
    finally:
        hosts.stop()
