"""Requests that are cancelled, hang or die: nothing happened, or all of it."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from fastapi_async_sessions import (
    MemoryStore,
    Session,
    SessionConflict,
    SessionProvider,
    Store,
    StoreUnavailable,
)
from fastapi_async_sessions._web.jar import SCOPE_KEY, Jar
from fastapi_async_sessions.lifetime import utc_now
from fastapi_async_sessions.records import Record
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from tests.apps import SECRET
from tests.races import Client, opened_store
from tests.servers.proxy import Proxy

FOREVER = 3600


class Data(BaseModel):
    count: int = 0
    owner: str = ""
    items: list[str] = []


class SlowStore(Store):
    """Takes a few turns of the event loop before and after each call; can be told to hang."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.turns = 3
        self.hangs: set[str] = set()
        self.calls: list[str] = []

    async def create(self, key: str, record: Record) -> bool:
        return await self._slowly("create", self.inner.create, key, record)

    async def load(self, key: str) -> Record | None:
        return await self._slowly("load", self.inner.load, key)

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        return await self._slowly("save", self.inner.save, key, record, replaces=replaces)

    async def delete(self, key: str) -> bool:
        return await self._slowly("delete", self.inner.delete, key)

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        return await self._slowly("find", self.inner.find, subject)

    async def _slowly(self, verb: str, call: Any, *arguments: Any, **options: Any) -> Any:
        self.calls.append(verb)
        await self._wait()
        if verb in self.hangs:
            await asyncio.sleep(FOREVER)
        answer = await call(*arguments, **options)
        await self._wait()
        return answer

    async def until_called(self, verb: str, times: int = 1) -> None:
        for _ in range(10_000):
            if self.calls.count(verb) >= times:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{verb} was not called {times} times")

    async def _wait(self) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)


@pytest.fixture
def store() -> SlowStore:
    return SlowStore(MemoryStore())


@pytest.fixture
def provider(store: SlowStore) -> SessionProvider[Data]:
    return SessionProvider(Data, store=store, secret_key=SECRET)


async def change(session: Session[Data]) -> None:
    session.data.count = 1
    session.data.items.append("x")


async def change_and_renew(session: Session[Data]) -> None:
    await change(session)
    session.renew()


async def change_and_sign_in(session: Session[Data]) -> None:
    await change(session)
    session.renew(subject="grace")


async def destroy(session: Session[Data]) -> None:
    await session.destroy()


async def destroy_and_begin_anew(session: Session[Data]) -> None:
    await session.destroy()
    await change(session)


async def cancel_natively(task: "asyncio.Task[Any]") -> None:
    task.cancel()


async def cancel_twice(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()


async def run_cancelled(client: Client, route: Any, turns: int, how: Any) -> bool:
    """Cancel a request after so many turns of the event loop; False: it had ended by then."""
    if how == "anyio":
        return await _run_cancelled_by_anyio(client, route, turns)
    task = asyncio.create_task(client.request(route))
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.done():
        return False
    await how(task)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    # whatever was begun has ended, and goes on behind nobody's back
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return True


async def _run_cancelled_by_anyio(client: Client, route: Any, turns: int) -> bool:
    ended = False

    async def request() -> None:
        nonlocal ended
        await client.request(route)
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(request)
        for _ in range(turns):
            await asyncio.sleep(0)
        was_running = not ended
        group.cancel_scope.cancel()
    return was_running


HOW = [cancel_natively, cancel_twice, "anyio"]


@pytest.mark.parametrize("how", HOW, ids=["once", "twice", "anyio"])
@pytest.mark.parametrize("route", [change, change_and_renew, change_and_sign_in])
async def test_a_request_that_is_cancelled_anywhere_did_all_or_nothing(
    store: SlowStore, provider: SessionProvider[Data], route: Any, how: Any
) -> None:
    """Change and renewal come together; a cookie works, the old or, where it left, the new one."""
    outcomes: set[bool] = set()
    for turns in range(200):
        client = Client(provider)
        key = await client.sign_in()
        tab = client.copy()
        was_cancelled = await run_cancelled(tab, route, turns, how)
        record = await store.inner.load(key)
        assert record is not None
        async with provider.open(key) as session:
            is_done = session.data == Data(count=1, items=["x"])
            assert is_done or session.data == Data()
            is_renewed = not await client.is_live()
            assert is_renewed is (is_done and route is not change)
            if route is change_and_sign_in:
                assert session.subject == ("grace" if is_done else "ada")
        if not was_cancelled:
            assert is_done
            assert turns > 10
            break
        outcomes.add(is_done)
    else:
        pytest.fail("the request never ended")
    assert outcomes == {True, False}


@pytest.mark.parametrize("how", HOW, ids=["once", "twice", "anyio"])
@pytest.mark.parametrize("route", [destroy, destroy_and_begin_anew])
async def test_a_destroy_that_was_begun_is_done(
    store: SlowStore, provider: SessionProvider[Data], route: Any, how: Any
) -> None:
    """From the call of the route on, whatever is cancelled then."""
    outcomes: set[bool] = set()
    for turns in range(200):
        client = Client(provider)
        key = await client.sign_in()
        store.calls.clear()
        was_cancelled = await run_cancelled(client.copy(), route, turns, how)
        is_over = await store.inner.load(key) is None
        assert is_over is ("delete" in store.calls)
        assert await client.is_live() is not is_over
        if not was_cancelled:
            assert is_over
            break
        outcomes.add(is_over)
    assert outcomes == {True, False}


async def test_a_destroy_that_was_not_awaited_is_done_when_the_request_is_cancelled(
    store: SlowStore,
) -> None:
    """Of each provider that the request took a session of."""
    providers = [
        SessionProvider(Data, store=store, secret_key=SECRET, name=name) for name in ("one", "two")
    ]
    clients = [Client(each) for each in providers]
    keys = [await client.sign_in() for client in clients]
    cookies = "; ".join(
        f"{client.provider.model.name}={client.cookie}" for client in clients
    ).encode()
    jar = Jar()
    scope = {"type": "http", "method": "GET", "headers": [(b"cookie", cookies)], SCOPE_KEY: jar}

    async def request() -> None:
        for each in providers:
            session = await each(HTTPConnection(scope))
            assert not session.is_new
            session.destroy()
        try:
            await anyio.sleep_forever()
        finally:
            await jar.roll_back()

    async with anyio.create_task_group() as group:
        group.start_soon(request)
        await asyncio.sleep(0.01)
        group.cancel_scope.cancel()
    assert [await store.inner.load(key) for key in keys] == [None, None]


@pytest.mark.parametrize("how", ["asyncio", "anyio"])
@pytest.mark.parametrize("begins", ["signed in", "anonymous"])
async def test_a_route_that_gave_up_on_its_commit_goes_on_from_what_was_stored(
    store: SlowStore, provider: SessionProvider[Data], begins: str, how: str
) -> None:
    """The commit came to its end all the same: nothing is added twice, and the cookie works."""
    client = Client(provider)
    if begins == "signed in":
        await client.sign_in()

    async def route(session: Session[Data]) -> None:
        await change_and_renew(session)
        store.turns = 1000
        if how == "anyio":
            with anyio.move_on_after(0):
                await session.commit()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await session.commit()
        store.turns = 0
        session.data.items.append("y")

    answer = await client.request(route)
    assert answer.error is None
    assert answer.cookie
    assert await client.data() == Data(count=1, items=["x", "y"])
    assert len(await provider.sessions("ada")) == (begins == "signed in")


async def test_a_cancelled_commit_does_not_keep_the_event_loop_busy(
    store: SlowStore, provider: SessionProvider[Data]
) -> None:
    """An anyio scope cancels in each turn of the loop: while the store takes its time, the
    request waits."""
    client = Client(provider)
    await client.sign_in()
    loop = asyncio.get_running_loop()
    turns = 0
    is_saving = asyncio.Event()

    def count() -> None:
        nonlocal turns
        turns += 1

    class Patient(SlowStore):
        async def save(self, key: str, record: Record, *, replaces: str) -> bool:
            is_saving.set()
            await asyncio.sleep(0.2)
            return await self.inner.save(key, record, replaces=replaces)

    slow = SessionProvider(Data, store=Patient(store.inner), secret_key=SECRET)
    tab = Client(slow, client.cookie)
    selects = 0
    select = loop._selector.select  # type: ignore[attr-defined]

    def counting_select(timeout: float | None) -> Any:
        nonlocal selects
        selects += 1
        return select(timeout)

    async with anyio.create_task_group() as group:
        group.start_soon(tab.request, change)
        await is_saving.wait()
        loop._selector.select = counting_select  # type: ignore[attr-defined]
        group.cancel_scope.cancel()
    loop._selector.select = select  # type: ignore[attr-defined]
    assert selects < 50
    assert (await client.data()).count == 1


# a store that never answers


@pytest.mark.parametrize("hangs", ["load", "save", "create", "delete"])
async def test_a_store_that_never_answers_is_a_503_in_time(store: SlowStore, hangs: str) -> None:
    """Reads are bounded by ``store_timeout``, and so is each step of a commit."""
    provider = SessionProvider(
        Data, store=store, secret_key=SECRET, store_timeout=timedelta(seconds=0.05)
    )
    client = Client(provider)
    if hangs != "create":
        await client.sign_in()
    route = {"save": change, "create": change, "delete": destroy, "load": change}[hangs]
    store.hangs.add(hangs)
    async with asyncio.timeout(2):
        answer = await client.copy().request(route)
    assert isinstance(answer.error, StoreUnavailable)
    assert answer.error.reason == "no answer within 0.05 seconds"
    assert answer.cookie is None
    store.hangs.clear()
    assert await client.is_live() is (hangs != "create")


async def test_a_commit_is_bounded_as_a_whole(store: SlowStore) -> None:
    """By ``commit_timeout``, where that is less than what its calls may take; when somebody else
    wrote meanwhile, too."""
    provider = SessionProvider(
        Data, store=store, secret_key=SECRET, commit_timeout=timedelta(seconds=0.05)
    )
    client = Client(provider)
    await client.sign_in()

    async def route(session: Session[Data]) -> None:
        await change(session)
        store.hangs.add("save")

    async with asyncio.timeout(1):
        answer = await client.copy().request(route)
    assert isinstance(answer.error, StoreUnavailable)
    assert answer.error.reason == "the commit was not done within 0.05 seconds"

    async def late(session: Session[Data]) -> None:
        await change(session)
        await client.copy().request(change)
        store.hangs.add("load")

    store.hangs.clear()
    async with asyncio.timeout(1):
        answer = await client.copy().request(late)
    assert isinstance(answer.error, SessionConflict)


async def test_a_request_cancelled_while_the_store_hangs_ends_in_time(store: SlowStore) -> None:
    """Shielded does not mean for ever."""
    provider = SessionProvider(
        Data, store=store, secret_key=SECRET, commit_timeout=timedelta(seconds=0.05)
    )
    client = Client(provider)
    await client.sign_in()
    store.hangs.add("save")
    task = asyncio.create_task(client.copy().request(change))
    await store.until_called("save")
    task.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task
    store.hangs.clear()
    assert (await client.data()).count == 0


async def test_a_queue_moves_on_when_one_who_waits_in_it_is_cancelled(
    store: SlowStore, provider: SessionProvider[Data]
) -> None:
    """The others are not held up, and what the cancelled one had begun is done."""
    client = Client(provider)
    await client.sign_in()
    everybody_is_there = asyncio.Barrier(10)

    async def add(number: int) -> Any:
        async def route(session: Session[Data]) -> None:
            session.data.items.append(str(number))
            await everybody_is_there.wait()

        return await client.copy().request(route)

    tasks = [asyncio.create_task(add(number)) for number in range(10)]
    await store.until_called("save", times=10)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.result().is_ok for task in tasks[1::2])
    assert sorted((await client.data()).items) == [str(number) for number in range(10)]


# death

WORKER = """
import asyncio, json, os, signal, sys
sys.path.insert(0, {root!r})
from tests import test_cancellation as test

class Deadly(test.SlowStore):
    async def _slowly(self, verb, call, *arguments, **options):
        if self.dies == "before " + verb:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await call(*arguments, **options)
        if self.dies == "after " + verb:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

async def work(route, cookie, dies):
    store = Deadly(test.open_by_url({url!r}))
    store.dies = dies
    provider = test.SessionProvider(test.Data, store=store, secret_key=test.SECRET)
    await test.Client(provider, cookie).request(getattr(test, route))

for case in json.loads(sys.argv[1]):
    if (worker := os.fork()) == 0:
        asyncio.run(work(*case))
        os._exit(0)
    _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
"""

DEATHS = [
    (route, f"{moment} {verb}")
    for route, verb in (
        (change, "save"),
        (change_and_renew, "save"),
        (change_and_sign_in, "save"),
        (destroy, "delete"),
        (change, "create"),
    )
    for moment in ("before", "after")
]


def open_by_url(url: str) -> Store:
    if url.startswith("redis"):
        return RedisStore.from_url(url)
    return SQLStore.from_url(url)


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_a_worker_that_is_killed_at_its_write_leaves_a_consistent_store(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Right before it nothing has happened, right after it all of it has; nobody has the cookie
    that the dead worker did not send."""
    if kind == "redis":
        url = request.getfixturevalue("redis_url")
    else:
        url = f"sqlite+aiosqlite:///{request.getfixturevalue('tmp_path')}/sessions.db"
    async with opened_store(kind, utc_now, request) as store:
        provider = SessionProvider(Data, store=store, secret_key=SECRET)
        clients = [Client(provider) for _ in DEATHS]
        keys = [await client.sign_in() for client in clients]
        await run_workers(
            url,
            [
                (route.__name__, "" if "create" in dies else client.cookie, dies)
                for (route, dies), client in zip(DEATHS, clients, strict=True)
            ],
        )
        for (route, dies), client, key in zip(DEATHS, clients, keys, strict=True):
            is_done = dies.startswith("after") and "create" not in dies
            is_over = route is destroy and is_done
            is_renewed = route in (change_and_renew, change_and_sign_in) and is_done
            assert await client.is_live() is not (is_over or is_renewed)
            assert (await store.load(key) is None) is is_over
            if not is_over:
                async with provider.open(key) as session:
                    is_changed = is_done and route is not destroy
                    assert session.data == (Data(count=1, items=["x"]) if is_changed else Data())
                    is_graces = is_done and route is change_and_sign_in
                    assert session.subject == ("grace" if is_graces else "ada")
        listed = [session.key for session in await provider.sessions("ada")]
        assert len(listed) == len(DEATHS) - 2
        if kind == "sqlite":  # where record and list are one
            assert len(await provider.sessions("grace")) == 1


async def run_workers(url: str, cases: list[tuple[str, str, str]]) -> None:
    """A process with a child for each case, which kills itself."""
    program = WORKER.format(root=str(Path(__file__).parents[1]), url=url)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, json.dumps(cases))
    assert await asyncio.wait_for(process.wait(), 60) == 0


# connections that were left half read (F-13, CVE-2023-28858)


@contextlib.asynccontextmanager
async def behind_a_proxy(redis_url: str) -> AsyncIterator[tuple[Proxy, RedisStore]]:
    async with Proxy.to(redis_url) as proxy:
        store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}/0")
        try:
            yield proxy, store
        finally:
            await store.aclose()


async def test_no_reply_ever_reaches_another_user(redis_url: str) -> None:
    """Requests are cancelled while their replies are on the way: the next one reads its own."""
    async with behind_a_proxy(redis_url) as (proxy, store):
        provider = SessionProvider(Data, store=store, secret_key=SECRET)
        clients = [Client(provider) for _ in range(12)]

        async def begin(client: Client, owner: str) -> None:
            async def route(session: Session[Data]) -> None:
                session.data.owner = owner

            await client.request(route)

        async def read(client: Client) -> str:
            return (await client.copy().data()).owner

        await asyncio.gather(*(begin(client, str(n)) for n, client in enumerate(clients)))
        proxy.delay = 0.002
        wrong: list[tuple[str, str]] = []
        cancelled = 0
        for turn in range(60):
            tasks = [asyncio.create_task(read(client)) for client in clients]
            await asyncio.sleep(0.0002 * (turn % 30))
            for task in tasks[turn % 3 :: 3]:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for number, answer in enumerate(answers):
                if isinstance(answer, asyncio.CancelledError):
                    cancelled += 1
                elif answer != str(number):
                    wrong.append((str(number), str(answer)))
        assert wrong == []
        assert cancelled > 100


async def test_a_write_whose_reply_was_lost_is_told_as_unknown_and_done_once(
    redis_url: str,
) -> None:
    """The driver sends it again: the item is there once. Whoever is told 503 sees at the next
    request which it was."""
    async with behind_a_proxy(redis_url) as (proxy, store):
        provider = SessionProvider(Data, store=store, secret_key=SECRET)
        client = Client(provider)
        await client.sign_in()
        acknowledged: list[str] = []

        async def add(session: Session[Data]) -> None:
            session.data.items.append(str(number))
            proxy.lose_replies = 1 + number % 2

        for number in range(8):
            answer = await client.copy().request(add)
            proxy.lose_replies = 0
            if answer.is_ok:
                acknowledged.append(str(number))
        items = (await client.data()).items
        assert len(items) == len(set(items))
        assert set(acknowledged) <= set(items)
        assert acknowledged
