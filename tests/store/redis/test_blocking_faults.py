"""RedisStore when servers, networks and callers misbehave: deadlines hold, and no reply reaches another call.

Each session has its own key in its record, so that an answer to another request is seen.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from time import monotonic
from typing import Any

import pytest
import redis
from tests.servers.process import until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

from sojourn.core.ops import Written
from sojourn.errors import StoreUnavailable
from sojourn.store.redis.blocking import RedisStore
from sojourn.store.redis.settings import RedisSettings
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

pytestmark = pytest.mark.slow

TIMEOUT = 0.5
MARGIN = 1.0  # seconds that a busy machine may take to let a thread run
KEYS = [a_key(number) for number in range(50)]


def own(number: int, **changes: Any) -> Any:
    """Return a record that says whose it is; its frame has about four kilobytes."""
    return a_record(values={"secret": KEYS[number], "more": bytes(4000)}, **changes)


def store_at(place: str, query: str = "") -> RedisStore:
    return RedisStore.from_settings(
        RedisSettings.from_url(f"redis://{place}?{query if 'timeout' in query else f'timeout={TIMEOUT}&{query}'}")
    )


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """A server on which everybody has a session."""
    redis_server.fresh()
    with closing(store_at(redis_server.address)) as store:
        for number, key in enumerate(KEYS):
            store.create(key, own(number))
    return redis_server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    """A network before that server."""
    with Proxy(server.port) as proxy:
        yield proxy


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds *work* took, and what it answered or raised."""
    began = monotonic()
    try:
        answer = work()
    except StoreUnavailable as error:
        answer = error
    return monotonic() - began, answer


def everybody_finds_their_own(store: RedisStore) -> bool:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(store.load, KEYS * 4)) == [own(number) for number in range(len(KEYS))] * 4


# -- a server that hangs -------------------------------------------------------------------------------------------


def test_a_hung_server_costs_one_timeout_and_no_more(server: RedisServer) -> None:
    """Forty threads on a pool of eight: those that wait for a connection wait no longer than those that have one."""
    with closing(store_at(server.address, "pool=8")) as store, ThreadPoolExecutor(40) as pool:
        assert everybody_finds_their_own(store)
        server.pause()
        try:
            results = list(pool.map(lambda number: timed(lambda: store.load(KEYS[number])), range(40)))
        finally:
            server.resume()
        assert all(isinstance(answer, StoreUnavailable) for _, answer in results)
        assert max(seconds for seconds, _ in results) < TIMEOUT + MARGIN
        assert any("did not answer within 0.5 s" in str(answer) for _, answer in results)
        assert any("became free within 0.5 s" in str(answer) for _, answer in results)
        assert everybody_finds_their_own(store)
        assert server.admin.info("clients")["connected_clients"] <= 8 + 1


def test_a_hung_server_costs_a_lent_client_twice_its_timeout_at_most(server: RedisServer) -> None:
    pool = redis.BlockingConnectionPool(
        max_connections=8, timeout=TIMEOUT, port=server.port, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
    )
    store = RedisStore(pool)
    with closing(pool), ThreadPoolExecutor(40) as threads:
        assert everybody_finds_their_own(store)
        server.pause()
        try:
            results = list(threads.map(lambda number: timed(lambda: store.load(KEYS[number])), range(40)))
        finally:
            server.resume()
        assert all(isinstance(answer, StoreUnavailable) for _, answer in results)
        assert max(seconds for seconds, _ in results) < 2 * TIMEOUT + MARGIN
        assert everybody_finds_their_own(store)


def test_every_verb_has_the_deadline(server: RedisServer) -> None:
    with closing(store_at(server.address)) as store:
        store.load(KEYS[0])
        verbs: list[Callable[[], object]] = [
            lambda: store.load(KEYS[0]),
            lambda: store.create(a_key(999), own(0)),
            lambda: store.update(KEYS[0], own(0, version=2), 1),
            lambda: store.touch(KEYS[0], START, START + 60, 1),
            lambda: store.delete(KEYS[0], 1),
            lambda: store.load_many(KEYS),
            lambda: store.delete_many([a_key(999)]),
            lambda: store.scan(),
            lambda: store.enlist(b"t" * 32, KEYS[0], START, START + 60),
            lambda: store.delist(b"t" * 32, [KEYS[0]]),
            lambda: store.find(b"t" * 32),
            lambda: store.acquire(KEYS[0], b"me", START, START + 60),
            lambda: store.release(KEYS[0], b"me"),
            lambda: store.examine(),
        ]
        server.pause()
        try:
            with ThreadPoolExecutor(len(verbs)) as pool:
                results = list(pool.map(timed, verbs))
        finally:
            server.resume()
        assert all(isinstance(answer, StoreUnavailable) for _, answer in results)
        assert max(seconds for seconds, _ in results) < TIMEOUT + MARGIN


def test_a_value_too_large_for_the_network_s_buffers_has_the_deadline(server: RedisServer) -> None:
    large = a_record(values={"large": bytes(32 << 20)})
    with closing(store_at(server.address)) as store:
        store.load(KEYS[0])
        server.pause()
        try:
            seconds, answer = timed(lambda: store.create(a_key(999), large))
        finally:
            server.resume()
        assert isinstance(answer, StoreUnavailable)
        assert seconds < 2 * TIMEOUT + MARGIN
        assert everybody_finds_their_own(store)


# -- a network that cuts, resets and delays ------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["cut", "reset"])
@pytest.mark.parametrize("after", [0, 1, 5, 100, 4000])
def test_a_reply_that_ends_in_the_middle_is_no_reply(proxy: Proxy, after: int, reset: bool) -> None:
    """Connections that are new, as those after a cut in the middle; a load is not repeated on them."""
    with closing(store_at(proxy.address)) as store:
        proxy.cut_replies(after, reset=reset)
        for number in (1, 2):
            seconds, answer = timed(lambda number=number: store.load(KEYS[number]))
            assert isinstance(answer, StoreUnavailable)
            assert seconds < TIMEOUT + MARGIN
        proxy.heal()
        assert everybody_finds_their_own(store)


@pytest.mark.parametrize("reset", [False, True], ids=["cut", "reset"])
def test_a_read_is_repeated_once_when_the_connection_turns_out_to_be_dead(proxy: Proxy, reset: bool) -> None:
    with closing(store_at(proxy.address)) as store:
        assert store.load(KEYS[0]) == own(0)
        proxy.cut_replies(0, reset=reset, once=True)
        assert store.load(KEYS[1]) == own(1)
        assert proxy.connections == 2


@pytest.mark.parametrize("reset", [False, True], ids=["cut", "reset"])
def test_a_write_is_never_repeated(proxy: Proxy, server: RedisServer, reset: bool) -> None:
    """The server has executed it and the reply is lost: the store says that it does not know."""
    with closing(store_at(proxy.address)) as store:
        assert store.update(KEYS[0], own(0, version=2), 1) is Written.DONE
        server.reset()
        for write in (
            lambda: store.update(KEYS[0], own(0, version=3), 2),
            lambda: store.create(a_key(999), own(0)),
            lambda: store.delete(KEYS[1]),
        ):
            assert store.load(KEYS[2]) == own(2)  # over a connection that is open when the reply is cut
            proxy.cut_replies(0, reset=reset, once=True)
            assert isinstance(timed(write)[1], StoreUnavailable)  # type: ignore[arg-type]
        assert store.load(KEYS[0]) == own(0, version=3)
        assert store.load(a_key(999)) == own(0)
        assert store.load(KEYS[1]) is None
        ran = server.commands()
        assert (ran["evalsha"], ran["set"], ran["unlink"]) == (1, 2, 1)  # one SET is the script's


def test_a_connection_that_was_closed_while_idle_is_replaced_silently(proxy: Proxy, server: RedisServer) -> None:
    with closing(store_at(proxy.address)) as store:
        for reset in (False, True):
            assert store.update(KEYS[0], own(0), 1) is Written.DONE
            before = proxy.connections
            proxy.drop(reset=reset)
            if reset:
                until(lambda: not proxy.open, "the connection is reset")
            else:  # which the proxy keeps until we close it, too
                until(lambda: server.admin.info("clients")["connected_clients"] == 1, "the connection is cut")
            assert store.update(KEYS[0], own(0), 1) is Written.DONE
            assert proxy.connections == before + 1


def test_a_reply_after_the_deadline_reaches_nobody(proxy: Proxy) -> None:
    with closing(store_at(proxy.address, "pool=2")) as store:
        assert store.load(KEYS[0]) == own(0)
        proxy.hold_replies()
        with ThreadPoolExecutor(2) as pool:
            late = list(pool.map(lambda number: timed(lambda: store.load(KEYS[number])), (1, 2)))
        assert all(isinstance(answer, StoreUnavailable) for _, answer in late)
        assert max(seconds for seconds, _ in late) < TIMEOUT + MARGIN
        proxy.release()
        assert everybody_finds_their_own(store)


def test_slow_replies_within_the_deadline_are_replies(proxy: Proxy) -> None:
    with closing(store_at(proxy.address, "pool=4")) as store:
        assert store.load(KEYS[0]) == own(0)
        proxy.delay_replies(TIMEOUT / 10)
        assert store.load(KEYS[1]) == own(1)


def test_when_nobody_listens_the_answer_is_quick_and_the_return_is_noticed(proxy: Proxy) -> None:
    with closing(store_at(proxy.address)) as store:
        assert store.load(KEYS[0]) == own(0)
        proxy.refuse()
        proxy.drop()
        for _ in range(3):
            seconds, answer = timed(lambda: store.load(KEYS[0]))
            assert isinstance(answer, StoreUnavailable)
            assert seconds < TIMEOUT + MARGIN
        proxy.accept()
        assert store.load(KEYS[0]) == own(0)


# -- callers that stop in the middle -------------------------------------------------------------------------------


class Interrupted(BaseException):
    """What a signal or another thread raises in the middle of anything."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_while_the_reply_is_awaited_leaves_no_reply_behind(proxy: Proxy) -> None:
    with closing(store_at(proxy.address, "pool=1")) as store:
        assert store.load(KEYS[0]) == own(0)
        for number in range(1, 6):
            proxy.hold_replies()
            with pytest.raises(Interrupted), interrupted_after(0.02):
                store.load(KEYS[number])
            proxy.release()
            assert store.load(KEYS[0]) == own(0)
        assert everybody_finds_their_own(store)


@pytest.mark.parametrize("fresh", [False, True], ids=["connected", "connecting"])
def test_an_interrupt_at_any_moment_leaves_no_reply_behind_and_loses_no_connection(
    server: RedisServer, fresh: bool
) -> None:
    """Of a pool of two: were places lost in two of a thousand calls, the next one would find none.

    In a child, since what is interrupted in a destructor is reported, and pytest keeps such reports with all they hold.
    """

    def work() -> bool:
        sys.unraisablehook = lambda _: None
        warnings.simplefilter("ignore", ResourceWarning)  # the driver leaves a socket to the collector of garbage
        store, right = store_at(server.address, "pool=2"), True
        store.load(KEYS[0])
        for step in range(1000):
            if fresh:
                store.close()
            with suppress(Interrupted), interrupted_after(0.00001 * (1 + step % 80)):
                store.load(KEYS[step % 50])
            other = (step + 7) % 50
            right &= store.load(KEYS[other]) == own(other)
        return right and everybody_finds_their_own(store)

    assert in_child(work)() == 0


def test_an_exception_from_another_thread_leaves_no_reply_behind(proxy: Proxy) -> None:
    """As servers do that end a worker's thread when a request takes too long."""
    import ctypes

    ended: list[type[BaseException] | None] = []
    with closing(store_at(proxy.address, "pool=1")) as store:
        assert store.load(KEYS[0]) == own(0)
        proxy.hold_replies()

        def request() -> None:
            try:
                store.load(KEYS[1])
            except BaseException as error:
                ended.append(type(error))

        thread = threading.Thread(target=request)
        thread.start()
        assert thread.ident
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))
        thread.join(5)
        proxy.release()
        assert len(ended) == 1
        assert everybody_finds_their_own(store)


# -- forks ---------------------------------------------------------------------------------------------------------


def test_children_of_a_fork_use_connections_of_their_own(server: RedisServer) -> None:
    """As a server does that loads the application first and forks its workers then."""
    with closing(store_at(server.address)) as store:
        assert everybody_finds_their_own(store)
        children = [in_child(lambda: everybody_finds_their_own(store)) for _ in range(4)]
        mine = [everybody_finds_their_own(store) for _ in range(5)]
        assert [child() for child in children] == [0] * 4
        assert all(mine)
        assert everybody_finds_their_own(store)


def test_a_fork_while_other_threads_are_in_the_middle_of_calls(server: RedisServer) -> None:
    """Their connections are not used in the child, and their places are not missed there."""
    with closing(store_at(server.address, "pool=2&timeout=5")) as store:
        over = threading.Event()

        def work() -> bool:
            right = True
            while not over.is_set():
                right &= store.load(KEYS[0]) == own(0)
            return right

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(work) for _ in range(4)]
            codes = [
                in_child(lambda: [store.load(key) for key in KEYS] == [own(n) for n in range(50)])() for _ in range(8)
            ]
            over.set()
            assert all(worker.result() for worker in workers)
        assert codes == [0] * 8


def in_child(work: Callable[[], bool]) -> Callable[[], int]:
    """Run *work* in a fork; return what waits for it and tells its exit code: 0 when it answered True."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(30)
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
