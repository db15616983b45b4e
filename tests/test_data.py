"""The data of a session: which models are possible, what is a change, and what is rejected."""

import pickle
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from itertools import permutations
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasPath,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    computed_field,
    create_model,
    field_validator,
)

from fastapi_async_sessions import SessionInvalid, SessionTooLarge
from fastapi_async_sessions._core.codec import Codec

from .apps import (
    GENERAL,
    Data,
    Line,
    json_of,
    set_cookie_kind,
    with_json,
)
from .kinds import Wrapped
from .sites import Action, ScriptedSite


class DataSite(ScriptedSite):
    """Its session can be read by a request of its own, and its stored data overwritten."""

    async def read(self, reader: Action) -> Any:
        """Return what the next request reads, and check that it writes nothing."""
        response = await self.request(lambda session: reader(session.data))
        assert (response.status_code, self.store.writes) == (200, [])
        return response.json()

    async def overwrite(self, raw: bytes) -> None:
        """Replace the stored data by these bytes."""
        await self.read(lambda data: None)
        (key,) = dict.fromkeys(self.store.keys)
        record = await self.store.inner.load(key)
        assert record is not None
        written = with_json(self.get_session, key, record, raw)
        assert await self.store.inner.save(key, written, replaces=record.version)


async def stored_session(model: Any, begin: Action, **options: Any) -> DataSite:
    """A site whose browser has a session, stored by a first request."""
    site = DataSite(model, **options)
    response = await site.request(begin)
    assert set_cookie_kind(response) == "sent"
    return site


# what counts as a change


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Deep(BaseModel):
    lines: list[Line] = []
    by_name: dict[str, list[Line]] = {}
    numbers: list[int] = []
    tags: set[str] = set()
    pair: tuple[list[int], str] = ([], "")
    anything: Any = None
    colour: Colour = Colour.RED
    line: Line | None = None


def begin_deep(session: Any) -> None:
    session.data = Deep(
        lines=[Line(name="a")],
        by_name={"x": [Line(name="b")]},
        numbers=[3, 1, 2],
        tags={"one", "two"},
        pair=([1], "p"),
        anything={"list": [1, {"k": "v"}]},
        line=Line(name="c"),
    )


CHANGES: dict[str, Action] = {
    "a field of a nested model": lambda data: setattr(data.line, "name", "z"),
    "a field of a model in a list": lambda data: setattr(data.lines[0], "name", "z"),
    "a list of a model in a list": lambda data: data.lines[0].tags.append("z"),
    "a model in a list in a dict": lambda data: data.by_name["x"][0].tags.append("z"),
    "a new key": lambda data: data.by_name.update(y=[]),
    "a removed key": lambda data: data.by_name.clear(),
    "an order": lambda data: data.numbers.sort(),
    "a removed item": lambda data: data.numbers.pop(),
    "a set that grew": lambda data: data.tags.add("three"),
    "a set that shrank": lambda data: data.tags.discard("one"),
    "a list in a tuple": lambda data: data.pair[0].append(2),
    "a dict in anything": lambda data: data.anything["list"][1].update(k="w"),
    "an enum": lambda data: setattr(data, "colour", Colour.BLUE),
    "a model set to None": lambda data: setattr(data, "line", None),
    "through __dict__": lambda data: data.__dict__.update(numbers=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_at_any_depth_is_saved(change: Action) -> None:
    """An in-place change in any kind of container is written once, and the next request sees it."""
    site = await stored_session(Deep, begin_deep)

    def action(session: Any) -> Any:
        change(session.data)
        return session.data

    changed = (await site.request(action)).json()
    assert site.store.writes == ["save"]
    seen = await site.read(lambda data: data)
    assert {**seen, "tags": set(seen["tags"])} == {**changed, "tags": set(changed["tags"])}


NO_CHANGES: dict[str, Action] = {
    "read": lambda data: data.model_dump_json(),
    "assigned again": lambda data: setattr(data, "numbers", list(data.numbers)),
    "there and back": lambda data: (data.numbers.append(9), data.numbers.pop()),
    "a set in another order": lambda data: setattr(data, "tags", {*sorted(data.tags)}),
    "a dict in another order": lambda data: setattr(data, "by_name", dict(data.by_name)),
    "the same enum": lambda data: setattr(data, "colour", Colour("red")),
    "an equal model": lambda data: setattr(data, "line", data.line.model_copy()),
}


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
async def test_equal_data_is_not_written(change: Action) -> None:
    """Reading a value, or assigning an equal one, is not a change."""
    site = await stored_session(Deep, begin_deep)
    await site.request(lambda session: change(session.data) and None)
    assert site.store.calls == ["load"]


def test_the_order_of_a_set_is_not_a_change() -> None:
    """Sets are serialized in an order that differs between processes."""
    codec = Codec(Deep)
    tags = [f"tag-{number}" for number in range(200)]
    one = codec.dump(Deep(tags=set(tags)))
    other = b'{"lines":[],"by_name":{},"numbers":[],"tags":[%s],"pair":[[],""],' % b",".join(
        f'"{tag}"'.encode() for tag in reversed(tags)
    )
    other += b'"anything":null,"colour":"red","line":null}'
    assert codec.load(one) == codec.load(other)
    assert not codec.differs(one, other)


# models whose own code changes the data


class Aliased(BaseModel):
    model_config = ConfigDict(validate_by_name=False, validate_by_alias=True)
    name: str = Field(default="", validation_alias="userName", serialization_alias="USERNAME")
    first: str = Field(default="", validation_alias=AliasPath("names", 0))
    plain: str = Field(default="", alias="Plain")


async def test_data_is_stored_under_field_names() -> None:
    """Aliases belong to forms and APIs and do not affect what is stored."""

    def begin(session: Any) -> None:
        session.data.name, session.data.first, session.data.plain = "ada", "byron", "x"

    site = await stored_session(Aliased, begin)
    assert await site.read(lambda data: [data.name, data.first, data.plain]) == [
        "ada",
        "byron",
        "x",
    ]
    ((key, record),) = (await site.store.records()).items()
    assert json_of(site.get_session, key, record) == b'{"name":"ada","first":"byron","plain":"x"}'


class Swapped(BaseModel):
    name: str = Field(default="", alias="title")
    title: str = Field(default="", alias="name")


async def test_an_alias_may_be_the_name_of_another_field() -> None:
    """Each is read back into the field that it was."""

    def begin(session: Any) -> None:
        session.data.name, session.data.title = "ada", "countess"

    site = await stored_session(Swapped, begin)
    assert await site.read(lambda data: [data.name, data.title]) == ["ada", "countess"]


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.count * 2


async def test_computed_fields_are_not_stored() -> None:
    """A model with ``extra="forbid"`` can read back what it wrote."""
    site = await stored_session(Computed, lambda session: setattr(session.data, "count", 4))
    assert await site.read(lambda data: [data.count, data.double]) == [4, 8]


class Stamped(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    nanos: int = Field(default_factory=time.perf_counter_ns)
    count: int = 0


async def test_default_factories_are_not_a_change() -> None:
    """A new session with a fresh UUID and time is not stored; a stored session keeps them."""
    site = DataSite(Stamped)
    response = await site.request(lambda session: None)
    assert (set_cookie_kind(response), site.store.calls) == (None, [])
    made = (await site.request(lambda session: setattr(session.data, "count", 1))).json()
    assert made is None
    first = await site.read(lambda data: [str(data.id), data.made_at.isoformat(), data.nanos])
    assert await site.read(lambda data: [str(data.id), data.made_at.isoformat(), data.nanos]) == (
        first
    )


class Cleaned(BaseModel):
    tags: list[str] = []

    @field_validator("tags")
    @classmethod
    def sorted_tags(cls, tags: list[str]) -> list[str]:
        return sorted(tags)


async def test_a_normalizing_validator_is_not_a_change() -> None:
    """It runs at every read, which alone writes nothing."""
    site = await stored_session(Cleaned, lambda session: session.data.tags.extend(["b", "a"]))
    for _ in range(2):
        assert await site.read(lambda data: data.tags) == ["a", "b"]


class Seen(BaseModel):
    count: Annotated[int, AfterValidator(lambda value: value and time.perf_counter_ns())] = 0


class Watched(BaseModel):
    count: int = 0

    def model_post_init(self, context: Any) -> None:
        self.count = self.count and time.perf_counter_ns()


class Trimmed(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)

    name: str = ""


async def test_normalization_by_a_model_option_is_not_a_change() -> None:
    """Options such as ``str_strip_whitespace`` apply at every read, which alone writes nothing."""
    site = await stored_session(Trimmed, lambda session: setattr(session.data, "name", " ada "))
    for _ in range(2):
        assert await site.read(lambda data: data.name) == "ada"


@pytest.mark.parametrize("model", [Seen, Watched])
async def test_a_validator_with_another_result_each_time_is_not_a_change(model: Any) -> None:
    """What the functions of a model return at a read is not written."""
    site = await stored_session(model, lambda session: setattr(session.data, "count", 1))
    seen = [await site.read(lambda data: data.count) for _ in range(2)]
    assert 1 < seen[0] < seen[1]


class Appointment(BaseModel):
    at: datetime = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=1)))
    names: list[str] = ["ada", "bob"]
    both: set[str] = {"ada", "bob"}


TAX = {"now": 0}


class ValidatedByTax(BaseModel):
    price: Annotated[int, AfterValidator(lambda price: price + TAX["now"])] = 0


class WrittenByTax(BaseModel):
    price: Annotated[int, PlainSerializer(lambda price: price + TAX["now"])] = 0


class FinishedByTax(BaseModel):
    price: int = 0

    def model_post_init(self, context: Any) -> None:
        self.price += TAX["now"]


class MadeByTax(BaseModel):
    price: int = 0

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.price += TAX["now"]


class NamedLikeAKey(BaseModel):
    """Its field has the name under which pydantic keeps metadata of its own."""

    metadata: ValidatedByTax = ValidatedByTax()
    price: int = 0


class Prices(BaseModel):
    """Holds one of those models inside a dict, a list and an optional."""

    by_name: dict[str, list[ValidatedByTax | None]] = {}
    price: int = 0


class Noted(BaseModel):
    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, ValidatedByTax] = Field(init=False)
    price: int = 0


FICKLE = [
    ValidatedByTax,
    WrittenByTax,
    FinishedByTax,
    MadeByTax,
    NamedLikeAKey,
    Prices,
    Noted,
]


@pytest.mark.parametrize("model", FICKLE)
async def test_functions_of_a_model_that_change_their_results_are_not_a_change(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their results differ from those at the time of the write; reading still writes nothing."""

    def begin(session: Any) -> None:
        session.data.price = 10
        if model is Prices:
            session.data.by_name = {"a": [ValidatedByTax(price=1)]}
        if model is Noted:
            session.data.note = ValidatedByTax(price=1)

    site = await stored_session(model, begin)
    for _ in range(2):
        assert await site.read(lambda data: data.price) == 10
    monkeypatch.setitem(TAX, "now", 5)
    await site.read(lambda data: data.price)
    monkeypatch.setitem(TAX, "now", 0)
    assert await site.read(lambda data: data.price) == 10


@dataclass(eq=False)
class Tag:
    name: str = ""


class Size(Enum):
    SMALL = "s"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.SMALL if TAX["now"] else None


class Point(NamedTuple):
    x: int = 0


KINDS: list[tuple[Any, bool]] = [
    (list[dict[str, tuple[int, bytes | None]]], True),
    (Annotated[str, Field(max_length=5)] | None, True),
    (Literal["light", "dark"], True),
    (dict[UUID, tuple[datetime, date, timedelta, Decimal, float, bool]], True),
    (Any, True),
    (list[Line], True),
    (set[Tag], False),
    (frozenset[str], False),
    (Size, False),
    (Point, False),
    (Tag, False),
    (AnyUrl, False),
]


@pytest.mark.parametrize(("kind", "is_plain"), KINDS, ids=str)
def test_a_model_is_plain_where_nothing_in_it_runs_code(kind: Any, is_plain: bool) -> None:
    """A type is plain only if it is known to run no code of the user's."""
    model: Any = create_model("Model", value=(kind | None, None))
    assert Codec(model).is_plain == is_plain


async def test_a_change_made_without_touching_session_data_is_saved() -> None:
    """A model that registers its instances elsewhere lets other code change them."""
    made: list[Any] = []

    class Registered(BaseModel):
        count: int = 0

        def model_post_init(self, context: Any) -> None:
            made.append(self)

    site = await stored_session(Registered, lambda session: setattr(session.data, "count", 1))
    await site.request(lambda session: setattr(made[-1], "count", 99))
    assert await site.read(lambda data: data.count) == 99


def counting_dumps(monkeypatch: pytest.MonkeyPatch) -> tuple[Codec[Line], list[Line]]:
    """A codec, and the data that it was given to dump."""
    codec: Codec[Line] = Codec(Line)
    dumped: list[Line] = []

    def dump(data: Line) -> bytes:
        dumped.append(data)
        return Codec.dump(codec, data)

    monkeypatch.setattr(codec, "dump", dump)
    return codec, dumped


def test_content_that_was_read_before_is_not_dumped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same as at the first time, for a model that runs no code."""
    codec, dumped = counting_dumps(monkeypatch)
    raw = Line(name="a").model_dump_json().encode()
    for _ in range(3):
        assert codec.dump_as_read(codec.load(raw), raw) == raw
    assert len(dumped) == 1


def test_content_beyond_the_cache_limit_is_dumped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each content is read in turn, three times: the cache of a process is bounded."""
    monkeypatch.setattr("fastapi_async_sessions._core.codec._MAX_VERBATIM", 2)
    codec, dumped = counting_dumps(monkeypatch)
    raws = [Line(name=name).model_dump_json().encode() for name in "abc"]
    for raw in raws * 3:
        assert codec.dump_as_read(codec.load(raw), raw) == raw
    assert len(dumped) > len(raws)


def test_reordering_a_list_is_a_change_and_reordering_a_set_is_not() -> None:
    """The same moment in another time zone is a change too, since it is read back as written."""
    codec = Codec(Appointment)
    before = codec.dump(Appointment())
    swapped = before.replace(b'"both":["ada","bob"]', b'"both":["bob","ada"]')
    if swapped == before:
        swapped = before.replace(b'"both":["bob","ada"]', b'"both":["ada","bob"]')
    assert swapped != before
    assert not codec.differs(before, swapped)
    assert codec.differs(before, codec.dump(Appointment(names=["bob", "ada"])))
    utc = datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=2)))
    assert codec.differs(before, codec.dump(Appointment(at=utc)))


class Money(BaseModel):
    amount: Decimal = Decimal("0.10")
    ratio: float = 0.1
    lasts: timedelta = timedelta(seconds=1.5)
    blob: bytes = b"\x00x"
    big: int = 2**70
    pairs: dict[int, str] = {1: "one"}


async def test_values_round_trip_exactly() -> None:
    """Decimals, floats, bytes, large integers, and keys that are not strings."""
    site = await stored_session(Money, lambda session: setattr(session.data, "blob", b"y\x00\x7f"))
    read = await site.request(lambda session: session.data == Money(blob=b"y\x00\x7f"))
    assert read.json() is True
    assert site.store.calls == ["load"]


# two releases of one application


class Newer(Data):
    theme: str = "light"
    stamps: list[str] = Field(default=["new"])


async def test_a_field_added_by_a_newer_model_is_not_a_change() -> None:
    """Its default is available at once, and nothing is written for it."""
    site = await stored_session(Data, lambda session: setattr(session.data, "count", 1))
    site.deploy(Newer)
    assert await site.read(lambda data: [data.count, data.theme, data.stamps]) == [
        1,
        "light",
        ["new"],
    ]


async def test_fields_unknown_to_an_older_model_are_kept() -> None:
    """A release that runs beside a newer one does not drop the newer one's fields."""
    site = await stored_session(Newer, lambda session: setattr(session.data, "theme", "dark"))
    site.deploy(Data)
    await site.request(lambda session: setattr(session.data, "count", 5))
    assert site.store.writes == ["save"]
    site.deploy(Newer)
    assert await site.read(lambda data: [data.count, data.theme]) == [5, "dark"]


class Ordered(BaseModel):
    kind: Literal["ordered"] = "ordered"
    values: list[int] = []


class Unordered(BaseModel):
    kind: Literal["unordered"] = "unordered"
    values: set[int] = set()


Either = Annotated[Ordered | Unordered, Field(discriminator="kind")]


class Older(BaseModel):
    held: Either = Unordered()
    other: Either = Unordered()


class WithTheme(Older):
    theme: str = "light"


class OlderWrapped(Wrapped):
    held: Either = Unordered()
    other: Either = Unordered()


class WrappedWithTheme(OlderWrapped):
    theme: str = "light"


@pytest.mark.parametrize(("older", "newer"), [(Older, WithTheme), (OlderWrapped, WrappedWithTheme)])
async def test_fields_unknown_to_an_older_model_are_kept_beside_sets_in_a_union(
    older: type[BaseModel], newer: type[BaseModel]
) -> None:
    """Even if it writes those sets, which may also be lists, in another order than it has read."""

    def written_again(values: Iterable[int]) -> list[int]:
        return list(set(values))

    reordered = next(
        values
        for values in map(written_again, permutations(range(0, 64, 4), 3))
        if values != written_again(values) != written_again(written_again(values))
    )
    site = await stored_session(newer, lambda session: setattr(session.data, "theme", "dark"))
    changed = Unordered(values=set(reordered))
    await site.request(lambda session: setattr(session.data, "held", changed))
    site.deploy(older)
    await site.request(lambda session: setattr(session.data, "other", changed))
    site.deploy(newer)
    assert await site.read(lambda data: data.theme) == "dark"
    assert await site.read(lambda data: sorted(data.held.values)) == sorted(reordered)
    assert await site.read(lambda data: sorted(data.other.values)) == sorted(reordered)


# invalid data


class Strict(BaseModel):
    age: int = Field(default=0, ge=0, le=150)
    name: str = ""
    inner: Line = Line()


NO_FIT, NOT_WRITTEN = "does not fit its model", "cannot be written"

# a change, its field, and what the log says of it
INVALID: dict[str, tuple[Action, str, str]] = {
    "a value that its field rejects": (
        lambda data: setattr(data, "age", 471147114711),
        "age",
        NO_FIT,
    ),
    "a value of another type": (
        lambda data: setattr(data, "name", 471147114711),
        "name",
        NOT_WRITTEN,
    ),
    "a nested value": (
        lambda data: setattr(data.inner, "tags", ["x", 471147114711]),
        "inner",
        NOT_WRITTEN,
    ),
    "a value without a JSON form": (
        lambda data: setattr(data, "name", object()),
        "name",
        NOT_WRITTEN,
    ),
    "a lone surrogate": (
        lambda data: setattr(data, "name", "471147114711\ud800"),
        "name",
        NOT_WRITTEN,
    ),
    "not a number": (lambda data: setattr(data, "age", float("nan")), "age", NOT_WRITTEN),
}


@pytest.mark.parametrize(("change", "field", "reason"), INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("is_stored", [True, False])
async def test_data_that_its_model_rejects_is_not_written(
    change: Action, field: str, reason: str, is_stored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is a 500 without details; the log has the reason and the field, and no value."""
    site = DataSite(Strict)
    if is_stored:
        await site.request(lambda session: setattr(session.data, "name", "ada"))
    response = await site.request(lambda session: change(session.data))
    assert (response.status_code, set_cookie_kind(response)) == (500, None)
    assert response.json() == {"detail": GENERAL}
    (report,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert report.getMessage().startswith("refused: session ")
    assert f"The session's data {reason}. ({field}" in report.getMessage()
    assert "471147114711" not in response.text + caplog.text
    assert site.store.writes == []
    assert await site.read(lambda data: data.name) == ("ada" if is_stored else "")


def test_an_invalid_session_error_has_the_fields_and_no_values() -> None:
    """The fields are an attribute; neither the text nor the context holds a value."""
    codec = Codec(Strict)
    broken = Strict()
    broken.age = 471147114711
    with pytest.raises(SessionInvalid) as raised:
        codec.check(broken, codec.dump(broken))
    assert raised.value.fields == ("age",)
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert "471147114711" not in repr(raised.value) + str(raised.value)


async def test_assigning_another_type_raises_at_once() -> None:
    """``session.data`` takes an instance of the model, not a dict that looks like one."""
    site = DataSite(Data)

    def action(session: Any) -> None:
        with pytest.raises(TypeError, match="takes a Data, not a dict"):
            session.data = {"count": 1}

    assert (await site.request(action)).status_code == 200
    assert site.store.calls == []


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_session_that_grows_too_large_keeps_its_old_state(
    is_stored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is a 500 without a cookie; a session of exactly the limit is stored."""
    limit = 500
    site = DataSite(Strict, max_bytes=limit)
    smallest = await stored_session(Strict, lambda session: session.renew(subject="a"))
    (record,) = (await smallest.store.records()).values()
    free = limit - len(record.body) + 1
    if is_stored:
        response = await site.request(lambda session: setattr(session.data, "name", "x" * free))
        assert (response.status_code, set_cookie_kind(response)) == (200, "sent")
    response = await site.request(lambda session: setattr(session.data, "name", "y" * (free + 1)))
    assert (response.status_code, set_cookie_kind(response)) == (500, None)
    assert response.json() == {"detail": GENERAL}
    assert f"{limit + 1} bytes" in caplog.text
    assert "raise max_bytes" in caplog.text
    assert site.store.writes == []
    assert await site.read(lambda data: data.name) == ("x" * free if is_stored else "")


async def test_a_session_that_is_too_large_for_a_newer_limit_can_be_read() -> None:
    """An extension that would write it is left out, so that it ends a little sooner."""
    site = await stored_session(Strict, lambda session: setattr(session.data, "name", "x" * 300))
    site.deploy(Strict, max_bytes=300)
    site.clock.advance(timedelta(minutes=30))
    assert await site.read(lambda data: data.name) == "x" * 300


def test_a_too_large_error_has_the_size_and_the_limit() -> None:
    """An exception handler can report both."""
    error = SessionTooLarge(10, 5)
    assert (error.size, error.limit, error.status_code) == (10, 5, 500)


# corrupt records

CORRUPT: dict[str, bytes] = {
    "nothing": b"",
    "garbage": b"\xff\xfe\x00garbage",
    "truncated": b'{"count": 1, "lines": [',
    "a pickle": pickle.dumps({"count": 1}),
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"count":' * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "deep in a field": b'{"lines":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "NaN": b"NaN",
    "a huge number": b'{"count": ' + b"9" * 5_000 + b"}",
    "a lone surrogate": b'{"lines": [{"name": "\\ud800"}]}',
    "bad utf-8": b'{"lines": [{"name": "\xff"}]}',
    "a list": b"[]",
    "a text": b'"count"',
    "a number": b"1",
    "null": b"null",
    "two values": b"{}{}",
    "yaml": b"count: 1",
    "a repr": b"{'count': 1}",
    "whitespace": b" \n ",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("raw", CORRUPT.values(), ids=CORRUPT)
async def test_corrupt_data_is_a_new_session(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is never an error: an event is emitted, and the next change starts another session."""
    site = await stored_session(Data, lambda session: setattr(session.data, "count", 1))
    await site.overwrite(raw)
    site.events.clear()
    response = await site.request(lambda session: session.is_new)
    assert (response.status_code, response.json()) == (200, True)
    assert set_cookie_kind(response) is None
    assert site.events == ["corrupt"]
    response = await site.request(lambda session: setattr(session.data, "count", 2))
    assert set_cookie_kind(response) == "sent"
    assert await site.read(lambda data: data.count) == 2
    assert "garbage" not in caplog.text


async def test_the_last_of_duplicate_keys_counts() -> None:
    """As in most JSON parsers, duplicates are not an error."""
    site = await stored_session(Data, lambda session: setattr(session.data, "count", 1))
    await site.overwrite(b'{"count": 1, "count": 2, "lines": []}')
    assert await site.read(lambda data: data.count) == 2


async def test_a_record_of_ten_megabytes_is_not_parsed() -> None:
    """A record larger than any session can be is treated as corrupt."""
    site = await stored_session(Data, lambda session: setattr(session.data, "count", 1))
    await site.overwrite(b'{"lines": [' + b'{"name": "x"},' * 800_000 + b'{"name": "x"}]}')
    response = await site.request(lambda session: session.is_new)
    assert (response.json(), site.events[-1]) == (True, "corrupt")


# arbitrary text and JSON

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Free(BaseModel):
    text: str = ""
    texts: dict[str, list[str]] = {}
    value: Any = None


@settings(max_examples=100)
@given(text=st.text(), texts=st.dictionaries(st.text(), st.lists(st.text())), value=_JSON)
def test_any_data_round_trips(text: str, texts: dict[str, list[str]], value: Any) -> None:
    """Any text that UTF-8 can encode, with NUL and line breaks, and any JSON value."""
    codec = Codec(Free)
    data = Free(text=text, texts=texts, value=value)
    raw = codec.dump(data)
    assert codec.load(raw) == data
    assert not codec.differs(raw, codec.dump(codec.load(raw)))


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(text=st.text(min_size=1))
async def test_any_text_round_trips_over_http(text: str) -> None:
    """Through the route, the commit and the next request."""
    site = await stored_session(Free, lambda session: setattr(session.data, "text", text))
    assert await site.read(lambda data: data.text) == text


class Deprecated(BaseModel):
    count: int = 0
    old: set[str] = Field(default=set(), deprecated=True)


def test_the_library_reads_a_deprecated_field_without_a_warning() -> None:
    """Only code of the user's that reads the field gets the warning."""
    codec = Codec(Deprecated)
    assert codec.changed_fields(codec.dump(Deprecated()), codec.dump(Deprecated(count=1))) == [
        "count"
    ]
