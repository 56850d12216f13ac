"""Shipping: the own log goes to every other host, to each at its own pace.

One piece is on its way to a host at a time; the next one is read from the log when that is stored. So a slow host is
sent less often and more at a time, delays nobody else, and costs no memory: the log is the queue, and it holds a
session once however often it was written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sojourn.cluster.host import Host, Link, Peer, parcels
from sojourn.cluster.wire import Changes, Copies, Progress, Stored

ROUND = 512  # changes in one piece
SKIMMED = 8  # pieces in a row that may hold nothing for a host, before others have their turn
NOTE_EVERY = 1.0  # seconds between two notes about entries that a host does not hold


@dataclass(slots=True)
class Flow:
    """How far one other host is in the log of this one."""

    link: Link
    stored: Progress
    """What it has said it has, as far as that was sent."""
    read: Progress
    """How far the log was read for it; ahead of *stored* by entries that it does not hold."""
    epoch: int = -1
    """For which spread of sessions over the hosts everything was compared with it."""
    sent: Changes | None = None
    """What is on its way."""
    sent_at: float = 0.0
    noted_at: float = 0.0
    at_end: bool = False
    """Whether the last piece reached the end of the log."""
    behind: int = 0
    """Changes in the piece that is on its way."""


@dataclass(slots=True)
class Shipping:
    """Ships the log of one host."""

    host: Host
    flows: dict[str, Flow] = field(default_factory=dict)

    def greeted(self, peer: Peer, link: Link, progress: Progress) -> None:
        """Go on from where the other says it is, and never from behind the end, where a later write would be missed."""
        end = self.end()
        start = Progress(min(progress.cursor, end), min(progress.level, end))
        self.flows[peer.name] = Flow(link, start, start)
        self.ship(peer.name)

    def broken(self, name: str) -> None:
        """There is no stream any more."""
        self.flows.pop(name, None)

    def end(self) -> int:
        """Return where the own log ends."""
        return max(self.host.tables.progress().get(self.host.tables.origin, Progress()))

    def level(self, name: str) -> int:
        """Return up to where a host has everything that was written here."""
        return self.flows[name].stored.level if name in self.flows else 0

    def is_waited_for(self, name: str) -> bool:
        """Tell whether a host may be expected to store what is sent: it is there, and has not let a piece lie."""
        flow = self.flows.get(name)
        return flow is not None and self.host.reachable(name) and not self._stuck(flow)

    def _stuck(self, flow: Flow) -> bool:
        return flow.sent is not None and flow.sent_at + self.host.settings.suspect_after <= self.host.now

    def stuck(self) -> list[str]:
        """Return the hosts that let a piece lie for too long."""
        return [name for name, flow in self.flows.items() if self._stuck(flow)]

    def given_up(self) -> list[str]:
        """Return the hosts that have let a piece lie for so long that a new stream is the better way."""
        late = self.host.now - self.host.settings.dead_after
        return [name for name, flow in self.flows.items() if flow.sent and flow.sent_at <= late]

    def ship_all(self) -> None:
        """Look into the log for every host."""
        for name in self.flows:
            self.ship(name)

    def ship(self, name: str) -> None:
        """Send a host the next piece, unless one is on its way."""
        flow = self.flows[name]
        for _ in range(SKIMMED):
            if flow.sent or flow.link.blocked or not self._next(name, flow):
                return

    def _next(self, name: str, flow: Flow) -> bool:
        """Read a piece and send it; return whether there may be another."""
        host, tables = self.host, self.host.tables
        cut = flow.stored.level if host.settings.copies is None or flow.epoch == host.epoch else 0
        piece = tables.log(tables.origin, flow.read.cursor, cut, ROUND, host.held_by(name))
        flow.at_end = piece.progress.level > cut or piece.progress.cursor <= flow.read.cursor
        read = Progress(max(piece.progress.cursor, flow.read.cursor), max(piece.progress.level, flow.read.level))
        moved, flow.read = read != flow.read, read
        if piece.changes or (read != flow.stored and flow.noted_at + NOTE_EVERY <= host.now):
            self._send(flow, Changes(tables.origin, cut, read, piece.changes, flow.stored.cursor))
            return False
        return moved and not flow.at_end

    def _send(self, flow: Flow, changes: Changes) -> None:
        flow.sent, flow.sent_at, flow.noted_at = changes, self.host.now, self.host.now
        flow.behind = len(changes.changes)
        self.host.send(flow.link, changes)

    def stored(self, name: str, message: Stored) -> bool:
        """A host has stored a piece. Return whether its level has risen."""
        flow = self.flows.get(name)
        if flow is None or flow.sent is None or message.origin != self.host.tables.origin:
            return False
        if message.wanted:
            self._complete(flow, flow.sent, message.wanted)
            return False
        sent, flow.sent, flow.behind = flow.sent, None, 0
        before = flow.stored.level
        flow.stored = Progress(
            min(message.progress.cursor, sent.progress.cursor), min(message.progress.level, sent.progress.level)
        )
        if flow.stored != sent.progress:
            flow.read = flow.stored  # it could not use the piece
        return flow.stored.level > before

    def _complete(self, flow: Flow, sent: Changes, wanted: tuple[bytes, ...]) -> None:
        """Send whole what the other has nothing of, then once more how far it is with that."""
        for part in parcels(self.host.tables.copies(wanted[:ROUND])):
            self.host.send(flow.link, Copies(0, part))
        self._send(flow, Changes(sent.origin, sent.cut, sent.progress, (), sent.after))
