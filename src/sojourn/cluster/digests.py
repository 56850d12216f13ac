"""Digests: one number for each bucket of names, for each other host: what both of them should hold.

A bucket is read once for all the others: when a host has gone, everybody is compared with everybody, and the owners of
each name need to be worked out once and not once a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sojourn.cluster.tables import BUCKETS, bucket_of

if TYPE_CHECKING:
    from sojourn.cluster.host import Host

FRESH = 0.5  # seconds for which a number may be used again; what was written meanwhile is on its way by the log
FEW = 2048  # names; of fewer it is looked first which buckets have any


class PairDigests:
    """The numbers of one host's buckets."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._kept: dict[int, tuple[float, dict[str, int]]] = {}
        """For each bucket when it was read, and its number for each host: under no name where all hold everything."""

    def clear(self) -> None:
        """Sessions belong on other hosts than before."""
        self._kept.clear()

    def of(self, peer: str, buckets: Sequence[int]) -> dict[int, int]:
        """Return the numbers of *buckets* for the host *peer*; *buckets* are in order."""
        earliest = self._host.now - FRESH
        self._read([bucket for bucket in buckets if bucket not in self._kept or self._kept[bucket][0] < earliest])
        name = "" if self._host.settings.copies is None else peer
        return {bucket: self._kept[bucket][1].get(name, 0) for bucket in buckets}

    def _read(self, buckets: Sequence[int]) -> None:
        used = self._used(buckets)
        for bucket in buckets:
            self._kept[bucket] = self._host.now, self._numbers(bucket) if bucket in used else {}

    def _used(self, buckets: Sequence[int]) -> Sequence[int] | set[int]:
        """Return the buckets that are not empty, or may not be."""
        if len(buckets) < BUCKETS // 4:
            return buckets
        names = self._host.tables.some_names(None, FEW)
        return {bucket_of(name) for name in names} if len(names) < FEW else buckets

    def _numbers(self, bucket: int) -> dict[str, int]:
        host = self._host
        numbers: dict[str, int] = {}
        for name, digest in host.tables.names(bucket).items():
            holders = ("",) if host.settings.copies is None else host.owners(name)
            if host.settings.copies is None or host.me in holders:
                for holder in holders:
                    numbers[holder] = numbers.get(holder, 0) ^ digest
        return numbers
