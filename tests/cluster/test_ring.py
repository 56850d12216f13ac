"""Every host works out alike who keeps a session, each keeps its share, and no more moves than must."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from itertools import permutations

import pytest

from sojourn.cluster.ring import owners

KEYS = [sha256(str(number).encode()).digest() for number in range(20_000)]


def hosts(count: int) -> tuple[str, ...]:
    return tuple(f"app{number}.shop.example:7946" for number in range(count))


def test_the_order_of_the_names_does_not_matter() -> None:
    for key in KEYS[:100]:
        assert len({owners(key, names, 2) for names in permutations(hosts(4))}) == 1
        assert owners(key, set(hosts(4)), 2) == owners(key, list(hosts(4)), 2)


def test_who_keeps_a_key_is_the_same_in_every_version_of_this_code() -> None:
    """Two hosts that disagreed, as during a rolling upgrade, would each drop what the other does not take."""
    assert owners(bytes(32), hosts(9), 3) == tuple(hosts(9)[number] for number in (3, 1, 6))


@pytest.mark.parametrize("copies", [1, 2, 3, None])
def test_there_are_never_more_owners_than_hosts_and_none_twice(copies: int | None) -> None:
    for count in (0, 1, 2, 5):
        found = owners(KEYS[0], hosts(count), copies)
        assert len(set(found)) == len(found) == min(count, count if copies is None else copies)
        assert found == owners(KEYS[0], hosts(count), None)[: len(found)]


@pytest.mark.parametrize(("count", "copies", "worst"), [(3, 1, 1.03), (3, 2, 1.03), (5, 2, 1.05), (9, 2, 1.07)])
def test_each_host_keeps_its_share(count: int, copies: int, worst: float) -> None:
    held = Counter(name for key in KEYS for name in owners(key, hosts(count), copies))
    mean = len(KEYS) * copies / count
    assert mean / worst < min(held.values()) <= max(held.values()) < mean * worst


@pytest.mark.slow
def test_fifty_hosts_keep_their_shares() -> None:
    held = Counter(name for key in KEYS for name in owners(key, hosts(50), 2))
    mean = len(KEYS) * 2 / 50
    assert mean / 1.15 < min(held.values()) <= max(held.values()) < mean * 1.15


def test_a_host_that_leaves_takes_only_its_own_sessions_along() -> None:
    for key in KEYS[:2_000]:
        before = owners(key, hosts(9), 2)
        after = owners(key, hosts(8), 2)  # the last is gone
        stay = [name for name in before if name != hosts(9)[-1]]
        assert list(after[: len(stay)]) == stay


def test_what_a_host_leaves_goes_to_all_the_others_alike() -> None:
    gone = hosts(9)[-1]
    heirs = Counter(
        (set(owners(key, hosts(8), 2)) - set(owners(key, hosts(9), 2))).pop()
        for key in KEYS
        if gone in owners(key, hosts(9), 2)
    )
    mean = sum(heirs.values()) / 8
    assert len(heirs) == 8
    assert mean / 1.2 < min(heirs.values()) <= max(heirs.values()) < mean * 1.2


def test_a_host_that_joins_takes_its_share_and_moves_nothing_else() -> None:
    moved = 0
    for key in KEYS:
        before, after = owners(key, hosts(8), 2), owners(key, hosts(9), 2)
        assert set(after) - set(before) <= {hosts(9)[-1]}
        moved += before != after
    assert moved / len(KEYS) == pytest.approx(2 / 9, abs=0.02)


@pytest.mark.parametrize(("count", "copies"), [(3, 2), (5, 2), (9, 2), (50, 2)])
def test_a_new_id_belongs_to_its_host_after_as_many_draws_as_there_are_hosts_for_a_copy(
    count: int, copies: int
) -> None:
    """The id of a new session is drawn until this host is an owner: count / copies times on average."""
    me, draws, ids = hosts(count)[0], 0, 0
    for key in KEYS:
        draws += 1
        ids += me in owners(key, hosts(count), copies)
    assert draws / ids == pytest.approx(count / copies, rel=0.1)
