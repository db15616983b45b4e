"""What the next request would not read as what it is: refused, by name, before it is stored."""

import json
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from inspect import signature
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
)
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
from fastapi_async_sessions._core.declared import UNKNOWN, declaration_of
from fastapi_async_sessions._core.models import SessionModel
from fastapi_async_sessions._core.readback import has_same_types, lost_values
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
    value: Any = None


class Open(BaseModel, extra="allow"):
    count: int = 0


DECLARED = [
    *(None, bool, int, str, bytes, date, time, datetime, timedelta, UUID, float, Literal["a", "b"]),
    *(int | None, str | None, datetime | None, float | None, Literal["a"] | None, Any),
    *(list[int], list[str | None], list[list[UUID]], list[float], list[Any], list),
    *(dict[str, int], dict[str, float | None], dict[Any, int], dict[str, Any], dict),
    *(Animal, list[Animal], Animal | None, dict[str, list[Animal | None]], Dog, list[Dog]),
]
LIMITED = [
    *(Decimal, Decimal | None, list[Decimal], Annotated[str, Field(max_length=1)]),
    *(Annotated[int, Field(ge=1)] | None, Annotated[list[int], Field(min_length=1)]),
    *(Annotated[float, Field(gt=1)], Annotated[dict[str, int], Field(max_length=1)]),
    *(dict[Annotated[str, Field(max_length=1)], int], Annotated[str, Field(strict=True)]),
]
UNDECLARED = [
    *(int | str, Literal["a", 1], tuple[int, str], set[Any], deque[Any], dict[int, str], Color),
    *(Place, Open, Annotated[int, AfterValidator(int)], Annotated[int, PlainSerializer(str)]),
]


class Shout(str):
    """A text of a class of its own."""


class Tag(str):
    """A text that equals no other one, so that a dict may have both as keys."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def without(name: str, data: BaseModel) -> BaseModel:
    """The same data, of which a field was deleted."""
    delattr(data, name)
    return data


def reversed_in_order(data: BaseModel) -> BaseModel:
    """The same data, whose fields were set the other way round."""
    fields = list(vars(data).items())
    vars(data).clear()
    vars(data).update(reversed(fields))
    return data


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES = [
    *(None, True, 0, -1, 2**70, 10**4300, 0.0, -0.0, 1.5, 1e16, float("inf"), float("nan")),
    *("", "a", "null", "abc", "-00:00", Shout("a"), b"", b"a", b"\xff", "\ud800", Place()),
    *(Decimal("1.0"), Decimal("Infinity"), date(2026, 1, 2), timedelta(seconds=0.5), time(1, 2)),
    *(NOW, NOW.replace(tzinfo=None), NOW.replace(tzinfo=timezone(timedelta(hours=1)))),
    *(datetime(2026, 1, 2, tzinfo=timezone(timedelta(seconds=each))) for each in (-30, 30, -90)),
    *(UUID(int=5), StrEnum("Kind", ["A"]).A, IntEnum("N", "A").A, time(1, tzinfo=UTC), Color.RED),
    *(Animal(), Part(), Dog(), Dog(tricks=["sit"]), Animal.model_construct(name=None), object),
    *(without("name", Animal()), without("tricks", Dog()), reversed_in_order(Dog()), Open(more=1)),
    *((), ("a",), set(), {"a"}, frozenset({1}), deque([1]), [], [1], ["a"], [None], [float("inf")]),
    *([[1]], [Animal()], [Animal(), None], [Animal(), Dog()], ["a", 1], [1, None, True]),
    *([[UUID(int=1)]], [{"a": Decimal(1)}], nested(150), nested(230)),
    *({}, {"a": 1}, {1: "a"}, {"a": [UUID(int=5)]}, {None: 1}, {"a": Animal()}, OrderedDict(a=1)),
    *({"a": [Animal(), None]}, {"a": {"b": [1, None, {"c": "d"}]}}, {"a": None}, Counter(a=1)),
    *({Shout("a"): 1}, {"a": 1, Tag("a"): 2}, defaultdict(int, a=1), {"a": float("nan")}),
]


def holding(kind: Any, *, is_nested: bool) -> tuple[type[BaseModel], Callable[[Any], BaseModel]]:
    """A model with a field of this type, or with models that have one, and how to fill it with
    anything."""
    inner = create_model("Inner", value=(kind, Field(default_factory=lambda: None)))
    if not is_nested:
        return inner, lambda value: inner.model_construct(value=value)
    outer: Any = create_model("Outer", parts=(list[inner], []))
    part = inner.model_construct
    return outer, lambda value: outer.model_construct(parts=[part(value=value)] * 2)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ZONES = st.none() | st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(), items, max_size=3),
    max_leaves=8,
)
STRATEGIES = {
    Any: JSON,
    None: st.none(),
    float: FLOATS,
    list: st.lists(JSON, max_size=3),
    dict: st.dictionaries(st.text(), JSON, max_size=3),
    datetime: st.datetimes(timezones=ZONES),
    time: st.times(timezones=ZONES),
    bytes: st.text().map(str.encode),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """The values of a declared type."""
    if kind in STRATEGIES:
        return STRATEGIES[kind]
    parts = get_args(kind)
    if get_origin(kind) is list:
        return st.lists(values_of(parts[0]), max_size=3)
    if get_origin(kind) is dict:
        return st.dictionaries(st.text(), values_of(parts[1]), max_size=3)
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return st.one_of(*map(values_of, parts))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {name: values_of(field.annotation) for name, field in kind.model_fields.items()}
        return st.builds(kind, **fields)
    return st.from_type(kind)


def dumped(data: BaseModel) -> bytes:
    return data.__pydantic_serializer__.to_json(data, round_trip=True, warnings="error")


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("kind", [*DECLARED, *LIMITED, *UNDECLARED], ids=str)
def test_data_of_declared_types_comes_back_as_it_is(kind: Any, is_nested: bool) -> None:
    """Whatever a field holds: what fits is read with the same types, and where that is certain, it
    can be read, and is written again with the same bytes."""
    cls, make = holding(kind, is_nested=is_nested)
    declared = SessionModel(cls).declared
    for value in VALUES:
        data = make(value)
        try:
            dump = dumped(data)
        except (PydanticSerializationError, ValueError):
            continue
        if not declared.fits(data, dump):
            continue
        try:
            again = cls.model_validate_json(dump)
        except ValidationError:
            assert not declared.is_certain(dump), value
            continue
        assert list(lost_values(data, again)) == [], value
        assert not declared.is_certain(dump) or dumped(again) == dump, value


@given(st.data())
def test_data_of_any_declared_values_comes_back_as_it_is(data: st.DataObject) -> None:
    """Values of the declared types fit, and it is certain that nothing is lost."""
    kind = data.draw(st.sampled_from(DECLARED))
    cls, make = holding(kind, is_nested=data.draw(st.booleans()))
    declared, value = SessionModel(cls).declared, data.draw(values_of(kind))
    live = make(value)
    dump = dumped(live)
    assert declared.fits(live, dump)
    if declared.is_certain(dump):
        again = cls.model_validate_json(dump)
        assert list(lost_values(live, again)) == []
        assert dumped(again) == dump


@pytest.mark.parametrize("kind", LIMITED, ids=str)
def test_data_that_may_not_fit_the_model_is_not_certain(kind: Any) -> None:
    """It is read back, but not compared."""
    cls, _ = holding(kind, is_nested=True)
    declared = SessionModel(cls).declared
    assert declared is not UNKNOWN
    assert not declared.is_certain(b"{}")


@pytest.mark.parametrize("kind", UNDECLARED, ids=str)
def test_types_that_may_come_back_as_others_are_not_declared(kind: Any) -> None:
    """Data of such a model is always read back and compared."""
    cls, _ = holding(kind, is_nested=True)
    assert SessionModel(cls).declared is UNKNOWN


@pytest.mark.parametrize(
    "config",
    [
        *(ConfigDict(str_strip_whitespace=True), ConfigDict(str_to_upper=True)),
        *(ConfigDict(str_max_length=1), ConfigDict(ser_json_bytes="base64")),
        ConfigDict(strict=True),
        *(ConfigDict(ser_json_timedelta="float"), ConfigDict(ser_json_inf_nan="strings")),
    ],
    ids=str,
)
def test_a_configuration_that_may_change_values_leaves_nothing_certain(config: ConfigDict) -> None:
    """Of the model, or of one within it."""
    inner = create_model("Inner", __config__=config, text=(str, ""))
    for cls in inner, create_model("Outer", parts=(list[inner], [])):
        assert not SessionModel(cls).declared.is_certain(b"{}")


def test_an_option_that_is_not_known_leaves_nothing_certain() -> None:
    """A newer pydantic may have options that restrict or change values."""
    for option in {}, {"strict": True}, {"new_option": 1}:
        fields = core_schema.model_fields_schema({}) | option
        declared = declaration_of(core_schema.model_schema(Part, fields))
        assert declared.is_certain(b"{}") is (not option)


def test_data_that_the_declared_types_nest_too_deep_is_read_back() -> None:
    """JSON is not read beyond some 200 levels, of which an ``Any`` may have some as well."""
    kind: Any = Any
    for _ in range(110):
        kind = list[kind]
    model: Any = create_model("Deep", value=(kind, []))
    assert not SessionModel(model).declared.is_certain(b"{}")


def test_each_level_of_json_counts() -> None:
    """Of models, dicts, lists and what is optional, and 50 for an ``Any``."""

    class Levels(BaseModel):
        flat: int = 0
        value: dict[str, list[Part | None] | None] = {}

    assert SessionModel(Levels).declared.types.depth == 4 + 50


class Branch(BaseModel):
    branches: list["Branch"] = []


def test_data_that_may_be_nested_too_deep_is_read_back() -> None:
    """JSON is not read beyond some 200 levels, which only a model within itself can reach."""
    declared = SessionModel(Branch).declared
    assert declared.fits(Branch(), dumped(Branch()))
    deeper = Branch(branches=[Branch()])
    assert not declared.fits(deeper, dumped(deeper))


def test_a_model_that_is_used_twice_is_declared_in_both_places() -> None:
    """Pydantic defines it once, and refers to it."""

    class Trip(BaseModel):
        driver: Animal = Animal()
        riders: list[Animal] = []

    declared, trip = SessionModel(Trip).declared, Trip(riders=[Animal(name="a")])
    assert declared.fits(trip, dumped(trip))
    trip.driver = Dog()
    assert not declared.fits(trip, dumped(trip))


@pytest.mark.parametrize("kind", [*DECLARED, *LIMITED, *UNDECLARED], ids=str)
def test_data_of_the_same_types_has_lost_nothing(kind: Any) -> None:
    """The quick comparison may give up, but never overlooks what the thorough one finds."""
    cls, make = holding(kind, is_nested=True)
    for value in VALUES:
        live = make(value)
        try:
            again = cls.model_validate_json(dumped(live))
        except (PydanticSerializationError, ValueError):
            continue
        assert not (has_same_types(live, again) and list(lost_values(live, again))), value


def test_data_of_a_derived_class_has_other_types() -> None:
    """Even if its fields are the same."""

    class Derived(Part):
        pass

    assert has_same_types(Part(), Part())
    assert not has_same_types(Derived(), Part())


class Order(BaseModel):
    """Data as most applications have it."""

    placed: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    paid: bool | None = None
    animals: list[Animal] = []
    prices: dict[str, float] = {}
    extra: dict[str, Any] = {}


def test_ordinary_data_is_neither_read_back_nor_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change is checked, so that the time matters."""
    codec = Codec(Order)
    monkeypatch.delattr(Codec, "read_back")
    data = Order(animals=[Animal(), Animal()], prices={"a": 1.5}, extra={"b": [1, "c", None]})
    dump = codec.dump(data)
    assert not codec.is_verbatim(dump)
    codec.check(data, dump)
    assert codec.is_verbatim(dump)


class Account(BaseModel):
    name: Annotated[str, Field(max_length=40)] = ""
    balance: Decimal = Decimal(0)
    animals: list[Animal] = []


def test_data_with_limits_is_read_back_but_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be too long, but has the right types."""
    codec = Codec(Account)
    monkeypatch.delattr("fastapi_async_sessions._core.codec.has_same_types")
    data = Account(name="a", balance=Decimal("1.5"), animals=[Animal()])
    codec.check(data, codec.dump(data))
    data.name = 41 * "a"
    with pytest.raises(SessionInvalid):
        codec.check(data, codec.dump(data))


def test_data_of_other_types_is_only_compared_quickly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thorough comparison is for data that seems to lose something."""

    class Choice(BaseModel):
        value: int | str | list[Animal] = 0
        pair: tuple[int, Animal] | None = None

    codec = Codec(Choice)
    monkeypatch.delattr("fastapi_async_sessions._core.codec.lost_values")
    for value in 1, "a", [Animal()]:
        data = Choice(value=value)
        codec.check(data, codec.dump(data))


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
