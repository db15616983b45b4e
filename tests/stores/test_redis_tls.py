"""RedisStore over TLS: a proxy that ends it, and Redis itself, with certificates at both ends."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.records import Record, new_version
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import StoreContract
from tests.servers.proxy import Proxy

# the servers of the wheels were built without TLS
speaks_tls = pytest.mark.debian("redis-server")

KEY = "a" * 64
# a busy machine does not decide these tests
PATIENCE = {"socket_timeout": 60, "socket_connect_timeout": 60}


@asynccontextmanager
async def opened(url, **options):
    store = RedisStore.from_url(url, **{**PATIENCE, **options})
    try:
        yield store
    finally:
        await store.aclose()


def record():
    return Record(b"data", new_version(), None, datetime.now(UTC) + timedelta(hours=1))


async def test_a_proxy_that_the_client_trusts(redis_url, certificates):
    """rediss:// verifies its certificate."""
    async with Proxy(redis_url, tls=certificates.server_context()) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}"
        async with opened(url, ssl_ca_certs=str(certificates.authority)) as store:
            kept = record()
            assert await store.create(KEY, kept)
            assert await store.load(KEY) == kept


async def test_a_proxy_that_the_client_does_not_trust(redis_url, certificates):
    """Nothing is sent, and the reason says that TLS failed."""
    async with (
        Proxy(redis_url, tls=certificates.server_context()) as proxy,
        opened(f"rediss://127.0.0.1:{proxy.port}") as store,
    ):
        with pytest.raises(StoreUnavailable, match="the TLS connection failed"):
            await store.load(KEY)


UNCHECKED = ["?ssl_check_hostname=false", "?ssl_cert_reqs=none"]


@pytest.mark.one_server
@pytest.mark.parametrize("query", ["", *UNCHECKED])
async def test_a_proxy_that_is_called_otherwise(redis_url, certificates, query):
    """The certificate is not for that name, and that is refused unless the URL allows it."""
    async with Proxy(redis_url, tls=certificates.server_context()) as proxy:
        url = f"rediss://127.1:{proxy.port}{query}"  # the same address by another name
        async with opened(url, ssl_ca_certs=str(certificates.authority)) as store:
            if query in UNCHECKED:
                assert await store.create(KEY, record())
            else:
                with pytest.raises(StoreUnavailable, match="the TLS connection failed"):
                    await store.load(KEY)


@speaks_tls
class TestMutualTLS(StoreContract):
    """Both ends show a certificate."""

    @pytest.fixture(autouse=True)
    def _server(self, tls_redis_server, certificates):
        tls_redis_server.flush()
        self.url = tls_redis_server.url
        self.options = {
            **PATIENCE,
            "ssl_ca_certs": str(certificates.authority),
            "ssl_certfile": str(certificates.client),
            "ssl_keyfile": str(certificates.client),
        }

    def make_store(self, clock):
        return RedisStore.from_url(self.url, clock=clock, **self.options)


@speaks_tls
async def test_a_server_that_the_client_trusts(start_tls_redis, certificates):
    """It is enough to name the authority."""
    server = start_tls_redis()
    async with opened(server.url, ssl_ca_certs=str(certificates.authority)) as store:
        kept = record()
        assert await store.create(KEY, kept)
        assert await store.load(KEY) == kept


@speaks_tls
async def test_a_server_that_the_client_does_not_trust(start_tls_redis):
    """Nothing is sent; the reason says that it is about TLS."""
    server = start_tls_redis()
    async with opened(server.url) as store:
        with pytest.raises(StoreUnavailable, match="the TLS connection failed"):
            await store.open()


@speaks_tls
async def test_a_server_that_is_called_otherwise(start_tls_redis, certificates):
    """The certificate is for 127.0.0.1 and localhost, not for 127.0.0.2."""
    server = start_tls_redis("--bind", "127.0.0.1", "127.0.0.2")
    url = server.url.replace("127.0.0.1", "127.0.0.2")
    async with opened(url, ssl_ca_certs=str(certificates.authority)) as store:
        with pytest.raises(StoreUnavailable, match="the TLS connection failed"):
            await store.open()


@speaks_tls
async def test_a_client_that_the_server_does_not_know(start_tls_redis, certificates):
    """The server wants a certificate, gets none, and hangs up: why may not come through."""
    server = start_tls_redis(mutual=True)
    async with opened(server.url, ssl_ca_certs=str(certificates.authority)) as store:
        with pytest.raises(StoreUnavailable, match=r"TLS|reset by peer|ConnectionError"):
            await store.open()


@speaks_tls
async def test_a_client_that_speaks_no_tls(start_tls_redis):
    """redis:// to a port of rediss://."""
    server = start_tls_redis()
    async with opened(server.url.replace("rediss:", "redis:")) as store:
        with pytest.raises(StoreUnavailable, match=r"ConnectionError|InvalidResponse|Timeout"):
            await store.open()
