"""What a change is: a difference in what is written, whatever Python's ``==`` says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer

from tests.doubles import SpyStore
from tests.races import provider_without_timeouts
from tests.test_merged_sessions import Shops, shops

__all__ = ["shops"]  # a fixture


class Product(BaseModel):
    """Equal to any other of its id."""

    id: int = 1
    price: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Product) and self.id == other.id

    def __hash__(self) -> int:
        return self.id


@dataclass
class Note:
    text: str = ""
    color: str = field(default="", compare=False)


class Everything(BaseModel):
    any: Any = None
    pair: tuple[bool | int | float, ...] = ()
    product: Product | None = None
    products: list[Product] = []
    note: Note | None = None
    tags: set[str] = set()
    lists: list[str] = []
    by_name: dict[str, int] = {}


def swap(data: Everything) -> None:
    data.any["a"], data.any["b"] = data.any["b"], data.any["a"]


def set_item(items: Any, place: Any, item: Any) -> None:
    items[place] = item


# how a session begins, and a change of it that == does not see
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "1 and True swapped": (lambda: {"any": {"a": 1, "b": True}}, swap),
    "0 and False swapped": (lambda: {"any": {"a": 0, "b": False}}, swap),
    "1 and 1.0 swapped": (lambda: {"any": {"a": 1, "b": 1.0}}, swap),
    "1 to True": (lambda: {"any": [1]}, lambda data: set_item(data.any, 0, True)),
    "1 to 1.0": (lambda: {"pair": (1, 2)}, lambda data: setattr(data, "pair", (1.0, 2))),
    "0.0 to -0.0": (lambda: {"any": 0.0}, lambda data: setattr(data, "any", -0.0)),
    "an entity": (
        lambda: {"product": Product(price=12)},
        lambda data: setattr(data.product, "price", 21),
    ),
    "an entity in a list": (
        lambda: {"products": [Product(price=12)]},
        lambda data: setattr(data.products[0], "price", 21),
    ),
    "a field that is not compared": (
        lambda: {"note": Note(color="ab")},
        lambda data: setattr(data.note, "color", "ba"),
    ),
    "a list in Any reversed": (
        lambda: {"any": {"a": ["x", "y"]}},
        lambda data: data.any["a"].reverse(),
    ),
    "a list reversed": (lambda: {"lists": ["a", "b"]}, lambda data: data.lists.reverse()),
}


@pytest.mark.parametrize(("begin", "change"), CHANGES.values(), ids=CHANGES.keys())
async def test_a_change_that_equality_does_not_see_is_stored(
    shops: Shops, begin: Callable[[], Any], change: Callable[[Any], Any]
) -> None:
    """Also where the JSON has the same bytes in another order."""
    key = await shops.begin(Everything(**begin()))
    get_session = shops.provider(Everything)
    async with get_session.open(key) as session:
        before = session.data.model_dump_json()
        change(session.data)
        after = session.data.model_dump_json()
    async with get_session.open(key) as session:
        assert before != session.data.model_dump_json() == after


async def test_what_is_written_alike_is_no_change(shops: Shops) -> None:
    """A set in another order; a tuple for a list where the model does not tell them apart."""
    tags = {f"tag {number}" for number in range(50)}
    key = await shops.begin(Everything(tags=tags, any=[1, 2]))
    store = SpyStore(shops.store)
    get_session = provider_without_timeouts(store, shops.clock, Everything)
    async with get_session.open(key) as session:
        session.data.tags = {*sorted(tags, reverse=True)}
        session.data.any = (1, 2)
    assert store.writes == []


SCALE = [1]


class Scaled(BaseModel):
    """Writes itself by a setting of the application."""

    size: int = 1

    @field_serializer("size")
    def write(self, size: int) -> int:
        return size * SCALE[0]


async def test_a_model_that_begins_to_write_itself_otherwise_is_not_changed_by_that(
    shops: Shops,
) -> None:
    """What a route leaves as it was is no change, also if the same bytes were read before."""
    key = await shops.begin(Scaled(size=2))
    get_session = shops.provider(Scaled)
    before = await shops.store.load(key)
    try:
        for scale in (1, 3):
            SCALE[0] = scale
            async with get_session.open(key) as session:
                assert session.data.size == 2
    finally:
        SCALE[0] = 1
    assert await shops.store.load(key) == before
