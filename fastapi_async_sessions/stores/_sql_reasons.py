"""Explains what failed in a database, by the names and codes of its errors.

The text of an error is left out: it may quote values, an address or a password.
"""

import re

_OWN_FILE = (
    'keep sessions in a separate file, as with SQLStore.from_url("sqlite+aiosqlite:///sessions.db")'
)
LOCKED = (
    "another connection holds the lock of the SQLite file, perhaps a transaction of the "
    f"application that writes: {_OWN_FILE}"
)
_POOL = (
    "requests that hold a connection while their session is committed wait for each other: give "
    "sessions their own connections with SQLStore.from_url(...)"
)
_POOLER = (
    "the prepared statement is on another connection of the server: behind PgBouncer in "
    "transaction mode write SQLStore.from_url(..., pgbouncer=True)"
)
_READ_ONLY = (
    "the server is read-only for this role: is it a standby, or default_transaction_read_only set?"
)
_ANOTHER_LOOP = (
    "the connections of this engine belong to another event loop: let SQLStore.from_url(...) make "
    "an engine for each loop, or write `await engine.dispose()` at the end of each"
)
_SHUTTING_DOWN = "the server is starting or shutting down"

# by SQLSTATE, or by the name of SQLite's extended result code
_HINTS = {
    "25006": _READ_ONLY,
    "26000": _POOLER,
    "28000": "the server refuses the user or the password",
    "28P01": "the server refuses the user or the password",
    "3D000": "the database does not exist",
    "3F000": "no schema of the role's search_path exists",
    "42P05": _POOLER,
    "53100": "the disk of the server is full",
    "53300": (
        "no connection is left: max_connections of the server, and a CONNECTION LIMIT of the role "
        "or the database, must allow ten for each process, and those of other clients"
    ),
    "55P03": "a lock on the table was held for longer than the server's lock_timeout",
    "57014": (
        "the server cancelled the statement, which took longer than its statement_timeout: perhaps "
        "it waited for a lock on the table"
    ),
    "57P01": _SHUTTING_DOWN,
    "57P03": _SHUTTING_DOWN,
    "SQLITE_BUSY": LOCKED,
    "SQLITE_CANTOPEN": (
        "the SQLite file cannot be opened: its directory must exist and be writable"
    ),
    "SQLITE_CORRUPT": "the SQLite file is damaged",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk of the SQLite file fails, or is full",
    "SQLITE_LOCKED": LOCKED,
    "SQLITE_NOTADB": "the file is not a SQLite database",
    "SQLITE_READONLY": "the SQLite file is read-only, or its directory",
}
_MAY_NOT = "42501"
_MISSING = ("42P01", "42703")
_MISSING_IN_SQLITE = "no such|no column"


def explain(error: BaseException, table: str, *, creates: bool = False) -> str:
    """Return the name and code of an error, and what to do about it if that is known.

    ``creates``: it was raised by the statement that creates the table.
    """
    cause = driver_error(error)
    code = code_of(cause)
    name = f"{type(cause).__name__} {code}" if code else type(cause).__name__
    hint = _hint(cause, code, table, creates)
    return f"{name}: {hint}" if hint else name


def driver_error(error: BaseException) -> BaseException:
    """Return the error that the driver itself raised, from inside SQLAlchemy's wrapping."""
    # the cause of a TimeoutError is a CancelledError, which is not an Exception
    while isinstance(inner := getattr(error, "orig", None) or error.__cause__, Exception):
        error = inner
    return error


def code_of(cause: BaseException) -> str | None:
    """Return the SQLSTATE of an error of PostgreSQL, or the name of SQLite's code."""
    code: str | None = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return code


def waiting_for_pool(in_use: int | None) -> str:
    """Explain a call that waited for a connection; ``in_use`` counts them if none is free."""
    if in_use is None:
        return "it waited for a connection to the database"
    return f"it waited for a connection of the engine's pool, and all {in_use} are in use: {_POOL}"


def _hint(cause: BaseException, code: str | None, table: str, creates: bool) -> str | None:
    if code in _MISSING or (code == "SQLITE_ERROR" and re.search(_MISSING_IN_SQLITE, str(cause))):
        return (
            f"the table {table!r} is missing, or one of its columns: let Alembic create it "
            "from store.table, or write SQLStore(..., create_table=True) and "
            "FastAPI(lifespan=get_session.lifespan), which opens the store"
        )
    if code == _MAY_NOT:
        return _right(table, creates)
    if code is not None:
        # an extended code of SQLite begins with the one that it belongs to
        primary = "_".join(code.split("_")[:2])
        return _HINTS.get(code) or _HINTS.get(primary)
    return _hint_of_python(cause)


def _right(table: str, creates: bool) -> str:
    if creates:
        return (
            f"the role may not create the table {table!r}: GRANT CREATE ON SCHEMA ... TO the role, "
            "or let another role create it, with Alembic from store.table"
        )
    return (
        "the role needs SELECT, INSERT, UPDATE and DELETE on the table "
        f"{table!r}, and USAGE on its schema"
    )


def _hint_of_python(cause: BaseException) -> str | None:
    if isinstance(cause, RuntimeError) or "operation is in progress" in str(cause):
        return _ANOTHER_LOOP
    if isinstance(cause, TypeError):
        return "does the driver know each option of the engine's URL and connect_args?"
    if isinstance(cause, TimeoutError):
        return "the server did not answer in time"
    module, name = type(cause).__module__, type(cause).__name__
    if (module, name) == ("sqlalchemy.exc", "TimeoutError"):
        return f"no connection of the engine's pool became free: {_POOL}"
    if (module, name) == ("psycopg", "OperationalError"):
        return "the server cannot be reached, or it refuses the user, password or database"
    return None
