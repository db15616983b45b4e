"""MemoryStore: the contract, and its limits."""

import gc
import weakref
from datetime import timedelta

import pytest

from fastapi_async_sessions.errors import ConfigurationError
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.testing import FrozenClock, StoreContract

HOUR = timedelta(hours=1)


class TestContract(StoreContract):
    def make_store(self, clock):
        return MemoryStore(clock=clock)


@pytest.fixture
def clock():
    return FrozenClock()


def record(clock, *, body=b"data", owner=None, life=HOUR):
    return Record(body=body, version=new_version(), owner=owner, expires_at=clock() + life)


def key(number):
    return f"{number:064x}"


async def alive(store, numbers):
    """Return the numbers whose records exist; loads them in reverse, because a load is a use."""
    return [number for number in numbers if await store.load(key(number))]


async def test_a_full_store_evicts_the_least_recently_used_session(clock):
    """Loading and saving count as use."""
    store = MemoryStore(max_sessions=3, clock=clock)
    records = [record(clock) for _ in range(5)]
    for number in range(3):
        await store.create(key(number), records[number])
    await store.load(key(0))
    await store.save(key(1), record(clock), replaces=records[1].version)
    await store.create(key(3), records[3])
    await store.create(key(4), records[4])
    assert await alive(store, range(5)) == [1, 3, 4]


async def test_loading_alone_counts_as_use(clock):
    """The oldest session stays as long as somebody reads it."""
    store = MemoryStore(max_sessions=2, clock=clock)
    for number in range(2):
        await store.create(key(number), record(clock))
    await store.load(key(0))
    await store.create(key(2), record(clock))
    assert await alive(store, range(3)) == [0, 2]


async def test_a_refused_create_evicts_nothing(clock):
    """Nor does one that replaces an expired record."""
    store = MemoryStore(max_sessions=2, clock=clock)
    first = record(clock, life=HOUR / 2)
    await store.create(key(0), first)
    await store.create(key(1), record(clock))
    assert not await store.create(key(0), record(clock))
    assert await store.create(key(0), first)
    assert await alive(store, range(2)) == [0, 1]
    clock.advance(HOUR / 2)
    assert await store.create(key(0), record(clock))
    assert await alive(store, range(2)) == [0, 1]


async def test_listing_does_not_count_as_use(clock):
    """Looking at the list of a user's devices protects none of them from eviction."""
    store = MemoryStore(max_sessions=2, clock=clock)
    await store.create(key(0), record(clock, owner="ada"))
    await store.create(key(1), record(clock))
    await store.find("ada")
    await store.create(key(2), record(clock))
    assert await alive(store, range(3)) == [1, 2]


async def test_find_leaves_out_what_the_store_has_removed(clock):
    """Sessions that were evicted, expired, deleted, given to another owner or cleared."""
    store = MemoryStore(max_sessions=2, clock=clock)
    for number in range(3):
        await store.create(key(number), record(clock, owner="ada", life=HOUR * (number + 1)))
    assert {found for found, _ in await store.find("ada")} == {key(1), key(2)}
    clock.advance(HOUR * 2)
    assert {found for found, _ in await store.find("ada")} == {key(2)}
    _, last = (await store.find("ada"))[0]
    await store.save(key(2), record(clock, owner="bob"), replaces=last.version)
    assert await store.find("ada") == []
    await store.clear()
    assert await store.find("bob") == []


async def test_creating_sessions_purges_expired_ones(clock):
    """Without calls of purge(), many short sessions do not fill the memory."""
    store = MemoryStore(clock=clock)
    for number in range(10_000):
        await store.create(key(number), record(clock, owner=f"user:{number}"))
        clock.advance(HOUR / 100)
    assert await store.purge() < 2100


async def test_the_memory_of_removed_sessions_is_freed(clock):
    """That of the record and that of the owner's index."""

    class Owner(str):
        """A string that can be weakly referenced."""

    store = MemoryStore(max_sessions=1, clock=clock)
    owners = [Owner(letter) for letter in "abcde"]
    watched = [weakref.ref(owner) for owner in owners]
    await store.create(key(0), record(clock, owner=owners[0]))
    await store.create(key(1), record(clock, owner=owners[1]))
    await store.delete(key(1))
    await store.create(key(2), record(clock, owner=owners[2], life=HOUR / 2))
    clock.advance(HOUR / 2)
    await store.purge()
    first = record(clock, owner=owners[3])
    await store.create(key(3), first)
    await store.save(key(3), record(clock, owner=owners[4]), replaces=first.version)
    await store.clear()
    del owners, first
    gc.collect()
    assert [owner() for owner in watched] == [None] * 5


async def test_an_owner_without_sessions_takes_no_memory(clock):
    """However many users sign in and out."""

    class Owner(str):
        """A string that can be weakly referenced."""

    store = MemoryStore(clock=clock)
    owner = Owner("ada")
    watched = weakref.ref(owner)
    await store.create(key(0), record(clock, owner=owner))
    await store.delete(key(0))
    del owner
    gc.collect()
    assert watched() is None


async def test_purge_returns_how_many_records_it_removed(clock):
    """Live ones are not counted."""
    store = MemoryStore(clock=clock)
    for number in range(6):
        await store.create(key(number), record(clock, life=HOUR * (1 + number % 2)))
    clock.advance(HOUR)
    assert await store.purge() == 3
    assert await store.purge() == 0


@pytest.mark.parametrize("size", [0, -1])
def test_max_sessions_is_at_least_one(size):
    """A store without room for any session is refused."""
    with pytest.raises(ConfigurationError, match="max_sessions"):
        MemoryStore(max_sessions=size)
