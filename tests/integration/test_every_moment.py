"""Whatever happens at whatever moment of a call, it is as if the call had been made, or had not.

At each point of put, get, delete, create and collect at which a signal handler may run, it raises, or the connection
breaks; ``test_every_moment_outside`` has what happens to the process. The same goes for calls that fail anyhow: what
they undo is struck as well. Which points are tried says ``vineyard_testing.moments``.
"""

from __future__ import annotations

import os
import socket
from typing import List

import pytest
from vineyard_testing.injector import Boom, raise_boom
from vineyard_testing.moments import CALLS, RARER, Stage, also_rarer, everywhere

import vineyard_client as vc

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", [*CALLS, *RARER])
def test_an_exception_at_every_moment(stage: Stage, unraisable: List[str], name: str) -> None:
    """It comes out unchanged; nothing stays locked, allocated, open or unsaid, and what others read is intact."""
    everywhere(stage, unraisable, name, lambda client: raise_boom(), Boom)


@pytest.mark.parametrize("name", also_rarer())
def test_a_broken_connection_at_every_moment(stage: Stage, unraisable: List[str], name: str) -> None:
    """The call fails or does not; all else is as it was."""

    def cut(client: vc.Client) -> None:
        connection = client._session._connections._connection
        if connection is not None:
            cutter = socket.socket(fileno=os.dup(connection.conversation.stream.fileno()))
            cutter.shutdown(socket.SHUT_RDWR)
            cutter.close()

    everywhere(stage, unraisable, name, cut, vc.ConnectionFailed)
