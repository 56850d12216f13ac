"""What every adapter promises about exclusive blocks, as stories: ``with`` in blocking ones, else ``async with``."""

from __future__ import annotations

from functools import partial

from sojourn.core.capability import Acquire, Release
from sojourn.core.ops import Load, Update
from sojourn.core.outcome import Happened
from sojourn.testing.adapter_harness import TAKEN_BACK, AdapterHarness, AdapterStory

EXCLUSIVE_STORIES: list[AdapterStory] = []


def story(function: AdapterStory) -> AdapterStory:
    """Add *function* to the contract."""
    EXCLUSIVE_STORIES.append(function)
    return function


@story
def requests_in_exclusive_blocks_take_turns(app: AdapterHarness) -> None:
    visitor = app.visitor()
    tab = visitor.twin()
    answers = app.queue(partial(visitor.visit, "/alone/count/slow"), partial(tab.visit, "/alone/count"))
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"1"), (200, b"2")]
    assert visitor.sees().get("count") == 2
    assert app.happened() == [], "they met no conflict"


@story
def many_requests_in_exclusive_blocks_are_all_counted(app: AdapterHarness) -> None:
    visitor = app.visitor()
    answers = app.at_once(*[partial(visitor.send, "/alone/count")] * 6)
    assert sorted(answer.body for answer in answers) == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert (visitor.sees().get("count"), app.happened()) == (6, [])


@story
def who_waits_too_long_for_a_block_is_503_and_stores_nothing(app: AdapterHarness) -> None:
    visitor = app.visitor()
    tab = visitor.twin()
    refused = []
    app.overlap(partial(visitor.visit, "/alone/count/slow"), lambda: refused.append(tab.visit("/alone/count/now")))
    [answer] = refused
    assert (answer.status, answer.values("retry-after"), app.told(answer)) == (503, ["1"], [])
    assert answer.members("cache-control") == ["no-store"]
    assert b"session=" not in answer.body
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], "count": 1}
    assert app.happened() == [(Happened.UNSAVED, ("early",))]
    assert tab.visit("/alone/count/now").body == b"2"
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], "count": 2, "early": 1}


@story
def a_request_without_a_block_waits_for_nobody(app: AdapterHarness) -> None:
    """Nobody can keep a visitor's other pages waiting."""
    visitor = app.visitor()
    tab = visitor.twin()
    app.overlap(partial(visitor.visit, "/alone/count/slow"), partial(tab.visit, "/put/1"))
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], "slot 1": 1, "count": 1}
    assert app.happened() == []


@story
def an_exclusive_block_gives_back_what_it_holds(app: AdapterHarness) -> None:
    for path, status in (
        ("/alone/show", 200),
        ("/alone/count", 200),
        ("/alone/count/503", 503),
        ("/alone/fail", 500),
        ("/alone/unstorable", 500),
        ("/alone/login", 200),
        ("/login/alone", 200),
        ("/alone/logout", 200),
    ):
        visitor = app.visitor()
        before = len(app.store.asked)
        assert visitor.visit(path).status == status, path
        asked = app.store.asked[before:]
        assert (asked.count(Acquire), asked.count(Release)) == (1, 1), path
        assert app.store.locks == {}, path


@story
def a_handler_that_raises_in_its_block_stores_nothing(app: AdapterHarness) -> None:
    for path, key in (("/alone/fail", "half"), ("/alone/unstorable", "bill")):
        visitor = app.visitor()
        answer = visitor.visit(path)
        assert (answer.status, app.told(answer)) == (500, [])
        assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"]}
        assert app.happened() == [(Happened.UNSAVED, (key,))]


@story
def what_a_block_stored_stays_whatever_the_answer_is(app: AdapterHarness) -> None:
    """The next in the queue may have built on it already."""
    visitor = app.visitor()
    assert visitor.visit("/alone/count/503").status == 503
    assert visitor.sees().get("count") == 1
    assert app.happened() == []


@story
def a_cookie_that_is_asked_for_in_a_block_reaches_the_browser(app: AdapterHarness) -> None:
    visitor = app.visitor()
    id = visitor.id
    lines = app.told(visitor.visit("/alone/remember"))
    assert [(f"__Host-sid={id};" in line, "; Max-Age=3600;" in line) for line in lines] == [(True, True)]
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], "kept": 1}
    assert app.told(visitor.visit("/show")) == []


@story
def a_login_around_a_block_changes_the_id_as_any_login(app: AdapterHarness) -> None:
    for path, counted in (("/alone/login", {}), ("/login/alone", {"count": 1})):
        visitor = app.visitor()
        planted = visitor.twin()
        assert app.issued(visitor.visit(path)) != planted.id, path
        assert visitor.is_logged_in_as() == "alice"
        assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], **counted}
        assert (planted.sees(), planted.is_logged_in_as()) == ({}, None)


@story
def a_logout_around_a_block_ends_the_session_as_any_logout(app: AdapterHarness) -> None:
    visitor = app.visitor()
    stolen = visitor.twin()
    assert app.told(visitor.visit("/alone/logout")) == [TAKEN_BACK]
    assert stolen.sees() == {}
    visitor = app.visitor()
    stolen = visitor.twin()
    assert app.issued(visitor.visit("/logout/alone")) != stolen.id
    assert (visitor.sees(), stolen.sees()) == ({"count": 1}, {})


@story
def a_new_session_is_nobody_elses_and_needs_no_lock(app: AdapterHarness) -> None:
    visitor = app.newcomer()
    assert app.cost_of(visitor.send, "/alone/show") == []
    assert Acquire not in app.cost_of(visitor.visit, "/alone/count")
    assert visitor.sees() == {"count": 1}


@story
def a_store_that_cannot_lock_is_503(app: AdapterHarness) -> None:
    for op in (Acquire, Load, Update):
        visitor = app.visitor()
        with app.outage(op):
            answer = visitor.visit("/alone/count")
        assert (answer.status, answer.values("retry-after"), app.told(answer)) == (503, ["7"], [])
        assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"]}
        assert app.store.locks == {}, op


@story
def a_lock_that_cannot_be_given_back_fails_nobody(app: AdapterHarness) -> None:
    """What the request did is stored; a 503 would make the visitor do it twice. The lease ends the lock."""
    visitor = app.visitor()
    with app.outage(Release):
        answer = visitor.visit("/alone/count")
    assert (answer.status, answer.body) == (200, b"1")
    assert "could not be given back" in app.log.text
    assert visitor.visit("/alone/count/now").status == 503
    app.clock.advance(seconds=31)
    assert visitor.visit("/alone/count/now").body == b"2"
