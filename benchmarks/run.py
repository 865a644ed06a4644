"""Run all benchmarks and write the page: ``nox -s bench``, which has the interpreters that this needs.

Each subject is a script of its own, whose report goes into ``results.json``; with ``--only`` the other subjects keep
what they have there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from page import write
from report import environment

HERE = Path(__file__).resolve().parent
SUBJECTS = ("core", "sharing", "scale", "migration", "xcoms", "pipelines", "tiers")
WITH_OFFICIAL, WITH_AIRFLOW, IN_AIRFLOW = ("core", "scale"), ("tiers",), ("xcoms", "pipelines")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="only this one, and this one, …")
    parser.add_argument("--quick", action="store_true", help="one round of small values, to see that everything runs")
    parser.add_argument("--rounds", type=int, help="samples per case and peer")
    parser.add_argument("--out", type=Path, help="folder of the results (docs/benchmarks; build/benchmarks if quick)")
    parser.add_argument("--official", metavar="PYTHON", required=True, help="an interpreter with the official client")
    parser.add_argument("--airflow", metavar="PYTHON", required=True, help="an interpreter with Airflow and us")
    options = parser.parse_args()
    folder = options.out or HERE.parent / ("build" if options.quick else "docs") / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    reports = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    common = ["--quick"] * options.quick + ([f"--rounds={options.rounds}"] if options.rounds else [])
    for subject in options.only or SUBJECTS:
        started = time.monotonic()
        print(f"\n{subject}", file=sys.stderr, flush=True)
        with tempfile.NamedTemporaryFile(suffix=".json") as report:
            python = options.airflow if subject in IN_AIRFLOW else sys.executable
            command = [python, str(HERE / f"{subject}.py"), f"--json={report.name}", *common]
            command += [f"--official={options.official}"] * (subject in WITH_OFFICIAL)
            command += [f"--airflow={options.airflow}"] * (subject in WITH_AIRFLOW)
            subprocess.run(command, check=True, env=environment())
            reports[subject] = json.loads(Path(report.name).read_text(encoding="utf-8"))
        in_order = {name: reports[name] for name in SUBJECTS if name in reports}
        results.write_text(json.dumps(in_order, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{subject}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"\n{write(folder)[0]}")


if __name__ == "__main__":
    main()
