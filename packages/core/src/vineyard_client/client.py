"""``Client``: put, get and everything else that people do with one store.

Here values become bytes and bytes become values (``_codec``); what happens to the bytes stands in ``_calls``, and how
they are kept safe in ``_store.objects``. All methods may be called from any thread and after a fork.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Type,
    Union,
)

from . import _codec
from ._calls import housekeeping, reading, writing
from ._calls.session import Session
from ._forks import generation
from ._io import mapping
from ._io.deadline import DEFAULT_TIMEOUT
from ._io.steps import when_dropped
from ._store.collect import Collectable
from ._store.connection import Connection
from ._store.making import Drafting, Making
from ._store.meta import INLINE_LIMIT, INLINE_PREVIEW, ValueMeta, check_labels
from .encoded import EncodedValue
from .exceptions import ObjectNotFound
from .reference import Draft, ObjectInfo, ObjectRef, StoreStatus, number_of

if TYPE_CHECKING:
    from ._calls.saved import SavedValues
    from ._tiers.local import Tiers
    from ._tiers.notes import Note
    from ._tiers.options import TierOptions

__all__ = ["DEFAULT_TIMEOUT", "Client", "preload"]

# As for names in DNS.
_HOST_LIMIT = 255


def _tiers(socket: str, tier: Union[str, TierOptions], starter: Optional[Callable[[], object]]) -> Tiers:
    # Some milliseconds that who saves nothing need not pay, and who saves does not pay in the first call.
    from ._calls import keeping  # noqa: F401
    from ._tiers.local import Tiers
    from ._tiers.options import TierOptions

    return Tiers(socket, tier if isinstance(tier, TierOptions) else TierOptions(tier), starter)


class Client:
    """A client of the store behind one IPC socket.

    Args:
        socket: path of the IPC socket.
        timeout: seconds that each call may take, with all that it does and waits for: its turn among threads,
            connecting, other processes that bring the same value, other hosts. Time in which bytes move does not count,
            nor does starting a server, which has a limit of its own. None is for ever.
        username: for a server started with ``--htpasswd``.
        password: likewise.
        allowed_classes: patterns of classes (``"mypkg.models.*"``, matched against ``module.qualname``) that values may
            hold beyond those of the standard and the known data libraries; each call may add more.
        passive_classes: whether classes that hold data and bring no code to their making need no permission: named
            tuples, enumerations, dataclasses, classes of attrs, models of pydantic, subclasses of plain types. They are
            rebuilt without running any method of theirs. False is for those who want every class allowed by name.
        endpoint: ``host:port`` to write into references, for other hosts to reach this one's instance; by default what
            the instance reports, which is its host name.
        peers: patterns of the ``host:port`` of other hosts' instances (``"10.0.0.*:9600"``). If there are
            any, references lead to no other host. If there are none, they may lead to any, but no host is told the
            password, because a reference may have been forged.
        starter: called with the socket path when nobody listens there; it must start a server or raise. See
            ``vineyard_client.connect``, which passes one where that is wanted.
        tier: where values are saved, so that they outlive the store, and where those are that were saved: a path or a
            URL, or ``TierOptions``, which say more. None saves nothing.
        agent_starter: called when something is to be saved or loaded and no agent listens; it must start one or raise.

    The first connection is made at once, so that a wrong path shows here. Every method that asks the server may raise
    what making a connection raises, ``DeadlineExceeded`` when the time is up, and ``ServerError`` when it refuses.

    Raises:
        InvalidReference: the endpoint is none.
        TierRefused: the tier is none.
        ConnectionFailed: nobody listens at the path, or the credentials are refused.
        ProtocolError: what listens there is not vineyardd.
        UnsupportedVersion: the server is too old.
    """

    def __init__(
        self,
        socket: Union[str, os.PathLike[str]],
        *,
        timeout: Optional[float] = DEFAULT_TIMEOUT,
        username: str = "",
        password: str = "",
        allowed_classes: Sequence[str] = (),
        passive_classes: bool = True,
        endpoint: Optional[str] = None,
        peers: Sequence[str] = (),
        starter: Optional[Callable[[str], object]] = None,
        tier: Union[str, TierOptions, None] = None,
        agent_starter: Optional[Callable[[], object]] = None,
    ) -> None:
        self.socket = os.fspath(socket)
        self._allowed_classes = tuple(allowed_classes)
        self._passive_classes = passive_classes
        self._session = Session(
            self.socket,
            timeout=timeout,
            username=username,
            password=password,
            endpoint=endpoint,
            peers=peers,
            starter=starter,
            tiers=None if tier is None else _tiers(self.socket, tier, agent_starter),
        )
        self._connection()

    def _trust(self, allowed_classes: Sequence[str]) -> Dict[str, Any]:
        """Return what the codec is told of whom to trust in one call."""
        return {
            "allowed_classes": (*self._allowed_classes, *allowed_classes),
            "passive_classes": self._passive_classes,
        }

    # ---- values

    def put(
        self,
        value: object,
        *,
        labels: Optional[Mapping[str, str]] = None,
        persist: bool = False,
        allowed_classes: Sequence[str] = (),
        native: bool = False,
        same_as: Optional[ObjectRef] = None,
        host: Optional[str] = None,
        path: Sequence[str] = (),
        preview: str = "off",
        hide: Optional[Callable[[str], bool]] = None,
    ) -> ObjectRef:
        """Store a value and return a reference to it.

        The value's buffers are written from where they lie into the store's memory, once; the value itself stays the
        caller's, and later changes to it do not reach the store. Large buffers that ``get`` returned and that nobody
        has changed are in the store already, and are shared instead of written: a frame that got one more column takes
        that column. Each object can be deleted without the other. When the store is full, what nobody needs any more is
        collected first (see ``collect``).

        Args:
            value: anything made of Python's and the known data libraries' types, or what ``encode`` made of it, which
                this uses up.
            labels: texts by which ``list`` can find it.
            persist: make it visible to every instance of the cluster (not: write it to disk).
            allowed_classes: patterns of further classes that the value may hold.
            native: store it in vineyard's own types (``vineyard::DataFrame``, ``vineyard::Tensor`` …), which other
                engines on the store can read; see "Native objects" in the README for what they cannot hold. It is not
                written in one step, and ``list`` does not show it.
            same_as: a value of this store that may be the same one. If it is, byte for byte, the new object shares its
                memory and its token instead of taking as much again; each can be deleted without the other.
            host: what ``info`` says of where it was put, at most 255 characters; by default the system's name.
            path: names under which its copy in the tier is found by people, such as those of a DAG and a task. Native
                objects are not saved.
            preview: what ``preview`` tells people of it, a level: ``schema`` (names, types, shapes, lengths), ``head``
                (the first rows and members as well) or ``stats`` (ranges and histograms of a sample as well); ``off``
                is nothing. Native objects, and those that share memory with another, have none of their own.
            hide: is told the names of columns and members; where it returns True, nothing of them is shown.

        Raises:
            UnsafeType: the value holds a class that readers would not accept, or, if it is to be native, one that
                vineyard's own types have no form for; nothing is stored.
            StoreFull: there is no room; nothing is stored. Where values are saved, the disk has none either.
            TierFailed: it was to be saved before this returns, and could not be; nothing is stored.
            ValueError: what ``encode`` made is used up already, or to be native, or the same as another value; or the
                host's name is none, or is given for a native object, which has none; or there is no such level.
        """
        labels = check_labels(labels)
        if host is not None:
            _check_host(host, native)
        if isinstance(value, EncodedValue) and (native or same_as is not None):
            raise ValueError("What encode() made has a token and a form of its own: put the value itself.")
        if native:
            return writing.put_native(self._session, value, labels, persist)
        if same_as is not None:
            number_of(same_as)  # whatever else it is, it is a reference
        if isinstance(value, EncodedValue):
            value, encoded, token = value._take()
        else:
            token = os.urandom(16) if same_as is None else bytes.fromhex(same_as.token)
            encoded = _codec.encode(value, token=token, **self._trust(allowed_classes))
        made: List[Making] = []
        noted: List[Note] = []
        try:
            try:
                connection = self._connection()
                meta = self._meta(connection, encoded, token, labels)
                if host is not None:
                    meta = replace(meta, host=host)
                shown = _shown(value, encoded.nbytes, preview, hide) if preview != "off" and not same_as else b""
                how: Dict[str, Any] = {"same_as": same_as, "persistent": persist, "path": path, "preview": shown}
                ref = writing.put(self._session, connection, meta, encoded, made=made, noted=noted, **how)
            finally:
                encoded.release()
        except BaseException:  # nobody learns of it
            for making in made:
                making.undo()
            writing.take_back(self._session, noted)
            raise
        if ref is None:  # it is not the same: a token of its own, then
            options: Dict[str, Any] = {"persist": persist, "host": host, "path": path, "preview": preview, "hide": hide}
            return self.put(value, labels=labels, allowed_classes=allowed_classes, **options)
        return ref

    def create(
        self,
        like: object,
        *,
        labels: Optional[Mapping[str, str]] = None,
        persist: bool = False,
        allowed_classes: Sequence[str] = (),
        path: Sequence[str] = (),
    ) -> ContextManager[Draft]:
        """Make a value in place: compute straight into the store's memory.

        ::

            with client.create(np.empty((10_000, 1_000))) as draft:
                np.matmul(a, b, out=draft.value)
            ref = draft.ref

        When the block ends, the value is whole and can be read by others; if it ends with an exception, there is no
        object. ``draft.value`` stays valid either way, but what is written to it after the block reaches nobody; memory
        of the store that it shows without an object is freed by ``collect`` when it is gone. If parts of it do not lie
        in the store when the block ends, because they are small or were replaced, it is put as ``put`` does it.

        A process that is forked in the block shares the memory, and may fill a part of the value before the block ends
        in the parent. As it can write there for as long as it lives, the value is then put, that is, copied, and what
        the child writes later reaches nobody. A child that leaves the block itself makes no value.

        Args:
            like: a value of the right type and shape, such as ``np.empty(shape)``. What lies in its large arrays of
                plain numbers and dates (and in those of a frame, a tensor, a list or dict of such) is not copied: as
                with ``np.empty``, they hold whatever lay in the store's memory before, until you fill them, so fill
                all of them. Everything else, such as indexes, codes, texts, masks and truth values, is copied. An
                integer stands for a plain buffer of that many bytes: then ``draft.value`` is a memoryview.
            labels: texts by which ``list`` can find it.
            persist: make it visible to every instance of the cluster.
            allowed_classes: patterns of further classes that the value may hold.
            path: names under which its copy in the tier is found by people.

        Raises:
            UnsafeType: the value holds a class that readers would not accept.
            StoreFull: there is no room.
            TierFailed: it was to be saved when the block ends, and could not be.
        """
        return _Creation(self, like, check_labels(labels), persist, allowed_classes, path)

    def get(self, ref: ObjectRef, *, allowed_classes: Sequence[str] = (), replica: bool = True) -> object:
        """Return the value behind a reference: same type, equal, and the caller's to change.

        Large values are not copied: their buffers are private copy-on-write mappings of the store's memory, which stay
        valid and unchanged for as long as the value lives, whoever deletes the object meanwhile. Small ones are copied
        and keep nothing.

        A value on another host is brought into the store of this one first, once for all readers here.

        A native object (see ``reference``) is copied, whatever its size, and must be on this host.

        Args:
            ref: what ``put`` returned, in this process or another, on this host or another.
            allowed_classes: patterns of further classes that the value may hold. For native objects only
                ``pickle.loads`` matters: it lets the pickles run that other clients put into them.
            replica: whether a value from another host is kept in the store here; if not, it is only in this process.

        Raises:
            ObjectNotFound: the object is gone, or its id belongs to another value now.
            MigrationFailed: its host cannot be reached, or the transfer failed; trying again is safe.
            StoreFull: there is no room here for the replica.
            UnsafeType: the value holds a class that was not allowed; nothing of it was run.
            ObjectCorrupted: the bytes are not those of the value.
            UnsupportedVersion: another generation of this package wrote the value, a library that it needs is missing,
                or it is native and of a type that is not known here.
        """
        number_of(ref)  # whatever else it is, it is a reference
        trust = self._trust(allowed_classes)
        found = reading.find(self._session, ref, replica=replica)
        if not isinstance(found, tuple):
            return found.read(trust["allowed_classes"])
        return _codec.decode(*found, token=bytes.fromhex(ref.token), **trust)

    @property
    def source(self) -> str:
        """Where the value came from that this thread got last: ``store``, ``replica``, ``host`` or ``tier``.

        ``store`` is the one here, ``replica`` a copy of another host's value that was here already, ``host`` that
        host, and ``tier`` a folder, a bucket, or the disk beside the store. Empty before any.
        """
        return self._session.source

    def migrate(self, ref: ObjectRef) -> ObjectRef:
        """Bring a value from another host into the store of this one, and return a reference to the replica.

        A value that is here already is left as it is, and its own reference returned.

        Raises:
            ObjectNotFound: the value is gone.
            MigrationFailed: its host cannot be reached, or the transfer failed; trying again is safe.
            StoreFull: there is no room here.
        """
        return reading.migrate(self._session, ref)

    def delete(self, ref: ObjectRef) -> bool:
        """Delete the object behind a reference; values that were read from it stay as they are.

        The original is deleted, on its own host, and so is a replica on this one. Replicas on other hosts are freed by
        ``collect`` there, and memory that somebody still reads by ``collect`` after that. From another host nobody can
        see who reads: there the memory counts as read while anybody is connected to the store.

        Returns:
            Whether there was something to delete; an object that is gone is no error.

        Raises:
            MigrationFailed: the host of the original cannot be reached; the replica here is gone.
        """
        return housekeeping.delete(self._session, ref)

    # ---- what is there

    def info(self, ref: Union[ObjectRef, str]) -> ObjectInfo:
        """Return what the store knows of an object, without reading its value.

        Args:
            ref: a reference, or the id in text form of an object that is here; an id is taken at its word.

        Raises:
            ObjectNotFound: the object is gone.
            MigrationFailed: it is on a host that cannot be reached, and there is no replica here.
        """
        return housekeeping.info(self._session, ref)

    def preview(self, ref: ObjectRef) -> Optional[Dict[str, Any]]:
        """Return what people are shown of a value, which is not read for it; None if it was put without a preview.

        It is what ``put`` made of the value, in this store or on its host; what is only in a tier or the overflow has
        none. The document has a ``kind``: ``table``, ``array``, ``text``, ``bytes`` or ``tree``. Whoever may write to
        the store may have written anything into it.

        Raises:
            ObjectNotFound: the value is in none of these stores.
            MigrationFailed: it is on a host that cannot be reached.
        """
        from ._calls import previews
        from ._codec.preview import read

        return read(previews.find(self._session, ref))

    def reference(self, id: str) -> ObjectRef:
        """Return a reference to an object in this store, given its id: the way to what other engines put.

        Args:
            id: the object id in text form, ``o`` and sixteen hex digits: of a value of this package, or of a *native
                object*, which is one of vineyard's own types. The id is taken at its word; from here on the reference
                never resolves to another object.

        Raises:
            ObjectNotFound: there is no such object.
            InvalidReference: the text is no id, or the id of a blob, which is part of an object.
        """
        info = self.info(id)
        if info.deleted:
            raise ObjectNotFound(f"{id} keeps the memory of a deleted value.", "Put the value again.")
        return info.ref

    def exists(self, ref: ObjectRef) -> bool:
        """Tell whether the value behind a reference is there, on this host or its own; one being written is already.

        Raises:
            MigrationFailed: it is on a host that cannot be reached, and there is no replica here.
        """
        try:
            self.info(ref)
        except ObjectNotFound:
            return False
        return True

    def list(
        self, *, labels: Optional[Mapping[str, str]] = None, deleted: bool = False, noted: bool = False
    ) -> Iterator[ObjectInfo]:
        """Iterate over the objects that this package put into the store, oldest first.

        The server makes a list of everything for it, and nobody else is answered meanwhile, for seconds with 50,000.

        Args:
            labels: only those that have all of these.
            deleted: those instead that were deleted and whose memory has not been collected.
            noted: go by what clients have noted, as ``collect`` does, and ask for a few objects at a time, so that
                nobody waits; the iteration may be ended early. Left out is what clients of early releases put.

        Raises:
            TypeError: a label is not a text; like everything else, this shows when the first object is asked for.
        """
        yield from housekeeping.objects_there(self._session, check_labels(labels), deleted, noted)

    def status(self) -> StoreStatus:
        """Return how full the store is and who serves it."""
        return housekeeping.status(self._session)

    def collect(
        self,
        *,
        older_than: Optional[timedelta] = None,
        labels: Optional[Mapping[str, str]] = None,
        dry_run: bool = False,
        thorough: bool = False,
    ) -> List[Collectable]:
        """Free what nobody needs any more, and return what that was.

        That is: values that were deleted while somebody read them, once nobody does; what killed writers left; replicas
        of values that are gone from their own host (one that does not answer is not "gone"); and, if an age is given,
        whole values of that age. Anybody may do this at any time.

        It goes by what all clients of this host note of what they put and delete, and asks the server for a few
        objects at a time, so that nobody waits. The server is only asked for a list of everything, for which others
        wait, where something shows that a note is missing, or nobody could make any.

        Args:
            older_than: delete whole values of this age or older, too.
            labels: only objects that have all of these.
            dry_run: free nothing, only return what would be.
            thorough: list everything in any case. It also finds what clients of early releases left, and processes that
                may not write to the store's memory.
        """
        options: Dict[str, Any] = {"older_than": older_than, "labels": labels, "dry_run": dry_run, "thorough": thorough}
        return housekeeping.collect(self._session, self._connection(), **options)

    @property
    def saved(self) -> Optional[SavedValues]:
        """What is saved of this store's values, and how the work on it stands; None if this client has no tier.

        It has the methods ``where`` (is a value safe), ``save`` (one that is in memory alone), ``list`` and ``delete``
        (the copies in a tier), ``status`` and ``check``.
        """
        if self._session.tiers is None:
            return None
        from ._calls.saved import SavedValues

        return SavedValues(self._session, self._session.tiers)

    # ---- life

    def close(self) -> None:
        """Close the connection; values that were read stay valid. Idempotent."""
        self._session.close()

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: object, traceback: object) -> None:
        """Close the client."""
        self.close()

    def __repr__(self) -> str:
        """Show socket and state."""
        return f"<Client of {self.socket}{', closed' if self._session.closed else ''}>"

    def _connection(self) -> Connection:
        return self._session.connection()

    def _meta(
        self, connection: Connection, encoded: _codec.Encoded, token: bytes, labels: Mapping[str, str]
    ) -> ValueMeta:
        return self._session.meta(connection, token, encoded.type_name, encoded.summary, encoded.nbytes, labels)


class _Creation(ContextManager[Draft]):
    """The block of ``Client.create``."""

    def __init__(
        self,
        client: Client,
        like: object,
        labels: Mapping[str, str],
        persist: bool,
        allowed_classes: Sequence[str],
        path: Sequence[str],
    ) -> None:
        self._client = client
        self._like = like
        self._labels = labels
        self._persist = persist
        self._allowed_classes = allowed_classes
        self._path = path
        self._generation = generation()

    def __enter__(self) -> Draft:
        """Start the object."""
        client, like = self._client, self._like
        template = memoryview(bytearray(like)) if type(like) is int else like
        self._token = os.urandom(16)
        self._trust = client._trust(self._allowed_classes)
        self._encoded = _codec.encode(template, token=self._token, **self._trust)
        try:
            self._left_to_fill = _codec.left_to_fill(template, self._encoded.chunks)
            self._connection = connection = client._connection()
            self._meta = client._meta(connection, self._encoded, self._token, self._labels)
            self._envelope = writing.with_room(client._session, connection, self._start)
            self._draft = Draft(_codec.decode(self._envelope, token=self._token, **self._trust))
            return self._draft
        except BaseException:
            self._give_up()
            raise

    def _start(self) -> memoryview:
        self._drafting = drafting = Drafting(self._connection, self._meta)
        when_dropped(self, self._connection.debts.adding(drafting))
        try:
            return drafting.start(self._encoded.chunks, self._left_to_fill)
        except BaseException:
            drafting.undo()
            raise

    def __exit__(self, kind: Optional[Type[BaseException]], error: object, traceback: object) -> None:
        """Make the object whole, or undo it."""
        if self._generation != generation():
            return  # a child leaves the block; the object is the parent's
        noted: List[Note] = []
        try:
            connection = self._connection = self._connection.until(self._client._session.deadline())
            self._drafting.go_on(connection)
            if kind is None and self._in_place():
                self._drafting.finish()
                writing.persist(connection, self._drafting.number, self._persist)
                ref = self._client._session.reference(connection, self._drafting.number, self._meta)
                self._draft.ref = writing.save(self._client._session, connection, ref, self._path, noted)
                self._encoded.release()
                return
        except BaseException:
            self._give_up()
            writing.take_back(self._client._session, noted)
            raise
        self._give_up()
        if kind is None:
            self._draft.ref = self._client.put(
                self._draft.value,
                labels=self._labels,
                persist=self._persist,
                allowed_classes=self._allowed_classes,
                path=self._path,
            )

    def _in_place(self) -> bool:
        if self._drafting.forked:
            return False
        filled = _codec.encode(self._draft.value, token=self._token, **self._trust)
        try:
            return _codec.lies_in(filled, self._envelope)
        finally:
            filled.release()

    def _give_up(self) -> None:
        drafting: Optional[Drafting] = getattr(self, "_drafting", None)
        if drafting is not None:
            drafting.undo()
        self._encoded.release()


def _shown(value: object, nbytes: int, level: str, hide: Optional[Callable[[str], bool]]) -> bytes:
    """Return the preview of a value that takes so many bytes."""
    from ._codec.preview import LIMIT, preview

    limit = INLINE_PREVIEW if nbytes <= INLINE_LIMIT else LIMIT
    return preview(value, level, limit=limit, hide=hide, nbytes=nbytes)


def _check_host(host: str, native: bool) -> None:
    if native:
        raise ValueError("A native object has no place for the name of a host: leave host out.")
    if not (0 < len(host) <= _HOST_LIMIT and host.isprintable()):
        raise ValueError(f"{host!r:.300} is no host's name: write 1 to {_HOST_LIMIT} printable characters.")


def preload() -> None:
    """Load what values of the libraries that this process has imported need: some milliseconds of work.

    For a process that forks others, which then need not do it, each before its first value. It imports no library.
    """
    _codec.preload()
    mapping.preload()
