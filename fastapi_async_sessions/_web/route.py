"""The route class that commits a request's sessions and sends their cookies."""

import warnings
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from .headers import Header
from .jar import SCOPE_KEY, Jar

_TEST_HOSTS = {"testserver", "test"}  # TestClient's own, and that of FastAPI's async tests


class SessionRoute(APIRoute):
    """For ``APIRouter(route_class=SessionRoute)``, or ``app.router.route_class = SessionRoute``.

    Derive a route class of your own from it: ``class MyRoute(SessionRoute): ...``. A route that
    asks for no session costs an empty jar and nothing more.
    """

    closes_sessions: ClassVar[bool] = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with the commit after it: the response is built but not yet sent, so
        that a failed commit can still be the answer."""
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
        """Serve the request; the cookies go with whatever response is sent, also that of an
        exception handler."""
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
            f"a test client drops Secure cookies on http://{host}, so that each request begins "
            f'a new session: write TestClient(app, base_url="https://{host}")',
            stacklevel=2,
        )
