"""A host leaves for good once the others have everything that it has, and not before."""

from __future__ import annotations

import pytest
from tests.cluster.pump import Pump, key_of

from sojourn.cluster import local, wire
from sojourn.cluster.replica import floor_of

A, B, C = NAMES = ("a:1", "b:1", "c:1")


def test_with_copies_everywhere_leaving_waits_until_the_others_have_all(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    assert pump.ask(A, local.Leave(0, 20_000), seconds=25).view["left"]
    assert pump.values(B, "s") == pump.values(C, "s") == {"n": b"1"}
    assert pump.create(B, "t", n="1").enough


def test_a_host_does_not_leave_the_only_copy_of_a_write_to_one_other_while_a_third_is_away(pump: Pump) -> None:
    pump.kill(C)
    assert pump.create(A, "s", n="1").enough
    assert not pump.ask(B, local.Leave(0, 1_000)).view["left"]  # suspect
    pump.run(20)
    assert not pump.ask(B, local.Leave(0, 1_000)).view["left"]  # dead
    pump.start(C)
    assert pump.ask(B, local.Leave(0, 20_000), seconds=25).view["left"]
    assert pump.values(C, "s") == {"n": b"1"}


def test_a_dead_host_that_was_forgotten_keeps_nobody_from_leaving(pump: Pump) -> None:
    pump.kill(C)
    pump.run(20)
    assert pump.ask(B, local.Forget(0, C)).view["forgotten"]
    assert pump.ask(B, local.Leave(0, 20_000), seconds=25).view["left"]


def test_what_a_leaving_host_has_acknowledged_to_the_last_is_on_two_others(pump: Pump) -> None:
    pump.cut = {(A, C), (C, A)}
    leaver = pump.machines[B]
    pump.do(leaver, leaver.node.asked(1, local.Leave(0, 20_000), pump.now))
    pump.create(B, "of its own", n="1")  # so that it goes on before it has told the others
    acknowledged = []
    for number in range(1000):
        if pump.create(A, f"s{number}", n="1").enough:
            acknowledged.append(f"s{number}")
        pump.run(0.02)
        if leaver.ended:
            break
    assert leaver.ended
    pump.run(1)
    assert [text for text in acknowledged if not pump.values(C, text)] == []


def test_a_host_that_begins_anew_expects_no_acknowledgement_of_one_that_had_left() -> None:
    pump = Pump(*NAMES, acks=2)
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in NAMES))
    assert pump.ask(B, local.Leave(0, 20_000), seconds=25).view["left"]
    assert pump.create(A, "s", n="1").enough
    pump.kill(A)
    pump.run(0.1)
    pump.start(A, pump.new_tables())
    assert pump.run(5, lambda: pump.is_ready(A))
    assert pump.create(A, "t", n="1").enough


def test_who_is_about_to_leave_need_not_have_a_write() -> None:
    pump = Pump(*NAMES, acks=2, alone="refuse")
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in NAMES))
    pump.cut = {(B, C), (C, B)}
    leaver = pump.machines[B]
    pump.do(leaver, leaver.node.asked(1, local.Leave(0, 20_000), pump.now))
    assert pump.run(5, lambda: pump.state(A, B) == "left")
    settled = pump.create(A, "s", n="1")
    assert (settled.hosts, settled.enough) == (1, True)
    assert not leaver.ended


def test_a_host_that_begins_anew_does_not_wait_for_a_log_that_only_one_had_which_has_left(
    pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in that log is on others: the one that left has compared all with theirs."""
    leaver = pump.machines[B].node.host
    told = {**leaver.progress(), b"old1": wire.Progress(5, 5)}
    monkeypatch.setattr(leaver, "progress", lambda: told)
    pump.kill(C)
    pump.run(0.1)
    pump.start(C, pump.new_tables())
    pump.run(5)
    assert not pump.is_ready(C)
    assert pump.ask(B, local.Leave(0, 20_000), seconds=25).view["left"]
    assert pump.run(2, lambda: pump.is_ready(C))


# -- what it alone has, while it leaves ------------------------------------------------------------------------------


def _knows(pump: Pump, name: str, writer: str) -> bool:
    """Ask a host for the session as a browser has seen it on *writer*; return whether it can tell."""
    replica = pump.machines[writer].tables.replica(key_of("s"))
    assert replica
    answer = pump.ask(name, local.Ask(0, key_of("s"), floor_of(replica), 500))
    assert isinstance(answer, local.Asked)
    return answer.known


def test_a_host_that_is_about_to_leave_is_asked_for_what_it_has_not_handed_on_yet(pump: Pump) -> None:
    pump.cut = {(A, B), (A, C)}
    pump.create(A, "s", n="1")
    pump.run(0.1)
    pump.cut = set()  # and what waits stays where it is
    leaver = pump.machines[A]
    pump.do(leaver, leaver.node.asked(1, local.Leave(0, 20_000), pump.now))
    assert pump.run(2, lambda: pump.state(C, A) == "left")
    assert not leaver.ended
    assert pump.values(C, "s") is None
    assert _knows(pump, C, A)
    assert pump.values(C, "s") == {"n": b"1"}


def test_a_host_that_is_about_to_leave_is_waited_for_where_it_is_cut_off_before_it_says_goodbye(pump: Pump) -> None:
    pump.cut = {(A, B), (A, C)}
    pump.create(A, "s", n="1")
    pump.run(0.1)
    leaver, there = pump.machines[A], pump.machines[C]
    pump.cut = set()
    pump.do(leaver, leaver.node.asked(1, local.Leave(0, 20_000), pump.now))
    assert pump.run(2, lambda: pump.state(C, A) == "left")
    pump.cut = {(A, C), (C, A)}
    peer = there.node.host.peers[A]
    for link in (peer.out, peer.into):
        assert link
        pump.break_stream(link.number)
    pump.run(1)
    assert A not in there.node.host.peers
    assert not _knows(pump, C, A)
    pump.heal()
    assert pump.run(5, lambda: _knows(pump, C, A))
    assert pump.values(C, "s") == {"n": b"1"}
