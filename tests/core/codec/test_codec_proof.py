"""The mode of our tests: what was written is read again, and nothing that differs goes unseen."""

from __future__ import annotations

import collections
import functools
import subprocess
import sys

import codec_models as models
import pytest
from codec_support import blob

from vineyard_client._codec import proof
from vineyard_client._codec.adapters import table
from vineyard_client._codec.ops import MAKE


def cyclic(last):
    loop = [1]
    loop.append((loop, {"last": last}))
    return loop


def error(**fields):
    return ImportError("x", **fields)


def keeping(kind, note):
    made = functools.partial(int)
    made.note = note
    return made


DIFFERENT = {
    "a type": (1, True),
    "a type inside": ([1.0], [1]),
    "a sign": (-0.0, 0.0),
    "an order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "a key": ({1: 2}, {True: 2}),
    "a length": ([1, 2], [1]),
    "a member": ({1, 2}, {1, 3}),
    "a member's type": ({1}, {True}),
    "bytes": (bytearray(b"a"), bytearray(b"b")),
    "writability": (memoryview(b"a"), memoryview(bytearray(b"a"))),
    "an attribute": (models.Plain(a=1), models.Plain(a=2)),
    "an attribute that is gone": (models.Plain(a=1), models.Plain()),
    "a slot": (models.Slotted(1, 2), models.Slotted(1, 3)),
    "a member without an equal": ({models.Plain(a=1)}, {models.Plain(a=2)}),
    "a field in C": (error(name="a"), error(name="b")),
    "a note on a partial": (keeping(int, 1), keeping(int, 2)),
    "a cycle": (cyclic(1), cyclic(2)),
    "a class": (models.Plain, models.Slotted),
}
SAME = {
    "NaN": (float("nan"), float("nan")),
    "a member without an equal": ({models.Plain(a=1), 5}, {5, models.Plain(a=1)}),
    "a cycle": (cyclic(1), cyclic(1)),
    "an order of attributes": (models.Plain(a=1, b=2), models.Plain(b=2, a=1)),
    "a field in C": (error(name="a"), error(name="a")),
}


@pytest.mark.parametrize("pair", [pytest.param(pair, id=name) for name, pair in DIFFERENT.items()])
def test_what_differs_is_seen(pair):
    left, right = pair
    assert proof.difference(left, right)
    assert "value[0]" in proof.difference([left], [right])
    assert not proof.difference(left, left)


@pytest.mark.parametrize("pair", [pytest.param(pair, id=name) for name, pair in SAME.items()])
def test_what_is_the_same_is_not(pair):
    assert proof.difference(*pair) == ""


def test_it_does_not_go_by_depth():
    left: list = []
    right: list = []
    for _ in range(100_000):
        left, right = [left], [right]
    assert proof.difference(left, right) == ""


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("np.arange(3.0)", "np.arange(3)"),
        ("np.arange(3.0)", "np.array([0.0, 1.0, 3.0])"),
        ("np.zeros((2, 3))", "np.zeros((3, 2))"),
        ("np.zeros((2, 3))", "np.zeros((2, 3), order='F')"),
        ("np.array([1, [2]], object)", "np.array([1, [3]], object)"),
        ("np.zeros(2, [('o', 'O'), ('x', 'i4')])", "np.ones(2, [('o', 'O'), ('x', 'i4')])"),
        ("np.random.default_rng(1)", "np.random.default_rng(2)"),
    ],
)
def test_arrays_that_differ_are_seen(left, right):
    np = pytest.importorskip("numpy")
    assert proof.difference(eval(left), eval(right)), np
    assert proof.difference(eval(left), eval(left)) == ""


def test_what_put_accepts_and_get_refuses_is_a_fault(monkeypatch):
    monkeypatch.setitem(table.reducers, models.Plain, lambda writer, value: (MAKE, ("nobody.knows",)))
    with pytest.raises(AssertionError, match=r"A codec_models.Plain was written and cannot be read: .*nobody\.knows"):
        blob(models.Plain())


def test_what_is_dropped_on_the_way_is_a_fault(monkeypatch):
    monkeypatch.setitem(table.reducers, collections.deque, lambda writer, value: (MAKE, ("deque", None)))
    with pytest.raises(AssertionError, match=r"read as something else: .*value\['a'\]"):
        blob({"a": collections.deque([1], 3)})


def test_it_is_off_unless_somebody_asks_for_it():
    code = "from vineyard_client._codec import proof; print(proof.demanded())"
    for wish, expected in ((None, "False"), ("0", "False"), ("1", "True")):
        environment = {"PATH": "/usr/bin"} if wish is None else {"PATH": "/usr/bin", "VINEYARD_PROOF": wish}
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert result.stdout.strip() == expected, result.stderr
