"""strawberry: the session in the context of a GraphQL router."""

from typing import Any

import pytest
from fastapi import Depends, FastAPI

from fastapi_async_sessions import Session, SessionRoute

from ..apps import Data, browser, make_app, make_provider

strawberry = pytest.importorskip("strawberry")

from strawberry.fastapi import GraphQLRouter
from strawberry.types import Info


def make_graphql_app(get_session: Any) -> FastAPI:
    async def get_context(session: Session[Data] = Depends(get_session)) -> dict[str, Any]:
        return {"session": session}

    @strawberry.type
    class Query:
        @strawberry.field
        def count(self, info: Info) -> int:
            return info.context["session"].data.count

    @strawberry.type
    class Mutation:
        @strawberry.mutation
        def add(self, info: Info, fails: bool = False) -> int:
            info.context["session"].data.count += 1
            if fails:
                raise ValueError("told to fail")
            return info.context["session"].data.count

    router = GraphQLRouter(strawberry.Schema(Query, Mutation), context_getter=get_context)
    app = make_app(lifespan=get_session.lifespan)
    app.include_router(SessionRoute.convert(router), prefix="/graphql")
    return app


async def test_a_change_in_a_resolver_is_committed() -> None:
    """One that raises is answered with 200, as GraphQL wants it, so its change counts too."""
    get_session = make_provider()
    app = make_graphql_app(get_session)
    async with get_session.lifespan(app), browser(app) as client:

        async def ask(query: str) -> Any:
            response = await client.post("/graphql", json={"query": query})
            assert response.status_code == 200
            return response.json()

        assert (await ask("mutation { add }"))["data"] == {"add": 1}
        assert (await ask("{ count }"))["data"] == {"count": 1}
        assert "errors" in await ask("mutation { add(fails: true) }")
        assert (await ask("{ count }"))["data"] == {"count": 2}
