"""What a worker decides: what it answers from here, what it asks the agent for, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from sojourn.cluster import ring, worker
from sojourn.cluster.local import Answer, Ask, Asked, Await, Forward, Forwarded, Nudge, Settled
from sojourn.cluster.replica import floor_of
from sojourn.cluster.settings import Settings
from sojourn.cluster.tables import View
from sojourn.cluster.wire import Member
from sojourn.core.capability import Page
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.testing.capability_harness import a_tag
from sojourn.testing.dict_tables import DictTables
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

DONE, EXISTS, GONE, STALE = Written.DONE, Written.EXISTS, Written.GONE, Written.STALE
HERE, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"
ENOUGH, ALONE = Settled(0, 1, True), Settled(0, 0, False)
KNOWN, UNKNOWN = Asked(0, True), Asked(0, False)
NO_AGENT = None


def settings(**changes: Any) -> Settings:
    return Settings(**{"seeds": (HERE, B, C), "me": HERE, "listen": HERE, "path": "/nowhere", "acks": 1} | changes)


def member(name: str, state: str = "alive", ready: bool = True) -> Member:
    return Member(name, 1, state, name[-1:].encode() * 4, ready)


def host(*members: Member, ready: bool = True) -> DictTables:
    """Return the storage of a host in a cluster of three."""
    tables = DictTables(clock=lambda: START)
    tables.keep_view(View(members or tuple(map(member, (HERE, B, C))), ready))
    return tables


class Talked:
    """A talk to its end: *requests* is what the agent was asked, *answer* what came of it, or *failed* why nothing."""

    def __init__(self, talk: Any, *answers: Answer | None, agent: Callable[[Any], Answer | None] | None = None) -> None:
        self.requests: list[Any] = []
        self.answer: Any = None
        self.failed = ""
        left = list(answers)
        try:
            request = next(talk)
            while True:
                self.requests.append(request)
                assert left or agent, f"one question too many: {request}"
                request = talk.send(agent(request) if agent else left.pop(0))
        except StopIteration as end:
            self.answer = end.value
        except StoreUnavailable as error:
            self.failed = str(error)
        assert not left, "fewer questions than answers"


def stored(tables: DictTables, key: bytes, record: Record | None = None) -> Record:
    """Store a session here, and return it as it is loaded."""
    assert tables.perform("create", (key, record or a_record())).answer is DONE
    found: Record = tables.perform("load", (key,)).answer
    return found


def mine(tables: DictTables, copies: int, *, keep: bool, tag: bool = False) -> bytes:
    """Return a key that this host keeps, or one that it does not."""
    keys = map(a_tag, range(256)) if tag else map(a_key, range(1000))
    return next(key for key in keys if (HERE in ring.owners(key, (HERE, B, C), copies)) == keep)


def plain(answer: Any) -> Forwarded:
    """Return an answer as it comes out of the wire."""
    return Forwarded(0, msgspec.msgpack.decode(msgspec.msgpack.encode(answer)))


# -- reading -------------------------------------------------------------------------------------------------------


def test_what_is_here_is_read_without_a_question() -> None:
    tables = host()
    record = stored(tables, a_key())
    assert Talked(worker.load(tables, settings(), a_key())).answer == record
    assert Talked(worker.load_seen(tables, settings(), a_key(), record.seen)).answer == record
    assert Talked(worker.floor(tables, settings(), a_key())).answer == record.seen != b""


def test_what_is_missing_on_a_host_that_has_caught_up_is_missing() -> None:
    talked = Talked(worker.load(host(), settings(), a_key()))
    assert (talked.requests, talked.answer, talked.failed) == ([], None, "")


def test_a_session_that_ended_here_is_no_reason_to_ask() -> None:
    tables = host(ready=False)
    seen = stored(tables, a_key()).seen
    tables.perform("delete", (a_key(), None))
    assert Talked(worker.load_seen(tables, settings(), a_key(), seen)).answer is None


def test_what_is_missing_on_a_host_that_catches_up_is_asked_for() -> None:
    tables = host(ready=False)
    talked = Talked(worker.load(tables, settings(), a_key()), KNOWN)
    assert talked.requests == [Ask(0, a_key(), b"", 1000)]
    assert (talked.answer, talked.failed) == (None, "")


@pytest.mark.parametrize("answer", [UNKNOWN, NO_AGENT])
def test_where_nobody_can_tell_there_is_no_session_nobody_says_so(answer: Answer | None) -> None:
    assert "catching up" in Talked(worker.load(host(ready=False), settings(), a_key()), answer).failed


def test_a_copy_older_than_its_browser_saw_is_not_shown() -> None:
    here, there = host(), host()
    floor = stored(there, a_key()).seen
    stored(here, a_key())
    asked = worker.load_seen(here, settings(), a_key(), floor)
    talked = Talked(asked, UNKNOWN)
    assert talked.requests == [Ask(0, a_key(), floor, 1000)]
    assert "what the browser has seen" in talked.failed
    assert "what the browser has seen" in Talked(worker.load_seen(here, settings(), a_key(), floor), NO_AGENT).failed


def test_what_the_agent_brought_is_shown() -> None:
    here, there = host(), host()
    floor = stored(there, a_key()).seen
    talk = worker.load_seen(here, settings(), a_key(), floor)
    assert isinstance(next(talk), Ask)
    here.accept(there.copies([a_key()]))
    with pytest.raises(StopIteration) as end:
        talk.send(KNOWN)
    assert end.value.value == there.perform("load", (a_key(),)).answer


def test_a_floor_that_nobody_gave_out_costs_one_question_and_hides_nothing() -> None:
    tables = host()
    record = stored(tables, a_key())
    forged = b"fake" + (2**63).to_bytes(8, "big")
    talked = Talked(worker.load_seen(tables, settings(), a_key(), forged), KNOWN)
    assert talked.answer == record


# -- writing -------------------------------------------------------------------------------------------------------


def test_a_write_waits_until_other_hosts_have_it() -> None:
    tables = host()
    talked = Talked(worker.create(tables, settings(wait=0.5), a_key(), a_record()), ENOUGH)
    (request,) = talked.requests
    assert isinstance(request, Await)
    assert (request.name, request.wait_ms) == (a_key(), 500)
    assert request.time == tables.progress()[tables.origin].cursor
    assert talked.answer is DONE


@pytest.mark.parametrize(
    "write",
    [
        lambda tables: worker.update(tables, settings(), a_key(), a_record(version=2, values={}), 1),
        lambda tables: worker.touch(tables, settings(), a_key(), START + 2, START + 1802, 1),
        lambda tables: worker.delete(tables, settings(), a_key()),
        lambda tables: worker.delete_many(tables, settings(), [a_key()]),
        lambda tables: worker.enlist(tables, settings(), a_tag(), a_key(), START, START + 100),
        lambda tables: worker.delist(tables, settings(), a_tag(), [a_key(7)]),
    ],
    ids=["update", "touch", "delete", "delete_many", "enlist", "delist"],
)
def test_every_write_waits(write: Any) -> None:
    tables = host()
    stored(tables, a_key())
    tables.perform("enlist", (a_tag(), a_key(7), START, START + 100))
    (request,) = Talked(write(tables), ENOUGH).requests
    assert isinstance(request, Await)
    assert request.time == tables.progress()[tables.origin].cursor


def test_who_has_written_nothing_waits_for_nothing() -> None:
    tables = host()
    stored(tables, a_key())
    assert Talked(worker.create(tables, settings(), a_key(), a_record())).answer is EXISTS
    assert Talked(worker.update(tables, settings(), a_key(), a_record(version=6), 5)).answer is STALE
    assert Talked(worker.touch(tables, settings(), a_key(2), START, START + 1, 1)).answer is GONE
    assert Talked(worker.delete(tables, settings(), a_key(2))).answer is GONE
    assert Talked(worker.delete_many(tables, settings(), [a_key(2)])).answer == 0
    assert Talked(worker.delist(tables, settings(), a_tag(), [])).answer is None


def test_without_acknowledgements_nobody_waits_but_now_and_then() -> None:
    """So that a worker cannot for long write faster than the others follow."""
    tables = host()
    kinds = []
    for number in range(4096):
        talk = worker.create(tables, settings(acks=0), a_key(number), a_record())
        kinds.append(type(next(talk)))
        with pytest.raises(StopIteration):
            talk.send(NO_AGENT)
    assert set(kinds) == {Nudge, Await}
    assert 4 <= kinds.count(Await) <= 64


@pytest.mark.parametrize("answer", [ALONE, Settled(0, 1, True, minority=True), NO_AGENT])
def test_alone_a_write_is_accepted_or_refused_as_the_policy_says(answer: Answer | None) -> None:
    assert Talked(worker.create(host(), settings(), a_key(), a_record()), answer).answer is DONE
    failed = Talked(worker.create(host(), settings(alone="refuse"), a_key(), a_record()), answer).failed
    assert "alone=refuse" in failed


@pytest.mark.parametrize(
    ("states", "acks"), [(("dead", "dead"), 1), (("suspect", "suspect"), 1), (("alive", "suspect"), 2)]
)
def test_where_it_is_known_that_nobody_would_have_it_nothing_is_written(states: Sequence[str], acks: int) -> None:
    tables = host(member(HERE), *(member(name, state) for name, state in zip((B, C), states, strict=True)))
    failed = Talked(worker.create(tables, settings(alone="refuse", acks=acks), a_key(), a_record())).failed
    assert "too few to write anything" in failed
    assert tables.replica(a_key()) is None


def test_a_host_that_catches_up_asks_before_it_says_that_a_session_is_gone() -> None:
    here, there = host(ready=False), host()
    stored(there, a_key())
    talk = worker.delete(here, settings(), a_key())
    assert isinstance(next(talk), Ask)
    here.accept(there.copies([a_key()]))
    assert isinstance(talk.send(KNOWN), Await)
    with pytest.raises(StopIteration) as end:
        talk.send(ENOUGH)
    assert end.value.value is DONE
    assert Talked(worker.delete(here, settings(), a_key(2)), UNKNOWN).failed


# -- with fewer copies than hosts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "arguments", "answer"),
    [
        ("load", (), a_record(seen=b"x" * 12)),
        ("load", (), None),
        ("create", (a_record(),), EXISTS),
        ("update", (a_record(version=2), 1), STALE),
        ("touch", (START, START + 1, 1), DONE),
        ("delete", (3,), GONE),
    ],
)
def test_a_host_without_a_copy_has_an_owner_do_it(verb: str, arguments: Any, answer: Any) -> None:
    tables = host()
    key = mine(tables, 2, keep=False)
    talked = Talked(getattr(worker, verb)(tables, settings(copies=2), key, *arguments), plain(answer))
    assert talked.requests == [Forward(0, key, verb, (key, *arguments), 1000)]
    assert talked.answer == answer
    assert tables.replica(key) is None


def test_a_record_goes_out_whatever_mapping_holds_its_values() -> None:
    tables = host()
    key = mine(tables, 2, keep=False)
    record = a_record(values=MappingProxyType({"cart": b"x"}))
    talked = Talked(worker.create(tables, settings(copies=2), key, record), plain(DONE))
    assert msgspec.msgpack.encode(talked.requests)
    assert talked.answer is DONE


def test_an_owner_does_it_itself() -> None:
    tables = host()
    key = mine(tables, 2, keep=True)
    assert worker.places(tables, settings(copies=2), key)
    assert Talked(worker.create(tables, settings(copies=2), key, a_record()), ENOUGH).answer is DONE
    assert Talked(worker.load(tables, settings(copies=2), key)).answer is not None


def test_a_copy_that_is_left_over_here_does_not_count_where_others_keep_the_session() -> None:
    """A logout on a host that keeps it is not sent here."""
    tables = host()
    key = mine(tables, 2, keep=False)
    stored(tables, key)
    assert Talked(worker.load(tables, settings(copies=2), key), plain(None)).answer is None
    assert Talked(worker.load_many(tables, settings(copies=2), [key]), plain([None])).answer == [None]
    assert Talked(worker.floor(tables, settings(copies=2), key), plain(None)).answer == b""
    gone = Talked(worker.update(tables, settings(copies=2), key, a_record(version=2), 1), plain(Written.GONE))
    assert gone.answer is Written.GONE
    assert Talked(worker.delete(tables, settings(copies=2), key), plain(Written.GONE)).answer is Written.GONE


def test_a_copy_that_is_left_over_is_shown_where_nobody_who_keeps_the_session_can_be_asked() -> None:
    tables = host()
    key = mine(tables, 2, keep=False)
    record = stored(tables, key)
    assert Talked(worker.load_seen(tables, settings(copies=2), key, record.seen), NO_AGENT).answer == record
    assert Talked(worker.load_seen(tables, settings(copies=2), key, b"else" + bytes(7) + b"\1"), NO_AGENT).failed


def test_what_an_owner_shows_is_no_older_either() -> None:
    tables, there = host(), host()
    key = mine(tables, 2, keep=False)
    floor = stored(there, key).seen
    newer = a_record(seen=floor)
    older = a_record(seen=b"else" + bytes(8))
    assert Talked(worker.load_seen(tables, settings(copies=2), key, floor), plain(newer)).answer == newer
    talked = Talked(worker.load_seen(tables, settings(copies=2), key, floor), plain(older), UNKNOWN)
    assert [type(request) for request in talked.requests] == [Forward, Ask]
    assert "what the browser has seen" in talked.failed
    assert Talked(worker.load_seen(tables, settings(copies=2), key, floor), plain(older), KNOWN).answer == older


def test_the_floor_of_a_session_elsewhere_is_asked_for() -> None:
    tables = host()
    key = mine(tables, 2, keep=False)
    assert Talked(worker.floor(tables, settings(copies=2), key), plain(a_record(seen=b"y" * 12))).answer == b"y" * 12


@pytest.mark.parametrize("answer", [Forwarded(0, None, "no host"), NO_AGENT, Forwarded(0, [1, 2])])
def test_what_no_owner_answers_is_unavailable(answer: Answer | None) -> None:
    tables = host()
    key = mine(tables, 2, keep=False)
    failed = Talked(worker.update(tables, settings(copies=2), key, a_record(), 1), answer).failed
    assert "other host" in failed
    assert key.hex() not in failed


def test_the_entries_of_one_principal_lie_together() -> None:
    tables = host()
    tag = mine(tables, 2, keep=False, tag=True)
    page = Page((a_key(1),), a_key(1))
    assert Talked(worker.find(tables, settings(copies=2), tag), plain(page)).answer == page
    talked = Talked(worker.enlist(tables, settings(copies=2), tag, a_key(), START, START + 9), plain(None))
    assert talked.requests == [Forward(0, tag, "enlist", (tag, a_key(), START, START + 9), 1000)]


def test_many_are_asked_for_once_a_group_of_hosts() -> None:
    tables = host()
    keys = [a_key(number) for number in range(30)]
    here = [key for key in keys if HERE in ring.owners(key, (HERE, B, C), 2)]
    for key in here:
        stored(tables, key)

    def agent(request: Any) -> Answer:
        (asked,) = request.arguments
        assert request.key == asked[0]
        assert len(asked) <= worker.AT_ONCE
        return plain([a_record(principal=key.hex()) for key in asked])

    talked = Talked(worker.load_many(tables, settings(copies=2), keys), agent=agent)
    assert sum(len(request.arguments[0]) for request in talked.requests) == len(keys) - len(here)
    for key, record in zip(keys, talked.answer, strict=True):
        assert record.principal == ("alice" if key in here else key.hex())


def test_many_are_deleted_where_they_are() -> None:
    tables = host()
    keys = [a_key(number) for number in range(30)]
    here = [key for key in keys if HERE in ring.owners(key, (HERE, B, C), 2)]
    for key in here:
        stored(tables, key)

    def agent(request: Any) -> Answer:
        return ENOUGH if isinstance(request, Await) else plain(len(request.arguments[0]))

    talked = Talked(worker.delete_many(tables, settings(copies=2), keys), agent=agent)
    assert talked.answer == len(keys)
    away = [request for request in talked.requests if isinstance(request, Forward)]
    assert sum(len(request.arguments[0]) for request in away) == len(keys) - len(here)
    assert not any(tables.perform("load_many", (keys,)).answer)


def test_a_scan_goes_from_host_to_host() -> None:
    tables = host()
    stored(tables, a_key(1))
    talk = worker.scan(tables, settings(copies=2))
    with pytest.raises(StopIteration) as end:
        next(talk)
    page: Page = end.value.value
    assert page.keys == (a_key(1),)
    first = Talked(worker.scan(tables, settings(copies=2), page.cursor), plain(Page((a_key(2),), b"on \0and")))
    assert first.requests == [Forward(0, B.encode(), "scan", (None, 256), 1000)]
    second = Talked(worker.scan(tables, settings(copies=2), first.answer.cursor), plain(Page((a_key(3),), None)))
    assert second.requests == [Forward(0, B.encode(), "scan", (b"on \0and", 256), 1000)]
    third = Talked(worker.scan(tables, settings(copies=2), second.answer.cursor), plain(Page((a_key(4),), None)))
    assert third.requests == [Forward(0, C.encode(), "scan", (None, 256), 1000)]
    assert third.answer == Page((a_key(4),), None)


def test_a_scan_leaves_out_hosts_whose_sessions_others_have_and_no_more() -> None:
    one = host(member(HERE), member(B, "suspect"), member(C))
    page = Talked(worker.scan(one, settings(copies=2))).answer
    assert Talked(worker.scan(one, settings(copies=2), page.cursor), plain(Page(()))).answer == Page(())
    both = host(member(HERE), member(B, "suspect"), member(C, "suspect"))
    assert "127.0.0.1:2, 127.0.0.1:3 cannot be reached" in Talked(worker.scan(both, settings(copies=2))).failed


def test_a_scan_that_comes_back_to_a_host_that_died_goes_on_with_the_next() -> None:
    tables = host(member(HERE), member(B, "dead"), member(C))
    talked = Talked(worker.scan(tables, settings(copies=2), B.encode() + b" cursor"), plain(Page((a_key(4),))))
    assert talked.requests == [Forward(0, C.encode(), "scan", (None, 256), 1000)]


def test_a_host_that_catches_up_has_others_look() -> None:
    tables = host(ready=False)
    page = Page((a_key(1),))
    assert Talked(worker.find(tables, settings(), a_tag()), plain(page)).answer == page
    assert Talked(worker.scan(tables, settings()), plain(page)).answer == page
    assert Talked(worker.load_many(tables, settings(), [a_key()]), plain([a_record()])).answer == [a_record()]
    assert Talked(worker.delete_many(tables, settings(), [a_key()]), plain(1)).answer == 1
    assert "catching up" in Talked(worker.scan(host(member(HERE), ready=False), settings())).failed


def test_a_record_says_what_a_browser_has_seen_by_it() -> None:
    tables = host()
    record = stored(tables, a_key())
    replica = tables.replica(a_key())
    assert replica is not None
    assert record.seen == floor_of(replica)
