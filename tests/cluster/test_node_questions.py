"""A host that lacks what a browser has seen asks before it answers; forged floors cost little and change nothing."""

from __future__ import annotations

import pytest
from tests.cluster.pump import START, Pump, key_of, record

from sojourn.cluster import local, wire
from sojourn.cluster.clock import Stamp
from sojourn.cluster.questions import SETTLED
from sojourn.cluster.replica import Mark, Replica, floor_of
from sojourn.core.ops import Written

A, B, C = "a:1", "b:1", "c:1"
KEY = key_of("s")


def floor(pump: Pump, name: str) -> bytes:
    replica = pump.machines[name].tables.replica(KEY)
    assert replica
    return floor_of(replica)


def forged(pump: Pump, name: str, ahead: int = 1 << 30) -> bytes:
    """A floor that the host has not reached yet."""
    origin = pump.machines[name].tables.origin
    return floor_of(Replica(seen={origin: Mark(Stamp((1_800_000_000_000 << 16) + ahead, origin).time, 1)}))


def old_life(origin: bytes = b"\x01old", ahead: int = 0) -> bytes:
    """A floor of a host that nobody knows."""
    return floor_of(Replica(seen={origin: Mark(Stamp((1_800_000_000_000 << 16) + ahead, origin).time, 1)}))


def asked(pump: Pump, mark: int = 0) -> list[str]:
    """Return the hosts that questions went to since *mark*."""
    return [to for _, to, one in pump.log[mark:] if isinstance(one, wire.Fetch)]


def behind(pump: Pump, name: str, writer: str, others: tuple[str, ...] = ()) -> bytes:
    """Have *writer* create the session so that *name* does not hear of it by itself; return its floor."""
    pump.cut = {(one, name) for one in (writer, *others)}
    pump.create(writer, "s", n="1")
    pump.run(0.1)
    pump.cut = set()  # and what waits stays where it is
    assert pump.values(name, "s") is None
    return floor(pump, writer)


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


# -- who is asked ----------------------------------------------------------------------------------------------------


def five() -> Pump:
    pump = Pump(A, B, C, "d:1", "e:1")
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in pump.names))
    return pump


def test_what_the_browser_saw_is_fetched_from_its_writer_alone() -> None:
    pump = five()
    seen, mark = behind(pump, C, A, (B, "d:1", "e:1")), len(pump.log)
    assert ask(pump, C, seen).known
    assert pump.values(C, "s") == {"n": b"1"}
    assert asked(pump, mark) == [A]


def test_a_made_up_id_costs_one_question_to_the_host_that_its_floor_names() -> None:
    pump = five()
    mark = len(pump.log)
    for number in range(20):
        assert ask(pump, C, forged(pump, A), key_of(f"made up {number}")).known
    assert asked(pump, mark) == [A] * 20


def test_one_host_refutes_a_floor_that_names_them_all() -> None:
    pump = five()
    mark = len(pump.log)
    everybody = b"".join(forged(pump, name) for name in (A, B, "d:1", "e:1"))
    assert ask(pump, C, everybody, key_of("made up")).known
    assert len(asked(pump, mark)) == 1


def test_a_writer_that_is_slow_is_not_waited_for_and_all_others_are_asked() -> None:
    pump = five()
    pump.cut = {(A, C)}
    pump.create(A, "s", n="1")
    assert pump.values(C, "s") is None
    began, mark = pump.now, len(pump.log)
    assert ask(pump, C, floor(pump, A)).known
    assert pump.now - began < 0.06
    assert sorted(asked(pump, mark)) == [A, B, "d:1", "e:1"]


def test_a_writer_that_breaks_off_is_followed_by_all_others_at_once() -> None:
    pump = five()
    pump.cut = {(A, C)}
    pump.create(A, "s", n="1")
    seen, machine = floor(pump, A), pump.machines[C]
    pump.do(machine, machine.node.asked(1, local.Ask(9001, KEY, seen, 500), pump.now))
    began = pump.now
    pump.kill(A)
    assert pump.run(1, lambda: machine.reply_to(9001) is not None)
    assert machine.reply_to(9001).known
    assert pump.now - began < 0.01


def test_a_writer_that_nobody_here_knows_may_have_just_joined_so_all_are_asked(pump: Pump) -> None:
    pump.cut = {(A, C), (B, C)}
    pump.seeds = ("d:1", A, B)
    pump.cut |= {("d:1", C), (C, "d:1")}
    pump.start("d:1")
    assert pump.run(0.5, lambda: pump.state(A, "d:1") == pump.state(B, "d:1") == "alive")
    pump.create("d:1", "s", n="1")
    seen = floor(pump, "d:1")
    pump.cut -= {(A, C), (B, C)}
    assert pump.state(C, "d:1") is None
    mark = len(pump.log)
    assert ask(pump, C, seen).known
    assert pump.values(C, "s") == {"n": b"1"}
    assert sorted(asked(pump, mark)) == [A, B]


def test_the_write_of_a_former_life_of_a_host_is_found_with_those_that_have_it() -> None:
    pump = five()
    seen = behind(pump, C, A, (B,))
    pump.kill(A)
    pump.run(0.1)
    pump.start(A, pump.new_tables())
    assert pump.run(5, lambda: pump.state(C, A) == "alive")
    pump.machines[C].tables._rows.stored.pop(KEY, None)  # it may have come by itself meanwhile
    assert ask(pump, C, seen).known
    assert pump.values(C, "s") == {"n": b"1"}


def test_a_floor_of_a_dead_host_is_refuted_by_one_that_has_all_its_log_and_not_beyond_that() -> None:
    pump = five()
    pump.create(A, "another", n="1")
    pump.run(12)  # by then all have said how far they have read its log
    seen = floor_of(pump.machines[A].tables.replica(key_of("another")) or Replica())
    pump.kill(A)
    pump.run(15)
    mark = len(pump.log)
    assert ask(pump, C, seen, key_of("made up")).known
    assert len(asked(pump, mark)) == 1
    beyond = seen[:4] + (int.from_bytes(seen[4:12], "big") + 9).to_bytes(8, "big")
    assert not ask(pump, C, beyond, key_of("made up")).known


def test_a_writer_that_has_lost_sight_of_a_session_that_is_known_here_is_not_believed(pump: Pump) -> None:
    """Its copy may be damaged."""
    pump.create(A, "s", n="1")
    pump.run(1)
    pump.cut = {(A, C), (B, C)}
    record_here = pump.machines[A].tables.perform("load", (KEY,)).answer
    done = pump.machines[A].tables.perform("update", (KEY, record_here._replace(values={"n": b"2"}, version=2), 1))
    pump.run(0.3, lambda: pump.values(B, "s") == {"n": b"2"}) or pytest.fail("B has it")
    seen = floor(pump, A)
    assert done.time
    pump.cut = set()
    pump.machines[A].tables._rows.stored.pop(KEY)
    assert ask(pump, C, seen).known
    assert pump.values(C, "s") == {"n": b"2"}


def test_made_up_writers_cost_far_fewer_questions_and_none_of_those_about_known_ones() -> None:
    pump = five()
    mark = len(pump.log)
    for number in range(1500):
        floor_ = old_life(number.to_bytes(4, "big"))
        pump.ask(C, local.Ask(0, key_of(f"made up {number}"), floor_, 100), seconds=0.005)
    fetches = len(asked(pump, mark))
    assert 4 * 200 <= fetches <= 4 * (200 + 100 * 8)  # at once, and in at most eight seconds
    assert not ask(pump, C, old_life(), key_of("another")).known
    assert ask(pump, C, forged(pump, A), key_of("another")).known


def test_the_late_answer_to_a_question_that_is_over_ends_no_other(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    pump.cut = {(A, C), (B, C)}
    seen, machine = forged(pump, A), pump.machines[C]
    pump.do(machine, machine.node.asked(1, local.Ask(9001, KEY, seen, 100), pump.now))
    assert pump.run(0.2, lambda: machine.reply_to(9001) is not None)
    assert not machine.reply_to(9001).known
    pump.do(machine, machine.node.asked(1, local.Ask(9002, KEY, seen, 500), pump.now))
    pump.heal()
    assert pump.run(0.4, lambda: machine.reply_to(9002) is not None)
    assert machine.reply_to(9002).known
    pump.run(1)
    assert not machine.reply_to(9001).known


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
    assert asked(pump, mark) == [A]


def test_what_came_to_nothing_is_asked_again_after_a_while(pump: Pump) -> None:
    seen = forged(pump, A)
    assert ask(pump, C, seen).known
    pump.cut = {(A, C), (B, C)}
    pump.run(SETTLED - 0.1)
    assert ask(pump, C, seen).known
    pump.run(0.2)
    assert not ask(pump, C, seen).known


def test_what_a_host_has_stored_since_it_answered_is_no_proof_that_the_floor_is_made_up(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    pump.cut = {(A, B), (A, C)}
    changed = record(n="2")._replace(version=2)
    assert pump.write(A, "update", KEY, changed, 1, wait_ms=100)[0] is Written.DONE
    asking = local.Ask(99, KEY, floor(pump, A), 4000)
    machine = pump.machines[C]
    pump.do(machine, machine.node.asked(1, asking, pump.now))
    pump.run(0.1)  # B has said that it has what C has, and A says nothing
    pump.heal((A, B))
    assert pump.run(2, lambda: pump.values(B, "s") == {"n": b"2"})
    level = pump.machines[B].node.host.known[pump.machines[A].tables.origin].level
    told = machine.node.host.peers[B].progress
    told[pump.machines[A].tables.origin] = wire.Progress(level, level)  # as its next ping will say
    assert pump.values(C, "s") == {"n": b"1"}
    pump.kill(A)
    pump.run(0.01)
    assert not machine.reply_to(99).known


def test_a_host_that_joins_knows_that_one_that_died_before_may_have_what_is_missing(pump: Pump) -> None:
    pump.cut = {(C, A), (C, B)}
    pump.create(C, "s", n="1")
    seen = floor(pump, C)
    pump.kill(C)
    assert pump.run(15, lambda: pump.state(A, C) == pump.state(B, C) == "dead")
    pump.seeds = (A,)
    pump.start("d:1")
    assert pump.run(5, lambda: pump.is_ready("d:1"))
    assert not ask(pump, "d:1", seen).known
    assert pump.ask(B, local.Forget(0, C)).view["forgotten"]
    assert pump.run(2, lambda: ask(pump, "d:1", seen).known)


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


def test_a_writer_that_nobody_here_knows_may_be_a_host_that_is_away_and_has_begun_anew() -> None:
    pump = Pump(A, B, C, "d:1")
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in pump.names))
    pump.cut = {pair for one in (A, B) for other in (C, "d:1") for pair in ((one, other), (other, one))}
    pump.kill(A)
    pump.start(A, pump.new_tables())
    assert pump.run(60, lambda: pump.is_ready(A) and pump.state(C, A) == pump.state(C, B) == "dead")
    assert pump.create(A, "s", n="1").enough
    assert not ask(pump, C, floor(pump, A)).known
    pump.heal()
    assert pump.run(10, lambda: pump.state(C, A) == "alive")
    assert ask(pump, C, floor(pump, A)).known
    assert pump.values(C, "s") == {"n": b"1"}


def test_a_session_that_has_ended_by_itself_on_one_side_of_a_cut_is_not_said_to_be_made_up() -> None:
    pump = Pump(A, B, C, "d:1")
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in pump.names))
    until = START + pump.now + 3.0
    pump.write(A, "create", KEY, record(n="1")._replace(expires_at=until))
    pump.run(1.0)
    pump.cut = {pair for one in (A, B) for other in (C, "d:1") for pair in ((one, other), (other, one))}
    pump.write(B, "update", KEY, record(n="2")._replace(expires_at=until + 3600, version=2), 1)
    assert pump.run(30, lambda: pump.values(C, "s") is pump.values("d:1", "s") is None)
    assert not ask(pump, C, floor(pump, B)).known
    pump.heal()
    assert pump.run(10, lambda: pump.state(C, B) == "alive")
    assert ask(pump, C, floor(pump, B)).known
    assert pump.values(C, "s") == {"n": b"2"}
