"""python-socketio: its connect handler reads our session, by polling and by websocket."""

from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_async_sessions.testing import session_cookies

from ..apps import make_app, make_provider
from ..servers.asgi import serve

socketio = pytest.importorskip("socketio")
pytest.importorskip("aiohttp")


def make_socket_app(get_session: Any, seen: list[Any]) -> FastAPI:
    server = socketio.AsyncServer(async_mode="asgi")

    @server.event
    async def connect(sid: str, environ: Any, auth: Any) -> None:
        stored = await get_session.peek(environ["asgi.scope"])
        seen.append(stored and stored.subject)

    app = make_app()
    app.mount("/ws", socketio.ASGIApp(server, socketio_path=""))
    return app


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_the_connect_handler_peeks_at_the_session(transport: str) -> None:
    """A client with the cookie is the user, and one without is nobody."""
    get_session = make_provider()
    seen: list[Any] = []
    cookies = await session_cookies(get_session, subject="ada")
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
    with serve(make_socket_app(get_session, seen), ws="auto") as url:
        for headers in ({"Cookie": cookie}, {}):
            client = socketio.AsyncClient()
            await client.connect(
                url, headers=headers, socketio_path="/ws", transports=[transport], wait_timeout=60
            )
            await client.disconnect()
    assert seen == ["ada", None]
