"""Open and commit: the whole life of a session as two flows. Read this first.

Rule 1: every decision about a session is made here, and nothing here does I/O: a flow yields operations and is
sent their answers (see ``ops``), so the blocking and the async driver cannot disagree.
Rule 2: time and fresh ids come in as arguments.
Rule 3: every loop is bounded. A store that keeps answering STALE ends in SessionConflict, never in a silent loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sojourn.core.delta import Delta, Merged, merge
from sojourn.core.ids import SessionId, handle_of
from sojourn.core.opened import Opened, Rotation, Standing
from sojourn.core.ops import Create, Delete, Flow, Load, Touch, Update, Written
from sojourn.core.outcome import KEEP, Action, Event, Happened, Outcome
from sojourn.core.policy import Policy
from sojourn.core.principals import delist, enlist, keep_to_bound
from sojourn.core.record import Record
from sojourn.core.session import Session
from sojourn.core.terms import Terms
from sojourn.errors import SessionConflict, SessionSealed, SessionTooLarge, StoreUnavailable

ATTEMPTS = 8  # each lost attempt means that somebody else's write succeeded, so eight losses are a hot key
HOPS = 4  # renewals within one grace period; a longer chain of successors is not followed


# -- open ------------------------------------------------------------------------------------------------------


def open(ids: Sequence[SessionId], policy: Policy, now: float) -> Flow[Opened]:
    """Find the session that *ids* open: one Load for each id, one more for each renewal it has to follow.

    A browser sends more than one id when a neighbouring host planted a cookie of the same name. An id that opens
    nothing never wins over one that does; where two open different sessions none is believed.
    """
    found: list[Opened] = []
    for id in ids:
        record: Record | None = yield Load(id.private)
        opened = _judge(id, record, policy, now)
        if opened.standing is Standing.RETIRED and (current := (yield from _follow(record, policy, now))):
            opened = Opened(Standing.FORWARDED, None, *current, retired=id.private)
        found.append(opened)
    if len(found) == 1:
        return found[0]
    return _choose(found) if found else _NOBODY


def _judge(id: SessionId, record: Record | None, policy: Policy, now: float) -> Opened:
    if record is None:
        return Opened(events=(Event(Happened.UNKNOWN_ID, id.handle),))
    if not policy.is_live(record, now):
        return Opened(events=(Event(Happened.EXPIRED, id.handle),))
    return Opened(Standing.RETIRED) if record.retired else Opened(Standing.OWN, id, id.private, record)


def _follow(tombstone: Record | None, policy: Policy, now: float) -> Flow[tuple[bytes, Record] | None]:
    """Return where a tombstone leads: a live key and record, or None."""
    for _ in range(HOPS):
        if tombstone is None or (key := tombstone.successor) is None:
            return None
        found: Record | None = yield Load(key)
        if found is None or not policy.is_live(found, now):
            return None
        if not found.retired:
            return key, found
        tombstone = found
    return None


def _choose(found: Sequence[Opened]) -> Opened:
    live = {opened.key: opened for opened in found if opened.record}
    duplicate = Event(Happened.DUPLICATE_TOKEN)
    if len(live) == 1:
        return next(iter(live.values()))._replace(events=(duplicate,))
    retired = any(opened.standing is Standing.RETIRED for opened in found)
    return Opened(Standing.RETIRED if retired else Standing.NEW, events=(duplicate,))


_NOBODY = Opened()
_NOTHING = Delta()


# -- commit ----------------------------------------------------------------------------------------------------


def is_settled(session: Session, delta: Delta, policy: Policy, now: float) -> bool:
    """Tell whether a commit would do nothing and say nothing, as after nearly every request.

    A short cut for drivers, which need no flow then: commit would give the same answer.
    """
    if not session.looked:
        return True
    if delta or session.rotation or session.ending or session.owed:
        return False
    events, record = session.opened.events, session.opened.record
    if record is None:
        return not events
    return not events and session.cookie_age == record.cookie_age and not policy.touch_due(record, now)


def commit(session: Session, delta: Delta, terms: Terms) -> Flow[Outcome]:
    """Store what the request changed and return what to tell the browser. *delta* is ``session.delta()``.

    Five questions, in the order a person would ask: destroyed? new or rotating? changed? touch due? then keep.
    Raises SessionTooLarge before any write, SessionConflict after too many.
    """
    if is_settled(session, delta, terms.policy, terms.now):
        session.seal()
        return KEEP
    opened = session.opened
    ended = None
    if session.ending:
        _check_bounds(delta.set, terms.policy)  # what cannot begin is refused before anything ends
        ended = yield from end(session.ending, terms)
        session.ended()
    outcome = yield from _write(session, opened, delta, terms)
    if session.owed and outcome.action is Action.KEEP and session.owed.id == session.opened.id:
        outcome = session.owed.after(*outcome.events)
    session.seal()
    return _told(ended, outcome).after(*opened.events)


def save(session: Session, terms: Terms) -> Flow[Outcome]:
    """Store late changes (see ``Session.reopen``). No cookie can follow, so nothing may begin.

    The outcome's events are for the log; its action comes too late for the browser.

    Raises SessionSealed when there is no stored session that the changes could go to.
    """
    delta = session.delta()
    ended = KEEP
    if session.ending:
        ended = yield from end(session.ending, terms)
        if ended.action is Action.KEEP:
            # Renewed meanwhile, and the grace is over: unlike at a commit, no browser's cookie says what is the matter.
            ended = KEEP.after(Event(Happened.LOST, session.ending.id.handle if session.ending.id else None))
        session.ended()
    if not delta:
        return ended
    if session.opened.record is None:
        raise SessionSealed("the response has begun, so a new session cannot be announced; store something earlier")
    updated = yield from _update(session, session.opened, delta, terms)
    return updated.after(*ended.events)


def refresh(session: Session, terms: Terms) -> Flow[Outcome]:
    """Store what the request has changed so far, and fetch what others have: called when the session is locked.

    What has ended meanwhile is left as it was read: writing it will be answered GONE.
    """
    outcome = yield from store_early(session, session.delta(), terms)
    key, _ = session.opened.current()
    if found := (yield from _current(key, terms)):
        session.rebase(session.opened.at(*found), _NOTHING)
        session.forget_others_values()
    return outcome


def store_early(session: Session, delta: Delta, terms: Terms) -> Flow[Outcome]:
    """Store *delta* before the response begins. The cookie that this may ask for is owed until the commit.

    A session that is new, ended or to be rotated is left to the commit.
    """
    opened = session.opened
    if not (delta or session.remembers) or opened.record is None or session.ending or session.rotation:
        return KEEP
    outcome = yield from _update(session, opened, delta, terms)
    session.forget_others_values()
    if outcome.action is not Action.KEEP:
        session.owed = outcome._replace(events=())
    return Outcome(events=outcome.events)


def _write(session: Session, opened: Opened, delta: Delta, terms: Terms) -> Flow[Outcome]:
    outcome = yield from _write_record(session, opened, delta, terms)
    if not (session.principal and any(event.kind is Happened.LOGGED_IN for event in outcome.events)):
        return outcome
    ended = yield from keep_to_bound(session.principal, terms)
    return outcome._replace(events=(*outcome.events, Event(Happened.REVOKED))) if ended else outcome


def _write_record(session: Session, opened: Opened, delta: Delta, terms: Terms) -> Flow[Outcome]:
    login = session.rotation is Rotation.LOGIN
    if opened.record is None:
        if opened.standing is Standing.RETIRED and not login:
            return _over(session, opened, delta)
        return (yield from _begin(session, delta, terms)) if delta.set or login else KEEP
    if login or (session.rotation and opened.standing is Standing.OWN):
        return (yield from _rotate(session, opened, delta, terms))
    if delta or session.cookie_age != opened.record.cookie_age:
        return (yield from _update(session, opened, delta, terms))
    if terms.policy.touch_due(opened.record, terms.now):
        return (yield from _touch(opened, terms))
    return KEEP


def _told(ended: Outcome | None, written: Outcome) -> Outcome:
    """Say one thing to the browser: a session that begins after one has ended takes over its cookie."""
    if ended is None:
        return written
    if written.action is Action.ISSUE:
        return written.after(*ended.events)
    return ended.after(*written.events)


def _begin(session: Session, delta: Delta, terms: Terms) -> Flow[Outcome]:
    _check_bounds(delta.set, terms.policy)
    record = _first_record(session, delta.set, terms, created_at=terms.now)
    id = yield from _create(record, terms)
    session.rebase(Opened(Standing.OWN, id, id.private, record), delta)
    return _issue(id, record, Happened.LOGGED_IN if record.principal else Happened.CREATED)


def _first_record(session: Session, values: Mapping[str, bytes], terms: Terms, created_at: float) -> Record:
    return Record(
        values=values,
        created_at=created_at,
        accessed_at=terms.now,
        expires_at=terms.policy.expires_at(created_at, terms.now),
        principal=session.principal,
        cookie_age=session.cookie_age,
    )


def _create(record: Record, terms: Terms) -> Flow[SessionId]:
    for _ in range(ATTEMPTS):
        id = terms.new_id()
        yield from enlist(id.private, record, terms)
        if (yield Create(id.private, record)) is Written.DONE:
            return id
        yield from delist(id.private, record, terms)
    raise StoreUnavailable(
        f"the store said of {ATTEMPTS} fresh 256-bit ids that they exist: "
        "its answers are wrong, or the source of randomness repeats itself"
    )


def _update(session: Session, opened: Opened, delta: Delta, terms: Terms) -> Flow[Outcome]:
    """Replace the record, merging into what others wrote meanwhile. Never creates."""
    key, record = opened.current()
    read = record.values
    found: tuple[bytes, Record] | None = (key, record)
    if not terms.policy.is_live(record, terms.now):
        found = yield from _current(key, terms)
    for _ in range(ATTEMPTS):
        if found is None:
            return _over(session, opened, delta)
        key, record = found
        merged = _merge(read, record.values, delta, terms)
        after = _next_version(record, merged.values, session, terms)
        answer = yield Update(key, after, record.version)
        if answer is Written.DONE:
            refreshed = _refreshes_cookie(session, opened, terms)
            stored = opened.at(key, after)
            session.rebase(stored, delta)
            return _reissue(stored, after, refreshed).after(*_conflicts(key, merged))
        found = (yield from _current(key, terms)) if answer is Written.STALE else None
    raise _too_many_conflicts()


def _next_version(record: Record, values: Mapping[str, bytes], session: Session, terms: Terms) -> Record:
    accessed_at = max(record.accessed_at, terms.now)
    expires_at = terms.policy.expires_at(record.created_at, accessed_at)
    version = record.version + 1
    age = _cookie_age(session, record)
    return Record(values, record.created_at, accessed_at, expires_at, version, record.principal, age)


def _cookie_age(session: Session, record: Record) -> int | None:
    """Return what this request said about the cookie, or what others say by now."""
    return session.cookie_age if session.remembers else record.cookie_age


def _touch(opened: Opened, terms: Terms) -> Flow[Outcome]:
    """Write down that the visitor was here. Whatever the answer but DONE, there is nothing left to do."""
    key, record = opened.current()
    if not terms.policy.is_live(record, terms.now):
        return KEEP
    expires_at = terms.policy.expires_at(record.created_at, terms.now)
    answer = yield Touch(key, terms.now, expires_at, record.version)
    # A persistent cookie slides along, or an active visitor would lose it at its first Max-Age.
    return _reissue(opened, record, answer is Written.DONE and record.cookie_age is not None)


# -- rotate ----------------------------------------------------------------------------------------------------


def _rotate(session: Session, opened: Opened, delta: Delta, terms: Terms) -> Flow[Outcome]:
    """Create the new record first and retire the old one second, so that no crash in between loses the session."""
    renewal = session.rotation is Rotation.RENEWAL
    key, record = opened.current()
    found: tuple[bytes, Record] | None = (key, record)
    if not terms.policy.is_live(record, terms.now):
        found = yield from _current(key, terms)
    if found is None:
        return _over(session, opened, delta) if renewal else (yield from _begin(session, delta, terms))
    _, old = found
    merged = _merge(_carried(session, opened), _carried(session, opened, old), delta, terms)
    new = _first_record(session, merged.values, terms, created_at=old.created_at if renewal else terms.now)
    new = new._replace(cookie_age=_cookie_age(session, old))
    id = yield from _create(new, terms)
    try:
        return (yield from _retire(session, opened, found, (id, new), delta, terms))
    except (SessionConflict, SessionTooLarge):
        yield Delete(id.private)
        yield from delist(id.private, new, terms)
        raise


def _retire(
    session: Session,
    opened: Opened,
    found: tuple[bytes, Record] | None,
    created: tuple[SessionId, Record],
    delta: Delta,
    terms: Terms,
) -> Flow[Outcome]:
    """Put a tombstone in place of the old record, naming the version that the new one was made from.

    Whoever loses that race takes back what it created: after a renewal its changes go to the winner's record,
    and after the session's end nowhere. A login never loses: where the old session is gone it stands alone, with
    what its own request set.
    """
    renewal = session.rotation is Rotation.RENEWAL
    id, new = created
    for _ in range(ATTEMPTS):
        if renewal and (found is None or found[0] != opened.key):
            yield Delete(id.private)
            yield from delist(id.private, new, terms)
            return (yield from _land(session, opened, found, delta, terms))
        if found is None:
            return (yield from _stand_alone(session, id, new, delta))
        key, old = found
        merged = _merge(_carried(session, opened), _carried(session, opened, old), delta, terms)
        if merged.values != new.values:
            base, new = new.version, new._replace(values=merged.values, version=new.version + 1)
            if (yield Update(id.private, new, base)) is not Written.DONE:
                break
        answer = yield Update(key, _tombstone(old, terms, id.private if renewal else None), old.version)
        if answer is Written.DONE:
            yield from delist(key, old, terms)
            session.rebase(Opened(Standing.OWN, id, id.private, new), delta)
            happened = Happened.ROTATED if renewal else Happened.LOGGED_IN
            return _issue(id, new, happened).after(*_conflicts(id.private, merged))
        found = (yield from _current(key, terms)) if answer is Written.STALE else None
    raise _too_many_conflicts()


def _land(
    session: Session, opened: Opened, found: tuple[bytes, Record] | None, delta: Delta, terms: Terms
) -> Flow[Outcome]:
    """Bring the changes of a renewal that lost against another one to the winner's record."""
    session.owed = None  # a cookie with the old id would overwrite the winner's
    if found is None:
        return _over(session, opened, delta)
    if not delta:
        return KEEP
    forwarded = opened._replace(standing=Standing.FORWARDED, id=None)
    return (yield from _update(session, forwarded, delta, terms))


def _stand_alone(session: Session, id: SessionId, new: Record, delta: Delta) -> Flow[Outcome]:
    """Let a login whose old session ended meanwhile go on without that session's values."""
    alone = new._replace(values=dict(delta.set), version=new.version + 1)
    if (yield Update(id.private, alone, new.version)) is not Written.DONE:
        raise _too_many_conflicts()
    session.rebase(Opened(Standing.OWN, id, id.private, alone), delta)
    return _issue(id, alone, Happened.LOGGED_IN)


def _carried(session: Session, opened: Opened, record: Record | None = None) -> Mapping[str, bytes]:
    """Return the values of *record*, or of the record that was read, that a login takes along."""
    values = (record or opened.current()[1]).values
    kept = session.carried
    return values if kept is None else {key: data for key, data in values.items() if key in kept}


def _tombstone(old: Record, terms: Terms, successor: bytes | None) -> Record:
    return Record(
        values={},
        created_at=old.created_at,
        accessed_at=terms.now,
        expires_at=terms.now + terms.policy.rotation_grace,
        version=old.version + 1,
        retired=True,
        successor=successor,
    )


# -- end -------------------------------------------------------------------------------------------------------


def end(opened: Opened, terms: Terms) -> Flow[Outcome]:
    """Delete the session, also when it was renewed meanwhile: a logout never reports a false success.

    Where somebody else ended it first the browser is told nothing: its cookie may already be a new login's.
    """
    found: tuple[bytes, Record] | None = opened.current()
    for _ in range(ATTEMPTS):
        if found is None:
            return KEEP
        key, record = found
        answer = yield Delete(key, record.version)
        if answer is Written.DONE:
            for retired in opened.tombstones(key):
                yield Delete(retired)  # where one host alone has it, and is lost, the old id would live again
            yield from delist(key, record, terms)
            return Outcome(Action.EXPIRE, events=(Event(Happened.ENDED, handle_of(key)),))
        found = (yield from _current(key, terms)) if answer is Written.STALE else None
    raise _too_many_conflicts()


# -- small answers ---------------------------------------------------------------------------------------------


def _current(key: bytes, terms: Terms) -> Flow[tuple[bytes, Record] | None]:
    """Return what lives under *key* now, or where its tombstone leads.

    Asked after STALE, and when the deadline passed while the handler ran: only another request's look can have
    prolonged the session then; otherwise it is over and stays over.
    """
    found: Record | None = yield Load(key)
    if found is None or not terms.policy.is_live(found, terms.now):
        return None
    return (yield from _follow(found, terms.policy, terms.now)) if found.retired else (key, found)


def keys_of(key: bytes | None, terms: Terms) -> Flow[frozenset[bytes]]:
    """Return *key* and the key to which a renewal has moved the session meanwhile."""
    found = (yield from _current(key, terms)) if key else None
    return frozenset({key, found[0]} if key and found else ())


def _merge(read: Mapping[str, bytes], found: Mapping[str, bytes], delta: Delta, terms: Terms) -> Merged:
    """Merge, and refuse what policy refuses: a conflict nobody resolves, or values that grew beyond the bounds."""
    merged = merge(read, found, delta, terms.resolvers)
    if merged.conflicts and terms.policy.on_conflict == "refuse":
        raise SessionConflict(
            f"parallel requests changed the same keys: {', '.join(merged.conflicts)}", keys=merged.conflicts
        )
    _check_bounds(merged.values, terms.policy)
    return merged


def _check_bounds(values: Mapping[str, bytes], policy: Policy) -> None:
    if len(values) > policy.max_keys:
        raise SessionTooLarge("", f"it has {len(values)} keys, and max_keys is {policy.max_keys}")
    size = sum(map(len, values)) + sum(map(len, values.values()))
    if size > policy.max_bytes:
        raise SessionTooLarge("", f"it takes {size} bytes, and max_bytes is {policy.max_bytes}")


def _issue(id: SessionId, record: Record, happened: Happened) -> Outcome:
    return Outcome(Action.ISSUE, id, record.cookie_age, (Event(happened, id.handle),))


def _refreshes_cookie(session: Session, opened: Opened, terms: Terms) -> bool:
    """Tell whether the browser's cookie needs another lifetime: it was asked for, or is persistent and slides."""
    _, record = opened.current()
    if session.cookie_age != record.cookie_age:
        return True
    return record.cookie_age is not None and terms.policy.touch_due(record, terms.now)


def _reissue(opened: Opened, record: Record, wanted: bool) -> Outcome:
    """Issue the id that the browser presented once more. Who presented an old id is not told the new one."""
    if not wanted or opened.id is None:
        return KEEP
    return Outcome(Action.ISSUE, opened.id, record.cookie_age)


def _over(session: Session, opened: Opened, delta: Delta) -> Outcome:
    """Say nothing to the browser, not even what an exclusive block left to be said: its cookie may be a new login's."""
    session.owed = None
    return KEEP.after(*_lost(opened, delta))


def _lost(opened: Opened, delta: Delta) -> tuple[Event, ...]:
    handle = handle_of(opened.key) if opened.key else None
    return (Event(Happened.LOST, handle, (*delta.set, *delta.removed)),) if delta else ()


def _conflicts(key: bytes, merged: Merged) -> tuple[Event, ...]:
    return (Event(Happened.CONFLICT, handle_of(key), merged.conflicts),) if merged.conflicts else ()


def _too_many_conflicts() -> SessionConflict:
    return SessionConflict(f"other requests changed this session {ATTEMPTS} times while this one tried to store")
