"""What both colours know about asking the agent: how long, what may be asked twice, what the log is told."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path
from threading import Lock
from typing import TypeGuard

from sojourn.cluster.local import READS, Answer, Await, Forward, Request, Status, View
from sojourn.cluster.settings import Settings
from sojourn.core.record import Record
from sojourn.store.peers.start import why_not

GRACE = 0.25  # seconds that an answer may be later than the agent was told: its way, and a busy machine
WARN_EVERY = 5.0  # seconds
AT_ONCE = 0.05  # seconds in which one is connected to an agent that is there, on a busy machine
NUDGE_EVERY = 0.001  # seconds; the agent looks into the log once more later than that (``engine.AGAIN``)
PROBE_EVERY = 0.25  # seconds between two attempts to reach an agent that does not answer
LOOK_EVERY = 0.005  # seconds between two looks for an agent that is starting, or that lets go of everybody at once
LOOK_AGAIN = 1.0  # seconds after which a process that only reads looks whether its agent is still there
READY_WITHIN = 5.0  # seconds that a server that starts waits for its host to catch up with the others
UNHEARD = "the agent of this host does not answer, so no other host would have the write (alone=refuse)"

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


class Breaker:
    """Keeps requests from an agent that does not answer, and remembers how many writes nobody has confirmed.

    A circuit breaker. It opens when a request got no answer in time. From then on requests are not sent. A probe is,
    and nobody waits for it: the breaker closes when it is answered. It also closes when that agent is gone, since
    another one is asked like any other.

    The probe says how many writes were not confirmed, and its answer that the agent has counted them. As long as its
    connection lives no other is sent, so that none is counted twice; an agent that is gone has counted for nobody.
    """

    def __init__(self) -> None:
        self.is_open = self.absent = False
        self.unconfirmed = 0
        self._reported = 0
        self._probe_due = 0.0
        self._counting = Lock()

    def fail(self, *, absent: bool) -> None:
        """A request got no answer in time. *absent*: nobody was there to be asked."""
        self.is_open, self.absent = True, absent

    def missed(self) -> None:
        """A write was not confirmed."""
        with self._counting:
            self.unconfirmed += 1

    def wants_probe(self, now: float) -> bool:
        """Tell whether to try and send a probe, where none is on its way. *now* is in seconds of any steady clock."""
        if now < self._probe_due or not (self.is_open or self.unconfirmed):
            return False
        self._probe_due = now + PROBE_EVERY
        return True

    def probe(self) -> Status:
        """Return the probe; it is on its way until ``answered`` or ``reset`` is called."""
        self._reported = self.unconfirmed
        return Status(0, self._reported)

    def answered(self) -> None:
        """The probe was answered."""
        with self._counting:
            self.unconfirmed -= self._reported
        self.reset()

    def reset(self) -> None:
        """The agent is another one than that which failed, or answers again."""
        self.is_open = self.absent = False
        self._reported, self._probe_due = 0, 0.0


class Complaints:
    """Tells the log what is wrong with the agent, and of writes, each not more often than every five seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._quiet_until = settings, 0.0
        self._missed, self._no_write_until = 0, 0.0

    def note(self, error: BaseException | str | None = None) -> None:
        """Say that a request has waited in vain, because of *error*; None: it did not wait, as while one starts."""
        now = time.monotonic()
        if now < self._quiet_until:
            return
        if why := why_not(Path(self._settings.path)) or error:
            self._quiet_until = now + WARN_EVERY
            _log.warning("the agent of %s does not answer: %s", self._settings.path, why)

    def missed(self) -> None:
        """Say that a write was not confirmed; how many there were meanwhile is said with the next one."""
        self._missed += 1
        now = time.monotonic()
        if now >= self._no_write_until:
            self._no_write_until = now + WARN_EVERY
            missed, self._missed = self._missed, 0
            _log.warning("writes on this host alone, as far as it knows: %d; its agent does not answer", missed)


class Asker(ABC):
    """What one process, or one event loop, knows of its agent: whether it is worth a wait."""

    def __init__(self, settings: Settings, complaints: Complaints) -> None:
        self._directory, self._url = Path(settings.path), settings.url
        self._patience = settings.wait + GRACE
        self._complaints, self._nudges, self._breaker = complaints, Nudges(), Breaker()

    def answers(self) -> bool:
        """Tell whether the agent is worth a wait: False where it has not answered, and not yet answered the probe."""
        breaker = self._breaker
        if breaker.is_open or breaker.unconfirmed:
            self.attend()
        return not breaker.is_open

    @abstractmethod
    def attend(self) -> None:
        """Send a probe that is due, or hear what came of the last one. Waits for nobody."""

    def _missed(self, request: Request) -> None:
        """Note that *request* got no answer."""
        if isinstance(request, Await):
            self._breaker.missed()
            self._complaints.missed()
        self.answers()  # the probe is sent now: its answer may be here before the next request is


def may_repeat(request: Request) -> bool:
    """Tell whether *request* may be sent again when it may have been performed already."""
    return not isinstance(request, Forward) or request.verb in READS


def is_ready(status: Answer | None) -> bool:
    """Tell whether the agent has said that what is missing on this host is missing everywhere."""
    return isinstance(status, View) and status.view.get("ready") is True


def suffices(record: Record | None, floor: bytes) -> TypeGuard[Record]:
    """Tell, at the price of one comparison, whether *record* surely contains what *floor* says; most do."""
    return record is not None and (not floor or record.seen == floor)
