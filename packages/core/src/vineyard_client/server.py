"""Find and run vineyardd, and ``connect``, which decides what to connect to: the public names, and their places.

What they do stands in ``_server``.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Callable, Optional, Sequence, Union

from ._server.command import Size, find_binary, parse_size, server_command, server_environment
from ._server.embedded import EmbeddedServer
from ._server.listening import credentials, require_free
from ._server.running import START_TIMEOUT, temporary
from ._server.shared import STOP_TIMEOUT, ensure_server
from ._server.shared import stop_server as _stop_server
from .client import DEFAULT_TIMEOUT, Client
from .exceptions import ServerStartFailed, TierUnavailable

if TYPE_CHECKING:
    from ._tiers.options import TierOptions

__all__ = [
    "SAVE_TIMEOUT",
    "START_TIMEOUT",
    "STOP_TIMEOUT",
    "EmbeddedServer",
    "connect",
    "credentials",
    "default_socket",
    "ensure_server",
    "find_binary",
    "parse_size",
    "require_free",
    "server_command",
    "server_environment",
    "stop_server",
]


log = logging.getLogger("vineyard_client.server")

# Seconds in which what is to be saved must be saved when a server is ended: some gigabytes into a bucket.
SAVE_TIMEOUT = 300.0


def default_socket() -> str:
    """Return the socket path of this user's own on-demand server."""
    folder = temporary(f"vineyard-{os.getuid()}")
    with suppress(FileExistsError):  # made by us earlier, or by somebody else: that shows below
        os.mkdir(folder, mode=0o700)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ServerStartFailed(
            f"{folder} is not a folder that only this user can write to.",
            "Remove it, or give a socket path (VINEYARD_IPC_SOCKET).",
        )
    return os.path.join(folder, "vineyard.sock")


def _start(socket: str, *, size: Size, reserve_memory: bool, agent: Optional[Callable[[], None]]) -> None:
    """Start a server on demand, and with it the agent, so that it is there when the first value is put."""
    if ensure_server(socket, size=size, reserve_memory=reserve_memory) and agent is not None:
        try:
            agent()
        except TierUnavailable as error:
            log.warning("%s", error)  # who needs it tries again, and is told


def connect(
    socket: Union[str, os.PathLike[str], None] = None,
    *,
    timeout: Optional[float] = DEFAULT_TIMEOUT,
    username: str = "",
    password: str = "",
    allowed_classes: Sequence[str] = (),
    passive_classes: bool = True,
    endpoint: Optional[str] = None,
    peers: Optional[Sequence[str]] = None,
    autostart: Optional[bool] = None,
    size: Size = None,
    reserve_memory: bool = False,
    tier: Union[str, TierOptions, None] = None,
) -> Client:
    """Return a client of the store at a socket path, or of this user's own.

    The path is the argument, else the environment variable ``VINEYARD_IPC_SOCKET``, else that of a server of this
    user's own, which is started when nobody listens there.

    Args:
        socket: path of the IPC socket.
        timeout: seconds that each call may take; see ``Client``. None is for ever.
        username: for a server started with ``--htpasswd``; else both are those in the environment,
            ``VINEYARD_USERNAME`` and ``VINEYARD_PASSWORD``.
        password: likewise.
        allowed_classes: patterns of classes that values may hold; see ``Client``.
        passive_classes: whether dataclasses, named tuples and their like need no permission; see ``Client``.
        endpoint: ``host:port`` under which other hosts reach this one's instance; see ``Client``.
        peers: patterns of the ``host:port`` of other hosts' instances, see ``Client``; else those in the environment
            variable ``VINEYARD_PEERS``, with commas or spaces between them.
        autostart: whether to start a server when nobody listens; by default only at this user's own path.
        size: of the store, if one is started; see ``ensure_server``.
        reserve_memory: likewise.
        tier: where values are saved, so that they outlive the store: a path, a URL or ``TierOptions``; else what the
            environment variable ``VINEYARD_TIER`` has; ``"none"``, in either place, is nowhere. If a server may be
            started, so may the agent that saves.

    Raises:
        TierRefused: the tier is none.
        ConnectionFailed: nobody listens there and none is to be started.
        ServerStartFailed: none could be started.
        ProtocolError: what listens there is not vineyardd.
        UnsupportedVersion: the server is too old.
    """
    path = os.fspath(socket or os.environ.get("VINEYARD_IPC_SOCKET") or "")
    if autostart is None:
        autostart = not path
    path = path or default_socket()
    user = credentials(username, password)
    tier = tier or os.environ.get("VINEYARD_TIER") or None
    agent_starter = None
    if tier == "none":
        tier = None
    if tier is not None:
        from ._agent.starting import AgentStarter  # who saves nothing need not pay for these
        from ._tiers.options import TierOptions

        tier = TierOptions(tier) if isinstance(tier, str) else tier
        agent_starter = AgentStarter(path, tier) if autostart else None
    return Client(
        path,
        timeout=timeout,
        username=user["username"],
        password=user["password"],
        allowed_classes=allowed_classes,
        passive_classes=passive_classes,
        endpoint=endpoint,
        peers=os.environ.get("VINEYARD_PEERS", "").replace(",", " ").split() if peers is None else peers,
        starter=partial(_start, size=size, reserve_memory=reserve_memory, agent=agent_starter) if autostart else None,
        tier=tier,
        agent_starter=agent_starter,
    )


def stop_server(
    socket: str, *, timeout: float = STOP_TIMEOUT, save_timeout: float = SAVE_TIMEOUT, discard: bool = False
) -> int:
    """End the server that listens at the path; what it stored and no tier has is gone with it.

    If there is an agent, it first saves what is noted to be saved. One that was started with the server ends as well.

    Args:
        socket: path of the IPC socket.
        timeout: seconds the server may take to end by itself before it is killed.
        save_timeout: seconds that saving may take.
        discard: end it even if something cannot be saved.

    Returns:
        The process id that it had.

    Raises:
        TierUnavailable: something cannot be saved, and nothing was ended; or the server has ended, and the agent has
            not yet.
        ConnectionFailed: nobody listens there, or the process may not be ended by this user.
        ProtocolError: what listens there is not vineyardd; it is left alone.
        UnsupportedVersion: it is older than this package knows; it is left alone, too.
    """
    from ._agent import starting
    from ._tiers import doorbell

    if not discard:
        doorbell.drain(socket, save_timeout)
    pid = _stop_server(socket, timeout=timeout)
    starting.end(socket, save_timeout, discard=discard)
    return pid
