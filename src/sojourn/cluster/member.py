"""Member: which hosts there are, and in which state, by what this host has heard itself and what others vouch for.

After Das, Gupta, Motivala: SWIM (DSN 2002), with its incarnations, and simpler: every host hears every other one by
the streams between them, so nobody probes. A host is *suspect* by own evidence alone: its streams broke, or it was
silent. It is *dead* once neither this host nor any that it hears has heard it for long enough. That somebody calls it
dead is no evidence: so a way that is cut in one direction, or between two hosts only, leaves it suspect there, and no
session moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sojourn.cluster.clock import ORIGIN_BYTES, Origin
from sojourn.cluster.settings import is_name
from sojourn.cluster.wire import Member

MOST_MEMBERS = 256
HIGHEST = 1 << 53  # incarnation, far beyond any: one more must still be a number that can be sent
_STATES = frozenset({"alive", "suspect", "dead", "left"})
REMEMBERED = 86_400.0  # seconds for which a host that has left is still known; a dead one until somebody forgets it


@dataclass(slots=True)
class _Known:
    """What is known of one other host. Times are seconds of the node's clock."""

    name: str
    incarnation: int
    origin: Origin
    ready: bool
    fresh: float
    """Until when it is alive, by what was heard of it."""
    vouched: float
    """Until when another host vouches for it."""
    ending: str = ""
    """``dead`` or ``left``; empty while it is neither."""
    ended: float = 0.0
    farewell: bool = False
    """Whether it has said goodbye for good; until then one that has *left* may still be handing on what it has."""
    heard: bool = False
    """Whether it was fresh when last looked at."""

    @property
    def state(self) -> str:
        return self.ending or ("alive" if self.heard else "suspect")

    def as_told(self) -> Member:
        return Member(self.name, self.incarnation, self.state, self.origin, self.ready, self.farewell)


class Members:
    """The hosts of a cluster as one of them sees them. Methods return whether anything that others see has changed."""

    def __init__(
        self,
        me: Member,
        others: Iterable[Member],
        silence: float,
        grace: float,
        now: float,
        admits: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """*others* are remembered from before: suspect, until they say something.

        A host is suspect after *silence* seconds, and dead *grace* seconds later. What *admits* says may not be in the
        cluster is not learned, whoever speaks of it.
        """
        self.me = me
        self._admits = admits
        self._silence, self._grace = silence, grace
        self._others: dict[str, _Known] = {}
        for member in others:
            if member.name != me.name:
                self._learn(member, now)

    # -- asking ------------------------------------------------------------------------------------------------------

    def all(self) -> tuple[Member, ...]:
        """Return every host known, this one too, by name."""
        return tuple(sorted((self.me, *(one.as_told() for one in self._others.values()))))

    def state(self, name: str) -> str | None:
        """Return the state of a host, or None when it is not known."""
        if name == self.me.name:
            return self.me.state
        return known.state if (known := self._others.get(name)) else None

    def states(self, said: Iterable[Member]) -> dict[str, str]:
        """Return the states that somebody has said, of those that may be in the cluster."""
        return {member.name: member.state for member in said if _can_be(member) and self._admits(member.name)}

    def is_ready(self, name: str) -> bool:
        """Tell whether a host has said that it has caught up."""
        return name in self._others and self._others[name].ready

    def placed(self) -> frozenset[str]:
        """Return the hosts that sessions are spread over: those that are neither dead nor gone."""
        names = {one.name for one in self._others.values() if not one.ending}
        return frozenset(names if self.me.state == "left" else names | {self.me.name})

    def others(self) -> tuple[str, ...]:
        """Return the other hosts that have not left; the dead ones too."""
        return tuple(one.name for one in self._others.values() if one.ending != "left")

    def is_gone(self, name: str, now: float) -> bool:
        """Tell whether a host has left and has nothing any more that others lack.

        It has said goodbye, or was silent for as long as makes dead: that was perhaps said where nobody heard it.
        """
        known = self._others.get(name)
        return known is not None and known.ending == "left" and (known.farewell or self._is_given_up(known, now))

    def _is_given_up(self, known: _Known, now: float) -> bool:
        return max(known.fresh, known.vouched) + self._grace <= now

    def of_origin(self, origin: Origin) -> str | None:
        """Return the host whose storage has this origin."""
        if origin == self.me.origin:
            return self.me.name
        return next((one.name for one in self._others.values() if one.origin == origin), None)

    # -- evidence ----------------------------------------------------------------------------------------------------

    def greeted(self, name: str, origin: Origin, now: float) -> bool:
        """A host has said hello. What it says of its storage is true, whatever was said by others."""
        changed = name not in self._others and self._learn(Member(name, 0, "alive", origin), now)
        known = self._others.get(name)
        if known and known.origin != origin:
            known.origin, known.ready, changed = origin, False, True
        return self.heard(name, now) or changed

    def heard(self, name: str, now: float) -> bool:
        """A host has said something."""
        known = self._others.get(name)
        if known is None:
            return False
        before = known.state
        known.fresh, known.heard = now + self._silence, True
        if known.ending == "dead":
            known.ending = ""
        return known.state != before

    def broken(self, name: str, now: float) -> bool:
        """No stream is left between the host and this one."""
        known = self._others.get(name)
        if known is None or not known.heard:
            return False
        known.fresh, known.heard = now, False
        return not known.ending

    def passed(self, now: float) -> bool:
        """Time has passed: who was silent for too long is suspect, then dead, then forgotten."""
        changed = False
        for known in list(self._others.values()):
            before = known.state
            known.heard = known.heard and known.fresh > now
            if not known.ending and self._is_given_up(known, now):
                known.ending, known.ended = "dead", now
            if known.ending == "left" and known.ended + REMEMBERED <= now:
                del self._others[known.name]
            changed = changed or known.state != before or known.name not in self._others
        return changed

    def slept(self, seconds: float) -> None:
        """This host itself stood still for so long: nobody else was silent."""
        for known in self._others.values():
            known.fresh += seconds
            known.vouched += seconds

    def due(self) -> float:
        """Return when time will next make a difference."""
        open = [one for one in self._others.values() if not one.ending]
        times = [one.fresh if one.heard else max(one.fresh, one.vouched) + self._grace for one in open]
        return min(times, default=float("inf"))

    # -- gossip ------------------------------------------------------------------------------------------------------

    def told(self, by: str, members: Iterable[Member], now: float) -> bool:
        """The host *by* has said what it knows."""
        changed = False
        for member in filter(_can_be, members):
            if member.name == self.me.name:
                changed = self._told_of_me(member) or changed
            elif member.name in self._others:
                changed = self._told_of(self._others[member.name], member, by, now) or changed
            elif member.state in ("alive", "suspect") or (member.state == "left" and not member.farewell):
                changed = self._learn(member, now) or changed  # who is leaving may have what nobody else has
        return changed

    def _told_of_me(self, said: Member) -> bool:
        """Contradict what is said of an earlier life, or of this one while it lives, by a higher incarnation."""
        mine = self.me
        wrong = said.origin != mine.origin or (said.state in ("dead", "left") and mine.state == "alive")
        if said.incarnation < mine.incarnation or not (wrong or said.incarnation > mine.incarnation):
            return False
        self.me = mine._replace(incarnation=said.incarnation + (1 if wrong else 0))
        return True

    def _told_of(self, known: _Known, said: Member, by: str, now: float) -> bool:
        if said.incarnation < known.incarnation:
            return False
        before = known.as_told()
        if by == said.name:
            known.ready = said.ready
        if said.incarnation > known.incarnation:
            self._succeed(known, said)
        if said.state == "left" and known.ending != "left":
            known.ending, known.ended = "left", now
        elif said.state == "alive" and known.ending != "left":
            known.vouched = max(known.vouched, now + self._silence)
            known.ending = ""
        known.farewell = known.ending == "left" and (known.farewell or said.farewell)
        return known.as_told() != before

    def _succeed(self, known: _Known, said: Member) -> None:
        """Take what is said of a later incarnation; one that has left may have come back in it."""
        known.incarnation = said.incarnation
        if not known.heard:
            known.origin, known.ready = said.origin, said.ready
        if said.state in ("alive", "suspect") and known.ending == "left":
            known.ending = "dead"

    def _learn(self, said: Member, now: float) -> bool:
        """Begin to know a host: suspect, until something is heard of it."""
        if len(self._others) >= MOST_MEMBERS - 1 or not self._admits(said.name):
            return False
        known = _Known(said.name, said.incarnation, said.origin, said.ready, now, now)
        if said.state in ("dead", "left"):
            known.ending, known.ended = said.state, now
            known.farewell = said.farewell
        self._others[said.name] = known
        return True

    # -- this host ---------------------------------------------------------------------------------------------------

    def is_ready_now(self) -> None:
        """This host has caught up."""
        self.me = self.me._replace(ready=True)

    def leaves(self) -> None:
        """This host leaves: nothing is placed here any more."""
        self.me = self.me._replace(state="left", incarnation=self.me.incarnation + 1)

    def stays(self) -> None:
        """It could not hand its sessions on, and stays."""
        self.me = self.me._replace(state="alive", incarnation=self.me.incarnation + 1)

    def forget(self, name: str, now: float) -> bool:
        """An operator says that a host will not come back: a dead one, one never heard of, or one that died leaving."""
        if name == self.me.name or not is_name(name) or self.state(name) in ("alive", "suspect"):
            return False
        learned = name not in self._others and self._learn(Member(name, 0, "left", b""), now)
        return self.left(name, now) or learned

    def left(self, name: str, now: float) -> bool:
        """A host has said goodbye for good."""
        known = self._others.get(name)
        if known is None or known.farewell:
            return False
        if known.ending != "left":
            known.ending, known.ended = "left", now
        known.farewell = True
        return True


def _can_be(said: Member) -> bool:
    """Tell whether that can be said of a host. What is learned is kept, and told to all: nothing else may spread."""
    return (
        is_name(said.name)
        and said.state in _STATES
        and 0 <= said.incarnation < HIGHEST
        and len(said.origin) in (0, ORIGIN_BYTES)
    )
