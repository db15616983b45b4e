"""Numbers that are counted by requests at the same time."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends
from pydantic import BaseModel, Field

from fastapi_async_sessions import Additive, Session, SessionConflict, SessionProvider, Store
from fastapi_async_sessions.errors import ConfigurationError
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.testing import FrozenClock
from tests.apps import PATIENT, SECRET, browser, make_app
from tests.races import opened_store
from tests.test_merged_sessions import Shops, shops

__all__ = ["shops"]  # a fixture

TOKEN = "a-token-of-the-tests-0123456789-abcdefghij"
MINUTE = timedelta(minutes=1)


class Visits(BaseModel):
    count: Annotated[int, Additive] = 0


class Purse(BaseModel):
    coins: Annotated[int, Additive] = 100


class Purses(BaseModel):
    first: Purse | None = None
    others: dict[str, Purse] = {}


class Bounded(BaseModel):
    left: Annotated[int, Additive, Field(ge=0)] = 3


@pytest.fixture(params=["memory", "redis", "sqlite", "postgres", "http"])
async def any_store(request: pytest.FixtureRequest, clock: FrozenClock) -> AsyncIterator[Store]:
    """An open store of each kind."""
    if request.param != "http":
        async with opened_store(request.param, clock, request) as store:
            yield store
        return
    service = session_service(MemoryStore(clock=clock), token=TOKEN)
    store = HTTPStore(
        "https://sessions.example",
        token=TOKEN,
        timeout=MINUTE,
        transport=httpx.ASGITransport(service),
        clock=clock,
    )
    yield store
    await store.aclose()


async def test_100_parallel_requests_count_100(any_store: Store, clock: FrozenClock) -> None:
    """None is lost, none counts twice, and none is a conflict."""
    get_session = SessionProvider(
        Visits,
        store=any_store,
        secret_key=SECRET,
        on_conflict="raise",
        **PATIENT,
        clock=clock,
    )
    app = make_app()

    @app.post("/")
    async def visit(session: Annotated[Session[Visits], Depends(get_session)]) -> int:
        session.data.count += 1
        return session.data.count

    async with browser(app) as client:
        assert (await client.post("/")).json() == 1
        replies = await asyncio.gather(*(client.post("/") for _ in range(99)))
        assert {reply.status_code for reply in replies} == {200}
        assert (await client.post("/")).json() == 101


async def test_two_requests_that_begin_an_object_count_from_its_default_once(shops: Shops) -> None:
    """Each of them has made it anew, with the same coins in it, and taken one."""
    key = await shops.begin(Purses())
    get_session = shops.provider(Purses)

    def take(data: Purses) -> None:
        data.first = Purse()
        data.first.coins -= 1
        data.others.setdefault("ada", Purse()).coins -= 1

    async with get_session.open(key) as ours:
        async with get_session.open(key) as theirs:
            take(theirs.data)
        take(ours.data)
    async with get_session.open(key) as session:
        assert session.data == Purses(first=Purse(coins=98), others={"ada": Purse(coins=98)})


async def test_a_sum_that_the_model_refuses_is_a_conflict(shops: Shops) -> None:
    """The last one of a thing is sold once."""
    key = await shops.begin(Bounded(left=1))
    get_session = shops.provider(Bounded)
    async with get_session.open(key) as ours:
        async with get_session.open(key) as theirs:
            theirs.data.left -= 1
        ours.data.left -= 1
        with pytest.raises(SessionConflict) as raised:
            await ours.commit()
        assert raised.value.fields == ("left",)
        await ours.reload()
        assert ours.data.left == 0


def test_additive_on_anything_else_is_refused() -> None:
    """When the provider is built, by the name of the field."""

    class Named(BaseModel):
        names: Annotated[list[Any], Additive] = []

    with pytest.raises(ConfigurationError, match=r"names: Additive is for an int or a float"):
        SessionProvider(Named, store=MemoryStore(), secret_key=SECRET)
