"""Nudges: how few of them a burst of writes sends, and that its last write is soon with the other hosts all the same.

Nothing else brings it there: the agents here look into their logs, and ping each other, far too seldom for these tests.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from tests.servers.process import HeldPort
from tests.store.peers.wires import LOOPS, directories, request, run, running, until

from sojourn.cluster import local
from sojourn.cluster.node import Node
from sojourn.cluster.settings import Settings
from sojourn.core.ops import Written
from sojourn.store.peers import channel
from sojourn.store.peers import engine as engines
from sojourn.store.peers.asking import NUDGE_EVERY, Nudges
from sojourn.store.peers.blocking import PeersStore
from sojourn.store.peers.engine import AGAIN, Engine
from sojourn.store.peers.loop import AsyncPeersStore
from sojourn.store.peers.tables import HostTables
from sojourn.testing.store_contract import a_key, a_record

BURST = 500


@pytest.fixture(autouse=True)
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "POLL", 600.0)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- what a worker sends -------------------------------------------------------------------------------------------


def test_of_many_writes_at_once_one_wakes_the_agent() -> None:
    nudges = Nudges()
    assert [nudges.due(5.0 + number * NUDGE_EVERY / 10) for number in range(10)] == [True] + [False] * 9
    assert nudges.due(5.0 + NUDGE_EVERY)


def test_the_agent_looks_again_later_than_a_worker_is_quiet() -> None:
    """Otherwise a write that sends no nudge would be seen by neither look."""
    assert AGAIN > NUDGE_EVERY


# -- what the agent makes of them ----------------------------------------------------------------------------------


def test_a_nudge_is_two_looks_and_then_no_more(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "AGAIN", 600.0)  # the test says when it is over

    async def story() -> None:
        async with running() as one:
            _, writer = await one.worker()
            writer.write(request(local.Nudge()))
            await until(lambda: len(one.node.told("written")) == 1, "it has looked")
            one.engine._look_again()
            await until(lambda: len(one.node.told("written")) == 2, "it has looked again")
            assert one.engine._nudges == 0
            writer.close()

    run(story, loop=loop)


def test_a_nudge_before_the_second_look_asks_for_a_third(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "AGAIN", 600.0)  # the test says when it is over

    async def story() -> None:
        async with running() as one:
            for _ in range(2):
                one.engine.asked(None, local.Nudge())  # type: ignore[arg-type]  # whose it is does not matter
            await until(lambda: len(one.node.told("written")) == 1, "one look for both")
            one.engine._look_again()
            await until(lambda: len(one.node.told("written")) == 2, "one a moment later")
            assert one.engine._nudges == 1, "and one for who came before that"
            one.engine._look_again()
            await until(lambda: len(one.node.told("written")) == 3, "which is the last")
            assert one.engine._nudges == 0

    run(story, loop=loop)


def test_an_engine_that_ends_looks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "AGAIN", 600.0)

    async def story() -> None:
        async with running() as one:
            one.engine.asked(None, local.Nudge())  # type: ignore[arg-type]
        assert one.engine._again
        assert one.engine._again.cancelled()

    run(story)


# -- both together -------------------------------------------------------------------------------------------------


class Meeting:
    """Two hosts in this process, which have met."""

    def __init__(self, here: Engine, there: Engine) -> None:
        self.here, self.there = here, there
        self.nudges = 0

    def version(self, engine: Engine, key: bytes) -> int:
        replica = engine.node.host.tables.replica(key)
        return replica.version if replica else 0


@asynccontextmanager
async def meeting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Meeting]:
    async with AsyncExitStack() as stack:
        ports = [HeldPort() for _ in range(2)]
        names = tuple(f"127.0.0.1:{port.number}" for port in ports)
        for port in ports:
            stack.callback(port.close)
        met = Meeting(*[await stack.enter_async_context(serving(name, names)) for name in names])
        asked = Engine.asked

        def counted(engine: Engine, worker: Any, request: local.Request) -> None:
            met.nudges += isinstance(request, local.Nudge)
            asked(engine, worker, request)

        monkeypatch.setattr(Engine, "asked", counted)
        for engine in (met.here, met.there):
            await until(lambda engine=engine: engine.node.shipping.flows, "they have met")
        yield met


@asynccontextmanager
async def serving(name: str, names: tuple[str, ...]) -> AsyncIterator[Engine]:
    with directories() as path, closing(HostTables(str(path), sync=False, max_size=1 << 28)) as tables:
        settings = Settings(seeds=names, me=name, listen=name, path=str(path), acks=0, suspect_after=600.0, beat=300.0)
        engine = Engine(settings, Node(settings, tables, time.monotonic(), os.urandom))
        sock = channel.listen(Path(path))
        task = asyncio.create_task(engine.serve(sock))
        await engine.ready.wait()
        try:
            yield engine
        finally:
            engine.stop()
            await task
            sock.close()


def test_the_last_write_of_a_burst_is_at_once_on_the_other_host(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with meeting(monkeypatch) as met:
            settings, tables = met.here.settings, met.here.node.host.tables
            store: Any = PeersStore(settings, tables)  # type: ignore[arg-type]
            try:
                began = time.monotonic()
                await asyncio.to_thread(burst, store)
                took = time.monotonic() - began
                await until(lambda: met.version(met.there, a_key()) == BURST, "the last write is there")
                assert 1 <= met.nudges <= took / NUDGE_EVERY + 1
            finally:
                store._agent.close()

    run(story, loop=loop)


def burst(store: Any) -> None:
    assert store.create(a_key(), a_record()) is Written.DONE
    for number in range(1, BURST):
        assert store.update(a_key(), a_record(version=1 + number), number) is Written.DONE


def test_the_last_write_of_a_burst_on_a_loop_is_at_once_on_the_other_host(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with meeting(monkeypatch) as met:
            settings, tables = met.here.settings, met.here.node.host.tables
            store = AsyncPeersStore(settings, tables)  # type: ignore[arg-type]
            try:
                began = time.monotonic()
                await burst_on_loop(store)
                took = time.monotonic() - began
                await until(lambda: met.version(met.there, a_key()) == BURST, "the last write is there")
                assert 1 <= met.nudges <= took / NUDGE_EVERY + 1
            finally:
                await store._here().aclose()

    run(story, loop=loop)


async def burst_on_loop(store: AsyncPeersStore) -> None:
    assert await store.create(a_key(), a_record()) is Written.DONE
    await until(lambda: store._here()._connection, "it is connected")
    for number in range(1, BURST):
        assert await store.update(a_key(), a_record(version=1 + number), number) is Written.DONE
        await asyncio.sleep(0)
