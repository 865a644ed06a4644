"""The agent with Airflow's configuration: what is in ``[vineyard]`` becomes the arguments of ``vineyard-client agent``.

The process becomes core's own agent (``exec``), which has no Airflow in it. What is secret goes there in the
environment, where other users of the host do not see it, and never into arguments or logs: only names are logged.

Credentials come from the connection that ``tier_conn_id`` names. What a connection has is put into the words of
obstore, the library that speaks with buckets:

============================  ======================================================================================
connection                    what is used
============================  ======================================================================================
``aws``, ``s3``, ``generic``  login, password; ``aws_session_token``, ``region_name``, ``endpoint_url`` in its extra
``google_cloud_platform``     ``keyfile_dict`` or ``key_path`` in its extra
``wasb``, ``adls``            login (account), password (key); ``sas_token``, ``connection_string``, ``tenant_id``
============================  ======================================================================================
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.settings import Settings, get_settings, is_folder

__all__ = ["agent_call", "become_agent", "bucket_options", "on_demand"]

log = logging.getLogger(__name__)

# Where core's agent looks for options that are not in its arguments.
_ENVIRONMENT = "VINEYARD_TIER_OPTIONS"


def on_demand(settings: Settings) -> Tuple[str, ...]:
    """Return the command that runs an agent for the embedded server; empty if core's own will do, which starts sooner.

    Core's has no options of a bucket in its arguments, where every user of the host would see them.
    """
    if all(map(is_folder, settings.tier)):
        return ()
    return (sys.executable, "-m", "airflow_provider_vineyard", "agent", "--with-server")


def become_agent(*, with_server: bool = False, older_than: Optional[str] = None) -> NoReturn:
    """Go on as the agent for the configured server.

    Args:
        with_server: whether it ends when the server has ended.
        older_than: age at which values are deleted, such as ``7d``.

    Raises:
        AirflowConfigException: an option of ``[vineyard]`` has a wrong value, or the connection is none that can be
            used.
    """
    command, environment = agent_call(get_settings(), with_server=with_server, older_than=older_than)
    os.chdir("/")  # Python looks for modules where it is started
    sys.stdout.flush()
    os.execve(command[0], command, environment)


def agent_call(
    settings: Settings, *, with_server: bool = False, older_than: Optional[str] = None
) -> Tuple[List[str], Dict[str, str]]:
    """Return the command and the environment of the agent.

    Args:
        settings: the options of ``[vineyard]``.
        with_server: whether it ends when the server has ended.
        older_than: age at which values are deleted, such as ``7d``.

    Raises:
        AirflowConfigException: the connection is none that can be used.
    """
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", settings.ipc_socket]
    for url in settings.tier:
        command += ["--tier", url]
    if settings.spill:
        command += ["--spill", settings.spill]
    command += ["--reserve", repr(settings.disk_reserve), "--timeout", repr(settings.tier_timeout)]
    command += ["--sync"] * settings.tier_sync + ["--with-server"] * with_server
    if older_than:
        command += ["--older-than", older_than]
    options = {**_from_connection(settings), **dict(settings.tier_options)} if settings.tier else {}
    environment = dict(os.environ)
    environment.pop("VINEYARD_TIER", None)  # what it says is in the settings
    if options:
        environment[_ENVIRONMENT] = json.dumps({**_in_environment(), **options})
    return command, environment


def _in_environment() -> Dict[str, str]:
    found = json.loads(os.environ.get(_ENVIRONMENT) or "{}")
    return found if isinstance(found, dict) else {}


def _from_connection(settings: Settings) -> Dict[str, str]:
    name = settings.tier_conn_id
    if name is None:
        return {}
    try:
        connection = version_compat.connection(name)
    except Exception as error:  # each kind of secrets backend has errors of its own
        raise _unusable(
            name,
            f"cannot be had here: {type(error).__name__}.",
            "Define it in Airflow, or in the agent's environment as "
            f"AIRFLOW_CONN_{name.upper()}; a task of Airflow 3 sees no connection of the database, so run "
            "airflow-vineyard agent where the database can be read, or use the environment.",
        ) from error
    return bucket_options(name, connection)


def bucket_options(name: str, connection: Any) -> Dict[str, str]:
    """Return what a connection has, in the words of obstore.

    Args:
        name: its id, for messages.
        connection: Airflow's.

    Raises:
        AirflowConfigException: it is of another type, or something in it cannot be used.
    """
    extra = _extra(name, connection)
    kind = str(connection.conn_type or "")
    for kinds, read in _KINDS:
        if kind in kinds:
            options = read(name, connection, extra)
            found = {key: str(value) for key, value in options.items() if value not in (None, "")}
            log.info("the connection %s gives the agent: %s", name, ", ".join(sorted(found)) or "nothing")
            return found
    known = ", ".join(kind for kinds, _ in _KINDS for kind in kinds)
    raise _unusable(name, f"is of the type {kind!r}.", f"Give one of these types: {known}.")


def _extra(name: str, connection: Any) -> Dict[str, Any]:
    """Return what is in the connection's extra, without the prefixes that forms gave its names before Airflow 2.3."""
    try:
        found = json.loads(connection.extra or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _unusable(name, "has an extra that is no JSON object.", "Correct it.")
    return {key.rpartition("__")[2] if key.startswith("extra__") else key: value for key, value in found.items()}


def _aws(name: str, connection: Any, extra: Mapping[str, Any]) -> Dict[str, Any]:
    for unknown in ("role_arn", "profile_name", "assume_role_method"):
        if extra.get(unknown):
            raise _unusable(
                name,
                f"has {unknown} in its extra, which the agent cannot follow.",
                "Give the agent's machine the role, or keys in the agent's environment, and leave tier_conn_id empty.",
            )
    service = extra.get("service_config")
    of_s3 = service.get("s3") if isinstance(service, dict) else None
    endpoint = (of_s3 or {}).get("endpoint_url") or extra.get("endpoint_url") or extra.get("host")
    config = extra.get("config_kwargs")
    style = config.get("s3", {}).get("addressing_style") if isinstance(config, dict) else None
    return {
        "access_key_id": connection.login or extra.get("aws_access_key_id"),
        "secret_access_key": connection.password or extra.get("aws_secret_access_key"),
        "session_token": extra.get("aws_session_token"),
        "region": extra.get("region_name"),
        "endpoint": endpoint,
        "virtual_hosted_style_request": "true" if style == "virtual" else None,
    }


def _google(name: str, connection: Any, extra: Mapping[str, Any]) -> Dict[str, Any]:
    key = extra.get("keyfile_dict")
    return {
        "service_account_key": json.dumps(key) if isinstance(key, dict) else key,
        "service_account": extra.get("key_path"),
    }


def _azure(name: str, connection: Any, extra: Mapping[str, Any]) -> Dict[str, Any]:
    text = str(extra.get("connection_string") or "")
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    if extra.get("tenant_id"):
        account = str(connection.host or "").replace("https://", "").partition(".")[0]
        return {
            "account_name": account,
            "tenant_id": extra["tenant_id"],
            "client_id": connection.login,
            "client_secret": connection.password,
        }
    return {
        "account_name": parts.get("AccountName") or connection.login,
        "account_key": parts.get("AccountKey") or connection.password,
        "endpoint": parts.get("BlobEndpoint"),
        "sas_token": extra.get("sas_token"),
    }


_Reader = Callable[[str, Any, Mapping[str, Any]], Dict[str, Any]]
_KINDS: Tuple[Tuple[Tuple[str, ...], _Reader], ...] = (
    (("aws", "s3", "generic"), _aws),
    (("google_cloud_platform",), _google),
    (("wasb", "adls", "azure"), _azure),
)


def _unusable(name: str, what: str, remedy: str) -> Exception:
    error: Exception = version_compat.config_exception()(
        f"[vineyard] tier_conn_id is {name!r}. That connection {what} {remedy}"
    )
    return error
