"""The contracts of stores, sessions and capabilities over three real memcached servers, in both colours."""

from __future__ import annotations

from functools import partial

import pytest
from tests.conftest import MakeHarness
from tests.servers.memcached import MemcachedServers
from tests.store.memcached.harness import memcached_harness

from sojourn.core.capability import Examinable, Lockable
from sojourn.testing.capability_contract import stories_for
from sojourn.testing.session_contract import SESSION_STORIES
from sojourn.testing.state_machine import check_against_model
from sojourn.testing.store_contract import STORIES, Story, name_of

pytestmark = pytest.mark.slow


@pytest.fixture
def make(three: MemcachedServers, loop: bool) -> MakeHarness:
    return partial(memcached_harness, three, loop=loop)


@pytest.mark.parametrize("story", STORIES, ids=name_of)
def test_store_keeps_its_promise(make: MakeHarness, story: Story) -> None:
    with make() as harness:
        story(harness)


@pytest.mark.parametrize("story", SESSION_STORIES, ids=name_of)
def test_sessions_keep_their_promise(make: MakeHarness, story: Story) -> None:
    with make() as harness:
        story(harness)


@pytest.mark.parametrize("story", stories_for([Lockable, Examinable]), ids=name_of)
def test_store_can_do_what_it_says(make: MakeHarness, story: Story) -> None:
    with make() as harness:
        assert harness.capabilities == {Lockable, Examinable}
        story(harness)


def test_store_agrees_with_the_model_in_any_order_of_operations(loop: bool) -> None:
    with MemcachedServers(1) as one:  # each look at what a server holds takes a hundred times as long as an operation
        check_against_model(partial(memcached_harness, one, loop=loop))
