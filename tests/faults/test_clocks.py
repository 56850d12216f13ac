"""Hosts whose clocks are an hour off: what they tell Redis is how long to keep a session, never until when."""

from __future__ import annotations

import time

import pytest
from tests.faults.crowd import Visitor, node
from tests.faults.history import NOBODY, Act, Answer
from tests.servers.redis import RedisServer

from sojourn.core.policy import Policy
from sojourn.store.redis.commands import SLACK
from sojourn.testing.fakes import FakeClock

pytestmark = pytest.mark.slow

HOUR = 3600.0
POLICY = Policy(idle_timeout=1800, lifetime=86400, touch_interval=60)
LIFE = 1800 * 1000 + SLACK  # milliseconds that Redis is to keep a session
PATIENCE = 30_000  # milliseconds that a slow machine may take between a write and the look at it
OFF: dict[str, float] = {"an hour ahead": HOUR, "right": 0.0, "an hour behind": -HOUR, "in 2001": -25 * 365 * 86400.0}


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.fresh()
    return redis_server


def kept(server: RedisServer) -> int:
    """Return the milliseconds for which Redis keeps the one session."""
    [left] = [left for name, left in server.lifetimes().items() if b":of:" not in name]
    return left


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
def test_redis_keeps_a_session_for_its_life_and_a_minute_whatever_the_host_s_clock_says(
    server: RedisServer, loop: bool, off: float
) -> None:
    """After the first write, after another one, and after a look that is written down."""
    clock, anna = FakeClock(time.time() + off), Visitor("anna")
    with node(f"{server.url}?timeout=5", loop=loop, clock=clock, policy=POLICY) as one:
        for act in (Act.APPEND, Act.APPEND, Act.READ):
            assert one.visit(anna, act).answer is Answer.DONE
            assert LIFE - PATIENCE < kept(server) <= LIFE
            clock.advance(minutes=10)
        assert one.calls[-1].name == "Touch"


def test_a_list_of_a_name_s_sessions_outlives_them_whatever_the_host_s_clock_says(
    server: RedisServer, loop: bool
) -> None:
    for off in OFF.values():
        server.fresh()
        anna = Visitor("anna")
        with node(f"{server.url}?timeout=5", loop=loop, clock=FakeClock(time.time() + off), policy=POLICY) as one:
            assert one.visit(anna, Act.LOGIN).answer is Answer.DONE
            [left] = [left for name, left in server.lifetimes().items() if b":of:" in name]
            assert 86400_000 - PATIENCE < left <= 86400_000
            assert one.visit(anna, Act.REVOKE).answer is Answer.DONE
            assert one.visit(anna, Act.READ).seen == NOBODY


def test_a_host_ahead_takes_sessions_for_expired_and_takes_them_from_nobody(server: RedisServer, loop: bool) -> None:
    """It believes that the time is over. It deletes nothing, and a host with the right time serves on."""
    anna, right, ahead = Visitor("anna"), FakeClock(time.time()), FakeClock(time.time() + HOUR)

    url = f"{server.url}?timeout=5"
    with (
        node(url, loop=loop, clock=right, policy=POLICY) as one,
        node(url, loop=loop, clock=ahead, policy=POLICY) as other,
    ):
        assert one.visit(anna, Act.APPEND).answer is Answer.DONE
        assert other.visit(anna, Act.READ).seen == NOBODY
        assert one.visit(anna, Act.READ).seen != NOBODY
        assert one.visit(anna, Act.APPEND).answer is Answer.DONE
