"""Requests that come without the session that their browser has by now change nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse

from fastapi_async_sessions import (
    CookieConfig,
    Session,
    SessionConflict,
    SessionEvent,
    SignInRequired,
    StoreUnavailable,
)
from fastapi_async_sessions.testing import FrozenClock

from .apps import (
    COOKIE,
    Data,
    Line,
    browser,
    call,
    connect,
    cookie_value,
    make_app,
    make_provider,
    set_cookie_kind,
)
from .doubles import SpyStore, StoreCall, failing, pass_on
from .races import Client, opened_store

MINUTE = timedelta(minutes=1)
CROSS_SITE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
CROSS_SITE_LINK = {
    "sec-fetch-site": "cross-site",
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
}


@pytest.fixture(
    params=[
        "memory",
        "redis",
        pytest.param("sqlite", marks=pytest.mark.slow),
        pytest.param("postgresql", marks=pytest.mark.slow),
    ]
)
async def store(request: pytest.FixtureRequest, clock: FrozenClock) -> AsyncIterator[SpyStore]:
    """An open store of each kind, which records its calls."""
    async with opened_store(request.param, clock, request) as opened:
        yield SpyStore(opened)


def make_site(store: Any, clock: FrozenClock, events: list[SessionEvent], **options: Any) -> Any:
    """Routes that each do one thing to the session, and what the request saw of it."""
    get_session = make_provider(
        store,
        clock=clock,
        on_event=events.append,
        trusted_origins=["https://other.test"],
        **options,
    )
    app = make_app()
    app.state.get_session = get_session
    MySession = Annotated[Session[Data], Depends(get_session)]

    def seen(session: Session[Data]) -> dict[str, Any]:
        return {
            "subject": session.subject,
            "count": session.data.count,
            "new": session.is_new,
            "detached": session.is_detached,
        }

    @app.get("/")
    async def read(session: MySession) -> Any:
        return seen(session)

    @app.post("/change")
    @app.get("/change")
    async def change(session: MySession) -> Any:
        session.data.count += 1
        return seen(session)

    @app.post("/stream")
    async def stream(session: MySession) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield f"{session.data.count}"

        session.data.count += 1
        return StreamingResponse(lines(), headers={"detached": str(session.is_detached)})

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, session: MySession) -> None:
        await websocket.accept()
        session.data.count += 1
        await session.commit()
        await websocket.send_json(seen(session))

    @app.post("/begin")
    async def begin_sign_in(session: MySession) -> None:
        session.data.lines = [Line(name="begun")]

    @app.post("/complete/{user}")
    async def complete_sign_in(session: MySession, user: str) -> Any:
        if session.data.lines:
            session.renew(subject=user)
        return seen(session)

    @app.post("/sign-in/{user}")
    async def sign_in(session: MySession, user: str) -> Any:
        session.renew(subject=user)
        return seen(session)

    @app.post("/sign-in-and-out")
    async def sign_in_and_out(session: MySession) -> Any:
        session.renew(subject="ada")
        await session.commit()
        signed_in = seen(session)
        await session.destroy()
        return signed_in

    @app.post("/step-up")
    async def step_up(session: MySession) -> Any:
        session.renew()
        return seen(session)

    @app.post("/sign-out")
    async def sign_out(session: MySession) -> Any:
        await session.destroy()
        return seen(session)

    @app.post("/unbind")
    async def unbind(session: MySession) -> Any:
        session.renew(subject=None)
        return seen(session)

    @app.post("/unbind-and-change")
    async def unbind_and_change(session: MySession) -> Any:
        session.renew(subject=None)
        session.data.count += 1
        return seen(session)

    @app.post("/unbind-and-fail")
    async def unbind_and_fail(session: MySession) -> None:
        session.renew(subject=None)
        raise HTTPException(409)

    @app.get("/mine", dependencies=[Depends(get_session.signed_in(within=30 * MINUTE))])
    async def mine() -> None:
        pass

    @app.exception_handler(SignInRequired)
    async def refuse(_: Any, error: SignInRequired) -> Any:
        return JSONResponse({"reason": error.reason}, 401)

    return app


def kinds(events: list[SessionEvent]) -> list[str]:
    return [event.kind for event in events]


async def sent_late(app: FastAPI, cookie: str, path: str = "/change") -> httpx.Response:
    """A request of the same browser that carries the cookie which it held when it was sent."""
    return await browser(app, cookie).post(path)


async def post_late(
    app: FastAPI, client: httpx.AsyncClient, late: "Late", path: str
) -> httpx.Response:
    """Send a late request of a browser, which then takes the cookie of the response."""
    response = await browser(app).post(path, headers=late.headers)
    client.cookies.extract_cookies(response)
    return response


class Late(NamedTuple):
    """A request without the session that its browser has by now, and the event that tells of it."""

    headers: dict[str, str]
    event: str


async def outdated(app: FastAPI, client: httpx.AsyncClient) -> Late:
    """It was sent before a step-up."""
    cookie = cookie_value(await client.post("/sign-in/ada"))
    await client.post("/step-up")
    return Late({"cookie": f"{COOKIE}={cookie}"}, "outdated_token")


async def ended(app: FastAPI, client: httpx.AsyncClient) -> Late:
    """It was sent before a sign-out and another sign-in."""
    cookie = cookie_value(await client.post("/sign-in/ada"))
    await client.post("/sign-out")
    await client.post("/sign-in/ada")
    return Late({"cookie": f"{COOKIE}={cookie}"}, "ended_elsewhere")


async def withheld(app: FastAPI, client: httpx.AsyncClient) -> Late:
    """It comes from another site."""
    await client.post("/sign-in/ada")
    return Late({"origin": "https://other.test", **CROSS_SITE}, "cookie_withheld")


async def ambiguous(app: FastAPI, client: httpx.AsyncClient) -> Late:
    """Another cookie was planted beside the user's own."""
    mine = cookie_value(await client.post("/sign-in/ada"))
    planted = cookie_value(await browser(app).post("/sign-in/eve"))
    return Late({"cookie": f"{COOKIE}={mine}; {COOKIE}={planted}"}, "ambiguous_cookie")


Case = Callable[[FastAPI, httpx.AsyncClient], Awaitable[Late]]
CASES = [outdated, ended, withheld, ambiguous]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channel", ["route", "stream", "websocket"])
async def test_a_detached_request_changes_nothing(
    store: SpyStore,
    clock: FrozenClock,
    case: Case,
    channel: str,
) -> None:
    """What it changes is not stored, it sends no cookie, one event tells of it, and afterwards the
    user is still signed in."""
    events: list[SessionEvent] = []
    app = make_site(store, clock, events)
    client = browser(app)
    late = await case(app, client)
    before, headers = (
        await store.records(),
        [(name.encode(), value.encode()) for name, value in late.headers.items()],
    )
    events.clear()
    if channel == "websocket":
        sent = await connect(app, "/socket", headers=headers)
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send"]
        assert '"count":1,"new":true,"detached":true' in sent[1]["text"]
        received = list(sent[0].get("headers", []))
    else:
        path = "/change" if channel == "route" else "/stream"
        status, received, body = await call(app, path, method="POST", headers=headers)
        assert status == 200
        seen = b'"detached":true' if channel == "route" else b"1"
        assert seen in body
    assert [name for name, _ in received if name == b"set-cookie"] == []
    assert kinds(events) == [late.event]
    assert await store.records() == before
    answer = (await client.get("/")).json()
    assert (answer["subject"], answer["count"], answer["detached"]) == ("ada", 0, False)


@pytest.mark.parametrize("case", CASES)
async def test_a_sign_out_in_a_detached_request_signs_the_browser_out(
    store: SpyStore, clock: FrozenClock, case: Case
) -> None:
    """``renew(subject=None)`` removes the cookie that the browser may hold by now, as ``destroy()``
    does, and with an outdated token it ends that session."""
    events: list[SessionEvent] = []
    app = make_site(store, clock, events)
    client = browser(app)
    late = await case(app, client)
    live = client.cookies[COOKIE]
    events.clear()
    response = await post_late(app, client, late, "/unbind")
    assert response.json() == {"subject": None, "count": 0, "new": True, "detached": True}
    assert set_cookie_kind(response) == "removed"
    assert kinds(events) == [late.event, *(["destroyed"] if case is outdated else [])]
    assert (await client.get("/")).json()["subject"] is None
    stored = (await browser(app, live).get("/")).json()["subject"]
    assert stored == (None if case is outdated else "ada")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("path", "cookie"), [("/step-up", None), ("/sign-in/bob", "sent")])
async def test_only_a_sign_out_in_a_detached_request_ends_the_browsers_session(
    store: SpyStore, clock: FrozenClock, case: Case, path: str, cookie: str | None
) -> None:
    """``renew()`` leaves it and its cookie alone, and a sign-in replaces the cookie only."""
    app = make_site(store, clock, [])
    client = browser(app)
    late = await case(app, client)
    live = client.cookies[COOKIE]
    response = await post_late(app, client, late, path)
    assert set_cookie_kind(response) == cookie
    assert (await browser(app, live).get("/")).json()["subject"] == "ada"


@pytest.mark.parametrize("case", CASES)
async def test_a_sign_in_that_was_committed_is_not_detached_any_more(
    store: SpyStore, clock: FrozenClock, case: Case
) -> None:
    """The same route may then end it as any other session."""
    app = make_site(store, clock, [])
    client = browser(app)
    late = await case(app, client)
    response = await post_late(app, client, late, "/sign-in-and-out")
    assert response.json() == {"subject": "ada", "count": 0, "new": True, "detached": False}
    assert set_cookie_kind(response) == "removed"


@pytest.mark.parametrize("path", ["/step-up", "/unbind", "/sign-in/ada", "/sign-in/bob"])
async def test_whatever_renewed_the_session_a_request_from_before_it_is_detached(
    store: SpyStore, clock: FrozenClock, path: str
) -> None:
    """A step-up, a sign-out that keeps the data, another sign-in; after five minutes it is not."""
    app = make_site(store, clock, [])
    client = browser(app)
    cookie = cookie_value(await client.post("/sign-in/ada"))
    await client.post(path)
    for delay, is_detached in ((4 * MINUTE, True), (2 * MINUTE, False)):
        clock.advance(delay)
        response = await sent_late(app, cookie)
        assert response.json()["detached"] == is_detached
        assert set_cookie_kind(response) == (None if is_detached else "sent")


@pytest.mark.parametrize("on_conflict", ["overwrite", "raise"])
@pytest.mark.parametrize("case", CASES)
async def test_what_a_detached_sign_out_leaves_in_the_data_begins_a_session(
    store: SpyStore, clock: FrozenClock, case: Case, on_conflict: str
) -> None:
    """No better cookie is left that it could replace: the new session is nobody's."""
    app = make_site(store, clock, [], on_conflict=on_conflict)
    client = browser(app)
    late = await case(app, client)
    response = await post_late(app, client, late, "/unbind-and-change")
    assert set_cookie_kind(response) == "sent"
    answer = (await client.get("/")).json()
    assert (answer["subject"], answer["count"], answer["detached"]) == (None, 1, False)


@pytest.mark.parametrize("case", CASES)
async def test_a_detached_sign_out_of_a_route_that_raises_signs_nobody_out(
    store: SpyStore, clock: FrozenClock, case: Case
) -> None:
    """It is part of the commit, as every renewal."""
    app = make_site(store, clock, [])
    client = browser(app)
    late = await case(app, client)
    before = await store.records()
    response = await post_late(app, client, late, "/unbind-and-fail")
    assert (response.status_code, set_cookie_kind(response)) == (409, None)
    assert await store.records() == before
    assert (await client.get("/")).json()["subject"] == "ada"


async def test_a_detached_sign_out_that_the_store_refuses_is_an_error(
    store: SpyStore, clock: FrozenClock
) -> None:
    """Nobody reads that they are signed out while their session lives."""
    app = make_site(store, clock, [])
    client = browser(app)
    late = await outdated(app, client)
    store.hook = failing("delete")
    response = await post_late(app, client, late, "/unbind")
    assert (response.status_code, set_cookie_kind(response)) == (503, None)
    store.hook = pass_on
    assert (await client.get("/")).json()["subject"] == "ada"


async def test_a_sign_out_with_a_token_that_is_long_outdated_ends_its_session(
    store: SpyStore, clock: FrozenClock
) -> None:
    """After five minutes too, as ``destroy()``: the response of the renewal may have been lost."""
    app = make_site(store, clock, [])
    client = browser(app)
    late = await outdated(app, client)
    clock.advance(6 * MINUTE)
    response = await post_late(app, client, late, "/unbind")
    assert (response.json()["detached"], set_cookie_kind(response)) == (False, "removed")
    assert await app.state.get_session.sessions("ada") == []


@pytest.mark.parametrize("cookie", ["", "forged"])
async def test_a_sign_out_without_a_session_leaves_the_cookie(
    store: SpyStore, clock: FrozenClock, cookie: str
) -> None:
    """Nobody is signed in, and a cookie that was just set by another response stays."""
    app = make_site(store, clock, [])
    response = await browser(app, cookie or None).post("/unbind")
    assert (set_cookie_kind(response), store.calls) == (None, [])


@pytest.mark.parametrize("renewal", ["/step-up", "/sign-in/ada"])
async def test_a_late_request_with_an_outdated_token_replaces_no_cookie(
    store: Any, clock: FrozenClock, renewal: str
) -> None:
    """An upload that was sent before a step-up and arrives after it signs nobody out."""
    events: list[SessionEvent] = []
    app = make_site(store, clock, events)
    client = browser(app)
    outdated = cookie_value(await client.post("/sign-in/ada"))
    await client.post(renewal)
    events.clear()
    late = await sent_late(app, outdated)
    assert late.json() == {"subject": None, "count": 1, "new": True, "detached": True}
    assert set_cookie_kind(late) is None
    assert kinds(events) == ["outdated_token"]
    assert (await client.get("/")).json()["subject"] == "ada"
    assert (await client.get("/")).json()["count"] == 0


async def test_a_conflict_is_raised_where_conflicts_are(store: Any, clock: FrozenClock) -> None:
    """Under ``on_conflict="raise"`` a change that would be dropped is a 409, and a read is not."""
    app = make_site(store, clock, [], on_conflict="raise")
    client = browser(app)
    outdated = cookie_value(await client.post("/sign-in/ada"))
    await client.post("/step-up")
    assert (await sent_late(app, outdated)).status_code == 409
    assert (await browser(app, outdated).get("/")).status_code == 200


@pytest.mark.parametrize("on_conflict", ["overwrite", "raise"])
async def test_a_change_that_a_renewal_overtakes_is_a_conflict_where_conflicts_are_raised(
    store: Any, clock: FrozenClock, on_conflict: str
) -> None:
    """A request whose token is replaced while it runs has stored nothing, and says so if asked."""
    get_session = make_provider(store, clock=clock, on_conflict=on_conflict)
    client = Client(get_session)
    await client.sign_in("ada")

    async def renew(session: Session[Data]) -> None:
        session.renew()

    async def is_overtaken(session: Session[Data]) -> None:
        await client.request(renew)
        session.data.count += 1

    async def only_renews(session: Session[Data]) -> None:
        await client.request(renew)
        session.renew()

    answer = await client.copy().request(is_overtaken)
    assert isinstance(answer.error, SessionConflict if on_conflict == "raise" else type(None))
    assert answer.cookie is None
    assert (await client.copy().request(only_renews)).is_ok  # nothing of it is lost
    assert (await client.data()).count == 0


async def test_a_sign_out_that_a_renewal_overtakes_signs_the_user_out(
    store: Any, clock: FrozenClock
) -> None:
    """Another tab's step-up does not keep a user signed in who was told to be signed out."""
    get_session = make_provider(store, clock=clock)
    client = Client(get_session)
    await client.sign_in("ada")

    async def step_up(session: Session[Data]) -> None:
        session.data.count += 1
        session.renew(subject="ada")

    async def sign_out(session: Session[Data]) -> None:
        assert (await client.request(step_up)).is_ok
        session.renew(subject=None)

    tab = client.copy()
    assert (await tab.request(sign_out)).is_ok
    assert await get_session.sessions("ada") == []
    assert not await client.is_live()
    assert (await tab.data()).count == 1


@pytest.mark.parametrize("before", [None, "bob"])
@pytest.mark.parametrize("on_conflict", ["overwrite", "raise"])
async def test_a_sign_out_that_another_users_sign_in_overtakes_gets_no_token_of_theirs(
    store: Any, clock: FrozenClock, before: str | None, on_conflict: str
) -> None:
    """The browser is signed out, and a client that planted its token in another's browser does not
    get one for what that user has stored since."""
    get_session = make_provider(store, clock=clock, on_conflict=on_conflict)
    planted = Client(get_session)
    if before is not None:
        await planted.sign_in(before)
    else:
        await planted.request(_count)
    victim = planted.copy()

    async def sign_in(session: Session[Data]) -> None:
        session.renew(subject="ada")
        session.data.count = 42

    async def sign_out(session: Session[Data]) -> bool:
        assert (await victim.request(sign_in)).is_ok
        session.renew(subject=None)
        await session.commit()
        return session.is_new

    answer = await planted.request(sign_out)
    assert (answer.error, answer.value, answer.cookie) == (None, True, "")
    assert (await planted.data()).count == 0
    # bob's session has ended with ada's sign-in, and hers is another
    assert await victim.is_live() == (before is not None)


async def _count(session: Session[Data]) -> None:
    session.data.count = 1


async def test_five_minutes_after_a_renewal_its_old_token_is_an_ordinary_new_session(
    store: Any, clock: FrozenClock
) -> None:
    """A browser that lost the response of a renewal is not locked out for longer."""
    app = make_site(store, clock, [])
    client = browser(app)
    outdated = cookie_value(await client.post("/sign-in/ada"))
    await client.post("/step-up")
    clock.advance(6 * MINUTE)
    late = await sent_late(app, outdated)
    assert late.json()["detached"] is False
    assert set_cookie_kind(late) == "sent"


async def test_a_lost_response_of_a_renewal_locks_nobody_out(
    store: Any, clock: FrozenClock
) -> None:
    """A sign-in proves who the user is, so it works at once with the outdated token."""
    app = make_site(store, clock, [])
    client = browser(app)
    outdated = cookie_value(await client.post("/sign-in/ada"))
    await browser(app, outdated).post("/step-up")  # the browser never sees this response
    again = browser(app, outdated)
    assert set_cookie_kind(await again.post("/sign-in/ada")) == "sent"
    assert (await again.get("/")).json() == {
        "subject": "ada",
        "count": 0,
        "new": False,
        "detached": False,
    }


async def test_a_sign_in_that_takes_two_requests_works_five_minutes_after_a_lost_response(
    store: Any, clock: FrozenClock
) -> None:
    """The first of them has to store something, which a detached request does not."""
    app = make_site(store, clock, [])
    outdated = cookie_value(await browser(app).post("/sign-in/ada"))
    await browser(app, outdated).post("/step-up")  # the browser never sees this response
    client = browser(app, outdated)
    for wait, subject in ((0 * MINUTE, None), (6 * MINUTE, "ada")):
        clock.advance(wait)
        await client.post("/begin")
        assert (await client.post("/complete/ada")).json()["subject"] == subject
    assert (await client.get("/")).json()["subject"] == "ada"


async def test_a_late_request_of_a_session_that_was_signed_out_replaces_no_cookie(
    store: Any, clock: FrozenClock
) -> None:
    """An upload that outlasts a sign-out and a new sign-in leaves the new session alone."""
    events: list[SessionEvent] = []
    app = make_site(store, clock, events)
    client = browser(app)
    ended = cookie_value(await client.post("/sign-in/ada"))
    await client.post("/sign-out")
    await client.post("/sign-in/ada")
    events.clear()
    late = await sent_late(app, ended)
    assert late.json() == {"subject": None, "count": 1, "new": True, "detached": True}
    assert set_cookie_kind(late) is None
    assert kinds(events) == ["ended_elsewhere"]
    assert (await client.get("/")).json()["subject"] == "ada"
    clock.advance(6 * MINUTE)
    assert (await sent_late(app, ended)).json()["detached"] is False


async def test_a_session_is_known_to_have_ended_although_a_reply_was_lost(
    store: Any, clock: FrozenClock
) -> None:
    """The delete was done, and its reply lost: the next try finds nothing, and tells of it."""
    app = make_site(store, clock, [])
    client = browser(app)
    ended = cookie_value(await client.post("/sign-in/ada"))

    async def lose(call: StoreCall) -> Any:
        if call.verb != "delete":
            return await call.pass_on()
        store.hook = pass_on
        await call.pass_on()
        raise StoreUnavailable("the reply was lost")

    store.hook = lose
    assert (await client.post("/sign-out")).status_code == 503
    late = await sent_late(app, ended)
    assert late.json()["detached"] is True
    assert set_cookie_kind(late) is None


async def test_a_late_request_of_the_user_before_replaces_no_cookie(
    store: Any, clock: FrozenClock
) -> None:
    """Bob signs in over ada's session; ada's late request neither shows his session nor ends it."""
    app = make_site(store, clock, [])
    client = browser(app)
    of_ada = cookie_value(await client.post("/sign-in/ada"))
    await client.post("/sign-in/bob")
    late = await sent_late(app, of_ada)
    assert (late.json()["subject"], late.json()["detached"]) == (None, True)
    assert set_cookie_kind(late) is None
    assert (await client.get("/")).json()["subject"] == "bob"


@pytest.mark.parametrize(
    ("samesite", "method", "headers", "is_detached"),
    [
        pytest.param("strict", "GET", CROSS_SITE_LINK, True, id="strict, a link"),
        pytest.param("strict", "POST", CROSS_SITE, True, id="strict, a form of a trusted origin"),
        pytest.param("lax", "GET", CROSS_SITE_LINK, False, id="lax, a link"),
        pytest.param("lax", "POST", CROSS_SITE_LINK, True, id="lax, a form of a trusted origin"),
        pytest.param("lax", "GET", CROSS_SITE, True, id="lax, a request of a script"),
        pytest.param("none", "POST", CROSS_SITE, False, id="none"),
        pytest.param("strict", "GET", {}, False, id="strict, no browser"),
        pytest.param("strict", "GET", {"sec-fetch-site": "none"}, False, id="strict, typed"),
    ],
)
async def test_a_request_whose_cookie_was_withheld_sets_none(
    store: Any,
    clock: FrozenClock,
    samesite: Any,
    method: str,
    headers: dict[str, str],
    is_detached: bool,
) -> None:
    """The browser withheld it because of ``SameSite``, and may hold a good one."""
    events: list[SessionEvent] = []
    app = make_site(store, clock, events, cookie=CookieConfig(samesite=samesite))
    request = {"origin": "https://other.test", **headers} if method == "POST" else headers
    response = await browser(app).request(method, "/change", headers=request)
    assert response.json()["detached"] is is_detached
    assert set_cookie_kind(response) == (None if is_detached else "sent")
    assert kinds(events) == (["cookie_withheld"] if is_detached else ["created"])


async def test_a_sign_in_from_another_site_is_stored_and_sent(
    store: Any, clock: FrozenClock
) -> None:
    """It proves who the user is: the form post of an identity provider works under ``lax``."""
    app = make_site(store, clock, [])
    client = browser(app)
    headers = {"origin": "https://other.test", **CROSS_SITE_LINK}
    assert set_cookie_kind(await client.post("/sign-in/ada", headers=headers)) == "sent"
    assert (await client.get("/")).json()["subject"] == "ada"


async def test_two_good_tokens_of_two_sessions_are_detached(store: Any, clock: FrozenClock) -> None:
    """One of them was planted: neither is used, neither replaced, and nothing is stored."""
    events: list[SessionEvent] = []
    app = make_site(store, clock, events)
    one = cookie_value(await browser(app).post("/sign-in/ada"))
    two = cookie_value(await browser(app).post("/sign-in/eve"))
    events.clear()
    store.calls.clear()
    client = browser(app)
    response = await client.post("/change", headers={"cookie": f"{COOKIE}={one}; {COOKIE}={two}"})
    assert response.json() == {"subject": None, "count": 1, "new": True, "detached": True}
    assert set_cookie_kind(response) is None
    assert (kinds(events), store.calls) == (["ambiguous_cookie"], [])


async def test_tokens_of_one_session_are_one_candidate(store: Any, clock: FrozenClock) -> None:
    """Whichever of them is live counts, in any order."""
    app = make_site(store, clock, [])
    client = browser(app)
    outdated = cookie_value(await client.post("/sign-in/ada"))
    live = cookie_value(await client.post("/step-up"))
    for cookies in ((outdated, live), (live, outdated)):
        header = "; ".join(f"{COOKIE}={each}" for each in cookies)
        response = await browser(app).get("/", headers={"cookie": header})
        assert response.json()["subject"] == "ada"


async def test_a_detached_request_may_destroy(store: Any, clock: FrozenClock) -> None:
    """With an outdated token a sign-out ends that session too, and removes the cookie."""
    app = make_site(store, clock, [])
    client = browser(app)
    outdated = cookie_value(await client.post("/sign-in/ada"))
    await client.post("/step-up")
    response = await sent_late(app, outdated, "/sign-out")
    assert set_cookie_kind(response) == "removed"
    assert (await client.get("/")).json()["subject"] is None


async def test_a_sign_out_from_another_site_removes_the_cookie(
    store: Any, clock: FrozenClock
) -> None:
    """The browser withheld it, so its session cannot be ended; the browser is signed out."""
    client = browser(make_site(store, clock, []))
    await client.post("/sign-in/ada")
    withheld = client.cookies.pop(COOKIE)
    headers = {"origin": "https://other.test", **CROSS_SITE}
    assert set_cookie_kind(await client.post("/sign-out", headers=headers)) == "removed"
    response = await client.get("/", headers={"cookie": f"{COOKIE}={withheld}"})
    assert response.json()["subject"] == "ada"


@pytest.mark.parametrize("cookie", ["", "forged", "dead"])
async def test_destroy_removes_whatever_cookie_came(
    store: Any, clock: FrozenClock, cookie: str
) -> None:
    """A browser does not keep a dead cookie for 400 days, and one without a cookie gets none."""
    app = make_site(store, clock, [])
    if cookie == "dead":
        client = browser(app)
        value = cookie_value(await client.post("/sign-in/ada"))
        await store.inner.clear()
    else:
        value = cookie
    response = await browser(app, value or None).post("/sign-out")
    assert set_cookie_kind(response) == ("removed" if cookie else None)


async def test_a_401_says_why(store: Any, clock: FrozenClock) -> None:
    """Each reason has its own, so that a page can say that the session has expired."""
    app = make_site(store, clock, [])
    client = browser(app)
    first = cookie_value(await client.post("/sign-in/ada"))
    live = cookie_value(await client.post("/step-up"))

    async def reason(cookie: str | None, **headers: str) -> str:
        response = await browser(app, cookie).get("/mine", headers=headers)
        assert response.status_code == 401
        return response.json()["reason"]

    assert await reason(None) == "no_session"
    assert await reason(first) == "ended"
    assert await reason(None, **CROSS_SITE) == "no_session"
    clock.advance(31 * MINUTE)
    assert await reason(live) == "too_old"
    clock.advance(timedelta(hours=2))
    assert await reason(live) == "ended"
    visitor = cookie_value(await browser(app).post("/change"))
    assert await reason(visitor) == "anonymous"
