"""With copies=k a session is on k hosts, wherever it is asked for; and it stays on k when hosts come and go."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.pump import START, Pump, key_of, record

from sojourn.cluster import local, ring, wire, worker
from sojourn.cluster.replica import floor_of
from sojourn.cluster.tables import BUCKETS, View
from sojourn.core.ops import Written
from sojourn.errors import StoreUnavailable

HOSTS = ("a:1", "b:1", "c:1", "d:1", "e:1")


def started(hosts: tuple[str, ...] = HOSTS, copies: int = 2, **changes: Any) -> Pump:
    pump = Pump(*hosts, copies=copies, dead_after=3.0, **changes)
    pump.start_all()
    assert pump.run(10, lambda: all(pump.is_ready(name) for name in hosts))
    assert pump.run(10, lambda: all(one.node.shipping.is_settled() for one in pump.machines.values()))
    return pump


@pytest.fixture
def pump() -> Pump:
    return started()


def owners(pump: Pump, text: str) -> tuple[str, ...]:
    up = [name for name, machine in pump.machines.items() if machine.up]
    return ring.owners(key_of(text), up, 2)


def holders(pump: Pump, text: str) -> set[str]:
    return {name for name, one in pump.machines.items() if one.up and one.tables.replica(key_of(text))}


def stranger(pump: Pump, text: str) -> str:
    return next(name for name in HOSTS if name not in owners(pump, text))


def create(pump: Pump, text: str) -> local.Settled:
    return pump.create(owners(pump, text)[0], text, n="1")


def forward(pump: Pump, name: str, verb: str, *arguments: Any, **changes: Any) -> local.Forwarded:
    request = local.Forward(0, changes.pop("key", arguments[0]), verb, arguments, changes.pop("wait_ms", 500))
    answer = pump.ask(name, request, **changes)
    assert isinstance(answer, local.Forwarded)
    return answer


def load(pump: Pump, name: str, text: str) -> Any:
    answer = forward(pump, name, "load", key_of(text))
    assert answer.failed is None, answer.failed
    return answer.answer


def test_a_write_goes_to_the_owners_and_to_nobody_else(pump: Pump) -> None:
    for number in range(30):
        settled = create(pump, f"s{number}")
        assert (settled.hosts, settled.enough) == (1, True)
    pump.run(3)
    assert all(holders(pump, f"s{number}") == set(owners(pump, f"s{number}")) for number in range(30))


@pytest.mark.parametrize("hosts", [HOSTS[:3], HOSTS], ids=len)
def test_a_write_costs_the_same_messages_however_many_hosts_there_are(hosts: tuple[str, ...]) -> None:
    pump = started(hosts)
    mark = len(pump.log)
    for number in range(50):
        text = f"s{number}"
        pump.create(ring.owners(key_of(text), hosts, 2)[0], text, n="1")
    sent = [one for _, _, one in pump.log[mark:] if isinstance(one, wire.Changes)]
    assert len([one for one in sent if one.changes]) == 50
    assert len(sent) < 60 + len(hosts) * len(hosts)


def test_a_host_without_a_copy_has_an_owner_load_it(pump: Pump) -> None:
    create(pump, "s")
    found = load(pump, stranger(pump, "s"), "s")
    assert found[0] == {"n": b"1"}
    assert load(pump, stranger(pump, "s"), "nothing") is None


def test_an_update_goes_to_the_host_that_showed_the_version(pump: Pump) -> None:
    create(pump, "s")
    name = stranger(pump, "s")
    load(pump, name, "s")
    answer = forward(pump, name, "update", key_of("s"), record(n="2")._replace(version=2), 1)
    assert (answer.answer, answer.failed) == ("done", None)
    assert load(pump, name, "s")[0] == {"n": b"2"}


def test_who_has_created_a_session_elsewhere_knows_its_version(pump: Pump) -> None:
    name = stranger(pump, "s")
    assert forward(pump, name, "create", key_of("s"), record(n="1")).answer == "done"
    changed = record(n="2")._replace(version=2)
    assert forward(pump, name, "update", key_of("s"), changed, 1).answer == "done"
    assert forward(pump, name, "update", key_of("s"), changed, 1).answer == "stale"


def test_a_version_that_no_host_has_shown_is_stale_without_a_message(pump: Pump) -> None:
    create(pump, "s")
    mark = len(pump.log)
    answer = forward(pump, stranger(pump, "s"), "update", key_of("s"), record(n="2")._replace(version=2), 1)
    assert answer.answer == "stale"
    assert not [one for _, _, one in pump.log[mark:] if isinstance(one, wire.Do)]


def test_a_version_that_a_dead_host_has_shown_is_stale(pump: Pump) -> None:
    create(pump, "s")
    name = stranger(pump, "s")
    load(pump, name, "s")
    pump.kill(owners(pump, "s")[0])
    pump.run(0.05)
    assert forward(pump, name, "touch", key_of("s"), 1.0, 2.0, 1).answer == "stale"


def test_a_read_goes_to_the_next_owner_when_one_dies_meanwhile(pump: Pump) -> None:
    create(pump, "s")
    pump.run(1)
    name, first = stranger(pump, "s"), owners(pump, "s")[0]
    pump.cut = {(name, first)}
    pump.later(lambda: pump.kill(first), 0.05)
    assert load(pump, name, "s")[0] == {"n": b"1"}


def test_a_write_whose_fate_is_unknown_is_not_sent_again(pump: Pump) -> None:
    name, first = stranger(pump, "s"), owners(pump, "s")[0]
    pump.cut = {(first, name)}
    pump.later(lambda: pump.kill(first), 0.05)
    mark = len(pump.log)
    answer = forward(pump, name, "create", key_of("s"), record(n="1"))
    assert answer.failed is not None
    assert "may have done it" in answer.failed
    assert len([one for _, _, one in pump.log[mark:] if isinstance(one, wire.Do)]) == 1


def test_a_forwarded_write_is_acknowledged_like_any_other(pump: Pump) -> None:
    answer = forward(pump, stranger(pump, "s"), "create", key_of("s"), record(n="1"))
    assert answer.answer == "done"
    assert holders(pump, "s") == set(owners(pump, "s"))


def test_with_no_owner_in_reach_a_forward_fails_at_once(pump: Pump) -> None:
    create(pump, "s")
    name = stranger(pump, "s")
    for owner in owners(pump, "s"):
        pump.kill(owner)
    pump.run(0.05)
    began = pump.now
    assert forward(pump, name, "load", key_of("s")).failed
    assert pump.now - began < 0.01


def test_an_operation_that_does_not_fit_is_answered_and_not_performed(pump: Pump) -> None:
    assert forward(pump, HOSTS[0], "drop_everything", key_of("s")).failed
    assert forward(pump, stranger(pump, "s"), "create", key_of("s"), "no record").failed


def test_a_scan_goes_to_the_host_that_is_named(pump: Pump) -> None:
    create(pump, "s")
    pump.run(1)
    name = owners(pump, "s")[1]
    answer = forward(pump, stranger(pump, "s"), "scan", None, 100, key=name.encode())
    assert list(answer.answer[0]) == [key_of("s")]


@pytest.mark.slow
def test_when_a_host_dies_its_sessions_are_copied_until_there_are_two_again(pump: Pump) -> None:
    texts = [f"s{number}" for number in range(60)]
    for text in texts:
        create(pump, text)
    pump.run(1)
    pump.kill(HOSTS[2])
    assert pump.run(20, lambda: all(holders(pump, text) == set(owners(pump, text)) for text in texts))


@pytest.mark.slow
def test_a_host_that_joins_takes_its_share_and_the_others_forget_it() -> None:
    pump = Pump(*HOSTS, copies=2)
    for name in HOSTS[:4]:
        pump.start(name)
    assert pump.run(10, lambda: all(pump.is_ready(name) for name in HOSTS[:4]))
    texts = [f"s{number}" for number in range(60)]
    for text in texts:
        create(pump, text)
    pump.run(2)
    pump.start(HOSTS[4])
    assert pump.run(20, lambda: pump.is_ready(HOSTS[4]))
    assert pump.run(20, lambda: all(holders(pump, text) == set(owners(pump, text)) for text in texts))
    assert any(HOSTS[4] in owners(pump, text) for text in texts)


def test_at_rest_too_copies_go_where_they_belong_as_many_a_second_as_there_is_room_for(pump: Pump) -> None:
    texts = [f"s{number}" for number in range(100)]
    for text in texts:
        pump.machines[stranger(pump, text)].tables.perform("create", (key_of(text), record(START + pump.now)))
    pump.run(4)
    assert [text for text in texts if holders(pump, text) != {*owners(pump, text)}] == []


@pytest.mark.slow
def test_writes_during_a_move_are_on_all_owners_after_it(pump: Pump) -> None:
    texts = [f"s{number}" for number in range(40)]
    for text in texts:
        create(pump, text)
    pump.kill(HOSTS[0])
    for round in range(2, 12):
        for text in texts:
            name = next(name for name in HOSTS[1:] if pump.machines[name].tables.replica(key_of(text)))
            replica = pump.machines[name].tables.replica(key_of(text))
            assert replica
            changed = record(n=str(round), **{f"k{round}": "x"})._replace(version=replica.version + 1)
            pump.write(name, "update", key_of(text), changed, replica.version)
        pump.run(0.7)
    pump.run(15)
    for text in texts:
        assert holders(pump, text) == set(owners(pump, text))
        found = [pump.values(name, text) for name in owners(pump, text)]
        assert found[0] == found[1]
        assert found[0] is not None
        assert found[0]["n"] == b"11"


@pytest.mark.slow
def test_a_host_that_leaves_hands_its_sessions_on_and_says_when_it_is_done(pump: Pump) -> None:
    texts = [f"s{number}" for number in range(60)]
    for text in texts:
        create(pump, text)
    pump.run(1)
    answer = pump.ask(HOSTS[1], local.Leave(0, 20_000), seconds=25)
    assert answer.view["left"]
    assert pump.machines[HOSTS[1]].ended
    left = {text: {name for name in holders(pump, text) if name != HOSTS[1]} for text in texts}
    assert all(left[text] == set(owners(pump, text)) for text in texts)
    pump.run(1)
    assert pump.state(HOSTS[0], HOSTS[1]) == "left"


def test_a_host_that_cannot_hand_on_says_so_and_stays() -> None:
    pump = started(HOSTS[:3])
    for number in range(20):
        pump.create(ring.owners(key_of(f"s{number}"), HOSTS[:3], 2)[0], f"s{number}", n="1")
    pump.kill(HOSTS[0])
    pump.kill(HOSTS[2])
    answer = pump.ask(HOSTS[1], local.Leave(0, 1_000), seconds=3)
    assert not answer.view["left"]
    assert not pump.machines[HOSTS[1]].ended
    assert not pump.machines[HOSTS[1]].node.host.leaving


def talk_of(pump: Pump, name: str, talk: worker.Talk[Any]) -> Any:
    """Return what a worker's talk comes to, that asks its agent once."""
    try:
        talk.send(pump.ask(name, next(talk)))
    except StopIteration as end:
        return end.value
    raise AssertionError("it asks once")


def floor(pump: Pump, name: str, text: str) -> bytes | None:
    """Have a worker of a host say what a browser has seen by now; None: it cannot."""
    machine = pump.machines[name]
    try:
        return bytes(talk_of(pump, name, worker.floor(machine.tables, machine.node.host.settings, key_of(text))))
    except StoreUnavailable:
        return None


def test_what_a_browser_has_seen_says_the_host_that_has_written_and_no_other(pump: Pump) -> None:
    create(pump, "s")
    pump.run(1)
    one, other = owners(pump, "s")
    pump.cut = {(one, other), (other, one)}
    here = stranger(pump, "s")
    assert load(pump, here, "s")
    changed = record(n="2")._replace(version=2)
    assert forward(pump, here, "update", key_of("s"), changed, 1, wait_ms=3000).answer == Written.DONE.value
    writer = next(name for name in (one, other) if pump.machines[name].tables.replica(key_of("s")).version > 1)  # type: ignore[union-attr]
    newest = pump.machines[writer].tables.replica(key_of("s"))
    assert newest
    assert floor(pump, here, "s") == floor_of(newest)
    pump.kill(writer)
    pump.run(0.01)
    assert floor(pump, here, "s") is None  # the other one has not got the write, and would say less


def becomes_an_owner(pump: Pump, name: str, leaves: str) -> None:
    """Let a worker of a host see it among those that keep what another one has kept, which is about to leave."""
    tables = pump.machines[name].tables
    members = [one._replace(state="left") if one.name == leaves else one for one in tables.view().members]
    tables.keep_view(View(tuple(members), ready=True))


def test_who_comes_to_keep_a_session_meanwhile_says_what_was_written_for_it_and_not_what_it_has(pump: Pump) -> None:
    """The host that has written is about to leave; the copy that came from the other one is from before the write."""
    create(pump, "s")
    pump.run(1)
    writer, other = owners(pump, "s")
    here = ring.owners(key_of("s"), [name for name in HOSTS if name != writer], 2)[1]
    machine, key = pump.machines[here], key_of("s")
    before = pump.machines[other].tables.copies((key,))
    rules = machine.node.host.settings
    assert talk_of(pump, here, worker.load(machine.tables, rules, key))
    changed = record(n="2")._replace(version=2)
    assert talk_of(pump, here, worker.update(machine.tables, rules, key, changed, 1)) is Written.DONE
    newest = pump.machines[writer].tables.replica(key)
    assert newest
    machine.tables.accept(before)
    becomes_an_owner(pump, here, writer)
    assert worker.places(machine.tables, rules, key)
    assert floor(pump, here, "s") == floor_of(newest)
    machine.tables.accept(pump.machines[writer].tables.copies((key,)))
    assert floor(pump, here, "s") == floor_of(newest)
    assert worker.shows_own_writes(machine.tables, rules, key)  # from now on without a question


def comes_to_keep_what_it_was_shown(pump: Pump) -> tuple[str, str, str]:
    """Have a host look at a session on others, and then be one that keeps it; return it, and those that kept it."""
    create(pump, "s")
    pump.run(1)
    one, other = owners(pump, "s")
    here = ring.owners(key_of("s"), [name for name in HOSTS if name != one], 2)[1]
    machine = pump.machines[here]
    assert talk_of(pump, here, worker.load(machine.tables, machine.node.host.settings, key_of("s")))
    becomes_an_owner(pump, here, one)
    return here, one, other


def test_what_names_a_version_goes_to_who_has_shown_it_also_where_this_host_keeps_the_session_by_now(
    pump: Pump,
) -> None:
    """It knows nothing of the session yet: to say that it is gone would let it live on after its logout."""
    here, one, other = comes_to_keep_what_it_was_shown(pump)
    machine, key = pump.machines[here], key_of("s")
    rules = machine.node.host.settings
    assert worker.places(machine.tables, rules, key)
    assert machine.tables.replica(key) is None
    assert talk_of(pump, here, worker.delete(machine.tables, rules, key, 1)) is Written.DONE
    pump.run(1)
    assert all(pump.machines[name].tables.replica(key).deleted for name in (one, other))  # type: ignore[union-attr]


def test_once_the_copy_here_was_shown_what_names_its_version_stays_here(pump: Pump) -> None:
    here, _, other = comes_to_keep_what_it_was_shown(pump)
    machine, key = pump.machines[here], key_of("s")
    rules = machine.node.host.settings
    machine.tables.accept(pump.machines[other].tables.copies((key,)))
    with pytest.raises(StopIteration):
        next(worker.load(machine.tables, rules, key))
    assert isinstance(next(worker.touch(machine.tables, rules, key, 1.0, 2.0, 1)), local.Await)


def test_a_host_that_came_to_keep_a_session_does_not_say_that_it_is_gone_before_it_has_looked(pump: Pump) -> None:
    create(pump, "s")
    pump.run(1)
    one, other = owners(pump, "s")
    host = pump.machines[other].node.host
    assert host.knows(key_of("s"))
    pump.machines[other].tables.drop(
        {
            name: digest
            for bucket in range(BUCKETS)
            for name, digest in pump.machines[other].tables.names(bucket).items()
        }
    )
    host.settled = False  # sessions were spread anew a moment ago
    here = stranger(pump, "s")
    pump.cut = {(one, here)}
    request = local.Forward(0, key_of("s"), "load", (key_of("s"),), 300)
    assert pump.ask(here, request).failed is not None
    pump.heal()
    assert load(pump, here, "s")


def test_who_lacks_what_the_browser_has_seen_is_not_the_last_owner_that_is_asked(pump: Pump) -> None:
    create(pump, "s")
    pump.run(1)
    one, other = owners(pump, "s")
    here, key = stranger(pump, "s"), key_of("s")
    assert load(pump, here, "s")  # of the first of them, which would be asked again
    seen = floor_of(pump.machines[one].tables.replica(key))  # type: ignore[arg-type]
    tables = pump.machines[one].tables
    tables.drop({name: digest for bucket in range(BUCKETS) for name, digest in tables.names(bucket).items()})
    request = local.Forward(0, key, "load", (key,), 500, floor=seen)
    assert pump.ask(here, request).answer[0] == {"n": b"1"}
    changed = record(n="2")._replace(version=2)
    assert forward(pump, here, "update", key, changed, 1).answer == Written.DONE.value
    assert pump.machines[other].tables.replica(key).version == 2  # type: ignore[union-attr]


def test_where_a_session_has_ended_another_owner_that_is_cut_off_is_not_asked_for_it(pump: Pump) -> None:
    """The browser's floor may be older than what was written last: the session ended before that could be told."""
    create(pump, "s")
    pump.run(1)
    one, other = owners(pump, "s")
    here, key = stranger(pump, "s"), key_of("s")
    assert load(pump, here, "s")
    seen = floor_of(pump.machines[one].tables.replica(key))  # type: ignore[arg-type]
    pump.cut = {(one, other), (other, one)}
    changed = record(n="2")._replace(version=2)
    assert forward(pump, here, "update", key, changed, 1, wait_ms=3000).answer == Written.DONE.value
    writer = next(name for name in (one, other) if pump.machines[name].tables.replica(key).version > 1)  # type: ignore[union-attr]
    assert pump.machines[writer].tables.perform("delete", (key, 2)).answer is Written.DONE
    talk = worker.load_seen(pump.machines[here].tables, pump.machines[here].node.host.settings, key, seen)
    answer = pump.ask(here, next(talk))
    assert answer.answer is None
    with pytest.raises(StopIteration) as end:
        talk.send(pump.ask(here, talk.send(answer)))
    assert end.value.value is None


def test_who_has_shown_nothing_of_what_the_browser_has_seen_is_not_asked_to_change_it(pump: Pump) -> None:
    """It would say that the session is gone, and a login or a logout would go on while it lives."""
    create(pump, "s")
    pump.run(1)
    one, other = owners(pump, "s")
    here, key = stranger(pump, "s"), key_of("s")
    seen = floor_of(pump.machines[one].tables.replica(key))  # type: ignore[arg-type]
    for name in (one, other):
        tables = pump.machines[name].tables
        tables.drop({one: digest for bucket in range(BUCKETS) for one, digest in tables.names(bucket).items()})
    assert pump.ask(here, local.Forward(0, key, "load", (key,), 500, floor=seen)).answer is None
    assert forward(pump, here, "delete", key, 1).answer == Written.STALE.value
    assert pump.ask(here, local.Forward(0, key, "load", (key,), 500)).answer is None
    assert forward(pump, here, "delete", key, 1).answer == Written.GONE.value, "nobody has seen anything of it"


def test_a_copy_that_is_missing_although_everything_was_shipped_is_found_and_brought() -> None:
    pump = Pump(*HOSTS[:2])
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in HOSTS[:2]))
    pump.create(HOSTS[0], "s", n="1")
    pump.run(1)
    tables = pump.machines[HOSTS[1]].tables
    tables.drop({name: digest for bucket in range(BUCKETS) for name, digest in tables.names(bucket).items()})
    assert pump.values(HOSTS[1], "s") is None
    assert pump.run(1200, lambda: pump.values(HOSTS[1], "s") == {"n": b"1"})
