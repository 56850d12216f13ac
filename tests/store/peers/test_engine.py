"""The engine's sockets: who may speak, for how long, how much, and in what order the node hears of it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path

import pytest
from tests.store.peers.wires import HELLO, LOOPS, Running, connected, is_closed, request, run, running, until

from sojourn.cluster import effects, local, wire
from sojourn.cluster.settings import Settings
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.peers import engine as engines
from sojourn.store.peers import streams
from sojourn.store.peers.channel import Answers

PING = wire.Ping(1, (), {})


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def greeted(one: Running, other: Running) -> tuple[int, int]:
    """Let *one* dial *other*; return the link's number on both sides."""
    one.dial(other.engine.settings.me)
    link = (await until(lambda: one.node.told("received"), "both have said hello"))[0][0]
    return link, other.node.told("accepted")[0][0]


def test_two_engines_greet_and_messages_arrive_in_order(loop: str) -> None:
    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)
            assert one.node.told("dialed") == [(link, other.engine.settings.me)]
            assert other.node.told("accepted") == [(accepted, None)]
            for number in range(100):
                one.send(link, wire.Fetch(number, ()))
            await until(lambda: other.node.heard(accepted) == 101, "all have come")
            numbers = [message.number for _, message in other.node.told("received")[1:]]
            assert numbers == list(range(100))

    run(story, loop=loop)


def test_a_large_message_arrives_whole(loop: str) -> None:
    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)
            names = tuple(bytes(64) for _ in range(100_000))
            one.send(link, wire.Fetch(1, names))
            await until(lambda: other.node.heard(accepted) == 2, "it has come")
            assert other.node.told("received")[1][1].names == names

    run(story, loop=loop)


@pytest.mark.parametrize(("names", "first"), [(1, []), (2000, [2])])
def test_the_answer_to_a_large_message_does_not_wait_for_what_came_with_it(
    loop: str, names: int, first: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a host that is sent two pieces would be sent no third before it has stored both. Small ones share."""

    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)
            sent: list[int] = []
            flushed: list[list[int]] = []
            stream = other.engine.links[accepted]
            flush = stream.flush
            monkeypatch.setattr(stream, "flush", lambda: (sent.append(len(stream._pending)), flush()))

            def answer(number: int, message: wire.Message) -> list[effects.Effect]:
                flushed.append(list(sent))
                return [effects.Send(number, PING), effects.Send(number, PING)]

            other.node.on["received"] = answer
            fetch = wire.to_frame(wire.Fetch(1, tuple(bytes(64) for _ in range(names))))
            stream.data_received(fetch + fetch)
            assert flushed == [[], first], "what had been sent when the first came, and the second"
            assert link

    run(story, loop=loop)


def test_the_node_hears_of_an_end_once_and_of_one_that_it_wanted_not_at_all(loop: str) -> None:
    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)
            one.engine._close(effects.Close(link, "a test"))
            await until(lambda: other.node.told("closed"), "the other end has noticed")
            assert other.node.told("closed") == [(accepted,)]
            assert one.node.told("closed") == []

    run(story, loop=loop)


def test_what_was_sent_before_a_close_arrives(loop: str) -> None:
    async def story() -> None:
        async with running() as one, running() as other:
            link, _ = await greeted(one, other)
            names = tuple(bytes(64) for _ in range(50_000))
            one.send(link, wire.Fetch(1, names))
            one.send(link, wire.Goodbye(True))
            one.engine._close(effects.Close(link, "a test"))
            await until(lambda: other.node.told("closed"), "the other end has noticed")
            assert [type(message) for _, message in other.node.told("received")[1:]] == [wire.Fetch, wire.Goodbye]

    run(story, loop=loop)


def test_an_unreachable_host_is_said_to_be_and_named_once_in_the_log(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with running() as one:
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                name = f"127.0.0.1:{nobody.getsockname()[1]}"
                for times in (1, 2, 3):
                    one.dial(name)
                    await until(lambda times=times: len(one.node.told("unreachable")) == times, "it is said")
            assert one.node.told("unreachable") == [(name,)] * 3

    run(story, loop=loop)
    assert len([record for record in caplog.records if "cannot be reached" in record.getMessage()]) == 1


@pytest.mark.parametrize("name", ["", "nothing", "a:b", "127.0.0.1:99999999", "x" * 300 + ":1", "a..b:1", "\0:1"])
def test_a_name_from_gossip_that_is_none_is_unreachable(name: str) -> None:
    async def story() -> None:
        async with running() as one:
            one.dial(name)
            await until(lambda: one.node.told("unreachable"), "it is said")
            assert one.node.told("unreachable") == [(name,)]

    run(story)


def test_without_tls_nobody_beyond_this_machine_is_dialled() -> None:
    async def story() -> None:
        async with running() as one:
            one.dial("192.0.2.1:7946")
            await until(lambda: one.node.told("unreachable"), "it is said")

    started = time.monotonic()
    run(story)
    assert time.monotonic() - started < engines.DIALING


def test_without_tls_an_address_on_the_network_is_refused(tmp_path: Path) -> None:
    settings = Settings(seeds=(), me="192.0.2.1:7946", listen="192.0.2.1:7946", path=str(tmp_path))
    with pytest.raises(ConfigurationError, match="give tls="):
        engines.Engine(settings, None)  # type: ignore[arg-type]


def test_an_address_in_use_is_an_error_that_names_the_cure(loop: str) -> None:
    async def story() -> None:
        async with running() as one:
            other = engines.Engine(one.engine.settings, one.node)  # type: ignore[arg-type]
            with socket.socket() as sock, pytest.raises(ConfigurationError, match="listen="):
                await other.serve(sock)

    run(story, loop=loop)


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_who_says_no_hello_is_let_go(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GREETING", 0.1)

    async def story() -> None:
        async with running() as one:
            reader, writer = await connected(one)
            writer.write(wire.to_frame(HELLO)[:-1])  # a slow sender
            assert await is_closed(reader)
            assert one.node.told("received") == []
            writer.close()

    run(story, loop=loop)


def test_who_has_said_hello_is_not_let_go_for_being_quiet(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GREETING", 1.0)

    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)
            await asyncio.sleep(1.1)  # the time it would have had
            one.send(link, PING)
            await until(lambda: other.node.heard(accepted) == 2, "it still hears")

    run(story, loop=loop)


def test_the_oldest_of_too_many_silent_streams_makes_room(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MOST_GREETING", 8)

    async def story() -> None:
        async with running() as one, running() as honest:
            silent = [await connected(one) for _ in range(20)]
            await until(lambda: len(one.node.told("accepted")) == 20, "all were accepted")
            assert len(one.engine.links) <= 8
            assert await is_closed(silent[0][0])
            await greeted(honest, one)
            for _, writer in silent:
                writer.close()

    run(story, loop=loop)


def test_many_who_connect_at_once_do_not_keep_the_loop(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted, turn = list[int](), 0
    make_room = engines.Engine._make_room

    def noting(engine: engines.Engine) -> None:
        accepted.append(turn)
        make_room(engine)

    monkeypatch.setattr(engines.Engine, "_make_room", noting)

    async def story() -> None:
        nonlocal turn
        async with running() as one:
            host, _, port = one.engine.settings.me.rpartition(":")
            waiting = [socket.create_connection((host, int(port))) for _ in range(50)]
            while len(accepted) < len(waiting):
                await asyncio.sleep(0)
                turn += 1
            for sock in waiting:
                sock.close()

    run(story, loop=loop)
    assert max(map(accepted.count, accepted)) <= 2, "in one turn of the loop"


def test_there_are_no_more_streams_than_the_cap(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MOST_LINKS", 3)

    async def story() -> None:
        async with running() as one:
            taken = []
            for count in (1, 2, 3):
                taken.append(await connected(one))
                await until(lambda count=count: len(one.engine.links) == count, "it is accepted")
            reader, writer = await connected(one)
            assert await is_closed(reader)
            assert len(one.engine.links) == 3
            for _, other in (*taken, (reader, writer)):
                other.close()

    run(story, loop=loop)


def test_a_length_above_the_limit_closes_at_once(loop: str) -> None:
    async def story() -> None:
        async with running() as one:
            for size in (wire.MOST_HELLO + 1, wire.MOST + 1, 0xFFFFFFFF):
                reader, writer = await connected(one)
                writer.write(size.to_bytes(4, "big"))
                assert await is_closed(reader)
                writer.close()
            assert one.node.told("received") == []

    run(story, loop=loop)


def test_a_paused_host_blocks_then_drains(loop: str) -> None:
    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)
            other.engine.links[accepted].transport.pause_reading()
            names = tuple(bytes(64) for _ in range(10_000))
            sent = 0
            while not one.node.told("blocked"):
                one.send(link, wire.Fetch(sent, names))
                sent += 1
                await asyncio.sleep(0)
                assert sent < 100
            other.engine.links[accepted].transport.resume_reading()
            await until(lambda: one.node.told("drained"), "it has drained")
            await until(lambda: other.node.heard(accepted) == sent + 1, "all have come")
            assert one.node.told("blocked") == [(link,)] == one.node.told("drained")

    run(story, loop=loop)


def test_a_host_that_takes_nothing_is_given_up(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STALLED", 0.2)
    monkeypatch.setattr(engines, "HOUSEKEEPING", 0.05)

    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)
            other.engine.links[accepted].transport.pause_reading()
            names = tuple(bytes(64) for _ in range(100_000))
            for number in range(3):
                one.send(link, wire.Fetch(number, names))
            await until(lambda: one.node.told("closed"), "it is given up")
            assert one.node.told("blocked") == [(link,)]

    run(story, loop=loop)


def test_what_waits_for_a_host_is_bounded(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_WAITING", 4 << 20)

    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)
            other.engine.links[accepted].transport.pause_reading()
            names = tuple(bytes(64) for _ in range(20_000))
            for number in range(20):
                one.send(link, wire.Fetch(number, names))
            assert one.node.told("closed") == [(link,)]

    run(story, loop=loop)


# -- when the node fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is full"), ZeroDivisionError("a bug")])
def test_a_node_that_fails_over_a_message_costs_that_stream_only(loop: str, error: Exception) -> None:
    async def story() -> None:
        async with running() as one, running() as other:
            link, accepted = await greeted(one, other)

            def fail(*_: object) -> list[effects.Effect]:
                raise error

            other.node.on["received"] = fail
            one.send(link, PING)
            await until(lambda: one.node.told("closed"), "the stream is closed")
            assert other.node.told("closed") == [(accepted,)]
            del other.node.on["received"]
            one.node.events.clear()
            await greeted(one, other)

    run(story, loop=loop)


# -- time ------------------------------------------------------------------------------------------------------------


def test_the_node_ticks_when_it_wants_to(loop: str) -> None:
    async def story() -> None:
        async with running() as one:
            due = one.node.wanted = time.monotonic() + 0.05
            ticked = []

            def tick() -> list[effects.Effect]:
                ticked.append(time.monotonic())
                one.node.wanted = float("inf")
                return []

            one.node.on["tick"] = tick
            one.engine.turn_soon()
            await until(lambda: ticked, "it has ticked")
            assert ticked[0] >= due

    run(story, loop=loop)


def test_a_node_that_is_always_due_does_not_take_the_whole_loop() -> None:
    async def story() -> None:
        async with running() as one:
            one.node.wanted = 0.0
            began = time.monotonic()
            await until(lambda: len(one.node.told("tick")) >= 20, "it has ticked")
            assert time.monotonic() - began >= 20 * engines.SHORTEST * 0.5

    run(story)


def test_the_log_is_looked_at_without_a_nudge() -> None:
    async def story() -> None:
        async with running() as one:
            await until(lambda: len(one.node.told("written")) >= 3, "it was looked at")

    run(story)


# -- workers ---------------------------------------------------------------------------------------------------------


def test_a_worker_is_answered(loop: str) -> None:
    async def story() -> None:
        async with running() as one:
            one.node.on["asked"] = lambda worker, asked: [
                effects.Reply(worker, local.Settled(asked.number, 1, True)),
            ]
            reader, writer = await one.worker()
            writer.write(request(local.Await(7, b"n", 1, 1000)))
            answers: list[local.Answer] = []
            reading = Answers()
            while not answers:
                answers.extend(reading.feed(await reader.read(4096)))
            assert answers == [local.Settled(7, 1, True)]
            assert not one.node.told("gone")
            writer.close()
            await until(lambda: one.node.told("gone"), "it is gone")

    run(story, loop=loop)


def test_many_requests_at_once_are_one_look_into_the_log(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "POLL", 60.0)

    async def story() -> None:
        async with running() as one:
            _, writer = await one.worker()
            await until(lambda: one.engine.workers, "it is there")
            awaits = b"".join(request(local.Await(number, b"n", number, 1)) for number in range(50))
            writer.write(awaits + request(local.Nudge()) * 50)
            await until(lambda: one.node.told("written"), "the node looks")
            assert len(one.node.told("asked")) == 50
            assert len(one.node.told("written")) == 1
            asked_before = [event[0] for event in one.node.events].index("written")
            assert asked_before > 50
            writer.close()

    run(story, loop=loop)


@pytest.mark.parametrize("rubbish", [b"\xff" * 8, b"\0\0\0\1\xc1", b"\0\0\0\x03\x91\xa1X", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_worker_that_speaks_rubbish_is_let_go_and_asks_nothing(loop: str, rubbish: bytes) -> None:
    async def story() -> None:
        async with running() as one:
            reader, writer = await one.worker()
            writer.write(rubbish)
            assert await is_closed(reader)
            assert one.node.told("asked") == []
            await until(lambda: not one.engine.workers, "it is forgotten")
            writer.close()

    run(story, loop=loop)


def test_there_are_no_more_workers_than_the_cap(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_WORKERS", 2)

    async def story() -> None:
        async with running() as one:
            held = [await one.worker() for _ in range(2)]
            await until(lambda: len(one.engine.workers) == 2, "they are there")
            reader, writer = await one.worker()
            assert await is_closed(reader)
            assert one.node.told("gone") == []
            for _, other in (*held, (reader, writer)):
                other.close()

    run(story, loop=loop)


def test_another_users_process_is_refused(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with running() as one:
            sock = engines.channel.connect(one.directory, 0)
            monkeypatch.setattr("os.geteuid", lambda: 12345)
            reader, writer = await asyncio.open_connection(sock=sock)
            assert await is_closed(reader)
            monkeypatch.undo()
            assert one.node.told("asked") == []
            writer.close()

    run(story, loop=loop)


def test_without_workers_the_engine_ends_by_itself(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "HOUSEKEEPING", 0.02)

    async def story() -> None:
        async with running(linger=0.1) as one:
            _, writer = await one.worker()
            await until(lambda: one.engine.workers, "it is there")
            await asyncio.sleep(0.3)
            assert not one.engine._stopped.is_set()
            writer.close()
            await until(one.engine._stopped.is_set, "it ends")

    run(story, loop=loop)


def test_a_node_that_has_left_ends_the_engine_after_its_last_answer(loop: str) -> None:
    async def story() -> None:
        async with running() as one:
            one.node.on["asked"] = lambda worker, asked: [
                effects.Reply(worker, local.View(asked.number, {"left": True})),
                effects.End(),
            ]
            reader, writer = await one.worker()
            writer.write(request(local.Leave(1, 1000)))
            data = await reader.read()
            assert list(Answers().feed(data)) == [local.View(1, {"left": True})]
            assert one.engine._stopped.is_set()
            writer.close()

    run(story, loop=loop)


def test_reports_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running() as one:
            one.engine._perform[effects.Report](effects.Report("warning", "something is odd"))

    run(story)
    assert ("sojourn.cluster", logging.WARNING, "something is odd") in caplog.record_tuples
