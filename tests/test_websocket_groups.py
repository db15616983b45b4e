"""A websocket's handler that runs a group of tasks, which the client's disconnection ends."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, WebSocket, WebSocketDisconnect
from starlette.testclient import TestClient

from fastapi_async_sessions import MemoryStore
from tests.apps import make_app, make_provider


def raise_in_group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("tasks", errors)


GROUPS: dict[str, tuple[BaseException, int]] = {
    "disconnects": (raise_in_group(WebSocketDisconnect(), WebSocketDisconnect()), 2),
    "nested": (raise_in_group(raise_in_group(WebSocketDisconnect())), 2),
    "another error beside": (raise_in_group(WebSocketDisconnect(), ValueError("x")), 1),
    "another error": (raise_in_group(ValueError("x")), 1),
}


@pytest.mark.parametrize(("error", "count"), GROUPS.values(), ids=GROUPS.keys())
def test_a_group_of_nothing_but_disconnects_is_a_normal_end(
    error: BaseException, count: int
) -> None:
    """The changes are stored; with any other error they are rolled back."""
    assert _count_after(error) == count


def _count_after(error: BaseException) -> int:
    app, get_session = make_app(), make_provider(MemoryStore())
    UserSession = Annotated[Any, Depends(get_session)]

    @app.get("/begin")
    async def begin(session: UserSession) -> None:
        session.data.count = 1

    @app.get("/count")
    async def count(session: UserSession) -> int:
        return session.data.count

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, session: UserSession) -> None:
        await websocket.accept()
        session.data.count = 2
        raise error

    with TestClient(app, base_url="https://testserver") as client:
        client.get("/begin")
        with pytest.raises(BaseExceptionGroup), client.websocket_connect("wss://testserver/ws"):
            pass
        return client.get("/count").json()
