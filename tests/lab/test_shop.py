"""The shop by itself: what it shows, what it keeps in the session, what it refuses."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sojourn.lab.catalog import CATALOG
from sojourn.lab.page import HEADERS
from sojourn.lab.shop import COOKIE, Setup, shop
from sojourn.lab.texts import TEXTS

PAGE = {"accept": "text/html,application/xhtml+xml"}


class Visitor:
    """A client with a cookie jar, in the same process as the shop."""

    def __init__(self, runner: asyncio.Runner, setup: Setup) -> None:
        transport = httpx.ASGITransport(shop(setup))
        self._runner, self._client = runner, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        self.cookies = self._client.cookies

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._client.get(path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._client.post(path, **more))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def visitor(runner: asyncio.Runner) -> Visitor:
    return Visitor(runner, Setup(node="node-2", nodes=3, token="secret"))


def test_looking_around_begins_no_session(visitor: Visitor) -> None:
    page = visitor.get("/", headers=PAGE)
    assert page.status_code == 200
    assert "set-cookie" not in page.headers
    assert visitor.get("/api/session").json()["session"] is None


def test_a_form_is_answered_with_a_redirect_and_curl_with_json(visitor: Visitor) -> None:
    page = visitor.post("/cart", data={"item": "tent"}, headers=PAGE)
    assert (page.status_code, page.headers["location"]) == (303, "/")
    facts = visitor.post("/cart", data={"item": "tent"}).json()
    assert facts["values"]["cart"] == {"tent": 2}
    assert facts["node"] == "node-2"


def test_what_is_taken_out_of_the_cart_is_gone(visitor: Visitor) -> None:
    visitor.post("/cart", data={"item": "tent"})
    assert visitor.post("/cart", data={"item": "tent", "by": "-1"}).json()["values"]["cart"] == {}
    assert visitor.post("/cart", data={"item": "tent", "by": "-1"}).json()["values"]["cart"] == {}


@pytest.mark.parametrize("language", TEXTS)
def test_the_shop_speaks_each_language(visitor: Visitor, language: str) -> None:
    visitor.post("/language", data={"language": language})
    visitor.post("/cart", data={"item": "tent"})
    page = visitor.get("/").text
    assert f'<html lang="{language}">' in page
    assert TEXTS[language].title in page
    for item in CATALOG.values():
        assert item.names[language] in page


def test_login_changes_the_id_and_keeps_the_cart(visitor: Visitor) -> None:
    visitor.post("/cart", data={"item": "tent"})
    before = visitor.cookies[COOKIE]
    facts = visitor.post("/login", data={"name": " Ada "}).json()
    assert (facts["user"], facts["values"]["cart"]) == ("Ada", {"tent": 1})
    after = visitor.cookies[COOKIE]
    assert after != before
    assert visitor.get("/api/session", headers={"cookie": f"{COOKIE}={before}"}).json()["user"] is None


def test_logout_keeps_the_language_and_nothing_else(visitor: Visitor) -> None:
    visitor.post("/language", data={"language": "de"})
    visitor.post("/cart", data={"item": "tent"})
    visitor.post("/login", data={"name": "Ada"})
    facts = visitor.post("/logout").json()
    assert (facts["user"], facts["values"]) == (None, {"language": "de"})


def test_logout_without_a_language_leaves_no_session(visitor: Visitor) -> None:
    visitor.post("/login", data={"name": "Ada"})
    visitor.post("/logout")
    assert COOKIE not in visitor.cookies


def test_the_page_says_which_node_did_what(visitor: Visitor) -> None:
    visitor.post("/cart", data={"item": "tent"})
    page = visitor.get("/").text
    assert '<b id="node">node-2</b>' in page
    assert '<b id="click">node-2</b>' in page
    assert "cart +1 tent" in page


def test_the_page_shows_the_handle_and_never_the_id(visitor: Visitor) -> None:
    visitor.post("/login", data={"name": "Ada"})
    facts, page = visitor.get("/api/session").json(), visitor.get("/").text
    assert facts["session"] in page
    assert visitor.cookies[COOKIE] not in page
    assert visitor.cookies[COOKIE] not in str(facts)


def test_a_name_is_text_and_never_markup(visitor: Visitor) -> None:
    visitor.post("/login", data={"name": "<script>alert(1)</script>"})
    page = visitor.get("/").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_only_our_own_script_and_style_are_obeyed(visitor: Visitor) -> None:
    policy = visitor.get("/").headers["content-security-policy"]
    assert policy == HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/cart", {"item": "yacht"}),
        ("/cart", {}),
        ("/cart", {"item": "tent", "by": "1000000"}),
        ("/language", {"language": "xx"}),
        ("/login", {"name": ""}),
        ("/login", {"name": "   "}),
        ("/login", {"name": "a" * 41}),
        ("/login", {"name": "a\x00b"}),
        ("/cart", {f"field-{number}": "x" for number in range(11)}),
    ],
)
def test_a_wrong_form_is_refused_and_begins_no_session(visitor: Visitor, path: str, data: dict[str, str]) -> None:
    answer = visitor.post(path, data=data)
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


def test_a_form_that_is_too_long_or_no_text_is_refused(visitor: Visitor) -> None:
    assert visitor.post("/login", data={"name": "a" * 5000}).status_code == 413
    assert visitor.post("/login", content=b"name=\xff").status_code == 400


# -- requests that other pages cause -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8000"}, 403),
    ],
)
def test_another_site_cannot_post(visitor: Visitor, headers: dict[str, str], status: int) -> None:
    answer = visitor.post("/cart", data={"item": "tent"}, headers=headers)
    assert answer.status_code == status
    assert ("set-cookie" in answer.headers) == (status == 200)


def test_another_site_can_link_here(visitor: Visitor) -> None:
    assert visitor.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_a_host_name_that_points_here_is_refused(visitor: Visitor) -> None:
    assert visitor.get("/", headers={"host": "evil.example"}).status_code == 400


def test_without_the_lab_the_page_has_no_panel_of_nodes(visitor: Visitor, runner: asyncio.Runner) -> None:
    assert "/_lab/nodes/3/kill" in visitor.get("/").text
    assert "/_lab/nodes/1/kill" not in Visitor(runner, Setup()).get("/").text


def test_a_setup_survives_the_environment() -> None:
    setup = Setup(node="node-7", store="local:/x", nodes=9, token="t")
    assert Setup.from_environment(setup.to_environment()) == setup
    assert Setup.from_environment({}) == Setup()
