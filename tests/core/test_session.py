"""Session behaves like a dict, whatever is stored, decoded or assigned underneath."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sojourn.codec import Codec
from sojourn.core.delta import apply
from sojourn.core.opened import Opened, Standing
from sojourn.core.outcome import Action
from sojourn.core.policy import Policy
from sojourn.core.record import Record
from sojourn.core.session import Session
from sojourn.drive import perform
from sojourn.errors import SessionTooLarge, ValueNotStorable
from sojourn.store.memory import MemoryStore
from sojourn.testing import Browser, Site

KEYS = st.sampled_from(["a", "b", "c", "ключ"])
VALUES = st.one_of(st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2), st.none())
CODEC = Codec()


class LikeADict(RuleBasedStateMachine):
    """Every method of a mapping, on a session with stored values and on a dict."""

    @initialize(stored=st.dictionaries(KEYS, VALUES))
    def begin(self, stored: dict[str, Any]) -> None:
        site = Site(lambda op: pytest.fail("the mapping asked the store"))
        self.before = {key: CODEC.encode(value) for key, value in stored.items()}
        record = Record(self.before, 0, 0, 1)
        self.session = site.opened(Opened(Standing.OWN, None, b"k" * 32, record))
        self.model = {key: CODEC.decode(data) for key, data in self.before.items()}

    @rule(key=KEYS, value=VALUES)
    def put(self, key: str, value: object) -> None:
        self.session[key] = value
        self.model[key] = value

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        assert self.session.pop(key, "none") == self.model.pop(key, "none")

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        assert self.session.get(key, "none") == self.model.get(key, "none")
        assert (key in self.session) == (key in self.model)

    @rule(key=KEYS)
    def change_inside(self, key: str) -> None:
        if isinstance(value := self.session.get(key), list):
            value.append(1)
            if self.model[key] is not value:
                self.model[key].append(1)

    @rule()
    def clear(self) -> None:
        self.session.clear()
        self.model.clear()

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key: str, value: object) -> None:
        assert self.session.setdefault(key, value) == self.model.setdefault(key, value)

    @invariant()
    def they_are_equal(self) -> None:
        if not hasattr(self, "session"):
            return
        assert len(self.session) == len(self.model)
        assert set(self.session) == set(self.model)
        assert bool(self.session) == bool(self.model)

    @invariant()
    def the_delta_leads_from_what_was_stored_to_what_is_there(self) -> None:
        if not hasattr(self, "session"):
            return
        after = apply(self.before, self.session.delta())
        assert {key: CODEC.decode(data) for key, data in after.items()} == self.model


TestLikeADict = LikeADict.TestCase


@pytest.fixture
def browser() -> Browser:
    store = MemoryStore()
    return Browser(Site(lambda op: perform(op, store)))


def test_keys_are_str_and_nothing_else(browser: Browser) -> None:
    for key in (1, b"a", None, ("a",)):
        with pytest.raises(ValueNotStorable, match="keys of a session are str"):
            browser.begin()[key] = 1  # type: ignore[index]


def test_a_missing_key_is_a_key_error(browser: Browser) -> None:
    session = browser.begin()
    for act in (lambda: session["x"], lambda: session.__delitem__("x"), lambda: session.pop("x")):
        with pytest.raises(KeyError):
            act()


def test_logout_keeps_only_what_is_named_and_under_another_id(browser: Browser) -> None:
    browser.visit(lambda session: session.update(language="de", cart=["lamp"]))
    browser.visit(lambda session: session.login("alice"))
    before = browser.id
    browser.visit(lambda session: session.logout(keep=["language", "absent"]))
    assert browser.sees() == {"language": "de"}
    assert browser.begin().principal is None
    assert Browser(browser.site, before).sees() == {}


def test_a_login_keeps_an_anonymous_visitors_values_or_those_it_names(browser: Browser) -> None:
    browser.visit(lambda session: session.update(cart=["lamp"], tracker="x"))
    browser.visit(lambda session: session.login("alice", keep=["cart"]))
    assert browser.sees() == {"cart": ["lamp"]}


@pytest.mark.parametrize("principal", ["", "x" * 256, 7, None, b"alice"])
def test_a_principal_is_a_short_str(browser: Browser, principal: Any) -> None:
    with pytest.raises(ValueNotStorable, match="principal"):
        browser.begin().login(principal)


@pytest.mark.parametrize("age", [float("nan"), float("inf"), 1e15])
def test_a_cookie_age_is_a_number_of_seconds(browser: Browser, age: float) -> None:
    with pytest.raises(ValueNotStorable, match="cookie_age"):
        browser.begin().remember(age)


def test_what_is_set_after_destroy_begins_another_session(browser: Browser) -> None:
    browser.visit(lambda session: session.update(cart=["lamp"]))
    before = browser.id

    def end_and_begin(session: Session) -> None:
        session.destroy()
        session["flash"] = "bye"

    outcome = browser.visit(end_and_begin)
    assert outcome.id is not None
    assert browser.sees() == {"flash": "bye"}
    assert Browser(browser.site, before).sees() == {}


def test_what_is_too_large_to_begin_ends_nothing(browser: Browser) -> None:
    browser.visit(lambda session: session.update(cart=["lamp"]))

    def end_and_begin_too_much(session: Session) -> None:
        session.destroy()
        session.update({f"key {n}": n for n in range(257)})

    with pytest.raises(SessionTooLarge, match="257 keys"):
        browser.visit(end_and_begin_too_much)
    assert browser.sees() == {"cart": ["lamp"]}


def test_repr_shows_neither_id_nor_values(browser: Browser) -> None:
    browser.visit(lambda session: session.update(password="hunter2"))
    session = browser.begin()
    assert repr(session) == f"<Session {session.handle}: 1 keys>"
    assert repr(Session(lambda: Opened(), browser.site)) == "<Session: not looked at>"
    assert "hunter2" not in repr(session.opened)


def test_bounds_are_checked_before_any_operation(browser: Browser) -> None:
    """Item 92."""
    browser.site.policy = Policy(max_keys=3, max_bytes=1000)
    for values, why in (({str(n): n for n in range(4)}, "max_keys is 3"), ({"a": "x" * 1000}, "max_bytes is 1000")):
        browser.site.asked.clear()
        with pytest.raises(SessionTooLarge, match=why):
            browser.visit(lambda session, values=values: session.update(values))
        assert browser.site.asked == []


def test_bounds_hold_for_what_a_merge_makes(browser: Browser) -> None:
    browser.site.policy = Policy(max_keys=3)
    browser.visit(lambda session: session.update(a=1))
    one, two = browser.begin(), browser.begin()
    one.update(b=1, c=1)
    two.update(d=1, e=1)
    browser.finish(one)
    with pytest.raises(SessionTooLarge):
        browser.finish(two)
    assert browser.sees() == {"a": 1, "b": 1, "c": 1}


def test_what_another_request_said_about_the_cookie_is_kept() -> None:
    site = Site(partial(flipped, MemoryStore()))
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1))
    slow, reader = browser.begin(), browser.begin()
    browser.visit(lambda session: session.remember(3600))
    slow["n"] = 2
    assert browser.finish(slow).action is Action.KEEP
    with reader.exclusive():
        pass
    assert browser.finish(reader).action is Action.KEEP
    assert browser.begin().cookie_age == 3600


def test_a_logout_after_an_exclusive_block_is_what_the_browser_is_told() -> None:
    site = Site(partial(flipped, MemoryStore()))
    browser = Browser(site)
    browser.visit(lambda session: session.update(n=1))
    session = browser.begin()
    with session.exclusive():
        session.remember(3600)
    session.logout()
    assert browser.finish(session).action is Action.EXPIRE


def flipped(store: MemoryStore, op: Any) -> Any:
    return perform(op, store)
