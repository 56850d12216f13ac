"""What a store promises of each capability that it has, as stories that run on any store in either colour.

Run them beside the store contract, on a harness that says what its store can do:

    harness = StoreHarness(..., capabilities=capabilities_of(store))

    @pytest.mark.parametrize("story", stories_for(capabilities_of(store)), ids=name_of)
    def test_capabilities(story):
        story(harness)

``capability_harness`` says what ``sweep`` has to do for a storage that has a clock of its own. The stories about
the index and the scan are in ``listing_contract``.
"""

from __future__ import annotations

from random import Random
from typing import Any

from sojourn.core.capability import (
    Acquire,
    Batched,
    DeleteMany,
    Enlist,
    Examinable,
    Finding,
    Indexed,
    LoadMany,
    Lockable,
    Purgeable,
    Release,
    Sweep,
)
from sojourn.core.ops import Create, Delete, Load, Touch, Update, Written
from sojourn.testing import listing_contract  # noqa: F401  its stories belong to the list
from sojourn.testing.capability_harness import (
    CAPABILITIES,
    CAPABILITY_STORIES,
    a_tag,
    about,
    assert_unavailable,
    capabilities_of,
    stories_for,
)
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import ROUNDS, StoreHarness, a_key, a_record

__all__ = ["CAPABILITIES", "CAPABILITY_STORIES", "capabilities_of", "stories_for"]

DONE, GONE = Written.DONE, Written.GONE

# -- many records ----------------------------------------------------------------------------------------------


@about(Batched)
def load_many_answers_in_the_order_of_the_keys(store: StoreHarness) -> None:
    order = [n for n in range(300) if n % 3] + [n for n in range(300) if n % 3 == 0]
    Random(1).shuffle(order)
    for number in range(0, 300, 2):
        store.do(Create(a_key(number), a_record(principal=f"user {number}")))
    for numbers in ([], [0], [1], [2, 2, 1, 2], order):
        answers = store.do(LoadMany([a_key(number) for number in numbers]))
        assert [answer and answer.principal for answer in answers] == [
            None if number % 2 else f"user {number}" for number in numbers
        ]


@about(Batched)
def a_damaged_record_among_many_is_nobody_and_the_others_open(store: StoreHarness) -> None:
    for number in range(3):
        store.do(Create(a_key(number), a_record(principal=f"user {number}")))
    stored = store.raw.read(a_key(1))
    assert stored is not None
    for data in (stored[:-1], stored[:-1] + bytes([stored[-1] ^ 1]), b"{}", store.raw.read(a_key(0)) or b""):
        store.raw.write(a_key(1), data)
        answers = store.do(LoadMany([a_key(number) for number in range(3)]))
        assert [answer and answer.principal for answer in answers] == ["user 0", None, "user 2"]


@about(Batched)
def load_many_writes_nothing(store: StoreHarness) -> None:
    for number in range(5):
        store.do(Create(a_key(number), a_record()))
    before = store.raw.dump()
    store.do(LoadMany([a_key(number) for number in range(10)]))
    assert store.raw.dump() == before


@about(Batched)
def delete_many_removes_what_is_there_and_counts_it(store: StoreHarness) -> None:
    for number in range(200):
        store.do(Create(a_key(number), a_record(version=1 + number)))
    asked = [a_key(number) for number in range(150)] + [a_key(1000 + number) for number in range(20)]
    Random(1).shuffle(asked)
    assert store.do(DeleteMany([])) == 0
    assert store.do(DeleteMany(asked)) == 150
    assert store.do(DeleteMany(asked)) == 0
    assert [store.raw.read(a_key(number)) is None for number in range(200)] == [True] * 150 + [False] * 50
    assert store.do(Load(a_key(199))) == a_record(version=200)


@about(Batched)
def nothing_brings_back_what_delete_many_removed(store: StoreHarness) -> None:
    for number in range(3):
        store.do(Create(a_key(number), a_record()))
    store.do(DeleteMany([a_key(number) for number in range(3)]))
    assert store.do(Update(a_key(0), a_record(version=2), base=1)) is GONE
    assert store.do(Touch(a_key(1), START + 60, START + 1860, base=1)) is GONE
    assert store.do(LoadMany([a_key(number) for number in range(3)])) == [None] * 3


@about(Batched)
def of_parallel_deletes_of_many_each_record_is_counted_once(store: StoreHarness) -> None:
    for round in range(ROUNDS):
        keys = [a_key(10 * round + number) for number in range(10)]
        for key in keys:
            store.do(Create(key, a_record()))
        assert sum(store.do_all([DeleteMany(keys)] * 8)) == 10
        assert store.do(LoadMany(keys)) == [None] * 10


@about(Batched)
def many_records_that_cannot_be_asked_for_say_so(store: StoreHarness) -> None:
    assert_unavailable(store, LoadMany([a_key()]), DeleteMany([a_key()]))


# -- the sweep -------------------------------------------------------------------------------------------------


@about(Purgeable)
def a_sweep_goes_no_further_than_its_limit_and_says_when_it_is_done(store: StoreHarness) -> None:
    for number in range(150):
        store.do(Create(a_key(number), a_record(expires_at=START + 100)))
    store.do(Create(a_key(1000), a_record()))
    assert store.do(Sweep(START + 50)) == 0
    left = 150
    while (looked := store.do(Sweep(START + 200, 40))) == 40:
        now_left = sum(store.raw.read(a_key(number)) is not None for number in range(150))
        assert left - 40 <= now_left < left
        left = now_left
    assert 0 <= looked < 40
    assert all(store.raw.read(a_key(number)) is None for number in range(150))
    assert store.do(Sweep(START + 200)) == 0
    assert store.do(Load(a_key(1000))) == a_record()


@about(Purgeable)
def a_sweep_buries_dead_locks_and_entries_too(store: StoreHarness) -> None:
    empty = len(store.raw.dump())
    store.do(Create(a_key(), a_record(expires_at=START + 100)))
    if Indexed in store.capabilities:
        store.do(Enlist(a_tag(), a_key(), START, START + 100))
    if Lockable in store.capabilities:
        store.do(Acquire(a_key(), b"owner", START, START + 100))
    store.do(Sweep(START + 200))
    assert len(store.raw.dump()) == empty


@about(Purgeable)
def parallel_sweeps_harm_nobody(store: StoreHarness) -> None:
    for number in range(400):
        store.do(Create(a_key(number), a_record(expires_at=START + (100 if number < 300 else 1000))))
    while any(looked == 25 for looked in store.do_all([Sweep(START + 200, 25)] * 8)):
        pass
    assert [store.raw.read(a_key(number)) is not None for number in range(400)] == [False] * 300 + [True] * 100


@about(Purgeable)
def a_sweep_that_cannot_answer_says_so(store: StoreHarness) -> None:
    assert_unavailable(store, Sweep(START))


# -- locks -----------------------------------------------------------------------------------------------------

ANN, BOB, CAT = b"ann's random tok", b"bob's random tok", b"\x00\xff\r\n 'binary\" tok"


@about(Lockable)
def a_lock_is_held_by_one_until_it_is_given_back(store: StoreHarness) -> None:
    assert store.do(Acquire(a_key(), ANN, START, START + 100)) is True
    assert store.do(Acquire(a_key(), BOB, START, START + 100)) is False
    assert store.do(Release(a_key(), BOB)) is False
    assert store.do(Acquire(a_key(), BOB, START, START + 100)) is False
    assert store.do(Release(a_key(), ANN)) is True
    assert store.do(Release(a_key(), ANN)) is False
    assert store.do(Acquire(a_key(), CAT, START, START + 100)) is True
    assert store.do(Release(a_key(), CAT)) is True


@about(Lockable)
def a_lock_is_taken_once_also_by_its_owner(store: StoreHarness) -> None:
    assert store.do(Acquire(a_key(), ANN, START, START + 100)) is True
    assert store.do(Acquire(a_key(), ANN, START, START + 100)) is False


@about(Lockable)
def each_session_has_a_lock_of_its_own(store: StoreHarness) -> None:
    for number in range(3):
        assert store.do(Acquire(a_key(number), ANN, START, START + 100)) is True
    assert store.do(Release(a_key(1), ANN)) is True
    assert [store.do(Acquire(a_key(number), BOB, START, START + 100)) for number in range(3)] == [False, True, False]


@about(Lockable)
def a_lock_is_free_when_its_time_is_over_and_not_before(store: StoreHarness) -> None:
    store.do(Acquire(a_key(), ANN, START, START + 100))
    store.sweep(START + 60)
    assert store.do(Acquire(a_key(), BOB, START + 60, START + 160)) is False
    store.sweep(START + 120)
    assert store.do(Acquire(a_key(), BOB, START + 120, START + 220)) is True


@about(Lockable)
def who_lost_a_lock_cannot_give_it_back_for_another(store: StoreHarness) -> None:
    store.do(Acquire(a_key(), ANN, START, START + 100))
    store.sweep(START + 120)
    store.do(Acquire(a_key(), BOB, START + 120, START + 220))
    assert store.do(Release(a_key(), ANN)) is False
    assert store.do(Acquire(a_key(), CAT, START + 120, START + 220)) is False
    assert store.do(Release(a_key(), BOB)) is True


@about(Lockable)
def of_parallel_acquires_one_wins(store: StoreHarness) -> None:
    owners = [b"owner %d" % number for number in range(8)]
    for round in range(ROUNDS):
        key = a_key(round)
        answers = store.do_all([Acquire(key, owner, START, START + 100) for owner in owners])
        assert answers.count(True) == 1
        assert store.do(Release(key, owners[answers.index(True)])) is True


@about(Lockable)
def of_parallel_acquires_of_a_lock_left_behind_one_wins(store: StoreHarness) -> None:
    owners = [b"owner %d" % number for number in range(8)]
    for round in range(ROUNDS):
        store.do(Acquire(a_key(round), ANN, START, START + 100))
    if Purgeable not in store.capabilities:  # where it is, a lock that is over lies there until somebody takes it
        store.sweep(START + 200)
    for round in range(ROUNDS):
        answers = store.do_all([Acquire(a_key(round), owner, START + 200, START + 300) for owner in owners])
        assert answers.count(True) == 1
        assert store.do(Release(a_key(round), owners[answers.index(True)])) is True


@about(Lockable)
def a_lock_is_no_session_and_stands_in_no_ones_way(store: StoreHarness) -> None:
    store.do(Acquire(a_key(), ANN, START, START + 100))
    assert store.do(Load(a_key())) is None
    assert store.raw.read(a_key()) is None
    assert store.do(Update(a_key(), a_record(version=2), base=1)) is GONE
    assert store.do(Create(a_key(), a_record())) is DONE
    assert store.do(Update(a_key(), a_record(version=2), base=1)) is DONE
    assert store.do(Touch(a_key(), START + 1, START + 1801, base=2)) is DONE
    assert store.do(Load(a_key())) == a_record(version=2, accessed_at=START + 1, expires_at=START + 1801)
    assert store.do(Acquire(a_key(), BOB, START, START + 100)) is False
    assert store.do(Release(a_key(), ANN)) is True
    assert store.do(Delete(a_key(), 2)) is DONE


@about(Lockable)
def nothing_is_left_of_a_lock_whose_holder_died(store: StoreHarness) -> None:
    empty = len(store.raw.dump())
    for number in range(20):
        store.do(Acquire(a_key(number), ANN, START, START + 100))
    store.sweep(START + 200)
    assert len(store.raw.dump()) == empty


@about(Lockable)
def a_lock_that_cannot_be_asked_for_says_so(store: StoreHarness) -> None:
    assert_unavailable(store, Acquire(a_key(), ANN, START, START + 100), Release(a_key(), ANN))


# -- the examination -------------------------------------------------------------------------------------------


class Examine:
    """Not an operation of flows: a session never depends on its answer."""

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.examine()


@about(Examinable)
def a_finding_says_what_is_set_up_what_it_risks_and_what_to_change(store: StoreHarness) -> None:
    findings = store.do(Examine())
    assert isinstance(findings, list)
    for finding in findings:
        assert isinstance(finding, Finding)
        assert all(text and text == text.strip() and "\n" not in text for text in finding), finding


@about(Examinable)
def an_examination_changes_nothing(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    before = store.raw.dump()
    store.do(Examine())
    assert store.raw.dump() == before


@about(Examinable)
def an_examination_that_cannot_be_made_says_so(store: StoreHarness) -> None:
    assert_unavailable(store, Examine())
