"""An agent that does not answer: who waits for it, who counts what was written meanwhile, who sees that it is back."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from tests.servers.process import until
from tests.store.peers.scripted import ScriptedTables, enough

from sojourn.cluster import worker as rules
from sojourn.cluster.local import Answer, Await, Nudge, Status
from sojourn.cluster.settings import Settings
from sojourn.core.ops import Written
from sojourn.errors import StoreUnavailable
from sojourn.store.peers import asking, blocking, loop
from sojourn.store.peers.asking import PROBE_EVERY, Breaker
from sojourn.store.peers.blocking import PeersStore
from sojourn.store.peers.loop import AsyncPeersStore
from sojourn.testing.store_contract import a_key, a_record

MORE = 20  # writes


# -- the rules -----------------------------------------------------------------------------------------------------


def test_a_probe_is_wanted_while_it_is_open_and_not_all_the_time() -> None:
    breaker = Breaker()
    assert not breaker.wants_probe(1.0)
    breaker.fail(absent=False)
    assert breaker.wants_probe(1.0)
    assert not breaker.wants_probe(1.0 + PROBE_EVERY / 2), "nobody was there to take it"
    assert breaker.wants_probe(1.0 + PROBE_EVERY)


def test_an_answer_to_the_probe_closes_it_and_takes_off_what_was_reported() -> None:
    breaker = Breaker()
    breaker.fail(absent=False)
    breaker.missed()
    assert breaker.probe().unconfirmed == 1
    breaker.missed()
    breaker.answered()
    assert (breaker.is_open, breaker.unconfirmed) == (False, 1)
    assert breaker.wants_probe(0.0), "to report the other one"


def test_what_was_reported_to_an_agent_that_is_gone_is_reported_again() -> None:
    breaker = Breaker()
    breaker.fail(absent=False)
    breaker.missed()
    breaker.probe()
    breaker.reset()
    assert not breaker.is_open
    assert breaker.probe().unconfirmed == 1


# -- a worker of each colour ---------------------------------------------------------------------------------------


class Frozen:
    """A script of an agent that stands still, with everything that it is sent, until it is let go on."""

    def __init__(self) -> None:
        self._going_on = threading.Event()
        self.reported = 0

    def __call__(self, request: Any) -> Sequence[Answer]:
        self._going_on.wait(30)
        if isinstance(request, Status):
            self.reported += request.unconfirmed
        return enough(request)

    def go_on(self) -> None:
        self._going_on.set()


class Worker:
    """A store of either colour; *run* gets an answer from it."""

    def __init__(self, store: Any, run: Callable[[Any], Any], turn: Callable[[], None]) -> None:
        self.store, self.run, self.turn = store, run, turn

    def write(self, number: int = 0) -> Any:
        return self.run(self.store.create(a_key(number), a_record()))

    def read(self) -> Any:
        return self.run(self.store.load(a_key()))

    @property
    def agent(self) -> Any:
        return self.store._agent if isinstance(self.store, PeersStore) else self.run(self._on_loop())

    async def _on_loop(self) -> Any:
        return self.store._here()

    def answers(self) -> bool:
        """Tell whether the agent is asked, after all that there was to hear from it was heard."""
        self.turn()
        return bool(self.run(self._ask_on_loop()) if isinstance(self.store, AsyncPeersStore) else self.agent.answers())

    async def _ask_on_loop(self) -> bool:
        return bool(self.store._here().answers())

    def wait_for_answers(self) -> None:
        until(self.answers, "the agent is asked again")

    def report(self) -> None:
        until(lambda: self.answers() and not self.agent._breaker.unconfirmed, "all is reported")


@pytest.fixture(params=["blocking", "loop"])
def colour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(colour: str, tables: Any) -> Iterator[Callable[[Settings], Worker]]:
    with asyncio.Runner() as runner:
        made: list[Worker] = []

        def make(settings: Settings) -> Worker:
            if colour == "blocking":
                made.append(Worker(PeersStore(settings, tables), lambda answer: answer, lambda: None))
            else:
                store = AsyncPeersStore(settings, tables)
                made.append(Worker(store, runner.run, lambda: runner.run(asyncio.sleep(0.002))))
            return made[-1]

        yield make
        for worker in made:
            worker.store.close() if colour == "blocking" else runner.run(worker.store.aclose())


@pytest.fixture
def worker(make: Any, settings: Settings) -> Worker:
    worker: Worker = make(settings)
    return worker


@pytest.fixture
def frozen(agents: Any) -> Iterator[Any]:
    """An agent that stands still."""
    script = Frozen()
    agent = agents(script)
    agent.script = script
    yield agent
    script.go_on()


def kinds(agent: Any) -> list[type]:
    return [type(request) for request in agent.requests]


def test_after_one_wait_in_vain_no_write_waits_until_the_agent_answers(worker: Worker, frozen: Any) -> None:
    for number in range(1 + MORE):
        assert worker.write(number) is Written.DONE, "alone=accept"
    worker.turn()
    frozen.script.go_on()
    worker.wait_for_answers()
    assert kinds(frozen).count(Await) == 1, "the others were not even sent"
    assert worker.write(99) is Written.DONE
    assert kinds(frozen).count(Await) == 2
    assert worker.agent._breaker.unconfirmed <= MORE, "this one was confirmed"


def test_an_agent_that_answers_again_is_told_how_many_writes_nobody_has_confirmed(worker: Worker, frozen: Any) -> None:
    for number in range(1 + MORE):
        worker.write(number)
    frozen.script.go_on()
    worker.report()
    assert frozen.script.reported == 1 + MORE
    worker.write(99)
    worker.report()
    assert frozen.script.reported == 1 + MORE


def test_of_writes_that_nobody_has_confirmed_the_log_is_told_at_once_and_seldom(
    worker: Worker, frozen: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING, "sojourn.store"):
        for number in range(5):
            worker.write(number)
        assert lines_about_writes(caplog) == [1]
        worker.agent._complaints._no_write_until = 0.0
        worker.write(5)
        assert lines_about_writes(caplog) == [1, 5], "those in between are in the next line"
    assert asking.WARN_EVERY == 5


def lines_about_writes(caplog: pytest.LogCaptureFixture) -> list[int]:
    said = [record for record in caplog.records if "on this host alone" in record.getMessage()]
    return [record.args[0] for record in said if isinstance(record.args, tuple)]  # type: ignore[misc]


def test_with_alone_refuse_nothing_more_is_written_once_the_agent_is_known_to_hang(
    make: Any, settings: Settings, tables: ScriptedTables, frozen: Any
) -> None:
    tables.mine = False  # the other host is alive, as far as the storage knows
    worker = make(Settings(**{**vars(settings), "alone": "refuse", "copies": None}))
    with pytest.raises(StoreUnavailable, match="stands on this host"):
        worker.write()
    assert tables.written == 1
    for number in range(MORE):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            worker.write(number)
    assert tables.written == 1
    assert worker.read() is None, "and what is here is shown"
    frozen.script.go_on()
    worker.wait_for_answers()
    assert worker.write() is Written.DONE


def test_an_agent_that_is_killed_while_it_hangs_makes_room_for_one_that_is_asked(
    worker: Worker, frozen: Any, agents: Any
) -> None:
    worker.write()
    frozen.script.go_on()
    frozen.stop()
    again = Frozen()
    again.go_on()
    agent = agents(again)
    worker.wait_for_answers()
    assert worker.write(1) is Written.DONE
    assert kinds(agent).count(Await) == 1
    worker.report()
    assert frozen.script.reported + again.reported >= 1


def test_where_there_is_no_agent_one_write_waits_for_it_and_no_other(worker: Worker, agents: Any) -> None:
    for number in range(1 + MORE):
        assert worker.write(number) is Written.DONE
    assert worker.agent._breaker.unconfirmed == 1 + MORE
    agent = agents(enough)
    worker.wait_for_answers()
    assert worker.write(99) is Written.DONE
    assert kinds(agent).count(Await) == 1


def test_an_agent_that_lets_go_of_everybody_is_not_asked_without_end(worker: Worker, agents: Any) -> None:
    agent = agents(lambda request: None)
    assert worker.write() is Written.DONE
    assert len(agent.connections) < 150, "one each five milliseconds"


def test_an_agent_whose_answers_cannot_be_read_is_asked_once(worker: Worker, agents: Any) -> None:
    agent = agents(lambda request: [Nudge()])
    assert worker.write() is Written.DONE
    assert kinds(agent).count(Await) == 1


def test_an_agent_that_was_still_starting_does_not_hang(worker: Worker, agents: Any) -> None:
    """It had less than the whole wait for its answer, so the next request is sent and has all of it."""
    script = Frozen()
    starting = threading.Timer(0.3, lambda: agents(script))  # of 0.45 s
    starting.start()
    assert worker.write() is Written.DONE, "alone=accept"
    assert worker.agent._breaker.unconfirmed == 1
    starting.join()
    assert not worker.agent._breaker.is_open
    script.go_on()
    assert worker.write(1) is Written.DONE
    assert worker.agent._breaker.unconfirmed <= 1, "this one was confirmed"


def test_who_only_reads_stays_connected_to_an_agent_that_was_still_starting(
    worker: Worker, settings: Settings, tables: ScriptedTables, agents: Any
) -> None:
    """One that no worker is connected to ends, and there may be no other request for long."""
    tables.mine = False
    script, made = Frozen(), list[Any]()
    starting = threading.Timer(0.3, lambda: made.append(agents(script)))
    starting.start()
    elsewhere = next(key for key in map(a_key, range(100)) if not rules.places(tables, settings, key))  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        worker.run(worker.store.load(elsewhere))
    starting.join()
    script.go_on()
    worker.turn()
    until(lambda: [sock for sock in made[0].connections if is_open(sock)], "it is connected")


def is_open(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_an_agent_that_hangs_from_its_start_costs_one_wait_more(worker: Worker, agents: Any) -> None:
    script = Frozen()
    starting = threading.Timer(0.3, lambda: agents(script))
    starting.start()
    for number in range(2 + MORE):
        assert worker.write(number) is Written.DONE
    starting.join()
    assert worker.agent._breaker.is_open
    script.go_on()
    worker.wait_for_answers()


def test_a_forked_child_asks_afresh_and_reports_nothing_of_its_parents(settings: Settings, frozen: Any) -> None:
    store = PeersStore(settings, ScriptedTables())  # type: ignore[arg-type]
    store.create(a_key(), a_record())
    assert not store._agent.answers()
    store._agent.forget()
    assert store._agent.answers()
    assert store._agent._breaker.unconfirmed == 0
    store.close()


# -- who only reads ------------------------------------------------------------------------------------------------


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> list[object]:
    """What was started, by whatever there is that starts an agent."""
    started: list[object] = []
    for module in (blocking, loop):
        monkeypatch.setattr(module, "start", lambda directory, url: started.append(url))
    return started


def test_who_only_reads_looks_for_an_agent_now_and_then(make: Any, settings: Settings, starts: list[object]) -> None:
    worker = make(Settings(**{**vars(settings), "wait": 0.01}))
    reading_starts(worker, starts)
    starts.clear()
    worker.store._look_due = 0.0  # a second later, for the one colour
    worker.agent._look_due = 0.0  # and for the other
    reading_starts(worker, starts)


def reading_starts(worker: Worker, starts: list[object]) -> None:
    def started() -> bool:
        worker.turn()
        return bool(starts)

    worker.read()
    until(started, "an agent is started")


def test_between_two_looks_a_read_costs_one_comparison(
    worker: Worker, agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "LOOK_AGAIN", 600.0)
    monkeypatch.setattr(loop, "LOOK_AGAIN", 600.0)
    agents(enough)
    worker.read()
    looks: list[object] = []
    monkeypatch.setattr(type(worker.agent), "greet", looks.append, raising=False)
    monkeypatch.setattr(type(worker.agent), "attend", looks.append, raising=False)
    for _ in range(1000):
        worker.read()
    assert not looks


def test_who_only_reads_notices_that_its_agent_has_ended(make: Any, settings: Settings, agents: Any) -> None:
    worker = make(settings)
    agent = agents(enough)
    worker.write()
    agent.stop()
    again = agents(enough)

    def connected() -> bool:
        worker.turn()
        worker.read()
        return bool(again.connections)

    until(connected, "it has found the next one")


def test_on_a_loop_the_end_of_an_agent_starts_another_at_once(
    settings: Settings, tables: Any, agents: Any, starts: list[object]
) -> None:
    agent, store = agents(enough), AsyncPeersStore(settings, tables)

    async def story() -> None:
        await store.create(a_key(), a_record())
        assert not starts
        await asyncio.to_thread(agent.stop)
        async with asyncio.timeout(10):
            while not starts:  # and nobody reads or writes
                await asyncio.sleep(0.001)
        await store.aclose()
        starts.clear()

    asyncio.run(story())


def test_on_a_loop_no_probe_is_lost_in_a_buffer_that_is_full(
    settings: Settings, tables: Any, frozen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more would be sent while it is open, and nobody would hear that it may close."""
    store = AsyncPeersStore(settings, tables)

    async def story() -> None:
        await store.load(a_key())
        agent = store._here()
        await agent._connected()
        monkeypatch.setattr(loop, "MOST_UNSENT", -1)
        agent._breaker.fail(absent=False)
        assert not agent.answers()
        assert agent._probe is None
        monkeypatch.setattr(loop, "MOST_UNSENT", 1 << 20)
        assert not agent.answers()
        frozen.script.go_on()
        async with asyncio.timeout(10):
            while not agent.answers():
                await asyncio.sleep(0.001)
        await store.aclose()

    asyncio.run(story())


def test_a_store_that_is_closed_starts_none(settings: Settings, tables: Any, agents: Any, starts: list[object]) -> None:
    agents(enough)
    store = AsyncPeersStore(settings, tables)

    async def story() -> None:
        await store.create(a_key(), a_record())
        await store.aclose()
        await asyncio.sleep(0)

    asyncio.run(story())
    assert not starts
