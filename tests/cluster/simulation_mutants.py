"""Replication as it is often built: each mutant breaks one rule of a whole host, and the checkers must reject it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

from sojourn.cluster import worker
from sojourn.cluster.comparing import Comparing
from sojourn.cluster.log import Verdict, Waiters
from sojourn.cluster.questions import Questions
from sojourn.cluster.replica import Replica
from sojourn.cluster.shipping import Flow, Shipping
from sojourn.cluster.tables import Done
from sojourn.cluster.waiting import Waiting
from sojourn.cluster.wire import Changes
from sojourn.core.ops import Written
from sojourn.store.peers import tables_merge, tables_rows, tables_verbs
from sojourn.store.peers.tables_rows import Rows
from sojourn.testing.sim_host import SimTables
from sojourn.testing.simulation import Shape

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
    with patch.object(Waiting, "_count", lambda self, verdict: None):
        yield


@mutant
def lets_a_renewed_session_outlive_its_logout() -> Iterator[None]:
    """A logout on one host ends the old id, while the session goes on under the one that another host gave it."""
    with patch.object(tables_merge, "to_end", lambda *copies: frozenset[bytes]()):
        yield


SHAPES["lets_a_renewed_session_outlive_its_logout"] = Shape(acks=0, faults=6, browsers=10, acts=(20, 20, 12, 12, 0, 0))
SHAPES["merges_whole_records"] = Shape(faults=6, browsers=8, acts=(20, 75, 0, 0, 0, 0))
SHAPES["believes_what_others_have_seen"] = Shape(faults=6, browsers=10, acts=(45, 55, 0, 0, 0, 0))
SHAPES["forgets_what_was_wanted"] = Shape(hosts=5, copies=2, faults=5, rounds=2, seconds=8.0, requests=18)
SHAPES["leaves_no_tombstones"] = Shape(faults=3, acts=(40, 30, 15, 5, 4, 6))
SHAPES["acknowledges_by_the_cursor"] = Shape(piece=1, faults=5, browsers=8, requests=30)
SHAPES["makes_deltas_since_the_cursor"] = Shape(piece=1, faults=5, browsers=8, requests=30)
