"""fastapi-cache2: two users get two pages, by the key that its documentation shows."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from fastapi_async_sessions import Session
from fastapi_async_sessions.testing import sign_in

from ..apps import Data, browser, make_app, make_provider

pytest.importorskip("fastapi_cache")

from fastapi_cache import FastAPICache
from fastapi_cache.backends.inmemory import InMemoryBackend
from fastapi_cache.decorator import cache


def make_cached_app(get_session: Any) -> FastAPI:
    FastAPICache.reset()
    FastAPICache.init(InMemoryBackend())
    app = make_app()

    @app.get("/mine")
    @cache(expire=60)
    async def mine(session: Annotated[Session[Data], Depends(get_session)]) -> str | None:
        return session.subject

    return app


async def test_two_users_get_two_pages() -> None:
    """Its default key is the repr of the arguments: that of a session has its public key."""
    get_session = make_provider()
    app = make_cached_app(get_session)
    async with browser(app) as ada, browser(app) as bob, browser(app) as nobody:
        await sign_in(ada, get_session, "ada")
        await sign_in(bob, get_session, "bob")
        for _ in range(2):
            assert (await ada.get("/mine")).json() == "ada"
            assert (await bob.get("/mine")).json() == "bob"
            assert (await nobody.get("/mine")).json() is None
