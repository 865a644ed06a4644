"""numpy.random: bit generators with their state and the seeds that they spawn others from, and what stands on them.

The C code of a bit generator takes its state as it is given, positions in its buffers included; so the layout of each
state is declared here, with a range for each number, and whatever has another is refused, in either direction.
Generators that share a bit generator share it again, as with pickle.

What a seed sequence has made of its entropy is computed again, which always gives the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from ..policy import qualified
from .common import checked, damaged

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

np: Any = None  # set by install(): this module is loaded for values of numpy only

# The layout of the states, of numpy 1.17 - 2.5 (PCG64DXSM from 1.21): of a whole number the one after the largest, of
# words the type and how many there are.
_SPARE: Dict[str, Any] = {"has_uint32": 2, "uinteger": 1 << 32}
_PCG: Dict[str, Any] = {"state": {"state": 1 << 128, "inc": 1 << 128}, **_SPARE}
_LAYOUTS: Dict[str, Dict[str, Any]] = {
    "MT19937": {"state": {"key": ("uint32", 624), "pos": 625}},
    "PCG64": _PCG,
    "PCG64DXSM": _PCG,
    "Philox": {
        "state": {"counter": ("uint64", 4), "key": ("uint64", 2)},
        **{"buffer": ("uint64", 4), "buffer_pos": 5},
        **_SPARE,
    },
    "SFC64": {"state": {"state": ("uint64", 4)}, **_SPARE},
}
# A seed sequence asks for as much memory as this says; its default is 4.
_LARGEST_POOL = 1 << 16


def reduce(writer: Writer, value: Any) -> Tuple[Any, ...] | None:
    """Take a value of numpy.random apart; None if it is of no type that is known here."""
    cls = type(value)
    random = np.random
    if cls is random.Generator:
        return MAKE, ("numpy.random.Generator", value.bit_generator)
    if cls is random.RandomState:
        state = value.get_state(legacy=False)
        return MAKE, ("numpy.random.RandomState", value._bit_generator, state["has_gauss"], state["gauss"])
    if cls is random.SeedSequence:
        if value.pool_size > _LARGEST_POOL:
            raise UnsafeType(
                f"A seed sequence with {value.pool_size} words cannot be stored; {_LARGEST_POOL} are the most.",
                "Make it with a smaller pool_size.",
                qualified(cls),
            )
        spawned = value.n_children_spawned
        return MAKE, ("numpy.random.SeedSequence", value.entropy, tuple(value.spawn_key), value.pool_size, spawned)
    if cls.__name__ in _LAYOUTS and getattr(random, cls.__name__, None) is cls:
        state = dict(value.state)
        name = state.pop("bit_generator")
        seeds = value.seed_seq if hasattr(value, "seed_seq") else value._seed_seq  # before 1.24
        return MAKE, ("numpy.random.BitGenerator", name, state, seeds)
    if isinstance(value, random.bit_generator.BitGenerator):
        raise UnsafeType(
            f"A random generator on {qualified(cls)} cannot be stored.",
            "Use one of numpy's own, such as numpy.random.PCG64.",
            qualified(cls),
        )
    return None


def _check(state: Any, layout: Dict[str, Any]) -> None:
    if type(state) is not dict or state.keys() != layout.keys():
        raise damaged("the state of a random generator has other parts than its kind has")
    for name, kind in layout.items():
        part = state[name]
        if type(kind) is dict:
            _check(part, kind)
        elif type(kind) is int:
            if not 0 <= checked(part, int) < kind:
                raise damaged(f"{name}={part} is in no state of a random generator")
        elif type(part) is not np.ndarray or (part.dtype.name, part.shape) != (kind[0], (kind[1],)):
            raise damaged(f"the {name} of a random generator has another number of words")


def _make_bit_generator(reader: Reader, name: Any, state: Any, seeds: Any) -> Any:
    layout = _LAYOUTS.get(name)
    if layout is None:
        raise damaged(f"{name!r} is no bit generator")
    _check(state, layout)
    if seeds is not None and not isinstance(seeds, np.random.bit_generator.ISeedSequence):
        raise damaged(f"a {qualified(type(seeds))} has no seeds for a random generator")
    generator = getattr(np.random, name)(0 if seeds is None else seeds)
    state = {"bit_generator": name, **state}
    if type(generator.__reduce__()[2]) is tuple:  # 1.24
        generator.__setstate__((state, seeds))
    else:
        if seeds is None and hasattr(generator, "_legacy_seeding"):
            generator._legacy_seeding(0)
        generator.state = state
    return generator


def _checked_generator(part: Any) -> Any:
    if not isinstance(part, np.random.bit_generator.BitGenerator):
        raise damaged(f"a {qualified(type(part))} is no bit generator")
    return part


def _make_generator(reader: Reader, bit_generator: Any) -> Any:
    return np.random.Generator(_checked_generator(bit_generator))


def _make_random_state(reader: Reader, bit_generator: Any, has_gauss: Any, gauss: Any) -> Any:
    # Made on one that was made for this, since numpy seeds what it is given anew.
    state = _checked_generator(bit_generator).state
    value = np.random.RandomState(bit_generator)
    bit_generator.state = state
    if has_gauss:
        value.set_state({**state, "has_gauss": checked(has_gauss, int), "gauss": checked(gauss, float)})
    return value


def _make_seeds(reader: Reader, entropy: Any, spawn_key: Any, pool_size: Any, spawned: Any) -> Any:
    if not 0 <= checked(pool_size, int) <= _LARGEST_POOL or checked(spawned, int) < 0 or entropy is None:
        raise damaged("a seed sequence has no entropy, or a size that no such thing has")
    checked(spawn_key, tuple)
    return np.random.SeedSequence(entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=spawned)


def install(table: Table, numpy: Any) -> None:
    """Take numpy, and declare its random generators; numpy loads them when they are first needed, and so do we."""
    global np
    np = numpy
    table.makers.update(
        {
            "numpy.random.BitGenerator": _make_bit_generator,
            "numpy.random.Generator": _make_generator,
            "numpy.random.RandomState": _make_random_state,
            "numpy.random.SeedSequence": _make_seeds,
        }
    )
