"""What people are told of tiers: where a value is safe, what a tier holds, how the work stands. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Optional, Tuple

__all__ = ["Backlog", "Disk", "Durable", "Finding", "SavedCopy", "TierStatus"]


@dataclass(frozen=True)
class Backlog:
    """What is not saved yet.

    Attributes:
        number: of values.
        nbytes: that they have together.
        age: seconds since the oldest of them was put; 0 if there is none.
    """

    number: int
    nbytes: int
    age: float


@dataclass(frozen=True)
class Durable:
    """Whether a value outlives the store; as a text it is what a row or a log says.

    Attributes:
        state: ``yes``: it is saved. ``soon``: the agent saves it. ``no``: it is in the store at most.
        place: the tier that has it, or is to have it; empty for ``no``.
        reason: for ``no``, why; a sentence, or empty if nothing was to be saved.
    """

    state: str
    place: str = ""
    reason: str = ""

    def __str__(self) -> str:
        """Return the tier, ``soon:`` and the tier, or ``no:`` and why."""
        if self.state == "yes":
            return self.place
        detail = self.place or self.reason
        return f"{self.state}: {detail}" if detail else self.state


@dataclass(frozen=True)
class Finding:
    """Something about tiers that is not as it should be; as a text it is both sentences.

    Attributes:
        kind: ``late``: values wait for too long. ``lost``: values ended with their store. ``no agent``: none runs.
            ``slow``: the tier takes long for little. ``apart``: client and agent have different tiers or notes.
            ``memory``: a folder is in memory, ``network``: or on a network. ``full``: a disk takes nothing more.
        what: is the case.
        remedy: what to do, in the words of this package's command line.
    """

    kind: str
    what: str
    remedy: str

    def __str__(self) -> str:
        """Return what is the case, and what to do."""
        return f"{self.what} {self.remedy}"


@dataclass(frozen=True)
class SavedCopy:
    """A copy of a value in a tier.

    Attributes:
        key: its key; the parts before the last slash are the quoted ``path`` of the value.
        size: bytes.
        modified: when it was written, by the tier's clock, in seconds since 1970.
        tier: the tier that has it.
    """

    key: str
    size: int
    modified: float
    tier: str

    @property
    def token(self) -> str:
        """The token of the value."""
        return self.key.rpartition("/")[2]


@dataclass(frozen=True)
class Disk:
    """A file system that values are written to.

    Attributes:
        path: the folder on it.
        purpose: ``tier`` or ``spill``.
        file_system: its type, such as ``ext4``; empty where that cannot be told.
        free: bytes that this user may still write.
        size: bytes that it has.
    """

    path: str
    purpose: str
    file_system: str
    free: int
    size: int


@dataclass(frozen=True)
class TierStatus:
    """How the work of one store's tiers stands.

    Attributes:
        urls: the tiers, the one that is written first.
        durability: ``through``, ``behind`` or ``none``.
        spill: folder of the notes and the overflow.
        agent: process id of the agent; None if none answers.
        unsaved: what is not saved yet.
        lost: how many values ended with a store before they were saved, as far as notes of them are kept.
        overflow: how many values are on the disk because the store had no room for them.
        overflow_bytes: that they have together.
        disks: the file systems that are written.
        counts: what the agent has done: ``saved``, ``saved_bytes``, ``loaded``, ``deleted``, ``errors.NAME`` and more.
        last_error: what went wrong last in the agent; empty if nothing did.
    """

    urls: Tuple[str, ...]
    durability: str
    spill: str
    agent: Optional[int]
    unsaved: Backlog
    lost: int
    overflow: int
    overflow_bytes: int
    disks: Tuple[Disk, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    last_error: str = ""
