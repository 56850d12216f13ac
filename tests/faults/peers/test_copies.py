"""Two copies of each session on four hosts: what a lost host had is made up for, what one leaves is handed on."""

from __future__ import annotations

from random import Random

import pytest
from tests.faults.peers.conftest import TRIALS
from tests.faults.peers.hosts import Host, Hosts
from tests.faults.peers.judging import assert_kept, unforced
from tests.faults.peers.visitors import SAFE, crowd
from tests.faults.peers.visits import Request
from tests.servers.process import until

from sojourn.store.peers.operators import leave

pytestmark = pytest.mark.slow


def test_each_session_of_a_host_that_is_lost_has_two_copies_again_before_it_is_back() -> None:
    """Its disk is lost each time. A change on its way to it from another host may be refused; no look is."""
    random = Random(TRIALS)
    with Hosts(4, copies="2", dead_after="0.5") as hosts, crowd(hosts) as people:
        people.all_served()
        for _ in range(max(2, TRIALS // 5)):
            victim = random.choice(hosts)
            others = hosts.others(victim)
            begun = victim.wipe()
            people.trouble("disk lost", victim)
            wait_until_dead(others, victim)
            people.all_served()
            with people.still():
                taken = hosts.converge(*others)
                people.trouble("quiet")
            victim.start()
            people.all_served()
            people.settle()
            refused = unforced(people.failures(begun), victim)
            print(f"all had two copies after {taken:.2f} s; {len(refused)} changes were refused elsewhere")
            assert all("StoreUnavailable" in one.why and one.does not in SAFE for one in refused), refused[:5]
            assert len(refused) <= 2 * len(people.visitors), refused[:5]
        assert_kept(people)


def wait_until_dead(others: list[Host], victim: Host) -> None:
    until(lambda: all(host.state_of(victim) == "dead" for host in others), f"{victim!r} is taken for dead")


def test_a_host_that_leaves_hands_on_what_only_few_have() -> None:
    """With two copies: after it has left, a second host may lose its disk, and every session is still there."""
    count = 160
    with Hosts(4, copies="2") as hosts:
        tokens = [hosts[number % 4].ask(Request("write", number, None, {"a": number})).token for number in range(count)]
        told = leave(hosts[0].settings(), 20.0)
        assert told["left"], told
        hosts[0].kill()
        hosts[1].wipe()
        for number, token in enumerate(tokens):
            for host in hosts[2:]:
                look = host.ask(Request("read", number, token))
                assert look.reads == {"a": number}, (number, host, look)
