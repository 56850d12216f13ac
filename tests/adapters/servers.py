"""Servers without sockets: each calls an application as its protocol says, and checks what it says in return."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from sojourn.testing.adapter_harness import PATIENCE, Answer, Request

_log = logging.getLogger("server")
FAILED = Answer(500, [], b"Internal Server Error")


class AsgiServer:
    """One event loop in a thread of its own: requests that overlap are tasks of one loop, as in uvicorn."""

    def __init__(self, app: Any, spec_version: str = "2.3") -> None:
        self.app, self.spec_version = app, spec_version
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="asgi-server")
        self._thread.start()
        self.last = Exchange()

    def request(self, request: Request) -> Answer:
        return asyncio.run_coroutine_threadsafe(self._serve(request), self._loop).result(PATIENCE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _serve(self, request: Request) -> Answer:
        exchange = Exchange()
        try:
            await self.app(http_scope(request, self.spec_version), exchange.receive, exchange.send)
        except Exception:
            _log.exception("Exception in ASGI application")
        self.last = exchange
        return exchange.answer()

    def talk(self, path: str, *said: str, cookie: str = "", scheme: str = "wss") -> Talk:
        """Open a websocket, say things, hang up; return what the application sent."""
        talk = Talk(said)
        fields = [("cookie", cookie)] if cookie else []
        scope = {**http_scope(Request("GET", path, fields)), "type": "websocket", "scheme": scheme, "subprotocols": []}
        return asyncio.run_coroutine_threadsafe(self._talk(scope, talk), self._loop).result(PATIENCE)

    async def _talk(self, scope: dict[str, Any], talk: Talk) -> Talk:
        try:
            await self.app(scope, talk.receive, talk.send)
        except Exception as error:
            talk.error = error
        return talk


def http_scope(request: Request, spec_version: str = "2.3") -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec_version},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"shop.example"), *((n.encode(), v.encode("latin-1")) for n, v in request.headers)],
        "client": ("192.0.2.1", 40000),
        "server": ("shop.example", 443),
        "state": {},
    }


class Exchange:
    """One request's messages in and out. What the protocol forbids is an AssertionError in the application."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._asked = False
        self._over = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        assert not self._over.is_set(), "the response is over"
        if not self.sent:
            assert message["type"] == "http.response.start"
            assert type(message["status"]) is int
            for name, value in message.get("headers", ()):
                assert type(name) is type(value) is bytes
                assert name == name.lower()
                assert not {*b"\r\n\0"} & {*name, *value}
        else:
            assert message["type"] == "http.response.body"
            assert type(message.get("body", b"")) is bytes
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._over.set()

    def answer(self) -> Answer:
        if not self.sent:
            return FAILED
        start, *pieces = self.sent
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start.get("headers", ())]
        return Answer(start["status"], headers, b"".join(piece.get("body", b"") for piece in pieces))

    @property
    def whole(self) -> bool:
        """False where the response broke off."""
        return self._over.is_set()


class Talk:
    """A websocket's messages in and out."""

    def __init__(self, said: Sequence[str]) -> None:
        said_so = [{"type": "websocket.receive", "text": text} for text in said]
        self._coming = [{"type": "websocket.connect"}, *said_so, {"type": "websocket.disconnect", "code": 1001}]
        self.sent: list[dict[str, Any]] = []
        self.error: Exception | None = None

    async def receive(self) -> dict[str, Any]:
        return self._coming.pop(0) if len(self._coming) > 1 else self._coming[0]

    async def send(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)

    @property
    def answer(self) -> Answer:
        """What the browser reads of the handshake."""
        first = self.sent[0]
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in first.get("headers", ())]
        return Answer(first.get("status", 101 if first["type"] == "websocket.accept" else 403), headers, b"")


class WsgiServer:
    """A server as in PEP 3333, with the validator of the standard library on its side of the application."""

    def __init__(self, app: Any, *, validate: bool = True) -> None:
        self.app = validator(app) if validate else app

    def request(self, request: Request) -> Answer:
        return self.serve(environ_of(request))

    def close(self) -> None:
        pass

    def serve(self, environ: dict[str, Any]) -> Answer:
        response, errors = Response(), environ["wsgi.errors"]
        try:
            body: Iterable[bytes] = self.app(environ, response.start)
            try:
                for data in body:
                    response.write(data)
            finally:
                if close := getattr(body, "close", None):
                    close()
        except Exception:
            _log.exception("Exception in WSGI application")
            if not response.sent:
                return FAILED
        assert response.begun, "the application never called start_response"
        if complaints := errors.getvalue():
            _log.error("wsgi.errors: %s", complaints)
        body_sent = b"" if environ["REQUEST_METHOD"] == "HEAD" else b"".join(response.written)
        headers = [(name.lower(), value) for name, value in response.headers]
        return Answer(int(response.status.split(" ")[0]), headers, body_sent)


class Response:
    """What start_response and write make of a response. The head goes out with the first byte of the body."""

    def __init__(self) -> None:
        self.begun = self.sent = False
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.written: list[bytes] = []

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        if exc_info:
            if self.sent:
                raise exc_info[1].with_traceback(exc_info[2])
        else:
            assert not self.begun, "start_response was called twice"
        self.begun, self.status, self.headers = True, status, list(headers)
        return self.write

    def write(self, data: bytes) -> None:
        assert self.begun, "the body came before start_response"
        if data:
            self.sent = True
            self.written.append(data)


def environ_of(request: Request) -> dict[str, Any]:
    environ: dict[str, Any] = {"REQUEST_METHOD": request.method, "SCRIPT_NAME": "", "PATH_INFO": request.path}
    for name, value in request.headers:
        key = "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value  # as wsgiref and gunicorn do
    environ |= {
        "QUERY_STRING": "",
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "https",
        "HTTP_HOST": "shop.example",
    }
    setup_testing_defaults(environ)
    return environ
