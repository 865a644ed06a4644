"""Listeners at a socket path that are not vineyardd."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Callable, List, Optional, Type

from .streams import frame


class Peer:
    """Listen at a path and treat each connection with ``handle``, which gets the accepted socket.

    ::

        with Peer(path, closing):
            ...
    """

    def __init__(self, path: str, handle: Callable[[socket.socket], None]) -> None:
        self.path = path
        self._handle = handle
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connections: List[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="peer")

    def __enter__(self) -> Peer:
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in self._connections:
            with contextlib.suppress(OSError):  # the other end may be gone
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # shut down
            self._connections.append(connection)
            with contextlib.suppress(OSError):  # the client may hang up while we talk
                self._handle(connection)


def silent(connection: socket.socket) -> None:
    """Never answer."""


def closing(connection: socket.socket) -> None:
    """Hang up on the first request."""
    connection.recv(65536)
    connection.close()


def answering(data: bytes) -> Callable[[socket.socket], None]:
    """Answer the first bytes that come with these."""

    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return handle


def dripping(data: bytes, pause: threading.Event) -> Callable[[socket.socket], None]:
    """Answer one byte at a time and wait in between, until the event is set or the client hangs up."""

    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
            if pause.wait(0.005):
                return

    return handle


http = answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
nonsense = answering(frame({"hello": "world"}))
no_json = answering(b"\x05\0\0\0\0\0\0\0hello")
no_object = answering(frame([1, 2, 3]))


def too_old(version: str = "0.13.0") -> Callable[[socket.socket], None]:
    """Answer as a vineyardd of another version."""
    return answering(
        frame({"type": "register_reply", "version": version, "instance_id": 0, "ipc_socket": "", "rpc_endpoint": ""})
    )


def refusing(code: int) -> Callable[[socket.socket], None]:
    """Answer as a vineyardd that lets nobody in."""
    return answering(frame({"code": code, "message": "not you"}))
