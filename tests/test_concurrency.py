"""Overlapping requests of one session: no change is lost, and no ended session comes back."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import islice
from typing import Annotated, Any, Literal

import pytest
from fastapi import Depends, WebSocket
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field, computed_field, create_model, model_validator

from fastapi_async_sessions import (
    Lifetime,
    MemoryStore,
    Session,
    SessionConflict,
    SessionEvent,
    SessionNotFound,
    SessionProvider,
    StoreUnavailable,
)
from fastapi_async_sessions._core import commit
from fastapi_async_sessions.testing import FrozenClock

from .apps import PATIENT, SECRET, browser, has_ended, make_app
from .doubles import SpyStore, StoreCall, before, failing, pass_on
from .races import (
    STORES,
    Client,
    do_nothing,
    opened_store,
    provider_without_timeouts,
    wait_for_all,
)

SECOND = timedelta(seconds=1)
IDLE = timedelta(hours=1)
EVERY_STORE = ("memory", "redis", "sqlite", "postgresql")


class Line(BaseModel):
    name: str = ""
    amount: int = 1


class Address(BaseModel):
    city: str = ""
    street: str = ""


class Basket(BaseModel):
    count: int = 0
    note: str = ""
    address: Address = Address()
    lines: list[Line] = []
    tags: set[str] = set()


@pytest.fixture
def store(clock: FrozenClock) -> SpyStore:
    """The store of all providers of a test, in memory."""
    return SpyStore(MemoryStore(clock=clock))


@pytest.fixture
def new_provider(store: SpyStore, clock: FrozenClock, events: list[SessionEvent]) -> Any:
    """A function that makes a provider, as of another process or release, over the same data."""

    def make(model: type[BaseModel] = Basket, **options: Any) -> SessionProvider[Any]:
        settings = {"lifetime": Lifetime(idle=IDLE), "on_event": events.append, "clock": clock}
        own_store = SpyStore(store)
        return SessionProvider(model, store=own_store, secret_key=SECRET, **{**settings, **options})

    return make


def kinds(events: list[SessionEvent]) -> list[str]:
    return [event.kind for event in events]


async def as_ada(session: Session[Any]) -> None:
    """A route that signs in."""
    session.renew(subject="ada")


def change(**fields: Any) -> Callable[[Session[Any]], Awaitable[None]]:
    """A route that sets fields."""

    async def route(session: Session[Any]) -> None:
        for name, value in fields.items():
            setattr(session.data, name, value)

    return route


async def overlap(client: Client, first: Any, second: Any) -> tuple[Any, Any]:
    """Run two requests that both load the session before ``first`` commits, then ``second``."""
    answers: list[Any] = []

    async def route(session: Session[Any]) -> None:
        await second(session)
        answers.append(await client.copy().request(first))

    late = await client.copy().request(route)
    return answers[0], late


# lost updates


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_STORE)
async def test_200_writers_of_different_fields_all_succeed(
    kind: str, clock: FrozenClock, request: pytest.FixtureRequest
) -> None:
    """All of them load the session before the first one commits."""
    fields: Any = {f"field_{number}": (int, 0) for number in range(200)}
    wide = create_model("Wide", **fields)
    async with opened_store(kind, clock, request) as store:
        client = Client(provider_without_timeouts(store, clock, wide))
        await client.sign_in()
        all_have_loaded = asyncio.Barrier(200)

        async def write(number: int) -> Any:
            async def route(session: Session[Any]) -> None:
                await wait_for_all(all_have_loaded)
                setattr(session.data, f"field_{number}", number + 1)

            return await client.copy().request(route)

        answers = await asyncio.gather(*map(write, range(200)))
        assert [answer.error for answer in answers] == [None] * 200
        data = await client.data()
        assert list(data.model_dump().values()) == [number + 1 for number in range(200)]


@pytest.mark.parametrize("kind", EVERY_STORE)
async def test_writers_in_two_processes_all_succeed(
    kind: str, clock: FrozenClock, request: pytest.FixtureRequest
) -> None:
    """Each process has a provider of its own, which knows nothing of the other's commits."""
    async with opened_store(kind, clock, request) as store:
        providers: list[SessionProvider[Any]] = [
            provider_without_timeouts(SpyStore(store), clock, Basket) for _ in range(2)
        ]
        client = Client(providers[0])
        await client.sign_in()
        all_have_loaded = asyncio.Barrier(30)

        async def write(number: int) -> Any:
            async def route(session: Session[Any]) -> None:
                await wait_for_all(all_have_loaded)
                session.data.lines.append(Line(name=str(number)))

            return await Client(providers[number % 2], client.cookie).request(route)

        answers = await asyncio.gather(*map(write, range(30)))
        assert [answer.error for answer in answers] == [None] * 30
        names = [line.name for line in (await client.data()).lines]
        assert sorted(names, key=int) == [str(number) for number in range(30)]


@pytest.mark.parametrize("kind", EVERY_STORE)
async def test_of_many_requests_that_count_all_but_one_get_a_409(
    kind: str, clock: FrozenClock, request: pytest.FixtureRequest
) -> None:
    """With ``on_conflict="raise"`` the count is the number of requests that succeeded."""
    async with opened_store(kind, clock, request) as store:
        provider = provider_without_timeouts(store, clock, Basket, on_conflict="raise")
        app = make_app()

        @app.get("/begin")
        async def begin(session: Annotated[Session[Basket], Depends(provider)]) -> None:
            session.data.note = "begun"

        all_have_loaded = asyncio.Barrier(26)

        @app.get("/count")
        async def count(session: Annotated[Session[Basket], Depends(provider)]) -> int:
            await wait_for_all(all_have_loaded)
            session.data.count += 1
            return session.data.count

        @app.get("/")
        async def home(session: Annotated[Session[Basket], Depends(provider)]) -> int:
            return session.data.count

        async with browser(app) as client:
            await client.get("/begin")
            responses = await asyncio.gather(*(client.get("/count") for _ in range(26)))
            codes = sorted(response.status_code for response in responses)
            assert codes == [200] + [409] * 25
            refused = [response for response in responses if response.status_code == 409]
            assert {response.json()["detail"] for response in refused} == {
                "Another request changed the same fields. (count)"
            }
            assert (await client.get("/")).json() == 1


async def test_the_later_commit_wins_and_a_conflict_event_is_emitted(
    new_provider: Any, events: list[SessionEvent]
) -> None:
    """By default, ``on_conflict="overwrite"``; what only the earlier commit changed is kept."""
    client = Client(new_provider())
    key = await client.sign_in()
    early, late = await overlap(client, change(count=1, note="early"), change(count=2))
    assert early.is_ok
    assert late.is_ok
    data = await client.data()
    assert (data.count, data.note) == (2, "early")
    (event,) = [event for event in events if event.kind == "conflict"]
    assert (event.key, event.facts) == (key, {"fields": "count"})


async def test_a_conflict_names_the_fields(new_provider: Any) -> None:
    """By their paths, also nested ones; nothing of the later request is stored."""

    async def early(session: Session[Basket]) -> None:
        session.data.address.city = "Oslo"
        session.data.lines = [Line(name="b"), Line(name="a")]
        session.data.note = "early"

    async def late(session: Session[Basket]) -> None:
        session.data.address.city = "Bergen"
        session.data.address.street = "Strandgaten"
        session.data.lines[0].amount = 2
        session.data.count = 7

    client = Client(new_provider(on_conflict="raise"))
    await client.request(change(lines=[Line(name="a"), Line(name="b")]))
    _, answer = await overlap(client, early, late)
    assert isinstance(answer.error, SessionConflict)
    assert sorted(answer.error.fields) == ["address.city", "lines"]
    assert answer.error.status_code == 409
    data = await client.data()
    assert (data.address, data.count, data.note) == (Address(city="Oslo"), 0, "early")


async def test_a_route_can_catch_a_conflict_reload_and_try_again(new_provider: Any) -> None:
    """``reload()`` shows what the other request has stored."""
    client = Client(new_provider(on_conflict="raise"))
    await client.sign_in()

    async def late(session: Session[Basket]) -> None:
        session.data.count += 1
        await client.copy().request(change(count=5))
        with pytest.raises(SessionConflict):
            await session.commit()
        assert await session.reload()
        session.data.count += 1

    assert (await client.copy().request(late)).is_ok
    assert (await client.data()).count == 6


class Span(BaseModel):
    start: int = 1
    end: int = 10

    @model_validator(mode="after")
    def is_in_order(self) -> "Span":
        if self.start > self.end:
            raise ValueError("start is after end")
        return self


@pytest.mark.parametrize("on_conflict", ["overwrite", "raise"])
async def test_changes_that_are_valid_alone_but_not_together_are_a_409(
    new_provider: Any, on_conflict: str
) -> None:
    """What is stored is always valid for the next request."""
    client = Client(new_provider(Span, on_conflict=on_conflict))
    await client.sign_in()
    early, late = await overlap(client, change(end=3), change(start=5))
    assert early.is_ok
    assert isinstance(late.error, SessionConflict)
    assert await client.data() == Span(start=1, end=3)


# what the data may be


async def test_sets_merge(new_provider: Any) -> None:
    """Whatever the order in which their items are stored."""
    client = Client(new_provider(on_conflict="raise"))
    await client.request(change(tags={"b", "d", "f"}))

    async def early(session: Session[Basket]) -> None:
        session.data.tags |= {"a", "c"}
        session.data.tags.remove("d")

    async def late(session: Session[Basket]) -> None:
        session.data.tags |= {"c", "e"}
        session.data.tags.remove("b")

    _, answer = await overlap(client, early, late)
    assert answer.is_ok
    assert (await client.data()).tags == {"a", "c", "e", "f"}


class Point(BaseModel):
    model_config = {"frozen": True}
    x: int = 0


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    age: int = 0


class Rich(BaseModel):
    """Fields whose stored form differs from their names, types or values in Python."""

    model_config = {"validate_by_name": True, "validate_by_alias": True}

    first_name: str = Field("", alias="firstName")
    last_name: str = Field("", validation_alias="surname", serialization_alias="familyName")
    pet: Cat | Dog = Field(Cat(), discriminator="kind")
    points: set[Point] = set()
    seen: dict[int, frozenset[str]] = {}
    pair: tuple[int, set[int]] = (0, set())
    number: int | float | bool = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def full_name(self) -> str:
        return f"{self.first_name} {self.last_name}"


async def test_aliases_unions_computed_fields_and_sets_of_models_merge(new_provider: Any) -> None:
    """Data are stored under field names and without computed fields, and each field merges."""
    client = Client(new_provider(Rich, on_conflict="raise"))
    await client.request(change(points={Point(x=1), Point(x=3)}, seen={1: frozenset("ac")}))

    async def early(session: Session[Rich]) -> None:
        session.data.first_name = "Ada"
        session.data.points |= {Point(x=2)}
        session.data.seen[1] |= {"b"}
        session.data.pair[1].add(5)
        session.data.number = True

    async def late(session: Session[Rich]) -> None:
        session.data.last_name = "Lovelace"
        session.data.points -= {Point(x=3)}
        session.data.seen[1] |= {"d"}
        session.data.seen[2] = frozenset()
        session.data.pet = Dog(age=3)

    _, answer = await overlap(client, early, late)
    assert answer.is_ok
    data = await client.data()
    assert data.full_name == "Ada Lovelace"
    assert data.points == {Point(x=1), Point(x=2)}
    assert data.seen == {1: frozenset("abcd"), 2: frozenset()}
    assert data.pair == (0, {5})
    assert data.pet == Dog(age=3)
    assert data.number is True


async def test_a_merge_distinguishes_values_that_compare_equal(new_provider: Any) -> None:
    """A list with 1 becomes one with True, in the store and in the route that merges."""

    class Loose(BaseModel):
        values: list[Any] = []
        note: str = ""

    client = Client(new_provider(Loose))
    await client.request(change(values=[1, [1]]))

    async def late(session: Session[Loose]) -> None:
        session.data.note = "late"
        await client.copy().request(change(values=[True, [True]]))
        await session.commit()
        assert repr(session.data.values) == "[True, [True]]"

    assert (await client.copy().request(late)).is_ok
    assert repr((await client.data()).values) == "[True, [True]]"


class NewerAddress(Address):
    country: str = "NO"


class NewerBasket(Basket):
    address: NewerAddress = NewerAddress()
    theme: str = "light"


async def test_fields_of_a_newer_release_survive_a_merge(new_provider: Any) -> None:
    """An older release that runs at the same time changes its own fields and drops none."""
    newer = Client(new_provider(NewerBasket))
    await newer.sign_in()
    older = Client(new_provider(Basket), newer.cookie)

    async def early(session: Session[NewerBasket]) -> None:
        session.data.theme = "dark"
        session.data.address.country = "SE"
        session.data.lines.append(Line(name="newer"))

    async def late(session: Session[Basket]) -> None:
        session.data.address.city = "Lund"
        session.data.lines.append(Line(name="older"))
        await newer.copy().request(early)

    assert (await older.request(late)).is_ok
    data = await newer.data()
    assert (data.theme, data.address) == ("dark", NewerAddress(city="Lund", country="SE"))
    assert [line.name for line in data.lines] == ["newer", "older"]


class Named(BaseModel):
    name: str = ""


class Renamed(BaseModel):
    full_name: str = ""

    @model_validator(mode="before")
    @classmethod
    def read_the_old_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" in values:
            values["full_name"] = values.pop("name")
        return values


async def test_a_change_survives_a_validator_that_moves_an_old_field(new_provider: Any) -> None:
    """The old field is removed, as it would overwrite the change at the next read."""
    older = Client(new_provider(Named))
    await older.request(change(name="Ada"))
    newer = Client(new_provider(Renamed), older.cookie)
    assert (await newer.data()).full_name == "Ada"
    await newer.request(change(full_name="Grace"))
    assert (await newer.data()).full_name == "Grace"


# commit() within a request, reload(), websockets, open()


async def test_commit_merges_into_the_same_object(new_provider: Any) -> None:
    """``session.data`` is the same object before and after, and so is a field that no other request
    has changed."""
    client = Client(new_provider(on_conflict="raise"))
    await client.request(change(lines=[Line(name="a"), Line(name="b")], tags={"x"}))

    async def early(session: Session[Basket]) -> None:
        session.data.lines.append(Line(name="c"))
        session.data.address.street = "Strandgaten"

    async def late(session: Session[Basket]) -> None:
        data = session.data
        tags = data.tags
        del data.lines[0]
        data.address.city = "Oslo"
        await client.copy().request(early)
        await session.commit()
        assert session.data is data
        assert data.tags is tags
        assert [line.name for line in data.lines] == ["b", "c"]
        assert data.address == Address(city="Oslo", street="Strandgaten")
        data.lines[0].amount = 5
        tags.add("z")

    assert (await client.copy().request(late)).is_ok
    data = await client.data()
    assert [(line.name, line.amount) for line in data.lines] == [("b", 5), ("c", 1)]
    assert data.address == Address(city="Oslo", street="Strandgaten")
    assert data.tags == {"x", "z"}


@pytest.mark.parametrize("on_conflict", ["overwrite", "raise"])
async def test_a_sign_in_into_a_session_that_was_renewed_meanwhile_begins_another(
    new_provider: Any, on_conflict: str
) -> None:
    """With what the request changed: a proof of who somebody is conflicts with nothing."""
    client = Client(new_provider(on_conflict=on_conflict))
    key = await client.sign_in()
    tab = client.copy()

    async def renew(session: Session[Basket]) -> None:
        session.renew()

    async def sign_in(session: Session[Basket]) -> None:
        session.data.note = "ours"
        session.renew(subject="ada")
        await client.request(renew)

    assert (await tab.request(sign_in)).is_ok
    assert (await tab.data()).note == "ours"
    assert {each.key for each in await tab.provider.sessions("ada")} > {key}


async def test_each_commit_of_a_request_writes_what_is_new(
    new_provider: Any, store: SpyStore
) -> None:
    """No change is written twice, and the last commit writes nothing."""
    client = Client(new_provider(on_conflict="raise"))
    await client.sign_in()

    async def route(session: Session[Basket]) -> None:
        for name in "ab":
            session.data.lines.append(Line(name=name))
            await session.commit()
            await client.copy().request(change(note=name))
        await session.commit()

    store.calls.clear()
    assert (await client.copy().request(route)).is_ok
    # two of the other requests, three of this one: its second commit merges
    assert store.writes == ["save"] * 5
    data = await client.data()
    assert ([line.name for line in data.lines], data.note) == (["a", "b"], "b")


async def test_reload_replaces_uncommitted_changes_by_what_is_stored(new_provider: Any) -> None:
    """Changes made afterwards merge without a conflict."""
    client = Client(new_provider(on_conflict="raise"))
    await client.sign_in()

    async def route(session: Session[Basket]) -> None:
        session.data.count = 99
        await client.copy().request(change(count=3))
        assert await session.reload()
        assert session.data.count == 3
        session.data.count += 1
        await client.copy().request(change(note="meanwhile"))

    assert (await client.copy().request(route)).is_ok
    data = await client.data()
    assert (data.count, data.note) == (4, "meanwhile")


@pytest.mark.parametrize("end", ["destroy", "revoke", "rotation", "expiry"])
async def test_reload_returns_false_once_the_session_has_ended(
    new_provider: Any, clock: FrozenClock, end: str
) -> None:
    """Each time; changes made afterwards are not stored."""
    provider = new_provider()
    client = Client(provider)
    key = await client.sign_in()

    async def route(session: Session[Basket]) -> None:
        await ENDS[end](provider, client.copy(), key, clock)
        assert not await session.reload()
        session.data.count = 1
        await session.commit()
        assert not await session.reload()

    answer = await client.copy().request(route)
    assert (answer.error, answer.cookie) == (None, None)


async def test_a_websocket_merges_as_a_request_does(new_provider: Any) -> None:
    """At each ``commit()``, and when its handler returns."""
    provider = new_provider(on_conflict="raise", trusted_origins=())
    app = make_app()

    @app.get("/begin")
    async def begin(session: Annotated[Session[Basket], Depends(provider)]) -> None:
        session.data.note = "begun"

    @app.get("/add/{name}")
    async def add(name: str, session: Annotated[Session[Basket], Depends(provider)]) -> list[str]:
        session.data.lines.append(Line(name=name))
        return [line.name for line in session.data.lines]

    @app.websocket("/chat")
    async def chat(
        websocket: WebSocket, session: Annotated[Session[Basket], Depends(provider)]
    ) -> None:
        await websocket.accept()
        async for name in websocket.iter_text():
            session.data.lines.append(Line(name=name))
            if name == "commit":
                await session.commit()
            await websocket.send_json([line.name for line in session.data.lines])

    with TestClient(app, base_url="https://testserver") as client:
        client.get("/begin")
        with client.websocket_connect("wss://testserver/chat") as chat_client:
            client.get("/add/1")
            chat_client.send_text("commit")
            assert chat_client.receive_json() == ["1", "commit"]
            client.get("/add/2")
            chat_client.send_text("last")
            chat_client.receive_json()
            client.get("/add/3")
        assert client.get("/add/4").json() == ["1", "commit", "2", "3", "last", "4"]


async def test_open_merges_as_a_request_does(new_provider: Any) -> None:
    """Two blocks overlap, and a request runs within both."""
    provider = new_provider(on_conflict="raise")
    client = Client(provider)
    key = await client.sign_in()
    async with AsyncExitStack() as stack:
        for name in ("first", "second"):
            session = await stack.enter_async_context(provider.open(key))
            session.data.lines.append(Line(name=name))
        await client.copy().request(change(lines=[Line(name="request")], count=1))
    data = await client.data()
    assert [line.name for line in data.lines] == ["request", "second", "first"]
    assert data.count == 1


async def test_tasks_of_one_request_that_commit_concurrently_add_nothing_twice(
    new_provider: Any, store: SpyStore
) -> None:
    """A websocket with one task that reads and one that writes does this all the time."""
    client = Client(new_provider(on_conflict="raise"))
    await client.sign_in()

    async def yield_before_saves(call: StoreCall) -> Any:
        if call.verb == "save":
            for _ in range(5):
                await asyncio.sleep(0)
        return await call.pass_on()

    async def route(session: Session[Basket]) -> None:
        async def add(name: str) -> None:
            session.data.lines.append(Line(name=name))
            await session.commit()

        store.hook = yield_before_saves
        await asyncio.gather(*map(add, "abc"))
        assert [line.name for line in session.data.lines] == ["a", "b", "c"]

    assert (await client.copy().request(route)).is_ok
    assert [line.name for line in (await client.data()).lines] == ["a", "b", "c"]


async def test_a_change_made_while_a_commit_is_merging_is_kept(
    new_provider: Any, store: SpyStore
) -> None:
    """Another task of the request may change the data before the commit returns."""
    client = Client(new_provider(on_conflict="raise"))
    await client.sign_in()

    async def route(session: Session[Basket]) -> None:
        async def meanwhile() -> None:
            session.data.note = "meanwhile"
            session.data.lines.append(Line(name="late"))

        session.data.lines.append(Line(name="ours"))
        await client.copy().request(change(lines=[Line(name="theirs")]))
        store.hook = before("save", meanwhile, nth=2)
        await session.commit()
        assert [line.name for line in session.data.lines] == ["theirs", "ours", "late"]

    assert (await client.copy().request(route)).is_ok
    data = await client.data()
    assert [line.name for line in data.lines] == ["theirs", "ours", "late"]
    assert data.note == "meanwhile"


def test_a_commit_that_comes_too_late_tries_again_after_longer_and_longer_pauses() -> None:
    """Three times at once, and then for as long as it has time, up to 0.2 seconds apart."""
    at_once, later = [0.0] * 3, [min(0.005 * 2**number, 0.2) for number in range(97)]
    pauses = list(islice(commit._pauses(), 100))
    assert pauses[:3] == at_once
    assert all(0 <= pause <= limit for pause, limit in zip(pauses[3:], later, strict=True))
    assert len(set(pauses)) > 2


async def test_a_commit_that_always_comes_too_late_is_a_409(
    new_provider: Any, store: SpyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries end after ``commit_timeout``."""
    # it is the pause in which the time ends, and not a save, whose outcome would be unknown
    monkeypatch.setattr(commit, "_pauses", lambda: iter([0.0, 60.0]))
    provider = new_provider(commit_timeout=timedelta(seconds=1))
    client = Client(provider)
    key = await client.sign_in()
    other = Client(new_provider(), client.cookie)
    writes = 0

    async def write_before_each_save(call: StoreCall) -> Any:
        nonlocal writes
        if call.verb == "save":
            writes += 1
            store.hook = pass_on
            await other.copy().request(change(note=str(writes)))
            store.hook = write_before_each_save
        return await call.pass_on()

    async def route(session: Session[Basket]) -> None:
        session.data.count = 1
        store.hook = write_before_each_save

    answer = await client.copy().request(route)
    store.hook = pass_on
    assert isinstance(answer.error, SessionConflict)
    assert answer.error.fields == ()
    async with provider.open(key) as session:
        assert session.data.count == 0


# an ended session stays ended

End = Callable[[SessionProvider[Any], Client, str, FrozenClock], Awaitable[None]]


async def destroy(
    provider: SessionProvider[Any], client: Client, key: str, clock: FrozenClock
) -> None:
    async def route(session: Session[Any]) -> None:
        await session.destroy()

    assert (await client.request(route)).cookie == ""


async def revoke(
    provider: SessionProvider[Any], client: Client, key: str, clock: FrozenClock
) -> None:
    assert await provider.revoke(key)


async def revoke_all(
    provider: SessionProvider[Any], client: Client, key: str, clock: FrozenClock
) -> None:
    assert await provider.revoke_all("ada") == 1


async def expire(
    provider: SessionProvider[Any], client: Client, key: str, clock: FrozenClock
) -> None:
    clock.advance(IDLE)


async def rotate(
    provider: SessionProvider[Any], client: Client, key: str, clock: FrozenClock
) -> None:
    async def route(session: Session[Any]) -> None:
        session.renew()

    assert (await client.request(route)).cookie


ENDS: dict[str, End] = {
    "destroy": destroy,
    "revoke": revoke,
    "revoke_all": revoke_all,
    "expiry": expire,
    "rotation": rotate,
}


async def write(session: Session[Any]) -> None:
    session.data.note = "too late"


async def renew(session: Session[Any]) -> None:
    session.renew()


async def sign_out(session: Session[Any]) -> None:
    session.data.note = "too late"
    session.renew(subject=None)


IN_FLIGHT = {
    "read": do_nothing,
    "write": write,
    "extension": do_nothing,
    "renewal": renew,
    "sign-out": sign_out,
    "merge retry": write,
    "open": write,
}
MOMENTS = [
    *((in_flight, "in the route") for in_flight in IN_FLIGHT),
    *((in_flight, "before the save") for in_flight in IN_FLIGHT if in_flight != "read"),
    ("merge retry", "before the load"),
    ("merge retry", "before the second save"),
]
# a sign-out ends the session whatever its token is by now, and open() has no token
NO_END = {("rotation", "sign-out"), ("rotation", "open")}


def endings() -> list[Any]:
    """Each end at each moment in memory, and in the other stores while a request writes."""
    return [
        pytest.param(
            *(kind, end, in_flight, moment),
            marks=[] if kind == "memory" or in_flight == "write" else pytest.mark.slow,
        )
        for kind in STORES
        for end in ENDS
        for in_flight, moment in MOMENTS
        if (end, in_flight) not in NO_END
    ]


@pytest.mark.parametrize(("kind", "end", "in_flight", "moment"), endings())
async def test_a_session_that_ends_stays_ended_whatever_is_in_flight(
    kind: str,
    in_flight: str,
    moment: str,
    end: str,
    clock: FrozenClock,
    events: list[SessionEvent],
    request: pytest.FixtureRequest,
) -> None:
    """No record is written, no cookie is set, no cookie opens it, and no error is raised. A
    sign-out removes the cookie: the browser may hold one of another session by now."""
    async with opened_store(kind, clock, request) as inner:
        store = SpyStore(inner)
        provider: SessionProvider[Any] = SessionProvider(
            Basket,
            store=store,
            secret_key=SECRET,
            lifetime=Lifetime(idle=IDLE),
            on_event=events.append,
            clock=clock,
            **PATIENT,
        )
        client = Client(provider)
        key = await client.sign_in()
        other = client.copy()
        clock.advance(IDLE / 5 if in_flight == "extension" else SECOND)

        async def end_session() -> None:
            await ENDS[end](provider, other, key, clock)

        async def route(session: Session[Any]) -> None:
            await IN_FLIGHT[in_flight](session)
            if in_flight == "merge retry":
                await client.copy().request(change(count=1))
            if moment == "in the route":
                await end_session()
            elif moment == "before the second save":
                store.hook = before("save", end_session, nth=2)
            else:
                store.hook = before(moment.removeprefix("before the "), end_session)

        if in_flight == "open":
            async with provider.open(key) as session:
                await route(session)
        else:
            answer = await client.copy().request(route)
            cookie = "" if in_flight == "sign-out" else None
            assert (answer.error, answer.cookie) == (None, cookie)
        assert not await client.is_live()
        if end == "rotation":
            assert await other.is_live()
            assert (await other.data()).note == ""
        else:
            assert has_ended(provider, key, await inner.load(key))
            with pytest.raises(SessionNotFound):
                async with provider.open(key):
                    pass
        if in_flight not in ("read", "extension"):
            assert "ended_elsewhere" in kinds(events)


@pytest.mark.parametrize("kind", ["memory", "redis", "sqlite"])
@pytest.mark.parametrize("in_flight", ["sign-out", "open"])
@pytest.mark.parametrize("moment", ["in the route", "before the save"])
async def test_a_rotation_overtakes_no_sign_out_and_no_open(
    kind: str,
    in_flight: str,
    moment: str,
    clock: FrozenClock,
    request: pytest.FixtureRequest,
) -> None:
    """The user is signed out under the new token as well; the administrator's change is stored."""
    async with opened_store(kind, clock, request) as inner:
        store = SpyStore(inner)
        provider: SessionProvider[Any] = SessionProvider(
            Basket, store=store, secret_key=SECRET, clock=clock, **PATIENT
        )
        client = Client(provider)
        key = await client.sign_in()
        other = client.copy()

        async def end_session() -> None:
            await rotate(provider, other, key, clock)

        async def route(session: Session[Any]) -> None:
            await IN_FLIGHT[in_flight](session)
            if moment == "in the route":
                await end_session()
            else:
                store.hook = before("save", end_session)

        if in_flight == "open":
            async with provider.open(key) as session:
                await route(session)
        else:
            assert (await client.copy().request(route)).is_ok
        assert not await client.is_live()
        assert await other.is_live() == (in_flight == "open")
        async with provider.open(key) as session:
            assert session.data.note == "too late"
            assert (session.subject is None) == (in_flight == "sign-out")


async def test_a_shorter_idle_timeout_ends_a_session_that_the_store_still_has(
    new_provider: Any, clock: FrozenClock
) -> None:
    """It also beats a slow request: the change is not stored, although the record would live on
    under the longer timeout."""
    client = Client(new_provider(lifetime=Lifetime(idle=IDLE * 10)))
    await client.sign_in()
    shorter = Client(new_provider(lifetime=Lifetime(idle=IDLE)), client.cookie)

    async def route(session: Session[Basket]) -> None:
        session.data.count = 1
        clock.advance(IDLE)

    answer = await shorter.copy().request(route)
    assert (answer.error, answer.cookie) == (None, None)
    assert not await shorter.is_live()
    assert (await client.data()).count == 0


# concurrent renewals, sign-ins and revocations


async def test_of_two_concurrent_renewals_only_one_sets_a_cookie(new_provider: Any) -> None:
    """There is one session, and one token opens it."""
    client = Client(new_provider())
    await client.sign_in()
    winner, loser = await overlap(client, renew, renew)
    assert winner.cookie
    assert loser.cookie is None
    assert not await client.is_live()
    assert await Client(client.provider, winner.cookie).is_live()
    assert len(await client.provider.sessions("ada")) == 1


async def test_a_renewal_keeps_a_change_that_was_committed_before_it(new_provider: Any) -> None:
    """The change is merged, and the renewed session has it."""
    client = Client(new_provider(on_conflict="raise"))
    await client.sign_in()
    _, renewal = await overlap(client, change(count=1), renew)
    data = await Client(client.provider, renewal.cookie).data()
    assert data.count == 1


async def test_two_concurrent_sign_ins_both_succeed(new_provider: Any) -> None:
    """Each user gave valid credentials: the second gets another session, with the same data."""
    client = Client(new_provider())
    await client.request(change(note="a basket"))

    def sign_in(subject: str) -> Any:
        async def route(session: Session[Any]) -> None:
            session.renew(subject=subject)

        return route

    answers = await overlap(client, sign_in("ada"), sign_in("grace"))
    assert not await client.is_live()
    for subject, answer in zip(("ada", "grace"), answers, strict=True):
        data = await Client(client.provider, answer.cookie).data()
        assert data.note == "a basket"
        (stored,) = await client.provider.sessions(subject)
        assert stored.subject == subject


@pytest.mark.parametrize("end", ["destroy", "revoke", "expiry", "rotation"])
async def test_a_sign_in_succeeds_if_its_anonymous_session_ends_meanwhile(
    new_provider: Any, clock: FrozenClock, end: str
) -> None:
    """It gets a new session under a new key; the old one stays ended."""
    provider = new_provider()
    client = Client(provider)
    key = await client.sign_in("nobody yet")
    clock.advance(SECOND)

    async def route(session: Session[Any]) -> None:
        session.renew(subject="grace")
        await ENDS[end](provider, client.copy(), key, clock)

    answer = await client.copy().request(route)
    assert await Client(provider, answer.cookie or "").is_live()
    assert not await client.is_live()
    (stored,) = await provider.sessions("grace")
    assert stored.key != key


@pytest.mark.parametrize("moment", ["route", "create", "delete_owned", "load"])
async def test_revoke_all_ends_a_sign_in_that_is_under_way(
    new_provider: Any, store: SpyStore, clock: FrozenClock, moment: str
) -> None:
    """Whether or not its record is stored yet: the password may have changed meanwhile."""
    provider = new_provider()
    client = Client(provider)

    async def revoke_ada() -> None:
        clock.advance(SECOND)
        await provider.revoke_all("ada")

    async def route(session: Session[Any]) -> None:
        session.renew(subject="ada")
        if moment == "route":
            await revoke_ada()
        elif moment == "delete_owned":
            # the sign-in is stored after the revocation, and before anything is deleted
            clock.advance(SECOND)
            store.hook = before("delete_owned", session.commit)
            await provider.revoke_all("ada")
        else:
            store.hook = before(moment, revoke_ada)

    answer = await client.request(route)
    assert isinstance(answer.error, SessionConflict)
    assert client.cookie == ""
    assert await provider.sessions("ada") == []


async def test_revoke_all_ends_a_renewal_that_is_under_way(
    new_provider: Any, clock: FrozenClock
) -> None:
    """A session keeps its key when its token changes, and is found by it."""
    provider = new_provider()
    client = Client(provider)
    await client.sign_in()
    clock.advance(SECOND)

    async def route(session: Session[Any]) -> None:
        session.renew()
        await session.commit()
        assert await provider.revoke_all("ada") == 1
        session.data.note = "too late"

    answer = await client.copy().request(route)
    assert answer.is_ok
    assert not await Client(provider, answer.cookie or "").is_live()
    assert await provider.sessions("ada") == []


async def test_a_sign_in_after_revoke_all_is_not_affected(
    new_provider: Any, clock: FrozenClock
) -> None:
    """It used the new password."""
    provider = new_provider()
    client = Client(provider)
    await provider.revoke_all("ada")
    clock.advance(SECOND)
    await client.sign_in()
    assert await client.is_live()


@pytest.mark.parametrize(("verb", "nth"), [("delete_owned", 1), ("delete_owned", 2), ("save", 1)])
async def test_a_sign_in_while_sessions_are_deleted_fails(
    new_provider: Any, store: SpyStore, clock: FrozenClock, verb: str, nth: int
) -> None:
    """Its request began after the revocation, but a page could still delete its session. It is
    refused, so that no sign-in that succeeded is ended; the next one stays."""
    provider = new_provider()
    await Client(provider).sign_in()
    clock.advance(SECOND)
    late, answers = Client(provider), list[Any]()

    async def sign_in_late() -> None:
        store.hook = pass_on
        clock.advance(SECOND)
        answers.append(await late.request(as_ada))

    store.hook = before(verb, sign_in_late, nth=nth)
    await provider.revoke_all("ada")
    (answer,) = answers
    assert isinstance(answer.error, SessionConflict)
    assert await provider.sessions("ada") == []
    clock.advance(SECOND)
    await late.sign_in()
    assert await late.is_live()


async def test_a_revocation_that_was_not_completed_refuses_sign_ins_for_a_while(
    new_provider: Any, store: SpyStore, clock: FrozenClock
) -> None:
    """As long as one of its calls could still be under way, and no longer."""
    provider = new_provider()
    store.hook = failing("delete_owned")
    with pytest.raises(StoreUnavailable):
        await provider.revoke_all("ada")
    store.hook = pass_on
    settings, client = provider.repository.settings, Client(provider)
    clock.advance(settings.commit_timeout + settings.store_timeout - SECOND)
    answer = await client.request(as_ada)
    assert isinstance(answer.error, SessionConflict)
    clock.advance(SECOND)
    await client.sign_in()
    assert await client.is_live()


async def test_a_revocation_by_a_slow_clock_lets_nobody_sign_in_earlier(
    new_provider: Any, store: SpyStore, clock: FrozenClock
) -> None:
    """While another one, which did not complete either, may still be under way."""
    provider, slow = new_provider(), new_provider(clock=FrozenClock(clock.now - 3 * SECOND))
    store.hook = failing("delete_owned")
    for each in (provider, slow):
        with pytest.raises(StoreUnavailable):
            await each.revoke_all("ada")
    store.hook = pass_on
    settings = provider.repository.settings
    clock.advance(settings.commit_timeout + settings.store_timeout - SECOND)
    answer = await Client(provider).request(as_ada)
    assert isinstance(answer.error, SessionConflict)


async def test_sign_ins_are_refused_until_the_last_of_several_revocations_is_done(
    new_provider: Any, store: SpyStore, clock: FrozenClock
) -> None:
    """One that ends first says nothing for the one that is still deleting."""
    provider, client = new_provider(), Client(new_provider())
    answers = list[Any]()

    async def revoke_and_sign_in() -> None:
        store.hook = pass_on
        clock.advance(SECOND)
        await provider.revoke_all("ada")
        clock.advance(SECOND)
        answers.append(await client.request(as_ada))

    store.hook = before("delete_owned", revoke_and_sign_in)
    await provider.revoke_all("ada")
    assert isinstance(answers[0].error, SessionConflict)
    await client.sign_in()
    assert await client.is_live()


@pytest.mark.parametrize("is_stored", [True, False])
async def test_revoke_all_can_keep_the_current_session(
    new_provider: Any, clock: FrozenClock, is_stored: bool
) -> None:
    """Signed in before or with this very request; all other sessions end."""
    provider = new_provider()
    others = [Client(provider) for _ in range(3)]
    for other in others:
        await other.sign_in()
    client = Client(provider)
    if is_stored:
        await client.sign_in()
    clock.advance(SECOND)

    async def route(session: Session[Any]) -> None:
        session.renew(subject="ada")
        assert await provider.revoke_all("ada", keep=session) == 3

    assert (await client.request(route)).is_ok
    assert await client.is_live()
    assert [await other.is_live() for other in others] == [False] * 3
    assert len(await provider.sessions("ada")) == 1


async def test_a_session_kept_by_one_revocation_is_ended_by_the_next(
    new_provider: Any, clock: FrozenClock
) -> None:
    """``keep`` applies to one revocation only."""
    provider = new_provider()
    client = Client(provider)

    async def route(session: Session[Any]) -> None:
        session.renew(subject="ada")
        await provider.revoke_all("ada", keep=session)
        clock.advance(SECOND)
        await provider.revoke_all("ada")

    assert isinstance((await client.request(route)).error, SessionConflict)
    assert await provider.sessions("ada") == []


async def test_a_revocation_by_a_machine_with_a_slow_clock_undoes_no_other(
    new_provider: Any, clock: FrozenClock
) -> None:
    """Of two revocations the later time counts, whichever is stored last."""
    provider, behind = new_provider(), new_provider(clock=FrozenClock(clock.now - IDLE))

    async def route(session: Session[Any]) -> None:
        session.renew(subject="ada")
        clock.advance(SECOND)
        await provider.revoke_all("ada")
        await behind.revoke_all("ada")

    assert isinstance((await Client(provider).request(route)).error, SessionConflict)
    assert await provider.sessions("ada") == []


async def test_concurrent_revocations_all_succeed(new_provider: Any, clock: FrozenClock) -> None:
    """They write the same revocation record."""
    provider = new_provider()
    client = Client(provider)
    await client.sign_in()
    clock.advance(SECOND)
    assert sum(await asyncio.gather(*(provider.revoke_all("ada") for _ in range(5)))) == 1
    assert not await client.is_live()
    clock.advance(SECOND)
    await client.sign_in()
    assert await client.is_live()


@pytest.mark.parametrize("verb", ["create", "save", "load"])
async def test_a_sign_in_during_which_the_store_fails_sets_no_cookie(
    new_provider: Any, store: SpyStore, clock: FrozenClock, verb: str
) -> None:
    """A 503; the old cookie opens at most what it opened before."""
    provider = new_provider()
    client = Client(provider)
    await client.request(change(note="anonymous"))
    clock.advance(SECOND)

    async def route(session: Session[Any]) -> None:
        if verb == "create":
            await session.destroy()
        session.renew(subject="ada")
        store.hook = failing(verb)

    answer = await client.copy().request(route)
    store.hook = pass_on
    assert isinstance(answer.error, StoreUnavailable)
    assert not answer.cookie
    assert await client.is_live() is (verb == "save")


@pytest.mark.parametrize("kind", EVERY_STORE)
async def test_many_sign_ins_of_one_subject_are_all_listed(
    kind: str, clock: FrozenClock, request: pytest.FixtureRequest
) -> None:
    """One revocation ends them all."""
    async with opened_store(kind, clock, request) as store:
        provider = provider_without_timeouts(store, clock, Basket)
        clients = [Client(provider) for _ in range(50)]
        await asyncio.gather(*(client.sign_in() for client in clients))
        assert len(await provider.sessions("ada")) == 50
        clock.advance(SECOND)
        assert await provider.revoke_all("ada") == 50
        assert await provider.sessions("ada") == []
        assert await asyncio.gather(*(client.is_live() for client in clients)) == [False] * 50
