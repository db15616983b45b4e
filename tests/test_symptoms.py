"""The guide's table of symptoms and causes: users are signed out by each, with its event."""

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_async_sessions import CookieConfig, MemoryStore, Store
from fastapi_async_sessions.testing import FrozenClock

from .apps import COOKIE, OLDER_SECRET, SECRET, browser, make_provider
from .doubles import SpyStore
from .sites import make_sign_in_site

GUIDE = (Path(__file__).parents[1] / "examples/README.md").read_text()
SECOND = timedelta(seconds=1)


class Plan(BaseModel):
    count: int = 0


class NewPlan(BaseModel):
    count: Literal[0] = 0


class Host:
    """A host with one application after another, ada's browser, and the events of its requests."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.clock = FrozenClock()
        self.store: Store = MemoryStore(clock=self.clock)
        self.client = browser(self._serve)
        self._app = FastAPI()

    def deploy(self, model: Any = Plan, **options: Any) -> Any:
        settings: dict[str, Any] = {"clock": self.clock, **options}
        get_session = make_provider(
            SpyStore(self.store),
            model,
            on_event=lambda event: self.events.append(event.kind),
            **settings,
        )
        self._app = make_sign_in_site(get_session)
        return get_session

    async def sign_in(self) -> None:
        await self.client.post("/sign-in/ada")
        assert await self.subject() == "ada"

    async def subject(self, **headers: str) -> str | None:
        """The user of the browser's next request."""
        self.events.clear()
        subject: str | None = (await self.client.get("/", headers=headers)).json()["subject"]
        return subject

    def visitor(self) -> httpx.AsyncClient:
        """Another browser."""
        return browser(self._serve)

    async def _serve(self, *asgi: Any) -> None:
        await self._app(*asgi)


async def emptied(host: Host) -> None:
    host.deploy()
    await host.sign_in()
    await host.store.clear()


async def evicted(host: Host) -> None:
    host.store = MemoryStore(max_sessions=2, clock=host.clock)
    host.deploy()
    await host.sign_in()
    for _ in range(2):
        await host.visitor().post("/sign-in/bob")


async def workers_without_a_shared_store(host: Host) -> None:
    host.deploy()
    await host.sign_in()
    host.store = MemoryStore(clock=host.clock)
    host.deploy()


async def expired(host: Host) -> None:
    get_session = host.deploy()
    await host.sign_in()
    host.clock.advance(get_session.repository.settings.lifetime.idle)


async def revoked(host: Host) -> None:
    get_session = host.deploy()
    await host.sign_in()
    host.clock.advance(SECOND)
    host.events.clear()
    await get_session.revoke_all("ada")
    assert host.events == ["revoked"]


async def another_secret(host: Host) -> None:
    host.deploy(secret_key=OLDER_SECRET)
    await host.sign_in()
    host.deploy(secret_key=SECRET)


async def a_secret_that_one_worker_does_not_know(host: Host) -> None:
    host.deploy(secret_key=[SECRET, OLDER_SECRET])
    await host.sign_in()
    host.deploy(secret_key=OLDER_SECRET)


async def a_third_rollout_that_came_too_early(host: Host) -> None:
    host.deploy(secret_key=OLDER_SECRET)
    await host.sign_in()
    host.deploy(secret_key=[SECRET, OLDER_SECRET])
    await host.client.post("/change")  # which signs the cookie under the new secret
    host.deploy(secret_key=SECRET)


async def another_attribute(host: Host) -> None:
    host.deploy()
    await host.sign_in()
    host.deploy(cookie=CookieConfig(partitioned=True))


async def another_name(host: Host) -> None:
    host.deploy()
    await host.sign_in()
    host.deploy(cookie=CookieConfig(secure=False))


async def another_application(host: Host) -> None:
    host.deploy(secret_key=SECRET)
    await host.sign_in()
    host.deploy(secret_key=OLDER_SECRET)
    await host.sign_in()
    host.deploy(secret_key=SECRET)


async def a_secure_cookie_without_tls(host: Host) -> None:
    host.deploy()
    host.client.base_url = httpx.URL("http://testserver")
    await host.client.post("/sign-in/ada")


async def discarded(host: Host) -> None:
    host.deploy()
    await host.sign_in()
    await host.client.post("/change")
    host.deploy(NewPlan, on_invalid="discard")


async def a_link_on_another_site(host: Host) -> dict[str, str]:
    host.deploy(cookie=CookieConfig(samesite="strict"))
    await host.sign_in()
    host.client.cookies.clear()  # the browser keeps it, and does not send it with this request
    return {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}


async def a_planted_cookie(host: Host) -> dict[str, str]:
    host.deploy()
    await host.sign_in()
    other = host.visitor()
    await other.post("/sign-in/eve")
    cookies = [client.cookies[COOKIE] for client in (host.client, other)]
    host.client.cookies.clear()
    return {"cookie": "; ".join(f"{COOKIE}={value}" for value in cookies)}


CAUSES: list[Callable[[Host], Awaitable[dict[str, str] | None]]] = [
    emptied,
    evicted,
    workers_without_a_shared_store,
    expired,
    revoked,
    another_secret,
    a_secret_that_one_worker_does_not_know,
    a_third_rollout_that_came_too_early,
    another_attribute,
    another_name,
    another_application,
    a_secure_cookie_without_tls,
    discarded,
    a_link_on_another_site,
    a_planted_cookie,
]


def rows() -> list[list[str]]:
    """The rows of the table, as their cells."""
    section = GUIDE.partition("\n## Symptoms and causes\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [re.split(r" \|(?: |$)", line) for line in lines[1:]]


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_user_is_signed_out_and_the_event_of_the_table_is_emitted(
    cause: Callable[[Host], Awaitable[dict[str, str] | None]],
) -> None:
    """The causes stand in the order of the table."""
    host = Host()
    headers = await cause(host)
    assert await host.subject(**(headers or {})) is None
    event = rows()[CAUSES.index(cause)][1].strip("`")
    assert host.events == ([] if event == "none" else [event])


def test_each_row_of_the_table_is_played() -> None:
    """A row that is added needs a cause here."""
    assert len(rows()) == len(CAUSES)
    assert {len(row) for row in rows()} == {4}
