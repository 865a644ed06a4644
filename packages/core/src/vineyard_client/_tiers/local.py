"""The tiers as one client has them: folders it uses itself, and the agent for everything else; and its notes."""

from __future__ import annotations

import logging
import mmap
import os
import time
from contextlib import suppress
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from .._io.deadline import Deadline
from .._io.fds import OwnedFD
from .._io.mapping import map_private, read_exact
from ..exceptions import ObjectCorrupted, ObjectNotFound, TierFailed, TierUnavailable, VineyardError
from . import doorbell
from .contract import Chunk, Entry
from .folder import FolderTier, failed, require_disk, write_file
from .keys import check_key
from .notes import KEPT, LOADED, LOST, OVERFLOW, SAVED, UNSAVED, Note, Notes, note_name
from .options import NONE, THROUGH, TierOptions
from .urls import folder_path

__all__ = ["Tiers", "shown"]

log = logging.getLogger("vineyard_client.tiers")

# Seconds between two looks whether a value has been saved meanwhile.
_POLL = 0.02

# Seconds for which an agent that was there is taken to be there still.
_RING_AGAIN = 1.0

# Seconds to wait for an agent that was killed, or is being replaced.
_AGENT_WAIT = 10.0

# Seconds to wait for what need not be done now.
_SOON = 5.0

# Bytes up to which a file is copied instead of mapped, as from the store.
_COPY_LIMIT = 64 * 1024


class Tiers:
    """What a client knows of the tiers of its store.

    Args:
        socket: the store's IPC socket.
        options: where they are.
        starter: called when the agent is needed and does not listen; it starts one, or returns at once.
    """

    def __init__(self, socket: str, options: TierOptions, starter: Optional[Callable[[], object]] = None) -> None:
        self.socket = socket
        self.options = options
        self.notes = Notes(options.spill or socket + ".tier")
        paths = [folder_path(url) for url in options.urls]
        self.folders = [FolderTier(p, reserve=options.reserve, sync=options.sync) for p in paths if p is not None]
        self.folder = self.folders[0] if paths[0] is not None else None
        self._buckets = None in paths
        self._starter = starter
        self._rung = -_RING_AGAIN
        #: The token of the last value that could not be saved, and why.
        self.refused: Tuple[str, str] = ("", "")

    @property
    def saves(self) -> bool:
        """Whether what is put is saved."""
        return self.options.durability != NONE

    @property
    def through(self) -> bool:
        """Whether it is saved before ``put`` returns."""
        return self.options.durability == THROUGH

    @property
    def url(self) -> str:
        """The tier that is written."""
        return self.folder.url if self.folder else self.options.urls[0]

    # ---- saving

    def save(self, note: Note, chunks: Sequence[Chunk], same: Optional[str] = None) -> None:
        """Save a value that is in the store, or see to it that the agent does.

        Args:
            note: what is to be noted of it.
            chunks: its envelope.
            same: the key of a copy with the same envelope, if there may be one.

        Raises:
            TierFailed: it is not saved, and will not be.
        """
        if not self.through:
            self._save_behind(note, chunks, same)
            return
        if self.folder is not None:
            self._save_now(self.folder, note, chunks, same)
            return
        self.notes.write(UNSAVED, note)
        try:
            self.ask({"do": "save", "name": note.name}, wait=True)
        except BaseException:
            self.notes.forget(note.token, note.number)
            raise

    def _save_behind(self, note: Note, chunks: Sequence[Chunk], same: Optional[str]) -> None:
        """Note that a value is to be saved; ring only if the agent was not there a moment ago.

        An agent that looks by itself several times a second needs no ring, and one for each value would have it work
        while the next one is put. One that ends closes its door first and then looks for the last time, so who finds
        the door after having written is seen.
        """
        self.notes.jot(note)
        now = time.monotonic()
        if now - self._rung < _RING_AGAIN and doorbell.has_door(self.socket):
            return
        if doorbell.ring(self.socket):
            self._rung = now
            return
        if (self.start_agent() and doorbell.is_there(self.socket)) or self.folder is None:
            return  # one that is on its way finds the note
        # Where no agent is there to save it afterwards, it is saved now: nobody might live to do it.
        try:
            self._write(self.folder, note.key, chunks, same)
            self.notes.fold()
            if not self.notes.promote(note.name):
                self.folder.delete([note.key])  # it was deleted meanwhile
        except BaseException:
            self.notes.forget(note.token, note.number)
            raise

    def _save_now(self, folder: FolderTier, note: Note, chunks: Sequence[Chunk], same: Optional[str]) -> None:
        self._write(folder, note.key, chunks, same)
        try:
            self.notes.write(SAVED, note)
        except BaseException:
            folder.delete([note.key])
            raise

    @staticmethod
    def _write(folder: FolderTier, key: str, chunks: Sequence[Chunk], same: Optional[str]) -> None:
        if same is not None:
            with suppress(ObjectNotFound):
                return folder.link(same, key)
        folder.save(key, chunks)

    def save_outside(self, note: Note, chunks: Sequence[Chunk]) -> None:
        """Save a value that finds no room in the store: in the folder, or in the overflow for the agent.

        Raises:
            TierFailed: there is no room on the disk either, or it cannot be written.
        """
        if self.folder is not None:
            self._save_now(self.folder, note, chunks, None)
            return
        path = self.notes.overflow(note.token)
        try:
            require_disk(os.path.dirname(path), note.size, self.options.reserve)
            write_file(path, chunks)
        except OSError as error:
            raise failed(f"The overflow in {self.notes.folder} takes no {note.size} bytes", error) from error
        try:
            self.save(note, chunks)
        except BaseException:
            self.notes.remove(OVERFLOW, note.token)
            raise

    def take_back(self, note: Note) -> None:
        """Undo whatever was done to save a value, because nobody will learn of it."""
        try:
            self.notes.forget(note.token, note.number)
            if self.folder is not None:
                self.folder.delete([note.key])
            else:  # an agent that is saving it looks for its note afterwards
                self.notes.to_delete(note.key)
                self.ring()
        except TierFailed as error:
            log.warning("%s is taken back, and cannot be deleted: %s", note.key, error)

    # ---- reading

    def touch(self, token: str, number: int) -> None:
        """Note that a value in the store was read."""
        self.notes.touch(SAVED, note_name(token, number))

    def noted(self, token: str, number: int) -> Optional[Note]:
        """Return what is noted of a value."""
        name = note_name(token, number)
        for kind in (UNSAVED, SAVED, LOST, KEPT):  # in the order in which a note moves
            note = self.notes.read(kind, name)
            if note is not None:
                return note
        return None

    def key_of(self, token: str, number: int) -> Optional[str]:
        """Return the key of a value whose reference was written before it was saved."""
        note = self.notes.read(KEPT, note_name(token, number))
        return None if note is None else note.key

    def loaded(self, token: str) -> Optional[Note]:
        """Return the note of the cached copy of a value, if there is one here."""
        note = self.notes.read(LOADED, token)
        if note is not None:
            self.notes.touch(LOADED, token)
        return note

    def overflow(self, token: str, size: int) -> Optional[memoryview]:
        """Return a value's envelope from the overflow; None if it is not there."""
        path = os.path.join(self.notes.folder, OVERFLOW, token)
        try:
            file = OwnedFD().take(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failed(f"The overflow in {self.notes.folder} cannot be read", error) from error
        return shown(file, size, path)

    def read(self, token: str, number: int, key: str, size: int) -> Optional[memoryview]:
        """Return a saved value's envelope from the folders; None if none of them has it.

        One that is to be saved and is nowhere yet is waited for: an agent may be saving it out of the memory of a store
        that has ended.

        Raises:
            ObjectCorrupted: the file is not what was saved.
            TierFailed: a folder cannot be read.
        """
        check_key(key, token)
        name, deadline = note_name(token, number), Deadline(self.options.timeout)
        while True:
            waiting = self.folder is not None and self.notes.has(UNSAVED, name)
            for folder in self.folders:
                with suppress(ObjectNotFound):
                    return self._open(folder, key, size)
            if not waiting:
                return None
            if not self.ring() or deadline.expired:
                raise TierUnavailable(
                    f"{key} is not in {self.url} yet, where the agent is to save it.",
                    f"See whether the agent runs for {self.socket} (vineyard-client agent), and its log.",
                )
            time.sleep(_POLL)

    @staticmethod
    def _open(folder: FolderTier, key: str, size: int) -> memoryview:
        file = folder.open_file(key, size)
        if file is not None:
            return shown(file, size, key)
        memory = _memory(size)

        def write(position: int, piece: memoryview) -> None:
            memory[position : position + len(piece)] = piece

        folder.load(key, size, write)
        return memory

    def load(self, token: str, key: str, size: int, type: str) -> Optional[Dict[str, Any]]:
        """Have the agent bring a value from a bucket here; return where it is: ``number``, or ``overflow``.

        Returns:
            None if there is no bucket to load from.

        Raises:
            ObjectNotFound: no tier has it.
            TierFailed: there is no agent, or the tier does not give it.
        """
        if not self._buckets:
            return None
        check_key(key, token)
        return self.ask({"do": "load", "token": token, "key": key, "size": size, "type": type}, wait=True)

    def has_note(self, kind: str, token: str, number: int) -> bool:
        """Tell whether there is a note of a kind for a value."""
        return self.notes.has(kind, note_name(token, number))

    def is_saved_here(self, token: str, number: int) -> bool:
        """Tell whether a value that is in no tier yet is in the overflow."""
        return not number and self.notes.has(UNSAVED, note_name(token, number))

    def was_lost(self, token: str, number: int) -> bool:
        """Tell whether a value ended with its store before it was saved."""
        return self.notes.has(LOST, note_name(token, number))

    # ---- sizes and ends

    def size(self, key: str, token: str) -> Optional[int]:
        """Return how many bytes a copy has; None if no tier has it.

        Raises:
            TierFailed: that cannot be told.
        """
        check_key(key, token)
        for folder in self.folders:
            found = folder.size(key)
            if found is not None:
                return found
        return self.sizes([key])[0] if self._buckets else None

    def sizes(self, keys: Sequence[str]) -> List[Optional[int]]:
        """Return how many bytes each copy has in the tier that is written.

        Raises:
            TierFailed: that cannot be told.
        """
        if self.folder is not None:
            return [self.folder.size(key) for key in keys]
        found = self.ask({"do": "sizes", "keys": list(keys)}, limit=_SOON).get("sizes")
        if not isinstance(found, list) or len(found) != len(keys):
            raise TierUnavailable(f"The agent for the store at {self.socket} answers what makes no sense.")
        return found

    def list(self, url: str, prefix: str) -> Iterator[Entry]:
        """Iterate over the copies in one of the tiers whose keys begin with whole quoted parts.

        Raises:
            TierFailed: it cannot be listed.
        """
        path = folder_path(url)
        if path is not None:
            yield from FolderTier(path).list(prefix)
            return
        self.ensure_agent()
        request = {"do": "list", "url": url, "prefix": prefix}
        for part in doorbell.ask_for_parts(self.socket, request, self.options.timeout + 10.0):
            if not part.get("entries"):
                return
            for key, size, modified in part["entries"]:
                yield Entry(str(key), int(size), float(modified))

    def forget(self, token: str, number: int) -> Optional[Note]:
        """Remove what is noted of a value, before it is deleted; return what that was."""
        note = self.noted(token, number)
        self.notes.forget(token, number)
        return note

    def forget_loaded(self, token: str) -> Optional[Note]:
        """Remove what is noted of the cached copy of a value, and the copy itself from the overflow; return the note.

        The file goes first, so that who is killed in between leaves none without a note; and once more afterwards, for
        the agent that may just have brought it.
        """
        note = self.notes.read(LOADED, token)
        outside = note is not None and not note.number
        if outside:
            self.notes.remove(OVERFLOW, token)
        self.notes.remove(LOADED, token)
        if outside:
            self.notes.remove(OVERFLOW, token)
        return note

    def delete(self, keys: Sequence[Tuple[str, str]]) -> bool:
        """Delete copies, given their keys and tokens, wherever they are; return whether there was one.

        Copies in buckets are deleted by the agent; if that does not work now, a note has them deleted later.
        """
        for key, token in keys:
            check_key(key, token)
        existed = False
        for folder in self.folders:
            there = [key for key, _ in keys if folder.size(key) is not None]
            folder.delete(there)
            existed = existed or bool(there)
        if self._buckets and keys:
            try:
                self.ask({"do": "delete", "keys": [key for key, _ in keys]}, limit=_SOON)
            except TierFailed as error:
                log.debug("the agent deletes %d copies later: %s", len(keys), error)
                for key, _ in keys:
                    self.notes.to_delete(key)
            existed = True
        return existed

    # ---- the agent

    def ring(self) -> bool:
        """Have the agent look at the notes; start it if it can be. Return False if there is none."""
        return doorbell.ring(self.socket) or self.start_agent()

    def start_agent(self) -> bool:
        """Have an agent started, if that is wished; return False if there will be none."""
        if self._starter is None:
            return False
        try:
            self._starter()
        except VineyardError as error:
            log.warning("no agent saves what is put: %s", error)
            return False
        return True

    def ask(self, request: Dict[str, Any], *, wait: bool = False, limit: Optional[float] = None) -> Dict[str, Any]:
        """Ask the agent; start it if it can be.

        Args:
            request: what is to be done.
            wait: whether to wait a while for one that comes back, after it was killed or replaced; what is asked for is
                asked again then.
            limit: seconds for the answer; by default what the tier may take, and a little more.

        Raises:
            TierUnavailable: there is none, or it does not answer.
            VineyardError: what it says.
        """
        deadline = Deadline(self.options.timeout + 10.0 if limit is None else limit)
        patience = Deadline(min(_AGENT_WAIT, self.options.timeout) if wait else 0.0)
        while True:
            self.ensure_agent()
            try:
                return doorbell.ask(self.socket, request, deadline.remaining() or 0.0)
            except doorbell.NoAgent:
                if patience.expired:
                    raise
            time.sleep(10 * _POLL)

    def ensure_agent(self) -> None:
        """Have an agent listen, if one may be started.

        Raises:
            TierUnavailable: it cannot be started.
        """
        deadline = Deadline(self.options.timeout)
        while self._starter is not None and not doorbell.ring(self.socket) and not deadline.expired:
            self._starter()  # each time: what is there may be one that is about to end
            time.sleep(_POLL)


def _memory(size: int) -> memoryview:
    try:
        return memoryview(mmap.mmap(-1, size))
    except (OSError, OverflowError, ValueError) as error:
        raise TierUnavailable(f"There is no memory in this process for {size} bytes: {error}.") from error


def shown(file: OwnedFD, size: int, name: str) -> memoryview:
    """Return a file's bytes, privately: copied if they are few, else mapped; the file is closed."""
    try:
        found = os.fstat(file.fd).st_size
        if found != size or not size:
            raise ObjectCorrupted(
                f"{name} has {found} bytes where {size} were saved.",
                "Have the task that made it run again.",
            )
        if size <= _COPY_LIMIT:
            return memoryview(read_exact(file.fd, 0, size))
        return map_private(file.fd, 0, size, None)
    except OSError as error:
        raise failed(f"{name} cannot be mapped", error) from error
    finally:
        file.close()
