"""Rendered pages and redirects."""

import re
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from fastapi_async_sessions import Session

# how the routes respond beside 200, for OpenAPI
RESPONSES: dict[int | str, dict[str, Any]] = {
    303: {"description": "The next page, or the form for the sign-in."},
    400: {"description": "The form again, which says what is wrong."},
    403: {"description": "Wrong name or password, or a form of another site."},
    404: {"description": "There is no such page."},
}

EXPIRED = "Your session has expired. Please sign in again."

# values are escaped for HTML; no page puts one into a script
templates = Jinja2Templates(Path(__file__).with_name("templates"))


def page(
    request: Request, template: str, session: Session[Any], status_code: int = 200, **values: Any
) -> HTMLResponse:
    """Render a page, and show the messages that are waiting in the session."""
    messages, session.data.messages = session.data.messages, []
    values |= {"session": session, "messages": messages}
    return templates.TemplateResponse(request, template, values, status_code)


def see_other(path: str) -> RedirectResponse:
    """Redirect after a form, so that the browser requests the next page with GET."""
    return RedirectResponse(path, status_code=303)


def own_path(path: str) -> str:
    """Return a path from a request if it is a page of this shop, and ``/`` otherwise."""
    return path if re.fullmatch(r"(/[a-z-]+)+", path) else "/"
