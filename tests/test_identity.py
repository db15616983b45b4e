"""The subject of a session: signing in, signing out, and the age of a sign-in."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, HTTPException

from fastapi_async_sessions import ConfigurationError, Session, StoreUnavailable
from fastapi_async_sessions.testing import FrozenClock

from .apps import (
    COOKIE,
    Data,
    browser,
    cookie_value,
    make_app,
    make_provider,
    session_cookies,
    session_records,
    set_cookie_kind,
)
from .doubles import failing, pass_on
from .races import Client

MICROSECOND = timedelta(microseconds=1)
START = datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


def seen(session: Session[Data]) -> dict[str, Any]:
    """The public attributes of a session, as JSON."""
    return {
        "new": session.is_new,
        "subject": session.subject,
        "since": session.authenticated_at and session.authenticated_at.isoformat(),
        "count": session.data.count,
        "key": session.key,
    }


def make_site(get_session: Any) -> Any:
    """An application whose ``/renew`` makes each call of ``renew()`` in ``app.state.renewals``."""
    app = make_app()
    own_session = Annotated[Session[Data], Depends(get_session)]

    @app.get("/")
    async def read(session: own_session) -> dict[str, Any]:
        return seen(session)

    @app.post("/change")
    async def change(session: own_session) -> dict[str, Any]:
        session.data.count += 1
        return seen(session)

    @app.post("/renew")
    async def renew(session: own_session) -> dict[str, Any]:
        for arguments in app.state.renewals:
            session.renew(**arguments)
        return seen(session)

    @app.post("/renew-and-fail/{how}")
    async def renew_and_fail(session: own_session, how: str) -> None:
        session.data.count += 1
        session.renew(subject="42")
        raise HTTPException(418) if how == "http" else RuntimeError("told to fail")

    app.state.renewals = [{"subject": "42"}]
    return app


@pytest.fixture
def app(get_session) -> Any:
    return make_site(get_session)


# signing in


async def test_signing_in_binds_the_session_at_once(app, clock):
    """The route sees the subject and the time right after ``renew()``; ``is_new`` is unchanged."""
    client = browser(app)
    await client.post("/change")
    clock.advance(timedelta(minutes=1))
    answer = (await client.post("/renew")).json()
    assert answer["new"] is False
    assert answer["subject"] == "42"
    assert answer["since"] == clock().isoformat()
    assert answer["count"] == 1
    clock.advance(timedelta(minutes=1))
    assert (await client.get("/")).json() == answer


async def test_a_first_request_may_sign_in(app, store):
    """A new session with a subject is stored even if its data has not changed."""
    client = browser(app)
    answer = (await client.post("/renew")).json()
    assert (answer["new"], answer["subject"], answer["key"]) == (True, "42", None)
    assert store.calls == ["create", "load"]
    assert (await client.get("/")).json()["subject"] == "42"


async def test_signing_in_changes_the_token(app):
    """The cookie changes, and only the new one opens the session."""
    client = browser(app)
    before = cookie_value(await client.post("/change"))
    after = cookie_value(await client.post("/renew"))
    assert after != before
    assert (await browser(app, after).get("/")).json()["subject"] == "42"
    assert (await browser(app, before).get("/")).json()["new"] is True


async def test_the_store_keeps_nothing_of_the_old_token(app, get_session, store):
    """One record is left, under the same key, and the hash of the old secret is not in it."""
    client = browser(app)
    old, new = [
        get_session.verifier.verify([cookie_value(await client.post(path)).encode()])[0].token
        for path in ("/change", "/renew")
    ]
    ((key, record),) = (await store.records()).items()
    assert key == old.key("session") == new.key("session")
    assert old.secret_hash() not in record.body
    assert new.secret_hash() in record.body


async def test_signing_in_costs_one_save_and_one_check_for_revocations(app, store):
    """Together with the load of the session these are three calls of the store."""
    client = browser(app)
    await client.post("/change")
    store.calls.clear()
    await client.post("/renew")
    assert store.calls == ["load", "save", "load"]


@pytest.mark.parametrize("how", ["http", "crash"])
async def test_nothing_changes_when_the_route_raises_after_renewing(app, store, how):
    """The old token works, the session has no subject, nothing is written, no cookie is sent."""
    client = browser(app)
    old = cookie_value(await client.post("/change"))
    before = await store.records()
    store.calls.clear()
    response = await client.post(f"/renew-and-fail/{how}")
    assert response.status_code == (418 if how == "http" else 500)
    assert set_cookie_kind(response) is None
    assert store.writes == []
    assert await store.records() == before
    answer = (await browser(app, old).get("/")).json()
    assert (answer["new"], answer["subject"], answer["count"]) == (False, None, 1)


async def test_a_first_request_that_raises_after_renewing_stores_nothing(app, store):
    """Neither a record nor a cookie is left."""
    response = await browser(app).post("/renew-and-fail/http")
    assert set_cookie_kind(response) is None
    assert store.calls == []


async def test_the_old_token_stays_valid_if_a_renewal_cannot_be_saved(app, store):
    """The response is a 503 without a cookie, and the session is as it was."""
    client = browser(app)
    old = cookie_value(await client.post("/change"))
    store.hook = failing("save")
    response = await client.post("/renew")
    assert (response.status_code, set_cookie_kind(response)) == (503, None)
    store.hook = pass_on
    answer = (await browser(app, old).get("/")).json()
    assert (answer["new"], answer["subject"], answer["count"]) == (False, None, 1)


# renewing, signing out, signing in again


async def test_a_plain_renewal_changes_the_token_and_nothing_else(app, clock):
    """Subject, time of sign-in, data and key stay: a change of privilege is not a sign-in."""
    client = browser(app)
    first = cookie_value(await client.post("/renew"))
    answer = (await client.get("/")).json()
    clock.advance(timedelta(minutes=1))
    app.state.renewals = [{}]
    second = cookie_value(await client.post("/renew"))
    assert second != first
    assert (await client.get("/")).json() == answer
    assert (await browser(app, first).get("/")).json()["new"] is True


async def test_a_plain_renewal_of_an_unused_session_stores_nothing(app, store):
    """There is no token that an attacker could have planted."""
    app.state.renewals = [{}]
    response = await browser(app).post("/renew")
    assert set_cookie_kind(response) is None
    assert store.calls == []


async def test_signing_out_by_renewing_keeps_the_data(app, store):
    """``renew(subject=None)`` changes the token and drops the subject and the time of sign-in."""
    client = browser(app)
    await client.post("/change")
    signed_in = cookie_value(await client.post("/renew"))
    app.state.renewals = [{"subject": None}]
    response = await client.post("/renew")
    assert (response.json()["subject"], response.json()["since"]) == (None, None)
    assert cookie_value(response) != signed_in
    answer = (await client.get("/")).json()
    assert (answer["subject"], answer["since"], answer["count"]) == (None, None, 1)
    assert (await browser(app, signed_in).get("/")).json()["new"] is True
    assert [record.owner for record in (await store.records()).values()] == [None]


async def test_another_user_who_signs_in_begins_a_session_anew(app, get_session, clock, store):
    """What the user before left in it is gone at the call, and their session ends: its key opens
    nothing, and no list of devices shows it."""
    client = browser(app)
    await client.post("/change")
    of_42 = cookie_value(await client.post("/renew"))
    key = (await client.get("/")).json()["key"]
    clock.advance(timedelta(minutes=1))
    app.state.renewals = [{"subject": "7"}]
    store.calls.clear()
    answer = (await client.post("/renew")).json()
    assert store.calls == ["load", "create", "load", "delete", "create"]
    assert (answer["subject"], answer["since"]) == ("7", clock().isoformat())
    assert (answer["count"], answer["key"]) == (0, None)
    answer = (await client.get("/")).json()
    assert (answer["subject"], answer["count"], answer["key"] != key) == ("7", 0, True)
    assert await get_session.sessions("42") == []
    assert [each.subject for each in await get_session.sessions("7")] == ["7"]
    assert await get_session.revoke(key) is False
    assert (await browser(app, of_42).get("/")).json()["new"] is True
    assert list(await session_records(get_session, store)) == [answer["key"]]


async def test_an_administrator_acts_as_one_user_after_another(get_session, store, clock):
    """Each of two providers in a request has its own session: the users' sessions replace each
    other, and the administrator's stays, with its key and its data."""
    get_staff = make_provider(store, name="staff", clock=clock)
    app = make_site(get_session)

    @app.post("/staff/sign-in")
    async def sign_in(staff: Annotated[Session[Data], Depends(get_staff)]) -> None:
        staff.renew(subject="root")

    @app.post("/staff/act-as/{user}")
    async def act_as(
        user: str,
        session: Annotated[Session[Data], Depends(get_session)],
        staff: Annotated[Session[Data], Depends(get_staff.signed_in())],
    ) -> dict[str, Any]:
        staff.data.count += 1
        session.renew(subject=user)
        session.data.count = 7
        return {"staff": seen(staff), "user": seen(session)}

    client = browser(app)
    assert (await client.post("/staff/act-as/42")).status_code == 401
    await client.post("/staff/sign-in")
    (staff,) = await get_staff.sessions("root")
    for number, user in enumerate(["42", "7"], start=1):
        answer = (await client.post(f"/staff/act-as/{user}")).json()
        assert answer["staff"]["subject"] == "root"
        assert (answer["staff"]["key"], answer["staff"]["count"]) == (staff.key, number)
        answer = (await client.get("/")).json()
        assert (answer["subject"], answer["count"]) == (user, 7)
    assert await get_session.sessions("42") == []


async def test_a_session_that_another_user_cannot_replace_stays_as_it_was(app, get_session, store):
    """The sign-in fails as a whole: the user before stays signed in, and no other session stays."""
    client = browser(app)
    await client.post("/change")
    await client.post("/renew")
    before = (await client.get("/")).json()
    app.state.renewals = [{"subject": "7"}]
    store.hook = failing("delete")
    response = await client.post("/renew")
    store.hook = pass_on
    assert (response.status_code, set_cookie_kind(response)) == (503, None)
    assert (await client.get("/")).json() == before


@pytest.mark.parametrize(
    ("renewals", "subject"),
    [
        ([{"subject": "42"}, {}], "42"),
        ([{}, {"subject": "42"}], "42"),
        ([{"subject": "42"}, {"subject": None}], None),
        ([{"subject": None}, {"subject": "42"}], "42"),
        ([{"subject": "42"}] * 5, "42"),
    ],
    ids=str,
)
async def test_renewing_twice_is_one_renewal_and_the_last_subject_counts(
    app, store, renewals, subject
):
    """One write, one cookie; a plain renewal does not undo a sign-in."""
    client = browser(app)
    await client.post("/change")
    app.state.renewals = renewals
    store.calls.clear()
    response = await client.post("/renew")
    assert response.json()["subject"] == subject
    assert len(session_cookies(response)) == 1
    assert store.writes == ["save"]
    assert (await client.get("/")).json()["subject"] == subject
    assert len(await store.records()) == 1


async def test_of_two_users_who_sign_in_during_one_request_the_last_one_counts(
    app, get_session, store
):
    """What the request has made of the data for the first one is not for the second."""
    client = browser(app)
    await client.post("/change")
    app.state.renewals = [{"subject": "42"}, {"subject": "7"}]
    response = await client.post("/renew")
    assert (response.json()["subject"], len(session_cookies(response))) == ("7", 1)
    assert (await client.get("/")).json()["subject"] == "7"
    assert len(await session_records(get_session, store)) == 1
    assert await get_session.sessions("42") == []


# subjects

ODD_SUBJECTS = (
    "x",
    "x" * 255,
    "日" * 255,
    "🎈" * 255,
    "a:b",
    "session:42",
    " ",
    "a\nb",
    "../..",
    "*",
    "'; DROP TABLE sessions; --",
    '{"$ne": null}',
    "user@example.com",
    "É",
    "E\u0301",
)


@pytest.mark.parametrize("subject", ODD_SUBJECTS, ids=ascii)
async def test_a_subject_is_any_text_of_1_to_255_characters(app, get_session, subject):
    """It is returned exactly, and it lists and revokes the sessions of that user only."""
    client, other = browser(app), browser(app)
    await other.post("/renew")
    app.state.renewals = [{"subject": subject}]
    await client.post("/renew")
    assert (await client.get("/")).json()["subject"] == subject
    assert [each.subject for each in await get_session.sessions(subject)] == [subject]
    assert await get_session.revoke_all(subject) == 1
    assert (await client.get("/")).json()["new"] is True
    assert (await other.get("/")).json()["subject"] == "42"


@pytest.mark.parametrize(
    ("subject", "error"),
    [
        ("", ValueError),
        ("x" * 256, ValueError),
        ("\ud800", ValueError),
        ("a\x00b", ValueError),
        (42, TypeError),
        (b"42", TypeError),
        (0, TypeError),
    ],
    ids=ascii,
)
async def test_an_invalid_subject_is_rejected_at_once(get_session, subject, error):
    """``renew()`` raises, and the session is unchanged."""
    app = make_app()
    found: list[Any] = []

    @app.post("/")
    async def sign_in(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        with pytest.raises(error, match="subject"):
            session.renew(subject=subject)
        found.append(session.subject)

    response = await browser(app).post("/")
    assert (response.status_code, found) == (200, [None])
    assert set_cookie_kind(response) is None


@pytest.mark.parametrize("subject", [{}, {"subject": None}], ids=str)
async def test_persistence_can_only_be_set_at_a_sign_in(get_session, subject):
    """``persistent=`` without a subject is an error."""
    app = make_app()

    @app.post("/")
    async def renew(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        with pytest.raises(ValueError, match="need a sign-in"):
            session.renew(persistent=True, **subject)

    assert (await browser(app).post("/")).status_code == 200


# signed_in


def make_guarded(get_session: Any) -> Any:
    app = make_site(get_session)

    @app.get("/account", dependencies=[Depends(get_session.signed_in())])
    async def account() -> str:
        return "yours"

    within = get_session.signed_in(within=timedelta(minutes=10))

    @app.get("/transfer")
    async def transfer(session: Annotated[Session[Data], Depends(within)]) -> str | None:
        return session.subject

    return app


async def test_signed_in_responds_401_without_a_subject(get_session, store):
    """Without a session and with an anonymous one; nothing is stored."""
    client = browser(make_guarded(get_session))
    for detail in ("No session.", "Not signed in."):
        response = await client.get("/account")
        assert response.status_code == 401
        assert response.json() == {"detail": detail}
        assert response.headers["www-authenticate"] == "APIKey"
        assert (await client.get("/transfer")).status_code == 401
        assert set_cookie_kind(response) is None
        await client.post("/change")
    await client.post("/renew")
    assert (await client.get("/account")).status_code == 200


async def test_signed_in_responds_401_after_signing_out(get_session):
    """The session continues without its subject."""
    app = make_guarded(get_session)
    client = browser(app)
    await client.post("/renew")
    app.state.renewals = [{"subject": None}]
    await client.post("/renew")
    assert (await client.get("/account")).status_code == 401
    assert (await client.get("/transfer")).status_code == 401


@pytest.mark.parametrize("offset", [-MICROSECOND, timedelta(0), MICROSECOND], ids=str)
async def test_signed_in_within_requires_a_recent_sign_in(get_session, clock, offset):
    """Ten minutes are recent enough, a microsecond more is not; signing in again helps."""
    client = browser(make_guarded(get_session))
    await client.post("/renew")
    clock.advance(timedelta(minutes=10) + offset)
    response = await client.get("/transfer")
    assert response.status_code == (401 if offset > timedelta(0) else 200)
    assert (await client.get("/account")).status_code == 200
    await client.post("/renew")
    assert (await client.get("/transfer")).json() == "42"


async def test_neither_activity_nor_a_plain_renewal_counts_as_a_sign_in(get_session, clock):
    """``within`` is measured from the last sign-in, not from the last request."""
    app = make_guarded(get_session)
    client = browser(app)
    await client.post("/renew")
    app.state.renewals = [{}]
    for _ in range(11):
        clock.advance(timedelta(minutes=1))
        await client.post("/change")
        await client.post("/renew")
    response = await client.get("/transfer")
    assert response.status_code == 401
    assert response.json() == {"detail": "Please sign in again."}


async def test_a_sign_in_stays_recent_when_the_clock_steps_back(get_session, clock):
    """A negative age is not an error."""
    client = browser(make_guarded(get_session))
    await client.post("/renew")
    clock.advance(timedelta(minutes=-30))
    assert (await client.get("/transfer")).json() == "42"


# the key


async def test_a_key_never_changes(app):
    """It survives changes, renewals, sign-in and sign-out, so that a list of devices can use it."""
    client = browser(app)
    await client.post("/change")
    keys = {(await client.get("/")).json()["key"]}
    for renewals in ([{}], [{"subject": "42"}], [{"subject": None}], [{"subject": "7"}]):
        app.state.renewals = renewals
        await client.post("/renew")
        keys.add((await client.get("/")).json()["key"])
    assert len(keys) == 1
    (key,) = keys
    assert len(key) == 64


async def test_a_key_does_not_open_a_session(app, get_session):
    """Neither alone, nor with a signature of the library, nor in place of a token."""
    client = browser(app)
    signed = cookie_value(await client.post("/renew"))
    key = (await client.get("/")).json()["key"]
    assert key not in signed
    signature = signed.partition(".")[2]
    for value in (key, f"{key}.{signature}", key.upper(), f"{COOKIE}={key}"):
        assert (await browser(app, value).get("/")).json()["new"] is True


async def test_two_sessions_of_one_user_have_two_keys(app):
    """Each device has a key of its own."""
    keys = set()
    for _ in range(3):
        client = browser(app)
        await client.post("/renew")
        keys.add((await client.get("/")).json()["key"])
    assert len(keys) == 3


async def test_a_lifetime_that_is_no_lifetime_is_rejected_at_once(get_session):
    """``renew()`` raises, and nobody is signed in."""
    app = make_app()

    @app.post("/")
    async def sign_in(session: Annotated[Session[Data], Depends(get_session)]) -> str | None:
        with pytest.raises(
            TypeError, match=r"takes a Lifetime: Lifetime\(idle=..., absolute=...\)"
        ):
            session.renew(subject="ada", lifetime=timedelta(days=30))  # type: ignore[arg-type]
        return session.subject

    assert (await browser(app).post("/")).json() is None


async def test_a_user_who_is_replaced_by_nobody_is_signed_out(get_session, store):
    """The route signs another user in and out again: the session of the one before ends."""
    client = Client(get_session)
    await client.sign_in("42")

    async def route(session):
        session.renew(subject="7")
        session.renew(subject=None)

    before = client.copy()
    assert (await client.request(route)).is_ok
    assert await get_session.sessions("42") == []
    assert not await before.is_live()
    assert len(await session_records(get_session, store)) == 1


async def test_a_user_who_signs_in_after_another_was_signed_out_finds_no_data(get_session):
    """Also in one request: the data is that of the user who was signed in when it began."""
    client = Client(get_session)
    await client.sign_in("42")

    async def change(session):
        session.data.count = 5

    async def route(session):
        session.renew(subject=None)
        session.renew(subject="7")
        return session.data.count

    await client.request(change)
    assert (await client.request(route)).value == 0
    assert (await client.data()).count == 0
    assert await get_session.sessions("42") == []


async def test_of_two_users_who_sign_in_one_after_another_the_last_is_signed_in(get_session):
    """In one request without a session: with data of its own, and nothing to end."""
    client = Client(get_session)

    async def route(session):
        session.renew(subject="42")
        session.data.count = 5
        session.renew(subject="7")
        return session.subject, session.data.count

    assert (await client.request(route)).value == ("7", 0)
    assert await get_session.sessions("42") == []
    assert len(await get_session.sessions("7")) == 1


async def test_a_session_is_new_once_it_was_destroyed(get_session):
    """In the same request."""
    client = Client(get_session)
    await client.sign_in("42")

    async def route(session):
        before = session.is_new
        await session.destroy()
        return before, session.is_new, session.subject, session.key

    assert (await client.request(route)).value == (False, True, None, None)


async def test_a_renewal_extends_the_session_at_once(get_session, clock):
    """``expires_at`` counts from this request in the route already."""
    client = Client(get_session)
    await client.sign_in("42")
    clock.advance(timedelta(minutes=30))

    async def route(session):
        before = session.expires_at
        session.renew()
        return before, session.expires_at

    before, after = (await client.request(route)).value
    assert timedelta(minutes=29) < after - before <= timedelta(minutes=30)


async def test_a_failed_change_of_users_leaves_the_cookie_of_the_user_before(get_session, store):
    """Also if the store fails for a moment only, so that the new session can be deleted again."""
    client = Client(get_session)
    await client.sign_in("42")
    deletes = 0

    async def fail_once(call):
        nonlocal deletes
        deletes += call.verb == "delete"
        if call.verb == "delete" and deletes == 1:
            raise StoreUnavailable("down for a moment")
        return await call.pass_on()

    async def route(session):
        session.renew(subject="7")

    store.hook = fail_once
    answer = await client.request(route)
    assert isinstance(answer.error, StoreUnavailable)
    assert (answer.cookie, deletes) == (None, 2)
    assert await client.is_live()
    assert await get_session.sessions("7") == []


@pytest.mark.parametrize("within", [timedelta(0), timedelta(seconds=-1)])
def test_a_sign_in_cannot_be_required_within_no_time(get_session, within):
    """It would refuse everybody."""
    with pytest.raises(ConfigurationError, match="positive"):
        get_session.signed_in(within=within)


async def test_after_a_sign_out_of_a_session_that_has_ended_the_session_is_new(get_session):
    """In the same request, as after ``destroy()``."""
    client = Client(get_session)
    await client.sign_in("42")

    async def destroy(session):
        await session.destroy()

    async def route(session):
        await client.copy().request(destroy)
        session.renew(subject=None)
        await session.commit()
        return session.is_new, session.subject, session.key

    answer = await client.copy().request(route)
    assert (answer.value, answer.cookie) == ((True, None, None), "")
