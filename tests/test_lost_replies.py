"""Writes that were done and whose replies were lost: they are not done twice."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, Literal

import pytest
from fastapi import Depends
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from fastapi_async_sessions import (
    Additive,
    Session,
    SessionConflict,
    SessionEvent,
    SessionProvider,
    StoreUnavailable,
)
from fastapi_async_sessions._core.attempts import RecentWrites
from fastapi_async_sessions.records import Record, includes_write, name_of_write, new_version
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.testing import FrozenClock
from tests.apps import SECRET, browser, make_app
from tests.doubles import SpyStore, StoreCall, pass_on
from tests.generated import cases
from tests.races import Client, provider_without_timeouts


@pytest.mark.parametrize("writes", [0, 1, 23, 24, 25, 60])
def test_a_version_remembers_the_24_writes_before_it(writes: int) -> None:
    """So that a request whose reply was lost knows its write under those of others."""
    mine = version = new_version("somebody.else")
    for _ in range(writes):
        version = new_version(version)
    assert includes_write(version, mine) is (writes <= 24)
    assert not includes_write(version, new_version())


@pytest.mark.parametrize(("writes_ago", "is_known"), [(2023, True), (2024, False)])
def test_a_process_remembers_its_last_2000_writes(writes_ago: int, is_known: bool) -> None:
    """And the 24 that the first of them names; its memory does not grow with its writes."""
    recent, versions = RecentWrites(), [new_version()]
    for _ in range(2100):
        versions.append(new_version(versions[-1]))
        recent.add(versions[-1])
    _, is_complete = recent.before(versions[-1], versions[-1 - writes_ago])
    assert is_complete is is_known


@cases(100)
@given(st.lists(st.booleans(), min_size=1, max_size=120), st.integers(0, 120))
@example([*[False] * 28, True, False], 25)
def test_what_a_process_remembers_reaches_back_as_far_as_it_can(
    is_own: list[bool], writes_ago: int
) -> None:
    """From the writes that a version names to its own among them, and to those that these name."""
    recent, versions = RecentWrites(), [new_version()]
    for own in is_own:
        versions.append(new_version(versions[-1]))
        if own:
            recent.add(versions[-1])
    oldest = len(is_own) - 24
    for place in range(len(is_own), 0, -1):
        if place >= oldest and is_own[place - 1]:
            oldest = min(oldest, place - 24)
    since = max(len(is_own) - writes_ago, 0)
    names, is_complete = recent.before(versions[-1], versions[since])
    assert is_complete is (since >= oldest)
    assert {name_of_write(version) for version in versions[max(oldest, since) :]} <= set(names)


@given(st.text("ab.-_", max_size=600))
@example("x" * 498)
@example(".".join(["y" * 40] * 24))
def test_a_version_has_at_most_512_characters(before: str) -> None:
    """Whatever it replaces; the earliest writes are left out, never a part of a name."""
    version = new_version(before)
    assert len(version) <= 512
    own, *names = version.split(".")
    assert len(own) == 14
    assert names == before.split(".")[: len(names)]


class ForgetfulStore(MemoryStore):
    """Does a save, lets others write, and then says that it did not: its reply was lost and the
    driver sent it again."""

    def __init__(self, clock: FrozenClock) -> None:
        super().__init__(clock=clock)
        self.meanwhile: list[Any] = []
        self.saves = 0

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        self.saves += 1
        is_saved = await super().save(key, record, replaces=replaces)
        if not is_saved or not self.meanwhile:
            return is_saved
        writers, self.meanwhile = self.meanwhile, []
        for write in writers:
            await write()
        return await super().save(key, record, replaces=replaces)


class Shop:
    """A session with lines and a counter, in a store that loses replies."""

    def __init__(self) -> None:
        self.clock = FrozenClock()
        self.store = ForgetfulStore(self.clock)
        self.provider = provider_without_timeouts(
            self.store, self.clock, Counted, on_conflict="raise"
        )
        self.client = Client(self.provider)
        self.key = ""

    async def another(self) -> None:
        """A request of another process counts, and adds a line."""
        others = provider_without_timeouts(
            SpyStore(self.store), self.clock, Counted, on_conflict="raise"
        )
        async with others.open(self.key) as session:
            session.data.lines.append("theirs")
            session.data.count += 1

    async def stored(self) -> tuple[int, list[str]]:
        data = await self.client.data()
        return data.count, data.lines


class Counted(BaseModel):
    count: Annotated[int, Additive] = 0
    lines: list[str] = []


@pytest.fixture
async def shop() -> Shop:
    shop = Shop()
    shop.key = await shop.client.sign_in()
    return shop


def count(session: Any, line: str = "ours") -> None:
    """What the request of a test changes."""
    session.data.count += 1
    session.data.lines.append(line)


@pytest.mark.parametrize("others", [0, 1, 2, 3, 24])
@pytest.mark.parametrize("renews", [False, True])
async def test_an_own_write_that_was_sent_twice_adds_nothing_twice(
    shop: Shop, others: int, renews: bool
) -> None:
    """It counts once, the list has each line once, and a renewal is one renewal."""

    async def route(session: Any) -> None:
        count(session)
        if renews:
            session.renew()
        shop.store.meanwhile = [pause, *[shop.another] * others]
        await session.commit()
        assert session.data.lines == ["ours", *["theirs"] * others]

    answer = await shop.client.request(route)
    assert answer.is_ok
    assert (answer.cookie is not None) is renews
    assert shop.store.saves == 1 + others  # the end of the request finds nothing left to save
    assert await shop.stored() == (1 + others, ["ours", *["theirs"] * others])


async def test_a_change_that_is_made_while_a_reply_is_lost_is_kept(shop: Shop) -> None:
    """Another task of the request makes it, and the next commit stores it."""

    async def route(session: Any) -> None:
        async def make_it() -> None:
            count(session, "late")

        count(session)
        shop.store.meanwhile = [shop.another, make_it]
        await session.commit()
        assert session.data.lines == ["ours", "theirs", "late"]

    assert (await shop.client.request(route)).is_ok
    assert await shop.stored() == (3, ["ours", "theirs", "late"])


class Old(Counted):
    theme: Literal["light"] = "light"


class New(Counted):
    theme: str = "light"


async def test_what_a_release_cannot_read_stays_after_a_lost_reply(shop: Shop) -> None:
    """Also when the request commits again."""
    old, new = (
        provider_without_timeouts(SpyStore(shop.store), shop.clock, model) for model in (Old, New)
    )
    async with new.open(shop.key) as session:
        session.data.theme = "dark"

    async def route(session: Any) -> None:
        count(session)
        shop.store.meanwhile = [shop.another]
        await session.commit()
        count(session)

    assert (await Client(old, shop.client.cookie).request(route)).is_ok
    async with new.open(shop.key) as session:
        assert (session.data.theme, session.data.count) == ("dark", 3)


async def test_a_process_remembers_more_of_its_own_writes_than_a_version_names(
    shop: Shop,
) -> None:
    """So that a lost reply is known for one also after a hundred writes of its own."""

    async def another() -> None:
        async with shop.provider.open(shop.key) as session:
            count(session, "theirs")

    async def route(session: Any) -> None:
        count(session)
        shop.store.meanwhile = [another] * 99

    assert (await shop.client.request(route)).is_ok
    assert await shop.stored() == (100, ["ours", *["theirs"] * 99])


@pytest.mark.parametrize("others", [25, 98])
async def test_a_write_under_too_many_others_is_unknown_and_not_tried_again(
    shop: Shop, others: int
) -> None:
    """The response is a 503 without Retry-After: another try could do it twice."""

    async def route(session: Any) -> None:
        count(session)
        shop.store.meanwhile = [shop.another] * others

    answer = await shop.client.request(route)
    assert isinstance(answer.error, StoreUnavailable)
    assert answer.error.headers is None
    assert await shop.stored() == (1 + others, ["ours", *["theirs"] * others])


@pytest.mark.parametrize("others", [0, 1, 24, 25])
@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("renews", [False, True])
async def test_a_commit_after_one_whose_reply_was_lost_adds_what_is_new(
    shop: Shop, others: int, is_done: bool, renews: bool
) -> None:
    """The route may catch the error and go on: what the lost commit has stored stays as it is."""

    async def fail(call: StoreCall) -> Any:
        if call.verb != "save":
            return await call.pass_on()
        spy.hook = pass_on
        if is_done:
            await call.pass_on()
        for _ in range(others):
            await shop.another()
        raise StoreUnavailable("the reply was lost")

    async def route(session: Any) -> None:
        count(session)
        if renews:
            session.renew()
        spy.hook = fail
        with pytest.raises(StoreUnavailable):
            await session.commit()
        count(session, "more")

    spy = SpyStore(shop.store)
    provider = provider_without_timeouts(spy, shop.clock, Counted, on_conflict="raise")
    answer = await Client(provider, shop.client.cookie).request(route)
    if others == 25:
        # unknown, so that the second commit is not tried either
        assert isinstance(answer.error, StoreUnavailable)
        lines = ["ours"] * is_done + ["theirs"] * 25
    else:
        assert answer.is_ok
        lines = ["ours"] * is_done + ["theirs"] * others + ["ours"] * (not is_done) + ["more"]
    async with shop.provider.open(shop.key) as session:
        assert (session.data.count, session.data.lines) == (len(lines), lines)
    if answer.is_ok and renews:
        shop.client.cookie = answer.cookie or ""
        assert await shop.client.is_live()


async def test_a_write_that_arrives_late_is_not_done_twice(shop: Shop) -> None:
    """Its connection timed out, and the server carried it out during the next try."""
    delayed: list[StoreCall] = []

    async def hold_back(call: StoreCall) -> Any:
        if call.verb != "save":
            return await call.pass_on()
        if not delayed:
            delayed.append(call)
            raise StoreUnavailable("no reply in time")
        spy.hook = pass_on
        assert await delayed[0].pass_on()
        await shop.another()
        return await call.pass_on()

    async def route(session: Any) -> None:
        count(session)
        with pytest.raises(StoreUnavailable):
            await session.commit()
        await session.commit()
        assert session.data.lines == ["ours", "theirs"]

    spy = SpyStore(shop.store, hold_back)
    provider = provider_without_timeouts(spy, shop.clock, Counted, on_conflict="raise")
    assert (await Client(provider, shop.client.cookie).request(route)).is_ok
    assert await shop.stored() == (2, ["ours", "theirs"])


def holding_back(delayed: list[StoreCall]) -> Callable[[StoreCall], Awaitable[Any]]:
    """A hook that keeps the first save for later, as if its reply were lost."""

    async def hold_back(call: StoreCall) -> Any:
        if call.verb != "save" or delayed:
            return await call.pass_on()
        delayed.append(call)
        raise StoreUnavailable("no reply in time")

    return hold_back


@pytest.mark.parametrize("arrives", ["before the reload", "after the reload", "never"])
async def test_a_change_that_is_made_anew_after_a_reload_counts_once(
    shop: Shop, arrives: str
) -> None:
    """The write whose reply was lost is either seen by the reload, or is what is made anew."""
    delayed: list[StoreCall] = []

    async def route(session: Any) -> None:
        count(session)
        with pytest.raises(StoreUnavailable):
            await session.commit()
        if arrives == "before the reload":
            assert await delayed[0].pass_on()
        assert await session.reload()
        if session.data.count == 0:
            count(session)
        if arrives == "after the reload":
            assert await delayed[0].pass_on()

    spy = SpyStore(shop.store, holding_back(delayed))
    provider = provider_without_timeouts(spy, shop.clock, Counted, on_conflict="raise")
    assert (await Client(provider, shop.client.cookie).request(route)).is_ok
    assert await shop.stored() == (1, ["ours"])


async def test_the_client_of_an_unknown_write_is_not_told_to_try_again(shop: Shop) -> None:
    """Over HTTP, and an event says of which session."""
    events: list[SessionEvent] = []
    get_session = SessionProvider(
        Counted,
        store=SpyStore(shop.store),
        secret_key=SECRET,
        clock=shop.clock,
        on_event=events.append,
    )
    app = make_app()

    @app.post("/")
    async def route(session: Annotated[Session[Counted], Depends(get_session)]) -> None:
        count(session)
        shop.store.meanwhile = [shop.another] * 25 if session.key == shop.key else []

    async with browser(app, shop.client.cookie) as client:
        reply = await client.post("/")
    assert reply.status_code == 503
    assert "retry-after" not in reply.headers
    (event,) = events
    assert (event.kind, event.key) == ("store_error", shop.key)
    assert "unknown whether a write was done" in event.facts["reason"]


async def test_a_refused_save_is_known_before_its_request_queues(shop: Shop) -> None:
    """However many others write while it waits for a commit of its own process."""
    gate, saves = asyncio.Event(), 0

    async def hook(call: StoreCall) -> Any:
        nonlocal saves
        saves += call.verb == "save"
        if call.verb == "save" and saves == 2:
            await gate.wait()
        if call.verb == "save" and saves == 4:
            await shop.another()
        return await call.pass_on()

    async def refused(session: Any) -> None:
        count(session)
        await shop.another()

    spy = SpyStore(shop.store, hook)
    provider = provider_without_timeouts(spy, shop.clock, Counted, on_conflict="raise")
    first = asyncio.create_task(Client(provider, shop.client.cookie).request(refused))
    await spy.until_called("save", 2)
    second = asyncio.create_task(Client(provider, shop.client.cookie).request(refused))
    await spy.until_called("load", 4)
    await settled()
    for _ in range(30):
        await shop.another()
    gate.set()
    # the save of the first one was refused as well, and that is no longer known
    assert isinstance((await first).error, StoreUnavailable)
    assert (await second).is_ok
    assert await shop.stored() == (34, ["theirs"] * 33 + ["ours"])


async def test_a_renewal_whose_reply_was_lost_is_merged_by_the_next_commit(shop: Shop) -> None:
    """Also when others write again: the secret of the lost renewal opens the session."""
    saves = 0

    async def hook(call: StoreCall) -> Any:
        nonlocal saves
        saves += call.verb == "save"
        if call.verb == "save" and saves > 1:
            await shop.another()
        result = await call.pass_on()
        if call.verb == "save" and saves == 1:
            raise StoreUnavailable("the reply was lost")
        if saves == 3:
            spy.hook = pass_on
        return result

    async def route(session: Any) -> None:
        session.renew()
        with pytest.raises(StoreUnavailable):
            await session.commit()
        count(session)

    spy = SpyStore(shop.store, hook)
    provider = provider_without_timeouts(spy, shop.clock, Counted, on_conflict="raise")
    browser_of_it = Client(provider, shop.client.cookie)
    assert (await browser_of_it.request(route)).is_ok
    data = await browser_of_it.data()
    assert (data.count, data.lines) == (3, ["theirs", "theirs", "ours"])


def losing_one_save(shop: Shop, *, is_done: bool = True) -> SpyStore:
    """The shop's store; of its next save the reply is lost."""

    async def lose(call: StoreCall) -> Any:
        if call.verb != "save":
            return await call.pass_on()
        spy.hook = pass_on
        if is_done:
            await call.pass_on()
        raise StoreUnavailable("the reply was lost")

    spy = SpyStore(shop.store, lose)
    return spy


class CountedWithSet(Counted):
    kinds: set[str] = {"a", "b"}


async def test_what_was_stored_beside_a_set_before_the_reply_was_lost_is_stored_once(
    shop: Shop,
) -> None:
    """Whatever the order is in which the set is read back."""
    provider = provider_without_timeouts(
        losing_one_save(shop), shop.clock, CountedWithSet, on_conflict="raise"
    )
    async with provider.open(shop.key) as session:
        count(session)
        with pytest.raises(StoreUnavailable):
            await session.commit()
        count(session, "more")
    assert await shop.stored() == (2, ["ours", "more"])


async def test_a_sign_out_after_a_sign_in_whose_reply_was_lost_keeps_the_session(
    shop: Shop,
) -> None:
    """The user whom it finds signed in is its own, so it unbinds the session and keeps the data."""

    async def visit(session: Any) -> None:
        count(session)

    async def route(session: Any) -> None:
        session.renew(subject="ada")
        with pytest.raises(StoreUnavailable):
            await session.commit()
        session.renew(subject=None)

    provider = provider_without_timeouts(
        losing_one_save(shop), shop.clock, Counted, on_conflict="raise"
    )
    visitor = Client(provider)
    await visitor.request(visit)
    assert (await visitor.request(route)).cookie
    assert (await visitor.data()).lines == ["ours"]
    assert len(await provider.sessions("ada")) == 1  # the fixture's, and no other


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_change_that_is_undone_after_its_reply_was_lost_is_not_stored(
    shop: Shop, is_done: bool
) -> None:
    """The route ends with the data that it began with, so that is what the session has."""

    async def route(session: Any) -> None:
        count(session)
        with pytest.raises(StoreUnavailable):
            await session.commit()
        await shop.another()
        session.data.count -= 1
        session.data.lines.remove("ours")

    provider = provider_without_timeouts(
        losing_one_save(shop, is_done=is_done), shop.clock, Counted, on_conflict="raise"
    )
    assert (await Client(provider, shop.client.cookie).request(route)).is_ok
    assert await shop.stored() == (1, ["theirs"])


async def test_a_change_that_was_dropped_with_its_session_is_dropped_once(shop: Shop) -> None:
    """Each commit that had something to store tells of it, and one that had not calls no store."""
    spy, events = SpyStore(shop.store), []
    provider = provider_without_timeouts(spy, shop.clock, Counted, on_event=events.append)

    async def route(session: Any) -> None:
        await shop.provider.revoke(shop.key)
        for _ in range(2):
            count(session)
            await session.commit()
        spy.calls.clear()
        await session.commit()

    assert (await Client(provider, shop.client.cookie).request(route)).is_ok
    assert spy.calls == []
    assert [event.kind for event in events] == ["ended_elsewhere"] * 2


async def test_a_write_that_is_not_there_after_a_reload_never_arrives(shop: Shop) -> None:
    """What the route has seen at its end is what the next request sees."""
    delayed: list[StoreCall] = []

    async def route(session: Any) -> None:
        count(session)
        with pytest.raises(StoreUnavailable):
            await session.commit()
        assert await session.reload()
        assert session.data.count == 0

    spy = SpyStore(shop.store, holding_back(delayed))
    provider = provider_without_timeouts(spy, shop.clock, Counted, on_conflict="raise")
    assert (await Client(provider, shop.client.cookie).request(route)).is_ok
    assert await delayed[0].pass_on() is False
    assert await shop.stored() == (0, [])


async def test_a_session_is_reloaded_after_the_reply_of_its_own_renewal_was_lost(
    shop: Shop,
) -> None:
    """It has not ended: the request itself has given it another secret."""

    async def route(session: Any) -> None:
        session.renew()
        count(session)
        with pytest.raises(StoreUnavailable):
            await session.commit()
        assert await session.reload()
        assert session.data.lines == ["ours"]

    provider = provider_without_timeouts(
        losing_one_save(shop), shop.clock, Counted, on_conflict="raise"
    )
    browser_of_it = Client(provider, shop.client.cookie)
    assert (await browser_of_it.request(route)).is_ok
    assert await browser_of_it.is_live()


async def test_a_save_without_an_answer_in_time_is_unknown_after_a_conflict_too(
    shop: Shop,
) -> None:
    """A 409 would say that nothing was stored."""
    saves = 0

    async def hook(call: StoreCall) -> Any:
        nonlocal saves
        saves += call.verb == "save"
        if call.verb == "save" and saves == 1:
            await shop.another()
        if call.verb == "save" and saves == 2:
            await call.pass_on()
            await asyncio.Event().wait()
        return await call.pass_on()

    async def route(session: Any) -> None:
        count(session)

    spy = SpyStore(shop.store, hook)
    options: Any = {"clock": shop.clock, "commit_timeout": timedelta(seconds=0.5)}
    provider = SessionProvider(Counted, store=spy, secret_key=SECRET, **options)
    answer = await Client(provider, shop.client.cookie).request(route)
    assert isinstance(answer.error, StoreUnavailable)
    assert await shop.stored() == (2, ["theirs", "ours"])


async def test_a_change_that_has_only_waited_for_others_was_not_sent(shop: Shop) -> None:
    """The commits before it took all of its time: a 409, for nothing of it can be stored."""

    async def route(session: Any) -> None:
        count(session)
        shop.clock.advance(timedelta(seconds=3))

    options: Any = {"clock": shop.clock, "commit_timeout": timedelta(seconds=0.05)}
    provider = SessionProvider(Counted, store=shop.store, secret_key=SECRET, **options)
    async with provider.repository.queue(shop.key):
        answer = await Client(provider, shop.client.cookie).request(route)
    assert isinstance(answer.error, SessionConflict)
    assert await shop.stored() == (0, [])


@pytest.mark.parametrize("others", [0, 100])
async def test_a_long_request_loads_again_before_it_saves(shop: Shop, others: int) -> None:
    """So that a hundred others may write meanwhile, more than a version names."""

    async def route(session: Any) -> None:
        count(session)
        for _ in range(others):
            await shop.another()
        shop.clock.advance(timedelta(seconds=3))
        spy.calls.clear()

    spy = SpyStore(shop.store)
    provider = SessionProvider(
        Counted, store=spy, secret_key=SECRET, clock=shop.clock, on_conflict="raise"
    )
    assert (await Client(provider, shop.client.cookie).request(route)).is_ok
    assert spy.calls == ["load", "save"]
    assert await shop.stored() == (others + 1, ["theirs"] * others + ["ours"])


async def pause() -> None:
    """Nobody writes meanwhile."""


async def settled() -> None:
    """Let the other tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)
