"""What a tier is: bytes under keys. It knows nothing of connections, values or notes."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, NamedTuple, Optional, Protocol, Sequence, Union

__all__ = ["Chunk", "Entry", "Tier", "Write"]

Chunk = Union[bytes, memoryview]
Write = Callable[[int, memoryview], None]


class Entry(NamedTuple):
    """An object in a tier.

    Attributes:
        key: its key.
        size: its length in bytes.
        modified: when it was written by the tier's clock, in seconds since 1970.
    """

    key: str
    size: int
    modified: float


class Tier(Protocol):
    """A folder, a bucket, or what a third party offers under the entry point group ``vineyard_client.tiers``.

    An entry point is named as the scheme of its URLs; it is called with the URL and, as keywords, ``timeout`` (seconds
    that saving or loading may take, retries included) and ``options`` (a mapping of texts), and returns a tier.

    All methods may be called from several threads at once. Every one may raise ``TierUnavailable`` (trying again may
    help), ``TierRefused`` (credentials, no such bucket) and, if it writes, ``TierFull``.

    Attributes:
        url: where it is, without credentials: for people and for the row in Airflow's database.
    """

    url: str

    def save(self, key: str, chunks: Sequence[Chunk]) -> None:
        """Store chunks, one behind the other, as one object; it appears whole or not at all, and replaces an older."""

    def load(self, key: str, size: int, write: Write) -> None:
        """Hand over the bytes of an object, in any order and number of pieces.

        Raises:
            ObjectNotFound: there is no such object.
            ObjectCorrupted: it has another length, or is not what was saved.
        """

    def open(self, key: str, size: int) -> Optional[int]:
        """Return a descriptor of a file to map, which the caller closes; None if the object must be loaded.

        Raises:
            ObjectNotFound: there is no such object.
            ObjectCorrupted: it has another length.
        """

    def size(self, key: str) -> Optional[int]:
        """Return the length of an object in bytes; None if there is none."""

    def link(self, old: str, new: str) -> None:
        """Make an object known under a second key, without its bytes travelling.

        Raises:
            ObjectNotFound: there is none under the old one.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is missing is no error."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """Iterate over the objects whose keys begin with whole parts, such as ``production/etl``; empty for all."""

    def check(self) -> None:
        """Save, read and delete a small object: what raises here would raise at the first value."""
