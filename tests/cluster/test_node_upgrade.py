"""A rolling upgrade: hosts of version N and of N+1, which says more in each message, are one cluster all the time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.cluster.pump import START, Pump, key_of, record

from sojourn.cluster import wire
from sojourn.core.ops import Written

A, B, C = "a:1", "b:1", "c:1"
REQUESTS = 10_000


def next_version(message: wire.Message) -> bytes:
    """Write a message as N+1 would: with a field more at its end, and a hello that offers both versions."""
    if isinstance(message, wire.Hello):
        message = msgspec.structs.replace(message, versions=(2, 1))
    said: list[Any] = msgspec.msgpack.decode(wire.to_frame(message)[wire.LENGTH :])
    return framed([*said, {"new": ["in", 2]}])


def framed(said: list[Any]) -> bytes:
    body = msgspec.msgpack.encode(said)
    return len(body).to_bytes(wire.LENGTH, "big") + body


@pytest.mark.slow
def test_hosts_of_two_versions_serve_and_lose_nothing_during_a_rolling_upgrade() -> None:
    pump = Pump(A, B, C)
    pump.start_all()
    assert pump.run(5, lambda: all(map(pump.is_ready, pump.names)))
    for step, upgraded in enumerate((None, A, B, C)):
        if upgraded:
            pump.kill(upgraded)
            pump.run(0.1)
            pump.dialects[upgraded] = next_version
            pump.start(upgraded)
            assert pump.run(5, lambda: all(pump.state(one, two) == "alive" for one in pump.names for two in pump.names))
        for number in range(REQUESTS // 4):
            request(pump, step, number)
    pump.run(2)
    for number in range(100):
        expected = {"n": b"3", **{f"of {step}": b"1" for step in range(4)}}
        assert [pump.values(name, f"s{number}") for name in pump.names] == [expected] * 3
    assert not [report for machine in pump.machines.values() for report in machine.reports if report.level == "error"]


def request(pump: Pump, step: int, number: int) -> None:
    """Change one of a hundred sessions on one host after the other; each change must be on another host, too."""
    name, text = pump.names[number % 3], f"s{number % 100}"
    tables = pump.machines[name].tables
    pump.run(0.005)  # as long as a change needs to the others
    found = tables.perform("load", (key_of(text),)).answer
    if found is None:
        assert pump.create(name, text, n="0", **{"of 0": "1"}).enough
        return
    values = {**found.values, "n": str(step).encode(), f"of {step}": b"1"}
    later = record(START + pump.now)._replace(values=values, version=found.version + 1)
    answer, settled = pump.write(name, "update", key_of(text), later, found.version)
    assert answer is Written.DONE
    assert settled.enough


def test_versions_that_have_nothing_in_common_refuse_each_other_with_the_cure() -> None:
    pump = Pump(A, B)
    pump.start_all()
    assert pump.run(5, lambda: all(map(pump.is_ready, pump.names)))
    hello = pump.machines[B].node.links.hello()
    hello.name, hello.origin, hello.versions = C, b"ccc1", (3, 2)
    node = pump.machines[A].node
    node.accepted(9001, None, pump.now)
    why = "a:1 speaks versions 1 of the protocol and not 3, 2: update one"
    assert wire.Refused(why) in [getattr(effect, "message", None) for effect in node.received(9001, hello, pump.now)]
    assert pump.state(A, C) is None


def test_a_field_more_in_a_message_is_passed_over_and_in_a_tuple_within_it_is_another_version() -> None:
    frames = wire.Frames()
    frames.greeted = True
    ping = wire.Ping(1, (wire.Member(A, 0, "alive", b"orig", True),), {b"orig": wire.Progress(1, 2)})
    assert list(frames.feed(next_version(ping))) == [ping]
    said: list[Any] = msgspec.msgpack.decode(wire.to_frame(ping)[wire.LENGTH :])
    said[2][0].append("new")
    with pytest.raises(wire.Malformed):
        list(frames.feed(framed(said)))
