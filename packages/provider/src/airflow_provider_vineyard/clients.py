"""The clients of core that this process uses: one for each server and each set of credentials.

A client connects when it is made, reconnects after the server went away, and belongs to the process that uses it (core
notices a fork), so one can be kept for as long as the process lives. There is no lock: a lock that is held while
Airflow forks would stay locked in the child. Two threads that come first at once make two clients, and one is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Optional, Tuple, Union

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.settings import Settings

if TYPE_CHECKING:
    from vineyard_client import Client, TierOptions

__all__ = ["close_clients", "get_client", "get_client_if_running", "is_from_outside", "require_core", "tier_options"]

_Key = Tuple[Settings, str, str, str, bool, Optional[float]]
_clients: Dict[_Key, Client] = {}


def require_core() -> None:
    """Import core, and tell it of Airflow's types.

    Raises:
        ImportError: core cannot be imported; the text says what to do.
    """
    from airflow_provider_vineyard import airflow_types

    try:
        airflow_types.declare()
    except ImportError as error:
        raise ImportError(
            f"The XCom backend for vineyard needs vineyard-client, which cannot be imported here: {error}. Install it "
            "again on this host: pip install --force-reinstall vineyard-client."
        ) from error


def is_from_outside(error: Exception) -> bool:
    """Tell whether a signal handler raised an error, such as a task's timeout; without core nobody knows."""
    try:
        from vineyard_client import from_outside
    except ImportError:
        return False
    return from_outside(error)


def get_client(
    settings: Settings,
    *,
    socket: Optional[str] = None,
    username: str = "",
    password: str = "",
    start: bool = True,
    timeout: Optional[float] = None,
) -> Client:
    """Return the client for a server, connected; it is shared, so do not close it.

    Args:
        settings: the options of ``[vineyard]``.
        socket: another path than the configured one.
        username: for a server that asks for it.
        password: likewise.
        start: whether to start the embedded server where the settings allow it. A caller that has no use for an empty
            server passes False.
        timeout: seconds that each of its calls may take; None is core's default.

    Raises:
        ConnectionFailed: nobody listens there.
        ServerStartFailed: the embedded server could not be started.
        ProtocolError: what listens there is not vineyardd.
        AirflowConfigException: the size for the embedded server is none.
        ImportError: core is not installed.
    """
    require_core()
    from vineyard_client import TierRefused, connect

    path = socket or settings.ipc_socket
    start = start and settings.autostart and settings.embedded and path == settings.ipc_socket
    key = (settings, path, username, password, start, timeout)
    client = _clients.get(key)
    if client is None:
        try:
            made = connect(
                path,
                username=username,
                password=password,
                allowed_classes=settings.allowed_classes,
                passive_classes=settings.passive_classes,
                endpoint=settings.rpc_endpoint,
                peers=settings.peers or None,
                autostart=start,
                size=settings.size,
                reserve_memory=settings.reserve_memory,
                tier=tier_options(settings, path),
                **({} if timeout is None else {"timeout": timeout}),
            )
        except TierRefused as error:
            raise version_compat.config_exception()(f"[vineyard] tier cannot be used: {error}") from error
        except ValueError as error:
            raise version_compat.config_exception()(f"[vineyard] size cannot be used: {error}") from error
        client = _clients.setdefault(key, made)
        if client is not made:
            made.close()
    return client


def tier_options(settings: Settings, path: str) -> Union[str, TierOptions]:
    """Return what core is told of tiers for the server at a path; another one than the configured has its own notes."""
    from vineyard_client import TierOptions

    own = path == settings.ipc_socket
    if not settings.tier or (settings.default_tier and not own):
        return "none"
    from airflow_provider_vineyard.agent import on_demand

    return TierOptions(
        settings.tier,
        durability=settings.durability,
        spill=settings.spill if own else None,
        reserve=settings.disk_reserve,
        timeout=settings.tier_timeout,
        sync=settings.tier_sync,
        agent=on_demand(settings) if settings.embedded and own else (),
    )


def get_client_if_running(settings: Settings) -> Optional[Client]:
    """Return the client for the configured server, or None if that is the embedded one and it does not run.

    Args:
        settings: the options of ``[vineyard]``.

    Raises:
        ConnectionFailed: nobody listens at a socket that was configured, or this user may not use it.
        ProtocolError: what listens there is not vineyardd.
        ImportError: core is not installed.
    """
    require_core()
    from vineyard_client import ConnectionFailed

    try:
        return get_client(settings, start=False)
    except ConnectionFailed as error:
        if settings.embedded and isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError)):
            return None
        raise


def close_clients() -> None:
    """Close and forget all clients of this process."""
    while _clients:
        _clients.popitem()[1].close()
