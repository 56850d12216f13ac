"""Simulated clusters keep their promises, whatever goes wrong: 250 seeds here, 250 in the file beside it.

They are two files so that two processes run them. `make nightly` runs ten thousand.
"""

from __future__ import annotations

import sys
from random import Random

import pytest
from tests.cluster import seeds
from tests.cluster.pump import key_of, record

from sojourn.testing import simulation
from sojourn.testing.fakes import START
from sojourn.testing.sim_bounds import BOUNDS, bounded
from sojourn.testing.sim_checks import check
from sojourn.testing.sim_history import Sent, from_lines, to_lines
from sojourn.testing.sim_shape import Shape
from sojourn.testing.simulation import Simulation

EACH = 25


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 250, EACH))
def test_no_acknowledged_write_is_lost_and_nobody_sees_an_older_session(first: int) -> None:
    seeds.run(first, first + EACH)


def test_a_small_cluster_keeps_its_promises_and_its_history_can_be_read_elsewhere() -> None:
    history = Simulation(1, Shape(browsers=3, requests=10)).run()
    assert check(history) == []
    assert from_lines(to_lines(history)) == history
    assert sum(isinstance(line, Sent) for line in history) > 20


def test_a_host_that_joins_has_a_name_of_its_own_also_where_another_has_left() -> None:
    simulation = Simulation(2, Shape(browsers=2, requests=8, joins=True, leaves=True, seconds=3.0))
    names = {host.name for host in simulation.members}
    simulation._leave()
    simulation._advance(3.0)
    simulation._join()
    assert simulation.members[-1].name not in names


def test_of_a_write_on_another_host_it_is_noted_on_how_many_disks_it_is() -> None:
    simulation = Simulation(3, Shape(hosts=3))
    for host in simulation.members:
        host.start()
    one, other, _ = simulation.members
    key = key_of("s")
    one.tables.perform("create", (key, record(START)))
    assert one._beside(key) == 0
    other.tables.accept(one.tables.copies((key,)))
    assert one._beside(key) == 1
    one.tables.perform("delete", (key,))
    assert one._beside(key) == 0


def test_a_request_to_a_host_that_is_down_is_lost_and_keeps_nobody_busy() -> None:
    simulation = Simulation(3, Shape(hosts=3))
    host, lost = simulation.members[0], list[bool]()
    simulation.browsers[0].send("write", host, lambda: lost.append(True))
    simulation._advance(1.0)
    assert lost
    assert not host.is_busy


def test_a_seed_can_be_repeated(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_repeatable", lambda: None)
    assert simulation.main(["7", "--story"]) == 0
    assert "0 promises broken" in capfd.readouterr().out
    lines = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdout", binary := Binary())
        assert simulation.main(["7", "--lines"]) == 0
        lines.append(binary.buffer.written)
    assert lines[0] == lines[1]


class Binary:
    """An output that keeps what is written."""

    def __init__(self) -> None:
        self.buffer, self.written = self, b""

    def write(self, data: bytes) -> None:
        self.written += data


def test_small_bounds_are_put_back() -> None:
    before = [getattr(place, name) for place, name, _ in BOUNDS]
    with bounded(Random(1)):
        within = [getattr(place, name) for place, name, _ in BOUNDS]
    assert [getattr(place, name) for place, name, _ in BOUNDS] == before
    assert 0 < sum(one < other for one, other in zip(within, before, strict=True)) < len(BOUNDS)
    with bounded(None):
        assert [getattr(place, name) for place, name, _ in BOUNDS] == before
