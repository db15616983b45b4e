"""Error trackers: with the settings in the guide, no cookie and no data of a session is sent."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "examples/README.md").read_text()

# the SDK changes the frameworks for the whole process
PROGRAM = """
import json, sys
import sentry_sdk
from fastapi import Depends
from fastapi.testclient import TestClient
from sentry_sdk.transport import Transport
from fastapi_async_sessions import Session
from tests.apps import Data, Line, SECRET, make_app, make_provider

sent = []
class Kept(Transport):
    def capture_envelope(self, envelope):
        sent.append(envelope)

options = eval(sys.argv[1])
sentry_sdk.init(dsn="https://key@localhost/1", transport=Kept, **options)
get_session = make_provider(max_bytes=600)
app = make_app(lifespan=get_session.lifespan)
card = "".join(map(str, [4111, 2222, 3333, 4444]))

@app.post("/set")
async def store(session: Session[Data] = Depends(get_session)) -> None:
    session.renew(subject="ada-the-subject")
    session.data.lines = [Line(name=card)]

@app.post("/fails")
async def fail(session: Session[Data] = Depends(get_session)) -> None:
    data = session.data
    raise RuntimeError

@app.post("/large")
async def grow(session: Session[Data] = Depends(get_session)) -> None:
    session.data.lines = [Line(name=card * 100)]

@app.post("/wrong")
async def confuse(session: Session[Data] = Depends(get_session)) -> None:
    session.data.count = card

found = {}
with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
    client.post("/set")
    cookie = client.cookies["__Host-session"]
    secrets = [cookie, cookie.partition(".")[0], card, "ada-the-subject", SECRET]
    for path in ("/fails", "/large", "/wrong"):
        sent.clear()
        assert client.post(path).status_code == 500
        text = "".join(each.serialize().decode() for each in sent)
        found[path] = [len(sent) > 0, *(secret in text for secret in secrets)]
print(json.dumps(found))
"""


OUTAGE = """
import json, sys
import sentry_sdk
from fastapi import Depends
from fastapi.testclient import TestClient
from sentry_sdk.transport import Transport
from fastapi_async_sessions import (
    MemoryStore, Session, SessionInvalid, SessionTooLarge, StoreUnavailable
)
from tests.apps import Data, Line, make_app, make_provider

sent = []
class Kept(Transport):
    def capture_envelope(self, envelope):
        sent.extend(item.payload.json for item in envelope.items if item.type == "event")

class Failing(MemoryStore):
    is_down = False
    async def load(self, key):
        if self.is_down:
            raise OSError
        return await super().load(key)

sentry_sdk.init(dsn="https://key@localhost/1", transport=Kept, **eval(sys.argv[1]))
store = Failing()
get_session = make_provider(store, max_bytes=600)
app = make_app()

@app.post("/count")
async def count(session: Session[Data] = Depends(get_session)) -> None:
    session.data.count += 1

@app.post("/large")
async def grow(session: Session[Data] = Depends(get_session)) -> None:
    session.data.lines = [Line(name="x" * 1000)]

found = {}
with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
    client.post("/count")
    for path, status in (("/large", 500), ("/count", 503), ("/count", 503), ("/count", 503)):
        store.is_down = status == 503
        assert client.post(path).status_code == status
        found.setdefault(path, []).extend(each.get("logger") for each in sent)
        sent.clear()
print(json.dumps(found))
"""


def reported(options: str, program: str = PROGRAM) -> dict[str, list[Any]]:
    """What a program found out about each of its paths."""
    done = subprocess.run(
        [sys.executable, "-c", program, options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_the_settings_in_the_guide_keep_cookies_and_data_out_of_sentry() -> None:
    """Every failure is still reported."""
    (settings,) = re.findall(r"sentry_sdk\.init\(dsn=\.\.\., (.*)\)", GUIDE)
    found = reported(f"dict({settings})")
    assert list(found) == ["/fails", "/large", "/wrong"]
    assert all(each == [True, *[False] * 5] for each in found.values()), found


@pytest.mark.slow
def test_without_them_sentry_gets_local_variables() -> None:
    """The settings are needed: cookies and data are in them, though never a configured secret."""
    found = reported("{}")
    _, cookie, _, data, _, secret = found["/fails"]
    assert (cookie, data, secret) == (True, True, False)


OURS = "fastapi_async_sessions"


@pytest.mark.slow
def test_an_outage_is_one_report_if_sentry_ignores_errors_that_are_logged() -> None:
    """The log has each outage once, and each refused commit; by default the answers come too."""
    by_default = reported("{}", OUTAGE)
    ignored = reported(
        "dict(ignore_errors=[StoreUnavailable, SessionInvalid, SessionTooLarge])", OUTAGE
    )
    assert by_default == {"/large": [OURS, None], "/count": [OURS, None, None, None]}
    assert ignored == {"/large": [OURS], "/count": [OURS]}
