"""Many clients of a store at once, which know what each of their sessions may hold.

    crowd = Crowd(store)
    async with crowd.at_work():
        await crowd.do(1000)
        server.restart()
        await crowd.do(1000)
    assert await crowd.mistakes() == []

Each client creates, loads, saves, deletes and lists sessions that are its alone, so each answer
can be checked: what was acknowledged is there, what was deleted is not. After a call that was
refused a session may be as before or as the call would have left it; the client leaves it alone
then, and at the end it has to be one of the two.
"""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.base import Store

_PROGRESS_WITHIN = 120.0
_LIVE_AT_MOST = 20
_NOWHERE = None


@dataclass
class Known:
    """What a client knows of one of its sessions: the versions that it may be seen at."""

    may_be: set[str | None] = field(default_factory=lambda: {_NOWHERE})
    earlier: set[str | None] = field(default_factory=lambda: {_NOWHERE})
    acknowledged_at: float = 0.0
    may_have_lost: bool = False

    @property
    def version(self) -> str | None:
        """Its version, where that is certain and it is there."""
        (version,) = self.may_be if len(self.may_be) == 1 else (_NOWHERE,)
        return version

    @property
    def has_ended(self) -> bool:
        return self.may_be == {_NOWHERE}

    def acknowledge(self, version: str | None) -> None:
        self.earlier |= self.may_be
        self.may_be = {version}
        self.acknowledged_at = time.monotonic()

    def doubt(self) -> None:
        self.may_be |= self.earlier
        self.may_have_lost = True


@dataclass(frozen=True)
class Refusal:
    """A call that failed, and when it began; ``reason`` is what the store said."""

    began_at: float
    verb: str
    reason: str


class _Refused(Exception):
    """The client goes on with something else."""


class Crowd:
    """``clients`` of a store that work without a pause, or with one of as many seconds.

    Each waits for an answer as long as its ``patience``, in seconds.
    ``refusals`` are calls that failed with ``StoreUnavailable`` or took longer; ``calls`` were
    answered. ``mistakes()`` gives what was answered wrongly.
    """

    def __init__(
        self, store: Store, clients: int = 32, *, pause: float = 0.0, patience: float = 60.0
    ) -> None:
        self.store = store
        self.refusals: list[Refusal] = []
        self.calls = 0
        self.slowest = 0.0
        self._clients = clients
        self._pause = pause
        self._patience = patience
        self._mistakes: list[str] = []
        self._sessions: dict[str, dict[str, Known]] = {}  # by owner and key
        self._live: dict[str, list[str]] = {}  # keys by owner
        self._run = secrets.token_hex(4)
        self._enough = False
        self._goal = 0
        self._goal_is_reached = asyncio.Event()
        self._was_refused = asyncio.Event()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """They work as long as the block runs; then each finishes its call."""
        clients = [asyncio.create_task(self._work(number)) for number in range(self._clients)]
        try:
            yield
            self._enough = True
            await asyncio.gather(*clients)
        finally:
            self._enough = True  # a driver may swallow a cancellation
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def do(self, calls: int) -> None:
        """Wait until as many more calls were answered."""
        self._goal = self.calls + calls
        self._goal_is_reached.clear()
        started = time.monotonic()
        try:
            async with asyncio.timeout(_PROGRESS_WITHIN):
                await self._goal_is_reached.wait()
        except TimeoutError:
            done, refused = calls - (self._goal - self.calls), self.refused_since(started)
            raise AssertionError(f"{done} of {calls} calls in time; refused: {refused}") from None

    @staticmethod
    def now() -> float:
        """The moment, for ``refused_since`` and ``expect_loss``."""
        return time.monotonic()

    async def until_refused(self) -> None:
        """Wait for the first call that was refused."""
        async with asyncio.timeout(_PROGRESS_WITHIN):
            await self._was_refused.wait()

    def expect_loss(self, *, since: float) -> None:
        """What was acknowledged after a moment may be lost, as a master's last writes are.

        Each of those sessions may be seen as it was at any time before.
        """
        for sessions in self._sessions.values():
            for known in sessions.values():
                if known.acknowledged_at > since:
                    known.doubt()

    def refused_since(self, moment: float) -> dict[str, int]:
        """How often calls that began after a moment were refused, by reason."""
        return dict(Counter(each.reason for each in self.refusals if each.began_at > moment))

    async def mistakes(self) -> list[str]:
        """What was answered wrongly meanwhile, and what is not as it should be now."""
        limit = asyncio.Semaphore(20)

        async def check(key: str, known: Known) -> None:
            async with limit:
                self._check_seen(key, known, await self.store.load(key))

        for owner, sessions in self._sessions.items():
            await asyncio.gather(*(check(key, known) for key, known in sessions.items()))
            self._check_list(owner, await self.store.find(owner))
        return self._mistakes

    async def _work(self, number: int) -> None:
        dice = random.Random(number)
        owner = f"client-{number}-{self._run}"
        self._sessions[owner], self._live[owner] = {}, []
        while not self._enough:
            await asyncio.sleep(self._pause)
            with suppress(_Refused):
                await self._step(owner, dice)

    async def _step(self, owner: str, dice: random.Random) -> None:
        mine = self._sessions[owner]
        live = self._live[owner] = [key for key in self._live[owner] if mine[key].version]
        share = dice.random()
        if not live or (share < 0.15 and len(live) < _LIVE_AT_MOST):
            await self._create(owner)
        elif share < 0.60:
            key = dice.choice(live)
            self._check_seen(key, mine[key], await self._ask("load", self.store.load(key)))
        elif share < 0.85:
            key = dice.choice(live)
            await self._save(owner, key)
        elif share < 0.97:
            await self._delete(owner, dice.choice(live))
        else:
            self._check_list(owner, await self._ask("find", self.store.find(owner)))

    async def _create(self, owner: str) -> None:
        key, record = secrets.token_hex(32), _record(owner)
        known = self._sessions[owner][key] = Known()
        known.may_be.add(record.version)
        if not await self._ask("create", self.store.create(key, record)):
            self._mistakes.append("create said False to a key that is new")
        known.acknowledge(record.version)
        self._live[owner].append(key)

    async def _save(self, owner: str, key: str) -> None:
        known, record = self._sessions[owner][key], _record(owner)
        version = known.version
        assert version
        known.may_be.add(record.version)
        if await self._ask("save", self.store.save(key, record, replaces=version)):
            known.acknowledge(record.version)
        elif not known.may_have_lost:
            self._mistakes.append("save said False to the one client of its session")

    async def _delete(self, owner: str, key: str) -> None:
        known = self._sessions[owner][key]
        known.may_be.add(_NOWHERE)
        # False is an answer too: that of a command which the driver sent twice
        await self._ask("delete", self.store.delete(key))
        known.acknowledge(_NOWHERE)

    async def _ask(self, verb: str, answer: Awaitable[Any]) -> Any:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._patience):
                answered = await answer
        except (StoreUnavailable, TimeoutError) as error:
            reason = getattr(error, "reason", "no answer in time")
            self.refusals.append(Refusal(started, verb, reason))
            self._was_refused.set()
            raise _Refused from None
        finally:
            self.slowest = max(self.slowest, time.monotonic() - started)
        self.calls += 1
        if self.calls >= self._goal:
            self._goal_is_reached.set()
        return answered

    def _check_seen(self, key: str, known: Known, record: Record | None) -> None:
        seen = record.version if record else _NOWHERE
        if seen in known.may_be:
            return
        if known.has_ended:
            self._mistakes.append(f"{key[:6]} was deleted and is there")
        elif seen is _NOWHERE:
            self._mistakes.append(f"{key[:6]} is missing")
        else:
            self._mistakes.append(f"{key[:6]} is older than what was acknowledged")

    def _check_list(self, owner: str, found: list[tuple[str, Record]]) -> None:
        listed = {key for key, _ in found}
        for key, known in self._sessions[owner].items():
            if known.version and key not in listed:
                self._mistakes.append(f"{key[:6]} is missing on its owner's list")
            if known.has_ended and key in listed:
                self._mistakes.append(f"{key[:6]} was deleted and is on its owner's list")


def _record(owner: str) -> Record:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    return Record(b"x" * 500, new_version(), owner, expires_at)
