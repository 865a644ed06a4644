"""The language of stored streams: every opcode that is not in it is refused, wherever it stands."""

from __future__ import annotations

import copyreg
import pickle
import pickletools

import pytest
from codec_support import Assembler, blob_of, decode, pickled

from vineyard_client._codec.verify import verify
from vineyard_client.exceptions import ObjectCorrupted, UnsafeType, VineyardError

ALLOWED = {
    *(
        [
            "MARK",
            "STOP",
            "POP",
            "POP_MARK",
            "NONE",
            "NEWTRUE",
            "NEWFALSE",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "LONG4",
            "BINFLOAT",
        ]
    ),
    *(
        [
            "SHORT_BINBYTES",
            "BINBYTES",
            "BINBYTES8",
            "BYTEARRAY8",
            "NEXT_BUFFER",
            "READONLY_BUFFER",
            "SHORT_BINUNICODE",
            "BINUNICODE",
        ]
    ),
    *(
        [
            "BINUNICODE8",
            "EMPTY_LIST",
            "APPEND",
            "APPENDS",
            "EMPTY_TUPLE",
            "TUPLE",
            "TUPLE1",
            "TUPLE2",
            "TUPLE3",
            "EMPTY_DICT",
            "SETITEM",
        ]
    ),
    *(
        [
            "SETITEMS",
            "EMPTY_SET",
            "ADDITEMS",
            "FROZENSET",
            "STACK_GLOBAL",
            "MEMOIZE",
            "BINGET",
            "LONG_BINGET",
            "REDUCE",
            "FRAME",
        ]
    ),
}
PADDING = [b"", b"N0" * 20, b"N0" * 5000]


@pytest.mark.parametrize("padding", PADDING, ids=["alone", "in a short stream", "in a long stream"])
@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_every_opcode_is_allowed_or_refused(opcode, padding):
    argument = b"\x01\x00\x00\x00\x00\x00\x00\x00x\n\nx\nN"
    stream = b"\x80\x05" + padding + opcode.code.encode("latin-1") + argument
    with pytest.raises(VineyardError):
        verify(memoryview(stream))
    with pytest.raises(VineyardError) as caught:
        verify(stream)  # what follows the opcode is no good in any case
    refused = f"opcode 0x{ord(opcode.code):02x} at byte {2 + len(padding)}," in str(caught.value)
    assert refused == (opcode.name not in ALLOWED)


def test_bytes_that_are_no_opcodes_are_refused():
    known = {opcode.code.encode("latin-1") for opcode in pickletools.opcodes}
    for number in range(256):
        if bytes([number]) not in known:
            with pytest.raises(UnsafeType, match="opcode"):
                verify(b"\x80\x05" + bytes([number]) + b".")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, 2**40, 2**3000, 1.5, "a", "é" * 30, "b" * 300, "c" * 70000, b"d", b"e" * 300, bytearray(b"f"), True],
        {"a": (1, 2, 3, 4), "b": {1, 2}, "c": frozenset("x")},
        list(range(100_000)),
        ["x" * 100_000, b"y" * 200_000, bytearray(b"z" * 70_000), "é" * 70_000, list(range(30_000)), b"w" * 65_536],
        [(f"k{i}", "v" * (i % 60), i / 3, b"b" * (i % 40)) for i in range(5000)],
    ],
    ids=["none", "kinds", "containers", "numbers", "large", "mixed"],
)
@pytest.mark.parametrize("form", [bytes, memoryview])
def test_what_pickle_writes_of_plain_data_passes(value, form):
    """As a private copy, and as a view of shared memory that is copied part by part."""
    file = verify(form(pickle.dumps(value, protocol=5)))
    assert pickle.Unpickler(file).load() == value


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_cut_stream_is_damaged_wherever_it_is_cut(size):
    stream = pickle.dumps([(f"text{i}", i, "x" * 50, b"y" * 20) for i in range(size // 50)], protocol=5)
    for cut in [*range(2, 60), *range(60, len(stream), max(len(stream) // 50, 1)), len(stream) - 1]:
        for form in (bytes, memoryview):
            with pytest.raises(ObjectCorrupted):
                verify(form(stream[:cut]))


FRAMES = {
    "an opcode across the end of its frame": b"\x95" + (3).to_bytes(8, "little") + b"X\x04\x00\x00\x00abcd.",
    "a frame in a frame": b"\x95" + (20).to_bytes(8, "little") + b"\x95" + (1).to_bytes(8, "little") + b"N" * 10 + b".",
    "a frame beyond the end": b"\x95" + (2**40).to_bytes(8, "little") + b"N.",
    "an empty frame": b"\x95" + bytes(8) + b"N.",
    "a cut frame header": b"\x95\x01\x00",
    "text longer than the stream": b"X\xff\xff\xff\xffabc.",
    "bytes of a length beyond memory": b"\x8e" + b"\xff" * 7 + b"\x7fabc.",
    "something after the end": b"N.N.",
    "no end": b"NN",
    "nothing": b"",
}


@pytest.mark.parametrize("form", [bytes, memoryview])
@pytest.mark.parametrize("padding", [b"", b"N0" * 5000], ids=["short", "long"])
@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in FRAMES.items()])
def test_damage_is_found_before_anything_is_unpickled(code, padding, form):
    with pytest.raises(VineyardError):
        verify(form(b"\x80\x05" + padding + code))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_other_protocols_are_refused(protocol):
    with pytest.raises(VineyardError):
        verify(pickle.dumps([1, "a"], protocol=protocol))


def test_extension_codes_are_refused_even_when_python_has_cached_them():
    copyreg.add_extension("builtins", "eval", 0x7ABC)
    try:
        copyreg._extension_cache[0x7ABC] = eval
        with pytest.raises(UnsafeType, match="0x83"):
            decode(blob_of(b"\x80\x05\x83\xbc\x7a."))
    finally:
        copyreg._extension_cache.pop(0x7ABC, None)
        copyreg.remove_extension("builtins", "eval", 0x7ABC)


def test_a_large_memo_index_allocates_nothing():
    with pytest.raises(UnsafeType, match="0x72"):
        decode(blob_of(b"\x80\x05Nr\xff\xff\xff\x7f."))


def test_an_undefined_memo_index_is_damage():
    with pytest.raises(ObjectCorrupted):
        decode(blob_of(b"\x80\x05j\xff\xff\xff\x7f."))


@pytest.mark.parametrize("module", ["builtins", "vineyard_client._codec", "vineyard_client._codec.ops.x", "os", ""])
@pytest.mark.parametrize("name", ["eval", "Op", "MAKE.__class__", "Op.__init__", "MAKE.name", "make", "system"])
def test_only_the_operations_can_be_named(module, name):
    with pytest.raises(UnsafeType, match="it names"):
        decode(blob_of(Assembler().named(module, name).finish()))


@pytest.mark.parametrize("name", ["Op", "MAKE.__call__", "annotations", "__builtins__", "__loader__", "make"])
def test_other_names_of_the_operations_module_cannot(name):
    with pytest.raises(UnsafeType, match="it names"):
        decode(blob_of(Assembler().named("vineyard_client._codec.ops", name).finish()))


def test_the_operations_work_as_the_writer_uses_them():
    assert decode(blob_of(pickled(("MAKE", ("complex", 1.0, -2.0))))) == 1 - 2j
