"""The systemd units on a host whose first process is systemd: the README's steps, with a bucket as the tier.

The host is a container that may make namespaces, for the units' own sandboxes, and has the control groups of systemd's.
The tests of this module stand in the order of a host's life and share one.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Dict, Iterator

import pytest
from vineyard_testing.compose import Project
from vineyard_testing.engine import Engine
from vineyard_testing.machines import wait_until
from vineyard_testing.markdown import by_language

HERE = Path(__file__).parent
NAME, NETWORK, BUCKET = "deploy-e2e-host", "deploy-e2e-host", "deploy-e2e-host-bucket"
UNITS = ("vineyardd", "vineyard-agent")
VALUES = 8

# Of the host, which is Debian 12.
PYTHON = "3.11"

# The README's steps: the first one writes the units, the others are root's on the host.
(STEPS, AGENT_STEPS) = [
    block.commands for block in by_language("console")["packages/deploy/README.md"] if "systemctl enable" in block.text
]

# What a task does with the store; its values are saved after it has ended, so that some are not yet when one looks.
CLIENT = """
import ast, sys
import vineyard_client as vc

tier = vc.TierOptions("s3://values/of-hosts", durability="behind", spill="/var/lib/vineyard")
client = vc.connect("/run/vineyard/vineyard.sock", tier=tier)
"""
PUT = f"""{CLIENT}
for i in range({VALUES}):
    print(client.put(bytes([i]) * 1_000_000).to_json())
"""
GET = f"""{CLIENT}
for i, line in enumerate(sys.stdin):
    assert client.get(vc.ObjectRef.from_json(ast.literal_eval(line))) == bytes([i]) * 1_000_000
print(i + 1)
"""


class Host:
    """The host, and its commands."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def docker(self, *arguments: str, **options: object) -> str:
        return self.engine.run("docker", *arguments, **options)

    def run(self, *command: str, user: str = "root", **options: object) -> str:
        return self.docker("exec", "--interactive", "--user", user, NAME, *command, **options)

    def python(self, script: str, **options: object) -> str:
        """Run a script as a task of Airflow would."""
        return self.run("/opt/airflow/venv/bin/python", "-c", script, user="airflow", **options)

    def is_active(self, unit: str) -> str:
        return self.run("systemctl", "is-active", unit, check=False).strip()

    def shown(self, unit: str, *names: str) -> Dict[str, str]:
        """Return properties of a unit."""
        out = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in out.splitlines())

    def metrics(self) -> Dict[str, float]:
        """Return the agent's figures; none while it does not answer."""
        out = self.run("curl", "--silent", "http://127.0.0.1:9601/metrics", check=False)
        return {line.split()[0]: float(line.split()[1]) for line in out.splitlines() if not line.startswith("#")}

    def log(self) -> str:
        return self.run("journalctl", "--no-pager", "--lines=80", *(f"--unit={unit}" for unit in UNITS))

    def wait(self, unit: str, state: str) -> None:
        """Wait until a unit is in a state."""
        try:
            wait_until(lambda: self.is_active(unit) == state, f"{unit} is {state}", 60, lambda: None)
        except TimeoutError as error:
            raise AssertionError(self.log()) from error

    def booted(self) -> None:
        """Wait until systemd takes requests."""
        wait_until(lambda: self.is_active("multi-user.target") == "active", "the host is up", 60, lambda: None)


@pytest.fixture(scope="module")
def host(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host with both units, as the README says."""
    clone = tmp_path_factory.mktemp("clone")
    settings = ("vineyardd_size=256Mi", "tier=s3://values/of-hosts", f"python_version={PYTHON}")
    small = STEPS[0].replace("vineyardd_size=8Gi", " --set ".join(settings))
    assert small != STEPS[0]
    Project(engine, clone, "units", {}).step(small)
    engine.stand_in("e2e/host:1", HERE / "images" / "host")
    made = Host(engine)
    try:
        made.docker("network", "create", NETWORK)
        attached = ("--detach", f"--network={NETWORK}")
        made.docker("run", *attached, f"--name={BUCKET}", "--network-alias=bucket", "e2e/seaweedfs:1")
        # What systemd needs of a container. Units that sandbox their processes need the namespaces.
        rights = ("--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined")
        mounts = ("--tmpfs=/run", "--tmpfs=/run/lock", "--volume=/sys/fs/cgroup:/sys/fs/cgroup", "--cgroupns=host")
        made.docker("run", *attached, f"--name={NAME}", *rights, *mounts, "e2e/host:1")
        made.booted()
        for source, target in ((os.environ["WHEELS"], "/wheels"), (str(clone / "units"), "/root/units")):
            made.docker("cp", source, f"{NAME}:{target}")
        pip = ("/opt/airflow/venv/bin/pip", "install", "--quiet", "--pre", "--find-links=/wheels")
        made.run(*pip, "vineyard-client[server,buckets]")
        made.docker("cp", str(HERE / "tier.env"), f"{NAME}:/root/tier.env")
        root = 'set -eu; cd /root; sudo() { "$@"; }\n'
        made.run("bash", "-c", root + "\n".join(STEPS[1:]))
        made.run("install", "-m", "600", "/root/tier.env", "/etc/vineyard/tier.env")
        made.run("bash", "-c", root + "\n".join(AGENT_STEPS))
        yield made
    finally:
        for container in (NAME, BUCKET):
            made.docker("rm", "--force", "--volumes", container, check=False)
        made.docker("network", "rm", NETWORK, check=False)


def put_unsaved(host: Host) -> str:
    """Store values of which none is in the bucket, which does not answer from now on; each reference is a line."""
    host.docker("pause", BUCKET)
    lines = host.python(PUT)
    assert host.metrics()["vineyard_unsaved_values"] == VALUES, host.log()
    return lines


@pytest.fixture(scope="module")
def references(host: Host) -> str:
    """The first values, for the tests that follow."""
    wait_until(lambda: host.metrics().get("vineyard_up") == 1, "the agent answers", 60, lambda: None)
    return put_unsaved(host)


def test_systemd_finds_nothing(host: Host) -> None:
    """Where they will run it reads the units without a word about them."""
    paths = [f"/etc/systemd/system/{unit}.service" for unit in UNITS]
    out = host.run("bash", "-c", f"systemd-analyze verify --man=no {' '.join(paths)} 2>&1", check=False)
    assert "vineyard" not in out, out


def test_started_means_that_it_answers(host: Host) -> None:
    """Once enabled the store answers those of its group, and nobody else; nothing runs as root, or may become it."""
    for unit in UNITS:
        assert host.is_active(unit) == "active", host.log()
        pid = host.shown(unit, "MainPID")["MainPID"]
        status = host.run("cat", f"/proc/{pid}/status")
        assert "CapBnd:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
        assert host.run("stat", "--format=%U", f"/proc/{pid}").strip() == "vineyard"
    command = ("/opt/airflow/venv/bin/vineyard-client", "status", "--socket", "/run/vineyard/vineyard.sock")
    assert re.search(r"256\.0 MiB", host.run(*command, user="airflow"))
    with pytest.raises(RuntimeError, match="do not let this user in"):
        host.run(*command, user="nobody")


def test_the_agent_saves_the_rest_when_it_is_stopped(host: Host, references: str) -> None:
    """It ends when everything is in the bucket, whether the store runs or not; a new one has them from there."""
    host.run("systemctl", "stop", "--no-block", *UNITS)
    host.wait("vineyard-agent", "deactivating")
    host.docker("unpause", BUCKET)
    for unit in UNITS:
        host.wait(unit, "inactive")
        assert host.shown(unit, "Result") == {"Result": "success"}, host.log()
    host.run("systemctl", "start", *UNITS)
    assert host.python(GET, input=references).strip() == str(VALUES)


def test_a_killed_store_is_started_again(host: Host, references: str) -> None:
    """By systemd; the agent goes on, and the values are read as before."""
    agent = host.shown("vineyard-agent", "MainPID")
    host.run("systemctl", "kill", "--signal=KILL", "vineyardd")
    wait_until(
        lambda: host.shown("vineyardd", "NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"},
        "the store is back",
        60,
        lambda: None,
    )
    assert host.python(GET, input=references).strip() == str(VALUES)
    assert host.shown("vineyard-agent", "MainPID") == agent


def test_the_host_is_shut_down(host: Host, references: str) -> None:
    """The agent is the first to end, once all is saved; at the next start both come up, and all values are there."""
    more = put_unsaved(host)
    host.run("systemctl", "poweroff", "--no-block")
    host.wait("vineyard-agent", "deactivating")
    assert host.is_active("vineyardd") == "active"
    host.docker("unpause", BUCKET)
    host.docker("wait", NAME, timeout=60)
    host.docker("start", NAME)
    host.booted()
    for unit in UNITS:
        host.wait(unit, "active")
    for lines in (references, more):
        assert host.python(GET, input=lines).strip() == str(VALUES)


def test_metadata_in_etcd(host: Host) -> None:
    """The third unit runs as it is written, and the store says that its metadata are there."""
    host.run("install", "-m", "644", "/root/units/vineyard-etcd.service", "/etc/systemd/system/")
    host.run("sed", "--in-place", "s/^VINEYARDD_META=.*/VINEYARDD_META=etcd/", "/etc/vineyard/vineyardd.env")
    host.run("bash", "-c", "systemctl daemon-reload && systemctl enable --now vineyard-etcd")
    out = host.run("bash", "-c", "systemd-analyze verify --man=no /etc/systemd/system/vineyard-etcd.service 2>&1")
    assert "etcd" not in out, out
    host.run("systemctl", "restart", "vineyardd")
    command = ("/opt/airflow/venv/bin/vineyard-client", "status", "--socket", "/run/vineyard/vineyard.sock", "--json")
    assert json.loads(host.run(*command, user="airflow"))["metadata"] == "etcd"
    for unit in (*UNITS, "vineyard-etcd"):
        assert host.is_active(unit) == "active", host.log()
