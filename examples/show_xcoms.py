"""Show what the tasks of a DAG run handed on: what each XCom is, how large, what it took, where it lives, its row.

Run it where ``airflow`` runs, with the same AIRFLOW_HOME or configuration, after any DAG run::

    python examples/show_xcoms.py flights            # the newest run
    python examples/show_xcoms.py flights RUN_ID

It reads Airflow's metadata database, whichever that is, and nothing else: the store is not asked. A value in vineyard
is described by the reference in its row; a small value is the row, or in it beside a text. A value that shares memory
with others, because its task returned what it had received, took less than its size.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import NamedTuple


class Row(NamedTuple):
    """One XCom: who pushed it under which key, and the text in the database's value column."""

    task: str
    key: str
    text: str


def read_rows(dag_id: str, run_id: str | None) -> tuple[str, list[Row]]:
    """Return the run's id and its XComs in the order in which they were pushed.

    Raises:
        LookupError: the database has no such run.
    """
    from airflow.models.dagrun import DagRun
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import Text, cast, select

    runs = select(DagRun.run_id).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc())
    if run_id is not None:
        runs = runs.where(DagRun.run_id == run_id)
    with create_session() as session:
        run_id = session.scalars(runs.limit(1)).first()
        if run_id is None:
            raise LookupError(f"The database has no such run of {dag_id}. Run it first: airflow dags test {dag_id}")
        xcoms = session.execute(
            select(XComModel.task_id, XComModel.map_index, XComModel.key, cast(XComModel.value, Text))
            .where(XComModel.dag_id == dag_id, XComModel.run_id == run_id)
            .order_by(XComModel.timestamp, XComModel.key)
        ).all()
    return run_id, [Row(task if index < 0 else f"{task}[{index}]", key, text) for task, index, key, text in xcoms]


def readable(size: int) -> str:
    """Return a number of bytes as people write it."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000 or unit == "GB":
            break
    return f"{size:.1f} {unit}"


def describe(row: Row) -> tuple[str, int, int, str]:
    """Return what the XCom is, its size and what it took, in bytes, and where it lives."""
    value = json.loads(row.text)
    if isinstance(value, dict) and set(value) == {"vineyard"}:
        reference = value["vineyard"]
        if "text" in reference:
            what, size = f"{reference['type']} {reference['text']}", reference["size"]
            return what, size, size, "inline in the database"
        what, size = f"{reference['type']} {reference['summary']}", reference["size"]
        return what, size, reference.get("memory", size), f"vineyard on {reference['host']}, {reference['id']}"
    size = len(row.text.encode())
    return f"{type(value).__name__} {row.text}", size, size, "inline in the database"


def table(rows: list[Row]) -> str:
    """Return the rows as a table of text, with a line of totals."""
    lines = [("TASK", "KEY", "WHAT IT IS", "SIZE", "TOOK", "WHERE IT LIVES", "DATABASE ROW")]
    total = all_took = in_rows = 0
    for row in rows:
        what, size, took, where = describe(row)
        row_size = len(row.text.encode())
        total, all_took, in_rows = total + size, all_took + took, in_rows + row_size
        what = what if len(what) <= 44 else what[:43] + "…"
        lines.append((row.task, row.key, what, readable(size), readable(took), where, readable(row_size)))
    lines.append((f"{len(rows)} XComs", "", "", readable(total), readable(all_took), "", readable(in_rows)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligns = "<<<>><>"
    return "\n".join(
        "  ".join(f"{cell:{align}{width}}" for cell, align, width in zip(line, aligns, widths)).rstrip()
        for line in lines
    )


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dag_id")
    parser.add_argument("run_id", nargs="?", help="default: the newest run")
    args = parser.parse_args()
    try:
        run_id, rows = read_rows(args.dag_id, args.run_id)
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{args.dag_id}, {run_id}")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
