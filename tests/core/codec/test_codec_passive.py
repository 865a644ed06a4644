"""Passive classes: what comes back without permission, what is refused, and that no method of theirs runs."""

from __future__ import annotations

import collections
import datetime
import decimal
import os
import shutil
import subprocess
import sys
import textwrap
import types
import urllib.parse

import passive_models as models
import pytest
from codec_support import TOKEN, blob, blob_of, decode, pickled, roundtrip

from vineyard_client._codec import envelope, modules, passive
from vineyard_client.exceptions import UnsafeType, UnsupportedVersion, VineyardError

pytestmark = pytest.mark.usefixtures("nothing_ran")


def with_attributes(value):
    value.note, value.more = "n", [1]
    return value


def defaulted():
    value = models.Default(list, a=[1])
    value["b"].append(2)
    return value


def reordered():
    value = models.Ordered([("a", 1), ("b", 2)])
    value.move_to_end("a")
    return value


VALUES = {
    "str": with_attributes(models.Text("abc")),
    "int": with_attributes(models.Number(10**30)),
    "float": with_attributes(models.Real(-0.0)),
    "complex": models.Complex(1.5, -0.0),
    "bytes": models.Raw(b"a" * 3000),
    "bytearray": with_attributes(models.Buffer(b"abc")),
    "tuple": models.Row((1, [2])),
    "list": with_attributes(models.Items([1, [2]])),
    "dict": with_attributes(models.Table(a=1)),
    "set": with_attributes(models.Group([1, 2])),
    "frozenset": models.FrozenGroup([1, 2]),
    "OrderedDict": with_attributes(reordered()),
    "Counter": models.Tally("aab"),
    "defaultdict": defaulted(),
    "deque": models.Queue([1, 2], 5),
    "UserDict": models.Wrapped(a=1),
    "ChainMap": models.Chain({"a": 1}, {"b": 2}),
    "date": with_attributes(models.Day(2020, 2, 29)),
    "datetime": with_attributes(models.Moment(2020, 1, 1, 2, 3, 4, 5, datetime.timezone.utc, fold=1)),
    "time": models.Clock(1, 2, 3, 4, fold=1),
    "timedelta": models.Span(-1, 2, 3),
    "Decimal": with_attributes(models.Price("-1.100")),
    "Decimal that is none": repr(models.Price("sNaN12")),
    "Fraction": with_attributes(models.Share(-2, 6)),
    "path": with_attributes(models.Place("/a//b/./c")),
    "UUID": models.Mark(int=2**127),
    "follower of a protocol": models.Follower("a"),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "NamedTuple": models.Point(1.0),
    "namedtuple": models.Pair(1, [2]),
    "namedtuple with attributes": with_attributes(models.Tagged(1, 2)),
    "named tuple by another name": models._Hidden(1, 2),
    "ParseResult": urllib.parse.urlparse("https://host/path?q=1#f"),
    "disk usage": shutil.disk_usage("/"),
    "stat": os.stat("/"),
    "terminal size": os.terminal_size((80, 25)),
    "IntEnum": [models.Level.LOW, models.Level.TOP],
    "str enum": models.Kind.B,
    "Enum with code": models.Planet.EARTH,
    "IntFlag": [models.Access.READ, models.Access.READ | models.Access.WRITE, models.Access(0)],
    "Flag": [models.Colour.RED, models.Colour.RED | models.Colour.BLUE, models.Colour(0)],
    "named member of flags that make others": models.Strange.ONE,
    "dataclass": models.Order("a", [1], rate=3),
    "subclass of a dataclass": models.SpecialOrder("a", note="n"),
    "dataclass with more attributes": with_attributes(models.Order("a")),
    "frozen dataclass": models.Key("a"),
    "slots": models.Slotted(1, [2]),
    "nested class": models.Outer.Inner({"a": 1}),
    "generic": models.Box([1]),
    "keys": {models.Key("a"): 1, models.Level.LOW: 2, models.Kind.A: 3, models.Point(1): 4, models.Text("t"): 5},
    "keys of Python's": {models.Day(2020, 1, 1): 1, models.Price(2): 2, models.Share(1, 3): 3, models.Place("a"): 4},
    "a mark as a key": {models.Mark(int=5): 1},
    "members": {models.Key("a"), models.Key("b"), models.Pair(1, 2)},
}
if sys.version_info >= (3, 10):
    VALUES["frozen dataclass with slots"] = models.Modern(value=[1])


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in VALUES.items()])
def test_values_come_back_without_permission(value):
    result = roundtrip(value)
    assert type(result) is type(value) and result == value
    assert repr(result) == repr(value) or isinstance(value, set)
    assert getattr(result, "__dict__", None) == getattr(value, "__dict__", None)
    if isinstance(value, list) and type(value) is list:
        assert all(one is other for one, other in zip(value, result))  # members of enumerations are what they were


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in VALUES.items()])
def test_one_option_turns_it_off(value):
    known = not any(
        "passive_models" in type(part).__module__
        for part in (value, *(value if isinstance(value, (list, dict, set)) else ()))
    )
    if known and not isinstance(value, tuple):
        pytest.skip("no class of the caller's")
    with pytest.raises(UnsafeType, match=r"(may not|cannot) be stored"):
        blob(value, passive=False)
    with pytest.raises(UnsafeType, match="turned off"):
        decode(blob(value), passive=False)


def test_details_come_back():
    assert list(roundtrip(reordered())) == ["b", "a"]
    assert roundtrip(defaulted()).default_factory is list
    assert roundtrip(models.Queue([1], 5)).maxlen == 5
    assert str(roundtrip(models.Real(-0.0))) == "-0.0"
    assert os.stat("/").st_mtime_ns == roundtrip(os.stat("/")).st_mtime_ns
    half = models.Slotted(1, 2)
    del half.right
    assert not hasattr(roundtrip(half), "right")


def test_shared_objects_and_cycles_keep_their_identity():
    order = models.Order("a")
    order.lines.append(order)
    items, table = models.Items(), models.Table()
    items.append(items)
    table["self"] = table
    result = roundtrip([order, order, items, table])
    assert result[0] is result[1] and result[0].lines[0] is result[0]
    assert result[2][0] is result[2] and result[3]["self"] is result[3]


TRAPPED = {
    "TrappedText": (str, "abc"),
    "TrappedNumber": (int, 5),
    "TrappedReal": (float, 1.5),
    "TrappedBytes": (bytes, b"abc"),
    "TrappedTuple": (tuple, (1, 2)),
    "TrappedList": (list, [1, 2]),
    "TrappedDict": (dict, {1: 2}),
    "TrappedSet": (set, {1, 2}),
    "TrappedOrdered": (collections.OrderedDict, {"a": 1}),
    "TrappedCounter": (dict, {"a": 1}),
    "TrappedQueue": (collections.deque, [1, 2]),
    "TrappedBuffer": (bytearray, b"abc"),
    "TrappedDay": (datetime.date, datetime.date(2020, 1, 2)),
    "TrappedMoment": (datetime.datetime, datetime.datetime(2020, 1, 2, 3)),
    "TrappedClock": (datetime.time, datetime.time(1, 2)),
    "TrappedSpan": (datetime.timedelta, datetime.timedelta(1)),
    "TrappedPrice": (decimal.Decimal, decimal.Decimal("1.5")),
}
FIELDS = {
    datetime.date: ("year", "month", "day"),
    datetime.datetime: ("year", "month", "day", "hour"),
    datetime.time: ("hour", "minute"),
    datetime.timedelta: ("days",),
}


@pytest.mark.parametrize("name", TRAPPED)
def test_no_method_of_a_subclass_of_a_plain_type_runs(name, unproven):
    kind, content = TRAPPED[name]
    cls = getattr(models, name)
    value = (
        kind.__new__(cls)
        if kind in (list, dict, set, collections.OrderedDict, collections.deque, bytearray)
        else kind.__new__(cls, *[getattr(content, name) for name in FIELDS[kind]] if kind in FIELDS else [content])
    )
    {
        list: lambda: list.extend(value, content),
        dict: lambda: dict.update(value, content),
        set: lambda: set.update(value, content),
        collections.OrderedDict: lambda: collections.OrderedDict.__setitem__(value, "a", 1),
        collections.deque: lambda: collections.deque.extend(value, content),
        bytearray: lambda: bytearray.extend(value, content),
    }.get(kind, lambda: None)()
    stored = blob([value])
    models.ran.clear()  # the summary asks for a length
    result = decode(stored)[0]
    assert type(result) is cls
    if kind is collections.deque:
        assert list(collections.deque.__iter__(result)) == content
    elif kind is collections.OrderedDict:
        assert list(collections.OrderedDict.items(result)) == [("a", 1)]
    elif kind is bytearray:
        assert bytearray.copy(result) == content  # before 3.9 its __eq__ asks for the class
    else:
        assert kind.__eq__(result, content if kind in FIELDS else kind(content)) is True


def test_no_method_of_an_exception_runs(unproven):
    cause = ValueError.__new__(models.TrappedFailure, "inner")
    value = ValueError.__new__(models.TrappedFailure, "text", [1])
    BaseException.__cause__.__set__(value, cause)
    vars(BaseException)["__dict__"].__get__(value)["note"] = 5
    stored = blob([value])
    models.ran.clear()  # for what its class is made of
    result = decode(stored)[0]
    assert type(result) is models.TrappedFailure
    assert BaseException.args.__get__(result) == ("text", [1])
    assert vars(BaseException)["__dict__"].__get__(result) == {"note": 5}
    assert type(BaseException.__cause__.__get__(result)) is models.TrappedFailure


def test_exceptions_come_back_with_what_belongs_to_them():
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise models.Trouble("outer", code=5) from inner
    except models.Trouble as exc:
        value = exc
    if sys.version_info >= (3, 11):
        value.add_note("note")
        value = ExceptionGroup("several", [value, models.Trouble("other")])  # noqa: F821
    result = roundtrip(value)
    assert type(result) is type(value) and str(result) == str(value)
    first = result.exceptions[0] if sys.version_info >= (3, 11) else result
    assert type(first) is models.Trouble and first.code == 5 and type(first.__cause__) is KeyError


def test_no_method_of_a_dataclass_runs(unproven):
    value = object.__new__(models.TrappedData)
    vars(models.TrappedData)["__dict__"].__get__(value)["value"] = [1]
    result = decode(blob([value]))[0]
    assert type(result) is models.TrappedData
    assert vars(models.TrappedData)["__dict__"].__get__(result) == {"value": [1]}


@pytest.mark.parametrize("name", models.NOT_PASSIVE)
def test_what_brings_code_needs_permission_and_the_error_says_why(name):
    with pytest.raises(UnsafeType, match=rf"passive_models\.{name}") as caught:
        blob([models.NOT_PASSIVE[name]])
    models.ran.clear()
    assert "allowed_classes" in caught.value.hint


@pytest.mark.parametrize("name", [*models.NOT_PASSIVE, "Covered"])
def test_the_reader_judges_as_the_writer_does(name):
    """A stream that names them all the same is refused, and nothing of theirs runs."""
    assert passive.why_not(getattr(models, name)) is not None
    kind = "str" if name == "Made" else "object"
    for arguments in (
        ("passive.new", "passive_models", name, kind),
        ("passive.new", "passive_models", name, kind, "x"),
    ):
        with pytest.raises(VineyardError):
            decode(blob_of(pickled(("MAKE", arguments))))


def test_what_has_no_name_and_code_of_its_own_needs_permission():
    both = models.Strange.ONE | models.Strange.TWO
    models.ran.clear()
    with pytest.raises(UnsafeType, match="Strange"):
        blob(both)
    with pytest.raises(UnsafeType, match="Strange"):
        decode(blob_of(pickled(("MAKE", ("enum.flags", "passive_models", "Strange", 3)))))


# --- classes made at run time ---------------------------------------------------------------------------------------


def test_rows_of_a_frame_come_back():
    pandas = pytest.importorskip("pandas")
    rows = list(pandas.DataFrame({"a": [1, 2], "b c": [3, 4]}).itertuples())
    result = roundtrip(rows)
    assert result == rows and result[0]._fields == rows[0]._fields and result[1].a == 2
    assert type(result[0]) is type(result[1]) and type(result[0]).__name__ == "Pandas"


def test_named_tuples_of_a_function_come_back_by_name_and_fields():
    local = collections.namedtuple("Local", "a b", module="nowhere")
    result = roundtrip([local(1, 2), local(3, 4)])
    assert result == [(1, 2), (3, 4)] and result[0].b == 2 and type(result[0]).__name__ == "Local"
    assert type(result[0]) is type(result[1])


def test_a_class_of_a_function_says_where_to_define_it():
    class Local(models.Text):
        pass

    with pytest.raises(UnsafeType, match="defined in a function") as caught:
        blob([Local("a")])
    assert "top of its module" in caught.value.hint


# --- finding the class ----------------------------------------------------------------------------------------------


def written(monkeypatch, tmp_path, name, source, make):
    """Write a value of a module, and return its bytes when the module is not loaded any more."""
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    stored = blob(make(__import__(name)))
    del sys.modules[name]
    return stored


DATA = "import dataclasses\n@dataclasses.dataclass\nclass Data:\n    x: int\n"


def test_a_module_that_lies_on_the_path_is_imported(monkeypatch, tmp_path):
    stored = written(monkeypatch, tmp_path, "passive_installed", DATA, lambda module: module.Data(5))
    assert decode(stored).x == 5
    del sys.modules["passive_installed"]


def test_a_missing_module_is_named(monkeypatch, tmp_path):
    stored = written(monkeypatch, tmp_path, "passive_gone", DATA, lambda module: module.Data(5))
    (tmp_path / "passive_gone.py").unlink()
    with pytest.raises(
        UnsafeType, match=r"passive_gone\.Data cannot be found here: there is no module passive_gone"
    ) as caught:
        decode(stored)
    assert "Install" in caught.value.hint


def test_a_missing_class_is_named(monkeypatch, tmp_path):
    stored = written(monkeypatch, tmp_path, "passive_changed", DATA, lambda module: module.Data(5))
    (tmp_path / "passive_changed.py").write_text("raise SystemExit('imported')\n")
    with pytest.raises(UnsafeType, match=r"the module passive_changed defines no such class here"):
        decode(stored)


def test_a_named_tuple_whose_class_is_missing_is_made_again(monkeypatch, tmp_path):
    source = "from typing import NamedTuple\nclass Data(NamedTuple):\n    x: int\n"
    stored = written(monkeypatch, tmp_path, "passive_tuples", source, lambda module: module.Data(5))
    (tmp_path / "passive_tuples.py").unlink()
    result = decode(stored)
    assert result.x == 5 and type(result).__name__ == "Data"


def test_other_fields_than_the_class_has_are_an_error():
    stream = pickled(("MAKE", ("passive.row", "passive_models", "Pair", "Pair", ("a", "b"), (1, 2))))
    with pytest.raises(UnsupportedVersion, match="fields a, b"):
        decode(blob_of(stream))


@pytest.mark.parametrize("name", ["unusual_prefix_0123456789abcdef_my_dag", "__main__"])
def test_a_file_of_a_dag_and_a_program_that_are_not_loaded_say_what_to_do(name):
    stream = pickled(("MAKE", ("passive.new", name, "NoSuch", "object")))
    with pytest.raises(UnsafeType, match="cannot be found here") as caught:
        decode(blob_of(stream))
    assert "Move the class into a module" in caught.value.hint or "Install" in caught.value.hint


def test_the_file_of_a_dag_is_found_at_another_path(monkeypatch):
    """Another host, or another version of the bundle, has it in another folder, so under another hash."""
    module = types.ModuleType("unusual_prefix_aaaaaaaaaaaa_my_dag")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(DATA, module.__dict__)
    value = module.Data(5)
    assert roundtrip(value) == value
    layout = envelope.parse(memoryview(blob(value)), TOKEN)
    moved = blob_of(bytes(layout.stream).replace(b"aaaaaaaaaaaa", b"bbbbbbbbbbbb"))
    assert decode(moved) == value


def test_the_file_of_a_dag_that_was_loaded_twice(monkeypatch):
    """Tasks go on with the classes of the first time; what they write they read as their own again."""
    first, second = (types.ModuleType("unusual_prefix_cccccccccccc_my_dag") for _ in range(2))
    for module in (first, second):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(DATA, module.__dict__)
    again = roundtrip(first.Data(5))
    assert type(again) is first.Data
    assert again == first.Data(5)
    assert type(roundtrip(second.Data(5))) is second.Data
    assert type(roundtrip(first.Data(5))) is first.Data


def test_the_folder_in_which_a_process_was_started_is_not_searched(tmp_path):
    """Whoever can put a file there and a value into the store would have that file run."""
    (tmp_path / "passive_planted.py").write_text("print('imported')\n" + DATA)
    stream = blob_of(pickled(("MAKE", ("passive.new", "passive_planted", "Data", "object"))))
    (tmp_path / "value").write_bytes(stream)
    program = (
        f"from vineyard_client import _codec\n_codec.decode(memoryview(open('value', 'rb').read()), token={TOKEN!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert "imported" not in done.stdout and "there is no module passive_planted" in done.stderr


@pytest.mark.parametrize(
    "module",
    [
        *("antigravity", "this", "idlelib.run", "test.support", "lib2to3.main", "pip.__main__", "json.tool"),
        *("unittest.__main__", "numpy.tests.test_ctypeslib", "conftest", "turtledemo.clock", "os.path.x", "..", "a b"),
        *("passive_models.__main__", "setuptools.command.develop", "http.server.x", "site", "sitecustomize"),
    ],
)
def test_programs_tests_and_easter_eggs_are_never_imported(module):
    before = set(sys.modules)
    for name in ("Data", "main", "x", "TestCase"):
        with pytest.raises(VineyardError):
            modules.find(module, name)
    assert set(sys.modules) - before <= {"ast", "_ast"}


def test_a_module_is_not_imported_for_what_it_does_not_define(monkeypatch, tmp_path):
    (tmp_path / "passive_program.py").write_text("class Other: pass\nraise SystemExit('ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Data", "sys", "Other.x.y", "__name__"):
        with pytest.raises((UnsafeType, SystemExit)) as caught:
            modules.find("passive_program", name)
        assert caught.type is UnsafeType or name.startswith("Other")


def test_a_lazy_attribute_of_a_module_is_not_asked_for(monkeypatch):
    module = types.ModuleType("passive_lazy")
    module.__getattr__ = models.trap("__getattr__")
    monkeypatch.setitem(sys.modules, "passive_lazy", module)
    with pytest.raises(UnsafeType, match="no such class"):
        modules.find("passive_lazy", "Data")
