"""This design without its promises: a typed, signed session in Redis, and nothing else.

It has one signature, one parse, one dump, a write that replaces one version only, and at a sign-in
the check whether the user's sessions are being revoked. It has no expiry, key rotation, handling of
two cookies of one name, safe cancellation, time limits, merging, origin check, events or list of
devices. The difference between the two is what those cost.
"""

import asyncio
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from redis.asyncio import Redis
from redis.exceptions import NoScriptError
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

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

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Batches(Generic[_Item, _Answer]):
    """Sends an item at once, and those that arrive before its answer together in the next call."""

    def __init__(self, send: Callable[[list[_Item]], Awaitable[list[_Answer]]]) -> None:
        self._send = send
        self._waiting: list[tuple[_Item, asyncio.Future[_Answer]]] = []
        self._is_sending = False

    async def __call__(self, item: _Item) -> _Answer:
        if self._is_sending:
            answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
            self._waiting.append((item, answer))
            return await answer
        self._is_sending = True
        (found,) = await self._send([item])
        self._rest = asyncio.create_task(self._send_waiting())
        return found

    async def _send_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            answers = await self._send([item for item, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
        self._is_sending = False


class LeastSession:
    """One request's session, as far as the routes use one."""

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
    def of(cls, token: bytes, stored: bytes) -> "LeastSession":
        session = cls.__new__(cls)
        session.token = token
        session.version = stored[:VERSION]
        user, _, session.base = stored[VERSION:].partition(b"\n")
        session.user = user.decode()
        session.data = _BASKET.validator.validate_json(session.base)
        session.has_new_token = session.is_gone = False
        return session

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
    """Commits when the route has returned, and adds the cookie to the response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle_and_commit(request: Request) -> Response:
            response = await handler(request)
            if "least" in request.scope:
                await request.scope["commit"](request.scope["least"])
            return response

        return handle_and_commit

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_cookie(message: Message) -> None:
            if "least" in scope and message["type"] == "http.response.start":
                headers = [*message["headers"], *scope["least"].headers()]
                message = {**message, "headers": headers}
            await send(message)

        await super().handle(scope, receive, send_with_cookie)


class LeastProvider:
    """The dependency, on Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._reads: Batches[bytes, bytes | None] = Batches(self._read_all)
        self._saves: Batches[tuple[bytes, bytes, bytes], int] = Batches(self._save_all)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        yield
        await self._redis.aclose()

    async def __call__(self, connection: HTTPConnection) -> LeastSession:
        scope = connection.scope
        scope["least"], scope["commit"] = await self._session(scope["headers"]), self._commit
        return scope["least"]

    async def _session(self, headers: Sequence[tuple[bytes, bytes]]) -> LeastSession:
        for name, value in headers:
            if name == b"cookie" and (cookies := _COOKIES(value)):
                token, _, signature = cookies[0].partition(b".")
                if hmac.compare_digest(_signature(token), signature):
                    stored = await self._reads(b"least:" + token)
                    if stored is not None:
                        return LeastSession.of(token, stored)
        return LeastSession()

    async def _commit(self, session: LeastSession) -> None:
        if session.is_gone:
            await self._redis.delete(b"least:" + session.token)
            return
        data = _BASKET.serializer.to_json(session.data)
        if data == session.base:
            return
        _BASKET.validator.validate_json(data)  # or the next request could not read it
        version = secrets.token_hex(VERSION // 2).encode()
        value = version + session.user.encode() + b"\n" + data
        # of two changes at once the second is dropped, and its client is not told
        save = self._saves((b"least:" + session.token, session.version, value))
        await asyncio.shield(asyncio.create_task(save))
        if session.has_new_token:
            await self._reads(b"revoked:" + session.user.encode())

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
