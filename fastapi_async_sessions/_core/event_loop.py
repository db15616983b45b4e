"""Sessions need asyncio's event loop, whereas FastAPI also runs on trio."""

import asyncio

from ..errors import ConfigurationError


def require_asyncio() -> None:
    """Check that the application runs on asyncio.

    Raises:
        ConfigurationError: it runs on another event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "sessions and the drivers of their stores need asyncio, and this application runs on "
            "trio: start the server with asyncio (hypercorn --worker-class asyncio), and in tests "
            'write TestClient(app) without backend="trio", or a fixture anyio_backend that returns '
            '"asyncio"'
        ) from None
