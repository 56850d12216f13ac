"""The messages between hosts, and how they lie in a stream. Read top down: in the order in which two hosts speak.

A frame is a length (4 bytes, big-endian) and a MessagePack array whose first element names the kind. The types below
are the schema: what does not fit is refused before anybody looks at it, and nothing that is read can be code. Before
both have said hello no other kind is read. Who the sender is says its certificate (where there is TLS), never a field.

Each ordered pair of hosts has one stream: the one that opened it sends the changes of its log on it, and its questions;
the other acknowledges and answers. New fields are added at the end with a default, so that N and N+1 read each other;
a change that N cannot read, such as any of a NamedTuple, takes a new version number, and both speak the lower one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from sojourn.cluster.clock import Origin
from sojourn.cluster.replica import Replica

VERSIONS = (1,)  # spoken here, the best first
LENGTH = 4  # bytes in front of each frame
MOST_HELLO = 65_536  # bytes of a frame before both have said hello
MOST = 8 << 20  # bytes of any other; a batch is cut long before


class _Message(msgspec.Struct, array_like=True, tag=True):
    """Base of all messages: an array, led by the name of its type."""


class Progress(NamedTuple):
    """How far a host has read one origin's log."""

    cursor: int = 0
    """The last position that was read."""
    level: int = 0
    """Everything that the origin had written up to here is stored. Behind the cursor while catching up only."""


class Member(NamedTuple):
    """What is said about one host. A higher *incarnation* is news, and at the same one the worse state."""

    name: str
    """``host:port`` under which the others reach it."""
    incarnation: int
    state: str
    """``alive``, ``suspect``, ``dead`` or ``left``."""
    origin: Origin
    """The life of its storage."""
    ready: bool = False
    """Whether it has caught up, so that what it lacks does not exist."""
    farewell: bool = False
    """Whether one that has left said goodbye, or is given up; until then it may still hand on what it has."""


class Hello(_Message):
    """The first frame in both directions."""

    versions: tuple[int, ...]
    cluster: str
    """A name that all hosts of a cluster share, so that two clusters never mix."""
    rules: str
    """What all must have set alike, such as ``copies=all``."""
    name: str
    origin: Origin
    progress: dict[Origin, Progress]
    """How far the sender has read each log, the receiver's among them."""
    members: tuple[Member, ...]


class Refused(_Message):
    """Instead of a hello: why not, for the log of the other. The stream is closed after it."""

    why: str


class Listing(NamedTuple):
    """An entry of the index of principals: a register, in which the later stamp wins."""

    time: int
    origin: Origin
    until_ms: int
    listed: bool


class Change(NamedTuple):
    """One session, or one entry of the index, that stands at *time* in the log."""

    name: bytes
    """A private key (32 bytes), or a tag and a private key (64)."""
    time: int
    complete: bool
    """Whether it holds everything the sender has, so that a receiver which lacks the session can begin with it."""
    replica: Replica | None = None
    listing: Listing | None = None
    packed: bytes | None = None
    """Instead of *replica*: a session that lives, complete, as it lies in storage (``store.peers.packing``)."""


def weight(change: Change) -> int:
    """Return about how many bytes *change* takes in a message."""
    cells = change.replica.cells.items() if change.replica else ()
    return 256 + len(change.packed or b"") + sum(len(key) + len(cell.data or b"") + 32 for key, cell in cells)


class Changes(_Message):
    """A piece of a log, in its order."""

    origin: Origin
    cut: int
    """Deltas hold what is later than this."""
    progress: Progress
    """How far the receiver has read once it has stored this."""
    changes: tuple[Change, ...]
    after: int = 0
    """The position behind which the piece begins. Who has not read so far must not store it: it would have a gap."""


class Stored(_Message):
    """The answer to Changes, after its transaction: what they brought is in this host's storage."""

    origin: Origin
    progress: Progress
    wanted: tuple[bytes, ...] = ()
    """Names of which only a delta came and nothing is there: send these whole."""


class Ping(_Message):
    """Now and then from both sides; a host that is not heard of is suspected."""

    sent_ms: int
    members: tuple[Member, ...]
    progress: dict[Origin, Progress]


class Pull(_Message):
    """Ask for another origin's log, as far as the other has it; answered by Changes."""

    origin: Origin
    cursor: int
    cut: int


class Fetch(_Message):
    """Ask for sessions and index entries as they are; answered by Copies."""

    number: int
    names: tuple[bytes, ...]


class Copies(_Message):
    """The answer to Fetch: complete, and only those that are there. Or, unasked, what the receiver should have."""

    number: int
    changes: tuple[Change, ...]
    more: bool = False
    """Whether another part of the same answer follows."""


class Took(_Message):
    """The answer to Copies that came unasked, after their transaction."""

    number: int


class Digests(_Message):
    """One number for each bucket of names that sender and receiver both hold; the receiver compares with its own."""

    buckets: dict[int, int]
    first: int = 0
    count: int = 0
    """Buckets from *first* on that are asked about as well: those without a number are empty."""
    names: bool = True
    """Whether the names in those that differ are wanted, and not only which they are."""


class Names(_Message):
    """What the sender holds in a bucket whose digest differs: a digest for each name. Answers Digests: for each bucket
    that differs one or more, then Digests that names those that differ and are left for the next time."""

    bucket: int
    digests: dict[bytes, int]
    after: bytes = b""
    until: bytes | None = None
    """Only names behind *after*, up to *until*: all entries of a principal are in one bucket, and may be very many."""


class Offer(_Message):
    """Names of which the sender has copies that belong to the receiver, with their digests; answered by Lacks."""

    number: int
    digests: dict[bytes, int]


class Lacks(_Message):
    """The answer to Offer: those that are not here with the same digest. The others are here exactly so."""

    number: int
    names: tuple[bytes, ...]


class Do(_Message):
    """An operation for a host that has a copy, from one that has none: the verb's name and its arguments."""

    number: int
    verb: str
    arguments: tuple[Any, ...]


class Did(_Message):
    """The answer to Do; *failed* says why there is none."""

    number: int
    answer: Any = None
    failed: str | None = None
    moved: bool = False
    """Whether it was not even tried, since this host does not keep it, or cannot say yet: ask another."""
    over: bool = False
    """Whether the session that was to be loaded has ended here: what others have of it is of no account."""


class Goodbye(_Message):
    """The sender leaves for good, or ends; in the first case it has handed its sessions on."""

    leaves: bool


Message = (
    Hello
    | Refused
    | Changes
    | Stored
    | Ping
    | Pull
    | Fetch
    | Copies
    | Took
    | Digests
    | Names
    | Offer
    | Lacks
    | Do
    | Did
    | Goodbye
)

_encode = msgspec.msgpack.Encoder().encode
_decode_hello = msgspec.msgpack.Decoder(Hello | Refused).decode
_decode = msgspec.msgpack.Decoder(Message).decode


def to_frame(message: Message) -> bytes:
    """Return *message* as it goes into a stream."""
    body = _encode(message)
    return len(body).to_bytes(LENGTH, "big") + body


class Malformed(ValueError):
    """What a stream brought is no frame of this protocol; it must be closed."""


class Bodies:
    """Cuts a stream into the bodies of its frames. :attr:`most`, the bytes of the longest, may change in between."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 0
        """Bytes of the last one."""
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the bodies that *data* completes. Raises Malformed, also before it waits for too long a one."""
        self._rest += data
        while len(self._rest) >= LENGTH:
            size = int.from_bytes(self._rest[:LENGTH], "big")
            if size > self.most:
                raise Malformed(f"a frame of {size} bytes; at most {self.most} are read")
            if len(self._rest) < LENGTH + size:
                return
            body = bytes(self._rest[LENGTH : LENGTH + size])
            del self._rest[: LENGTH + size]
            self.size = size
            yield body


class Frames:
    """Cuts what a stream brings into messages. Until :attr:`greeted` is set only Hello and Refused are read."""

    def __init__(self) -> None:
        self._bodies = Bodies(MOST_HELLO)

    @property
    def size(self) -> int:
        """Bytes of the last message."""
        return self._bodies.size

    @property
    def greeted(self) -> bool:
        """Whether both have said hello."""
        return self._bodies.most == MOST

    @greeted.setter
    def greeted(self, both: bool) -> None:
        self._bodies.most = MOST if both else MOST_HELLO

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that *data* completes. Raises Malformed, also before it waits for too long a one."""
        for body in self._bodies.feed(data):
            yield self._message(body)

    def _message(self, body: bytes) -> Message:
        try:
            message: Message = _decode(body) if self.greeted else _decode_hello(body)
            return message
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Malformed(str(error)) from error
