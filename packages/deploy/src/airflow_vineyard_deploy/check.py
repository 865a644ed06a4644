"""Look for what would keep a Compose project from starting, before anything starts.

The project is read as Compose reads it (``docker compose config``), so that every file, override and variable counts
as it will. What is looked at is what Compose itself would find out late, halfway or in other words: the ``.env``,
sizes of the stores, memory, folders, ports and images.

Invariants: nothing is started, pulled or written. What belongs to a service that runs already is not looked at: it
holds its port and its memory itself.
"""

from __future__ import annotations

import errno
import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

from .settings import WrongSetting, parse_size

__all__ = ["problems", "resource_problems"]

_MIB = 1 << 20

# The names that Compose looks for.
_COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


class _Failed(Exception):
    """A program that said no; the text is what it said last."""


def problems(folder: Path) -> List[str]:
    """Return what is wrong with the Compose project in a folder, each with what to change; empty if nothing is."""
    if not (folder / ".env").is_file():
        if not any((folder / name).is_file() for name in _COMPOSE_FILES):
            return [f"There is no Compose file in {folder}. Write one: airflow-vineyard-deploy write docker {folder}"]
        return [
            f"There is no {folder / '.env'}. Copy .env.example to .env and set AIRFLOW_UID in it, "
            'or run: echo "AIRFLOW_UID=$(id -u)" > .env'
        ]
    if not shutil.which("docker"):
        return ["There is no docker on PATH. Install Docker Engine with its Compose plugin, 2.20 or newer."]
    try:
        _run(folder, "docker", "compose", "version")
    except _Failed:
        return ["This docker has no Compose. Install its Compose plugin, 2.20 or newer."]
    try:
        project = json.loads(_run(folder, "docker", "compose", "config", "--format", "json"))
    except _Failed as error:
        return [f"Compose cannot read the project: {error}"]
    try:
        _run(folder, "docker", "info", "--format", "{{.ServerVersion}}")
    except _Failed as error:
        return [f"The Docker engine does not answer: {error} Start it, or see to it that you may use it."]
    services: Dict[str, Any] = project["services"]
    running = set(_run(folder, "docker", "compose", "ps", "--services", "--status", "running").split())
    return [*resource_problems(services, running), *_images(folder, services)]


def resource_problems(services: Dict[str, Any], running: Set[str]) -> List[str]:
    """Return what this host lacks for services as ``docker compose config`` shows them, without asking the engine.

    Args:
        services: the services by name.
        running: names of those that run already.
    """
    waiting = {name: service for name, service in services.items() if name not in running}
    return [*_stores(waiting), *_folders(services), *_ports(waiting)]


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=str(folder), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise _Failed(lines[-1] if lines else f"{' '.join(command)} ended with {done.returncode}.")
    return done.stdout


def _stores(services: Dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the sizes of the stores, one by one and together."""
    total = 0
    for name, service in services.items():
        words = [*(service.get("entrypoint") or []), *(service.get("command") or [])]
        if "--size" not in words[:-1]:
            continue
        try:
            total += parse_size(words[words.index("--size") + 1])
        except WrongSetting as error:
            yield f"{name}: {error}. Change VINEYARDD_SIZE in .env."
    available = _available_memory()
    if available is not None and total > available:
        yield (
            f"The stores reserve {total // _MIB} MiB when they start, but {available // _MIB} MiB of memory are "
            "available. Make VINEYARDD_SIZE in .env smaller, or end something else."
        )


def _available_memory() -> Optional[int]:
    """Return the bytes that can be had here without swapping; None where the kernel does not say (no Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    values = dict(line.split(":", 1) for line in lines)
    return int(values["MemAvailable"].split()[0]) * 1024


def _folders(services: Dict[str, Any]) -> Iterator[str]:
    """Yield the folders that Docker would make for root, where nobody else could write."""
    sources = {
        mount["source"]
        for service in services.values()
        for mount in service.get("volumes", [])
        if mount["type"] == "bind"
    }
    missing = sorted(source for source in sources if not Path(source).exists())
    if missing:
        yield f"Folders are missing, and Docker would make them for root. Make them: mkdir -p {' '.join(missing)}"


def _ports(services: Dict[str, Any]) -> Iterator[str]:
    """Yield the ports that somebody else listens at."""
    for name, service in services.items():
        for port in service.get("ports", []):
            published = port.get("published")
            if published and not _free(port.get("host_ip", "0.0.0.0"), int(published)):
                yield (
                    f"{name}: port {published} is in use on this host. "
                    "Set AIRFLOW_PORT in .env, or the port in the Compose file, to another one."
                )


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # What only lingers from a connection that ended keeps nobody from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def _images(folder: Path, services: Dict[str, Any]) -> Iterator[str]:
    """Yield the images that are neither here nor in a registry; of one that is built here, its base."""
    # A service that is built may do without a name for its image.
    built = {service.get("image"): service["build"] for service in services.values() if "build" in service}
    wanted: Set[str] = set()
    for image in {service.get("image") for service in services.values()}:
        if image not in built:
            wanted.add(image)
        elif not image or not _here(folder, image):
            wanted.add(built[image].get("args", {}).get("BASE_IMAGE", ""))
    for image in sorted(wanted - {""}):
        if _here(folder, image):
            continue
        try:
            _run(folder, "docker", "manifest", "inspect", image)
        except _Failed as error:
            yield (
                f"There is no image {image} here, and the registry has none: {error} "
                "Change its name in .env (AIRFLOW_BASE_IMAGE for Airflow's own) to one that exists, such as those at "
                "https://hub.docker.com/r/apache/airflow/tags."
            )


def _here(folder: Path, image: str) -> bool:
    return bool(_run(folder, "docker", "image", "ls", "--quiet", image).strip())
