"""Ways to hand a value to another process of the host, all with the same four steps.

``put`` returns a handle, ``write`` makes a text of it that another process can ``read``; ``get`` and ``free`` take a
handle. A peer's libraries are imported when it is made, so a sample does not pay for them.

Each gets what is best for it: it may leave bytes where they are, copy nothing, and return what cannot be changed.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import tempfile
from typing import Any, Dict, Protocol, Type

from report import OURS


class Peer(Protocol):
    """A way; ``place`` is the socket, the folder or the address where values are."""

    def __init__(self, place: str) -> None: ...

    def put(self, value: Any) -> Any: ...

    def get(self, handle: Any) -> Any: ...

    def free(self, handle: Any) -> None: ...

    def write(self, handle: Any) -> str: ...

    def read(self, text: str) -> Any: ...


class Ours:
    """``put`` writes the value's memory into the store once; ``get`` maps it, privately: it can be changed."""

    def __init__(self, place: str) -> None:
        import vineyard_client

        self._library = vineyard_client
        self._client = vineyard_client.connect(place)
        self.put, self.get, self.free = self._client.put, self._client.get, self._client.delete

    def write(self, handle: Any) -> str:
        return json.dumps(handle.to_json())

    def read(self, text: str) -> Any:
        return self._library.ObjectRef.from_json(json.loads(text))


class Official:
    """vineyard 0.24.2: ``put`` copies into the store, ``get`` maps, read-only."""

    def __init__(self, place: str) -> None:
        import vineyard

        self._library = vineyard
        self._client = vineyard.connect(place)
        self.put, self.get, self.free = self._client.put, self._client.get, self._client.delete

    def write(self, handle: Any) -> str:
        return repr(handle).strip("'\"")

    def read(self, text: str) -> Any:
        return self._library.ObjectID(text)


class Files:
    """A file in a RAM disk for each value."""

    def __init__(self, place: str) -> None:
        self._folder = place

    def free(self, handle: str) -> None:
        os.unlink(handle)

    def write(self, handle: str) -> str:
        return handle

    def read(self, text: str) -> str:
        return text

    def _new(self) -> str:
        fd, path = tempfile.mkstemp(dir=self._folder)
        os.close(fd)
        return path


class PickleFile(Files):
    """Pickle, protocol 5, in a file in /dev/shm; ``get`` loads it from a mapping, which copies everything."""

    def put(self, value: Any) -> str:
        path = self._new()
        with open(path, "wb") as file:
            pickle.dump(value, file, protocol=5)
        return path

    def get(self, handle: str) -> Any:
        with open(handle, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return pickle.loads(mapped)


class ArrowFile(Files):
    """Arrow IPC, uncompressed, in a file in /dev/shm; ``get`` maps it and copies nothing, so it is read-only.

    A frame becomes a table and, by ``to_pandas(split_blocks=True)``, a frame of as many blocks as columns; an array
    is written as a tensor. Other values Arrow does not have.
    """

    def __init__(self, place: str) -> None:
        super().__init__(place)
        import pyarrow

        self._arrow = pyarrow

    def put(self, value: Any) -> str:
        pa = self._arrow
        if not hasattr(value, "shape"):
            raise TypeError("Arrow has no such values")
        path = self._new()
        if hasattr(value, "columns"):
            table = value if isinstance(value, pa.Table) else pa.Table.from_pandas(value)
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            return path + ("" if table is value else "#frame")
        with pa.OSFile(path, "wb") as file:
            pa.ipc.write_tensor(pa.Tensor.from_numpy(value), file)
        return path + "#tensor"

    def get(self, handle: str) -> Any:
        pa = self._arrow
        path, _, what = handle.partition("#")
        mapped = pa.memory_map(path)
        if what == "tensor":
            return pa.ipc.read_tensor(mapped).to_numpy()
        table = pa.ipc.open_file(mapped).read_all()
        return table.to_pandas(split_blocks=True) if what else table

    def free(self, handle: str) -> None:
        super().free(handle.partition("#")[0])


class Ray:
    """Ray's object store: two drivers of one cluster; ``get`` maps arrays, read-only."""

    def __init__(self, place: str) -> None:
        import ray

        self._library = ray
        ray.init(address=place, log_to_driver=False, logging_level="error")
        self.put, self.get = ray.put, ray.get

    def free(self, handle: Any) -> None:
        """Do nothing: what a driver put goes when it ends."""

    def write(self, handle: Any) -> str:
        return str(self._library.cloudpickle.dumps(handle).hex())

    def read(self, text: str) -> Any:
        return self._library.cloudpickle.loads(bytes.fromhex(text))


PEERS: Dict[str, Type[Peer]] = {
    OURS: Ours,
    "official client": Official,
    "Arrow file": ArrowFile,
    "pickle file": PickleFile,
    "Ray": Ray,
}
