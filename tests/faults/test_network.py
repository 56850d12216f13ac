"""A network between the visitors and their sessions that is late, cuts, resets and stalls, by a seeded plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from time import sleep

import pytest
from tests.faults.crowd import MARGIN, Visitor, node, people, without
from tests.faults.history import Act, Answer, Seen, judge
from tests.servers.memcached import MemcachedServer
from tests.servers.process import until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.slow

TIMEOUT = 0.3  # seconds that a call may take
STEPS = 20
PATIENT = "timeout=10"  # of a node whose network is well


@pytest.fixture(params=["redis", "memcached"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer | MemcachedServer]:
    """A server of its own for each test."""
    with RedisServer() if request.param == "redis" else MemcachedServer() as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer | MemcachedServer) -> Iterator[Proxy]:
    """The network before it."""
    with Proxy(server.port) as proxy:
        yield proxy


def through(proxy: Proxy, server: RedisServer | MemcachedServer, timeout: float = TIMEOUT) -> str:
    """Return the URL of *server* behind *proxy*."""
    return f"{server.program.partition('-')[0]}://{proxy.address}?timeout={timeout}"


def misbehave(proxy: Proxy, chance: Random) -> None:
    """Do one thing that networks do."""
    match chance.randrange(7):
        case 0:
            proxy.delay_replies(chance.uniform(0, 1.5 * TIMEOUT))
        case 1:
            proxy.delay_requests(chance.uniform(0, 1.5 * TIMEOUT))
        case 2 | 3:
            proxy.cut_replies(chance.randrange(1500), reset=chance.random() < 0.5)
        case 4:
            proxy.drop(reset=chance.random() < 0.5)
        case 5:
            proxy.hold_replies()
        case 6:
            proxy.hold_requests()


@pytest.mark.parametrize("seed", [1, 2])
def test_delays_cuts_and_resets_at_any_byte_lose_double_and_mix_up_nothing(
    server: RedisServer | MemcachedServer, proxy: Proxy, seed: int
) -> None:
    """Twenty visitors in each colour, two nodes, each with a network of its own.

    So a write may arrive long after its visitor has tried again by way of the other node, and gone on.
    """
    chance = Random(seed)
    plan = without(Act.REVOKE) if isinstance(server, MemcachedServer) else without()
    with (
        Proxy(server.port) as other,
        people(through(proxy, server), through(other, server), count=20, plan=plan, seed=seed) as crowd,
    ):
        crowd.all_served()
        for _ in range(STEPS):
            troubled = chance.choice([proxy, other])
            misbehave(troubled, chance)
            sleep(chance.uniform(0.1, 1.5) * TIMEOUT)  # how long it lasts
            troubled.heal()
        crowd.all_served()
        found = crowd.assert_kept(timeout=TIMEOUT)
    assert found.counts["doubtful of append"] > 20
    assert found.counts["refused of append"] > 20
    assert found.counts["done of append"] > 100


# -- one visitor, step by step -----------------------------------------------------------------------------------------


def test_an_append_whose_answer_came_too_late_is_there_once_and_pressing_again_adds_nothing(
    server: RedisServer | MemcachedServer, proxy: Proxy, loop: bool
) -> None:
    anna, timeout = Visitor("anna"), 1.5
    late = timeout * (1.5 if isinstance(server, RedisServer) else 0.6)  # memcached answers twice, each time that late
    with node(through(proxy, server, timeout), loop=loop) as slow, node(f"{server.url}?{PATIENT}", loop=loop) as quick:
        assert slow.visit(anna, Act.APPEND).issued
        assert slow.visit(anna, Act.APPEND).answer is Answer.DONE
        before = written(server)
        doubtful = slow.visit(anna, Act.APPEND, pause=lambda: proxy.delay_replies(late))
        assert doubtful.answer is Answer.DOUBTFUL
        assert doubtful.span.ended - doubtful.span.begun < timeout + MARGIN
        assert written(server) == before + 1, "the server has executed it"
        proxy.heal()
        assert len(items(quick.visit(anna, Act.READ).seen)) == 3
        again = slow.visit(anna, Act.APPEND)
        assert again.item == doubtful.item, "it was there, so nothing was appended"
        assert again.answer is Answer.DONE
        assert len(items(quick.visit(anna, Act.READ).seen)) == 3
    assert judge(anna.visits).wrong == []


def written(server: RedisServer | MemcachedServer) -> int:
    return server.commands().get("set", 0)


def items(seen: Seen | None) -> list[str]:
    assert seen
    return list(seen.items)


@pytest.mark.parametrize("late", [Act.APPEND, Act.LOGOUT, Act.ROTATE, Act.LOGIN])
def test_a_write_that_arrives_after_its_visitor_has_tried_again_does_nothing(late: Act, loop: bool) -> None:
    """Versions are compared by the server when it executes a write, however late that is. On another node meanwhile."""
    anna = Visitor("anna")
    with RedisServer() as server, Proxy(server.port) as proxy, ExitStack() as nodes:
        slow = nodes.enter_context(node(through(proxy, server), loop=loop))
        quick = nodes.enter_context(node(f"{server.url}?{PATIENT}", loop=loop))
        assert slow.visit(anna, Act.APPEND).issued
        assert slow.visit(anna, late, pause=proxy.hold_requests).answer is Answer.DOUBTFUL
        for _ in range(2):
            assert quick.visit(anna, Act.APPEND).answer is Answer.DONE
        expected = items(quick.visit(anna, Act.READ).seen)
        assert len(expected) == 3
        server.reset()
        proxy.release()
        until(server.commands, "the late command has arrived")
        until(lambda: not proxy.held, "all of it has arrived")
        assert items(quick.visit(anna, Act.READ).seen) == expected
    assert judge(anna.visits).wrong == []
