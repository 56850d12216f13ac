"""Memcached servers that die, come back empty or stand still: each fault costs its share of the sessions, no more."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

import pytest
from tests.faults.crowd import MARGIN, People, people, without
from tests.faults.history import Act, Answer, Loss, Visit
from tests.servers.memcached import MemcachedServers
from tests.servers.process import until

from sojourn.core.ids import SessionId
from sojourn.store.memcached.placement import Placement

pytestmark = pytest.mark.slow

TIMEOUT = 1.0  # seconds that a call may take
PLAN = without(Act.REVOKE)  # memcached has no index


@pytest.fixture
def servers(memcached_servers: MemcachedServers) -> MemcachedServers:
    memcached_servers.fresh()
    return memcached_servers


def url_of(servers: MemcachedServers, timeout: float = TIMEOUT) -> str:
    return f"{servers.url}?timeout={timeout}"


def share_of(servers: MemcachedServers, index: int) -> Callable[[str], bool]:
    """Return what tells whether the session of an id lies with one of *servers*."""
    placement = Placement([server.address for server in servers])

    def lies_there(id: str) -> bool:
        parsed = SessionId.parse(id)
        assert parsed
        return placement.server_of(parsed.private) == servers[index].address

    return lies_there


def troubled(crowd: People, since: float) -> list[Visit]:
    return [visit for visit in crowd.visits() if visit.error and visit.span.begun > since]


def asks_elsewhere(visit: Visit, lies_there: Callable[[str], bool]) -> bool:
    """Tell whether a visit asks for one key alone, and that of another share."""
    if visit.presented is None or lies_there(visit.presented):
        return False
    began = visit.act is Act.APPEND and (visit.seen is None or not visit.seen.secret)
    return visit.act in (Act.READ, Act.LOGOUT) or (visit.act is Act.APPEND and not began)


def test_one_of_three_killed_and_back_empty_costs_its_share_and_brings_nothing_back(servers: MemcachedServers) -> None:
    lies_there = share_of(servers, 1)
    with people(url_of(servers), plan=PLAN) as crowd:
        crowd.all_served()
        asked = monotonic()
        servers[1].kill()
        dead = monotonic()
        until(lambda: len(troubled(crowd, asked)) > 100, "the fault is felt")
        servers[1].start()
        print(f"all served after {crowd.all_served():.2f} s")
        found = crowd.assert_kept(Loss(ended=dead, share=lies_there), timeout=TIMEOUT)
    assert not [visit for visit in troubled(crowd, asked) if asks_elsewhere(visit, lies_there)]
    assert found.counts["sessions lost as declared"] > 0
    assert "ends undone as declared" not in found.counts


def test_one_of_three_that_stands_still_delays_its_share_and_loses_nothing(servers: MemcachedServers) -> None:
    lies_there = share_of(servers, 2)
    with people(url_of(servers, 0.5), plan=PLAN, seed=2) as crowd:
        for _ in range(2):
            crowd.all_served()
            paused = monotonic()
            servers[2].pause()
            sleep(1.5)  # the fault's own length
            still = [visit for visit in crowd.visits() if visit.span.begun > paused]
            servers[2].resume()
            mine = [visit for visit in still if asks_elsewhere(visit, lies_there)]
            assert not [visit.error for visit in mine if visit.error]
            assert sum(visit.answer is Answer.DONE for visit in mine) > 20
            failed = [visit for visit in still if visit.error]
            assert failed
            assert crowd.longest(failed) < 0.5 + MARGIN
        crowd.all_served()
        crowd.assert_kept(timeout=0.5)


def test_all_of_them_killed_at_once_and_back_empty_all_are_anonymous_and_nothing_ended_comes_back(
    servers: MemcachedServers,
) -> None:
    with people(url_of(servers), plan=PLAN, seed=3) as crowd:
        crowd.all_served()
        for server in servers:
            server.kill()
        dead = monotonic()
        until(lambda: len(troubled(crowd, dead)) > 100, "the fault is felt")
        assert not [visit for visit in crowd.visits() if visit.span.begun > dead and visit.seen and visit.presented]
        for server in servers:
            server.start()
        print(f"all served after {crowd.all_served():.2f} s")
        found = crowd.assert_kept(Loss(ended=dead), timeout=TIMEOUT)
        issued = [visit.issued for visit in crowd.visits() if visit.issued]
    assert found.counts["sessions lost as declared"] > len(crowd.visitors) / 2
    assert "ends undone as declared" not in found.counts
    assert len(set(issued)) == len(issued)


def test_all_of_them_standing_still_at_once_lose_nothing(servers: MemcachedServers) -> None:
    with people(url_of(servers, 0.4), plan=PLAN, seed=4) as crowd:
        for _ in range(3):
            crowd.all_served()
            for server in servers:
                server.pause()
            sleep(0.8)  # the fault's own length
            for server in servers:
                server.resume()
        crowd.all_served()
        found = crowd.assert_kept(timeout=0.4)
    assert found.counts["doubtful of append"] + found.counts["refused of append"] > 50
