"""Hosts that write, exchange pieces of their logs, sweep and lose disks in any order hold equal bytes in the end.

The same history runs on both kinds of tables, and after each step they hold the same.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.peers.tables_help import KINDS, Clock, Maker, audit, compare, dump, makers, settle, ship, state, store

from sojourn.core.record import Record
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key

HOSTS = 3
TAGS = [bytes([number]) * 32 for number in (7, 200)]

Step = tuple[Any, ...]

hosts = st.integers(0, HOSTS - 1)
keys = st.integers(0, 3).map(a_key)
values = st.dictionaries(st.sampled_from("abc"), st.binary(max_size=3), max_size=3)
soon = st.sampled_from([5.0, 60.0, 900.0, 900.0, 900.0])
written = [
    st.tuples(st.just("create"), hosts, keys, values, soon),
    st.tuples(st.just("update"), hosts, keys, values, soon),
    st.tuples(st.just("update"), hosts, keys, values, soon),
    st.tuples(st.just("retire"), hosts, keys, st.none() | keys, soon),
    st.tuples(st.just("touch"), hosts, keys, soon),
    st.tuples(st.just("delete"), hosts, keys),
    st.tuples(st.just("delete_many"), hosts, st.lists(keys, max_size=3)),
    st.tuples(st.just("enlist"), hosts, st.sampled_from(TAGS), keys, soon),
    st.tuples(st.just("delist"), hosts, st.sampled_from(TAGS), st.lists(keys, max_size=2)),
]
exchanged = [
    st.tuples(st.just("ship"), hosts, hosts, st.integers(1, 4), st.integers(1, 3)),
    st.tuples(st.just("ship"), hosts, hosts, st.just(512), st.just(9)),
    st.tuples(st.just("repeat"), hosts, hosts, st.integers(1, 4)),
    st.tuples(st.just("copy"), hosts, hosts, st.lists(keys, max_size=2)),
]
passed = [
    st.tuples(st.just("sweep"), st.sampled_from([1.0, 30.0]), st.integers(1, 70)),
    st.tuples(st.just("jump"), hosts, st.sampled_from([-3600.0, 3600.0])),
    st.tuples(st.just("forget"), hosts, st.integers(0, 5)),
]


class World:
    """Some hosts of one kind, and the clocks that they read."""

    def __init__(self, make: Maker) -> None:
        self.clocks = [Clock() for _ in range(HOSTS)]
        self.hosts = [make(clock) for clock in self.clocks]
        for host in self.hosts:
            host.lifetime_ms = 1_000_000

    def step(self, step: Step) -> Any:
        """Do a step; return what came of it."""
        verb, *rest = step
        return getattr(self, f"do_{verb}")(*rest)

    def record(self, values: dict[str, bytes], seconds: float, version: int = 1, **fields: Any) -> Record:
        return Record(values, START, START, START + seconds, version, "somebody", **fields)

    def do_create(self, host: int, key: bytes, values: dict[str, bytes], seconds: float) -> Any:
        return self.hosts[host].perform("create", (key, self.record(values, seconds)))

    def do_update(self, host: int, key: bytes, values: dict[str, bytes], seconds: float) -> Any:
        found = self.hosts[host].load(key)
        version = found.version if found and not found.retired else 0
        return self.hosts[host].perform("update", (key, self.record(values, seconds, version + 1), version))

    def do_retire(self, host: int, key: bytes, successor: bytes | None, seconds: float) -> Any:
        found = self.hosts[host].load(key)
        if found is None or found.retired or successor == key:
            return None
        record = self.record({}, seconds, found.version + 1, retired=True, successor=successor)
        return self.hosts[host].perform("update", (key, record, found.version))

    def do_touch(self, host: int, key: bytes, seconds: float) -> Any:
        found = self.hosts[host].load(key)
        base = found.version if found else 0
        return self.hosts[host].perform("touch", (key, START + 1, START + seconds, base))

    def do_delete(self, host: int, key: bytes) -> Any:
        return self.hosts[host].perform("delete", (key, None))

    def do_delete_many(self, host: int, keys: list[bytes]) -> Any:
        return self.hosts[host].perform("delete_many", (keys,))

    def do_enlist(self, host: int, tag: bytes, key: bytes, seconds: float) -> Any:
        return self.hosts[host].perform("enlist", (tag, key, START, START + seconds))

    def do_delist(self, host: int, tag: bytes, keys: list[bytes]) -> Any:
        return self.hosts[host].perform("delist", (tag, keys))

    def do_ship(self, source: int, target: int, limit: int, pieces: int) -> Any:
        return source != target and ship(self.hosts[source], self.hosts[target], limit, pieces)

    def do_repeat(self, source: int, target: int, limit: int) -> Any:
        """Send once more what was sent long ago, as of now."""
        one, other = self.hosts[source], self.hosts[target]
        return source != target and store(one, other, one.log(one.origin, 0, 0, limit))

    def do_copy(self, source: int, target: int, keys: list[bytes]) -> Any:
        return self.hosts[target].accept(self.hosts[source].copies(keys))

    def do_sweep(self, seconds: float, limit: int) -> Any:
        for clock in self.clocks:
            clock.now += seconds
        return [host.sweep(limit) for host in self.hosts]

    def do_jump(self, host: int, seconds: float) -> None:
        self.clocks[host].now += seconds

    def do_forget(self, host: int, count: int) -> Any:
        """Drop copies, one of which is another by now than is said."""
        tables = self.hosts[host]
        names = tables.some_names(None, count)
        digests = {name: digest for bucket in range(1024) for name, digest in tables.names(bucket).items()}
        return tables.drop({name: digests[name] ^ (number == 1) for number, name in enumerate(names)})

    def agree_on_the_time(self) -> None:
        """Set all clocks alike, and bury what is over."""
        now = max(clock.now for clock in self.clocks)
        for clock, host in zip(self.clocks, self.hosts, strict=True):
            clock.now = now
            while host.sweep(64):
                pass


def run(history: list[Step], worlds: list[World]) -> None:
    for step in history:
        answers = [world.step(step) for world in worlds]
        assert all(answer == answers[0] for answer in answers)
        for one, other in zip(worlds[0].hosts, worlds[1].hosts, strict=True):
            audit(one)
            assert state(one) == state(other)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(*written, *exchanged), max_size=40))
def test_logs_alone_bring_all_hosts_to_equal_bytes(history: list[Step]) -> None:
    with makers(*KINDS) as found:
        worlds = [World(make) for make in found]
        run(history, worlds)
        for world in worlds:
            settle(world.hosts)
            assert dump(world.hosts[0]) == dump(world.hosts[1]) == dump(world.hosts[2])
            for host in world.hosts:
                audit(host)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(*written, *exchanged, *passed), max_size=40))
def test_comparing_brings_hosts_to_equal_bytes_that_have_forgotten_and_whose_clocks_jumped(history: list[Step]) -> None:
    with makers(*KINDS) as found:
        worlds = [World(make) for make in found]
        run(history, worlds)
        for world in worlds:
            world.agree_on_the_time()
            compare(world.hosts)
            world.agree_on_the_time()
            assert dump(world.hosts[0]) == dump(world.hosts[1]) == dump(world.hosts[2])
            for host in world.hosts:
                audit(host)
        assert dump(worlds[0].hosts[0]) == dump(worlds[1].hosts[0])
