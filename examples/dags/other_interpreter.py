"""A model that is trained in another Python interpreter: the frame is mapped there, the result comes back mapped.

``OTHER_PYTHON`` names an interpreter that has pandas and vineyard-client, such as /opt/venvs/models/bin/python; without
it, that is Airflow's own, in a process of its own. Nothing in the tasks says how their arguments get there.
"""

from __future__ import annotations

import os
import sys

from airflow.sdk import dag, task

OTHER = os.environ.get("OTHER_PYTHON", sys.executable)


@task
def measure():
    """Return 500,000 points near a line."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(2026)
    x = rng.uniform(0, 10, 500_000)
    return pd.DataFrame({"x": x, "y": 3 * x + 2 + rng.normal(0, 1, x.size)})


@task.external_python(python=OTHER, expect_airflow=False)
def fit(points):
    """Return the line, and how far each point is from it; the frame is this task's own."""
    slope = points["x"].cov(points["y"]) / points["x"].var()
    intercept = points["y"].mean() - slope * points["x"].mean()
    points["residual"] = points["y"] - (slope * points["x"] + intercept)
    return points


@task
def report(points):
    """Print what is left."""
    print(f"{len(points)} points, residuals of {points['residual'].std():.2f}")


@dag(schedule=None, tags=["vineyard"])
def other_interpreter():
    """Measure, fit elsewhere, report."""
    report(fit(measure()))


other_interpreter()
