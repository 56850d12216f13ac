"""Checkers: which promises does a history break? Pure functions over its lines; they know nothing of the simulation.

What must be there is decided by cause and effect, not by time: a write's *past* is what its browser had seen or written
before, and the past of that. No value may be shown, or be left at the end, that lies in the past of a write which the
browser has seen, or which was acknowledged. Of two writes that did not know of each other either may stand.

What a write is worth when disks are lost: it was acknowledged by so many hosts, and that many losses it survives. From
the next quiet on it is everywhere. What was not acknowledged survives no loss, but a browser that has seen it is not
shown anything older as long as no disk is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TypeAlias

from sojourn.testing.sim_history import Answered, Begins, Copy, Counted, Finding, History, Sent, Settled, Trouble

Checker: TypeAlias = Callable[["Known"], Iterator[Finding]]

ENDING = ("logout", "renew", "login")


class Known:
    """A history, looked through once."""

    def __init__(self, history: History) -> None:
        begins = history[0]
        assert isinstance(begins, Begins), "a history starts with what is simulated"
        self.begins = begins
        self.history = history
        self.sent: dict[int, Sent] = {}
        self.answered: dict[int, Answered] = {}
        self.expected: dict[int, frozenset[int]] = {}
        """By request: the marks that its browser had seen, and their pasts."""
        self.past: dict[int, frozenset[int]] = {}
        self.request_of: dict[int, int] = {}
        self.key_of: dict[int, dict[str, int | None]] = {}
        self.copies = [line for line in history if isinstance(line, Copy)]
        self.end = 0.0
        self._seen: dict[int, frozenset[int]] = defaultdict(frozenset)
        self._parents: dict[str, str] = {}
        self._losses: list[float] = []
        self._quiet: list[tuple[float, int]] = []
        self._hosts = {*begins.hosts}
        self.fewest = len(self._hosts)
        for line in history:
            self._note(line)

    # -- building ------------------------------------------------------------------------------------------------

    def _note(self, line: object) -> None:
        match line:
            case Sent():
                self._note_sent(line)
            case Answered():
                self._note_answered(self.sent[line.request], line)
            case Trouble():
                self._note_trouble(line)

    def _note_sent(self, sent: Sent) -> None:
        self.sent[sent.request], self.end = sent, sent.at
        expected = self._seen[sent.client] if sent.session and sent.does != "probe" else frozenset[int]()
        self.expected[sent.request] = expected
        if sent.mark:
            self.request_of[sent.mark], self.past[sent.mark], self.key_of[sent.mark] = (
                sent.request,
                frozenset(),
                sent.sets,
            )

    def _note_answered(self, sent: Sent, answer: Answered) -> None:
        self.answered[answer.request], self.end = answer, answer.at
        if not answer.ok or sent.does == "probe":
            return
        saw = self._closed(answer.reads.values()) if answer.found else frozenset[int]()
        base = self.expected[sent.request] if answer.found else frozenset[int]()
        if sent.mark:
            self.past[sent.mark] = base | saw if answer.covered else saw
        if answer.found and answer.session and sent.session:
            self._unite(sent.session, answer.session)
        if answer.session is None or answer.fresh:
            self._seen[sent.client] = frozenset({sent.mark} if answer.wrote and answer.session else ())
        elif answer.covered:
            wrote = {sent.mark} if answer.wrote and sent.mark else set()
            self._seen[sent.client] = base | saw | wrote
        else:
            self._seen[sent.client] = base

    def _closed(self, marks: object) -> frozenset[int]:
        closed: set[int] = set()
        for mark in marks:  # type: ignore[attr-defined]
            closed.add(mark)
            closed |= self.past.get(mark, frozenset())
        return frozenset(closed)

    def _note_trouble(self, trouble: Trouble) -> None:
        self.end = max(self.end, trouble.at)
        if trouble.what == "disk lost":
            self._losses.append(trouble.at)
        elif trouble.what == "joined":
            self._hosts |= {*trouble.hosts}
        elif trouble.what == "is to leave":  # from here on it is not one that must have a write, though it may stay
            self.fewest = min(self.fewest, len(self._hosts) - 1)
        elif trouble.what == "left":
            self._hosts -= {*trouble.hosts}
            self.fewest = min(self.fewest, len(self._hosts))
        elif trouble.what == "quiet":
            self._quiet.append((trouble.at, min(len(self._hosts), self.begins.copies or len(self._hosts)) - 1))

    # -- families: a session, and what renewals and logins made of it ---------------------------------------------

    def family(self, session: str) -> str:
        """Return what all sessions have in common that came of one another."""
        while (parent := self._parents.get(session, session)) != session:
            session = parent
        return session

    def _unite(self, one: str, other: str) -> None:
        one, other = self.family(one), self.family(other)
        if one != other:
            self._parents[other] = one

    def endings(self, session: str) -> list[Sent]:
        """Return the requests that tried to end a session of this family."""
        family = self.family(session)
        return [
            sent
            for sent in self.sent.values()
            if sent.does in ENDING and sent.session and self.family(sent.session) == family
        ]

    # -- judging -------------------------------------------------------------------------------------------------

    def survives(self, mark: int, until: float) -> bool:
        """Tell whether what was written under *mark* must still be there."""
        return self.request_survives(self.request_of[mark], until)

    def request_survives(self, request: int, until: float) -> bool:
        """Tell whether what a request wrote must still be there at *until*, whatever disks were lost."""
        answer = self.answered.get(request)
        holders = answer.hosts if answer and answer.ok and (answer.wrote or answer.ended) else 0
        since = self.sent[request].at
        settled = answer.at if answer else since
        for at, elsewhere in self._quiet:
            if at < settled:
                continue
            if self._lost(since, min(at, until)) > holders:
                return False
            if at >= until:
                return True
            since, holders = at, elsewhere
        return self._lost(since, until) <= holders

    def _lost(self, since: float, until: float) -> int:
        return sum(since <= at <= until for at in self._losses)

    def losses(self, since: float, until: float) -> int:
        """Return how many disks were lost meanwhile."""
        return self._lost(since, until)

    def is_older(self, value: int | None, mark: int, key: str, family: str, until: float) -> bool:
        """Tell whether *value* of a key is what somebody saw before they wrote *mark*; None: no value."""
        past = self.past[mark]
        if value is not None:
            return value in past
        if self.key_of[mark][key] is None:
            return False
        removals = (
            other
            for other, sets in self.key_of.items()
            if key in sets
            and sets[key] is None
            and (sent := self.sent[self.request_of[other]]).at <= until
            and sent.session
            and self.family(sent.session) == family
        )
        return not any(other not in past for other in removals)

    def overwritten(self, reads: dict[str, int], marks: frozenset[int], session: str, until: float) -> Iterator[int]:
        """Yield those of *marks* that must be there at *until* and of which *reads* shows something older."""
        family = self.family(session)
        for mark in sorted(marks):
            for key in self.key_of.get(mark, {}):
                if self.is_older(reads.get(key), mark, key, family, until) and self.survives(mark, until):
                    yield mark
                    break


# -- the promises ------------------------------------------------------------------------------------------------------


def never_older(known: Known) -> Iterator[Finding]:
    """No host shows a browser an older session than it has seen, or none at all where nobody has ended it."""
    for number, answer in known.answered.items():
        sent, expected = known.sent[number], known.expected[number]
        if not (answer.ok and sent.session and expected):
            continue
        if answer.found and _is_disturbed(known, sent, answer.at):
            continue
        if answer.found:
            missing = list(known.overwritten(answer.reads, expected, sent.session, answer.at))
        elif _may_be_over(known, sent, answer.at):
            continue
        else:
            missing = [mark for mark in sorted(expected) if known.survives(mark, answer.at)]
        if missing:
            what = f"shows {answer.reads}" if answer.found else "finds nothing"
            text = f"request #{number} at {sent.host} {what}; its browser had seen {missing}"
            yield Finding("never older", text, (sent.session,))


def _is_disturbed(known: Known, sent: Sent, until: float) -> bool:
    """Tell whether somebody else changed the session's id: what was written to the old one meanwhile may be lost."""
    assert sent.session
    for other in known.endings(sent.session):
        if other.at > until or other.request == sent.request:
            continue
        if other.does == "logout":
            if _is_under_a_login(known, other):
                return True
            continue
        answer = known.answered.get(other.request)
        if other.client != sent.client or not (answer and answer.ok):
            return True
    return False


def _is_under_a_login(known: Known, logout: Sent) -> bool:
    """Tell whether somebody else logged in on a session while it was ended: that login goes on without its values."""
    ended = known.answered.get(logout.request)
    for login in known.sent.values():
        if login.does == "login" and login.session == logout.session and login.client != logout.client:
            answer = known.answered.get(login.request)
            if (answer is None or answer.at >= logout.at) and (ended is None or ended.at >= login.at):
                return True
    return False


def _may_be_over(known: Known, sent: Sent, until: float) -> bool:
    """Tell whether somebody has tried to end the session that a request presented."""
    assert sent.session
    for other in known.endings(sent.session):
        if other.at > until or other.request == sent.request:
            continue
        answer = known.answered.get(other.request)
        if other.does == "renew" and (other.session != sent.session):
            continue
        if other.does == "login" and answer and answer.ok and answer.session == sent.session:
            continue
        return True
    return False


def nothing_lost(known: Known) -> Iterator[Finding]:
    """Every acknowledged write is there at the end, or something that knew of it, unless its session was ended."""
    finally_: dict[str, Copy] = {copy.session: copy for copy in known.copies}
    ended = {known.family(sent.session) for sent in known.sent.values() if sent.does in ENDING and sent.session}
    for number, answer in known.answered.items():
        sent, session = known.sent[number], answer.session
        if not (answer.ok and answer.wrote and session and sent.mark) or known.family(session) in ended:
            continue
        copy = finally_.get(session)
        if copy is None or copy.state != "live":
            if known.survives(sent.mark, known.end):
                yield Finding("nothing lost", f"session {session} of request #{number} is gone", (session,))
        elif any(known.overwritten(copy.reads, frozenset({sent.mark}), session, known.end)):
            text = f"request #{number} was acknowledged by {answer.hosts}, and the end is {copy.reads}"
            yield Finding("nothing lost", text, (session,))


def no_resurrection(known: Known) -> Iterator[Finding]:
    """An ended session is no session: on the host that ended it from then on, and everywhere in the end."""
    live = {copy.session for copy in known.copies if copy.state == "live"}
    for number, answer in known.answered.items():
        sent = known.sent[number]
        if answer.ok and answer.ended and sent.session and known.request_survives(number, known.end):
            for session in _ended_by(known, sent):
                if session in live:
                    text = f"session {session} lives at the end; request #{number} ({sent.does}) has ended it"
                    yield Finding("no resurrection", text, (session, sent.session))
    if known.begins.copies is None:
        yield from _on_one_host(known)


def _ended_by(known: Known, sent: Sent) -> Iterator[str]:
    """Yield the sessions that are over once *sent* was answered: its own, and for a logout what renewals made of it."""
    session: str | None = sent.session
    renewals = [
        one
        for one in known.sent.values()
        if one.does in ("renew", "login")
        and not ((answer := known.answered.get(one.request)) and answer.ok and not answer.ended)
    ]
    passed: set[str] = set()
    while session and session not in passed:
        yield session
        passed.add(session)
        mine = [one for one in renewals if one.session == session]
        if sent.does != "logout" or len(mine) != 1 or mine[0].does != "renew":
            return
        answer = known.answered.get(mine[0].request)
        session = answer.session if answer and answer.ok and answer.ended else None


def _on_one_host(known: Known) -> Iterator[Finding]:
    over: dict[tuple[str, str], float] = {}  # host and session: since when
    renewed = {sent.session for sent in known.sent.values() if sent.does in ("renew", "login")}
    for line in known.history:
        if isinstance(line, Trouble) and line.what == "disk lost":
            over = {pair: at for pair, at in over.items() if pair[0] not in line.hosts}
        if not isinstance(line, Answered) or not line.ok:
            continue
        sent = known.sent[line.request]
        if not sent.session or sent.session in renewed:
            continue
        place = (sent.host, sent.session)
        if line.found and sent.at >= over.get(place, known.end + 1):
            text = f"request #{sent.request} finds {sent.session} at {sent.host}, where it was over"
            yield Finding("no resurrection", text, (sent.session,))
        if line.ended and sent.does == "logout":
            over.setdefault(place, line.at)


def copies_alike(known: Known) -> Iterator[Finding]:
    """After quiet all hosts that are to have a session have one, of equal bytes, and the others have none."""
    by_session: dict[str, list[Copy]] = defaultdict(list)
    for copy in known.copies:
        by_session[copy.session].append(copy)
    for session, copies in by_session.items():
        if len({copy.digest for copy in copies}) > 1:
            text = "; ".join(f"{copy.host}: {copy.state} {copy.reads} {copy.digest}" for copy in copies)
            yield Finding("copies alike", f"{session} differs: {text}", (session,))
        holders = {copy.host for copy in copies}
        if holders != {*copies[0].due}:
            text = f"{session} is on {', '.join(sorted(holders))}, and should be on {', '.join(copies[0].due)}"
            yield Finding("copies alike", text, (session,))


def honest(known: Known) -> Iterator[Finding]:
    """Nobody is told of more copies than there are; what has too few is counted, or refused where policy says so."""
    for line in known.history:
        if isinstance(line, Settled) and line.really + known.losses(line.since, line.at) < line.hosts:
            text = f"{line.host} said at {line.at:.4f} that {line.hosts} hosts have {line.session}; {line.really} had"
            yield Finding("honest", text, (line.session,))
        if isinstance(line, Counted) and line.counted != line.told:
            yield Finding("honest", f"{line.host} counts {line.counted} under-replicated writes; {line.told} were told")
    if known.begins.alone != "refuse" or known.begins.copies is not None:
        return  # what other hosts have performed they have not told in numbers
    others = known.fewest - 1
    wanted = min(1 if known.begins.acks is None else known.begins.acks, others)  # all: of those that are not dead
    for number, answer in known.answered.items():
        session = answer.session or known.sent[number].session
        if answer.ok and (answer.wrote or answer.ended) and answer.hosts < wanted:
            text = f"request #{number} was accepted with {answer.hosts} acknowledgements of {wanted}"
            yield Finding("honest", text, (session,) if session else ())


def answers(known: Known) -> Iterator[Finding]:
    """Once everything is quiet every request is answered."""
    trouble = [line for line in known.history if isinstance(line, Trouble)]
    over = next((line.at for line in trouble if line.what == "over"), None)
    if over is None or trouble[-1].what != "quiet":
        yield Finding("answers", "the hosts never came to rest")
        return
    for number, sent in known.sent.items():
        answer = known.answered.get(number)
        if sent.at >= over and not (answer and answer.ok):
            text = f"request #{number} at {sent.host}, after all was quiet: {'503' if answer else 'no answer'}"
            yield Finding("answers", text, (sent.session,) if sent.session else ())


CHECKERS: tuple[Checker, ...] = (never_older, nothing_lost, no_resurrection, copies_alike, honest, answers)


def check(history: History) -> list[Finding]:
    """Return what is wrong with a history."""
    known = Known(history)
    return [finding for checker in CHECKERS for finding in checker(known)]
