"""Forwarding: an operation on a session of which this host has no copy is performed by one that has.

A read goes to the next host when one does not answer. A write that may have happened is never sent again, unless doing
it twice is the same as doing it once: its fate is unknown, and the worker is told so. Versions of two copies that have
not met may be the same number; so what names a version goes to the host that has shown it, and nowhere else. So does
the question what a browser has seen by now: another one may not have that yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sojourn.cluster.host import Host, Link, Peer
from sojourn.cluster.limits import Deadlines
from sojourn.cluster.local import READS, Forward, Forwarded
from sojourn.cluster.replica import missing, with_marks
from sojourn.cluster.tables import Done
from sojourn.cluster.wire import Did, Do, Message
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable

MOST_OPEN = 8192
LOADED = 65_536  # keys, by worker, of which it is remembered where they were loaded from
ANY, SEVERAL = -1, ""  # a worker's number, and a host's name, that nobody has

OF_WHAT_IS_THERE = READS | {"update", "touch", "delete", "delete_many"}
TWICE_IS_ONCE = READS | {"enlist", "delist"}
AT_ONE_KEY = frozenset({"load", "create", "update", "touch", "delete"})
AT_A_TAG = frozenset({"find", "enlist", "delist"})
VERBS = AT_ONE_KEY | AT_A_TAG | {"load_many", "delete_many", "scan"}

_BASE = {"update": 2, "touch": 3, "delete": 1}  # which argument is the version


@dataclass(slots=True)
class _Errand:
    """One operation that is to be done elsewhere."""

    worker: int
    request: Forward
    deadline: float
    hosts: list[str]
    """Those that can be tried, the next one first."""
    moved: list[str] = field(default_factory=list)
    """Those that do not keep it, or cannot say yet."""
    over: bool = False


class Forwarding:
    """The operations that one host has others do, and does for others."""

    def __init__(self, host: Host, is_enough: Callable[[bytes, int, Callable[[bool], None]], None]) -> None:
        """*is_enough* waits until a write, by its name and time, is on enough hosts, and then says whether it is."""
        self.host = host
        self._is_enough = is_enough
        self._errands: dict[tuple[int, int], _Errand] = {}
        self._deadlines: Deadlines[_Errand] = Deadlines()
        self._loaded: OrderedDict[tuple[int, bytes], str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._errands)

    # -- for the workers here ----------------------------------------------------------------------------------------

    def forward(self, worker: int, request: Forward) -> None:
        """A worker wants an operation done elsewhere."""
        host = self.host
        errand = _Errand(worker, request, host.now + request.wait_ms / 1000, self._candidates(worker, request))
        if request.verb not in VERBS:
            self._end(errand, failed=f"there is no operation {request.verb!r}")
        elif len(self._errands) >= MOST_OPEN:
            self._end(errand, failed="too many operations wait for other hosts")
        elif not errand.hosts and _names_a_version(request):
            self._end(errand, Written.STALE.value)
        else:
            self._errands[worker, request.number] = errand
            self._deadlines.add(errand.deadline, errand)
            self._try(errand)

    def _candidates(self, worker: int, request: Forward) -> list[str]:
        """Return the hosts that can do it, the best first."""
        host = self.host
        if named := self._named(request.key):
            return [named] if host.reachable(named) else []
        if request.shown or _names_a_version(request):
            shown = self._shown_by(worker, request.key)
            return [shown] if shown and host.reachable(shown) else []
        names = host.owners(request.key) if request.key else sorted(host.members.placed())
        there = [name for name in names if name != host.me and host.reachable(name)]
        before = self._shown_by(worker, request.key)
        return sorted(there, key=lambda name: (not host.members.is_ready(name), name != before))

    def _named(self, key: bytes) -> str | None:
        """Return the host that *key* names, where it is no key."""
        if len(key) == 32:
            return None
        name = key.decode("utf-8", "replace")
        return name if self.host.members.state(name) else None

    def _try(self, errand: _Errand) -> None:
        """Send it to the next host, or give up."""
        while errand.hosts:
            name = errand.hosts.pop(0)
            peer = self.host.peers.get(name)
            if peer and peer.out:
                self._send(errand, name, peer.out)
                return
        self._end(errand, failed=_why_not(errand))

    def _send(self, errand: _Errand, name: str, link: Link) -> None:
        request = errand.request

        def answered(message: Message) -> bool:
            if isinstance(message, Did) and not errand.over:
                self._did(errand, name, message)
            return True

        def lost() -> None:
            if not errand.over:
                self._lost(errand, name)

        arguments = _plain(request.arguments)
        self.host.call(link, lambda number: Do(number, request.verb, arguments), answered, lost)

    def _did(self, errand: _Errand, name: str, message: Did) -> None:
        request = errand.request
        if message.moved:
            errand.moved.append(name)
            if _names_a_version(request):
                self._end(errand, Written.STALE.value)
            else:
                self._try(errand)
        elif request.verb in READS and (message.failed is not None or self._may_know_more(errand, message)):
            self._try(errand)
        else:
            if message.answer == Written.DONE.value or (
                request.verb == "load" and not _is_older(message.answer, request)
            ):
                self._remember(errand.worker, request.key, name)  # the worker knows that host's version now
            self._end(errand, message.answer, message.failed)

    def _may_know_more(self, errand: _Errand, message: Did) -> bool:
        """Tell whether another host is left that may have what the browser has seen of a session, which this one lacks.

        What is written next goes to the host that has shown the session, and must find there what was shown. One that
        says that the session has ended lacks nothing: the other may be cut off, and would show what was before.
        """
        left = any((peer := self.host.peers.get(name)) and peer.out for name in errand.hosts)
        return left and not message.over and _is_older(message.answer, errand.request)

    def _remember(self, worker: int, key: bytes, name: str) -> None:
        """Note who showed a session to a worker, and to any: the threads of one may change their connections."""
        any_before = self._loaded.get((ANY, key), name)
        for place, shown in (((worker, key), name), ((ANY, key), name if any_before == name else SEVERAL)):
            self._loaded[place] = shown
            self._loaded.move_to_end(place)
        while len(self._loaded) > LOADED:
            self._loaded.popitem(last=False)

    def _shown_by(self, worker: int, key: bytes) -> str | None:
        """Return who showed a session to a worker; if nobody did to this one, the only one who did to any."""
        return self._loaded.get((worker, key)) or self._loaded.get((ANY, key))

    def _lost(self, errand: _Errand, name: str) -> None:
        request = errand.request
        if request.verb in TWICE_IS_ONCE or (request.verb == "delete" and not _names_a_version(request)):
            self._try(errand)
        else:
            self._end(errand, failed=f"{name} went away, and may have done it or not")

    def _end(self, errand: _Errand, answer: Any = None, failed: str | None = None) -> None:
        errand.over = True
        self._errands.pop((errand.worker, errand.request.number), None)
        self.host.reply(errand.worker, Forwarded(errand.request.number, answer, failed))

    def expired(self) -> None:
        """Give up what took too long."""
        for errand in self._deadlines.expired(self.host.now):
            self._end(errand, failed="no answer in time")

    def due(self) -> float:
        """Return when the next one is given up."""
        return self._deadlines.due()

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        for errand in [one for one in self._errands.values() if one.worker == worker]:
            errand.over = True
            del self._errands[worker, errand.request.number]

    # -- for the other hosts -----------------------------------------------------------------------------------------

    def do(self, link: Link, peer: Peer, message: Do) -> None:
        """Another host wants an operation done here."""
        if message.verb not in VERBS:
            self._answer(link, Did(message.number, failed=f"there is no operation {message.verb!r}"))
        elif self._is_elsewhere(message):
            self._answer(link, Did(message.number, moved=True))
        else:
            self._perform(link, message)

    def _is_elsewhere(self, message: Do) -> bool:
        """Tell whether another host should be asked: this one keeps no such session, or cannot say yet."""
        first = message.arguments[0] if message.arguments else None
        if message.verb in AT_ONE_KEY and isinstance(first, bytes) and self.host.tables.replica(first) is not None:
            return False
        if message.verb in AT_ONE_KEY | AT_A_TAG and isinstance(first, bytes) and not self.host.is_here(first):
            return True
        return message.verb in OF_WHAT_IS_THERE and not self.host.knows_all

    def _perform(self, link: Link, message: Do) -> None:
        try:
            done = self.host.tables.perform(message.verb, message.arguments)
        except StoreUnavailable as error:
            self._answer(link, Did(message.number, failed=str(error)))
            return
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, msgspec.MsgspecError):
            self._answer(link, Did(message.number, failed=f"{message.verb} does not take these arguments"))
            return
        self._when_kept(link, message, done)

    def _when_kept(self, link: Link, message: Do, done: Done) -> None:
        """Answer once the write is on as many hosts as if a worker of this host had made it."""
        if not done.time:
            self._answer(link, Did(message.number, _plain(done.answer), over=self._is_over(message, done)))
            return

        def settled(enough: bool) -> None:
            if enough or self.host.settings.alone == "accept":
                self._answer(link, Did(message.number, _plain(done.answer)))
            else:
                self._answer(link, Did(message.number, failed="too few hosts have the write (alone=refuse)"))

        self._is_enough(_name_written(message), done.time, settled)

    def _is_over(self, message: Do, done: Done) -> bool:
        """Tell whether a session that was to be loaded has ended here."""
        if message.verb != "load" or done.answer is not None:
            return False
        replica = self.host.tables.replica(message.arguments[0])
        return replica is not None and bool(replica.deleted)

    def _answer(self, link: Link, did: Did) -> None:
        if self.host.links.get(link.number) is link:
            self.host.send(link, did)


def _is_older(answer: Any, request: Forward) -> bool:
    """Tell whether a session, as another host has loaded it, lacks something that the browser has seen."""
    floor = request.floor
    return bool(floor) and bool(missing(floor, with_marks(msgspec.convert(answer, Record | None))))


def _names_a_version(message: Forward | Do) -> bool:
    place = _BASE.get(message.verb)
    return place is not None and len(message.arguments) > place and message.arguments[place] is not None


def _name_written(message: Do) -> bytes:
    """Return the name, or the last of them, that an operation has written."""
    first = message.arguments[0]
    if message.verb in ("enlist", "delist"):
        last = message.arguments[1]
        return bytes(first + (last if isinstance(last, bytes) else last[-1]))
    return first if isinstance(first, bytes) else bytes(first[-1])


def _why_not(errand: _Errand) -> str:
    if errand.moved:
        return f"{', '.join(errand.moved)} cannot say yet"
    return "no host that keeps it can be reached"


def _plain(value: Sequence[Any] | Any) -> Any:
    """Return plain data that a message can hold; bytes stay bytes."""
    plain = msgspec.to_builtins(value, builtin_types=(bytes,))
    return tuple(plain) if isinstance(value, tuple) and isinstance(plain, list) else plain
