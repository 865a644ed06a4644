"""Make the page of the results: ``python benchmarks/page.py FOLDER``.

Reads ``results.json`` in the folder, which has the reports by subject, and writes ``results.md`` with all tables and an
SVG for each. The same results make the same files. Needs matplotlib.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Dict, List

from report import FLOOR, OURS, markdown

HEAD = """# Benchmarks

`nox -s bench` took these figures and wrote this page; it does the same on your machine. Each sample comes from a fresh
process, and the peers take turns. Shown are medians, and the lowest and highest sample in parentheses."""

# As all plots have them; whoever is not named takes what is left, in order.
COLOURS = {OURS: "#0072b2", FLOOR: "#999999"}
OTHERS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b", "#b5cf6b")


def page(reports: Dict[str, Any]) -> str:
    """Return the page."""
    sections = [
        markdown(report, lambda table, report=report: f"![{table['name']}]({file_name(report, table)})")  # type: ignore[misc]
        for report in reports.values()
    ]
    return "\n\n".join([HEAD, *sections]) + "\n"


def file_name(report: Dict[str, Any], table: Dict[str, Any]) -> str:
    """Return the name of a table's plot."""
    return f"{report['subject']}-{re.sub('[^a-z0-9]+', '-', table['name'].lower())}.svg"


def plot(table: Dict[str, Any], path: Path) -> None:
    """Draw a table: a row for each case, or for each peer of the only case; a dot is a median, its line the spread."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": path.name, "font.family": "sans-serif"})
    from matplotlib import pyplot

    peers = list(dict.fromkeys(peer for case in table["cases"].values() for peer in case))
    left = iter(OTHERS)
    colours = {peer: COLOURS.get(peer) or next(left) for peer in peers}
    single = len(table["cases"]) == 1
    rows = peers if single else list(table["cases"])
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.45 * len(rows)), layout="constrained")
    for case, figures in table["cases"].items():
        for place, (peer, one) in enumerate(figures.items()):
            if "fails" not in one:
                # Peers of a case lie a little below each other, so that equal ones are all seen.
                y = rows.index(peer) if single else rows.index(case) + 0.5 * (place / max(1, len(figures) - 1) - 0.5)
                axes.plot([one["low"], one["high"]], [y, y], color=colours[peer], linewidth=2)
                axes.plot([one["median"]], [y], "o", color=colours[peer], label=peer)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("seconds, less is better" if table["unit"] == "s" else "per second, more is better")
    axes.grid(axis="x", which="both", alpha=0.25)
    if not single:
        handles, names = axes.get_legend_handles_labels()
        shown: Dict[str, Any] = dict(zip(names, handles))
        figure.legend(shown.values(), shown, loc="outside upper center", ncols=min(len(shown), 6), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(folder: Path) -> List[Path]:
    """Write the page and its plots, remove plots that it does not show any more, and return what was written."""
    reports = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    written = [folder / "results.md"]
    written[0].write_text(page(reports), encoding="utf-8")
    for report in reports.values():
        for table in report["tables"]:
            written.append(folder / file_name(report, table))
            plot(table, written[-1])
    for old in set(folder.glob("*.svg")) - set(written):
        old.unlink()
    return written


if __name__ == "__main__":
    for path in write(Path(sys.argv[1])):
        print(path)
