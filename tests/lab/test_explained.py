"""503 as a page: for browsers only, with a second try for looks and none for changes."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sojourn.lab.explained import Explained
from sojourn.lab.page import NodeView, unavailable_page

BROWSER = {"accept": "text/html,*/*;q=0.8"}


def page(changed: bool) -> str:
    return unavailable_page("node-2", changed, [NodeView("node-1"), NodeView("node-2")], "token", True)


async def refuse(request: Request) -> Response:
    return PlainTextResponse("The session store cannot answer.\n", 503, headers={"retry-after": "5"})


async def serve(request: Request) -> Response:
    return PlainTextResponse("here it is\n")


APP = Starlette(
    routes=[Route("/", refuse, methods=["GET", "POST"]), Route("/fine", serve)],
    middleware=[Middleware(Explained, page=page)],
)


def ask(method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(asked())


def test_a_look_is_explained_and_tried_again() -> None:
    answer = ask("GET", "/", BROWSER)
    assert (answer.status_code, answer.headers["refresh"], answer.headers["retry-after"]) == (503, "1", "1")
    assert "node-2 cannot answer for your session" in answer.text
    assert "/_lab/nodes/1/heal" in answer.text
    assert "The session store" not in answer.text


def test_a_change_is_explained_and_not_repeated() -> None:
    answer = ask("POST", "/", BROWSER)
    assert answer.status_code == 503
    assert "refresh" not in answer.headers
    assert "may or may not have been made" in answer.text


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_curl_is_told_in_plain_text(method: str) -> None:
    answer = ask(method, "/", {"accept": "*/*"})
    assert (answer.status_code, answer.text) == (503, "The session store cannot answer.\n")


def test_what_is_no_refusal_passes() -> None:
    answer = ask("GET", "/fine", BROWSER)
    assert (answer.status_code, answer.text) == (200, "here it is\n")
