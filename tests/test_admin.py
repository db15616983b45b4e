"""Sessions outside of a request: list, revoke, open; and check that the store works."""

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
from .races import Client

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
    """A browser that has a stored session."""
    client = browser(make_site(get_session))
    for cookie in (await stored_cookies(get_session, data, subject=subject)).items():
        client.cookies.set(*cookie)
    return client


async def key_of(client: Any) -> str:
    return (await client.get("/")).json()["key"]


async def is_alive(client: Any) -> bool:
    return not (await client.get("/")).json()["new"]


# sessions


async def test_the_sessions_of_a_user_are_listed_with_typed_data_and_times(get_session, clock):
    """Each has its key, data, subject and four times."""
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
    """The order is that of the sign-ins, whichever session was used last."""
    clients = []
    for _ in range(3):
        clients.append(await signed_in(get_session))
        clock.advance(MINUTE)
    keys = [await key_of(client) for client in clients]
    clock.advance(30 * MINUTE)
    await clients[0].get("/")
    assert [each.key for each in await get_session.sessions("42")] == keys[::-1]


async def test_only_sessions_of_the_given_user_are_listed(get_session):
    """No sessions of other users, even if their names are similar, and no anonymous ones."""
    mine = await signed_in(get_session)
    for subject in ("7", "4", "422", "42 ", "session:42", None):
        await signed_in(get_session, subject)
    assert [each.key for each in await get_session.sessions("42")] == [await key_of(mine)]
    assert await get_session.sessions("nobody") == []


async def test_ended_sessions_are_not_listed(get_session, clock):
    """Neither revoked nor idle ones."""
    idle = await signed_in(get_session)
    clock.advance(40 * MINUTE)
    revoked, alive = await signed_in(get_session), await signed_in(get_session)
    await get_session.revoke(await key_of(revoked))
    clock.advance(20 * MINUTE)
    assert not await is_alive(idle)
    assert [each.key for each in await get_session.sessions("42")] == [await key_of(alive)]


async def test_sessions_that_a_shorter_lifetime_has_ended_are_not_listed(store, clock):
    """A session is listed only if the next request would find it."""
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
    """Both know the subject; each lists and ends only the sessions of its own."""
    user, shopper = await signed_in(get_session), await signed_in(baskets, data=Basket(items=["a"]))
    assert [type(each.data) for each in await get_session.sessions("42")] == [Data]
    assert [each.data for each in await baskets.sessions("42")] == [Basket(items=["a"])]
    assert await get_session.revoke_all("42") == 1
    assert await is_alive(shopper)
    assert not await is_alive(user)


async def test_a_key_with_a_subject_ends_no_session_of_another_provider(get_session, baskets):
    """The subject is one of this provider, and the session belongs to another."""
    shopper = await signed_in(baskets)
    assert await get_session.revoke(await key_of(shopper), "42") is False
    assert await is_alive(shopper)


# revoke


async def test_revoking_ends_a_session_at_its_next_request(get_session):
    """The first call returns True, the second False."""
    client = await signed_in(get_session)
    key = await key_of(client)
    assert await get_session.revoke(key) is True
    assert not await is_alive(client)
    assert await get_session.revoke(key) is False


async def test_revoking_with_a_subject_ends_only_a_session_of_that_user(get_session):
    """So a key from a form cannot end the session of another user."""
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
async def test_a_malformed_key_ends_nothing_and_causes_no_store_call(get_session, store, key):
    """A form may send anything."""
    assert await get_session.revoke(key) is False
    assert await get_session.revoke(key, "42") is False
    with pytest.raises(SessionNotFound):
        async with get_session.open(key):
            pass
    assert store.calls == []


async def test_a_subject_of_none_has_no_sessions(get_session):
    """``session.subject`` may be passed as it is: for None nothing is listed or revoked."""
    client = await signed_in(get_session, subject=None)
    assert await get_session.sessions(None) == []
    assert await get_session.revoke(await key_of(client), None) is False
    assert await get_session.revoke_all(None) == 0
    assert await is_alive(client)


async def test_an_unknown_key_ends_nothing(get_session):
    """The result is False, with a subject and without."""
    assert await get_session.revoke(NO_KEY) is False
    assert await get_session.revoke(NO_KEY, "42") is False


# revoke_all


async def test_revoking_all_ends_every_session_of_a_user_and_counts_them(get_session):
    """Sessions of other users are not affected."""
    mine = [await signed_in(get_session) for _ in range(3)]
    other = await signed_in(get_session, "7")
    assert await get_session.revoke_all("42") == 3
    assert [await is_alive(client) for client in mine] == [False] * 3
    assert await is_alive(other)
    assert await get_session.revoke_all("42") == 0
    assert await get_session.revoke_all("nobody") == 0


# open


async def test_an_opened_session_is_committed_at_the_end(get_session):
    """The next request sees the change; ``key`` and ``subject`` are set."""
    client = await signed_in(get_session, data=Data(count=1))
    key = await key_of(client)
    async with get_session.open(key) as session:
        assert (session.key, session.subject, session.is_new) == (key, "42", False)
        session.data.lines.append(Line(name="added by a task"))
    assert (await client.get("/")).json()["data"]["lines"] == [
        {"name": "added by a task", "tags": []}
    ]


async def test_opening_a_session_without_changing_it_writes_nothing(get_session, store):
    """It costs one load."""
    key = await key_of(await signed_in(get_session))
    store.calls.clear()
    async with get_session.open(key) as session:
        assert session.data.count == 0
    assert store.calls == ["load"]


async def test_opening_a_session_does_not_extend_it(get_session, clock):
    """A change by an administrator or a job does not restart the idle timeout."""
    client = await signed_in(get_session)
    key = await key_of(client)
    clock.advance(30 * MINUTE)
    async with get_session.open(key) as session:
        session.data.count = 7
    (listed,) = await get_session.sessions("42")
    assert (listed.data.count, listed.expires_at) == (7, START + HOUR)


async def test_the_key_of_another_provider_opens_nothing(get_session, baskets):
    """Providers may share a store, and each record belongs to one provider."""
    key = await key_of(await signed_in(get_session))
    with pytest.raises(SessionNotFound):
        async with baskets.open(key):
            pass


async def test_a_record_under_another_key_than_its_own_is_not_a_session(get_session, store):
    """A record is bound to its key, so that a store that mixes up records discloses no data."""
    key = await key_of(await signed_in(get_session))
    await store.create(NO_KEY, await store.load(key))
    with pytest.raises(SessionNotFound):
        async with get_session.open(NO_KEY):
            pass
    assert [each.key for each in await get_session.sessions("42")] == [key]


async def test_nothing_is_committed_when_the_block_raises(get_session, store):
    """The error is raised unchanged; an earlier commit is kept."""
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


async def test_an_opened_session_merges_with_concurrent_changes(get_session):
    """Its commit is like that of a request."""
    key = await key_of(await signed_in(get_session))
    async with get_session.open(key) as outer:
        async with get_session.open(key) as inner:
            inner.data.count = 5
        outer.data.lines.append(Line(name="a"))
    async with get_session.open(key) as session:
        assert session.data == Data(count=5, lines=[Line(name="a")])


async def test_a_conflict_in_an_opened_session_is_raised(store, clock):
    """With ``on_conflict="raise"`` the error names the fields."""
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


async def test_a_change_of_an_opened_session_that_is_refused_has_no_route(store, clock, events):
    """Its event has the error and the reason alone."""
    get_session = make_provider(store, clock=clock, on_event=events.append)
    key = await Client(get_session).sign_in("42")
    with pytest.raises(SessionInvalid):
        async with get_session.open(key) as session:
            session.data.count = "many"
    (refused,) = [event for event in events if event.kind == "refused"]
    assert refused.facts.keys() == {"error", "reason"}


@pytest.mark.parametrize("on_conflict", ["overwrite", "raise"])
@pytest.mark.parametrize("subject", ["42", None])
async def test_an_opened_session_keeps_its_changes_when_its_visitor_renews(
    store, clock, on_conflict, subject
):
    """It was opened by its key, not by a token, so another token is no end of it."""
    get_session = make_provider(SpyStore(store), clock=clock, on_conflict=on_conflict)
    visitor = Client(get_session)
    key = await visitor.sign_in("42")

    async def renew(session):
        session.renew(subject=subject)

    async with get_session.open(key) as session:
        await visitor.request(renew)
        session.data.count = 1
        await session.commit()
        await visitor.request(renew)
        assert await session.reload()
    assert await visitor.is_live()
    assert (await visitor.data()).count == 1


async def test_an_opened_session_cannot_renew(get_session):
    """There is no response that could set the new token."""
    key = await key_of(await signed_in(get_session))
    async with get_session.open(key) as session:
        with pytest.raises(SessionClosed, match="cookie"):
            session.renew(subject="7")
    assert len(await get_session.sessions("42")) == 1


async def test_an_opened_session_can_be_destroyed(get_session):
    """With ``await`` or without; its key then opens nothing."""
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


async def test_an_opened_session_cannot_be_used_again_after_destroy(get_session, store):
    """No response could set the cookie of a new session: a change is an error and is not stored."""
    key = await key_of(await signed_in(get_session))

    async def destroy_and_change() -> None:
        async with get_session.open(key) as session:
            await session.destroy()
            session.data.count = 1

    with pytest.raises(SessionClosed, match="cookie"):
        await destroy_and_change()
    assert await get_session.sessions("42") == []


async def test_a_change_of_an_opened_session_that_has_ended_meanwhile_is_dropped(get_session):
    """As it would be in a request."""
    client = await signed_in(get_session)
    key = await key_of(client)
    async with get_session.open(key) as session:
        await get_session.revoke(key)
        session.data.count = 1
        assert await session.reload() is False
    assert not await is_alive(client)


async def test_an_opened_session_is_closed_afterwards(get_session):
    """Its data can still be read."""
    key = await key_of(await signed_in(get_session, data=Data(count=1)))
    async with get_session.open(key) as session:
        pass
    assert session.data.count == 1
    with pytest.raises(SessionClosed):
        session.data = Data()
    with pytest.raises(SessionClosed):
        await session.commit()


async def test_a_commit_that_fails_at_the_end_of_open_raises(get_session, store):
    """The change is not lost silently."""
    key = await key_of(await signed_in(get_session))
    store.hook = failing("save")
    with pytest.raises(StoreUnavailable):
        async with get_session.open(key) as session:
            session.data.count = 1


# check


async def test_check_writes_and_deletes_a_probe(get_session, store):
    """If the store works, nothing is raised and nothing is left behind."""
    await get_session.check()
    assert store.calls == ["create", "load", "delete"]
    assert await store.records() == {}


@pytest.mark.parametrize("verb", ["create", "delete"])
async def test_check_fails_where_requests_would(get_session, store, verb):
    """If the store is down or read-only; the error has the reason."""
    store.hook = failing(verb)
    with pytest.raises(StoreUnavailable) as raised:
        await get_session.check()
    assert raised.value.reason == "told to fail"


async def test_check_names_a_read_only_redis(start_redis):
    """For instance a replica."""
    server = start_redis("--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "yes")
    store = RedisStore.from_url(server.url)
    with pytest.raises(StoreUnavailable) as raised:
        await make_provider(store).check()
    assert "read-only" in raised.value.reason
    await store.aclose()


# the index of a subject


async def test_a_lost_index_comes_back_with_the_next_extension(redis_url, redis_client, clock):
    """The session works without its entry, and its next extension adds it again."""
    store = RedisStore.from_url(redis_url, clock=clock)
    get_session = make_provider(store, clock=clock)
    client = await signed_in(get_session)
    (index,) = await redis_client.keys("*:owner:*")
    await redis_client.delete(index)
    assert await get_session.sessions("42") == []
    assert await is_alive(client)
    clock.advance(6 * MINUTE)
    assert await is_alive(client)
    assert [each.key for each in await get_session.sessions("42")] == [await key_of(client)]
    assert await get_session.revoke_all("42") == 1
    assert not await is_alive(client)
    await store.aclose()


async def test_index_entries_without_a_record_are_removed(redis_url, redis_client, clock):
    """Reading the index removes entries of records that were evicted or deleted by hand."""
    store = RedisStore.from_url(redis_url, clock=clock)
    get_session = make_provider(store, clock=clock)
    lost, alive = await signed_in(get_session), await signed_in(get_session)
    (index,) = await redis_client.keys("*:owner:*")
    await redis_client.delete(f"sessions:{await key_of(lost)}")
    assert await redis_client.zcard(index) == 2
    assert [each.key for each in await get_session.sessions("42")] == [await key_of(alive)]
    assert await redis_client.zcard(index) == 1
    await store.aclose()


async def test_the_index_has_exactly_the_live_sessions(store, get_session, clock):
    """After sign-ins of several subjects, revocations and expiries."""
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


# stores that lack verbs or fail


class StoreWithoutFind(MemoryStore):
    find, delete_owned = Store.find, Store.delete_owned


async def test_a_store_without_find_raises_an_error_that_says_what_to_write():
    """``sessions()`` and ``revoke_all()`` need it; everything else works without it."""
    get_session = make_provider(StoreWithoutFind())
    client = await signed_in(get_session)
    for answer in (get_session.sessions("42"), get_session.revoke_all("42")):
        with pytest.raises(
            ConfigurationError, match=r"StoreWithoutFind does not list sessions: write find"
        ):
            await answer
    assert await is_alive(client)
    assert await get_session.revoke(await key_of(client), "42") is True
    assert not await is_alive(client)
    await get_session.check()


async def test_a_store_failure_is_raised_by_every_method(get_session, store):
    """It is never an empty list or a count of 0."""
    key = await key_of(await signed_in(get_session))
    store.hook = failing("create", "load", "save", "delete", "find", "delete_owned")
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


async def test_opening_a_record_that_is_not_a_session_finds_nothing(get_session, store, clock):
    """A probe, a revocation record, or a foreign record under a key of the same form."""
    record = Record(b"", new_version(), None, clock() + HOUR)
    await store.create(NO_KEY, record)
    with pytest.raises(SessionNotFound):
        async with get_session.open(NO_KEY):
            pass


async def test_opening_invalid_data_follows_on_invalid(store, clock):
    """``discard`` raises ``SessionNotFound``, ``raise`` raises ``SessionInvalid``."""

    class Strict(BaseModel):
        count: list[str] = []

    old = make_provider(SpyStore(store), clock=clock)
    key = await key_of(await signed_in(old))
    new = make_provider(SpyStore(store), Strict, clock=clock, on_invalid="discard")
    with pytest.raises(SessionNotFound):
        async with new.open(key):
            pass
    assert await new.sessions("42") == []
    strict = make_provider(SpyStore(store), Strict, clock=clock, on_invalid="raise")
    with pytest.raises(SessionInvalid):
        async with strict.open(key):
            pass
