"""Sessions in a table: SQLite or PostgreSQL, through SQLAlchemy's async engine."""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from traceback import clear_frames
from typing import Any, NamedTuple, Self, TypeVar, cast

from ..errors import ConfigurationError, StoreUnavailable
from ..lifetime import Clock, checked_clock, utc_now
from ..records import Record, from_microseconds, new_version, to_microseconds
from ._loops import CLOSE_SECONDS, PerLoop
from ._sql_reasons import LOCKED, code_of, driver_error, explain, waiting_for_pool
from .base import Store, translate_errors

try:
    from sqlalchemy import (
        URL,
        BigInteger,
        BindParameter,
        Column,
        ColumnElement,
        Connection,
        Executable,
        Index,
        LargeBinary,
        MetaData,
        Row,
        Select,
        String,
        Table,
        Text,
        bindparam,
        delete,
        func,
        inspect,
        or_,
        select,
        update,
    )
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
    from sqlalchemy.pool import QueuePool
    from sqlalchemy.schema import CreateIndex, CreateTable

    from ._sql_engine import checked_engine, make_engine
except ImportError as error:
    raise ConfigurationError(
        'SQLStore needs SQLAlchemy: pip install "fastapi_async_sessions[sql]"'
    ) from error

_BATCH = 1000
_ATTEMPTS = 10
_CANCEL_SECONDS = 1
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_INSERT: Mapping[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}

_SERIALIZATION_FAILURE = "40001"
# deadlocks, a plan from before a migration, and the errors of creating one table twice at the same
# time
_TRANSIENT = {_SERIALIZATION_FAILURE, "40P01", "0A000", "23505", "42710", "42P07"}

T = TypeVar("T")
_Work = Callable[[AsyncConnection], Awaitable[T]]


class SQLStore(Store):
    """One table in SQLite or PostgreSQL: sessions outlive restarts and processes share them.

    Each call is one statement in its own transaction, on a connection that returns to the
    pool at once: a rollback in the application undoes nothing here. ``from_url`` gives the store
    its own pool. On an engine that the application uses too, a request that holds a connection
    while its session commits needs a second one: if the pool is small, such requests wait for each
    other until they time out. On SQLite, keep sessions in a separate file for the same reason:
    an open transaction that writes blocks all other writers.

    ``table`` is the ``sqlalchemy.Table``, for Alembic: ``target_metadata = [Base.metadata,
    store.table.metadata]``. Its ``expires_at`` is in microseconds since 1970, UTC. Expired rows
    stay until ``purge`` runs, which the provider's ``lifespan`` sees to.

    Args:
        engine: Used as it is, and not closed. For SQLite it should set WAL and a busy timeout, as
            the engine of ``from_url`` does.
        create_table: Whether ``open`` creates the table if it does not exist.

    Raises:
        ConfigurationError: the table name needs quoting, or the database is neither of the two.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        table_name: str = "sessions",
        create_table: bool = False,
        clock: Clock = utc_now,
    ) -> None:
        self.table = _table(table_name)
        self._dialect = checked_engine(engine).dialect.name
        self._engines = PerLoop(lambda: engine, self._close, ours=False)
        self._owns_engines = False
        if not isinstance(create_table, bool):
            raise ConfigurationError("SQLStore(create_table=...) takes True or False")
        self._create_table = create_table
        self._clock = checked_clock(clock, "SQLStore")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._statements = _statements(self.table, self._dialect)

    @classmethod
    def from_url(
        cls,
        url: str | URL,
        *,
        table_name: str = "sessions",
        create_table: bool = False,
        pgbouncer: bool = False,
        clock: Clock = utc_now,
    ) -> Self:
        """Make a store with its own engine, which ``aclose`` disposes of.

        The URL is one like ``sqlite+aiosqlite:///sessions.db``,
        ``postgresql+asyncpg://user@host/database`` or ``postgresql+psycopg://user@host/database``.
        SQLite files are set to WAL, so that readers never wait for a writer.

        Args:
            pgbouncer: Set it behind PgBouncer in transaction mode, which gives each transaction
                any connection of the server. With asyncpg each call is then four round trips
                instead of one; psycopg, which needs one, works there without it too.

        Raises:
            ConfigurationError: the URL names another driver, or an option that its driver does not
                know; the message says which line to write.
        """
        make = partial(make_engine, url, pgbouncer=pgbouncer)
        store = cls(make(), table_name=table_name, create_table=create_table, clock=clock)
        store._engines = PerLoop(make, store._close)
        store._owns_engines = True
        return store

    async def create(self, key: str, record: Record) -> bool:
        values = {"at_key": key, "now": self._now(), **_values(record)}
        return await self._count(self._statements.create, **values) == 1

    async def load(self, key: str) -> Record | None:
        rows = await self._rows(self._statements.load, at_key=key, now=self._now())
        return _record(rows[0]) if rows else None

    async def save(self, key: str, record: Record, *, replaces: str) -> bool:
        values = {"at_key": key, "now": self._now(), "replaces": replaces, **_values(record)}
        return await self._count(self._statements.save, **values) == 1

    async def delete(self, key: str) -> bool:
        return await self._count(self._statements.delete, at_key=key, now=self._now()) == 1

    async def find(self, owner: str, limit: int = 100) -> list[tuple[str, Record]]:
        values = {"of_owner": owner, "now": self._now(), "at_most": limit}
        rows = await self._rows(self._statements.find, **values)
        return [(row.key, _record(row)) for row in rows]

    async def delete_owned(self, owner: str, *, keep: str | None = None) -> int:
        # "" is the key of no session
        values = {"of_owner": owner, "now": self._now(), "but_not": keep or ""}
        return await self._count(self._statements.delete_owned, **values)

    async def count(self) -> int:
        ((live,),) = await self._rows(self._statements.count_live, now=self._now())
        return int(live)

    async def purge(self) -> int:
        """Remove expired rows, a thousand at a time, and return their number.

        Each batch is its own transaction, followed by a pause of the same length: SQLite has
        one lock for all writers, and a writer that waits for it only tries now and then. Purges
        may run at the same time: on PostgreSQL each skips the rows that another is removing.
        """
        now = self._now()
        purged = 0
        while True:
            started = time.monotonic()
            batch = await self._count(self._statements.purge, now=now)
            purged += batch
            if batch < _BATCH:
                return purged
            await asyncio.sleep(time.monotonic() - started)

    async def count_expired(self) -> int:
        ((expired,),) = await self._rows(self._statements.count_expired, now=self._now())
        return int(expired)

    async def server_time(self) -> datetime | None:
        if self._dialect == "sqlite":
            return None  # it runs in this process
        ((now,),) = await self._rows(select(func.clock_timestamp()))
        return cast(datetime, now).astimezone(UTC)

    async def clear(self) -> None:
        await self._count(delete(self.table))

    async def create_table(self) -> None:
        """Create the table and its indexes; what exists stays as it is."""

        async def look(connection: AsyncConnection) -> list[Executable]:
            return await connection.run_sync(self._missing)

        for statement in await self._run(look):

            async def create(connection: AsyncConnection, missing: Executable = statement) -> None:
                await connection.execute(missing)

            await self._run(create, creates=True)

    async def open(self) -> None:
        """Create the table if ``create_table`` was set, and try what requests need.

        A record is written and deleted: a standby can be read, and a role may lack a right.
        """
        if self._create_table:
            await self.create_table()
        key, expires_at = secrets.token_hex(32), self._clock() + timedelta(minutes=1)
        await self.create(key, Record(b"", new_version(), None, expires_at))
        await self.delete(key)

    async def aclose(self) -> None:
        """Wait for the calls in flight, five seconds at most; close an engine of ``from_url``."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in list(self._tasks) if task.get_loop() is loop]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                self._give_up(task)
        if self._owns_engines:
            await self._engines.close()

    @property
    def _engine(self) -> AsyncEngine:
        return self._engines.here()

    async def _close(self, engine: AsyncEngine) -> None:
        # another pool keeps no connections, or the only one to a database in memory
        if isinstance(engine.pool, QueuePool):
            await engine.dispose()

    def _now(self) -> int:
        return to_microseconds(self._clock())

    def _missing(self, connection: Connection) -> list[Executable]:
        """Return what creates the table and its indexes, as far as they do not exist.

        PostgreSQL refuses IF NOT EXISTS to a role that may not create, also where they exist.
        """
        found = inspect(connection)
        if not found.has_table(self.table.name):
            create_table = CreateTable(self.table, if_not_exists=True)
            return [create_table, *(_create_index(index) for index in self.table.indexes)]
        names = {index["name"] for index in found.get_indexes(self.table.name)}
        return [_create_index(index) for index in self.table.indexes if index.name not in names]

    async def _rows(self, statement: Executable, **values: object) -> Sequence[Row[Any]]:
        async def work(connection: AsyncConnection) -> Sequence[Row[Any]]:
            return (await connection.execute(statement, values)).all()

        return await self._run(work)

    async def _count(self, statement: Executable, **values: object) -> int:
        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(statement, values)).rowcount

        return await self._run(work)

    async def _run(self, work: _Work[T], *, creates: bool = False) -> T:
        """Run a statement in its own task, so that a cancelled caller returns at once.

        The task then ends by itself. On PostgreSQL it is cancelled too and drops its connection.
        SQLite works in a thread that cannot be interrupted: the statement completes, or gives up
        waiting for the file, and the connection stays intact.
        """
        is_connected = asyncio.Event()
        task = asyncio.create_task(self._execute(work, is_connected, creates))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            if reason := self._waiting_for(is_connected.is_set()):
                error.add_note(reason)
            self._give_up(task)
            raise
        if task.cancelled():
            raise StoreUnavailable("the store was closed before the database answered")
        return task.result()

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        if self._dialect == "postgresql":
            task.cancel()
            # drivers ask the server to cancel the statement, which it may not answer
            asyncio.get_running_loop().call_later(_CANCEL_SECONDS, task.cancel)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        try:
            task.exception()  # or asyncio would log that the one of a cancelled caller was lost
        except asyncio.CancelledError as error:
            # psycopg's would keep the connection open until they are collected as garbage
            clear_frames(error.__traceback__)

    def _waiting_for(self, is_connected: bool) -> str | None:
        """Return what a call has probably been waiting for, if that is known."""
        if is_connected:
            return LOCKED if self._dialect == "sqlite" else None
        return waiting_for_pool(None if self._owns_engines else _all_in_use(self._engine))

    async def _execute(self, work: _Work[T], is_connected: asyncio.Event, creates: bool) -> T:
        """Run a statement, and again while the errors that it meets are transient."""
        attempts_left, engine = _ATTEMPTS, self._engine
        with translate_errors(partial(self._unavailable, creates)):
            while True:
                attempts_left -= 1
                try:
                    async with engine.begin() as connection:
                        is_connected.set()
                        return await work(connection)
                except Exception as error:
                    # any: while asyncpg connects, its own errors escape SQLAlchemy's wrapping
                    if not attempts_left or not _is_transient(error):
                        raise
                    if code_of(driver_error(error)) == _SERIALIZATION_FAILURE:
                        # The engine's own level may be stricter, where each of a crowd of writers
                        # fails a call again. Each statement is correct at this one, and waits.
                        engine = self._engine.execution_options(isolation_level="READ COMMITTED")
                is_connected.clear()

    def _unavailable(self, creates: bool, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(explain(error, self.table.name, creates=creates))


def _create_index(index: Index) -> CreateIndex:
    return CreateIndex(index, if_not_exists=True)


def _all_in_use(engine: AsyncEngine) -> int | None:
    """Return the number of connections of a pool that has no free one."""
    pool = engine.pool
    if isinstance(pool, QueuePool) and pool.checkedout() >= pool.size():
        return pool.checkedout()
    return None


def _table(name: str) -> Table:
    if not isinstance(name, str) or not _TABLE_NAME.fullmatch(name):
        raise ConfigurationError(
            "SQLStore(table_name=...) takes letters, digits and underscores, at most 63; the "
            "schema is the first one of the role's search_path"
        )
    return Table(
        name,
        MetaData(),
        Column("key", String(64), primary_key=True),
        Column("version", Text, nullable=False),
        Column("owner", String(400), nullable=True),
        Column("expires_at", BigInteger, nullable=False, index=True),
        Column("body", LargeBinary, nullable=False),
        # both columns: the sessions of an owner are read in order, and expired ones are skipped
        Index(None, "owner", "expires_at"),
    )


class _Statements(NamedTuple):
    """The statements of one table, built once.

    Their parameters have other names than the columns, because SQLAlchemy reserves those.
    """

    create: Executable
    load: Executable
    save: Executable
    delete: Executable
    find: Executable
    delete_owned: Executable
    count_live: Executable
    count_expired: Executable
    purge: Executable


def _statements(table: Table, dialect: str) -> _Statements:
    return _Statements(
        create=_create(table, dialect),
        load=select(table).where(_is_live(table)),
        save=_save(table),
        delete=delete(table).where(_is_live(table)),
        find=_find(table),
        delete_owned=_delete_owned(table, dialect),
        count_live=select(func.count()).select_from(table).where(_is_not_expired(table)),
        count_expired=select(func.count()).select_from(table).where(~_is_not_expired(table)),
        purge=_purge(table, dialect),
    )


_NEW_VALUES: Mapping[str, BindParameter[Any]] = {
    name: bindparam(f"new_{name}") for name in ("version", "owner", "expires_at", "body")
}


def _create(table: Table, dialect: str) -> Executable:
    insert = _INSERT[dialect](table).values(key=bindparam("at_key"), **_NEW_VALUES)
    is_same_write = table.c.version == insert.excluded.version
    return insert.on_conflict_do_update(
        index_elements=[table.c.key],
        set_={name: insert.excluded[name] for name in _NEW_VALUES},
        where=or_(table.c.expires_at <= bindparam("now"), is_same_write),
    ).execution_options(preserve_rowcount=True)  # psycopg's is otherwise lost for an INSERT


def _save(table: Table) -> Executable:
    is_replaced = table.c.version == bindparam("replaces")
    is_same_write = table.c.version == bindparam("new_version")
    return update(table).where(_is_live(table), is_replaced | is_same_write).values(**_NEW_VALUES)


def _find(table: Table) -> Executable:
    latest_first = select(table).where(_is_owned(table)).order_by(table.c.expires_at.desc())
    return latest_first.limit(bindparam("at_most"))


def _delete_owned(table: Table, dialect: str) -> Executable:
    others = _is_owned(table) & (table.c.key != bindparam("but_not"))
    page = select(table.c.key).where(others).order_by(table.c.expires_at).limit(_BATCH)
    # With a lock PostgreSQL waits for the rows that others are writing, looks at their owner again
    # and takes the next rows where these are gone; skipped rows would be left out of a page that
    # says that none is left.
    return delete(table).where(table.c.key.in_(_once(page.with_for_update(), dialect)), others)


def _purge(table: Table, dialect: str) -> Executable:
    is_expired = table.c.expires_at <= bindparam("now")
    # oldest first: the index on expires_at then skips the rows that earlier batches removed
    oldest = select(table.c.key).where(is_expired).order_by(table.c.expires_at).limit(_BATCH)
    keys = _once(oldest.with_for_update(skip_locked=True), dialect)
    return delete(table).where(table.c.key.in_(keys), is_expired)


def _once(keys: Select[tuple[str]], dialect: str) -> Select[tuple[str]]:
    """Return a selection of keys that runs once: a plan may run a subquery for every row."""
    if dialect == "postgresql":
        return select(keys.cte("page").c.key)
    return keys  # for a statement that begins with WITH, sqlite3 returns no row count


def _is_live(table: Table) -> ColumnElement[bool]:
    return (table.c.key == bindparam("at_key")) & _is_not_expired(table)


def _is_owned(table: Table) -> ColumnElement[bool]:
    return (table.c.owner == bindparam("of_owner")) & _is_not_expired(table)


def _is_not_expired(table: Table) -> ColumnElement[bool]:
    return table.c.expires_at > bindparam("now")


def _values(record: Record) -> dict[str, object]:
    return {
        "new_version": record.version,
        "new_owner": record.owner,
        "new_expires_at": to_microseconds(record.expires_at),
        "new_body": record.body,
    }


def _record(row: Row[Any]) -> Record:
    return Record(bytes(row.body), row.version, row.owner, from_microseconds(row.expires_at))


def _is_transient(error: Exception) -> bool:
    """Return whether the same statement is likely to succeed when it is run again.

    Repeating a write is safe: if it was done the first time, it finds its own version.
    """
    is_disconnect = isinstance(error, DBAPIError) and error.connection_invalidated
    return is_disconnect or code_of(driver_error(error)) in _TRANSIENT
