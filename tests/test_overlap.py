"""Requests that overlap with a commit of their own or with another request."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from fastapi_async_sessions import Session, SessionClosed

from .apps import browser, make_app, session_records
from .doubles import Gate, StoreCall, pass_on
from .sites import Action, ScriptedSite


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


async def nothing(session: Session[Any]) -> None: ...


class Site(ScriptedSite):
    """Its responses tell who is signed in, and its commits can be held up."""

    def __init__(self) -> None:
        super().__init__(Data)

    async def request(self, action: Action = nothing) -> Any:
        """Run the action, and respond with the subject and whether the session is new."""

        async def route(session: Session[Any]) -> dict[str, Any]:
            await action(session)
            return {"subject": session.subject, "new": session.is_new}

        return await super().request(route)

    async def while_committing(self, action: Action) -> Any:
        """Send a request that runs the action while another of its tasks is writing."""
        gate = Gate("create", "save")

        async def route(session: Session[Any]) -> None:
            session.data.count += 1
            self.store.hook = gate
            commit = asyncio.create_task(session.commit())
            await asyncio.wait_for(gate.reached.wait(), 10)
            acting = asyncio.ensure_future(action(session))
            await asyncio.sleep(0)  # the action begins, and waits for the commit if it has to
            gate.open()
            await asyncio.wait_for(asyncio.gather(commit, acting), 10)

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
    """It is written by the next commit of the request."""
    assert (await site.while_committing(sign_in)).json()["subject"] == "ada"
    assert (await site.request()).json() == {"subject": "ada", "new": False}


async def test_a_sign_out_during_a_commit_counts(site: Site) -> None:
    """The commit in progress does not undo it."""
    await site.request(sign_in)
    assert (await site.while_committing(sign_out)).json()["subject"] is None
    assert (await site.request()).json() == {"subject": None, "new": False}


@pytest.mark.parametrize("begins_with", [sign_in, nothing], ids=["stored", "new"])
async def test_a_session_destroyed_during_a_commit_is_deleted(
    site: Site, begins_with: Action
) -> None:
    """Whether the commit creates or saves the record, none is left, and the cookie is removed."""
    await site.request(begins_with)
    response = await site.while_committing(destroy)
    assert response.json() == {"subject": None, "new": True}
    assert "; Max-Age=0;" in response.headers["set-cookie"]
    assert await session_records(site.get_session, site.store) == {}
    assert (await site.request()).json()["new"] is True


DARK = Prefs(theme="dark")


async def test_a_merge_does_not_change_shared_objects() -> None:
    """A default of the model, or a constant that a route assigns, keeps its value."""
    site = Site()

    async def begin(session: Session[Any]) -> None:
        session.data.count = 1

    async def set_email(session: Session[Any]) -> None:
        session.data.prefs = Prefs(theme=session.data.prefs.theme, email="ada@example.com")

    async def change_both(session: Session[Any]) -> None:
        session.data.prefs = DARK
        session.data.count += 1
        async with site.get_session.open(session.key) as elsewhere:
            await set_email(elsewhere)
        await session.commit()
        assert session.data.prefs == Prefs(theme="dark")

    await site.request(begin)
    await site.request(change_both)
    assert Prefs(theme="dark") == DARK
    assert Data().prefs == Prefs()


async def test_a_merge_handles_one_object_in_two_places(site: Site) -> None:
    """The changes of another request to one of the places are kept."""

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
    async with site.get_session.open(next(iter(await site.store.records()))) as session:
        assert session.data.prefs == Prefs(theme="blue")
        assert [(item.name, item.amount) for item in session.data.items][:2] == [("a", 7), ("b", 1)]


async def test_revoking_others_does_not_hide_an_earlier_revocation(site: Site) -> None:
    """A sign-in that began before another ``revoke_all`` is rejected, even with ``keep=``."""

    async def route(session: Session[Any]) -> None:
        await site.get_session.revoke_all("ada")  # by an administrator
        await site.get_session.revoke_all("ada", keep=session)
        session.renew(subject="ada")

    assert (await site.request(route)).status_code == 409
    assert (await site.request()).json() == {"subject": None, "new": True}


async def test_keep_exempts_the_revoking_session(site: Site) -> None:
    """Without another revocation the request that revokes may also sign in."""

    async def route(session: Session[Any]) -> None:
        await site.get_session.revoke_all("ada", keep=session)
        session.renew(subject="ada")

    assert (await site.request(route)).status_code == 200
    assert (await site.request()).json() == {"subject": "ada", "new": False}


async def test_an_exception_handler_can_only_read(site: Site) -> None:
    """A session loaded in an exception handler is closed, since nothing would commit it."""
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


async def test_a_commit_that_is_overtaken_repeatedly_merges_each_time(site: Site) -> None:
    """It tries again after a pause; no change of anybody is lost."""
    (key,) = await _begin(site)
    others = iter([10, 100, 1000])

    async def overtake(call: StoreCall) -> Any:
        if call.verb == "save" and (name := next(others, None)):
            site.store.hook = pass_on
            async with site.get_session.open(key) as session:
                session.data.items.append(Item(name=str(name)))
            site.store.hook = overtake
        return await call.pass_on()

    async def route(session: Session[Any]) -> None:
        session.data.count += 1
        site.store.hook = overtake

    assert (await site.request(route)).status_code == 200
    async with site.get_session.open(key) as session:
        assert session.data.count == 1
        assert [item.name for item in session.data.items] == ["first", "10", "100", "1000"]


async def test_a_change_that_is_made_during_a_commit_and_cannot_be_stored_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """What the commit has merged is stored all the same; the next commit is refused."""
    (key,) = await _begin(site)

    async def route(session: Session[Any]) -> None:
        async def overtake(call: StoreCall) -> Any:
            if call.verb == "save":
                site.store.hook = pass_on
                async with site.get_session.open(key) as other:
                    other.data.prefs = Prefs(theme="dark")
                session.data.__dict__["count"] = "many"
            return await call.pass_on()

        session.data.count += 1
        site.store.hook = overtake
        await session.commit()

    assert (await site.request(route)).status_code == 500
    assert "changes made during a commit are lost" in caplog.text
    async with site.get_session.open(key) as session:
        assert (session.data.count, session.data.prefs.theme) == (1, "dark")


async def _begin(site: Site) -> list[str]:
    """The key of a session that is stored."""

    async def route(session: Session[Any]) -> None:
        session.data.items.append(Item(name="first"))

    await site.request(route)
    return list(await site.store.records())
