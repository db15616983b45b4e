"""Hostile cookies: they open no session, cause no error, and never reach the store."""

import base64
import hashlib
import secrets
import string
import time
import timeit
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itsdangerous import Signer, TimestampSigner, URLSafeSerializer
from starlette.middleware.sessions import SessionMiddleware

from fastapi_async_sessions import CookieConfig, MemoryStore, Session
from fastapi_async_sessions._web.cookies import Cookie
from fastapi_async_sessions.testing import FrozenClock

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
def store(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


@pytest.fixture
def app(store: SpyStore, clock: FrozenClock) -> FastAPI:
    return make_attacked_app(make_provider(store, clock=clock))


async def valid_cookie(app: FastAPI, path: str = "/count") -> str:
    async with browser(app) as client:
        return cookie_value(await client.get(path))


async def assert_rejected(app: FastAPI, store: SpyStore, *headers: bytes) -> None:
    """Check that the request has a new session, sets and deletes no cookie, and calls no store."""
    store.calls.clear()
    status, sent, body = await call(app, headers=[(b"cookie", header) for header in headers])
    assert (status, body) == (200, b"0")
    assert [value for name, value in sent if name == b"set-cookie"] == []
    assert store.calls == []


# forged and damaged values


async def test_every_flipped_bit_is_rejected(app: FastAPI, store: SpyStore) -> None:
    """This covers the token, the separator and the signature."""
    value = (await valid_cookie(app)).encode()
    for position in range(len(value)):
        for bit in (0, 3, 6):
            flipped = bytearray(value)
            flipped[position] ^= 1 << bit
            await assert_rejected(app, store, COOKIE.encode() + b"=" + bytes(flipped))


async def test_other_encodings_of_a_valid_signature_are_rejected(
    app: FastAPI, store: SpyStore
) -> None:
    """Base64 has several encodings of the same bytes; only one of them is valid."""
    value = await valid_cookie(app)
    token, _, signature = value.partition(".")
    last = _BASE64URL.index(signature[-1])
    assert last % 4 == 0
    twins = [signature[:-1] + _BASE64URL[last + extra] for extra in (1, 2, 3)]
    encodings = [
        *(f"{token}.{twin}" for twin in twins),
        *(value + padding for padding in ("=", "==", "===", ".", "%3D", "\t.")),
        f"{token}=.{signature}",
        f"{token}.{signature[:10]} {signature[10:]}",
        f" {token} .{signature}",
    ]
    for encoding in encodings:
        await assert_rejected(app, store, f"{COOKIE}={encoding}".encode())


async def test_the_standard_base64_alphabet_is_rejected(app: FastAPI, store: SpyStore) -> None:
    """``+`` and ``/`` decode to the same bytes as ``-`` and ``_``."""
    value = ""
    while not set("-_") <= set(value.partition(".")[0]):
        value = await valid_cookie(app)
    await assert_rejected(app, store, f"{COOKIE}={value.replace('-', '+')}".encode())
    await assert_rejected(app, store, f"{COOKIE}={value.replace('_', '/')}".encode())


async def test_parts_of_a_cookie_are_rejected(app: FastAPI, store: SpyStore) -> None:
    """They may be the token or the signature alone, cut short, doubled, or have more dots."""
    value = await valid_cookie(app)
    token, _, signature = value.partition(".")
    values = [
        *(token, token + ".", "." + signature, ".", "", "null", "None", "...", value + "."),
        *("." + value, f"{token}..{signature}", value[:-1], value[1:], value + value),
        *(f"{token}.{token}.{signature}", f"{signature}.{token}", value.lower(), value.upper()),
        *(f"v0.{token}.", f"{token}.{'A' * 43}", f"{'A' * 64}.{signature}", value + "\n"),
    ]
    for each in values:
        await assert_rejected(app, store, f"{COOKIE}={each}".encode())


async def test_other_signatures_under_the_same_secret_are_rejected(
    app: FastAPI, store: SpyStore
) -> None:
    """Salt, digest and derivation differ from those of other uses of a secret."""
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
        await assert_rejected(app, store, f"{COOKIE}={value}".encode())


async def test_a_cookie_of_starlette_s_session_middleware_is_rejected(
    app: FastAPI, store: SpyStore
) -> None:
    """It is signed with the same secret and sent under the same name."""
    other = FastAPI()
    other.add_middleware(SessionMiddleware, secret_key=SECRET, session_cookie=COOKIE)

    @other.get("/")
    async def home(request: Request) -> None:
        request.session["count"] = 1

    async with browser(other) as client:
        value = cookie_value(await client.get("/"))
    await assert_rejected(app, store, f"{COOKIE}={value}".encode())


@pytest.mark.parametrize(
    "options",
    [
        {"secret_key": "another-secret-of-the-tests-0123456789-abcdef"},
        {"name": "other"},
        {"name": "sessio"},
        {"name": "session-"},
    ],
)
async def test_a_cookie_of_another_provider_or_secret_is_rejected(
    app: FastAPI, store: SpyStore, options: dict[str, Any]
) -> None:
    """The signature includes the name, whether the store is shared or not."""
    foreign = make_attacked_app(make_provider(store if "name" in options else None, **options))
    async with browser(foreign) as client:
        header = (await client.get("/count")).headers["set-cookie"]
    value = header.partition("=")[2].partition(";")[0]
    await assert_rejected(app, store, f"{COOKIE}={value}".encode())


async def test_a_cookie_without_the_prefix_is_another_cookie(store: SpyStore) -> None:
    """One set with ``secure=False`` under the same name and secret opens no session."""
    insecure = make_attacked_app(make_provider(cookie=CookieConfig(secure=False)))
    async with browser(insecure) as client:
        header = (await client.get("/count")).headers["set-cookie"]
    value = header.partition("=")[2].partition(";")[0]
    app = make_attacked_app(make_provider(store))
    await assert_rejected(app, store, f"{COOKIE}={value}".encode())


async def test_guesses_never_reach_the_store(app: FastAPI, store: SpyStore) -> None:
    """A thousand well-formed cookies with random signatures cause no call."""
    for _ in range(1000):
        value = f"{secrets.token_urlsafe(48)}.{secrets.token_urlsafe(32)}"
        await assert_rejected(app, store, f"{COOKIE}={value}".encode())


# unknown and ended sessions


async def test_the_token_of_an_unknown_session_is_never_adopted(store: SpyStore) -> None:
    """Although it is signed, the next write has another token and key (CVE-2018-1000519)."""
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


async def test_the_token_of_a_deleted_session_is_never_adopted(
    app: FastAPI, clock: FrozenClock
) -> None:
    """A copy of the cookie from before a sign-out opens no session, and the next has another. For
    a few minutes it begins none, so that it replaces no newer cookie."""
    old = await valid_cookie(app)
    async with browser(app, old) as client:
        await client.get("/out")
    async with browser(app, old) as client:
        assert (await client.get("/")).json() == 0
        assert set_cookie_kind(await client.get("/count")) is None
        clock.advance(timedelta(minutes=6))
        response = await client.get("/count")
        assert cookie_value(response)[:21] != old[:21]


async def test_a_planted_cookie_is_invalid_after_the_sign_in(app: FastAPI) -> None:
    """An anonymous session of an attacker does not become the victim's: the token changes."""
    planted = await valid_cookie(app)
    async with browser(app, planted) as victim:
        response = await victim.get("/in")
        assert cookie_value(response) != planted
        assert (await victim.get("/")).json() == 1
    async with browser(app, planted) as attacker:
        response = await attacker.get("/")
        assert (response.json(), set_cookie_kind(response)) == (0, None)


async def test_the_right_handle_with_another_secret_opens_no_session(
    app: FastAPI, store: SpyStore
) -> None:
    """The token from before a renewal finds the record, but neither opens nor replaces it."""
    old = await valid_cookie(app)
    async with browser(app, old) as client:
        new = cookie_value(await client.get("/in"))
    assert new[:21] == old[:21]
    async with browser(app, old) as client:
        assert (await client.get("/")).json() == 0
        assert set_cookie_kind(await client.get("/count")) is None
    async with browser(app, new) as client:
        assert (await client.get("/")).json() == 1


async def test_a_sign_out_without_a_session_stores_nothing(app: FastAPI, store: SpyStore) -> None:
    """It calls no store (CVE-2015-5963, CVE-2015-5964), and removes the cookie if there is one."""
    for header in (b"", b"__Host-session=forged", b"__Host-session="):
        store.calls.clear()
        _, sent, _ = await call(app, "/out", headers=[(b"cookie", header)])
        removed = [b"Max-Age=0" in value for name, value in sent if name == b"set-cookie"]
        assert removed == ([True] if header else [])
        assert store.calls == []


async def test_the_store_never_gets_what_opens_a_session(app: FastAPI, store: SpyStore) -> None:
    """A key is a hash, and neither handle nor secret is in a record, as text or as bytes."""
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


# arbitrary bytes

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


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(headers=st.lists(_NAMED | _VALUES, min_size=1, max_size=3))
async def test_arbitrary_cookie_headers_are_rejected(headers: list[bytes]) -> None:
    """Without a valid signature no bytes cause an error or reach the store."""
    await assert_rejected(_APP, _STORE, *headers)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_any_change_to_a_valid_cookie_invalidates_it(data: st.DataObject) -> None:
    """Bytes are removed and inserted anywhere."""
    good = (await valid_cookie(_APP)).encode()
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, len(good)))
    damaged = good[:start] + data.draw(_VALUES) + good[stop:]
    # a complete copy of the cookie is still valid beside anything else
    values = [part.partition(b"=") for part in (b"__Host-session=" + damaged).split(b";")]
    if any(name.strip(b" \t") == b"__Host-session" and value.strip(b" \t") == good
           for name, _, value in values):  # fmt: skip
        return
    await assert_rejected(_APP, _STORE, b"__Host-session=" + damaged)


@pytest.mark.parametrize("size", [60_000, 1_000_000])
@pytest.mark.parametrize("piece", [b"\\a", b";", b"=", b" ", b"x;", b"__Host-session=x;"])
async def test_a_huge_header_is_rejected_in_linear_time(
    app: FastAPI, store: SpyStore, piece: bytes, size: int
) -> None:
    """A megabyte is rejected by its length, before it is parsed; 60 kB are parsed."""
    header = b"__Host-session=" + piece * (size // len(piece)) + b"; __Host-session=x"
    await assert_rejected(app, store, header)
    # measured without FastAPI, which parses all cookies itself, and in CPU time, so that a busy
    # machine makes no difference; quadratic time would be a hundred times as much
    cookie, headers = Cookie("session", CookieConfig()), [(b"cookie", header)]
    parse = partial(cookie.candidates, headers)
    assert min(timeit.repeat(parse, timer=time.thread_time, number=1, repeat=5)) < 0.2


async def test_many_small_headers_are_bounded_together(app: FastAPI, store: SpyStore) -> None:
    """The limit applies to the total length of all headers."""
    value = await valid_cookie(app)
    padding = [b"__Host-sessionx=" + b"x" * 4000] * 20
    await assert_rejected(app, store, *padding, f"{COOKIE}={value}".encode())
