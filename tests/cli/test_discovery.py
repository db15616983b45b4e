"""The provider is found where the FastAPI CLI finds an application, or by its own address."""

from pathlib import Path

import pytest

from .shells import Done, ShellInThisProcess, write_application

TWO_PROVIDERS = """
from fastapi import APIRouter, Depends, FastAPI
from fastapi_async_sessions import SessionProvider, SessionRoute
from fastapi_async_sessions.stores.sql import SQLStore
from tests.apps import SECRET, Data

store = SQLStore.from_url("sqlite+aiosqlite:///sessions.db", create_table=True)
options = {"store": store, "secret_key": SECRET}
names = ("web", "staff")
providers = [SessionProvider(Data, name=name, **options) for name in names]
routers = [APIRouter(prefix=f"/{name}", route_class=SessionRoute) for name in names]
app, inner = FastAPI(), FastAPI()
for router, provider in zip(routers, providers):
    @router.get("/", dependencies=[Depends(provider.required)])
    async def read() -> None: ...
inner.include_router(routers[1])
app.include_router(routers[0])
app.mount("/inner", inner)
class sessions:
    web, staff = providers
"""


@pytest.fixture
def shell(tmp_path: Path) -> ShellInThisProcess:
    return ShellInThisProcess(tmp_path, {"STORE_URL": "sqlite+aiosqlite:///sessions.db"})


def create_table(shell: ShellInThisProcess, *options: str) -> Done:
    """Run a command that needs a provider."""
    return shell.run("create-table", *options)


def place(shell: ShellInThisProcess, file: str, *, in_a_package: bool = False) -> None:
    path = shell.directory / file
    path.parent.mkdir(exist_ok=True)
    if in_a_package:
        (path.parent / "__init__.py").touch()
    write_application(path.parent, "sqlite", path.name)


@pytest.mark.parametrize("file", ["main.py", "app.py", "api.py", "app/main.py", "app/api.py"])
def test_an_application_is_found_in_the_usual_files(shell: ShellInThisProcess, file: str) -> None:
    """These are the files in which ``fastapi run`` looks for it."""
    place(shell, file)
    assert create_table(shell).code == 0


def test_the_entrypoint_of_the_project_comes_first(shell: ShellInThisProcess) -> None:
    """``[tool.fastapi]`` in ``pyproject.toml`` names it."""
    place(shell, "shop/web.py", in_a_package=True)
    (shell.directory / "main.py").write_text("raise RuntimeError")
    (shell.directory / "pyproject.toml").write_text('[tool.fastapi]\nentrypoint = "shop.web:app"\n')
    assert create_table(shell).code == 0


@pytest.mark.parametrize("target", ["shop.web:app", "shop/web.py", "shop/web.py:app"])
def test_an_application_is_found_by_its_address(shell: ShellInThisProcess, target: str) -> None:
    """A file is imported as a part of the package that it is in."""
    place(shell, "shop/web.py", in_a_package=True)
    path = shell.directory / "shop/web.py"
    path.with_name("prices.py").touch()
    path.write_text(f"from . import prices\n{path.read_text()}")
    done = create_table(shell, "--app", target)
    assert done.code == (2 if target == "shop/web.py:app" else 0)


@pytest.mark.parametrize(
    "options",
    [
        ["--name", "staff"],
        ["--app", "main:sessions.staff"],
        ["--app", "main:inner"],
        ["--app", "main.py", "--name", "staff"],
    ],
)
def test_one_of_several_providers_is_named(shell: ShellInThisProcess, options: list[str]) -> None:
    """By its name, by its own address, or by that of an application with no other."""
    (shell.directory / "main.py").write_text(TWO_PROVIDERS)
    create_table(shell, *options)
    checked = shell.run("check", "--json", *options)
    assert checked.objects[0]["detail"] == "staff, of Data", checked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "main.py has several providers (staff, web): add --name"),
        (["--name", "shop"], "no provider named 'shop'; it has: staff, web"),
        (["--app", "main:nothing"], "main has no nothing"),
        (["--app", "main:store"], "main:store has no SessionProvider"),
        (["--app", "missing:app"], "No module named 'missing'"),
        (["--app", "missing.py"], "missing.py is not a file: write --app package.module:app"),
    ],
)
def test_what_is_not_found_is_named(
    shell: ShellInThisProcess, options: list[str], message: str
) -> None:
    """The message has the option to write."""
    (shell.directory / "main.py").write_text(TWO_PROVIDERS)
    done = shell.run("check", *options)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_directory_without_an_application_says_where_one_would_be(
    shell: ShellInThisProcess,
) -> None:
    """The list is that of the FastAPI CLI."""
    done = shell.run("check")
    assert done.code == 2
    assert "found none of main.py, app.py" in done.err


@pytest.mark.parametrize("text", ["[tool.fastapi", "tool = 1", "[tool]\nfastapi = 1"])
def test_a_broken_project_file_is_an_error(shell: ShellInThisProcess, text: str) -> None:
    """It is named."""
    (shell.directory / "pyproject.toml").write_text(text)
    done = shell.run("check")
    assert done.code == 2
    assert "pyproject.toml" in done.err


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.environ['NO_SUCH']", "KeyError: 'NO_SUCH' (*main.py, line 1)"),
        ("import no_such", "ModuleNotFoundError: No module named 'no_such' (*main.py, line 1)"),
        ("\nraise ValueError('postgres://app:hunter2@db')", "ValueError (*main.py, line 2)"),
        ("import no_such_hunter", "no_such_hunter"),
    ],
)
def test_a_failed_import_names_the_line_and_no_values(
    shell: ShellInThisProcess, program: str, message: str
) -> None:
    """The text of an application's error may quote a password."""
    (shell.directory / "main.py").write_text(program)
    done = shell.run("check")
    assert done.code == 2
    before, _, after = message.partition("*")
    assert before in done.err
    assert after in done.err
    assert "hunter2" not in done.err
    assert done.err.count("\n") == 1
