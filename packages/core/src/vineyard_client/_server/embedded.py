"""A server that belongs to a program."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Optional, Type

from .._io.deadline import Deadline
from ..exceptions import ServerStartFailed
from .command import Size, server_command
from .listening import require_free
from .running import OWNED, START_TIMEOUT, opened_log, read_pid, spawn, temporary, wait_ready
from .shared import STOP_TIMEOUT, Mark, mark_of, remove_socket, start_lock

if TYPE_CHECKING:
    import subprocess

__all__ = ["EmbeddedServer"]


class EmbeddedServer:
    """A server that belongs to a program: it starts with ``with`` or ``start`` and ends with the program at the latest.

    Only the process that started it can stop it. If that process is killed, the server ends with the last of the
    children that it forked.

    ::

        with EmbeddedServer(size="1Gi") as server:
            client = connect(server.socket)

    Args:
        size: of the store: bytes or a text such as ``"1Gi"``; None is half of the memory there is.
        socket: path of the IPC socket; None is one in a temporary folder, which goes with the server.
        reserve_memory: touch all of the memory at the start.
        timeout: seconds that starting may take.
    """

    def __init__(
        self,
        size: Size = None,
        *,
        socket: Optional[str] = None,
        reserve_memory: bool = False,
        timeout: float = START_TIMEOUT,
    ) -> None:
        self._size = size
        self._reserve_memory = reserve_memory
        self._timeout = timeout
        self._shell: Optional[subprocess.Popen[str]] = None
        self._owner = 0
        # Its name is drawn here and the folder made when the server starts, so that one never started leaves nothing.
        self._folder = "" if socket else temporary(f"vineyard-{os.urandom(8).hex()}")
        self._socket = os.path.abspath(socket) if socket else os.path.join(self._folder, "vineyard.sock")
        self._mark: Optional[Mark] = None
        self.pid = 0

    @property
    def socket(self) -> str:
        """The path of its IPC socket."""
        return self._socket

    @property
    def log(self) -> str:
        """The path of the file with what it printed."""
        return self.socket + ".log"

    def start(self) -> EmbeddedServer:
        """Start it and return when it answers.

        Raises:
            ServerStartFailed: there is no vineyardd for this platform, it did not become ready, or somebody listens at
                the socket already.
            ConnectionFailed: there is something else at the path.
            ValueError: the size is none.
        """
        command = server_command(self.socket, size=self._size, reserve_memory=self._reserve_memory)
        deadline = Deadline(self._timeout)
        if self._shell is not None:
            require_free(self.socket)
            self.stop()  # somebody else ended the server
        with start_lock(self.socket, deadline) as place:
            require_free(self.socket)
            with opened_log(place, self.socket) as log:
                self._shell = spawn(OWNED, log, [self._folder, *command])
                self._owner = os.getpid()
                try:
                    self.pid = read_pid(self._shell)
                    wait_ready(self.socket, self.pid, log, deadline)
                except BaseException:
                    self._end()
                    raise
            self._mark = mark_of(self.socket, place)
        return self

    def stop(self) -> None:
        """End it; idempotent. What it stored is gone, but values that were read stay valid.

        Its socket goes, too; another server's that is at the path by now stays.
        """
        if self._shell is None or self._owner != os.getpid():
            return
        if not self._folder:
            # Before the server, so that nobody finds a socket that nobody listens at. Who starts another server at
            # this moment has the lock, and the path is theirs.
            with suppress(ServerStartFailed), start_lock(self.socket, Deadline(STOP_TIMEOUT), make=False) as place:
                remove_socket(self.socket, place, self._mark)
        self._end()

    def _end(self) -> None:
        shell, self._shell = self._shell, None
        if shell is not None:
            # A line, since the end of the pipe does not show while a forked child has it open, too.
            shell.communicate("\n")

    def __enter__(self) -> EmbeddedServer:
        """Start it."""
        return self.start()

    def __exit__(self, kind: Optional[Type[BaseException]], error: object, traceback: object) -> None:
        """End it."""
        self.stop()

    def __repr__(self) -> str:
        """Show socket and state."""
        return f"<EmbeddedServer at {self._socket}, {'running' if self._shell else 'stopped'}>"
