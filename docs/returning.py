"""Renew the tables of returning.md from what the codec has: ``python docs/returning.py``.

A table stands between two marks on the page, and is made of the codec's own tables: which packages it has adapters for,
which types those declare, what it advises where nothing helps, what is never stored. What people call a library's
values is said here, by package; a package without a row here, or a row without a package, is an error. A test compares
the page with what this makes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "returning.md"

# Package -> its name, the releases that were tried, the oldest and the newest, and what of it arrives.
LIBRARIES: Dict[str, Tuple[str, str, str]] = {
    "numpy": (
        "numpy",
        "1.17 – 2.5",
        "arrays of every type, shape and order, masked arrays, matrices, records, scalars, types, random generators "
        "with their state, polynomials, results with names. A `numpy.memmap` arrives as an `ndarray` with the same "
        "content: the file that it shows is the writer's",
    ),
    "pandas": (
        "pandas",
        "1.1 – 3.1",
        "frames and series with their attributes, every index and extension type, times, periods, intervals, offsets",
    ),
    "pyarrow": ("pyarrow", "6 – 26", "tables, batches, arrays, scalars, buffers, tensors, types, schemas"),
    "polars": ("polars", "1.8 – 2.1", "frames, series, types; a lazy frame that is nothing but a frame"),
    "scipy": (
        "scipy",
        "1.5 – 1.18",
        "sparse matrices and arrays, results with names, splines, distributions, rotations, spatial structures",
    ),
    "xarray": (
        "xarray",
        "0.16 – 2026.9",
        "datasets, arrays, variables, trees; what was opened from a file after `.load()`",
    ),
    "sklearn": (
        "scikit-learn",
        "0.24 – 1.9",
        "all estimators, fitted or not, pipelines, searches, splitters, scorers, kernels",
    ),
    "statsmodels": ("statsmodels", "0.13 – 0.15", "fitted models and their results, those of formulas as well"),
    "lightgbm": ("lightgbm", "3.0 – 4.7", "boosters, and their wrappers for scikit-learn"),
    "xgboost": ("xgboost", "1.6 – 3.4", "boosters, and their wrappers for scikit-learn"),
    "torch": ("torch", "2.13", "strided tensors in main memory"),
    "networkx": ("networkx", "2.5 – 3.7", "graphs of all four kinds, and their views"),
    "PIL": ("Pillow", "8 – 13", "images of every mode"),
    "shapely": ("shapely", "1.8 – 2.2", "geometries"),
    "pyproj": ("pyproj", "3.0 – 3.8", "reference systems"),
    "geopandas": ("geopandas", "0.10 – 1.2", "frames and series of geometries, with their reference systems"),
    "sympy": ("sympy", "1.6 – 1.14", "expressions and matrices"),
    "pint": ("pint", "0.17 – 0.26", "quantities and units, in the application's registry"),
    "pydantic": ("pydantic", "1.8 – 2.14", "URLs, secrets, colours, addresses; models are passive classes, see below"),
    "pytz": ("pytz", "2026.6", "zones"),
    "dateutil": ("dateutil", "3.0 – 4.0", "zones, `relativedelta`, rules of recurrence"),
    "pendulum": ("pendulum", "2.1 – 3.3", "dates, times, intervals, zones"),
}
_PART_OF_ANOTHER = {"pydantic_core": "pydantic"}
# Adapters whose name is not that of a package, or of one whose types stand elsewhere.
_ASIDE = {"builtins", "passive", "_io"}


def _load() -> None:
    for package in ("core", "provider"):
        sys.path.insert(0, str(ROOT / "packages" / package / "src"))


def libraries() -> str:
    """Return the table of libraries that the codec has an adapter for."""
    from vineyard_client._codec import policy
    from vineyard_client._codec.adapters import MODULES

    known = {name for name in MODULES if name not in _ASIDE and not policy.is_standard(name)}
    assert known - set(_PART_OF_ANOTHER) == set(LIBRARIES), known ^ set(LIBRARIES)
    rows = [f"| {name} | {releases} | {what} |" for name, releases, what in LIBRARIES.values()]
    return "\n".join(["| library | releases | what arrives |", "|---|---|---|", *rows])


def standard() -> str:
    """Return the types of Python's standard library that the codec declares, by module."""
    from vineyard_client._codec import policy
    from vineyard_client._codec.adapters import MODULES, table

    for package in MODULES:
        if policy.is_standard(package):
            table.load(package)
    found: Dict[str, List[str]] = {}
    for cls in (*table.reducers, *table.bases):
        module = cls.__module__.partition(".")[0].lstrip("_")
        if policy.is_standard(module) and module != "builtins":
            found.setdefault(module, []).append(f"`{cls.__name__}`")
    rows = [f"| `{module}` | {', '.join(sorted(names))} |" for module, names in sorted(found.items())]
    return "\n".join(["| module | types |", "|---|---|", *rows])


def airflow() -> str:
    """Return the names of Airflow's classes that need no permission, by what they are."""
    from airflow_provider_vineyard.settings import AIRFLOW_CLASSES

    names = {name.rpartition(".")[2] for name in AIRFLOW_CLASSES if name.startswith("airflow.")}
    return ", ".join(f"`{name}`" for name in sorted({*names, "ObjectStoragePath", "ObjectStore"}))


def remedies() -> str:
    """Return what is never stored, and what to return instead, in the words of the refusal."""
    from vineyard_client._codec.remedies import BY_NAME, advice

    def instead(value: Any) -> str:
        text = advice(value)
        assert text, value
        return text

    async def coroutine() -> None: ...

    async def generator() -> Any:
        yield

    waiting, giving = coroutine(), generator()
    kinds = [
        ("a generator, `map`, `filter`, `zip`, `enumerate`, any iterator", instead(iter([]))),
        ("the keys, values or items of a dict", instead({}.keys())),
        ("a lambda, or a function defined in a function", instead(lambda: None)),
        ("a bound method", instead([].append)),
        ("a module", instead(sys)),
        ("a coroutine", instead(waiting)),
        ("an asynchronous generator", instead(giving)),
        ("a frame, traceback or code object", instead(sys._getframe())),
    ]
    waiting.close()
    by_advice: Dict[str, List[str]] = {}
    for name, text in BY_NAME.items():
        if name.startswith("builtins."):  # what old releases of Python call a type that stands there already
            continue
        by_advice.setdefault(text, []).append(_shown(name))
    kinds += [(", ".join(dict.fromkeys(names)), text) for text, names in by_advice.items()]
    rows = [f"| {what} | {text} |" for what, text in kinds]
    return "\n".join(["| what | what to do |", "|---|---|", *rows])


# Names that people know better than those that types have.
_KNOWN_AS = {
    "_thread.lock": "threading.Lock",
    "_thread.RLock": "threading.RLock",
    "tempfile._TemporaryFileWrapper": "tempfile.NamedTemporaryFile",
    "concurrent.Future": "concurrent.futures.Future",
}


def _shown(name: str) -> str:
    return "an open file" if name == "io._IOBase" else f"`{_KNOWN_AS.get(name, name)}`"


def never() -> str:
    """Return the modules whose classes and functions no pattern allows."""
    from vineyard_client._codec.policy import NEVER

    return ", ".join(f"`{name}`" for name in sorted(NEVER) if not name.startswith("_"))


TABLES: Dict[str, Callable[[], str]] = {
    "libraries": libraries,
    "standard": standard,
    "airflow": airflow,
    "remedies": remedies,
    "never": never,
}
_MARKED = re.compile(r"(<!-- made by docs/returning.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """Return the page with its tables as they are now."""
    _load()
    seen: List[str] = re.findall(r"<!-- made by docs/returning.py: (\w+) -->", text)
    assert sorted(seen) == sorted(TABLES), f"the page has {seen}"
    return _MARKED.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
