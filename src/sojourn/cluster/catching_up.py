"""Catching up: when a host that began with nothing may say that what it lacks does not exist."""

from __future__ import annotations

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
        self._said: dict[str, dict[Origin, int]] = {}
        """By host: how far it had each log when it first said hello."""
        self._logs: dict[Origin, int] = {}

    def greeted(self, peer: Peer) -> None:
        """A host has said how far it has each log."""
        self._logs[peer.origin] = peer.progress.get(peer.origin, Progress()).level
        mine = self.host.tables.origin
        levels = {origin: progress.level for origin, progress in peer.progress.items() if origin != mine}
        self._said.setdefault(peer.name, levels)

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
        return self._has_all(comparing)

    def _may_others_come(self) -> bool:
        host = self.host
        quiet = host.now >= host.started + QUIET * host.settings.suspect_after
        return not quiet and any(host.members.state(name) is None for name in host.seeds())

    def _has_all(self, comparing: Comparing) -> bool:
        """Tell whether this host has what it was to get.

        Of one that has left nobody gets a log any more. What it had is on others, who had compared it with theirs.
        """
        if self.host.settings.copies is None:
            staying = [levels for name, levels in self._said.items() if self.host.members.state(name) != "left"]
            return all(self._has(origin, level) for levels in staying for origin, level in levels.items())
        return all(
            self.has_log_of(peer) and (round := comparing.rounds.get(peer.name)) is not None and round.passes > 0
            for peer in self.host.peers.values()
        )
