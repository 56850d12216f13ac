"""A write that waits while sessions move to other hosts is counted where it is, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from tests.cluster.pump import Machine, Pump, key_of, record

from sojourn.cluster import local, ring, wire
from sojourn.cluster.host import Link

A, Y, Z, OTHER, NEW = HOSTS = ("a:1", "y:1", "z:1", "o:1", "n:1")
OLD = HOSTS[:4]
WAIT = 7  # the number of the request that waits


@pytest.fixture
def pump() -> Pump:
    """Four hosts that are ready and have compared everything; the fifth is not known yet."""
    pump = Pump(*OLD, copies=2, dead_after=60.0, suspect_after=30.0)
    pump.start_all()
    assert pump.run(10, lambda: all(pump.is_ready(name) for name in OLD))
    assert pump.run(10, lambda: all(one.node.shipping.is_settled() for one in pump.machines.values()))
    return pump


def named(prefix: str, fits: Callable[[bytes], bool]) -> bytes:
    """Return a key that fits."""
    return next(key for number in count() if fits(key := key_of(f"{prefix}{number}")))


def are_owners(key: bytes, hosts: tuple[str, ...], *owners: str) -> bool:
    return set(ring.owners(key, hosts, 2)) == {*owners}


def moves_away(key: bytes) -> bool:
    """Tell whether the fifth host takes the place of Y."""
    return are_owners(key, OLD, A, Y) and are_owners(key, HOSTS, A, NEW)


def stays(key: bytes) -> bool:
    return are_owners(key, OLD, A, Y) and are_owners(key, HOSTS, A, Y)


def write(pump: Pump, key: bytes) -> int:
    """Have a worker of A write, and say nothing of it to its agent; return where that stands in the log."""
    return pump.machines[A].tables.perform("create", (key, record(pump.machines[A].tables.clock(), n="1"))).time


def wait(pump: Pump, key: bytes, time: int) -> None:
    machine = pump.machines[A]
    pump.do(machine, machine.node.asked(1, local.Await(WAIT, key, time, 5000), pump.now))
    pump.do(machine, machine.node.written(pump.now))


def ship(pump: Pump) -> None:
    pump.do(pump.machines[A], pump.machines[A].node.written(pump.now))


def settled(pump: Pump) -> tuple[int, bool] | None:
    answer = pump.machines[A].reply_to(WAIT)
    return (answer.hosts, answer.enough) if answer else None


def tell(pump: Pump, name: str, state: wire.State) -> None:
    """Have another host tell A, and nobody else, of a host."""
    machine, teller = pump.machines[A], pump.machines[OTHER]
    into = machine.node.host.peers[OTHER].into
    assert into
    members = {member.name: member for member in teller.node.host.members.all()}
    members[name] = members.get(name, wire.Member(name, 0, state, b"news"))._replace(state=state)
    pump.do(
        machine,
        machine.node.received(into.number, wire.Ping(int(pump.now * 1000), tuple(members.values()), {}), pump.now),
    )


def leads_to(machine: Machine, name: str) -> Link:
    link = machine.node.host.peers[name].out
    assert link
    return link


def test_a_host_that_is_not_sent_a_write_any_more_does_not_count_when_its_level_has_passed_it(pump: Pump) -> None:
    pump.cut = {(Y, A)}
    write(pump, named("before", stays))
    ship(pump)
    key = named("s", moves_away)
    wait(pump, key, write(pump, key))  # not read for Y, since a piece is on its way there
    time = write(pump, named("after", stays))
    tell(pump, NEW, "alive")
    pump.heal()
    assert pump.run(5, lambda: pump.machines[A].node.shipping.level(Y) >= time)
    assert pump.machines[Y].tables.replica(key) is None
    assert settled(pump) == (0, False)


def test_a_host_that_is_sent_a_write_counts_also_where_it_is_to_hold_it_no_more(pump: Pump) -> None:
    pump.cut = {(A, Y)}
    key = named("s", moves_away)
    wait(pump, key, write(pump, key))
    tell(pump, NEW, "alive")
    assert settled(pump) is None
    pump.heal()
    assert pump.run(1, lambda: settled(pump) is not None)
    assert pump.machines[Y].tables.replica(key)
    assert settled(pump) == (1, True)


def test_a_host_that_still_is_to_hold_a_write_is_waited_for_while_others_move(pump: Pump) -> None:
    pump.cut = {(Y, A)}
    write(pump, named("before", stays))
    ship(pump)
    key = named("s", stays)
    wait(pump, key, write(pump, key))
    tell(pump, NEW, "alive")
    pump.heal()
    assert pump.run(1, lambda: settled(pump) is not None)
    assert pump.machines[Y].tables.replica(key)
    assert settled(pump) == (1, True)


def test_where_a_host_could_not_use_what_was_on_its_way_it_may_not_be_sent_it_again(pump: Pump) -> None:
    pump.cut = {(A, Y)}
    key = named("s", moves_away)
    wait(pump, key, write(pump, key))
    tell(pump, NEW, "alive")
    machine = pump.machines[A]
    refused = wire.Stored(machine.tables.origin, wire.Progress())
    pump.do(machine, machine.node.received(leads_to(machine, Y).number, refused, pump.now))
    assert settled(pump) == (0, False)


def test_what_was_on_its_way_on_a_stream_that_another_replaces_may_not_be_sent_again(pump: Pump) -> None:
    pump.cut = {(A, Y)}
    key = named("s", moves_away)
    wait(pump, key, write(pump, key))
    tell(pump, NEW, "alive")
    machine, hello, another = pump.machines[A], pump.machines[Y].node.links.hello(), 9999
    pump.do(machine, machine.node.dialed(another, Y, pump.now))
    pump.do(machine, machine.node.received(another, hello, pump.now))
    assert leads_to(machine, Y).number == another
    assert settled(pump) == (0, False)


def test_what_a_host_was_not_to_hold_when_it_was_read_for_it_counts_once_everything_is_compared(pump: Pump) -> None:
    left = tuple(name for name in OLD if name != Y)
    key = named("s", lambda key: are_owners(key, OLD, A, Y) and are_owners(key, left, A, Z))
    time = write(pump, key)
    later = write(pump, named("later", lambda key: are_owners(key, OLD, A, Z)))
    ship(pump)
    assert pump.run(1, lambda: pump.machines[A].node.shipping.level(Z) >= later)
    tell(pump, Y, "left")
    assert pump.machines[Z].tables.replica(key) is None
    wait(pump, key, time)
    assert settled(pump) == (0, False)
    assert pump.run(5, pump.machines[A].node.shipping.is_settled)
    assert pump.machines[Z].tables.replica(key)
    assert pump.machines[A].node.shipping.may_lack(Z, time) is False
