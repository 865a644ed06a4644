"""Packages whose classes are all trusted: what comes back, and what nobody gets in with them."""

from __future__ import annotations

import pytest
import trusted_models as models
from codec_support import Assembler, blob, blob_of, decode, pickled, roundtrip

from vineyard_client._codec.adapters import trusted
from vineyard_client._codec.table import table
from vineyard_client.exceptions import UnsafeType, VineyardError


@pytest.fixture(autouse=True)
def trust():
    trusted.trust(
        "trusted_models", reconstructors=["trusted_models.Tree"], names=["trusted_models.loss", "trusted_models.Tree"]
    )
    yield
    for declared in (trusted._trusted, table.families, table.namers):
        del declared["trusted_models"]


def test_objects_come_back_and_nothing_of_theirs_runs():
    model = models.Model("needed", x=1)
    model.me, model.loss, model.kind = model, models.loss, models.Tree
    result = roundtrip(model)
    assert (type(result), result.x, result.loss, result.kind) == (models.Model, 1, models.loss, models.Tree)
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


def test_a_reconstructor_is_called_and_sets_its_state_itself(unproven):
    tree = models.Tree(3)
    tree.nodes = "n"
    result = roundtrip([tree, tree])
    assert (result[0].size, result[0].nodes) == (3, ["n", "checked"]) and result[0] is result[1]


@pytest.mark.parametrize("value", [models.Stranger(), models.other, models.Model, models.Cleaning()])
def test_what_needs_more_is_refused(value):
    with pytest.raises(UnsafeType, match=r"trusted_models|posix\.system|os\.system"):
        blob([value])


MISUSES = {
    "a function that is no reconstructor": ("trusted.call", "trusted_models", "other", (1,)),
    "a class as a function": ("trusted.call", "trusted_models", "Model", (1,)),
    "a name that is none": ("trusted.name", "trusted_models", "other"),
    "what the package imported": ("trusted.call", "trusted_models", "os.system", ("touch pwned",)),
    "a module": ("trusted.name", "trusted_models", "os"),
    "an object of a class that is let go of": ("trusted.new", "trusted_models", "Cleaning", ()),
    "another package": ("trusted.new", "codec_models", "Plain", ()),
    "a package of Python's": ("trusted.call", "os", "system", ("touch pwned",)),
    "a module of tests": ("trusted.new", "trusted_models.tests.x", "Y", ()),
    "a program": ("trusted.new", "trusted_models.__main__", "Y", ()),
    "a function as a class": ("trusted.new", "trusted_models", "loss", ()),
    "no module": ("trusted.new", None, "Model", ()),
    "content of another kind": ("trusted.new", "trusted_models", "Model", (1, 2)),
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
        (Assembler().call("MAKE", "trusted.name", "trusted_models", "Tree"), ({"size": 1}, None)),
        (Assembler().call("MAKE", "trusted.new", "trusted_models", "Model", ()), ("text", None)),
        (Assembler().call("MAKE", "trusted.new", "trusted_models", "Slotted", ()), ((None, {"__class__": 1}), None)),
        (Assembler().call("MAKE", "trusted.new", "trusted_models", "Slotted", ()), ({"x": 1}, None)),
        (Assembler().call("MAKE", "trusted.new", "trusted_models", "Bunch", ()), ({}, [1])),
    ],
)
def test_state_is_set_on_what_the_stream_made_only(target, filling):
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("FILL", (target, ("trusted", filling))))))
    assert not hasattr(models.Tree, "size")


def test_state_is_set_once():
    made = Assembler().call("MAKE", "trusted.new", "trusted_models", "Model", ()).raw(b"\x94")
    filled = Assembler().call("FILL", made, ("trusted", ({"x": 1}, None)))
    again = Assembler().call("FILL", filled, ("trusted", ({"x": 2}, None)))
    assert decode(blob_of(filled.finish())).x == 1
    with pytest.raises(UnsafeType, match="did not make"):
        decode(blob_of(again.finish()))
