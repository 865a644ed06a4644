"""How values of known types are taken apart and put together, one module per library.

An adapter module declares in ``install(table)`` what it knows; ``table`` says what there is to declare. Modules are
loaded when the first value of their library comes by, in either direction: importing this package imports no library,
and a value brings in none that it does not come from. A module holds its library in a global that ``install`` sets.

The names of makers are part of the stored format. They are ours, not the libraries': a library may move its classes,
and a stream that names only our makers can reach nothing else.
"""

from __future__ import annotations

from typing import Dict, Tuple

from ..table import table

__all__ = ["MODULES", "table"]

# Top-level package of a type, or first part of a maker's name -> the module here that knows it, and its function.
MODULES: Dict[str, Tuple[str, str]] = {
    "builtins": ("builtin_types", "install"),
    "passive": ("passive_classes", "install"),
    "array": ("standard_library", "install_array"),
    "datetime": ("standard_library", "install_datetime"),
    "decimal": ("standard_library", "install_numbers"),
    "fractions": ("standard_library", "install_numbers"),
    "ipaddress": ("standard_library", "install_ipaddress"),
    "pathlib": ("standard_library", "install_pathlib"),
    "_io": ("standard_values", "install_io"),
    "operator": ("standard_values", "install_operator"),
    "subprocess": ("standard_values", "install_subprocess"),
    "random": ("standard_library", "install_random"),
    "time": ("standard_library", "install_time"),
    "uuid": ("standard_library", "install_uuid"),
    "zoneinfo": ("standard_library", "install_zoneinfo"),
    **dict.fromkeys(("argparse", "calendar", "email", "textwrap"), ("standard_objects", "install")),
    "statistics": ("standard_objects", "install_statistics"),
    "xml": ("standard_objects", "install_xml"),
    "numpy": ("numpy_arrays", "install"),
    "pandas": ("pandas_objects", "install"),
    "pyarrow": ("arrow_data", "install"),
    "polars": ("polars_frames", "install"),
    "scipy": ("scipy_sparse", "install"),
    "sklearn": ("sklearn_models", "install"),
    "statsmodels": ("statsmodels_results", "install"),
    "lightgbm": ("boosting", "install_lightgbm"),
    "xgboost": ("boosting", "install_xgboost"),
    "pydantic": ("pydantic_types", "install"),
    "pydantic_core": ("pydantic_types", "install_core"),
    "sympy": ("sympy_expressions", "install"),
    "pint": ("pint_quantities", "install"),
    "networkx": ("networkx_graphs", "install"),
    "PIL": ("pillow_images", "install"),
    "shapely": ("geometry", "install_shapely"),
    "pyproj": ("geometry", "install_pyproj"),
    "geopandas": ("geometry", "install_geopandas"),
    "torch": ("torch_tensors", "install"),
    "xarray": ("xarray_objects", "install"),
    "pytz": ("time_zones", "install_pytz"),
    "dateutil": ("time_zones", "install_dateutil"),
    "pendulum": ("time_zones", "install_pendulum"),
}

table.adapters.update({package: (f"{__name__}.{module}", function) for package, (module, function) in MODULES.items()})
table.load("builtins")  # each value may hold them, and their makers have names without a package
