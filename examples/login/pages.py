"""Rendered pages and redirects."""

import re
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException

from fastapi_async_sessions import Session, utc_now

# how the routes respond beside 200, for OpenAPI
RESPONSES: dict[int | str, dict[str, Any]] = {
    303: {"description": "The next page, or the form for the sign-in."},
    400: {"description": "The form again, which says what is wrong."},
    403: {"description": "Wrong name or password, or a form of another site."},
    404: {"description": "There is no such page."},
}

EXPIRED = "Your session has expired. Please sign in again."

_ERRORS = {
    403: "This request came from another site. The shop has refused it, and nothing has changed.",
    404: "There is no such page. Perhaps it has moved, or the address has a typing error.",
    409: "The page was changed somewhere else at the same time. Please try again.",
    503: "The shop is not available right now. Please try again in a moment.",
}


def page(
    request: Request, template: str, session: Session[Any], status_code: int = 200, **values: Any
) -> HTMLResponse:
    """Render a page, and show the messages that are waiting in the session."""
    messages, session.data.messages = session.data.messages, []
    values |= {"session": session, "messages": messages, "path": own_url(request)}
    return templates.TemplateResponse(request, template, values, status_code)


def error_page(request: Request, error: HTTPException) -> HTMLResponse:
    """Render a page for an error. It uses no session, which may be what failed."""
    status = HTTPStatus(error.status_code)
    text = _ERRORS.get(status, "Something has gone wrong. Please try again later.")
    values = {"text": text, "phrase": status.phrase, "code": status.value}
    return templates.TemplateResponse(request, "error.html", values, status, error.headers)


def see_other(request: Request, path: str) -> RedirectResponse:
    """Redirect after a form, so that the browser requests the next page with GET."""
    return RedirectResponse(request.scope["root_path"] + path, status_code=303)


def own_url(request: Request) -> str:
    """Return path and query of a request, as they are without the path that the shop is under."""
    url = request.url
    path = url.path.removeprefix(request.scope["root_path"])
    return f"{path}?{url.query}" if url.query else path


def own_path(target: str) -> str:
    """Return a path of this shop with its query from a form, and ``/`` in place of anything else.

    Browsers take what begins with two slashes for another host, read a backslash as a slash, and
    leave out tabs and line breaks.
    """
    return target if re.fullmatch(r"/(?!/)[!-\[\]-~]*", target) else "/"


def _ago(moment: datetime) -> str:
    """Say how long ago something was."""
    passed = utc_now() - moment
    for unit in ("day", "hour", "minute"):
        count = passed // timedelta(**{f"{unit}s": 1})
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


# values are escaped for HTML; no page puts one into a script
templates = Jinja2Templates(Path(__file__).with_name("templates"))
templates.env.filters["ago"] = _ago
templates.env.filters["euros"] = "{:.2f} €".format
