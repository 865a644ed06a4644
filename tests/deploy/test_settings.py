"""Settings: what may be said, what follows from it, and what is refused."""

from __future__ import annotations

import pytest

from airflow_vineyard_deploy import __version__
from airflow_vineyard_deploy.settings import SETTINGS, Settings, WrongSetting, parse_size


@pytest.mark.parametrize(
    ("text", "number"),
    [("16Mi", 16 << 20), ("2Gi", 2 << 30), ("1.5Gi", 3 << 29), ("800M", 800_000_000), ("1073741824", 1 << 30)],
)
def test_sizes(text: str, number: int) -> None:
    """Sizes are read as vineyardd reads them."""
    assert parse_size(text) == number


@pytest.mark.parametrize("text", ["", "2 Gi", "2GiB", "two", "-1Gi", "1Pi", "0", "15Mi", "2gi"])
def test_wrong_sizes(text: str) -> None:
    """What is no size, or too little, is refused with an example."""
    with pytest.raises(WrongSetting, match="2Gi"):
        parse_size(text)


def test_defaults_pass_their_own_checks() -> None:
    """Every default may also be given."""
    derived = {"image"}
    Settings({key: setting.default for key, setting in SETTINGS.items() if key not in derived})


def test_what_follows() -> None:
    """Images follow from the versions, and the memory of a pod from the size of its store."""
    settings = Settings({"airflow_version": "3.1.8", "python_version": "3.13", "vineyardd_size": "2Gi"})
    text = "@base_image@ @image@ @image_repository@ @image_tag@ @vineyardd_memory@ @provider@"
    assert settings.fill(text).split() == [
        "apache/airflow:3.1.8-python3.13",
        "airflow-vineyard:3.1.8",
        "airflow-vineyard",
        "3.1.8",
        "2304Mi",
        f"airflow-provider-vineyard=={__version__}",
    ]


def test_image_in_a_registry_with_a_port() -> None:
    """The tag is what follows the last colon."""
    settings = Settings({"image": "registry.example.org:5000/team/airflow:7"})
    assert settings.fill("@image_repository@ @image_tag@") == "registry.example.org:5000/team/airflow 7"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("airflow", "3.3.2", r"There is no setting 'airflow'\. The settings are: airflow_version, "),
        ("airflow_version", "3.3", r"airflow_version: '3\.3' does not look like '3\.3\.2'\."),
        ("airflow_version", "2.8.4", r"no image apache/airflow:2\.8\.4-python3\.12\..* --set python_version=3\.11\."),
        ("airflow_version", "1.10.15", r"no image .* begin with 2\.1\.0\."),
        ("python_version", "3.15", r"no image .* --set python_version=3\.14\."),
        ("vineyardd_size", "lots", r"vineyardd_size: 'lots' is no size"),
        ("rpc_port", "99999", r"rpc_port: '99999' is no port"),
        ("airflow_port", "80", r"no port from 1024"),
        ("airflow_uid", "0", r"airflow_uid: '0'"),
        ("namespace", "Vineyard", r"namespace: 'Vineyard'"),
        ("image", "airflow-vineyard", r"image: 'airflow-vineyard' does not look like"),
        ("meta", "redis", r"meta: 'redis'"),
        ("meta", "localhost", r"meta: 'localhost'"),
        ("venv", "venv", r"venv: 'venv'"),
        ("provider", "x; rm -rf", r"provider: "),
    ],
)
def test_wrong_settings(key: str, value: str, words: str) -> None:
    """A wrong key or value is refused with what would be right."""
    with pytest.raises(WrongSetting, match=words):
        Settings({key: value})
