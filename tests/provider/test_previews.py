"""What is kept of a value to be looked at: as the options say, less what Airflow masks."""

from __future__ import annotations

from typing import Any, Callable, Dict

import pytest

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import Origin, RowReference
from airflow_provider_vineyard.xcom import store as subject

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

ORIGIN = Origin("etl", "r1", "extract", -1, "return_value")
VALUE = {"rows": list(range(10)), "password": "hunter2", "more": {"api_key": "hunter2", "city": "Essen"}}


@pytest.fixture(autouse=True)
def everything_goes_to_vineyard(options: Callable[..., None]) -> None:
    """Keep nothing in the rows, so that small values will do."""
    options(inline_threshold=0)


def shown(store: Any, value: object = VALUE, origin: Origin = ORIGIN) -> Any:
    return store.preview(RowReference.parse(subject.put(value, origin)).ref)


def test_by_default_the_head(store: Any) -> None:
    """Members are shown, those that Airflow masks by their names left out, at any depth."""
    found = shown(store)
    assert "Essen" in str(found) and "hunter2" not in str(found)
    assert (found["t"], found["n"]) == ("dict", 3)


@pytest.mark.parametrize(
    "set_to, expected",
    [({"preview": "off"}, None), ({"preview": "schema"}, False), ({"preview_exclude": "e?l, x"}, False)],
)
def test_the_options(store: Any, options: Callable[..., None], set_to: Dict[str, str], expected: Any) -> None:
    """Off is nothing; the schema shows no value; DAGs can be left out."""
    options(**set_to)
    found = shown(store)
    assert found is None if expected is None else "Essen" not in str(found) and found["n"] == 3
    other = shown(store, origin=ORIGIN._replace(dag_id="other"))
    assert (other is None) == (set_to == {"preview": "off"})


def test_a_key_that_is_masked(store: Any) -> None:
    """Nothing is shown of what was pushed under a name that Airflow masks."""
    assert shown(store, "hunter2" * 10, ORIGIN._replace(key="db_password")) == {"kind": "text", "length": 70}


def test_without_a_masker(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can say what is to be masked, no value is shown."""

    def none() -> Any:
        raise RuntimeError

    monkeypatch.setattr(version_compat, "secrets_masker", none)
    assert "Essen" not in str(shown(store))


def test_parts_have_their_own(store: Any) -> None:
    """What was pushed before and is a part of the result now keeps its preview."""
    part = bytes(100_000)
    subject.put(part, ORIGIN._replace(key="part"))
    row = RowReference.parse(subject.put({"part": part, "n": 1}, ORIGIN))
    for ref in row.parts.values():
        assert store.preview(ref) == {"kind": "bytes", "length": 100_000, "head": "00" * 256}
    assert store.preview(row.ref)["t"] == "dict"
