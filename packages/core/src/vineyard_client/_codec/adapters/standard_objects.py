"""Objects of Python's own modules that hold nothing but data: rebuilt empty, with their state, as ``trusted`` says.

No module is imported for this; a class is looked for where its name says when a value of it is read.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Tuple

from ..ops import MAKE
from ..parts import checked, damaged
from .common import by_attributes
from .trusted import Package

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

_PACKAGES = (
    Package("argparse", parts=" "),
    Package("calendar", parts=" "),
    Package("email", parts="message _policybase charset", functions="_policybase"),
    Package("textwrap", parts=" "),
)


def install(table: Table) -> None:
    """Declare these modules."""
    for package in _PACKAGES:
        package.install(table)


def install_statistics(table: Table) -> None:
    """Declare normal distributions."""
    statistics: Any = importlib.import_module("statistics")

    def make(reader: Reader, mean: Any, deviation: Any) -> Any:
        return statistics.NormalDist(checked(mean, int, float), checked(deviation, int, float))

    table.reducers[statistics.NormalDist] = by_attributes("statistics.NormalDist", "mean", "stdev")
    table.makers["statistics.NormalDist"] = make


# --- xml.etree --------------------------------------------------------------------------------------------------------


def _reduce_element(writer: Writer, element: Any) -> Tuple[Any, ...]:
    parts = element.tag, dict(element.attrib), element.text, element.tail, list(element)
    return MAKE, ("xml.Element", *parts)


def _make_element(reader: Reader, tag: Any, attributes: Any, text: Any, tail: Any, children: Any) -> Any:
    home: Any = importlib.import_module("xml.etree.ElementTree")
    element = home.Element(checked(tag, str), checked(attributes, dict))
    element.text, element.tail = checked(text, str, type(None)), checked(tail, str, type(None))
    for child in checked(children, list):
        if type(child) is not home.Element:
            raise damaged(f"a {type(child).__name__} is part of an element")
        element.append(child)
    return element


def _reduce_tree(writer: Writer, tree: Any) -> Tuple[Any, ...]:
    return MAKE, ("xml.ElementTree", tree.getroot())


def _make_tree(reader: Reader, root: Any) -> Any:
    home: Any = importlib.import_module("xml.etree.ElementTree")
    if root is not None and type(root) is not home.Element:
        raise damaged(f"a {type(root).__name__} is the root of a tree")
    return home.ElementTree(root)


def install_xml(table: Table) -> None:
    """Declare elements and trees, without comments and processing instructions, whose tags are functions."""
    home: Any = importlib.import_module("xml.etree.ElementTree")
    table.reducers.update({home.Element: _reduce_element, home.ElementTree: _reduce_tree})
    table.makers.update({"xml.Element": _make_element, "xml.ElementTree": _make_tree})
