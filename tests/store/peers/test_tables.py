"""What both kinds of tables promise: logs, progress, deadlines, ends, the index, digests, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.store.peers.tables_help import KINDS, Clock, Maker, audit, compare, dump, logs, makers, settle, ship

from sojourn.cluster.clock import Stamp, milliseconds
from sojourn.cluster.replica import Deleted, Mark, Replica, Times, floor_of
from sojourn.cluster.tables import BUCKETS, View, bucket_of
from sojourn.cluster.wire import Change, Changes, Listing, Member, Progress
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.store.peers.tables_base import BaseTables
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key

DONE, EXISTS, GONE, STALE = Written.DONE, Written.EXISTS, Written.GONE, Written.STALE
TAG = b"t" * 32
X, Y = a_key(1), a_key(2)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    with makers(request.param) as found:
        yield found[0]


def a_record(
    version: int = 1, seconds: float = 1800.0, values: dict[str, bytes] | None = None, **fields: Any
) -> Record:
    values = {"a": b"1", "b": b"2"} if values is None else values
    return Record(values, START, START, START + seconds, version, **fields)


def create(tables: BaseTables, key: bytes = X, **fields: Any) -> int:
    done = tables.perform("create", (key, a_record(**fields)))
    assert done.answer is DONE
    return done.time


def update(tables: BaseTables, key: bytes = X, **values: bytes) -> int:
    found = tables.load(key)
    assert found
    record = found._replace(values={**found.values, **values}, version=found.version + 1, seen=b"")
    done = tables.perform("update", (key, record, found.version))
    assert done.answer is DONE
    return done.time


def retire(tables: BaseTables, key: bytes, successor: bytes | None, seconds: float = 10.0) -> None:
    found = tables.load(key)
    assert found
    record = a_record(found.version + 1, seconds, {}, retired=True, successor=successor)
    assert tables.perform("update", (key, record, found.version)).answer is DONE


def values_of(tables: BaseTables, key: bytes = X) -> Any:
    found = tables.load(key)
    return found and found.values


# -- verbs -------------------------------------------------------------------------------------------------------


def test_verbs_answer_as_those_of_any_store(make: Maker) -> None:
    tables = make()
    perform = tables.perform
    assert perform("update", (X, a_record(2), 1)).answer is GONE
    assert perform("create", (X, a_record())).answer is DONE
    assert perform("create", (X, a_record())) == (EXISTS, 0)
    assert perform("update", (X, a_record(2), 7)) == (STALE, 0)
    assert perform("touch", (X, START + 1, START + 900, 1)).answer is DONE
    assert perform("load", (X,)).answer == a_record()._replace(
        accessed_at=START + 1,
        expires_at=START + 900,
        seen=tables.load(X).seen,  # type: ignore[union-attr]
    )
    assert perform("delete", (X, 7)) == (STALE, 0)
    assert perform("delete", (X, 1)).answer is DONE
    assert perform("load", (X,)).answer is None
    assert perform("create", (X, a_record())) == (EXISTS, 0), "an ended id is never used again"
    assert [perform(verb, (X, *rest)).answer for verb, *rest in (("delete",), ("touch", START, START, 1))] == [
        GONE,
        GONE,
    ]
    assert perform("load_many", ((X, Y),)).answer == [None, None]
    assert perform("delete_many", ((X, Y),)) == (0, 0)
    audit(tables)


def test_arguments_may_have_come_over_the_wire(make: Maker) -> None:
    tables = make()
    for verb, *arguments in (
        ("create", X, a_record()),
        ("update", X, a_record(2), 1),
        ("enlist", TAG, X, START, START + 9.5),
    ):
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(arguments))
        assert tables.perform(verb, plain).time
    assert tables.load(X) == a_record(2)._replace(seen=floor_of(tables.replica(X) or Replica()))
    for verb, arguments in (("close", ()), ("create", (b"short", a_record())), ("enlist", (X, b"", 1.0, 2.0))):
        with pytest.raises(ValueError, match="no"):
            tables.perform(verb, arguments)


def test_what_is_loaded_says_what_a_browser_has_seen(make: Maker) -> None:
    one, other = make(), make()
    create(one)
    ship(one, other)
    update(other, a=b"9")
    replica = other.replica(X)
    assert replica
    assert other.load(X).seen == floor_of(replica)  # type: ignore[union-attr]
    assert other.perform("load_many", ([X],)).answer[0].seen == floor_of(replica)


# -- the log -----------------------------------------------------------------------------------------------------


def test_a_session_written_a_hundred_times_stands_in_the_log_once(make: Maker) -> None:
    tables = make()
    create(tables)
    times = [update(tables, a=b"%d" % number) for number in range(100)]
    assert logs(tables) == {tables.origin: [(times[-1], X)]}
    audit(tables)


def test_a_piece_that_reaches_the_end_raises_the_level_and_others_do_not(make: Maker) -> None:
    tables = make()
    times = [create(tables, a_key(number)) for number in range(5)]
    first = tables.log(tables.origin, 0, 0, 3)
    assert [change.time for change in first.changes] == times[:3]
    assert first.progress == Progress(times[2], 0)
    last = tables.log(tables.origin, times[2], 0, 3)
    assert (last.progress, last.after) == (Progress(times[4], times[4]), times[2])
    assert tables.progress() == {tables.origin: Progress(times[4], times[4])}


def test_a_delta_holds_what_is_later_than_the_level_however_far_was_read(make: Maker) -> None:
    """A session moves in the log behind a reader's back; what it was before that must be in the delta."""
    tables, reader = make(), make()
    create(tables, X)
    create(tables, Y)
    ship(tables, reader)
    update(tables, X, a=b"early")
    update(tables, Y, a=b"first")
    piece = tables.log(tables.origin, tables.progress()[tables.origin].cursor, 0, 9)  # an empty look from the end
    assert piece.changes == ()
    at = reader.progress()[tables.origin]
    passed = tables.log(tables.origin, at.cursor, at.level, 1)
    update(tables, Y, b=b"late")
    update(tables, X, b=b"late")
    reader.store(passed)
    assert reader.progress()[tables.origin].level == at.level, "it has not seen the end"
    ship(tables, reader)
    assert dump(reader) == dump(tables)
    assert values_of(reader, X) == {"a": b"early", "b": b"late"}


def test_a_counter_travels_alone_and_a_new_session_whole(make: Maker) -> None:
    tables, reader = make(), make()
    create(tables, values={"blob": b"x" * 2000, "n": b"1"})
    whole = tables.log(tables.origin, 0, 0, 9)
    assert whole.changes[0].complete
    reader.store(whole)
    update(tables, n=b"2")
    create(tables, Y)
    delta, new = tables.log(tables.origin, whole.progress.cursor, whole.progress.level, 9).changes
    assert (delta.complete, new.complete) == (False, True)
    assert delta.replica
    assert set(delta.replica.cells) == {"n"}


def test_a_delta_of_what_is_not_here_is_wanted_and_the_progress_waits(make: Maker) -> None:
    tables, reader = make(), make()
    create(tables)
    ship(tables, reader)
    assert reader.drop(reader.names(bucket_of(X))) == 1
    before = reader.progress()[tables.origin]
    update(tables, a=b"2")
    piece = tables.log(tables.origin, before.cursor, before.level, 9)
    assert reader.store(piece).wanted == (X,)
    assert reader.progress()[tables.origin] == before
    reader.accept(tables.copies([X]))
    assert reader.store(piece).wanted == ()
    assert reader.progress()[tables.origin] == piece.progress
    assert dump(reader) == dump(tables)


def test_progress_never_goes_back(make: Maker) -> None:
    tables = make()
    for cursor, level in ((9, 9), (7, 3), (8, 9)):
        tables.store(Changes(b"abcd", 0, Progress(cursor, level), ()))
    assert tables.progress()[b"abcd"] == Progress(9, 9)


def test_a_reader_that_holds_few_names_gets_them_alone_and_in_pieces(make: Maker) -> None:
    tables, reader = make(), make()
    for number in range(200):
        create(tables, a_key(number))
    held = {a_key(number) for number in (3, 190)}
    ship(tables, reader, limit=2, holds=held.__contains__)
    assert set(reader.some_names(None, 999)) == held
    assert reader.progress()[tables.origin] == tables.progress()[tables.origin]
    piece = tables.log(tables.origin, 0, 0, 2, lambda name: False)
    assert not piece.changes
    assert 0 < piece.progress.cursor < tables.progress()[tables.origin].cursor, "one look passes so many names only"


def test_a_piece_is_cut_at_about_a_mebibyte(make: Maker) -> None:
    tables = make()
    for number in range(12):
        create(tables, a_key(number), values={"blob": bytes(200_000)})
    assert len(tables.log(tables.origin, 0, 0, 512).changes) == 6


def test_a_session_at_two_places_of_one_log_travels_once(make: Maker) -> None:
    tables = make()
    create(tables)
    time = tables.perform("touch", (X, START + 1, START + 900, 1)).time
    assert len(logs(tables)[tables.origin]) == 2
    assert [change.time for change in tables.log(tables.origin, 0, 0, 9).changes] == [time]


def test_the_log_of_a_dead_host_is_given_by_those_that_have_it(make: Maker) -> None:
    dead, heir, late = make(), make(), make()
    create(dead)
    ship(dead, heir)
    piece = heir.log(dead.origin, 0, 0, 9)
    assert piece.progress.level == heir.progress()[dead.origin].level
    late.store(piece)
    assert dump(late) == dump(heir)


# -- the clock ---------------------------------------------------------------------------------------------------


def test_stamps_follow_the_wall_clock_and_never_go_back(make: Maker) -> None:
    clock = Clock()
    tables = make(clock)
    first = create(tables)
    assert milliseconds(first) == round(START * 1000)
    clock.now -= 3600
    assert update(tables, a=b"2") == first + 1
    clock.now += 7200
    assert milliseconds(update(tables, a=b"3")) == round((START + 3600) * 1000)


def test_a_write_is_later_than_all_that_was_stored_before_it(make: Maker) -> None:
    early, late = Clock(), Clock()
    late.now += 3600
    slow, fast = make(early), make(late)
    time = create(fast)
    ship(fast, slow)
    assert update(slow, a=b"2") == time + 1


@pytest.mark.parametrize("way", ["swept", "dropped"])
def test_no_stamp_is_given_twice_when_the_last_session_has_gone(make: Maker, way: str) -> None:
    clock = Clock()
    tables = make(clock)
    time = create(tables, seconds=5)
    if way == "swept":
        clock.now += 10
        assert tables.sweep(9) == 1
    else:
        tables.drop(tables.names(bucket_of(X)))
    assert logs(tables) == {tables.origin: []}
    clock.now -= 3600
    assert tables.progress()[tables.origin] == Progress(time, time), "who waits for it is not left to wait"
    assert tables.log(tables.origin, 0, 0, 9).progress == Progress(time, time)
    assert create(tables, Y) == time + 1


def test_a_touch_that_another_overtook_leaves_the_end_of_the_log_where_it_was(make: Maker) -> None:
    clocks = Clock(), Clock()
    one, other = make(clocks[0]), make(clocks[1])
    create(other)
    ship(other, one)
    time = one.perform("touch", (X, START + 1, START + 900, 1)).time
    clocks[1].now += 60
    other.perform("touch", (X, START + 60, START + 960, 1))
    ship(other, one)
    assert logs(one)[one.origin] == []
    assert one.progress()[one.origin] == Progress(time, time)
    audit(one)


def test_what_others_have_of_this_host_is_not_written_over(make: Maker) -> None:
    """The disk has lost its last transactions: the stamps of these are known elsewhere."""
    tables, lost = make(), 1 << 62
    tables.store(Changes(tables.origin, 0, Progress(lost, lost), ()))
    assert create(tables) == lost + 1


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


# -- what no host says -------------------------------------------------------------------------------------------

STAMP = Stamp(round(START * 1000) << 16, b"abcd")
TIMES = Times(STAMP, 5, round(START * 1000) + 9000)
FINE = Replica({}, times=TIMES, seen={b"abcd": Mark(STAMP.time, 1)})

UNFIT = [
    Change(b"short", 1, True, FINE),
    Change(X, 1, True, None),
    Change(X + Y, 1, True, FINE),
    Change(X, 1, True, None, Listing(STAMP.time, b"abcd", 9, True)),
    Change(X + Y, 1, True, None, Listing(STAMP.time, b"abc", 9, True)),
    Change(X + Y, 1, True, None, Listing(-1, b"abcd", 9, True)),
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


def test_the_view_is_kept(make: Maker) -> None:
    tables = make()
    assert tables.view() == View()
    view = View((Member("a:1", 3, "alive", b"abcd", True),), True)
    tables.keep_view(view)
    assert tables.view() == view
