"""Hosts and agents that are killed with -9 while visitors work: nothing acknowledged is lost, nobody sees an error."""

from __future__ import annotations

from random import Random
from statistics import median
from time import monotonic

import pytest
from tests.faults.peers.conftest import TRIALS
from tests.faults.peers.hosts import Host, Hosts
from tests.faults.peers.judging import assert_kept, forced_by_one_copy, unforced
from tests.faults.peers.visitors import Crowd, crowd
from tests.servers.process import until

pytestmark = pytest.mark.slow

AT_A_TIME = 10  # trials of one crowd: who checks a history looks at each write's whole past
NOTICED = 0.1  # seconds, when the machine has a moment: the agents hear of it at once, and wait for no ping
RECOVERY = 1.0  # seconds that a new agent needs to be connected
AT_MOST = 1.0  # seconds in any one trial, on a machine that is busy with other things


def noticed(others: list[Host], victim: Host, begun: float) -> float:
    """Wait until the agents of all *others* know that *victim* is gone; return the seconds since *begun*."""
    waiting = list(others)

    def all_know() -> bool:
        waiting[:] = [host for host in waiting if host.state_of(victim) == "alive"]
        return not waiting

    until(all_know, f"{victim!r} is missed")
    return monotonic() - begun


@pytest.mark.parametrize("part", range(-(-TRIALS // AT_A_TIME)))
def test_a_host_killed_at_any_time_loses_no_acknowledged_write_and_no_visitor_sees_an_error(
    hosts: Hosts, part: int
) -> None:
    """With its disk or without, any host, at any moment of a busy cluster. What only that host was doing may fail.

    So may a change that must see what only that host has, by its own account: while it comes back its agent may have no
    moment for a second, on a busy machine. Others take it for silent then, and cannot ask it.
    """
    random, times, forced = Random(part), list[float](), 0
    with crowd(hosts, seed=part) as people:
        people.all_served()
        for trial in range(min(AT_A_TIME, TRIALS - part * AT_A_TIME)):
            victim = random.choice(hosts)
            people.go_on(random.uniform(0.0, 0.3))
            begun = kill(people, victim, wiped=trial % 3 > 0)
            times.append(noticed(hosts.others(victim), victim, begun))
            people.all_served()
            victim.start()
            people.all_served()
            people.settle()
            elsewhere = unforced(people.failures(begun), victim)
            bad = [failure for failure in elsewhere if not forced_by_one_copy(failure, victim)]
            forced += len(elsewhere) - len(bad)
            assert not bad, (trial, victim, bad[:5])
        assert_kept(people)
    print(f"noticed within {median(times) * 1000:.0f} ms in the median, {max(times) * 1000:.0f} ms at most")
    print(f"{forced} changes were refused that had to see what the host that came back had alone")
    assert min(times) < NOTICED
    assert max(times) < AT_MOST


def kill(people: Crowd, victim: Host, *, wiped: bool) -> float:
    """Kill a host, also its disk where it is to be *wiped*, and return the moment at which that began."""
    begun = victim.wipe() if wiped else victim.kill()
    people.trouble("disk lost" if wiped else "killed", victim)
    return begun


def test_an_agent_that_is_killed_is_started_again_by_a_worker(hosts: Hosts) -> None:
    """Until it works its host serves and stores what it can alone. Who must see what only another host has is refused.

    That is so on the other hosts, too, for what was written on this one meanwhile; and it is over with the next agent.
    """
    with crowd(hosts) as people:
        people.all_served()
        for victim in hosts:
            people.trouble("agent killed", victim)
            begun = monotonic()
            victim.kill_agent()
            replaced = monotonic()
            hosts.meet()
            people.all_served()
            failures = people.failures(begun)
            print(f"another agent served after {replaced - begun:.2f} s; {len(failures)} changes were refused")
            for failure in failures:
                assert "StoreUnavailable" in failure.why, failure
                assert failure.begun < replaced + RECOVERY, failure
        people.settle()
        assert_kept(people)


def test_hosts_that_all_die_at_once_and_keep_their_disks_come_back_with_everything(hosts: Hosts) -> None:
    with crowd(hosts) as people:
        people.all_served()
        for host in hosts:
            host.kill()
            people.trouble("killed", host)
        for host in hosts:
            host.launch()
        for host in hosts:
            host.wait()
        hosts.meet()
        people.all_served()
        people.settle()
        assert_kept(people)
