"""Histories of simulated clusters: what browsers, hosts and faults did, as lines that any checker can read.

A history is a file of JSON objects, one a line, in the order of the simulation's time. Field ``is`` names the kind:

* ``begins``    the first line: the seed and what the cluster promises
* ``sent``      a browser sends a request to a host; at most one a client is under way
* ``answered``  what came back, and what the store's workers were told meanwhile
* ``settled``   a host told a worker that so many others have a write; ``really`` is how many did
* ``question``  a host asks the others for what it lacks of a session
* ``trouble``   something happened to a host or the network
* ``copy``      at the end: one host's copy of one session
* ``counted``   at the end: what a host counted, beside what its workers were told

Times (``at``) are seconds since the beginning. A *session* is the beginning of its private key in hexadecimal, a
*client* a number: one browser, that waits for an answer before it sends again. A *mark* is a number that one request
alone wrote: a session's values are marks, so that what is read says who wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

import msgspec

State: TypeAlias = Literal["live", "retired", "ended", "listed"]
Does: TypeAlias = Literal["read", "write", "logout", "renew", "login", "probe", "revoke", "forge"]
"""What a request does. ``probe``: a read with a cookie that its browser gave up, as from a stolen copy. ``revoke``: all

sessions of a principal are ended. ``forge``: a read with a cookie whose floor, and perhaps whose id, was made up.
"""
NO_END = 1e12  # seconds, instead of infinity, which JSON lacks


class _Line(msgspec.Struct, tag_field="is", omit_defaults=True):
    """Base of all kinds of line."""


class Begins(_Line, tag="begins"):
    """What is simulated."""

    seed: int
    hosts: tuple[str, ...]
    copies: int | None = None
    """Hosts that keep a session; None: all."""
    acks: int | None = 1
    """Other hosts that must have a write before it is answered; None: all."""
    alone: str = "accept"
    idle: float = 604_800.0
    """Seconds without a look after which a session is over."""
    lifetime: float = 2_592_000.0
    """Seconds after its beginning, or its login, after which it is over in any case."""
    format: int = 2


class Sent(_Line, tag="sent"):
    """A request goes out. Its ``sets`` are what the handler will set, or remove where the value is None."""

    at: float
    request: int
    client: int
    host: str
    does: Does
    session: str | None = None
    """What the cookie names."""
    sets: dict[str, int | None] = {}
    mark: int = 0
    """Names this request's writes; where a value is set it is that value."""
    principal: str | None = None
    """Who logs in, or whose sessions are to be ended."""


class Answered(_Line, tag="answered"):
    """The answer. Without one there is no such line: what the request did or will do is not known."""

    at: float
    request: int
    ok: bool
    """False: 503."""
    found: bool = False
    """Whether the cookie opened a session."""
    reads: dict[str, int] = {}
    """The values that the handler found."""
    session: str | None = None
    """What the browser's cookie names by now; None: it has none."""
    wrote: bool = False
    """Whether its writes were carried out."""
    ended: bool = False
    """Whether the session was ended, or its id was rotated away, and the browser was told; or all of a principal's."""
    hosts: int = 0
    """Other hosts that had the writes when it was answered: the fewest of several."""
    covered: bool = True
    """Whether the cookie's floor says what the browser has seen. It does not where the cookie's id was renewed."""
    fresh: bool = False
    """Whether a login began without the session's values, since the session had ended meanwhile."""


class Settled(_Line, tag="settled"):
    """A write's acknowledgements, as the agent counted them and as the disks say."""

    at: float
    host: str
    session: str
    hosts: int
    really: int
    enough: bool
    since: float
    """When the worker began to write."""


class Question(_Line, tag="question"):
    """A host asks the others what they have of a session, since it has less than a floor says."""

    at: float
    host: str
    session: str


class Trouble(_Line, tag="trouble"):
    """What happened to whom. Kinds that checkers go by: ``disk lost``, ``joined``, ``is to leave``, ``left``,

    ``quiet``, ``over``, ``started`` and ``agent started``.

    The others, such as ``killed`` and ``cut``, are for the reader. ``quiet``: every host had everything. ``over``: from
    here on nothing goes wrong any more.
    """

    at: float
    what: str
    hosts: tuple[str, ...] = ()
    ahead: float | None = None
    """Where a clock was set: by how many seconds it is ahead from then on."""


class Copy(_Line, tag="copy"):
    """One copy at the end, after quiet."""

    host: str
    session: str
    state: State
    """``listed``: not a session, but an entry of the index of principals."""
    digest: str
    """Of all its bytes: equal copies have equal ones."""
    reads: dict[str, int] = {}
    due: tuple[str, ...] = ()
    """The hosts that are to have one."""
    until: float = NO_END
    """When it is over, in seconds since the beginning by the clock of its host. It may be swept from then on."""


class Counted(_Line, tag="counted"):
    """Writes that fewer hosts than promised had in time: as the agent counts them, and as its workers were told."""

    host: str
    counted: int
    told: int
    for_others: int = 0
    """Writes that it made for other hosts. They are counted as well, and how many have them is not told."""


Line = Begins | Sent | Answered | Settled | Question | Trouble | Copy | Counted
History = list[Line]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


def to_lines(history: Iterable[Line]) -> bytes:
    """Return a history as JSON lines."""
    return b"".join(_encoder.encode(line) + b"\n" for line in history)


def from_lines(data: bytes) -> History:
    """Return the history that JSON lines spell. Raises msgspec.ValidationError for what is none."""
    return [_decoder.decode(line) for line in data.splitlines()]


class Finding(NamedTuple):
    """A promise that a history breaks."""

    promise: str
    """The checker's name."""
    text: str
    about: tuple[str, ...] = ()
    """Sessions that the story is about."""


def story(history: History, finding: Finding | None = None) -> str:
    """Return the history as a person reads it; with a *finding* only what concerns its sessions, and all trouble."""
    requests = {line.request: line for line in history if isinstance(line, Sent)}
    about = _lineage(history, finding.about, requests) if finding else set()
    return "\n".join(
        text for line in history if (text := _told(line, requests)) and (not about or _concerns(line, about, requests))
    )


def _lineage(history: History, about: Iterable[str], requests: dict[int, Sent]) -> set[str | None]:
    """Return the sessions, those that they came from, and those that came from them."""
    known: set[str | None] = set(about)
    pairs = [{requests[line.request].session, line.session} - {None} for line in history if isinstance(line, Answered)]
    for _ in range(8 if known else 0):
        for pair in pairs:
            if pair & known:
                known |= pair
    return known


def _concerns(line: Line, about: set[str | None], requests: dict[int, Sent]) -> bool:
    if isinstance(line, Sent | Settled | Question | Copy):
        return line.session in about
    if isinstance(line, Answered):
        return line.session in about or requests[line.request].session in about
    return True


def _told(line: Line, requests: dict[int, Sent]) -> str:
    match line:
        case Begins():
            return f"seed {line.seed}: {', '.join(line.hosts)}; copies={line.copies} acks={line.acks} {line.alone}"
        case Sent():
            sets = f" {line.sets}" if line.sets else ""
            who = f" as {line.principal}" if line.principal else ""
            does = f"{line.does} {line.session}{who}{sets}"
            return f"{line.at:9.4f}  #{line.request} client {line.client} -> {line.host}: {does}"
        case Answered():
            sent = requests[line.request]
            found = f"found {line.reads}" if line.found else "found nothing"
            done = f", wrote on {line.hosts} more" if line.wrote else ""
            said = f"{found}{done}{', ended' if line.ended else ''}; has {line.session}" if line.ok else "503"
            return f"{line.at:9.4f}  #{line.request} client {sent.client} <- {sent.host}: {said}"
        case Settled():
            return f"{line.at:9.4f}      {line.host} settled {line.session}: {line.hosts} hosts, really {line.really}"
        case Question():
            return f"{line.at:9.4f}      {line.host} asks for {line.session}"
        case Trouble():
            return f"{line.at:9.4f}  ** {line.what} {' '.join(line.hosts)}"
        case Copy():
            return f"   finally  {line.host}: {line.session} {line.state} {line.reads} {line.digest}"
        case Counted():
            return f"   finally  {line.host} counted {line.counted} under-replicated, told {line.told}"
