"""The names of the queues of hosts, and until when messages wait in them."""

from __future__ import annotations

import pytest

from airflow_provider_vineyard.placement.queues import Deadlines, base_queue, host_queue


@pytest.mark.parametrize("queue", ["default", "gpu@large", "ä"])
@pytest.mark.parametrize("place", ["10.0.0.1:9600", "worker-1.example.org:9600", "[fe80::1]:9600"])
def test_names_and_back(queue: str, place: str) -> None:
    """A queue of a host leads back to the task's own, also if that has an @ in its name."""
    name = host_queue(queue, place)
    assert name == f"{queue}@{place}"
    assert base_queue(name) == queue


@pytest.mark.parametrize("place", ["", "a b", "a@b", "a,b", "a\nb", "x" * 300, "10.0.0.1:9600\x06\x16", "*"])
def test_no_name(place: str) -> None:
    """What a forged row has for an endpoint becomes no queue where it could be taken for something else."""
    assert host_queue("default", place) is None


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_deadlines() -> None:
    """A message waits for as long as was said when it was sent, and one that nobody knows for the longest time."""
    clock = Clock()
    deadlines = Deadlines(10.0, clock)
    deadlines.sent("known", 2.0)
    assert not deadlines.passed("known")
    assert not deadlines.passed("unknown")
    clock.now += 2
    assert deadlines.passed("known")
    assert not deadlines.passed("unknown")
    clock.now += 8
    assert deadlines.passed("unknown")


def test_deadlines_are_forgotten() -> None:
    """What was taken, or moved, is not kept; what still waits is, however late."""
    clock = Clock()
    deadlines = Deadlines(10.0, clock)
    deadlines.sent("taken", 2.0)
    deadlines.sent("waiting", 2.0)
    deadlines.forget(set())
    assert len(deadlines) == 2
    clock.now += 3
    deadlines.forget({"waiting"})
    assert len(deadlines) == 1
    assert deadlines.passed("waiting")


def test_no_wait_at_all() -> None:
    """With 0 as the longest time, what is found waiting waits no longer."""
    assert Deadlines(0.0, Clock()).passed("any")
