"""A real Prometheus scrapes an agent and a command, and our rules fire when a store fills up; Debian has it.

The rules are those that are shipped, but that nobody waits for minutes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.ports import free_port
from vineyard_testing.tiers import array

import vineyard_client as vc

PROGRAM = shutil.which("prometheus")
MONITORING = Path(__file__).parents[2] / "packages/deploy/src/airflow_vineyard_deploy/files/monitoring"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="prometheus is not installed"),
]

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: vineyard
    static_configs: [{{targets: ["127.0.0.1:{agent}", "127.0.0.1:{command}"]}}]
"""


class Prometheus:
    """One that runs, and what it answers."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Tell whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=UNIT) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **arguments: str) -> Any:
        """Return its answer to a question."""
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=UNIT) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def values(self, query: str) -> List[float]:
        """Return the values that a query has now."""
        return [float(each["value"][1]) for each in self.ask("query", query=query)["result"]]

    def firing(self) -> Dict[str, str]:
        """Return the alerts that fire, with what they tell people."""
        alerts = self.ask("alerts")["alerts"]
        return {
            each["labels"]["alertname"]: each["annotations"]["summary"] for each in alerts if each["state"] == "firing"
        }


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Tuple[int, int, str]]:
    """Serve the figures of a store, by an agent and by a command; return both ports and the store's path."""
    path, agent, command = str(tmp_path / "s"), free_port(), free_port()
    program = [sys.executable, "-m", "vineyard_client"]
    programs = [
        [*program, "agent", "--socket", path, "--metrics", f"127.0.0.1:{agent}"],
        [*program, "metrics", "--socket", path, "--listen", f"127.0.0.1:{command}"],
    ]
    processes = [subprocess.Popen(each, stderr=subprocess.DEVNULL) for each in programs]
    try:
        yield agent, command, path
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(3 * UNIT)


@pytest.fixture
def prometheus(ports: Tuple[int, int, str], tmp_path: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the rules that are shipped."""
    rules = re.sub(r"for: \w+", "for: 1s", (MONITORING / "rules.yaml").read_text())
    (tmp_path / "rules.yaml").write_text(rules)
    config = tmp_path / "prometheus.yaml"
    config.write_text(CONFIG.format(rules=tmp_path / "rules.yaml", agent=ports[0], command=ports[1]))
    port = free_port()
    command = [str(PROGRAM), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            found = Prometheus(port)
            until(found.ready, "Prometheus is ready", 6 * UNIT)
            yield found
        finally:
            process.terminate()
            process.wait(3 * UNIT)


def test_rules_fire_when_a_store_fills_up(ports: Tuple[int, int, str], prometheus: Prometheus) -> None:
    """Nothing fires while all is well; then the store is full, then it is gone. Panels are answered all the time."""
    path = ports[2]
    until(lambda: prometheus.values("vineyard_up") == [0, 0], "both say that there is no store", 6 * UNIT)
    with vc.EmbeddedServer("64Mi", socket=path) as server:
        until(lambda: prometheus.values("vineyard_up") == [1, 1], "both say that there is one", 6 * UNIT)
        until(lambda: not prometheus.firing(), "nothing fires", 6 * UNIT)
        dashboard = json.loads((MONITORING / "dashboard.json").read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        answered = [query for query in queries if prometheus.ask("query", query=query)["result"]]
        assert [
            query for query in queries if query not in answered and not re.search("save|load|tier|over", query)
        ] == []
        with vc.Client(path) as client:
            client.put(array(60))
            until(lambda: "VineyardStoreFull" in prometheus.firing(), "it is said to be full", 6 * UNIT)
            told = prometheus.firing()["VineyardStoreFull"]
            assert "is 93." in told and "% full" in told, told
        server.stop()
        until(lambda: "VineyardDown" in prometheus.firing(), "it is said to be gone", 6 * UNIT)
        until(lambda: "VineyardStoreFull" not in prometheus.firing(), "and not to be full", 6 * UNIT)
