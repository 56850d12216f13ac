"""Bytes that are no messages never reach the node: their stream ends, and the engine goes on."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from itertools import count
from typing import Any

import msgspec
import pytest
from tests.cluster.pump import Pump
from tests.servers.certificates import Authority
from tests.store.peers.wires import HELLO, PoliteNode, connected, directories, is_closed, run, running

from sojourn.cluster import wire
from sojourn.cluster.clock import Stamp
from sojourn.cluster.replica import Cell, Head, Mark, Replica, Times
from sojourn.cluster.settings import Settings
from sojourn.cluster.wire import LENGTH, Change, Changes, Progress, to_frame
from sojourn.store.peers import streams
from sojourn.store.peers.engine import Engine
from sojourn.store.peers.streams import HostStream

FRAMES = 100_000
OVER_SOCKETS = 1_000
STAMP = Stamp(7, b"orig")
REPLICA = Replica(
    {"user": Cell(STAMP, b"\x07")}, Head(STAMP, 1, "principal", 60), Times(STAMP, 1, 2), {b"orig": Mark(7, 1)}
)
CHANGES = Changes(b"orig", 0, Progress(7, 7), (Change(bytes(32), 7, True, REPLICA),))
OTHERS = [
    CHANGES,
    wire.Stored(b"orig", Progress(1, 1)),
    wire.Ping(1, (), {}),
    wire.Pull(b"orig", 0, 0),
    wire.Fetch(1, (bytes(32),)),
    wire.Do(1, "load", (bytes(32),)),
    wire.Goodbye(True),
]


class Tape:
    """A transport without a socket: it notes whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def abort(self) -> None:
        self.closed = True

    close = abort

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _: str) -> None:
        return None

    def set_write_buffer_limits(self, *_: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, _: bytes) -> None:
        pass


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH, "big") + body


def truncated(dice: random.Random) -> bytes:
    """A body that ends too early, in a frame of the right length."""
    body = to_frame(dice.choice(OTHERS))[LENGTH:]
    return framed(body[: dice.randrange(len(body))])


def noise(dice: random.Random) -> bytes:
    return framed(b"\xc1" + dice.randbytes(dice.randrange(64)))


def plain_noise(dice: random.Random) -> bytes:
    """Without a length of its own; its first byte makes it one that is refused."""
    return bytes([dice.randrange(1, 256)]) + dice.randbytes(dice.randrange(3, 64))


def wrong_length(dice: random.Random) -> bytes:
    return dice.randrange(wire.MOST + 1, 1 << 32).to_bytes(LENGTH, "big") + to_frame(HELLO)


def wrong_kind(dice: random.Random) -> bytes:
    name = dice.choice(["Hallo", "", "__reduce__", "hello", 7, None, ["Hello"]])
    return framed(msgspec.msgpack.encode([name, *range(dice.randrange(9))]))


def wrong_types(dice: random.Random) -> bytes:
    values: list[Any] = [None, "x", {"a": 1}, [[]], 1.5, True]
    return framed(msgspec.msgpack.encode(["Changes", *(dice.choice(values) for _ in range(4))]))


def deep(dice: random.Random) -> bytes:
    return framed(b"\x91" * dice.randrange(2_000, 5_000) + b"\xc0")


def client_hello(_: random.Random) -> bytes:
    return _tls()


@cache
def _tls() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(incoming, outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    return outgoing.read()


KINDS: list[Callable[[random.Random], bytes]] = [truncated, noise, plain_noise, wrong_length, wrong_kind, wrong_types]
RARE: list[Callable[[random.Random], bytes]] = [deep, client_hello]


def garbage(dice: random.Random) -> bytes:
    return dice.choice(RARE if dice.random() < 0.01 else KINDS)(dice)


@pytest.mark.slow
def test_fuzzed_frames_never_reach_the_node_and_end_their_stream() -> None:
    dice = random.Random(97)

    async def story() -> None:
        node = PoliteNode()
        settings = Settings(seeds=(), me="127.0.0.1:1", listen="127.0.0.1:1", path="/")
        engine = Engine(settings, node)  # type: ignore[arg-type]
        engine._loop = asyncio.get_running_loop()
        for number in range(FRAMES):
            tape, link = Tape(), HostStream(engine)
            link.connection_made(tape)  # type: ignore[arg-type]
            told = greet(link) if number % 2 else 0  # every other one is a host that goes mad after its hello
            data = garbage(dice)
            split = dice.randrange(len(data) + 1)
            link.data_received(data[:split])
            link.data_received(data[split:])
            assert tape.closed, data
            assert node.heard(link.number) == told, data
            assert node.told("closed") == [(link.number,)]
            link.connection_lost(None)
            node.events.clear()
            if number % 1_000 == 0:
                await asyncio.sleep(0)
        assert not engine.links
        assert not engine._greeting
        assert not engine._leaving

    def greet(link: HostStream) -> int:
        link.data_received(to_frame(HELLO))
        assert link._frames.greeted
        return 1

    run(story)


def test_no_other_message_is_read_before_hello() -> None:
    async def story() -> None:
        async with running() as one:
            for message in OTHERS:
                reader, writer = await connected(one)
                writer.write(to_frame(message))
                assert await is_closed(reader)
                writer.close()
            assert one.node.told("received") == []

    run(story)


@pytest.mark.slow
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_fuzzed_frames_over_real_sockets_leave_the_engine_serving(secured: bool) -> None:
    dice = random.Random(98)

    async def story() -> None:
        with directories() as path:
            authority = Authority()
            authority.host(path, "127.0.0.1")
            async with running(path if secured else None) as one:
                for _ in range(OVER_SOCKETS):
                    reader, writer = await connected(one)  # with TLS this is plaintext into it
                    writer.write(garbage(dice))
                    writer.write_eof()
                    assert await is_closed(reader)
                    writer.close()
                assert one.node.told("received") == []
                if secured:
                    assert one.node.told("accepted") == []
                async with running(path if secured else None) as other:
                    other.dial(one.engine.settings.me)
                    while not other.node.told("received"):
                        await asyncio.sleep(0.01)

    run(story)


@pytest.mark.slow
def test_ten_million_bytes_of_damaged_messages_harm_no_reader_and_no_node() -> None:
    """Frames of real messages with some bits turned: what can still be read goes to a real node, as of a host."""
    dice = random.Random(96)
    pump = Pump("a:1", "b:1")
    pump.start_all()
    assert pump.run(5, lambda: pump.is_ready("a:1") and pump.is_ready("b:1"))
    node, size, read, numbers = pump.machines["a:1"].node, 0, 0, count(10_000)
    link = began_as_host(pump, next(numbers))
    started = time.process_time()
    while size < 10_000_000:
        body = bytearray(to_frame(dice.choice([*OTHERS, HELLO]))[LENGTH:])
        for _ in range(dice.randrange(1, 9)):
            body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
        size += LENGTH + len(body)
        frames = wire.Frames()
        frames.greeted = True
        try:
            (message,) = frames.feed(framed(bytes(body)))
        except wire.Malformed:
            continue
        read += 1
        if link not in node.host.links:
            link = began_as_host(pump, next(numbers))
        node.received(link, message, pump.now)
    assert read > 1_000
    assert time.process_time() - started < 120  # some 100 bytes each, so that no one of them takes long
    assert pump.create("b:1", "afterwards", n="1").enough


def began_as_host(pump: Pump, link: int) -> int:
    """Open a stream to the first host as a third one that says hello; return its number."""
    node = pump.machines["a:1"].node
    node.accepted(link, None, pump.now)
    node.received(link, wire.Hello(wire.VERSIONS, "sojourn", "copies=all", "c:1", b"orig", {}, ()), pump.now)
    assert node.host.links[link].greeted
    return link


@pytest.mark.parametrize("greeted", [False, True], ids=["before hello", "after hello"])
def test_a_length_is_only_a_promise_and_takes_no_memory(greeted: bool) -> None:
    frames = wire.Frames()
    frames.greeted = greeted
    most = wire.MOST if greeted else wire.MOST_HELLO
    tracemalloc.start()
    try:
        assert list(frames.feed(most.to_bytes(LENGTH, "big") + b"x")) == []
        with pytest.raises(wire.Malformed, match="at most"):
            list(wire.Frames().feed(b"\xff" * LENGTH))
        assert tracemalloc.get_traced_memory()[1] < 65_536
    finally:
        tracemalloc.stop()


def test_a_hello_that_comes_byte_by_byte_has_no_more_time_than_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GREETING", 0.3)
    hello = to_frame(HELLO)

    async def story() -> None:
        async with running() as one:
            reader, writer = await connected(one)
            ended = asyncio.create_task(is_closed(reader))
            for number in range(len(hello) - 1):
                writer.write(hello[number : number + 1])
                await asyncio.wait([ended], timeout=0.02)
                if ended.done():
                    break
            assert await ended
            assert one.node.told("received") == []
            writer.close()

    run(story)


def test_a_bomb_of_nested_or_repeated_values_costs_little() -> None:
    """A frame before hello is 64 KiB at most, and what it decodes to is bounded by that."""
    bodies = [b"\x91" * (wire.MOST_HELLO - 1) + b"\xc0", b"\x95\xa5Hello\xdc\xff\xff" + b"\x01" * 65_000]
    began = time.process_time()
    for body in bodies:
        for _ in range(100):
            with pytest.raises(wire.Malformed):
                list(wire.Frames().feed(framed(body)))
    assert time.process_time() - began < 2.0
