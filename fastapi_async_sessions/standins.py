"""Sessions for tests of an application: one that stands in, and one that is really stored."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from fastapi import FastAPI

from ._core.codec import Model
from ._core.session import Session
from ._core.vault import Vault
from ._core.visit import Visit
from ._web.provider import SessionProvider
from .stores.memory import MemoryStore


@contextmanager
def override_session(
    app: FastAPI,
    get_session: SessionProvider[Model],
    data: Model | None = None,
    *,
    subject: str | None = None,
) -> Generator[Session[Model]]:
    """Give the routes of an application this session, without a cookie and without the store.

    ``required`` and ``signed_in`` follow. The session that the block is given is the one that
    routes change, so that a test can look at it afterwards; without data and subject it is a new
    one. Nothing is rolled back when a route raises.
    """
    vault = replace(get_session.vault, store=MemoryStore(clock=get_session.vault.clock))
    visit = _visit(vault, data, subject)
    session = Session(visit)
    is_wanted = data is not None or subject is not None

    async def stand_in() -> Session[Model]:
        nonlocal is_wanted
        if is_wanted:
            await visit.create()
            is_wanted = False
        # what the request before has left is what this one finds
        await visit.commit()
        visit.is_new = visit.stored is None
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

    Where the client's requests renew the session, say whose cookie it is, or the client sends two:
    ``client.cookies.set(name, value, domain="testserver.local")`` for https://testserver.

    Await it in the event loop that the store works in: an ``async`` test, or in a ``with
    TestClient(app) as client`` block ``client.portal.call(session_cookies, get_session, data)``.
    """
    visit = _visit(get_session.vault, data, subject)
    await visit.create()
    assert visit.token is not None  # noqa: S101  # create() has just issued it
    return {get_session.cookie.name: get_session.verifier.sign(visit.token)}


def _visit(vault: Vault[Model], data: Model | None, subject: str | None) -> Visit[Model]:
    visit = Visit(vault, vault.clock())
    if data is not None:
        visit.assign(data)
    if subject is not None:
        Session(visit).renew(subject=subject)
    return visit
