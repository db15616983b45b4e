"""The responses with which a route refuses a request, in OpenAPI."""

from typing import Any

from fastapi.routing import APIRoute

from .origin import SAFE_METHODS
from .provider import SessionProvider
from .requirement import Requirement
from .wiring import calls_of, effective


def document_refusals(route: APIRoute) -> None:
    """Add a 401 where a session or a user is required, and a 403 where the origin is checked."""
    documented = effective(route)
    calls = list(calls_of(documented.dependant))
    refusals: dict[int, dict[str, Any]] = {}
    if any(isinstance(call, Requirement) for call in calls):
        refusals[401] = {"description": "There is no session, or no user is signed in."}
    checks_origin = any(isinstance(call, SessionProvider) and call.checks_origin for call in calls)
    if checks_origin and not SAFE_METHODS.issuperset(documented.methods):
        refusals[403] = {"description": "The request comes from a page of another origin."}
    given: dict[int | str, dict[str, Any]] = documented.responses
    names = set(map(str, given))
    added = {status: each for status, each in refusals.items() if str(status) not in names}
    documented.responses = {**given, **added}
