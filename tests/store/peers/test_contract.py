"""The contracts over the peers store with one, two and three real hosts in both colours, and host by host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import cycle

import pytest
from tests.store.peers.harness import CAPABILITIES, Hosts, peers_harness

from sojourn.core.capability import Batched, Floored, is_able
from sojourn.drive import StorePair
from sojourn.testing import StoreHarness, session_contract
from sojourn.testing.capability_contract import CAPABILITY_STORIES, capabilities_of, stories_for
from sojourn.testing.principal_contract import PRINCIPAL_STORIES
from sojourn.testing.session_contract import SESSION_STORIES
from sojourn.testing.store_contract import STORIES, Story, name_of

pytestmark = pytest.mark.slow

# How many hosts, what the URL says besides, and whether each operation is one of another host.
PLACES: dict[str, tuple[int, str, bool]] = {
    "one": (1, "", False),
    "two": (2, "", False),
    "three": (3, "", False),
    "three-in-turns": (3, "acks=all", True),
    "three-with-two-copies": (3, "copies=2&acks=all", False),
}

ALIKE = 4
"""Clusters that take turns where a session lies on some hosts only.

A host is told once a second how far others are with what it does not hold. So a cluster is at rest a second after a
story, and only then can it be emptied for the next one; meanwhile the others have theirs.
"""


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Iterator[Hosts], bool]]:
    number, query, rotating = PLACES[request.param]
    with ExitStack() as stack:
        count = ALIKE if "copies" in query else 1
        clusters = [stack.enter_context(Hosts(number, query)) for _ in range(count)]
        yield cycle(clusters), rotating


@pytest.fixture(params=["blocking", "loop"])
def harness(
    place: tuple[Iterator[Hosts], bool], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AbstractContextManager[StoreHarness]:
    clusters, rotating = place
    hosts = next(clusters)
    if len(hosts.all) > 1 or request.param == "loop":
        monkeypatch.setattr(session_contract, "INTERLEAVINGS", 50)  # of a thousand: each write crosses to other hosts
    return peers_harness(hosts, loop=request.param == "loop", rotating=rotating)


@pytest.mark.parametrize("story", [*STORIES, *stories_for(CAPABILITIES)], ids=name_of)
def test_store_keeps_its_promise(harness: AbstractContextManager[StoreHarness], story: Story) -> None:
    with harness as store:
        if CAPABILITY_STORIES.get(story, Batched) in store.capabilities:
            story(store)


@pytest.mark.parametrize(
    "story",
    [*SESSION_STORIES, *(story for story, needed in PRINCIPAL_STORIES.items() if needed in CAPABILITIES)],
    ids=name_of,
)
def test_sessions_keep_their_promise(harness: AbstractContextManager[StoreHarness], story: Story) -> None:
    with harness as store:
        story(store)


def test_both_colours_can_do_the_same(place: tuple[Iterator[Hosts], bool]) -> None:
    pair: StorePair = next(place[0])[0].pair
    assert capabilities_of(pair.blocking) == capabilities_of(pair.loop) == CAPABILITIES - {Floored}
    assert is_able(pair.blocking, Floored)
    assert is_able(pair.loop, Floored)
