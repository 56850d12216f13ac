"""Complete copies travel as they lie in storage: what arrives is what was sent, or is refused, and never half of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.store.peers.tables_help import X, Y, audit, create, dump, makers, retire, ship, update, values_of

from sojourn.cluster.tables import bucket_of
from sojourn.cluster.wire import Change
from sojourn.store.peers.tables import HostTables
from sojourn.store.peers.wholes import read


@pytest.fixture
def three() -> Iterator[list[HostTables]]:
    """Hosts with nothing but what the test puts there."""
    with makers("lmdb") as (maker,):
        hosts = [maker() for _ in range(3)]
        assert all(isinstance(host, HostTables) for host in hosts)
        yield hosts  # type: ignore[misc]  # just asserted


def sent(host: HostTables) -> Change:
    """Return the session X as another host is sent it: two hosts have written it."""
    (change,) = host.copies([X])
    assert change.packed
    return change


@pytest.fixture
def change(three: list[HostTables]) -> Change:
    one, other, _ = three
    create(one, principal="alice", cookie_age=60)
    ship(one, other)
    update(other, a=b"3")
    ship(other, one)
    return sent(one)


def test_it_arrives_as_it_lay(three: list[HostTables], change: Change) -> None:
    one, _, third = three
    third.accept([change])
    assert dump(third) == dump(one)
    assert sent(third).packed == change.packed
    assert third.load(X) == one.load(X)
    audit(third)


def test_of_a_session_that_is_there_it_is_merged(three: list[HostTables], change: Change) -> None:
    one, other, _ = three
    update(other, b=b"4")
    other.accept([change])
    assert values_of(other) == {"a": b"3", "b": b"4"}
    one.accept([sent(other)])
    assert dump(one) == dump(other)


def test_one_that_is_over_is_not_taken(three: list[HostTables], change: Change) -> None:
    third = three[2]
    third.clock.now += 1801  # type: ignore[attr-defined]
    third.accept([change])
    assert third.some_names(None, 9) == ()


def test_what_has_ended_travels_as_a_replica(three: list[HostTables]) -> None:
    one = three[0]
    create(one, X)
    create(one, Y)
    retire(one, X, Y)
    one.perform("delete", (Y, None))
    assert [change.packed for change in one.copies([X, Y])] == [None, None]


def test_no_changed_byte_and_no_missing_one_becomes_another_session(
    three: list[HostTables], change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is changed on its way or on the sender's disk: it is refused, left out, or shown as it was."""
    caplog.set_level(logging.CRITICAL, "sojourn.store")
    third, packed = three[2], change.packed or b""
    original = three[0].load(X)
    flipped = [packed[:at] + bytes([packed[at] ^ 1 << at % 8]) + packed[at + 1 :] for at in range(len(packed))]
    for bad in (*flipped, *(packed[:size] for size in range(len(packed))), packed + b"\0"):
        try:
            third.accept([change._replace(packed=bad)])
        except ValueError:
            assert third.some_names(None, 9) == ()
            continue
        assert third.load(X) in (None, original)
        _ = third.replica(X), third.names(bucket_of(X)), third.log(third.origin, 0, 0, 9)
        third.writing(lambda rows: rows.erase(X))


def test_what_is_new_since_the_last_piece_travels_so_too_and_what_is_not_as_a_part(three: list[HostTables]) -> None:
    one, other, _ = three
    create(one, Y)
    ship(one, other)
    cut = other.progress()[one.origin].level
    create(one, X)
    update(one, Y, a=b"2")
    changes = one.log(one.origin, cut, cut, 9).changes
    assert {change.name: (change.complete, bool(change.packed)) for change in changes} == {
        X: (True, True),
        Y: (False, False),
    }
    ship(one, other)
    assert dump(other) == dump(one)
    audit(other)


def test_under_another_name_it_does_not_open(change: Change, caplog: pytest.LogCaptureFixture) -> None:
    assert read(Y, change.packed or b"") is None
    assert "written under another key" in caplog.text
