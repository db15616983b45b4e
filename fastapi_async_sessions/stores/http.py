"""Sessions behind HTTP: ``HTTPStore`` asks, ``session_service`` answers from any store.

    PUT     /sessions/{key}            If-None-Match: *        create   201, or 412: it exists
    PUT     /sessions/{key}            If-Match: "<version>"   save     204, or 412
    GET     /sessions/{key}                                    load     200 with ETag, or 404
    DELETE  /sessions/{key}                                    delete   204, or 404
    GET     /subjects/{hash}/sessions                          find     200
    POST    /purge                                             purge    200

A subject travels as its SHA-256. What it is lies sealed in the body, which the service and its
store never open.
"""

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Path, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from ..errors import ConfigurationError, StoreUnavailable
from ..lifetime import Clock, utc_now
from ..records import Record
from .base import Store

try:
    import httpx
except ImportError as error:
    raise ConfigurationError(
        'HTTPStore needs httpx: pip install "fastapi_async_sessions[http]"'
    ) from error

_HASH = "^[0-9a-f]{64}$"
_TOKEN = re.compile(r"[\x21-\x7e]{32,}")
_SECONDS = re.compile(r"[0-9]{1,5}")

# a record of 1 MiB, which is the largest there is, takes 1.34 MiB on the wire
_LARGEST_REQUEST = 3 * 2**19
_LARGEST_RECORD = 2**21
_LARGEST_LIST = 2**26
_PURGE_TIMEOUT = timedelta(minutes=10)

# on each answer of the service: the 404 of another server, or of a proxy, ends no session
_MARK = "Session-Service"

T = TypeVar("T")


class StoredRecord(BaseModel):
    """A record on the wire; ``body`` is base64, in the alphabet for URLs."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", frozen=True)

    key: Annotated[str, Field(pattern=_HASH)]
    version: Annotated[str, Field(min_length=1, max_length=255)]
    subject: Annotated[str, Field(pattern=_HASH)] | None
    expires_at: AwareDatetime
    body: bytes


class Purged(BaseModel):
    """How many expired sessions were removed."""

    purged: int


_RECORD = TypeAdapter(StoredRecord)
_RECORDS = TypeAdapter(list[StoredRecord])
_PURGED = TypeAdapter(Purged)


class HTTPStore(Store):
    """Sessions in a session service of yours, so that applications need no way to the database.

    Nothing is followed but the base URL: no redirects, no proxies from the environment, no
    cookies. Where the connection breaks a request is sent once more; the conditions it carries
    make that safe. Two clocks judge an expiry, that of the service and ours.

    Args:
        base_url: Where ``session_service`` is: ``https``, or ``http`` on this machine.
        token: The one that the service was given, at least 32 characters.
        timeout: For the whole of a call; ``purge`` may take ten minutes.
        transport: An ``httpx`` transport, for a certificate of your own (``httpx.
            AsyncHTTPTransport(verify=..., cert=...)``) or for tests (``httpx.ASGITransport``).

    Raises:
        ConfigurationError: the URL or the token would not be safe, or the timeout is not positive.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | SecretStr,
        timeout: timedelta = timedelta(seconds=2),
        clock: Clock = utc_now,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if timeout <= timedelta(0):
            raise ConfigurationError("HTTPStore(timeout=...) must be positive")
        self._base_url = _checked_url(base_url)
        self._token = _checked_token(token)
        self._timeout = timeout
        self._clock = clock
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def create(self, key: str, record: Record) -> bool:
        return await self._put(key, record, {"If-None-Match": "*"})

    async def load(self, key: str) -> Record | None:
        reply = await self._ask("GET", _path(key))
        if reply.status == 404:
            return None
        session = _parse(_RECORD, reply)
        if session.key != key:
            raise StoreUnavailable("the session service answered with another session")
        record = _opened(session)
        return record if record.expires_at > self._clock() else None

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        return await self._put(key, record, {"If-Match": _etag(replaces)})

    async def delete(self, key: str) -> bool:
        return (await self._ask("DELETE", _path(key))).status == 204

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        path = f"/subjects/{_hash(subject)}/sessions"
        reply = await self._ask("GET", path, limit=_LARGEST_LIST)
        found = [(session.key, _opened(session)) for session in _parse(_RECORDS, reply)]
        now = self._clock()
        return [each for each in found if each[1].subject == subject and each[1].expires_at > now]

    async def purge(self) -> int:
        reply = await self._ask("POST", "/purge", within=_PURGE_TIMEOUT)
        return _parse(_PURGED, reply).purged

    async def open(self) -> None:
        self._connected()  # the certificates are read here, not in the first request

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _put(self, key: str, record: Record, condition: dict[str, str]) -> bool:
        headers = {**condition, "Content-Type": "application/json"}
        content = _RECORD.dump_json(_sealed(key, record))
        return (await self._ask("PUT", _path(key), headers, content)).status in (201, 204)

    async def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        *,
        limit: int = _LARGEST_RECORD,
        within: timedelta | None = None,
    ) -> "_Reply":
        """The one place where what goes wrong on the way becomes ``StoreUnavailable``."""
        try:
            # one deadline for all of it: connecting, an answer that drips, a second attempt
            async with asyncio.timeout((within or self._timeout).total_seconds()):
                client = self._connected()
                request = client.build_request(method, path, headers=headers, content=content)
                reply = await _exchange(client, request, limit)
        except StoreUnavailable:
            raise
        except Exception as error:
            reason = _reason(error)
        else:
            return _accepted(reply)
        # raised out here it has no cause and no context: an httpx error holds the request, and
        # with it the token
        raise StoreUnavailable(reason)

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self._base_url,
                headers={
                    "Authorization": f"Bearer {self._token.get_secret_value()}",
                    "Accept-Encoding": "identity",  # nothing that could unpack to a gigabyte
                },
                timeout=None,  # noqa: S113  # _ask sets one for the whole call
                follow_redirects=False,
                trust_env=False,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                transport=self._transport,
            )
        return self._client


def session_service(store: Store, *, token: str | SecretStr) -> FastAPI:
    """An ASGI application that answers ``HTTPStore`` from ``store``; run it with TLS.

    Who knows the token may read and change every session, if they know its key. The store is
    opened and closed with the application; expired sessions go when a client purges.

    Raises:
        ConfigurationError: the token is no text of at least 32 ASCII characters.
    """
    expected = _checked_token(token).get_secret_value().encode()
    bearer = HTTPBearer(description="The token of the service.", auto_error=False)

    async def authorize(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        # Starlette reads headers as latin-1, which gives each byte back
        credentials = given.credentials.encode("latin-1") if given else b""
        if not secrets.compare_digest(credentials, expected):
            raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await store.open()
        try:
            yield
        finally:
            await store.aclose()

    app = FastAPI(
        title="Session service",
        dependencies=[Depends(authorize)],
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.store = store
    app.include_router(_router)
    return app


_router = APIRouter()
_Key = Annotated[str, Path(pattern=_HASH)]


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


async def _sent(request: Request, key: _Key) -> StoredRecord:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_REQUEST:
            raise HTTPException(413)
    try:
        session = _RECORD.validate_json(bytes(body))
    except ValidationError:
        raise HTTPException(422, "this is no stored session") from None
    if session.key != key:
        raise HTTPException(422, "the key is another one than that in the path")
    return session


_Backing = Annotated[Store, Depends(_store)]
_Sent = Annotated[StoredRecord, Depends(_sent)]
_Responses = dict[int | str, dict[str, Any]]
_MISSING: _Responses = {404: {"description": "There is no such session, or it has expired"}}
_WRITTEN: _Responses = {
    201: {"description": "Created"},
    412: {"description": "It exists already, is gone, or has another version"},
    428: {"description": "Neither condition was sent"},
}
_IN_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": StoredRecord.model_json_schema()}},
    }
}


@_router.get("/sessions/{key}", response_model=StoredRecord, responses=_MISSING)
async def _load(key: _Key, store: _Backing) -> Response:
    record = await store.load(key)
    if record is None:
        return _answer(404)
    content = _RECORD.dump_json(_on_wire(key, record))
    return _answer(200, content, {"ETag": _etag(record.version)})


@_router.put("/sessions/{key}", status_code=204, responses=_WRITTEN, openapi_extra=_IN_BODY)
async def _write(
    session: _Sent,
    store: _Backing,
    if_match: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    record = Record(session.body, session.version, session.subject, session.expires_at)
    if if_match is not None:
        saved = await store.save(session.key, record, replaces=_version(if_match))
        return _answer(204 if saved else 412)
    if if_none_match == "*":
        return _answer(201 if await store.create(session.key, record) else 412)
    raise HTTPException(428, 'send If-None-Match: * or If-Match: "<version>"')


@_router.delete("/sessions/{key}", status_code=204, responses=_MISSING)
async def _delete(key: _Key, store: _Backing) -> Response:
    return _answer(204 if await store.delete(key) else 404)


@_router.get("/subjects/{subject}/sessions", response_model=list[StoredRecord])
async def _find(subject: _Key, store: _Backing) -> Response:
    found = await store.find(subject)
    return _answer(200, _RECORDS.dump_json([_on_wire(key, record) for key, record in found]))


@_router.post("/purge", response_model=Purged)
async def _purge(store: _Backing) -> Response:
    return _answer(200, _PURGED.dump_json(Purged(purged=await store.purge())))


def _answer(status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> Response:
    headers = {_MARK: "1", "Cache-Control": "no-store", **(headers or {})}
    return Response(content, status, headers, "application/json" if content else None)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: httpx.Headers
    body: bytes


async def _exchange(client: httpx.AsyncClient, request: httpx.Request, limit: int) -> _Reply:
    try:
        return await _send(client, request, limit)
    except (httpx.NetworkError, httpx.RemoteProtocolError):
        pass
    # once more, with the same conditions: a write that was done is found by its own version
    return await _send(client, request, limit)


async def _send(client: httpx.AsyncClient, request: httpx.Request, limit: int) -> _Reply:
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise StoreUnavailable(f"the session service answered more than {limit} bytes")
        return _Reply(response.status_code, response.headers, bytes(body))
    finally:
        await response.aclose()


def _accepted(reply: _Reply) -> _Reply:
    """What the session service has answered, and nobody else."""
    if reply.status in _ANSWERS and _MARK in reply.headers:
        return reply
    hint = _HINTS.get(reply.status, "")
    seconds = reply.headers.get("Retry-After", "") if reply.status in (429, 503) else ""
    retry_after = int(seconds) if _SECONDS.fullmatch(seconds) else 1
    reason = f"the session service answered {reply.status}{hint}"
    raise StoreUnavailable(reason, retry_after=retry_after)


_ANSWERS = (200, 201, 204, 404, 412)
_HINTS = {
    200: ", but not as a session service: is the base URL right?",
    401: ": it was given another token",
    404: ", but not as a session service: is the base URL right?",
}


def _parse(what: TypeAdapter[T], reply: _Reply) -> T:
    with suppress(ValidationError):
        return what.validate_json(reply.body)
    raise StoreUnavailable("the session service answered with something else than sessions")


def _reason(error: Exception) -> str:
    """What failed, by name: the text may repeat an address or a header."""
    cause = error
    while isinstance(inner := cause.__cause__ or cause.__context__, Exception):
        cause = inner
    names = dict.fromkeys((type(error).__name__, type(cause).__name__))
    return f"the session service could not be asked: {', '.join(names)}"


def _sealed(key: str, record: Record) -> StoredRecord:
    """The record for the wire, with its subject hidden in the body and hashed beside it."""
    if record.subject is None:
        return _on_wire(key, record)
    name = record.subject.encode()
    body = len(name).to_bytes(2, "big") + name + record.body
    return _on_wire(key, replace(record, body=body, subject=_hash(record.subject)))


def _opened(session: StoredRecord) -> Record:
    record = Record(session.body, session.version, session.subject, session.expires_at)
    if session.subject is None:
        return record
    end = 2 + int.from_bytes(session.body[:2], "big")
    subject = session.body[2:end].decode(errors="replace")
    if _hash(subject) != session.subject:
        raise StoreUnavailable("the session service answered with a body that was not made here")
    return replace(record, body=session.body[end:], subject=subject)


def _on_wire(key: str, record: Record) -> StoredRecord:
    return StoredRecord(
        key=key,
        version=record.version,
        subject=record.subject,
        expires_at=record.expires_at,
        body=record.body,
    )


def _hash(subject: str) -> str:
    return hashlib.sha256(subject.encode()).hexdigest()


def _path(key: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", key) is None:
        raise ValueError("a key is 64 hexadecimal digits: nothing else becomes part of a path")
    return f"/sessions/{key}"


def _etag(version: str) -> str:
    return f'"{quote(version, safe="")}"'


def _version(etag: str) -> str:
    if re.fullmatch(r'"[!#-~]+"', etag) is None:
        raise HTTPException(400, "If-Match takes one strong entity tag")
    return unquote(etag[1:-1])


def _checked_token(token: str | SecretStr) -> SecretStr:
    text = token.get_secret_value() if isinstance(token, SecretStr) else token
    if not _TOKEN.fullmatch(text):
        raise ConfigurationError(
            "the token of a session service has at least 32 ASCII characters and no spaces: "
            "make one with secrets.token_urlsafe(32), and give both ends the same"
        )
    return SecretStr(text)


def _checked_url(base_url: str) -> httpx.URL:
    with suppress(httpx.InvalidURL):
        url = httpx.URL(base_url)
        is_private = url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))
        if is_private and url.host and not (url.userinfo or url.query or url.fragment):
            return url
    raise ConfigurationError(
        "HTTPStore takes a base URL like https://sessions.example.com/, without user, query or "
        "fragment; http:// is for this machine alone, as sessions and token would be readable"
    )


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
