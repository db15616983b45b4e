"""A route that gets its sessions itself behaves as if FastAPI had solved all its dependencies."""

import asyncio
import functools
import importlib.util
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from inspect import Parameter, Signature
from typing import Annotated, Any

import fastapi.routing
import httpx
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Request,
    Response,
    Security,
)
from fastapi.dependencies.utils import get_parameterless_sub_dependant, solve_dependencies
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span
from starlette.requests import HTTPConnection

from fastapi_async_sessions import (
    MemoryStore,
    Session,
    SessionProvider,
    SessionRoute,
    SessionRouteMiddleware,
    StoreUnavailable,
)
from fastapi_async_sessions._web import fast_path
from fastapi_async_sessions.lifetime import utc_now
from fastapi_async_sessions.testing import FrozenClock

from .apps import PATIENT, SECRET, Data, Line, browser, make_app, make_provider
from .doubles import SpyStore, StoreCall
from .generated import cases

HAS_TELEMETRY = importlib.util.find_spec("fastapi.telemetry") is not None


class Between(APIRoute):
    """A route class below ``SessionRoute``, between it and FastAPI."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return super().get_route_handler()


class SolvedByFastAPI(SessionRoute, Between):
    """A session route without a fast path."""


class OwnProvider(SessionProvider[Data]):
    """A provider of a class that gets sessions in a way of its own."""

    log: list[Any]

    async def __call__(self, connection: HTTPConnection) -> Session[Data]:
        self.log.append("own provider")
        return await super().__call__(connection)


@dataclass(frozen=True)
class Shape:
    """A route: the names of its dependencies and parameters, and what its endpoint is and does."""

    parameters: tuple[str, ...] = ()
    on_route: tuple[str, ...] = ()
    on_router: tuple[str, ...] = ()
    on_app: tuple[str, ...] = ()
    kind: str = "async"
    action: str = "read"
    is_included: bool = False


@dataclass
class Site:
    """An application with one such route, and all that happens in it, in order."""

    shape: Shape
    route_class: type[APIRoute]
    log: list[Any] = field(default_factory=list)
    is_down: bool = False
    clock: FrozenClock = field(default_factory=FrozenClock)
    was_solving: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.get_session = self._provider(SessionProvider, "session")
        self.get_staff = self._provider(SessionProvider, "staff")
        self.get_own = self._provider(OwnProvider, "own")
        self.get_own.log = self.log
        self.dependencies = self._dependencies()
        self.app = FastAPI(dependencies=self._named(self.shape.on_app))
        self.app.exception_handler(RequestValidationError)(self._show_error)
        self.app.router.route_class = self.route_class
        self.app.post("/cookies/{name}")(self._sign_in)
        router = APIRouter(route_class=self.route_class) if self.shape.is_included else self.app
        path = "/route/{item}" if "item" in self.shape.parameters else "/route"
        for method in ("GET", "POST"):
            router.add_api_route(
                path,
                self._endpoint(),
                methods=[method],
                name=method,
                dependencies=self._named(self.shape.on_route),
            )
        if self.shape.is_included:
            inclusion = self._named(self.shape.on_router)
            self.app.include_router(router, prefix="/in", dependencies=inclusion)

    def _provider(self, provider: type[SessionProvider[Any]], name: str) -> Any:
        store = SpyStore(MemoryStore(clock=self.clock), self._receive)
        return provider(
            Data,
            store=store,
            secret_key=SECRET,
            name=name,
            clock=self._now,
            on_event=lambda event: self.log.append((event.kind, event.provider)),
            **PATIENT,
        )

    def _now(self) -> datetime:
        # a session that is being loaded asks for the time
        self.was_solving.append(is_running(solve_dependencies))
        return self.clock()

    async def _receive(self, call: StoreCall) -> Any:
        self.log.append(call.verb)
        if self.is_down:
            raise StoreUnavailable("told to fail")
        return await call.pass_on()

    async def _show_error(self, request: Request, error: Any) -> Response:
        return PlainTextResponse(str(error), 422)

    async def _sign_in(self, name: str, request: Request) -> None:
        for get_session in (self.get_session, self.get_staff):
            session = await get_session(request)
            session.data.count = 1
            if name == "signed in":
                session.renew(subject="ada")

    def _named(self, names: Iterable[str]) -> list[Any]:
        return [self.dependencies[name] for name in names]

    def _dependencies(self) -> dict[str, Any]:
        log, get_session = self.log, self.get_session
        Mine = Annotated[Session[Data], Depends(get_session)]

        async def reader(session: Mine) -> int:
            log.append(("reader", session.subject))
            return session.data.count

        def sync_reader(session: Mine, q: int = 0) -> int:
            log.append(("sync reader", session.subject, q))
            return q

        async def leaver(session: Mine) -> None:
            log.append("leaver")
            if session.subject is not None:
                session.destroy()

        async def checker(session: Annotated[Any, Depends(get_session.required)]) -> None:
            log.append("checker")

        async def yielder() -> AsyncIterator[str]:
            log.append("opened")
            yield "yielded"
            log.append("closed")

        async def refuser(request: Request, response: Response, tasks: BackgroundTasks) -> None:
            log.append("refuser")
            response.headers["x-refuser"] = "was here"
            tasks.add_task(log.append, "task of a dependency")
            if request.method == "GET":
                raise HTTPException(418)

        return {
            "session": Depends(get_session),
            "again": Depends(get_session),
            "required": Depends(get_session.required),
            "user": Depends(get_session.signed_in()),
            "recent": Depends(get_session.signed_in(within=timedelta(minutes=5))),
            "staff": Depends(self.get_staff),
            "staff_user": Depends(self.get_staff.signed_in()),
            "own": Depends(self.get_own),
            "own_user": Depends(self.get_own.required),
            "uncached": Depends(get_session, use_cache=False),
            "uncached_user": Depends(get_session.signed_in(), use_cache=False),
            "scoped": Security(get_session, scopes=["all"]),
            "scoped_user": Security(get_session.required, scopes=["all"]),
            "in_function": Depends(get_session, scope="function"),
            "reader": Depends(reader),
            "sync_reader": Depends(sync_reader),
            "leaver": Depends(leaver),
            "checker": Depends(checker),
            "yielder": Depends(yielder),
            "refuser": Depends(refuser),
        }

    def _endpoint(self) -> Callable[..., Any]:
        annotations = {"item": int, "q": int, "body": Line, **SPECIAL}
        annotations["header"] = Annotated[int, Header()]
        annotations["cookie"] = Annotated[str, Cookie()]
        annotations["form"] = Annotated[str, Form()]
        defaults = {name: self.dependencies.get(name, Parameter.empty) for name in ALL_PARAMETERS}
        signature = Signature(
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                annotation=annotations.get(name, Any),
                default=defaults[name],
            )
            for name in self.shape.parameters
        )
        return KINDS[self.shape.kind](self._act, signature)

    def _act(self, values: dict[str, Any]) -> Any:
        # keyword arguments are in no order that an endpoint with named parameters could see
        values = {name: values[name] for name in sorted(values)}
        sessions = {name: each for name, each in values.items() if isinstance(each, Session)}
        shown = {name: self._shown(each) for name, each in values.items()}
        self.log.append(("endpoint", shown, len({id(each) for each in sessions.values()})))
        if "tasks" in values:
            values["tasks"].add_task(self.log.append, "task")
        if "response" in values:
            values["response"].headers["x-endpoint"] = "was here"
            values["response"].status_code = 202
        if self.shape.action == "refuse":
            raise HTTPException(409)
        if self.shape.action == "fail":
            raise RuntimeError("told to fail")
        for session in sessions.values():
            if self.shape.action == "change":
                session.data.count += 1
            elif self.shape.action == "sign in":
                session.renew(subject="grace")
            elif self.shape.action == "sign out" and not session.is_new:
                session.destroy()
        return shown

    def _shown(self, value: Any) -> Any:
        if isinstance(value, Session):
            return [value.subject, value.data.count, value.is_new, value.is_detached]
        if isinstance(value, Line):
            return value.name
        return value if isinstance(value, str | int | None) else type(value).__name__

    async def answers(self, requests: Iterable[str]) -> list[Any]:
        """What each request led to, without the random values."""
        async with browser(self.app) as client:
            self.cookies = {
                name: await self._cookies_of(client, name) for name in ("anonymous", "signed in")
            }
            return [await self._answer(client, name) for name in requests]

    async def _cookies_of(self, client: httpx.AsyncClient, name: str) -> str:
        answer = await client.post(f"/cookies/{name}")
        client.cookies.clear()
        each = answer.headers.get_list("set-cookie")
        return "; ".join(header.partition(";")[0] for header in each)

    async def _answer(self, client: httpx.AsyncClient, name: str) -> Any:
        self.log.clear()
        self.was_solving.clear()
        self.is_down = name == "outage"
        self.app.dependency_overrides = {}
        if name == "overridden":
            self.app.dependency_overrides[self.get_session] = lambda: self.log.append("fake")
        answer = await client.send(client.build_request(**self._request(name)))
        client.cookies.clear()
        headers = [(key, without_random(value)) for key, value in answer.headers.multi_items()]
        return name, list(self.log), answer.status_code, headers, answer.text

    def _request(self, name: str) -> dict[str, Any]:
        is_bad = name == "bad parameters"
        url = "/in/route" if self.shape.is_included else "/route"
        if "item" in self.shape.parameters:
            url += "/bad" if is_bad else "/1"
        headers = {"cookie": "cookie=1; " * (not is_bad) + self.cookies["signed in"]}
        headers["header"] = "bad" if is_bad else "1"
        match name:
            case "anonymous":
                headers["cookie"] = "cookie=1; " + self.cookies["anonymous"]
            case "no cookie":
                headers["cookie"] = "cookie=1"
            case "forged":
                headers["cookie"] = f"cookie=1; __Host-session={'A' * 64}.{'A' * 43}"
            case "cross origin":
                headers["origin"] = "https://other.test"
        request = {"method": "POST", "url": url, "headers": headers}
        request["params"] = {} if is_bad else {"q": "1"}
        if name == "get":
            request["method"] = "GET"
        if name == "bad json":
            headers["content-type"] = "application/json"
            return {**request, "content": "{"}
        if "form" in self.shape.parameters:
            return {**request, "data": {} if is_bad else {"form": "1"}}
        if "body" in self.shape.parameters:
            return {**request, "json": {"name": 5 if is_bad else "1"}}
        return request


# kinds of endpoints


def _async(act: Any, signature: Signature) -> Any:
    async def endpoint(**values: Any) -> Any:
        return act(values)

    endpoint.__signature__ = signature
    return endpoint


def _sync(act: Any, signature: Signature) -> Any:
    def endpoint(**values: Any) -> Any:
        return act(values)

    endpoint.__signature__ = signature
    return endpoint


def _decorated(act: Any, signature: Signature) -> Any:
    inner = _async(act, signature)

    @functools.wraps(inner)
    async def outer(**values: Any) -> Any:
        return await inner(**values)

    return outer


def _partial(act: Any, signature: Signature) -> Any:
    return functools.partial(_async(act, signature))


def _object(act: Any, signature: Signature) -> Any:
    class Endpoint:
        def __call__(self, **values: Any) -> Any:
            return act(values)

    endpoint = Endpoint()
    endpoint.__signature__ = signature
    endpoint.__name__ = "endpoint"
    return endpoint


def _generator(act: Any, signature: Signature) -> Any:
    async def endpoint(**values: Any) -> Any:
        yield act(values)

    endpoint.__signature__ = signature
    return endpoint


KINDS: dict[str, Callable[..., Any]] = {
    "async": _async,
    "sync": _sync,
    "decorated": _decorated,
    "partial": _partial,
    "object": _object,
    "generator": _generator,
}
if importlib.util.find_spec("fastapi.sse") is None:  # this FastAPI streams from no generator
    del KINDS["generator"]

SESSIONS = ["session", "again", "required", "user", "recent", "staff", "staff_user"]
WITH_OPTIONS = ["scoped", "scoped_user", "in_function", "own", "own_user"]
OTHERS = [
    *WITH_OPTIONS,
    *("uncached", "uncached_user"),  # FastAPI ignores the option in dependencies=[...]
    *("reader", "sync_reader", "leaver", "checker", "yielder", "refuser"),
]
SPECIAL = {
    "request": Request,
    "connection": HTTPConnection,
    "response": Response,
    "tasks": BackgroundTasks,
}
BODIES = ["body", "form"]
ALL_PARAMETERS = [*SESSIONS, *OTHERS, *SPECIAL, *BODIES, "item", "q", "header", "cookie"]
REQUESTS = [
    *("no cookie", "anonymous", "signed in", "get", "forged", "cross origin", "bad parameters"),
    *("bad json", "overridden", "signed in", "outage"),
]


def is_running(function: Any) -> bool:
    """Whether this function is one of those that wait for the caller to return."""
    frame = sys._getframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def without_random(header: str) -> str:
    """A header's value without the token in it."""
    return re.sub(r"=[\w-]{64}\.[\w-]+", "=token", header)


def names(given: list[str], most: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(given), unique=True, max_size=most).map(tuple)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    first = draw(names(SESSIONS, 2))
    others = draw(names([each for each in ALL_PARAMETERS if each not in BODIES], 3))
    body = (draw(st.sampled_from(BODIES)),) if draw(st.integers(0, 4)) == 4 else ()
    anywhere = [*SESSIONS, *OTHERS]
    return Shape(
        parameters=tuple(dict.fromkeys((*first, *others, *body))),
        on_route=draw(names(anywhere, 2)),
        on_router=draw(names(SESSIONS, 1)),
        on_app=draw(names(anywhere, 1)) if draw(st.integers(0, 3)) == 3 else (),
        kind=draw(st.sampled_from(["async", "async", "async", *KINDS])),
        action=draw(st.sampled_from(["read", "change", "sign in", "sign out", "refuse", "fail"])),
        is_included=draw(st.booleans()),
    )


def same(shape: Shape) -> None:
    """Check that all requests to a route of this shape lead to the same with FastAPI alone."""
    # FastAPI keeps where an endpoint is defined under its id, which a later function can have
    getattr(fastapi.routing, "_endpoint_context_cache", {}).clear()
    quick, solved = Site(shape, SessionRoute), Site(shape, SolvedByFastAPI)
    assert quick.app.openapi() == solved.app.openapi()
    assert asyncio.run(quick.answers(REQUESTS)) == asyncio.run(solved.answers(REQUESTS))


@cases(400)
@given(shapes())
def test_it_makes_no_difference(shape: Shape) -> None:
    """Responses, events, store calls, the order in which all runs, and OpenAPI are FastAPI's."""
    same(shape)


QUICK = [
    Shape(("session",)),
    Shape(("session", "again")),
    Shape(("required",)),
    Shape(("user",)),
    Shape(("staff_user", "recent", "session")),
    Shape(("session", "reader", "yielder")),
    Shape(("session", "item", "q", "header", "cookie")),
    Shape(("session", "request", "response", "tasks")),
    Shape(("session",), kind="decorated"),
    Shape(("session",), is_included=True),
    Shape(("reader",), on_route=("user",)),
    Shape(on_router=("user",), is_included=True),
    Shape(on_app=("user",), is_included=True),
    Shape(("connection",), on_app=("user",)),
    *(Shape(("q",), on_route=("user",), kind=kind) for kind in KINDS),
]
SOLVED = [
    Shape(("reader", "session")),
    Shape(("session",), on_route=("reader",)),
    Shape(("session", "body")),
    Shape(("session", "form")),
    Shape(("session", "connection")),
    # the same check later, which FastAPI does not repeat
    Shape(("required", "leaver", "checker")),
    *(Shape((name,)) for name in (*WITH_OPTIONS, "uncached", "uncached_user")),
    *(Shape(on_route=(name,)) for name in WITH_OPTIONS),
    *(Shape(("session",), kind=kind) for kind in ("sync", "object", "generator") if kind in KINDS),
]


@pytest.mark.parametrize("shape", QUICK, ids=str)
def test_the_route_gets_its_own_sessions(shape: Shape) -> None:
    """Where they come first, FastAPI solves nothing for them."""
    same(shape)
    assert was_solving(shape, SessionRoute) is False
    assert was_solving(shape, SolvedByFastAPI) is True


@pytest.mark.parametrize("shape", SOLVED, ids=str)
def test_other_sessions_are_left_to_fastapi(shape: Shape) -> None:
    """Those with options, after other dependencies or a body, and those of other endpoints."""
    same(shape)
    assert was_solving(shape, SessionRoute) is True


def was_solving(shape: Shape, route_class: type[APIRoute]) -> bool:
    """Whether FastAPI was solving dependencies when the request got its first session."""
    site = Site(shape, route_class)
    asyncio.run(site.answers(["signed in"]))
    return site.was_solving[0]


# what changes later


def finished(shape: Shape = Shape(("session",))) -> tuple[Site, Any]:
    """A site with one route of this shape that has answered, and the dependencies of the route."""
    site = Site(shape, SessionRoute)
    asyncio.run(site.answers(["signed in"]))
    assert site.was_solving[0] is False
    (dependant,) = (route.dependant for route in site.app.routes if route.name == "POST")
    return site, dependant


def test_overrides_can_come_and_go() -> None:
    """An override that a test sets after the first request counts, until it is taken away."""
    site, _ = finished()
    before, during, after = asyncio.run(site.answers(["signed in", "overridden", "signed in"]))
    assert during[1][0] == "fake"
    assert before == after
    assert before[1][0] == "load"


def test_an_override_of_the_provider_reaches_what_requires_it() -> None:
    """The override of a provider is that of its requirements as well."""
    site, _ = finished(Shape(on_route=("required",)))
    (answer,) = asyncio.run(site.answers(["overridden"]))
    assert answer[1][0] == "fake"


def test_a_dependency_is_added_to_a_finished_route() -> None:
    """Some packages do this, for pagination for example."""
    site, dependant = finished()
    added = Depends(lambda: site.log.append("added"))
    dependant.dependencies.insert(
        0, get_parameterless_sub_dependant(depends=added, path=dependant.path)
    )
    (answer,) = asyncio.run(site.answers(["signed in"]))
    assert answer[1][:2] == ["added", "load"]


def test_the_endpoint_of_a_finished_route_is_replaced() -> None:
    """Some packages do this, to measure it."""
    site, dependant = finished()
    endpoint = dependant.call

    async def measured(**values: Any) -> Any:
        site.log.append("measured")
        return await endpoint(**values)

    dependant.call = measured
    (answer,) = asyncio.run(site.answers(["signed in"]))
    assert "measured" in answer[1]


# what else takes part


@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize("name", ["solve_dependencies", "run_endpoint_function"])
def test_tracers_see_everything(monkeypatch: pytest.MonkeyPatch, name: str, is_early: bool) -> None:
    """A function that a tracer puts into FastAPI sees the session and the endpoint.

    However early or late it does this.
    """
    original, seen = getattr(fastapi.routing, name), []

    async def traced(**arguments: Any) -> Any:
        seen.append(arguments["dependant"])
        return await original(**arguments)

    if is_early:
        monkeypatch.setattr(fastapi.routing, name, traced)
    site = Site(Shape(("session",)), SessionRoute)
    monkeypatch.setattr(fastapi.routing, name, traced)
    asyncio.run(site.answers(["signed in"]))
    (dependant,) = (route.dependant for route in site.app.routes if route.name == "POST")
    assert dependant in seen
    assert site.was_solving[0] is True


def test_error_trackers_know_the_request_before_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that wraps FastAPI's handlers is told of the request before the session is loaded."""
    original = fastapi.routing.get_request_handler

    def get_request_handler(**arguments: Any) -> Any:
        handler = original(**arguments)

        async def tracked(request: Request) -> Response:
            site.log.append("tracked")
            return await handler(request)

        return tracked

    monkeypatch.setattr(fastapi.routing, "get_request_handler", get_request_handler)
    site = Site(Shape(("session",)), SessionRoute)
    (log,) = [answer[1] for answer in asyncio.run(site.answers(["outage"]))]
    assert log[:2] == ["tracked", "load"]


@pytest.mark.skipif(not HAS_TELEMETRY, reason="this FastAPI has no telemetry")
def test_fastapi_traces_the_dependencies() -> None:
    """In an application with FastAPI's telemetry, a session is loaded within the span for them."""
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans: list[str | None] = []

    def now() -> datetime:
        spans.append(getattr(get_current_span(), "name", None))
        return utc_now()

    get_session = make_provider(clock=now)
    app = make_app(telemetry={"tracer_provider": provider})

    @app.get("/")
    async def read(session: Annotated[Session[Data], Depends(get_session)]) -> None:
        pass

    async def request() -> None:
        async with browser(app) as client:
            await client.get("/")

    spans.clear()
    asyncio.run(request())
    assert spans[0] == "fastapi.dependencies"
    assert [each.name for each in exporter.get_finished_spans()].count("fastapi.endpoint") == 1


def test_other_internals_of_fastapi(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a FastAPI that has other internals, all is left to it."""
    monkeypatch.setattr(fast_path, "_routing", object())
    assert was_solving(Shape(("session",)), SessionRoute) is True


class Timed(APIRoute):
    """A route class of a user or a package."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def timed(request: Request) -> Response:
            response = await handler(request)
            response.headers["x-timed"] = "yes"
            return response

        return timed


class TimedSession(Timed, SessionRoute):
    """One that is derived from ours as well."""


@pytest.mark.parametrize("is_included", [False, True])
@pytest.mark.parametrize(
    "route_class",
    [TimedSession, SessionRoute.convert(APIRouter(route_class=Timed)).route_class],
    ids=["derived", "converted"],
)
def test_own_route_classes(route_class: type[APIRoute], is_included: bool) -> None:
    """A route class derived from ours, or combined with it, runs around the session."""
    site = Site(Shape(("session",), is_included=is_included), route_class)
    ((_, log, status, headers, _),) = asyncio.run(site.answers(["signed in"]))
    assert (log[0], status) == ("load", 200)
    assert ("x-timed", "yes") in headers
    assert site.was_solving[0] is False


@pytest.mark.parametrize("route_class", [APIRoute, SessionRoute])
def test_inside_of_the_middleware(route_class: type[APIRoute]) -> None:
    """A session route has the fast path there too; other routes are FastAPI's alone."""
    site = Site(Shape(("session",), action="change"), route_class)
    site.app.add_middleware(SessionRouteMiddleware)
    (answer,) = asyncio.run(site.answers(["signed in"]))
    assert [each for each in answer[1] if isinstance(each, str)] == ["load", "save"]
    assert site.was_solving[0] is (route_class is APIRoute)
