"""Packages whose classes are all trusted: what comes back, and what nobody gets in with them."""

from __future__ import annotations

import pytest
import trusted_models as models
from codec_support import Assembler, blob, blob_of, decode, pickled, roundtrip

from vineyard_client._codec.adapters import trusted
from vineyard_client._codec.table import table
from vineyard_client.exceptions import ObjectCorrupted, UnsafeType, VineyardError

PACKAGE = trusted.Package("trusted_models", parts="", direct=["trusted_models.Model"], functions=":loss")


@pytest.fixture(autouse=True)
def declared():
    PACKAGE.install(table)
    yield
    for rows in (trusted._packages, table.families):
        del rows["trusted_models"]


def test_objects_come_back_and_nothing_of_theirs_runs():
    model = models.Model("needed", x=1)
    model.me, model.loss, model.inner = model, models.loss, {"losses": [(1, models.loss)]}
    result = roundtrip(model)
    assert (type(result), result.x, result.loss) == (models.Model, 1, models.loss)
    assert result.inner == model.inner
    assert result.me is result


def test_content_of_a_plain_base_comes_back():
    bunch = models.Bunch(a=1)
    bunch.note = "n"
    dict.__setitem__(bunch, "self", bunch)
    result = roundtrip(bunch)
    assert type(result) is models.Bunch and list(result) == ["a", "self"] and result["self"] is result
    assert result.note == "n"


def test_slots_come_back_and_empty_ones_stay_empty():
    value = models.Slotted()
    value.left = [1]
    result = roundtrip(value)
    assert result.left == [1] and not hasattr(result, "right")


def test_the_methods_that_a_stream_can_reach_are_not_there_while_it_is_read():
    """Calling, appending and setting items are opcodes: a shell without methods takes the object's place until then."""
    value = models.Reached()
    value.calls = 0
    assert type(roundtrip(value)) is models.Reached
    for end in (b"(K\x01e", b"(K\x01\x90", b"(K\x01K\x02u", b")R"):
        with pytest.raises(VineyardError):
            made = Assembler().call("MAKE", "trusted_models.object", "trusted_models", "Reached")
            decode(blob_of(made.raw(end).finish()))
    assert models.Reached.ran == []


def test_a_function_is_no_callable_while_it_is_read():
    function = Assembler().call("MAKE", "trusted_models.function", "trusted_models", "loss")
    with pytest.raises(ObjectCorrupted, match="Held"):
        decode(blob_of(function.raw(b"K\x01\x85R").finish()))


@pytest.mark.parametrize("name", ["append", "extend", "add", "__class__", "__dict__", 1])
def test_no_attribute_stands_in_for_what_a_stream_can_reach(name):
    made = Assembler().call("MAKE", "trusted_models.object", "trusted_models", "Plain")
    with pytest.raises(UnsafeType, match="attribute"):
        decode(blob_of(pickled(("FILL", (made, ("trusted_models.object", ({name: 1}, None)))))))


@pytest.mark.parametrize(
    "value",
    [models.Stranger(), models.other, models.Model, models.Cleaning(), models.Deciding(), models.Made()],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_needs_more_is_refused(value):
    with pytest.raises(UnsafeType, match=r"trusted_models"):
        blob([value])


NEW, FUNCTION = "trusted_models.object", "trusted_models.function"
MISUSES = {
    "a function that is none of those": (FUNCTION, "trusted_models", "other"),
    "a class that is none of those": (FUNCTION, "trusted_models", "Cleaning"),
    "what the package imported": (FUNCTION, "trusted_models", "os.system"),
    "a module": (FUNCTION, "trusted_models", "os"),
    "an object of a class that is let go of": (NEW, "trusted_models", "Cleaning"),
    "an object of a class with a state of its own": (NEW, "trusted_models", "Deciding"),
    "an object of a class of classes": (NEW, "trusted_models", "Made"),
    "another package": (NEW, "codec_models", "Plain"),
    "a package of Python's": (FUNCTION, "os", "system"),
    "a part that nobody named": (NEW, "trusted_models.part", "Y"),
    "a module of tests": (NEW, "trusted_models.tests.x", "Y"),
    "a program": (NEW, "trusted_models.__main__", "Y"),
    "a function as a class": (NEW, "trusted_models", "loss"),
    "no module": (NEW, None, "Model"),
    "content of another kind": (NEW, "trusted_models", "Model", 1, 2),
}


@pytest.mark.parametrize("arguments", [pytest.param(arguments, id=name) for name, arguments in MISUSES.items()])
def test_trust_does_not_reach_further(arguments):
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", arguments))))


@pytest.mark.parametrize(
    ("target", "filling"),
    [
        (Assembler().call("MAKE", "OrderedDict"), ({"x": 1}, None)),
        (Assembler().data([1]), ({"x": 1}, None)),
        (Assembler().call("MAKE", FUNCTION, "trusted_models", "loss"), ({"size": 1}, None)),
        (Assembler().call("MAKE", NEW, "trusted_models", "Model"), ("text", None)),
        (Assembler().call("MAKE", NEW, "trusted_models", "Slotted"), ((None, {"__class__": 1}), None)),
        (Assembler().call("MAKE", NEW, "trusted_models", "Slotted"), ({"x": 1}, None)),
        (Assembler().call("MAKE", NEW, "trusted_models", "Bunch"), ({}, [1])),
    ],
)
def test_state_is_set_on_what_the_stream_made_only(target, filling):
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("FILL", (target, (NEW, filling))))))
    assert not hasattr(models.loss, "size")


def test_state_is_set_once():
    made = Assembler().call("MAKE", NEW, "trusted_models", "Model").raw(b"\x94")
    filled = Assembler().call("FILL", made, (NEW, ({"x": 1}, None)))
    again = Assembler().call("FILL", filled, (NEW, ({"x": 2}, None)))
    assert decode(blob_of(filled.finish())).x == 1
    with pytest.raises(UnsafeType, match="did not make"):
        decode(blob_of(again.finish()))
