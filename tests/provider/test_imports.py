"""Airflow imports the backend in every process, from the middle of its own import: that is cheap and cannot fail.

Each test looks at a fresh interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

OURS = "airflow_provider_vineyard.xcom"
UPSTREAMS = "vineyard.contrib.airflow.xcom"


def run(code: str, *, path: Any = None, backend: str = OURS, **env: str) -> Any:
    """Run code in a fresh interpreter with the backend configured; return what it printed last, as JSON."""
    # Byte code is written, as in every installation: what is measured is importing, not compiling.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env = {**inherited, "AIRFLOW__CORE__XCOM_BACKEND": f"{backend}.VineyardXCom", **env}
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), env.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def no_core(tmp_path: Path) -> Path:
    """Return a folder for the path in which core is broken."""
    package = tmp_path / "vineyard_client"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libmissing.so: no such file')\n")
    return tmp_path


RESOLVED = """
import json
try:
    from airflow.sdk.execution_time.xcom import XCom
except ImportError:
    from airflow.models.xcom import XCom
from airflow_provider_vineyard.xcom import VineyardXCom
print(json.dumps([XCom is VineyardXCom, XCom.__name__, XCom.__module__]))
"""


@pytest.mark.parametrize(
    ("backend", "first"),
    [
        (OURS, ""),
        (OURS, f"import {OURS}"),
        (OURS, f"from {OURS} import VineyardXCom"),
        (UPSTREAMS, "import airflow"),
        (UPSTREAMS, f"from {UPSTREAMS} import VineyardXCom"),
    ],
)
def test_any_order_of_imports(backend: str, first: str) -> None:
    """The configured class is found, and is one class, whoever is imported first."""
    assert run(first + RESOLVED, backend=backend) == [True, "VineyardXCom", OURS]


def test_modules_have_no_other_attributes() -> None:
    """A name that is not there is an AttributeError, as in every module."""
    import vineyard.contrib.airflow.xcom as shim
    from airflow_provider_vineyard import xcom

    for module in (xcom, shim):
        assert not hasattr(module, "VineyardXcom")
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
            _ = module.nothing


def test_nothing_heavy_is_imported() -> None:
    """With Airflow loaded and the class made, no data library, no core, and no official package."""
    heavy = run(
        """
import json, sys
import airflow
from airflow_provider_vineyard.xcom import VineyardXCom
before = set(sys.modules)
VineyardXCom.serialize_value({"small": 1}, key="k")
heavy = {"numpy", "pandas", "polars", "pyarrow", "vineyard_client", "vineyard"}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    )
    # Old releases of Airflow import pandas themselves.
    baseline = run(
        """
import json, sys
import airflow, airflow.models.xcom
print(json.dumps(sorted({"numpy", "pandas", "polars", "pyarrow"} & set(sys.modules))))
""",
        AIRFLOW__CORE__XCOM_BACKEND="airflow.sdk.bases.xcom.BaseXCom"
        if _airflow_3()
        else "airflow.models.xcom.BaseXCom",
    )
    assert heavy == baseline


def test_broken_core_shows_in_the_hooks_only(no_core: Path) -> None:
    """Airflow starts, small values travel, ``purge`` is silent; the rest says what is broken and what to do."""
    small, error = run(
        """
import json
from types import SimpleNamespace
import airflow
from airflow_provider_vineyard.xcom import VineyardXCom
small = VineyardXCom.deserialize_value(SimpleNamespace(value=VineyardXCom.serialize_value({"a": 1}, key="k")))
row = {"vineyard": {}}
VineyardXCom.purge(SimpleNamespace(value=row))
try:
    VineyardXCom.serialize_value((1, 2), key="k")
except ImportError as problem:
    error = str(problem)
print(json.dumps([small, error]))
""",
        path=no_core,
    )
    assert small == {"a": 1}
    assert "libmissing.so" in error and "pip install --force-reinstall vineyard-client" in error


def test_wrong_options_show_in_the_hooks_only() -> None:
    """A wrong option does not keep Airflow from starting."""
    error = run(
        """
import json
import airflow
from airflow_provider_vineyard.xcom import VineyardXCom
try:
    VineyardXCom.serialize_value(1, key="k")
except Exception as problem:
    print(json.dumps([type(problem).__name__, str(problem)]))
""",
        AIRFLOW__VINEYARD__INLINE_THRESHOLD="some",
    )
    assert error[0] == "AirflowConfigException"
    assert "[vineyard] inline_threshold is 'some'" in error[1]


def test_the_shim_lies_beside_the_official_package(tmp_path: Path) -> None:
    """In the official package's own folders, which have an ``__init__.py`` each, upstream's path works."""
    import vineyard.contrib.airflow

    for folder in ("vineyard", "vineyard/contrib"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("official = True\n")
    (shim,) = vineyard.contrib.airflow.__path__
    (tmp_path / "vineyard/contrib/airflow").symlink_to(shim)
    code = "import vineyard.contrib; assert vineyard.official and vineyard.contrib.official" + RESOLVED
    assert run(code, path=tmp_path, backend=UPSTREAMS) == [True, "VineyardXCom", OURS]


def test_the_shim_claims_no_folder_of_the_official_package() -> None:
    """Installing both in either order overwrites nothing."""
    from importlib import metadata

    files = metadata.files("airflow-provider-vineyard") or []
    ours = {str(file) for file in files if str(file).startswith("vineyard/") and file.name.endswith(".py")}
    assert ours == {"vineyard/contrib/airflow/__init__.py", "vineyard/contrib/airflow/xcom/__init__.py"}


def _airflow_3() -> bool:
    from airflow_provider_vineyard import version_compat

    return version_compat.is_airflow_3()
