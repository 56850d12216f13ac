"""More seeds of what ``test_simulation`` tests, for a second process; and the mutants that they must reject."""

from __future__ import annotations

import pytest
from tests.cluster import seeds
from tests.cluster.simulation_mutants import MUTANTS, SHAPES

from sojourn.testing.simulation import judge

EACH = 25
WITHIN = 60  # seeds; nearly all mutants are rejected by one of the first ten


@pytest.mark.slow
@pytest.mark.parametrize("first", range(250, 500, EACH))
def test_no_acknowledged_write_is_lost_and_nobody_sees_an_older_session(first: int) -> None:
    seeds.run(first, first + EACH)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_rejected(name: str) -> None:
    with MUTANTS[name]():
        assert any(judge(seed, SHAPES.get(name)).findings for seed in range(WITHIN)), f"{name} survives"
