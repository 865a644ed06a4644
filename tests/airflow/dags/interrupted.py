"""Tasks that put and get until something strikes: their own timeout, or SIGTERM; and tasks that work before and after.

``INTERRUPTED`` says how many there are of each. They print what they were struck by, and what the store holds.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from datetime import timedelta

from airflow.exceptions import AirflowException
from generation import BaseOperator, dag, get_current_context, task

COUNT = int(os.environ.get("INTERRUPTED", "5"))

# Seconds: more than one value takes, and other moments in each run.
SOON = [random.uniform(0.2, 0.6) for _ in range(2 * COUNT)]
NEVER = 30


class Stopped(AirflowException):
    """What a task raises that is told to stop."""


class Busy(BaseOperator):
    """Push and pull values of some MB for ever."""

    def __init__(self, killed_after=None, **arguments):
        super().__init__(**arguments)
        self.killed_after = killed_after

    def execute(self, context):
        """Work until an exception from outside ends it."""
        if self.killed_after is not None:
            threading.Timer(self.killed_after, os.kill, (os.getpid(), signal.SIGTERM)).start()
        end = time.monotonic() + NEVER
        try:
            while time.monotonic() < end:
                exchange(context["ti"])
        except BaseException as error:
            print(f"{self.task_id} struck by {type(error).__module__}.{type(error).__name__}")
            raise

    def on_kill(self):
        """Stop."""
        raise Stopped


def exchange(ti):
    """Push a value and pull it again."""
    value = {"bytes": bytearray(os.urandom(1 << 12) * 1000), "names": [f"name {n}" for n in range(50_000)]}
    ti.xcom_push(key="value", value=value)
    assert ti.xcom_pull(task_ids=ti.task_id, key="value") == value


@task(trigger_rule="all_done")
def works():
    """Push and pull; then delete all that there is, and print what memory is in use."""
    import vineyard_client
    from airflow_provider_vineyard.settings import get_settings

    exchange(get_current_context()["ti"])
    gc.collect()
    with vineyard_client.connect(get_settings().ipc_socket) as client:
        for info in list(client.list()):
            client.delete(info.ref)
        client.collect()
        print(f"in use: {client.status().memory_used}")


@dag
def interrupted():
    """Strike again and again in one process."""
    last = works.override(task_id="before")()
    for number in range(COUNT):
        timed = Busy(
            task_id=f"timed{number}", execution_timeout=timedelta(seconds=SOON[number]), trigger_rule="all_done"
        )
        killed = Busy(task_id=f"killed{number}", killed_after=SOON[COUNT + number], trigger_rule="all_done")
        last >> timed >> killed
        last = killed
    last >> works.override(task_id="after")()


interrupted()
