"""A page instead of the plain text with which the session layer answers 503: why, and what the visitor can do.

A look is tried again after a second, by then on another node. A change is not: it may have been made.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sojourn.balancer.nodes import SAFE_METHODS
from sojourn.lab.forms import wants_page
from sojourn.lab.page import HEADERS

UNAVAILABLE = 503


class Explained:
    """Middleware that sends *page* (given whether a change was asked for) where 503 goes to a browser."""

    def __init__(self, app: ASGIApp, page: Callable[[bool], str]) -> None:
        self.app, self._page = app, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not wants_page(Request(scope)):
            await self.app(scope, receive, send)
            return
        refused = False

        async def watch(message: Message) -> None:
            nonlocal refused
            refused = refused or (message["type"] == "http.response.start" and message["status"] == UNAVAILABLE)
            if not refused:
                await send(message)

        await self.app(scope, receive, watch)
        if refused:
            await self._explanation(scope["method"])(scope, receive, send)

    def _explanation(self, method: str) -> HTMLResponse:
        changed = method not in SAFE_METHODS
        again = {} if changed else {"refresh": "1"}
        return HTMLResponse(self._page(changed), UNAVAILABLE, headers={**HEADERS, **again, "retry-after": "1"})
