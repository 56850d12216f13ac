"""Encryption at rest on a real Redis: what a thief of the storage reads, and what a forger in it can do."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.crypto.keys import text
from tests.faults.crowd import Node, Visitor, node, people
from tests.faults.history import NOBODY, Act, Answer, Seen
from tests.servers.redis import RedisServer

from sojourn.core.ids import SessionId
from sojourn.store import frame
from sojourn.store.redis.commands import Commands

pytestmark = pytest.mark.slow

QUERY = "timeout=5"


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.fresh()
    return redis_server


@pytest.fixture
def one(server: RedisServer, loop: bool) -> Iterator[Node]:
    with node(f"{server.url}?{QUERY}", loop=loop, keys=[text()]) as one:
        yield one


def key_of(visitor: Visitor) -> bytes:
    """Return the private key of the visitor's session."""
    parsed = SessionId.parse(visitor.id or "")
    assert parsed
    return parsed.private


def blob(server: RedisServer, visitor: Visitor) -> bytes:
    value = server.admin.get(Commands().name(key_of(visitor)))
    assert isinstance(value, bytes)
    return value


def put(server: RedisServer, visitor: Visitor, value: bytes) -> None:
    server.admin.set(Commands().name(key_of(visitor)), value, keepttl=True)


def two_visitors(one: Node) -> tuple[Visitor, Visitor]:
    anna, bert = Visitor("anna"), Visitor("bert")
    for visitor in (anna, bert):
        for act in (Act.APPEND, Act.LOGIN, Act.APPEND):
            assert one.visit(visitor, act).answer is Answer.DONE
    return anna, bert


def seen(one: Node, visitor: Visitor) -> Seen | None:
    visit = one.visit(visitor, Act.READ)
    assert visit.error is None
    return visit.seen


def test_a_dump_of_all_keys_under_use_holds_nothing_that_a_session_holds(server: RedisServer) -> None:
    """No value, no name of one, no principal, and no id, nor a part of any: while visitors are at work."""
    with people(f"{server.url}?{QUERY}", count=6, keys=[text()]) as crowd:
        crowd.all_served()
        dump = list(server.dump().items())
        crowd.all_served()
        crowd.assert_kept(timeout=5)
    held = b"\0".join(name + value for name, value in [*dump, *server.dump().items()])
    assert len(held) > 5_000
    told = [b"secret", b"items", *(visitor.name.encode() for visitor in crowd.visitors)]
    told += [visit.secret.rpartition("/")[2].encode() for visit in crowd.visits()]
    told += [visit.issued.encode() for visit in crowd.visits() if visit.issued]
    assert len(told) > 100
    assert not [one for one in told if one in held]


def test_the_same_dump_without_keys_holds_it_all(server: RedisServer, loop: bool) -> None:
    """The search above would find something."""
    with node(f"{server.url}?{QUERY}", loop=loop) as plain:
        two_visitors(plain)
    held = b"\0".join(server.dump().values())
    assert all(word in held for word in (b"secret", b"items", b"anna", b"bert"))


@pytest.mark.usefixtures("forging")
@pytest.mark.parametrize("reframed", [False, True], ids=["as they are", "in frames that fit"])
def test_blobs_that_change_places_open_for_nobody(
    server: RedisServer, one: Node, reframed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Frames are bound to their keys, but by a check that anybody can compute. The seal is bound by a key."""
    anna, bert = two_visitors(one)
    moved = {anna: blob(server, bert), bert: blob(server, anna)}
    if reframed:
        records = {other: frame.unpack(key_of(owner), moved[other]) for owner, other in ((bert, anna), (anna, bert))}
        moved = {visitor: frame.pack(key_of(visitor), record) for visitor, record in records.items() if record}
    for visitor, value in moved.items():
        put(server, visitor, value)
    assert [seen(one, visitor) for visitor in (anna, bert)] == [NOBODY, NOBODY]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert ("does not open" if reframed else "unreadable") in errors[0].getMessage()


def test_an_older_blob_that_is_put_back_whole_opens_and_turns_the_session_back(server: RedisServer, one: Node) -> None:
    """Documented, and no promise of ours: who can write to the storage, or restores a backup, can do so."""
    anna, _ = two_visitors(one)
    before, then = blob(server, anna), seen(one, anna)
    one.visit(anna, Act.APPEND)
    assert seen(one, anna) != then
    put(server, anna, before)
    assert seen(one, anna) == then


@pytest.mark.usefixtures("forging")
def test_an_older_blob_in_a_newer_one_s_frame_opens_for_nobody(server: RedisServer, one: Node) -> None:
    """The version is sealed, too: parts of two states make no third."""
    anna, _ = two_visitors(one)
    older = frame.unpack(key_of(anna), blob(server, anna))
    one.visit(anna, Act.APPEND)
    newer = frame.unpack(key_of(anna), blob(server, anna))
    assert older
    assert newer
    put(server, anna, frame.pack(key_of(anna), newer._replace(values=older.values)))
    assert seen(one, anna) == NOBODY


def test_a_session_that_was_ended_comes_back_where_somebody_puts_its_blob_back(server: RedisServer, one: Node) -> None:
    """Documented, too: a backup that is restored holds the sessions of its time, those ended since among them."""
    anna, _ = two_visitors(one)
    id, name, value, then = anna.id, Commands().name(key_of(anna)), blob(server, anna), seen(one, anna)
    assert one.visit(anna, Act.LOGOUT).answer is Answer.DONE
    assert one.visit(anna, Act.PROBE, presented=id).seen == NOBODY
    server.admin.set(name, value, px=60_000)
    assert one.visit(anna, Act.PROBE, presented=id).seen == then
