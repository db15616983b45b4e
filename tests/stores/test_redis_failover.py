"""RedisStore during a failover: only StoreUnavailable is raised, and what is lost is counted."""

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
from redis.exceptions import RedisError

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.redis import RedisStore
from tests.servers.sentinel import RedisSentinels

# Of the many connections that are made and dropped during a failover, redis-py now and then fails
# to close one. They are garbage-collected here, so that no other test gets the warning.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def record():
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    return Record(body=b"x" * 500, version=new_version(), owner=None, expires_at=expires_at)


@contextmanager
def sentinels(directory, release, *options, replicas):
    """Start servers for one test, which kills one of them."""
    group = RedisSentinels(directory, *options, replicas=replicas, fails_over=True, release=release)
    try:
        yield group.start()
    finally:
        group.stop()


class Users:
    """Clients that sign in, write and sign out without pause, and record what was acknowledged."""

    def __init__(self, store):
        self._store = store
        self.acknowledged = {}
        self.ended = set()
        self.refused = Counter()
        self.last_refusal = 0.0
        self._sign_ins = asyncio.Semaphore(0)

    async def wait_for_sign_ins(self, number):
        """Wait for this many more sign-ins."""
        self._sign_ins = asyncio.Semaphore(0)
        async with asyncio.timeout(120):
            for _ in range(number):
                await self._sign_ins.acquire()

    async def run(self, until):
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
        self.acknowledged[key] = first.version
        self._sign_ins.release()
        second = record()
        # until the reply is here, either version may be the one stored
        del self.acknowledged[key]
        if await self._store.save(key, second, replaces=first.version):
            self.acknowledged[key] = second.version
        if secrets.randbelow(2):
            self.acknowledged.pop(key, None)
            await self._store.delete(key)
            self.ended.add(key)

    async def count_losses(self):
        losses = Counter(acknowledged=len(self.acknowledged), ended=len(self.ended))
        for key, version in self.acknowledged.items():
            found = await self._store.load(key)
            losses["missing"] += found is None
            losses["older"] += found is not None and found.version != version
        for key in self.ended:
            losses["alive after delete"] += await self._store.load(key) is not None
        return dict(losses)


@asynccontextmanager
async def busy(group):
    """Run users of a store behind the sentinels, from before a failover until well after it."""
    sentinel = Sentinel(group.addresses, socket_timeout=0.5)
    client = sentinel.master_for(group.name, retry=Retry(NoBackoff(), 1), socket_timeout=1)
    users, stopped = Users(RedisStore(client)), asyncio.Event()
    running = asyncio.gather(*(users.run(stopped) for _ in range(16)))
    await users.wait_for_sign_ins(500)
    users.failover_at = time.monotonic()
    try:
        yield users
        while not has_new_master(group):
            await users.wait_for_sign_ins(10)
        await users.wait_for_sign_ins(1000)
    finally:
        stopped.set()
        await running
        losses = await users.count_losses()
        for each in (client, *sentinel.sentinels):
            await each.aclose()
        gc.collect()
    outage = max(0.0, users.last_refusal - users.failover_at)
    print(f"\nrefused for {outage:.2f} s; {losses}; {dict(users.refused)}")  # noqa: T201


def has_new_master(group):
    """Tell whether one of the replicas is the master now, and the others follow it."""
    try:
        roles = {replica.port: replica.command("ROLE") for replica in group.replicas}
    except RedisError:  # a sentinel cuts the connections of a server that it gives another role
        return False
    leaders = {port for port, role in roles.items() if role[0] == b"master"}
    return len(leaders) == 1 and all(
        port in leaders or role[2] in leaders for port, role in roles.items()
    )


async def test_a_store_finds_the_new_master_after_a_crash(tmp_path, redis_release):
    """Until then StoreUnavailable is raised and nothing else; no restart is needed."""
    with sentinels(tmp_path, redis_release, replicas=1) as group:
        async with busy(group):
            group.master.kill()


async def test_a_store_finds_the_new_master_after_a_switch(tmp_path, redis_release):
    """The old master would accept writes for ten more seconds; min-replicas prevents that."""
    options = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    with sentinels(tmp_path, redis_release, *options, replicas=2) as group:
        async with busy(group):
            group.sentinels[0].command("SENTINEL", "FAILOVER", group.name)
