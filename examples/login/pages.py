"""Rendered pages and redirects."""

import re
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from fastapi_async_sessions import Session

# values are escaped; no page puts one into a script
templates = Jinja2Templates(Path(__file__).with_name("templates"))


def page(
    request: Request, template: str, session: Session[Any], status_code: int = 200, **values: Any
) -> HTMLResponse:
    """A page, with the messages that the session has kept for the next one."""
    messages, session.data.messages = session.data.messages, []
    values |= {"session": session, "messages": messages}
    return templates.TemplateResponse(request, template, values, status_code)


def see_other(path: str) -> RedirectResponse:
    """After a form: the browser asks for the next page with GET."""
    return RedirectResponse(path, status_code=303)


def own_path(path: str) -> str:
    """A path that came with a request, if it leads to a page of this shop and nowhere else."""
    return path if re.fullmatch(r"(/[a-z-]+)+", path) else "/"
