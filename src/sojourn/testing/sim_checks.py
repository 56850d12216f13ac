"""Checkers: which promises does a history break? Pure functions over its lines; they know nothing of the simulation.

What a history means for them is in ``sim_known`` and ``sim_lifetimes``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from sojourn.testing.sim_history import (
    NO_END,
    Answered,
    Copy,
    Counted,
    Finding,
    History,
    Question,
    Sent,
    Settled,
    Trouble,
)
from sojourn.testing.sim_known import ENDING, SLACK, Known
from sojourn.testing.sim_lifetimes import latest_end, may_have_ended
from sojourn.testing.sim_revoked import revoked

Checker: TypeAlias = Callable[[Known], Iterator[Finding]]

QUESTIONS_AT_ONCE, QUESTIONS_A_SECOND = 5, 1.0  # of a host, about one session, that come to nothing


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
        elif _may_be_over(known, sent, answer.at) or may_have_ended(known, sent.session, expected, answer.at):
            continue
        elif not known.id_survives(sent.session, answer.at):
            continue  # what it was renewed from may be there still, and has all that was written to it
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
        if other.does in ("logout", "revoke"):
            if _is_under_a_login(known, other, sent.session):
                return True
            continue
        answer = known.answered.get(other.request)
        if other.client != sent.client or not (answer and answer.ok):
            return True
    return False


def _is_under_a_login(known: Known, end: Sent, session: str) -> bool:
    """Tell whether somebody else logged in on a session while it was ended: that login goes on without its values."""
    ended = known.answered.get(end.request)
    for login in known.endings(session):
        if login.does != "login" or login.client == end.client:
            continue
        if end.does == "revoke" or login.session == end.session:
            answer = known.answered.get(login.request)
            if (answer is None or answer.at >= end.at) and (ended is None or ended.at >= login.at):
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
    finally_ = _longest(known.copies)
    for number, answer in known.answered.items():
        sent, session = known.sent[number], answer.session
        if not (answer.ok and answer.wrote and session and sent.mark) or known.endings(session):
            continue
        if session not in known.living and may_have_ended(known, session, (sent.mark,), known.end):
            continue
        copy = finally_.get(session)
        if copy is None or copy.state != "live":
            if known.survives(sent.mark, known.end):
                yield Finding("nothing lost", f"session {session} of request #{number} is gone", (session,))
        elif any(known.overwritten(copy.reads, frozenset({sent.mark}), session, known.end)):
            text = f"request #{number} was acknowledged by {answer.hosts}, and the end is {copy.reads}"
            yield Finding("nothing lost", text, (session,))


def _longest(copies: Collection[Copy]) -> dict[str, Copy]:
    """Return of each session the copy that is over last."""
    return {copy.session: copy for copy in sorted(copies, key=lambda copy: copy.until)}


def no_resurrection(known: Known) -> Iterator[Finding]:
    """An ended session is no session: on the host that ended it from then on, and everywhere in the end."""
    for number, answer in known.answered.items():
        sent = known.sent[number]
        if not (answer.ok and answer.ended and sent.session and sent.does in ENDING):
            continue
        if known.request_survives(number, known.end):
            for session in _ended_by(known, sent):
                if session in known.living:
                    text = f"session {session} lives at the end; request #{number} ({sent.does}) has ended it"
                    yield Finding("no resurrection", text, (session, sent.session))
    if known.begins.copies is None:
        yield from _on_one_host(known)


def _ended_by(known: Known, sent: Sent) -> Iterator[str]:
    """Yield the sessions that are over once *sent* was answered: its own, and for a logout what renewals made of it."""
    session: str | None = sent.session
    passed: set[str] = set()
    while session and session not in passed:
        yield session
        passed.add(session)
        mine = known.renewals_of(session)
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


class Held(NamedTuple):
    """What one host has of one name."""

    digest: str
    until: float
    """When it is over by the host's clock, and may be swept."""


def are_alike(held: Mapping[str, Held], due: Collection[str], clock: Callable[[str], float]) -> bool:
    """Tell whether the hosts that are to have a name have one thing under it, and the others nothing.

    What is over by the clock of its host counts as nothing: one host has swept it, another not yet. A host whose clock
    says that all others' copies are over need not have one.
    """
    if held.keys() == {*due} and len({one.digest for one in held.values()}) == 1:
        return True
    live = {host: one for host, one in held.items() if one.until > clock(host) + SLACK}
    last = max((one.until for one in live.values()), default=-NO_END) - SLACK
    lacking = any(host not in live and last > clock(host) for host in due)
    return not lacking and live.keys() <= {*due} and len({one.digest for one in live.values()}) <= 1


def copies_alike(known: Known) -> Iterator[Finding]:
    """After quiet all hosts that are to have a session have one, of equal bytes, and the others have none."""
    by_session: dict[str, list[Copy]] = defaultdict(list)
    for copy in known.copies:
        by_session[copy.session].append(copy)
    for session, copies in by_session.items():
        held = {copy.host: Held(copy.digest, copy.until) for copy in copies}
        if not are_alike(held, copies[0].due, lambda host: known.end + known.ahead(host, known.end, known.end)[1]):
            text = "; ".join(f"{copy.host}: {copy.state} {copy.reads} {copy.digest} {copy.until:g}" for copy in copies)
            yield Finding("copies alike", f"{session} is {text}; due on {', '.join(copies[0].due)}", (session,))


def no_afterlife(known: Known) -> Iterator[Finding]:
    """What nobody has looked at for the idle timeout, or what is too old, is shown to nobody, and nothing changes that.

    By the clocks of the hosts: that of the last look, and that of the host that shows it.
    """
    for number, answer in known.answered.items():
        sent = known.sent[number]
        if answer.ok and answer.found and sent.session:
            now = sent.at + known.ahead(sent.host, sent.at, answer.at)[0]
            if now > (end := latest_end(known, sent, answer)):
                text = f"request #{number} finds {sent.session} at {sent.host}, where it was over since {end:.3f}"
                yield Finding("no afterlife", text, (sent.session,))


def forged_in_vain(known: Known) -> Iterator[Finding]:
    """A made-up cookie opens nothing, leaves nothing, and causes a bounded number of questions."""
    made_up = _made_up(known)
    for copy in known.copies:
        if copy.session in made_up:
            yield Finding("forged in vain", f"{copy.host} keeps {copy.session}, which is made up", (copy.session,))
    asked: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in known.history:
        if isinstance(line, Question) and line.session in made_up:
            asked[line.host, line.session].append(line.at)
        elif isinstance(line, Trouble) and line.what.endswith("started"):  # an agent that begins counts anew
            for pair in [pair for pair in asked if pair[0] in line.hosts]:
                yield from _too_many(*pair, asked.pop(pair))
    for pair, times in asked.items():
        yield from _too_many(*pair, times)
    for session in made_up:
        for sent, _ in known.finds(session):
            yield Finding("forged in vain", f"request #{sent.request} finds {session}, which is made up", (session,))


def _made_up(known: Known) -> set[str]:
    """Return the sessions that nobody was ever given."""
    forged = {sent.session for sent in known.sent.values() if sent.does == "forge" and sent.session}
    honest = {sent.session for sent in known.sent.values() if sent.does != "forge"}
    return forged - honest - known.issued_by.keys()


def _too_many(host: str, session: str, times: list[float]) -> Iterator[Finding]:
    """Yield a finding where questions came faster than they may. Two may be on their way while one is counted."""
    for first in range(len(times)):
        for last in range(first, len(times)):
            count, seconds = last - first + 1, times[last] - times[first]
            if count > QUESTIONS_AT_ONCE + QUESTIONS_A_SECOND * seconds + 2:
                text = f"{host} has asked {count} times within {seconds:.1f} s for {session}, which is made up"
                yield Finding("forged in vain", text, (session,))
                return


def honest(known: Known) -> Iterator[Finding]:
    """Nobody is told of more copies than there are; what has too few is counted, or refused where policy says so."""
    for line in known.history:
        if isinstance(line, Settled) and line.really + known.losses(line.since, line.at) < line.hosts:
            text = f"{line.host} said at {line.at:.4f} that {line.hosts} hosts have {line.session}; {line.really} had"
            yield Finding("honest", text, (line.session,))
        if isinstance(line, Counted) and not line.told <= line.counted <= line.told + line.for_others:
            yield Finding("honest", f"{line.host} counts {line.counted} under-replicated writes; {line.told} were told")
    if known.begins.alone != "refuse" or known.begins.copies is not None:
        return  # what other hosts have performed they have not told in numbers
    others = known.fewest_that_stay - 1
    wanted = min(1 if known.begins.acks is None else known.begins.acks, others)  # all: of those that are not dead
    for number, answer in known.answered.items():
        session = answer.session or known.sent[number].session
        if answer.ok and _has_written(known.sent[number], answer) and answer.hosts < wanted:
            text = f"request #{number} was accepted with {answer.hosts} acknowledgements of {wanted}"
            yield Finding("honest", text, (session,) if session else ())


def _has_written(sent: Sent, answer: Answered) -> bool:
    """Tell whether a request has written: "log out everywhere" may have found nothing to end."""
    return answer.wrote or (answer.ended and sent.does != "revoke")


def answers(known: Known) -> Iterator[Finding]:
    """Once everything is quiet every request is answered."""
    trouble = [line for line in known.history if isinstance(line, Trouble)]
    over = next((line.at for line in trouble if line.what == "over"), None)
    if over is None or trouble[-1].what != "quiet":
        yield Finding("answers", "the hosts never came to rest")
        return
    for number, sent in known.sent.items():
        answer = known.answered.get(number)
        if sent.at >= over and sent.does != "forge" and not (answer and answer.ok):
            text = f"request #{number} at {sent.host}, after all was quiet: {'503' if answer else 'no answer'}"
            yield Finding("answers", text, (sent.session,) if sent.session else ())


CHECKERS: tuple[Checker, ...] = (
    never_older,
    nothing_lost,
    no_resurrection,
    no_afterlife,
    revoked,
    forged_in_vain,
    copies_alike,
    honest,
    answers,
)


def check(history: History) -> list[Finding]:
    """Return what is wrong with a history."""
    known = Known(history)
    return [finding for checker in CHECKERS for finding in checker(known)]
