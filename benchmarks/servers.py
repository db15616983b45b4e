"""Redis and PostgreSQL for the time of a run, from the wheels that the tests use."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers.postgres import run_postgres
from tests.servers.redis import RedisServer

from .contenders import Places

# what clients say when they connect, and what we ask ourselves
_CHATTER = {"config", "info", "hello", "client", "select", "auth", "ping"}
# what our scripts call: INFO counts that too
_IN_SCRIPTS = {"get", "set", "del", "zadd", "zremrangebyscore", "zrevrange", "pexpire"}


@contextmanager
def servers() -> Iterator[tuple[RedisServer, Places]]:
    """Start them, with directories that are removed afterwards."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        redis = RedisServer(home / "redis").start()
        stack.callback(redis.stop)
        # as it comes: a commit waits for the disk
        postgres = stack.enter_context(run_postgres(fsync=True))
        yield redis, Places(redis.url, str(home / "sessions.db"), postgres.url)


class Commands:
    """Counts the commands that Redis is sent while a block runs."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self.seen: dict[str, int] = {}

    def __enter__(self) -> "Commands":
        self._redis.command("CONFIG", "RESETSTAT")
        return self

    def __exit__(self, *_: object) -> None:
        stats = self._redis.command("INFO", "commandstats")
        seen = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
        hidden = _CHATTER | (_IN_SCRIPTS if "evalsha" in seen else set())
        self.seen = {name: calls for name, calls in seen.items() if name not in hidden}
