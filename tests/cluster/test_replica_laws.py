"""The laws of replication, over histories of hosts that write, ship, pull and fail; and the mutants that break them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import encode
from tests.cluster.hosts import HOSTS, KINDS, NAMES, Cluster, Moving, Rules, Step, histories
from tests.cluster.mutants import MUTANTS

from sojourn.cluster import replica
from sojourn.cluster.replica import Replica, merge, received, since

_steps = st.builds(
    Step,
    st.sampled_from([kind for kind, weight in KINDS.items() for _ in range(weight)]),
    st.integers(0, HOSTS - 1),
    st.integers(0, HOSTS - 1),
    st.integers(0, NAMES - 1),
    st.integers(0, 2),
    st.integers(0, 11),
)
schedules = st.lists(_steps, max_size=40)

STORIES: dict[str, list[Step]] = {
    # The end has an earlier stamp than the write that it takes away, and the write comes first to the third host.
    "an end that is older than the cut": [
        Step("pull", 1, 2, 0, 0, 11),  # nothing yet, but its clock goes ahead
        Step("write", 0, 2, 0, 2, 10),
        Step("send", 1, 0, 0, 2, 8),
        Step("send", 0, 2, 1, 1, 5),
        Step("remove", 2, 0, 0, 1, 0),
        Step("send", 2, 1, 0, 0, 5),
        Step("remove", 1, 2, 0, 2, 0),
        Step("send", 1, 2, 0, 0, 5),
        Step("write", 1, 2, 0, 0, 6),
        Step("renew", 0, 1, 0, 2, 1),
        Step("send", 0, 1, 3, 2, 9),
        Step("send", 1, 2, 2, 0, 0),
    ],
    # A page of somebody's copy of a log moves the cursor past what only the writer of that log has.
    "a log that is read in two places": [
        Step("write", 2, 1, 0, 1, 7),
        Step("send", 2, 1, 0, 0, 6),
        Step("wipe", 2, 1, 0, 0, 4),
        Step("write", 1, 0, 1, 1, 1),
        Step("write", 1, 2, 0, 0, 0),
        Step("touch", 1, 1, 0, 2, 1),
        Step("wipe", 2, 2, 0, 2, 4),
        Step("pull", 2, 1, 0, 1, 7),
        Step("pull", 0, 2, 1, 0, 6),
    ],
}


# -- histories ---------------------------------------------------------------------------------------------------


@given(schedules)
def test_a_copy_shows_what_its_marks_name_and_all_copies_become_equal(steps: list[Step]) -> None:
    Cluster().run(steps)


@pytest.mark.slow
def test_the_same_holds_in_long_histories() -> None:
    for steps in histories(250):
        Cluster().run(steps)


@pytest.mark.parametrize("name", STORIES)
def test_the_same_holds_in_histories_that_mutants_failed_on(name: str) -> None:
    Cluster().run(STORIES[name])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.__name__))
def test_the_laws_reject(mutant: type[Rules]) -> None:
    assert any(_breaks(mutant, steps) for steps in (*STORIES.values(), *histories(250)))


def _breaks(rules: type[Rules], steps: Sequence[Step]) -> bool:
    try:
        Cluster(rules).run(steps)
    except AssertionError:
        return True
    return False


# -- where sessions move between hosts ---------------------------------------------------------------------------


class FollowsNothing(Rules):
    """What holds of a log does not hold of each of its sessions, so every delta has to prove itself."""

    follows = False


# One host has the log to its end, drops a session of it, and takes an older copy of that back.
TAKEN_BACK = [
    Step("write", 0, 1, 1, 0, 3),
    Step("write", 0, 2, 0, 1, 2),
    Step("write", 0, 1, 3, 1, 4),
    Step("send", 0, 1, 2, 2, 1),
    Step("ship", 0, 1, 0, 2, 9),
    Step("send", 0, 1, 0, 1, 11),
    Step("send", 1, 2, 1, 1, 0),
    Step("send", 1, 2, 0, 2, 4),
    Step("write", 0, 2, 3, 1, 11),
    Step("send", 0, 1, 0, 1, 3),
    Step("drop", 1, 0, 3, 2, 8),
    Step("deliver", 1, 0, 0, 2, 10),
    Step("remove", 0, 0, 3, 2, 0),
    Step("send", 0, 1, 0, 1, 8),
]


def test_a_copy_shows_what_its_marks_name_where_sessions_move_between_hosts() -> None:
    for steps in (TAKEN_BACK, *histories(150)):
        Moving(FollowsNothing).run(steps)


def test_levels_are_not_to_be_believed_there() -> None:
    with pytest.raises(AssertionError, match="its marks say otherwise"):
        Moving(Rules).run(TAKEN_BACK)


# -- merging -----------------------------------------------------------------------------------------------------


def copies_of(steps: Sequence[Step]) -> list[Replica]:
    """Return all copies of one session that any host had at any time."""
    cluster, copies = Cluster(), dict[bytes, Replica]()
    for step in steps:
        cluster.take(step)
        found = [host.copies["session0"] for host in cluster.hosts if "session0" in host.copies]
        copies |= {encode(copy): copy for copy in found}
    return list(copies.values())


@given(schedules, st.data())
def test_merging_is_commutative_associative_and_idempotent(steps: list[Step], data: st.DataObject) -> None:
    copies = copies_of(steps)
    if not copies:
        return
    one, two, three = (data.draw(st.sampled_from(copies)) for _ in range(3))
    assert merge(one, one) == one
    merged = [merge(merge(a, b), c) for a, b, c in permutations((one, two, three))]
    merged += [merge(a, merge(b, c)) for a, b, c in permutations((one, two, three))]
    assert all(each == merged[0] for each in merged)
    assert len({encode(each) for each in merged}) == 1, "equal, and in the same order"
    assert merge(merged[0], two) == merged[0]


@given(schedules, st.data())
def test_a_delta_brings_what_the_whole_copy_brings_or_asks_for_it(steps: list[Step], data: st.DataObject) -> None:
    cluster = Cluster()
    for step in steps:
        cluster.take(step)
    here, there = data.draw(st.permutations(cluster.hosts))[:2]
    for name in here.copies.keys() & there.copies.keys():
        stored, copy = here.copies[name], there.copies[name]
        level = here.progress.get(there.origin)
        cut = data.draw(st.integers(0, level.level if level else 0))
        after = received(stored, since(copy, cut), there.origin, cut)
        whole = merge(stored, copy)
        assert after is None or merge(after, copy) == whole
        if after is not None and there.origin in copy.seen:
            assert after.seen[there.origin] == whole.seen[there.origin]


@pytest.mark.slow
def test_nearly_every_delta_is_enough() -> None:
    """Asking for the whole copy is for the rare race; where it were common, deltas would be for nothing."""
    asked = taken = 0

    class Counting(Rules):
        @staticmethod
        def received(*given: object) -> Replica | None:
            nonlocal asked, taken
            after = replica.received(*given)  # type: ignore[arg-type]
            asked, taken = asked + (after is None), taken + 1
            return after

    for steps in histories(120):
        Cluster(Counting).run(steps)
    assert taken > 300
    assert 0 < asked < taken / 20


# -- the bound on removed keys -----------------------------------------------------------------------------------


@pytest.fixture
def bound_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "MOST_REMOVED", 1)


def _removing(steps: Sequence[Step]) -> list[Step]:
    """Let each host set and remove a key of its own, so that no removal meets a write that it has not seen."""
    kinds = {"end": "remove", "renew": "remove", "principal": "remove"}
    return [step._replace(kind=kinds.get(step.kind, step.kind), key=step.host) for step in steps]


@pytest.mark.slow
@pytest.mark.usefixtures("bound_of_one")
def test_what_is_forgotten_of_removals_changes_nothing() -> None:
    forgot = 0
    for steps in histories(150):
        cluster = Cluster()
        cluster.run(_removing(steps))
        forgot += any(copy.forgotten for host in cluster.hosts for copy in host.copies.values())
    assert forgot > 5


@pytest.mark.usefixtures("bound_of_one")
def test_copies_become_equal_also_where_a_forgotten_removal_meets_a_write_it_had_not_seen() -> None:
    for steps in histories(250):
        cluster = Cluster()
        for step in steps:
            cluster.take(step)
        for _ in range(HOSTS):
            for host in cluster.hosts:
                for other in range(HOSTS):
                    for name in range(NAMES):
                        cluster.copy(host, other, f"session{name}", "", 0)
        cluster.judge_quiet()
