"""Forgeries: cookies with floors that no host has given out, as somebody makes them up who has read the source."""

from __future__ import annotations

from random import Random

from sojourn.cluster.clock import ORIGIN_BYTES, TIME_BYTES
from sojourn.cluster.replica import MOST_MARKS
from sojourn.core import floor
from sojourn.core.floor import Presented

ENTRY = ORIGIN_BYTES + TIME_BYTES
LATEST = (1 << 8 * TIME_BYTES) - 1


def forged(random: Random, presented: Presented) -> Presented | None:
    """Return what a host reads out of a cookie with the id that is *presented*, and a floor that was made up."""
    make = random.choice((_raised, _strange, _too_many, _bytes, _text))
    return floor.parse(make(random, presented))


def _raised(random: Random, presented: Presented) -> str:
    """The hosts that have written to the session, with later times, some so late that nobody has such a clock."""
    entries = [presented.floor[at : at + ENTRY] for at in range(0, len(presented.floor), ENTRY)] or [bytes(ENTRY)]
    raised = [
        entry[:ORIGIN_BYTES] + _time(int.from_bytes(entry[ORIGIN_BYTES:], "big") + random.choice((1, 1 << 30, LATEST)))
        for entry in entries
    ]
    return floor.spell(presented.id, b"".join(raised))


def _strange(random: Random, presented: Presented) -> str:
    """What was seen, and a write of a host that never was."""
    entry = random.randbytes(ORIGIN_BYTES) + _time(random.choice((1, 1 << 40, LATEST)))
    return floor.spell(presented.id, presented.floor + entry)


def _too_many(random: Random, presented: Presented) -> str:
    """As many hosts as a floor may name, or one more."""
    return floor.spell(presented.id, random.randbytes((MOST_MARKS + random.randint(0, 1)) * ENTRY))


def _bytes(random: Random, presented: Presented) -> str:
    return floor.spell(presented.id, random.randbytes(random.randint(1, 40)))


def _text(random: Random, presented: Presented) -> str:
    text = "".join(chr(random.randint(33, 500)) for _ in range(random.randint(0, 30)))
    return f"{presented.id.public}{floor.MARK}{text}"


def _time(time: int) -> bytes:
    return min(time, LATEST).to_bytes(TIME_BYTES, "big")
