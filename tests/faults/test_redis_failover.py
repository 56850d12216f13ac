"""A primary that is killed under fifty visitors who write, with Sentinels and in a Cluster.

Redis replicates after it has answered. What a primary acknowledged in its last moments may therefore be lost with it,
ends of sessions among it: that is declared, and counted here. Everything else is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from redis.crc import key_slot
from tests.faults.crowd import PLAN, Node, People, Visitor, node, people
from tests.faults.history import NOBODY, Act, Answer, Loss, Verdict, Visit
from tests.faults.test_redis_stops import key_of
from tests.servers.cluster import RedisCluster
from tests.servers.process import until
from tests.servers.redis import RedisServer, plain
from tests.servers.sentinel import Sentinels, role

from sojourn.errors import StoreUnavailable

pytestmark = pytest.mark.slow

TIMEOUT = 1.0  # seconds that a call may take
WINDOW = 1.0  # seconds before a primary's death whose writes may not have reached a replica that follows it

RESTLESS = {**PLAN, Act.ROTATE: 10, Act.LOGIN: 10, Act.LOGOUT: 15}
DECLARED = ("items lost as declared", "sessions lost as declared", "ends undone as declared")


@pytest.fixture(scope="module")
def all_sentinels() -> Iterator[Sentinels]:
    """Servers that keep their data, so that one which comes back has old ones to serve, if it were asked."""
    with Sentinels(down_after=1500, appendonly=True) as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(all_sentinels: Sentinels) -> Sentinels:
    all_sentinels.fresh()
    return all_sentinels


def declared(found: Verdict) -> dict[str, int]:
    """Return how much was lost of what may be."""
    return {what: found.counts[what] for what in DECLARED}


def served_again(crowd: People, since: float) -> tuple[float, float]:
    """Return after how many seconds the first visitor could write again, and after how many each one could."""
    everybody = crowd.all_served(since)
    begins = [visit.span.ended for visit in crowd.visits() if visit.answer is Answer.DONE and is_write(visit)]
    return min(moment for moment in begins if moment > since + 0.05) - since, everybody


def is_write(visit: Visit) -> bool:
    return visit.act is Act.APPEND


def test_a_primary_killed_under_sentinel_loses_the_last_moments_at_most_and_does_not_come_back_with_old_data(
    sentinels: Sentinels,
) -> None:
    with people(f"{sentinels.url}?timeout={TIMEOUT}") as crowd:
        crowd.all_served()
        old = sentinels.primary()
        asked = monotonic()
        old.kill()
        dead = monotonic()
        first, everybody = served_again(crowd, dead)
        new = sentinels.successor(old)
        old.start()
        sentinels.settle()
        crowd.all_served()
        found = crowd.assert_kept(Loss(asked - WINDOW, dead, revives=True), timeout=TIMEOUT)
        assert role(old) == "slave"
        assert sentinels.primary() is new
        until(lambda: old.dump() == new.dump(), "it has what the new one has, and nothing else")
    print(f"writes worked again after {first:.2f} s, for everybody after {everybody:.2f} s; {declared(found)}")
    assert found.counts["doubtful of append"] + found.counts["refused of append"] > 0


def test_what_no_replica_had_is_lost_with_the_primary_ends_of_sessions_among_it_and_nothing_else_is(
    sentinels: Sentinels,
) -> None:
    """Replicas that are cut off, then the primary's death: what was acknowledged in between is undone as a whole."""
    with people(f"{sentinels.url}?timeout={TIMEOUT}", plan=RESTLESS, seed=3) as crowd:
        crowd.all_served()
        old, replicas = sentinels.primary(), sentinels.replicas()
        cut = monotonic()
        for replica in replicas:
            replica.pause()
        plain(old.admin, "CLIENT", "KILL", "TYPE", "replica")
        alone = monotonic()
        crowd.all_served()
        until(lambda: ended_since(crowd, alone) >= 10, "some have logged out")
        old.kill()
        dead, ends = monotonic(), ended_since(crowd, alone)
        for replica in replicas:
            replica.resume()
        first, everybody = served_again(crowd, dead)
        sentinels.successor(old)
        old.start()
        sentinels.settle()
        crowd.all_served()
        found = crowd.assert_kept(Loss(cut - 0.5, dead, revives=True), timeout=TIMEOUT)
    print(f"{dead - cut:.2f} s without replicas, with {ends} logouts acknowledged in them; {declared(found)}")
    print(f"writes worked again after {first:.2f} s, for everybody after {everybody:.2f} s")
    items, sessions, revived = declared(found).values()
    assert items + sessions > 0, "the gap was felt"
    assert revived > 0


def test_a_primary_that_stands_still_and_goes_on_when_it_was_replaced_loses_its_last_moments_at_most(
    sentinels: Sentinels,
) -> None:
    """When it goes on it takes itself for the primary, until the Sentinels make it a replica: nobody may ask it."""
    with people(f"{sentinels.url}?timeout={TIMEOUT}", seed=5) as crowd:
        crowd.all_served()
        old = sentinels.primary()
        asked = monotonic()
        old.pause()
        paused = monotonic()
        first, everybody = served_again(crowd, paused)
        sentinels.successor(old)
        crowd.all_served()
        old.resume()
        until(lambda: role(old) == "slave", "it is a replica", 30)
        sentinels.settle()
        crowd.all_served()
        found = crowd.assert_kept(Loss(asked - WINDOW, paused, revives=True), timeout=TIMEOUT)
    print(f"writes worked again after {first:.2f} s, for everybody after {everybody:.2f} s; {declared(found)}")


def test_idle_connections_to_a_primary_that_hangs_are_not_tried_one_after_another(
    sentinels: Sentinels, loop: bool
) -> None:
    """As a node has them that was busy before. One call waits in vain; the next after the failover is served."""
    anna, old = Visitor("anna"), sentinels.primary()
    with node(f"{sentinels.url}?timeout={TIMEOUT}", loop=loop) as one:
        assert one.visit(anna, Act.APPEND).answer is Answer.DONE
        if not loop:  # an event loop has one connection anyway
            make_idle(one, old)
        old.pause()
        assert isinstance(one.visit(anna, Act.READ).error, StoreUnavailable)
        sentinels.successor(old)
        assert one.visit(anna, Act.READ).seen == one.visit(anna, Act.READ).seen != NOBODY


def make_idle(one: Node, server: RedisServer, count: int = 12) -> None:
    """Let *one* have so many connections at once, which are idle afterwards."""
    before = server.admin.info("clients")["connected_clients"]
    plain(server.admin, "CLIENT", "PAUSE", 300, "ALL")  # milliseconds; it answers them all then
    load = one.manager.blocking_store().load
    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(load, [bytes([number]) * 32 for number in range(count)])) == [None] * count
    assert server.admin.info("clients")["connected_clients"] >= before + count - 1


def ended_since(crowd: People, moment: float) -> int:
    """Return how many logouts of sessions were acknowledged that began after *moment*."""
    return sum(
        visit.act is Act.LOGOUT
        and visit.answer is Answer.DONE
        and visit.span.begun > moment
        and visit.seen is not None
        and visit.seen.secret is not None
        for visit in crowd.visits()
    )


@pytest.mark.parametrize("full_coverage", ["no", "yes"])
def test_a_primary_killed_in_a_cluster_loses_its_last_moments_at_most_and_others_serve_on(full_coverage: str) -> None:
    """They do with cluster-require-full-coverage no. With yes, the default, all refuse until a replica takes over."""
    with RedisCluster(node_timeout=2000, config=[f"cluster-require-full-coverage {full_coverage}"]) as cluster:
        with people(f"{cluster.url}?timeout={TIMEOUT}", seed=4) as crowd:
            crowd.all_served()
            victim, *others = cluster.primaries()
            shares = {node.port: [range(row[0], row[1] + 1) for row in rows(cluster, node.port)] for node in others}
            asked = monotonic()
            victim.kill()
            dead = monotonic()
            everybody = crowd.all_served(dead)
            victim.start()
            cluster.settle()
            crowd.all_served()
            lost = Loss(asked - WINDOW, dead, revives=True, share=lambda id: not serves(shares, id))
            found = crowd.assert_kept(lost, timeout=TIMEOUT)
        failed = [visit for visit in crowd.visits() if visit.error and visit.span.begun > asked]
        unharmed = [visit for visit in failed if is_plain(visit) and serves(shares, visit.presented or "")]
        print(f"its share worked again after {everybody:.2f} s; {len(failed)} failed, {len(unharmed)} of other shares")
        print(declared(found))
        assert failed
        assert full_coverage == "yes" or not unharmed, unharmed[0].error


def rows(cluster: RedisCluster, port: int) -> list[list[int]]:
    """Return the ranges of slots of the node on *port*."""
    return [row[:2] for row in cluster.primaries()[0].ask("SLOTS") if row[2][1] == port]


def serves(shares: dict[int, list[range]], id: str) -> bool:
    """Tell whether the session of *id* lies with one of the nodes of *shares*."""
    slot = key_slot(key_of(id))
    return any(slot in part for parts in shares.values() for part in parts)


def is_plain(visit: Visit) -> bool:
    """Tell whether a visit asks for one key alone."""
    return visit.presented is not None and (
        visit.act is Act.READ
        or (visit.act is Act.APPEND and visit.seen is not None and visit.seen.secret is not None)
        or (visit.act is Act.APPEND and visit.answer is Answer.REFUSED)
    )
