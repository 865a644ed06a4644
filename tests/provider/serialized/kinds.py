"""Each way in which a task can be told what it reads.

The files beside this one are this DAG as releases of Airflow serialize it.
"""

from __future__ import annotations

from datetime import datetime

try:
    from airflow.sdk import dag, task, task_group
except ImportError:
    from airflow.decorators import dag, task, task_group
try:
    from airflow.providers.standard.operators.bash import BashOperator
    from airflow.providers.standard.operators.empty import EmptyOperator
except ImportError:
    from airflow.operators.bash import BashOperator
    from airflow.operators.empty import EmptyOperator


@dag(dag_id="kinds", schedule=None, start_date=datetime(2024, 1, 1), catchup=False)
def kinds():
    @task
    def extract():
        return 1

    @task
    def names():
        return {}

    @task
    def clean(raw):
        return raw

    @task
    def join(left, right, *, how="inner"):
        return left

    @task
    def pulls(ti=None):
        return ti.xcom_pull("extract")

    @task
    def numbers():
        return [1, 2]

    @task
    def square(n, base):
        return n

    @task
    def total(values):
        return 0

    @task(multiple_outputs=True)
    def parts():
        return {"a": 1, "b": 2}

    @task
    def part_of(a):
        return a

    raw = extract()
    named = names()
    cleaned = clean(raw)
    join(cleaned, [named, {"deep": raw}], how="outer")
    p = pulls()
    raw >> p
    n = numbers()
    squares = square.partial(base=raw).expand(n=n)
    total(squares)
    part_of(parts()["a"])
    BashOperator(
        task_id="shell",
        bash_command="echo {{ ti.xcom_pull(task_ids='extract') }} "
        + "{{ ti.xcom_pull(task_ids=['clean', 'names'], key='k') }}",
    )
    e = EmptyOperator(task_id="gate")
    cleaned >> e

    @task_group
    def each(number):
        @task
        def first(number):
            return number

        @task
        def second(value, raw):
            return value

        return second(first(number), raw)

    total.override(task_id="sum_up")(each.expand(number=n))


kinds()
