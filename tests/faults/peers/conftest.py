"""What all tests with real hosts go by: how many trials, and how long a fault lasts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.faults.peers.hosts import Hosts

TRIALS = int(os.environ.get("SOJOURN_TRIALS", "5"))
"""How often a host is killed; the nightly target asks for 200."""
LONG = TRIALS > 10
"""Whether there is time for faults of their full length."""


@pytest.fixture(scope="module")
def _three(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    with Hosts(3, **getattr(request.module, "SETTINGS", {})) as hosts:
        yield hosts


@pytest.fixture
def hosts(_three: Hosts) -> Hosts:
    """Three hosts that the tests of a file share: to start them takes seconds. All is well with them."""
    for host in _three:
        host.resume()
        if not host.is_well():
            host.kill()
            host.start()
    _three.meet()
    return _three
