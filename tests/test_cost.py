"""What a request costs: store calls, Redis commands, round trips, data parsed and dumped."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

import fastapi_async_sessions
from fastapi_async_sessions import MemoryStore, Session, Store
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.stores import _batcher
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import COOKIE, OLDER_SECRET, ORIGIN, SECRET, Data, call, make_app, make_provider
from .doubles import Hook, SpyStore, StoreCall, pass_on
from .servers.proxy import Proxy
from .servers.redis import RedisServer

OTHER = "https://other.test"
EXTENSION_IS_DUE = timedelta(minutes=20)
PACKAGE = str(Path(fastapi_async_sessions.__file__).parent)


@dataclass
class Harness:
    """An application, its store, a client, and the server whose commands are counted.

    The proxy stands before the server.
    """

    client: TestClient
    store: SpyStore
    clock: FrozenClock
    server: RedisServer | None = None
    proxy: Proxy | None = None

    def header_with(self, cookie: str) -> str:
        """The ``Cookie`` header of a request with this kind of cookie."""
        match cookie:
            case "none":
                return ""
            case "forged":
                return f"{COOKIE}={'A' * 64}.{'A' * 43}"
            case "malformed":
                return f"{COOKIE}=hello"
            case "anonymous":
                return self.request("/change", "")
            case "signed in":
                return self.request("/sign-in", "")
            case "ambiguous":
                return f"{self.header_with('anonymous')}; {self.header_with('anonymous')}"
            case "outdated" | "ended":
                header = self.header_with("signed in")
                self.request("/renew" if cookie == "outdated" else "/sign-out", header)
                return header
            case _:
                header = self.header_with(cookie.removeprefix("idle "))
                self.clock.advance(EXTENSION_IS_DUE)
                return header

    def request(self, path: str, header: str) -> str:
        """Send a request, and return the ``Cookie`` header of the next one."""
        answer = self.client.post(path, headers={"cookie": header} if header else {})
        self.client.cookies.clear()
        assert answer.status_code == (409 if path == "/refuse" else 200), answer.text
        return answer.headers.get("set-cookie", header).partition(";")[0]

    def store_calls(self, path: str, cookie: str, conflicts: int = 0) -> list[str]:
        """The store calls of a request, before whose first saves another process saves."""
        header = self.header_with(cookie)
        self.store.calls.clear()
        self.store.hook = save_first(conflicts)
        self.request(path, header)
        self.store.hook = pass_on
        return self.store.calls

    def commands(self, path: str, cookie: str) -> int:
        """The number of commands that clients have sent, without those that scripts call."""
        header = self.header_with(cookie)
        with self.server.counted() as commands:
            self.request(path, header)
        return commands.total()

    def round_trips(self, path: str, cookie: str) -> int:
        """How often the request waited for the server."""
        header = self.header_with(cookie)
        connections, before = self.proxy.connections, self.proxy.round_trips
        self.request(path, header)
        assert self.proxy.connections == connections
        return self.proxy.round_trips - before


def save_first(times: int) -> Hook:
    """Hook of a store to which another process saves before each of the next saves."""

    async def hook(call: StoreCall) -> Any:
        nonlocal times
        if call.verb == "save" and times:
            times -= 1
            record = await call.store.load(call.key)
            other = replace(record, version=new_version(record.version))
            assert await call.store.save(call.key, other, replaces=record.version)
        return await call.pass_on()

    return hook


def application(store: Store, clock: FrozenClock, **options: Any) -> FastAPI:
    """An application whose routes each do one thing to the session."""
    get_session = make_provider(store, clock=clock, trusted_origins=[OTHER], **options)
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

    @app.post("/sign-in-as-bob")
    async def sign_in_as_bob(session: MySession) -> None:
        session.renew(subject="bob")

    @app.post("/devices")
    async def devices() -> int:
        return len(await get_session.sessions("ada"))

    @app.post("/revoke-all")
    async def revoke_all() -> int:
        return await get_session.revoke_all("ada")

    @app.post("/sign-out")
    async def sign_out(session: MySession) -> None:
        await session.destroy()

    return app


@pytest.fixture(params=["memory", "redis"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """The application on a store in memory and on a real Redis."""
    clock = FrozenClock()
    server = proxy = None
    with ExitStack() as stack:
        if request.param == "memory":
            inner: Store = MemoryStore(clock=clock)
        else:
            server = request.getfixturevalue("redis_server")
            portal = stack.enter_context(start_blocking_portal())
            there = Proxy(request.getfixturevalue("redis_url"))
            proxy = stack.enter_context(portal.wrap_async_context_manager(there))
            inner = RedisStore.from_url(proxy.url, clock=clock)
        store = SpyStore(inner)
        app = application(store, clock)
        client = stack.enter_context(TestClient(app, base_url=ORIGIN))
        harness = Harness(client, store, clock, server, proxy)
        # the first use of a script sends its text, once in the life of a server
        harness.request("/sign-out", harness.request("/change", harness.request("/sign-in", "")))
        yield harness


# path, cookie, store calls
COSTS = [
    pytest.param("/plain", "signed in", [], id="a route without a session"),
    pytest.param("/read", "none", [], id="a new session that is not used"),
    pytest.param("/read", "forged", [], id="a forged cookie"),
    pytest.param("/read", "malformed", [], id="a malformed cookie"),
    pytest.param("/read", "ambiguous", [], id="two cookies"),
    pytest.param("/change", "ambiguous", [], id="a change with two cookies"),
    pytest.param("/read", "outdated", ["load"], id="a read with an outdated token"),
    pytest.param("/change", "outdated", ["load"], id="a change with an outdated token"),
    pytest.param("/change", "ended", ["load"], id="a change of an ended session"),
    pytest.param("/sign-out", "none", [], id="a destroy of a new session"),
    pytest.param("/read", "anonymous", ["load"], id="a read"),
    pytest.param("/read", "signed in", ["load"], id="a read when signed in"),
    pytest.param("/read-twice", "anonymous", ["load"], id="two dependencies on the session"),
    pytest.param("/members", "signed in", ["load"], id="a route for signed-in users"),
    pytest.param("/assign-equal", "anonymous", ["load"], id="an assignment of equal data"),
    pytest.param("/refuse", "anonymous", ["load"], id="a change in a route that raises"),
    pytest.param("/refuse", "none", [], id="a new session in a route that raises"),
    pytest.param("/read", "idle anonymous", ["load", "save"], id="an extension"),
    pytest.param("/read", "idle signed in", ["load", "save"], id="an extension when signed in"),
    pytest.param("/change", "anonymous", ["load", "save"], id="a change"),
    pytest.param("/change", "signed in", ["load", "save"], id="a change when signed in"),
    pytest.param("/change", "idle anonymous", ["load", "save"], id="a change that extends"),
    pytest.param("/renew", "anonymous", ["load", "save"], id="a renewal"),
    pytest.param("/renew-and-change", "anonymous", ["load", "save"], id="a renewal with a change"),
    pytest.param("/change", "none", ["create"], id="a new session"),
    pytest.param("/change", "forged", ["create"], id="a new session after a forged cookie"),
    # the last load reads the revocation record
    pytest.param("/sign-in", "none", ["create", "load"], id="a sign-in"),
    pytest.param(
        "/sign-in", "anonymous", ["load", "save", "load"], id="a sign-in in an anonymous session"
    ),
    pytest.param(
        *("/sign-in-as-bob", "signed in", ["load", "create", "load", "delete", "create"]),
        id="a sign-in of another user",
    ),
    # what is created is no session: it says for a few minutes that one has ended
    pytest.param("/sign-out", "anonymous", ["load", "delete", "create"], id="a destroy"),
    pytest.param("/sign-out", "signed in", ["load", "delete", "create"], id="a sign-out"),
]


@pytest.mark.parametrize(("path", "cookie", "calls"), COSTS)
def test_a_request_takes_exactly_these_store_calls(
    harness: Harness, path: str, cookie: str, calls: list[str]
) -> None:
    """With a store in memory and with Redis."""
    assert harness.store_calls(path, cookie) == calls


@pytest.mark.parametrize("harness", ["redis"], indirect=True)
@pytest.mark.parametrize(("path", "cookie", "calls"), COSTS)
def test_each_store_call_is_one_redis_command_and_one_round_trip(
    harness: Harness, path: str, cookie: str, calls: list[str]
) -> None:
    """As counted by Redis and on the way to it, including what keeps the index of a user's
    sessions. To delete a session of a user takes two: only its record says in which index it is."""
    of_user = "signed in" in cookie and "delete" in calls
    assert harness.commands(path, cookie) == len(calls) + of_user
    assert harness.round_trips(path, cookie) == len(calls) + of_user


def test_a_withheld_cookie_costs_no_store_call(harness: Harness) -> None:
    """What the request changes is not stored."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "origin": OTHER}
    harness.store.calls.clear()
    assert harness.client.post("/change", headers=headers).status_code == 200
    assert harness.store.calls == []


@pytest.mark.parametrize("secrets", [[SECRET], [SECRET, OLDER_SECRET]], ids=["one", "two"])
def test_a_limit_costs_a_list_for_each_secret_and_the_deletes(secrets: list[str]) -> None:
    """The same holds for a list of devices; a revocation also writes for each secret that it has
    begun and ended."""
    clock, store = FrozenClock(), SpyStore(MemoryStore())
    options: dict[str, Any] = {"secret_key": secrets, "max_sessions_per_subject": 1}
    app = application(store, clock, **options)
    lists = ["find"] * len(secrets)
    with TestClient(app, base_url=ORIGIN) as client:
        harness = Harness(client, store, clock)
        assert harness.store_calls("/sign-in", "none") == ["create", "load", *lists]
        clock.advance(EXTENSION_IS_DUE)
        calls = harness.store_calls("/sign-in", "none")
        assert calls == ["create", "load", *lists, "delete"]
        assert harness.store_calls("/devices", "none") == lists
        for number, pages in ((1, 1), (0, 0)):
            store.calls.clear()
            assert client.post("/revoke-all").json() == number
            written = store.calls[: store.calls.index("delete_owned")]
            assert written == (["create"] if number else ["create", "load", "save"]) * len(secrets)
            assert store.calls.count("delete_owned") == len(secrets) + pages
            assert store.calls[-len(secrets) :] == ["save"] * len(secrets)


@pytest.mark.parametrize("conflicts", [1, 2, 3])
def test_each_conflict_costs_two_more_store_calls(harness: Harness, conflicts: int) -> None:
    """The save that is refused, and the load of the record to merge with."""
    calls = harness.store_calls("/change", "anonymous", conflicts)
    assert calls == ["load", "save"] + ["load", "save"] * conflicts


def test_an_extension_that_conflicts_is_not_tried_again(harness: Harness) -> None:
    """The request that was faster has extended the session as well."""
    assert harness.store_calls("/read", "idle anonymous", conflicts=1) == ["load", "save"]


def test_an_older_secret_costs_no_write_of_its_own() -> None:
    """A read leaves cookie and record as they are, so that a rotation of secrets does not rewrite
    the store; the next write renews both."""
    clock, inner = FrozenClock(), MemoryStore()
    cookies = []
    for keys in (OLDER_SECRET, [SECRET, OLDER_SECRET]):
        store = SpyStore(inner)
        with TestClient(application(store, clock, secret_key=keys), base_url=ORIGIN) as client:
            harness = Harness(client, store, clock)
            header = cookies[0] if cookies else harness.header_with("anonymous")
            store.calls.clear()
            cookies.append(harness.request("/read", header))
            assert store.calls == ["load"]
            cookies.append(harness.request("/change", header))
            assert store.calls == ["load", "load", "save"]
    assert cookies[0] == cookies[1] == cookies[2]
    assert cookies[2] != cookies[3]


async def test_concurrent_reads_share_commands(
    redis_server: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 32 concurrent reads the first is sent at once, and the others together, as MGET."""
    # a slow machine sends no more of them
    monkeypatch.setattr(_batcher, "_MAX_DELAY", 3600)
    clock = FrozenClock()
    store = RedisStore.from_url(redis_url, clock=clock)
    app = application(store, clock)
    cookies = [await _cookie_after(app, "/sign-in") for _ in range(32)]
    with redis_server.counted() as commands:
        answers = await asyncio.gather(
            *(call(app, "/read", method="POST", headers=[(b"cookie", each)]) for each in cookies)
        )
    await store.aclose()
    assert [status for status, _, _ in answers] == [200] * 32
    # two, or a few more where the reply comes before the next requests
    assert 2 <= commands["mget"] <= 8


async def test_data_are_parsed_and_dumped_no_more_often_than_needed() -> None:
    """A read takes one parse and one dump, and a second dump where another process has written the
    session. So does a change, whose types show that it is read back as it is. A route that does not
    use the data takes neither."""
    for path, cookie, loads, dumps in (
        ("/plain", "ours", 0, 0),
        ("/who", "none", 0, 0),
        ("/who", "another's", 1, 1),
        ("/who", "ours", 0, 0),
        ("/renew", "ours", 1, 0),
        ("/read", "ours", 1, 1),
        ("/read", "another's", 1, 2),
        ("/assign-equal", "ours", 1, 1),
        ("/change", "ours", 1, 1),
        ("/change", "another's", 1, 2),
    ):
        calls = await _calls(path, cookie)
        assert (calls["Codec.load"], calls["Codec.dump"]) == (loads, dumps), (path, cookie)


async def _calls(path: str, cookie: str) -> Counter[str]:
    clock = FrozenClock()
    store = MemoryStore(clock=clock)
    app = application(store, clock)
    writer = application(store, clock) if cookie == "another's" else app
    headers = [] if cookie == "none" else [(b"cookie", await _cookie_after(writer, "/change"))]
    calls: Counter[str] = Counter()

    def count(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        # comprehensions are calls in some versions of Python and not in others
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name[0] != "<":
            calls[code.co_qualname] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        status, _, _ = await call(app, path, method="POST", headers=headers)
    finally:
        sys.setprofile(before)
    assert status == 200
    return calls


async def _cookie_after(app: FastAPI, path: str) -> bytes:
    _, headers, _ = await call(app, path, method="POST")
    return dict(headers)[b"set-cookie"].partition(b";")[0]
