"""The simulated network behaves as streams do: in order, or broken."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

from sojourn.cluster import wire
from sojourn.testing.sim_faults import Faults
from sojourn.testing.sim_network import FULL, SLOWEST_DIAL, SimNetwork


class Recorder:
    """A host that writes down what it is told."""

    def __init__(self, name: str, network: SimNetwork) -> None:
        self.name, self.up, self.asleep_until = name, True, 0.0
        self.agent_up, self.ended, self.tables = True, False, SimpleNamespace(fails_in=0)
        self.heard: list[tuple[object, ...]] = []
        self.links: list[int] = []
        network.hosts[name] = self

    def dialed(self, link: int, name: str) -> None:
        self.links.append(link)
        self.heard.append(("dialed", name))

    def unreachable(self, name: str) -> None:
        self.heard.append(("unreachable", name))

    def accepted(self, link: int, name: str) -> None:
        self.links.append(link)
        self.heard.append(("accepted", name))

    def received(self, link: int, message: wire.Message) -> None:
        assert isinstance(message, wire.Fetch)
        self.heard.append(("received", message.number))

    def closed(self, link: int) -> None:
        self.heard.append(("closed",))

    def blocked(self, link: int) -> None:
        self.heard.append(("blocked",))

    def drained(self, link: int) -> None:
        self.heard.append(("drained",))

    @property
    def numbers(self) -> list[object]:
        return [what[1] for what in self.heard if what[0] == "received"]


def two(**settings: float) -> tuple[SimNetwork, Recorder, Recorder]:
    network = SimNetwork(Random(1), **settings)  # type: ignore[arg-type]
    one, other = Recorder("a", network), Recorder("b", network)
    network.dial("a", "b")
    network.clock.run(0.5)
    assert one.heard == [("dialed", "b")]
    assert other.heard == [("accepted", "a")]
    return network, one, other


def send(network: SimNetwork, link: int, first: int, last: int) -> None:
    for number in range(first, last):
        network.send(link, wire.Fetch(number, ()))


def test_messages_arrive_in_order_and_both_ways() -> None:
    network, one, other = two()
    send(network, one.links[0], 0, 40)
    send(network, other.links[0], 100, 140)
    network.clock.run(2.0)
    assert other.numbers == list(range(40))
    assert one.numbers == list(range(100, 140))


def test_what_a_cut_withholds_comes_when_it_heals_and_the_other_direction_goes_on() -> None:
    network, one, other = two()
    network.cut([("a", "b")])
    send(network, one.links[0], 0, 3)
    send(network, other.links[0], 10, 13)
    network.clock.run(2.0)
    assert (one.numbers, other.numbers) == ([10, 11, 12], [])
    send(network, one.links[0], 3, 5)
    network.heal()
    send(network, one.links[0], 5, 6)
    network.clock.run(4.0)
    assert other.numbers == [0, 1, 2, 3, 4, 5]


def test_a_broken_stream_loses_what_is_under_way_and_both_ends_hear_of_it() -> None:
    network, one, other = two()
    send(network, one.links[0], 0, 3)
    network.break_stream("a", "b")
    send(network, one.links[0], 3, 5)
    network.clock.run(2.0)
    assert one.heard[1:] == other.heard[1:] == [("closed",)]


def test_what_was_sent_before_a_stream_is_closed_arrives_first() -> None:
    network, one, other = two()
    send(network, one.links[0], 0, 3)
    network.close(one.links[0])
    network.clock.run(2.0)
    assert other.numbers == [0, 1, 2]
    assert other.heard[-1] == ("closed",)
    assert one.heard == [("dialed", "b")]


def test_a_paused_host_hears_everything_when_it_goes_on() -> None:
    network, one, other = two()
    other.asleep_until = 3.0
    send(network, one.links[0], 0, 3)
    network.clock.run(2.9)
    assert other.numbers == []
    network.clock.run(3.1)
    assert other.numbers == [0, 1, 2]


def test_a_host_that_is_paused_when_all_faults_end_hears_nothing_new_before_what_is_old() -> None:
    network, one, other = two()
    other.asleep_until = 3.0
    send(network, one.links[0], 0, 3)
    network.clock.run(2.0)
    Faults(network, [], Random(1), lambda: [other], ()).end_all()  # type: ignore[list-item,return-value]
    send(network, one.links[0], 3, 6)
    network.clock.run(3.1)
    assert other.numbers == [0, 1, 2, 3, 4, 5]


def test_a_writer_whose_reader_is_away_is_told_to_wait_and_then_to_go_on() -> None:
    network, one, _ = two()
    network.cut([("a", "b")])
    send(network, one.links[0], 0, 2 * FULL)
    network.clock.run(1.0)
    assert one.heard[1:] == [("blocked",)]
    network.heal()
    network.clock.run(3.0)
    assert one.heard[1:] == [("blocked",), ("drained",)]


def test_a_killed_hosts_kernel_closes_its_streams_and_a_dead_machine_does_not() -> None:
    network, one, other = two()
    other.up = False
    network.forget("b", politely=True)
    network.clock.run(1.0)
    assert one.heard[1:] == [("closed",)]
    network, one, other = two()
    other.up = False
    network.forget("b", politely=False)
    network.clock.run(2.0)
    assert one.heard[1:] == []
    other.up = True
    network.reset("b")
    network.clock.run(3.0)
    assert one.heard[1:] == [("closed",)]


def test_a_dial_into_the_void_fails_late_and_one_to_a_dead_host_at_once() -> None:
    network, one, other = two()
    network.cut([("b", "a")])
    network.dial("a", "b")
    network.clock.run(0.5 + 0.9 * SLOWEST_DIAL)
    assert one.heard[1:] == []
    network.clock.run(2.0)
    assert one.heard[1:] == [("unreachable", "b")]
    network.heal()
    other.up = False
    network.dial("a", "b")
    network.clock.run(2.1)
    assert one.heard[2:] == [("unreachable", "b")]


def test_some_messages_arrive_twice_where_that_is_asked_for() -> None:
    network, one, other = two(repeats=0.5)
    send(network, one.links[0], 0, 200)
    network.clock.run(9.0)
    assert sorted({*other.numbers}) == list(range(200))  # type: ignore[type-var]
    assert 250 < len(other.numbers) < 350


def test_the_same_seed_is_the_same_history() -> None:
    heard = []
    for _ in range(2):
        network, one, other = two(delay=0.01)
        send(network, one.links[0], 0, 50)
        network.clock.run(0.52)
        heard.append((network.clock.now, other.numbers))
    assert heard[0] == heard[1]
