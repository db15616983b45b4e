"""The work of every contender, as a browser sees it, and the check that it is done.

A contender is an ASGI application with these routes; a browser keeps one cookie.

    GET  /plain            a route without a session
    GET  /subject          asks only who is signed in
    GET  /read             takes one number out of the session
    POST /change           adds one to that number
    POST /sign-in/{user}   begins a session of about 1 kB under a new id
    POST /sign-out         ends it
    POST /visit/{page}     adds one to a number that no other request in flight changes
    GET  /session          everything, for the check
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from pydantic import BaseModel

SECRET = "benchmarks-only-0123456789-abcdefghijklmnop"
HOUR = 3600
PATIENCE = timedelta(seconds=60)  # on a busy machine a slow store is not an outage
USERS = 256
PAGES = 32
ROUTES = {
    "no session": ("GET", "/plain"),
    "subject": ("GET", "/subject"),
    "read": ("GET", "/read"),
    "change": ("POST", "/change"),
    "sign out": ("POST", "/sign-out"),
}


class Item(BaseModel):
    sku: str = ""
    name: str = ""
    quantity: int = 0
    cents: int = 0


class Basket(BaseModel):
    """The data of a session, for contenders that have typed data."""

    count: int = 0
    owner: str = ""
    items: list[Item] = []
    pages: dict[str, int] = {}


def new_basket(owner: str) -> dict[str, Any]:
    """The data of a user who has just signed in: about 1 kB of JSON, different for each user."""
    return {
        "count": 0,
        "owner": owner,
        "items": [
            {"sku": f"sku-{n:04}", "name": f"Thing number {n}", "quantity": n, "cents": 99 * n}
            for n in range(1, 10)
        ],
        "pages": {f"p{n}": 0 for n in range(PAGES)},
    }


class Request(NamedTuple):
    method: str
    path: str
    cookie: str = ""


def requests_with(cookies: Iterable[str], scenario: str) -> list[Request]:
    """A request of a scenario for each cookie."""
    method, path = ROUTES[scenario]
    return [Request(method, path, cookie) for cookie in cookies]


def sign_ins(users: Iterable[object]) -> list[Request]:
    """A sign-in of each user."""
    return [Request("POST", f"/sign-in/user-{user}") for user in users]


class Answer(NamedTuple):
    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def cookie(self, before: str = "") -> str:
        """The cookie that a browser sends from now on, if it sent ``before`` until now."""
        for name, value in self.headers:
            if name.lower() == b"set-cookie":
                attributes = value.lower().replace(b" ", b"").split(b";")
                # each contender that removes its cookie does it in one of these two ways
                removed = b"max-age=0" in attributes or b"expires=" in value.lower()
                before = "" if removed else value.partition(b";")[0].decode()
        return before


class Run(NamedTuple):
    """The answers to a number of requests, and what they took.

    Attributes:
        seconds: From the first request to the last answer.
        cpu_seconds: CPU time of the process that the application runs in.
        latencies: Seconds from each request to its answer.
    """

    seconds: float
    cpu_seconds: float
    latencies: list[float]
    answers: list[Answer]


Send = Callable[[Sequence[Request], int], Awaitable[Run]]
"""Sends all these requests, so many at the same time."""


class Failed(Exception):
    """A contender did not do the work."""


async def ask(send: Send, method: str, path: str, cookie: str = "") -> Answer:
    """Send one request by itself."""
    (answer,) = (await send([Request(method, path, cookie)], 1)).answers
    if answer.status != 200:
        raise Failed(f"{method} {path} answered {answer.status}: {answer.body[:200]!r}")
    return answer


async def session(send: Send, cookie: str) -> Any:
    """``{"user": ..., "data": ...}`` of the session with that cookie; no session, no user."""
    return json.loads((await ask(send, "GET", "/session", cookie)).body)


async def check(send: Send, *, in_store: bool) -> None:
    """Two users sign in, change and sign out; each sees only their own session.

    Raises:
        Failed: part of that was not done.
    """
    ada, bob = [(await ask(send, "POST", f"/sign-in/{user}")).cookie() for user in ("ada", "bob")]
    _require(bool(ada) and ada != bob, "each sign-in sets its own cookie")
    for _ in range(2):
        ada = (await ask(send, "POST", "/change", ada)).cookie(ada)
    ada = (await ask(send, "POST", "/visit/p7", ada)).cookie(ada)
    await _check_reads(send, ada, bob)
    left = (await ask(send, "POST", "/sign-out", ada)).cookie(ada)
    _require((await session(send, left))["user"] is None, "a sign-out ends the browser's session")
    if in_store:
        _require((await session(send, ada))["user"] is None, "a sign-out ends a copied cookie")
    _require((await session(send, bob))["user"] == "bob", "a sign-out ends no other session")


async def _check_reads(send: Send, ada: str, bob: str) -> None:
    expected = {"user": "bob", "data": new_basket("bob")}
    _require(await session(send, bob) == expected, "a user sees the data of the sign-in")
    expected = {"user": "ada", "data": new_basket("ada")}
    expected["data"]["count"], expected["data"]["pages"]["p7"] = 2, 1
    _require(await session(send, ada) == expected, "changes are kept")
    for path, answer in (
        ("/plain", {"count": 0}),
        ("/subject", {"user": "ada"}),
        ("/read", {"count": 2}),
    ):
        body = (await ask(send, "GET", path, ada)).body
        _require(json.loads(body) == answer, f"GET {path} answers {answer}")


def _require(condition: bool, promise: str) -> None:
    if not condition:
        raise Failed(f"not so: {promise}")
