"""The cross-origin check, which decides like Go's ``CrossOriginProtection``."""

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
    """Whether the check allows a request with these headers."""
    given = ((b"sec-fetch-site", site), (b"origin", origin), (b"host", host))
    headers = [(name, value.encode()) for name, value in given if value is not None]
    return OriginCheck(trusted).allows(method, headers)


# the table

TABLE = [
    # method, Sec-Fetch-Site, Origin, passes
    ("POST", "cross-site", EVIL, False),  # a form on another site
    ("POST", "cross-site", None, False),
    ("POST", "cross-site", HERE, False),  # ``Sec-Fetch-Site`` takes precedence
    ("POST", "cross-site", "null", False),
    ("POST", "cross-site", PARTNER, True),
    ("POST", "same-site", "https://blog.testserver", False),  # a page on a sibling domain
    ("POST", "same-site", HERE, False),
    ("POST", "same-site", PARTNER, True),
    ("POST", "same-origin", HERE, True),  # a page of the application
    ("POST", "same-origin", None, True),
    ("POST", "same-origin", EVIL, True),  # no script can set ``Sec-Fetch-Site``
    ("POST", "none", None, True),
    ("POST", None, HERE, True),  # an old browser
    ("POST", None, "http://testserver", True),  # a proxy may terminate TLS
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
    ("POST", None, None, True),  # curl, a server, a mobile application
    ("POST", "foo", HERE, False),  # an unknown value: OWASP ignores it, Go rejects it
    ("POST", "foo", PARTNER, True),
    ("POST", "", HERE, False),
    ("POST", "Same-Origin", HERE, False),
    ("POST", "same-origin, cross-site", HERE, False),
]


@pytest.mark.parametrize(("method", "site", "origin", "passes"), TABLE, ids=str)
def test_a_request_is_judged_by_the_headers_of_the_browser(method, site, origin, passes):
    """``Sec-Fetch-Site`` decides, or else the comparison of ``Origin`` and ``Host``."""
    assert allowed(method, site, origin) is passes


@pytest.mark.parametrize("site", [None, "cross-site", "same-site", "foo"])
@pytest.mark.parametrize("method", [*SAFE, *UNSAFE])
def test_only_safe_methods_are_allowed_from_any_site(method, site):
    """Any method but GET, HEAD and OPTIONS is unsafe, known or not."""
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
def test_host_and_port_are_compared_as_written(origin, host, passes):
    """Browsers omit the default port of the scheme in both; a missing ``Host`` matches nothing."""
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
def test_a_repeated_header_is_rejected(headers, passes):
    """A proxy may have read the other one."""
    pairs = [tuple(header.encode().split(b": ", 1)) for header in headers]
    pairs.append((b"host", b"testserver"))
    assert OriginCheck([PARTNER]).allows("POST", pairs) is passes


def test_two_origins_are_rejected_even_if_both_are_trusted():
    """No browser sends two."""
    check = OriginCheck([PARTNER, "https://other.example"])
    pairs = [(b"origin", PARTNER.encode()), (b"origin", b"https://other.example")]
    assert [check.allows("POST", each) for each in (pairs, pairs[:1], pairs[1:])] == [
        False,
        True,
        True,
    ]


# against a model of Go's implementation


def go_check(
    method: str, site: str, origin: str, host: str, trusted: frozenset[str], parsed_host: str
) -> bool:
    """The decision of ``(*CrossOriginProtection).Check`` in Go 1.25; "" is an absent header."""
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
def test_the_check_decides_like_go(method, site, origin, host, trusted):
    """The decision is the same for every request without repeated headers."""
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
def test_the_check_never_allows_what_go_rejects(method, headers, trusted):
    """With arbitrary and repeated headers it may only be stricter."""

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
    own_session = Annotated[Session[Data], Depends(get_session)]

    @app.api_route("/", methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE"])
    async def route(session: own_session) -> dict[str, Any]:
        session.data.count += 1
        return {"new": session.is_new, "count": session.data.count}

    @app.post("/sign-in")
    async def sign_in(session: own_session) -> None:
        session.renew(subject="42")

    @app.post("/transfer")
    async def transfer(session: own_session, amount: Annotated[int, Body(embed=True)]) -> int:
        session.data.count = amount
        return amount

    @app.post("/plain")
    async def plain() -> str:
        return "no session"

    @app.websocket("/ws")
    async def ws(socket: WebSocket, session: own_session) -> None:
        await socket.accept()
        await socket.send_json(session.is_new)
        await socket.close()

    return app


@pytest.fixture
def app(store, events) -> FastAPI:
    return make_site(store, events)


CROSS_SITE = {"sec-fetch-site": "cross-site", "origin": EVIL}


@pytest.mark.parametrize("has_cookie", [True, False])
async def test_a_cross_site_request_is_rejected_before_the_store_is_called(
    app, store, events, has_cookie
):
    """The 403 gives no advice; there is one event, no cookie and no call of the store."""
    client = browser(app)
    if has_cookie:
        await client.post("/")
    store.calls.clear()
    events.clear()
    response = await client.post("/", headers=CROSS_SITE)
    assert response.status_code == 403
    assert response.json() == {"detail": "Cross-origin request rejected."}
    assert "set-cookie" not in response.headers
    assert store.calls == []
    assert [(event.kind, event.facts) for event in events] == [
        (
            "origin_rejected",
            {
                "method": "POST",
                "origin": EVIL,
                "host": "testserver",
                "sec_fetch_site": "cross-site",
            },
        )
    ]


async def test_a_sign_in_from_another_site_is_rejected(app, store):
    """Login CSRF: the victim has no cookie yet, and the attacker's form would set one."""
    response = await browser(app).post("/sign-in", headers=CROSS_SITE)
    assert response.status_code == 403
    assert store.calls == []


async def test_a_form_that_posts_json_as_text_is_rejected(app, store):
    """``text/plain`` needs no preflight, and the body may be JSON (CVE-2021-32677)."""
    client = browser(app)
    await client.post("/")
    content, headers = '{"amount": 1000}', {"content-type": "text/plain", "origin": EVIL}
    assert (await client.post("/transfer", content=content, headers=headers)).status_code == 403
    assert (await client.post("/transfer", json={"amount": 5})).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_link_from_another_site_opens_the_session(app, method):
    """Safe methods are allowed, and must not change state."""
    client = browser(app)
    await client.post("/")
    response = await client.request(method, "/", headers=CROSS_SITE)
    assert response.status_code == 200
    assert set(response.headers.get_list("vary")) == {"Cookie"}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE"])
async def test_other_methods_are_unsafe(app, method):
    """They include TRACE, which RFC 9110 calls safe."""
    assert (await browser(app).request(method, "/", headers=CROSS_SITE)).status_code == 403


async def test_a_route_without_a_session_is_not_checked(app):
    """The check is made when a session is loaded."""
    assert (await browser(app).post("/plain", headers=CROSS_SITE)).status_code == 200


async def test_a_trusted_origin_is_allowed(store, events):
    """Scheme, host and port must match exactly; a subdomain is not enough."""
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


async def test_the_check_can_be_disabled(store, events):
    """``check_origin=False`` is for an application with a check of its own."""
    app = make_site(store, events, check_origin=False)
    assert (await browser(app).post("/", headers=CROSS_SITE)).status_code == 200
    with (
        TestClient(app, base_url=HERE) as client,
        client.websocket_connect("/ws", headers=CROSS_SITE) as socket,
    ):
        assert socket.receive_json() is True


@pytest.mark.parametrize(
    "name", ["x-forwarded-host", "forwarded", "x-original-host", "x-forwarded-for", "referer"]
)
async def test_proxy_headers_are_ignored(app, name):
    """Any client can send them; a trusted proxy sets ``Host``."""
    headers = {"origin": EVIL, name: "evil.example"}
    assert (await browser(app).post("/", headers=headers)).status_code == 403


async def test_arbitrary_header_bytes_are_rejected_without_an_error(app):
    """They are compared, never decoded."""
    for value in (b"\xff\xfe", b"\x00", b"https://\xf0\x9f\x8e\x88", b"a" * 70_000):
        for name in (b"origin", b"sec-fetch-site"):
            status, _, _ = await call(app, "/", method="POST", headers=[(name, value)])
            assert status == 403


async def test_the_check_comes_before_requirements(store, events):
    """Routes with ``required`` or ``signed_in`` respond with 403 before they would with 401."""
    get_session = make_provider(store)
    app = make_app()
    app.post("/required", dependencies=[Depends(get_session.required)])(lambda: None)
    app.post("/signed-in", dependencies=[Depends(get_session.signed_in())])(lambda: None)
    for path in ("/required", "/signed-in"):
        assert (await browser(app).post(path, headers=CROSS_SITE)).status_code == 403
        assert (await browser(app).post(path)).status_code == 401


# websockets: any page can open one, so the handshake is checked like an unsafe request


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
async def test_a_handshake_from_another_site_is_rejected(app, store, events, headers, has_cookie):
    """It is denied with 403, or closed before it is accepted, and calls no store."""
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
def test_a_handshake_from_this_site_is_allowed(app, headers):
    """So is one without an ``Origin``, which does not come from a browser."""
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
def test_an_origin_that_no_browser_sends_cannot_be_trusted(origin):
    """It would never match, so it is an error when the provider is built."""
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
def test_an_origin_that_browsers_send_can_be_trusted(origin):
    """Browser extensions and mobile applications have other schemes."""
    assert allowed("POST", "cross-site", origin, trusted=(origin,)) is True


def test_a_string_is_not_a_sequence_of_trusted_origins():
    """Each character would be taken for an origin."""
    with pytest.raises(ConfigurationError, match="sequence"):
        make_provider(trusted_origins=PARTNER)
