"""Sessions for the tests of an application: one that replaces the real one, and a stored one."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from fastapi import FastAPI

from .._core.models import Model
from .._core.repository import Repository
from .._core.session import Session
from .._core.state import SessionState
from .._web.provider import SessionProvider
from ..stores.memory import MemoryStore


@contextmanager
def override_session(
    app: FastAPI,
    get_session: SessionProvider[Model],
    data: Model | None = None,
    *,
    subject: str | None = None,
) -> Generator[Session[Model]]:
    """Give all routes of an application this session, without a cookie or the store.

    ``required`` and ``signed_in`` use it too. The context manager returns the session, so that a
    test can inspect what the routes have changed. Without data and subject, it is a new session. If
    a route raises, its changes are not rolled back.
    """
    settings = checked_provider(get_session).repository.settings
    if not isinstance(app, FastAPI):
        raise TypeError(f"override_session takes the application, not {type(app).__name__}")
    store = MemoryStore(clock=settings.clock)
    state = _state(Repository(replace(settings, store=store)), data, subject)
    session = Session(state)
    is_unstored = data is not None or subject is not None

    async def stand_in() -> Session[Model]:
        nonlocal is_unstored
        if is_unstored:
            await state.create()
            is_unstored = False
        # so that this request gets the changes of the one before
        await state.commit()
        state.is_new = state.stored is None
        return session

    before = dict(app.dependency_overrides)
    app.dependency_overrides[get_session] = stand_in
    try:
        yield session
    finally:
        app.dependency_overrides = before


async def session_cookies(
    get_session: SessionProvider[Model], data: Model | None = None, *, subject: str | None = None
) -> dict[str, str]:
    """Store a real session and return its cookie, for ``client.cookies.update(...)``.

    If the client's requests renew the session, set the cookie's domain, or else the client sends
    two cookies. For https://testserver, that is ``client.cookies.set(name, value,
    domain="testserver.local")``.

    Await it in the store's event loop: in an ``async`` test directly, and in a ``with
    TestClient(app) as client`` block by ``client.portal.call(session_cookies, get_session, data)``.
    """
    state = _state(checked_provider(get_session).repository, data, subject)
    await state.create()
    assert state.token is not None  # noqa: S101  # create() has just issued it
    return {get_session.cookie.name: get_session.verifier.sign(state.token)}


def checked_provider(get_session: SessionProvider[Model]) -> SessionProvider[Model]:
    """Return the provider.

    Raises:
        TypeError: it is something else, such as one of its dependencies.
    """
    if not isinstance(get_session, SessionProvider):
        raise TypeError(f"get_session is a SessionProvider, not {type(get_session).__name__}")
    return get_session


def _state(
    repository: Repository[Model], data: Model | None, subject: str | None
) -> SessionState[Model]:
    state = SessionState(repository, repository.settings.now())
    if data is not None:
        state.assign(data)
    if subject is not None:
        Session(state).renew(subject=subject)
    return state
