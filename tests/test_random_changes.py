"""Requests that overlap, with random edits of a model that has fields of many kinds."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel
from typing_extensions import TypedDict

from tests.generated import cases
from tests.test_merged_sessions import Shops


class Typed(TypedDict, total=False):
    names: list[str]
    tags: set[str]


class Pair(NamedTuple):
    one: int = 0
    other: int = 0


@dataclass
class Part:
    names: list[str] = field(default_factory=list[str])


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    names: list[str] = []


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    names: list[str] = []


class Root(RootModel[dict[str, int]]):
    root: dict[str, int] = {}


class Tree(BaseModel):
    names: list[str] = []
    children: list["Tree"] = []


class Everything(BaseModel):
    """A field of each kind, and where in it a request can add a name."""

    model_config = ConfigDict(extra="allow")
    names: list[str] = []
    tags: set[str] = set()
    queue: deque[str] = deque()
    counter: Counter[str] = Counter()
    typed: Typed = Typed()
    pair: Pair = Pair()
    part: Part = Part()
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    root: Root = Root()
    tree: Tree = Tree()
    lower: Annotated[list[str], AfterValidator(lambda names: [each.lower() for each in names])] = []
    free: Any = {}
    aliased: dict[str, int] = Field({}, alias="otherwise")


# how a request adds a name of its own to the data
ADD: dict[str, Callable[[Any, str], Any]] = {
    "list": lambda data, name: data.names.append(name),
    "set": lambda data, name: data.tags.add(name),
    "deque": lambda data, name: data.queue.append(name),
    "Counter": lambda data, name: data.counter.update([name]),
    "TypedDict, list": lambda data, name: data.typed.setdefault("names", []).append(name),
    "TypedDict, set": lambda data, name: data.typed.setdefault("tags", set()).add(name),
    "dataclass": lambda data, name: data.part.names.append(name),
    "union": lambda data, name: data.pet.names.append(name),
    "RootModel": lambda data, name: data.root.root.update({name: 1}),
    "tree": lambda data, name: data.tree.names.append(name),
    "normalizing": lambda data, name: data.lower.append(name.upper()),
    "Any": lambda data, name: data.free.update({name: [1, None]}),
    "alias": lambda data, name: data.aliased.update({name: 1}),
    "extra": lambda data, name: setattr(data, name, {"a": [1]}),
}
KINDS = st.lists(st.sampled_from(sorted(ADD)), min_size=1, max_size=4)


@cases(60)
@given(requests=st.lists(KINDS, min_size=2, max_size=3), commits=st.booleans())
def test_every_acknowledged_addition_is_stored_once(
    requests: list[list[str]], commits: bool
) -> None:
    """Whichever requests overlap; after a commit in between, the data is what is stored."""
    asyncio.run(_overlap(requests, commits))


async def _overlap(requests: list[list[str]], commits: bool) -> None:
    shops = Shops()
    key = await shops.begin(Everything(typed={"names": [], "tags": set()}))
    get_session = shops.provider(Everything, on_conflict="raise")

    async def run(place: int) -> None:
        if place == len(requests):
            return
        async with get_session.open(key) as session:
            await run(place + 1)  # those that come later end first
            half = len(requests[place]) // 2
            for number, kind in enumerate(requests[place]):
                if number == half and commits:
                    await session.commit()
                ADD[kind](session.data, f"x{place}y{number}z")

    await run(0)
    async with get_session.open(key) as session:
        written = session.data.model_dump_json(by_alias=False)
    for place, kinds in enumerate(requests):
        for number in range(len(kinds)):
            assert written.count(f"x{place}y{number}z") == 1
