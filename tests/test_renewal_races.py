"""What a renewal that happens meanwhile must not change: whose cookie stands, who is revoked, how many stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sojourn import Policy, Session, SessionManager
from sojourn.core.ids import SessionId
from sojourn.core.ops import Written
from sojourn.core.outcome import Action, Happened, Outcome
from sojourn.core.principals import tag_of
from sojourn.store.memory import MemoryStore
from sojourn.testing import FakeClock


class Interrupted(MemoryStore):
    """A store in which something happens just before some records are deleted."""

    meanwhile: Callable[[], object] | None = None

    def delete(self, key: bytes, base: int | None = None) -> Written:
        self._let_it_happen()
        return super().delete(key, base)

    def delete_many(self, keys: Sequence[bytes]) -> int:
        self._let_it_happen()
        return super().delete_many(keys)

    def _let_it_happen(self) -> None:
        happening, self.meanwhile = self.meanwhile, None
        if happening:
            happening()


class Shop:
    def __init__(self, **settings: Any) -> None:
        self.store, self.clock = Interrupted(), FakeClock()
        self.manager = SessionManager(self.store, clock=self.clock, **settings)

    def begin(self, token: str | None) -> Session:
        session = self.manager.begin(lambda cookie: [cookie] if cookie else [], f"__Host-sid={token}" if token else "")
        assert session.is_new in (True, False)
        return session

    def end(self, session: Session) -> tuple[Outcome, str | None]:
        outcome = self.manager.commit(session)
        return outcome, outcome.id.public if outcome.id else None

    def visit(self, token: str | None, handler: Callable[[Session], object]) -> str:
        session = self.begin(token)
        handler(session)
        _, told = self.end(session)
        assert told or token
        return told or str(token)

    def login(self) -> str:
        return self.visit(None, lambda session: session.login("alice"))

    def alive(self, *tokens: str) -> list[bool]:
        return [not self.begin(token).is_new for token in tokens]


def remembered(shop: Shop) -> str:
    def handler(session: Session) -> None:
        session.login("alice")
        session.remember(86400)

    token = shop.visit(None, handler)
    shop.clock.advance(100)  # so that a touch is due, and with it another lifetime of the cookie
    return token


def test_a_slow_writer_does_not_hand_the_old_id_out_again() -> None:
    shop = Shop()
    old = remembered(shop)
    slow = shop.begin(old)
    slow["n"] = 1
    new = shop.visit(old, Session.rotate)
    assert shop.end(slow) == (Outcome(), None)
    shop.clock.advance(11)
    assert shop.alive(old, new) == [False, True]
    assert shop.begin(new)["n"] == 1


def test_an_exclusive_block_with_an_old_id_learns_no_new_one() -> None:
    shop = Shop()
    old = shop.login()
    slow = shop.begin(old)
    new = shop.visit(old, Session.rotate)
    with slow.exclusive():
        slow["n"] = 1
    slow.rotate()
    outcome, told = shop.end(slow)
    assert (outcome.action, told) == (Action.KEEP, None)
    shop.clock.advance(11)
    assert shop.alive(new) == [True]


@pytest.mark.parametrize("act", [lambda session: session.login("bob"), Session.logout])
def test_what_an_exclusive_block_left_to_say_is_not_said_over_an_end(act: Callable[[Session], object]) -> None:
    shop = Shop()
    token = remembered(shop)
    slow = shop.begin(token)
    with slow.exclusive():
        slow["n"] = 1
    shop.visit(token, act)
    slow["n"] = 2
    outcome, told = shop.end(slow)
    assert (outcome.action, told) == (Action.KEEP, None)
    assert [event.kind for event in outcome.events] == [Happened.LOST]


def test_what_an_exclusive_block_left_to_say_is_not_said_over_a_renewal() -> None:
    shop = Shop()
    token = remembered(shop)
    slow = shop.begin(token)
    with slow.exclusive():
        slow["n"] = 1
    new = shop.visit(token, Session.rotate)
    slow.rotate()
    assert shop.end(slow)[1] is None
    assert shop.alive(new) == [True]


def test_a_device_that_is_renewed_meanwhile_does_not_escape_its_end() -> None:
    shop = Shop()
    token = shop.login()
    [device] = shop.manager.of("alice")
    renewed: list[str] = []
    shop.store.meanwhile = lambda: renewed.append(shop.visit(token, Session.rotate))
    assert shop.manager.revoke("alice", only=device.handle) == 1
    assert len(renewed) == 1
    assert shop.alive(token, *renewed) == [False, False]
    assert shop.manager.of("alice") == []


def test_the_bound_holds_while_a_device_is_renewed() -> None:
    shop = Shop(policy=Policy(max_sessions=1))
    phone = shop.login()
    shop.clock.advance(1)
    renewed: list[str] = []
    shop.store.meanwhile = lambda: renewed.append(shop.visit(phone, Session.rotate))
    laptop = shop.login()
    assert len(renewed) == 1
    assert shop.alive(phone, *renewed, laptop) == [False, False, True]
    assert len(shop.manager.of("alice")) == 1


def test_the_callers_own_session_is_kept_also_when_it_was_renewed_meanwhile() -> None:
    shop = Shop()
    token, other = shop.login(), shop.login()
    current = shop.begin(token)
    new = shop.visit(token, Session.rotate)
    assert shop.manager.revoke("alice", keep=current) == 1
    assert shop.alive(new, other) == [True, False]
    assert shop.manager.revoke_all(keep=current) == 0
    assert shop.alive(new) == [True]


def test_renewals_that_lose_leave_nothing_listed() -> None:
    shop = Shop()
    token = shop.login()
    racing = [shop.begin(token) for _ in range(5)]
    for session in racing:
        session.rotate()
        shop.end(session)
    assert sum(len(keys) for keys in shop.store.index.values()) == 1
    assert len(shop.manager.of("alice")) == 1


def test_a_late_logout_that_ends_nothing_is_in_the_events() -> None:
    events: list[Happened] = []
    shop = Shop(on_event=lambda event: events.append(event.kind))
    token = shop.login()
    socket = shop.begin(token)
    shop.end(socket)
    socket.reopen()
    shop.visit(token, Session.rotate)
    shop.clock.advance(60)
    socket.logout()
    socket.save()
    assert events[-1] is Happened.LOST


def list_the_old_id_alone(shop: Shop, old: str, new: str) -> None:
    """Leave the list as it is on a host that has heard of a renewal, and not yet of what was listed with it."""
    keys = [SessionId.parse(token).private for token in (old, new)]  # type: ignore[union-attr]
    tag, now = tag_of("alice"), shop.clock()
    shop.store.enlist(tag, keys[0], now, now + 1000)
    shop.store.delist(tag, keys[1:])


def test_what_took_over_from_a_session_that_is_listed_ends_with_it() -> None:
    shop = Shop()
    old = shop.login()
    middle = shop.visit(old, Session.rotate)
    new = shop.visit(middle, Session.rotate)
    list_the_old_id_alone(shop, old, new)
    assert shop.manager.revoke("alice") > 0
    assert shop.alive(old, middle, new) == [False, False, False]


def test_what_took_over_is_kept_where_it_is_the_callers_own() -> None:
    shop = Shop()
    old = shop.login()
    new = shop.visit(old, Session.rotate)
    list_the_old_id_alone(shop, old, new)
    shop.manager.revoke("alice", keep=shop.begin(new))
    assert shop.alive(new) == [True]
