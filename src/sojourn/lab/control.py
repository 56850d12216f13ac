"""What the buttons of the page ask for: the state of the nodes, kill, restart. Runs in the demo's own process.

The balancer sends ``/_lab/`` here, so that the page and this have one origin. Killing takes a token that only the
page knows; the server listens on loopback alone.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from sojourn.errors import ConfigurationError
from sojourn.lab import page
from sojourn.lab.cluster import Node
from sojourn.lab.copies import cart_at
from sojourn.lab.forms import read_form, wants_page
from sojourn.lab.hosts import Host
from sojourn.lab.shop import COOKIE, HOSTS

PREFIX, DOWN = "/_lab/", "/_lab/down"


def control(nodes: Sequence[Node], token: str) -> Starlette:
    """Return the control API over *nodes* as an ASGI application."""
    app = Starlette(
        routes=[
            Route("/_lab/nodes", list_nodes),
            Route("/_lab/nodes/{number:int}/kill", kill, methods=["POST"]),
            Route("/_lab/nodes/{number:int}/restart", restart, methods=["POST"]),
            Route("/_lab/nodes/{number:int}/cut", cut, methods=["POST"]),
            Route("/_lab/nodes/{number:int}/heal", heal, methods=["POST"]),
            Route("/_lab/nodes/{number:int}/wipe", wipe, methods=["POST"]),
            Route("/_lab/copies", list_copies),
            Route(DOWN, down),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
    )
    app.state.nodes, app.state.token = nodes, token
    return app


async def list_nodes(request: Request) -> Response:
    """Say how the nodes are."""
    return JSONResponse([_as_dict(node) for node in _nodes(request)], headers={"cache-control": "no-store"})


async def kill(request: Request) -> Response:
    """Kill a node with -9."""
    node = await _chosen(request)
    await node.kill()
    return _answer(request, node)


async def restart(request: Request) -> Response:
    """Start a node again."""
    node = await _chosen(request)
    try:
        await node.restart()
    except ConfigurationError as error:
        return PlainTextResponse(f"{error}\n", 500)
    return _answer(request, node)


async def cut(request: Request) -> Response:
    """Cut a host off from the others."""
    host = await _chosen_host(request)
    host.cut()
    return _answer(request, host)


async def heal(request: Request) -> Response:
    """Connect a host with the others again."""
    host = await _chosen_host(request)
    host.heal()
    return _answer(request, host)


async def wipe(request: Request) -> Response:
    """Kill a host, remove its store and start it."""
    host = await _chosen_host(request)
    try:
        await host.wipe()
    except ConfigurationError as error:
        return PlainTextResponse(f"{error}\n", 500)
    return _answer(request, host)


async def list_copies(request: Request) -> Response:
    """Say what each host's own store has in this visitor's cart."""
    nodes, cookie = _nodes(request), request.cookies.get(COOKIE, "")
    held = await asyncio.gather(*(cart_at(node.address, cookie) for node in nodes))
    found = [{"name": node.status().name, "cart": count} for node, count in zip(nodes, held, strict=True)]
    return JSONResponse(found, headers={"cache-control": "no-store"})


async def down(request: Request) -> Response:
    """Explain to a visitor why no node has answered, with the buttons that help."""
    status = 502 if request.query_params.get("status") == "502" else 503
    if not wants_page(request):
        return PlainTextResponse(page.DOWN[status] + "\n", status)
    nodes = [page.NodeView(s.name, s.state) for s in (node.status() for node in _nodes(request))]
    hosts = any(isinstance(node, Host) for node in _nodes(request))
    return HTMLResponse(page.down_page(status, nodes, request.app.state.token, hosts), status, headers=page.HEADERS)


async def _chosen(request: Request) -> Node:
    token = (await read_form(request)).get("token", "")
    if not hmac.compare_digest(token.encode(), request.app.state.token.encode()):
        raise HTTPException(403, "the token is missing or wrong; use the buttons of the page")
    nodes = _nodes(request)
    number: int = request.path_params["number"]
    if not 1 <= number <= len(nodes):
        raise HTTPException(404, f"there are nodes 1 to {len(nodes)}")
    return nodes[number - 1]


async def _chosen_host(request: Request) -> Host:
    node = await _chosen(request)
    if not isinstance(node, Host):
        raise HTTPException(404, "the nodes share one store; start the demo with --store peers:")
    return node


def _answer(request: Request, node: Node) -> Response:
    return RedirectResponse("/", 303) if wants_page(request) else JSONResponse(_as_dict(node))


def _nodes(request: Request) -> Sequence[Node]:
    nodes: Sequence[Node] = request.app.state.nodes
    return nodes


def _as_dict(node: Node) -> dict[str, str | int]:
    status = node.status()
    known: dict[str, str | int] = {"name": status.name, "port": status.port, "pid": status.pid, "state": status.state}
    return {**known, "agent": status.agent, "cut": status.cut} if isinstance(node, Host) else known
