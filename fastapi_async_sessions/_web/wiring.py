"""Finds the routes of an application and their dependencies, to check them for sessions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import fastapi.routing
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

# newer FastAPI keeps included routers as they are, and this function walks through them; in older
# FastAPI all routes are in one list
_iter_route_contexts: Callable[[Sequence[Any]], Iterable[Any]] = getattr(
    fastapi.routing, "iter_route_contexts", iter
)


def dependencies(routes: Sequence[Any]) -> Iterator[tuple[APIRoute, Any]]:
    """Yield each API route, even of included routers and mounts, with each of its dependencies."""
    for context in _iter_route_contexts(routes):
        route = getattr(context, "original_route", context)
        if isinstance(route, APIRoute):
            yield from ((route, call) for call in _calls(context.dependant))
        else:
            yield from dependencies(getattr(route, "routes", None) or ())


def _calls(dependant: Dependant) -> Iterator[Any]:
    """Yield the dependencies of a route, direct and indirect."""
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def needs_session_route(route: Any) -> str:
    """Return the error message for a route that uses a session but cannot have one."""
    path, endpoint = getattr(route, "path", "?"), getattr(route, "endpoint", None)
    return (
        f"the route {path} ({getattr(endpoint, '__qualname__', 'unknown')}) uses a session but is "
        "not a SessionRoute: write APIRouter(route_class=SessionRoute), or, for routes of the "
        "application itself, app.router.route_class = SessionRoute before they are added"
    )
