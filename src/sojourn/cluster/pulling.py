"""Pulling: the logs of hosts that are away, from those that have them.

A host that dies may have told its last writes to one other host only. Every host says with its pings how far it has
each log; where one has more of the log of a host that ships nothing itself, the others ask it. The pieces are complete
copies and are read from the *level* on: in another host's storage a log may have been compacted differently, so that
nothing follows from how far it was read anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from sojourn.cluster.clock import Origin
from sojourn.cluster.host import Host, Link, Peer
from sojourn.cluster.wire import Changes, Progress, Pull

PATIENCE = 10.0  # seconds for an answer
LATE = 1.0  # seconds that a host has to ship its log itself, once it is known to live


@dataclass(slots=True)
class _Pulled:
    link: int
    cursor: int
    level: int
    """What the other had before the first piece: entries that came to it later may lie behind the cursor."""
    since: float


@dataclass(slots=True)
class Pulling:
    """The logs that one host is fetching. Only for clusters in which every host holds everything.

    Elsewhere no host has the whole of another's log, and all is compared instead.
    """

    host: Host
    _open: dict[Origin, _Pulled] = field(default_factory=dict)
    _missed: dict[Origin, float] = field(default_factory=dict)
    """Since when the writer of a log should ship it, and does not."""

    def consider(self) -> None:
        """Ask for what another host has more of."""
        if self.host.settings.copies is not None:
            return
        own_end = max(self.host.tables.progress().get(self.host.tables.origin, Progress()))
        for peer in self.host.connected():
            for origin, theirs in peer.progress.items():
                if origin not in self._open and self._comes_from_elsewhere(origin):
                    self._start(peer, origin, theirs, own_end)

    def _comes_from_elsewhere(self, origin: Origin) -> bool:
        """Tell whether this host has to look for a log: its writer does not ship it here, or has not for a while."""
        if any(peer.into and peer.origin == origin for peer in self.host.peers.values()):
            self._missed.pop(origin, None)
            return False
        if self.host.members.of_origin(origin) in (None, self.host.me):
            return True
        return self._missed.setdefault(origin, self.host.now) + LATE <= self.host.now

    def gone(self, origin: Origin) -> None:
        """The writer of a log has gone away: it will ship nothing soon."""
        self._missed[origin] = self.host.now - LATE
        self.consider()

    def _start(self, peer: Peer, origin: Origin, theirs: Progress, own_end: int) -> None:
        mine = own_end if origin == self.host.tables.origin else self.host.known.get(origin, Progress()).level
        if theirs.level > mine and peer.out:
            self._ask(peer.out, origin, mine, theirs.level)

    def _ask(self, link: Link, origin: Origin, cursor: int, level: int) -> None:
        self._open[origin] = _Pulled(link.number, cursor, level, self.host.now)
        self.host.send(link, Pull(origin, cursor, 0))

    def changes(self, link: Link, message: Changes) -> tuple[bytes, ...]:
        """Store a piece that was asked for, and ask for the next; return the names that came."""
        pulled = self._open.get(message.origin)
        if pulled is None or pulled.link != link.number or pulled.cursor != message.after or message.cut:
            return ()
        mine = self.host.known.get(message.origin, Progress())
        goes_on = message.progress.cursor > message.after
        level = mine.level if goes_on else max(mine.level, min(message.progress.level, pulled.level))
        progress = Progress(max(mine.cursor, level), level)
        applied = self.host.tables.store(replace(message, progress=progress))
        self.host.clashed(applied.clashes)
        del self._open[message.origin]
        if message.origin != self.host.tables.origin:
            self.host.known[message.origin] = progress
        if goes_on:
            self._ask(link, message.origin, message.progress.cursor, pulled.level)
        return tuple(change.name for change in message.changes)

    def broken(self, link: Link) -> None:
        """A stream is gone; somebody else may have the rest."""
        self._open = {origin: one for origin, one in self._open.items() if one.link != link.number}

    def passed(self) -> None:
        """Time has passed: who has not answered for long is not waited for."""
        late = self.host.now - PATIENCE
        self._open = {origin: one for origin, one in self._open.items() if one.since > late}
