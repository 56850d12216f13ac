"""What visitors of a cluster notice, and what its workers bear: forks, a killed agent, many commits at once."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from tests.servers.process import until
from tests.store.peers.harness import Host, Hosts, at_rest, empty, parts, runs
from tests.store.peers.harness import put as put_back

from sojourn.core.capability import Floor, LoadSeen
from sojourn.core.ops import Create, Load, Update, Written
from sojourn.core.session import Session
from sojourn.drive import perform
from sojourn.errors import StoreUnavailable
from sojourn.store.peers import operators
from sojourn.store.peers.asking import GRACE
from sojourn.testing.session_contract import put
from sojourn.testing.site import Browser, Site
from sojourn.testing.store_contract import a_key, a_record

pytestmark = pytest.mark.slow

DONE = Written.DONE


@pytest.fixture(scope="module")
def running() -> Iterator[Hosts]:
    with Hosts(3) as hosts:
        yield hosts


@pytest.fixture
def hosts(running: Hosts) -> Iterator[Hosts]:
    """Three hosts, emptied."""
    running.start()
    empty(running)
    yield running
    for host in running.all:
        host.pair.blocking.close()  # type: ignore[attr-defined]


def in_turns(hosts: Hosts) -> Site:
    """Return a site of which each request is served by another host, as a balancer without stickiness does it."""
    turns = count()

    class Turns(Site):
        def run(self, flow: Any) -> Any:
            store = hosts[next(turns) % len(hosts.all)].pair.blocking
            self.do = lambda op: perform(op, store)
            return super().run(flow)

    return Turns(lambda op: None, floored=True)


# -- what visitors notice ------------------------------------------------------------------------------------------


def test_every_browser_sees_on_any_host_what_it_wrote_on_another(hosts: Hosts) -> None:
    site = in_turns(hosts)
    browsers = [Browser(site) for _ in range(5)]
    for visit in range(60):
        for browser in browsers:
            browser.visit(put("visit", visit))
            assert browser.sees() == {"visit": visit}


def test_a_logout_on_one_host_ends_the_session_on_all(hosts: Hosts) -> None:
    browser = Browser(in_turns(hosts))
    browser.visit(put("seen", 1))
    late = browser.begin()
    stolen = Browser(browser.site, browser.id)
    browser.visit(Session.destroy)
    hosts.settle()
    late["late"] = 1
    browser.site.commit(late)
    hosts.settle()
    for _ in hosts.all:
        assert stolen.sees() == {}


def test_two_hosts_that_change_different_keys_at_once_keep_both(hosts: Hosts) -> None:
    key, record = a_key(), a_record(values={})
    assert perform(Create(key, record), hosts[0].pair.blocking) is DONE
    hosts.settle()
    with ThreadPoolExecutor(3) as pool:
        updates = [
            pool.submit(
                perform, Update(key, record._replace(values={f"of {n}": b"x"}, version=2), 1), host.pair.blocking
            )
            for n, host in enumerate(hosts.all)
        ]
        assert [update.result() for update in updates].count(DONE) >= 1
    hosts.settle()
    found = [perform(Load(key), host.pair.blocking) for host in hosts.all]
    assert found[0] == found[1] == found[2]
    assert found[0].version == 1 + [update.result() for update in updates].count(DONE)
    for number, update in enumerate(updates):
        assert (f"of {number}" in found[0].values) == (update.result() is DONE)


def test_a_host_that_lost_its_disk_serves_at_once_what_others_have(hosts: Hosts) -> None:
    records = {a_key(number): a_record(principal=f"user {number}") for number in range(200)}
    for key, record in records.items():
        assert perform(Create(key, record), hosts[0].pair.blocking) is DONE
    hosts.settle()
    wiped = hosts[1]
    wiped.kill()
    wiped.pair.blocking.close()  # type: ignore[attr-defined]
    shutil.rmtree(wiped.directory)
    for key, record in records.items():
        found = perform(Load(key), wiped.pair.blocking)
        assert found is not None
        assert found._replace(seen=b"") == record
    hosts.wait()
    hosts.settle()


def test_a_session_whose_copy_is_damaged_on_one_host_is_served_there_from_another(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    browser = Browser(in_turns(hosts))
    browser.visit(put("cart", 7))  # looks on the first host, writes on the second
    assert browser.id
    hosts.settle()
    key, damaged = browser.id.private, hosts[2]
    before, frame, meta = parts(at_rest(damaged, key) or b"")
    put_back(damaged, key, before + bytes([*frame[:-1], frame[-1] ^ 4]) + meta)
    assert browser.sees() == {"cart": 7}  # looks on the third
    assert any("has an unreadable record" in line.getMessage() for line in caplog.records)
    assert parts(at_rest(damaged, key) or b"")[1] == frame  # mended


def test_a_forged_floor_is_answered_and_changes_nothing(hosts: Hosts) -> None:
    browser = Browser(in_turns(hosts))
    browser.visit(put("seen", 1))
    forged = b"fake" + (2**63).to_bytes(8, "big")
    browser.floor = forged
    begun = time.monotonic()
    assert browser.sees() == {"seen": 1}
    assert time.monotonic() - begun < 5


# -- an agent that dies or hangs -----------------------------------------------------------------------------------


def test_an_agent_that_is_killed_under_load_fails_no_write_and_loses_none() -> None:
    with Hosts(3, "acks=1&alone=refuse") as hosts:
        store, stop, written = hosts[0].pair.blocking, threading.Event(), dict.fromkeys(range(4), 0)

        def write(worker: int) -> None:
            key = a_key(worker)
            assert perform(Create(key, a_record(values={})), store) is DONE
            while not stop.is_set():
                number = written[worker] + 1
                record = a_record(values={"n": b"%d" % number}, version=1 + number)
                assert perform(Update(key, record, number), store) is DONE
                written[worker] = number

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write, worker) for worker in written]
            try:
                for _ in range(3):
                    before = dict(written)
                    until(lambda before=before: all(written[n] > before[n] + 20 for n in written), "writes go on", 20)
                    hosts[0].kill()
            finally:
                before = dict(written)
                until(
                    lambda: any(w.done() for w in writers) or all(written[n] > before[n] for n in written), "again", 20
                )
                stop.set()
            for writer in writers:
                writer.result()
        hosts.settle()
        for host in hosts.all:
            for worker, number in written.items():
                found = perform(Load(a_key(worker)), host.pair.blocking)
                assert found.values == {"n": b"%d" % number}
        for host in hosts.all:
            host.pair.blocking.close()  # type: ignore[attr-defined]


def test_an_agent_that_hangs_costs_one_wait_and_reads_go_on() -> None:
    with Hosts(2, "wait=300ms") as hosts:
        store: Any = hosts[0].pair.blocking
        assert perform(Create(a_key(), a_record()), store) is DONE
        hosts[0].signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert perform(Load(a_key()), store) is not None
            assert time.monotonic() - begun < 0.2
            begun = time.monotonic()
            assert write(store, 1) is DONE, "alone=accept"
            assert 0.3 <= time.monotonic() - begun < 0.3 + GRACE + 1
            begun = time.monotonic()
            assert [write(store, number) for number in range(2, 10)] == [DONE] * 8
            forged = b"fake" + (2**63).to_bytes(8, "big")
            with pytest.raises(StoreUnavailable):
                perform(LoadSeen(a_key(), forged), store)
            assert time.monotonic() - begun < 0.3, "nine more requests, and less than one wait"
        finally:
            hosts[0].signal(signal.SIGCONT)
        until(lambda: reported(store) >= 9, "the agent has counted what it did not confirm")
        until(lambda: confirmed(store), "writes are confirmed again")
        hosts.settle()
        for host in hosts.all:
            assert perform(Load(a_key()), host.pair.blocking).version >= 10
            host.pair.blocking.close()  # type: ignore[attr-defined]


def write(store: Any, base: int) -> Written:
    answer: Written = perform(Update(a_key(), a_record(version=base + 1), base), store)
    return answer


def reported(store: Any) -> int:
    store._agent.answers()
    count: int = operators.status(store._settings)["under_replicated"]
    return count


def confirmed(store: Any) -> bool:
    """Write once, and tell whether the agent has seen it on the other host."""
    before = reported(store)
    assert write(store, perform(Load(a_key()), store).version) is DONE
    return reported(store) == before and not store._agent._breaker.unconfirmed


def test_a_process_that_only_reads_has_its_agent_started_again() -> None:
    with Hosts(2) as hosts:
        store = hosts[0].pair.blocking
        assert perform(Create(a_key(), a_record()), store) is DONE
        hosts[0].leave()
        hosts[0].kill()
        until(lambda: perform(Load(a_key()), store) and hosts[0].agent, "there is an agent again", 20)
        assert perform(Create(a_key(2), a_record()), hosts[1].pair.blocking) is DONE
        until(lambda: perform(Load(a_key(2)), store), "and what others write comes here")
        for host in hosts.all:
            host.pair.blocking.close()  # type: ignore[attr-defined]


def test_an_agent_that_cannot_start_is_told_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with Hosts(1, start=False) as hosts, socket_at(hosts[0]), caplog.at_level(logging.WARNING, "sojourn.store"):
        store: Any = hosts[0].pair.blocking
        store._agent._patience = 0.05
        for number in range(3):
            assert perform(Create(a_key(number), a_record()), store) is DONE
        assert [record.message for record in caplog.records if "agent" in record.message]
        store.close()


def socket_at(host: Host) -> Any:
    """Take the port that the host's agent would listen on."""
    import socket

    from sojourn.cluster.settings import host_of, port_of

    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host_of(host.name), port_of(host.name)))
    sock.listen()
    return sock


def test_an_idle_agent_ends_when_no_worker_is_left() -> None:
    with Hosts(1) as hosts:
        pid = hosts[0].agent
        assert pid
        hosts[0].leave()
        hosts[0].pair.blocking.close()  # type: ignore[attr-defined]
        until(lambda: not runs(pid), "the agent has ended", 15)


# -- workers -------------------------------------------------------------------------------------------------------


def test_a_prefork_server_shares_a_host(hosts: Hosts) -> None:
    """The parent has used the store before it forks, and goes on while its children do."""
    store = hosts[0].pair.blocking
    assert perform(Create(a_key(0), a_record()), store) is DONE
    children = [_forked(hosts[0], worker) for worker in range(1, 5)]
    for number in range(50):
        assert perform(Update(a_key(0), a_record(version=2 + number), 1 + number), store) is DONE
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    hosts.settle()
    for worker in range(5):
        assert perform(Load(a_key(worker)), hosts[2].pair.blocking).version == 51


def _forked(host: Host, worker: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        store, key = host.pair.blocking, a_key(worker)
        assert perform(Load(a_key(0)), store) is not None
        assert perform(Create(key, a_record()), store) is DONE
        for number in range(50):
            assert perform(Update(key, a_record(version=2 + number), 1 + number), store) is DONE
        assert asyncio.run(_also_on_a_loop(host, key)) == 51
        status = 0
    finally:
        os._exit(status)


async def _also_on_a_loop(host: Host, key: bytes) -> int:
    record: Any = await host.pair.loop.load(key)
    version: int = record.version
    return version


def test_a_loop_that_forks_has_a_connection_of_its_own(hosts: Hosts) -> None:
    loop_store = hosts[0].pair.loop

    async def parent() -> int:
        assert await loop_store.create(a_key(0), a_record()) is DONE
        if not (child := os.fork()):
            status = 1
            try:
                asyncio.events._set_running_loop(None)
                asyncio.set_event_loop(None)
                asyncio.run(write(1))
                status = 0
            finally:
                os._exit(status)
        await write(2)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        await loop_store.aclose()  # type: ignore[attr-defined]
        return os.waitstatus_to_exitcode(status)

    async def write(worker: int) -> None:
        assert await loop_store.create(a_key(worker), a_record()) is DONE
        for number in range(20):
            assert await loop_store.update(a_key(worker), a_record(version=2 + number), 1 + number) is DONE

    assert asyncio.run(parent()) == 0
    hosts.settle()
    assert [perform(Load(a_key(worker)), hosts[1].pair.blocking).version for worker in range(3)] == [1, 21, 21]


def test_two_hundred_commits_at_once_are_all_acknowledged(hosts: Hosts) -> None:
    store: Any = hosts[0].pair.loop

    async def commit(number: int) -> Any:
        key = a_key(number)
        assert await store.create(key, a_record()) is DONE
        return await store.update(key, a_record(version=2, principal=f"user {number}"), 1)

    async def commits() -> list[Any]:
        try:
            return list(await asyncio.gather(*map(commit, range(200))))
        finally:
            await store.aclose()

    assert asyncio.run(commits()) == [DONE] * 200
    hosts.settle()
    for host in hosts.all:
        for number in range(200):
            assert perform(Load(a_key(number)), host.pair.blocking).principal == f"user {number}"


def test_a_cancelled_commit_confuses_nobody(hosts: Hosts) -> None:
    store: Any = hosts[0].pair.loop

    async def together() -> None:
        tasks = [asyncio.create_task(store.create(a_key(number), a_record())) for number in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[1::2] == [DONE] * 50
        assert all(answer is DONE or isinstance(answer, asyncio.CancelledError) for answer in answers)
        for number in range(1, 100, 2):
            assert await store.update(a_key(number), a_record(version=2), 1) is DONE
            assert await store.floor(a_key(number)) == (await store.load(a_key(number))).seen
        await store.aclose()

    asyncio.run(together())


def test_many_threads_share_a_store(hosts: Hosts) -> None:
    store = hosts[0].pair.blocking

    def work(number: int) -> bool:
        key = a_key(number)
        answers = [perform(Create(key, a_record()), store)]
        answers += [perform(Update(key, a_record(version=2 + n), 1 + n), store) for n in range(10)]
        return answers == [DONE] * 11 and bool(perform(Floor(key), store))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(64)))
