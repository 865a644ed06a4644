"""Asking many stores within one deadline: in parallel, once for everybody, and never one that was silent just now."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List

import pytest

from airflow_provider_vineyard.ui.hosts import BUDGET, Hosts, Late

pytestmark = pytest.mark.airflow


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def held() -> Any:
    """Return an event that silent hosts wait for; it is set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def test_a_page_has_two_seconds() -> None:
    """What is spent on hosts leaves time for the database and the way to the browser."""
    assert BUDGET < 2


def test_twenty_hosts_of_which_five_are_silent(held: threading.Event) -> None:
    """All twenty are asked at the same time: the fifteen answer although the five hold their threads."""
    together = threading.Barrier(15)

    def answers(seconds: float) -> str:
        together.wait(10)  # breaks if they are not asked at the same time
        return "here"

    def silent(seconds: float) -> bool:
        return held.wait(10)

    hosts = Hosts(budget=0.5)
    questions: Dict[Any, Callable[[float], Any]] = {
        (f"host-{n}", "status"): silent if n % 4 == 0 else answers for n in range(20)
    }
    found = hosts.ask(questions)
    assert [key[0] for key, answer in found.items() if answer.value == "here"] == [
        f"host-{n}" for n in range(20) if n % 4
    ]
    assert all(isinstance(found[(f"host-{n}", "status")].error, TimeoutError) for n in range(0, 20, 4))


def test_who_was_silent_is_not_asked_for_a_while(held: threading.Event) -> None:
    """Nor about anything else, so the next page does not wait at all; later it is asked again."""
    clock = Clock()
    hosts = Hosts(budget=0.05, clock=clock)
    asked: List[str] = []

    def silent(seconds: float) -> bool:
        asked.append("silent")
        return held.wait(10)

    def answers(seconds: float) -> str:
        asked.append("answers")
        return "here"

    assert isinstance(hosts.ask({("a", 1): silent})[("a", 1)].error, TimeoutError)
    assert isinstance(hosts.ask({("a", 2): answers})[("a", 2)].error, TimeoutError)
    assert asked == ["silent"]
    clock.now += 60
    assert hosts.ask({("a", 2): answers})[("a", 2)].value == "here"
    assert hosts.ask({("a", 3): answers})[("a", 3)].value == "here"


def test_a_question_is_asked_once_for_all(held: threading.Event) -> None:
    """Who comes while somebody asks waits for the same answer; who comes after gets the kept one, for a while."""
    clock = Clock()
    hosts = Hosts(budget=5, clock=clock)
    begun, asked = threading.Event(), []

    def question(seconds: float) -> int:
        asked.append(seconds)
        begun.set()
        held.wait(10)
        return len(asked)

    answers: List[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(hosts.ask({("a", 1): question})[("a", 1)])) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    held.set()
    for thread in threads:
        thread.join()
    assert [answer.value for answer in answers] == [1] * 5
    assert hosts.ask({("a", 1): question})[("a", 1)].value == 1
    hosts.forget()
    assert hosts.ask({("a", 1): question})[("a", 1)].value == 2
    clock.now += 60
    assert hosts.ask({("a", 1): question})[("a", 1)].value == 3


def test_a_question_that_waited_too_long_is_not_asked(held: threading.Event) -> None:
    """One thread is held: the other host is not silent for that, and its question is never sent."""
    hosts = Hosts(budget=0.1, threads=1)
    asked: List[str] = []
    found = hosts.ask(
        {("a", 1): lambda seconds: held.wait(10), ("b", 1): lambda seconds: asked.append("b")}  # type: ignore[func-returns-value]
    )
    assert isinstance(found[("a", 1)].error, TimeoutError)
    assert isinstance(found[("b", 1)].error, Late)
    held.set()
    assert hosts.ask({("b", 2): lambda seconds: "here"})[("b", 2)].value == "here"
    assert asked == []


def test_what_went_wrong_is_the_answer() -> None:
    """An error of one host is told for that host, and kept like an answer."""
    asked: List[int] = []

    def refuses(seconds: float) -> None:
        asked.append(1)
        raise ConnectionRefusedError("no")

    hosts = Hosts()
    for _ in range(2):
        found = hosts.ask({("a", 1): refuses, ("b", 1): lambda seconds: 0 < seconds <= BUDGET})
        assert isinstance(found[("a", 1)].error, ConnectionRefusedError)
        assert found[("b", 1)].value is True
    assert asked == [1]
    assert hosts.once(lambda seconds: 7).value == 7
