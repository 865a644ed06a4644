"""The agent's figures, as Prometheus reads them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Dict, List

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.ports import free_port
from vineyard_testing.tiers import Host, array

import vineyard_client as vc
from vineyard_client._agent.metrics import METRICS

LINE = re.compile(r'(# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"\\]*",?)+\})? -?[\d.e+-]+)\Z')


def listening(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def scrape(port: int, path: str = "/metrics") -> Dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=UNIT) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    assert text.endswith("\n")
    lines = text.splitlines()
    assert all(map(LINE.match, lines)), text
    return parsed(lines)


def parsed(lines: List[str]) -> Dict[str, float]:
    found = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name.partition("{")[0]: float(value) for name, _, value in found}


def test_with_a_tier(host: Host) -> None:
    """All metrics are there; they follow what is put, saved and lost of the server."""
    port = free_port()
    host.start_agent("--metrics", f"127.0.0.1:{port}")
    found = scrape(port)
    assert set(found) == set(METRICS)
    assert (found["vineyard_up"], found["vineyard_memory_limit_bytes"]) == (1.0, 64 << 20)
    assert found["vineyard_saved_values_total"] == found["vineyard_unsaved_values"] == 0
    with host.connect("behind") as client:
        ref = client.put(array(1))
        host.all_saved()
        until(lambda: scrape(port)["vineyard_saved_values_total"] == 1, "it counts", 3 * UNIT)
        found = scrape(port)
        assert found["vineyard_saved_bytes_total"] == ref.size
        assert found["vineyard_memory_used_bytes"] >= ref.size
        assert found["vineyard_clients"] >= 1
    host.kill()
    until(lambda: scrape(port)["vineyard_up"] == 0, "the server is gone", 3 * UNIT)
    assert "vineyard_memory_used_bytes" not in scrape(port)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(port, "/else")
    assert host.end_agent() == 0


def test_without_a_tier(tmp_path: Path) -> None:
    """There are the store's figures alone."""
    port = free_port()
    path = str(tmp_path / "s")
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", path, "--metrics", f"127.0.0.1:{port}"]
    with vc.EmbeddedServer("64Mi", socket=path), subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until(lambda: listening(port), "it listens", 3 * UNIT)
        assert set(scrape(port)) == {name for name, metric in METRICS.items() if not metric.path}
        process.terminate()
        assert process.wait(3 * UNIT) == 0


def test_by_command(tmp_path: Path) -> None:
    """A store without an agent is asked by a command: it prints what an agent serves, or serves it."""
    path, port = str(tmp_path / "s"), free_port()
    command = [sys.executable, "-m", "vineyard_client", "metrics", "--socket", path]

    def printed() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=3 * UNIT).stdout

    assert parsed(printed().splitlines()) == {"vineyard_up": 0.0}
    with vc.EmbeddedServer("64Mi", socket=path) as server, vc.Client(path) as client:
        text = printed()
        found = parsed(text.splitlines())
        assert set(found) == {name for name, metric in METRICS.items() if not metric.path}
        assert found["vineyard_memory_limit_bytes"] == 64 << 20 and 0 < found["vineyard_scrape_duration_seconds"] < 60
        assert found["vineyard_process_private_memory_bytes"] > 1 << 20
        status = client.status()
        labels = f'version="{status.version}",metadata="{status.metadata}",instance_id="{status.instance_id}"'
        assert f"vineyard_info{{{labels}}} 1\n" in text
        client.put(array(1))
        used = parsed(printed().splitlines())
        assert used["vineyard_process_shared_memory_bytes"] >= found["vineyard_process_shared_memory_bytes"]
        with subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"]) as process:
            until(lambda: not process.poll() and listening(port), "it listens", 3 * UNIT)
            assert set(scrape(port)) == set(found)
            server.stop()
            until(lambda: scrape(port) == {"vineyard_up": 0.0}, "the server is gone", 3 * UNIT)
            process.terminate()
            assert process.wait(3 * UNIT) == 0


@pytest.mark.parametrize("address", ["", "host", "host:", ":x", "1:70000"])
def test_nowhere_to_listen(address: str, tmp_path: Path) -> None:
    """A wrong address is refused at once."""
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", str(tmp_path / "s"), "--metrics", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "nowhere to listen" in done.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    """An agent that cannot listen there says so and ends."""
    with closing(socket.socket()) as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        where = f"127.0.0.1:{busy.getsockname()[1]}"
        command = [
            sys.executable,
            "-m",
            "vineyard_client",
            "agent",
            "--socket",
            str(tmp_path / "s"),
            "--metrics",
            where,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3 * UNIT)
    assert done.returncode == 1 and "in use" in done.stderr and "Traceback" not in done.stderr
