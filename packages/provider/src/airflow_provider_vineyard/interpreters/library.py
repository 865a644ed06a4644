"""What takes the place of ``pickle`` in an operator that starts another interpreter.

Arguments that are references already (``arguments``) pickle themselves as such; others that are large are put for this
call alone, and the reader deletes them. A result that comes back as a reference is owned by the row that is about to be
written: the task's process neither reads nor copies it, unless Airflow has to look into it (a list to map over, a dict
of several outputs, a branch to follow) or it has to be saved still.
"""

from __future__ import annotations

import logging
from typing import IO, Any, Dict, Optional

from airflow_provider_vineyard.clients import get_client, tier_options
from airflow_provider_vineyard.interpreters.arguments import by_reference
from airflow_provider_vineyard.reference import Origin
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.xcom import previews, store
from vineyard_client import ObjectRef, UnsafeType, VineyardError, encode, handover, loads

__all__ = ["Library"]

log = logging.getLogger(__name__)

_LAZY = "LazyXComSequence"


class Library:
    """A pickling library for one run of a task.

    Args:
        task: whose library it takes the place of.
        ti: the run.
        socket: the IPC socket as the other interpreter sees it; None where it sees what this one does.
    """

    def __init__(self, task: Any, ti: Any, socket: Optional[str] = None) -> None:
        self._own = task.pickling_library
        self._settings = get_settings()
        dag, run, task_id, index = (getattr(ti, name, None) for name in ("dag_id", "run_id", "task_id", "map_index"))
        self._origin = Origin(dag, run, task_id, index, "return_value")
        self._socket = socket or self._settings.ipc_socket
        #: Who asks for dill or cloudpickle returns what pickle cannot hold, let alone the codec.
        self.takes_results = _name(self._own) == "pickle"
        self.__name__ = handover.__name__ if self.takes_results else _name(self._own)
        self._looks_into_results = _looks_into_results(task)
        self._pushes = bool(getattr(task, "do_xcom_push", True))

    def environment(self) -> Dict[str, str]:
        """Return the variables that the other interpreter needs."""
        settings = self._settings
        terms = handover.Terms(
            socket=self._socket,
            endpoint=settings.rpc_endpoint,
            peers=settings.peers or None,
            tier=self._tier(),
            allowed_classes=settings.allowed_classes,
            passive_classes=settings.passive_classes,
            limit=max(settings.inline_threshold, handover.LIMIT) if self._pushes else None,
            # There is nobody there who knows what Airflow masks.
            preview="off" if previews.level(self._origin, settings) == "off" else "schema",
            **store.put_options(self._origin, settings),
        )
        return {handover.ENVIRONMENT: terms.to_text()}

    def _tier(self) -> Optional[Dict[str, Any]]:
        """Return the options of the tier; a container has other folders, and what it returns is saved here."""
        options = tier_options(self._settings, self._settings.ipc_socket)
        if isinstance(options, str) or self._socket != self._settings.ipc_socket:
            return None
        names = ("url", "durability", "spill", "reserve", "timeout", "sync")
        return {name: getattr(options, name) for name in names}

    def dumps(self, value: Any) -> bytes:
        """Return the pickle of a task's arguments, large ones as references."""
        if type(value) is dict and value.keys() == {"args", "kwargs"}:
            value = {
                "args": [self._prepared(item) for item in value["args"]],
                "kwargs": {key: self._prepared(item) for key, item in value["kwargs"].items()},
            }
        with by_reference():
            pickled: bytes = self._own.dumps(value)
        return pickled

    def dump(self, value: Any, file: IO[bytes]) -> None:
        """Write the pickle of a task's arguments."""
        file.write(self.dumps(value))

    def loads(self, data: bytes) -> Any:
        """Return the result that the other interpreter wrote, or a reference to it that is the row's to own.

        Raises:
            VineyardError: the result cannot be read.
        """
        result = handover.received(data) if self.takes_results else None
        if result is None:
            return self._own.loads(data)
        settings = self._settings
        if not isinstance(result, ObjectRef):
            return loads(result, allowed_classes=settings.allowed_classes, passive_classes=settings.passive_classes)
        saves = settings.tier and settings.durability != "none"
        if not self._looks_into_results and not (saves and result.copy is None):
            return store.adopt(result)
        client = get_client(settings)
        value = client.get(result)
        client.delete(result)
        return value

    def load(self, file: IO[bytes]) -> Any:
        """Return the result in a file."""
        return self.loads(file.read())

    def _prepared(self, value: Any) -> Any:
        """Return what is pickled for an argument: itself, or, if it is large, what reads it from the store."""
        if type(value).__name__ == _LAZY:
            value = list(value)
        settings = self._settings
        trust: Dict[str, Any] = {
            "allowed_classes": settings.allowed_classes,
            "passive_classes": settings.passive_classes,
        }
        try:
            # A reference inside of a value is refused as one, and not read.
            with by_reference(), encode(value, **trust) as encoded:
                if encoded.size <= handover.LIMIT:
                    return value
                options = store.put_options(self._origin._replace(key="argument"), settings)
                return _Once(get_client(settings).put(encoded, labels=options["labels"]))
        except UnsafeType:
            return value  # of Airflow's context, or holds references itself
        except VineyardError as error:
            log.warning("An argument is pickled to a file instead of put into vineyard: %s", error)
            return value


class _Once:
    """Stands for an argument that was put for one call."""

    def __init__(self, ref: ObjectRef) -> None:
        self._ref = ref

    def __reduce__(self) -> Any:
        return handover.take, (handover.argument(self._ref, once=True),)


def _looks_into_results(task: Any) -> bool:
    """Tell whether Airflow wants more of a task's result than to push it."""
    if getattr(task, "multiple_outputs", False) or any(base.__name__ == "SkipMixin" for base in type(task).__mro__):
        return True
    mapped = getattr(task, "iter_mapped_dependants", None)  # Airflow 2.3 and later
    return mapped is not None and next(iter(mapped()), None) is not None


def _name(library: Any) -> str:
    # Airflow wraps them in proxies that import them when they are asked for something.
    return str(library.__name__)
