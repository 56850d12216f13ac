"""A Redis whose memory is full: with noeviction it refuses what grows, with eviction it forgets sessions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.faults.crowd import POLICY, Node, Visitor, node, people, without
from tests.faults.history import NOBODY, Act, Answer, Loss, Visit, judge
from tests.servers.process import until
from tests.servers.redis import RedisServer

from sojourn.connect import connect
from sojourn.core.capability import Examinable
from sojourn.drive import StorePair
from sojourn.errors import StoreUnavailable

pytestmark = pytest.mark.slow

QUERY = "timeout=5"


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.fresh()
    return redis_server


@pytest.fixture
def one(server: RedisServer, loop: bool) -> Iterator[Node]:
    with node(f"{server.url}?{QUERY}", loop=loop) as one:
        yield one


def settled(one: Node, name: str) -> Visitor:
    """Return a visitor who is logged in and has an item; everything that the server needs for more is there."""
    visitor = Visitor(name)
    for act in (Act.APPEND, Act.LOGIN, Act.APPEND, Act.ROTATE, Act.READ):
        assert one.visit(visitor, act).answer is Answer.DONE
    return visitor


def touched(one: Node, visitor: Visitor) -> Visit:
    """Return a look by *visitor* that was written down."""
    before = sum(call.name == "Touch" for call in one.calls)

    def look() -> bool:
        one.visit(visitor, Act.READ)
        return sum(call.name == "Touch" for call in one.calls) > before

    until(look, "a look is due to be written down")
    return visitor.visits[-1]


def test_where_memory_is_full_writes_are_503_and_readers_touches_logouts_and_revocations_go_on(
    server: RedisServer, one: Node
) -> None:
    reader, writer, leaver, named = (settled(one, name) for name in ("reader", "writer", "leaver", "named"))
    with server.configured(maxmemory="100kb"):  # less than it has in use, and maxmemory-policy is noeviction
        for act in (Act.APPEND, Act.ROTATE, Act.LOGIN):
            for visitor in (writer, Visitor("stranger")):
                if act is not Act.ROTATE or visitor is writer:
                    refused = one.visit(visitor, act)
                    assert refused.answer is Answer.DOUBTFUL
                    assert isinstance(refused.error, StoreUnavailable)
                    assert "maxmemory" in str(refused.error)
        assert touched(one, reader).error is None
        assert reader.visits[-1].seen != NOBODY
        assert one.visit(leaver, Act.LOGOUT).answer is Answer.DONE
        assert one.visit(leaver, Act.PROBE, presented=leaver.former[-1]).seen == NOBODY
        assert one.visit(named, Act.REVOKE).answer is Answer.DONE
        assert one.visit(named, Act.READ).seen == NOBODY
    for visitor in (reader, writer, leaver, named):
        assert one.visit(visitor, Act.APPEND).answer is Answer.DONE
        one.visit(visitor, Act.READ)
    visits = [visit for visitor in (reader, writer, leaver, named) for visit in visitor.visits]
    assert judge(visits, grace=POLICY.rotation_grace).wrong == []


def test_with_an_evicting_policy_sessions_vanish_and_that_is_never_an_error_nor_anybody_else_s(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Fifty visitors, and other data that pushes theirs out: who is forgotten is anonymous and begins anew."""
    limit = server.admin.info("memory")["used_memory"] + (6 << 20)
    with (
        server.configured(maxmemory=limit, maxmemory_policy="allkeys-lru"),
        people(f"{server.url}?{QUERY}", plan=without(Act.REVOKE)) as crowd,
    ):
        crowd.all_served()
        for round in range(4):
            evicted = server.admin.info("stats")["evicted_keys"]
            for number in range(100):
                server.admin.set(f"ballast {round} {number}", bytes(100_000))
            assert server.admin.info("stats")["evicted_keys"] > evicted
            crowd.all_served()
        found = crowd.assert_kept(Loss(), timeout=5)
        # A login whose new session is forgotten while it is made is refused as a conflict; nothing is unavailable.
        assert not [visit for visit in crowd.visits() if isinstance(visit.error, StoreUnavailable)]
    assert found.counts["sessions lost as declared"] > 0
    assert "items lost as declared" not in found.counts, "a session is there as a whole or not at all"
    assert "ends undone as declared" not in found.counts
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("evicts keys: maxmemory-policy is allkeys-lru" in text for text in warnings)


def test_an_evicting_policy_can_make_a_revocation_miss_sessions_and_the_examination_warns_of_the_policy(
    server: RedisServer, one: Node
) -> None:
    """The list of a name's sessions is a key like any other: once evicted, nobody knows what was on it."""
    anna = settled(one, "anna")
    [index] = [name for name in server.dump() if b":of:" in name]
    server.admin.delete(index)  # as eviction does
    assert one.visit(anna, Act.REVOKE).answer is Answer.DONE
    assert one.visit(anna, Act.READ).seen != NOBODY
    with server.configured(maxmemory_policy="volatile-ttl"):
        pair = connect(f"{server.url}?{QUERY}")
        assert isinstance(pair, StorePair)
        store = pair.blocking
        assert isinstance(store, Examinable)
        with closing(store):  # type: ignore[type-var]
            assert any("evicts keys" in finding.what for finding in store.examine())
