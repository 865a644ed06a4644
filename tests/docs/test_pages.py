"""What the pages say is so: options, errors and their messages, tests and sessions that are named, the built site."""

from __future__ import annotations

import ast
import configparser
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

import pytest
import yaml
from vineyard_testing.markdown import ROOT, blocks, pages

import vineyard_client
from airflow_provider_vineyard.get_provider_info import CONFIG_SECTION, get_provider_info

try:
    import tomllib
except ImportError:  # before 3.11; pytest brings it there
    import tomli as tomllib

SITE = ROOT / "site"
TROUBLESHOOTING = "docs/troubleshooting.md"
OPTIONS = set(get_provider_info()["config"][CONFIG_SECTION]["options"])

# Errors of Airflow and Python that the provider raises with a message of its own.
BORROWED = {"AirflowConfigException", "ImportError"}

every_page = pytest.mark.parametrize("page", pages())


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# ---- blocks


def _ini(text: str) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    if parser.has_section(CONFIG_SECTION):
        assert set(parser.options(CONFIG_SECTION)) <= OPTIONS


PARSED: Dict[str, Callable[[str], Any]] = {
    "ini": _ini,
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
}


@every_page
def test_blocks(page: str) -> None:
    """A fenced block is of a language that is executed or parsed, or it is output."""
    for block in blocks(page):
        where = f"{page}:{block.line}"
        if block.language in PARSED:
            PARSED[block.language](block.text)
        elif block.language == "console":
            assert block.commands, f"{where}: no line has a prompt"
        else:
            assert block.language in ("python", "text"), f"{where}: write one of the languages of the convention"


# ---- names


@every_page
def test_options_exist(page: str) -> None:
    """Each option of ours that a page names is one."""
    text = text_of(page)
    named = {name.lower() for name in re.findall(r"AIRFLOW__VINEYARD__([A-Z_]*[A-Z])", text)} - {"name"}
    named |= set(re.findall(r"`\[vineyard\] ([a-z_]+)", text))
    assert named <= OPTIONS


@every_page
def test_named_tests_exist(page: str) -> None:
    """Each test that a page names as its witness is there."""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text_of(page)):
        assert (ROOT / path).is_file(), path
        assert not name or f"def {name}(" in text_of(path), f"{path}::{name}"


def _sessions() -> Dict[str, bool]:
    """Return the names of nox sessions, and whether they are for people: the others prepare what those require."""
    names, required = set(), set()
    for node in ast.parse(text_of("noxfile.py")).body:
        for decorator in map(ast.unparse, node.decorator_list if isinstance(node, ast.FunctionDef) else []):
            if decorator.startswith("nox.session"):
                name = re.search(r"\bname='([\w-]+)'", decorator)
                names.add(name[1] if name else node.name)
                required |= set(re.findall(r"'([\w-]+)'", (re.search(r"requires=\[(.*?)\]", decorator) or [""])[0]))
    assert required < names
    return {name: name not in required for name in names}


@every_page
def test_named_sessions_exist(page: str) -> None:
    """Each nox session that a page names is one."""
    assert set(re.findall(r"nox -s \"?([a-z][\w-]*)", text_of(page))) <= set(_sessions())


def test_contributing_names_every_session() -> None:
    """Each check is one command, and the page for contributors has them all."""
    named = set(re.findall(r"^\| `nox -s \"?([a-z][\w-]*)", text_of("CONTRIBUTING.md"), re.MULTILINE))
    assert named == {name for name, shown in _sessions().items() if shown}


# ---- errors


def _sections() -> Dict[str, List[str]]:
    """Return the messages that the page on troubleshooting has, by the error that they stand below."""
    found: Dict[str, List[str]] = {}
    for line in text_of(TROUBLESHOOTING).splitlines():
        heading = re.match(r"#{2,3} (.+)", line)
        if heading:
            found[heading[1]] = []
        message = re.match(r"\| `([^`]+)` \|", line)
        if message:
            found[list(found)[-1]].append(message[1])
    return found


def _texts() -> Iterator[str]:
    """Yield the texts in the sources of core and provider, with … in place of what is only known at run time."""
    for package in ("core", "provider"):
        for path in (ROOT / "packages" / package / "src").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield re.sub(r"%[sdr]|%\.1f", "…", node.value)
                elif isinstance(node, ast.JoinedStr):
                    text = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    yield text.replace("[…]", f"[{CONFIG_SECTION}]")


def _provider_errors() -> Set[str]:
    """Return the names of the exception classes that the provider defines; those of its page never leave that."""
    found = set()
    source = ROOT / "packages" / "provider" / "src"
    for path in set(source.rglob("*.py")) - set(source.glob("*/ui/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                re.search("(Error|Exception)$", ast.unparse(b)) for b in node.bases
            ):
                found.add(node.name)
    assert "DatabaseUnavailable" in found
    return found


def test_every_error_has_a_section() -> None:
    """Whoever has the name of a public error finds it; no section is left of one that is gone."""
    classes = set(vineyard_client.exceptions.__all__) | _provider_errors() | BORROWED
    named = {title for title in _sections() if re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z]+)+", title)}
    assert named == classes


def test_every_message_is_in_the_sources() -> None:
    """Whoever looks for a message by its words finds those that the code says."""
    texts = [_squeezed(text) for text in _texts()]
    messages = [message for section in _sections().values() for message in section]
    assert len(messages) > 40
    missing = [message for message in messages if not any(_squeezed(message) in text for text in texts)]
    assert not missing


def _squeezed(text: str) -> str:
    """Return a message without what may be written differently on the page: several placeholders, the last dots."""
    return re.sub(r"…(?:[ .]*…)*", "…", text).rstrip("… .")


# ---- the built site


class _Links(HTMLParser):
    """Collects what a page makes a browser load, without anybody clicking on anything."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: Set[str] = set()

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Any]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.add(values.get("href") or "")
        self.loaded.add(values.get("src") or "")


def built() -> List[Path]:
    found = sorted(SITE.rglob("*.html"))
    assert found, "there is no site/; run nox -s docs"
    return found


def test_nothing_is_loaded_from_elsewhere() -> None:
    """The site can be read without a network, and tells nobody that it is read."""
    for path in built():
        parser = _Links()
        parser.feed(path.read_text(encoding="utf-8"))
        assert not [found for found in parser.loaded if re.match(r"(https?:)?//", found)], path


def test_the_reference_has_every_option() -> None:
    """The configuration page is generated from what Airflow learns of the provider."""
    page = (SITE / "configuration.html").read_text(encoding="utf-8")
    assert all(f'<h2 id="{name}">' in page for name in OPTIONS)
