"""What sessions promise on every store, as stories of browsers whose requests overlap."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from sojourn.core.ids import SessionId
from sojourn.core.ops import Load, Touch
from sojourn.core.outcome import Action, Happened, Outcome
from sojourn.core.session import Session
from sojourn.testing.site import Browser, Site, in_steps, interleave
from sojourn.testing.store_contract import StoreHarness, Story

SESSION_STORIES: list[Story] = []

INTERLEAVINGS = 1000


def story(function: Story) -> Story:
    """Add *function* to the contract."""
    SESSION_STORIES.append(function)
    return function


def put(key: str, value: object) -> Callable[[Session], None]:
    """Return a handler that sets one key."""
    return lambda session: session.__setitem__(key, value)


# -- isolation -------------------------------------------------------------------------------------------------


@story
def parallel_requests_that_set_different_keys_are_both_kept(store: StoreHarness) -> None:
    browser = _visitor(store)
    slow, quick = browser.begin(), browser.begin()
    slow["report"] = "done"
    quick["cart"] = ["lamp"]
    browser.finish(quick)
    browser.finish(slow)
    assert browser.sees() == {"seen": 1, "report": "done", "cart": ["lamp"]}


@story
def a_slow_reader_reverts_nothing(store: StoreHarness) -> None:
    browser = _visitor(store)
    slow = browser.begin()
    assert slow["seen"] == 1
    browser.visit(put("seen", 2))
    browser.site.clock.advance(minutes=5)
    browser.finish(slow)
    assert browser.sees() == {"seen": 2}


@story
def a_lost_update_is_never_silent(store: StoreHarness) -> None:
    browser = _visitor(store)
    slow, quick = browser.begin(), browser.begin()
    slow["seen"], quick["seen"] = "slow", "quick"
    browser.finish(quick)
    outcome = browser.finish(slow)
    assert browser.sees() == {"seen": "slow"}
    assert [(event.kind, event.keys) for event in outcome.events] == [(Happened.CONFLICT, ("seen",))]


# -- no resurrection -------------------------------------------------------------------------------------------


@story
def logout_is_not_undone_by_a_slow_request(store: StoreHarness) -> None:
    site = Site(store.do)
    for act in (put("late", 1), Session.rotate, lambda session: session.remember(3600), lambda session: None):
        browser = _visitor(store, site)
        stolen = browser.id
        slow = browser.begin()
        act(slow)
        assert browser.visit(Session.destroy).action is Action.EXPIRE
        site.clock.advance(minutes=2)
        outcome = browser.finish(slow)
        assert outcome.action is Action.KEEP
        assert Browser(site, stolen).sees() == {}


@story
def logout_ends_a_session_that_is_being_renewed(store: StoreHarness) -> None:
    browser = _visitor(store)
    leaving = browser.begin()
    renewed = browser.visit(Session.rotate)
    leaving.destroy()
    assert browser.site.commit(leaving).action is Action.EXPIRE
    assert Browser(browser.site, renewed.id).sees() == {}


@story
def an_expired_session_is_not_revived_by_a_slow_request(store: StoreHarness) -> None:
    site = Site(store.do)
    for act in (put("late", 1), Session.rotate, lambda session: None):
        browser = _visitor(store, site)
        slow = browser.begin()
        act(slow)
        browser.site.clock.advance(minutes=31)
        assert browser.finish(slow).action is Action.KEEP
        assert browser.sees() == {}


@story
def an_expired_session_is_over_whether_swept_or_not(store: StoreHarness) -> None:
    browser = _visitor(store)
    browser.site.clock.advance(minutes=30)
    assert browser.sees() == {}
    store.sweep(browser.site.clock())
    assert browser.sees() == {}


# -- no adoption -----------------------------------------------------------------------------------------------


@story
def an_id_that_the_server_did_not_issue_is_never_stored_under(store: StoreHarness) -> None:
    site = Site(store.do)
    planted = SessionId.from_random(b"\x42" * 32)
    browser = Browser(site, planted)
    outcome = browser.visit(put("cart", ["lamp"]))
    assert outcome.action is Action.ISSUE
    assert browser.id is not None
    assert browser.id.public != planted.public
    assert store.raw.read(planted.private) is None
    assert Browser(site, planted).sees() == {}


@story
def a_visitor_who_only_looks_is_not_stored(store: StoreHarness) -> None:
    site = Site(store.do)
    empty = store.raw.dump()
    for id in (None, SessionId.from_random(b"\x42" * 32)):
        assert Browser(site, id).visit(lambda session: session.get("cart")).action is Action.KEEP
        assert Browser(site, id).visit(Session.destroy).action is Action.KEEP
    assert store.raw.dump() == empty


# -- rotation --------------------------------------------------------------------------------------------------


@story
def a_request_in_flight_survives_a_renewal_and_its_change_lands(store: StoreHarness) -> None:
    browser = _visitor(store)
    old = browser.id
    slow = browser.begin()
    browser.visit(Session.rotate)
    assert browser.id is not old
    slow["late"] = 1
    assert browser.site.commit(slow).action is Action.KEEP
    latecomer = Browser(browser.site, old)
    assert latecomer.visit(put("later", 2)).action is Action.KEEP
    assert browser.sees() == {"seen": 1, "late": 1, "later": 2}
    browser.site.clock.advance(seconds=11)
    assert latecomer.sees() == {}
    assert browser.sees() == {"seen": 1, "late": 1, "later": 2}


@story
def after_a_login_the_old_id_opens_nothing_and_overwrites_no_cookie(store: StoreHarness) -> None:
    browser = _visitor(store)
    planted, slow = Browser(browser.site, browser.id), browser.begin()
    outcome = browser.visit(lambda session: session.login("alice"))
    assert outcome.action is Action.ISSUE
    assert planted.sees() == {}
    assert planted.visit(put("counter", 1)).action is Action.KEEP
    slow["late"] = 1
    lost = browser.site.commit(slow)
    assert (lost.action, [event.kind for event in lost.events]) == (Action.KEEP, [Happened.LOST])
    assert browser.begin().principal == "alice"
    assert browser.sees() == {"seen": 1}


@story
def fifty_parallel_renewals_leave_one_session(store: StoreHarness) -> None:
    browser = _visitor(store)
    site = browser.site
    requests = [browser.begin() for _ in range(50)]
    for number, session in enumerate(requests):
        session.rotate()
        session[f"from {number}"] = number
    outcomes = [site.commit(session) for session in requests]
    issued = [outcome.id for outcome in outcomes if outcome.action is Action.ISSUE]
    assert len(issued) == 1
    assert Browser(site, issued[0]).sees() == {"seen": 1, **{f"from {number}": number for number in range(50)}}
    site.clock.advance(seconds=11)
    assert browser.sees() == {}


# -- a reader writes nothing -----------------------------------------------------------------------------------


@story
def a_reader_costs_one_load_and_one_touch_an_interval(store: StoreHarness) -> None:
    browser = _visitor(store)
    asked = browser.site.asked
    for expected in ([Load], [Load], [Load, Touch], [Load]):
        asked.clear()
        assert browser.visit(lambda session: session["seen"]).action is Action.KEEP
        assert [type(op) for op in asked] == expected
        browser.site.clock.advance(seconds=30 if expected == [Load] else 1)


@story
def an_active_visitor_stays_until_the_absolute_lifetime(store: StoreHarness) -> None:
    browser = _visitor(store)
    for _ in range(71):
        browser.site.clock.advance(minutes=20)
        browser.visit(lambda session: session["seen"])
        assert browser.sees() == {"seen": 1}
    browser.site.clock.advance(minutes=20)
    assert browser.sees() == {}


# -- any order at all ------------------------------------------------------------------------------------------


@story
def in_a_thousand_interleavings_nothing_is_lost_and_nothing_returns(store: StoreHarness) -> None:
    site = Site(store.do)
    for seed in range(INTERLEAVINGS):
        _one_interleaving(site, Random(seed))


def _one_interleaving(site: Site, random: Random) -> None:
    browser = Browser(site)
    browser.visit(put("seen", 1))
    acts = random.sample(["write", "write", "write", "read", "renew", "renew", "logout"], 5)
    answers: list[list[Outcome]] = [[] for _ in acts]
    handlers = [_handler(act, number) for number, act in enumerate(acts)]
    interleave(random, *(in_steps(browser, handlers[n], answers[n]) for n in range(len(acts))))

    outcomes = [answer[0] for answer in answers]
    issued = [browser.id, *(outcome.id for outcome in outcomes if outcome.id)]
    views = [Browser(site, id).sees() for id in issued]
    if any(outcome.action is Action.EXPIRE for outcome in outcomes):
        assert all("seen" not in view for view in views), "a logged-out session came back"
        return
    for number, outcome in enumerate(outcomes):
        if acts[number] in ("write", "renew") and not _reports_loss(outcome):
            assert any(f"from {number}" in view for view in views), "an acknowledged change is gone"
    assert sum(1 for id in issued if id and _is_live(site, id)) == 1, "the session was split in two"


def _handler(act: str, number: int) -> Callable[[Session], object]:
    def write(session: Session) -> None:
        # A request that arrives after the logout would begin a session of its own, which is another story.
        if not session.is_new:
            session[f"from {number}"] = number

    def renew(session: Session) -> None:
        write(session)
        session.rotate()

    def read(session: Session) -> None:
        session.get("seen")

    return {"write": write, "renew": renew, "read": read, "logout": Session.destroy}[act]


def _reports_loss(outcome: Outcome) -> bool:
    return any(event.kind is Happened.LOST for event in outcome.events)


def _is_live(site: Site, id: SessionId) -> bool:
    record = site.do(Load(id.private))
    return record is not None and not record.retired


def _visitor(store: StoreHarness, site: Site | None = None) -> Browser:
    """Return a browser that has a session with one value, on *site* or on a new one."""
    browser = Browser(site or Site(store.do))
    browser.visit(put("seen", 1))
    browser.site.asked.clear()
    return browser
