"""A host that lacks what a browser has seen asks before it answers; forged floors cost little and change nothing."""

from __future__ import annotations

import pytest
from tests.cluster.pump import Pump, key_of

from sojourn.cluster import local, wire
from sojourn.cluster.clock import Stamp
from sojourn.cluster.questions import SETTLED
from sojourn.cluster.replica import Mark, Replica, floor_of

A, B, C = "a:1", "b:1", "c:1"
KEY = key_of("s")


@pytest.fixture
def pump() -> Pump:
    pump = Pump(A, B, C)
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in pump.names))
    return pump


def floor(pump: Pump, name: str) -> bytes:
    replica = pump.machines[name].tables.replica(KEY)
    assert replica
    return floor_of(replica)


def forged(pump: Pump, name: str, ahead: int = 1 << 20) -> bytes:
    origin = pump.machines[name].tables.origin
    return floor_of(Replica(seen={origin: Mark(Stamp((1_800_000_000_000 << 16) + ahead, origin).time, 1)}))


def ask(pump: Pump, name: str, seen: bytes, key: bytes = KEY, wait_ms: int = 500) -> local.Asked:
    answer = pump.ask(name, local.Ask(0, key, seen, wait_ms))
    assert isinstance(answer, local.Asked)
    return answer


def test_a_host_that_is_behind_fetches_what_the_browser_saw(pump: Pump) -> None:
    pump.cut = {(A, C)}
    pump.create(A, "s", n="1")
    assert pump.values(C, "s") is None
    assert ask(pump, C, floor(pump, A)).known
    assert pump.values(C, "s") == {"n": b"1"}


def test_a_host_that_has_it_asks_nobody(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    mark = len(pump.log)
    assert ask(pump, C, floor(pump, A)).known
    assert not [one for _, _, one in pump.log[mark:] if isinstance(one, wire.Fetch)]


def test_a_write_whose_host_has_died_is_found_on_another(pump: Pump) -> None:
    pump.cut = {(A, C)}
    pump.create(A, "s", n="1")
    seen = floor(pump, A)
    pump.kill(A)
    assert ask(pump, C, seen).known
    assert pump.values(C, "s") == {"n": b"1"}


def test_while_a_host_that_may_know_more_is_away_nobody_is_shown_an_older_session(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    seen = floor(pump, A)[:4] + (int.from_bytes(floor(pump, A)[4:12], "big") + 9).to_bytes(8, "big")
    pump.kill(A)
    pump.run(0.1)
    assert not ask(pump, C, seen).known
    pump.run(15)
    assert pump.state(C, A) == "dead"
    assert not ask(pump, C, seen).known


def test_what_a_wiped_host_alone_had_is_lost_and_the_browser_served_what_there_is(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    seen = floor(pump, A)[:4] + (int.from_bytes(floor(pump, A)[4:12], "big") + 9).to_bytes(8, "big")
    pump.kill(A)
    pump.run(0.1)
    pump.start(A, pump.new_tables())
    assert pump.run(5, lambda: pump.state(C, A) == "alive")
    assert pump.run(2, lambda: ask(pump, C, seen).known)


def test_a_forged_floor_is_answered_by_its_host_and_shows_what_there_is(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    began = pump.now
    assert ask(pump, C, forged(pump, A)).known
    assert pump.now - began < 0.01


def test_a_question_ends_in_time_when_nobody_answers(pump: Pump) -> None:
    pump.cut = {(A, C), (B, C)}
    began = pump.now
    assert not ask(pump, C, forged(pump, A), wait_ms=300).known
    assert 0.3 <= pump.now - began < 0.31


def test_forged_floors_of_one_session_soon_cost_no_message(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    mark = len(pump.log)
    known = [ask(pump, C, forged(pump, A, number << 24)).known for number in range(1, 50)]
    assert known[0]
    assert not known[-1]
    fetches = [one for _, _, one in pump.log[mark:] if isinstance(one, wire.Fetch)]
    assert len(fetches) <= 2 * 6


def test_made_up_ids_do_not_use_up_the_questions_of_those_who_have_a_session(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    mark = len(pump.log)
    for number in range(1500):
        pump.ask(C, local.Ask(0, key_of(f"made up {number}"), forged(pump, A), 100), seconds=0.0)
    pump.run(0.05)
    assert len([one for _, _, one in pump.log[mark:] if isinstance(one, wire.Fetch)]) <= 2 * 1500
    assert not ask(pump, C, forged(pump, A), key_of("one more")).known
    assert ask(pump, C, forged(pump, A)).known


def test_many_workers_with_one_question_ask_once(pump: Pump) -> None:
    pump.cut = {(A, C)}
    pump.create(A, "s", n="1")
    machine, mark = pump.machines[C], len(pump.log)
    for number in range(1000, 1020):
        pump.do(machine, machine.node.asked(number, local.Ask(number, KEY, floor(pump, A), 500), pump.now))
    pump.run(0.1)
    assert all(machine.reply_to(number) == local.Asked(number, True) for number in range(1000, 1020))
    assert len([one for _, _, one in pump.log[mark:] if isinstance(one, wire.Fetch)]) == 2


def test_a_host_that_is_not_ready_finds_what_others_have(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    pump.kill(C)
    pump.run(0.1)
    pump.start(C, pump.new_tables())
    assert ask(pump, C, b"").known
    assert pump.values(C, "s") == {"n": b"1"}


def test_bytes_that_are_no_floor_ask_for_nothing(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    mark = len(pump.log)
    assert ask(pump, C, b"nonsense").known
    assert not [one for _, _, one in pump.log[mark:] if isinstance(one, wire.Fetch)]


def test_who_asked_and_is_gone_is_told_nothing(pump: Pump) -> None:
    pump.cut = {(A, C), (B, C)}
    machine = pump.machines[C]
    pump.do(machine, machine.node.asked(9, local.Ask(99, KEY, forged(pump, A), 300), pump.now))
    pump.do(machine, machine.node.gone(9, pump.now))
    pump.run(1)
    assert machine.reply_to(99) is None


def test_a_dead_host_that_an_operator_has_forgotten_is_not_waited_for_on_any_host(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    seen = floor(pump, A)[:4] + (int.from_bytes(floor(pump, A)[4:12], "big") + 9).to_bytes(8, "big")
    pump.kill(A)
    pump.run(0.1)
    assert not pump.ask(B, local.Forget(0, A)).view["forgotten"]  # it may come back any moment
    pump.run(15)
    assert not ask(pump, C, seen).known
    assert pump.ask(B, local.Forget(0, A)).view["forgotten"]
    assert pump.run(2, lambda: pump.state(C, A) == "left")
    assert ask(pump, C, seen).known
    pump.start(A)
    assert pump.run(5, lambda: pump.state(B, A) == pump.state(C, A) == "alive")


def test_a_host_that_began_anew_and_reaches_nobody_says_that_it_does_not_know(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    seen = floor(pump, A)
    for name in (A, B, C):
        pump.kill(name)
    pump.run(0.1)
    pump.start(C, pump.new_tables())
    assert not ask(pump, C, b"").known
    pump.run(30)
    assert not ask(pump, C, seen).known


def test_an_answer_that_comes_late_ends_no_question_but_its_own(pump: Pump) -> None:
    pump.cut = {(A, C), (B, C)}
    seen = forged(pump, A)
    assert not ask(pump, C, seen, wait_ms=300).known
    machine = pump.machines[C]
    pump.do(machine, machine.node.asked(1, local.Ask(9_999, KEY, seen, 500), pump.now))
    pump.heal()
    pump.run(0.1)
    answer = machine.reply_to(9_999)
    assert answer
    assert answer.known


def test_a_browser_that_comes_back_with_a_dead_cookie_is_answered_however_often_it_asks(pump: Pump) -> None:
    seen = forged(pump, A)  # as of a session that is over and was swept everywhere
    mark = len(pump.log)
    for _ in range(30):
        assert ask(pump, C, seen).known
        pump.run(0.05)
    assert len([one for sender, _, one in pump.log[mark:] if sender == C and isinstance(one, wire.Fetch)]) == 2


def test_what_came_to_nothing_is_asked_again_after_a_while(pump: Pump) -> None:
    seen = forged(pump, A)
    assert ask(pump, C, seen).known
    pump.cut = {(A, C), (B, C)}
    pump.run(SETTLED - 0.1)
    assert ask(pump, C, seen).known
    pump.run(0.2)
    assert not ask(pump, C, seen).known


def test_nobody_waits_for_a_host_that_had_left_before_this_one_began(pump: Pump) -> None:
    seen = forged(pump, B)
    assert pump.ask(B, local.Leave(0, 5_000))
    pump.run(1)
    pump.kill(C)
    pump.run(0.1)
    pump.start(C, pump.new_tables())
    assert pump.run(5, lambda: pump.is_ready(C))
    assert pump.state(C, B) is None
    assert ask(pump, C, seen).known
