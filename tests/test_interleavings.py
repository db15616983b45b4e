"""Every order in which the store calls of two or three requests can fall."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from fastapi_async_sessions import Lifetime, MemoryStore, Session, SessionNotFound, SessionProvider
from fastapi_async_sessions.stores import _batcher
from fastapi_async_sessions.stores._scripts import ADD_TO_INDEX, CREATE, DELETE, SAVE
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock
from tests.races import (
    STORES,
    Answer,
    Client,
    GatedRedis,
    GatedStore,
    Stage,
    do_nothing,
    every_interleaving,
    make_provider,
    no_pauses,
    opened_store,
)

IDLE = timedelta(hours=1)


class Data(BaseModel):
    a: int = 0
    b: int = 0
    c: int = 0
    shared: str = ""
    items: list[str] = []


class House:
    """A provider over a gated store, and what the scenarios have in common."""

    def __init__(self, store: GatedStore, clock: FrozenClock) -> None:
        self.store = store
        self.clock = clock
        self.ended_elsewhere = 0
        self.provider: SessionProvider[Any] = make_provider(
            store, clock, Data, lifetime=Lifetime(idle=IDLE), on_event=self._note
        )

    def _note(self, event: Any) -> None:
        self.ended_elsewhere += event.kind == "ended_elsewhere"

    async def begin(self, subject: str = "ada") -> tuple[Client, str]:
        """A session of its own for one run, and its key."""
        await self.store.inner.clear()
        self.ended_elsewhere = 0
        client = Client(self.provider)
        return client, await client.sign_in(subject)

    async def play(self, scenario: Any, *, after: bool = False, prunes: bool = True) -> int:
        """Run a scenario in every order."""
        self.store.after = after

        async def run(stage: Stage) -> None:
            await scenario(self, stage)

        count = await every_interleaving(self.store, self.clock, run, prunes=prunes)
        logging.getLogger(__name__).info("%s: %d interleavings", scenario.__name__, count)
        return count

    # what must hold

    async def data(self, key: str) -> Data:
        async with self.provider.open(key) as session:
            return session.data

    async def is_over(self, key: str, *cookies: str | None) -> None:
        """No record, no cookie that works, no entry on a list."""
        assert await self.store.inner.load(key) is None
        with pytest.raises(SessionNotFound):
            await self.data(key)
        for cookie in filter(None, cookies):
            assert not await Client(self.provider, cookie).is_live()

    async def index_is_true(self, subject: str = "ada") -> set[str]:
        """After ``sessions()`` the index of a subject is what there is."""
        listed = {session.key for session in await self.provider.sessions(subject)}
        assert listed == await self.store.live_keys(subject)
        found = await self.store.inner.find(f"session:{subject}")
        assert listed == {key for key, _ in found}
        return listed

    async def opens_with_one_of(self, *cookies: str | None) -> str:
        """Exactly one of all cookies that were ever handed out works."""
        given = [cookie for cookie in dict.fromkeys(cookies) if cookie]
        live = [cookie for cookie in given if await Client(self.provider, cookie).is_live()]
        assert len(live) == 1, f"{len(live)} of {len(given)} cookies open the session"
        return live[0]


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture(params=STORES)
async def house(
    request: pytest.FixtureRequest, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    no_pauses(monkeypatch)
    async with opened_store(request.param, clock, request) as inner:
        yield House(GatedStore(inner), clock)


def writer(name: str, value: int = 1) -> Callable[[Session[Data]], Awaitable[None]]:
    """Changes a field of its own, one that all share, and a list that all share."""

    async def route(session: Session[Data]) -> None:
        setattr(session.data, name, value)
        session.data.shared = name
        session.data.items.append(name)

    return route


async def destroyer(session: Session[Data]) -> None:
    await session.destroy()


async def renewer(session: Session[Data]) -> None:
    session.renew()


async def signer(session: Session[Data]) -> None:
    session.renew(subject="ada")


def all_ok(answers: dict[str, Any]) -> None:
    for answer in answers.values():
        if isinstance(answer, Answer):
            assert answer.error is None, answer.error


# two at once


async def writer_and_writer(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    one, other = client.copy(), client.copy()
    answers = await stage.run(
        a=lambda: one.request(writer("a")), b=lambda: other.request(writer("b"))
    )
    all_ok(answers)
    data = await house.data(key)
    assert (data.a, data.b) == (1, 1)
    assert sorted(data.items) == ["a", "b"]
    # whose write came last also wrote the scalar that both have changed
    assert data.shared == data.items[-1]
    first_end, second_begin = stage.log.index("a: ends"), stage.log.index("b: begins")
    if first_end < second_begin:
        assert data.items == ["a", "b"]
    assert (answers["a"].cookie, answers["b"].cookie) == (None, None)


async def writer_and_destroy(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    one, other = client.copy(), client.copy()
    answers = await stage.run(
        writer=lambda: one.request(writer("a")), destroyer=lambda: other.request(destroyer)
    )
    # a writer who came too late began a session of its own
    if "destroyer: ends" in stage.log[: stage.log.index("writer: begins")]:
        assert answers["writer"].cookie
    all_ok(answers)
    await house.is_over(key, client.cookie)
    assert await house.index_is_true() == set()


async def extension_and_destroy(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    house.clock.advance(IDLE / 5)
    one, other = client.copy(), client.copy()
    answers = await stage.run(
        reader=lambda: one.request(do_nothing), destroyer=lambda: other.request(destroyer)
    )
    all_ok(answers)
    assert answers["reader"].cookie is None
    await house.is_over(key, client.cookie)
    assert await house.index_is_true() == set()


async def renew_and_renew(house: House, stage: Stage) -> None:
    client, _ = await house.begin()
    one, other = client.copy(), client.copy()
    answers = await stage.run(a=lambda: one.request(renewer), b=lambda: other.request(renewer))
    all_ok(answers)
    # a renewal that began after the other was stored finds no session behind its dead cookie
    cookies = [answer.cookie for answer in answers.values()]
    assert len(list(filter(None, cookies))) == 1
    live = await house.opens_with_one_of(client.cookie, *cookies)
    assert live in cookies
    assert len(await house.index_is_true()) == 1


async def renew_and_write(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    one, other = client.copy(), client.copy()
    answers = await stage.run(
        renewer=lambda: one.request(renewer), writer=lambda: other.request(writer("a"))
    )
    all_ok(answers)
    live = await house.opens_with_one_of(client.cookie, answers["renewer"].cookie)
    assert live == answers["renewer"].cookie
    data = await house.data(key)
    is_new_session = answers["writer"].cookie is not None
    # an acknowledged change is there, or the session was renewed under it and an event told
    assert (data.a == 1) is not (is_new_session or house.ended_elsewhere == 1)


async def sign_in_and_revoke_all(house: House, stage: Stage) -> None:
    old, key = await house.begin()
    new = Client(house.provider)
    answers = await stage.run(
        revoker=lambda: house.provider.revoke_all("ada"),
        signer=lambda: new.request(signer),
    )
    await house.is_over(key, old.cookie)
    began, revoked = stage.log.index("signer: begins"), stage.log.index("revoker: begins")
    listed = await house.index_is_true()
    if began < revoked:
        assert listed == set()
    if answers["signer"].is_ok and "revoker: ends" in stage.log[:began]:
        assert len(listed) == 1
        assert await new.is_live()
    if listed == set() and new.cookie:
        assert not await new.is_live()


async def renew_and_revoke_all(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    one = client.copy()
    await stage.run(
        renewer=lambda: one.request(renewer), revoker=lambda: house.provider.revoke_all("ada")
    )
    await house.is_over(key, client.cookie, one.cookie)
    assert await house.index_is_true() == set()


async def open_and_destroy(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    one = client.copy()

    async def admin() -> None:
        try:
            async with house.provider.open(key) as session:
                await writer("a")(session)
        except SessionNotFound:
            assert "destroyer: delete" in stage.log

    all_ok(await stage.run(admin=admin, destroyer=lambda: one.request(destroyer)))
    await house.is_over(key, client.cookie)
    assert await house.index_is_true() == set()


async def open_and_write(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    one = client.copy()

    async def admin() -> None:
        async with house.provider.open(key) as session:
            await writer("a")(session)

    all_ok(await stage.run(admin=admin, writer=lambda: one.request(writer("b"))))
    data = await house.data(key)
    assert (data.a, data.b, sorted(data.items)) == (1, 1, ["a", "b"])


async def writer_and_expiry(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    one = client.copy()

    async def time_passes() -> None:
        for _ in range(2):
            await stage.gate("time")
            house.clock.advance(IDLE / 2)

    answers = await stage.run(clock=time_passes, writer=lambda: one.request(writer("a")))
    assert answers["writer"].is_ok
    expired = [place for place, line in enumerate(stage.log) if line == "clock: time"][1]
    is_late = "writer: save" not in stage.log or stage.log.index("writer: save") > expired
    if is_late or await house.store.inner.load(key) is None:
        await house.is_over(key, client.cookie)
    else:
        assert (await house.data(key)).a == 1
    assert (answers["writer"].cookie is not None) is ("writer: create" in stage.log)
    assert await house.index_is_true() <= {key}


async def commit_and_destroy_and_reload(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    one, other = client.copy(), client.copy()

    async def websocket_like(session: Session[Data]) -> bool:
        session.data.a = 1
        await session.commit()
        return await session.reload()

    answers = await stage.run(
        holder=lambda: one.request(websocket_like), destroyer=lambda: other.request(destroyer)
    )
    all_ok(answers)
    await house.is_over(key, client.cookie)
    if answers["holder"].value and answers["holder"].cookie is None:
        # it lived when it was asked for: the destroyer had not begun to delete
        load = max(n for n, line in enumerate(stage.log) if line == "holder: load")
        assert load < stage.log.index("destroyer: delete")


TWO = [
    writer_and_writer,
    writer_and_destroy,
    extension_and_destroy,
    renew_and_renew,
    renew_and_write,
    sign_in_and_revoke_all,
    renew_and_revoke_all,
    open_and_destroy,
    open_and_write,
    writer_and_expiry,
    commit_and_destroy_and_reload,
]


@pytest.mark.parametrize("scenario", TWO, ids=lambda scenario: scenario.__name__)
async def test_two_at_once(house: House, scenario: Any) -> None:
    """Stopped before each store call; in memory before its answer, too."""
    # that one has thousands with both
    after = isinstance(house.store.inner, MemoryStore) and scenario is not sign_in_and_revoke_all
    assert await house.play(scenario, after=after, prunes=False) > 9


# three at once


async def write_renew_destroy(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    tabs = [client.copy() for _ in range(3)]
    answers = await stage.run(
        destroyer=lambda: tabs[0].request(destroyer),
        renewer=lambda: tabs[1].request(renewer),
        writer=lambda: tabs[2].request(writer("a")),
    )
    all_ok(answers)
    renewed = answers["renewer"].cookie
    # a destroyer who came with a token that was dead already ended nothing
    if any(line.startswith("destroyer: delete") for line in stage.log):
        await house.is_over(key, client.cookie, renewed)
        assert await house.index_is_true() == set()
    else:
        assert await house.opens_with_one_of(client.cookie, renewed) == renewed
        assert await house.index_is_true() == {key}


async def three_writers(house: House, stage: Stage) -> None:
    client, key = await house.begin()
    tabs = [client.copy() for _ in range(3)]
    answers = await stage.run(
        a=lambda: tabs[0].request(writer("a")),
        b=lambda: tabs[1].request(writer("b")),
        c=lambda: tabs[2].request(writer("c")),
    )
    all_ok(answers)
    data = await house.data(key)
    assert (data.a, data.b, data.c, sorted(data.items)) == (1, 1, 1, ["a", "b", "c"])
    assert data.shared == data.items[-1]


async def two_sign_ins_and_revoke_all(house: House, stage: Stage) -> None:
    anonymous = Client(house.provider)
    old, key = await house.begin()
    tabs = [anonymous.copy() for _ in range(2)]
    await stage.run(
        revoker=lambda: house.provider.revoke_all("ada"),
        a=lambda: tabs[0].request(signer),
        b=lambda: tabs[1].request(signer),
    )
    await house.is_over(key, old.cookie)
    listed = await house.index_is_true()
    revoked = stage.log.index("revoker: begins")
    for name, tab in zip("ab", tabs, strict=True):
        if stage.log.index(f"{name}: begins") < revoked:
            assert not await tab.is_live()
    assert len(listed) == sum([await tab.is_live() for tab in tabs])


@pytest.mark.parametrize(
    "scenario",
    [write_renew_destroy, three_writers, two_sign_ins_and_revoke_all],
    ids=lambda scenario: scenario.__name__,
)
async def test_three_at_once(house: House, scenario: Any) -> None:
    """Stopped before each store call."""
    assert await house.play(scenario) > 9


# inside the Redis store


class StoreOfCommands(GatedStore):
    """No gates of its own: the client has one before each command."""

    def __init__(self, inner: RedisStore, client: GatedRedis) -> None:
        self.client = client
        super().__init__(inner)

    @property
    def stage(self) -> Stage | None:
        return self.client.stage

    @stage.setter
    def stage(self, stage: Stage | None) -> None:
        self.client.stage = stage

    async def _pass(self, verb: str, key: str, call: Callable[[], Any]) -> Any:
        return await call()


async def sign_in_again_and_list(house: House, stage: Stage) -> None:
    """The list still has the session from its first sign-in: whoever reads it tidies it up."""
    client, key = await house.begin()

    async def sign_out(session: Session[Data]) -> None:
        session.renew(subject=None)

    await client.request(sign_out)
    await stage.run(
        lister=lambda: house.provider.sessions("ada"), signer=lambda: client.request(signer)
    )
    assert await house.index_is_true() == {key}


@pytest.mark.parametrize(
    "scenario",
    [sign_in_again_and_list, sign_in_and_revoke_all, renew_and_revoke_all, writer_and_destroy],
    ids=lambda scenario: scenario.__name__,
)
async def test_redis_commands(
    scenario: Any, clock: FrozenClock, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the store is several commands: stopped before each of them."""
    no_pauses(monkeypatch)
    monkeypatch.setattr(_batcher, "_MAX_DELAY", 0)
    async with GatedRedis.from_url(redis_url) as client:
        house = House(StoreOfCommands(RedisStore(client, clock=clock), client), clock)
        for script in (CREATE, SAVE, DELETE, ADD_TO_INDEX):
            await client.script_load(script.text)
        assert await house.play(scenario, prunes=False) > 9
