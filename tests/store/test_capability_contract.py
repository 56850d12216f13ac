"""The contract of capabilities over every store in both colours, and over stores that it must reject."""

from __future__ import annotations

from functools import cache, partial

import pytest
from tests.conftest import MakeHarness, memory_harness

from sojourn.core.capability import Lockable, Scannable
from sojourn.drive import as_async
from sojourn.store.memory import MemoryStore
from sojourn.testing.broken_capabilities import BROKEN_CAPABILITIES
from sojourn.testing.capability_contract import CAPABILITIES, CAPABILITY_STORIES, capabilities_of, stories_for
from sojourn.testing.fakes import ScriptedStore
from sojourn.testing.store_contract import Story, name_of, rejected_by


@pytest.mark.parametrize("story", CAPABILITY_STORIES, ids=name_of)
def test_store_keeps_its_promise(make_harness: MakeHarness, story: Story) -> None:
    with make_harness() as harness:
        assert harness.capabilities == set(CAPABILITIES), "memory and local can do everything"
        story(harness)


@cache
def caught(broken: type[MemoryStore]) -> set[str]:
    return rejected_by(partial(memory_harness, broken), list(CAPABILITY_STORIES))


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN_CAPABILITIES, ids=lambda broken: broken.__name__)
def test_contract_rejects(broken: type[MemoryStore]) -> None:
    """By the stories that are about what is broken: one that fails for another reason proves nothing."""
    assert BROKEN_CAPABILITIES[broken] <= caught(broken)


@pytest.mark.slow
def test_every_story_can_fail() -> None:
    """A story that no broken store fails may be one that cannot fail."""
    can_fail = set().union(*(caught(broken) for broken in BROKEN_CAPABILITIES))
    assert {story.__name__ for story in CAPABILITY_STORIES} - can_fail == set()


def test_a_store_is_asked_for_what_it_can_do_and_no_more() -> None:
    assert capabilities_of(MemoryStore()) == capabilities_of(as_async(MemoryStore())) == set(CAPABILITIES)
    assert capabilities_of(ScriptedStore()) == set()
    assert stories_for([]) == []
    asked = stories_for([Lockable, Scannable])
    assert {CAPABILITY_STORIES[story] for story in asked} == {Lockable, Scannable}
