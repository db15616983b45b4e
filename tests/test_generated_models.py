"""Models that hypothesis makes of fields of all kinds, in requests that overlap.

An older and a newer release of the application run side by side. Each request adds, removes, moves
and replaces names in its fields, and may commit in between.
"""

import asyncio
import json
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from fastapi_async_sessions import SessionConflict
from tests.generated import cases
from tests.kinds import (
    BASES,
    EXTRA,
    KINDS,
    Allowing,
    Item,
    Kind,
    NewerItem,
    edit,
    name_of,
    names_in,
)
from tests.test_merged_sessions import Shops

COMMIT = 8  # what a step does: a lower number is an edit of that kind
RELOAD = 9
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 9)), min_size=4, max_size=12
)
Names = list[Counter[str]]  # of each field


class Release:
    """A model of some kinds of fields, as one release has it."""

    def __init__(self, kinds: list[Kind], base: type[BaseModel], *, is_newer: bool) -> None:
        self.kinds = kinds
        self.is_newer = is_newer
        self.item = NewerItem if is_newer else Item
        fields: Any = {
            f"f{place}": (kind.annotation(self.item), Field(default_factory=_empty(kind)))
            for place, kind in enumerate(kinds)
            if kind is not EXTRA
        }
        added: Any = {"added": (list[str], [])} if is_newer else {}
        self.model: Any = create_model("Generated", __base__=base, **fields, **added)

    def made(self, place: int, name: str) -> Any:
        """What a field at this place holds by a name."""
        if not self.kinds[place].has_items:
            return name
        return NewerItem(name=name, note=name[::-1]) if self.is_newer else Item(name=name)

    def first(self) -> BaseModel:
        """The data of a session with three names in each field."""
        data = self.model()
        for place, kind in enumerate(self.kinds):
            items = [self.made(place, name) for name in _first_names(place)]
            setattr(data, f"f{place}", kind.make(items))
        if self.is_newer:
            data.added = ["kept"]
        return data


def _empty(kind: Kind) -> Any:
    return lambda: kind.make([])


def _first_names(place: int) -> list[str]:
    return [name_of(place, "b", number) for number in range(3)]


class Request:
    """A request that is open while others are."""

    def __init__(self, number: int, release: Release, provider: Any, key: str) -> None:
        self.number = number
        self.release = release
        self.is_over = False
        self._opened = provider.open(key)
        self._edits = 0
        self._pending_hits = 0

    async def begin(self) -> None:
        self.session = await self._opened.__aenter__()
        self._seen = self.names()

    def names(self) -> Names:
        return names_of(self.session.data, len(self.release.kinds))

    def edit(self, place: int, how: int) -> None:
        place %= len(self.release.kinds)
        self._edits += 1
        name = name_of(place, f"r{self.number}", self._edits)
        item, data = self.release.made(place, name), self.session.data
        edit(data, f"f{place}", self.release.kinds[place], how, item)
        data.hits += 1
        self._pending_hits += 1

    async def commit(self, expected: "Expected", *, ends: bool = False) -> None:
        """Commit what was edited; a conflict ends the request without storing any of it."""
        wanted = self.names()
        try:
            if ends:
                await self._opened.__aexit__(None, None, None)
            else:
                await self.session.commit()
        except SessionConflict as conflict:
            self.is_over = True
            if not ends:
                await self._leave(conflict)
            return
        self.is_over = ends
        expected.change(self._seen, wanted, self._pending_hits)
        self._seen, self._pending_hits = self.names(), 0

    async def reload(self) -> None:
        assert await self.session.reload()
        self._seen, self._pending_hits = self.names(), 0

    async def _leave(self, conflict: SessionConflict) -> None:
        assert not await self._opened.__aexit__(type(conflict), conflict, None)


class Expected:
    """What the store has to hold, by the commits that were acknowledged."""

    def __init__(self, count: int) -> None:
        self.names: Names = [Counter(_first_names(place)) for place in range(count)]
        self.hits = 0

    def change(self, before: Names, after: Names, hits: int) -> None:
        for names, old, new in zip(self.names, before, after, strict=True):
            names.update(new)
            names.subtract(old)
        self.names = [+names for names in self.names]
        self.hits += hits


def names_of(data: BaseModel, count: int) -> Names:
    """The names in each field, as they are written; one in a wrong field is an error."""
    values = values_of(data)
    found = [Counter(names_in(json.dumps(values.get(f"f{place}")))) for place in range(count)]
    for place, names in enumerate(found):
        assert all(name.startswith(f"q{place}x") for name in names), names
    return found


def values_of(data: BaseModel) -> dict[str, Any]:
    values = json.loads(data.model_dump_json(by_alias=False, round_trip=True))
    return values.get("v", values)


@cases(250)
@given(
    kinds=st.lists(
        st.sampled_from([*sorted(KINDS), *["list of models"] * 10]), min_size=1, max_size=2
    ),
    base=st.sampled_from(BASES),
    newer=st.lists(st.booleans(), min_size=3, max_size=3),
    begun_by_newer=st.booleans(),
    steps=STEPS,
)
def test_what_was_acknowledged_is_there_and_nothing_else_was_touched(
    kinds: list[str], base: Any, newer: list[bool], begun_by_newer: bool, steps: Any
) -> None:
    """Nothing is lost, doubled or moved to another field or item, whichever release writes."""
    fields = [*map(KINDS.__getitem__, kinds), *([EXTRA] if base is Allowing else [])]
    releases = [Release(fields, base, is_newer=each) for each in (False, True)]
    asyncio.run(_overlap(releases, newer, begun_by_newer, steps))


async def _overlap(
    releases: list[Release], newer: list[bool], begun_by_newer: bool, steps: Any
) -> None:
    shops = Shops()
    key = await shops.begin(releases[begun_by_newer].first())
    expected = Expected(len(releases[0].kinds))
    requests: list[Request] = []
    for number, is_newer in enumerate(newer):
        release = releases[is_newer]
        provider = shops.provider(release.model, on_conflict="raise")
        requests.append(Request(number, release, provider, key))
        await requests[-1].begin()
    for number, place, how in steps:
        request = requests[number]
        if request.is_over:
            continue
        if how == COMMIT:
            await request.commit(expected)
        elif how == RELOAD:
            await request.reload()
        else:
            request.edit(place, how)
    for request in requests:
        if not request.is_over:
            await request.commit(expected, ends=True)
    for release in releases:
        await _check(shops, release, key, expected, begun_by_newer)


async def _check(
    shops: Shops, release: Release, key: str, expected: Expected, begun_by_newer: bool
) -> None:
    async with shops.provider(release.model, on_invalid="raise").open(key) as session:
        data = session.data
        assert names_of(data, len(release.kinds)) == expected.names
        assert data.hits == expected.hits
        if release.is_newer:
            assert data.added == (["kept"] if begun_by_newer else [])
        for place, kind in enumerate(release.kinds):
            if kind.has_items and release.is_newer:
                held = getattr(data, f"f{place}")
                for item in held.values() if isinstance(held, dict) else held:
                    assert item.note in ("", item.name[::-1])
