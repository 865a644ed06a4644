"""Everything a DAG can do with XComs, over values that travel by reference.

Each task checks what it receives, so a feature works if the tasks named after it succeed; test_features.py looks at
their states. Sets and tuples are used because only vineyard carries them: a row cannot hold them.
"""

from __future__ import annotations

from generation import (
    VERSION,
    BaseOperator,
    BranchPythonOperator,
    PythonOperator,
    ShortCircuitOperator,
    dag,
    get_current_context,
    task,
    task_group,
)

ROWS = 10_000


@task
def frame():
    """Return a frame."""
    import pandas as pd

    return pd.DataFrame({"number": range(ROWS), "name": [None, "ä"] * (ROWS // 2)})


@task
def numbers():
    """Return a list that JSON cannot carry."""
    return [(0,), (1,), (2,)]


# Keys and several tasks


@task
def push_keys():
    """Push values under keys of their own; one of them twice, the second one counts."""
    ti = get_current_context()["ti"]
    ti.xcom_push(key="pair", value=(0, "first"))
    ti.xcom_push(key="pair", value=(1, {2: "x"}))
    ti.xcom_push(key="small", value={"a": [1, None]})
    assert ti.xcom_pull(task_ids=ti.task_id, key="pair") == (1, {2: "x"})
    return {3}


@task
def pull_keys():
    """Pull each key of another task, and some that are not there."""
    ti = get_current_context()["ti"]
    assert ti.xcom_pull(task_ids="push_keys") == {3}
    assert ti.xcom_pull(task_ids="push_keys", key="pair") == (1, {2: "x"})
    assert ti.xcom_pull(task_ids="push_keys", key="small") == {"a": [1, None]}
    assert ti.xcom_pull(task_ids="push_keys", key="absent") is None
    assert ti.xcom_pull(task_ids="absent") is None


@task
def give(value):
    """Return the value, and push another one."""
    get_current_context()["ti"].xcom_push(key="more", value={value})
    return (value,)


@task
def pull_several():
    """Pull from several tasks at once; what comes is in the order asked for."""
    ti = get_current_context()["ti"]
    assert list(ti.xcom_pull(task_ids=["give", "give__1"])) == [(1,), (2,)]
    assert list(ti.xcom_pull(task_ids=["give", "give__1"], key="more")) == [{1}, {2}]


# Several outputs, templates, operators


@task(multiple_outputs=True)
def many():
    """Return a dict, each key of which is an XCom as well."""
    import pandas as pd

    return {"table": pd.DataFrame({"x": range(ROWS)}), "number": 7, "pair": (1, 2)}


@task
def outputs(table, number, pair, everything):
    """Receive each of them, and all."""
    assert (len(table), number, pair) == (ROWS, 7, (1, 2))
    assert set(everything) == {"table", "number", "pair"}
    assert everything["table"].equals(table)


class Templated(BaseOperator):
    """An operator that looks at its rendered template and returns None."""

    template_fields = ("text",)

    def __init__(self, text, **kwargs):
        super().__init__(**kwargs)
        self.text = text

    def execute(self, context):
        """Check what the template became."""
        assert self.text == f"{(1, {2: 'x'})} {ROWS} rows, {(0,)}", self.text


# Branch and short circuit


def choose(pair):
    """Return the branch to follow, by what a reference holds."""
    return "left" if pair == (1, 2) else "right"


def go_on(pair):
    """Tell whether to go on, likewise."""
    return pair != (1, 2)


def nothing():
    """Do nothing."""


@dag
def features():
    """All features that the installed release has."""
    table, items, keys = frame(), numbers(), push_keys()
    keys >> pull_keys()
    [give(1), give(2)] >> pull_several()

    parts = many()
    outputs(parts["table"], parts["number"], parts["pair"], parts)

    text = (
        "{{ ti.xcom_pull(task_ids='push_keys', key='pair') }} {{ ti.xcom_pull(task_ids='frame').shape[0] }} rows, "
        "{{ ti.xcom_pull(task_ids='numbers')[0] }}"
    )
    [keys, table, items] >> Templated(task_id="template", text=text)

    branch = BranchPythonOperator(task_id="branch", python_callable=choose, op_kwargs={"pair": parts["pair"]})
    branch >> [PythonOperator(task_id=side, python_callable=nothing) for side in ("left", "right")]
    circuit = ShortCircuitOperator(task_id="circuit", python_callable=go_on, op_kwargs={"pair": parts["pair"]})
    circuit >> PythonOperator(task_id="cut", python_callable=nothing)

    if VERSION >= (2, 3):
        mapped(table, items)
    if VERSION >= (2, 5):
        in_groups(items)
        sense()
    if VERSION >= (2, 7):
        with_setup()
    if VERSION >= (2, 8):
        deferred()


# Mapping


def mapped(table, items):
    """Map a task over a reference, and use what its instances return."""

    @task
    def mapped_item(item, table):
        """Return a value for an element; each instance receives the frame as well."""
        assert len(table) == ROWS
        return (item[0] * 2,)

    @task
    def mapped_sum(results):
        """Receive what all instances returned, which is fetched as it is used."""
        assert len(results) == 3
        assert [result[0] for result in results] == [0, 2, 4]
        return list(results)

    @task
    def mapped_pull(again):
        """Pull by map index."""
        assert again == [(0,), (2,), (4,)]
        ti = get_current_context()["ti"]
        assert ti.xcom_pull(task_ids="mapped_item", map_indexes=1) == (2,)
        assert list(ti.xcom_pull(task_ids="mapped_item", map_indexes=[0, 2])) == [(0,), (4,)]

    mapped_pull(mapped_sum(mapped_item.partial(table=table).expand(item=items)))


def in_groups(items):
    """Map a group of tasks over a reference."""

    @task
    def first(item):
        """Return a value."""
        return {item}

    @task
    def second(item, found):
        """Receive the element and what the same group's task returned."""
        assert found == {item}

    @task_group
    def group(item):
        second(item, first(item))

    group.expand(item=items)


# Sensors, setup and teardown, deferral


def sense():
    """Receive a sensor's value."""
    from airflow.sensors.base import PokeReturnValue

    @task.sensor(poke_interval=0, mode="poke")
    def sensor():
        """Find a value at once."""
        return PokeReturnValue(is_done=True, xcom_value=(1, 2))

    @task
    def sensed(value):
        """Receive it."""
        assert value == (1, 2)

    sensed(sensor())


def with_setup():
    """Use what a setup task returned, in the work and in the teardown."""
    if VERSION >= (3, 0):
        from airflow.sdk import setup, teardown
    else:
        from airflow.decorators import setup, teardown

    @setup
    def set_up():
        """Return a resource."""
        return {"resource"}

    @task
    def work(resource):
        """Use it."""
        assert resource == {"resource"}

    @teardown
    def tear_down(resource):
        """Release it."""
        assert resource == {"resource"}

    resource = set_up()
    working = work(resource)
    working >> tear_down(resource)


def deferred():
    """Defer a task, and use what it returned afterwards."""
    from deferral import Deferred

    @task
    def resumed(value):
        """Receive what was returned after the deferral."""
        assert value == (3,)

    resumed(Deferred(task_id="deferred").output)


features_dag = features()
