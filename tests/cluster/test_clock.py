"""Stamps follow real time, never run against cause and effect, and survive clocks that jump."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sojourn.cluster.clock import TIME_BYTES, ZERO, Stamp, milliseconds, tick

NOW = 1_900_000_000_000

walls = st.integers(0, 1 << 47)


@given(st.integers(0, 1 << 63), walls)
def test_a_stamp_is_later_than_all_that_is_known(last: int, now_ms: int) -> None:
    assert tick(last, now_ms) > last


@given(st.lists(walls, min_size=1))
def test_a_clock_that_jumps_back_does_not_take_the_stamps_along(walls: list[int]) -> None:
    times = [0]
    for now_ms in walls:
        times.append(tick(times[-1], now_ms))
    assert times == sorted(set(times))
    assert milliseconds(times[-1]) == max(walls), "and none is ahead of the furthest that the clock ever was"


def test_65536_writes_of_one_millisecond_stay_within_it() -> None:
    time = 0
    for _ in range(1 << 16):
        time = tick(time, NOW)
    assert milliseconds(time) == NOW
    assert milliseconds(tick(time, NOW)) == NOW + 1


def test_a_host_whose_clock_is_behind_writes_after_what_it_has_seen() -> None:
    seen = tick(0, NOW)
    assert milliseconds(tick(seen, NOW - 3_600_000)) == NOW


def test_stamps_of_two_hosts_are_never_equal_and_have_one_order() -> None:
    one, other = Stamp(5, b"aaaa"), Stamp(5, b"bbbb")
    assert ZERO < one < other < Stamp(6, b"aaaa")


def test_a_time_fits_its_bytes_until_the_year_10889() -> None:
    assert tick(0, 281_474_976_710_655) < 1 << 8 * TIME_BYTES
