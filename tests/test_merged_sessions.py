"""What two requests made of the same session at the same time, and two releases of one."""

from functools import cached_property
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from fastapi_async_sessions import Additive, MemoryStore, SessionConflict
from fastapi_async_sessions.testing import FrozenClock
from tests.doubles import SpyStore
from tests.races import Client, provider_without_timeouts


class Basket(TypedDict):
    names: list[str]
    tags: set[str]


class Row(BaseModel):
    name: str


class NewerRow(Row):
    note: str = ""


class Shop(BaseModel):
    basket: Basket = Basket(names=[], tags=set())
    tokens: dict[str, int] = {}
    visits: Annotated[int, Additive] = 0
    by_page: dict[str, Annotated[int, Additive]] = {}
    rows: list[Row] = []


class NewerShop(Shop):
    rows: list[NewerRow] = []  # type: ignore[assignment]


class Shops:
    """One stored session, and providers of its store."""

    def __init__(self) -> None:
        self.clock = FrozenClock()
        self.store = MemoryStore(clock=self.clock)

    def provider(self, model: Any = Shop, **options: Any) -> Any:
        return provider_without_timeouts(SpyStore(self.store), self.clock, model, **options)

    async def begin(self, data: BaseModel) -> str:
        """The key of a session with this data."""

        async def route(session: Any) -> None:
            session.data = data

        client = Client(self.provider(type(data)))
        key = await client.sign_in()
        assert (await client.request(route)).is_ok
        return key


@pytest.fixture
def shops() -> Shops:
    return Shops()


async def test_a_list_beside_a_set_keeps_its_order_in_a_merge(shops: Shops) -> None:
    """Whatever kind of class holds the two."""
    key = await shops.begin(Shop(basket={"names": ["c", "a"], "tags": {"y"}}))
    get_session = shops.provider()
    async with get_session.open(key) as ours:
        async with get_session.open(key) as theirs:
            theirs.data.basket["tags"].add("x")
        ours.data.basket["names"].append("b")
        await ours.commit()
        assert ours.data.basket == {"names": ["c", "a", "b"], "tags": {"x", "y"}}


class Tag(BaseModel, frozen=True):
    name: str

    def __hash__(self) -> int:
        return 0  # so that a set iterates in the order in which it was made


class NewerTag(Tag):
    note: str = ""


class Tagged(BaseModel):
    tags: set[Tag] = set()


class NewerTagged(BaseModel):
    tags: set[NewerTag] = set()


async def test_a_new_item_of_a_set_gets_no_unknown_field_of_the_one_in_its_place(
    shops: Shops,
) -> None:
    """An older release, which does not know the field, puts one in for another."""
    noted = {name: NewerTag(name=name, note=f"of {name}") for name in "abc"}
    key = await shops.begin(NewerTagged(tags=set(noted.values())))
    async with shops.provider(Tagged).open(key) as session:
        session.data.tags = {Tag(name=name) for name in "axc"}
    async with shops.provider(NewerTagged).open(key) as session:
        notes = {tag.name: tag.note for tag in session.data.tags}
    assert notes == {"a": "of a", "x": "", "c": "of c"}


class Turning(BaseModel, frozen=True):
    """Each set of these that is read back has them in another order than it was written."""

    name: str

    def __hash__(self) -> int:
        return 7  # the first in a set of CPython takes its last place, the others come before


class Chosen(BaseModel):
    chosen: set[Turning] | list[int] = []
    nested: list[set[Turning] | list[int]] = []
    seen: int = 0
    visits: Annotated[int, Additive] = 0


def turning(names: str) -> set[Turning]:
    return {Turning(name=name) for name in names}


async def test_a_set_that_is_read_back_in_another_order_was_not_changed_by_another_request(
    shops: Shops,
) -> None:
    """Neither one that this request has stored, nor one that it found, where the field may also
    hold a list, whose order counts."""
    assert [item.name for item in turning("ab")] == ["b", "a"]
    key = await shops.begin(Chosen(chosen=turning("ab"), nested=[turning("ab")]))
    get_session = shops.provider(Chosen, on_conflict="raise")
    async with get_session.open(key) as ours:
        for name in "cd":
            async with get_session.open(key) as theirs:
                theirs.data.visits += 1
            ours.data.chosen.add(Turning(name=name))
            ours.data.nested.append(turning(f"ab{name}"))
            await ours.commit()
    async with get_session.open(key) as session:
        assert session.data.chosen == turning("abcd")
        assert session.data.nested == [turning("ab"), turning("abc"), turning("abd")]


async def test_what_another_request_adds_to_a_set_that_this_one_has_stored_is_kept(
    shops: Shops,
) -> None:
    """It finds the set in another order than this request has it."""
    key = await shops.begin(Chosen())
    get_session = shops.provider(Chosen, on_conflict="raise")
    async with get_session.open(key) as ours:
        ours.data.chosen = turning("abc")
        await ours.commit()
        async with get_session.open(key) as theirs:
            theirs.data.chosen.add(Turning(name="d"))
        ours.data.seen = 1
    async with get_session.open(key) as session:
        assert session.data == Chosen(chosen=turning("abcd"), seen=1)


async def test_a_merge_leaves_a_set_that_it_did_not_change_in_its_order(shops: Shops) -> None:
    """So that it is no conflict with a request that changes the set."""
    key = await shops.begin(Chosen(chosen=turning("abc"), nested=[turning("abc")]))
    get_session = shops.provider(Chosen, on_conflict="raise")
    async with get_session.open(key) as ours:
        async with get_session.open(key) as theirs:
            async with get_session.open(key) as others:
                others.data.visits += 1
            theirs.data.seen = 1
        ours.data.chosen.add(Turning(name="d"))
        ours.data.nested.append(turning("d"))
    async with get_session.open(key) as session:
        assert session.data == Chosen(
            chosen=turning("abcd"), nested=[turning("abc"), turning("d")], seen=1, visits=1
        )


async def test_one_request_alone_takes_a_one_time_token(shops: Shops) -> None:
    """The other one is told of the conflict, and what it did is not stored."""
    key = await shops.begin(Shop(tokens={"once": 1}))
    get_session = shops.provider(on_conflict="raise")
    async with get_session.open(key) as ours:
        async with get_session.open(key) as theirs:
            del theirs.data.tokens["once"]
        del ours.data.tokens["once"]
        with pytest.raises(SessionConflict) as raised:
            await ours.commit()
        await ours.reload()
    assert raised.value.fields == ("tokens.*",)


async def test_requests_that_count_at_the_same_time_add_up(shops: Shops) -> None:
    """A field, and a key that both of them were the first to count."""
    key = await shops.begin(Shop(visits=1))
    get_session = shops.provider(on_conflict="raise")
    async with get_session.open(key) as ours:
        async with get_session.open(key) as theirs:
            theirs.data.visits += 1
            theirs.data.by_page["/"] = 1
        ours.data.visits += 1
        ours.data.by_page["/"] = 1
    async with get_session.open(key) as session:
        assert (session.data.visits, session.data.by_page) == (3, {"/": 2})


class Basketful(BaseModel):
    names: list[str] = []

    @cached_property
    def size(self) -> int:
        return len(self.names)


async def test_a_cached_property_is_found_anew_after_a_merge(shops: Shops) -> None:
    """It was that of the data before."""
    key = await shops.begin(Basketful())
    get_session = shops.provider(Basketful)
    async with get_session.open(key) as ours:
        async with get_session.open(key) as theirs:
            theirs.data.names.append("theirs")
        ours.data.names.append("ours")
        assert ours.data.size == 1
        await ours.commit()
        assert ours.data.size == 2


@pytest.mark.parametrize(
    ("edit", "notes"),
    [
        (lambda rows: rows.insert(0, Row(name="x")), "-abc"),
        (lambda rows: rows.reverse(), "cba"),
        (lambda rows: (rows.pop(0), rows.append(Row(name="x"))), "bc-"),
        (lambda rows: (rows.pop(), rows.append(Row(name="x"))), "ab-"),
        (lambda rows: setattr(rows[1], "name", "B"), "abc"),
    ],
    ids=["put first", "reversed", "first removed, one put last", "last replaced", "edited"],
)
async def test_an_older_release_leaves_the_fields_of_a_newer_one_with_their_rows(
    shops: Shops, edit: Any, notes: str
) -> None:
    """Whatever it does to the list."""
    rows = [NewerRow(name=name, note=name) for name in "abc"]
    key = await shops.begin(NewerShop(rows=rows))
    async with shops.provider(Shop).open(key) as session:
        edit(session.data.rows)
    async with shops.provider(NewerShop).open(key) as session:
        assert "".join(row.note or "-" for row in session.data.rows) == notes
