"""Which server keeps a key: all agree, shares are even, and a server that comes or goes moves its own share alone."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from sojourn.store.memcached.placement import Placement
from sojourn.testing.store_contract import a_key

KEYS = [a_key(number) for number in range(6000)]
NAMES = ["cache-1:11211", "cache-2:11211", "cache-3:11211"]


def places(names: list[str]) -> list[str]:
    placement = Placement(names)
    return [placement.server_of(key) for key in KEYS]


def test_the_order_of_the_names_does_not_matter() -> None:
    expected = places(NAMES)
    assert all(places(list(order)) == expected for order in permutations(NAMES))


def test_places_are_the_same_in_every_version() -> None:
    """A change of the rule would end the sessions of all servers at once, and differ between hosts during an update."""
    assert [NAMES.index(name) for name in places(NAMES)[:24]] == EXPECTED


EXPECTED = [2, 0, 1, 1, 1, 0, 1, 0, 2, 2, 2, 1, 0, 2, 1, 2, 2, 2, 0, 0, 2, 0, 2, 2]


def test_a_lost_server_moves_only_its_own_share() -> None:
    before, after = places(NAMES), places(NAMES[:2])
    for old, new in zip(before, after, strict=True):
        assert new == old or old == NAMES[2]
    assert Counter(after).keys() == set(NAMES[:2])


def test_an_added_server_takes_its_share_and_moves_nothing_else() -> None:
    before, after = places(NAMES), places([*NAMES, "cache-4:11211"])
    moved = [new for old, new in zip(before, after, strict=True) if new != old]
    assert set(moved) == {"cache-4:11211"}
    assert abs(len(moved) - len(KEYS) / 4) < len(KEYS) * 0.02


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_shares_are_even(count: int) -> None:
    shares = Counter(places([f"10.0.0.{number}:11211" for number in range(count)]))
    for share in shares.values():
        assert abs(share - len(KEYS) / count) < 5 * (len(KEYS) / count) ** 0.5  # five standard deviations


def test_what_a_lost_server_kept_spreads_over_all_others() -> None:
    before, after = places(NAMES), places(NAMES[:2])
    heirs = Counter(new for old, new in zip(before, after, strict=True) if old == NAMES[2])
    assert min(heirs.values()) > 0.4 * sum(heirs.values())


@pytest.mark.parametrize("names", [[], ["a:1", "a:1"]])
def test_no_server_and_a_server_named_twice_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="each of them once"):
        Placement(names)
