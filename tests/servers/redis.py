"""One Redis or Valkey server.

``redis_server`` starts once for each release, when a test first asks; ``redis_url`` and
``redis_client`` hand it out empty. A test that stops, pauses or configures a server takes one of
its own from ``start_redis``. Which release they run is told by ``redis_release``.
"""

import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from .process import ServerProcess, free_port, running
from .releases import REDIS, Release, one_of_each

# a cluster's nodes talk to each other on the port that is so much higher
BUS = 10_000

_GREETINGS = {"hello", "auth", "select", "client"}
_END = "the block has ended"


class RedisServer(ServerProcess):
    """A server on a loopback port that it keeps when it is started again, empty."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        release: Release = REDIS[0],
        program: Path | None = None,
    ) -> None:
        super().__init__(directory)
        self.port = free_port(BUS)
        self._program = program or release.program
        self._options = options

    def __str__(self) -> str:
        return f"{self._program} on port {self.port}"

    @property
    def url(self) -> str:
        """Its address; clients wait for it long enough for the busiest machine."""
        return f"redis://127.0.0.1:{self.port}/0?socket_timeout=60&socket_connect_timeout=60"

    @property
    def version(self) -> str:
        """What the server says that it is, as in ``valkey-9.1.2``."""
        info = self.command("INFO", "server")
        name = info.get("server_name", "redis")
        return f"{name}-{info[f'{name}_version']}"

    def command(self, *arguments: Any, **options: Any) -> Any:
        """Send one command, without asyncio, and give the answer."""
        with closing(
            redis.Redis(port=self.port, host="127.0.0.1", socket_timeout=60, **options)
        ) as client:
            return client.execute_command(*arguments)

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Count the commands that clients send during the block; it is told when that has ended.

        What scripts call is left out, and what clients say when they connect.
        """
        seen: Counter[str] = Counter()
        client = redis.Redis(port=self.port, socket_timeout=60)
        with closing(client), client.monitor() as monitor:
            yield seen
            client.echo(_END)
            while (sent := monitor.next_command())["command"] != f"ECHO {_END}":
                name = sent["command"].partition(" ")[0].lower()
                if sent["client_type"] != "lua" and name not in _GREETINGS:
                    seen[name] += 1

    def _command(self) -> list[str]:
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        return [str(self._program), *common, "--appendonly", "no", *self._options]

    def _is_ready(self) -> bool:
        try:
            # a password, or no permission to ping, is an answer too
            return self.say("PING").startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False

    def flush(self) -> None:
        """Remove all keys."""
        answer = self.say("FLUSHALL", within=60)
        assert answer == b"+OK\r\n", answer

    def say(self, line: str, within: float = 2) -> bytes:
        """Send a line and give the first of the answer; many times faster than a client."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=within) as connection:
            connection.sendall(line.encode() + b"\r\n")
            return connection.recv(65536)


@pytest.fixture(scope="session")
def redis_servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Release], RedisServer]]:
    """A server of each release for the whole run."""
    with one_of_each(
        lambda release: running(RedisServer(tmp_path_factory.mktemp("redis"), release=release))
    ) as servers:
        yield servers


@pytest.fixture
def redis_server(
    redis_servers: Callable[[Release], RedisServer], redis_release: Release
) -> RedisServer:
    """The one of the release that the test runs on; leave it as it is."""
    return redis_servers(redis_release)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Its address; it is empty."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator["Redis"]:
    """A client of its own for each test."""
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def start_redis(redis_release: Release, tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers for one test: ``start_redis("--requirepass", "...")``."""
    with ExitStack() as stack:

        def start(*options: str, **settings: Any) -> RedisServer:
            settings = {"release": redis_release, **settings}
            server = RedisServer(tmp_path / secrets.token_hex(4), *options, **settings)
            stack.callback(server.stop)
            return server.start()

        yield start
