"""Signs a user in and out of the client of a test, without the application's own form."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Protocol, overload

from anyio.from_thread import start_blocking_portal

from .._core.models import Model
from .._web.provider import SessionProvider
from .._web.verifier import Rejected
from .standins import checked_provider, session_cookies


class Client(Protocol):
    """The interface that the clients have in common."""

    @property
    def base_url(self) -> Any:
        """Its host is where the cookie belongs."""
        ...

    @property
    def cookies(self) -> Any:
        """The cookies that it holds."""
        ...


class AsyncClient(Client, Protocol):
    """The ``AsyncClient`` of httpx or httpx2."""

    async def aclose(self) -> None:
        """Close it."""
        ...


class TestClient(Client, Protocol):
    """The ``TestClient`` of FastAPI and Starlette."""

    portal: Any


@overload
def sign_in(
    client: TestClient, get_session: SessionProvider[Model], subject: str, data: Model | None = None
) -> None: ...


@overload
def sign_in(
    client: AsyncClient,
    get_session: SessionProvider[Model],
    subject: str,
    data: Model | None = None,
) -> Awaitable[None]: ...


def sign_in(
    client: TestClient | AsyncClient,
    get_session: SessionProvider[Model],
    subject: str,
    data: Model | None = None,
) -> Awaitable[None] | None:
    """Store a real session of this user, and give the client its cookie in place of any other.

    Await it with an ``AsyncClient``. With a ``TestClient`` it is a plain call.
    """

    checked_provider(get_session)

    async def run() -> None:
        cookies = await session_cookies(get_session, data, subject=subject)
        _forget(client, get_session)
        config = get_session.cookie.config
        host = str(client.base_url.host)
        # as a response of this host would set it, so that one replaces the other
        domain = f".{config.domain}" if config.domain else host if "." in host else f"{host}.local"
        for name, value in cookies.items():
            client.cookies.set(name, value, domain=domain, path=config.path)

    return _run(client, run)


@overload
def sign_out(client: TestClient, get_session: SessionProvider[Any]) -> None: ...


@overload
def sign_out(client: AsyncClient, get_session: SessionProvider[Any]) -> Awaitable[None]: ...


def sign_out(
    client: TestClient | AsyncClient, get_session: SessionProvider[Any]
) -> Awaitable[None] | None:
    """End the session that the client's cookie opens, if any, and remove the cookie.

    Await it with an ``AsyncClient``. With a ``TestClient`` it is a plain call.
    """

    checked_provider(get_session)

    async def run() -> None:
        name = get_session.cookie.name
        values = [cookie.value for cookie in client.cookies.jar if cookie.name == name]
        _forget(client, get_session)
        verified = get_session.verifier.verify([value.encode() for value in values])
        if not isinstance(verified, Rejected):
            provider = get_session.repository.settings.name
            await get_session.revoke(verified[0].token.key(provider))

    return _run(client, run)


def _forget(client: Client, get_session: SessionProvider[Any]) -> None:
    name = get_session.cookie.name
    for cookie in [cookie for cookie in client.cookies.jar if cookie.name == name]:
        client.cookies.jar.clear(cookie.domain, cookie.path, name)


def _run(
    client: TestClient | AsyncClient, run: Callable[[], Awaitable[None]]
) -> Awaitable[None] | None:
    if not hasattr(client, "portal"):
        if not all(hasattr(client, name) for name in ("aclose", "base_url", "cookies")):
            raise TypeError(
                "sign_in(client, ...) and sign_out take a TestClient or an AsyncClient, not "
                f"{type(client).__name__}"
            )
        return run()
    portal: Any = getattr(client, "portal")  # noqa: B009  # narrowed by no type checker
    # a client that was not entered runs each request in a separate event loop
    with start_blocking_portal() if portal is None else nullcontext(portal) as entered:
        entered.call(run)
    return None
