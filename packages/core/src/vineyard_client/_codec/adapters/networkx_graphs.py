"""networkx (2.5 - 3.7): graphs of all four kinds, with what is in nodes, edges and the graph, and their views.

Graphs are dicts of dicts in plain Python objects, rebuilt as ``trusted`` says. Views refer to the dicts of their graph;
their ``__setstate__`` does no more than to keep these.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .trusted import Package

if TYPE_CHECKING:
    from ..table import Table

_VIEWS = (
    "coreviews.AtlasView coreviews.UnionAdjacency coreviews.UnionAtlas coreviews.AdjacencyView reportviews.NodeView "
    "coreviews.MultiAdjacencyView coreviews.UnionMultiInner coreviews.UnionMultiAdjacency coreviews.FilterAtlas "
    "reportviews.NodeDataView reportviews.OutEdgeDataView reportviews.OutMultiEdgeDataView reportviews.OutEdgeView "
    "reportviews.EdgeView reportviews.InEdgeView reportviews.OutMultiEdgeView reportviews.MultiEdgeView "
    "reportviews.InMultiEdgeView reportviews.DiDegreeView"
)

_PACKAGE = Package(
    "networkx",
    parts="classes",
    setters=[f"networkx.classes.{view}" for view in _VIEWS.split()],
    unshelled=[f"networkx.classes.{view}" for view in _VIEWS.split()],
    functions="classes.filters classes.function",
    remedy="Store the graph itself, or list() of a view of it.",
)


def install(table: Table) -> None:
    """Declare the graphs."""
    importlib.import_module("networkx")
    _PACKAGE.install(table)
