"""Starlette's SessionMiddleware beside our sessions, without TLS: each keeps its own cookie."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.middleware.sessions import SessionMiddleware

from fastapi_async_sessions import CookieConfig, Session

from ..apps import SECRET, Data, browser, make_app, make_provider


async def test_neither_ends_the_sessions_of_the_other() -> None:
    """With the default names, which differ."""
    get_session = make_provider(cookie=CookieConfig(secure=False))
    app = make_app(lifespan=get_session.lifespan)
    app.add_middleware(SessionMiddleware, secret_key=SECRET)

    @app.get("/")
    async def home(
        request: Request, session: Annotated[Session[Data], Depends(get_session)]
    ) -> list[int]:
        session.data.count += 1
        request.session["count"] = request.session.get("count", 0) + 10
        return [session.data.count, request.session["count"]]

    async with get_session.lifespan(app), browser(app) as client:
        assert [(await client.get("/")).json() for _ in range(3)] == [[1, 10], [2, 20], [3, 30]]
        assert set(client.cookies) == {"app-session", "session"}
