"""Writes that were done and whose replies were lost: they are not done twice."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_async_sessions.records import Record, includes_write, new_version
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.testing import FrozenClock
from tests.apps import Data, Line
from tests.races import Client, provider_without_timeouts


@pytest.mark.parametrize("writes", [0, 1, 23, 24, 25, 60])
def test_a_version_remembers_the_24_writes_before_it(writes: int) -> None:
    """So that a request whose reply was lost knows its write under those of others."""
    mine = version = new_version("somebody.else")
    for _ in range(writes):
        version = new_version(version)
    assert includes_write(version, mine) is (writes <= 24)
    assert not includes_write(version, new_version())


@given(st.text("ab.-_", max_size=600))
@example("x" * 498)
@example(".".join(["y" * 40] * 24))
def test_a_version_has_at_most_512_characters(before: str) -> None:
    """Whatever it replaces; the earliest writes are left out, never a part of a name."""
    version = new_version(before)
    assert len(version) <= 512
    own, *names = version.split(".")
    assert len(own) == 14
    assert names == before.split(".")[: len(names)]


class ForgetfulStore(MemoryStore):
    """Does a save, lets others write, and then says that it did not: its reply was lost and the
    driver sent it again."""

    def __init__(self, clock: FrozenClock) -> None:
        super().__init__(clock=clock)
        self.meanwhile: list[Any] = []

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        is_saved = await super().save(key, record, replaces=replaces)
        if not is_saved or not self.meanwhile:
            return is_saved
        writers, self.meanwhile = self.meanwhile, []
        for write in writers:
            await write()
        return await super().save(key, record, replaces=replaces)


@pytest.mark.parametrize("others", range(4))
@pytest.mark.parametrize("renews", [False, True])
async def test_an_own_write_that_was_sent_twice_adds_nothing_twice(
    others: int, renews: bool
) -> None:
    """The list has each line once, nobody's count is overwritten, and a renewal is one renewal."""
    clock = FrozenClock()
    store = ForgetfulStore(clock)
    provider = provider_without_timeouts(store, clock, Data, on_conflict="raise")
    client = Client(provider)
    key = await client.sign_in()

    async def another() -> None:
        async with provider.open(key) as session:
            session.data.lines.append(Line(name="theirs"))

    async def route(session: Any) -> None:
        session.data.lines.append(Line(name="ours"))
        session.data.count = 1
        if renews:
            session.renew()
        store.meanwhile = [another] * others
        await session.commit()
        assert [line.name for line in session.data.lines] == ["ours", *["theirs"] * others]

    answer = await client.request(route)
    assert answer.is_ok
    assert (answer.cookie is not None) is renews
    data = await client.data()
    assert [line.name for line in data.lines] == ["ours", *["theirs"] * others]
    assert data.count == 1
