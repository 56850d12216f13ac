"""Hosts and agents that stand still for longer than anybody waits, and go on as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic

import pytest
from tests.faults.peers.conftest import LONG
from tests.faults.peers.hosts import Host, Hosts
from tests.faults.peers.judging import assert_kept, unforced
from tests.faults.peers.test_kill import noticed
from tests.faults.peers.visitors import crowd
from tests.faults.peers.visits import Broken, Request, Response
from tests.faults.peers.worker import GRACE
from tests.servers.process import until

pytestmark = pytest.mark.slow

STANDS = 30.0 if LONG else 3.0  # seconds
NOTICED = 2.0
HOLD = 400  # milliseconds that a handler takes: its host stops in the middle


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_a_host_that_stands_still_is_noticed_and_brings_nothing_old_back_when_it_goes_on() -> None:
    """For so long that the others take it for dead."""
    with Hosts(3, dead_after="0.5") as hosts, crowd(hosts, proxy=3.0) as people:
        people.all_served()
        victim = hosts[1]
        people.trouble("paused", victim)
        begun = victim.pause()
        try:
            taken = noticed(hosts.others(victim), victim, begun)
            until(lambda: hosts[0].state_of(victim) == "dead", "it is taken for dead")
            people.all_served()
            people.go_on(max(0.0, STANDS - (monotonic() - begun)))
        finally:
            victim.resume()
        people.trouble("goes on", victim)
        people.all_served()
        people.settle()
        print(f"noticed after {taken:.2f} s; {len(people.failures())} changes were under way there")
        assert taken < NOTICED
        assert not unforced(people.failures(), victim), unforced(people.failures(), victim)[:5]
        assert_kept(people)


@contextmanager
def stopped_amid(hosts: Hosts, pool: ThreadPoolExecutor, late: Request) -> Iterator[list[Response]]:
    """Stop the first host while it handles *late*, do what is inside, let it go on; then there is the late answer."""
    answers: list[Response] = []

    def send() -> None:
        with suppress(Broken):
            answers.append(hosts[0].ask(late, 30.0))

    sent = pool.submit(send)
    with suppress(TimeoutError):
        sent.result(HOLD / 2000)
    hosts[0].pause()
    try:
        until(lambda: hosts[1].state_of(hosts[0]) != "alive", "it is missed")
        yield answers
    finally:
        hosts[0].resume()
    sent.result()


def begin(hosts: Hosts, client: int = 1) -> str:
    """Return the cookie of a new session."""
    response = hosts[0].ask(Request("write", client, None, {"a": 1}))
    assert response.token, response
    token: str = response.token
    return token


def everywhere(hosts: Hosts, token: str) -> list[Response]:
    """Return what each host shows to who has that cookie."""
    return [host.ask(Request("read", 1, token)) for host in hosts]


def test_the_late_write_of_a_host_that_stood_still_does_not_revive_a_session_that_was_logged_out(
    hosts: Hosts, pool: ThreadPoolExecutor
) -> None:
    token = begin(hosts)
    late = Request("write", 1, token, {"a": 2}, hold_ms=HOLD)
    with stopped_amid(hosts, pool, late) as answers:
        assert hosts[1].ask(Request("logout", 1, token)).ended
    assert answers
    hosts.meet()
    hosts.converge()
    assert [seen.found for seen in everywhere(hosts, token)] == [False] * 3


def test_the_late_renewal_of_a_host_that_stood_still_does_not_outlive_the_logout_on_another(
    hosts: Hosts, pool: ThreadPoolExecutor
) -> None:
    """The browser logged out, so the session that the late renewal makes of it must be over, too."""
    token = begin(hosts)
    with stopped_amid(hosts, pool, Request("renew", 1, token, hold_ms=HOLD)) as answers:
        assert hosts[1].ask(Request("logout", 1, token)).ended
    hosts.meet()
    hosts.converge()
    tokens = [token, *(answer.token for answer in answers if answer.token)]
    assert [seen.found for one in tokens for seen in everywhere(hosts, one)] == [False] * 3 * len(tokens)


def test_the_late_write_of_a_host_that_stood_still_leaves_a_login_alone(hosts: Hosts, pool: ThreadPoolExecutor) -> None:
    """The login's values stay what they were, and the id from before it opens nothing."""
    token = begin(hosts)
    with stopped_amid(hosts, pool, Request("write", 1, token, {"a": 2, "b": 2}, hold_ms=HOLD)):
        new = hosts[1].ask(Request("login", 1, token)).token
        assert new
    hosts.meet()
    hosts.converge()
    assert [seen.reads for seen in everywhere(hosts, new)] == [{"a": 1}] * 3
    assert [seen.found for seen in everywhere(hosts, token)] == [False] * 3


def test_a_late_write_of_another_key_is_kept_beside_what_the_others_wrote(
    hosts: Hosts, pool: ThreadPoolExecutor
) -> None:
    token = begin(hosts)
    with stopped_amid(hosts, pool, Request("write", 1, token, {"b": 2}, hold_ms=HOLD)):
        assert hosts[1].ask(Request("write", 1, token, {"a": 3})).wrote
    hosts.meet()
    hosts.converge()
    assert [seen.reads for seen in everywhere(hosts, token)] == [{"a": 3, "b": 2}] * 3


def test_an_agent_alone_that_stands_still_stops_no_visitor_who_stays_on_one_host() -> None:
    """Its host's writes wait for nobody for long, and are counted later; the others do not wait for it at all."""
    with Hosts(3, wait="0.3") as hosts, crowd(hosts, sticky=True) as people:
        people.all_served()
        victim = hosts[2]
        people.trouble("agent paused", victim)
        pause_between_transactions(victim)
        try:
            until(lambda: hosts[0].state_of(victim) != "alive", "the agent is missed", NOTICED)
            people.all_served()
        finally:
            victim.resume()
        people.trouble("agent goes on", victim)
        people.all_served()
        people.settle()
        assert not people.failures(), people.failures()[:5]
        assert_kept(people)


def pause_between_transactions(host: Host) -> None:
    """Let the agent stand still where it holds no lock: a process that stops while it writes stops all who write."""
    for _ in range(20):
        host.pause_agent()
        with suppress(Broken):
            if host.ask(Request("write", 99, None, {"a": 1}), 1.0).wrote:
                return
        host.resume()
    raise AssertionError("the agent was always found writing")


def test_after_the_grace_of_a_renewal_the_old_id_opens_nothing_on_any_host(hosts: Hosts) -> None:
    token = begin(hosts)
    new = hosts[1].ask(Request("renew", 1, token)).token
    assert new
    until(
        lambda: not any(seen.found for seen in everywhere(hosts, token)),
        "the grace is over",
        GRACE + 2.0,
    )
    assert [seen.reads for seen in everywhere(hosts, new)] == [{"a": 1}] * 3
