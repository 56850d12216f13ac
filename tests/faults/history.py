"""What visitors did and saw while something failed, and the judgement of it. Pure.

Each visitor is one browser with one request at a time, and each session carries a secret of its own and a list of
numbered items to which requests append. So what a visit may see follows from the visits before it:

* Nothing acknowledged is lost: each item whose commit returned is there, and so is the session.
* Nothing is there twice, in another order, or without having been written.
* Nothing ended opens again: an id that a logout, a login, a renewal or a revocation has ended shows nothing.
* Nobody sees a secret or an item of another session.
* Errors are StoreUnavailable or SessionConflict.

A commit that failed leaves a doubt: it may have been stored or not, and what is seen later decides. What a fault is
declared to lose is a Loss: it forgives what was acknowledged in its time, and the forgiven is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from math import inf
from typing import NamedTuple

from sojourn.errors import SessionConflict, StoreUnavailable

PERMITTED = (StoreUnavailable, SessionConflict)


class Act(StrEnum):
    """What a visitor asks for."""

    READ = "read"
    APPEND = "append"
    ROTATE = "rotate"
    LOGIN = "login"
    LOGOUT = "logout"
    REVOKE = "revoke"
    """All sessions of the visitor's name are ended from outside."""
    PROBE = "probe"
    """An id of former times is presented."""


class Answer(Enum):
    """What became of a visit."""

    DONE = auto()
    """The commit returned: acknowledged."""
    LOST = auto()
    """The commit returned and said that the session had ended meanwhile: not stored."""
    DOUBTFUL = auto()
    """The commit failed: it may have been stored or not."""
    REFUSED = auto()
    """It failed before there was anything to store."""


class Span(NamedTuple):
    """When a visit was under way, in seconds of one clock."""

    begun: float
    ended: float


class Seen(NamedTuple):
    """What a request found in the session: its secret and its items.

    No secret: an anonymous visitor. An empty one: a session that holds nothing. A login makes such a one when the
    session that it should have taken along was gone by then.
    """

    secret: str | None = None
    items: tuple[str, ...] = ()


NOBODY = Seen()


def name_of(item: str) -> str:
    """Return an item without the number of the try that appended it, which is what stands behind a full stop."""
    return item.partition(".")[0]


@dataclass(frozen=True)
class Visit:
    """One request. Secrets and items begin with the visitor's name; later items of a visitor sort behind earlier ones.

    *secret* is the one that a session would get which begins here; *seen* is None where the request did not get so far.
    """

    visitor: str
    act: Act
    span: Span
    presented: str | None = None
    secret: str = ""
    item: str = ""
    seen: Seen | None = None
    answer: Answer = Answer.DONE
    issued: str | None = None
    error: BaseException | None = None


@dataclass(frozen=True)
class Loss:
    """What a fault is declared to lose: what was acknowledged between *begun* and *ended* on ids of its *share*.

    With *revives* an end that was acknowledged then may be undone, too.
    """

    begun: float = -inf
    ended: float = inf
    revives: bool = False
    share: Callable[[str], bool] = lambda id: True

    def covers(self, span: Span, id: str | None) -> bool:
        """Tell whether something acknowledged in *span* on *id* is forgiven."""
        return self.touches(span) and id is not None and self.share(id)

    def touches(self, span: Span) -> bool:
        """Tell whether *span* and its time have a moment in common."""
        return span.begun <= self.ended and span.ended >= self.begun


@dataclass
class Verdict:
    """What was wrong, and how often what happened."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def blame(self, what: str, visit: Visit, more: object = "") -> None:
        """Note something wrong."""
        seen = visit.seen and (visit.seen.secret, visit.seen.items[-3:])
        self.wrong.append(f"{what}: {visit.visitor} {visit.act} at {visit.span.begun:.3f} saw {seen} {more}")

    def __str__(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()) if count)


class Ended(NamedTuple):
    """An id that opens nothing any more, from the moment *since* on; by what visit, and what it was before."""

    span: Span
    since: float
    secret: str | None
    items: tuple[str, ...]


def judge(visits: Iterable[Visit], losses: Sequence[Loss] = (), *, grace: float = 0.0) -> Verdict:
    """Return the verdict on *visits*, each visitor's in their order; *grace* is the policy's, in seconds."""
    verdict, accounts = Verdict(), dict[str, Account]()
    for visit in visits:
        account = accounts.setdefault(visit.visitor, Account(visit.visitor, losses, grace, verdict))
        account.take(visit)
    return verdict


class Account:
    """What one visitor may rely on."""

    def __init__(self, visitor: str, losses: Sequence[Loss], grace: float, verdict: Verdict) -> None:
        self.visitor, self.losses, self.grace, self.verdict = visitor, losses, grace, verdict
        self.ended: dict[str, Ended] = {}
        self._forget()

    def _forget(self) -> None:
        """Begin as somebody anonymous."""
        self.secret: str | None = None
        self.sure: dict[str, Span] = {}
        self.doubtful: set[str] = set()
        self.doubt: Act | None = None  # something that may have ended the session
        self.alone: Act | None = None  # what may have ended it under a login, which then went on without its values
        self.logged_in = False
        self.born = self.last = Span(-inf, -inf)

    def take(self, visit: Visit) -> None:
        """Judge one more visit."""
        self.verdict.counts[f"{visit.answer.name.lower()} of {visit.act}"] += 1
        if visit.error is not None and not isinstance(visit.error, PERMITTED):
            self.verdict.blame("another error", visit, repr(visit.error))
        if visit.seen is not None:
            self._check_owner(visit, visit.seen)
            self._probed(visit, visit.seen) if visit.act is Act.PROBE else self._look(visit, visit.seen)
        if visit.act is not Act.PROBE:
            self._conclude(visit)

    # -- what it saw

    def _check_owner(self, visit: Visit, seen: Seen) -> None:
        for text in (*filter(None, [seen.secret]), *seen.items):
            if not text.startswith(f"{self.visitor}/"):
                self.verdict.blame("crossed", visit, text)

    def _probed(self, visit: Visit, seen: Seen) -> None:
        end = self.ended.get(visit.presented or "")
        if end and seen.secret is not None and visit.span.begun > end.since:
            self._revived(visit, end)
            self.ended.pop(visit.presented or "")

    def _look(self, visit: Visit, seen: Seen) -> None:
        if seen.secret is None:
            if self.secret is not None:
                self._vanished(visit)
            return
        if end := self.ended.pop(visit.presented or "", None):
            self._revived(visit, end)
            self._forget()
            self.secret, self.doubtful, self.doubt = end.secret, set(end.items), Act.REVOKE
        if not seen.secret or not self.secret:
            self._found_empty(visit, seen)
        elif seen.secret != self.secret:
            self.verdict.blame("crossed, or revived", visit, f"and not {self.secret}")
        else:
            self.last, self.alone = visit.span, None
            self._check_items(visit, seen.items)

    def _found_empty(self, visit: Visit, seen: Seen) -> None:
        """A session without values is seen, or was seen the last time and a write in doubt has begun to fill it."""
        if self.secret is None:
            self.verdict.blame("crossed, or revived", visit, "and not nobody")
        elif self.secret and self.alone:
            self.verdict.counts[f"ended under a login by a {self.alone} in doubt"] += 1
            self._forget()
            self.logged_in = True
        elif self.secret:
            self._note_loss("session", visit, self._forgives_all(visit.presented), self.secret)
            self._forget()
            self.logged_in = True
        self.secret, self.doubtful = seen.secret, set(seen.items)
        self.born = self.last = visit.span

    def _check_items(self, visit: Visit, items: tuple[str, ...]) -> None:
        if len(set(items)) < len(items):
            self.verdict.blame("doubled", visit)
        elif list(items) != sorted(items):
            self.verdict.blame("out of order", visit)
        for item in set(items) - self.sure.keys() - self.doubtful:
            self.verdict.blame("never written, or refused, or revived", visit, item)
        for item in self.sure.keys() - set(items):
            self._charge("item", visit, self.sure.pop(item), item)
        for item in self.doubtful & set(items):
            beside = sum(name_of(other) == name_of(item) for other in items) > 1
            self.verdict.counts["items in doubt that stand beside a second try"] += beside
            self.sure[item] = visit.span
            self.doubtful.discard(item)

    def _vanished(self, visit: Visit) -> None:
        """A session is gone that nobody has ended for sure."""
        if self.doubt:
            self.verdict.counts[f"ended by a {self.doubt} in doubt"] += 1
        else:
            self._note_loss("session", visit, self._forgives_all(visit.presented), self.secret)
        self._end(visit, visit.span.ended)

    def _charge(self, what: str, visit: Visit, span: Span, name: str) -> None:
        self._note_loss(what, visit, self._forgives(span, visit.presented), name)

    def _note_loss(self, what: str, visit: Visit, forgiven: bool, name: str | None) -> None:
        if forgiven:
            self.verdict.counts[f"{what}s lost as declared"] += 1
        else:
            self.verdict.blame(f"lost {what}", visit, name)

    def _revived(self, visit: Visit, end: Ended) -> None:
        if any(loss.revives and loss.covers(end.span, visit.presented) for loss in self.losses):
            self.verdict.counts["ends undone as declared"] += 1
        else:
            self.verdict.blame("revived", visit, f"ended at {end.span}")

    def _forgives_all(self, id: str | None) -> bool:
        """Tell whether it is forgiven that nothing is left of a session: neither its beginning nor what came last."""
        return self._forgives(self.born, id) and self._forgives(self.last, id)

    def _forgives(self, span: Span, id: str | None) -> bool:
        return any(loss.covers(span, id) for loss in self.losses)

    # -- what it did

    def _conclude(self, visit: Visit) -> None:
        if visit.answer is Answer.DOUBTFUL:
            self._be_in_doubt(visit)
        elif visit.answer is Answer.LOST:
            if self.secret is not None:
                self._vanished(visit)
        elif visit.answer is Answer.DONE:
            self._done(visit)

    def _be_in_doubt(self, visit: Visit) -> None:
        if self.secret is None:
            return  # a session that nobody knows the id of
        if visit.act is Act.APPEND:
            if visit.item not in self.sure:
                self.doubtful.add(visit.item)
        elif visit.act is not Act.READ and not (visit.act is Act.REVOKE and not self.logged_in):
            # A renewal leads on for the grace only, and a revocation does not name a version: both may show late.
            self.doubt = self.doubt if self.doubt in (Act.ROTATE, Act.REVOKE) else visit.act

    def _done(self, visit: Visit) -> None:
        if visit.act is Act.REVOKE:
            self._revoked(visit)
        elif visit.act is Act.LOGOUT:
            if self.secret is not None:
                self._end(visit, visit.span.ended)
        elif visit.issued:
            self._issued(visit)
        if visit.act is Act.APPEND and self.secret is not None:
            self.secret = self.secret or visit.secret
            self.sure.setdefault(visit.item, visit.span)
            self.doubtful.discard(visit.item)
            self.last = visit.span
            wrote = visit.seen is not None and visit.item not in visit.seen.items
            if wrote and self.doubt in (Act.LOGIN, Act.LOGOUT):
                self.doubt = None  # they named the version before this write

    def _issued(self, visit: Visit) -> None:
        if self.secret is None:
            self.secret = visit.secret
        elif visit.presented:
            renewal = visit.act is Act.ROTATE
            self._retire(visit, visit.span.ended + (self.grace if renewal else 0.0))
        # A commit in doubt may have been executed after this login had looked, and before it retired the old id.
        self.alone = self.doubt if visit.act is Act.LOGIN else None
        self.doubt, self.born, self.last = None, visit.span, visit.span
        self.logged_in = self.logged_in or visit.act is Act.LOGIN

    def _revoked(self, visit: Visit) -> None:
        """It ended what is on the name's list; what a server that died had of that list may have been missed."""
        if not self.logged_in or self.secret is None:
            return
        if any(loss.revives and loss.touches(self.born) for loss in self.losses):
            self.doubt = Act.REVOKE
        else:
            self._end(visit, visit.span.ended)

    def _end(self, visit: Visit, since: float) -> None:
        self._retire(visit, since)
        self._forget()

    def _retire(self, visit: Visit, since: float) -> None:
        if visit.presented:
            self.ended[visit.presented] = Ended(visit.span, since, self.secret, (*self.sure, *self.doubtful))
