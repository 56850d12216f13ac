"""What a call of a store on a session server costs, beside the raw driver asked for the same bytes on the same one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from tests.servers.memcached import MemcachedServer
from tests.servers.redis import RedisServer

from bench import server_memcached, server_redis
from bench.counting import Call, Counting
from bench.quiet import without_advice
from bench.rounds import Rounds, interleave
from bench.server_calls import CALLS, EACH, FRAME, TASKS
from bench.table import say, table, title, verdict


def report(quick: bool = False) -> None:
    """Print the tables."""
    title("Session servers")
    say(
        f"A record whose frame has {FRAME} bytes, and the raw driver with the same bytes. A store also names the key, "
        "packs the frame or opens and verifies it, and keeps a deadline and bounds. An update succeeds only if the "
        "record has the version that was read; a raw set is blind. The CPU time is that of the calling process with "
        "its system calls, not the server's. The server counts the commands of each batch, and any that the table does "
        "not name stops the run. All rows of a table take turns in each round; median and quartiles of all rounds, and "
        "the least of any round, which others disturbed least."
    )
    rounds = 12 if quick else 200
    with without_advice(), asyncio.Runner() as runner:
        with RedisServer() as redis:
            _redis(redis, runner, rounds)
        with MemcachedServer() as memcached:
            _memcached(memcached, runner, rounds)


def _redis(server: RedisServer, runner: asyncio.Runner, rounds: int) -> None:
    info: Any = server.admin.info("server")
    title("Redis, blocking", 3)
    say(
        f"Redis {info['redis_version']}, redis-py {version('redis')}, hiredis {version('hiredis')}; one thread. "
        "In parentheses what a script calls inside of the server."
    )
    with server_redis.blocking(server) as calls:
        _measure(server, calls, CALLS, rounds)
    title("Redis, on an event loop", 3)
    say(
        f"asyncio's own loop and {TASKS} tasks at once, each with a session of its own. The floor is an asyncio "
        "Protocol with hiredis that sends by one write what the tasks ask in one turn of the loop; it has no deadline, "
        "no bound and no answer to a lost connection, and it does not open what it got. The goal of 25 µs was set "
        "where the floor took 7 to 9, so it is also given as a multiple: that one holds on slower or busier machines."
    )
    with server_redis.on_loop(server, runner) as calls:
        _measure(server, calls, TASKS * EACH, rounds)


def _memcached(server: MemcachedServer, runner: asyncio.Runner, rounds: int) -> None:
    title("memcached, blocking", 3)
    say(
        f"memcached {server.stats()['version']}, pymemcache {version('pymemcache')} as PooledClient with a timeout. "
        "An update asks twice: for the version, and to swap. memcached counts the latter as a set, too."
    )
    with server_memcached.blocking(server) as calls:
        _measure(server, calls, CALLS, rounds)
    title("memcached, on an event loop", 3)
    say(
        f"asyncio's own loop and {TASKS} tasks at once; aiomcache {version('aiomcache')} with {TASKS} connections. "
        "The floor is as above, with the parser of a get alone. The goals are those of Redis."
    )
    with server_memcached.on_loop(server, runner) as calls:
        _measure(server, calls, TASKS * EACH, rounds)


def _measure(server: Counting, calls: Sequence[Call], times: int, rounds: int) -> None:
    measured = interleave({call.name: call.counted(server, times) for call in calls}, rounds)
    heads = ("call", "commands", "CPU µs", "least, µs", "µs on the wall", "CPU, times that of", "goal")
    table(heads, [_row(call, measured) for call in calls])


def _row(call: Call, measured: Rounds) -> tuple[object, ...]:
    cpu, said = measured.cpu(call.name), []
    ratio = measured.ratio(call.name, call.raw) if call.raw else None
    if ratio and call.ratio:
        said.append(verdict(ratio.median, round(call.ratio, 2), " times"))
    if call.microseconds:
        said.append(verdict(cpu.median, call.microseconds, " µs"))
    compared = f"{call.raw}: {ratio}" if ratio else ""
    least = f"{measured.least(call.name):.1f}"
    return call.name, call.said(), cpu, least, measured.wall(call.name), compared, "; ".join(said)


if __name__ == "__main__":
    report("--quick" in sys.argv)
