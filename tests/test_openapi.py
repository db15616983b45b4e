"""OpenAPI tells the truth: a lock where a session is required, and how a route refuses."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI

from fastapi_async_sessions import Session, SessionRoute

from .apps import Data, browser, make_app, make_provider

SCHEME = {"session": {"type": "apiKey", "in": "cookie", "name": "__Host-session"}}


def operations(app: FastAPI) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in app.openapi()["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def locked(app: FastAPI) -> set[str]:
    return {name for name, operation in operations(app) if "security" in operation}


def documented(app: FastAPI, status: str) -> set[str]:
    return {name for name, operation in operations(app) if status in operation["responses"]}


def add_routes(router: Any, get_session: Any) -> Any:
    guards = {
        "any": get_session,
        "required": get_session.required,
        "user": get_session.signed_in(),
        "recent": get_session.signed_in(within=timedelta(minutes=5)),
    }
    for name, guard in guards.items():
        for method in ("GET", "POST"):
            router.add_api_route(
                f"/{name}", lambda: None, methods=[method], dependencies=[Depends(guard)]
            )
    router.add_api_route("/plain", lambda: None, methods=["POST"])
    return router


EXPECTED = {"required", "user", "recent"}


@pytest.mark.parametrize("is_included", [False, True])
def test_locks_and_refusals(get_session: Any, is_included: bool) -> None:
    """A route that takes anybody has no lock; a GET is not checked for its origin."""
    app = make_app()
    if is_included:
        inner, outer = APIRouter(route_class=SessionRoute), APIRouter()
        outer.include_router(add_routes(inner, get_session))
        app.include_router(outer)
    else:
        add_routes(app.router, get_session)
    guarded = {f"{method} /{name}" for method in ("GET", "POST") for name in EXPECTED}
    assert app.openapi()["components"]["securitySchemes"] == SCHEME
    assert locked(app) == documented(app, "401") == guarded
    assert documented(app, "403") == {f"POST /{name}" for name in ("any", *EXPECTED)}


def test_a_requirement_of_a_router_or_an_inclusion(get_session: Any) -> None:
    """The routes of the router are locked, and those of another one are not."""
    app = make_app()
    for prefix in ("/free", "/router", "/inclusion"):
        needs = [Depends(get_session.signed_in())]
        router = APIRouter(
            route_class=SessionRoute,
            prefix=prefix,
            dependencies=needs if prefix == "/router" else [],
        )
        router.add_api_route("/page", lambda: None)
        app.include_router(router, dependencies=needs if prefix == "/inclusion" else [])
    names = {"GET /router/page", "GET /inclusion/page"}
    assert locked(app) == documented(app, "401") == names


def test_without_the_origin_check_there_is_no_403() -> None:
    """It is documented where it can happen."""
    app = make_app()
    add_routes(app.router, make_provider(check_origin=False))
    assert documented(app, "403") == set()


def test_responses_of_the_routes_own_are_kept(get_session: Any) -> None:
    """Their description wins, and a dict that several routes share is not changed."""
    shared: Any = {"401": {"description": "Sign in first."}, 404: {"description": "Gone."}}
    app = make_app()
    app.add_api_route(
        "/", lambda: None, responses=shared, dependencies=[Depends(get_session.required)]
    )
    responses = dict(operations(app))["GET /"]["responses"]
    assert responses["401"]["description"] == "Sign in first."
    assert "404" in responses
    assert list(shared) == ["401", 404]


def test_two_providers_have_two_locks(get_session: Any) -> None:
    """Each has its own scheme, under its name."""
    get_staff = make_provider(name="staff")
    app = make_app()
    needs = [Depends(get_session.required), Depends(get_staff.signed_in())]
    app.add_api_route("/", lambda: None, dependencies=needs)
    assert set(app.openapi()["components"]["securitySchemes"]) == {"session", "staff"}
    security = dict(operations(app))["GET /"]["security"]
    assert {name for each in security for name in each} == {"session", "staff"}


@pytest.mark.parametrize("called", [False, True])
async def test_required_with_parentheses_is_no_mistake(get_session: Any, called: bool) -> None:
    """It is the same dependency."""
    assert get_session.required() is get_session.required
    app = make_app()

    @app.post("/")
    async def home(
        n: Annotated[int, Body(embed=True)],
        session: Annotated[
            Session[Data], Depends(get_session.required() if called else get_session.required)
        ],
    ) -> int:
        return session.data.count

    async with browser(app) as client:
        assert (await client.post("/", json={"n": 1})).status_code == 401
    (operation,) = dict(operations(app)).values()
    assert "parameters" not in operation
