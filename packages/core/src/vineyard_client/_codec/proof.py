"""The mode in which each value is read again as soon as it was written, and must be what it was: no part may get lost.

It is on while the environment has ``VINEYARD_PROOF=1`` (our tests do), or between calls of ``demand``, and costs as
much again as the value. What is accepted and could not be read, or would come back as something else, is then an
``AssertionError`` in ``put``: a fault of this package, never the caller's.

Strategy: two values are the same if their types are, and what each type's own ``__reduce_ex__`` takes them apart into
is the same, at any depth; so what an adapter forgot is seen without knowing the adapter. Besides that only what pickle
itself forgets is looked at: the fields that exceptions keep in C, attributes of containers. Buffers are compared by
bytes, floats by their bits, sets by pairing their members. Libraries whose own reduction says how the memory lies, not
what is in it, are compared by their own means; types that other packages declared, by what those make of them.

Invariants: each pair of objects is looked at once, so cycles end; what is compared stays alive until the end, so that
identities hold; no recursion but for members of sets that have no equal, so depth does not matter.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import sys
import types
from typing import Any, Callable, Dict, List, Set, Tuple

from .outside import from_outside
from .policy import qualified
from .table import table

__all__ = ["demand", "demanded", "difference"]

_demanded = os.environ.get("VINEYARD_PROOF", "") not in ("", "0")

# One pair to be compared: of what was written and of what was read, and where they are.
Pair = Tuple[Any, Any, str]

_ATOMS = (int, str, bytes, bool, type(None))
_IDENTICAL = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    type(...),
    type(NotImplemented),
)
_FIELDS = (types.MemberDescriptorType, types.GetSetDescriptorType)
# Where an exception was raised goes with the process that raised it.
_LEFT_OUT = frozenset(["__traceback__", "__dict__", "__weakref__"])


def demand(on: bool) -> bool:
    """Turn the mode on or off for this process, and return how it was."""
    global _demanded
    before, _demanded = _demanded, on
    return before


def demanded() -> bool:
    """Tell whether each value is to be read again when it was written."""
    return _demanded


def difference(written: Any, read: Any) -> str:
    """Return where and how two values differ; an empty text if they do not.

    Args:
        written: the value.
        read: what it came back as.
    """
    return _Comparison().run((written, read, "value"))


class _Differ(Exception):
    """The two are not the same."""


class _Comparison:
    """A walk through two values at once."""

    def __init__(self) -> None:
        self.seen: Dict[Tuple[int, int], Tuple[Any, Any]] = {}
        self.waiting: List[Pair] = []

    def run(self, pair: Pair) -> str:
        """Compare two objects and all that is in them."""
        self.waiting.append(pair)
        try:
            while self.waiting:
                left, right, place = self.waiting.pop()
                if left is not right and (id(left), id(right)) not in self.seen:
                    self.seen[id(left), id(right)] = left, right
                    self.compare(left, right, place)
        except _Differ as exc:
            return str(exc)
        return ""

    def compare(self, left: Any, right: Any, place: str) -> None:
        """Compare two objects, and note their parts for later."""
        kind = type(left)
        if kind is not type(right):
            if kind.__name__ == "memmap" and type(right) is kind.__mro__[1]:
                kind = type(right)  # the file is the writer's
                left = left.view(kind)
            elif issubclass(kind, tuple) and getattr(left, "_fields", ()) == getattr(type(right), "_fields", None):
                kind, left, right = tuple, tuple(left), tuple(right)  # of a class that was made at run time
            elif not (type(right).__base__ is kind and kind.__name__ == "DataType"):  # pyarrow 6 has two for times
                raise _Differ(f"{place} is a {kind!r} and came back as a {type(right)!r}")
        if kind in _ATOMS:
            _agree(left == right, left, right, place)
        elif kind is float:
            _agree(struct.pack("d", left) == struct.pack("d", right), left, right, place)
        elif kind in (list, tuple):
            self.sequence(left, right, place)
        elif kind is dict:
            self.pairs(left.items(), right.items(), place)
        elif kind in (set, frozenset):
            self.members(left, right, place)
        elif isinstance(left, _IDENTICAL):
            if left == right:  # a method of C, which is a new object at every look
                return
            raise _Differ(f"{place} is {left!r} and came back as another one")
        elif kind in (memoryview, bytearray, pickle.PickleBuffer):
            self.memory(left, right, place)
        elif kind is types.MappingProxyType:
            self.pairs(left.items(), right.items(), place)
        elif table.by_name and qualified(kind) in table.by_name:
            _, take = table.by_name[qualified(kind)]
            self.waiting.append((take(left), take(right), place))
        else:
            self.waiting += _own_parts(left, right, place)
            compare = _BY_PACKAGE.get(kind.__module__.partition(".")[0])
            if compare is None or not compare(self, left, right, place):
                self.reductions(left, right, place)

    def sequence(self, left: Any, right: Any, place: str) -> None:
        """Compare item by item."""
        _agree(len(left) == len(right), len(left), len(right), f"len({place})")
        self.waiting += [(one, other, f"{place}[{n}]") for n, (one, other) in enumerate(zip(left, right))]

    def pairs(self, left: Any, right: Any, place: str) -> None:
        """Compare items of dicts, whose order counts."""
        _agree(len(left) == len(right), len(left), len(right), f"len({place})")
        for (key, one), (other_key, other) in zip(left, right):
            label = repr(key) if type(key) in _ATOMS else f"<{type(key).__name__}>"
            self.waiting += [(key, other_key, f"{place} (key {label})"), (one, other, f"{place}[{label}]")]

    def members(self, left: Any, right: Any, place: str) -> None:
        """Compare sets: each member with the one that it equals, and those that equal nothing with any that is left."""
        _agree(len(left) == len(right), len(left), len(right), f"len({place})")
        rest = {member: member for member in right}
        alone = []
        for member in left:
            if member in rest:
                self.waiting.append((member, rest.pop(member), f"{place} (a member)"))
            else:
                alone.append(member)
        others = list(rest)
        for member in alone:
            found = [other for other in others if not _Comparison().run((member, other, place))]
            if not found:
                raise _Differ(f"{place} has lost a member: {member!r}")
            others = [other for other in others if other is not found[0]]

    def memory(self, left: Any, right: Any, place: str) -> None:
        """Compare two buffers."""
        one, other = (
            view.raw() if isinstance(view, pickle.PickleBuffer) else memoryview(view) for view in (left, right)
        )
        _agree(
            (one.format, one.shape, one.readonly) == (other.format, other.shape, other.readonly),
            (one.format, one.shape, one.readonly),
            (other.format, other.shape, other.readonly),
            place,
        )
        _agree(one.tobytes() == other.tobytes(), "one memory", "another", place)

    def reductions(self, left: Any, right: Any, place: str) -> None:
        """Compare what two objects of one type are taken apart into by pickle."""
        try:
            one, other = _reduce(left), _reduce(right)
        except Exception as exc:
            if from_outside(exc):
                raise
            # Pickle cannot take it apart, the codec can: then it must say itself whether it is the same.
            _agree(left == right, left, right, place)
            return
        if isinstance(one, str) or isinstance(other, str):
            _agree(one == other, one, other, place)
            return
        one, other = ((*parts, None, None, None, None)[:6] for parts in (one, other))
        if type(left).__module__ == "_io":  # who asks a file for its attributes makes them
            one, other = ((*parts[:2], (*parts[2][:2], parts[2][2] or None), *parts[3:]) for parts in (one, other))
        if type(left).__module__.partition(".")[0] in _CACHES:
            one, other = ((*parts[:2], _without_caches(parts[2]), *parts[3:]) for parts in (one, other))
        for position, name in enumerate(("function", "arguments", "state", "items", "pairs", "setter")):
            mine, theirs = one[position], other[position]
            if name in ("items", "pairs"):
                mine, theirs = list(mine or ()), list(theirs or ())
            if name == "state":
                self.state(mine, theirs, place)
            else:
                self.waiting.append((mine, theirs, f"{place} ({name} of its reduction)"))

    def state(self, left: Any, right: Any, place: str) -> None:
        """Compare states; of attributes, or attributes and slots, the order does not count; none are as good as {}."""
        left, right = (None if type(state) is dict and not state else state for state in (left, right))
        if type(left) is tuple and type(right) is tuple and len(left) == len(right) == 2:
            for one, other in zip(left, right):
                self.state(one, other, place)
        elif type(left) is dict and type(right) is dict and left.keys() == right.keys():
            self.waiting += [(item, right[name], f"{place}.{name}") for name, item in left.items()]
        else:
            self.waiting.append((left, right, f"{place} (its state)"))


def _reduce(value: Any) -> Any:
    registered: Any = copyreg.dispatch_table.get(type(value))
    return registered(value) if registered is not None else value.__reduce_ex__(5)


def _without_caches(state: Any) -> Any:
    """Leave out what depends on what was asked for before, or on who else shows the memory."""
    if type(state) is dict:
        return {name: item for name, item in state.items() if name not in _CACHED and not _is_unset(name, item)} or None
    if type(state) is tuple:
        parts = [_without_caches(part) for part in state]
        while parts and parts[-1] is None:
            del parts[-1]
        return tuple(parts)
    return state


def _is_unset(name: str, item: Any) -> bool:
    return name == "_attrs" and item in ({}, None)  # who asks an object of xarray for its attributes makes them


def _agree(same: bool, left: Any, right: Any, place: str) -> None:
    if not same:
        one, other = (text if len(text) < 80 else text[:79] + "…" for text in map(repr, (left, right)))
        raise _Differ(f"{place} is {one} and came back as {other}")


def _own_parts(left: Any, right: Any, place: str) -> List[Pair]:
    """Return what pickle does not take along: attributes of Python's own containers, C fields of exceptions."""
    kind = type(left)
    found: List[Pair] = []
    if kind.__module__ in ("builtins", "collections", "functools") and hasattr(left, "__dict__"):
        found.append((vars(left), vars(right), f"vars({place})"))
    if isinstance(left, BaseException):
        names: Set[str] = set()
        for cls in kind.__mro__:
            if cls.__module__ == "builtins":
                names.update(name for name, field in vars(cls).items() if isinstance(field, _FIELDS))
        for name in sorted(names - _LEFT_OUT):
            parts = [getattr(each, name, _LEFT_OUT) for each in (left, right)]
            if name == "obj" and parts[1] is None:
                continue  # what an attribute was missing on, if it could be written
            found.append((*parts, f"{place}.{name}"))  # type: ignore[arg-type]
    return found


# --- libraries whose own reduction says how the memory lies ---------------------------------------------------------


def _same_numpy(walk: _Comparison, left: Any, right: Any, place: str) -> bool:
    np = sys.modules["numpy"]
    if type(left) is not np.ndarray:
        return False
    walk.waiting.append((left.dtype, right.dtype, f"{place}.dtype"))
    for name in ("shape", "c_contiguous", "f_contiguous", "writeable"):
        one, other = (each.shape if name == "shape" else getattr(each.flags, name) for each in (left, right))
        # What did not lie in one piece may do so now.
        _agree(one == other or (name.endswith("contiguous") and other), one, other, f"{place}.{name}")
    if left.dtype.names is not None and left.dtype.hasobject:
        walk.waiting += [(left[name], right[name], f"{place}[{name!r}]") for name in left.dtype.names]
    elif left.dtype.hasobject or left.dtype.kind == "T":
        walk.waiting.append((left.ravel().tolist(), right.ravel().tolist(), place))
    else:
        _agree(left.tobytes() == right.tobytes(), left, right, place)
    return True


def _same_pyarrow(walk: _Comparison, left: Any, right: Any, place: str) -> bool:
    pa = sys.modules["pyarrow"]
    if isinstance(left, (pa.Schema, pa.Field)):
        _agree(left.equals(right, check_metadata=True), left, right, place)
    elif isinstance(left, (pa.Table, pa.RecordBatch)):
        walk.waiting.append((left.schema, right.schema, f"{place}.schema"))
        _agree(left.num_rows == right.num_rows, left.num_rows, right.num_rows, f"{place}.num_rows")
        walk.sequence(left.columns, right.columns, place)
    elif isinstance(left, pa.ChunkedArray):
        walk.waiting.append((left.type, right.type, f"{place}.type"))
        walk.sequence(left.chunks, right.chunks, place)
    elif isinstance(left, (pa.Array, pa.Scalar)):
        walk.waiting.append((left.type, right.type, f"{place}.type"))
        if not left.equals(right):  # it is not, where there is a NaN
            values = [each.to_pylist() if isinstance(each, pa.Array) else each.as_py() for each in (left, right)]
            walk.waiting.append((*values, place))
    elif isinstance(left, pa.Buffer):
        walk.memory(left, right, place)
    elif isinstance(left, pa.Tensor):
        walk.waiting.append((left.to_numpy(), right.to_numpy(), place))
        walk.waiting.append((list(left.dim_names or ()), list(right.dim_names or ()), f"{place}.dim_names"))
    else:
        _agree(left == right and str(left) == str(right), left, right, place)
    return True


def _same_polars(walk: _Comparison, left: Any, right: Any, place: str) -> bool:
    pl = sys.modules["polars"]
    if isinstance(left, pl.LazyFrame):
        _agree(left.explain(optimized=False) == right.explain(optimized=False), left, right, place)
    elif isinstance(left, pl.DataFrame):
        walk.sequence(left.get_columns(), right.get_columns(), place)
    elif isinstance(left, pl.Series):
        for name in ("name", "dtype", "flags"):
            one, other = getattr(left, name), getattr(right, name)
            _agree(one == other, one, other, f"{place}.{name}")
        if left.dtype == pl.Object:
            walk.sequence(left.to_list(), right.to_list(), place)
        else:
            _agree(left.equals(right, null_equal=True), left, right, place)
    else:
        _agree(left == right, left, right, place)
    return True


def _same_scipy(walk: _Comparison, left: Any, right: Any, place: str) -> bool:
    if hasattr(left, "leafsize"):  # a neighbour tree, whose nodes hold addresses
        names: Tuple[str, ...] = ("data", "leafsize", "boxsize")
    elif hasattr(left, "_updated_ctor_param"):  # a distribution, which makes functions of itself
        names = ("_updated_ctor_param", "random_state")
    else:
        return False
    for name in names:
        one, other = getattr(left, name, None), getattr(right, name, None)  # scipy 1.5's KDTree has no box
        if callable(one) and callable(other):
            one, other = one(), other()
        walk.waiting.append((one, other, f"{place}.{name}"))
    return True


def _same_torch(walk: _Comparison, left: Any, right: Any, place: str) -> bool:
    torch = sys.modules["torch"]
    if not isinstance(left, torch.Tensor):
        return False
    for name in ("dtype", "shape", "requires_grad"):
        one, other = getattr(left, name), getattr(right, name)
        _agree(one == other, one, other, f"{place}.{name}")
    one, other = (each.detach().resolve_conj().resolve_neg().contiguous() for each in (left, right))
    same = torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)) if one.numel() else True
    _agree(same, left, right, place)
    walk.waiting.append((vars(left), vars(right), f"vars({place})"))
    if left.is_leaf:
        walk.waiting.append((left.grad, right.grad, f"{place}.grad"))
    return True


_CACHES = frozenset(["pandas", "statsmodels", "xarray"])
_CACHED = frozenset(["_cache", "_readonly", "_close", "_file_obj", "_accessors"])
_CACHED |= {"_statespaces", "_kalman_filters", "_kalman_smoothers", "_simulators", "_kalman_filter", "_kalman_smoother"}
_BY_PACKAGE: Dict[str, Callable[[_Comparison, Any, Any, str], bool]] = {
    "numpy": _same_numpy,
    "pyarrow": _same_pyarrow,
    "polars": _same_polars,
    "scipy": _same_scipy,
    "torch": _same_torch,
}
