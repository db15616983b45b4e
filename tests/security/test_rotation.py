"""A change of the secret in three rollouts signs nobody out, and neither does a rollback."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from fastapi_async_sessions import Lifetime, MemoryStore, Store
from fastapi_async_sessions.testing import FrozenClock

from ..apps import COOKIE, OLDER_SECRET, SECRET, browser, make_provider
from ..doubles import SpyStore
from ..sites import make_sign_in_site

OLD, NEW = OLDER_SECRET, SECRET
ROLLOUTS = ([OLD], [OLD, NEW], [NEW, OLD], [NEW])
DAY = timedelta(days=1)

Secrets = list[str]


class Workers:
    """Two workers of one application with one store, whose secrets may differ for a while."""

    def __init__(self, store: Store, clock: FrozenClock, **options: Any) -> None:
        self._store, self._options = store, {"clock": clock, **options}
        self._sites: dict[str, Any] = {}
        self.providers: dict[str, Any] = {}
        for name in "ab":
            self.deploy(name, [OLD])

    def deploy(self, name: str, secrets: Secrets) -> None:
        """Restart a worker with these secrets."""
        store = SpyStore(self._store)
        self.providers[name] = make_provider(store, secret_key=secrets, **self._options)
        self._sites[name] = make_sign_in_site(self.providers[name])

    async def send(self, worker: str, client: "Visitor", path: str) -> Any:
        """Send one request of a visitor to one of the workers, and keep the cookie."""
        async with browser(self._sites[worker], client.cookie) as http:
            response = await http.request("GET" if path == "/" else "POST", path)
            assert response.status_code == 200, (worker, path, response.text)
            client.cookie = _cookie(http)
            return response.json()


def _cookie(http: httpx.AsyncClient) -> str | None:
    return http.cookies.get(COOKIE)


class Visitor:
    """A browser that is signed in, and the number of changes that it made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cookie: str | None = None
        self.changes = 0

    async def visit(self, workers: Workers, worker: str) -> None:
        """Read and change: the session is there, with all changes so far."""
        seen = {"new": False, "subject": self.name, "count": self.changes}
        assert await workers.send(worker, self, "/") == seen, worker
        await workers.send(worker, self, "/change")
        self.changes += 1


def steps(before: Secrets, after: Secrets) -> Iterator[tuple[str, Secrets]]:
    """A rollout that is rolled back when one worker has it, and again when both have it."""
    yield from (("a", after), ("a", before))
    yield from (("a", after), ("b", after), ("b", before), ("a", before))
    yield from (("b", after), ("a", after))


@pytest.mark.parametrize(
    ("store", "encrypt"),
    [
        ("memory", False),
        pytest.param("memory", True, marks=pytest.mark.slow),
        pytest.param("redis", True, marks=pytest.mark.slow),
        pytest.param("redis", False, marks=pytest.mark.slow),
    ],
    indirect=["store"],
)
async def test_three_rollouts_sign_nobody_out(
    store: SpyStore, clock: FrozenClock, encrypt: bool
) -> None:
    """After each step, each user is signed in on both workers, and so is one who signs in now on
    either; lists and revocations of each worker find all of their sessions."""
    lifetime = Lifetime(idle=None, absolute=DAY)
    workers = Workers(store.inner, clock, lifetime=lifetime, encrypt=encrypt)
    visitors: list[Visitor] = []
    for before, after in pairwise(ROLLOUTS):
        if after == [NEW]:
            # the longest lifetime has passed since the second rollout
            clock.advance(DAY)
            visitors.clear()
        for worker, secrets in (("a", before), *steps(before, after)):
            workers.deploy(worker, secrets)
            for here, there in ("ab", "ba"):
                visitor, bob = Visitor("ada"), Visitor("bob")
                await workers.send(here, visitor, "/sign-in/ada")
                visitors.append(visitor)
                await workers.send(here, bob, "/sign-in/bob")
                assert await workers.providers[there].revoke_all("bob") == 1
                assert (await workers.send(here, bob, "/"))["new"] is True
                clock.advance(timedelta(seconds=1))
            for visitor in visitors[:2] + visitors[2:][-4:]:
                await visitor.visit(workers, "a")
                await visitor.visit(workers, "b")
            for provider in workers.providers.values():
                assert len(await provider.sessions("ada")) == len(visitors)


@pytest.mark.parametrize("encrypt", [False, True])
@pytest.mark.parametrize("secrets", ROLLOUTS[1:], ids=["first", "second", "third"])
async def test_a_sign_in_on_one_worker_loses_against_a_revocation_on_the_other(
    clock: FrozenClock, secrets: Secrets, encrypt: bool
) -> None:
    """Whichever of the two has the new secrets already; also where a worker knows but one of the
    secrets, for the revocation of each owner is sealed under the secret of that owner."""
    before = ROLLOUTS[ROLLOUTS.index(secrets) - 1]
    pairs = [(before, secrets), (secrets, before), ([OLD], [NEW, OLD]), ([NEW], [OLD, NEW])]
    options: Any = {"clock": clock, "encrypt": encrypt}
    for of_sign_in, of_revocation in pairs:
        shared = MemoryStore(clock=clock)
        store = SpyStore(shared)
        site = make_sign_in_site(make_provider(store, secret_key=of_sign_in, **options))
        other = make_provider(SpyStore(shared), secret_key=of_revocation, **options)

        async def revoke_before_create(call: Any, other: Any = other) -> Any:
            if call.verb == "create":
                await other.revoke_all("ada")
            return await call.pass_on()

        store.hook = revoke_before_create
        response = await browser(site).post("/sign-in/ada")
        assert response.status_code == 409
        assert await other.sessions("ada") == []


async def test_without_an_absolute_end_the_third_rollout_ends_sessions_of_the_old_secret(
    clock: FrozenClock,
) -> None:
    """Those that have not signed in since the second one; a write alone is not enough, because
    no list and no revocation would find them. A session without a user stays if it has been
    written."""
    workers = Workers(MemoryStore(clock=clock), clock, lifetime=Lifetime(absolute=None))
    stale, fresh, anonymous = (Visitor(name) for name in ("ada", "bob", ""))
    await workers.send("a", stale, "/sign-in/ada")
    await workers.send("a", fresh, "/sign-in/bob")
    await workers.send("a", anonymous, "/change")
    workers.deploy("a", [NEW, OLD])
    await workers.send("a", stale, "/change")
    await workers.send("a", fresh, "/sign-in/bob")
    await workers.send("a", anonymous, "/change")
    workers.deploy("a", [NEW])
    assert (await workers.send("a", stale, "/"))["subject"] is None
    assert (await workers.send("a", fresh, "/"))["subject"] == "bob"
    assert (await workers.send("a", anonymous, "/"))["count"] == 2
