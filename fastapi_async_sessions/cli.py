"""See, check and end sessions from a shell.

Exit codes: 0 done, 1 nothing there, 2 usage or configuration, 3 store unavailable.
"""

import asyncio
import json
import logging
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from time import perf_counter
from typing import Annotated, Any, TypeVar

from ._core.admin import StoredSession, stored_session
from ._core.repository import Absent
from ._core.settings import Settings
from ._core.tokens import is_key, store_key
from ._terminal import Facts, Terminal
from ._web.discovery import find_provider
from ._web.provider import SessionProvider
from .errors import ConfigurationError, SessionError, StoreUnavailable
from .records import Record, new_version
from .stores.base import Store, translate_errors
from .stores.memory import MemoryStore

try:
    import typer
except ImportError:
    raise ConfigurationError(
        'the command line needs typer: pip install "fastapi_async_sessions[cli]"'
    ) from None

DONE, NOTHING_THERE, WRONG, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130

Provider = SessionProvider[Any]
_Command = Callable[[Provider], Coroutine[Any, Any, int]]
_Result = TypeVar("_Result")

_LISTED = 100
_CLOSE_SECONDS = 5
_PROGRESS_SECONDS = 0.3
_MAX_SKEW = timedelta(seconds=10)

_translated = translate_errors(lambda e: StoreUnavailable(f"the store raised {type(e).__name__}"))

app = typer.Typer(
    name="fastapi-async-sessions",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    # its tracebacks show local variables, and so secrets
    pretty_exceptions_enable=False,
)

App = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="MODULE:NAME",
        help="The application or its provider, or a file that holds one. By default, the "
        "application that `fastapi run` would start.",
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="The provider, if there are several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on each line.")]


def run() -> None:
    """Run the command line."""
    # Python would print warnings and errors to a terminal that has no logging: they would be there
    # twice
    logging.getLogger("fastapi_async_sessions").addHandler(logging.NullHandler())
    app()


@app.command()
def secret() -> None:
    """Print a new secret for secret_key, and nothing else."""
    sys.stdout.write(f"{secrets.token_urlsafe(32)}\n")


@app.command()
def check(app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """Check the settings, the store, the rights that it needs there, and its clock."""
    terminal = Terminal(as_json)

    async def command(provider: Provider) -> int:
        settings = provider.repository.settings
        rows = [*_checked_settings(provider)]
        if not isinstance(settings.store, MemoryStore):
            await _of_store(settings.store.load(_probe_key(settings)))  # if it is down, say it once
            rows += [row async for row in _checked_store(settings)]
        terminal.rows(rows, {"check": "", "ok": "", "detail": ""})
        failed = {row["check"] for row in rows if not row["ok"]}
        return DONE if not failed else WRONG if failed == {"clock"} else UNAVAILABLE

    _run(terminal, command, app, name, in_memory=True)


@app.command()
def sessions(subject: str, app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """List the sessions of a subject, the latest sign-in first."""
    terminal = Terminal(as_json)
    titles = {"authenticated_at": "signed in", "seen_at": "seen", "expires_at": "expires"}

    async def command(provider: Provider) -> int:
        found = await provider.sessions(subject, limit=_LISTED)
        if not found:
            terminal.note("no session")
            return NOTHING_THERE
        terminal.rows([_facts(each) for each in found], {**titles, "key": "key"})
        if len(found) == _LISTED:
            terminal.note(f"There may be more: these are the {_LISTED} that expire last.")
        return DONE

    _run(terminal, command, app, name)


@app.command()
def show(
    key: str,
    data: Annotated[bool, typer.Option("--data", help="Show the session's data too.")] = False,
    app: App = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """Show one session, without its data."""
    terminal = Terminal(as_json)

    async def command(provider: Provider) -> int:
        repository = provider.repository
        loaded = await repository.load(key) if is_key(key) else Absent("missing")
        if isinstance(loaded, Absent):
            terminal.note("no session has this key")
            return NOTHING_THERE
        contents = loaded.contents()
        facts = _facts(stored_session(loaded.stored, contents.data, repository.settings.lifetime))
        if data:
            facts["data"] = json.loads(repository.codec.dump(contents.data))
        terminal.facts(facts)
        return DONE

    _run(terminal, command, app, name)


@app.command()
def revoke(
    key: Annotated[str | None, typer.Argument(help="The key of one session.")] = None,
    subject: Annotated[str | None, typer.Option(help="All sessions of this subject.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that the store holds.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    app: App = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """End one session, all of a subject, or all that the store holds."""
    if [key is not None, subject is not None, everything].count(True) != 1:
        raise typer.BadParameter("give one of KEY, --subject and --all")
    terminal = Terminal(as_json)

    async def command(provider: Provider) -> int:
        if everything:
            revoked = await _clear(provider.repository.settings.store, yes)
        elif key is not None:
            revoked = int(await provider.revoke(key))
        else:
            revoked = await provider.revoke_all(subject)
        terminal.result({"revoked": revoked}, f"revoked: {revoked:,}")
        return DONE if revoked else NOTHING_THERE

    _run(terminal, command, app, name)


@app.command()
def count(app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """Count what the store holds, for all providers and all applications that share it."""
    terminal = Terminal(as_json)

    async def command(provider: Provider) -> int:
        held = await _of_store(provider.repository.settings.store.count())
        terminal.result({"count": held}, f"{held:,}")
        return DONE

    _run(terminal, command, app, name)


@app.command()
def purge(app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """Remove expired sessions from the store; safe to stop at any time."""
    terminal = Terminal(as_json)

    async def command(provider: Provider) -> int:
        purged = await _purge(provider.repository.settings.store, terminal)
        terminal.result({"purged": purged}, f"purged: {purged:,}")
        return DONE

    _run(terminal, command, app, name)


@app.command()
def create_table(app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """Create the table of an SQLStore; what exists stays as it is."""
    terminal = Terminal(as_json)

    async def command(provider: Provider) -> int:
        store: Any = provider.repository.settings.store
        if not hasattr(store, "create_table"):
            raise ConfigurationError(f"{type(store).__name__} needs no table")
        await _of_store(store.create_table())
        terminal.result({"table": str(store.table)}, f"the table {store.table} exists")
        return DONE

    _run(terminal, command, app, name)


def _run(
    terminal: Terminal,
    command: _Command,
    target: str | None,
    name: str | None,
    *,
    in_memory: bool = False,
) -> None:
    """Run a command with the provider that the options name, and exit with its code."""
    try:
        provider = find_provider(target, name)
        if isinstance(provider.repository.settings.store, MemoryStore) and not in_memory:
            raise ConfigurationError(_IN_MEMORY)
        code = asyncio.run(_with_store(provider, command))
    except StoreUnavailable as error:
        terminal.fail(UNAVAILABLE, f"the store is unavailable: {error.reason}")
    except SessionError as error:
        terminal.fail(WRONG, getattr(error, "detail", str(error)))
    except KeyboardInterrupt:
        terminal.fail(INTERRUPTED, "interrupted")
    raise typer.Exit(code)


_IN_MEMORY = (
    "MemoryStore: the sessions are in the memory of the application's process, which no other "
    "process can read; RedisStore and SQLStore keep them where this command finds them"
)


async def _with_store(provider: Provider, command: _Command) -> int:
    try:
        return await command(provider)
    finally:
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await provider.repository.settings.store.aclose()


async def _of_store(call: Awaitable[_Result]) -> _Result:
    """Await a call to a store whose errors may be those of its driver."""
    with _translated:
        return await call


async def _clear(store: Store, yes: bool) -> int:
    held = await _of_store(store.count())
    if held and not yes:
        question = (
            f"The store holds {held:,} records, those of every provider and application that "
            "shares it. End all these sessions?"
        )
        if not _confirms(question):
            raise ConfigurationError("nothing was revoked; --yes revokes without a question")
    await _of_store(store.clear())
    return held


def _confirms(question: str) -> bool:
    # asyncio's own handler would cancel this task, but not end the wait for an answer
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False
    finally:
        signal.signal(signal.SIGINT, before)


async def _purge(store: Store, terminal: Terminal) -> int:
    total = await _of_store(store.count_expired())
    purging = asyncio.create_task(_of_store(store.purge()))
    with terminal.progress("purging", total) as show:
        while not purging.done():
            await asyncio.wait([purging], timeout=_PROGRESS_SECONDS)
            left = 0 if purging.done() else await _of_store(store.count_expired())
            if total is not None and left is not None:
                show(max(0, total - left))
    return await purging


def _facts(session: StoredSession[Any]) -> dict[str, Any]:
    names = ("key", "subject", "created_at", "authenticated_at", "seen_at", "expires_at")
    return {name: getattr(session, name) for name in names}


def _checked_settings(provider: Provider) -> Iterator[Facts]:
    settings = provider.repository.settings
    idle, absolute = settings.lifetime.idle, settings.lifetime.absolute
    yield _passed("provider", f"{settings.name}, of {settings.model.__name__}")
    yield _passed("cookie", provider.cookie.name)
    yield _passed("lifetime", f"idle {idle}, absolute {absolute}")
    store = type(settings.store).__name__
    yield _passed("store", _IN_MEMORY if isinstance(settings.store, MemoryStore) else store)


async def _checked_store(settings: Settings[Any]) -> AsyncIterator[Facts]:
    """Check what requests do with a store, and what revocations do."""
    store, key, owner = settings.store, _probe_key(settings), secrets.token_hex(16)
    expires_at = settings.clock() + timedelta(minutes=1)
    record = Record(b"", new_version(), owner, expires_at)
    again = Record(b"", new_version(record.version), owner, expires_at)
    yield await _checked("create", store.create(key, record))
    yield await _checked("load", store.load(key))
    yield await _checked("save", store.save(key, again, replaces=record.version))
    yield await _checked("find", store.find(owner))
    yield await _checked("delete_owned", store.delete_owned(owner))
    yield await _checked("delete", store.delete(key))
    yield await _checked_clock(settings)


async def _checked(verb: str, call: Awaitable[Any]) -> Facts:
    began = perf_counter()
    try:
        await _of_store(call)
    except StoreUnavailable as error:
        return {"check": verb, "ok": False, "detail": error.reason}
    except ConfigurationError as error:
        return _passed(verb, str(error))  # it is optional
    return _passed(verb, f"{(perf_counter() - began) * 1000:.1f} ms")


async def _checked_clock(settings: Settings[Any]) -> Facts:
    try:
        theirs: datetime | None = await _of_store(settings.store.server_time())
    except StoreUnavailable as error:
        return _passed("clock", f"not known: {error.reason}")
    if theirs is None:
        return _passed("clock", "the store does not have one")
    ahead = theirs - settings.clock()
    side = "ahead of" if ahead > timedelta(0) else "behind"
    detail = f"the store's is {abs(ahead.total_seconds()):.1f} s {side} this machine's"
    return {"check": "clock", "ok": abs(ahead) <= _MAX_SKEW, "detail": detail}


def _passed(check: str, detail: str) -> Facts:
    return {"check": check, "ok": True, "detail": detail}


def _probe_key(settings: Settings[Any]) -> str:
    return store_key("probe", settings.name, secrets.token_bytes(16))
