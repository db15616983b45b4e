"""Real stores behind a network that loses replies, while others write to the same session."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, Request
from pydantic import BaseModel

from fastapi_async_sessions import (
    Additive,
    MemoryStore,
    Session,
    SessionProvider,
    Store,
    StoreUnavailable,
)
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from tests.apps import PATIENT, SECRET, browser, make_app
from tests.doubles import SpyStore, StoreCall, pass_on
from tests.races import Client
from tests.servers.asgi import serve
from tests.servers.proxy import Proxy

TOKEN = "a-token-of-the-tests-0123456789-abcdefghij"
LOSSES = 10
MINUTE = timedelta(minutes=1)


class Counted(BaseModel):
    count: Annotated[int, Additive] = 0
    names: list[str] = []


@dataclass
class Network:
    """A server, a store that reaches it directly, and one that reaches it through a proxy."""

    direct: Store
    proxied: Store
    proxy: Proxy


@pytest.fixture(params=["redis", "postgres", "http"])
async def network(request: pytest.FixtureRequest) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        if request.param == "http":
            service = session_service(MemoryStore(), token=TOKEN)
            url = stack.enter_context(serve(service))
        else:
            url = request.getfixturevalue(f"{request.param}_url")
        proxy = await stack.enter_async_context(Proxy(url))
        direct = await stack.enter_async_context(opened(request.param, url))
        proxied = await stack.enter_async_context(opened(request.param, proxy.url))
        yield Network(direct, proxied, proxy)


@asynccontextmanager
async def opened(kind: str, url: str) -> AsyncIterator[Store]:
    store: Store
    match kind:
        case "http":
            store = HTTPStore(url, token=TOKEN, timeout=MINUTE)
        case "redis":
            store = RedisStore.from_url(url)
        case _:
            store = SQLStore.from_url(url, create_table=True)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def provider(store: Store) -> Any:
    """A provider as of another process: it knows nothing of the writes of others."""
    return SessionProvider(
        Counted,
        store=SpyStore(store),
        secret_key=SECRET,
        on_conflict="raise",
        **PATIENT,
    )


def adding(name: str) -> Any:
    async def route(session: Session[Counted]) -> None:
        session.data.count += 1
        session.data.names.append(name)

    return route


@pytest.mark.slow
@pytest.mark.parametrize("others", [2, 4, 16])
async def test_nothing_is_lost_or_done_twice(network: Network, others: int) -> None:
    """A request is done once if it was a 200, and at most once if it was a 503."""
    chance = random.Random(others)
    client = Client(provider(network.direct))
    await client.sign_in()
    writers = [Client(provider(network.direct), client.cookie) for _ in range(others)]
    acknowledged, unknown = list[str](), list[str]()

    async def write(number: int, turn: int) -> None:
        name = f"{number}-{turn}"
        assert (await writers[number].copy().request(adding(name))).is_ok
        acknowledged.append(name)

    async def lose_its_reply(call: StoreCall) -> Any:
        if call.verb != "save":
            return await call.pass_on()
        spied.hook = pass_on
        network.proxy.spare_replies = chance.choice([0, 0, 1, 2])
        network.proxy.lose_replies = 1
        meanwhile = asyncio.gather(*(write(number, turn) for number in range(others)))
        try:
            return await call.pass_on()
        finally:
            network.proxy.lose_replies = 0
            await meanwhile

    spied = SpyStore(network.proxied)
    unlucky = Client(provider(spied), client.cookie)
    for turn in range(LOSSES):
        spied.hook = lose_its_reply
        answer = await unlucky.copy().request(adding(f"lost-{turn}"))
        assert answer.is_ok or isinstance(answer.error, StoreUnavailable)
        (acknowledged if answer.is_ok else unknown).append(f"lost-{turn}")

    data = await client.data()
    times = Counter(data.names)
    assert [name for name in acknowledged if times[name] != 1] == []
    assert [name for name in unknown if times[name] > 1] == []
    assert data.count == times.total() >= len(acknowledged)


@pytest.mark.slow
async def test_a_long_upload_is_stored_while_a_hundred_others_write(network: Network) -> None:
    """It takes longer than ``store_timeout``, and the response is a 200."""
    writers = [provider(network.direct) for _ in range(4)]
    client = Client(writers[0])
    key = await client.sign_in()
    get_session = SessionProvider(
        Counted,
        store=SpyStore(network.proxied),
        secret_key=SECRET,
        store_timeout=timedelta(seconds=1),
        on_conflict="raise",
    )
    app = make_app()

    @app.post("/")
    async def upload(
        request: Request, session: Annotated[Session[Counted], Depends(get_session)]
    ) -> int:
        async for chunk in request.stream():
            session.data.count += len(chunk)
        return session.data.count

    async def body() -> AsyncIterator[bytes]:
        yield b"."
        await asyncio.sleep(1.1)
        for number in range(100):
            async with writers[number % 4].open(key) as session:
                session.data.names.append(str(number))
        yield b"."

    async with browser(app, client.cookie) as uploader:
        reply = await uploader.post("/", content=body())
    assert reply.status_code == 200
    data = await client.data()
    assert (data.count, len(data.names)) == (2, 100)
