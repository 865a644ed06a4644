"""The agent's life.

It holds a lock for its socket (``SOCKET.agent.lock``, flock), then listens, then looks: at the notes of what is to be
saved, at each ring and once a second; at the store, whether its server lives; and once in a while at what nobody needs.
A ring that nobody hears costs a second.

When it is told to end (SIGTERM), it takes no more requests, saves what there is to save, and ends; whether the server
still lives makes no difference, because its memory is held (``store``). When the server ends, it saves the same way,
gives the memory back, and waits for the next server, or ends as well if that was wished.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as TimeoutOfFuture
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, TypeVar, Union

from .._calls.saved import about_disks, about_speed
from .._calls.session import Session
from .._io.deadline import Deadline
from .._tiers import doorbell
from .._tiers.contract import Tier
from .._tiers.keys import check_key, is_key
from .._tiers.local import Tiers
from .._tiers.notes import DELETED, OVERFLOW, UNSAVED
from .._tiers.options import TierOptions
from .._tiers.urls import open_tier
from ..exceptions import TierFailed, TierRefused, TierUnavailable, VineyardError
from .alarm import Alarm
from .door import Door
from .keeper import Keeper, collect
from .loading import Wanted, load
from .metrics import Exporter
from .saving import save
from .starting import LOCK
from .store import Store
from .tidying import Tidying

__all__ = ["Agent", "on_signals"]

log = logging.getLogger("vineyard_client.agent")

# Seconds between two looks when nobody rings.
_LOOK = 1.0

# Glances at the journal in that time.
_PEEKS = 4

# Transfers at a time.
_TRANSFERS = 4

# Objects of a tier in one part of an answer.
_LISTED = 1000

# Seconds before a value that could not be saved is tried again: doubled each time, up to the second.
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0

# Seconds that an agent which ends with its server waits for another one.
_LINGER = 2.0

_TIDY = 3600.0

Done = TypeVar("Done")


class _OwnTiers(Tiers):
    """The tiers as the agent has them: it asks nobody."""

    opened: List[Tier]

    def __init__(self, path: str, options: TierOptions) -> None:
        super().__init__(path, options)
        kinds: Dict[str, Any] = {"timeout": options.timeout, "options": options.options}
        self.opened = [open_tier(url, reserve=options.reserve, sync=options.sync, **kinds) for url in options.urls]
        self.rung: Callable[[], None] = lambda: None

    def sizes(self, keys: Sequence[str]) -> List[Optional[int]]:
        return [self.opened[0].size(key) for key in keys]

    def ring(self) -> bool:
        self.rung()
        return True

    def ask(self, request: Dict[str, Any], *, wait: bool = False, limit: Optional[float] = None) -> Dict[str, Any]:
        raise TierUnavailable("The agent does not ask itself.")


class Agent:
    """The agent of one store.

    Args:
        path: the store's IPC socket.
        options: the tiers.
        with_server: whether it ends when the server has ended.
        tidy_every: seconds between two rounds of tidying up.
        older_than: the age at which values are deleted, with their copies.
        username: for a server started with ``--htpasswd``.
        password: likewise.

    Raises:
        TierRefused: a tier cannot be opened.
    """

    def __init__(
        self,
        path: str,
        options: TierOptions,
        *,
        with_server: bool = False,
        tidy_every: float = _TIDY,
        older_than: Optional[timedelta] = None,
        username: str = "",
        password: str = "",
    ) -> None:
        self.path = os.path.abspath(path)
        self._tiers = _OwnTiers(self.path, options)
        self._tiers.rung = self.wake
        self._tier = self._tiers.opened[0]
        self._notes = self._tiers.notes
        self._session = Session(self.path, timeout=30.0, username=username, password=password)
        # As anybody else would delete a value, who asks at the door: its copy goes with it.
        self._elder = Session(
            self.path, timeout=30.0, username=username, password=password, tiers=Tiers(self.path, options)
        )
        self._store = Store(self._session, self._notes)
        self._tidying = Tidying(self._session, self._store, self._tiers, self._tiers.opened)
        self._with_server = with_server
        self._tidy_every = tidy_every
        self._older_than = older_than
        self._alarm = Alarm()
        self._ending = False
        self._hurried = False
        self._lock = threading.Lock()
        self._saving: Dict[str, Future[int]] = {}
        self._loading: Dict[str, Future[Dict[str, Any]]] = {}
        self._retries: Dict[str, List[float]] = {}
        self._deleting: Optional[Future[None]] = None
        self._counts: Counter[str] = Counter()
        self._last_error = ""
        self._pool = ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="transfer")
        # For what somebody waits for: it is not behind a backlog for which nobody does.
        self._awaited = ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="awaited")

    # ---- life

    def run(self) -> int:
        """Live until told to end; return how many values are not saved then.

        Raises:
            TierRefused: the tier does not let us in, or another agent is here.
        """
        try:
            with self._only_one():
                self._check()
                self._store.look()  # who is let in relies on its memory being held
                self._notes.open_journal()
                door = Door(self.path, self._answer)
                try:
                    while not self._live():
                        door.close()
                        # Who came before the door was closed left a note; who comes after that starts another agent,
                        # which waits for the lock.
                        if not self._notes.names(UNSAVED) or self._ending or not self._store.look():
                            break
                        door = Door(self.path, self._answer)
                finally:
                    door.close()
                    self._drain()
                    self._pool.shutdown()
                    self._awaited.shutdown()
                left = len(self._notes.names(UNSAVED))
                if left:
                    log.error("%d values are not saved; the next agent goes on with them", left)
                return left
        finally:
            self._store.close()
            self._elder.close()
            self._alarm.close()

    def end(self, *_: object) -> None:
        """Save what there is to save, and end; may be called from a signal handler."""
        self._ending = True
        self.wake()

    def wake(self) -> None:
        """Look now."""
        self._alarm.ring()

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        path = self.path + ".agent.lock"
        fd = _handed_on(path)
        if fd is None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            deadline = time.monotonic() + 30.0
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # One that is about to end, and lets nobody in any more, is waited for.
                    if doorbell.ring(self.path) or time.monotonic() > deadline or self._ending:
                        raise TierRefused(
                            f"Another agent serves {self.path}.", "One is enough: end it first."
                        ) from None
                    self._wait()
            yield
        finally:
            os.close(fd)

    def _check(self) -> None:
        """See whether the tier works: here, and not when the first value is lost."""
        try:
            found = list(about_speed(self._tiers, self._tier.check))
        except TierRefused:
            raise
        except TierFailed as error:
            self._failed(error)
            log.warning("the tier does not work yet: %s", error)
            found = []
        for finding in [*found, *about_disks(self._tiers)]:
            log.warning("%s", finding)

    def _live(self) -> bool:
        """Look again and again; return True when told to end, False when the server has ended and so shall we."""
        gone = time.monotonic()
        tidied = -self._tidy_every
        while not self._ending:
            if self._store.look():
                gone = time.monotonic()
            self._look()
            if time.monotonic() - tidied >= self._tidy_every:
                tidied = time.monotonic()
                self._pool.submit(self._tidy)
            if self._with_server and not self._busy() and time.monotonic() - gone > _LINGER:
                return False
            self._wait()
        return True

    def _tidy(self) -> None:
        self._tidying.all()
        if self._older_than is None:
            return
        try:
            collect(self._elder, self._older_than)
        except VineyardError as error:
            log.warning("deleting what is older than %s: %s", self._older_than, error)

    def _wait(self) -> None:
        """Wait for a ring, a line in the journal, or the time for a look."""
        for _ in range(_PEEKS):
            if self._alarm.wait(_LOOK / _PEEKS) or self._notes.has_journal():
                return

    def _busy(self) -> bool:
        with self._lock:
            return bool(self._saving or self._loading)

    def _look(self) -> None:
        """Begin to save what is noted, what is in the overflow first, and to delete what is noted for it."""
        names = self._notes.names(UNSAVED)
        names.sort(key=lambda name: not name.endswith("." + "0" * 16))
        now = time.monotonic()
        for name in names:
            if self._retries.get(name, [0.0])[0] <= now:
                self._save(name)
        self._store.give_back(self._stores_wanted(names))
        if self._notes.names(DELETED) and (self._deleting is None or self._deleting.done()):
            self._deleting = self._pool.submit(self._delete)

    def _delete(self) -> None:
        try:
            self._counts["deleted"] += self._tidying.deletions()
        except TierFailed as error:
            self._failed(error)

    def _stores_wanted(self, names: Sequence[str]) -> Set[str]:
        """Return the identities of the stores from which something is to be saved."""
        if not names:
            return set()
        notes = (self._notes.read(UNSAVED, name) for name in names)
        return {note.store for note in notes if note is not None}

    def _drain(self) -> None:
        """Save everything that can be saved; what the tier refuses for good stays noted."""
        while True:
            self._store.look()
            if self._drained(None) or self._hurried:
                return

    def _drained(self, deadline: Optional[Deadline]) -> bool:
        """Try once to save everything; return True if nothing is left but what the tier refuses for good."""
        waiting = []
        for name in self._notes.names(UNSAVED):
            self._retries.pop(name, None)
            waiting.append(self._save(name))
        if not waiting:
            return True
        wait(waiting, None if deadline is None else deadline.remaining())
        failures = [future.exception() for future in waiting if future.done() and not future.cancelled()]
        hopeless = [error for error in failures if error is not None and not isinstance(error, TierUnavailable)]
        if len(hopeless) == len(waiting):
            return True
        if any(failures):
            time.sleep(_FIRST_RETRY)
        return False

    def _drained_by(self, deadline: Deadline) -> Dict[str, Any]:
        """Save what can be saved in time, and tell what is left; the agent goes on."""
        while not self._drained(deadline) and not deadline.expired:
            pass
        backlog = self._notes.backlog()
        return {"number": backlog.number, "bytes": backlog.nbytes, "last_error": self._last_error}

    # ---- saving

    def _save(self, name: str, *, awaited: bool = False) -> Future[int]:
        """Save a value, if that is not being done; at once if somebody waits for it."""
        with self._lock:
            future = self._saving.get(name)
            if future is None or (awaited and future.cancel()):
                pool = self._awaited if awaited else self._pool
                future = self._saving[name] = pool.submit(self._saved, name)
            return future

    def _saved(self, name: str) -> int:
        try:
            nbytes = save(name, self._notes, self._store, self._tier)
        except VineyardError as error:
            self._failed(error)
            last = self._retries.get(name, [0.0, _FIRST_RETRY / 2])[1]
            delay = min(_LAST_RETRY, 2 * last)
            self._retries[name] = [time.monotonic() + delay, delay]
            log.warning("a value is not saved yet, the next try is in %.0f s: %s", delay, error)
            raise
        except Exception:
            log.exception("saving %s failed", name)
            self._retries[name] = [time.monotonic() + _LAST_RETRY, _LAST_RETRY]
            raise
        finally:
            with self._lock:
                self._saving.pop(name, None)
        self._retries.pop(name, None)
        self._counts["saved"] += bool(nbytes)
        self._counts["saved_bytes"] += nbytes
        return nbytes

    def _failed(self, error: VineyardError) -> None:
        self._counts[f"errors.{type(error).__name__}"] += 1
        self._last_error = str(error)

    # ---- requests

    def _answer(self, request: Dict[str, Any]) -> Union[Dict[str, Any], Iterator[Dict[str, Any]]]:
        do = request.get("do")
        if do == "ring":
            self.wake()
            return {}
        if do == "status":
            return self.status()
        if do == "sizes":
            return {"sizes": self._tiers.sizes([str(key) for key in request["keys"]])}
        if do == "delete":
            keys = [str(key) for key in request["keys"]]
            if not all(map(is_key, keys)):
                raise ValueError("a key is none")
            for tier in self._tiers.opened:
                tier.delete(keys)
            self._counts["deleted"] += len(keys)
            return {}
        if do == "list":
            return self._listed(str(request["url"]), str(request["prefix"]))
        if do == "end":
            if self._with_server:
                self._hurried = bool(request.get("discard"))
                self.end()
            return {}
        if do == "check":
            self._tier.check()
            return {"url": self._tier.url, "spill": self._notes.folder}
        if self._ending:
            raise TierUnavailable(f"The agent for the store at {self.path} is about to end.", "Try again.")
        if do == "drain":
            return self._drained_by(Deadline(float(request["timeout"])))
        if do == "save":
            self._await(self._save(str(request["name"]), awaited=True))
            return {}
        if do == "load":
            return self._load(request)
        raise ValueError(f"{do!r:.40} is nothing that it does")

    def _listed(self, url: str, prefix: str) -> Iterator[Dict[str, Any]]:
        """Iterate over parts of the answer: what a tier has below a prefix."""
        for tier in self._tiers.opened:
            if tier.url.rstrip("/") == url.rstrip("/"):
                entries = tier.list(prefix)
                while True:
                    batch = list(islice(entries, _LISTED))
                    yield {"entries": batch}
                    if not batch:
                        return
        raise TierRefused(f"The agent for the store at {self.path} has no tier {url}.", "Give it the same tiers.")

    def _load(self, request: Dict[str, Any]) -> Dict[str, Any]:
        token, key, size = str(request["token"]), str(request["key"]), int(request["size"])
        check_key(key, token)
        if size <= 0:
            raise ValueError("a size is none")
        for name in self._notes.names(UNSAVED):  # it may be on its way there, out of a store that has ended
            if name.startswith(token):
                self._await(self._save(name, awaited=True))
        with self._lock:
            future = self._loading.get(token)
            if future is None:
                wanted = Wanted(token, key, size, str(request.get("type", "")))
                future = self._loading[token] = self._awaited.submit(self._loaded, wanted)
        return self._await(future)

    def _await(self, future: Future[Done]) -> Done:
        """Return what a transfer returns, and raise what it raises, in the time that it may take."""
        timeout = self._tiers.options.timeout + 5.0
        try:
            return future.result(timeout)
        except TimeoutOfFuture as error:
            raise TierUnavailable(
                f"{self._tier.url} has not answered for {timeout:.0f} s.", "See whether it works, and try again."
            ) from error

    def _loaded(self, wanted: Wanted) -> Dict[str, Any]:
        try:
            found = load(wanted, self._store, self._tiers, self._tiers.opened)
            self._counts["loaded"] += 1
            self._counts["loaded_bytes"] += wanted.size
            return found
        except VineyardError as error:
            self._failed(error)
            raise
        finally:
            with self._lock:
                self._loading.pop(wanted.token, None)

    def status(self) -> Dict[str, Any]:
        """Return what is to be saved, and what was done."""
        backlog = self._notes.backlog()
        return {
            "pid": os.getpid(),
            "with_server": self._with_server,
            "tier": self._tier.url,
            "store": self._store.identity,
            "unsaved": {"number": backlog.number, "bytes": backlog.nbytes, "age": round(backlog.age, 1)},
            "lost": len(self._notes.names("lost")),
            "overflow_bytes": sum(self._notes.overflow_files()),
            "overflow": len(self._notes.names(OVERFLOW)),
            "counts": dict(self._counts),
            "last_error": self._last_error,
        }


def _handed_on(path: str) -> Optional[int]:
    """Return the descriptor of the lock that who started this process took for it; None if there is none."""
    try:
        fd = int(os.environ.pop(LOCK, ""))
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
    except (OSError, ValueError):
        pass  # this was started by hand, or the file is another one by now
    return None


def on_signals(agent: Union[Agent, Keeper, Exporter]) -> None:
    """Have the agent end when the process is told to."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, agent.end)
