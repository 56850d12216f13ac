"""Handover: copies that belong on other hosts go there, and are forgotten here once all of those have them.

Bucket after bucket of the own storage is looked through. What this host should not hold is offered to every host that
should; each says which of it it lacks, and is sent that. Only a copy that is unchanged since it was offered is dropped.
A host that leaves does the same with everything it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from sojourn.cluster.host import Host, Link, parcels
from sojourn.cluster.tables import BUCKETS
from sojourn.cluster.wire import Copies, Lacks, Message, Offer

AT_ONCE = 128  # names in one offer: all of the largest sessions are 32 MiB, half of what may wait for a host
LOOKED_AT = 4096  # names, about, before others have their turn
AT_REST = 1024  # the same in SLOW_EVERY, where there is no hurry
BUCKET_COSTS = 16  # to look into one, in names
AGAIN, REST = 2.0, 10  # seconds until a pass that had to keep names is repeated, or so many times as it took
SLOW_EVERY = 1.0  # seconds


@dataclass(slots=True)
class _Slice:
    """Some names of one bucket, on their way to their hosts."""

    digests: dict[bytes, int]
    epoch: int
    """The spread of sessions over the hosts for which it was offered."""
    open: int = 0
    """Questions that are not answered."""
    kept: set[bytes] = field(default_factory=set)
    """Names that some host that should have them could not be given."""


class Handover:
    """Hands over what one host should not hold."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.bucket = 0
        self.urgent = False
        self.remaining = 0
        """Names that the pass before this one had to keep."""
        self.dropped = 0
        self._kept = 0
        self._at = self._began = host.now
        self._again = float("inf")
        self._looked_at = 0
        self._slices: list[dict[bytes, int]] = []
        self._slice: _Slice | None = None

    def urgently(self) -> None:
        """Begin anew, as fast as it goes: sessions are spread over other hosts now."""
        self.bucket, self.urgent, self._kept, self._slices = 0, True, 0, []
        self._began, self._again = self.host.now, float("inf")

    def go_on(self) -> None:
        """Take the next steps, until an answer has to be waited for."""
        if self.host.settings.copies is None or self._slice:
            return
        if self._again <= self.host.now:
            self.urgently()
        if self.urgent or self._at + SLOW_EVERY <= self.host.now:
            self._at, self._looked_at = self.host.now, 0
        most = LOOKED_AT if self.urgent else AT_REST
        while not self._slice and (self._slices or self._looked_at < most):
            if self._slices:
                self._offer(self._slices.pop())
            elif not self._next_bucket():
                self._looked_at = most  # the next pass begins with the next second
                return

    def is_done(self) -> bool:
        """Tell whether the last urgent pass is over and has left nothing."""
        return not self.urgent and not self._slices and self._slice is None and not self.remaining

    def wants_to_go_on(self) -> bool:
        """Tell whether there is more to do that waits for nobody."""
        return self._slice is None and (self.urgent or bool(self._slices)) and self.host.settings.copies is not None

    def _next_bucket(self) -> bool:
        """Look for names in the next bucket that has any; return whether to go on with it."""
        self.bucket = self.host.tables.next_bucket(self.bucket)
        if self.bucket >= BUCKETS:
            self._end_pass()
            return False
        names = self.host.tables.names(self.bucket)
        self._looked_at += len(names) + BUCKET_COSTS
        self.bucket += 1
        away = {name: digest for name, digest in names.items() if not self.host.is_here(name)}
        self._slices = list(_cut(away))
        return True

    def _end_pass(self) -> None:
        self.bucket, self.remaining, self._kept, self.urgent = 0, self._kept, 0, False
        if self.remaining:
            self._again = self.host.now + max(AGAIN, REST * (self.host.now - self._began))

    def _offer(self, digests: dict[bytes, int]) -> None:
        """Offer names to all the hosts that should have them."""
        self._slice = slice = _Slice(digests, self.host.epoch)
        offers: dict[str, dict[bytes, int]] = {}
        for name, digest in digests.items():
            owners = self.host.others_of(name)
            for owner in owners:
                offers.setdefault(owner, {})[name] = digest
            if not owners:
                slice.kept.add(name)
        for owner, offered in offers.items():
            self._offer_to(slice, owner, offered)
        self._look(slice)

    def _offer_to(self, slice: _Slice, owner: str, offered: dict[bytes, int]) -> None:
        peer = self.host.peers.get(owner)
        link = peer.out if peer else None
        if link is None or not self.host.reachable(owner):
            slice.kept |= offered.keys()
            return

        def answered(message: Message) -> None:
            if isinstance(message, Lacks):
                self._push(slice, link, [name for name in message.names if name in offered])

        self._call(slice, link, lambda number: Offer(number, offered), answered, offered)

    def _push(self, slice: _Slice, link: Link, names: list[bytes]) -> None:
        for part in parcels(self.host.tables.copies(names)) if names else ():
            pushed = {change.name: 0 for change in part}
            self._call(slice, link, partial(Copies, changes=part), lambda _: None, pushed)

    def _call(
        self,
        slice: _Slice,
        link: Link,
        message: Callable[[int], Message],
        then: Callable[[Message], None],
        names: dict[bytes, int],
    ) -> None:
        def answered(answer: Message) -> bool:
            then(answer)
            slice.open -= 1
            self._look(slice)
            self.go_on()
            return True

        def lost() -> None:
            slice.kept |= names.keys()
            slice.open -= 1
            self._look(slice)

        slice.open += 1
        self.host.call(link, message, answered, lost)

    def _look(self, slice: _Slice) -> None:
        """When everybody has answered, forget what all have that should."""
        if slice.open or self._slice is not slice:
            return
        self._slice = None
        self._kept += len(slice.kept)
        given = {name: digest for name, digest in slice.digests.items() if name not in slice.kept}
        # Who leaves forgets nothing, in case it has to stay. And those that had it may no longer be those that should.
        if given and not self.host.leaving:
            dropped = self.host.tables.drop(given) if slice.epoch == self.host.epoch else 0
            self.dropped += dropped
            self._kept += len(given) - dropped


def _cut(names: dict[bytes, int]) -> Iterator[dict[bytes, int]]:
    items = list(names.items())
    for start in range(0, len(items), AT_ONCE):
        yield dict(items[start : start + AT_ONCE])
