"""The example shop: log in, a cart, a language. All that changes is in the session, so any node can serve any click."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from sojourn.adapters.starlette import SessionMiddleware, get_session
from sojourn.lab import page
from sojourn.lab.cart import change, merge
from sojourn.lab.catalog import CATALOG
from sojourn.lab.explained import Explained
from sojourn.lab.forms import read_form, wants_page
from sojourn.lab.origin import SameOrigin
from sojourn.lab.texts import DEFAULT, TEXTS
from sojourn.lab.urls import is_replicated
from sojourn.transport.cookie import Cookie

COOKIE = "sojourn_demo"  # its own: to a browser all ports of 127.0.0.1 are one host and share their cookies
NAMESPACE = "sojourn-demo"  # so that in a store with other applications no id of theirs opens a session here
HOSTS = ["127.0.0.1", "localhost"]  # any other Host comes from a page that made its own name point here
LONGEST_NAME = 40
TRAIL = 8  # clicks that the page shows


@dataclass(frozen=True, slots=True)
class Setup:
    """Which node this is, where sessions live, and what the panel of nodes needs. *nodes* 0: no panel."""

    node: str = "node-1"
    store: str = "memory:"
    nodes: int = 0
    token: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Setup:
        """Return what the lab has set, or defaults for a shop that runs alone."""
        return cls(
            environ.get("SOJOURN_NODE", cls().node),
            environ.get("SOJOURN_STORE", cls().store),
            int(environ.get("SOJOURN_LAB_NODES", "0")),
            environ.get("SOJOURN_LAB_TOKEN", ""),
        )

    def to_environment(self) -> dict[str, str]:
        """Return what :meth:`from_environment` reads."""
        return {
            "SOJOURN_NODE": self.node,
            "SOJOURN_STORE": self.store,
            "SOJOURN_LAB_NODES": str(self.nodes),
            "SOJOURN_LAB_TOKEN": self.token,
        }

    @property
    def hosts(self) -> bool:
        """Whether each node is a host with a store of its own."""
        return is_replicated(self.store)

    def views(self) -> list[page.NodeView]:
        """Return the nodes for a panel, their states yet unknown."""
        return [page.NodeView(f"node-{number}") for number in range(1, self.nodes + 1)]


def shop(setup: Setup) -> Starlette:
    """Return the shop as an ASGI application."""
    app = Starlette(
        routes=[
            Route("/", home),
            Route("/api/session", session_as_json),
            Route("/language", set_language, methods=["POST"]),
            Route("/cart", change_cart, methods=["POST"]),
            Route("/login", log_in, methods=["POST"]),
            Route("/logout", log_out, methods=["POST"]),
            Route("/health", health),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS),
            Middleware(SameOrigin),
            Middleware(Explained, page=partial(_unavailable, setup)),
            Middleware(
                SessionMiddleware,
                store=setup.store,
                namespace=NAMESPACE,
                cookie=Cookie.insecure_dev(name=COOKIE),
                resolvers={"cart": merge},
            ),
        ],
    )
    app.state.setup = setup
    return app


# -- looking: nothing here changes the session -------------------------------------------------------------


async def home(request: Request) -> Response:
    """Show the shop."""
    return HTMLResponse(page.shop_page(_view(request)), headers=page.HEADERS)


async def session_as_json(request: Request) -> Response:
    """Show what the page shows, for curl."""
    return JSONResponse({**_facts(request), "session": get_session(request).handle})


async def health(request: Request) -> Response:
    """Say that this node is up. The session is not looked at."""
    return PlainTextResponse("ok\n")


# -- changing ----------------------------------------------------------------------------------------------


async def set_language(request: Request) -> Response:
    """Remember the visitor's language."""
    language = _one_of(TEXTS, await read_form(request), "language")
    get_session(request)["language"] = language
    return _done(request, f"language {language}")


async def change_cart(request: Request) -> Response:
    """Put one of an item into the cart, or with ``by=-1`` take one out."""
    form = await read_form(request)
    item, by = _one_of(CATALOG, form, "item"), int(_one_of(("1", "-1"), {"by": "1", **form}, "by"))
    change(get_session(request).setdefault("cart", {}), item, by)
    return _done(request, f"cart {by:+d} {item}")


async def log_in(request: Request) -> Response:
    """Take the visitor's word for who it is. The id changes and the cart stays."""
    name = (await read_form(request)).get("name", "").strip()
    if not (name.isprintable() and 0 < len(name) <= LONGEST_NAME):
        raise HTTPException(400, f"name: give 1 to {LONGEST_NAME} printable characters")
    get_session(request).login(name)
    return _done(request, "login")


async def log_out(request: Request) -> Response:
    """End the session. Only the language goes on, in a new one."""
    get_session(request).logout(keep=("language",))
    return _answer(request)


def _one_of(known: Any, form: Mapping[str, str], field: str) -> str:
    if (value := form.get(field, "")) not in known:
        raise HTTPException(400, f"{field}: give one of {', '.join(known)}")
    return value


def _done(request: Request, what: str) -> Response:
    """Note in the session which node did *what*, and answer."""
    session = get_session(request)
    session["trail"] = [*session.get("trail", ()), {"did": what, "node": _setup(request).node}][-TRAIL:]
    return _answer(request)


def _answer(request: Request) -> Response:
    return RedirectResponse("/", 303) if wants_page(request) else JSONResponse(_facts(request))


# -- what is shown -----------------------------------------------------------------------------------------


def _setup(request: Request) -> Setup:
    setup: Setup = request.app.state.setup
    return setup


def _facts(request: Request) -> dict[str, Any]:
    session = get_session(request)
    return {"node": _setup(request).node, "pid": os.getpid(), "user": session.principal, "values": dict(session)}


def _unavailable(setup: Setup, changed: bool) -> str:
    return page.unavailable_page(setup.node, changed, setup.views(), setup.token, setup.hosts)


def _view(request: Request) -> page.View:
    setup, session = _setup(request), get_session(request)
    return page.View(
        node=setup.node,
        pid=os.getpid(),
        language=session.get("language", DEFAULT),
        user=session.principal,
        handle=session.handle,
        cart=session.get("cart", {}),
        trail=session.get("trail", []),
        values=dict(session),
        nodes=setup.views(),
        token=setup.token,
        hosts=setup.hosts,
    )
