"""See, check and end sessions from a shell.

Exit codes: 0 done, 1 nothing there, 2 usage or configuration, 3 store unavailable.
"""

import asyncio
import json
import logging
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import redirect_stdout, suppress
from typing import Annotated, Any, NoReturn

from ._checks import CLOCK, IN_MEMORY, answer, checks, reach
from ._core.admin import StoredSession, stored_session
from ._core.repository import Absent
from ._core.tokens import is_key
from ._terminal import Terminal
from ._web.discovery import find_provider
from ._web.provider import SessionProvider
from .errors import ConfigurationError, SessionError, StoreUnavailable
from .stores.base import Store
from .stores.memory import MemoryStore

try:
    import typer
except ImportError:
    raise ConfigurationError(
        'the command line needs typer: pip install "fastapi_async_sessions[cli]"'
    ) from None

DONE, NOTHING_THERE, WRONG, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130

Provider = SessionProvider[Any]
_Command = Callable[[Provider, Terminal], Coroutine[Any, Any, int]]

_LISTED = 100
_CLOSE_SECONDS = 5
_PROGRESS_SECONDS = 0.3

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

    async def command(provider: Provider, terminal: Terminal) -> int:
        rows = [row async for row in checks(provider)]
        terminal.rows(rows, {"check": "", "ok": "", "detail": ""})
        failed = {row["check"] for row in rows if not row["ok"]}
        return DONE if not failed else WRONG if failed == {CLOCK} else UNAVAILABLE

    _run(command, app, name, as_json, in_memory=True)


@app.command()
def sessions(subject: str, app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """List the sessions of a subject, the latest sign-in first."""
    titles = {"authenticated_at": "signed in", "seen_at": "seen", "expires_at": "expires"}

    async def command(provider: Provider, terminal: Terminal) -> int:
        found = await provider.sessions(subject, limit=_LISTED)
        if not found:
            terminal.note("no session")
            return NOTHING_THERE
        terminal.rows([_facts(each) for each in found], {**titles, "key": "key"})
        if len(found) == _LISTED:
            terminal.note(f"There may be more: these are the {_LISTED} that expire last.")
        return DONE

    _run(command, app, name, as_json)


@app.command()
def show(
    key: str,
    data: Annotated[bool, typer.Option("--data", help="Show the session's data too.")] = False,
    app: App = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """Show one session, without its data."""

    async def command(provider: Provider, terminal: Terminal) -> int:
        repository = provider.repository
        loaded = await repository.load(key) if is_key(key) else Absent("missing")
        if isinstance(loaded, Absent):
            terminal.note("no session has this key")
            return NOTHING_THERE
        contents = loaded.contents()
        facts = _facts(stored_session(loaded.stored, contents.data, repository.settings.lifetime))
        if data:
            facts["data"] = json.loads(contents.base)
        terminal.facts(facts)
        return DONE

    _run(command, app, name, as_json)


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

    async def command(provider: Provider, terminal: Terminal) -> int:
        if everything:
            revoked = await _clear(provider.repository.settings.store, yes)
        elif key is not None:
            revoked = int(await provider.revoke(key))
        else:
            revoked = await provider.revoke_all(subject)
        terminal.result({"revoked": revoked}, f"revoked: {revoked:,}")
        return DONE if revoked else NOTHING_THERE

    _run(command, app, name, as_json)


@app.command()
def count(app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """Count what the store holds, for all providers and all applications that share it."""

    async def command(provider: Provider, terminal: Terminal) -> int:
        held = await answer(provider.repository.settings.store.count())
        terminal.result({"count": held}, f"{held:,}")
        return DONE

    _run(command, app, name, as_json)


@app.command()
def purge(app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """Remove expired sessions from the store; safe to stop at any time."""

    async def command(provider: Provider, terminal: Terminal) -> int:
        settings = provider.repository.settings
        await reach(settings)  # some stores have nothing to purge, and would not tell
        purged = await _purge(settings.store, terminal)
        terminal.result({"purged": purged}, f"purged: {purged:,}")
        return DONE

    _run(command, app, name, as_json)


@app.command()
def create_table(app: App = None, name: Name = None, as_json: AsJson = False) -> None:
    """Create the table of an SQLStore; what exists stays as it is."""

    async def command(provider: Provider, terminal: Terminal) -> int:
        store: Any = provider.repository.settings.store
        if not hasattr(store, "create_table"):
            raise ConfigurationError(f"{type(store).__name__} needs no table")
        await answer(store.create_table())
        terminal.result({"table": str(store.table)}, f"the table {store.table} exists")
        return DONE

    _run(command, app, name, as_json)


def _run(
    command: _Command,
    target: str | None,
    name: str | None,
    as_json: bool,
    *,
    in_memory: bool = False,
) -> NoReturn:
    """Run a command with the provider that the options name, and exit with its code."""
    terminal = Terminal(as_json)
    try:
        with redirect_stdout(sys.stderr):  # what the application prints is no answer
            provider = find_provider(target, name)
        if isinstance(provider.repository.settings.store, MemoryStore) and not in_memory:
            raise ConfigurationError(IN_MEMORY)
        code = asyncio.run(_with_store(provider, terminal, command))
    except StoreUnavailable as error:
        terminal.fail(UNAVAILABLE, f"the store is unavailable: {error.reason}")
    except SessionError as error:
        terminal.fail(WRONG, getattr(error, "reason", str(error)))
    except KeyboardInterrupt:
        terminal.fail(INTERRUPTED, "interrupted")
    raise typer.Exit(code)


async def _with_store(provider: Provider, terminal: Terminal, command: _Command) -> int:
    try:
        return await command(provider, terminal)
    finally:
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await provider.repository.settings.store.aclose()


async def _clear(store: Store, yes: bool) -> int:
    held = await answer(store.count())
    if held and not yes:
        question = (
            f"The store holds {held:,} records, those of every provider and application that "
            "shares it. End all these sessions?"
        )
        if not _confirms(question):
            raise ConfigurationError("nothing was revoked; --yes revokes without a question")
    await answer(store.clear())
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
    """Purge, and show on a terminal how many expired records are left."""
    total = await _expired(store)
    purging = asyncio.create_task(answer(store.purge()))
    try:
        with terminal.progress("purging", total) as show:
            while not purging.done():
                await asyncio.wait([purging], timeout=_PROGRESS_SECONDS)
                left = 0 if purging.done() else await _expired(store)
                if total is not None and left is not None:
                    show(max(0, total - left))
        return await purging
    finally:
        purging.cancel()
        await asyncio.gather(purging, return_exceptions=True)


async def _expired(store: Store) -> int | None:
    """Count what a purge would remove; None if that cannot be known, which stops no purge."""
    with suppress(StoreUnavailable):
        return await answer(store.count_expired())
    return None


def _facts(session: StoredSession[Any]) -> dict[str, Any]:
    names = ("key", "subject", "created_at", "authenticated_at", "seen_at", "expires_at")
    return {name: getattr(session, name) for name in names}
