"""Between the records of a store and live sessions."""

import asyncio
import hashlib
import re
from hmac import compare_digest
from traceback import extract_tb
from typing import Any, Generic, NamedTuple, TypeGuard, cast
from weakref import WeakValueDictionary

from pydantic import RootModel, ValidationError

from ..errors import SessionInvalid, SessionTooLarge
from ..events import Events, logger
from ..records import Record, from_microseconds, new_version
from .bounded import BoundedStore
from .codec import Codec, Migration, read_json
from .header import HEADER_SIZE, CorruptBody, Header
from .models import Model
from .settings import Settings

# what every store can keep as text: PostgreSQL has no place for NUL, UTF-8 none for a surrogate
_SUBJECT = re.compile("[^\x00\ud800-\udfff]{1,255}")


class SessionRecord(NamedTuple):
    """A record whose header was read.

    Attributes:
        raw: The JSON that a change is laid over: as it is stored, so that it may hold fields that
            this release does not know, or the result of a migration.
    """

    key: str
    record: Record
    header: Header
    raw: bytes

    def __repr__(self) -> str:
        return f"SessionRecord(key={self.key!r})"


class LoadedSession(NamedTuple, Generic[Model]):
    """A live session, as it was loaded.

    Attributes:
        data: The model that a route works on.
        base: The dump of the data right after it was loaded; a commit compares with it.
    """

    stored: SessionRecord
    data: Model
    base: bytes

    def __repr__(self) -> str:
        return f"LoadedSession({self.stored!r})"


class Repository(Generic[Model]):
    """The sessions of one provider.

    Attributes:
        settings: What the application configured.
        store: The configured store, bounded.
        codec: Reads and writes the model.
        events: Tells the log and the application what happened.
    """

    def __init__(self, settings: Settings[Model]) -> None:
        self.settings = settings
        self.events = Events(settings.name, settings.on_event)
        self.store = BoundedStore(settings.store, settings.store_timeout, self.events)
        self.codec = Codec(settings.model)
        self._queues: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load(self, key: str, *secret_hashes: bytes) -> LoadedSession[Model] | None:
        """The live session under a key; where hashes are given, one of them is its secret's.

        Raises:
            StoreUnavailable: the store cannot tell.
            SessionInvalid: the data does not fit the model, and ``on_invalid`` is "raise".
        """
        record = await self.store.load(key)
        return None if record is None else self.read(key, record, *secret_hashes)

    def read(self, key: str, record: Record, *secret_hashes: bytes) -> LoadedSession[Model] | None:
        """A record as a live session; None: it is none, and an event was emitted that says why."""
        try:
            header = Header.unpack(record.body, self.binding(key))
        except CorruptBody:
            self.events.emit("corrupt", key, reason="the header is not one of ours")
            return None
        if secret_hashes and not _is_one_of(header.secret_hash, secret_hashes):
            return None
        if header.expires_at(self.settings.lifetime) <= self.settings.now():
            self.events.emit("expired", key)
            return None
        return self._read_data(SessionRecord(key, record, header, record.body[HEADER_SIZE:]))

    def _read_data(self, stored: SessionRecord) -> LoadedSession[Model] | None:
        try:
            data = self.codec.load(stored.raw)
        except ValidationError as error:
            invalid = error
        else:
            return LoadedSession(stored, data, self.codec.dump_as_read(data, stored.raw))
        # outside of the except block: the error's text holds the values
        return self._read_invalid(stored, invalid)

    def _read_invalid(
        self, stored: SessionRecord, error: ValidationError
    ) -> LoadedSession[Model] | None:
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
        return None

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
            # A migration that fails costs a session and never the request. The text of its error
            # may hold what was stored.
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
        self, key: str, header: Header, raw: bytes, subject: str | None, replaces: str = ""
    ) -> Record:
        """The next record of the session with this key.

        Raises:
            SessionTooLarge: it would take more than ``max_bytes``.
        """
        body = header.pack(self.binding(key)) + raw
        if len(body) > self.settings.max_bytes:
            raise SessionTooLarge(len(body), self.settings.max_bytes)
        owner = None if subject is None else self.owner(subject)
        expires_at = from_microseconds(header.expires_at(self.settings.lifetime))
        return Record(body, new_version(replaces), owner, expires_at)

    def binding(self, key: str) -> bytes:
        """What binds a body to its key and provider: copied elsewhere it is no session."""
        return hashlib.sha256(f"{self.settings.name}:{key}".encode()).digest()[:8]

    def owner(self, subject: str) -> str:
        """How a store knows a subject: under the provider's name, for providers share a store."""
        return f"{self.settings.name}:{subject}"

    def subject(self, record: Record) -> str | None:
        """The subject of a record, without the provider's name."""
        owner = record.owner
        return None if owner is None else owner.removeprefix(f"{self.settings.name}:")

    def queue(self, key: str) -> asyncio.Lock:
        """Where the commits of one session wait for each other after a conflict."""
        return self._queues.setdefault(key, asyncio.Lock())

    def __repr__(self) -> str:
        return f"<Repository of {self.settings.name!r}>"


def is_subject(text: str | None) -> TypeGuard[str]:
    """Whether a text can be a subject: every store can keep it."""
    return text is not None and _SUBJECT.fullmatch(text) is not None


def _is_one_of(secret_hash: bytes, hashes: tuple[bytes, ...]) -> bool:
    # all are compared, so that the time taken does not tell which one it is
    return any([compare_digest(secret_hash, each) for each in hashes])  # noqa: C419
