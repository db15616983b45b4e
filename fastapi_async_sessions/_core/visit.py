"""One request's work on a session: what it changed, and the commit."""

import asyncio
import contextlib
from collections.abc import Coroutine, Generator
from datetime import datetime
from enum import Enum
from typing import Any, Generic

from ..errors import (
    SessionClosed,
    SessionConflict,
    SessionInvalid,
    SessionTooLarge,
    StoreUnavailable,
)
from ..events import logger
from .codec import Facts, Model, adopt, write_json
from .commit import Commit, Renewal, Written, next_facts
from .finish import Result, finish
from .merge import merge
from .tokens import Token
from .vault import Stored, Vault


class Carry(Enum):
    """What the response tells the browser about its cookie."""

    KEEP = "nothing"
    SEND = "the token"
    REMOVE = "to forget it"


class Visit(Generic[Model]):
    """The state behind a ``Session``. It knows no HTTP: the jar asks it what to carry."""

    __slots__ = (
        "_doomed",
        "_generation",
        "_is_assigned",
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
        "is_shown",
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
        self.is_shown = False
        self.is_touched = False
        self._is_stale = is_stale
        self._doomed: list[str] = []
        self._generation = 0
        self._is_assigned = False
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
        self._is_assigned = False
        self.data = self.vault.codec.fresh()
        self.base = self.vault.codec.dump(self.data)

    def _hold(self, stored: Stored[Model]) -> None:
        self.stored = stored
        self._is_assigned = self._is_assigned and stored.data is self.data
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
        return next_facts(self.vault, self.stored, self._renewal, self.began_at)

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
        self._generation += 1
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
            generation = self._generation
            stored = await self.vault.load(self.stored.key, self.stored.facts.secret_hash)
            if stored is None or generation != self._generation:
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
        self.seal()
        await self.bury()

    def seal(self) -> None:
        """From here on the session can only be read."""
        self.is_open = False
        with contextlib.suppress(SessionInvalid):
            self._settled = self.vault.codec.dump(self.data)

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
            if self._doomed:
                await self._bury()
            await self._commit()

    async def _commit(self) -> None:
        codec = self.vault.codec
        # what nobody has seen nobody has changed
        is_seen = self.is_shown or not codec.is_plain
        ours = self._settled = codec.dump(self.data) if is_seen else self.base
        is_changed = codec.is_change(self.base, ours)
        if self.stored is None:
            if is_changed or self.subject is not None:
                commit = self._new_commit(ours)
                await self._finish(self._create(commit), commit)
        elif is_changed or self._renewal is not None:
            commit = self._new_commit(ours)
            await self._finish(self._save(commit, self.stored), commit)
        elif self.token is not None and self.stored.facts.is_extension_due(
            self.vault.lifetime, self.vault.clock()
        ):
            commit = self._new_commit(ours)
            # it may fail: then the session ends a little sooner, and the request goes on
            with contextlib.suppress(SessionConflict, SessionTooLarge, StoreUnavailable):
                await self._finish(self._extend(commit, self.stored), commit)
        if self._is_stale and self.carry is Carry.KEEP:
            self.carry = Carry.SEND

    async def create(self) -> None:
        """Store a new session, also one whose data is still what it began with."""
        commit = self._new_commit(self.vault.codec.dump(self.data))
        await self._finish(self._create(commit), commit)

    def _new_commit(self, ours: bytes) -> Commit[Model]:
        return Commit(
            vault=self.vault,
            data=self.data,
            ours=ours,
            base=self.base,
            token=self.token,
            subject=self.subject,
            renewal=self._renewal,
            began_at=self.began_at,
            exempt_mark=self.exempt_mark,
            generation=self._generation,
        )

    async def _create(self, commit: Commit[Model]) -> None:
        if not self.can_carry:
            raise SessionClosed(
                "a new session needs a cookie, which only an HTTP response can set: "
                "begin the session in an HTTP route"
            )
        self._settle(await commit.create(), commit)

    async def _save(self, commit: Commit[Model], stored: Stored[Model]) -> None:
        written = await commit.save(stored)
        if written is not None:
            return self._settle(written, commit)
        if commit.generation != self._generation:
            return None
        # it ended or was renewed elsewhere: a change goes with it, a sign-in does not
        self.vault.events.tell("ended_elsewhere", stored.key)
        self.carry = Carry.KEEP
        self._is_stale = False
        self.base = commit.ours
        if commit.renewal is not None and commit.renewal.subject:
            await self._create(commit)
        return None

    async def _extend(self, commit: Commit[Model], stored: Stored[Model]) -> None:
        written = await commit.extend(stored)
        if written is not None:
            self._settle(written, commit)
        else:
            self._is_stale = False  # it may have ended: its cookie is not sent again

    def _settle(self, written: Written[Model], commit: Commit[Model]) -> None:
        """Take what was written as the new ground, and have the cookie follow."""
        stored = written.stored
        if commit.generation != self._generation:
            self._doomed.append(stored.key)  # another task destroyed it while it was written
            return
        was_seen_at = self.stored.facts.seen_at if self.stored else None
        if written.merged is not None:
            self._take(self._with_late_changes(written, commit.ours), commit.ours)
        self.stored, self.base = stored, stored.base
        self._settled = stored.base
        self.token = written.token
        if self._renewal is commit.renewal:
            self._renewal = None
        if written.kind != "changed":
            self.vault.events.tell(written.kind, stored.key)
        is_extended = stored.facts.seen_at != was_seen_at
        if written.kind in ("created", "renewed") or (stored.facts.persistent and is_extended):
            self.carry = Carry.SEND

    def _take(self, merged: Model, ours: bytes) -> None:
        if not self.is_open or self._is_assigned:
            self.data = merged  # an object that the route brought may be everybody's
            return
        codec = self.vault.codec
        changed = codec.changed_fields(ours, codec.dump(merged))
        adopt(self.data, merged, merged.__dict__.keys() - changed)

    def assign(self, data: Model) -> None:
        """Take another object as the data."""
        self.data = data
        self.is_shown = True
        self._is_assigned = True

    def _with_late_changes(self, written: Written[Model], ours: bytes) -> Model:
        """The merged data, with what another task changed in ours since it was dumped."""
        codec = self.vault.codec
        try:
            now = codec.dump(self.data)
            if written.merged is not None and codec.is_change(ours, now):
                base, theirs = written.merged
                merged = merge(*map(codec.values, (base, now, theirs)))
                return codec.check(write_json(merged.value))
        except SessionInvalid:
            logger.exception("changes made while a commit ran are lost: they fit no model")
        return written.stored.data

    async def _delete(self, key: str) -> None:
        if await self.vault.ask(self.vault.store.delete(key), key):
            self.vault.events.tell("destroyed", key)

    async def _finish(
        self, work: Coroutine[Any, Any, Result], commit: Commit[Model] | None = None
    ) -> Result:
        timeout = self.vault.commit_timeout
        try:
            return await finish(work, timeout)
        except TimeoutError:
            reason = f"the commit was not done within {timeout.total_seconds():g} seconds"
        if commit is not None and commit.is_contended:
            raise SessionConflict("Too many requests changed the session at the same time.")
        key = self.stored.key if self.stored else None
        self.vault.events.tell("store_error", key, reason=reason)
        raise StoreUnavailable(reason)


class Burial:
    """What ``destroy`` returns: awaited or not, the session ends."""

    __slots__ = ("_visit",)

    def __init__(self, visit: Visit[Any]) -> None:
        self._visit = visit

    def __await__(self) -> Generator[Any, None, None]:
        return self._visit.bury().__await__()
