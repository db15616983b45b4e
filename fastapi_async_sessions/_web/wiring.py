"""Whether an application's routes can have the sessions that they ask for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import fastapi.routing
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

# newer FastAPI keeps included routers apart, and this walks them; an older one lists every route
_iter_route_contexts: Callable[[Sequence[Any]], Iterable[Any]] = getattr(
    fastapi.routing, "iter_route_contexts", iter
)


def dependencies(routes: Sequence[Any]) -> Iterator[tuple[APIRoute, Any]]:
    """Every API route, of included routers and mounts too, with each dependency that it has."""
    for context in _iter_route_contexts(routes):
        route = getattr(context, "original_route", context)
        if isinstance(route, APIRoute):
            yield from ((route, call) for call in _calls(context.dependant))
        else:
            yield from dependencies(getattr(route, "routes", None) or ())


def _calls(dependant: Dependant) -> Iterator[Any]:
    """What a route depends on, directly or through other dependencies."""
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def needs_session_route(route: Any) -> str:
    """What to write for a route that can have no session."""
    path, endpoint = getattr(route, "path", "?"), getattr(route, "endpoint", None)
    return (
        f"the route {path} ({getattr(endpoint, '__qualname__', 'unknown')}) asks for a session and "
        "is no SessionRoute: write APIRouter(route_class=SessionRoute), or for routes of the "
        "application itself app.router.route_class = SessionRoute before they are added"
    )
