"""Sessions in a session service, so that applications need no access to its database."""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import quote

from anyio import CancelScope
from pydantic import SecretStr, TypeAdapter, ValidationError

from ..errors import ConfigurationError, StoreUnavailable
from ..lifetime import Clock, checked_clock, utc_now
from ..records import Record
from ._loops import PerLoop
from ._wire import (
    COUNT,
    RECORD,
    RECORDS,
    SERVICE_HEADER,
    UNAVAILABLE,
    StoredRecord,
    checked_token,
    to_etag,
)
from .base import Store, translate_errors

try:
    import httpx
except ImportError as error:
    raise ConfigurationError(
        'HTTPStore needs httpx: pip install "fastapi_async_sessions[http]"'
    ) from error

_SECONDS = re.compile(r"[0-9]{1,5}")

_MAX_SESSION = 2**21
_MAINTENANCE_TIMEOUT = timedelta(minutes=10)

_AT_ONCE = 100
_KEPT = httpx.Limits(max_keepalive_connections=20)
_NEW = httpx.Limits(max_keepalive_connections=0)

T = TypeVar("T")


class HTTPStore(Store):
    """For applications that may not reach the database: keeps sessions in a session service.

    Requests go to the base URL and nowhere else: redirects are not followed, and proxies and
    credentials from the environment are not used. Cookies are not kept. When a connection breaks,
    the request is sent once more, on a new one, which its conditions make safe. A session ends when
    it has expired by the clock of the service or by ours. At most a hundred calls are made at once,
    while others wait.

    Args:
        base_url: Where ``session_service`` is served: ``https``, or ``http`` on this machine.
        token: The one that the service was given, at least 32 characters.
        timeout: For a whole call; ``purge``, ``clear`` and ``count`` may take ten minutes.
        transport: An ``httpx`` transport, for a certificate of your own (``httpx.
            AsyncHTTPTransport(verify=..., cert=...)``) or for tests (``httpx.ASGITransport``). One
            with connections works in one event loop after another, not in several at once. It
            should allow 100 connections, and may send a request once more on another kept one.

    Raises:
        ConfigurationError: the URL or the token is not safe, or the timeout is not positive.
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
        if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
            raise ConfigurationError(
                "HTTPStore(timeout=...) takes a positive timedelta: write timedelta(seconds=2)"
            )
        if not isinstance(transport, httpx.AsyncBaseTransport | None):
            raise ConfigurationError(
                "HTTPStore(transport=...) takes a transport of httpx: write "
                "httpx.AsyncHTTPTransport(verify=..., cert=...)"
            )
        self._base_url = _checked_url(base_url)
        self._token = checked_token(token)
        self._timeout = timeout
        self._clock = checked_clock(clock, "HTTPStore")
        self._transport = transport
        self._loops = PerLoop(self._begin, _InOneLoop.aclose)

    async def create(self, key: str, record: Record) -> bool:
        return await self._put(key, record, {"If-None-Match": "*"})

    async def load(self, key: str) -> Record | None:
        reply = await self._request("GET", _path(key))
        if reply.status == 404:
            return None
        session = _parse(RECORD, reply)
        if session.key != key:
            raise StoreUnavailable("the session service answered with another session")
        record = session.to_record()
        return record if record.expires_at > self._clock() else None

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        return await self._put(key, record, {"If-Match": to_etag(replaces)})

    async def delete(self, key: str) -> bool:
        return (await self._request("DELETE", _path(key))).status == 204

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        path = f"{_owner_path(owner)}?limit={limit}"
        reply = await self._request("GET", path, limit=limit * _MAX_SESSION)
        found = [(session.key, session.to_record()) for session in _parse(RECORDS, reply)]
        now = self._clock()
        return [each for each in found if each[1].owner == owner and each[1].expires_at > now]

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        query = "" if keep is None else f"?keep={quote(keep, safe='')}"
        path = f"{_owner_path(owner)}{query}"
        return _parse(COUNT, await self._request("DELETE", path)).count

    async def count(self) -> int:
        reply = await self._request("GET", "/count", within=_MAINTENANCE_TIMEOUT)
        return _parse(COUNT, reply).count

    async def purge(self) -> int:
        reply = await self._request("POST", "/purge", within=_MAINTENANCE_TIMEOUT)
        return _parse(COUNT, reply).count

    async def server_time(self) -> datetime | None:
        """Return the ``Date`` of the service's answer, which counts whole seconds."""
        reply = await self._request("GET", _path("0" * 64))
        with suppress(ValueError):
            return parsedate_to_datetime(reply.headers.get("Date", "")).astimezone(UTC)
        return None

    async def clear(self) -> None:
        await self._request("DELETE", "/sessions", within=_MAINTENANCE_TIMEOUT)

    async def open(self) -> None:
        """Load the TLS certificates, which would otherwise delay the first request."""
        self._loops.here()

    async def aclose(self) -> None:
        """Wait for the calls in flight, five seconds at most, and close the connections."""
        await self._loops.close()

    async def _put(self, key: str, record: Record, condition: dict[str, str]) -> bool:
        headers = {**condition, "Content-Type": "application/json"}
        content = RECORD.dump_json(StoredRecord.of(key, record))
        return (await self._request("PUT", _path(key), headers, content)).status in (201, 204)

    async def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        *,
        limit: int = _MAX_SESSION,
        within: timedelta | None = None,
    ) -> "_Reply":
        # the rest of the path is a key or an owner
        call = f"{method} /{re.split('[/?]', path)[1]} at {self._base_url.host}"
        seconds = (within or self._timeout).total_seconds()
        # An httpx error holds the request, and the request holds the token.
        with translate_errors(partial(_unavailable, call, seconds)):
            try:
                # one timeout for all of it: connecting, a slow answer, a second attempt
                async with asyncio.timeout(seconds):
                    here = self._loops.here()
                    request = here.client.build_request(
                        method, path, headers=headers, content=content
                    )
                    return _checked(await here.exchange(request, limit))
            except asyncio.CancelledError as error:
                error.add_note(call)
                raise

    def _begin(self) -> "_InOneLoop":
        client = self._make_client(_KEPT)
        # a transport of the application has its own limits, and is closed only once
        is_ours = self._transport is None
        return _InOneLoop(client, self._make_client(_NEW) if is_ours else client)

    def _make_client(self, limits: httpx.Limits) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._base_url,
            headers={
                "Authorization": f"Bearer {self._token.get_secret_value()}",
                "Accept-Encoding": "identity",  # nothing that could decompress to a gigabyte
            },
            limits=limits,
            timeout=None,  # noqa: S113  # _request sets one for the whole call
            follow_redirects=False,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            transport=self._transport,
        )


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: httpx.Headers
    body: bytes


class _InOneLoop:
    """What belongs to one event loop: its clients, and the calls that are in flight on them."""

    def __init__(self, client: httpx.AsyncClient, retry_client: httpx.AsyncClient) -> None:
        self.client = client
        self._retry_client = retry_client
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._in_flight: dict[asyncio.Task[_Reply | None], CancelScope] = {}

    async def exchange(self, request: httpx.Request, limit: int) -> _Reply:
        """Send a request, and once more if its connection breaks; return the reply.

        httpcore 1.0 loses the connection of a task that is cancelled by anything but anyio, or that
        waits for a connection meanwhile. So each call has its own task, which only its scope
        cancels, and waits for its turn before httpcore knows of it.
        """
        scope = CancelScope()
        task = asyncio.create_task(self._exchange_in(scope, request, limit))
        self._in_flight[task] = scope
        task.add_done_callback(self._forget)
        try:
            reply = await asyncio.shield(task)
        except asyncio.CancelledError:
            scope.cancel()
            raise
        if reply is None:
            raise StoreUnavailable("the store was closed before the session service answered")
        return reply

    async def aclose(self) -> None:
        """Close the clients once no call is in flight, or once this is cancelled."""
        try:
            if self._in_flight:
                await asyncio.wait(self._in_flight)
        finally:
            for scope in self._in_flight.values():
                scope.cancel()
            await self.client.aclose()
            await self._retry_client.aclose()

    def _forget(self, task: asyncio.Task[_Reply | None]) -> None:
        del self._in_flight[task]
        if not task.cancelled():
            task.exception()  # or asyncio would log that the one of a cancelled caller was lost

    async def _exchange_in(
        self, scope: CancelScope, request: httpx.Request, limit: int
    ) -> _Reply | None:
        """Return None if the scope was cancelled."""
        with scope:
            async with self._turns:
                with suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                    return await _send(self.client, request, limit)
                # Once more, with the same condition: a write that was done already is known by its
                # version. On a new connection, since a server that closes one idle connection may
                # be closing them all.
                return await _send(self._retry_client, request, limit)
        return None


async def _send(client: httpx.AsyncClient, request: httpx.Request, limit: int) -> _Reply:
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise StoreUnavailable(
                    f"the session service responded with more than {limit} bytes"
                )
        return _Reply(response.status_code, response.headers, bytes(body))
    finally:
        await response.aclose()


def _checked(reply: _Reply) -> _Reply:
    """Return a reply in which a session service answers; any other is ``StoreUnavailable``."""
    if reply.status in _ANSWERS and SERVICE_HEADER in reply.headers:
        return reply
    seconds = reply.headers.get("Retry-After", "") if reply.status in (429, 503) else ""
    retry_after = int(seconds) if _SECONDS.fullmatch(seconds) else 1
    reason = f"the session service answered {reply.status}{_hint(reply)}"
    raise StoreUnavailable(reason, retry_after=retry_after)


def _hint(reply: _Reply) -> str:
    if reply.status == 503 and SERVICE_HEADER in reply.headers:
        return f": its store is unavailable: {_parse(UNAVAILABLE, reply).reason}"
    return _HINTS.get(reply.status, "")


_ANSWERS = (200, 201, 204, 404, 412)
_OTHER_SERVER = ", but not as a session service: is the base URL right?"
_REDIRECT = ", a redirect, which is not followed: is the base URL right?"
_HINTS = {
    200: _OTHER_SERVER,
    **dict.fromkeys((301, 302, 303, 307, 308), _REDIRECT),
    401: ": it was given another token",
    404: _OTHER_SERVER,
    413: (
        ": the request is too large for a proxy in front of it, which must allow 2 MB: in nginx, "
        "client_max_body_size 2m"
    ),
    500: ": see its log",
    502: ": a proxy in front of it could not reach it",
    504: ": a proxy in front of it stopped waiting for it",
}


def _parse(adapter: TypeAdapter[T], reply: _Reply) -> T:
    with translate_errors(_not_sessions, ValidationError):
        return adapter.validate_json(reply.body)


def _not_sessions(_: Exception) -> StoreUnavailable:
    return StoreUnavailable("the session service answered with something other than sessions")


def _unavailable(call: str, seconds: float, error: Exception) -> StoreUnavailable:
    """Name the call and what failed, without the error's text, which may repeat a header."""
    if isinstance(error, TimeoutError):
        return StoreUnavailable(f"{call} took longer than {seconds:g} seconds")
    cause = error
    while isinstance(inner := cause.__cause__ or cause.__context__, Exception):
        cause = inner
    names = dict.fromkeys((type(error).__name__, type(cause).__name__))
    return StoreUnavailable(f"{call} failed: {', '.join(names)}")


def _path(key: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", key) is None:
        raise ValueError("a key is 64 hexadecimal digits: nothing else becomes part of a path")
    return f"/sessions/{key}"


def _owner_path(owner: str) -> str:
    # Quoted twice, the dots too: servers and proxies decode a path before they look for slashes and
    # dots in it. An owner of letters, digits, "-" and "_" is sent as it is.
    segment = quote(owner, safe="").replace(".", "%2E")
    return f"/owners/{quote(segment)}/sessions"


def _checked_url(base_url: str) -> httpx.URL:
    with suppress(httpx.InvalidURL, TypeError, ValueError):
        url = httpx.URL(base_url)
        is_private = url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))
        if is_private and url.host and not (url.userinfo or url.query or url.fragment):
            return url
    raise ConfigurationError(
        "HTTPStore takes a base URL like https://sessions.example.com/, without user, query or "
        "fragment; http:// only for this machine, since elsewhere others could read the token and "
        "the sessions"
    )


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
