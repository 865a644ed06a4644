"""What the kernel tells of pages, where it tells nothing, and what lies over them."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
from typing import Any, Iterator

import pytest
from vineyard_testing.processes import in_child, run_python
from vineyard_testing.shared import COLUMN, REST, ROWS, base_of, received, taken

import vineyard_client as vc
from vineyard_client._io import mapping, pages

np = pytest.importorskip("numpy")

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("left_as_it_was")]


NOT_DUMPABLE = """
import ctypes, os, sys, numpy as np, vineyard_client as vc
from vineyard_client._io import mapping, pages
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
with vc.connect(sys.argv[1]) as client:
    array = client.get(client.put(np.arange(500_000)))
    assert pages.written([]) is None
    before = client.status().memory_used
    ref = client.put(array)
    assert client.status().memory_used - before < 65536
    array[-1] = -1
    changed = client.put(array)
    assert client.status().memory_used - before > 4_000_000
    assert (client.get(changed) == array).all() and client.get(ref)[-1] == 499_999
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_process_that_is_not_dumpable_compares(server: vc.EmbeddedServer) -> None:
    """That is what tasks are under a supervisor that turned it off; they do not turn it on again."""
    os.chmod(os.path.dirname(server.socket), 0o755)
    done = run_python(NOT_DUMPABLE, server.socket)
    assert not done.returncode, done.stderr


@pytest.fixture
def tells() -> Iterator[None]:
    if pages.written([]) is None:
        pytest.skip("this kernel does not tell, or not the truth")
    yield


def stretch(array: Any) -> pages.Stretch:
    """Return what is known of an array that get returned."""
    (found,) = [each for each in mapping.mapped() if 0 <= array.ctypes.data - each.address < each.nbytes]
    hold: Any = found.owner
    return pages.Stretch(
        array.ctypes.data, array.nbytes, hold.memory, hold.payload.offset + array.ctypes.data - found.address
    )


def test_what_is_told_of_pages(client: vc.Client, tells: None) -> None:
    """Pages that were written to, and no others: not by reading, also what a fork or a thread wrote."""
    array = received(client, np.zeros(100 * 4096, np.uint8))
    first = -array.ctypes.data % 4096

    def told() -> Any:
        found = pages.written([stretch(array)])
        return None if found is None else found[0]

    assert told() == []
    assert not array.any()
    assert told() == []
    array[first + 3 * 4096] = 0  # with what is there
    assert told() == [(first + 3 * 4096, 4096)]
    array[0] = array[-1] = 1
    array[first + 4 * 4096 + 5] = 1
    assert told()[0] == (0, first or 4096)
    assert (first + 3 * 4096, 2 * 4096) in told()
    assert sum(told()[-1]) == len(array)

    def child() -> None:
        assert (first + 3 * 4096, 2 * 4096) in told()  # the copies are still copies
        array[first + 50 * 4096] = 1
        assert (first + 50 * 4096, 4096) in told()

    assert in_child(child) == 0
    assert (first + 50 * 4096, 4096) not in told()


PAGE = mmap.PAGESIZE
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
FIXED = 0x10


def _lay_over(address: int, nbytes: int, flags: int, file: int, offset: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    assert libc.mmap(address, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags | FIXED, file, offset) == address


def _zeros_instead(address: int, client: vc.Client) -> None:
    _lay_over(address, PAGE, ANONYMOUS, -1, 0)


def _another_file(address: int, client: vc.Client) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes([0xAB]) * PAGE)
        file.flush()
        _lay_over(address, PAGE, mmap.MAP_PRIVATE, file.fileno(), 0)


def _another_place(address: int, client: vc.Client) -> None:
    """Lay over the page what the same file has elsewhere, as another value."""
    other = received(client, np.full(10 * ROWS, 7, np.int64))
    known, memory = stretch(other), client._connection().memory
    assert memory is not None
    offset = known.offset + -known.offset % PAGE
    _lay_over(address, PAGE, mmap.MAP_PRIVATE, memory, offset)


def _moved_here(address: int, client: vc.Client) -> None:
    """Move memory of the process over the page, as a library does that exchanges pages instead of copying them."""
    source = mmap.mmap(-1, 4 * PAGE)
    source[:] = bytes([0xCD]) * 4 * PAGE
    begin = ctypes.addressof(ctypes.c_char.from_buffer(source))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mremap.restype = ctypes.c_void_p
    libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    assert libc.mremap(begin + PAGE, PAGE, PAGE, 3, address) == address
    _lay_over(begin + PAGE, PAGE, ANONYMOUS, -1, 0)  # what source unmaps in the end


TRICKS = {"zeros": _zeros_instead, "another file": _another_file, "another place": _another_place, "moved": _moved_here}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mremap and MAP_FIXED")
@pytest.mark.parametrize("name", TRICKS)
def test_another_mapping_lies_over_a_part(client: vc.Client, told: str, name: str) -> None:
    """No page was written to, and yet it is another one: what is there is put."""
    array = received(client, np.arange(1, 10 * ROWS + 1))
    page = array.ctypes.data + -array.ctypes.data % PAGE + 5 * PAGE
    TRICKS[name](page, client)
    changed = array.copy()
    assert (changed != np.arange(1, 10 * ROWS + 1)).sum() == PAGE // 8
    took, ref = taken(client, array)
    np.testing.assert_array_equal(client.get(ref), changed)
    assert took > 10 * COLUMN


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="MAP_FIXED and madvise")
def test_the_kernel_takes_changes_back(client: vc.Client, told: str) -> None:
    """Pages that a program gives back are the store's again, and what lies in them is shared again."""
    array = received(client, np.arange(10 * ROWS))
    array[...] = -1
    memory = base_of(array)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.madvise(memory.ctypes.data, memory.nbytes, 4) == 0  # MADV_DONTNEED
    np.testing.assert_array_equal(array, np.arange(10 * ROWS))
    took, _ = taken(client, array)
    assert took < REST
