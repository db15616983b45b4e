"""The cross-origin check: who may change a session is what Go's ``CrossOriginProtection`` says."""

from typing import Annotated, Any
from urllib.parse import urlsplit

import pytest
from fastapi import Body, Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from fastapi_async_sessions import ConfigurationError, MemoryStore, Session, SessionEvent
from fastapi_async_sessions._web.origin import OriginCheck

from ..apps import Data, browser, call, cookie_value, make_app, make_provider
from ..doubles import SpyStore

HERE = "https://testserver"
PARTNER = "https://partner.example"
EVIL = "https://evil.example"

SAFE = ("GET", "HEAD", "OPTIONS")
UNSAFE = ("POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "get", "")


def allowed(
    method: str = "POST",
    site: str | None = None,
    origin: str | None = None,
    host: str | None = "testserver",
    trusted: tuple[str, ...] = (PARTNER,),
) -> bool:
    """What the check says of a request with these headers."""
    given = ((b"sec-fetch-site", site), (b"origin", origin), (b"host", host))
    headers = [(name, value.encode()) for name, value in given if value is not None]
    return OriginCheck(trusted).allows(method, headers)


# the table

TABLE = [
    # method, Sec-Fetch-Site, Origin, passes
    ("POST", "cross-site", EVIL, False),
    ("POST", "cross-site", None, False),
    ("POST", "cross-site", HERE, False),  # what the browser says of the site counts
    ("POST", "cross-site", "null", False),
    ("POST", "cross-site", PARTNER, True),
    ("POST", "same-site", "https://blog.testserver", False),
    ("POST", "same-site", HERE, False),
    ("POST", "same-site", PARTNER, True),
    ("POST", "same-origin", HERE, True),
    ("POST", "same-origin", None, True),
    ("POST", "same-origin", EVIL, True),  # a script can't set this header: it decides
    ("POST", "none", None, True),
    ("POST", None, HERE, True),
    ("POST", None, "http://testserver", True),  # TLS may end before us
    ("POST", None, EVIL, False),
    ("POST", None, "null", False),
    ("POST", None, "https://testserver.evil.example", False),
    ("POST", None, "https://eviltestserver", False),
    ("POST", None, "https://testserver:444", False),
    ("POST", None, "https://testserver:443", False),
    ("POST", None, "https://TESTSERVER", False),
    ("POST", None, "https://user@testserver", False),
    ("POST", None, "testserver", False),
    ("POST", None, "://", False),
    ("POST", None, "", False),
    ("POST", None, PARTNER, True),
    ("POST", None, PARTNER + ":444", False),
    ("POST", None, "http://partner.example", False),
    ("POST", None, "https://PARTNER.example", False),
    ("POST", None, PARTNER + "/", False),
    ("POST", None, PARTNER + ".evil.example", False),
    ("POST", None, None, True),  # curl, a server, an app
    ("POST", "foo", HERE, False),  # OWASP ignores what is unknown, Go refuses it
    ("POST", "foo", PARTNER, True),
    ("POST", "", HERE, False),
    ("POST", "Same-Origin", HERE, False),
    ("POST", "same-origin, cross-site", HERE, False),
]


@pytest.mark.parametrize(("method", "site", "origin", "passes"), TABLE, ids=str)
def test_a_request_is_refused_by_what_the_browser_says_of_it(method, site, origin, passes):
    """``Sec-Fetch-Site``, or else ``Origin`` against ``Host``."""
    assert allowed(method, site, origin) is passes


@pytest.mark.parametrize("site", [None, "cross-site", "same-site", "foo"])
@pytest.mark.parametrize("method", [*SAFE, *UNSAFE])
def test_only_safe_methods_pass_from_everywhere(method, site):
    """A-55: what is not GET, HEAD or OPTIONS is unsafe, whatever it is called."""
    assert allowed(method, site, EVIL) is (method in SAFE)


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        ("https://testserver:8443", "testserver:8443", True),
        ("https://testserver", "testserver:443", False),
        ("https://testserver:8443", "testserver", False),
        ("https://[::1]:8443", "[::1]:8443", True),
        ("https://[::1]", "[::2]", False),
        ("https://127.0.0.1", "127.0.0.1", True),
        ("null", "", False),
        ("https://", "", False),
        ("null", "null", False),
        ("https://testserver", None, False),
    ],
)
def test_host_and_port_are_compared_as_they_are_written(origin, host, passes):
    """Browsers leave the scheme's own port out of both; no host matches nothing."""
    assert allowed("POST", None, origin, host) is passes


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        (["sec-fetch-site: same-origin", "sec-fetch-site: same-origin"], False),
        (["sec-fetch-site: same-origin", "sec-fetch-site: cross-site"], False),
        (["sec-fetch-site: cross-site", "sec-fetch-site: same-origin"], False),
        ([f"origin: {HERE}", f"origin: {HERE}"], False),
        ([f"origin: {HERE}", f"origin: {EVIL}"], False),
        ([f"origin: {EVIL}", f"origin: {HERE}"], False),
        ([f"origin: {PARTNER}", f"origin: {EVIL}"], False),
        ([f"origin: {EVIL}", f"origin: {PARTNER}"], False),
        ([f"origin: {HERE}", "host: evil.example"], False),
        (["host: testserver"], True),
    ],
    ids=str,
)
def test_a_header_that_comes_twice_is_not_believed(headers, passes):
    """Which one another program on the way has read nobody can tell."""
    pairs = [tuple(header.encode().split(b": ", 1)) for header in headers]
    pairs.append((b"host", b"testserver"))
    assert OriginCheck([PARTNER]).allows("POST", pairs) is passes


# against a model


def go_check(
    method: str, site: str, origin: str, host: str, trusted: frozenset[str], parsed_host: str
) -> bool:
    """``(*CrossOriginProtection).Check`` of Go 1.25, told again; "" is an absent header."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return True
    exempt = origin in trusted
    match site:
        case "":
            return origin == "" or parsed_host == host or exempt
        case "same-origin" | "none":
            return True
        case _:
            return exempt


labels = st.sampled_from(["testserver", "app.example", "evil.example", "a.app.example", "[::1]"])
hosts = st.builds(lambda label, port: label + port, labels, st.sampled_from(["", ":8443", ":81"]))
origins = hosts.map(lambda host: f"https://{host}")
sites = st.sampled_from(
    ["", "same-origin", "none", "same-site", "cross-site", "foo", "Same-Origin"]
)
methods = st.sampled_from([*SAFE, "POST", "PUT", "DELETE", "post", "TRACE"])


@given(methods, sites, st.just("") | st.just("null") | origins, hosts, st.sets(origins, max_size=3))
def test_it_is_go_s_algorithm(method, site, origin, host, trusted):
    """The same answer for every request with one header of a name."""
    parsed_host = urlsplit(origin).netloc if origin != "null" else ""
    expected = go_check(method, site, origin, host, frozenset(trusted), parsed_host)
    actual = allowed(method, site or None, origin or None, host, tuple(trusted))
    assert actual is expected


header_lists = st.lists(
    st.tuples(
        st.sampled_from([b"sec-fetch-site", b"origin", b"host", b"x-forwarded-host"]),
        st.sampled_from([b"", b"null", b"same-origin", b"none", b"cross-site", b"testserver"])
        | origins.map(str.encode)
        | st.binary(max_size=12),
    ),
    max_size=6,
)


@given(methods, header_lists, st.sets(origins, max_size=2))
def test_it_never_lets_pass_what_go_refuses(method, headers, trusted):
    """Whatever bytes, however often: odd requests are only ever refused more often."""

    def first(name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in headers if key == name), "")

    origin = first(b"origin")
    parsed_host = origin.partition("://")[2]
    expected = go_check(
        method, first(b"sec-fetch-site"), origin, first(b"host"), frozenset(trusted), parsed_host
    )
    assert expected or not OriginCheck(trusted).allows(method, headers)


# over HTTP


@pytest.fixture
def events() -> list[SessionEvent]:
    return []


@pytest.fixture
def store() -> SpyStore:
    return SpyStore(MemoryStore())


def make_site(store: SpyStore, events: list[SessionEvent], **options: Any) -> FastAPI:
    get_session = make_provider(store, on_event=events.append, **options)
    app = make_app()
    site_session = Annotated[Session[Data], Depends(get_session)]

    @app.api_route("/", methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE"])
    async def route(session: site_session) -> dict[str, Any]:
        session.data.count += 1
        return {"new": session.is_new, "count": session.data.count}

    @app.post("/sign-in")
    async def sign_in(session: site_session) -> None:
        session.renew(subject="42")

    @app.post("/transfer")
    async def transfer(session: site_session, amount: Annotated[int, Body(embed=True)]) -> int:
        session.data.count = amount
        return amount

    @app.post("/plain")
    async def plain() -> str:
        return "no session"

    @app.websocket("/ws")
    async def ws(socket: WebSocket, session: site_session) -> None:
        await socket.accept()
        await socket.send_json(session.is_new)
        await socket.close()

    return app


@pytest.fixture
def app(store, events) -> FastAPI:
    return make_site(store, events)


CROSS = {"sec-fetch-site": "cross-site", "origin": EVIL}


@pytest.mark.parametrize("has_cookie", [True, False])
async def test_a_cross_site_request_is_refused_before_the_store_is_asked(
    app, store, events, has_cookie
):
    """403 that says what to configure, an event, no cookie, no store call: not even a stamp."""
    client = browser(app)
    if has_cookie:
        await client.post("/")
    store.calls.clear()
    events.clear()
    response = await client.post("/", headers=CROSS)
    assert response.status_code == 403
    assert "SessionProvider(trusted_origins=...)" in response.json()["detail"]
    assert "set-cookie" not in response.headers
    assert store.calls == []
    assert [(event.kind, event.facts) for event in events] == [
        ("origin_rejected", {"method": "POST"})
    ]


async def test_signing_a_visitor_in_from_another_site_is_refused(app, store):
    """Login CSRF: nobody has a cookie yet, and the attacker's form would bring one."""
    response = await browser(app).post("/sign-in", headers=CROSS)
    assert response.status_code == 403
    assert store.calls == []


async def test_a_form_that_posts_json_as_text_is_refused(app, store):
    """CVE-2021-32677: ``text/plain`` needs no preflight, and the body may be JSON."""
    client = browser(app)
    await client.post("/")
    content, headers = '{"amount": 1000}', {"content-type": "text/plain", "origin": EVIL}
    assert (await client.post("/transfer", content=content, headers=headers)).status_code == 403
    assert (await client.post("/transfer", json={"amount": 5})).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_link_from_another_site_finds_the_session(app, method):
    """Safe methods pass: do not change state in them."""
    client = browser(app)
    await client.post("/")
    response = await client.request(method, "/", headers=CROSS)
    assert response.status_code == 200
    assert set(response.headers.get_list("vary")) == {"Cookie"}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE"])
async def test_other_methods_are_unsafe(app, method):
    """TRACE too."""
    assert (await browser(app).request(method, "/", headers=CROSS)).status_code == 403


async def test_a_route_without_a_session_is_nobody_s_business(app):
    """The check belongs to the session."""
    assert (await browser(app).post("/plain", headers=CROSS)).status_code == 200


async def test_a_trusted_origin_passes(store, events):
    """Exactly as written, scheme and port too; a sibling does not."""
    app = make_site(store, events, trusted_origins=[PARTNER, "https://app.example:8443"])
    client = browser(app)
    for site in ("cross-site", "same-site", None):
        for origin, status in (
            (PARTNER, 200),
            ("https://app.example:8443", 200),
            ("https://app.example", 403),
            ("https://a.partner.example", 403),
            ("http://partner.example", 403),
        ):
            headers = {"origin": origin} | ({"sec-fetch-site": site} if site else {})
            assert (await client.post("/", headers=headers)).status_code == status


async def test_the_check_can_be_switched_off(store, events):
    """``check_origin=False``: for an application that checks by itself."""
    app = make_site(store, events, check_origin=False)
    assert (await browser(app).post("/", headers=CROSS)).status_code == 200
    with (
        TestClient(app, base_url=HERE) as client,
        client.websocket_connect("/ws", headers=CROSS) as socket,
    ):
        assert socket.receive_json() is True


@pytest.mark.parametrize(
    "name", ["x-forwarded-host", "forwarded", "x-original-host", "x-forwarded-for", "referer"]
)
async def test_proxy_headers_are_not_believed(app, name):
    """R-55: anybody can send them; a proxy that is trusted sets ``Host``."""
    headers = {"origin": EVIL, name: "evil.example"}
    assert (await browser(app).post("/", headers=headers)).status_code == 403


async def test_header_bytes_of_any_kind_are_no_crash(app):
    """They are compared, never decoded."""
    for value in (b"\xff\xfe", b"\x00", b"https://\xf0\x9f\x8e\x88", b"a" * 70_000):
        for name in (b"origin", b"sec-fetch-site"):
            status, _, _ = await call(app, "/", method="POST", headers=[(name, value)])
            assert status == 403


async def test_every_requirement_is_behind_the_check(store, events):
    """``required`` and ``signed_in`` ask for the session: 403 before 401."""
    get_session = make_provider(store)
    app = make_app()
    app.post("/required", dependencies=[Depends(get_session.required)])(lambda: None)
    app.post("/signed-in", dependencies=[Depends(get_session.signed_in())])(lambda: None)
    for path in ("/required", "/signed-in"):
        assert (await browser(app).post(path, headers=CROSS)).status_code == 403
        assert (await browser(app).post(path)).status_code == 401


# websockets: every page may open one, so that the handshake is checked like an unsafe request


@pytest.mark.parametrize("has_cookie", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": HERE, "sec-fetch-site": "cross-site"},
        {"origin": "https://testserver:444"},
    ],
    ids=str,
)
async def test_a_handshake_from_another_site_is_refused(app, store, events, headers, has_cookie):
    """403, or a close before the accept, and no store call."""
    cookies = {}
    if has_cookie:
        cookies["__Host-session"] = cookie_value(await browser(app).post("/"))
    store.calls.clear()
    events.clear()
    with (
        TestClient(app, base_url=HERE, cookies=cookies) as client,
        pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)) as refused,
        client.websocket_connect("/ws", headers=headers),
    ):
        pass
    if isinstance(refused.value, WebSocketDenialResponse):
        assert refused.value.status_code == 403
    assert store.calls == []
    assert [event.kind for event in events] == ["origin_rejected"]


@pytest.mark.parametrize("headers", [{"origin": HERE}, {}], ids=str)
def test_a_handshake_from_this_site_passes(app, headers):
    """And one without an ``Origin``, which no browser sends."""
    with (
        TestClient(app, base_url=HERE) as client,
        client.websocket_connect("/ws", headers=headers) as socket,
    ):
        assert socket.receive_json() is True


# configuration


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "*",
        "app.example",
        "//app.example",
        "https://",
        "https://app.example/",
        "https://app.example/path",
        "https://app.example?x",
        "https://user@app.example",
        "https://*.app.example",
        "https://App.example",
        "HTTPS://app.example",
        "https://app.example:",
        "https://app.example:port",
        "https://app.example:443",
        "http://app.example:80",
        "https://bücher.example",
        "https://app.example, https://b.example",
        " https://app.example",
        "https://app.example\n",
    ],
)
def test_what_no_browser_would_send_is_no_trusted_origin(origin):
    """It would never match: a mistake that shows when the provider is built."""
    with pytest.raises(ConfigurationError, match="trusted_origins"):
        make_provider(trusted_origins=[origin])


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example",
        "https://app.example:8443",
        "http://localhost:3000",
        "http://127.0.0.1:8044",
        "https://app.example:80",
        "http://app.example:443",
        "https://[::1]:8443",
        "https://xn--bcher-kva.example",
        "https://under_score.example",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "capacitor://localhost",
    ],
)
def test_what_a_browser_sends_is_a_trusted_origin(origin):
    """Other schemes too: applications in a shell have them."""
    assert allowed("POST", "cross-site", origin, trusted=(origin,)) is True


def test_one_trusted_origin_is_still_a_sequence():
    """A text would be taken letter by letter."""
    with pytest.raises(ConfigurationError, match="sequence"):
        make_provider(trusted_origins=PARTNER)
