"""What a shop's sessions would cost on many hosts: arithmetic on unit costs that were measured, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Shop:
    """How large, and how busy."""

    hosts: int = 50
    workers: int = 16
    """On each host."""
    sessions: int = 10_000_000
    requests: float = 20.0
    """A second and worker."""
    writes: float = 0.2
    """The share of requests that write: a change, or the note of a look, which is made once a minute at most."""
    ended: float = 2_000_000
    """Sessions that are ended a day and remembered for ``kept`` days."""
    kept: float = 30.0

    @property
    def visits(self) -> float:
        """Requests a second of the whole shop."""
        return self.hosts * self.workers * self.requests


@dataclass(frozen=True)
class Units:
    """What one thing costs at this number of hosts and of copies. Times are µs of one agent's CPU."""

    session: float
    """Bytes of storage for a session, on each host that keeps it."""
    tombstone: float
    """The same for one that was ended."""
    write: float
    """Bytes on the network, of the whole cluster."""
    sends: float
    """µs for a write of this host: rules, storage, sockets, TLS; for all its receivers together."""
    stores: float
    """µs for a write that another host has made and sent."""
    both_many: float
    """µs of all agents together for a write, where there are so many that fifty share a frame."""
    asked: float
    """µs of both agents together for a question to another host, and its answer."""
    asked_read: float
    """Bytes for a visit that only reads, at a random host."""
    asked_write: float
    rest: float
    """Bytes that a host sends in a second in which nobody writes."""
    rest_cpu: float
    """µs of CPU in such a second."""
    moved: float
    """Bytes for each copy that has to be on another host."""
    taken: float | None
    """Seconds in which a host takes 100,000 sessions; None: it was not measured."""


@dataclass(frozen=True)
class Costs:
    """What the shop would cost with one number of copies. Bytes and seconds, a host unless it says otherwise."""

    kept: float
    """Sessions."""
    storage: float
    tombstones: float
    """Bytes of the storage that are tombstones."""
    shipped: float
    """Bytes a second for writes."""
    asking: float
    """Bytes a second for visits that a balancer sends to any host."""
    elsewhere: float
    """The share of such visits for which another host is asked."""
    rest: float
    cpu_writes: float
    """Share of a core that the agent takes for writes."""
    cpu_asking: float
    """The same for visits that a balancer sends to any host."""
    cpu_rest: float
    """Share of a core that it takes when nobody writes."""
    most_writes: float
    """Writes a second of the whole shop at which an agent fills its core."""
    lost: float
    """Copies that are to be made when a host dies, all together."""
    lost_bytes: float
    lost_seconds: float | None
    """Of storing them, spread over the survivors."""
    joined_seconds: float | None
    """Until a host with an empty disk has everything."""


def derive(shop: Shop, copies: int | None, units: Units) -> Costs:
    """Return what *shop* would cost with so many *copies* (None: all)."""
    holders = shop.hosts if copies is None else min(copies, shop.hosts)
    share = holders / shop.hosts
    kept = shop.sessions * share
    writes = shop.visits * shop.writes
    cpu_each = (units.sends + (holders - 1) * units.stores) / shop.hosts / 1e6  # seconds of each host's agent a write
    cpu_rest = units.rest_cpu / 1e6
    elsewhere = 1 - share
    tombstones = shop.ended * shop.kept * share * units.tombstone
    asked = shop.visits * ((1 - shop.writes) * units.asked_read + shop.writes * max(units.asked_write - units.write, 0))
    lost = 0.0 if copies is None else kept
    return Costs(
        kept=kept,
        storage=kept * units.session + tombstones,
        tombstones=tombstones,
        shipped=writes * units.write / shop.hosts,
        asking=asked / shop.hosts if elsewhere else 0.0,
        elsewhere=elsewhere,
        rest=units.rest,
        cpu_writes=writes * cpu_each,
        # A visit that writes asks twice: what there is, and to have it changed.
        cpu_asking=shop.visits * (1 + shop.writes) * elsewhere * units.asked / shop.hosts / 1e6,
        cpu_rest=cpu_rest,
        most_writes=max(1 - cpu_rest, 0.0) / (units.both_many / shop.hosts / 1e6),
        lost=lost,
        lost_bytes=lost * units.moved,
        lost_seconds=None if units.taken is None else lost / max(shop.hosts - 1, 1) / 100_000 * units.taken,
        joined_seconds=None if units.taken is None else kept / 100_000 * units.taken,
    )


def rows(costs: dict[str, Costs]) -> Iterator[tuple[str, ...]]:
    """Yield a row of a table for each kind of cost, with a cell for each number of copies."""
    cells = {
        "sessions that a host keeps": [f"{one.kept:,.0f}" for one in costs.values()],
        "storage of a host": [_size(one.storage) for one in costs.values()],
        "of that, tombstones": [_size(one.tombstones) for one in costs.values()],
        "a host sends for writes": [f"{_size(one.shipped)}/s" for one in costs.values()],
        "a host sends at rest": [f"{_size(one.rest)}/s" for one in costs.values()],
        "visits at any host that ask another": [f"{one.elsewhere:.0%}" for one in costs.values()],
        "a host sends for them": [f"{_size(one.asking)}/s" for one in costs.values()],
        "agent's core, for writes": [f"{one.cpu_writes:.0%}" for one in costs.values()],
        "for visits at any host": [f"{one.cpu_asking:.0%}" for one in costs.values()],
        "agent's core, at rest": [f"{one.cpu_rest:.0%}" for one in costs.values()],
        "writes a second that fill the agents": [_rate(one.most_writes) for one in costs.values()],
        "copies to be made when a host dies": [f"{one.lost:,.0f}" for one in costs.values()],
        "their bytes, all hosts": [_size(one.lost_bytes) for one in costs.values()],
        "time to store them": [_time(one.lost_seconds) for one in costs.values()],
        "an empty host has its share after": [_time(one.joined_seconds) for one in costs.values()],
    }
    for name, row in cells.items():
        yield name, *row


BRIEFLY = "storage of a host", "it sends", "agent's core at rest", "with the writes", "writes a second at most"


def briefly(one: Costs) -> tuple[str, ...]:
    """Return the cells of one cluster under :data:`BRIEFLY`."""
    sent, core = one.shipped + one.rest, (one.cpu_rest, one.cpu_rest + one.cpu_writes)
    return _size(one.storage), f"{_size(sent)}/s", *(f"{share:.0%}" for share in core), _rate(one.most_writes)


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number else "none: they are full at rest"


def _size(number: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,.0f} bytes"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not measured"
    if not seconds:
        return "nothing to do"
    return f"{seconds / 60:,.0f} min" if seconds >= 120 else f"{seconds:,.1f} s"


# -- what replication has measured -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What a results file of ``python -m bench replication`` says of real agents, with TLS between them."""

    writes_of_three: float
    """µs of all agents for a write, one at a time, with three hosts that all keep everything."""
    taken: float
    """Seconds in which a host with an empty disk has taken 100,000 sessions of 2 KB."""


def measured(text: str) -> Measured | None:
    """Read a results file; None where it lacks what is needed."""
    cpu = {row[0]: row[3] for row in _table(text, "a write | to each that holds a copy")}
    taken = _between(text, "and had everything after ", " s")
    if "3 hosts, copies=all" not in cpu or not taken or "100,000 sessions of 2 KB" not in text:
        return None
    return Measured(float(cpu["3 hosts, copies=all"].replace(",", "")), float(taken))


def _table(text: str, head: str) -> Iterator[list[str]]:
    """Yield the rows of the table whose head begins so."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.removeprefix("| ").startswith(head):
            next(lines, "")
            for row in lines:
                if not row.startswith("|"):
                    return
                yield [cell.strip() for cell in row.strip("|").split("|")]


def _between(text: str, begin: str, end: str) -> str | None:
    found = text.partition(begin)[2].partition(end)[0]
    return found or None
