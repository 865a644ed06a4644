"""Objects of the caller's own classes, identity and cycles; what is refused, while it is known where it sits."""

from __future__ import annotations

import collections
import copyreg
import functools
import io
import math
import os
import pathlib
import re
import socket
import sys
import threading
import uuid

import codec_models as models
import pytest
from codec_matrix import assert_same
from codec_support import blob, decode, roundtrip

from vineyard_client.exceptions import UnsafeType, VineyardError

ALLOWED = "codec_models.*"


OBJECTS = {
    "plain": models.Plain(a=1, b=[2]),
    "slots": models.Slotted(1, [2]),
    "dataclass": models.Person("a", [models.Person("b")], 5),
    "frozen dataclass": models.Frozen({"a": 1}),
    "nested class": models.Outer.Inner(x=1),
    "dict with attributes": models.Names(a=1),
    "list": models.Numbers([1, 2]),
    "int": models.Count(7),
    "named tuple": models.Pair(1, "b"),
    "enum members": [models.Colour.RED, models.Colour.NAMES, models.Right.READ],
    "flags together": models.Right.READ | models.Right.WRITE,
    "own state": models.Stateful(5),
    "call of its class": models.Called(3),
    "keywords": models.Keyed(key="k"),
    "exception": models.Problem(7, where="there"),
    "exception of the system's": models.LostFile(2, "No such file", "/x"),
    "class as a value": {"type": models.Plain},
    "factory": collections.defaultdict(models.Plain),
    "partial": functools.partial(models.Person, "a", age=3),
}
OBJECTS["dict with attributes"].note = "n"


@pytest.mark.parametrize("passive", [True, False])
@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in OBJECTS.items()])
def test_objects_of_allowed_classes_come_back(value, passive):
    result = roundtrip(value, ALLOWED, passive=passive)
    if isinstance(value, functools.partial):
        assert (result.func, result.args, result.keywords) == (value.func, value.args, value.keywords)
    elif not hasattr(type(value), "__slots__") or isinstance(value, tuple):
        assert_same(value, result)
    else:
        assert (type(result), result.left, result.right) == (type(value), value.left, value.right)


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in OBJECTS.items()])
def test_writing_refuses_what_nobody_allowed(value):
    with pytest.raises(UnsafeType, match=r"codec_models\.\w+") as caught:
        blob(value, passive=False)
    assert "allowed_classes" in str(caught.value)
    assert caught.value.name.startswith("codec_models.")


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in OBJECTS.items()])
def test_reading_refuses_what_only_the_writer_allowed(value):
    for passive in (True, False):
        stored = blob(value, [ALLOWED], passive=passive)
        with pytest.raises(UnsafeType, match="allowed_classes"):
            decode(stored, passive=False)


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in OBJECTS.items()])
def test_what_writing_accepts_reading_accepts(value):
    """With exact names instead of a wildcard: the classes named by the errors are all that is needed."""
    allowed: list[str] = []
    for _ in range(5):
        try:
            stored = blob(value, allowed, passive=False)
            break
        except UnsafeType as exc:
            allowed.append(exc.name)
    decode(stored, allowed, passive=False)


def test_a_function_that_a_reduction_names_is_allowed_by_its_exact_name_only():
    value = models.Rebuilt()
    value.number = 4
    with pytest.raises(UnsafeType, match=r"codec_models\.rebuild .*exact name"):
        blob(value, [ALLOWED])
    assert roundtrip(value, ALLOWED, "codec_models.rebuild").number == 4


def test_a_registered_reduction_is_used_and_checked(monkeypatch, unproven):
    monkeypatch.setitem(copyreg.dispatch_table, models.Plain, lambda value: (models.Called, (9,)))
    assert roundtrip(models.Plain(), ALLOWED).number == 9
    monkeypatch.setitem(copyreg.dispatch_table, models.Plain, lambda value: (os.system, ("true",)))
    with pytest.raises(UnsafeType, match="system"):
        blob(models.Plain(), [ALLOWED])


def test_shared_references_and_cycles_keep_their_identity():
    shared = [1]
    person = models.Person("a")
    person.friends.append(person)
    names = models.Names()
    names["self"] = names
    loop: list = []
    loop.append(({"loop": loop},))
    value = {"a": shared, "b": (shared, person), "names": names, "loop": loop}
    result = roundtrip(value, ALLOWED)
    assert result["a"] is result["b"][0]
    assert result["b"][1].friends[0] is result["b"][1]
    assert result["names"]["self"] is result["names"]
    assert result["loop"][0][0]["loop"] is result["loop"]


def test_cycles_close_across_adapters():
    numpy = pytest.importorskip("numpy")
    pandas = pytest.importorskip("pandas")
    objects = numpy.empty(2, object)
    series = pandas.Series([1, 2])
    series.attrs["objects"] = objects
    objects[0] = {"series": series, "objects": objects}
    result = roundtrip(objects)
    assert result[0]["objects"] is result
    assert result[0]["series"].attrs["objects"] is result


def test_an_exception_keeps_cause_and_attributes():
    error = models.Problem(7, where="there")
    error.__cause__ = KeyError("k")
    error.more = [1]
    result = roundtrip(error, ALLOWED)
    assert (result.code, result.where, result.more, result.args) == (7, "there", [1], error.args)
    assert type(result.__cause__) is KeyError and result.__suppress_context__


def _generator():
    yield 1


def _local_class():
    class Local:
        pass

    return Local()


REFUSED = {
    "a function": test_cycles_close_across_adapters,
    "a lambda": lambda: 1,
    "a builtin": print,
    "eval": eval,
    "os.system": os.system,
    "a module": os,
    "a generator": _generator(),
    "a local class": _local_class(),
    "a lock": threading.Lock(),
    "an iterator": iter([1]),
    "a map": map(str, [1]),
    "dict keys": {}.keys(),
    "text in memory": io.StringIO("a"),
    "a bound method": [].append,
    "a method of the caller's": models.Stateful(1).__getstate__,
    "a static member": models.Plain.__init__,
    "the class type": type,
    "a class of classes": models.Meta,
    "a property": property(len),
    "a thread": threading.Thread(),
    "code": compile("1", "x", "eval"),
    "a frame": sys._getframe(),
    "a weak set": __import__("weakref").WeakSet(),
    "partial of a function": functools.partial(print, 1),
    "factory of a function": collections.defaultdict(lambda: 1),
    "an object that runs something": models.Gadget(os.system, "true"),
    "a reduction to eval": models.Gadget(eval, "1"),
    "a reduction to getattr": models.Gadget(getattr, os, "system"),
    "a reduction to a class of another package": models.Gadget(pathlib.Path, "/x"),
    "a reduction that is wrong": models.Gadget(None),
}


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in REFUSED.items()])
def test_what_cannot_be_stored_is_refused_by_name_and_place(value):
    """Nobody allowed it, or nobody can: the error says which type, where it sits, and what to do instead."""
    with pytest.raises(UnsafeType) as caught:
        blob({"model": [1, {"callback": value}]}, [ALLOWED])
    text = str(caught.value)
    assert "value['model'][1]['callback']" in text
    assert caught.value.hint


def test_open_things_are_refused(tmp_path):
    with open(tmp_path / "f", "w") as file, socket.socket() as connection:
        for value in (file, connection):
            with pytest.raises(UnsafeType, match=type(value).__name__):
                blob([value])


@pytest.mark.parametrize(
    ("container", "place"),
    [
        (lambda value: {("k", 1): value}, r"\[<tuple>\]"),
        (lambda value: models.Person("a", [value]), r"value\.friends\[0\]"),
        (lambda value: models.Plain(x=value), r"value\.x"),
        (lambda value: {value: 1}, "key <function>"),
        (lambda value: frozenset([value]), "member"),
        (lambda value: collections.deque([value]), r"value\[0\]"),
    ],
)
def test_the_place_is_found_in_containers_of_all_kinds(container, place):
    with pytest.raises(UnsafeType, match=f"It sits at value.*{place}|It sits at {place}"):
        blob(container(_generator), [ALLOWED])


def test_the_place_is_found_in_frames_and_arrays():
    numpy = pytest.importorskip("numpy")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "f": [None, _generator]})
    with pytest.raises(UnsafeType, match=r"It sits at value\['f'\]\[1\]"):
        blob(frame)
    with pytest.raises(UnsafeType, match=r"It sits at value\[1\]\[2\]"):
        blob([1, numpy.array([1, None, _generator], dtype=object)])


def _nested(wrap, depth):
    value: object = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        lambda value: {"a": value},
        lambda value: (value,),
        lambda value: models.Frozen(value),
        lambda value: models.Pair(value, 1),
        lambda value: {"a": [value], "b": 1.5},
    ],
    ids=["lists", "dicts", "tuples", "dataclasses", "named tuples", "dicts of lists"],
)
def test_values_nested_as_deeply_as_pickle_manages_come_back(wrap, unproven):
    """The depth at which pickle stops, by default, is that of the version of Python; here and there it is less."""
    depth = 500
    result, value = roundtrip(_nested(wrap, depth)), _nested(wrap, depth)
    for _ in range(depth):
        assert type(result) is type(value)
        if isinstance(value, dict):
            result, value = result["a"], value["a"]
        elif isinstance(value, (list, tuple)):
            result, value = result[0], value[0]
        else:
            result, value = result.value, value.value
    assert result == value


def test_lists_nested_more_deeply_than_c_may_recurse_come_back():
    limit = sys.getrecursionlimit()
    shared = [1]
    value = [_nested(lambda value: [value, shared], 1200), b"x" * 100_000, models.Person("a")]
    result = roundtrip(value)
    assert sys.getrecursionlimit() == limit
    assert result[1:] == value[1:]
    first, depth = result[0], 0
    while type(first) is list:
        assert first[1] is result[0][1]
        first, depth = first[0], depth + 1
    assert depth == 1200


def test_values_nested_too_deeply_are_refused_with_a_reason():
    value = _nested(lambda value: [value], 100_000)
    with pytest.raises(VineyardError, match="nested too deeply") as caught:
        blob(value)
    assert "flatter structure" in caught.value.hint and "setrecursionlimit" not in str(caught.value)


def test_errors_of_a_class_while_it_is_taken_apart_name_it():
    class Failing(models.Plain):
        def __reduce_ex__(self, protocol):
            raise RuntimeError("no way")

    Failing.__qualname__ = "Failing"
    Failing.__module__ = "codec_models"
    models.Failing = Failing
    try:
        with pytest.raises(UnsafeType, match=r"codec_models\.Failing cannot be stored.*RuntimeError: no way"):
            blob(Failing(), [ALLOWED])
    finally:
        del models.Failing


def test_errors_of_a_library_while_a_value_is_taken_apart_name_it(monkeypatch):
    """An adapter that meets what its library does not do: an error of ours, with the place."""
    from vineyard_client._codec.adapters import table

    def fail(writer, value):
        raise ZeroDivisionError("in the library")

    monkeypatch.setitem(table.reducers, collections.Counter, fail)
    with pytest.raises(UnsafeType, match=r"Counter cannot be stored.*ZeroDivisionError: in the library.*value\[1\]"):
        blob([1, collections.Counter()])


def test_a_container_that_cannot_be_walked_does_not_hide_what_was_refused():
    class Strange(collections.UserDict):
        def items(self):
            raise RuntimeError("not now")

    strange = Strange(a=print)
    strange.__class__ = type("Strange", (Strange,), {"__module__": "codec_models", "__qualname__": "Strange"})
    models.Strange = type(strange)
    try:
        with pytest.raises(UnsafeType, match=r"builtins\.print may not"):
            blob(strange, [ALLOWED])
    finally:
        del models.Strange


def test_running_out_of_memory_is_said_as_it_is(monkeypatch):
    from vineyard_client._codec.adapters import table

    def fail(*arguments):
        raise MemoryError

    stored = blob(collections.Counter())
    monkeypatch.setitem(table.makers, "Counter", fail)
    with pytest.raises(MemoryError):
        decode(stored)
    monkeypatch.setitem(table.reducers, collections.Counter, fail)
    with pytest.raises(MemoryError):
        blob(collections.Counter())


def test_pydantic_models_come_back_when_allowed():
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):
        name: str
        price: float = 1.5
        tags: list = pydantic.Field(default_factory=list)

    Item.__qualname__, Item.__module__ = "Item", "codec_models"
    models.Item = Item
    try:
        item = Item(name="a", tags=[1])
        result = roundtrip(item, ALLOWED)
        assert type(result) is Item and result == item
        assert result.model_fields_set == item.model_fields_set if hasattr(item, "model_fields_set") else True
        assert roundtrip(item) == item
        with pytest.raises(UnsafeType, match=r"codec_models\.Item"):
            blob(item, passive=False)
    finally:
        del models.Item


def test_zones_from_files_are_not_taken_for_those_of_their_name():
    zoneinfo = pytest.importorskip("zoneinfo")
    with open("/usr/share/zoneinfo/Asia/Tokyo", "rb") as file:
        zone = zoneinfo.ZoneInfo.from_file(file, key="Europe/Berlin")
    with pytest.raises(UnsafeType, match=r"A zoneinfo\.ZoneInfo cannot be stored"):
        blob([zone])


@pytest.mark.parametrize("make", [lambda f: functools.partial(f, 4), collections.defaultdict])
def test_functions_in_c_that_are_allowed_can_be_read(make):
    value = make(math.sqrt)
    assert repr(roundtrip(value, "math.sqrt")) == repr(value)


def test_children_of_a_generator_are_those_that_it_would_have_had():
    np = pytest.importorskip("numpy")
    rng = np.random.default_rng(3)
    if not hasattr(rng, "spawn"):
        pytest.skip("numpy before 1.25")
    rng.spawn(1)
    read = roundtrip(rng)
    assert [child.random() for child in read.spawn(2)] == [child.random() for child in rng.spawn(2)]


class Word(str):
    """A text of a class of its own."""


class Number(int):
    """A number of a class of its own."""


def test_what_was_made_of_subclasses_can_be_read(unproven):
    """A pattern and a UUID come back equal, made of a plain text and a plain number, which the proof would tell."""
    assert roundtrip(re.compile(Word("a+"))) == re.compile("a+")
    assert roundtrip(uuid.UUID(int=Number(5))) == uuid.UUID(int=5)
