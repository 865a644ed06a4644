"""What the tests of core share: scripted and faulty streams, peers that are not vineyardd, processes, waiting.

A folder of its own on ``sys.path`` (``conftest.py`` puts it there), so that scripts which tests run can import it too.
"""

from __future__ import annotations

import time
from typing import Callable

# Seconds; all waiting in tests is a multiple of it. Nothing waits this long unless something is broken.
UNIT = 10.0


def until(condition: Callable[[], object], what: str, timeout: float = UNIT) -> None:
    """Return when a condition holds; fail when it does not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.002)
