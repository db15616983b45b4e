"""One request's work on a session: what it changed, and the commit."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Generator, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Generic, Literal

from anyio import CancelScope

from .codec import Facts, Model, adopt, read_json, write_json
from .errors import (
    SessionClosed,
    SessionConflict,
    SessionInvalid,
    SessionTooLarge,
    StoreUnavailable,
)
from .events import logger
from .lifetime import Lifetime
from .merge import merge
from .records import includes_write
from .tokens import Token
from .vault import Result, Stored, Vault

_Written = Literal["created", "renewed"] | None


class Carry(Enum):
    """What the response tells the browser about its cookie."""

    KEEP = "nothing"
    SEND = "the token"
    REMOVE = "to forget it"


@dataclass(frozen=True, slots=True)
class Renewal:
    """A new token, and where the subject changes a sign-in, or with None a sign-out."""

    at: datetime
    changes_subject: bool
    subject: str | None
    lifetime: Lifetime | None
    persistent: bool


class Visit(Generic[Model]):
    """The state behind a ``Session``. It knows no HTTP: the jar asks it what to carry."""

    __slots__ = (
        "_doomed",
        "_is_contended",
        "_is_stale",
        "_renewal",
        "_settled",
        "_turn",
        "base",
        "began_at",
        "can_carry",
        "carry",
        "data",
        "exempt_mark",
        "is_new",
        "is_open",
        "is_touched",
        "stored",
        "token",
        "vault",
    )

    def __init__(
        self,
        vault: Vault[Model],
        began_at: datetime,
        stored: Stored[Model] | None = None,
        token: Token | None = None,
        *,
        is_stale: bool = False,
        can_carry: bool = True,
    ) -> None:
        self.vault = vault
        self.began_at = began_at
        self.token = token
        self.can_carry = can_carry
        self.carry = Carry.KEEP
        self.exempt_mark: str | None = None
        self.is_open = True
        self.is_touched = False
        self._is_contended = False
        self._is_stale = is_stale
        self._doomed: list[str] = []
        self._renewal: Renewal | None = None
        self._settled: bytes | None = None
        # tasks of one websocket may commit at the same time: the second one waits for its turn
        self._turn = asyncio.Lock()
        self.is_new = stored is None
        if stored is None:
            self._begin()
        else:
            self._hold(stored)

    def _begin(self) -> None:
        self.stored: Stored[Model] | None = None
        self.data = self.vault.codec.fresh()
        self.base = self.vault.codec.dump(self.data)

    def _hold(self, stored: Stored[Model]) -> None:
        self.stored = stored
        self.data = stored.data
        self.base = stored.base

    # what the route sees

    @property
    def subject(self) -> str | None:
        if self._renewal is not None and self._renewal.changes_subject:
            return self._renewal.subject
        return None if self.stored is None else self.vault.subject(self.stored.record)

    @property
    def facts(self) -> Facts:
        """The facts as a commit at this moment would leave them, but for the extension."""
        if self.stored is not None and self._renewal is None:
            return self.stored.facts
        return self._next_facts(self.stored, b"", self.began_at)

    # what the route asks for

    def renew(self, renewal: Renewal) -> None:
        """Note a renewal for the commit; a later one without a subject keeps an earlier sign-in."""
        if self._renewal is not None and not renewal.changes_subject:
            return
        self._renewal = renewal

    def destroy(self) -> "Burial":
        """End the session; awaiting what is returned, or the end of the request, deletes it."""
        if self.stored is not None:
            self._doomed.append(self.stored.key)
        self._renewal = None
        self._is_stale = False
        self.is_new = True
        self._begin()
        return Burial(self)

    async def bury(self) -> None:
        """Delete what was destroyed. What fails stays to be deleted at the end of the request."""
        async with self._turn:
            await self._bury()

    async def _bury(self) -> None:
        while self._doomed:
            await self._finish(self._delete(self._doomed[0]))
            self.carry = Carry.REMOVE
            self._doomed.pop(0)

    async def reload(self) -> bool:
        """Take the stored data again; False: the session has ended, or was never stored."""
        async with self._turn:
            if self.stored is None:
                self._begin()
                return False
            stored = await self.vault.load(self.stored.key, self.stored.facts.secret_hash)
            if stored is None:
                return False
            self._hold(stored)
            return True

    # the end of a request

    async def close(self) -> None:
        """Commit; afterwards the session can only be read."""
        self.is_open = False
        await self.commit()

    async def roll_back(self) -> None:
        """Commit nothing; what was destroyed stays so, the route having raised or not."""
        self.is_open = False
        await self.bury()

    def report_lost_change(self) -> None:
        """Log an error when the data was changed after the commit."""
        if not self.is_touched or self._settled is None:
            return
        codec = self.vault.codec
        try:
            is_lost = codec.is_change(self._settled, codec.dump(self.data))
        except SessionInvalid:
            is_lost = True
        if is_lost:
            logger.error(
                "the data of a session (provider %r) was changed after the response had begun: "
                "that change is lost. Change it before the route returns, or use "
                "get_session.open(key) in a stream or background task.",
                self.vault.name,
            )

    # the commit

    async def commit(self) -> None:
        """Bring the store up to date: at most one write, unless another request wrote too.

        Raises:
            SessionConflict, SessionInvalid, SessionTooLarge, StoreUnavailable: nothing is carried.
        """
        async with self._turn:
            await self._bury()
            await self._commit()

    async def _commit(self) -> None:
        codec = self.vault.codec
        ours = codec.dump(self.data)
        self._settled = ours
        is_changed = codec.is_change(self.base, ours)
        if self.stored is None:
            if is_changed or self.subject is not None:
                await self._finish(self._create(ours))
        elif is_changed or self._renewal is not None:
            await self._finish(self._save(self.stored, ours))
        elif self.stored.facts.is_extension_due(self.vault.lifetime, self.vault.clock()):
            # it may fail: then the session ends a little sooner, and the request goes on
            with contextlib.suppress(SessionConflict, SessionTooLarge, StoreUnavailable):
                await self._finish(self._extend(self.stored))
        if self._is_stale and self.carry is Carry.KEEP:
            self.carry = Carry.SEND

    async def create(self) -> Token:
        """Store a new session, also one whose data is still what it began with."""
        return await self._finish(self._create(self.vault.codec.dump(self.data)))

    async def _create(self, ours: bytes) -> Token:
        if not self.can_carry:
            raise SessionClosed(
                "a new session needs a cookie, which only an HTTP response can set: "
                "begin the session in an HTTP route"
            )
        vault = self.vault
        for _ in range(3):
            token = Token.issue()
            facts = self._next_facts(None, token.secret_hash(), vault.clock())
            record = vault.record(facts, ours, self.subject)
            key = token.key(vault.name)
            if await vault.ask(vault.store.create(key, record), key):
                stored = Stored(key, record, facts, self.data, ours, ours)
                await self._settle(stored, token, "created")
                return token
        raise StoreUnavailable("create() said of three random keys that they exist")

    async def _save(self, stored: Stored[Model], ours: bytes) -> None:
        self._is_contended = False
        token = self.token
        if token is not None and self._renewal is not None:
            token = token.renewed()
        raw = self._lay_over(stored, ours)
        attempt = self._attempt(stored, token, ours, raw)
        kind: _Written = "renewed" if self._renewal else None
        if await self._is_written(attempt, stored):
            return await self._settle(attempt, token, kind)
        # from here on commits of this session wait for each other, so that each merges once
        self._is_contended = True
        async with self.vault.queue(stored.key):
            await self._save_merged(stored, attempt, token, ours)
        return None

    async def _save_merged(
        self, stored: Stored[Model], attempt: Stored[Model], token: Token | None, ours: bytes
    ) -> None:
        hashes = (stored.facts.secret_hash, attempt.facts.secret_hash)
        kind: _Written = "renewed" if self._renewal else None
        for pause in _pauses():
            theirs = await self.vault.load(stored.key, *hashes)
            if theirs is None:
                return await self._ended(stored.key, ours)
            if includes_write(theirs.record.version, attempt.record.version):
                # our write was done and its reply lost: nothing is left to add
                theirs = self._with_late_changes(theirs, ours, ours, theirs.base)
                return await self._settle(theirs, token, kind)
            attempt = self._merged(theirs, token, ours)
            if await self._is_written(attempt, theirs):
                attempt = self._with_late_changes(attempt, ours, self.base, theirs.base)
                return await self._settle(attempt, token, kind)
            await asyncio.sleep(pause)
        return None

    async def _is_written(self, attempt: Stored[Model], over: Stored[Model]) -> bool:
        if over.facts.expires_at(self.vault.lifetime) <= self.vault.clock():
            return False  # while the route ran; the store may know a later end than we do
        store, version = self.vault.store, over.record.version
        call = store.save(attempt.key, attempt.record, replaces=version)
        return await self.vault.ask(call, attempt.key)

    def _attempt(
        self, over: Stored[Model], token: Token | None, base: bytes, raw: bytes
    ) -> Stored[Model]:
        renews = token is not None and self._renewal is not None
        secret_hash = token.secret_hash() if token and renews else over.facts.secret_hash
        facts = self._next_facts(over, secret_hash, self.vault.clock())
        record = self.vault.record(facts, raw, self.subject, over.record.version)
        return Stored(over.key, record, facts, self.data, base, raw)

    def _merged(self, theirs: Stored[Model], token: Token | None, ours: bytes) -> Stored[Model]:
        codec = self.vault.codec
        merged = merge(*map(codec.values, (self.base, ours, theirs.base)))
        if merged.conflicts:
            fields = [path or "data" for path in merged.conflicts]
            self.vault.events.tell("conflict", theirs.key, fields=", ".join(fields))
            if self.vault.on_conflict == "raise":
                raise SessionConflict("Another request changed the same fields.", fields)
        try:
            data = codec.check(write_json(merged.value))
        except SessionInvalid as error:
            raise SessionConflict(
                "Two requests' changes do not fit the model together.", error.fields
            ) from None
        base = codec.dump(data)
        attempt = self._attempt(theirs, token, base, self._lay_over(theirs, base))
        return replace(attempt, data=data)

    def _with_late_changes(
        self, written: Stored[Model], ours: bytes, base: bytes, theirs: bytes
    ) -> Stored[Model]:
        """What was written, with what another task changed in our data since we took it."""
        codec = self.vault.codec
        try:
            now = codec.dump(self.data)
            if codec.is_change(ours, now):
                merged = merge(*map(codec.values, (base, now, theirs)))
                return replace(written, data=codec.check(write_json(merged.value)))
        except SessionInvalid:
            logger.exception("changes made while a commit ran are lost: they fit no model")
        return written

    def _lay_over(self, stored: Stored[Model], ours: bytes) -> bytes:
        """Our data with the stored fields that this release does not know."""
        if stored.raw == stored.base:
            return ours
        codec = self.vault.codec
        base, changed = codec.values(stored.base), codec.values(ours)
        laid = write_json(merge(base, changed, read_json(stored.raw)).value)
        # a validator that turns old fields into new ones may read our change away again
        try:
            is_lost = codec.is_change(ours, codec.dump(codec.check(laid)))
        except SessionInvalid:
            is_lost = True
        return ours if is_lost else laid

    async def _extend(self, stored: Stored[Model]) -> None:
        """Stamp the session."""
        # the data as it was stored: a stamp must not write a migration
        attempt = self._attempt(stored, None, stored.base, stored.record.body[Facts.SIZE :])
        if not await self._is_written(attempt, stored):
            self._is_stale = False  # it may have ended: its cookie is not sent again
            return
        self.stored = replace(attempt, raw=stored.raw)
        self.vault.events.tell("extended", stored.key)
        if attempt.facts.persistent:
            self.carry = Carry.SEND

    async def _ended(self, key: str, ours: bytes) -> None:
        """The session ended or was renewed elsewhere: a change goes with it, a sign-in does not."""
        self.vault.events.tell("ended_elsewhere", key)
        self.carry = Carry.KEEP
        self._is_stale = False
        self.base = ours
        if self._renewal is not None and self._renewal.subject:
            await self._create(ours)

    async def _settle(self, stored: Stored[Model], token: Token | None, kind: _Written) -> None:
        """Take what was written as the new ground, and have the cookie follow."""
        vault, renewal = self.vault, self._renewal
        if renewal is not None and renewal.subject:
            await self._refuse_if_revoked(stored.key, renewal.subject)
        was_seen_at = self.stored.facts.seen_at if self.stored else None
        self.data = adopt(self.data, stored.data)
        self._hold(replace(stored, data=self.data))
        self._settled = stored.base
        self.token = token
        self._renewal = None
        if kind is not None:
            vault.events.tell(kind, stored.key)
        if kind or (stored.facts.persistent and stored.facts.seen_at != was_seen_at):
            self.carry = Carry.SEND

    async def _refuse_if_revoked(self, key: str, subject: str) -> None:
        vault = self.vault
        if not await vault.is_revoked(subject, self.began_at, self.exempt_mark):
            return
        await vault.ask(vault.store.delete(key), key)
        vault.events.tell("revoked", key)
        raise SessionConflict("All sessions of this user were ended meanwhile: sign in again.")

    def _next_facts(self, stored: Stored[Model] | None, secret_hash: bytes, now: datetime) -> Facts:
        vault, renewal = self.vault, self._renewal
        if stored is None:
            ends_at = vault.lifetime.ends_at(now)
            facts = Facts(secret_hash, now, None, now, ends_at, None, vault.persistent)
        else:
            facts = replace(stored.facts, secret_hash=secret_hash)
            if renewal or facts.is_extension_due(vault.lifetime, now):
                facts = replace(facts, seen_at=max(now, facts.seen_at))
        if renewal is None or renewal.subject is None:
            return facts  # signing out moves no end: the last sign-in still counts for it
        return replace(
            facts,
            authenticated_at=renewal.at,
            ends_at=(renewal.lifetime or vault.lifetime).ends_at(renewal.at),
            lifetime=renewal.lifetime,
            persistent=renewal.persistent,
        )

    async def _delete(self, key: str) -> None:
        if await self.vault.ask(self.vault.store.delete(key), key):
            self.vault.events.tell("destroyed", key)

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run store work to its end, within ``commit_timeout``, even if this task is cancelled."""
        task = asyncio.create_task(self._bounded(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # anyio would cancel again in each turn of the loop
            with CancelScope(shield=True):
                while not task.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([task])
            raise

    async def _bounded(self, work: Coroutine[Any, Any, Result]) -> Result:
        seconds = self.vault.commit_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            reason = f"the commit was not done within {seconds:g} seconds"
        if self._is_contended:
            raise SessionConflict("Too many requests changed the session at the same time.")
        self.vault.events.tell(
            "store_error", self.stored.key if self.stored else None, reason=reason
        )
        raise StoreUnavailable(reason)


class Burial:
    """What ``destroy`` returns: awaited or not, the session ends."""

    __slots__ = ("_visit",)

    def __init__(self, visit: Visit[Any]) -> None:
        self._visit = visit

    def __await__(self) -> Generator[Any, None, None]:
        return self._visit.bury().__await__()


def _pauses() -> Iterator[float]:
    """Seconds to wait between tries against other processes: random, so that they part."""
    longest = 0.005
    while True:
        yield random.uniform(0, longest)  # noqa: S311  # no secret
        longest = min(2 * longest, 0.2)
