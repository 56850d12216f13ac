"""Delta: applying and merging keep what only one side changed, in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.delta import Delta, apply, merge

KEYS = st.sampled_from("abcd")
VALUES = st.sampled_from([b"1", b"2", b"3"])
RECORDS = st.dictionaries(KEYS, VALUES)


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    changed = draw(RECORDS)
    return Delta(changed, frozenset(draw(st.sets(KEYS))) - set(changed))


@given(RECORDS, deltas())
def test_what_is_set_is_there_and_what_is_removed_is_not(values: dict[str, bytes], delta: Delta) -> None:
    after = apply(values, delta)
    assert dict(delta.set).items() <= after.items()
    assert not delta.removed & set(after)
    untouched = set(values) - set(delta.set) - delta.removed
    assert {key: after[key] for key in untouched} == {key: values[key] for key in untouched}


@given(RECORDS, deltas())
def test_applying_twice_changes_nothing_more(values: dict[str, bytes], delta: Delta) -> None:
    once = apply(values, delta)
    assert apply(once, delta) == once


@given(RECORDS, deltas())
def test_without_other_writers_a_merge_is_an_apply(read: dict[str, bytes], delta: Delta) -> None:
    merged = merge(read, read, delta, {})
    assert (merged.values, merged.conflicts) == (apply(read, delta), ())


@given(RECORDS, deltas(), deltas())
def test_deltas_on_different_keys_commute_and_never_conflict(read: dict[str, bytes], one: Delta, two: Delta) -> None:
    mine = set(one.set) | one.removed
    two = Delta({k: v for k, v in two.set.items() if k not in mine}, two.removed - mine)
    first_then_second = merge(read, apply(read, one), two, {})
    second_then_first = merge(read, apply(read, two), one, {})
    assert first_then_second.values == second_then_first.values
    assert first_then_second.conflicts == second_then_first.conflicts == ()


@given(RECORDS, deltas(), deltas())
def test_every_key_on_which_a_writer_was_overruled_is_named(read: dict[str, bytes], one: Delta, two: Delta) -> None:
    found = apply(read, one)
    merged = merge(read, found, two, {})
    overruled = {key for key in found.keys() | read.keys() if found.get(key) != read.get(key)} & {
        key for key in found.keys() | merged.values.keys() if merged.values.get(key) != found.get(key)
    }
    assert set(merged.conflicts) == overruled


def test_an_edit_against_a_removal_is_a_conflict_that_the_later_commit_wins() -> None:
    read = {"cart": b"lamp"}
    edited, removed = Delta({"cart": b"lamp, chair"}), Delta(removed=frozenset({"cart"}))
    assert merge(read, apply(read, edited), removed, {}) == ({}, ("cart",))
    assert merge(read, apply(read, removed), edited, {}) == ({"cart": b"lamp, chair"}, ("cart",))


def test_a_resolver_sees_three_values_and_may_remove_the_key() -> None:
    seen = []
    resolvers = {"n": lambda *values: seen.append(values)}  # returns None
    merged = merge({"n": b"1"}, {"n": b"2"}, Delta({"n": b"3"}), resolvers)
    assert (merged.values, merged.conflicts, seen) == ({}, (), [(b"1", b"2", b"3")])


def test_no_value_is_shown() -> None:
    assert repr(Delta({"password": b"hunter2"}, frozenset({"x"}))) == "<Delta sets ['password'], removes ['x']>"
