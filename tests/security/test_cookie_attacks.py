"""What attackers put into a cookie: nothing of it opens a session, fails, or reaches the store."""

import base64
import hashlib
import secrets
import string
import timeit
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itsdangerous import Signer, TimestampSigner, URLSafeSerializer
from starlette.middleware.sessions import SessionMiddleware

from fastapi_async_sessions import CookieConfig, MemoryStore, Session
from fastapi_async_sessions._web.cookies import Cookie

from ..apps import (
    COOKIE,
    SECRET,
    Data,
    browser,
    call,
    cookie_value,
    make_app,
    make_provider,
    set_cookie_kind,
)
from ..doubles import SpyStore

_BASE64URL = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"


def make_attacked_app(get_session: Any) -> FastAPI:
    app = make_app()
    UserSession = Annotated[Session[Data], Depends(get_session)]

    @app.get("/")
    async def read(session: UserSession) -> int:
        return session.data.count

    @app.get("/count")
    async def count(session: UserSession) -> int:
        session.data.count += 1
        return session.data.count

    @app.get("/in")
    async def sign_in(session: UserSession) -> str | None:
        session.renew(subject="victim")
        return session.subject

    @app.get("/out")
    async def sign_out(session: UserSession) -> None:
        await session.destroy()

    return app


@pytest.fixture
def store() -> SpyStore:
    return SpyStore(MemoryStore())


@pytest.fixture
def app(store: SpyStore) -> FastAPI:
    return make_attacked_app(make_provider(store))


async def valid_cookie(app: FastAPI, path: str = "/count") -> str:
    async with browser(app) as client:
        return cookie_value(await client.get(path))


async def assert_refused(app: FastAPI, store: SpyStore, *headers: bytes) -> None:
    """A new session, no cookie set and none deleted, no call of the store."""
    store.calls.clear()
    status, sent, body = await call(app, headers=[(b"cookie", header) for header in headers])
    assert (status, body) == (200, b"0")
    assert [value for name, value in sent if name == b"set-cookie"] == []
    assert store.calls == []


# forged and damaged values


async def test_every_flipped_bit_is_refused(app: FastAPI, store: SpyStore) -> None:
    """Each bit of token, separator and signature counts."""
    value = (await valid_cookie(app)).encode()
    for position in range(len(value)):
        for bit in (0, 3, 6):
            flipped = bytearray(value)
            flipped[position] ^= 1 << bit
            await assert_refused(app, store, COOKIE.encode() + b"=" + bytes(flipped))


async def test_other_spellings_of_a_good_signature_are_refused(
    app: FastAPI, store: SpyStore
) -> None:
    """Base64 has several texts for the same bytes; one of them is the cookie."""
    value = await valid_cookie(app)
    token, _, signature = value.partition(".")
    last = _BASE64URL.index(signature[-1])
    assert last % 4 == 0
    twins = [signature[:-1] + _BASE64URL[last + extra] for extra in (1, 2, 3)]
    spellings = [
        *(f"{token}.{twin}" for twin in twins),
        *(value + padding for padding in ("=", "==", "===", ".", "%3D", "\t.")),
        f"{token}=.{signature}",
        f"{token}.{signature[:10]} {signature[10:]}",
        f" {token} .{signature}",
    ]
    for spelling in spellings:
        await assert_refused(app, store, f"{COOKIE}={spelling}".encode())


async def test_the_other_base64_alphabet_is_refused(app: FastAPI, store: SpyStore) -> None:
    """``+`` and ``/`` decode to the same bytes as ``-`` and ``_``."""
    value = ""
    while not set("-_") <= set(value.partition(".")[0]):
        value = await valid_cookie(app)
    await assert_refused(app, store, f"{COOKIE}={value.replace('-', '+')}".encode())
    await assert_refused(app, store, f"{COOKIE}={value.replace('_', '/')}".encode())


async def test_parts_of_a_cookie_are_refused(app: FastAPI, store: SpyStore) -> None:
    """The token alone, the signature alone, cut short, doubled, or with dots added."""
    value = await valid_cookie(app)
    token, _, signature = value.partition(".")
    values = [
        *(token, token + ".", "." + signature, ".", "", "null", "None", "...", value + "."),
        *("." + value, f"{token}..{signature}", value[:-1], value[1:], value + value),
        *(f"{token}.{token}.{signature}", f"{signature}.{token}", value.lower(), value.upper()),
        *(f"v0.{token}.", f"{token}.{'A' * 43}", f"{'A' * 64}.{signature}", value + "\n"),
    ]
    for each in values:
        await assert_refused(app, store, f"{COOKIE}={each}".encode())


async def test_what_others_sign_with_the_same_secret_is_refused(
    app: FastAPI, store: SpyStore
) -> None:
    """Salt, digest and derivation are our own: another use of the secret is no session."""
    token = base64.urlsafe_b64encode(secrets.token_bytes(48)).decode()
    real = (await valid_cookie(app)).partition(".")[0]
    signers = [
        Signer(SECRET),
        Signer(SECRET, salt="cookie-session"),
        Signer(SECRET, salt=b"fastapi_async_sessions/v1"),
        Signer(SECRET, digest_method=hashlib.sha256, key_derivation="hmac"),
        Signer(SECRET, digest_method=hashlib.sha256, key_derivation="none"),
        TimestampSigner(SECRET),
    ]
    values = [signer.sign(text).decode() for signer in signers for text in (token, real)]
    values.append(URLSafeSerializer(SECRET).dumps({"count": 1}))
    for value in values:
        await assert_refused(app, store, f"{COOKIE}={value}".encode())


async def test_a_cookie_of_starlettes_session_middleware_is_refused(
    app: FastAPI, store: SpyStore
) -> None:
    """Made with the same secret and put under our name."""
    other = FastAPI()
    other.add_middleware(SessionMiddleware, secret_key=SECRET, session_cookie=COOKIE)

    @other.get("/")
    async def home(request: Request) -> None:
        request.session["count"] = 1

    async with browser(other) as client:
        value = cookie_value(await client.get("/"))
    await assert_refused(app, store, f"{COOKIE}={value}".encode())


@pytest.mark.parametrize(
    "options",
    [
        {"secret_key": "another-secret-of-the-tests-0123456789-abcdef"},
        {"name": "other"},
        {"name": "sessio"},
        {"name": "session-"},
    ],
)
async def test_a_cookie_of_another_provider_or_secret_is_refused(
    app: FastAPI, store: SpyStore, options: dict[str, Any]
) -> None:
    """The signature is bound to the name, whether the store is shared or not."""
    foreign = make_attacked_app(make_provider(store if "name" in options else None, **options))
    async with browser(foreign) as client:
        header = (await client.get("/count")).headers["set-cookie"]
    value = header.partition("=")[2].partition(";")[0]
    await assert_refused(app, store, f"{COOKIE}={value}".encode())


async def test_a_cookie_without_the_prefix_is_another_cookie(store: SpyStore) -> None:
    """One that was made with ``secure=False`` under the same name and secret opens nothing."""
    insecure = make_attacked_app(make_provider(cookie=CookieConfig(secure=False)))
    async with browser(insecure) as client:
        header = (await client.get("/count")).headers["set-cookie"]
    value = header.partition("=")[2].partition(";")[0]
    app = make_attacked_app(make_provider(store))
    await assert_refused(app, store, f"{COOKIE}={value}".encode())


async def test_guesses_never_reach_the_store(app: FastAPI, store: SpyStore) -> None:
    """A thousand well-formed cookies with random signatures, without one call."""
    for _ in range(1000):
        value = f"{secrets.token_urlsafe(48)}.{secrets.token_urlsafe(32)}"
        await assert_refused(app, store, f"{COOKIE}={value}".encode())


# unknown and dead sessions


async def test_a_well_signed_cookie_of_no_session_is_never_adopted(store: SpyStore) -> None:
    """Session fixation: the next write gets a token and a key of its own (CVE-2018-1000519)."""
    elsewhere = make_attacked_app(make_provider())
    planted = await valid_cookie(elsewhere)
    app = make_attacked_app(make_provider(store))
    async with browser(app, planted) as client:
        response = await client.get("/")
        assert (response.json(), set_cookie_kind(response)) == (0, None)
        response = await client.get("/count")
        issued = cookie_value(response)
    assert issued[:21] != planted[:21]
    assert store.calls == ["load", "load", "create"]
    (key,) = await store.records()
    assert store.keys[0] != key


async def test_a_deleted_sessions_cookie_is_never_adopted(app: FastAPI, store: SpyStore) -> None:
    """What an attacker kept from before a sign-out opens nothing and becomes nothing."""
    old = await valid_cookie(app)
    async with browser(app, old) as client:
        await client.get("/out")
    async with browser(app, old) as client:
        assert (await client.get("/")).json() == 0
        response = await client.get("/count")
        assert cookie_value(response)[:21] != old[:21]


async def test_an_attackers_cookie_is_dead_after_the_sign_in(app: FastAPI) -> None:
    """A planted anonymous session does not become the victim's: the token changes at sign-in."""
    planted = await valid_cookie(app)
    async with browser(app, planted) as victim:
        response = await victim.get("/in")
        assert cookie_value(response) != planted
        assert (await victim.get("/")).json() == 1
    async with browser(app, planted) as attacker:
        response = await attacker.get("/")
        assert (response.json(), set_cookie_kind(response)) == (0, None)


async def test_the_right_handle_with_another_secret_is_no_session(
    app: FastAPI, store: SpyStore
) -> None:
    """The token before a renewal finds the record and does not open it; nothing is deleted."""
    old = await valid_cookie(app)
    async with browser(app, old) as client:
        new = cookie_value(await client.get("/in"))
    assert new[:21] == old[:21]
    async with browser(app, old) as client:
        assert (await client.get("/")).json() == 0
        assert set_cookie_kind(await client.get("/out")) is None
    async with browser(app, new) as client:
        assert (await client.get("/")).json() == 1


async def test_a_sign_out_without_a_session_does_nothing(app: FastAPI, store: SpyStore) -> None:
    """No record, no cookie, no call (CVE-2015-5963, CVE-2015-5964)."""
    for header in (b"", b"__Host-session=forged", b"__Host-session="):
        store.calls.clear()
        _, sent, _ = await call(app, "/out", headers=[(b"cookie", header)])
        assert [value for name, value in sent if name == b"set-cookie"] == []
        assert store.calls == []


async def test_the_store_never_sees_what_opens_a_session(app: FastAPI, store: SpyStore) -> None:
    """Its key is a hash, and neither handle nor secret is in a record, as text or as bytes."""
    token = (await valid_cookie(app)).partition(".")[0]
    raw = base64.urlsafe_b64decode(token)
    ((key, record),) = (await store.records()).items()
    assert len(key) == 64
    assert set(key) <= set("0123456789abcdef")
    for kept in (key.encode(), record.body, record.version.encode()):
        for secret in (token[:21].encode(), token[22:].encode(), raw[:16], raw[16:]):
            assert secret not in kept
        assert raw[:16].hex().encode() not in kept
        assert raw[16:].hex().encode() not in kept


# any bytes

_APP = make_attacked_app(make_provider(_STORE := SpyStore(MemoryStore())))
_PIECES = st.sampled_from(
    [
        *(b"__Host-session", b"__Host-session=", b"=", b";", b"; ", b" ", b"\t", b".", b'"', b"\\"),
        *(b"\xa0", b"\x85", b"\x1c", b"\x00", b"\r\n", b"\xff\xfe", b"\xc0\xaf", "🎈".encode()),
        *(b"A" * 64, b"A" * 64 + b"." + b"A" * 43, b"\\012", b"%00", b"$Version=1", b","),
    ]
)
_VALUES = st.binary(max_size=120) | st.lists(_PIECES, max_size=12).map(b"".join)
_TOKENS = st.tuples(st.binary(min_size=48, max_size=48), st.binary(min_size=32, max_size=32)).map(
    lambda parts: b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
)
_NAMED = st.tuples(_VALUES, _TOKENS | _VALUES, _VALUES).map(
    lambda parts: parts[0] + b"; __Host-session=" + parts[1] + b";" + parts[2]
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(headers=st.lists(_NAMED | _VALUES, min_size=1, max_size=3))
async def test_no_bytes_in_a_cookie_header_fail_or_reach_the_store(headers: list[bytes]) -> None:
    """Without a right signature each is a new session: 200, no cookie, no call."""
    await assert_refused(_APP, _STORE, *headers)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_no_change_of_a_good_cookie_is_good(data: st.DataObject) -> None:
    """Whatever bytes are cut from it or put into it."""
    good = (await valid_cookie(_APP)).encode()
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, len(good)))
    damaged = good[:start] + data.draw(_VALUES) + good[stop:]
    # what is still there in whole is good: a browser may send it beside anything
    values = [part.partition(b"=") for part in (b"__Host-session=" + damaged).split(b";")]
    if any(name.strip(b" \t") == b"__Host-session" and value.strip(b" \t") == good
           for name, _, value in values):  # fmt: skip
        return
    await assert_refused(_APP, _STORE, b"__Host-session=" + damaged)


@pytest.mark.parametrize("size", [60_000, 1_000_000])
@pytest.mark.parametrize("piece", [b"\\a", b";", b"=", b" ", b"x;", b"__Host-session=x;"])
async def test_a_huge_header_costs_no_time(
    app: FastAPI, store: SpyStore, piece: bytes, size: int
) -> None:
    """A megabyte is refused by its length, before anything is split; 60 kB cost little."""
    header = b"__Host-session=" + piece * (size // len(piece)) + b"; __Host-session=x"
    await assert_refused(app, store, header)
    # measured without FastAPI, which parses cookies for itself on every request
    cookie, headers = Cookie("session", CookieConfig()), [(b"cookie", header)]
    seconds = min(timeit.repeat(lambda: cookie.candidates(headers), number=1, repeat=5))
    assert seconds < 0.02


async def test_many_small_headers_are_bounded_together(app: FastAPI, store: SpyStore) -> None:
    """The limit counts what all headers hold."""
    value = await valid_cookie(app)
    padding = [b"__Host-sessionx=" + b"x" * 4000] * 20
    await assert_refused(app, store, *padding, f"{COOKIE}={value}".encode())
