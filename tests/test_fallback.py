"""``on_invalid="fallback"``: a part that this release cannot read has its default, and stays."""

import asyncio
import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from fastapi_async_sessions import SessionConflict, Store
from fastapi_async_sessions._core.merge import PLAIN
from fastapi_async_sessions._core.unread import remove, restored, stripped
from fastapi_async_sessions.testing import FrozenClock
from tests.apps import json_of
from tests.doubles import SpyStore
from tests.races import Client, provider_without_timeouts
from tests.test_additive import any_store
from tests.test_merged_sessions import Shops, shops

__all__ = ["any_store", "shops"]  # fixtures


class OldRow(BaseModel):
    name: str = ""


class OldPart(BaseModel):
    mode: Literal["a", "b"] = "a"
    size: int = 0


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: int = 0


class Old(BaseModel):
    """What the older release knows."""

    model_config = ConfigDict(extra="forbid")
    theme: Literal["light", "dark"] = "light"
    count: int = 0
    banned: bool = False
    part: OldPart = OldPart()
    rows: list[OldRow] = []
    prices: dict[str, int] = {}
    pet: Cat | Dog = Cat()
    tagged: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()


class Row(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: Any = ""


class Part(BaseModel):
    mode: str = "a"
    size: Any = 0


class New(BaseModel):
    """What the newer release made of it."""

    theme: str = "light"
    count: Any = 0
    banned: bool = False
    part: Part = Part()
    rows: list[Row] = []
    prices: dict[str, Any] = {}
    pet: dict[str, Any] = {"kind": "cat", "lives": 9}
    tagged: dict[str, Any] = {"kind": "cat", "lives": 9}
    added: str = ""


# what the newer release stored, and what of it the older one cannot read
UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a new value": ({"theme": "blue"}, "theme"),
    "another type": ({"count": "many"}, "count"),
    "a nested value": ({"part": {"mode": "c", "size": 3}}, "part.mode"),
    "two of them": ({"theme": "blue", "part": {"mode": "a", "size": "x"}}, "theme, part.size"),
    "a list": ({"rows": [{"name": "x"}, {"name": 1}]}, "rows.*.name"),
    "a dict": ({"prices": {"secret": "x", "b": 1}}, "prices.*"),
    "a choice": ({"tagged": {"kind": "bird"}}, "tagged"),
    "a forbidden key": ({"added": "secret"}, "data"),
}


async def stored_json(shops: Shops, key: str) -> Any:
    record = await shops.store.load(key)
    assert record is not None
    return json.loads(json_of(shops.provider(), key, record))


@pytest.mark.parametrize(("values", "fields"), UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_the_session_lives_on_and_keeps_what_it_cannot_read(
    shops: Shops, values: dict[str, Any], fields: str
) -> None:
    """With its subject; another change leaves the part as it is stored, and one event tells."""
    key = await shops.begin(New(banned=True, **values))
    before = await stored_json(shops, key)
    events: list[Any] = []
    get_session = shops.provider(Old, on_event=events.append)
    for _ in range(2):
        async with get_session.open(key) as session:
            assert session.subject == "ada"
            assert session.data.banned
            session.data.part.size += 1
    told = [event.facts["fields"] for event in events if event.kind == "unreadable"]
    assert "secret" not in repr(events)
    assert len(told) == len(set(told))
    assert set(fields.split(", ")) <= set(told[0].split(", "))
    after = await stored_json(shops, key)
    size = before["part"].pop("size")
    assert after["part"].pop("size") == (size if isinstance(size, int) else 0) + 2
    assert after == before


async def test_the_innermost_value_with_a_default_falls_back(shops: Shops) -> None:
    """A list or a dict does as a whole, and so does what is one of several models."""
    key = await shops.begin(
        New(
            part=Part(mode="c", size=3),
            rows=[Row(name="x"), Row(name=1)],
            prices={"a": 1, "b": "x"},
            pet={"kind": "bird", "lives": 1},
        )
    )
    async with shops.provider(Old).open(key) as session:
        assert session.data == Old(part=OldPart(mode="a", size=3))


async def test_a_forbidden_key_in_a_list_is_ignored_there(shops: Shops) -> None:
    """The item is read without it, and keeps it in the store."""

    class ClosedRow(OldRow):
        model_config = ConfigDict(extra="forbid")

    class Closed(BaseModel):
        rows: list[ClosedRow] = []

    key = await shops.begin(New(rows=[Row(name="a", note=1), Row(name="b", note=2)]))
    async with shops.provider(Closed).open(key) as session:
        assert session.data == Closed(rows=[ClosedRow(name="a"), ClosedRow(name="b")])
        session.data.rows.pop(0)
        session.data.rows.append(ClosedRow(name="c"))
    assert (await stored_json(shops, key))["rows"] == [{"name": "b", "note": 2}, {"name": "c"}]


@pytest.mark.parametrize("value", ["light", "dark"], ids=["the very default", "another value"])
@pytest.mark.parametrize("is_whole", [False, True], ids=["the field", "session.data"])
async def test_an_assigned_value_replaces_the_stored_one(
    shops: Shops, value: Any, is_whole: bool
) -> None:
    """An assignment of the default counts."""
    key = await shops.begin(New(theme="blue", count=1))
    async with shops.provider(Old).open(key) as session:
        if is_whole:
            session.data = Old(theme=value, count=1)
        else:
            session.data.theme = value
        await session.commit()
        session.data.count = 2
    assert (await stored_json(shops, key))["theme"] == value
    assert (await stored_json(shops, key))["count"] == 2


async def test_a_nested_value_is_assigned_with_the_model_that_holds_it(shops: Shops) -> None:
    """Or by itself."""
    for change in (
        lambda data: setattr(data, "part", OldPart()),
        lambda data: setattr(data.part, "mode", "a"),
    ):
        key = await shops.begin(New(part=Part(mode="c")))
        async with shops.provider(Old).open(key) as session:
            change(session.data)
        assert (await stored_json(shops, key))["part"]["mode"] == "a"


async def test_reading_writes_nothing(shops: Shops) -> None:
    """Neither does a renewal or an extension change what cannot be read."""
    key = await shops.begin(New(theme="blue", added="x"))
    before = await shops.store.load(key)
    get_session = shops.provider(Old)
    async with get_session.open(key) as session:
        assert session.data.theme == "light"
    assert await shops.store.load(key) == before


# two releases at the same time


async def test_an_older_and_a_newer_release_write_in_turn(shops: Shops) -> None:
    """A rolling deployment: neither loses what the other one wrote, and nobody is signed out."""
    key = await shops.begin(Old())
    old, new = shops.provider(Old), shops.provider(New)
    for turn in range(1, 4):
        async with new.open(key) as session:
            assert session.data.part.size == turn - 1
            session.data.theme, session.data.added = "blue", f"turn {turn}"
        async with old.open(key) as session:
            assert (session.subject, session.data.theme) == ("ada", "light")
            session.data.part.size = turn
    assert (await stored_json(shops, key))["theme"] == "blue"
    async with new.open(key) as session:
        assert (session.data.theme, session.data.added) == ("blue", "turn 3")


async def test_a_part_that_only_theirs_cannot_be_read_counts_as_changed_by_them(
    shops: Shops,
) -> None:
    """It stays stored; where we changed it too, that is a conflict."""
    key = await shops.begin(Old())
    old, new = shops.provider(Old, on_conflict="raise"), shops.provider(New)
    async with old.open(key) as ours:
        async with new.open(key) as theirs:
            theirs.data.theme = "blue"
        ours.data.count = 1
        await ours.commit()
        assert (ours.data.theme, ours.data.count) == ("light", 1)
        ours.data.count = 2
    assert {"theme": "blue", "count": 2}.items() <= (await stored_json(shops, key)).items()
    async with old.open(key) as ours:
        async with new.open(key) as theirs:
            theirs.data.theme = "green"
        ours.data.theme = "dark"
        with pytest.raises(SessionConflict) as raised:
            await ours.commit()
        await ours.reload()
    assert raised.value.fields == ("theme",)
    assert (await stored_json(shops, key))["theme"] == "green"


async def test_an_assignment_over_what_nobody_changed_meanwhile_is_no_conflict(
    shops: Shops,
) -> None:
    """Though another request changed something else."""
    key = await shops.begin(New(theme="blue"))
    old = shops.provider(Old, on_conflict="raise")
    async with old.open(key) as ours:
        async with old.open(key) as theirs:
            theirs.data.count = 5
        ours.data.theme = "light"
        await ours.commit()
        assert ours.data.count == 5
    assert {"theme": "light", "count": 5}.items() <= (await stored_json(shops, key)).items()


async def test_a_request_of_the_browser_keeps_its_cookie(shops: Shops) -> None:
    """Nobody is signed out by a deployment."""
    client = Client(shops.provider(New))
    await client.sign_in()

    async def change(session: Any) -> None:
        session.data.theme = "blue"

    await client.request(change)
    cookie = client.cookie
    client.provider = shops.provider(Old)
    assert await client.is_live()
    assert client.cookie == cookie


# what no field tells


class Both(BaseModel):
    low: int = 0
    high: int = 10
    banned: bool = False
    note: str = ""

    @model_validator(mode="after")
    def check(self) -> "Both":
        if self.low > self.high:
            raise ValueError("low is higher than high")
        return self


class Loose(BaseModel):
    low: Any = 0
    high: Any = 10
    banned: bool = False
    note: str = ""


async def test_an_unreadable_neighbour_does_not_lift_a_restriction(shops: Shops) -> None:
    """What a user makes unreadable has its default, and nothing beside it."""
    for values in ({"low": "x"}, {"high": [1]}, {"low": "x", "high": "y"}):
        key = await shops.begin(Loose(banned=True, **values))
        async with shops.provider(Both).open(key) as session:
            assert session.data.banned


async def test_where_the_whole_does_not_validate_only_assigned_fields_are_written(
    shops: Shops,
) -> None:
    """The data begins anew in this request; the rest stays as it is stored."""
    key = await shops.begin(Loose(low=8, high=5, banned=True, note="kept"))
    async with shops.provider(Both).open(key) as session:
        assert session.data == Both()
        session.data.low = 0
    assert (
        await stored_json(shops, key) == Loose(low=0, high=5, banned=True, note="kept").model_dump()
    )
    async with shops.provider(Both).open(key) as session:
        assert session.data == Both(high=5, banned=True, note="kept")


class Guarded(BaseModel):
    name: str = ""
    other: int = 0

    @model_validator(mode="before")
    @classmethod
    def check(cls, values: Any) -> Any:
        if values and not values.get("name", "x").islower():
            raise ValueError("not lower")
        return values


async def test_where_an_error_names_no_place_each_field_is_tried_alone(shops: Shops) -> None:
    """So only the one that is refused falls back."""

    class Unguarded(BaseModel):
        name: str = ""
        other: int = 0

    key = await shops.begin(Unguarded(name="ADA", other=3))
    async with shops.provider(Guarded).open(key) as session:
        assert session.data.model_dump() == {"name": "", "other": 3}
        session.data.other = 4
    assert await stored_json(shops, key) == {"name": "ADA", "other": 4}


class Range(BaseModel):
    theme: Literal["light"] = "light"
    low: int = 0
    high: int = 10
    count: int = 0

    @model_validator(mode="after")
    def check(self) -> "Range":
        if self.low > self.high:
            raise ValueError("empty")
        return self


async def test_errors_that_show_one_after_another_are_all_found(shops: Shops) -> None:
    """The whole is checked only where each field is valid."""

    class Unchecked(BaseModel):
        theme: str = "light"
        low: int = 0
        high: int = 10
        count: int = 0

    key = await shops.begin(Unchecked(theme="blue", low=20, high=5))
    async with shops.provider(Range).open(key) as session:
        assert session.data == Range(high=5)
        session.data.count = 1
    stored = Unchecked(theme="blue", low=20, high=5, count=1).model_dump()
    assert await stored_json(shops, key) == stored
    async with shops.provider(Range).open(key) as session:
        session.data.theme = "light"
    assert await stored_json(shops, key) == {**stored, "theme": "light"}


class Numbers(RootModel[dict[str, int]]):
    root: dict[str, int] = {}


class Texts(RootModel[dict[str, str]]):
    root: dict[str, str] = {}


async def test_a_root_model_falls_back_as_a_whole(shops: Shops) -> None:
    """It is kept until something is assigned."""
    key = await shops.begin(Texts({"a": "x"}))
    async with shops.provider(Numbers).open(key) as session:
        assert session.data == Numbers({})
    assert await stored_json(shops, key) == {"a": "x"}


class Digits(RootModel[list[int]]):
    root: list[int] = []


class Words(RootModel[list[str]]):
    root: list[str] = []


async def test_so_does_one_whose_json_is_no_object(shops: Shops) -> None:
    """The session lives on, and an assigned value replaces what is stored."""
    key = await shops.begin(Words(["x"]))
    for digits in ([], [1]):
        async with shops.provider(Digits).open(key) as session:
            assert (session.subject, session.data) == ("ada", Digits([]))
            session.data.root.extend(digits)
        assert await stored_json(shops, key) == (digits or ["x"])


async def test_a_root_that_cannot_be_read_is_kept_as_another_request_left_it(
    shops: Shops,
) -> None:
    """Where this request only renews its token."""
    words = shops.provider(Words)
    client = Client(words)
    key = await client.sign_in()
    async with words.open(key) as session:
        session.data.root = ["x"]
    client.provider = shops.provider(Digits)

    async def renew(session: Any) -> Any:
        assert session.data == Digits([])
        async with words.open(key) as theirs:
            theirs.data.root.append("y")
        session.renew()
        await session.commit()
        return session.data

    assert (await client.request(renew)).value == Digits([])
    assert await stored_json(shops, key) == ["x", "y"]


def test_a_part_whose_holder_is_gone_is_neither_restored_nor_removed() -> None:
    """There is nothing left to hold it."""
    path = ("part", "inner", "mode")
    for values in ({}, {"part": None}, {"part": [1]}):
        kept = json.loads(json.dumps(values))
        assert restored(kept, {path: "c"}) == values
        remove(kept, [path])
        assert kept == values


def test_a_part_that_was_given_another_value_is_read() -> None:
    """Only what is still stored as it was is left out."""
    assert stripped(
        {"theme": "red", "count": "x"}, {("theme",): "blue", ("count",): "x"}, PLAIN
    ) == {"theme": "red"}


# workers of two releases, over each store


class OldWork(BaseModel):
    model_config = ConfigDict(extra="forbid")
    theme: Literal["light", "dark"] = "light"
    level: int = 0
    seen: list[str] = []


class NewWork(BaseModel):
    theme: str = "light"
    level: str = "none"
    seen: list[str] = []
    added: str = ""


async def test_workers_of_two_releases_share_a_session_over_each_store(
    any_store: Store, clock: FrozenClock
) -> None:
    """In either direction: what one cannot read stays stored while it writes, also at once."""
    old, new = (
        provider_without_timeouts(SpyStore(any_store), clock, model, on_conflict="raise")
        for model in (OldWork, NewWork)
    )
    client = Client(old)
    key = await client.sign_in()
    async with old.open(key) as session:
        session.data.level = 1
    async with new.open(key) as session:
        assert session.data.level == "none"
        session.data.theme, session.data.added = "blue", "kept"

    async def visit(number: int) -> None:
        worker = Client((old, new)[number % 2], client.cookie)

        async def route(session: Any) -> None:
            assert session.subject == "ada"
            session.data.seen.append(str(number))

        assert (await worker.request(route)).is_ok

    await asyncio.gather(*map(visit, range(10)))
    async with old.open(key) as session:
        assert (session.data.theme, session.data.level) == ("light", 1)
        assert sorted(session.data.seen, key=int) == [str(number) for number in range(10)]
    async with new.open(key) as session:
        assert (session.data.theme, session.data.added) == ("blue", "kept")
        session.data.level = "high"
    async with old.open(key) as session:
        assert session.data.level == 0
        session.data.seen.clear()
    async with new.open(key) as session:
        assert (session.data.level, session.data.seen) == ("high", [])
