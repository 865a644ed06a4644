"""Alerts and dashboard: they name what agents serve, nothing else, and reach it; Prometheus itself reads the rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

yaml = pytest.importorskip("yaml", reason="`nox -s deploy` has the tools")

Written = Callable[..., Path]

METRIC = re.compile(r"\bvineyard_\w+")

# What happens, by what the agent serves; then what is said about it.
CASES = {
    "VineyardDown": {"vineyard_up": "0"},
    "VineyardAgentDown": {"up": "0"},
    "VineyardStoreFull": {"vineyard_memory_used_bytes": "95", "vineyard_memory_limit_bytes": "100"},
    "VineyardFillsUp": {"vineyard_memory_used_bytes": "40+0.5x60", "vineyard_memory_limit_bytes": "100"},
    "VineyardMetadata": {"vineyard_process_private_memory_bytes": "3e9"},
    "VineyardNotSaved": {"vineyard_unsaved_seconds": "301"},
    "VineyardTierErrors": {"vineyard_tier_errors_total": "0+1x60"},
    "VineyardLost": {"vineyard_lost_values": "2"},
}


@pytest.fixture
def monitoring(written: Written) -> Path:
    """The folder as it is written."""
    return written("monitoring")


@pytest.fixture
def rules(monitoring: Path) -> List[Dict[str, Any]]:
    """The alerts."""
    (group,) = yaml.safe_load((monitoring / "rules.yaml").read_text())["groups"]
    found: List[Dict[str, Any]] = group["rules"]
    return found


@pytest.fixture
def dashboard(monitoring: Path) -> Dict[str, Any]:
    """The dashboard."""
    found: Dict[str, Any] = json.loads((monitoring / "dashboard.json").read_text())
    return found


def test_style(monitoring: Path, run: Any) -> None:
    """Yamllint finds nothing."""
    run("yamllint", "--strict", "-c", Path(__file__).parent / "yamllint.yaml", monitoring / "rules.yaml")


def test_metrics_are_served(rules: List[Dict[str, Any]], dashboard: Dict[str, Any]) -> None:
    """Each metric that is asked for is one of the agent's, and a rate is that of a counter."""
    served = pytest.importorskip("vineyard_client._agent.metrics", reason="the client is not installed here").METRICS
    queries = [rule["expr"] for rule in rules]
    queries += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for query in queries for name in METRIC.findall(query)}
    assert named <= set(served)
    for query in queries:
        for name in METRIC.findall(query):
            assert (served[name].kind == "counter") == (f"rate({name}[" in query), query


def test_panels_do_not_cover_each_other(dashboard: Dict[str, Any]) -> None:
    """Each has a place, a title and an id of its own."""
    panels = dashboard["panels"]
    for each in (lambda panel: (panel["gridPos"]["x"], panel["gridPos"]["y"]), lambda panel: panel["id"]):
        assert len({each(panel) for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["targets"] for panel in panels)


def test_the_operator_gets_the_same(written: Written, rules: List[Dict[str, Any]]) -> None:
    """The rules are those of the file; the pods that are looked at are the stores', at the agents' port."""
    folder = written("kubernetes", "namespace=stores", "name=v1", "metrics_port=9700", "rpc_port=9800")
    monitor, rule = yaml.safe_load_all((folder / "monitoring.yaml").read_text())
    (group,) = rule["spec"]["groups"]
    assert group["rules"] == rules
    pod = next(
        each for each in yaml.safe_load_all((folder / "vineyardd.yaml").read_text()) if each["kind"] == "DaemonSet"
    )["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert monitor["metadata"]["namespace"] == "stores"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (agent,) = [each for each in pod["spec"]["containers"] if each["name"] == "agent"]
    assert agent["ports"] == [{"name": endpoint["port"], "containerPort": 9700}]
    assert agent["args"][-2:] == ["--metrics", "9700"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == "9700"


def test_each_alert_is_raised(monitoring: Path, rules: List[Dict[str, Any]], tmp_path: Path, run: Any) -> None:
    """By what it is about, and by nothing else that is tried here."""
    assert {rule["alert"] for rule in rules} == set(CASES)
    tests = []
    for alert, series in CASES.items():
        labels = '{instance="node", job="vineyard-system/vineyardd"}'
        given = [
            {"series": name + labels, "values": value if "x" in value else f"{value}x60"}
            for name, value in series.items()
        ]
        about = [{"eval_time": "50m", "alertname": name, "exp_alerts": []} for name in CASES if name != alert]
        tests.append({"interval": "1m", "input_series": given, "alert_rule_test": about})
        query = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
        raised = {"expr": query, "eval_time": "50m", "exp_samples": [{"labels": "{}", "value": 1}]}
        tests[-1]["promql_expr_test"] = [raised]
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(monitoring / "rules.yaml")], "tests": tests}))
    run("promtool", "check", "rules", monitoring / "rules.yaml")
    run("promtool", "test", "rules", path)
