"""Tasks that run in other interpreters: what they receive and return is mapped there instead of pickled to a file.

``@task.external_python``, ``@task.virtualenv`` and ``@task.docker`` pull their arguments in the task's process, pickle
them to a file, run a script in the other interpreter that unpickles them, and read its result from another file. With
``vineyard-client`` there, what is large travels as a reference. DAGs stay as they are: the way in is a cluster policy
(entry point ``airflow.policy``, for Airflow from 2.6 on; earlier ones take it from ``airflow_local_settings.py``).

What happens, in the order in which it does::

    parsing     ``task_policy``: XComArgs among the arguments are replaced by ones that resolve to references
                (``arguments``), and ``prepare`` is added to the task's ``on_execute_callback``
    rendering   an XComArg resolves to an ``Argument``, which holds a row; nothing is read
    callback    ``prepare`` looks whether the other interpreter has core. If so, the operator's pickling library
                becomes ours (``library``) and the script imports ``vineyard_client.handover`` in the place of pickle
    execution   an ``Argument`` pickles itself as a reference, or, where core is missing there, as the value

Nothing but documented attributes of operators is set, and ``pickling_library``, which all of these operators have had
since 2.1 (that for containers computes it of its ``serializer``). A policy must not raise: it would keep a DAG from
being loaded.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, TypeVar

try:
    import pluggy
except ImportError:  # Airflow before 2.3, where people import the policy themselves
    pluggy = None  # type: ignore[assignment]

__all__ = ["task_policy"]

log = logging.getLogger(__name__)

Hook = TypeVar("Hook", bound=Callable[..., None])

# The classes that hand arguments over by a pickle in a file, by name: none is imported for this.
_OPERATORS = frozenset({"ExternalPythonOperator", "PythonVirtualenvOperator", "_DockerDecoratedOperator"})


def _hook(function: Hook) -> Hook:
    return function if pluggy is None else pluggy.HookimplMarker("airflow.policy")(function)


@_hook
def task_policy(task: Any) -> None:
    """Let a task in another interpreter receive and return references, if it is one."""
    # That of a mapped task, and of one that is not.
    kind = getattr(task, "operator_class", None) or type(task)
    # A class of one's own may look at its arguments before they are pickled.
    if not isinstance(kind, type) or not kind.__module__.startswith("airflow."):
        return
    if not any(base.__name__ in _OPERATORS for base in kind.__mro__):
        return
    try:
        from airflow_provider_vineyard.interpreters import arguments, prepare

        prepare.arrange(task)
        arguments.arrange(task)
    except Exception as error:
        from vineyard_client import from_outside

        if from_outside(error):  # such as the time that parsing a DAG may take
            raise
        log.warning(
            "%s receives its arguments as pickles: %s: %s",
            getattr(task, "task_id", task),
            type(error).__name__,
            error,
        )
