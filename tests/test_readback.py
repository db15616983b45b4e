"""What the next request would not read as what it is: refused, by name, before it is stored."""

import json
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from inspect import signature
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic_core import PydanticSerializationError, core_schema
from typing_extensions import TypedDict

from fastapi_async_sessions import ConfigurationError, MemoryStore, SessionInvalid
from fastapi_async_sessions._core.codec import Codec
from fastapi_async_sessions._core.models import SessionModel
from fastapi_async_sessions._core.readback import LEAVES, has_same_types, lost_values
from tests.apps import make_provider
from tests.test_merged_sessions import Shops, shops

__all__ = ["shops"]  # a fixture

T = TypeVar("T")


class Animal(BaseModel):
    name: str = ""


class Dog(Animal):
    tricks: list[str] = []


@dataclass
class Place:
    city: str = ""


@dataclass
class Address(Place):
    street: str = ""


class Box(BaseModel, Generic[T]):
    item: T | None = None


class Point(NamedTuple):
    x: int
    y: int


class Typed(TypedDict, total=False):
    at: datetime
    free: Any


class Color(Enum):
    RED = "red"


class Role(StrEnum):
    ADMIN = "admin"


class Level(IntEnum):
    HIGH = 3


class Inner(BaseModel):
    n: int = 0
    free: Any = None


class Site(BaseModel):
    model_config = ConfigDict(extra="allow")
    n: int = 0
    ratio: float | None = None
    text: str = ""
    numbers: list[int] = []
    animal: Animal = Animal()
    animals: list[Animal] = []
    by_name: dict[str, Animal] = {}
    place: Place | None = None
    inner: Inner = Inner()
    typed: Typed = Typed()
    free: Any = None
    entries: dict[str, Any] = {}
    box: Box[Any] = Box[Any]()
    pet: Dog | Animal | None = None
    day: date | None = None
    tags: set[str] = set()
    moments: list[datetime] = []
    queue: deque[int] = deque()
    herd: deque[Animal] = deque()
    point: Point = Point(0, 0)
    color: Color = Color.RED


def set_to(name: str, value: Any) -> Callable[[Site], None]:
    return lambda data: setattr(data, name, value)


NOW = datetime(2026, 1, 1, tzinfo=UTC)

# a change, and what the error says of it
LOST: dict[str, tuple[Callable[[Site], Any], str]] = {
    "a wrong type": (set_to("n", "5-secret"), "n: expected int, got str"),
    "a wrong item": (
        lambda data: data.numbers.extend([1, "5-secret"]),
        "numbers: expected list[int], got list[int | str]",
    ),
    "a wrong nested type": (
        lambda data: setattr(data.inner, "n", "5-secret"),
        "inner.n: expected int, got str",
    ),
    "a wrong type in a model of a dict": (
        lambda data: data.by_name.update(secret=Animal.model_construct(name=5)),
        "by_name.name: expected str, got int",
    ),
    "another model": (set_to("animal", Inner()), "animal: expected Animal, got Inner"),
    "a subclass": (set_to("animal", Dog(name="secret")), "animal: expected Animal, got Dog"),
    "a subclass in a deque": (
        lambda data: data.herd.extend([Animal(), Dog(name="secret")]),
        "herd.*: expected Animal, got Dog",
    ),
    "a subclass in a list": (
        lambda data: data.animals.extend([Animal(), Dog(name="secret")]),
        "animals.*: expected Animal, got Dog",
    ),
    "a subclass in a dict": (
        lambda data: data.by_name.update(secret=Dog()),
        "by_name.*: expected Animal, got Dog",
    ),
    "a dataclass's subclass": (
        set_to("place", Address(street="secret")),
        "place: expected Place, got Address",
    ),
    "a model in Any": (set_to("free", Dog(name="secret")), "free: expected dict, got Dog"),
    "a datetime in Any": (set_to("free", NOW), "free: expected str, got datetime"),
    "a Decimal in Any": (set_to("free", Decimal("1.5")), "free: expected str, got Decimal"),
    "a set in Any": (set_to("free", {"secret"}), "free: expected list, got set"),
    "a tuple in Any": (set_to("free", ("secret",)), "free: expected list, got tuple"),
    "bytes in Any": (set_to("free", b"secret"), "free: expected str, got bytes"),
    "an enum in Any": (set_to("free", Color.RED), "free: expected str, got Color"),
    "a SecretStr in Any": (set_to("free", SecretStr("x")), "free: expected str, got SecretStr"),
    "NaN in Any": (set_to("free", float("nan")), "free: expected NoneType, got float"),
    "infinity in Any": (set_to("free", float("inf")), "free: expected NoneType, got float"),
    "NaN in an optional float": (
        set_to("ratio", float("nan")),
        "ratio: expected NoneType, got float",
    ),
    "a number as a key in Any": (
        set_to("free", {4711: "secret"}),
        "free.*: expected keys of type str, got int",
    ),
    "deep in Any": (
        set_to("free", {"secret": [1, {"secret": NOW}]}),
        "free.*.*.*: expected str, got datetime",
    ),
    "in dict[str, Any]": (
        lambda data: data.entries.update(secret=NOW),
        "entries.*: expected str, got datetime",
    ),
    "in an extra field": (set_to("secret", NOW), "data: expected str, got datetime"),
    "in a nested model": (
        lambda data: setattr(data.inner, "free", NOW),
        "inner.free: expected str, got datetime",
    ),
    "in a TypedDict": (
        lambda data: data.typed.update(free=NOW),
        "typed.free: expected str, got datetime",
    ),
    "in a generic model": (
        lambda data: setattr(data.box, "item", {"secret"}),
        "box.item: expected list, got set",
    ),
}


@pytest.mark.parametrize(("change", "problem"), LOST.values(), ids=LOST.keys())
async def test_a_value_that_would_not_come_back_is_refused(
    shops: Shops, change: Callable[[Site], Any], problem: str
) -> None:
    """The error names the field, both types and no value; nothing is stored."""
    before = Site(text="before", free=1, ratio=1.5)
    key = await shops.begin(before)
    get_session = shops.provider(Site)
    async with get_session.open(key) as session:
        change(session.data)
        with pytest.raises(SessionInvalid) as raised:
            await session.commit()
        await session.reload()
        assert session.data == before
    assert raised.value.problems == (problem,)
    assert raised.value.fields == (problem.partition(":")[0],)
    assert raised.value.__cause__ is raised.value.__context__ is None
    shown = str(raised.value) + repr(raised.value)
    assert problem in shown
    assert re.match(
        r"The session's data (would not be read back as it is|cannot be written)\.",
        raised.value.reason,
    )
    assert "secret" not in shown
    assert "4711" not in shown


async def test_a_subclass_that_is_assigned_to_the_session_is_refused(shops: Shops) -> None:
    """Its own fields would not be stored."""

    class Tricks(Animal):
        tricks: list[str] = []

    key = await shops.begin(Animal(name="rex"))
    with pytest.raises(SessionInvalid, match="data: expected Animal, got Tricks"):
        async with shops.provider(Animal).open(key) as session:
            session.data = Tricks(name="max", tricks=["roll"])


KEPT: dict[str, Callable[[Site], Any]] = {
    "JSON in Any": set_to("free", {"a": [1, 1.5, True, None, "x"]}),
    "a StrEnum in a str": set_to("text", Role.ADMIN),
    "an IntEnum in an int": set_to("n", Level.HIGH),
    "a bool in an int": set_to("n", True),
    "an int in a float": set_to("ratio", 1),
    "a defaultdict": set_to("entries", defaultdict(int, a=1)),
    "an OrderedDict": set_to("entries", OrderedDict(a=1)),
    "a Counter": set_to("entries", Counter("aab")),
    "a subclass that its field names": set_to("pet", Dog(name="rex", tricks=["roll"])),
    "a generic model with parameters": set_to("box", Box[int](item=1)),
    "a date": set_to("day", date(2026, 1, 1)),
    "a set": set_to("tags", {"a", "b"}),
    "datetimes": set_to("moments", [NOW, NOW + timedelta(days=1)]),
    "a deque": set_to("queue", deque([1, 2])),
    "a deque that is bounded anew": set_to("queue", deque([1, 2], maxlen=2)),
    "a NamedTuple": set_to("point", Point(1, 2)),
    "a TypedDict": set_to("typed", Typed(at=NOW)),
    "a dataclass": set_to("place", Place("Oslo")),
}


def written(site: Site) -> dict[str, Any]:
    """The JSON of a site, with the set in one order."""
    values = json.loads(site.model_dump_json())
    return {**values, "tags": sorted(values["tags"])}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT.keys())
async def test_a_value_that_comes_back_is_stored(
    shops: Shops, change: Callable[[Site], Any]
) -> None:
    """There is no false alarm."""
    key = await shops.begin(Site(text="before"))
    get_session = shops.provider(Site)
    async with get_session.open(key) as session:
        change(session.data)
        changed = written(session.data)
    async with get_session.open(key) as session:
        # an int in a float is read as a float, and a True in an int as an int
        assert written(session.data) == changed


def to_moment(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


class Normalizing(BaseModel):
    lower: Annotated[str, AfterValidator(str.lower)] = ""
    ordered: Annotated[list[int | str], AfterValidator(lambda items: sorted(items, key=str))] = []
    unique: Annotated[list[str], AfterValidator(lambda items: list(dict.fromkeys(items)))] = []
    pets: Annotated[
        list[Dog | Inner], AfterValidator(lambda pets: sorted(pets, key=lambda pet: repr(pet)))
    ] = []
    moment: Annotated[Any, BeforeValidator(to_moment)] = None
    frozen: Annotated[Any, AfterValidator(lambda items: tuple(items or ()))] = ()
    price: Annotated[Decimal, PlainSerializer(str)] = Decimal(0)
    keys: dict[str, int] = {}

    @field_validator("keys")
    @classmethod
    def lower_keys(cls, keys: dict[str, int]) -> dict[str, int]:
        return {key.lower(): value for key, value in keys.items()}


NORMALIZED: dict[str, dict[str, Any]] = {
    "text": {"lower": "ADA"},
    "an order": {"ordered": ["b", 1, "a"]},
    "a length": {"unique": ["a", "a"]},
    "an order of types": {"pets": [Inner(n=1), Dog(name="a")]},
    "a type of its own": {"moment": NOW},
    "a list to a tuple": {"frozen": [1, 2]},
    "a serializer": {"price": Decimal("1.5")},
    "keys": {"keys": {"A": 1}},
}


@pytest.mark.parametrize("values", NORMALIZED.values(), ids=NORMALIZED.keys())
async def test_a_validator_that_normalizes_is_no_error(
    shops: Shops, values: dict[str, Any]
) -> None:
    """What it makes of a value is the model's own business."""
    key = await shops.begin(Normalizing())
    get_session = shops.provider(Normalizing)
    async with get_session.open(key) as session:
        for name, value in values.items():
            setattr(session.data, name, value)
    async with get_session.open(key) as session:
        assert session.data == Normalizing(**values)


# what the model tells


class Hidden(BaseModel):
    count: int = Field(0, exclude=True)


@dataclass
class HiddenPart:
    count: Annotated[int, Field(exclude=True)] = 0


class Secret(BaseModel):
    password: SecretStr | None = None


class OwnType:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(lambda value: value)


NOT_WRITTEN: list[tuple[Any, Any, str]] = [
    (int, Field(0, exclude=True), "value"),
    (Hidden, Hidden(), "count"),
    (list[Hidden], [], "count"),
    (dict[str, Hidden] | None, None, "count"),
    (HiddenPart | None, None, "count"),
    (SecretStr | None, None, "value"),
    (Secret, Secret(), "password"),
    (list[dict[str, Secret]], [], "password"),
    (dict[str, SecretStr], {}, "value"),
    (Secret | OwnType | None, None, "password"),
]


def model_of(kind: Any, default: Any) -> Any:
    return create_model("Model", value=(kind, default))


@pytest.mark.parametrize(("kind", "default", "name"), NOT_WRITTEN)
def test_a_field_that_is_never_written_is_refused(kind: Any, default: Any, name: str) -> None:
    """When the provider is built, by its name, wherever it is in the model."""
    with pytest.raises(ConfigurationError, match=rf"JSON \({name}\)"):
        make_provider(MemoryStore(), model_of(kind, default))


@pytest.mark.skipif("exclude_if" not in signature(Field).parameters, reason="pydantic before 2.12")
def test_a_field_that_is_sometimes_left_out_is_refused() -> None:
    """Where ``exclude_if`` decides anew each time whether it is written."""
    options: dict[str, Any] = {"exclude_if": lambda value: False}
    with pytest.raises(ConfigurationError, match=r"JSON \(value\)"):
        make_provider(MemoryStore(), model_of(int, Field(0, **options)))


def test_a_deque_that_would_lose_its_bound_is_refused() -> None:
    """JSON does not keep it, so that after the first request the deque would grow without one."""
    with pytest.raises(ConfigurationError, match=r"JSON \(value\)"):
        make_provider(MemoryStore(), model_of(deque[int], deque(maxlen=3)))


class Equal(BaseModel):
    """Equal to any other of its kind, derived ones too."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    __hash__ = None  # type: ignore[assignment]


class MoreThanEqual(Equal):
    more: int = 0


def test_a_default_that_would_come_back_as_its_base_class_is_refused() -> None:
    """Also if the two say that they are equal."""
    with pytest.raises(ConfigurationError, match=r"JSON \(value\)"):
        make_provider(MemoryStore(), model_of(Equal, Field(default_factory=MoreThanEqual)))


# what two new sessions have in common


@dataclass(unsafe_hash=True)
class Street:
    name: str = ""


class Hashable(BaseModel):
    name: str = ""

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class FrozenStreet:
    name: str = ""
    parts: tuple[Street, ...] = ()


COMMON: list[Any] = [1]
QUEUE: deque[Any] = deque()

SHARED: list[tuple[Any, Any, str]] = [
    (Street, Street(), "value"),
    (Hashable, Hashable(), "value"),
    (tuple[Street, ...], (Street(),), "value.*"),
    (FrozenStreet, FrozenStreet(parts=(Street(),)), "value.parts.*"),
    (list[int], Field(default_factory=lambda: COMMON), "value"),
    (deque[int], Field(default_factory=lambda: QUEUE), "value"),
]


@pytest.mark.parametrize(("kind", "default", "path"), SHARED)
def test_a_mutable_object_of_all_new_sessions_is_refused(
    kind: Any, default: Any, path: str
) -> None:
    """Otherwise one visitor would read what another wrote."""
    with pytest.raises(ConfigurationError) as raised:
        make_provider(MemoryStore(), model_of(kind, default))
    assert f"share one object ({path}):" in str(raised.value)


def test_all_fields_with_such_an_object_are_named() -> None:
    """In one error."""
    model = create_model(
        "Model",
        one=(list[int], Field(default_factory=lambda: COMMON)),
        other=(deque[int], Field(default_factory=lambda: QUEUE)),
    )
    with pytest.raises(ConfigurationError, match=r"share one object \(one, other\):"):
        make_provider(MemoryStore(), model)


NOT_SHARED: list[tuple[Any, Any]] = [
    (list[int], [1]),
    (dict[str, list[int]], {"a": [1]}),
    (Animal, Animal()),
    (FrozenStreet, FrozenStreet("x")),
    (tuple[str, UUID, Decimal], ("x", UUID(int=1), Decimal(1))),
    (Literal["a"], "a"),
    (datetime, NOW),
    (Color, Color.RED),
    (Street, Field(default_factory=Street)),
]


@pytest.mark.parametrize(("kind", "default"), NOT_SHARED)
def test_defaults_that_are_immutable_or_copied_are_fine(kind: Any, default: Any) -> None:
    """There is no false alarm."""
    make_provider(MemoryStore(), model_of(kind, default))


class Part(BaseModel):
    """The value of a field whose type is known to come back, or not."""

    value: Any = None


EXACT = [
    *(bool, int, Decimal, str, bytes, date, datetime, timedelta, UUID),
    *(int | None, str | None, datetime | None, list[int], list[str | None], list[list[Decimal]]),
]


class Shout(str):
    """A text of a class of its own."""


VALUES = [
    *(None, True, 0, -1, 2**70, 0.0, 1.5, float("inf"), float("nan"), "", "a", b"", b"a"),
    *(Shout("a"), Decimal("1.0"), Decimal("Infinity"), date(2026, 1, 2), timedelta(seconds=0.5)),
    *(datetime(2026, 1, 2, tzinfo=UTC), UUID(int=5), StrEnum("Kind", ["A"]).A, IntEnum("N", "A").A),
    *(Animal(), Part(), object, (), ("a",), set(), {"a"}, frozenset({1}), deque([1])),
    *([], [1], ["a"], [None], [float("inf")], [[1]], [Animal()], ["a", 1]),
    *({}, {"a": 1}, {1: "a"}, {"a": [UUID(int=5)]}, {None: 1}, {"a": Animal()}, OrderedDict(a=1)),
    *(Counter(a=1), [{"a": Decimal(1)}], defaultdict(int, a=1)),
]


@pytest.mark.parametrize("kind", EXACT, ids=str)
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_field_that_is_not_compared_would_show_no_difference(kind: Any, is_nested: bool) -> None:
    """Whatever it holds: what can be written and read at all comes back as its type."""
    inner = create_model("Inner", value=(kind, Field(default_factory=lambda: None)))
    outer = create_model("Outer", value=(inner, Field(default_factory=inner.model_construct)))
    model = SessionModel(outer)
    assert model.inexact == {inner: frozenset(), outer: frozenset(["value"])}
    for value in VALUES:
        data = inner.model_construct(value=value)
        live: Any = outer.model_construct(value=data) if is_nested else data
        serializer, validator = type(live).__pydantic_serializer__, type(live)
        try:
            written = serializer.to_json(live, round_trip=True, warnings="error")
            again = validator.model_validate_json(written)
        except (PydanticSerializationError, ValidationError):
            continue
        assert list(lost_values(live, again)) == [], value


@pytest.mark.parametrize(
    "kind",
    [
        *(
            Any,
            float,
            float | None,
            int | str,
            list[Any],
            list[float],
            dict[str, int],
            list[Animal],
        ),
        *(Animal, Literal["a", 1], tuple[int, str], dict[str, float | None]),
    ],
    ids=str,
)
def test_a_field_that_may_come_back_otherwise_is_compared(kind: Any) -> None:
    """A value of such a type can be written, and still be read as another."""
    model = create_model("Model", value=(kind, Field(default_factory=lambda: None)))
    assert SessionModel(model).inexact[model] == {"value"}


OTHERS = [
    *(Any, float, float | None, int | str, list[Any], list[float], dict[str, int], dict[str, Any]),
    *(Animal, list[Animal], Animal | None, Literal["a", 1], tuple[int, str], set[Any], deque[Any]),
]


@pytest.mark.parametrize("kind", [*EXACT, *OTHERS], ids=str)
def test_data_of_the_same_types_has_lost_nothing(kind: Any) -> None:
    """The quick comparison may give up, but never overlooks what the thorough one finds."""
    model = create_model("Model", value=(kind, Field(default_factory=lambda: None)))
    inexact = {**LEAVES, **SessionModel(model).inexact}
    for value in VALUES:
        live = model.model_construct(value=value)
        try:
            written = model.__pydantic_serializer__.to_json(live, warnings="error")
            again = model.model_validate_json(written)
        except (PydanticSerializationError, ValidationError):
            continue
        assert not (has_same_types(live, again, inexact) and list(lost_values(live, again))), value


def test_data_of_a_derived_class_has_other_types() -> None:
    """Even if its fields are the same."""

    class Derived(Part):
        pass

    assert has_same_types(Part(), Part(), LEAVES)
    assert not has_same_types(Derived(), Part(), LEAVES)


class Order(BaseModel):
    """Data as most applications have it."""

    placed: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    paid: bool | None = None
    animals: list[Animal] = []
    prices: dict[str, Decimal] = {}
    ratio: float = 0.5
    extra: dict[str, Any] = {}


def test_ordinary_data_is_only_compared_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change is compared, so that the time matters."""
    codec = Codec(Order)
    monkeypatch.delattr("fastapi_async_sessions._core.codec.lost_values")
    data = Order(
        animals=[Animal(), Animal()], prices={"a": Decimal("1.5")}, extra={"b": [1, "c", None]}
    )
    codec.check(data, codec.dump(data))


def test_no_field_is_left_out_of_a_model_with_functions_or_further_fields() -> None:
    """A validator may return anything, and further fields have no type."""

    class Open(BaseModel, extra="allow"):
        count: int = 0

    class Validated(BaseModel):
        count: Annotated[int, AfterValidator(str)] = 0

    assert Open not in SessionModel(Open).inexact
    assert SessionModel(Validated).inexact == {}


class Envelope(BaseModel, Generic[T]):
    content: T | None = None


def test_a_generic_model_with_other_parameters_is_compared() -> None:
    """Its own fields come back as they are, but it is read as the field's type: without a date."""

    class Data(BaseModel):
        dated: Envelope[datetime] = Envelope[datetime]()
        latest: Envelope[Any] = Envelope[Any]()

    codec, data = Codec(Data), Data()
    data.latest = Envelope[datetime](content=datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(SessionInvalid) as refused:
        codec.check(data, codec.dump(data))
    assert refused.value.problems == ("latest.content: expected str, got datetime",)
