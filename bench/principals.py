"""One principal with very many sessions: listing and revoking them, and how long others wait meanwhile."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.servers.redis import RedisServer

from bench.crowd import PRINCIPAL, Crowd, put_into_local, put_into_redis
from bench.pinging import pinging
from bench.places import in_memory
from bench.priority import hurry
from bench.quiet import without_advice
from bench.rival import writing
from bench.rounds import check
from bench.sessions import NOW, Times, key_of
from bench.table import say, table, title, verdict
from sojourn import SessionManager
from sojourn.core.principals import SessionInfo
from sojourn.store.local import LocalStore

SECONDS, PAUSE = 1.0, 5.0  # the goals: in all, and milliseconds that anybody waits
NOTED, MOST_NOTED = 50, 100_000  # microseconds from which on the server notes a command; how many it keeps


class Took(NamedTuple):
    """Seconds: on the wall for each half, of CPU for both."""

    list: float
    revoke: float
    cpu: float

    @property
    def together(self) -> float:
        """On the wall."""
        return self.list + self.revoke

    def cells(self) -> tuple[str, ...]:
        """Return what a row shows."""
        return f"{self.list:.3f}", f"{self.revoke:.3f}", f"{self.cpu:.3f}"


class Turn(NamedTuple):
    """What one turn took, the longest command in milliseconds and its name, and what others waited meanwhile."""

    colour: str
    took: Took
    longest: tuple[float, str]
    others: Times

    def row(self) -> tuple[str, ...]:
        """Return the row."""
        command = f"{self.longest[0]:.2f} ({self.longest[1]})"
        return self.colour, *self.took.cells(), command, *_waits(self.others), _verdict(self.took, self.others)


List = Callable[[], Sequence[SessionInfo]]
Revoke = Callable[[], int]


def report(quick: bool = False) -> None:
    """Print the tables."""
    crowd = Crowd(1_000, 5_000) if quick else Crowd(10_000, 50_000)
    times = 2 if quick else 5
    title(f"{crowd.many:,} sessions of one principal")
    say(
        f"There are {crowd.others:,} sessions of others. Each frame has about 1 KB. `manager.of` lists the principal's "
        "sessions with their records, `manager.revoke` ends them; then they are made again. Each row is one turn, on "
        "the wall. Afterwards none of them may be left, and all others must be."
    )
    with without_advice():
        _on_redis(crowd, times)
        _on_local(crowd, times)


def _on_redis(crowd: Crowd, times: int) -> None:
    title("On Redis", 3)
    say(
        "A second process sends PING on a connection of its own. Where the system permits it, that process and the "
        "server run at a real-time priority, so that a PING waits for what the server does and for little else. For "
        "comparison it does so while this process uses its processor without asking the server. The longest command is "
        f"by the server's SLOWLOG, which notes what takes {NOTED} µs or more on the wall's clock."
    )
    turns: list[Turn] = []
    with RedisServer() as server, asyncio.Runner() as runner:
        server.admin.config_set("slowlog-log-slower-than", NOTED)
        server.admin.config_set("slowlog-max-len", MOST_NOTED)
        say("The priority was given." if hurry(server.pid) else "The priority was not permitted.")
        put_into_redis(server.admin, crowd.other_logins())
        manager = SessionManager(server.url, clock=_now)
        with pinging(server.port) as alone:
            _spin(0.5)
        for number in range(2 * times):
            put_into_redis(server.admin, crowd.logins())
            server.admin.slowlog_reset()
            colour, turn = ("async", _async_turn(manager, runner)) if number % 2 else ("blocking", _turn(manager))
            with pinging(server.port) as pings:
                took = _timed(crowd, *turn)
            turns.append(Turn(colour, took, _longest(server), pings.answered))
            _check_redis(server, crowd)
        runner.run(manager.aclose())
        manager.close()
    heads = ("colour", "list, s", "revoke, s", "CPU, s", "longest command, ms", "PINGs", "p99, ms", "worst PING, ms")
    table((*heads, "goal"), [("nobody", *[""] * 4, *_waits(alone.answered), ""), *(turn.row() for turn in turns)])
    _say_least(turns)


def _say_least(turns: Sequence[Turn]) -> None:
    """Say what the work itself takes at most."""
    said = []
    for colour in ("blocking", "async"):
        ours = [turn for turn in turns if turn.colour == colour]
        together = min(turn.took.together for turn in ours)
        command, name = min(turn.longest for turn in ours)
        ping = min(turn.others.longest for turn in ours) / 1000
        said.append(
            f"{colour}: {together:.2f} s, {verdict(together, SECONDS, ' s')}; "
            f"longest command {command:.2f} ms ({name}); worst PING {ping:.2f} ms, {verdict(ping, PAUSE, ' ms')}."
        )
    say(
        "All turns do the same work, and what else the machine does can only add to their times. So the least of the "
        "turns' figures bounds what the work itself takes; that of a PING as far as PINGs came while the server was "
        "busy, of which the table says how many there were. " + " ".join(said)
    )


def _on_local(crowd: Crowd, times: int) -> None:
    title("On `local:`", 3)
    say("A second process writes a record of its own every half a millisecond.")
    rows: list[tuple[str, ...]] = []
    with in_memory() as place:
        store = LocalStore(place / "store", sync=False)
        put_into_local(store, crowd.other_logins())
        manager = SessionManager(store, clock=_now)
        with writing(store.path) as alone:
            _spin(0.5)
        rows.append(("nobody lists", "", "", *_waits(alone.written), ""))
        for _ in range(times):
            put_into_local(store, crowd.logins())
            with writing(store.path) as rival:
                took = _timed(crowd, *_turn(manager))
            rows.append((*took.cells(), *_waits(rival.written), _verdict(took, rival.written)))
            check(all(store.load(key_of(number)) for number in crowd.other_numbers[::50]), "another session is gone")
        store.close()
    heads = ("list, s", "revoke, s", "CPU, s", "writes beside", "p99, ms", "longest write, ms")
    table((*heads, "goal"), rows)


def _now() -> float:
    return NOW


# -- a turn ------------------------------------------------------------------------------------------------------


def _turn(manager: SessionManager) -> tuple[List, Revoke]:
    return lambda: manager.of(PRINCIPAL), lambda: manager.revoke(PRINCIPAL)


def _async_turn(manager: SessionManager, runner: asyncio.Runner) -> tuple[List, Revoke]:
    return lambda: runner.run(manager.aof(PRINCIPAL)), lambda: runner.run(manager.arevoke(PRINCIPAL))


def _timed(crowd: Crowd, list_all: List, revoke: Revoke) -> Took:
    """List and revoke."""
    cpu, start = time.process_time(), time.perf_counter()
    listed = list_all()
    middle = time.perf_counter()
    ended = revoke()
    end = time.perf_counter()
    cpu = time.process_time() - cpu
    check(len(listed) == crowd.many, f"{len(listed)} sessions are listed, not {crowd.many}")
    check(ended == crowd.many, f"{ended} sessions were revoked, not {crowd.many}")
    check(not list_all(), "a revoked session is still listed")
    return Took(middle - start, end - middle, cpu)


def _spin(seconds: float) -> None:
    """Use the processor."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


def _waits(waited: Times) -> tuple[str, str, str]:
    return f"{waited.calls:,}", f"{waited.p99 / 1000:.2f}", f"{waited.longest / 1000:.2f}"


def _verdict(took: Took, others: Times) -> str:
    waited = others.longest / 1000
    return f"{took.together:.2f} s, {verdict(took.together, SECONDS, ' s')}; {verdict(waited, PAUSE, ' ms')}"


def _longest(server: RedisServer) -> tuple[float, str]:
    noted: Any = server.admin.slowlog_get(MOST_NOTED)
    took = [(entry["duration"] / 1000, entry["command"].split(b" ")[0].decode()) for entry in noted]
    asked = [entry for entry in took if entry[1] not in ("SLOWLOG", "CONFIG", "INFO")]
    return max(asked, default=(NOTED / 1000, "or less"))


def _check_redis(server: RedisServer, crowd: Crowd) -> None:
    names: Any = server.admin.keys("sojourn:" + "?" * 64)
    check(len(names) == crowd.others, f"{len(names)} sessions are left of {crowd.others} others")


if __name__ == "__main__":
    report("--quick" in sys.argv)
