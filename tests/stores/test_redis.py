"""RedisStore: the contract over each kind of Redis, what is stored, what failures become."""

import asyncio
import gc
import importlib
import logging
import shutil
import ssl
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
import redis
from redis.asyncio import Redis, RedisCluster, Sentinel

from fastapi_async_sessions.errors import ConfigurationError, StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock, StoreContract
from tests.servers.proxy import Proxy

KEY, OTHER = "a" * 64, "b" * 64
HOUR = timedelta(hours=1)


def record(clock=lambda: datetime.now(UTC), *, body=b"data", subject=None, life=HOUR):
    return Record(body=body, version=new_version(), subject=subject, expires_at=clock() + life)


def index_of(subject):
    return f"sessions:subject:{sha256(subject.encode()).hexdigest()}"


def closing(store, client):
    """A store that closes a client which somebody else made."""
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
    """What the block does raises StoreUnavailable, with a reason and with nothing behind it."""
    with pytest.raises(StoreUnavailable, match=match) as caught:
        yield
    error = caught.value
    # the exception that pytest.raises caught must not carry the driver's along
    assert (error.__cause__, error.__context__) == (None, None)


class Commands:
    """Counts the commands that a server is sent by clients, scripts' own calls left out."""

    def __init__(self, server):
        self._server = server
        server.command("CONFIG", "RESETSTAT")

    def seen(self):
        stats = self._server.command("INFO", "commandstats")
        counts = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
        counts = Counter(counts)
        if counts["evalsha"] or counts["eval"]:
            for inner in ("get", "set", "del", "zadd", "zremrangebyscore", "zrevrange", "pexpire"):
                del counts[inner]
        for chatter in ("config", "info", "hello", "client", "select", "auth"):
            del counts[chatter]
        return dict(counts)


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
        sentinel = Sentinel(self.group.addresses)
        client = sentinel.master_for(self.group.name)
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
        client = RedisCluster(startup_nodes=self.cluster.startup_nodes)
        return closing(RedisStore(client, clock=clock), client)


async def test_a_unix_socket_does_too(start_redis, tmp_path):
    """unix:// is an address like another."""
    start_redis("--unixsocket", str(tmp_path / "s"))
    async with opened(f"unix://{tmp_path}/s") as store:
        kept = record()
        assert await store.create(KEY, kept)
        assert await store.load(KEY) == kept


# what is stored


async def test_a_session_is_one_string_that_redis_forgets_in_time(store, redis_client):
    """Its name is prefix and key, its time to live the record's."""
    await store.create(KEY, record(life=HOUR))
    assert await redis_client.keys() == [f"sessions:{KEY}".encode()]
    assert await redis_client.type(f"sessions:{KEY}") == b"string"
    assert 3_590_000 < await redis_client.pttl(f"sessions:{KEY}") <= 3_600_000


async def test_a_subject_is_in_no_name(store, redis_client):
    """The list of a subject's sessions is named after its hash."""
    await store.create(KEY, record(subject="ada@example.com"))
    names = set(await redis_client.keys())
    assert names == {f"sessions:{KEY}".encode(), index_of("ada@example.com").encode()}


async def test_nothing_is_kept_without_an_end(store, redis_client):
    """Whatever happened to sessions, each key in Redis has a time to live."""
    first, second = record(subject="a"), record(subject="b", life=HOUR * 2)
    await store.create(KEY, first)
    await store.save(KEY, second, replaces=first.version)
    await store.create(OTHER, record(subject="a"))
    await store.delete(OTHER)
    for name in await redis_client.keys():
        assert 0 < await redis_client.pttl(name) < timedelta(hours=27) / timedelta(milliseconds=1)


async def test_a_list_lives_as_long_as_its_longest_session_and_a_day(store, redis_client):
    """A shorter one that comes later does not shorten it."""
    await store.create(KEY, record(subject="ada", life=HOUR * 10))
    await store.create(OTHER, record(subject="ada", life=HOUR))
    left = timedelta(milliseconds=await redis_client.pttl(index_of("ada")))
    assert timedelta(hours=33, minutes=59) < left <= timedelta(hours=34)


async def test_a_list_drops_what_ended_long_ago(redis_url, redis_client):
    """A day after its end a session leaves the list with the next one that comes."""
    clock = FrozenClock()
    async with opened(redis_url, clock=clock) as store:
        await store.create(KEY, record(clock, subject="ada"))
        clock.advance(timedelta(days=1, hours=1, milliseconds=1))
        await store.create(OTHER, record(clock, subject="ada"))
    assert await redis_client.zrange(index_of("ada"), 0, -1) == [OTHER.encode()]


async def test_a_list_keeps_an_entry_a_day_longer_than_it_says(redis_url, redis_client):
    """The session may have been extended by a process that died before it wrote the list."""
    clock = FrozenClock()
    async with opened(redis_url, clock=clock) as store:
        first, longer = record(clock, subject="ada"), record(clock, subject="ada", life=HOUR * 10)
        await store.create(KEY, first)
        before = await redis_client.zscore(index_of("ada"), KEY)
        await store.save(KEY, longer, replaces=first.version)
        await redis_client.zadd(index_of("ada"), {KEY: before})
        clock.advance(HOUR * 2)
        await store.create(OTHER, record(clock, subject="ada"))
        assert await store.find("ada") == [(KEY, longer), (OTHER, await store.load(OTHER))]


async def test_finding_heals_a_list(store, redis_client):
    """Entries of sessions that have ended or changed hands are gone afterwards."""
    first = record(subject="ada")
    await store.create(KEY, first)
    await store.create(OTHER, record(subject="ada"))
    await store.save(KEY, record(subject="bob"), replaces=first.version)
    await store.delete(OTHER)
    assert await redis_client.zcard(index_of("ada")) == 2
    assert await store.find("ada") == []
    assert await redis_client.exists(index_of("ada")) == 0


async def test_finding_loses_nobody_who_comes_back_meanwhile(redis_url, redis_client):
    """A session that is bound to the subject again while the list heals is found and stays."""
    first, second, third = record(subject="ada"), record(subject="bob"), record(subject="ada")

    class Interrupted(Redis):
        async def execute_command(self, *words, **options):
            if words[0] == "ZREM":
                assert await store.save(KEY, third, replaces=second.version)
            return await super().execute_command(*words, **options)

    store = RedisStore(redis_client)
    await store.create(KEY, first)
    await store.save(KEY, second, replaces=first.version)
    async with Interrupted.from_url(redis_url) as client:
        assert await RedisStore(client).find("ada") == [(KEY, third)]
    assert await store.find("ada") == [(KEY, third)]


async def test_a_session_that_its_list_lost_comes_back_when_it_is_extended(store, redis_client):
    """A change of data alone writes no list."""
    first = record(subject="ada")
    await store.create(KEY, first)
    await redis_client.delete(index_of("ada"))
    second = replace(first, version=new_version(), body=b"new")
    await store.save(KEY, second, replaces=first.version)
    assert await store.find("ada") == []
    third = replace(second, version=new_version(), expires_at=second.expires_at + HOUR)
    await store.save(KEY, third, replaces=second.version)
    assert await store.find("ada") == [(KEY, third)]


async def test_what_is_no_record_is_missing(store, redis_client, caplog):
    """A value that somebody else wrote is logged without its content and may be overwritten."""
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


async def test_an_end_that_is_no_date_is_missing(store, redis_client):
    """However many digits somebody wrote."""
    await redis_client.set(f"sessions:{KEY}", b"v\n" + b"9" * 30 + b" -\nsecret")
    assert await store.load(KEY) is None


async def test_another_kind_of_key_is_missing_and_not_overwritten(store, redis_client):
    """A list under a session's key is no session; a write says what is wrong."""
    await redis_client.rpush(f"sessions:{KEY}", "item")
    assert await store.load(KEY) is None
    async with unavailable("the key holds something else"):
        await store.create(KEY, record())
    assert await redis_client.llen(f"sessions:{KEY}") == 1


async def test_prefixes_do_not_see_each_other(redis_url):
    """Neither in the verbs, nor in lists, nor in clear()."""
    async with opened(redis_url, prefix="app") as one, opened(redis_url, prefix="app.2") as two:
        kept = record(subject="ada")
        await one.create(KEY, kept)
        assert await two.load(KEY) is None
        assert await two.find("ada") == []
        await two.clear()
        assert await one.find("ada") == [(KEY, kept)]


async def test_clear_leaves_what_is_not_its_own(store, redis_client):
    """Keys that only look alike stay."""
    await store.create(KEY, record(subject="ada"))
    others = {b"sessions", b"sessions:", b"sessions:x", b"sessionsx:" + KEY.encode(), b"other"}
    for name in others:
        await redis_client.set(name, "kept")
    await store.clear()
    assert set(await redis_client.keys()) == others


# what it costs


async def test_each_verb_is_one_command(store, redis_server):
    """The list of a subject's sessions is kept by the same one."""
    first, other = record(subject="ada"), record()
    same = replace(first, version=new_version(), body=b"new")
    longer = replace(same, version=new_version(), expires_at=same.expires_at + HOUR)
    commands = []

    async def count(verb):
        before = Commands(redis_server)
        await verb
        commands.append(before.seen())

    await store.open()
    await store.create("c" * 64, record(subject="x"))
    await count(store.create(KEY, first))
    await count(store.create(OTHER, other))
    await count(store.load(KEY))
    await count(store.save(KEY, same, replaces=first.version))
    await count(store.save(KEY, longer, replaces=same.version))
    await count(store.save(KEY, first, replaces=first.version))
    await count(store.delete(KEY))
    one = {"evalsha": 1}
    assert commands == [one, one, {"mget": 1}, one, one, one, one]


async def test_reads_that_meet_travel_together(store, redis_server):
    """The first leaves at once, the others in one command, each key once."""
    keys = [f"{number:064x}" for number in range(20)]
    kept = {key: record() for key in keys}
    for key, value in kept.items():
        await store.create(key, value)
    commands = Commands(redis_server)
    loaded = await asyncio.gather(*(store.load(key) for key in keys * 2))
    assert loaded == [kept[key] for key in keys * 2]
    assert commands.seen() == {"mget": 2}


async def test_writes_that_meet_keep_their_own_answers(store):
    """In one message some may win and some may lose."""
    keys = [f"{number:064x}" for number in range(20)]
    first = record()
    for key in keys:
        await store.create(key, first)
    saves = [
        store.save(key, record(), replaces=first.version if number % 2 else new_version())
        for number, key in enumerate(keys)
    ]
    assert await asyncio.gather(*saves) == [bool(number % 2) for number in range(20)]


async def test_a_write_that_fails_takes_no_other_along(store, redis_client):
    """The server refuses one key of a message, or one list: the other writes of it are done."""
    keys = [f"{number:064x}" for number in range(20)]
    await redis_client.rpush(f"sessions:{keys[7]}", "item")
    await redis_client.set(index_of("bob"), "no list")
    records = [record(subject="bob" if number == 8 else "ada") for number in range(20)]
    creates = (store.create(key, each) for key, each in zip(keys, records, strict=True))
    answers = await asyncio.gather(*creates, return_exceptions=True)
    failed = [number for number, answer in enumerate(answers) if answer is not True]
    assert failed == [7, 8]
    assert {str(answers[number].reason) for number in failed} == {
        "ResponseError: the key holds something else"
    }
    assert len(await store.find("ada")) == 18


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_write_that_was_sent_again_is_on_the_list(store, redis_client, is_new):
    """Whatever was lost between its two parts."""
    first = record()
    newer = replace(first, version=new_version(), subject="ada")
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
    """It never joins a message that has left, however many are on their way."""
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


async def test_a_bad_record_spoils_no_other_read(store, redis_client):
    """Those that travel with it get theirs."""
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
    """One that could match or contain another prefix's keys is refused at once."""
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisStore.from_url("redis://127.0.0.1", prefix=prefix)


@pytest.mark.parametrize(
    "client",
    [
        Redis(decode_responses=True),
        RedisCluster(host="127.0.0.1", decode_responses=True),
        Redis.from_url("redis://127.0.0.1?decode_responses=true"),
    ],
)
def test_a_client_that_decodes_is_refused(client):
    """Sessions are bytes: the error says what to leave out."""
    with pytest.raises(ConfigurationError, match="without decode_responses=True"):
        RedisStore(client)


@pytest.mark.parametrize("client", [redis.Redis(), "redis://127.0.0.1", None])
def test_what_is_no_asyncio_client_is_refused(client):
    """The error names what is taken."""
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        RedisStore(client)


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
def test_a_wrong_address_or_option_shows_when_the_store_is_made(url, options):
    """The error leaves out the URL, which may hold a password."""
    with pytest.raises(ConfigurationError, match="from_url") as caught:
        RedisStore.from_url(url, **options)
    assert "hunter2" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_store_does_not_show_its_address():
    """Neither URL nor password is in its repr."""
    store = RedisStore.from_url("redis://ada:hunter2@db.example.com:6380/3", prefix="app")
    assert repr(store) == "RedisStore(prefix='app')"


def test_without_redis_py_the_install_line_is_named(monkeypatch):
    """Importing the module is what needs the library."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "fastapi_async_sessions.stores.redis")
    with pytest.raises(ConfigurationError, match=r'pip install "fastapi_async_sessions\[redis\]"'):
        importlib.import_module("fastapi_async_sessions.stores.redis")


async def test_a_given_client_stays_open(redis_client):
    """Whoever made it closes it."""
    store = RedisStore(redis_client)
    await store.create(KEY, record())
    before = await redis_client.client_id()
    await store.aclose()
    assert await redis_client.client_id() == before


async def test_a_store_may_be_opened_again(redis_url):
    """After aclose() its own client connects anew."""
    store = RedisStore.from_url(redis_url)
    for _ in range(2):
        await store.open()
        await store.load(KEY)
        await store.aclose()


# failures


async def test_a_server_that_died_is_back_without_a_restart_of_ours(start_redis):
    """While it is away every verb says so, and the first one after that works."""
    server = start_redis()
    async with opened(server.url) as store:
        await store.create(KEY, record(subject="ada"))
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


async def test_a_failure_reaches_all_that_travelled_and_nobody_later(start_redis):
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


async def test_a_server_that_hangs_is_given_up(start_redis):
    """The timeout of the connection ends it, for those who travelled too; then it goes on."""
    server = start_redis()
    async with opened(server.url, socket_timeout=0.2) as store:
        await store.create(KEY, record())
        server.pause()
        errors = await asyncio.gather(*(store.load(KEY) for _ in range(3)), return_exceptions=True)
        assert [error.reason for error in errors] == ["TimeoutError: no answer in time"] * 3
        server.resume()
        assert await store.load(KEY)


async def test_who_stops_waiting_leaves_the_others_alone(start_redis):
    """Whether it was the first or travelled with others, whoever it is that stops."""
    server = start_redis()
    async with opened(server.url) as store:
        keys = [letter * 64 for letter in "abc"]
        kept = [record(body=key.encode()) for key in keys]
        for key, value in zip(keys, kept, strict=True):
            await store.create(key, value)
        for impatient in range(3):
            server.pause()
            loads = [asyncio.create_task(store.load(key)) for key in keys]
            await asyncio.sleep(0.02)
            loads[impatient].cancel()
            await asyncio.sleep(0)
            server.resume()
            found = await asyncio.gather(*loads, return_exceptions=True)
            assert isinstance(found.pop(impatient), asyncio.CancelledError)
            assert found == [value for place, value in enumerate(kept) if place != impatient]


async def test_a_cancelled_read_leaves_no_answer_to_the_next_one(redis_url):
    """CVE-2023-28859: a connection that was left in the middle is never used again."""
    async with Proxy.to(redis_url) as proxy, opened(f"redis://127.0.0.1:{proxy.port}") as store:
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


async def test_a_write_whose_answer_was_lost_is_sent_again_and_done_once(redis_url):
    """The version tells that it is the same write."""
    async with Proxy.to(redis_url) as proxy, opened(f"redis://127.0.0.1:{proxy.port}") as store:
        first, second = record(subject="ada"), record(subject="bob")
        await store.open()
        proxy.lose_replies = 1
        assert await store.create(KEY, first)
        proxy.lose_replies = 1
        assert await store.save(KEY, second, replaces=first.version)
        assert await store.find("bob") == [(KEY, second)]
        assert proxy.lose_replies == 0


async def test_without_a_retry_a_lost_answer_is_unavailable(redis_url):
    """The write is done all the same, and doing it again says True."""
    async with Proxy.to(redis_url) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with opened(url, retry=None) as store:
            kept = record()
            await store.open()
            proxy.lose_replies = 1
            async with unavailable("ConnectionError"):
                await store.create(KEY, kept)
            assert await store.create(KEY, kept)


async def test_a_wrong_password_is_told_from_a_dead_server_and_not_shown(start_redis):
    """open() finds it at the start of the application."""
    server = start_redis("--requirepass", "right-password")
    for password in ("hunter2", ""):
        url = f"redis://:{password}@127.0.0.1:{server.port}"
        async with opened(url) as store:
            async with unavailable("the server refuses the user or the password") as caught:
                await store.open()
            assert "hunter2" not in str(caught)


async def test_a_user_who_may_not_do_enough_shows_at_the_start(start_redis):
    """open() reads and runs a script; the reason says what the user must be allowed."""
    server = start_redis()
    for rules in ("+mget", "+mget +evalsha +eval", "+evalsha +eval +get"):
        server.command("ACL", "SETUSER", "bob", "reset", "on", ">pw", "~sessions:*", *rules.split())
        url = f"redis://bob:pw@127.0.0.1:{server.port}"
        async with opened(url) as store, unavailable("the user may not run"):
            await store.open()


async def test_a_full_server_reads_and_refuses_writes(start_redis):
    """What is there stays, and writing works again when there is room."""
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


async def test_a_replica_reads_and_refuses_writes(start_redis):
    """Also one that was a master when the store connected."""
    server = start_redis()
    async with opened(server.url) as store:
        kept = record()
        await store.create(KEY, kept)
        server.command("REPLICAOF", "127.0.0.1", 1)
        async with unavailable("the server is a read-only replica"):
            await store.save(KEY, record(), replaces=kept.version)
        assert await store.load(KEY) == kept


async def test_a_master_that_is_one_no_more_is_left(start_redis):
    """The next connection may lead to the new one: by Sentinel, or by its name."""
    server = start_redis()
    async with Proxy.to(server.url) as proxy, opened(f"redis://127.0.0.1:{proxy.port}") as store:
        assert await store.create(KEY, record())
        server.command("REPLICAOF", "127.0.0.1", 1)
        async with unavailable("the server is a read-only replica"):
            await store.create(OTHER, record())
        server.command("REPLICAOF", "NO", "ONE")
        assert await store.create(OTHER, record())
        assert proxy.connections == 2


async def test_a_server_without_replicas_may_refuse_writes(start_redis):
    """min-replicas-to-write narrows what a failover loses."""
    server = start_redis("--min-replicas-to-write", "1")
    async with opened(server.url) as store, unavailable("too few replicas"):
        await store.create(KEY, record())


async def test_forgotten_scripts_are_sent_again(store, redis_client):
    """After SCRIPT FLUSH, or on a new master: alone and in company."""
    keys = [f"{number:064x}" for number in range(10)]
    for _ in range(2):
        await redis_client.script_flush()
        assert await store.create(KEY, record(subject="ada"))
        await redis_client.script_flush()
        assert all(await asyncio.gather(*(store.create(key, record()) for key in keys)))
        await store.clear()


async def test_a_plain_client_before_a_cluster_is_told_which_one_to_take(redis_cluster):
    """Some keys live on another node."""
    async with opened(redis_cluster.nodes[0].url) as store:
        async with unavailable(r"redis\.asyncio\.RedisCluster"):
            for number in range(10):
                await store.load(f"{number:064x}")
        async with unavailable(r"redis\.asyncio\.RedisCluster"):
            await asyncio.gather(*(store.load(f"{number:064x}") for number in range(10)))


async def test_a_server_that_is_no_redis_is_unavailable():
    """An answer that makes no sense is no session."""

    async def answer(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"redis://127.0.0.1:{port}"
        async with opened(url, protocol=2) as store, unavailable("InvalidResponse"):
            await store.load(KEY)


def test_another_event_loop_is_an_error_that_says_so(redis_url):
    """A connection belongs to the loop that made it: nothing hangs, and its own loop goes on."""
    store = RedisStore.from_url(redis_url)

    async def try_to_load():
        return await asyncio.gather(store.load(KEY), store.load(OTHER), return_exceptions=True)

    with asyncio.Runner() as one, asyncio.Runner() as two:
        one.run(store.open())
        error, later = two.run(try_to_load())
        assert isinstance(error, StoreUnavailable)
        assert "run the application in one" in error.reason
        assert (error.__cause__, error.__context__) == (None, None)
        assert later is None
        two.run(store.aclose())
        assert one.run(store.load(KEY)) is None
        one.run(store.aclose())


# the transport of a loop that is gone can't be closed by anybody
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_gone_is_an_error_that_says_so(redis_url):
    """As with TestClient without a with-block, which runs a loop for each request."""
    store = RedisStore.from_url(redis_url)
    asyncio.run(store.open())
    with pytest.raises(StoreUnavailable, match="run the application in one"):
        asyncio.run(store.load(KEY))

    async def use_again():
        await store.open()
        await store.aclose()

    asyncio.run(use_again())
    gc.collect()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("TLS needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@asynccontextmanager
async def tls_before(url, certificate):
    """A port that speaks TLS and passes on to a server; the wheel's Redis can't do it itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    tasks = set()

    async def pump(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        writer.close()

    async def accept(reader, writer):
        tasks.add(asyncio.current_task())
        port = int(url.rpartition(":")[2].partition("/")[0])
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*tasks)


async def test_tls_with_a_certificate_that_is_trusted(redis_url, certificate):
    """rediss:// verifies it."""
    async with tls_before(redis_url, certificate) as port:
        url = f"rediss://127.0.0.1:{port}"
        async with opened(url, ssl_ca_certs=str(certificate[0])) as store:
            kept = record()
            assert await store.create(KEY, kept)
            assert await store.load(KEY) == kept


async def test_tls_with_a_certificate_that_is_not_trusted(redis_url, certificate):
    """Nothing is sent, and the reason says that it is about TLS."""
    async with tls_before(redis_url, certificate) as port:
        url = f"rediss://127.0.0.1:{port}"
        async with opened(url) as store, unavailable("the TLS connection failed"):
            await store.load(KEY)
