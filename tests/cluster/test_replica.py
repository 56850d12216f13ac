"""What each verb makes of a copy, and what two copies make of each other: one promise a test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.cluster.clock import ZERO, Stamp
from sojourn.cluster.replica import (
    MOST_MARKS,
    MOST_REMOVED,
    Mark,
    Replica,
    conflicts,
    created,
    ended,
    floor_of,
    merge,
    missing,
    positions,
    received,
    since,
    to_end,
    to_record,
    touched,
    updated,
)
from sojourn.core.record import Record

A, B, C = b"aaaa", b"bbbb", b"cccc"
KEEP = 99_000
RECORD = Record({"cart": b"lamp", "user": b"7"}, 10.0, 20.0, 30.0, 1, "alice", 60)


def at(time: int, origin: bytes = A) -> Stamp:
    return Stamp(time, origin)


FIRST = created(RECORD, at(1), KEEP)


def write(copy: Replica, stamp: Stamp, **values: bytes | None) -> Replica:
    """Return *copy* after an update that sets *values*; None removes."""
    seen = to_record(copy)
    after = {key: data for key, data in {**seen.values, **values}.items() if data is not None}
    return updated(copy, seen._replace(values=after, version=seen.version + 1), stamp, seen.version, KEEP)


def retire(copy: Replica, stamp: Stamp, successor: bytes | None) -> Replica:
    seen = to_record(copy)
    tombstone = Record({}, 10.0, 21.0, 31.0, seen.version + 1, retired=True, successor=successor)
    return updated(copy, tombstone, stamp, seen.version, KEEP)


# -- the verbs ---------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_written() -> None:
    assert to_record(FIRST) == RECORD._replace(seen=floor_of(FIRST))
    later = RECORD._replace(values={"user": b"8"}, principal=None, cookie_age=None, version=2, expires_at=40.0)
    assert to_record(updated(FIRST, later, at(2), 1, KEEP))._replace(seen=b"") == later


def test_an_update_stamps_the_keys_that_differ_and_no_others() -> None:
    after = write(FIRST, at(2, B), cart=b"chair", desk=b"1", user=b"7")
    assert {key: cell.stamp.time for key, cell in after.cells.items()} == {"cart": 2, "desk": 2, "user": 1}
    assert after.head == FIRST.head
    assert list(after.cells) == sorted(after.cells)


def test_a_removed_key_is_remembered_and_not_shown() -> None:
    after = write(FIRST, at(2), cart=None)
    assert "cart" not in to_record(after).values
    assert after.cells["cart"] == (at(2), None)
    again = write(after, at(3), cart=b"lamp")
    assert to_record(again).values["cart"] == b"lamp"


def test_the_version_counts_the_writes_of_all_hosts() -> None:
    one, other = write(FIRST, at(2), cart=b"x"), write(write(FIRST, at(2, B), user=b"1"), at(3, B), user=b"2")
    assert (one.version, other.version, merge(one, other).version) == (2, 3, 4)


def test_an_update_leads_to_the_version_that_its_record_names() -> None:
    """Whoever wrote it goes on from there, without reading it again."""
    for version in (2, 3, 7):
        assert updated(FIRST, RECORD._replace(version=version), at(2), 1, KEEP).version == version
    assert created(RECORD._replace(version=5), at(1), KEEP).version == 5


def test_a_touch_moves_the_times_and_is_no_write() -> None:
    after = touched(FIRST, 25_000, 35_000, at(2, B))
    assert (to_record(after).accessed_at, to_record(after).expires_at) == (25.0, 35.0)
    assert after.version == FIRST.version
    assert after.seen == FIRST.seen


def test_an_ended_session_keeps_its_end_and_nothing_else() -> None:
    for over in (ended(FIRST, at(2), KEEP), retire(FIRST, at(2), b"next")):
        assert over.has_ended
        assert over.cells == {}
        assert over.keep_ms == KEEP
        assert merge(write(FIRST, at(9, B), cart=b"late"), over).cells == {}


def test_a_renewal_leads_to_its_successor() -> None:
    tombstone = to_record(retire(FIRST, at(2), b"next"))
    assert (tombstone.retired, tombstone.successor, tombstone.expires_at) == (True, b"next", 31.0)
    assert tombstone.values == {}


def test_no_repr_shows_a_value_or_who_it_is() -> None:
    for shown in (repr(FIRST), repr(FIRST.cells), repr(ended(FIRST, at(2), KEEP))):
        assert "lamp" not in shown
        assert "alice" not in shown


# -- merging -----------------------------------------------------------------------------------------------------


def test_different_keys_changed_at_once_are_both_kept() -> None:
    merged = merge(write(FIRST, at(2), cart=b"chair"), write(FIRST, at(2, B), user=b"8"))
    assert to_record(merged).values == {"cart": b"chair", "user": b"8"}


def test_the_same_key_goes_to_the_later_stamp_on_every_host() -> None:
    one, other = write(FIRST, at(3), cart=b"one"), write(FIRST, at(2, B), cart=b"other")
    assert merge(one, other) == merge(other, one)
    assert to_record(merge(one, other)).values["cart"] == b"one"


def test_no_earlier_write_brings_a_removed_key_back() -> None:
    merged = merge(write(FIRST, at(3), cart=None), write(FIRST, at(2, B), cart=b"other"))
    assert "cart" not in to_record(merged).values


@pytest.mark.parametrize("time", [2, 9])
def test_no_write_brings_an_ended_session_back_however_late_its_stamp(time: int) -> None:
    over = ended(FIRST, at(5), KEEP)
    merged = merge(write(FIRST, at(time, B), cart=b"x"), over)
    assert merged.deleted == over.deleted
    assert merged.cells == {}


def test_a_tombstone_over_nothing_ends_the_session_that_comes_later() -> None:
    tombstone = ended(Replica(), at(5), KEEP)
    assert positions(tombstone) == {at(5)}, "it stands in the log under its own stamp, and under no other"
    assert merge(tombstone, FIRST).deleted is not None


# -- what travels ------------------------------------------------------------------------------------------------


def test_a_copy_stands_once_in_the_log_of_each_writer_and_where_it_was_touched() -> None:
    after = touched(write(write(FIRST, at(2, B), cart=b"x"), at(3), cart=b"y"), 1, 2, at(4, C))
    assert positions(after) == {at(3), at(2, B), at(4, C)}
    assert ZERO not in positions(Replica())


def test_a_delta_is_small_and_what_is_new_goes_whole() -> None:
    big = created(RECORD._replace(values={"cart": bytes(100_000), "n": b"1"}), at(1), KEEP)
    after = write(big, at(5, B), n=b"2")
    assert since(after, 4).cells == {"n": after.cells["n"]}
    assert received(big, since(after, 4), B, 4) == after
    for whole in (since(after, 0), since(write(big, at(5), n=b"2"), 0)):
        assert whole.cells.keys() == {"cart", "n"}
    assert since(FIRST, 0) is FIRST
    new = created(RECORD, at(7), KEEP)
    assert since(new, 6) is new, "a session that began after the cut needs no second question"


def test_the_end_of_a_session_travels_whatever_the_cut() -> None:
    """Its stamp may be earlier than that of a write it took away; cut by it, a delta would have neither."""
    over = merge(write(FIRST, at(8), cart=b"x"), ended(FIRST, at(2, B), KEEP))
    assert since(over, 5) is over


def test_what_a_delta_shows_of_a_third_host_is_counted() -> None:
    """Or an update made on top of it would find the version unchanged, and take the value for removed."""
    theirs = write(FIRST, at(5, B), desk=b"1")
    both = write(theirs, at(6), cart=b"x")
    after = received(FIRST, since(both, 4), A, 4)
    assert after == both
    assert after is not None
    assert after.version == both.version == 3


def test_a_third_hosts_writes_that_may_lack_one_are_asked_for_whole() -> None:
    first = write(FIRST, at(3, B), desk=b"1")
    second = write(first, at(5, B), lamp=b"1")
    both = write(second, at(6), cart=b"x")
    assert received(FIRST, since(both, 4), A, 4) is None
    assert received(first, since(both, 4), A, 4) == both
    assert received(FIRST, since(both, 2), A, 2) is None, "there the delta has both, which nobody can know"
    assert received(merge(FIRST, since(both, 2)), since(both, 4), A, 4) == both


def test_an_older_write_of_a_third_host_waits_for_its_own_log() -> None:
    theirs = write(FIRST, at(3, B), desk=b"1")
    both = write(theirs, at(6), cart=b"x")
    after = received(FIRST, since(both, 4), A, 4)
    assert after is not None
    assert after.seen == {A: Mark(6, 2)}
    assert to_record(after).values == {"cart": b"x", "user": b"7"}


def test_where_sessions_move_the_origins_own_gap_counts_too() -> None:
    later = write(write(FIRST, at(3), desk=b"1"), at(6), cart=b"x")
    assert received(FIRST, since(later, 4), A, 4, follows=False) is None
    assert received(write(FIRST, at(3), desk=b"1"), since(later, 4), A, 4, follows=False) == later


def test_a_delta_that_comes_twice_or_late_changes_nothing() -> None:
    one = write(FIRST, at(5, B), cart=b"x")
    two = write(one, at(6, B), cart=b"y")
    assert received(two, since(one, 4), B, 4) == two
    assert received(two, since(two, 4), B, 4) == two


# -- removed keys are bounded ------------------------------------------------------------------------------------


def used_up(count: int, first: Replica = FIRST) -> Replica:
    """Return a copy after *count* keys that were set and removed again, such as those of forms."""
    copy = first
    for number in range(count):
        copy = write(copy, at(10 + 2 * number), **{f"form{number}": b"x"})
        copy = write(copy, at(11 + 2 * number), **{f"form{number}": None})
    return copy


def test_removed_keys_do_not_add_up_for_ever() -> None:
    copy = used_up(3 * MOST_REMOVED)
    assert len(copy.cells) == MOST_REMOVED + 2
    assert to_record(copy).values == RECORD.values


def test_a_forgotten_removal_still_holds_for_who_has_the_key() -> None:
    behind = write(FIRST, at(10), form0=b"x")
    ahead = used_up(MOST_REMOVED + 10)
    assert "form0" not in ahead.cells
    assert merge(behind, ahead) == merge(ahead, behind) == ahead
    assert since(ahead, 10) is ahead, "a delta could not say it"
    assert since(ahead, 10_000_000).cells == {}


def test_of_a_key_whose_removal_is_forgotten_only_a_write_that_had_not_seen_it_comes_back() -> None:
    unseen = write(FIRST, at(9, B), form0=b"y")
    merged = merge(used_up(MOST_REMOVED + 10), unseen)
    assert to_record(merged).values == {**RECORD.values, "form0": b"y"}
    kept = merge(used_up(MOST_REMOVED - 10), unseen)
    assert to_record(kept).values == RECORD.values


# -- conflicts and ends ------------------------------------------------------------------------------------------


def test_a_key_that_two_hosts_changed_at_once_is_named() -> None:
    one, other = write(FIRST, at(3), cart=b"one"), write(FIRST, at(2, B), cart=b"other", user=b"8")
    assert conflicts(one, since(other, 1)) == conflicts(other, since(one, 1)) == ("cart",)
    assert conflicts(one, since(write(FIRST, at(2, B), cart=b"one"), 1)) == (), "both wrote the same"


def test_who_has_seen_the_others_write_is_in_no_conflict() -> None:
    one = write(FIRST, at(3), cart=b"one")
    after = write(one, at(4, B), cart=b"two")
    assert conflicts(one, since(after, 1)) == conflicts(after, since(one, 1)) == ()


def test_what_a_renewal_on_another_host_left_behind_is_named() -> None:
    renewed, late = retire(FIRST, at(3), b"next"), write(FIRST, at(4, B), cart=b"late")
    assert conflicts(renewed, since(late, 1)) == conflicts(late, since(renewed, 1)) == ("cart",)
    assert conflicts(FIRST, renewed) == (), "the renewal had seen these"


@pytest.mark.parametrize("over", [ended(FIRST, at(3), KEEP), retire(FIRST, at(3), None)], ids=["logout", "login"])
def test_what_a_logout_or_a_login_ends_is_silent(over: Replica) -> None:
    late = write(FIRST, at(4, B), cart=b"late")
    assert conflicts(over, late) == conflicts(late, over) == ()


def test_a_logout_ends_the_session_that_was_renewed_meanwhile_on_another_host() -> None:
    renewed, over = retire(FIRST, at(3), b"next"), ended(FIRST, at(2, B), KEEP)
    assert to_end(renewed, over) == to_end(over, renewed) == {b"next"}
    both = merge(renewed, over)
    assert to_end(FIRST, both) == to_end(both) == {b"next"}, "also for a host that learns of both at once"
    assert to_end(renewed, ended(renewed, at(5), KEEP)) == {b"next"}, "and where the renewed one is ended itself"


def test_who_ends_an_old_id_and_knows_that_it_is_one_ends_nothing_else_unless_there_was_a_logout() -> None:
    renewed = retire(FIRST, at(3), b"next")
    buried, over = ended(renewed, at(5), KEEP, alone=True), ended(FIRST, at(2, B), KEEP)
    assert to_end(renewed, buried) == to_end(buried) == frozenset()
    for one, other in ((buried, over), (over, buried)):
        assert to_end(one, other) == to_end(merge(one, other)) == {b"next"}


def test_of_two_renewals_at_once_each_that_meets_the_logout_ends() -> None:
    one, two = retire(FIRST, at(3), b"one"), retire(FIRST, at(4, B), b"two")
    over = ended(FIRST, at(2, C), KEEP)
    assert to_end(one, over) == {b"one"}
    assert to_end(merge(one, over), two) == {b"one", b"two"}
    assert to_end(merge(one, two), over) == {b"two"}, "a copy leads to one successor, the later"


def test_a_renewal_or_an_end_alone_ends_nothing_else() -> None:
    assert to_end(FIRST, retire(FIRST, at(3), b"next")) == frozenset()
    assert to_end(FIRST, ended(FIRST, at(3), KEEP)) == frozenset()
    assert to_end(ended(FIRST, at(3), KEEP), retire(FIRST, at(4), None)) == frozenset()


# -- floors ------------------------------------------------------------------------------------------------------


def test_a_copy_lacks_nothing_of_its_own_floor() -> None:
    both = merge(write(FIRST, at(2), cart=b"x"), write(FIRST, at(3, B), user=b"8"))
    assert missing(floor_of(both), both) == {}
    assert missing(floor_of(FIRST), both) == {}
    assert missing(floor_of(both), FIRST) == {A: 2, B: 3}
    assert missing(floor_of(both), None) == {A: 2, B: 3}


def test_a_session_that_was_ended_lacks_nothing() -> None:
    """Nothing that another host has could change it, so no question is asked for a cookie that was logged out."""
    assert missing(floor_of(write(FIRST, at(9, C), cart=b"x")), ended(FIRST, at(3), KEEP)) == {}


@given(st.binary(max_size=2_000))
def test_what_is_no_floor_asks_for_nothing(floor: bytes) -> None:
    wanted = missing(floor, None)
    assert len(wanted) <= MOST_MARKS
    assert not wanted or len(floor) % 12 == 0


def test_a_floor_has_a_bound_and_names_the_last_writers() -> None:
    seen = {number.to_bytes(4, "big"): Mark(1_000 - number, 1) for number in range(200)}
    floor = floor_of(Replica(seen=seen))
    assert len(floor) == MOST_MARKS * 12
    assert set(missing(floor, None).values()) == set(range(1_000, 1_000 - MOST_MARKS, -1))
