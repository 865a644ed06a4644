"""XComs that are saved in a tier: they outlive the server, and go with their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

from airflow_provider_vineyard.clients import close_clients
from airflow_provider_vineyard.reference import Origin, RowReference
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.version_compat import config_exception
from airflow_provider_vineyard.xcom import store as subject
from vineyard_client import EmbeddedServer, InvalidReference, ObjectNotFound

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

ORIGIN = Origin("etl", "manual__2026-11-25T00:00:00+00:00", "extract", -1, "return_value")


class Saved:
    """A server of a test's own, with a tier that the options name."""

    def __init__(self, folder: Path, options: Callable[..., None]) -> None:
        self.values = folder / "values"
        self.socket = str(folder / "s")
        self.server = EmbeddedServer("32Mi", socket=self.socket).start()
        options(ipc_socket=self.socket, tier=self.values, inline_threshold=0)

    def restart(self) -> None:
        """End the server, and all clients, and start another."""
        close_clients()
        self.server.stop()
        self.server = EmbeddedServer("32Mi", socket=self.socket).start()

    def files(self) -> int:
        """Return how many values are saved."""
        return sum(path.is_file() for path in self.values.rglob("*"))


@pytest.fixture
def saved(tmp_path: Path, options: Callable[..., None]) -> Iterator[Saved]:
    made = Saved(tmp_path, options)
    yield made
    close_clients()
    made.server.stop()


@pytest.mark.parametrize("value", [(1, 2), bytes(3_000_000), {"a": [bytes(100_000)]}], ids=["small", "large", "nested"])
def test_outlives_the_server(saved: Saved, value: object) -> None:
    """The next day, after a restart, the value is there; when its row goes, nothing is left."""
    row = subject.put(value, ORIGIN)
    copy = row["vineyard"]["copy"]
    assert row["vineyard"]["v"] == 3
    assert copy.startswith("airflow/etl/manual__2026-11-25T00%3A00%3A00%2B00%3A00/extract/-1/return_value/")
    saved.restart()
    assert subject.get(row) == value
    subject.free(row)
    assert saved.files() == 0
    with pytest.raises(ObjectNotFound, match=r"Clear task etl\.extract"):
        subject.get(row)


def test_members(saved: Saved) -> None:
    """A dict whose members were pushed before it: all of them are saved, and each goes by itself."""
    value = {"frame": bytes(200_000), "number": 5}
    member = subject.put(value["frame"], ORIGIN._replace(key="frame"))
    subject.put(value["number"], ORIGIN._replace(key="number"))
    row = subject.put(value, ORIGIN)
    assert RowReference.parse(row).parts["frame"].copy
    saved.restart()
    assert subject.get(row) == value
    subject.free(member)
    assert subject.get(row) == value
    subject.free(row)
    assert saved.files() == 1  # the number


def test_larger_than_the_store(saved: Saved) -> None:
    """A value for which the store has no room goes to the disk, and comes from there."""
    value = bytes(50 << 20)
    row = subject.put(value, ORIGIN)
    assert "bytes of 52428800" in row["vineyard"]["summary"]
    assert subject.get(row) == value
    subject.free(row)
    assert saved.files() == 0


@pytest.mark.parametrize(
    "changes", [{"copy": 5}, {"copy": "../../etc/passwd"}, {"copy": "x" * 2000}, {"v": 1}, {"copy": None}]
)
def test_forged(saved: Saved, changes: Dict[str, Any]) -> None:
    """An edited row leads nowhere."""
    row = subject.put((1, 2), ORIGIN)
    saved.restart()
    with pytest.raises(InvalidReference):
        subject.get({"vineyard": {**row["vineyard"], **changes}})


def test_turned_off_and_on(saved: Saved, options: Callable[..., None]) -> None:
    """With durability none nothing more is saved, and what was is read."""
    row = subject.put((1, 2), ORIGIN)
    options(durability="none")
    saved.restart()
    assert subject.get(row) == (1, 2)
    assert subject.put((3, 4), ORIGIN)["vineyard"]["v"] == 1
    subject.free(row)
    assert saved.files() == 0


@pytest.mark.parametrize("wrong", [{"tier": "values"}, {"tier": "s3:bucket"}, {"tier": "/v", "durability": "often"}])
def test_wrong_options(options: Callable[..., None], wrong: Dict[str, str]) -> None:
    """An option that makes no sense says which one, and what to write."""
    options(**wrong)
    with pytest.raises(config_exception(), match=r"\[vineyard\] (tier|durability) is .* [Ww]rite "):
        get_settings()


def test_a_tier_that_core_refuses(saved: Saved, options: Callable[..., None]) -> None:
    """What only core can tell names the option as well."""
    options(tier="s3://key:secret@bucket")
    with pytest.raises(config_exception(), match=r"\[vineyard\] tier cannot be used: .* has a password"):
        subject.put((1, 2), ORIGIN)
