"""Hand NaN, infinity and half a surrogate to a task as arguments, and have them pulled by it."""

from __future__ import annotations

import json

from generation import dag, get_current_context, task

VALUES = {"numbers": {"a": float("inf"), "b": [float("nan")]}, "text": "half \ud800"}


@task(multiple_outputs=False)
def numbers():
    """Return numbers that JSON does not know."""
    return VALUES["numbers"]


@task
def text():
    """Return a text that UTF-8 does not know."""
    return VALUES["text"]


@task
def pull():
    """Ask for them."""
    for name, value in VALUES.items():
        assert repr(get_current_context()["ti"].xcom_pull(task_ids=name)) == repr(value)


@task
def take_numbers(value):
    """Receive the numbers."""
    print(json.dumps({"took": repr(value)}))


@task
def take_text(value):
    """Receive the text."""
    print(json.dumps({"took": repr(value)}))


@dag
def arguments():
    """Return, pull, receive."""
    given = [numbers(), text()]
    given >> pull()
    take_numbers(given[0])
    take_text(given[1])


arguments_dag = arguments()
