"""A Redis master with replicas, and sentinels that watch over them."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .redis import RedisServer
from .releases import REDIS, Release
from .waits import until

_READY_WITHIN = 60.0
_PATIENT = 60_000  # milliseconds until a silent server is given up, while none is to be
_ALERT = 500
_CONNECTED = {"master", "slave", "sentinel"}  # any other flag is a trouble


class RedisSentinels:
    """A master with its replicas, and three sentinels that watch over them.

    On a busy machine a server may be silent for seconds, so the sentinels give none up before
    ``expect_crash``. A sentinel that was itself held up for two seconds does nothing for the next
    thirty ("tilt"), and each wait for a failover has to be longer than that.
    """

    name = "main"

    def __init__(
        self, directory: Path, *options: str, replicas: int = 1, release: Release = REDIS[0]
    ) -> None:
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
        until(self._have_met, within=_READY_WITHIN, what="the sentinels have met")
        return self

    def expect_crash(self) -> None:
        """From now on a server that does not answer for half a second is given up."""
        for sentinel in self.sentinels:
            sentinel.command("SENTINEL SET", self.name, "down-after-milliseconds", _ALERT)

    def stop(self) -> None:
        for server in (*self.sentinels, *self.replicas, self.master):
            server.stop()

    def _is_in_sync(self) -> bool:
        replications = [replica.command("INFO", "replication") for replica in self.replicas]
        return all(replication["master_link_status"] == "up" for replication in replications)

    def _have_met(self) -> bool:
        return all(sentinel.sees_all_of(self) for sentinel in self.sentinels)


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
            f"sentinel down-after-milliseconds {name} {_PATIENT}",
            f"sentinel failover-timeout {name} 2000",
        ]
        lines += [f"sentinel known-replica {name} 127.0.0.1 {r.port}" for r in group.replicas]
        for other in group.sentinels:
            if other is not self:
                known = f"127.0.0.1 {other.port} {other.id}"
                lines.append(f"sentinel known-sentinel {name} {known}")
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def sees_all_of(self, group: RedisSentinels) -> bool:
        """Whether it is connected to every other server, and could promote each replica."""
        master = self.command("SENTINEL MASTER", group.name)
        replicas = self.command("SENTINEL SLAVES", group.name)
        others = self.command("SENTINEL SENTINELS", group.name)
        return (
            (len(replicas), len(others)) == (len(group.replicas), len(group.sentinels) - 1)
            and all(each["flags"] in _CONNECTED for each in (master, *replicas, *others))
            and all(replica["master-link-status"] == "ok" for replica in replicas)
        )

    def _command(self) -> list[str]:
        return [str(self._program), str(self.directory / "sentinel.conf"), "--sentinel"]


@pytest.fixture(scope="session")
def redis_sentinels(
    redis_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisSentinels]:
    """A master, a replica and three sentinels for the whole run; leave them as they are."""
    with ExitStack() as stack:
        group = RedisSentinels(tmp_path_factory.mktemp("sentinels"), release=redis_release)
        stack.callback(group.stop)
        yield group.start()
