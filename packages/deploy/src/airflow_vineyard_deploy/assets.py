"""The assets: which there are, what they look like with given settings, and writing them into a folder.

An asset is a file below ``files/``, under the same name; only the diff is not a file: it is made from the two Compose
files that it lies between, so that it cannot differ from them.

Invariants: ``write`` writes all files of a name or none of them, and overwrites nothing unless told to.
"""

from __future__ import annotations

import difflib
import os
import textwrap
from pathlib import Path
from typing import Dict, List

from .settings import Settings

__all__ = ["ASSETS", "AssetError", "names", "render", "write"]

_FILES = Path(__file__).parent / "files"

_PLAIN, _REFERENCE = "docker/docker-compose.plain.yaml", "docker/docker-compose.yaml"
_DIFF = "docker/docker-compose.yaml.diff"
_OVERRIDE = "docker/docker-compose.vineyard.yaml"

# Where the rules go that are an asset themselves.
_RULES, _RULES_HERE = "monitoring/rules.yaml", "@rules@"

ASSETS: Dict[str, str] = {
    "docker/Dockerfile": "Airflow's image with the provider and vineyardd in it",
    _REFERENCE: "Airflow with Celery, two workers on two stores",
    _PLAIN: "the same without vineyard, to compare with",
    _DIFF: "what vineyard changes in it",
    _OVERRIDE: "vineyard as a file to lay over a Compose file of your own",
    "docker/.env.example": "every setting of the Compose files",
    "docker/.dockerignore": "what the image's build need not read",
    "kubernetes/values.yaml": "values for Airflow's official Helm chart",
    "kubernetes/vineyardd.yaml": "vineyardd on each node, as a DaemonSet",
    "kubernetes/networkpolicy.yaml": "only Airflow's pods may reach the stores' port",
    "kubernetes/gc.yaml": "deletes what no row refers to, on each node, as a CronJob",
    "kubernetes/etcd.yaml": "etcd for vineyardd, where meta=etcd",
    "kubernetes/monitoring.yaml": "scraping and alerts, for Prometheus' operator",
    "monitoring/rules.yaml": "alerts on the agents' figures, for Prometheus",
    "monitoring/dashboard.json": "their dashboard, for Grafana",
    "systemd/vineyardd.service": "vineyardd on a host without containers",
    "systemd/vineyard-agent.service": "the agent beside it, which frees what nobody needs and saves values in a tier",
    "systemd/vineyardd.env": "settings of both",
    "systemd/vineyard-etcd.service": "etcd for it, where VINEYARDD_META=etcd",
}


class AssetError(Exception):
    """An asset that is none, is not for this Airflow, or would overwrite something."""


def names(wanted: str) -> List[str]:
    """Return the names of the assets that a name stands for: the asset, or all those in a folder.

    Raises:
        AssetError: there is none.
    """
    found = [name for name in ASSETS if name == wanted or name.startswith(wanted.rstrip("/") + "/")]
    if not found:
        folders = sorted({name.partition("/")[0] for name in ASSETS})
        raise AssetError(f"There is no asset {wanted!r}. There are {', '.join([*folders, *ASSETS])}.")
    return found


def render(name: str, settings: Settings) -> str:
    """Return the text of one asset.

    Raises:
        AssetError: it is not for this release of Airflow.
    """
    if name in (_REFERENCE, _PLAIN, _DIFF) and settings.airflow < (3,):
        raise AssetError(f"{name} is for Airflow 3, which has other components than 2. {_OVERRIDE} is for both.")
    if name == _DIFF:
        plain, reference = (render(side, settings).splitlines(keepends=True) for side in (_PLAIN, _REFERENCE))
        return "".join(difflib.unified_diff(plain, reference, "docker-compose.plain.yaml", "docker-compose.yaml"))
    text = (_FILES / name).read_text(encoding="utf-8")
    if _RULES_HERE in text:
        rules = (_FILES / _RULES).read_text(encoding="utf-8").partition("---\n")[2]
        text = text.replace(_RULES_HERE, textwrap.indent(rules, "  ").rstrip())
    return settings.fill(text)


def write(wanted: str, folder: Path, settings: Settings, *, force: bool = False) -> List[Path]:
    """Write an asset, or all those of a folder of assets, and return the paths.

    Args:
        wanted: name of the asset or of the folder.
        folder: where the files go, made if need be; the part of the names before the slash is left out.
        settings: what the assets are filled in with.
        force: overwrite files that are there.

    Raises:
        AssetError: there is no such asset, it is not for this Airflow, or something is in the way; nothing was written.
    """
    texts = {folder / name.partition("/")[2]: render(name, settings) for name in names(wanted)}
    there = [path for path in texts if os.path.lexists(path)]
    if there and not force:
        what = "exists" if len(there) == 1 else "exist"
        raise AssetError(f"{', '.join(map(str, there))} {what} already. Choose another folder, or use --force.")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)
