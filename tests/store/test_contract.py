"""The store contract over every store in both colours, and over stores that it must reject."""

from __future__ import annotations

from functools import cache, partial

import pytest
from tests.conftest import MakeHarness, memory_harness

from sojourn.store.memory import MemoryStore
from sojourn.testing.broken import BROKEN
from sojourn.testing.session_contract import SESSION_STORIES
from sojourn.testing.state_machine import check_against_model
from sojourn.testing.store_contract import STORIES, Story, name_of, rejected_by


@pytest.mark.parametrize("story", STORIES, ids=name_of)
def test_store_keeps_its_promise(make_harness: MakeHarness, story: Story) -> None:
    with make_harness() as harness:
        story(harness)


@pytest.mark.parametrize("story", SESSION_STORIES, ids=name_of)
def test_sessions_keep_their_promise(make_harness: MakeHarness, story: Story) -> None:
    with make_harness() as harness:
        story(harness)


@pytest.mark.slow
def test_store_agrees_with_the_model_in_any_order_of_operations(make_harness: MakeHarness) -> None:
    check_against_model(make_harness)


@cache
def caught(broken: type[MemoryStore]) -> set[str]:
    return rejected_by(partial(memory_harness, broken), STORIES)


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_contract_rejects(broken: type[MemoryStore]) -> None:
    """By the stories that are about what is broken: one that fails for another reason proves nothing."""
    assert BROKEN[broken] <= caught(broken)


@pytest.mark.slow
def test_every_story_can_fail() -> None:
    """A story that no broken store fails may be one that cannot fail."""
    can_fail = set().union(*(caught(broken) for broken in BROKEN))
    assert {story.__name__ for story in STORIES} - can_fail == set()
