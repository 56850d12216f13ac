"""Sweeping expired sessions out of a full store: how long the write lock is held, who waits, what the file does."""

from __future__ import annotations

import time

from bench import rival
from bench.filled import Filled
from bench.sessions import Times
from bench.table import say, table, title, verdict
from sojourn.store.local import SWEEP_BATCH

CYCLES = 12  # more than there are generations, so that every session has been replaced
GOAL_LOCK_MS = 5.0


def report(filled: Filled, expired: int) -> None:
    """Sweep the oldest generation and create a new one, again and again; print the tables."""
    title("Sweep", 3)
    say(
        f"{expired:,} expired sessions, the oldest ones, are swept in calls of at most {SWEEP_BATCH}, one transaction "
        f"each and without a pause; then as many new ones are created. This is done {CYCLES} times; each second time "
        "another process writes a record of its own every half a millisecond meanwhile. No call can hold the write "
        "lock longer than it takes."
    )
    rows: list[tuple[object, ...]] = []
    sizes = [("filled", "", filled.size())]
    waits = [("nobody", _rival_alone(filled, 2.0))]
    for cycle in range(1, CYCLES + 1):
        rows.append(_sweep(filled, cycle, waits))
        swept = filled.size()
        filled.fill(expired)
        sizes.append((f"cycle {cycle}", swept, filled.size()))
    heads = ("sweep", "in all, s", "a call: p50, ms", "p99, ms", "longest, ms", "longest, CPU ms", "the longest")
    table(heads, rows)
    _say_waits(waits)
    say("The file never shrinks. Pages that a sweep frees are used again, but new keys fill them less tightly.")
    table(("when", "file after the sweep, MiB", "after the refill, MiB"), sizes)


def _sweep(filled: Filled, cycle: int, waits: list[tuple[str, Times]]) -> tuple[object, ...]:
    """Sweep once, alone or not; add what another process waited to *waits*; return a row."""
    name = f"{cycle}, alone"
    if cycle % 2:
        wall, cpu = filled.sweep()
    else:
        name = f"{cycle}, another writes"
        with rival.writing(filled.path) as other:
            wall, cpu = filled.sweep()
        waits.append((f"sweep {cycle}", other.written))
    longest = wall.longest / 1000
    cells = f"{wall.total:.2f}", f"{wall.p50 / 1000:.3f}", f"{wall.p99 / 1000:.3f}", f"{longest:.2f}"
    return name, *cells, f"{cpu.longest / 1000:.2f}", verdict(longest, GOAL_LOCK_MS, " ms")


def _say_waits(waits: list[tuple[str, Times]]) -> None:
    say("The other process, what each of its writes took, waiting included:")
    rows = [
        (who, f"{took.calls:,}", f"{took.p50:.1f}", f"{took.p99:.1f}", f"{took.p999:.1f}", f"{took.longest:,.0f}")
        for who, took in waits
    ]
    table(("meanwhile sweeps", "writes", "p50, µs", "p99, µs", "p99.9, µs", "longest, µs"), rows)


def _rival_alone(filled: Filled, seconds: float) -> Times:
    with rival.writing(filled.path) as other:
        time.sleep(seconds)
    return other.written
