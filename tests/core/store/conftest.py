"""The store's memory of tests whose server is a script."""

from __future__ import annotations

import os
from typing import Callable, Iterator, List

import pytest
from vineyard_testing.conversations import CONTENT
from vineyard_testing.streams import memory

from vineyard_client._io.pinfile import PinFile


@pytest.fixture
def store() -> Iterator[int]:
    """The store's memory: CONTENT from offset 64 on."""
    fd = memory((64, CONTENT))
    yield fd
    os.close(fd)


@pytest.fixture
def pin_files(store: int) -> Iterator[Callable[[], PinFile]]:
    """Open files of others on the store's memory, any number of them."""
    opened: List[PinFile] = []

    def open_one() -> PinFile:
        file = PinFile.of(store)
        if file is None:
            pytest.skip("no such locks on this system")
        opened.append(file)
        return file

    yield open_one
    for file in opened:
        file.close()
