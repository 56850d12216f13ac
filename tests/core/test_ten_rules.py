"""The ten rules of a session's life, one test each or more, named for them. See docs/concepts.md."""

from __future__ import annotations

import pytest

from sojourn.core import lifecycle
from sojourn.core.ids import SessionId
from sojourn.core.ops import Create, Delete, Load, Touch, Update, Written
from sojourn.core.outcome import KEEP, Action, Happened
from sojourn.core.policy import Policy
from sojourn.core.record import Record
from sojourn.core.session import Session
from sojourn.drive import perform, run
from sojourn.errors import (
    ConfigurationError,
    SessionConflict,
    SessionSealed,
    SojournError,
    StoreUnavailable,
    ValueNotStorable,
)
from sojourn.manager import SessionManager
from sojourn.store.memory import MemoryStore
from sojourn.testing import Browser, FakeClock, NumberedRandom, ScriptedStore, Site


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def site(store: MemoryStore) -> Site:
    return Site(lambda op: perform(op, store))


@pytest.fixture
def browser(site: Site) -> Browser:
    """A browser that has a session with a cart in it."""
    browser = Browser(site)
    browser.visit(lambda session: session.update(cart=["lamp"], language="de"))
    site.asked.clear()
    return browser


def asked(site: Site) -> list[str]:
    return [type(op).__name__ for op in site.asked]


# -- 1. There is no save ---------------------------------------------------------------------------------------


def test_rule_1_every_write_has_its_own_verb_and_answers(site: Site) -> None:
    browser = Browser(site)
    browser.visit(lambda session: session.update(a=1))
    browser.visit(lambda session: session.update(a=2))
    site.clock.advance(minutes=2)
    browser.visit(lambda session: session["a"])
    browser.visit(Session.destroy)
    assert asked(site) == ["Create", "Load", "Update", "Load", "Touch", "Load", "Delete"]


def test_rule_1_a_fresh_id_that_exists_is_not_overwritten_but_drawn_again(site: Site, store: MemoryStore) -> None:
    taken = SessionId.from_random((1).to_bytes(32, "big"))
    store.create(taken.private, Record({"whose": b"hers"}, 0, site.clock(), site.clock() + 1800))
    browser = Browser(site)
    assert browser.visit(lambda session: session.update(whose="mine")).action is Action.ISSUE
    assert asked(site) == ["Create", "Create"]
    found = store.load(taken.private)
    assert found is not None
    assert found.values == {"whose": b"hers"}


def test_rule_1_a_source_of_ids_that_repeats_itself_is_an_error_and_not_a_loop(site: Site) -> None:
    site.random = lambda size=32: bytes(size)  # type: ignore[assignment]
    Browser(site).visit(lambda session: session.update(a=1))
    with pytest.raises(StoreUnavailable, match="randomness repeats"):
        Browser(site).visit(lambda session: session.update(a=1))


# -- 2. Dirtiness is measured ----------------------------------------------------------------------------------


def test_rule_2_a_change_inside_a_value_is_seen(browser: Browser) -> None:
    browser.visit(lambda session: session["cart"].append("chair"))
    assert browser.sees()["cart"] == ["lamp", "chair"]


def test_rule_2_a_value_nobody_touched_is_never_decoded(browser: Browser, site: Site) -> None:
    decoded: list[str] = []
    decode = site.codec.decode
    site.codec.decode = lambda data, key=None: (decoded.append(key), decode(data, key))[1]  # type: ignore[method-assign]
    browser.visit(lambda session: session["language"])
    assert decoded == ["language"]


def test_rule_2_a_reader_writes_nothing(browser: Browser, site: Site) -> None:
    assert browser.visit(lambda session: (list(session.items()), "x" in session)) == KEEP
    assert asked(site) == ["Load"]


def test_rule_2_setting_what_is_there_already_writes_nothing(browser: Browser, site: Site) -> None:
    browser.visit(lambda session: session.update(cart=["lamp"], language="de"))
    assert asked(site) == ["Load"]


def test_rule_2_setting_and_taking_back_writes_nothing(browser: Browser, site: Site) -> None:
    def there_and_back(session: Session) -> None:
        session["new"] = 1
        del session["new"]
        session["cart"].append("chair")
        session["cart"].pop()

    browser.visit(there_and_back)
    assert asked(site) == ["Load"]


# -- 3. STALE means merge --------------------------------------------------------------------------------------


def overlap(browser: Browser, first: object, second: object, key: str = "n") -> tuple[object, object]:
    """Let two requests that overlap set one key, and return their outcomes."""
    one, two = browser.begin(), browser.begin()
    one[key], two[key] = first, second
    return browser.finish(one), browser.finish(two)


def test_rule_3_two_requests_that_set_different_keys_both_win(browser: Browser) -> None:
    one, two = browser.begin(), browser.begin()
    one["a"] = 1
    del two["language"]
    browser.finish(one)
    assert browser.finish(two).events == ()
    assert browser.sees() == {"cart": ["lamp"], "a": 1}


def test_rule_3_two_requests_that_set_one_key_alike_are_no_conflict(browser: Browser) -> None:
    _, second = overlap(browser, "same", "same")
    assert second == KEEP


def test_rule_3_on_a_conflict_the_last_commit_wins_and_an_event_says_so(browser: Browser) -> None:
    _, second = overlap(browser, 1, 2)
    assert [(event.kind, event.keys) for event in second.events] == [(Happened.CONFLICT, ("n",))]
    assert browser.sees()["n"] == 2


def test_rule_3_policy_may_refuse_a_conflict_and_then_nothing_is_stored(browser: Browser, site: Site) -> None:
    site.policy = Policy(on_conflict="refuse")
    one, two = browser.begin(), browser.begin()
    one["n"], two["n"], two["other"] = 1, 2, 3
    browser.finish(one)
    with pytest.raises(SessionConflict) as refused:
        browser.finish(two)
    assert refused.value.keys == ("n",)
    assert browser.sees() == {"cart": ["lamp"], "language": "de", "n": 1}


def test_rule_3_a_resolver_decides_for_its_key() -> None:
    """Two parallel visits add one each, and both are counted; tags unite."""
    clock = FakeClock()
    manager = SessionManager(
        MemoryStore(),
        clock=clock,
        resolvers={
            "visits": lambda read, found, written: (found or 0) + (written or 0) - (read or 0),
            "tags": lambda read, found, written: found | written,
        },
    )
    site = Site(lambda op: perform(op, manager.blocking_store()), resolvers=manager._resolvers)
    browser = Browser(site)
    browser.visit(lambda session: session.update(visits=10, tags={"a"}))
    requests = [browser.begin() for _ in range(3)]
    for number, session in enumerate(requests):
        session["visits"] += 1
        session["tags"].add(f"from {number}")
    assert all(browser.finish(session) == KEEP for session in requests)
    assert browser.sees() == {"visits": 13, "tags": {"a", "from 0", "from 1", "from 2"}}


def test_rule_3_lists_are_never_merged_by_guess(browser: Browser) -> None:
    one, two = browser.begin(), browser.begin()
    one["cart"].append("chair")
    two["cart"].append("table")
    browser.finish(one)
    assert browser.finish(two).events[0].keys == ("cart",)
    assert browser.sees()["cart"] == ["lamp", "table"]


def test_rule_3_attempts_are_bounded_and_end_in_an_exception(browser: Browser, site: Site) -> None:
    found = site.do(Load(browser.id.private))  # type: ignore[union-attr]
    hot = ScriptedStore((Load, found), *[(Update, Written.STALE), (Load, found)] * lifecycle.ATTEMPTS)
    site.do = lambda op: perform(op, hot)
    session = browser.begin()
    session["n"] = 1
    with pytest.raises(SessionConflict):
        browser.finish(session)
    hot.assert_finished()


# -- 4. GONE is silence ----------------------------------------------------------------------------------------


def test_rule_4_a_request_that_lost_to_a_logout_writes_nothing_and_sends_no_cookie(
    browser: Browser, site: Site
) -> None:
    slow = browser.begin()
    slow["late"] = 1
    browser.visit(Session.destroy)
    outcome = site.commit(slow)
    assert outcome.action is Action.KEEP
    assert [(event.kind, event.keys) for event in outcome.events] == [(Happened.LOST, ("late",))]


def test_rule_4_a_second_logout_does_not_wipe_the_cookie_of_a_new_login(browser: Browser, site: Site) -> None:
    slow = browser.begin()
    slow.destroy()
    browser.visit(Session.destroy)
    browser.visit(lambda session: session.login("alice"))
    browser.finish(slow)
    assert browser.begin().principal == "alice"


def test_rule_4_an_id_that_opens_nothing_is_not_expired_by_a_reader(site: Site) -> None:
    stranger = Browser(site, SessionId.from_random(b"x" * 32))
    outcome = stranger.visit(lambda session: session.get("cart"))
    assert outcome.action is Action.KEEP
    assert [event.kind for event in outcome.events] == [Happened.UNKNOWN_ID]


# -- 5. Rotate creates first and retires second ----------------------------------------------------------------


def test_rule_5_the_new_record_exists_before_the_old_one_is_retired(browser: Browser, site: Site) -> None:
    browser.visit(Session.rotate)
    assert asked(site) == ["Load", "Create", "Update"]


def test_rule_5_a_crash_between_the_two_loses_nothing(browser: Browser, site: Site) -> None:
    session = browser.begin()
    session.rotate()
    flow = lifecycle.commit(session, session.delta(), site.terms())
    first = next(flow)
    assert isinstance(first, Create)
    site.do(first)
    del flow  # the process dies here
    assert browser.sees() == {"cart": ["lamp"], "language": "de"}


def test_rule_5_after_a_renewal_the_old_id_is_served_for_a_grace_and_never_told_the_new_one(
    browser: Browser, site: Site
) -> None:
    old = Browser(site, browser.id)
    browser.visit(Session.rotate)
    for act in (lambda s: s.update(late=1), Session.rotate, lambda s: s.remember(3600), lambda s: s["cart"]):
        assert old.visit(act).id is None
    assert browser.sees()["late"] == 1
    site.clock.advance(seconds=10)
    assert old.sees() == {}


def test_rule_5_after_a_login_the_old_id_opens_nothing_at_all(browser: Browser, site: Site) -> None:
    planted = Browser(site, browser.id)
    browser.visit(lambda session: session.login("alice"))
    assert (planted.sees(), planted.begin().principal, planted.begin().is_new) == ({}, None, True)
    assert planted.visit(lambda session: session.update(counter=1)).action is Action.KEEP


def test_rule_5_renewals_in_a_chain_are_followed_within_the_grace(browser: Browser, site: Site) -> None:
    first = Browser(site, browser.id)
    browser.visit(Session.rotate)
    browser.visit(Session.rotate)
    assert first.sees()["cart"] == ["lamp"]
    browser.visit(lambda session: session.login("alice"))
    assert first.sees() == {}


def test_rule_5_a_logout_after_a_renewal_ends_the_old_id_too(browser: Browser, site: Site, store: MemoryStore) -> None:
    """By the old id within its grace, and where the renewal overtook it: a tombstone can be lost, a session is not."""
    slow = browser.begin()
    browser.visit(Session.rotate)
    slow.destroy()
    site.commit(slow)
    assert store.frames == {}
    browser.visit(lambda session: session.update(a=1))
    old = Browser(site, browser.id)
    browser.visit(Session.rotate)
    old.visit(Session.destroy)
    assert store.frames == {}


def test_rule_5_a_login_beats_a_renewal_that_came_first(browser: Browser, site: Site) -> None:
    login = browser.begin()
    login.login("alice")
    renewed = browser.visit(Session.rotate).id
    browser.finish(login)
    assert browser.begin().principal == "alice"
    assert Browser(site, renewed).sees() == {}


def test_rule_5_two_logins_at_once_both_succeed_and_neither_sees_the_others_session(
    browser: Browser, site: Site
) -> None:
    one, two = browser.begin(), browser.begin()
    one.login("alice")
    two.login("bob")
    two["basket"] = "bob's"
    first, second = site.commit(one), site.commit(two)
    assert Browser(site, first.id).begin().principal == "alice"
    assert Browser(site, second.id).sees() == {"basket": "bob's"}
    assert Browser(site, second.id).begin().principal == "bob"


def test_rule_5_a_change_made_in_parallel_to_a_login_is_carried_over(browser: Browser, site: Site) -> None:
    login = browser.begin()
    login.login("alice")
    browser.visit(lambda session: session.update(quick=1))
    browser.finish(login)
    assert browser.sees() == {"cart": ["lamp"], "language": "de", "quick": 1}


def test_rule_5_a_change_of_principal_leaves_the_other_ones_values_behind(browser: Browser) -> None:
    browser.visit(lambda session: session.login("alice"))
    browser.visit(lambda session: session.login("bob", keep=["language"]))
    assert browser.sees() == {"language": "de"}
    browser.visit(lambda session: session.login("carol"))
    assert browser.sees() == {}


def test_rule_5_a_login_begins_a_new_absolute_lifetime_and_a_renewal_does_not(browser: Browser, site: Site) -> None:
    began = browser.begin().created_at
    site.clock.advance(minutes=5)
    browser.visit(Session.rotate)
    assert browser.begin().created_at == began
    browser.visit(lambda session: session.login("alice"))
    assert browser.begin().created_at == site.clock()


# -- 6. Commit before the first byte ---------------------------------------------------------------------------


def test_rule_6_a_change_after_the_commit_raises_and_is_never_silently_lost(browser: Browser) -> None:
    session = browser.begin()
    browser.finish(session)
    for change in (
        lambda: session.update(a=1),
        lambda: session.pop("cart"),
        session.clear,
        session.rotate,
        session.destroy,
        lambda: session.login("alice"),
        lambda: session.logout(),
        lambda: session.remember(60),
    ):
        with pytest.raises(SessionSealed, match="the response has begun"):
            change()
    assert session["cart"] == ["lamp"]


def test_rule_6_a_first_look_after_the_response_began_raises_since_vary_is_too_late(site: Site) -> None:
    session = Session(lambda: pytest.fail("fetched"), site)
    site.commit(session)
    with pytest.raises(SessionSealed, match="first look"):
        session.get("cart")


def test_rule_6_streams_reopen_and_save(browser: Browser) -> None:
    session = browser.begin()
    browser.finish(session)
    session.reopen()
    session["progress"] = 50
    session.save()
    session["cart"].append("chair")
    session.save()
    assert browser.sees() == {"cart": ["lamp", "chair"], "language": "de", "progress": 50}
    with pytest.raises(SessionSealed, match="new id"):
        session.rotate()


def test_rule_6_a_session_that_no_cookie_can_announce_is_not_begun_late(site: Site) -> None:
    session = site.open()
    site.commit(session)
    session.reopen()
    session["a"] = 1
    with pytest.raises(SessionSealed, match="announced"):
        session.save()


def test_rule_6_a_nested_change_after_the_commit_is_found_out(browser: Browser) -> None:
    session = browser.begin()
    session["cart"].append("chair")
    browser.finish(session)
    assert session.unsaved() == ()
    session["cart"].append("table")
    assert session.unsaved() == ("cart",)


def test_rule_6_a_late_save_does_not_overwrite_what_others_wrote(browser: Browser) -> None:
    session = browser.begin()
    assert session["cart"] == ["lamp"]
    session["mine"] = 1
    browser.visit(lambda other: other["cart"].append("chair"))
    browser.finish(session)
    session.reopen()
    session["mine"] = 2
    session.save()
    assert browser.sees() == {"cart": ["lamp", "chair"], "language": "de", "mine": 2}


# -- 7. The cookie's lifetime is not the server's timeout ------------------------------------------------------


def test_rule_7_a_session_dies_of_idleness_whatever_the_cookie_says(browser: Browser, site: Site) -> None:
    browser.visit(lambda session: session.remember(30 * 86400))
    site.clock.advance(minutes=31)
    assert browser.sees() == {}


def test_rule_7_remember_follows_javas_rule(browser: Browser, site: Site) -> None:
    kept = browser.visit(lambda session: session.remember(3600))
    assert (kept.action, kept.cookie_age) == (Action.ISSUE, 3600)
    till_close = browser.visit(lambda session: session.remember(-1))
    assert (till_close.action, till_close.cookie_age) == (Action.ISSUE, None)
    assert browser.visit(lambda session: session.remember(0)).action is Action.EXPIRE
    assert browser.sees() == {}


def test_rule_7_a_persistent_cookie_slides_along_with_use_and_a_session_cookie_is_left_alone(
    browser: Browser, site: Site
) -> None:
    site.clock.advance(minutes=2)
    assert browser.visit(lambda session: session["cart"]).action is Action.KEEP
    browser.visit(lambda session: session.remember(3600))
    site.clock.advance(seconds=30)
    assert browser.visit(lambda session: session["cart"]).action is Action.KEEP
    site.clock.advance(minutes=2)
    again = browser.visit(lambda session: session["cart"])
    assert (again.action, again.cookie_age) == (Action.ISSUE, 3600)


def test_rule_7_every_kind_of_look_is_seen(browser: Browser) -> None:
    looks = [
        lambda s: s["cart"], lambda s: s.get("x"), lambda s: "x" in s, len, bool, list, lambda s: s.keys(),
        lambda s: s.values(), lambda s: s.items(), lambda s: s == {}, lambda s: s.principal, lambda s: s.is_new,
        lambda s: s.expires_at, lambda s: s.created_at, lambda s: s.handle,
        lambda s: s.pop("x", None), lambda s: s.update(a=1), Session.destroy,
    ]  # fmt: skip
    for look in looks:
        session = Session(lambda: browser.begin().opened, browser.site)
        look(session)
        assert session.looked, look


# -- 8. The clock comes in as an argument ----------------------------------------------------------------------


def test_rule_8_no_store_and_no_flow_asks_for_the_time(
    browser: Browser, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: pytest.fail("somebody asked the clock"))
    browser.visit(lambda session: session.update(a=1))
    site.clock.advance(minutes=2)
    browser.visit(Session.rotate)
    browser.visit(Session.destroy)


def test_rule_8_the_record_carries_its_deadline_and_open_judges_it(browser: Browser, site: Site) -> None:
    site.clock.advance(seconds=1799.999)
    assert browser.sees() != {}
    site.clock.advance(seconds=0.001)
    assert browser.sees() == {}


def test_rule_8_a_clock_that_steps_back_logs_nobody_out_and_prolongs_nothing(browser: Browser, site: Site) -> None:
    site.clock.advance(hours=-1)
    browser.visit(lambda session: session.update(a=1))
    assert browser.begin().expires_at == site.clock() + 3600 + 1800


# -- 9. "No such session" is not "the store cannot answer" -----------------------------------------------------


@pytest.mark.parametrize(
    ("operations", "handler"),
    [
        ([Load], lambda session: session),
        ([Load, Update], lambda session: session.update(a=1)),
        ([Load, Delete], Session.destroy),
        ([Load, Create], Session.rotate),
        ([Load, Create, Update], Session.rotate),
    ],
)
def test_rule_9_an_outage_is_an_exception_at_every_operation(
    browser: Browser, site: Site, operations: list[type], handler: object
) -> None:
    found = site.do(Load(browser.id.private))  # type: ignore[union-attr]
    answers = {Load: found, Create: Written.DONE}
    script = [(op, answers[op]) for op in operations[:-1]] + [(operations[-1], StoreUnavailable("down"))]
    down, up = ScriptedStore(*script), site.do
    site.do = lambda op: perform(op, down)
    with pytest.raises(StoreUnavailable):
        browser.visit(handler)  # type: ignore[arg-type]
    down.assert_finished()
    site.do = up
    assert browser.sees() == {"cart": ["lamp"], "language": "de"}


# -- 10. What a browser can cause is a value -------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "a" * 5000, "\0", "../../etc/passwd", "é" * 43, "a" * 42 + "B"])
def test_rule_10_a_malformed_token_is_an_anonymous_visitor_and_costs_no_call(token: str) -> None:
    manager = SessionManager(ScriptedStore(), clock=FakeClock(), random=NumberedRandom())
    session = manager.begin(lambda value: [value], f"__Host-sid={token}".encode("utf-8", "replace"))
    if token != "a" * 43:
        assert session.is_new


def test_rule_10_what_an_operator_must_fix_is_an_exception_that_names_cause_and_cure() -> None:
    with pytest.raises(ConfigurationError, match=r"touch_interval .* must be shorter than idle_timeout"):
        Policy(idle_timeout=60, touch_interval=60)
    with pytest.raises(ConfigurationError, match=r"known schemes: local:, memcached.unix:"):
        SessionManager("redus://localhost")
    assert issubclass(ConfigurationError, SojournError)


def test_rule_10_a_value_that_cannot_be_stored_names_its_path_and_stores_nothing(browser: Browser, site: Site) -> None:
    def handler(session: Session) -> None:
        session["ok"] = 1
        session["cart"].append({"price": object()})

    with pytest.raises(ValueNotStorable, match=r"session\['cart'\]\[1\]\['price'\] cannot be stored"):
        browser.visit(handler)
    assert asked(site) == ["Load"]
    assert "ok" not in browser.sees()


def test_touch_is_the_op_of_a_reader_and_names_the_version_it_saw(browser: Browser, site: Site) -> None:
    site.clock.advance(minutes=1)
    browser.visit(lambda session: session["cart"])
    assert next(op for op in site.asked if isinstance(op, Touch)).base == 1


def test_a_flow_that_asks_nothing_runs_on_any_store() -> None:
    assert run(lifecycle.open((), Policy(), 0.0), ScriptedStore()).record is None
