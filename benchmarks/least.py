"""The least of this design: a typed, signed session in Redis, and no promise beside it.

One signature, one parse, one dump, a write that replaces one version only, and at a sign-in the
question whether the user's sessions are being revoked. No expiry, key rotation, second cookie of a
name, cancellation, time limit, merge, origin check, event or list of devices: what this library
takes more than this, those take.
"""

import asyncio
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from redis.asyncio import Redis
from redis.exceptions import NoScriptError
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from fastapi_async_sessions.stores._batcher import Batcher

from .work import SECRET, Basket

VERSION = 14  # bytes
_COOKIES = re.compile(rb"(?:^|;)[ \t]*sid=([^;]*)").findall
_KEY = SECRET.encode()
_BASKET = TypeAdapter(Basket)
_SAVE = f"""
local done = {{}}
for i = 1, #KEYS do
  local stored = redis.call('GET', KEYS[i])
  local version = stored and string.sub(stored, 1, {VERSION}) or ''
  if version == ARGV[2 * i - 1] then
    redis.call('SET', KEYS[i], ARGV[2 * i], 'EX', 3600)
    done[i] = 1
  else
    done[i] = 0
  end
end
return done
"""
_SHA = sha1(_SAVE.encode(), usedforsecurity=False).hexdigest()


class Visit:
    """One request's session, as far as the routes know one."""

    __slots__ = ("base", "data", "has_new_token", "is_gone", "token", "user", "version")

    def __init__(self) -> None:
        self.token = b""
        self.version = b""
        self.user = ""
        self.data = Basket()
        self.base = _BASKET.serializer.to_json(self.data)
        self.has_new_token = False
        self.is_gone = False

    @classmethod
    def of(cls, token: bytes, stored: bytes) -> "Visit":
        visit = cls.__new__(cls)
        visit.token = token
        visit.version = stored[:VERSION]
        user, _, visit.base = stored[VERSION:].partition(b"\n")
        visit.user = user.decode()
        visit.data = _BASKET.validator.validate_json(visit.base)
        visit.has_new_token = visit.is_gone = False
        return visit

    @property
    def subject(self) -> str | None:
        return self.user or None

    def renew(self, *, subject: str) -> None:
        self.user = subject
        self.token, self.version = secrets.token_urlsafe(48).encode(), b""
        self.has_new_token = True

    async def destroy(self) -> None:
        self.is_gone = True

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"vary", b"Cookie")]
        if self.is_gone:
            headers.append((b"set-cookie", b"sid=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"))
        elif self.has_new_token:
            value = self.token + b"." + _signature(self.token)
            headers.append((b"set-cookie", b"sid=" + value + b"; Path=/; Secure; HttpOnly"))
        return headers


class LeastRoute(APIRoute):
    """Commits when the route has returned, and lays the cookie on the response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle_and_commit(request: Request) -> Response:
            response = await handler(request)
            if "visit" in request.scope:
                await request.scope["commit"](request.scope["visit"])
            return response

        return handle_and_commit

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_cookie(message: Message) -> None:
            if "visit" in scope and message["type"] == "http.response.start":
                headers = [*message["headers"], *scope["visit"].headers()]
                message = {**message, "headers": headers}
            await send(message)

        await super().handle(scope, receive, send_with_cookie)


class LeastProvider:
    """The dependency, on Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        self._reads: Batcher[bytes, bytes | None] = Batcher(loop, self._read_all)
        self._saves: Batcher[tuple[bytes, bytes, bytes], int] = Batcher(loop, self._save_all)
        yield
        await self._redis.aclose()

    async def __call__(self, connection: HTTPConnection) -> Visit:
        scope = connection.scope
        scope["visit"], scope["commit"] = await self._visit(scope["headers"]), self._commit
        return scope["visit"]

    async def _visit(self, headers: Sequence[tuple[bytes, bytes]]) -> Visit:
        for name, value in headers:
            if name == b"cookie" and (cookies := _COOKIES(value)):
                token, _, signature = cookies[0].partition(b".")
                if hmac.compare_digest(_signature(token), signature):
                    stored = await self._reads(b"least:" + token)
                    if stored is not None:
                        return Visit.of(token, stored)
        return Visit()

    async def _commit(self, visit: Visit) -> None:
        if visit.is_gone:
            await self._redis.delete(b"least:" + visit.token)
            return
        data = _BASKET.serializer.to_json(visit.data)
        if data == visit.base:
            return
        _BASKET.validator.validate_json(data)  # the next request will
        version = secrets.token_hex(VERSION // 2).encode()
        value = version + visit.user.encode() + b"\n" + data
        # who comes second is refused, and told nothing
        save = self._saves((b"least:" + visit.token, visit.version, value))
        await asyncio.shield(asyncio.create_task(save))
        if visit.has_new_token:
            await self._reads(b"revoked:" + visit.user.encode())

    async def _read_all(self, keys: list[bytes]) -> list[bytes | None]:
        return list(await self._redis.execute_command("MGET", *keys))

    async def _save_all(self, steps: list[tuple[bytes, bytes, bytes]]) -> list[int]:
        words = [key for key, _, _ in steps] + [word for step in steps for word in step[1:]]
        try:
            return list(await self._redis.execute_command("EVALSHA", _SHA, len(steps), *words))
        except NoScriptError:
            return list(await self._redis.execute_command("EVAL", _SAVE, len(steps), *words))


def _signature(token: bytes) -> bytes:
    return hmac.digest(_KEY, token, "sha256").hex().encode()
