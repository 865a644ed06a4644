"""Who may import whom, read from the source: nothing is imported here.

The rules are those of the architecture: distributions import in one direction and only public names; inside of core
each layer knows only those above it; what costs time or may be missing is imported where it is used.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

import pytest

PACKAGES = Path(__file__).parents[1] / "packages"
CORE = PACKAGES / "core" / "src" / "vineyard_client"
PROVIDER = PACKAGES / "provider" / "src"
DEPLOY = PACKAGES / "deploy" / "src"

# Core's layers. A module may import those that stand before its own line, and none that stand on or behind it.
LAYERS: List[Set[str]] = [
    {"exceptions", "_version", "_forks"},
    {"ids"},
    {"reference"},
    {"_wire", "_io", "_codec"},
    {"_store"},
    {"_native", "_hosts", "_tiers", "_server"},
    {"_calls", "encoded", "explanation"},
    {"client", "peer", "_agent"},
    {"server"},
    {"cli", "handover"},
    {"__init__", "__main__"},
]

# Where more is forbidden than the order says: all that these may import of core.
ONLY: Dict[str, Set[str]] = {
    "ids": {"exceptions"},
    "reference": {"exceptions", "ids"},
    "_wire": {"exceptions", "ids"},
    "_io": {"exceptions", "_forks"},
    "_codec": {"exceptions", "_forks"},
    "encoded": {"_codec"},
    "explanation": {"_codec"},
    "_store": {"exceptions", "_forks", "ids", "reference", "_wire", "_io"},
    "_tiers": {"exceptions", "ids", "_io"},
    "_calls": {"exceptions", "ids", "reference", "_wire", "_io", "_codec", "_store", "_native", "_hosts", "_tiers"},
}

# What a layer that does no I/O, or knows no messages, has no use for.
FORBIDDEN: Dict[str, Set[str]] = {
    "_wire": {"socket", "os", "mmap", "time", "threading", "logging", "select", "subprocess"},
    "_io": {"json", "pickle"},
    "_codec": {"socket", "mmap", "subprocess", "logging"},
}

# The same for single files: what is decided there is decided without looking.
FORBIDDEN_IN_FILES: Dict[str, Set[str]] = {
    "_store/collect.py": {"os", "socket", "time", "threading"},
}

MOST_LINES = 600


class Import(NamedTuple):
    """One imported module: where, its absolute name, the names taken from it, and whether it is done on import."""

    where: str
    module: str
    names: Tuple[str, ...]
    at_module_level: bool


def sources(folder: Path) -> List[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"there is no source in {folder}"
    return found


def imports(path: Path, root: Path) -> Iterator[Import]:
    """Yield the imports of a file; ``root`` is the folder of its top-level package's parent."""
    package = list(path.relative_to(root).parts[:-1])
    for node, at_module_level in _walk(ast.parse(path.read_text(encoding="utf-8")), True):
        where = f"{path.relative_to(root)}:{node.lineno}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(where, alias.name, (), at_module_level)
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        yield Import(where, module, tuple(alias.name for alias in node.names), at_module_level)


def _walk(node: ast.AST, at_module_level: bool) -> Iterator[Tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, at_module_level
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _walk(child, False)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for part in child.body:
                yield from _walk(ast.Module([part], []), False)
            for part in child.orelse:
                yield from _walk(ast.Module([part], []), at_module_level)
        else:
            yield from _walk(child, at_module_level)


def part_of(path: Path) -> str:
    """Return the module or subpackage of core that a file belongs to."""
    return path.relative_to(CORE).parts[0].replace(".py", "")


def core_parts(found: Import) -> Set[str]:
    """Return the modules and subpackages of core that an import names."""
    first, _, rest = found.module.partition(".")
    if first != "vineyard_client":
        return set()
    return {rest.partition(".")[0]} if rest else set(found.names) or {"__init__"}


CORE_FILES = sources(CORE)
core_files = pytest.mark.parametrize("path", CORE_FILES, ids=[str(path.relative_to(CORE)) for path in CORE_FILES])


def rows_on_the_page(heading: str) -> List[Set[str]]:
    """Return the names in the first column of a table in docs/architecture.md."""
    text = (PACKAGES.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


def test_the_page_shows_these_layers() -> None:
    """The table of core's layers has those above, in their order."""
    assert rows_on_the_page("Core, by layer") == LAYERS


def test_the_page_shows_the_provider() -> None:
    """The table of the provider's modules has each of them, and no other."""
    folder = PROVIDER / "airflow_provider_vineyard"
    parts = {path.relative_to(folder).parts[0].replace(".py", "") for path in sources(folder)}
    assert set().union(*rows_on_the_page("The provider")) == parts - {"__init__", "_version"}


def test_every_module_has_a_layer() -> None:
    """A new module must say where it belongs; one that went away leaves no rule behind."""
    assert {part_of(path) for path in CORE_FILES} == set().union(*LAYERS)


@core_files
def test_layers(path: Path) -> None:
    """Each module of core imports only what stands above it."""
    part = part_of(path)
    above: Set[str] = set()
    for layer in LAYERS:
        if part in layer:
            break
        above |= layer
    allowed = ONLY.get(part, above) | {part}
    for found in imports(path, CORE.parent):
        assert core_parts(found) <= allowed, f"{found.where} imports {found.module} {found.names}"


def modules_of(found: Import, known: Dict[str, Path]) -> Set[str]:
    """Return those of the known modules that an import names; of a package, only what is taken from it."""
    named = {f"{found.module}.{name}" for name in found.names}
    return named & known.keys() or {found.module} & known.keys()


def test_no_circles_in_the_codec() -> None:
    """No module of the codec imports one that imports it back, through others or for its types only."""
    paths = {
        ".".join(path.relative_to(CORE.parent).with_suffix("").parts).replace(".__init__", ""): path
        for path in sources(CORE / "_codec")
    }
    below = {
        name: set().union(*[modules_of(found, paths) for found in imports(path, CORE.parent)])
        for name, path in paths.items()
    }
    while below:
        lowest = {name for name, imported in below.items() if not imported & below.keys()}
        assert lowest, f"these import each other: {below}"
        below = {name: imported for name, imported in below.items() if name not in lowest}


@core_files
def test_standard_library_only(path: Path) -> None:
    """Importing core imports nothing but Python itself; data libraries are imported in functions."""
    if not hasattr(sys, "stdlib_module_names"):
        pytest.skip("before 3.10 Python does not say what belongs to it")
    for found in imports(path, CORE.parent):
        top = found.module.partition(".")[0]
        assert not found.at_module_level or top == "vineyard_client" or top in sys.stdlib_module_names, found.where


@core_files
def test_what_a_layer_has_no_use_for(path: Path) -> None:
    """The protocol does no I/O, streams know no messages, and nobody in core knows Airflow."""
    forbidden = FORBIDDEN.get(part_of(path), set()) | FORBIDDEN_IN_FILES.get(path.relative_to(CORE).as_posix(), set())
    forbidden |= {
        "airflow",
        "airflow_provider_vineyard",
        "airflow_vineyard_deploy",
    }
    for found in imports(path, CORE.parent):
        assert found.module.partition(".")[0] not in forbidden, f"{found.where} imports {found.module}"


def public_names() -> Set[str]:
    """Return core's ``__all__``."""
    for node in ast.parse((CORE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError("core has no __all__")


@pytest.mark.parametrize("path", sources(PROVIDER), ids=lambda path: str(path.relative_to(PROVIDER)))
def test_provider_uses_public_names(path: Path) -> None:
    """The provider uses what core exports, and nothing of deploy."""
    public = public_names()
    aliases = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for found in imports(path, PROVIDER):
        top = found.module.partition(".")[0]
        assert top != "airflow_vineyard_deploy", found.where
        if top == "vineyard_client":
            assert found.module == "vineyard_client", f"{found.where} imports {found.module}"
            assert set(found.names) <= public, f"{found.where} imports {set(found.names) - public}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name == "vineyard_client"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            assert node.attr in public, f"{path.name}:{node.lineno} uses vineyard_client.{node.attr}"


@pytest.mark.parametrize("path", sources(DEPLOY), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_deploy_stands_alone(path: Path) -> None:
    """Deploy imports neither of the others, nor Airflow."""
    for found in imports(path, DEPLOY):
        top = found.module.partition(".")[0]
        assert top not in ("vineyard_client", "airflow_provider_vineyard", "airflow", "vineyard"), found.where


ALL_FILES = [path for folder in (CORE, PROVIDER, DEPLOY) for path in sources(folder)]


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(PACKAGES)))
def test_modules_are_small_and_say_what_they_are(path: Path) -> None:
    """A module has a docstring, the future's annotations if it has any code, and at most so many lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= MOST_LINES, f"{path} has {lines} lines: split it"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path} does not say what it is"
    defines = any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(tree))
    assert not defines or "from __future__ import annotations" in text
