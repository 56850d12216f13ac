"""Two pieces of a log are on their way to a host that begins with nothing, to others one; none of them is lost."""

from __future__ import annotations

import pytest
from tests.cluster.pump import Pump, key_of, record

from sojourn.cluster import shipping, wire
from sojourn.cluster.tables import Applied

A, B, C = "a:1", "b:1", "c:1"
SESSIONS = 30


@pytest.fixture
def pump(monkeypatch: pytest.MonkeyPatch) -> Pump:
    """Three hosts that are ready, of which one has written; pieces are small."""
    monkeypatch.setattr(shipping, "ROUND", 4)
    pump = Pump(A, B, C)
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in pump.names))
    for number in range(SESSIONS):
        pump.machines[A].tables.perform(
            "create", (key_of(f"s{number}"), record(pump.machines[A].tables.clock(), n="1"))
        )
    pump.do(pump.machines[A], pump.machines[A].node.written(pump.now))
    pump.run(3)
    pump.log.clear()
    return pump


def pieces(pump: Pump) -> list[tuple[bool, int]]:
    """Return whether each piece of A's log for C had deltas, and how many were on their way with it."""
    found, open = [], 0
    for sender, receiver, message in pump.log:
        if (sender, receiver) == (A, C) and isinstance(message, wire.Changes) and message.changes:
            open += 1
            found.append((message.cut > 0, open))
        elif (sender, receiver) == (C, A) and isinstance(message, wire.Stored):
            open = max(open - 1, 0)
    return found


def has_all(pump: Pump) -> bool:
    return all(pump.values(C, f"s{number}") for number in range(SESSIONS))


def wipe(pump: Pump) -> None:
    pump.kill(C)
    pump.run(2)
    pump.log.clear()
    pump.start(C, pump.new_tables())


def test_a_host_that_begins_with_nothing_is_sent_two_pieces_at_once(pump: Pump) -> None:
    wipe(pump)
    assert pump.run(5, lambda: pump.is_ready(C))
    assert has_all(pump)
    sent = pieces(pump)
    assert {deltas for deltas, _ in sent} == {False}
    assert max(abreast for _, abreast in sent) == 2
    assert len(sent) == -(-SESSIONS // 4), "and nothing is sent twice"


def test_a_log_that_was_read_for_nobody_yet_is_sent_without_a_pause(pump: Pump) -> None:
    """Two hosts begin with nothing: whoever has stored a piece is sent the next one, and waits for no look or ping."""
    for name in (A, B, C):
        pump.kill(name)
    pump.run(2)
    pump.start(A)
    for name in (B, C):
        pump.start(name, pump.new_tables())
    assert pump.run(5, lambda: bool(pump.values(C, "s0") or pump.values(C, "s29")))
    assert pump.run(0.05, lambda: has_all(pump))


def test_a_host_that_was_away_for_a_while_is_sent_one_after_the_other(pump: Pump) -> None:
    pump.kill(C)
    pump.run(2)
    for number in range(SESSIONS):
        after = record(pump.machines[A].tables.clock(), n="2")._replace(version=2)
        pump.machines[A].tables.perform("update", (key_of(f"s{number}"), after, 1))
    pump.log.clear()
    pump.start(C)
    assert pump.run(5, lambda: pump.values(C, f"s{SESSIONS - 1}") == {"n": b"2"} and pump.is_ready(C))
    sent = pieces(pump)
    assert len(sent) >= SESSIONS // 4
    assert set(sent) == {(True, 1)}


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_stream_that_breaks_under_two_pieces_loses_neither(pump: Pump, after: int) -> None:
    wipe(pump)
    assert pump.run(5, lambda: len(pieces(pump)) >= after)
    pump.kill(A)
    pump.run(1)
    pump.start(A)
    assert pump.run(10, lambda: pump.is_ready(C) and has_all(pump))


@pytest.mark.parametrize("refused", [1, 2, 4])
def test_a_piece_that_could_not_be_used_is_sent_again_and_so_is_the_one_behind_it(
    pump: Pump, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver answers to one that it is no further than before, as where something was missing in between."""
    wipe(pump)
    serving, count = pump.machines[C].node.serving, 0
    real = serving._store

    def store(message: wire.Changes, mine: wire.Progress) -> object:
        nonlocal count
        count += message.origin == pump.machines[A].tables.origin
        if count == refused:
            count += 1
            return Applied(), mine
        return real(message, mine)

    monkeypatch.setattr(type(serving), "_store", lambda self, *told: store(*told) if self is serving else real(*told))
    assert pump.run(10, lambda: pump.is_ready(C) and has_all(pump))
    assert count > refused
