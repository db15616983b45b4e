"""openapi-python-client: the client that it makes of an example's OpenAPI type-checks and works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples import login, websocket

from ..servers.asgi import serve

pytest.importorskip("openapi_python_client")
pytest.importorskip("mypy")

PROGRAM = """
import sys

from websocket_client import Client
from websocket_client.api.default import join_join_post
from websocket_client.models import Visitor

visitor = join_join_post.sync(client=Client(base_url=sys.argv[1]), nickname="Ada")
assert isinstance(visitor, Visitor)
print(visitor.nickname)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has a client of two examples, and a program that uses one of them."""
    directory = tmp_path_factory.mktemp("clients")
    (directory / "config.yml").write_text("post_hooks: []")  # it needs no formatting
    for name, example in {"websocket": websocket, "login": login}.items():
        (directory / f"{name}.json").write_text(json.dumps(example.app.openapi()))
        options = ["--path", f"{name}.json", "--output-path", f"{name}_client", "--meta", "none"]
        run(directory, "openapi_python_client", "generate", "--config", "config.yml", *options)
    (directory / "program.py").write_text(PROGRAM)
    return directory


def run(directory: Path, module: str, *arguments: str) -> str:
    """Run a module of Python and return what it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    return done.stdout


def test_the_clients_type_check(directory: Path) -> None:
    """Locks, 401s and 403s included, by mypy in its strict mode."""
    run(directory, "mypy", "--strict", "websocket_client", "login_client", "program.py")


def test_a_client_calls_the_example(directory: Path) -> None:
    """It sends the request and reads the response."""
    with serve(websocket.app) as url:
        assert run(directory, "program", url) == "Ada\n"


def test_a_locked_route_asks_for_an_authenticated_client(directory: Path) -> None:
    """As the lock says; a route that takes anybody takes any client."""
    routes = directory / "login_client/api/default"
    assert "client: AuthenticatedClient,\n" in (routes / "account_account_get.py").read_text()
    assert "client: AuthenticatedClient | Client,\n" in (routes / "cart_cart_get.py").read_text()
