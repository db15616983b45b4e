"""Sessions in a table: SQLite or PostgreSQL, through SQLAlchemy's async engine."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from ..errors import ConfigurationError, StoreUnavailable
from ..lifetime import Clock, utc_now
from ..records import Record
from .base import Store

try:
    from sqlalchemy import (
        URL,
        BigInteger,
        BindParameter,
        Column,
        ColumnElement,
        CursorResult,
        Executable,
        LargeBinary,
        MetaData,
        Row,
        String,
        Table,
        Text,
        bindparam,
        delete,
        event,
        make_url,
        or_,
        select,
        update,
    )
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.exc import ArgumentError, DBAPIError
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
    from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
    from sqlalchemy.schema import CreateIndex, CreateTable
except ImportError as error:
    raise ConfigurationError(
        'SQLStore needs SQLAlchemy: pip install "fastapi_async_sessions[sql]"'
    ) from error

_BATCH = 1000
_ATTEMPTS = 4

# the last resort for who sets no timeout; the provider's are shorter
_CONNECT_SECONDS = 5
_COMMAND_SECONDS = 30
_BUSY_SECONDS = 5
_CLOSE_SECONDS = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_INSERT: Mapping[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}

# serialization failure and deadlock; and what two meet who create one table at once
_PASSING = {"40001", "40P01", "23505", "42710", "42P07"}
_MISSING = {"42P01", "42703"}

T = TypeVar("T")
_Take = Callable[[CursorResult[Any]], T]
_Values = Mapping[str, object]


class SQLStore(Store):
    """One table in SQLite or PostgreSQL: sessions outlive restarts and processes share them.

    Each call is one statement in a transaction of its own, on one connection that goes back to
    the pool at once: a rollback of the application undoes nothing here. ``from_url`` gives the
    store a pool of its own. On an engine that the application shares, a request that holds a
    connection while its session commits waits for a second one: where the pool is small, such
    requests wait for each other until the store's timeout. On SQLite keep sessions in a file of
    their own for the same reason: one open transaction that writes keeps all others from writing.

    ``table`` is the ``sqlalchemy.Table``, for Alembic: ``target_metadata = [Base.metadata,
    store.table.metadata]``. Its ``expires_at`` counts microseconds since 1970, UTC. Expired rows
    stay until ``purge`` runs, which the provider's ``lifespan`` does now and then.

    Args:
        engine: Used as it is, and left open. For SQLite it should set WAL and a busy timeout, as
            that of ``from_url`` does.
        create_table: Let ``open`` create the table where there is none.

    Raises:
        ConfigurationError: the table name is no plain name, or the database is neither of the two.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        table_name: str = "sessions",
        create_table: bool = False,
        clock: Clock = utc_now,
    ) -> None:
        if not _TABLE_NAME.fullmatch(table_name):
            raise ConfigurationError(
                "SQLStore(table_name=...) takes letters, digits and underscores, at most 63"
            )
        if not hasattr(engine, "dialect"):
            raise ConfigurationError(
                "SQLStore takes SQLAlchemy's AsyncEngine; for a URL write SQLStore.from_url(...)"
            )
        if engine.dialect.name not in _INSERT:
            raise ConfigurationError(
                f"SQLStore works with SQLite and PostgreSQL, not with {engine.dialect.name}"
            )
        self.table = _table(table_name)
        self._engine = engine
        self._owns_engine = False
        self._create_table = create_table
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._create = _create(self.table, engine.dialect.name)
        self._load = _load(self.table)
        self._save = _save(self.table)
        self._delete = _delete(self.table)
        self._find = _find(self.table)
        self._purge = _purge(self.table, engine.dialect.name)

    @classmethod
    def from_url(
        cls,
        url: str | URL,
        *,
        table_name: str = "sessions",
        create_table: bool = False,
        clock: Clock = utc_now,
    ) -> Self:
        """A store with an engine of its own, which ``aclose`` disposes of.

        ``sqlite+aiosqlite:///sessions.db`` or ``postgresql+asyncpg://user@host/database``. SQLite
        files are set to WAL, so that reading never waits for a writer.
        """
        engine = _make_engine(url)
        store = cls(engine, table_name=table_name, create_table=create_table, clock=clock)
        store._owns_engine = True
        return store

    async def create(self, key: str, record: Record) -> bool:
        values = _values(record)
        return await self._count(self._create, at_key=key, now=self._now(), **values) == 1

    async def load(self, key: str) -> Record | None:
        rows = await self._rows(self._load, at_key=key, now=self._now())
        return _record(rows[0]) if rows else None

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        values = {"replaces": replaces, **_values(record)}
        return await self._count(self._save, at_key=key, now=self._now(), **values) == 1

    async def delete(self, key: str) -> bool:
        return await self._count(self._delete, at_key=key, now=self._now()) == 1

    async def find(self, subject: str) -> list[tuple[str, Record]]:
        rows = await self._rows(self._find, of_subject=subject, now=self._now())
        return [(row.key, _record(row)) for row in rows]

    async def purge(self) -> int:
        """Remove what has expired, a thousand rows at a time, and say how many.

        Each batch is a transaction of its own, and a pause as long as it took follows: SQLite has
        one lock for all who write, and who waits for it looks only now and then. Two purges at
        once are safe: on PostgreSQL each skips the rows that the other is removing.
        """
        now = self._now()
        purged = 0
        while True:
            started = time.monotonic()
            batch = await self._count(self._purge, now=now)
            purged += batch
            if batch < _BATCH:
                return purged
            await asyncio.sleep(time.monotonic() - started)

    async def clear(self) -> None:
        await self._count(delete(self.table))

    async def open(self) -> None:
        """Create the table if that was asked for, and see that it is there."""
        if self._create_table:
            await self._count(CreateTable(self.table, if_not_exists=True))
            for index in self.table.indexes:
                await self._count(CreateIndex(index, if_not_exists=True))
        await self.load("0" * 64)

    async def aclose(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*self._tasks, return_exceptions=True)
                if self._owns_engine:
                    await self._engine.dispose()

    def _now(self) -> int:
        return _microseconds(self._clock())

    async def _rows(self, statement: Executable, **values: object) -> Sequence[Row[Any]]:
        return await self._run(lambda result: result.all(), statement, values)

    async def _count(self, statement: Executable, **values: object) -> int:
        return await self._run(lambda result: result.rowcount, statement, values)

    async def _run(self, take: _Take[T], statement: Executable, values: _Values) -> T:
        """Wait for the statement in a task of its own: who is cancelled is free at once.

        The task then ends by itself. On PostgreSQL it drops its connection, which takes a while
        where the server is silent. SQLite works in a thread that nothing interrupts: there the
        statement is done, or gives up waiting for the file, and the connection stays whole.
        """
        task = asyncio.create_task(self._execute(take, statement, values))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait({task})
        finally:
            if self._engine.dialect.name == "postgresql":
                task.cancel()
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: nobody waits any more for that of an abandoned task

    async def _execute(self, take: _Take[T], statement: Executable, values: _Values) -> T:
        """The one place where a driver's error becomes ``StoreUnavailable``."""
        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                async with self._engine.begin() as connection:
                    return take(await connection.execute(statement, values))
            # asyncpg's own errors escape SQLAlchemy's wrapping while it connects, so the net is
            # wide: whatever is raised in there, the database could not be asked
            except Exception as error:
                reason = _reason(error, self.table.name)
                if not _is_passing(error):
                    break
        # raised out here it has no cause and no context: the text and the frames of a driver's
        # error hold keys and records
        raise StoreUnavailable(reason)


def _table(name: str) -> Table:
    return Table(
        name,
        MetaData(),
        Column("key", String(64), primary_key=True),
        Column("version", Text, nullable=False),
        Column("subject", String(400), nullable=True, index=True),
        Column("expires_at", BigInteger, nullable=False, index=True),
        Column("body", LargeBinary, nullable=False),
    )


# The statements are built once. Their parameters are named unlike the columns, whose names
# SQLAlchemy keeps for itself.

_NEW_VALUES: Mapping[str, BindParameter[Any]] = {
    name: bindparam(f"new_{name}") for name in ("version", "subject", "expires_at", "body")
}


def _create(table: Table, dialect: str) -> Executable:
    insert = _INSERT[dialect](table).values(key=bindparam("at_key"), **_NEW_VALUES)
    is_sent_again = table.c.version == insert.excluded.version
    return insert.on_conflict_do_update(
        index_elements=[table.c.key],
        set_={name: insert.excluded[name] for name in _NEW_VALUES},
        where=or_(table.c.expires_at <= bindparam("now"), is_sent_again),
    )


def _load(table: Table) -> Executable:
    return select(table).where(_is_live(table))


def _save(table: Table) -> Executable:
    is_replaced = table.c.version == bindparam("replaces")
    is_sent_again = table.c.version == bindparam("new_version")
    return update(table).where(_is_live(table), is_replaced | is_sent_again).values(**_NEW_VALUES)


def _delete(table: Table) -> Executable:
    return delete(table).where(_is_live(table))


def _find(table: Table) -> Executable:
    is_of_subject = table.c.subject == bindparam("of_subject")
    is_not_expired = table.c.expires_at > bindparam("now")
    return select(table).where(is_of_subject, is_not_expired).order_by(table.c.expires_at.desc())


def _purge(table: Table, dialect: str) -> Executable:
    is_expired = table.c.expires_at <= bindparam("now")
    # the oldest first: the index on expires_at leads past what earlier batches have removed
    oldest = select(table.c.key).where(is_expired).order_by(table.c.expires_at).limit(_BATCH)
    if dialect == "postgresql":
        # a CTE runs once, where a plan may run a subquery again and again
        keys = select(oldest.with_for_update(skip_locked=True).cte("oldest").c.key)
    else:
        keys = oldest  # sqlite3 does not count the rows of a statement that begins with WITH
    return delete(table).where(table.c.key.in_(keys), is_expired)


def _is_live(table: Table) -> ColumnElement[bool]:
    return (table.c.key == bindparam("at_key")) & (table.c.expires_at > bindparam("now"))


def _values(record: Record) -> dict[str, object]:
    return {
        "new_version": record.version,
        "new_subject": record.subject,
        "new_expires_at": _microseconds(record.expires_at),
        "new_body": record.body,
    }


def _record(row: Row[Any]) -> Record:
    expires_at = _EPOCH + row.expires_at * _MICROSECOND
    return Record(bytes(row.body), row.version, row.subject, expires_at)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _make_engine(url: str | URL) -> AsyncEngine:
    problem = ""
    try:
        parsed = make_url(url)
        return _MAKE_ENGINE[parsed.drivername](parsed)
    except ArgumentError:
        problem = "this is no URL"
    except KeyError:
        problem = "it names another driver"
    except ImportError as error:
        problem = f'{error.name} is not installed: pip install "fastapi_async_sessions[sql]"'
    # as above: SQLAlchemy's own text repeats the URL, and with it a password
    urls = " or ".join(f"{name}://..." for name in _MAKE_ENGINE)
    raise ConfigurationError(f"SQLStore.from_url takes {urls}; {problem}")


def _make_sqlite(url: URL) -> AsyncEngine:
    if url.database in (None, "", ":memory:"):
        raise ConfigurationError("SQLStore needs a SQLite file; in memory MemoryStore does better")
    # more connections than these would only queue for the file
    engine = create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=5,
        max_overflow=0,
        connect_args={"timeout": _BUSY_SECONDS},
    )
    event.listen(engine.sync_engine, "connect", _set_wal)
    return engine


def _make_postgresql(url: URL) -> AsyncEngine:
    # autocommit: each statement is a transaction by itself, in one round trip instead of three
    return create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        pool_size=10,
        max_overflow=0,
        connect_args={"timeout": _CONNECT_SECONDS, "command_timeout": _COMMAND_SECONDS},
    )


def _set_wal(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


_MAKE_ENGINE = {"sqlite+aiosqlite": _make_sqlite, "postgresql+asyncpg": _make_postgresql}


def _is_passing(error: Exception) -> bool:
    """Whether the same statement may well work now, on another connection or in another order.

    Sending a write again is safe: it finds its own version where it was done.
    """
    is_disconnect = isinstance(error, DBAPIError) and error.connection_invalidated
    return is_disconnect or getattr(_driver_error(error), "sqlstate", None) in _PASSING


def _reason(error: Exception, table: str) -> str:
    """The driver's error by name and code, without its text: that repeats values."""
    cause = _driver_error(error)
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    name = f"{type(cause).__name__} {code}" if code else type(cause).__name__
    if code in _MISSING or "no such" in str(cause):
        return (
            f"{name}: the table {table!r} is missing, or one of its columns: let Alembic create it "
            "from store.table, or open() with SQLStore(..., create_table=True) in the lifespan: "
            "FastAPI(lifespan=get_session.lifespan)"
        )
    if isinstance(cause, RuntimeError):
        return f"{name}: is the store used from another event loop than it was opened in?"
    return name


def _driver_error(error: BaseException) -> BaseException:
    """What the driver itself raised, under SQLAlchemy's wrapping."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    return error
