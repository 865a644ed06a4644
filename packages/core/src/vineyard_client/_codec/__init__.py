"""Any Python value to bytes that fit into one blob, and back: same type, same value, nothing run, nothing copied twice.

The parts, each with its own docstring, from what imports nothing of the others upwards: ``envelope`` (the bytes: the
format's source of truth), ``ops`` and ``parts`` (the language of six operations, and checks of what stands in it),
``outside`` (which exceptions are no fault of a value),
``makings`` (what an object is made of besides its class), ``passive`` and ``modules`` (which classes hold data only,
and where they are found), ``policy`` (which others are allowed), ``table`` (what is declared of known types),
``verify`` (the check before anything runs), ``writer`` and ``reader`` (pickle protocol 5 in that language),
``adapters`` (known types, which fill the table: a module for each library, loaded when needed), ``summary`` (a line for
people), ``preview`` (what they are shown of a value, with ``tabular`` and ``cells``), ``proof`` (that what was written
can be read, and is the same).
"""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from vineyard_client.exceptions import UnsafeType, VineyardError

from . import envelope, proof, reader, summary, writer
from .adapters import table
from .adapters.declared import declare
from .envelope import HEADER_SIZE, Chunk
from .filling import left_to_fill
from .policy import policy_for

__all__ = [
    "HEADER_SIZE",
    "Chunk",
    "Encoded",
    "Examined",
    "check",
    "declare",
    "decode",
    "encode",
    "examine",
    "flatten",
    "has_buffers",
    "left_to_fill",
    "lies_in",
    "preload",
]


class Encoded(NamedTuple):
    """A value ready to be written.

    Args:
        chunks: their concatenation is the whole blob; large ones are views of the value's own memory.
        nbytes: the sum of their lengths.
        type_name: where the value's type is found by people, such as ``pandas.DataFrame``.
        summary: one line about the value, at most 300 characters; never values.
        stream: the pieces of the pickle stream.
        buffers: the value's memory that lies beside it.
        token: what the blob tells the value by.
    """

    chunks: List[Chunk]
    nbytes: int
    type_name: str
    summary: str
    stream: Sequence[Chunk]
    buffers: Sequence[memoryview]
    token: bytes

    def without(self, elsewhere: Mapping[int, Tuple[int, int]]) -> Tuple[List[Chunk], int]:
        """Return the pieces of a blob that lacks some of the buffers, because they lie in other blobs, and its length.

        Args:
            elsewhere: which they are, by their number: which of the other blobs each is in, counted from 1, and where.
        """
        return envelope.assemble(self.stream, self.buffers, self.token, elsewhere)

    def release(self) -> None:
        """Let go of the value's memory; the chunks are of no use afterwards.

        Whoever encoded calls this when it is done, above all when it failed: the frames of a traceback would keep the
        memory locked, and CPython before 3.13 crashes when it collects a memoryview together with such a lock on it.
        """
        for chunk in (*self.chunks, *self.stream, *self.buffers):
            if isinstance(chunk, memoryview):
                chunk.release()


def encode(
    value: object, *, token: bytes, allowed_classes: Sequence[str] = (), passive_classes: bool = True
) -> Encoded:
    """Take a value apart, without copying its large buffers.

    Args:
        value: anything; the chunks show its memory, so it must not change before they are written.
        token: 16 random bytes that tell this value from another under the same object id.
        allowed_classes: patterns of the caller's own classes, see ``policy``.
        passive_classes: whether passive classes, see ``passive``, need no permission.

    Returns:
        The pieces to write, in order, and what to tell people.

    Raises:
        UnsafeType: something in it cannot be stored; the text names it, and where it sits.
    """
    policy = policy_for(tuple(allowed_classes), passive_classes)
    try:
        stream, buffers = writer.dump(value, policy)
    except UnsafeType as exc:
        from . import survey  # only now

        better = survey.explained(exc, value, policy)
        if better is exc:
            raise
        raise better from exc.__cause__
    chunks, nbytes = envelope.assemble(stream, buffers, token)
    encoded = Encoded(chunks, nbytes, summary.type_name(value), summary.describe(value), stream, buffers, token)
    if proof.demanded():
        _prove(value, encoded, token, allowed_classes, passive_classes)
    return encoded


def _prove(
    value: object, encoded: Encoded, token: bytes, allowed_classes: Sequence[str], passive_classes: bool
) -> None:
    """Read a value from a copy of what was just written, and compare."""
    try:
        copy = memoryview(bytearray(b"".join(encoded.chunks)))
        read = decode(copy, token=token, allowed_classes=allowed_classes, passive_classes=passive_classes)
        found = proof.difference(value, read)
    except VineyardError as exc:
        encoded.release()
        raise AssertionError(f"A {encoded.type_name} was written and cannot be read: {exc}") from exc
    if found:
        encoded.release()
        raise AssertionError(f"A {encoded.type_name} was written, and read as something else: {found}")


def decode(
    blob: memoryview,
    *others: memoryview,
    token: Optional[bytes],
    allowed_classes: Sequence[str] = (),
    passive_classes: bool = True,
) -> object:
    """Put a value together again.

    Args:
        blob: the whole blob. Large buffers of the value become views into it, writable where the value's own memory was
            if the blob is; they keep alive what ``blob`` shows. A value without such buffers keeps nothing alive.
        others: the blobs that have the buffers which it has not itself; likewise.
        token: the token in the reference; None where the blob was not found by one.
        allowed_classes: patterns of the caller's own classes, see ``policy``.
        passive_classes: whether passive classes, see ``passive``, need no permission.

    Raises:
        ObjectNotFound: the blob holds another value than the reference means.
        ObjectCorrupted: it does not hold what was written.
        UnsafeType: reading it would run code that nobody allowed.
        UnsupportedVersion: it was written by another generation of this package, or needs a library that is missing.
    """
    policy = policy_for(tuple(allowed_classes), passive_classes)
    layout = envelope.parse(blob, token, others)
    return reader.load(layout.stream, layout.buffers, policy)


class Examined(NamedTuple):
    """What was found in a value; ``explanation`` says it."""

    type_name: str
    arrives: bool
    types: Dict[str, int]
    refusals: List[Tuple[str, str, str, str, str]]
    patterns: Tuple[str, ...]
    complete: bool


def examine(value: object, *, allowed_classes: Sequence[str] = (), passive_classes: bool = True) -> Examined:
    """Look through a value for everything that ``encode`` would refuse.

    Args:
        value: anything.
        allowed_classes: patterns of the caller's own classes, see ``policy``.
        passive_classes: whether passive classes, see ``passive``, need no permission.

    Raises:
        UnsafeType: a pattern that would allow too much.
    """
    from . import survey  # used for this, and where something was refused

    def patterns_of(finding: survey.Finding) -> List[str]:
        return [finding.pattern] if finding.pattern else []

    policy = policy_for(tuple(allowed_classes), passive_classes)
    findings: List[survey.Finding] = []
    found = survey.survey(value, policy)
    arrives = False
    try:
        encode(value, token=bytes(16), allowed_classes=allowed_classes, passive_classes=passive_classes).release()
        arrives = True
    except UnsafeType as exc:
        findings = found.findings or [survey.Finding(exc.name, exc.what.rstrip("."), exc.hint, "", True, value)]
    refusals = [
        (each.name, each.why, survey.place_of(value, each), each.pattern, survey.hint_for([each], patterns_of(each)))
        for each in findings
    ]
    return Examined(
        summary.type_name(value),
        arrives,
        found.types,
        refusals,
        survey.patterns_for(findings),
        found.complete or arrives,
    )


def lies_in(encoded: Encoded, blob: memoryview) -> bool:
    """Tell whether a blob holds a value already, because the value's buffers are views of the blob.

    Args:
        encoded: the value, with the token of the blob.
        blob: a writable view of the whole blob.
    """
    import ctypes

    def address(view: memoryview) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(view))

    if encoded.nbytes != len(blob):
        return False
    position, start = 0, address(blob)
    for chunk in encoded.chunks:
        end = position + len(chunk)
        if isinstance(chunk, memoryview) and not chunk.readonly:
            if address(chunk) != start + position:
                return False
        elif chunk != blob[position:end]:
            return False
        position = end
    return True


def check(blob: memoryview, *others: memoryview, token: bytes) -> None:
    """Check that a blob holds the value of a token, without reading the value.

    Args:
        blob: the whole blob.
        others: the blobs that have the buffers which it has not itself.
        token: the token in the reference.

    Raises:
        ObjectNotFound: the blob holds another value than the reference means.
        ObjectCorrupted: it does not hold what was written.
        UnsupportedVersion: it was written by another generation of this package.
    """
    envelope.inspect(blob, token, others)


def flatten(blob: memoryview, *others: memoryview) -> List[Chunk]:
    """Return the pieces of one blob with all of a value, as it would be had it been written without sharing.

    Args:
        blob: the whole blob.
        others: the blobs that have the buffers which it has not itself.

    Raises:
        ObjectCorrupted: they do not fit together.
        UnsupportedVersion: it was written by another generation of this package.
    """
    return envelope.flatten(blob, others)


def preload() -> None:
    """Load what is needed for values of the libraries that this process has imported, some milliseconds of work.

    Otherwise the first value of each library pays for it. Imports no library.
    """
    table.load_present()
    table.load("passive")  # asked about the classes of each library, too


def has_buffers(prefix: memoryview) -> bool:
    """Tell whether a value read from a blob will refer to its memory.

    Args:
        prefix: at least the first ``HEADER_SIZE`` bytes of the blob.

    Returns:
        False if the value is made whole from a copy, so that neither mapping nor pin need outlive ``decode``.

    Raises:
        ObjectCorrupted: no header of ours.
        UnsupportedVersion: written by another generation of this package.
    """
    return envelope.count_buffers(prefix) > 0
