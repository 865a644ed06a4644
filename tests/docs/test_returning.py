"""The page on what may be returned says what the codec's tables say."""

from __future__ import annotations

import re
import runpy
from typing import Dict, Tuple

from vineyard_testing.markdown import ROOT

MAKER = runpy.run_path(str(ROOT / "docs" / "returning.py"))
PAGE = (ROOT / "docs" / "returning.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_codec() -> None:
    """A type, a remedy or a library that came or went is on the page: run ``python docs/returning.py``."""
    assert MAKER["renewed"](PAGE) == PAGE


def test_the_oldest_releases_are_those_that_are_tested() -> None:
    """The page names the releases that the sessions with the oldest libraries hold, and those that adapters name."""
    named: Dict[str, str] = {name: releases.split(" – ")[0] for name, releases, _ in MAKER["LIBRARIES"].values()}
    pinned = re.findall(r'^(\w+)==([\d.]+); python_version == "3.8"$', _text("requirements/oldest.in"), re.MULTILINE)
    assert len(pinned) > 4
    for name, version in pinned:
        assert f"{version}.".startswith(f"{named[name]}."), name
    adapters = ROOT / "packages/core/src/vineyard_client/_codec/adapters"
    ranges = {name: releases for name, releases, _ in MAKER["LIBRARIES"].values()}
    said: Dict[str, Tuple[str, str]] = {}
    for path in adapters.glob("*.py"):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        for name, oldest, newest in re.findall(r"([\w-]+)(?:'s \w+ \w+)? \(([\d.]+) - ([\d.]+)\)", first):
            said[name] = oldest, newest
    assert len(said) > 8
    for name, (oldest, newest) in said.items():
        assert ranges.get(name, f"{oldest} – {newest}") == f"{oldest} – {newest}", name


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
