"""What people see of a value in its row: plain, short, printable, and nothing that Airflow would mask."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import os
import pathlib
import re
import signal
import types
import uuid
from typing import Any, Dict, List, NamedTuple, Optional

import pytest

from airflow_provider_vineyard.xcom.arguments import unfit_as_argument
from airflow_provider_vineyard.xcom.shown import text_of

UTC = datetime.timezone.utc
SECRET = "hunter2"


class Pair(NamedTuple):
    left: Any
    password: Any = None


@dataclasses.dataclass
class Point:
    x: Any
    token: Any = None
    aside: Any = dataclasses.field(default="never shown", repr=False)


@dataclasses.dataclass
class Reticent:
    token: str

    def __repr__(self) -> str:
        return "Reticent(…)"


class Colour(enum.Enum):
    RED = "r"


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Text(str):
    __slots__ = ()


class Bare:
    def __init__(self) -> None:
        self.password = "never shown"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


class Lines:
    def __repr__(self) -> str:
        return "Lines(\n   1,\n   2)"


def redact(text: str) -> str:
    """Do as Airflow does; with re2, it cannot look at half surrogates."""
    text.encode()
    return text.replace(SECRET, "***")


def shown(value: Any, name: Optional[str] = None, summary: str = "a summary") -> str:
    """Return the line for a value, with a masker such as Airflow's."""
    return text_of(
        value,
        summary,
        name=name,
        redact=redact,
        is_hidden=lambda name: isinstance(name, str) and bool(re.search("password|token", name)),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "None"),
        (True, "True"),
        (6, "6"),
        (-0.0, "-0.0"),
        (100.0, "100.0"),
        (float("nan"), "nan"),
        (1 + 2j, "(1+2j)"),
        (2**64, "18446744073709551616"),
        (-(10**300), "-2**996 and more"),
        (datetime.date(2024, 1, 1), "2024-01-01"),
        (datetime.datetime(2024, 1, 1, 12, tzinfo=UTC), "2024-01-01 12:00:00+00:00"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (decimal.Decimal("1.50"), "1.50"),
        (fractions.Fraction(1, 3), "1/3"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (pathlib.PurePosixPath("/srv/data"), "/srv/data"),
        (Text("plain"), "plain"),
        (b"a\0b", "b'a\\x00b'"),
        ((400000, 15), "(400000, 15)"),
        ((1,), "(1,)"),
        ((), "()"),
        ({1}, "{1}"),
        (frozenset([1]), "frozenset({1})"),
        ([(1, "a"), datetime.date(2024, 1, 1)], "[(1, 'a'), 2024-01-01]"),
        ({1: "a", None: {2}}, "{1: 'a', None: {2}}"),
        (collections.OrderedDict(a=1), "OrderedDict({'a': 1})"),
        (Colour.RED, "Colour.RED"),
        (Access.READ, "Access.READ"),
        (Pair(1, None), "Pair(left=1, password=***)"),
        (Point(1.5), "Point(x=1.5, token=***)"),
        ([Point((1, 2))], "[Point(x=(1, 2), token=***)]"),
        (Reticent("t"), "Reticent(…)"),
        (Lines(), "Lines( 1, 2)"),
        (Bare(), "a summary"),
        ([Bare()], "[<Bare>]"),
        (Broken(), "a summary"),
        ((1, Broken()), "a summary"),
        (ValueError("no"), "ValueError('no')"),
        (KeyError(), "KeyError()"),
        (collections.deque([1, (2,)], maxlen=5), "deque([1, (2,)])"),
        (collections.defaultdict(list, {1: [2]}), "defaultdict(<class 'list'>, {1: [2]})"),
        (collections.Counter("aab"), "Counter({'a': 2, 'b': 1})"),
        (types.SimpleNamespace(a=1), "SimpleNamespace(a=1)"),
        (functools.partial(int, "7", base=8), "partial(<class 'int'>, '7', base=8)"),
    ],
)
def test_plain(value: Any, expected: str) -> None:
    """The value as people write it."""
    assert shown(value) == expected


def test_libraries() -> None:
    """Scalars and small arrays are shown, what has rows by its summary."""
    numpy = pytest.importorskip("numpy")
    pandas = pytest.importorskip("pandas")
    assert shown(numpy.int64(6)) == "6"
    assert shown(numpy.float64(0.1)) == "0.1"
    assert shown(numpy.bool_(True)) == "True"
    assert shown(numpy.str_("task")) == "task"
    assert shown(numpy.datetime64("2024-01-01")) == "2024-01-01"
    assert shown((numpy.int64(6), [numpy.float32(0.5)])) == "(6, [0.5])"
    assert shown(numpy.array([[50, 2], [3, 45]])) == "[[50, 2], [3, 45]]"
    assert shown(numpy.array(7)) == "7"
    assert shown(numpy.zeros(201)) == shown(numpy.zeros(2, [("password", "i4")])) == "a summary"
    assert shown([numpy.zeros(201)]) == "[<ndarray>]"
    assert shown(pandas.Timestamp("2024-01-01", tz="UTC")) == "2024-01-01 00:00:00+00:00"
    assert shown(pandas.NaT) == "NaT"
    assert shown(pandas.NA) == "<NA>"
    assert shown(pandas.Timedelta("1h")) == "0 days 01:00:00"
    assert shown(pandas.Interval(0, 1)) == "(0, 1]"
    assert shown(pandas.Period("2024-01")) == "2024-01"
    assert shown(pandas.DataFrame({"a": [1]})) == shown(pandas.Series([1])) == "a summary"
    assert shown(numpy.array([SECRET])) == "['***']"
    assert shown(numpy.zeros(1, [("n", "i4"), ("password", "i4")])[0]) == "void(n=0, password=***)"
    assert shown((numpy.dtype("f4"), numpy.dtype([("n", "i4")]))) == "(float32, [('n', '<i4')])"
    assert shown(pandas.DatetimeTZDtype(tz="UTC")) == "datetime64[ns, UTC]"


def test_classes_of_libraries() -> None:
    """What attrs and pydantic are told to hide is hidden."""
    attrs = pytest.importorskip("attr")
    cls = attrs.make_class(
        "Job", {"n": attrs.ib(), "token": attrs.ib(), "aside": attrs.ib(repr=False), "short": attrs.ib(repr=str.upper)}
    )
    token = "***" if "***" in shown({"token": "t"}) else "'t'"  # Airflow 2.1 masks in tasks only
    assert shown(cls(1, "t", "never", "four")) == f"Job(n=1, token={token}, short=FOUR)"
    pydantic = pytest.importorskip("pydantic")
    if not hasattr(pydantic, "field_validator"):
        pytest.skip("pydantic 1 has another __repr__")
    model = pydantic.create_model("Login", user=(str, ...), password=(str, ...), key=(pydantic.SecretStr, ...))
    assert (
        shown(model(user="ann", password="p", key="k"))
        == "Login(user='ann', password=***, key=SecretStr('**********'))"
    )


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        SECRET.encode(),
        [SECRET],
        {SECRET: 1},
        {1: {"a": (SECRET,)}},
        pathlib.PurePosixPath("/x") / SECRET,
        Point(SECRET),
        ValueError(SECRET),
        "x" * 196 + SECRET,
        ["x" * 193, SECRET],
        ("x" * 150, "y" * 35, SECRET, SECRET),
        b"x" * 198 + SECRET.encode(),
    ],
)
def test_secrets(value: Any) -> None:
    """Nothing of a registered secret is left, wherever it is and wherever the line is cut."""
    text = shown(value, summary=f"with {SECRET}")
    assert "hun" not in text and "er2" not in text
    assert len(text) <= 200


@pytest.mark.parametrize(
    "value",
    [
        collections.OrderedDict(token="t"),
        collections.defaultdict(None, token="t"),
        collections.Counter(token="t"),
        collections.ChainMap({"token": "t"}),
        collections.UserDict(token="t"),
        collections.UserList([{"token": "t"}]),
        collections.deque([{"token": "t"}]),
        types.MappingProxyType({"token": "t"}),
        types.SimpleNamespace(token="t"),
        functools.partial(dict, token="t"),
        ValueError({"token": "t"}),
        ([collections.OrderedDict(Point=Point(1, "t"))],),
    ],
)
def test_names_in_pythons_own_containers(value: Any) -> None:
    """What Airflow masks by its name is masked wherever it is held."""
    text = shown(value)
    assert "***" in text and "'t'" not in text


@pytest.mark.parametrize(
    "hold",
    [
        lambda held: (held, held),
        lambda held: collections.deque([held, held]),
        lambda held: collections.OrderedDict(a=held, b=held),
        lambda held: types.SimpleNamespace(a=held, b=held),
        lambda held: functools.partial(int, held, held),
        lambda held: ValueError(held, held),
        lambda held: Point(held, held),
    ],
)
def test_one_object_in_many_places(hold: Any) -> None:
    """A line is made of a value whose ``repr`` would have 2**60 parts."""
    value: Any = 1
    for _ in range(60):
        value = hold(value)
    assert 10 < len(shown(value)) <= 200


@pytest.mark.parametrize("name", ["password", "db_password", "return_value", None])
def test_what_was_pushed_under_a_hidden_name(name: Optional[str]) -> None:
    """It is hidden as a whole."""
    assert shown((1, 2), name=name) == ("***" if name and "password" in name else "(1, 2)")


def test_every_character_is_printable() -> None:
    """Databases, logs and terminals take the line."""
    assert shown("a\0b\nc\ud800d\x1b[31m\u202e") == "a\\x00b\\nc\\ud800d\\x1b[31m\\u202e"
    assert shown(("\0\ud800",)).isprintable()
    assert shown({"\ud800": f"{SECRET}\udfff\ud800{SECRET}"}) == "{'\\ud800': '***\\udfff\\ud800***'}"
    assert shown(Bare(), summary="column \ud800\0").isprintable()


def test_long_and_deep_values() -> None:
    """The line is cut, and no time is spent on what does not fit."""
    cycle: List[Any] = []
    cycle.append(cycle)
    assert shown(cycle) == "[[[[[[…]]]]]]"
    looked: Dict[str, int] = collections.Counter()

    class Counted:
        def __repr__(self) -> str:
            looked["at"] += 1
            return "counted"

    text = shown([Counted() for _ in range(100_000)])
    assert len(text) == 200 and text.endswith("…")
    assert looked["at"] < 50
    assert len(shown("x" * 1_000_000)) == 200
    assert shown(10**10_000) == "2**33219 and more"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "NaN or infinity"),
        ({"a": [1, (float("inf"),)]}, "NaN or infinity"),
        ({float("-inf")}, "NaN or infinity"),
        ("half \ud800", "half a surrogate"),
        ({"\udfff": 1}, "half a surrogate"),
        ({"a": [1.5, "ä", None, True, 2**70]}, None),
        ([0.0] * 5000 + [float("nan")], None),  # long enough to be sent as a text
        (Point(float("nan")), None),  # likewise
    ],
)
def test_what_is_unfit_as_an_argument(value: Any, expected: Optional[str]) -> None:
    """What the JSON of Airflow 3 cannot say, wherever Airflow would look for it."""
    assert unfit_as_argument(value) == expected


def test_what_a_signal_handler_raises_is_no_fault_of_the_value() -> None:
    """A task's timeout or its SIGTERM, in the middle of a ``__repr__``, ends the task, whatever type it has."""

    class Stopped(Exception):
        pass

    class Struck:
        def __repr__(self) -> str:
            os.kill(os.getpid(), signal.SIGUSR1)
            return "survived"

    def handler(number: int, frame: Optional[types.FrameType]) -> None:
        raise Stopped

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Stopped):
            text_of(Struck(), "summary", name=None, redact=str, is_hidden=lambda name: False)
    finally:
        signal.signal(signal.SIGUSR1, before)
