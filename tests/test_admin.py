"""Sessions outside of a request: list them, end them, change them, ask whether the store works."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends
from pydantic import BaseModel

from fastapi_async_sessions import (
    ConfigurationError,
    Lifetime,
    MemoryStore,
    Record,
    Session,
    SessionClosed,
    SessionConflict,
    SessionInvalid,
    SessionNotFound,
    Store,
    StoreUnavailable,
)
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock
from fastapi_async_sessions.testing.standins import session_cookies as stored_cookies

from .apps import Data, Line, browser, make_app, make_provider
from .doubles import SpyStore, failing

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
NO_KEY = "0" * 64


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


def make_site(get_session: Any) -> Any:
    app = make_app()

    @app.get("/")
    async def read(session: Annotated[Session[Any], Depends(get_session)]) -> dict[str, Any]:
        return {"new": session.is_new, "key": session.key, "data": session.data.model_dump()}

    return app


async def signed_in(get_session: Any, subject: str | None = "42", data: Any = None) -> Any:
    """A browser with a stored session."""
    client = browser(make_site(get_session))
    for cookie in (await stored_cookies(get_session, data, subject=subject)).items():
        client.cookies.set(*cookie)
    return client


async def key_of(client: Any) -> str:
    return (await client.get("/")).json()["key"]


async def is_alive(client: Any) -> bool:
    return not (await client.get("/")).json()["new"]


# sessions


async def test_a_user_s_sessions_are_listed_with_typed_data_and_times(get_session, clock):
    """Key, data, subject, and when it began, was authenticated, was seen and will end."""
    client = await signed_in(get_session, data=Data(count=1, lines=[Line(name="a")]))
    clock.advance(30 * MINUTE)
    key = await key_of(client)
    (listed,) = await get_session.sessions("42")
    assert listed.key == key
    assert listed.data == Data(count=1, lines=[Line(name="a")])
    assert isinstance(listed.data, Data)
    assert listed.subject == "42"
    assert listed.created_at == listed.authenticated_at == START
    assert listed.seen_at == START + 30 * MINUTE
    assert listed.expires_at == START + 90 * MINUTE


async def test_the_latest_sign_in_is_listed_first(get_session, clock):
    """By when its user signed in last, not by when it was used."""
    clients = []
    for _ in range(3):
        clients.append(await signed_in(get_session))
        clock.advance(MINUTE)
    keys = [await key_of(client) for client in clients]
    clock.advance(30 * MINUTE)
    await clients[0].get("/")
    assert [each.key for each in await get_session.sessions("42")] == keys[::-1]


async def test_only_this_user_s_sessions_are_listed(get_session):
    """Neither other users' nor anonymous ones, nor of names that look alike."""
    mine = await signed_in(get_session)
    for subject in ("7", "4", "422", "42 ", "session:42", None):
        await signed_in(get_session, subject)
    assert [each.key for each in await get_session.sessions("42")] == [await key_of(mine)]
    assert await get_session.sessions("nobody") == []


async def test_ended_sessions_are_not_listed(get_session, clock):
    """Not the revoked, not the idle."""
    idle = await signed_in(get_session)
    clock.advance(40 * MINUTE)
    revoked, alive = await signed_in(get_session), await signed_in(get_session)
    await get_session.revoke(await key_of(revoked))
    clock.advance(20 * MINUTE)
    assert not await is_alive(idle)
    assert [each.key for each in await get_session.sessions("42")] == [await key_of(alive)]


async def test_sessions_that_a_shorter_configuration_has_ended_are_not_listed(store, clock):
    """The list says what the next request would find."""
    old = make_provider(SpyStore(store), clock=clock, lifetime=Lifetime(24 * HOUR, 24 * HOUR))
    await signed_in(old)
    clock.advance(HOUR)
    assert len(await old.sessions("42")) == 1
    short = make_provider(SpyStore(store), clock=clock, lifetime=Lifetime(HOUR, HOUR))
    assert await short.sessions("42") == []


class Basket(BaseModel):
    items: list[str] = []


@pytest.fixture
def baskets(store, clock, get_session) -> Any:
    """Another provider on the same store."""
    return make_provider(store, Basket, clock=clock, name="basket")


async def test_two_providers_on_one_store_list_their_own(get_session, baskets):
    """The same subject at both: each lists and ends its own sessions."""
    user, shopper = await signed_in(get_session), await signed_in(baskets, data=Basket(items=["a"]))
    assert [type(each.data) for each in await get_session.sessions("42")] == [Data]
    assert [each.data for each in await baskets.sessions("42")] == [Basket(items=["a"])]
    assert await get_session.revoke_all("42") == 1
    assert await is_alive(shopper)
    assert not await is_alive(user)


async def test_a_key_with_a_subject_ends_no_session_of_another_provider(get_session, baskets):
    """The subject is one of this provider's."""
    shopper = await signed_in(baskets)
    assert await get_session.revoke(await key_of(shopper), "42") is False
    assert await is_alive(shopper)


# revoke


async def test_revoking_ends_a_session_at_its_next_request(get_session):
    """True, then False: it is gone."""
    client = await signed_in(get_session)
    key = await key_of(client)
    assert await get_session.revoke(key) is True
    assert not await is_alive(client)
    assert await get_session.revoke(key) is False


async def test_revoking_with_a_subject_ends_only_that_user_s_session(get_session):
    """A key out of somebody else's form is left alone."""
    mine, theirs = await signed_in(get_session, "42"), await signed_in(get_session, "7")
    anonymous = await signed_in(get_session, None, Data(count=1))
    for client in (theirs, anonymous):
        assert await get_session.revoke(await key_of(client), "42") is False
        assert await is_alive(client)
    assert await get_session.revoke(await key_of(mine), subject="42") is True
    assert not await is_alive(mine)


@pytest.mark.parametrize(
    "key",
    ["", "x", NO_KEY.upper().replace("0", "A"), NO_KEY[:-1], NO_KEY + "0", NO_KEY + "\n", "*" * 64],
    ids=ascii,
)
async def test_what_is_no_key_ends_nothing_and_asks_no_store(get_session, store, key):
    """Whatever a form sends."""
    assert await get_session.revoke(key) is False
    assert await get_session.revoke(key, "42") is False
    with pytest.raises(SessionNotFound):
        async with get_session.open(key):
            pass
    assert store.calls == []


async def test_nobody_s_sessions_are_none(get_session):
    """``session.subject`` may be passed on as it is: with None nothing is listed or ended."""
    client = await signed_in(get_session, subject=None)
    assert await get_session.sessions(None) == []
    assert await get_session.revoke(await key_of(client), None) is False
    assert await get_session.revoke_all(None) == 0
    assert await is_alive(client)


async def test_a_key_that_nobody_has_ends_nothing(get_session):
    """False, with a subject and without."""
    assert await get_session.revoke(NO_KEY) is False
    assert await get_session.revoke(NO_KEY, "42") is False


# revoke_all


async def test_revoking_all_ends_every_session_of_a_user_and_counts_them(get_session):
    """The other users' stay."""
    mine = [await signed_in(get_session) for _ in range(3)]
    other = await signed_in(get_session, "7")
    assert await get_session.revoke_all("42") == 3
    assert [await is_alive(client) for client in mine] == [False] * 3
    assert await is_alive(other)
    assert await get_session.revoke_all("42") == 0
    assert await get_session.revoke_all("nobody") == 0


# open


async def test_an_opened_session_is_committed_at_the_end(get_session):
    """The next request sees the change; key and subject are shown."""
    client = await signed_in(get_session, data=Data(count=1))
    key = await key_of(client)
    async with get_session.open(key) as session:
        assert (session.key, session.subject, session.is_new) == (key, "42", False)
        session.data.lines.append(Line(name="told by a task"))
    assert (await client.get("/")).json()["data"]["lines"] == [
        {"name": "told by a task", "tags": []}
    ]


async def test_an_opened_session_that_is_not_changed_writes_nothing(get_session, store):
    """One load."""
    key = await key_of(await signed_in(get_session))
    store.calls.clear()
    async with get_session.open(key) as session:
        assert session.data.count == 0
    assert store.calls == ["load"]


async def test_opening_a_session_is_no_visit(get_session, clock):
    """What an administrator or a job changes leaves the idle time running."""
    client = await signed_in(get_session)
    key = await key_of(client)
    clock.advance(30 * MINUTE)
    async with get_session.open(key) as session:
        session.data.count = 7
    (listed,) = await get_session.sessions("42")
    assert (listed.data.count, listed.expires_at) == (7, START + HOUR)


async def test_another_provider_s_key_opens_nothing(get_session, baskets):
    """Two providers may share a store, and a record belongs to one of them."""
    key = await key_of(await signed_in(get_session))
    with pytest.raises(SessionNotFound):
        async with baskets.open(key):
            pass


async def test_a_record_that_was_copied_under_another_key_is_no_session(get_session, store):
    """A record is bound to its key, so that mixed-up records show nobody's data (A-60)."""
    key = await key_of(await signed_in(get_session))
    await store.create(NO_KEY, await store.load(key))
    with pytest.raises(SessionNotFound):
        async with get_session.open(NO_KEY):
            pass
    assert [each.key for each in await get_session.sessions("42")] == [key]


async def test_nothing_is_committed_when_the_block_raises(get_session, store):
    """The error comes out as it is; what was committed before stays."""
    key = await key_of(await signed_in(get_session))

    async def change_and_fail() -> None:
        async with get_session.open(key) as session:
            session.data.count = 1
            await session.commit()
            session.data.count = 2
            raise KeyError

    with pytest.raises(KeyError):
        await change_and_fail()
    async with get_session.open(key) as session:
        assert session.data.count == 1


async def test_an_opened_session_merges_with_requests_meanwhile(get_session):
    """It commits like any other."""
    key = await key_of(await signed_in(get_session))
    async with get_session.open(key) as outer:
        async with get_session.open(key) as inner:
            inner.data.count = 5
        outer.data.lines.append(Line(name="a"))
    async with get_session.open(key) as session:
        assert session.data == Data(count=5, lines=[Line(name="a")])


async def test_a_conflict_in_an_opened_session_is_raised(store, clock):
    """``on_conflict="raise"`` names the fields."""
    get_session = make_provider(SpyStore(store), clock=clock, on_conflict="raise")
    key = await key_of(await signed_in(get_session))

    async def change_twice() -> None:
        async with get_session.open(key) as outer:
            async with get_session.open(key) as inner:
                inner.data.count = 5
            outer.data.count = 6

    with pytest.raises(SessionConflict) as raised:
        await change_twice()
    assert raised.value.fields == ("count",)


async def test_an_opened_session_cannot_renew(get_session):
    """There is no cookie that a new token could travel in."""
    key = await key_of(await signed_in(get_session))
    async with get_session.open(key) as session:
        with pytest.raises(SessionClosed, match="cookie"):
            session.renew(subject="7")
    assert len(await get_session.sessions("42")) == 1


async def test_an_opened_session_can_be_destroyed(get_session):
    """Awaited or not; it can't begin another one."""
    awaited, not_awaited = await signed_in(get_session), await signed_in(get_session)
    key = await key_of(awaited)
    async with get_session.open(key) as session:
        await session.destroy()
        assert not await is_alive(awaited)
    async with get_session.open(await key_of(not_awaited)) as session:
        session.destroy()
    assert not await is_alive(not_awaited)
    with pytest.raises(SessionNotFound) as raised:
        async with get_session.open(key):
            pass
    assert raised.value.key == key


async def test_a_session_that_was_destroyed_in_open_begins_no_other(get_session, store):
    """What is changed after it has no cookie to be found by: it is refused, and nothing is left."""
    key = await key_of(await signed_in(get_session))

    async def destroy_and_change() -> None:
        async with get_session.open(key) as session:
            await session.destroy()
            session.data.count = 1

    with pytest.raises(SessionClosed, match="cookie"):
        await destroy_and_change()
    assert await get_session.sessions("42") == []


async def test_an_opened_session_that_ended_meanwhile_drops_its_change(get_session):
    """As in a request."""
    client = await signed_in(get_session)
    key = await key_of(client)
    async with get_session.open(key) as session:
        await get_session.revoke(key)
        session.data.count = 1
        assert await session.reload() is False
    assert not await is_alive(client)


async def test_an_opened_session_is_closed_afterwards(get_session):
    """It can be read, and no more."""
    key = await key_of(await signed_in(get_session, data=Data(count=1)))
    async with get_session.open(key) as session:
        pass
    assert session.data.count == 1
    with pytest.raises(SessionClosed):
        session.data = Data()
    with pytest.raises(SessionClosed):
        await session.commit()


async def test_a_commit_at_the_end_of_open_that_fails_is_raised(get_session, store):
    """Never lost in silence."""
    key = await key_of(await signed_in(get_session))
    store.hook = failing("save")
    with pytest.raises(StoreUnavailable):
        async with get_session.open(key) as session:
            session.data.count = 1


# check


async def test_check_writes_and_deletes_a_probe(get_session, store):
    """A store that works says nothing and keeps nothing."""
    await get_session.check()
    assert store.calls == ["create", "delete"]
    assert await store.records() == {}


@pytest.mark.parametrize("verb", ["create", "delete"])
async def test_check_fails_where_requests_would(get_session, store, verb):
    """A dead store, or one that only reads: the error says why."""
    store.hook = failing(verb)
    with pytest.raises(StoreUnavailable) as raised:
        await get_session.check()
    assert raised.value.reason == "told to fail"


async def test_check_names_a_read_only_redis(start_redis):
    """A replica that nobody promoted."""
    server = start_redis("--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "yes")
    store = RedisStore.from_url(server.url)
    with pytest.raises(StoreUnavailable) as raised:
        await make_provider(store).check()
    assert "read-only" in raised.value.reason
    await store.aclose()


# the index of a subject


async def test_a_lost_index_comes_back_with_the_next_extension(redis_url, redis_client, clock):
    """The session works meanwhile; its next stamp puts it on the list again."""
    store = RedisStore.from_url(redis_url, clock=clock)
    get_session = make_provider(store, clock=clock)
    client = await signed_in(get_session)
    (index,) = await redis_client.keys("*:subject:*")
    await redis_client.delete(index)
    assert await get_session.sessions("42") == []
    assert await is_alive(client)
    clock.advance(6 * MINUTE)
    assert await is_alive(client)
    assert [each.key for each in await get_session.sessions("42")] == [await key_of(client)]
    assert await get_session.revoke_all("42") == 1
    assert not await is_alive(client)
    await store.aclose()


async def test_entries_without_a_record_go(redis_url, redis_client, clock):
    """Keys that were evicted or deleted by hand leave the list when it is read."""
    store = RedisStore.from_url(redis_url, clock=clock)
    get_session = make_provider(store, clock=clock)
    lost, alive = await signed_in(get_session), await signed_in(get_session)
    (index,) = await redis_client.keys("*:subject:*")
    await redis_client.delete(f"sessions:{await key_of(lost)}")
    assert await redis_client.zcard(index) == 2
    assert [each.key for each in await get_session.sessions("42")] == [await key_of(alive)]
    assert await redis_client.zcard(index) == 1
    await store.aclose()


async def test_the_index_is_what_lives(store, get_session, clock):
    """Sign-ins, sign-outs, other subjects, ends: the list says what the cookies say."""
    clients = []
    for round_ in range(30):
        subject = ("42", "7", None)[round_ % 3]
        data = Data(count=1)
        clients.append((subject, await signed_in(get_session, subject, data)))
        clock.advance(3 * MINUTE)
        if round_ % 4 == 0:
            await get_session.revoke(await key_of(clients[round_ // 2][1]) or NO_KEY)
    for subject in ("42", "7"):
        keys = [await key_of(client) for owner, client in clients if owner == subject]
        listed = {each.key for each in await get_session.sessions(subject)}
        assert listed == {key for key in keys if key is not None}
        assert listed


# stores that can't


class Four(Store):
    """Writes the four verbs and no more."""

    def __init__(self) -> None:
        self.inner = MemoryStore()

    async def create(self, key: str, record: Record) -> bool:
        return await self.inner.create(key, record)

    async def load(self, key: str) -> Record | None:
        return await self.inner.load(key)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        return await self.inner.save(key, record, replaces=replaces)

    async def delete(self, key: str) -> bool:
        return await self.inner.delete(key)


async def test_a_store_without_find_says_what_to_write():
    """Listing and revoking all are errors, never an empty answer; the rest works."""
    get_session = make_provider(Four())
    client = await signed_in(get_session)
    for answer in (get_session.sessions("42"), get_session.revoke_all("42")):
        with pytest.raises(ConfigurationError, match=r"Four does not list sessions: write find"):
            await answer
    assert await is_alive(client)
    assert await get_session.revoke(await key_of(client), "42") is True
    assert not await is_alive(client)
    await get_session.check()


async def test_a_store_that_fails_is_an_error_for_all_of_it(get_session, store):
    """Never an empty list and never "0 ended"."""
    key = await key_of(await signed_in(get_session))
    store.hook = failing("create", "load", "save", "delete", "find")
    for answer in (
        get_session.sessions("42"),
        get_session.revoke(key),
        get_session.revoke(key, "42"),
        get_session.revoke_all("42"),
        get_session.check(),
    ):
        with pytest.raises(StoreUnavailable):
            await answer
    with pytest.raises(StoreUnavailable):
        async with get_session.open(key):
            pass


async def test_opening_what_is_no_session_of_this_library_finds_nothing(get_session, store, clock):
    """A probe, a note of a revocation, anything else under a key of that form."""
    record = Record(b"", new_version(), None, clock() + HOUR)
    await store.create(NO_KEY, record)
    with pytest.raises(SessionNotFound):
        async with get_session.open(NO_KEY):
            pass


async def test_opening_data_that_does_not_fit_follows_on_invalid(store, clock):
    """``discard``: not found; ``raise``: invalid."""

    class Strict(BaseModel):
        count: list[str] = []

    old = make_provider(SpyStore(store), clock=clock)
    key = await key_of(await signed_in(old))
    new = make_provider(SpyStore(store), Strict, clock=clock)
    with pytest.raises(SessionNotFound):
        async with new.open(key):
            pass
    assert await new.sessions("42") == []
    strict = make_provider(SpyStore(store), Strict, clock=clock, on_invalid="raise")
    with pytest.raises(SessionInvalid):
        async with strict.open(key):
            pass
