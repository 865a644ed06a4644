"""Somebody else can write to the store: whatever stands there, reading it runs nothing.

Each attack would leave a trace if it worked: a call of ``trap``, a changed class, a file. All of them must end in an
error of ours, or in plain data.
"""

from __future__ import annotations

import codecs
import collections
import datetime
import io
import os
import pickle
import random
import struct
import subprocess
import sys

import codec_models as models
import pytest
from codec_support import TOKEN, Assembler, blob, blob_of, decode, pickled

from vineyard_client._codec import envelope
from vineyard_client._codec.table import table
from vineyard_client._codec.verify import verify
from vineyard_client.exceptions import ObjectCorrupted, UnsafeType, UnsupportedVersion, VineyardError

ALLOWED = ["codec_models.*"]
FORGED = "vineyard_client._codec.ops"


# What code that ran would do, as Python's own audit reports it. Hooks cannot be taken away again, so there is one.
_WATCHED = frozenset(
    [
        "os.system",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.startfile",
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.chmod",
        "subprocess.Popen",
        "pty.spawn",
        "socket.connect",
        "socket.bind",
        "shutil.rmtree",
        "webbrowser.open",
        "code.__new__",
        "ctypes.dlopen",
        "function.__new__",
        "urllib.Request",
    ]
)
_watching: list = []


def _audit(event: str, arguments: tuple) -> None:
    if not _watching:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    evaluates = event == "compile" and arguments[1] == "<string>"
    if writes or evaluates or event in _WATCHED:
        _watching.append((event, arguments))
        raise SystemExit(f"an attack worked: {event}")


sys.addaudithook(_audit)


@pytest.fixture
def traces(monkeypatch, tmp_path):
    """Watch what code that ran would touch."""
    for package in table.adapters:
        try:
            table.load(package)  # importing a library does many things; do them before
        except UnsupportedVersion:
            continue  # not installed
    monkeypatch.chdir(tmp_path)
    _watching.append("watching")
    yield
    seen = _watching[1:]
    _watching.clear()
    assert not seen
    assert not list(tmp_path.iterdir())


def test_the_watch_sees_attacks_that_work(traces):
    """What the tests below rely on: pickle itself would have run all of these."""
    for attack in (GADGETS["reduce to os.system"], GADGETS["reduce to eval"], GADGETS["protocol 0"], GADGETS["INST"]):
        with pytest.raises(SystemExit, match="an attack worked"):
            pickle.loads(attack)
    assert len(_watching) == 5
    del _watching[1:]


# --- gadgets known from elsewhere -----------------------------------------------------------------------------------

GADGETS = {
    "reduce to os.system": pickle.dumps(models.Gadget(os.system, "touch pwned"), 5),
    "reduce to eval": pickle.dumps(models.Gadget(eval, "open('pwned', 'w')"), 5),
    "reduce to open": pickle.dumps(models.Gadget(io.open, "pwned", "w"), 5),
    "reduce in a reduce": pickle.dumps(models.Gadget(getattr, models.Gadget(__import__, "os"), "system"), 5),
    "codecs": pickle.dumps(models.Gadget(codecs.encode, "pwned", "rot13"), 5),
    "protocol 0": b"cposix\nsystem\n(S'touch pwned'\ntR.",
    "protocol 0 in a protocol 5 coat": b"\x80\x05cposix\nsystem\n(S'touch pwned'\ntR.",
    "INST": b"\x80\x05(S'touch pwned'\niposix\nsystem\n.",
    "OBJ": b"\x80\x05(cposix\nsystem\nX\x0b\x00\x00\x00touch pwnedo.",
    "STACK_GLOBAL": Assembler().named("posix", "system").data(("touch pwned",)).raw(b"R").finish(),
    "attribute path": Assembler().named("os", "system.__call__").data(("touch pwned",)).raw(b"R").finish(),
    "NEWOBJ": Assembler().named("subprocess", "Popen").data((["touch", "pwned"],)).raw(b"\x81").finish(),
    "NEWOBJ_EX": Assembler().named("subprocess", "Popen").data(()).data({"args": ["x"]}).raw(b"\x92").finish(),
    "BUILD": Assembler().named("codec_models", "Plain").data({"x": 1}).raw(b"b").finish(),
    "persistent id": b"\x80\x05X\x01\x00\x00\x00xQ.",
    "textual persistent id": b"\x80\x05Px\n.",
    "extension code": b"\x80\x05\x82\x01.",
    "an operation applied by OBJ": Assembler().raw(b"(").named(FORGED, "MAKE").data("complex").raw(b"o").finish(),
    "attributes of an operation": Assembler().named(FORGED, "MAKE").data({"name": 1}).raw(b"b").finish(),
}


@pytest.mark.parametrize("stream", [pytest.param(stream, id=name) for name, stream in GADGETS.items()])
def test_known_gadgets_run_nothing(stream, traces):
    with pytest.raises(VineyardError):
        decode(blob_of(stream), ALLOWED)


# --- our own operations turned against us ---------------------------------------------------------------------------

MISUSES = {
    "a class by name that nobody allowed": ("NAME", ("pathlib", "Path")),
    "a function as a class": ("NEW", ("codec_models", "rebuild", (), {})),
    "a function allowed by wildcard only": ("CALL", ("codec_models", "rebuild", (1,))),
    "what was imported into an allowed module": ("CALL", ("codec_models", "Popen", (["touch", "pwned"],))),
    "a subclass of what runs things": ("CALL", ("codec_models", "Shell", (["touch", "pwned"],))),
    "a module of an allowed module": ("NAME", ("codec_models", "subprocess")),
    "a method": ("CALL", ("codec_models", "Plain.__init__", ({},))),
    "globals of a method": ("NAME", ("codec_models", "Plain.__init__.__globals__")),
    "subclasses of object": ("CALL", ("codec_models", "Plain.__subclasses__", ())),
    "the module attribute of a class": ("NAME", ("codec_models", "Plain.__module__")),
    "a class of classes": ("CALL", ("codec_models", "Meta", ("X", (), {}))),
    "an unknown maker": ("MAKE", ("os.system", "touch pwned")),
    "a maker by attribute": ("MAKE", ("__class__",)),
    "no maker": ("MAKE", (5,)),
    "a class that is no value": ("NAME", ("", "builtins.type")),
    "a value of no name": ("NAME", ("", None)),
    "an enumeration that is none": ("MAKE", ("enum.flags", "codec_models", "Plain", 1)),
    "an enumeration of Python's": ("MAKE", ("enum.flags", "", "os.PathLike", 1)),
    "a member that is none": ("MAKE", ("enum.member", "codec_models", "Colour", "__class__")),
    "an exception that is none": ("MAKE", ("exception", "", "eval", ("1",))),
    "an exception that is a function": ("MAKE", ("exception", "", "exec", ("1",))),
    "an exception of another class": ("MAKE", ("exception", "codec_models", "Plain", ())),
    "a pattern of objects": ("MAKE", ("pattern", ["a"], 0)),
    "a path of an object": ("MAKE", ("pathlib.PosixPath", ["a"])),
    "a zone outside of the database": ("MAKE", ("zoneinfo.ZoneInfo", "../../etc/passwd", True)),
    "a huge fraction": ("MAKE", ("fractions.Fraction", "1e999999999", 1)),
    "a date that cannot exist": ("MAKE", ("datetime.datetime", 10**9, 0, 0, 0, None)),
    "a time that cannot exist": ("MAKE", ("datetime.time", 99, 0, 0, 0, None, 0)),
    "a zone that is none": ("MAKE", ("datetime.datetime", 5, 0, 0, 0, "Europe/Berlin")),
    "a partial of an operation": (
        "MAKE",
        ("partial", Assembler().named(FORGED, "MAKE"), ("complex", 1, 2), {}),
    ),
    "a factory that is an operation": ("MAKE", ("defaultdict", Assembler().named(FORGED, "CALL"))),
    "a factory that is text": ("MAKE", ("defaultdict", "os.system")),
    "state of a class": ("STATE", (Assembler().call("NAME", "codec_models", "Plain"), {"x": 1})),
    "state of a class of ours": ("STATE", (Assembler().call("NAME", "", "builtins.int"), {"x": 1})),
    "state of an operation": ("STATE", (Assembler().named(FORGED, "MAKE"), {"name": "x"})),
    "state of a list": ("STATE", ([1], {"x": 1})),
    "state of a type with an adapter": (
        "STATE",
        (Assembler().call("MAKE", "datetime.date", 2020, 1, 1), {"x": 1}),
    ),
    "slots that are none": (
        "STATE",
        (Assembler().call("NEW", "codec_models", "Plain", (), {}), (None, {"__class__": 1})),
    ),
    "attributes of an enumeration": ("STATE", (Assembler().call("NAME", "codec_models", "Colour"), {"RED": 5})),
    "an unknown filler": ("FILL", ([1], ("os.system", "x"))),
    "a filler for another type": ("FILL", ([1], ("attributes", {"x": 1}))),
    "attributes of a class": ("FILL", (Assembler().call("NAME", "", "builtins.int"), ("attributes", {"x": 1}))),
    "a cause of no exception": ("FILL", ([1], ("exception", ({}, None, None, False)))),
    "an array of another size": ("MAKE", ("array.array", "d", 3, "little", b"abc")),
    "an array of no type": ("MAKE", ("array.array", "Z", 8, "little", b"")),
    "a view of no format": ("MAKE", ("memoryview", b"abcd", "Zd", (1,))),
    "a view larger than its memory": ("MAKE", ("memoryview", b"abcd", "d", (100,))),
    "a random generator with a bad state": ("MAKE", ("random.Random", (3, (1, 2), None))),
    "arguments that are missing": ("MAKE", ()),
    "too many arguments": ("MAKE", ("complex", 1, 2, 3, 4)),
}


@pytest.mark.parametrize("step", [pytest.param(step, id=name) for name, step in MISUSES.items()])
def test_operations_cannot_be_turned_against_the_reader(step, traces):
    operation, arguments = step
    with pytest.raises(VineyardError):
        decode(blob_of(pickled((operation, arguments))), ALLOWED)


def made(operation, *arguments):
    return Assembler().call(operation, *arguments)


# Nobody else's objects are changed: what these try to complete was not made by the stream, or not by who may be filled.
SHARED = {
    "state of what a maker made": ("STATE", (made("MAKE", "datetime.date", 2020, 1, 1), {"x": 1})),
    "state of a member of an enumeration": (
        "STATE",
        (made("MAKE", "enum.member", "codec_models", "Colour", "RED"), {"_value_": 5}),
    ),
    "a filler for what a list holds": ("FILL", ([made("MAKE", "OrderedDict")], ("attributes", {"x": 1}))),
    "a filler of another maker": ("FILL", (made("MAKE", "OrderedDict"), ("exception", ({}, None, None, False)))),
    "a filler for an object of an allowed class": (
        "FILL",
        (made("NEW", "codec_models", "Plain", (), {}), ("attributes", {"x": 1})),
    ),
    "a filler for an exception that nobody made": (
        "FILL",
        (made("CALL", "codec_models", "LostFile", (1, "x")), ("exception", ({}, None, None, False))),
    ),
    "filled twice": (
        "FILL",
        (
            made("FILL", made("MAKE", "SimpleNamespace"), ("attributes", {"x": 1})),
            ("attributes", {"x": 2}),
        ),
    ),
    "state set twice": (
        "STATE",
        (made("STATE", made("NEW", "codec_models", "Plain", (), {}), {"x": 1}), {"x": 2}),
    ),
    "an exception that is left as it is": ("MAKE", ("exception", "", "ValueError", ())),
}


@pytest.mark.parametrize("step", [pytest.param(step, id=name) for name, step in SHARED.items()])
def test_only_what_a_stream_made_is_completed_and_once(step, traces):
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(step)), ALLOWED)
    assert models.Colour.RED.value == 1


def test_zones_that_everybody_shares_are_not_changed():
    """Whether an adapter, a constructor or __new__ hands out the one that all datetimes have."""
    pendulum = pytest.importorskip("pendulum")
    zone = pendulum.timezone("UTC")
    home, name = type(zone).__module__, type(zone).__qualname__
    before = dict(vars(zone))
    for operation, arguments in (
        ("MAKE", ("pendulum.Timezone", "UTC")),
        ("CALL", (home, name, ("UTC",))),
        ("NEW", (home, name, ("UTC",), {})),
    ):
        stream = pickled(("STATE", (made(operation, *arguments), {"utcoffset": made("NAME", "", "builtins.list")})))
        with pytest.raises(VineyardError):
            decode(blob_of(stream), [f"{home}.{name}"])
        assert vars(zone) == before and pendulum.now("UTC").utcoffset() == datetime.timedelta(0)


@pytest.mark.parametrize("name", ["MAKE", "NEW", "CALL", "NAME", "STATE", "FILL"])
def test_no_operation_is_handed_out(name):
    """Neither as the value, nor in it, nor where an adapter takes any object."""
    operation = Assembler().named(FORGED, name)
    inside = made("FILL", made("MAKE", "SimpleNamespace"), ("attributes", {"x": operation}))
    again = Assembler().raw(b"]").data(operation).raw(b"\x94ah\x00a")
    for stream in (operation.finish(), Assembler().data([1, operation]).finish(), inside.finish(), again.finish()):
        with pytest.raises(UnsafeType, match="operation"):
            decode(blob_of(stream), ALLOWED)
    assert decode(blob([models.Plain(a=1)], ALLOWED), ALLOWED)[0].a == 1


@pytest.mark.parametrize("opcodes", [False, True])
def test_who_looks_at_variables_is_no_operation_handed_out(opcodes):
    """Debuggers and tracers keep copies of all local variables; values are read all the same, and attacks seen."""

    def look(frame, event, argument):
        frame.f_trace_opcodes = opcodes
        seen.append(len(frame.f_locals))
        return look

    seen: list = []
    good, attack = blob([models.Plain(a=1), {1, 2}], ALLOWED), blob_of(Assembler().named(FORGED, "MAKE").finish())
    before = sys.gettrace()
    sys.settrace(look)
    try:
        value = decode(good, ALLOWED)
        with pytest.raises(UnsafeType, match="operation"):
            decode(attack, ALLOWED)
    finally:
        sys.settrace(before)
    assert value[0].a == 1 and value[1] == {1, 2}
    assert seen


NUMPY = {
    "memory read as objects": ("numpy.ndarray", b"A" * 64, "O", (8,), None),
    "memory read as fields with objects": (
        *("numpy.ndarray", b"A" * 64),
        *(("fields", ["a"], ["O"], [0], [None], 8, False, False), (8,), None),
    ),
    "memory read as nested objects": ("numpy.ndarray", b"A" * 64, ("array", "O", (2,)), (4,), None),
    "memory read as text of any length": ("numpy.ndarray", b"A" * 64, ("string", (), True), (4,), None),
    "a shape beyond the memory": ("numpy.ndarray", b"A" * 64, "<f8", (100,), None),
    "a negative shape": ("numpy.ndarray", b"A" * 64, "<f8", (-1, -8), None),
    "strides beyond the memory": ("numpy.ndarray", b"A" * 64, "<f8", (8,), (1000,)),
    "strides before the memory": ("numpy.ndarray", b"A" * 64, "<f8", (8,), (-8,)),
    "fields outside of the element": (
        *("numpy.ndarray", b"A" * 64),
        *(("fields", ["a"], ["<f8"], [1000], [None], 8, False, False), (8,), None),
    ),
    "fields before the element": (
        *("numpy.ndarray", b"A" * 64),
        *(("fields", ["a"], ["<f8"], [-8], [None], 8, False, False), (8,), None),
    ),
    "a dtype of a foreign type": ("numpy.dtype", ("foreign", "os.system")),
    "several dtypes in one text": ("numpy.dtype", "(2,3)f8,i4"),
    "a dtype that numpy would evaluate": ("numpy.dtype", "f8, (1)*2 f8"),
    "a number of dtypes that numpy would evaluate": ("numpy.dtype", "<8f8"),
    "a dtype of objects in disguise": ("numpy.ndarray", b"A" * 64, "|O8", (8,), None),
    "a dtype that is none": ("numpy.dtype", ("eval", "1")),
    "objects larger than the stream": ("numpy.objects", (10**9,), "C", 10**9),
    "structured elements larger than the stream": (
        *("numpy.structured", ("fields", ["a"], ["O"], [0], [None], 8, False, False)),
        *((10**9,), "C"),
    ),
    "a scalar of objects": ("numpy.scalar", "O", b"A" * 8),
    "a view as a class of the caller's": ("numpy.view", "codec_models", "Plain", None),
    "a view as another class": ("numpy.view", "", "ndarray", None),
    "a generator that is none": ("numpy.Generator", "__class__", {}),
    "no memory": ("numpy.ndarray", None, "<f8", (1,), None),
}


@pytest.mark.parametrize("arguments", [pytest.param(arguments, id=name) for name, arguments in NUMPY.items()])
def test_numpy_cannot_be_given_memory_that_it_would_trust(arguments, traces):
    pytest.importorskip("numpy")
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", arguments))), ALLOWED)


def test_numpy_dtypes_cannot_be_changed_in_place():
    """The float64 of everybody: its own __setstate__ would swap its byte order, or claim that it holds objects."""
    numpy = pytest.importorskip("numpy")
    before = numpy.dtype("f8").str
    stated = ("STATE", (Assembler().call("MAKE", "numpy.dtype", "<f8"), (3, ">", None, None, None, -1, -1, 0)))
    filled = ("FILL", (Assembler().call("MAKE", "numpy.dtype", "<f8"), ("attributes", {"x": 1})))
    for step in (stated, filled):
        with pytest.raises(VineyardError):
            decode(blob_of(pickled(step)))
    built = Assembler().call("MAKE", "numpy.dtype", "<f8").data((3, ">", None, None, None, -1, -1, 0)).raw(b"b")
    with pytest.raises(UnsafeType, match="0x62"):
        decode(blob_of(built.finish()))
    assert numpy.dtype("f8").str == before


PANDAS = {
    "state of a frame that is no frame": ("FILL", ([1], ("pandas.frame", ([], [], {})))),
    "state of a class of pandas": ("FILL", (Assembler().call("NAME", "", "pandas.DataFrame"), ("pandas.state", {}))),
    "state of another type": ("FILL", ([1], ("pandas.state", {"x": 1}))),
    "attributes of an array that has them": ("FILL", ([1], ("pandas.attributes", {"x": 1}))),
    "a function of pandas": ("MAKE", ("pandas.call", "read_pickle", ("pwned",))),
    "a class made in the wrong way": ("MAKE", ("pandas.call", "Categorical", ([1],))),
    "an empty object of a class that wants content": ("MAKE", ("pandas.new", "Timestamp")),
    "a frame of a class that is none": ("MAKE", ("pandas.frame", "codec_models", "Plain")),
    "a frame of a class of ours": ("MAKE", ("pandas.frame", "", "Index")),
    "an index that is none": ("MAKE", ("pandas.index", "DataFrame", {})),
    "blocks that are no arrays": (
        "FILL",
        (
            Assembler().call("MAKE", "pandas.frame", "", "DataFrame"),
            ("pandas.frame", ([], [("text", (0, 1, 1))], {"_typ": "dataframe"})),
        ),
    ),
    "axes that are no indexes": (
        "FILL",
        (
            Assembler().call("MAKE", "pandas.frame", "", "DataFrame"),
            ("pandas.frame", ([[1], [2]], [], {"_typ": "dataframe"})),
        ),
    ),
    "dunder attributes of a frame": (
        "FILL",
        (
            Assembler().call("MAKE", "pandas.frame", "", "DataFrame"),
            ("pandas.frame", ([], [], {"__class__": "x"})),
        ),
    ),
}


@pytest.mark.parametrize("step", [pytest.param(step, id=name) for name, step in PANDAS.items()])
def test_pandas_cannot_be_turned_against_the_reader(step, traces):
    pytest.importorskip("pandas")
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(step)), ALLOWED)


def frame_of(blocks, rows=3, columns=3):
    """A frame of numbers whose blocks are where an attacker wants them."""
    axis = made("MAKE", "pandas.index", "RangeIndex", {"start": 0, "stop": columns, "step": 1})
    index = made("MAKE", "pandas.index", "RangeIndex", {"start": 0, "stop": rows, "step": 1})
    content = ([axis, index], blocks, {"_typ": "dataframe", "attrs": {}})
    return "FILL", (made("MAKE", "pandas.frame", "", "DataFrame"), ("pandas.frame", content))


def block(width, place, rows=3):
    return (b"A" * (8 * width * rows), "<f8", (width, rows), None), place


def numbers(values, kind="<i8"):
    import array

    packed = array.array({"<i8": "q", "|i1": "b", "<i4": "i", "<u4": "I", "<u8": "Q"}[kind], values).tobytes()
    return made("MAKE", "numpy.ndarray", packed, kind, (len(values),), None)


def new(name, state):
    return "FILL", (made("MAKE", "pandas.new", name), ("pandas.state", state))


def inner(step):
    return made(step[0], *step[1])


INT8, DATES = numbers([1, 2, 3], "|i1"), made("MAKE", "numpy.ndarray", b"A" * 24, "<M8[ns]", (3,), None)
LEVEL = made("MAKE", "pandas.index", "RangeIndex", {"start": 0, "stop": 2, "step": 1})
CATEGORIES = inner(new("CategoricalDtype", {"categories": LEVEL, "ordered": False}))
MANY = inner(
    new(
        "CategoricalDtype",
        {
            "categories": made("MAKE", "pandas.index", "RangeIndex", {"start": 0, "stop": 200, "step": 1}),
            "ordered": False,
        },
    )
)
# What the attacks below are made of can be read, if nothing in it is wrong.
SOUND = {
    "a frame": frame_of([block(3, (0, 3, 1))]),
    "a frame by positions": frame_of([block(3, numbers([2, 0, 1]))]),
    "a frame of two blocks": frame_of([block(2, (0, 2, 1)), block(1, numbers([2]))]),
    "dates": new("DatetimeArray", (made("MAKE", "numpy.dtype", "<M8[ns]"), DATES, {})),
    "codes": new("Categorical", (CATEGORIES, numbers([0, 1, -1], "|i1"), {})),
    "levels": (
        "MAKE",
        ("pandas.index", "MultiIndex", {"levels": [LEVEL], "codes": [numbers([1], "|i1")], "names": [None]}),
    ),
    "a sparse index": ("MAKE", ("pandas.call", "IntIndex", (5, numbers([1, 4], "<i4")))),
    "a timestamp": ("MAKE", ("pandas.call", "_unpickle_timestamp", (1, None, None, 10))),
}
MEMORY = {
    "a block before the frame": frame_of([block(3, numbers([-50000, 0, 1]))]),
    "a block behind the frame": frame_of([block(3, (1, 4, 1))]),
    "a block far behind the frame": frame_of([block(3, numbers([0, 1, 10**12]))]),
    "a column twice": frame_of([block(3, numbers([0, 1, 1]))]),
    "a column in two blocks": frame_of([block(2, (0, 2, 1)), block(2, (1, 3, 1))]),
    "a column in none": frame_of([block(2, (0, 2, 1))]),
    "one column in none, another twice": frame_of([block(2, (0, 2, 1)), block(1, (1, 2, 1))]),
    "fewer columns than places": frame_of([block(1, (0, 3, 1))]),
    "a place of bytes": frame_of([block(3, INT8), block(0, b"")]),
    "a place that is text": frame_of([block(3, "abc")]),
    "a place without a step": frame_of([block(3, (0, 3, 0))]),
    "a block of nothing at negative places": frame_of([block(0, (1, -1, 1)), block(3, (0, 3, 1))]),
    "fewer rows than the index": frame_of([block(3, (0, 3, 1), rows=2)]),
    "dates without memory": ("MAKE", ("pandas.new", "DatetimeArray")),
    "periods without memory": ("MAKE", ("pandas.new", "PeriodArray")),
    "a frame without blocks": ("MAKE", ("pandas.frame", "", "DataFrame")),
    "dates without memory in a frame": frame_of([(made("MAKE", "pandas.new", "DatetimeArray"), (0, 3, 1))]),
    "dates in other memory": new("DatetimeArray", (made("MAKE", "numpy.dtype", "<M8[ns]"), INT8, {})),
    "dates in memory of another unit": new("DatetimeArray", (made("MAKE", "numpy.dtype", "<M8[s]"), DATES, {})),
    "dates of no unit": new(
        "DatetimeArray",
        (made("MAKE", "numpy.dtype", "<M8"), made("MAKE", "numpy.ndarray", b"A" * 24, "<M8", (3,), None), {}),
    ),
    "times in memory of dates": new("TimedeltaArray", (made("MAKE", "numpy.dtype", "<m8[ns]"), DATES, {})),
    "periods in other memory": new("PeriodArray", (made("MAKE", "pandas.call", "PeriodDtype", ("D",)), INT8, {})),
    "codes without a category": new("Categorical", (CATEGORIES, numbers([0, 1, 2], "|i1"), {})),
    "codes before the categories": new("Categorical", (CATEGORIES, numbers([0, -2], "|i1"), {})),
    "codes before more categories than small codes reach": new("Categorical", (MANY, numbers([0, -100], "|i1"), {})),
    "codes that are dates": new("Categorical", (CATEGORIES, DATES, {})),
    "levels without codes": ("MAKE", ("pandas.index", "MultiIndex", {"levels": [LEVEL], "codes": [], "names": [None]})),
    "codes beyond the level": (
        "MAKE",
        ("pandas.index", "MultiIndex", {"levels": [LEVEL], "codes": [numbers([5], "|i1")], "names": [None]}),
    ),
    "codes of two lengths": (
        "MAKE",
        (
            "pandas.index",
            "MultiIndex",
            {"levels": [LEVEL, LEVEL], "codes": [numbers([1], "|i1"), numbers([0, 1], "|i1")], "names": [None, None]},
        ),
    ),
    "an index of dates over numbers": ("MAKE", ("pandas.index", "DatetimeIndex", {"data": INT8, "freq": None})),
    "a mask that is too short": new("IntegerArray", {"_data": numbers([1, 2, 3]), "_mask": INT8, "_cache": {}}),
    "an index that does not check itself": (
        "MAKE",
        ("pandas.call", "IntIndex", (5, numbers([1, 10**6], "<i4"), False)),
    ),
    "an index beyond its length": ("MAKE", ("pandas.call", "IntIndex", (5, numbers([1, 10**6], "<i4")))),
    "a timestamp of no unit": ("MAKE", ("pandas.call", "_unpickle_timestamp", (1, None, None, 77))),
    "a timestamp in no zone": ("MAKE", ("pandas.call", "_unpickle_timestamp", (1, None, "UTC", 10))),
}

# Reads a stream in a process of its own, which a write outside of its memory would end, and uses what comes of it.
CHILD = """
import sys
sys.path[:0] = sys.argv[1:]
from codec_support import decode
from vineyard_client.exceptions import VineyardError
import pandas, numpy, struct
data = sys.stdin.buffer.read()
while data:
    size = struct.unpack_from("<Q", data)[0]
    blob, data = bytearray(data[8 : 8 + size]), data[8 + size :]
    try:
        value = decode(blob, ["codec_models.*"])
    except VineyardError:
        print("refused", flush=True)
        continue
    print("read", repr(value)[:50], flush=True)
"""


def outcomes(streams):
    """Return what became of each stream, in a process that may die of it."""
    folder = os.path.dirname(models.__file__)
    blobs = [bytes(blob_of(stream)) for stream in streams]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folder],
        input=b"".join(struct.pack("<Q", len(each)) + each for each in blobs),
        capture_output=True,
        timeout=300,
    )
    return [line for line in done.stdout.decode().splitlines() if line], done


def scalar(dtype, node):
    return "MAKE", ("pyarrow.scalar", made("MAKE", "pyarrow.Array", dtype, node))


def polars_of(dtype, metadata, node):
    schema = ([("0", dtype, True, metadata)], None)
    return "MAKE", (
        "polars.DataFrame",
        [("x", "Int64")],
        made("MAKE", "pyarrow.Table", schema, 2, [[node]]),
        None,
        {},
        {},
    )


WORDS = (2, 0, 0, [None, b"A" * 16], [])
TEXTS = (2, 0, 0, [None, struct.pack("<3i", 0, 10**6, 3), b"abc"], [])
ALSO = {
    "a scalar of a union of no kind": scalar(
        ("union", [("a", "int64", True, None)], "dense", [0]), (1, 0, 0, [None, b"\x4d", bytes(4)], [WORDS])
    ),
    "a scalar of text elsewhere": scalar(
        "string_view", (1, 0, 0, [None, struct.pack("<iiii", 100, 0, 7, 10**6), b"a" * 200], [])
    ),
    "a scalar of a list elsewhere": scalar(
        ("list_view", ("item", "int64", True, None)),
        (1, 0, 0, [None, struct.pack("<i", 10**6), struct.pack("<i", 5)], [WORDS]),
    ),
    "polars' column of addresses": polars_of(
        "int64",
        {b"ARROW:extension:name": b"_POLARS_PYTHON_OBJECT", b"ARROW:extension:metadata": b"1234;5678"},
        WORDS,
    ),
    "polars' column of addresses inside": polars_of(
        ("large_list", ("item", "int64", True, {b"ARROW:extension:name": b"_POLARS_PYTHON_OBJECT"})), None, WORDS
    ),
    "polars' text elsewhere": polars_of("string", None, TEXTS),
    "polars' categories elsewhere": polars_of(
        ("dictionary", "uint32", "string", False),
        None,
        (
            2,
            0,
            0,
            [],
            [(2, 0, 0, [None, struct.pack("<2I", 7, 10**6)], []), made("MAKE", "pyarrow.Array", "string", TEXTS)],
        ),
    ),
    "polars' own format, of addresses": (
        "MAKE",
        ("polars.DataFrame", [("x", "Int64")], None, b"ARROW1\0\0 _POLARS_PYTHON_OBJECT", {}, {}),
    ),
    "polars' own format, of nothing": ("MAKE", ("polars.DataFrame", [("x", "Int64")], None, b"ARROW1\0\0", {}, {})),
    "a tensor behind its storage": (
        "MAKE",
        (
            "torch.tensor",
            "Tensor",
            made("MAKE", "torch.storage", b"A" * 64, bytes(8)),
            "float32",
            (4,),
            (1,),
            13,
            False,
        ),
    ),
    "a tensor before its storage": (
        "MAKE",
        (
            *("torch.tensor", "Tensor", made("MAKE", "torch.storage", b"A" * 64, (64).to_bytes(8, "little"))),
            *("float32", (4,), (1,), 0, False),
        ),
    ),
    "a tensor of strides beyond": (
        "MAKE",
        ("torch.tensor", "Tensor", made("MAKE", "torch.storage", b"A" * 64, bytes(8)), "float32", (4,), (9,), 0, False),
    ),
    "a tensor of strides before": (
        "MAKE",
        (
            "torch.tensor",
            "Tensor",
            made("MAKE", "torch.storage", b"A" * 64, bytes(8)),
            "float32",
            (4,),
            (-1,),
            0,
            False,
        ),
    ),
}


def sparse(form, **attributes):
    state = ({"_shape": (2, 2), "maxprint": 50, **attributes}, [])
    return "FILL", (made("MAKE", "scipy.sparse", form), ("scipy.sparse", state))


TWO = made("MAKE", "numpy.ndarray", b"A" * 16, "<f8", (2,), None)
POINTERS = numbers([0, 1, 2], "<i4")
ALSO.update(
    {
        "an index beyond a sparse row": sparse("csr_matrix", data=TWO, indices=numbers([0, 9], "<i4"), indptr=POINTERS),
        "an index before a sparse row": sparse(
            "csc_matrix", data=TWO, indices=numbers([0, -9], "<i4"), indptr=POINTERS
        ),
        "pointers backwards": sparse(
            "csr_matrix", data=TWO, indices=numbers([0, 1], "<i4"), indptr=numbers([0, 10**6, 2], "<i4")
        ),
        "coordinates beyond": sparse(
            "coo_matrix", data=TWO, row=numbers([0, 9], "<i4"), col=numbers([0, 1], "<i4"), coords=()
        ),
        "diagonals that are missing": sparse("dia_matrix", data=TWO, offsets=numbers([0, 1], "<i4")),
    }
)


@pytest.mark.parametrize("library", ["pyarrow", "polars", "torch", "scipy"])
def test_what_other_libraries_would_trust_is_checked(library):
    """Each of them would end the process, now or at the next look."""
    pytest.importorskip(library)
    own = {name: step for name, step in ALSO.items() if _library(step) == library}
    seen, done = outcomes([pickled(step) for step in own.values()])
    assert dict(zip(own, seen)) == dict.fromkeys(own, "refused"), done.stderr.decode()[-2000:]
    assert len(seen) == len(own) > 1, done


def _library(step):
    operation, arguments = step
    name = arguments[0] if operation == "MAKE" else arguments[1][0]
    return name.partition(".")[0]


GENERATORS = {
    "a position behind the words": ("MT19937", {"state": {"key": numbers([1] * 624, "<u4"), "pos": 10**9}}),
    "a position before the words": ("MT19937", {"state": {"key": numbers([1] * 624, "<u4"), "pos": -1}}),
    "fewer words": ("MT19937", {"state": {"key": numbers([1] * 3, "<u4"), "pos": 1}}),
    "a buffer's position": (
        "Philox",
        {
            "state": {"counter": numbers([1] * 4, "<u8"), "key": numbers([1] * 2, "<u8")},
            **{"buffer": numbers([1] * 4, "<u8"), "buffer_pos": 10**9, "has_uint32": 0, "uinteger": 0},
        },
    ),
    "parts that are missing": ("PCG64", {"state": {"state": 1}}),
    "no generator": ("Generator", {}),
}


@pytest.mark.parametrize("parts", [pytest.param(parts, id=name) for name, parts in GENERATORS.items()])
def test_positions_of_random_generators_are_checked(parts):
    pytest.importorskip("numpy")
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", ("numpy.random.BitGenerator", *parts, None)))))


def test_what_pandas_would_trust_is_checked():
    pandas = pytest.importorskip("pandas")
    seen, done = outcomes([pickled(step) for step in MEMORY.values()])
    assert dict(zip(MEMORY, seen)) == dict.fromkeys(MEMORY, "refused"), done.stderr.decode()[-2000:]
    assert len(seen) == len(MEMORY), done
    if pandas.__version__ >= "2":  # these are spelt as it spells them
        for step in SOUND.values():
            decode(blob_of(pickled(step)))


ARROW = {
    "an array longer than its memory": ("pyarrow.Array", "int64", (1000, 0, 0, [None, b"A" * 64], [])),
    "a length beyond everything": ("pyarrow.Array", "int64", (2**62, 0, 0, [None, b"A" * 64], [])),
    "a negative length": ("pyarrow.Array", "int64", (-1, 0, 0, [None, b"A" * 64], [])),
    "a negative offset": ("pyarrow.Array", "int64", (1, 0, -1, [None, b"A" * 64], [])),
    "missing validity": ("pyarrow.Array", "int64", (8, 3, 0, [b"", b"A" * 64], [])),
    "text beyond its memory": ("pyarrow.Array", "string", (1, 0, 0, [None, struct.pack("<ii", 0, 10**6), b"a"], [])),
    "text backwards": ("pyarrow.Array", "string", (1, 0, 0, [None, struct.pack("<ii", 5, 0), b"abcde"], [])),
    "too few buffers": ("pyarrow.Array", "string", (1, 0, 0, [None], [])),
    "no children": ("pyarrow.Array", ("struct", [("a", "int8", True, None)]), (1, 0, 0, [None], [])),
    "a dictionary of another type": (
        *("pyarrow.Array", ("dictionary", "int8", "string", False)),
        (1, 0, 0, [], [(1, 0, 0, [None, b"\x00"], []), "text"]),
    ),
    "an unknown type": ("pyarrow.DataType", "serialize_pandas"),
    "a type by attribute": ("pyarrow.DataType", "__class__"),
    "a constructor that is none": ("pyarrow.DataType", ("input_stream", "/etc/passwd")),
    "an extension of no class": ("pyarrow.DataType", ("extension", "", "Plain", "int8", b"")),
    "an extension of another class": ("pyarrow.DataType", ("extension", "codec_models", "Plain", "int8", b"")),
    "an extension that nobody allowed": ("pyarrow.DataType", ("extension", "os", "system", "int8", b"")),
    "a scalar that is none": ("pyarrow.scalar", [1]),
    "columns of different lengths": (
        *("pyarrow.RecordBatch", ([("a", "int8", True, None), ("b", "int8", True, None)], None), 2),
        [(2, 0, 0, [None, b"\x00\x00"], []), (1, 0, 0, [None, b"\x00"], [])],
    ),
}


@pytest.mark.parametrize("arguments", [pytest.param(arguments, id=name) for name, arguments in ARROW.items()])
def test_arrow_structure_is_validated(arguments, traces):
    pytest.importorskip("pyarrow")
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", arguments))), ALLOWED)


def test_arrow_extension_types_that_unpickle_are_never_made(request):
    """Types named arrow.py_extension_type made older versions of pyarrow unpickle what stood in the metadata."""
    pyarrow = pytest.importorskip("pyarrow")
    payload = pickle.dumps(models.Gadget(os.system, "touch pwned"), 0)
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": payload}
    field = pyarrow.field("a", pyarrow.int8(), metadata=metadata)
    stored = blob(pyarrow.table({"a": pyarrow.array([1], pyarrow.int8())}, schema=pyarrow.schema([field])))
    decode(stored)  # whatever is imported at the first time
    request.getfixturevalue("traces")
    assert decode(stored).schema.field("a").type == pyarrow.int8()


OTHERS = {
    "polars": [
        ("polars.DataFrame", [("a", "Int8")], None, b"no such file", {}, {}),
        ("polars.DataFrame", [("a", "Int8")], None, None, {}, {}),
        ("polars.Series", [("a", "__class__")], None, None, {0: [1]}, {}),
        ("polars.DataType", ("read_csv", "/etc/passwd")),
        ("polars.lazy", "text"),
        ("polars.plan", "polars.lazyframe.frame", "LazyFrame", b"PLPYUDF" + pickle.dumps(1)),
    ],
    "scipy": [("scipy.sparse", "load_npz"), ("scipy.sparse", None)],
    "xarray": [("xarray.new", "open_dataset"), ("xarray.new", "__class__")],
    "torch": [
        ("torch.tensor", "Tensor", ("text", 0), "float32", (1,), (1,), 0, False),
        ("torch.dtype", "load"),
        ("torch.dtype", "__class__"),
    ],
    "pytz": [("pytz.zone", "../../etc/passwd"), ("pytz.zone", ["UTC"])],
    "dateutil": [("dateutil.tz", "named", "/../etc/passwd"), ("dateutil.weekday", 99, None)],
}


@pytest.mark.parametrize(
    ("library", "arguments"),
    [
        pytest.param(library, arguments, id=f"{library}-{arguments[0]}")
        for library in OTHERS
        for arguments in OTHERS[library]
    ],
)
def test_other_libraries_cannot_be_turned_against_the_reader(library, arguments, traces):
    pytest.importorskip(library)
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", arguments))), ALLOWED)


def test_torch_cannot_see_beyond_its_storage():
    pytest.importorskip("torch")
    storage = Assembler().call("MAKE", "torch.storage", b"A" * 64, bytes(8))
    for shape, strides, offset in (((100,), (1,), 0), ((1,), (1,), 1000), ((5,), (10**6,), 0), ((-1,), (1,), 0)):
        step = ("MAKE", ("torch.tensor", "Tensor", storage, "float32", shape, strides, offset, False))
        with pytest.raises(VineyardError):
            decode(blob_of(pickled(step)))


def test_nothing_that_was_read_changed_a_class():
    """After all the attacks above, classes that everybody shares are as they were."""
    assert int("5") == 5 and datetime.date(2020, 1, 1).year == 2020
    assert models.Plain(a=1).a == 1 and models.Colour.RED.value == 1
    assert collections.OrderedDict([("a", 1)])["a"] == 1


def test_makers_and_values_are_few_and_known():
    """No maker takes its name from a library, and no class is a value that could do harm when it is called."""
    for cls in table.values:
        top = cls.__module__.partition(".")[0]
        assert not issubclass(cls, type) and cls.__name__ not in (
            "ndarray",
            "dtype",
            "void",
            "object_",
        )
        assert top in {
            *("builtins", "collections", "datetime", "decimal", "fractions", "uuid", "pathlib", "types", "ipaddress"),
            *("array", "zoneinfo", "numpy", "pandas", "polars"),
        }, cls


# --- damage and malice in the envelope, at random -------------------------------------------------------------------


def _sample() -> object:
    return {
        "numbers": list(range(50)),
        "text": ["a" * i for i in range(20)],
        "when": datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        "object": models.Person("a", [models.Person("b")]),
        "class": models.Plain,
        "error": ValueError("x"),
        "array": __import__("array").array("d", range(300)),
    }


def _samples() -> list:
    values = [_sample()]
    for library, make in (
        ("numpy", lambda np: [np.arange(300.0), np.array([None, "a"], object), np.zeros(3, "i4,f8")]),
        ("pandas", lambda pd: pd.DataFrame({"a": range(300), "b": ["x"] * 300, "c": pd.Categorical(["u"] * 300)})),
        ("pyarrow", lambda pa: pa.table({"a": list(range(300)), "b": [["x"]] * 300})),
    ):
        try:
            values.append(make(__import__(library)))
        except ImportError:
            continue
    return values


def _resealed(stored: bytearray, mutate) -> bytearray:
    """Change the pickle stream of a blob and make the envelope right again: damage that no checksum finds."""
    layout = envelope.parse(memoryview(stored), TOKEN)
    chunks, _ = envelope.assemble([mutate(bytearray(layout.stream))], layout.buffers, TOKEN)
    return bytearray(b"".join(chunks))


def _decodes_or_raises_ours(stored: bytearray) -> None:
    try:
        decode(stored, ALLOWED)
    except VineyardError:
        pass
    except MemoryError:
        pass  # a number in the data may ask for more than there is, as it might in a program of one's own


@pytest.mark.parametrize("sample", range(4))
def test_any_flipped_bit_of_header_index_and_stream_is_found(sample):
    samples = _samples()
    if sample >= len(samples):
        pytest.skip("library not installed")
    stored = blob(samples[sample], ALLOWED)
    layout = envelope.parse(memoryview(stored), TOKEN)
    covered = struct.unpack_from("<QQ", stored, 48)
    assert covered[0] + covered[1] <= len(stored) and len(layout.stream) == covered[1]
    rng = random.Random(1)
    for _ in range(300):
        position, bit = rng.randrange(covered[0] + covered[1]), rng.randrange(8)
        stored[position] ^= 1 << bit
        with pytest.raises(VineyardError):
            decode(stored, ALLOWED)
        stored[position] ^= 1 << bit
    decode(stored, ALLOWED)


@pytest.mark.parametrize("sample", range(4))
def test_flipped_bits_in_a_resealed_stream_run_nothing(sample, traces):
    samples = _samples()
    if sample >= len(samples):
        pytest.skip("library not installed")
    stored = blob(samples[sample], ALLOWED)
    rng = random.Random(sample)

    def flip(stream: bytearray) -> bytearray:
        for _ in range(rng.choice((1, 1, 2, 5))):
            stream[rng.randrange(2, len(stream))] ^= 1 << rng.randrange(8)
        return stream

    for _ in range(400):
        _decodes_or_raises_ours(_resealed(stored, flip))


@pytest.mark.parametrize("sample", range(4))
def test_spliced_and_shuffled_streams_run_nothing(sample, traces):
    """Pieces of streams cut out, doubled, moved and put into one another."""
    samples = _samples()
    if sample >= len(samples):
        pytest.skip("library not installed")
    stored = blob(samples[sample], ALLOWED)
    other = bytes(envelope.parse(memoryview(blob(_sample(), ALLOWED)), TOKEN).stream)
    rng = random.Random(sample)

    def splice(stream: bytearray) -> bytearray:
        start, stop = sorted(rng.sample(range(2, len(stream)), 2))
        place = rng.randrange(2, len(stream))
        piece = rng.choice((stream[start:stop], other[start % len(other) : stop % len(other)], b""))
        if rng.random() < 0.5:
            del stream[start:stop]
            place = min(place, len(stream))
        stream[place:place] = piece
        return stream

    for _ in range(400):
        _decodes_or_raises_ours(_resealed(stored, splice))


def test_random_opcodes_run_nothing(traces):
    """Programs of allowed opcodes and real names, put together at random."""
    rng = random.Random(5)
    pieces = [
        b"(",
        b"0",
        b"1",
        b"N",
        b"\x88",
        b"K\x05",
        b"]",
        b"}",
        b")",
        b"a",
        b"e",
        b"s",
        b"u",
        b"\x8f",
        b"\x90",
        b"t",
    ]
    pieces += [
        b"\x85",
        b"\x86",
        b"\x87",
        b"R",
        b"R",
        b"R",
        b"\x94",
        b"h\x00",
        b"h\x01",
        b"\x91",
        b"\x93",
        b"\x97",
        b"\x98",
    ]
    for text in (
        FORGED,
        "MAKE",
        "NEW",
        "CALL",
        "NAME",
        "STATE",
        "FILL",
        "codec_models",
        "Plain",
        "complex",
        "OrderedDict",
    ):
        pieces.append(b"\x8c" + bytes([len(text)]) + text.encode())
    pieces += [
        Assembler().named(FORGED, name).finish()[2:-1] for name in ("MAKE", "NEW", "CALL", "NAME", "STATE", "FILL")
    ]
    pieces += [Assembler().call("NAME", "", "builtins.dict").finish()[2:-1]]
    pieces += [Assembler().call("NEW", "codec_models", "Plain", (), {}).finish()[2:-1]]
    for _ in range(3000):
        stream = b"\x80\x05" + b"".join(rng.choice(pieces) for _ in range(rng.randrange(1, 30))) + b"."
        _decodes_or_raises_ours(blob_of(stream, [b"x" * 10]))


def test_two_writers_cannot_confuse_each_other():
    """A blob under another token is another object, however sound it is."""
    from vineyard_client.exceptions import ObjectNotFound

    with pytest.raises(ObjectNotFound, match="Another object has its place"):
        decode(blob(1), token=bytes(16))


def test_a_stream_changed_while_it_is_read_is_read_as_it_was_checked():
    """The reader's memory is shared until somebody writes: what is checked is a copy."""
    stored = blob([1, "a"])
    layout = envelope.parse(memoryview(stored), TOKEN)
    stored[-20:] = bytes(20)
    assert isinstance(layout.stream, bytes) and layout.stream[-1:] == b"."
    with pytest.raises(ObjectCorrupted):
        decode(stored)


def test_a_long_stream_changed_while_it_is_read_is_read_as_it_was_checked():
    """Its opcodes are copied when they are checked; the content of large bytes is not, and is data in any case."""
    stored = blob([b"x" * 2_000_000, list(range(1000)), "end"])
    stream = envelope.parse(memoryview(stored), TOKEN).stream
    file = verify(stream)
    stored[:] = b"b" * len(stored)
    first, second, third = pickle.Unpickler(file).load()
    assert first == b"b" * 2_000_000 and second == list(range(1000)) and third == "end"
