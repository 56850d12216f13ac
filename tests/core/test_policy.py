"""Policy: arithmetic on durations, and refusals of what is none."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn import ConfigurationError, Policy
from sojourn.core.policy import seconds
from sojourn.core.record import Record

DURATIONS = st.floats(1, 1e6)


@given(created=st.floats(0, 1e9), idle_for=st.floats(0, 1e6), idle=DURATIONS, lifetime=DURATIONS)
def test_the_deadline_is_whichever_comes_first(created: float, idle_for: float, idle: float, lifetime: float) -> None:
    policy = Policy(idle_timeout=idle, lifetime=lifetime)
    deadline = policy.expires_at(created, created + idle_for)
    assert deadline <= created + lifetime
    assert deadline <= created + idle_for + idle
    assert deadline in (created + lifetime, created + idle_for + idle)


def test_a_stricter_lifetime_applies_to_sessions_that_exist() -> None:
    record = Record({}, created_at=0, accessed_at=0, expires_at=10_000)
    assert Policy(lifetime=10_000).is_live(record, 5000)
    assert not Policy(lifetime=4000).is_live(record, 5000)


def test_a_look_is_written_down_once_an_interval() -> None:
    """Item 38."""
    policy = Policy(idle_timeout=1800, touch_interval=60)
    record = Record({}, created_at=0, accessed_at=1000, expires_at=2800)
    assert [policy.touch_due(record, now) for now in (900, 1000, 1059, 1060)] == [False, False, False, True]


def test_the_touch_interval_follows_a_short_idle_timeout() -> None:
    assert Policy(idle_timeout=60).touch_interval == 6
    assert Policy(idle_timeout=timedelta(days=14)).touch_interval == 60


def test_whole_days_are_not_lost() -> None:
    """``timedelta.seconds`` of fourteen days is 0; a session layer that used it deleted every session."""
    assert Policy(idle_timeout=timedelta(days=14)).idle_timeout == 14 * 86400


@pytest.mark.parametrize(
    "value", [0, -1, float("nan"), float("inf"), 1e12, True, "60", None, timedelta(0), timedelta(days=-1)]
)
@pytest.mark.parametrize("name", ["idle_timeout", "lifetime", "touch_interval", "rotation_grace"])
def test_what_is_no_duration_is_refused_by_name(name: str, value: object) -> None:
    """Item 42: never an immortal session."""
    if (name, value) == ("touch_interval", None):
        return
    with pytest.raises(ConfigurationError, match=name):
        Policy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value"), [("on_conflict", "guess"), ("max_bytes", 0), ("max_keys", 0), ("touch_interval", 1800)]
)
def test_other_settings_are_checked_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=setting):
        Policy(**{setting: value})  # type: ignore[arg-type]


def test_seconds_are_floats() -> None:
    assert seconds("x", 5) == 5.0
    assert type(seconds("x", 5)) is float
