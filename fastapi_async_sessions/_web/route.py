"""The route class that commits the sessions of a request and sends their cookies."""

from collections.abc import Callable, Coroutine
from types import new_class
from typing import Any, ClassVar, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import ConfigurationError
from .fast_path import with_fast_path
from .jar import SCOPE_KEY, Jar
from .openapi import document_refusals
from .wiring import included_routers

Router = TypeVar("Router", bound=APIRouter)


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
        document_refusals(self)
        handler = with_fast_path(self, super().get_route_handler)

        async def handle_and_close(request: Request) -> Response:
            jar: Jar | None = request.scope.get(SCOPE_KEY)
            if jar is None:  # a derived class does not call our ``handle``
                return await handler(request)
            jar.has_closer = True
            try:
                response = await handler(request)
            except BaseException:
                await jar.roll_back()
                raise
            if jar.entries:
                await jar.close()
            else:
                jar.is_closed = True
            return response

        return handle_and_close

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request. Whatever response is sent has the cookies, even that of an exception
        handler."""
        if SCOPE_KEY in scope:  # a middleware around the route sends the cookies
            await super().handle(scope, receive, send)
            return
        jar = scope[SCOPE_KEY] = Jar()
        try:
            await super().handle(scope, receive, jar.sending(scope, send))
        except HTTPException:
            # The method is not allowed, and the response will be sent by others: a session in
            # their error page would have no ``Vary`` and no commit.
            del scope[SCOPE_KEY]
            raise
        if jar.entries:
            jar.report_late_changes()

    @classmethod
    def convert(cls, router: Router) -> Router:
        """Turn the routes of a router that is not yours into session routes, and return it.

            app.include_router(SessionRoute.convert(fastapi_users.get_auth_router(backend)))

        This includes the routers in it and routes that are added later. A route class of the
        router's own stays, around the session. The router itself is changed; to convert it twice
        is the same as once.

        Raises:
            ConfigurationError: this is not a router, or its own route class cannot
                be combined with this one.
        """
        if not isinstance(router, APIRouter):
            raise ConfigurationError(
                "SessionRoute.convert() takes an APIRouter: for an application write "
                "SessionRoute.convert(app.router)"
            )
        router.route_class = cls._mixed_with(router.route_class)
        for route in router.routes:
            if isinstance(route, APIRoute):
                route.__class__ = cls._mixed_with(type(route))
        for included in included_routers(router):
            cls.convert(included)
        return router

    @classmethod
    def _mixed_with(cls, other: type[APIRoute]) -> type[APIRoute]:
        if issubclass(other, SessionRoute):
            return other
        if other is APIRoute:
            return cls
        try:
            # its methods come first, so that they run around the session, after the commit
            return new_class(other.__name__, (other, cls))
        except TypeError as error:
            raise ConfigurationError(
                f"SessionRoute.convert() cannot combine {other.__qualname__} with SessionRoute "
                f"({error}): put SessionRouteMiddleware around the application instead"
            ) from None
