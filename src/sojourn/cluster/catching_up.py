"""Catching up: when a host that began with nothing may say that what it lacks does not exist."""

from __future__ import annotations

from collections.abc import Mapping

from sojourn.cluster.clock import Origin
from sojourn.cluster.comparing import Comparing
from sojourn.cluster.host import Host, Peer
from sojourn.cluster.wire import Progress

QUIET = (
    3.0  # times the silence after which a host is suspect: then a host that nobody answers takes itself for the first
)


class CatchingUp:
    """What one host has to have before it is ready; a host that was ready before and kept its storage is."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._levels: dict[Origin, int] = {}
        self._greeted: set[str] = set()
        self._logs: dict[Origin, int] = {}

    def greeted(self, peer: Peer) -> None:
        """A host has said how far it has each log."""
        self._logs[peer.origin] = peer.progress.get(peer.origin, Progress()).level
        if peer.name in self._greeted:
            return
        self._greeted.add(peer.name)
        for origin, progress in peer.progress.items():
            if origin != self.host.tables.origin:
                self._levels[origin] = max(self._levels.get(origin, 0), progress.level)

    def has_log_of(self, peer: Peer) -> bool:
        """Tell whether the log of a host is here as far as it went when it said hello."""
        return self._has(peer.origin, self._logs.get(peer.origin, 0))

    def _has(self, origin: Origin, level: int) -> bool:
        return self.host.known.get(origin, Progress()).level >= level

    def is_done(self, comparing: Comparing, *, untried: bool) -> bool:
        """Tell whether the host has become ready now. *untried*: somebody was not dialed yet."""
        host = self.host
        if host.members.me.ready or untried:
            return False
        away = [name for name in host.members.others() if host.members.state(name) == "suspect"]
        knowing = any(host.members.is_ready(peer.name) for peer in host.connected())
        if not knowing and (away or self._may_others_come()):
            return False
        return self._has_all(self._levels, comparing)

    def _may_others_come(self) -> bool:
        host = self.host
        quiet = host.now >= host.started + QUIET * host.settings.suspect_after
        return not quiet and any(host.members.state(name) is None for name in host.seeds())

    def _has_all(self, levels: Mapping[Origin, int], comparing: Comparing) -> bool:
        if self.host.settings.copies is None:
            return all(self._has(origin, level) for origin, level in levels.items())
        return all(
            self.has_log_of(peer) and (round := comparing.rounds.get(peer.name)) is not None and round.passes > 0
            for peer in self.host.peers.values()
        )
