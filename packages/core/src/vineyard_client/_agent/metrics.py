"""What the agent serves to Prometheus: how full the store is, and with a tier what is saved and what is not yet.

Text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). Nothing is listed for it: the server
tells its figures in one request, and the notes tell the rest. A server that is not there is ``vineyard_up 0``, and no
figures of it. Whoever reaches the port reads figures and can do nothing else.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

from .._calls import housekeeping
from .._calls.session import Session
from ..exceptions import VineyardError

__all__ = ["METRICS", "Exporter", "Metric", "lines"]

# Seconds that a scrape waits for the server.
_TIMEOUT = 5.0


class Metric(NamedTuple):
    """One metric: its kind, its meaning, and where its value stands in what the agent says of itself, if there."""

    kind: str
    help: str
    path: Tuple[str, ...] = ()


METRICS: Dict[str, Metric] = {
    "vineyard_up": Metric("gauge", "Whether vineyardd answers."),
    "vineyard_memory_used_bytes": Metric("gauge", "Memory of the store that is in use."),
    "vineyard_memory_limit_bytes": Metric("gauge", "Size of the store."),
    "vineyard_clients": Metric("gauge", "Clients that are connected to the store."),
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


def lines(store: Optional[Mapping[str, float]], tier: Optional[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of an answer.

    Args:
        store: the server's figures by name, None if it does not answer.
        tier: what the agent says of itself, None if it has no tier.
    """
    found: Dict[str, float] = {"vineyard_up": float(store is not None), **(store or {})}
    if tier is not None:
        failed = sum(number for name, number in tier["counts"].items() if name.startswith("errors."))
        for name, metric in METRICS.items():
            if metric.path:
                found[name] = failed if metric.path == ("errors",) else _at(tier, metric.path)
    for name, value in found.items():
        yield f"# HELP {name} {METRICS[name].help}"
        yield f"# TYPE {name} {METRICS[name].kind}"
        yield f"{name} {value:.17g}"


def _at(tier: Mapping[str, Any], path: Tuple[str, ...]) -> float:
    value: Any = tier
    for step in path:
        value = value.get(step, 0)
    return float(value)


class Exporter:
    """A server of metrics, in threads of its own.

    Args:
        address: host and port to listen at.
        path: the store's IPC socket.
        tier: returns what the agent says of itself; None where there is no tier.
        username: for a server started with ``--htpasswd``.
        password: likewise.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(
        self,
        address: Tuple[str, int],
        path: str,
        tier: Optional[Callable[[], Mapping[str, Any]]],
        *,
        username: str = "",
        password: str = "",
    ) -> None:
        self._session = Session(path, timeout=_TIMEOUT, username=username, password=password)
        self._tier = tier
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] in ("/", "/metrics")
                body = exporter.text().encode() if found else b"There is /metrics.\n"
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

    def text(self) -> str:
        """Return the metrics."""
        try:
            status = housekeeping.status(self._session)
            store = {
                "vineyard_memory_used_bytes": status.memory_used,
                "vineyard_memory_limit_bytes": status.memory_limit,
                "vineyard_clients": status.connections,
            }
        except VineyardError:
            store = None
        tier = None if self._tier is None else self._tier()
        return "\n".join(lines(store, tier)) + "\n"

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._session.close()
