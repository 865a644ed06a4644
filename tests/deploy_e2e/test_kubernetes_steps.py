"""The first steps of the README for Kubernetes, literally, in what looks like a fresh clone: image and manifests.

What follows them needs a cluster. ``tests/deploy`` looks at the manifests; this looks at what they run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import pytest
from vineyard_testing.compose import Project
from vineyard_testing.engine import Engine
from vineyard_testing.markdown import ROOT, by_language

IMAGE = "registry.example.org/airflow-vineyard:3.3.2"

# The first block of the section.
(STEPS,) = [
    block.commands
    for block in by_language("console")["packages/deploy/README.md"]
    if any(command.startswith("docker build") for command in block.commands)
]


@pytest.fixture(scope="module")
def folder(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the clone, after the steps."""
    clone = tmp_path_factory.mktemp("clone")
    (clone / "packages").symlink_to(ROOT / "packages")
    Project(engine, clone, "build", {}).step(*STEPS)
    return clone


def test_the_image_has_what_the_manifests_run(engine: Engine, folder: Path) -> None:
    """Each program of each container is in it, as the user that the pods run as; so is the folder for the notes."""
    yaml = pytest.importorskip("yaml")
    programs = {"airflow", "airflow-vineyard"}
    for name in ("vineyardd.yaml", "etcd.yaml", "gc.yaml"):
        for each in yaml.safe_load_all((folder / "manifests" / name).read_text()):
            programs |= {command[0] for command in commands(each)}
    assert {"vineyard-client", "etcd", "sh"} <= programs
    run = ["docker", "run", "--rm", "--user", "50000:0", "--entrypoint", "bash", IMAGE, "-c"]
    engine.run(
        *run, f"set -e; for name in {' '.join(sorted(programs))}; do command -v $name; done; touch /opt/airflow/spill/x"
    )
    assert engine.run(*run, "python -c 'import pandas, obstore; print(1)'").strip() == "1"


def commands(found: Any) -> List[List[str]]:
    """Return the commands of all containers of an object."""
    if isinstance(found, dict):
        own = [found["command"]] if isinstance(found.get("command"), list) and "image" in found else []
        return own + [each for value in found.values() for each in commands(value)]
    return [each for value in found for each in commands(value)] if isinstance(found, list) else []


def test_the_manifests_name_the_image(folder: Path) -> None:
    """And the size that was given."""
    text = (folder / "manifests" / "vineyardd.yaml").read_text()
    assert f"image: {IMAGE}" in text and '"8Gi"' in text
