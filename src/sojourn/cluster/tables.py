"""Tables: what the rules need of a host's storage. LMDB has it in ``store/peers``, a dict in ``testing``.

Every call is one transaction, or several small ones where it says so, and is done when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sojourn.cluster.clock import Origin
from sojourn.cluster.limits import Recent
from sojourn.cluster.replica import Replica
from sojourn.cluster.wire import Change, Changes, Member, Progress

Holds = Callable[[bytes], bool]
"""Says of a name whether a certain host holds a copy of it."""

AWAY = 1024  # sessions at most of which a process remembers that others have shown them, or have written to them

BUCKETS = 1024
"""Into which all names are parted, by their first bits, so that storage reads one of them in its own order."""


def bucket_of(name: bytes) -> int:
    """Return the bucket of a name. All entries of one principal are in one."""
    return int.from_bytes(name[:2], "big") >> 6


def first_of(bucket: int) -> bytes:
    """Return where the names of a bucket begin."""
    return (bucket << 6).to_bytes(2, "big")


class Clash(NamedTuple):
    """Two hosts changed the same keys of a session at the same time; the later stamp has won."""

    key: bytes
    keys: tuple[str, ...]


class Applied(NamedTuple):
    """What came of storing changes."""

    wanted: tuple[bytes, ...] = ()
    """Names of which a delta came and nothing was there. They were left out."""
    clashes: tuple[Clash, ...] = ()


class Done(NamedTuple):
    """What an operation came to."""

    answer: Any = None
    """As the store's method of that name returns it."""
    time: int = 0
    """Where what it wrote stands in this host's log; 0: it wrote nothing."""


class View(NamedTuple):
    """What workers must know of the cluster; kept in the storage that they share."""

    members: tuple[Member, ...] = ()
    ready: bool = False
    """Whether what is missing here exists nowhere else."""


class Tables(Protocol):
    """One host's storage."""

    follows: bool
    """Whether who ships a log here has always shipped all of it: False where sessions move (``replica.received``)."""

    shown_away: Recent[bytes]
    """Sessions that other hosts have shown to this process last: what names a version belongs there."""

    written_away: Recent[bytes]
    """Sessions that this process had other hosts write to a moment ago, which their copies here may not show yet."""

    @property
    def origin(self) -> Origin:
        """The life of this storage. Another one begins where nothing is left of it."""

    def progress(self) -> dict[Origin, Progress]:
        """Return how far each origin's log is stored here; for the own origin, its end."""

    def log(self, origin: Origin, cursor: int, cut: int, limit: int, holds: Holds | None = None) -> Changes:
        """Return the next piece of an origin's log, for a host that has read to *cursor* and *holds* those names.

        At most *limit* changes (of names that are held) and about a MiB, as of one moment. Where the piece reaches
        the end of the log its ``progress.level`` is that end, otherwise it is *cut*.
        """

    def store(self, changes: Changes) -> Applied:
        """Store a piece of a log and its progress, 64 changes a transaction; the progress comes with the last.

        Where something is wanted the progress stays, until the piece comes again with nothing wanted. It never goes
        back. Raises ValueError for what no host of this protocol says, and for a stamp that is more than a day ahead.
        """

    def accept(self, copies: Sequence[Change]) -> Applied:
        """Store complete copies, whatever log they stand in; 64 a transaction. Raises ValueError as ``store``."""

    def copies(self, names: Sequence[bytes]) -> tuple[Change, ...]:
        """Return complete copies of the *names* that are here."""

    def replica(self, key: bytes) -> Replica | None:
        """Return the copy under a private key, a tombstone too."""

    def digests(self, first: int, count: int, holds: Holds | None = None) -> dict[int, int]:
        """Return one number for each of *count* buckets from *first* on; of 1,024. Empty buckets are 0."""

    def names(self, bucket: int, holds: Holds | None = None) -> dict[bytes, int]:
        """Return the names in a bucket, each with a digest of what is stored."""

    def next_bucket(self, first: int) -> int:
        """Return the next bucket, from *first* on, that has anything in it; 1,024 where there is none."""

    def some_names(self, after: bytes | None, limit: int) -> tuple[bytes, ...]:
        """Return the next names in their order, *after* one."""

    def drop(self, names: Mapping[bytes, int]) -> int:
        """Forget copies that belong on other hosts, where they still have the digest given; return how many."""

    def perform(self, verb: str, arguments: Sequence[Any]) -> Done:
        """Perform one operation of a store as a worker of this host does, on the copies that are here."""

    def sweep(self, limit: int) -> int:
        """Bury what is over by now, looking at *limit* deadlines; return how many were looked at."""

    def keep_view(self, view: View) -> None:
        """Let the workers know."""

    def view(self) -> View:
        """Return what was kept last."""
