"""The work that every contender does, as a browser sees it, and the check that it was done.

A contender is an ASGI application with these routes; a browser keeps one cookie.

    GET  /plain            a route that asks for no session
    GET  /read             takes one number out of the session
    POST /change           adds one to that number
    POST /sign-in/{user}   begins a session of about 1 kB under a new id
    POST /sign-out         ends it
    POST /visit/{page}     adds one to a number that no other request in flight changes
    GET  /session          everything, for the check
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

SECRET = "benchmarks-only-0123456789-abcdefghijklmnop"
USERS = 256
PAGES = 32


class Item(BaseModel):
    sku: str = ""
    name: str = ""
    quantity: int = 0
    cents: int = 0


class Basket(BaseModel):
    """What a session holds, where a contender knows types."""

    count: int = 0
    owner: str = ""
    items: list[Item] = []
    pages: dict[str, int] = {}


def new_basket(owner: str) -> dict[str, Any]:
    """The data of who has just signed in: about 1 kB of JSON, which nobody else has."""
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


class Answer(NamedTuple):
    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def cookie(self, before: str = "") -> str:
        """The cookie that a browser sends from now on."""
        for name, value in self.headers:
            if name.lower() == b"set-cookie":
                # all contenders set theirs with Max-Age or nothing, and remove it with Expires
                is_removed = b"expires=" in value.lower()
                before = "" if is_removed else value.partition(b";")[0].decode()
        return before


class Run(NamedTuple):
    """What a number of requests brought: how long all took, how long each, and the answers."""

    seconds: float
    latencies: list[float]
    answers: list[Answer]


Send = Callable[[Sequence[Request], int], Awaitable[Run]]
"""Sends all these requests, so many at the same time."""


class Failed(Exception):
    """A contender did not do the work."""


async def ask(send: Send, method: str, path: str, cookie: str = "") -> Answer:
    """One request by itself."""
    (answer,) = (await send([Request(method, path, cookie)], 1)).answers
    if answer.status != 200:
        raise Failed(f"{method} {path} answered {answer.status}: {answer.body[:200]!r}")
    return answer


async def session(send: Send, cookie: str) -> Any:
    """``{"user": ..., "data": ...}`` of who has that cookie; the user is None for a stranger."""
    return json.loads((await ask(send, "GET", "/session", cookie)).body)


async def check(send: Send, *, in_store: bool) -> None:
    """Two users sign in, change and sign out; each sees their own session and nobody else's.

    Raises:
        Failed: something of that was not done.
    """
    ada, bob = [(await ask(send, "POST", f"/sign-in/{user}")).cookie() for user in ("ada", "bob")]
    _require(bool(ada) and ada != bob, "each sign-in gives a cookie of its own")
    for _ in range(2):
        ada = (await ask(send, "POST", "/change", ada)).cookie(ada)
    ada = (await ask(send, "POST", "/visit/p7", ada)).cookie(ada)
    expected = {"user": "bob", "data": new_basket("bob")}
    _require(await session(send, bob) == expected, "bob has his session")
    expected = new_basket("ada")
    expected["count"], expected["pages"]["p7"] = 2, 1
    _require(await session(send, ada) == {"user": "ada", "data": expected}, "changes are kept")
    read = json.loads((await ask(send, "GET", "/read", ada)).body)
    _require(read == {"count": 2}, "a read sees what a change wrote")
    plain = await ask(send, "GET", "/plain", ada)
    _require(json.loads(plain.body) == {"count": 0}, "a route without a session answers")
    left = (await ask(send, "POST", "/sign-out", ada)).cookie(ada)
    _require((await session(send, left))["user"] is None, "sign-out ends the browser's session")
    if in_store:
        _require((await session(send, ada))["user"] is None, "the old cookie is dead")
    _require((await session(send, bob))["user"] == "bob", "sign-out ends nobody else's session")


def _require(condition: bool, promise: str) -> None:
    if not condition:
        raise Failed(f"not so: {promise}")
