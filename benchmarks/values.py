"""The values that benchmarks hand over, and what it takes to look at all of their bytes.

A value follows from its name and a number of rows, so each process can make it; with fewer rows it is of the same kind,
and loads the same modules.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, NamedTuple


class Kind(NamedTuple):
    """How a value is made, and of how many rows."""

    make: Callable[[int], Any]
    rows: int


def small(rows: int) -> Any:
    return {"rows": rows, "name": "flights", "share": 0.25}


def two_columns(rows: int) -> Any:
    import numpy as np
    import pandas as pd

    return pd.DataFrame({"a": np.arange(rows), "b": np.random.default_rng(1).random(rows)})


def ten_columns(rows: int) -> Any:
    import numpy as np
    import pandas as pd

    return pd.DataFrame(np.random.default_rng(1).random((rows, 10)), columns=list("abcdefghij"))


def five_columns(rows: int) -> Any:
    return ten_columns(rows).iloc[:, :5].copy()


def thousand_columns(rows: int) -> Any:
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(1)
    return pd.DataFrame({f"c{i}": random.random(rows) for i in range(1000)})


def strings(rows: int) -> Any:
    import pandas as pd

    return pd.DataFrame({"s": [f"passenger {i}" for i in range(rows)]})


def array(rows: int) -> Any:
    import numpy as np

    return np.arange(rows * 10, dtype=np.float64).reshape(rows, 10)


def arrow_table(rows: int) -> Any:
    import pyarrow as pa

    return pa.table({name: array(rows)[:, number].copy() for number, name in enumerate("abcdefghij")})


def many_arrays(rows: int) -> Any:
    import numpy as np

    return [np.full(1000, number) for number in range(rows)]


VALUES: Dict[str, Kind] = {
    "small dict": Kind(small, 17),
    "frame, 1.6 MB (100,000 × 2)": Kind(two_columns, 100_000),
    "frame, 80 MB (1,000,000 × 10)": Kind(ten_columns, 1_000_000),
    "frame, 1 GB (12,500,000 × 10)": Kind(ten_columns, 12_500_000),
    "frame, 8 MB of 1,000 columns": Kind(thousand_columns, 1000),
    "frame, 1,000,000 texts": Kind(strings, 1_000_000),
    "array, 80 MB": Kind(array, 1_000_000),
    "Arrow table, 80 MB": Kind(arrow_table, 1_000_000),
    "array, 2.5 GiB": Kind(array, 5 << 26 >> 3),
    "10,000 arrays of 8 kB": Kind(many_arrays, 10_000),
}

# Those that are put with a preview alone.
PREVIEWED: Dict[str, Kind] = {
    "frame, 4 kB (100 × 5)": Kind(five_columns, 100),
    "bytes, 4 kB": Kind(bytes, 4096),
}

# Those whose bytes can be had without a copy, see ``contents``.
IN_ONE_PIECE = (
    *("frame, 80 MB (1,000,000 × 10)", "frame, 1 GB (12,500,000 × 10)"),
    *("array, 80 MB", "array, 2.5 GiB"),
)

# Those that take gigabytes, and those that take some peer many seconds.
LARGE = ("frame, 1 GB (12,500,000 × 10)", "array, 2.5 GiB")
SLOW = (*LARGE, "10,000 arrays of 8 kB")


def make(what: str, size: str) -> Any:
    """Return a value; if the size is not empty, with a hundredth of its rows."""
    kind = VALUES.get(what) or PREVIEWED[what]
    return kind.make(max(10, kind.rows // 100) if size else kind.rows)


def make_first(what: str) -> Any:
    """Return a value of the same kind to begin with: smaller, but too large for the short cuts of tiny ones."""
    kind = VALUES[what]
    return kind.make(min(kind.rows // 10, 100_000))


def use(value: Any) -> float:
    """Return a sum that every element of a value goes into."""
    if isinstance(value, dict):
        return float(value["rows"])
    if isinstance(value, (list, tuple)):
        return float(sum(use(part) for part in value))
    if hasattr(value, "itercolumns"):
        import pyarrow.compute

        return float(sum(pyarrow.compute.sum(column).as_py() for column in value.itercolumns()))
    if "pandas" in sys.modules and isinstance(value, sys.modules["pandas"].DataFrame):
        return float(value["s"].str.len().sum() if "s" in value else value.sum().sum())
    return float(value.sum())


def contents(value: Any) -> memoryview:
    """Return the bytes of an array, or of a frame whose columns are of one type."""
    data = value.to_numpy() if hasattr(value, "to_numpy") else value
    return memoryview(data if data.flags.c_contiguous else data.T).cast("B")
