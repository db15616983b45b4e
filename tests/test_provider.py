"""A mistake in the configuration is an error when the provider is built, without the secret."""

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self
from uuid import UUID, uuid4

import pytest
from fastapi import Depends, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretBytes,
    SecretStr,
    model_validator,
)

from fastapi_async_sessions import (
    ConfigurationError,
    CookieConfig,
    Lifetime,
    MemoryStore,
    Session,
    SessionProvider,
)

from .apps import OLDER_SECRET, SECRET, Data, browser, make_app, make_provider, set_cookie_kind
from .races import Client

# secrets

WEAK: list[tuple[Any, str]] = [
    ("", "shorter than 32 bytes"),
    ("hunter2-" * 3 + "hunter2", "shorter than 32 bytes"),
    (b"hunter2-hunter2-hunter2-hunter2", "shorter than 32 bytes"),
    (SecretStr("hunter2"), "shorter than 32 bytes"),
    (" " * 64, "shorter than 32 bytes"),
    ("hunter2" + " " * 32, "shorter than 32 bytes"),
    ("a" * 64, "repeats a few characters"),
    ("abcdefg" * 16, "repeats a few characters"),
    ("changeme-hunter2-0123456789-abcdefghijk", "sample from documentation"),
    ("YOUR-SECRET-hunter2-0123456789-abcdefghijk", "sample from documentation"),
    ("09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7", "sample"),  # FastAPI's
    ("django-insecure-b8r0$kd2x&l5f!q9zw3m7u1e6t4y_j^hnv", "sample from documentation"),
    ("my-super-secret-key" * 2, "repeats a few characters"),
    ("1234567890" * 4, "repeats a few characters"),
    ("1234567890" * 3 + "1234", "repeats a few characters"),
    ([], "takes one secret"),
    ([SECRET + str(number) for number in range(6)], "takes one secret"),
    ([SECRET, SECRET], "the same secret twice"),
    ([SECRET, SECRET.encode()], "the same secret twice"),
    ([SECRET, "hunter2"], "shorter than 32 bytes"),
    (None, "secret_key takes"),
    (42, "secret_key takes str, bytes or SecretStr, not int"),
    (SecretBytes(b"hunter2" * 5), r"not SecretBytes. Pass its get_secret_value\(\)"),
    ([None], "secret_key takes"),
    ([SECRET, 42], "secret_key takes"),
]


@pytest.mark.parametrize(("secret", "rule"), WEAK)
def test_a_weak_secret_is_an_error(secret: Any, rule: str) -> None:
    """The error names the rule, and neither it nor its context shows the secret."""
    with pytest.raises(ConfigurationError, match=rule) as raised:
        make_provider(secret_key=secret)
    assert "hunter2" not in f"{raised.value!r} {raised.value.__context__!r}"


@pytest.mark.parametrize(
    "secret",
    [
        SECRET,
        SECRET.encode(),
        SecretStr(SECRET),
        [SECRET],
        (SECRET, OLDER_SECRET.encode(), SecretStr("x" + SECRET)),
        [SECRET + str(number) for number in range(5)],
        base64.b64encode(bytes(range(32))).decode(),
        bytes(range(32)),
    ],
)
def test_a_good_secret_may_have_any_type(secret: Any) -> None:
    """It is a ``str``, ``bytes``, ``SecretStr``, or a sequence of up to five of them."""
    assert SECRET not in repr(make_provider(secret_key=secret))


# the model


class Required(BaseModel):
    name: str
    age: int
    nick: str = ""


class Nested(BaseModel):
    inner: Required


class WithSecret(BaseModel):
    token: SecretStr = SecretStr("hunter2")


class WithEmptySecret(BaseModel):
    token: SecretStr = SecretStr("")


class WithOptionalSecret(BaseModel):
    token: SecretBytes | None = None


class WithNestedSecret(BaseModel):
    accounts: list[WithEmptySecret] = []


class WithNestedDictOfSecrets(BaseModel):
    accounts: dict[str, dict[str, SecretStr | int]] = {}


class Unserializable(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    fine: int = 0
    handle: Any = object()


class Lossy(BaseModel):
    number: Annotated[int, PlainSerializer(lambda value: str(value + 1))] = 1


class LostAsNaN(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    ratio: Annotated[float, PlainSerializer(lambda value: value * float("nan"))] = 1.0


class TwiceLossy(Lossy):
    other: Annotated[int, PlainSerializer(lambda value: str(value + 1))] = 1


class InvalidDefault(BaseModel):
    number: Annotated[int, Field(ge=10)] = 1


class ValidatedDefault(BaseModel):
    number: Annotated[int, Field(ge=10, validate_default=True)] = 1


class ValidatedDefaults(ValidatedDefault):
    other: Annotated[int, Field(ge=10, validate_default=True)] = 1


class Contradictory(BaseModel):
    @model_validator(mode="after")
    def refuse(self) -> Self:
        raise ValueError("hunter2")


class Raising(BaseModel):
    number: int = Field(default_factory=lambda: int("hunter2"))


class Undefined(BaseModel):
    friend: "Missing | None" = None  # type: ignore[name-defined]  # noqa: F821


class Infinite(BaseModel):
    number: float = float("nan")


def _grown(value: str) -> str:
    return value + "!"


class Growing(BaseModel):
    text: Annotated[str, AfterValidator(_grown)] = "x"


REFUSED_MODELS: list[tuple[Any, str]] = [
    (dict, "BaseModel"),
    (None, "BaseModel"),
    (Data(), "BaseModel"),
    (int | None, "BaseModel"),
    (Required, r"Required.*name, age"),
    (Nested, r"Nested.*inner"),
    (WithSecret, r"WithSecret.*token"),
    (WithEmptySecret, r"WithEmptySecret.*token"),
    (WithOptionalSecret, r"WithOptionalSecret.*token"),
    (WithNestedSecret, r"WithNestedSecret.*token"),
    (WithNestedDictOfSecrets, r"WithNestedDictOfSecrets.*accounts"),
    (Unserializable, r"Unserializable.*handle"),
    (Lossy, r"Lossy.*number"),
    (
        TwiceLossy,
        r"TwiceLossy does not survive a round trip through JSON \(number, other\): use types that "
        "JSON can represent, with defaults of those types, and no exclude=True",
    ),
    (LostAsNaN, r"LostAsNaN.*ratio"),
    (InvalidDefault, r"InvalidDefault.*number"),
    (ValidatedDefault, r"ValidatedDefault\(\), but its defaults are not valid: number"),
    (ValidatedDefaults, r"its defaults are not valid: number, other"),
    (Contradictory, r"Contradictory\(\), but its defaults are not valid: as a whole"),
    (Raising, r"Raising\(\), but it raises ValueError"),
    (Undefined, r"cannot use Undefined as it is: undefined-annotation"),
    (Infinite, r"Infinite.*number"),
    (Growing, r"Growing.*text"),
]


@pytest.mark.parametrize(("model", "named"), REFUSED_MODELS)
def test_a_model_unfit_for_a_session_is_an_error(model: Any, named: str) -> None:
    """Each field needs a default, and JSON must round-trip the defaults."""
    with pytest.raises(ConfigurationError, match=named) as raised:
        make_provider(model=model)
    assert "hunter2" not in str(raised.value)


class Rich(BaseModel):
    """A model with everything that a session's model may have."""

    model_config = ConfigDict(extra="forbid", frozen=False, ser_json_inf_nan="constants")

    made_at: datetime = Field(default_factory=datetime.now)
    id: UUID = Field(default_factory=uuid4)
    tags: set[str] = {"a", "b"}
    ratio: float = 0.1
    unknown: float = float("nan")
    blob: bytes = b"abc"
    pair: tuple[int, str] = (1, "x")
    lasts: timedelta = timedelta(minutes=1)
    named: str = Field(default="", validation_alias="Named", serialization_alias="NAMED")
    inner: Data = Data()


def test_a_model_may_have_whatever_round_trips_through_json() -> None:
    """This covers times, sets, factories, aliases and nested models."""
    make_provider(model=Rich)


# everything else


def naive() -> datetime:
    return datetime(2026, 1, 1)  # noqa: DTZ001  # the mistake under test


def without_addresses(value: Any) -> str:
    """A test's id that does not change with the address of a function."""
    return re.sub(r" at 0x\w+", "", repr(value))


WRONG: list[tuple[dict[str, Any], str]] = [
    *(({"name": name}, "name=") for name in ("", "a b", "a=b", "a;b", "ä", "a.b", "a\n", "x" * 65)),
    *(({"name": name}, "name=") for name in ("__Host-x", "__host-x", "__Secure-x", None, 5)),
    ({"store": "memory"}, "store="),
    ({"store": None}, "store="),
    ({"store": MemoryStore}, "store="),
    ({"on_conflict": "merge"}, "on_conflict="),
    ({"on_invalid": "ignore"}, "on_invalid="),
    ({"on_event": "log"}, "on_event="),
    ({"on_event": lambda: None}, "on_event="),
    ({"on_invalid": lambda stored: stored}, "on_invalid="),
    ({"check_origin": None}, "check_origin="),
    ({"check_origin": False, "trusted_origins": ["https://*.example.com"]}, "trusted_origins"),
    *(
        ({"max_bytes": size}, "max_bytes=")
        for size in (0, -1, 1, 100, True, 2**20 + 1, "big", None)
    ),
    *(
        ({option: value}, option)
        for option in ("store_timeout", "commit_timeout")
        for value in (timedelta(0), timedelta(seconds=-1), 2, 2.5, None)
    ),
    ({"clock": naive}, "clock="),
    ({"clock": None}, "clock="),
    ({"clock": lambda: 0}, "clock="),
    ({"clock": lambda: datetime(1969, 12, 31, tzinfo=UTC)}, "clock="),
    ({"clock": lambda: datetime(9800, 1, 1, tzinfo=UTC)}, "clock=.*9799"),
    ({"lifetime": timedelta(hours=1)}, "lifetime="),
    ({"lifetime": None}, "lifetime="),
    *(({"encrypt": value}, "encrypt=") for value in ("yes", 1, None)),
    *(
        ({"max_sessions_per_subject": limit}, "max_sessions_per_subject=")
        for limit in (0, -1, 51, True, "5", 2.5)
    ),
    ({"cookie": None}, "cookie="),
    ({"cookie": {"secure": False}}, "cookie="),
    (
        {
            "cookie": CookieConfig(persistent=True),
            "lifetime": Lifetime(absolute=timedelta(days=401)),
        },
        "400 days",
    ),
    *(
        ({"trusted_origins": origins}, "trusted_origins")
        for origins in (
            "https://a.example",
            ("a.example",),
            ("https://a.example/",),
            ("https://A.example",),
            ("https://a.example/path",),
            ("https://user@a.example",),
            ("*",),
            ("null",),
            ("https://a.example\n",),
            ("https://a.example:99999",),
            ("https://a.example:08443",),
            ("https://1.2.3.400",),
            ("https://[::0]",),
            ("https://[::1",),
            ("",),
            (5,),
        )
    ),
]


@pytest.mark.parametrize(("options", "named"), WRONG, ids=without_addresses)
def test_a_wrong_option_is_an_error_that_names_it(options: dict[str, Any], named: str) -> None:
    """It is raised by the constructor, not at the first request."""
    store = options.get("store", MemoryStore())
    with pytest.raises(ConfigurationError, match=named):
        SessionProvider(Data, **{"secret_key": SECRET, **options, "store": store})


def test_a_failed_provider_does_not_take_its_name() -> None:
    """The corrected provider can be built on the same store."""
    store = MemoryStore()
    with pytest.raises(ConfigurationError):
        make_provider(store, secret_key="short")
    make_provider(store)


class Other(BaseModel):
    """Another model than ``Data``."""


def test_two_models_of_one_name_on_one_store_are_an_error() -> None:
    """They would read each other's sessions; another name or another store works."""
    store = MemoryStore()
    living = make_provider(store, name="session")
    with pytest.raises(ConfigurationError, match=r"'session' with another model.*name="):
        make_provider(store, Other, name="session")
    make_provider(store, Other, name="admin")
    make_provider(MemoryStore(), Other, name="session")
    del living
    make_provider(store, Other, name="session")


async def test_an_application_factory_may_be_called_twice() -> None:
    """The providers that it makes have one name and one model, which it may define itself: what
    one stores the other reads."""
    store = MemoryStore()

    def create() -> Any:
        class Own(BaseModel):
            count: int = 0

        return make_provider(store, Own)

    first, second = Client(create()), Client(create())
    await first.sign_in()
    second.cookie = first.cookie
    assert await second.is_live()


@pytest.mark.parametrize(
    "limits",
    [
        {"idle": None, "absolute": None},
        {"idle": timedelta(0)},
        {"absolute": timedelta(seconds=-1)},
        {"idle": timedelta(hours=2), "absolute": timedelta(hours=1)},
        {"idle": 3600},
        {"absolute": timedelta(days=365 * 101)},
    ],
)
def test_an_invalid_lifetime_is_an_error(limits: dict[str, Any]) -> None:
    """Both limits disabled, not positive, idle longer than absolute, not a timedelta, too long."""
    with pytest.raises(ConfigurationError, match="Lifetime"):
        Lifetime(**limits)


def test_a_memory_store_holds_at_least_one_session() -> None:
    """A store that holds none would sign everybody out."""
    with pytest.raises(ConfigurationError, match="max_sessions"):
        MemoryStore(max_sessions=0)


AT_THE_LIMITS: list[dict[str, Any]] = [
    {"name": "x" * 64},
    {"name": "_"},
    {"max_bytes": 2**20},
    {"max_bytes": ByteSize(2**20)},
    {"on_invalid": lambda values, error: Data()},
    {"trusted_origins": ["https://a.example", "http://localhost:8000"]},
    {"trusted_origins": ["https://127.0.0.1", "https://[2001:db8::1]:65535", "http://[::1]:1"]},
    {
        "cookie": CookieConfig(persistent=True),
        "lifetime": Lifetime(absolute=timedelta(days=400)),
    },
    {"lifetime": Lifetime(idle=timedelta(days=1), absolute=None)},
    {"lifetime": Lifetime.OWASP_HIGH},
]


@pytest.mark.parametrize("options", AT_THE_LIMITS, ids=without_addresses)
def test_the_limits_themselves_are_allowed(options: dict[str, Any]) -> None:
    """A value at a limit is valid."""
    make_provider(**options)


def test_no_repr_of_a_provider_or_its_parts_shows_the_secret() -> None:
    """The repr of a provider has its name."""
    get_session = make_provider(name="shop")
    assert repr(get_session) == "<SessionProvider 'shop'>"
    seen: set[int] = set()

    def texts(value: Any) -> list[str]:
        if id(value) in seen:
            return []
        seen.add(id(value))
        inner = list(getattr(value, "__dict__", {}).values())
        return [repr(value), *(text for each in inner for text in texts(each))]

    assert SECRET not in " ".join(texts(get_session))


async def test_the_name_is_used_for_the_cookie_and_in_openapi() -> None:
    """The cookie has a prefix before it; the security scheme has the name alone."""
    get_session = make_provider(name="shop")
    app = make_app()

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        session.data.count += 1

    @app.get("/required", dependencies=[Depends(get_session.required)])
    async def required() -> None:
        pass

    async with browser(app) as client:
        assert set_cookie_kind(await client.get("/"), "__Host-shop") == "sent"
    assert list(app.openapi()["components"]["securitySchemes"]) == ["shop"]


async def test_the_call_of_a_derived_provider_has_its_own_parameters() -> None:
    """FastAPI reads them from it, as from any dependency."""

    class Counting(SessionProvider[Data]):
        async def __call__(self, request: Request, response: Response) -> Session[Data]:  # type: ignore[override]
            session = await super().__call__(request)
            session.data.count += 1
            response.headers["X-Count"] = str(session.data.count)
            return session

    get_session = Counting(Data, store=MemoryStore(), secret_key=SECRET)
    app = make_app()

    @app.get("/")
    async def home(session: Annotated[Session[Data], Depends(get_session)]) -> int:
        return session.data.count

    async with browser(app) as client:
        responses = [await client.get("/") for _ in range(2)]
    assert [each.json() for each in responses] == [1, 2]
    assert [each.headers["X-Count"] for each in responses] == ["1", "2"]
