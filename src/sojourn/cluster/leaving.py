"""Leaving: a host goes for good, once the others have everything that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sojourn.cluster.comparing import Comparing
from sojourn.cluster.handover import Handover
from sojourn.cluster.host import Host
from sojourn.cluster.local import Leave, View
from sojourn.cluster.shipping import Shipping


class Leaving:
    """The farewell of one host. While it lasts nothing new is placed here."""

    def __init__(self, host: Host, shipping: Shipping, comparing: Comparing, handover: Handover) -> None:
        self.host, self._shipping, self._comparing, self._handover = host, shipping, comparing, handover
        self._asked: list[tuple[int, int]] = []
        self._deadline = float("inf")
        self._is_known = False
        """Whether the others know it, so that nothing is acknowledged any more by what lies here."""
        self._status: Callable[[], dict[str, Any]] = dict

    def begin(self, worker: int, request: Leave, status: Callable[[], dict[str, Any]]) -> None:
        """Somebody wants this host to leave."""
        self._asked.append((worker, request.number))
        self._status = status
        self._deadline = self.host.now + request.wait_ms / 1000
        if not self.host.leaving:
            self.host.members.leaves()
            self._is_known = False
            self._hand_on()

    def _hand_on(self) -> None:
        self._comparing.urgently()
        self._handover.urgently()

    def due(self) -> float:
        """Return when it is given up."""
        return self._deadline

    def forget(self, worker: int) -> None:
        """Who wanted to know is gone. The host leaves nevertheless."""
        self._asked = [asked for asked in self._asked if asked[0] != worker]

    def go_on(self) -> bool:
        """Return whether the others have everything, once: then the host is gone."""
        if self._deadline == float("inf"):
            return False
        if self._is_done():
            self._end(left=True)
            return True
        if self._deadline <= self.host.now:
            self.host.members.stays()
            self._end(left=False)
        return False

    def _end(self, *, left: bool) -> None:
        self._deadline = float("inf")
        for worker, number in self._asked:
            view = self._status() | {"left": left, "remaining": 0 if left else self._remaining()}
            self.host.reply(worker, View(number, view))
        self._asked = []

    def _is_done(self) -> bool:
        others = [name for name in self.host.members.others() if self.host.members.state(name) != "dead"]
        if not others:
            return not self._anything()  # there is nobody to hand it to: the dead have what they had, and no more
        there = [name for name in others if self.host.reachable(name)]
        if len(there) < len(others) and self.host.settings.copies is not None:
            return False
        if len(there) < self._enough() or any(self._shipping.level(name) < self._shipping.end() for name in there):
            return False
        if not self._is_known:
            if all(self.host.peers[name].states.get(self.host.me) == "left" for name in there):
                self._is_known = True
                self._hand_on()  # until now a write may have been acknowledged since it was here
            return False
        if self.host.settings.copies is not None:
            return self._handover.is_done()
        return not any(self._comparing.rounds[name].urgent for name in there)

    def _enough(self) -> int:
        """Return how many hosts must have everything: no fewer than have a write that is acknowledged.

        One of those is the host that leaves. Where a host that is away has not got it yet, the last one that has would
        be one loss away from none. Who will not come back can be forgotten, and is not counted then.
        """
        settings, most = self.host.settings, len(self.host.members.others())
        copies = max(settings.acks or 1, 1) + 1
        return max(min(copies, settings.copies or copies, most), 1)

    def _anything(self) -> bool:
        return bool(self.host.tables.some_names(None, 1))

    def _remaining(self) -> int:
        return self._handover.remaining
