"""What every store promises, as stories that run on any store in either colour.

Use it for a store of your own:

    @pytest.mark.parametrize("story", STORIES, ids=name_of)
    def test_contract(story):
        story(StoreHarness(do=..., do_all=..., raw=..., sweep=...))

A story takes a harness around an empty store and raises where the promise is broken, mostly AssertionError. Side
doors let it write and read raw storage, so that ``load`` is not judged by ``create`` alone. No story sleeps or reads
the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sojourn.core.ids import SessionId
from sojourn.core.ops import Create, Delete, Load, Op, Performable, Touch, Update, Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.testing.fakes import START

DONE, EXISTS, GONE, STALE = Written.DONE, Written.EXISTS, Written.GONE, Written.STALE


class RawDoor(Protocol):
    """The side door: the bytes that storage holds under a private key, without the store's own reading."""

    def read(self, key: bytes) -> bytes | None:
        """Return the stored frame, or None."""

    def write(self, key: bytes, data: bytes) -> None:
        """Put *data* in place of the stored frame."""

    def dump(self) -> bytes:
        """Return everything that storage holds, keys and values, in any order."""


@dataclass(frozen=True)
class StoreHarness:
    """A store under test: what performs one operation, what performs many at once, and the side doors."""

    do: Callable[[Performable], Any]
    do_all: Callable[[Sequence[Performable]], list[Any]]
    """Performs operations as much at the same time as the store's colour allows; replies in their order."""
    raw: RawDoor
    sweep: Callable[[float], None]
    """Buries all that is dead at a time; does nothing where the storage's own expiry does it."""
    outage: Callable[[], AbstractContextManager[None]] | None = None
    """Makes the storage unable to answer inside a ``with``; None where nothing can fail."""
    capabilities: frozenset[type] = frozenset()
    """What the store can do beyond the five verbs: protocols of ``sojourn.core.capability``."""


Story = Callable[[StoreHarness], None]
STORIES: list[Story] = []


def story(function: Story) -> Story:
    """Add *function* to the contract."""
    STORIES.append(function)
    return function


def name_of(story: Story) -> str:
    """Return the promise in words."""
    return story.__name__.replace("_", " ")


def rejected_by(make: Callable[[], AbstractContextManager[StoreHarness]], stories: Sequence[Story]) -> set[str]:
    """Return the names of the *stories* that a store breaks. *make* gives a fresh, empty store for each."""
    return {broken.__name__ for broken in stories if _breaks(broken, make)}


def _breaks(story: Story, make: Callable[[], AbstractContextManager[StoreHarness]]) -> bool:
    with make() as harness:
        try:
            story(harness)
        except Exception:
            return True
    return False


def a_record(**changes: Any) -> Record:
    """Return a live record with something in every field; *changes* replace fields."""
    record = Record(
        values={"cart": b"\x01two things", "ключ/钥匙\0": b"", "n": bytes(range(256))},
        created_at=START,
        accessed_at=START + 1.001,
        expires_at=START + 1801.999,
        version=1,
        principal="alice",
        cookie_age=86400,
    )
    return record._replace(**changes)


def a_key(number: int = 1) -> bytes:
    """Return a private key."""
    return SessionId.from_random(number.to_bytes(32, "big")).private


# -- each verb does its own work and no other's ----------------------------------------------------------------


@story
def what_is_created_is_loaded_field_by_field(store: StoreHarness) -> None:
    for number, record in enumerate(_records_of_all_kinds()):
        assert store.do(Create(a_key(number), record)) is DONE
        assert store.do(Load(a_key(number))) == record


def _records_of_all_kinds() -> Iterator[Record]:
    yield a_record()
    yield a_record(values={}, principal=None, cookie_age=None)
    yield a_record(values={f"key {n}": bytes([n]) * n for n in range(256)})
    yield a_record(values={"large": b"\xff" * 200_000})
    yield a_record(version=2**40, principal="者" * 255, created_at=0.001, accessed_at=0.002)
    yield a_record(values={}, retired=True, successor=a_key(99))
    yield a_record(values={}, retired=True, successor=None)


@story
def an_unknown_key_loads_nothing_and_nothing_is_adopted(store: StoreHarness) -> None:
    assert store.do(Load(a_key())) is None
    assert store.do(Load(a_key())) is None
    assert store.raw.read(a_key()) is None


@story
def create_does_not_overwrite(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    assert store.do(Create(a_key(), a_record(principal="mallory"))) is EXISTS
    assert store.do(Load(a_key())) == a_record()


@story
def update_replaces_the_whole_record_at_the_version_it_names(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    after = a_record(version=2, values={"other": b"x"}, principal="bob", cookie_age=None, expires_at=START + 9)
    assert store.do(Update(a_key(), after, base=1)) is DONE
    assert store.do(Load(a_key())) == after


@story
def update_does_not_create(store: StoreHarness) -> None:
    assert store.do(Update(a_key(), a_record(version=2), base=1)) is GONE
    assert store.do(Load(a_key())) is None
    assert store.raw.read(a_key()) is None


@story
def update_at_another_version_changes_nothing(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record(version=5)))
    for base in (4, 6):
        assert store.do(Update(a_key(), a_record(version=base + 1, values={}), base=base)) is STALE
    assert store.do(Load(a_key())) == a_record(version=5)


@story
def touch_moves_the_times_and_nothing_else(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    assert store.do(Touch(a_key(), START + 60.5, START + 1860.5, base=1)) is DONE
    assert store.do(Load(a_key())) == a_record(accessed_at=START + 60.5, expires_at=START + 1860.5)


@story
def touch_leaves_a_writer_its_version(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    store.do(Touch(a_key(), START + 60, START + 1860, base=1))
    assert store.do(Update(a_key(), a_record(version=2), base=1)) is DONE


@story
def touch_does_not_create(store: StoreHarness) -> None:
    assert store.do(Touch(a_key(), START, START + 1800, base=1)) is GONE
    assert store.raw.read(a_key()) is None


@story
def touch_never_brings_older_values_back(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    store.do(Load(a_key()))
    after = a_record(version=2, values={"cart": b"\x01three things"})
    store.do(Update(a_key(), after, base=1))
    assert store.do(Touch(a_key(), START + 60, START + 1860, base=1)) is STALE
    assert store.do(Load(a_key())) == after


@story
def touch_does_not_prolong_a_tombstone(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    tombstone = a_record(version=2, values={}, retired=True, successor=a_key(2), expires_at=START + 10)
    store.do(Update(a_key(), tombstone, base=1))
    assert store.do(Touch(a_key(), START + 60, START + 1860, base=1)) is STALE
    assert store.do(Load(a_key())) == tombstone


@story
def delete_removes_the_version_it_names_or_any(store: StoreHarness) -> None:
    for number, base in enumerate((1, None)):
        store.do(Create(a_key(number), a_record()))
        assert store.do(Delete(a_key(number), base)) is DONE
        assert store.do(Load(a_key(number))) is None
        assert store.raw.read(a_key(number)) is None
        assert store.do(Delete(a_key(number), base)) is GONE


@story
def delete_at_another_version_changes_nothing(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record(version=2)))
    assert store.do(Delete(a_key(), base=1)) is STALE
    assert store.do(Load(a_key())) == a_record(version=2)


@story
def nothing_brings_a_deleted_record_back(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    store.do(Delete(a_key()))
    assert store.do(Update(a_key(), a_record(version=2), base=1)) is GONE
    assert store.do(Touch(a_key(), START + 60, START + 1860, base=1)) is GONE
    assert store.do(Load(a_key())) is None
    assert store.raw.read(a_key()) is None


@story
def load_writes_nothing(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    before = store.raw.dump()
    for _ in range(3):
        store.do(Load(a_key()))
    assert store.raw.dump() == before


@story
def sessions_do_not_touch_one_another(store: StoreHarness) -> None:
    keys = [a_key(number) for number in range(20)]
    for number, key in enumerate(keys):
        store.do(Create(key, a_record(principal=f"user {number}")))
    store.do(Update(keys[3], a_record(version=2, principal="user 3", values={}), base=1))
    store.do(Delete(keys[4]))
    for number, key in enumerate(keys):
        found = store.do(Load(key))
        assert (found is None) if number == 4 else (found.principal == f"user {number}")


@story
def a_loaded_record_is_nobody_elses(store: StoreHarness) -> None:
    store.do(Create(a_key(), a_record()))
    values: Any = store.do(Load(a_key())).values
    if hasattr(values, "clear"):
        values.clear()
    assert store.do(Load(a_key())) == a_record()


# -- races -----------------------------------------------------------------------------------------------------


@story
def of_parallel_creates_one_wins(store: StoreHarness) -> None:
    for round in range(ROUNDS):
        key = a_key(round)
        replies = store.do_all([Create(key, a_record(principal=f"user {n}")) for n in range(8)])
        assert sorted(reply.name for reply in replies) == ["DONE"] + ["EXISTS"] * 7
        assert store.do(Load(key)).principal == f"user {replies.index(DONE)}"


@story
def of_parallel_updates_one_wins(store: StoreHarness) -> None:
    for round in range(ROUNDS):
        key = a_key(round)
        store.do(Create(key, a_record()))
        replies = store.do_all([Update(key, a_record(version=2, principal=f"user {n}"), base=1) for n in range(8)])
        assert sorted(reply.name for reply in replies) == ["DONE"] + ["STALE"] * 7
        assert store.do(Load(key)).principal == f"user {replies.index(DONE)}"


@story
def of_a_parallel_update_and_delete_one_wins(store: StoreHarness) -> None:
    for round in range(ROUNDS):
        key = a_key(round)
        store.do(Create(key, a_record()))
        ops: list[Op] = [Delete(key, base=1), Update(key, a_record(version=2), base=1)]
        first = round % 2
        replies = store.do_all(ops[first:] + ops[:first])
        deleted, updated = replies[-first:] + replies[:-first]
        assert (deleted, updated) in ((STALE, DONE), (DONE, GONE))
        assert (store.do(Load(key)) is None) == (deleted is DONE)


ROUNDS = 20  # enough for a store that checks first and acts second to be caught in the gap


# -- at rest ---------------------------------------------------------------------------------------------------


@story
def what_lies_in_storage_opens_nothing(store: StoreHarness) -> None:
    id = SessionId.from_random(bytes(range(32)))
    store.do(Create(id.private, a_record()))
    dump = store.raw.dump()
    assert id.public.encode() not in dump
    assert id.private in dump or id.private.hex().encode() in dump.lower()
    assert SessionId.parse(id.private.hex()) is None


@story
def a_record_moved_to_another_key_does_not_open(store: StoreHarness) -> None:
    store.do(Create(a_key(1), a_record(principal="alice")))
    store.do(Create(a_key(2), a_record(principal="bob")))
    stored = store.raw.read(a_key(1))
    assert stored is not None
    store.raw.write(a_key(2), stored)
    assert store.do(Load(a_key(2))) is None
    assert store.do(Load(a_key(1))) == a_record(principal="alice")


@story
def a_damaged_record_is_nobody_and_never_an_error(store: StoreHarness) -> None:
    record = a_record()
    store.do(Create(a_key(), record))
    stored = store.raw.read(a_key())
    assert stored is not None
    for data in _damaged(stored):
        store.raw.write(a_key(), data)
        found = store.do(Load(a_key()))
        # The two times may be patched in place, so they are all that damage can reach.
        assert found is None or found._replace(accessed_at=record.accessed_at, expires_at=record.expires_at) == record
    store.raw.write(a_key(), stored)
    assert store.do(Load(a_key())) == record


def _damaged(data: bytes) -> Iterator[bytes]:
    for place in range(0, len(data), max(1, len(data) // 150)):
        yield data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
    for cut in (0, 1, 10, len(data) // 2, len(data) - 1):
        yield data[:cut]
    yield data + b"\0"
    yield b"\x80\x04\x95" + data  # as a pickle would begin
    yield b"{}"


# -- the dead are buried and only they --------------------------------------------------------------------------


@story
def sweeping_buries_the_dead_and_never_the_living(store: StoreHarness) -> None:
    for number in range(300):
        store.do(Create(a_key(number), a_record(expires_at=START + 100 + number)))
    store.sweep(START + 250)
    for number in range(300):
        alive = START + 100 + number > START + 250
        assert (store.do(Load(a_key(number))) is not None) or not alive
    assert store.do(Load(a_key(299))) == a_record(expires_at=START + 399)


@story
def sweeping_leaves_nothing_of_the_dead(store: StoreHarness) -> None:
    empty = len(store.raw.dump())
    for number in range(300):
        store.do(Create(a_key(number), a_record(expires_at=START + 100 + number)))
    store.sweep(START + 1000)
    assert all(store.raw.read(a_key(number)) is None for number in range(300))
    assert len(store.raw.dump()) == empty


@story
def sweeping_goes_by_the_deadline_that_a_touch_or_an_update_moved(store: StoreHarness) -> None:
    for number in range(3):
        store.do(Create(a_key(number), a_record(expires_at=START + 100)))
    store.do(Touch(a_key(0), START + 90, START + 500, base=1))
    store.do(Update(a_key(1), a_record(version=2, expires_at=START + 500), base=1))
    store.do(Update(a_key(2), a_record(version=2, expires_at=START + 10, retired=True), base=1))
    store.sweep(START + 50)
    assert store.raw.read(a_key(2)) is None
    store.sweep(START + 400)
    assert [store.raw.read(a_key(number)) is None for number in range(2)] == [False, False]
    store.sweep(START + 600)
    assert [store.raw.read(a_key(number)) is None for number in range(2)] == [True, True]


# -- honest unavailability -------------------------------------------------------------------------------------


@story
def a_store_that_cannot_answer_says_so(store: StoreHarness) -> None:
    if store.outage is None:
        return
    store.do(Create(a_key(), a_record()))
    ops: list[Op] = [
        Load(a_key()),
        Create(a_key(2), a_record()),
        Update(a_key(), a_record(version=2), base=1),
        Touch(a_key(), START + 60, START + 1860, base=1),
        Delete(a_key()),
    ]
    with store.outage():
        for op in ops:
            _assert_unavailable(store, op)
    assert store.do(Load(a_key())) == a_record()


def _assert_unavailable(store: StoreHarness, op: Op) -> None:
    raised = None
    try:
        answer = store.do(op)
    except StoreUnavailable as error:
        raised = error
    assert raised, f"{type(op).__name__} answered {answer} while the storage could not answer"
    assert raised.__cause__ is not None, "the driver's own error is kept as the cause"
    assert a_key().hex() not in str(raised)
