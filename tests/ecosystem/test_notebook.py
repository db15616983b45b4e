"""A notebook, whose kernel runs an event loop and awaits at the top level of a cell."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_async_sessions import MemoryStore
from fastapi_async_sessions.stores.service import session_service

from ..cli.shells import TOKEN
from ..servers.asgi import serve

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat

KINDS = ["memory", "redis", "sqlite", "postgresql", "http"]


class Notebook:
    """A notebook with a kernel of its own."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._cells = client.nb.cells

    def run(self, source: str) -> str:
        """Run a cell; the text of its last expression.

        Raises:
            CellExecutionError: it failed; the message has the traceback.
        """
        cell = nbformat.v4.new_code_cell(source)
        self._cells.append(cell)
        self._client.execute_cell(cell, len(self._cells) - 1)
        shown = [each["data"]["text/plain"] for each in cell.outputs if "data" in each]
        return shown[-1] if shown else ""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(), timeout=120, startup_timeout=120, kernel_name="python3"
    )
    with client.setup_kernel():
        yield Notebook(client)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A kind of store, and the address of an empty one."""
    match request.param:
        case "http":
            with serve(session_service(MemoryStore(), token=TOKEN)) as url:
                yield "http", url
        case "sqlite":
            yield "sqlite", f"sqlite+aiosqlite:///{tmp_path}/sessions.db"
        case "memory":
            yield "memory", ""
        case kind:
            yield kind, request.getfixturevalue({"redis": "redis_url"}.get(kind, "postgres_url"))


def test_cells_await_what_they_ask_for(notebook: Notebook, store: tuple[str, str]) -> None:
    """One cell after another, several calls at once, and a thread with a loop of its own."""
    notebook.run("import asyncio; from tests.cli.shells import open_provider")
    notebook.run("from fastapi_async_sessions.testing import session_cookies")
    kind, url = store
    notebook.run(f"get_session = open_provider({kind!r}, {url!r})")
    if kind in ("sqlite", "postgresql"):
        notebook.run("await get_session.repository.settings.store.create_table()")
    notebook.run("cookies = await session_cookies(get_session, subject='ada')")
    assert notebook.run("(each,) = await get_session.sessions('ada'); each.subject") == "'ada'"
    notebook.run("async with get_session.open(each.key) as session: session.data.count += 1")
    several = "asyncio.gather(*(get_session.sessions('ada') for _ in range(10)))"
    assert notebook.run(f"{{found.data.count for (found,) in await {several}}}") == "{1}"
    in_a_thread = "asyncio.to_thread(lambda: asyncio.run(get_session.sessions('ada')))"
    assert notebook.run(f"len(await {in_a_thread})") == "1"
    assert notebook.run("await get_session.revoke_all('ada')") == "1"
    assert notebook.run("await get_session.sessions('ada')") == "[]"
