"""Calls of a redis-py client: how many there are at once, and when they end."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.redis import RedisStore

KEYS = [f"{number:064x}" for number in range(300)]


def record(owner=None):
    return Record(b"data", new_version(), owner, datetime.now(UTC) + timedelta(hours=1))


@pytest.fixture(params=["one server", "cluster"])
async def store(request):
    """A store whose client has three connections to a server."""
    if request.param == "cluster":
        cluster = request.getfixturevalue("redis_cluster")
        cluster.flush()
        client = cluster.connect(max_connections=3)
    else:
        url = request.getfixturevalue("redis_url")
        client = Redis.from_url(url, max_connections=3)
    yield RedisStore(client)
    await client.aclose()


@pytest.mark.one_server
async def test_more_calls_than_connections_wait(store):
    """redis-py would refuse them."""
    await asyncio.gather(*(store.create(key, record(owner=key)) for key in KEYS))
    found = await asyncio.gather(*(store.find(key) for key in KEYS))
    assert [key for ((key, _),) in found] == KEYS
    assert all(await asyncio.gather(*(store.load(key) for key in KEYS)))
    assert await asyncio.gather(*(store.delete_owned(key) for key in KEYS)) == [1] * len(KEYS)


@pytest.mark.one_server
async def test_clear_needs_few_connections(store):
    """However many keys it removes."""
    await asyncio.gather(*(store.create(key, record()) for key in KEYS))
    await store.clear()
    assert await store.count() == 0


class Forgetful(Redis):
    """Loses a cancellation while it sends, as asyncio.wait_for() does in Python 3.11."""

    async def execute_command(self, *words, **options):
        task = asyncio.current_task()
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            assert task.cancelling()
        return await super().execute_command(*words, **options)


@pytest.mark.one_server
async def test_a_call_ends_with_its_timeout_though_redis_py_loses_the_cancellation(redis_url):
    """Otherwise the commands that follow would run on for as long as they take."""
    client = Forgetful.from_url(redis_url)
    store = RedisStore(client)
    await client.zadd(store._index("ada"), dict.fromkeys(KEYS, 1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await store.find("ada")
    # find would have dropped these entries, for none of them has a record
    assert await client.zcard(store._index("ada")) == len(KEYS)
    await client.aclose()


@pytest.mark.one_server
async def test_a_task_that_was_cancelled_before_can_still_call(redis_url):
    """As when it signs a user out while it is cleaned up."""
    store = RedisStore.from_url(redis_url)
    await store.create(KEYS[0], record())
    answers = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            answers.append(await store.delete(KEYS[0]))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert answers == [True]
    await store.aclose()
