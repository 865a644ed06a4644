"""Tasks in another interpreter, ``OTHER_PYTHON``: it has numpy, core and the module ``only_there``, and no Airflow.

What ``only_there`` defines cannot be made in Airflow's own interpreter, so these tasks succeed only if nobody does.
"""

from __future__ import annotations

import os

from generation import VERSION, dag, task

OTHER = {"python": os.environ["OTHER_PYTHON"], "expect_airflow": False}


@task
def make():
    """Return a large array."""
    import numpy as np

    return np.arange(1_000_000)


@task.external_python(**OTHER)
def model(array, factor, *, named):
    """Return what only this interpreter knows, made of an array that is mapped here."""
    import only_there

    with open("/proc/self/maps") as maps:
        assert "memfd:vineyard" in maps.read()
    assert named == {"small": [1]}
    array *= factor
    return only_there.Model(array)


@task.external_python(**OTHER)
def predict(models):
    """Return a plain value, of what came here inside of a list."""
    (model,) = models
    return {"sum": int(model.weights.sum())}


@task.external_python(**OTHER)
def fails(array):
    """Fail once the argument is there."""
    raise ValueError(f"{array.size} numbers are too many")


@task.external_python(**OTHER)
def numbers():
    """Return a large list, over which others are mapped."""
    import numpy as np

    return [np.full(100_000, 1), np.full(100_000, 2)]


@task.external_python(**OTHER)
def total(array):
    """Return the sum of one array."""
    return int(array.sum())


@task.external_python(python=os.environ["BARE_PYTHON"], expect_airflow=False)
def bare(text):
    """Receive a pickle, in an interpreter without core."""
    return len(text)


@task
def text():
    """Return a large text."""
    return "ä" * 100_000


@task
def check(array, plain, totals, length):
    """Compare what came back, and whether the first is as it was."""
    assert array[-1] == 999_999, array
    assert plain == {"sum": 999_999 * 1_000_000}, plain
    assert list(totals) == [100_000, 200_000], totals
    assert length == 100_000, length


@dag
def interpreters():
    """Arguments and results of all kinds."""
    array = make()
    fails(array)
    made = model(array, 2, named={"small": [1]})
    check(array, predict([made]), total.expand(array=numbers()), bare(text()))


the_dag = interpreters()
assert VERSION
