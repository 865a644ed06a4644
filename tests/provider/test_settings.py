"""Options are read when they are used, checked, and typed; a wrong one says which, what and what to do."""

from __future__ import annotations

import logging
import os
from typing import Any, Callable

import pytest
from airflow.exceptions import AirflowConfigException

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.settings import AIRFLOW_CLASSES, get_placement, get_settings, wrong_options

pytestmark = pytest.mark.airflow


def test_defaults() -> None:
    """With nothing configured there is an embedded server below AIRFLOW_HOME."""
    settings = get_settings()
    assert settings.ipc_socket == os.path.join(version_compat.airflow_home(), "vineyard", "vineyard.sock")
    assert settings.embedded and settings.autostart
    assert (settings.persist, settings.reserve_memory) == (False, False)
    assert (settings.rpc_endpoint, settings.size) == (None, None)
    assert settings.inline_threshold == 4096
    assert settings.tier == (os.path.join(version_compat.airflow_home(), "vineyard", "values"),)
    assert (settings.default_tier, settings.durability, settings.spill) == (True, "behind", None)
    assert (settings.disk_reserve, settings.tier_timeout, settings.tier_sync) == (0.1, 120.0, False)
    assert (settings.tier_options, settings.tier_conn_id) == ((), None)
    assert (settings.preview, settings.preview_exclude) == ("head", ())
    assert set(AIRFLOW_CLASSES) <= set(settings.allowed_classes)


def test_all_options_are_read(options: Callable[..., None]) -> None:
    """Each option reaches its field."""
    options(
        ipc_socket="/run/v.sock",
        persist="True",
        rpc_endpoint="worker-1:9600",
        peers="10.0.0.*:9600, worker-?:9600",
        inline_threshold="0",
        allowed_classes="my.models.*, other.Thing",
        autostart="no",
        size="1.5 GiB",
        reserve_memory="ON",
        deployment="airflow-2",
        tier="s3://bucket/prefix, /old",
        durability="behind",
        spill="/var/spill",
        disk_reserve="0.25",
        tier_timeout="600",
        tier_sync="True",
        tier_options='{"region": "r", "endpoint": "http://x"}',
        tier_conn_id="aws_default",
        preview="Stats",
        preview_exclude="payroll_*, patients",
    )
    settings = get_settings()
    assert (settings.tier, settings.default_tier) == (("s3://bucket/prefix", "/old"), False)
    assert (settings.durability, settings.spill, settings.disk_reserve) == ("behind", "/var/spill", 0.25)
    assert (settings.tier_timeout, settings.tier_sync, settings.tier_conn_id) == (600.0, True, "aws_default")
    assert (settings.preview, settings.preview_exclude) == ("stats", ("payroll_*", "patients"))
    assert dict(settings.tier_options) == {"region": "r", "endpoint": "http://x"}
    assert (settings.ipc_socket, settings.embedded) == ("/run/v.sock", False)
    assert (settings.persist, settings.autostart, settings.reserve_memory) == (True, False, True)
    assert settings.deployment == "airflow-2"
    assert settings.peers == ("10.0.0.*:9600", "worker-?:9600")
    assert (settings.rpc_endpoint, settings.inline_threshold, settings.size) == ("worker-1:9600", 0, "1.5 GiB")
    assert settings.allowed_classes[:2] == ("my.models.*", "other.Thing")


def test_socket_precedence(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's option goes before VINEYARD_IPC_SOCKET, that before the embedded server."""
    monkeypatch.setenv("VINEYARD_IPC_SOCKET", "/run/environment.sock")
    assert get_settings().ipc_socket == "/run/environment.sock"
    assert not get_settings().embedded
    options(ipc_socket="/run/option.sock")
    assert get_settings().ipc_socket == "/run/option.sock"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("ipc_socket", "vineyard.sock", "absolute path"),
        ("ipc_socket", "/" + "x" * 107, "107 bytes"),
        ("persist", "maybe", "Write True or False"),
        ("autostart", "", "Write True or False"),
        ("reserve_memory", "2", "Write True or False"),
        ("inline_threshold", "4 KiB", "number of bytes"),
        ("inline_threshold", "-1", "number of bytes"),
        ("inline_threshold", "²", "number of bytes"),
        ("deployment", "", "Write a name"),
        ("deployment", "a name", "Write a name"),
        ("rpc_endpoint", "worker-1", "host:port"),
        ("peers", "10.0.0.*:9600, worker-1", "'worker-1' is no host:port"),
        ("rpc_endpoint", "worker-1:99999", "host:port"),
        ("size", "plenty", "such as 8Gi"),
        ("size", "-1Gi", "such as 8Gi"),
        ("tier", "values", "'values' is no tier"),
        ("tier", "/values s3:bucket", "'s3:bucket' is no tier"),
        ("durability", "often", "Write auto, none, behind or through"),
        ("spill", "spill", "Write the absolute path"),
        ("disk_reserve", "1", "from 0 to less than 1"),
        ("disk_reserve", "half", "from 0 to less than 1"),
        ("tier_timeout", "0", "whole number of seconds"),
        ("tier_timeout", "2m", "whole number of seconds"),
        ("tier_sync", "sometimes", "Write True or False"),
        ("preview", "everything", "Write off, schema, head or stats"),
        ("tier_conn_id", "no;id", "Write the id of an Airflow connection"),
        ("allowed_classes", "my.models.* *", "'*' does not name a package"),
        ("allowed_classes", "my.models;rm", "'my.models;rm' does not name a package"),
    ],
)
def test_a_wrong_option_names_itself(options: Callable[..., None], name: str, value: str, remedy: str) -> None:
    """The message has option, value, remedy, and the variable by which the option may have been set."""
    options(**{name: value})
    with pytest.raises(AirflowConfigException) as error:
        get_settings()
    text = str(error.value)
    assert text.startswith(f"[vineyard] {name} is {value!r}. ")
    assert remedy in text
    assert f"AIRFLOW__VINEYARD__{name.upper()}" in text


@pytest.mark.parametrize("value", ['{"secret_access_key": "hidden"', '["hidden"]', '{"a": ["hidden"]}', "hidden"])
def test_options_of_a_tier_are_not_repeated(options: Callable[..., None], value: str) -> None:
    """They may hold what somebody should not have written there."""
    options(tier_options=value)
    with pytest.raises(AirflowConfigException, match=r"\[vineyard\] tier_options is .*Write a JSON object") as error:
        get_settings()
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "variable", "socket", "tier", "durability"),
    [
        ("", "", "", ("HOME/vineyard/values",), "behind"),
        ("", "", "/run/v.sock", (), "through"),
        ("none", "", "", (), "through"),
        ("None", "/values", "", (), "through"),
        ("", "none", "", (), "through"),
        ("", "/values", "", ("/values",), "through"),
        ("", "/values", "/run/v.sock", ("/values",), "through"),
        ("s3://bucket", "/values", "", ("s3://bucket",), "through"),
    ],
)
def test_where_values_are_saved(
    options: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    variable: str,
    socket: str,
    tier: Any,
    durability: str,
) -> None:
    """The option goes before the variable, that before the folder of the embedded server; none is none in both."""
    monkeypatch.setenv("VINEYARD_TIER", variable)
    options(tier=option, ipc_socket=socket)
    settings = get_settings()
    assert settings.tier == tuple(path.replace("HOME", version_compat.airflow_home()) for path in tier)
    assert settings.durability == durability


def test_a_wrong_tier_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """VINEYARD_TIER is checked like the option."""
    monkeypatch.setenv("VINEYARD_TIER", "values")
    with pytest.raises(AirflowConfigException, match=r"VINEYARD_TIER is 'values'\. 'values' is no tier"):
        get_settings()


def test_a_wrong_environment_variable_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """VINEYARD_IPC_SOCKET is checked like the option."""
    monkeypatch.setenv("VINEYARD_IPC_SOCKET", "relative.sock")
    with pytest.raises(AirflowConfigException, match=r"VINEYARD_IPC_SOCKET is 'relative.sock'. .*absolute path"):
        get_settings()


def test_a_home_that_is_too_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system limits the path of a socket; the message says what to set instead."""
    monkeypatch.setattr(version_compat, "airflow_home", lambda: "/" + "deep/" * 30)
    with pytest.raises(AirflowConfigException, match=r"\[vineyard\] ipc_socket is ''. .*shorter path"):
        get_settings()


def test_read_once(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Options are cached; tests clear the cache."""
    options(size="1Gi")
    assert get_settings().size == "1Gi"
    monkeypatch.setenv("AIRFLOW__VINEYARD__SIZE", "2Gi")
    assert get_settings().size == "1Gi"
    get_settings.cache_clear()
    assert get_settings().size == "2Gi"


def test_airflows_classes_count(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries of [core] allowed_deserialization_classes are joined with ours, its blanket is not taken over."""
    monkeypatch.setenv("AIRFLOW__CORE__ALLOWED_DESERIALIZATION_CLASSES", r"airflow.* airflow\..* shop.Order bk\.t\..*")
    options(allowed_classes="mine.*")
    assert get_settings().allowed_classes == ("mine.*", "shop.Order", "bk.t.*", *AIRFLOW_CLASSES)


def test_airflows_regular_expressions_count(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the option that is for them, and names of the files of DAGs in both."""
    monkeypatch.setenv("AIRFLOW__CORE__ALLOWED_DESERIALIZATION_CLASSES", "unusual_prefix_* unusual_prefix_*_shop.Order")
    monkeypatch.setenv("AIRFLOW__CORE__ALLOWED_DESERIALIZATION_CLASSES_REGEXP", r"^bk\.t\..*$ unusual_prefix_.*_a\.B")
    expected = ("unusual_prefix_*", "unusual_prefix_*_shop.Order", "bk.t.*", "unusual_prefix_*_a.B")
    assert get_settings().allowed_classes == (*expected, *AIRFLOW_CLASSES)


def test_airflows_pattern_that_core_refuses(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A pattern for everything is left out, and said so: core would refuse to store anything with it."""
    monkeypatch.setenv("AIRFLOW__CORE__ALLOWED_DESERIALIZATION_CLASSES", "* shop.Order")
    with caplog.at_level(logging.WARNING, "airflow_provider_vineyard.settings"):
        assert get_settings().allowed_classes == ("shop.Order", *AIRFLOW_CLASSES)
    (record,) = (record for record in caplog.records if record.name == "airflow_provider_vineyard.settings")
    assert "'*' in [core] allowed_deserialization_classes" in record.getMessage()


@pytest.mark.integration
def test_airflows_classes_are_acceptable_to_core(client: Any) -> None:
    """Core takes every pattern of ours; none of them is a wildcard."""
    ref = client.put((1, 2), allowed_classes=AIRFLOW_CLASSES)
    assert client.get(ref, allowed_classes=AIRFLOW_CLASSES) == (1, 2)
    assert not any("*" in name for name in AIRFLOW_CLASSES)


def test_all_wrong_options_at_once(options: Callable[..., None]) -> None:
    """``get_settings`` names the first; this names all of them."""
    assert wrong_options() == []
    options(size="plenty", persist="perhaps", deployment="a b", ipc_socket="relative")
    assert [problem.split()[1] for problem in wrong_options()] == ["ipc_socket", "persist", "size", "deployment"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("16Mi", 16 << 20), ("100M", 100_000_000), ("1.5Gi", 3 << 29), ("0", 0), ("7", 7), ("2 kB", 2000)],
)
def test_amounts_of_bytes(options: Callable[..., None], text: str, expected: int) -> None:
    """Binary and decimal units, as elsewhere."""
    options(placement_min_size=text)
    assert get_placement().minimum == expected


def test_placement_is_off_by_default() -> None:
    """And its numbers are those of the documentation."""
    options = get_placement()
    assert options == (False, 16 << 20, 1e8, 10.0, None, ())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("placement", "perhaps"),
        ("placement_min_size", "large"),
        ("placement_min_size", ""),
        ("placement_bandwidth", "0"),
        ("placement_bandwidth", "fast"),
        ("placement_wait", "-1"),
        ("placement_wait", "301"),
        ("placement_wait", "nan"),
        ("placement_wait", ""),
    ],
)
def test_wrong_options_of_placement(options: Callable[..., None], option: str, value: str) -> None:
    """They are named, by the getter and among all wrong ones, and fail no task."""
    options(**{option: value})
    with pytest.raises(version_compat.config_exception(), match=rf"\[vineyard\] {option} is {value!r}"):
        get_placement()
    assert any(option in problem for problem in wrong_options())
    get_settings()


@pytest.mark.parametrize("value", ["a b", "n" * 254, "node/1"])
def test_what_is_no_host(options: Callable[..., None], value: str) -> None:
    """It goes into each row."""
    options(host=value)
    with pytest.raises(version_compat.config_exception(), match="host is"):
        get_settings()
