"""A websocket's handler that runs a group of tasks, which the client's disconnection ends."""

import pytest
from fastapi import WebSocket, WebSocketDisconnect
from starlette.testclient import TestClient

from fastapi_async_sessions import MemoryStore, Session
from tests.apps import Data, make_provider
from tests.test_websocket import make_socket_app


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
    async def fail(websocket: WebSocket, session: Session[Data]) -> None:
        await websocket.accept()
        session.data.count = 2
        raise error

    app = make_socket_app(make_provider(MemoryStore()), fail)
    with TestClient(app, base_url="https://testserver") as client:
        client.get("/begin")
        with pytest.raises(BaseExceptionGroup), client.websocket_connect("wss://testserver/ws"):
            pass
        return client.get("/count").json()
