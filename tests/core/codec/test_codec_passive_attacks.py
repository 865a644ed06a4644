"""What forged streams cannot do with passive classes: make something else, set state elsewhere, run a method."""

from __future__ import annotations

import collections
import contextlib

import passive_models as models
import pytest
from codec_support import Assembler, blob_of, decode, pickled, roundtrip

from vineyard_client._codec import adapters
from vineyard_client._codec.table import table
from vineyard_client.exceptions import UnsafeType, UnsupportedVersion, VineyardError

pytestmark = pytest.mark.usefixtures("nothing_ran")

MADE = Assembler().call("MAKE", "passive.new", "passive_models", "Order", "object")
MISUSES = {
    "a class that somebody imported": ("passive.new", "passive_models", "collections.OrderedDict", "OrderedDict"),
    "a class under another module's name": ("passive.new", "passive_models", "NamedTuple", "tuple", ()),
    "a function": ("passive.new", "passive_models", "trap", "object"),
    "a module": ("passive.new", "passive_models", "sys", "object"),
    "globals": ("passive.new", "passive_models", "trap.__globals__", "object"),
    "a member as a class": ("passive.new", "passive_models", "Level.LOW", "int"),
    "what runs things": ("passive.new", "subprocess", "Popen", "object"),
    "a lock": ("passive.new", "threading", "Thread", "object"),
    "a class of Python's": ("passive.new", "builtins", "type", "object"),
    "an exception": ("passive.new", "builtins", "ValueError", "object"),
    "a type of C's": ("passive.new", "builtins", "memoryview", "object"),
    "content that is no content": ("passive.new", "passive_models", "Number", "int", "5"),
    "text that is no text": ("passive.new", "passive_models", "Text", "str", 5),
    "another base": ("passive.new", "passive_models", "Number", "str", "5"),
    "content where there is none": ("passive.new", "passive_models", "Order", "object", 5),
    "members that are no list": ("passive.new", "passive_models", "FrozenGroup", "frozenset", "ab"),
    "a length that is none": ("passive.new", "passive_models", "Queue", "deque", "x"),
    "a factory that is text": ("passive.new", "passive_models", "Default", "defaultdict", "os.system"),
    "a factory that is a class by name": ("passive.new", "passive_models", "Default", "defaultdict", MADE),
    "a day that is none": ("passive.new", "passive_models", "Day", "date", 2020, 2, 30),
    "a day of text": ("passive.new", "passive_models", "Day", "date", "2020", 2, 3),
    "a moment of what pickle gives": ("passive.new", "passive_models", "Moment", "datetime", b"\x07\xe4\x01\x01aaaaaa"),
    "a decimal of parts": ("passive.new", "passive_models", "Price", "Decimal", (0, (1, 2), 5)),
    "a fraction without an end": ("passive.new", "passive_models", "Share", "Fraction", 1, 0),
    "a fraction of text": ("passive.new", "passive_models", "Share", "Fraction", "1e999999999", 1),
    "a path of bytes": ("passive.new", "passive_models", "Place", "PurePosixPath", b"a"),
    "a mark that is too large": ("passive.new", "passive_models", "Mark", "UUID", 2**128, None),
    "no name": ("passive.new", "passive_models", None, "object"),
    "no module": ("passive.new", None, "Order", "object"),
    "fields that are code": ("passive.row", "m", "", "N", ("a=1);import os#",), (1,)),
    "a name that is code": ("passive.row", "m", "", "N(object): pass\nimport os\nclass X", ("a",), (1,)),
    "fields that are no text": ("passive.row", "m", "", "N", (5,), (1,)),
    "fields that are reserved": ("passive.row", "m", "", "N", ("class",), (1,)),
    "too many items": ("passive.row", "m", "", "N", ("a",), (1, 2)),
    "items that are no tuple": ("passive.row", "m", "", "N", ("a",), [1]),
    "a tuple of another class": ("passive.row", "passive_models", "Order", "Order", ("name",), (1,)),
    "a structure that is none": ("passive.structure", "passive_models", "Pair", (1, 2), {}),
    "a structure of objects": ("passive.structure", "os", "stat_result", [1], {}),
    "a structure that is too short": ("passive.structure", "os", "stat_result", (1,), {}),
    "an enumeration as a tuple": ("passive.new", "passive_models", "Kind", "str", "a"),
    "a member that is none": ("enum.member", "passive_models", "Level", "__class__"),
    "a member of what is no enumeration": ("enum.member", "passive_models", "Order", "name"),
    "a flag of text": ("enum.flags", "passive_models", "Access", "READ"),
    "arguments for what takes none": ("passive.new", "passive_models", ("Order", (("", "builtins.int"),)), "object"),
    "arguments that are nothing": ("passive.new", "passive_models", ("Box", ("x",)), "object"),
}


@pytest.mark.parametrize("arguments", [pytest.param(arguments, id=name) for name, arguments in MISUSES.items()])
def test_nothing_else_is_made(arguments):
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", arguments))))


FILLS = {
    "a list": (Assembler().data([1]), ({"x": 1}, None, None)),
    "a member": (Assembler().call("MAKE", "enum.member", "passive_models", "Level", "LOW"), ({"x": 1}, None, None)),
    "attributes of a tuple": (
        Assembler().call("MAKE", "passive.named", "passive_models", "Point", "Point", ("x", "y"), (1, 2)),
        ({"x": 1}, None, None),
    ),
    "attributes that are no dict": (MADE, ("x", None, None)),
    "attributes without a name": (MADE, ({5: 1}, None, None)),
    "slots that are none": (MADE, (None, {"__class__": 1}, None)),
    "content of an object": (MADE, (None, None, [1])),
    "content of another kind": (
        Assembler().call("MAKE", "passive.new", "passive_models", "Items", "list"),
        (None, None, {"a": 1}),
    ),
    "no filling": (MADE, None),
    "what a path looks up": (
        Assembler().call("MAKE", "passive.new", "passive_models", "Place", "PurePosixPath", "a"),
        ({"_flavour": 1, "parser": 1}, None, None),
    ),
    "a slot of Python's": (
        Assembler().call("MAKE", "passive.new", "passive_models", "Share", "Fraction", 1, 3),
        (None, {"_denominator": 0}, None),
    ),
}


@pytest.mark.parametrize("step", [pytest.param(step, id=name) for name, step in FILLS.items()])
def test_state_is_set_on_what_the_stream_made_and_only_where_it_belongs(step):
    target, filling = step
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("FILL", (target, ("passive", filling))))))
    assert not hasattr(models.Level.LOW, "x")


def test_state_is_set_once():
    once = Assembler().call("FILL", MADE, ("passive", ({"x": 1}, None, None)))
    twice = Assembler().call("FILL", once, ("passive", ({"x": 2}, None, None)))
    assert vars(decode(blob_of(once.finish()))) == {"x": 1}
    with pytest.raises(UnsafeType, match="did not make"):
        decode(blob_of(twice.finish()))


def test_no_class_lies_where_it_could_be_called():
    """REDUCE calls what is on the stack: the name of a passive class is no value."""
    stream = Assembler().call("NAME", "passive_models", "Order").data(("x",)).raw(b"R").finish()
    with pytest.raises(UnsafeType):
        decode(blob_of(stream))


SHAPES = {
    "alone": lambda value: (value,),
    "twice": lambda value: (value, value),
    "often": lambda value: (value,) * 5,
    "second": lambda value: ("a", value),
    "in a list": lambda value: ([value],),
    "in a tuple": lambda value: ("a", (value,), {}),
    "in a dict": lambda value: ({"a": [value]},),
}
CONTENT = {
    "TrappedText": ("str", "abc"),
    "TrappedNumber": ("int", 5),
    "TrappedTuple": ("tuple", (1, 2)),
    "TrappedDict": ("dict",),
    "TrappedData": ("object",),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_maker_runs_a_method_of_what_it_is_given(shape):
    """A stream hands objects with methods to every maker there is: in the place of a number, a list, an array."""
    for package in adapters.MODULES:
        try:
            table.load(package)
        except UnsupportedVersion:
            continue  # not installed
    for name in sorted(set(table.makers) - {"slice"}):  # which keeps what it is given as it is
        for cls, content in CONTENT.items():
            value = Assembler().call("MAKE", "passive.new", "passive_models", cls, *content)
            stored = blob_of(pickled(("MAKE", (name, *SHAPES[shape](value)))))
            with contextlib.suppress(VineyardError):
                decode(stored)
            assert not models.ran, (name, cls)


# What is filled, with what a maker of it wants.
FILLED = {
    "attributes": ("SimpleNamespace",),
    "exception": ("exception", "", "ValueError", ()),
    "io": ("_io.BytesIO", b"", 0),
    "subprocess": ("subprocess.CompletedProcess",),
    "passive": ("passive.new", "passive_models", "Order", "object"),
    "numpy.objects": ("numpy.objects", (2,), "C"),
    "numpy.structured": ("numpy.structured", [("a", "<i4"), ("b", "O")], (1,), "C"),
    "pandas.frame": ("pandas.frame", "", "Series"),
    "pandas.state": ("pandas.new", "Categorical"),
    "scipy.sparse": ("scipy.sparse", "csr_matrix"),
    "scipy.object": ("scipy.object", "scipy.interpolate._rbfinterp", "RBFInterpolator"),
    "sklearn.object": ("sklearn.object", "sklearn.isotonic", "IsotonicRegression"),
    "xarray.state": ("xarray.new", "Variable"),
    "PIL.image": ("PIL.image", "L", (1, 1), b"x"),
}
FILLINGS = {
    "itself": lambda value: value,
    "twice": lambda value: (value, value),
    "three times": lambda value: (value, value, value),
    "lists of it": lambda value: ([value], [(value, value)], {}),
    "as the second": lambda value: ({}, value),
    "five times": lambda value: ({}, value, value, value, {}),
    "an attribute": lambda value: ({"a": value, "b": value}, None),
    "a version": lambda value: ({"_sklearn_version": value}, None),
    "thresholds": lambda value: ({"X_thresholds_": value, "y_thresholds_": [value]}, None),
    "a pair of tuples": lambda value: (((value,) * 9, (value,)), None),
    "the keys": lambda value: ({"_shape": (value,), "data": value, "indices": value, "indptr": value}, None),
}


@pytest.mark.parametrize("filling", FILLINGS)
def test_nothing_that_is_filled_runs_a_method_of_its_content(filling):
    ran = 0
    for name, maker in FILLED.items():
        for cls, content in CONTENT.items():
            try:
                table.load(maker[0].partition(".")[0])
            except UnsupportedVersion:
                continue  # not installed
            value = Assembler().call("MAKE", "passive.new", "passive_models", cls, *content)
            made = Assembler().call("MAKE", *maker)
            stored = blob_of(pickled(("FILL", (made, (name, FILLINGS[filling](value))))))
            with contextlib.suppress(VineyardError):
                decode(stored)
            assert not models.ran, (name, cls)
            ran += 1
    assert ran > 20


# What the opcodes of a pickle call on what lies on the stack.
OPCODES = {
    "REDUCE": Assembler().data((1,)).raw(b"R"),
    "APPEND": Assembler().data(1).raw(b"a"),
    "APPENDS": Assembler().raw(b"(").data(1).raw(b"e"),
    "SETITEM": Assembler().data(1).data(2).raw(b"s"),
    "SETITEMS": Assembler().raw(b"(").data(1).data(2).raw(b"u"),
    "ADDITEMS": Assembler().raw(b"(").data(1).raw(b"\x90"),
    "READONLY_BUFFER": Assembler().raw(b"\x98"),
}
# Objects with methods, and ways to have one of them on top of the stack.
LOUD = {
    **{cls: Assembler().call("MAKE", "passive.new", "passive_models", cls, *CONTENT[cls]) for cls in CONTENT},
    "TrappedList": Assembler().call("MAKE", "passive.new", "passive_models", "TrappedList", "list"),
    "TrappedSet": Assembler().call("MAKE", "passive.new", "passive_models", "TrappedSet", "set"),
}
WAYS = {
    "as it is": lambda made: Assembler().data(made),
    "from the memo": lambda made: Assembler().data(made).raw(b"\x940h\0"),
    "above a mark": lambda made: Assembler().data(made).raw(b"(N1"),
    "filled": lambda made: Assembler().call("FILL", made, ("passive", (None, None, None))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("opcode", OPCODES)
def test_no_opcode_reaches_a_method(opcode, way):
    for cls, made in LOUD.items():
        stream = WAYS[way](made).data(OPCODES[opcode])
        for code in (
            stream.finish(),
            stream.raw(b"X" + (70_000).to_bytes(4, "little") + b"x" * 70_000 + b"0").finish(),
        ):
            with pytest.raises(VineyardError):
                decode(blob_of(code))
            assert not models.ran, cls


def test_containers_of_python_hold_objects_with_methods():
    """Which get their items by opcodes as well."""
    point = models.Point(1.0)
    value = {
        "ordered": collections.OrderedDict(a=point),
        "counted": collections.Counter({point: 2}),
        "default": collections.defaultdict(list, {point: [point]}),
        "queue": collections.deque([point, point]),
        "set": {point},
        "frozen": frozenset([point]),
        "many": [point] * 2000,
        "lines": models.Order("a", [point]),
    }
    value["itself"] = value["lines"]
    result = roundtrip(value)
    assert result.pop("itself") is result["lines"]
    del value["itself"]
    assert result == value and type(result["queue"][0]) is models.Point


def test_what_is_given_may_hold_itself():
    """A list in itself is looked through once."""
    made = Assembler().call("MAKE", "passive.new", "passive_models", "TrappedData", "object")
    itself = Assembler().raw(b"]\x94h\0a")
    with pytest.raises(VineyardError):
        decode(blob_of(Assembler().data(itself).data(made).raw(b"00").call("MAKE", "range", itself, made).finish()))
