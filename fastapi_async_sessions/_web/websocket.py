"""The sessions of a websocket, which are committed when its handler ends."""

from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..errors import ConfigurationError, SessionError
from ..events import logger
from .jar import SCOPE_KEY, Jar


def websocket_jar(websocket: WebSocket) -> Jar:
    """Return the jar of a websocket; FastAPI's function-scope exit stack will close it.

    Raises:
        ConfigurationError: this version of FastAPI has no such stack.
    """
    stack = websocket.scope.get("fastapi_function_astack")
    if not isinstance(stack, AsyncExitStack):
        raise ConfigurationError(
            "this version of FastAPI has no exit stack for websockets: use get_session.open(key), "
            "which commits by itself"
        )
    jar: Jar = websocket.scope.setdefault(SCOPE_KEY, Jar())
    stack.push_async_exit(partial(_close, websocket, jar))
    return jar


async def _close(
    websocket: WebSocket,
    jar: Jar,
    _exc_type: type[BaseException] | None,
    error: BaseException | None,
    _traceback: TracebackType | None,
) -> bool:
    """Commit, or roll back if the handler raised; a disconnected client is not an error."""
    if error is not None and not isinstance(error, WebSocketDisconnect):
        await jar.roll_back()
        return False
    try:
        await jar.close()
    except SessionError:
        if websocket.application_state is WebSocketState.CONNECTING:
            raise  # the handshake can still be rejected with the error's status
        logger.exception("a session could not be committed at the end of a websocket")
        if websocket.application_state is websocket.client_state is WebSocketState.CONNECTED:
            await websocket.close(1011)
    return False
