"""The commands, for people and for programs (``--json``).

One table of commands is used twice: Airflow 3.2 and later offer them as ``airflow vineyard …``, having learnt of
``airflow_commands`` from the provider's metadata; every release has them as the program ``airflow-vineyard``. Airflow
imports this module on each of its commands, so what a command needs is imported when it runs.

Results go to standard output, errors to standard error. Exit codes: 0 done, or healthy; 1 failed, or not healthy; 2
wrong arguments.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type

from airflow_provider_vineyard._version import __version__

if TYPE_CHECKING:
    from airflow_provider_vineyard.orphans import Freed
    from airflow_provider_vineyard.status import Share, Status
    from vineyard_client import StoreStatus, TierStatus

__all__ = ["airflow_commands", "main"]

_HELP = "Look after the vineyard store that carries XComs"

# What Airflow 3 gives its task processes in place of the database (and, without effect then, under the option's name of
# before 2.3). Airflow cannot be loaded with it but as a library.
_NO_DATABASE = "airflow-db-not-allowed:"
_DATABASE_VARIABLE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


class _Argument(NamedTuple):
    """An argument as ``argparse`` takes it."""

    flag: str
    options: Dict[str, Any]


class _Command(NamedTuple):
    """A command; ``run`` returns the exit code."""

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    arguments: Tuple[_Argument, ...] = ()
    description: str = ""


# ---- commands


def _status(arguments: argparse.Namespace) -> int:
    from airflow_provider_vineyard.status import get_status

    status = get_status(objects=arguments.objects)
    store = status.store
    if arguments.json:
        _print_json(
            {
                "socket": store.socket,
                "embedded": status.embedded,
                "endpoint": store.endpoint,
                "deployment": status.deployment,
                "memory_used": store.memory_used,
                "memory_limit": store.memory_limit,
                "connections": store.connections,
                "small_values": store.small_values,
                "small_values_used": store.small_values_used,
                "versions": {"vineyardd": store.version, **status.versions},
                "xcoms": _shares_as_json(status.xcoms),
                "others": None if status.others is None else status.others._asdict(),
                "tier": None if status.tier is None else dataclasses.asdict(status.tier),
                "saved": _shares_as_json(status.saved),
            }
        )
        return 0
    share = store.memory_used / store.memory_limit if store.memory_limit else 0.0
    pairs = {
        "socket": f"{store.socket} ({'embedded server' if status.embedded else 'configured'})",
        "endpoint": store.endpoint or "none, its RPC is off: values stay on this host",
        "memory": f"{_bytes(store.memory_used)} of {_bytes(store.memory_limit)} ({share:.1%})",
        **_about_small_values(store),
        "clients": str(store.connections),
        "versions": ", ".join(
            f"{name} {version}" for name, version in [("vineyardd", store.version), *status.versions.items()]
        ),
        "deployment": status.deployment,
        **_tier_pairs(status.tier),
    }
    width = max(map(len, pairs))
    for name, text in pairs.items():
        print(f"{name:<{width}}  {text}")
    print()
    table = _shares(status)
    if table is None:
        print("There are so many objects that they are only counted with --objects.")
    else:
        _print_table(table)
    return 0


def _shares_as_json(shares: Optional[Mapping[str, Share]]) -> Optional[Dict[str, Any]]:
    return None if shares is None else {dag_id: share._asdict() for dag_id, share in shares.items()}


def _about_small_values(store: StoreStatus) -> Dict[str, str]:
    """Return what is said of the values that are in vineyardd's metadata, if there are any."""
    if not store.small_values:
        return {}
    return {"beside it": f"{store.small_values} small values, some {_bytes(store.small_values_used)}"}


def _tier_pairs(tier: Optional[TierStatus]) -> Dict[str, str]:
    """Return what is said of the tier: where values are safe, and how far that is."""
    if tier is None:
        return {"tier": "none: values end with the server"}
    agent = "no agent" if tier.agent is None else f"agent {tier.agent}"
    waiting = tier.unsaved
    pairs = {
        "tier": f"{', '.join(tier.urls)} ({tier.durability}, {agent})",
        "not saved": f"{waiting.number} values, {_bytes(waiting.nbytes)}"
        + (f", the oldest put {waiting.age:.0f} s ago" if waiting.number else ""),
        "overflow": f"{tier.overflow} values, {_bytes(tier.overflow_bytes)}",
    }
    if tier.lost:
        pairs["lost"] = f"{tier.lost} values ended with their store before they were saved: see doctor"
    for disk in tier.disks:
        pairs[f"{disk.purpose} disk"] = f"{_bytes(disk.free)} of {_bytes(disk.size)} free, {disk.path}"
    if tier.last_error:
        pairs["last error"] = tier.last_error
    return pairs


def _shares(status: Status) -> Optional[List[List[str]]]:
    """Return the table of what each DAG has in the store, and in the tier if there is one; None if it is not known."""
    xcoms, others, copies, with_tier = status.xcoms, status.others, status.saved, status.tier is not None
    if xcoms is None or others is None or copies is None:
        return None

    def row(name: str, here: Tuple[int, int], saved: Optional[Tuple[int, int]]) -> List[str]:
        cells = [name, str(here[0]), _bytes(here[1])]
        return cells + ([str(saved[0]), _bytes(saved[1])] if saved else ["", ""]) * with_tier

    def total(shares: Mapping[str, Share]) -> Tuple[int, int]:
        return sum(share.objects for share in shares.values()), sum(share.bytes for share in shares.values())

    nothing = (0, 0)
    return [
        ["DAG", "OBJECTS", "SIZE", *["SAVED", "SIZE"] * with_tier],
        *(
            row(name or "(not known)", xcoms.get(name, nothing), copies.get(name, nothing))
            for name in sorted({*xcoms, *copies})
        ),
        row("all XComs", total(xcoms), total(copies)),
        row("other objects", others, None),
    ]


def _doctor(arguments: argparse.Namespace) -> int:
    from airflow_provider_vineyard.doctor import FAILED, diagnose

    checks = diagnose()
    healthy = all(check.result != FAILED for check in checks)
    if arguments.json:
        _print_json({"healthy": healthy, "checks": [check._asdict() for check in checks]})
        return 0 if healthy else 1
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{check.result:<7}  {check.name:<{width}}  {check.found}")
        if check.remedy:
            print(f"{'':<{width + 11}}{check.remedy}")
    print("Healthy." if healthy else "Not healthy.")
    return 0 if healthy else 1


def _gc(arguments: argparse.Namespace) -> int:
    from airflow_provider_vineyard.orphans import DEFAULT_GRACE, free_unneeded

    if arguments.dag_id is not None and not arguments.orphans and arguments.older_than is None:
        return _wrong("--dag-id narrows --orphans or --older-than; give one of them")
    if arguments.grace is not None and not arguments.orphans:
        return _wrong("--grace belongs to --orphans")
    if arguments.trust_database and not arguments.orphans:
        return _wrong("--trust-database belongs to --orphans")
    grace = DEFAULT_GRACE if arguments.grace is None else arguments.grace
    freed = free_unneeded(
        orphans=arguments.orphans,
        older_than=arguments.older_than,
        dag_id=arguments.dag_id,
        grace=grace,
        dry_run=arguments.dry_run,
        trust_database=arguments.trust_database,
        thorough=arguments.thorough,
    )
    total = sum(found.frees for found in freed)
    if arguments.json:
        rows = [_as_json(found) for found in freed]
        _print_json({"dry_run": arguments.dry_run, "objects": len(freed), "bytes": total, "freed": rows})
        return 0
    header = ["ID", "SIZE", "FREES", "REASON", "CREATED", "XCOM", "TYPE"]
    if freed:
        _print_table([header, *map(_as_row, freed)])
    reasons = [found.reason for found in freed]
    parts = [f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)]
    verb = "Would free" if arguments.dry_run else "Freed"
    print(f"{verb} {len(freed)} objects, {_bytes(total)}{': ' if parts else ''}{', '.join(parts)}.")
    if arguments.orphans and grace:
        print(f"What is younger than --grace ({grace}) is left alone: a row may be about to be written for it.")
    return 0


def _save(arguments: argparse.Namespace) -> int:
    from airflow_provider_vineyard.saving import save_values

    result = save_values(dag_id=arguments.dag_id, dry_run=arguments.dry_run)
    if arguments.json:
        _print_json({"dry_run": arguments.dry_run, **result._asdict()})
        return 0
    verb = "Would save" if arguments.dry_run else "Saved"
    print(f"{verb} {result.saved} XComs, {_bytes(result.bytes)}, in {result.tier}.")
    if result.already:
        print(f"{result.already} were saved before.")
    if result.elsewhere:
        print(f"{result.elsewhere} are not in the store of this host: on another one, or gone.")
    return 0


def _agent(arguments: argparse.Namespace) -> int:
    from airflow_provider_vineyard.agent import become_agent

    become_agent(with_server=arguments.with_server, older_than=arguments.older_than)


def _stop(arguments: argparse.Namespace) -> int:
    from airflow_provider_vineyard.clients import close_clients, get_client, get_client_if_running
    from airflow_provider_vineyard.settings import get_settings

    settings = get_settings()
    if not settings.embedded:
        return _fail(
            f"{settings.ipc_socket} is configured, so its server was not started by Airflow. End it where it was "
            "started, or with vineyard-client stop --socket PATH."
        )
    if get_client_if_running(settings) is None:
        return _fail(f"The embedded server at {settings.ipc_socket} is not running.")
    from vineyard_client import TierUnavailable, stop_server

    try:
        saved = get_client(settings).saved
        if saved is not None and not arguments.discard:
            saved.drain(settings.tier_timeout)
        close_clients()
        pid = stop_server(settings.ipc_socket, save_timeout=settings.tier_timeout, discard=arguments.discard)
    except TierUnavailable as error:
        return _fail(f"{error} With --discard the server is ended all the same, and what is not saved is gone.")
    print(f"Stopped the embedded server at {settings.ipc_socket} (process {pid}); the next value starts a new one.")
    return 0


# ---- how things look


def _as_json(found: Freed) -> Dict[str, Any]:
    info = found.info
    return {
        "reason": found.reason,
        "id": info.ref.id,
        "copy": info.ref.copy,
        "token": info.ref.token,
        "type": info.type,
        "size": info.size,
        "frees": found.frees,
        "created": info.created.isoformat(timespec="seconds"),
        "labels": dict(info.labels),
    }


def _as_row(found: Freed) -> List[str]:
    info = found.info
    names = [info.labels.get(name, "") for name in ("dag_id", "run_id", "task_id", "key")]
    created = f"{info.created:%Y-%m-%d %H:%M:%S}"
    id = info.ref.id if info.ref.copy is None else "-"
    xcom = " ".join(filter(None, names)) or "-"
    return [id, _bytes(info.size), _bytes(found.frees), found.reason, created, xcom, info.type]


def _bytes(number: float) -> str:
    if number < 1024:
        return f"{number:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        number /= 1024
        if number < 1024 or unit == "TiB":
            break
    return f"{number:.1f} {unit}"


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=2))


def _print_table(rows: List[List[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


# ---- arguments and errors


def _age(text: str) -> timedelta:
    match = re.match(r"(\d{1,6}(?:\.\d+)?)([smhd])\Z", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write a number with s, m, h or d, such as 7d")
    return timedelta(seconds=float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])


def _age_text(text: str) -> str:
    _age(text)
    return text


_JSON = _Argument("--json", {"action": "store_true", "help": "for programs"})

_COMMANDS = (
    _Command(
        "status",
        "Show which store is used here, how full it is, and what each DAG has in it",
        _status,
        (
            _Argument(
                "--objects",
                {"action": "store_true", "help": "count all objects, however many; all others wait meanwhile"},
            ),
            _JSON,
        ),
    ),
    _Command(
        "doctor",
        "Check server, socket, configuration and a round trip, and say what to do",
        _doctor,
        (_JSON,),
        "Check server, socket, configuration and a round trip, and say what to do about each problem. The exit code is "
        "1 if a check failed. If the embedded server is not running, it is started, as the next value would do it.",
    ),
    _Command(
        "gc",
        "Free what no XCom needs any more, in the store of this host",
        _gc,
        (
            _Argument(
                "--orphans",
                {
                    "action": "store_true",
                    "help": "also what no XCom in Airflow's database refers to; needs the database",
                },
            ),
            _Argument(
                "--older-than",
                {
                    "type": _age,
                    "metavar": "AGE",
                    "help": "also XComs of this age, referred to or not: 90m, 12h, 7d. With "
                    "--orphans: only orphans of this age",
                },
            ),
            _Argument("--dag-id", {"metavar": "ID", "help": "only orphans and old XComs of this DAG"}),
            _Argument(
                "--grace",
                {"type": _age, "metavar": "AGE", "help": "age from which on XComs may be orphans; default 1h"},
            ),
            _Argument(
                "--trust-database",
                {
                    "action": "store_true",
                    "help": "with --orphans: go by this database even if it is not known to be that of the XComs",
                },
            ),
            _Argument(
                "--thorough",
                {"action": "store_true", "help": "look for garbage in all of the store; all others wait meanwhile"},
            ),
            _Argument("--dry-run", {"action": "store_true", "help": "free nothing, only show what would be freed"}),
            _JSON,
        ),
        "Free the store's garbage: deleted values that nobody reads any more, what killed writers left, and copies of "
        "values that are gone from their own host. On request also XComs of this deployment that are orphans or old. "
        "Each host frees its own store.",
    ),
    _Command(
        "save",
        "Save what is in the store of this host and was not saved when it was put",
        _save,
        (
            _Argument("--dag-id", {"metavar": "ID", "help": "only XComs of this DAG"}),
            _Argument("--dry-run", {"action": "store_true", "help": "save nothing, only show what would be saved"}),
            _JSON,
        ),
        "Save XComs that were stored before there was a tier: copy each value that is in the store of this host into "
        "the tier, and note in its row where that is. Needs Airflow's database. Each host saves what is in its store.",
    ),
    _Command(
        "agent",
        "Save what tasks return in the tier, load it from there, and keep the store of this host tidy",
        _agent,
        (
            _Argument(
                "--older-than",
                {
                    "type": _age_text,
                    "metavar": "AGE",
                    "help": "also delete values of this age, and their copies: 90m, 12h, 7d",
                },
            ),
            _Argument(
                "--with-server",
                {"action": "store_true", "help": "end when the server has ended and all is saved"},
            ),
        ),
        "Run the agent of this host's store, in the foreground, with the options of [vineyard]; without a tier it only "
        "frees what nobody needs. One per host is enough; it needs vineyard-client[buckets] if the tier is a bucket. "
        "Beside the embedded server one is started on demand.",
    ),
    _Command(
        "stop",
        "End the embedded server of this host",
        _stop,
        (_Argument("--discard", {"action": "store_true", "help": "end it even if something cannot be saved"}),),
        "End the embedded server of this host, when all is saved that is to be. What no tier has is gone with it.",
    ),
)


def _fail(text: str) -> int:
    print(f"airflow-vineyard: {text}", file=sys.stderr)
    return 1


def _wrong(text: str) -> int:
    _fail(text)
    return 2


def _run(command: _Command, arguments: argparse.Namespace) -> int:
    """Run a command and return its exit code; what is expected to go wrong becomes one line."""
    from airflow_provider_vineyard import version_compat
    from airflow_provider_vineyard.clients import require_core
    from airflow_provider_vineyard.orphans import DatabaseUnavailable, UnknownDatabase

    expected: List[Type[Exception]] = [
        version_compat.config_exception(),
        DatabaseUnavailable,
        UnknownDatabase,
        ImportError,
        OSError,
    ]
    try:
        require_core()
        from vineyard_client import VineyardError

        expected.append(VineyardError)
    except ImportError:
        pass  # the command says so
    try:
        return command.run(arguments)
    except tuple(expected) as error:
        return _fail(str(error))


def airflow_commands() -> List[Any]:
    """Return the commands for Airflow's own command line (3.2 and later)."""
    config: Any = import_module("airflow.cli.cli_config")

    def action(command: _Command) -> Any:
        def run(arguments: argparse.Namespace) -> None:
            code = _run(command, arguments)
            if code:
                raise SystemExit(code)

        arguments = tuple(config.Arg((argument.flag,), **argument.options) for argument in command.arguments)
        return config.ActionCommand(
            name=command.name, help=command.help, func=run, args=arguments, description=command.description or None
        )

    return [config.GroupCommand(name="vineyard", help=_HELP, subcommands=tuple(map(action, _COMMANDS)))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("airflow-vineyard", description=f"{_HELP}.")
    parser.add_argument("--version", action="version", version=f"airflow-provider-vineyard {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.description or command.help)
        sub.set_defaults(command=command)
        for argument in command.arguments:
            sub.add_argument(argument.flag, **argument.options)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command of the program ``airflow-vineyard`` and return its exit code."""
    arguments = _parser().parse_args(argv)
    if os.environ.get(_DATABASE_VARIABLE, "").startswith(_NO_DATABASE):
        os.environ.setdefault("_AIRFLOW__AS_LIBRARY", "True")
    return _run(arguments.command, arguments)
