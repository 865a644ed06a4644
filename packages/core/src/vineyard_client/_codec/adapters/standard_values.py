"""Objects of Python's standard library that are values, in modules whose other classes open, run or reach for more."""

from __future__ import annotations

import importlib
import io
import operator
from typing import TYPE_CHECKING, Any, Tuple

from ..makings import attributes_of, give
from ..ops import FILL, MAKE
from .common import checked

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer


def _reduce_bytes_io(writer: Writer, value: io.BytesIO) -> Tuple[Any, ...]:
    attributes, _ = attributes_of(value)
    head = "_io.BytesIO", value.getvalue(), value.tell()  # a closed one says so itself
    return (MAKE, head, ("io", attributes), None, None, FILL) if attributes else (MAKE, head)


def _make_bytes_io(reader: Reader, content: Any, position: Any) -> io.BytesIO:
    made = io.BytesIO(checked(content, bytes))
    made.seek(checked(position, int))
    return made


def _fill_attributes(reader: Reader, value: Any, attributes: Any) -> None:
    give(value, attributes, None)


def install_io(table: Table) -> None:
    """Declare bytes in memory; other files belong to their process."""
    table.reducers[io.BytesIO] = _reduce_bytes_io
    table.makers["_io.BytesIO"] = _make_bytes_io
    table.filler("io", _fill_attributes, "_io.BytesIO", must=False, holds=True)


def install_operator(table: Table) -> None:
    """Declare the getters of items, which look into what they are called with; those of attributes run properties."""

    def reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
        return MAKE, ("operator.itemgetter", *value.__reduce__()[1])

    def make(reader: Reader, *items: Any) -> Any:
        return operator.itemgetter(*items)

    table.reducers[operator.itemgetter] = reduce
    table.makers["operator.itemgetter"] = make


def install_subprocess(table: Table) -> None:
    """Declare what a program that has ended left."""
    subprocess: Any = importlib.import_module("subprocess")

    def reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
        return MAKE, ("subprocess.CompletedProcess",), ("subprocess", dict(vars(value))), None, None, FILL

    def make(reader: Reader) -> Any:
        return object.__new__(subprocess.CompletedProcess)

    table.reducers[subprocess.CompletedProcess] = reduce
    table.makers["subprocess.CompletedProcess"] = make
    table.filler("subprocess", _fill_attributes, "subprocess.CompletedProcess", holds=True)
