"""What sessions promise on a store that can find a principal's sessions, or lock one: whole requests, as stories.

For stores that are Indexed or Lockable; ``stories_for`` returns those that a store's capabilities allow.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import partial
from random import Random
from typing import Any

from sojourn.core import lifecycle, principals
from sojourn.core.capability import Acquire, Find, Indexed, Lockable, Release
from sojourn.core.ids import handle_of
from sojourn.core.outcome import Action, Happened, Outcome
from sojourn.core.policy import Policy
from sojourn.core.session import Session
from sojourn.errors import SessionBusy
from sojourn.testing.site import Browser, Site, Steps, in_steps, interleave
from sojourn.testing.store_contract import StoreHarness, Story

PRINCIPAL_STORIES: dict[Story, type] = {}
"""Each story, and the capability that it is about."""


def stories_for(capabilities: Iterable[type]) -> list[Story]:
    """Return the stories that a store with these *capabilities* must keep."""
    having = set(capabilities)
    return [story for story, capability in PRINCIPAL_STORIES.items() if capability in having]


def about(capability: type) -> Callable[[Story], Story]:
    """Add the decorated function to the contract of stores that have *capability*."""

    def add(story: Story) -> Story:
        PRINCIPAL_STORIES[story] = capability
        return story

    return add


def _site(store: StoreHarness, **policy: Any) -> Site:
    rules = Policy(idle_timeout=1800, lifetime=86400, touch_interval=60, rotation_grace=10, **policy)
    return Site(store.do, rules, indexed=True)


def _logged_in(site: Site, principal: str, **values: Any) -> Browser:
    def handler(session: Session) -> None:
        session.update(values)
        session.login(principal)

    browser = Browser(site)
    browser.visit(handler)
    return browser


def _of(site: Site, principal: str) -> list[principals.Live]:
    return site.run(principals.live_sessions(principals.tag_of(principal), principal, site.policy, site.clock()))


def _revoke(site: Site, principal: str, keep: Browser | None = None) -> int:
    kept = keep.id.private if keep and keep.id else None
    return site.run(principals.revoke(principals.tag_of(principal), lambda key: key != kept))


def _alive(*browsers: Browser) -> list[bool]:
    return [browser.begin().principal is not None for browser in browsers]


# -- find and revoke -------------------------------------------------------------------------------------------


@about(Indexed)
def all_sessions_of_a_principal_are_found_and_no_others(store: StoreHarness) -> None:
    site = _site(store)
    for number in range(5):
        _logged_in(site, "alice", device=f"device {number}")
        _logged_in(site, "bob")
        site.clock.advance(1)
    Browser(site).visit(lambda session: session.update(cart=["lamp"]))
    found = _of(site, "alice")
    assert [site.codec.decode(one.record.values["device"]) for one in found] == [f"device {n}" for n in range(5)]
    assert {one.record.principal for one in found} == {"alice"}
    assert _of(site, "carol") == []


@about(Indexed)
def revoking_a_principal_ends_all_of_its_sessions_and_no_others(store: StoreHarness) -> None:
    site = _site(store)
    alices = [_logged_in(site, "alice") for _ in range(20)]
    bob, visitor = _logged_in(site, "bob"), Browser(site)
    visitor.visit(lambda session: session.update(cart=["lamp"]))
    assert _revoke(site, "alice") == 20
    assert _alive(*alices, bob) == [False] * 20 + [True]
    assert visitor.sees() == {"cart": ["lamp"]}
    assert _of(site, "alice") == []
    assert _alive(_logged_in(site, "alice")) == [True]
    assert len(_of(site, "alice")) == 1


@about(Indexed)
def revoking_all_but_the_current_session_keeps_exactly_that_one(store: StoreHarness) -> None:
    site = _site(store)
    alices = [_logged_in(site, "alice", n=number) for number in range(5)]
    assert _revoke(site, "alice", keep=alices[2]) == 4
    assert _alive(*alices) == [False, False, True, False, False]
    assert alices[2].sees() == {"n": 2}


@about(Indexed)
def nothing_brings_a_revoked_session_back(store: StoreHarness) -> None:
    site = _site(store)
    acts: list[Callable[[Session], object]] = [
        lambda session: session.update(late=1),
        Session.rotate,
        lambda session: session.get("n"),
        lambda session: session.remember(3600),
    ]
    for act in acts:
        browser = _logged_in(site, "alice", n=1)
        stolen, slow = browser.id, browser.begin()
        act(slow)
        assert _revoke(site, "alice") == 1
        site.clock.advance(minutes=2)
        assert browser.finish(slow).action is Action.KEEP
        assert _alive(Browser(site, stolen)) == [False]
        assert _of(site, "alice") == []


@about(Indexed)
def a_renewal_under_way_does_not_escape_a_revocation(store: StoreHarness) -> None:
    for seed in range(50):
        site = _site(store)
        site.random.drawn = seed * 1000
        browser = _logged_in(site, f"alice {seed}")
        answers: list[Outcome] = []
        renewal = in_steps(browser, Session.rotate, answers)
        ended: list[int] = []
        interleave(Random(seed), renewal, _revoking(site, f"alice {seed}", ended))
        old, new = browser.id, answers[0].id
        assert _of(site, f"alice {seed}") == []
        assert _alive(Browser(site, old), Browser(site, new)) == [False, False]


def _revoking(site: Site, principal: str, ended: list[int]) -> Generator[None, None, None]:
    steps = Steps(principals.revoke(principals.tag_of(principal), lambda key: True), site)
    while not steps.done:
        steps.step()
        yield
    ended.append(steps.result)


@about(Indexed)
def a_session_that_ended_or_moved_is_no_longer_listed(store: StoreHarness) -> None:
    site = _site(store)
    browser, tag = _logged_in(site, "alice"), principals.tag_of("alice")
    first = browser.id
    browser.visit(Session.rotate)
    assert first is not None
    assert browser.id is not None
    assert store.do(Find(tag)).keys == (browser.id.private,)
    browser.visit(Session.logout)
    assert store.do(Find(tag)).keys == ()


# -- a bound on parallel sessions ------------------------------------------------------------------------------


@about(Indexed)
def a_login_beyond_the_bound_ends_the_oldest(store: StoreHarness) -> None:
    site = _site(store, max_sessions=2)
    alices, bob = [], _logged_in(site, "bob")
    for _ in range(4):
        alices.append(_logged_in(site, "alice"))
        site.clock.advance(1)
    assert _alive(*alices, bob) == [False, False, True, True, True]


@about(Indexed)
def the_bound_counts_living_sessions_only(store: StoreHarness) -> None:
    site = _site(store, max_sessions=2)
    laptop = _logged_in(site, "alice")
    site.clock.advance(1)
    phone = _logged_in(site, "alice")
    for _ in range(4):
        site.clock.advance(minutes=10)
        laptop.visit(lambda session: session.get("n"))
    tablet = _logged_in(site, "alice")
    assert _alive(laptop, phone, tablet) == [True, False, True]


@about(Indexed)
def the_bound_holds_under_fifty_simultaneous_logins(store: StoreHarness) -> None:
    for seed in range(3):
        site = _site(store, max_sessions=3)
        site.random.drawn = seed * 1000
        who = f"alice {seed}"
        answers: list[Outcome] = []
        logins = [in_steps(Browser(site), partial(Session.login, principal=who), answers) for _ in range(50)]
        interleave(Random(seed), *logins)
        assert len(answers) == 50
        assert sum(_alive(*(Browser(site, answer.id) for answer in answers))) == 3
        assert len(_of(site, who)) == 3


# -- one request at a time -------------------------------------------------------------------------------------


@about(Lockable)
def an_exclusive_block_sees_what_others_stored_and_stores_before_it_ends(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1, other="x"))
    slow = browser.begin()
    assert slow["n"] == 1
    browser.visit(lambda session: session.update(n=2))
    with slow.exclusive(wait=0):
        slow["n"] += 1
        assert slow["n"] == 3
    assert browser.sees() == {"n": 3, "other": "x"}
    assert browser.finish(slow).events == ()
    assert browser.sees() == {"n": 3, "other": "x"}


@about(Lockable)
def an_exclusive_block_keeps_what_was_changed_before_it(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1, mine=0, theirs=0))
    slow = browser.begin()
    slow["mine"] = 1
    browser.visit(lambda session: session.update(theirs=1))
    with slow.exclusive(wait=0):
        assert dict(slow) == {"n": 1, "mine": 1, "theirs": 1}
    assert browser.sees() == {"n": 1, "mine": 1, "theirs": 1}


@about(Lockable)
def whoever_waits_too_long_is_told_so_and_nothing_is_stored(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1))
    holder, waiter = browser.begin(), browser.begin()
    with holder.exclusive(wait=0):
        try:
            with waiter.exclusive(wait=0):
                raise AssertionError("two requests hold one session")
        except SessionBusy:
            pass
        holder["n"] = 2
    assert browser.sees() == {"n": 2}
    with waiter.exclusive(wait=0):
        waiter["n"] += 1
    assert browser.sees() == {"n": 3}


@about(Lockable)
def a_failed_block_stores_nothing_and_lets_the_next_one_in(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1))
    failing = browser.begin()
    try:
        with failing.exclusive(wait=0):
            failing["n"] = 100
            raise LookupError
    except LookupError:
        pass
    assert browser.sees() == {"n": 1}
    following = browser.begin()
    with following.exclusive(wait=0):
        following["n"] += 1
    assert browser.sees() == {"n": 2}


@about(Lockable)
def a_holder_whose_lease_is_over_loses_and_overwrites_nothing(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1, a=0, b=0))
    slow = browser.begin()
    with slow.exclusive(lease=5):
        slow["a"] = 1
        assert slow.opened.key is not None
        _take_over(store, site, slow.opened.key)
        browser.visit(lambda session: session.update(b=1))
    assert site.reported[-1].kind is Happened.LEASE_LOST
    assert site.reported[-1].session == handle_of(slow.opened.key)
    assert browser.sees() == {"n": 1, "a": 1, "b": 1}


def _take_over(store: StoreHarness, site: Site, key: bytes) -> None:
    """Let the lease run out on the store's side, and another take the lock."""
    site.clock.advance(6)
    store.sweep(site.clock())
    assert store.do(Acquire(key, b"another's token!", site.clock(), site.clock() + 60))


@about(Lockable)
def what_an_exclusive_block_says_to_the_browser_is_not_lost(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1))

    def remembers(session: Session) -> None:
        with session.exclusive(wait=0):
            session["n"] = 2
            session.remember(3600)

    outcome = browser.visit(remembers)
    assert (outcome.action, outcome.cookie_age) == (Action.ISSUE, 3600)


@about(Lockable)
def a_login_or_a_logout_inside_of_an_exclusive_block_is_one(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1))
    before = browser.id

    def logs_in(session: Session) -> None:
        with session.exclusive(wait=0):
            session.login("alice")
            session["n"] += 1

    assert browser.visit(logs_in).action is Action.ISSUE
    assert browser.id != before
    assert browser.sees() == {"n": 2}

    def logs_out(session: Session) -> None:
        with session.exclusive(wait=0):
            session.logout()

    assert browser.visit(logs_out).action is Action.EXPIRE
    assert browser.sees() == {}


@about(Lockable)
def a_logout_during_an_exclusive_block_is_not_undone_by_it(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1))
    stolen, slow = browser.id, browser.begin()
    with slow.exclusive(wait=0):
        slow["n"] = 2
        browser.visit(Session.destroy)
    assert site.commit(slow).action is Action.KEEP
    assert Browser(site, stolen).sees() == {}


@about(Lockable)
def a_lock_given_back_is_free_and_only_its_owner_gives_it_back(store: StoreHarness) -> None:
    site = Site(store.do)
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1))
    session = browser.begin()
    key, _ = session.opened.current()
    with session.exclusive(wait=0):
        assert not store.do(Release(key, b"not the owner's."))
        assert not store.do(Acquire(key, b"not the owner's.", site.clock(), site.clock() + 60))
    assert store.do(Acquire(key, b"the next owner's", site.clock(), site.clock() + 60))
    site.run(lifecycle.refresh(session, site.terms()))
