"""Session fixation: a cookie that an attacker knows or has planted is useless after a sign-in."""

from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends

from fastapi_async_sessions import MemoryStore, Session
from fastapi_async_sessions._core.tokens import Token

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
from ..sites import make_sign_in_site


@pytest.fixture
def store(clock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


@pytest.fixture
def app(get_session) -> Any:
    return make_sign_in_site(get_session)


ANONYMOUS = {"new": True, "subject": None, "count": 0}


async def test_a_planted_anonymous_cookie_is_invalid_after_the_victim_signs_in(app):
    """The attacker's cookie is in the victim's browser, and the sign-in replaces it."""
    attacker = browser(app)
    planted = cookie_value(await attacker.post("/change"))
    victim = browser(app, planted)
    given = cookie_value(await victim.post("/sign-in/victim"))
    assert given != planted
    assert (await attacker.get("/")).json() == ANONYMOUS
    assert (await browser(app, given).get("/")).json()["subject"] == "victim"


async def test_a_planted_cookie_stays_invalid_while_the_attacker_uses_it(app, store, clock):
    """A change by the attacker is not stored, and a few minutes later starts another, anonymous
    session."""
    attacker = browser(app)
    planted = cookie_value(await attacker.post("/change"))
    victim = browser(app, planted)
    victims = cookie_value(await victim.post("/sign-in/victim"))
    assert set_cookie_kind(await browser(app, planted).post("/change")) is None
    assert len(await store.records()) == 1
    clock.advance(timedelta(minutes=6))
    response = await browser(app, planted).post("/change")
    assert cookie_value(response) not in (planted, victims)
    assert len(await store.records()) == 2
    assert (await browser(app, victims).get("/")).json()["count"] == 1


async def test_a_concurrent_request_with_the_planted_cookie_has_no_effect(app, get_session, clock):
    """Loaded before the sign-in and committed after it, its change is dropped."""
    planted = cookie_value(await browser(app).post("/change"))
    victims: list[str] = []

    @app.post("/slow")
    async def slow(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        victims.append(cookie_value(await browser(app, planted).post("/sign-in/victim")))
        session.data.count = 666

    response = await browser(app, planted).post("/slow")
    assert (response.status_code, set_cookie_kind(response)) == (200, None)
    assert (await browser(app, victims[0]).get("/")).json() == {
        "new": False,
        "subject": "victim",
        "count": 1,
    }


async def test_a_signed_token_that_was_never_stored_is_not_adopted(app, get_session, store):
    """There is no record for it, and the next write has another key."""
    token = Token.issue()
    planted = get_session.verifier.sign(token)
    response = await browser(app, planted).post("/change")
    assert cookie_value(response) != planted
    given = get_session.verifier.verify([cookie_value(response).encode()])[0].token
    assert given.handle != token.handle
    assert token.key("session") not in await store.records()


async def test_a_token_of_an_ended_session_is_not_adopted(app, get_session, clock):
    """After a sign-out the next session has another handle and another secret. For a few minutes
    there is none, so that no newer cookie is replaced."""
    client = browser(app)
    ended = cookie_value(await client.post("/change"))
    await client.post("/sign-out")
    assert set_cookie_kind(await browser(app, ended).post("/change")) is None
    clock.advance(timedelta(minutes=6))
    given = cookie_value(await browser(app, ended).post("/change"))
    parse = get_session.verifier.verify
    before, after = parse([ended.encode()])[0].token, parse([given.encode()])[0].token
    assert before.handle != after.handle
    assert before.secret != after.secret
    assert (await browser(app, ended).get("/")).json() == ANONYMOUS


async def test_the_handle_of_a_planted_cookie_is_useless(app, get_session):
    """The attacker knows the handle, which stays the same, but not the new secret."""
    planted = cookie_value(await browser(app).post("/change"))
    await browser(app, planted).post("/sign-in/victim")
    handle = get_session.verifier.verify([planted.encode()])[0].token.handle
    for secret in (bytes(32), Token.issue().secret):
        forged = get_session.verifier.sign(Token(handle, secret))
        assert (await browser(app, forged).get("/")).json() == ANONYMOUS


async def test_every_sign_in_invalidates_the_previous_token(app, store):
    """After ten sign-ins one cookie works, and one record is left."""
    client = browser(app)
    cookies = [cookie_value(await client.post("/sign-in/victim")) for _ in range(10)]
    assert len(set(cookies)) == 10
    alive = [not (await browser(app, cookie).get("/")).json()["new"] for cookie in cookies]
    assert alive == [False] * 9 + [True]
    assert len(await store.records()) == 1


@pytest.mark.parametrize("value", ["", "null", "None", "undefined", "0", "{}", '""'])
async def test_an_empty_value_opens_no_session(app, store, value):
    """Two browsers with an empty cookie do not share a session (CVE-2015-3982)."""
    first = cookie_value(await browser(app, value).post("/change"))
    second = cookie_value(await browser(app, value).post("/change"))
    assert first != second
    assert len(await store.records()) == 2
    assert (await browser(app, value).get("/")).json() == ANONYMOUS


async def test_two_valid_cookies_of_one_name_are_anonymous(app):
    """One of them was tossed in by an attacker, and the server cannot tell which."""
    attackers = cookie_value(await browser(app).post("/sign-in/victim"))
    victims = cookie_value(await browser(app).post("/sign-in/victim"))
    for pair in ((attackers, victims), (victims, attackers)):
        header = "; ".join(f"{COOKIE}={value}" for value in pair)
        response = await browser(app).get("/", headers={"cookie": header})
        assert response.json() == ANONYMOUS
        assert set_cookie_kind(response) is None


async def test_a_response_has_one_cookie_after_any_number_of_renewals(app, get_session):
    """The last token is sent and works."""

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


async def test_a_sign_in_to_a_concurrently_revoked_session_gets_another_session(
    app, get_session, store
):
    """The user has just authenticated and is signed in, under another key."""
    client = browser(app)
    old = cookie_value(await client.post("/change"))
    key = get_session.verifier.verify([old.encode()])[0].token.key("session")

    @app.post("/slow")
    async def slow(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        await get_session.revoke(key)
        session.renew(subject="victim", persistent=True)

    response = await client.post("/slow")
    assert "Max-Age=" in session_cookies(response)[0]
    assert key not in await store.records()
    answer = (await browser(app, cookie_value(response)).get("/")).json()
    assert answer == {"new": False, "subject": "victim", "count": 1}


async def test_tokens_expire_with_the_session(app, clock):
    """Neither the old nor the new token works afterwards."""
    client = browser(app)
    old = cookie_value(await client.post("/change"))
    new = cookie_value(await client.post("/sign-in/victim"))
    clock.advance(timedelta(hours=1))
    for value in (old, new):
        assert (await browser(app, value).get("/")).json() == ANONYMOUS


@pytest.mark.parametrize(("times", "status"), [(1, 200), (2, 200), (3, 503)])
async def test_an_existing_key_is_never_overwritten(times, status):
    """After a collision another key is tried; a store that always reports one is unavailable."""
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
