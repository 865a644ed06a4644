"""A worker listens to the queues of its host beside its own, and an import that is not a worker's does nothing."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any, Callable, Iterator, List

import pytest

celery = pytest.importorskip("celery")
from celery import signals  # noqa: E402

from airflow_provider_vineyard import settings  # noqa: E402
from airflow_provider_vineyard.placement import listen as subject  # noqa: E402

pytestmark = pytest.mark.airflow


@pytest.fixture
def worker() -> Any:
    """Return what Celery passes on: a worker of the queues a and b."""
    app = celery.Celery("test", broker="memory://")
    app.amqp.queues.select(["a", "b"])
    return SimpleNamespace(app=app)


@pytest.fixture
def connected() -> Iterator[Callable[[], bool]]:
    """Return a function that tells whether the signal is connected; in the end it is not."""
    signal = signals.celeryd_after_setup

    def tell() -> bool:
        return bool(signal.disconnect(dispatch_uid=subject.__name__))

    tell()
    yield tell
    tell()


def names(worker: Any) -> List[str]:
    """Return what a worker listens to."""
    return list(worker.app.amqp.queues.consume_from)


def send(worker: Any) -> None:
    """Say that a worker is set up."""
    signals.celeryd_after_setup.send(sender="celery@here", instance=worker, conf=worker.app.conf)


def test_queues_of_the_host(
    worker: Any, connected: Any, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each that it was told of, declared as the sender declares it."""
    options(placement="True", rpc_endpoint="worker-1:9600")
    monkeypatch.setattr(sys, "argv", ["airflow", "celery", "worker", "-q", "a,b"])
    subject.arrange()
    subject.arrange()
    send(worker)
    assert names(worker) == ["a", "b", "a@worker-1:9600", "b@worker-1:9600"]
    queues = worker.app.amqp.queues
    assert queues["a@worker-1:9600"] == queues.new_missing("a@worker-1:9600")


def test_off(worker: Any, options: Callable[..., None]) -> None:
    """It listens to its own alone."""
    options(rpc_endpoint="worker-1:9600")
    assert subject.listen(worker.app.amqp.queues, settings.get_placement()) == []
    assert names(worker) == ["a", "b"]


def test_no_endpoint(worker: Any, options: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """With the embedded server there is no way from one host to another; the log says what to set."""
    options(placement="True")
    with caplog.at_level(logging.WARNING, subject.__name__):
        assert subject.listen(worker.app.amqp.queues, settings.get_placement()) == []
    assert "set [vineyard] rpc_endpoint" in caplog.text
    assert names(worker) == ["a", "b"]


def test_a_wrong_option(
    worker: Any,
    connected: Any,
    options: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The worker works, without placement, and the log names the option."""
    options(placement="perhaps")
    monkeypatch.setattr(sys, "argv", ["airflow", "celery", "worker"])
    subject.arrange()
    with caplog.at_level(logging.WARNING, subject.__name__):
        send(worker)
    assert names(worker) == ["a", "b"]
    assert "[vineyard] placement is 'perhaps'" in caplog.text


@pytest.mark.parametrize("arguments", [[], ["scheduler"], ["celery", "flower"], ["tasks", "run", "celery", "worker"]])
def test_other_processes(connected: Any, monkeypatch: pytest.MonkeyPatch, arguments: List[str]) -> None:
    """They pay for one comparison."""
    monkeypatch.setattr(sys, "argv", ["airflow", *arguments])
    subject.arrange()
    assert not connected()
