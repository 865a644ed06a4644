"""What ``doctor`` says of placement: what keeps tasks from being placed, with what to do."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Callable, Iterator, List

import pytest
from vineyard_testing.brokers import missing, redis_server

from airflow_provider_vineyard import doctor, version_compat
from airflow_provider_vineyard.placement import check as subject
from airflow_provider_vineyard.placement.check import Finding
from airflow_provider_vineyard.settings import get_placement

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(version_compat.airflow_version() < (2, 10), reason="placement is for Airflow 2.10 and newer"),
    pytest.mark.filterwarnings("ignore"),
]

EXECUTOR = "airflow_provider_vineyard.executors.celery.VineyardCeleryExecutor"


def found(monkeypatch: pytest.MonkeyPatch, executor: str, host: Any = None) -> List[Finding]:
    """Return what is found with such an executor."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    return subject.look(get_placement(), host)


def test_off(options: Callable[..., None]) -> None:
    """Where it is not wished, nothing is looked at."""
    options(placement="False")
    assert doctor._placement(doctor.get_settings()) == []


def test_executors_that_place_nothing(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain one for Celery, and those with one host."""
    options(placement="True")
    (celery,) = found(monkeypatch, "CeleryExecutor")
    assert celery.remedy == f"Set [core] executor to {EXECUTOR}."
    (local,) = found(monkeypatch, "LocalExecutor")
    assert local.remedy == "Turn [vineyard] placement off."
    checks = doctor._placement(doctor.get_settings())
    assert [(check.name, check.result) for check in checks] == [("placement", doctor.WARNING)]


def test_kubernetes(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs the name of the node in rows."""
    options(placement="True")
    (unnamed,) = found(monkeypatch, "KubernetesExecutor")
    assert "spec.nodeName" in unnamed.remedy
    assert found(monkeypatch, "KubernetesExecutor", "node-1")[0].remedy == ""


class TestCelery:
    """With the executor, on a broker."""

    @pytest.fixture
    def app(self, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        """Return an application on real Redis, which Airflow's module is given."""
        pytest.importorskip("airflow.providers.celery")
        celery = pytest.importorskip("celery")
        reason = missing("redis-server", "redis-server")
        if reason:
            pytest.skip(reason)
        options(placement="True", rpc_endpoint="10.0.0.1:9600")
        with redis_server() as url:
            made = celery.Celery("test", broker=url)
            made.conf.worker_prefetch_multiplier, made.conf.task_acks_late = 1, True
            module = import_module("airflow.providers.celery.executors.celery_executor")
            monkeypatch.setattr(module, "app", made, raising=False)
            monkeypatch.setattr(subject, "_TIMEOUT", 0.5)
            yield made
            made.close()

    def test_nobody_listens(self, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Workers without the option, or none at all."""
        (listeners,) = found(monkeypatch, EXECUTOR)
        assert listeners.found == "Workers that answer: 0; none listens to a queue of its host."
        assert "restart them" in listeners.remedy

    def test_messages_are_hoarded(self, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a worker has taken ahead cannot be moved."""
        app.conf.worker_prefetch_multiplier = 4
        assert "worker_prefetch_multiplier 4" in found(monkeypatch, EXECUTOR)[0].found

    def test_no_endpoint(self, app: Any, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker here would have no queue."""
        monkeypatch.delenv("AIRFLOW__VINEYARD__RPC_ENDPOINT")
        options(placement="True")
        assert "rpc_endpoint is not set" in found(monkeypatch, EXECUTOR)[0].found

    @pytest.mark.parametrize(
        ("broker", "said"), [("memory://", "of the kind memory"), ("redis://127.0.0.1:1/0", "does not answer")]
    )
    def test_brokers(self, app: Any, broker: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that cannot do it, and one that is not there."""
        app.conf.broker_url = broker
        (broken,) = found(monkeypatch, EXECUTOR)
        assert said in broken.found and broken.remedy
