"""Ways to run the command line on an application in a directory of its own."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fastapi_async_sessions import MemoryStore, SessionProvider, Store
from fastapi_async_sessions import cli as command_line
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore

from ..apps import PATIENT, SECRET, Data

TOKEN = "a-token-of-these-tests-0123456789-abcdef"
CONSOLE_SCRIPT = Path(sys.executable).with_name("fastapi-async-sessions")

STORES = {
    "memory": "MemoryStore()",
    "redis": "RedisStore.from_url(os.environ['STORE_URL'])",
    "sqlite": "SQLStore.from_url(os.environ['STORE_URL'])",
    "postgresql": "SQLStore.from_url(os.environ['STORE_URL'])",
    "http": "HTTPStore(os.environ['STORE_URL'], token=os.environ['SERVICE_TOKEN'])",
}
# without what switches colours on or off
_ENVIRONMENT = {name: value for name, value in os.environ.items() if "COLOR" not in name}

APPLICATION = """
import os
from typing import Any
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from fastapi_async_sessions import MemoryStore, Session, SessionProvider, SessionRoute
from fastapi_async_sessions.stores.http import HTTPStore
from fastapi_async_sessions.stores.redis import RedisStore
from fastapi_async_sessions.stores.sql import SQLStore
from tests.apps import PATIENT, Data

def make_app():
    secret_key = os.environ["SESSION_SECRET"]
    get_session = SessionProvider(Data, store={store}, secret_key=secret_key, **PATIENT)
    app = FastAPI()
    app.router.route_class = SessionRoute

    @app.get("/")
    async def home(session: Session[Data] = Depends(get_session)) -> int:
        return session.data.count

    return app

app = make_app()
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        """The objects that it printed, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """Runs commands on the application in ``directory``, in a process of their own each.

    It keeps what they printed, so that a test can look for what must not be there.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], *program: str) -> None:
        self.directory = directory
        self.environment = {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "SESSION_SECRET": SECRET,
            "SERVICE_TOKEN": TOKEN,
            **environment,
        }
        self._program = program or (sys.executable, "-m", "fastapi_async_sessions")
        self.printed = ""

    def run(self, *arguments: str, stdin: str = "") -> Done:
        done = self._run(arguments, stdin)
        self.printed += done.out + done.err
        return done

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        """Start a command and leave it running."""
        return subprocess.Popen(
            [*self._program, *arguments],
            cwd=self.directory,
            env={**_ENVIRONMENT, **self.environment},
            text=True,
            **options,
        )

    def _run(self, arguments: tuple[str, ...], stdin: str) -> Done:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(*arguments, **pipes) as process:
            out, err = process.communicate(stdin, timeout=120)
        return Done(process.returncode, out, err)


class ShellInThisProcess(Shell):
    """Runs commands in this process, which takes a hundredth of the time."""

    @property
    def applications(self) -> set[str]:
        return {path.stem for path in self.directory.rglob("*")}

    def _run(self, arguments: tuple[str, ...], stdin: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        modules, path = set(sys.modules), list(sys.path)
        with (
            chdir(self.directory),
            patch.dict(os.environ, self.environment),
            patch("sys.stdin", io.StringIO(stdin)),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                command_line.app(arguments)
            except SystemExit as end:
                code = end.code
            finally:
                sys.path[:] = path
                for name in [*sys.modules.keys() - modules]:
                    if name.partition(".")[0] in self.applications:
                        del sys.modules[name]  # the next command imports it again
        assert isinstance(code, int)
        return Done(code, out.getvalue(), err.getvalue())


def write_application(directory: Path, store: str, file: str = "main.py") -> None:
    """Write an application whose sessions are in a store of this kind."""
    (directory / file).write_text(APPLICATION.format(store=STORES[store]))


def open_provider(store: str, url: str) -> Any:
    """A provider like that of the application, in this process."""
    makers: dict[str, Any] = {
        "redis": RedisStore.from_url,
        "sqlite": SQLStore.from_url,
        "postgresql": SQLStore.from_url,
        "http": lambda url: HTTPStore(url, token=TOKEN),
        "memory": lambda url: MemoryStore(),
    }
    made: Store = makers[store](url)
    return SessionProvider(Data, store=made, secret_key=SECRET, **PATIENT)
