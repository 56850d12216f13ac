"""Refuse changes that another site's page asks for (CSRF), by what browsers say about where a request comes from.

Why not a token in the form: it would have to be kept in the session, so that showing a form to anybody would begin
a session, and curl would have to fetch one before each post. The headers need no state. ``SameSite=Lax`` alone is not
enough: to a browser every port of one host is the same site.

Whoever sends neither header is no browser, and nobody's cookies can be misused through it.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sojourn.balancer.nodes import SAFE_METHODS


class SameOrigin:
    """Middleware that answers 403 to an unsafe request from another origin."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        app = self.app
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and not is_own(Headers(scope=scope)):
            app = PlainTextResponse("This request comes from another site's page.\n", 403)
        await app(scope, receive, send)


def is_own(headers: Headers) -> bool:
    """Tell whether a request came from our own page, or from no page at all."""
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")
