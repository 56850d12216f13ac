"""A small shop: a cart, a login, a logout. Start it with ``uvicorn --factory shop:make_app``."""

from collections import Counter
from hmac import compare_digest
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sojourn import DAY, Policy
from sojourn.adapters.starlette import SessionMiddleware, get_session

PASSWORDS = {"user-7": "correct horse"}  # yours are hashed and in a database


async def show(request: Request, status: int = 200) -> JSONResponse:
    session = get_session(request)
    return JSONResponse({"user": session.principal, "cart": session.get("cart", {})}, status)


async def add(request: Request) -> JSONResponse:
    cart, item = get_session(request).setdefault("cart", {}), request.path_params["item"]
    cart[item] = cart.get(item, 0) + 1  # a change inside a value is seen
    return await show(request)


async def log_in(request: Request) -> JSONResponse:
    given = await request.json()
    password = PASSWORDS.get(given["name"])
    if password is None or not compare_digest(password.encode(), given["password"].encode()):
        return await show(request, 401)
    get_session(request).login(given["name"])  # a new id; the cart is kept
    get_session(request).remember(30 * DAY if given.get("remember") else -1)
    return await show(request)


async def log_out(request: Request) -> JSONResponse:
    get_session(request).logout()
    return await show(request)


def add_up(read: dict | None, found: dict | None, written: dict | None) -> dict:
    """Return the cart after two requests have changed it at once: both changes count."""
    return dict(Counter(found or {}) + Counter(written or {}) - Counter(read or {}))


def make_app(store: Any = "local:", **settings: Any) -> Starlette:
    policy = Policy(idle_timeout=30 * DAY, lifetime=90 * DAY)
    sessions = Middleware(SessionMiddleware, store=store, policy=policy, resolvers={"cart": add_up}, **settings)
    routes = [
        Route("/", show),
        Route("/cart/{item}", add, methods=["POST"]),
        Route("/login", log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[sessions])
