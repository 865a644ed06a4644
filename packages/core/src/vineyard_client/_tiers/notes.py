"""What is known of the values of one store that a tier has, or is to have: small files in a folder beside the socket.

::

    unsaved/TOKEN.ID    in the store or the overflow, and to be saved
    saved/TOKEN.ID      in the store, and in the tier: may leave the store
    kept/TOKEN.ID       was saved after its reference was written, which therefore does not lead to the copy
    loaded/TOKEN        came from the tier into the store, or into the overflow: a cache
    overflow/TOKEN      the envelope of a value that found no room in the store
    deleted/HASH        a copy that is still to be deleted from the tier: its key
    lost/TOKEN.ID       a value that was to be saved and ended with its store
    journal             notes that are to become files in ``unsaved``, one per line
    lock                held (flock) by who makes room

Making a file costs a tenth of putting a small value, so who saves behind appends to the journal. Whoever looks for what
is unsaved makes the files first (``fold``), so that to all others there is no journal.

A note is JSON (``Note``), written aside and renamed, so nobody sees half of one. That of a value which is saved moves
from ``unsaved`` to ``saved`` in one step. Its modification time is when the value was last read.

Why no copy is left behind when a value is deleted while it is being saved::

    agent     upload ............ object there? note there? .... (else delete the copy)
    deleter         note gone, object gone ................. delete the copy

    Either the agent looks after the note or the object went: then it deletes. Or before: then the upload was complete,
    and the deleter's last step finds it. That the object is gone tells of a deleter only while the note is not in
    ``saved``: afterwards it may have left a full store.

A writer that is killed before its note had not returned, so nobody has a reference to its value.

Whoever may use the store may write here, so what is in the files is not trusted further than the store is: an envelope
is told by its token, and a key leads to no other value.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from base64 import b64decode, b64encode
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Dict, Iterator, List, Optional, Tuple

from .._io.deadline import Deadline
from .._io.fds import OwnedFD
from .._io.mapping import read_exact, write_all
from ..exceptions import InvalidReference, TierFailed, TierUnavailable
from ..ids import format_id, is_token, parse_id
from .facts import Backlog
from .folder import failed
from .keys import check_key, is_key
from .sharing import share

__all__ = ["DELETED", "KEPT", "LOADED", "LOST", "OVERFLOW", "SAVED", "UNSAVED", "Note", "Notes"]

log = logging.getLogger("vineyard_client.tiers")

UNSAVED, SAVED, LOADED, LOST, KEPT = "unsaved", "saved", "loaded", "lost", "kept"
OVERFLOW, DELETED = "overflow", "deleted"

_JOURNAL = "journal"

_POLL = 0.005

# Bytes of a note: metadata, and perhaps an envelope so small that it has no blob.
_MAX_NOTE = 1 << 16

# Bytes of the journal beyond which nobody appends: the agent that should have emptied it is busy, or held.
_MAX_JOURNAL = 1 << 18

# Seconds for which the journal may be held by who folds it.
_FOLDING = 5.0

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True)
class Note:
    """What a note says.

    Attributes:
        token: the value's.
        number: its object's id; 0 if it is not in the store.
        key: what its copy is called in the tier.
        size: bytes of its envelope.
        type: what it is, for people.
        created: when it was put, in seconds since 1970.
        store: the identity of the store that has its object.
        memory: the server's number of the memory that has the envelope; below 0 if none has.
        offset: where in that memory.
        content: the envelope, if it is so small that it has no memory of its own.
        summary: what it is, in a line, for people.
        host: where it was put, for people.
        pieces: memory, offset and size of each of its blobs, its own first, if it shares memory with other values.
    """

    token: str
    number: int
    key: str
    size: int
    type: str
    created: float
    store: str = ""
    memory: int = -1
    offset: int = 0
    content: Optional[bytes] = None
    summary: str = ""
    host: str = ""
    pieces: Tuple[Tuple[int, int, int], ...] = ()

    @property
    def name(self) -> str:
        """The name of its file."""
        return note_name(self.token, self.number)

    def to_json(self) -> bytes:
        """Return the note as its file has it."""
        fields = {**vars(self), "number": format_id(self.number)}
        fields["content"] = None if self.content is None else b64encode(self.content).decode()
        if not self.pieces:
            del fields["pieces"]  # which earlier releases do not know
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Note:
        """Read a note.

        Raises:
            ValueError: it is none; so are a key or a token that cannot be (``InvalidReference``).
        """
        try:
            fields = json.loads(data)
            pieces = tuple((memory, offset, size) for memory, offset, size in fields.get("pieces", ()))
            note = cls(**{**fields, "number": parse_id(fields["number"]), "pieces": pieces})
            numbers = (note.size, note.offset, note.memory + 1, *chain.from_iterable(pieces))
            texts = (note.type, note.store, note.summary, note.host)
            if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
                raise ValueError("a number is none")
            if not all(isinstance(text, str) for text in texts) or not is_token(note.token):
                raise ValueError("a text is none")
            check_key(note.key, note.token)
            float(note.created)
            if note.content is not None:
                note = cls(**{**vars(note), "content": b64decode(note.content, validate=True)})
        except (LookupError, TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        return note


def note_name(token: str, number: int) -> str:
    """Return the name of the file of a value's note."""
    return f"{token}.{number:016x}"


class Notes:
    """The notes of one store.

    Args:
        folder: where they are; it is made, for this user only, with the first note.
    """

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self._made: Dict[str, int] = {}

    def __repr__(self) -> str:
        """Show the folder."""
        return f"<Notes in {self.folder}>"

    # ---- notes

    def write(self, kind: str, note: Note, name: str = "") -> None:
        """Write a note, in place of one that is there.

        Raises:
            TierFailed: that is not possible; the message says why.
        """
        self._write(kind, name or note.name, note.to_json())

    def _write(self, kind: str, name: str, data: bytes) -> None:
        with self._errors():
            folder = self._make(kind)
            temporary = os.path.join(folder, f"{name}.{os.getpid()}.{os.urandom(3).hex()}.new")
            try:
                with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
                    share(fd, folder)
                    write_all(fd, 0, [data])
                os.rename(temporary, os.path.join(folder, name))
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise

    def jot(self, note: Note) -> None:
        """Note that a value is to be saved, in the way that costs the least.

        Raises:
            TierFailed: that is not possible; the message says why.
        """
        # What was cut off by a full disk has no end of its line, so each line begins with one as well.
        line = b"\n" + note.to_json() + b"\n"
        if len(line) > _MAX_NOTE or not self._append(line):
            self.write(UNSAVED, note)

    def _append(self, line: bytes) -> bool:
        """Append to the journal; return False if it is not there, is held by who folds it, or too long."""
        try:
            with _opened(os.path.join(self.folder, _JOURNAL), os.O_WRONLY | os.O_APPEND) as fd:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return os.fstat(fd).st_size < _MAX_JOURNAL and os.write(fd, line) == len(line)
        except OSError:
            return False

    def has_journal(self) -> bool:
        """Tell whether there is anything in the journal."""
        try:
            return os.stat(os.path.join(self.folder, _JOURNAL), follow_symlinks=False).st_size > 0
        except OSError:
            return False

    def fold(self) -> None:
        """Make notes of what is in the journal, and empty it.

        Who is killed in between leaves lines of which there are notes: these are written again, and at worst a value is
        saved twice. Who deletes folds first, so no note comes back afterwards.
        """
        if not self.has_journal():
            return
        with self._errors(), _opened(os.path.join(self.folder, _JOURNAL), os.O_RDWR) as fd:
            deadline = Deadline(_FOLDING)
            while not _lock(fd):
                if deadline.expired:
                    log.warning("the journal in %s is held by somebody", self.folder)
                    return
                time.sleep(_POLL)
            for line in read_exact(fd, 0, os.fstat(fd).st_size).splitlines():
                self._fold(line)
            os.ftruncate(fd, 0)

    def _fold(self, line: bytearray) -> None:
        try:
            note = Note.from_json(bytes(line)) if line else None
        except (ValueError, InvalidReference) as error:
            log.warning("a line of the journal in %s makes no sense: %s", self.folder, error)
            return
        if note is not None:
            self.write(UNSAVED, note)

    def open_journal(self) -> None:
        """Make the journal, for as long as there is somebody who folds it."""
        with self._errors():
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            path = os.path.join(self.folder, _JOURNAL)
            with _opened(path, os.O_RDWR | os.O_CREAT) as fd:
                share(fd, self.folder)

    def promote(self, name: str) -> bool:
        """Note that a value is saved now; return False if its note is gone, because the value was deleted."""
        with self._errors():
            self._make(SAVED)
            return self._rename(UNSAVED, SAVED, name)

    def demote(self, name: str) -> bool:
        """Note that the copy of a saved value is gone, so that it is saved again; return whether there was a note."""
        with self._errors():
            self._make(UNSAVED)
            return self._rename(SAVED, UNSAVED, name)

    def give_up(self, name: str) -> bool:
        """Note that a value was lost with its store before it was saved; return whether there was a note."""
        with self._errors():
            self._make(LOST)
            return self._rename(UNSAVED, LOST, name)

    def _rename(self, old: str, new: str, name: str) -> bool:
        try:
            os.rename(self._path(old, name), self._path(new, name))
        except FileNotFoundError:
            return False
        return True

    def forget(self, token: str, number: int) -> bool:
        """Remove what is noted of a value; return whether there was anything.

        ``unsaved`` goes first: a note that is not there any more has moved to ``saved``, and is found there.
        """
        self.fold()
        name = note_name(token, number)
        there = [self.remove(kind, name) for kind in (UNSAVED, SAVED, LOST, KEPT)]
        if not number:
            there.append(self.remove(OVERFLOW, token))
        return any(there)

    def remove(self, kind: str, name: str) -> bool:
        """Remove one file; return whether it was there."""
        with self._errors():
            try:
                os.unlink(self._path(kind, name))
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def read(self, kind: str, name: str) -> Optional[Note]:
        """Return a note; None if there is none, or none that makes sense."""
        self._fold_for(kind)
        try:
            with _opened(self._path(kind, name), os.O_RDONLY) as fd:
                return Note.from_json(os.read(fd, _MAX_NOTE))
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the note %s/%s in %s cannot be read: %s", kind, name, self.folder, error)
        except (ValueError, InvalidReference) as error:
            log.warning("the note %s/%s in %s makes no sense: %s", kind, name, self.folder, error)
        return None

    def has(self, kind: str, name: str) -> bool:
        """Tell whether there is a file."""
        self._fold_for(kind)
        return os.path.lexists(self._path(kind, name))

    def touch(self, kind: str, name: str) -> None:
        """Note that a value is read now; if there is no note, there is nothing to note."""
        # With each get, so in the way that costs the least. It is another user's, perhaps, and changes nothing but what
        # leaves a full store first.
        try:
            os.utime(f"{self.folder}/{kind}/{name}")
        except OSError:
            return

    def names(self, kind: str) -> List[str]:
        """Return the names of all files of a kind, those that are being written left out."""
        self._fold_for(kind)
        try:
            return [name for name in os.listdir(os.path.join(self.folder, kind)) if not name.endswith((".new", ".tmp"))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failed(f"The notes in {self.folder} cannot be read", error) from error

    def by_age(self, kind: str) -> List[Tuple[float, str]]:
        """Return when each value of a kind was last read, and the name of its note, the oldest first."""
        found = []
        try:
            with os.scandir(os.path.join(self.folder, kind)) as entries:
                for entry in entries:
                    if not entry.name.endswith((".new", ".tmp")):
                        with suppress(FileNotFoundError):
                            found.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise failed(f"The notes in {self.folder} cannot be read", error) from error
        return sorted(found)

    def backlog(self) -> Backlog:
        """Return how much is not saved yet."""
        notes = [note for note in (self.read(UNSAVED, name) for name in self.names(UNSAVED)) if note is not None]
        now = time.time()
        oldest = min((note.created for note in notes), default=now)
        return Backlog(len(notes), sum(note.size for note in notes), max(0.0, now - oldest))

    # ---- the rest

    def overflow(self, token: str) -> str:
        """Return the path of a value's envelope in the overflow, whose folder is there when this returns."""
        with self._errors():
            return os.path.join(self._make(OVERFLOW), token)

    def overflow_files(self) -> List[int]:
        """Return the bytes of each envelope in the overflow."""
        sizes = []
        for name in self.names(OVERFLOW):
            with suppress(FileNotFoundError):
                sizes.append(os.lstat(self._path(OVERFLOW, name)).st_size)
        return sizes

    def check(self) -> None:
        """Write a note and remove it.

        Raises:
            TierFailed: that is not possible; the message says why.
        """
        name = f"{os.urandom(16).hex()}.check"
        self._write(DELETED, name, b"")
        self.remove(DELETED, name)

    def to_delete(self, key: str) -> None:
        """Note a copy that is to be deleted from the tier."""
        self._write(DELETED, hashlib.sha256(key.encode()).hexdigest()[:32], key.encode())

    def deletions(self) -> Iterator[Tuple[str, str]]:
        """Iterate over the copies that are to be deleted: the name of the note, and the key."""
        for name in self.names(DELETED):
            with suppress(OSError, UnicodeDecodeError), open(self._path(DELETED, name), "rb") as file:
                key = file.read(_MAX_NOTE).decode()
                if is_key(key):
                    yield name, key

    def sweep(self, older_than: float) -> int:
        """Remove what killed writers left half written; return how many files that were."""
        swept = 0
        for kind in (UNSAVED, SAVED, LOADED, LOST, KEPT, OVERFLOW, DELETED):
            folder = os.path.join(self.folder, kind)
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                path = os.path.join(folder, name)
                with suppress(OSError):
                    if name.endswith((".new", ".tmp")) and os.lstat(path).st_mtime < time.time() - older_than:
                        os.unlink(path)
                        swept += 1
        return swept

    @contextmanager
    def lock(self, wait: float) -> Iterator[bool]:
        """Be the only one who makes room; yield whether that is so within the seconds to wait."""
        with self._errors():
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            owner = OwnedFD()
            path, flags = os.path.join(self.folder, "lock"), os.O_RDWR | os.O_CREAT | _FLAGS
            fd = owner.take(os.open, path, flags, 0o600).fd
            share(fd, self.folder)
        deadline = Deadline(wait)
        try:
            while not (mine := _lock(fd)) and not deadline.expired:
                time.sleep(_POLL)
            yield mine
        finally:
            # A child that was forked meanwhile has the lock as well: closing would leave it to the child.
            fcntl.flock(fd, fcntl.LOCK_UN)
            owner.close()

    def _fold_for(self, kind: str) -> None:
        if kind == UNSAVED:
            self.fold()

    def _path(self, kind: str, name: str) -> str:
        return os.path.join(self.folder, kind, name)

    def _make(self, kind: str) -> str:
        """Return the folder of a kind, which is there."""
        path = os.path.join(self.folder, kind)
        if not os.path.isdir(path):
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
                share(path, self.folder)
        return path

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raised: TierFailed = failed(f"What is saved cannot be noted in {self.folder}", error)
            if isinstance(raised, TierUnavailable):
                raise raised from error
            raised.hint = f"{raised.hint} (option spill)"
            raised.args = (raised.what, raised.hint)
            raise raised from error


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    """Open a file for the duration of the block; no exception comes between opening and owning it."""
    owner = OwnedFD()
    try:
        yield owner.take(os.open, path, flags | _FLAGS, 0o600).fd
    finally:
        owner.close()


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
