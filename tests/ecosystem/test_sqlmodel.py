"""SQLModel: its session and ours in one route, each under the name that its tutorial gives it."""

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends
from pydantic import BaseModel

from fastapi_async_sessions import Session as WebSession

from ..apps import browser, make_app, make_provider

pytest.importorskip("sqlmodel")

from sqlalchemy.pool import StaticPool
from sqlmodel import Field, Session, SQLModel, create_engine


class Hero(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str


class UserData(BaseModel):
    heroes: list[int] = []


engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


get_user_session: Any = make_provider(model=UserData)

SessionDep = Annotated[Session, Depends(get_session)]
UserSession = Annotated[WebSession[UserData], Depends(get_user_session)]

app = make_app(lifespan=get_user_session.lifespan)


@app.post("/heroes/{name}")
def create_hero(name: str, session: SessionDep, user: UserSession) -> list[int]:
    hero = Hero(name=name)
    session.add(hero)
    session.commit()  # before the end of the route, which commits the user's session
    assert hero.id is not None
    user.data.heroes.append(hero.id)
    return user.data.heroes


@app.get("/heroes")
def heroes(session: SessionDep, user: UserSession) -> list[str]:
    return [hero.name for key in user.data.heroes if (hero := session.get(Hero, key))]


async def test_both_sessions_in_one_route() -> None:
    """The rows are in the database, and the session of the visitor knows their keys."""
    SQLModel.metadata.create_all(engine)
    async with browser(app) as ada, browser(app) as bob:
        await ada.post("/heroes/Deadpond")
        await bob.post("/heroes/Rusty-Man")
        assert (await ada.post("/heroes/Tarantula")).json() == [1, 3]
        assert (await ada.get("/heroes")).json() == ["Deadpond", "Tarantula"]
        assert (await bob.get("/heroes")).json() == ["Rusty-Man"]
