"""Three hosts as network namespaces: ``control`` with PostgreSQL, Redis and Airflow's services, ``a`` and ``b`` with a
Celery worker and a vineyardd each.

Every worker host has a link to control, and there is one link between the two workers that nothing but vineyard uses:
references carry that address. What crosses it can be read off its counters.

Whatever is started is a child of the test and is ended with it, the namespaces are removed, and nothing is written
outside of one temporary folder. Needs root, ``ip`` (iproute2), PostgreSQL and Redis, as Debian packages them.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[3]
PREFIX = f"vy{os.getpid() % 10000}"
CONTROL = "10.88.0.1"
DATA = {"a": "10.88.9.1", "b": "10.88.9.2"}
RPC_PORT = 9600
API_PORT = 8080

# Calls a URL from inside of a host.
CALL = """
import sys, urllib.request
method, url, body = sys.argv[1:]
data = None if body == "null" else body.encode()
call = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
print(urllib.request.urlopen(call, timeout=60).read().decode())
"""

PACKAGES = "iproute2 postgresql redis-server"


def missing() -> str:
    """Return why this machine cannot be three hosts, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    programs = [name for name in ("ip", "redis-server") if not shutil.which(name)]
    if programs or not _postgres_folder():
        return f"not all of {PACKAGES} are installed (apt-get install {PACKAGES})"
    probe = subprocess.run(["ip", "netns", "add", f"{PREFIX}probe"], stderr=subprocess.PIPE, text=True, check=False)
    if probe.returncode:
        return f"network namespaces are not permitted here: {probe.stderr.strip()}"
    _run("ip", "netns", "delete", f"{PREFIX}probe")
    return ""


def _postgres_folder() -> Optional[str]:
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return folders[-1] if folders else None


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def wait_until(ready: Callable[[], Any], what: str, seconds: float, alive: Callable[[], None]) -> Any:
    """Return the first true answer.

    Raises:
        TimeoutError: there was none in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = ready()
        if answer:
            return answer
        alive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)


class Machines:
    """The three hosts; ``start`` brings everything up, ``stop`` ends it.

    Args:
        env: settings beyond the usual.
        queues: what the worker of each host listens to; its own queue, called as the host, unless it is given.
        size: of each host's store.
    """

    def __init__(
        self, env: Optional[Dict[str, str]] = None, *, queues: Optional[str] = None, size: str = "1Gi"
    ) -> None:
        self._queues = queues
        self._size = size
        self.folder = Path(tempfile.mkdtemp(prefix="vy2h-"))
        self.folder.chmod(0o755)
        self.processes: List[Tuple[str, subprocess.Popen[bytes]]] = []
        scripts = sysconfig.get_path("scripts")
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "VINEYARD_", "PYTEST_"))},
            "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT / "tests" / "two_hosts" / "config"),
            "VINEYARD_PROOF": "1",  # what tasks return is read again at once and must be the same
            "PYTHONWARNINGS": "ignore",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "examples" / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{CONTROL}:{API_PORT}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__API__PORT": str(API_PORT),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": "a secret of the test",
            "AIRFLOW__API_AUTH__JWT_SECRET": "another secret of the test, which has to be long enough for HMAC-SHA-512",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://airflow@{CONTROL}/airflow",
            "AIRFLOW__CELERY__BROKER_URL": f"redis://{CONTROL}:6379/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://airflow@{CONTROL}/airflow",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
            **(env or {}),
        }

    # ---- network

    def _network(self) -> None:
        for host in ("control", "a", "b"):
            _run("ip", "netns", "add", self._space(host))
            self._ip(host, "link", "set", "lo", "up")
        self._ip("control", "address", "add", f"{CONTROL}/32", "dev", "lo")
        for number, host in enumerate(("a", "b"), start=1):
            self._link(("control", f"to-{host}", f"10.88.{number}.1/24"), (host, "control", f"10.88.{number}.2/24"))
            self._ip(host, "route", "add", CONTROL, "via", f"10.88.{number}.1")
        self._link(("a", "data", f"{DATA['a']}/24"), ("b", "data", f"{DATA['b']}/24"))

    def _link(self, *ends: Tuple[str, str, str]) -> None:
        names = [f"{PREFIX}{index}" for index in range(2)]
        _run("ip", "link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for name, (host, device, address) in zip(names, ends):
            _run("ip", "link", "set", name, "netns", self._space(host))
            self._ip(host, "link", "set", name, "name", device)
            self._ip(host, "address", "add", address, "dev", device)
            self._ip(host, "link", "set", device, "up")

    def _space(self, host: str) -> str:
        return f"{PREFIX}-{host}"

    def _ip(self, host: str, *arguments: str) -> None:
        _run("ip", "-n", self._space(host), *arguments)

    def limit(self, rate: str) -> None:
        """Let the link between the worker hosts carry no more than this in each direction, such as ``1gbit``."""
        for host in DATA:
            # A burst is what fits into a few scheduling intervals of a kernel with 250 of them in a second.
            shape = ["tbf", "rate", rate, "burst", "1mb", "latency", "50ms"]
            _run("tc", "-n", self._space(host), "qdisc", "replace", "dev", "data", "root", *shape)

    def received(self, host: str) -> int:
        """Return how many bytes a worker host has received from the other one."""
        statistics = "/sys/class/net/data/statistics/rx_bytes"
        return int(_run("ip", "netns", "exec", self._space(host), "cat", statistics))

    # ---- processes

    def home(self, host: str) -> Path:
        """Return the AIRFLOW_HOME of a host."""
        return self.folder / host

    def socket(self, host: str) -> str:
        """Return the IPC socket of a worker host's vineyardd."""
        return str(self.folder / host / "vineyard.sock")

    def command(self, host: str, *command: str) -> Tuple[List[str], Dict[str, str]]:
        """Return a command for a host, and its environment."""
        env = {**self.env, "AIRFLOW_HOME": str(self.home(host))}
        if host in DATA:
            env["AIRFLOW__VINEYARD__IPC_SOCKET"] = self.socket(host)
            env["AIRFLOW__VINEYARD__RPC_ENDPOINT"] = f"{DATA[host]}:{RPC_PORT}"
        return ["ip", "netns", "exec", self._space(host), *command], env

    def run(self, host: str, *command: str, **options: Any) -> str:
        """Run a command on a host and return what it printed; it must succeed."""
        line, env = self.command(host, *command)
        done = subprocess.run(
            line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} on {host} exited with {done.returncode}:\n{done.stdout[-4000:]}")
        return done.stdout

    def rest(self, method: str, path: str, body: Any) -> str:
        """Call Airflow's REST API, which takes a tenth of the time that a command of Airflow's takes."""
        url = f"http://{CONTROL}:{API_PORT}/api/v2{path}"
        return self.run("control", sys.executable, "-c", CALL, method, url, json.dumps(body))

    def launch(self, host: str, name: str, *command: str, user: Optional[str] = None) -> None:
        """Start a process on a host that runs until ``stop``."""
        line, env = self.command(host, *command)
        if user:
            line[4:4] = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(line, env=env, stdout=log, stderr=log, start_new_session=True, cwd=self.folder)
        self.processes.append((name, process))

    def check_alive(self) -> None:
        """Fail if something that should run has ended."""
        for name, process in self.processes:
            if process.poll() is not None:
                tail = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{tail}")

    def start(self) -> None:
        """Bring up the network, then the services, then the workers."""
        for host in ("control", "a", "b"):
            self.home(host).mkdir()
        self._network()
        self._postgres()
        self.launch("control", "redis", "redis-server", "--bind", CONTROL, "--save", "", "--protected-mode", "no")
        self.run("control", "airflow", "db", "migrate")
        for name in ("api-server", "scheduler", "dag-processor"):
            self.launch("control", name, "airflow", name)
        server = self.run("a", sys.executable, "-c", "from vineyard_client.server import find_binary as f; print(f())")
        for host in DATA:
            options = [f"--size={self._size}", "--meta=local", "--rpc=true", f"--rpc_socket_port={RPC_PORT}"]
            self.launch(host, f"vineyardd-{host}", server.split()[-1], f"--socket={self.socket(host)}", *options)
            self.worker(host)

    def worker(self, host: str) -> None:
        """Start the worker of a host."""
        # All hosts have the name of this machine.
        name = ["-H", f"celery@{host}"]
        self.launch(host, f"worker-{host}", "airflow", "celery", "worker", *name, "-q", self._queues or host)

    def end(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a process that was launched, with all that it started."""
        (process,) = [process for other, process in self.processes if other == name]
        self.processes = [(other, process) for other, process in self.processes if other != name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait()

    def redis(self, *command: str) -> str:
        """Run a command of Redis's own client."""
        return self.run("control", "redis-cli", "-h", CONTROL, *command)

    def _postgres(self) -> None:
        folder = _postgres_folder()
        assert folder
        data, owner = self.folder / "postgres", pwd.getpwnam("postgres")
        data.mkdir(mode=0o700)
        os.chown(data, owner.pw_uid, owner.pw_gid)
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        _run(*as_postgres, f"{folder}/initdb", "-D", str(data), "-U", "airflow", "-A", "trust", "--no-sync")
        with open(data / "pg_hba.conf", "a") as file:
            file.write("host all all 10.88.0.0/16 trust\n")
        options = ["-c", f"listen_addresses={CONTROL}", "-k", str(data), "-c", "fsync=off"]
        self.launch("control", "postgres", f"{folder}/postgres", "-D", str(data), *options, user="postgres")
        ready = [*as_postgres, f"{folder}/pg_isready", "-q", "-h", str(data)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL", 60, self.check_alive)
        _run(*as_postgres, f"{folder}/createdb", "-h", str(data), "-U", "airflow", "airflow")

    def query(self, sql: str) -> List[Tuple[Any, ...]]:
        """Return the rows of a query to Airflow's database."""
        import psycopg2

        connection = psycopg2.connect(host=str(self.folder / "postgres"), user="airflow", dbname="airflow")
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            connection.close()

    def stop(self) -> None:
        """End everything and remove every trace."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for name, process in reversed(self.processes):
                if name != "postgres" or number == signal.SIGKILL:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
            for _, process in reversed(self.processes):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10 if number == signal.SIGTERM else None)
        for host in ("control", "a", "b"):
            subprocess.run(["ip", "netns", "delete", self._space(host)], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.folder)
