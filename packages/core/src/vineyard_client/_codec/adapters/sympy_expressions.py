"""sympy (1.6 - 1.14): expressions and matrices, node by node, without evaluating anything.

sympy reads text as Python code wherever an argument is text (``sympify``), and may compute for ever when it simplifies.
So a node is made by its class from nodes that were made here before, never from text, and with evaluation switched off:
what was written unevaluated stays so. Names and numbers are made from checked parts; the constants are looked up. An
undefined function (``Function("f")``) is applied at once, so that its class, which would read text, never gets out.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from ..parts import checked, damaged, refused
from ..policy import qualified

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

sympy: Any = None  # set by install(): this module is loaded for values of sympy only

# Where the classes of nodes are.
_PARTS = ("core", "functions", "logic", "sets", "concrete", "integrals", "matrices", "series", "calculus", "tensor")
_MATRICES = ("MutableDenseMatrix", "ImmutableDenseMatrix", "MutableSparseMatrix", "ImmutableSparseMatrix")
_SYMBOLS = ("Symbol", "Dummy", "Wild")


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    cls = type(value)
    name = cls.__name__
    if isinstance(value, sympy.MatrixBase):
        if name not in _MATRICES:
            raise _unknown(cls)
        return MAKE, ("sympy.matrix", name, value.rows, value.cols, list(value))
    if not isinstance(value, sympy.Basic):
        raise _unknown(cls)
    if name in _SYMBOLS and cls is getattr(sympy, name):
        extra = (value.dummy_index,) if name == "Dummy" else ()
        if name == "Wild" and (value.exclude or value.properties):
            raise _unknown(cls)
        return MAKE, ("sympy.symbol", name, value.name, dict(value._assumptions_orig), *extra)
    if isinstance(value, sympy.Integer):
        return MAKE, ("sympy.integer", int(value))
    if isinstance(value, sympy.Rational):
        return MAKE, ("sympy.rational", int(value.p), int(value.q))
    if cls is sympy.Float:
        return MAKE, ("sympy.float", tuple(map(int, value._mpf_)), int(value._prec))
    constant = _CONSTANTS.get(name, name)
    if vars(type(sympy.S)).get(constant) is value or getattr(sympy.S, constant, None) is value:
        return MAKE, ("sympy.constant", constant)
    if name == "Str" and not value.args:
        return MAKE, ("sympy.str", value.name)
    if isinstance(value, sympy.core.function.AppliedUndef):
        return MAKE, ("sympy.applied", name, dict(cls._kwargs), value.args)
    if not value.args or not _covers(cls.__module__) or not all(isinstance(arg, sympy.Basic) for arg in value.args):
        raise _unknown(cls)
    return MAKE, ("sympy.node", cls.__module__, cls.__qualname__, value.args)


_CONSTANTS = {"BooleanTrue": "true", "BooleanFalse": "false"}


def _unknown(cls: type) -> UnsafeType:
    return UnsafeType(
        f"A {qualified(cls)} cannot be stored: this release does not know how that class of sympy is made.",
        "Store the expression behind it, or sympy.srepr() of it.",
        qualified(cls),
    )


def _covers(module: str) -> bool:
    words = module.split(".")
    return len(words) > 2 and words[0] == "sympy" and words[1] in _PARTS and "tests" not in words


def _nodes(parts: Any, *kinds: type) -> Any:
    for part in checked(parts, *kinds):
        if not isinstance(part, sympy.Basic):
            raise damaged(f"a {type(part).__name__} stands in an expression")
    return parts


def _assumptions(parts: Any) -> Any:
    for name, known in checked(parts, dict).items():
        if type(name) is not str or not (known is None or type(known) is bool):
            raise damaged("a symbol has strange assumptions")
    return parts


def _make_symbol(reader: Reader, kind: Any, name: Any, assumptions: Any, *extra: Any) -> Any:
    if kind not in _SYMBOLS:
        raise damaged(f"{kind!r} is no kind of symbol")
    options = {"dummy_index": checked(extra[0], int)} if extra and kind == "Dummy" else {}
    return getattr(sympy, kind)(checked(name, str), **options, **_assumptions(assumptions))


def _make_integer(reader: Reader, number: Any) -> Any:
    return sympy.Integer(checked(number, int))


def _make_rational(reader: Reader, numerator: Any, denominator: Any) -> Any:
    return sympy.Rational(checked(numerator, int), checked(denominator, int))


def _make_float(reader: Reader, parts: Any, precision: Any) -> Any:
    sign, mantissa, exponent, bits = (checked(part, int) for part in checked(parts, tuple))
    if sign not in (0, 1) or mantissa < 0 or bits < 0 or not 0 < checked(precision, int) < 1 << 24:
        raise damaged("a number of sympy is none")
    return sympy.Float._new((sign, mantissa, exponent, bits), precision)


def _make_constant(reader: Reader, name: Any) -> Any:
    found = getattr(sympy.S, name, None) if checked(name, str).isidentifier() and name[:1] != "_" else None
    if not isinstance(found, sympy.Basic):
        raise damaged(f"sympy has no constant {name!r}")
    return found


def _make_str(reader: Reader, text: Any) -> Any:
    return importlib.import_module("sympy.core.symbol").Str(checked(text, str))


def _make_applied(reader: Reader, name: Any, assumptions: Any, arguments: Any) -> Any:
    function = sympy.Function(checked(name, str), **_assumptions(assumptions))
    with sympy.evaluate(False):
        return function(*_nodes(arguments, tuple))


def _make_node(reader: Reader, module: Any, qualname: Any, arguments: Any) -> Any:
    if not _covers(checked(module, str)) or not checked(qualname, str).isidentifier():
        raise refused(f"{module}.{qualname} is no node of an expression", f"{module}.{qualname}")
    cls = getattr(importlib.import_module(module), qualname, None)
    if not isinstance(cls, type) or not issubclass(cls, sympy.Basic) or qualified(cls) != f"{module}.{qualname}":
        raise refused(f"{module}.{qualname} is no node of an expression", f"{module}.{qualname}")
    # Those with limits are never computed when they are made, and need evaluation for what is in them.
    with sympy.evaluate(module.split(".")[1] in ("concrete", "integrals", "series")):
        return cls(*_nodes(arguments, tuple))


def _make_matrix(reader: Reader, name: Any, rows: Any, columns: Any, content: Any) -> Any:
    if name not in _MATRICES or checked(rows, int) * checked(columns, int) != len(_nodes(content, list)):
        raise damaged("a matrix has another number of elements")
    home = importlib.import_module("sympy.matrices")
    return getattr(home, name)(rows, columns, content)


def install(table: Table) -> None:
    """Declare expressions and matrices."""
    global sympy
    sympy = importlib.import_module("sympy")
    table.families["sympy"] = _reduce
    table.bases[sympy.Basic] = table.bases[sympy.MatrixBase] = _reduce
    table.makers.update(
        {
            "sympy.symbol": _make_symbol,
            "sympy.integer": _make_integer,
            "sympy.rational": _make_rational,
            "sympy.float": _make_float,
            "sympy.constant": _make_constant,
            "sympy.str": _make_str,
            "sympy.applied": _make_applied,
            "sympy.node": _make_node,
            "sympy.matrix": _make_matrix,
        }
    )
