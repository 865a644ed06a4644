"""Which values come back as they were, from us and from others: ``python benchmarks/lossless.py``.

Every value of the codec's test matrix goes through each: ours by encoding and decoding, pickle likewise, the official
client's through a real server and back, Airflow's default backend by its serialisation and the JSON that its task
processes send. "Same" means the same type, and equal in dtype, index, names, order, flags and metadata. Prints
Markdown: a summary, and with ``--all`` a row for each value; ``--json FILE`` keeps the outcomes.

Ours runs in this interpreter, with whatever of numpy, pandas, pyarrow, polars, scipy, xarray and torch it has; the
official client runs in the one that ``--official PYTHON`` names, which needs ``vineyard==0.24.2`` and ``setuptools<81``
besides, Airflow's backend in the one that ``--airflow PYTHON`` names. What is not named is left out. Give all the same
versions of the libraries. The server comes with vineyard-client[server].

Values are taken by worker processes, so one that crashes or hangs costs itself only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 20

SAME, READ_ONLY, TYPE, VALUE, PUT, GET, DIES, UNAVAILABLE = (
    *("same", "equal, but read-only", "another type", "another value", "not written", "not read", "crash or hang"),
    "not in this version",
)
LOST = (TYPE, VALUE, PUT, GET, DIES)


# --- worker: one library, one client, one line of JSON for each value -----------------------------------------------


def ours(socket: str) -> Callable[[Any], Callable[[], Any]]:
    """Return what encodes a value and gives back what decodes it."""
    from vineyard_client import _codec

    def put(value: Any) -> Callable[[], Any]:
        encoded = _codec.encode(value, token=bytes(16))
        stored = bytearray(b"".join(encoded.chunks))
        return lambda: _codec.decode(memoryview(stored), token=bytes(16))

    return put


def official(socket: str) -> Callable[[Any], Callable[[], Any]]:
    """Return what puts a value into the server and gives back what gets it."""
    import vineyard

    client = vineyard.connect(socket)

    def put(value: Any) -> Callable[[], Any]:
        object_id = client.put(value)
        return lambda: client.get(object_id)

    return put


def pickles(socket: str) -> Callable[[Any], Callable[[], Any]]:
    """Return what pickles a value and gives back what unpickles it, whatever that runs."""
    import pickle

    def put(value: Any) -> Callable[[], Any]:
        stored = pickle.dumps(value, protocol=5)
        return lambda: pickle.loads(stored)

    return put


def airflow(socket: str) -> Callable[[Any], Callable[[], Any]]:
    """Return what serialises a value as Airflow's default backend does, and gives back what deserialises it."""
    try:
        from airflow.sdk import serde
    except ImportError:  # before 3.2
        from airflow.serialization import serde

    def put(value: Any) -> Callable[[], Any]:
        stored = json.dumps(serde.serialize(value), allow_nan=False)  # as it is sent to the API server
        return lambda: serde.deserialize(json.loads(stored))

    return put


CLIENTS = {"ours": ours, "official": official, "airflow": airflow, "pickle": pickles}


def outcome(value: Any, put: Callable[[Any], Callable[[], Any]]) -> Tuple[str, str]:
    """Take a value through a client and say what became of it, and how."""
    from codec_matrix import assert_same

    try:
        get = put(value)
    except Exception as exc:
        return PUT, type(exc).__name__
    try:
        result = get()
    except Exception as exc:
        return GET, type(exc).__name__
    for name in ("__vineyard_ref", "__vineyard_client"):  # the official client's own notes on what it returns
        getattr(result, "__dict__", {}).pop(name, None)
    subclass = type(result) is not type(value) and isinstance(result, type(value)) and hasattr(result, "view")
    try:
        # The official client's arrays are of a subclass of its own, which nobody minds who gets the same otherwise.
        assert_same(value, result.view(type(value)) if subclass else result)
    except AssertionError as exc:
        if str(exc).startswith("read-only"):
            return READ_ONLY, _name(result) if subclass else ""
        if type(value) is not type(result):
            return TYPE, f"{_name(value)} → {_name(result)}"
        return VALUE, _inner(str(exc))
    except Exception as exc:
        return VALUE, f"{type(exc).__name__} when compared"
    return (READ_ONLY, _name(result)) if subclass else (SAME, "")


def _name(value: Any) -> str:
    cls = type(value)
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"
    )


def _inner(text: str) -> str:
    """Return what an assertion says about a change inside of the value, if it says so in few words."""
    lines = [line for line in text.splitlines() if " became " in line or " are different" in line]
    line = lines[-1].replace("<class '", "").replace("'>", "") if lines else ""
    return line if len(line) < 120 else ""


def work(client: str, library: str, start: int, socket: str) -> None:
    """Take the values of a library from a position on through a client."""
    import warnings

    from codec_matrix import Unavailable, cases, make

    warnings.simplefilter("ignore")
    put = CLIENTS[client](socket)

    def give_up(signum: int, frame: Any) -> None:
        os._exit(3)

    signal.signal(signal.SIGALRM, give_up)
    for position, (name, case) in enumerate(cases(library)):
        if position < start:
            continue
        print(json.dumps([name, None, None]), flush=True)
        signal.alarm(SECONDS)
        try:
            result = outcome(make(case), put)
        except Unavailable as exc:
            result = UNAVAILABLE, str(exc)
        signal.alarm(0)
        print(json.dumps([name, *result]), flush=True)
    signal.signal(signal.SIGALRM, lambda signum, frame: os._exit(0))
    signal.alarm(SECONDS)  # everything is said; tearing a client down shall not take longer


# --- the comparison --------------------------------------------------------------------------------------------------


def outcomes(python: str, client: str, library: str, socket: str) -> Iterator[Tuple[str, str, str]]:
    """Run workers until every value of a library has an outcome."""
    paths = [ROOT / "packages" / "core" / "src", ROOT / "tests" / "core" / "codec" / "support"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    start = 0
    while True:
        command = [
            python,
            __file__,
            "--worker",
            client,
            "--library",
            library,
            "--start",
            str(start),
            "--socket",
            socket,
        ]
        done = subprocess.run(command, capture_output=True, env=environment, text=True)
        begun: Optional[str] = None
        for line in done.stdout.splitlines():
            if not line.startswith("["):
                continue  # a library that talks
            name, result, detail = json.loads(line)
            begun = name if result is None else None
            if result is not None:
                start += 1
                yield name, result, detail
        if begun is None:
            if done.returncode:
                raise SystemExit(f"the worker for {client} and {library} failed:\n{done.stderr[-2000:]}")
            return
        start += 1
        yield begun, DIES, f"exit code {done.returncode}"


def compare(pythons: Dict[str, str], libraries: List[str]) -> Dict[str, Dict[str, Dict[str, Tuple[str, str]]]]:
    """Return library → value → client → outcome, of clients by the interpreters that they run in."""
    import vineyard_client as vc

    found: Dict[str, Dict[str, Dict[str, Tuple[str, str]]]] = {}
    with vc.EmbeddedServer(size="1Gi") as server:
        for library in libraries:
            rows = found.setdefault(library, {})
            for client, python in pythons.items():
                print(f"{library}: {client} …", file=sys.stderr)
                for name, result, detail in outcomes(python, client, library, str(server.socket)):
                    if result != UNAVAILABLE:
                        rows.setdefault(name, {})[client] = (result, detail)
    return found


def summary(found: Dict[str, Dict[str, Dict[str, Tuple[str, str]]]], clients: List[str]) -> str:
    """Return a Markdown table of counts."""
    kinds = [SAME, READ_ONLY, *LOST]
    lines = ["| library | client | values | " + " | ".join(kinds) + " |", "|---|---|--:|" + "--:|" * len(kinds)]
    totals: Dict[str, Counter[str]] = {client: Counter() for client in clients}
    for library, rows in found.items():
        for client in clients:
            counted = Counter(row[client][0] for row in rows.values() if client in row)
            totals[client] += counted
            if counted:
                lines.append(_counts(library, client, counted, kinds))
    lines += [_counts("**all**", client, totals[client], kinds) for client in clients]
    return "\n".join(lines)


def _counts(library: str, client: str, counted: Counter[str], kinds: List[str]) -> str:
    numbers = " | ".join(str(counted[kind] or "·") for kind in kinds)
    return f"| {library} | {client} | {sum(counted.values())} | {numbers} |"


def details(found: Dict[str, Dict[str, Dict[str, Tuple[str, str]]]], clients: List[str]) -> str:
    """Return a Markdown table for each library, with a row for each value."""
    parts = []
    for library, rows in found.items():
        parts.append(f"\n### {library}\n\n| type | {' | '.join(clients)} |\n|---|{'---|' * len(clients)}")
        for name, row in rows.items():
            cells = [_cell(*row[client]) if client in row else "" for client in clients]
            parts.append(f"| {_escaped(name)} | {' | '.join(cells)} |")
    return "\n".join(parts)


def _cell(result: str, detail: str) -> str:
    mark = "✓" if result == SAME else result if result == READ_ONLY else f"✗ {result}"
    return f"{mark} ({_escaped(detail)})" if detail else mark


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", metavar="PYTHON", help="an interpreter with the official client")
    parser.add_argument("--airflow", metavar="PYTHON", help="an interpreter with Airflow")
    parser.add_argument("--library", action="append", help="only this library, and this one, …")
    parser.add_argument("--all", action="store_true", help="a row for each value, after the summary")
    parser.add_argument("--json", metavar="FILE", help="keep the outcomes")
    parser.add_argument("--worker", choices=list(CLIENTS), help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--socket", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.library[0], options.start, options.socket)
        return
    sys.path[:0] = [str(ROOT / "packages" / "core" / "src"), str(ROOT / "tests" / "core" / "codec" / "support")]
    from codec_matrix import LIBRARIES

    named = {"ours": sys.executable, "official": options.official, "airflow": options.airflow, "pickle": sys.executable}
    pythons = {client: python for client, python in named.items() if python}
    found = compare(pythons, options.library or list(LIBRARIES))
    clients = list(pythons)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1, ensure_ascii=False))
    print(summary(found, clients))
    if options.all:
        print(details(found, clients))


if __name__ == "__main__":
    main()
