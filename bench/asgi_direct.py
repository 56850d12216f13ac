"""What a session adds to a request when the ASGI application is called directly, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

from starlette.types import ASGIApp

from bench import asgi_apps, browser
from bench.exchange import Answer, Visitor, compare, set_cookie
from bench.places import in_memory
from bench.rounds import Sample, Stopwatch, check
from bench.table import say, title

Message = MutableMapping[str, Any]


class DirectClient:
    """Calls an application on an event loop of this process. Reads come *at_once* together, writes one by one."""

    def __init__(self, app: ASGIApp, runner: asyncio.Runner, at_once: int = 1) -> None:
        self._app, self._runner, self._at_once = app, runner, at_once

    def ask(self, route: str, cookie: bytes, times: int) -> tuple[Sample, list[Answer]]:
        """Serve so many requests; the clock runs around the calls of the application only."""
        tasks = 1 if route in ("begin", "write") else min(self._at_once, times)
        check(times % tasks == 0, f"{times} requests are shared by {tasks} tasks")
        sample, exchanges = self._runner.run(self._serve_all(_scope(route, cookie), times, tasks))
        return sample, [_answer(*pair) for messages in exchanges for pair in _pairs(messages)]

    async def _serve_all(self, template: dict[str, Any], times: int, tasks: int) -> tuple[Sample, list[list[Message]]]:
        exchanges: list[list[Message]] = [[] for _ in range(tasks)]
        watch = Stopwatch()
        if tasks == 1:
            await self._serve(template, times, exchanges[0])
        else:
            await asyncio.gather(*(self._serve(template, times // tasks, messages) for messages in exchanges))
        return watch.per(times), exchanges

    async def _serve(self, template: dict[str, Any], times: int, messages: list[Message]) -> None:
        async def send(message: Message) -> None:
            messages.append(message)

        app = self._app
        for _ in range(times):
            await app(dict(template), _receive, send)


def _pairs(messages: list[Message]) -> Iterator[tuple[Message, Message]]:
    """Yield start and body of each response."""
    return zip(messages[::2], messages[1::2], strict=True)


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _scope(route: str, cookie: bytes) -> dict[str, Any]:
    headers = [(name.encode(), value.encode()) for name, value in browser.FIELDS]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"/{route}",
        "raw_path": f"/{route}".encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*headers, (b"cookie", browser.cookies(cookie))],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
    }


def _answer(start: Message, body: Message) -> Answer:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
    return Answer(start["status"], body["body"], set_cookie(headers))


def report(quick: bool = False) -> None:
    """Print the tables."""
    title("ASGI in process", 3)
    say(
        "The application is called with prepared scopes; there is no server and no network. "
        "Peer: Starlette's SessionMiddleware, which signs the whole session into the cookie."
    )
    with in_memory() as place, asyncio.Runner() as runner:
        visitors = {
            name: Visitor(name, DirectClient(app, runner), asgi_apps.KEEPS[name])
            for name, app in asgi_apps.applications(place).items()
        }
        compare(visitors, 30 if quick else 300, 60, asgi_apps.PEER, asgi_apps.LOCAL)
