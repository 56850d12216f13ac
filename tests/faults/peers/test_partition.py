"""Hosts with networks of their own and TLS between them, which are cut and healed while visitors work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.faults.peers.conftest import LONG
from tests.faults.peers.hosts import Host, Hosts
from tests.faults.peers.judging import assert_kept, unforced
from tests.faults.peers.visitors import Crowd, crowd
from tests.faults.peers.visits import Request
from tests.servers.network import Network
from tests.servers.process import until

pytestmark = pytest.mark.slow

CUT = 10.0 if LONG else 1.5  # seconds that a cut lasts once it is noticed
NOTICED = 3.0


@contextmanager
def cluster(alone: str = "accept", dead_after: str = "10") -> Iterator[tuple[Network, Hosts]]:
    """Give three hosts on a network."""
    with Network(3) as network, Hosts(3, network=network, wait="0.5", alone=alone, dead_after=dead_after) as hosts:
        yield network, hosts


def lose_sight(one: Host, other: Host) -> None:
    """Wait until two hosts have noticed that nothing comes from the other."""
    until(lambda: one.state_of(other) != "alive", f"{one!r} misses {other!r}", NOTICED)
    until(lambda: other.state_of(one) != "alive", f"{other!r} misses {one!r}", NOTICED)


def under_replicated(host: Host) -> int:
    """Return how many writes the agent counts that fewer hosts have than there should be."""
    return int(host.status()["under_replicated"])


def heal(network: Network, people: Crowd) -> None:
    network.heal()
    people.trouble("healed")
    people.hosts.meet()
    people.all_served()
    people.settle()


@pytest.mark.parametrize("dead_after", ["10", "0.5"], ids=["suspect", "dead"])
def test_a_host_cut_off_serves_on_counts_what_it_alone_has_and_all_become_equal(dead_after: str) -> None:
    """Visitors reach all three. Who has seen what is on the other side only is told so, and never shown less.

    That holds for longer than the hosts take to call each other dead, too.
    """
    with cluster(dead_after=dead_after) as (network, hosts), crowd(hosts) as people:
        alone, *others = hosts
        people.all_served()
        network.cut({0}, {1, 2})
        people.trouble("cut", alone)
        for other in others:
            lose_sight(alone, other)
        people.go_on(CUT)
        assert alone.ask(Request("write", 99, None, {"a": 1})).wrote
        assert under_replicated(alone) > 0
        heal(network, people)
        refused = people.failures()
        assert not [one for one in refused if "StoreUnavailable" not in one.why], refused[:5]
        assert_kept(people)


def test_with_alone_refuse_a_host_cut_off_changes_nothing_and_the_majority_works_on() -> None:
    with cluster(alone="refuse") as (network, hosts), crowd(hosts, alone="refuse") as people:
        alone, *others = hosts
        people.all_served()
        network.cut({0}, {1, 2})
        people.trouble("cut", alone)
        for other in others:
            lose_sight(alone, other)
        before = alone.copies().keys()
        people.go_on(CUT)
        refused = alone.ask(Request("write", 99, None, {"a": 1}))
        assert not refused.ok
        assert "StoreUnavailable" in (refused.error or "")
        assert alone.copies().keys() == before, "a session began in the minority"
        for other in others:
            assert other.ask(Request("write", 99, None, {"a": 1})).hosts == 1
        heal(network, people)
        unserved = [one for one in people.failures() if one.tried in others and one.does in ("read", "write")]
        print(f"{len(people.failures())} refused, {len(unserved)} of them by the majority")
        assert_kept(people)


def test_a_cut_in_one_direction_ends_with_equal_copies_too() -> None:
    """The first host's packets to the second vanish; the third hears both."""
    with cluster() as (network, hosts), crowd(hosts) as people:
        people.all_served()
        network.cut_one_way(0, 1)
        people.trouble("cut one way", hosts[0], hosts[1])
        lose_sight(hosts[0], hosts[1])
        people.go_on(CUT)
        people.all_served()
        assert hosts[2].state_of(hosts[0]) == hosts[2].state_of(hosts[1]) == "alive"
        heal(network, people)
        assert not unforced([one for one in people.failures() if "StoreUnavailable" not in one.why])
        assert_kept(people)


def test_three_hosts_that_see_nobody_agree_again_when_they_do() -> None:
    """Each takes what it is given; the two that log a visitor out or change other keys are all heeded."""
    with cluster() as (network, hosts):
        first, second, third = hosts
        kept = first.ask(Request("write", 1, None, {"a": 1})).token
        gone = first.ask(Request("write", 2, None, {"a": 1})).token
        assert kept
        assert gone
        hosts.converge()
        network.cut({0}, {1, 2})
        network.cut({1}, {2})
        for one, other in ((first, second), (second, third), (first, third)):
            lose_sight(one, other)
        for number, host in enumerate(hosts):
            assert host.ask(Request("write", 1, kept, {f"from{number}": number, "same": number})).wrote
        assert second.ask(Request("logout", 2, gone)).ended
        assert first.ask(Request("write", 2, gone, {"a": 2})).wrote
        network.heal()
        hosts.meet()
        hosts.converge()
        shown = [host.ask(Request("read", 1, kept)).reads for host in hosts]
        assert all(reads == shown[0] for reads in shown)
        assert {key: shown[0][key] for key in ("a", "from0", "from1", "from2")} == {
            "a": 1, "from0": 0, "from1": 1, "from2": 2,
        }  # fmt: skip
        assert shown[0]["same"] in (0, 1, 2)
        assert [host.ask(Request("read", 2, gone)).found for host in hosts] == [False] * 3
