"""The one module that knows releases gives what the installed Airflow has."""

from __future__ import annotations

import warnings

import pytest

import airflow
from airflow_provider_vineyard import version_compat

pytestmark = pytest.mark.airflow


def test_version() -> None:
    """Major and minor, as numbers: 2.11 is later than 2.9."""
    assert airflow.__version__.startswith(".".join(map(str, version_compat.airflow_version())) + ".")
    assert version_compat.is_airflow_3() is (not airflow.__version__.startswith("2."))


def test_development_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suffixes of pre-releases do not matter."""
    monkeypatch.setattr(airflow, "__version__", "3.4.0.dev0+build")
    assert version_compat.airflow_version() == (3, 4)


def test_nothing_deprecated() -> None:
    """Each class comes from where this release wants it to be imported from."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert version_compat.base_xcom().__name__ == "BaseXCom"
        assert version_compat.base_hook().__name__ == "BaseHook"
        assert version_compat.conf().get("vineyard", "absent", fallback="x") == "x"
        assert issubclass(version_compat.config_exception(), Exception)


def test_the_base_is_the_one_that_airflow_checks(backend: type) -> None:
    """Airflow refuses a backend that does not extend its own class."""
    assert issubclass(backend, version_compat.base_xcom())
