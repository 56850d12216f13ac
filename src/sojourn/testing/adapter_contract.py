"""What every adapter promises, as stories of browsers that run through any framework.

Use it for an adapter of your own. Mount ROUTES with one view, then run each story on a fresh harness:

    def mount(app: AdapterHarness) -> Server:
        def view(request):
            page = app.answer(request.path, request.session)  # async: await app.aanswer(...)
            return Response(page.pieces() if page.streams else page.text, page.status, page.headers)
        ...

    @pytest.mark.parametrize("story", ADAPTER_STORIES, ids=name_of)
    def test_contract(story):
        with AdapterHarness(mount) as app:
            story(app)

A story raises where the promise is broken, mostly AssertionError. The harness owns the store, the clock, the events and
the log. No story sleeps or reads the clock. At the end of each one the log is searched for what browsers hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime

from sojourn.core.ids import SessionId
from sojourn.core.ops import Create, Load, Touch, Update
from sojourn.core.outcome import Happened
from sojourn.testing.adapter_exclusive_contract import EXCLUSIVE_STORIES
from sojourn.testing.adapter_harness import TAKEN_BACK, AdapterHarness, AdapterStory, Answer, Request, Server
from sojourn.testing.adapter_routes import ROUTES
from sojourn.testing.adapter_trouble_contract import TROUBLE_STORIES
from sojourn.transport.cookie import Cookie

__all__ = ["ADAPTER_STORIES", "AdapterHarness", "AdapterStory", "Answer", "Request", "Server", "name_of", "rejected_by"]

ADAPTER_STORIES: list[AdapterStory] = []


def story(function: AdapterStory) -> AdapterStory:
    """Add *function* to the contract."""
    ADAPTER_STORIES.append(function)
    return function


def name_of(story: AdapterStory) -> str:
    """Return the promise in words."""
    return story.__name__.replace("_", " ")


def rejected_by(make: Callable[[], AdapterHarness], stories: Sequence[AdapterStory]) -> set[str]:
    """Return the names of the *stories* that an adapter breaks. *make* gives a fresh harness for each."""
    return {broken.__name__ for broken in stories if _breaks(broken, make)}


def _breaks(story: AdapterStory, make: Callable[[], AdapterHarness]) -> bool:
    try:
        with make() as app:
            story(app)
    except Exception:
        return True
    return False


# -- what the browser is told ----------------------------------------------------------------------------------


@story
def the_first_write_sets_exactly_the_default_cookie(app: AdapterHarness) -> None:
    visitor = app.newcomer()
    answer = visitor.visit("/put/0")
    assert app.issued(answer) == visitor.id
    assert len(answer.values("set-cookie")) == 1
    assert visitor.sees() == {"slot 0": 0}


@story
def a_reader_gets_no_cookie_and_writes_nothing(app: AdapterHarness) -> None:
    visitor = app.visitor()
    for _ in range(3):
        assert app.cost_of(visitor.visit, "/show") == [Load]
        assert app.told(visitor.visit("/show")) == []


@story
def a_visit_is_written_down_once_an_interval(app: AdapterHarness) -> None:
    visitor = app.visitor()
    for expected in ([Load], [Load], [Load, Touch], [Load], [Load, Touch]):
        assert app.cost_of(visitor.visit, "/show") == expected
        app.clock.advance(seconds=30)
    assert app.told(visitor.visit("/show")) == []


@story
def a_route_that_never_looks_costs_nothing(app: AdapterHarness) -> None:
    known = app.visitor()
    app.manager.opens = 0
    for visitor in (app.newcomer(), known):
        looks = app.preloads and visitor is known
        assert app.cost_of(visitor.visit, "/hello") == ([Load] if looks else [])
        answer = visitor.visit("/hello")
        assert [answer.values(name) for name in ("vary", "set-cookie", "cache-control")] == [[], [], []]
    assert app.manager.opens == 0 or app.preloads, "the cookies were read"


@story
def an_anonymous_visitor_costs_no_store_call(app: AdapterHarness) -> None:
    looks = [path for path in ROUTES if path.startswith("/look/")]
    for path in (*looks, "/hello", "/show", "/rotate", "/logout", "/vary", "/stream/change", "/alone/show", "/fail"):
        assert app.cost_of(app.newcomer().visit, path) == [], path
    assert app.cost_of(app.newcomer().visit, "/put/0") == [Create]


@story
def a_visitor_who_only_looks_is_not_stored(app: AdapterHarness) -> None:
    for path in ("/show", "/look/in", "/logout", "/rotate", "/stream/look"):
        for visitor in (app.newcomer(), *map(app.holder, _ids(6))):
            answer = visitor.visit(path)
            assert (answer.status, app.told(answer)) == (200, [])
    assert set(app.store.asked) <= {Load}
    assert app.store.frames == {}


@story
def every_kind_of_look_makes_the_answer_vary(app: AdapterHarness) -> None:
    for visitor in (app.newcomer(), app.visitor()):
        for path in (path for path in ROUTES if path.startswith("/look/")):
            answer = visitor.visit(path)
            assert answer.status == 200
            assert answer.members("vary") == ["cookie"], path
    assert app.visitor().visit("/put/1").members("vary") == ["cookie"]


@story
def vary_keeps_what_the_application_said(app: AdapterHarness) -> None:
    visitor = app.visitor()
    assert visitor.visit("/vary").members("vary") == ["accept-encoding", "cookie"]
    assert visitor.visit("/vary/twice").members("vary") == ["accept", "origin", "cookie"]
    assert visitor.visit("/vary/star").members("vary") == ["*"]
    assert visitor.visit("/vary/cookie").members("vary") == ["accept", "cookie"]


@story
def an_answer_with_the_cookie_is_never_for_a_shared_cache(app: AdapterHarness) -> None:
    for path in ("/public", "/public/login", "/private/login"):
        answer = app.newcomer().visit(path)
        assert app.told(answer)
        _assert_not_shared(answer)
    answer = app.visitor().visit("/public/logout")
    assert app.told(answer)
    _assert_not_shared(answer)
    assert app.visitor().visit("/public").members("cache-control") == ["public", "max-age=60", "s-maxage=600"]


def _assert_not_shared(answer: Answer) -> None:
    said = answer.members("cache-control")
    assert "no-store" in said or "private" in said, said
    assert "public" not in said
    assert not any(member.startswith("s-maxage") for member in said)
    assert "cookie" in answer.members("vary")


@story
def no_delivery_network_is_told_to_keep_an_answer_with_the_cookie(app: AdapterHarness) -> None:
    answer = app.newcomer().visit("/networks/login")
    assert app.told(answer)
    for name in ("cdn-cache-control", "surrogate-control", "x-accel-expires"):
        assert answer.values(name) == [], name


@story
def the_applications_own_fields_are_left_alone(app: AdapterHarness) -> None:
    answer = app.newcomer().visit("/fields/login")
    assert answer.values("x-note") == ["1", "2"]
    assert answer.values("etag") == ['"1"']
    assert [line for line in answer.values("set-cookie") if line not in app.told(answer)] == ["theme=dark; Path=/"]
    assert len(app.told(answer)) == 1


@story
def there_is_one_cookie_whatever_the_handler_did(app: AdapterHarness) -> None:
    for visitor in (app.newcomer(), app.visitor()):
        answer = visitor.visit("/everything")
        assert len(app.told(answer)) == 1
        assert "Max-Age=120" in app.told(answer)[0]
        assert (visitor.sees(), visitor.is_logged_in_as()) == ({"b": 2}, "alice")


@story
def a_cookie_of_our_name_that_the_application_sets_gives_way(app: AdapterHarness) -> None:
    assert app.issued(app.newcomer().visit("/own-cookie/login")) != "mine"


@story
def a_change_inside_a_value_is_stored(app: AdapterHarness) -> None:
    visitor = app.visitor()
    assert app.cost_of(visitor.visit, "/cart") == [Load, Update]
    assert visitor.sees().get("cart") == ["lamp", "lamp"]


# -- which id is believed --------------------------------------------------------------------------------------


@story
def an_unknown_id_is_neither_adopted_nor_taken_back(app: AdapterHarness) -> None:
    [planted] = _ids(1)
    visitor, attacker = app.holder(planted), app.holder(planted)
    for path in ("/hello", "/show", "/logout"):
        assert app.told(visitor.visit(path)) == []
    assert app.issued(visitor.visit("/put/0")) != planted
    assert visitor.sees() == {"slot 0": 0}
    assert attacker.sees() == {}


@story
def a_malformed_cookie_costs_no_store_call(app: AdapterHarness) -> None:
    for value in _malformed():
        visitor = app.holder(value)
        for path in ("/hello", "/show", "/logout"):
            assert app.cost_of(visitor.visit, path) == [], value
        app.issued(visitor.visit("/put/0"))
        assert visitor.sees() == {"slot 0": 0}


def _malformed() -> list[str]:
    issued = SessionId.from_random(b"\x42" * 32)
    id = issued.public
    return [
        "",
        "x",
        id[:-1],
        id + "A",
        id[:-1] + "B",  # not the one spelling of its last bits
        id + "=",
        f'"{id}"',
        id[:20] + "%2D" + id[23:],
        id[:20] + " " + id[21:],
        id[:20] + "/" + id[21:],
        id[:20] + "\xe9" + id[21:],
        "x" * 5000,
        issued.private.hex(),  # what a stolen store would offer
    ]


@story
def a_hostile_cookie_field_is_not_read(app: AdapterHarness) -> None:
    visitor = app.visitor()
    for field in ("__Host-sid=" + "A" * 70_000, ";" * 70_000, "a=;" * 25_000, "__Host-sid=" + '\\"' * 33_000):
        assert app.cost_of(lambda field=field: app.request("GET", "/show", headers=[("cookie", field)])) == []
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"]}


@story
def the_cookie_is_found_among_odd_neighbours(app: AdapterHarness) -> None:
    visitor = app.visitor()
    for before in (
        "a=b; bad name=1; X",
        "x=1; @; X",
        ";;; X",
        '"; X',
        "\x80\xff=\xfe",
        "=__Host-sid=x",
        "__host-sid=x",
    ):
        field = f"{before}; __Host-sid={visitor.id}; theme=dark"
        answer = app.request("GET", "/show", headers=[("cookie", field)])
        assert json.loads(answer.body)["values"] == visitor.sees(), before


@story
def a_planted_second_cookie_never_wins(app: AdapterHarness) -> None:
    victim, mallory, [unknown] = app.visitor(), app.visitor(), _ids(1)
    assert victim.id is not None
    assert mallory.id is not None
    for planted, seen in ((unknown, victim.sees()), ("garbage", victim.sees()), (mallory.id, {})):
        for pair in ((victim.id, planted), (planted, victim.id)):
            app.happened()
            field = "; ".join(f"__Host-sid={id}" for id in pair)
            answer = app.request("GET", "/show", headers=[("cookie", field)])
            assert json.loads(answer.body)["values"] == seen
            assert app.told(answer) == []
            assert [kind for kind, _ in app.happened()] == ([] if planted == "garbage" else [Happened.DUPLICATE_TOKEN])


@story
def unknown_ended_expired_and_malformed_cookies_are_answered_alike(app: AdapterHarness) -> None:
    ended, expired = app.visitor(), app.visitor()
    stolen, [unknown] = ended.twin(), _ids(1)
    ended.visit("/logout")
    app.clock.advance(minutes=31)
    answers = [app.newcomer().visit("/show")]
    for id in (unknown, stolen.id, expired.id, "garbage"):
        answers.append(app.holder(str(id)).visit("/show"))
    assert all(answer == answers[0] for answer in answers)


def _ids(count: int) -> list[str]:
    """Return well-formed ids that nobody issued."""
    return [SessionId.from_random(bytes([number]) * 32).public for number in range(1, count + 1)]


# -- login, renewal, logout ------------------------------------------------------------------------------------


@story
def a_login_changes_the_id_and_the_old_one_opens_nothing(app: AdapterHarness) -> None:
    visitor = app.visitor()
    planted = visitor.twin()
    assert planted.sees() == {"slot 0": 0, "cart": ["lamp"]}
    assert app.issued(visitor.visit("/login")) != planted.id
    assert (visitor.sees(), visitor.is_logged_in_as()) == ({"slot 0": 0, "cart": ["lamp"]}, "alice")
    for path in ("/show", "/put/1", "/rotate", "/logout"):
        assert app.told(planted.visit(path)) == [], "who holds the old id is told nothing"
    assert (planted.sees(), planted.is_logged_in_as()) == ({}, None)
    assert visitor.is_logged_in_as() == "alice"


@story
def a_renewal_changes_the_id_and_nothing_else(app: AdapterHarness) -> None:
    visitor = app.visitor()
    old = visitor.twin()
    assert app.issued(visitor.visit("/rotate")) != old.id
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"]}
    assert app.told(old.visit("/put/1")) == [], "who holds the old id is not told the new one"
    assert visitor.sees().get("slot 1") == 1
    app.clock.advance(seconds=11)
    assert old.sees() == {}
    assert visitor.sees().get("slot 1") == 1


@story
def a_logout_takes_the_cookie_back_and_the_id_is_refused(app: AdapterHarness) -> None:
    visitor = app.visitor()
    visitor.visit("/login")
    stolen = visitor.twin()
    assert stolen.is_logged_in_as() == "alice"
    answer = visitor.visit("/logout")
    assert answer.values("set-cookie") == [TAKEN_BACK]
    assert answer.members("cache-control") == ["no-store"]
    assert visitor.jar == {}
    assert (stolen.sees(), stolen.is_logged_in_as()) == ({}, None)
    assert app.told(stolen.visit("/show")) == []


@story
def a_logout_takes_back_a_cookie_of_any_scope(app: AdapterHarness) -> None:
    for cookie in (
        Cookie(name="__Secure-sid", domain="example.org"),
        Cookie(name="__Secure-sid", path="/app"),
        Cookie(same_site="None", partitioned=True),
        Cookie.insecure_dev(),
    ):
        app.restart(cookie=cookie)
        visitor = app.visitor()
        assert len(visitor.jar) == 1
        stolen = visitor.twin()
        visitor.visit("/logout")
        assert visitor.jar == {}
        assert stolen.sees() == {}


@story
def a_logout_of_nobody_says_nothing(app: AdapterHarness) -> None:
    stale = app.visitor()
    stale.twin().visit("/logout")
    for visitor in (app.newcomer(), stale):
        answer = visitor.visit("/logout")
        assert (answer.status, app.told(answer)) == (200, [])


@story
def what_is_put_after_a_logout_begins_under_another_id(app: AdapterHarness) -> None:
    visitor = app.visitor()
    stolen = visitor.twin()
    assert app.issued(visitor.visit("/logout-and-put")) != stolen.id
    assert visitor.sees() == {"after": 1}
    assert stolen.sees() == {}


# -- time ------------------------------------------------------------------------------------------------------


@story
def an_idle_session_ends(app: AdapterHarness) -> None:
    visitor = app.visitor()
    app.clock.advance(minutes=29)
    assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"]}
    app.clock.advance(minutes=31)
    assert visitor.sees() == {}
    assert app.told(visitor.visit("/put/1"))
    assert visitor.sees() == {"slot 1": 1}


@story
def an_active_session_ends_at_its_lifetime(app: AdapterHarness) -> None:
    visitor = app.visitor()
    for _ in range(24 * 3 - 1):
        app.clock.advance(minutes=20)
        visitor.visit("/put/1")
    assert visitor.sees().get("slot 0") == 0
    app.clock.advance(minutes=20)
    assert visitor.sees() == {}


@story
def a_remembered_cookie_says_how_long_and_slides_along(app: AdapterHarness) -> None:
    visitor = app.newcomer()
    lines, ends = app.told(visitor.visit("/remember")), [app.clock() + 3600]
    id = visitor.id
    for _ in range(6):
        app.clock.advance(minutes=25)
        lines += app.told(visitor.visit("/show"))
        ends.append(app.clock() + 3600)
        assert visitor.id == id, "an active visitor lost the cookie"
        assert app.told(visitor.visit("/show")) == [], "it is issued again only when it has moved"
    said = [re.fullmatch(r"__Host-sid=(\S+); Path=/; Max-Age=3600; Expires=([^;]+); .*", line) for line in lines]
    assert [parsedate_to_datetime(match[2]).timestamp() for match in said if match] == ends
    assert {match[1] for match in said if match} == {id}


ADAPTER_STORIES += [*TROUBLE_STORIES, *EXCLUSIVE_STORIES]
