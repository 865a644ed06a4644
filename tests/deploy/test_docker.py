"""The image and the Compose files: linters, schemas, and that the files say the same of vineyard."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from airflow_vineyard_deploy.cli import main
from airflow_vineyard_deploy.settings import SETTINGS

Written = Callable[..., Path]
Compose = Callable[..., Dict[str, Any]]

COMPOSE = ("docker-compose.yaml", "docker-compose.plain.yaml", "docker-compose.vineyard.yaml")
SECOND_HOST = ("airflow-worker-2", "vineyardd-2", "vineyard-agent-2")
AIRFLOW = ("init", "apiserver", "scheduler", "dag-processor", "triggerer", "worker", "cli")
UID = {"AIRFLOW_UID": "1234"}
MOUNTS = {"vineyard": "/var/run/vineyard", "spill": "/opt/airflow/spill"}


@pytest.fixture
def docker(written: Written) -> Path:
    """The folder as it is written."""
    return written("docker")


def test_dockerfile(docker: Path, run: Any) -> None:
    """Hadolint finds nothing, and no line changes the user that Airflow's image runs as."""
    run("hadolint", docker / "Dockerfile")
    assert "USER" not in (docker / "Dockerfile").read_text()


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_file(name: str, docker: Path, run: Any) -> None:
    """Yamllint and the schema of the Compose specification have nothing against it."""
    run("yamllint", "--strict", "-c", Path(__file__).parent / "yamllint.yaml", docker / name)
    if name != "docker-compose.vineyard.yaml":  # whose services are no whole ones
        run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", docker / name)


def test_the_diff_leads_from_one_to_the_other(docker: Path, run: Any, tmp_path: Path) -> None:
    """Applied to the file without vineyard, the diff gives the reference."""
    out = tmp_path / "patched.yaml"
    plain, diff = docker / "docker-compose.plain.yaml", docker / "docker-compose.yaml.diff"
    run("patch", "--fuzz=0", f"--output={out}", plain, diff)
    assert out.read_text() == (docker / "docker-compose.yaml").read_text()


def test_the_override_makes_the_reference(docker: Path, compose: Compose) -> None:
    """Laid over the file without vineyard, the override gives the reference, less its second host."""
    merged = compose(docker, "docker-compose.plain.yaml", "docker-compose.vineyard.yaml", **UID)
    reference = compose(docker, "docker-compose.yaml", **UID)
    for name in SECOND_HOST:
        del reference["services"][name]
    for name in ("vineyard-2", "spill-2"):
        del reference["volumes"][name]
    assert _without_extensions(merged) == _without_extensions(reference)


def _without_extensions(project: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in project.items() if not key.startswith("x-")}


def test_the_override_for_airflow_2(compose: Compose, tmp_path: Path) -> None:
    """Over the services of Airflow 2's official file it invents none: it adds a store with its agent."""
    name = "docker-compose.vineyard.yaml"
    assert main(["write", f"docker/{name}", str(tmp_path), "--set", "airflow_version=2.11.2"]) == 0
    shutil.copy(Path(__file__).parent / "airflow2.yaml", tmp_path)
    plain, merged = (
        compose(tmp_path, *files, **UID)["services"] for files in (["airflow2.yaml"], ["airflow2.yaml", name])
    )
    assert set(merged) == {*plain, "vineyardd", "vineyard-agent"}
    for service in plain:
        if service.startswith("airflow-"):
            assert merged[service]["image"] == "airflow-vineyard:2.11.2"
            assert merged[service]["environment"]["AIRFLOW__VINEYARD__RPC_ENDPOINT"] == "vineyardd:9600"
            assert merged[service].get("command") == plain[service].get("command")


def test_what_the_override_changes(docker: Path, compose: Compose) -> None:
    """Store and agent are added; of Airflow's services image, six variables and two mounts change; the worker waits."""
    plain = compose(docker, "docker-compose.plain.yaml", **UID)
    merged = compose(docker, "docker-compose.plain.yaml", "docker-compose.vineyard.yaml", **UID)
    expected = copy.deepcopy(plain["services"])
    for name in AIRFLOW:
        service = expected[f"airflow-{name}"]
        service["image"] = "airflow-vineyard:" + SETTINGS["airflow_version"].default
        service["environment"].update(
            AIRFLOW__CORE__XCOM_BACKEND="airflow_provider_vineyard.xcom.VineyardXCom",
            AIRFLOW__VINEYARD__IPC_SOCKET="/var/run/vineyard/vineyard.sock",
            AIRFLOW__VINEYARD__RPC_ENDPOINT="vineyardd:9600",
            AIRFLOW__VINEYARD__PEERS="vineyardd*:9600",
            AIRFLOW__VINEYARD__TIER="",
            AIRFLOW__VINEYARD__SPILL="/opt/airflow/spill",
        )
        for source, target in MOUNTS.items():
            service["volumes"].append({"type": "volume", "source": source, "target": target, "volume": {}})
    waits = expected["airflow-worker"]["depends_on"]
    waits["vineyardd"] = {"condition": "service_healthy", "required": True}
    waits["vineyard-agent"] = {"condition": "service_started", "required": True}
    found = merged["services"]
    for name in ("vineyardd", "vineyard-agent"):
        del found[name]
    assert found == expected


def test_the_second_host(docker: Path, compose: Compose) -> None:
    """It is as the first one, but for its volumes, the endpoint that it advertises, and what it waits for."""
    services = compose(docker, "docker-compose.yaml", **UID)["services"]
    for name in ("vineyardd", "vineyard-agent", "airflow-worker"):
        first, second = services[name], services[f"{name}-2"]
        for volume in first["volumes"]:
            if volume["source"] in MOUNTS:
                volume["source"] += "-2"
        assert sorted(first.pop("volumes"), key=str) == sorted(second.pop("volumes"), key=str)
        if name == "airflow-worker":
            first["environment"]["AIRFLOW__VINEYARD__RPC_ENDPOINT"] = "vineyardd-2:9600"
        waits = first.get("depends_on", {})
        waits.update({f"{each}-2": waits[each] for each in ("vineyardd", "vineyard-agent") if each in waits})
        assert first == second


def test_the_agent(docker: Path, compose: Compose) -> None:
    """It has tier, age and time from .env, credentials that nobody else has, and no more rights than a store."""
    (docker / "tier.env").write_text("AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=s\n")
    settings = {"VINEYARD_TIER": "s3://values/x", "VINEYARD_OLDER_THAN": "7d", "VINEYARD_GRACE": "90"}
    services = compose(docker, "docker-compose.yaml", **settings, **UID)["services"]
    for number in ("", "-2"):
        agent, store = services[f"vineyard-agent{number}"], services[f"vineyardd{number}"]
        assert agent["entrypoint"][-2:] == ["--spill", MOUNTS["spill"]]
        assert agent["command"] == ["--older-than", "7d", "--metrics", "9601"]
        assert agent["environment"].items() >= {"VINEYARD_TIER": "s3://values/x", "AWS_ACCESS_KEY_ID": "a"}.items()
        assert agent["stop_grace_period"] == "1m30s"
        for same in ("image", "user", "read_only", "cap_drop", "security_opt"):
            assert agent[same] == store[same]
    for name, service in services.items():
        assert ("s" in service.get("environment", {}).values()) == name.startswith("vineyard-agent"), name
        if name.startswith("airflow-"):
            assert service["environment"]["AIRFLOW__VINEYARD__TIER"] == "s3://values/x"


def test_commands_are_of_our_programs(docker: Path, compose: Compose) -> None:
    """What stores and agents run, the client's command line knows, down to each option."""
    cli = pytest.importorskip("vineyard_client.cli", reason="the client is not installed here")
    for name, service in compose(docker, "docker-compose.yaml", **UID)["services"].items():
        if name.startswith("vineyard"):
            words = [*service["entrypoint"], *service["command"]]
            assert words[0] == "vineyard-client"
            cli._parser().parse_args(words[1:])


def test_the_store_is_unprivileged(docker: Path, compose: Compose) -> None:
    """It runs as Airflow's user, without capabilities, reserves its memory, and its health is asked of itself."""
    store = compose(docker, "docker-compose.yaml", VINEYARDD_SIZE="512Mi", **UID)["services"]["vineyardd"]
    assert store["user"] == "1234:0"
    assert (store["cap_drop"], store["security_opt"], store["read_only"]) == (["ALL"], ["no-new-privileges:true"], True)
    assert "privileged" not in store and "ports" not in store
    assert "--reserve-memory" in store["entrypoint"]
    assert store["command"] == ["--size", "512Mi", "--", "--rpc=true", "--rpc_socket_port=9600"]
    assert store["healthcheck"]["test"][1:3] == ["vineyard-client", "status"]


def test_without_env_nothing_starts(docker: Path, run: Any) -> None:
    """Compose refuses the project, and says what to copy."""
    for files in (["docker-compose.yaml"], ["docker-compose.plain.yaml", "docker-compose.vineyard.yaml"]):
        flags = [word for file in files for word in ("-f", file)]
        done = run("docker-compose", *flags, "config", check=False, cwd=docker)
        assert done.returncode
        assert "copy .env.example to .env" in done.stderr


def test_the_example_has_every_setting(docker: Path, compose: Compose) -> None:
    """Each variable that the files read is in .env.example, none besides; with it they mean what they mean without."""
    text = "".join((docker / name).read_text() for name in COMPOSE)
    read = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    example = (docker / ".env.example").read_text()
    assert set(re.findall(r"^(\w+)=", example, re.MULTILINE)) == read
    without = compose(docker, "docker-compose.yaml", AIRFLOW_UID=SETTINGS["airflow_uid"].default)
    (docker / ".env").write_text(example)
    assert compose(docker, "docker-compose.yaml") == without
