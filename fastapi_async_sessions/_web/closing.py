"""When the sessions of a request are committed, outside of a ``SessionRoute``.

FastAPI has an exit stack that it closes when a route and its dependencies have run, before the
response is sent. A route that was not built as a ``SessionRoute`` closes its sessions there, and so
does every websocket route. Where there is no such stack, the ``middleware`` closes them.
"""

from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import cast

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..errors import ConfigurationError, SessionError
from ..events import logger
from .jar import SCOPE_KEY, Jar

_STACK = "fastapi_function_astack"


def websocket_jar(websocket: WebSocket) -> Jar:
    """Return a new jar for a websocket route of FastAPI.

    Raises:
        ConfigurationError: this version of FastAPI has no exit stack that would close it.
    """
    if not isinstance(websocket.scope.get(_STACK), AsyncExitStack):
        raise ConfigurationError(
            "this version of FastAPI has no exit stack for websockets: use get_session.open(key), "
            "which commits by itself"
        )
    jar: Jar = websocket.scope.setdefault(SCOPE_KEY, Jar())
    return jar


def close_with_route(connection: HTTPConnection, jar: Jar) -> None:
    """Close the jar when FastAPI's route ends; without such a route this does nothing.

    After a route its stack stays in the scope, where it is of no use to an exception handler. So
    the middleware closes the jar as well, unless that has happened.
    """
    stack = connection.scope.get(_STACK)
    if not isinstance(stack, AsyncExitStack):
        return
    jar.has_closer = True
    if isinstance(connection, WebSocket):
        stack.push_async_exit(partial(_end_of_websocket_route, connection, jar))
    else:
        stack.push_async_exit(partial(_end_of_route, jar))


async def _end_of_route(
    jar: Jar,
    _exc_type: type[BaseException] | None,
    error: BaseException | None,
    _traceback: TracebackType | None,
) -> None:
    await (jar.close() if error is None else jar.roll_back())


async def _end_of_websocket_route(
    websocket: WebSocket,
    jar: Jar,
    _exc_type: type[BaseException] | None,
    error: BaseException | None,
    _traceback: TracebackType | None,
) -> None:
    await close_websocket(websocket, jar, error)


async def close_websocket(websocket: WebSocket, jar: Jar, error: BaseException | None) -> None:
    """Commit, or roll back if the handler raised; a disconnected client is not an error."""
    if error is not None and not _is_disconnect(error):
        await jar.roll_back()
        return
    try:
        await jar.close()
    except SessionError:
        if websocket.application_state is WebSocketState.CONNECTING:
            raise  # the handshake can still be rejected with the error's status
        logger.exception("a session could not be committed at the end of a websocket")
        if websocket.application_state is websocket.client_state is WebSocketState.CONNECTED:
            await websocket.close(1011)


def _is_disconnect(error: BaseException) -> bool:
    """Whether the client has disconnected, and nothing else went wrong in a group of tasks."""
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return group.split(WebSocketDisconnect)[1] is None
    return isinstance(error, WebSocketDisconnect)
