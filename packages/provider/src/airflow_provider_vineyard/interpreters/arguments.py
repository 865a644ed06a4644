"""What a task in another interpreter receives: rows that are read there, and nowhere else.

The process that starts the other interpreter needs neither the value nor the libraries that it is made with.
"""

from __future__ import annotations

import operator
from contextlib import contextmanager
from contextvars import ContextVar
from types import new_class
from typing import Any, Dict, Iterator, Tuple

from airflow_provider_vineyard.reference import RowReference

__all__ = ["Argument", "arrange", "by_reference", "wanted"]

# Whether what is pulled now is wanted as a reference, and whether what is pickled now is.
_pulling: ContextVar[bool] = ContextVar("pulling", default=False)
_pickling: ContextVar[bool] = ContextVar("pickling", default=False)

# The classes that were made for Airflow's classes of arguments: one, or two where a plain one has its own.
_classes: Dict[type, type] = {}


class Argument:
    """Stands for the value of a row until it is pickled.

    Args:
        row: as it is in the database.
        parsed: what is in it.
    """

    def __init__(self, row: Any, parsed: RowReference) -> None:
        self.row = row
        self.parsed = parsed

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        """Pickle a call that reads the value in the other interpreter, or the value itself where nobody can call."""
        if _pickling.get():
            from vineyard_client import handover

            return handover.take, (handover.argument(self.parsed.alone, self.parsed.parts),)
        from airflow_provider_vineyard.xcom import store

        return operator.getitem, ([store.get(self.row)], 0)

    def __repr__(self) -> str:
        """Show what the value is: Airflow shows arguments as rendered templates."""
        return f"<{self.parsed.ref.type} in vineyard, {self.parsed.summary}>"


def wanted() -> bool:
    """Tell whether what is pulled now is wanted as a reference."""
    return _pulling.get()


@contextmanager
def by_reference() -> Iterator[None]:
    """Let arguments that are pickled in the block be references."""
    token = _pickling.set(True)
    try:
        yield
    finally:
        _pickling.reset(token)


def arrange(task: Any) -> None:
    """Replace the XComArgs among the arguments of a task by ones that resolve to references.

    Those of a mapped task stay: Airflow takes them apart before it passes them on.
    """
    if type(task).__name__ == "MappedOperator":
        return
    for name in ("op_args", "op_kwargs"):
        # Not by setattr, which would set the dependencies once more, and warn of that.
        if task.__dict__.get(name):
            task.__dict__[name] = _replaced(task.__dict__[name])


def _replaced(value: Any) -> Any:
    if type(value) is dict:
        return {key: _replaced(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replaced(item) for item in value)
    kind = type(value)
    if kind.__name__ in ("XComArg", "PlainXComArg") and kind.__module__.startswith("airflow."):
        return _class(kind)(value.operator, value.key)
    return value


def _class(plain: Any) -> Any:
    """Return a class of XComArgs that is the same as Airflow's but for what ``resolve`` returns."""
    if plain not in _classes:

        def resolve(self: Any, *args: Any, **kwargs: Any) -> Any:
            token = _pulling.set(True)
            try:
                return plain.resolve(self, *args, **kwargs)
            finally:
                _pulling.reset(token)

        body = {"__slots__": (), "__module__": __name__, "__doc__": plain.__doc__, "resolve": resolve}
        _classes[plain] = new_class(plain.__name__, (plain,), {}, lambda namespace: namespace.update(body))
    return _classes[plain]
