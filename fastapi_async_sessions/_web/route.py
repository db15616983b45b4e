"""The route class that commits the sessions of a request and sends their cookies."""

import warnings
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from .headers import Header
from .jar import SCOPE_KEY, Jar

_TEST_HOSTS = {"testserver", "test"}  # of TestClient, and of async tests in FastAPI's docs


class SessionRoute(APIRoute):
    """A route that can have sessions.

    Use it as ``APIRouter(route_class=SessionRoute)`` or ``app.router.route_class = SessionRoute``.
    If you have a route class of your own, derive it from this one. A route that uses no session
    costs no more than an empty jar.
    """

    closes_sessions: ClassVar[bool] = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, followed by the commit. The response has been built but not
        sent, so that the error of a failed commit can replace it."""
        handler = super().get_route_handler()

        async def handle_and_close(request: Request) -> Response:
            jar: Jar = request.scope[SCOPE_KEY]
            try:
                response = await handler(request)
            except BaseException:
                await jar.roll_back()
                raise
            if jar.entries:
                await jar.close()
            return response

        return handle_and_close

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request. Whatever response is sent has the cookies, even that of an exception
        handler."""
        jar = scope[SCOPE_KEY] = Jar()

        async def send_with_cookies(message: Message) -> None:
            if jar.entries and message["type"] == "http.response.start":
                message = {**message, "headers": jar.add_headers(message.get("headers", ()))}
                _warn_of_lost_cookies(scope, message["headers"])
            await send(message)

        await super().handle(scope, receive, send_with_cookies)
        if jar.entries:
            jar.report_late_changes()


def _warn_of_lost_cookies(scope: Scope, headers: list[Header]) -> None:
    host = (scope["server"] or ("",))[0]
    if scope["scheme"] != "http" or host not in _TEST_HOSTS:
        return
    if any(name == b"set-cookie" and b"; Secure" in value for name, value in headers):
        warnings.warn(
            f"a test client drops Secure cookies over http://{host}, so each request begins a new "
            f'session: write TestClient(app, base_url="https://{host}")',
            stacklevel=2,
        )
