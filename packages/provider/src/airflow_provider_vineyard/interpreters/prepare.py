"""Before a task runs in another interpreter: whether that one has core, and what it has to know.

``prepare`` is an ``on_execute_callback``: Airflow calls it in the task's process when the arguments are rendered, and
logs what it raises; then arguments are pickled as if we were not there.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from functools import partial
from typing import Any, List

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.settings import ENVIRONMENT_SOCKET, get_other_interpreters

__all__ = ["arrange", "prepare"]

log = logging.getLogger(__name__)

_MODULE = "vineyard_client.handover"

# A requirement of pip's, the path or the URL of a wheel.
_REQUIREMENT = re.compile(r"(?:^|[\s/])vineyard[-_.]client\b", re.IGNORECASE)

# Airflow itself waits for such interpreters without a limit.
_LOOK_TIMEOUT = 60.0


def arrange(task: Any) -> None:
    """Have ``prepare`` called before a task runs, beside what its author wants to be called."""
    set_before = task.on_execute_callback
    callbacks: List[Any] = list(set_before) if isinstance(set_before, (list, tuple)) else [set_before or None]
    callbacks = [callback for callback in callbacks if callback is not None]
    if version_compat.airflow_version() >= (2, 6):
        if prepare not in callbacks:
            task.on_execute_callback = [*callbacks, prepare]
    elif not callbacks:
        task.on_execute_callback = prepare
    elif callbacks != [prepare] and getattr(callbacks[0], "func", None) is not _one_by_one:
        task.on_execute_callback = partial(_one_by_one, callbacks[0])


def _one_by_one(first: Any, context: Any) -> None:
    """Take the place of a list of callbacks, which Airflow before 2.6 does not know."""
    prepare(context)
    first(context)


def prepare(context: Any) -> None:
    """Let the task that is about to run hand over references, if it can."""
    task, ti = context["task"], context["ti"]
    if not get_other_interpreters() or not _is_our_backend():
        return
    from airflow_provider_vineyard.interpreters import library

    in_container = hasattr(task, "environment") and hasattr(task, "image")
    if in_container:
        socket = (task.environment or {}).get(ENVIRONMENT_SOCKET)
        if not socket:
            log.info("%s does not know %s: arguments are pickled.", task.image, ENVIRONMENT_SOCKET)
            return
    elif not _has_core(task):
        return
    else:
        socket = None
    ours = library.Library(task, ti, socket)
    if not _set_library(task, ours):
        return
    variables = ours.environment()
    if in_container:
        task.environment = {**task.environment, **variables}
    elif hasattr(task, "env_vars"):
        task.env_vars = {**(task.env_vars or {}), **variables}
    else:
        os.environ.update(variables)


def _set_library(task: Any, ours: Any) -> bool:
    """Let a task pickle with a library, and its script import what that is called; return whether that can be."""
    computed = isinstance(getattr(type(task), "pickling_library", None), property)
    if computed and not ours.takes_results:
        return False
    if computed:  # of the operator for containers: it looks up the name of the serializer in its module
        home = next(cls for cls in type(task).__mro__ if "pickling_library" in vars(cls))
        sys.modules[home.__module__]._SERIALIZERS[ours.__name__] = ours
    else:
        task.pickling_library = ours
    if computed or (ours.takes_results and hasattr(task, "serializer")):
        task.serializer = ours.__name__
    return True


def _is_our_backend() -> bool:
    return any(cls.__module__ == "airflow_provider_vineyard.xcom" for cls in version_compat.xcom_class().__mro__)


def _has_core(task: Any) -> bool:
    """Tell whether the interpreter of a task has core, or is going to have it."""
    python = getattr(task, "python", None)
    if python is None:
        listed = task.requirements or ()
        lines = (listed if isinstance(listed, str) else "\n".join(listed)).splitlines()
        found = any(_REQUIREMENT.search(line.split("#")[0]) for line in lines)
        where = "the requirements do not list it"
    else:
        variables = dict(os.environ) if getattr(task, "inherit_env", True) else {}
        variables.update(getattr(task, "env_vars", None) or {})
        look = [python, "-c", f"import {_MODULE}"]
        try:
            done = subprocess.run(look, env=variables, capture_output=True, timeout=_LOOK_TIMEOUT, text=True)
        except (OSError, subprocess.TimeoutExpired) as error:
            found, where = False, str(error)
        else:
            found, where = done.returncode == 0, (done.stderr.strip().splitlines() or [""])[-1]
    if not found:
        log.info("arguments and result are pickled, for want of vineyard-client in the other interpreter: %s", where)
    return found
