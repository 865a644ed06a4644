"""Where the class of a name is found, for classes that nobody had to allow.

A class is looked for in the modules that this process has loaded. If its module is not loaded, it is imported, but only
from where Python or Airflow load code anyway, and only if it can be the one: the name is resolved to a file without
importing anything, below the folder of a package that is loaded, or below an entry of ``sys.path`` (installed
distributions, the bundle or folder of DAGs, plugins, the folder of the program), and that file's source has to define a
class of that name. So whoever can write to the store can have a module loaded that an administrator put there and that
defines such a class; not a program, a module of tests or an easter egg of Python's, not what lies in the folder where a
process happened to be started, and nothing that the store itself holds.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import types
from typing import Any, Iterator, List, MutableMapping, Sequence, Tuple
from weakref import WeakValueDictionary

from vineyard_client.exceptions import UnsafeType

__all__ = ["find", "is_same_place", "loaded", "place_of"]

# Airflow loads the file of a DAG under a name made of a hash of its path and its stem.
_DAG_FILE = re.compile(r"unusual_prefix_[0-9a-f]{8,}_(\w+)\Z")
# It may load such a file twice in one process (``dags test`` of a DAG that its database does not know), and then runs
# the tasks of the first time, whose module is not in ``sys.modules`` any more. A class that such a task has written is
# the one that the tasks of this process know under its name.
_in_use: MutableMapping[Tuple[str, str], type] = WeakValueDictionary()
# Parts of names of modules that are programs, tests, or run on import for their own sake.
_NOT_IMPORTED = frozenset(
    [
        *("__main__", "conftest", "setup", "test", "tests", "testing", "_testing"),
        *("antigravity", "idlelib", "lib2to3", "this", "turtledemo", "site", "sitecustomize", "usercustomize"),
        *("pip", "setuptools", "distutils", "_distutils_hack", "pkg_resources", "ensurepip", "venv"),
    ]
)


def place_of(cls: type) -> str | None:
    """Return the name under which the module of a class has it: its own, or another; None if it has it not."""
    module, qualname = cls.__module__, cls.__qualname__
    standing = _in_module(sys.modules.get(module), qualname)
    if standing is cls:
        _in_use.pop((module, qualname), None)
        return qualname
    if _DAG_FILE.match(module) and standing is not None and standing.__qualname__ == qualname:
        _in_use[module, qualname] = cls
        return qualname
    for name, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
        if value is cls and type(name) is str:
            return name
    return None


def loaded(module: str, qualname: str) -> Any:
    """Return what stands under a name in a module that is loaded, None if nothing does; no code of the module runs."""
    found = _in_use.get((module, qualname)) or _in_module(sys.modules.get(module), qualname)
    if found is None and module.startswith("unusual_prefix_"):
        found = _in_dag_file(module, qualname)
    return found


def find(module: str, qualname: str) -> Any:
    """Return what stands under a name, importing its module if that lies where code is loaded from anyway.

    Raises:
        UnsafeType: there is nothing of that name; the text says where it was looked for.
    """
    found = loaded(module, qualname)
    if found is None and module not in sys.modules:
        found = _imported(module, qualname)
    if found is None:
        raise _nowhere(module, qualname, f"the module {module} has no such class here")
    return found


def _in_module(module: Any, qualname: str) -> Any:
    found = module
    if not isinstance(module, types.ModuleType):
        return None
    # The name of a class that got arguments, ``Page[models.Item]``, has dots of its own.
    for part in [qualname] if "[" in qualname else qualname.split("."):
        # Past a __getattr__ of the module, which may import, and past metaclasses and descriptors.
        names = (
            object.__getattribute__(found, "__dict__") if found is module else type.__dict__["__dict__"].__get__(found)
        )
        found = names.get(part)
        if not isinstance(found, type):
            return None
    return found


def _in_dag_file(module: str, qualname: str) -> Any:
    """Find a class of a DAG's file that another host, or another version of the bundle, has at another path."""
    stem = _DAG_FILE.match(module)
    if stem is None:
        return None
    same = [name for name in list(sys.modules) if (other := _DAG_FILE.match(name)) and other[1] == stem[1]]
    return _in_module(sys.modules[same[0]], qualname) if len(same) == 1 else None


def is_same_place(module: str, other: str) -> bool:
    """Tell whether two names are those of one module, a DAG's file at different paths included."""
    if module == other:
        return True
    first, second = _DAG_FILE.match(module), _DAG_FILE.match(other)
    return first is not None and second is not None and first[1] == second[1]


def _imported(module: str, qualname: str) -> Any:
    if module == "__main__":
        raise _nowhere(
            module,
            qualname,
            "it is defined in the program that wrote it",
            "Move the class into a module that both programs import.",
        )
    if module.startswith("unusual_prefix_"):
        raise _nowhere(
            module,
            qualname,
            "it is defined in the file of a DAG that this process has not loaded",
            "Move the class into a module beside the DAG, and import it from there.",
        )
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise _nowhere(module, qualname, f"{module!r} is not the name of a module")
    if any(part in _NOT_IMPORTED or part.startswith("test_") or part.endswith("_test") for part in parts):
        raise _nowhere(module, qualname, f"the module {module} is not loaded, and no value has it imported", _IMPORT_IT)
    source = _source(parts)
    if source is None:
        raise _nowhere(
            module,
            qualname,
            f"there is no module {module} here that a value may have imported",
            f"Install what defines it, in the version that wrote the value, or import {module} before.",
        )
    if not _defines(source, qualname):
        raise _nowhere(module, qualname, f"the module {module} defines no such class here")
    importlib.import_module(module)
    return loaded(module, qualname)


_IMPORT_IT = "Import it where the value is read."


def _nowhere(module: str, qualname: str, why: str, hint: str = "") -> UnsafeType:
    name = f"{module}.{qualname}"
    return UnsafeType(
        f"{name} cannot be found here: {why}.",
        hint or "Install what defines it, in the version that wrote the value, where it is read.",
        name,
    )


def _source(parts: Sequence[str]) -> str | None:
    """Return the source of a module that may be imported, found without importing anything."""
    from importlib.machinery import PathFinder

    places: List[str] | None = None
    for depth in range(len(parts), 0, -1):
        parent = sys.modules.get(".".join(parts[:depth]))
        if parent is not None:
            if depth == len(parts) or not hasattr(parent, "__path__"):
                return None
            places = [str(place) for place in parent.__path__]
            parts, known = parts[depth:], list(parts[:depth])
            break
    else:
        places, known = list(_folders()), []
    spec = None
    for position, part in enumerate(parts):
        name = ".".join([*known, *parts[: position + 1]])
        spec = PathFinder.find_spec(name, places)
        if spec is None and not known and not position:
            spec = _editable(part)
        if spec is None:
            return None
        places = [str(place) for place in spec.submodule_search_locations or ()]
    get_source = getattr(spec.loader, "get_source", None) if spec is not None else None
    if spec is None or get_source is None or spec.origin is None:
        return None
    source: str | None = get_source(spec.name)
    return source


def _folders() -> Iterator[str]:
    """Return the entries of ``sys.path`` but the folder in which the process happened to be started."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    own = os.path.dirname(os.path.realpath(program)) if program else None
    given = [os.path.realpath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    started_in = os.path.realpath(os.curdir)
    for entry in sys.path:
        if isinstance(entry, str) and os.path.isabs(entry):
            place = os.path.realpath(entry)
            if place != started_in or place == own or place in given:
                yield entry


def _editable(name: str) -> Any:
    """Ask the finders that pip leaves for packages installed in place; they only look into a table."""
    for finder in sys.meta_path:
        if str(getattr(finder, "__module__", "")).startswith("__editable__"):
            spec = finder.find_spec(name, None)
            if spec is not None:
                return spec
    return None


def _defines(source: str, qualname: str) -> bool:
    """Tell whether a module's source binds the name of a class: by ``class``, by a call, or by importing it."""
    import ast

    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return False
    first = qualname.partition(".")[0]
    waiting: List[Any] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef):
            if node.name == first:
                return True
        elif isinstance(node, ast.Assign):
            if isinstance(node.value, ast.Call) and any(
                getattr(target, "id", None) == first for target in node.targets
            ):
                return True
        elif isinstance(node, ast.ImportFrom):
            if any((alias.asname or alias.name) == first for alias in node.names):
                return True
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            for part in ("body", "orelse", "finalbody"):
                waiting += getattr(node, part, [])
            for handler in getattr(node, "handlers", []):
                waiting += handler.body
    return False
