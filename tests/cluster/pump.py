"""A pump for nodes: carries their messages between them in virtual time and in order, and cuts where it is told.

It is no simulation (see ``sojourn.testing.sim_network``): nothing in it is random, so that a test can say what happens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from sojourn.cluster import local, wire
from sojourn.cluster.effects import Close, Dial, Effect, End, Reply, Report, Send
from sojourn.cluster.node import Node
from sojourn.cluster.settings import Settings
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.testing.dict_tables import DictTables

START = 1_800_000_000.0
DELAY = 0.001  # seconds a message is on its way


def settings(name: str, names: tuple[str, ...], **changes: Any) -> Settings:
    return Settings(seeds=names, me=name, listen=name, path="/nowhere", **changes)


def key_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def record(now: float = START, **values: str) -> Record:
    return Record({key: value.encode() for key, value in values.items()}, now, now, now + 3600)


@dataclass
class Machine:
    """One host on the pump."""

    name: str
    node: Node
    tables: DictTables
    replies: list[tuple[int, Any]] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    up: bool = True
    ended: bool = False
    ticks_at: float = 0.0

    def reply_to(self, number: int) -> Any:
        found = [answer for _, answer in self.replies if answer.number == number]
        assert len(found) <= 1, "answered twice"
        return found[0] if found else None


class Pump:
    """Some nodes, and everything that is on its way between them."""

    def __init__(self, *names: str, **changes: Any) -> None:
        self.now = 0.0
        self.names, self.changes = names, changes
        self.machines: dict[str, Machine] = {}
        self.cut: set[tuple[str, str]] = set()
        """Ways on which nothing arrives; what is sent there waits, as in a stream."""
        self.log: list[tuple[str, str, wire.Message]] = []
        self.sizes: dict[tuple[str, str], int] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._ends: dict[int, tuple[str, int]] = {}
        """The other end of each link: its host, its number there."""
        self._held: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self.seeds: tuple[str, ...] = names
        self.dialects: dict[str, Callable[[wire.Message], bytes]] = {}
        """How hosts of another version write their messages."""

    # -- hosts ---------------------------------------------------------------------------------------------------

    def start(self, name: str, tables: DictTables | None = None, **changes: Any) -> Machine:
        old = self.machines.get(name)
        tables = tables or (old.tables if old else self.new_tables())
        node = Node(settings(name, self.seeds, **{**self.changes, **changes}), tables, self.now, lambda n: b"\x7f" * n)
        machine = self.machines[name] = Machine(name, node, tables, ticks_at=self.now)
        self.do(machine, node.started(self.now))
        return machine

    def new_tables(self) -> DictTables:
        self._numbers += 1
        seed = self._numbers
        return DictTables(clock=lambda: START + self.now, random=lambda n: hashlib.sha256(b"%d" % seed).digest()[:n])

    def start_all(self) -> None:
        for name in self.names:
            self.start(name)

    def kill(self, name: str) -> None:
        """End a host without a word; its streams break at once."""
        machine = self.machines[name]
        machine.up = False
        for link, (other, far) in list(self._ends.items()):
            if other == name:
                self._ends.pop(link)
                self._ends.pop(far, None)
                owner = self._owner_of(link)
                self.later(lambda owner=owner, link=link: self._closed(owner, link))

    def _owner_of(self, link: int) -> str:
        return next(name for name, machine in self.machines.items() if link in machine.node.host.links)

    def _closed(self, name: str, link: int) -> None:
        machine = self.machines[name]
        if machine.up:
            self.do(machine, machine.node.closed(link, self.now))

    # -- time ----------------------------------------------------------------------------------------------------

    def later(self, act: Callable[[], None], delay: float = DELAY) -> None:
        self._numbers += 1
        heappush(self._queue, (self.now + delay, self._numbers, act))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, or until something is so; return whether it is."""
        end = self.now + seconds
        while not until():
            ticks = [(max(one.node.due(), one.ticks_at), one.name) for one in self.machines.values() if one.up]
            at, name = min(ticks, default=(float("inf"), ""))
            if self._queue and self._queue[0][0] <= at:
                at = self._queue[0][0]
                if at > end:
                    break
                self.now, _, act = heappop(self._queue)
                act()
            elif at <= end:
                self.now = max(self.now, at)
                machine = self.machines[name]
                machine.ticks_at = self.now + 0.0005
                self.do(machine, machine.node.tick(self.now))
            else:
                break
        else:
            return True
        self.now = end
        return until()

    # -- effects -------------------------------------------------------------------------------------------------

    def do(self, machine: Machine, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Dial(name):
                    self.later(lambda name=name: self._connect(machine, name))
                case Send(link, message):
                    self._send(machine, link, message)
                case Close(link, _):
                    self._close(link)
                case Reply(worker, answer):
                    machine.replies.append((worker, answer))
                case Report():
                    machine.reports.append(effect)
                case End():
                    machine.ended, machine.up = True, False

    def break_stream(self, link: int) -> None:
        """Have a stream break; both of its ends hear of it."""
        name, far = self._ends.pop(link)
        owner, _ = self._ends.pop(far)
        self.later(lambda: self._closed(name, far))
        self.later(lambda: self._closed(owner, link))

    def _connect(self, machine: Machine, name: str) -> None:
        other = self.machines.get(name)
        if not machine.up or self.machines[machine.name] is not machine:
            return
        if other is None or not other.up or {(machine.name, name), (name, machine.name)} & self.cut:
            self.do(machine, machine.node.unreachable(name, self.now))
            return
        self._numbers += 2
        near, far = self._numbers - 1, self._numbers
        self._ends[near], self._ends[far] = (name, far), (machine.name, near)
        self.do(other, other.node.accepted(far, None, self.now))
        self.do(machine, machine.node.dialed(near, name, self.now))

    def _send(self, machine: Machine, link: int, message: wire.Message) -> None:
        if link not in self._ends:
            return
        name, far = self._ends[link]
        frame = self.dialects.get(machine.name, wire.to_frame)(message)
        kind = (machine.name, type(message).__name__)
        self.sizes[kind] = self.sizes.get(kind, 0) + len(frame)
        self.log.append((machine.name, name, message))
        frames = wire.Frames()
        frames.greeted = True
        (copy,) = frames.feed(frame)
        self._carry(machine.name, name, lambda: self._arrive(name, far, copy))

    def _carry(self, sender: str, receiver: str, arrive: Callable[[], None]) -> None:
        if (sender, receiver) in self.cut:
            self._held.setdefault((sender, receiver), []).append(arrive)
        else:
            self.later(arrive)

    def heal(self, *ways: tuple[str, str]) -> None:
        """Let everything through again, in its order; or what goes those *ways*."""
        healed = ways or tuple(self.cut | self._held.keys())
        self.cut.difference_update(healed)
        for way in healed:
            for act in self._held.pop(way, ()):
                self.later(act)

    def _arrive(self, name: str, link: int, message: wire.Message) -> None:
        machine = self.machines[name]
        if machine.up and link in self._ends:
            self.do(machine, machine.node.received(link, message, self.now))

    def _close(self, link: int) -> None:
        if end := self._ends.pop(link, None):
            name, far = end

            def closed() -> None:
                if self._ends.pop(far, None):
                    self._closed(name, far)

            self.later(closed)

    # -- workers -------------------------------------------------------------------------------------------------

    def ask(self, name: str, request: local.Request, seconds: float = 5.0, worker: int = 1) -> Any:
        """Have a worker ask, and return the answer."""
        machine = self.machines[name]
        self._numbers += 1
        number = request.number = self._numbers  # type: ignore[union-attr]
        self.do(machine, machine.node.asked(worker, request, self.now))
        self.run(seconds, lambda: machine.reply_to(number) is not None)
        return machine.reply_to(number)

    def write(self, name: str, verb: str, *arguments: Any, wait_ms: int = 1000) -> tuple[Written, local.Settled]:
        """Have a worker write here, and wait for the acknowledgements."""
        done = self.machines[name].tables.perform(verb, arguments)
        return done.answer, self.ask(name, local.Await(0, arguments[0], done.time, wait_ms))

    def create(self, name: str, text: str, **values: str) -> local.Settled:
        answer, settled = self.write(name, "create", key_of(text), record(START + self.now, **values))
        assert answer is Written.DONE
        return settled

    def values(self, name: str, text: str) -> dict[str, bytes | None] | None:
        replica = self.machines[name].tables.replica(key_of(text))
        if replica is None or replica.deleted:
            return None
        return {key: cell.data for key, cell in replica.cells.items() if cell.data is not None}

    def state(self, name: str, of: str) -> str | None:
        return self.machines[name].node.host.members.state(of)

    def is_ready(self, name: str) -> bool:
        return self.machines[name].tables.view().ready

    def sent(self, kind: type[wire.Message], sender: str | None = None) -> list[Any]:
        return [one for by, _, one in self.log if isinstance(one, kind) and sender in (None, by)]
