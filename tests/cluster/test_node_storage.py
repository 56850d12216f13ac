"""Nodes whose storage fails: nobody waits for ever, and all goes on when it can be used again."""

from __future__ import annotations

import pytest
from tests.cluster.pump import Pump, key_of

from sojourn.cluster import local, wire
from sojourn.cluster.effects import Dial
from sojourn.errors import StoreUnavailable

A, B, C = "a:1", "b:1", "c:1"


def full(*_: object, **__: object) -> None:
    raise StoreUnavailable("the disk is full")


def test_no_input_raises_where_the_storage_fails(pump: Pump, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = pump.machines[A]
    for verb in ("log", "store", "accept", "progress", "replica", "sweep", "digests", "keep_view"):
        monkeypatch.setattr(machine.tables, verb, full)
    pump.do(machine, machine.node.written(pump.now))
    pump.do(machine, machine.node.asked(1, local.Ask(7, key_of("s"), b"", 100), pump.now))
    assert machine.reply_to(7) == local.Asked(7, False)
    pump.create(B, "s", n="1")
    pump.run(3)
    assert any("disk is full" in report.text for report in machine.reports)


def test_a_storage_that_cannot_be_swept_is_not_asked_all_the_time(pump: Pump, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = pump.machines[A]
    asked: list[float] = []

    def fail(_: int) -> int:
        asked.append(pump.now)
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(machine.tables, "sweep", fail)
    pump.run(10)
    assert 5 < len(asked) < 20


def test_a_stream_that_breaks_while_the_storage_fails_is_forgotten_and_opened_again(pump: Pump) -> None:
    machine, lost = pump.machines[A], list[str]()
    peer = machine.node.host.peers[B]
    assert peer.out
    assert peer.into
    machine.node.host.call(peer.out, lambda number: wire.Fetch(number, ()), lambda _: True, lambda: lost.append(B))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.tables, "keep_view", full)
        pump.do(machine, machine.node.closed(peer.into.number, pump.now))
        effects = machine.node.closed(peer.out.number, pump.now)
        assert lost == [B], "whoever has asked is told that there will be no answer"
        pump.do(machine, effects)
        dialed = [effect for step in range(40) for effect in machine.node.tick(pump.now + step / 20)]
        assert Dial(B) in dialed
    assert next(one.state for one in machine.tables.view().members if one.name == B) == "alive"
    pump.do(machine, machine.node.tick(pump.now + 3))
    assert next(one.state for one in machine.tables.view().members if one.name == B) == "suspect"


def test_a_question_that_ends_while_the_storage_fails_is_answered_and_can_be_asked_again(pump: Pump) -> None:
    machine, floor = pump.machines[A], pump.machines[B].tables.origin + (1 << 50).to_bytes(8, "big")
    pump.cut = {(A, B), (A, C)}
    pump.do(machine, machine.node.asked(1, local.Ask(7, key_of("s"), floor, 200), pump.now))
    pump.run(0.1)
    assert machine.reply_to(7) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.tables, "replica", full)
        pump.run(0.2)
    assert machine.reply_to(7) == local.Asked(7, False)
    pump.heal()
    pump.run(5)
    assert pump.ask(A, local.Ask(0, key_of("s"), floor, 500)).known
