"""The writing half of ``pickle5``: a value becomes a pickle stream of our operations, and out-of-band buffers.

Strategy: the C pickler does the walking, the memo (shared references, cycles) and Python's plain data; for everything
else it asks ``reducer_override``, which asks an adapter by type, or treats the value as an object of a class that the
caller allowed. Whatever the object's own ``__reduce_ex__`` names is translated to operations and judged by the policy,
so what could not be read is refused here, by name, with the place where it sits.

Invariants: no opcode leaves that ``verify`` would refuse; large buffers and large ``bytes`` are handed on as they are,
without a copy; after ``encode`` nothing but the returned pieces keeps the value alive.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import types
from typing import Any, Callable, Dict, List, Set, Tuple

from vineyard_client.exceptions import UnsafeType, VineyardError

from .envelope import Chunk
from .ops import CALL, NAME, NEW, STATE, Op
from .outside import from_outside
from .policy import Policy, qualified
from .table import Reducer, table

__all__ = ["Writer", "dump"]

# Below this, an entry in the index and a view cost more than copying the bytes into the stream.
IN_BAND_BELOW = 1024

# Functions of types that Python has no name for, and of Cython.
_FUNCTION_TYPES = frozenset(["_lru_cache_wrapper", "cython_function_or_method", "fused_cython_function"])
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


class _Pieces:
    """A file that keeps what is written to it; the pickler hands over large payloads as the objects they are."""

    def __init__(self) -> None:
        self.pieces: List[Chunk] = []

    def write(self, data: Any) -> int:
        piece: Chunk = data if type(data) is bytes else memoryview(data).cast("B")
        self.pieces.append(piece)
        return len(piece)


class Writer:
    """What adapters know of the value being written: the policy, its buffers, and a place to remember things."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.buffers: List[memoryview] = []
        self.notes: Dict[Any, Any] = {}
        # For buffers that are cut or filled when the whole value has been walked: what to do then, the identities of
        # those that must stay out of band however small they are, and the objects, so that the identities hold.
        self.finish: List[Callable[[], None]] = []
        self.out_of_band: Set[int] = set()
        self.keep: List[Any] = []
        self._reducers: Dict[type, Reducer] = {}
        self._names: Dict[Any, Tuple[str, str]] = {}
        self._passive: Dict[Any, Tuple[str, str]] = {}

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Keep a buffer for out of band; tell pickle to put a small one in band."""
        if id(buffer) not in self.out_of_band:
            with buffer.raw() as raw:
                if raw.nbytes < IN_BAND_BELOW:
                    return True
        self.buffers.append(buffer.raw())
        return False

    def reduce(self, value: Any) -> Any:
        """Return how a value is written: the reduction of its adapter, or that of its own class if it is allowed."""
        cls = type(value)
        reducer = table.reducers.get(cls) or self._reducers.get(cls)
        if reducer is None:
            reducer = self._reducers[cls] = self._reducer_for(cls)
        try:
            return reducer(self, value)
        except (MemoryError, RecursionError):
            raise
        except Exception as exc:
            if from_outside(exc):
                raise
            if isinstance(exc, VineyardError):
                raise
            raise _failed(value, exc) from exc

    def name_of(self, thing: Any) -> Tuple[str, str]:
        """Return the module and name of an allowed class or function; remembered for this value."""
        names = self._names.get(thing)
        if names is None:
            names = self._names[thing] = self.policy.name_of(thing)
        return names

    def passive_name_of(self, cls: type) -> Tuple[str, str]:
        """Return the module and name under which a passive class is found; remembered for this value."""
        names = self._passive.get(cls)
        if names is None:
            names = self._passive[cls] = self.policy.passive_name_of(cls)
        return names

    def _reducer_for(self, cls: type) -> Reducer:
        if table.by_name and qualified(cls) in table.by_name:
            return table.by_name[qualified(cls)][0]
        for base in cls.__mro__:
            module = getattr(base, "__module__", None)
            if isinstance(module, str):
                table.load(module.partition(".")[0])
            if cls in table.reducers:
                return table.reducers[cls]
            if base in table.bases:
                return table.bases[base]
        if cls.__name__ in _FUNCTION_TYPES:
            return reduce_name
        package = str(cls.__module__).partition(".")[0]
        if package not in table.whole and self.policy.why_not_passive(cls) is None:
            table.load("passive")
            assert table.passive is not None
            return table.passive
        return table.families.get(package, reduce_instance)


def reduce_op(writer: Writer, op: Op) -> Any:
    """Write an operation as the global it is."""
    return op.name


def reduce_name(writer: Writer, thing: Any) -> Tuple[Any, ...]:
    """Write a class or function as a value."""
    module = getattr(thing, "__module__", None)
    package = module.partition(".")[0] if isinstance(module, str) else ""
    table.load(package)
    if isinstance(thing, type):
        known = table.values.get(thing)
        if known is not None:
            return NAME, ("", known)
    namer = table.namers.get(package)
    named = namer(thing) if namer is not None else None
    return named or (NAME, writer.name_of(thing))


def reduce_instance(writer: Writer, value: Any) -> Tuple[Any, ...]:
    """Write an object of a class that the caller allowed, as its own ``__reduce_ex__`` takes it apart."""
    cls = type(value)
    if not isinstance(value, _FUNCTIONS):
        writer.name_of(cls)
    reduced = own_reduction(value)
    if isinstance(reduced, str):
        raise UnsafeType(
            f"A {qualified(cls)} may not be stored: it pickles as the global name {reduced!r}, not as a value.",
            "Store plain data that describes it instead.",
            qualified(cls),
        )
    return translate(writer, reduced)


def own_reduction(value: Any) -> Any:
    """Return what pickle itself would use, with the object's own errors turned into one that names the type."""
    cls = type(value)
    registered: Any = copyreg.dispatch_table.get(cls)
    try:
        return registered(value) if registered is not None else value.__reduce_ex__(5)
    except (VineyardError, MemoryError, RecursionError):
        raise
    except Exception as exc:
        if from_outside(exc):
            raise
        raise _failed(value, exc) from exc


def _failed(value: Any, exc: Exception) -> UnsafeType:
    name = qualified(type(value))
    return UnsafeType(
        f"A {name} cannot be stored: taking it apart raised {type(exc).__name__}: {exc}.",
        "Store the data it stands for instead, or give its class a __reduce__ method.",
        name,
    )


def translate(writer: Writer, reduced: Any) -> Tuple[Any, ...]:
    """Turn a ``__reduce__`` tuple that names classes and functions into one of our operations."""
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6:
        raise UnsafeType(
            "A value cannot be stored: its __reduce__ returned neither a name nor a tuple of 2 to 6.",
            "Mend its __reduce__ method.",
        )
    function, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
    head: Tuple[Any, ...]
    if function is copyreg.__newobj__:  # type: ignore[attr-defined]
        head = NEW, (*writer.name_of(arguments[0]), tuple(arguments[1:]), {})
        _check_making(arguments[0], len(arguments) - 1)
    elif function is copyreg.__newobj_ex__:  # type: ignore[attr-defined]
        head = NEW, (*writer.name_of(arguments[0]), tuple(arguments[1]), dict(arguments[2]))
    elif function is copyreg._reconstructor:  # type: ignore[attr-defined]
        base_arguments = () if arguments[1] is object else (arguments[2],)
        head = NEW, (*writer.name_of(arguments[0]), base_arguments, {})
    else:
        head = CALL, (*writer.name_of(function), tuple(arguments))
    if setter is not None:
        raise UnsafeType(
            f"A value cannot be stored: its __reduce__ gives {qualified(setter)} to set its state, which reading would "
            "have to run.",
            "Give its class a __setstate__ method instead.",
            qualified(setter),
        )
    if state is None:
        return (*head, None, items, pairs)
    return (*head, state, items, pairs, STATE)


def _check_making(cls: Any, given: int) -> None:
    """Refuse a class whose ``__new__`` wants arguments that its reduction does not give: nobody could read it."""
    new = cls.__new__
    if isinstance(new, types.FunctionType):
        needed = new.__code__.co_argcount - 1 - len(new.__defaults__ or ())
        keywords = new.__code__.co_kwonlyargcount - len(new.__kwdefaults__ or ())
        if given < needed or keywords:
            raise UnsafeType(
                f"A {qualified(cls)} cannot be stored: its __new__ needs arguments that its reduction lacks.",
                "Return the data that it stands for; or give its class a __getnewargs__ method.",
                qualified(cls),
            )


class _Pickler(pickle.Pickler):
    def __init__(self, file: _Pieces, writer: Writer) -> None:
        super().__init__(file, protocol=5, buffer_callback=writer.take_buffer)
        self.reducer_override = writer.reduce  # type: ignore[method-assign]


table.reducers.update({Op: reduce_op, type: reduce_name, **dict.fromkeys(_FUNCTIONS, reduce_name)})
table.bases[type] = reduce_name


def dump(value: Any, policy: Policy) -> Tuple[List[Chunk], List[memoryview]]:
    """Write a value.

    Args:
        value: anything.
        policy: which classes are allowed besides the known types.

    Returns:
        The pieces of the pickle stream, and flat views of the out-of-band buffers.

    Raises:
        UnsafeType: the value holds something that cannot be stored; the text says what, and where it sits.
    """
    try:
        return _written(value, policy, _Pickler)
    except RecursionError as exc:
        if from_outside(exc):
            raise
    from . import deep  # for few values only

    try:
        with deep.deep():
            return _written(
                value, policy, lambda file, writer: deep.DeepPickler(file, writer.take_buffer, writer.reduce)
            )
    except RecursionError as exc:
        if from_outside(exc):
            raise
        reason = str(exc)  # and not its traceback, which is as deep
    raise UnsafeType(
        f"The value cannot be stored: it is nested too deeply ({reason}).",
        "Store a flatter structure, such as a list of rows that name their parents.",
        qualified(type(value)),
    )


def _written(
    value: Any, policy: Policy, make_pickler: Callable[[Any, Writer], Any]
) -> Tuple[List[Chunk], List[memoryview]]:
    writer = Writer(policy)
    file = _Pieces()
    pickler = make_pickler(file, writer)
    done = False
    try:
        pickler.dump(value)
        for finish in writer.finish:
            finish()
        done = True
    except (pickle.PicklingError, io.UnsupportedOperation) as exc:
        if from_outside(exc):
            raise
        raise UnsafeType(
            f"The value cannot be stored: {exc}.", "Store plain data instead.", qualified(type(value))
        ) from exc
    finally:
        pickler.clear_memo()
        if not done:  # see Encoded.release
            for piece in (*file.pieces, *writer.buffers):
                if isinstance(piece, memoryview):
                    piece.release()
    return file.pieces, writer.buffers
