"""How the stories about capabilities are told: their list, their clock, their helpers.

A story's clock begins at START, and only ``harness.sweep(now)`` moves it, never back. A storage that has a clock of its
own takes a lease or an entry's end as relative (``until - now``), counts in real time, and hears nothing of the
story's. Its harness moves that clock along: whatever lock or index has this much life left by the storage's own word,
less the time since the last sweep (or START), is shortened by as much, and removed where nothing is left. So leases
in stories are long, differences between times are many seconds, and no story sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sojourn.core.capability import (
    Batched,
    Examinable,
    Find,
    Indexed,
    Lockable,
    Page,
    Purgeable,
    Scan,
    Scannable,
    is_able,
)
from sojourn.core.ops import Create, Load, Performable
from sojourn.errors import StoreUnavailable
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import StoreHarness, Story, a_key, a_record

LONG = START + 1_000_000.0
"""An end that no story reaches, but for those that are about it."""

CAPABILITIES = (Batched, Indexed, Scannable, Purgeable, Lockable, Examinable)

CAPABILITY_STORIES: dict[Story, type] = {}
"""Each story, and the capability that it is about."""


def stories_for(capabilities: Iterable[type]) -> list[Story]:
    """Return the stories that a store with these *capabilities* must keep."""
    having = set(capabilities)
    return [story for story, about in CAPABILITY_STORIES.items() if about in having]


def capabilities_of(store: object) -> frozenset[type]:
    """Return the capabilities whose methods *store* has, in whichever colour."""
    return frozenset(one for one in CAPABILITIES if is_able(store, one))


def about(capability: type) -> Callable[[Story], Story]:
    """Add the decorated function to the contract of stores that have *capability*."""

    def add(story: Story) -> Story:
        CAPABILITY_STORIES[story] = capability
        return story

    return add


def a_tag(number: int = 1) -> bytes:
    """Return what stands for a principal."""
    return b"\x07" * 31 + bytes([number])


def everything(store: StoreHarness, page: Callable[[bytes | None], Performable]) -> list[Page]:
    """Follow the cursors to their end. *page* makes the operation."""
    pages: list[Page] = [store.do(page(None))]
    while (cursor := pages[-1].cursor) is not None:
        assert len(pages) < MOST_PAGES, "the cursors go round in circles"
        pages.append(store.do(page(cursor)))
    return pages


MOST_PAGES = 5_000


def found(store: StoreHarness, tag: bytes) -> set[bytes]:
    """Return all that is listed under *tag*."""
    return keys_of(everything(store, lambda cursor: Find(tag, cursor)))


def scanned(store: StoreHarness) -> set[bytes]:
    """Return all that a scan sees."""
    return keys_of(everything(store, Scan))


def keys_of(pages: Sequence[Page]) -> set[bytes]:
    """Return all that stands on *pages*."""
    return {key for page in pages for key in page.keys}


def assert_unavailable(store: StoreHarness, *ops: Performable) -> None:
    """Fail where an operation answers during an outage, hides its cause, or tells a key; nothing without an outage."""
    if store.outage is None:
        return
    with store.outage():
        for op in ops:
            raised = None
            try:
                answer = store.do(op)
            except StoreUnavailable as error:
                raised = error
            assert raised, f"{type(op).__name__} answered {answer} while the storage could not answer"
            assert raised.__cause__ is not None, "the driver's own error is kept as the cause"
            assert a_key().hex() not in str(raised)
            assert a_tag().hex() not in str(raised)
    store.do(Create(a_key(), a_record()))
    assert store.do(Load(a_key())) == a_record()
