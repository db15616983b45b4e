"""Celery: tasks that call ``asyncio.run()`` again and again, in each kind of pool."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_async_sessions import MemoryStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.stores.sql import SQLStore
from fastapi_async_sessions.testing import session_cookies

from ..cli.shells import TOKEN, open_provider
from ..servers.asgi import serve
from ..servers.process import ServerProcess, running
from ..servers.redis import RedisServer
from ..servers.waits import until

celery = pytest.importorskip("celery")

ROOT = Path(__file__).parents[2]
TASKS = 10  # for each store
LIMIT = 120


@pytest.fixture
def stores(redis_url: str, postgres_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The address of an empty store of each kind, with its table."""
    sqlite = f"sqlite+aiosqlite:///{tmp_path}/sessions.db"
    for url in (sqlite, postgres_url):
        asyncio.run(SQLStore.from_url(url).create_table())
    with serve(session_service(MemoryStore(), token=TOKEN)) as http:
        yield {"redis": redis_url, "sqlite": sqlite, "postgresql": postgres_url, "http": http}


class Worker(ServerProcess):
    """A worker of Celery with a pool of this kind."""

    def __init__(self, directory: Path, pool: str, settings: dict[str, str]) -> None:
        super().__init__(directory)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
        self._pool = pool

    def __str__(self) -> str:
        return f"a worker with the pool {self._pool}"

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "celery", "-A", "tests.ecosystem.jobs", "worker"]
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return [*command, *alone, "-l", "info", "--pool", self._pool, "--concurrency", "2"]

    def _is_ready(self) -> bool:
        return " ready." in self.log


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_tasks_use_the_sessions_of_an_application(
    pool: str, stores: dict[str, str], redis_server: RedisServer, tmp_path: Path
) -> None:
    """Each store is used by one event loop after another, and connections do not pile up."""
    broker = f"redis://127.0.0.1:{redis_server.port}/1"
    settings = {"BROKER_URL": broker, "STORES": json.dumps({**stores, "memory": ""})}
    worker = Worker(tmp_path / "worker", pool, settings)
    with running(worker), celery.Celery(broker=broker, backend=broker) as queue:

        def run(task: str) -> Any:
            """Run it as often as that at the same time; the result of the last one."""
            results = [queue.send_task(task, ["ada"]) for _ in range(TASKS)]
            return [each.get(timeout=LIMIT) for each in results][-1]

        for kind, url in stores.items():
            get_session = open_provider(kind, url)
            asyncio.run(session_cookies(get_session, subject="ada"))
            assert run(f"{kind}.give_bonus") == 1
            (session,) = asyncio.run(get_session.sessions("ada"))
            assert len(session.data.lines) == TASKS
            assert run(f"{kind}.end_sessions") == 0
            assert asyncio.run(get_session.sessions("ada")) == []
        until(lambda: connections(redis_server) == 0, within=LIMIT, what="none is left")

        assert run("memory.give_bonus") == 0
        assert "MemoryStore holds the sessions of its own process" in worker.log


def connections(server: RedisServer) -> int:
    """The number of connections to the database of the sessions, but for the one that asks."""
    return str(server.command("CLIENT", "LIST")).count(" db=0 ") - 1
