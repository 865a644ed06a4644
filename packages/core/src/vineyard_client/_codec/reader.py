"""The reading half of ``pickle5``: a checked pickle stream becomes a value, and nothing else happens.

Strategy: ``verify`` has left a language that can build plain data, take buffers, name one of ``ops`` and apply it. The
unpickler resolves exactly these names, each to a method of the ``Reader`` of this one value, which knows the policy and
the size of the stream. No import and no lookup by name happens before the policy or the table of adapters agreed.

Invariants: a class on the unpickler's stack is one whose constructor may be called with anything (that is what being a
*value* means, ``table``) or one that the caller allowed; makers take strings and data, never callables; errors
of makers mean that the stored parts do not fit together. Only objects that were made in this very stream are given
state or filled, each once, so nothing that the process shares is ever changed; those that an adapter left unfinished
are finished when the value is handed out; none of the operations is part of it.
"""

from __future__ import annotations

import pickle
import sys
from operator import itemgetter
from typing import AbstractSet, Any, Callable, Dict, FrozenSet, List, NoReturn, Sequence, Tuple

from vineyard_client.exceptions import ObjectCorrupted, UnsafeType, VineyardError

from . import ops
from .outside import from_outside
from .parts import damaged, refused, set_state
from .policy import Policy, qualified
from .table import table
from .targets import check_targets
from .verify import Stream, verify

__all__ = ["Reader", "load"]


# Makers of what holds any objects: in containers that are checked to be plain ones, or as they are.
_HOLDERS = frozenset(
    [
        *["ChainMap", "partial", "exception", "mappingproxy", "slice", "operator.itemgetter"],
        *["polars.DataFrame", "polars.Series"],
        *["passive.new", "passive.row", "passive.named", "trusted.new", "trusted.call"],
    ]
)
_HOLD_DIRECTLY = frozenset(["slice", "operator.itemgetter"])

# Looked at for each part of a value; they grow as adapters are loaded.
_makers, _makers_of_unfinished = table.makers, table.unfinished
_NONE: FrozenSet[type] = frozenset()


_OPERATIONS = {"MAKE": "make", "NEW": "new", "CALL": "call", "NAME": "name", "STATE": "state", "FILL": "fill"}


class Reader:
    """What makers know of the value being read: the policy, and how large a number may be.

    Args:
        policy: which classes are allowed besides the known types.
        limit: length of the stream; nothing that is spelt out in it can have more elements.
        buffers: what lies beside it.
        stream: returns a private copy of the stream.
    """

    def __init__(
        self, policy: Policy, limit: int, buffers: Sequence[memoryview], stream: Callable[[], bytes] = bytes
    ) -> None:
        self.policy = policy
        self.limit = limit
        self.notes: Dict[Any, Any] = {}
        self._buffers = buffers
        self._stream = stream
        self._waiting: List[Tuple[int, Callable[[], None]]] = []
        # Those that the stream has named; each refers to this reader.
        self._operations: Dict[str, Any] = {}
        self._allowed: Dict[type, bool] = {}
        self._found: Dict[Tuple[str, str], Any] = {}
        # What may be completed, by identity: what NEW and CALL made; what makers that have fillers made, and which.
        self._made: Dict[int, Any] = {}
        self._unfinished: Dict[int, Tuple[Any, str]] = {}
        self._passive: Dict[Tuple[str, str], Any] = {}
        # Passive classes in this stream that have methods: nothing may be made of their objects that might call those.
        self._loud: FrozenSet[type] = _NONE

    @property
    def total(self) -> int:
        """Length of the stream and of the buffers."""
        return self.limit + sum([len(buffer) for buffer in self._buffers])

    def unveil(self, step: Callable[[], None]) -> None:
        """Have an object become of its own class when everything has been read."""
        self._waiting.append((0, step))

    def later(self, step: Callable[[], None]) -> None:
        """Have an object get what state it sets itself when all are of their own class."""
        self._waiting.append((1, step))

    def check(self, step: Callable[[], None]) -> None:
        """Have something looked at when everything is there."""
        self._waiting.append((2, step))

    def operation(self, name: str) -> Any:
        """Return an operation by its name; KeyError if there is none of that name."""
        operation = self._operations.get(name)
        if operation is None:
            operation = self._operations[name] = getattr(self, _OPERATIONS[name])
        return operation

    def make(self, name: str, *parts: Any) -> Any:
        """Build a value of a known type from its parts."""
        maker = _makers.get(name)
        if maker is None and type(name) is str:
            table.load(name.partition(".")[0])
            maker = _makers.get(name)
        if maker is None:
            raise _unknown(name)
        if self._loud and self._meets_loud(parts, name, _HOLDERS):
            raise refused(f"it makes a {name} of an object whose class has code that could run then", name)
        value = maker(self, *parts)
        if name in _makers_of_unfinished:
            self._unfinished[id(value)] = value, name
        return value

    def _meets_loud(self, parts: Any, name: str, holders: AbstractSet[str]) -> bool:
        """Tell whether a maker would be handed an object that it does not expect, and whose methods it might use.

        Objects of passive classes are data, and no maker has to expect them but those that hold any objects.
        """
        holds = name in holders
        waiting, seen = [parts], {id(parts)}
        while waiting:
            for part in waiting.pop():
                kind = type(part)
                if kind in self._loud:
                    return name not in _HOLD_DIRECTLY
                if not holds and kind in (tuple, list, dict) and id(part) not in seen:
                    seen.add(id(part))
                    waiting.append(part)
                    if kind is dict:
                        waiting.append(part.values())
        return False

    def check_quiet(self, parts: Tuple[Any, ...], name: str) -> None:
        """Refuse what holds an object of a passive class that has methods, at any depth of plain containers.

        Raises:
            UnsafeType: it does.
        """
        if self._loud and self._meets_loud(parts, name, frozenset()):
            raise refused(f"it fills a {name} with an object whose class has code that could run then", name)

    def new(self, module: str, qualname: str, arguments: Tuple[Any, ...], keywords: Dict[str, Any]) -> Any:
        """Create an object of an allowed class without initialising it."""
        cls = self.find_class(module, qualname)
        value = cls.__new__(cls, *arguments, **keywords)
        self._made[id(value)] = value
        return value

    def call(self, module: str, qualname: str, arguments: Tuple[Any, ...]) -> Any:
        """Call an allowed class, or a function that was allowed by its exact name."""
        value = self.find(module, qualname)(*arguments)
        self._made[id(value)] = value
        return value

    def name(self, module: str, qualname: str) -> Any:
        """Return a class as a value: one of ours (without a module) or one that was allowed."""
        if module:
            return self.find(module, qualname)
        if qualname not in table.named and type(qualname) is str:
            table.load(qualname.partition(".")[0])
        if qualname not in table.named:
            raise _unknown(qualname)
        return table.named[qualname]

    def state(self, value: Any, state: Any) -> Any:
        """Set the state of an object of an allowed class that was made in this stream."""
        cls = type(value)
        if isinstance(value, type) or not self.allows(cls):
            raise UnsafeType(
                f"The stored value sets the state of a {qualified(cls)}, which nobody allowed.",
                f'If it is yours, allow it where it is written and read: allowed_classes=["{qualified(cls)}"].',
                qualified(cls),
            )
        made = self._made.pop(id(value), None)
        table.load(cls.__module__.partition(".")[0])
        # What an adapter knows is never written with a state, and constructors hand out objects of it that are shared.
        if made is not value or cls in table.reducers:
            raise refused(f"it sets the state of a {qualified(cls)} that it did not make", qualified(cls))
        set_state(value, state)
        return value

    def fill(self, value: Any, state: Tuple[str, Any]) -> Any:
        """Complete a value that an adapter made earlier in this stream."""
        name, content = state
        filler = table.fillers.get(name)
        if filler is None:
            raise _unknown(name)
        made, maker = self._unfinished.pop(id(value), (None, ""))
        if made is not value or name not in table.unfinished[maker][0]:
            raise refused(f"it fills a {qualified(type(value))} that it did not make", qualified(type(value)))
        if self._loud:
            parts = content if type(content) is tuple else (content,)
            if name != "exception" and self._meets_loud(parts, name, table.holders):
                raise refused(f"it fills a {name} with an object whose class has code that could run then", name)
        filler(self, value, content)
        return value

    def finish(self) -> None:
        """Do what had to wait, and check that nothing was left unfinished, and that no operation got out.

        Raises:
            ObjectCorrupted: something is unfinished.
            UnsafeType: an operation is part of the value.
        """
        if self._waiting:
            for _, step in sorted(self._waiting, key=itemgetter(0)):
                step()
        for value, maker in self._unfinished.values():
            if table.unfinished[maker][1]:
                raise damaged(f"a {qualified(type(value))} in it was never filled")
        while self._operations:
            if _references(self._operations) > _UNSHARED:
                raise refused("it holds an operation as a value", "operation")

    def close(self) -> None:
        """Let go of the value that was not finished: the frames of the error still refer to this."""
        self._operations.clear()
        self._made.clear()
        self._unfinished.clear()
        self.notes.clear()
        self._waiting.clear()
        self._buffers = ()

    def allows(self, cls: type) -> bool:
        """Tell whether the caller allowed a class; remembered for this value."""
        known = self._allowed.get(cls)
        if known is None:
            known = self._allowed[cls] = self.policy.allows(cls)
        return known

    def find(self, module: str, qualname: str) -> Any:
        """Return an allowed class or exactly named function; remembered for this value."""
        found = self._found.get((module, qualname))
        if found is None:
            found = self._found[module, qualname] = self.policy.find(module, qualname)
        return found

    def find_passive(self, module: str, qualname: str) -> Any:
        """Return a class that is passive or allowed; remembered for this value."""
        found = self._passive.get((module, qualname))
        if found is None:
            found = self._passive[module, qualname] = self.policy.find_passive(module, qualname)
            if not self.policy.is_quiet(found):
                if not self._loud:
                    check_targets(self._stream())
                self._loud = self._loud | {found}
        return found

    def find_class(self, module: str, qualname: str) -> Any:
        """Return a class that the policy allows; never a function."""
        found = self.find(module, qualname)
        if not isinstance(found, type):
            raise refused(f"it uses {module}.{qualname} as a class", f"{module}.{qualname}")
        return found


def _references(operations: Dict[str, Any]) -> int:
    """Take one operation away, and return how often Python says that it is referred to.

    It has no name here: who debugs or traces this may look at variables, and would be counted.
    """
    return sys.getrefcount(operations.popitem()[1])


# What that is for one that nobody else has; versions of Python count differently.
_UNSHARED = _references({"": object().__str__})


def _unknown(name: Any) -> UnsafeType:
    return UnsafeType(
        f"The stored value asks for {name!r}, which this release does not know.",
        "Install the same release of vineyard-client where the value is written and where it is read.",
        str(name),
    )


class _Unpickler(pickle.Unpickler):
    reader: Reader

    def find_class(self, module: str, name: str) -> Any:
        """Return an operation; there is nothing else."""
        if module == ops.__name__ and name in _OPERATIONS:
            return self.reader.operation(name)
        raise refused(f"it names {module}.{name}, which a value of this package never does", f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse; ``verify`` has done so already."""
        raise refused("it holds a persistent id", "persistent id")


def load(stream: Stream, buffers: List[memoryview], policy: Policy) -> Any:
    """Read a value.

    Args:
        stream: the pickle stream; what is not a private copy is copied before it is checked.
        buffers: views of the out-of-band buffers, which the value will refer to.
        policy: which classes are allowed besides the known types.

    Raises:
        UnsafeType: the stream holds, or asks for, something that could run code.
        ObjectCorrupted: its parts do not fit together.
        UnsupportedVersion: it needs a library that is not installed here.
        MemoryError: there is not enough for the value.
    """
    file = verify(stream)
    reader = Reader(policy, len(stream), buffers, file.getvalue)
    unpickler: Any = None
    try:
        unpickler = _Unpickler(file, buffers=buffers)
        unpickler.reader = reader
        value = unpickler.load()
        unpickler = None  # it remembers operations
        reader.finish()
        return value
    except BaseException as exc:
        unpickler = None
        reader.close()
        if isinstance(exc, (VineyardError, MemoryError)) or from_outside(exc):
            raise
        raise ObjectCorrupted(
            f"The stored value cannot be put together: {type(exc).__name__}: {exc}.",
            "Make sure that the libraries it comes from have the versions here that they had where it was written; "
            "otherwise have the task that made it run again.",
        ) from exc
