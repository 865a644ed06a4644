"""A signal handler may raise at any moment: what it raised is no fault of the value, and comes out as it is."""

from __future__ import annotations

import functools
import pickle
import signal

import codec_models as models
import pytest
from codec_support import blob, decode

from vineyard_client._codec.outside import from_outside
from vineyard_client.exceptions import ObjectCorrupted, UnsafeType

ALLOWED = ["codec_models.*"]


class Timeout(Exception):
    pass


class Late:
    """Handlers of every kind that there is."""

    def __init__(self, error):
        self.error = error

    def method(self, number, frame):
        raise self.error

    def __call__(self, number, frame):
        raise self.error

    def put_back(self, *arguments):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        raise self.error

    @staticmethod
    def further(error, number, frame):
        Late(error).method(number, frame)


def thrown(error):
    def handler(number, frame):
        raise error

    return handler


HANDLERS = {
    "a function": thrown,
    "a lambda": lambda error: lambda *_: (_ for _ in ()).throw(error),
    "a method": lambda error: Late(error).method,
    "an object": Late,
    "a partial": lambda error: functools.partial(Late.further, error),
    "a partial of an object": lambda error: functools.partial(Late(error)),
    "one that was put back": lambda error: Late(error).put_back,
}
ERRORS = [Timeout("late"), ValueError("late"), RecursionError("late"), pickle.PicklingError("late"), KeyError("late")]


@pytest.fixture
def alarm():
    """Let a real signal come at a moment of a value's."""
    before = signal.getsignal(signal.SIGALRM)

    def set_(handler):
        signal.signal(signal.SIGALRM, handler)
        models.Waiting.moment = staticmethod(lambda: signal.raise_signal(signal.SIGALRM))

    yield set_
    models.Waiting.moment = staticmethod(lambda: None)
    signal.signal(signal.SIGALRM, before)


def interrupted(where):
    """Write or read a value that is interrupted there."""
    value = models.Waiting(where)
    if where == "decode":
        stored = blob([value], ALLOWED)  # without an alarm as yet
        return lambda: decode(stored, ALLOWED)
    if where == "refusal":
        return lambda: blob([models.Walked(a=1), open], ALLOWED)
    return lambda: blob(value if where == "summary" else [value], ALLOWED)


@pytest.mark.parametrize("where", ["encode", "decode", "summary", "refusal"])
@pytest.mark.parametrize("kind", HANDLERS)
def test_what_a_handler_raises_comes_out_as_it_is(kind, where, alarm, unproven):
    run = interrupted(where)
    error = Timeout("late")
    alarm(HANDLERS[kind](error))
    with pytest.raises(Timeout) as caught:
        run()
    assert caught.value is error


@pytest.mark.parametrize("where", ["encode", "decode"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_of_whatever_type_it_is(error, where, alarm, unproven):
    run = interrupted(where)
    alarm(thrown(error))
    with pytest.raises(type(error)) as caught:
        run()
    assert caught.value is error


def test_what_a_value_raises_is_still_its_own_fault(alarm, unproven):
    """Also while handlers are installed, and if its error looks like theirs."""
    alarm(thrown(Timeout("late")))

    def fail():
        raise Timeout("of the value")

    stored = blob([models.Waiting("x")], ALLOWED)
    models.Waiting.moment = staticmethod(fail)
    with pytest.raises(UnsafeType, match="taking it apart raised Timeout: of the value"):
        blob([models.Waiting("encode")], ALLOWED)
    decode(stored, ALLOWED)
    models.Waiting.moment = staticmethod(lambda: None)
    stored = blob([models.Waiting("decode")], ALLOWED)
    models.Waiting.moment = staticmethod(fail)
    with pytest.raises(ObjectCorrupted, match="Timeout: of the value"):
        decode(stored, ALLOWED)


def test_what_is_no_exception_is_from_outside():
    assert from_outside(KeyboardInterrupt()) and from_outside(SystemExit())
    assert not from_outside(ValueError())
