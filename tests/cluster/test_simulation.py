"""Simulated clusters keep their promises, whatever goes wrong: 250 seeds here, 250 in the file beside it.

They are two files so that two processes run them. `make nightly` runs ten thousand.
"""

from __future__ import annotations

import sys
from random import Random

import pytest
from tests.cluster import seeds

from sojourn.testing import simulation
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
