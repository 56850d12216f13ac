"""A Redis server that dies, comes back with or without its data, or stands still: fifty visitors, both colours."""

from __future__ import annotations

from collections import Counter
from time import monotonic, sleep

import pytest
from tests.faults.crowd import People, anonymous, people
from tests.faults.history import Act, Answer, Loss, Visit
from tests.servers.process import until
from tests.servers.redis import RedisServer

from sojourn.core.ids import SessionId
from sojourn.store.redis.commands import PREFIX

pytestmark = pytest.mark.slow

TIMEOUT = 1.0  # seconds that a call may take


def url_of(server: RedisServer, timeout: float = TIMEOUT) -> str:
    return f"{server.url}?timeout={timeout}"


def wait_for_errors(crowd: People, count: int = 10) -> None:
    """Wait until the fault is felt."""
    before = sum(crowd.errors().values())
    until(lambda: sum(crowd.errors().values()) >= before + count, "the fault is felt")


def test_a_crash_and_a_restart_with_data_lose_nothing_acknowledged() -> None:
    """With appendonly yes and appendfsync always; three times. That the scripts are forgotten is not noticed."""
    with (
        RedisServer(appendonly=True, config=["appendfsync always"]) as server,
        people(url_of(server)) as crowd,
    ):
        crowd.all_served()
        for _ in range(3):
            server.kill()
            wait_for_errors(crowd)
            server.start()
            print(f"all served after {crowd.all_served():.2f} s")
            ran = server.commands()
            assert ran["eval"] > 0
            assert ran["evalsha"] > ran["eval"]
        found = crowd.assert_kept(timeout=TIMEOUT)
        assert not any("NOSCRIPT" in text for text in crowd.errors())
    assert sum(count for what, count in found.counts.items() if what.startswith("doubtful")) > 0


def test_after_a_restart_without_data_all_are_anonymous_and_nothing_ended_or_old_comes_back() -> None:
    with RedisServer() as server, people(url_of(server)) as crowd:
        crowd.all_served()
        server.kill()
        dead = monotonic()
        wait_for_errors(crowd)
        before = {visitor.name: visitor.id for visitor in crowd.visitors if visitor.id}
        server.start()
        crowd.all_served()
        found = crowd.assert_kept(Loss(ended=dead), timeout=TIMEOUT)
        # Each session was lost once, its visitor was served as anybody new, under an id that was never there before.
        assert found.counts["sessions lost as declared"] > len(before) / 2
        assert anonymous(crowd.visits(), dead) >= len(before) / 2
        assert "ends undone as declared" not in found.counts
        issued = Counter(visit.issued for visit in crowd.visits() if visit.issued)
        assert set(issued.values()) == {1}
        new = {key_of(visit.issued) for visit in crowd.visits() if visit.issued and visit.span.ended > dead}
        held = {name for name in server.dump() if not name.startswith(PREFIX.encode() + b"of:")}
        assert held <= new, "something is stored under an id of former times"


def key_of(id: str | None) -> bytes:
    """Return the Redis key of the session that a browser holds as *id*."""
    parsed = SessionId.parse(id or "")
    assert parsed
    return PREFIX.encode() + parsed.private.hex().encode()


def test_a_server_that_stands_still_for_ten_seconds_loses_and_mixes_up_nothing() -> None:
    """What was sent meanwhile is executed when it goes on, long after the callers were told that it is unavailable."""
    with RedisServer() as server, people(url_of(server)) as crowd:
        crowd.all_served()
        server.pause()
        sleep(10)  # the fault's own length
        still = [visit for visit in crowd.visits() if visit.error]
        server.resume()
        print(f"all served {crowd.all_served():.2f} s after it went on")
        found = crowd.assert_kept(timeout=TIMEOUT)
        clients = server.admin.info("clients")["connected_clients"]
    # Everybody tried and was told within the deadline, again and again; and no connections pile up.
    assert len(still) > 4 * len(crowd.visitors)
    assert {visit.visitor for visit in still} == {visitor.name for visitor in crowd.visitors}
    assert crowd.longest(still) < TIMEOUT + 1.5
    assert sum(found.counts[f"{answer.name.lower()} of append"] for answer in (Answer.DOUBTFUL, Answer.REFUSED)) > 50
    assert clients <= 32 + 3


def test_short_stops_one_after_another_lose_and_mix_up_nothing() -> None:
    """Each is longer than the deadline, so that late replies and late writes meet the next calls."""
    with RedisServer() as server, people(url_of(server, 0.3), seed=2) as crowd:
        for _ in range(5):
            crowd.all_served()
            server.pause()
            sleep(0.5)
            server.resume()
        crowd.all_served()
        found = crowd.assert_kept(timeout=0.3)
    assert found.counts["doubtful of append"] > 0


def test_with_outage_anonymous_readers_are_served_meanwhile_and_nothing_of_it_is_written_back() -> None:
    """Every change is refused, a logout too. Afterwards each has the session that was there before."""
    plan = {Act.READ: 50, Act.LOGOUT: 25, Act.APPEND: 25}
    with RedisServer() as server, people(url_of(server, 0.3), plan=plan, outage="anonymous") as crowd:
        crowd.all_served()
        server.pause()
        paused = monotonic()
        until(lambda: len(meanwhile(crowd, paused, Act.READ)) > 5, "some have looked")
        until(lambda: len(meanwhile(crowd, paused, Act.LOGOUT)) > 0, "somebody wanted to log out")
        server.resume()
        crowd.all_served()
        found = crowd.assert_kept(timeout=0.3)
    assert not [visit.error for visit in meanwhile(crowd, paused, Act.READ) if visit.error]
    assert all(visit.error for visit in meanwhile(crowd, paused, Act.LOGOUT))
    assert found.counts["refused of append"] > 0


def meanwhile(crowd: People, since: float, act: Act) -> list[Visit]:
    """Return the visits for *act* that began after *since* and found the store silent."""
    return [visit for visit in crowd.visits() if visit.act is act and visit.seen is None and visit.span.begun > since]
