"""What people say about tiers: where values are saved, when, and how much disk that may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Optional, Sequence, Tuple, Union

from ..exceptions import TierRefused

__all__ = ["BEHIND", "NONE", "THROUGH", "TierOptions"]

NONE, BEHIND, THROUGH = "none", "behind", "through"


@dataclass(frozen=True)
class TierOptions:
    """Where values are saved, so that they outlive the store, and when.

    Attributes:
        url: the tier: an absolute path, ``file:///path``, or the URL of a bucket (``s3://bucket/prefix``, ``gs://…``,
            ``az://…``), which the agent reads and writes. Of several the first is written; the others are only read.
        durability: ``through``: when ``put`` returns, the value is saved. ``behind``: the agent saves it afterwards.
            ``none``: nothing is saved, what was saved is read.
        spill: folder of the notes and of what finds no room in the store; by default ``SOCKET.tier``. It must be on a
            disk, and one path for all who use the socket.
        reserve: the share of the disks, from 0 to 1, that stays free.
        timeout: seconds that saving or loading may take, retries included.
        sync: whether what is saved in a folder survives a power cut, and not only a crash.
        options: settings of a bucket's store, such as its endpoint, for an agent that is started on demand.
        agent: the command that runs such an agent, in place of vineyard-client's own; it has to end with the server.

    Raises:
        TierRefused: the URL is none, or another option has a value that makes no sense.
    """

    url: Union[str, Sequence[str]]
    durability: str = THROUGH
    spill: Optional[str] = None
    reserve: float = 0.1
    timeout: float = 120.0
    sync: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    agent: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without looking."""
        from .urls import folder_path  # who has no tier need not pay for what knows them

        if not self.urls:
            raise TierRefused("No tier is given.", "Write a path or a URL, or leave the tiers out.")
        for url in self.urls:
            folder_path(url)
        if self.durability not in (NONE, BEHIND, THROUGH):
            raise TierRefused(f"The durability {self.durability!r} is none.", "Write none, behind or through.")
        if not 0 <= self.reserve < 1:
            raise TierRefused(f"A reserve of {self.reserve!r} is no share of a disk.", "Write one from 0 to 1.")
        if not self.timeout > 0:
            raise TierRefused(f"A timeout of {self.timeout!r} s leaves no time to save anything.", "Give it more.")

    @property
    def urls(self) -> Tuple[str, ...]:
        """All tiers, the one that is written first."""
        return (self.url,) if isinstance(self.url, str) else tuple(self.url)

    def __hash__(self) -> int:
        """Hash it, with its mapping."""
        return hash((self.urls, self.durability, self.spill, self.reserve, self.timeout, self.sync))
