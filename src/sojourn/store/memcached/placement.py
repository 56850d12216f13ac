"""Which server keeps a key: rendezvous hashing, the same for both colours, all workers and all hosts. Pure.

Each server draws a number for the key, a hash of both names, and the highest keeps it (Thaler and Ravishankar,
"Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998). A server that is
added draws its share and moves nothing else; one that is removed gives up its own share and moves nothing else.

Rule 1: the names are the ones written in the setting. All hosts must write the same names, in any order.
Rule 2: whether a server answers plays no part. A key whose server is down has no other place: it would be a session
that ended there and lives on here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from operator import itemgetter


class Placement:
    """The servers by name. Raises ValueError when there are none, or one twice."""

    def __init__(self, names: Sequence[str]) -> None:
        if not names or len(set(names)) < len(names):
            raise ValueError("a placement needs servers, each of them once")
        self._only = names[0] if len(names) == 1 else None
        # Sorted, so that even a draw of equal numbers has the same winner everywhere.
        self._draws = [(name, _draw_of(name)) for name in sorted(names)]

    def server_of(self, key: bytes) -> str:
        """Return the name of the server that keeps *key*, a private key."""
        if self._only:
            return self._only
        drawn = []
        for name, unkeyed in self._draws:
            draw = unkeyed.copy()
            draw.update(key)
            drawn.append((draw.digest(), name))
        return max(drawn, key=itemgetter(0))[1]


def _draw_of(name: str) -> hashlib.blake2b:
    # The zero byte ends the name: no name and key run together into those of another pair.
    return hashlib.blake2b(name.encode() + b"\0", digest_size=8, person=b"sojourn place")
