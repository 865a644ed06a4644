"""Modules that operators name in ``[vineyard] preload`` are imported once, in the process that tasks are forked from.

A task that receives a frame spends more time importing pandas than on anything else, and pays it again in each process.
The scheduler with a LocalExecutor and a Celery worker fork their tasks without starting a new interpreter, so what they
have imported, their tasks have for nothing; the pages are shared until somebody writes to them.

Which moment is right differs from release to release. An executor forks its workers when it starts, or one for each
task; Celery forks when its pool comes up. ``on_starting`` of Airflow's listeners does not know yet what is starting, is
not called in a Celery worker at all, and not before 2.5. One thing is the same everywhere: ``os.fork``. So the hook is
Python's own, ``os.register_at_fork``, and modules are imported right before the first fork of the process, when all
that it consists of is loaded.

Where a LocalExecutor has its workers from CPython's *fork server*, which is so by default on CPython 3.14 and wherever
``[core] mp_start_method`` says so, the scheduler forks nothing: the fork server is a new interpreter, which is asked to
import the module ``ahead`` before it forks the first worker. Workers that are *spawned* are new interpreters as well,
each of which forks its tasks: what is imported before the first of them, its others have for nothing.

Invariants:

- Only a process that forks tasks imports anything; a task that starts with a new interpreter, as with Kubernetes, would
  only pay for what it may not need.
- Where the option is empty, the price is one comparison per process, and one look at the configuration in those that
  fork tasks.
- Nothing here raises: what cannot be imported is a warning in the log of the process, and tasks work without it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from importlib import import_module
from typing import Iterable, List, Sequence, Tuple

from airflow_provider_vineyard import settings

__all__ = ["arrange", "forks_tasks", "load", "load_named"]

log = logging.getLogger(__name__)

_SCHEDULER = ("scheduler",)
_CELERY_WORKER = ("celery", "worker")

# What a fork server imports by default, the program, and what it is to import for us.
_AHEAD = ["__main__", "airflow_provider_vineyard.ahead"]

# Needed by each task that takes a value out of vineyard, whatever the operators name; the last to be loaded.
_CORE = "vineyard_client"

# The arguments of this process until its first fork; a list that is emptied and not a flag, so that a module that forks
# while it is imported does not begin again.
_waiting: List[Sequence[str]] = []


def arrange() -> None:
    """Have the modules imported before the first fork, if this process is one that forks tasks."""
    arguments = sys.argv[1:]
    if _command(arguments) and not _waiting:
        _waiting.append(arguments)
        os.register_at_fork(before=_before_fork)
        if _command(arguments) == _SCHEDULER:
            from multiprocessing import set_forkserver_preload

            set_forkserver_preload(_AHEAD)  # it is not asked for unless such workers are


def forks_tasks(arguments: Sequence[str], executor: str) -> bool:
    """Tell whether a process forks tasks.

    Args:
        arguments: what was passed to the command ``airflow``.
        executor: ``[core] executor``: one name, or several.
    """
    command = _command(arguments)
    # Its kin have it in their names: LocalKubernetesExecutor, a class of one's own. Others start tasks elsewhere.
    return command == _CELERY_WORKER or (command == _SCHEDULER and "Local" in executor)


def load(names: Iterable[str]) -> List[str]:
    """Import modules, log a warning for each that cannot be, and return the names of the others."""
    loaded = []
    for name in names:
        try:
            module = import_module(name)
            if name == _CORE:
                module.preload()  # what values of the modules before it need
        except Exception as error:
            log.warning(
                "[vineyard] preload: %r cannot be imported here: %s: %s. Tasks work without it. Install it for this "
                "Airflow, or take it out of the option.",
                name,
                type(error).__name__,
                error,
            )
        else:
            loaded.append(name)
    return loaded


def _command(arguments: Sequence[str]) -> Tuple[str, ...]:
    """Return the command that may fork tasks, or nothing."""
    for command in (_SCHEDULER, _CELERY_WORKER):
        if tuple(arguments[: len(command)]) == command:
            return command
    return ()


def load_named() -> None:
    """Import what the option names, if the executor of the scheduler has its tasks forked."""
    _import_for(_SCHEDULER)


def _before_fork() -> None:
    if _waiting:
        _import_for(_waiting.pop())


def _import_for(arguments: Sequence[str]) -> None:
    try:
        names = settings.preload_modules()
        if not names or not forks_tasks(arguments, settings.executor()):
            return
    except Exception as error:
        log.warning("[vineyard] preload cannot be read, nothing is imported ahead of tasks: %s", error)
        return
    started = time.perf_counter()
    loaded = load(dict.fromkeys([*names, _CORE]))
    log.info("imported ahead of tasks in %.1f s: %s", time.perf_counter() - started, ", ".join(loaded))
