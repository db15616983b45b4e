"""The documents are correct: their programs run, their transcripts are true, their links work.

The ``python`` blocks of a page together, in order, form one module, which includes the new side of
each ``diff`` block: a reader who follows the page from the top has the same program. A block after
``<!-- excerpt: path -->`` is no part of it: it stands in that file, which is tested by itself. The
environment variables that the pages read are set here, and the templates that they show are there.
"""

import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

import fastapi_async_sessions
from benchmarks.report import PAGES as PAGES_WITH_FIGURES
from examples import quickstart
from fastapi_async_sessions import SessionProvider
from fastapi_async_sessions.testing import session_cookies
from tests.servers.asgi import serve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "examples/README.md").read_text()
SPEED = (ROOT / "benchmarks/README.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PAGES = {"README.md": README, "examples/README.md": GUIDE, "benchmarks/README.md": SPEED}
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob(".github/**/*.md")], key=str
)

START = (
    'python -m venv .venv && .venv/bin/pip install -e ".[examples]" '
    "&& .venv/bin/uvicorn examples.login:app --port 8000"
)
TEST = (
    'python -m venv .venv && .venv/bin/pip install -e ".[test]" '
    '&& .venv/bin/python -m pytest -m "not slow"'
)

_BLOCK = re.compile(
    r"(?:^<!-- excerpt: (?P<file>\S+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# not an image, and not within code
_LINK = re.compile(r"(?<!!)\[(?:[^\]`]|`[^`]*`)*\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")

each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages that are no excerpts."""
    return [
        _new_side(block["text"]) if block["language"] == "diff" else block["text"]
        for block in _BLOCK.finditer(page)
        if block["language"] in languages and block["file"] is None
    ]


def _new_side(diff: str) -> str:
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if not line.startswith("-"))


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = _BLOCK.sub("", page)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture
def page_path(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """A function that writes the program of a page, with what it needs, into a directory."""
    environment = {
        "SESSION_SECRET": "n3vxTq0uVbGJ5h1yQKpXfW8sLmZr2AtE",
        "SESSION_SECRET_NEW": "Yc7RkD4oPjS6gHwB9eUiNaM0lVxTzFq5",
        "SERVICE_TOKEN": "Q8tLr5JmWd2XcVb7ZnKf0GhYsPa4EuTi",
        "REDIS_URL": redis_url,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def write(page: str) -> Path:
        (tmp_path / "templates").mkdir()
        for name, text in re.findall(
            r"^`(templates/\S+)`:\n\n```html\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
        ):
            (tmp_path / name).write_text(text)
        path = tmp_path / "test_program.py"
        path.write_text("\n\n".join(blocks(page, "python", "diff")))
        return path

    return write


@pytest.fixture
def load(
    page_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ModuleType]:
    """A function that runs the program of a page and returns it as a module."""

    def load(page: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location("program", page_path(page))
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "program", module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def readme(load: Callable[[str], ModuleType]) -> ModuleType:
    return load(README)


@pytest.fixture
def guide(load: Callable[[str], ModuleType]) -> ModuleType:
    return load(GUIDE)


@pytest.fixture
def client(guide: ModuleType) -> Iterator[TestClient]:
    """A browser on the application of the guide."""

    async def create_tables() -> None:
        async with guide.engine.begin() as connection:
            await connection.run_sync(guide.Base.metadata.create_all)

    with TestClient(guide.app, base_url="https://testserver") as client:
        client.portal.call(create_tables)
        yield client
        # its lifespan closes the first store
        client.portal.call(guide.redis_store.aclose)
        client.portal.call(guide.engine.dispose)


def sign_in(client: TestClient, name: str = "ada", **form: str) -> Any:
    form |= {"name": name, "password": {"ada": "correct-horse", "bob": "battery-staple"}[name]}
    return client.post("/sign-in", data=form, follow_redirects=False)


# ---- README


def test_the_first_program_is_the_example() -> None:
    assert blocks(README, "python")[0] == (ROOT / "examples/quickstart.py").read_text()
    assert len(blocks(README, "python")[0].splitlines()) <= 30


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, GUIDE], ids=["README.md", "examples/README.md"])
def test_the_tests_in_a_page_pass(page: str, page_path: Callable[[str], Path]) -> None:
    # neither a plugin nor configuration is needed
    options = ["-q", "-p", "no:asyncio", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options]
    run = subprocess.run([*command, page_path(page)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout


def test_the_sign_in_of_the_readme(readme: ModuleType) -> None:
    with TestClient(readme.app, base_url="https://testserver") as client:
        assert client.get("/account").status_code == 401
        wrong = {"name": "ada", "password": "wrong"}
        assert client.post("/sign-in", json=wrong).status_code == 403
        client.post("/sign-in", json=wrong | {"password": "demo"})
        assert client.get("/account").json() == {"name": "ada"}
        assert client.post("/sign-out").status_code == 204
        assert client.get("/account").status_code == 401


def test_the_transcript_is_the_output_of_curl(tmp_path: Path) -> None:
    (transcript,) = [text for text in blocks(README, "console") if "curl" in text]
    shown = re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]
    assert shown[0] == "uvicorn main:app\n"
    with serve(quickstart.app) as url:
        for step in shown[1:]:
            command, _, output = step.partition("\n")
            arguments = shlex.split(command.replace("http://127.0.0.1:8000", url))
            run = subprocess.run(
                [*arguments, "--silent"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            )
            assert _masked(run.stdout) == _masked(output)


def _masked(text: str) -> str:
    text = re.sub(r"^date: .*$", "date: ...", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    text = re.sub(r"__Host-session=[\w-]{64}\.[\w-]{43};", "__Host-session=...;", text)
    return text.rstrip("\n")


def test_the_readme_has_the_start_and_test_commands() -> None:
    commands = "".join(blocks(README, "console"))

    assert f"$ {START}\n" in commands
    assert f"$ {TEST}\n" in commands


def test_an_index_shows_the_readme_without_what_it_cannot_show() -> None:
    """An index has no address for the other files, and no diagrams: links to files are plain words
    there, and pictures are left out. The programs stay as they are."""
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]
    settings = hooks["hooks"]["fancy-pypi-readme"]
    assert [fragment["path"] for fragment in settings["fragments"]] == ["README.md"]
    shown = README
    for substitution in settings["substitutions"]:
        shown = re.sub(substitution["pattern"], substitution["replacement"], shown)
    assert [link for link in _LINK.findall(shown) if not link.startswith("https://")] == []
    assert _IMAGE.findall(shown) == []
    assert "mermaid" not in shown
    assert "\n!" not in shown
    assert "<!--" not in shown
    assert "](" not in re.sub(r"\]\(https://", "", _BLOCK.sub("", shown))
    languages = ("python", "console")
    assert blocks(shown, *languages) == blocks(README, *languages)
    assert len(shown) > 0.8 * len(README)


# ---- the guide


def test_data_persists(client: TestClient) -> None:
    client.post("/cart/apple")

    assert client.post("/cart/bread").json() == ["apple", "bread"]


def test_readiness(client: TestClient) -> None:
    assert client.get("/ready").status_code == 200


def test_an_order_empties_the_cart(client: TestClient) -> None:
    client.post("/cart/apple")
    assert client.post("/orders").json() == 1
    assert client.get("/cart").json() == []


def test_an_order_that_fails_leaves_the_cart(
    client: TestClient, guide: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is committed first, in the route."""

    async def fail(self: Any) -> None:
        raise OSError("the disk is full")

    client.post("/cart/apple")
    monkeypatch.setattr(guide.AsyncSession, "commit", fail)
    with pytest.raises(OSError, match="disk"):
        client.post("/orders")
    assert client.get("/cart").json() == ["apple"]


def test_sign_in_and_out(client: TestClient) -> None:
    assert client.get("/account").status_code == 401
    wrong = {"name": "ada", "password": "wrong", "next": "/account?tab=2"}
    form = client.post("/sign-in", data=wrong).text
    assert "Wrong name or password." in form
    assert 'name="next" value="/account?tab=2"' in form
    assert client.get("/account").status_code == 401
    sign_in(client)
    assert client.get("/account").json() == {"name": "ada"}
    assert "Sign in" in client.post("/sign-out").text
    assert client.get("/account").status_code == 401


def test_a_browser_comes_back_to_its_page_and_another_client_gets_a_401(
    client: TestClient,
) -> None:
    """The query of the page is kept, and a page of another site is refused."""
    html = {"accept": "text/html,*/*"}
    redirected = client.get("/account?tab=2&q=a%20b", headers=html, follow_redirects=False)
    assert redirected.status_code == 303
    form = client.get(redirected.headers["location"])
    (target,) = re.findall(r'name="next" value="([^"]*)"', form.text)
    assert target == "/account?tab=2&amp;q=a%20b"
    signed_in = sign_in(client, next=target.replace("&amp;", "&"))
    assert signed_in.headers["location"] == "/account?tab=2&q=a%20b"
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil"):
        assert sign_in(client, next=elsewhere).headers["location"] == "/"
    client.post("/sign-out")
    assert client.get("/account").status_code == 401


def test_a_session_that_has_ended_is_said_to_have_expired(
    client: TestClient, guide: ModuleType
) -> None:
    sign_in(client)
    client.portal.call(guide.store.clear)
    page = client.get("/account", headers={"accept": "text/html"})
    assert "Your session has expired." in page.text


def test_templates_show_the_user_and_each_message_once(client: TestClient) -> None:
    assert "Sign in" in client.get("/").text
    sign_in(client)
    page = client.get("/").text
    assert ("ada <form" in page, page.count("Welcome, ada.")) == (True, 1)
    assert "Welcome" not in client.get("/").text


def test_only_the_staff_acts_as_a_user(client: TestClient) -> None:
    assert client.post("/staff/act-as/ada").status_code == 401
    assert client.get("/account").status_code == 401


def test_a_required_session(client: TestClient) -> None:
    assert client.get("/cart").status_code == 401
    client.post("/cart/apple")
    assert client.get("/cart").json() == ["apple"]


def test_staying_signed_in(client: TestClient) -> None:
    assert client.post("/stay-signed-in").status_code == 401
    sign_in(client)
    response = client.post("/stay-signed-in")

    # until the absolute end; the record has the idle one
    assert "Max-Age=2592000" in response.headers["set-cookie"]
    assert client.get("/account").json() == {"name": "ada"}


def test_two_kinds_of_session(client: TestClient) -> None:
    client.post("/cart/apple")
    assert client.post("/staff/note?text=hello").json() == ["hello"]
    assert client.post("/staff/note?text=again").json() == ["hello", "again"]
    assert set(client.cookies) == {"__Host-session", "__Secure-staff"}


def test_devices(client: TestClient, guide: ModuleType) -> None:
    with TestClient(guide.app, base_url="https://testserver") as phone:
        for device in (client, phone):
            sign_in(device)
        (other,) = [each for each in client.get("/devices").json() if not each["here"]]
        assert client.post(f"/devices/{other['key']}/end").json() is True
        assert phone.get("/account").status_code == 401
        sign_in(phone)
        assert client.post("/password", data={"password": "changed"}).json() == 1
        assert phone.get("/account").status_code == 401
        assert "wrong" in sign_in(phone).headers["location"]
        client.portal.call(guide.give_bonus, "ada")
        assert client.get("/cart").json() == ["bonus"]


def test_mounted_applications(client: TestClient) -> None:
    assert client.get("/admin/visits").text == "<p>Hello None"
    assert "__Host-session" in client.cookies
    assert client.get("/back-office/visits").status_code == 200


def test_a_front_end_on_another_origin(guide: ModuleType) -> None:
    """The browser lets the page read the response, and a third origin is refused."""
    with TestClient(guide.api, base_url="https://testserver") as client:
        headers = {"origin": guide.FRONT_END, "sec-fetch-site": "cross-site"}
        response = client.post("/cart/bread", headers=headers)
        assert response.json() == ["bread"]
        assert response.headers["access-control-allow-origin"] == guide.FRONT_END
        assert response.headers["access-control-allow-credentials"] == "true"
        headers["origin"] = "https://evil.example"
        assert client.post("/cart/bread", headers=headers).status_code == 403


def test_code_ported_from_other_libraries(client: TestClient) -> None:
    assert client.post("/fastapi-sessions/apple").status_code == 401
    assert client.post("/starlette/apple").json() == 1
    assert client.post("/fastapi-sessions/bread").json() == ["apple", "bread"]
    assert client.post("/redis-sdk/honey").json() == ["apple", "bread", "honey"]
    assert client.post("/starsessions/sign-in", data={"name": "ada"}).status_code == 200


async def test_sessions_move_to_another_store(load: Callable[[str], ModuleType]) -> None:
    """Users stay signed in with the cookies that they have, and are listed and revoked."""
    guide = load(GUIDE)

    def provider(store: Any) -> Any:
        return guide.SessionProvider(guide.UserData, store=store, secret_key=guide.SECRET_KEY)

    async with guide.Redis.from_url(os.environ["REDIS_URL"]) as redis:
        old, new = guide.RedisStore(redis), guide.sqlite_store
        before, after = provider(old), provider(new)
        data = guide.UserData(cart=["bread"])
        cookies = await session_cookies(before, data, subject="ada")
        await new.open()
        await guide.copy_sessions(redis, old, new)
    try:
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        headers = [(b"cookie", cookie.encode())]
        session = await after.peek({"type": "http", "method": "GET", "headers": headers})
        assert (session.subject, session.data) == ("ada", data)
        assert await after.revoke_all("ada") == 1
    finally:
        await new.aclose()


def test_a_migration_converts_older_data(guide: ModuleType) -> None:
    with pytest.raises(ValidationError) as invalid:
        guide.UserData.model_validate({"cart": "apple,bread"})

    migrated = guide.migrate({"cart": "apple,bread"}, invalid.value)

    assert migrated.cart == ["apple", "bread"]


def test_every_section_of_the_guide_is_in_its_contents() -> None:
    contents = GUIDE.partition("\n## ")[0]
    sections = re.findall(r"^## (.+)$", GUIDE, re.MULTILINE)
    assert [title for title in sections if f"[{title}](#" not in contents] == []


def test_all_settings_of_a_provider_are_in_the_guide() -> None:
    """With their defaults, in the order of the signature."""
    section = GUIDE.partition("\n## All settings\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|", section, re.MULTILINE)
    parameters = inspect.signature(SessionProvider).parameters
    assert [name for name, _ in rows] == list(parameters)
    for name, cell in rows:
        shown = cell.strip(" `")
        default = parameters[name].default
        if isinstance(default, timedelta):
            assert shown == f"{default.seconds} seconds"
        elif shown:
            assert eval(shown, vars(fastapi_async_sessions)) == default
        else:
            assert default is inspect.Parameter.empty


# ---- all documents


@each_page
def test_every_excerpt_stands_in_its_file(page: str) -> None:
    """It may be indented there, with other blank lines."""
    for block in _BLOCK.finditer(page):
        if block["file"] is not None:
            text = _without_blank_lines((ROOT / block["file"]).read_text())
            lines = _without_blank_lines(block["text"])
            assert any(indent(lines, " " * by) in text for by in (0, 4, 8)), lines


def _without_blank_lines(text: str) -> str:
    return re.sub(r"\n+", "\n", text)


@each_document
def test_every_link_works(document: Path) -> None:
    """It leads to a file of the repository, to a heading of a page, or to an address."""
    text = _BLOCK.sub("", document.read_text())
    for link in _LINK.findall(text) + _IMAGE.findall(text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_the_pages_with_figures_are_pages_that_are_tested() -> None:
    assert {str(page.relative_to(ROOT)) for page in PAGES_WITH_FIGURES} <= set(PAGES)


def test_the_newest_release_in_the_changelog_is_this_version() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)

    assert versions[0] == fastapi_async_sessions.__version__
