"""Load with faults: acknowledged changes are remembered, and compared with the store in the end.

    python -m benchmarks.soak --store redis --seconds 60 --clients 100 --workers 2

Several worker processes share a real Redis or PostgreSQL. Each client is a user with a list of
every change and every sign-out that was acknowledged. Workers and the server are killed (SIGKILL)
and started again. Clients renew, sign in again, sign in as another user
of the same browser, and send late writes with a token that they have replaced. The exit code is 1
if a change was lost or done twice, if a session was alive after its end, if a user saw the session
of another, or if a user was signed out without having asked for it.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from fastapi_async_sessions import CookieConfig, Session, SessionProvider, SessionRoute, Store
from tests.servers.postgres import PostgresServer, run_postgres
from tests.servers.redis import RedisServer, free_port

SECRET = "a-secret-of-the-soak-test-0123456789-abcdefg"
ROUNDS_OF_A_SESSION = 40


# the application that a worker serves


class Data(BaseModel):
    owner: str = ""
    fields: dict[str, int] = {}
    items: list[str] = []


def open_store(url: str) -> Store:
    if url.startswith("redis"):
        from fastapi_async_sessions.stores.redis import RedisStore

        return RedisStore.from_url(url)
    from fastapi_async_sessions.stores.sql import SQLStore

    return SQLStore.from_url(url, create_table=True)


def make_app(url: str) -> FastAPI:
    provider = SessionProvider(
        Data, store=open_store(url), secret_key=SECRET, cookie=CookieConfig(secure=False)
    )
    app = FastAPI(lifespan=provider.lifespan)
    app.router.route_class = SessionRoute
    some_session = Annotated[Session[Data], Depends(provider)]
    live_session = Annotated[Session[Data], Depends(provider.required)]

    @app.post("/login/{user}")
    async def login(user: str, session: some_session) -> str:
        session.renew(subject=user)  # first: after another user, the data is fresh from here on
        session.data.owner = user
        return user

    @app.post("/late")
    async def write_late(session: some_session) -> bool:
        session.data.items.append("late")
        return session.is_detached

    @app.post("/set/{name}/{value}")
    async def change(name: str, value: int, session: live_session) -> str:
        session.data.fields[name] = value
        session.data.items.append(f"{name}{value}")
        return session.data.owner

    @app.post("/renew")
    async def renew(session: live_session) -> str:
        session.renew()
        return session.data.owner

    @app.post("/logout")
    async def logout(session: some_session) -> None:
        await session.destroy()

    @app.post("/revoke_all/{user}")
    async def revoke_all(user: str) -> int:
        return await provider.revoke_all(user)

    @app.get("/me")
    async def me(session: some_session) -> dict[str, Any]:
        seen = session.data.model_dump()
        return {**seen, "subject": session.subject, "is_new": session.is_new}

    return app


# the processes that are killed


class Worker:
    """A uvicorn process on a port that it keeps."""

    def __init__(self, url: str, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self._command = [sys.executable, "-m", "benchmarks.soak", "--serve", str(self.port), url]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)


class Postgres:
    """A PostgreSQL that is killed, and started again on its data."""

    def __init__(self, server: PostgresServer) -> None:
        self.url = server.url
        self._server = server

    def kill(self) -> None:
        self._server.kill()

    def start(self) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                self._server.start()
            except RuntimeError:
                # it cannot start before the processes of the old server have ended
                if time.monotonic() > deadline:
                    raise
            else:
                return


@contextlib.contextmanager
def running(store: str, directory: Path) -> Iterator[Any]:
    """A server that writes to the disk before it acknowledges."""
    if store == "redis":
        options = ("--appendonly", "yes", "--appendfsync", "always")
        redis = RedisServer(directory / "redis", *options).start()
        try:
            yield redis
        finally:
            redis.stop()
        return
    with run_postgres(fsync=True) as server:
        yield Postgres(server)


@dataclass
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)

    def wrong(self, what: str, story: str) -> None:
        self.counts[what] += 1
        self.stories.append(f"{what}: {story}")


class Visitor:
    """A browser with one session in two tabs, and a list of what was acknowledged.

    Two users share it; ``name`` is the one who is signed in.
    """

    def __init__(self, name: str, bases: list[str], http: httpx.AsyncClient, tally: Tally) -> None:
        self.name = name
        self.tally = tally
        self._names = (name, f"{name}-b")
        self._bases = bases
        self._http = http
        self._cookie = ""
        self._dead: list[str] = []
        self._uncertain: dict[str, list[str]] = {name: [] for name in self._names}
        self._outdated: list[str] = []  # tokens that the live session has replaced
        self._begin()

    def _begin(self) -> None:
        self._number = 0
        self._fields: dict[str, int] = {}
        self._items: set[str] = set()
        self._sent: set[str] = set()
        self._outdated = []

    async def live(self, until: float) -> None:
        """Sign in, write, read and sign out again and again until the time is over."""
        while time.monotonic() < until:
            if not self._cookie:
                await self._login()
                continue
            await asyncio.gather(*(self._write(tab) for tab in "ab" for _ in range(2)))
            await random.choice(self._visits())()
            if self._number > ROUNDS_OF_A_SESSION:
                await self._logout()

    def _visits(self) -> list[Any]:
        often = [self._check, self._look_at_the_dead, self._renew, self._write_late]
        return [*often, *often, self._step_up, self._switch_users, self._logout, self._revoke_all]

    async def check_again(self) -> None:
        """Check once more, when everything is up again."""
        if self._cookie:
            await self._check()
        for cookie in self._dead[-20:]:
            await self._look_at(cookie)

    async def _call(self, method: str, path: str, cookie: str = "") -> httpx.Response | None:
        """Send one request to any of the workers; None: its outcome is unknown."""
        self.tally.counts["requests"] += 1
        headers = {"cookie": cookie} if cookie else {}
        try:
            response = await self._http.request(
                method, random.choice(self._bases) + path, headers=headers
            )
        except httpx.TransportError:
            self.tally.counts["no answer"] += 1
            await asyncio.sleep(0.1)
            return None
        if response.status_code >= 500:
            self.tally.counts[f"answered {response.status_code}"] += 1
            return None
        return response

    async def _login(self) -> None:
        response = await self._call("POST", f"/login/{self.name}")
        if response is None:
            await asyncio.sleep(0.1)
        elif response.status_code == 200:
            self._begin()
            self._cookie = _cookie(response)

    async def _write(self, tab: str) -> None:
        self._number += 1
        number, cookie = self._number, self._cookie
        item = f"{tab}{number}"
        self._sent.add(item)
        # of two writes to one field the later commit wins: each write in flight has its own field
        name = f"{tab}{number % 2}"
        response = await self._call("POST", f"/set/{name}/{number}", cookie)
        if response is None or response.status_code == 409:
            return
        if response.status_code == 401:
            if cookie == self._cookie:
                self.tally.wrong("signed out", self.name)
                self._forget()
            return
        self._is_mine(response.json())
        if cookie == self._cookie:
            self._fields[name] = max(number, self._fields.get(name, 0))
            self._items.add(f"{name}{number}")

    async def _check(self) -> None:
        response = await self._call("GET", "/me", self._cookie)
        if response is None:
            return
        seen = response.json()
        if seen["is_new"]:
            self.tally.wrong("signed out", self.name)
            self._forget()
            return
        self._is_mine(seen["owner"])
        self._is_mine(seen["subject"])
        for name, number in self._fields.items():
            if seen["fields"].get(name, 0) < number:
                self.tally.wrong("lost changes", f"{self.name}: {name} {number} {seen['fields']}")
        lost = self._items - set(seen["items"])
        if lost:
            self.tally.wrong("lost changes", f"{self.name}: {lost} of {seen['items']}")
        if len(seen["items"]) > len(set(seen["items"])):
            self.tally.wrong("done twice", f"{self.name}: {seen['items']}")

    async def _renew(self) -> None:
        await self._replace_token("/renew")

    async def _step_up(self) -> None:
        """Sign in again as the same user, whose data stays."""
        await self._replace_token(f"/login/{self.name}")

    async def _replace_token(self, path: str) -> None:
        old = self._cookie
        response = await self._call("POST", path, old)
        if response is None or response.status_code != 200:
            self._forget()
            return
        self._is_mine(response.json())
        self._cookie = _cookie(response)
        self._dead.append(old)
        self._outdated.append(old)
        await self._look_at(old)

    async def _write_late(self) -> None:
        """Write with a replaced token: the response may not replace the browser's cookie."""
        if not self._outdated:
            return
        response = await self._call("POST", "/late", random.choice(self._outdated))
        if response is not None and ("set-cookie" in response.headers or not response.json()):
            self.tally.wrong("signed out", f"{self.name}, by a late write")
        await self._check()

    async def _switch_users(self) -> None:
        """Sign in as the other user of the browser, with the session of the first."""
        old, self._cookie = self._cookie, ""
        before, after = self.name, self._names[self.name == self._names[0]]
        response = await self._call("POST", f"/login/{after}", old)
        if response is None or response.status_code != 200:
            self._uncertain[before].append(old)
            return
        self.name = after
        self._begin()
        self._cookie = _cookie(response)
        self._dead.append(old)
        await self._look_at(old)
        await self._check()

    async def _logout(self) -> None:
        """Sign out while the other tab writes."""
        old, self._cookie = self._cookie, ""
        if not old:
            return
        answers = await asyncio.gather(
            self._call("POST", "/logout", old), self._call("POST", "/set/late/1", old)
        )
        if answers[0] is None:
            self._uncertain[self.name].append(old)
        else:
            self._dead.append(old)
            await self._look_at(old)

    async def _revoke_all(self) -> None:
        """Revoke all sessions, also those of sign-ins whose outcome is unknown."""
        old, self._cookie = self._cookie, ""
        uncertain = self._uncertain[self.name]
        uncertain.append(old)
        response = await self._call("POST", f"/revoke_all/{self.name}")
        if response is not None:
            self._dead += uncertain
            uncertain.clear()
            await self._look_at(old)

    async def _look_at_the_dead(self) -> None:
        if self._dead:
            await self._look_at(random.choice(self._dead))

    async def _look_at(self, cookie: str) -> None:
        response = await self._call("GET", "/me", cookie)
        if response is not None and not response.json()["is_new"]:
            self.tally.wrong("revived sessions", self.name)

    def _is_mine(self, owner: Any) -> None:
        if owner != self.name:
            self.tally.wrong("wrong-user reads", f"{self.name} saw {owner!r}")

    def _forget(self) -> None:
        if self._cookie:
            self._uncertain[self.name].append(self._cookie)
        self._cookie = ""


def _cookie(response: httpx.Response) -> str:
    return response.headers["set-cookie"].partition(";")[0]


async def inject_faults(server: Any, workers: list[Worker], tally: Tally, until: float) -> None:
    """Kill a worker or the server every few seconds, and start it again."""
    for victim in itertools.cycle([server, *workers]):
        await asyncio.sleep(random.uniform(2, 4))
        if time.monotonic() > until - 4:
            return
        is_worker = isinstance(victim, Worker)
        tally.counts["workers killed" if is_worker else "servers killed"] += 1
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(random.uniform(0, 0.5))
        await asyncio.to_thread(victim.start)


async def until_ready(workers: list[Worker], http: httpx.AsyncClient) -> None:
    deadline = time.monotonic() + 90
    for worker in workers:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"http://127.0.0.1:{worker.port}/me")).status_code == 200:
                    break
            await asyncio.sleep(0.1)
        else:
            raise TimeoutError("a worker did not start")


async def soak(server: Any, workers: list[Worker], seconds: float, clients: int) -> Tally:
    tally = Tally()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    # each visitor keeps its own cookie
    none = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    async with httpx.AsyncClient(limits=limits, timeout=15, cookies=none, trust_env=False) as http:
        await until_ready(workers, http)
        bases = [f"http://127.0.0.1:{worker.port}" for worker in workers]
        visitors = [Visitor(f"user-{n}", bases, http, tally) for n in range(clients)]
        until = time.monotonic() + seconds
        await asyncio.gather(
            inject_faults(server, workers, tally, until),
            *(visitor.live(until) for visitor in visitors),
        )
        await until_ready(workers, http)
        await asyncio.gather(*(visitor.check_again() for visitor in visitors))
    return tally


WRONG = ("lost changes", "done twice", "revived sessions", "wrong-user reads", "signed out")


def report(tally: Tally) -> bool:
    """Print what happened; True if nothing went wrong."""
    for story in tally.stories[:20]:
        print("!", story)
    known = ["requests", "no answer", "workers killed", "servers killed", *WRONG]
    others = sorted(set(tally.counts) - set(known))
    for name in [*known[:2], *others, *known[2:]]:
        print(f"{name:<18}{tally.counts[name]:>8}")
    return not any(tally.counts[name] for name in WRONG)


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        port, url = sys.argv[2:]
        uvicorn.run(make_app(url), port=int(port), log_level="error", access_log=False)
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["redis", "postgres"], default="redis")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as directory,
        running(options.store, Path(directory)) as server,
        contextlib.ExitStack() as stack,
    ):
        log = Path(directory) / "workers.log"
        workers = [Worker(server.url, log) for _ in range(options.workers)]
        for worker in workers:
            stack.callback(worker.kill)
            worker.start()
        tally = asyncio.run(soak(server, workers, options.seconds, options.clients))
    return 0 if report(tally) else 1


if __name__ == "__main__":
    sys.exit(main())
