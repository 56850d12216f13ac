"""Revocations: which sessions of a principal "log out everywhere" has to end, and where, and by when.

It ends what its host knows of: each session whose login or renewal was answered before it began, if

* that request was served by the same host; or
* it was answered when all other hosts had it; or
* all was quiet in between, so that every host had everything.

Such a session opens nothing any more on the revoking host from the answer on; on every host from then on if the answer
came when all hosts had the end; and on every host, also under what a renewal elsewhere made of it meanwhile, once all
is quiet. Lost disks excuse what only they had. Where sessions have owners the third way to know is the only one, since
it is the owners of the principal's list who know, and who they are changes with who can be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sojourn.testing.sim_history import Answered, Finding, Sent, Trouble
from sojourn.testing.sim_known import Known


def revoked(known: Known) -> Iterator[Finding]:
    """What "log out everywhere" has ended opens never again: on its host, and after quiet on any."""
    for number, answer in known.answered.items():
        sent = known.sent[number]
        if sent.does == "revoke" and answer.ok and answer.ended:
            for session in _known_to(known, sent, answer):
                yield from islice(_opens(known, sent, answer, session), 1)


def _opens(known: Known, revocation: Sent, answer: Answered, session: str) -> Iterator[Finding]:
    yield from _opens_at_once(known, revocation, answer, session)
    for later in _goes_on_as(known, session):
        yield from _opens_after_quiet(known, revocation, answer, later)


# -- what the host knew ------------------------------------------------------------------------------------------------


def _known_to(known: Known, revocation: Sent, answer: Answered) -> Iterator[str]:
    """Yield the sessions that a revocation's host must have known."""
    for session, issued in known.issued_by.items():
        begun = known.answered[issued.request]
        whose = known.logged_in_by(session)
        if whose == revocation.principal and begun.at <= revocation.at and _is_known(known, issued, revocation, answer):
            yield session


def _is_known(known: Known, issued: Sent, revocation: Sent, answer: Answered) -> bool:
    begun, host = known.answered[issued.request], revocation.host
    quiet = known.quiet_since(begun.at)
    if quiet is not None and quiet <= revocation.at and not known.losses(quiet, answer.at):
        return known.begins.copies is None or not _is_troubled(known, quiet, answer.at)
    if known.begins.copies is not None or known.members_change or known.losses(issued.at, answer.at, host):
        return False
    return issued.host == host or begun.hosts >= known.fewest - 1


def _is_troubled(known: Known, since: float, until: float) -> bool:
    return any(
        isinstance(line, Trouble) and since < line.at <= until and line.what not in ("quiet", "over")
        for line in known.history
    )


# -- what must not open --------------------------------------------------------------------------------------------


def _opens_at_once(known: Known, revocation: Sent, answer: Answered, session: str) -> Iterator[Finding]:
    """Yield the requests that open a session where it must be over from the answer on."""
    everywhere = known.begins.copies is None and not known.members_change and answer.hosts >= known.fewest - 1
    if known.begins.copies is not None or known.renewals_of(session):
        return  # an id that was renewed may lead to what the host knew nothing of
    for sent, read in known.finds(session):
        if sent.at < answer.at or (sent.host != revocation.host and not everywhere):
            continue
        if not known.losses(revocation.at, read.at):
            yield _finding(revocation, session, f"request #{sent.request} opens it at {sent.host}")


def _opens_after_quiet(known: Known, revocation: Sent, answer: Answered, session: str) -> Iterator[Finding]:
    quiet = known.quiet_since(answer.at)
    if quiet is None or not known.request_survives(revocation.request, known.end):
        return
    for sent, _ in known.finds(session):
        if sent.at >= quiet:
            yield _finding(revocation, session, f"request #{sent.request} opens it at {sent.host}, after quiet")
    if session in known.living:
        yield _finding(revocation, session, "it lives at the end")


def _goes_on_as(known: Known, session: str) -> Iterator[str]:
    """Yield the session, and what renewals have made of it, as far as each is known to be the only one."""
    for _ in range(len(known.sent)):
        renewals = known.renewals_of(session)
        if not renewals:
            yield session
            return
        answer = known.answered.get(renewals[0].request)
        if len(renewals) > 1 or renewals[0].does != "renew" or not (answer and answer.ok and answer.ended):
            return
        yield session
        assert answer.session
        session = answer.session


def _finding(revocation: Sent, session: str, what: str) -> Finding:
    text = f"request #{revocation.request} ended all sessions of {revocation.principal} at {revocation.host}; {what}"
    return Finding("revoked", text, (session,) if revocation.session is None else (session, revocation.session))
