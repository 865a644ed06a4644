"""What Airflow says of the provider, and what the backend costs those who only import it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_vineyard import get_provider_info

pytestmark = pytest.mark.airflow


def test_listed(home: Any) -> None:
    """``airflow providers list`` shows the distribution with its version."""
    output = home.run("airflow", "providers", "list", "--output", "json")
    providers = {row["package_name"]: row for row in json.loads("\n".join(output.printed))}
    assert providers["airflow-provider-vineyard"]["version"].startswith("1.")


@pytest.mark.needs((2, 8), reason="a provider cannot have options")
def test_options_are_documented(home: Any) -> None:
    """``airflow config list`` shows the section with every option and its description."""
    output = home.run("airflow", "config", "list", "--section", "vineyard", "--include-descriptions", "--defaults")
    assert "[vineyard]" in output.printed
    section = get_provider_info.get_provider_info()["config"]["vineyard"]
    text = " ".join(" ".join(line.lstrip("# ") for line in output.printed).split())
    for name, option in section["options"].items():
        assert any(line.lstrip("# ").startswith(f"{name} =") for line in output.printed), name
        assert " ".join(option["description"].split())[:60] in text, name


@pytest.mark.needs((2, 8), reason="a provider cannot have options")
def test_defaults_reach_the_configuration(home: Any) -> None:
    """An option that nobody set has its documented default."""
    output = home.run("airflow", "config", "get-value", "vineyard", "inline_threshold")
    default = get_provider_info.get_provider_info()["config"]["vineyard"]["options"]["inline_threshold"]["default"]
    assert output.printed == [default]


def test_importing_the_backend_imports_nothing_heavy(home: Any) -> None:
    """With the backend configured and its class made, neither the data libraries nor core are imported."""
    code = """
import json, sys
import airflow
try:
    from airflow.sdk.execution_time.xcom import XCom
except ImportError:
    from airflow.models.xcom import XCom
from airflow_provider_vineyard.xcom import VineyardXCom
heavy = {"numpy", "pandas", "polars", "pyarrow", "vineyard_client", "vineyard"}
print(json.dumps([XCom is VineyardXCom, sorted(heavy & set(sys.modules))]))
"""
    assert [json.loads(line) for line in home.run("python", "-c", code).printed] == [[True, []]]
