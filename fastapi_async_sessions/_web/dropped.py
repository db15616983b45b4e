"""Logs a hint when a browser or a test client will certainly drop a ``Secure`` cookie."""

import warnings
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.types import Scope

from ..events import logger
from .headers import RawHeader

_TEST_HOSTS = {"testserver", "test"}  # of TestClient, and of the async tests in FastAPI's docs
_warned: set[str] = set()


def warn_of_lost_cookies(scope: Scope, headers: Iterable[RawHeader]) -> None:
    """Warn if a response sets a ``Secure`` cookie that its client does not keep."""
    # both keys are optional in ASGI
    if scope.get("scheme", "http") != "http":
        return
    if not any(name == b"set-cookie" and b"; Secure" in value for name, value in headers):
        return
    host = (scope.get("server") or ("",))[0]
    if host in _TEST_HOSTS:
        warnings.warn(
            f"a test client drops Secure cookies over http://{host}, so each request begins a new "
            f'session: write TestClient(app, base_url="https://{host}")',
            stacklevel=3,
        )
    elif not _warned and (origin := _insecure_origin(scope["headers"])):
        _warned.add(origin)
        logger.warning(
            "browsers drop the Secure session cookie on %r, so each request there begins a new "
            "session: serve the application over https, or, where there is no TLS at all, write "
            "SessionProvider(..., cookie=CookieConfig(secure=False))",
            origin,
        )


def _insecure_origin(headers: Iterable[RawHeader]) -> str | None:
    """Return the origin of our own page if it was certainly loaded over plain HTTP.

    Behind a proxy that terminates TLS, browsers send an ``https`` origin. The loopback address is
    left out, because most browsers keep its ``Secure`` cookies.
    """
    found = {name: value.decode("latin-1") for name, value in headers}
    scheme, _, host = found.get(b"origin", "").partition("://")
    is_ours = scheme == "http" and host != "" and host == found.get(b"host")
    return None if not is_ours or _is_loopback(host) else f"http://{host}"


def _is_loopback(host: str) -> bool:
    name = host.partition("]")[0].removeprefix("[") if host[:1] == "[" else host.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
