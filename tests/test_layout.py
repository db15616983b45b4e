"""The structure of the package: imports run one way, and each library is used in few files."""

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest

import fastapi_async_sessions

ROOT = Path(fastapi_async_sessions.__file__).parent
NAME = "fastapi_async_sessions"

# the order in which to read the package: a file imports only files before it
ORDER = [
    "errors",
    "lifetime",
    "events",
    "records",
    "stores.base",
    "stores._batcher",
    "stores._calls",
    "stores._loops",
    "stores._scripts",
    "stores._wire",
    "stores._sql_engine",
    "stores._sql_reasons",
    "stores.memory",
    "stores.redis",
    "stores.sql",
    "stores.http",
    "stores.service",
    "_core.tokens",
    "_core.keys",
    "_core.encryption",
    "_core.seal",
    "_core.header",
    "_core.merge",
    "_core.shapes",
    "_core.declared",
    "_core.models",
    "_core.readback",
    "_core.unread",
    "_core.codec",
    "_core.settings",
    "_core.outage",
    "_core.event_loop",
    "_core.deadline",
    "_core.bounded",
    "_core.attempts",
    "_core.repository",
    "_core.revocation",
    "_core.data",
    "_core.commit",
    "_core.completion",
    "_core.state",
    "_core.not_a_parameter",
    "_core.not_the_data",
    "_core.session",
    "_core.admin",
    "_core.upkeep",
    "_web.cookies",
    "_web.withheld",
    "_web.verifier",
    "_web.origin",
    "_web.headers",
    "_web.dropped",
    "_web.jar",
    "_web.bridge",
    "_web.closing",
    "_web.wiring",
    "_web.requirement",
    "_web.provider",
    "_web.openapi",
    "_web.fast_path",
    "_web.route",
    "_web.middleware",
    "_web.discovery",
    "testing.clock",
    "testing.contract",
    "testing.standins",
    "testing.clients",
    "testing",
    "telemetry",
    "_terminal",
    "_checks",
    "cli",
    "__main__",
]
# their ``__init__`` files have no place in the order
PACKAGES = {"", "stores", "_core", "_web"}

A_STORE_MAY_IMPORT = {
    *("errors", "lifetime", "records"),
    *("stores.base", "stores._batcher", "stores._calls", "stores._scripts", "stores._wire"),
    *("stores._loops", "stores._sql_engine", "stores._sql_reasons"),
}
OPTIONAL = {
    "redis": {"stores.redis"},
    "sqlalchemy": {"stores.sql", "stores._sql_engine"},
    "aiosqlite": {"stores._sql_engine"},
    "asyncpg": {"stores._sql_engine"},
    "psycopg": {"stores._sql_engine"},
    "httpx": {"stores.http"},
    "cryptography": {"_core.encryption"},
    "pytest": {"testing.contract"},
    "opentelemetry": {"telemetry"},
    "typer": {"cli"},
    "rich": {"_terminal"},
}
# the dependencies of FastAPI, and the only other one
HARD = {"fastapi", "starlette", "pydantic", "pydantic_core", "anyio", "itsdangerous"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """The full names of the modules that a file imports, also inside functions."""
    path = FILES[module]
    package = [NAME, *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *filter(None, [node.module])])


def own_imports(module: str) -> set[str]:
    found = {name for name in imports(module) if name.split(".")[0] == NAME}
    return {name.removeprefix(NAME).removeprefix(".") for name in found}


def library_imports(module: str) -> set[str]:
    tops = {name.split(".")[0] for name in imports(module)}
    return tops - {NAME} - set(sys.stdlib_module_names)


MODULES = sorted(set(FILES) - PACKAGES)


def test_every_file_has_a_place_in_the_order() -> None:
    """A new file needs one, so that the rules below apply to it."""
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    """A file imports only files before it, and never the package root."""
    assert own_imports(module) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("module", MODULES)
def test_only_the_web_layer_imports_the_framework(module: str) -> None:
    """Sessions and stores do not depend on FastAPI or Starlette."""
    libraries = library_imports(module)
    is_web = module.startswith(("_web.", "testing.")) or module == "stores.service"
    assert "fastapi" not in libraries or is_web
    # an error that reaches a client is one of Starlette's HTTPExceptions
    assert "starlette" not in libraries or is_web or module == "errors"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("stores.")])
def test_a_store_depends_on_few_modules(module: str) -> None:
    """It imports the base class, the record, the errors, and what stores share."""
    assert own_imports(module) <= A_STORE_MAY_IMPORT


@pytest.mark.parametrize("module", MODULES)
def test_an_optional_library_is_imported_in_one_place(module: str) -> None:
    """Other imports are dependencies of FastAPI."""
    for library in library_imports(module) - HARD:
        assert module in OPTIONAL[library], library


def test_no_file_unpickles_or_evaluates() -> None:
    """Data from a store never becomes code (CVE-2013-7489)."""
    for module, path in FILES.items():
        assert not {"pickle", "marshal", "shelve", "yaml", "dill"} & set(imports(module)), module
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Call]
        names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        assert not {"eval", "exec", "__import__"} & names, module


def test_tokens_and_versions_come_from_secrets() -> None:
    """``random`` is only used to spread waiting times."""
    users = {module for module in MODULES if "random" in set(imports(module))}
    assert users <= {"_core.commit", "_core.upkeep"}


def test_the_public_names_are_sorted_and_complete() -> None:
    """``__all__`` lists every public name of the root, and each can be imported."""
    names = fastapi_async_sessions.__all__
    assert names == sorted(set(names))
    tree = ast.parse(FILES[""].read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(names) == imported
    for name in names:
        public = getattr(fastapi_async_sessions, name)
        # an alias of a type has no docstring of its own
        assert public.__doc__ or not isinstance(public, type | FunctionType), name


def test_the_testing_package_has_the_documented_names() -> None:
    """Tests of applications import them."""
    testing = importlib.import_module(f"{NAME}.testing")
    assert {"FrozenClock", "StoreContract", "override_session", "session_cookies"} <= set(
        vars(testing)
    )


def test_every_public_name_has_a_docstring() -> None:
    """This holds for each module, public class and public function."""
    for module, path in FILES.items():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree) or module == "", module
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in tree.body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                if any(ast.unparse(each) == "overload" for each in node.decorator_list):
                    continue
                assert ast.get_docstring(node), f"{module}.{node.name}"


def test_the_version_is_the_newest_release_in_the_changelog() -> None:
    """An entry for unreleased changes may stand above it."""
    text = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()
    entries = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", text, re.MULTILINE)
    headings = re.findall(r"^## .*$", text, re.MULTILINE)
    assert len(entries) == len(headings) > 0
    released = [(version, date) for version, date in entries if version != "Unreleased"]
    assert entries[0][0] in ("Unreleased", fastapi_async_sessions.__version__)
    if released:
        version, date = released[0]
        assert (version, bool(date)) == (fastapi_async_sessions.__version__, True)


_BLOCKED = """
import importlib.abc, sys
sys.path.insert(0, sys.argv[1])

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocker())
"""


def run_without(program: str) -> str:
    """The output of a program in a fresh interpreter without the optional libraries."""
    # newer FastAPI needs opentelemetry itself
    blocked = {*OPTIONAL.keys() - {"opentelemetry"}, "hiredis", "jinja2", "argon2", "uvicorn"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", _BLOCKED.format(blocked=blocked) + program, str(ROOT.parent)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_works_without_extras() -> None:
    """Its public names, the test helpers, and a provider on ``MemoryStore`` need no extra."""
    program = f"""
from {NAME} import *
import {NAME}.testing
from pydantic import BaseModel
class Visits(BaseModel):
    count: int = 0
print(SessionProvider(Visits, store=MemoryStore(), secret_key="0123456789abcdefghijklmnopqrstuvwx"))
"""
    assert run_without(program) == "<SessionProvider 'session'>\n"


@pytest.fixture(scope="module")
def errors_without_libraries() -> dict[str, str]:
    """What a program is told that builds each of these stores, or a provider that encrypts."""
    program = f"""
import json
from importlib import import_module
from {NAME} import ConfigurationError, MemoryStore, SessionProvider
from pydantic import BaseModel
class Visits(BaseModel):
    count: int = 0
secret = "0123456789abcdefghijklmnopqrstuvwx"
errors = {{}}
try:
    SessionProvider(Visits, store=MemoryStore(), secret_key=secret, encrypt=True)
except ConfigurationError as error:
    errors["encryption"] = str(error)
for store in ("redis", "sql", "http"):
    try:
        module = import_module("{NAME}.stores." + store)
        if store == "http":
            module.HTTPStore("https://127.0.0.1", token="x" * 32)
    except ConfigurationError as error:
        errors[store] = str(error)
print(json.dumps(errors))
"""
    return json.loads(run_without(program))


@pytest.mark.parametrize(("store", "extra"), [("redis", "redis"), ("sql", "sql"), ("http", "http")])
def test_the_error_for_a_missing_library_names_the_extra_to_install(
    errors_without_libraries: dict[str, str], store: str, extra: str
) -> None:
    """It is raised when the store is imported, or when it is built."""
    assert f'pip install "{NAME}[{extra}]"' in errors_without_libraries[store]


def test_the_error_for_encryption_without_its_library_names_the_extra_to_install(
    errors_without_libraries: dict[str, str],
) -> None:
    """It is raised when the provider is built."""
    assert f'pip install "{NAME}[encryption]"' in errors_without_libraries["encryption"]
