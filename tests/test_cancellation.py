"""Requests that are cancelled, time out or lose their process are done completely or not at all."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
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
    SessionProvider,
    Store,
    StoreUnavailable,
)
from fastapi_async_sessions._web.jar import SCOPE_KEY, Jar
from fastapi_async_sessions.lifetime import utc_now
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import FrozenClock

from .apps import PATIENT, SECRET, has_ended
from .doubles import WAIT_LIMIT, Gate, Hook, SpyStore, StoreCall, pass_on
from .races import Client, opened_store, provider_without_timeouts, wait_for_all
from .servers.proxy import Proxy


class Data(BaseModel):
    count: int = 0
    owner: str = ""
    items: list[str] = []


def slow(turns: int) -> Hook:
    """Hook of a store that takes some turns of the event loop before and after each call."""

    async def wait() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    async def hook(call: StoreCall) -> Any:
        await wait()
        result = await call.pass_on()
        await wait()
        return result

    return hook


@pytest.fixture
def store(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock), slow(turns=3))


@pytest.fixture
def provider(store: SpyStore, clock: FrozenClock) -> SessionProvider[Data]:
    return provider_without_timeouts(store, clock, Data)


async def change(session: Session[Data]) -> None:
    session.data.count = 1
    session.data.items.append("x")


async def change_and_renew(session: Session[Data]) -> None:
    await change(session)
    session.renew()


async def change_and_sign_in(session: Session[Data]) -> None:
    await change(session)
    session.renew(subject="ada")


async def sign_in_as_grace(session: Session[Data]) -> None:
    session.renew(subject="grace")
    await change(session)


async def destroy(session: Session[Data]) -> None:
    await session.destroy()


async def destroy_and_begin_anew(session: Session[Data]) -> None:
    await session.destroy()
    await change(session)


async def cancel_once(task: "asyncio.Task[Any]") -> None:
    task.cancel()


async def cancel_twice(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()


async def run_cancelled(client: Client, route: Any, turns: int, how: Any) -> bool:
    """Cancel a request after some turns of the event loop; False if it had ended by then."""
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
    # nothing that the request began is still running
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


def name_of(route: Any) -> str:
    return route.__name__


HOW = [cancel_once, cancel_twice, "anyio"]


@pytest.mark.parametrize("how", HOW, ids=["once", "twice", "anyio"])
@pytest.mark.parametrize("route", [change, change_and_renew, change_and_sign_in], ids=name_of)
async def test_a_request_cancelled_at_any_point_is_done_completely_or_not_at_all(
    store: SpyStore, provider: SessionProvider[Data], route: Any, how: Any
) -> None:
    """A change and a renewal are stored together: the old cookie stays valid until both are."""
    outcomes: set[bool] = set()
    for turns in range(200):
        client = Client(provider)
        key = await client.sign_in()
        tab = client.copy()
        was_cancelled = await run_cancelled(tab, route, turns, how)
        async with provider.open(key) as session:
            is_done = session.data == Data(count=1, items=["x"])
            assert is_done or session.data == Data()
            is_renewed = not await client.is_live()
            assert is_renewed is (is_done and route is not change)
            assert session.subject == "ada"
        if not was_cancelled:
            assert is_done
            assert turns > 10
            break
        outcomes.add(is_done)
    else:
        pytest.fail("the request did not end within 200 turns")
    assert outcomes == {True, False}


@pytest.mark.parametrize("how", HOW, ids=["once", "twice", "anyio"])
async def test_a_sign_in_of_another_user_is_cancelled_as_a_whole(
    store: SpyStore, provider: SessionProvider[Data], how: Any
) -> None:
    """Either the session before is live and the new user has none, or the other way round."""
    outcomes: set[bool] = set()
    for turns in range(300):
        await store.inner.clear()
        client = Client(provider)
        await client.sign_in()
        was_cancelled = await run_cancelled(client.copy(), sign_in_as_grace, turns, how)
        listed = [
            [each.data for each in await provider.sessions(name)] for name in ("ada", "grace")
        ]
        is_done = listed == [[], [Data(count=1, items=["x"])]]
        assert is_done or listed == [[Data()], []]
        assert await client.is_live() is not is_done
        if not was_cancelled:
            assert is_done
            break
        outcomes.add(is_done)
    else:
        pytest.fail("the request did not end within 300 turns")
    assert outcomes == {True, False}


@pytest.mark.parametrize("how", HOW, ids=["once", "twice", "anyio"])
@pytest.mark.parametrize("route", [destroy, destroy_and_begin_anew], ids=name_of)
async def test_a_destroy_is_completed_once_it_has_begun(
    store: SpyStore, provider: SessionProvider[Data], route: Any, how: Any
) -> None:
    """Whatever is cancelled after the route has called it."""
    outcomes: set[bool] = set()
    for turns in range(200):
        client = Client(provider)
        key = await client.sign_in()
        store.calls.clear()
        was_cancelled = await run_cancelled(client.copy(), route, turns, how)
        is_ended = has_ended(provider, key, await store.inner.load(key))
        assert is_ended is ("delete" in store.calls)
        assert await client.is_live() is not is_ended
        if not was_cancelled:
            assert is_ended
            break
        outcomes.add(is_ended)
    assert outcomes == {True, False}


async def test_a_destroy_without_await_is_completed_when_the_request_is_cancelled(
    store: SpyStore, clock: FrozenClock
) -> None:
    """For each provider whose session the request has destroyed."""
    providers = [
        provider_without_timeouts(store, clock, Data, name=name) for name in ("one", "two")
    ]
    clients = [Client(each) for each in providers]
    keys = [await client.sign_in() for client in clients]
    cookies = "; ".join(
        f"{client.provider.cookie.name}={client.cookie}" for client in clients
    ).encode()
    jar = Jar()
    scope = {"type": "http", "method": "GET", "headers": [(b"cookie", cookies)], SCOPE_KEY: jar}
    destroyed = asyncio.Event()

    async def request() -> None:
        for each in providers:
            session = await each(HTTPConnection(scope))
            assert not session.is_new
            session.destroy()
        destroyed.set()
        try:
            await anyio.sleep_forever()
        finally:
            await jar.roll_back()

    async with anyio.create_task_group() as group:
        group.start_soon(request)
        async with asyncio.timeout(WAIT_LIMIT):
            await destroyed.wait()
        group.cancel_scope.cancel()
    for each, key in zip(providers, keys, strict=True):
        assert has_ended(each, key, await store.inner.load(key))


@pytest.mark.parametrize("how", ["asyncio", "anyio"])
@pytest.mark.parametrize("begins_as", ["signed in", "anonymous"])
async def test_a_route_that_times_out_its_own_commit_continues_from_what_was_stored(
    store: SpyStore, provider: SessionProvider[Data], begins_as: str, how: str
) -> None:
    """The commit is completed all the same: nothing is added twice, and the cookie is valid."""
    client = Client(provider)
    if begins_as == "signed in":
        await client.sign_in()

    async def route(session: Session[Data]) -> None:
        await change_and_renew(session)
        store.hook = slow(turns=1000)
        if how == "anyio":
            with anyio.move_on_after(0):
                await session.commit()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await session.commit()
        store.hook = pass_on
        session.data.items.append("y")

    answer = await client.request(route)
    assert answer.error is None
    assert answer.cookie
    assert await client.data() == Data(count=1, items=["x", "y"])
    assert len(await provider.sessions("ada")) == (begins_as == "signed in")


async def test_a_cancelled_commit_does_not_keep_the_event_loop_busy(
    store: SpyStore, provider: SessionProvider[Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An anyio scope cancels again in each turn of the loop, and yet the loop can go idle."""
    client = Client(provider)
    await client.sign_in()
    store.hook = gate = Gate("save")
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select
    timeouts: list[float | None] = []

    def open_gate_when_idle(timeout: float | None) -> Any:
        timeouts.append(timeout)
        if timeout != 0 or len(timeouts) == 50:
            gate.open()
            timeout = 0
        return select(timeout)

    async with anyio.create_task_group() as group:
        group.start_soon(client.copy().request, change)
        async with asyncio.timeout(WAIT_LIMIT):
            await gate.reached.wait()
        monkeypatch.setattr(selector, "select", open_gate_when_idle)
        group.cancel_scope.cancel()
    monkeypatch.undo()
    # the event loop asks its selector not to wait (a timeout of 0) for as long as it is busy
    assert set(timeouts[:50]) != {0}
    assert (await client.data()).count == 1


# a store that never answers


@pytest.mark.parametrize("hangs", ["load", "save", "create", "delete"])
async def test_a_store_that_never_answers_fails_the_request_in_time(hangs: str) -> None:
    """``store_timeout`` limits a read and each step of a commit."""
    store = SpyStore(MemoryStore())
    provider = SessionProvider(
        Data, store=store, secret_key=SECRET, store_timeout=timedelta(seconds=0.05)
    )
    client = Client(provider)
    if hangs != "create":
        await client.sign_in()
    route = {"save": change, "create": change, "delete": destroy, "load": change}[hangs]
    store.hook = Gate(hangs)
    async with asyncio.timeout(WAIT_LIMIT):
        answer = await client.copy().request(route)
    assert isinstance(answer.error, StoreUnavailable)
    assert answer.error.reason == "no answer within 0.05 seconds"
    assert answer.cookie is None
    store.hook = pass_on
    assert await client.is_live() is (hangs != "create")


async def test_commit_timeout_limits_a_commit_as_a_whole() -> None:
    """Where its calls may take longer together, also if another request has written meanwhile."""
    store = SpyStore(MemoryStore())
    provider = SessionProvider(
        Data, store=store, secret_key=SECRET, commit_timeout=timedelta(seconds=0.05)
    )
    client = Client(provider)
    await client.sign_in()

    async def route(session: Session[Data]) -> None:
        await change(session)
        store.hook = Gate("save")

    async with asyncio.timeout(WAIT_LIMIT):
        answer = await client.copy().request(route)
    assert isinstance(answer.error, StoreUnavailable)
    assert answer.error.reason == "the commit did not complete within 0.05 seconds"

    async def late(session: Session[Data]) -> None:
        await change(session)
        await client.copy().request(change)
        store.hook = Gate("load")

    store.hook = pass_on
    async with asyncio.timeout(WAIT_LIMIT):
        answer = await client.copy().request(late)
    # the save was refused, or its reply was lost: only the load would have told
    assert isinstance(answer.error, StoreUnavailable)


async def test_a_request_cancelled_while_the_store_hangs_ends_in_time() -> None:
    """The commit goes on after the cancellation, but not beyond ``commit_timeout``."""
    store = SpyStore(MemoryStore())
    provider = SessionProvider(
        Data, store=store, secret_key=SECRET, commit_timeout=timedelta(seconds=0.05)
    )
    client = Client(provider)
    await client.sign_in()
    store.hook = gate = Gate("save")
    task = asyncio.create_task(client.copy().request(change))
    async with asyncio.timeout(WAIT_LIMIT):
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    store.hook = pass_on
    assert (await client.data()).count == 0


async def test_a_commit_that_fails_after_a_cancellation_is_not_logged_as_lost(
    lost_errors: Callable[[], list[dict[str, Any]]],
) -> None:
    """asyncio would log its error with a traceback; the event ``store_error`` names it."""
    store = SpyStore(MemoryStore())
    provider = SessionProvider(Data, store=store, secret_key=SECRET, **PATIENT)
    client = Client(provider)
    await client.sign_in()
    gate = Gate("save")

    async def fail(call: StoreCall) -> Any:
        answer = await gate(call)
        if call.verb == "save":
            raise StoreUnavailable("it went away")
        return answer

    store.hook = fail
    task = asyncio.create_task(client.copy().request(change))
    async with asyncio.timeout(WAIT_LIMIT):
        await gate.reached.wait()
        task.cancel()
        gate.open()
        await asyncio.wait([task])
    assert task.cancelled()
    del task
    assert lost_errors() == []


async def test_cancelled_requests_do_not_hold_up_others_that_commit(
    store: SpyStore, provider: SessionProvider[Data]
) -> None:
    """All of them wait to save the same session; the cancelled commits are completed too."""
    client = Client(provider)
    await client.sign_in()
    all_have_loaded = asyncio.Barrier(10)

    async def add(number: int) -> Any:
        async def route(session: Session[Data]) -> None:
            session.data.items.append(str(number))
            await wait_for_all(all_have_loaded)

        return await client.copy().request(route)

    tasks = [asyncio.create_task(add(number)) for number in range(10)]
    await store.until_called("save", times=10)
    for task in tasks[::2]:
        task.cancel()
    async with asyncio.timeout(WAIT_LIMIT):
        await asyncio.wait(tasks)
    assert all(task.result().is_ok for task in tasks[1::2])
    assert sorted((await client.data()).items) == [str(number) for number in range(10)]


# a worker that is killed

WORKER = """
import asyncio, json, os, signal, sys
sys.path.insert(0, {root!r})
from tests import test_cancellation as test

async def work(route, cookie, killed):
    async def kill_worker(call):
        if killed == "before " + call.verb:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await call.pass_on()
        if killed == "after " + call.verb:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    store = test.SpyStore(test.open_by_url({url!r}), kill_worker)
    provider = test.SessionProvider(test.Data, store=store, secret_key=test.SECRET)
    await test.Client(provider, cookie).request(getattr(test, route))

for case in json.loads(sys.argv[1]):
    if (worker := os.fork()) == 0:
        asyncio.run(work(*case))
        os._exit(0)
    _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
"""

KILLS = [
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_a_worker_killed_at_its_write_leaves_a_consistent_store(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Right before the write nothing is done, and right after it everything is, but for the cookie
    that the worker could not send any more."""
    if kind == "redis":
        url = request.getfixturevalue("redis_url")
    else:
        url = f"sqlite+aiosqlite:///{request.getfixturevalue('tmp_path')}/sessions.db"
    async with opened_store(kind, utc_now, request) as store:
        provider = SessionProvider(Data, store=store, secret_key=SECRET, **PATIENT)
        clients = [Client(provider) for _ in KILLS]
        keys = [await client.sign_in() for client in clients]
        await run_workers(
            url,
            [
                (route.__name__, "" if "create" in killed else client.cookie, killed)
                for (route, killed), client in zip(KILLS, clients, strict=True)
            ],
        )
        for (route, killed), client, key in zip(KILLS, clients, keys, strict=True):
            is_done = killed.startswith("after") and "create" not in killed
            is_ended = route is destroy and is_done
            is_renewed = route in (change_and_renew, change_and_sign_in) and is_done
            assert await client.is_live() is not (is_ended or is_renewed)
            assert has_ended(provider, key, await store.load(key)) is is_ended
            if not is_ended:
                async with provider.open(key) as session:
                    is_changed = is_done and route is not destroy
                    assert session.data == (Data(count=1, items=["x"]) if is_changed else Data())
                    assert session.subject == "ada"
        listed = [session.key for session in await provider.sessions("ada")]
        assert len(listed) == len(KILLS) - 1


async def run_workers(url: str, cases: list[tuple[str, str, str]]) -> None:
    """Start a process that forks for each case a worker, which kills itself."""
    program = WORKER.format(root=str(Path(__file__).parents[1]), url=url)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, json.dumps(cases))
    assert await asyncio.wait_for(process.wait(), WAIT_LIMIT) == 0


# connections with a reply that was not read (CVE-2023-28858)


@contextlib.asynccontextmanager
async def behind_a_proxy(redis_url: str) -> AsyncIterator[tuple[Proxy, RedisStore]]:
    async with Proxy(redis_url) as proxy:
        store = RedisStore.from_url(proxy.url)
        try:
            yield proxy, store
        finally:
            await store.aclose()


async def test_a_reply_never_reaches_another_user(redis_url: str) -> None:
    """Requests are cancelled while they wait for their replies; the next one reads its own."""
    async with behind_a_proxy(redis_url) as (proxy, store):
        provider = SessionProvider(Data, store=store, secret_key=SECRET, **PATIENT)
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
            is_paused = turn % 2 == 0
            if is_paused:
                proxy.pause()
            tasks = [asyncio.create_task(read(client)) for client in clients]
            # without the pause a reply may be anywhere when its request is cancelled
            await asyncio.sleep(0.0002 * (turn % 30))
            for task in tasks[turn % 3 :: 3]:
                task.cancel()
            proxy.resume()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for number, answer in enumerate(answers):
                if isinstance(answer, asyncio.CancelledError):
                    cancelled += 1
                elif answer != str(number):
                    wrong.append((str(number), str(answer)))
        assert wrong == []
        assert cancelled >= 120  # all those of the 30 turns with a pause


async def test_a_write_whose_reply_is_lost_is_done_at_most_once(redis_url: str) -> None:
    """The driver sends it again, and the item is added once. After a 503 the write may have been
    done or not."""
    async with behind_a_proxy(redis_url) as (proxy, store):
        provider = SessionProvider(Data, store=store, secret_key=SECRET, **PATIENT)
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
