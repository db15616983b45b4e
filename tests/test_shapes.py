"""What a model knows of its JSON: sets, tuples, and numbers that add up."""

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, RootModel, TypeAdapter
from pydantic import dataclasses as pydantic_dataclasses
from pydantic_core import core_schema
from typing_extensions import TypeAliasType, TypedDict

from fastapi_async_sessions._core.merge import Shape, is_same, merge
from fastapi_async_sessions._core.shapes import Additive, shape_of
from fastapi_async_sessions.errors import ConfigurationError

Item = TypeVar("Item")
Count = Annotated[int, Additive]


class Tagged(BaseModel):
    tags: set[str] = set()
    names: list[str] = []


class Typed(TypedDict):
    names: list[str]
    tags: NotRequired[set[str]]


class Named(NamedTuple):
    names: list[str]
    tags: frozenset[str]


@dataclass
class Plain:
    tags: set[str] = field(default_factory=set[str])
    names: tuple[str, ...] = ()


@pydantic_dataclasses.dataclass
class Validated(Plain):
    pass


class Box(BaseModel, Generic[Item]):
    item: Item | None = None


class Tree(BaseModel):
    tags: set[str] = set()
    children: list["Tree"] = []
    by_name: dict[str, "Tree"] = {}
    parent: "Tree | None" = None


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    tags: set[str] = set()
    toys: list[str] = []


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tags: set[str] = set()
    toys: set[str] = set()


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, set[int]] = Field(init=False)
    tags: list[int] = []


class Called:
    """A pair that pydantic reads as the arguments of a function."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        parameters = [
            core_schema.arguments_parameter("names", handler.generate_schema(list[str])),
            core_schema.arguments_parameter("tags", handler.generate_schema(set[str])),
        ]
        arguments = core_schema.arguments_schema(parameters)
        return core_schema.call_schema(arguments, lambda names, tags: (names, tags))


class Chained:
    """A set that a second step makes something else of."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        then = core_schema.no_info_plain_validator_function(frozenset)
        return core_schema.chain_schema([handler.generate_schema(set[str]), then])


Strings = TypeAliasType("Strings", "set[str] | dict[str, Strings]")


def shape(kind: Any) -> Shape:
    return shape_of(TypeAdapter(kind).core_schema)


A, B = ["a", "b"], ["b", "a"]

# a type, and two values of it that are the same
SAME: list[tuple[Any, Any, Any]] = [
    (set[str], A, B),
    (frozenset[str] | None, A, B),
    (list[set[str]], [A, B], [B, A]),
    (dict[str, set[str]], {"x": A}, {"x": B}),
    (set[frozenset[str]], [A, ["c"]], [["c"], B]),
    (tuple[list[str], set[str]], [A, A], [A, B]),
    (tuple[set[str], ...], [A, B], [B, B]),
    (Tagged, {"tags": A, "names": A}, {"tags": B, "names": A}),
    (Typed, {"names": A, "tags": A}, {"names": A, "tags": B}),
    (Named, [A, A], [A, B]),
    (Plain, {"tags": A, "names": A}, {"tags": B, "names": A}),
    (Validated, {"tags": A, "names": A}, {"tags": B, "names": A}),
    (Box[set[str]], {"item": A}, {"item": B}),
    (RootModel[dict[str, set[str]]], {"x": A}, {"x": B}),
    (Annotated[set[str], AfterValidator(lambda value: value)], A, B),
    (Annotated[set[str], Field(max_length=3)] | int, A, B),
    (set[str] | dict[str, set[str]], {"x": A}, {"x": B}),
    (Tree, {"tags": A, "children": [{"tags": A}]}, {"tags": B, "children": [{"tags": B}]}),
    (
        Tree,
        {"by_name": {"x": {"parent": {"tags": A}}}},
        {"by_name": {"x": {"parent": {"tags": B}}}},
    ),
    (Cat | Dog, {"kind": "cat", "tags": A}, {"kind": "cat", "tags": B}),
    (
        Annotated[Cat | Dog, Field(discriminator="kind")],
        {"kind": "dog", "tags": A},
        {"kind": "dog", "tags": B},
    ),
    (Open, {"tags": [], "more": [1, 2]}, {"tags": [], "more": [2, 1]}),
    (Strings, {"x": {"y": A}}, {"x": {"y": B}}),
    (Called, [A, A], [A, B]),
    (Chained, A, B),
]


@pytest.mark.parametrize(("kind", "one", "other"), SAME)
def test_the_order_of_a_set_means_nothing(kind: Any, one: Any, other: Any) -> None:
    """Wherever the set is in a model."""
    assert TypeAdapter(kind).validate_json(json.dumps(one)) == TypeAdapter(kind).validate_json(
        json.dumps(other)
    )
    assert is_same(one, other, shape(kind))
    assert not is_same(one, other)


# a type, and two values of it that differ
DIFFERENT: list[tuple[Any, Any, Any]] = [
    (list[str], A, B),
    (deque[str], A, B),
    (tuple[str, str], A, B),
    (Any, A, B),
    (JsonValue, [{"x": A}], [{"x": B}]),
    (set[str] | list[str], A, B),
    (set[str] | Any, A, B),
    (dict[str, set[str]] | dict[str, list[str]], {"x": A}, {"x": B}),
    (Tagged, {"names": A}, {"names": B}),
    (Typed, {"names": A}, {"names": B}),
    (Named, [A, []], [B, []]),
    (Plain, {"names": A}, {"names": B}),
    (tuple[list[str], set[str]], [A, A], [B, A]),
    (Box[list[str]], {"item": A}, {"item": B}),
    (Cat | Dog, {"kind": "cat", "toys": A}, {"kind": "cat", "toys": B}),
    (Cat | dict[str, list[str]], {"tags": A}, {"tags": B}),
    (Open, {"tags": [1, 2]}, {"tags": [2, 1]}),
]


@pytest.mark.parametrize(("kind", "one", "other"), DIFFERENT)
def test_the_order_of_everything_else_counts(kind: Any, one: Any, other: Any) -> None:
    """Of what may be a list as well as a set, too."""
    assert not is_same(one, other, shape(kind))


def test_tuples_of_a_fixed_length_are_told_from_those_of_any() -> None:
    """The first merge as one value, the others as lists."""
    kinds = [tuple[int, int], Named, tuple[int, ...], list[int]]
    assert [shape(kind).kind for kind in kinds] == ["tuple", "tuple", *["plain"] * 2]


# numbers that add up


class Visits(BaseModel):
    count: Annotated[int, Additive, Field(ge=0)] = 0
    bounded: Annotated[float, Field(le=1000), Additive] = 0.0
    checked: Annotated[int, AfterValidator(abs), Additive] = 0
    by_page: dict[str, Count] = {}
    counter: Counter[str] = Counter()
    other: int = 0
    inner: "Visits | None" = None


class Cats(BaseModel):
    kind: Literal["cats"] = "cats"
    count: Count = 0


class Dogs(BaseModel):
    kind: Literal["dogs"] = "dogs"
    count: Count = 0


def test_additive_numbers_add_up_wherever_they_may_stand() -> None:
    """As fields, with bounds and validators, as the values of a dict, and in models within."""
    base = Visits(inner=Visits()).model_dump(mode="json")
    ours = Visits(count=1, bounded=1.5, checked=2, by_page={"a": 1, "b": 1}, inner=Visits(count=2))
    theirs = Visits(count=2, bounded=2, checked=3, by_page={"a": 2}, inner=Visits(count=3))
    merged = merge(
        base, ours.model_dump(mode="json"), theirs.model_dump(mode="json"), shape(Visits)
    )
    assert merged.conflicts == ()
    assert Visits.model_validate(merged.value) == Visits(
        count=3, bounded=3.5, checked=5, by_page={"a": 3, "b": 1}, inner=Visits(count=5)
    )


def test_other_numbers_do_not_add_up() -> None:
    """A number that is only set has one value: the last."""
    base, ours, theirs = ({"other": number, "counter": {"a": number}} for number in (0, 1, 2))
    assert set(merge(base, ours, theirs, shape(Visits)).conflicts) == {"other", "counter.a"}


def test_additive_numbers_of_all_choices_of_a_union_add_up() -> None:
    """Where each choice says so."""
    base, ours, theirs = ({"kind": "cats", "count": number} for number in (1, 2, 3))
    assert merge(base, ours, theirs, shape(Cats | Dogs)) == ({"kind": "cats", "count": 4}, ())


class Rows(BaseModel):
    count: Count = 0


MISPLACED: list[tuple[Any, str]] = [
    (Annotated[bool, Additive], "root"),
    (Annotated[str, Additive], "root"),
    (Annotated[int | None, Additive], "root"),
    (Annotated[list[int], Additive], "root"),
    (dict[str, Count | None], "*"),
    (list[Count], "*"),
    (set[Count], "*"),
    (tuple[int, Count], "1"),
    (list[Rows], "*.count"),
    (dict[str, list[Rows]], "*.*.count"),
    (tuple[Rows, list[Rows]], "0.count"),
    (Cats | Cat | dict[str, int], "count"),
    (Count | str, "root"),
]


@pytest.mark.parametrize(("kind", "path"), MISPLACED)
def test_an_additive_that_could_not_add_up_is_refused(kind: Any, path: str) -> None:
    """The error names the field."""
    with pytest.raises(ConfigurationError) as raised:
        shape(kind)
    assert str(raised.value).startswith(f"{path}: Additive is for an int or a float")


def test_a_class_that_is_fine_in_one_place_is_refused_in_a_list() -> None:
    """Whichever of the two is read first."""

    class Both(BaseModel):
        one: Rows = Rows()
        rows: list[Rows] = []

    with pytest.raises(ConfigurationError, match=r"rows\.\*\.count"):
        shape(Both)
