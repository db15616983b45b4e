"""After a merge the data that a request holds is the data that the store holds, for every model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from fastapi import Depends, WebSocket
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PrivateAttr,
    RootModel,
    model_serializer,
    model_validator,
)
from starlette.testclient import TestClient

from fastapi_async_sessions import MemoryStore
from tests.apps import make_app, make_provider
from tests.races import Client
from tests.test_merged_sessions import Shops, Turning, shops, turning

__all__ = ["shops"]  # a fixture


class Root(RootModel[dict[str, int]]):
    root: dict[str, int] = {}


class RootList(RootModel[list[str]]):
    root: list[str] = []


class Values(BaseModel):
    """Written as the values alone."""

    values: dict[str, int] = {}

    @model_validator(mode="before")
    @classmethod
    def from_values(cls, data: Any) -> Any:
        return data if "values" in data else {"values": data}

    @model_serializer
    def to_values(self) -> dict[str, int]:
        return self.values


class Crossed(BaseModel):
    """Written under the names of each other's fields."""

    a: dict[str, int] = {}
    b: dict[str, int] = {}

    @model_validator(mode="before")
    @classmethod
    def cross(cls, data: Any) -> Any:
        return {"a": data["b"], "b": data["a"]} if data else data

    @model_serializer
    def crossed(self) -> dict[str, Any]:
        return {"a": self.b, "b": self.a}


class Hidden(BaseModel):
    """Written from a private attribute."""

    name: str = ""
    _values: dict[str, int] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def unpack(cls, data: Any, handler: Any) -> Any:
        if isinstance(data, cls):
            return data
        model = handler({"name": data.get("name", "")})
        model._values = dict(data.get("values", {}))
        return model

    @model_serializer
    def pack(self) -> dict[str, Any]:
        return {"name": self.name, "values": self._values}


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    values: dict[str, int] = {}


@dataclass
class Part:
    values: dict[str, int] = field(default_factory=dict[str, int])


class Parts(BaseModel):
    part: Part = Part()


def put(values: Any, name: str) -> None:
    values[name] = 1


# a model, and how a request gives it another value
MODELS: dict[str, tuple[Any, Callable[[Any, str], Any]]] = {
    "RootModel of a dict": (Root, lambda data, name: put(data.root, name)),
    "RootModel of a list": (RootList, lambda data, name: data.root.append(name)),
    "root serializer": (Values, lambda data, name: put(data.values, name)),
    "fields written crosswise": (Crossed, lambda data, name: put(data.a, name)),
    "private attribute": (Hidden, lambda data, name: put(data._values, name)),
    "extra fields": (Open, lambda data, name: setattr(data, name, 1)),
    "frozen": (Frozen, lambda data, name: put(data.values, name)),
    "dataclass": (Parts, lambda data, name: put(data.part.values, name)),
}


@pytest.mark.parametrize("is_assigned", [False, True], ids=["changed in place", "assigned"])
@pytest.mark.parametrize(("model", "change"), MODELS.values(), ids=MODELS.keys())
async def test_a_commit_after_a_merge_keeps_what_another_request_stored(
    shops: Shops, model: Any, change: Callable[[Any, str], Any], is_assigned: bool
) -> None:
    """The data stays one object, which shows what is stored and is committed again."""
    begin = model()
    change(begin, "before")
    key = await shops.begin(begin)
    get_session = shops.provider(model)
    async with get_session.open(key) as ours:
        if is_assigned:
            ours.data = type(ours.data).model_validate_json(ours.data.model_dump_json())
        data = ours.data
        async with get_session.open(key) as theirs:
            change(theirs.data, "theirs")
        change(data, "ours")
        await ours.commit()
        assert ours.data is data
        async with get_session.open(key) as stored:
            assert data.model_dump_json() == stored.data.model_dump_json()
        change(ours.data, "again")
    async with get_session.open(key) as session:
        written = session.data.model_dump_json()
    assert [written.count(f'"{name}"') for name in ("before", "theirs", "ours", "again")] == [1] * 4


class Held(BaseModel):
    tags: set[Turning] = set()
    names: list[str] = []
    part: Part = Part()
    visits: int = 0


async def test_a_value_that_only_this_request_has_is_the_same_object_after_a_merge(
    shops: Shops,
) -> None:
    """The route may hold a reference to it; a set may be in another order in the store."""
    key = await shops.begin(Held(tags=turning("ab")))
    get_session = shops.provider(Held)
    async with get_session.open(key) as ours:
        tags, names, part = ours.data.tags, ours.data.names, ours.data.part
        async with get_session.open(key) as theirs:
            theirs.data.visits = 1
        names.append("ours")
        await ours.commit()
        assert ours.data.visits == 1
        assert (ours.data.tags is tags, ours.data.names is names, ours.data.part is part) == (
            (True,) * 3
        )


class Growing(BaseModel):
    text: Annotated[str, AfterValidator(lambda text: text and text + "!")] = ""
    visits: int = 0


async def test_after_a_merge_the_data_is_what_the_next_request_reads(shops: Shops) -> None:
    """Also where a validator changes a value each time that it reads it."""
    key = await shops.begin(Growing(text="hello"))
    get_session = shops.provider(Growing)
    async with get_session.open(key) as ours:
        async with get_session.open(key) as theirs:
            theirs.data.visits = 1
        ours.data.text = "bye"
        await ours.commit()
        async with get_session.open(key) as session:
            assert session.data == ours.data == Growing(text="bye", visits=1)


class DictOrList(RootModel[dict[str, int] | list[int]]):
    root: dict[str, int] | list[int] = {}


async def test_a_root_to_which_another_request_gave_another_type_is_merged(shops: Shops) -> None:
    """Into a request that only renews its token."""
    client = Client(shops.provider(DictOrList))
    key = await client.sign_in()

    async def renew(session: Any) -> Any:
        assert session.data.root == {}
        async with client.provider.open(key) as theirs:
            theirs.data.root = [1]
        session.renew()
        await session.commit()
        return session.data.root

    assert (await client.request(renew)).value == [1]


def test_a_websocket_keeps_what_a_request_stored() -> None:
    """While it is open, whatever its model is."""
    app, get_session = make_app(), make_provider(MemoryStore(), Root)
    UserSession = Annotated[Any, Depends(get_session)]

    @app.post("/{name}")
    async def change(session: UserSession, name: str) -> None:
        session.data.root[name] = 1

    @app.get("/")
    async def read(session: UserSession) -> Any:
        return session.data.root

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, session: UserSession) -> None:
        await websocket.accept()
        async for name in websocket.iter_text():
            session.data.root[name] = 1
            await session.commit()
            await websocket.send_json(session.data.root)

    with TestClient(app, base_url="https://testserver") as client:
        client.post("/first")
        with client.websocket_connect("wss://testserver/ws") as websocket:
            for name in ("a", "b", "c"):
                client.post(f"/request-{name}")
                websocket.send_text(name)
                assert websocket.receive_json() == client.get("/").json()
        names = {"first", *"abc", "request-a", "request-b", "request-c"}
        assert client.get("/").json().keys() == names
