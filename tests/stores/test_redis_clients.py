"""What RedisStore takes for a client, and what it refuses with the line to write."""

import pytest
import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel

from fastapi_async_sessions.errors import ConfigurationError
from fastapi_async_sessions.stores.redis import RedisStore

NODES = [redis.cluster.ClusterNode("127.0.0.1", 1)]


@pytest.mark.parametrize(
    "client",
    [
        redis.Redis(),
        redis.Sentinel([("127.0.0.1", 1)]).master_for("main"),
        redis.ConnectionPool(),
        redis.asyncio.ConnectionPool(),
        redis.asyncio.Redis().pipeline(),
        Sentinel([("127.0.0.1", 1)]),
        "redis://127.0.0.1",
        None,
    ],
    ids=lambda client: f"{type(client).__module__}.{type(client).__name__}",
)
def test_other_clients_are_refused(client):
    """A synchronous one would block every request, and fail in it."""
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio.*RedisStore\.from_url"):
        RedisStore(client)


def test_a_client_of_valkey_is_refused():
    """It looks the same and is another library's: the server may be Valkey, the client not."""
    valkey = pytest.importorskip("valkey.asyncio")
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        RedisStore(valkey.Valkey())


@pytest.mark.parametrize(
    "client",
    [
        lambda: redis.asyncio.Redis(decode_responses=True),
        lambda: redis.asyncio.RedisCluster(host="127.0.0.1", port=1, decode_responses=True),
    ],
)
async def test_a_client_that_decodes_is_refused(client):
    """What is stored is bytes."""
    with pytest.raises(ConfigurationError, match="without decode_responses=True"):
        RedisStore(client())


async def test_a_pipeline_of_a_cluster_is_refused():
    """It sends nothing before it is told to."""
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=1)
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        RedisStore(client.pipeline())


@pytest.mark.parametrize("url", ["http://host", "valkey://host", "host:6379", "redis+cluster://h"])
def test_another_kind_of_url_is_refused(url):
    """The message names those that work."""
    with pytest.raises(ConfigurationError, match="redis://, rediss:// or unix://"):
        RedisStore.from_url(url)
