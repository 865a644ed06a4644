"""How values of known types are taken apart and put together, one module per library.

An adapter module declares, in ``install(table)``:

* reducers: ``reducer(writer, value)`` returns what pickle's ``__reduce__`` returns, with an operation of ``ops`` in
  front: usually ``(MAKE, ("library.Type", *parts))``. Found by the exact type, by a base class for subclasses, or by
  the package for all other types of it (a family), so that loading an adapter need not look every class up.
* makers: ``maker(reader, *parts)`` checks the parts and returns the value. Parts come from the stored bytes and may be
  anything: a maker never calls what it is given, and never builds from a number that it has not checked.
* fillers: ``filler(reader, value, state)`` completes a value that may contain itself.
* values: classes that may appear as values themselves, because calling them with anything does no harm.

Modules are loaded when the first value of their library comes by, in either direction: importing this package imports
no library, and a value brings in none that it does not come from. A module holds its library in a global that
``install`` sets.

The names of makers are part of the stored format. They are ours, not the libraries': a library may move its classes,
and a stream that names only our makers can reach nothing else.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, Set, Tuple

from vineyard_client.exceptions import UnsupportedVersion

if TYPE_CHECKING:
    from ..reader import Reader
    from ..writer import Writer

__all__ = ["Filler", "Maker", "Reducer", "Table", "table"]

Reducer = Callable[["Writer", Any], Tuple[Any, ...]]
Maker = Callable[..., Any]
Filler = Callable[["Reader", Any, Any], None]

# Top-level package of a type, or first part of a maker's name -> the adapter module that knows it.
_MODULES: Dict[str, Tuple[str, str]] = {
    "array": ("standard_library", "install_array"),
    "datetime": ("standard_library", "install_datetime"),
    "decimal": ("standard_library", "install_numbers"),
    "fractions": ("standard_library", "install_numbers"),
    "ipaddress": ("standard_library", "install_ipaddress"),
    "pathlib": ("standard_library", "install_pathlib"),
    "random": ("standard_library", "install_random"),
    "time": ("standard_library", "install_time"),
    "uuid": ("standard_library", "install_uuid"),
    "zoneinfo": ("standard_library", "install_zoneinfo"),
    "numpy": ("numpy_arrays", "install"),
    "pandas": ("pandas_objects", "install"),
    "pyarrow": ("arrow_data", "install"),
    "polars": ("polars_frames", "install"),
    "scipy": ("scipy_sparse", "install"),
    "torch": ("torch_tensors", "install"),
    "xarray": ("xarray_objects", "install"),
    "pytz": ("time_zones", "install_pytz"),
    "dateutil": ("time_zones", "install_dateutil"),
    "pendulum": ("time_zones", "install_pendulum"),
}


class Table:
    """Everything that the loaded adapters declared; there is one for the process."""

    def __init__(self) -> None:
        self.reducers: Dict[type, Reducer] = {}
        self.bases: Dict[type, Reducer] = {}
        self.families: Dict[str, Reducer] = {}
        self.makers: Dict[str, Maker] = {}
        self.fillers: Dict[str, Filler] = {}
        self.values: Dict[type, str] = {}
        self.named: Dict[str, type] = {}
        self._loaded: Set[str] = set()
        self._lock = threading.RLock()

    def value(self, name: str, cls: type) -> None:
        """Let a class be stored as a value under a name of ours."""
        self.values[cls] = name
        self.named[name] = cls

    def load(self, package: str) -> bool:
        """Load the adapter of a package; return whether there is one.

        Raises:
            UnsupportedVersion: the package is not installed, or in a version that the adapter does not know.
        """
        row = _MODULES.get(package)
        if row is None:
            return False
        if package not in self._loaded:
            with self._lock:
                if package not in self._loaded:
                    module, function = row
                    self._install(package, module, function)
                    self._loaded.add(package)
        return True

    def load_present(self) -> None:
        """Load the adapters of all packages that this process has imported already."""
        for package in _MODULES:
            if package in sys.modules:
                try:
                    self.load(package)
                except UnsupportedVersion:
                    continue  # to be said when a value of it comes by, which may never happen

    def _install(self, package: str, module: str, function: str) -> None:
        adapter = importlib.import_module(f"{__name__}.{module}")
        try:
            getattr(adapter, function)(self)
        except (ImportError, AttributeError) as exc:
            raise UnsupportedVersion(
                f"Values of {package} cannot be stored or read here: it is not installed, or in a version that this "
                f"release does not know ({type(exc).__name__}: {exc}).",
                f"Install {package} where the value is read, in the version that wrote it.",
            ) from exc


table = Table()


def _install_builtin() -> None:
    from . import builtin_types

    builtin_types.install(table)


_install_builtin()
