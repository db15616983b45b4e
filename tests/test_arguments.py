"""Every parameter of what users call, with values of every wrong kind: none is taken for another.

An argument of a constructor that is wrong is a ``ConfigurationError`` when the object is made, one
of a call a ``TypeError`` or ``ValueError`` at once. Each names the parameter or says what to write,
and none fails only when a request comes.
"""

import asyncio
import inspect
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import pytest
import redis.asyncio
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from fastapi_async_sessions import (
    ConfigurationError,
    CookieConfig,
    Lifetime,
    MemoryStore,
    Session,
    SessionNotFound,
    SessionProvider,
    SessionRoute,
    SessionRouteMiddleware,
    SignInRequired,
)
from fastapi_async_sessions._core.state import SessionState
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import (
    FrozenClock,
    override_session,
    session_cookies,
    sign_in,
    sign_out,
)

from .apps import SECRET, Data, make_provider


class Text(str):
    """A subclass, as a configuration library may return it."""


def naive() -> datetime:
    return datetime(2026, 1, 1)  # noqa: DTZ001  # a mistake under test


def aware() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def of_another_zone() -> datetime:
    return datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))


def failing() -> datetime:
    raise OSError("hunter2")


async def asynchronous(*_: object) -> datetime:
    return aware()


def of_one(_: object) -> None:
    pass


def of_two(_: object, __: object) -> Data:
    return Data()


GET_SESSION: Any = make_provider()
POOL: dict[str, Any] = {
    **{str(value): value for value in (None, True, False, 0, 1, -1, 7, 1.5)},
    "huge": 10**30,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "decimal": Decimal(5),
    "empty": "",
    "x": "x",
    "digit": "1",
    "space": " ",
    "subclass": Text("y"),
    "umlaut": "ä",
    "line-break": "a\n",
    "NUL": "a\x00",
    "surrogate": "\ud800",
    "-": "-",
    "long": "x" * 5000,
    "bytes": b"x",
    "no-bytes": b"",
    "bytearray": bytearray(b"x" * 40),
    "url": "https://a.example",
    "ip": "127.0.0.1",
    "path": "/x",
    "key": "0" * 64,
    "lax": "lax",
    "Lax": "Lax",
    "none": "none",
    "raise": "raise",
    "RAISE": "RAISE",
    "list": [],
    "tuple": (),
    "dict": {},
    "set": set[str](),
    "texts": ["x"],
    "object": object(),
    "no-time": timedelta(0),
    "less": timedelta(-1),
    "second": timedelta(seconds=1),
    "microsecond": timedelta(microseconds=1),
    "longest": timedelta.max,
    "least": timedelta.min,
    "naive-datetime": naive(),
    "datetime": aware(),
    "zoned": of_another_zone(),
    "naive": naive,
    "aware": aware,
    "of-another-zone": of_another_zone,
    "failing": failing,
    "async": asynchronous,
    "of-one": of_one,
    "of-two": of_two,
    "type": int,
    "store": MemoryStore(),
    "store-class": MemoryStore,
    "model": Data,
    "instance": Data(),
    "Path": Path("x"),
    "UUID": UUID(int=1),
    "SecretStr": SecretStr("a-token-" * 5),
    "app": FastAPI(),
    "router": APIRouter(),
    "client": TestClient(FastAPI()),
    "http-client": httpx.Client(),
    "provider": GET_SESSION,
    "required": GET_SESSION.required,
    "cookie": CookieConfig(),
    "lifetime": Lifetime(),
    "redis": redis.asyncio.Redis(),
    "sync-redis": redis.Redis(),
    "session-class": Session,
    "engine": create_async_engine("sqlite+aiosqlite:///x.db"),
    "sync": create_engine("sqlite://"),
    "transport": httpx.MockTransport(lambda _: httpx.Response(200)),
}
FLAGS = "True False"
TIMES = "second microsecond longest"
NAMES = "x digit subclass lax Lax none raise RAISE"
TEXTS = f"{NAMES} space umlaut line-break - url ip path key"
ANY_TEXT = f"{TEXTS} empty NUL surrogate long"
FUNCTIONS = "naive aware of-another-zone failing async of-one of-two"
CLASSES = "type store-class model session-class"


class Callee(NamedTuple):
    """What is called, and with which arguments where a parameter is not the one under test.

    Attributes:
        accepts: By parameter, the names of the values in the pool that are right.
        error: What each of the other values raises.
    """

    call: Callable[..., Any]
    arguments: dict[str, Any]
    accepts: dict[str, str]
    error: tuple[type[Exception], ...] = (ConfigurationError,)


async def opened(**arguments: Any) -> None:
    async with GET_SESSION.open(**arguments):
        pass


def renewed(**arguments: Any) -> None:
    state: Any = SessionState(GET_SESSION.repository, 0)
    Session(state).renew(**arguments)


def overridden(**arguments: Any) -> None:
    with override_session(**arguments):
        pass


def awaited(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that returns when the coroutine has ended."""
    return lambda **arguments: asyncio.run(call(**arguments))


ENGINE, URL, TOKEN = POOL["engine"], "sqlite+aiosqlite:///x.db", "a-token-" * 5
WRONG_CALL = (TypeError, ValueError)
CALLEES = {
    "SessionProvider": Callee(
        SessionProvider,
        {"model": Data, "store": MemoryStore(), "secret_key": SECRET},
        {
            "model": "model",
            "store": "store",
            "secret_key": "",
            "name": f"{NAMES} - key",
            "cookie": "cookie",
            "lifetime": "lifetime",
            "encrypt": FLAGS,
            "max_sessions_per_subject": "None 1 7",
            "request_session": "None",
            "on_conflict": "raise",
            # a built-in type does not tell how it is called
            "on_invalid": "raise of-two type",
            "max_bytes": "",
            "store_timeout": TIMES,
            "commit_timeout": TIMES,
            "trusted_origins": "list tuple dict set",
            "check_origin": FLAGS,
            "on_event": "None of-one type store-class session-class",
            "clock": "aware",
        },
    ),
    "CookieConfig": Callee(
        CookieConfig,
        {},
        {
            "secure": FLAGS,
            "samesite": "lax none",
            "domain": f"None {NAMES} ip",
            "path": "path",
            "partitioned": FLAGS,
            "persistent": FLAGS,
        },
    ),
    "Lifetime": Callee(
        Lifetime,
        {},
        {
            # the longest that works is a hundred years
            "idle": "None second microsecond",
            # the idle timeout is an hour
            "absolute": "None",
        },
    ),
    "MemoryStore": Callee(
        MemoryStore,
        {},
        {
            "max_sessions": "1 7 huge",
            "clock": "aware",
        },
    ),
    "RedisStore": Callee(
        RedisStore,
        {"client": POOL["redis"]},
        {
            "client": "redis",
            "prefix": f"{NAMES} - ip key",
            "clock": "aware",
        },
    ),
    "RedisStore.from_url": Callee(
        RedisStore.from_url,
        {"url": "redis://localhost"},
        {
            "url": "",
            "prefix": f"{NAMES} - ip key",
            "clock": "aware",
        },
    ),
    "SQLStore": Callee(
        SQLStore,
        {"engine": ENGINE},
        {
            "engine": "engine",
            "table_name": "x subclass lax Lax none raise RAISE",
            "create_table": FLAGS,
            "clock": "aware",
        },
    ),
    "SQLStore.from_url": Callee(
        SQLStore.from_url,
        {"url": URL},
        {
            "url": "",
            "table_name": "x subclass lax Lax none raise RAISE",
            "create_table": FLAGS,
            "pgbouncer": "False",
            "clock": "aware",
        },
    ),
    "HTTPStore": Callee(
        HTTPStore,
        {"base_url": "https://a.example", "token": TOKEN},
        {
            "base_url": "url",
            "token": "long key SecretStr",
            "timeout": TIMES,
            "clock": "aware",
            "transport": "None transport",
        },
    ),
    "session_service": Callee(
        session_service,
        {"store": MemoryStore(), "token": TOKEN},
        {
            "store": "store",
            "token": "long key SecretStr",
        },
    ),
    "SessionRouteMiddleware": Callee(
        SessionRouteMiddleware,
        {"app": FastAPI()},
        {
            "app": f"{FUNCTIONS} {CLASSES} app router provider required",
            "request_session": "None",
        },
    ),
    "SessionRoute.convert": Callee(
        SessionRoute.convert,
        {},
        {
            "router": "router",
        },
    ),
    "FrozenClock": Callee(
        FrozenClock,
        {},
        {
            "start": "None datetime zoned",
        },
    ),
    "FrozenClock.advance": Callee(
        FrozenClock(aware()).advance,
        {},
        {
            "by": "no-time less second microsecond",
        },
        (*WRONG_CALL, OverflowError),
    ),
    "SignInRequired": Callee(
        SignInRequired,
        {},
        {
            "reason": "",
        },
        WRONG_CALL,
    ),
    "signed_in": Callee(
        GET_SESSION.signed_in,
        {},
        {
            "within": f"None {TIMES}",
        },
    ),
    "sessions": Callee(
        awaited(GET_SESSION.sessions),
        {"subject": "x"},
        {
            "subject": f"None {ANY_TEXT}",
            "limit": "-1 0 1 7 huge",
        },
        WRONG_CALL,
    ),
    "revoke": Callee(
        awaited(GET_SESSION.revoke),
        {"key": "0" * 64},
        {
            "key": ANY_TEXT,
            "subject": f"None {ANY_TEXT}",
        },
        WRONG_CALL,
    ),
    "revoke_all": Callee(
        awaited(GET_SESSION.revoke_all),
        {"subject": "x"},
        {
            "subject": f"None {ANY_TEXT}",
            "keep": "None",
        },
        WRONG_CALL,
    ),
    "open": Callee(
        awaited(opened),
        {},
        {
            "key": "",
        },
        (TypeError, SessionNotFound),
    ),
    "renew": Callee(
        renewed,
        {"subject": "x"},
        {
            "subject": f"None {TEXTS}",
            "lifetime": "None lifetime",
            "persistent": f"None {FLAGS}",
        },
        WRONG_CALL,
    ),
    "override_session": Callee(
        overridden,
        {"app": FastAPI(), "get_session": GET_SESSION},
        {
            "app": "app",
            "get_session": "provider",
            "data": "None instance",
            "subject": f"None {TEXTS}",
        },
        WRONG_CALL,
    ),
    "session_cookies": Callee(
        awaited(session_cookies),
        {"get_session": GET_SESSION},
        {
            "get_session": "provider",
            "data": "None instance",
            "subject": f"None {TEXTS}",
        },
        WRONG_CALL,
    ),
    "sign_in": Callee(
        sign_in,
        {"client": POOL["client"], "get_session": GET_SESSION, "subject": "x"},
        {
            "client": "client",
            "get_session": "provider",
            "subject": f"None {TEXTS}",
            "data": "None instance",
        },
        WRONG_CALL,
    ),
    "sign_out": Callee(
        sign_out,
        {"client": POOL["client"], "get_session": GET_SESSION},
        {
            "client": "client",
            "get_session": "provider",
        },
        WRONG_CALL,
    ),
}


CASES = [(name, parameter) for name, callee in CALLEES.items() for parameter in callee.accepts]
# ``options`` are those of redis-py
SIGNATURES = {
    **{name: callee.call for name, callee in CALLEES.items()},
    **{name: getattr(GET_SESSION, name) for name in ("sessions", "revoke", "revoke_all", "open")},
    "renew": partial(Session.renew, None),
    "override_session": override_session,
    "session_cookies": session_cookies,
}


@pytest.mark.parametrize("name", CALLEES)
def test_no_parameter_is_left_out(name: str) -> None:
    """The table has each one of the signature."""
    parameters = inspect.signature(SIGNATURES[name]).parameters
    assert list(CALLEES[name].accepts) == [each for each in parameters if each != "options"]


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_an_argument_of_a_wrong_kind_is_refused_at_once(name: str, parameter: str) -> None:
    """The message names it, or what it should be; it does not show a value that may be secret."""
    call, arguments, accepts, error = CALLEES[name]
    wrong = POOL.keys() - accepts[parameter].split()
    for kind in sorted(wrong):
        with pytest.raises(error) as raised:
            call(**{**arguments, parameter: POOL[kind]})
        message = str(raised.value)
        assert parameter in message or " takes " in message or "range" in message, (kind, message)
        assert "hunter2" not in f"{message} {raised.value.__context__}"


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_an_argument_of_the_right_kind_is_taken(name: str, parameter: str) -> None:
    """So that the test above refuses nothing that works."""
    call, arguments, accepts, _ = CALLEES[name]
    for kind in accepts[parameter].split():
        call(**{**arguments, parameter: POOL[kind]})
