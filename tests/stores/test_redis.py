"""RedisStore: the contract on each kind of Redis, what is stored, what happens on failures."""

import asyncio
import importlib
import logging
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from redis.asyncio import Redis, Sentinel

from fastapi_async_sessions.errors import ConfigurationError, StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock, StoreContract
from tests.servers.proxy import Proxy

KEY, OTHER = "a" * 64, "b" * 64
HOUR = timedelta(hours=1)


def record(clock=lambda: datetime.now(UTC), *, body=b"data", owner=None, life=HOUR):
    return Record(body=body, version=new_version(), owner=owner, expires_at=clock() + life)


def index_of(owner):
    return f"sessions:owner:{sha256(owner.encode()).hexdigest()}"


def closing(store, client):
    """Make a store close a client that was made for it."""
    store.aclose = client.aclose
    return store


@pytest.fixture
async def store(redis_url):
    """A store on the empty server."""
    store = RedisStore.from_url(redis_url)
    yield store
    await store.aclose()


@asynccontextmanager
async def opened(url, **options):
    """A store on another server."""
    store = RedisStore.from_url(url, **options)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def unavailable(match):
    """The block raises StoreUnavailable with this reason, and without a cause or context."""
    with pytest.raises(StoreUnavailable, match=match) as caught:
        yield
    error = caught.value
    # the driver's error must not be reachable from the one that was raised
    assert (error.__cause__, error.__context__) == (None, None)


# the contract


class TestOneServer(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, redis_url):
        self.url = redis_url

    def make_store(self, clock):
        return RedisStore.from_url(self.url, clock=clock)


class TestSentinel(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, redis_sentinels):
        self.group = redis_sentinels

    def make_store(self, clock):
        sentinel = Sentinel(self.group.addresses, socket_timeout=60)
        client = sentinel.master_for(self.group.name, socket_timeout=60)
        store = RedisStore(client, clock=clock)

        async def aclose():
            for each in (client, *sentinel.sentinels):
                await each.aclose()

        store.aclose = aclose
        return store


class TestCluster(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, redis_cluster):
        redis_cluster.flush()
        self.cluster = redis_cluster

    def make_store(self, clock):
        client = self.cluster.connect()
        return closing(RedisStore(client, clock=clock), client)


async def test_a_unix_socket_works_too(start_redis, tmp_path):
    """Its URL begins with unix://."""
    start_redis("--unixsocket", str(tmp_path / "s"))
    async with opened(f"unix://{tmp_path}/s") as store:
        kept = record()
        assert await store.create(KEY, kept)
        assert await store.load(KEY) == kept


# what is stored


async def test_a_session_is_one_string_that_expires(store, redis_client):
    """Its name is the prefix and the key, and its time to live that of the record."""
    await store.create(KEY, record(life=HOUR))
    assert await redis_client.keys() == [f"sessions:{KEY}".encode()]
    assert await redis_client.type(f"sessions:{KEY}") == b"string"
    assert 3_590_000 < await redis_client.pttl(f"sessions:{KEY}") <= 3_600_000


async def test_the_name_of_an_index_does_not_show_the_owner(store, redis_client):
    """It has the hash of the owner."""
    await store.create(KEY, record(owner="ada@example.com"))
    names = set(await redis_client.keys())
    assert names == {f"sessions:{KEY}".encode(), index_of("ada@example.com").encode()}


async def test_every_key_in_redis_expires(store, redis_client):
    """Whatever happened to the sessions, each key has a time to live."""
    first, second = record(owner="a"), record(owner="b", life=HOUR * 2)
    await store.create(KEY, first)
    await store.save(KEY, second, replaces=first.version)
    await store.create(OTHER, record(owner="a"))
    await store.delete(OTHER)
    for name in await redis_client.keys():
        assert 0 < await redis_client.pttl(name) < timedelta(hours=27) / timedelta(milliseconds=1)


async def test_an_index_expires_a_day_after_its_last_session(store, redis_client):
    """A shorter session that is created later does not change that."""
    await store.create(KEY, record(owner="ada", life=HOUR * 10))
    await store.create(OTHER, record(owner="ada", life=HOUR))
    left = timedelta(milliseconds=await redis_client.pttl(index_of("ada")))
    assert timedelta(hours=33, minutes=59) < left <= timedelta(hours=34)


async def test_an_index_drops_sessions_that_ended_a_day_ago(redis_url, redis_client):
    """When the next session of the owner is created."""
    clock = FrozenClock()
    async with opened(redis_url, clock=clock) as store:
        await store.create(KEY, record(clock, owner="ada"))
        clock.advance(timedelta(days=1, hours=1, milliseconds=1))
        await store.create(OTHER, record(clock, owner="ada"))
    assert await redis_client.zrange(index_of("ada"), 0, -1) == [OTHER.encode()]


async def test_an_index_keeps_an_entry_for_a_day_after_its_score(redis_url, redis_client):
    """The session may have been extended by a process that died before it updated the index."""
    clock = FrozenClock()
    async with opened(redis_url, clock=clock) as store:
        first, longer = record(clock, owner="ada"), record(clock, owner="ada", life=HOUR * 10)
        await store.create(KEY, first)
        before = await redis_client.zscore(index_of("ada"), KEY)
        await store.save(KEY, longer, replaces=first.version)
        await redis_client.zadd(index_of("ada"), {KEY: before})
        clock.advance(HOUR * 2)
        await store.create(OTHER, record(clock, owner="ada"))
        assert await store.find("ada") == [(KEY, longer), (OTHER, await store.load(OTHER))]


async def test_find_removes_stale_entries_from_the_index(store, redis_client):
    """Those of sessions that have ended or been given to another owner."""
    first = record(owner="ada")
    await store.create(KEY, first)
    await store.create(OTHER, record(owner="ada"))
    await store.save(KEY, record(owner="bob"), replaces=first.version)
    await redis_client.delete(f"sessions:{OTHER}")
    assert await redis_client.zcard(index_of("ada")) == 2
    assert await store.find("ada") == []
    assert await redis_client.exists(index_of("ada")) == 0


@pytest.mark.parametrize("verb", ["find", "delete_owned"])
async def test_a_session_that_returns_to_its_owner_meanwhile_keeps_its_entry(redis_cluster, verb):
    """In a cluster, where a record and its entry are written and removed by two commands."""
    redis_cluster.flush()
    first, second, third = record(owner="ada"), record(owner="bob"), record(owner="ada")
    client = redis_cluster.connect()
    store, interrupted = RedisStore(client), RedisStore(client)
    send = interrupted._client.command

    async def interrupt(*words):
        if words[0] == "ZREM":
            assert await store.save(KEY, third, replaces=second.version)
            interrupted._client.command = send
        return await send(*words)

    interrupted._client.command = interrupt
    await store.create(KEY, first)
    await store.save(KEY, second, replaces=first.version)
    if verb == "find":
        assert await interrupted.find("ada") == [(KEY, third)]
        assert await store.find("ada") == [(KEY, third)]
    else:
        assert await interrupted.delete_owned("ada") == 1
        assert await store.find("ada") == []
        assert await store.load(KEY) is None
    await client.aclose()


@pytest.mark.parametrize("kind", ["one server", "cluster"])
async def test_an_index_does_not_grow_with_sessions_that_have_ended(kind, request):
    """A sign-out takes its entry along, so that a list is as long as the sessions that it has."""
    if kind == "one server":
        client = Redis.from_url(request.getfixturevalue("redis_url"))
    else:
        cluster = request.getfixturevalue("redis_cluster")
        cluster.flush()
        client = cluster.connect()
    store = RedisStore(client)
    await store.create(KEY, record(owner="ada"))
    for number in range(300):
        await store.create(f"{number:064x}", record(owner="ada"))
        assert await store.delete(f"{number:064x}")
    assert await client.zrange(index_of("ada"), 0, -1) == [KEY.encode()]
    await client.aclose()


async def test_extending_a_session_restores_its_index_entry(store, redis_client):
    """A change of data alone does not write the index."""
    first = record(owner="ada")
    await store.create(KEY, first)
    await redis_client.delete(index_of("ada"))
    second = replace(first, version=new_version(), body=b"new")
    await store.save(KEY, second, replaces=first.version)
    assert await store.find("ada") == []
    third = replace(second, version=new_version(), expires_at=second.expires_at + HOUR)
    await store.save(KEY, third, replaces=second.version)
    assert await store.find("ada") == [(KEY, third)]


async def test_an_invalid_value_is_a_missing_record(store, redis_client, caplog):
    """A warning is logged without the value, which create() may overwrite."""
    for value in (b"", b"\n", b"secret", b"secret\n1 2", b"v\n1 x\nsecret", b"\xff\n9 1\nsecret"):
        await redis_client.set(f"sessions:{KEY}", value)
        assert await store.load(KEY) is None
        assert not await store.save(KEY, record(), replaces=new_version())
        assert await store.create(KEY, record())
        await redis_client.set(f"sessions:{KEY}", value)
        assert not await store.delete(KEY)
        assert await redis_client.exists(f"sessions:{KEY}") == 0
    assert {(entry.name, entry.levelno) for entry in caplog.records} == {
        ("fastapi_async_sessions", logging.WARNING)
    }
    assert "secret" not in caplog.text


async def test_a_value_with_an_impossible_expiry_is_a_missing_record(store, redis_client):
    """A number may have more digits than a datetime can express."""
    await redis_client.set(f"sessions:{KEY}", b"v\n" + b"9" * 30 + b" -\nsecret")
    assert await store.load(KEY) is None


async def test_a_key_of_another_type_is_missing_and_not_overwritten(store, redis_client):
    """load() finds no session, and a write raises an error that says why."""
    await redis_client.rpush(f"sessions:{KEY}", "item")
    assert await store.load(KEY) is None
    async with unavailable("the key holds something else"):
        await store.create(KEY, record())
    assert await redis_client.llen(f"sessions:{KEY}") == 1


async def test_stores_with_different_prefixes_are_independent(redis_url):
    """So are their indexes, and clear() leaves the other store alone."""
    async with opened(redis_url, prefix="app") as one, opened(redis_url, prefix="app.2") as two:
        kept = record(owner="ada")
        await one.create(KEY, kept)
        assert await two.load(KEY) is None
        assert await two.find("ada") == []
        await two.clear()
        assert await one.find("ada") == [(KEY, kept)]


async def test_clear_removes_only_keys_of_the_store(store, redis_client):
    """Keys that only resemble them stay."""
    await store.create(KEY, record(owner="ada"))
    others = {b"sessions", b"sessions:", b"sessions:x", b"sessionsx:" + KEY.encode(), b"other"}
    for name in others:
        await redis_client.set(name, "kept")
    await store.clear()
    assert set(await redis_client.keys()) == others


# what it costs


async def test_each_verb_is_one_command(store, redis_server):
    """The same command updates the index of the owner; only delete() cannot know it before."""
    first, other = record(owner="ada"), record()
    same = replace(first, version=new_version(), body=b"new")
    longer = replace(same, version=new_version(), expires_at=same.expires_at + HOUR)
    commands = []

    async def count(verb):
        with redis_server.counted() as sent:
            await verb
        commands.append(sent)

    await store.open()
    await store.create("c" * 64, record(owner="x"))
    await count(store.create(KEY, first))
    await count(store.create(OTHER, other))
    await count(store.load(KEY))
    await count(store.save(KEY, same, replaces=first.version))
    await count(store.save(KEY, longer, replaces=same.version))
    await count(store.save(KEY, first, replaces=first.version))
    await count(store.delete(KEY))
    one = {"evalsha": 1}
    assert commands == [one, one, {"mget": 1}, one, one, one, {"evalsha": 2}]


async def test_concurrent_reads_are_batched(store, redis_server):
    """The first is sent at once and the others in one command, which has each key once."""
    keys = [f"{number:064x}" for number in range(20)]
    kept = {key: record() for key in keys}
    for key, value in kept.items():
        await store.create(key, value)
    with redis_server.counted() as commands:
        loaded = await asyncio.gather(*(store.load(key) for key in keys * 2))
    assert loaded == [kept[key] for key in keys * 2]
    assert commands == {"mget": 2}


async def test_batched_writes_have_their_own_answers(store):
    """In one batch some may succeed and some may be refused."""
    keys = [f"{number:064x}" for number in range(20)]
    first = record()
    for key in keys:
        await store.create(key, first)
    saves = [
        store.save(key, record(), replaces=first.version if number % 2 else new_version())
        for number, key in enumerate(keys)
    ]
    assert await asyncio.gather(*saves) == [bool(number % 2) for number in range(20)]


async def test_a_failed_write_does_not_affect_the_others_of_its_batch(store, redis_client):
    """If the server refuses one key or one index, the other writes are done."""
    keys = [f"{number:064x}" for number in range(20)]
    await redis_client.rpush(f"sessions:{keys[7]}", "item")
    await redis_client.set(index_of("bob"), "not an index")
    records = [record(owner="bob" if number == 8 else "ada") for number in range(20)]
    creates = (store.create(key, each) for key, each in zip(keys, records, strict=True))
    answers = await asyncio.gather(*creates, return_exceptions=True)
    failed = [number for number, answer in enumerate(answers) if answer is not True]
    assert failed == [7, 8]
    assert {str(answers[number].reason) for number in failed} == {
        "ResponseError: the key holds something else"
    }
    assert len(await store.find("ada")) == 18


@pytest.mark.parametrize("is_new", [True, False])
async def test_repeating_a_write_restores_its_index_entry(store, redis_client, is_new):
    """It may have been lost between the record and the index."""
    first = record()
    newer = replace(first, version=new_version(), owner="ada")
    if not is_new:
        await store.create(KEY, first)
    for _ in range(2):
        await redis_client.delete(index_of("ada"))
        if is_new:
            assert await store.create(KEY, newer)
        else:
            assert await store.save(KEY, newer, replaces=first.version)
        assert await store.find("ada") == [(KEY, newer)]


async def test_a_read_sees_every_write_that_was_acknowledged_before(store):
    """It never joins a batch in flight, however many there are."""
    first = record()
    await store.create(KEY, first)

    async def read():
        for _ in range(50):
            await store.load(KEY)

    async def write():
        version = first.version
        for _ in range(50):
            newer = record()
            assert await store.save(KEY, newer, replaces=version)
            assert (await store.load(KEY)).version == newer.version
            version = newer.version

    await asyncio.gather(write(), *(read() for _ in range(10)))


async def test_an_invalid_value_does_not_affect_the_other_reads_of_its_batch(store, redis_client):
    """They return their records."""
    kept = record()
    await store.create(KEY, kept)
    await redis_client.set(f"sessions:{OTHER}", b"garbage")
    await redis_client.rpush(f"sessions:{'c' * 64}", "item")
    keys = [KEY, OTHER, "c" * 64, KEY]
    loaded = await asyncio.gather(*(store.load(key) for key in keys))
    assert loaded == [kept, None, None, kept]


# configuration


@pytest.mark.parametrize(
    "prefix", ["", "a b", "a:b", "a*", "a?", "{a}", "[a]", "ä", "x" * 65, "a\n"]
)
def test_a_prefix_has_no_special_characters(prefix):
    """One that could match keys of another prefix is refused when the store is made."""
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisStore.from_url("redis://127.0.0.1", prefix=prefix)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://:hunter2@127.0.0.1", {}),
        ("127.0.0.1:6379", {}),
        ("redis://:hunter2@127.0.0.1:port", {}),
        ("redis://:hunter2@127.0.0.1?socket_timeout=soon", {}),
        ("redis://:hunter2@127.0.0.1", {"colour": "blue"}),
        ("redis://:hunter2@127.0.0.1?colour=blue", {}),
        ("redis://:hunter2@127.0.0.1", {"max_connections": "many"}),
        ("rediss://:hunter2@127.0.0.1", {"ssl_cert_reqs": "hunter2"}),
    ],
)
def test_a_wrong_address_or_option_fails_when_the_store_is_made(url, options):
    """The error does not show the URL, which may hold a password."""
    with pytest.raises(ConfigurationError, match="from_url") as caught:
        RedisStore.from_url(url, **options)
    assert "hunter2" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_the_repr_of_a_store_does_not_show_its_address():
    """Neither the URL nor the password."""
    store = RedisStore.from_url("redis://ada:hunter2@db.example.com:6380/3", prefix="app")
    assert repr(store) == "RedisStore(prefix='app')"


def test_a_missing_redis_py_says_how_to_install_it(monkeypatch):
    """Importing the module fails, which is the only one that needs it."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "fastapi_async_sessions.stores.redis")
    with pytest.raises(ConfigurationError, match=r'pip install "fastapi_async_sessions\[redis\]"'):
        importlib.import_module("fastapi_async_sessions.stores.redis")


async def test_a_given_client_stays_open(redis_client):
    """The store closes only a client that it made itself."""
    store = RedisStore(redis_client)
    await store.create(KEY, record())
    before = await redis_client.client_id()
    await store.aclose()
    assert await redis_client.client_id() == before


async def test_a_store_may_be_opened_again(redis_url):
    """After aclose() its client connects again."""
    store = RedisStore.from_url(redis_url)
    for _ in range(2):
        await store.open()
        await store.load(KEY)
        await store.aclose()


# failures


async def test_a_store_recovers_when_its_server_is_restarted(start_redis):
    """Until then every verb raises StoreUnavailable, and the first call after it succeeds."""
    server = start_redis()
    async with opened(server.url) as store:
        await store.create(KEY, record(owner="ada"))
        server.kill()
        verbs = [
            lambda: store.create(KEY, record()),
            lambda: store.load(KEY),
            lambda: store.save(KEY, record(), replaces="x"),
            lambda: store.delete(KEY),
            lambda: store.find("ada"),
            lambda: store.clear(),
            lambda: store.open(),
        ]
        for verb in verbs:
            async with unavailable("ConnectionError: Connection refused"):
                await verb()
        server.restart()
        kept = record()
        assert await store.create(KEY, kept)
        assert await store.load(KEY) == kept


async def test_a_failure_reaches_every_caller_of_a_batch_and_none_later(start_redis):
    """Each gets an exception of its own."""
    server = start_redis()
    async with opened(server.url) as store:
        await store.create(KEY, record())
        server.kill()
        loads = [store.load(KEY) for _ in range(10)]
        errors = await asyncio.gather(*loads, return_exceptions=True)
        assert {type(error) for error in errors} == {StoreUnavailable}
        assert len({id(error) for error in errors}) == 10
        assert {(error.__cause__, error.__context__) for error in errors} == {(None, None)}
        server.restart()
        loads = [store.load(KEY) for _ in range(10)]
        assert await asyncio.gather(*loads) == [None] * 10


async def test_a_call_to_a_server_that_hangs_times_out(start_redis):
    """So do batched calls, by the timeout of the connection; later calls succeed."""
    server = start_redis()
    url = f"redis://127.0.0.1:{server.port}"
    async with opened(server.url) as patient, opened(url, socket_timeout=0.5) as store:
        await patient.create(KEY, record())
        server.pause()
        errors = await asyncio.gather(*(store.load(KEY) for _ in range(3)), return_exceptions=True)
        assert [error.reason for error in errors] == ["TimeoutError: no answer in time"] * 3
        server.resume()
        assert await store.load(KEY)


async def test_a_cancelled_caller_does_not_affect_the_others(start_redis):
    """Whether its call was sent alone or in a batch."""
    server = start_redis()
    async with opened(server.url) as store:
        keys = [letter * 64 for letter in "abc"]
        kept = [record(body=key.encode()) for key in keys]
        for key, value in zip(keys, kept, strict=True):
            await store.create(key, value)
        for cancelled in range(3):
            server.pause()
            loads = [asyncio.create_task(store.load(key)) for key in keys]
            await asyncio.sleep(0.02)
            loads[cancelled].cancel()
            await asyncio.sleep(0)
            server.resume()
            found = await asyncio.gather(*loads, return_exceptions=True)
            assert isinstance(found.pop(cancelled), asyncio.CancelledError)
            assert found == [value for place, value in enumerate(kept) if place != cancelled]


async def test_the_reply_to_a_cancelled_call_is_not_given_to_the_next_one(redis_url):
    """CVE-2023-28859: a connection with an unread reply is never used again."""
    async with Proxy(redis_url) as proxy, opened(proxy.url) as store:
        mine, other = record(body=b"mine"), record(body=b"another's")
        await store.create(KEY, mine)
        await store.create(OTHER, other)
        for verb in (store.load, store.delete):
            proxy.pause()
            cancelled = asyncio.create_task(verb(OTHER))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            proxy.resume()
            for _ in range(3):
                assert await store.load(KEY) == mine
                assert not await store.create(KEY, record())


async def test_a_write_whose_reply_was_lost_is_repeated_and_done_once(redis_url):
    """It is recognised by its version."""
    async with Proxy(redis_url) as proxy, opened(proxy.url) as store:
        first, second = record(owner="ada"), record(owner="bob")
        await store.open()
        proxy.lose_replies = 1
        assert await store.create(KEY, first)
        proxy.lose_replies = 1
        assert await store.save(KEY, second, replaces=first.version)
        assert await store.find("bob") == [(KEY, second)]
        assert proxy.lose_replies == 0


async def test_a_lost_reply_without_retries_is_unavailable(redis_url):
    """The write was done all the same, and repeating it returns True."""
    async with Proxy(redis_url) as proxy, opened(proxy.url, retry=None) as store:
        kept = record()
        await store.open()
        proxy.lose_replies = 1
        async with unavailable("ConnectionError"):
            await store.create(KEY, kept)
        assert await store.create(KEY, kept)


async def test_a_wrong_password_is_reported_as_such_and_not_shown(start_redis):
    """By open(), when the application starts."""
    server = start_redis("--requirepass", "right-password")
    for password in ("hunter2", ""):
        url = f"redis://:{password}@127.0.0.1:{server.port}"
        async with opened(url) as store:
            async with unavailable("the server refuses the user or the password") as caught:
                await store.open()
            assert "hunter2" not in str(caught)


async def test_a_server_without_memory_serves_reads_and_refuses_writes(start_redis):
    """The sessions stay, and writes succeed again when there is memory."""
    server = start_redis()
    async with opened(server.url) as store:
        kept = record()
        await store.create(KEY, kept)
        server.command("CONFIG", "SET", "maxmemory", 1)
        async with unavailable("the server is out of memory"):
            await store.save(KEY, record(), replaces=kept.version)
        assert await store.load(KEY) == kept
        server.command("CONFIG", "SET", "maxmemory", 0)
        assert await store.save(KEY, record(), replaces=kept.version)


async def test_a_replica_serves_reads_and_refuses_writes(start_redis):
    """Even one that was the master when the store connected."""
    server = start_redis()
    async with opened(server.url) as store:
        kept = record()
        await store.create(KEY, kept)
        server.command("REPLICAOF", "127.0.0.1", 1)
        async with unavailable("the server is a read-only replica"):
            await store.save(KEY, record(), replaces=kept.version)
        assert await store.load(KEY) == kept


async def test_a_store_disconnects_from_a_demoted_master(start_redis):
    """Sentinel, or the name of the server, may lead the next connection to the new master."""
    server = start_redis()
    async with Proxy(server.url) as proxy, opened(proxy.url) as store:
        assert await store.create(KEY, record())
        server.command("REPLICAOF", "127.0.0.1", 1)
        async with unavailable("the server is a read-only replica"):
            await store.create(OTHER, record())
        server.command("REPLICAOF", "NO", "ONE")
        assert await store.create(OTHER, record())
        assert proxy.connections == 2


async def test_a_server_without_replicas_may_refuse_writes(start_redis):
    """min-replicas-to-write limits what a failover loses."""
    server = start_redis("--min-replicas-to-write", "1")
    async with opened(server.url) as store, unavailable("too few replicas"):
        await store.create(KEY, record())


async def test_unknown_scripts_are_sent_again(store, redis_client):
    """After SCRIPT FLUSH, or on a new master; for single and for batched writes."""
    keys = [f"{number:064x}" for number in range(10)]
    for _ in range(2):
        await redis_client.script_flush()
        assert await store.create(KEY, record(owner="ada"))
        await redis_client.script_flush()
        assert all(await asyncio.gather(*(store.create(key, record()) for key in keys)))
        await store.clear()


async def test_a_plain_client_of_a_cluster_is_unavailable(redis_cluster):
    """Some keys are on another node; the reason names the client to use."""
    async with opened(redis_cluster.nodes[0].url) as store:
        async with unavailable(r"redis\.asyncio\.RedisCluster"):
            for number in range(10):
                await store.load(f"{number:064x}")
        async with unavailable(r"redis\.asyncio\.RedisCluster"):
            await asyncio.gather(*(store.load(f"{number:064x}") for number in range(10)))


async def test_a_server_other_than_redis_is_unavailable():
    """Its answer is not taken for a missing session."""

    async def answer(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"redis://127.0.0.1:{port}"
        async with opened(url, protocol=2) as store, unavailable("InvalidResponse"):
            await store.load(KEY)
