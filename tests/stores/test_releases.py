"""The servers that the tests of stores run on are what their names say."""


def test_redis_is_of_the_release_that_the_test_is_named_after(redis_server, redis_release):
    """``valkey-9`` is Valkey 9, whatever the wheel says of itself."""
    assert f"{redis_server.version}.".startswith(f"{redis_release}.")


def test_postgresql_is_of_the_release_that_the_test_is_named_after(
    postgres_server, postgres_release
):
    """``postgres-18`` is PostgreSQL 18."""
    version = postgres_server.execute("SHOW server_version")
    assert f"postgres-{version}.".startswith(f"{postgres_release}.")
