"""The commands ``status``, ``doctor``, ``gc`` and ``stop``, for people and for programs (``--json``).

One table of commands is used twice: Airflow 3.2 and later offer them as ``airflow vineyard …``, having learnt of
``airflow_commands`` from the provider's metadata; every release has them as the program ``airflow-vineyard``. Airflow
imports this module on each of its commands, so what a command needs is imported when it runs.

Results go to standard output, errors to standard error. Exit codes: 0 done, or healthy; 1 failed, or not healthy; 2
wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type

from airflow_provider_vineyard._version import __version__

if TYPE_CHECKING:
    from airflow_provider_vineyard.orphans import Freed

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

    status = get_status()
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
                "versions": {"vineyardd": store.version, **status.versions},
                "xcoms": {dag_id: share._asdict() for dag_id, share in status.xcoms.items()},
                "others": status.others._asdict(),
            }
        )
        return 0
    share = store.memory_used / store.memory_limit if store.memory_limit else 0.0
    pairs = {
        "socket": f"{store.socket} ({'embedded server' if status.embedded else 'configured'})",
        "endpoint": store.endpoint or "none, its RPC is off: values stay on this host",
        "memory": f"{_bytes(store.memory_used)} of {_bytes(store.memory_limit)} ({share:.1%})",
        "clients": str(store.connections),
        "versions": ", ".join(
            f"{name} {version}" for name, version in [("vineyardd", store.version), *status.versions.items()]
        ),
        "deployment": status.deployment,
    }
    width = max(map(len, pairs))
    for name, text in pairs.items():
        print(f"{name:<{width}}  {text}")
    print()
    rows = [
        [dag_id or "(not known)", str(found.objects), _bytes(found.bytes)] for dag_id, found in status.xcoms.items()
    ]
    total = [sum(found[index] for found in status.xcoms.values()) for index in range(2)]
    rows += [["all XComs", str(total[0]), _bytes(total[1])]]
    rows += [["other objects", str(status.others.objects), _bytes(status.others.bytes)]]
    _print_table([["DAG", "OBJECTS", "SIZE"], *rows])
    return 0


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
    )
    # Objects with one token share their memory.
    total = sum({found.info.ref.token: found.info.size for found in freed}.values())
    if arguments.json:
        rows = [_as_json(found) for found in freed]
        _print_json({"dry_run": arguments.dry_run, "objects": len(freed), "bytes": total, "freed": rows})
        return 0
    header = ["ID", "SIZE", "REASON", "CREATED", "XCOM", "TYPE"]
    if freed:
        _print_table([header, *map(_as_row, freed)])
    reasons = [found.reason for found in freed]
    parts = [f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)]
    verb = "Would free" if arguments.dry_run else "Freed"
    print(f"{verb} {len(freed)} objects, {_bytes(total)}{': ' if parts else ''}{', '.join(parts)}.")
    if arguments.orphans and grace:
        print(f"What is younger than --grace ({grace}) is left alone: a row may be about to be written for it.")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from airflow_provider_vineyard.clients import close_clients, get_client_if_running
    from airflow_provider_vineyard.settings import get_settings

    settings = get_settings()
    if not settings.embedded:
        return _fail(
            f"{settings.ipc_socket} is configured, so its server was not started by Airflow. End it where it was "
            "started, or with vineyard-client stop --socket PATH."
        )
    if get_client_if_running(settings) is None:
        return _fail(f"The embedded server at {settings.ipc_socket} is not running.")
    from vineyard_client import stop_server

    close_clients()
    pid = stop_server(settings.ipc_socket)
    print(f"Stopped the embedded server at {settings.ipc_socket} (process {pid}); the next value starts a new one.")
    return 0


# ---- how things look


def _as_json(found: Freed) -> Dict[str, Any]:
    info = found.info
    return {
        "reason": found.reason,
        "id": info.ref.id,
        "token": info.ref.token,
        "type": info.type,
        "size": info.size,
        "created": info.created.isoformat(timespec="seconds"),
        "labels": dict(info.labels),
    }


def _as_row(found: Freed) -> List[str]:
    info = found.info
    names = [info.labels.get(name, "") for name in ("dag_id", "run_id", "task_id", "key")]
    created = f"{info.created:%Y-%m-%d %H:%M:%S}"
    return [info.ref.id, _bytes(info.size), found.reason, created, " ".join(filter(None, names)) or "-", info.type]


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


_JSON = _Argument("--json", {"action": "store_true", "help": "for programs"})

_COMMANDS = (
    _Command("status", "Show which store is used here, how full it is, and what each DAG has in it", _status, (_JSON,)),
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
            _Argument("--dry-run", {"action": "store_true", "help": "free nothing, only show what would be freed"}),
            _JSON,
        ),
        "Free the store's garbage: deleted values that nobody reads any more, what killed writers left, and copies of "
        "values that are gone from their own host. On request also XComs of this deployment that are orphans or old. "
        "Each host frees its own store.",
    ),
    _Command("stop", "End the embedded server of this host; what it stores is gone with it", _stop),
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
