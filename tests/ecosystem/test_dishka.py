"""dishka: a class of the container that reads our session."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request

from fastapi_async_sessions import Session, SessionRoute

from ..apps import Data, browser, make_provider

pytest.importorskip("dishka")

from dishka import Provider, Scope, make_async_container, provide
from dishka.integrations.fastapi import FastapiProvider, FromDishka, inject, setup_dishka

get_session: Any = make_provider()


class Counter:
    """It counts in the session."""

    def __init__(self, session: Session[Data]) -> None:
        self.session = session

    def count(self) -> int:
        self.session.data.count += 1
        return self.session.data.count


class Sessions(Provider):
    @provide(scope=Scope.REQUEST)
    async def counter(self, request: Request) -> Counter:
        return Counter(await get_session(request))


async def test_a_class_of_the_container_changes_the_session() -> None:
    """It gets the session from the request, and it is the route's own."""
    app = FastAPI()
    app.router.route_class = SessionRoute

    @app.get("/")
    @inject
    async def home(
        counter: FromDishka[Counter], session: Annotated[Session[Data], Depends(get_session)]
    ) -> int:
        assert counter.session is session
        return counter.count()

    container = make_async_container(Sessions(), FastapiProvider())
    setup_dishka(container, app)
    async with browser(app) as client:
        assert [(await client.get("/")).json() for _ in range(2)] == [1, 2]
    await container.close()
