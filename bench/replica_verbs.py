"""A read and a commit of the replicating store beside those of the local one, call by call in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.operations import Visit
from bench.places import in_memory
from bench.rounds import check
from bench.sessions import NOW, Records, key_of
from sojourn import SessionManager
from sojourn.connect import connect
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.store.local import LocalStore

CALLS = 200  # of each in a round
SESSIONS = 500
LIFE = 3600.0  # seconds


class Beside(NamedTuple):
    """Medians of the rounds' medians in microseconds, and of the ratios within a round."""

    ours: float
    theirs: float
    ratio: float

    def cells(self) -> tuple[str, str, str]:
        """Return it as cells of a table."""
        return f"{self.ours:.1f}", f"{self.theirs:.1f}", f"{self.ratio:.2f}"


class Verbs(NamedTuple):
    """What is done on both stores."""

    load: Beside
    update: Beside
    commit: Beside
    """A whole session: opened by its cookie, read, changed and committed."""


def verbs(url: str, rounds: int) -> Verbs:
    """Return what is done on the host of *url*, which waits for nobody, beside ``local:``."""
    peers: Any = connect(url)
    with in_memory() as place:
        local = LocalStore(place / "local")
        filled = _fill(peers.blocking, local)
        visits = Visit(SessionManager(peers)), Visit(SessionManager(local))
        loads = [_round(peers.blocking, local, _load, filled, number) for number in range(rounds)]
        updates = [_round(peers.blocking, local, _update, filled, number) for number in range(rounds)]
        commits = [_round(*visits, _commit, filled, number) for number in range(rounds)]
        local.close()
        peers.blocking.close()
    return Verbs(_beside(loads), _beside(updates), _beside(commits))


Filled = list[tuple[bytes, Record]]
Call = Callable[[Any, bytes, Record, int], object]


def _fill(*stores: Any) -> Filled:
    records, now, filled = Records(), time.time(), []
    for number in range(SESSIONS):
        record = records.make(number, NOW)._replace(created_at=now, accessed_at=now, expires_at=now + LIFE)
        filled.append((key_of(number), record))
        for store in stores:
            check(store.create(*filled[-1]) is Written.DONE, "a session begins")
    return filled


def _round(peers: Any, local: Any, call: Call, filled: Filled, number: int) -> tuple[float, float]:
    """Return the medians of single calls on both, in microseconds; every second round the other one begins."""
    took: dict[int, list[int]] = {0: [], 1: []}
    for turn in range(CALLS):
        key, record = filled[(number * CALLS + turn) % SESSIONS]
        version = 1 + (number * CALLS + turn) // SESSIONS
        for which in (0, 1) if (number + turn) % 2 else (1, 0):
            start = time.perf_counter_ns()
            call((peers, local)[which], key, record, version)
            took[which].append(time.perf_counter_ns() - start)
    return statistics.median(took[0]) / 1000, statistics.median(took[1]) / 1000


def _load(store: Any, key: bytes, record: Record, version: int) -> object:
    return store.load(key)


def _update(store: Any, key: bytes, record: Record, version: int) -> object:
    values = {**record.values, "count": version.to_bytes(8, "big")}
    done = store.update(key, record._replace(values=values, version=version + 1), version)
    check(done is Written.DONE, "an update is done")
    return done


def _commit(visit: Visit, key: bytes, record: Record, version: int) -> object:
    return visit.write()


def _beside(rounds: list[tuple[float, float]]) -> Beside:
    ours, theirs = zip(*rounds, strict=True)
    ratios = [one / other for one, other in rounds]
    return Beside(statistics.median(ours), statistics.median(theirs), statistics.median(ratios))
