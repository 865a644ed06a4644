"""What Airflow 3 cannot take as an argument of a task, whatever carries it: told in the log where it is read.

Before a task's code runs, Airflow sends its arguments to the API server, which shows them as rendered templates. The
JSON of its client knows neither NaN nor infinity, and no half surrogates, so the task fails. A backend has no say in
that: it is asked for the value, and what it returns is the value. Airflow makes texts of what is no plain value
(arrays, frames, dataclasses) and of what is longer than an option says, so those arrive.
"""

from __future__ import annotations

from typing import Any, List, Optional

__all__ = ["NOT_FINITE", "unfit_as_argument"]

NOT_FINITE = "NaN or infinity"

# Whose text is longer than [core] max_templated_field_length, 4096 by default, is sent as a text.
_ITEMS_LIMIT = 4096


def unfit_as_argument(value: object) -> Optional[str]:
    """Return what in a value keeps it from being an argument of a task on Airflow 3; None if nothing does.

    Args:
        value: what a task is about to receive.
    """
    pending: List[Any] = [value]
    for _ in range(_ITEMS_LIMIT):
        if not pending:
            break
        item = pending.pop()
        if isinstance(item, float):
            if item - item != 0:
                return NOT_FINITE
        elif isinstance(item, str):
            if not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item[:_ITEMS_LIMIT]):
                return "half a surrogate"
        elif isinstance(item, dict):
            if len(item) <= _ITEMS_LIMIT:
                pending.extend(item.keys())
                pending.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)) and len(item) <= _ITEMS_LIMIT:
            pending.extend(item)
    return None
