"""Nodes with nodes: what is written on one host is on the others, and a wait for that ends as it should."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.pump import Pump, key_of, record, settings

from sojourn.cluster import local, wire, worker
from sojourn.cluster.settings import Settings
from sojourn.cluster.tables import View, bucket_of
from sojourn.cluster.wire import Member
from sojourn.core.ops import Written
from sojourn.errors import StoreUnavailable
from sojourn.testing.dict_tables import DictTables

A, B, C = "a:1", "b:1", "c:1"


def run_until_alike(pump: Pump, text: str, values: dict[str, bytes], seconds: float = 5.0) -> None:
    up = [name for name, machine in pump.machines.items() if machine.up]
    assert pump.run(seconds, lambda: all(pump.values(name, text) == values for name in up))


def test_hosts_that_begin_together_find_each_other_and_are_ready_within_a_second() -> None:
    pump = Pump(A, B, C)
    pump.start_all()
    assert pump.run(1, lambda: all(pump.is_ready(name) for name in pump.names))
    assert all(pump.state(one, other) == "alive" for one in pump.names for other in pump.names)


def test_a_host_alone_in_its_settings_is_ready_at_once_and_waits_for_nobody() -> None:
    pump = Pump(A)
    pump.start(A)
    assert pump.run(1, lambda: pump.is_ready(A))
    settled = pump.create(A, "s", cart="1")
    assert (settled.hosts, settled.enough) == (0, True)


def test_a_write_is_acknowledged_when_another_host_has_it(pump: Pump) -> None:
    settled = pump.create(A, "s", cart="1")
    assert settled.enough
    assert settled.hosts >= 1
    assert not settled.minority
    assert {"cart": b"1"} in [pump.values(B, "s"), pump.values(C, "s")]
    run_until_alike(pump, "s", {"cart": b"1"})


def test_with_acks_all_every_host_has_it_when_it_is_acknowledged() -> None:
    pump = Pump(A, B, C, acks=None)
    pump.start_all()
    pump.run(1)
    settled = pump.create(A, "s", cart="1")
    assert (settled.hosts, settled.enough) == (2, True)
    assert [pump.values(name, "s") for name in pump.names] == [{"cart": b"1"}] * 3


def test_two_hosts_that_change_different_keys_keep_both(pump: Pump) -> None:
    pump.create(A, "s", cart="1")
    run_until_alike(pump, "s", {"cart": b"1"})
    for name, changed in ((A, {"cart": "2"}), (B, {"cart": "1", "name": "x"})):
        pump.machines[name].tables.perform("update", (key_of("s"), record(**changed)._replace(version=2), 1))
        pump.do(pump.machines[name], pump.machines[name].node.written(pump.now))
    run_until_alike(pump, "s", {"cart": b"2", "name": b"x"})


def test_a_counter_write_sends_each_host_one_message_of_less_than_250_bytes(pump: Pump) -> None:
    values = {f"k{number}": "v" * 400 for number in range(5)} | {"n": "1"}
    pump.create(A, "s", **values)
    pump.run(0.1)
    before = dict(pump.sizes), len(pump.log)
    pump.write(A, "update", key_of("s"), record(**{**values, "n": "2"})._replace(version=2), 1)
    pump.run(0.02)
    sent = [one for _, _, one in pump.log[before[1] :] if isinstance(one, wire.Changes)]
    assert len(sent) == 2
    assert pump.sizes[A, "Changes"] - before[0][A, "Changes"] < 2 * 250


def test_a_write_while_a_piece_is_on_its_way_goes_out_as_soon_as_that_is_stored() -> None:
    pump = Pump(A, B)
    pump.start_all()
    pump.run(1)
    machine, began = pump.machines[A], pump.now
    for number, text in enumerate(("first", "second"), 1001):
        done = machine.tables.perform("create", (key_of(text), record(pump.now)))
        pump.do(machine, machine.node.asked(1, local.Await(number, key_of(text), done.time, 500), pump.now))
        pump.do(machine, machine.node.written(pump.now))
    pump.run(0.5, lambda: machine.reply_to(1002) is not None)
    assert machine.reply_to(1002).enough
    assert pump.now - began < 0.01, "two ways there and back"


def test_a_write_that_reaches_nobody_is_answered_at_once_and_counted(pump: Pump) -> None:
    pump.kill(B)
    pump.kill(C)
    pump.run(0.1)
    began = pump.now
    settled = pump.create(A, "s", cart="1")
    assert (settled.hosts, settled.enough, settled.minority) == (0, False, True)
    assert pump.now - began < 0.01
    assert pump.ask(A, local.Status(0)).view["under_replicated"] == 1
    assert any("fewer hosts" in report.text for report in pump.machines[A].reports)


def test_writes_whose_workers_had_no_answer_are_counted_with_those_on_too_few_hosts(pump: Pump) -> None:
    assert pump.ask(A, local.Status(0, 3)).view["under_replicated"] == 3
    assert pump.ask(A, local.Status(0, -1)).view["under_replicated"] == 3
    assert any("3 writes are on fewer hosts" in report.text for report in pump.machines[A].reports)


def test_a_host_that_dies_during_the_wait_ends_it_at_once() -> None:
    pump = Pump(A, B)
    pump.start_all()
    pump.run(1)
    pump.cut = {(A, B)}
    pump.later(lambda: pump.kill(B), 0.1)
    began = pump.now
    settled = pump.create(A, "s", cart="1")
    assert not settled.enough
    assert 0.1 <= pump.now - began < 0.15


def test_a_host_that_stops_answering_costs_the_wait_once_and_then_nothing() -> None:
    pump = Pump(A, B)
    pump.start_all()
    pump.run(1)
    pump.machines[B].up = False  # paused: its streams stay
    began = pump.now
    assert not pump.create(A, "s", cart="1").enough
    assert pump.now - began <= 1.01
    began = pump.now
    assert not pump.create(A, "t", cart="1").enough
    assert pump.now - began < 0.01
    assert pump.run(1, lambda: pump.state(A, B) == "suspect")


def test_a_slow_host_delays_nobody(pump: Pump) -> None:
    pump.cut = {(A, C)}
    for number in range(50):
        began = pump.now
        assert pump.create(A, f"s{number}", n="1").enough
        assert pump.now - began < 0.01
    pump.heal()
    run_until_alike(pump, "s49", {"n": b"1"})


def test_a_full_stream_is_not_filled_further_and_goes_on_when_it_is_empty(pump: Pump) -> None:
    node = pump.machines[A].node
    link = node.host.peers[C].out
    assert link
    node.blocked(link.number, pump.now)
    pump.create(A, "s", n="1")
    pump.run(0.2)
    assert pump.values(C, "s") is None
    pump.do(pump.machines[A], node.drained(link.number, pump.now))
    run_until_alike(pump, "s", {"n": b"1"})


def test_a_host_that_was_down_gets_what_it_missed_and_no_more(pump: Pump) -> None:
    pump.create(A, "before", n="1")
    pump.run(1)
    pump.kill(C)
    for number in range(20):
        pump.create(A, f"s{number}", n="1")
    mark = len(pump.log)
    pump.start(C)
    run_until_alike(pump, "s19", {"n": b"1"})
    pump.run(1)
    to_c = [one for _, to, one in pump.log[mark:] if to == C and isinstance(one, wire.Changes)]
    assert sum(len(one.changes) for one in to_c) == 20


def test_a_wiped_host_gets_everything_and_is_ready_only_then(pump: Pump) -> None:
    for name in (A, B, C):
        for number in range(30):
            pump.create(name, f"{name}{number}", n="1")
    pump.run(1)
    pump.kill(C)
    pump.run(0.1)
    machine = pump.start(C, pump.new_tables())
    assert not pump.is_ready(C)
    assert pump.run(5, lambda: pump.is_ready(C))
    for name in (A, B, C):
        assert all(pump.values(C, f"{name}{number}") == {"n": b"1"} for number in range(30))
    assert pump.run(2, lambda: pump.machines[A].node.host.members.of_origin(machine.tables.origin) == C)


def test_the_last_writes_of_a_dead_host_that_one_survivor_has_reach_the_others(pump: Pump) -> None:
    pump.cut = {(B, C)}
    assert pump.create(B, "last", n="1").enough
    assert pump.values(A, "last") is not None
    pump.kill(B)
    assert pump.values(C, "last") is None
    assert pump.run(3, lambda: pump.values(C, "last") == {"n": b"1"})


def test_a_session_that_ended_on_one_host_comes_back_on_none(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    pump.cut = {(A, B), (A, C), (B, A), (C, A)}
    pump.write(A, "delete", key_of("s"), None, wait_ms=10)
    pump.machines[B].tables.perform("update", (key_of("s"), record(n="2")._replace(version=2), 1))
    pump.heal()
    assert pump.run(5, lambda: all(pump.values(name, "s") is None for name in pump.names))
    pump.run(5)
    assert all(pump.values(name, "s") is None for name in pump.names)


def test_both_sides_of_a_partition_go_on_and_agree_afterwards(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(1)
    pump.cut = {(A, C), (C, A), (B, C), (C, B)}
    pump.run(3)
    assert pump.state(A, C) == "suspect"
    settled = pump.create(C, "alone", n="1")
    assert (settled.enough, settled.minority) == (False, True)
    assert pump.create(A, "many", n="1").enough
    pump.heal()
    run_until_alike(pump, "alone", {"n": b"1"}, 20)
    run_until_alike(pump, "many", {"n": b"1"}, 20)
    assert pump.run(5, lambda: pump.state(A, C) == "alive")


def test_a_way_cut_between_two_hosts_only_moves_no_session_and_kills_nobody() -> None:
    pump = Pump(A, B, C, dead_after=3.0)
    pump.start_all()
    pump.run(2)
    pump.cut = {(A, C)}
    pump.run(20)
    assert pump.state(B, C) == "alive"
    assert pump.state(A, C) in ("suspect", "alive")
    assert pump.state(C, A) in ("suspect", "alive")
    assert pump.create(A, "s", n="1").enough
    run_until_alike(pump, "s", {"n": b"1"}, 10)  # c has it by way of b


def test_a_host_that_stood_still_itself_declares_nobody_dead(pump: Pump) -> None:
    machine = pump.machines[A]
    machine.up = False
    pump.run(30)
    machine.up = True
    pump.do(machine, machine.node.tick(pump.now))
    assert pump.state(A, B) == "alive"
    assert pump.run(5, lambda: pump.state(B, A) == "alive")


def says(pump: Pump, into: bool, sent_ms: int, *, hears: bool) -> bool:
    """Have B say to A on one of their streams whether it hears it; return whether A takes it for reachable then."""
    machine, members = pump.machines[A], pump.machines[B].node.host.members.all()
    peer, state = machine.node.host.peers[B], "alive" if hears else "suspect"
    link = peer.into if into else peer.out
    assert link
    told = tuple(one._replace(state=state) if one.name == A else one for one in members)
    pump.do(machine, machine.node.received(link.number, wire.Ping(sent_ms, told, {}), pump.now))
    return machine.node.host.reachable(B)


def test_what_a_host_says_is_not_undone_by_what_it_said_before_on_its_other_stream(pump: Pump) -> None:
    """After a cut: that it hears this host again came on one, and that it does not, a moment later, on the other."""
    pump.run(1)
    sent_ms = pump.machines[A].node.host.peers[B].said_ms
    assert not says(pump, False, sent_ms + 20, hears=False)
    assert says(pump, False, sent_ms + 40, hears=True)
    assert says(pump, True, sent_ms + 30, hears=False)


def test_a_host_that_greets_this_one_hears_it_also_where_the_ping_that_said_so_was_lost(pump: Pump) -> None:
    pump.run(1)
    host = pump.machines[A].node.host
    peer = host.peers[B]
    assert not says(pump, False, peer.said_ms + 20, hears=False)
    assert peer.into
    pump.break_stream(peer.into.number)
    assert pump.run(2, lambda: host.reachable(B))


def test_a_host_that_stood_still_for_nearly_as_long_as_makes_suspect_takes_nobody_for_silent(pump: Pump) -> None:
    """What the others said meanwhile waits in its sockets, and the last that it heard was from before."""
    machine = pump.machines[A]
    assert pump.run(2, lambda: machine.node.host.members.due() - pump.now < 0.9), "all have said something a while ago"
    machine.up = False
    pump.run(0.97)
    machine.up = True
    pump.do(machine, machine.node.tick(pump.now))
    assert [pump.state(A, name) for name in (B, C)] == ["alive", "alive"]
    for name in (B, C):
        pump.machines[name].up = False
    assert pump.run(2.5, lambda: pump.state(A, B) == pump.state(A, C) == "suspect"), "who is silent is found out"


def test_gossip_finds_hosts_that_no_setting_names() -> None:
    pump = Pump(A, B, C)
    pump.seeds = (A,)
    pump.start_all()
    assert pump.run(3, lambda: all(pump.state(one, other) == "alive" for one in pump.names for other in pump.names))
    assert pump.create(B, "s", n="1").enough
    run_until_alike(pump, "s", {"n": b"1"})


@pytest.mark.parametrize("acks", [0, 1, None])
def test_a_host_of_which_no_other_has_heard_begins_no_session(acks: int | None) -> None:
    """Any other would take it for made up. Where its agent meets somebody meanwhile, or there is nobody, it stands."""
    tables, alone = DictTables(), settings(A, (A,), acks=acks)
    with pytest.raises(StoreUnavailable, match="no other host has heard"):
        _write_without_agent(tables, settings(A, (A, B), acks=acks))
    assert _write_without_agent(DictTables(), alone) is Written.DONE
    tables.keep_view(View((Member(B, 0, "suspect", b""),)))
    assert _write_without_agent(tables, settings(A, (A, B), acks=acks), "t") is Written.DONE
    tables.keep_view(View((), ready=True))
    assert _write_without_agent(tables, settings(A, (A, B), acks=acks), "u") is Written.DONE


def _write_without_agent(tables: DictTables, of: Settings, text: str = "s") -> Any:
    """Have a worker create a session; nobody answers what it asks."""
    talk = worker.create(tables, of, key_of(text), record())
    next(talk)
    with pytest.raises(StopIteration) as end:
        talk.send(None)
    return end.value.value


def test_a_worker_that_is_gone_is_told_nothing(pump: Pump) -> None:
    pump.cut = {(A, B), (A, C)}
    machine = pump.machines[A]
    done = machine.tables.perform("create", (key_of("s"), record(n="1")))
    pump.do(machine, machine.node.asked(5, local.Await(77, key_of("s"), done.time, 500), pump.now))
    pump.do(machine, machine.node.gone(5, pump.now))
    pump.run(2)
    assert machine.reply_to(77) is None
    assert not pump.machines[A].node.waiting._told


def test_an_await_from_before_the_others_were_dialed_is_not_answered_too_soon() -> None:
    pump = Pump(A, B)
    pump.start_all()
    pump.run(1)
    pump.kill(A)
    pump.run(1)
    pump.start(A)
    assert pump.create(A, "s", n="1").enough


def test_with_acks_0_an_await_is_answered_when_one_other_host_has_it() -> None:
    pump = Pump(A, B, C, acks=0)
    pump.start_all()
    pump.run(1)
    assert pump.create(A, "s", n="1").hosts == 1


def test_a_stopping_agent_says_goodbye_and_is_suspect_at_once(pump: Pump) -> None:
    machine = pump.machines[C]
    pump.do(machine, machine.node.stopping(pump.now))
    pump.run(0.01)
    assert pump.state(A, C) == pump.state(B, C) == "suspect"


def test_the_status_is_plain_data_about_every_host(pump: Pump) -> None:
    pump.kill(C)
    pump.run(1)
    view = pump.ask(A, local.Status(0)).view
    assert {one["name"]: one["state"] for one in view["members"]} == {A: "alive", B: "alive", C: "suspect"}
    assert {one["name"]: one["lag_ms"] for one in view["members"]} == {A: 0, B: 0, C: None}
    assert view["ready"]


def test_what_is_over_is_swept(pump: Pump) -> None:
    pump.create(A, "s", n="1")
    pump.run(2)
    pump.now += 3700
    for machine in pump.machines.values():
        machine.node.host.members.slept(3700)
    pump.run(5)
    assert all(machine.tables.replica(key_of("s")) is None for machine in pump.machines.values())


def test_a_host_that_lacks_much_is_not_sent_all_of_it_at_once(pump: Pump) -> None:
    """Sessions may be large, and what waits for a host has a bound: beyond it the stream is given up."""
    one, other = pump.machines[A], pump.machines[B]
    keys = [key_of(f"s{number}") for number in range(300)]
    for key in keys:
        one.tables.perform("create", (key, record(a="1")))
    pump.do(one, one.node.written(pump.now))
    assert pump.run(5, lambda: other.tables.replica(keys[-1]) is not None)
    pump.run(1)
    for key in keys:
        other.tables.drop({key: other.tables.names(bucket_of(key))[key]})
        one.tables.perform("update", (key, record(a="2")._replace(version=2), 1))
    start, most = len(pump.log), 0
    pump.do(one, one.node.written(pump.now))
    assert pump.run(5, lambda: all(other.tables.replica(key) for key in keys))
    pump.run(0.1)
    waiting = 0
    for by, to, message in pump.log[start:]:
        if (by, to) == (A, B):
            waiting += len(message.changes) if isinstance(message, wire.Copies) else 0
        elif (by, to) == (B, A) and isinstance(message, wire.Stored):
            most, waiting = max(most, waiting), 0
    assert 0 < most <= 64


def test_no_host_says_that_it_has_less_than_nothing_of_a_log(pump: Pump) -> None:
    one = pump.machines[A]
    out = one.node.host.peers[B].out
    assert out
    one.tables.perform("create", (key_of("s"), record(a="1")))
    one.node.written(pump.now)
    one.node.blocked(out.number, pump.now)
    one.node.received(out.number, wire.Stored(one.tables.origin, wire.Progress(-5, -5)), pump.now)
    flow = one.node.shipping.flows[B]
    assert min(*flow.stored, *flow.read) >= 0, "else a look into the log raises, in each tick from then on"
