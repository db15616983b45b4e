"""Which tests are slow.

``-m "not slow"`` is the run beside one's work, of a minute or two: what each module promises, with
sessions in memory, in SQLite and on one release of Redis or Valkey. A test is slow that needs
another server, a program that no wheel ships, or a package of the ``ecosystem`` extra. So says this
file, unless ``--servers`` names those that are wanted; a test that is slow for another reason is
marked where it is.
"""

from typing import Any

import pytest

# the fixtures of servers that take a while to start or to answer
_FIXTURES = {
    "chromium",
    "own_cluster",
    "postgres_server",
    "redis_cluster",
    "redis_sentinels",
    "serve_provider",
    "start_nginx",
    "start_postgres",
}
# what the names of parameters call such servers, which are then asked for in the test
_SERVERS = {"asyncpg", "cluster", "postgres", "postgresql", "psycopg", "sentinel"}


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if _servers_are_not_named(config) and _needs_more(item):
            item.add_marker("slow")


def pytest_fixture_setup(fixturedef: Any, request: Any) -> None:
    """A test that asks for such a server while it runs cannot be seen before: it fails here."""
    if fixturedef.argname in _FIXTURES and _is_not_slow(request.node):
        pytest.fail(f"mark it as slow: it asks for {fixturedef.argname}")


def _is_not_slow(node: Any) -> bool:
    return (
        isinstance(node, pytest.Item)
        and node.get_closest_marker("slow") is None
        and _servers_are_not_named(node.config)
    )


def _servers_are_not_named(config: pytest.Config) -> bool:
    return bool(config.getoption("--servers") == "default")


def _needs_more(item: Any) -> bool:
    return (
        item.get_closest_marker("debian") is not None
        or not _FIXTURES.isdisjoint(item.fixturenames)
        or not _SERVERS.isdisjoint(_parameters(item))
        or _runs_on_a_second_release(item)
        or "ecosystem" in item.path.parts
    )


def _parameters(item: Any) -> list[str]:
    """The words of their names: ``cluster`` and ``2500`` of ``test_lists[Cluster-2500]``."""
    return item.callspec.id.lower().split("-") if hasattr(item, "callspec") else []


def _runs_on_a_second_release(item: Any) -> bool:
    return hasattr(item, "callspec") and item.callspec.indices.get("redis_release", 0) > 0
