"""trio: an application on it is told to use asyncio, before a request hangs or loses data."""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_async_sessions import ConfigurationError

from ..apps import ORIGIN, make_app, make_provider
from ..servers.process import free_port

trio = pytest.importorskip("trio")

NEEDS_ASYNCIO = "start the server with asyncio .*, and in tests write TestClient"


def application(get_session: Any, **options: Any) -> FastAPI:
    app = make_app(**options)
    app.get("/", dependencies=[Depends(get_session)])(lambda: None)
    return app


def test_the_application_does_not_start() -> None:
    """The lifespan raises before it opens the store."""
    get_session = make_provider()
    app = application(get_session, lifespan=get_session.lifespan)
    with pytest.raises(ConfigurationError, match=NEEDS_ASYNCIO):  # noqa: SIM117
        with TestClient(app, base_url=ORIGIN, backend="trio"):
            pass


def test_without_the_lifespan_the_first_request_fails() -> None:
    """Whether or not it has a cookie."""
    client = TestClient(application(make_provider()), base_url=ORIGIN, backend="trio")
    with pytest.raises(ConfigurationError, match=NEEDS_ASYNCIO):
        client.get("/")


@pytest.mark.parametrize(
    "call",
    [
        lambda get_session: get_session.check(),
        lambda get_session: get_session.sessions("ada"),
        lambda get_session: get_session.revoke_all("ada"),
    ],
    ids=["check", "sessions", "revoke_all"],
)
def test_a_job_fails(call: Callable[[Any], Awaitable[Any]]) -> None:
    """Outside of a request as well."""
    get_session = make_provider()
    with pytest.raises(ConfigurationError, match=NEEDS_ASYNCIO):
        trio.run(call, get_session)


def test_hypercorn_with_trio_ends_with_that_message() -> None:
    """It does not serve."""
    pytest.importorskip("hypercorn")
    options = ["--worker-class", "trio", "--bind", f"127.0.0.1:{free_port()}"]
    run = subprocess.run(
        [sys.executable, "-m", "hypercorn", *options, "tests.servers.host_app:app"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "sessions and the drivers of their stores need asyncio" in run.stdout + run.stderr
