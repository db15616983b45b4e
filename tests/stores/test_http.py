"""HTTPStore and its service: the contract over a real socket, and a failing network."""

import asyncio
import importlib
import logging
import re
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from fastapi_async_sessions._core.bounded import BoundedStore
from fastapi_async_sessions.errors import ConfigurationError, StoreUnavailable
from fastapi_async_sessions.events import Events
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.base import Store
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import FrozenClock, StoreContract
from tests.servers.asgi import serve
from tests.servers.proxy import Proxy
from tests.servers.waits import until

TOKEN = "t0ken-of-more-than-thirty-two-characters"
KEY = "ab" * 32
HOUR = timedelta(hours=1)


def patient_store(url, **options):
    """A store for tests that are not about time: a busy machine does not make their calls late."""
    return HTTPStore(url, token=TOKEN, timeout=timedelta(minutes=1), **options)


class TestContractBeforeMemory(StoreContract):
    """A service that keeps sessions in memory."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls):
        cls.clock = FrozenClock()
        backing = MemoryStore(clock=lambda: cls.clock())
        with serve(session_service(backing, token=TOKEN)) as cls.url:
            yield

    def make_store(self, clock):
        type(self).clock = clock
        return patient_store(self.url, clock=clock)


@pytest.mark.slow
class TestContractBeforeSQL(StoreContract):
    """A service that keeps sessions in a SQLite file."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls, tmp_path_factory):
        cls.clock = FrozenClock()
        url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('sql')}/sessions.db"
        backing = SQLStore.from_url(url, create_table=True, clock=lambda: cls.clock())
        with serve(session_service(backing, token=TOKEN)) as cls.url:
            yield

    def make_store(self, clock):
        type(self).clock = clock
        return patient_store(self.url, clock=clock)


@pytest.fixture
def backing():
    """The store that the service of a test keeps its sessions in."""
    return MemoryStore()


@pytest.fixture
def service(backing):
    """The base URL of a running service."""
    with serve(session_service(backing, token=TOKEN)) as url:
        yield url


@asynccontextmanager
async def opened(url, **options):
    store = HTTPStore(url, **{"token": TOKEN, "timeout": timedelta(minutes=1), **options})
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def through_a_proxy(url, **options):
    async with Proxy(url) as proxy, opened(proxy.url, **options) as store:
        yield store, proxy


@asynccontextmanager
async def answering(response):
    """A store whose service gives one response to every request, and the list of requests."""
    requests = []

    async def app(scope, receive, send):
        requests.append(scope["path"])
        await response(scope, receive, send)

    async with opened("http://localhost", transport=httpx.ASGITransport(app)) as store:
        yield store, requests


def a_record(**changes):
    record = Record(b"body", new_version(), "user:42", datetime.now(UTC) + HOUR)
    return replace(record, **changes)


async def every_call(store, key=KEY):
    """Call each verb that takes a key, and return the results or errors in order."""
    record = a_record()
    calls = [
        store.create(key, record),
        store.load(key),
        store.save(key, record, replaces="1"),
        store.delete(key),
    ]
    return await asyncio.gather(*calls, return_exceptions=True)


async def the_other_calls(store):
    """Call the verbs that take no key, and return the results or errors."""
    calls = (store.find("user:42", 1), store.delete_owned("user:42"), store.count(), store.purge())
    return await asyncio.gather(*calls, store.clear(), return_exceptions=True)


# what is sent


@pytest.mark.parametrize(
    ("owner", "sent"),
    [("0f-A_9", "0f-A_9"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("%2e", "%252e"), ("é", "%C3%A9")],
)
async def test_an_owner_is_one_segment_of_a_path(owner, sent):
    """As it is where that is safe; otherwise quoted so that decoding it once leaves it quoted."""
    answer = PlainTextResponse('{"count": 0}', headers={"Session-Service": "1"})
    async with answering(answer) as (store, requests):
        await store.delete_owned(owner)
    assert requests == [f"/owners/{sent}/sessions"]


async def test_a_key_to_keep_cannot_become_another_query():
    """Whatever it holds is quoted."""
    requests = []

    async def app(scope, receive, send):
        requests.append(scope["query_string"])
        await PlainTextResponse('{"count": 0}', headers={"Session-Service": "1"})(
            scope, receive, send
        )

    async with opened("http://localhost", transport=httpx.ASGITransport(app)) as store:
        await store.delete_owned("a", keep="x&keep=y#")
    assert requests == [b"keep=x%26keep%3Dy%23"]


async def test_versions_of_any_characters_are_compared_exactly(service):
    """They are quoted in an entity tag."""
    async with opened(service) as store:
        await store.create(KEY, a_record(version='a "b" \\ %20 é,W/'))
        assert not await store.save(KEY, a_record(), replaces='a "b" \\ %20 e,W/')
        assert await store.save(KEY, a_record(), replaces='a "b" \\ %20 é,W/')


async def test_the_largest_record_fits(service):
    """One mebibyte."""
    record = a_record(body=bytes(2**20), owner="u" * 400)
    async with opened(service) as store:
        assert await store.create(KEY, record)
        assert await store.load(KEY) == record
        assert await store.find("u" * 400) == [(KEY, record)]


@pytest.mark.parametrize("key", ["..", "../purge", "", "AB" * 32, "ab" * 32 + "\n", "ab" * 33])
async def test_an_invalid_key_is_never_sent(key):
    """It cannot become a different path."""
    async with answering(Response()) as (store, requests):
        for error in await every_call(store, key):
            assert isinstance(error, ValueError)
        assert requests == []


async def test_a_session_also_ends_by_the_clock_of_the_client(service):
    """A service whose clock is slow does not prolong it."""
    record = a_record()
    async with opened(service) as store, opened(service, clock=lambda: record.expires_at) as late:
        await store.create(KEY, record)
        assert await store.load(KEY) == record
        assert await late.load(KEY) is None
        assert await late.find("user:42") == []


async def test_a_store_works_again_after_it_was_closed(service):
    """As with a second lifespan in tests, even in another event loop."""
    store = HTTPStore(service, token=TOKEN, timeout=timedelta(minutes=1))
    for _ in range(2):
        assert await store.load(KEY) is None
        await store.aclose()
    await store.aclose()


# the service without HTTPStore


@asynccontextmanager
async def client_of(backing, token=TOKEN):
    transport = httpx.ASGITransport(session_service(backing, token=TOKEN))
    headers = {"Authorization": f"Bearer {token}".encode("latin-1")}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://service", headers=headers
    ) as client:
        yield client


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "é" * 40, "\xff\xfe"])
async def test_a_wrong_token_is_refused(backing, token):
    """On every path, before anything is read."""
    await backing.create(KEY, a_record())
    async with client_of(backing, token) as client:
        calls = [
            client.get(f"/sessions/{KEY}"),
            client.put(f"/sessions/{KEY}"),
            client.delete(f"/sessions/{KEY}"),
            client.get(f"/owners/{KEY}/sessions"),
            client.post("/purge"),
        ]
        replies = await asyncio.gather(*calls)
    assert {reply.status_code for reply in replies} == {401}
    assert replies[0].headers["WWW-Authenticate"] == "Bearer"
    assert await backing.load(KEY)


async def test_a_missing_token_is_refused(backing):
    """So is another scheme."""
    async with client_of(backing) as client:
        for headers in ({"Authorization": ""}, {"Authorization": f"Basic {TOKEN}"}):
            assert (await client.get(f"/sessions/{KEY}", headers=headers)).status_code == 401


async def test_a_store_with_another_token_is_unavailable(service):
    """The reason says so, without the token."""
    async with opened(service, token="x" * 32) as store:
        for error in await every_call(store):
            assert isinstance(error, StoreUnavailable)
            assert error.reason == "the session service answered 401: it was given another token"


async def test_the_openapi_document_names_the_paths_and_the_scheme(backing):
    """A client in another language can be written from it."""
    document = session_service(backing, token=TOKEN).openapi()
    operations = {
        (method, path) for path, methods in document["paths"].items() for method in methods
    }
    assert operations == {
        ("get", "/sessions/{key}"),
        ("put", "/sessions/{key}"),
        ("delete", "/sessions/{key}"),
        ("delete", "/sessions"),
        ("get", "/owners/{owner}/sessions"),
        ("delete", "/owners/{owner}/sessions"),
        ("get", "/count"),
        ("post", "/purge"),
    }
    [scheme] = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, method in (("/sessions/{key}", "put"), ("/purge", "post")):
        assert document["paths"][path][method]["security"] == [{"HTTPBearer": []}]
    assert "expires_at" in str(document["paths"]["/sessions/{key}"]["put"]["requestBody"])


async def wire(client, key=KEY):
    return (await client.get(f"/sessions/{key}")).json()


async def test_the_version_of_a_session_is_its_entity_tag(backing):
    """Caches on the way are told not to keep a copy."""
    await backing.create(KEY, a_record(version="v1", owner=None))
    async with client_of(backing) as client:
        reply = await client.get(f"/sessions/{KEY}")
    assert reply.headers["ETag"] == '"v1"'
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.json()["key"] == KEY


async def test_a_write_needs_a_condition(backing):
    """An unconditional PUT would overwrite changes that its sender has not read."""
    await backing.create(KEY, a_record(version="v1", owner=None))
    async with client_of(backing) as client:
        session = await wire(client)
        for headers, status in (
            ({}, 428),
            ({"If-None-Match": '"v1"'}, 428),
            ({"If-Match": "v1"}, 400),
            ({"If-Match": "*"}, 400),
            ({"If-Match": 'W/"v1"'}, 400),
            ({"If-Match": '"v1", "v2"'}, 400),
            ({"If-Match": '"v2"'}, 412),
        ):
            reply = await client.put(
                f"/sessions/{KEY}", json={**session, "version": "v9"}, headers=headers
            )
            assert (headers, reply.status_code) == (headers, status)
    assert (await backing.load(KEY)).version == "v1"


@pytest.mark.parametrize(
    "change",
    [
        {"key": "cd" * 32},
        {"key": "x"},
        {"version": ""},
        {"version": "v" * 513},
        {"owner": ""},
        {"owner": "u" * 401},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": "soon"},
        {"body": "*"},
        {"body": None},
    ],
)
async def test_an_invalid_session_is_refused(backing, change):
    """Nothing is stored."""
    await backing.create(KEY, a_record(owner=None))
    async with client_of(backing) as client:
        session = await wire(client)
        await backing.clear()
        reply = await client.put(
            f"/sessions/{KEY}", json={**session, **change}, headers={"If-None-Match": "*"}
        )
    assert reply.status_code == 400
    assert await backing.load(KEY) is None


async def test_an_invalid_key_in_a_path_is_refused(backing):
    """The store is not called."""
    async with client_of(backing) as client:
        for key in ("AB" * 32, "ab", "ab" * 33, "%2e%2e", "ab" * 32 + "%0a"):
            assert (await client.get(f"/sessions/{key}")).status_code == 422
            owned = "/owners/ada/sessions"
            assert (await client.delete(f"{owned}?keep={key}")).status_code == 422


async def test_a_large_request_is_refused_while_it_is_read(backing):
    """The rest of it is not read."""
    sent = 0

    async def eight_megabytes():
        nonlocal sent
        for _ in range(128):
            sent += 1
            yield bytes(2**16)

    async with client_of(backing) as client:
        reply = await client.put(f"/sessions/{KEY}", content=eight_megabytes())
    assert reply.status_code == 413
    assert sent < 40


class Failing(Store):
    """A store whose every verb fails."""

    async def fail(self, *args, **kwargs):
        raise StoreUnavailable("down", retry_after=7)

    create = load = save = delete = find = delete_owned = count = purge = clear = fail


async def test_a_failing_store_behind_the_service_says_why_and_when_to_retry():
    """The client passes on its reason and its Retry-After."""
    with serve(session_service(Failing(), token=TOKEN)) as url:
        async with opened(url) as store:
            for error in [*await every_call(store), *await the_other_calls(store)]:
                assert isinstance(error, StoreUnavailable)
                assert error.retry_after == 7
                assert error.reason == (
                    "the session service answered 503: its store is unavailable: down"
                )


async def test_the_service_opens_and_closes_its_store():
    """In its own lifespan."""
    seen = []

    class Watched(MemoryStore):
        async def open(self):
            seen.append("open")

        async def aclose(self):
            seen.append("close")

    with serve(session_service(Watched(), token=TOKEN)):
        assert seen == ["open"]
    assert seen == ["open", "close"]


# other servers, and a failing network


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (HTMLResponse("<h1>It works!</h1>"), "answered 200, but not as a session service"),
        (PlainTextResponse("no", 404), "answered 404, but not as a session service"),
        (PlainTextResponse("no", 412), "answered 412"),
        (Response(status_code=204), "answered 204"),
        (PlainTextResponse("no", 401), "it was given another token"),
        (PlainTextResponse("no", 403), "answered 403"),
        (PlainTextResponse("no", 413), "client_max_body_size"),
        (PlainTextResponse("oops", 500), "answered 500: see its log"),
        (PlainTextResponse("no", 502), "a proxy in front of it"),
        (PlainTextResponse("no", 503), "answered 503"),
        (PlainTextResponse("no", 504), "a proxy in front of it"),
        (RedirectResponse("http://169.254.169.254/"), "answered 307, a redirect"),
        (RedirectResponse("http://169.254.169.254/", 302), "answered 302, a redirect"),
        (Response("[", 200, {"Session-Service": "1"}), "something other than sessions"),
        (Response(b"\x1f\x8b", 200, {"Session-Service": "1"}), "something other than sessions"),
        (Response("<p>", 503, {"Session-Service": "1"}), "something other than sessions"),
        (Response(bytes(2**26 + 1), 200, {"Session-Service": "1"}), "responded with more than"),
    ],
)
async def test_an_answer_from_another_server_is_unavailable(response, reason):
    """It is taken neither for a missing session nor for a conflict, and redirects are ignored."""
    async with answering(response) as (store, requests):
        errors = [*await every_call(store), *await the_other_calls(store)]
        assert len(requests) == len(errors)
    for error in errors[1:2] if "than" in reason else errors:
        assert isinstance(error, StoreUnavailable)
        assert reason in error.reason
        assert error.__cause__ is None
        assert error.__context__ is None


@pytest.mark.parametrize(
    ("value", "seconds"), [("9", 9), ("-1", 1), ("soon", 1), ("9" * 5000, 1), ("", 1)]
)
async def test_a_busy_service_says_when_to_retry(value, seconds):
    """Retry-After is used if it is in seconds; otherwise it is one second."""
    for status in (429, 503):
        busy = Response(status_code=status, headers={"Retry-After": value})
        async with answering(busy) as (store, _):
            with pytest.raises(StoreUnavailable) as raised:
                await store.load(KEY)
            assert raised.value.retry_after == seconds


async def test_a_session_under_another_key_is_refused():
    """A faulty cache on the way cannot give one user's session to another."""
    backing = MemoryStore()
    await backing.create("cd" * 32, a_record(owner=None))
    service = session_service(backing, token=TOKEN)

    async def confused(scope, receive, send):
        await service({**scope, "path": f"/sessions/{'cd' * 32}"}, receive, send)

    async with opened("http://localhost", transport=httpx.ASGITransport(confused)) as store:
        with pytest.raises(StoreUnavailable, match="another session"):
            await store.load(KEY)


async def test_a_write_whose_reply_was_lost_is_recognised(service):
    """It is sent again with the same condition, and finds that it was done."""
    async with through_a_proxy(service) as (store, proxy):
        record, newer = a_record(), a_record()
        proxy.lose_replies = 1
        assert await store.create(KEY, record)
        proxy.lose_replies = 1
        assert await store.save(KEY, newer, replaces=record.version)
        assert await store.load(KEY) == newer
        assert proxy.lose_replies == 0


async def test_a_broken_connection_is_replaced(service):
    """The next call succeeds."""
    async with through_a_proxy(service) as (store, proxy):
        await store.load(KEY)
        proxy.cut()
        assert await store.load(KEY) is None


async def test_a_request_is_sent_once_more_on_a_new_connection(service):
    """A server that closes one idle connection may be closing the others too."""
    async with through_a_proxy(service) as (store, proxy):
        await asyncio.gather(*(store.load(KEY) for _ in range(4)))
        assert proxy.connections == 4
        proxy.lose_replies = 1
        await store.load(KEY)
        assert proxy.connections == 5


@pytest.mark.parametrize("make_transport", [lambda: None, httpx.AsyncHTTPTransport])
async def test_a_request_is_sent_twice_at_most(service, make_transport):
    """Then the call fails, also with a transport of the application."""
    async with through_a_proxy(service, transport=make_transport()) as (store, proxy):
        proxy.lose_replies = 100
        with pytest.raises(StoreUnavailable):
            await store.load(KEY)
        assert proxy.lose_replies == 98
        proxy.lose_replies = 0
        assert await store.load(KEY) is None


async def test_a_call_to_a_silent_service_times_out(service):
    """The timeout is for the whole call; the reason names the call, and the next one succeeds."""
    async with through_a_proxy(service, timeout=timedelta(seconds=0.5)) as (store, proxy):
        proxy.pause()
        started = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable) as raised:
            await store.load(KEY)
        assert raised.value.reason == "GET /sessions at 127.0.0.1 took longer than 0.5 seconds"
        assert asyncio.get_running_loop().time() - started < 10
        proxy.resume()
        store._timeout = timedelta(minutes=1)  # a busy machine may need more than half a second
        assert await store.load(KEY) is None


async def test_a_call_whose_answer_comes_in_drops_times_out():
    """The timeout is not for each piece of the answer but for all of them together."""

    async def drip(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await asyncio.sleep(0.01)
            await send({"type": "http.response.body", "body": b" ", "more_body": True})

    transport = httpx.ASGITransport(drip)
    async with opened(
        "http://localhost", transport=transport, timeout=timedelta(seconds=0.1)
    ) as store:
        with pytest.raises(StoreUnavailable, match=r"took longer than 0\.1 seconds"):
            await store.load(KEY)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda store: store.load(KEY), "GET /sessions"),
        (lambda store: store.save(KEY, a_record(), replaces="1"), "PUT /sessions"),
        (lambda store: store.delete(KEY), "DELETE /sessions"),
        (lambda store: store.find(KEY), "GET /owners"),
        (lambda store: store.delete_owned(KEY), "DELETE /owners"),
    ],
)
async def test_a_call_that_the_provider_gives_up_is_named(call, named):
    """By default its ``store_timeout`` is as long, and ends first. The key is not repeated."""

    async def wait(scope, receive, send):
        await asyncio.Event().wait()

    async with opened(
        "http://localhost", transport=httpx.ASGITransport(wait), timeout=timedelta(minutes=1)
    ) as store:
        bounded = BoundedStore(store, timedelta(seconds=0.01), Events("session", None))
        with pytest.raises(StoreUnavailable) as raised:
            await call(bounded)
    assert raised.value.reason == f"no answer within 0.01 seconds: {named} at localhost"


async def test_a_service_that_does_not_say_when_to_retry_sends_no_header():
    """``retry_after=None``: another try could do a write twice."""

    class Unknown(MemoryStore):
        async def load(self, key):
            raise StoreUnavailable("unknown", retry_after=None)

    transport = httpx.ASGITransport(session_service(Unknown(), token=TOKEN))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get(f"/sessions/{KEY}", headers=headers)
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, None)


async def test_a_cancelled_call_is_cancelled(service):
    """Its connection is dropped, so that the next call does not get its answer."""
    async with through_a_proxy(service) as (store, proxy):
        record = a_record()
        await store.create(KEY, record)
        proxy.pause()
        load = asyncio.create_task(store.load("cd" * 32))
        await asyncio.sleep(0)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        proxy.resume()
        assert await store.load(KEY) == record


@pytest.mark.parametrize("broken", [0, 1])
async def test_a_call_that_is_cancelled_at_any_point_leaves_no_connection(service, broken):
    """Neither of the first attempt nor of the second."""
    async with through_a_proxy(service) as (store, proxy):
        for steps in range(100):
            proxy.lose_replies = broken
            load = asyncio.create_task(store.load(KEY))
            for _ in range(steps):
                await asyncio.sleep(0)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        proxy.lose_replies = 0
        assert await store.load(KEY) is None
        await asyncio.to_thread(until, lambda: proxy.open <= 1, within=60, what="the others closed")


async def test_a_hundred_calls_are_made_at_once():
    """The others wait for their turn."""
    service = session_service(MemoryStore(), token=TOKEN)
    at_once = []

    async def counting(scope, receive, send):
        at_once.append(at_once[-1] + 1 if at_once else 1)
        await asyncio.sleep(0.001)
        await service(scope, receive, send)
        at_once.append(at_once[-1] - 1)

    async with opened("http://localhost", transport=httpx.ASGITransport(counting)) as store:
        await asyncio.gather(*(store.load(f"{number:064x}") for number in range(300)))
    assert max(at_once) == 100


async def test_calls_that_are_cancelled_hold_up_no_others():
    """Even if the service never answers them."""
    service = session_service(MemoryStore(), token=TOKEN)

    async def silent_for_some(scope, receive, send):
        if scope["path"] != f"/sessions/{KEY}":
            await asyncio.Event().wait()
        await service(scope, receive, send)

    transport = httpx.ASGITransport(silent_for_some)
    async with opened("http://localhost", transport=transport) as store:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.gather(*(store.load(f"{number:064x}") for number in range(300)))
        async with asyncio.timeout(30):
            assert await store.load(KEY) is None


async def test_a_call_that_fails_after_its_caller_has_gone_is_not_logged(lost_errors):
    """asyncio would log its error with a traceback."""
    called, ended = asyncio.Event(), asyncio.Event()

    class Failing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            called.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
                raise ZeroDivisionError

    async with opened("http://localhost", transport=Failing()) as store:
        load = asyncio.create_task(store.load(KEY))
        await called.wait()
        load.cancel()
        await asyncio.wait([load])
        await ended.wait()
    del load
    assert lost_errors() == []


async def test_a_transport_of_the_application_is_closed_once(service):
    """Although it also sends a request once more."""
    closed = []

    class Transport(httpx.AsyncHTTPTransport):
        async def aclose(self):
            closed.append(self)
            await super().aclose()

    async with opened(service, transport=Transport()) as store:
        assert await store.load(KEY) is None
    assert len(closed) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://127.0.0.1:1"])
async def test_a_service_that_is_down_is_unavailable(url):
    """The error names the host and the kind of the call, and shows neither key nor token."""
    async with opened(url) as store:
        for error in [*await every_call(store), *await the_other_calls(store)]:
            assert isinstance(error, StoreUnavailable)
            assert re.match("[A-Z]+ /[a-z]+ at 127.0.0.1 failed: ConnectError", error.reason)
            assert KEY not in error.reason
            assert error.__cause__ is None
            assert error.__context__ is None


async def test_tls_that_cannot_be_verified_is_unavailable(service):
    """Nothing is sent over a connection that cannot be verified."""
    async with opened(service.replace("http", "https")) as store:
        with pytest.raises(StoreUnavailable, match="SSLError"):
            await store.load(KEY)


async def test_proxies_and_credentials_of_the_environment_are_not_used(
    service, monkeypatch, tmp_path
):
    """Sessions go to the base URL and nowhere else."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password pa55word")
    monkeypatch.setenv("NETRC", str(netrc))
    async with opened(service) as store:
        assert await store.create(KEY, a_record())


async def test_cookies_of_the_service_are_not_kept():
    """Of the credentials, only the token is sent."""
    cookies = []

    async def app(scope, receive, send):
        cookies.extend(value for name, value in scope["headers"] if name == b"cookie")
        response = Response(status_code=404, headers={"Session-Service": "1"})
        response.set_cookie("a", "b")
        await response(scope, receive, send)

    async with opened("http://localhost", transport=httpx.ASGITransport(app)) as store:
        await store.load(KEY)
        await store.load(KEY)
    assert cookies == []


async def test_the_token_is_never_shown(service, caplog):
    """It is in no log line and no repr, on either end."""
    caplog.set_level(logging.DEBUG)
    async with opened(service) as store:
        await every_call(store)
        assert TOKEN not in f"{store!r} {vars(store)}"
    assert f"/sessions/{KEY}" in caplog.text
    assert TOKEN not in caplog.text


# configuration


@pytest.mark.parametrize(
    "url",
    [
        "http://sessions.example.com",
        "http://10.0.0.5:8000",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "https://",
        "sessions.example.com",
        "ftp://localhost",
        "https://me:pa55word@sessions.example.com",
        "https://sessions.example.com/?a=b",
        "https://sessions.example.com/#a",
        "https://[::",
        "",
    ],
)
def test_the_base_url_is_safe(url):
    """https, or this machine; and no password, which would end up in a log."""
    with pytest.raises(ConfigurationError, match="HTTPStore takes a base URL") as raised:
        HTTPStore(url, token=TOKEN)
    assert "pa55word" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://sessions.example.com/prefix/",
        "http://localhost:8000",
        "http://127.0.0.2",
        "http://[::1]:80",
    ],
)
def test_plain_http_is_allowed_on_this_machine(url):
    """Elsewhere others could read the token."""
    HTTPStore(url, token=SecretStr(TOKEN))


@pytest.mark.parametrize("token", ["", "short", "x" * 31, "é" * 40, "with spaces " * 9])
def test_a_weak_token_is_refused_at_both_ends(token):
    """The error says how to make a token, and does not repeat this one."""
    for make in (
        lambda: HTTPStore("https://sessions.example.com", token=token),
        lambda: session_service(MemoryStore(), token=token),
    ):
        with pytest.raises(ConfigurationError, match="token_urlsafe") as raised:
            make()
        assert not token or token not in str(raised.value)


async def test_a_base_url_may_have_a_path():
    """The service may be mounted in another application."""
    async with answering(Response(status_code=404, headers={"Session-Service": "1"})) as (
        store,
        requests,
    ):
        prefixed = HTTPStore("http://localhost/a/b", token=TOKEN, transport=store._transport)
        assert await prefixed.load(KEY) is None
        await prefixed.aclose()
    assert requests == [f"/a/b/sessions/{KEY}"]


def test_a_timeout_is_positive():
    """With a timeout of zero every call would fail."""
    with pytest.raises(ConfigurationError, match="timeout"):
        HTTPStore("https://sessions.example.com", token=TOKEN, timeout=timedelta(0))


def test_a_missing_httpx_says_how_to_install_it(monkeypatch):
    """Importing the module fails, which is the only one that needs it."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "fastapi_async_sessions.stores.http")
    with pytest.raises(ConfigurationError, match=r"fastapi_async_sessions\[http\]"):
        importlib.import_module("fastapi_async_sessions.stores.http")


def test_the_service_does_not_need_httpx(monkeypatch):
    """Only its client does."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "fastapi_async_sessions.stores.http")
    monkeypatch.delitem(sys.modules, "fastapi_async_sessions.stores.service")
    service = importlib.import_module("fastapi_async_sessions.stores.service")
    assert service.session_service(MemoryStore(), token=TOKEN).title == "Session service"
