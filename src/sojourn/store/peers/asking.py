"""What both colours know about asking the agent: how long, what may be asked twice, what the log is told."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TypeGuard

from sojourn.cluster.local import Forward, Request
from sojourn.cluster.settings import Settings
from sojourn.core.record import Record
from sojourn.store.peers.start import why_not

GRACE = 0.25  # seconds that an answer may be later than the agent was told: its way, and a busy machine
WARN_EVERY = 5.0  # seconds
NUDGE_EVERY = 0.001  # seconds; the agent looks into the log once more later than that (``engine.AGAIN``)
READS = frozenset({"load", "load_many", "find", "scan"})

_log = logging.getLogger("sojourn.store")


class Nudges:
    """Says when a write has to wake the agent: not a moment after another one has, since the agent then looks again.

    What is written within that moment is there by its second look, whichever thread or process wrote it. Where the
    nudge itself is lost, the agent's poll finds it.
    """

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def due(self, now: float) -> bool:
        """Tell whether what was written by *now* needs a nudge, which the caller then sends."""
        if now < self._quiet_until:
            return False
        self._quiet_until = now + NUDGE_EVERY
        return True


class Complaints:
    """Tells the log that the agent does not answer, not more often than every five seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._quiet_until = settings, 0.0

    def note(self, error: BaseException | str | None = None) -> None:
        """Say that a request has waited in vain, because of *error*; None: it did not wait, as while one starts."""
        now = time.monotonic()
        if now < self._quiet_until:
            return
        if why := why_not(Path(self._settings.path)) or error:
            self._quiet_until = now + WARN_EVERY
            _log.warning("the agent of %s does not answer: %s", self._settings.path, why)


def may_repeat(request: Request) -> bool:
    """Tell whether *request* may be sent again when it may have been performed already."""
    return not isinstance(request, Forward) or request.verb in READS


def suffices(record: Record | None, floor: bytes) -> TypeGuard[Record]:
    """Tell, at the price of one comparison, whether *record* surely contains what *floor* says; most do."""
    return record is not None and (not floor or record.seen == floor)
