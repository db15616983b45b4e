"""Rendered pages and redirects."""

import re
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from fastapi_async_sessions import Session

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
