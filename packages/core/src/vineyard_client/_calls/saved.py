"""What people ask of the tiers beside putting and getting: how the work stands, what is there, is it safe, save it now.

None of it lists the server: the notes say what is unsaved, and a tier is listed by itself.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Set

from .._tiers import doorbell
from .._tiers.facts import Disk, Durable, Finding, SavedCopy, TierStatus
from .._tiers.folder import file_system, is_remote
from .._tiers.keys import is_key, quote_part
from .._tiers.local import Tiers
from .._tiers.notes import KEPT, LOADED, LOST, SAVED, UNSAVED, Note
from .._tiers.options import BEHIND
from .._tiers.urls import folder_path
from ..exceptions import TierUnavailable
from ..reference import ObjectRef, number_of
from . import writing
from .housekeeping import delete_loaded
from .session import Session

__all__ = ["SavedValues", "about_disks", "about_speed"]

# Seconds after which something must be wrong if a value is still unsaved.
_OLD = 300.0

# Lost values that are called by their names.
_NAMED = 5

# Seconds for the agent to say how it does.
_ANSWER = 5.0

# Seconds for saving, reading and deleting a few bytes that are much.
_SLOW = 3.0

# File systems that are memory.
_MEMORY = ("tmpfs", "ramfs")


class SavedValues:
    """The values of one client's store that are saved, or are to be: see ``Client.saved``."""

    def __init__(self, session: Session, tiers: Tiers) -> None:
        self._session = session
        self._tiers = tiers

    def __repr__(self) -> str:
        """Show the tiers."""
        return f"<SavedValues in {', '.join(self._tiers.options.urls)}>"

    # ---- one value

    def where(self, ref: ObjectRef) -> Durable:
        """Tell whether a value is saved.

        Right after ``put`` this costs a look at the notes; only for a value of another host a tier is asked.

        Raises:
            TierFailed: a tier had to be asked, and does not answer.
        """
        number, tiers = number_of(ref), self._tiers
        copy = ref.copy or tiers.key_of(ref.token, number)
        if copy is None:
            token, reason = tiers.refused
            return Durable("no", reason=reason if token == ref.token else "")
        if tiers.has_note(UNSAVED, ref.token, number):
            return Durable("soon", tiers.url)
        if tiers.has_note(LOST, ref.token, number):
            return Durable("no", reason="it was not saved yet when its store ended.")
        # A note moves from unsaved to saved, so one that was missed there is here.
        if tiers.has_note(SAVED, ref.token, number) or tiers.size(copy, ref.token) == ref.size:
            return Durable("yes", tiers.url)
        return Durable("no", reason=f"its copy {copy} is gone from {tiers.url}.")

    def save(self, ref: ObjectRef, path: Sequence[str] = ()) -> ObjectRef:
        """Save a value that is in this store and was not saved when it was put; return the reference that has its copy.

        With ``through`` it is saved when this returns, with ``behind`` it is noted for the agent. One that is saved
        already is left as it is. The old reference goes on working, and leads to the copy on this host alone, where a
        note has it.

        Args:
            ref: of a value of this package in this store.
            path: as in ``put``.

        Raises:
            ObjectNotFound: it is not in this store.
            TierFailed: it cannot be saved.
            ValueError: nothing is saved here (durability ``none``), or the path is too long.
        """
        if not self._tiers.saves:
            raise ValueError("This client saves nothing: give it a tier with the durability through or behind.")
        noted = self._tiers.noted(ref.token, number_of(ref))
        if noted is not None and not self._tiers.has_note(LOST, ref.token, number_of(ref)):
            return replace(ref, copy=noted.key)
        connection = self._session.connection()
        made: List[Note] = []
        try:
            saved = writing.save(self._session, connection, replace(ref, copy=None), path, made)
            if saved.copy is None:
                raise TierUnavailable(f"{ref.id} is not saved: {self._tiers.refused[1]}", "See the log.")
            note = self._tiers.noted(ref.token, number_of(ref))
            if note is not None:  # else it was deleted already
                self._tiers.notes.write(KEPT, note)
        except BaseException:
            writing.take_back(self._session, made)
            raise
        return saved

    # ---- all of a tier

    def list(self, *path: str) -> Iterator[SavedCopy]:
        """Iterate over the copies in all tiers; the agent lists a bucket.

        Args:
            path: only those whose ``path`` began with these names.

        Raises:
            TierFailed: a tier cannot be listed.
        """
        prefix = "/".join(map(quote_part, path))
        for url in self._tiers.options.urls:
            yield from (SavedCopy(*entry, url) for entry in self._tiers.list(url, prefix))

    def delete(self, copies: Iterable[SavedCopy]) -> int:
        """Delete copies, the notes of them, and what was loaded from them; return how many there were.

        Values that are in a store stay there, and are not saved again.

        Raises:
            TierFailed: a tier does not let us; some may be deleted.
        """
        by_key: Dict[str, SavedCopy] = {copy.key: copy for copy in copies if is_key(copy.key)}
        keys_of: Dict[str, Set[str]] = {}
        for copy in by_key.values():
            keys_of.setdefault(copy.token, set()).add(copy.key)
        notes = self._tiers.notes
        for kind in (UNSAVED, SAVED, LOST, KEPT):
            for name in notes.names(kind) if by_key else ():
                token = name.partition(".")[0]
                note = notes.read(kind, name) if token in keys_of else None
                if note is not None and note.key in by_key:
                    notes.forget(token, note.number)
        self._tiers.delete([(copy.key, copy.token) for copy in by_key.values()])
        for token in set(notes.names(LOADED)).intersection(keys_of) if by_key else ():
            delete_loaded(self._session, self._tiers, token)
        return len(by_key)

    # ---- how the work stands

    def status(self) -> TierStatus:
        """Return how the work stands: what is unsaved, in the overflow, and free on the disks.

        Raises:
            TierFailed: the notes cannot be read.
        """
        options, notes = self._tiers.options, self._tiers.notes
        try:
            said = doorbell.ask(self._tiers.socket, {"do": "status"}, _ANSWER)
        except TierUnavailable:
            said = {}  # none answers, and that is what the status says
        overflow = notes.overflow_files()
        return TierStatus(
            urls=options.urls,
            durability=options.durability,
            spill=notes.folder,
            agent=said.get("pid"),
            unsaved=notes.backlog(),
            lost=len(notes.names(LOST)),
            overflow=len(overflow),
            overflow_bytes=sum(overflow),
            disks=tuple(_disks(self._tiers)),
            counts=said.get("counts", {}),
            last_error=said.get("last_error", ""),
        )

    def drain(self, timeout: float) -> None:
        """Return when all that is noted to be saved is saved; the agent is started for it, if it may be.

        Args:
            timeout: seconds that this may take.

        Raises:
            TierUnavailable: something is not saved then, or there is no agent; the message says why.
        """
        if not self._tiers.notes.names(UNSAVED):
            return
        self._tiers.ensure_agent()
        doorbell.drain(self._tiers.socket, timeout)
        left = self._tiers.notes.backlog()
        if left.number:
            raise TierUnavailable(
                f"{left.number} values ({left.nbytes} bytes) are not saved, and no agent is there to do it.",
                "Start it: vineyard-client agent.",
            )

    def check(self) -> List[Finding]:
        """Save, read and delete a small object in the tier that is written; return what else is not as it should be.

        No finding means that all is well.

        Raises:
            TierFailed: the tier does not work, or the notes cannot be written.
        """
        tiers = self._tiers
        tiers.notes.check()
        found: List[Finding] = []
        if tiers.folder is None or tiers.options.durability == BEHIND:
            tiers.ensure_agent()
        status = self.status()
        if tiers.folder is not None:
            found += about_speed(tiers, tiers.folder.check)
        if tiers.folder is None or status.agent is not None:
            found += self._about_agent()
        elif status.durability == BEHIND:
            what = "No agent runs, so each put waits until its value is saved."
            found.append(Finding("no agent", what, "Start one: vineyard-client agent."))
        return [*found, *about_disks(tiers), *_about_work(status), *self._about_lost()]

    def _about_agent(self) -> Iterator[Finding]:
        """Have the agent try its tier, and compare what it has with what is here."""
        tiers = self._tiers
        asked: Dict[str, Any] = {}
        yield from about_speed(tiers, lambda: asked.update(tiers.ask({"do": "check"})))
        if str(asked.get("url")).rstrip("/") != tiers.url.rstrip("/"):
            what = f"The agent saves in {asked.get('url')}, and this client reads {tiers.url}."
            yield Finding("apart", what, "Give both one tier.")
        if asked.get("spill") != tiers.notes.folder:
            what = f"The agent has its notes in {asked.get('spill')}, and this client in {tiers.notes.folder}."
            yield Finding("apart", what, "Give both the same folder (option spill).")

    def _about_lost(self) -> Iterator[Finding]:
        notes = self._tiers.notes
        lost = [note for note in (notes.read(LOST, name) for name in notes.names(LOST)) if note is not None]
        if lost:
            keys = ", ".join(note.key for note in lost[:_NAMED]) + (", and more" if len(lost) > _NAMED else "")
            yield Finding(
                "lost",
                f"{len(lost)} values were lost with their store before they were saved: {keys}.",
                f"Run again what put them; deleting them removes the notes in {os.path.join(notes.folder, LOST)}.",
            )


def about_speed(tiers: Tiers, check: Callable[[], object]) -> Iterator[Finding]:
    """Try the tier, and say so if that takes long."""
    started = time.monotonic()
    check()
    took = time.monotonic() - started
    if took > _SLOW:
        yield Finding(
            "slow",
            f"{tiers.url} is slow: it took {took:.1f} s to save, read and delete a few bytes.",
            "Who saves through waits at least as long for each value: look for what slows it down, or save behind "
            f"(option durability); transfers end after {tiers.options.timeout:.0f} s (option timeout).",
        )


def about_disks(tiers: Tiers) -> Iterator[Finding]:
    """Iterate over what is wrong with the places that are written."""
    reserve = tiers.options.reserve
    for disk in _disks(tiers):
        if disk.file_system in _MEMORY:
            what = "The tier" if disk.purpose == "tier" else "The folder of notes and overflow"
            yield Finding(
                "memory",
                f"{what} {disk.path} is in memory ({disk.file_system}): what is there ends with the host, and takes "
                "its memory.",
                f"Give a folder on a disk (option {disk.purpose}).",
            )
        elif disk.purpose == "spill" and is_remote(disk.path):
            what = f"The folder of notes and overflow {disk.path} is on a network ({disk.file_system})."
            yield Finding("network", what, "Give one on a disk of this host (option spill).")
        if disk.size and disk.free <= reserve * disk.size:
            yield Finding(
                "full",
                f"{disk.path} takes nothing more: {disk.free} bytes are free, and {reserve:.0%} of {disk.size} are "
                "to stay free.",
                "Free what no DAG run needs any more (gc), give it a larger disk, or lower the reserve (option "
                "reserve).",
            )


def _disks(tiers: Tiers) -> Iterator[Disk]:
    folders = [("tier", folder_path(url)) for url in tiers.options.urls]
    for purpose, folder in [*folders, ("spill", tiers.notes.folder)]:
        if folder is not None:
            found = os.statvfs(_existing(folder))
            free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
            yield Disk(folder, purpose, file_system(folder), free, size)


def _about_work(status: TierStatus) -> Iterator[Finding]:
    if status.unsaved.age > _OLD:
        what = (
            f"{status.unsaved.number} values ({status.unsaved.nbytes} bytes) are not saved yet, the oldest for "
            f"{status.unsaved.age:.0f} s. {status.last_error}"
        )
        remedy = "Start the agent: vineyard-client agent." if status.agent is None else "See the log of the agent."
        yield Finding("late", what.strip(), remedy)


def _existing(path: str) -> str:
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path
