"""An OpenID provider on a real socket: ``oidc-provider-mock``, which signs anybody in."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

Respond = Callable[..., Any]


@pytest.fixture(scope="module")
def serve_provider() -> Iterator[Callable[..., str]]:
    """A function that starts a provider, and returns its issuer.

    ``headers`` are those of its ``form_post`` page.
    """
    provider = pytest.importorskip("oidc_provider_mock")
    with ExitStack() as stack:

        def start(*headers: tuple[str, str]) -> str:
            user = provider.User(sub="alice", claims={"email": "alice@example.com"})
            app = FormPost(provider.app(user_claims=[user]), headers)
            port = stack.enter_context(_serve_wsgi(app))
            # another site than 127.0.0.1, which the tests' applications have
            return f"http://localhost:{port}"

        yield start


class FormPost:
    """Adds ``response_mode=form_post`` to a provider that redirects only.

    The page is that of Authlib's own server.
    """

    def __init__(self, app: Any, headers: tuple[tuple[str, str], ...]) -> None:
        self.app = app
        self.headers = headers

    def __call__(self, environ: dict[str, Any], start_response: Respond) -> Any:
        if "response_mode=form_post" not in environ["QUERY_STRING"]:
            return self.app(environ, start_response)
        answer: list[Any] = []
        body = list(self.app(environ, lambda *start: answer.append(start)))
        status, headers, *_ = answer.pop()
        location = dict(headers).get("Location")
        if location is None:
            start_response(status, headers)
            return body
        page, headers = _form(location)
        start_response("200 OK", [*headers, *self.headers])
        return [page.encode()]


def _form(location: str) -> tuple[str, list[tuple[str, str]]]:
    from authlib.oidc.core.grants.util import create_response_mode_response

    parts = urlsplit(location)
    target, answer = parts._replace(query="").geturl(), parse_qsl(parts.query)
    _, page, headers = create_response_mode_response(target, answer, "form_post")
    return page, headers


@contextmanager
def _serve_wsgi(app: Any) -> Iterator[int]:
    from werkzeug.serving import make_server

    # threaded: a browser keeps connections open that it does not use
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()
        assert not thread.is_alive(), "the provider did not stop"
