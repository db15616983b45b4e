"""PgBouncer before a PostgreSQL server."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .packages import require
from .postgres import USER, PostgresServer, reachable_directory
from .process import ServerProcess, free_port, is_listening


class PgBouncer(ServerProcess):
    """Lends few connections to many clients; ``mode`` says for how long: session or transaction.

    Debian's (1.18) is older than PgBouncer's support of prepared statements in transaction mode
    (1.21), as many that are in use still are.
    """

    user = USER

    def __init__(
        self, directory: Path, postgres: PostgresServer, *, mode: str, **options: object
    ) -> None:
        super().__init__(directory)
        self.port = free_port()
        self._postgres = postgres
        self._options: dict[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",  # everybody is the user that the database line names
            "pool_mode": mode,
            "default_pool_size": 4,
            **options,
        }

    def __str__(self) -> str:
        return f"PgBouncer on port {self.port}"

    def url(self, *, driver: str = "asyncpg") -> str:
        return f"postgresql+{driver}://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> "PgBouncer":
        self._configuration.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._postgres.port} user=postgres\n"
            "[pgbouncer]\n" + "".join(f"{key} = {value}\n" for key, value in self._options.items())
        )
        return super().start()

    @property
    def _configuration(self) -> Path:
        return self.directory / "pgbouncer.ini"

    def _command(self) -> list[str]:
        return [str(require("pgbouncer")), str(self._configuration)]

    def _is_ready(self) -> bool:
        return is_listening(self.port)


@contextmanager
def run_pgbouncer(postgres: PostgresServer, **options: Any) -> Iterator[PgBouncer]:
    """Start one in a directory of its own, stop it and remove the directory afterwards."""
    with reachable_directory("pgbouncer-") as directory:
        server = PgBouncer(directory, postgres, **options)
        try:
            yield server.start()
        finally:
            server.stop()


@pytest.fixture
def start_pgbouncer(postgres_server: PostgresServer) -> Iterator[Callable[..., PgBouncer]]:
    """Starts them before ``postgres_server`` for one test: ``start_pgbouncer(mode="session")``."""
    with ExitStack() as stack:

        def start(**options: Any) -> PgBouncer:
            return stack.enter_context(run_pgbouncer(postgres_server, **options))

        yield start
