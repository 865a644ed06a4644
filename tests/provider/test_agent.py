"""The agent's command and environment, made of ``[vineyard]`` and a connection; what is secret shows nowhere."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict

import pytest

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.agent import agent_call, bucket_options, on_demand
from airflow_provider_vineyard.settings import get_settings

pytestmark = pytest.mark.airflow

SECRET = "hidden/+ %"  # noqa: S105


def connection(**fields: Any) -> Any:
    from airflow.models.connection import Connection

    if isinstance(fields.get("extra"), dict):
        fields["extra"] = json.dumps(fields["extra"])
    return Connection(conn_id="c", **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"conn_type": "aws", "login": "key", "password": SECRET, "extra": {"region_name": "eu-central-1"}},
            {"access_key_id": "key", "secret_access_key": SECRET, "region": "eu-central-1"},
        ),
        (
            {"conn_type": "aws", "extra": {"aws_access_key_id": "key", "aws_secret_access_key": SECRET}},
            {"access_key_id": "key", "secret_access_key": SECRET},
        ),
        (
            {"conn_type": "aws", "extra": {"service_config": {"s3": {"endpoint_url": "http://minio:9000"}}}},
            {"endpoint": "http://minio:9000"},
        ),
        (
            {
                "conn_type": "generic",
                "login": "key",
                "password": SECRET,
                "extra": {
                    "endpoint_url": "http://minio:9000",
                    "config_kwargs": {"s3": {"addressing_style": "virtual"}},
                    "aws_session_token": SECRET,
                },
            },
            {
                "access_key_id": "key",
                "secret_access_key": SECRET,
                "session_token": SECRET,
                "endpoint": "http://minio:9000",
                "virtual_hosted_style_request": "true",
            },
        ),
        (
            {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": {"private_key": SECRET}}},
            {"service_account_key": json.dumps({"private_key": SECRET})},
        ),
        (
            {"conn_type": "google_cloud_platform", "extra": {"extra__google_cloud_platform__key_path": "/k.json"}},
            {"service_account": "/k.json"},
        ),
        (
            {"conn_type": "wasb", "login": "account", "password": SECRET},
            {"account_name": "account", "account_key": SECRET},
        ),
        (
            {"conn_type": "wasb", "extra": {"connection_string": "AccountName=account;AccountKey=a2V5=="}},
            {"account_name": "account", "account_key": "a2V5=="},
        ),
        (
            {
                "conn_type": "wasb",
                "host": "https://account.blob.core.windows.net",
                "login": "client",
                "password": SECRET,
                "extra": {"tenant_id": "t"},
            },
            {"account_name": "account", "tenant_id": "t", "client_id": "client", "client_secret": SECRET},
        ),
    ],
)
def test_connections(fields: Dict[str, Any], expected: Dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """What a connection has is said in obstore's words; the log has the names alone."""
    with caplog.at_level(logging.DEBUG):
        assert bucket_options("c", connection(**fields)) == expected
    assert SECRET not in caplog.text and "the connection c gives the agent: " in caplog.text


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"conn_type": "ssh"}, "of the type 'ssh'. Give one of these types: aws, s3, generic"),
        ({"conn_type": "aws", "extra": "no JSON " + SECRET}, "an extra that is no JSON object"),
        ({"conn_type": "aws", "extra": '{"role_arn": "arn:…"}'}, "has role_arn in its extra"),
    ],
)
def test_connections_that_cannot_be_used(fields: Dict[str, Any], told: str) -> None:
    """The message names the option, the connection and the remedy, and not what is secret."""
    # Airflow itself refuses some of them when they are made in the usual way, but not when they come from a database.
    made = SimpleNamespace(**{"login": None, "password": SECRET, "extra": None, **fields})
    with pytest.raises(version_compat.config_exception(), match=r"\[vineyard\] tier_conn_id is 'c'\.") as error:
        bucket_options("c", made)
    assert told in str(error.value) and SECRET not in str(error.value)


def test_the_command(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options become arguments, except for those of a bucket, which are in the environment."""
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET", "aws://key:hid%2Fden@/?region_name=eu-central-1")
    options(
        ipc_socket="/run/v.sock",
        tier=f"s3://bucket/prefix, {tmp_path}",
        spill=tmp_path / "spill",
        disk_reserve="0.2",
        tier_timeout="60",
        tier_sync="True",
        tier_options='{"endpoint": "http://minio:9000", "region": "us-east-1", "virtual_hosted_style_request": false}',
        tier_conn_id="bucket",
    )
    command, environment = agent_call(get_settings(), with_server=True, older_than="7d")
    assert " ".join(command[1:]) == (
        f"-m vineyard_client agent --socket /run/v.sock --tier s3://bucket/prefix --tier {tmp_path} --spill "
        f"{tmp_path}/spill --reserve 0.2 --timeout 60.0 --sync --with-server --older-than 7d"
    )
    assert json.loads(environment["VINEYARD_TIER_OPTIONS"]) == {
        "access_key_id": "key",
        "secret_access_key": "hid/den",
        "region": "us-east-1",
        "endpoint": "http://minio:9000",
        "virtual_hosted_style_request": "false",
    }


def test_on_demand(options: Callable[..., None]) -> None:
    """For folders core's own agent will do; for buckets it is told its options by Airflow's configuration."""
    assert on_demand(get_settings()) == ()
    options(tier="/values file:///more")
    assert on_demand(get_settings()) == ()
    options(tier="/values s3://bucket")
    assert on_demand(get_settings())[1:] == ("-m", "airflow_provider_vineyard", "agent", "--with-server")


def test_no_such_connection(options: Callable[..., None], tmp_path: Path) -> None:
    """The command says so and what to do, in one line."""
    env = {
        **os.environ,
        "AIRFLOW__VINEYARD__IPC_SOCKET": str(tmp_path / "s"),
        "AIRFLOW__VINEYARD__TIER": "s3://bucket",
        "AIRFLOW__VINEYARD__TIER_CONN_ID": "nobody",
    }
    command = [sys.executable, "-W", "ignore", "-m", "airflow_provider_vineyard", "agent"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "[vineyard] tier_conn_id is 'nobody'. That connection cannot be had here" in done.stderr
    assert "AIRFLOW_CONN_NOBODY" in done.stderr
