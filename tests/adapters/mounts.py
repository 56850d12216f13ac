"""The contract's routes in every framework, each mounted with one view; and room for routes of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any
from wsgiref.validate import validator

import flask
from fastapi import Depends, FastAPI
from flask import Flask, stream_with_context
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from tests.adapters.servers import AsgiServer, WsgiServer

from sojourn.adapters import asgi, starlette, wsgi
from sojourn.adapters.flask import Sessions
from sojourn.core.session import Session
from sojourn.testing.adapter_harness import AdapterHarness
from sojourn.testing.adapter_routes import Page

ANY = ["GET", "POST", "HEAD"]


def plain_asgi(
    app: AdapterHarness,
    middleware: Any = asgi.SessionMiddleware,
    own: Mapping[str, Any] = {},
    spec_version: str = "2.3",
) -> AsgiServer:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if endpoint := own.get(scope["path"]):
            await endpoint(scope, receive, send)
            return
        page = await app.aanswer(scope["path"], scope["session"])
        headers = [(name.encode(), value.encode("latin-1")) for name, value in page.headers]
        await send({"type": "http.response.start", "status": page.status, "headers": headers})
        if page.streams:
            async for piece in page.apieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
        else:
            await send({"type": "http.response.body", "body": page.text.encode()})

    return AsgiServer(middleware(application, app.manager), spec_version)


def starlette_async(
    app: AdapterHarness,
    own: Sequence[Any] = (),
    inside: Sequence[Middleware] = (),
    outside: Sequence[Middleware] = (),
    spec_version: str = "2.3",
    **settings: Any,
) -> AsgiServer:
    async def view(request: Request) -> Response:
        page = await app.aanswer(request.url.path, request.session)  # type: ignore[arg-type]
        return with_fields(StreamingResponse(page.apieces(), page.status) if page.streams else _text(page), page)

    ours = Middleware(starlette.SessionMiddleware, manager=app.manager)
    routes = [*own, Route("/{path:path}", view, methods=ANY)]
    return AsgiServer(Starlette(routes=routes, middleware=[*outside, ours, *inside], **settings), spec_version)


def starlette_threads(app: AdapterHarness) -> AsgiServer:
    def view(request: Request) -> Response:
        page = app.answer(request.url.path, request.session)  # type: ignore[arg-type]
        return with_fields(StreamingResponse(page.pieces(), page.status) if page.streams else _text(page), page)

    ours = Middleware(starlette.SessionMiddleware, manager=app.manager)
    return AsgiServer(Starlette(routes=[Route("/{path:path}", view, methods=ANY)], middleware=[ours]))


def _text(page: Page) -> Response:
    return Response(page.text, page.status)


def with_fields(response: Response, page: Page) -> Response:
    """Add the page's fields one by one: a Starlette response takes a mapping, which cannot repeat a name."""
    for name, value in page.headers:
        response.headers.append(name, value)
    return response


def fastapi(app: AdapterHarness, configure: Callable[[FastAPI], object] = lambda site: None) -> AsgiServer:
    site = FastAPI()
    site.add_middleware(starlette.SessionMiddleware, manager=app.manager)
    configure(site)

    @site.api_route("/{path:path}", methods=ANY, include_in_schema=False)
    async def view(path: str, session: Annotated[Session, Depends(starlette.current_session)]) -> Response:
        page = await app.aanswer("/" + path, session)
        return with_fields(StreamingResponse(page.apieces(), page.status) if page.streams else _text(page), page)

    return AsgiServer(site)


def plain_wsgi(app: AdapterHarness, own: Mapping[str, Any] = {}, *, validate: bool = True) -> WsgiServer:
    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        if endpoint := own.get(environ["PATH_INFO"]):
            body: Iterable[bytes] = endpoint(environ, start_response)
            return body
        page = app.answer(environ["PATH_INFO"], environ[wsgi.ENVIRON_KEY])
        start_response(f"{page.status} Spoken", page.headers)
        return page.pieces() if page.streams else [page.text.encode()]

    inner = validator(application) if validate else application
    return WsgiServer(wsgi.SessionMiddleware(inner, app.manager), validate=validate)


def flask_app(app: AdapterHarness, configure: Callable[[Flask], object] = lambda site: None) -> WsgiServer:
    site = Flask(__name__)
    Sessions(site, app.manager)
    configure(site)

    @site.route("/<path:path>", methods=ANY)
    def view(path: str) -> Any:
        page = app.answer("/" + path, flask.session)  # type: ignore[arg-type]
        body = stream_with_context(page.pieces()) if page.streams else page.text
        response = site.response_class(body, page.status)  # type: ignore[arg-type]
        for name, value in page.headers:
            response.headers.set(name, value) if name == "content-type" else response.headers.add(name, value)
        return response

    return WsgiServer(site.wsgi_app)


HARNESSES = {
    "asgi": partial(AdapterHarness, plain_asgi),
    "asgi-awaited": partial(AdapterHarness, plain_asgi, awaited=True),
    "starlette": partial(AdapterHarness, starlette_async),
    "starlette-threads": partial(AdapterHarness, starlette_threads),
    "fastapi": partial(AdapterHarness, fastapi),
    "fastapi-awaited": partial(AdapterHarness, fastapi, awaited=True),
    "wsgi": partial(AdapterHarness, plain_wsgi),
    "wsgi-unwrapped": partial(AdapterHarness, partial(plain_wsgi, validate=False)),
    "flask": partial(AdapterHarness, flask_app),
}
