"""Data is read when a route first asks for it: what that may not change."""

from datetime import timedelta
from threading import Thread
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends
from pydantic import BaseModel, FutureDatetime

from fastapi_async_sessions import MemoryStore, Session
from fastapi_async_sessions._core.data import SessionData
from fastapi_async_sessions._core.repository import Contents
from fastapi_async_sessions.lifetime import utc_now
from fastapi_async_sessions.testing import FrozenClock, session_cookies

from .apps import Data, browser, make_app, make_provider
from .sites import ScriptedSite


class Counted(BaseModel):
    count: int = 0


class Renamed(BaseModel):
    """A later release of ``Counted``, which cannot read its data."""

    count: list[str] = []


class Due(BaseModel):
    """What is valid now is not valid for ever."""

    at: FutureDatetime | None = None


def facts(session: Any) -> list[Any]:
    return [session.is_new, session.subject, session.key is not None, session.is_detached]


async def signed_in(site: ScriptedSite) -> None:
    def sign_in(session: Any) -> None:
        session.data.count = 3
        session.renew(subject="ada")

    assert (await site.request(sign_in)).status_code == 200


async def test_a_renewal_and_an_extension_keep_data_that_nobody_asked_for() -> None:
    """Both write the record anew."""
    site = ScriptedSite(Counted)
    await signed_in(site)
    await site.request(facts)
    for action in (lambda session: session.renew(), facts):
        assert (await site.request(action)).status_code == 200
        assert site.store.writes == ["save"]
        site.clock.advance(timedelta(minutes=20))
    assert (await site.request(lambda session: session.data.count)).json() == 3


@pytest.mark.parametrize(
    ("on_invalid", "status", "answer"),
    [
        ("raise", 500, None),
        ("discard", 200, [True, None, False, False]),
        ("fallback", 200, [False, "ada", True, False]),
        (lambda stored, error: Renamed(), 200, [False, "ada", True, False]),
    ],
    ids=["raise", "discard", "fallback", "a migration"],
)
async def test_data_that_cannot_be_read_decides_about_the_session_unasked(
    on_invalid: Any, status: int, answer: Any
) -> None:
    """Where it ends the session or is an error, also in a route that does not ask for the data."""
    site = ScriptedSite(Counted)
    await signed_in(site)
    site.deploy(Renamed, on_invalid=on_invalid)
    response = await site.request(facts)
    assert response.status_code == status
    assert answer is None or response.json() == answer


async def test_data_that_is_valid_for_a_time_only_is_read_at_once() -> None:
    """That it was read before does not show that it can be read now."""
    site = ScriptedSite(Due, on_invalid="discard")
    soon = utc_now() + timedelta(seconds=2)
    await site.request(lambda session: setattr(session, "data", Due(at=soon)))
    await site.request(facts)
    codec = site.get_session.repository.codec
    assert not codec.is_plain
    assert not codec.is_verbatim(codec.dump(Due(at=soon)))


async def test_a_stream_may_be_the_first_to_ask_for_the_data(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It can read them; only if it changes them is an error logged."""
    get_session = make_provider(MemoryStore(), clock=FrozenClock())
    app, seen = make_app(), []

    @app.get("/")
    async def read(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        pass

    @app.post("/{change}")
    async def later(
        session: Annotated[Session[Data], Depends(get_session)],
        tasks: BackgroundTasks,
        change: bool,
    ) -> None:
        def task() -> None:
            seen.append(session.data.count)
            session.data.count += change

        tasks.add_task(task)

    client = browser(app)
    client.cookies.update(await session_cookies(get_session, Data(count=7)))
    await client.get("/")  # from now on, it is known that these bytes can be read
    for change in (False, True):
        assert (await client.post(f"/{change}")).status_code == 200
        assert ("after the response had begun" in caplog.text) is change
    assert seen == [7, 7]


def test_two_threads_that_ask_first_get_one_model() -> None:
    """A change by either of them is stored."""
    repository = make_provider().repository
    models: list[Data] = []
    others: list[Thread] = []

    def read() -> None:
        models.append(data.read())

    def contents() -> Contents[Data]:
        if not others:
            others.append(Thread(target=read))
            others[0].start()
            others[0].join(0.2)  # it would be done by now, if it did not wait
        return repository.new_contents()

    data = SessionData(repository.codec, contents)
    read()
    others[0].join()
    assert models[0] is models[1]
