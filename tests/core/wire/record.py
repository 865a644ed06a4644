"""Record what a real vineyardd says, for ``test_messages.py``: ``python record.py VINEYARDD``.

Runs the server, has the conversation below with it, and writes every byte that goes either way into
``recorded/VERSION.json`` beside this file: a list of steps, each with its name, the request (class and arguments, null
where the bytes are no request of ours), the frame that was sent, the frame that came back (both as Latin-1 text, so a
byte is a character) and how many file descriptors followed it. The reading here is as plain as can be and uses none of
the code that the recordings test, save for the requests' own wire form.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

from vineyard_client._wire import messages
from vineyard_client._wire.messages import Request

MISSING = (1 << 63) | 0xDEAD
EMPTY = 1 << 63
RPC_PORT = 19600


class Recorder:
    """One connection, of which every step is written down."""

    def __init__(self, address: Union[str, Tuple[str, int]], steps: List[Dict[str, Any]]) -> None:
        self.steps = steps
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(5)
        self.socket.connect(address)

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                break
            data += more
        return data

    def say(self, name: str, request: Optional[Request[Any]] = None, body: bytes = b"") -> Dict[str, Any]:
        """Send a request, or bytes that are none, and return the reply."""
        if request is not None:
            body = json.dumps(request.message(), separators=(",", ":")).encode()
        sent = struct.pack("<Q", len(body)) + body
        self.socket.sendall(sent)
        header = self.read(8)
        received = header + (self.read(struct.unpack("<Q", header)[0]) if header else b"")
        reply: Dict[str, Any] = json.loads(received[8:]) if header else {}
        announced = ([reply["fd"]] if reply.get("fd", -1) != -1 else []) + reply.get("fds", [])
        for _ in announced:
            assert self.socket.recvmsg(1, socket.CMSG_SPACE(4))[1], "the server sent no fd"
        self.steps.append(
            {
                "name": name,
                "request": request and [type(request).__name__, dataclasses.asdict(request)],  # type: ignore[call-overload]
                "sent": sent.decode("latin-1"),
                "received": received.decode("latin-1"),
                "fds": len(announced),
            }
        )
        return reply


def tree(blob: int, size: int) -> Dict[str, Any]:
    """Return a metadata tree with one blob."""
    member = {
        "id": f"o{blob:016x}",
        "typename": "vineyard::Blob",
        "nbytes": size,
        "length": size,
        "instance_id": 0,
        "transient": True,
    }
    return {
        "typename": "recorded::Value",
        "nbytes": size,
        "instance_id": 0,
        "transient": True,
        "note": "é",
        "blob": member,
    }


def converse(path: str) -> List[Dict[str, Any]]:
    """Have the conversation and return its steps."""
    steps: List[Dict[str, Any]] = []
    one = Recorder(path, steps)
    one.say("before registering", messages.InstanceStatus())
    one.say("register", messages.Register())
    one.say("status", messages.InstanceStatus())
    blob = one.say("create", messages.CreateBuffer(4096))["id"]
    guard = one.say("create another", messages.CreateBuffer(1))["id"]
    one.say("create an empty one", messages.CreateBuffer(0))
    one.say("create one that is too large", messages.CreateBuffer(1 << 40))
    number = one.say("create data", messages.CreateData(tree(blob, 4096)))["id"]
    one.say("create data without a typename", messages.CreateData({"nbytes": 0, "instance_id": 0}))
    one.say("get unsealed", messages.GetBuffers([blob]))
    one.say("seal", messages.Seal(blob))
    one.say("seal again", messages.Seal(blob))
    one.say("seal a missing one", messages.Seal(MISSING))
    one.say("get", messages.GetBuffers([blob]))
    one.say("get the empty one", messages.GetBuffers([EMPTY]))
    two = Recorder(path, steps)
    two.say("register again", messages.Register())
    two.say("get with fd", messages.GetBuffers([blob, MISSING]))
    two.say("get a missing one", messages.GetBuffers([MISSING]))
    one.say("release", messages.Release(blob))
    one.say("in use by another", messages.IsInUse(blob))
    two.say("release by the other", messages.Release(blob))
    one.say("not in use", messages.IsInUse(blob))
    one.say("release a missing one", messages.Release(MISSING))
    one.say("exists", messages.Exists(number))
    one.say("exists not", messages.Exists(0xDEAD))
    one.say("get data", messages.GetData([number]))
    one.say("get data of some", messages.GetData([number, 0xDEAD]))
    one.say("get missing data", messages.GetData([0xDEAD]))
    one.say("label", messages.Label(number, {"key": "value"}))
    one.say("label a missing one", messages.Label(0xDEAD, {"key": "value"}))
    one.say("list", messages.ListData("recorded::*"))
    one.say("list nothing", messages.ListData("nothing::*"))
    one.say("persist", messages.Persist(number))
    one.say("persist a missing one", messages.Persist(0xDEAD))
    one.say("cluster", messages.ClusterMeta())
    one.say("drop", messages.DropBuffer(guard))
    one.say("drop a missing one", messages.DropBuffer(MISSING))
    one.say("an unknown request", body=b'{"type":"no_such_request"}')
    two.say("no JSON", body=b"nonsense")
    remote = Recorder(("127.0.0.1", RPC_PORT), steps)
    remote.say("register over RPC", messages.Register())
    remote.say("get over RPC", messages.GetRemoteBuffers([blob]))
    payload = remote.read(4096)
    assert len(payload) == 4096, "the blob did not follow the reply"
    remote.say("get a missing one over RPC", messages.GetRemoteBuffers([MISSING]))
    one.say("delete", messages.DeleteData([number]))
    one.say("delete again", messages.DeleteData([number]))
    for recorder in (one, two, remote):
        recorder.socket.close()
    return steps


def main(vineyardd: str) -> None:
    """Record one server."""
    with tempfile.TemporaryDirectory() as folder:
        # A relative path, so that the recording does not say where it was made.
        command = [vineyardd, "--socket=v.sock", "--size", "1Mi", "--meta", "local", "--rpc_socket_port", str(RPC_PORT)]
        environment = {"GLOG_logtostderr": "1"}
        server = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
        try:
            path = Path(folder, "v.sock")
            for _ in range(500):
                if path.is_socket():
                    break
                time.sleep(0.01)
            steps = converse(str(path))
        finally:
            server.terminate()
            server.wait()
    version = json.loads(steps[1]["received"][8:])["version"]
    target = Path(__file__).parent / "recorded" / f"{version}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(steps, indent=1) + "\n")
    print(f"{target.name}: {len(steps)} steps")


if __name__ == "__main__":
    main(sys.argv[1])
