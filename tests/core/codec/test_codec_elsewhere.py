"""Values with buffers in other blobs: what is written, that it is the same value, and what forgeries become."""

from __future__ import annotations

import random
import struct

import pytest
from codec_support import ENTRY, TOKEN, changed, sealed

from vineyard_client import _codec
from vineyard_client._codec import envelope
from vineyard_client.exceptions import ObjectCorrupted, ObjectNotFound, UnsupportedVersion, VineyardError

PARTS = [bytes([number]) * size for number, size in enumerate((100, 5000, 64, 3000, 1), 1)]
# Two of them lie in others: the second in the first blob, the fourth in the second one.
ELSEWHERE = {1: (1, 700), 3: (2, 0)}


def others() -> list[memoryview]:
    return [memoryview(bytearray(700) + PARTS[1] + bytearray(9)), memoryview(bytearray(PARTS[3]))]


def laid_out(elsewhere: dict = ELSEWHERE) -> bytearray:
    buffers = [memoryview(part if number % 2 else bytearray(part)) for number, part in enumerate(PARTS)]
    chunks, nbytes = envelope.assemble([b"str", b"eam"], buffers, TOKEN, elsewhere)
    joined = bytearray(b"".join(chunks))
    assert len(joined) == nbytes
    return joined


def test_nothing_elsewhere_is_written_as_ever():
    assert laid_out({}) == laid_out({})
    assert struct.unpack_from("<H", laid_out({}), 8) == (1,)
    assert struct.unpack_from("<H", laid_out(), 8) == (2,)


def test_the_buffers_are_found_where_they_are():
    stored = laid_out()
    layout = envelope.parse(memoryview(stored), TOKEN, others())
    assert layout.stream == b"stream"
    assert [bytes(buffer) for buffer in layout.buffers] == PARTS
    assert [buffer.readonly for buffer in layout.buffers] == [False, True, False, True, False]
    assert len(stored) < 1000


def test_flattened_it_is_what_would_have_been_written():
    assert b"".join(envelope.flatten(memoryview(laid_out()), others())) == laid_out({})
    whole = memoryview(laid_out({}))
    assert envelope.flatten(whole, []) == [whole]


def test_a_value_is_the_same():
    first, second, third = (
        memoryview(bytearray(letter * size)) for letter, size in ((b"a", 5000), (b"b", 7000), (b"c", 2000))
    )
    value = {"a": first, "b": [second, third]}
    encoded = _codec.encode(value, token=TOKEN)
    assert [len(buffer) for buffer in encoded.buffers] == [5000, 7000, 2000]
    other = memoryview(bytearray(64) + bytearray(b"b" * 7000))
    chunks, own = encoded.without({1: (1, 64)})
    blob = memoryview(bytearray(b"".join(chunks)))
    assert own == len(blob) < encoded.nbytes
    assert _codec.decode(blob, other, token=TOKEN) == value
    assert b"".join(_codec.flatten(blob, other)) == b"".join(encoded.chunks)
    encoded.release()


def entry(stored: bytearray, number: int, **fields: int) -> bytearray:
    """Change an entry of the index and make the checksum right again."""
    names = ["offset", "length", "flags", "member"]
    values = dict(zip(names, ENTRY.unpack_from(stored, 72 + 24 * number)))
    values.update(fields)
    ENTRY.pack_into(stored, 72 + 24 * number, *values.values())
    return sealed(stored)


FORGERIES = {
    "a member that there is not": (1, {"member": 3}),
    "a member beyond all": (1, {"member": 2**32 - 1}),
    "the other blob": (1, {"member": 2}),
    "no member": (1, {"member": 0}),
    "beyond its end": (1, {"offset": 710}),
    "far beyond its end": (1, {"offset": 2**63}),
    "an end that wraps around": (1, {"offset": 2**64 - 100}),
    "longer than it": (1, {"length": 2**63}),
    "an unknown flag": (1, {"flags": 2}),
    "an own buffer elsewhere": (0, {"member": 1, "offset": 0}),
    "one on top of another": (2, {"member": 1, "offset": 701}),
    "one that ends in another": (2, {"member": 1, "offset": 640, "length": 61}),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in FORGERIES.items()])
def test_a_forged_index_is_damage(case):
    number, fields = case
    with pytest.raises(ObjectCorrupted):
        envelope.parse(memoryview(entry(laid_out(), number, **fields)), TOKEN, others())


def test_side_by_side_is_no_overlap():
    first, second = memoryview(bytearray(b"a" * 4000)), memoryview(bytearray(b"b" * 3000))
    both = memoryview(bytearray(bytes(first) + bytes(second)))
    chunks, _ = envelope.assemble([b"s"], [second, first], TOKEN, {0: (1, 4000), 1: (1, 0)})
    layout = envelope.parse(memoryview(bytearray(b"".join(chunks))), TOKEN, [both])
    assert layout.buffers == [second, first]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_other_blobs_than_it_was_written_with(count):
    with pytest.raises(ObjectCorrupted):
        envelope.parse(memoryview(laid_out()), TOKEN, [*others(), memoryview(bytearray(9000))][:count])


def test_layouts_that_contradict_what_is_there():
    with pytest.raises(ObjectCorrupted):  # the first version has no members
        envelope.parse(memoryview(changed(laid_out(), layout=1)), TOKEN, others())
    with pytest.raises(ObjectCorrupted):  # the second one has some
        envelope.parse(memoryview(changed(laid_out({}), layout=2)), TOKEN)
    with pytest.raises(ObjectCorrupted):  # others that nothing refers to
        envelope.parse(memoryview(laid_out({})), TOKEN, others())
    with pytest.raises(UnsupportedVersion):
        envelope.parse(memoryview(changed(laid_out(), layout=3)), TOKEN, others())
    with pytest.raises(ObjectNotFound):
        envelope.parse(memoryview(laid_out()), bytes(16), others())


def test_any_damage_is_an_error_of_ours():
    """Bytes of header and index are changed at random, the checksum made right: it is read as it is, or refused."""
    chance = random.Random(20261125)
    original = laid_out()
    for _ in range(3000):
        stored = bytearray(original)
        for _ in range(chance.randint(1, 3)):
            stored[chance.randrange(72 + 24 * len(PARTS))] = chance.choice([0, 1, 2, 3, 64, 127, 255])
        try:
            sealed(stored)
            layout = envelope.parse(memoryview(stored), TOKEN, others())
        except (VineyardError, struct.error, OverflowError) as error:
            assert isinstance(error, VineyardError) or len(stored) != len(original), error
            continue
        assert len(layout.buffers) == len(PARTS)
        assert all(len(buffer) <= 6000 for buffer in layout.buffers)
