"""Finds the routes of an application and their dependencies, to check them for sessions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from inspect import Parameter, signature
from typing import Any, NamedTuple

import fastapi.routing
from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.types import Scope

is_inside_middleware = ContextVar("fastapi_async_sessions.is_inside_middleware", default=False)
"""Whether an application starts inside a ``SessionRouteMiddleware``, which it cannot know."""

# newer FastAPI keeps included routers as they are, and this function walks through them; in older
# FastAPI all routes are in one list
_iter_route_contexts: Callable[[Sequence[Any]], Iterable[Any]] = getattr(
    fastapi.routing, "iter_route_contexts", iter
)
# while newer FastAPI makes the handler of an included route, what the inclusion adds to the route
_included: ContextVar[Any] | None = getattr(fastapi.routing, "_effective_route_context_var", None)


class Application(NamedTuple):
    """An application, or one that is mounted in it.

    Attributes:
        app: The application inside its middleware.
        path: The path at which it is mounted.
        middleware: The classes around it and in it, with their arguments or attributes.
        has_sessions: Whether one of them, here or further out, is a ``SessionRouteMiddleware``.
    """

    app: Any
    path: str
    middleware: Sequence[tuple[Any, Mapping[str, Any]]]
    has_sessions: bool

    def dependencies(self) -> "Iterator[RouteDependency]":
        """Yield the dependencies of each FastAPI route, even of included routers."""
        for route in _routes(self.app):
            if isinstance(getattr(route, "dependant", None), Dependant):
                can_have_session = self.has_sessions or _closes_sessions(route)
                function = _function(getattr(route, "endpoint", None))
                name = f"{self.path}{_path(route) or '?'} ({function})"
                for call, annotation in _parameters_of(route.dependant):
                    yield RouteDependency(name, call, annotation, can_have_session)


class RouteDependency(NamedTuple):
    """A dependency of a route.

    Attributes:
        name: The path and the function of the route.
        call: The dependency.
        annotation: That of the parameter that is for it, if there is one.
        can_have_session: Whether something closes the sessions of this route.
    """

    name: str
    call: Any
    annotation: Any
    can_have_session: bool


def applications(app: Any, path: str = "", has_sessions: bool = False) -> Iterator[Application]:
    """Yield an application and those that are mounted in it, at any depth."""
    middleware = list(_middleware(app))
    has_sessions = has_sessions or any(
        getattr(cls, "closes_sessions", False) for cls, _ in middleware
    )
    *_, inner = _layers(app)
    yield Application(inner, path, middleware, has_sessions or is_inside_middleware.get())
    for route in _routes(inner):
        if getattr(route, "dependant", None) is None and getattr(route, "app", None) is not None:
            yield from applications(route.app, path + _path(route), has_sessions)


def effective(route: APIRoute) -> Any:
    """Return what FastAPI makes the handler of: the route, or its inclusion in another router."""
    inclusion = None if _included is None else _included.get()
    return route if inclusion is None or inclusion.original_route is not route else inclusion


def included_routers(router: APIRouter) -> list[APIRouter]:
    """Return the routers that a router includes, if FastAPI keeps them as they are."""
    routers = (getattr(route, "original_router", None) for route in router.routes)
    return [router for router in routers if isinstance(router, APIRouter)]


def _middleware(app: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    *outer, inner = _layers(app)
    for layer in outer:
        yield type(layer), getattr(layer, "__dict__", {})
    for middleware in getattr(inner, "user_middleware", ()):
        yield middleware.cls, middleware.kwargs


def _layers(app: Any) -> Iterator[Any]:
    """Yield an ASGI application from the outside in: middleware keeps what is inside as ``app``."""
    seen: list[Any] = []
    while app is not None and app not in seen:
        yield app
        seen.append(app)
        app = None if getattr(app, "routes", None) is not None else getattr(app, "app", None)


def _routes(app: Any) -> Iterator[Any]:
    """Yield the routes of an application or router, and groups of ``app.frontend()``."""
    yield from _iter_route_contexts(getattr(app, "routes", None) or ())
    router = getattr(app, "router", app)
    yield from getattr(router, "_iter_low_priority_routes", tuple)()


def _path(route: Any) -> str:
    path: str | None = getattr(route, "path", None)
    if path:
        return path
    # a group of frontends has one set of dependencies
    frontends = getattr(getattr(route, "original_route", route), "routes", None) or ()
    return getattr(route, "frontend_prefix", "") + " and ".join(map(_path, frontends))


def _closes_sessions(route: Any) -> bool:
    # FastAPI has an exit stack for each websocket
    route = getattr(route, "original_route", route)
    return getattr(route, "closes_sessions", False) or isinstance(route, APIWebSocketRoute)


def calls_of(dependant: Dependant) -> Iterator[Any]:
    """Yield the dependencies of a route, direct and indirect."""
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from calls_of(dependency)


def _parameters_of(dependant: Dependant) -> Iterator[tuple[Any, Any]]:
    """Yield the dependencies of a route, direct and indirect, each with its annotation."""
    parameters: Mapping[str, Parameter] = {}
    # a function that only a type checker can read keeps the annotations to itself
    with suppress(TypeError, ValueError, NameError):
        parameters = signature(dependant.call or str, eval_str=True).parameters
    for dependency in dependant.dependencies:
        parameter = parameters.get(dependency.name or "")
        yield dependency.call, None if parameter is None else parameter.annotation
        yield from _parameters_of(dependency)


def _function(endpoint: Any) -> str:
    return getattr(endpoint, "__qualname__", "a frontend" if endpoint is None else "unknown")


def need_session_routes(names: Sequence[str]) -> str:
    """Return the error message for routes that use a session but cannot have one."""
    subject, predicate = ("route", "uses a session but is not a SessionRoute")
    if len(names) > 1:
        subject, predicate = ("routes", "use a session but are not SessionRoutes")
    return (
        f"the {subject} {', '.join(names)} {predicate}: "
        "write APIRouter(route_class=SessionRoute), or, for routes of the application itself, "
        "app.router.route_class = SessionRoute before they are added. For a router that is not "
        "yours write SessionRoute.convert(router), and for anything else "
        "app.add_middleware(SessionRouteMiddleware)"
    )


def no_session_here(scope: Scope) -> str:
    """Return the error message for a request that uses a session but has no jar."""
    route = scope.get("route")
    if isinstance(route, APIRoute) and not _closes_sessions(route):
        return need_session_routes([f"{route.path} ({_function(route.endpoint)})"])
    where = f"{scope.get('method', 'the websocket')} {scope.get('path', '')}"
    return (
        f"{where} uses a session outside of the routes of FastAPI: write "
        "app.add_middleware(SessionRouteMiddleware) for error pages, middleware and frontends, and "
        'app.mount("/admin", SessionRouteMiddleware(admin)) for a mounted application'
    )
