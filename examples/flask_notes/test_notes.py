"""The notes as browsers see them. Run this with ``python -m pytest`` in this directory."""

from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from notes import make_app

from sojourn import Policy, StoreUnavailable
from sojourn.core.ops import Load
from sojourn.testing import FakeClock, ScriptedStore

LOGIN = {"name": "user-7", "password": "correct horse"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(clock: FakeClock) -> Flask:
    return make_app("memory:", clock=clock)


@pytest.fixture
def visitor(app: Flask) -> FlaskClient:
    return app.test_client()


def texts(visitor: FlaskClient) -> list[str]:
    return [note["text"] for note in visitor.get("/").json["notes"]]


def test_notes_are_added_and_deleted(visitor: FlaskClient) -> None:
    for text in ("milk", "bread", "tea"):
        assert visitor.post("/notes", data={"text": text}).status_code == 303
    assert visitor.get("/").json["messages"] == ["Noted."] * 3
    visitor.post("/notes/1/delete")
    assert texts(visitor) == ["milk", "tea"]
    assert visitor.post("/notes/7/delete").status_code == 404


def test_the_notes_are_kept_over_a_login_and_gone_after_a_logout(visitor: FlaskClient) -> None:
    visitor.post("/notes", data={"text": "milk"})
    before = visitor.get_cookie("__Host-sid")
    visitor.post("/login", data=LOGIN)
    assert visitor.get_cookie("__Host-sid") != before
    assert (visitor.get("/").json["user"], texts(visitor)) == ("user-7", ["milk"])
    visitor.post("/logout")
    assert (visitor.get("/").json["user"], texts(visitor)) == (None, [])
    assert visitor.get_cookie("__Host-sid") is None


@pytest.mark.parametrize("wrong", [{**LOGIN, "password": "guess"}, {"name": "nobody", "password": ""}])
def test_a_wrong_password_logs_nobody_in(visitor: FlaskClient, wrong: dict[str, str]) -> None:
    assert visitor.post("/login", data=wrong).status_code == 401
    assert visitor.get("/").json["user"] is None


def test_permanent_asks_the_browser_to_keep_the_cookie_and_the_server_keeps_its_timeouts(clock: FakeClock) -> None:
    app = make_app("memory:", clock=clock, policy=Policy(idle_timeout=timedelta(days=7), lifetime=timedelta(days=90)))
    visitor = app.test_client()
    answer = visitor.post("/login", data={**LOGIN, "remember": "yes"})
    assert "Max-Age=2678400" in answer.headers["set-cookie"]  # PERMANENT_SESSION_LIFETIME, 31 days
    clock.advance(days=6)
    assert visitor.get("/").json["user"] == "user-7"
    clock.advance(days=8)
    assert visitor.get("/").json["user"] is None


def test_an_outage_is_503_and_the_cookie_stays() -> None:
    app = make_app(ScriptedStore((Load, StoreUnavailable("down", retry_after=7))))
    visitor = app.test_client()
    visitor.set_cookie("__Host-sid", "A" * 43)
    answer = visitor.get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert "set-cookie" not in answer.headers
