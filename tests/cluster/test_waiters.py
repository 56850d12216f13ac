"""Who waits for acknowledgements goes on when enough hosts have it, when that cannot be, or when time is over."""

from __future__ import annotations

from random import Random

import pytest

from sojourn.cluster.waiters import MOST_WAITERS, Verdict, Waiters


@pytest.fixture
def waiters() -> Waiters[str]:
    return Waiters()


def test_a_wait_ends_when_enough_hosts_have_passed_the_write(waiters: Waiters[str]) -> None:
    assert waiters.add("w", 10, 2, 0, ["a", "b", "c"], 99.0) is None
    assert waiters.reached("a", 9) == []
    assert waiters.reached("a", 10) == []
    assert waiters.reached("b", 12) == [Verdict("w", 2, True)]
    assert waiters.reached("c", 12) == []
    assert len(waiters) == 0


def test_one_host_that_says_it_twice_counts_once(waiters: Waiters[str]) -> None:
    assert waiters.add("w", 10, 2, 0, ["a", "b"], 99.0) is None
    assert waiters.reached("a", 10) == []
    assert waiters.reached("a", 11) == []
    assert waiters.reached("b", 11) == [Verdict("w", 2, True)]


def test_what_is_there_already_is_not_waited_for(waiters: Waiters[str]) -> None:
    assert waiters.add("w", 10, 1, 1, ["b"], 99.0) == Verdict("w", 1, True)
    assert waiters.add("w", 10, 0, 0, [], 99.0) == Verdict("w", 0, True)


def test_where_too_few_can_answer_nobody_waits(waiters: Waiters[str]) -> None:
    assert waiters.add("w", 10, 2, 0, ["a"], 99.0) == Verdict("w", 0, False)


def test_a_host_that_goes_ends_the_waits_that_needed_it_and_no_others(waiters: Waiters[str]) -> None:
    waiters.add("both", 10, 2, 0, ["a", "b"], 99.0)
    waiters.add("one", 10, 1, 0, ["a", "b"], 99.0)
    assert waiters.lost("a") == [Verdict("both", 0, False)]
    assert waiters.reached("b", 10) == [Verdict("one", 1, True)]


def test_a_host_that_one_wait_has_given_up_does_not_count_for_it_however_far_it_comes(waiters: Waiters[str]) -> None:
    waiters.add("w", 10, 1, 0, ["a", "b"], 99.0)
    waiters.add("other", 10, 1, 0, ["a"], 99.0)
    assert waiters.only("w", lambda host: host != "a") is None
    assert waiters.reached("a", 10) == [Verdict("other", 1, True)]
    assert waiters.reached("b", 10) == [Verdict("w", 1, True)]


def test_a_wait_that_has_given_up_too_many_hosts_is_over(waiters: Waiters[str]) -> None:
    waiters.add("w", 10, 2, 1, ["a", "b"], 99.0)
    assert waiters.only("w", lambda host: host == "b") is None
    assert waiters.only("w", lambda host: host == "a") == Verdict("w", 1, False)
    assert len(waiters) == 0


def test_the_time_of_a_wait_runs_out(waiters: Waiters[str]) -> None:
    waiters.add("late", 10, 1, 0, ["a"], 5.0)
    waiters.add("later", 11, 1, 0, ["a"], 6.0)
    assert waiters.due() == 5.0
    assert waiters.expired(5.5) == [Verdict("late", 0, False)]
    assert waiters.due() == 6.0
    assert waiters.reached("a", 11) == [Verdict("later", 1, True)]
    assert waiters.due() == float("inf")


def test_who_is_gone_is_told_nothing(waiters: Waiters[str]) -> None:
    waiters.add("w", 10, 1, 0, ["a"], 5.0)
    waiters.forget("w")
    assert waiters.reached("a", 10) == waiters.expired(9.0) == waiters.lost("a") == []


def test_waits_are_bounded(waiters: Waiters[str]) -> None:
    for number in range(MOST_WAITERS):
        assert waiters.add(f"w{number}", number, 1, 0, ["a"], 5.0) is None
    assert waiters.add("one more", 1, 1, 0, ["a"], 5.0) == Verdict("one more", 0, False)


def test_a_host_that_lags_for_long_costs_no_memory_for_waits_that_are_over(waiters: Waiters[str]) -> None:
    for time in range(20_000):
        waiters.add(f"w{time}", time, 1, 0, ["fast", "slow"], 5.0)
        waiters.reached("fast", time)
    assert len(waiters) == 0
    assert len(waiters._by_host["slow"]) < 2_000


def test_any_order_of_answers_agrees_with_counting() -> None:
    random = Random(7)
    for _ in range(300):
        waiters: Waiters[int] = Waiters()
        hosts = ["a", "b", "c", "d"]
        needed = {time: random.randint(1, 4) for time in range(20)}
        for time, count in needed.items():
            assert waiters.add(time, time, count, 0, hosts, 99.0) is None
        levels, ended = dict.fromkeys(hosts, -1), set[int]()
        for _ in range(30):
            host = random.choice(hosts)
            levels[host] = max(levels[host], random.randint(0, 20))
            for verdict in waiters.reached(host, levels[host]):
                assert verdict.enough
                ended.add(verdict.who)
            assert ended == {
                time for time, count in needed.items() if sum(level >= time for level in levels.values()) >= count
            }
