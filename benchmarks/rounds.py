"""Measures contenders in turns, so that a slow moment of the machine affects all of them."""

import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from redis import Redis

from .contenders import Addresses, Contender
from .results import CONTENDED, SCENARIOS, Results
from .servers import counted_commands
from .wire import over_http
from .work import (
    PAGES,
    USERS,
    Answer,
    Failed,
    Request,
    Run,
    Send,
    check,
    requests_with,
    session,
    sign_ins,
)

WIDTH = 32

# sent to a contender that sets no cookie, so that it reads as many bytes as the others
_STRANGER = "stranger=" + 40 * "0"


@dataclass
class Participant:
    """A contender that is being served, with hundreds of users who are signed in."""

    contender: Contender
    send: Send
    sizes: dict[str, int] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter[str])
    visits: int = 0
    users: "count[int]" = field(default_factory=count)

    async def begin(self, seconds: float) -> None:
        """Check the work, sign the users in, and find how many requests take about that long."""
        if not self.contender.is_baseline:
            await check(self.send, in_store=self.contender.in_store)
        await self.run("sign in", USERS + 1)
        *self.cookies, self.shared = self.fresh
        for scenario in SCENARIOS:
            run = await self.run(scenario, USERS)
            self.sizes[scenario] = max(USERS, int(USERS * seconds / run.seconds))
        # merging takes longer the more requests overlap; fewer of them show that as well
        self.sizes[CONTENDED] = max(PAGES, self.sizes["change"] // 8)

    async def run(self, scenario: str, number: int = 0, width: int = WIDTH) -> Run:
        """That many requests of a scenario, or as many as were found; each has to succeed."""
        requests = self._requests(scenario, number or self.sizes[scenario])
        run = await self.send(requests, width)
        refused = [answer for answer in run.answers if answer.status != 200]
        if refused:
            raise Failed(f"{scenario}: {len(refused)} of {len(requests)}, {_shown(refused[0])}")
        if scenario == "sign in":
            self.fresh = [answer.cookie(_STRANGER) for answer in run.answers]
        return run

    def _requests(self, scenario: str, number: int) -> list[Request]:
        if scenario == "sign in":
            return sign_ins(next(self.users) for _ in range(number))
        if scenario == "sign out":
            return requests_with(self.fresh, scenario)
        if scenario == CONTENDED:
            self.visits += number
            pages = [n % PAGES for n in range(number)]
            return [Request("POST", f"/visit/p{page}", self.shared) for page in pages]
        cookies = [self.cookies[n % USERS] for n in range(number)]
        if scenario == "change":
            self.changes.update(cookies)
        return requests_with(cookies, scenario)

    async def verify(self) -> None:
        """Each change that was answered with 200 is there."""
        requests = [Request("GET", "/session", cookie) for cookie in self.changes]
        answers = (await self.send(requests, 1)).answers
        stored = [json.loads(answer.body)["data"]["count"] for answer in answers]
        if stored != list(self.changes.values()):
            raise Failed(f"of {self.changes.total()} changes {sum(stored)} are stored")

    async def kept(self) -> float:
        """The share of the contended changes that is stored."""
        data = (await session(self.send, self.shared))["data"]
        return sum(data["pages"].values()) / self.visits


async def measure(
    contenders: list[Contender],
    addresses: Addresses,
    results: Results,
    *,
    core: int,
    rounds: int,
    seconds: float,
    redis: Redis,
) -> None:
    """All scenarios of all contenders, one after the other in each round."""
    serve = partial(over_http, addresses=addresses, core=core, connections=WIDTH)
    async with AsyncExitStack() as stack:
        participants: list[Participant] = []
        for contender in contenders:
            print(f"{contender.name} ...", file=sys.stderr, flush=True)
            try:
                participant = Participant(
                    contender, await stack.enter_async_context(serve(contender))
                )
                await participant.begin(seconds)
            except Failed as error:
                results.skipped[contender.name] = f"failed its check: {error}"
            else:
                participants.append(participant)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} ...", file=sys.stderr, flush=True)
            await _round(participants, number, results)
        for participant in participants:
            await _close(participant, results, redis)


async def _round(participants: list[Participant], number: int, results: Results) -> None:
    first = number % len(participants)
    for scenario in (*SCENARIOS, CONTENDED):
        for each in participants[first:] + participants[:first]:
            shares_sessions = each.contender.in_store and not each.contender.is_baseline
            if scenario != CONTENDED or shares_sessions:
                results.add(scenario, each.contender.name, await each.run(scenario))


async def _close(participant: Participant, results: Results, redis: Redis) -> None:
    contender = participant.contender
    if contender.uses_redis:
        results.commands[contender.name] = {
            scenario: await _commands(participant, scenario, redis) for scenario in SCENARIOS
        }
    if contender.in_store and not contender.is_baseline:
        await participant.verify()
        results.kept[contender.name] = round(await participant.kept(), 4)


async def _commands(participant: Participant, scenario: str, redis: Redis) -> dict[str, float]:
    with counted_commands(redis) as seen:
        run = await participant.run(scenario, USERS)
    return {name: round(calls / len(run.answers), 2) for name, calls in sorted(seen.items())}


def _shown(answer: Answer) -> str:
    return f"the first with {answer.status}: {answer.body[:200]!r}"
