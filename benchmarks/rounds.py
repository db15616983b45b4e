"""Measures contenders in turns, so that a slow moment of the machine hits them all."""

import gc
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from statistics import quantiles

from tests.servers.redis import RedisServer

from .contenders import Contender
from .servers import Commands
from .work import PAGES, USERS, Answer, Failed, Request, Run, Send, check, session

SCENARIOS = ("no session", "read", "change", "sign in", "sign out")
CONTENDED = "one contended session"

# what a browser sends to a contender that sets no cookie: as many bytes as the others get
_STRANGER = "stranger=" + 40 * "0"

Opener = Callable[[Contender], AbstractAsyncContextManager[Send]]


@dataclass
class Figures:
    """What one way of calling gave: scenario -> contender -> one figure a round."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    p99: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    commands: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, scenario: str, name: str, run: Run) -> None:
        of_scenario = self.seconds.setdefault(scenario, {})
        of_scenario.setdefault(name, []).append(run.seconds / len(run.answers))
        slowest = quantiles(run.latencies, n=100)[-1]
        self.p99.setdefault(scenario, {}).setdefault(name, []).append(slowest)


@dataclass
class Participant:
    """A contender that runs, with hundreds of users who are signed in."""

    contender: Contender
    send: Send
    cookies: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter[str])
    visits: int = 0
    names: "count[int]" = field(default_factory=count)

    async def begin(self) -> None:
        """Check the work and sign the users in."""
        if not self.contender.is_baseline:
            await check(self.send, in_store=self.contender.in_store)
        await self.run("sign in", USERS + 1, 1)
        *self.cookies, self.shared = self.fresh

    async def run(self, scenario: str, number: int, width: int) -> Run:
        """So many requests of a scenario; each has to succeed."""
        run = await self.send(self._requests(scenario, number), width)
        refused = [answer for answer in run.answers if answer.status != 200]
        if refused:
            raise Failed(f"{scenario}: {len(refused)} of {number} failed, {_shown(refused[0])}")
        if scenario == "sign in":
            self.fresh = [answer.cookie(_STRANGER) for answer in run.answers]
        return run

    def _requests(self, scenario: str, number: int) -> list[Request]:
        cookies = [self.cookies[n % USERS] for n in range(number)] if self.cookies else []
        match scenario:
            case "no session":
                return [Request("GET", "/plain", cookie) for cookie in cookies]
            case "read":
                return [Request("GET", "/read", cookie) for cookie in cookies]
            case "change":
                self.changes.update(cookies)
                return [Request("POST", "/change", cookie) for cookie in cookies]
            case "sign in":
                names = [f"user-{next(self.names)}" for _ in range(number)]
                return [Request("POST", f"/sign-in/{name}") for name in names]
            case "sign out":
                return [Request("POST", "/sign-out", cookie) for cookie in self.fresh]
            case _:
                self.visits += number
                pages = [n % PAGES for n in range(number)]
                return [Request("POST", f"/visit/p{page}", self.shared) for page in pages]

    async def verify(self) -> None:
        """Each change that was answered with 200 is there."""
        requests = [Request("GET", "/session", cookie) for cookie in self.changes]
        answers = (await self.send(requests, 1)).answers
        stored = [json.loads(answer.body)["data"]["count"] for answer in answers]
        if stored != list(self.changes.values()):
            raise Failed(f"of {self.changes.total()} changes {sum(stored)} are stored")

    async def kept(self) -> float:
        """Which share of the contended changes is stored."""
        data = (await session(self.send, self.shared))["data"]
        return sum(data["pages"].values()) / self.visits


async def measure(
    contenders: list[Contender],
    opened: Opener,
    *,
    width: int,
    rounds: int,
    seconds: float,
    redis: RedisServer,
) -> Figures:
    """All scenarios of all contenders, one after the other in each round."""
    figures = Figures()
    async with AsyncExitStack() as stack:
        field = [
            each
            for contender in contenders
            if (each := await _entered(stack, contender, opened, figures)) is not None
        ]
        sizes = {each.contender.name: await _sizes(each, width, seconds) for each in field}
        # in one process no contender shall pay for the objects of the others
        gc.freeze()
        for number in range(rounds):
            for scenario in SCENARIOS:
                for each in field[number % len(field) :] + field[: number % len(field)]:
                    name = each.contender.name
                    gc.collect()
                    run = await each.run(scenario, sizes[name][scenario], width)
                    figures.add(scenario, name, run)
            if width > 1:
                await _contend(field, figures, sizes, width)
        await _close(field, figures, width, redis)
    return figures


async def _entered(
    stack: AsyncExitStack, contender: Contender, opened: Opener, figures: Figures
) -> Participant | None:
    try:
        participant = Participant(contender, await stack.enter_async_context(opened(contender)))
        await participant.begin()
    except ImportError as error:
        figures.skipped[contender.name] = f"not installed ({error.name})"
    except Failed as error:
        figures.skipped[contender.name] = f"failed its check: {error}"
    else:
        return participant
    return None


async def _sizes(each: Participant, width: int, seconds: float) -> dict[str, int]:
    """How many requests of each scenario take about that long; warms up on the way."""
    sizes: dict[str, int] = {}
    for scenario in SCENARIOS:
        run = await each.run(scenario, USERS, width)
        sizes[scenario] = max(USERS, int(USERS * seconds / run.seconds))
    return sizes


async def _contend(
    field: list[Participant], figures: Figures, sizes: dict[str, dict[str, int]], width: int
) -> None:
    for each in field:
        name = each.contender.name
        if each.contender.in_store and not each.contender.is_baseline:
            # merging is the slower the more meet; a fraction tells as much
            number = max(PAGES, sizes[name]["change"] // 8)
            figures.add(CONTENDED, name, await each.run(CONTENDED, number, width))


async def _close(
    field: list[Participant], figures: Figures, width: int, redis: RedisServer
) -> None:
    for each in field:
        contender = each.contender
        if contender.uses_redis:
            figures.commands[contender.name] = {
                scenario: await _commands(each, scenario, width, redis) for scenario in SCENARIOS
            }
        if contender.in_store and not contender.is_baseline:
            await each.verify()
            if each.visits:
                figures.kept[contender.name] = await each.kept()


async def _commands(
    each: Participant, scenario: str, width: int, redis: RedisServer
) -> dict[str, float]:
    with Commands(redis) as commands:
        await each.run(scenario, USERS, width)
    return {name: calls / USERS for name, calls in commands.seen.items()}


def _shown(answer: Answer) -> str:
    return f"the first with {answer.status}: {answer.body[:200]!r}"
