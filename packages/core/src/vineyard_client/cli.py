"""Command line: ``vineyard-client`` or ``python -m vineyard_client``.

Results go to standard output, as text for people or with ``--json`` for programs; errors go to standard error. Exit
codes: 0 done, 1 it failed, 2 wrong arguments; 3, of ``explain`` only, the value would be refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import re
import sys
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import server
from ._tiers.facts import TierStatus
from ._tiers.options import TierOptions
from ._version import __version__
from .client import Client
from .exceptions import TierUnavailable, VineyardError
from .explanation import explain
from .reference import ObjectInfo, StoreStatus

__all__ = ["main"]

_EPILOG = "The socket is --socket, else VINEYARD_IPC_SOCKET, else that of your own on-demand server."


def _path(arguments: argparse.Namespace) -> str:
    return arguments.socket or os.environ.get("VINEYARD_IPC_SOCKET") or server.default_socket()


def _client(arguments: argparse.Namespace) -> Client:
    return server.connect(_path(arguments), timeout=arguments.timeout, autostart=False)


# ---- commands


def _serve(arguments: argparse.Namespace) -> None:
    path = os.path.abspath(_path(arguments))
    options = {"size": arguments.size, "reserve_memory": arguments.reserve_memory}
    if arguments.detach:
        if not server.ensure_server(path, **options, options=arguments.vineyardd):
            print("A server listens there already; it keeps the size and options that it has.", file=sys.stderr)
        print(path)
        return
    command = server.server_command(path, **options, options=arguments.vineyardd)
    server.require_free(path)
    print(f"Serving at {path}; Ctrl-C ends it.", file=sys.stderr, flush=True)
    os.execve(command[0], command, server.server_environment())


def _stop(arguments: argparse.Namespace) -> None:
    path = _path(arguments)
    pid = server.stop_server(path, discard=arguments.discard)
    print(f"Stopped the server at {path} (process {pid}).")


def _status(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        status = client.status()
        tier = client.saved.status() if client.saved is not None else None
    if arguments.json:
        found = dataclasses.asdict(status)
        print(json.dumps(found if tier is None else {**found, "tier": dataclasses.asdict(tier)}, indent=2))
        return
    share = status.memory_used / status.memory_limit if status.memory_limit else 0.0
    rows = {
        "socket": status.socket,
        "vineyardd": status.version,
        "instance": f"{status.instance_id}" + (f", metadata in {status.metadata}" if status.metadata else ""),
        "memory": f"{_bytes(status.memory_used)} of {_bytes(status.memory_limit)} ({share:.1%})",
        **_about_small_values(status),
        "identity": status.identity,
        "clients": str(status.connections),
        "inventory": status.inventory,
        "RPC": status.endpoint or "off",
        **({} if tier is None else _about_tier(tier)),
    }
    _print_pairs(rows)


def _about_small_values(status: StoreStatus) -> Dict[str, str]:
    if not status.small_values:
        return {}
    return {"beside it": f"{status.small_values} small values, some {_bytes(status.small_values_used)}"}


def _about_tier(tier: TierStatus) -> Dict[str, str]:
    unsaved = tier.unsaved
    oldest = f", the oldest for {unsaved.age:.0f} s" if unsaved.number else ""
    return {
        "tier": ", ".join(tier.urls),
        "agent": "none" if tier.agent is None else f"process {tier.agent}",
        "unsaved": f"{unsaved.number} values, {_bytes(unsaved.nbytes)}{oldest}",
        **({"lost": f"{tier.lost} values, see {os.path.join(tier.spill, 'lost')}"} if tier.lost else {}),
        "overflow": f"{tier.overflow} values, {_bytes(tier.overflow_bytes)}",
        **{f"free for {disk.purpose}": f"{_bytes(disk.free)} of {_bytes(disk.size)}" for disk in tier.disks},
        **({"last error": tier.last_error} if tier.last_error else {}),
    }


def _agent(arguments: argparse.Namespace) -> None:
    import logging

    from ._agent.housekeeper import Agent, on_signals
    from ._agent.keeper import Keeper

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    user = server.credentials()
    urls = arguments.tier or [url for url in [os.environ.get("VINEYARD_TIER", "")] if url]
    if not urls:
        keeper = Keeper(
            _path(arguments),
            older_than=arguments.older_than,
            with_server=arguments.with_server,
            username=user["username"],
            password=user["password"],
        )
        on_signals(keeper)
        with _exporter(arguments, None):
            keeper.run()
        return
    options = TierOptions(
        urls,
        spill=arguments.spill,
        reserve=arguments.reserve,
        timeout=arguments.timeout,
        sync=arguments.sync,
        options={**_options_in_environment(), **dict(arguments.tier_option)},
    )
    agent = Agent(
        _path(arguments),
        options,
        with_server=arguments.with_server,
        older_than=arguments.older_than,
        username=user["username"],
        password=user["password"],
    )
    on_signals(agent)
    with _exporter(arguments, agent.status):
        left = agent.run()
    if left:
        raise TierUnavailable(f"{left} values are not saved.", "Start the agent again: it goes on with them.")


@contextmanager
def _exporter(arguments: argparse.Namespace, tier: Optional[Callable[[], Mapping[str, Any]]]) -> Iterator[None]:
    """Serve metrics meanwhile, if that is wished."""
    if arguments.metrics is None:
        yield
        return
    from ._agent.metrics import Exporter, Figures

    exporter = Exporter(arguments.metrics, Figures(_path(arguments), tier, **server.credentials()))
    try:
        yield
    finally:
        exporter.close()


def _metrics(arguments: argparse.Namespace) -> None:
    from ._agent.metrics import Exporter, Figures

    figures = Figures(_path(arguments), None, **server.credentials())
    if arguments.listen is None:
        print(figures.text(), end="")
        figures.close()
        return
    from ._agent.housekeeper import on_signals

    with closing(Exporter(arguments.listen, figures)) as exporter:
        on_signals(exporter)
        exporter.run()


def _options_in_environment() -> Dict[str, str]:
    """Return the options of the tier that are in the environment: there nobody else sees them, unlike in arguments."""
    try:
        found = json.loads(os.environ.get("VINEYARD_TIER_OPTIONS") or "{}")
        if not isinstance(found, dict):
            raise ValueError
    except ValueError:
        raise ValueError("VINEYARD_TIER_OPTIONS is no JSON object: write one of texts.") from None
    return {str(key): str(value) for key, value in found.items()}


def _list(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        infos = list(client.list(labels=dict(arguments.label), deleted=arguments.deleted))
    if arguments.json:
        print(json.dumps([_as_json(info) for info in infos], indent=2))
        return
    header = ["ID", "SIZE", "OWN", "CREATED", "TYPE", "SUMMARY"]
    rows = [[i.ref.id, _bytes(i.size), _own(i), f"{i.created:%Y-%m-%d %H:%M:%S}", i.type, i.summary] for i in infos]
    _print_table([header, *rows])


def _show(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        info = client.info(arguments.id)
    if arguments.json:
        print(json.dumps(_as_json(info), indent=2))
        return
    rows = {
        "id": info.ref.id,
        "type": info.type,
        "summary": info.summary,
        "size": f"{_bytes(info.size)} ({info.size} bytes)" + _about_sharing(info),
        "created": f"{info.created:%Y-%m-%d %H:%M:%S} UTC",
        "host": info.host,
        "socket": info.socket,
        "endpoint": info.ref.endpoint or "none, its RPC is off",
        "token": info.ref.token,
        **{f"label {key}": value for key, value in sorted(info.labels.items())},
    }
    _print_pairs(rows)


def _gc(arguments: argparse.Namespace) -> None:
    with _client(arguments) as client:
        freed = client.collect(
            older_than=arguments.older_than,
            labels=dict(arguments.label),
            dry_run=arguments.dry_run,
            thorough=arguments.thorough,
        )
    if arguments.json:
        print(
            json.dumps(
                [{**_as_json(action.info), "reason": action.reason, "frees": action.frees} for action in freed],
                indent=2,
            )
        )
        return
    rows = [[a.info.ref.id, _bytes(a.info.size), _bytes(a.frees), a.reason, a.info.type, a.info.summary] for a in freed]
    if rows:
        _print_table([["ID", "SIZE", "FREES", "REASON", "TYPE", "SUMMARY"], *rows])
    # What they share with objects that stay, stays.
    total = _bytes(sum(action.frees for action in freed))
    print(f"{'Would free' if arguments.dry_run else 'Freed'} {len(freed)} objects, {total}.")


def _explain(arguments: argparse.Namespace) -> int:
    explanation = explain(_evaluated(arguments.value), allowed_classes=arguments.allow)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(explanation), indent=2))
    else:
        print("\n".join(map(_printable, str(explanation).splitlines())))
    return 0 if explanation.arrives else 3


def _evaluated(text: str) -> object:
    """Import a module from where Python finds it, or from here, and evaluate an expression in it."""
    module, separator, expression = text.partition(":")
    if not separator or not expression:
        raise ValueError(f"{text!r} names no value; write module:expression, such as mypkg.models:Order(5).")
    sys.path.insert(0, os.getcwd())
    try:
        names = vars(importlib.import_module(module))
    except ImportError as error:
        raise ValueError(f"{module} cannot be imported: {error}.") from error
    return eval(expression, names)


# ---- how things look


def _as_json(info: ObjectInfo) -> Dict[str, Any]:
    return {
        **info.ref.to_json(),
        "summary": info.summary,
        "labels": dict(info.labels),
        "created": info.created.isoformat(),
        "host": info.host,
        "socket": info.socket,
        "memory": info.memory,
    }


def _own(info: ObjectInfo) -> str:
    return "-" if info.memory is None else _bytes(info.memory)


def _about_sharing(info: ObjectInfo) -> str:
    if info.memory is None or info.memory >= info.size:
        return ""
    return f"; {info.memory} bytes are its own, the rest it shares with other objects"


def _bytes(number: float) -> str:
    if number < 1024:
        return f"{number:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        number /= 1024
        if number < 1024 or unit == "TiB":
            break
    return f"{number:.1f} {unit}"


def _print_pairs(rows: Dict[str, str]) -> None:
    _print_table([[name, value] for name, value in rows.items()])


def _printable(text: str) -> str:
    """Return a text in which what would move the cursor, or cannot be printed, is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _print_table(rows: List[List[str]]) -> None:
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


# ---- arguments


def _label(text: str) -> List[str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no label; write key=value")
    return [key, value]


def _age(text: str) -> timedelta:
    match = re.match(r"(\d{1,6}(?:\.\d+)?)([smhd])\Z", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write a number with s, m, h or d, such as 7d")
    return timedelta(seconds=float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]])


def _share(text: str) -> float:
    number, percent, rest = text.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of a disk; write one such as 10% or 0.1")
    return share


def _address(text: str) -> Tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is nowhere to listen; write PORT or HOST:PORT, such as 9601")
    return host.strip("[]"), int(port)


def _age_or_never(text: str) -> Optional[timedelta]:
    return None if text == "never" else _age(text)


def _size(text: str) -> int:
    try:
        return server.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vineyard-client", description="Run and look into a vineyard store.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"vineyard-client {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=_EPILOG)
        sub.add_argument("--socket", metavar="PATH", help="IPC socket of the server")
        sub.set_defaults(run=run)
        return sub

    serve = command("serve", _serve, "Run a server for this host, in the foreground unless --detach is given.")
    serve.add_argument("--size", type=_size, help="of the store, e.g. 2Gi; half of the memory there is by default")
    serve.add_argument("--reserve-memory", action="store_true", help="touch all of the memory at the start")
    serve.add_argument("--detach", action="store_true", help="return when it is ready; do nothing if one listens")
    serve.add_argument("vineyardd", nargs="*", metavar="-- OPTION", help="further options of vineyardd, after --")

    stop = command("stop", _stop, "End the server, after its agent has saved the rest; what no tier has is gone.")
    stop.add_argument("--discard", action="store_true", help="end it even if something cannot be saved")

    def query(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = command(name, run, text)
        sub.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for each call")
        sub.add_argument("--json", action="store_true", help="for programs")
        return sub

    query("status", _status, "Show how full the store is and who serves it.")
    agent = command(
        "agent", _agent, "Keep the store tidy; with a tier, save its values there and load them from there."
    )
    agent.add_argument("--tier", action="append", metavar="URL", help="path or URL; the first is written, others read")
    agent.add_argument(
        *("--tier-option",), type=_label, action="append", default=[], metavar="KEY=VALUE", help="of a bucket's store"
    )
    agent.add_argument("--spill", metavar="FOLDER", help="of notes and overflow, on a disk; by default SOCKET.tier")
    agent.add_argument("--reserve", type=_share, default=0.1, metavar="SHARE", help="of the disk that stays free, 10%%")
    agent.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for saving or loading a value")
    agent.add_argument("--sync", action="store_true", help="what is saved in a folder survives a power cut")
    agent.add_argument(
        *("--older-than",), type=_age_or_never, metavar="AGE", help="delete values of this age, such as 7d; or never"
    )
    agent.add_argument(
        *("--metrics",), type=_address, metavar="[HOST:]PORT", help="serve figures to Prometheus there; no password"
    )
    agent.add_argument("--with-server", action="store_true", help="end when the server has ended and all is saved")

    metrics = command("metrics", _metrics, "Print figures for Prometheus, or serve them; an agent serves them itself.")
    metrics.add_argument("--listen", type=_address, metavar="[HOST:]PORT", help="serve them there; no password")

    listing = query("list", _list, "List the objects in the store, oldest first; all others wait meanwhile.")
    listing.add_argument(
        "--label", type=_label, action="append", default=[], metavar="KEY=VALUE", help="only with this"
    )
    listing.add_argument("--deleted", action="store_true", help="deleted ones whose memory a reader still uses")
    query("show", _show, "Show one object.").add_argument("id", metavar="ID", help="an object id: o and 16 hex digits")

    gc = query("gc", _gc, "Free deleted values that nobody reads any more, and what killed writers left.")
    gc.add_argument("--older-than", type=_age, metavar="AGE", help="delete whole values of this age, too: 90m, 12h, 7d")
    gc.add_argument("--label", type=_label, action="append", default=[], metavar="KEY=VALUE", help="only with this")
    gc.add_argument("--dry-run", action="store_true", help="free nothing, only show what would be freed")
    gc.add_argument("--thorough", action="store_true", help="list the whole store, for which all others wait meanwhile")

    told = commands.add_parser(
        "explain",
        help="Say whether a value could be stored, and what to do if not.",
        description="Say whether a value could be stored, and what to do if not; no server is asked. Exit code 3: it "
        "would be refused.",
    )
    told.add_argument(
        "value", metavar="MODULE:EXPRESSION", help="an expression, evaluated in a module that is imported"
    )
    told.add_argument("--allow", action="append", default=[], metavar="PATTERN", help="as in allowed_classes")
    told.add_argument("--json", action="store_true", help="for programs")
    told.set_defaults(run=_explain)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (VineyardError, OSError, ValueError) as error:
        print(f"vineyard-client: {_printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # 128 and the number of SIGINT, as shells have it
    return code or 0
