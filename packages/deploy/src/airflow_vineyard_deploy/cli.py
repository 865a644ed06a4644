"""Command line: ``airflow-vineyard-deploy`` or ``python -m airflow_vineyard_deploy``.

Results go to standard output, errors to standard error. Exit codes: 0 done, 1 it failed or something was found that
would, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from ._version import __version__
from .assets import ASSETS, AssetError, names, render, write
from .check import problems
from .settings import SETTINGS, Settings, WrongSetting

__all__ = ["main"]


def _settings(given: Sequence[str]) -> Settings:
    pairs: Dict[str, str] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator:
            raise WrongSetting(f"--set {text}: write key=value.")
        if key in pairs:
            raise WrongSetting(f"--set {key} is given twice.")
        pairs[key] = value
    return Settings(pairs)


def _list(arguments: argparse.Namespace) -> int:
    rows = [[name, text] for name, text in ASSETS.items()]
    print("Assets, to show or write:")
    _print_table(rows)
    print("\nSettings, for --set:")
    _print_table([[key, setting.default or "(none)", setting.meaning] for key, setting in SETTINGS.items()])
    return 0


def _print_table(rows: List[List[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


def _show(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments.set)
    found = names(arguments.name)
    if len(found) > 1:
        raise AssetError(f"{arguments.name} is a folder; show one of {', '.join(found)}.")
    sys.stdout.write(render(found[0], settings))
    return 0


def _write(arguments: argparse.Namespace) -> int:
    for path in write(arguments.name, arguments.dir, _settings(arguments.set), force=arguments.force):
        print(path)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    found = problems(arguments.dir)
    for problem in found:
        print(f"- {problem}")
    if found:
        return 1
    print("Nothing speaks against starting it.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "airflow-vineyard-deploy", description="Deployment assets for Airflow with vineyard as its XCom backend."
    )
    parser.add_argument("--version", action="version", version=f"airflow-vineyard-deploy {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def with_settings(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("name", metavar="NAME", help="an asset, such as docker/Dockerfile; see list")
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; see list")

    command("list", _list, "List the assets and the settings.")
    with_settings(command("show", _show, "Print an asset."))
    writing = command("write", _write, "Write an asset, or all those of a folder, into a folder.")
    with_settings(writing)
    writing.add_argument("dir", type=Path, metavar="DIR", help="the folder, made if need be")
    writing.add_argument("--force", action="store_true", help="overwrite files that are there")
    checking = command("check", _check, "Look for what would keep a Compose project from starting; start nothing.")
    checking.add_argument(
        "dir", type=Path, nargs="?", default=Path(), metavar="DIR", help="its folder; by default here"
    )
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except (AssetError, WrongSetting) as error:
        print(f"airflow-vineyard-deploy: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"airflow-vineyard-deploy: {error}", file=sys.stderr)
        return 1
    return status
