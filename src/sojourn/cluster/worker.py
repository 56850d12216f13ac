"""What a worker does: a store's verbs on the storage that it shares with its host, and when it must ask the agent.

Each verb is a generator, a *talk*: it yields requests to the agent and is sent the answers, or None where the agent
could not be reached or did not answer in time. So the blocking store, the one for event loops and the simulation decide
alike. Who drives a talk numbers its requests. What can be answered from here yields nothing.

A verb is local where this host is one of those that keep the key. A write is one local transaction, then a wait until
``acks`` other hosts have it. Otherwise the verb is forwarded to a host that keeps the key: a copy that lies here all
the same is left over, and nobody sends what becomes of it. Raises StoreUnavailable rather than to show an older session
than a browser has seen, or to say that there is none where somebody who may have it cannot be asked.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec

from sojourn.cluster import ring
from sojourn.cluster.clock import milliseconds
from sojourn.cluster.local import Answer, Ask, Asked, Await, Forward, Forwarded, Nudge, Request, Settled
from sojourn.cluster.replica import Replica, floor_of, merge, missing, to_record, with_marks
from sojourn.cluster.settings import Settings
from sojourn.cluster.tables import Done, Tables, View
from sojourn.core.capability import Page, Records
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable

T = TypeVar("T")
Talk: TypeAlias = Generator[Request, Answer | None, T]

PACE = 256  # writes, about, that with acks=0 wait for nobody between two that do: nobody outruns the others for long
AT_ONCE = 16  # records in one forwarded answer: of the largest sessions these are 4 MiB, half of what a frame may have

_GONE_FROM_RING = ("dead", "left")


# -- where a key belongs -------------------------------------------------------------------------------------------


def places(tables: Tables, settings: Settings, key: bytes) -> bool:
    """Tell whether this host is one of those that keep *key* (of a session, or the tag of a principal)."""
    return settings.copies is None or settings.me in _owners(tables.view(), settings, key)


def serves(tables: Tables, settings: Settings, key: bytes) -> bool:
    """Tell whether this host keeps a session, and nobody else has shown it to this process last."""
    return key not in tables.shown_away and places(tables, settings, key)


def shows_own_writes(tables: Tables, settings: Settings, key: bytes) -> bool:
    """Tell whether the copy here contains what this process has written: this host keeps it, and did so all the time.

    It may have come to keep it a moment ago, when another one that is about to leave had just written for it.
    """
    return key not in tables.written_away and places(tables, settings, key)


def _owners(view: View, settings: Settings, key: bytes) -> tuple[str, ...]:
    return ring.owners(key, _names(view, settings), settings.copies)


def _names(view: View, settings: Settings) -> Collection[str]:
    """Return the hosts that keys are spread over; this one is among them, whatever the others say."""
    return {settings.me, *(member.name for member in view.members if member.state not in _GONE_FROM_RING)}


# -- the five verbs ------------------------------------------------------------------------------------------------


def load(tables: Tables, settings: Settings, key: bytes) -> Talk[Record | None]:
    """Return the record under *key*, or None."""
    return load_seen(tables, settings, key, b"")


def load_seen(tables: Tables, settings: Settings, key: bytes, floor: bytes) -> Talk[Record | None]:
    """Return the record under *key*, no older than *floor* says, or None."""
    replica = tables.replica(key)
    elsewhere: Record | None = None
    if not places(tables, settings, key):
        # What lies here is left over, and nobody sends what becomes of it: a logout on an owner would go unheard.
        try:
            elsewhere = yield from _forward(settings, key, "load", (key,), Record | None, floor=floor)
        except StoreUnavailable:
            if replica is None or missing(floor, replica):
                raise
            return _as_loaded(replica)  # cut off from all owners: as on either side of a partition
        tables.shown_away.note(key)
        if not missing(floor, with_marks(elsewhere)):
            return elsewhere
    else:
        tables.shown_away.forget(key)
        if not missing(floor, replica) and (replica or _knows(tables, settings, key)):
            return _as_loaded(replica)
    yield from _fetch(settings, key, floor)
    replica = tables.replica(key)
    return elsewhere if replica is None else _as_loaded(replica)


def floor(tables: Tables, settings: Settings, key: bytes) -> Talk[bytes]:
    """Return what a browser has seen that was shown what is under *key* now.

    Where it is kept elsewhere, that is what the host has that has shown it or has written to it, and what was fetched.
    """
    replica = tables.replica(key)
    if shows_own_writes(tables, settings, key):
        return floor_of(replica) if replica else b""
    tables.written_away.forget(key)  # also where nobody answers: then no later question will be answered either
    record = yield from _forward(settings, key, "load", (key,), Record | None, shown=True)
    there = with_marks(record)
    if there and replica and not replica.has_ended:
        there = merge(there, Replica(seen=replica.seen))
    seen = floor_of(there) if there else b""
    if missing(seen, replica):
        tables.written_away.note(key)
    return seen


def create(tables: Tables, settings: Settings, key: bytes, record: Record) -> Talk[Written]:
    """Store a new record."""
    if not places(tables, settings, key):
        answer = yield from _written_away(tables, settings, key, "create", (key, record))
    else:
        answer = yield from _write(tables, settings, key, "create", (key, record))
    return answer


def update(tables: Tables, settings: Settings, key: bytes, record: Record, base: int) -> Talk[Written]:
    """Replace the record if it still has version *base*."""
    return _change(tables, settings, key, "update", (key, record, base))


def touch(
    tables: Tables, settings: Settings, key: bytes, accessed_at: float, expires_at: float, base: int
) -> Talk[Written]:
    """Move the record's times if it still has version *base*."""
    return _change(tables, settings, key, "touch", (key, accessed_at, expires_at, base))


def delete(tables: Tables, settings: Settings, key: bytes, base: int | None = None) -> Talk[Written]:
    """End the session if it still has version *base*, or any when that is None."""
    return _change(tables, settings, key, "delete", (key, base))


# -- many ----------------------------------------------------------------------------------------------------------


def load_many(tables: Tables, settings: Settings, keys: Sequence[bytes]) -> Talk[Records]:
    """Return the records under *keys* in their order, None for each that is missing."""
    found: Records = list(tables.perform("load_many", (keys,)).answer)
    elsewhere: dict[bytes, Record | None] = {}
    for group in _away(tables, settings, tables.view(), list(dict.fromkeys(keys))):
        answer = yield from _forward(settings, group[0], "load_many", (group,), Records)
        elsewhere.update(zip(group, answer, strict=True))
    return [elsewhere.get(key, record) for key, record in zip(keys, found, strict=True)]


def delete_many(tables: Tables, settings: Settings, keys: Sequence[bytes]) -> Talk[int]:
    """End the sessions under *keys* and return how many there were."""
    view, count = tables.view(), 0
    away = _away(tables, settings, view, keys)
    elsewhere = {key for group in away for key in group}
    here = [key for key in keys if key not in elsewhere]
    for _, group in _grouped(view, settings, here):
        count += yield from _write(tables, settings, group[-1], "delete_many", (group,))
    for group in away:
        count += yield from _forward(settings, group[0], "delete_many", (group,), int)
    return count


def _away(tables: Tables, settings: Settings, view: View, keys: Sequence[bytes]) -> list[list[bytes]]:
    """Return those of *keys* that this host may know nothing of, in groups that one other host can answer for."""
    unknown = [(owners, key) for key in keys if (owners := _elsewhere(view, settings, key)) is not None]
    # Where others keep a session, a copy that lies here is left over, and nobody sends what becomes of it.
    missing_here = [key for owners, key in unknown if (owners and settings.me not in owners) or not tables.replica(key)]
    groups = [group for _, group in _grouped(view, settings, missing_here)]
    return [group[start : start + AT_ONCE] for group in groups for start in range(0, len(group), AT_ONCE)]


def _elsewhere(view: View, settings: Settings, key: bytes) -> tuple[str, ...] | None:
    """Return who keeps *key*; None where what is missing here is missing everywhere."""
    if settings.copies is None:
        return None if view.ready else ()
    owners = _owners(view, settings, key)
    return None if view.ready and settings.me in owners else owners


def _grouped(view: View, settings: Settings, keys: Sequence[bytes]) -> Iterator[tuple[tuple[str, ...], list[bytes]]]:
    """Group *keys* by the hosts that keep them."""
    groups: dict[tuple[str, ...], list[bytes]] = {}
    for key in keys:
        owners = () if settings.copies is None else _owners(view, settings, key)
        groups.setdefault(owners, []).append(key)
    yield from groups.items()


# -- the index of a principal, the scan ----------------------------------------------------------------------------


def enlist(tables: Tables, settings: Settings, tag: bytes, key: bytes, now: float, until: float) -> Talk[None]:
    """Note *key* under *tag* until then."""
    yield from _at_tag(tables, settings, tag, tag + key, "enlist", (tag, key, now, until))


def delist(tables: Tables, settings: Settings, tag: bytes, keys: Sequence[bytes]) -> Talk[None]:
    """Take *keys* out of what stands under *tag*."""
    if keys:
        yield from _at_tag(tables, settings, tag, tag + keys[-1], "delist", (tag, list(keys)))


def _at_tag(
    tables: Tables, settings: Settings, tag: bytes, name: bytes, verb: str, arguments: tuple[Any, ...]
) -> Talk[None]:
    if places(tables, settings, tag):
        yield from _write(tables, settings, name, verb, arguments)
    else:
        yield from _forward(settings, tag, verb, arguments, None)


def find(tables: Tables, settings: Settings, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Talk[Page]:
    """Return the next keys of *tag*."""
    if _knows(tables, settings, tag):
        page: Page = tables.perform("find", (tag, cursor, limit)).answer
        return page
    page = yield from _forward(settings, tag, "find", (tag, cursor, limit), Page)
    return page


def scan(tables: Tables, settings: Settings, cursor: bytes | None = None, limit: int = 256) -> Talk[Page]:
    """Return the next keys of all sessions. With ``copies=k`` host after host is asked, and keys come k times."""
    view = tables.view()
    if settings.copies is not None:
        return (yield from _scan_hosts(tables, settings, view, settings.copies, cursor, limit))
    if view.ready:
        return _scan_here(tables, cursor, limit)
    others = (member for member in view.members if member.name != settings.me)
    ready = sorted(member.name for member in others if member.ready and member.state == "alive")
    if not ready:
        raise StoreUnavailable("this host is still catching up, and no other can be asked for a scan")
    page: Page = yield from _forward(settings, ready[0].encode(), "scan", (cursor, limit), Page)
    return page


def _scan_here(tables: Tables, cursor: bytes | None, limit: int) -> Page:
    page: Page = tables.perform("scan", (cursor, limit)).answer
    return page


def _scan_hosts(
    tables: Tables, settings: Settings, view: View, copies: int, cursor: bytes | None, limit: int
) -> Talk[Page]:
    away = [member.name for member in view.members if member.state == "suspect" and member.name != settings.me]
    if len(away) >= copies:
        raise StoreUnavailable(f"no full scan: {', '.join(away)} cannot be reached, and others may not have theirs")
    hosts = sorted(set(_names(view, settings)) - set(away))
    name, inner = _place(cursor)
    host = next((host for host in hosts if host >= name), None)
    if host is None:
        return Page(())
    inner = inner if host == name else None
    if host == settings.me:
        page = _scan_here(tables, inner, limit)
    else:
        page = yield from _forward(settings, host.encode(), "scan", (inner, limit), Page)
    if page.cursor is not None:
        return page._replace(cursor=b"%b %b" % (host.encode(), page.cursor))
    follower = next((one for one in hosts if one > host), None)
    return page._replace(cursor=None if follower is None else b"%b " % follower.encode())


def _place(cursor: bytes | None) -> tuple[str, bytes | None]:
    """Return the host that a scan has come to, and its own cursor."""
    name, _, inner = (cursor or b"").partition(b" ")
    return name.decode(), inner or None


# -- here ----------------------------------------------------------------------------------------------------------


def _knows(tables: Tables, settings: Settings, key: bytes) -> bool:
    """Tell whether what is missing here under *key* is missing everywhere."""
    view = tables.view()
    return view.ready and (settings.copies is None or settings.me in _owners(view, settings, key))


def _as_loaded(replica: Replica | None) -> Record | None:
    if replica is None or replica.deleted:
        return None
    return to_record(replica)._replace(seen=floor_of(replica))


def _change(tables: Tables, settings: Settings, key: bytes, verb: str, arguments: tuple[Any, ...]) -> Talk[Written]:
    """Perform a verb on a session that should be there: here, or where it is kept.

    One that names a version, the last argument, where that was shown: this host may have come to keep the session
    since, and know nothing of it yet.
    """
    is_mine = places if arguments[-1] is None else serves
    if not is_mine(tables, settings, key):
        return (yield from _written_away(tables, settings, key, verb, arguments))
    answer: Written = yield from _write(tables, settings, key, verb, arguments)
    if answer is Written.GONE and tables.replica(key) is None and not tables.view().ready:
        yield from _fetch(settings, key, b"")
        answer = yield from _write(tables, settings, key, verb, arguments)
    return answer


def _write(tables: Tables, settings: Settings, name: bytes, verb: str, arguments: tuple[Any, ...]) -> Talk[Any]:
    """Perform a verb here, and wait until as many other hosts have it as there should be."""
    if settings.alone == "refuse":
        _refuse_where_alone(tables.view(), settings)
    done: Done = tables.perform(verb, arguments)
    if done.time:
        yield from _acknowledged(tables, settings, name, done.time)
    return done.answer


def _acknowledged(tables: Tables, settings: Settings, name: bytes, time: int) -> Talk[None]:
    unheard_of = _is_unheard_of(tables.view(), settings)
    if settings.acks == 0 and (name[-1] + milliseconds(time) + time) % PACE and not unheard_of:
        yield Nudge()
        return
    settled = yield Await(0, name, time, wait_ms(settings))
    if unheard_of and _is_unheard_of(tables.view(), settings):
        raise StoreUnavailable(
            "no other host has heard of this one yet, and all would take its sessions for made up; the write stands on "
            "this host"
        )
    if settings.alone == "refuse" and not (isinstance(settled, Settled) and settled.enough and not settled.minority):
        hosts = settled.hosts if isinstance(settled, Settled) else 0
        raise StoreUnavailable(
            f"{hosts} other hosts have the write, which {_wanted(settings)} should have (alone=refuse); it stands on "
            "this host, and reaches the others when they come back"
        )


def _is_unheard_of(view: View, settings: Settings) -> bool:
    """Tell whether this host may be one that no other knows: a new one, and its agent has met nobody so far.

    Until it takes itself for the first one (``catching_up``). Where it is the only one that is named there is nobody.
    """
    others = any(member.name != settings.me for member in view.members)
    return not (view.ready or others) and settings.seeds != (settings.me,)


def _refuse_where_alone(view: View, settings: Settings) -> None:
    """Raise StoreUnavailable before anything is written, where it is known that too few hosts would have it."""
    others = [member for member in view.members if member.name != settings.me and member.state != "left"]
    alive = sum(member.state == "alive" for member in others)
    if others and (alive < min(settings.acks or 0, len(others)) or alive * 2 < len(others)):
        raise StoreUnavailable(
            f"{alive} of {len(others)} other hosts can be reached, too few to write anything (alone=refuse)"
        )


def _wanted(settings: Settings) -> str:
    return "all" if settings.acks is None else str(settings.acks)


def wait_ms(settings: Settings) -> int:
    """Return how long the agent may take, in milliseconds."""
    return max(round(settings.wait * 1000), 1)


# -- elsewhere -----------------------------------------------------------------------------------------------------


def _fetch(settings: Settings, key: bytes, floor: bytes) -> Talk[None]:
    """Have what other hosts have of a session stored here. Raises StoreUnavailable where one that may know is away."""
    asked = yield Ask(0, key, floor, wait_ms(settings))
    if not (isinstance(asked, Asked) and asked.known):
        raise StoreUnavailable(
            "this host lacks what the browser has seen of the session, and another that may have it cannot be asked"
            if floor
            else "this host is still catching up, and another that may have the session cannot be asked"
        )


def _forward(
    settings: Settings,
    key: bytes,
    verb: str,
    arguments: tuple[Any, ...],
    kind: Any,
    *,
    shown: bool = False,
    floor: bytes = b"",
) -> Talk[Any]:
    """Have another host perform a verb, and return its answer as a *kind*.

    One of those that keep *key*, the private key of a session or a tag; or the one of that name.
    """
    answer = yield Forward(0, key, verb, tuple(map(_plain, arguments)), wait_ms(settings), shown, floor)
    if not isinstance(answer, Forwarded):
        raise StoreUnavailable(f"the session is on other hosts, and none has answered to {verb} in time")
    if answer.failed is not None:
        raise StoreUnavailable(f"the session is on other hosts, and none could answer to {verb}: {answer.failed}")
    return None if kind is None else _converted(answer.answer, kind)


def _written_away(
    tables: Tables, settings: Settings, key: bytes, verb: str, arguments: tuple[Any, ...]
) -> Talk[Written]:
    answer: Written = yield from _forward(settings, key, verb, arguments, Written)
    if answer is Written.DONE:
        tables.shown_away.note(key)
        tables.written_away.note(key)
    return answer


def _plain(argument: Any) -> Any:
    """Return an argument as it can be sent: a record may hold its values in any mapping."""
    return argument._replace(values=dict(argument.values)) if isinstance(argument, Record) else argument


def _converted(answer: Any, kind: Any) -> Any:
    """Return plain data as what it stands for. Raises StoreUnavailable where it fits in nothing."""
    if isinstance(answer, Written | Record | Page):
        return answer  # where nothing lies between
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise StoreUnavailable(f"another host has given an answer that cannot be read: {error}") from error
