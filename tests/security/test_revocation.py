"""Ending sessions: once a session has ended, no copy of its cookie opens it any more."""

import hashlib
import hmac
from datetime import timedelta
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import Depends, HTTPException

from fastapi_async_sessions import Session, StoreUnavailable
from fastapi_async_sessions._web import jar
from fastapi_async_sessions.testing import FrozenClock

from ..apps import (
    SECRET,
    Data,
    browser,
    cookie_value,
    make_provider,
    session_records,
    set_cookie_kind,
)
from ..doubles import SpyStore, StoreCall, before, failing, pass_on
from ..sites import make_sign_in_site

TICK = timedelta(seconds=1)


UserSession = Session[Data]


@pytest.fixture
def app(get_session, clock) -> Any:
    """An application that also lists devices, ends one or all others, and changes passwords."""
    app = make_sign_in_site(get_session)
    site_session = Annotated[UserSession, Depends(get_session)]
    signed_in = Annotated[UserSession, Depends(get_session.signed_in())]

    @app.post("/sign-out-and-fail")
    async def sign_out_and_fail(session: site_session) -> None:
        await session.destroy()
        raise HTTPException(418)

    @app.get("/devices")
    async def devices(session: signed_in) -> list[str]:
        return [each.key for each in await get_session.sessions(session.subject)]

    @app.post("/devices/{key}/end")
    async def end(session: signed_in, key: str) -> bool:
        return await get_session.revoke(key, subject=session.subject)

    @app.post("/password")
    async def password(session: signed_in) -> int:
        return await get_session.revoke_all(session.subject, keep=session)

    @app.post("/password-and-renew")
    async def password_and_renew(session: signed_in) -> int:
        session.renew()
        count = await get_session.revoke_all(session.subject, keep=session)
        session.data.count = 99
        return count

    @app.post("/password-and-sign-in")
    async def password_and_sign_in(session: signed_in) -> int:
        subject = session.subject
        count = await get_session.revoke_all(subject, keep=session)
        session.renew(subject=subject)
        return count

    @app.post("/reset/{name}")
    async def reset(session: site_session, name: str) -> int:
        count = await get_session.revoke_all(name, keep=session)
        session.renew(subject=name)
        return count

    return app


async def signed_in(app: Any, name: str = "ada") -> Any:
    client = browser(app)
    assert (await client.post(f"/sign-in/{name}")).status_code == 200
    return client


async def is_live(client: Any) -> bool:
    return not (await client.get("/")).json()["new"]


async def test_signing_out_ends_the_session_for_every_copy_of_the_cookie(app, get_session, store):
    """The record is deleted, the cookie is removed, and a copy of it opens no session."""
    client = browser(app)
    copy = cookie_value(await client.post("/sign-in/ada"))
    assert set_cookie_kind(await client.post("/sign-out")) == "removed"
    assert await session_records(get_session, store) == {}
    assert not await is_live(browser(app, copy))


async def test_a_sign_out_is_kept_if_the_route_raises_afterwards(app):
    """``destroy()`` is not rolled back."""
    client = browser(app)
    copy = cookie_value(await client.post("/sign-in/ada"))
    assert (await client.post("/sign-out-and-fail")).status_code == 418
    assert not await is_live(browser(app, copy))


async def test_signing_out_without_a_session_stores_nothing(app, store):
    """It sets and removes no cookie either."""
    response = await browser(app).post("/sign-out")
    assert (set_cookie_kind(response), store.calls) == (None, [])


async def test_a_slow_request_does_not_revive_an_ended_session(app, get_session, store):
    """Loaded before the end and committed after it, it leaves no record, cookie or error."""
    client = browser(app)
    copy = cookie_value(await client.post("/sign-in/ada"))

    @app.post("/slow")
    async def slow(session: Annotated[UserSession, Depends(get_session)]) -> None:
        await browser(app, copy).post("/sign-out")
        session.data.count = 1

    response = await browser(app, copy).post("/slow")
    assert (response.status_code, set_cookie_kind(response)) == (200, None)
    assert await session_records(get_session, store) == {}
    assert not await is_live(browser(app, copy))


async def test_an_ended_device_is_signed_out_at_its_next_request(app):
    """It is ended by its key from the list of devices; the device that ends it stays signed in."""
    here = await signed_in(app)
    (own,) = (await here.get("/devices")).json()
    there = await signed_in(app)
    (key,) = set((await here.get("/devices")).json()) - {own}
    assert (await here.post(f"/devices/{key}/end")).json() is True
    assert (await here.post(f"/devices/{key}/end")).json() is False
    assert not await is_live(there)
    assert await is_live(here)


async def test_a_user_cannot_end_the_devices_of_another_user(app):
    """With the key of another user ``revoke`` returns False, and that user stays signed in."""
    ada, bob = await signed_in(app, "ada"), await signed_in(app, "bob")
    (key,) = (await bob.get("/devices")).json()
    assert (await ada.post(f"/devices/{key}/end")).json() is False
    assert await is_live(bob)


async def test_a_listed_key_opens_no_session(app):
    """Keys in a page or a log cannot be used as cookies."""
    client = await signed_in(app)
    for key in (await client.get("/devices")).json():
        assert not await is_live(browser(app, key))
        assert not await is_live(browser(app, f"{key}.{'A' * 43}"))


async def test_a_new_password_signs_the_other_devices_out(app):
    """``revoke_all(subject, keep=session)`` keeps this one and returns the number of the others."""
    here, others = await signed_in(app), [await signed_in(app) for _ in range(3)]
    bob = await signed_in(app, "bob")
    assert (await here.post("/password")).json() == 3
    assert await is_live(here)
    assert [await is_live(client) for client in others] == [False] * 3
    assert await is_live(bob)


async def test_the_kept_session_may_renew_in_the_same_request(app):
    """It should, when the password changes: data and sign-in are kept under a new token."""
    here, other = await signed_in(app), await signed_in(app)
    old = here.cookies.get("__Host-session")
    response = await here.post("/password-and-renew")
    assert (response.status_code, response.json()) == (200, 1)
    assert cookie_value(response) != old
    assert (await here.get("/")).json() == {"new": False, "subject": "ada", "count": 99}
    assert not await is_live(other)
    assert not await is_live(browser(app, old))


async def test_the_kept_session_may_sign_in_in_the_same_request(app):
    """A revocation also ends sign-ins in progress, but not that of the request that made it."""
    here, other = await signed_in(app), await signed_in(app)
    response = await here.post("/password-and-sign-in")
    assert (response.status_code, response.json()) == (200, 1)
    assert (await here.get("/")).json()["subject"] == "ada"
    assert not await is_live(other)


async def test_a_password_reset_signs_in_and_ends_all_other_sessions(app):
    """The kept session may be a new one, which has no key yet."""
    attackers = [await signed_in(app) for _ in range(2)]
    owner = browser(app)
    response = await owner.post("/reset/ada")
    assert (response.status_code, response.json()) == (200, 2)
    assert (await owner.get("/")).json()["subject"] == "ada"
    assert [await is_live(client) for client in attackers] == [False, False]


async def test_a_sign_in_that_began_before_a_revocation_is_rejected(app, get_session, clock):
    """The password changed after it was checked: the response is a 409, and nothing is stored."""

    @app.post("/slow-sign-in")
    async def slow_sign_in(session: Annotated[UserSession, Depends(get_session)]) -> None:
        clock.advance(TICK)
        assert await get_session.revoke_all("ada") == 0
        clock.advance(TICK)
        session.renew(subject="ada")

    response = await browser(app).post("/slow-sign-in")
    assert (response.status_code, set_cookie_kind(response)) == (409, None)
    assert await get_session.sessions("ada") == []


async def test_the_event_of_a_rejected_sign_in_names_its_session(store, clock, events):
    """It was stored for a moment, and is deleted again."""
    get_session = make_provider(store, clock=clock, on_event=events.append)
    app = make_sign_in_site(get_session)

    @app.post("/slow-sign-in")
    async def slow_sign_in(session: Annotated[UserSession, Depends(get_session)]) -> None:
        clock.advance(TICK)
        await get_session.revoke_all("ada")
        session.renew(subject="ada")

    assert (await browser(app).post("/slow-sign-in")).status_code == 409
    (event,) = events
    assert (event.kind, event.facts) == ("revoked", {"reason": "revoked"})
    assert store.writes[-1] == "delete"
    assert event.key == store.keys[-1]


async def test_a_request_begins_before_it_takes_its_session(app, get_session, clock, monkeypatch):
    """One whose upload lasted longer than a revocation is rejected too."""
    monkeypatch.setattr(jar, "time", SimpleNamespace(monotonic=lambda: clock.now.timestamp()))

    async def upload() -> None:
        clock.advance(TICK)
        await get_session.revoke_all("ada")
        clock.advance(TICK)

    @app.post("/upload", dependencies=[Depends(upload)])
    async def upload_and_sign_in(session: Annotated[UserSession, Depends(get_session)]) -> None:
        session.renew(subject="ada")

    assert (await browser(app).post("/upload")).status_code == 409
    assert await get_session.sessions("ada") == []


async def test_a_user_can_sign_in_again_after_a_revocation(app, get_session, clock):
    """A moment later the user signs in with the new password."""
    await signed_in(app)
    await get_session.revoke_all("ada")
    clock.advance(TICK)
    client = await signed_in(app)
    assert await is_live(client)
    assert len(await get_session.sessions("ada")) == 1


async def test_a_revocation_does_not_affect_other_users(app, get_session, clock):
    """Another user can sign in while it is written."""

    @app.post("/slow-sign-in")
    async def slow_sign_in(session: Annotated[UserSession, Depends(get_session)]) -> None:
        clock.advance(TICK)
        await get_session.revoke_all("bob")
        session.renew(subject="ada")

    client = browser(app)
    assert (await client.post("/slow-sign-in")).status_code == 200
    assert (await client.get("/")).json()["subject"] == "ada"


async def test_a_disabled_user_is_signed_out_at_the_next_request(app, get_session, clock):
    """No cache hides a revocation from the next request."""
    clients = [await signed_in(app) for _ in range(2)]
    for client in clients:
        assert await is_live(client)
    await get_session.revoke_all("ada")
    for client in clients:
        response = await client.get("/devices")
        assert response.status_code == 401
        # no deletion: it could erase the cookie of a sign-in in another tab
        assert set_cookie_kind(response) is None


async def test_a_revocation_that_fails_halfway_is_an_error_and_can_be_repeated(
    app, get_session, store
):
    """It never returns a count; the second call ends the rest."""
    clients = [await signed_in(app) for _ in range(2)]
    store.hook = failing("delete_owned")
    response = await clients[0].post("/password")
    assert response.status_code == 503
    store.hook = pass_on
    assert (await clients[0].post("/password")).json() == 1
    assert not await is_live(clients[1])


@pytest.mark.parametrize("keeps_itself", [False, True])
async def test_a_revocation_in_the_microsecond_in_which_a_sign_in_began_ends_it(
    app, get_session, monkeypatch, keeps_itself
):
    """A tie is decided against the sign-in, even if its own request revokes once more."""
    # between the beginning of a request and its need of a session a real clock moves on
    monkeypatch.setattr(jar, "time", SimpleNamespace(monotonic=lambda: 0.0))

    @app.post("/revoked-sign-in")
    async def revoked_sign_in(session: Annotated[UserSession, Depends(get_session)]) -> None:
        await get_session.revoke_all("ada")
        if keeps_itself:
            await get_session.revoke_all("ada", keep=session)
        session.renew(subject="ada")

    assert (await browser(app).post("/revoked-sign-in")).status_code == 409
    assert await get_session.sessions("ada") == []


async def test_an_earlier_revocation_does_not_make_one_with_keep_reject_its_own_sign_in(
    app, get_session, clock
):
    """Only a revocation since the request began does: this one was made before it."""
    await get_session.revoke_all("ada")
    clock.advance(TICK)
    owner = browser(app)
    assert (await owner.post("/reset/ada")).status_code == 200
    assert await is_live(owner)


async def test_a_request_does_not_keep_itself_from_a_revocation_that_is_under_way(
    app, get_session, store, clock
):
    """Its session could be on the next page of that one."""
    store.hook = failing("delete_owned")
    with pytest.raises(StoreUnavailable):
        await get_session.revoke_all("ada")
    store.hook = pass_on
    clock.advance(TICK)
    assert (await browser(app).post("/reset/ada")).status_code == 409
    assert await get_session.sessions("ada") == []


@pytest.mark.parametrize("is_completed", [False, True])
async def test_a_user_can_sign_in_again_after_each_of_several_revocations(
    app, get_session, store, clock, is_completed
):
    """At once, even after one that was never completed and whose time is over."""
    settings = get_session.repository.settings
    if is_completed:
        await get_session.revoke_all("ada")
    else:
        store.hook = failing("delete_owned")
        with pytest.raises(StoreUnavailable):
            await get_session.revoke_all("ada")
        store.hook = pass_on
    clock.advance(settings.commit_timeout + settings.store_timeout)
    await get_session.revoke_all("ada")
    clock.advance(TICK)
    assert await is_live(await signed_in(app))


async def test_a_revocation_behind_by_its_clock_keeps_the_later_moment(
    app, get_session, store, clock
):
    """A second machine, whose clock is slow, does not let a rejected sign-in pass."""
    behind = make_provider(SpyStore(store.inner), clock=FrozenClock(clock.now - TICK))

    @app.post("/slow-sign-in")
    async def slow_sign_in(session: Annotated[UserSession, Depends(get_session)]) -> None:
        await get_session.revoke_all("ada")
        await behind.revoke_all("ada")
        session.renew(subject="ada")

    assert (await browser(app).post("/slow-sign-in")).status_code == 409


async def test_a_revocation_that_is_always_overtaken_is_an_error(app, get_session, store):
    """It gives up after ten tries: a 503, and an error that says what did not happen."""
    client = await signed_in(app)

    async def refuse(call: StoreCall) -> Any:
        return False if call.verb in ("create", "save") else await call.pass_on()

    store.hook = refuse
    store.calls.clear()
    with pytest.raises(
        StoreUnavailable, match=": the revocation of a subject's sessions could not"
    ):
        await get_session.revoke_all("ada")
    assert store.calls == ["create", "load"] * 10
    assert (await client.post("/password")).status_code == 503


async def test_a_revocation_whose_record_is_gone_in_the_end_ends_all_the_same(
    app, get_session, store
):
    """An administrator cleared the store meanwhile: a new sign-in is not held up."""
    client = await signed_in(app)

    async def clear() -> None:
        await store.inner.clear()

    store.hook = before("save", clear)
    assert await get_session.revoke_all("ada") == 1
    assert not await is_live(client)
    assert await is_live(await signed_in(app))


async def test_a_revocation_whose_end_is_always_overtaken_holds_sign_ins_up_for_a_time(
    app, get_session, store, clock
):
    """It has ended the sessions, and tries ten times to say so."""
    client = await signed_in(app)

    async def refuse(call: StoreCall) -> Any:
        return False if call.verb == "save" else await call.pass_on()

    store.hook = refuse
    store.calls.clear()
    assert await get_session.revoke_all("ada") == 1
    assert store.calls[-20:] == ["save", "load"] * 10
    store.hook = pass_on
    assert not await is_live(client)
    assert (await browser(app).post("/sign-in/ada")).status_code == 409
    settings = get_session.repository.settings
    clock.advance(settings.commit_timeout + settings.store_timeout)
    assert await is_live(await signed_in(app))


async def test_two_releases_find_the_revocations_of_each_other(get_session, store):
    """During a rolling deployment both look under the same key."""
    await get_session.revoke_all("ada")
    purpose = b"28:fastapi_async_sessions/owner7:session"
    owner_key = hmac.digest(SECRET.encode(), purpose, "sha256")
    owner = hmac.digest(owner_key, b"ada", "sha256").hex()
    key = hashlib.sha256(f"7:revoked7:session64:{owner}".encode()).hexdigest()
    assert set(await store.records()) == {key}
