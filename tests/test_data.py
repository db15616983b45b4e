"""What a session's data may be, what counts as a change of it, and what is not let in."""

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from inspect import signature
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid4

import pytest
from fastapi import Depends
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

from fastapi_async_sessions import MemoryStore, Record, SessionInvalid, SessionTooLarge
from fastapi_async_sessions._core.codec import Codec
from fastapi_async_sessions._core.header import HEADER_SIZE
from fastapi_async_sessions.records import new_version
from fastapi_async_sessions.testing import FrozenClock

from .apps import Data, Line, browser, make_app, make_provider, set_cookie_kind
from .doubles import SpyStore

Act = Callable[[Any], Any]


class Visitor:
    """One browser, whose requests do to the session what they are told."""

    def __init__(self, model: Any, **options: Any) -> None:
        self.clock = FrozenClock()
        self.events: list[Any] = []
        self.store = SpyStore(MemoryStore(clock=self.clock))
        self.deploy(model, **options)
        self.client = browser(self._serve)

    def deploy(self, model: Any, **options: Any) -> None:
        """Serve another release of the application, with this model, over the same store."""
        self.store = SpyStore(self.store.inner)
        get_session = make_provider(
            self.store,
            model,
            clock=self.clock,
            on_event=lambda event: self.events.append(event.kind),
            **options,
        )
        self.app = make_app()

        @self.app.get("/")
        async def route(session: Annotated[Any, Depends(get_session)]) -> Any:
            return self.act(session)

    async def request(self, act: Act) -> Any:
        """One request; the answer is what ``act`` gives."""
        self.act = act
        self.store.calls.clear()
        return await self.client.get("/")

    async def _serve(self, *asgi: Any) -> None:
        await self.app(*asgi)

    async def sees(self, read: Act) -> Any:
        """What the next request reads, without a write."""
        response = await self.request(lambda session: read(session.data))
        assert (response.status_code, self.store.writes) == (200, [])
        return response.json()

    async def plant(self, raw: bytes) -> None:
        """Put these bytes into the store in place of the data."""
        await self.sees(lambda data: None)
        (key,) = dict.fromkeys(self.store.keys)
        record = await self.store.inner.load(key)
        assert record is not None
        body = record.body[:HEADER_SIZE] + raw
        planted = Record(body, new_version(), record.subject, record.expires_at)
        assert await self.store.inner.save(key, planted, replaces=record.version)


async def visitor(model: Any, begin: Act, **options: Any) -> Visitor:
    """A visitor whose session is stored already."""
    who = Visitor(model, **options)
    response = await who.request(begin)
    assert set_cookie_kind(response) == "sent"
    return who


# what is a change


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


CHANGES: dict[str, Act] = {
    "a field of a nested model": lambda data: setattr(data.line, "name", "z"),
    "a field of a model in a list": lambda data: setattr(data.lines[0], "name", "z"),
    "a list of a model in a list": lambda data: data.lines[0].tags.append("z"),
    "a model in a list in a dict": lambda data: data.by_name["x"][0].tags.append("z"),
    "a new key": lambda data: data.by_name.update(y=[]),
    "a key that went": lambda data: data.by_name.clear(),
    "an order": lambda data: data.numbers.sort(),
    "an item that went": lambda data: data.numbers.pop(),
    "a set that grew": lambda data: data.tags.add("three"),
    "a set that shrank": lambda data: data.tags.discard("one"),
    "a list in a tuple": lambda data: data.pair[0].append(2),
    "a dict in anything": lambda data: data.anything["list"][1].update(k="w"),
    "an enum": lambda data: setattr(data, "colour", Colour.BLUE),
    "a model set to None": lambda data: setattr(data, "line", None),
    "through __dict__": lambda data: data.__dict__.update(numbers=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_anywhere_is_found(change: Act) -> None:
    """Nested and in place, in every kind of container: one write, and the next request sees it."""
    who = await visitor(Deep, begin_deep)

    def act(session: Any) -> Any:
        change(session.data)
        return session.data

    changed = (await who.request(act)).json()
    assert who.store.writes == ["save"]
    seen = await who.sees(lambda data: data)
    assert {**seen, "tags": set(seen["tags"])} == {**changed, "tags": set(changed["tags"])}


SAME: dict[str, Act] = {
    "read": lambda data: data.model_dump_json(),
    "assigned again": lambda data: setattr(data, "numbers", list(data.numbers)),
    "there and back": lambda data: (data.numbers.append(9), data.numbers.pop()),
    "a set in another order": lambda data: setattr(data, "tags", {*sorted(data.tags)}),
    "a dict in another order": lambda data: setattr(data, "by_name", dict(data.by_name)),
    "the same enum": lambda data: setattr(data, "colour", Colour("red")),
    "an equal model": lambda data: setattr(data, "line", data.line.model_copy()),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
async def test_what_is_equal_is_not_written(change: Act) -> None:
    """Reading, and assigning what is there already, is no change."""
    who = await visitor(Deep, begin_deep)
    await who.request(lambda session: change(session.data) and None)
    assert who.store.calls == ["load"]


def test_a_large_set_is_no_change_in_whatever_order() -> None:
    """Sets are written in an order that differs between processes."""
    codec = Codec(Deep)
    tags = [f"tag-{number}" for number in range(200)]
    one = codec.dump(Deep(tags=set(tags)))
    other = b'{"lines":[],"by_name":{},"numbers":[],"tags":[%s],"pair":[[],""],' % b",".join(
        f'"{tag}"'.encode() for tag in reversed(tags)
    )
    other += b'"anything":null,"colour":"red","line":null}'
    assert codec.load(one) == codec.load(other)
    assert not codec.is_change(one, other)


# models with a will of their own


class Aliased(BaseModel):
    model_config = ConfigDict(validate_by_name=False, validate_by_alias=True)
    name: str = Field(default="", validation_alias="userName", serialization_alias="USERNAME")
    first: str = Field(default="", validation_alias=AliasPath("names", 0))
    plain: str = Field(default="", alias="Plain")


async def test_aliases_do_not_get_in_the_way() -> None:
    """They belong to forms and APIs: a session is stored under the names of its fields."""

    def begin(session: Any) -> None:
        session.data.name, session.data.first, session.data.plain = "ada", "byron", "x"

    who = await visitor(Aliased, begin)
    assert await who.sees(lambda data: [data.name, data.first, data.plain]) == ["ada", "byron", "x"]
    (record,) = (await who.store.records()).values()
    assert record.body[HEADER_SIZE:] == b'{"name":"ada","first":"byron","plain":"x"}'


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.count * 2


async def test_computed_fields_are_not_stored() -> None:
    """A model that forbids what it does not know reads what it wrote."""
    who = await visitor(Computed, lambda session: setattr(session.data, "count", 4))
    assert await who.sees(lambda data: [data.count, data.double]) == [4, 8]


class Stamped(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    nanos: int = Field(default_factory=time.perf_counter_ns)
    count: int = 0


async def test_default_factories_are_no_change() -> None:
    """A new session with a fresh uuid and time is not stored; a stored one keeps them."""
    who = Visitor(Stamped)
    response = await who.request(lambda session: None)
    assert (set_cookie_kind(response), who.store.calls) == (None, [])
    made = (await who.request(lambda session: setattr(session.data, "count", 1))).json()
    assert made is None
    first = await who.sees(lambda data: [str(data.id), data.made_at.isoformat(), data.nanos])
    assert await who.sees(lambda data: [str(data.id), data.made_at.isoformat(), data.nanos]) == (
        first
    )


class Cleaned(BaseModel):
    tags: list[str] = []

    @field_validator("tags")
    @classmethod
    def sorted_tags(cls, tags: list[str]) -> list[str]:
        return sorted(tags)


async def test_a_validator_that_changes_data_is_no_change_by_itself() -> None:
    """It runs when a session is read: that alone writes nothing."""
    who = await visitor(Cleaned, lambda session: session.data.tags.extend(["b", "a"]))
    for _ in range(2):
        assert await who.sees(lambda data: data.tags) == ["a", "b"]


class Seen(BaseModel):
    count: Annotated[int, AfterValidator(lambda value: value and time.perf_counter_ns())] = 0


class Watched(BaseModel):
    count: int = 0

    def model_post_init(self, context: Any) -> None:
        self.count = self.count and time.perf_counter_ns()


class Trimmed(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)

    name: str = ""


async def test_data_that_reading_puts_right_is_no_change() -> None:
    """Options of the model's apply when a session is read: that alone writes nothing."""
    who = await visitor(Trimmed, lambda session: setattr(session.data, "name", " ada "))
    for _ in range(2):
        assert await who.sees(lambda data: data.name) == "ada"


@pytest.mark.parametrize("model", [Seen, Watched])
async def test_a_model_that_reads_otherwise_each_time_is_no_change_by_itself(model: Any) -> None:
    """Nothing is written for what its own functions say anew at each reading."""
    who = await visitor(model, lambda session: setattr(session.data, "count", 1))
    seen = [await who.sees(lambda data: data.count) for _ in range(2)]
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
    """pydantic keeps notes of its own under that name."""

    metadata: ValidatedByTax = ValidatedByTax()
    price: int = 0


class Prices(BaseModel):
    """Around one of those, as far down as a session may have it."""

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
async def test_functions_of_a_model_may_change_their_mind(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data read as it was written, and later not: that alone writes nothing."""

    def begin(session: Any) -> None:
        session.data.price = 10
        if model is Prices:
            session.data.by_name = {"a": [ValidatedByTax(price=1)]}
        if model is Noted:
            session.data.note = ValidatedByTax(price=1)

    who = await visitor(model, begin)
    for _ in range(2):
        assert await who.sees(lambda data: data.price) == 10
    monkeypatch.setitem(TAX, "now", 5)
    await who.sees(lambda data: data.price)
    monkeypatch.setitem(TAX, "now", 0)
    assert await who.sees(lambda data: data.price) == 10


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
    """What is not known to be so is not."""
    model: Any = create_model("Model", value=(kind | None, None))
    assert Codec(model).is_plain == is_plain


@pytest.mark.skipif("exclude_if" not in signature(Field).parameters, reason="pydantic before 2.12")
def test_a_field_that_is_left_out_at_times_is_not_plain() -> None:
    """Whether it is written is asked anew each time."""
    options: dict[str, Any] = {"exclude_if": lambda value: TAX["now"] > 0}
    model: Any = create_model("Model", value=(int, Field(0, **options)))
    assert not Codec(model).is_plain


async def test_data_that_its_model_hands_out_is_looked_at() -> None:
    """Nobody asks the session for it, and it is changed all the same."""
    made: list[Any] = []

    class Registered(BaseModel):
        count: int = 0

        def model_post_init(self, context: Any) -> None:
            made.append(self)

    who = await visitor(Registered, lambda session: setattr(session.data, "count", 1))
    await who.request(lambda session: setattr(made[-1], "count", 99))
    assert await who.sees(lambda data: data.count) == 99


def test_more_contents_than_are_remembered_are_dumped_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each content read in turn, three times: what a process remembers has a limit."""
    monkeypatch.setattr("fastapi_async_sessions._core.codec._MAX_VERBATIM", 2)
    codec, dumped = Codec(Line), []
    raws = [codec.dump(Line(name=name)) for name in "abc"]
    monkeypatch.setattr(codec, "dump", lambda data: dumped.append(data) or Codec.dump(codec, data))
    for raw in raws * 3:
        assert codec.dump_as_read(codec.load(raw), raw) == raw
    assert len(dumped) > len(raws)


def test_another_order_is_a_change_unless_the_order_means_nothing() -> None:
    """The same moment in another time zone is a change too: the text is what comes back."""
    codec = Codec(Appointment)
    before = codec.dump(Appointment())
    swapped = before.replace(b'"both":["ada","bob"]', b'"both":["bob","ada"]')
    if swapped == before:
        swapped = before.replace(b'"both":["bob","ada"]', b'"both":["ada","bob"]')
    assert swapped != before
    assert not codec.is_change(before, swapped)
    assert codec.is_change(before, codec.dump(Appointment(names=["bob", "ada"])))
    utc = datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=2)))
    assert codec.is_change(before, codec.dump(Appointment(at=utc)))


class Money(BaseModel):
    amount: Decimal = Decimal("0.10")
    ratio: float = 0.1
    lasts: timedelta = timedelta(seconds=1.5)
    blob: bytes = b"\x00x"
    big: int = 2**70
    pairs: dict[int, str] = {1: "one"}


async def test_values_come_back_exactly() -> None:
    """Decimals, floats, bytes, large integers and keys that are no text."""
    who = await visitor(Money, lambda session: setattr(session.data, "blob", b"y\x00\x7f"))
    read = await who.request(lambda session: session.data == Money(blob=b"y\x00\x7f"))
    assert read.json() is True
    assert who.store.calls == ["load"]


# another release


class Newer(Data):
    theme: str = "light"
    stamps: list[str] = Field(default=["new"])


async def test_a_field_that_a_newer_model_adds_is_no_change() -> None:
    """Its default is there at once, and nothing is written for it."""
    who = await visitor(Data, lambda session: setattr(session.data, "count", 1))
    who.deploy(Newer)
    assert await who.sees(lambda data: [data.count, data.theme, data.stamps]) == [
        1,
        "light",
        ["new"],
    ]


async def test_what_an_older_model_does_not_know_stays() -> None:
    """A release that runs beside a newer one does not throw away the newer one's fields."""
    who = await visitor(Newer, lambda session: setattr(session.data, "theme", "dark"))
    who.deploy(Data)
    await who.request(lambda session: setattr(session.data, "count", 5))
    assert who.store.writes == ["save"]
    who.deploy(Newer)
    assert await who.sees(lambda data: [data.count, data.theme]) == [5, "dark"]


# what is not let in


class Strict(BaseModel):
    age: int = Field(default=0, ge=0, le=150)
    name: str = ""
    inner: Line = Line()


INVALID: dict[str, tuple[Act, str]] = {
    "a value that its field refuses": (lambda data: setattr(data, "age", 4711), "age"),
    "a value of another type": (lambda data: setattr(data, "name", 4711), "name"),
    "deep inside": (lambda data: setattr(data.inner, "tags", ["x", 4711]), "inner"),
    "no JSON at all": (lambda data: setattr(data, "name", object()), "name"),
    "a lone surrogate": (lambda data: setattr(data, "name", "4711\ud800"), "name"),
    "no number": (lambda data: setattr(data, "age", float("nan")), "age"),
}


@pytest.mark.parametrize(("change", "field"), INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("is_stored", [True, False])
async def test_data_that_its_model_refuses_is_not_written(
    change: Act, field: str, is_stored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """500, naming the field and no value; the session stays as it was."""
    who = Visitor(Strict)
    if is_stored:
        await who.request(lambda session: setattr(session.data, "name", "ada"))
    response = await who.request(lambda session: change(session.data))
    assert (response.status_code, set_cookie_kind(response)) == (500, None)
    assert field in response.json()["detail"]
    assert "4711" not in response.text + caplog.text
    assert who.store.writes == []
    assert await who.sees(lambda data: data.name) == ("ada" if is_stored else "")


def test_an_invalid_session_is_raised_where_it_is_committed() -> None:
    """The error has the fields as facts, and nothing of the values in its text or context."""
    codec = Codec(Strict)
    broken = Strict()
    broken.age = 4711
    with pytest.raises(SessionInvalid) as raised:
        codec.is_change(codec.dump(Strict()), codec.dump(broken))
    assert raised.value.fields == ("age",)
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert "4711" not in repr(raised.value) + str(raised.value)


async def test_assigning_something_else_raises_at_once() -> None:
    """``session.data`` takes the model, and no dict that looks like it."""
    who = Visitor(Data)

    def act(session: Any) -> None:
        with pytest.raises(TypeError, match="Data"):
            session.data = {"count": 1}

    assert (await who.request(act)).status_code == 200
    assert who.store.calls == []


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_session_that_grows_too_large_keeps_its_old_state(is_stored: bool) -> None:
    """500 without a cookie; the limit itself is allowed."""
    limit = 500
    who = Visitor(Strict, max_bytes=limit)
    room = limit - HEADER_SIZE - len(Codec(Strict).dump(Strict()))
    if is_stored:
        response = await who.request(lambda session: setattr(session.data, "name", "x" * room))
        assert (response.status_code, set_cookie_kind(response)) == (200, "sent")
    response = await who.request(lambda session: setattr(session.data, "name", "y" * (room + 1)))
    assert (response.status_code, set_cookie_kind(response)) == (500, None)
    assert f"{limit + 1} bytes" in response.json()["detail"]
    assert who.store.writes == []
    assert await who.sees(lambda data: data.name) == ("x" * room if is_stored else "")


def test_the_size_is_a_fact_of_its_error() -> None:
    """A handler can tell how large, and how large it may be."""
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
    "NaN in a field": b'{"count": NaN}',
    "Infinity": b'{"count": Infinity}',
    "a wrong type": b'{"count": "many"}',
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
    """Never an error: an event tells, and the next change begins a session of its own."""
    who = await visitor(Data, lambda session: setattr(session.data, "count", 1))
    await who.plant(raw)
    who.events.clear()
    response = await who.request(lambda session: session.is_new)
    assert (response.status_code, response.json()) == (200, True)
    assert set_cookie_kind(response) is None
    assert who.events == ["corrupt"]
    response = await who.request(lambda session: setattr(session.data, "count", 2))
    assert set_cookie_kind(response) == "sent"
    assert await who.sees(lambda data: data.count) == 2
    assert "garbage" not in caplog.text


async def test_duplicate_keys_are_read_as_one() -> None:
    """The last one counts, as everywhere in JSON: no error, and no two opinions."""
    who = await visitor(Data, lambda session: setattr(session.data, "count", 1))
    await who.plant(b'{"count": 1, "count": 2, "lines": []}')
    assert await who.sees(lambda data: data.count) == 2


async def test_a_record_of_ten_megabytes_is_not_parsed() -> None:
    """What is larger than any session of ours is not one."""
    who = await visitor(Data, lambda session: setattr(session.data, "count", 1))
    await who.plant(b'{"lines": [' + b'{"name": "x"},' * 800_000 + b'{"name": "x"}]}')
    response = await who.request(lambda session: session.is_new)
    assert (response.json(), who.events[-1]) == (True, "corrupt")


# any text

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


@settings(max_examples=100, deadline=None)
@given(text=st.text(), texts=st.dictionaries(st.text(), st.lists(st.text())), value=_JSON)
def test_any_data_comes_back_as_it_was(text: str, texts: dict[str, list[str]], value: Any) -> None:
    """Every text that can be written in UTF-8, NUL and line ends too, and any JSON value."""
    codec = Codec(Free)
    data = Free(text=text, texts=texts, value=value)
    raw = codec.dump(data)
    assert codec.load(raw) == data
    assert not codec.is_change(raw, codec.dump(codec.load(raw)))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(min_size=1))
async def test_any_text_comes_back_over_http(text: str) -> None:
    """Through the route, the commit and the next request."""
    who = await visitor(Free, lambda session: setattr(session.data, "text", text))
    assert await who.sees(lambda data: data.text) == text


class Deprecated(BaseModel):
    count: int = 0
    old: set[str] = Field(default=set(), deprecated=True)


def test_a_deprecated_field_warns_nobody_but_who_uses_it() -> None:
    """The library itself reads it without a warning, at the start and in a merge."""
    codec = Codec(Deprecated)
    assert codec.changed_fields(codec.dump(Deprecated()), codec.dump(Deprecated(count=1))) == [
        "count"
    ]
