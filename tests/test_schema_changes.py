"""Sessions written by an older or a newer release of an application, and corrupt records."""

import pickle
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import pytest
from fastapi import Depends
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from fastapi_async_sessions import (
    Lifetime,
    MemoryStore,
    Record,
    Session,
    SessionEvent,
    SessionInvalid,
)
from fastapi_async_sessions._core.header import Header
from fastapi_async_sessions._core.repository import Absent
from fastapi_async_sessions.records import new_version, to_microseconds
from fastapi_async_sessions.testing import FrozenClock
from fastapi_async_sessions.testing.standins import session_cookies as stored_cookies

from .apps import (
    GENERAL,
    browser,
    cookie_value,
    make_app,
    make_provider,
    set_cookie_kind,
    with_json,
)
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


class Releases:
    """Releases of one application, each with a model of its own, over one store."""

    def __init__(self) -> None:
        self.clock = FrozenClock(START)
        self.store = SpyStore(MemoryStore(clock=self.clock))
        self.events: list[SessionEvent] = []

    def provider(self, model: type[BaseModel], **options: Any) -> Any:
        """The provider of one release, which adds to ``events``."""
        store = SpyStore(self.store)
        return make_provider(store, model, clock=self.clock, on_event=self.events.append, **options)

    def site(self, model: type[BaseModel], **options: Any) -> Any:
        get_session = self.provider(model, **options)
        app = make_app()
        own_session = Annotated[Session[Any], Depends(get_session)]

        @app.get("/")
        async def read(session: own_session) -> dict[str, Any]:
            return {"new": session.is_new, "data": session.data.model_dump()}

        @app.post("/set/{field}/{value}")
        async def change(session: own_session, field: str, value: str) -> None:
            kind = type(getattr(session.data, field))
            setattr(session.data, field, kind(value) if kind in (int, str) else value)

        @app.post("/sign-in")
        async def sign_in(session: own_session) -> None:
            session.renew(subject="42")

        return app

    async def stored(self, data: BaseModel) -> dict[str, str]:
        """The cookie of a session that a release with this model stored."""
        return await stored_cookies(self.provider(type(data)), data)

    async def overwrite(self, body: bytes) -> None:
        """Replace the body of the only record."""
        ((key, record),) = (await self.store.records()).items()
        written = Record(body, new_version(), record.owner, record.expires_at)
        assert await self.store.inner.save(key, written, replaces=record.version)

    async def overwrite_json(self, raw: bytes) -> None:
        """Replace the data of the only record, under a valid seal."""
        ((key, record),) = (await self.store.records()).items()
        written = with_json(self.provider(First), key, record, raw)
        assert await self.store.inner.save(key, written, replaces=record.version)

    def kinds(self) -> list[str]:
        kinds = [event.kind for event in self.events if event.kind != "created"]
        self.events.clear()
        return kinds


@pytest.fixture
def releases() -> Releases:
    return Releases()


def browser_with(app: Any, cookies: dict[str, str]) -> Any:
    """A browser whose cookies were set by the site itself, so that the site can replace them."""
    client = browser(app)
    for name, value in cookies.items():
        client.cookies.set(name, value, domain="testserver.local", path="/")
    return client


async def read(app: Any, cookies: dict[str, str]) -> Any:
    return (await browser_with(app, cookies).get("/")).json()


# changes that Pydantic handles


async def test_an_added_field_has_its_default(releases):
    """A removed field is ignored."""
    cookies = await releases.stored(First(name="Ada", age="36"))
    assert await read(releases.site(Second), cookies) == {
        "new": False,
        "data": {"name": "Ada", "age": 36, "email": None},
    }

    class Less(BaseModel):
        name: str = ""

    assert await read(releases.site(Less), cookies) == {"new": False, "data": {"name": "Ada"}}
    assert releases.kinds() == []


async def test_a_renamed_field_can_be_mapped_by_a_validator(releases):
    """Data is stored under field names, so that an alias is not enough."""

    class Renamed(BaseModel):
        model_config = ConfigDict(validate_by_name=True)
        full_name: str = Field("", validation_alias=AliasChoices("fullName"))

        @model_validator(mode="before")
        @classmethod
        def rename(cls, values: Any) -> Any:
            if isinstance(values, dict) and "name" in values:
                values = {**values, "full_name": values["name"]}
            return values

    cookies = await releases.stored(First(name="Ada"))
    assert (await read(releases.site(Renamed), cookies))["data"] == {"full_name": "Ada"}


async def test_a_removed_field_is_invalid_if_the_model_forbids_extras(releases):
    """With ``on_invalid="discard"`` the session is discarded."""

    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        name: str = ""

    cookies = await releases.stored(First(name="Ada"))
    assert (await read(releases.site(Closed, on_invalid="discard"), cookies))["new"] is True
    assert releases.kinds() == ["corrupt"]


# on_invalid="discard"


async def test_an_invalid_session_is_replaced_by_a_new_one(releases):
    """The response is a 200 without a cookie; the event names the fields and no values."""
    cookies = await releases.stored(First(name="Ada", age="thirty-six"))
    app = releases.site(Second, on_invalid="discard")
    response = await browser_with(app, cookies).get("/")
    assert response.json() == {"new": True, "data": {"name": "", "age": 0, "email": None}}
    assert set_cookie_kind(response) is None
    (event,) = [event for event in releases.events if event.kind == "corrupt"]
    assert event.facts == {"reason": "the data does not fit the model", "fields": "age"}
    assert "thirty-six" not in repr(event)


async def test_a_discarded_record_is_kept_for_a_rollback(releases):
    """Reading and writing with the newer release do not change the older one's record."""
    cookies = await releases.stored(First(name="Ada", age="thirty-six"))
    before = await releases.store.records()
    newer, older = releases.site(Second, on_invalid="discard"), releases.site(First)
    await read(newer, cookies)
    response = await browser_with(newer, cookies).post("/set/name/Eve")
    assert cookie_value(response) not in cookies.values()
    records = await releases.store.records()
    assert len(records) == 2
    assert before.items() <= records.items()
    assert (await read(older, cookies))["data"] == {"name": "Ada", "age": "thirty-six"}


# on_invalid="raise"


async def test_raise_responds_500_and_its_event_names_the_fields(releases):
    """The record is kept, and the release that wrote it can still use it."""
    cookies = await releases.stored(First(age="thirty-six"))
    response = await browser_with(releases.site(Second, on_invalid="raise"), cookies).get("/")
    assert response.status_code == 500
    assert response.json() == {"detail": GENERAL}
    assert set_cookie_kind(response) is None
    assert releases.kinds() == ["corrupt"]
    assert (await read(releases.site(First), cookies))["new"] is False


async def test_raise_does_not_show_the_values(releases):
    """They are neither in the error nor in its cause or context."""
    await releases.stored(First(age="thirty-six"))
    ((key, _),) = (await releases.store.records()).items()
    with pytest.raises(SessionInvalid) as raised:
        await releases.provider(Second, on_invalid="raise").open(key).__aenter__()
    assert raised.value.fields == ("age",)
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert "thirty-six" not in f"{raised.value!r} {raised.value} {raised.value.args}"


# on_invalid=migrate


def migrate(raw: dict[str, Any], error: ValidationError) -> Second:
    """Convert an age that was stored in words."""
    assert [detail["loc"] for detail in error.errors()] == [("age",)]
    return Second(name=raw["name"], age={"thirty-six": 36}[raw["age"]])


async def test_a_migration_converts_an_old_session(releases):
    """The session continues with the same token, and no ``corrupt`` event is emitted."""
    cookies = await releases.stored(First(name="Ada", age="thirty-six"))
    app = releases.site(Second, on_invalid=migrate)
    response = await browser_with(app, cookies).get("/")
    assert response.json() == {"new": False, "data": {"name": "Ada", "age": 36, "email": None}}
    assert set_cookie_kind(response) is None
    assert releases.kinds() == []


async def test_migrated_data_is_stored_with_the_next_change(releases):
    """Reading writes nothing, so that the old release can still read it after a rollback."""
    cookies = await releases.stored(First(name="Ada", age="thirty-six"))
    app, older = releases.site(Second, on_invalid=migrate), releases.site(First)
    before = await releases.store.records()
    await read(app, cookies)
    assert await releases.store.records() == before
    assert (await read(older, cookies))["data"]["age"] == "thirty-six"
    await browser_with(app, cookies).post("/set/name/Eve")
    assert (await read(releases.site(Second), cookies))["data"] == {
        "name": "Eve",
        "age": 36,
        "email": None,
    }
    assert len(await releases.store.records()) == 1


async def test_a_migrated_session_can_be_extended_and_renewed(releases):
    """Both write the migrated data."""
    cookies = await releases.stored(First(name="Ada", age="thirty-six"))
    app = releases.site(Second, on_invalid=migrate)
    releases.clock.advance(HOUR / 2)
    await read(app, cookies)
    releases.clock.advance(HOUR * 0.9)
    assert (await read(app, cookies))["data"]["age"] == 36
    client = browser_with(app, cookies)
    await client.post("/sign-in")
    assert (await client.get("/")).json()["data"]["age"] == 36


class Words(BaseModel):
    """An older release's data, which a newer one converts."""

    age: str = ""
    legacy: str = ""


class Years(BaseModel):
    age: int = 0


def in_years(raw: dict[str, Any], error: ValidationError) -> Years:
    return Years(age={"thirty-six": 36}[raw["age"]])


async def test_an_extension_leaves_what_an_older_release_stored(releases):
    """After a rollback that release still reads it."""
    cookies = await releases.stored(Words(age="thirty-six", legacy="x"))
    releases.clock.advance(HOUR / 2)
    before = await releases.store.records()
    assert (await read(releases.site(Years, on_invalid=in_years), cookies))["data"] == {"age": 36}
    assert await releases.store.records() != before
    older = await read(releases.site(Words), cookies)
    assert older["data"] == {"age": "thirty-six", "legacy": "x"}


async def test_migrated_data_is_stored_whole_after_an_extension_too(releases):
    """What the migration has dropped does not come back with the change."""
    cookies = await releases.stored(Words(age="thirty-six", legacy="x"))
    get_session = releases.provider(Years, on_invalid=in_years)
    app = make_app()

    @app.post("/")
    async def route(session: Annotated[Session[Years], Depends(get_session)]) -> None:
        await session.commit()
        session.data.age += 1

    releases.clock.advance(HOUR / 2)
    assert (await browser_with(app, cookies).post("/")).status_code == 200
    older = await read(releases.site(Words, on_invalid="fallback"), cookies)
    assert older["data"]["legacy"] == ""


class Renamed(BaseModel):
    """Reads a field under its old name, but not both names at once."""

    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def rename(cls, values: Any) -> Any:
        if isinstance(values, dict) and "called" in values:
            if "name" in values:
                raise ValueError("two names")
            return {"name": values["called"]}
        return values


class Called(BaseModel):
    called: str = ""


@pytest.mark.parametrize("policy", ["raise", "discard", "fallback"])
async def test_a_change_that_does_not_fit_beside_unknown_fields_is_stored_alone(releases, policy):
    """The next request reads it, instead of failing or beginning anew."""
    cookies = await releases.stored(Called(called="Ada"))
    app = releases.site(Renamed, on_invalid=policy)
    client = browser_with(app, cookies)
    assert (await client.get("/")).json()["data"] == {"name": "Ada"}
    assert (await client.post("/set/name/Eve")).status_code == 200
    assert (await client.get("/")).json() == {"new": False, "data": {"name": "Eve"}}


def raises(raw: dict[str, Any], error: ValidationError) -> Any:
    raise KeyError("age")


def a_dict(raw: dict[str, Any], error: ValidationError) -> Any:
    return {"name": "Ada"}


def nothing(raw: dict[str, Any], error: ValidationError) -> Any:
    return None


def still_invalid(raw: dict[str, Any], error: ValidationError) -> Any:
    return Second.model_construct(name="Ada", age="thirty-six")


@pytest.mark.parametrize("migration", [raises, a_dict, nothing, still_invalid])
async def test_a_migration_that_fails_gives_a_new_session(releases, caplog, migration):
    """The response is a 200, the failure is an event and in the log, and the record is kept."""
    cookies = await releases.stored(First(name="Ada", age="thirty-six"))
    assert (await read(releases.site(Second, on_invalid=migration), cookies))["new"] is True
    assert releases.kinds() == ["corrupt"]
    assert "on_invalid failed for provider 'session'" in caplog.text
    assert (await read(releases.site(First), cookies))["new"] is False


async def test_a_migration_is_only_called_with_a_dict(releases):
    """Lists, strings and invalid JSON are corrupt."""
    cookies = await releases.stored(First(name="Ada"))
    calls: list[Any] = []

    def migration(raw: dict[str, Any], error: ValidationError) -> Any:
        calls.append(raw)

    app = releases.site(Second, on_invalid=migration)
    for raw in (b"[]", b'"text"', b"null", b"{", b"", b"\xff"):
        await releases.overwrite_json(raw)
        assert (await read(app, cookies))["new"] is True
    assert calls == []
    assert releases.kinds() == ["corrupt"] * 6


# a model's own validators


@pytest.mark.parametrize("policy", ["discard", "raise", "migrate"])
async def test_any_error_of_a_validator_counts_as_invalid_data(releases, policy):
    """A ``KeyError`` in the model's code is handled like a ``ValidationError``."""

    class Unguarded(BaseModel):
        email: str = ""

        @model_validator(mode="before")
        @classmethod
        def check(cls, values: Any) -> Any:
            if values and isinstance(values, dict):
                values["email"].index("@")
            return values

    def migration(raw: dict[str, Any], error: ValidationError) -> Any:
        assert isinstance(error, ValidationError)
        assert error.title == "Unguarded"
        return Unguarded(email=f"{raw['name']}@example.com")

    cookies = await releases.stored(First(name="ada"))
    on_invalid: Any = migration if policy == "migrate" else policy
    response = await browser_with(releases.site(Unguarded, on_invalid=on_invalid), cookies).get("/")
    assert response.status_code == (500 if policy == "raise" else 200)
    if policy == "raise":
        assert response.json() == {"detail": GENERAL}
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


async def test_two_concurrent_releases_keep_each_other_s_fields(releases):
    """Each writes the fields it knows and keeps the others."""
    cookies = await releases.stored(Older(name="Ada", shared=1))
    older, newer = (
        browser_with(releases.site(Older), cookies),
        browser_with(releases.site(Newer), cookies),
    )
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


class Sorted(BaseModel):
    tags: Annotated[list[str], AfterValidator(sorted)] = []


async def test_a_validator_that_normalizes_keeps_the_other_release_s_fields(releases):
    """What the route wrote is read otherwise, and so it would be without those fields."""
    cookies = await releases.stored(Newer(email="ada@example.com", tags=["b", "a"]))
    get_session = releases.provider(Sorted)
    app = make_app()

    @app.post("/")
    async def route(session: Annotated[Session[Sorted], Depends(get_session)]) -> None:
        session.data.tags.insert(0, "c")

    assert (await browser_with(app, cookies).post("/")).status_code == 200
    newer = await read(releases.site(Newer), cookies)
    assert newer["data"]["email"] == "ada@example.com"
    assert sorted(newer["data"]["tags"]) == ["a", "b", "c"]


async def test_extensions_and_sign_ins_keep_the_other_release_s_fields(releases):
    """They write the whole record too."""
    cookies = await releases.stored(Newer(email="ada@example.com", tags=["a", "b"]))
    older = browser_with(releases.site(Older), cookies)
    releases.clock.advance(HOUR / 2)
    await older.get("/")
    await older.post("/sign-in")
    await older.post("/set/name/Ada")
    (record,) = (await releases.store.records()).values()
    assert b"ada@example.com" in record.body
    newer = browser_with(releases.site(Newer), dict(older.cookies))
    assert (await newer.get("/")).json() == {
        "new": False,
        "data": {"shared": 0, "email": "ada@example.com", "tags": ["a", "b"]},
    }


async def test_a_conflict_between_two_releases_keeps_both_s_fields(releases):
    """The older release merges its change into the record that the newer one has just written."""
    cookies = await releases.stored(Older(name="Ada"))
    older, newer = releases.provider(Older), releases.site(Newer)
    ((key, _),) = (await releases.store.records()).items()
    async with older.open(key) as session:
        await browser_with(newer, cookies).post("/set/email/ada@example.com")
        session.data.name = "Eve"
    async with older.open(key) as session:
        assert session.data.name == "Eve"
    assert (await read(newer, cookies))["data"]["email"] == "ada@example.com"


# corrupt records


BODY = Releases().provider(First).repository.seal.close("0" * 64, None, b"content")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"garbage",
        b"{}",
        b'{"name": "Ada"}',
        BODY[:20],
        b"\x01" + BODY[1:],
        b"\x03" + BODY[1:],
        b"\xff" * 200,
        b"x" * (1024 * 1024 + 1),
        pickle.dumps({"name": "Ada"}),
    ],
    ids=lambda body: repr(body[:12]),
)
async def test_a_record_without_a_valid_header_is_corrupt(releases, body):
    """With any ``on_invalid`` there is a new session and one event, which shows no stored byte."""
    cookies = await releases.stored(First(name="Ada"))
    await releases.overwrite(body)
    for policy in ("discard", "raise", a_dict):
        response = await browser_with(releases.site(First, on_invalid=policy), cookies).get("/")
        assert (response.status_code, response.json()["new"]) == (200, True)
        assert set_cookie_kind(response) is None
        (event,) = [event for event in releases.events if event.kind != "created"]
        assert event.kind == "corrupt"
        assert event.facts == {"reason": "the record was not sealed here"}
        releases.events.clear()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"NaN",
        b'"text"',
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
async def test_data_that_is_not_valid_json_is_corrupt(releases, raw):
    """It is never executed and overflows nothing: there is a new session and one event."""
    cookies = await releases.stored(First(name="Ada"))
    await releases.overwrite_json(raw)
    response = await browser_with(releases.site(First), cookies).get("/")
    assert (response.status_code, response.json()["new"]) == (200, True)
    assert releases.kinds() == ["corrupt"]


class Gadget:
    """Its pickle runs code when it is loaded."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Gadget, "ran", True)


async def test_a_pickle_in_the_store_is_never_loaded(releases):
    """Its code does not run, with or without a valid seal before it."""
    cookies = await releases.stored(First(name="Ada"))
    for overwrite in (releases.overwrite_json, releases.overwrite):
        await overwrite(pickle.dumps(Gadget()))
        assert (await read(releases.site(First), cookies))["new"] is True
    assert Gadget.ran is False


async def test_the_record_of_another_session_under_this_key_is_corrupt(releases):
    """A copied record has another secret, so that the data of its user is not shown."""
    cookies = await releases.stored(First(name="Ada"))
    ((key, _),) = (await releases.store.records()).items()
    await releases.stored(First(name="Eve"))
    other = next(record for at, record in (await releases.store.records()).items() if at != key)
    await releases.store.inner.delete(key)
    await releases.store.inner.create(key, other)
    assert await read(releases.site(First), cookies) == {
        "new": True,
        "data": {"name": "", "age": ""},
    }


@pytest.fixture(scope="module")
def repository():
    """Of a provider whose sessions last for 30,000 days."""
    lifetime = Lifetime(None, timedelta(days=30000))
    return Releases().provider(First, lifetime=lifetime).repository


@settings(max_examples=300)
@given(content=st.binary(max_size=200), is_sealed=st.booleans())
def test_reading_any_bytes_never_raises(repository, content, is_sealed):
    """With a valid seal too: a release may write what another does not know."""
    body = repository.seal.close("0" * 64, None, content) if is_sealed else content
    repository.read("0" * 64, Record(body, new_version(), None, START + HOUR))


@settings(max_examples=300)
@given(
    secret_hash=st.binary(min_size=32, max_size=32),
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=7, max_size=7),
    flags=st.integers(0, 3),
    size=st.integers(0, 2**16 - 1),
)
def test_reading_any_times_never_raises(repository, secret_hash, numbers, flags, size):
    """A header may hold any 64-bit numbers as times."""
    times = b"".join(number.to_bytes(8, "big", signed=True) for number in numbers)
    content = bytes([flags]) + secret_hash + times + size.to_bytes(2, "big") + b"{}"
    body = repository.seal.close("0" * 64, None, content)
    repository.read("0" * 64, Record(body, new_version(), None, START + HOUR))


async def test_a_time_near_the_end_of_the_calendar_is_corrupt(releases):
    """The session was last used in the year 9999 and has an idle timeout of a century."""
    end = to_microseconds(datetime(9999, 12, 1, tzinfo=UTC))
    century = Lifetime(timedelta(days=36525), None)
    header = Header.new(end, century, persistent=False)._replace(secret_hash=b"h" * 32)
    repository = releases.provider(First).repository
    body = repository.seal.close("0" * 64, None, header.pack() + b"{}")
    record = Record(body, new_version(), None, START + HOUR)
    assert repository.read("0" * 64, record) == Absent("corrupt")
    assert releases.kinds() == ["corrupt"]


# a store that fails


@pytest.mark.parametrize("policy", ["discard", "raise", a_dict])
async def test_a_failed_load_is_never_a_new_session(releases, policy):
    """With any ``on_invalid`` the response is a 503, and the session is there afterwards."""
    cookies = await releases.stored(First(name="Ada"))
    app = releases.site(First, on_invalid=policy)
    releases.store.hook = failing("load")
    response = await browser_with(app, cookies).get("/")
    assert (response.status_code, set_cookie_kind(response)) == (503, None)
    response = await browser_with(app, cookies).post("/set/name/Eve")
    assert (response.status_code, set_cookie_kind(response)) == (503, None)
    releases.store.hook = pass_on
    assert (await read(app, cookies))["data"]["name"] == "Ada"


# names of fields


async def test_fields_cannot_overwrite_attributes_of_the_session(releases):
    """Fields with the same names are data: assigning ``subject`` signs nobody in."""

    class SameNames(BaseModel):
        subject: str = ""
        key: str = ""
        expires_at: str = ""
        authenticated_at: str = ""
        role: Literal["user", "admin"] = "user"

    get_session = releases.provider(SameNames)
    app = make_app()
    own_session = Annotated[Session[SameNames], Depends(get_session)]

    @app.post("/")
    async def change(session: own_session) -> None:
        session.data = SameNames(
            subject="42", key="f" * 64, expires_at="9999", authenticated_at="now"
        )

    @app.get("/")
    async def look(session: own_session) -> list[Any]:
        return [session.subject, session.key, session.authenticated_at, session.expires_at.year]

    client = browser(app)
    await client.post("/")
    subject, key, authenticated_at, year = (await client.get("/")).json()
    assert (subject, authenticated_at, year) == (None, None, 2026)
    assert key != "f" * 64
