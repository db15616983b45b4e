"""``request.session``: a live mapping onto one field of the data, for packages that want it."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from fastapi_async_sessions import (
    ConfigurationError,
    MemoryStore,
    Session,
    SessionRouteMiddleware,
    StoreUnavailable,
)
from fastapi_async_sessions.testing import FrozenClock

from .apps import SECRET, browser, cookie_value, make_app, make_provider, set_cookie_kind
from .doubles import SpyStore, before


class Data(BaseModel):
    count: int = 0
    extra: dict[str, Any] = {}


@pytest.fixture
def store(clock: FrozenClock) -> SpyStore:
    return SpyStore(MemoryStore(clock=clock))


@pytest.fixture
def get_session(store: SpyStore, clock: FrozenClock) -> Any:
    return make_provider(store, Data, clock=clock, request_session="extra")


def act(request: Request) -> dict[str, Any]:
    """Do what a package does, by the name in the query; and return what is there."""
    match request.query_params.get("do"):
        case "set":
            request.session["user"] = "ada"
        case "again":
            request.session["user"] = "bob"
        case "append":
            request.session.setdefault("flashes", []).append("saved")
        case "nested":
            request.session["flashes"][0] = "changed"
        case "pop":
            request.session.pop("user")
        case "update":
            request.session.update(user="ada", step=1)
        case "tuple":
            request.session["pair"] = (1, ("a", 2))
        case "clear":
            request.session.clear()
    return dict(request.session)


def in_a_route(get_session: Any) -> Any:
    app = make_app()

    @app.get("/", dependencies=[Depends(get_session)])
    async def home(request: Request) -> dict[str, Any]:
        return act(request)

    return app


async def page(request: Request) -> Response:
    return JSONResponse(act(request))


def in_a_mounted_application(get_session: Any) -> Any:
    app = FastAPI()
    inner = Starlette(routes=[Route("/", page)])
    app.mount("/", SessionRouteMiddleware(inner, request_session=get_session))
    return app


def in_a_packages_own_list(get_session: Any) -> Any:
    app = make_app()
    app.add_middleware(SessionRouteMiddleware)
    middleware = Middleware(SessionRouteMiddleware, request_session=get_session)
    app.mount("/", Starlette(routes=[Route("/", page)], middleware=[middleware]))
    return app


PLACES = [in_a_route, in_a_mounted_application, in_a_packages_own_list]


@pytest.mark.parametrize("place", PLACES)
async def test_a_package_reads_and_writes(get_session: Any, store: SpyStore, place: Any) -> None:
    """Also in place and nested, and a request costs one load."""
    async with browser(place(get_session)) as client:

        async def do(action: str) -> Any:
            return (await client.get("/", params={"do": action})).json()

        assert await do("append") == {"flashes": ["saved"]}
        assert await do("append") == {"flashes": ["saved", "saved"]}
        assert await do("nested") == {"flashes": ["changed", "saved"]}
        assert await do("update") == {"flashes": ["changed", "saved"], "user": "ada", "step": 1}
        assert await do("pop") == {"flashes": ["changed", "saved"], "step": 1}
        assert await do("tuple") == {
            "flashes": ["changed", "saved"],
            "step": 1,
            "pair": [1, ["a", 2]],
        }
        store.calls.clear()
        assert await do("read") == {
            "flashes": ["changed", "saved"],
            "step": 1,
            "pair": [1, ["a", 2]],
        }
        assert store.calls == ["load"]
        assert await do("clear") == await do("read") == {}


@pytest.mark.parametrize("place", PLACES)
async def test_a_planted_token_is_dead_after_a_packages_sign_in(
    get_session: Any, place: Any
) -> None:
    """A new key renews the token; a changed or removed one does not."""
    app = place(get_session)
    async with browser(app) as client:
        planted = cookie_value(await client.get("/?do=append"))
        async with browser(app, planted) as attacker:
            assert (await attacker.get("/")).json() == {"flashes": ["saved"]}
            signed_in = await client.get("/?do=set")
            assert set_cookie_kind(signed_in) == "sent"
            assert (await attacker.get("/")).json() == {}
        assert (await client.get("/")).json() == {"flashes": ["saved"], "user": "ada"}
        for action in ("again", "append", "pop", "read"):
            assert set_cookie_kind(await client.get(f"/?do={action}")) is None


async def test_the_mapping_follows_the_data(get_session: Any) -> None:
    """After ``destroy``, ``reload`` or an assignment it shows the new data."""
    app = make_app()

    @app.get("/{action}")
    async def home(
        action: str, request: Request, session: Annotated[Session[Data], Depends(get_session)]
    ) -> list[Any]:
        mapping = request.session
        mapping["a"] = 1
        match action:
            case "assign":
                session.data = Data(extra={"b": 2})
            case "destroy":
                await session.destroy()
            case "reload":
                await session.reload()
        assert repr(mapping) == f"<request.session of {session!r}>"
        return [dict(mapping), len(mapping), mapping == session.data.extra]

    async with browser(app) as client:
        assert (await client.get("/assign")).json() == [{"b": 2}, 1, True]
        assert (await client.get("/reload")).json() == [{"b": 2}, 1, True]
        assert (await client.get("/destroy")).json() == [{}, 0, True]


async def test_a_tuple_elsewhere_is_still_refused() -> None:
    """Only that one field is as loose as Starlette's session."""

    class Two(BaseModel):
        extra: dict[str, Any] = {}
        other: dict[str, Any] = {}

    get_session = make_provider(model=Two, request_session="extra")
    app = make_app()

    @app.get("/{field}")
    async def home(field: str, session: Annotated[Session[Two], Depends(get_session)]) -> None:
        getattr(session.data, field)["pair"] = (1, 2)

    async with browser(app) as client:
        assert (await client.get("/extra")).status_code == 200
        assert (await client.get("/other")).status_code == 500


def test_a_websocket_inside_has_it_too(get_session: Any) -> None:
    """A key that is added there renews nothing, for no cookie can be sent."""

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.session["user"] = "ada"
        await websocket.close()

    inner = Starlette(routes=[Route("/", page), WebSocketRoute("/ws", socket)])
    app = SessionRouteMiddleware(inner, request_session=get_session)
    client = TestClient(app, base_url="https://testserver")
    client.get("/?do=append")
    with client.websocket_connect("wss://testserver/ws") as websocket:
        websocket.receive()
    assert client.get("/").json() == {"flashes": ["saved"], "user": "ada"}


async def fail() -> None:
    raise StoreUnavailable("told to fail")


def test_a_session_that_cannot_be_loaded(get_session: Any, store: SpyStore) -> None:
    """A request gets the error as its response, and a handshake is denied."""
    client = TestClient(in_a_mounted_application(get_session), base_url="https://testserver")
    client.get("/?do=set")
    store.hook = before("load", fail)
    response = client.get("/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("wss://testserver/ws"):
        pass
    assert client.post("/", headers={"sec-fetch-site": "cross-site"}).status_code == 403


# configuration


class Wrong(BaseModel):
    plain: dict[str, int] = {}


@pytest.mark.parametrize("field", ["missing", "plain", 5])
def test_a_field_that_is_no_dict_of_anything(field: Any) -> None:
    """The error has the line to write."""
    with pytest.raises(ConfigurationError, match=r"write \w+: dict\[str, Any\] = {}"):
        make_provider(model=Wrong, request_session=field)


def test_a_middleware_with_a_provider_without_such_a_field() -> None:
    """The error comes when the application is built."""
    with pytest.raises(ConfigurationError, match=r'write SessionProvider\(..., request_session="'):
        SessionRouteMiddleware(FastAPI(), request_session=make_provider())


async def test_beside_a_session_middleware_of_starlette(get_session: Any) -> None:
    """It would write our data into its own cookie, so one of the two has to go."""
    app = in_a_route(get_session)
    app.add_middleware(SessionMiddleware, secret_key=SECRET)
    async with browser(app) as client:
        client._transport.raise_app_exceptions = True
        with pytest.raises(ConfigurationError, match="remove the middleware"):
            await client.get("/?do=set")


async def test_two_providers_with_request_session(get_session: Any) -> None:
    """The second one that a request uses is refused."""
    get_staff = make_provider(model=Data, name="staff", request_session="extra")
    app = make_app()
    app.get("/", dependencies=[Depends(get_session), Depends(get_staff)])(lambda: None)
    async with browser(app) as client:
        client._transport.raise_app_exceptions = True
        with pytest.raises(ConfigurationError, match="another provider"):
            await client.get("/")
