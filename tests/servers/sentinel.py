"""A Redis master with replicas, and sentinels that watch over them."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import redis

from .process import running
from .redis import RedisServer
from .releases import REDIS, Release, one_of_each
from .waits import until

_READY_WITHIN = 120.0
# Milliseconds until a silent server is given up. A busy machine is silent now and then: only a test
# that kills a server wants to see it replaced.
_NEVER = 600_000
_SOON = 2000


class RedisSentinels:
    """A master with its replicas, and three sentinels that watch over them.

    With ``fails_over`` they replace a master that is down.
    """

    name = "main"

    def __init__(
        self,
        directory: Path,
        *options: str,
        replicas: int = 1,
        fails_over: bool = False,
        release: Release = REDIS[0],
    ) -> None:
        self.gives_up_after = _SOON if fails_over else _NEVER
        self.master = RedisServer(directory / "master", *options, release=release)
        following = (*options, "--replicaof", "127.0.0.1", str(self.master.port))
        self.replicas = [
            RedisServer(directory / f"replica-{number}", *following, release=release)
            for number in range(replicas)
        ]
        self.sentinels = [
            _Sentinel(directory / f"sentinel-{number}", release=release) for number in range(3)
        ]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    def start(self) -> "RedisSentinels":
        # a master waits for more replicas to sync along unless it is told not to
        self.master.start().command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
        for replica in self.replicas:
            replica.start()
        until(self._is_in_sync, within=_READY_WITHIN, what="the replicas are in sync")
        for sentinel in self.sentinels:
            sentinel.watch(self)
            sentinel.start()
        until(self._has_agreed, within=_READY_WITHIN, what="the sentinels have met")
        return self

    def stop(self) -> None:
        for server in (*self.sentinels, *self.replicas, self.master):
            server.stop()

    def _is_in_sync(self) -> bool:
        replications = [replica.command("INFO", "replication") for replica in self.replicas]
        return all(replication["master_link_status"] == "up" for replication in replications)

    def _has_agreed(self) -> bool:
        try:
            for sentinel in self.sentinels:
                sentinel.command("SENTINEL", "CKQUORUM", self.name)
                master = sentinel.command("SENTINEL MASTER", self.name)
                met = int(master["num-other-sentinels"]), int(master["num-slaves"])
                if met != (2, len(self.replicas)):
                    return False
        except redis.RedisError:
            return False
        return True


class _Sentinel(RedisServer):
    def __init__(self, directory: Path, *, release: Release) -> None:
        super().__init__(directory, release=release)
        self.id = secrets.token_hex(20)

    def watch(self, group: RedisSentinels) -> None:
        """Write the configuration as if the others had been met already: that saves seconds."""
        name = group.name
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel myid {self.id}",
            f"sentinel monitor {name} 127.0.0.1 {group.master.port} 2",
            f"sentinel down-after-milliseconds {name} {group.gives_up_after}",
            f"sentinel failover-timeout {name} 2000",
        ]
        lines += [f"sentinel known-replica {name} 127.0.0.1 {r.port}" for r in group.replicas]
        for other in group.sentinels:
            if other is not self:
                known = f"127.0.0.1 {other.port} {other.id}"
                lines.append(f"sentinel known-sentinel {name} {known}")
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return [str(self._program), str(self.directory / "sentinel.conf"), "--sentinel"]


@pytest.fixture(scope="session")
def redis_groups(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Release], RedisSentinels]]:
    """A master, a replica and three sentinels of each release for the whole run."""

    def run(release: Release) -> AbstractContextManager[RedisSentinels]:
        return running(RedisSentinels(tmp_path_factory.mktemp("sentinels"), release=release))

    with one_of_each(run) as groups:
        yield groups


@pytest.fixture
def redis_sentinels(
    redis_groups: Callable[[Release], RedisSentinels], redis_release: Release
) -> RedisSentinels:
    """Those of the release that the test runs on; leave them as they are."""
    return redis_groups(redis_release)
