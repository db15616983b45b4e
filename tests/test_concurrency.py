"""Requests of one session that overlap: no change is lost, and nothing that ended comes back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
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
    Store,
    StoreUnavailable,
)
from fastapi_async_sessions.records import Record
from fastapi_async_sessions.testing import FrozenClock
from tests.apps import SECRET, browser, make_app
from tests.races import Client, do_nothing, opened_store

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


class HookedStore(Store):
    """Runs what a test wants to happen right before a call: ``hooks["save"] = [None, end]`` runs
    ``end`` before the second save from now on."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.hooks: dict[str, list[Callable[[], Awaitable[Any]] | None]] = {}
        self.calls: list[str] = []

    async def create(self, key: str, record: Record) -> bool:
        await self._call("create")
        return await self.inner.create(key, record)

    async def load(self, key: str) -> Record | None:
        await self._call("load")
        return await self.inner.load(key)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        await self._call("save")
        return await self.inner.save(key, record, replaces=replaces)

    async def delete(self, key: str) -> bool:
        await self._call("delete")
        return await self.inner.delete(key)

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        await self._call("find")
        return await self.inner.find(subject)

    async def _call(self, verb: str) -> None:
        self.calls.append(verb)
        waiting = self.hooks.get(verb)
        if waiting and (hook := waiting.pop(0)):
            await hook()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def store(clock: FrozenClock) -> HookedStore:
    return HookedStore(MemoryStore(clock=clock))


@pytest.fixture
def events() -> list[SessionEvent]:
    return []


@pytest.fixture
def provide(store: HookedStore, clock: FrozenClock, events: list[SessionEvent]) -> Any:
    """Makes a provider; a second one over the same data is another release of the application."""

    def make(model: type[BaseModel] = Basket, **options: Any) -> SessionProvider[Any]:
        settings = {"lifetime": Lifetime(idle=IDLE), "on_event": events.append, "clock": clock}
        release = HookedStore(store)
        return SessionProvider(model, store=release, secret_key=SECRET, **{**settings, **options})

    return make


def kinds(events: list[SessionEvent]) -> list[str]:
    return [event.kind for event in events]


def change(**fields: Any) -> Callable[[Session[Any]], Awaitable[None]]:
    """A route that sets fields."""

    async def route(session: Session[Any]) -> None:
        for name, value in fields.items():
            setattr(session.data, name, value)

    return route


async def meet(client: Client, first: Any, second: Any) -> tuple[Any, Any]:
    """Both load the same session, ``first`` commits, then ``second``: their answers."""
    answers: list[Any] = []

    async def route(session: Session[Any]) -> None:
        await second(session)
        answers.append(await client.copy().request(first))

    late = await client.copy().request(route)
    return answers[0], late


# lost updates


@pytest.mark.parametrize("kind", EVERY_STORE)
async def test_200_writers_of_different_fields_all_succeed(
    kind: str, clock: FrozenClock, request: pytest.FixtureRequest
) -> None:
    """They all loaded the same version before the first of them commits."""
    fields: Any = {f"field_{number}": (int, 0) for number in range(200)}
    wide = create_model("Wide", **fields)
    async with opened_store(kind, clock, request) as store:
        patient = {"commit_timeout": timedelta(seconds=60)}
        client = Client(
            SessionProvider(wide, store=store, secret_key=SECRET, clock=clock, **patient)
        )
        await client.sign_in()
        everybody_is_there = asyncio.Barrier(200)

        async def write(number: int) -> Any:
            async def route(session: Session[Any]) -> None:
                await everybody_is_there.wait()
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
    """Each has its own provider, which knows nothing of the other's commits."""
    async with opened_store(kind, clock, request) as store:
        providers: list[SessionProvider[Any]] = [
            SessionProvider(Basket, store=HookedStore(store), secret_key=SECRET, clock=clock)
            for _ in range(2)
        ]
        client = Client(providers[0])
        await client.sign_in()
        everybody_is_there = asyncio.Barrier(30)

        async def write(number: int) -> Any:
            async def route(session: Session[Any]) -> None:
                await everybody_is_there.wait()
                session.data.lines.append(Line(name=str(number)))

            return await Client(providers[number % 2], client.cookie).request(route)

        answers = await asyncio.gather(*map(write, range(30)))
        assert [answer.error for answer in answers] == [None] * 30
        names = [line.name for line in (await client.data()).lines]
        assert sorted(names, key=int) == [str(number) for number in range(30)]


@pytest.mark.parametrize("kind", EVERY_STORE)
async def test_of_many_counters_exactly_the_losers_see_a_409(
    kind: str, clock: FrozenClock, request: pytest.FixtureRequest
) -> None:
    """With ``on_conflict="raise"`` the count is the number of those who were told yes."""
    async with opened_store(kind, clock, request) as store:
        provider = SessionProvider(
            Basket, store=store, secret_key=SECRET, on_conflict="raise", clock=clock
        )
        app = make_app()

        @app.get("/begin")
        async def begin(session: Annotated[Session[Basket], Depends(provider)]) -> None:
            session.data.note = "begun"

        everybody_is_there = asyncio.Barrier(26)

        @app.get("/count")
        async def count(session: Annotated[Session[Basket], Depends(provider)]) -> int:
            await everybody_is_there.wait()
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
            losers = [response for response in responses if response.status_code == 409]
            assert {response.json()["detail"] for response in losers} == {
                "Another request changed the same fields. (count)"
            }
            assert (await client.get("/")).json() == 1


async def test_the_later_commit_wins_and_an_event_tells(
    provide: Any, events: list[SessionEvent]
) -> None:
    """That is ``on_conflict="overwrite"``; what only the earlier one changed stays."""
    client = Client(provide())
    key = await client.sign_in()
    early, late = await meet(client, change(count=1, note="early"), change(count=2))
    assert early.is_ok
    assert late.is_ok
    data = await client.data()
    assert (data.count, data.note) == (2, "early")
    (event,) = [event for event in events if event.kind == "conflict"]
    assert (event.key, event.facts) == (key, {"fields": "count"})


async def test_a_conflict_names_its_fields(provide: Any) -> None:
    """By their paths, nested ones too, and nothing of the late request is stored."""

    async def early(session: Session[Basket]) -> None:
        session.data.address.city = "Oslo"
        session.data.lines = [Line(name="b"), Line(name="a")]
        session.data.note = "early"

    async def late(session: Session[Basket]) -> None:
        session.data.address.city = "Bergen"
        session.data.address.street = "Strandgaten"
        session.data.lines[0].amount = 2
        session.data.count = 7

    client = Client(provide(on_conflict="raise"))
    await client.request(change(lines=[Line(name="a"), Line(name="b")]))
    _, answer = await meet(client, early, late)
    assert isinstance(answer.error, SessionConflict)
    assert sorted(answer.error.fields) == ["address.city", "lines"]
    assert answer.error.status_code == 409
    data = await client.data()
    assert (data.address, data.count, data.note) == (Address(city="Oslo"), 0, "early")


async def test_a_conflict_that_was_caught_is_solved_by_reload(provide: Any) -> None:
    """The route sees what is stored, and tries again."""
    client = Client(provide(on_conflict="raise"))
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
async def test_changes_that_are_valid_alone_and_not_together_are_a_409(
    provide: Any, on_conflict: str
) -> None:
    """What is stored is always something that the next request can read."""
    client = Client(provide(Span, on_conflict=on_conflict))
    await client.sign_in()
    early, late = await meet(client, change(end=3), change(start=5))
    assert early.is_ok
    assert isinstance(late.error, SessionConflict)
    assert await client.data() == Span(start=1, end=3)


# what the data may be


async def test_sets_merge(provide: Any) -> None:
    """Whatever order their items are written in."""
    client = Client(provide(on_conflict="raise"))
    await client.request(change(tags={"b", "d", "f"}))

    async def early(session: Session[Basket]) -> None:
        session.data.tags |= {"a", "c"}
        session.data.tags.remove("d")

    async def late(session: Session[Basket]) -> None:
        session.data.tags |= {"c", "e"}
        session.data.tags.remove("b")

    _, answer = await meet(client, early, late)
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
    """Every kind of field that is written otherwise than it is named, typed or seen."""

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


async def test_aliases_unions_computed_fields_and_sets_of_models_merge(provide: Any) -> None:
    """What is stored goes by field names and holds no computed field; each field merges."""
    client = Client(provide(Rich, on_conflict="raise"))
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

    _, answer = await meet(client, early, late)
    assert answer.is_ok
    data = await client.data()
    assert data.full_name == "Ada Lovelace"
    assert data.points == {Point(x=1), Point(x=2)}
    assert data.seen == {1: frozenset("abcd"), 2: frozenset()}
    assert data.pair == (0, {5})
    assert data.pet == Dog(age=3)
    assert data.number is True


async def test_nested_items_that_are_equal_but_not_the_same_are_taken_over(provide: Any) -> None:
    """A list that holds 1 becomes one that holds true: in the route that merged, too."""

    class Loose(BaseModel):
        values: list[Any] = []
        note: str = ""

    client = Client(provide(Loose))
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


async def test_fields_of_a_newer_release_survive_a_merge(provide: Any) -> None:
    """An older release that runs beside it changes its own fields and drops nothing."""
    newer = Client(provide(NewerBasket))
    await newer.sign_in()
    older = Client(provide(Basket), newer.cookie)

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
    def reads_the_old_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" in values:
            values["full_name"] = values.pop("name")
        return values


async def test_a_change_is_not_read_away_by_a_validator_that_moves_old_fields(provide: Any) -> None:
    """An old field that would overwrite our change when it is read again does not stay."""
    older = Client(provide(Named))
    await older.request(change(name="Ada"))
    newer = Client(provide(Renamed), older.cookie)
    assert (await newer.data()).full_name == "Ada"
    await newer.request(change(full_name="Grace"))
    assert (await newer.data()).full_name == "Grace"


# commit in the middle, reload, websockets, open


async def test_commit_keeps_the_object(provide: Any) -> None:
    """A merge puts what another request did into the same ``data``; a field that nobody else
    changed keeps its object."""
    client = Client(provide(on_conflict="raise"))
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


async def test_commits_in_one_request_write_what_is_new_each_time(
    provide: Any, store: HookedStore
) -> None:
    """Nothing twice, and nothing at the end when nothing came after."""
    client = Client(provide(on_conflict="raise"))
    await client.sign_in()

    async def route(session: Session[Basket]) -> None:
        for name in "ab":
            session.data.lines.append(Line(name=name))
            await session.commit()
            await client.copy().request(change(note=name))
        await session.commit()

    store.calls.clear()
    assert (await client.copy().request(route)).is_ok
    data = await client.data()
    assert ([line.name for line in data.lines], data.note) == (["a", "b"], "b")


async def test_reload_takes_what_is_stored_and_drops_our_own(provide: Any) -> None:
    """What follows is merged over that, without a conflict."""
    client = Client(provide(on_conflict="raise"))
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
async def test_reload_tells_that_the_session_has_ended(
    provide: Any, clock: FrozenClock, end: str
) -> None:
    """And goes on saying so; nothing that comes after it is stored."""
    provider = provide()
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


async def test_a_websocket_merges_as_a_request_does(provide: Any) -> None:
    """At ``commit()`` in the middle, and when its handler ends."""
    provider = provide(on_conflict="raise", trusted_origins=())
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


async def test_open_merges_as_a_request_does(provide: Any) -> None:
    """Two of them that overlap, and a request within both."""
    provider = provide(on_conflict="raise")
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


async def test_tasks_of_one_request_that_commit_at_once_add_nothing_twice(
    provide: Any, store: HookedStore
) -> None:
    """A websocket with a reader and a writer of its own does this all the time."""
    client = Client(provide(on_conflict="raise"))
    await client.sign_in()
    turns: list[str] = []

    async def yield_a_few_times() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def route(session: Session[Basket]) -> None:
        async def add(name: str) -> None:
            session.data.lines.append(Line(name=name))
            await session.commit()
            turns.append(name)

        store.hooks["save"] = [yield_a_few_times] * 3
        await asyncio.gather(*map(add, "abc"))
        assert [line.name for line in session.data.lines] == ["a", "b", "c"]

    assert (await client.copy().request(route)).is_ok
    assert [line.name for line in (await client.data()).lines] == ["a", "b", "c"]


async def test_a_change_that_is_made_while_a_commit_merges_is_kept(
    provide: Any, store: HookedStore
) -> None:
    """Another task of the request does not wait for the commit before it goes on."""
    client = Client(provide(on_conflict="raise"))
    await client.sign_in()

    async def route(session: Session[Basket]) -> None:
        async def meanwhile() -> None:
            session.data.note = "meanwhile"
            session.data.lines.append(Line(name="late"))

        session.data.lines.append(Line(name="ours"))
        await client.copy().request(change(lines=[Line(name="theirs")]))
        store.hooks["save"] = [None, meanwhile]
        await session.commit()
        assert [line.name for line in session.data.lines] == ["theirs", "ours", "late"]

    assert (await client.copy().request(route)).is_ok
    data = await client.data()
    assert [line.name for line in data.lines] == ["theirs", "ours", "late"]
    assert data.note == "meanwhile"


async def test_a_session_that_everybody_writes_is_a_409_in_the_end(
    provide: Any, store: HookedStore
) -> None:
    """Bounded by ``commit_timeout``: no request tries for ever."""
    provider = provide(commit_timeout=timedelta(seconds=0.05))
    client = Client(provider)
    key = await client.sign_in()
    busy = Client(provide(), client.cookie)
    turn = 0

    async def somebody_writes() -> None:
        nonlocal turn
        turn += 1
        store.hooks["save"] = [None]
        await busy.copy().request(change(note=str(turn)))
        store.hooks["save"] = [somebody_writes]

    async def route(session: Session[Basket]) -> None:
        session.data.count = 1
        store.hooks["save"] = [somebody_writes]

    answer = await client.copy().request(route)
    store.hooks.clear()
    assert isinstance(answer.error, SessionConflict)
    assert answer.error.fields == ()
    async with provider.open(key) as session:
        assert session.data.count == 0


# no revival

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


FLIGHTS = {
    "reader": do_nothing,
    "writer": write,
    "extension": do_nothing,
    "renewal": renew,
    "sign-out": sign_out,
    "merge retry": write,
    "open": write,
}
MOMENTS = [
    *((flight, "in the route") for flight in FLIGHTS),
    *((flight, "before the save") for flight in FLIGHTS if flight != "reader"),
    ("merge retry", "before the load"),
    ("merge retry", "before the second save"),
]


@pytest.mark.parametrize("kind", ["memory", "redis", "sqlite"])
@pytest.mark.parametrize(("flight", "moment"), MOMENTS)
@pytest.mark.parametrize("end", ENDS)
async def test_an_end_wins_against_whatever_is_in_flight(
    kind: str,
    flight: str,
    moment: str,
    end: str,
    clock: FrozenClock,
    events: list[SessionEvent],
    request: pytest.FixtureRequest,
) -> None:
    """No record is written back, no cookie is set, the old cookie is dead; that is no error."""
    async with opened_store(kind, clock, request) as inner:
        store = HookedStore(inner)
        provider: SessionProvider[Any] = SessionProvider(
            Basket,
            store=store,
            secret_key=SECRET,
            lifetime=Lifetime(idle=IDLE),
            on_event=events.append,
            clock=clock,
        )
        client = Client(provider)
        key = await client.sign_in()
        ender = client.copy()
        clock.advance(IDLE / 5 if flight == "extension" else SECOND)

        async def end_it() -> None:
            store.hooks.clear()
            await ENDS[end](provider, ender, key, clock)

        async def route(session: Session[Any]) -> None:
            await FLIGHTS[flight](session)
            if flight == "merge retry":
                await client.copy().request(change(count=1))
            hooks: dict[str, Any] = {
                "before the save": {"save": [end_it]},
                "before the load": {"load": [end_it]},
                "before the second save": {"save": [None, end_it]},
            }
            if moment == "in the route":
                await end_it()
            else:
                store.hooks = hooks[moment]

        if flight == "open":
            async with provider.open(key) as session:
                await route(session)
        else:
            answer = await client.copy().request(route)
            assert (answer.error, answer.cookie) == (None, None)
        assert not await client.is_live()
        if end == "rotation":
            assert await ender.is_live()
            assert (await ender.data()).note == ""
        else:
            assert await inner.load(key) is None
            with pytest.raises(SessionNotFound):
                async with provider.open(key):
                    pass
        if flight not in ("reader", "extension"):
            assert "ended_elsewhere" in kinds(events)


async def test_a_store_that_keeps_too_long_revives_nothing(
    provide: Any, clock: FrozenClock
) -> None:
    """A lifetime that was shortened counts, and wins against a slow writer, although the store
    still has the record with its longer life."""
    client = Client(provide(lifetime=Lifetime(idle=IDLE * 10)))
    await client.sign_in()
    shorter = Client(provide(lifetime=Lifetime(idle=IDLE)), client.cookie)

    async def route(session: Session[Basket]) -> None:
        session.data.count = 1
        clock.advance(IDLE)

    answer = await shorter.copy().request(route)
    assert (answer.error, answer.cookie) == (None, None)
    assert not await shorter.is_live()
    assert (await client.data()).count == 0


# renewals and sign-ins at once


async def test_of_two_renewals_one_wins_and_the_other_sets_no_cookie(provide: Any) -> None:
    """One session, one key, one token that opens it."""
    client = Client(provide())
    await client.sign_in()
    winner, loser = await meet(client, renew, renew)
    assert winner.cookie
    assert loser.cookie is None
    assert not await client.is_live()
    assert await Client(client.provider, winner.cookie).is_live()
    assert len(await client.provider.sessions("ada")) == 1


async def test_a_renewal_takes_a_change_that_came_before_it(provide: Any) -> None:
    """A writer that was first is merged: the renewal keeps its data."""
    client = Client(provide(on_conflict="raise"))
    await client.sign_in()
    _, renewal = await meet(client, change(count=1), renew)
    data = await Client(client.provider, renewal.cookie).data()
    assert data.count == 1


async def test_of_two_sign_ins_at_once_both_are_signed_in(provide: Any) -> None:
    """Each has proven who they are: the second gets a session of its own, with the data."""
    client = Client(provide())
    await client.request(change(note="a basket"))

    def sign_in(subject: str) -> Any:
        async def route(session: Session[Any]) -> None:
            session.renew(subject=subject)

        return route

    answers = await meet(client, sign_in("ada"), sign_in("grace"))
    assert not await client.is_live()
    for subject, answer in zip(("ada", "grace"), answers, strict=True):
        data = await Client(client.provider, answer.cookie).data()
        assert data.note == "a basket"
        (stored,) = await client.provider.sessions(subject)
        assert stored.subject == subject


@pytest.mark.parametrize("end", ["destroy", "revoke", "expiry", "rotation"])
async def test_a_sign_in_survives_the_end_of_the_session_that_it_began_in(
    provide: Any, clock: FrozenClock, end: str
) -> None:
    """Under a new key: the one that ended stays dead."""
    provider = provide()
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


@pytest.mark.parametrize("moment", ["route", "create", "find", "load"])
async def test_revoke_all_ends_a_sign_in_that_is_under_way(
    provide: Any, store: HookedStore, clock: FrozenClock, moment: str
) -> None:
    """Whether its record is there already or not: the password has changed since it was asked."""
    provider = provide()
    client = Client(provider)

    async def revoke_ada() -> None:
        store.hooks.clear()
        clock.advance(SECOND)
        await provider.revoke_all("ada")

    async def route(session: Session[Any]) -> None:
        session.renew(subject="ada")
        if moment == "route":
            await revoke_ada()
        elif moment == "find":
            # the sign-in is stored after the list was read and before anything is deleted
            clock.advance(SECOND)
            store.hooks["find"] = [session.commit]
            await provider.revoke_all("ada")
        else:
            store.hooks[moment] = [revoke_ada]

    answer = await client.request(route)
    assert isinstance(answer.error, SessionConflict)
    assert client.cookie == ""
    assert await provider.sessions("ada") == []


async def test_revoke_all_ends_a_renewal_that_is_under_way(
    provide: Any, clock: FrozenClock
) -> None:
    """The session is found under its key, whatever its token is by then."""
    provider = provide()
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


async def test_a_sign_in_after_revoke_all_stands(provide: Any, clock: FrozenClock) -> None:
    """With the new password."""
    provider = provide()
    client = Client(provider)
    await provider.revoke_all("ada")
    clock.advance(SECOND)
    await client.sign_in()
    assert await client.is_live()


@pytest.mark.parametrize("is_stored", [True, False])
async def test_revoke_all_keeps_the_session_that_asked_for_it(
    provide: Any, clock: FrozenClock, is_stored: bool
) -> None:
    """Signed in before, or signing in with this very request; all others end."""
    provider = provide()
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


async def test_the_session_that_one_revocation_keeps_is_ended_by_the_next(
    provide: Any, clock: FrozenClock
) -> None:
    """An exemption is for one revocation only."""
    provider = provide()
    client = Client(provider)

    async def route(session: Session[Any]) -> None:
        session.renew(subject="ada")
        await provider.revoke_all("ada", keep=session)
        clock.advance(SECOND)
        await provider.revoke_all("ada")

    assert isinstance((await client.request(route)).error, SessionConflict)
    assert await provider.sessions("ada") == []


async def test_a_revocation_of_a_machine_whose_clock_is_behind_takes_nothing_back(
    provide: Any, clock: FrozenClock
) -> None:
    """Of two revocations the later moment counts, whichever is written last."""
    provider, behind = provide(), provide(clock=FrozenClock(clock.now - IDLE))

    async def route(session: Session[Any]) -> None:
        session.renew(subject="ada")
        clock.advance(SECOND)
        await provider.revoke_all("ada")
        await behind.revoke_all("ada")

    assert isinstance((await Client(provider).request(route)).error, SessionConflict)
    assert await provider.sessions("ada") == []


async def test_revocations_at_once_all_succeed(provide: Any, clock: FrozenClock) -> None:
    """They write one note between them."""
    provider = provide()
    client = Client(provider)
    await client.sign_in()
    clock.advance(SECOND)
    assert sum(await asyncio.gather(*(provider.revoke_all("ada") for _ in range(5)))) == 1
    assert not await client.is_live()


@pytest.mark.parametrize("verb", ["create", "save", "load"])
async def test_a_sign_in_whose_store_fails_on_the_way_leaves_no_live_cookie(
    provide: Any, store: HookedStore, clock: FrozenClock, verb: str
) -> None:
    """A 503, no cookie, and the old token opens at most what it opened before."""
    provider = provide()
    client = Client(provider)
    await client.request(change(note="anonymous"))
    clock.advance(SECOND)

    async def fail() -> None:
        raise StoreUnavailable("told to fail")

    async def route(session: Session[Any]) -> None:
        if verb == "create":
            await session.destroy()
        session.renew(subject="ada")
        store.hooks[verb] = [fail]

    answer = await client.copy().request(route)
    assert isinstance(answer.error, StoreUnavailable)
    assert not answer.cookie
    assert await client.is_live() is (verb == "save")


async def test_many_sign_ins_of_one_subject_are_all_listed(
    clock: FrozenClock, request: pytest.FixtureRequest
) -> None:
    """And one revocation ends them all."""
    async for provider in every_provider(clock, request):
        clients = [Client(provider) for _ in range(50)]
        await asyncio.gather(*(client.sign_in() for client in clients))
        assert len(await provider.sessions("ada")) == 50
        clock.advance(SECOND)
        assert await provider.revoke_all("ada") == 50
        assert await provider.sessions("ada") == []
        assert await asyncio.gather(*(client.is_live() for client in clients)) == [False] * 50


async def every_provider(
    clock: FrozenClock, request: pytest.FixtureRequest
) -> AsyncIterator[SessionProvider[Any]]:
    for kind in EVERY_STORE:
        async with opened_store(kind, clock, request) as store:
            yield SessionProvider(Basket, store=store, secret_key=SECRET, clock=clock)
