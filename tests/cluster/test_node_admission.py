"""Who may be in the cluster: with ``members=`` only hosts of these names, whoever signed for the others."""

from __future__ import annotations

import pytest
from tests.cluster.pump import Pump

from sojourn.cluster import wire
from sojourn.cluster.effects import Close, Send

A, B, D = "a.shop:1", "b.shop:1", "d.ads:1"


@pytest.fixture
def pump() -> Pump:
    pump = Pump(A, B, members=("*.shop",))
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in pump.names))
    return pump


def texts(pump: Pump, name: str) -> list[str]:
    return [report.text for report in pump.machines[name].reports]


def sent_between(pump: Pump, one: str, other: str) -> set[str]:
    return {type(message).__name__ for by, to, message in pump.log if (by, to) == (one, other)}


def test_a_host_of_another_name_is_refused_and_told_nothing_else(pump: Pump) -> None:
    pump.seeds = (D, A, B)
    pump.start(D, members=())
    pump.run(5)
    assert not pump.machines[D].node.host.peers
    assert sent_between(pump, A, D) == sent_between(pump, B, D) == {"Refused"}
    assert pump.state(A, D) is None
    assert pump.state(B, D) is None
    assert "a.shop:1 has members=, and d.ads:1 is none of them" in " ".join(texts(pump, A))
    assert "a.shop:1 does not let this host in: a.shop:1 has members=" in " ".join(texts(pump, D))


def test_a_host_that_joins_later_under_a_name_of_the_pattern_is_let_in(pump: Pump) -> None:
    pump.seeds = ("c.shop:1", A)
    pump.start("c.shop:1")
    assert pump.run(5, lambda: pump.state(A, "c.shop:1") == pump.state(B, "c.shop:1") == "alive")


def test_a_stream_whose_certificate_names_no_member_is_refused_before_it_has_said_a_word(pump: Pump) -> None:
    node = pump.machines[A].node
    effects = node.accepted(9001, frozenset({"d.ads", "10.0.0.1", "*.shop", "a.b.shop", "shop", ".shop"}), pump.now)
    assert [(type(one), one.link) for one in effects if isinstance(one, Send | Close)] == [(Send, 9001), (Close, 9001)]
    refused = next(one.message for one in effects if isinstance(one, Send))
    assert isinstance(refused, wire.Refused)
    assert "none of them is the certificate's *.shop, .shop, 10.0.0.1, a.b.shop, d.ads, shop" in refused.why
    assert node.received(9001, pump.machines[B].node.links.hello(), pump.now) == []


def test_a_member_by_its_certificate_may_not_call_itself_by_a_name_that_is_none(pump: Pump) -> None:
    node = pump.machines[A].node
    hello = pump.machines[B].node.links.hello()
    hello.name, hello.origin = D, b"ddd1"
    node.accepted(9001, frozenset({"b.shop", "d.ads"}), pump.now)
    effects = node.received(9001, hello, pump.now)
    assert [one.message for one in effects if isinstance(one, Send)] == [
        wire.Refused("a.shop:1 has members=, and d.ads:1 is none of them")
    ]
    assert pump.state(A, D) is None


def test_gossip_about_a_host_of_another_name_is_not_believed_and_nobody_dials_it(pump: Pump) -> None:
    """As where a neighbour has not been given the setting yet."""
    pump.kill(B)
    pump.seeds = (B, A, D)
    pump.start(B, members=())
    pump.start(D, members=())
    assert pump.run(5, lambda: pump.state(B, D) == pump.state(A, B) == "alive")
    pump.run(10)
    assert pump.state(A, D) is None
    assert sent_between(pump, A, D) == {"Refused"}  # who dials says hello
    assert pump.machines[A].node.host.members.placed() == {A, B}


def test_that_a_neighbour_knows_a_host_of_another_name_is_no_reason_to_tell_everything_all_the_time(
    pump: Pump,
) -> None:
    pump.kill(B)
    pump.seeds = (B, A, D)
    pump.start(B, members=())
    pump.start(D, members=())
    pump.run(15)
    pump.log.clear()
    pump.run(30)
    full = [one for by, to, one in pump.log if isinstance(one, wire.Ping) and one.members and (by, to) == (A, B)]
    assert len(full) <= 4


def test_streams_that_were_never_closed_do_not_add_up(pump: Pump) -> None:
    """As of a host that lost its power again and again: nobody has told this one that the streams are gone."""
    node = pump.machines[A].node
    hello = pump.machines[B].node.links.hello()
    hello.name, hello.origin = "c.shop:1", b"ccc1"
    closed: list[int] = []
    for number in range(9000, 9100):
        node.accepted(number, frozenset({"c.shop"}), pump.now)
        closed += [one.link for one in node.received(number, hello, pump.now) if isinstance(one, Close)]
    assert closed == list(range(9000, 9099))
    assert [link.number for link in node.host.links.values() if link.name == "c.shop:1"] == [9099]


def test_a_host_that_was_a_member_before_the_setting_was_given_is_none_any_more(pump: Pump) -> None:
    open_to_all = Pump(A, B, D)
    open_to_all.start_all()
    assert open_to_all.run(5, lambda: open_to_all.state(A, D) == "alive")
    open_to_all.kill(A)
    open_to_all.seeds = (A, B)
    open_to_all.start(A, members=("*.shop",))
    open_to_all.run(5)
    assert open_to_all.state(A, D) is None
    assert open_to_all.state(A, B) == "alive"
