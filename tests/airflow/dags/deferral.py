"""An operator that defers itself (2.2 and later), and a DAG of nothing else."""

from __future__ import annotations

from datetime import timedelta

from generation import VERSION, BaseOperator, dag


class Deferred(BaseOperator):
    """Push a value, wait, and find it again."""

    def execute(self, context):
        """Push, and defer."""
        if VERSION >= (3, 0):
            from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
        else:
            from airflow.triggers.temporal import TimeDeltaTrigger
        context["ti"].xcom_push(key="before", value=(1, 2))
        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="resume")

    def resume(self, context, event=None):
        """Pull what was pushed before."""
        # Airflow 2.2 deletes a task's XComs when it resumes, as when it runs again.
        expected = (1, 2) if VERSION >= (2, 3) else None
        assert context["ti"].xcom_pull(task_ids=self.task_id, key="before") == expected
        return (3,)


@dag
def deferral():
    """One deferred task."""
    Deferred(task_id="waits")


deferral_dag = deferral()
