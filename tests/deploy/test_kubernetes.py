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

MANIFESTS = ("vineyardd.yaml", "networkpolicy.yaml", "etcd.yaml", "gc.yaml")
SOCKETS = "/var/run/vineyard-kubernetes/stores/v1"
SPILL = "/var/lib/vineyard-kubernetes/stores/v1"
SETTINGS = (
    "namespace=stores",
    "name=v1",
    "vineyardd_size=2Gi",
    "rpc_port=9700",
    "airflow_namespace=flow",
    "release=r1",
    "tier=s3://values/of/ours",
    "older_than=30d",
    "grace=600",
    "nodes=3",
    'node_selector={"pool": "airflow"}',
    'tolerations=[{"key": "gpu", "operator": "Exists"}]',
    "priority_class=vineyard",
    'identity={"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/v"}',
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
    container = containers(store(kubernetes))["vineyardd"]
    assert "--reserve-memory" in container["command"]
    assert container["args"][:2] == ["--size", "2Gi"]
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"] == "2304Mi"


def store(folder: Path) -> Object:
    """Return the pod of the DaemonSet."""
    found: Object = objects(folder / "vineyardd.yaml")["DaemonSet"]["spec"]["template"]["spec"]
    return found


def containers(pod: Object) -> Dict[str, Object]:
    """Return the containers of a pod by their names."""
    return {container["name"]: container for container in pod["containers"]}


def test_the_agent_has_what_it_needs(kubernetes: Path) -> None:
    """It is told the tier, the folder on the disk and the age, alone has the credentials, and has time to save."""
    pod = store(kubernetes)
    server, agent = containers(pod)["vineyardd"], containers(pod)["agent"]
    assert agent["command"][:2] == ["vineyard-client", "agent"]
    assert agent["args"] == ["--spill", "/opt/airflow/spill", "--older-than", "30d", "--metrics", "9601"]
    assert agent["env"] == [{"name": "VINEYARD_TIER", "value": "s3://values/of/ours"}]
    assert agent["envFrom"] == [{"secretRef": {"name": "v1-tier", "optional": True}}]
    assert agent["volumeMounts"] == server["volumeMounts"] and agent["securityContext"] == server["securityContext"]
    assert "envFrom" not in server and "env" not in server
    assert pod["terminationGracePeriodSeconds"] == 600
    account = objects(kubernetes / "vineyardd.yaml")["ServiceAccount"]["metadata"]
    assert account["name"] == pod["serviceAccountName"]
    assert account["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/v"}


def test_commands_are_of_our_programs(kubernetes: Path) -> None:
    """What the containers run, the client's command line knows, down to each option."""
    cli = pytest.importorskip("vineyard_client.cli", reason="the client is not installed here")
    for container in containers(store(kubernetes)).values():
        words = [*container["command"], *container["args"]]
        assert words[0] == "vineyard-client"
        cli._parser().parse_args(words[1:])


@pytest.mark.parametrize(("tier", "strategy"), [("", "OnDelete"), ("s3://b/p", "RollingUpdate")])
def test_changes_are_rolled_out_if_nothing_is_lost(tier: str, strategy: str, written: Written) -> None:
    """With a tier one node after the other; without, only the operator ends a store."""
    update = objects(written("kubernetes", f"tier={tier}") / "vineyardd.yaml")["DaemonSet"]["spec"]["updateStrategy"]
    assert update["type"] == strategy
    assert update.get("rollingUpdate", {"maxUnavailable": 1}) == {"maxUnavailable": 1}


def test_where_stores_run(kubernetes: Path) -> None:
    """Nodes, taints and priority are settings."""
    pod = store(kubernetes)
    assert pod["nodeSelector"] == {"pool": "airflow"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert pod["priorityClassName"] == "vineyard"


def test_by_default_on_every_node_without_a_taint(written: Written) -> None:
    """And with the priority of any pod."""
    pod = store(written("kubernetes"))
    assert (pod["nodeSelector"], pod["tolerations"], pod["priorityClassName"]) == ({}, [], "")


@pytest.mark.parametrize(("size", "probes"), [("1Gi", 26), ("64Gi", 152), ("16Mi", 24)])
def test_large_stores_have_time_to_start(size: str, probes: int, written: Written) -> None:
    """Memory is reserved before the store answers, some seconds for each GiB."""
    pod = store(written("kubernetes", f"vineyardd_size={size}"))
    assert containers(pod)["vineyardd"]["startupProbe"]["failureThreshold"] == probes


@pytest.mark.parametrize("qos", ["burstable", "guaranteed"])
def test_quality_of_service(qos: str, written: Written) -> None:
    """Of a guaranteed pod every container's limits are its requests; of a burstable one the agent may hold a store."""
    pod = store(written("kubernetes", f"qos={qos}"))
    resources = [each["resources"] for each in [*pod["containers"], *pod["initContainers"]]]
    same = [each["requests"] == each["limits"] for each in resources]
    assert all({"cpu", "memory"} <= set(each["requests"]) for each in resources)
    assert all(same) if qos == "guaranteed" else not any(same)
    found = containers(pod)
    assert found["vineyardd"]["resources"]["requests"]["memory"] == found["vineyardd"]["resources"]["limits"]["memory"]
    if qos == "burstable":
        assert found["agent"]["resources"]["limits"] == found["vineyardd"]["resources"]["limits"]


def test_nothing_is_said_twice(kubernetes: Path) -> None:
    """Metadata are local or in etcd, and a store whose metadata are local names no etcd."""
    local = containers(store(kubernetes))["vineyardd"]["args"]
    assert local[2:] == ["--", "--rpc=true", "--rpc_socket_port=9700", "--meta=local"]


def test_with_etcd(written: Written) -> None:
    """With etcd it is named."""
    args = containers(store(written("kubernetes", "meta=etcd", "etcd_endpoint=http://e:1")))["vineyardd"]["args"]
    assert args[-2:] == ["--meta=etcd", "--etcd_endpoint=http://e:1"]


@pytest.mark.parametrize(
    ("family", "endpoint"), [("ipv4", "$(VINEYARD_HOST):9600"), ("ipv6", "[$(VINEYARD_HOST)]:9600")]
)
def test_families_of_addresses(family: str, endpoint: str, written: Written) -> None:
    """An IPv6 address has brackets in an endpoint."""
    values = yaml.safe_load((written("kubernetes", f"ip_family={family}") / "values.yaml").read_text())
    env = {variable["name"]: variable.get("value") for variable in yaml.safe_load(values["extraEnv"])}
    assert env["AIRFLOW__VINEYARD__RPC_ENDPOINT"] == endpoint


def test_rows_are_looked_at_on_each_node(kubernetes: Path) -> None:
    """As many pods as nodes, never two on one, each beside a store and with its folders, in Airflow's namespace."""
    job = objects(kubernetes / "gc.yaml")["CronJob"]
    assert job["metadata"]["namespace"] == "flow"
    spec = job["spec"]["jobTemplate"]["spec"]
    assert spec["completions"] == spec["parallelism"] == 3
    pod = spec["template"]["spec"]
    values = yaml.safe_load((kubernetes / "values.yaml").read_text())
    (apart,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert pod["affinity"]["podAffinity"] == values["scheduler"]["affinity"]["podAffinity"]
    (container,) = pod["containers"]
    assert container["command"] == ["airflow-vineyard", "gc", "--orphans"]
    env = {variable["name"]: variable for variable in container["env"]}
    for variable in values["env"]:
        assert env[variable["name"]] == variable
    mounted = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert mounted == {volume["hostPath"]["path"] for volume in values["volumes"]} == {SOCKETS, SPILL}


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
        # The agent listens to nobody from outside; when it cannot go on it ends.
        assert container["name"] == "agent" or {"readinessProbe", "livenessProbe"} <= set(container)


def test_selectors_select(kubernetes: Path) -> None:
    """What a schema does not see: selectors, ports and volumes name what is there."""
    stores = objects(kubernetes / "vineyardd.yaml")["DaemonSet"]
    etcd = objects(kubernetes / "etcd.yaml")
    for workload in (stores, etcd["Deployment"]):
        template = workload["spec"]["template"]
        assert workload["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        for container in [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    labels = stores["spec"]["template"]["metadata"]["labels"]
    (port,) = containers(stores["spec"]["template"]["spec"])["vineyardd"]["ports"]
    assert port["containerPort"] == port["hostPort"] == 9700
    policy = objects(kubernetes / "networkpolicy.yaml")["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == [9700, 9601]
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
    stores = objects(kubernetes / "vineyardd.yaml")["DaemonSet"]
    pod = stores["spec"]["template"]
    for volumes in (values["volumes"], pod["spec"]["volumes"]):
        assert [volume["hostPath"]["path"] for volume in volumes] == [SOCKETS, SPILL]
    mounts = {mount["mountPath"] for mount in values["volumeMounts"]}
    assert mounts == {mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    (term,) = values["workers"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert term["namespaces"] == [stores["metadata"]["namespace"]] == ["stores"]
    told = {variable["name"]: variable["value"] for variable in values["env"]}
    for container in pod["spec"]["containers"]:
        assert told["AIRFLOW__VINEYARD__IPC_SOCKET"] in container["command"]
    agent = containers(pod["spec"])["agent"]
    assert told["AIRFLOW__VINEYARD__TIER"] == agent["env"][0]["value"]
    assert told["AIRFLOW__VINEYARD__SPILL"] == agent["args"][1]
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


Render = Callable[..., List[Object]]


@pytest.fixture
def render(executor: str, chart: Path, run: Any) -> Render:
    """Return what the chart makes of values; the template of the KubernetesExecutor's pods is added as a Pod."""

    def call(*flags: object) -> List[Object]:
        # Helm's list syntax of --set splits at commas, which the executor's name may hold.
        words = ["r1", chart, "--namespace", "flow", "--kube-version", "1.33.0", *flags]
        text = run("helm", "template", *words, "--set-string", f"executor={executor}".replace(",", r"\,")).stdout
        found = [each for each in yaml.safe_load_all(text) if each]
        templates = [
            each["data"]["pod_template_file.yaml"] for each in found if "pod_template_file.yaml" in each.get("data", {})
        ]
        assert len(templates) == ("KubernetesExecutor" in executor)
        return [*found, *map(yaml.safe_load, templates)]

    return call


# Whatever the chart can make, so that nothing is overlooked.
EVERYTHING = ("flower", "pgbouncer", "cleanup", "databaseCleanup")


@pytest.fixture
def rendered(kubernetes: Path, render: Render) -> List[Object]:
    """Return what the chart makes of our values."""
    flags = [word for name in EVERYTHING for word in ("--set", f"{name}.enabled=true")]
    return render("-f", kubernetes / "values.yaml", *flags)


def specs(rendered: List[Object]) -> Dict[str, Object]:
    """Return the specifications of all pods, by kind and name of what makes them."""
    found = {}
    for each in rendered:
        spec = each.get("spec", {})
        if each["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if each["kind"] != "Pod":
            spec = spec.get("template", {}).get("spec", {})
        if "containers" in spec:
            found[f"{each['kind']} {each['metadata']['name']}"] = spec
    return found


def test_what_the_values_do_to_where_pods_run(rendered: List[Object], render: Render) -> None:
    """Pods that mount the store's folders must run beside one. Nothing that the chart prefers is gone."""
    flags = [word for name in EVERYTHING for word in ("--set", f"{name}.enabled=true")]
    plain, ours = specs(render(*flags)), specs(rendered)
    assert set(plain) == set(ours)
    for name, spec in ours.items():
        affinity, before = (
            {kind: terms for kind, terms in (pod.get("affinity") or {}).items() if terms} for pod in (spec, plain[name])
        )
        required = affinity.pop("podAffinity", None)
        assert affinity == before, name
        mounts = SOCKETS in [volume.get("hostPath", {}).get("path") for volume in spec.get("volumes", [])]
        assert mounts == (required is not None), name
    spread = {name for name, spec in plain.items() if "podAntiAffinity" in (spec.get("affinity") or {})}
    assert len(spread) >= 4


def test_secrets_are_those_of_the_chart(rendered: List[Object], kubernetes: Path) -> None:
    """What gc.yaml reads, the chart makes."""
    made = {each["metadata"]["name"]: each.get("data", {}) for each in rendered if each["kind"] == "Secret"}
    (container,) = objects(kubernetes / "gc.yaml")["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    wanted = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each]
    assert len(wanted) == 2
    for each in wanted:
        assert each["key"] in made[each["name"]]


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
        (spill,) = [volume for volume in spec["volumes"] if volume["name"] == "vineyard-spill"]
        assert spill["hostPath"]["path"] == SPILL, name
        (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["labelSelector"]["matchLabels"] == {"app.kubernetes.io/instance": "stores-v1"}
        assert pod["metadata"]["labels"].items() >= {"tier": "airflow", "release": "r1"}.items()
        main = spec["containers"][0]
        assert main["image"] == "airflow-vineyard:3.3.2"
        mounts = [mount["mountPath"] for mount in main["volumeMounts"]]
        assert {"/var/run/vineyard", "/opt/airflow/spill"} <= set(mounts), name
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
