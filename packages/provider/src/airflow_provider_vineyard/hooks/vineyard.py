"""``VineyardHook``: core's client for tasks that want the store itself, with an Airflow connection's credentials.

A connection of type ``vineyard`` has the path of the UNIX socket as its host (``vineyard://user:password@%2Frun%2Fv.sock``
as a URI), and the user name and password of a server started with ``--htpasswd`` as login and password. Without a host
the socket is the one of ``[vineyard]``, so that one connection can hold credentials for hosts with different paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.clients import get_client
from airflow_provider_vineyard.settings import get_settings

if TYPE_CHECKING:
    from vineyard_client import Client

__all__ = ["VineyardHook"]

_BaseHook: Any = version_compat.base_hook()


class VineyardHook(_BaseHook):  # type: ignore[misc]
    """Give a task the client of a vineyard store.

    Args:
        vineyard_conn_id: the Airflow connection to use; None is what ``[vineyard]`` configures, without credentials.
    """

    conn_name_attr = "vineyard_conn_id"
    default_conn_name = "vineyard_default"
    conn_type = "vineyard"
    hook_name = "Vineyard"

    def __init__(self, vineyard_conn_id: Optional[str] = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vineyard_conn_id = vineyard_conn_id

    @classmethod
    def get_ui_field_behaviour(cls) -> Dict[str, Any]:
        """Return how the form for a connection differs from the common one."""
        return {
            "hidden_fields": ["schema", "port", "extra"],
            "relabeling": {"host": "IPC socket", "login": "User name"},
            "placeholders": {
                "host": "/var/run/vineyard.sock (empty: [vineyard] ipc_socket)",
                "login": "only for a server started with --htpasswd",
            },
        }

    def get_conn(self) -> Client:
        """Return the client, connected. It is the process's own: do not close it.

        Raises:
            VineyardError: the server cannot be reached, or refused the credentials.
            AirflowNotFoundException: there is no such Airflow connection.
            AirflowConfigException: an option of ``[vineyard]`` has a wrong value.
        """
        if self.vineyard_conn_id is None:
            return get_client(get_settings())
        connection = self.get_connection(self.vineyard_conn_id)
        return get_client(
            get_settings(),
            socket=connection.host or None,
            username=connection.login or "",
            password=connection.password or "",
        )

    def test_connection(self) -> Tuple[bool, str]:
        """Return whether the store answers, and its state or the reason in words."""
        try:
            status = self.get_conn().status()
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"
        used = f"{status.memory_used} of {status.memory_limit} bytes in use"
        return True, f"vineyardd {status.version} at {status.socket}: {used}."
