"""Whatever happens to the process at whatever moment of a call, it is as if the call had been made, or had not.

At each point of the calls of ``test_every_moment`` the process forks, or has no file descriptor left.
"""

from __future__ import annotations

import itertools
import os
import resource
from typing import List

import pytest
from vineyard_testing.moments import CALLS, LARGE, RARER, Stage, also_rarer, everywhere
from vineyard_testing.processes import fork, wait

import vineyard_client as vc

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", also_rarer())
def test_a_fork_at_every_moment(stage: Stage, unraisable: List[str], name: str) -> None:
    """The parent's call goes on; the child can use the client, or end at once, and takes nothing away."""
    failed: List[int] = []
    works = itertools.cycle([True, False])

    def split(client: vc.Client) -> None:
        child_works = next(works)

        def child() -> None:
            if child_works:
                assert client.get(client.put(LARGE)) == LARGE

        if wait(fork(child)):
            failed.append(1)

    everywhere(stage, unraisable, name, split)
    assert not failed


@pytest.mark.parametrize("name", also_rarer())
def test_no_descriptor_left_at_every_moment(stage: Stage, unraisable: List[str], name: str) -> None:
    """The call fails or does not; when there are descriptors again, all is as it was."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def exhaust(client: vc.Client) -> None:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))

    calls = CALLS if name in CALLS else RARER
    call = calls[name]

    def limited(client: vc.Client, ref: vc.ObjectRef) -> object:
        try:
            return call(client, ref)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    calls[name] = limited
    try:
        everywhere(stage, unraisable, name, exhaust, vc.VineyardError)
    finally:
        calls[name] = call
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
