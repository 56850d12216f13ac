"""The shop as browsers see it. Run this with ``python -m pytest`` in this directory."""

import asyncio
from typing import Any

import httpx
import pytest
from shop import make_app
from starlette.applications import Starlette

from sojourn import DAY, HOUR, StoreUnavailable
from sojourn.core.ops import Load
from sojourn.store.memory import MemoryStore
from sojourn.testing import FakeClock, ScriptedStore
from sojourn.testing.adapter_harness import AwaitedStore

LOGIN = {"name": "user-7", "password": "correct horse"}


class Browser:
    """One visitor. The address begins with https, or no Secure cookie would be kept."""

    def __init__(self, app: Starlette) -> None:
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://shop.example")

    def get(self, path: str) -> Any:
        return asyncio.run(self.http.get(path)).json()

    def post(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self.http.post(path, **more))

    def click_at_once(self, times: int, path: str) -> None:
        async def click() -> None:
            await asyncio.gather(*(self.http.post(path) for _ in range(times)))

        asyncio.run(click())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(clock: FakeClock) -> Starlette:
    return make_app("memory:", clock=clock)


def test_the_cart_is_kept_over_a_login(app: Starlette) -> None:
    visitor = Browser(app)
    visitor.post("/cart/lamp")
    before = visitor.http.cookies["__Host-sid"]
    assert visitor.post("/login", json=LOGIN).json() == {"user": "user-7", "cart": {"lamp": 1}}
    assert visitor.http.cookies["__Host-sid"] != before


@pytest.mark.parametrize("wrong", [{**LOGIN, "password": "guess"}, {"name": "nobody", "password": ""}])
def test_a_wrong_password_logs_nobody_in(app: Starlette, wrong: dict[str, str]) -> None:
    visitor = Browser(app)
    assert visitor.post("/login", json=wrong).status_code == 401
    assert visitor.get("/") == {"user": None, "cart": {}}


def test_clicks_that_overlap_all_count() -> None:
    visitor = Browser(make_app(AwaitedStore(MemoryStore())))
    visitor.post("/cart/lamp")
    visitor.click_at_once(5, "/cart/lamp")
    assert visitor.get("/")["cart"] == {"lamp": 6}


def test_who_asks_for_it_is_remembered(app: Starlette, clock: FakeClock) -> None:
    visitor = Browser(app)
    assert "Max-Age=2592000" in visitor.post("/login", json={**LOGIN, "remember": True}).headers["set-cookie"]
    clock.advance(29 * DAY)
    assert visitor.get("/")["user"] == "user-7"
    clock.advance(30 * DAY + HOUR)
    assert visitor.get("/")["user"] is None


def test_a_copied_cookie_opens_nothing_after_the_logout(app: Starlette) -> None:
    visitor, thief = Browser(app), Browser(app)
    visitor.post("/login", json=LOGIN)
    thief.http.cookies.update(visitor.http.cookies)
    assert thief.get("/")["user"] == "user-7"
    visitor.post("/logout")
    assert thief.get("/")["user"] is None


def test_an_outage_is_503_and_the_cookie_stays() -> None:
    visitor = Browser(make_app(ScriptedStore((Load, StoreUnavailable("down", retry_after=7)))))
    visitor.http.cookies["__Host-sid"] = "A" * 43
    answer = visitor.post("/cart/lamp")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert "set-cookie" not in answer.headers
