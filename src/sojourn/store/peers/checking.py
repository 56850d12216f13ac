"""Checking: what no host of this protocol says is refused before anything of it is stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from sojourn.cluster.clock import ORIGIN_BYTES, ZERO, milliseconds
from sojourn.cluster.replica import Replica
from sojourn.cluster.wire import Change, Listing, Progress
from sojourn.store.peers import wholes
from sojourn.store.peers.wholes import Whole

AHEAD = 24 * 3600 * 1000  # milliseconds that another host's clock may be ahead
_LARGEST = 1 << 63  # times, versions: such numbers do not fit into the storage
_KEY = 32


class Checked(NamedTuple):
    """What was found in changes that are about to be stored."""

    latest: int
    """The latest time of a write or a touch."""
    wholes: Mapping[bytes, Whole | None]
    """The copies that came as they lay in another host's storage, by key; None: damaged."""


def check(changes: Collection[Change], now_ms: int) -> Checked:
    """Look through *changes* before anything of them is stored.

    Raises ValueError for what cannot be stored, or is ahead of the wall clock by more than a day.
    """
    latest, found = 0, dict[bytes, Whole | None]()
    for change in changes:
        listing, replica = change.listing, change.replica
        if len(change.name) != (2 * _KEY if listing else _KEY):
            raise ValueError("a change under a name that cannot be")
        if bool(change.packed) + (listing is not None) + (replica is not None) != 1:
            raise ValueError("a change of nothing, or of two things, which cannot be")
        if change.packed:
            whole = found[change.name] = wholes.read(change.name, change.packed)
            latest = max(latest, whole.latest if whole else 0)
        elif listing:
            latest = max(latest, _check_listing(listing))
        elif replica:
            latest = max(latest, _check_replica(replica, complete=change.complete))
    _check_ahead(latest, now_ms)
    return Checked(latest, found)


def check_progress(progress: Progress, now_ms: int, *, own: bool) -> None:
    """Raise ValueError for what is no place in a log, or none that the *own* log can have come to by now."""
    if not (0 <= min(progress) <= max(progress) < _LARGEST):
        raise ValueError("a progress that cannot be")
    if own:  # this host's stamps will be later
        _check_ahead(max(progress), now_ms)


def _check_ahead(time: int, now_ms: int) -> None:
    if milliseconds(time) > now_ms + AHEAD:
        raise ValueError(
            "a stamp more than a day ahead of this host's clock: set the clocks of both hosts right, and if theirs was "
            "ahead when it wrote, empty its directory: what it had stamped stays ahead"
        )


def _check_listing(listing: Listing) -> int:
    """Return its time."""
    if not (len(listing.origin) == ORIGIN_BYTES and 0 < listing.time < _LARGEST and 0 <= listing.until_ms < _LARGEST):
        raise ValueError("an entry of the index that cannot be")
    return listing.time


def _check_replica(replica: Replica, *, complete: bool) -> int:
    """Return the latest time of a write or a touch in *replica*."""
    cells, head, (touch, accessed, expires), seen, retired, deleted, _ = replica
    times, version = [touch.time], 0
    fits = touch == ZERO or len(touch.origin) == ORIGIN_BYTES
    for origin, (time, writes) in seen.items():
        fits = fits and writes >= 0 and len(origin) == ORIGIN_BYTES
        times.append(time)
        version += writes
    for (time, origin), _ in cells.values():
        fits = fits and origin in seen and 0 <= time <= seen[origin].time
    numbers = [*times, version, head.created_ms, accessed, expires]
    for end in (retired, deleted):
        numbers += (end.keep_ms, end.stamp.time) if end else ()
    if retired:
        numbers.append(retired.expires_ms)
        fits = fits and len(retired.successor or _NO_KEY) == _KEY
    if not fits or min(numbers) < 0 or max(numbers) >= _LARGEST or (complete and not seen):
        raise ValueError("a session that cannot be")
    return max(times)


_NO_KEY = bytes(_KEY)
