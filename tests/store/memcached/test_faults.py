"""What happens when a memcached dies, hangs, restarts empty or fills up, or the network fails; in both colours.

Each record carries its own key as a secret, so that a reply to another request would show.
"""

from __future__ import annotations

import gc
import socket
import time
import tracemalloc
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest
from tests.servers.memcached import MemcachedServer, MemcachedServers
from tests.servers.process import until
from tests.servers.proxy import Proxy
from tests.store.memcached.callers import THREADS, Caller, GuardedServer, calling, secret_of

from sojourn.core.ops import Create, Delete, Load, Touch, Update, Written
from sojourn.errors import StoreUnavailable
from sojourn.store.memcached.placement import Placement
from sojourn.testing.store_contract import a_key

pytestmark = pytest.mark.slow

KEYS = [a_key(number) for number in range(60)]
TIMEOUT = 0.5  # seconds that a call has here
MARGIN = 1.0  # seconds that a busy machine may need beyond it


@pytest.fixture
def proxy(server: MemcachedServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def through(proxy: Proxy, query: str = "") -> str:
    return f"memcached://{proxy.address}?timeout={TIMEOUT}{query}"


def share_of(servers: MemcachedServers, index: int) -> tuple[list[bytes], list[bytes]]:
    """Return the keys of one of the *servers*, and those of the others."""
    placement = Placement([server.address for server in servers])
    its = [key for key in KEYS if placement.server_of(key) == servers[index].address]
    return its, [key for key in KEYS if key not in its]


def assert_all_there(caller: Caller, keys: list[bytes]) -> None:
    assert caller.all([Load(key) for key in keys]) == [secret_of(key) for key in keys]


def assert_none_answers(caller: Caller, keys: list[bytes]) -> None:
    for ops in (
        [Load(key) for key in keys],
        [Update(key, secret_of(key, version=2), 1) for key in keys],
        [Touch(key, 2e9, 2e9 + 9, 1) for key in keys],
        [Delete(key, 1) for key in keys],
    ):
        answers = caller.all(ops)
        assert all(isinstance(answer, StoreUnavailable) and answer.__cause__ for answer in answers), answers


# -- servers -----------------------------------------------------------------------------------------------------


def test_a_killed_server_makes_its_share_unavailable_and_no_other(servers: MemcachedServers, loop: bool) -> None:
    its, others = share_of(servers, 1)
    with calling(f"{servers.url}?timeout=2", loop=loop) as caller:
        caller.all([Create(key, secret_of(key)) for key in KEYS])
        servers[1].kill()
        assert_none_answers(caller, its)
        assert_all_there(caller, others)
        answers = caller.all([Create(key, secret_of(key)) for key in its])
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        held = {name for server in (servers[0], servers[2]) for name in server.dump()}
        assert not any(key.hex().encode() in b"".join(held) for key in its), "no other server takes the share over"


def test_a_server_that_restarts_empty_has_no_sessions_and_revives_none(servers: MemcachedServers, loop: bool) -> None:
    its, others = share_of(servers, 1)
    with calling(f"{servers.url}?timeout=2", loop=loop) as caller:
        caller.all([Create(key, secret_of(key)) for key in KEYS])
        ended = [*its[:5], *others[:5]]
        assert caller.all([Delete(key) for key in ended]) == [Written.DONE] * 10
        servers[1].restart(keep_data=False)
        assert caller.all([Load(key) for key in its]) == [None] * len(its)
        assert caller.all([Load(key) for key in ended]) == [None] * 10
        assert_all_there(caller, others[5:])
        # Whoever still has a record in hand is told that it is over, and brings nothing back.
        assert set(caller.all([Update(key, secret_of(key, version=2), 1) for key in its])) == {Written.GONE}
        assert set(caller.all([Touch(key, 2e9, 2e9 + 9, 1) for key in its])) == {Written.GONE}
        assert servers[1].dump() == {}


def test_a_connection_that_the_server_closed_while_idle_is_replaced_silently(
    server: MemcachedServer, loop: bool
) -> None:
    with calling(f"{server.url}?timeout=2", loop=loop) as caller:
        for number in range(3):
            assert caller.do(Create(a_key(number), secret_of(a_key(number)))) is Written.DONE
            server.restart(keep_data=False)
            assert caller.do(Load(a_key(number))) is None


def test_a_hung_server_costs_its_callers_one_timeout_and_others_nothing(servers: MemcachedServers, loop: bool) -> None:
    its, others = share_of(servers, 1)
    url = f"{servers.url}?timeout={TIMEOUT}&pool=8"
    with calling(url, loop=loop) as caller:
        caller.all([Create(key, secret_of(key)) for key in KEYS])
        assert_all_there(caller, KEYS)
        servers[1].pause()
        began = time.monotonic()
        answers = caller.all([Load(its[number % len(its)]) for number in range(THREADS)])
        assert time.monotonic() - began < 2 * TIMEOUT + MARGIN
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert_all_there(caller, others)  # within their own timeouts, or they would be unavailable
        servers[1].resume()
        assert_all_there(caller, KEYS)


def test_a_server_that_hangs_for_long_takes_no_memory_and_no_connections(server: MemcachedServer) -> None:
    """5,000 calls, most of which are refused at once: what waits is bounded."""
    with calling(f"{server.url}?timeout=0.05", loop=True) as caller:
        caller.do(Create(a_key(), secret_of(a_key())))
        server.pause()
        loads = [Load(a_key())] * 500
        caller.all(loads)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            assert all(isinstance(answer, StoreUnavailable) for answer in caller.all(loads))
        gc.collect()  # what is counted is what is held: raised errors and their frames refer to each other
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 500_000
        server.resume()
        until(lambda: caller.all([Load(a_key())]) == [secret_of(a_key())], "it serves again")
        assert int(server.stats()["curr_connections"]) < 10


def test_calls_beyond_a_bound_are_refused_at_once(server: MemcachedServer) -> None:
    with calling(f"{server.url}?timeout=1", loop=True) as caller:
        caller.do(Create(a_key(), secret_of(a_key())))
        server.pause()
        answers = caller.all([Load(a_key())] * 5000)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        refused = [answer for answer in answers if "too many calls" in str(answer)]
        assert 800 < len(refused) < 1000
        server.resume()


def test_a_full_pool_is_waited_for_and_not_longer_than_the_timeout(server: MemcachedServer) -> None:
    with calling(f"{server.url}?timeout=5&pool=1", loop=False) as caller:
        keys = KEYS[:40]
        caller.all([Create(key, secret_of(key)) for key in keys])
        assert_all_there(caller, keys)
        assert int(server.stats()["curr_connections"]) <= 4  # ours, the one that asks, and what the listener counts
    with calling(f"{server.url}?timeout={TIMEOUT}&pool=1", loop=False) as caller:
        assert caller.do(Load(keys[0])) == secret_of(keys[0])
        server.pause()
        began = time.monotonic()
        answers = caller.all([Load(keys[0])] * 8)
        took = time.monotonic() - began
        server.resume()
        # The one that has the connection gives it back when the others' time is over, too: some may still get it.
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert took < TIMEOUT + MARGIN, "nobody waits for the connection and then for the server"


def test_a_server_that_takes_no_more_connections_is_unavailable_and_says_so(loop: bool) -> None:
    with MemcachedServer(options=["-c", "50"]) as server, calling(f"{server.url}?timeout=1", loop=loop) as caller:
        crowd = [socket.create_connection(("127.0.0.1", server.port), 2) for _ in range(80)]
        try:
            with pytest.raises(StoreUnavailable, match=r"Too many open connections|reached|closed"):
                caller.do(Load(a_key()))
        finally:
            for one in crowd:
                one.close()
        until(lambda: caller.all([Load(a_key())]) == [None], "there is room again")


def test_a_server_without_compare_and_swap_loses_nothing_silently(loop: bool) -> None:
    with MemcachedServer(options=["-C"]) as server, calling(server.url, loop=loop) as caller:
        key = a_key()
        assert caller.do(Create(key, secret_of(key))) is Written.DONE
        for op in (Update(key, secret_of(key, version=2), 1), Touch(key, 2e9, 2e9 + 9, 1), Delete(key, 1)):
            with pytest.raises(StoreUnavailable, match="without -C"):
                caller.do(op)
        assert caller.do(Load(key)) == secret_of(key)


def test_a_server_that_wants_a_password_is_named_with_the_cure(loop: bool, tmp_path: Any) -> None:
    users = tmp_path / "users"
    users.write_text("user:password\n")
    with (
        GuardedServer(options=["-Y", str(users)]) as server,
        calling(server.url, loop=loop) as caller,
        pytest.raises(StoreUnavailable, match="wants a password"),
    ):
        caller.do(Load(a_key()))


def test_a_full_memcached_forgets_sessions_and_never_mixes_them_up(loop: bool) -> None:
    """It evicts what was not used for longest. Its visitors are anonymous; there is no error and no foreign record."""
    with MemcachedServer(memory=8) as server, calling(f"{server.url}?timeout=5", loop=loop) as caller:
        keys = [a_key(number) for number in range(6000)]
        records = {key: secret_of(key)._replace(values={"secret": key, "more": bytes(2500)}) for key in keys}
        for at in range(0, len(keys), 200):
            answers = caller.all([Create(key, records[key]) for key in keys[at : at + 200]])
            assert set(answers) == {Written.DONE}
        found = [
            (key, record) for at in range(0, len(keys), 200) for key, record in _loaded(caller, keys[at : at + 200])
        ]
        assert all(record is None or record == records[key] for key, record in found)
        kept = sum(record is not None for _, record in found) / len(keys)
        evicted = int(server.stats()["evictions"])
        assert evicted > 0
        assert 0.2 < kept < 0.8
        assert abs((1 - kept) * len(keys) - evicted) < 10
        (finding,) = server_findings(caller)
        assert "evicted" in finding.what
        assert "-m 8" in finding.what


def test_a_full_server_that_may_not_evict_refuses_writes_and_lets_sessions_be_read_and_end(loop: bool) -> None:
    with MemcachedServer(memory=8, options=["-M"]) as server, calling(f"{server.url}?timeout=5", loop=loop) as caller:
        keys = [a_key(number) for number in range(4000)]
        records = {key: secret_of(key)._replace(values={"secret": key, "more": bytes(2500)}) for key in keys}
        ops = [Create(key, records[key]) for key in keys]
        answers = [answer for at in range(0, 4000, 200) for answer in caller.all(ops[at : at + 200])]
        kept = [key for key, answer in zip(keys, answers, strict=True) if answer is Written.DONE]
        refused = [answer for answer in answers if answer is not Written.DONE]
        assert 2000 < len(kept) < 3500
        assert all("out of memory" in str(answer) and "-M" in str(answer) for answer in refused)
        some = kept[:100]
        assert caller.all([Load(key) for key in some]) == [records[key] for key in some]
        for op in (Touch(some[0], 2e9, 2e9 + 900, 1), Update(some[0], records[some[0]]._replace(version=2), 1)):
            with pytest.raises(StoreUnavailable, match="out of memory"):
                caller.do(op)
        assert caller.do(Load(some[0])) == records[some[0]]
        assert caller.all([Delete(key, 1) for key in some[:50]]) == [Written.DONE] * 50
        assert caller.all([Delete(key) for key in some[50:]]) == [Written.DONE] * 50
        assert caller.do(Create(keys[-1], records[keys[-1]])) is Written.DONE


def _loaded(caller: Caller, keys: list[bytes]) -> list[tuple[bytes, Any]]:
    return list(zip(keys, caller.all([Load(key) for key in keys]), strict=True))


def server_findings(caller: Caller) -> list[Any]:
    class Examine:
        def on(self, store: Any) -> Any:
            return store.examine()

    found: list[Any] = caller.do(Examine())
    return found


# -- the network -------------------------------------------------------------------------------------------------


def test_a_reply_that_is_cut_anywhere_is_unavailable_and_the_next_call_is_right(
    proxy: Proxy, server: MemcachedServer, loop: bool
) -> None:
    a, b = a_key(1), a_key(2)
    with calling(through(proxy), loop=loop) as caller:
        for key in (a, b):
            caller.do(Create(key, secret_of(key)))
        length = len(server.get(b"sojourn:" + a.hex().encode()) or b"") + 85  # of the reply, all but its end
        for after in (0, 1, 5, 40, 90, 100, 150, length):
            for reset in (False, True):
                proxy.cut_replies(after, reset=reset)
                with pytest.raises(StoreUnavailable) as raised:
                    caller.do(Load(a))
                assert raised.value.__cause__
                proxy.heal()
                assert caller.do(Load(b)) == secret_of(b)
                assert caller.do(Load(a)) == secret_of(a)


def test_a_read_is_repeated_once_when_it_finds_its_connection_dead(proxy: Proxy, loop: bool) -> None:
    with calling(through(proxy), loop=loop) as caller:
        caller.do(Create(a_key(), secret_of(a_key())))
        for reset in (False, True):
            proxy.cut_replies(50, reset=reset, once=True)
            assert caller.do(Load(a_key())) == secret_of(a_key())


def test_a_reply_that_comes_too_late_reaches_nobody(proxy: Proxy, loop: bool) -> None:
    a, b = a_key(1), a_key(2)
    with calling(through(proxy, "&pool=1"), loop=loop) as caller:
        for key in (a, b):
            caller.do(Create(key, secret_of(key)))
        for _ in range(3):
            proxy.hold_replies()
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=f"within {TIMEOUT:g} s"):
                caller.do(Load(a))
            assert time.monotonic() - began < TIMEOUT + MARGIN
            proxy.release()
            assert caller.do(Load(b)) == secret_of(b)


def test_two_trips_have_one_deadline(proxy: Proxy, loop: bool) -> None:
    key = a_key()
    with calling(f"memcached://{proxy.address}?timeout=1", loop=loop) as caller:
        caller.do(Create(key, secret_of(key)))
        proxy.delay_replies(0.7)
        with pytest.raises(StoreUnavailable, match="within 1 s"):  # each of the two would end in time
            caller.do(Touch(key, 2e9, 2e9 + 9, 1))


def test_a_write_whose_reply_is_lost_is_unavailable_and_never_sent_again(
    proxy: Proxy, server: MemcachedServer, loop: bool
) -> None:
    with calling(through(proxy), loop=loop) as caller:
        for number, reset in enumerate((False, True)):
            caller.do(Load(a_key()))
            server.reset()
            proxy.cut_replies(0, reset=reset, once=True)
            with pytest.raises(StoreUnavailable):
                caller.do(Create(a_key(number), secret_of(a_key(number))))
            assert caller.do(Create(a_key(number), secret_of(a_key(number)))) is Written.EXISTS
            assert server.commands() == {"set": 2}


def test_a_network_that_swallows_requests_costs_one_timeout(proxy: Proxy, loop: bool) -> None:
    with calling(through(proxy), loop=loop) as caller:
        caller.do(Load(a_key()))
        proxy.hold_requests()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            caller.do(Create(a_key(), secret_of(a_key())._replace(values={"x": bytes(900_000)})))
        assert time.monotonic() - began < TIMEOUT + MARGIN
        proxy.heal()
        until(lambda: not isinstance(caller.all([Load(a_key(2))])[0], StoreUnavailable), "it serves again")


def test_a_refused_connection_is_unavailable_and_the_next_call_tries_again(proxy: Proxy, loop: bool) -> None:
    with calling(through(proxy), loop=loop) as caller:
        proxy.refuse()
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="cannot be reached") as raised:
                caller.do(Load(a_key()))
            assert isinstance(raised.value.__cause__, OSError)
        proxy.accept()
        assert caller.do(Load(a_key())) is None


def test_replies_that_drip_end_at_the_deadline_all_the_same(proxy: Proxy, server: MemcachedServer, loop: bool) -> None:
    """A time limit on each read would never end here: something comes all the time."""
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                while not over.wait(0.02):
                    try:
                        connection.sendall(b"V")
                    except OSError:
                        return

        thread = Thread(target=drip)
        thread.start()
        try:
            url = f"memcached://127.0.0.1:{listener.getsockname()[1]}?timeout={TIMEOUT}"
            with calling(url, loop=loop) as caller:
                began = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    caller.do(Load(a_key()))
                # On a loop half as much again is granted while something comes in: the loop may have stood still.
                assert time.monotonic() - began < 1.5 * TIMEOUT + MARGIN
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"VALUE x\r\n", b"END\r\nEND\r\n", b"OK\r\n"]
)
def test_another_kind_of_server_is_unavailable_and_no_miss(loop: bool, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)
                connection.recv(1000)

        thread = Thread(target=serve)
        thread.start()
        url = f"memcached://127.0.0.1:{listener.getsockname()[1]}?timeout=2"
        with calling(url, loop=loop) as caller, pytest.raises(StoreUnavailable, match="see whether it is a memcached"):
            caller.do(Create(a_key(), secret_of(a_key())))
        thread.join()
