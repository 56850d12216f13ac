"""What replication costs as a cluster grows, and what fifty hosts with ten million sessions would cost.

Unit costs are measured here, on one host's rules and storage and in a simulated cluster. Those of sockets and TLS are
taken from the newest file ``results/*-replication.md``, so write that first. ``scale_model`` is the arithmetic;
``scale_page`` puts the tables into ``docs/scale.md``.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bench import scale_model
from bench.places import in_memory
from bench.replica_hosts import Cluster, cluster
from bench.rounds import Stopwatch
from bench.scale_host import LIFE, WRITES, Unit, begin, names_of, unit_of
from bench.scale_sim import Moving, Quiet, SimCluster, Visiting, Writing, death, joining, quiet, visiting, writing
from bench.sessions import Records, key_of
from bench.table import say, table, title
from sojourn.cluster import ring
from sojourn.store.peers.tables import HostTables
from sojourn.store.peers.tables_base import BaseTables

SIZE = 2048  # bytes of a session's frame
HOSTS = 3, 5, 9, 25, 50
COPIES = None, 2, 3
SHOP = scale_model.Shop()
RESULTS = Path(__file__).parent / "results"


def report(quick: bool = False) -> None:
    """Print the tables."""
    title("Scale")
    hosts = (3, 9) if quick else HOSTS
    room = _storage(2000 if quick else 100_000)
    _ring(hosts)
    units = _rules(hosts, 500 if quick else 2000)
    agents = _agents((3, 9) if quick else (3, 5, 9), 2.0 if quick else 10.0)
    traffic = _network(hosts, 20 if quick else 100)
    _visits(traffic)
    moves = _faults((9,) if quick else (9, 25, 50))
    found = Found(room, units, agents, traffic, moves)
    _growth(hosts, found)
    _shop(hosts[-1], found)


# -- storage -------------------------------------------------------------------------------------------------------


class Room(NamedTuple):
    """Bytes of storage."""

    session: float
    tombstone: float


def _storage(sessions: int) -> Room:
    title(f"Storage, {sessions:,} sessions of 2 KB", 3)
    with in_memory() as place:
        live = _used(place / "live", sessions, ends=False)
        ended = _used(place / "ended", sessions, ends=True)
    say("Pages that are in use: copies, their places in the logs, and their deadlines.")
    rows = (("a session", f"{live:,.0f}"), ("one that was ended, and is remembered", f"{ended:,.0f}"))
    table(("what a host keeps", "bytes"), rows)
    return Room(live, ended)


def _used(path: Path, sessions: int, *, ends: bool) -> float:
    """Return the bytes for each of so many sessions, or of their tombstones."""
    tables, records, now = HostTables(path), Records(SIZE), time.time()
    try:
        tables.lifetime_ms = round(LIFE * 1000)
        empty = _pages(tables)
        for number in range(sessions):
            key = key_of(number)
            begin(tables, key, records.make(number, now + LIFE), now)
            if ends:
                tables.perform("delete", (key, None))
        return (_pages(tables) - empty) / sessions
    finally:
        tables.close()


def _pages(tables: BaseTables) -> int:
    used: int = tables.reading(lambda rows: rows.needs())  # type: ignore[attr-defined]  # those of LMDB
    return used


# -- one host among many -------------------------------------------------------------------------------------------


def _ring(hosts: tuple[int, ...]) -> None:
    title("Who keeps a key", 3)
    rows = []
    for number in hosts:
        names, keys = frozenset(names_of(number)), [key_of(one) for one in range(2000)]
        watch = Stopwatch()
        for key in keys:
            ring.owners(key, names, 2)
        rows.append((str(number), f"{watch.per(len(keys)).cpu:.1f}"))
    table(("hosts", "CPU, µs"), rows)


Units = dict[tuple[int, int | None], Unit]


def _rules(hosts: tuple[int, ...], sessions: int) -> Units:
    title("An agent among others: rules, storage and frames", 3)
    say(
        f"One host with {sessions:,} sessions of 2 KB, the others played. CPU time without sockets and TLS. A write of "
        "a worker is shipped to each host that keeps the session; alone, or fifty at a time. At rest nobody writes."
    )
    units: Units = {}
    for number in hosts:
        for copies in COPIES if number == hosts[-1] else COPIES[:2]:
            with in_memory() as place:
                units[number, copies] = unit_of(place, number, copies, sessions)
    writes = "ships a write, µs", "of fifty", "stores one, µs", "of fifty"
    looks = "asks for a session, µs", "is asked, µs"
    heads = "hosts, copies", *writes, *looks, "at rest, ms/s", "without sessions", "a death, µs"
    table(heads, [(_name(*what), *_cells(unit)) for what, unit in units.items()])
    say("A death: for each session on this host, what follows where the others turn out to have all copies already.")
    return units


def _cells(unit: Unit) -> tuple[str, ...]:
    writes = (unit.sends, unit.sends_many, unit.stores, unit.stores_many, unit.asks, unit.serves)
    rests = (unit.rest / 1000, unit.rest_empty / 1000)
    return (*(f"{one:.0f}" for one in writes), *(f"{one:.1f}" for one in rests), f"{unit.lost:.0f}")


def _name(hosts: int, copies: int | None) -> str:
    return f"{hosts}, {'all' if copies is None else copies}"


# -- real agents ---------------------------------------------------------------------------------------------------


class Agent(NamedTuple):
    """A real agent in a cluster at rest, without sessions."""

    cpu: float
    """µs in a second."""
    bytes: float
    """That it sends in a second, TLS and all."""
    memory: float


def _agents(hosts: tuple[int, ...], seconds: float) -> dict[int, Agent]:
    title("Real agents at rest, without sessions", 3)
    agents = {}
    for number in hosts:
        with cluster(number, "acks=1") as one:
            agents[number] = _at_rest(one, seconds)
    rows = [
        (str(number), f"{one.cpu / 1000:.1f}", f"{one.bytes / 1000:.1f}", f"{one.memory / 1e6:.1f}")
        for number, one in agents.items()
    ]
    table(("hosts", "CPU of an agent, ms/s", "KB/s that it sends", "its own memory, MB"), rows)
    return agents


def _at_rest(one: Cluster, seconds: float) -> Agent:
    time.sleep(2.0)  # what hosts compare when they meet is over
    sent, cpu = sum(one.sent()), sum(host.cpu() for host in one.hosts)
    time.sleep(seconds)
    spent = sum(host.cpu() for host in one.hosts) - cpu
    each = len(one.hosts) * seconds
    memory = sum(host.memory() for host in one.hosts) / len(one.hosts)
    return Agent(spent / each * 1e6, (sum(one.sent()) - sent) / each, memory)


# -- the cluster in virtual time -----------------------------------------------------------------------------------


class Counted(NamedTuple):
    """What was counted in one simulated cluster."""

    quiet: Quiet
    writing: Writing
    visiting: Visiting


Traffics = dict[tuple[int, int | None], Counted]


def _network(hosts: tuple[int, ...], number: int) -> Traffics:
    title("Messages and frames", 3)
    say(
        "Simulated clusters with the rules and frames of real ones. A write counts up in a session of 2 KB, alone, "
        "with its acknowledgements; notes say how far hosts have read what is not for them. Without TLS and TCP."
    )
    counts: Traffics = {}
    for each in hosts:
        for copies in COPIES:
            one = SimCluster(each, copies)
            one.start()
            one.fill(40)
            counts[each, copies] = Counted(quiet(one, 2), writing(one, number), visiting(one, number))
    _say_counts(counts)
    return counts


def _say_counts(counts: Traffics) -> None:
    rest = "notes, a host, KB/s", "pings, a host, KB/s", "digests, a host, KB/s", "at rest, all hosts, KB/s"
    heads = "hosts, copies", "messages a write", "bytes a write", *rest
    table(heads, [(_name(*what), *_counts(one)) for what, one in counts.items()])


def _counts(one: Counted) -> tuple[str, ...]:
    write, kilobytes = one.writing.write, (one.writing.notes, one.quiet.pings, one.quiet.digests)
    sizes = [f"{traffic.bytes / 1000:.1f}" for traffic in kilobytes]
    return f"{write.messages:.1f}", f"{write.bytes:.0f}", *sizes, f"{one.quiet.cluster.bytes / 1000:.1f}"


def _visits(counts: Traffics) -> None:
    title("Visits that a balancer sends to any host", 3)
    rows = [
        (_name(*what), f"{one.visiting.asked:.0%}", f"{one.visiting.read.bytes:.0f}", f"{one.visiting.write.bytes:.0f}")
        for what, one in counts.items()
        if what[1] is not None
    ]
    table(("hosts, copies", "ask another host", "bytes, a visit that reads", "bytes, one that writes"), rows)


def _faults(hosts: tuple[int, ...]) -> dict[int, Moving]:
    title("A host dies, another joins; copies=2", 3)
    say(
        "Virtual time, in which bytes take none: what is seen is how long hosts take to agree, with the defaults "
        "(`suspect_after` 1 s, `dead_after` 10 s). Killed: its streams break. Silent: nothing is heard any more."
    )
    ends, moves = [], {}
    for number in hosts:
        one = SimCluster(number, 2)
        one.start()
        one.fill(number * 10)
        gone = death(one)
        known, came = joining(one, names_of(number)[-1])
        times = gone.killed, gone.silent, gone.dead, known
        ends.append((str(number), *(f"{one:.3f}" for one in times), *_moved(gone.moving), *_moved(came)))
        moves[number] = gone.moving
    heads = "killed: suspect after, s", "silent: suspect after, s", "dead after, s", "a new one is known after, s"
    moved = [f"{what}: {cell}" for what in ("dies", "joins") for cell in ("bytes a copy", "to find them, KB", "s")]
    table(("hosts", *heads, *moved), ends)
    return moves


def _moved(moving: Moving) -> tuple[str, ...]:
    return f"{moving.moved.bytes:.0f}", f"{moving.found.bytes / 1000:,.0f}", f"{moving.seconds:.1f}"


# -- the shop ------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """All that was measured."""

    room: Room
    units: Units
    agents: dict[int, Agent]
    traffic: Traffics
    moves: dict[int, Moving]


def _growth(hosts: tuple[int, ...], found: Found) -> None:
    title("As a shop grows host by host", 3)
    each = SHOP.sessions // SHOP.hosts
    say(f"{each:,} sessions for each host that the shop has. " + _assumed(SHOP))
    rows = []
    for number in hosts:
        for copies in (None, 2):
            shop = replace(SHOP, hosts=number, sessions=each * number, ended=SHOP.ended / SHOP.hosts * number)
            rows.append((_name(number, copies), *scale_model.briefly(_costs(shop, found, copies))))
    table(("hosts, copies", *scale_model.BRIEFLY), rows)


def _shop(hosts: int, found: Found) -> None:
    shop = replace(SHOP, hosts=hosts)
    title(f"{shop.hosts} hosts, {shop.workers} workers each, {shop.sessions:,} sessions", 3)
    say(
        f"{shop.visits:,.0f} requests a second; {shop.ended:,.0f} sessions are ended a day, and remembered for "
        f"{shop.kept:g} days. {_assumed(shop)}"
    )
    if not _real():
        say("There is no results file of `replication`: sockets cost what they do at rest, and times are not known.")
    costs = {_named(copies): _costs(shop, found, copies) for copies in COPIES}
    table(("what", *costs), scale_model.rows(costs))


def _costs(shop: scale_model.Shop, found: Found, copies: int | None) -> scale_model.Costs:
    return scale_model.derive(shop, copies, _units(found, shop.hosts, copies, _real()))


def _real() -> scale_model.Measured | None:
    return next(filter(None, (scale_model.measured(file.read_text()) for file in _files())), None)


def _files() -> list[Path]:
    """Return the results of replication, the newest first."""
    return sorted(RESULTS.glob("*-replication.md"), reverse=True)


def _named(copies: int | None) -> str:
    return "copies=all" if copies is None else f"copies={copies}"


def _assumed(shop: scale_model.Shop) -> str:
    return (
        f"Assumed: {shop.requests:g} requests a second and worker, {shop.workers} workers a host; {shop.writes:.0%} of "
        "the requests write. Everything else is computed from the other tables, by `scale_model.derive`."
    )


def _units(found: Found, hosts: int, copies: int | None, real: scale_model.Measured | None) -> scale_model.Units:
    """Return unit costs with so many hosts. How copies move was measured with two, and is taken for all."""
    unit, counted = found.units[hosts, copies], found.traffic[hosts, copies]
    socket = _socket(found, real)
    answers = 2 * ((hosts if copies is None else copies) - 1)  # what is sent, and its acknowledgements
    return scale_model.Units(
        session=found.room.session,
        tombstone=found.room.tombstone,
        write=counted.writing.write.bytes,
        sends=unit.sends + answers * socket,
        stores=unit.stores + 2 * socket,
        both_many=unit.sends_many + (answers // 2) * unit.stores_many + 2 * answers * socket / WRITES,
        asked=unit.asks + unit.serves + 6 * socket,  # two messages to another host and back, and two with the worker
        asked_read=counted.visiting.read.bytes,
        asked_write=counted.visiting.write.bytes,
        rest=counted.quiet.cluster.bytes / hosts,
        rest_cpu=unit.rest + 2 * counted.quiet.cluster.messages / hosts * socket,
        moved=found.moves[max(found.moves)].moved.bytes,
        taken=real.taken if real else None,
    )


def _socket(found: Found, real: scale_model.Measured | None) -> float:
    """Return the µs for a message at one end of a stream: what real agents take beyond rules, storage and frames."""
    small, large = min(found.agents), max(found.agents)
    if real:  # to each of two hosts a message goes and comes back, and each has two ends
        rules = found.units[3, None]
        return max(real.writes_of_three - rules.sends - 2 * rules.stores, 0.0) / 8
    # Otherwise what more hosts cost at rest; what an agent does alone, such as its polls, is in both and falls out.
    more = (_beyond(found, large) - _beyond(found, small)) / (_messages(found, large) - _messages(found, small))
    return max(more, 0.0)


def _beyond(found: Found, hosts: int) -> float:
    return found.agents[hosts].cpu - found.units[hosts, None].rest_empty


def _messages(found: Found, hosts: int) -> float:
    """Return how many an agent sends and hears in a second at rest."""
    return 2 * found.traffic[hosts, None].quiet.cluster.messages / hosts


if __name__ == "__main__":
    report("--quick" in sys.argv)
