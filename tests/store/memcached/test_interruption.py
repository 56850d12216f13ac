"""Calls that end early, forks, loops and threads: no reply ever reaches another call, and nothing is used up."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from tests.servers.memcached import MemcachedServer
from tests.servers.process import until
from tests.servers.proxy import Proxy
from tests.store.memcached.callers import calling, secret_of

from sojourn.core.ops import Create, Delete, Load, Op, Touch, Update
from sojourn.core.record import Record
from sojourn.drive import aperform
from sojourn.errors import StoreUnavailable
from sojourn.store.memcached.blocking import MemcachedStore
from sojourn.store.memcached.loop import AsyncMemcachedStore
from sojourn.store.memcached.settings import MemcachedSettings
from sojourn.testing.store_contract import a_key

pytestmark = pytest.mark.slow

KEYS = [a_key(number) for number in range(50)]


class Stop(BaseException):
    """What a signal handler, or a greenlet's timeout, raises in the middle of anything."""


@pytest.fixture
def filled(server: MemcachedServer) -> MemcachedServer:
    with calling(server.url, loop=False) as caller:
        caller.all([Create(key, secret_of(key)) for key in KEYS])
    return server


def blocking(url: str, query: str = "") -> MemcachedStore:
    return MemcachedStore(MemcachedSettings.from_url(f"{url}?timeout=5{query}"))


# -- blocking ----------------------------------------------------------------------------------------------------


def test_an_interrupt_in_mid_reply_leaves_no_stale_reply_and_uses_up_no_connection(filled: MemcachedServer) -> None:
    with Proxy(filled.port) as proxy, raising_on_alarm():
        store = blocking(f"memcached://{proxy.address}", "&pool=1")
        assert store.load(KEYS[0]) == secret_of(KEYS[0])
        for _ in range(5):
            proxy.hold_replies()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Stop):
                store.load(KEYS[0])
            proxy.release()
            assert store.load(KEYS[1]) == secret_of(KEYS[1])
        store.close()


@contextmanager
def raising_on_alarm() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# A socket whose thread is interrupted in the very moment of its birth is closed when it is collected, with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_threads_that_are_interrupted_at_any_moment_never_see_a_foreign_record(filled: MemcachedServer) -> None:
    store, over, wrong = blocking(filled.url, "&pool=200"), threading.Event(), []
    interrupt, interrupts = ctypes.pythonapi.PyThreadState_SetAsyncExc, 0

    def visit(key: bytes) -> None:
        while not over.is_set():
            with suppress(Stop):
                if (found := store.load(key)) != secret_of(key):
                    wrong.append((key, found))

    threads = [threading.Thread(target=shielded(visit), args=(key,)) for key in KEYS[:4]]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        for thread in threads:
            assert thread.ident
            interrupts += interrupt(ctypes.c_ulong(thread.ident), ctypes.py_object(Stop))
        time.sleep(0.002)
    over.set()
    for thread in threads:
        thread.join()
    assert interrupts > 1000
    assert wrong == []
    assert store.load(KEYS[9]) == secret_of(KEYS[9])
    store.close()
    gc.collect()


def shielded(visit: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return *visit*, begun again when it is interrupted outside of its own guard."""

    def run(key: bytes) -> None:
        while True:
            try:
                visit(key)
            except Stop:
                continue
            return

    return run


def test_many_threads_see_their_own_records(filled: MemcachedServer) -> None:
    store, wrong = blocking(filled.url, "&pool=5"), []

    def visit(key: bytes) -> None:
        for number in range(100):
            if store.load(key) != secret_of(key, accessed_at=secret_of(key).accessed_at + number):
                wrong.append(key)
            store.touch(key, secret_of(key).accessed_at + number + 1, secret_of(key).expires_at, 1)

    threads = [threading.Thread(target=visit, args=(key,)) for key in KEYS[:20]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads, which is what is tested
def test_a_forked_worker_uses_connections_of_its_own(filled: MemcachedServer) -> None:
    """Two processes on one connection would read each other's replies."""
    store = blocking(filled.url)
    assert store.load(KEYS[0]) == secret_of(KEYS[0])

    def work(keys: list[bytes]) -> bool:
        return all(store.load(key) == secret_of(key) for _ in range(200) for key in keys)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=lambda n=n: os._exit(not work(KEYS[n : n + 5]))) for n in (5, 10, 15)]
    for child in children:
        child.start()
    assert work(KEYS[:5])
    for child in children:
        child.join(30)
        assert child.exitcode == 0
        child.close()
    store.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_all_connections_are_in_use_leaves_the_child_a_whole_pool(filled: MemcachedServer) -> None:
    with Proxy(filled.port) as proxy:
        store = blocking(f"memcached://{proxy.address}", "&pool=1")
        store.load(KEYS[0])
        proxy.hold_replies()
        busy = threading.Thread(target=lambda: store.load(KEYS[0]))
        busy.start()
        until(lambda: proxy.held > 0, "a reply is on its way")
        child = os.fork()
        if child == 0:
            settings = MemcachedSettings.from_url(filled.url)
            next(iter(store._pools.values()))._address = settings.addresses[0]  # the proxy holds back all replies
            os._exit(store.load(KEYS[1]) != secret_of(KEYS[1]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        proxy.release()
        busy.join()
        store.close()


def test_a_closed_store_opens_again(filled: MemcachedServer) -> None:
    store = blocking(filled.url)
    for _ in range(3):
        assert store.load(KEYS[0]) == secret_of(KEYS[0])
        store.close()
        store.close()


# -- on an event loop --------------------------------------------------------------------------------------------


def operations() -> list[Callable[[bytes], Op]]:
    return [
        Load,
        lambda key: Create(key, secret_of(key)),
        lambda key: Update(key, secret_of(key), 1),
        lambda key: Touch(key, 2e9, 2e9 + 900, 1),
        lambda key: Delete(key, 99),
    ]


@pytest.mark.parametrize("warm", [True, False], ids=["connected", "not connected yet"])
def test_a_task_cancelled_at_every_await_leaves_its_reply_to_nobody(filled: MemcachedServer, warm: bool) -> None:
    """For each number of turns of the loop, until the operation is quicker; meanwhile 50 tasks read their own."""
    settings = MemcachedSettings.from_url(f"{filled.url}?timeout=5")
    victim = KEYS[0]

    async def once(make: Callable[[bytes], Op], turns: int) -> bool:
        store = AsyncMemcachedStore(settings)
        if warm:
            await store.load(victim)
        others = [asyncio.ensure_future(reads_its_own(store, key)) for key in KEYS[1:]]
        task = asyncio.ensure_future(aperform(make(victim), store))
        for _ in range(turns):
            await asyncio.sleep(0)
        late = not task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert all(await asyncio.gather(*others))
        assert all([await reads_its_own(store, key) for key in KEYS[1:4]])
        await store.aclose()
        return late

    async def reads_its_own(store: AsyncMemcachedStore, key: bytes) -> bool:
        return await store.load(key) == secret_of(key)

    for make in operations():
        turns = 0
        while asyncio.run(once(make, turns)):
            turns += 1
            assert turns < 1000
        assert turns >= 2


def test_whoever_is_cancelled_while_connecting_spoils_it_for_nobody(filled: MemcachedServer) -> None:
    async def main() -> None:
        store = AsyncMemcachedStore(MemcachedSettings.from_url(f"{filled.url}?timeout=5"))
        tasks = [asyncio.ensure_future(store.load(key)) for key in KEYS]
        await asyncio.sleep(0)
        tasks[0].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == [secret_of(key) for key in KEYS[1:]]
        await store.aclose()

    asyncio.run(main())
    until(lambda: int(filled.stats()["curr_connections"]) <= 3, "its connection is closed")


def test_all_tasks_of_a_loop_share_one_connection(filled: MemcachedServer) -> None:
    with Proxy(filled.port) as proxy, calling(f"memcached://{proxy.address}?timeout=5", loop=True) as caller:
        for _ in range(5):
            assert caller.all([Load(key) for key in KEYS]) == [secret_of(key) for key in KEYS]
        assert proxy.connections == 1


def test_a_call_cancelled_before_it_was_sent_is_never_sent(filled: MemcachedServer) -> None:
    async def main() -> None:
        store = AsyncMemcachedStore(MemcachedSettings.from_url(f"{filled.url}?timeout=5"))
        await store.load(KEYS[0])
        filled.reset()
        task = asyncio.ensure_future(store.delete(KEYS[0]))
        asyncio.get_running_loop().call_soon(task.cancel)  # after its first step, before what it asks is written
        with suppress(asyncio.CancelledError):
            await task
        assert await store.load(KEYS[0]) == secret_of(KEYS[0])
        assert filled.commands() == {"get": 1}
        await store.aclose()

    asyncio.run(main())


def test_a_reply_that_comes_after_its_task_was_cancelled_is_thrown_away(filled: MemcachedServer) -> None:
    async def main(proxy: Proxy) -> None:
        store = AsyncMemcachedStore(MemcachedSettings.from_url(f"memcached://{proxy.address}?timeout=5"))
        await store.load(KEYS[0])
        proxy.hold_replies()
        cancelled = [asyncio.ensure_future(store.load(key)) for key in KEYS[:5]]
        waiting = asyncio.ensure_future(store.load(KEYS[7]))
        await asyncio.sleep(0.05)
        for task in cancelled:
            task.cancel()
        later = asyncio.ensure_future(store.load(KEYS[8]))
        await asyncio.sleep(0.05)
        proxy.release()
        assert await waiting == secret_of(KEYS[7])
        assert await later == secret_of(KEYS[8])
        assert proxy.connections == 1
        await store.aclose()

    with Proxy(filled.port) as proxy:
        asyncio.run(main(proxy))


def test_two_loops_in_two_threads_share_a_store(filled: MemcachedServer) -> None:
    store = AsyncMemcachedStore(MemcachedSettings.from_url(f"{filled.url}?timeout=5"))
    found: dict[int, list[Record | None]] = {}

    async def visit(number: int) -> None:
        for _ in range(20):
            found[number] = await asyncio.gather(*(store.load(key) for key in KEYS))
        await store.aclose()

    threads = [threading.Thread(target=lambda n=n: asyncio.run(visit(n))) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [secret_of(key) for key in KEYS] for number in range(2)}


def test_a_store_outlives_its_event_loop(filled: MemcachedServer) -> None:
    store = AsyncMemcachedStore(MemcachedSettings.from_url(f"{filled.url}?timeout=5"))

    async def visit() -> None:
        assert await store.load(KEYS[0]) == secret_of(KEYS[0])
        await store.aclose()
        assert await store.load(KEYS[1]) == secret_of(KEYS[1])
        await store.aclose()

    for _ in range(3):
        asyncio.run(visit())
    assert store._servers == {}


def test_a_store_that_is_closed_while_it_connects_tells_those_who_wait(filled: MemcachedServer) -> None:
    async def main(proxy: Proxy) -> None:
        store = AsyncMemcachedStore(MemcachedSettings.from_url(f"memcached://{proxy.address}?timeout=5"))
        tasks = [asyncio.ensure_future(store.load(key)) for key in KEYS[:3]]
        await asyncio.sleep(0)
        await store.aclose()
        answers: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert "closed" in str(answers[0])

    with Proxy(filled.port) as proxy:
        asyncio.run(main(proxy))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_loop_in_a_forked_worker_has_a_connection_of_its_own(filled: MemcachedServer) -> None:
    async def visit(store: AsyncMemcachedStore) -> bool:
        return all(await asyncio.gather(*(same(store, key) for key in KEYS)))

    async def same(store: AsyncMemcachedStore, key: bytes) -> bool:
        return await store.load(key) == secret_of(key)

    store = AsyncMemcachedStore(MemcachedSettings.from_url(f"{filled.url}?timeout=5"))
    with asyncio.Runner() as runner:
        assert runner.run(visit(store))
        child = os.fork()
        if child == 0:
            asyncio.set_event_loop(None)
            loop = asyncio.new_event_loop()
            os._exit(not loop.run_until_complete(visit(store)))
        assert all(runner.run(visit(store)) for _ in range(5))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        runner.run(store.aclose())
