"""Sessions for any ASGI application: ``scope["session"]``, committed before the response begins."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from sojourn.adapters.paths import PathPatterns
from sojourn.adapters.refusal import FAILED, Refused, Refusing, refusal
from sojourn.core.outcome import KEEP, Action
from sojourn.core.session import Session
from sojourn.manager import SessionManager, configured

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

BEGINS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
"""The messages that carry a response's headers: the last moment for a cookie."""

LIFESPAN_BEGINS = "lifespan.startup.complete"
"""The message after which a server lets requests come."""

LIFESPAN_ENDS = frozenset({"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"})
"""The messages after which a server may stop the event loop at once: the last moment to close connections."""

TRY_AGAIN_LATER = 1013  # websocket close code, IANA registry

_log = logging.getLogger("sojourn")


class SessionMiddleware:
    """Put a Session into ``scope["session"]`` and commit it when the response begins.

    Give a *manager*, or the arguments of SessionManager as keywords, such as ``store="local:"``. A websocket's
    session stays open after the accept: changes are kept by ``session.save()``, or ``await session.asave()``.
    A response of 500 or above commits nothing: the handler failed, and half of its changes are worse than none.

    *exclude* has patterns of paths, such as ``"/static/*"`` (see :class:`~sojourn.adapters.paths.PathPatterns`), on
    which a store that has to be awaited is not asked before the application is called: ``await session.fetch()`` asks
    it there, and a look without that raises SessionNotFetched. A path is what the application's own routes see of it,
    without the ``root_path`` of a proxy or a mount. Other stores are asked at the first look on every path.

    A manager made here of settings has its store made ready when the server's lifespan begins, and is closed when that
    ends; one that was given is its owner's.

    Raises ConfigurationError.
    """

    def __init__(
        self,
        app: App,
        /,
        manager: SessionManager | None = None,
        *,
        exclude: Iterable[str] = (),
        **settings: Any,
    ) -> None:
        self.app = app
        self.manager = configured(manager, settings)
        self._owns_manager = manager is None
        self._waits = self.manager.waits
        self._excluded = PathPatterns("exclude", exclude)
        self.manager.loop_store()  # a store that would block the event loop is refused here, not on a request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            owns = scope["type"] == "lifespan" and self._owns_manager
            await self.app(scope, receive, self._opening_and_closing(send) if owns else send)
            return
        if not self._waits:
            session = self.manager.begin(read_cookies, scope["headers"])
        elif route_path(scope) in self._excluded:
            session = self.manager.begin_unfetched(read_cookies, scope["headers"])
        else:
            session = await self.manager.abegin(read_cookies, scope["headers"])
        scope["session"] = session
        begun = streamed = False
        failed = True

        async def send_committed(message: Message) -> None:
            nonlocal begun, streamed, failed
            if begun:
                streamed = streamed or message.get("more_body", False)
            elif message["type"] in BEGINS:
                if session.asked:
                    message = await self._commit(session, scope, message)
                begun, failed = True, message.get("status", 200) >= FAILED
                session.seal() if scope["type"] == "http" else session.reopen()
            await send(message)

        try:
            await self.app(scope, receive, send_committed)
        except Exception as error:
            # Starlette wraps an error whose handler it can no longer call, since it believes that the response began.
            refused = error if isinstance(error, Refusing) else error.__cause__
            if begun or not isinstance(refused, Refusing):
                raise
            await write_refusal(refused, scope, send)
        finally:
            if session.looked:
                self.manager.finish(session, thorough=streamed or failed)

    async def _commit(self, session: Session, scope: Scope, message: Message) -> Message:
        if message.get("status", 200) >= FAILED:
            outcome = KEEP
        elif self._waits:
            outcome = await self.manager.acommit(session)
        else:
            outcome = self.manager.commit(session)
        raw: RawHeaders = list(message.get("headers", ()))
        if outcome.action is Action.KEEP and not any(name.lower() == b"vary" for name, _ in raw):
            return {**message, "headers": [*raw, (b"vary", b"Cookie")]}  # nearly every answer, so it is made quickly
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
        headers = self.manager.respond(outcome, headers, scheme=scope.get("scheme", "http"), host=read_host(scope))
        return {**message, "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]}

    def _opening_and_closing(self, send: Send) -> Send:
        """Have the store ready before the server is told that the application has begun, and closed before its end.

        Whatever a driver raises, the server must be told.
        """

        async def send_afterwards(message: Message) -> None:
            try:
                if message["type"] == LIFESPAN_BEGINS:
                    await self.manager.aprepare()
                elif message["type"] in LIFESPAN_ENDS:
                    await self.manager.aclose()
            except Exception:
                what = "made ready" if message["type"] == LIFESPAN_BEGINS else "closed properly"
                _log.warning("the session store's connections were not %s", what, exc_info=True)
            await send(message)

        return send_afterwards


def route_path(scope: Scope) -> str:
    """Return the path without ``root_path``. Servers and frameworks differ in whether they leave that in front."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    rest = path.removeprefix(root) or "/"
    return rest if rest.startswith("/") else path


def read_cookies(headers: RawHeaders) -> list[bytes]:
    """Return the request's Cookie header fields."""
    return [value for name, value in headers if name == b"cookie"]


def read_host(scope: Scope) -> str:
    """Return the request's Host header field."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")


async def write_refusal(error: Refused, scope: Scope, send: Send) -> None:
    """Answer in the application's place, before anything was sent."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
        return
    answer = refusal(error)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
