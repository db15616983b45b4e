"""A route gets its own sessions itself, and FastAPI solves the rest of its dependencies.

FastAPI takes 60,000 instructions to solve one dependency: 6 % of a request that reads a session.
A route has this fast path only where nothing but the time differs.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import wraps
from inspect import iscoroutinefunction
from itertools import takewhile
from types import FunctionType
from typing import Any

import fastapi.routing
from fastapi import Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from .jar import SCOPE_KEY
from .provider import SessionProvider
from .requirement import Requirement
from .wiring import calls_of, effective

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_CONNECTION = "fastapi_async_sessions.connection"  # no parameter can have this name
_routing: Any = fastapi.routing
_gets_session: Any = vars(SessionProvider)["__call__"]  # a derived class can have one of its own


def with_fast_path(route: APIRoute, make_handler: Callable[[], Handler]) -> Handler:
    """Return FastAPI's handler of a route, with a fast path if the route can have one."""
    handler, built = make_handler(), effective(route)
    try:
        whole: Dependant = built.dependant
        sessions = list(takewhile(_is_plain, whole.dependencies))
        rest = _without(sessions, whole)
        if not sessions or rest is None or built.body_field or not _is_fastapi(make_handler):
            return handler
        is_unchanged = _comparison(built)
    except (AttributeError, TypeError):  # the internals of this FastAPI are not those that we know
        return handler
    built.dependant = rest
    try:
        quick_handler = make_handler()
    finally:
        built.dependant = whole
    calls: Any = [session.call for session in sessions]
    getters = [call.get if isinstance(call, Requirement) else call for call in calls]

    async def handle(request: Request) -> Response:
        if not is_unchanged(request.scope):
            return await handler(request)
        for get in getters:
            await get(request)
        return await quick_handler(request)

    return handle


def _is_plain(dependency: Dependant) -> bool:
    """Whether this is a session as ``Depends(get_session)`` makes it, without other options."""
    call: Any = dependency.call
    if type(_provider_of(call)).__call__ is not _gets_session:
        return False

    def plain(session: Any = Depends(call)) -> None: ...

    route = APIRoute(dependency.path or "", plain, dependencies=[Depends(call)])
    return replace(dependency, name=None) in (
        replace(each, name=None) for each in route.dependant.dependencies
    )


def _provider_of(call: Any) -> Any:
    return call.provider if isinstance(call, Requirement) else call


def _without(sessions: Sequence[Dependant], whole: Dependant) -> Dependant | None:
    """Return what is left to FastAPI without the sessions, or None if it has to solve them too."""
    rest = replace(whole, dependencies=whole.dependencies[len(sessions) :])
    calls, later = [session.call for session in sessions], list(calls_of(rest))
    if any(isinstance(call, Requirement) and call in later for call in calls):
        return None  # FastAPI would not check it a second time
    providers = {each.name: _provider_of(each.call) for each in sessions if each.name is not None}
    if not providers:
        return rest
    # other functions run in a thread, which takes far longer
    if not iscoroutinefunction(whole.call) or whole.http_connection_param_name is not None:
        return None
    endpoint = _with_sessions(whole.call, providers)
    return replace(rest, call=endpoint, http_connection_param_name=_CONNECTION)


def _with_sessions(endpoint: Callable[..., Any], providers: dict[str, Any]) -> Callable[..., Any]:
    """Return the endpoint with its sessions taken from the jar of the request."""

    @wraps(endpoint)
    async def endpoint_with_sessions(**values: Any) -> Any:
        entries = values.pop(_CONNECTION).scope[SCOPE_KEY].entries
        for name, provider in providers.items():
            values[name] = entries[provider].session
        return await endpoint(**values)

    # FastAPI's validation errors name the file of the endpoint, and this is where it looks first
    contexts = getattr(_routing, "_endpoint_context_cache", None)
    if contexts is not None:
        contexts[id(endpoint_with_sessions)] = _routing._extract_endpoint_context(endpoint)
    return endpoint_with_sessions


def _is_fastapi(make_handler: Any) -> bool:
    """Whether no other route class and no package has put something between route and FastAPI."""
    functions = (
        make_handler.__func__,
        _routing.get_request_handler,
        _routing.solve_dependencies,
        _routing.run_endpoint_function,
    )
    return all(
        isinstance(each, FunctionType) and each.__globals__["__name__"].startswith("fastapi.")
        for each in functions
    )


def _comparison(built: Any) -> Callable[[Scope], bool]:
    """Return a function that tells whether a request finds its route as it is now.

    Tests set overrides later, and some packages change the dependencies of finished routes.
    """
    overrider, whole = built.dependency_overrides_provider, built.dependant
    dependencies, endpoint = [*whole.dependencies], whole.call
    solve, run = _routing.solve_dependencies, _routing.run_endpoint_function

    def is_unchanged(scope: Scope) -> bool:
        return (
            scope.get("fastapi.telemetry") is None  # FastAPI traces the dependencies
            and not (overrider and overrider.dependency_overrides)
            and whole.dependencies == dependencies
            and whole.call is endpoint
            and _routing.solve_dependencies is solve
            and _routing.run_endpoint_function is run
        )

    return is_unchanged
