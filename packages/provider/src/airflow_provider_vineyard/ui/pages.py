"""What is the same for every server of the page: its addresses, its files, and the headers of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import urlencode, urlsplit

from airflow_provider_vineyard import version_compat

__all__ = ["API_HEADERS", "HEADERS", "PREFIX", "address", "base_path", "react_apps", "static"]

PREFIX = "/vineyard"

_FOLDER = Path(__file__).parent / "static"

_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# A page of ours runs our scripts only, whatever a value has in it.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # Asked for again at each visit, so that it goes with the routes of the release that runs.
    "Cache-Control": "no-cache",
}

API_HEADERS = {**HEADERS, "Cache-Control": "no-store"}


def static(name: str) -> Optional[Tuple[bytes, str]]:
    """Return one of the files and its type; None if there is none of that name."""
    for file in _FOLDER.iterdir():
        if file.name == name and file.suffix in _KINDS:
            return file.read_bytes(), _KINDS[file.suffix]
    return None


def base_path() -> str:
    """Return the path below which Airflow is served; empty for the root."""
    section = "api" if version_compat.is_airflow_3() else "webserver"
    return urlsplit(str(version_compat.server_conf().get(section, "base_url", fallback=""))).path.rstrip("/")


def address(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Return where the values of a task instance are shown, for a link."""
    place = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
    return f"{base_path()}{PREFIX}/?{urlencode(place)}"


def react_apps() -> List[Dict[str, Any]]:
    """Return the menu entry and the tabs; one bundle has them all."""
    files = f"{base_path()}{PREFIX}/static"
    shared = {
        "bundle_url": f"{files}/react.js",
        "icon": f"{files}/icon.svg",
        "icon_dark_mode": f"{files}/icon-dark.svg",
    }
    return [
        {"name": "Vineyard", "destination": "nav", "category": "browse", "url_route": "vineyard", **shared},
        {"name": "Values", "destination": "task_instance", "url_route": "vineyard-task", **shared},
        {"name": "Values of the run", "destination": "dag_run", "url_route": "vineyard-run", **shared},
    ]
