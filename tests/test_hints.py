"""Hints in the log about a configuration that cannot work."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from fastapi_async_sessions import CookieConfig, MemoryStore
from fastapi_async_sessions._web import dropped
from fastapi_async_sessions.testing import session_cookies

from .apps import make_provider
from .servers.waits import until
from .servers.workers import Workers
from .test_outage import make_site

HINT = "cookie=CookieConfig(secure=False)"


@pytest.fixture(autouse=True)
def first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint has not been given in this process."""
    monkeypatch.setattr(dropped, "_warned", set())


async def post(origin: str, host: str, scheme: str = "http", **options: Any) -> None:
    app = make_site(MemoryStore(), [], **options)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://{host}") as client:
        response = await client.post("/change", headers={"origin": origin})
        assert response.status_code == 200


@pytest.mark.parametrize("host", ["192.168.1.5:8000", "app.example.com", "[2001:db8::1]:8000"])
async def test_a_secure_cookie_over_plain_http_is_told_once(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The page itself came over http, so the browser drops it; the log has the line to write."""
    for _ in range(3):
        await post(f"http://{host}", host)
    assert caplog.text.count(HINT) == 1
    assert f"http://{host}" in caplog.text


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        ("https://app.example.com", "app.example.com", "http"),
        ("http://app.example.com", "app.example.com", "https"),
        ("http://localhost:8000", "localhost:8000", "http"),
        ("http://app.localhost", "app.localhost", "http"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "http"),
        ("http://[::1]:8000", "[::1]:8000", "http"),
    ],
)
async def test_nothing_is_told_where_browsers_may_keep_the_cookie(
    origin: str, host: str, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind TLS, and on the loopback address."""
    await post(origin, host, scheme)
    assert HINT not in caplog.text


async def test_nothing_is_told_of_the_page_of_another_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This application may be behind TLS all the same."""
    await post("http://front.example.com", "app.example.com", check_origin=False)
    assert HINT not in caplog.text


async def test_nothing_is_told_of_a_cookie_without_secure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is what the hint asks for."""
    host = "192.168.1.5:8000"
    await post(f"http://{host}", host, cookie=CookieConfig(secure=False))
    assert HINT not in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "workers"),
    [
        ("WEB_CONCURRENCY", "3", "3"),
        ("GUNICORN_CMD_ARGS", "--workers 4", "4"),
        ("GUNICORN_CMD_ARGS", "--bind :80 -w2", "2"),
    ],
)
async def test_workers_in_the_environment_are_noticed(
    name: str,
    value: str,
    workers: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each worker would have sessions of its own in a MemoryStore."""
    monkeypatch.setattr("sys.argv", ["app"])
    monkeypatch.setenv(name, value)
    await MemoryStore().open()
    assert f"each of the {workers} workers has its own sessions" in caplog.text


async def test_one_process_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose parent has other children is no worker because of that."""
    monkeypatch.setattr("sys.argv", ["app"])
    caplog.set_level(logging.DEBUG)
    await MemoryStore().open()
    assert caplog.records == []


TWIN = """
import asyncio
from fastapi_async_sessions import MemoryStore
print(flush=True)
input()
asyncio.run(MemoryStore().open())
"""


def test_twins_that_no_server_started_are_told_nothing() -> None:
    """A shell or a supervisor may run the same command twice, for two applications."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    twins = [subprocess.Popen([sys.executable, "-c", TWIN], text=True, **pipes) for _ in range(2)]
    for twin in twins:
        assert twin.stdout is not None
        twin.stdout.readline()  # it runs
    assert [twin.communicate("\n", timeout=120)[1] for twin in twins] == ["", ""]


async def sessions_of(get_session: Any) -> None:
    await get_session.sessions("ada")


async def revoke_all_of(get_session: Any) -> None:
    await get_session.revoke_all("ada")


@pytest.mark.parametrize("job", [sessions_of, revoke_all_of])
async def test_a_job_that_looks_into_a_store_in_memory_is_told(
    job: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty list, or the number 0, would pass for an answer."""
    get_session = make_provider(MemoryStore())
    await job(get_session)
    await job(get_session)
    assert caplog.text.count("finds the sessions of an application in RedisStore or SQLStore") == 1


@pytest.mark.parametrize("job", [sessions_of, revoke_all_of])
async def test_an_application_that_looks_into_a_store_in_memory_is_told_nothing(
    job: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lifespan has opened the store, or a user has signed in."""
    monkeypatch.setattr("sys.argv", ["app"])
    opened, used = make_provider(MemoryStore()), make_provider(MemoryStore())
    async with opened.lifespan(FastAPI()):
        await job(opened)
    await session_cookies(used, subject="bob")
    await job(used)
    assert caplog.records == []


PROGRAM = """
import sys
import uvicorn
from fastapi import FastAPI
from fastapi_async_sessions import MemoryStore
from tests.apps import make_provider

app = FastAPI(lifespan=make_provider(MemoryStore()).lifespan)

if __name__ == "__main__":
    # a worker that is still importing this file does not answer
    uvicorn.run("program:app", port=int(sys.argv[1]), workers=2, timeout_worker_healthcheck=120)
"""


class Program(Workers):
    """A program that starts its workers by itself."""

    def _command(self) -> list[str]:
        return [sys.executable, str(self.directory / "program.py"), str(self.port)]


class Configured(Workers):
    """gunicorn, which reads the number of workers in a file."""

    def _command(self) -> list[str]:
        lines = ("workers = 2", "worker_class = 'uvicorn_worker.UvicornWorker'", "timeout = 120")
        (self.directory / "gunicorn.conf.py").write_text("\n".join(lines))
        bind = f"127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "gunicorn", "--bind", bind, "--pythonpath"]
        return [*command, str(self.directory), "program:app", "-c", "gunicorn.conf.py"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Program, Configured])
def test_workers_that_leave_no_trace_in_the_command_line_are_noticed(
    kind: type[Workers], tmp_path: Path
) -> None:
    """Those of ``uvicorn.run(workers=2)``, and those of gunicorn's configuration file."""
    (tmp_path / "program.py").write_text(PROGRAM)
    server = kind(tmp_path, "program:app", under="uvicorn")
    server.start()
    try:
        until(lambda: "each of the 2 workers" in server.log, within=120, what="the hint")
    finally:
        server.stop()
