"""A million sessions of 1 KB in the local store: creates, reads, the sweep and the size of the file."""

from __future__ import annotations

import statistics
import sys

from bench import sweeping
from bench.filled import READS, Filled
from bench.places import in_memory
from bench.sessions import FRAME, Times
from bench.table import say, table, title, verdict

GENERATIONS = 10  # of as many sessions; all of one have their deadlines before the next
ROUNDS = 7
GOAL_GROWTH = 3


def report(quick: bool = False) -> None:
    """Print the tables."""
    many = 50_000 if quick else 1_000_000
    few = many // 100
    title(f"{many:,} sessions")
    say(
        f"Each frame has {FRAME} bytes. The store is in memory-backed storage. Each call is timed on the wall: "
        "whatever else the machine does at that moment is in the longest times, and in p99 when there is much of it."
    )
    with in_memory() as place:
        filled = Filled(place / "store", many // GENERATIONS)
        rows, reads = _fill_and_read(filled, few, many)
        _say_creates(rows)
        _say_reads(reads, few, many)
        sweeping.report(filled, many // GENERATIONS)
        filled.store.close()


Reads = dict[tuple[int, str], list[Times]]


def _fill_and_read(filled: Filled, few: int, many: int) -> tuple[list[tuple[object, ...]], Reads]:
    """Fill in three steps; read at the first and at the last."""
    rows: list[tuple[object, ...]] = []
    reads: Reads = {}
    done = 0
    for upto in (few, many // 10, many):
        took = filled.fill(upto - done)
        cells = f"{took.p50:.1f}", f"{took.p99:.1f}", f"{took.longest:,.0f}", filled.size()
        rows.append((f"{done:,} to {upto:,}", *cells))
        if upto in (few, many):
            reads[upto, "load"] = [filled.read() for _ in range(ROUNDS)]
            reads[upto, "raw"] = [filled.read_raw() for _ in range(ROUNDS)]
        done = upto
    return rows, reads


def _say_creates(rows: list[tuple[object, ...]]) -> None:
    title("Create", 3)
    table(("sessions", "p50, µs", "p99, µs", "longest, µs", "file afterwards, MiB"), rows)


def _say_reads(reads: Reads, few: int, many: int) -> None:
    title("Get", 3)
    say(f"{READS:,} sessions at random in each of {ROUNDS} rounds; medians of the rounds' percentiles.")
    middle = {
        case: (statistics.median(t.p50 for t in rounds), statistics.median(t.p99 for t in rounds))
        for case, rounds in reads.items()
    }
    names = {"load": "store.load", "raw": "the driver's get, for comparison"}
    rows = []
    for way, name in names.items():
        (p50, p99), (late50, late99) = middle[few, way], middle[many, way]
        rows.append((name, f"{p50:.2f}", f"{late50:.2f}", f"{p99:.2f}", f"{late99:.2f}", f"{late99 / p99:.2f}"))
    heads = ("call", f"p50 at {few:,}, µs", f"p50 at {many:,}", f"p99 at {few:,}", f"p99 at {many:,}", "p99 ratio")
    table(heads, rows)
    growth = middle[many, "load"][1] / middle[few, "load"][1]
    say(f"p99 of store.load grows {growth:.2f} times; {verdict(growth, GOAL_GROWTH, ' times')}.")


if __name__ == "__main__":
    report("--quick" in sys.argv)
