"""Known: what a history says, looked through once. Checkers ask it; it knows nothing of the simulation.

What must be there is decided by cause and effect, not by time: a write's *past* is what its browser had seen or written
before, and the past of that. A browser has seen what it was shown, and of the past of that what was not missing beside.
No value may be shown, or be left at the end, that lies in the past of a write which the browser has seen, or which was
acknowledged. Of two writes that did not know of each other either may stand.

What a write is worth when disks are lost: it was acknowledged by so many hosts, and that many losses it survives. From
the next quiet on it is everywhere. What was not acknowledged survives no loss, but a browser that has seen it is not
shown anything older as long as no disk is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

from sojourn.testing.sim_history import Answered, Begins, Copy, History, Sent, Trouble

ENDING = ("logout", "renew", "login")
PEEKING = ("probe", "forge")
"""With what is not the browser's own cookie: such a request says nothing of what its browser has seen."""
SLACK = 0.002  # seconds: records hold milliseconds


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
        self.members_change = False
        """Whether hosts came or went for good."""
        self._seen: dict[int, frozenset[int]] = defaultdict(frozenset)
        self._fresh: set[int] = set()
        self._parents: dict[str, str] = {}
        self._losses: list[tuple[float, str]] = []
        self._clocks: dict[str, list[tuple[float, float]]] = {}
        self._quiet: list[tuple[float, int]] = []
        self._hosts = {*begins.hosts}
        self.fewest = self.fewest_that_stay = len(self._hosts)
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
        expected = self._seen[sent.client] if sent.session and sent.does not in PEEKING else frozenset[int]()
        self.expected[sent.request] = expected
        if sent.mark:
            self.request_of[sent.mark], self.past[sent.mark], self.key_of[sent.mark] = (
                sent.request,
                frozenset(),
                sent.sets,
            )

    def _note_answered(self, sent: Sent, answer: Answered) -> None:
        self.answered[answer.request], self.end = answer, answer.at
        if not answer.ok or sent.does in PEEKING:
            return
        saw = self._shown(sent, answer) if answer.found else frozenset[int]()
        base = self.expected[sent.request] if answer.found else frozenset[int]()
        if sent.mark:
            self.past[sent.mark] = base | saw if answer.covered else saw
        if answer.found and answer.session and sent.session:
            self._unite(sent.session, answer.session)
        if answer.fresh:
            self._fresh.add(sent.mark)
        if answer.session is None or answer.fresh:
            self._seen[sent.client] = frozenset({sent.mark} if answer.wrote and answer.session else ())
        elif answer.covered:
            wrote = {sent.mark} if answer.wrote and sent.mark else set()
            self._seen[sent.client] = base | saw | wrote
        else:
            self._seen[sent.client] = base

    def _shown(self, sent: Sent, answer: Answered) -> frozenset[int]:
        """Return what an answer shows, and what lies in the past of that, as far as it shows nothing older.

        A write travels in the log of its host, and not with all that its writer had seen of third hosts. Where these
        are cut off it may be shown without; so it may where it went to what another browser made of the session.
        """
        assert sent.session
        family, shown = self.family(sent.session), frozenset(answer.reads.values())
        closed = self._closed(shown)
        return frozenset(mark for mark in closed if mark in shown or not self._lacks(answer, mark, family))

    def _lacks(self, answer: Answered, mark: int, family: str) -> bool:
        """Tell whether an answer shows something older than *mark*."""
        keys = self.key_of.get(mark, {})
        return any(self.is_older(answer.reads.get(key), mark, key, family, answer.at) for key in keys)

    def _closed(self, marks: object) -> frozenset[int]:
        closed: set[int] = set()
        for mark in marks:  # type: ignore[attr-defined]
            closed.add(mark)
            if mark not in self._fresh:  # a login that began with nothing is no sign of what was there before
                closed |= self.past.get(mark, frozenset())
        return frozenset(closed)

    def _note_trouble(self, trouble: Trouble) -> None:
        self.end = max(self.end, trouble.at)
        if trouble.ahead is not None:
            for host in trouble.hosts:
                self._clocks.setdefault(host, [(0.0, 0.0)]).append((trouble.at, trouble.ahead))
        if trouble.what == "disk lost":
            self._losses += [(trouble.at, host) for host in trouble.hosts]
        elif trouble.what == "joined":
            self.members_change = True
            self._hosts |= {*trouble.hosts}
        elif trouble.what == "left":
            self.members_change = True
            self._hosts -= {*trouble.hosts}
            self.fewest = min(self.fewest, len(self._hosts))
        elif trouble.what == "is to leave":  # from here on it is none that must have a write, whatever becomes of it
            self.fewest_that_stay = min(self.fewest_that_stay, len(self._hosts) - 1)
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

    @cached_property
    def endings_of(self) -> dict[str, list[Sent]]:
        """Return by family the requests that tried to end a session of it, or all of its principal's."""
        found: dict[str, list[Sent]] = defaultdict(list)
        for sent in self.sent.values():
            if sent.does in ENDING and sent.session:
                found[self.family(sent.session)].append(sent)
        for family, principals in self.principals.items():
            found[family] += [sent for sent in self._revocations() if sent.principal in principals]
        return found

    def endings(self, session: str) -> list[Sent]:
        """Return the requests that tried to end a session of this family."""
        return self.endings_of.get(self.family(session), [])

    @cached_property
    def principals(self) -> dict[str, set[str]]:
        """Return by family who has logged in on it, as far as is known."""
        found: dict[str, set[str]] = defaultdict(set)
        for sent in self.sent.values():
            if sent.does == "login" and sent.principal:
                answer = self.answered.get(sent.request)
                for session in {sent.session, answer.session if answer and answer.ok else None} - {None}:
                    found[self.family(session)].add(sent.principal)  # type: ignore[arg-type]
        return found

    def _revocations(self) -> list[Sent]:
        return [sent for sent in self.sent.values() if sent.does == "revoke"]

    @cached_property
    def requests_of(self) -> dict[str, list[Sent]]:
        """Return by family the requests that presented a session of it, or were given one."""
        found: dict[str, list[Sent]] = defaultdict(list)
        for sent in self.sent.values():
            answer = self.answered.get(sent.request)
            named = {sent.session, answer.session if answer and sent.does not in PEEKING else None} - {None}
            for family in {self.family(session) for session in named if session}:
                found[family].append(sent)
        return found

    @cached_property
    def issued_by(self) -> dict[str, Sent]:
        """Return by session the request that was given it first."""
        found: dict[str, Sent] = {}
        for request, answer in self.answered.items():
            sent = self.sent[request]
            if answer.session and answer.session != sent.session and sent.does not in PEEKING:
                found.setdefault(answer.session, sent)
        return found

    def began_with(self, session: str) -> Sent | None:
        """Return the request with which a session began: what renewals have made of it goes on with that."""
        for _ in range(len(self.sent)):
            issued = self.issued_by.get(session)
            if (
                issued is None
                or issued.does != "renew"
                or not issued.session
                or not self.answered[issued.request].found
            ):
                return issued
            session = issued.session
        return None

    def logged_in_by(self, session: str) -> str | None:
        """Return who has logged in on a session, also before it was renewed; None: nobody, or it is not known."""
        began = self.began_with(session)
        return began.principal if began and began.does == "login" else None

    def renewals_of(self, session: str) -> list[Sent]:
        """Return the requests that gave a session another id, or may have."""
        return self._renewals.get(session, [])

    @cached_property
    def _renewals(self) -> dict[str, list[Sent]]:
        found: dict[str, list[Sent]] = defaultdict(list)
        for sent in self.sent.values():
            answer = self.answered.get(sent.request)
            if sent.session and sent.does in ("renew", "login") and not (answer and answer.ok and not answer.ended):
                found[sent.session].append(sent)
        return found

    def finds(self, session: str) -> list[tuple[Sent, Answered]]:
        """Return the requests that found something under a session's id."""
        return self._finds.get(session, [])

    @cached_property
    def _finds(self) -> dict[str, list[tuple[Sent, Answered]]]:
        found: dict[str, list[tuple[Sent, Answered]]] = defaultdict(list)
        for request, answer in self.answered.items():
            sent = self.sent[request]
            if answer.ok and answer.found and sent.session:
                found[sent.session].append((sent, answer))
        return found

    @cached_property
    def living(self) -> set[str]:
        """Return the sessions that live at the end, by any host's clock."""
        last = self.end + self.skew[1] + SLACK
        return {copy.session for copy in self.copies if copy.state == "live" and copy.until > last}

    # -- clocks --------------------------------------------------------------------------------------------------

    def ahead(self, host: str, since: float, until: float) -> tuple[float, float]:
        """Return by how many seconds a host's clock was ahead meanwhile: at least, and at most."""
        clock = self._clocks.get(host)
        if clock is None:
            return 0.0, 0.0
        before = [ahead for at, ahead in clock if at <= since][-1]
        meanwhile = [before, *(ahead for at, ahead in clock if since < at <= until)]
        return min(meanwhile), max(meanwhile)

    @cached_property
    def skew(self) -> tuple[float, float]:
        """Return by how many seconds any clock was ahead at any time: at least, and at most."""
        all_ = [0.0, *(ahead for clock in self._clocks.values() for _, ahead in clock)]
        return min(all_), max(all_)

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
            if self.losses(since, min(at, until)) > holders:
                return False
            if at >= until:
                return True
            since, holders = at, elsewhere
        return self.losses(since, until) <= holders

    def id_survives(self, session: str, until: float) -> bool:
        """Tell whether the id of a session must still be known: it was given by a request that wrote it somewhere."""
        issued = self.issued_by.get(session)
        return issued is None or self.request_survives(issued.request, until)

    def losses(self, since: float, until: float, host: str | None = None) -> int:
        """Return how many disks were lost meanwhile, or how often that of one host."""
        return sum(since <= at <= until and host in (None, whose) for at, whose in self._losses)

    def quiet_since(self, at: float) -> float | None:
        """Return when all was quiet next, from *at* on."""
        return next((quiet for quiet, _ in self._quiet if quiet >= at), None)

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
