"""Push what tasks return every day and JSON does not carry, and pull it: in one run, in a later one, as arguments."""

from __future__ import annotations

import datetime
import decimal
import fractions
import json
import pathlib
import uuid

from generation import PythonOperator, ShortCircuitOperator, dag, get_current_context, task

ZONE = datetime.timezone(datetime.timedelta(hours=2))


def values():
    """Return one of each kind by the key under which it is pushed."""
    import numpy as np
    import pandas as pd

    return {
        "int64": np.int64(6),
        "float32": np.float32(0.1),
        "numpy_bool": np.bool_(True),
        "numpy_text": np.str_("text"),
        "float": 7956.495621360727,
        "whole_float": 100.0,
        "short_float": 1254.2,
        "negative_zero": -0.0,
        "nan": float("nan"),
        "infinities": {"a": [float("inf"), -float("inf")], "b": 1},
        "big_int": 2**70,
        "date": datetime.date(2024, 1, 1),
        "datetime": datetime.datetime(2024, 1, 1, 12, 30, tzinfo=ZONE),
        "timedelta": datetime.timedelta(seconds=1.5),
        "timestamp": pd.Timestamp("2024-01-01", tz="Europe/Berlin"),
        "nat": pd.NaT,
        "uuid": uuid.UUID(int=7),
        "decimal": decimal.Decimal("1.50"),
        "fraction": fractions.Fraction(1, 3),
        "path": pathlib.PurePosixPath("/srv/data"),
        "bytes": b"a\0b",
        "tuple": (400000, 15),
        "set": {7},
        "int_keys": {1: "a", None: (2,)},
        "surrogate": "half \ud800",
        "nul": "NUL \0",
        "array": np.array([[50, 2], [3, 45]]),
        "frame": pd.DataFrame({"a": [1, 2], "b": [0.5, None]}),
        "true": True,
        "plain": {"a": [1, 2.5, None]},
    }


def same(one, other):
    """Tell whether two values are of one type and equal, to the last bit."""
    import pandas as pd

    if isinstance(one, pd.DataFrame):
        return isinstance(other, pd.DataFrame) and one.equals(other) and list(one.dtypes) == list(other.dtypes)
    dtypes = [str(getattr(value, "dtype", "")) for value in (one, other)]
    return type(one) is type(other) and repr(one) == repr(other) and dtypes[0] == dtypes[1]


def differing(ti, **options):
    """Return the keys whose values are not pulled as they were pushed."""
    return [
        key for key, value in values().items() if not same(value, ti.xcom_pull(task_ids="give", key=key, **options))
    ]


@task
def look_back():
    """Pull what an earlier run has left, as one does with a watermark."""
    ti = get_current_context()["ti"]
    if ti.xcom_pull(task_ids="give", key="date", include_prior_dates=True) is None:
        print(json.dumps({"earlier": "nothing"}))
        return
    wrong = differing(ti, include_prior_dates=True)
    assert not wrong, wrong
    print(json.dumps({"earlier": "the same"}))


@task
def give():
    """Push all of it."""
    for key, value in values().items():
        get_current_context()["ti"].xcom_push(key=key, value=value)


@task
def take():
    """Pull all of it."""
    wrong = differing(get_current_context()["ti"])
    assert not wrong, wrong


@task(multiple_outputs=True)
def outputs():
    """Return several small things at once."""
    return {key: values()[key] for key in ("int64", "date", "tuple", "array", "plain")}


@task
def arguments(count, date, pair, array, whole):
    """Receive what several outputs are, each by itself and all together."""
    given = {"int64": count, "date": date, "tuple": pair, "array": array, "plain": whole["plain"]}
    assert all(same(value, values()[key]) for key, value in given.items()), given
    assert list(whole) == list(given)
    assert all(same(whole[key], value) for key, value in given.items()), whole


def _numpy_bool(number):
    """Return a truth value as numpy has it."""
    import numpy as np

    return np.int64(6) > number


def _nothing():
    """Do nothing."""


@dag
def everyday():
    """Push, pull, decide."""
    look_back() >> give() >> take()
    found = outputs()
    arguments(found["int64"], found["date"], found["tuple"], found["array"], found)
    go_on = ShortCircuitOperator(task_id="go_on", python_callable=_numpy_bool, op_args=[5])
    stop = ShortCircuitOperator(task_id="stop", python_callable=_numpy_bool, op_args=[7])
    for name, circuit in (("after_go_on", go_on), ("after_stop", stop)):
        circuit >> PythonOperator(task_id=name, python_callable=_nothing)


everyday_dag = everyday()
