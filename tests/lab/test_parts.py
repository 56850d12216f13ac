"""Parts of the lab by themselves: the cart's arithmetic, ports, settings."""

import asyncio
import socket

import pytest

from sojourn.cluster.settings import Settings as Cluster
from sojourn.errors import ConfigurationError
from sojourn.lab.cart import MOST, Cart, change, merge, total
from sojourn.lab.gathering import GatheringTransport
from sojourn.lab.ports import Berth, address_of, listen
from sojourn.lab.settings import MOST_NODES, Settings
from sojourn.lab.urls import settings_in, url_of

# -- the cart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "found", "written", "merged"),
    [
        ({"tent": 1}, {"tent": 2}, {"tent": 2}, {"tent": 3}),
        ({"tent": 1}, {"tent": 1, "map": 1}, {"tent": 1, "kettle": 1}, {"tent": 1, "map": 1, "kettle": 1}),
        ({"tent": 2}, {"tent": 1}, {"tent": 1}, {}),
        ({"tent": 1}, {}, {}, {}),
        (None, {"tent": 1}, {"tent": 1}, {"tent": 2}),
        ({"tent": 1}, None, {"tent": 2}, {"tent": 1}),
        ({"tent": 1}, {"tent": 2}, None, {"tent": 1}),
    ],
)
def test_two_changes_of_one_cart_both_count(
    read: Cart | None, found: Cart | None, written: Cart | None, merged: Cart
) -> None:
    assert merge(read, found, written) == merged


def test_a_merge_changes_none_of_the_carts_it_was_given() -> None:
    found = {"tent": 1}
    merge({}, found, {"tent": 1})
    assert found == {"tent": 1}


def test_a_cart_holds_a_bounded_number() -> None:
    cart = {"map": MOST}
    change(cart, "map", 1)
    assert cart == {"map": MOST}


def test_the_total_is_exact() -> None:
    assert total({"map": 3, "lantern": 2}) == 3 * 990 + 2 * 2450


# -- ports -------------------------------------------------------------------------------------------------


def connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_a_berth_refuses_connections_while_its_server_is_dead_and_lets_nobody_else_in() -> None:
    berth = Berth()
    port = berth.address.port
    for _ in range(2):
        assert not connects(port)
        with pytest.raises(ConfigurationError, match=f"port {port} cannot be used"):
            listen(port)
        with berth.listener():
            assert connects(port)
    berth.close()
    listen(port).close()


def test_a_port_in_use_is_refused_with_the_cure() -> None:
    with listen() as sock, pytest.raises(ConfigurationError, match="choose another with --port"):
        listen(address_of(sock).port)


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"nodes": 0}, "nodes=0: give a number from 1 to 9"),
        ({"nodes": MOST_NODES + 1}, "nodes=10: give a number from 1 to 9"),
        ({"port": -1}, "port=-1: give a number up to 65535"),
        ({"port": 65536}, "port=65536: give a number up to 65535"),
        ({"balancer": "abacus"}, "balancer='abacus': give one of caddy, nginx"),
        ({"store": "memory:"}, "each of 3 nodes would have its own; use --store local:, or --nodes 1"),
        ({"store": "shoebox:"}, "shoebox:"),
        ({"store": "shoebox"}, "no store URL"),
        ({"store": "peers://app1.example,app2.example"}, "a demo makes hosts of its own"),
        ({"store": "peers:?path=/var/lib/shop"}, "path= is given to each host by the demo"),
        ({"store": "peers:?self=127.0.0.1:1"}, "self= is given to each host by the demo"),
        ({"store": "peers:?copies=none"}, "copies=none"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_cure(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings(**settings)  # type: ignore[arg-type]
    assert says in str(refused.value)


@pytest.mark.parametrize("store", ["peers:", "peers:?copies=2&acks=all&alone=refuse"])
def test_hosts_of_the_demo_s_own_may_be_given_settings(store: str) -> None:
    settings = settings_in(Settings(store=store).store)
    url = url_of("127.0.0.1:1", ["127.0.0.1:1", "127.0.0.1:2"], "127.0.0.1:3", "/tmp/a b", settings)
    found = Cluster.from_url(url)
    assert (found.me, found.seeds, found.listen) == ("127.0.0.1:1", ("127.0.0.1:1", "127.0.0.1:2"), "127.0.0.1:3")
    assert (found.path, found.sync, found.copies) == ("/tmp/a b", False, 2 if settings else None)


def test_one_node_may_keep_sessions_in_its_memory() -> None:
    assert Settings(nodes=1, store="memory:").nodes == 1


# -- answers in one piece ----------------------------------------------------------------------------------


class Recorder(asyncio.Transport):
    """A transport that notes each system call it would make."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")


def test_head_and_body_leave_together() -> None:
    """A node killed between the two would leave an answer that the balancer can no longer ask another node for."""

    async def answer_twice() -> list[bytes | str]:
        below = Recorder()
        transport = GatheringTransport(below, asyncio.get_running_loop())
        transport.write(b"head ")
        transport.write(b"body")
        await asyncio.sleep(0)
        transport.write(b"last ")
        transport.write(b"words")
        transport.close()
        await asyncio.sleep(0)
        return below.calls

    assert asyncio.run(answer_twice()) == [b"head body", b"last words", "close"]
