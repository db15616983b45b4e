"""The session cookie: its options, the header that sets it, the headers that are read."""

from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Response

from fastapi_async_sessions import (
    ConfigurationError,
    CookieConfig,
    Lifetime,
    MemoryStore,
    Session,
)
from fastapi_async_sessions._web.cookies import Cookie
from fastapi_async_sessions.testing import FrozenClock

from .apps import (
    COOKIE,
    OLDER_SECRET,
    SECRET,
    Data,
    browser,
    call,
    cookie_value,
    make_app,
    make_provider,
    session_cookies,
    set_cookie_kind,
)
from .doubles import SpyStore

EVERY_ATTRIBUTE = {"samesite": "strict", "domain": "example.com", "path": "/a", "partitioned": True}

MESSAGES = {
    "secure": "CookieConfig(secure=...) takes True or False",
    "partitioned": "CookieConfig(partitioned=...) takes True or False",
    "types": "CookieConfig(path=..., domain=...) takes strings",
    "samesite": 'CookieConfig(samesite=...) takes "lax", "strict" or "none"',
    'samesite="none"': 'CookieConfig(samesite="none") needs secure=True',
    "partitioned=True": "CookieConfig(partitioned=True) needs secure=True",
    "path": (
        'CookieConfig(path=...) must start with "/" and have at most 1024 printable ASCII '
        'characters, without spaces and ";"'
    ),
    "domain": (
        'CookieConfig(domain=...) takes a host name such as "example.com", without a leading dot'
    ),
}
CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"samesite": "none", "secure": False}, 'samesite="none"'),
    ({"samesite": "laxx"}, "samesite"),
    ({"samesite": "Lax"}, "samesite"),
    ({"samesite": None}, "samesite"),
    ({"partitioned": True, "secure": False}, "partitioned=True"),
    ({"secure": "false"}, "secure"),
    ({"partitioned": 1}, "partitioned"),
    ({"path": None}, "types"),
    ({"domain": 5}, "types"),
    *(
        ({"path": path}, "path")
        for path in (
            "",
            "a",
            "/; Domain=x",
            "/\r\nX: y",
            "/a\n",
            "/\x00",
            "/a b",
            "/ä",
            "/" + "a" * 1024,
        )
    ),
    *(
        ({"domain": domain}, "domain")
        for domain in (
            "",
            "a; Path=/",
            ".example.com",
            "example.com.",
            "exämple.com",
            "a b",
            "a\r\nb",
            "-a.com",
            "-",
            "a-",
            "a.-b",
            "x" * 64 + ".com",
            "a." * 126 + "aa",
            "https://example.com",
            "example.com:443",
        )
    ),
]


@pytest.mark.parametrize(("options", "rule"), CONTRADICTIONS)
def test_a_cookie_that_browsers_would_reject_is_an_error_where_it_is_written(
    options: dict[str, Any], rule: str
) -> None:
    """So is one that they would read otherwise; the error states the rule."""
    with pytest.raises(ConfigurationError) as raised:
        CookieConfig(**options)
    assert str(raised.value) == MESSAGES[rule]


@pytest.mark.parametrize(
    "options", [{"path": "/" + "a" * 1023}, {"domain": "a." * 126 + "a"}], ids=["path", "domain"]
)
def test_the_longest_path_and_domain_are_accepted(options: dict[str, Any]) -> None:
    """1024 characters (RFC 6265bis, 5.6) and 253 (RFC 1035, 2.3.4)."""
    ((name, value),) = options.items()
    header = Cookie("session", CookieConfig(**options)).set("x", None).decode()
    assert f"; {name.capitalize()}={value};" in header


HEADERS: list[tuple[dict[str, Any], str]] = [
    ({}, "__Host-session={}; Path=/; HttpOnly; Secure; SameSite=Lax"),
    ({"samesite": "strict"}, "__Host-session={}; Path=/; HttpOnly; Secure; SameSite=Strict"),
    ({"samesite": "none"}, "__Host-session={}; Path=/; HttpOnly; Secure; SameSite=None"),
    # "session" is the cookie of Starlette's SessionMiddleware and of Flask
    ({"secure": False}, "app-session={}; Path=/; HttpOnly; SameSite=Lax"),
    ({"path": "/a"}, "__Secure-session={}; Path=/a; HttpOnly; Secure; SameSite=Lax"),
    (
        {"domain": "example.com"},
        "__Secure-session={}; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax",
    ),
    (
        {"samesite": "none", "partitioned": True},
        "__Host-session={}; Path=/; HttpOnly; Secure; SameSite=None; Partitioned",
    ),
    (
        EVERY_ATTRIBUTE,
        "__Secure-session={}; Path=/a; Domain=example.com; HttpOnly; Secure; SameSite=Strict; "
        "Partitioned",
    ),
    (
        {"persistent": True},
        "__Host-session={}; Max-Age=86400; Path=/; HttpOnly; Secure; SameSite=Lax",
    ),
]
EXPIRED = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"


def make_cookie_app(get_session: Any) -> FastAPI:
    app = make_app()
    UserSession = Annotated[Session[Data], Depends(get_session)]

    @app.get("/a/count")
    async def count(session: UserSession) -> int:
        session.data.count += 1
        return session.data.count

    @app.get("/a/read")
    async def read(session: UserSession) -> int:
        return session.data.count

    @app.get("/a/renew")
    async def renew(session: UserSession) -> None:
        session.renew()

    @app.get("/a/end")
    async def end(session: UserSession) -> None:
        await session.destroy()

    return app


def raw_set_cookies(headers: list[tuple[bytes, bytes]]) -> list[str]:
    return [value.decode() for name, value in headers if name == b"set-cookie"]


def sent(cookie: str) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", cookie.encode())]


@pytest.mark.parametrize(("options", "header"), HEADERS)
async def test_the_exact_header_that_sets_the_cookie_and_the_one_that_deletes_it(
    options: dict[str, Any], header: str
) -> None:
    """They differ only in value and age, or a browser would not delete the cookie."""
    app = make_cookie_app(make_provider(clock=FrozenClock(), cookie=CookieConfig(**options)))
    _, headers, _ = await call(app, "/a/count")
    (created,) = raw_set_cookies(headers)
    pair = created.partition(";")[0]
    name, _, value = pair.partition("=")
    assert created == header.format(value)
    assert len(value) == 64 + 1 + 43
    _, headers, body = await call(app, "/a/read", headers=sent(pair))
    assert (raw_set_cookies(headers), body) == ([], b"1")
    _, headers, _ = await call(app, "/a/end", headers=sent(pair))
    (removed,) = raw_set_cookies(headers)
    aged = header.format("").replace("; Max-Age=86400", "")
    assert removed == aged.replace(f"{name}=;", f"{name}=; {EXPIRED};")


@pytest.mark.parametrize("options", [options for options, _ in HEADERS])
async def test_a_browser_deletes_the_cookie_of_a_destroyed_session(options: dict[str, Any]) -> None:
    """Whatever the attributes of the cookie."""
    app = make_cookie_app(make_provider(cookie=CookieConfig(**options)))
    async with browser(app) as client:
        client.base_url = f"https://{options.get('domain') or 'testserver'}"  # type: ignore[assignment]
        await client.get("/a/count")
        assert len(client.cookies) == 1
        assert (await client.get("/a/read")).json() == 1
        await client.get("/a/end")
        assert len(client.cookies) == 0


async def test_a_persistent_cookie_lives_until_the_absolute_end_of_its_session() -> None:
    """``Max-Age`` does not say the idle end, which moves: no extension sends the cookie again, and
    a renewal, which does, says what is left."""
    clock = FrozenClock()
    lifetime = Lifetime(idle=timedelta(minutes=10), absolute=timedelta(minutes=15))
    cookie = CookieConfig(persistent=True)
    app = make_cookie_app(
        make_provider(MemoryStore(clock=clock), clock=clock, lifetime=lifetime, cookie=cookie)
    )

    async with browser(app) as client:
        ages: list[str | None] = []
        for path in ("/a/count", "/a/read", "/a/count", "/a/renew", "/a/read"):
            headers = session_cookies(await client.get(path))
            ages.append(headers[0].split("; ")[1] if headers else None)
            clock.advance(timedelta(minutes=4))
        assert (await client.get("/a/read")).json() == 0
    assert ages == ["Max-Age=900", None, None, "Max-Age=180", None]


async def test_a_persistent_cookie_without_an_absolute_end_lives_as_long_as_browsers_allow() -> (
    None
):
    """The record decides when the session has ended."""
    lifetime = Lifetime(idle=timedelta(days=14), absolute=None)
    cookie = CookieConfig(persistent=True)
    async with browser(make_cookie_app(make_provider(lifetime=lifetime, cookie=cookie))) as client:
        (header,) = session_cookies(await client.get("/a/count"))
    assert "; Max-Age=34560000;" in header


@pytest.mark.parametrize(
    ("age", "seconds"),
    [
        (timedelta(seconds=1.5), 2),
        (timedelta(microseconds=1), 1),
        (timedelta(0), 1),
        (timedelta(seconds=-990), 1),
        (timedelta(days=1, seconds=1), 86401),
        (timedelta(days=400), 34560000),
        (timedelta(days=4000), 34560000),
    ],
)
def test_max_age_is_a_whole_number_of_seconds_from_1_to_400_days(
    age: timedelta, seconds: int
) -> None:
    """RFC 6265bis has that limit, and an age of 0 or less would delete the cookie."""
    header = Cookie("session", CookieConfig(persistent=True)).set("x", age)
    assert f"; Max-Age={seconds};".encode() in header


async def test_the_default_cookie_does_not_outlive_the_browser() -> None:
    """It has neither ``Max-Age`` nor ``Expires`` (NIST SP 800-63B-4, 5.1)."""
    async with browser(make_cookie_app(make_provider())) as client:
        (header,) = session_cookies(await client.get("/a/count"))
    assert "max-age" not in header.lower()
    assert "expires" not in header.lower()


async def test_a_cookie_reveals_neither_the_framework_nor_anything_of_its_session() -> None:
    """The name is generic, and the value is random: it contains no data, subject or key."""
    get_session = make_provider()
    app = make_app()

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> str | None:
        session.data.count = 123456
        session.renew(subject="ada@example.com")
        await session.commit()
        return session.key

    async with browser(app) as client:
        response = await client.get("/")
        (header,) = session_cookies(response)
    assert "fastapi" not in header.lower()
    for hidden in ("123456", "ada", response.json()):
        assert hidden not in header


# reading


@pytest.fixture
def store() -> SpyStore:
    return SpyStore(MemoryStore())


@pytest.fixture
def app(store: SpyStore) -> FastAPI:
    return make_cookie_app(make_provider(store))


async def valid_cookie(app: FastAPI) -> str:
    async with browser(app) as client:
        return cookie_value(await client.get("/a/count"))


async def count_seen(app: FastAPI, *headers: bytes) -> int:
    """What ``/a/read`` returns for these ``Cookie`` headers: 1 with the session, 0 without."""
    status, sent_headers, body = await call(
        app, "/a/read", headers=[(b"cookie", header) for header in headers]
    )
    assert (status, raw_set_cookies(sent_headers)) == (200, [])
    return int(body)


ACCEPTED = [
    [b"__Host-session=%s"],
    [b"a=1; __Host-session=%s; b=2"],
    [b"a=1;__Host-session=%s;b=2"],
    [b" __Host-session = %s "],
    [b"\t__Host-session\t=\t%s\t;"],
    [b"a=1", b"__Host-session=%s"],
    [b"a=1", b"b=2; __Host-session=%s", b"c=3"],
    [b"__Host-session=%s; __Host-session=%s"],
    [b"__Host-session=%s", b"__Host-session=%s"],
    [b"__Host-session=forged; __Host-session=%s"],
    [b"__Host-session=%s; __Host-session=forged"],
    [b"__Host-session=%s", b"__Host-session=forged"],
    [b"__Host-session=; __Host-session=%s"],
    [b"x\xff\xfe=\xa0; __Host-session=%s"],
    [b"__Host-session=" + b"x" * 4097 + b"; __Host-session=%s"],
    [b"__Host-session=x;" * 7 + b"__Host-session=%s"],
    # with a cookie of 108 characters: a header of 65536 bytes, and a value of 4095
    [b"y" * 65411 + b"; __Host-session=%s"],
    [b"__Host-session=" + b" " * 3987 + b"%s"],
    [b"z" * 100_000, b"__Host-session=%s"],
]

IGNORED = [
    [b""],
    [b"%s"],
    [b"__Host-session"],
    [b"__Host-session; %s"],
    [b"=%s"],
    [b"=__Host-session=%s"],
    [b"session=%s"],
    [b"__Secure-session=%s"],
    [b"__HOST-session=%s"],
    [b"__host-session=%s"],
    [b"__Host-Session=%s"],
    [b"%%5F%%5FHost-session=%s"],
    [b"x__Host-session=%s"],
    [b"__Host-sessionx=%s"],
    [b"__Host-__Host-session=%s"],
    [b"\xa0__Host-session=%s"],
    [b"\x85__Host-session=%s"],
    [b"\xe2\x80\x80__Host-session=%s"],
    [b"\x0b__Host-session=%s"],
    [b"\x0c__Host-session=%s"],
    *([bytes([control]) + b"__Host-session=%s"] for control in range(0x1C, 0x20)),
    *([b"__Host-session" + bytes([control]) + b"=%s"] for control in (0xA0, 0x85, 0x1C, 0)),
    [b'__Host-session="%s"'],
    [b'$Version=1; __Host-session="%s"; $Path=/'],
    [b"__Host-session=\\%s"],
    [b"__Host-session=%%2e%s"],
    [b"__Host-session=%s\xa0"],
    [b"__Host-session=%s\x0b"],
    [b"__Host-session=\x0c%s"],
    [b"__Host-session=\xa0%s"],
    [b"__Host-session=%s, a=b"],
    [b"a=1, __Host-session=%s"],
    [b"__Host-session=%s x"],
    [b"__Host-session=" + b" " * 3988 + b"%s"],
    [b"__Host-session=x;" * 8 + b"__Host-session=%s"],
    [b"__Host-session=%s;" + b"__Host-session=x;" * 200],
    [b"y" * 65412 + b"; __Host-session=%s"],
    [b"__Host-session=%s; " + b"y" * 32768] * 2,
    [b"__Host-session=%s", b"; __Host-session=x" + b"y" * 65536],
    [b"__Host-session=" + b"\\a" * 32768 + b"; __Host-session=%s"],
    [b";" * 1_000_000 + b"__Host-session=%s"],
]


def _filled(headers: list[bytes], value: str) -> list[bytes]:
    return [header.replace(b"%s", value.encode()).replace(b"%%", b"%") for header in headers]


async def test_only_a_session_cookie_of_the_route_is_replaced(get_session: Any) -> None:
    """A name ends at spaces and tabs (RFC 6265bis, 5.6); one that is longer is another cookie."""
    app = make_app()
    others = [f"X{COOKIE}=1", f"\x0c{COOKIE}=1", f"{COOKIE}X=1"]

    @app.get("/")
    async def route(session: Annotated[Session[Data], Depends(get_session)]) -> Response:
        session.data.count += 1
        response = Response()
        for cookie in (f"{COOKIE}=stale; Path=/", f"\t{COOKIE} =stale", *others):
            response.headers.append("set-cookie", cookie)
        return response

    _, headers, _ = await call(app)
    *kept, ours = raw_set_cookies(headers)
    assert kept == others
    assert ours.startswith(f"{COOKIE}=")


@pytest.mark.parametrize("headers", ACCEPTED)
async def test_a_session_is_found_in_these_headers(
    app: FastAPI, store: SpyStore, headers: list[bytes]
) -> None:
    """Among other cookies, and among forgeries of its own name in any order."""
    filled = _filled(headers, await valid_cookie(app))
    store.calls.clear()
    assert await count_seen(app, *filled) == 1
    assert store.calls == ["load"]


@pytest.mark.parametrize("headers", IGNORED)
async def test_these_headers_have_no_session(
    app: FastAPI, store: SpyStore, headers: list[bytes]
) -> None:
    """Other names, quoted or damaged values, too many or too long cookies: a new session."""
    filled = _filled(headers, await valid_cookie(app))
    store.calls.clear()
    assert await count_seen(app, *filled) == 0
    assert store.calls == []


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"domain": "example.com"}, {"domain": "shop.example.com"}),
        ({"path": "/a"}, {"path": "/"}),
        ({"path": "/a"}, {"path": "/a/count"}),
        ({}, {"partitioned": True}),
    ],
)
async def test_a_cookie_of_other_attributes_is_no_session(
    store: SpyStore, before: dict[str, Any], now: dict[str, Any]
) -> None:
    """A browser that still has it sends both, and the one of today counts."""
    secure = {"domain": "example.com"} if "path" in now else {}  # one prefix, so that names agree
    old, new = (
        make_cookie_app(make_provider(store, cookie=CookieConfig(**{**secure, **each})))
        for each in (before, now)
    )
    cookies = [raw_set_cookies((await call(app, "/a/count"))[1])[0] for app in (old, new)]
    outdated, current = (cookie.partition(";")[0].encode() for cookie in cookies)
    assert outdated.partition(b"=")[0] == current.partition(b"=")[0]
    assert await count_seen(new, outdated) == 0
    assert await count_seen(new, outdated + b"; " + current) == 1


@pytest.mark.parametrize("options", [{"samesite": "strict"}, {"persistent": True}], ids=str)
async def test_other_attributes_may_change_without_a_sign_out(
    app: FastAPI, store: SpyStore, options: dict[str, Any]
) -> None:
    """A browser that gets the cookie anew replaces the old one."""
    cookie = f"{COOKIE}={await valid_cookie(app)}".encode()
    changed = make_cookie_app(make_provider(store, cookie=CookieConfig(**options)))
    assert await count_seen(changed, cookie) == 1


async def test_of_two_different_valid_cookies_neither_is_accepted(store: SpyStore) -> None:
    """One of them may have been planted (cookie tossing): an event is emitted."""
    events: list[Any] = []
    app = make_cookie_app(make_provider(store, on_event=events.append))
    one, two = [await valid_cookie(app) for _ in range(2)]
    store.calls.clear()
    events.clear()
    for first, second in ((one, two), (two, one)):
        assert await count_seen(app, f"{COOKIE}={first}; {COOKIE}={second}".encode()) == 0
    assert store.calls == []
    assert [event.kind for event in events] == ["ambiguous_cookie"] * 2


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (b"__Host-session=forged", "bad_signature"),
        (b"__Host-session=\xff\n\x00", "bad_signature"),
        (b"__Host-session=x;" * 9, "ambiguous_cookie"),
        (b"__Host-session=" + b"x" * 65536, "ambiguous_cookie"),
        (b"other=1", None),
    ],
)
async def test_a_rejected_cookie_is_reported_once_without_its_value(
    store: SpyStore, caplog: pytest.LogCaptureFixture, header: bytes, kind: str | None
) -> None:
    """The event has the reason; other cookies cause no event."""
    events: list[Any] = []
    app = make_cookie_app(make_provider(store, on_event=events.append))
    assert await count_seen(app, header) == 0
    assert [event.kind for event in events] == ([kind] if kind else [])
    assert "forged" not in repr(events) + caplog.text
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)


async def test_a_token_is_accepted_from_the_cookie_only(app: FastAPI, store: SpyStore) -> None:
    """Not from the query string or another header (ASVS 14.2.1)."""
    value = await valid_cookie(app)
    store.calls.clear()
    _, _, body = await call(
        app,
        "/a/read",
        query_string=f"{COOKIE}={value}".encode(),
        headers=[(b"x-session", value.encode()), (b"authorization", f"Bearer {value}".encode())],
    )
    assert (body, store.calls) == (b"0", [])


# secrets


def app_with_secrets(store: SpyStore, secrets: Any) -> FastAPI:
    """An application, as of another process, with the same store and these secrets."""
    return make_cookie_app(make_provider(SpyStore(store), secret_key=secrets))


async def test_a_cookie_signed_with_an_older_secret_is_signed_again_by_the_next_write(
    store: SpyStore,
) -> None:
    """It opens the same session. A read sends no cookie: only a write shows that the token is still
    the one in the store. After it the cookie is valid under the newest secret."""
    old = await valid_cookie(app_with_secrets(store, OLDER_SECRET))
    both = app_with_secrets(store, [SECRET, OLDER_SECRET])
    store.calls.clear()
    async with browser(both, old) as client:
        response = await client.get("/a/read")
        assert (response.json(), set_cookie_kind(response)) == (1, None)
        response = await client.get("/a/count")
        assert (response.json(), response.headers["cache-control"]) == (2, "no-store")
        new = cookie_value(response)
    assert store.calls == ["load", "load", "save"]
    assert new != old
    assert new.partition(".")[0] == old.partition(".")[0]
    async with browser(both, new) as client:
        response = await client.get("/a/read")
        assert (response.json(), set_cookie_kind(response)) == (2, None)
    assert await count_seen(app_with_secrets(store, SECRET), f"{COOKIE}={new}".encode()) == 2


async def test_the_newest_secret_signs(store: SpyStore) -> None:
    """A new cookie of a provider with two secrets is invalid under the older one alone."""
    new = await valid_cookie(app_with_secrets(store, [SECRET, OLDER_SECRET]))
    header = f"{COOKIE}={new}".encode()
    assert await count_seen(app_with_secrets(store, SECRET), header) == 1
    assert await count_seen(app_with_secrets(store, OLDER_SECRET), header) == 0


async def test_a_cookie_signed_with_a_removed_secret_is_ignored(store: SpyStore) -> None:
    """It causes no error, no deletion and no store call."""
    old = await valid_cookie(app_with_secrets(store, OLDER_SECRET))
    app = app_with_secrets(store, [SECRET, "a-third-secret-for-the-tests-0123456789-abc"])
    store.calls.clear()
    assert await count_seen(app, f"{COOKIE}={old}".encode()) == 0
    assert store.calls == []


async def test_destroy_deletes_a_cookie_that_an_older_secret_signed(store: SpyStore) -> None:
    """The cookie is not signed again in a request that destroys its session."""
    old = await valid_cookie(app_with_secrets(store, OLDER_SECRET))
    async with browser(app_with_secrets(store, [SECRET, OLDER_SECRET]), old) as client:
        assert set_cookie_kind(await client.get("/a/end")) == "removed"


async def test_every_new_session_has_its_own_token(app: FastAPI) -> None:
    """It is 48 random bytes, in base64url 64 characters, and no two are alike."""
    tokens = [(await valid_cookie(app)).partition(".")[0] for _ in range(50)]
    assert len(set(tokens)) == 50
    assert len({token[:21] for token in tokens}) == len({token[22:] for token in tokens}) == 50
    assert all(len(token) == 64 for token in tokens)


@pytest.mark.parametrize(
    "attributes", [{"secure": "false"}, {"partitioned": 1}, {"path": None}, {"domain": 5}], ids=str
)
def test_an_option_of_the_wrong_type_is_an_error(attributes: dict[str, Any]) -> None:
    """For instance text from a file or the environment instead of a bool."""
    with pytest.raises(ConfigurationError, match=next(iter(attributes))):
        CookieConfig(**attributes)


@pytest.mark.parametrize(
    "other",
    [
        {"name": "staff"},
        {"cookie": CookieConfig(secure=False)},
        {"cookie": CookieConfig(path="/staff")},
        {"cookie": CookieConfig(path="/staff", domain="example.com")},
    ],
    ids=["name", "prefix", "path", "domain"],
)
async def test_an_application_may_have_cookies_that_browsers_keep_apart(
    other: dict[str, Any],
) -> None:
    """It starts, unless two providers share a cookie's name, domain and path."""
    get_session = make_provider(cookie=CookieConfig(path="/customers"))
    get_staff_session = make_provider(**other)
    app = make_app()
    app.get("/customers", dependencies=[Depends(get_session)])(lambda: None)
    app.get("/staff", dependencies=[Depends(get_staff_session)])(lambda: None)
    async with get_session.lifespan(app), get_staff_session.lifespan(app):
        assert (await browser(app).get("/staff")).status_code == 200


@pytest.mark.parametrize("changes", [False, True])
async def test_the_headers_of_a_route_count_in_any_case(changes: bool) -> None:
    """A response of another framework may write their names as it likes."""
    get_session = make_provider()
    app = make_app()

    @app.get("/")
    async def route(session: Annotated[Session[Data], Depends(get_session)]) -> Response:
        session.data.count += changes
        response = Response()
        response.raw_headers += [
            (b"Set-Cookie", f"{COOKIE} =planted; Path=/".encode()),
            (b"Cache-Control", b"public"),
            (b"VARY", b"Accept"),
        ]
        return response

    _, headers, _ = await call(app)
    named = [(name.lower(), value) for name, value in headers]
    assert [value for name, value in named if name == b"vary"] == [b"Accept, Cookie"]
    expected = b"no-store" if changes else b"public"
    assert [value for name, value in named if name == b"cache-control"] == [expected]
    (cookie,) = (value for name, value in named if name == b"set-cookie")
    assert (b"planted" in cookie) is not changes
