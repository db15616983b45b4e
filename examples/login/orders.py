"""Orders of signed-in customers."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from fastapi_async_sessions import SessionRoute, utc_now

from .pages import RESPONSES, page, see_other
from .sessions import UserSession
from .shop import GOODS, total

router = APIRouter(
    prefix="/orders",
    route_class=SessionRoute,
    default_response_class=HTMLResponse,
    responses=RESPONSES,
)


@dataclass(frozen=True)
class Order:
    number: int
    customer: str
    lines: Counter[str]
    placed_at: datetime


# an application keeps them in its database: what must outlive a session is no part of it
orders: dict[int, Order] = {}


@router.post("")
async def place(request: Request, session: UserSession) -> RedirectResponse:
    if not session.data.cart:
        return see_other(request, "/cart")
    number = len(orders) + 1
    orders[number] = Order(number, session.subject, Counter(session.data.cart), utc_now())
    session.data.cart.clear()
    session.data.messages.append("Thank you for your order.")
    return see_other(request, f"/orders/{number}")


@router.get("/{number}")
async def order(request: Request, number: int, session: UserSession) -> HTMLResponse:
    found = orders.get(number)
    if found is None or found.customer != session.subject:
        raise HTTPException(404)
    return page(request, "order.html", session, order=found, goods=GOODS, total=total(found.lines))
