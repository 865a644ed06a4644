"""The section ``[vineyard]`` of Airflow's configuration, read, checked and typed.

Options are read when a hook needs them, never at import, and once per process (``get_settings`` is cached; tests call
``get_settings.cache_clear()``). A wrong option raises Airflow's own ``AirflowConfigException`` with a message that
names the option, its value and the remedy.

Where the server is: the caller's argument, then ``[vineyard] ipc_socket`` (also as AIRFLOW__VINEYARD__IPC_SOCKET), then
VINEYARD_IPC_SOCKET, then an embedded server below AIRFLOW_HOME. Only the embedded one is started on demand: a socket
that somebody configured belongs to a server that somebody else runs.

Where values are saved: ``[vineyard] tier``, then VINEYARD_TIER, then a folder below AIRFLOW_HOME, that one for the
embedded server alone. The word ``none`` in either place says that nothing is saved.
"""

from __future__ import annotations

import json
import logging
import os
import re
from functools import lru_cache, partial
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.get_provider_info import CONFIG_SECTION, option_default

__all__ = [
    "AIRFLOW_CLASSES",
    "PlacementSettings",
    "Settings",
    "executor",
    "get_other_interpreters",
    "get_placement",
    "get_settings",
    "get_ui",
    "is_folder",
    "preload_modules",
    "wrong_options",
]

log = logging.getLogger(__name__)

ENVIRONMENT_SOCKET = "VINEYARD_IPC_SOCKET"
ENVIRONMENT_TIER = "VINEYARD_TIER"

# Classes that Airflow itself hands to tasks: the moments and intervals of its context, and its assets.
#
# They also are what Airflow's default for allowed_deserialization_classes, the blanket "airflow.*", means here. To
# Airflow's own serialisation that admits data classes, because nothing else has a `deserialize`; to unpickling it would
# admit every class of Airflow and its providers, and some of those run commands when they are made.
AIRFLOW_CLASSES = (
    "airflow.datasets.Dataset",
    "airflow.datasets.DatasetAlias",
    "airflow.datasets.DatasetAll",
    "airflow.datasets.DatasetAny",
    "airflow.models.param.Param",
    "airflow.models.param.ParamsDict",
    "airflow.sdk.definitions.asset.Asset",
    "airflow.sdk.definitions.asset.AssetAlias",
    "airflow.sdk.definitions.asset.AssetAll",
    "airflow.sdk.definitions.asset.AssetAny",
    "airflow.sdk.definitions.asset.AssetNameRef",
    "airflow.sdk.definitions.asset.AssetUniqueKey",
    "airflow.sdk.definitions.asset.AssetUriRef",
    "airflow.sdk.definitions.asset.Dataset",
    "airflow.sdk.definitions.asset.Model",
    "airflow.sdk.definitions.asset.access_control.AssetAccessControl",
    "airflow.sdk.definitions.param.Param",
    "airflow.sdk.definitions.param.ParamsDict",
    "airflow.sdk.definitions.partition_mappers.window.DayWindow",
    "airflow.sdk.definitions.partition_mappers.window.HourWindow",
    "airflow.sdk.definitions.partition_mappers.window.MonthWindow",
    "airflow.sdk.definitions.partition_mappers.window.QuarterWindow",
    "airflow.sdk.definitions.partition_mappers.window.WeekWindow",
    "airflow.sdk.definitions.partition_mappers.window.YearWindow",
    "pendulum.date.Date",
    "pendulum.datetime.DateTime",
    "pendulum.duration.Duration",
    "pendulum.interval.Interval",
    "pendulum.period.Period",
    "pendulum.time.Time",
    "pendulum.tz.timezone.FixedTimezone",
    "pendulum.tz.timezone.Timezone",
    "pendulum.tz.zoneinfo.transition.Transition",
    "pendulum.tz.zoneinfo.transition_type.TransitionType",
)
_AIRFLOW_BLANKET = "airflow.*"

_TRUE = frozenset({"t", "true", "1", "yes", "on"})
_FALSE = frozenset({"f", "false", "0", "no", "off"})
# Core takes no pattern that does not name a package: "*" would admit everything that can be imported.
# The file of a DAG is a module of its own, under a name that begins with unusual_prefix_ and has a hash in it.
_PATTERN = re.compile(r"(?:[^\W\d]\w*\.[\w.*?\[\]!-]+|unusual_prefix_[\w.*?\[\]!-]+)\Z")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?\Z", re.IGNORECASE)
_ENDPOINT = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})\Z")

_PEER = re.compile(r"[\w.*?\[\]:!-]+:[\d*?]{1,5}\Z")

_TIER = re.compile(r"/|~|[A-Za-z][A-Za-z0-9+.-]*://.")
_SHARE = re.compile(r"0?(?:\.\d{1,6})?\Z")
_CONNECTION = re.compile(r"[\w.#:/ -]{1,250}\Z")

# It is written into each object's labels.
_DEPLOYMENT = re.compile(r"[\w.-]{1,100}\Z")

# Of a host or a node of Kubernetes.
_HOST = re.compile(r"[\w.-]{1,253}\Z")

# Seconds. Airflow itself gives up a task that is queued for ten minutes.
_LONGEST_WAIT = 300

# Seconds: a day.
_LONGEST_TRANSFER = 86400

# sizeof(sockaddr_un.sun_path) less the closing zero, on Linux; the kernel refuses a longer one.
_SOCKET_LIMIT = 107


class Settings(NamedTuple):
    """The checked options.

    Attributes:
        ipc_socket: path of the UNIX socket.
        embedded: whether that is the embedded server's, because nothing else was configured.
        persist: make metadata visible to the whole cluster.
        rpc_endpoint: what references advertise; None is what the server says of itself.
        peers: patterns of the endpoints of other hosts; empty for core's default.
        inline_threshold: bytes of JSON up to which a value stays in the database.
        allowed_classes: patterns of classes that values may hold, ours and Airflow's.
        passive_classes: whether dataclasses, named tuples and their like need no permission.
        autostart: whether the embedded server may be started.
        size: memory of the embedded server, e.g. ``8Gi``; None is core's default.
        reserve_memory: touch that memory at start.
        deployment: the name under which this Airflow's objects are known in a store that it shares with others.
        host: the name of this host in rows; None is what the system calls it.
        tier: where values are saved, the one that is written first; empty if nothing is saved.
        default_tier: whether that is the embedded server's folder, because nothing else was configured.
        durability: whether a value is saved before the task ends (``through``), afterwards (``behind``) or not.
        spill: folder of notes and overflow; None is core's default.
        disk_reserve: the share of the disks that stays free.
        tier_timeout: seconds that saving or loading may take.
        tier_sync: whether what is saved in a folder is written through to the disk.
        tier_options: settings of a bucket's service, by name.
        tier_conn_id: the connection whose credentials the agent has; None is its environment.
        preview: what is kept of each value to be shown: ``off``, ``schema``, ``head`` or ``stats``.
        preview_exclude: patterns of the ids of DAGs of whose values no more than ``schema`` is kept.
    """

    ipc_socket: str
    embedded: bool
    persist: bool
    rpc_endpoint: Optional[str]
    peers: Tuple[str, ...]
    inline_threshold: int
    allowed_classes: Tuple[str, ...]
    passive_classes: bool
    autostart: bool
    size: Optional[str]
    reserve_memory: bool
    deployment: str
    host: Optional[str]
    tier: Tuple[str, ...]
    default_tier: bool
    durability: str
    spill: Optional[str]
    disk_reserve: float
    tier_timeout: float
    tier_sync: bool
    tier_options: Tuple[Tuple[str, str], ...]
    tier_conn_id: Optional[str]
    preview: str
    preview_exclude: Tuple[str, ...]


class PlacementSettings(NamedTuple):
    """The checked options of placement.

    Attributes:
        enabled: prefer the host that has most of a task's input.
        minimum: bytes, the smallest share for which a host is preferred.
        bandwidth: bytes per second between hosts.
        longest: seconds, the most that a task waits for its host.
        place: where workers of this host are known: its ``rpc_endpoint``.
        peers: patterns of the endpoints of hosts; empty for any.
    """

    enabled: bool
    minimum: int
    bandwidth: float
    longest: float
    place: Optional[str]
    peers: Tuple[str, ...]


@lru_cache(maxsize=None)
def get_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        AirflowConfigException: an option has a value that cannot be used.
    """
    configured = _socket()
    options = {name: read(name) for name, read in _READERS.items()}
    if options["tier"] is None and configured is None:
        options.update(tier=(_embedded_tier(),), default_tier=True)
    if options["durability"] == "auto":
        options["durability"] = "behind" if options.get("default_tier") else "through"
    return Settings(
        ipc_socket=configured or _embedded_socket(),
        embedded=configured is None,
        **{"default_tier": False, **options, "tier": options["tier"] or ()},
    )


@lru_cache(maxsize=None)
def get_placement() -> PlacementSettings:
    """Return what is set for placement, read by itself: a wrong option of it must not fail a task.

    Raises:
        AirflowConfigException: an option has a value that cannot be used.
    """
    return PlacementSettings(
        enabled=_boolean("placement"),
        minimum=_amount("placement_min_size"),
        bandwidth=_rate("placement_bandwidth"),
        longest=_seconds("placement_wait"),
        place=_endpoint("rpc_endpoint"),
        peers=_peers("peers"),
    )


def wrong_options() -> List[str]:
    """Return what the getters would raise, for all options that have a wrong value and not only the first."""
    problems = []
    readers: List[Callable[[], object]] = [lambda: _socket() or _embedded_socket()]
    readers += [partial(read, name) for name, read in (*_READERS.items(), *_OTHER_READERS.items())]
    for read in readers:
        try:
            read()
        except version_compat.config_exception() as error:
            problems.append(str(error))
    return problems


def is_folder(tier: str) -> bool:
    """Tell whether a tier is a folder, which tasks use themselves."""
    return "://" not in tier or tier.lower().startswith("file:")


def get_other_interpreters() -> bool:
    """Return whether tasks in other interpreters hand over references, read by itself.

    Raises:
        AirflowConfigException: the option is neither true nor false.
    """
    return _boolean("other_interpreters")


def get_ui() -> bool:
    """Return whether the web interface shows stores and values, read by itself: a web server stores none.

    Raises:
        AirflowConfigException: the option is neither true nor false.
    """
    return _boolean("ui")


def preload_modules() -> Tuple[str, ...]:
    """Return the names in ``preload``, read by itself: it is asked for in processes that use no other option."""
    return tuple(dict.fromkeys(_text("preload").replace(",", " ").split()))


def executor() -> str:
    """Return ``[core] executor``: the name of an executor, or several names."""
    return str(version_compat.conf().get("core", "executor", fallback=""))


def _text(name: str) -> str:
    value = version_compat.conf().get(CONFIG_SECTION, name, fallback=option_default(name))
    return str(value).strip()


def _wrong(name: str, value: str, remedy: str) -> NoReturn:
    raise version_compat.config_exception()(
        f"[{CONFIG_SECTION}] {name} is {value!r}. {remedy} "
        f"It can also be set as AIRFLOW__{CONFIG_SECTION.upper()}__{name.upper()}."
    )


def _boolean(name: str) -> bool:
    value = _text(name)
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    _wrong(name, value, "Write True or False.")


def _count(name: str) -> int:
    value = _text(name)
    if not (value.isascii() and value.isdigit()):
        _wrong(name, value, "Write a number of bytes, 0 or more, without a unit.")
    return int(value)


def _memory(name: str) -> Optional[str]:
    value = _text(name)
    if value and not _SIZE.match(value):
        _wrong(name, value, "Write a number of bytes, or one with a unit Ki, Mi, Gi, Ti, K, M, G or T, such as 8Gi.")
    return value or None


def _amount(name: str) -> int:
    value = _text(name)
    match = _SIZE.match(value)
    if not match:
        _wrong(name, value, "Write a number of bytes, or one with a unit Ki, Mi, Gi, Ti, K, M, G or T, such as 16Mi.")
    power = "KMGT".index(match[2].upper()) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def _rate(name: str) -> float:
    number = _amount(name)
    if not number:
        _wrong(name, _text(name), "Write bytes per second, more than 0, such as 100M for 1 Gb/s.")
    return float(number)


def _seconds(name: str) -> float:
    value = _text(name)
    if not (value.isascii() and value.isdigit() and int(value) <= _LONGEST_WAIT):
        _wrong(name, value, f"Write a whole number of seconds from 0 to {_LONGEST_WAIT}.")
    return float(value)


def _endpoint(name: str) -> Optional[str]:
    value = _text(name)
    if not value:
        return None
    match = _ENDPOINT.match(value)
    if not match or not 0 < int(match.group(1)) < 65536:
        _wrong(name, value, "Write host:port with the port of vineyardd's RPC, such as worker-1.example.org:9600.")
    return value


def _tier(name: str) -> Optional[Tuple[str, ...]]:
    """Return the tiers; None if nothing says where they are, or that there are none."""
    value, source = _text(name), ""
    if not value:
        value, source = os.environ.get(ENVIRONMENT_TIER, "").strip(), ENVIRONMENT_TIER
    if not value or value.lower() == "none":
        return () if value else None
    tiers = tuple(dict.fromkeys(value.replace(",", " ").split()))
    for tier in tiers:
        if not _TIER.match(tier):
            remedy = f"{tier!r} is no tier: write an absolute path, a URL such as s3://bucket/prefix, or none."
            if source:
                raise version_compat.config_exception()(f"The environment variable {source} is {value!r}. {remedy}")
            _wrong(name, value, remedy)
    return tiers


def _durability(name: str) -> str:
    value = _text(name)
    if value not in ("auto", "none", "behind", "through"):
        _wrong(name, value, "Write auto, none, behind or through.")
    return value


def _level(name: str) -> str:
    value = _text(name).lower()
    if value not in ("off", "schema", "head", "stats"):
        _wrong(name, _text(name), "Write off, schema, head or stats.")
    return value


def _dag_ids(name: str) -> Tuple[str, ...]:
    return tuple(_text(name).replace(",", " ").split())


def _folder(name: str) -> Optional[str]:
    value = os.path.expanduser(_text(name))
    if value and not os.path.isabs(value):
        _wrong(name, value, "Write the absolute path of a folder on a disk of this host.")
    return value or None


def _share(name: str) -> float:
    value = _text(name)
    if not value or not _SHARE.match(value):
        _wrong(name, value, "Write a share of the disk from 0 to less than 1, such as 0.1 for a tenth.")
    return float(value)


def _patience(name: str) -> float:
    value = _text(name)
    if not (value.isascii() and value.isdigit() and 0 < int(value) <= _LONGEST_TRANSFER):
        _wrong(name, value, f"Write a whole number of seconds from 1 to {_LONGEST_TRANSFER}.")
    return float(value)


def _mapping(name: str) -> Tuple[Tuple[str, str], ...]:
    value = _text(name)
    try:
        found = json.loads(value or "{}")
    except ValueError:
        found = None
    usable = isinstance(found, dict) and all(isinstance(item, (str, int, float)) for item in found.values())
    if not usable:
        # Its value is left out: somebody may have written a password there.
        _wrong(name, "…", 'Write a JSON object of texts, such as {"endpoint": "http://minio:9000"}.')
    texts = {key: str(item).lower() if isinstance(item, bool) else str(item) for key, item in found.items()}
    return tuple(sorted(texts.items()))


def _connection_id(name: str) -> Optional[str]:
    value = _text(name)
    if value and not _CONNECTION.match(value):
        _wrong(name, value, "Write the id of an Airflow connection, such as aws_default.")
    return value or None


def _peers(name: str) -> Tuple[str, ...]:
    value = _text(name)
    patterns = value.replace(",", " ").split()
    for pattern in patterns:
        if not _PEER.match(pattern):
            _wrong(name, value, f"{pattern!r} is no host:port; write patterns such as 10.0.0.*:9600.")
    return tuple(patterns)


def _host(name: str) -> Optional[str]:
    value = _text(name)
    if value and not _HOST.match(value):
        _wrong(name, value, "Write a name of at most 253 letters, digits, dots, hyphens and underscores.")
    return value or None


def _name(name: str) -> str:
    value = _text(name)
    if not _DEPLOYMENT.match(value):
        _wrong(name, value, "Write a name of at most 100 letters, digits, dots, hyphens and underscores.")
    return value


def _socket() -> Optional[str]:
    name = "ipc_socket"
    value = _text(name)
    if value:
        problem = _socket_problem(value)
        if problem:
            _wrong(name, value, f"{problem} Write the absolute path of vineyardd's UNIX socket.")
        return value
    value = os.environ.get(ENVIRONMENT_SOCKET, "").strip()
    if not value:
        return None
    problem = _socket_problem(value)
    if problem:
        raise version_compat.config_exception()(
            f"The environment variable {ENVIRONMENT_SOCKET} is {value!r}. {problem} "
            f"Write the absolute path of vineyardd's UNIX socket, or set [{CONFIG_SECTION}] {name}."
        )
    return value


def _socket_problem(path: str) -> str:
    if not os.path.isabs(path):
        return "That is not an absolute path."
    if len(os.fsencode(path)) > _SOCKET_LIMIT:
        return f"The system allows {_SOCKET_LIMIT} bytes for the path of a UNIX socket, this one is longer."
    return ""


def _embedded_folder() -> str:
    return os.path.join(os.path.abspath(version_compat.airflow_home()), "vineyard")


def _embedded_tier() -> str:
    return os.path.join(_embedded_folder(), "values")


def _embedded_socket() -> str:
    path = os.path.join(_embedded_folder(), "vineyard.sock")
    if _socket_problem(path):
        _wrong(
            "ipc_socket",
            "",
            f"The embedded server's socket would be {path}, which is longer than the {_SOCKET_LIMIT} bytes that the "
            "system allows; set the option to a shorter path, or move AIRFLOW_HOME.",
        )
    return path


def _from_regexp(entry: str) -> str:
    """Return the pattern that says the same as a regular expression of the usual kind: dots escaped, stars behind."""
    plain = entry.lstrip("^").rstrip("$").replace("\\.", "\0")
    return plain.replace(".*", "*").replace(".+", "*").replace("\0", ".")


def _classes(name: str) -> Tuple[str, ...]:
    value = _text(name)
    ours = value.replace(",", " ").split()
    for pattern in ours:
        if not _PATTERN.match(pattern):
            _wrong(
                name,
                value,
                f"{pattern!r} does not name a package and what in it; write patterns such as mycompany.models.*.",
            )
    # Airflow takes these lists apart at white space, so do we. In 2.6 and 2.7 the entries of the first are regular
    # expressions, later they are patterns, and there is a second one.
    listed = version_compat.conf().get("core", "allowed_deserialization_classes", fallback=_AIRFLOW_BLANKET).split()
    regexps = version_compat.conf().get("core", "allowed_deserialization_classes_regexp", fallback="").split()
    airflows = [_from_regexp(entry) if "\\" in entry else entry for entry in listed]
    airflows += [_from_regexp(entry) for entry in regexps]
    for pattern in airflows:
        if not _PATTERN.match(pattern):
            log.warning(
                "%r in [core] allowed_deserialization_classes names no package; vineyard does without it. Name the "
                "classes in [%s] %s if values hold them.",
                pattern,
                CONFIG_SECTION,
                name,
            )
    usable = (pattern for pattern in airflows if pattern != _AIRFLOW_BLANKET and _PATTERN.match(pattern))
    return tuple(dict.fromkeys([*ours, *usable, *AIRFLOW_CLASSES]))


_READERS: Dict[str, Callable[[str], Any]] = {
    "persist": _boolean,
    "rpc_endpoint": _endpoint,
    "peers": _peers,
    "inline_threshold": _count,
    "allowed_classes": _classes,
    "passive_classes": _boolean,
    "autostart": _boolean,
    "size": _memory,
    "reserve_memory": _boolean,
    "deployment": _name,
    "host": _host,
    "tier": _tier,
    "durability": _durability,
    "spill": _folder,
    "disk_reserve": _share,
    "tier_timeout": _patience,
    "tier_sync": _boolean,
    "tier_options": _mapping,
    "tier_conn_id": _connection_id,
    "preview": _level,
    "preview_exclude": _dag_ids,
}

# What is read by itself, and by ``wrong_options``.
_OTHER_READERS: Dict[str, Callable[[str], Any]] = {
    "other_interpreters": _boolean,
    "ui": _boolean,
    "placement": _boolean,
    "placement_min_size": _amount,
    "placement_bandwidth": _rate,
    "placement_wait": _seconds,
}
