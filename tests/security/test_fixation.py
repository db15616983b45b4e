"""Session fixation: a cookie that an attacker knows or planted is worth nothing after a sign-in."""

from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends

from fastapi_async_sessions import MemoryStore, Session
from fastapi_async_sessions._core.tokens import Token
from fastapi_async_sessions.testing import FrozenClock

from ..apps import (
    COOKIE,
    Data,
    browser,
    cookie_value,
    make_app,
    make_provider,
    session_cookies,
    set_cookie_kind,
)
from ..doubles import SpyStore, StoreCall


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def store(clock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


@pytest.fixture
def get_session(store, clock) -> Any:
    return make_provider(store, clock=clock)


@pytest.fixture
def app(get_session) -> Any:
    app = make_app()
    site_session = Annotated[Session[Data], Depends(get_session)]

    @app.get("/")
    async def read(session: site_session) -> dict[str, Any]:
        return {"new": session.is_new, "subject": session.subject, "count": session.data.count}

    @app.post("/change")
    async def change(session: site_session) -> int:
        session.data.count += 1
        return session.data.count

    @app.post("/sign-in")
    async def sign_in(session: site_session) -> None:
        session.renew(subject="victim")

    @app.post("/sign-out")
    async def sign_out(session: site_session) -> None:
        await session.destroy()

    return app


NOBODY = {"new": True, "subject": None, "count": 0}


async def test_a_planted_anonymous_cookie_is_dead_after_the_victim_signs_in(app):
    """The attacker's own cookie in the victim's browser: the sign-in gives another one."""
    attacker = browser(app)
    planted = cookie_value(await attacker.post("/change"))
    victim = browser(app, planted)
    given = cookie_value(await victim.post("/sign-in"))
    assert given != planted
    assert (await attacker.get("/")).json() == NOBODY
    assert (await browser(app, given).get("/")).json()["subject"] == "victim"


async def test_a_planted_cookie_that_the_attacker_keeps_using_stays_dead(app, store):
    """What the attacker writes with it goes into another session, that nobody is signed in to."""
    attacker = browser(app)
    planted = cookie_value(await attacker.post("/change"))
    victim = browser(app, planted)
    victims = cookie_value(await victim.post("/sign-in"))
    response = await browser(app, planted).post("/change")
    assert cookie_value(response) not in (planted, victims)
    assert len(await store.records()) == 2
    assert (await browser(app, victims).get("/")).json()["count"] == 1


async def test_a_request_in_flight_with_the_planted_cookie_reaches_nothing(app, get_session, clock):
    """Loaded before the sign-in and committed after it: the change is dropped, no cookie is set."""
    planted = cookie_value(await browser(app).post("/change"))
    victims: list[str] = []

    @app.post("/slow")
    async def slow(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        victims.append(cookie_value(await browser(app, planted).post("/sign-in")))
        session.data.count = 666

    response = await browser(app, planted).post("/slow")
    assert (response.status_code, set_cookie_kind(response)) == (200, None)
    assert (await browser(app, victims[0]).get("/")).json() == {
        "new": False,
        "subject": "victim",
        "count": 1,
    }


async def test_a_token_that_we_signed_and_never_stored_is_not_adopted(app, get_session, store):
    """A well-signed cookie without a record: what is written goes under another key."""
    token = Token.issue()
    planted = get_session.verifier.sign(token)
    response = await browser(app, planted).post("/change")
    assert cookie_value(response) != planted
    given = get_session.verifier.verify([cookie_value(response).encode()]).token
    assert given.handle != token.handle
    assert token.key("session") not in await store.records()


async def test_a_token_of_an_ended_session_is_not_adopted(app, get_session):
    """Signed out and used again: another handle, another secret."""
    client = browser(app)
    ended = cookie_value(await client.post("/change"))
    await client.post("/sign-out")
    given = cookie_value(await browser(app, ended).post("/change"))
    parse = get_session.verifier.verify
    before, after = parse([ended.encode()]).token, parse([given.encode()]).token
    assert before.handle != after.handle
    assert before.secret != after.secret
    assert (await browser(app, ended).get("/")).json() == NOBODY


async def test_the_handle_of_a_planted_cookie_is_no_help(app, get_session):
    """The attacker knows the handle, which stays; without the new secret it opens nothing."""
    planted = cookie_value(await browser(app).post("/change"))
    await browser(app, planted).post("/sign-in")
    handle = get_session.verifier.verify([planted.encode()]).token.handle
    for secret in (bytes(32), Token.issue().secret):
        forged = get_session.verifier.sign(Token(handle, secret))
        assert (await browser(app, forged).get("/")).json() == NOBODY


async def test_every_sign_in_ends_the_token_before_it(app, store):
    """Ten sign-ins: one cookie works, one record is left."""
    client = browser(app)
    cookies = [cookie_value(await client.post("/sign-in")) for _ in range(10)]
    assert len(set(cookies)) == 10
    alive = [not (await browser(app, cookie).get("/")).json()["new"] for cookie in cookies]
    assert alive == [False] * 9 + [True]
    assert len(await store.records()) == 1


@pytest.mark.parametrize("value", ["", "null", "None", "undefined", "0", "{}", '""'])
async def test_an_empty_value_is_no_session(app, store, value):
    """Two visitors whose cookie is empty do not share a session (CVE-2015-3982)."""
    first = cookie_value(await browser(app, value).post("/change"))
    second = cookie_value(await browser(app, value).post("/change"))
    assert first != second
    assert len(await store.records()) == 2
    assert (await browser(app, value).get("/")).json() == NOBODY


async def test_a_signed_in_cookie_beside_the_victim_s_own_is_nobody(app):
    """Two good tokens of one name: one was tossed in, and which one nobody can tell."""
    attackers = cookie_value(await browser(app).post("/sign-in"))
    victims = cookie_value(await browser(app).post("/sign-in"))
    for pair in ((attackers, victims), (victims, attackers)):
        header = "; ".join(f"{COOKIE}={value}" for value in pair)
        response = await browser(app).get("/", headers={"cookie": header})
        assert response.json() == NOBODY
        assert set_cookie_kind(response) is None


async def test_a_response_carries_one_cookie_however_often_it_renews(app, get_session):
    """Commit, renew, commit, renew: the last token is the one that is sent and works."""

    @app.post("/often")
    async def often(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        for _ in range(3):
            session.data.count += 1
            await session.commit()
            session.renew(subject="victim")
            await session.commit()
        session.renew()

    response = await browser(app).post("/often")
    assert len(session_cookies(response)) == 1
    answer = (await browser(app, cookie_value(response)).get("/")).json()
    assert answer == {"new": False, "subject": "victim", "count": 3}


async def test_a_sign_in_whose_session_was_ended_meanwhile_gets_another_one(
    app, get_session, store
):
    """The old key stays dead; who has just proven who they are is signed in under a new one."""
    client = browser(app)
    old = cookie_value(await client.post("/change"))
    key = get_session.verifier.verify([old.encode()]).token.key("session")

    @app.post("/slow")
    async def slow(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        await get_session.revoke(key)
        session.renew(subject="victim", persistent=True)

    response = await client.post("/slow")
    assert "Max-Age=" in session_cookies(response)[0]
    assert key not in await store.records()
    answer = (await browser(app, cookie_value(response)).get("/")).json()
    assert answer == {"new": False, "subject": "victim", "count": 1}


async def test_an_old_token_ends_with_its_session_s_life(app, clock):
    """Neither the old nor the new token works after the end."""
    client = browser(app)
    old = cookie_value(await client.post("/change"))
    new = cookie_value(await client.post("/sign-in"))
    clock.advance(timedelta(hours=1))
    for value in (old, new):
        assert (await browser(app, value).get("/")).json() == NOBODY


@pytest.mark.parametrize(("times", "status"), [(1, 200), (2, 200), (3, 503)])
async def test_a_key_that_exists_is_never_taken_over(times, status):
    """A collision gets another key; a store that always says so is out of order."""
    refusals = times

    async def refuse_the_first_keys(call: StoreCall) -> Any:
        nonlocal refusals
        if call.verb == "create" and refusals:
            refusals -= 1
            return False
        return await call.pass_on()

    store = SpyStore(MemoryStore(), refuse_the_first_keys)
    get_session = make_provider(store)
    app = make_app()

    @app.post("/")
    async def change(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.data.count += 1

    response = await browser(app).post("/")
    assert response.status_code == status
    assert set_cookie_kind(response) == ("sent" if status == 200 else None)
    assert len(set(store.keys)) == min(times + 1, 3)
    assert len(await store.records()) == (status == 200)
