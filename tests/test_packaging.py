"""What ``nox -s build`` left in dist/: the wheels and sdists that people would install."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"

# Distribution: its folder, and what its wheel installs beside its metadata.
PACKAGES = {
    "vineyard-client": ("core", {"vineyard_client"}),
    "airflow-provider-vineyard": ("provider", {"airflow_provider_vineyard", "vineyard"}),
    "airflow-vineyard-deploy": ("deploy", {"airflow_vineyard_deploy"}),
}

distributions = pytest.mark.parametrize("name", PACKAGES)


def built(name: str, ending: str) -> Path:
    """Return the one file in dist/ of a distribution that ends so."""
    found = list(DIST.glob(f"{name.replace('-', '_')}-*{ending}"))
    assert len(found) == 1, f"dist/ should hold one {name} {ending}, it holds {found}; run nox -s build"
    return found[0]


def files(name: str) -> set[str]:
    """Return the names in a distribution's wheel."""
    with zipfile.ZipFile(built(name, ".whl")) as wheel:
        return {name for name in wheel.namelist() if not name.endswith("/")}


def metadata(name: str) -> Message:
    """Return the metadata in a distribution's wheel."""
    with zipfile.ZipFile(built(name, ".whl")) as wheel:
        (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(wheel.read(path).decode("utf-8"))


@distributions
def test_wheel_holds_every_source_file_and_no_other(name: str) -> None:
    """Each file below src/ is in the wheel at its place; besides there is only metadata, with the license."""
    folder, tops = PACKAGES[name]
    src = ROOT / "packages" / folder / "src"
    sources = {
        path.relative_to(src).as_posix()
        for path in src.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wheel = files(name)
    info = {file for file in wheel if file.split("/")[0].endswith(".dist-info")}
    assert wheel - info == sources
    assert {file.split("/")[0] for file in sources} == tops
    assert any(file.endswith("/LICENSE") for file in info)
    assert built(name, ".whl").name.endswith("-py3-none-any.whl")


@distributions
def test_typed(name: str) -> None:
    """Type checkers are told to look at the package."""
    assert any(file.count("/") == 1 and file.endswith("/py.typed") for file in files(name))


def test_the_shim_leaves_upstreams_packages_alone() -> None:
    """The official package owns vineyard/ and vineyard/contrib/: ours has no module in either."""
    shim = {file for file in files("airflow-provider-vineyard") if file.startswith("vineyard/")}
    assert shim
    assert all(file.startswith("vineyard/contrib/airflow/") for file in shim)


def test_one_release_number() -> None:
    """All three carry the same version, and the provider asks for the core of its own release."""
    versions = {metadata(name)["Version"] for name in PACKAGES}
    assert len(versions) == 1
    requirements = metadata("airflow-provider-vineyard").get_all("Requires-Dist", [])
    assert f"vineyard-client[server]~={versions.pop()}" in requirements


def test_one_command_changes_the_number(tmp_path: Path) -> None:
    """``.ci/bump.py`` writes it wherever it stands: afterwards the old one stands nowhere."""
    old, new = metadata("vineyard-client")["Version"], "7.8.9rc1"
    shutil.copytree(ROOT / "packages", tmp_path / "packages")
    bump = [sys.executable, str(ROOT / ".ci" / "bump.py"), new, str(tmp_path)]
    done = subprocess.run(bump, stdout=subprocess.PIPE, text=True, check=True)
    where = [*tmp_path.rglob("_version.py"), *tmp_path.rglob("pyproject.toml")]
    texts = {str(path.relative_to(tmp_path)): path.read_text(encoding="utf-8") for path in where}
    assert {path for path, text in texts.items() if new in text} == set(done.stdout.split())
    assert not [path for path, text in texts.items() if old in text]


def test_requirements() -> None:
    """Core and deploy need nothing but Python; nobody needs the official vineyard package."""
    for name in ("vineyard-client", "airflow-vineyard-deploy"):
        assert all("extra ==" in line for line in metadata(name).get_all("Requires-Dist", []))
    for name in PACKAGES:
        needed = [line for line in metadata(name).get_all("Requires-Dist", []) if "extra ==" not in line]
        assert not any(line.split(">")[0].split("=")[0].split("[")[0].strip() == "vineyard" for line in needed)


@distributions
def test_readme_is_the_description(name: str) -> None:
    """The package index would show the package's README."""
    readme = (ROOT / "packages" / PACKAGES[name][0] / "README.md").read_text(encoding="utf-8")
    assert metadata(name).get_payload().strip() == readme.strip()


def test_entry_points_resolve() -> None:
    """Each entry point names something that the wheels hold, and importing it needs neither Airflow nor a library."""
    code = """
import json, sys, types
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    for point in metadata.distribution(name).entry_points:
        if point.group == "airflow.plugins":
            continue  # it extends a class of Airflow's; tests/provider loads it
        named = point.load()  # Airflow's policies are modules
        found[f"{point.group}: {point.name}"] = callable(named) or isinstance(named, types.ModuleType)
print(json.dumps(found))
"""
    wheels = os.pathsep.join(str(built(name, ".whl")) for name in PACKAGES)
    command = [sys.executable, "-c", code, *PACKAGES]
    done = subprocess.run(command, env={"PYTHONPATH": wheels}, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"console_scripts: vineyard-client", "apache_airflow_provider: provider_info"} <= set(found)
    assert all(found.values())


@distributions
def test_sdist_builds_the_same_wheel(name: str, tmp_path: Path) -> None:
    """From the source distribution comes a wheel with the same files, so nothing is missing there."""
    with tarfile.open(built(name, ".tar.gz")) as sdist:
        if hasattr(tarfile, "data_filter"):
            sdist.extractall(tmp_path, filter="data")
        else:
            sdist.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert {"src", "pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= {path.name for path in folder.iterdir()}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    (wheel,) = (tmp_path / "again").iterdir()
    with zipfile.ZipFile(wheel) as again:
        assert {file for file in again.namelist() if not file.endswith("/")} == files(name)
