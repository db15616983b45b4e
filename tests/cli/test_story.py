"""The commands that an operator needs at night, on each store."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fastapi_async_sessions import MemoryStore
from fastapi_async_sessions.stores.service import session_service
from fastapi_async_sessions.testing import session_cookies

from ..apps import SECRET, Data
from ..servers.asgi import serve
from .shells import (
    CONSOLE_SCRIPT,
    TOKEN,
    Shell,
    ShellInThisProcess,
    open_provider,
    write_application,
)

URLS = {"redis": "redis_url", "postgresql": "postgres_url"}
NO_KEY = "0" * 64


@pytest.fixture
def url(store: str, request: Any, tmp_path: Path) -> Iterator[str]:
    """The address of an empty store of this kind."""
    if store == "http":
        with serve(session_service(MemoryStore(), token=TOKEN)) as url:
            yield url
    elif store == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/sessions.db"
    else:
        yield request.getfixturevalue(URLS[store])


@pytest.fixture
def shell(kind: type[Shell], store: str, url: str, tmp_path: Path) -> Iterator[Shell]:
    """A shell in the directory of an application; nothing secret was printed in it."""
    write_application(tmp_path, store)
    shell = kind(tmp_path, {"STORE_URL": url})
    yield shell
    assert SECRET not in shell.printed
    assert TOKEN not in shell.printed
    assert "Traceback" not in shell.printed


def signed_in(store: str, url: str, *subjects: str) -> str:
    """Store a session of each subject; gives all cookies."""

    async def sign_in() -> str:
        get_session = open_provider(store, url)
        cookies = [
            await session_cookies(get_session, Data(count=number), subject=subject)
            for number, subject in enumerate(subjects)
        ]
        await get_session.repository.settings.store.aclose()
        return str(cookies)

    return asyncio.run(sign_in())


def expire(url: str, count: int) -> None:
    """Write rows of sessions that have expired into the table of an SQLite file."""
    rows = [(f"{number:064x}", "1", 0, b"") for number in range(count)]
    with closing(sqlite3.connect(url.partition("///")[2])) as database, database:
        insert = "INSERT INTO sessions (key, version, expires_at, body) VALUES (?, ?, ?, ?)"
        database.executemany(insert, rows)


STORES = ("sqlite", "postgresql", "redis", "http")
SHELLS = [
    *((store, ShellInThisProcess) for store in STORES),
    pytest.param("sqlite", Shell, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("store", "kind"), SHELLS)
def test_sessions_are_seen_and_ended_from_a_shell(store: str, url: str, shell: Shell) -> None:
    """Who is signed in, is it the store, sign this one out."""
    if store in ("sqlite", "postgresql"):
        before = shell.run("check")
        assert (before.code, before.out) == (3, "")
        assert "the table 'sessions' is missing" in before.err
        assert before.err.count("\n") == 1
        created = shell.run("create-table")
        assert (created.code, created.out) == (0, "the table sessions exists\n")
    else:
        assert shell.run("create-table").code == 2
    checked = shell.run("check", "--json")
    assert checked.code == 0, checked
    assert all(row["ok"] for row in checked.objects)
    verbs = {"create", "load", "save", "find", "delete_owned", "delete", "clock"}
    assert verbs <= {row["check"] for row in checked.objects}

    nobody = shell.run("sessions", "ada")
    assert (nobody.code, nobody.out, nobody.err) == (1, "", "no session\n")
    cookies = signed_in(store, url, "ada", "ada", "bob")
    listed = shell.run("sessions", "ada", "--json")
    assert listed.code == 0
    first, second = listed.objects
    assert {first["subject"], second["subject"]} == {"ada"}
    table = shell.run("sessions", "ada").out.splitlines()
    assert re.findall(r"\w+(?: in)?", table[0]) == ["signed in", "seen", "expires", "key"]
    assert [line.split()[-1] for line in table[1:]] == [first["key"], second["key"]]

    shown = shell.run("show", first["key"], "--json").objects
    assert [one["key"] for one in shown] == [first["key"]]
    assert "data" not in shown[0]
    assert '"count"' not in shell.run("show", first["key"]).out
    with_data = shell.run("show", first["key"], "--data", "--json").objects[0]
    assert with_data["data"] == {"count": 1, "lines": []}
    assert shell.run("show", NO_KEY).code == 1
    assert shell.run("show", "no key").code == 1

    assert shell.run("count").out == "3\n"
    assert shell.run("revoke", first["key"]).out == "revoked: 1\n"
    assert shell.run("revoke", first["key"]).code == 1
    assert shell.run("revoke", "--subject", "ada", "--json").objects == [{"revoked": 1}]
    assert shell.run("sessions", "ada").code == 1
    asked = shell.run("revoke", "--all", stdin="n\n")
    assert asked.code == 2
    assert "every provider and application" in asked.err
    assert shell.run("sessions", "bob").code == 0
    assert shell.run("revoke", "--all", "--yes").code == 0
    assert shell.run("count", "--json").objects == [{"count": 0}]

    for value in re.findall(r"[\w.-]{100,}", cookies):
        assert value not in shell.printed
        assert value.partition(".")[0] not in shell.printed


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Shell])
@pytest.mark.parametrize("store", STORES[1:])
def test_the_executable_works_on_each_store(store: str, url: str, shell: Shell) -> None:
    """In a process of its own, which ends without a remark."""
    if store == "postgresql":
        assert shell.run("create-table").err == ""
    checked = shell.run("check")
    assert (checked.code, checked.err) == (0, "")
    signed_in(store, url, "ada")
    listed = shell.run("sessions", "ada", "--json")
    assert [each["subject"] for each in listed.objects] == ["ada"]
    revoked = shell.run("revoke", listed.objects[0]["key"])
    assert (revoked.code, revoked.out, revoked.err) == (0, "revoked: 1\n", "")


@pytest.mark.parametrize(("store", "kind"), SHELLS[:1])
def test_expired_records_are_purged(url: str, shell: Shell) -> None:
    """The command says how many there were."""
    shell.run("create-table")
    expire(url, 3)
    assert shell.run("purge").out == "purged: 3\n"
    purged = shell.run("purge", "--json")
    assert (purged.code, purged.objects) == (0, [{"purged": 0}])


@pytest.mark.parametrize("executable", ["-m", pytest.param("script", marks=pytest.mark.slow)])
def test_the_executable_prints_a_secret_and_nothing_else(executable: str, tmp_path: Path) -> None:
    """It needs no application, and the secret is a good one."""
    if executable == "script" and not CONSOLE_SCRIPT.exists():
        pytest.skip("the package was installed before it had a console script")
    program = [str(CONSOLE_SCRIPT)] if executable == "script" else []
    shell = Shell(tmp_path, {}, *program)
    done = shell.run("secret")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"[\w-]{43}\n", done.out)
