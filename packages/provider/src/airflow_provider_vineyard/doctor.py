"""``doctor``: is everything as values need it, and if not, what is to be done.

A list of checks in the order in which things can go wrong; one that cannot be made because an earlier one failed is
left out. No check raises. The embedded server is started if it is not running and may be: the next value would do the
same, and whether that works is what one wants to know.
"""

from __future__ import annotations

import os
import stat
from configparser import NoSectionError
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Set

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard._version import __version__
from airflow_provider_vineyard.clients import get_client, require_core
from airflow_provider_vineyard.get_provider_info import CONFIG_SECTION, get_provider_info
from airflow_provider_vineyard.reference import DEPLOYMENT_LABEL
from airflow_provider_vineyard.settings import Settings, get_placement, get_settings, is_folder, wrong_options

if TYPE_CHECKING:
    from vineyard_client import Client, Finding, StoreStatus, TierStatus

__all__ = ["FAILED", "OK", "WARNING", "Check", "diagnose"]

OK, WARNING, FAILED = "ok", "warning", "failed"

BACKENDS = ("airflow_provider_vineyard.xcom.VineyardXCom", "vineyard.contrib.airflow.xcom.VineyardXCom")

# From here on the next large value may not fit.
_FULL = 0.9

# Seconds; a host that takes longer is no good for values either.
_RPC_TIMEOUT = 5.0

_TIER_TIMEOUT = 20.0

# What to do about what core finds, where that has other names here.
_START_AGENT = "Start one on this host: airflow-vineyard agent."
_REMEDIES = {
    "no agent": _START_AGENT,
    "slow": "With [vineyard] durability = through each task waits for it: look for what slows it down, or set behind. "
    "Transfers end after [vineyard] tier_timeout seconds.",
    "full": "Run gc --orphans, give it a larger disk, or lower [vineyard] disk_reserve.",
}

# Types of file systems that no other host has.
_OF_ONE_HOST = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})

# Well above the size from which on values are mapped and not copied.
_MAPPED = 1 << 20


class Check(NamedTuple):
    """What a check found.

    Attributes:
        name: what was checked.
        result: ``ok``, ``warning`` or ``failed``.
        found: what is the case.
        remedy: what to do about it; empty where there is nothing to do.
    """

    name: str
    result: str
    found: str
    remedy: str = ""


def diagnose() -> List[Check]:
    """Return what all the checks found that can be made."""
    core, options = _core(), _options()
    checks = [core, *options, _backend()]
    if FAILED in (core.result, *(check.result for check in options)):
        return checks
    settings = get_settings()
    socket = _socket(settings)
    checks.append(socket)
    if socket.result != FAILED:
        checks += _server(settings)
    return checks + _placement(settings)


def _core() -> Check:
    name = "vineyard-client"
    try:
        require_core()
    except ImportError as error:
        return Check(name, FAILED, str(error), "pip install --force-reinstall vineyard-client")
    import vineyard_client

    version = vineyard_client.__version__
    if version != __version__:
        remedy = f"Install vineyard-client {__version__}: the distributions are released together."
        return Check(name, WARNING, f"{version}, beside airflow-provider-vineyard {__version__}", remedy)
    return Check(name, OK, version)


def _options() -> List[Check]:
    name = f"[{CONFIG_SECTION}]"
    checks = [Check(name, FAILED, problem, "Correct the option.") for problem in wrong_options()]
    known = set(get_provider_info()["config"][CONFIG_SECTION]["options"])
    for option in sorted(_options_that_are_set() - known):
        remedy = f"Correct its name or remove it; the options are {', '.join(sorted(known))}."
        checks.append(Check(name, WARNING, f"There is no option {option}.", remedy))
    return checks or [Check(name, OK, "All options have usable values.")]


def _options_that_are_set() -> Set[str]:
    """Return the names of all options of our section, from the file and from the environment.

    Names that end with ``_cmd`` or ``_secret`` are no exception: Airflow heeds them for options that are secret only.
    """
    prefix = f"AIRFLOW__{CONFIG_SECTION.upper()}__"
    environment = {name[len(prefix) :].lower() for name in os.environ if name.startswith(prefix)}
    try:
        return environment | set(version_compat.conf().options(CONFIG_SECTION))
    except NoSectionError:
        return environment


def _backend() -> Check:
    name = "[core] xcom_backend"
    found = version_compat.conf().get("core", "xcom_backend", fallback="")
    if found in BACKENDS:
        return Check(name, OK, found)
    remedy = f"Set it to {BACKENDS[0]}, also as AIRFLOW__CORE__XCOM_BACKEND, for all components of Airflow."
    return Check(name, FAILED, f"{found or 'empty'}: what tasks return does not go to vineyard.", remedy)


def _socket(settings: Settings) -> Check:
    name, path = "socket", settings.ipc_socket
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return _no_socket(settings)
    except OSError as error:
        return Check(name, FAILED, f"{path}: {error.strerror}.", "Let this user enter the folders above it.")
    if not stat.S_ISSOCK(status.st_mode):
        return Check(name, FAILED, f"{path} is not a socket.", "Remove it, or correct [vineyard] ipc_socket.")
    if not os.access(path, os.R_OK | os.W_OK):
        remedy = "Give this user the right to read and write it (vineyardd makes it open to all)."
        return Check(name, FAILED, f"{path} (mode {stat.S_IMODE(status.st_mode):o}) is not for this user.", remedy)
    return Check(name, OK, path)


def _no_socket(settings: Settings) -> Check:
    name, path = "socket", settings.ipc_socket
    if not settings.embedded:
        remedy = "Start vineyardd there, or correct [vineyard] ipc_socket (or VINEYARD_IPC_SOCKET)."
        return Check(name, FAILED, f"There is nothing at {path}.", remedy)
    if not settings.autostart:
        remedy = "Set [vineyard] ipc_socket, or turn on [vineyard] autostart."
        return Check(name, FAILED, f"There is nothing at {path}, and [vineyard] autostart is off.", remedy)
    folder = _existing(os.path.dirname(path))
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check(
            name, FAILED, f"{path} cannot be made: {folder} is not for this user.", "Let this user write to it."
        )
    return Check(name, OK, f"{path}, not there yet: the embedded server is started on demand.")


def _existing(folder: str) -> str:
    """Return the nearest folder above that exists."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _server(settings: Settings) -> List[Check]:
    """Make the checks that need the server; where it has to be started, it shows whether there is one to start."""
    from vineyard_client import VineyardError

    try:
        client = get_client(settings)
        status = client.status()
    except (VineyardError, version_compat.config_exception()) as error:
        remedy = getattr(error, "hint", "") or "See the log of vineyardd."
        return [Check("server", FAILED, getattr(error, "what", str(error)), remedy)]
    where = "embedded" if settings.embedded else "configured"
    checks = [Check("server", OK, f"vineyardd {status.version}, {where}, {status.connections} clients")]
    checks += [_memory(status), *_size(settings, status), _endpoint(settings, status)]
    small = ("a value", len(status.version))
    # Of what Python itself has, a memoryview is mapped; the others are copied, whatever their size.
    mapped = memoryview(bytes(range(256)) * (_MAPPED // 256))
    checks += [
        _round_trip("small value", small, client, settings),
        _round_trip("mapped value", mapped, client, settings),
    ]
    return checks + _tier(settings)


def _memory(status: StoreStatus) -> Check:
    used, limit = status.memory_used, status.memory_limit
    found = f"{used} of {limit} bytes in use"
    if limit and used >= _FULL * limit:
        return Check("memory", WARNING, found, "Run gc --orphans, clear what nobody needs, or give vineyardd more.")
    return Check("memory", OK, found)


def _size(settings: Settings, status: StoreStatus) -> List[Check]:
    """Compare the server that runs with the option, if that is set: it has the size with which it was started."""
    from vineyard_client import parse_size

    if settings.size is None:
        return []
    name, limit = "size", status.memory_limit
    try:
        wanted = parse_size(settings.size)
    except ValueError as error:
        return [Check(name, FAILED, str(error), "Correct [vineyard] size.")]
    if limit == wanted:
        return [Check(name, OK, f"{limit} bytes, as [vineyard] size says")]
    found = f"The server that runs has {limit} bytes, [vineyard] size says {wanted} ({settings.size})."
    remedy = (
        "It keeps the size with which it was started: airflow-vineyard stop ends it, and what no tier has is gone; "
        "the next value starts one of the new size."
        if settings.embedded
        else "The option is for the embedded server: give vineyardd another --size where it is started, or empty it."
    )
    return [Check(name, WARNING, found, remedy)]


def _tier(settings: Settings) -> List[Check]:
    """Make a round trip through the tier that is written, and see how the work stands."""
    from vineyard_client import VineyardError

    name = "tier"
    if not settings.tier:
        return [Check(name, OK, "none: values end with vineyardd"), *_without_effect(settings)]
    try:
        # A tier that needs longer than this for a few bytes is no good for values either.
        client = get_client(settings._replace(tier_timeout=min(settings.tier_timeout, _TIER_TIMEOUT)))
        assert client.saved is not None
        found = client.saved.check()
        status = client.saved.status()
    except VineyardError as error:
        return [Check(name, FAILED, error.what, _START_AGENT if _lacks_agent(settings) else error.hint)]
    agent = "no agent" if status.agent is None else f"agent {status.agent}"
    waiting = f"{status.unsaved.number} values ({status.unsaved.nbytes} bytes) are to be saved"
    checks = [Check(name, OK, f"{status.urls[0]} ({status.durability}, {agent}); {waiting}")]
    checks += [_about(name, finding, status) for finding in found]
    local = [disk for disk in status.disks if disk.purpose == "tier" and disk.file_system in _OF_ONE_HOST]
    if settings.rpc_endpoint is not None and local:
        what = (
            f"{local[0].path} is on a disk of this host ({local[0].file_system}), and there are others: rpc_endpoint."
        )
        remedy = "They cannot read what is saved there: take a bucket, or a folder that all hosts mount at one path."
        checks.append(Check(name, WARNING, what, remedy))
    return [*checks, *_without_effect(settings)]


def _without_effect(settings: Settings) -> Iterator[Check]:
    """Find options that are set and change nothing."""
    if all(map(is_folder, settings.tier)):
        for option in ("tier_options", "tier_conn_id"):
            if getattr(settings, option):
                yield Check(option, WARNING, "It is set, and no tier is a bucket.", "Empty it, or set [vineyard] tier.")


def _about(name: str, finding: Finding, status: TierStatus) -> Check:
    """Return what core found with the command and the options that people have here."""
    late = finding.kind == "late"
    remedy = _START_AGENT if late and status.agent is None else _REMEDIES.get(finding.kind, finding.remedy)
    return Check(name, FAILED if late else WARNING, finding.what, remedy)


def _lacks_agent(settings: Settings) -> bool:
    """Tell whether it is the agent that is missing for a tier that needs one."""
    from vineyard_client import VineyardError

    if is_folder(settings.tier[0]):
        return False
    try:
        saved = get_client(settings).saved
        return saved is not None and saved.status().agent is None
    except VineyardError:
        return False  # what is wrong is told already


def _endpoint(settings: Settings, status: StoreStatus) -> Check:
    """Check what references advertise, by asking it for an object that does not exist: vineyardd says so."""
    from vineyard_client import ObjectRef, VineyardError, connect

    name, endpoint = "rpc_endpoint", status.endpoint
    if endpoint is None:
        if settings.rpc_endpoint is None:
            return Check(name, OK, "The RPC of vineyardd is off: values are for this host only.")
        remedy = "Start vineyardd with RPC (the embedded server has none), or empty [vineyard] rpc_endpoint."
        return Check(name, WARNING, f"{settings.rpc_endpoint} is advertised nowhere: vineyardd's RPC is off.", remedy)
    remedy = "Set [vineyard] rpc_endpoint to a name or address and the port under which other hosts reach vineyardd."
    # A client that believes to be elsewhere does not look in the store here.
    token, nobody = os.urandom(16).hex(), "nobody.invalid:1"
    try:
        with connect(settings.ipc_socket, timeout=_RPC_TIMEOUT, endpoint=nobody, autostart=False) as stranger:
            stranger.exists(ObjectRef(f"o{1:016x}", token, endpoint, "nothing", 0))
    except VineyardError as error:
        return Check(name, FAILED, f"{endpoint} does not answer: {error.what}", remedy)
    if _is_loopback(endpoint):
        return Check(name, WARNING, f"{endpoint} answers, but from another host it is that host itself.", remedy)
    return Check(name, OK, f"{endpoint} answers.")


def _placement(settings: Settings) -> List[Check]:
    """See whether tasks are placed, where that is wished."""
    options = get_placement()
    if not options.enabled:
        return []
    from airflow_provider_vineyard.placement.check import look

    found = look(options, settings.host)
    return [Check("placement", WARNING if remedy else OK, text, remedy) for text, remedy in found]


def _is_loopback(endpoint: str) -> bool:
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _stored(client: Client, value: object, settings: Settings) -> Iterator[Any]:
    """Put a value and delete it again; if this process is killed, ``gc --orphans`` finds it."""
    labels, path = {DEPLOYMENT_LABEL: settings.deployment}, (settings.deployment, "doctor")
    ref = client.put(value, labels=labels, persist=settings.persist, path=path)
    try:
        yield ref
    finally:
        client.delete(ref)


def _round_trip(name: str, value: object, client: Client, settings: Settings) -> Check:
    from vineyard_client import VineyardError

    try:
        with _stored(client, value, settings) as ref:
            same = client.get(ref) == value
        left = client.exists(ref)
    except VineyardError as error:
        return Check(name, FAILED, error.what, error.hint)
    if not same or left:
        found = "It came back as another value." if not same else "It is still there after it was deleted."
        return Check(name, FAILED, found, "Restart vineyardd; if that does not help, report it.")
    return Check(name, OK, "put, read and deleted")
