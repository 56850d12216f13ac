"""What every adapter promises when requests overlap, the response has begun, or something goes wrong, as stories."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from typing import Any

from sojourn.core.ops import Create, Delete, Load, Touch, Update
from sojourn.core.outcome import Happened
from sojourn.core.policy import Policy
from sojourn.testing.adapter_harness import INSIDE, TAKEN_BACK, AdapterHarness, AdapterStory, Answer
from sojourn.testing.adapter_routes import SEALED, SLOTS, STATUSES

TROUBLE_STORIES: list[AdapterStory] = []


def story(function: AdapterStory) -> AdapterStory:
    """Add *function* to the contract."""
    TROUBLE_STORIES.append(function)
    return function


# -- requests that overlap -------------------------------------------------------------------------------------


@story
def parallel_requests_that_change_different_keys_are_both_kept(app: AdapterHarness) -> None:
    visitor = app.visitor()
    tab = visitor.twin()
    answer = app.overlap(lambda: visitor.visit("/slow/put"), lambda: tab.visit("/put/1"))
    assert (answer.status, app.told(answer)) == (200, [])
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], "slow": 1, "slot 1": 1}


@story
def many_requests_at_once_are_all_kept(app: AdapterHarness) -> None:
    visitor = app.visitor()
    answers = app.at_once(*(partial(visitor.send, f"/put/{slot}") for slot in SLOTS))
    assert [answer.status for answer in answers] == [200] * len(SLOTS)
    assert visitor.sees() == {"cart": ["lamp"], **{f"slot {slot}": slot for slot in SLOTS}}


@story
def a_slow_reader_reverts_nothing(app: AdapterHarness) -> None:
    visitor = app.visitor()
    tab = visitor.twin()
    app.clock.advance(minutes=5)
    app.overlap(lambda: visitor.visit("/slow/show"), lambda: tab.visit("/cart"))
    assert visitor.sees().get("cart") == ["lamp", "lamp"]


@story
def a_lost_update_is_never_silent(app: AdapterHarness) -> None:
    visitor = app.visitor()
    tab = visitor.twin()
    app.overlap(lambda: visitor.visit("/slow/put/0"), lambda: tab.visit("/public"))
    assert visitor.sees().get("slot 0") == "slow"
    assert app.happened() == [(Happened.CONFLICT, ("slot 0",))]


@story
def a_conflict_that_policy_refuses_is_409(app: AdapterHarness) -> None:
    app.restart(policy=Policy(on_conflict="refuse"))
    visitor = app.visitor()
    tab = visitor.twin()
    answer = app.overlap(lambda: visitor.visit("/slow/put/0"), lambda: tab.visit("/public"))
    assert (answer.status, app.told(answer)) == (409, [])
    assert answer.members("cache-control") == ["no-store"]
    assert b"slot 0" not in answer.body
    assert visitor.sees().get("slot 0") == 2
    assert app.happened() == [(Happened.UNSAVED, ("slot 0",))]
    assert "slot 0" in app.log.text, "the operator reads which key it was"


@story
def a_slow_request_does_not_undo_a_logout(app: AdapterHarness) -> None:
    for path in ("/slow/put", "/slow/show", "/slow/rotate", "/stream/save-slow"):
        visitor = app.visitor()
        tab, stolen = visitor.twin(), visitor.twin()
        app.clock.advance(minutes=5)
        answer = app.overlap(partial(visitor.visit, path), partial(tab.visit, "/logout"))
        assert (answer.status, app.told(answer)) == (200, []), path
        assert tab.jar == {}
        assert stolen.sees() == {}
        lost = [(Happened.LOST, keys) for keys in ((("slow",),) if path == "/slow/put" else ())]
        lost += [(Happened.LOST, ("late",))] if path == "/stream/save-slow" else []
        assert [(kind, keys) for kind, keys in app.happened() if kind is Happened.LOST] == lost


@story
def a_slow_request_does_not_undo_a_login(app: AdapterHarness) -> None:
    for path in ("/slow/put", "/slow/show", "/slow/rotate"):
        visitor = app.visitor()
        tab, planted = visitor.twin(), visitor.twin()
        answer = app.overlap(partial(visitor.visit, path), partial(tab.visit, "/login"))
        assert (answer.status, app.told(answer)) == (200, []), path
        assert tab.is_logged_in_as() == "alice"
        assert planted.sees() == {}


@story
def a_request_in_flight_survives_a_renewal(app: AdapterHarness) -> None:
    visitor = app.visitor()
    tab = visitor.twin()
    answer = app.overlap(lambda: visitor.visit("/slow/put"), lambda: tab.visit("/rotate"))
    assert (answer.status, app.told(answer)) == (200, [])
    assert tab.sees() == {"slot 0": 0, "cart": ["lamp"], "slow": 1}


@story
def two_visitors_at_once_stay_two(app: AdapterHarness) -> None:
    alice, nobody = app.visitor(), app.newcomer()
    alice.visit("/login")
    answer = app.overlap(lambda: nobody.visit("/slow/put"), lambda: alice.visit("/put/1"))
    app.issued(answer)
    assert (nobody.sees(), nobody.is_logged_in_as()) == ({"slow": 1}, None)
    assert alice.sees() == {"slot 0": 0, "cart": ["lamp"], "slot 1": 1}
    answer = app.overlap(lambda: alice.visit("/slow/show"), lambda: nobody.visit("/put/2"))
    assert json.loads(answer.body) == {"values": alice.sees(), "principal": "alice"}
    assert nobody.is_logged_in_as() is None


# -- after the response has begun ------------------------------------------------------------------------------


@story
def the_session_is_stored_before_the_first_byte(app: AdapterHarness) -> None:
    visitor = app.visitor()
    tab = visitor.twin()
    seen: list[Any] = []
    answer = app.overlap(lambda: visitor.visit("/stream/slow"), lambda: seen.append(tab.sees()))
    assert answer.status == 200
    assert seen == [{"slot 0": 0, "cart": ["lamp"], "early": 1}]


@story
def a_stream_may_begin_a_session(app: AdapterHarness) -> None:
    visitor = app.newcomer()
    app.issued(visitor.visit("/stream"))
    assert visitor.sees() == {"early": 1}


@story
def a_change_after_the_response_began_is_refused(app: AdapterHarness) -> None:
    for path in ("/stream/change", "/stream/change-unseen"):
        for visitor in (app.visitor(), app.newcomer()):
            before = visitor.sees()
            answer = visitor.visit(path)
            assert answer.body.endswith(SEALED.encode()), path
            assert visitor.sees() == before


@story
def a_first_look_after_the_response_began_is_refused(app: AdapterHarness) -> None:
    answer = app.visitor().visit("/stream/look")
    assert answer.values("vary") == []
    assert answer.body.endswith(SEALED.encode())


@story
def a_late_change_is_kept_by_reopen_and_save(app: AdapterHarness) -> None:
    for path in ("/stream/save", "/stream/save-unseen"):
        visitor = app.visitor()
        answer = visitor.visit(path)
        assert (answer.status, app.told(answer)) == (200, [])
        assert not answer.body.endswith(SEALED.encode())
        assert visitor.sees().get("late") == 1
        assert app.happened() == []


@story
def a_session_cannot_begin_after_the_response_did(app: AdapterHarness) -> None:
    visitor = app.newcomer()
    answer = visitor.visit("/stream/save")
    assert app.told(answer) == []
    assert answer.body.endswith(SEALED.encode())
    assert app.store.frames == {}


@story
def a_late_change_that_nobody_saves_is_reported(app: AdapterHarness) -> None:
    for path, key in (
        ("/stream/forget", "late"),
        ("/stream/forget-unseen", "late"),
        ("/stream/forget-nested", "cart"),
        ("/stream/forget-held", "cart"),
    ):
        visitor = app.visitor()
        before = visitor.sees()
        assert visitor.visit(path).status == 200
        assert visitor.sees() == before
        assert app.happened() == [(Happened.UNSAVED, (key,))], path


# -- what goes wrong -------------------------------------------------------------------------------------------


@story
def a_handler_that_raises_stores_nothing(app: AdapterHarness) -> None:
    for visitor in (app.newcomer(), app.visitor()):
        before = visitor.sees()
        assert app.cost_of(visitor.visit, "/fail") == ([Load] if before else [])
        answer = visitor.visit("/fail")
        assert (answer.status, app.told(answer)) == (500, [])
        assert visitor.sees() == before
        assert app.happened() == [(Happened.UNSAVED, ("half",))] * 2
    assert "HandlerFailed" in app.log.text


@story
def an_answer_of_500_or_above_stores_nothing(app: AdapterHarness) -> None:
    for visitor in (app.newcomer(), app.visitor()):
        before = visitor.sees()
        for status in (status for status in STATUSES if status >= 500):
            answer = visitor.visit(f"/status/{status}")
            assert (answer.status, app.told(answer)) == (status, [])
            assert answer.members("vary") == ["cookie"]
            assert visitor.sees() == before
            assert app.happened() == [(Happened.UNSAVED, ("answered",))]


@story
def every_other_answer_stores(app: AdapterHarness) -> None:
    for status in (status for status in STATUSES if status < 500):
        visitor = app.newcomer()
        answer = visitor.visit(f"/status/{status}")
        assert (answer.status, answer.values("location")) == (status, ["/"])
        app.issued(answer)
        assert visitor.sees() == {"answered": status}


@story
def a_store_that_cannot_load_is_503(app: AdapterHarness) -> None:
    visitor = app.visitor()
    with app.outage():
        for path in ("/show", "/put/1", "/look/in", "/logout", "/login", "/stream"):
            _assert_refused(app, visitor.visit(path))
    assert app.happened() == []
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"]}
    assert app.cost_of(visitor.visit, "/put/1") == [Load, Update]


@story
def a_store_that_cannot_write_is_503(app: AdapterHarness) -> None:
    """Whatever policy says of one that cannot load: this visitor's session was there a moment ago."""
    for outage in ("fail", "anonymous"):
        app.restart(outage=outage)
        _assert_that_failed_writes_are_503(app)


def _assert_that_failed_writes_are_503(app: AdapterHarness) -> None:
    for op, path in (
        (Update, "/put/1"),
        (Update, "/stream"),
        (Create, "/login"),
        (Update, "/login"),
        (Create, "/rotate"),
        (Update, "/rotate"),
        (Delete, "/logout"),
        (Update, "/alone/count"),
        (Touch, "/show"),
    ):
        visitor = app.visitor()
        app.clock.advance(minutes=1)
        with app.outage(op):
            _assert_refused(app, visitor.visit(path))
        assert (visitor.sees(), visitor.is_logged_in_as()) == ({"slot 0": 0, "cart": ["lamp"]}, None)
    visitor = app.newcomer()
    with app.outage(Create):
        _assert_refused(app, visitor.visit("/put/1"))
    assert visitor.sees() == {}


def _assert_refused(app: AdapterHarness, answer: Answer) -> None:
    assert answer.status == 503
    assert answer.values("retry-after") == ["7"]
    assert app.told(answer) == [], "the cookie stays as it is"
    assert answer.members("cache-control") == ["no-store"]
    for inside in (INSIDE, "StoreUnavailable", "Traceback", "250 ms"):
        assert inside.encode() not in answer.body


@story
def an_outage_is_told_to_the_operator(app: AdapterHarness) -> None:
    visitor = app.visitor()
    for op in (Load, Update):
        app.log.lines.clear()
        with app.outage(op):
            visitor.visit("/put/1")
        assert INSIDE in app.log.text, "a 503 that nobody can explain"


@story
def a_newcomer_who_only_looks_needs_no_store(app: AdapterHarness) -> None:
    with app.outage():
        assert app.newcomer().sees() == {}
        assert app.newcomer().visit("/logout").status == 200


@story
def a_route_that_never_looks_needs_no_store(app: AdapterHarness) -> None:
    visitor = app.visitor()
    with app.outage():
        assert visitor.visit("/hello").status == 200


@story
def a_logout_during_an_outage_is_no_success(app: AdapterHarness) -> None:
    visitor = app.visitor()
    visitor.visit("/login")
    for outage in ("fail", "anonymous"):
        app.restart(outage=outage)
        for ops in ((), (Load,), (Delete,)):
            with app.outage(*ops):
                _assert_refused(app, visitor.visit("/logout"))
            assert visitor.is_logged_in_as() == "alice"
    assert app.told(visitor.visit("/logout")) == [TAKEN_BACK]
    assert visitor.is_logged_in_as() is None


@story
def policy_may_serve_readers_as_anonymous_in_an_outage(app: AdapterHarness) -> None:
    app.restart(outage="anonymous")
    visitor = app.visitor()
    assert visitor.visit("/look/available").body == b"True"
    app.happened()
    with app.outage():
        for path, text in (
            ("/show", json.dumps({"values": {}, "principal": None})),
            ("/look/available", "False"),
            ("/look/is_new", "True"),
            ("/look/in", "False"),
        ):
            answer = visitor.visit(path)
            assert (answer.status, answer.body, app.told(answer)) == (200, text.encode(), [])
            assert answer.members("vary") == ["cookie"], "the page is not for everybody"
            assert app.happened() == [(Happened.OUTAGE, ())]
        assert app.newcomer().visit("/look/available").body == b"True", "who brings no cookie needs no store"
    assert visitor.visit("/look/available").body == b"True"


@story
def who_is_served_as_anonymous_in_an_outage_can_change_nothing(app: AdapterHarness) -> None:
    app.restart(outage="anonymous")
    for path in (
        *("/put/1", "/cart", "/login", "/rotate", "/logout", "/logout-and-put", "/remember", "/everything", "/stream"),
        *("/status/302", "/status/404", "/alone/show", "/alone/count", "/alone/login", "/alone/logout"),
    ):
        visitor = app.visitor()
        visitor.visit("/login")
        with app.outage():
            _assert_refused(app, visitor.visit(path))
        assert (visitor.sees(), visitor.is_logged_in_as()) == ({"slot 0": 0, "cart": ["lamp"]}, "alice"), path


@story
def nothing_is_written_back_once_the_store_can_answer_again(app: AdapterHarness) -> None:
    app.restart(outage="anonymous")
    visitor = app.visitor()
    visitor.visit("/login")
    before = dict(app.store.frames)
    for path in ("/slow/show", "/stream/save-slow"):
        with ExitStack() as outage:
            outage.enter_context(app.outage())
            answer = app.overlap(partial(visitor.visit, path), outage.close)
        assert (answer.status, app.told(answer)) == (200, [])
        assert app.store.frames == before, path
    assert (visitor.sees(), visitor.is_logged_in_as()) == ({"slot 0": 0, "cart": ["lamp"]}, "alice")


@story
def what_a_failed_request_changed_is_reported(app: AdapterHarness) -> None:
    visitor = app.visitor()
    with app.outage(Update):
        visitor.visit("/put/1")
    assert app.happened() == [(Happened.UNSAVED, ("slot 1",))]


@story
def a_value_that_cannot_be_stored_is_an_error_that_names_it(app: AdapterHarness) -> None:
    for visitor in (app.newcomer(), app.visitor()):
        before = visitor.sees()
        app.log.lines.clear()
        assert app.cost_of(visitor.visit, "/unstorable") == ([Load] if before else [])
        answer = visitor.visit("/unstorable")
        assert (answer.status, app.told(answer)) == (500, [])
        assert "session['bill'][1]['price']" in app.log.text
        assert visitor.sees() == before, "all of a request is stored or nothing"


@story
def a_session_that_is_too_large_is_an_error_before_any_write(app: AdapterHarness) -> None:
    for settings, path in (({}, "/oversize"), ({"policy": Policy(max_keys=2)}, "/put/1")):
        app.restart(**settings)
        visitor = app.visitor()
        visitor.visit("/cart")
        before = visitor.sees()
        assert app.cost_of(visitor.visit, path) == [Load]
        answer = visitor.visit(path)
        assert (answer.status, app.told(answer)) == (500, [])
        assert "SessionTooLarge" in app.log.text
        assert visitor.sees() == before


@story
def no_line_of_the_log_shows_what_a_browser_holds(app: AdapterHarness) -> None:
    visitor = app.visitor()
    for path in ("/login", "/rotate", "/remember", "/fail", "/unstorable", "/stream/forget", "/show", "/logout"):
        tab = visitor.twin()
        visitor.visit(path)
        tab.visit("/show")
        with app.outage():
            tab.visit("/put/0")
    assert len(app.events) > 5
    app.check_log()
