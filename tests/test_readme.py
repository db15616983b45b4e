"""The README is correct: its programs run, its transcript is that of curl, its links work.

All ``python`` blocks together, in order, form one module, which includes the new side of each
``diff`` block: a reader who follows the page from the top has the same program. The environment
variables that the page reads are set here.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

import fastapi_async_sessions
from examples import quickstart
from tests.servers.asgi import serve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()

START = (
    'python -m venv .venv && .venv/bin/pip install -e ".[examples]" '
    "&& .venv/bin/uvicorn examples.login:app --port 8000"
)
TEST = 'python -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest'


def blocks(*languages: str) -> list[str]:
    fenced = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [
        _new_side(code) if kind == "diff" else code for kind, code in fenced if kind in languages
    ]


def _new_side(diff: str) -> str:
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if not line.startswith("-"))


@pytest.fixture
def program_path(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    environment = {
        "SESSION_SECRET": "n3vxTq0uVbGJ5h1yQKpXfW8sLmZr2AtE",
        "SESSION_SECRET_NEW": "Yc7RkD4oPjS6gHwB9eUiNaM0lVxTzFq5",
        "SERVICE_TOKEN": "Q8tLr5JmWd2XcVb7ZnKf0GhYsPa4EuTi",
        "REDIS_URL": redis_url,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "test_program.py"
    path.write_text("\n\n".join(blocks("python", "diff")))
    return path


@pytest.fixture
def program(program_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the page consists of."""
    spec = importlib.util.spec_from_file_location("program", program_path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "program", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(program: ModuleType) -> Iterator[TestClient]:
    with TestClient(program.app, base_url="https://testserver") as client:
        yield client
        client.portal.call(program.redis_store.aclose)  # its lifespan closes the first store


def test_the_first_program_is_the_example() -> None:
    assert blocks("python")[0] == (ROOT / "examples/quickstart.py").read_text()
    assert len(blocks("python")[0].splitlines()) <= 30


@pytest.mark.slow
def test_the_tests_in_the_page_pass(program_path: Path) -> None:
    # neither a plugin nor configuration is needed
    options = ["-q", "-p", "no:asyncio", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options]
    run = subprocess.run([*command, program_path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout


def test_data_persists(client: TestClient) -> None:
    client.post("/cart/apple")

    assert client.post("/cart/bread").json() == ["apple", "bread"]


def test_sign_in_and_out(client: TestClient) -> None:
    assert client.get("/account").status_code == 401
    assert client.post("/sign-in?name=ada&password=wrong").status_code == 403
    client.post("/sign-in?name=ada&password=demo")
    assert client.get("/account").json() == {"name": "ada"}
    assert client.post("/sign-out").status_code == 204
    assert client.get("/account").status_code == 401


def test_only_the_staff_acts_as_a_user(client: TestClient) -> None:
    assert client.post("/staff/act-as/ada").status_code == 401
    assert client.get("/account").status_code == 401


def test_a_required_session(client: TestClient) -> None:
    assert client.get("/cart").status_code == 401
    client.post("/cart/apple")
    assert client.get("/cart").json() == ["apple"]


def test_remember_me(client: TestClient) -> None:
    response = client.post("/sign-in-and-stay?name=ada")

    # until the absolute end; the record has the idle one
    assert "Max-Age=2592000" in response.headers["set-cookie"]


def test_two_kinds_of_session(client: TestClient) -> None:
    client.post("/cart/apple")
    assert client.post("/staff/note?text=hello").json() == ["hello"]
    assert client.post("/staff/note?text=again").json() == ["hello", "again"]
    assert set(client.cookies) == {"__Host-session", "__Secure-staff"}


def test_devices(client: TestClient, program: ModuleType) -> None:
    with TestClient(program.app, base_url="https://testserver") as phone:
        for device in (client, phone):
            device.post("/sign-in?name=ada&password=demo")
        (other,) = [each for each in client.get("/devices").json() if not each["here"]]
        assert client.post(f"/devices/{other['key']}/end").json() is True
        assert phone.get("/account").status_code == 401
        phone.post("/sign-in?name=ada&password=demo")
        assert client.post("/password").json() == 1
        assert phone.get("/account").status_code == 401
        client.portal.call(program.give_bonus, "ada")
        assert client.get("/cart").json() == ["bonus"]


def test_readiness(client: TestClient) -> None:
    assert client.get("/ready").status_code == 200


def test_code_ported_from_other_libraries(client: TestClient, program: ModuleType) -> None:
    assert client.post("/fastapi-sessions/apple").status_code == 401
    assert client.post("/starlette/apple").json() == 1
    assert client.post("/fastapi-sessions/bread").json() == ["apple", "bread"]
    assert client.post("/starsessions/sign-in?name=ada").status_code == 200


def test_a_migration_converts_older_data(program: ModuleType) -> None:
    with pytest.raises(ValidationError) as invalid:
        program.UserData.model_validate({"cart": "apple,bread"})

    migrated = program.migrate({"cart": "apple,bread"}, invalid.value)

    assert migrated.cart == ["apple", "bread"]


def test_the_transcript_is_the_output_of_curl(tmp_path: Path) -> None:
    (transcript,) = [text for text in blocks("console") if "curl" in text]
    shown = re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]
    assert shown[0] == "uvicorn examples.quickstart:app\n"
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
                timeout=60,
            )
            assert _masked(run.stdout) == _masked(output)


def _masked(text: str) -> str:
    text = re.sub(r"^date: .*$", "date: ...", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    text = re.sub(r"__Host-session=[\w-]{64}\.[\w-]{43};", "__Host-session=...;", text)
    return text.rstrip("\n")


def test_the_page_has_the_start_and_test_commands() -> None:
    commands = "".join(blocks("console"))

    assert f"$ {START}\n" in commands
    assert f"$ {TEST}\n" in commands


def test_every_link_to_a_file_works() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)

    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_link_to_a_section_works() -> None:
    titles = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    linked = set(re.findall(r"\]\(#([^)]+)\)", README))

    assert linked <= anchors
    sections = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert [title for title in sections if f"[{title}](#" not in README] == []


def test_the_newest_release_in_the_changelog_is_this_version() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)

    assert versions[0] == fastapi_async_sessions.__version__
