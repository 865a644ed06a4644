"""A host of a test's own: a server, an agent beside it, clients, and a look at what is noted and saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import numpy as np

import vineyard_client as vc
from vineyard_client._tiers import doorbell
from vineyard_client._tiers.notes import Notes
from vineyard_client._tiers.urls import open_tier

from . import UNIT, until
from .processes import paused

__all__ = ["Host", "array", "same"]


def array(megabytes: float = 1, seed: int = 0) -> np.ndarray:
    return np.resize(np.random.default_rng(seed).integers(0, 255, 100_003, dtype=np.uint8), int(megabytes * (1 << 20)))


def same(value: object, expected: np.ndarray) -> bool:
    """Whether an array is another one; numpy's own comparison takes seconds for large ones."""
    return isinstance(value, np.ndarray) and value.shape == expected.shape and value.tobytes() == expected.tobytes()


class Host:
    """A server, an agent, and clients of a test's own."""

    def __init__(
        self,
        folder: Path,
        url: str,
        options: Optional[Dict[str, str]] = None,
        size: str = "64Mi",
        timeout: float = 2 * UNIT,
    ) -> None:
        self.folder = folder
        self.socket = str(folder / "s")
        self.url = url
        self.options = options or {}
        self.size = size
        self.timeout = timeout
        self.log = folder / "agent.out"
        self.agent: Optional[subprocess.Popen[bytes]] = None
        self.server = vc.EmbeddedServer(size, socket=self.socket).start()

    def tier(self, durability: str) -> vc.TierOptions:
        return vc.TierOptions(self.url, durability=durability, reserve=0.0, timeout=self.timeout, options=self.options)

    def connect(self, durability: str = "behind") -> vc.Client:
        return vc.Client(self.socket, tier=self.tier(durability))

    def start_agent(self, *arguments: str, wait: bool = True) -> None:
        command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", self.socket, "--tier", self.url]
        command += ["--reserve", "0", "--timeout", str(self.timeout)]
        for name, value in self.options.items():
            command += ["--tier-option", f"{name}={value}"]
        with self.log.open("ab") as out:
            self.agent = subprocess.Popen([*command, *arguments], stdout=out, stderr=out)
        if wait:
            until(lambda: doorbell.ring(self.socket) or self.ended(), "the agent listens", 3 * UNIT)
            until(lambda: self.status()["store"], "the agent has the store")

    def ended(self) -> bool:
        assert self.agent is not None
        assert self.agent.poll() is None, self.log.read_text()
        return False

    def end_agent(self, number: int = signal.SIGTERM) -> int:
        assert self.agent is not None
        self.agent.send_signal(number)
        return self.agent.wait(3 * UNIT)

    def restart(self) -> None:
        self.kill()
        self.server = vc.EmbeddedServer(self.size, socket=self.socket).start()

    def kill(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.stop()

    def status(self) -> Dict[str, Any]:
        return doorbell.ask(self.socket, {"do": "status"}, UNIT)

    @contextmanager
    def killed_with_a_backlog(self) -> Iterator[vc.Client]:
        """Yield a client whose values nobody saves; then the server is killed, all is saved, and a new one starts."""
        self.start_agent()
        assert self.agent is not None
        with paused(self.agent.pid):
            with self.connect() as client:
                yield client
            self.kill()
        self.all_saved()
        assert self.notes("lost") == []
        self.server = vc.EmbeddedServer(self.size, socket=self.socket).start()

    def all_saved(self) -> None:
        until(lambda: not self.notes("unsaved"), "all is saved", 3 * UNIT)

    def notes(self, kind: str) -> List[str]:
        return sorted(Notes(self.socket + ".tier").names(kind))

    def keys(self) -> List[str]:
        return sorted(entry.key for entry in open_tier(self.url, options=self.options).list(""))

    def close(self) -> None:
        if self.agent is not None and self.agent.poll() is None:
            self.agent.kill()
            self.agent.wait()
        self.server.stop()
