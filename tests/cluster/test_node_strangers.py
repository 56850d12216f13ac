"""Nodes with strangers: who is not let in, and that nothing which a host makes up stops another."""

from __future__ import annotations

import tracemalloc

import pytest
from tests.cluster.pump import Pump

from sojourn.cluster import wire
from sojourn.cluster.effects import Close

A, B, C = "a:1", "b:1", "c:1"


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"cluster": "other"}, "belongs to the cluster"), ({"copies": 2}, "set the same on all hosts")],
    ids=["cluster", "copies"],
)
def test_a_host_of_other_settings_is_refused_with_a_reason(pump: Pump, changes: dict[str, object], why: str) -> None:
    pump.seeds = ("d:1", A)
    stranger = pump.start("d:1", **changes)
    pump.run(1)
    assert not stranger.node.host.peers
    assert any(why in report.text for report in stranger.reports)
    assert pump.state(A, "d:1") is None


def test_a_second_host_of_the_same_name_is_refused(pump: Pump) -> None:
    real = pump.machines[C]
    twin = pump.machines[C] = pump.start(C, pump.new_tables())
    pump.run(0.5)
    assert any("is called c:1" in report.text for report in twin.reports)
    assert pump.machines[A].node.host.peers[C].origin == real.tables.origin


def test_a_copy_of_a_storage_is_refused(pump: Pump) -> None:
    pump.seeds = ("d:1", A)
    copy = pump.start("d:1", pump.machines[A].tables)
    pump.run(0.5)
    assert any("begin with an empty directory" in report.text for report in copy.reports)


def test_a_certificate_of_another_host_is_refused(pump: Pump) -> None:
    machine = pump.machines[A]
    hello = pump.machines[B].node.links.hello()
    hello.name, hello.origin = "d:1", b"ddd1"
    machine.node.accepted(9001, frozenset({"e"}), pump.now)
    effects = machine.node.received(9001, hello, pump.now)
    assert [type(effect).__name__ for effect in effects[-2:]] == ["Send", "Close"]
    assert "certificate" in effects[-1].why  # type: ignore[union-attr]
    machine.node.accepted(9002, frozenset({"d"}), pump.now)
    assert not any(isinstance(one, wire.Refused) for one in machine.node.received(9002, hello, pump.now))
    assert pump.state(A, "d:1") == "alive"


GARBAGE: list[wire.Message] = [
    wire.Changes(b"zzzz", 0, wire.Progress(1, 1), ()),
    wire.Stored(b"zzzz", wire.Progress(1, 1)),
    wire.Ping(1, tuple(wire.Member(f"h{number}:1", 1, "alive", b"zzzz") for number in range(257)), {}),
    wire.Ping(1, (wire.Member(A, (1 << 64) - 1, "dead", b"zzzz"),), {}),
    wire.Digests({5000: 1}),
    wire.Digests({}),
    wire.Names(-5, {}),
    wire.Hello((1,), "sojourn", "copies=all", B, b"zzzz", {}, ()),
    wire.Refused("no"),
    wire.Copies(0, (wire.Change(b"short", 1, True, None),)),
    wire.Fetch(1, (b"short",) * 5000),
    wire.Offer(1, {b"": 1}),
    wire.Took(999),
    wire.Lacks(999, ()),
    wire.Did(999),
    wire.Do(1, "sweep", ()),
    wire.Do(1, "load", ()),
    wire.Do(1, "load", (7,)),
    wire.Do(1, "create", (b"k", "no record")),
    wire.Do(1, "__class__", ()),
]


@pytest.mark.parametrize("message", GARBAGE, ids=lambda message: f"{type(message).__name__}")
@pytest.mark.parametrize("dialed", [True, False])
def test_whatever_a_host_makes_up_ends_with_its_stream_at_most(message: wire.Message, dialed: bool) -> None:
    pump = Pump(A, B)
    pump.start_all()
    pump.run(1)
    machine = pump.machines[A]
    peer = machine.node.host.peers[B]
    link = peer.out if dialed else peer.into
    assert link
    effects = machine.node.received(link.number, message, pump.now)
    pump.do(machine, effects)
    assert not any(isinstance(effect, wire.Changes) for effect in effects)
    assert pump.run(5, lambda: B in machine.node.host.peers and machine.node.host.reachable(B))
    assert pump.create(A, "after", n="1").enough


@pytest.mark.parametrize(("first", "count"), [(-100_000, 100_001), (1, 100_000), (5, -1)])
def test_a_question_about_buckets_that_do_not_exist_costs_nothing(pump: Pump, first: int, count: int) -> None:
    node = pump.machines[A].node
    into = node.host.peers[B].into
    assert into
    tracemalloc.start()
    try:
        effects = node.received(into.number, wire.Digests({}, first, count), pump.now)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert any(isinstance(effect, Close) and "do not exist" in effect.why for effect in effects)


def test_nothing_but_a_hello_is_heard_first() -> None:
    pump = Pump(A)
    pump.start(A)
    node = pump.machines[A].node
    for number, message in enumerate(GARBAGE):
        if not isinstance(message, wire.Hello | wire.Refused):
            node.accepted(number, None, pump.now)
            assert type(node.received(number, message, pump.now)[-1]).__name__ == "Close"
    assert not node.host.links


def test_a_stream_that_says_no_hello_is_closed() -> None:
    pump = Pump(A)
    pump.start(A)
    node = pump.machines[A].node
    node.accepted(7, None, pump.now)
    pump.run(6)
    assert not node.host.links
