"""Replication as it is often built: each mutant breaks one rule of a whole host, and the checkers must reject it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

from sojourn.cluster import worker
from sojourn.cluster.clock import Stamp, milliseconds
from sojourn.cluster.comparing import Comparing
from sojourn.cluster.questions import Questions
from sojourn.cluster.replica import Mark, Replica, Times, missing
from sojourn.cluster.shipping import Flow, Shipping
from sojourn.cluster.tables import Applied, Done
from sojourn.cluster.waiters import Verdict, Waiters
from sojourn.cluster.waiting import Waiting
from sojourn.cluster.wire import Change, Changes, Listing
from sojourn.core.capability import Page
from sojourn.core.ops import Written
from sojourn.core.policy import DAY, Policy
from sojourn.errors import StoreUnavailable
from sojourn.store.peers import tables_merge, tables_rows, tables_verbs
from sojourn.store.peers.packing import places_of
from sojourn.store.peers.tables_rows import Rows
from sojourn.testing.sim_host import SimTables
from sojourn.testing.sim_shape import Shape

MUTANTS: dict[str, Callable[[], Any]] = {}
SHAPES: dict[str, Shape] = {}
"""Of mutants that show only where browsers do what is seldom otherwise."""

Mutant = Callable[[], Iterator[None]]


def mutant(make: Mutant) -> Mutant:
    MUTANTS[make.__name__] = contextmanager(make)
    return make


@mutant
def leaves_no_tombstones() -> Iterator[None]:
    """What is deleted is gone, and comes back with the next copy from elsewhere."""

    def delete(rows: Rows, key: bytes, base: int | None = None) -> Done:
        stored = rows.get(key)
        if stored is None or not stored.shown:
            return Done(Written.GONE)
        rows.drop(key, stored)
        return Done(Written.DONE, 0)

    with patch.object(tables_verbs, "delete", delete):
        yield


@mutant
def believes_the_wall_clock() -> Iterator[None]:
    """A write is stamped with the time of day, whatever stamps the host has seen."""
    numbers = count()
    with patch.object(tables_rows, "tick", lambda last, now_ms: (now_ms << 16) + next(numbers) % 65_536):
        yield


@mutant
def skips_entries_of_the_log() -> Iterator[None]:
    """The cursor passes one entry in seven, which is not sent."""
    real, numbers = tables_merge.piece, count()

    def piece(*arguments: Any) -> Changes:
        changes = real(*arguments)
        sent = tuple(change for change in changes.changes if next(numbers) % 7)
        return Changes(changes.origin, changes.cut, changes.progress, sent, changes.after)

    with patch.object(tables_merge, "piece", piece):
        yield


@mutant
def merges_whole_records() -> Iterator[None]:
    """The copy with the later write wins, with all its values."""
    real = tables_merge.merge

    def merge(one: Replica, other: Replica) -> Replica:
        first, last = sorted((one, other), key=lambda replica: replica.times.stamp)
        merged = real(first, last)
        return merged if merged.deleted or merged.retired else merged._replace(cells=last.cells)

    with patch.object(tables_merge, "merge", merge), patch.object(tables_merge, "since", lambda replica, cut: replica):
        yield


@mutant
def acknowledges_by_the_cursor() -> Iterator[None]:
    """A write counts as stored once the other has read so far in the log, even where it began in its midst."""

    def level(self: Shipping, name: str) -> int:
        return self.flows[name].read.cursor if name in self.flows else 0

    with patch.object(Shipping, "level", level):
        yield


@mutant
def ignores_the_floor() -> Iterator[None]:
    """A host serves what it has, whatever the browser has seen."""
    real = worker.load_seen

    def load_seen(tables: Any, settings: Any, key: bytes, floor: bytes) -> worker.Talk[Any]:
        return real(tables, settings, key, b"")

    with patch.object(worker, "load_seen", load_seen):
        yield


@mutant
def serves_what_it_has_when_nobody_answers() -> Iterator[None]:
    """A question that nobody could answer counts as answered."""
    nobody = patch.object(Questions, "_is_away", lambda self, origin, question: False)
    with nobody, patch.object(Questions, "_all_answered", lambda self, question: True):
        yield


@mutant
def takes_anybodys_word_that_there_was_no_write() -> Iterator[None]:
    """A host that knows nothing of a write proves that there was none, whether or not it would have it."""
    with patch.object(Questions, "_would_have", lambda self, name, origin, time: True):
        yield


@mutant
def never_compares_copies() -> Iterator[None]:
    """There is no anti-entropy: what was on the dead host's way stays on one survivor."""
    with patch.object(Comparing, "go_on", lambda self: None):
        yield


@mutant
def makes_deltas_since_the_cursor() -> Iterator[None]:
    """A delta holds what is later than what was read last, not than what is surely stored."""
    real = SimTables.log

    def log(self: SimTables, origin: bytes, cursor: int, cut: int, *rest: Any) -> Changes:
        return real(self, origin, cursor, max(cursor, cut), *rest)

    with patch.object(SimTables, "log", log):
        yield


@mutant
def believes_what_others_have_seen() -> Iterator[None]:
    """A delta out of one host's log counts as holding the other hosts' writes, too."""
    with patch.object(tables_merge, "received", lambda stored, delta, *rest: tables_merge.merge(stored, delta)):
        yield


@mutant
def forgets_what_was_wanted() -> Iterator[None]:
    """Where only a delta came and nothing was there, nothing is sent whole."""

    def complete(self: Shipping, flow: Flow, sent: Changes, wanted: tuple[bytes, ...]) -> None:
        self._send(flow, Changes(sent.origin, sent.cut, sent.progress, (), sent.after))

    with patch.object(Shipping, "_complete", complete):
        yield


@mutant
def acknowledges_at_once() -> Iterator[None]:
    """Nobody waits for other hosts, and everybody is told that they have it."""

    def add(self: Waiters[Any], who: Any, time: int, needed: int, *rest: Any) -> Verdict[Any]:
        return Verdict(who, needed, True)

    with patch.object(Waiters, "add", add):
        yield


@mutant
def does_not_count_what_has_too_few_copies() -> Iterator[None]:
    """Nobody learns that writes are on one host only."""
    with patch.object(Waiting, "count", lambda self, writes: None):
        yield


@mutant
def lets_a_renewed_session_outlive_its_logout() -> Iterator[None]:
    """A logout on one host ends the old id, while the session goes on under the one that another host gave it."""
    with patch.object(tables_merge, "to_end", lambda *copies: frozenset[bytes]()):
        yield


@mutant
def gives_a_session_at_its_second_place_only() -> Iterator[None]:
    """What stands at two places of a piece is given at the second, which may go before the next piece is read."""

    def change(rows: Rows, name: bytes, origin: bytes, cursor: int, time: int, cut: int) -> Change | None:
        stored = rows.get(name, cut)
        if stored is None or isinstance(stored.entry, Listing):
            return real(rows, name, origin, cursor, time, cut)
        if time != max(place.time for place in places_of(stored.entry) if place.origin == origin):
            return None
        delta = tables_merge.since(stored.entry, cut)
        return Change(name, time, stored.whole and delta is stored.entry, delta)

    real = tables_merge._change
    with patch.object(tables_merge, "_change", change):
        yield


@mutant
def acknowledges_what_it_could_not_store() -> Iterator[None]:
    """Where the storage fails in the midst of a piece the rest of it is passed over."""
    real = SimTables.store

    def store(self: SimTables, changes: Changes) -> Applied:
        try:
            return real(self, changes)
        except StoreUnavailable:
            self.writing(lambda rows: rows.advance(changes.origin, changes.progress))
            return Applied()

    with patch.object(SimTables, "store", store):
        yield


@mutant
def sweeps_tombstones_early() -> Iterator[None]:
    """That a session was ended is remembered until the next sweep."""

    def ended(stored: Replica, stamp: Stamp, keep_ms: int, *, alone: bool = False) -> Replica:
        return real(stored, stamp, milliseconds(stamp.time), alone=alone)

    real = tables_verbs.ended
    with patch.object(tables_verbs, "ended", ended):
        yield


@mutant
def shows_what_is_not_swept_yet() -> Iterator[None]:
    """A session lives for as long as it is stored."""
    with patch.object(Policy, "is_live", lambda self, record, now: True):
        yield


@mutant
def sweeps_what_was_looked_at_since() -> Iterator[None]:
    """A session is buried at the deadline that was noted first, whatever has moved it."""

    def look_at(rows: Rows, name: bytes, until_ms: int) -> None:
        if stored := rows.get(name):
            rows.bury(name, stored)

    with patch.object(tables_rows, "_look_at", look_at):
        yield


@mutant
def forgets_the_last_of_many() -> Iterator[None]:
    """Of many sessions that are ended at once the last is taken away, and no tombstone is left."""
    real = tables_verbs.delete_many

    def delete_many(rows: Rows, keys: Sequence[bytes]) -> Done:
        done = real(rows, keys[:-1])
        if stored := rows.get(keys[-1]):
            rows.drop(keys[-1], stored)
        return Done(done.answer + bool(stored), done.time)

    with patch.object(tables_verbs, "delete_many", delete_many):
        yield


@mutant
def finds_the_first_page_only() -> Iterator[None]:
    """Who looks for all sessions of a principal is told that there are no more after the first ones."""
    real = tables_verbs._page

    def page(*arguments: Any, **named: Any) -> Page:
        return real(*arguments, **named)._replace(cursor=None)

    with patch.object(tables_verbs, "_page", page):
        yield


@mutant
def keeps_what_a_floor_names() -> Iterator[None]:
    """A floor is believed: what the browser has seen there must be somewhere, so a place is kept for it."""
    real = worker.load_seen

    def load_seen(tables: Any, settings: Any, key: bytes, floor: bytes) -> worker.Talk[Any]:
        record = yield from real(tables, settings, key, floor)
        if tables.replica(key) is None and (lacking := missing(floor, None)):
            now = tables.now_ms()
            seen = {origin: Mark(min(time, now << 16), 1) for origin, time in sorted(lacking.items())}
            times = Times(Stamp(now << 16, tables.origin), now, now + 3_600_000)
            tables.accept([Change(key, 1, True, Replica(times=times, seen=seen))])
        return record

    with patch.object(worker, "load_seen", load_seen):
        yield


@mutant
def takes_the_floor_for_the_time() -> Iterator[None]:
    """Writes are stamped later than what a browser says it has seen, as if a host had said so."""
    real = worker.load_seen

    def load_seen(tables: Any, settings: Any, key: bytes, floor: bytes) -> worker.Talk[Any]:
        latest = max(missing(floor, None).values(), default=0)
        tables.writing(lambda rows: rows.raise_clock(latest % (1 << 62)))
        return real(tables, settings, key, floor)

    with patch.object(worker, "load_seen", load_seen):
        yield


@mutant
def asks_as_often_as_it_is_asked() -> Iterator[None]:
    """Every floor that was made up causes a question to all other hosts."""
    with patch.object(Questions, "_too_many", lambda self, key, floor: False):
        yield


@mutant
def asks_again_what_has_its_answer() -> Iterator[None]:
    """A browser whose session is over has all hosts asked each time, until that is too often, and then sees 503."""
    with patch.object(Questions, "_settle", lambda self, name: None):
        yield


SHAPES["lets_a_renewed_session_outlive_its_logout"] = Shape(
    acks=0, faults=6, browsers=10, acts=(20, 20, 12, 12, 0, 0, 0, 0)
)
SHAPES["merges_whole_records"] = Shape(faults=6, browsers=8, acts=(20, 75, 0, 0, 0, 0, 0, 0))
SHAPES["believes_what_others_have_seen"] = Shape(faults=6, browsers=10, acts=(45, 55, 0, 0, 0, 0, 0, 0))
SHAPES["forgets_what_was_wanted"] = Shape(hosts=5, copies=2, faults=5, rounds=2, seconds=8.0, requests=18)
SHAPES["leaves_no_tombstones"] = Shape(faults=3, acts=(40, 30, 15, 5, 4, 6, 0, 0))
SHAPES["acknowledges_by_the_cursor"] = Shape(piece=1, faults=5, browsers=8, requests=30)
SHAPES["makes_deltas_since_the_cursor"] = Shape(piece=1, faults=5, browsers=8, requests=30)
SHAPES["gives_a_session_at_its_second_place_only"] = Shape(
    piece=1, acks=0, faults=1, browsers=10, requests=60, touch=0.02, delay=0.02, acts=(60, 40, 0, 0, 0, 0, 0, 0)
)
SHAPES["sweeps_tombstones_early"] = Shape(faults=5, acts=(40, 30, 15, 5, 4, 6, 0, 0))
ENDING: dict[str, Any] = {"idle": 1.0, "lifetime": 30 * DAY, "touch": 0.2, "jumps": (0.1,)}
SHAPES["shows_what_is_not_swept_yet"] = Shape(faults=2, **ENDING)
SHAPES["sweeps_what_was_looked_at_since"] = Shape(faults=2, **ENDING)
REVOKING = (30, 30, 0, 4, 12, 10, 8, 0)
SHAPES["forgets_the_last_of_many"] = Shape(faults=3, browsers=8, acts=REVOKING)
SHAPES["finds_the_first_page_only"] = Shape(faults=2, browsers=8, acts=REVOKING, small=True)
SHAPES["keeps_what_a_floor_names"] = Shape(faults=2, acts=(30, 40, 0, 0, 0, 0, 0, 20))
SHAPES["takes_the_floor_for_the_time"] = Shape(faults=2, acts=(30, 40, 0, 0, 0, 0, 0, 20))
SHAPES["asks_as_often_as_it_is_asked"] = Shape(faults=0, requests=60, forger=True)
SHAPES["asks_again_what_has_its_answer"] = Shape(faults=1, **ENDING)
SHAPES["acknowledges_what_it_could_not_store"] = Shape(faults=8, browsers=8, acts=(20, 80, 0, 0, 0, 0, 0, 0))
