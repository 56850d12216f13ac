"""A logout and a slow request of one session on two nodes, truly at once, on real servers: two hundred times."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from random import Random
from threading import Barrier, Event

import pytest
from tests.faults.crowd import GRACE, Node, Visitor, node
from tests.faults.history import NOBODY, Act, Answer, Seen, Visit, judge
from tests.servers.memcached import MemcachedServers
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.slow

ROUNDS = 200
PATIENCE = 30.0  # seconds until both must have come to the barrier
QUERY = "timeout=10"
OTHERS = [Act.READ, Act.APPEND, Act.ROTATE, Act.LOGIN]
LEADS = [0.0, 0.0005, 0.002]  # seconds that one may wait before its commit


@pytest.fixture(params=["redis", "memcached"])
def url(request: pytest.FixtureRequest) -> str:
    name = {"redis": "redis_server", "memcached": "memcached_servers"}[request.param]
    server: RedisServer | MemcachedServers = request.getfixturevalue(name)
    server.fresh()
    return f"{server.url}?{QUERY}"


@contextmanager
def elsewhere(url: str, loop: bool) -> Iterator[tuple[Node, ThreadPoolExecutor]]:
    """Give a node, and the one thread that it is used in."""
    with ThreadPoolExecutor(1) as thread:
        one = Node(url, loop=loop)
        try:
            yield one, thread
        finally:
            thread.submit(one.close).result()


class Meeting:
    """Both come together before their commits; then each waits for its lead, or for the other's end."""

    def __init__(self, round: int, chance: Random) -> None:
        self._barrier, self._ended = Barrier(2), (Event(), Event())
        self._leads = chance.choice(LEADS), chance.choice(LEADS)
        # Every tenth round has a certain order, each act in both of them by turns.
        self._last = round // 40 % 2 if round % 10 == 0 else None

    def wait(self, who: int) -> None:
        """Wait for the other, and for one's turn."""
        self._barrier.wait(PATIENCE)
        if self._last is None:
            time.sleep(self._leads[who])
        elif self._last == who:
            assert self._ended[1 - who].wait(PATIENCE)

    def end(self, who: int, _: object) -> None:
        """Note that the commit is over."""
        self._ended[who].set()


def test_of_two_hundred_logouts_none_is_undone_by_a_slow_request_that_is_truly_parallel(url: str, loop: bool) -> None:
    chance, orders = Random(5), Counter[str]()
    with elsewhere(url, loop) as (one, here), elsewhere(url, loop) as (two, there), node(url, loop=loop) as third:
        for round in range(ROUNDS):
            anna, act, meeting = Visitor(f"anna {round}"), OTHERS[round // 2 % len(OTHERS)], Meeting(round, chance)
            third.visit(anna, Act.APPEND)
            again = twin(anna)
            leaving = here.submit(one.visit, anna, Act.LOGOUT, pause=partial(meeting.wait, 0))
            leaving.add_done_callback(partial(meeting.end, 0))
            slow = there.submit(two.visit, again, act, pause=partial(meeting.wait, 1))
            slow.add_done_callback(partial(meeting.end, 1))
            out, late = leaving.result(), slow.result()
            assert out.error is None
            assert out.seen == late.seen
            ids = [id for id in {out.presented, late.issued} if id]
            opened = {id: third.visit(anna, Act.PROBE, presented=id).seen for id in ids}
            assert_over(late, opened)
            assert judge(anna.visits, grace=GRACE).wrong == []
            orders[f"{act} {'first' if was_first(late, opened) else 'second'}"] += 1
    print(dict(sorted(orders.items())))
    assert all(orders[f"{act} {place}"] >= 2 for act in OTHERS for place in ("first", "second") if act is not Act.READ)


def twin(visitor: Visitor) -> Visitor:
    """Return a second window of the same browser."""
    other = Visitor(visitor.name, seed=2)
    other.id = visitor.id
    for _ in range(10):
        other.errand(Act.READ)  # its items have other numbers
    return other


def was_first(late: Visit, opened: dict[str, Seen | None]) -> bool:
    """Tell whether the slow request's write came before the logout; of a look nobody can tell."""
    if late.act is Act.LOGIN:
        seen = opened[late.issued or ""]
        return bool(seen and seen.items)  # else it stands alone
    return late.issued is not None if late.act is Act.ROTATE else late.answer is not Answer.LOST


def assert_over(late: Visit, opened: dict[str, Seen | None]) -> None:
    """What the logout ended shows nothing any more, under whatever id. A login has its own session, without values."""
    for id, seen in opened.items():
        assert seen is not None
        if late.act is Act.LOGIN and id == late.issued:
            assert seen.items in ((), late.seen.items if late.seen else ())
        else:
            assert seen == NOBODY, (late, seen)
