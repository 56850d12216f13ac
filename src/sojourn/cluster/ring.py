"""Ring: which hosts keep a session, worked out by every host alike, without a word between them.

Source: Thaler, Ravishankar: Using Name-Based Mappings to Increase Hit Rates (IEEE/ACM Transactions on Networking 6(1),
1998), known as rendezvous hashing. Each host has a score for each key, and the highest scores keep it. A host that
leaves takes its scores along and changes nobody else's: only its own sessions move, to all the others alike.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from hashlib import blake2b

_SCORE = 8  # bytes
_MEMBER_SETS = 64  # kept ready; a cluster has one at a time, and another for each host that comes or goes


def owners(key: bytes, names: Collection[str], copies: int | None) -> tuple[str, ...]:
    """Return which of the hosts *names* keep *key*, the best first: *copies* of them, or all when that is None.

    *key* is what sessions are spread by: a private key, or the tag of a principal, so that its whole list lies
    together. Never more hosts than there are; in which order the *names* come does not matter.
    """
    scored = []
    for name, state in _states(frozenset(names)):
        score = state.copy()
        score.update(key)
        scored.append((score.digest(), name))
    scored.sort(reverse=True)  # of two equal scores the greater name wins, on every host
    return tuple([name for _, name in scored[:copies]])


@lru_cache(_MEMBER_SETS)
def _states(names: frozenset[str]) -> tuple[tuple[str, blake2b], ...]:
    """Return for each name a hash that has read it: copying one is faster than to begin anew for each key."""
    return tuple((name, blake2b(_salt(name), digest_size=_SCORE)) for name in names)


def _salt(name: str) -> bytes:
    """Return a name as bytes of one length, so that name and key cannot run into another name and key."""
    return blake2b(name.encode(), digest_size=_SCORE).digest()
