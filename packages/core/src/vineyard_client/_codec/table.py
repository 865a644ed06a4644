"""What the adapters declare of the types they know, found by type while writing and by name while reading.

* reducers: ``reducer(writer, value)`` returns what pickle's ``__reduce__`` returns, with an operation of ``ops`` in
  front: usually ``(MAKE, ("library.Type", *parts))``. Found by the exact type, by a base class for subclasses, or by
  the package for all other types of it (a family), so that loading an adapter need not look every class up.
* makers: ``maker(reader, *parts)`` checks the parts and returns the value. Parts come from the stored bytes and may be
  anything: a maker never calls what it is given, and never builds from a number that it has not checked.
* fillers: ``filler(reader, value, state)`` completes a value that may contain itself: one that a maker of the same
  adapter made in the same stream, and once. A maker whose values must not be used before that says so.
* values: classes that may appear as values themselves, because calling them with anything does no harm.

The table knows no adapter: ``adapters`` says which there are, and each is loaded when the first value of its library
comes by, in either direction.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Callable, Dict, FrozenSet, Set, Tuple

from vineyard_client._forks import importing
from vineyard_client.exceptions import UnsupportedVersion

from .outside import from_outside

__all__ = ["Filler", "Maker", "Reducer", "Table", "table"]

# What they are given first is a ``writer.Writer`` or a ``reader.Reader``, which stand above and use this table.
Reducer = Callable[[Any, Any], Tuple[Any, ...]]
Maker = Callable[..., Any]
Filler = Callable[[Any, Any, Any], None]


class Table:
    """Everything that the loaded adapters declared; there is one for the process."""

    def __init__(self) -> None:
        # Top-level package of a type, or first part of a maker's name -> the adapter module that knows it, and which
        # function of that declares it.
        self.adapters: Dict[str, Tuple[str, str]] = {}
        self.reducers: Dict[type, Reducer] = {}
        self.bases: Dict[type, Reducer] = {}
        self.families: Dict[str, Reducer] = {}
        # What other packages declared, see ``adapters.declared``: names of types; full name of a class -> how its
        # objects are written, and what makes plain data of them.
        self.declared: Set[str] = set()
        self.by_name: Dict[str, Tuple[Reducer, Callable[[Any], Tuple[Any, ...]]]] = {}
        # Packages whose family knows their passive classes, too.
        self.whole: Set[str] = set()
        self.makers: Dict[str, Maker] = {}
        self.fillers: Dict[str, Filler] = {}
        # Fillers that keep any objects, also those whose classes have methods, and ask nothing of them.
        self.holders: Set[str] = set()
        # A maker's name -> the fillers that may complete what it makes, and whether one of them must.
        self.unfinished: Dict[str, Tuple[FrozenSet[str], bool]] = {}
        # How objects of passive classes are written, see ``passive``.
        self.passive: Reducer | None = None
        # Top-level package -> how its classes and functions are written as values, None if one may not be.
        self.namers: Dict[str, Callable[[Any], Tuple[Any, ...] | None]] = {}
        self.values: Dict[type, str] = {}
        self.named: Dict[str, type] = {}
        self._loaded: Set[str] = set()

    def value(self, name: str, cls: type) -> None:
        """Let a class be stored as a value under a name of ours."""
        self.values[cls] = name
        self.named[name] = cls

    def filler(self, name: str, fill: Filler, *makers: str, must: bool = True, holds: bool = False) -> None:
        """Declare a filler.

        Args:
            name: what it is called in the stream.
            fill: completes a value.
            makers: names of the makers whose values it completes.
            must: whether they are damaged unless it, or another filler of theirs, does.
            holds: whether it keeps what is in the content, or in a tuple that is the content, and asks nothing of it.
        """
        self.fillers[name] = fill
        if holds:
            self.holders.add(name)
        for maker in makers:
            self.unfinished[maker] = self.unfinished.get(maker, (frozenset(), must))[0] | {name}, must

    def load(self, package: str) -> bool:
        """Load the adapter of a package; return whether there is one.

        Raises:
            UnsupportedVersion: the package is not installed, or in a version that the adapter does not know.
        """
        row = self.adapters.get(package)
        if row is None:
            return False
        if package not in self._loaded:
            with importing:
                if package not in self._loaded:
                    module, function = row
                    self._install(package, module, function)
                    self._loaded.add(package)
        return True

    def load_present(self) -> None:
        """Load the adapters of all packages that this process has imported already."""
        for package in self.adapters:
            if package in sys.modules:
                try:
                    self.load(package)
                except UnsupportedVersion:
                    continue  # to be said when a value of it comes by, which may never happen

    def _install(self, package: str, module: str, function: str) -> None:
        adapter = importlib.import_module(module)
        try:
            getattr(adapter, function)(self)
        except (ImportError, AttributeError) as exc:
            if from_outside(exc):
                raise
            raise UnsupportedVersion(
                f"Values of {package} cannot be stored or read here: it is not installed, or in a version that this "
                f"release does not know ({type(exc).__name__}: {exc}).",
                f"Install {package} where the value is read, in the version that wrote it.",
            ) from exc


table = Table()
