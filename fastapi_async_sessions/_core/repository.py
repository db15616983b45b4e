"""Loads the records of a store as sessions, and makes records of sessions."""

import asyncio
import gc
import re
from collections.abc import Callable
from functools import partial
from hmac import compare_digest
from traceback import extract_tb
from typing import Any, Generic, Literal, NamedTuple, TypeGuard, cast
from weakref import WeakSet, WeakValueDictionary

from pydantic import RootModel, ValidationError

from ..errors import ConfigurationError, SessionInvalid, SessionTooLarge
from ..events import Events, logger
from ..records import MAX_BODY_BYTES, Record, from_microseconds, new_version
from ..stores.base import Store
from .attempts import RecentWrites
from .bounded import BoundedStore
from .codec import Codec, Migration, read_json
from .header import CorruptBody, Header
from .models import Model
from .seal import Seal
from .settings import Settings
from .unread import NOTHING, Unread

GRACE_PERIOD = 5 * 60 * 1_000_000
"""How long a request may still use a token after it was replaced, in microseconds. Proxies buffer
uploads that long; a longer time would lock out a browser that lost the response to a renewal."""

# text that every store can keep: PostgreSQL has no NUL, and UTF-8 has no lone surrogates
_SUBJECT = re.compile("[^\x00\ud800-\udfff]{1,255}")


class SessionRecord(NamedTuple):
    """A record with its header, unpacked.

    Attributes:
        json: The data as it is stored, which may hold fields that this release does not know.
        raw: The JSON to which a change is applied: the same, or the result of a migration.
    """

    key: str
    record: Record
    header: Header
    json: bytes
    raw: bytes

    def __repr__(self) -> str:
        return f"SessionRecord(key={self.key!r})"


class Contents(NamedTuple, Generic[Model]):
    """The data of a session, as a request begins with it.

    Attributes:
        data: The model, which the route may change.
        base: The dump of the data right after it was read; a commit compares with it.
        unread: The parts that this release cannot read; the base has them as they are stored.
    """

    data: Model
    base: bytes
    unread: Unread = NOTHING

    def __repr__(self) -> str:
        return "Contents(...)"


class LoadedSession(Generic[Model]):
    """A live session, whose data is read when it is first asked for: many requests only need to
    know who is signed in."""

    __slots__ = ("_contents", "_read", "stored")

    def __init__(self, stored: SessionRecord, read: Callable[[], Contents[Model]]) -> None:
        self.stored = stored
        self._read = read
        self._contents: Contents[Model] | None = None

    def contents(self) -> Contents[Model]:
        """Return the data, which is read once."""
        if self._contents is None:
            self._contents = self._read()
        return self._contents

    @property
    def is_read(self) -> bool:
        """Whether the data was read, so that the model may have kept a reference to it."""
        return self._contents is not None

    def __repr__(self) -> str:
        return f"LoadedSession({self.stored!r})"


class Absent(NamedTuple):
    """There is no live session under a key.

    Attributes:
        reason: ``"missing"``: it expired, was revoked or evicted, or never existed; ``"ended"``: it
            was destroyed a few minutes ago; ``"outdated"``: its token was replaced; ``"corrupt"``
            and ``"unreadable"``: an event was emitted that says more.
        renewed_at: When an outdated token was replaced.
    """

    reason: Literal["missing", "ended", "outdated", "corrupt", "unreadable"]
    renewed_at: int | None = None


class Repository(Generic[Model]):
    """The sessions of one provider.

    Attributes:
        settings: The arguments of the provider.
        store: The provider's store, in a ``BoundedStore``.
        codec: Reads and writes the model.
        seal: Seals records, and names their owners.
        writes: The recent writes of this process.
        events: Emits the provider's events.
    """

    def __init__(self, settings: Settings[Model]) -> None:
        self.settings = settings
        self.events = Events(settings.name, settings.on_event)
        self.store: Store = BoundedStore(settings.store, settings.store_timeout, self.events)
        self.codec = Codec(settings.model, loose=settings.request_session)
        self.seal = Seal(settings.keyring, settings.name, encrypt=settings.encrypt)
        self.writes = RecentWrites()
        self._reported: set[str] = set()  # unreadable fields that an event has named
        # by key and event loop, because a lock belongs to one
        self._queues: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()
        self._check_max_bytes()

    def _check_max_bytes(self) -> None:
        settings = self.settings
        header = Header.new(settings.now(), settings.lifetime, persistent=settings.persistent)
        try:
            self.new_record("", header, self.codec.dump(self.codec.new()), None)
        except SessionTooLarge as error:
            raise ConfigurationError(
                f"SessionProvider: max_bytes={error.limit} is less than a new session takes, which "
                f"is {error.size} bytes"
            ) from None

    async def load(self, key: str, *secret_hashes: bytes) -> LoadedSession[Model] | Absent:
        """Return the live session with this key, if any.

        If hashes are given, the hash of the session's secret must be one of them.

        Raises:
            StoreUnavailable: the store failed.
            SessionInvalid: the data does not fit the model, and ``on_invalid`` is "raise".
        """
        record = await self.store.load(key)
        return Absent("missing") if record is None else self.read(key, record, *secret_hashes)

    def read(
        self, key: str, record: Record, *secret_hashes: bytes
    ) -> LoadedSession[Model] | Absent:
        """Return the live session that a record holds; emit an event if it cannot be read."""
        try:
            content = self._content(key, record)
            if not content:
                return Absent("ended")
            header, json = Header.unpack(content)
        except CorruptBody:
            self.events.emit("corrupt", key, reason="the record was not sealed here")
            return Absent("corrupt")
        if secret_hashes and not _is_one_of(header.secret_hash, secret_hashes):
            return Absent("outdated", header.renewed_at)
        if header.expires_at(self.settings.lifetime) <= self.settings.now():
            return Absent("missing")
        if not self._is_owned(record.owner, header.subject):
            return Absent("missing")
        stored = SessionRecord(key, record, header, json, raw=json)
        if self.codec.is_verbatim(json):
            return LoadedSession(stored, partial(self._contents, json))
        # it is not known whether this release can read it
        return self._read_data(stored)

    def new_contents(self) -> Contents[Model]:
        """Make the data of a new session."""
        data = self.codec.new()
        return Contents(data, self.codec.dump(data))

    def header(self, key: str, record: Record) -> Header | None:
        """Return the header of a record; None if it is not a session of this provider."""
        try:
            content = self._content(key, record)
            header = Header.unpack(content)[0] if content else None
        except CorruptBody:
            return None
        return header if header and self._is_owned(record.owner, header.subject) else None

    def _content(self, key: str, record: Record) -> bytes:
        if len(record.body) > MAX_BODY_BYTES:
            raise CorruptBody
        content = self.seal.open(key, record.owner, record.body)
        if content is None:
            raise CorruptBody
        return content

    def _is_owned(self, owner: str | None, subject: str | None) -> bool:
        """Return whether a revocation of the subject's sessions finds the record."""
        return owner is None if subject is None else self.seal.is_owner(owner, subject)

    def _contents(self, raw: bytes) -> Contents[Model]:
        data = self.codec.load(raw)
        return Contents(data, self.codec.dump_as_read(data, raw))

    def _read_data(self, stored: SessionRecord) -> LoadedSession[Model] | Absent:
        try:
            return _loaded(stored, self._contents(stored.raw))
        except ValidationError as error:
            invalid = error
        # outside of the except block, because the error's text contains the values
        return self._read_invalid(stored, invalid)

    def _read_invalid(
        self, stored: SessionRecord, error: ValidationError
    ) -> LoadedSession[Model] | Absent:
        on_invalid = self.settings.on_invalid
        if callable(on_invalid):
            data = self._migrate(on_invalid, stored.raw, error)
            if data is not None:
                dump = self.codec.dump(data)
                return _loaded(stored._replace(raw=dump), Contents(data, dump))
        if on_invalid == "fallback":
            loaded = self._read_partly(stored, error)
            if loaded is not None:
                return loaded
        fields = self.codec.fields_of(error)
        reason = "the data does not fit the model"
        self.events.emit("corrupt", stored.key, reason=reason, fields=", ".join(fields))
        if on_invalid == "raise":
            raise SessionInvalid("The stored session does not fit its model.", fields)
        return Absent("unreadable")

    def _read_partly(
        self, stored: SessionRecord, error: ValidationError
    ) -> LoadedSession[Model] | None:
        partly = self.codec.load_partly(stored.raw, error)
        if partly is None:
            return None
        fields = ", ".join(self.codec.fields_of(error)) or "data"
        if fields not in self._reported:
            self._reported.add(fields)
            self.events.emit("unreadable", stored.key, fields=fields)
        data, unread = partly
        base = self.codec.restored(self.codec.dump(data), unread)
        return _loaded(stored, Contents(data, base, unread))

    def _migrate(
        self, migration: Migration[Model], raw: bytes, error: ValidationError
    ) -> Model | None:
        try:
            values = read_json(raw)
            if not isinstance(values, dict) and not issubclass(self.settings.model, RootModel):
                return None
            migrated = migration(cast(dict[str, Any], values), error)
            return self.codec.read_back(self.codec.dump(migrated))
        except Exception as failure:
            # If a migration fails, the session is lost, but the request goes on. The text of the
            # error may contain stored values.
            place = extract_tb(failure.__traceback__)[-1]
            logger.error(
                "on_invalid failed for provider %r: %s in %s, line %s",
                self.settings.name,
                type(failure).__name__,
                place.filename,
                place.lineno,
            )
            return None

    def dump_of(self, raw: bytes) -> bytes | None:
        """Return the dump of the data that is read from this JSON; None: it does not fit."""
        codec = self.codec
        try:
            return codec.dump(codec.load(raw))
        except SessionInvalid:
            return None
        except ValidationError as error:
            is_partial = self.settings.on_invalid == "fallback"
            partly = codec.load_partly(raw, error) if is_partial else None
            return None if partly is None else codec.restored(codec.dump(partly[0]), partly[1])

    def new_record(
        self, key: str, header: Header, raw: bytes, owner: str | None, replaces: str = ""
    ) -> Record:
        """Make the next record of the session with this key.

        Raises:
            SessionTooLarge: it would take more than ``max_bytes``.
        """
        body = self.seal.close(key, owner, header.pack() + raw)
        if len(body) > self.settings.max_bytes:
            raise SessionTooLarge(len(body), self.settings.max_bytes)
        expires_at = from_microseconds(header.expires_at(self.settings.lifetime))
        return Record(body, new_version(replaces), owner, expires_at)

    def ended_record(self, key: str) -> Record:
        """Make the record that replaces a session that was just ended.

        It has no data and no owner. While it is there, a request that still carries the session's
        token does not replace the browser's newer cookie.
        """
        until = from_microseconds(self.settings.now() + GRACE_PERIOD)
        return Record(self.seal.close(key, None, b""), new_version(), None, until)

    def claim_name(self) -> None:
        """Keep other models from the names of this provider's records, as long as it lives.

        Raises:
            ConfigurationError: a provider of this name keeps another model in the store.
        """
        attributes: dict[str, Any] = vars(self.settings.store)
        repositories: WeakSet[Repository[Any]] = attributes.setdefault("_repositories", WeakSet())
        if any(map(self._is_rival, repositories)):
            gc.collect()  # an unused provider may still be in a reference cycle
        if any(map(self._is_rival, repositories)):
            name = self.settings.name
            raise ConfigurationError(
                f"this store already serves a provider named {name!r} with another model: "
                f'give one of them another name, as in SessionProvider(..., name="{name}-2")'
            )
        repositories.add(self)

    def _is_rival(self, other: "Repository[Any]") -> bool:
        # by name: an application factory may define the model again at each call
        ours, theirs = self.settings.model, other.settings.model
        is_same_model = (ours.__module__, ours.__qualname__) == (
            theirs.__module__,
            theirs.__qualname__,
        )
        return other.settings.name == self.settings.name and not is_same_model

    def queue(self, key: str) -> asyncio.Lock:
        """Return the lock with which the commits of a session queue after a conflict."""
        return self._queues.setdefault((key, asyncio.get_running_loop()), asyncio.Lock())

    def __repr__(self) -> str:
        return f"<Repository of {self.settings.name!r}>"


def _loaded(stored: SessionRecord, contents: Contents[Model]) -> LoadedSession[Model]:
    loaded = LoadedSession(stored, lambda: contents)
    loaded.contents()
    return loaded


def is_subject(text: str | None) -> TypeGuard[str]:
    """Return whether a text can be a subject, which every store can keep.

    Raises:
        TypeError: it is neither text nor None.
    """
    if not isinstance(text, str | None):
        raise TypeError(f"a subject is a str, not {type(text).__name__}: write str(user.id)")
    return text is not None and _SUBJECT.fullmatch(text) is not None


def _is_one_of(secret_hash: bytes, hashes: tuple[bytes, ...]) -> bool:
    # compares all of them, so that the time it takes does not reveal which one is equal
    return any([compare_digest(secret_hash, each) for each in hashes])  # noqa: C419
