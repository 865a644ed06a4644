"""The benchmarks run, and what they report is whole: ours everywhere, peers that are installed, figures that add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict

import pytest

pytestmark = pytest.mark.integration

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"

# The tables of each subject that needs neither Airflow nor agents; `nox -s bench -- --quick` shows that the others run.
TABLES = {
    "core": ["put", "get", "get and sum", "small values", "import", "put with a preview", "put into new pages"],
    "sharing": ["put of what was received", "the store's memory"],
    "scale": [
        *("put among many objects", "get among many objects", "delete among many objects"),
        *("what others wait", "many processes"),
    ],
    "migration": ["first read", "next reads"],
}


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import one of the scripts."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for other in ("report", name):
        monkeypatch.delitem(sys.modules, other, raising=False)
    return __import__(name)


@pytest.mark.parametrize("subject", TABLES)
def test_a_quick_round_reports_everything(subject: str, tmp_path: Path) -> None:
    """Values arrive whole, or the script would fail; every table is there, and ours has figures in all its rows."""
    pytest.importorskip("pyarrow")
    file = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPTS / f"{subject}.py"), "--quick", f"--json={file}"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    report: Dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert report["quick"]
    assert report["machine"]["cpus"] == os.cpu_count()
    assert [table["name"] for table in report["tables"]] == TABLES[subject]
    for table in report["tables"]:
        assert table["cases"]
        for case, peers in table["cases"].items():
            ours = [figures for peer, figures in peers.items() if peer.startswith("vineyard-client")]
            assert ours, f"{table['name']}, {case}"
            for figures in peers.values():
                assert "fails" in figures or 0 < figures["low"] <= figures["median"] <= figures["high"]
            assert not [peer for peer in ours if "fails" in peer]
    assert "the figures mean nothing" in done.stdout


def table(unit: str, **medians: float) -> Dict[str, Any]:
    """Return a table of one case, whose peers have one sample each."""
    peers = {name.replace("_", "-"): {"median": m, "low": m, "high": m, "samples": [m]} for name, m in medians.items()}
    return {"name": "put", "text": "", "unit": unit, "cases": {"a frame": peers}}


@pytest.mark.parametrize(
    ("unit", "ours", "theirs", "said"),
    [
        ("s", 0.2, 0.1, ["**file is better** at a frame (2 times)."]),
        ("s", 0.1, 0.2, []),
        ("s", 0.102, 0.1, []),
        ("1/s", 100, 300, ["**file is better** at a frame (3 times)."]),
        ("1/s", 300, 100, []),
    ],
)
def test_a_better_peer_is_named(
    unit: str, ours: float, theirs: float, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way the unit counts; what differs by less than a twentieth is equal, and the floor is no peer."""
    report = load("report", monkeypatch)
    assert report.better(table(unit, vineyard_client=ours, file=theirs, floor=0.001)) == said


def test_cells_have_three_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the unit that the median asks for; a failure says why, and does not break the table."""
    report = load("report", monkeypatch)
    figures = {"median": 0.01234, "low": 0.01, "high": 1.5}
    assert report.cell(figures, "s") == "12.3 ms (10.0 – 1,500)"
    assert report.cell({**figures, "median": 0.00012}, "s") == "120 µs (10,000 – 1,500,000)"
    assert report.cell({**figures, "median": 1234.5}, "1/s") == "1,234/s (0 – 2)"
    assert report.cell({"fails": "a | b"}, "s") == "fails: a / b"


def test_a_failed_peer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason stands for its samples; the others go on, and ours may not fail."""
    report = load("report", monkeypatch)
    asked = []

    def take(peer: str) -> float:
        asked.append(peer)
        if peer == "bad":
            raise report.Failed("it cannot")
        return 1.0

    assert report.collect(["good", "bad"], 3, take) == {"good": [1.0, 1.0, 1.0], "bad": "it cannot"}
    assert asked == ["good", "bad", "good", "good"]
    with pytest.raises(report.Failed):
        report.collect(["vineyard-client"], 1, lambda peer: take("bad"))


def test_the_page_shows_each_table_and_its_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same results make the same files, and plots of tables that are gone go as well."""
    pytest.importorskip("matplotlib")
    page = load("page", monkeypatch)
    machine = {"cpu": "a", "cpus": 2, "memory_gib": 1, "system": "Linux", "python": "3.12"}
    one = {"subject": "core", "title": "Core", "text": "", "quick": False, "taken": "2026-11-22", "machine": machine}
    reports = {"core": {**one, "tables": [table("s", vineyard_client=0.2, file=0.1)]}}
    (tmp_path / "results.json").write_text(json.dumps(reports))
    (tmp_path / "core-old.svg").write_text("")
    written = {path: path.read_bytes() for path in page.write(tmp_path)}
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md", "core-put.svg"}
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| a frame | 200 ms (200 – 200) | 100 ms (100 – 100) |" in text
    assert "**file is better**" in text
    assert "![put](core-put.svg)" in text
    assert b"<svg" in written[tmp_path / "core-put.svg"]
    assert {path: path.read_bytes() for path in page.write(tmp_path)} == written
