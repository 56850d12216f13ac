"""A capability is told by a store's methods, in either colour and behind a wrapper."""

from __future__ import annotations

import pytest

from sojourn.core.capability import Batched, Examinable, Indexed, Lockable, Purgeable, Scannable, is_able
from sojourn.drive import as_async
from sojourn.store.memory import MemoryStore

ALL = [Batched, Indexed, Scannable, Purgeable, Lockable, Examinable]


@pytest.mark.parametrize("capability", ALL)
def test_a_store_has_what_it_has_the_methods_for(capability: type) -> None:
    assert is_able(MemoryStore(), capability)
    assert is_able(as_async(MemoryStore()), capability)
    assert not is_able(object(), capability)


@pytest.mark.parametrize("lacking", ["find", "load_many"])
def test_one_missing_method_is_a_missing_capability(lacking: str) -> None:
    store = MemoryStore()
    setattr(store, lacking, None)
    assert not is_able(store, Indexed)
    assert is_able(store, Lockable)
