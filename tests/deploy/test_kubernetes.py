"""The manifests and the chart's values, against schemas and against what they must say together.

Airflow's official chart is in no package registry and not in this repository: with ``AIRFLOW_CHART`` as the path of a
packaged one, the values are rendered with it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

yaml = pytest.importorskip("yaml", reason="`nox -s deploy` has the tools")

Written = Callable[..., Path]
Object = Dict[str, Any]

MANIFESTS = ("vineyardd.yaml", "networkpolicy.yaml", "etcd.yaml")
SOCKETS = "/var/run/vineyard-kubernetes/stores/v1"
SETTINGS = (
    "namespace=stores",
    "name=v1",
    "vineyardd_size=2Gi",
    "rpc_port=9700",
    "airflow_namespace=flow",
    "release=r1",
)

# Whatever in Airflow runs tasks, or reads what they returned.
NEEDS_STORE = {"worker", "scheduler", "triggerer", "dag-processor", "api-server"}


@pytest.fixture
def kubernetes(written: Written) -> Path:
    """The folder as it is written, with settings that are nowhere the defaults."""
    return written("kubernetes", *SETTINGS)


def objects(path: Path) -> Dict[str, Object]:
    """Return the objects of a manifest by their kind."""
    found: List[Object] = list(yaml.safe_load_all(path.read_text()))
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


@pytest.mark.parametrize("name", ["values.yaml", *MANIFESTS])
def test_style(name: str, kubernetes: Path, run: Any) -> None:
    """Yamllint finds nothing."""
    run("yamllint", "--strict", "-c", Path(__file__).parent / "yamllint.yaml", kubernetes / name)


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize("name", MANIFESTS)
def test_schemas(name: str, version: str, kubernetes: Path, run: Any) -> None:
    """Kubernetes old and new knows every field."""
    run("kubernetes-validate", "--strict", "--kubernetes-version", version, kubernetes / name)


def test_memory_is_counted_to_the_store(kubernetes: Path) -> None:
    """The store reserves its memory, and its pod asks for that and vineyardd's own; no more, no less."""
    pod = objects(kubernetes / "vineyardd.yaml")["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "--reserve-memory" in container["command"]
    assert container["args"][:2] == ["--size", "2Gi"]
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"] == "2304Mi"


@pytest.mark.parametrize(("name", "kind"), [("vineyardd.yaml", "DaemonSet"), ("etcd.yaml", "Deployment")])
def test_least_privilege(name: str, kind: str, kubernetes: Path) -> None:
    """No capability, no root, no writable root file system, no token; only the folder's owner is set as root."""
    pod = objects(kubernetes / name)[kind]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert not pod.get("hostNetwork") and not pod.get("hostPID") and not pod.get("hostIPC")
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert {"requests", "limits"} <= set(container["resources"])
    for container in pod["containers"]:
        assert container["securityContext"]["runAsNonRoot"] is True
        assert "add" not in container["securityContext"]["capabilities"]
        assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_selectors_select(kubernetes: Path) -> None:
    """What a schema does not see: selectors, ports and volumes name what is there."""
    store = objects(kubernetes / "vineyardd.yaml")["DaemonSet"]
    etcd = objects(kubernetes / "etcd.yaml")
    for workload in (store, etcd["Deployment"]):
        template = workload["spec"]["template"]
        assert workload["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        for container in [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    labels = store["spec"]["template"]["metadata"]["labels"]
    (port,) = store["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert port["containerPort"] == port["hostPort"] == 9700
    policy = objects(kubernetes / "networkpolicy.yaml")["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == [9700]
    etcd_labels = etcd["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert (
        etcd["Service"]["spec"]["selector"]
        == etcd["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
        == etcd_labels
    )
    assert policy["policyTypes"] == etcd["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"]


def test_airflow_looks_where_the_store_is(kubernetes: Path) -> None:
    """Values and manifests agree on folder, labels, namespace and port."""
    values = yaml.safe_load((kubernetes / "values.yaml").read_text())
    store = objects(kubernetes / "vineyardd.yaml")["DaemonSet"]
    pod = store["spec"]["template"]
    assert values["volumes"][0]["hostPath"]["path"] == SOCKETS
    assert pod["spec"]["volumes"][0]["hostPath"]["path"] == SOCKETS
    (term,) = values["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert term["namespaces"] == [store["metadata"]["namespace"]] == ["stores"]
    socket = values["env"][1]["value"]
    assert socket in pod["spec"]["containers"][0]["command"]
    assert "$(VINEYARD_HOST):9700" in values["extraEnv"]
    env = {variable["name"]: variable for variable in yaml.safe_load(values["extraEnv"])}
    assert env["AIRFLOW__VINEYARD__HOST"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"


# ---- with the chart


@pytest.fixture
def chart() -> Path:
    """The packaged chart."""
    path = os.environ.get("AIRFLOW_CHART")
    if not path:
        pytest.skip("AIRFLOW_CHART is not set to the path of Airflow's packaged Helm chart")
    return Path(path)


EXECUTORS = ("CeleryExecutor", "KubernetesExecutor", "CeleryExecutor,KubernetesExecutor", "LocalExecutor")


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    """What runs the tasks."""
    return str(request.param)


@pytest.fixture
def rendered(executor: str, kubernetes: Path, chart: Path, run: Any) -> List[Object]:
    """Return what the chart makes of the values; the template of the KubernetesExecutor's pods is added as a Pod."""
    flags = ("r1", chart, "--namespace", "flow", "-f", kubernetes / "values.yaml", "--kube-version", "1.33.0")
    # Helm's list syntax of --set splits at commas, which the executor's name may hold.
    text = run("helm", "template", *flags, "--set-string", f"executor={executor}".replace(",", r"\,")).stdout
    found = [each for each in yaml.safe_load_all(text) if each]
    templates = [
        each["data"]["pod_template_file.yaml"] for each in found if "pod_template_file.yaml" in each.get("data", {})
    ]
    assert len(templates) == ("KubernetesExecutor" in executor)
    return [*found, *map(yaml.safe_load, templates)]


def test_rendered_manifests_are_valid(rendered: List[Object], run: Any, tmp_path: Path) -> None:
    """Kubernetes knows every field."""
    path = tmp_path / "rendered.yaml"
    path.write_text(yaml.safe_dump_all(rendered))
    run("kubernetes-validate", "--strict", "--kubernetes-version", "1.33", path)


def airflow_pods(rendered: List[Object]) -> Dict[str, Object]:
    """Return the specs of the pods that run Airflow itself, by component."""
    pods = {}
    for each in rendered:
        template = each.get("spec", {}).get("template", each) if each["kind"] != "Pod" else each
        labels = template.get("metadata", {}).get("labels", {})
        if labels.get("component") in NEEDS_STORE and "spec" in template and "containers" in template["spec"]:
            pods[f"{each['kind']} {labels['component']}"] = template
    return pods


def test_the_chart_takes_the_values(kubernetes: Path, chart: Path, run: Any) -> None:
    """``helm lint`` has nothing against them."""
    run("helm", "lint", chart, "-f", kubernetes / "values.yaml")


def test_airflow_pods_reach_the_store(rendered: List[Object], executor: str) -> None:
    """Every pod of Airflow has folder and settings, runs beside a store, and is let in by the network policy."""
    pods = airflow_pods(rendered)
    assert {name.split()[1] for name in pods} == NEEDS_STORE - ({"worker"} if executor == "LocalExecutor" else set())
    assert ("Pod worker" in pods) == ("KubernetesExecutor" in executor)
    for name, pod in pods.items():
        spec = pod["spec"]
        (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "vineyard"]
        assert volume["hostPath"]["path"] == SOCKETS, name
        (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["labelSelector"]["matchLabels"] == {"app.kubernetes.io/instance": "stores-v1"}
        assert pod["metadata"]["labels"].items() >= {"tier": "airflow", "release": "r1"}.items()
        main = spec["containers"][0]
        assert main["image"] == "airflow-vineyard:3.3.2"
        assert "/var/run/vineyard" in [mount["mountPath"] for mount in main["volumeMounts"]], name
        env = {variable["name"]: variable for variable in main["env"]}
        assert env["AIRFLOW__CORE__XCOM_BACKEND"]["value"] == "airflow_provider_vineyard.xcom.VineyardXCom"
        assert env["AIRFLOW__VINEYARD__IPC_SOCKET"]["value"] == "/var/run/vineyard/vineyard.sock"
        assert env["AIRFLOW__VINEYARD__RPC_ENDPOINT"]["value"] == "$(VINEYARD_HOST):9700"
        assert env["AIRFLOW__VINEYARD__HOST"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
        # A variable may refer only to those before it.
        order = [variable["name"] for variable in main["env"]]
        assert order.index("VINEYARD_HOST") < order.index("AIRFLOW__VINEYARD__RPC_ENDPOINT")


def test_workers_have_the_resources(rendered: List[Object]) -> None:
    """Where the chart reads resources moved between its releases: they must arrive."""
    for name, pod in airflow_pods(rendered).items():
        if name.endswith(" worker"):
            assert pod["spec"]["containers"][0]["resources"]["limits"] == {"memory": "4Gi"}, name


def test_nothing_covers_the_service_account_token(rendered: List[Object]) -> None:
    """No mount lies on /var/run itself, below which the token is."""
    text = yaml.safe_dump_all(rendered)
    assert not re.search(r"mountPath: /(var/)?run/?$", text, re.MULTILINE)
