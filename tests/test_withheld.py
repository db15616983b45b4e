"""From which requests a browser withholds the session cookie because of ``SameSite``."""

from typing import Any

import pytest

from fastapi_async_sessions._web.withheld import is_withheld

# SameSite, method, Sec-Fetch-Site, -Mode, -Dest ("" for no header), and whether it is withheld
REQUESTS = [
    ("strict", "GET", "cross-site", "navigate", "document", True),
    ("strict", "POST", "cross-site", "navigate", "document", True),
    ("strict", "GET", "cross-site", "", "", True),
    ("strict", "GET", "same-site", "navigate", "document", False),
    ("strict", "GET", "same-origin", "cors", "empty", False),
    ("strict", "GET", "none", "navigate", "document", False),
    ("strict", "GET", "", "", "", False),
    ("lax", "GET", "cross-site", "navigate", "document", False),
    ("lax", "HEAD", "cross-site", "navigate", "document", False),
    ("lax", "OPTIONS", "cross-site", "navigate", "document", False),
    ("lax", "TRACE", "cross-site", "navigate", "document", False),
    ("lax", "GET", "cross-site", "navigate", "", False),
    ("lax", "GET", "cross-site", "navigate", "iframe", True),
    ("lax", "GET", "cross-site", "no-cors", "image", True),
    ("lax", "GET", "cross-site", "cors", "document", True),
    ("lax", "GET", "cross-site", "", "", True),
    ("lax", "POST", "cross-site", "navigate", "document", True),
    ("lax", "PUT", "cross-site", "cors", "empty", True),
    ("lax", "WEBSOCKET", "cross-site", "websocket", "websocket", True),
    ("lax", "POST", "same-site", "navigate", "document", False),
    ("lax", "POST", "", "", "", False),
    ("none", "POST", "cross-site", "cors", "empty", False),
    ("none", "GET", "cross-site", "navigate", "document", False),
]


@pytest.mark.parametrize(("samesite", "method", "site", "mode", "dest", "expected"), REQUESTS)
def test_the_cookie_is_withheld(
    samesite: Any, method: str, site: str, mode: str, dest: str, expected: bool
) -> None:
    """RFC 6265bis, 5.8.3; the request's headers come in any order, among others."""
    values = {b"sec-fetch-dest": dest, b"sec-fetch-mode": mode, b"sec-fetch-site": site}
    headers = [(name, value.encode()) for name, value in values.items() if value]
    headers = [(b"accept", b"cross-site"), *headers, (b"sec-gpc", b"1")]
    assert is_withheld(samesite, method, headers) is expected
