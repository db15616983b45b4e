"""What a request costs: the design's "Cost per request", counted so that speed cannot rot silently.

Store calls and Redis commands are counted over HTTP. Calls of functions are counted in one process,
as an upper limit: a change that needs more of them shows here, and says in its commit why.
"""

import asyncio
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

import fastapi_async_sessions
from fastapi_async_sessions import MemoryStore, Record, Session, Store
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import COOKIE, OLDER_SECRET, ORIGIN, SECRET, Data, call, make_app, make_provider
from .doubles import SpyStore
from .servers.redis import RedisServer

EXTENSION_IS_DUE = timedelta(minutes=20)
CHATTER = {"config", "info", "hello", "client", "select", "ping"}
IN_SCRIPTS = {"get", "set", "del", "zadd", "zremrangebyscore", "zrevrange", "pexpire"}
PACKAGE = str(Path(fastapi_async_sessions.__file__).parent)


class CountingStore(SpyStore):
    """Writes calls down; before each of the next ``rivals`` saves another process writes."""

    rivals = 0

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        if self.rivals:
            self.rivals -= 1
            there = await self.inner.load(key)
            theirs = replace(there, version=new_version(there.version))
            assert await self.inner.save(key, theirs, replaces=there.version)
        return await super().save(key, record, replaces=replaces)

    async def open(self) -> None:
        await self.inner.open()

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass
class World:
    """An application, its store, a client, and what counts."""

    client: TestClient
    store: CountingStore
    clock: FrozenClock
    server: RedisServer | None

    def cookie_of(self, who: str) -> str:
        """A request header's value for somebody."""
        match who:
            case "stranger":
                return ""
            case "forger":
                return f"{COOKIE}={'A' * 64}.{'A' * 43}"
            case "babbler":
                return f"{COOKIE}=hello"
            case "visitor":
                return self.request("/change", "")
            case "member":
                return self.request("/sign-in", "")
            case _:
                cookie = self.cookie_of(who.removeprefix("idle "))
                self.clock.advance(EXTENSION_IS_DUE)
                return cookie

    def request(self, path: str, cookie: str) -> str:
        """Send a request, and give what the browser sends from now on."""
        answer = self.client.post(path, headers={"cookie": cookie} if cookie else {})
        self.client.cookies.clear()
        assert answer.status_code == (409 if path == "/refuse" else 200), answer.text
        return answer.headers.get("set-cookie", cookie).partition(";")[0]

    def store_calls(self, path: str, who: str, rivals: int = 0) -> list[str]:
        cookie = self.cookie_of(who)
        self.store.calls.clear()
        self.store.rivals = rivals
        self.request(path, cookie)
        return self.store.calls

    def commands(self, path: str, who: str) -> int:
        """How many commands clients sent; what scripts call themselves is left out."""
        cookie = self.cookie_of(who)
        self.server.command("CONFIG", "RESETSTAT")
        self.request(path, cookie)
        stats = self.server.command("INFO", "commandstats")
        calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
        hidden = CHATTER | (IN_SCRIPTS if "evalsha" in calls else set())
        return sum(count for name, count in calls.items() if name not in hidden)


def application(store: Store, clock: FrozenClock, **options: Any) -> FastAPI:
    """Routes that each do one thing to the session."""
    get_session = make_provider(store, clock=clock, **options)
    app = make_app(lifespan=get_session.lifespan)
    MySession = Annotated[Session[Data], Depends(get_session)]

    @app.post("/plain")
    async def plain() -> None:
        pass

    @app.post("/read")
    async def read(session: MySession) -> int:
        return session.data.count

    @app.post("/read-twice", dependencies=[Depends(get_session.required)])
    async def read_twice(session: MySession) -> int:
        return session.data.count

    @app.post("/members", dependencies=[Depends(get_session.signed_in())])
    async def members(session: MySession) -> int:
        return session.data.count

    @app.post("/who")
    async def who(session: MySession) -> str | None:
        return session.subject

    @app.post("/change")
    async def change(session: MySession) -> None:
        session.data.count += 1

    @app.post("/assign-equal")
    async def assign_equal(session: MySession) -> None:
        session.data = session.data.model_copy(deep=True)

    @app.post("/refuse")
    async def refuse(session: MySession) -> None:
        session.data.count += 1
        raise HTTPException(409)

    @app.post("/renew")
    async def renew(session: MySession) -> None:
        session.renew()

    @app.post("/renew-and-change")
    async def renew_and_change(session: MySession) -> None:
        session.data.count += 1
        session.renew()

    @app.post("/sign-in")
    async def sign_in(session: MySession) -> None:
        session.renew(subject="ada")

    @app.post("/sign-out")
    async def sign_out(session: MySession) -> None:
        await session.destroy()

    return app


@pytest.fixture(params=["memory", "redis"])
def world(request: pytest.FixtureRequest) -> Any:
    """The application on a store in memory and on a real Redis."""
    clock = FrozenClock()
    server = None
    if request.param == "memory":
        inner: Store = MemoryStore(clock=clock)
    else:
        server = request.getfixturevalue("redis_server")
        inner = RedisStore.from_url(request.getfixturevalue("redis_url"), clock=clock)
    store = CountingStore(inner)
    with TestClient(application(store, clock), base_url=ORIGIN) as client:
        world = World(client, store, clock, server)
        # the first run of a script sends its text: once in a server's life
        world.request("/sign-out", world.request("/change", world.request("/sign-in", "")))
        yield world


# path, who, store calls
COSTS = [
    pytest.param("/plain", "member", [], id="a route without a session"),
    pytest.param("/read", "stranger", [], id="no cookie, unused"),
    pytest.param("/read", "forger", [], id="a forged cookie"),
    pytest.param("/read", "babbler", [], id="a malformed cookie"),
    pytest.param("/sign-out", "stranger", [], id="destroying what was never stored"),
    pytest.param("/read", "visitor", ["load"], id="a read"),
    pytest.param("/read", "member", ["load"], id="a read of who is signed in"),
    pytest.param("/read-twice", "visitor", ["load"], id="two that ask for one session"),
    pytest.param("/members", "member", ["load"], id="a route for who is signed in"),
    pytest.param("/assign-equal", "visitor", ["load"], id="equal data assigned"),
    pytest.param("/refuse", "visitor", ["load"], id="a change, and the route raised"),
    pytest.param("/refuse", "stranger", [], id="a new session, and the route raised"),
    pytest.param("/read", "idle visitor", ["load", "save"], id="an extension due"),
    pytest.param("/read", "idle member", ["load", "save"], id="an extension, and the list"),
    pytest.param("/change", "visitor", ["load", "save"], id="a change"),
    pytest.param("/change", "member", ["load", "save"], id="a change of who is signed in"),
    pytest.param("/change", "idle visitor", ["load", "save"], id="a change that extends"),
    pytest.param("/renew", "visitor", ["load", "save"], id="a renewal"),
    pytest.param("/renew-and-change", "visitor", ["load", "save"], id="both at once"),
    pytest.param("/change", "stranger", ["create"], id="a new session"),
    pytest.param("/change", "forger", ["create"], id="a new session for a forger"),
    # the mark of a revocation is read
    pytest.param("/sign-in", "stranger", ["create", "load"], id="a sign-in"),
    pytest.param("/sign-in", "visitor", ["load", "save", "load"], id="a visitor's sign-in"),
    pytest.param("/sign-out", "visitor", ["load", "delete"], id="a destroy"),
    pytest.param("/sign-out", "member", ["load", "delete"], id="a sign-out"),
]


@pytest.mark.parametrize(("path", "who", "calls"), COSTS)
def test_a_request_takes_exactly_these_store_calls(
    world: World, path: str, who: str, calls: list[str]
) -> None:
    """The design's cost line, on a store in memory and on Redis."""
    assert world.store_calls(path, who) == calls


@pytest.mark.parametrize("world", ["redis"], indirect=True)
@pytest.mark.parametrize(("path", "who", "calls"), COSTS)
def test_a_request_takes_exactly_so_many_redis_commands(
    world: World, path: str, who: str, calls: list[str]
) -> None:
    """Redis counts them itself: one for each store call, the list of a user's sessions included."""
    assert world.commands(path, who) == len(calls)


@pytest.mark.parametrize("rivals", [1, 2, 3])
def test_each_conflict_takes_two_more_store_calls(world: World, rivals: int) -> None:
    """The save that is refused, and the load of what to merge with."""
    calls = world.store_calls("/change", "visitor", rivals)
    assert calls == ["load", "save"] + ["load", "save"] * rivals


def test_an_extension_that_meets_a_rival_is_dropped(world: World) -> None:
    """It never costs a second round: the rival has stamped the session as well."""
    assert world.store_calls("/read", "idle visitor", rivals=1) == ["load", "save"]


def test_an_older_key_is_signed_again_without_a_write() -> None:
    """Only the cookie changes, so that a key rotation does not rewrite the store."""
    clock, inner = FrozenClock(), MemoryStore()
    cookies = []
    for keys in (OLDER_SECRET, [SECRET, OLDER_SECRET]):
        store = CountingStore(inner)
        with TestClient(application(store, clock, secret_key=keys), base_url=ORIGIN) as client:
            world = World(client, store, clock, None)
            cookie = cookies[0] if cookies else world.cookie_of("visitor")
            store.calls.clear()
            cookies.append(world.request("/read", cookie))
    assert store.calls == ["load"]
    assert cookies[0] != cookies[1]


async def test_reads_that_meet_share_their_commands(redis_server: Any, redis_url: str) -> None:
    """32 readers at once send a few MGETs: the first one leaves alone, those after it together."""
    clock = FrozenClock()
    store = RedisStore.from_url(redis_url, clock=clock)
    app = application(store, clock)
    cookies = [await _signed_in(app) for _ in range(32)]
    redis_server.command("CONFIG", "RESETSTAT")
    answers = await asyncio.gather(
        *(call(app, "/read", method="POST", headers=[(b"cookie", each)]) for each in cookies)
    )
    stats = redis_server.command("INFO", "commandstats")
    await store.aclose()
    assert [status for status, _, _ in answers] == [200] * 32
    # two in a quiet moment; a slow machine may lose patience once or twice more
    assert 2 <= stats["cmdstat_mget"]["calls"] <= 8


async def test_bytes_are_parsed_and_written_only_so_often() -> None:
    """One parse and one dump are a read, one dump more of what is read for the first time, and none
    where no route looks at the data; a change is parsed as the next request will read it."""
    for path, who, loads, dumps in (
        ("/who", "reader", 1, 0),
        ("/who", "stranger", 0, 1),
        ("/read", "reader", 1, 1),
        ("/read", "visitor", 1, 2),
        ("/assign-equal", "reader", 1, 1),
        ("/change", "reader", 2, 1),
        ("/change", "visitor", 2, 2),
    ):
        calls = await _calls(path, who)
        assert (calls["Codec.load"], calls["Codec.dump"]) == (loads, dumps), (path, who)


async def _calls(path: str, who: str) -> Counter[str]:
    clock = FrozenClock()
    app = application(MemoryStore(clock=clock), clock)
    headers = [] if who == "stranger" else [(b"cookie", await _visitor(app))]
    if who == "reader":
        await call(app, "/read", method="POST", headers=headers)
    calls: Counter[str] = Counter()

    def note(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        # comprehensions are calls in one Python and none in the next
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name[0] != "<":
            calls[code.co_qualname] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        status, _, _ = await call(app, path, method="POST", headers=headers)
    finally:
        sys.setprofile(before)
    assert status == 200
    return calls


async def _visitor(app: FastAPI) -> bytes:
    return await _cookie_after(app, "/change")


async def _signed_in(app: FastAPI) -> bytes:
    return await _cookie_after(app, "/sign-in")


async def _cookie_after(app: FastAPI, path: str) -> bytes:
    _, headers, _ = await call(app, path, method="POST")
    return dict(headers)[b"set-cookie"].partition(b";")[0]
