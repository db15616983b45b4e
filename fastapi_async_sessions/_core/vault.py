"""One provider's view of its store: bounded calls, and what each of them means for a session."""

import asyncio
import hashlib
import re
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hmac import compare_digest
from inspect import iscoroutinefunction
from traceback import extract_tb
from typing import Any, Generic, Literal, NamedTuple, TypeGuard, cast, get_args
from weakref import WeakValueDictionary

from pydantic import RootModel, ValidationError

from .._web.cookies import LONGEST_MAX_AGE
from ..errors import (
    ConfigurationError,
    SessionError,
    SessionInvalid,
    SessionTooLarge,
    StoreUnavailable,
)
from ..events import Events, logger
from ..lifetime import Clock, Lifetime
from ..records import Record, new_version
from ..stores.base import Store
from .codec import (
    EPOCH,
    FACTS_SIZE,
    MICROSECOND,
    Codec,
    CorruptBody,
    Facts,
    Migration,
    Model,
    read_json,
)
from .finish import Deadline, Result
from .tokens import store_key

OnInvalid = Literal["discard", "raise"]
OnConflict = Literal["overwrite", "raise"]

LARGEST_BODY = 1024 * 1024
"""No session is larger, in bytes; what a store gives back beyond it is not read."""

# what every store can keep as text: PostgreSQL has no place for NUL, UTF-8 none for a surrogate
_SUBJECT = re.compile("[^\x00\ud800-\udfff]{1,255}")

_NAME = re.compile(r"(?!__)[A-Za-z0-9_-]{1,64}")
_KINDS: Mapping[str, type] = {
    "name": str,
    "lifetime": Lifetime,
    "max_bytes": int,
    "store_timeout": timedelta,
    "commit_timeout": timedelta,
}

_MARK_LIFE = timedelta(days=1)


class Stored(NamedTuple, Generic[Model]):
    """A session as the store has it.

    ``base`` is the data's dump right after it was read, with which a commit compares; ``raw`` is
    the JSON as stored, which may know fields that this release does not.
    """

    key: str
    record: Record
    facts: Facts
    data: Model
    base: bytes
    raw: bytes

    def __repr__(self) -> str:
        return f"Stored(key={self.key!r})"


@dataclass(frozen=True, slots=True)
class Vault(Generic[Model]):
    """What sessions of one provider share: where and how they are kept, and for how long."""

    name: str
    codec: Codec[Model]
    store: Store
    lifetime: Lifetime
    clock: Clock
    events: Events
    on_invalid: OnInvalid | Migration[Model]
    on_conflict: OnConflict
    max_bytes: int
    store_timeout: timedelta
    commit_timeout: timedelta
    persistent: bool
    queues: WeakValueDictionary[str, asyncio.Lock]

    def __post_init__(self) -> None:
        require(isinstance(self.store, Store), "store=... takes a Store, such as MemoryStore()")
        for option, kind in _KINDS.items():
            is_right = isinstance(getattr(self, option), kind)
            require(is_right, f"{option}=... takes a {kind.__name__}")
        require(
            _NAME.fullmatch(self.name) is not None,
            "name=... has 1 to 64 of the characters A-Z a-z 0-9 _ - and does not begin with __",
        )
        require(
            self.on_conflict in get_args(OnConflict), 'on_conflict=... is "overwrite" or "raise"'
        )
        require(
            self.on_invalid in get_args(OnInvalid) or is_plain(self.on_invalid),
            'on_invalid=... is "discard", "raise" or a plain function of the dict and the error',
        )
        require(0 < self.max_bytes <= LARGEST_BODY, f"max_bytes=... is 1 to {LARGEST_BODY}")
        require(
            min(self.store_timeout, self.commit_timeout) > timedelta(0),
            "store_timeout and commit_timeout are positive",
        )
        require(
            not self.persistent or (self.lifetime.absolute or timedelta(0)) <= LONGEST_MAX_AGE,
            "a persistent cookie lives 400 days at most: choose a shorter Lifetime(absolute=...)",
        )
        require(_is_utc(self.clock), "clock=... gives aware datetimes in UTC")

    async def load(self, key: str, *secret_hashes: bytes) -> Stored[Model] | None:
        """The live session under a key; where hashes are given, one of them is its secret's.

        Raises:
            StoreUnavailable: the store can't tell.
            SessionInvalid: the data doesn't fit the model, and ``on_invalid`` is "raise".
        """
        record = await self.ask(self.store.load(key), key)
        if record is None:
            return None
        return self.read(key, record, *secret_hashes)

    def read(self, key: str, record: Record, *secret_hashes: bytes) -> Stored[Model] | None:
        """A record as a live session; None: it isn't one, and an event has told why."""
        try:
            if len(record.body) > LARGEST_BODY:
                raise CorruptBody
            facts = Facts.unpack(record.body, self.binding(key))
            expires_at = facts.expires_at(self.lifetime)
        except (CorruptBody, OverflowError):
            self.events.tell("corrupt", key, reason="the header is not one of ours")
            return None
        known = [compare_digest(facts.secret_hash, each) for each in secret_hashes]
        if known and not any(known):
            return None
        if expires_at <= self.clock():
            self.events.tell("expired", key)
            return None
        return self._read_data(key, record, facts)

    def _read_data(self, key: str, record: Record, facts: Facts) -> Stored[Model] | None:
        raw = record.body[FACTS_SIZE:]
        try:
            data = self.codec.load(raw)
        except ValidationError as error:
            invalid = error
        else:
            return Stored(key, record, facts, data, self.codec.dump_as_read(data, raw), raw)
        # outside the except block: the error's text holds the values
        return self._read_invalid(key, record, facts, raw, invalid)

    def _read_invalid(
        self, key: str, record: Record, facts: Facts, raw: bytes, error: ValidationError
    ) -> Stored[Model] | None:
        if callable(self.on_invalid):
            data = self._migrate(self.on_invalid, raw, error)
            if data is not None:
                dump = self.codec.dump(data)
                return Stored(key, record, facts, data, base=dump, raw=dump)
        fields = self.codec.fields(error)
        self.events.tell(
            "corrupt", key, reason="the data does not fit the model", fields=", ".join(fields)
        )
        if self.on_invalid == "raise":
            raise SessionInvalid("The stored session does not fit its model.", fields)
        return None

    def _migrate(
        self, migration: Migration[Model], raw: bytes, error: ValidationError
    ) -> Model | None:
        try:
            values = read_json(raw)
            if not isinstance(values, dict) and not issubclass(self.codec.model, RootModel):
                return None
            migrated = migration(cast(dict[str, Any], values), error)
            return self.codec.check(self.codec.dump(migrated))
        except Exception as failure:
            # whatever a migration does wrong, the request goes on with a new session (F-36); the
            # error's text may hold what was stored
            place = extract_tb(failure.__traceback__)[-1]
            logger.error(
                "on_invalid failed for provider %r: %s in %s, line %s",
                self.name,
                type(failure).__name__,
                place.filename,
                place.lineno,
            )
            return None

    def record(
        self, key: str, facts: Facts, raw: bytes, subject: str | None, replaces: str = ""
    ) -> Record:
        """The next record of the session with this key.

        Raises:
            SessionTooLarge: it would take more than ``max_bytes``.
        """
        body = facts.pack(self.binding(key)) + raw
        if len(body) > self.max_bytes:
            raise SessionTooLarge(len(body), self.max_bytes)
        owner = None if subject is None else self.owner(subject)
        return Record(body, new_version(replaces), owner, facts.expires_at(self.lifetime))

    def binding(self, key: str) -> bytes:
        """What ties a body to its key and provider: copied elsewhere it is no session."""
        return hashlib.sha256(f"{self.name}:{key}".encode()).digest()[:8]

    def is_subject(self, text: str | None) -> TypeGuard[str]:
        """Whether somebody can be signed in under a text: the store can keep it."""
        return text is not None and _SUBJECT.fullmatch(text) is not None

    def owner(self, subject: str) -> str:
        """How a store knows a subject: under the provider's name, so that providers share one."""
        return f"{self.name}:{subject}"

    def subject(self, record: Record) -> str | None:
        """The subject of a record, without the provider's name."""
        return None if record.subject is None else record.subject.removeprefix(f"{self.name}:")

    async def mark_revoked(self, subject: str, since: datetime | None = None) -> str | None:
        """Note that every session of a subject ends now.

        Who signs that subject in at this moment reads the note after writing; see ``is_revoked``.
        Returns the note's version, for who is exempt from it; None: it took the place of a note at
        or after ``since``, from which who began then is not exempt.
        """
        key = self._mark_key(subject)
        before: Record | None = None
        for _ in range(10):
            mark = self._mark(before)
            if before is None:
                is_written = await self.ask(self.store.create(key, mark))
            else:
                is_written = await self.ask(self.store.save(key, mark, replaces=before.version))
            if is_written:
                is_first = before is None or since is None or _marked_at(before) < since
                return mark.version if is_first else None
            before = await self.ask(self.store.load(key))
        raise StoreUnavailable("the note of a revocation could not be written")

    def _mark(self, before: Record | None) -> Record:
        now = self.clock()
        # two revocations at once: the later moment counts, whichever is written last
        at = now if before is None else max(now, _marked_at(before))
        body = str((at - EPOCH) // MICROSECOND).encode()
        return Record(body, new_version(), None, now + _MARK_LIFE)

    async def is_revoked(self, subject: str, since: datetime, exempt: str | None) -> bool:
        """Whether all sessions of a subject were revoked at or after a moment.

        ``exempt`` is the version of a note that does not count.
        """
        mark = await self.ask(self.store.load(self._mark_key(subject)))
        if mark is None or mark.version == exempt:
            return False
        return _marked_at(mark) >= since

    def _mark_key(self, subject: str) -> str:
        return store_key("revoked", self.name, subject.encode())

    def queue(self, key: str) -> asyncio.Lock:
        """Where commits of one session wait for each other, once two have met."""
        return self.queues.setdefault(key, asyncio.Lock())

    async def ask(self, call: Coroutine[Any, Any, Result], key: str | None = None) -> Result:
        """The answer of the store, in time.

        Raises:
            StoreUnavailable: it failed in any way, or took longer than ``store_timeout``.
        """
        try:
            with Deadline(self.store_timeout):
                return await call
        except TimeoutError:
            reason = f"no answer within {self.store_timeout.total_seconds():g} seconds"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            reason = "the store cancelled the call"  # some task of its own: nobody cancelled ours
        except StoreUnavailable as error:
            self.events.tell("store_error", key, reason=error.reason)
            raise
        except SessionError:
            raise
        except Exception as error:
            # a store of the user's own: what its driver says may hold a record (F-37)
            reason = f"the store raised {type(error).__name__}"
        self.events.tell("store_error", key, reason=reason)
        # outside the except block, so that the driver's error is not in __context__
        raise StoreUnavailable(reason)


def _marked_at(mark: Record) -> datetime:
    return EPOCH + int(mark.body) * MICROSECOND


def require(condition: bool, rule: str) -> None:
    """Refuse an argument of the provider that breaks a rule.

    Raises:
        ConfigurationError: it does.
    """
    if not condition:
        raise ConfigurationError(f"SessionProvider: {rule}")


def is_plain(function: object) -> bool:
    """Whether something can be called and is no coroutine function, which nobody would await."""
    is_async = iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__)
    return callable(function) and not is_async


def _is_utc(clock: Clock) -> bool:
    now = clock() if callable(clock) else None
    return isinstance(now, datetime) and now.utcoffset() == timedelta(0)
