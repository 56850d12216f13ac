"""What a store promises that lists keys: a principal's by its index, or all sessions'.

The stories run with those in ``capability_contract``.
"""

from __future__ import annotations

from sojourn.core.capability import Acquire, Delist, Enlist, Find, Indexed, Lockable, Page, Scan, Scannable
from sojourn.core.ops import Create, Delete, Load, Update, Written
from sojourn.testing.capability_harness import (
    LONG,
    a_tag,
    about,
    assert_unavailable,
    everything,
    found,
    keys_of,
    scanned,
)
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import ROUNDS, StoreHarness, a_key, a_record

DONE, GONE = Written.DONE, Written.GONE

# -- the index of a principal ----------------------------------------------------------------------------------


@about(Indexed)
def find_returns_the_keys_of_its_tag_and_of_no_other(store: StoreHarness) -> None:
    listed = {
        a_tag(number): {a_key(100 * number + n) for n in range(number % 7)} | {a_key(1)} for number in (1, 2, 254)
    }
    for tag, keys in listed.items():
        for key in keys:
            store.do(Enlist(tag, key, START, LONG))
    for tag, keys in listed.items():
        assert found(store, tag) == keys
    for unknown in (a_tag(0), a_tag(3), a_tag(255), bytes(32), b"\xff" * 32, a_key(1)):
        assert store.do(Find(unknown)) == Page((), None)


@about(Indexed)
def enlisting_twice_lists_once(store: StoreHarness) -> None:
    for _ in range(2):
        store.do(Enlist(a_tag(), a_key(), START, LONG))
    assert found(store, a_tag()) == {a_key()}
    store.do(Delist(a_tag(), [a_key()]))
    assert found(store, a_tag()) == set()


@about(Indexed)
def delist_takes_out_what_it_names_and_passes_over_the_rest(store: StoreHarness) -> None:
    for number in range(100):
        store.do(Enlist(a_tag(1), a_key(number), START, LONG))
    store.do(Enlist(a_tag(2), a_key(0), START, LONG))
    store.do(Delist(a_tag(1), []))
    store.do(Delist(a_tag(3), [a_key(0)]))
    store.do(Delist(a_tag(1), [a_key(number) for number in range(90)] + [a_key(1000), a_key(0)]))
    assert found(store, a_tag(1)) == {a_key(number) for number in range(90, 100)}
    assert found(store, a_tag(2)) == {a_key(0)}


@about(Indexed)
def an_index_of_a_thousand_is_found_in_pages(store: StoreHarness) -> None:
    keys = {a_key(number) for number in range(1000)}
    for key in keys:
        store.do(Enlist(a_tag(), key, START, LONG))
    pages = everything(store, lambda cursor: Find(a_tag(), cursor, 100))
    assert keys_of(pages) == keys
    assert max(len(page.keys) for page in pages) <= 500, "about a hundred were asked for"


@about(Indexed)
def what_is_listed_all_the_time_is_found_while_others_come_and_go(store: StoreHarness) -> None:
    staying = {a_key(number) for number in range(300)}
    going = {a_key(number) for number in range(1000, 1300)}
    for key in sorted(staying | going):
        store.do(Enlist(a_tag(), key, START, LONG))
    coming = iter(range(2000, 2300))
    pages: list[Page] = [store.do(Find(a_tag(), None, 50))]
    while (cursor := pages[-1].cursor) is not None:
        store.do(Delist(a_tag(), [key for key in pages[-1].keys if key in going]))
        for number, _ in zip(coming, range(20), strict=False):
            store.do(Enlist(a_tag(), a_key(number), START, LONG))
        pages.append(store.do(Find(a_tag(), cursor, 50)))
    assert len(pages) > 2, "nothing came or went while it looked"
    assert staying <= keys_of(pages)


@about(Indexed)
def an_entry_is_kept_until_its_end_and_buried_then(store: StoreHarness) -> None:
    empty = len(store.raw.dump())
    store.do(Enlist(a_tag(), a_key(1), START, START + 100))
    store.do(Enlist(a_tag(), a_key(2), START, START + 1000))
    store.sweep(START + 50)
    store.do(Enlist(a_tag(), a_key(3), START + 50, START + 500))
    assert found(store, a_tag()) == {a_key(number) for number in (1, 2, 3)}
    store.sweep(START + 200)
    store.do(Enlist(a_tag(), a_key(4), START + 200, START + 300))
    assert found(store, a_tag()) == {a_key(number) for number in (2, 3, 4)}
    store.sweep(START + 2000)
    assert found(store, a_tag()) == set()
    assert len(store.raw.dump()) == empty, "nothing is left of a principal who does not come again"


@about(Indexed)
def enlisting_again_moves_the_end(store: StoreHarness) -> None:
    store.do(Enlist(a_tag(), a_key(1), START, START + 100))
    store.do(Enlist(a_tag(), a_key(1), START, START + 1000))
    store.sweep(START + 200)
    store.do(Enlist(a_tag(), a_key(2), START + 200, START + 1000))
    assert found(store, a_tag()) == {a_key(1), a_key(2)}


@about(Indexed)
def the_index_comes_before_the_record_and_makes_none(store: StoreHarness) -> None:
    store.do(Enlist(a_tag(), a_key(), START, LONG))
    assert store.do(Load(a_key())) is None
    assert store.raw.read(a_key()) is None
    assert store.do(Update(a_key(), a_record(version=2), base=1)) is GONE
    assert store.do(Delete(a_key())) is GONE
    assert found(store, a_tag()) == {a_key()}
    assert store.do(Create(a_key(), a_record())) is DONE
    assert found(store, a_tag()) == {a_key()}
    store.do(Delist(a_tag(), [a_key()]))
    assert store.do(Load(a_key())) == a_record()


@about(Indexed)
def parallel_enlists_and_delists_are_all_kept(store: StoreHarness) -> None:
    for round in range(ROUNDS):
        tag, keys = a_tag(round), [a_key(100 * round + number) for number in range(8)]
        store.do_all([Enlist(tag, key, START, LONG) for key in keys])
        assert found(store, tag) == set(keys)
        store.do_all([Delist(tag, [key]) for key in keys[:7]])
        assert found(store, tag) == {keys[7]}


@about(Indexed)
def an_index_that_cannot_answer_says_so(store: StoreHarness) -> None:
    assert_unavailable(store, Enlist(a_tag(), a_key(), START, LONG), Delist(a_tag(), [a_key()]), Find(a_tag()))


# -- the scan --------------------------------------------------------------------------------------------------


@about(Scannable)
def a_scan_sees_every_session_and_nothing_else(store: StoreHarness) -> None:
    assert scanned(store) == set()
    keys = {a_key(number) for number in range(300)}
    for key in keys:
        store.do(Create(key, a_record()))
        if Indexed in store.capabilities:
            store.do(Enlist(a_tag(), key, START, LONG))
    if Lockable in store.capabilities:
        for number in range(290, 310):
            store.do(Acquire(a_key(number), b"owner", START, START + 100))
    assert scanned(store) == keys
    assert store.do(Delete(a_key(0))) is DONE
    assert scanned(store) == keys - {a_key(0)}


@about(Scannable)
def a_thousand_sessions_are_scanned_in_pages(store: StoreHarness) -> None:
    keys = {a_key(number) for number in range(1000)}
    for key in keys:
        store.do(Create(key, a_record()))
    pages = everything(store, lambda cursor: Scan(cursor, 100))
    assert keys_of(pages) == keys
    assert max(len(page.keys) for page in pages) <= 500, "about a hundred were asked for"


@about(Scannable)
def sessions_that_are_there_all_the_time_are_scanned_while_others_come_and_go(store: StoreHarness) -> None:
    staying = {a_key(number) for number in range(300)}
    going = {a_key(number) for number in range(1000, 1300)}
    for key in sorted(staying | going):
        store.do(Create(key, a_record()))
    coming = iter(range(2000, 2300))
    pages: list[Page] = [store.do(Scan(None, 50))]
    while (cursor := pages[-1].cursor) is not None:
        for key in pages[-1].keys:
            if key in going:
                store.do(Delete(key))
        for number, _ in zip(coming, range(20), strict=False):
            store.do(Create(a_key(number), a_record()))
        pages.append(store.do(Scan(cursor, 50)))
    assert len(pages) > 2, "nothing came or went while it looked"
    assert staying <= keys_of(pages)


@about(Scannable)
def a_scan_writes_nothing(store: StoreHarness) -> None:
    for number in range(5):
        store.do(Create(a_key(number), a_record()))
    before = store.raw.dump()
    scanned(store)
    assert store.raw.dump() == before


@about(Scannable)
def a_scan_that_cannot_answer_says_so(store: StoreHarness) -> None:
    assert_unavailable(store, Scan())
