"""RedisStore while the master changes: what must hold, and a count of what is lost."""

import asyncio
import gc
import secrets
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.redis import RedisStore
from tests.servers.redis import RedisSentinels

# of the many connections that are made and dropped in a failover redis-py forgets to close one
# now and then; they are collected here, and not in another test
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def record():
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    return Record(body=b"x" * 500, version=new_version(), subject=None, expires_at=expires_at)


@contextmanager
def sentinels(directory, *options, replicas):
    """Servers of the test's own: one of them does not survive it."""
    group = RedisSentinels(directory, *options, replicas=replicas)
    try:
        yield group.start()
    finally:
        group.stop()


class Users:
    """Sign in, change something and sign out without a pause, and remember what they were told."""

    def __init__(self, store):
        self._store = store
        self.promised = {}
        self.ended = set()
        self.refused = Counter()
        self.last_refusal = 0.0
        self._finished = asyncio.Semaphore(0)

    async def finish(self, number):
        """Wait until as many more of them have signed in."""
        self._finished = asyncio.Semaphore(0)
        async with asyncio.timeout(20):
            for _ in range(number):
                await self._finished.acquire()

    async def live(self, until):
        while not until.is_set():
            try:
                await self._one()
            except StoreUnavailable as error:
                self.refused[error.reason] += 1
                self.last_refusal = time.monotonic()
                await asyncio.sleep(0.01)

    async def _one(self):
        key, first = secrets.token_hex(32), record()
        await self._store.create(key, first)
        self.promised[key] = first.version
        self._finished.release()
        second = record()
        # from here until the answer nobody knows which of the two it is
        del self.promised[key]
        if await self._store.save(key, second, replaces=first.version):
            self.promised[key] = second.version
        if secrets.randbelow(2):
            self.promised.pop(key, None)
            await self._store.delete(key)
            self.ended.add(key)

    async def count_losses(self):
        losses = Counter(acknowledged=len(self.promised), ended=len(self.ended))
        for key, version in self.promised.items():
            found = await self._store.load(key)
            losses["missing"] += found is None
            losses["older"] += found is not None and found.version != version
        for key in self.ended:
            losses["alive after delete"] += await self._store.load(key) is not None
        return dict(losses)


@asynccontextmanager
async def busy(group):
    """Users of a store behind the sentinels, from before a change to well after it."""
    sentinel = Sentinel(group.addresses, socket_timeout=0.5)
    client = sentinel.master_for(group.name, retry=Retry(NoBackoff(), 1), socket_timeout=1)
    users, enough = Users(RedisStore(client)), asyncio.Event()
    crowd = asyncio.gather(*(users.live(enough) for _ in range(16)))
    await users.finish(500)
    users.changed_at = time.monotonic()
    try:
        yield users
        while not has_new_master(group):
            await users.finish(10)
        await users.finish(1000)
    finally:
        enough.set()
        await crowd
        losses = await users.count_losses()
        for each in (client, *sentinel.sentinels):
            await each.aclose()
        gc.collect()
    outage = max(0.0, users.last_refusal - users.changed_at)
    print(f"\nrefused for {outage:.2f} s; {losses}; {dict(users.refused)}")  # noqa: T201


def has_new_master(group):
    """Whether one of the replicas leads and the others follow it."""
    roles = {replica.port: replica.command("ROLE") for replica in group.replicas}
    leaders = {port for port, role in roles.items() if role[0] == b"master"}
    return len(leaders) == 1 and all(
        port in leaders or role[2] in leaders for port, role in roles.items()
    )


async def test_a_store_follows_when_the_master_dies(tmp_path):
    """Nothing but StoreUnavailable is raised meanwhile, and it ends without a restart of ours."""
    with sentinels(tmp_path, replicas=1) as group:
        async with busy(group):
            group.master.kill()


async def test_a_store_follows_when_the_master_is_changed(tmp_path):
    """The old one lives and would take writes for ten seconds: it is told not to, alone."""
    alone = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    with sentinels(tmp_path, *alone, replicas=2) as group:
        async with busy(group):
            group.sentinels[0].command("SENTINEL", "FAILOVER", group.name)
