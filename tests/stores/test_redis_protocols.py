"""RedisStore in both versions of the protocol, whichever redis-py takes by itself.

Each on one server or in a cluster; the other way round is slow.
"""

import pytest

from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import StoreContract


class OnOneServer(StoreContract):
    protocol = 0

    @pytest.fixture(autouse=True)
    def _server(self, redis_url):
        self.url = redis_url

    def make_store(self, clock):
        return RedisStore.from_url(self.url, protocol=self.protocol, clock=clock)


class InACluster(StoreContract):
    protocol = 0

    @pytest.fixture(autouse=True)
    def _server(self, redis_cluster):
        redis_cluster.flush()
        self.cluster = redis_cluster

    def make_store(self, clock):
        client = self.cluster.connect(protocol=self.protocol)
        store = RedisStore(client, clock=clock)
        store.aclose = client.aclose
        return store


@pytest.mark.one_server
class TestRESP2(OnOneServer):
    protocol = 2


@pytest.mark.slow
@pytest.mark.one_server
class TestRESP3(OnOneServer):
    protocol = 3


@pytest.mark.slow
@pytest.mark.one_server
class TestRESP2InACluster(InACluster):
    protocol = 2


@pytest.mark.one_server
class TestRESP3InACluster(InACluster):
    protocol = 3
