"""What is particular to Flask: its settings, its test client, flash, permanent sessions, hooks and error handlers."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    abort,
    after_this_request,
    flash,
    get_flashed_messages,
    redirect,
    render_template_string,
    request,
    send_file,
    session,
    stream_with_context,
)
from flask.testing import FlaskClient
from tests.adapters.mounts import flask_app

from sojourn.adapters.flask import EXTENSION, FlaskSession, Sessions
from sojourn.core.ops import Create, Load, Update
from sojourn.core.outcome import Happened
from sojourn.core.policy import Policy
from sojourn.errors import ConfigurationError, SessionSealed, StoreUnavailable
from sojourn.manager import SessionManager
from sojourn.store.memory import MemoryStore
from sojourn.testing.adapter_harness import AdapterHarness, AwaitedStore
from sojourn.testing.adapter_routes import HandlerFailed
from sojourn.transport.cookie import Cookie


def serving(configure: Callable[[Flask], object]) -> AdapterHarness:
    return AdapterHarness(partial(flask_app, configure=configure))


def small_site(**settings: Any) -> Flask:
    """Return an application of its own, as its author would write it."""
    site = Flask(__name__)
    site.config.update(settings.pop("config", {}))
    Sessions(site, **{"store": "memory:", **settings})
    site.add_url_rule("/put", view_func=put)
    site.add_url_rule("/show", view_func=show)
    return site


def put() -> str:
    session["seen"] = 1
    return "put"


def show() -> dict[str, Any]:
    return dict(session)


def set_cookie(client: FlaskClient, path: str = "/put") -> str:
    [line] = client.get(path).headers.getlist("Set-Cookie")
    return line


# -- flask.session ---------------------------------------------------------------------------------------------


def test_permanent_keeps_the_cookie_for_flasks_permanent_lifetime() -> None:
    def stay() -> str:
        session["seen"] = 1
        session.permanent = True
        return str(session.permanent)

    def leave() -> str:
        session.permanent = False
        return str(session.permanent)

    site = small_site(config={"PERMANENT_SESSION_LIFETIME": timedelta(days=2)})
    site.add_url_rule("/stay", view_func=stay)
    site.add_url_rule("/leave", view_func=leave)
    site.add_url_rule("/permanent", view_func=lambda: str(session.permanent))
    client = site.test_client()
    assert client.get("/permanent").text == "False"
    assert "; Max-Age=172800; " in set_cookie(client, "/stay")
    assert client.get("/permanent").text == "True"
    assert "Max-Age" not in set_cookie(client, "/leave")
    assert client.get("/permanent").text == "False"


def test_flasks_own_default_of_31_days_is_the_permanent_lifetime() -> None:
    def stay() -> str:
        session["seen"] = 1
        session.permanent = True
        return ""

    site = small_site()
    site.add_url_rule("/stay", view_func=stay)
    assert "; Max-Age=2678400; " in set_cookie(site.test_client(), "/stay")


def test_setting_modified_is_harmless() -> None:
    """Nearly every Flask application does it somewhere; a change is measured all the same."""

    def configure(site: Flask) -> None:
        @site.get("/modified")
        def modified() -> str:
            session.modified = True
            before = session.modified
            session["cart"].append("chair")
            return f"{before} {session.modified}"

        @site.get("/unmodified")
        def unmodified() -> str:
            session.modified = True
            return str(session["cart"])

    with serving(configure) as app:
        visitor = app.visitor()
        assert app.cost_of(visitor.visit, "/unmodified") == [Load]
        assert visitor.visit("/modified").body == b"False True"
        assert visitor.sees()["cart"] == ["lamp", "chair"]


def test_new_and_accessed_say_what_they_say_in_flask() -> None:
    said: list[tuple[bool, bool, bool]] = []

    def configure(site: Flask) -> None:
        @site.get("/attributes")
        def attributes() -> str:
            accessed = session.accessed
            said.append((accessed, session.new, session.accessed))
            return ""

    with serving(configure) as app:
        for visitor in (app.newcomer(), app.visitor()):
            visitor.visit("/attributes")
    assert said == [(False, True, True), (False, False, True)]


def test_flash_is_shown_once() -> None:
    def configure(site: Flask) -> None:
        @site.get("/flash")
        def flash_two() -> str:
            flash("Saved.")
            flash("But not everything.", "warning")
            return ""

        @site.get("/flashed")
        def flashed() -> str:
            return str(get_flashed_messages(with_categories=True))

    with serving(configure) as app:
        visitor = app.newcomer()
        visitor.visit("/flash")
        assert visitor.visit("/flashed").body == b"[('message', 'Saved.'), ('warning', 'But not everything.')]"
        assert visitor.visit("/flashed").body == b"[]"
        assert visitor.sees() == {}


def test_a_template_reads_the_session() -> None:
    def configure(site: Flask) -> None:
        @site.get("/page")
        def page() -> str:
            return render_template_string("{{ session['slot 0'] }} {{ session.get('none') }}")

    with serving(configure) as app:
        answer = app.visitor().visit("/page")
        assert (answer.body, answer.members("vary")) == (b"0 None", ["cookie"])


def test_a_page_that_has_no_session_in_it_does_not_vary() -> None:
    """Flask hands the session to every template, and from 3.1.3 marks that as an access; only a look is one."""

    def configure(site: Flask) -> None:
        @site.get("/page")
        def page() -> str:
            return render_template_string("{{ 1 + 1 }}")

    with serving(configure) as app:
        visitor = app.visitor()
        assert app.cost_of(visitor.visit, "/page") == []
        assert visitor.visit("/page").values("vary") == []


def test_a_request_context_of_a_shell_or_a_test_has_a_session() -> None:
    site = small_site()
    with site.test_request_context("/"):
        session["seen"] = 1
        assert isinstance(session._get_current_object(), FlaskSession)  # type: ignore[attr-defined]
        assert dict(session) == {"seen": 1}


# -- Flask's test client ---------------------------------------------------------------------------------------


def test_session_transaction_writes_before_and_reads_after() -> None:
    client = small_site().test_client()
    with client.session_transaction() as before:
        before["cart"] = ["lamp"]
    client.get("/put")
    with client.session_transaction() as after:
        assert dict(after) == {"cart": ["lamp"], "seen": 1}
        after["cart"].append("chair")
    assert client.get("/show").json == {"cart": ["lamp", "chair"], "seen": 1}


def test_session_transaction_logs_in_and_out() -> None:
    client = small_site().test_client()
    client.get("/put")
    with client.session_transaction() as handled:
        assert isinstance(handled, FlaskSession)
        handled.login("alice")
    with client.session_transaction() as handled:
        assert isinstance(handled, FlaskSession)
        assert handled.principal == "alice"
        handled.logout()
    assert client.get("/show").json == {}


def test_an_exception_in_a_test_propagates_and_stores_nothing() -> None:
    def fail() -> str:
        session["half"] = "done"
        raise HandlerFailed

    site = small_site()
    site.testing = True
    site.add_url_rule("/fail", view_func=fail)
    client = site.test_client()
    with pytest.raises(HandlerFailed):
        client.get("/fail")
    assert client.get("/show").json == {}


# -- settings --------------------------------------------------------------------------------------------------


DEFAULT = "; Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.mark.parametrize(
    ("config", "name", "attributes"),
    [
        ({}, "__Host-sid", DEFAULT),
        ({"SESSION_COOKIE_NAME": "shop"}, "shop", DEFAULT),
        ({"SESSION_COOKIE_SAMESITE": "Strict"}, "__Host-sid", "; Path=/; Secure; HttpOnly; SameSite=Strict"),
        ({"SESSION_COOKIE_HTTPONLY": False}, "__Host-sid", "; Path=/; Secure; SameSite=Lax"),
        ({"SESSION_COOKIE_SECURE": True}, "__Host-sid", DEFAULT),
        (
            {"SESSION_COOKIE_NAME": "shop", "SESSION_COOKIE_PATH": "/shop", "SESSION_COOKIE_DOMAIN": "example.org"},
            "shop",
            "; Path=/shop; Domain=example.org; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            {"SESSION_COOKIE_PARTITIONED": True, "SESSION_COOKIE_SAMESITE": "None"},
            "__Host-sid",
            "; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_flasks_cookie_settings_are_honoured_where_they_were_changed(
    config: dict[str, Any], name: str, attributes: str
) -> None:
    line = set_cookie(small_site(config=config).test_client())
    assert (line.partition("=")[0], "; " + line.partition("; ")[2]) == (name, attributes)


def test_a_wrong_setting_is_refused_when_the_application_is_built() -> None:
    with pytest.raises(ConfigurationError, match="take a name without __Host-"):
        small_site(config={"SESSION_COOKIE_DOMAIN": "example.org"})
    with pytest.raises(ConfigurationError, match="no store"):
        Sessions(Flask(__name__))
    with pytest.raises(ConfigurationError, match="AwaitedStore is async"):
        Sessions(Flask(__name__), store=AwaitedStore(MemoryStore()))
    with pytest.raises(ConfigurationError, match="store are both given"):
        Sessions(Flask(__name__), SessionManager("memory:"), store="memory:")


def test_an_older_flask_lacks_a_setting_and_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flask 3.0 knows nothing of SESSION_COOKIE_PARTITIONED."""
    older = {name: value for name, value in Flask.default_config.items() if name != "SESSION_COOKIE_PARTITIONED"}
    monkeypatch.setattr(Flask, "default_config", older)
    assert set_cookie(small_site().test_client()).endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")


def test_plain_http_on_a_developers_machine_keeps_the_other_settings() -> None:
    site = small_site(insecure_dev=True, config={"SESSION_COOKIE_SAMESITE": "Strict"})
    line = set_cookie(site.test_client())
    assert line.startswith("sid=")
    assert line.endswith("; Path=/; HttpOnly; SameSite=Strict")


def test_a_setting_that_asks_for_secure_wins_over_plain_http() -> None:
    line = set_cookie(small_site(insecure_dev=True, config={"SESSION_COOKIE_SECURE": True}).test_client())
    assert line.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")


def test_a_cookie_or_a_manager_that_is_given_wins_over_flasks_settings() -> None:
    config = {"SESSION_COOKIE_NAME": "shop"}
    assert set_cookie(small_site(config=config, cookie=Cookie()).test_client()).startswith("__Host-sid=")
    site = Flask(__name__)
    site.config.update(config)
    Sessions(site, SessionManager("memory:"))
    site.add_url_rule("/put", view_func=put)
    assert set_cookie(site.test_client()).startswith("__Host-sid=")


# -- factories -------------------------------------------------------------------------------------------------


def test_one_extension_serves_several_applications_that_share_nothing() -> None:
    sessions = Sessions(store="memory:")

    def create_app(name: str) -> Flask:
        site = Flask(__name__)
        site.config["SESSION_COOKIE_NAME"] = name
        sessions.init_app(site)
        site.add_url_rule("/put", view_func=put)
        site.add_url_rule("/show", view_func=show)
        return site

    one, two = create_app("one"), create_app("two")
    assert one.extensions[EXTENSION] is not two.extensions[EXTENSION]
    clients = [one.test_client(), two.test_client()]
    lines = [set_cookie(client) for client in clients]
    assert [line.partition("=")[0] for line in lines] == ["one", "two"]
    stolen = lines[0].partition("=")[2].partition(";")[0]
    clients[1].set_cookie("two", stolen)
    assert clients[1].get("/show").json == {}
    assert clients[0].get("/show").json == {"seen": 1}


def test_one_manager_serves_several_applications_as_one() -> None:
    manager = SessionManager("memory:")
    sessions = Sessions(manager=manager)
    sites = [Flask(__name__) for _ in range(2)]
    for site in sites:
        sessions.init_app(site)
        site.add_url_rule("/put", view_func=put)
        site.add_url_rule("/show", view_func=show)
    id = set_cookie(sites[0].test_client()).partition("=")[2].partition(";")[0]
    other = sites[1].test_client()
    other.set_cookie("__Host-sid", id)
    assert other.get("/show").json == {"seen": 1}


# -- hooks and errors ------------------------------------------------------------------------------------------


def test_hooks_before_and_after_the_view_change_the_session() -> None:
    def configure(site: Flask) -> None:
        part = Blueprint("part", __name__)

        @site.before_request
        def before() -> None:
            session["before"] = 1

        @part.after_request
        def after(response: Any) -> Any:
            session["after"] = 1
            return response

        @part.get("/part")
        def view() -> str:
            @after_this_request
            def this(response: Any) -> Any:
                session["this"] = 1
                return response

            return str(sorted(session))

        site.register_blueprint(part)

    with serving(configure) as app:
        visitor = app.newcomer()
        assert visitor.visit("/part").body == b"['before']"
        assert visitor.sees() == {"before": 1, "after": 1, "this": 1}


def test_a_change_in_teardown_comes_too_late_and_is_refused() -> None:
    raised: list[Exception] = []

    def configure(site: Flask) -> None:
        @site.teardown_request
        def teardown(error: BaseException | None) -> None:
            try:
                session["late"] = 1
            except SessionSealed as sealed:
                raised.append(sealed)

    with serving(configure) as app:
        visitor = app.newcomer()
        visitor.visit("/put/0")
        assert len(raised) == 1
        assert visitor.sees() == {"slot 0": 0}


def test_errors_that_the_application_handles_commit_up_to_499() -> None:
    def configure(site: Flask) -> None:
        @site.errorhandler(HandlerFailed)
        def handled(error: HandlerFailed) -> tuple[str, int]:
            session["handled"] = 1
            return "handled", 422

        @site.errorhandler(404)
        def missing(error: Any) -> tuple[str, int]:
            session["missed"] = 1
            return "no such page", 404

        @site.get("/leave")
        def leave() -> Any:
            session["left"] = 1
            return redirect("/show")

        @site.get("/abort/<int:status>")
        def stop(status: int) -> None:
            session[f"aborted {status}"] = 1
            abort(status)

    with serving(configure) as app:
        visitor = app.newcomer()
        assert visitor.visit("/fail").status == 422
        assert visitor.visit("/abort/404").status == 404
        assert visitor.visit("/abort/403").status == 403
        assert visitor.visit("/abort/503").status == 503
        assert visitor.visit("/leave").status == 302
        expected = {"half": "done", "handled": 1, "missed": 1, "aborted 404": 1, "aborted 403": 1, "left": 1}
        assert visitor.sees() == expected


def test_a_page_for_500_stores_nothing_and_hands_out_no_cookie() -> None:
    def configure(site: Flask) -> None:
        @site.errorhandler(500)
        def sorry(error: Any) -> tuple[str, int]:
            session["sorry"] = 1
            return "sorry", 500

    with serving(configure) as app:
        visitor = app.newcomer()
        answer = visitor.visit("/fail")
        assert (answer.status, answer.body, app.told(answer)) == (500, b"sorry", [])
        assert app.happened() == [(Happened.UNSAVED, ("half", "sorry"))]
        assert app.store.frames == {}


def test_an_application_words_its_own_refusal_at_a_look() -> None:
    def configure(site: Flask) -> None:
        @site.errorhandler(StoreUnavailable)
        def sorry(error: StoreUnavailable) -> tuple[str, int, dict[str, str]]:
            return "back in a minute", 503, {"Retry-After": "60"}

    with serving(configure) as app:
        visitor = app.visitor()
        with app.outage(Load):
            answer = visitor.visit("/show")
        assert (answer.status, answer.body, answer.values("retry-after")) == (503, b"back in a minute", ["60"])
        with app.outage(Update):
            answer = visitor.visit("/put/1")
        assert (answer.status, answer.values("retry-after")) == (503, ["7"])


def test_a_host_that_flask_does_not_trust_stays_a_400() -> None:
    """Flask raises again when it is asked for the host of such a request, and the commit must not ask."""

    def configure(site: Flask) -> None:
        site.config["TRUSTED_HOSTS"] = ["other.example"]

        @site.before_request
        def look() -> None:
            session["seen"] = 1

    with serving(configure) as app:
        assert app.newcomer().visit("/hello").status == 400


def test_a_refusal_lets_go_of_the_file_that_was_to_be_sent(tmp_path: Path) -> None:
    opened: list[io.BufferedReader] = []
    path = tmp_path / "report.txt"
    path.write_text("a report")

    def configure(site: Flask) -> None:
        @site.get("/report")
        def report() -> Any:
            session["downloads"] = 1
            opened.append(path.open("rb"))
            return send_file(opened[-1], mimetype="text/plain")

    with serving(configure) as app:
        visitor = app.newcomer()
        with app.outage(Create):
            answer = visitor.visit("/report")
        assert (answer.status, answer.body[:17], opened[0].closed) == (503, b"The session store", True)
        assert app.happened() == [(Happened.UNSAVED, ("downloads",))]
        answer = visitor.visit("/report")
        assert (answer.status, answer.body) == (200, b"a report")
        app.issued(answer)


def test_a_refused_stream_is_closed() -> None:
    closed: list[bool] = []

    def pieces() -> Iterator[str]:
        try:
            yield "one"
        finally:
            closed.append(True)

    class Closing:
        def __init__(self) -> None:
            self.pieces = pieces()
            next(self.pieces)

        def __iter__(self) -> Iterator[str]:
            return self.pieces

        def close(self) -> None:
            self.pieces.close()  # type: ignore[attr-defined]

    def configure(site: Flask) -> None:
        @site.get("/stream-of-mine")
        def stream() -> Any:
            session["early"] = 1
            return site.response_class(Closing())

    with serving(configure) as app, app.outage():
        assert app.newcomer().visit("/stream-of-mine").status == 503
        assert closed == [True]


# -- streams ---------------------------------------------------------------------------------------------------


def test_a_stream_with_its_context_keeps_a_change_by_reopen_and_save() -> None:
    def configure(site: Flask) -> None:
        @site.get("/report")
        def report() -> Any:
            @stream_with_context
            def pieces() -> Iterator[str]:
                yield "one"
                session.reopen()  # type: ignore[attr-defined]
                session["late"] = 1
                session.save()  # type: ignore[attr-defined]
                yield str(session["late"])

            session["early"] = 1
            return site.response_class(pieces())

    with serving(configure) as app:
        visitor = app.newcomer()
        assert visitor.visit("/report").body == b"one1"
        assert visitor.sees() == {"early": 1, "late": 1}


def test_a_stream_without_its_context_has_no_session_as_ever_in_flask() -> None:
    def configure(site: Flask) -> None:
        @site.get("/report")
        def report() -> Any:
            def pieces() -> Iterator[str]:
                yield "one"
                session["late"] = 1

            return site.response_class(pieces())

    with serving(configure) as app:
        assert app.newcomer().visit("/report").body == b"one"
        assert "Working outside of request context" in app.log.text


def test_what_runs_when_the_response_is_closed_may_reopen_and_save() -> None:
    def configure(site: Flask) -> None:
        @site.get("/report")
        def report() -> Any:
            held: Any = session._get_current_object()  # type: ignore[attr-defined]
            held["early"] = 1
            response = site.response_class("done")

            @response.call_on_close
            def work() -> None:
                held.reopen()
                held["late"] = 1
                held.save()

            return response

    with serving(configure) as app:
        visitor = app.newcomer()
        visitor.visit("/report")
        assert visitor.sees() == {"early": 1, "late": 1}
        assert (Happened.UNSAVED, ("late",)) not in app.happened()


# -- the answer ------------------------------------------------------------------------------------------------


def test_vary_and_caching_set_through_flasks_own_objects_are_kept() -> None:
    def configure(site: Flask) -> None:
        @site.get("/own")
        def own() -> Any:
            session["seen"] = 1
            response = site.response_class("own")
            response.vary.add("Accept-Language")
            response.cache_control.public = True
            response.cache_control.max_age = 60
            response.set_cookie("theme", "dark")
            return response

    with serving(configure) as app:
        visitor = app.visitor()
        visitor.visit("/own")
        answer = visitor.visit("/own")
        assert answer.members("vary") == ["accept-language", "cookie"]
        assert sorted(answer.members("cache-control")) == ["max-age=60", "public"]
        answer = app.newcomer().visit("/own")
        assert answer.members("cache-control") == ["no-store"]
        assert len(answer.values("set-cookie")) == 2


def test_head_and_not_modified_answers_carry_the_cookie() -> None:
    def configure(site: Flask) -> None:
        @site.get("/etag")
        def etag() -> Any:
            session["seen"] = 1
            response = site.response_class("page")
            response.set_etag("1")
            return response.make_conditional(request)

    with serving(configure) as app:
        answer = app.request("HEAD", "/put/0")
        app.issued(answer)
        assert answer.body == b""
        answer = app.request("GET", "/etag", headers=[("if-none-match", '"1"')])
        assert answer.status == 304
        app.issued(answer)


def test_a_conflict_is_409_from_flask_too() -> None:
    with AdapterHarness(flask_app) as app:
        app.restart(policy=Policy(on_conflict="refuse"))
        visitor = app.visitor()
        tab = visitor.twin()
        answer = app.overlap(lambda: visitor.visit("/slow/put/0"), lambda: tab.visit("/public"))
        assert (answer.status, answer.values("content-type")) == (409, ["text/plain; charset=utf-8"])


def test_a_session_is_gone_with_its_request() -> None:
    """No cycle of ours keeps requests alive until the garbage collector runs."""
    sessions: list[weakref.ref[Any]] = []

    def configure(site: Flask) -> None:
        @site.get("/own")
        def own() -> str:
            held: Any = session._get_current_object()  # type: ignore[attr-defined]
            sessions.append(weakref.ref(held))
            held["seen"] = len(sessions)
            return ""

    gc.collect()
    gc.disable()
    try:
        with serving(configure) as app:
            visitor = app.newcomer()
            for _ in range(3):
                visitor.visit("/own")
            assert [held() for held in sessions] == [None] * 3
    finally:
        gc.enable()
