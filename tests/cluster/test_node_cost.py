"""What a write, a rest and a death cost a host: counted, so that it cannot grow with the number of hosts unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.cluster.pump import Pump, key_of, record

from sojourn.cluster import local, ring, wire
from sojourn.cluster.effects import Effect, Send
from sojourn.store.peers.engine import Engine
from sojourn.store.peers.streams import Stream

NINE = tuple(f"h{number}:1" for number in range(9))


def cluster(*names: str, **changes: Any) -> Pump:
    pump = Pump(*names, **changes)
    pump.start_all()
    assert pump.run(10, lambda: all(pump.is_ready(name) for name in pump.names))
    pump.run(15)  # everybody was compared with everybody, and all has been told
    return pump


def counted(pump: Pump, name: str, monkeypatch: pytest.MonkeyPatch, *methods: str) -> Counter[str]:
    """Count the calls of methods of a host's storage."""
    calls: Counter[str] = Counter()

    def counting(method: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            calls[method] += 1
            return real(*arguments, **named)

        return call

    tables = pump.machines[name].tables
    for method in methods:
        monkeypatch.setattr(tables, method, counting(method, getattr(tables, method)))
    return calls


def owned_by(pump: Pump, name: str, count: int, copies: int | None) -> list[str]:
    texts = (f"s{number}" for number in range(10_000))
    names = pump.names
    found = (text for text in texts if name in ring.owners(key_of(text), names, copies))
    return [text for text, _ in zip(found, range(count), strict=False)]


@pytest.mark.parametrize(("names", "copies"), [(NINE[:3], None), (NINE, None), (NINE[:3], 2), (NINE, 2)])
def test_a_write_is_read_from_the_log_once_however_many_hosts_there_are(
    names: tuple[str, ...], copies: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump = cluster(*names, copies=copies)
    texts = owned_by(pump, names[0], 20, copies)
    calls = counted(pump, names[0], monkeypatch, "log")
    for text in texts:
        assert pump.create(names[0], text, n="1").enough
        pump.run(0.01)
    assert calls["log"] <= 22  # once each, and the looks of the beats


def test_the_owners_of_a_name_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pump = cluster(*NINE, copies=2)
    (text,) = owned_by(pump, NINE[0], 1, 2)
    asked: list[bytes] = []
    real = ring.owners
    monkeypatch.setattr(ring, "owners", lambda key, *rest: (asked.append(key), real(key, *rest))[1])
    pump.machines[NINE[0]].tables.perform("create", (key_of(text), record(n="1")))
    pump.machines[NINE[0]].node.written(pump.now)
    assert asked == [key_of(text)]


def written(pump: Pump, name: str) -> list[wire.Message]:
    out = pump.machines[name].node.written(pump.now)
    return [one.message for one in out if isinstance(one, Send) and isinstance(one.message, wire.Changes)]


def test_hosts_that_are_to_get_the_same_get_the_same_object() -> None:
    pump = cluster(*NINE)
    pump.machines[NINE[0]].tables.perform("create", (key_of("s"), record(n="1")))
    sent = written(pump, NINE[0])
    assert len(sent) == 8
    assert len({id(message) for message in sent}) == 1


def test_a_host_that_has_less_gets_what_it_lacks_and_the_others_no_more_than_they_lack() -> None:
    pump = cluster(*NINE[:3])
    pump.create(NINE[0], "s", a="1", b="1")
    pump.run(0.5)
    flows = pump.machines[NINE[0]].node.shipping.flows
    slow = flows[NINE[1]]
    slow.stored = slow.stored._replace(level=1)  # as if it had read everything, and had not got all of it yet
    tables = pump.machines[NINE[0]].tables
    tables.perform("update", (key_of("s"), record(a="2", b="1")._replace(version=2), 1))
    whole, delta = sorted(written(pump, NINE[0]), key=lambda one: one.cut)  # type: ignore[attr-defined]
    assert isinstance(whole, wire.Changes)
    assert isinstance(delta, wire.Changes)
    assert (whole.changes[0].complete, delta.changes[0].complete) == (True, False)
    assert whole.changes[0].replica
    assert delta.changes[0].replica
    assert (set(whole.changes[0].replica.cells), set(delta.changes[0].replica.cells)) == ({"a", "b"}, {"a"})


def test_a_message_to_many_hosts_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[wire.Message] = []
    monkeypatch.setattr("sojourn.store.peers.engine.to_frame", lambda one: frames.append(one) or b"frame")
    put: list[bytes] = []
    engine = Engine.__new__(Engine)
    engine._encoded = None, b""
    engine.links = {number: _Sink(put) for number in range(8)}  # type: ignore[misc]
    ping = wire.Ping(1, (), {})
    for number in engine.links:
        engine._send(Send(number, ping))
    assert put == [b"frame"] * 8
    assert frames == [ping]


class _Sink(Stream):
    def __init__(self, put: list[bytes]) -> None:
        self._put = put

    def put(self, frame: bytes) -> None:
        self._put.append(frame)


def sent_while(pump: Pump, seconds: float) -> list[tuple[str, wire.Message]]:
    mark = len(pump.log)
    pump.run(seconds)
    return [(sender, message) for sender, _, message in pump.log[mark:]]


@pytest.mark.parametrize("copies", [None, 2])
def test_a_host_at_rest_asks_one_other_a_second_and_tells_everything_every_ten(copies: int | None) -> None:
    pump = cluster(*NINE, copies=copies)
    pump.create(NINE[0], "s", n="1")
    pump.run(30)
    sent = sent_while(pump, 20)
    questions = Counter(by for by, one in sent if isinstance(one, wire.Digests) and one.count)
    assert max(questions.values()) <= 21
    assert not any(isinstance(one, wire.Names | wire.Fetch) for _, one in sent)
    pings = [one for _, one in sent if isinstance(one, wire.Ping)]
    full = [one for one in pings if one.members]
    assert len(full) <= 9 * 8 * 3
    assert len(pings) <= 9 * 8 * (20 / pump.machines[NINE[0]].node.host.settings.beat + 1)


def test_after_a_death_a_host_reads_its_names_about_once_for_all_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pump = cluster(*NINE, copies=2)
    for text in owned_by(pump, NINE[0], 40, 2):
        pump.create(NINE[0], text, n="1")
    pump.run(5)
    host = pump.machines[NINE[0]].node.host
    buckets = list(range(1024))
    calls = counted(pump, NINE[0], monkeypatch, "names", "digests")
    for other in NINE[1:]:
        assert any(host.digests.of(other, buckets).values())
    assert calls["digests"] == 0
    assert calls["names"] <= len(host.tables.some_names(None, 1024))


def test_the_numbers_for_a_pair_are_those_of_the_names_that_both_hold() -> None:
    pump = cluster(*NINE, copies=3)
    for number in range(60):
        pump.create(NINE[number % 9], f"s{number}", n="1")
    pump.run(5)
    host = pump.machines[NINE[0]].node.host
    for other in NINE[1:]:
        expected = host.tables.digests(0, 1024, host.held_by(host.me, other))
        host.digests.clear()
        assert host.digests.of(other, range(1024)) == expected


def test_a_bucket_that_differs_for_a_moment_costs_no_names() -> None:
    pump = cluster(*NINE[:2])
    pump.create(NINE[0], "s", n="1")
    pump.run(3)
    mark = len(pump.log)
    for number in range(200):
        tables = pump.machines[NINE[0]].tables
        tables.perform("update", (key_of("s"), record(n=str(number))._replace(version=number + 2), number + 1))
        pump.do(pump.machines[NINE[0]], pump.machines[NINE[0]].node.written(pump.now))
        pump.run(0.02)
    assert not any(isinstance(one, wire.Names) for _, _, one in pump.log[mark:])


def test_a_bucket_with_very_many_names_goes_in_messages_of_a_bounded_size() -> None:
    pump = cluster(*NINE[:2])
    tag = key_of("principal")
    pump.cut = {(NINE[0], NINE[1]), (NINE[1], NINE[0])}
    tables = pump.machines[NINE[0]].tables
    now = pump.machines[NINE[0]].tables.clock()
    keys = [key_of(f"k{number}") for number in range(9000)]
    for key in keys:
        tables.perform("enlist", (tag, key, now, now + 3600))
    node = pump.machines[NINE[1]].node
    peer = node.host.peers[NINE[0]]
    assert peer.out
    sender = pump.machines[NINE[0]].node
    into = sender.host.peers[NINE[1]].into
    assert into
    sender.host.digests.clear()
    effects: list[Effect] = sender.received(into.number, wire.Digests({}, 0, 1024), pump.now)
    names = [one.message for one in effects if isinstance(one, Send) and isinstance(one.message, wire.Names)]
    assert [len(one.digests) for one in names] == [4096, 4096, 808]
    round = node.comparing.rounds[NINE[0]]
    round.waiting = round.names = True
    for one in (*names, names[1]):
        node.received(peer.out.number, one, pump.now)
    fetched = [name for is_fetch, part in round.work if is_fetch for name in part]
    assert set(fetched) == {tag + key for key in keys}
    assert not [part for is_fetch, part in round.work if not is_fetch]


def test_a_hello_has_room_for_every_host_however_many_lives_there_were() -> None:
    pump = cluster(*NINE[:2])
    for name in pump.names:
        pump.create(name, name, n="1")
    pump.run(1)
    machine = pump.machines[NINE[0]]
    for number in range(1, 3001):
        origin = number.to_bytes(4, "big")
        machine.tables.store(wire.Changes(origin, 0, wire.Progress(number, number), ()))
    hello = machine.node.links.hello()
    assert len(wire.to_frame(hello)) < wire.MOST_HELLO
    assert {member.origin for member in machine.node.host.members.all()} <= hello.progress.keys()
    assert (3000).to_bytes(4, "big") in hello.progress


def test_a_host_whose_storage_is_full_is_not_dialed_faster_and_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    from sojourn.errors import StoreUnavailable

    pump = cluster(*NINE[:2])

    def full(*_: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(pump.machines[NINE[1]].tables, "store", full)
    mark = len(pump.log)
    pump.create(NINE[0], "s", n="1")
    pump.run(30)
    hellos = [one for by, _, one in pump.log[mark:] if isinstance(one, wire.Hello) and by == NINE[0]]
    assert len(hellos) < 80
    assert not any("has sent what cannot be used" in report.text for report in pump.machines[NINE[1]].reports)


def test_a_host_that_could_not_leave_tells_its_workers_that_it_is_here() -> None:
    pump = cluster(*NINE[:2])
    pump.create(NINE[0], "s", n="1")
    pump.kill(NINE[1])
    pump.run(20)
    answer = pump.ask(NINE[0], local.Leave(0, 500))
    assert answer.view["left"] is False
    members = pump.machines[NINE[0]].tables.view().members
    assert {member.name: member.state for member in members}[NINE[0]] == "alive"
