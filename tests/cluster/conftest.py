"""What tests of nodes share: three hosts that have met."""

from __future__ import annotations

import pytest
from tests.cluster.pump import Pump


@pytest.fixture
def pump() -> Pump:
    pump = Pump("a:1", "b:1", "c:1")
    pump.start_all()
    assert pump.run(5, lambda: all(pump.is_ready(name) for name in pump.names))
    return pump
