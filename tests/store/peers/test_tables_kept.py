"""What both kinds of tables promise of what they keep: ends, the index, digests, what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.store.peers.tables_help import (
    KINDS,
    TAG,
    Clock,
    Maker,
    X,
    Y,
    a_record,
    audit,
    compare,
    create,
    dump,
    makers,
    retire,
    settle,
    ship,
    update,
    values_of,
)

from sojourn.cluster.clock import Stamp
from sojourn.cluster.replica import Deleted, Head, Mark, Replica, Times
from sojourn.cluster.tables import BUCKETS, View, bucket_of
from sojourn.cluster.wire import Change, Changes, Listing, Member, Progress
from sojourn.core.ops import Written
from sojourn.store.peers import packing
from sojourn.store.peers.packing import Stored
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key

DONE, EXISTS, GONE, STALE = Written.DONE, Written.EXISTS, Written.GONE, Written.STALE


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    with makers(request.param) as found:
        yield found[0]


# -- ends --------------------------------------------------------------------------------------------------------


def test_no_late_write_revives_what_was_ended(make: Maker) -> None:
    one, other = make(), make()
    create(one)
    ship(one, other)
    one.perform("delete", (X, None))
    update(other, a=b"late")
    settle([one, other])
    assert dump(one) == dump(other)
    assert one.load(X) is None
    assert one.replica(X)


def test_an_ended_session_is_remembered_as_long_as_it_could_have_lived(make: Maker) -> None:
    tables = make()
    tables.lifetime_ms = 3_600_000
    create(tables)
    tables.perform("delete", (X, None))
    make.clock.now += 3599
    tables.sweep(64)
    assert tables.replica(X)
    make.clock.now += 1
    tables.sweep(64)
    assert tables.replica(X) is None
    assert tables.some_names(None, 9) == ()
    audit(tables)


def test_a_renewed_session_leads_on_for_its_grace_and_is_remembered_after_it(make: Maker) -> None:
    tables = make()
    tables.lifetime_ms = 3_600_000
    create(tables)
    retire(tables, X, Y)
    assert tables.load(X).successor == Y  # type: ignore[union-attr]
    make.clock.now += 10
    tables.sweep(64)
    assert tables.load(X) is None
    assert tables.perform("create", (X, a_record())).answer is EXISTS
    assert tables.perform("update", (X, a_record(3), 2)).answer is GONE
    assert tables.perform("scan", ()).answer.keys == ()
    audit(tables)


def test_a_logout_ends_the_renewed_session_also_where_the_host_died_that_knew_of_both(make: Maker) -> None:
    one, other, third = make(), make(), make()
    create(one)
    for host in (other, third):
        ship(one, host)
    create(one, Y)
    for host in (other, third):
        ship(one, host)
    retire(one, X, Y)
    other.perform("delete", (X, None))
    ship(one, other)
    assert other.load(Y) is None
    third.accept(other.copies([X]))
    assert third.load(Y) is None, "without a word of what the dead host had made of the successor"
    empty = make()
    empty.accept(other.copies([X]))
    empty.accept(one.copies([Y]))
    assert empty.load(Y) is None, "nor does it begin where nothing was"
    audit(third)


def test_an_old_id_can_be_ended_alone_as_when_all_others_are_revoked_within_its_grace(make: Maker) -> None:
    one, other = make(), make()
    create(one)
    create(one, Y)
    retire(one, X, Y)
    one.perform("delete_many", ((X,),))
    settle([one, other])
    assert one.load(Y) == other.load(Y) != None  # noqa: E711
    assert one.load(X) is other.load(X) is None


def test_a_logout_ends_the_session_that_was_renewed_on_another_host_meanwhile(make: Maker) -> None:
    one, other = make(), make()
    create(one)
    ship(one, other)
    create(one, Y)
    retire(one, X, Y)
    other.perform("delete", (X, None))
    settle([one, other])
    assert (one.load(Y), other.load(Y)) == (None, None)
    assert dump(one) == dump(other)
    for host in (one, other):
        audit(host)


def test_a_logout_ends_a_renewed_session_that_comes_later_than_the_news_of_it(make: Maker) -> None:
    one, other = make(), make()
    create(one)
    ship(one, other)
    create(one, Y)
    retire(one, X, Y)
    update(one, Y, a=b"on")  # so it stands behind the renewal in the log
    other.perform("delete", (X, None))
    ship(one, other, limit=1, pieces=1)
    assert other.replica(X).retired  # type: ignore[union-attr]
    ship(one, other)
    assert other.load(Y) is None


def test_to_delete_a_tombstone_does_not_end_what_took_over(make: Maker) -> None:
    one, other = make(), make()
    create(one)
    create(one, Y)
    retire(one, X, Y)
    ship(one, other)
    one.perform("delete_many", ([X],))
    settle([one, other])
    assert values_of(one, Y) == values_of(other, Y) == a_record().values


def test_clashes_are_named(make: Maker) -> None:
    one, other = make(), make()
    create(one)
    ship(one, other)
    update(one, a=b"one", b=b"2")
    update(other, a=b"other")
    at = other.progress()[one.origin]
    (clash,) = other.store(one.log(one.origin, at.cursor, at.level, 9)).clashes
    assert clash == (X, ("a",))
    assert other.store(one.log(one.origin, at.cursor, at.level, 9)).clashes == (), "once"


def test_what_is_over_by_now_is_not_begun_with(make: Maker) -> None:
    clock = Clock()
    one, other = make(), make(clock)
    create(one, seconds=60)
    one.perform("enlist", (TAG, X, START, START + 60))
    clock.now += 60
    ship(one, other)
    assert other.some_names(None, 9) == ()
    assert other.progress()[one.origin] == one.progress()[one.origin]


# -- the index ---------------------------------------------------------------------------------------------------


def test_the_index_is_shipped_and_what_was_taken_out_stays_out(make: Maker) -> None:
    one, other = make(), make()
    for key in (X, Y):
        one.perform("enlist", (TAG, key, START, START + 900))
    ship(one, other)
    assert set(other.perform("find", (TAG,)).answer.keys) == {X, Y}
    assert other.perform("delist", (TAG, [X, a_key(9)])).time
    one.perform("enlist", (b"u" * 32, X, START, START + 900))
    settle([one, other])
    assert one.perform("find", (TAG, None, 9)).answer == other.perform("find", (TAG, None, 9)).answer == ((Y,), None)
    make.clock.now += 900
    assert [host.sweep(64) for host in (one, other)] == [3, 3]
    assert dump(one) == {}
    audit(one)


def test_pages_end_and_pass_what_has_ended(make: Maker) -> None:
    tables = make()
    keys = sorted(a_key(number) for number in range(40))
    for key in keys:
        create(tables, key)
        tables.perform("enlist", (TAG, key, START, START + 900))
    gone = keys[::2]
    assert tables.perform("delete_many", (gone,)).answer == 20
    tables.perform("delist", (TAG, gone))
    for verb, first in (("scan", ()), ("find", (TAG,))):
        found: list[bytes] = []
        cursor = None
        while True:
            page = tables.perform(verb, (*first, cursor, 7)).answer
            found += page.keys
            if (cursor := page.cursor) is None:
                break
        assert found == keys[1::2]


# -- comparing ---------------------------------------------------------------------------------------------------


def test_equal_copies_have_equal_digests_and_others_do_not(make: Maker) -> None:
    one, other = make(), make()
    for number in range(50):
        create(one, a_key(number))
    one.perform("enlist", (TAG, X, START, START + 900))
    ship(one, other)
    assert one.digests(0, BUCKETS) == other.digests(0, BUCKETS)
    assert len(one.digests(0, BUCKETS)) == BUCKETS
    update(one, a=b"9")
    differing = [
        bucket for bucket, digest in one.digests(0, BUCKETS).items() if digest != other.digests(bucket, 1)[bucket]
    ]
    assert differing == [bucket_of(X)]
    assert one.digests(bucket_of(X), 1, lambda name: name != X) == other.digests(
        bucket_of(X), 1, lambda name: name != X
    )
    compare([one, other])
    assert dump(one) == dump(other)


def test_only_what_is_still_as_it_was_offered_is_forgotten(make: Maker) -> None:
    tables = make()
    create(tables, X)
    create(tables, Y)
    given = {**tables.names(bucket_of(X)), **tables.names(bucket_of(Y))}
    update(tables, Y, a=b"9")
    assert tables.drop(given) == 1
    assert (tables.replica(X), tables.load(Y) is None) == (None, False)
    audit(tables)


def test_all_names_are_gone_through_in_slices(make: Maker) -> None:
    tables = make()
    for number in range(10):
        create(tables, a_key(number))
        tables.perform("enlist", (TAG, a_key(number), START, START + 900))
    found: list[bytes] = []
    while names := tables.some_names(found[-1] if found else None, 3):
        found += names
    assert len(found) == len(set(found)) == 20


def test_empty_buckets_are_passed_over(make: Maker) -> None:
    tables = make()
    assert tables.next_bucket(0) == BUCKETS
    for number in range(10):
        create(tables, a_key(number))
    tables.perform("enlist", (TAG, X, START, START + 900))
    first, found = 0, []
    while (first := tables.next_bucket(first)) < BUCKETS:
        found.append(first)
        first += 1
    assert found == sorted({*(bucket_of(a_key(number)) for number in range(10)), bucket_of(TAG)})


# -- what no host says -------------------------------------------------------------------------------------------

STAMP = Stamp(round(START * 1000) << 16, b"abcd")
TIMES = Times(STAMP, 5, round(START * 1000) + 9000)
FINE = Replica({}, times=TIMES, seen={b"abcd": Mark(STAMP.time, 1)})
WHOLE = packing.pack(X + Y, Stored(FINE._replace(head=Head(STAMP, 5)), 0))[packing.FILED :]
"""A session as it lies in storage, under the name of an entry of the index."""

UNFIT = [
    Change(b"short", 1, True, FINE),
    Change(X, 1, True, None),
    Change(X + Y, 1, True, FINE),
    Change(X, 1, True, None, Listing(STAMP.time, b"abcd", 9, True)),
    Change(X + Y, 1, True, None, Listing(STAMP.time, b"abc", 9, True)),
    Change(X + Y, 1, True, None, Listing(-1, b"abcd", 9, True)),
    Change(X + Y, 1, True, FINE, Listing(STAMP.time, b"abcd", 9, True)),
    Change(X + Y, 1, True, None, Listing(STAMP.time, b"abcd", 9, True), WHOLE),
    Change(X, 1, True, FINE._replace(seen={b"abcde": Mark(5, 1)})),
    Change(X, 1, True, FINE._replace(seen={b"abcd": Mark(-5, 1)})),
    Change(X, 1, True, FINE._replace(seen={b"abcd": Mark(5, 1 << 64)})),
    Change(X, 1, True, FINE._replace(seen={})),
    Change(X, 1, True, FINE._replace(times=TIMES._replace(stamp=Stamp(7, b"")))),
    Change(X, 1, True, FINE._replace(times=TIMES._replace(expires_ms=1 << 70))),
    Change(X, 1, True, FINE._replace(deleted=Deleted(STAMP, -1))),
    Change(X, 1, True, FINE._replace(seen={b"abcd": Mark(STAMP.time + (25 * 3_600_000 << 16), 1)})),
]


@pytest.mark.parametrize("change", UNFIT, ids=range(len(UNFIT)))
def test_what_no_host_says_is_refused_and_nothing_of_it_is_stored(make: Maker, change: Change) -> None:
    tables = make()
    with pytest.raises(ValueError, match=r"cannot be|a day ahead"):
        tables.store(Changes(b"abcd", 0, Progress(9, 9), (Change(Y, 1, True, FINE), change)))
    with pytest.raises(ValueError, match=r"cannot be|a day ahead"):
        tables.accept([change])
    assert tables.some_names(None, 9) == ()
    assert tables.progress() == {tables.origin: Progress()}
    tables.accept([Change(Y, 1, True, FINE)])
    audit(tables)


def test_nobody_makes_a_host_write_with_stamps_that_others_refuse(make: Maker) -> None:
    one, other = make(), make()
    far = STAMP.time + (25 * 3_600_000 << 16)
    with pytest.raises(ValueError, match="a day ahead"):
        one.store(Changes(one.origin, 0, Progress(far, far), ()))
    create(one)
    ship(one, other)
    assert other.load(X)


def test_the_view_is_kept(make: Maker) -> None:
    tables = make()
    assert tables.view() == View()
    view = View((Member("a:1", 3, "alive", b"abcd", True),), True)
    tables.keep_view(view)
    assert tables.view() == view
