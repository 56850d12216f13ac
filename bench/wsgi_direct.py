"""What a session adds to a WSGI request: on a plain function and on Flask, called directly, without a server."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bench import browser, wsgi_apps
from bench.exchange import Answer, Keeps, Visitor, compare, set_cookie
from bench.places import in_memory
from bench.rounds import Sample, Stopwatch
from bench.table import say, title

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]


class DirectClient:
    """Calls an application as a server does: start_response, the whole body, close."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def ask(self, route: str, cookie: bytes, times: int) -> tuple[Sample, list[Answer]]:
        """Serve so many requests one after another; the clock runs around the calls of the application only."""
        starts: list[tuple[str, Headers]] = []
        bodies: list[bytes] = []

        def start_response(status: str, headers: Headers, exc_info: Any = None, /) -> Callable[[bytes], object]:
            starts.append((status, headers))
            return bodies.append

        template, app, each = _environ(route, cookie), self._app, range(times)
        watch = Stopwatch()
        for _ in each:
            body = app(dict(template), start_response)
            bodies.append(b"".join(body))
            if hasattr(body, "close"):
                body.close()
        sample = watch.per(times)
        return sample, [_answer(start, body) for start, body in zip(starts, bodies, strict=True)]


def _environ(route: str, cookie: bytes) -> WSGIEnvironment:
    fields = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in browser.FIELDS}
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": f"/{route}",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **fields,
        "HTTP_COOKIE": browser.cookies(cookie).decode("latin-1"),
    }


def _answer(start: tuple[str, Headers], body: bytes) -> Answer:
    status, headers = start
    return Answer(int(status.split(" ")[0]), body, set_cookie(headers))


def report(quick: bool = False) -> None:
    """Print the tables."""
    rounds = 30 if quick else 200
    with in_memory() as place:
        title("WSGI in process", 3)
        say("The smallest application that WSGI allows, called with prepared environs. There is no peer.")
        compare(_visitors(wsgi_apps.plain(place), wsgi_apps.PLAIN_KEEPS), rounds, 60)
        title("Flask in process", 3)
        say(
            "A Flask application, called with prepared environs. The bare one has no secret key, so that Flask's own "
            "session is switched off. Peer: Flask's own session, signed into the cookie. The issue sets no goals here."
        )
        compare(_visitors(wsgi_apps.in_flask(place), wsgi_apps.FLASK_KEEPS), rounds, 60, wsgi_apps.PEER)


def _visitors(apps: Mapping[str, WSGIApplication], keeps: Mapping[str, Keeps]) -> dict[str, Visitor]:
    return {name: Visitor(name, DirectClient(app), keeps[name]) for name, app in apps.items()}
