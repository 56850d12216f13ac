"""Serving: what a host answers on streams that others have opened: it stores their logs, and gives what they want."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from sojourn.cluster.host import Host, Link, Peer, parcels
from sojourn.cluster.shipping import ROUND
from sojourn.cluster.tables import BUCKETS, Applied, bucket_of
from sojourn.cluster.wire import (
    Changes,
    Copies,
    Digests,
    Fetch,
    Lacks,
    Names,
    Offer,
    Progress,
    Pull,
    Stored,
    Took,
)

ANSWERED = 4096  # names in one answer, about; the other buckets that differ are named only
MOST_NAMES = 1024  # in one Fetch or Offer


class Unfit(ValueError):
    """Another host has said what no host of this protocol says."""


@dataclass(slots=True)
class Serving:
    """Answers the others."""

    host: Host
    settled: Callable[[], bool]
    """Whether everything was compared with everybody since sessions were last spread anew."""

    # -- their logs --------------------------------------------------------------------------------------------------

    def changes(self, link: Link, peer: Peer, message: Changes) -> tuple[bytes, ...]:
        """Store a piece of the sender's log; return the names that came with it."""
        if message.origin != peer.origin:
            raise Unfit("a log that is not its own")
        mine = self.host.known.get(message.origin, Progress())
        if message.after > max(mine.cursor, mine.level) or message.cut > mine.level:
            self.host.send(link, Stored(message.origin, mine))  # it has not sent what lies between
            return ()
        applied, progress = self._store(message, mine)
        self.host.send(link, Stored(message.origin, progress, applied.wanted))
        return tuple(change.name for change in message.changes)

    def _store(self, message: Changes, mine: Progress) -> tuple[Applied, Progress]:
        host = self.host
        read = Progress(max(mine.cursor, message.progress.cursor), max(mine.level, message.progress.level))
        whole, parts = message.changes, tuple[bytes, ...]()
        if host.settings.copies is not None and not self.settled():
            # A copy that is here may be from before this host was to hold it, so that nothing can be added to it.
            whole = tuple(change for change in message.changes if change.complete)
            parts = tuple(change.name for change in message.changes if not change.complete)
        applied = host.tables.store(replace(message, changes=whole, progress=mine if parts else read))
        host.clashed(applied.clashes)
        wanted = applied.wanted + parts
        if not wanted:
            host.known[message.origin] = read
        return applied._replace(wanted=wanted), mine if wanted else read

    def copies(self, link: Link, message: Copies) -> tuple[bytes, ...]:
        """Store copies that came unasked; return their names."""
        applied = self.host.tables.accept(message.changes)
        self.host.clashed(applied.clashes)
        if message.number:
            self.host.send(link, Took(message.number))
        return tuple(change.name for change in message.changes)

    # -- what they ask for -------------------------------------------------------------------------------------------

    def pull(self, link: Link, peer: Peer, message: Pull) -> None:
        """Give the next piece of any host's log; in the last one the cursor stays.

        Where it ends here says nothing of what its writer wrote since: the level is no higher than this host's own.
        """
        tables = self.host.tables
        piece = tables.log(message.origin, message.cursor, message.cut, ROUND, self.host.held_by(peer.name))
        level = piece.progress.level
        if message.origin != tables.origin and level > message.cut:
            level = max(message.cut, min(level, self.host.known.get(message.origin, Progress()).level))
        at_end = piece.progress.level > message.cut or piece.progress.cursor <= message.cursor
        cursor = message.cursor if at_end else piece.progress.cursor
        self.host.send(link, replace(piece, progress=Progress(cursor, level), after=message.cursor))

    def fetch(self, link: Link, message: Fetch) -> None:
        """Give copies as they are."""
        parts = parcels(self.host.tables.copies(message.names[:MOST_NAMES]))
        for number, part in enumerate(parts, 1):
            self.host.send(link, Copies(message.number, part, number < len(parts)))

    # -- comparing ---------------------------------------------------------------------------------------------------

    def digests(self, link: Link, peer: Peer, message: Digests) -> None:
        """Say what is here in the buckets that differ: the names of the first ones, and which others there are."""
        first, end = message.first, message.first + message.count
        asked = sorted({*message.buckets, *range(first, end)}) if 0 <= first <= end <= BUCKETS else []
        if not asked or asked[0] < 0 or asked[-1] >= BUCKETS:
            raise Unfit("digests of buckets that do not exist")
        mine = self.host.digests.of(peer.name, asked)
        differ = deque(bucket for bucket in asked if mine[bucket] != message.buckets.get(bucket, 0))
        holds = self.host.held_by(self.host.me, peer.name)
        answered = 0 if message.names else ANSWERED
        while differ and answered < ANSWERED:
            names = self.host.tables.names(differ[0], holds)
            answered += len(names)
            self._names(link, differ.popleft(), names)
        self.host.send(link, Digests({bucket: mine[bucket] for bucket in differ}))

    def _names(self, link: Link, bucket: int, digests: dict[bytes, int]) -> None:
        """Send the names in a bucket, in messages of a bounded size."""
        names, after = sorted(digests), b""
        while len(names) > ANSWERED:
            part, names = names[:ANSWERED], names[ANSWERED:]
            self.host.send(link, Names(bucket, {name: digests[name] for name in part}, after, part[-1]))
            after = part[-1]
        self.host.send(link, Names(bucket, {name: digests[name] for name in names}, after))

    def offer(self, link: Link, message: Offer) -> None:
        """Say which of these copies are not here."""
        here: dict[bytes, int] = {}
        for bucket in {bucket_of(name) for name in message.digests}:
            here |= self.host.tables.names(bucket)
        lacking = tuple(name for name, digest in message.digests.items() if here.get(name) != digest)
        self.host.send(link, Lacks(message.number, lacking))
