"""The engine of ``SQLStore``: made from a URL with settings for sessions, or checked."""

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only

from ..errors import ConfigurationError
from .base import translate_errors

# for callers without their own timeout; the provider's is shorter
_CONNECT_SECONDS = 10
_COMMAND_SECONDS = 30
_BUSY_SECONDS = 5
_WAL_SECONDS = 1

DIALECTS = ("sqlite", "postgresql")
_FILE = "file"


def checked_engine(engine: AsyncEngine) -> AsyncEngine:
    """Return the engine of an application if a store can use it.

    Raises:
        ConfigurationError: it is not asynchronous, not an engine, or of another database.
    """
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(f"SQLStore takes SQLAlchemy's AsyncEngine; {_line_for(engine)}")
    if engine.dialect.name not in DIALECTS:
        raise ConfigurationError(
            f"SQLStore works with SQLite and PostgreSQL, not with {engine.dialect.name}"
        )
    return engine


def _line_for(mistaken: object) -> str:
    if isinstance(mistaken, str | URL):
        return "for a URL write SQLStore.from_url(...)"
    if isinstance(mistaken, Engine):
        url = _urls_like(mistaken.dialect.name)[0]
        return f'instead of create_engine(...) write create_async_engine("{url}...")'
    return "write SQLStore(engine), with what create_async_engine(...) returned"


def make_engine(url: str | URL, *, pgbouncer: bool) -> AsyncEngine:
    """Make the engine of a store that was given a URL. It connects to nothing yet.

    Raises:
        ConfigurationError: the URL is not one, names another driver, or has an option that its
            driver does not know. The message leaves out the URL, which may hold a password.
    """
    if not isinstance(pgbouncer, bool):
        raise ConfigurationError("SQLStore.from_url(pgbouncer=...) takes True or False")
    parsed = _parsed(url)
    make = _MAKE_ENGINE.get(parsed.drivername)
    if make is None:
        urls = " or ".join(f"{each}..." for each in _urls_like(parsed.get_backend_name()))
        raise ConfigurationError(
            f"SQLStore.from_url takes {urls}, with an asynchronous driver; this URL begins "
            f"with {parsed.drivername}://"
        )
    not_installed = translate_errors(partial(_not_installed, parsed), ImportError)
    with not_installed, translate_errors(_not_a_url, ArgumentError):
        return make(parsed, pgbouncer)


def _parsed(url: object) -> URL:
    if not isinstance(url, str | URL):
        raise _not_a_str(url)
    # SQLAlchemy's own errors repeat the URL, and with it a password
    with translate_errors(_not_a_url, ArgumentError, ValueError):
        parsed = make_url(url)
        if "@" in (parsed.host or ""):  # the password has one
            raise ValueError
        return parsed


def _not_a_str(url: object) -> ConfigurationError:
    given = f"a {type(url).__name__}: for a Pydantic URL write str(url)"
    if url is None:
        given = "None: is the environment variable set?"
    return ConfigurationError(f"SQLStore.from_url takes a str or SQLAlchemy's URL, not {given}")


def _not_a_url(_: Exception) -> ConfigurationError:
    return ConfigurationError(
        "SQLStore.from_url takes a URL like postgresql+asyncpg://user:password@host/database or "
        "sqlite+aiosqlite:///sessions.db, and this is not one; if the password has special "
        "characters, write urllib.parse.quote_plus(password)"
    )


def _urls_like(name: str) -> list[str]:
    """Return how URLs of that database begin; of both databases, if it is neither."""
    urls = [f"{each}:///" if "sqlite" in each else f"{each}://" for each in _MAKE_ENGINE]
    return [each for each in urls if each.startswith(name)] or urls


def _not_installed(url: URL, _: Exception) -> ConfigurationError:
    driver = url.get_driver_name()
    package = '"psycopg[binary]"' if driver == "psycopg" else '"fastapi_async_sessions[sql]"'
    return ConfigurationError(
        f"SQLStore.from_url: {driver} is not installed: pip install {package}"
    )


def _refuse_options(url: URL, known: Collection[str], advice: str) -> None:
    """Refuse what the driver would refuse at each call, or ignore."""
    driver = url.get_driver_name()
    for name, (value, *_) in url.normalized_query.items():
        is_tls = name in _TLS_OPTION.values() and driver in _TLS_OPTION
        if name in known and (not is_tls or value in _TLS_MODES):
            continue
        if name in _POOLER_OPTIONS:
            advice = "behind PgBouncer write SQLStore.from_url(..., pgbouncer=True)"
        elif is_tls:
            mode = value if value in _TLS_MODES else "require"
            advice = f"write {_TLS_OPTION[driver]}={mode}"
        raise ConfigurationError(
            f"SQLStore.from_url: {driver} takes no {name}={value} from a URL: {advice}"
        )


_TLS_OPTION = {"asyncpg": "ssl", "psycopg": "sslmode"}
_TLS_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
# in URLs that were written for a connection pooler
_POOLER_OPTIONS = {
    "pgbouncer",
    "prepared_statement_cache_size",
    "statement_cache_size",
    "prepare_threshold",
}


# SQLite


_SQLITE_OPTIONS = {"timeout", "cached_statements", "uri"}
_SQLITE_URI_OPTIONS = {"mode", "cache", "immutable", "nolock", "psow", "vfs"}


def _make_sqlite(url: URL, pgbouncer: bool) -> AsyncEngine:
    if url.host:
        raise ConfigurationError(
            "SQLStore.from_url: the path of a SQLite file comes after three slashes: "
            "sqlite+aiosqlite:///sessions.db"
        )
    if _is_in_memory(url):
        raise ConfigurationError(
            "SQLStore needs a SQLite file; to keep sessions in memory, use MemoryStore"
        )
    if pgbouncer:
        raise ConfigurationError("SQLStore.from_url(pgbouncer=True) is for PostgreSQL")
    is_uri = "uri" in url.query
    known = _SQLITE_OPTIONS | _SQLITE_URI_OPTIONS if is_uri else _SQLITE_OPTIONS
    _refuse_options(url, known, "leave it out")
    # more connections would only wait for each other's lock on the file
    engine = create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=5,
        max_overflow=0,
        connect_args={} if "timeout" in url.query else {"timeout": _BUSY_SECONDS},
    )
    event.listen(engine.sync_engine, "connect", _set_up_file)
    event.listen(engine.sync_engine, "checkout", _check_file)
    return engine


def _is_in_memory(url: URL) -> bool:
    return (
        url.database in (None, "", ":memory:", "file:", "file::memory:")
        or url.query.get("mode") == "memory"
    )


def _set_up_file(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    """Set WAL, so that readers never wait for a writer, and remember which file was opened."""
    try:
        cursor = connection.cursor()
        _set_wal(cursor)
        cursor.execute("PRAGMA database_list")
        path = cursor.fetchall()[0][2]
        cursor.close()
    except BaseException:
        connection.close()  # which the pool would not do, and each has a thread
        raise
    entry.info[_FILE] = path, _identity(path)


def _set_wal(cursor: DBAPICursor) -> None:
    deadline = time.monotonic() + _WAL_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # where several connections open a new file at once, SQLite does not wait for its lock
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            await_only(asyncio.sleep(0.01))
        else:
            return


def _check_file(_: DBAPIConnection, entry: ConnectionPoolEntry, __: Any) -> None:
    """Replace a connection to a file that is no longer the one at its path.

    What it wrote would be in a file that has been deleted, or that a backup has replaced.
    """
    path, identity = entry.info[_FILE]
    if _identity(path) != identity:
        raise DisconnectionError


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# PostgreSQL


_ASYNCPG_OPTIONS = {
    *("host", "port", "ssl", "passfile", "service", "servicefile"),
    *("target_session_attrs", "krbsrvname", "gsslib"),
}


def _make_asyncpg(url: URL, pgbouncer: bool) -> AsyncEngine:
    advice = "leave it out, or write postgresql+psycopg://..., which has the options of libpq"
    _refuse_options(url, _ASYNCPG_OPTIONS, advice)
    connect_args: dict[str, object] = {
        "timeout": _CONNECT_SECONDS,
        "command_timeout": _COMMAND_SECONDS,
        "prepared_statement_name_func": _unique_name,
    }
    if not pgbouncer:
        return _make_postgresql(url, connect_args, "AUTOCOMMIT")
    # asyncpg prepares a statement and runs it in two round trips; only within a transaction does
    # PgBouncer give both to the same server. The nameless statement takes no memory there.
    connect_args |= {
        "prepared_statement_name_func": str,
        "prepared_statement_cache_size": 0,
        "statement_cache_size": 0,
    }
    return _make_postgresql(url, connect_args, None)


def _unique_name() -> str:
    """Return a name that no other process gives to another statement.

    Behind a pooler, without ``pgbouncer=True``, a statement may meet the server connection of
    another process. asyncpg counts its names, so it would run that process's statement there.
    """
    return f"sessions_{secrets.token_hex(8)}"


def _make_psycopg(url: URL, _: bool) -> AsyncEngine:
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    _refuse_options(url, known, "leave it out")
    # Without prepared statements each goes in one round trip, with or without PgBouncer. psycopg
    # counts the names of prepared ones for each connection: behind a pooler it would run others.
    connect_args: dict[str, object] = {"prepare_threshold": None}
    if "connect_timeout" not in url.query:
        connect_args["connect_timeout"] = _CONNECT_SECONDS
    return _make_postgresql(url, connect_args, "AUTOCOMMIT")


def _make_postgresql(
    url: URL, connect_args: dict[str, object], isolation_level: str | None
) -> AsyncEngine:
    options: dict[str, Any] = {"isolation_level": isolation_level} if isolation_level else {}
    return create_async_engine(
        url,
        hide_parameters=True,
        pool_size=10,
        max_overflow=0,
        connect_args=connect_args,
        # autocommit makes each statement a transaction: one round trip instead of three
        **options,
    )


_MAKE_ENGINE: dict[str, Callable[[URL, bool], AsyncEngine]] = {
    "sqlite+aiosqlite": _make_sqlite,
    "postgresql+asyncpg": _make_asyncpg,
    "postgresql+psycopg": _make_psycopg,
}
