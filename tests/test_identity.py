"""Who a session belongs to: signing in, signing out, and how long ago that was."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, HTTPException

from fastapi_async_sessions import Session
from fastapi_async_sessions.testing import FrozenClock

from .apps import COOKIE, Data, browser, cookie_value, make_app, session_cookies, set_cookie_kind
from .doubles import failing, pass_on

MICROSECOND = timedelta(microseconds=1)
START = datetime(2026, 3, 1, 9, tzinfo=UTC)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


def seen(session: Session[Data]) -> dict[str, Any]:
    """What a session says of itself."""
    return {
        "new": session.is_new,
        "subject": session.subject,
        "since": session.authenticated_at and session.authenticated_at.isoformat(),
        "count": session.data.count,
        "key": session.key,
    }


def make_site(get_session: Any) -> Any:
    """An application whose one route renews its session in whatever way it is told to."""
    app = make_app()
    site_session = Annotated[Session[Data], Depends(get_session)]

    @app.get("/")
    async def read(session: site_session) -> dict[str, Any]:
        return seen(session)

    @app.post("/change")
    async def change(session: site_session) -> dict[str, Any]:
        session.data.count += 1
        return seen(session)

    @app.post("/renew")
    async def renew(session: site_session) -> dict[str, Any]:
        for wish in app.state.wishes:
            session.renew(**wish)
        return seen(session)

    @app.post("/renew-and-fail/{how}")
    async def renew_and_fail(session: site_session, how: str) -> None:
        session.data.count += 1
        session.renew(subject="42")
        raise HTTPException(418) if how == "http" else RuntimeError("told to fail")

    app.state.wishes = [{"subject": "42"}]
    return app


@pytest.fixture
def app(get_session) -> Any:
    return make_site(get_session)


# signing in


async def test_signing_in_binds_the_session_at_once(app, clock):
    """The route sees the subject and the time right after ``renew()``, and ``is_new`` stays."""
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
    """A new session with a subject is stored although its data is what it began with."""
    client = browser(app)
    answer = (await client.post("/renew")).json()
    assert (answer["new"], answer["subject"], answer["key"]) == (True, "42", None)
    assert store.calls == ["create", "load"]
    assert (await client.get("/")).json()["subject"] == "42"


async def test_signing_in_gives_another_token(app):
    """The cookie changes, and only the new one opens the session."""
    client = browser(app)
    before = cookie_value(await client.post("/change"))
    after = cookie_value(await client.post("/renew"))
    assert after != before
    assert (await browser(app, after).get("/")).json()["subject"] == "42"
    assert (await browser(app, before).get("/")).json()["new"] is True


async def test_the_old_token_is_dead_in_the_store_too(app, get_session, store):
    """One record is left, under the same key, and no part of it fits the old secret."""
    client = browser(app)
    old = get_session.verifier.verify([cookie_value(await client.post("/change")).encode()]).token
    new = get_session.verifier.verify([cookie_value(await client.post("/renew")).encode()]).token
    ((key, record),) = (await store.records()).items()
    assert key == old.key("session") == new.key("session")
    assert old.secret_hash() not in record.body
    assert new.secret_hash() in record.body


async def test_signing_in_is_one_save_and_one_look_at_the_revocations(app, store):
    """Three store calls with the load: the cost that the design promises."""
    client = browser(app)
    await client.post("/change")
    store.calls.clear()
    await client.post("/renew")
    assert store.calls == ["load", "save", "load"]


@pytest.mark.parametrize("how", ["http", "crash"])
async def test_nothing_changes_when_the_route_raises_after_renewing(app, store, how):
    """The old token works, the session has no subject, nothing was written, no cookie leaves."""
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


async def test_a_first_request_that_raises_after_renewing_leaves_nothing(app, store):
    """No record and no cookie."""
    response = await browser(app).post("/renew-and-fail/http")
    assert set_cookie_kind(response) is None
    assert store.calls == []


async def test_a_renewal_that_the_store_refuses_leaves_the_old_token(app, store):
    """503, no cookie, and the session is as it was."""
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
    """Subject, time of sign-in, data and key stay: a change of privilege is no sign-in."""
    client = browser(app)
    first = cookie_value(await client.post("/renew"))
    answer = (await client.get("/")).json()
    clock.advance(timedelta(minutes=1))
    app.state.wishes = [{}]
    second = cookie_value(await client.post("/renew"))
    assert second != first
    assert (await client.get("/")).json() == answer
    assert (await browser(app, first).get("/")).json()["new"] is True


async def test_a_plain_renewal_of_an_unused_session_stores_nothing(app, store):
    """There is no token that anybody could have planted."""
    app.state.wishes = [{}]
    response = await browser(app).post("/renew")
    assert set_cookie_kind(response) is None
    assert store.calls == []


async def test_signing_out_unbinds_and_keeps_the_data(app, store):
    """``renew(subject=None)``: another token, no subject, no time of sign-in, on no list."""
    client = browser(app)
    await client.post("/change")
    signed_in = cookie_value(await client.post("/renew"))
    app.state.wishes = [{"subject": None}]
    response = await client.post("/renew")
    assert (response.json()["subject"], response.json()["since"]) == (None, None)
    assert cookie_value(response) != signed_in
    answer = (await client.get("/")).json()
    assert (answer["subject"], answer["since"], answer["count"]) == (None, None, 1)
    assert (await browser(app, signed_in).get("/")).json()["new"] is True
    assert [record.subject for record in (await store.records()).values()] == [None]


async def test_another_user_may_sign_in_over_a_signed_in_session(app, get_session, clock):
    """The session is the new user's from then on, and on nobody else's list."""
    client = browser(app)
    await client.post("/renew")
    clock.advance(timedelta(minutes=1))
    app.state.wishes = [{"subject": "7"}]
    answer = (await client.post("/renew")).json()
    assert (answer["subject"], answer["since"]) == ("7", clock().isoformat())
    assert await get_session.sessions("42") == []
    assert [each.subject for each in await get_session.sessions("7")] == ["7"]


@pytest.mark.parametrize(
    ("wishes", "subject"),
    [
        ([{"subject": "42"}, {}], "42"),
        ([{}, {"subject": "42"}], "42"),
        ([{"subject": "42"}, {"subject": "7"}], "7"),
        ([{"subject": "42"}, {"subject": None}], None),
        ([{"subject": None}, {"subject": "42"}], "42"),
        ([{"subject": "42"}] * 5, "42"),
    ],
    ids=str,
)
async def test_renewing_twice_is_one_renewal_and_the_last_subject_counts(
    app, store, wishes, subject
):
    """One write, one cookie; a plain renewal does not take a sign-in back."""
    client = browser(app)
    await client.post("/change")
    app.state.wishes = wishes
    store.calls.clear()
    response = await client.post("/renew")
    assert response.json()["subject"] == subject
    assert len(session_cookies(response)) == 1
    assert store.writes == ["save"]
    assert (await client.get("/")).json()["subject"] == subject
    assert len(await store.records()) == 1


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
    """It comes back exactly, and lists and revokes that user's sessions only."""
    client, other = browser(app), browser(app)
    await other.post("/renew")
    app.state.wishes = [{"subject": subject}]
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
async def test_what_is_no_subject_is_refused_at_once(get_session, subject, error):
    """Where ``renew`` is called, and the session stays as it was."""
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
async def test_a_lifetime_belongs_to_a_sign_in(get_session, subject):
    """A renewal that signs nobody in can't bring one."""
    app = make_app()

    @app.post("/")
    async def renew(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        with pytest.raises(ValueError, match="go with"):
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


async def test_signed_in_answers_401_to_nobody(get_session, store):
    """To no session and to a session that nobody has signed in to; nothing is stored."""
    client = browser(make_guarded(get_session))
    for _ in range(2):
        response = await client.get("/account")
        assert response.status_code == 401
        assert response.json() == {"detail": "Not signed in."}
        assert response.headers["www-authenticate"] == "APIKey"
        assert (await client.get("/transfer")).status_code == 401
        assert set_cookie_kind(response) is None
        await client.post("/change")
    await client.post("/renew")
    assert (await client.get("/account")).status_code == 200


async def test_signed_in_answers_401_after_signing_out(get_session):
    """The session lives on without its subject."""
    app = make_guarded(get_session)
    client = browser(app)
    await client.post("/renew")
    app.state.wishes = [{"subject": None}]
    await client.post("/renew")
    assert (await client.get("/account")).status_code == 401
    assert (await client.get("/transfer")).status_code == 401


@pytest.mark.parametrize("offset", [-MICROSECOND, timedelta(0), MICROSECOND], ids=str)
async def test_signed_in_within_asks_for_a_fresh_sign_in(get_session, clock, offset):
    """Ten minutes are fresh enough, a microsecond more is not; signing in again is."""
    client = browser(make_guarded(get_session))
    await client.post("/renew")
    clock.advance(timedelta(minutes=10) + offset)
    response = await client.get("/transfer")
    assert response.status_code == (401 if offset > timedelta(0) else 200)
    assert (await client.get("/account")).status_code == 200
    await client.post("/renew")
    assert (await client.get("/transfer")).json() == "42"


async def test_neither_activity_nor_a_plain_renewal_is_a_sign_in(get_session, clock):
    """``within`` counts from the last password, not from the last click."""
    app = make_guarded(get_session)
    client = browser(app)
    await client.post("/renew")
    app.state.wishes = [{}]
    for _ in range(11):
        clock.advance(timedelta(minutes=1))
        await client.post("/change")
        await client.post("/renew")
    response = await client.get("/transfer")
    assert response.status_code == 401
    assert response.json() == {"detail": "Please sign in again."}


async def test_a_clock_that_stepped_back_keeps_a_sign_in_fresh(get_session, clock):
    """A negative age is no error."""
    client = browser(make_guarded(get_session))
    await client.post("/renew")
    clock.advance(timedelta(minutes=-30))
    assert (await client.get("/transfer")).json() == "42"


# the key


async def test_a_key_stays_for_the_session_s_life(app):
    """Changes, renewals, sign-in and sign-out keep it; a device list can rely on it."""
    client = browser(app)
    await client.post("/change")
    keys = {(await client.get("/")).json()["key"]}
    for wishes in ([{}], [{"subject": "42"}], [{"subject": "7"}], [{"subject": None}]):
        app.state.wishes = wishes
        await client.post("/renew")
        keys.add((await client.get("/")).json()["key"])
    assert len(keys) == 1
    (key,) = keys
    assert len(key) == 64


async def test_a_key_is_no_cookie(app, get_session):
    """As it is, signed by us as something else, or in the place of a token."""
    client = browser(app)
    signed = cookie_value(await client.post("/renew"))
    key = (await client.get("/")).json()["key"]
    assert key not in signed
    signature = signed.partition(".")[2]
    for value in (key, f"{key}.{signature}", key.upper(), f"{COOKIE}={key}"):
        assert (await browser(app, value).get("/")).json()["new"] is True


async def test_two_sessions_of_one_user_have_two_keys(app):
    """As many devices, as many keys."""
    keys = set()
    for _ in range(3):
        client = browser(app)
        await client.post("/renew")
        keys.add((await client.get("/")).json()["key"])
    assert len(keys) == 3
