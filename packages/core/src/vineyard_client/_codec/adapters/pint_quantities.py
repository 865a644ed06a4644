"""pint (0.17 - 0.26): quantities and units, which arrive in the application's registry, as they do from a pickle.

A quantity is its magnitude and the powers of its units. Text is never parsed: a magnitude that is text is refused, a
unit is a name that the registry looks up.
"""

from __future__ import annotations

import importlib
import numbers
from typing import TYPE_CHECKING, Any, Dict, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from ..parts import checked, damaged
from ..policy import qualified

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

pint: Any = None  # set by install(): this module is loaded for values of pint only


def _powers(units: Any) -> Dict[str, Any]:
    return dict(units._units)


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    if hasattr(value, "_REGISTRY") and hasattr(value, "_units") and not hasattr(value, "error"):
        if hasattr(value, "magnitude"):
            return MAKE, ("pint.quantity", value.magnitude, _powers(value))
        return MAKE, ("pint.unit", _powers(value))
    raise UnsafeType(
        f"A {qualified(type(value))} cannot be stored: this release does not know that class of pint.",
        "Store a quantity, or its magnitude and the name of its unit.",
        qualified(type(value)),
    )


def _container(powers: Any) -> Any:
    for name, power in checked(powers, dict).items():
        if type(name) is not str or not name.isidentifier() or not isinstance(power, numbers.Number):
            raise damaged("a unit has a strange name or power")
    return importlib.import_module("pint.util").UnitsContainer(powers)


def _registry() -> Any:
    found = pint.get_application_registry()
    return found.get() if hasattr(found, "get") and not hasattr(found, "Quantity") else found


def _make_quantity(reader: Reader, magnitude: Any, powers: Any) -> Any:
    if not (isinstance(magnitude, numbers.Number) or (hasattr(magnitude, "dtype") and hasattr(magnitude, "shape"))):
        raise damaged(f"a {type(magnitude).__name__} is the magnitude of a quantity")
    return _registry().Quantity(magnitude, _container(powers))


def _make_unit(reader: Reader, powers: Any) -> Any:
    return _registry().Unit(_container(powers))


def install(table: Table) -> None:
    """Declare quantities and units."""
    global pint
    pint = importlib.import_module("pint")
    table.families["pint"] = _reduce
    table.makers.update({"pint.quantity": _make_quantity, "pint.unit": _make_unit})
