"""RedisStore as a user of Redis who may run some commands and no others."""

import re
from contextlib import asynccontextmanager

import pytest

from fastapi_async_sessions.errors import StoreUnavailable
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.testing import StoreContract
from tests.apps import make_provider

LISTED = re.search(r"ACL SETUSER (.*?)\n\n", RedisStore.__doc__, re.DOTALL)[1].split()
IN_A_CLUSTER = ["exists", "cluster|slots", "command"]
# requests need these, and clear() needs SCAN
NEEDED = [
    right.removeprefix("+")
    for right in LISTED
    if right.startswith("+") and right.removeprefix("+") not in ("scan", *IN_A_CLUSTER)
]


def allow(server, *commands, keys="~sessions:*"):
    """Make the user "bob", who may run these commands on these keys."""
    rules = [f"+{command}" for command in commands]
    server.command("ACL", "SETUSER", "bob", "reset", "on", ">pw", keys, *rules)


@pytest.fixture
def server(redis_server, redis_url):
    """An empty server; its user is gone afterwards."""
    yield redis_server
    redis_server.command("ACL", "DELUSER", "bob")


def url_of(server):
    return server.url.replace("//", "//bob:pw@")


@asynccontextmanager
async def opened(url):
    store = RedisStore.from_url(url)
    try:
        yield store
    finally:
        await store.aclose()


class TestTheRightsThatAreListed(StoreContract):
    """They are enough for all that a store does."""

    @pytest.fixture(autouse=True)
    def _server(self, server):
        allow(server, *NEEDED, "scan")
        self.url = url_of(server)

    def make_store(self, clock):
        return RedisStore.from_url(self.url, clock=clock)


@pytest.mark.one_server
class TestTheRightsThatAreListedInACluster(StoreContract):
    """The user is the one that is documented."""

    @pytest.fixture(autouse=True)
    def _cluster(self, redis_cluster):
        redis_cluster.flush()
        for node in redis_cluster.nodes:
            node.command("ACL", "SETUSER", *LISTED)
        self.cluster = redis_cluster
        yield
        for node in redis_cluster.nodes:
            node.command("ACL", "DELUSER", "app")

    def make_store(self, clock):
        client = self.cluster.connect(username="app", password="password")
        store = RedisStore(client, clock=clock)
        store.aclose = client.aclose
        return store


async def test_the_rights_that_are_listed_open_a_store(server):
    """SCAN is for clear() alone."""
    allow(server, *NEEDED)
    async with opened(url_of(server)) as store:
        await store.open()
        await make_provider(store).check()


# the server knows the scripts, so check() needs no EVAL
STEPS = [(step, right) for step in ("open", "check") for right in NEEDED]
STEPS.remove(("check", "eval"))


@pytest.mark.parametrize(("step", "missing"), STEPS)
async def test_a_right_that_is_missing_is_named(server, step, missing):
    """When the application starts, and by its readiness check: not by the first who signs in."""
    async with opened(server.url) as store:
        await store.open()  # the server knows the scripts already, as beside other workers
    allow(server, *(command for command in NEEDED if command != missing))
    async with opened(url_of(server)) as store:
        call = store.open if step == "open" else make_provider(store).check
        with pytest.raises(StoreUnavailable) as raised:
            await call()
    assert "the user may not run" in raised.value.reason
    assert missing.upper() in raised.value.reason


@pytest.mark.parametrize("step", ["open", "check"])
async def test_keys_that_are_not_the_users_are_named(server, step):
    """The pattern of the keys is part of the rights."""
    allow(server, *NEEDED, keys="~web:*")
    async with opened(url_of(server)) as store:
        call = store.open if step == "open" else make_provider(store).check
        with pytest.raises(StoreUnavailable, match=r"~sessions:\*"):
            await call()


@pytest.mark.parametrize("missing", [None, *IN_A_CLUSTER])
async def test_a_cluster_needs_three_more(redis_cluster, missing):
    """The client has to ask for the map of the slots, and the index is on another node."""
    for node in redis_cluster.nodes:
        allow(node, *NEEDED, *(command for command in IN_A_CLUSTER if command != missing))
    client = redis_cluster.connect(username="bob", password="pw")
    try:
        if missing is None:
            await RedisStore(client).open()
        else:
            with pytest.raises(StoreUnavailable, match=missing.partition("|")[0].upper()):
                await RedisStore(client).open()
    finally:
        await client.aclose()
        for node in redis_cluster.nodes:
            node.command("ACL", "DELUSER", "bob")
