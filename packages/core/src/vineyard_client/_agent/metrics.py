"""What Prometheus is served: how full the store is, and from an agent with a tier what is saved and what is not yet.

An agent serves it, and the command ``metrics`` for a store that has none.

Text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). Nothing is listed for it: the server
tells its figures in one request, and the notes tell the rest. A server that is not there is ``vineyard_up 0``, and no
figures of it. Whoever reaches the port reads figures and can do nothing else.
"""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

from .._calls import housekeeping
from .._calls.session import Session
from ..exceptions import VineyardError
from ..reference import StoreStatus
from .alarm import Alarm

__all__ = ["METRICS", "Exporter", "Figures", "Metric", "lines"]

# Seconds that a scrape waits for the server.
_TIMEOUT = 5.0

# Seconds between two looks of who only serves.
_LOOK = 60.0

# What the kernel says of a process's memory, and how we call it.
_MEMORY = {
    "RssAnon": "vineyard_process_private_memory_bytes",
    "RssShmem": "vineyard_process_shared_memory_bytes",
}


class Metric(NamedTuple):
    """One metric: its kind, its meaning, and where its value stands in what the agent says of itself, if there."""

    kind: str
    help: str
    path: Tuple[str, ...] = ()


METRICS: Dict[str, Metric] = {
    "vineyard_up": Metric("gauge", "Whether vineyardd answers."),
    "vineyard_info": Metric("gauge", "Always 1; the labels say which vineyardd it is."),
    "vineyard_memory_used_bytes": Metric("gauge", "Memory of the store that is in use."),
    "vineyard_memory_limit_bytes": Metric("gauge", "Size of the store."),
    "vineyard_clients": Metric("gauge", "Clients that are connected to the store."),
    "vineyard_process_private_memory_bytes": Metric("gauge", "Memory of vineyardd beside the store, as for metadata."),
    "vineyard_process_shared_memory_bytes": Metric("gauge", "Memory of the store that was ever used."),
    "vineyard_scrape_duration_seconds": Metric("gauge", "How long it took to ask for all this."),
    "vineyard_unsaved_values": Metric("gauge", "Values that are not in the tier yet.", ("unsaved", "number")),
    "vineyard_unsaved_bytes": Metric("gauge", "Bytes of values that are not in the tier yet.", ("unsaved", "bytes")),
    "vineyard_unsaved_seconds": Metric("gauge", "Age of the oldest value that is not saved.", ("unsaved", "age")),
    "vineyard_lost_values": Metric("gauge", "Values that ended with their store, unsaved.", ("lost",)),
    "vineyard_overflow_bytes": Metric("gauge", "Bytes of values on the disk.", ("overflow_bytes",)),
    "vineyard_saved_values_total": Metric("counter", "Values that were saved.", ("counts", "saved")),
    "vineyard_saved_bytes_total": Metric("counter", "Bytes that were saved.", ("counts", "saved_bytes")),
    "vineyard_loaded_values_total": Metric("counter", "Values that were loaded.", ("counts", "loaded")),
    "vineyard_loaded_bytes_total": Metric("counter", "Bytes that were loaded.", ("counts", "loaded_bytes")),
    "vineyard_deleted_values_total": Metric("counter", "Values that were deleted in the tier.", ("counts", "deleted")),
    "vineyard_tier_errors_total": Metric("counter", "Tries to save, load or delete that failed.", ("errors",)),
}


def lines(
    store: Optional[Mapping[str, float]], tier: Optional[Mapping[str, Any]], info: Optional[Mapping[str, str]] = None
) -> Iterator[str]:
    """Yield the lines of an answer.

    Args:
        store: the server's figures by name, None if it does not answer.
        tier: what the agent says of itself, None if it has no tier.
        info: labels that say which server it is.
    """
    found: Dict[str, float] = {"vineyard_up": float(store is not None), **(store or {})}
    if info is not None:
        found["vineyard_info"] = 1.0
    if tier is not None:
        failed = sum(number for name, number in tier["counts"].items() if name.startswith("errors."))
        for name, metric in METRICS.items():
            if metric.path:
                found[name] = failed if metric.path == ("errors",) else _at(tier, metric.path)
    for name, value in found.items():
        labels = _labels(info) if name == "vineyard_info" and info is not None else ""
        yield f"# HELP {name} {METRICS[name].help}"
        yield f"# TYPE {name} {METRICS[name].kind}"
        yield f"{name}{labels} {value:.17g}"


def _labels(of: Mapping[str, str]) -> str:
    quoted = {name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in of.items()}
    return "{" + ",".join(f'{name}="{value}"' for name, value in quoted.items()) + "}"


def _at(tier: Mapping[str, Any], path: Tuple[str, ...]) -> float:
    value: Any = tier
    for step in path:
        value = value.get(step, 0)
    return float(value)


def _memory_of(pid: int) -> Dict[str, float]:
    """Return the memory of a process, by the names of its metrics; nothing where it cannot be seen from here."""
    found = {}
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in _MEMORY:
                    found[_MEMORY[name]] = float(rest.split()[0]) * 1024
    except OSError:  # it ended, or it is in another container, which is how 0 as its number is to be read, too
        return {}
    return found


class Figures:
    """The figures of one store.

    Args:
        path: the store's IPC socket.
        tier: returns what the agent says of itself; None where there is no tier.
        username: for a server started with ``--htpasswd``.
        password: likewise.
    """

    def __init__(
        self,
        path: str,
        tier: Optional[Callable[[], Mapping[str, Any]]] = None,
        *,
        username: str = "",
        password: str = "",
    ) -> None:
        self._session = Session(path, timeout=_TIMEOUT, username=username, password=password)
        self._tier = tier

    def text(self) -> str:
        """Return them in Prometheus' text format."""
        started = time.perf_counter()
        store: Optional[Dict[str, float]] = None
        info: Optional[Dict[str, str]] = None
        try:
            status = housekeeping.status(self._session)
            memory = _memory_of(self._session.connection().peer_pid)
        except VineyardError:
            pass
        else:
            store, info = {**_of_store(status), **memory}, _of_server(status)
            store["vineyard_scrape_duration_seconds"] = time.perf_counter() - started
        tier = None if self._tier is None else self._tier()
        return "\n".join(lines(store, tier, info)) + "\n"

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _of_store(status: StoreStatus) -> Dict[str, float]:
    return {
        "vineyard_memory_used_bytes": status.memory_used,
        "vineyard_memory_limit_bytes": status.memory_limit,
        "vineyard_clients": status.connections,
    }


def _of_server(status: StoreStatus) -> Dict[str, str]:
    return {
        "version": status.version,
        "metadata": status.metadata or "",
        "instance_id": str(status.instance_id),
    }


class Exporter:
    """A server of figures, in threads of its own.

    Args:
        address: host and port to listen at.
        figures: what it serves; it closes them with itself.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, address: Tuple[str, int], figures: Figures) -> None:
        self._figures = figures
        self._alarm = Alarm()
        self._ending = False

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] in ("/", "/metrics")
                body = figures.text().encode() if found else b"There is /metrics.\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: there is a scrape every few seconds."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            # The one that it inherits asks a name server what this host is called, which may take long.
            server_bind = TCPServer.server_bind

        self._server = Server(address, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self._server.server_address[1])

    def run(self) -> None:
        """Serve until told to end."""
        while not self._ending:
            self._alarm.wait(_LOOK)

    def end(self, *_: object) -> None:
        """End; may be called from a signal handler."""
        self._ending = True
        self._alarm.ring()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._figures.close()
        self._alarm.close()
