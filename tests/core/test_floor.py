"""A floor travels from what a browser was shown into its token, and from the token into the next look."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core import floor
from sojourn.core.capability import Floor, Floored, LoadSeen, is_able
from sojourn.core.floor import MOST
from sojourn.core.ids import SessionId
from sojourn.core.ops import Load
from sojourn.core.outcome import Action
from sojourn.core.record import Record
from sojourn.drive import perform
from sojourn.errors import StoreUnavailable
from sojourn.manager import SessionManager
from sojourn.store.memory import MemoryStore
from sojourn.testing import FakeClock
from sojourn.testing.site import Browser, Site
from sojourn.transport.cookie import Cookie

ID = SessionId.from_random(bytes(32))


class FlooredStore(MemoryStore):
    """A store whose floors are its versions. ``others`` writes behind a visitor's back."""

    mute = False

    def load_seen(self, key: bytes, floor: bytes) -> Record | None:
        record = self.load(key)
        return record and record._replace(seen=self.floor(key))

    def floor(self, key: bytes) -> bytes:
        if self.mute:
            raise StoreUnavailable("no answer")
        record = self.load(key)
        return record.version.to_bytes(8, "big") if record else b""

    def others(self, key: bytes, **values: bytes) -> None:
        record = self.load(key)
        assert record
        newer = record._replace(values={**record.values, **values}, version=record.version + 1)
        self.update(key, newer, record.version)


class Shop:
    """A site on a floored store, with one browser."""

    def __init__(self) -> None:
        self.store = FlooredStore()
        self.site = Site(lambda op: perform(op, self.store), floored=True)
        self.browser = Browser(self.site)

    @property
    def key(self) -> bytes:
        assert self.browser.id
        return self.browser.id.private

    def set(self, **values: Any) -> Any:
        return self.browser.visit(lambda session: session.update(values))


@pytest.fixture
def shop() -> Shop:
    return Shop()


# -- tokens ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=MOST * 3 // 4))
def test_a_token_says_what_it_was_made_of(seen: bytes) -> None:
    parsed = floor.parse(floor.spell(ID, seen))
    assert parsed is not None
    assert (parsed.id.public, parsed.floor) == (ID.public, seen)


def test_a_floor_too_large_for_a_cookie_is_left_out() -> None:
    assert floor.spell(ID, bytes(MOST)) == ID.public
    assert Cookie().issue(floor.spell(ID, bytes(MOST * 3 // 4)))


@pytest.mark.parametrize(
    "written", ["", "A", "AA==", "AB", "A A", "+/8", "é", "AA.AA", "A" * (MOST + 4), "AA\n", "=", "AA="]
)
def test_a_token_with_another_spelling_is_no_token(written: str) -> None:
    assert floor.parse(f"{ID.public}.{written}") is None


@given(st.text(max_size=80))
def test_whatever_a_browser_sends_is_a_value(text: str) -> None:
    assert floor.parse(text) is None
    assert floor.parse(f"{ID.public}{text}") is None or text == "" or text.startswith(".")


# -- whole requests --------------------------------------------------------------------------------------------


def test_who_writes_is_told_what_it_has_seen(shop: Shop) -> None:
    first = shop.set(a=1)
    assert first.action is Action.ISSUE
    assert first.floor == shop.store.floor(shop.key)
    second = shop.set(b=2)
    assert (second.action, second.id, second.floor) == (Action.ISSUE, first.id, shop.store.floor(shop.key))
    assert second.floor > first.floor


def test_the_next_look_says_what_the_browser_has_seen(shop: Shop) -> None:
    shop.set(a=1)
    shop.site.asked.clear()
    assert shop.browser.sees() == {"a": 1}
    assert shop.site.asked == [LoadSeen(shop.key, shop.browser.floor)]


def test_who_reads_what_it_knows_is_told_nothing_and_asks_nothing_more(shop: Shop) -> None:
    shop.set(a=1)
    session = shop.browser.begin()
    assert session["a"] == 1
    shop.site.asked.clear()
    assert floor.is_settled(session)
    assert shop.browser.finish(session).action is Action.KEEP
    assert not any(isinstance(op, Load) for op in shop.site.asked)


def test_who_reads_something_newer_is_told(shop: Shop) -> None:
    shop.set(a=1)
    shop.store.others(shop.key, b=shop.site.codec.encode(2))
    session = shop.browser.begin()
    assert dict(session) == {"a": 1, "b": 2}
    assert not floor.is_settled(session)
    told = shop.browser.finish(session)
    assert (told.action, told.floor) == (Action.ISSUE, shop.store.floor(shop.key))
    assert shop.browser.visit(len).action is Action.KEEP


def test_a_commit_that_has_to_look_again_looks_for_no_older_session_than_it_was_shown(shop: Shop) -> None:
    shop.set(a=1)
    session = shop.browser.begin()
    session["b"] = 2
    shown = shop.store.floor(shop.key)
    shop.store.others(shop.key, c=shop.site.codec.encode(3))
    shop.site.asked.clear()
    assert shop.browser.finish(session).action is Action.ISSUE
    assert [op for op in shop.site.asked if isinstance(op, Load | LoadSeen)] == [LoadSeen(shop.key, shown)]
    assert shop.browser.sees() == {"a": 1, "b": 2, "c": 3}


def test_a_cookie_that_lasts_keeps_its_lifetime_when_the_floor_rises(shop: Shop) -> None:
    shop.browser.visit(lambda session: (session.update(a=1), session.remember(86400)))
    assert shop.set(a=2).cookie_age == 86400


def test_a_logout_says_nothing_of_floors(shop: Shop) -> None:
    shop.set(a=1)
    gone = shop.browser.visit(lambda session: session.logout())
    assert (gone.action, gone.floor) == (Action.EXPIRE, b"")
    assert not any(isinstance(op, Floor) for op in shop.site.asked[-2:])


def test_a_new_id_has_the_floor_of_its_own_record(shop: Shop) -> None:
    shop.set(a=1)
    shop.set(a=2)
    renewed = shop.browser.visit(lambda session: session.rotate())
    assert renewed.floor == shop.store.floor(shop.key) != b""


def test_a_renewed_id_is_served_and_neither_told_the_new_one_nor_a_floor(shop: Shop) -> None:
    shop.set(a=1)
    old = Browser(shop.site, shop.browser.id)
    old.floor = shop.browser.floor
    shop.browser.visit(lambda session: session.rotate())
    assert old.sees() == {"a": 1}
    assert old.visit(lambda session: session.update(b=2)).action is Action.KEEP


def test_what_is_written_stays_a_success_where_the_floor_cannot_be_had(shop: Shop) -> None:
    shop.set(a=1)
    session = shop.browser.begin()
    session["a"] = 2
    shop.store.mute = True
    assert shop.browser.finish(session).action is Action.KEEP
    shop.store.mute = False
    assert shop.browser.sees() == {"a": 2}


# -- the manager -----------------------------------------------------------------------------------------------


def manager_on(store: MemoryStore) -> SessionManager:
    return SessionManager(store, clock=FakeClock())


def test_a_manager_speaks_floors_where_the_store_does() -> None:
    manager = manager_on(FlooredStore())
    assert is_able(manager.store, Floored)
    session = manager.begin(lambda _: [], None)
    session["a"] = 1
    outcome = manager.commit(session)
    [cookie] = [value for name, value in manager.respond(outcome, [], scheme="https", host="x") if name == "set-cookie"]
    pair = cookie.partition(";")[0]
    assert "." in pair
    again = manager.begin(lambda _: [pair], None)
    assert again["a"] == 1
    assert manager.commit(again).action is Action.KEEP


def test_a_floor_means_nothing_to_a_store_without_floors() -> None:
    manager = manager_on(MemoryStore())
    session = manager.begin(lambda _: [], None)
    session["a"] = 1
    outcome = manager.commit(session)
    assert outcome.id
    assert outcome.floor == b""
    assert manager.begin(lambda _: [f"__Host-sid={floor.spell(outcome.id, b'x')}"], None).is_new


def test_a_store_that_merges_value_by_value_refuses_to_have_sessions_sealed_as_a_whole() -> None:
    from sojourn.errors import ConfigurationError

    store = MemoryStore()
    store.merges = True  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="leave keys out"):
        SessionManager(store, keys=["k" * 43])


def test_an_id_is_drawn_until_this_host_keeps_it() -> None:
    store = MemoryStore()
    store.places = lambda key: key[0] < 16  # type: ignore[attr-defined]
    session = SessionManager(store).begin(lambda _: [], None)
    session["a"] = 1
    outcome = session._keeper.commit(session)  # type: ignore[attr-defined]
    assert outcome.id.private[0] < 16
