"""What the benchmarks share: options, turns of peers, fresh processes, and the report, which is figures in tables.

A report is plain data, as it goes into JSON::

    {"subject": "core", "title": …, "text": …, "quick": false, "taken": "2026-11-22", "machine": {…},
     "tables": [{"name": "put", "text": …, "unit": "s", "cases": {case: {peer: figures}}}]}

where figures are ``{"median": …, "low": …, "high": …, "samples": […]}``, or ``{"fails": "why"}`` of a peer that cannot
do it, which is a result too. The unit is "s" or "×", where less is better, or "1/s". ``page.py`` makes a page of such
reports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

# Ours among the peers; a floor is no peer, but what the kernel alone costs.
OURS = "vineyard-client"
FLOOR = "floor"

# Medians that differ by less are called equal.
EQUAL = 1.05

QUICK = "**This was a quick run, with one round of small values: the figures mean nothing.**"


class Failed(Exception):
    """A peer did not manage something; the text says why."""


def options(
    description: Optional[str], rounds: int, *, official: bool = False, airflow: bool = False
) -> argparse.Namespace:
    """Read the command line that all benchmarks have; ``--sample`` is for the fresh processes that they start."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help=f"samples per case and peer (default {rounds})")
    parser.add_argument("--quick", action="store_true", help="one round of small values, to see that everything runs")
    parser.add_argument("--json", metavar="FILE", help="write the report there as JSON")
    if official:
        parser.add_argument("--official", metavar="PYTHON", help="an interpreter that has the official client")
    if airflow:
        parser.add_argument("--airflow", metavar="PYTHON", help="an interpreter that has Airflow and our packages")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else rounds)
    return arguments


def collect(peers: Sequence[str], rounds: int, take: Callable[[str], Any]) -> Dict[str, Any]:
    """Take a sample of each peer in each round, another one first each time.

    Returns:
        Each peer's samples, or why it failed; one that has failed is not asked again. Ours may not fail.
    """
    samples: Dict[str, Any] = {peer: [] for peer in peers}
    for turn in range(rounds):
        first = turn % len(peers)
        for peer in [*peers[first:], *peers[:first]]:
            if isinstance(samples[peer], list):
                try:
                    samples[peer].append(take(peer))
                except Failed as error:
                    if peer.startswith(OURS):
                        raise
                    samples[peer] = str(error)
    return samples


def environment() -> Dict[str, str]:
    """Return the environment of a process that is measured.

    An installed package has byte code; one that runs from its source must be allowed to keep it.
    """
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}


def fresh(python: str, *arguments: str, env: Optional[Dict[str, str]] = None) -> str:
    """Run Python in a process of its own and return the last line that it printed.

    Raises:
        Failed: it did not succeed; the text is the last line of what it said.
    """
    command = [python, "-W", "ignore", *arguments]
    done = subprocess.run(command, env=env or environment(), capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise Failed(last_line(done.stderr) or f"exit code {done.returncode}")
    return last_line(done.stdout)


def last_line(text: str) -> str:
    """Return the last line of a text, cut to a cell's width."""
    lines = text.strip().splitlines()
    return lines[-1][:120] if lines else ""


def machine(*distributions: str) -> Dict[str, Any]:
    """Describe where the figures come from, with the versions of some distributions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in distributions},
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except FileNotFoundError:
        names = []
    return names[0] if names else platform.machine()


class Report:
    """What one benchmark found; it is filled table by table.

    Args:
        subject: its short name.
        title: its heading on the page.
        text: what was measured, and how.
        arguments: what ``options`` returned.
        distributions: whose versions matter.
    """

    def __init__(self, subject: str, title: str, text: str, arguments: argparse.Namespace, *distributions: str) -> None:
        self.data: Dict[str, Any] = {
            "subject": subject,
            "title": title,
            "text": text,
            "quick": arguments.quick,
            "taken": datetime.now(timezone.utc).date().isoformat(),
            "machine": machine(*distributions),
            "tables": [],
        }

    def table(self, name: str, text: str, unit: str = "s") -> None:
        """Begin a table."""
        self.data["tables"].append({"name": name, "text": text, "unit": unit, "cases": {}})

    def add(self, case: str, peer: str, samples: Union[List[float], str]) -> None:
        """Add a peer's samples of a case to the last table, or the reason why there are none."""
        if isinstance(samples, str):
            figures: Dict[str, Any] = {"fails": samples}
        else:
            figures = {
                "median": statistics.median(samples),
                "low": min(samples),
                "high": max(samples),
                "samples": samples,
            }
        table = self.data["tables"][-1]
        table["cases"].setdefault(case, {})[peer] = figures
        print(f"  {table['name']}, {case}, {peer}: {cell(figures, table['unit'])}", file=sys.stderr, flush=True)

    def finish(self, path: Optional[str]) -> None:
        """Print the report as Markdown and, where a path is given, write it there as JSON."""
        if path:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(self.data, file, indent=1, ensure_ascii=False)
        print(markdown(self.data))


# ---- as Markdown


def markdown(report: Dict[str, Any], picture: Callable[[Dict[str, Any]], str] = lambda table: "") -> str:
    """Return a report as a section of Markdown.

    Args:
        report: the data of one.
        picture: returns what to show below a table.
    """
    parts = [f"## {report['title']}", QUICK if report["quick"] else "", origin(report), report["text"]]
    for table in report["tables"]:
        sentences = "\n".join(f"- {sentence}" for sentence in better(table))
        heading = f"### {table['name'][0].upper()}{table['name'][1:]}"
        parts += [heading, table["text"], grid(table), sentences, picture(table)]
    return "\n\n".join(part for part in parts if part)


def origin(report: Dict[str, Any]) -> str:
    """Say where and when the figures were taken."""
    versions = dict(report["machine"])
    cpu, cpus, memory = (versions.pop(name) for name in ("cpu", "cpus", "memory_gib"))
    system, python = versions.pop("system"), versions.pop("python")
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{report['taken']}: {cpus} × {cpu}, {memory} GiB, {system}; CPython {python}, {packages}."


def grid(table: Dict[str, Any]) -> str:
    """Return a table: a row for each case, a column for each peer."""
    peers = list(dict.fromkeys(peer for case in table["cases"].values() for peer in case))
    lines = [f"| | {' | '.join(peers)} |", f"|---|{'--:|' * len(peers)}"]
    for case, figures in table["cases"].items():
        cells = [cell(figures[peer], table["unit"]) if peer in figures else "" for peer in peers]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(figures: Dict[str, Any], unit: str) -> str:
    """Return a median with its spread."""
    if "fails" in figures:
        return f"fails: {figures['fails'].replace('|', '/')}"
    median, low, high = (figures[name] for name in ("median", "low", "high"))
    if unit == "1/s":
        return f"{median:,.0f}/s ({low:,.0f} – {high:,.0f})"
    if unit == "×":
        return f"{_digits(median)} ×"
    factor, name = (1, "s") if median >= 1 else (1e3, "ms") if median >= 1e-3 else (1e6, "µs")
    return f"{_digits(median * factor)} {name} ({_digits(low * factor)} – {_digits(high * factor)})"


def _digits(number: float) -> str:
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f}"


def better(table: Dict[str, Any]) -> List[str]:
    """Say in words where a peer is better than ours."""
    found: Dict[str, List[str]] = {}
    for case, figures in table["cases"].items():
        ours = figures.get(OURS, {}).get("median")
        for peer, others in figures.items():
            theirs = others.get("median")
            if ours and theirs and not peer.startswith((OURS, FLOOR)):
                factor = theirs / ours if table["unit"] == "1/s" else ours / theirs
                if factor > EQUAL:
                    overlap = others["high"] >= figures[OURS]["low"] and others["low"] <= figures[OURS]["high"]
                    note = ", but the ranges overlap" if overlap else ""
                    found.setdefault(peer, []).append(f"{case} ({factor:.2g} times{note})")
    return [f"**{peer} is better** at {'; '.join(cases)}." for peer, cases in found.items()]
