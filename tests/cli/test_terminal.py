"""What the command line prints, where, and in which code it ends."""

import asyncio
import os
import pty
import re
import signal
import sqlite3
import subprocess
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from select import select
from typing import Any

import pytest

from fastapi_async_sessions import MemoryStore, cli
from fastapi_async_sessions._checks import checks
from fastapi_async_sessions.testing import FrozenClock

from ..apps import SECRET, make_provider, with_json
from ..doubles import SpyStore
from ..servers.redis import RedisServer
from ..servers.waits import until
from .shells import Shell, ShellInThisProcess, open_provider, write_application
from .test_story import expire, signed_in

ESCAPE = "\x1b"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/sessions.db"


@pytest.fixture
def shell(tmp_path: Path, url: str) -> ShellInThisProcess:
    """A shell on an application whose table exists."""
    write_application(tmp_path, "sqlite")
    shell = ShellInThisProcess(tmp_path, {"STORE_URL": url})
    shell.run("create-table")
    return shell


@pytest.fixture
def redis_shell(start_redis: Any, tmp_path: Path) -> tuple[Shell, RedisServer]:
    """A shell on an application with a server of its own."""
    server = start_redis()
    write_application(tmp_path, "redis")
    return ShellInThisProcess(tmp_path, {"STORE_URL": server.url}), server


COMMANDS = [
    ["check"],
    ["sessions", "ada"],
    ["show", "0" * 64],
    ["revoke", "0" * 64],
    ["revoke", "--subject", "ada"],
    ["revoke", "--all", "--yes"],
    ["count"],
    ["purge"],
]


def test_a_store_that_is_down_is_one_line(redis_shell: Any) -> None:
    """Every command ends with code 3, even where Redis would have nothing to do."""
    shell, server = redis_shell
    server.stop()
    for command in COMMANDS:
        done = shell.run(*command)
        assert (done.code, done.out) == (3, ""), command
        assert re.fullmatch("the store is unavailable: .*\n", done.err), command
    # the log has it too, and Python prints a log that nobody has configured
    done = Shell(shell.directory, shell.environment).run("sessions", "ada")
    assert (done.code, done.err.count("\n")) == (3, 1), done


def test_missing_rights_are_named_one_by_one(redis_shell: Any) -> None:
    """The check fails where a request or a revocation would."""
    shell, server = redis_shell
    rights = ["+@connection", "+get", "+mget", "+eval", "+evalsha", "+set", "+del", "+pexpire"]
    server.command("ACL", "SETUSER", "app", "on", ">pw", "~sessions:*", *rights)
    shell.environment["STORE_URL"] = server.url.replace("//", "//app:pw@")
    checked = shell.run("check", "--json")
    assert checked.code == 3
    failed = {row["check"] for row in checked.objects if not row["ok"]}
    assert "load" not in failed
    assert {"create", "find", "delete_owned"} <= failed
    (clock,) = [row["detail"] for row in checked.objects if row["check"] == "clock"]
    assert clock.startswith("not known: ")


@pytest.mark.parametrize(("minutes", "side"), [(2, "behind"), (-2, "ahead of")])
def test_a_clock_that_differs_is_reported(
    shell: ShellInThisProcess, postgres_url: str, minutes: int, side: str
) -> None:
    """Sessions would expire too early or too late; the code is that of a wrong configuration."""
    write_application(shell.directory, "postgresql")
    shell.environment["STORE_URL"] = postgres_url
    shell.run("create-table")
    ours = f"lambda: utc_now() + timedelta(minutes={minutes})"
    edit(shell, "secret_key=secret_key", f"secret_key=secret_key, clock={ours}")
    edit(shell, "import os\n", "import os\nfrom datetime import timedelta\n")
    edit(shell, "import MemoryStore, ", "import MemoryStore, utc_now, ")
    checked = shell.run("check", "--json")
    assert checked.code == 2
    assert checked.objects[-1]["ok"] is False
    found = re.findall(rf"the store's is ([\d.]+) s {side} this", checked.objects[-1]["detail"])
    assert 60 < float(found[0]) <= 120  # less the time until the server has answered


async def test_a_slow_answer_is_no_difference_of_clocks(clock: FrozenClock) -> None:
    """The time that it told is between the time of the question and that of the answer."""

    class Slow(SpyStore):
        async def server_time(self) -> Any:
            clock.advance(timedelta(minutes=1))
            now = clock()
            clock.advance(timedelta(minutes=1))
            return now

    provider = make_provider(Slow(MemoryStore(clock=clock)), clock=clock)
    row = [row async for row in checks(provider)][-1]
    assert row["ok"], row


def test_what_a_store_does_not_offer_is_no_failure(shell: ShellInThisProcess) -> None:
    """A store of one's own need not list sessions."""
    error = "from fastapi_async_sessions import ConfigurationError; raise ConfigurationError('no')"
    edit_store(shell, "find", error)
    checked = shell.run("check", "--json")
    assert checked.code == 0
    assert {"check": "find", "ok": True, "detail": "no"} in checked.objects


def test_a_long_list_says_that_it_may_be_longer(
    shell: ShellInThisProcess, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, which a program does not read."""
    monkeypatch.setattr(cli, "_LISTED", 2)
    signed_in("sqlite", url, "ada", "ada", "ada", "bob")
    ada, bob = shell.run("sessions", "ada", "--json"), shell.run("sessions", "bob", "--json")
    assert (len(ada.objects), ada.err.count("There may be more")) == (2, 1)
    assert (len(bob.objects), bob.err) == (1, "")


@pytest.mark.parametrize("command", COMMANDS[1:], ids=" ".join)
def test_sessions_in_memory_are_those_of_another_process(
    shell: ShellInThisProcess, command: list[str]
) -> None:
    """An empty answer would be a lie."""
    write_application(shell.directory, "memory")
    done = shell.run(*command)
    assert (done.code, done.out) == (2, "")
    assert "in the memory of the application's process" in done.err


def test_the_check_of_a_store_in_memory_says_so(shell: ShellInThisProcess) -> None:
    """The settings are good."""
    write_application(shell.directory, "memory")
    checked = shell.run("check")
    assert checked.code == 0
    assert "in the memory of the application's process" in checked.out


@pytest.mark.parametrize("arguments", [[], ["0" * 64, "--all"], ["--subject", "ada", "--all"]])
def test_revoke_needs_to_know_exactly_what(shell: ShellInThisProcess, arguments: list[str]) -> None:
    """Two of them could be a slip that ends everybody's sessions."""
    assert shell.run("revoke", *arguments, "--yes").code == 2


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2), ("", 2)])
def test_ending_everything_is_asked_for(
    shell: ShellInThisProcess, url: str, answer: str, code: int
) -> None:
    """The question says how many records the store holds; no answer is no."""
    signed_in("sqlite", url, "ada", "bob")
    asked = shell.run("revoke", "--all", stdin=answer)
    assert asked.code == code
    assert "holds 2 records" in asked.err
    assert shell.run("count").out == ("0\n" if code == 0 else "2\n")


def test_a_driver_s_own_error_is_named_and_not_quoted(shell: ShellInThisProcess) -> None:
    """The text of an error from a store of the user's may hold an address with a password."""
    edit_store(shell, "count", "raise OSError('redis://:hunter2@db')")
    done = shell.run("count")
    assert (done.code, done.err) == (3, "the store is unavailable: the store raised OSError\n")


def test_a_stored_text_cannot_command_the_terminal(shell: ShellInThisProcess, url: str) -> None:
    """Control characters are escaped, and markup is text."""
    subject = f"{ESCAPE}]0;title\a [red]ada\x9b2J"
    signed_in("sqlite", url, subject)
    listed = shell.run("sessions", subject, "--json")
    assert listed.out.isascii()
    shown = shell.run("show", listed.objects[0]["key"]).out
    assert r"\x1b]0;title\x07 [red]ada\x9b2J" in shown
    assert not {ESCAPE, "\a", "\x9b"} & set(shown)


def test_a_stored_datum_cannot_command_the_terminal(shell: ShellInThisProcess, url: str) -> None:
    """Characters that JSON need not escape can command it too."""
    signed_in("sqlite", url, "ada")
    key = store_json(url, "ada", b'{"count":1,"lines":[{"name":"\xc2\x9b2J","tags":[]}]}')
    shown = shell.run("show", key, "--data").out
    assert r"\x9b2J" in shown
    assert "\x9b" not in shown


def test_an_error_is_one_printable_line(shell: ShellInThisProcess) -> None:
    """Whatever it quotes."""
    done = shell.run("count", "--app", f"main:a\n{ESCAPE}b")
    assert (done.code, done.err) == (2, "main has no a \\x1bb\n")


UNREADABLE = b'{"count":"many","lines":[]}'


def store_json(url: str, subject: str, raw: bytes) -> str:
    """Store other data of a session, whether or not it fits the model; gives its key."""

    async def change_it() -> str:
        get_session = open_provider("sqlite", url)
        store = get_session.repository.settings.store
        (session,) = await get_session.sessions(subject)
        record = await store.load(session.key)
        other = with_json(get_session, session.key, record, raw)
        assert await store.save(session.key, other, replaces=record.version)
        await store.aclose()
        return str(session.key)

    return asyncio.run(change_it())


def test_data_that_this_release_cannot_read_is_shown_as_it_is_stored(
    shell: ShellInThisProcess, url: str
) -> None:
    """A request would have the default there."""
    signed_in("sqlite", url, "ada")
    key = store_json(url, "ada", UNREADABLE)
    shown = shell.run("show", key, "--data", "--json").objects[0]
    assert shown["data"] == {"count": "many", "lines": []}


def test_a_session_that_is_refused_is_named_with_its_fields(
    shell: ShellInThisProcess, url: str
) -> None:
    """The general sentence is for visitors."""
    signed_in("sqlite", url, "ada")
    key = store_json(url, "ada", UNREADABLE)
    edit(shell, "secret_key=secret_key", "secret_key=secret_key, on_invalid='raise'")
    shown = shell.run("show", key)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == "The stored session does not fit its model. (count)\n"


def test_what_the_application_prints_is_no_answer(shell: ShellInThisProcess, url: str) -> None:
    """A program that reads the objects would stumble over it."""
    signed_in("sqlite", url, "ada")
    edit(shell, "app = make_app()", "app = make_app(); print('it starts')")
    done = shell.run("count", "--json")
    assert (done.objects, done.err) == ([{"count": 1}], "it starts\n")


def test_a_purge_does_not_need_to_know_how_much_is_left(
    shell: ShellInThisProcess, url: str
) -> None:
    """To count the expired records is for the progress alone."""
    expire(url, 3)
    edit_store(shell, "count_expired", "raise OSError('redis://:hunter2@db')")
    done = shell.run("purge")
    assert (done.code, done.out, done.err) == (0, "purged: 3\n", "")


def test_a_purge_that_fails_is_one_line(shell: ShellInThisProcess) -> None:
    """Although two calls to the store are under way."""
    sleep = "import asyncio; await asyncio.sleep(0.01)"
    edit_store(shell, "purge", f"{sleep}; raise OSError('redis://:hunter2@db')")
    done = shell.run("purge")
    assert (done.code, done.err) == (3, "the store is unavailable: the store raised OSError\n")


def edit(shell: Shell, old: str, new: str) -> None:
    """Replace a part of the application."""
    path = shell.directory / "main.py"
    program = path.read_text()
    assert old in program
    path.write_text(program.replace(old, new))


def edit_store(shell: Shell, verb: str, body: str) -> None:
    """Replace a method of the application's store."""
    store = "app.routes[-1].dependant.dependencies[0].call.repository.settings.store"
    edit(
        shell,
        "\napp = make_app()\n",
        f"\napp = make_app()\nasync def {verb}(*_): {body}\n{store}.{verb} = {verb}\n",
    )


@contextmanager
def on_a_terminal(shell: Shell, *command: str) -> Iterator[tuple[Any, int]]:
    """Run a command whose output is a terminal; gives the process and the terminal."""
    ours, theirs = pty.openpty()
    shell.environment["TERM"] = "xterm-256color"
    with Shell(shell.directory, shell.environment).start(
        *command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def read(terminal: int, pattern: str = r"\Z(?!)", within: float = 60) -> str:
    """What is printed until a pattern appears, the process ends, or nothing comes any more."""
    text, decoder = "", getincrementaldecoder("utf-8")()  # a piece may end within a character
    with suppress(OSError):  # the other side is closed
        while not re.search(pattern, text) and select([terminal], [], [], within)[0]:
            text += decoder.decode(os.read(terminal, 65536))
    return text


@pytest.mark.slow
def test_colours_are_for_terminals(shell: ShellInThisProcess) -> None:
    """A pipe gets plain text."""
    assert ESCAPE not in shell.run("check").out
    with on_a_terminal(shell, "check") as (_, terminal):
        assert f"{ESCAPE}[32mok" in read(terminal)


@pytest.mark.slow
def test_a_purge_shows_its_progress_and_can_be_stopped(shell: ShellInThisProcess, url: str) -> None:
    """Ctrl-C ends it with one line; what was removed stays removed, and the rest can follow."""
    expire(url, 40_000)
    # each batch takes a while, so that the end does not come before the signal
    slow = "CREATE TRIGGER slow AFTER DELETE ON sessions BEGIN SELECT hex(randomblob(50000)); END"
    change(url, slow)
    with on_a_terminal(shell, "purge") as (process, terminal):
        printed = read(terminal, r"[1-9]\d*/40000.*\d/s")
        process.send_signal(signal.SIGINT)
        printed += read(terminal)
        assert process.wait(120) == 130
    assert "/s" in printed
    assert "interrupted" in printed
    assert "Traceback" not in printed
    change(url, "DROP TRIGGER slow")
    left = int(shell.run("purge").out.split()[-1].replace(",", ""))
    assert 0 < left < 40_000


def change(url: str, statement: str) -> None:
    """Change the application's file from outside."""
    with closing(sqlite3.connect(url.partition(":///")[2])) as connection:
        connection.execute(statement)


@pytest.mark.slow
def test_ctrl_c_ends_a_command_that_waits_for_its_store(redis_shell: Any) -> None:
    """A server that hangs does not hold the operator up."""
    shell, server = redis_shell
    server.pause()
    with Shell(shell.directory, shell.environment).start(
        "count", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        until_it_waits(server)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    server.resume()
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def until_it_waits(server: RedisServer) -> None:
    """A client has connected to the server."""
    until(lambda: server.port in connected_to(), within=120, what="it has connected")


def connected_to() -> set[int]:
    """The remote ports of established connections of this machine."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {int(each[2].split(":")[1], 16) for each in fields if each[3] == "01"}


@pytest.mark.slow
def test_ctrl_c_at_the_question_revokes_nothing(shell: ShellInThisProcess, url: str) -> None:
    """It is an answer."""
    signed_in("sqlite", url, "ada")
    with on_a_terminal(shell, "revoke", "--all") as (process, terminal):
        printed = read(terminal, r"\[y/N\]: ")
        # Python does not notice one that comes while it is about to read
        for _ in range(100):
            process.send_signal(signal.SIGINT)
            printed += read(terminal, "nothing was revoked", within=0.5)
            if "nothing was revoked" in printed:
                break
        assert process.wait(120) == 2
    assert "nothing was revoked" in printed
    assert shell.run("count").out == "1\n"


def test_a_missing_library_is_a_line_with_the_extra_to_install(tmp_path: Path) -> None:
    """It ends as a wrong configuration does."""
    (tmp_path / "typer.py").write_text("raise ImportError")
    done = Shell(tmp_path, {}).run("secret")
    assert (done.code, done.out) == (2, "")
    assert 'pip install "fastapi_async_sessions[cli]"' in done.err
    assert SECRET not in done.err
