"""Applications that several files test: one whose route runs a given function, one with sign-in."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI

from fastapi_async_sessions import MemoryStore, Session, Store
from fastapi_async_sessions.testing import FrozenClock

from .apps import browser, make_app, make_provider
from .doubles import SpyStore

Action = Callable[[Any], Any]


class ScriptedSite:
    """A browser on an application whose only route runs the function given for each request."""

    def __init__(self, model: Any, store: Store | None = None, **options: Any) -> None:
        self.clock = FrozenClock()
        self.events: list[Any] = []
        self.store = SpyStore(store or MemoryStore(clock=self.clock))
        self.deploy(model, **options)
        self.client = browser(self._serve)

    def deploy(self, model: Any, **options: Any) -> None:
        """Serve another release of the application, with this model, over the same store."""
        self.store = SpyStore(self.store.inner)
        self.get_session = make_provider(
            self.store,
            model,
            clock=self.clock,
            on_event=lambda event: self.events.append(event.kind),
            **options,
        )
        self.app = make_app()

        @self.app.post("/")
        async def route(session: Annotated[Any, Depends(self.get_session)]) -> Any:
            result = self.action(session)
            return await result if inspect.isawaitable(result) else result

    async def request(self, action: Action) -> Any:
        """Send one request, whose route returns what ``action(session)`` returns."""
        self.action = action
        self.store.calls.clear()
        return await self.client.post("/")

    async def _serve(self, *asgi: Any) -> None:
        await self.app(*asgi)


def make_sign_in_site(get_session: Any) -> FastAPI:
    """An application that reads and changes its session, and signs in and out."""
    app = make_app()
    site_session = Annotated[Session[Any], Depends(get_session)]

    @app.get("/")
    async def read(session: site_session) -> dict[str, Any]:
        return {"new": session.is_new, "subject": session.subject, "count": session.data.count}

    @app.post("/change")
    async def change(session: site_session) -> None:
        session.data.count += 1

    @app.post("/sign-in/{name}")
    async def sign_in(session: site_session, name: str) -> None:
        session.renew(subject=name)

    @app.post("/sign-out")
    async def sign_out(session: site_session) -> None:
        await session.destroy()

    return app
