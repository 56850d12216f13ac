"""Both colours over the agent's socket: what a wait costs, what is asked again, that no answer finds the wrong one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.servers.process import until
from tests.store.peers.scripted import ScriptedTables, done, enough, nothing

from sojourn.cluster.local import Answer, Await, Forward, Forwarded, Nudge, Settled, Status, View
from sojourn.cluster.settings import Settings
from sojourn.core.ops import Written
from sojourn.errors import StoreUnavailable
from sojourn.store.peers import asking, channel
from sojourn.store.peers.asking import GRACE
from sojourn.store.peers.blocking import PeersStore
from sojourn.store.peers.loop import AsyncPeersStore
from sojourn.testing.store_contract import a_key, a_record

# -- blocking ------------------------------------------------------------------------------------------------------


def test_threads_ask_side_by_side_on_few_connections(store: PeersStore, agents: Any) -> None:
    agent = agents(enough)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: store.create(a_key(number), a_record()), range(400)))
    assert answers == [Written.DONE] * 400
    assert 1 <= len(agent.connections) <= 9
    assert len({request.number for request in agent.requests}) == 400


def test_an_agent_that_hangs_costs_one_wait_and_no_more(store: PeersStore, agents: Any) -> None:
    agent = agents(nothing)
    begun = time.monotonic()
    assert store.create(a_key(), a_record()) is Written.DONE
    assert 0.2 <= time.monotonic() - begun < 0.2 + GRACE + 1
    until(lambda: len(agent.requests) == 2, "the probe has come")
    assert [type(request) for request in agent.requests] == [Await, Status]


def test_the_answer_that_comes_too_late_is_nobodys(store: PeersStore, agents: Any) -> None:
    """The connection is given up with the wait, since its next answer would be this one's."""
    late: list[Any] = []

    def script(request: Any) -> Sequence[Answer]:
        if isinstance(request, Status):
            return [View(request.number, {})]
        late.append(request)
        return [] if len(late) == 1 else [Settled(late[0].number, 0, False), Settled(request.number, 1, True)]

    agent = agents(script)
    store.create(a_key(), a_record())
    until(store._agent.answers, "the probe is answered")
    assert store.create(a_key(2), a_record()) is Written.DONE
    assert [request.number for request in late] == [1, 2]
    assert len(agent.connections) == 2


def test_an_agent_that_comes_in_time_is_waited_for(store: PeersStore, agents: Any, settings: Settings) -> None:
    with ThreadPoolExecutor(1) as pool:
        store._agent._patience = 10
        write = pool.submit(store.create, a_key(), a_record())
        agent = agents(enough)
        assert write.result(5) is Written.DONE
    assert len([request for request in agent.requests if isinstance(request, Await)]) == 1


def test_after_a_restart_of_the_agent_the_next_request_goes_through(store: PeersStore, agents: Any) -> None:
    agent = agents(enough)
    assert store.create(a_key(), a_record()) is Written.DONE
    agent.stop()
    again = agents(enough)
    assert store.create(a_key(2), a_record()) is Written.DONE
    assert len(again.requests) == 1


def test_what_waited_when_the_agent_died_is_asked_again(store: PeersStore, agents: Any) -> None:
    asked: list[Any] = []

    def script(request: Any) -> Sequence[Answer] | None:
        asked.append(request)
        return None if len(asked) == 1 else enough(request)

    agents(script)
    assert store.create(a_key(), a_record()) is Written.DONE
    assert len(asked) == 2


def test_a_forwarded_write_is_never_sent_twice(store: PeersStore, agents: Any, tables: Any) -> None:
    tables.mine = False
    agent = agents(lambda request: None)
    key = _elsewhere(store)
    with pytest.raises(StoreUnavailable, match="update"):
        store.update(key, a_record(), 1)
    assert len(agent.requests) == 1


def test_a_forwarded_read_is(store: PeersStore, agents: Any, tables: Any) -> None:
    tables.mine = False
    asked: list[Any] = []

    def script(request: Any) -> Sequence[Answer] | None:
        asked.append(request)
        return None if len(asked) == 1 else [Forwarded(request.number, None)]

    agents(script)
    assert store.load(_elsewhere(store)) is None
    assert [request.verb for request in asked] == ["load", "load"]


def _elsewhere(store: Any) -> bytes:
    from sojourn.cluster import worker

    return next(key for key in map(a_key, range(100)) if not worker.places(store._tables, store._settings, key))


def test_a_nudge_waits_for_nobody(settings: Settings, tables: Any, agents: Any) -> None:
    store = PeersStore(Settings(**{**vars(settings), "acks": 0, "copies": None}), tables)
    agent = agents(nothing)
    waited = 0
    for number in range(64):
        begun = time.monotonic()
        assert store.create(a_key(number), a_record()) is Written.DONE
        waited += time.monotonic() - begun > 0.1
    assert waited <= 3, "one in 256 waits, so that nobody outruns the others"
    until(lambda: any(isinstance(request, Nudge) for request in agent.requests), "the agent is nudged")
    store.close()


def test_an_agent_that_reads_nothing_does_not_hold_up_nudges(settings: Settings, tables: Any, agents: Any) -> None:
    """Its socket is full soon; it has more than enough to wake up for."""
    store = PeersStore(Settings(**{**vars(settings), "acks": 0, "copies": None, "wait": 60.0}), tables)
    with channel.listen(Path(settings.path)):
        for _ in range(2000):
            store._agent._nudges = asking.Nudges()
            store._agent.ask(Nudge())
        assert len(store._agent._idle) == 1, "and it is still that connection"
    store.close()


def test_without_an_agent_a_nudge_is_free(settings: Settings, tables: Any) -> None:
    store = PeersStore(Settings(**{**vars(settings), "acks": 0, "copies": None}), tables)
    begun = time.monotonic()
    for number in range(16):
        assert store.create(a_key(number), a_record()) is Written.DONE
    assert time.monotonic() - begun < 1
    store.close()


def test_an_answer_of_another_kind_is_none(store: PeersStore, agents: Any, settings: Settings) -> None:
    agents(done)
    assert store.create(a_key(), a_record()) is Written.DONE, "alone=accept"
    strict = PeersStore(Settings(**{**vars(settings), "alone": "refuse"}), ScriptedTables())  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="alone=refuse"):
        strict.create(a_key(), a_record())
    strict.close()


# -- event loops ---------------------------------------------------------------------------------------------------


def on_loop(settings: Settings, tables: Any, work: Callable[[AsyncPeersStore], Any]) -> Any:
    store = AsyncPeersStore(settings, tables)

    async def main() -> Any:
        try:
            return await work(store)
        finally:
            await store.aclose()

    return asyncio.run(main())


def test_tasks_share_one_connection_and_find_their_answers(settings: Settings, tables: Any, agents: Any) -> None:
    tables.mine = False
    held: list[Any] = []

    def backwards(request: Any) -> Sequence[Answer]:
        held.append(request)
        if len(held) < 50:
            return []
        return [Forwarded(one.number, int.from_bytes(one.key[-2:], "big")) for one in reversed(held)]

    agent = agents(backwards)

    async def work(store: AsyncPeersStore) -> Any:
        async def ask(number: int) -> bool:
            key = number.to_bytes(32, "big")
            answer = await store._here().ask(Forward(0, key, "load", (key,), 200))
            return isinstance(answer, Forwarded) and answer.answer == number

        return await asyncio.gather(*map(ask, range(50)))

    assert on_loop(settings, tables, work) == [True] * 50
    assert len(agent.connections) == 1


def test_a_cancelled_request_spoils_no_other(settings: Settings, tables: Any, agents: Any) -> None:
    agents(enough)

    async def work(store: AsyncPeersStore) -> Any:
        tasks = [asyncio.create_task(store.create(a_key(number), a_record())) for number in range(40)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert await store.create(a_key(99), a_record()) is Written.DONE
        assert not any(agent._connection._waiting for agent in store._agents.values() if agent._connection)
        return answers[::2]

    assert on_loop(settings, tables, work) == [Written.DONE] * 20


def test_a_task_cancelled_while_connecting_spoils_no_other(settings: Settings, tables: Any, agents: Any) -> None:
    async def work(store: AsyncPeersStore) -> Any:
        first, second = (asyncio.create_task(store.create(a_key(n), a_record())) for n in range(2))
        await asyncio.sleep(0.02)
        first.cancel()
        agents(enough)
        return await second

    assert on_loop(settings, tables, work) is Written.DONE


def test_on_a_loop_an_agent_that_hangs_costs_one_wait(settings: Settings, tables: Any, agents: Any) -> None:
    agents(nothing)

    async def work(store: AsyncPeersStore) -> Any:
        return await asyncio.gather(*(store.create(a_key(number), a_record()) for number in range(20)))

    begun = time.monotonic()
    assert on_loop(settings, tables, work) == [Written.DONE] * 20
    assert 0.2 <= time.monotonic() - begun < 0.2 + GRACE + 1


def test_on_a_loop_no_agent_costs_one_wait_and_the_loop_goes_on(settings: Settings, tables: Any) -> None:
    async def work(store: AsyncPeersStore) -> Any:
        turns = 0

        async def spin() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        spinning = asyncio.create_task(spin())
        answer = await store.create(a_key(), a_record())
        spinning.cancel()
        assert turns >= 5
        return answer

    begun = time.monotonic()
    assert on_loop(settings, tables, work) is Written.DONE
    assert 0.2 <= time.monotonic() - begun < 0.2 + GRACE + 1


def test_on_a_loop_what_waited_when_the_agent_died_is_asked_again(settings: Settings, tables: Any, agents: Any) -> None:
    asked: list[Any] = []

    def script(request: Any) -> Sequence[Answer] | None:
        asked.append(request)
        return None if len(asked) == 1 else enough(request)

    agents(script)
    assert on_loop(settings, tables, lambda store: store.create(a_key(), a_record())) is Written.DONE
    assert len(asked) == 2


def test_on_a_loop_a_forwarded_write_is_never_sent_twice(settings: Settings, tables: Any, agents: Any) -> None:
    tables.mine = False
    agent = agents(lambda request: None)

    async def work(store: AsyncPeersStore) -> None:
        with pytest.raises(StoreUnavailable, match="update"):
            await store.update(_elsewhere(store), a_record(), 1)

    on_loop(settings, tables, work)
    assert len(agent.requests) == 1


def test_each_loop_has_a_connection_of_its_own_and_closes_it(settings: Settings, tables: Any, agents: Any) -> None:
    agent, store = agents(enough), AsyncPeersStore(settings, tables)

    async def write(number: int) -> Any:
        return await store.create(a_key(number), a_record())

    for number in range(3):
        assert asyncio.run(write(number)) is Written.DONE, "and no warning of a socket that nobody closed"
    assert len(agent.connections) == 3
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: asyncio.run(write(number)), range(10, 30)))
    assert answers == [Written.DONE] * 20
    assert not store._agents


def test_the_log_is_told_of_a_missing_agent_and_not_each_time(
    settings: Settings, tables: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = PeersStore(settings, tables)
    for number in range(3):
        store.create(a_key(number), a_record())
    assert [record.message for record in caplog.records] == [
        f"the agent of {settings.path} does not answer: [Errno 2] No such file or directory",
        "writes on this host alone, as far as it knows: 1; its agent does not answer",
    ]
    assert store._agent._breaker.unconfirmed == 3
    store.close()
    assert asking.WARN_EVERY > 1
