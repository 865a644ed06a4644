"""Which tasks a task reads from, told by the serialized DAG alone: the scheduler has no operators.

A serialized DAG names the XComs that a task is given in three ways, by release and kind of task:

- a template, ``{{ task_instance.xcom_pull(task_ids='extract', …) }}``: Airflow 3.2 and newer for ``@task``, and what
  people write themselves;
- the text form of an argument, ``XComArg(<Task(…): extract>)`` or ``<Mapped(…): square>``, also inside of
  ``MappedArgument(…)``: up to 3.1, and in mapped task groups;
- a reference, ``{"__type": "xcomref", "__var": {"task_id": "extract"}}``: what mapped tasks are given.

A task that names none is taken to read from all its direct upstreams. To name too many is harmless: an upstream without
a stored value weighs nothing. To name too few (``ti.xcom_pull("other")`` in a function that also has such arguments)
loses no more than the wish.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

__all__ = ["Graph", "read_graph"]

# The fields of an operator, beside those that its ``template_fields`` name, that may hold what it is given.
_GIVEN = ("op_kwargs_expand_input", "expand_input", "partial_kwargs")

_ARGUMENT = re.compile(r"<(?:Task|Mapped)\([^)]*\): ([\w.-]+)>")
_PULL = re.compile(r"xcom_pull\(([^)]*)\)")
_OTHER_ARGUMENT = re.compile(r"\b(?:key|run_id|map_indexes|default)\s*=\s*(?:'[^']*'|\"[^\"]*\")")
_OTHER_DAG = re.compile(r"\bdag_id\s*=\s*(?:'([^']*)'|\"([^\"]*)\")")
_QUOTED = re.compile(r"'([\w.-]+)'|\"([\w.-]+)\"")


class Graph(NamedTuple):
    """What a DAG's tasks read.

    Attributes:
        edges: for each task, the tasks that it reads from.
        groups: for each task in a mapped task group, that group.
    """

    edges: Mapping[str, Tuple[str, ...]]
    groups: Mapping[str, str]

    def same_element(self, task: str, upstream: str) -> bool:
        """Tell whether a task instance reads only that of the upstream with its own ``map_index``."""
        group = self.groups.get(task)
        return group is not None and group == self.groups.get(upstream)


def read_graph(data: Any) -> Graph:
    """Return the graph of a serialized DAG.

    Args:
        data: the DAG as Airflow keeps it in the table ``serialized_dag``, any version of that format.

    Raises:
        ValueError: it is none.
    """
    dag = data.get("dag") if isinstance(data, dict) else None
    if not isinstance(dag, dict) or not isinstance(dag.get("tasks"), list):
        raise ValueError("this is no serialized DAG")
    tasks: Dict[str, Dict[str, Any]] = {}
    for entry in dag["tasks"]:
        task = entry.get("__var", entry) if isinstance(entry, dict) else None
        if not isinstance(task, dict) or not isinstance(task.get("task_id"), str):
            raise ValueError("a task of this serialized DAG has no task_id")
        tasks[task["task_id"]] = task
    dag_id = str(dag.get("dag_id", dag.get("_dag_id", "")))
    upstreams: Dict[str, List[str]] = {task_id: [] for task_id in tasks}
    for task_id, task in tasks.items():
        for downstream in task.get("downstream_task_ids") or ():
            if downstream in upstreams:
                upstreams[downstream].append(task_id)
    edges = {}
    for task_id, task in tasks.items():
        fields = [*(task.get("template_fields") or ()), *_GIVEN]
        given = (name for field in fields if isinstance(field, str) for name in _named(task.get(field), dag_id))
        named = tuple(dict.fromkeys(name for name in given if name in tasks and name != task_id))
        edges[task_id] = named or tuple(upstreams[task_id])
    groups: Dict[str, str] = {}
    _find_groups(dag.get("task_group", dag.get("_task_group")), None, groups)
    return Graph(edges, groups)


def _named(value: Any, dag_id: str) -> Iterator[str]:
    """Yield what stands for names of tasks in what an operator was given."""
    if isinstance(value, str):
        yield from _ARGUMENT.findall(value)
        for arguments in _PULL.findall(value):
            other = _OTHER_DAG.search(arguments)
            if other and (other[1] or other[2]) != dag_id:
                continue
            rest = _OTHER_ARGUMENT.sub("", _OTHER_DAG.sub("", arguments))
            yield from (single or double for single, double in _QUOTED.findall(rest))
    elif isinstance(value, list):
        for member in value:
            yield from _named(member, dag_id)
    elif isinstance(value, dict):
        referred = value.get("__var")
        if value.get("__type") == "xcomref" and isinstance(referred, dict) and isinstance(referred.get("task_id"), str):
            yield referred["task_id"]
        for member in value.values():
            yield from _named(member, dag_id)


def _find_groups(group: Any, mapped: Optional[str], groups: Dict[str, str]) -> None:
    """Find the tasks below a task group that are in a mapped one; Airflow does not nest those."""
    if not isinstance(group, dict):
        return
    if group.get("is_mapped"):
        mapped = str(group.get("_group_id", group.get("group_id")))
    for name, child in (group.get("children") or {}).items():
        kind, content = child if isinstance(child, (list, tuple)) and len(child) == 2 else ("", None)
        if kind == "taskgroup":
            _find_groups(content, mapped, groups)
        elif mapped is not None:
            groups[name] = mapped
