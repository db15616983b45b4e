"""The servers that run FastAPI, and a proxy: all that a session has to do with them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from ..servers.nginx import Nginx
from ..servers.process import running
from ..servers.waits import until
from ..servers.workers import Workers

APP = "tests.servers.host_app:app"


@pytest.fixture(params=["uvicorn", "gunicorn", "hypercorn", "granian"])
def host(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[Workers]:
    """Two workers whose sessions are in one Redis."""
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    workers = Workers(tmp_path, APP, under=request.param, settings={"REDIS_URL": redis_url})
    with running(workers):
        yield workers


def add_in_two_workers(client: httpx.Client) -> int:
    """Add at the same moment, until two processes have answered; the number of additions."""
    url, cookie = f"{client.base_url}/add", {"cookie": cookie_of(client)}
    processes: list[int] = []

    def add(_: int) -> int:
        return int(httpx.post(url, headers=cookie, timeout=60, trust_env=False).text)

    def have_answered() -> bool:
        with ThreadPoolExecutor(8) as pool:
            processes.extend(pool.map(add, range(8)))
        return len(set(processes)) > 1

    until(have_answered, within=120, what="two processes have answered")
    return len(processes)


def cookie_of(client: httpx.Client) -> str:
    ((name, value),) = client.cookies.items()
    return f"{name}={value}"


def count(client: httpx.Client) -> int:
    return int(client.get("/").json()["count"])


def echoed(client: httpx.Client, **headers: str) -> str | bytes:
    """What a websocket with the client's cookie sends back."""
    url = f"{client.base_url}".replace("http", "ws", 1).rstrip("/") + "/echo"
    headers = {"cookie": cookie_of(client), **headers}
    with connect(url, additional_headers=headers, open_timeout=60, proxy=None) as socket:
        socket.send("hello")
        return socket.recv(timeout=60)


def test_a_session_under_each_server(host: Workers) -> None:
    """A sign-in, changes in several workers, a 409, a stream and a websocket."""
    with httpx.Client(base_url=host.url, timeout=60, trust_env=False) as client:
        assert client.get("/").json()["subject"] is None
        assert not client.cookies
        client.post("/sign-in/ada").raise_for_status()
        added = add_in_two_workers(client)
        assert client.get("/").json()["subject"] == "ada"
        assert count(client) == added

        assert client.post("/refused").status_code == 409
        assert count(client) == added

        events = client.get("/events").text.split("\n\n")
        assert events == [*(f"data: {number} of {added + 1}" for number in range(3)), ""]
        assert echoed(client) == f"hello {added + 2}"
        assert count(client) == added + 2


@pytest.mark.debian("nginx")
@pytest.mark.parametrize("cookie_path", ["/", "/shop"])
@pytest.mark.parametrize("target", ["http://application/", "http://application"])
def test_an_application_under_a_path_of_a_proxy(
    target: str, cookie_path: str, tmp_path: Path
) -> None:
    """``FastAPI(root_path="/shop")`` behind nginx, which removes that prefix or keeps it.

    The cookie is for the whole host, or with ``CookieConfig(path="/shop")`` for the application.
    """
    settings = {"ROOT_PATH": "/shop", "COOKIE_PATH": cookie_path}
    location = f"""location /shop/ {{
        proxy_pass {target};
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $http_connection;
    }}"""
    app = Workers(tmp_path / "app", APP, under="uvicorn", count=1, settings=settings)
    nginx = Nginx(tmp_path / "nginx", app.port, location=location)
    client = httpx.Client(base_url=f"{nginx.url}/shop", timeout=60, trust_env=False)
    with running(app), running(nginx), client:
        own = {"origin": nginx.url}
        client.post("/sign-in/ada", headers=own).raise_for_status()
        (cookie,) = client.cookies.jar
        assert cookie.path == cookie_path
        assert client.post("/add", headers=own).status_code == 200
        other = {"origin": "http://localhost"}
        assert client.post("/add", headers=other).status_code == 403
        assert echoed(client, **own) == "hello 2"
        assert client.get("/").json() == {
            "subject": "ada",
            "count": 2,
            "url": f"{nginx.url}/shop/",
        }
