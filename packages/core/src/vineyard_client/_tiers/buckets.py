"""A tier that is a bucket: S3, Google Cloud Storage, Azure, through ``obstore`` (``vineyard-client[buckets]``).

Only the agent uses this module: obstore keeps threads and connections that a forked child inherits broken, and waits
for ever (its reply never comes), and tasks need no credentials this way.

A value goes up from where it lies, without a copy, and comes down in pieces. Beside it stands ``vycrc32``, the CRC-32
of all of its bytes, in eight hex digits: the envelope's own checksum leaves out what is large.

Credentials are found as obstore finds them: in the environment, from an instance's role or a workload's identity.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Sequence
from zlib import crc32

from ..exceptions import (
    ObjectCorrupted,
    ObjectNotFound,
    TierFailed,
    TierFull,
    TierRefused,
    TierUnavailable,
)
from .contract import Chunk, Entry, Write
from .keys import is_key, make_key

__all__ = ["BucketTier"]

_CRC = "vycrc32"

# Bytes of a piece that is loaded, and keys of one request for deletion (S3's limit).
_PIECE = 8 << 20
_BATCH = 1000

# Seconds within which somebody must accept a connection.
_CONNECT = "5s"

# Options that are those of the client which speaks HTTP, and not of the store.
_HTTP = (
    *("allow_http", "allow_invalid_certificates", "root_certificate"),
    *("proxy_url", "proxy_ca_certificate", "proxy_excludes"),
)

# What a service says, in its own words, when it is not our bytes that are wrong.
_FULL = re.compile(r"QuotaExceeded|InsufficientStorage|StorageFull|\b507\b|TooManyTenants|account.*disk quota", re.I)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|container does not exist", re.I)
_CLOCK = re.compile(
    r"RequestTimeTooSkewed|Request has expired|Signature (?:expired|not yet current)|date.*skew|"  # S3
    r"Request date header too old|"  # Azure
    r"Invalid JWT.*\biat\b",  # Google
    re.I,
)
# Where an instance's role is asked for credentials: nobody has given any.
_NO_CREDENTIALS = re.compile(r"//169\.254\.\d|//metadata\.google\.internal|token request", re.I)
_REFUSED = re.compile(
    r"\b40[13]\b|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|AuthenticationFailed|Forbidden|Unauthorized|"
    r"InvalidBucketName|credential",
    re.I,
)


class BucketTier:
    """Objects below a prefix of one bucket.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``.
        timeout: seconds that saving or loading may take, retries included.
        options: settings of the store as obstore calls them, such as ``endpoint`` or ``region``.

    Raises:
        TierRefused: obstore is not installed, or takes no such URL or options.
    """

    def __init__(self, url: str, *, timeout: float = 120.0, options: Optional[Mapping[str, str]] = None) -> None:
        try:
            import obstore
            import obstore.store
        except ImportError as error:
            raise TierRefused(
                f"The tier {url} needs the library obstore, which cannot be imported: {error}.",
                "Install it where the agent runs: pip install 'vineyard-client[buckets]'.",
            ) from error
        self.url = url
        self._timeout = timeout
        self._obstore: Any = obstore
        settings: Dict[str, Any] = dict(options or {})
        client: Dict[str, Any] = {"timeout": f"{timeout:.0f}s", "connect_timeout": _CONNECT}
        if any(re.search(r'(?:^|")http://', str(value)) for value in settings.values()):
            client["allow_http"] = True
        client.update((name, settings.pop(name)) for name in _HTTP if name in settings)
        retry = {"max_retries": 10, "retry_timeout": timedelta(seconds=timeout)}
        try:
            self._store: Any = self._obstore.store.from_url(
                url, config=settings, client_options=client, retry_config=retry
            )
        except BaseException as error:  # obstore has no common class for what it raises here
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise TierRefused(
                f"The tier {url} cannot be opened: {_words(error)}.", "Correct the URL, or the options of the tier."
            ) from error

    def __repr__(self) -> str:
        """Show the URL."""
        return f"<BucketTier {self.url}>"

    def save(self, key: str, chunks: Sequence[Chunk]) -> None:
        """Store chunks, one behind the other, as one object; it appears whole or not at all."""
        crc = 0
        for chunk in chunks:
            crc = crc32(chunk, crc)
        # A single piece goes up from where it lies.
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        with self._errors(f"{key} cannot be saved in"):
            self._obstore.put(self._store, self._checked(key), body, attributes={_CRC: f"{crc:08x}"})

    def load(self, key: str, size: int, write: Write) -> None:
        """Hand over the bytes of an object.

        Raises:
            ObjectNotFound: there is none.
            ObjectCorrupted: it has another length or another checksum than what was saved.
        """
        with self._errors(f"{key} cannot be read from"):
            try:
                found = self._obstore.get(self._store, self._checked(key))
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError) as error:
                raise self._missing(key, error) from error
            if found.meta["size"] != size:
                raise self._corrupted(key, f"it has {found.meta['size']} bytes where {size} were saved")
            crc, done = 0, 0
            for piece in found.stream(min_chunk_size=_PIECE):
                view = memoryview(piece)
                if done + len(view) > size:
                    raise self._corrupted(key, f"more than its {size} bytes came")
                write(done, view)
                crc, done = crc32(view, crc), done + len(view)
        stated = found.attributes.get(_CRC)
        if done != size:
            raise TierUnavailable(f"{key} came from {self.url} with {done} of its {size} bytes.", "Try again.")
        if stated != f"{crc:08x}":
            what = "nothing states its checksum" if stated is None else "its checksum does not match"
            raise self._corrupted(key, what)

    def open(self, key: str, size: int) -> Optional[int]:
        """Return None: there is no file to map."""
        return None

    def size(self, key: str) -> Optional[int]:
        """Return the length of an object in bytes; None if there is none."""
        with self._errors(f"{key} cannot be looked for in"):
            try:
                return int(self._obstore.head(self._store, self._checked(key))["size"])
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError) as error:
                self._require_bucket(error)
                return None

    def link(self, old: str, new: str) -> None:
        """Have the service copy an object to a second key.

        Raises:
            ObjectNotFound: there is none under the old one.
        """
        with self._errors(f"{new} cannot be saved in"):
            try:
                self._obstore.copy(self._store, self._checked(old), self._checked(new), overwrite=True)
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError) as error:
                raise self._missing(old, error) from error

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is missing is no error."""
        wanted = [self._checked(key) for key in keys]
        with self._errors("Values cannot be deleted from"):
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                try:
                    self._obstore.delete(self._store, batch)
                except (FileNotFoundError, self._obstore.exceptions.NotFoundError):
                    self._delete_each(batch)  # Azure: one was missing, of the others nobody knows

    def _delete_each(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                self._obstore.delete(self._store, key)
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError) as error:
                self._require_bucket(error)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Iterate over the objects below whole parts of keys."""
        with self._errors("There is no listing of"):
            for batch in self._obstore.list(self._store, prefix=prefix.strip("/") or None):
                for found in batch:
                    if is_key(found["path"]):
                        yield Entry(found["path"], int(found["size"]), found["last_modified"].timestamp())

    def check(self) -> None:
        """Save, read and delete a small object."""
        key = make_key(["check"], "0" * 32)
        self.save(key, [b"check"])
        try:
            self.load(key, 5, lambda at, piece: None)
        finally:
            self.delete([key])

    @staticmethod
    def _checked(key: str) -> str:
        if not is_key(key):
            raise ValueError(f"{key!r:.200} is no key")
        return key

    def _missing(self, key: str, error: Exception) -> Exception:
        self._require_bucket(error)
        return ObjectNotFound(f"There is no {key} in {self.url}.")

    def _require_bucket(self, error: Exception) -> None:
        if _NO_BUCKET.search(str(error)):
            raise error_for(f"{self.url} cannot be used", error)

    def _corrupted(self, key: str, what: str) -> ObjectCorrupted:
        return ObjectCorrupted(f"{key} in {self.url} is damaged: {what}.", "Have the task that made it run again.")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Raise what obstore raises as an error of ours."""
        started = time.monotonic()
        try:
            yield
        except (TierFailed, ObjectNotFound, ObjectCorrupted):
            raise
        except (self._obstore.exceptions.BaseError, OSError) as error:
            # obstore does not tell a time-out from other ends of a connection.
            late = time.monotonic() - started >= self._timeout
            raise error_for(f"{what} {self.url}", error, late=late) from error


def _words(error: BaseException) -> str:
    """Return an error's text in one line; obstore's own goes on with the structure of what is in it."""
    text = str(error).partition("\n\nDebug source")[0]
    return re.sub(r"\s+", " ", text).strip().rstrip(".")[:500]


def error_for(what: str, error: Exception, *, late: bool = False) -> TierFailed:
    """Return the error of ours for one of a service.

    Args:
        what: a sentence without its end.
        error: what obstore raised.
        late: whether all the time had gone by that there was.
    """
    words, name = _words(error), type(error).__name__
    if _NO_CREDENTIALS.search(words):
        return TierUnavailable(
            f"{what}: there are no credentials, and this host has no role that gives some: {words}.",
            "Give the agent credentials: in its environment, or as options of the tier.",
        )
    sentence = f"{what}: {words}."
    if _CLOCK.search(words):
        return TierRefused(sentence, "The clock of this host is off: set it (NTP) and try again.")
    if _FULL.search(words):
        return TierFull(sentence, "Free what no DAG run needs any more (gc), or raise the quota.")
    if _NO_BUCKET.search(words) or name == "NotFoundError" or isinstance(error, FileNotFoundError):
        return TierRefused(sentence, "Make the bucket, or correct the URL of the tier.")
    if name in ("PermissionDeniedError", "UnauthenticatedError") or _REFUSED.search(words):
        return TierRefused(sentence, "Check the credentials that the agent has, and what they allow.")
    if late:
        hint = "See whether it works; if it is only slow, give each transfer more time (option timeout)."
        return TierUnavailable(sentence, hint)
    return TierUnavailable(sentence, "Trying again is safe once it answers.")
