"""What memcached is asked for each operation, how long it keeps things, how large they may be, and its locks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.certificates import issue
from tests.servers.memcached import MemcachedServer, MemcachedServers
from tests.servers.process import until
from tests.store.memcached.callers import TlsServer, UnixServer, calling, secret_of

from sojourn.core.capability import Acquire, Batched, Examinable, Indexed, Lockable, Purgeable, Release, Scannable
from sojourn.core.ops import Create, Delete, Load, Touch, Update, Written
from sojourn.core.record import Record
from sojourn.errors import SessionTooLarge, StoreUnavailable
from sojourn.store import frame
from sojourn.store.memcached.blocking import MemcachedStore
from sojourn.store.memcached.commands import LATEST, MOST_TRIES, OVERHEAD, RELATIVE, SLACK, Commands, _keep
from sojourn.store.memcached.loop import AsyncMemcachedStore
from sojourn.store.memcached.protocol import ErrorReply, Item
from sojourn.store.memcached.settings import MemcachedSettings
from sojourn.testing.store_contract import a_key, a_record

pytestmark = pytest.mark.slow

DAY = 86400


# -- round trips -----------------------------------------------------------------------------------------------


def test_each_verb_costs_the_round_trips_that_are_declared(server: MemcachedServer, loop: bool) -> None:
    key, now = a_key(), time.time()
    after = a_record(version=2)
    asked: list[tuple[Any, dict[str, int]]] = [
        (Load(key), {"get": 1}),
        (Create(key, a_record()), {"set": 1}),
        (Touch(key, now, now + 60, 1), {"get": 1, "set": 1, "cas": 1}),
        (Update(key, after, 1), {"get": 1, "set": 1, "cas": 1}),
        (Update(key, after, 1), {"get": 1}),  # stale
        (Delete(key, 2), {"get": 1, "set": 1, "cas": 1}),
        (Delete(key), {"delete": 1}),
        (Acquire(key, b"me", now, now + 9), {"set": 1}),
        (Release(key, b"me"), {"get": 1, "set": 1, "cas": 1}),
    ]
    with calling(server.url, loop=loop) as caller:
        for op, expected in asked:
            server.reset()
            caller.do(op)
            assert server.commands() == expected, op


def test_a_touch_that_comes_between_makes_no_writer_stale(server: MemcachedServer) -> None:
    """Here the flow is driven by hand, so that the touch falls between the two requests of an update."""
    store = MemcachedStore(MemcachedSettings.from_url(server.url))
    pool = store._pools[server.address]
    key = a_key()
    store.create(key, a_record())
    flow = Commands().update(key, a_record(version=2, principal="bob"), base=1)
    connection = pool._connect(time.monotonic() + 5)
    try:
        due = time.monotonic() + 5
        request = flow.send(connection.ask(next(flow), due))
        assert store.touch(key, a_record().accessed_at + 60, a_record().expires_at + 60, base=1) is Written.DONE
        refused = connection.ask(request, due)
        assert refused == b"EXISTS"
        request = flow.send(connection.ask(flow.send(refused), due))
        with pytest.raises(StopIteration) as end:
            flow.send(connection.ask(request, due))
        assert end.value.value is Written.DONE
        found = store.load(key)
        assert found
        assert found.principal == "bob"
    finally:
        connection.close()
        store.close()


def test_a_record_that_others_change_all_the_time_is_unavailable_in_the_end() -> None:
    flow = Commands().touch(a_key(), 1.0, 2.0, base=1)
    item = Item(next(flow).split()[1], frame.pack(a_key(), a_record()), b"5")
    for _ in range(MOST_TRIES - 1):
        flow.send(item)
        flow.send(b"EXISTS")
    flow.send(item)
    with pytest.raises(ErrorReply, match="EXISTS"):
        flow.send(b"EXISTS")


def test_a_compared_delete_is_gone_at_once_and_leaves_nothing(server: MemcachedServer, loop: bool) -> None:
    with calling(server.url, loop=loop) as caller:
        for number in range(200):
            caller.do(Create(a_key(number), a_record()))
            assert caller.do(Delete(a_key(number), 1)) is Written.DONE
            assert server.get(Commands().name(a_key(number))) is None
            assert caller.do(Create(a_key(number), a_record())) is Written.DONE
            assert caller.do(Delete(a_key(number))) is Written.DONE
        assert server.expiries() == {}


# -- how long --------------------------------------------------------------------------------------------------

LIVES = [1, 59, 1800, 30 * DAY - SLACK, 30 * DAY - SLACK + 1, 30 * DAY, 30 * DAY + 1, 31 * DAY, 400 * DAY]


@pytest.mark.parametrize("seconds", LIVES)
def test_a_record_is_kept_for_its_life_and_a_minute(server: MemcachedServer, loop: bool, seconds: int) -> None:
    """Above 30 days memcached reads a number as a date: 30 days and a second would be in January 1970."""
    key, now = a_key(), time.time()
    with calling(server.url, loop=loop) as caller:
        caller.do(Create(key, a_record(accessed_at=now, expires_at=now + seconds)))
        assert caller.do(Load(key)) is not None
        _assert_kept(server, now, seconds)
        caller.do(Touch(key, now + 100, now + 100 + 2 * seconds, 1))
        assert caller.do(Load(key)) is not None
        _assert_kept(server, now, 2 * seconds if 2 * seconds + SLACK <= RELATIVE else 2 * seconds + 100)
        caller.do(Update(key, a_record(version=2, accessed_at=now, expires_at=now + seconds), 1))
        _assert_kept(server, now, seconds)


def _assert_kept(server: MemcachedServer, now: float, seconds: float) -> None:
    (end,) = server.expiries().values()
    assert -2 <= end - (now + seconds + SLACK) <= 3  # memcached's clock goes by seconds, and tells them from its start


def test_a_life_beyond_the_last_date_that_memcached_knows_is_not_over_at_once(server: MemcachedServer) -> None:
    store = MemcachedStore(MemcachedSettings.from_url(server.url))
    for number, (accessed, expires) in enumerate([(time.time(), 2**40), (2**31, 2**31 + 60 * DAY), (2**40, 2**41)]):
        assert store.create(a_key(number), a_record(accessed_at=accessed, expires_at=expires)) is Written.DONE
        assert store.load(a_key(number)) is not None
    assert all(end > time.time() + 29 * DAY for end in server.expiries().values())
    store.close()


@given(st.floats(0, 1e12), st.floats(-1e12, 1e12))
def test_no_record_is_ever_immortal_or_over_at_once(accessed: float, life: float) -> None:
    keep = _keep(accessed, accessed + life)
    assert SLACK <= keep <= LATEST
    assert keep <= RELATIVE or keep >= min(accessed + life, LATEST)


@pytest.mark.parametrize("life", [float("nan"), float("inf")])
def test_a_life_that_is_no_number_is_refused(life: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        _keep(0.0, life)


def test_a_large_record_is_kept_for_its_life_and_touched_whole(server: MemcachedServer, loop: bool) -> None:
    key, now = a_key(), time.time()
    record = a_record(values={"large": bytes(range(256)) * 800}, accessed_at=now, expires_at=now + 1800)
    with calling(server.url, loop=loop) as caller:
        caller.do(Create(key, record))
        assert caller.do(Touch(key, now + 5, now + 3605, 1)) is Written.DONE
        found = caller.do(Load(key))
        assert found is not None
        assert found.values == record.values
        _assert_kept(server, now, 3600)


# -- how large -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_item", [1 << 18, 1 << 20, 3 << 20])
def test_the_largest_session_that_is_accepted_is_stored_and_a_larger_one_is_not_sent(loop: bool, max_item: int) -> None:
    with MemcachedServer(max_item=max_item) as server:
        with calling(f"{server.url}?max_item={max_item}", loop=loop) as caller:
            largest = max_item - OVERHEAD - len("sojourn:") - 64
            assert caller.do(Create(a_key(), _sized(a_key(), largest))) is Written.DONE
            assert caller.do(Load(a_key())) is not None
            for number in (0, 1):
                server.reset()
                for op in (
                    Create(a_key(2), _sized(a_key(2), largest + 1 + number)),
                    Update(a_key(), _sized(a_key(), largest + 1 + number), 1),
                ):
                    with pytest.raises(SessionTooLarge, match=f"takes {largest} at max_item={max_item}"):
                        caller.do(op)
                assert server.commands() == {}
        # What is given away for other versions of memcached is no more than a few bytes.
        key = b"k" * 72
        server.set(key, bytes(max_item - len(key) - OVERHEAD + 5))
        with pytest.raises(Exception, match="too large"):
            server.set(key, bytes(max_item - len(key) - OVERHEAD + 6))


def _sized(key: bytes, size: int) -> Record:
    """Return a record whose frame has *size* bytes."""
    empty = len(frame.pack(key, a_record(values={"x": bytes(70_000)}))) - 70_000
    record = a_record(values={"x": bytes(size - empty)})
    assert len(frame.pack(key, record)) == size
    return record


def test_a_server_with_a_lower_limit_is_named_with_the_cure_and_serves_on(loop: bool) -> None:
    with MemcachedServer(max_item=1 << 18) as server, calling(server.url, loop=loop) as caller:
        caller.do(Create(a_key(), a_record()))
        for op in (
            Create(a_key(2), a_record(values={"x": bytes(300_000)})),
            Update(a_key(), a_record(version=2, values={"x": bytes(300_000)}), 1),
        ):
            with pytest.raises(StoreUnavailable, match=r"object too large.* -I ") as raised:
                caller.do(op)
            assert raised.value.__cause__
        assert caller.do(Load(a_key())) == a_record()


# -- what users write ------------------------------------------------------------------------------------------

HOSTILE = [
    "\r\nflush_all\r\n",
    " ",
    "a b",
    "\0",
    "\x7f",
    "é",
    "者" * 300,
    "\r\nset x 0 0 1\r\nx\r\n",
    "END\r\n",
    "noreply",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_users_write_is_part_of_a_command(server: MemcachedServer, loop: bool, text: str) -> None:
    other, key = a_key(2), a_key()
    record = a_record(values={text: text.encode()}, principal=text[:255])
    with calling(server.url, loop=loop) as caller:
        caller.do(Create(other, secret_of(other)))
        assert caller.do(Create(key, record)) is Written.DONE
        assert caller.do(Load(key)) == record
        assert caller.do(Acquire(key, text.encode(), 0, 5)) is True
        assert caller.do(Release(key, text.encode())) is True
        assert caller.do(Load(other)) == secret_of(other)
        assert len(server.expiries()) == 2
        assert all(name.startswith(b"sojourn:") and len(name) == 72 for name in server.expiries())


def test_two_applications_with_different_prefixes_are_strangers(server: MemcachedServer, loop: bool) -> None:
    with (
        calling(f"{server.url}?prefix=shop:", loop=loop) as shop,
        calling(f"{server.url}?prefix=blog:", loop=loop) as blog,
    ):
        shop.do(Create(a_key(), a_record()))
        assert blog.do(Load(a_key())) is None
        assert blog.do(Delete(a_key())) is Written.GONE
        assert shop.do(Load(a_key())) == a_record()


# -- capabilities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [MemcachedStore, AsyncMemcachedStore])
def test_what_memcached_can_and_cannot_do_is_seen_by_type(store: type) -> None:
    made = store(MemcachedSettings.from_url("memcached://localhost"))
    assert all(isinstance(made, capability) for capability in (Lockable, Examinable))
    assert not any(isinstance(made, capability) for capability in (Batched, Indexed, Scannable, Purgeable))


def test_a_lock_is_one_owners_until_that_gives_it_back(server: MemcachedServer, loop: bool) -> None:
    key, now = a_key(), time.time()
    with calling(server.url, loop=loop) as caller:
        answers = caller.all([Acquire(key, bytes([n]), now, now + 30) for n in range(16)])
        assert answers.count(True) == 1
        owner = bytes([answers.index(True)])
        assert caller.do(Release(key, b"another")) is False
        assert caller.do(Acquire(key, b"another", now, now + 30)) is False
        assert caller.do(Release(key, owner)) is True
        assert caller.do(Release(key, owner)) is False
        assert caller.do(Acquire(key, b"another", now, now + 30)) is True


def test_a_lock_hinders_no_verb_and_is_no_session(server: MemcachedServer, loop: bool) -> None:
    key, now = a_key(), time.time()
    with calling(server.url, loop=loop) as caller:
        assert caller.do(Acquire(key, b"me", now, now + 30)) is True
        assert caller.do(Load(key)) is None
        assert caller.do(Create(key, a_record())) is Written.DONE
        assert caller.do(Update(key, a_record(version=2), 1)) is Written.DONE
        assert caller.do(Delete(key, 2)) is Written.DONE
        assert caller.do(Release(key, b"me")) is True


def test_the_lock_of_a_dead_holder_is_free_after_its_time_and_not_before(server: MemcachedServer, loop: bool) -> None:
    with calling(server.url, loop=loop) as caller:
        for number in range(3):
            began = time.time()
            assert caller.do(Acquire(a_key(number), b"dead", began, began + 0.9)) is True
            until(lambda n=number: caller.do(Acquire(a_key(n), b"next", 0, 30)), "the lock is free", 5)  # type: ignore[misc]
            assert 0.9 <= time.time() - began <= 0.9 + 3.2


# -- other ways to a server ------------------------------------------------------------------------------------


def test_a_unix_socket_serves_both_colours(loop: bool) -> None:
    with UnixServer() as server, calling(f"memcached+unix://{server.socket}", loop=loop) as caller:
        assert caller.do(Create(a_key(), a_record())) is Written.DONE
        assert caller.do(Update(a_key(), a_record(version=2), 1)) is Written.DONE
        assert caller.do(Load(a_key())) == a_record(version=2)


def test_tls_serves_both_colours_and_verifies_the_server(loop: bool, tmp_path: Path) -> None:
    files = issue(tmp_path)
    with TlsServer(files) as server:
        url = f"memcacheds://localhost:{server.tls_port}"
        with calling(f"{url}?ca={files.authority}&timeout=5", loop=loop) as caller:
            for number in range(20):
                assert caller.do(Create(a_key(number), a_record(values={"x": bytes(50_000)}))) is Written.DONE
                assert caller.do(Touch(a_key(number), 2e9, 2e9 + 60, 1)) is Written.DONE
                assert caller.do(Load(a_key(number))).values == {"x": bytes(50_000)}
            assert all(caller.all([Load(a_key(number)) for number in range(20)]))
            assert caller.do(Load(a_key(99))) is None
        with (
            calling(f"{url}?timeout=5", loop=loop) as caller,
            pytest.raises(StoreUnavailable, match="not trusted") as raised,
        ):
            caller.do(Load(a_key()))
        assert raised.value.__cause__
        with (
            calling(f"memcacheds://localhost:{server.port}?ca={files.authority}", loop=loop) as caller,
            pytest.raises(StoreUnavailable, match=r"TLS|reached|answer"),
        ):
            caller.do(Load(a_key()))


def test_servers_share_the_sessions_and_each_is_on_one(servers: MemcachedServers, loop: bool) -> None:
    with calling(servers.url, loop=loop) as caller:
        keys = [a_key(number) for number in range(300)]
        caller.all([Create(key, secret_of(key)) for key in keys])
        assert caller.all([Load(key) for key in keys]) == [secret_of(key) for key in keys]
        held = [set(server.expiries()) for server in servers]
        assert sum(map(len, held)) == 300
        assert all(60 < len(names) < 140 for names in held)
