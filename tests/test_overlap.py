"""What one request does while its own commit, or another request, is under way."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import Depends
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from fastapi_async_sessions import MemoryStore, Record, Session, SessionClosed

from .apps import browser, make_app, make_provider

Route = Callable[[Session[Any]], Awaitable[None]]


class Prefs(BaseModel):
    model_config = ConfigDict(frozen=True)

    theme: str = "light"
    email: str = ""


class Item(BaseModel):
    name: str = ""
    amount: int = 1


class Data(BaseModel):
    count: int = 0
    prefs: Prefs = Prefs()
    items: list[Item] = []


class Held(MemoryStore):
    """Stops at each write until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held = False
        self.writing = asyncio.Event()
        self.go = asyncio.Event()

    async def create(self, key: str, record: Record) -> bool:
        await self._wait()
        return await super().create(key, record)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        await self._wait()
        return await super().save(key, record, replaces=replaces)

    async def _wait(self) -> None:
        if self.is_held:
            self.is_held = False
            self.writing.set()
            await self.go.wait()


class Site:
    """One browser at an application whose one route does what a test says."""

    def __init__(self) -> None:
        self.store = Held()
        self.get_session = make_provider(self.store, Data)
        self.route: Route = self.nothing
        app = make_app()

        @app.post("/")
        async def serve(session: Session[Any] = Depends(self.get_session)) -> dict[str, Any]:
            await self.route(session)
            return {"subject": session.subject, "new": session.is_new}

        self.client = browser(app)

    @staticmethod
    async def nothing(session: Session[Any]) -> None: ...

    async def request(self, route: Route = nothing) -> Any:
        self.route = route
        return await self.client.post("/")

    async def while_committing(self, wish: Route) -> Any:
        """A request that changes its session, and has a wish while a task of it commits."""

        async def route(session: Session[Any]) -> None:
            session.data.count += 1
            self.store.is_held = True
            commit = asyncio.create_task(session.commit())
            await self.store.writing.wait()
            wished = asyncio.ensure_future(wish(session))
            await asyncio.sleep(0)
            self.store.go.set()
            await asyncio.gather(commit, wished)

        return await self.request(route)


@pytest.fixture
async def site() -> Site:
    return Site()


async def sign_in(session: Session[Any]) -> None:
    session.renew(subject="ada")


async def sign_out(session: Session[Any]) -> None:
    session.renew(subject=None)


async def destroy(session: Session[Any]) -> None:
    await session.destroy()


async def test_a_sign_in_during_a_commit_counts(site: Site) -> None:
    """It is in the next commit of the request."""
    assert (await site.while_committing(sign_in)).json()["subject"] == "ada"
    assert (await site.request()).json() == {"subject": "ada", "new": False}


async def test_a_sign_out_during_a_commit_counts(site: Site) -> None:
    """The commit that was under way does not take it back."""
    await site.request(sign_in)
    assert (await site.while_committing(sign_out)).json()["subject"] is None
    assert (await site.request()).json() == {"subject": None, "new": False}


@pytest.mark.parametrize("begins_with", [sign_in, Site.nothing], ids=["stored", "new"])
async def test_a_session_that_is_destroyed_during_a_commit_is_gone(
    site: Site, begins_with: Route
) -> None:
    """Whether the commit was to save it or to create it, nothing is left and the cookie goes."""
    await site.request(begins_with)
    response = await site.while_committing(destroy)
    assert response.json() == {"subject": None, "new": True}
    assert "; Max-Age=0;" in response.headers["set-cookie"]
    assert site.store._records == {}
    assert (await site.request()).json()["new"] is True


DARK = Prefs(theme="dark")


async def test_a_merge_changes_no_object_that_others_share() -> None:
    """A default of the model, or a constant that a route assigns, stays what it is for all."""
    site = Site()

    async def begin(session: Session[Any]) -> None:
        session.data.count = 1

    async def set_email(session: Session[Any]) -> None:
        session.data.prefs = Prefs(theme=session.data.prefs.theme, email="ada@example.com")

    async def set_dark(session: Session[Any]) -> None:
        session.data.prefs = DARK
        session.data.count += 1
        async with site.get_session.open(session.key) as elsewhere:
            await set_email(elsewhere)
        await session.commit()
        assert session.data.prefs == Prefs(theme="dark")

    await site.request(begin)
    await site.request(set_dark)
    assert Prefs(theme="dark") == DARK
    assert Data().prefs == Prefs()


async def test_one_object_in_two_places_loses_nothing_in_a_merge(site: Site) -> None:
    """What another request changed in one of the places stays changed."""

    async def begin(session: Session[Any]) -> None:
        session.data.items = [Item(name="a"), Item(name="b")]

    async def repeat(session: Session[Any]) -> None:
        async with site.get_session.open(session.key) as elsewhere:
            elsewhere.data.prefs = Prefs(theme="blue")
        session.data.items.append(session.data.items[0])
        await session.commit()
        session.data.items[0].amount = 7

    await site.request(begin)
    await site.request(repeat)
    async with site.get_session.open(next(iter(site.store._records))) as session:
        assert session.data.prefs == Prefs(theme="blue")
        assert [(item.name, item.amount) for item in session.data.items][:2] == [("a", 7), ("b", 1)]


async def test_revoking_others_does_not_hide_an_earlier_revocation(site: Site) -> None:
    """A sign-in that began before somebody revoked all is refused, ``keep=`` or not."""

    async def route(session: Session[Any]) -> None:
        await site.get_session.revoke_all("ada")  # an administrator's, meanwhile
        await site.get_session.revoke_all("ada", keep=session)
        session.renew(subject="ada")

    assert (await site.request(route)).status_code == 409
    assert (await site.request()).json() == {"subject": None, "new": True}


async def test_keep_exempts_the_session_that_revokes(site: Site) -> None:
    """Without another revocation the request that revokes may sign in."""

    async def route(session: Session[Any]) -> None:
        await site.get_session.revoke_all("ada", keep=session)
        session.renew(subject="ada")

    assert (await site.request(route)).status_code == 200
    assert (await site.request()).json() == {"subject": "ada", "new": False}


async def test_a_handler_of_errors_can_only_read(site: Site) -> None:
    """A session that an exception handler asks for is closed: nobody would commit it."""
    app = make_app()
    seen: list[Any] = []

    @app.post("/")
    async def fail() -> None:
        raise ZeroDivisionError

    @app.exception_handler(ZeroDivisionError)
    async def handle(request: Any, error: Exception) -> Any:
        session = await site.get_session(request)
        seen.append(session.data.count)
        with pytest.raises(SessionClosed):
            session.renew(subject="ada")
        return Response(status_code=418)

    assert (await browser(app).post("/")).status_code == 418
    assert seen == [0]
