"""Policy: how long a session lives, how often that is written down, how large it may grow. Arithmetic only."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Literal

from sojourn.core.record import Record
from sojourn.errors import ConfigurationError

Duration = float | timedelta
"""Seconds, or a timedelta. Policy keeps seconds."""

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

LONGEST = 10 * 366 * DAY  # beyond ten years a duration is a slip of units, not a wish


class Policy:
    """The rules of a session's life. Durations are seconds or ``timedelta``; the attributes hold seconds.

    The two timeouts are never one number: *idle_timeout* counts from the last look, *lifetime* from the
    beginning (or the login) and no activity extends it. Both are kept by the server, whatever the cookie says.
    Raises ConfigurationError for a duration that is zero, negative, not finite or over ten years.
    """

    __slots__ = (
        "idle_timeout",
        "lifetime",
        "max_bytes",
        "max_keys",
        "max_sessions",
        "on_conflict",
        "rotation_grace",
        "touch_interval",
    )

    def __init__(
        self,
        *,
        idle_timeout: Duration = 30 * MINUTE,
        lifetime: Duration = 24 * HOUR,
        touch_interval: Duration | None = None,
        rotation_grace: Duration = 10.0,
        on_conflict: Literal["last-wins", "refuse"] = "last-wins",
        max_bytes: int = 262_144,
        max_keys: int = 256,
        max_sessions: int | None = None,
    ) -> None:
        self.idle_timeout = seconds("idle_timeout", idle_timeout)
        self.lifetime = seconds("lifetime", lifetime)
        """The longest life, from the login on. For as long a principal's session is listed: one that began before this

        was raised may outlive its place there. So who raises it ends all sessions once (``SessionManager.revoke_all``).
        """
        interval = min(MINUTE, self.idle_timeout / 10) if touch_interval is None else touch_interval
        self.touch_interval = seconds("touch_interval", interval)
        """A look is written down at most this often, so the idle timeout is exact to within this much."""
        self.rotation_grace = seconds("rotation_grace", rotation_grace)
        """How long a retired id still serves requests that were already under way."""
        self.on_conflict = on_conflict
        """What happens to a key that two parallel requests both changed and that has no resolver."""
        self.max_bytes = max_bytes
        """Bound on all encoded values of one session together, and on its keys, which count by characters."""
        self.max_keys = max_keys
        """Bound on the number of keys of one session."""
        self.max_sessions = max_sessions
        """Most sessions of one principal at a time; a login beyond that ends the oldest. None: no bound."""
        self._check()

    def _check(self) -> None:
        if self.touch_interval >= self.idle_timeout:
            raise ConfigurationError(
                f"touch_interval ({self.touch_interval:g} s) must be shorter than idle_timeout "
                f"({self.idle_timeout:g} s), or active visitors are logged out"
            )
        if self.on_conflict not in ("last-wins", "refuse"):
            raise ConfigurationError(f"on_conflict is {self.on_conflict!r}; use 'last-wins' or 'refuse'")
        for name in ("max_bytes", "max_keys", "max_sessions"):
            number = getattr(self, name)
            if (number is None and name == "max_sessions") or (type(number) is int and number >= 1):
                continue
            raise ConfigurationError(f"{name} is {number!r}; it must be a whole number, at least 1")

    def expires_at(self, created_at: float, accessed_at: float) -> float:
        """Return the deadline: idle for too long or old enough, whichever comes first."""
        return min(accessed_at + self.idle_timeout, created_at + self.lifetime)

    def is_live(self, record: Record, now: float) -> bool:
        """Tell whether *record* may still be used. A policy made stricter applies to records that exist."""
        return now < record.expires_at and now < record.created_at + self.lifetime

    def touch_due(self, record: Record, now: float) -> bool:
        """Tell whether a look at *now* is worth writing down."""
        return now - record.accessed_at >= self.touch_interval


def seconds(name: str, value: Duration) -> float:
    """Return *value* as seconds; raise ConfigurationError naming the setting for what is no duration."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ConfigurationError(f"{name} takes seconds or a timedelta, not {type(value).__name__}")
    if not (math.isfinite(number) and 0 < number <= LONGEST):
        raise ConfigurationError(f"{name} is {number!r} seconds; use more than 0 and at most ten years")
    return float(number)
