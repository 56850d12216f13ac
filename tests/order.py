"""In which order the files of tests go to the processes of pytest-xdist.

Each process gets a file at a time, and a long one at the end leaves the other processes idle. By itself xdist begins
with the files that have the most tests; here these are quick ones, and the simulations and the fault tests come last.
So files whose seconds are known go first, the longest at the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

SECONDS: Mapping[str, int] = {
    "store/peers/test_contract.py": 160,
    "cluster/test_simulation_more.py": 101,
    "cluster/test_simulation.py": 89,
    "lab/test_demo.py": 75,
    "store/redis/test_loop_contract.py": 67,
    "store/redis/test_blocking.py": 64,
    "faults/peers/test_copies.py": 53,
    "faults/test_redis_failover.py": 48,
    "store/test_local.py": 48,
    "lab/test_hosts.py": 46,
    "store/redis/test_cancellation.py": 41,
    "store/memcached/test_contract.py": 38,
    "faults/test_network.py": 37,
    "cli/test_cluster_hosts.py": 36,
    "faults/peers/test_partition.py": 25,
    "store/memcached/test_faults.py": 22,
    "store/test_contract.py": 20,
    "faults/test_judge.py": 18,
    "faults/test_redis_stops.py": 18,
    "cluster/test_node_cost.py": 17,
    "servers/test_groups.py": 17,
    "faults/peers/test_pause.py": 17,
    "store/memcached/test_verbs.py": 16,
    "faults/peers/test_kill.py": 15,
    "faults/peers/test_restart.py": 15,
    "test_docs.py": 14,
    "faults/test_cancelled_requests.py": 14,
    "lab/test_browser.py": 13,
    "store/peers/test_sessions.py": 13,
    "store/peers/test_agent.py": 13,
    "store/test_capability_contract.py": 11,
    "cluster/test_node_upgrade.py": 11,
    "servers/test_servers.py": 11,
    "transport/test_cookie.py": 11,
}
"""What a file took on a busy machine with two cores. Less than ten is not worth a line."""


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist keep the order of the files."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests of long files first, for xdist alone: who runs tests one after another wants them as they are."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: -SECONDS.get(file_of(item), 0))


def file_of(item: Any) -> str:
    """Return the test's file below ``tests``."""
    path: str = item.nodeid.partition("::")[0]
    return path.removeprefix("tests/")
