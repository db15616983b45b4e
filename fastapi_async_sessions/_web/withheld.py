"""Whether a browser has withheld the session cookie from a request (RFC 6265bis, 5.8.3)."""

from collections.abc import Iterable

from .cookies import SameSite

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def is_withheld(samesite: SameSite, method: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether ``SameSite`` is why a request from another site brings no cookie.

    A browser names the site in ``Sec-Fetch-Site``; other clients do not know the attribute. With
    ``Lax``, a browser sends the cookie with a top-level navigation by a safe method.
    """
    fetch = {name: value for name, value in headers if name.startswith(b"sec-fetch-")}
    if samesite == "none" or fetch.get(b"sec-fetch-site") != b"cross-site":
        return False
    is_navigation = (
        method in _SAFE_METHODS
        and fetch.get(b"sec-fetch-mode") == b"navigate"
        and fetch.get(b"sec-fetch-dest", b"document") == b"document"
    )
    return samesite == "strict" or not is_navigation
