"""A worker process of a host: counts up in sessions of its own, at a pace or as fast as it goes, and says what it took.

    python -m bench.replica_worker URL SESSIONS TASKS RATE SECONDS

It runs on uvloop, as servers do. It prints ``ready``, waits for a line on its input, works, and prints a line of JSON.
RATE is writes a second over all tasks; 0 does not pause.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from itertools import count, islice
from typing import Any

import uvloop

from bench.rounds import check
from bench.sessions import NOW, Records
from sojourn import Codec
from sojourn.connect import connect
from sojourn.core.ops import Written
from sojourn.core.record import Record

LIFE = 3600.0  # seconds


def main() -> None:
    """Work, and print what it took."""
    url, sessions, tasks, rate, seconds = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_work(url, int(sessions), int(tasks), float(rate), float(seconds)))))


async def _work(url: str, sessions: int, tasks: int, rate: float, seconds: float) -> dict[str, Any]:
    pair: Any = connect(url)
    store = pair.loop
    own = (key for key in map(_key, count()) if pair.places(key))  # a manager draws ids that its host keeps, too
    visitors = [await _visitor(store, key, number) for number, key in enumerate(islice(own, sessions))]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    took: list[int] = []
    begun, cpu = time.perf_counter(), time.process_time()
    shares = [visitors[number::tasks] for number in range(tasks)]
    pace = tasks / rate if rate else 0.0
    await asyncio.gather(
        *(
            _count(store, share, number * pace / tasks, begun, pace, seconds, took)
            for number, share in enumerate(shares)
        )
    )
    elapsed = time.perf_counter() - begun
    return {"took_ns": took, "seconds": elapsed, "cpu": time.process_time() - cpu}


class Visitor:
    """One session, and the counter in it."""

    def __init__(self, key: bytes, record: Record) -> None:
        self.key, self.record = key, record
        self.count = 0

    async def write(self, store: Any) -> None:
        """Count up."""
        self.count += 1
        values = {**self.record.values, "count": _encode(self.count)}
        after = self.record._replace(values=values, version=self.record.version + 1)
        check(await store.update(self.key, after, self.record.version) is Written.DONE, "a write is done")
        self.record = after


def _key(number: int) -> bytes:
    return hashlib.sha256(b"%d of %d" % (number, os.getpid())).digest()


async def _visitor(store: Any, key: bytes, number: int) -> Visitor:
    now = time.time()
    record = _records.make(number, NOW)._replace(created_at=now, accessed_at=now, expires_at=now + LIFE)
    check(await store.create(key, record) is Written.DONE, "a session begins")
    return Visitor(key, record)


async def _count(
    store: Any, visitors: list[Visitor], first: float, begun: float, pace: float, seconds: float, took: list[int]
) -> None:
    number = 0
    while (now := time.perf_counter() - begun) < seconds:
        if pace and (early := first + number * pace - now) > 0:
            await asyncio.sleep(early)
        start = time.perf_counter_ns()
        await visitors[number % len(visitors)].write(store)
        took.append(time.perf_counter_ns() - start)
        number += 1


_records = Records()
_encode = Codec().encode

if __name__ == "__main__":
    main()
