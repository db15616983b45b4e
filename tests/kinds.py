"""Fields of every kind that holds names, and how a route edits them.

A name is text that is unique in a test and says to which field it belongs. So whatever a kind looks
like in JSON, it shows there which names a field has.
"""

import enum
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    RootModel,
    WrapValidator,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from fastapi_async_sessions import Additive

_NAME = re.compile(r"q\d+x[0-9a-z]+z")


def name_of(place: int, maker: str, number: int) -> str:
    """A name in the field at this place."""
    return f"q{place}x{maker}n{number}z"


def names_in(json: str) -> list[str]:
    """All names in a text, as often as they are there."""
    return _NAME.findall(json.lower())


class Item(BaseModel):
    """An item of a list, as the older release knows it."""

    name: str = ""


class NewerItem(Item):
    note: str = ""


class Typed(TypedDict, total=False):
    names: list[str]
    tags: set[str]


class Named(NamedTuple):
    names: list[str]
    other: int = 0


@dataclass
class Part:
    names: list[str] = field(default_factory=list[str])


@pydantic_dataclass
class CheckedPart:
    names: list[str] = field(default_factory=list[str])


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    names: list[str] = []


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    names: set[str] = set()


class RootDict(RootModel[dict[str, int]]):
    root: dict[str, int] = {}


class RootList(RootModel[list[str]]):
    root: list[str] = []


class Tree(BaseModel):
    names: list[str] = []
    children: list["Tree"] = []


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    names: tuple[str, ...] = ()


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Counted(BaseModel):
    names: list[str] = []
    _seen: int = PrivateAttr(default=0)

    @computed_field
    def size(self) -> int:
        return len(self.names)


class Reshaped(BaseModel):
    """Writes itself as another object than its fields are."""

    names: list[str] = []

    @model_serializer
    def write(self) -> dict[str, Any]:
        return {"all": dict.fromkeys(self.names, True)}

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any) -> Any:
        return (
            {"names": list(value["all"])} if isinstance(value, dict) and "all" in value else value
        )


class Spelled(BaseModel):
    """Writes one of its fields in upper case, and reads it in lower case."""

    names: list[str] = []

    @field_serializer("names")
    def write(self, names: list[str]) -> list[str]:
        return [name.upper() for name in names]

    @field_validator("names", mode="after")
    @classmethod
    def read(cls, names: list[str]) -> list[str]:
        return [name.lower() for name in names]


class Kind(NamedTuple):
    """A kind of field.

    Attributes:
        annotation: Its type, given the class of items.
        make: Its value with these items.
        held: What in the value a route changes in place; None: a route replaces the value.
        has_items: Whether it holds items instead of text.
    """

    annotation: Callable[[type[Item]], Any]
    make: Callable[[list[Any]], Any]
    held: Callable[[Any], Any] | None = lambda value: value
    has_items: bool = False


def _split(value: Any) -> Any:
    return [each for each in value.split(",") if each] if isinstance(value, str) else value


def _ones(names: Iterable[str]) -> dict[str, int]:
    return dict.fromkeys(names, 1)


def _of(annotation: Any, *metadata: Any) -> Callable[[type[Item]], Any]:
    return lambda _: Annotated[annotation, *metadata] if metadata else annotation  # type: ignore[return-value]


KINDS: dict[str, Kind] = {
    "list": Kind(_of(list[str]), list),
    "optional list": Kind(_of(list[str] | None), list),
    "set": Kind(_of(set[str]), set),
    "frozenset": Kind(_of(frozenset[str]), frozenset, None),
    "deque": Kind(_of(deque[str]), deque),
    "tuple": Kind(_of(tuple[str, ...]), tuple, None),
    "Counter": Kind(_of(Counter[str]), Counter),
    "dict": Kind(_of(dict[str, int]), _ones),
    "dict of sums": Kind(_of(dict[str, Annotated[int, Additive]]), _ones),
    "dict of lists": Kind(_of(dict[str, list[int]]), lambda names: {name: [1] for name in names}),
    "list in a TypedDict": Kind(
        _of(Typed), lambda names: {"names": names, "tags": {"b", "a"}}, lambda value: value["names"]
    ),
    "set in a TypedDict": Kind(
        _of(Typed), lambda names: {"names": ["b", "a"], "tags": set(names)}, lambda v: v["tags"]
    ),
    "dataclass": Kind(_of(Part), Part, lambda value: value.names),
    "pydantic's dataclass": Kind(_of(CheckedPart), CheckedPart, lambda value: value.names),
    "NamedTuple": Kind(_of(Named), Named, lambda value: value.names),
    "discriminated union, list": Kind(
        _of(Cat | Dog, Field(discriminator="kind")),
        lambda names: Cat(names=names),
        lambda value: value.names,
    ),
    "discriminated union, set": Kind(
        _of(Cat | Dog, Field(discriminator="kind")),
        lambda names: Dog(names=set(names)),
        lambda value: value.names,
    ),
    "union, list": Kind(_of(list[str] | dict[str, int]), list),
    "union, dict": Kind(_of(list[str] | dict[str, int]), _ones),
    "RootModel of a dict": Kind(
        _of(RootDict), lambda names: RootDict(_ones(names)), lambda value: value.root
    ),
    "RootModel of a list": Kind(_of(RootList), RootList, lambda value: value.root),
    "tree": Kind(
        _of(Tree),
        lambda names: Tree(children=[Tree(), Tree(names=names)]),
        lambda value: value.children[1].names,
    ),
    "generic": Kind(
        _of(Box[list[str]]), lambda names: Box[list[str]](content=names), lambda v: v.content
    ),
    "after validator": Kind(_of(list[str], AfterValidator(lambda names: [*names])), list),
    "sorting validator": Kind(_of(list[str], AfterValidator(sorted)), list),
    "before validator": Kind(_of(list[str], BeforeValidator(lambda names: [*names])), list),
    "wrap validator": Kind(
        _of(list[str], WrapValidator(lambda names, handler: handler(names))), list
    ),
    "plain validator": Kind(_of(list[str], PlainValidator(lambda names: [*names])), list),
    "joined": Kind(_of(list[str], BeforeValidator(_split), PlainSerializer(",".join)), list),
    "model that writes itself": Kind(
        _of(Reshaped), lambda names: Reshaped(names=names), lambda value: value.names
    ),
    "field that writes itself": Kind(
        _of(Spelled), lambda names: Spelled(names=names), lambda value: value.names
    ),
    "list in an Any": Kind(_of(Any), list),
    "dict in an Any": Kind(_of(Any), _ones),
    "alias": Kind(_of(list[str], Field(alias="otherwise")), list),
    "enum as a key": Kind(
        _of(dict[Color, list[str]]), lambda names: {Color.RED: names}, lambda v: v[Color.RED]
    ),
    "frozen": Kind(_of(Frozen), lambda names: Frozen(names=tuple(names)), None),
    "extras of a nested model": Kind(
        _of(Open), lambda names: Open(**_ones(names)), lambda value: value.__pydantic_extra__
    ),
    "computed and private": Kind(
        _of(Counted), lambda names: Counted(names=names), lambda value: value.names
    ),
    "list of models": Kind(lambda item: list[item], list, has_items=True),  # type: ignore[valid-type]
    "dict of models": Kind(
        lambda item: dict[str, item],  # type: ignore[valid-type]
        lambda items: {item.name[::-1]: item for item in items},
        has_items=True,
    ),
}
EXTRA = Kind(_of(Any), list)
"""A field that no release declares: an extra of the whole model."""


class Plain(BaseModel):
    hits: Annotated[int, Additive] = 0


class Allowing(Plain):
    model_config = ConfigDict(extra="allow")


class Checked(Plain):
    model_config = ConfigDict(validate_assignment=True)

    @model_validator(mode="after")
    def check(self) -> "Checked":
        return self


class Private(Plain):
    _private: list[str] = PrivateAttr(default_factory=list)


class Wrapped(Plain):
    """Writes itself as an object within another one."""

    @model_serializer(mode="wrap")
    def write(self, handler: Any) -> dict[str, Any]:
        return {"v": handler(self)}

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any) -> Any:
        return value["v"] if isinstance(value, dict) and "v" in value else value


BASES = [Plain, Allowing, Checked, Private, Wrapped]


def edit(data: Any, attribute: str, kind: Kind, how: int, item: Any) -> None:
    """Add an item to a field, or remove, move or replace some: there are ten ways."""
    value = getattr(data, attribute, None)
    if value is None:  # an extra that is not there yet
        setattr(data, attribute, [item])
        return
    if kind.held is None:
        items = list(value if isinstance(value, tuple | frozenset) else value.names)
        _edit_list(items, item, how, kind)
        setattr(data, attribute, kind.make(items))
        return
    held = kind.held(value)
    if isinstance(held, dict):
        _edit_dict(held, kind.held(kind.make([item])), how)
    elif isinstance(held, set):
        _edit_set(held, item, how)
    else:
        _edit_list(held, item, how, kind)


def _edit_list(items: Any, item: Any, how: int, kind: Kind) -> None:
    match how:
        case 2 | 3 if items:
            del items[how % len(items)]
        case 4:
            items.insert(0, item)
        case 5:
            items.reverse()
        case 6 if items and not kind.has_items:
            items[-1] = item  # an item in the very place of another takes over its unknown fields
        case 7:
            items.clear()
        case _:
            items.append(item)


def _edit_dict(items: Any, added: Any, how: int) -> None:
    match how:
        case 2 | 3 if items:
            del items[sorted(items)[how % len(items)]]
        case 7:
            items.clear()
        case _:
            items.update(added)


def _edit_set(items: Any, name: str, how: int) -> None:
    match how:
        case 2 | 3 if items:
            items.remove(sorted(items)[how % len(items)])
        case 7:
            items.clear()
        case _:
            items.add(name)
