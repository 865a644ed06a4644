"""The agent's socket: who may come to the store's socket may ask; see ``_tiers.doorbell`` for what is said."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from contextlib import suppress
from typing import Any, Callable, Dict, Iterator, Union

from .._tiers.doorbell import MAX_LINE, doorbell_path
from ..exceptions import TierUnavailable, VineyardError

__all__ = ["Door"]

log = logging.getLogger("vineyard_client.agent")

# Seconds for which somebody may say nothing.
_PATIENCE = 60.0

Answer = Union[Dict[str, Any], Iterator[Dict[str, Any]]]


class Door:
    """Listens, and has each request answered in a thread of its own.

    Args:
        path: the store's IPC socket.
        answer: called with a request; returns the answer, or parts of it one after the other, or raises what is wrong.
    """

    def __init__(self, path: str, answer: Callable[[Dict[str, Any]], Answer]) -> None:
        self._path = doorbell_path(path)
        self._answer = answer
        with suppress(FileNotFoundError):
            os.unlink(self._path)  # of an agent that was killed: who is here holds the lock
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(self._path)
            os.chmod(self._path, 0o666)  # like the server's: the folder decides who may come
            self._socket.listen(128)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._listen, name="door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more; what was asked is still answered."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()
        self._thread.join()

    def _listen(self) -> None:
        while True:
            try:
                guest, _ = self._socket.accept()
            except OSError:
                return  # it was closed
            threading.Thread(target=self._serve, args=(guest,), name="guest", daemon=True).start()

    def _serve(self, guest: socket.socket) -> None:
        with guest:
            guest.settimeout(_PATIENCE)
            with suppress(OSError), guest.makefile("rb") as lines:
                while True:
                    line = lines.readline(MAX_LINE)
                    if not line.endswith(b"\n"):
                        return
                    for answer in self._answers(line):
                        guest.sendall(json.dumps(answer).encode() + b"\n")

    def _answers(self, line: bytes) -> Iterator[Dict[str, Any]]:
        """Iterate over the parts of an answer, mostly one; what goes wrong is the last one."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            answer = self._answer(request)
            yield from [answer] if isinstance(answer, dict) else answer
        except VineyardError as error:
            yield {"error": type(error).__name__, "what": error.what, "hint": error.hint}
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            yield {"error": TierUnavailable.__name__, "what": f"The agent was asked what makes no sense: {error}."}
        except Exception as error:
            log.exception("a request failed")
            yield {"error": TierUnavailable.__name__, "what": f"The agent failed: {type(error).__name__} {error}."}
