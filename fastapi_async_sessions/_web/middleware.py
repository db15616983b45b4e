"""The middleware that commits the sessions of requests for which there is no ``SessionRoute``."""

from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from ..errors import ConfigurationError
from .closing import close_websocket
from .jar import SCOPE_KEY, Jar
from .provider import SessionProvider
from .wiring import is_inside_middleware


class SessionRouteMiddleware:
    """ASGI middleware that does what ``SessionRoute`` does, where there is no such route.

        app.add_middleware(SessionRouteMiddleware)  # error pages, HTTP middleware, any route
        app.mount("/admin", SessionRouteMiddleware(admin))  # a mounted application

    Inside it ``await get_session(request)`` works. A FastAPI route commits as a ``SessionRoute``
    does. Elsewhere the sessions are committed when the response begins, whatever its status below
    500; they are rolled back if it is 500 or above, or if an exception reaches this middleware.

    Args:
        request_session: A provider with ``request_session=...``, whose session is loaded for each
            request, so that packages inside have ``request.session``.

    Raises:
        ConfigurationError: the provider has no ``request_session``, or an argument is of another
            type.
    """

    closes_sessions: ClassVar[bool] = True

    def __init__(
        self, app: ASGIApp, *, request_session: SessionProvider[Any] | None = None
    ) -> None:
        if not callable(app):
            raise ConfigurationError(
                "SessionRouteMiddleware(app) takes an ASGI application; to put it around yours, "
                "write app.add_middleware(SessionRouteMiddleware)"
            )
        if request_session is not None and not _has_request_session(request_session):
            raise ConfigurationError(
                "SessionRouteMiddleware(request_session=...) takes a provider that has "
                'request.session: write SessionProvider(..., request_session="extra")'
            )
        self.app = app
        self._get_session = request_session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a websocket or the lifespan of the application inside."""
        if scope["type"] == "lifespan":
            await _start(self.app, scope, receive, send)
        elif scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif SCOPE_KEY in scope:
            await self._run(scope, receive, send)
        elif scope["type"] == "http":
            jar = scope[SCOPE_KEY] = Jar()
            await _serve(self._run, jar, scope, receive, jar.sending(scope, send))
        else:
            jar = scope[SCOPE_KEY] = Jar()
            await _serve_websocket(self._run, jar, scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._get_session is not None:
            try:
                await self._get_session(HTTPConnection(scope))
            except HTTPException as error:
                if scope["type"] == "http":
                    await _respond(error, scope, receive, send)
                else:
                    await send({"type": "websocket.close", "code": 1008, "reason": ""})
                return
        await self.app(scope, receive, send)


def _has_request_session(provider: object) -> bool:
    return isinstance(provider, SessionProvider) and provider.request_session is not None


async def _start(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    token = is_inside_middleware.set(True)
    try:
        await app(scope, receive, send)
    finally:
        is_inside_middleware.reset(token)


async def _serve(app: ASGIApp, jar: Jar, scope: Scope, receive: Receive, send: Send) -> None:
    failure: Exception | None = None

    async def send_after_commit(message: Message) -> None:
        nonlocal failure
        if failure is not None:
            raise failure
        if message["type"] == "http.response.start":
            try:
                await (jar.roll_back() if message["status"] >= 500 else jar.close())
            except Exception as error:
                failure = error
                raise
        await send(message)

    try:
        await app(scope, receive, send_after_commit)
    except Exception:
        if failure is None:
            raise
    finally:
        await jar.roll_back()  # unless the response has begun
    if failure is not None:
        await _respond(failure, scope, receive, send)
    jar.report_late_changes()


async def _respond(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the response for a failed commit, by the application's exception handler if any."""

    async def fail(*_: object) -> None:
        raise error

    app = scope.get("app")
    if isinstance(app, Starlette):
        # as Starlette itself does: its outermost middleware has the handlers of these two
        given = app.exception_handlers.items()
        handlers = {kind: handler for kind, handler in given if kind not in (500, Exception)}
        await ExceptionMiddleware(fail, handlers)(scope, receive, send)
    elif isinstance(error, HTTPException):
        body = {"detail": error.detail}
        await JSONResponse(body, error.status_code, error.headers)(scope, receive, send)
    else:
        raise error


async def _serve_websocket(
    app: ASGIApp, jar: Jar, scope: Scope, receive: Receive, send: Send
) -> None:
    # the application talks to the server itself, and this object only follows the states
    websocket = WebSocket(scope, receive, send)

    async def watched_receive() -> Message:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            websocket.client_state = WebSocketState.DISCONNECTED
        return message

    async def watched_send(message: Message) -> None:
        if message["type"] == "websocket.accept":
            websocket.client_state = websocket.application_state = WebSocketState.CONNECTED
        elif message["type"] in ("websocket.close", "websocket.http.response.start"):
            websocket.application_state = WebSocketState.DISCONNECTED
        await send(message)

    try:
        await app(scope, watched_receive, watched_send)
    except BaseException as error:
        await close_websocket(websocket, jar, error)
        raise
    await close_websocket(websocket, jar, None)
