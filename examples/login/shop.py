"""The goods and the cart, for signed-in and anonymous visitors."""

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from fastapi_async_sessions import SessionRoute

from .pages import RESPONSES, own_path, page, see_other
from .sessions import AnySession
from .users import DEMO

router = APIRouter(
    route_class=SessionRoute, default_response_class=HTMLResponse, responses=RESPONSES
)

GOODS = {"apple": 0.60, "bread": 3.20, "cheese": 4.50, "honey": 5.90}


@router.get("/")
async def home(request: Request, session: AnySession) -> HTMLResponse:
    session.data.visits += 1
    return page(request, "home.html", session, goods=GOODS, demo=DEMO)


@router.get("/cart")
async def cart(request: Request, session: AnySession) -> HTMLResponse:
    lines = Counter(session.data.cart)
    return page(request, "cart.html", session, goods=GOODS, lines=lines, total=total(lines))


@router.post("/cart/{name}")
async def add(
    request: Request,
    name: str,
    session: AnySession,
    next: Annotated[str, Form()] = "/",  # noqa: A002
) -> RedirectResponse:
    if name not in GOODS:
        raise HTTPException(404)
    session.data.cart.append(name)
    session.data.messages.append(f"Added to your cart: {name}.")
    return see_other(request, own_path(next))


@router.post("/cart/{name}/remove")
async def remove(request: Request, name: str, session: AnySession) -> RedirectResponse:
    if name in session.data.cart:
        session.data.cart.remove(name)
    return see_other(request, "/cart")


def total(lines: Counter[str]) -> float:
    """Return the price of that many of each."""
    return sum(GOODS[name] * count for name, count in lines.items())
