"""What to return instead of a value that no permission makes storable: advice by kind, in words of its own library.

Asked only when something was refused. Kinds are told by their types' names, so that no library is imported for it.
"""

from __future__ import annotations

import types
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Dict

__all__ = ["BY_NAME", "advice"]

_PACKAGES_OF_CURSORS = frozenset(
    ["sqlite3", "psycopg2", "psycopg", "MySQLdb", "pymysql", "duckdb", "snowflake", "pyodbc"]
)
# Full name of a class, in its own module or as people import it -> what to return instead. Subclasses are meant, too.
BY_NAME: Dict[str, str] = {
    "polars.LazyFrame": "Return its result: .collect().",
    "polars.Expr": "Return its result, or what it is made of: it is code, and is built in the task that uses it.",
    "polars.When": "Return its result, or what it is made of: it is code, and is built in the task that uses it.",
    "polars.GroupBy": "Return its result, such as .agg(…), or the frame and the names of its keys.",
    "pandas.BaseGroupBy": "Return its result, such as .sum(), or the frame and the names of its keys.",
    "pandas.BaseWindow": "Return its result, such as .mean(), or the frame and the size of the window.",
    "pandas.Flags": "Return the frame, which keeps its flags, or what they say: .allows_duplicate_labels.",
    "numpy.ndindex": "It can be walked through once, here: return list(…) of it, or the shape.",
    "numpy.ndenumerate": "It can be walked through once, here: return list(…) of it, or the array.",
    "numpy.flatiter": "It can be walked through once, here: return the array.",
    "numpy.nditer": "It can be walked through once, here: return the array.",
    "numpy.errstate": "It is for one with statement: return the settings, numpy.geterr().",
    "shapely.PreparedGeometry": "Return the geometry, .context, and prepare it in the task that uses it.",
    "deltalake.DeltaTable": "Return its rows, .to_pandas(), or its place and version: .table_uri and .version().",
    "pyiceberg.Table": "Return its rows, .scan().to_arrow(), or its name: .name(); load it in the task that uses it.",
    "duckdb.DuckDBPyRelation": "Return its rows: .df() or .arrow().",
    "pyarrow.RecordBatchReader": "Return its rows: .read_all().",
    "pyarrow.Scanner": "Return its rows: .to_table().",
    "pyspark.DataFrame": "Return its rows, .toPandas(), or where they are written to.",
    "pandas.TextFileReader": "Return its rows: .read().",
    "io.StringIO": "Return its text: .getvalue().",
    "io._IOBase": "Return what it holds, .read(), or the path of the file.",
    "csv.reader": "Return its rows: list(…).",
    "csv.DictReader": "Return its rows: list(…).",
    "zipfile.ZipFile": "Return the path of the file.",
    "tempfile._TemporaryFileWrapper": "Return what it holds, .read(), or the path of a file that stays.",
    "tempfile.TemporaryDirectory": "Return the path of a folder that stays.",
    "socket.socket": "Return host and port, and connect in the task that uses it.",
    "_thread.lock": "A lock belongs to one process: leave it out.",
    "_thread.RLock": "A lock belongs to one process: leave it out.",
    "threading.Thread": "A thread belongs to one process: return its result.",
    "asyncio.Future": "Await it, and return its result.",
    "concurrent.Future": "Return its result: .result().",
    "subprocess.Popen": "Return what it printed, or its exit code.",
    "logging.Logger": "Return its name; logging.getLogger(name) finds it in every process.",
    "weakref.ReferenceType": "Return the object that it refers to.",
    "builtins.weakref": "Return the object that it refers to.",  # its name before 3.10, as the one below
    "contextvars.ContextVar": "Return its value: .get().",
    "builtins.ContextVar": "Return its value: .get().",
    "airflow.XComArg": "It stands for an output: hand it to a task as an argument, which then receives the value.",
    "airflow.BaseOperator": "Return its output, not the operator: hand its .output to a task as an argument.",
    "airflow.AbstractOperator": "Return its output, not the operator: hand its .output to a task as an argument.",
    "airflow.DAG": "Return its dag_id.",
    "airflow.TaskGroup": "Return its group_id.",
    "airflow.TaskInstance": "Return its keys: dag_id, task_id and run_id.",
}


def advice(value: Any) -> str | None:
    """Return what to do about a value that cannot be stored, None if there is nothing better than permission."""
    cls = type(value)
    if isinstance(value, types.ModuleType):
        return "Return its name; importlib.import_module(name) finds it in every process."
    if isinstance(value, types.CoroutineType):
        return "Await it, and return its result."
    if isinstance(value, types.AsyncGeneratorType):
        return "Return a list of what it gives: [item async for item in …]."
    if isinstance(value, (types.FrameType, types.TracebackType, types.CodeType)):
        return "Return its text: traceback.format_exc(), for example."
    if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)) and value.__qualname__.count("."):
        return "Return the object, or the result of the call."
    if isinstance(value, types.FunctionType) and ("<" in value.__qualname__):
        return "Return the data that it works on; else define it with def at the top of a module, and allow its name."
    for base in cls.__mro__[:-1]:
        package = str(base.__module__).partition(".")[0]
        for name in (f"{base.__module__}.{base.__name__}", f"{package.lstrip('_')}.{base.__name__}"):
            if name in BY_NAME:
                return BY_NAME[name]
        if package in _PACKAGES_OF_CURSORS and base.__name__.lower().endswith(("connection", "cursor")):
            return "Return what it fetched, such as .fetchall(); connect in the task that uses it."
    if cls.__module__ in ("builtins", "itertools", "collections", "_collections", "_collections_abc"):
        if isinstance(value, (KeysView, ValuesView, ItemsView)):
            return "Return list(…) of it."
        if isinstance(value, Iterator):
            return "It can be walked through once, here: return list(…) of it."
    return None
