"""shapely (1.8 - 2.2), geopandas (0.10 - 1.2) and pyproj (3.0 - 3.8): geometries, frames of them, reference systems.

A geometry travels as WKB, which GEOS checks when it reads it; a ring as the ring of its points. A column of geometries
travels as the WKB of each. A reference system travels as the text that it was made of, never one that makes PROJ open a
file (``+init=``): then as WKT.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from ..parts import checked, damaged
from ..policy import qualified
from . import pandas_objects

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

np: Any = None  # set by install functions, like the others: each is loaded for values of its library only
shapely: Any = None
geopandas: Any = None
pyproj: Any = None


# --- shapely ----------------------------------------------------------------------------------------------------------


def _wkb(geometry: Any) -> bytes:
    if hasattr(shapely, "to_wkb"):
        return bytes(shapely.to_wkb(geometry, include_srid=True))
    srid = shapely.geos.lgeos.GEOSGetSRID(geometry._geom)
    return bytes(importlib.import_module("shapely.wkb").dumps(geometry, **({"srid": srid} if srid else {})))


def _reduce_geometry(writer: Writer, geometry: Any) -> Tuple[Any, ...]:
    return MAKE, ("shapely.geometry", _wkb(geometry), geometry.geom_type == "LinearRing")


def _make_geometry(reader: Reader, wkb: Any, ring: Any) -> Any:
    if hasattr(shapely, "from_wkb"):
        geometry = shapely.from_wkb(checked(wkb, bytes))
    else:
        geometry = importlib.import_module("shapely.wkb").loads(checked(wkb, bytes))
    if not ring:
        return geometry
    if geometry.geom_type != "LineString":
        raise damaged("a ring is not made of a line")
    made = importlib.import_module("shapely.geometry").LinearRing(geometry.coords)
    return shapely.set_srid(made, shapely.get_srid(geometry)) if hasattr(shapely, "set_srid") else made


def _reduce_tree(writer: Writer, tree: Any) -> Tuple[Any, ...]:
    arguments = tree.__reduce__()[1]
    return MAKE, ("shapely.tree", *arguments)


def _make_tree(reader: Reader, geometries: Any, capacity: Any = 10) -> Any:
    base = importlib.import_module("shapely.geometry.base").BaseGeometry
    items = geometries.tolist() if type(geometries) is np.ndarray else checked(geometries, list, tuple)
    if not all(item is None or isinstance(item, base) for item in items):
        raise damaged("a tree of geometries holds something else")
    return importlib.import_module("shapely.strtree").STRtree(geometries, checked(capacity, int))


def install_shapely(table: Table) -> None:
    """Declare geometries and their trees."""
    global shapely, np
    np = importlib.import_module("numpy")
    shapely = importlib.import_module("shapely")
    table.load("numpy")
    base = importlib.import_module("shapely.geometry.base")
    table.bases[base.BaseGeometry] = _reduce_geometry
    table.makers["shapely.geometry"] = _make_geometry
    if hasattr(shapely, "to_wkb"):
        table.reducers[importlib.import_module("shapely.strtree").STRtree] = _reduce_tree
        table.makers["shapely.tree"] = _make_tree


# --- pyproj -----------------------------------------------------------------------------------------------------------

_OPENS = re.compile(r"init\s*=|@|\.\./", re.IGNORECASE)


def _reduce_system(writer: Writer, system: Any) -> Tuple[Any, ...]:
    cls = type(system)
    if getattr(pyproj.crs, cls.__name__, None) is not cls:
        raise UnsafeType(f"A {qualified(cls)} cannot be stored.", "Store a pyproj.CRS.", qualified(cls))
    text = system.srs
    return MAKE, ("pyproj.CRS", cls.__name__, system.to_wkt() if _OPENS.search(text) else text)


def _make_system(reader: Reader, name: Any, text: Any) -> Any:
    cls: Any = getattr(pyproj.crs, checked(name, str), None)
    if not isinstance(cls, type) or not issubclass(cls, pyproj.CRS):
        raise damaged(f"{name!r} is no kind of reference system")
    if _OPENS.search(checked(text, str)):
        raise damaged("a reference system would be read from a file")
    kind: Any = cls
    system = kind.__new__(kind)
    pyproj.CRS.__init__(system, text)
    return system


def install_pyproj(table: Table) -> None:
    """Declare reference systems."""
    global pyproj
    pyproj = importlib.import_module("pyproj")
    table.bases[pyproj.CRS] = _reduce_system
    table.makers["pyproj.CRS"] = _make_system


# --- geopandas --------------------------------------------------------------------------------------------------------


def _reduce_array(writer: Writer, array: Any) -> Tuple[Any, ...]:
    parts = [None if geometry is None else _wkb(geometry) for geometry in np.asarray(array, object)]
    return MAKE, ("geopandas.array", parts, array.crs)


def _make_array(reader: Reader, parts: Any, system: Any) -> Any:
    if not all(part is None or type(part) is bytes for part in checked(parts, list)):
        raise damaged("a column of geometries holds something else")
    if system is not None and type(system).__module__.partition(".")[0] != "pyproj":
        raise damaged("a column of geometries has no reference system")
    content = np.empty(len(parts), object)
    content[:] = parts
    return geopandas.array.from_wkb(content, crs=system)


def _reduce_dtype(writer: Writer, dtype: Any) -> Tuple[Any, ...]:
    return MAKE, ("geopandas.dtype",)


def _make_dtype(reader: Reader) -> Any:
    return geopandas.array.GeometryDtype()


def install_geopandas(table: Table) -> None:
    """Declare frames and series of geometries."""
    global geopandas
    geopandas = importlib.import_module("geopandas")
    for package in ("pandas", "shapely", "pyproj"):
        table.load(package)
    table.reducers[geopandas.array.GeometryArray] = _reduce_array
    table.reducers[geopandas.array.GeometryDtype] = _reduce_dtype
    table.makers.update({"geopandas.array": _make_array, "geopandas.dtype": _make_dtype})
    for cls in (geopandas.GeoDataFrame, geopandas.GeoSeries):
        pandas_objects.FRAMES[f"geopandas.{cls.__name__}"] = cls
