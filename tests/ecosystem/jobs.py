"""Tasks of Celery that change and end sessions: ``celery -A tests.ecosystem.jobs worker``.

``BROKER_URL`` is the address of the broker, ``STORES`` a JSON object with that of each store.
"""

import asyncio
import json
import os
from typing import Any

from celery import Celery

from ..apps import Line
from ..cli.shells import open_provider

celery_app = Celery("jobs", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])


def add_tasks(kind: str, get_session: Any) -> None:
    """Add the tasks of a provider, whose names begin with that of its kind of store."""

    async def add_bonus(name: str) -> int:
        found = await get_session.sessions(name)
        for each in found:
            async with get_session.open(each.key) as session:
                session.data.lines.append(Line(name="bonus"))
        return len(found)

    @celery_app.task(name=f"{kind}.give_bonus")
    def give_bonus(name: str) -> int:
        return asyncio.run(add_bonus(name))

    @celery_app.task(name=f"{kind}.end_sessions")
    def end_sessions(name: str) -> int:
        return asyncio.run(get_session.revoke_all(name))


for kind, url in json.loads(os.environ["STORES"]).items():
    add_tasks(kind, open_provider(kind, url))
