"""Loads the records of a store as sessions, and makes records of sessions."""

import asyncio
import re
from hmac import compare_digest
from traceback import extract_tb
from typing import Any, Generic, Literal, NamedTuple, TypeGuard, cast
from weakref import WeakValueDictionary

from pydantic import RootModel, ValidationError

from ..errors import SessionInvalid, SessionTooLarge
from ..events import Events, logger
from ..records import MAX_BODY_BYTES, Record, from_microseconds, new_version
from .bounded import BoundedStore
from .codec import Codec, Migration, read_json
from .header import CorruptBody, Header
from .models import Model
from .seal import Seal
from .settings import Settings

GRACE_PERIOD = 5 * 60 * 1_000_000
"""For how long, in microseconds, a request may carry a token that its browser has replaced. Proxies
buffer uploads that long; a longer time would lock out a browser that lost a renewal's response."""

# what every store can keep as text: PostgreSQL has no place for NUL, UTF-8 none for a surrogate
_SUBJECT = re.compile("[^\x00\ud800-\udfff]{1,255}")


class SessionRecord(NamedTuple):
    """A record with its header, unpacked.

    Attributes:
        json: The data as it is stored, which may hold fields that this release does not know.
        raw: What a change is laid over: the same, or after a migration its result.
    """

    key: str
    record: Record
    header: Header
    json: bytes
    raw: bytes

    def __repr__(self) -> str:
        return f"SessionRecord(key={self.key!r})"


class LoadedSession(NamedTuple, Generic[Model]):
    """A live session, as it was loaded.

    Attributes:
        data: The model, which the route may change.
        base: The dump of the data right after it was loaded; a commit compares with it.
    """

    stored: SessionRecord
    data: Model
    base: bytes

    def __repr__(self) -> str:
        return f"LoadedSession({self.stored!r})"


class Absent(NamedTuple):
    """Why there is no live session under a key.

    ``"ended"``: it was destroyed a few minutes ago. ``"outdated"``: its token was replaced, at
    ``renewed_at``. ``"missing"``: it expired, was revoked or evicted, or never was.
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
        events: Tells the log and the application what happened.
    """

    def __init__(self, settings: Settings[Model]) -> None:
        self.settings = settings
        self.events = Events(settings.name, settings.on_event)
        self.store = BoundedStore(settings.store, settings.store_timeout, self.events)
        self.codec = Codec(settings.model)
        self.seal = Seal(settings.keyring, settings.name, encrypt=settings.encrypt)
        self._queues: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load(self, key: str, *secret_hashes: bytes) -> LoadedSession[Model] | Absent:
        """The live session under a key; where hashes are given, one of them is its secret's.

        Raises:
            StoreUnavailable: the store failed.
            SessionInvalid: the data does not fit the model, and ``on_invalid`` is "raise".
        """
        record = await self.store.load(key)
        return Absent("missing") if record is None else self.read(key, record, *secret_hashes)

    def read(
        self, key: str, record: Record, *secret_hashes: bytes
    ) -> LoadedSession[Model] | Absent:
        """A record as a live session; an event is emitted where the record cannot be read."""
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
        return self._read_data(SessionRecord(key, record, header, json, raw=json))

    def header(self, key: str, record: Record) -> Header | None:
        """The header of a record; None: it is no session of ours."""
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
        """Whether a revocation of the subject's sessions would find the record."""
        return owner is None if subject is None else owner in self.seal.owners(subject)

    def _read_data(self, stored: SessionRecord) -> LoadedSession[Model] | Absent:
        try:
            data = self.codec.load(stored.raw)
        except ValidationError as error:
            invalid = error
        else:
            return LoadedSession(stored, data, self.codec.dump_as_read(data, stored.raw))
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
                return LoadedSession(stored._replace(raw=dump), data, dump)
        fields = self.codec.fields_of(error)
        reason = "the data does not fit the model"
        self.events.emit("corrupt", stored.key, reason=reason, fields=", ".join(fields))
        if on_invalid == "raise":
            raise SessionInvalid("The stored session does not fit its model.", fields)
        return Absent("unreadable")

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
        """What stands under the key of a session that was just ended, so that a request which
        still carries its token does not replace the browser's newer cookie."""
        until = from_microseconds(self.settings.now() + GRACE_PERIOD)
        return Record(self.seal.close(key, None, b""), new_version(), None, until)

    def queue(self, key: str) -> asyncio.Lock:
        """Return the lock with which the commits of a session queue after a conflict."""
        return self._queues.setdefault(key, asyncio.Lock())

    def __repr__(self) -> str:
        return f"<Repository of {self.settings.name!r}>"


def is_subject(text: str | None) -> TypeGuard[str]:
    """Return whether a text can be a subject, which every store can keep."""
    return text is not None and _SUBJECT.fullmatch(text) is not None


def _is_one_of(secret_hash: bytes, hashes: tuple[bytes, ...]) -> bool:
    # compares all of them, so that the time it takes does not reveal which one is equal
    return any([compare_digest(secret_hash, each) for each in hashes])  # noqa: C419
