"""Pods of KubernetesExecutor, as the installed provider makes them, prefer the nodes that have their input."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from importlib import import_module, metadata
from typing import Any, Callable, Iterator, List, Optional, Tuple

import pytest

pytest.importorskip("airflow.providers.cncf.kubernetes")
models = pytest.importorskip("kubernetes.client.models")
from vineyard_testing.metadata import Metadata, row  # noqa: E402

from airflow_provider_vineyard import version_compat  # noqa: E402
from airflow_provider_vineyard.placement import pods as subject  # noqa: E402
from airflow_provider_vineyard.placement import shares  # noqa: E402

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(version_compat.airflow_version() < (2, 10), reason="placement is for Airflow 2.10 and newer"),
    pytest.mark.filterwarnings("ignore"),
]

LARGE = 100_000_000


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, options: Callable[..., None]) -> Iterator[Metadata]:
    """Turn placement on, and return tables with the DAG and a queued task instance."""
    options(placement="True")
    monkeypatch.setattr(shares, "_graphs", {})
    monkeypatch.setattr(version_compat, "count", lambda name: None)
    made = Metadata()
    monkeypatch.setattr(version_compat, "create_session", made.session)
    version = made.dag()
    for task_id in ("join", "clean"):
        made.instance(task_id, version)
    yield made
    made.close()


def template() -> Any:
    """Return the pod of a template, with the affinity that our values.yaml has: to nodes with a vineyardd."""
    label = models.V1LabelSelector(match_labels={"app": "vineyardd"})
    required = models.V1PodAffinityTerm(label_selector=label, topology_key="kubernetes.io/hostname")
    preferred = models.V1PreferredSchedulingTerm(
        weight=1,
        preference=models.V1NodeSelectorTerm(
            match_expressions=[models.V1NodeSelectorRequirement(key="disk", operator="In", values=["ssd"])]
        ),
    )
    affinity = models.V1Affinity(
        pod_affinity=models.V1PodAffinity(required_during_scheduling_ignored_during_execution=[required]),
        node_affinity=models.V1NodeAffinity(preferred_during_scheduling_ignored_during_execution=[preferred]),
    )
    base = models.V1Container(name="base", image="airflow")
    return models.V1Pod(metadata=models.V1ObjectMeta(), spec=models.V1PodSpec(containers=[base], affinity=affinity))


def executors_pod(task_id: str = "join", base: Any = None, *, try_number: int = 1, hook: bool = True) -> Any:
    """Return a pod as KubernetesExecutor makes it, and as the cluster policies leave it."""
    generator = import_module("airflow.providers.cncf.kubernetes.pod_generator").PodGenerator
    pod = generator.construct_pod(
        dag_id="kinds",
        task_id=task_id,
        pod_id="kinds-join",
        try_number=try_number,
        kube_image="airflow",
        date=datetime(2026, 11, 22, tzinfo=timezone.utc),
        args=["airflow"],
        pod_override_object=None,
        base_worker_pod=base or template(),
        namespace="airflow",
        scheduler_job_id="1",
        run_id="r",
    )
    if hook:
        import_module("airflow.settings").pod_mutation_hook(pod)
    return pod


def preferred(pod: Any) -> List[Tuple[str, int]]:
    """Return the nodes that a pod prefers, with their weights."""
    terms = pod.spec.affinity.node_affinity.preferred_during_scheduling_ignored_during_execution
    found = []
    for term in terms:
        for field in term.preference.match_fields or ():
            assert (field.key, field.operator, len(field.values)) == ("metadata.name", "In", 1)
            found.append((field.values[0], term.weight))
    return found


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Have Airflow load its policies, as each of its processes does."""
    settings = import_module("airflow.settings")
    get_manager = getattr(settings, "get_policy_plugin_manager", None)
    manager = get_manager() if get_manager else settings.POLICY_PLUGIN_MANAGER
    if not manager.is_registered(subject):
        manager.load_setuptools_entrypoints("airflow.policy")


def test_airflow_finds_the_hook() -> None:
    """By its entry point, which is the module itself."""
    entries = metadata.distribution("airflow-provider-vineyard").entry_points
    (entry,) = [entry for entry in entries if entry.group == "airflow.policy"]
    assert entry.load() is subject


def test_weights_follow_the_bytes(tables: Metadata) -> None:
    """100 for the node that has most; what the template requires and prefers is still there."""
    tables.xcom("clean", row(None, LARGE, host="node-1"))
    tables.xcom("names", row(None, LARGE // 4, host="node-2"))
    tables.xcom("extract", row(None, 1000, host="node-3"))
    pod = executors_pod()
    assert preferred(pod) == [("node-1", 100), ("node-2", 25)]
    affinity = pod.spec.affinity
    (required,) = affinity.pod_affinity.required_during_scheduling_ignored_during_execution
    assert required.topology_key == "kubernetes.io/hostname"
    first = affinity.node_affinity.preferred_during_scheduling_ignored_during_execution[0]
    assert first.preference.match_expressions[0].key == "disk"
    text = f"on node-1, which has {LARGE} of {LARGE + LARGE // 4 + 1000} bytes of its inputs"
    assert tables.audit() == [("placed", "join", -1, text)]


def test_the_template_is_not_changed(tables: Metadata) -> None:
    """What later pods are made from stays as it was."""
    tables.xcom("clean", row(None, LARGE, host="node-1"))
    base = template()
    before = base.to_dict()
    assert preferred(executors_pod(base=base)) == [("node-1", 100)]
    assert base.to_dict() == before


def test_a_template_without_affinity(tables: Metadata) -> None:
    """The preference is all the affinity that the pod has."""
    tables.xcom("clean", row(None, LARGE, host="node-1"))
    base = template()
    base.spec.affinity = None
    pod = executors_pod(base=base)
    assert preferred(pod) == [("node-1", 100)]
    assert pod.spec.affinity.pod_affinity is None


@pytest.mark.parametrize(
    "change",
    [
        {"placement": "False"},
        {"placement": "perhaps"},
        {"placement_min_size": "1G"},
    ],
)
def test_no_preference_by_the_options(tables: Metadata, options: Callable[..., None], change: Any) -> None:
    """Off, wrong, or for larger values only: the pod is the plain one, and never fails."""
    options(**change)
    tables.xcom("clean", row(None, LARGE, host="node-1"))
    assert executors_pod().to_dict() == executors_pod(hook=False).to_dict()


def test_a_retry_goes_anywhere(tables: Metadata) -> None:
    """What failed because of one node fails there once."""
    tables.xcom("clean", row(None, LARGE, host="node-1"))
    assert preferred(executors_pod(try_number=2)) == []


@pytest.mark.parametrize("host", ["", "Node_1", "node 1", "-node", "node..1", "n" * 300, "node-1\n"])
def test_what_no_node_is_called(tables: Metadata, host: str) -> None:
    """Kubernetes would refuse the pod for it."""
    tables.xcom("clean", row(None, LARGE, host=host))
    assert preferred(executors_pod()) == []


def test_only_what_is_about_to_run(tables: Metadata) -> None:
    """Where the pod of a task instance is only shown, nothing is asked for or written down."""
    tables.xcom("clean", row(None, LARGE, host="node-1"))
    with tables.engine.begin() as connection:
        connection.execute(tables._instances.update().values(state="success"))
    assert preferred(executors_pod()) == []
    assert tables.audit() == []


def test_inside_of_a_pod(tables: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that renders its own pod has no database, and nothing to place."""
    tables.xcom("clean", row(None, LARGE, host="node-1"))
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
    tables.queries.clear()
    assert preferred(executors_pod()) == []
    assert tables.queries == []


def test_pods_of_operators_are_left_alone(tables: Metadata) -> None:
    """KubernetesPodOperator's pass the same hook, with labels of a task and without the variable."""
    pod = executors_pod(hook=False)
    pod.spec.containers[0].env = None
    before = pod.to_dict()
    import_module("airflow.settings").pod_mutation_hook(pod)
    assert pod.to_dict() == before


def test_an_error_is_a_warning(
    tables: Metadata, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A pod is created whatever goes wrong here."""

    def fail() -> None:
        raise RuntimeError("no database")

    monkeypatch.setattr(version_compat, "create_session", fail)
    with caplog.at_level(logging.WARNING, subject.__name__):
        assert preferred(executors_pod()) == []
    assert "[vineyard] placement: a pod is created without: RuntimeError: no database" in caplog.text


def test_a_pod_of_another_kind(tables: Metadata) -> None:
    """Something that is no pod at all goes through."""
    subject.pod_mutation_hook(object())
    subject.pod_mutation_hook(models.V1Pod())


@pytest.mark.parametrize(
    ("sizes", "minimum", "expected"),
    [
        ({}, 0, {}),
        ({"a": 0}, 0, {}),
        ({"a": 10, "b": 10}, 0, {"a": 100, "b": 100}),
        ({"a": 1, "b": 1000}, 0, {"b": 100, "a": 1}),
        ({"a": 1, "b": 1000}, 2, {"b": 100}),
    ],
)
def test_terms(sizes: Any, minimum: int, expected: Optional[Any]) -> None:
    """By table; weights are from 1 to 100."""
    assert subject.preferred_terms(sizes, minimum) == expected


def test_not_too_many_terms() -> None:
    """Of many nodes, those with the largest shares."""
    assert len(subject.preferred_terms({f"n{number}": number for number in range(1, 100)}, 0)) == 8
