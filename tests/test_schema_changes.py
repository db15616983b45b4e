"""Sessions that an older or newer release of the application wrote, and records that nobody did."""

import pickle
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import pytest
from fastapi import Depends
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastapi_async_sessions import (
    Lifetime,
    MemoryStore,
    Record,
    Session,
    SessionEvent,
    SessionInvalid,
)
from fastapi_async_sessions._core.header import HEADER_SIZE, Header
from fastapi_async_sessions.records import new_version, to_microseconds
from fastapi_async_sessions.testing import FrozenClock
from fastapi_async_sessions.testing.standins import session_cookies as stored_cookies

from .apps import browser, cookie_value, make_app, make_provider, set_cookie_kind
from .doubles import SpyStore, failing, pass_on

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


class First(BaseModel):
    """What the first release stored."""

    name: str = ""
    age: str = ""


class Second(BaseModel):
    """``age`` became a number, ``email`` is new."""

    name: str = ""
    age: int = 0
    email: str | None = None


class Deploys:
    """Releases of one application, each with a model of its own, over one store."""

    def __init__(self) -> None:
        self.clock = FrozenClock(START)
        self.store = SpyStore(MemoryStore(clock=self.clock))
        self.events: list[SessionEvent] = []

    def provider(self, model: type[BaseModel], **options: Any) -> Any:
        """One release; it tells its events here."""
        store = SpyStore(self.store)
        return make_provider(store, model, clock=self.clock, on_event=self.events.append, **options)

    def site(self, model: type[BaseModel], **options: Any) -> Any:
        get_session = self.provider(model, **options)
        app = make_app()
        site_session = Annotated[Session[Any], Depends(get_session)]

        @app.get("/")
        async def read(session: site_session) -> dict[str, Any]:
            return {"new": session.is_new, "data": session.data.model_dump()}

        @app.post("/set/{field}/{value}")
        async def change(session: site_session, field: str, value: str) -> None:
            kind = type(getattr(session.data, field))
            setattr(session.data, field, kind(value) if kind in (int, str) else value)

        @app.post("/sign-in")
        async def sign_in(session: site_session) -> None:
            session.renew(subject="42")

        return app

    async def stored(self, data: BaseModel) -> dict[str, str]:
        """The cookie of a session that a release with this model stored."""
        return await stored_cookies(self.provider(type(data)), data)

    async def put(self, body: bytes, cookies: dict[str, str]) -> None:
        """Something else under the key of that cookie."""
        ((key, record),) = (await self.store.records()).items()
        written = Record(body, new_version(), record.subject, record.expires_at)
        assert await self.store.inner.save(key, written, replaces=record.version)

    def kinds(self) -> list[str]:
        kinds = [event.kind for event in self.events if event.kind != "created"]
        self.events.clear()
        return kinds


@pytest.fixture
def deploys() -> Deploys:
    return Deploys()


def visitor(app: Any, cookies: dict[str, str]) -> Any:
    """A browser that has this cookie from the site itself, so that another one replaces it."""
    client = browser(app)
    for name, value in cookies.items():
        client.cookies.set(name, value, domain="testserver.local", path="/")
    return client


async def read(app: Any, cookies: dict[str, str]) -> Any:
    return (await visitor(app, cookies).get("/")).json()


# what Pydantic settles by itself


async def test_a_field_that_is_new_has_its_default(deploys):
    """And one that is gone is not there."""
    cookies = await deploys.stored(First(name="Ada", age="36"))
    assert await read(deploys.site(Second), cookies) == {
        "new": False,
        "data": {"name": "Ada", "age": 36, "email": None},
    }

    class Less(BaseModel):
        name: str = ""

    assert await read(deploys.site(Less), cookies) == {"new": False, "data": {"name": "Ada"}}
    assert deploys.kinds() == []


async def test_a_field_that_was_renamed_is_found_by_a_validator(deploys):
    """Data is stored under field names, so that an alias does not rename it; a validator does."""

    class Renamed(BaseModel):
        model_config = ConfigDict(validate_by_name=True)
        full_name: str = Field("", validation_alias=AliasChoices("fullName"))

        @model_validator(mode="before")
        @classmethod
        def rename(cls, values: Any) -> Any:
            if isinstance(values, dict) and "name" in values:
                values = {**values, "full_name": values["name"]}
            return values

    cookies = await deploys.stored(First(name="Ada"))
    assert (await read(deploys.site(Renamed), cookies))["data"] == {"full_name": "Ada"}


async def test_a_field_that_the_model_forbids_is_invalid(deploys):
    """``extra="forbid"`` is the model's word: the session is discarded."""

    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        name: str = ""

    cookies = await deploys.stored(First(name="Ada"))
    assert (await read(deploys.site(Closed), cookies))["new"] is True
    assert deploys.kinds() == ["corrupt"]


# discard


async def test_an_old_session_that_does_not_fit_is_a_new_one_by_default(deploys):
    """200, no cookie, and an event that names the fields and not the values."""
    cookies = await deploys.stored(First(name="Ada", age="thirty-six"))
    response = await visitor(deploys.site(Second), cookies).get("/")
    assert response.json() == {"new": True, "data": {"name": "", "age": 0, "email": None}}
    assert set_cookie_kind(response) is None
    (event,) = [event for event in deploys.events if event.kind == "corrupt"]
    assert event.facts == {"reason": "the data does not fit the model", "fields": "age"}
    assert "thirty-six" not in repr(event)


async def test_a_discarded_record_is_left_for_a_release_that_is_rolled_back(deploys):
    """Reading and writing with the newer release leave the older one's record as it is."""
    cookies = await deploys.stored(First(name="Ada", age="thirty-six"))
    before = await deploys.store.records()
    newer, older = deploys.site(Second), deploys.site(First)
    await read(newer, cookies)
    response = await visitor(newer, cookies).post("/set/name/Eve")
    assert cookie_value(response) not in cookies.values()
    held = await deploys.store.records()
    assert len(held) == 2
    assert before.items() <= held.items()
    assert (await read(older, cookies))["data"] == {"name": "Ada", "age": "thirty-six"}


# raise


async def test_raise_answers_500_and_names_the_fields(deploys):
    """Not the values; the record stays, and a release that knows it serves it again."""
    cookies = await deploys.stored(First(age="thirty-six"))
    response = await visitor(deploys.site(Second, on_invalid="raise"), cookies).get("/")
    assert response.status_code == 500
    assert response.json() == {"detail": "The stored session does not fit its model. (age)"}
    assert set_cookie_kind(response) is None
    assert deploys.kinds() == ["corrupt"]
    assert (await read(deploys.site(First), cookies))["new"] is False


async def test_raise_shows_the_values_to_nobody(deploys):
    """Neither in the error nor in what it was raised from."""
    await deploys.stored(First(age="thirty-six"))
    ((key, _),) = (await deploys.store.records()).items()
    with pytest.raises(SessionInvalid) as raised:
        await deploys.provider(Second, on_invalid="raise").open(key).__aenter__()
    assert raised.value.fields == ("age",)
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert "thirty-six" not in f"{raised.value!r} {raised.value} {raised.value.args}"


# a migration


def migrate(raw: dict[str, Any], error: ValidationError) -> Second:
    """Ages that were written in words."""
    assert [detail["loc"] for detail in error.errors()] == [("age",)]
    return Second(name=raw["name"], age={"thirty-six": 36}[raw["age"]])


async def test_a_migration_makes_the_old_session_fit(deploys):
    """The session lives on under its token; no event cries corrupt."""
    cookies = await deploys.stored(First(name="Ada", age="thirty-six"))
    app = deploys.site(Second, on_invalid=migrate)
    response = await visitor(app, cookies).get("/")
    assert response.json() == {"new": False, "data": {"name": "Ada", "age": 36, "email": None}}
    assert set_cookie_kind(response) is None
    assert deploys.kinds() == []


async def test_a_migrated_session_is_stored_with_its_next_change(deploys):
    """Reading writes nothing, so that a rolled-back release still reads its own."""
    cookies = await deploys.stored(First(name="Ada", age="thirty-six"))
    app, older = deploys.site(Second, on_invalid=migrate), deploys.site(First)
    before = await deploys.store.records()
    await read(app, cookies)
    assert await deploys.store.records() == before
    assert (await read(older, cookies))["data"]["age"] == "thirty-six"
    await visitor(app, cookies).post("/set/name/Eve")
    assert (await read(deploys.site(Second), cookies))["data"] == {
        "name": "Eve",
        "age": 36,
        "email": None,
    }
    assert len(await deploys.store.records()) == 1


async def test_a_migrated_session_can_be_extended_and_renewed(deploys):
    """An extension writes what the migration made; a sign-in too."""
    cookies = await deploys.stored(First(name="Ada", age="thirty-six"))
    app = deploys.site(Second, on_invalid=migrate)
    deploys.clock.advance(HOUR / 2)
    await read(app, cookies)
    deploys.clock.advance(HOUR * 0.9)
    assert (await read(app, cookies))["data"]["age"] == 36
    client = visitor(app, cookies)
    await client.post("/sign-in")
    assert (await client.get("/")).json()["data"]["age"] == 36


def raising(raw: dict[str, Any], error: ValidationError) -> Any:
    raise KeyError("age")


def junk(raw: dict[str, Any], error: ValidationError) -> Any:
    return {"name": "Ada"}


def nothing(raw: dict[str, Any], error: ValidationError) -> Any:
    return None


def still_invalid(raw: dict[str, Any], error: ValidationError) -> Any:
    return Second.model_construct(name="Ada", age="thirty-six")


@pytest.mark.parametrize("migration", [raising, junk, nothing, still_invalid])
async def test_a_migration_that_fails_gives_a_new_session(deploys, caplog, migration):
    """Whatever it does wrong: 200, an event, a line in the log, and the record stays."""
    cookies = await deploys.stored(First(name="Ada", age="thirty-six"))
    assert (await read(deploys.site(Second, on_invalid=migration), cookies))["new"] is True
    assert deploys.kinds() == ["corrupt"]
    assert "on_invalid failed for provider 'session'" in caplog.text
    assert (await read(deploys.site(First), cookies))["new"] is False


async def test_a_migration_is_not_asked_about_what_is_no_data(deploys):
    """A list, a text, no JSON at all: there is no dict to give it."""
    cookies = await deploys.stored(First(name="Ada"))
    asked: list[Any] = []

    def migration(raw: dict[str, Any], error: ValidationError) -> Any:
        asked.append(raw)

    app = deploys.site(Second, on_invalid=migration)
    ((_, record),) = (await deploys.store.records()).items()
    for raw in (b"[]", b'"text"', b"null", b"{", b"", b"\xff"):
        await deploys.put(record.body[:HEADER_SIZE] + raw, cookies)
        assert (await read(app, cookies))["new"] is True
    assert asked == []
    assert deploys.kinds() == ["corrupt"] * 6


# a model's own validators


@pytest.mark.parametrize("policy", ["discard", "raise", "migrate"])
async def test_a_validator_that_stumbles_over_old_data_is_no_crash(deploys, policy):
    """A ``KeyError`` out of the model's own code is invalid data like any other."""

    class Stumbling(BaseModel):
        email: str = ""

        @model_validator(mode="before")
        @classmethod
        def check(cls, values: Any) -> Any:
            if values and isinstance(values, dict):
                values["email"].index("@")
            return values

    def migration(raw: dict[str, Any], error: ValidationError) -> Any:
        assert isinstance(error, ValidationError)
        return Stumbling(email=f"{raw['name']}@example.com")

    cookies = await deploys.stored(First(name="ada"))
    on_invalid: Any = migration if policy == "migrate" else policy
    response = await visitor(deploys.site(Stumbling, on_invalid=on_invalid), cookies).get("/")
    assert response.status_code == (500 if policy == "raise" else 200)
    if policy == "raise":
        assert response.json() == {"detail": "The stored session does not fit its model."}
    else:
        email = "ada@example.com" if policy == "migrate" else ""
        assert response.json() == {"new": policy != "migrate", "data": {"email": email}}


# a rolling deploy


class Older(BaseModel):
    name: str = ""
    shared: int = 0


class Newer(BaseModel):
    shared: int = 0
    email: str = ""
    tags: list[str] = []


async def test_two_releases_at_once_keep_each_other_s_fields(deploys):
    """Each writes what it knows and leaves the rest; a change of both merges."""
    cookies = await deploys.stored(Older(name="Ada", shared=1))
    older, newer = visitor(deploys.site(Older), cookies), visitor(deploys.site(Newer), cookies)
    await newer.post("/set/email/ada@example.com")
    await older.post("/set/shared/2")
    await newer.post("/set/shared/3")
    await older.post("/set/name/Eve")
    assert (await older.get("/")).json()["data"] == {"name": "Eve", "shared": 3}
    assert (await newer.get("/")).json()["data"] == {
        "shared": 3,
        "email": "ada@example.com",
        "tags": [],
    }


async def test_extensions_and_sign_ins_keep_the_other_release_s_fields(deploys):
    """Not only changes write."""
    cookies = await deploys.stored(Newer(email="ada@example.com", tags=["a", "b"]))
    older = visitor(deploys.site(Older), cookies)
    deploys.clock.advance(HOUR / 2)
    await older.get("/")
    await older.post("/sign-in")
    await older.post("/set/name/Ada")
    (record,) = (await deploys.store.records()).values()
    assert b"ada@example.com" in record.body
    newer = visitor(deploys.site(Newer), dict(older.cookies))
    assert (await newer.get("/")).json() == {
        "new": False,
        "data": {"shared": 0, "email": "ada@example.com", "tags": ["a", "b"]},
    }


async def test_a_conflict_between_two_releases_keeps_both_s_fields(deploys):
    """The older one merges over what the newer one has just written."""
    cookies = await deploys.stored(Older(name="Ada"))
    older, newer = deploys.provider(Older), deploys.site(Newer)
    ((key, _),) = (await deploys.store.records()).items()
    async with older.open(key) as session:
        await visitor(newer, cookies).post("/set/email/ada@example.com")
        session.data.name = "Eve"
    async with older.open(key) as session:
        assert session.data.name == "Eve"
    assert (await read(newer, cookies))["data"]["email"] == "ada@example.com"


# corrupt records


BEGAN = to_microseconds(START)
BODY = Header(b"h" * 32, BEGAN, None, BEGAN, None, None, persistent=False).pack(b"b" * 8) + b"{}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"garbage",
        b"{}",
        b'{"name": "Ada"}',
        BODY[:20],
        b"\x02" + BODY[1:],
        b"\xff" * 200,
        b"x" * (1024 * 1024 + 1),
        pickle.dumps({"name": "Ada"}),
    ],
    ids=lambda body: repr(body[:12]),
)
async def test_a_record_without_our_header_is_no_session(deploys, body):
    """Whatever ``on_invalid`` says: a new session and one event, without a byte of the record."""
    cookies = await deploys.stored(First(name="Ada"))
    await deploys.put(body, cookies)
    for policy in ("discard", "raise", junk):
        response = await visitor(deploys.site(First, on_invalid=policy), cookies).get("/")
        assert (response.status_code, response.json()["new"]) == (200, True)
        assert set_cookie_kind(response) is None
        (event,) = [event for event in deploys.events if event.kind != "created"]
        assert event.kind == "corrupt"
        assert event.facts == {"reason": "the header is not one of ours"}
        deploys.events.clear()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"NaN",
        b'"text"',
        b'{"name": {"$ne": null}}',
        b'{"name": "Ada"',
        b'{"name": "\xff\xfe"}',
        b'{"name": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        pickle.dumps({"name": "Ada"}),
        b"!!python/object/apply:os.system ['false']",
        b"\x1f\x8b\x08\x00",
    ],
    ids=lambda raw: repr(raw[:24]),
)
async def test_data_that_is_no_json_of_ours_is_no_session(deploys, raw):
    """Nothing is executed, nothing overflows: a new session and one event."""
    cookies = await deploys.stored(First(name="Ada"))
    ((_, record),) = (await deploys.store.records()).items()
    await deploys.put(record.body[:HEADER_SIZE] + raw, cookies)
    response = await visitor(deploys.site(First), cookies).get("/")
    assert (response.status_code, response.json()["new"]) == (200, True)
    assert deploys.kinds() == ["corrupt"]


class Gadget:
    """What a pickle would run."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Gadget, "ran", True)


async def test_a_pickle_in_the_store_is_never_loaded(deploys):
    """The gadget does not run, with or without our header before it."""
    cookies = await deploys.stored(First(name="Ada"))
    ((_, record),) = (await deploys.store.records()).items()
    for head in (b"", record.body[:HEADER_SIZE]):
        await deploys.put(head + pickle.dumps(Gadget()), cookies)
        assert (await read(deploys.site(First), cookies))["new"] is True
    assert Gadget.ran is False


async def test_another_session_s_record_under_this_key_is_no_session(deploys):
    """A copy of another user's record has another secret: nobody gets that user's data."""
    cookies = await deploys.stored(First(name="Ada"))
    ((key, _),) = (await deploys.store.records()).items()
    await deploys.stored(First(name="Eve"))
    other = next(record for at, record in (await deploys.store.records()).items() if at != key)
    await deploys.store.inner.delete(key)
    await deploys.store.inner.create(key, other)
    assert await read(deploys.site(First), cookies) == {
        "new": True,
        "data": {"name": "", "age": ""},
    }


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.binary(min_size=len(BODY), max_size=120))
def test_any_bytes_are_a_session_or_none(body):
    """Reading never raises."""
    repository = Deploys().provider(First).repository
    binding = repository.binding("0" * 64)
    for prefix in (b"", BODY[:1], BODY[:2] + binding, BODY[:2] + binding + BODY[10:42]):
        record = Record(prefix + body, new_version(), None, START + HOUR)
        repository.read("0" * 64, record)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=6, max_size=6),
    st.integers(0, 3),
)
def test_any_times_are_a_session_or_none(secret_hash, numbers, flags):
    """The year 9999 and before, ages of any length: reading never raises."""
    times = b"".join(number.to_bytes(8, "big", signed=True) for number in numbers)
    lifetime = Lifetime(None, timedelta(days=30000))
    repository = Deploys().provider(First, lifetime=lifetime).repository
    body = bytes([1, flags]) + repository.binding("0" * 64) + secret_hash + times + b"{}"
    repository.read("0" * 64, Record(body, new_version(), None, START + HOUR))


async def test_a_time_near_the_end_of_the_calendar_is_no_crash(deploys):
    """Seen in the year 9999 and idle for a century."""
    end = to_microseconds(datetime(9999, 12, 1, tzinfo=UTC))
    century = Lifetime(timedelta(days=36525), None)
    header = Header(b"h" * 32, BEGAN, None, end, None, century, persistent=False)
    repository = deploys.provider(First).repository
    body = header.pack(repository.binding("0" * 64)) + b"{}"
    assert repository.read("0" * 64, Record(body, new_version(), None, START + HOUR)) is None
    assert deploys.kinds() == ["corrupt"]


# a store that fails is no empty session


@pytest.mark.parametrize("policy", ["discard", "raise", junk])
async def test_a_store_that_fails_is_never_an_empty_session(deploys, policy):
    """503, whatever ``on_invalid`` says, and the session is there when the store is back."""
    cookies = await deploys.stored(First(name="Ada"))
    app = deploys.site(First, on_invalid=policy)
    deploys.store.hook = failing("load")
    response = await visitor(app, cookies).get("/")
    assert (response.status_code, set_cookie_kind(response)) == (503, None)
    response = await visitor(app, cookies).post("/set/name/Eve")
    assert (response.status_code, set_cookie_kind(response)) == (503, None)
    deploys.store.hook = pass_on
    assert (await read(app, cookies))["data"]["name"] == "Ada"


# a user's model reaches none of the library's own facts


async def test_a_model_cannot_reach_the_session_s_own_facts(deploys):
    """Fields named like them are data: nobody signs in by assigning one."""

    class Sly(BaseModel):
        subject: str = ""
        key: str = ""
        expires_at: str = ""
        authenticated_at: str = ""
        role: Literal["user", "admin"] = "user"

    get_session = deploys.provider(Sly)
    app = make_app()
    sly_session = Annotated[Session[Sly], Depends(get_session)]

    @app.post("/")
    async def change(session: sly_session) -> None:
        session.data = Sly(subject="42", key="f" * 64, expires_at="9999", authenticated_at="now")

    @app.get("/")
    async def look(session: sly_session) -> list[Any]:
        return [session.subject, session.key, session.authenticated_at, session.expires_at.year]

    client = browser(app)
    await client.post("/")
    subject, key, authenticated_at, year = (await client.get("/")).json()
    assert (subject, authenticated_at, year) == (None, None, 2026)
    assert key != "f" * 64
