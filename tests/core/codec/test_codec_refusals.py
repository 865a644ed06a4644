"""What a refusal says: everything that is refused, the patterns that help, and what to do where none does."""

from __future__ import annotations

import contextvars
import csv
import functools
import io
import itertools
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from operator import itemgetter

import codec_models as models
import passive_models
import pytest
from codec_support import blob, roundtrip

from vineyard_client.exceptions import UnsafeType

ALLOWED = "codec_models.*"


def test_one_refusal_names_everything():
    value = {
        "a": models.Plain(x=models.Slotted(1, models.Stateful(2))),
        "b": [models.Rebuilt(), passive_models.Order("a"), passive_models.Ordinary()],
    }
    with pytest.raises(UnsafeType) as caught:
        blob(value)
    error = caught.value
    text = str(error)
    for name in ("Plain", "Slotted", "Stateful", "Rebuilt", "rebuild"):
        assert f"codec_models.{name}" in text and f"codec_models.{name}" in error.names
    assert "It sits at value['a']" in text and "value['a'].x.right" in text and "value['b'][0]" in text
    assert error.patterns == ("codec_models.*", "codec_models.rebuild", "passive_models.Ordinary")
    assert roundtrip(value, *error.patterns)["a"].x.right.secret == 2


def test_the_pattern_is_as_short_as_it_can_be():
    with pytest.raises(UnsafeType) as caught:
        blob([models.Plain(), models.Plain()])
    assert caught.value.patterns == ("codec_models.Plain",)
    assert 'allowed_classes=["codec_models.Plain"]' in caught.value.hint


def test_what_never_can_be_allowed_stands_beside_what_can():
    with pytest.raises(UnsafeType) as caught:
        blob([models.Plain(), (n for n in [1]), threading.Lock()])
    error = caught.value
    assert error.patterns == ("codec_models.Plain",)
    assert set(error.names) == {"codec_models.Plain", "builtins.generator", "_thread.lock"}
    assert "builtins.generator: " in error.hint and "list(…)" in error.hint and "leave it out" in error.hint


def test_the_reason_says_what_code_a_class_brings():
    with pytest.raises(UnsafeType, match=r"nobody allowed it, and .*brings its own __new__"):
        blob(passive_models.Made("a"))
    with pytest.raises(UnsafeType, match="does not say that it holds data"):
        blob(models.Plain())


@functools.lru_cache
def remembered():
    """Remember the result."""


def generator():
    yield 1


REMEDIES = {
    "generator": (generator(), r"list\(…\)"),
    "map": (map(str, [1]), r"list\(…\)"),
    "filter": (filter(None, [1]), r"list\(…\)"),
    "zip": (zip([1]), r"list\(…\)"),
    "enumerate": (enumerate([1]), r"list\(…\)"),
    "reversed": (reversed([1]), r"list\(…\)"),
    "iterator": (iter([1]), r"list\(…\)"),
    "iterator of a dict": (iter({1: 2}), r"list\(…\)"),
    "iterator of a range": (iter(range(3)), r"list\(…\)"),
    "chain": (itertools.chain([1]), r"list\(…\)"),
    "count": (itertools.count(), r"list\(…\)"),
    "keys": ({}.keys(), r"list\(…\)"),
    "values": ({}.values(), r"list\(…\)"),
    "items": ({}.items(), r"list\(…\)"),
    "text in memory": (io.StringIO("a"), r"\.getvalue\(\)"),
    "reader": (csv.reader(["a"]), r"list\(…\)"),
    "lambda": (lambda: 1, "data that it works on"),
    "module": (os, "name"),
    "weak reference": (weakref.ref(models.Plain), "refers to"),
    "context variable": (contextvars.ContextVar("v"), r"\.get\(\)"),
    "lock": (threading.Lock(), "leave it out"),
    "thread": (threading.Thread(), "result"),
    "frame": (sys._getframe(), "text"),
    "bound method": ([].append, "result of the call"),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_each_kind_has_its_remedy(name):
    value, remedy = REMEDIES[name]
    with pytest.raises(UnsafeType) as caught:
        blob({"a": [value]})
    assert not caught.value.patterns and "allowed_classes" not in str(caught.value)
    assert __import__("re").search(remedy, caught.value.hint), caught.value.hint


def test_open_things_have_theirs(tmp_path):
    with open(tmp_path / "f", "w") as file, socket.socket() as connected, sqlite3.connect(":memory:") as database:
        cursor = database.cursor()
        for value, remedy in ((file, "path"), (connected, "port"), (database, "fetch"), (cursor, "fetch")):
            with pytest.raises(UnsafeType) as caught:
                blob([value])
            assert remedy in caught.value.hint and not caught.value.patterns
        cursor.close()
    database.close()
    with tempfile.TemporaryFile() as file, pytest.raises(UnsafeType, match="path"):
        blob(file)


def test_libraries_have_theirs():
    polars = pytest.importorskip("polars")
    pyarrow = pytest.importorskip("pyarrow")
    reader = pyarrow.ipc.RecordBatchReader.from_batches(pyarrow.schema([]), [])
    with pytest.raises(UnsafeType, match=r"\.read_all\(\)"):
        blob({"a": reader})
    lazy = polars.scan_csv("nowhere.csv").map_batches(lambda frame: frame)
    with pytest.raises(UnsafeType, match=r"\.collect\(\)"):
        blob({"a": lazy})


def test_operators_have_theirs():
    """Told by their names: core knows nothing of Airflow."""
    base = type("BaseOperator", (), {"__module__": "airflow.sdk.bases.operator"})
    operator = type("BashOperator", (base,), {"__module__": "airflow.providers.standard.operators.bash"})
    with pytest.raises(UnsafeType, match="Return its output, not the operator"):
        blob(operator())


VALUES = {
    "bytes in memory": io.BytesIO(b"abc" * 1000),
    "getter": itemgetter(1, "a"),
    "completed": subprocess.CompletedProcess(["ls"], 0, b"out", b"err"),
}


@pytest.mark.parametrize("name", VALUES)
def test_small_things_of_pythons_are_values(name, unproven):
    value = VALUES[name]
    result = roundtrip(value)
    assert (type(result) is type(value) and repr(result) == repr(value)) or name == "bytes in memory"
    if name == "bytes in memory":
        value.seek(5)
        result = roundtrip(value)
        assert result.tell() == 5 and result.getvalue() == value.getvalue() and result.write(b"x") == 1


# --- no permission leads into a wall --------------------------------------------------------------------------------


class Base:
    """Is rebuilt by a class method that its subclasses inherit."""

    def __init__(self, number):
        self.number = number

    @classmethod
    def make(cls, number):
        """Make one."""
        return cls(number)

    def __reduce__(self):
        return type(self).make, (self.number,)


class Derived(Base):
    """Inherits it."""


class Demanding:
    """Has a ``__new__`` that its reduction has no arguments for."""

    def __new__(cls, number):
        """Make one."""
        return super().__new__(cls)


class Closed:
    """Cannot be taken apart."""

    def __init__(self):
        self.lock = threading.Lock()


HERE = types.ModuleType("codec_refusals_here")
for _thing in (Base, Derived, Demanding, Closed):
    _thing.__module__ = HERE.__name__
    setattr(HERE, _thing.__name__, _thing)
HERE.remembered = remembered
remembered.__wrapped__.__module__ = remembered.__module__ = HERE.__name__


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setitem(sys.modules, HERE.__name__, HERE)


def test_an_inherited_class_method_can_be_allowed():
    with pytest.raises(UnsafeType) as caught:
        blob(Derived(5))
    assert "codec_refusals_here.Derived.make" in caught.value.patterns
    assert roundtrip(Derived(5), *caught.value.patterns).number == 5


def test_a_function_that_remembers_its_results_can_be_allowed():
    with pytest.raises(UnsafeType) as caught:
        blob({"f": remembered})
    assert caught.value.patterns == ("codec_refusals_here.remembered",)
    assert roundtrip({"f": remembered}, *caught.value.patterns)["f"] is remembered


def test_a_class_that_nobody_could_make_again_is_found_when_it_is_put():
    with pytest.raises(UnsafeType, match="needs arguments that its reduction lacks") as caught:
        blob([Demanding(1)], ["codec_refusals_here.*"])
    assert not caught.value.patterns
    with pytest.raises(UnsafeType, match="needs arguments") as caught:
        blob([Demanding(1)])
    assert not caught.value.patterns


def test_the_wall_behind_a_class_shows_at_once():
    with pytest.raises(UnsafeType) as caught:
        blob([Closed()])
    assert "_thread.lock" in caught.value.names and "value[0].lock" in str(caught.value)


def test_a_name_with_brackets_is_a_pattern_that_matches_itself():
    generic = type("Page[int]", (models.Plain,), {"__module__": HERE.__name__})
    HERE.__dict__["Page[int]"] = generic
    with pytest.raises(UnsafeType) as caught:
        blob(generic())
    assert caught.value.patterns == ("codec_refusals_here.Page[int]",)
    assert type(roundtrip(generic(), *caught.value.patterns)) is generic
    longer = type("Page[Dict[str, int]]", (models.Plain,), {"__module__": HERE.__name__})
    HERE.__dict__["Page[Dict[str, int]]"] = longer
    with pytest.raises(UnsafeType) as caught:
        blob(longer())
    assert " " not in caught.value.patterns[0] and "," not in caught.value.patterns[0]
    assert type(roundtrip(longer(), *caught.value.patterns)) is longer


def test_classes_of_dag_files_can_be_allowed(monkeypatch):
    name = "unusual_prefix_0123456789abcdef_orders"
    module = types.ModuleType(name)
    module.Model = type("Model", (models.Plain,), {"__module__": name})
    monkeypatch.setitem(sys.modules, name, module)
    for pattern in ("unusual_prefix_*", "unusual_prefix_*_orders.Model", f"{name}.Model"):
        assert type(roundtrip(module.Model(), pattern)) is module.Model
    with pytest.raises(UnsafeType):
        blob(module.Model(), ["unusual_prefix_*_others.Model"])


def test_what_is_found_is_bounded():
    many = [type(f"Kind{number}", (), {"__module__": "codec_models"})() for number in range(300)]
    with pytest.raises(UnsafeType) as caught:
        blob(many)
    assert len(caught.value.names) <= 100 and len(str(caught.value)) < 10_000


def _libraries():
    np, pd, pl = (pytest.importorskip(name) for name in ("numpy", "pandas", "polars"))
    frame = pd.DataFrame({"a": [1]})
    return {
        "polars.Expr": (pl.col("a") + 1, "it is code"),
        "polars.When": (pl.when(True), "it is code"),
        "polars.GroupBy": (pl.DataFrame({"a": [1]}).group_by("a"), "names of its keys"),
        "pandas.GroupBy": (frame.groupby("a"), "names of its keys"),
        "pandas.Rolling": (frame.rolling(1), "size of the window"),
        **({"pandas.Flags": (frame.flags, "allows_duplicate_labels")} if hasattr(frame, "flags") else {}),
        "numpy.ndindex": (np.ndindex(2, 3), "or the shape"),
        "numpy.ndenumerate": (np.ndenumerate([1]), "or the array"),
        "numpy.flatiter": (np.arange(3).flat, "return the array"),
        "numpy.nditer": (np.nditer([1]), "return the array"),
        "numpy.errstate": (np.errstate(all="ignore"), "geterr"),
    }


def test_those_of_libraries_have_theirs():
    """What is code, or a step of a calculation, in a library is refused with its result as the remedy."""
    for name, (value, remedy) in _libraries().items():
        with pytest.raises(UnsafeType) as caught:
            blob([value])
        assert not caught.value.patterns, name
        assert remedy in caught.value.hint, (name, caught.value.hint)


def test_prepared_geometries_have_theirs():
    shapely = pytest.importorskip("shapely")
    from shapely.geometry import Point
    from shapely.prepared import prep

    with pytest.raises(UnsafeType, match=r"Return the geometry, \.context"):
        blob(prep(Point(1, 2)))
    assert shapely
