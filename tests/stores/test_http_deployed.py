"""HTTPStore as it is deployed: a service in several processes, with nginx before it."""

import secrets
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.memory import MemoryStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.testing import FrozenClock, StoreContract
from tests.servers.asgi import serve
from tests.servers.nginx import Nginx
from tests.servers.workers import Workers
from tests.stores.crowd import Crowd

TOKEN = "t0ken-of-more-than-thirty-two-characters"
KEY = "ab" * 32
APP = "tests.stores.service_app:app"

pytestmark = pytest.mark.slow


def patient_store(url, **options):
    """A store for tests that are not about time: a busy machine does not make their calls late."""
    return HTTPStore(url, token=TOKEN, timeout=timedelta(minutes=1), **options)


@asynccontextmanager
async def opened(url):
    store = patient_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


@pytest.fixture(scope="module", params=["uvicorn", "gunicorn"])
def workers(request, tmp_path_factory):
    """Two processes that keep sessions in one file."""
    home = tmp_path_factory.mktemp(request.param)
    settings = {
        "SESSIONS_URL": f"sqlite+aiosqlite:///{home}/sessions.db",
        "SESSIONS_TOKEN": TOKEN,
    }
    with ExitStack() as stack:
        workers = Workers(home, APP, under=request.param, settings=settings)
        stack.callback(workers.stop)
        yield workers.start()


@pytest.mark.debian("nginx")
class TestBehindNginx(StoreContract):
    """As nginx is configured for any application, but for the largest session."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _service(cls, tmp_path_factory):
        cls.clock = FrozenClock()
        backing = MemoryStore(clock=lambda: cls.clock())
        with serve(session_service(backing, token=TOKEN)) as url:
            directory = tmp_path_factory.mktemp("nginx")
            nginx = Nginx(directory, urlsplit(url).port, body_limit="2m")
            try:
                cls.url = nginx.start().url
                yield
            finally:
                nginx.stop()

    def make_store(self, clock):
        type(self).clock = clock
        return patient_store(self.url, clock=clock)


async def test_processes_serve_one_database(workers):
    """Whichever answers."""
    async with opened(workers.url) as store:
        crowd = Crowd(store, 8)
        async with crowd.at_work():
            await crowd.do(300)
        assert crowd.refused_since(0) == {}
        assert await crowd.mistakes() == []


@pytest.mark.debian("nginx")
async def test_a_service_that_restarts_loses_nothing(workers, start_nginx):
    """Behind nginx, which keeps connections to it: requests fail while it is away and no longer."""
    async with opened(start_nginx(workers.port).url) as store:
        crowd = Crowd(store, 8)
        async with crowd.at_work():
            await crowd.do(200)
            workers.restart()
            # nginx may meet a connection that has gone, once more
            await crowd.do(200)
            since = crowd.now()
            await crowd.do(200)
            assert crowd.refused_since(since) == {}
        assert await crowd.mistakes() == []


async def test_connections_that_a_server_closes_when_idle_refuse_nobody():
    """Each is closed after a second: at times just when the next request is sent on it."""
    service = session_service(MemoryStore(), token=TOKEN)
    with serve(service, timeout_keep_alive=1) as url:
        async with opened(url) as store:
            crowd = Crowd(store, 32, pause=1.0)
            async with crowd.at_work():
                await crowd.do(256)
            assert crowd.refused_since(0) == {}
            assert await crowd.mistakes() == []


@pytest.mark.debian("nginx")
async def test_a_limit_of_the_proxy_is_named(workers, start_nginx):
    """A session that nginx does not let through: the reason says that a body was too large."""
    async with opened(start_nginx(workers.port, body_limit="1k").url) as store:
        expires_at = datetime.now(UTC) + timedelta(hours=1)
        small = Record(b"x" * 100, new_version(), None, expires_at)
        assert await store.create(KEY, small)
        large = replace(small, body=b"x" * 4096, version=new_version())
        with pytest.raises(StoreUnavailable, match=r"413.*client_max_body_size"):
            await store.save(KEY, large, replaces=small.version)
        assert await store.load(KEY) == small


@pytest.mark.debian("nginx")
@pytest.mark.parametrize(("body_limit", "size"), [("1m", 700_000), ("2m", 2**20)])
async def test_sessions_fit_the_limit_of_a_proxy(workers, start_nginx, body_limit, size):
    """As the guide says: nginx's default for most, and twice as much for the largest."""
    async with opened(start_nginx(workers.port, body_limit=body_limit).url) as store:
        expires_at = datetime.now(UTC) + timedelta(hours=1)
        largest = Record(bytes(size), "v" * 512, "o" * 400, expires_at)
        key = secrets.token_hex(32)
        assert await store.create(key, largest)
        assert await store.load(key) == largest
