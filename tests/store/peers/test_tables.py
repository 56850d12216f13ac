"""What both kinds of tables promise: verbs, logs and progress, the clock."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
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
    create,
    dump,
    logs,
    makers,
    ship,
    update,
    values_of,
)

from sojourn.cluster.clock import milliseconds
from sojourn.cluster.replica import Replica, floor_of
from sojourn.cluster.tables import bucket_of
from sojourn.cluster.wire import Changes, Progress
from sojourn.core.ops import Written
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key

DONE, EXISTS, GONE, STALE = Written.DONE, Written.EXISTS, Written.GONE, Written.STALE


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    with makers(request.param) as found:
        yield found[0]


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
    time = create(tables)
    tables.perform("touch", (X, START + 1, START + 900, 1))
    assert len(logs(tables)[tables.origin]) == 2
    assert [change.time for change in tables.log(tables.origin, 0, 0, 9).changes] == [time]


def test_a_write_is_given_where_it_stands_also_if_its_touch_goes_before_the_next_piece_is_read(make: Maker) -> None:
    """Otherwise nobody would be given it: who read past its own place waited for the touch's, which is gone."""
    here, there, reader = make(), make(), make()
    create(here)
    there.accept(here.copies([X]))
    ship(here, reader)
    update(here, a=b"paid")
    create(here, a_key(9))
    here.perform("touch", (X, START + 1, START + 900, 2))
    ship(here, reader, limit=1, pieces=1)
    for number in range(20, 40):  # so that its touch is the later one
        create(there, a_key(number))
    there.perform("touch", (X, START + 2, START + 901, 1))
    here.accept(there.copies([X]))
    ship(here, reader)
    assert values_of(reader) == {"a": b"paid", "b": b"2"}


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
    tables, lost = make(), round(START * 1000) + 3_600_000 << 16
    tables.store(Changes(tables.origin, 0, Progress(lost, lost), ()))
    assert create(tables) == lost + 1
