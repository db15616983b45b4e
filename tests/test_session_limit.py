"""``max_sessions_per_subject``: a sign-in ends the sessions with the oldest sign-ins beyond it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from fastapi_async_sessions import ConfigurationError, MemoryStore, SessionEvent, Store
from fastapi_async_sessions.testing import FrozenClock

from .apps import OLDER_SECRET, SECRET, Data, make_provider
from .doubles import SpyStore, StoreCall, failing, pass_on
from .races import Client, opened_store, provider_without_timeouts

SECOND = timedelta(seconds=1)
LIMIT = 3


@pytest.fixture
def store(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


@pytest.fixture
def get_session(store: SpyStore, clock: FrozenClock, events: list[SessionEvent]) -> Any:
    return make_provider(store, clock=clock, on_event=events.append, max_sessions_per_subject=LIMIT)


async def signed_in(provider: Any, clock: FrozenClock, count: int) -> list[Client]:
    """That many browsers of ada, one second after another."""
    clients = [Client(provider) for _ in range(count)]
    for client in clients:
        clock.advance(SECOND)
        await client.sign_in()
    return clients


async def live(clients: list[Client]) -> list[bool]:
    return [await client.is_live() for client in clients]


async def test_the_oldest_sign_ins_end(
    get_session: Any, clock: FrozenClock, events: list[SessionEvent]
) -> None:
    """Each further sign-in ends one, and an event says which and why; the use of a session and
    the sign-ins of others do not count."""
    clients = await signed_in(get_session, clock, LIMIT)
    other, anonymous = Client(get_session), Client(get_session)
    await other.sign_in("bob")
    assert await live(clients) == [True] * LIMIT
    clients += await signed_in(get_session, clock, 2)
    assert await live(clients) == [False] * 2 + [True] * LIMIT
    assert await other.is_live()
    assert not await anonymous.is_live()
    revoked = [event for event in events if event.kind == "revoked"]
    assert [event.facts for event in revoked] == [{"reason": "limit"}] * 2
    assert len({event.key for event in revoked}) == 2


async def test_signing_in_again_is_a_new_sign_in(get_session: Any, clock: FrozenClock) -> None:
    """The session that was begun first is then the newest one, and it takes no second place."""
    clients = await signed_in(get_session, clock, LIMIT)
    clock.advance(SECOND)
    await clients[0].sign_in()
    assert await live(clients) == [True] * LIMIT
    clients += await signed_in(get_session, clock, 1)
    assert await live(clients) == [True, False, True, True]


async def test_sign_ins_under_every_secret_count(store: SpyStore, clock: FrozenClock) -> None:
    """During a rotation the sessions of the older secret end as well."""
    options: Any = {"clock": clock, "max_sessions_per_subject": LIMIT}
    before = make_provider(SpyStore(store), secret_key=OLDER_SECRET, **options)
    old = await signed_in(before, clock, LIMIT)
    after = make_provider(SpyStore(store), secret_key=[SECRET, OLDER_SECRET], **options)
    new = await signed_in(after, clock, 2)
    for client in old:
        client.provider = after
    assert await live(old + new) == [False, False, True, True, True]


@pytest.mark.parametrize(
    "kind", ["memory", "redis", pytest.param("sqlite", marks=pytest.mark.slow), "postgresql"]
)
async def test_after_fifty_sign_ins_at_once_the_limit_holds(
    kind: str, clock: FrozenClock, request: pytest.FixtureRequest
) -> None:
    """All of them are answered with success."""
    async with opened_store(kind, clock, request) as store:
        provider = provider_without_timeouts(store, clock, Data, max_sessions_per_subject=LIMIT)
        clients = [Client(provider) for _ in range(50)]
        keys = await asyncio.gather(*(client.sign_in() for client in clients))
        assert len(set(keys)) == 50
        assert LIMIT - 1 <= len(await provider.sessions("ada")) <= LIMIT
        assert sum(await live(clients)) <= LIMIT


@pytest.mark.parametrize("verb", ["find", "delete"])
async def test_a_limit_that_cannot_be_kept_does_not_fail_the_sign_in(
    get_session: Any, store: SpyStore, clock: FrozenClock, verb: str
) -> None:
    """The next sign-in keeps it."""
    clients = await signed_in(get_session, clock, LIMIT)
    store.hook = failing(verb)
    clients += await signed_in(get_session, clock, 2)
    assert await live(clients) == [True] * (LIMIT + 2)
    store.hook = pass_on
    clients += await signed_in(get_session, clock, 1)
    assert await live(clients) == [False] * 3 + [True] * LIMIT


async def test_a_slow_store_does_not_fail_the_sign_in(store: SpyStore, clock: FrozenClock) -> None:
    """Keeping the limit takes no longer than one call of the store may."""

    async def hook(call: StoreCall) -> Any:
        if call.verb == "delete":
            await asyncio.sleep(0.25)
        return await call.pass_on()

    options: Any = {"clock": clock, "store_timeout": SECOND}
    before = make_provider(SpyStore(store), **options)
    await signed_in(before, clock, 20)
    store.hook = hook
    provider = make_provider(store, **options, max_sessions_per_subject=1)
    store.calls.clear()
    (client,) = await signed_in(provider, clock, 1)
    assert await client.is_live()
    assert 0 < store.calls.count("delete") < 20


def test_a_limit_needs_a_store_that_lists_sessions() -> None:
    """It is an error when the provider is built, which says what to write."""

    class StoreWithoutFind(MemoryStore):
        find = Store.find

    make_provider(StoreWithoutFind())
    with pytest.raises(ConfigurationError, match=r"write find\(\) for StoreWithoutFind"):
        make_provider(StoreWithoutFind(), max_sessions_per_subject=5)
