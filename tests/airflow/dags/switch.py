"""Push values in one run and pull them in a later one, between which test_switch.py changes the XCom backend."""

from __future__ import annotations

import json
import os

from generation import dag, get_current_context, task
from switch_models import Order

VALUES = {
    "dict": {"a": [1, 2.5, None]},
    "text": "x" * 5000,
    "list": [1, 2],
    "pair": (1, {2: "x"}),
    "large": ("x" * 5000, {2: "x"}),
    "order": Order(7),
}


@task
def give():
    """Push what the environment names; a placeholder under a key that is none of the values'."""
    for key in os.environ.get("SWITCH_GIVES", "").split():
        get_current_context()["ti"].xcom_push(key=key, value=VALUES.get(key, "placeholder"))


@task
def take():
    """Print what the newest earlier run left under the keys that the environment names, or the error."""
    ti = get_current_context()["ti"]
    found = {}
    for key in os.environ.get("SWITCH_TAKES", "").split():
        try:
            found[key] = repr(ti.xcom_pull(task_ids="give", key=key, include_prior_dates=True))
        except Exception as error:
            found[key] = f"{type(error).__name__}: {error}"
    print(json.dumps({"took": found}))


@dag
def switch():
    """Push, then pull."""
    give() >> take()


switch_dag = switch()
