"""Placement on more hosts than there are here: a simulation, seeded, of tasks that run near their input or anywhere.

Each host has slots. Runs arrive at random; a run is a chain, a fan of readers, or a diamond; sizes and times are
log-normal around the medians that are named. A task that runs where part of its input is not first fetches that part at
the bandwidth. What is compared is how the host is chosen: ``any`` (the first that is free), ``rule`` (the one with most
bytes, for at most bytes ÷ bandwidth and 10 s, then any), ``sticky`` (that one, however long it takes). Airflow's second
between two tasks counts for all of them.

    python benchmarks/placement.py [simulation | hosts | cost]

prints a table of docs/operating.md: this one, that of two real hosts (``placement_hosts``), or what the scheduler pays
(``placement_cost``). In this one sizes and times are assumed, not taken from anybody's pipelines.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

TABLES = {"simulation": "placement", "hosts": "placement_hosts", "cost": "placement_cost"}

LONGEST = 10.0
BETWEEN_TASKS = 1.0
RUNS = 150
SEEDS = range(5)


class Setting(NamedTuple):
    """What is simulated."""

    hosts: int
    slots: int
    size: float  # median bytes of a value
    seconds: float  # median time of a task, without fetching
    bandwidth: float
    load: float = 0.6

    def title(self) -> str:
        return (
            f"{self.hosts} × {self.slots} slots, {self.size / 1e6:.0f} MB, tasks of {self.seconds:g} s, "
            f"{self.bandwidth / 1e6:.0f} MB/s, load {self.load}"
        )


SETTINGS = [
    Setting(16, 4, 100e6, 0.5, 125e6),
    Setting(16, 4, 200e6, 20, 100e6),
    Setting(16, 4, 200e6, 20, 100e6, load=0.85),
    Setting(16, 4, 200e6, 2, 100e6),
    Setting(16, 4, 2e9, 20, 100e6),
    Setting(16, 2, 200e6, 20, 100e6),
    Setting(16, 4, 200e6, 2, 1e9),
    Setting(16, 4, 50e6, 20, 100e6),
    Setting(16, 4, 50e6, 20, 1e9),
]


@dataclass
class Task:
    """A task of a run; ``inputs`` are the tasks whose values it reads."""

    run: int
    seconds: float
    size: float
    inputs: List[Task] = field(default_factory=list)
    waiting_for: int = 0
    readers: List[Task] = field(default_factory=list)
    copies: List[int] = field(default_factory=list)  # hosts that have its value, the first is where it was put
    sent: float = 0.0


def make_run(number: int, setting: Setting, random_: random.Random) -> List[Task]:
    """Return the tasks of a run, those that nothing precedes first."""

    def task(*inputs: Task) -> Task:
        made = Task(
            number,
            random_.lognormvariate(0, 0.5) * setting.seconds,
            random_.lognormvariate(0, 0.5) * setting.size,
            list(inputs),
            len(inputs),
        )
        for one in inputs:
            one.readers.append(made)
        return made

    kind = random_.choice(("chain", "fan", "diamond"))
    first = task()
    if kind == "chain":
        tasks = [first]
        for _ in range(5):
            tasks.append(task(tasks[-1]))
        return tasks
    middle = [task(first) for _ in range(8 if kind == "fan" else 3)]
    return [first, *middle, *([task(*middle)] if kind == "diamond" else [])]


def simulate(setting: Setting, choose: str, seed: int) -> Tuple[List[float], float]:
    """Return how long each run took, and how many bytes were fetched."""
    random_ = random.Random(seed)
    runs = [make_run(number, setting, random_) for number in range(RUNS)]
    work = sum(task.seconds for run in runs for task in run)
    horizon = work / (setting.hosts * setting.slots * setting.load)
    begins = sorted(random_.uniform(0, horizon) for _ in runs)
    left = [len(run) for run in runs]
    took = [0.0] * RUNS
    free = [setting.slots] * setting.hosts
    # Who waits for one host, and who for any: in the order in which they came.
    own: List[List[Task]] = [[] for _ in range(setting.hosts)]
    anywhere: List[Task] = []
    moved = 0.0
    order = itertools.count()
    events: List[Tuple[float, int, str, Task, int]] = []

    def at(when: float, what: str, task: Task, host: int = -1) -> None:
        heapq.heappush(events, (when, next(order), what, task, host))

    def start(task: Task, host: int, now: float) -> None:
        nonlocal moved
        free[host] -= 1
        missing = 0.0
        for one in task.inputs:
            if host not in one.copies:
                missing += one.size
                one.copies.append(host)
        moved += missing
        at(now + missing / setting.bandwidth + task.seconds, "end", task, host)

    def dispatch(now: float) -> None:
        for host in random_.sample(range(setting.hosts), setting.hosts):
            while free[host] and own[host]:
                start(own[host].pop(0), host, now)
        while anywhere and any(free):
            start(anywhere.pop(0), random_.choice([host for host, slots in enumerate(free) if slots]), now)

    for run, begin in zip(runs, begins):
        at(begin, "send", run[0])
    while events:
        now, _, what, task, host = heapq.heappop(events)
        if what == "send":
            task.sent = now
            place, wait = preference(task, setting, choose)
            if place is None:
                anywhere.append(task)
            else:
                own[place].append(task)
                if wait is not None:
                    at(now + wait, "relieve", task, place)
        elif what == "relieve":
            if task in own[host]:
                own[host].remove(task)
                anywhere.insert(0, task)
        else:
            free[host] += 1
            task.copies.insert(0, host)
            left[task.run] -= 1
            if not left[task.run]:
                took[task.run] = now - begins[task.run]
            for reader in task.readers:
                reader.waiting_for -= 1
                if not reader.waiting_for:
                    at(now + BETWEEN_TASKS, "send", reader)
        dispatch(now)
    return took, moved


def preference(task: Task, setting: Setting, choose: str) -> Tuple[Optional[int], Optional[float]]:
    """Return the host that a task prefers, if any, and how long it waits there; None is for ever."""
    shares: Dict[int, float] = {}
    for one in task.inputs:
        shares[one.copies[0]] = shares.get(one.copies[0], 0.0) + one.size
    if choose == "any" or not shares:
        return None, None
    place = max(shares, key=lambda host: shares[host])
    return place, None if choose == "sticky" else min(shares[place] / setting.bandwidth, LONGEST)


def missing() -> str:
    """Return nothing: it needs nothing."""
    return ""


def lines() -> Iterator[str]:
    """Yield the table."""
    yield "| setting | moved, rule | run time, rule | sticky | 95th percentile, rule | sticky |"
    yield "|---|--:|--:|--:|--:|--:|"
    for setting in SETTINGS:
        found = {}
        for choose in ("any", "rule", "sticky"):
            results = [simulate(setting, choose, seed) for seed in SEEDS]
            times = [seconds for took, _ in results for seconds in took]
            found[choose] = statistics.mean(times), statistics.quantiles(times, n=20)[-1], sum(m for _, m in results)
        mean, late, moved = found["any"]
        cells = [
            setting.title(),
            f"{found['rule'][2] / moved:.0%}",
            *(f"{found[choose][0] / mean:.1%}" for choose in ("rule", "sticky")),
            *(f"{found[choose][1] / late:.1%}" for choose in ("rule", "sticky")),
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print one table."""
    what = sys.argv[1] if len(sys.argv) > 1 else "simulation"
    if what not in TABLES:
        sys.exit(f"there is no table {what!r}; there are {', '.join(TABLES)}")
    module = import_module(TABLES[what])
    reason = module.missing()
    if reason:
        sys.exit(reason)
    for line in module.lines():
        print(line, flush=True)


if __name__ == "__main__":
    main()
