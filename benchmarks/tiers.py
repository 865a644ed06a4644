"""What values that last cost, and what is done when a store is full: ``python benchmarks/tiers.py``.

Needs vineyard-client[server], pandas and pyarrow in this interpreter; Ray joins in where it is installed. With
``--airflow PYTHON``, an interpreter that has Airflow 3, both our packages and apache-airflow-providers-common-io, XComs
are put into a folder and read from it by our backend and by ``XComObjectStorageBackend``.

Each sample comes from a fresh process that has put, or got, a smaller value before. What is read from a folder is read
after the store's server has ended and another one was started, so it is in no store. All folders are on one disk, and
what was just written there is still in the kernel's cache, for everybody.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import values
import xcoms
from report import OURS, Report, collect, environment, fresh, options

BEHIND, THROUGH, FOLDER = f"{OURS}, behind", f"{OURS}, through", f"{OURS}, from the folder"
RAY = "Ray"

# What is saved when, by peer.
DURABILITY = {OURS: "none", BEHIND: "behind", THROUGH: "through", FOLDER: "through"}

VALUES = xcoms.VALUES

# A store, and what is put through it, in MiB: values of that size, and the least that Ray makes a store of.
SPILL = {"full": (512, 2048, 16), "quick": (80, 160, 8)}

TEXT = (
    "Durability costs little: with `behind` an agent saves what was put, with `through` it is in the folder before the "
    "put has ended. A full store makes room by itself."
)


def tier(folder: str, durability: str) -> Any:
    """Return the option of a client; no space is kept free, so that the disk of this machine does not matter."""
    import vineyard_client as vc

    return "none" if durability == "none" else vc.TierOptions(folder, durability=durability, reserve=0.0)


@contextlib.contextmanager
def agent(socket: str, folder: str) -> Iterator[None]:
    """Run the agent of a store until it has saved everything."""
    import vineyard_client as vc

    command = [sys.executable, "-m", "vineyard_client", "agent", f"--socket={socket}", f"--tier={folder}"]
    with subprocess.Popen([*command, "--reserve=0"], stderr=subprocess.DEVNULL, env=environment()) as process:
        try:
            with vc.connect(socket, tier=tier(folder, "behind")) as client:
                assert client.saved is not None
                deadline = time.monotonic() + 60
                while client.saved.status().agent is None:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit("the agent does not listen")
                    time.sleep(0.05)
            yield
        finally:
            process.terminate()


def made(what: str, size: str) -> Any:
    """Return a value, or with size "quick" a smaller one."""
    return values.make(what, size if size == "quick" else "")


# ---- samples: each runs in a fresh process


def putting(durability: str, socket: str, folder: str, what: str, size: str) -> List[float]:
    """Return the seconds of a put into memory that was used before."""
    import vineyard_client as vc

    with vc.connect(socket, tier=tier(folder, durability)) as client:
        for value in (values.make_first(what), made(what, size), made(what, size)):
            started = time.perf_counter()
            ref = client.put(value)
            took = time.perf_counter() - started
            if client.saved is not None:
                client.saved.drain(60)
            client.delete(ref)
    return [took]


def getting(durability: str, socket: str, folder: str, first: str, second: str) -> List[float]:
    """Return the seconds of a get, and of that and a look at every byte."""
    import vineyard_client as vc

    with vc.connect(socket, tier=tier(folder, durability)) as client:
        client.get(vc.ObjectRef.from_json(json.loads(first)))
        started = time.perf_counter()
        value: Any = client.get(vc.ObjectRef.from_json(json.loads(second)))
        middle = time.perf_counter()
        value.sum().sum()
        ended = time.perf_counter()
    return [middle - started, ended - started]


def xcom_put(rows: str, what: str, size: str) -> List[float]:
    """Return the seconds that Airflow's backend takes for a value, and leave its row, and that of a smaller one."""
    from airflow.sdk.execution_time.xcom import XCom

    found = []
    for name, value in (("warm", values.make_first(what)), ("value", made(what, size))):
        started = time.perf_counter()
        row = XCom.serialize_value(value, key="k", task_id=name, dag_id="benchmark", run_id="r", map_index=-1)
        took = time.perf_counter() - started
        found.append(row)
    Path(rows).write_text(json.dumps(found))
    return [took]


def xcom_get(rows: str, what: str, size: str) -> List[float]:
    """Return the seconds that it takes to read that."""
    from types import SimpleNamespace

    from airflow.sdk.execution_time.xcom import XCom

    expected = made(what, size)
    for row in json.loads(Path(rows).read_text()):
        started = time.perf_counter()
        value = XCom.deserialize_value(SimpleNamespace(value=row, key="k"))
        took = time.perf_counter() - started
    assert value.equals(expected)
    return [took]


def spilling(peer: str, folder: str, size: str) -> List[float]:
    """Return the seconds of all puts together, of the longest one, and of reading everything back."""
    import numpy as np

    store, total, each = SPILL[size]
    arrays = (np.full(each << 17, seed, dtype=np.int64) for seed in range(total // each))
    with contextlib.ExitStack() as stack:
        put, get = (_ray if peer == RAY else _store)(stack, folder, store)
        puts, handles = [], []
        for array in arrays:
            started = time.perf_counter()
            handles.append(put(array))
            puts.append(time.perf_counter() - started)
        started = time.perf_counter()
        for seed, handle in enumerate(handles):
            assert get(handle)[-1] == seed
        return [sum(puts), max(puts), time.perf_counter() - started]


def _store(stack: contextlib.ExitStack, folder: str, store: int) -> List[Callable[[Any], Any]]:
    import vineyard_client as vc

    server = stack.enter_context(vc.EmbeddedServer(size=f"{store}Mi"))
    stack.enter_context(agent(server.socket, folder))
    client = stack.enter_context(vc.connect(server.socket, tier=tier(folder, "behind")))
    return [client.put, client.get]


def _ray(stack: contextlib.ExitStack, folder: str, store: int) -> List[Callable[[Any], Any]]:
    import ray

    spill = json.dumps({"type": "filesystem", "params": {"directory_path": folder}})
    stack.callback(ray.shutdown)
    ray.init(
        num_cpus=1,
        object_store_memory=store << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        _system_config={"object_spilling_config": spill},
    )
    return [ray.put, ray.get]


SAMPLES: Dict[str, Callable[..., List[float]]] = {
    each.__name__: each for each in (putting, getting, xcom_put, xcom_get, spilling)
}


def take(*arguments: str, python: str = sys.executable, env: Dict[str, str] | None = None) -> List[float]:
    """Take a sample in a fresh process."""
    return [float(each) for each in fresh(python, __file__, "--sample", *arguments, env=env).split()]


# ---- what is compared


def puts(report: Report, place: Path, rounds: int, size: str) -> None:
    """Add the table of what a put costs with and without a tier."""
    import vineyard_client as vc

    report.table("put with a tier", "Into memory that was used before; `behind`, what was put before is saved by then.")
    folder = str(place / "puts")
    with vc.EmbeddedServer(size="1Gi") as server, agent(server.socket, folder):
        for what in VALUES:

            def one(peer: str, what: str = what) -> List[float]:
                return take("putting", DURABILITY[peer], server.socket, folder, what, size)

            for peer, samples in collect([OURS, BEHIND, THROUGH], rounds, one).items():
                report.add(what, peer, [sample[0] for sample in samples])


def gets(report: Report, place: Path, rounds: int, size: str) -> None:
    """Add the tables of what a get costs from memory, with and without a tier, and from a folder."""
    found = {what: collect([OURS, BEHIND, FOLDER], rounds, partial(_got, place, what, size)) for what in VALUES}
    for number, name in enumerate(("get with a tier", "get with a tier, and sum")):
        report.table(name, "From memory; and from the folder, after the server was restarted.")
        for what, peers in found.items():
            for peer, samples in peers.items():
                report.add(what, peer, [sample[number] for sample in samples])


def _got(place: Path, what: str, size: str, peer: str) -> List[float]:
    import vineyard_client as vc

    folder, socket = str(place / "gets"), str(place / "s")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(_Served(socket)))
        if peer == BEHIND:
            stack.enter_context(agent(socket, folder))
        with vc.connect(socket, tier=tier(folder, DURABILITY[peer])) as client:
            refs = [client.put(value) for value in (values.make_first(what), made(what, size))]
            if client.saved is not None:
                client.saved.drain(60)
        if peer == FOLDER:
            server.restart()
        texts = [json.dumps(ref.to_json()) for ref in refs]
        found = take("getting", DURABILITY[peer], socket, folder, *texts)
        with vc.connect(socket, tier=tier(folder, DURABILITY[peer])) as client:
            for ref in refs:
                client.delete(ref)
    return found


class _Served:
    """A store at a path, with a server that can be replaced."""

    def __init__(self, socket: str) -> None:
        import vineyard_client as vc

        self._make = lambda: vc.EmbeddedServer("1Gi", socket=socket).start()
        self._server = self._make()

    def restart(self) -> None:
        self._server.stop()
        self._server = self._make()

    def close(self) -> None:
        self._server.stop()


def folders(report: Report, place: Path, rounds: int, size: str, airflow: str) -> None:
    """Add the tables of XComs that last in a folder: by our backend, and by the one of common-io."""
    found: Dict[str, Any] = {}
    for what in VALUES:
        found[what] = collect([OURS, STORAGE], rounds, partial(_passed, place, what, size, airflow))
    for number, name in enumerate(("XCom into a folder", "XCom out of a folder")):
        report.table(
            name, "The backends' `serialize_value` and `deserialize_value`; ours after a restart of the server."
        )
        for what, peers in found.items():
            for peer, samples in peers.items():
                failed = isinstance(samples, str)
                report.add(what, peer, samples if failed else [sample[number] for sample in samples])


STORAGE = "XComObjectStorageBackend"


def _passed(place: Path, what: str, size: str, airflow: str, peer: str) -> List[float]:
    folder, rows = place / "xcoms", str(place / "rows.json")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.closing(_Served(str(place / "s"))) as server:
        backend = xcoms.STORAGE if peer == STORAGE else xcoms.OURS
        env = xcoms.environment(place, f"sqlite:///{place}/airflow.db", backend, str(place / "s"), str(folder))
        env.update(AIRFLOW__VINEYARD__TIER=str(folder), AIRFLOW__VINEYARD__DURABILITY="through")
        env.update(AIRFLOW__VINEYARD__DISK_RESERVE="0")
        put = take("xcom_put", rows, what, size, python=airflow, env=env)
        server.restart()
        return [*put, *take("xcom_get", rows, what, size, python=airflow, env=env)]


def spill(report: Report, place: Path, rounds: int, size: str) -> None:
    """Add the tables of a store that holds a part of what is put."""

    def one(peer: str) -> List[float]:
        folder = place / "spill"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return take("spilling", peer, str(folder), size)

    store, total, each = SPILL[size]
    case = f"{total} MiB in values of {each} MiB through {store} MiB"
    found = collect([OURS, RAY], rounds, one)
    for number, name in enumerate(("all puts", "longest put", "reading back")):
        report.table(f"more than the store holds: {name}", "")
        for peer, samples in found.items():
            report.add(case, peer, samples if isinstance(samples, str) else [sample[number] for sample in samples])


def main() -> None:
    """Take all samples and print the report."""
    arguments = options(__doc__, rounds=5, airflow=True)
    if arguments.sample:
        name, *rest = arguments.sample
        print(*SAMPLES[name](*rest))
        return
    report = Report("tiers", "Values that last", TEXT, arguments, "vineyard-client", "pandas")
    size = "quick" if arguments.quick else "full"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder)
        puts(report, place, arguments.rounds, size)
        gets(report, place, arguments.rounds, size)
        if arguments.airflow:
            folders(report, place, arguments.rounds, size, arguments.airflow)
        spill(report, place, arguments.rounds, size)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
