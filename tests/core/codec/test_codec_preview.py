"""Previews: small whatever the value, made without running its code, and true."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import pytest
from codec_matrix import LIBRARIES, Unavailable, cases, make

from vineyard_client._codec import preview as subject
from vineyard_client._codec.cells import name_of_type
from vineyard_client._codec.preview import LEVELS, LIMIT, preview, read

CASES = [pytest.param(case, id=f"{library}: {name}") for library in LIBRARIES for name, case in cases(library)]
SHOWN = LEVELS[1:]


def shown(value: object, level: str = "head", **options: Any) -> Any:
    return read(preview(value, level, **options))


@pytest.fixture(autouse=True)
def nothing_is_swallowed(monkeypatch):
    """Have what would mean "no preview" fail the test."""
    monkeypatch.setattr(subject, "from_outside", lambda error: True)


@pytest.mark.parametrize("case", CASES)
def test_of_everything(case):
    """Each value has one of a known kind, at each level and for each limit, which is kept."""
    try:
        value = make(case)
    except Unavailable as exc:
        pytest.skip(str(exc))
    for level in SHOWN:
        for limit in (LIMIT, 400):
            data = preview(value, level, limit=limit)
            assert 0 < len(data) <= limit
            assert json.loads(data, parse_constant=pytest.fail)["kind"] in ("table", "array", "text", "bytes", "tree")


class Meta(type):
    def __getattribute__(cls, name):
        raise AssertionError(f"its metaclass was asked for {name}")

    __hash__ = __eq__ = __instancecheck__ = __subclasscheck__ = __call__ = None  # type: ignore[assignment]


class Evil:
    def __getattribute__(self, name):
        raise AssertionError(f"it was asked for {name}")

    def __repr__(self):
        raise AssertionError("it was to be shown")

    __str__ = __len__ = __iter__ = __bool__ = __hash__ = __eq__ = __format__ = __repr__  # type: ignore[assignment]


EvilWithMeta = Meta.__new__(Meta, "EvilWithMeta", (), {"__module__": "m", "__qualname__": "EvilWithMeta"})


def evil_meta() -> object:
    return object.__new__(EvilWithMeta)


class EvilZone(tzinfo):
    def utcoffset(self, moment):
        raise AssertionError("a zone was asked")

    tzname = dst = utcoffset


def subclass(base: type, *arguments: Any) -> Any:
    def fail(self, *_: Any) -> Any:
        raise AssertionError("a method of a subclass ran")

    names = ("__repr__", "__str__", "__len__", "__iter__", "__getitem__", "items", "__getattribute__", "__format__")
    return type("Sub", (base,), dict.fromkeys(names, fail))(*arguments)


EVIL = {
    "an object": Evil,
    "one with a metaclass": evil_meta,
    "its class": lambda: EvilWithMeta,
    "a zone": lambda: datetime(2020, 1, 1, tzinfo=EvilZone()),
    **{base.__name__: lambda base=base: subclass(base) for base in (dict, list, tuple, set, str, bytes, int, float)},
    "Decimal": lambda: subclass(Decimal, 1),
    "datetime": lambda: subclass(datetime, 2020, 1, 1),
    "named tuple": lambda: namedtuple("N", "a")(Evil()),
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("level", SHOWN)
def test_no_code_of_a_value_runs(name, level):
    """Wherever it is: by itself, as member, as key, in arrays and frames, as their labels and names."""
    evil = EVIL[name]()
    assert preview(evil, level)
    for holder in ([evil], {"a": evil}, (evil, [evil]), deque([evil]), {"b": {"c": {"d": {"e": {"f": evil}}}}}):
        assert preview(holder, level)
    numpy = pytest.importorskip("numpy")
    array = numpy.empty(3, object)
    array[0] = evil
    assert preview(array, level) and preview([array], level)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1, 2, 3]})
    frame["o"] = pandas.Series(numpy.empty(3, object), dtype=object)
    frame["o"].array.to_numpy()[0] = evil
    frame._mgr.iget_values(1)[:1] = array[:1]
    assert preview(frame, level)
    series = pandas.Series([1, 2], name="s")
    object.__setattr__(series, "_name", evil)
    assert preview(series, level)
    index = pandas.Index(["a", "b", "c"], dtype=object)
    index._data[0:1] = array[:1]
    assert preview(pandas.DataFrame({"n": [1, 2, 3]}).set_axis(index), level)


def test_arrays_of_somebody_else_in_a_frame(monkeypatch):
    """Their type is shown, and nothing of theirs runs."""
    pandas, numpy = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    from pandas.api.extensions import ExtensionArray, ExtensionDtype

    class Dtype(ExtensionDtype):
        name, type = "theirs", object

        @classmethod
        def construct_array_type(cls):
            return Theirs

    class Theirs(ExtensionArray):
        ran = False

        def __init__(self, length):
            self._n = length

        def __getattribute__(self, name):
            if Theirs.ran is None:
                raise AssertionError(f"{name} was asked for")
            return object.__getattribute__(self, name)

        dtype = Dtype()
        nbytes = 0

        def __len__(self):
            return self._n

        def copy(self):
            return Theirs(self._n)

        def isna(self):
            return numpy.zeros(self._n, bool)

    frame = pandas.DataFrame({"a": [1, 2]})
    frame["t"] = pandas.Series(Theirs(2), copy=False)
    monkeypatch.setattr(Theirs, "ran", None)
    try:
        for level in SHOWN:
            found = shown(frame, level)
            assert found["columns"][1] == {"name": "t", "type": name_of_type(Theirs)}
            assert "head" not in found or [row[1] for row in found["head"]] == ["…", "…"]
    finally:
        Theirs.ran = False


def test_plain_values():
    """They are shown as JSON has them, or as a short text."""
    moment = datetime(2020, 1, 2, 3, 4, tzinfo=timezone.utc)
    values = {
        5: 5,
        True: True,
        None: None,
        1.5: 1.5,
        "a": "a",
        2**60: str(2**60),
        -(2**70): str(-(2**70)),
        2**9999: "(int of 10000 bits)",
        Decimal("1.10"): "1.10",
        Fraction(1, 3): "1/3",
        date(2020, 1, 2): "2020-01-02",
        moment: "2020-01-02 03:04:00+00:00",
        timedelta(1): "1 day, 0:00:00",
        PurePosixPath("/a/b"): "/a/b",
        "x" * 99: "x" * 59 + "…",
    }
    found = shown(list(values))
    assert [kid.get("v", "text") for _, kid in found["kids"] if kid["t"] != "str"] == [
        want for value, want in values.items() if type(value) is not str
    ]
    assert shown([float("nan"), float("-inf")])["kids"] == [
        [None, {"t": "float", "v": "nan"}],
        [None, {"t": "float", "v": "-inf"}],
    ]


def test_texts_of_a_tree_are_shown():
    """A text has its length, and its beginning."""
    assert shown(["abc", b"\x01"])["kids"] == [
        [None, {"t": "str", "n": 3, "v": "abc"}],
        [None, {"t": "bytes", "n": 1, "v": "01"}],
    ]
    assert "v" not in str(shown(["abc"], "schema"))


@pytest.mark.parametrize("make", [dict, OrderedDict, defaultdict, Counter])
def test_dicts(make):
    value = make()
    value["a"] = 1
    value[2] = 3
    kids = [["a", {"t": "int", "v": 1}], ["2", {"t": "int", "v": 3}]]
    name = make.__name__ if make is dict else f"collections.{make.__name__}"
    assert shown(value) == {"kind": "tree", "t": name, "n": 2, "kids": kids}
    assert shown(value, "schema")["kids"] == [["a", {"t": "int"}], ["(int)", {"t": "int"}]]


def test_what_contains_itself():
    value: Any = {}
    value["me"] = value
    assert shown(value)["n"] == 1


def test_texts_and_bytes():
    text = shown("é" * 100_000)
    assert (text["kind"], text["length"]) == ("text", 100_000)
    assert text["head"] == "é" * len(text["head"]) and len(text["head"]) > 1000
    assert shown("\ud800")["head"] == "?"
    assert shown(b"\x00\xff") == {"kind": "bytes", "length": 2, "head": "00ff"}
    assert shown(memoryview(b"ab")) == {"kind": "bytes", "length": 2, "head": "6162"}
    assert shown("secret", "schema") == {"kind": "text", "length": 6}


def hides(name: str) -> bool:
    assert type(name) is str
    return "pass" in name


def test_names_that_are_hidden():
    """No member, cell or figure of theirs is shown, at any level."""
    pandas, numpy = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    frame = pandas.DataFrame({"a": [1.5, 2.5], "password": [31337.0, 31337.0], ("x", "pass"): [31337.0, 31337.0]})
    values = [
        frame,
        pandas.Series([31337.0], name="passphrase"),
        {"a": 1, "password": 31337, "more": {"pass": {"deep": [31337]}}},
        {"password": numpy.array([31337])},
    ]
    for name in ("polars", "pyarrow"):
        if name in sys.modules:
            make = sys.modules[name].DataFrame if name == "polars" else sys.modules[name].table
            values.append(make({"a": [1], "password": [31337]}))
    for value in values:
        for level in SHOWN:
            found = preview(value, level, hide=hides)
            assert found and b"31337" not in found, found
            assert level == "schema" or b"***" in found


def test_a_hide_that_fails():
    """It makes no preview, and the put goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.undo()

        def fail(name: str) -> bool:
            raise OSError(name)

        patch.setattr(subject, "from_outside", lambda error: False)
        assert preview({"a": 1}, "head", hide=fail) == b""


def test_tables():
    """What they say is so."""
    pandas, numpy = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    frame = pandas.DataFrame(
        {
            "f": [1.5, numpy.nan, 3.5],
            "i": [1, 2, 3],
            "t": ["a", None, "c"],
            "d": pandas.to_datetime(["2020-01-01", None, "2020-01-03"]),
            "z": pandas.to_datetime(["2020-01-01", None, "2020-01-03"]).tz_localize("Europe/Berlin"),
            "c": pandas.Categorical(["u", None, "u"]),
            "m": pandas.array([1, None, 3], dtype="Int64"),
            "b": [True, False, True],
        }
    )
    found = shown(frame, "stats")
    assert (found["kind"], found["rows"], found["cols"]) == ("table", 3, 8)
    nulls = {column["name"]: column.get("nulls") for column in found["columns"]}
    assert nulls == {"f": 1, "i": None, "t": 1, "d": 1, "z": 1, "c": 1, "m": 1, "b": None}
    first = dict(zip(nulls, found["head"][0]))
    assert (first["f"], first["i"], first["t"], first["c"], first["m"], first["b"]) == (1.5, 1, "a", "u", 1, True)
    assert first["d"].startswith("2020-01-01T00:00") and first["z"].startswith("2019-12-31T23:00")
    assert first["z"].endswith("Z")
    assert [row[list(nulls).index("m")] for row in found["head"]] == [1, None, 3]
    column = found["columns"][0]
    assert (column["min"], column["max"], column["mean"], sum(column["hist"])) == (1.5, 3.5, 2.5, 2)
    assert "head" not in shown(frame, "schema") and "hist" not in str(shown(frame))


def test_what_a_sample_was():
    """A large table says how many rows were looked at."""
    pandas, numpy = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    frame = pandas.DataFrame({"a": numpy.where(numpy.arange(1_000_000) % 2, numpy.nan, 1.0)})
    found = shown(frame, "stats")
    assert found["rows"] == 1_000_000 and 0 < found["sampled"] <= 10_000
    assert found["columns"][0]["nulls"] <= found["sampled"]


def test_frames_of_one_array():
    """Columns that lie in one array are looked at together, with the same result: also permuted, strided, or many."""
    pandas, numpy = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    numbers = numpy.arange(300_000.0).reshape(3000, 100)
    numbers[::2, 3] = numpy.nan
    numbers[0, 5] = numpy.inf
    frame = pandas.DataFrame(numbers, columns=[f"c{number}" for number in range(100)])
    for each in (
        frame,
        frame[frame.columns[::-1]],
        frame[["c5", "c3", "c5"]],
        frame.iloc[:, ::7],
        frame.iloc[::3, 2:6],
    ):
        together = shown(each, limit=1 << 20)
        parts = [shown(each.iloc[:, number], limit=1 << 20) for number in range(min(each.shape[1], 40))]
        assert together["cols"] == each.shape[1] and len(together["columns"]) == len(parts)
        assert together["columns"] == [part["columns"][0] for part in parts]
        assert together["head"] == [list(row) for row in zip(*([cell for (cell,) in part["head"]] for part in parts))]


def test_of_a_small_value_less_is_shown():
    """Its preview must not cost what it does itself; how large it is, is told all the same."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": numpy.arange(50), "b": numpy.arange(50.0)})
    assert [len(shown(frame, nbytes=size)["head"]) for size in (4000, 400_000)] == [5, 10]
    assert [(len(found["kids"]), found["n"]) for found in (shown([1] * 50, nbytes=400), shown([1] * 50))] == [
        (8, 50),
        (20, 50),
    ]


def test_arrays():
    numpy = pytest.importorskip("numpy")
    found = shown(numpy.arange(24.0).reshape(2, 3, 4), "stats")
    assert (found["shape"], found["dtype"], found["head"][0]) == ([2, 3, 4], "float64", [0.0, 1.0, 2.0, 3.0])
    assert (found["stats"]["min"], found["stats"]["max"], sum(found["hist"])) == (0.0, 23.0, 24)
    assert shown(numpy.array([numpy.nan, 1.0]))["head"] == ["nan", 1.0]
    assert shown(numpy.zeros((0, 5)))["head"] == []
    assert shown(numpy.array(["a", "bc"]))["head"] == ["a", "bc"]


def test_work_is_bounded():
    """A value a thousand times as large has no more done for it; the figure is generous, for it is no benchmark."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    huge = numpy.lib.stride_tricks.as_strided(numpy.zeros(1), (1 << 40, 3), (0, 0))
    values = [huge, huge.T, [[0] * 10] * 1_000_000, "x" * 100_000_000, pandas.DataFrame(numpy.zeros((4_000_000, 2)))]
    for value in values:
        started = time.thread_time()
        for level in SHOWN:
            assert preview(value, level)
        assert time.thread_time() - started < 2


def test_levels():
    assert preview([1], "off") == b""
    with pytest.raises(ValueError, match="off, schema, head, stats"):
        preview([1], "all")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff", b'{"kind": 5}', b"[" * 60_000, b'{"kind": "' + b"x" * 70_000 + b'"}']
)
def test_what_is_none(data):
    """Whoever writes to the store may have written anything."""
    assert read(data) is None
