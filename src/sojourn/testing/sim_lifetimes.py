"""Lifetimes: between which times a session ends by itself, as far as a history can tell.

A host's clock says when: nobody has looked for the idle timeout, or the lifetime has passed. A look counts by the clock
of the host that served it, and the lifetime by that of the host where the session began. So what a clock was ahead, at
most or at least, is added to each time. Where no clock was set the two bounds are as near as requests are short.
"""

from __future__ import annotations

from collections.abc import Collection

from sojourn.testing.sim_history import NO_END, Answered, Sent
from sojourn.testing.sim_known import SLACK, Known


def latest_end(known: Known, sent: Sent, answer: Answered) -> float:
    """Return when at the latest the session that a request has found was over, by the looks of all other requests."""
    assert sent.session
    looks = [_until(known, look, answer.at) for look in _looks(known, sent.session) if look.request != sent.request]
    idle = max(looks, default=NO_END) + known.begins.idle
    born = known.began_with(sent.session)
    life = _until(known, born, answer.at) + known.begins.lifetime if born else NO_END
    return min(idle, life) + SLACK


def may_have_ended(known: Known, session: str, marks: Collection[int], at: float) -> bool:
    """Tell whether a session that has the writes of *marks* may be over by any host's clock at *at*."""
    return at + known.skew[1] >= _earliest_end(known, session, marks)


def _earliest_end(known: Known, session: str, marks: Collection[int]) -> float:
    """Return when at the earliest.

    A copy with a write says no earlier time of a look than requests that ended after the write began: unless clocks
    differ, since the later stamp wins and not the later look.
    """
    born, issued = known.began_with(session), known.issued_by.get(session)
    requests = [known.request_of[mark] for mark in marks if mark in known.request_of]
    written = [known.sent[one] for one in requests if (answer := known.answered.get(one)) and answer.wrote]
    proofs = [*written, issued] if issued else written
    if born is None or not proofs:
        return -NO_END
    least, most = known.skew
    since = max(proof.at for proof in proofs) - 2 * (most - least)
    looks = [look for look in _looks(known, session) if _end(known, look) >= since]
    seen = [look.at + known.ahead(look.host, look.at, _end(known, look))[0] for look in looks]
    idle = min(seen, default=-NO_END) + known.begins.idle
    life = born.at + known.ahead(born.host, born.at, _end(known, born))[0] + known.begins.lifetime
    return min(idle, life) - SLACK


def _looks(known: Known, session: str) -> list[Sent]:
    """Return the requests that have looked at a session of this family, or may have."""
    return [sent for sent in known.requests_of[known.family(session)] if _may_have_looked(known, sent)]


def _may_have_looked(known: Known, sent: Sent) -> bool:
    answer = known.answered.get(sent.request)
    return not (answer and answer.ok) or answer.found or answer.session != sent.session


def _end(known: Known, sent: Sent) -> float:
    """Return until when a request can have done anything: it was answered, or no host was busy any more."""
    answer = known.answered.get(sent.request)
    quiet = known.quiet_since(sent.at) if answer is None else answer.at
    return NO_END if quiet is None else quiet


def _until(known: Known, sent: Sent, before: float) -> float:
    """Return the latest time that a request can have written down before *before*, by its host's clock."""
    until = min(_end(known, sent), before)
    return until + known.ahead(sent.host, sent.at, until)[1]
