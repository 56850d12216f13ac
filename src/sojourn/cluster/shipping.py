"""Shipping: the own log goes to every other host, to each at its own pace.

One piece is on its way to a host at a time; the next one is read from the log when that is stored. So a slow host is
sent less often and more at a time, delays nobody else, and costs no memory: the log is the queue, and it holds a
session once however often it was written. To a host that begins with nothing two are on their way, so that it stores
one while the other is read. What is read serves all hosts that stand at the same place, which are nearly all nearly
always: a write is read once, its owners are worked out once, and one message goes to all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sojourn.cluster.host import Host, Link, Peer, parcels
from sojourn.cluster.replica import since
from sojourn.cluster.wire import Change, Changes, Copies, Progress, Stored

ROUND = 512  # changes in one piece
WHOLE = 64  # sessions that are sent whole, at once: of the largest these are 16 MiB, a quarter of what may wait
ABREAST = 2  # pieces on their way to a host that begins with nothing
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
    before: int = 0
    """Up to where the log was read for it when they were last spread anew: what it was not to hold was left out."""
    sent: deque[Changes] = field(default_factory=deque)
    """What is on its way, in the order in which it is answered."""
    sent_at: float = 0.0
    """Since when nothing was heard of it."""
    noted_at: float = 0.0
    at_end: bool = False
    """Whether the last piece reached the end of the log."""

    @property
    def behind(self) -> int:
        """Changes that are on their way."""
        return sum(len(piece.changes) for piece in self.sent)

    @property
    def cursor(self) -> int:
        """What it will have read when it has stored what is on its way."""
        return self.sent[-1].progress.cursor if self.sent else self.stored.cursor

    def takes_more(self, cut: int) -> bool:
        """Tell whether another piece may be sent.

        Beside another one none with deltas: the other end may want the whole of something before it goes on.
        """
        abreast = 1 if cut or self.at_end else ABREAST
        return len(self.sent) < abreast and not self.link.blocked


class _Kind(NamedTuple):
    """What makes two messages of one piece the same. *times* name its changes: no two of a log have the same."""

    cut: int
    read: Progress
    after: int
    times: tuple[int, ...]


@dataclass(slots=True)
class Shipping:
    """Ships the log of one host."""

    host: Host
    flows: dict[str, Flow] = field(default_factory=dict)
    _seen: int = 0
    """How far the log was read for anybody."""

    def greeted(self, peer: Peer, link: Link, progress: Progress) -> None:
        """Go on from where the other says it is, and never from behind the end, where a later write would be missed."""
        end = self.end()
        start = _least(progress, Progress(end, end))
        self.flows[peer.name] = flow = Flow(link, start, start, before=max(start))
        self._ship({peer.name: flow})

    def broken(self, name: str) -> None:
        """There is no stream any more."""
        self.flows.pop(name, None)

    def end(self) -> int:
        """Return where the own log ends."""
        return max(self.host.tables.progress().get(self.host.tables.origin, Progress()))

    def level(self, name: str) -> int:
        """Return up to where a host has everything that was written here."""
        return self.flows[name].stored.level if name in self.flows else 0

    def read(self, name: str) -> int:
        """Return up to where the log was read for a host: what it should hold of that is there, or on its way."""
        return max(self.flows[name].read) if name in self.flows else 0

    def moved(self) -> None:
        """Sessions are spread over other hosts than before."""
        for name, flow in self.flows.items():
            flow.before = self.read(name)

    def may_lack(self, name: str, time: int) -> bool:
        """Tell whether a host may lack what was written at *time*, however high its level is.

        It was to hold other sessions when that was read for it, and not everything was compared with it since.
        """
        flow = self.flows.get(name)
        return flow is not None and time <= flow.before and not self._is_compared(flow)

    def compared(self, name: str, epoch: int) -> None:
        """Everything was compared with a host, for that spread of sessions over the hosts."""
        if flow := self.flows.get(name):
            flow.epoch = epoch

    def is_settled(self) -> bool:
        """Tell whether everything was compared with all who can be reached since sessions were last spread anew."""
        return all(flow.epoch == self.host.epoch for flow in self.flows.values())

    def _is_compared(self, flow: Flow) -> bool:
        return self.host.settings.copies is None or flow.epoch == self.host.epoch

    def is_waited_for(self, name: str) -> bool:
        """Tell whether a host may be expected to store what is sent: it is there, and has not let a piece lie."""
        flow = self.flows.get(name)
        return flow is not None and self.host.reachable(name) and not self._stuck(flow)

    def _stuck(self, flow: Flow) -> bool:
        return bool(flow.sent) and flow.sent_at + self.host.settings.suspect_after <= self.host.now

    def stuck(self) -> list[str]:
        """Return the hosts that let a piece lie for too long."""
        return [name for name, flow in self.flows.items() if self._stuck(flow)]

    def given_up(self) -> list[str]:
        """Return the hosts that have let a piece lie for so long that a new stream is the better way."""
        late = self.host.now - self.host.settings.dead_after
        return [name for name, flow in self.flows.items() if flow.sent and flow.sent_at <= late]

    def ship_all(self) -> None:
        """Look into the log for every host."""
        self._ship(self.flows)

    def ship(self, name: str) -> None:
        """Send a host the next piece, unless one is on its way, as far as it is known that there is more.

        What is later is not looked for: who writes says so, and then all are sent it.
        """
        flow = self.flows[name]
        if flow.read.cursor < self._seen or not flow.at_end:
            self._ship({name: flow})

    def _ship(self, flows: Mapping[str, Flow]) -> None:
        for _ in range(SKIMMED):
            places: dict[tuple[int, bool], dict[str, Flow]] = {}
            for name, flow in flows.items():
                if flow.takes_more(cut := self._cut(flow)):
                    places.setdefault((flow.read.cursor, cut > 0), {})[name] = flow
            flows = {}
            for (cursor, _), there in places.items():
                flows |= self._next(cursor, there)
            if not flows:
                return

    def _cut(self, flow: Flow) -> int:
        """Return up to where a host has all of this host's writes that it should have; deltas begin there."""
        return flow.stored.level if self._is_compared(flow) else 0

    def _next(self, cursor: int, flows: Mapping[str, Flow]) -> dict[str, Flow]:
        """Read a piece for hosts that all stand at *cursor*, and send it; return those that may want another."""
        host, tables = self.host, self.host.tables
        cut = min(self._cut(flow) for flow in flows.values())
        holds = host.held_by(*flows) if len(flows) == 1 else None
        piece = tables.log(tables.origin, cursor, cut, ROUND, holds)
        self._seen = max(self._seen, piece.progress.cursor)
        at_end = piece.progress.level > cut or piece.progress.cursor <= cursor
        parts = self._parts(piece.changes, flows)
        sent: dict[_Kind, Changes] = {}
        for name, flow in flows.items():
            flow.at_end = at_end
            flow.read = Progress(max(piece.progress.cursor, cursor), max(piece.progress.level, flow.read.level))
            changes = parts.get(name, ())
            if changes or (flow.read != flow.stored and flow.noted_at + NOTE_EVERY <= host.now):
                self._send(flow, self._message(sent, flow, changes, cut))
        moved = piece.progress.cursor > cursor and not at_end
        return dict(flows) if moved else {}

    def _parts(self, changes: Sequence[Change], flows: Mapping[str, Flow]) -> Mapping[str, Sequence[Change]]:
        """Return for each host the changes of what it should hold."""
        if self.host.settings.copies is None or len(flows) == 1:
            return dict.fromkeys(flows, changes)
        parts: dict[str, list[Change]] = {}
        for change in changes:
            for owner in self.host.owners(change.name):
                parts.setdefault(owner, []).append(change)
        return parts

    def _message(self, sent: dict[_Kind, Changes], flow: Flow, changes: Sequence[Change], read_since: int) -> Changes:
        """Return what to send: the same object to all that are to get the same, so that it is encoded once."""
        cut = self._cut(flow)
        kind = _Kind(cut, flow.read, flow.cursor, tuple([change.time for change in changes]))
        if kind not in sent:
            news = [_cut_off(change, cut) for change in changes] if cut > read_since else changes
            sent[kind] = Changes(self.host.tables.origin, cut, flow.read, tuple(news), flow.cursor)
        return sent[kind]

    def _send(self, flow: Flow, changes: Changes) -> None:
        if not flow.sent:
            flow.sent_at = self.host.now
        flow.noted_at = self.host.now
        flow.sent.append(changes)
        self.host.send(flow.link, changes)

    def stored(self, name: str, message: Stored) -> bool:
        """A host has stored a piece. Return whether its level has risen."""
        flow = self.flows.get(name)
        if flow is None or not flow.sent or message.origin != self.host.tables.origin:
            return False
        sent, flow.sent_at = flow.sent.popleft(), self.host.now
        if message.wanted:
            self._complete(flow, sent, message.wanted)
            return False
        before, flow.stored = flow.stored.level, _least(message.progress, sent.progress)
        if flow.stored != sent.progress:
            self._go_back(flow)
        elif flow.read.cursor < flow.stored.cursor:
            flow.read = flow.stored
        return flow.stored.level > before

    def _go_back(self, flow: Flow) -> None:
        """A piece could not be used, as what lies before it was still missing; so it is with those that follow it."""
        flow.read = flow.stored
        flow.at_end = True  # nothing more abreast until there is an answer to all

    def _complete(self, flow: Flow, sent: Changes, wanted: tuple[bytes, ...]) -> None:
        """Send whole what the other has nothing of, then once more how far it is with that, and what is left of it."""
        for part in parcels(self.host.tables.copies(wanted[:WHOLE])):
            self.host.send(flow.link, Copies(0, part))
        left = frozenset(wanted[WHOLE:])
        again = tuple(change for change in sent.changes if change.name in left)
        self._send(flow, Changes(sent.origin, sent.cut, sent.progress, again, sent.after))


def _least(one: Progress, other: Progress) -> Progress:
    """Return what both have, and no less than nothing: one of them is what another host says."""
    return Progress(max(min(one.cursor, other.cursor), 0), max(min(one.level, other.level), 0))


def _cut_off(change: Change, cut: int) -> Change:
    """Return *change* without what is no later than *cut*: it may have been read for somebody who has less."""
    if change.replica is None:
        return change
    delta = since(change.replica, cut)
    return change if delta is change.replica else change._replace(replica=delta, complete=False)
