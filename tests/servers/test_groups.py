"""The Sentinel trio and the six-node Cluster of the tests agree, fail over, and are whole again afterwards."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
import redis
from redis.sentinel import Sentinel as SentinelClient
from tests.servers.cluster import SLOTS, RedisCluster
from tests.servers.process import LOOPBACK
from tests.servers.sentinel import Sentinels, role

pytestmark = pytest.mark.slow


def test_the_sentinels_lead_to_the_primary(redis_sentinels: Sentinels) -> None:
    redis_sentinels.fresh()
    addresses = [(LOOPBACK, sentinel.port) for sentinel in redis_sentinels.sentinels]
    finder: Any = SentinelClient(addresses, socket_timeout=5)  # type: ignore[no-untyped-call]
    assert finder.discover_master(redis_sentinels.name) == (LOOPBACK, redis_sentinels.primary().port)
    assert len(finder.discover_slaves(redis_sentinels.name)) == 2
    for client in finder.sentinels:
        client.close()
    assert sorted(map(str, map(role, redis_sentinels.servers))) == ["master", "slave", "slave"]


def test_the_sentinels_fail_over_and_become_whole_again(redis_sentinels: Sentinels) -> None:
    redis_sentinels.fresh()
    old = redis_sentinels.primary()
    old.admin.set("a", 1)
    old.admin.wait(2, 5000)
    new = redis_sentinels.fail_over()
    assert new is not old
    assert new.admin.get("a") == b"1"
    redis_sentinels.fresh()
    assert role(old) == "slave"
    assert redis_sentinels.primary() is new
    assert new.dump() == old.dump() == {}


def test_the_cluster_serves_all_slots_from_three_primaries(redis_cluster: RedisCluster) -> None:
    redis_cluster.fresh()
    with redis.RedisCluster(LOOPBACK, redis_cluster.nodes[0].port) as client:
        for number in range(100):
            client.set(f"key-{number}", number)
    assert len(redis_cluster.dump()) == 100
    assert all(primary.dump() for primary in redis_cluster.primaries())
    for node in redis_cluster:
        assert node.state()["cluster_slots_ok"] == str(SLOTS)


def test_the_cluster_fails_over_and_becomes_whole_again(redis_cluster: RedisCluster) -> None:
    redis_cluster.fresh()
    old = redis_cluster.primary_of(b"a")
    old.admin.set("a", 1)
    old.admin.wait(1, 5000)
    (replica,) = redis_cluster.replicas_of(old)
    old.kill()
    new = redis_cluster.successor(old, b"a")
    assert new is replica
    assert new.admin.get("a") == b"1"
    redis_cluster.fresh()
    assert redis_cluster.replicas_of(new) == [old]
    assert redis_cluster.dump() == {}


def test_a_cluster_node_that_lost_its_data_is_the_same_node() -> None:
    with RedisCluster() as cluster:
        node = cluster.primaries()[0]
        before = node.id()
        node.restart(keep_data=False)
        cluster.settle()
        assert node.id() == before


def test_nothing_is_left_of_the_groups() -> None:
    with Sentinels() as sentinels:
        servers = [*sentinels.servers, *sentinels.sentinels]
        pids = [server.pid for server in servers]
    assert len(pids) == 6
    assert not any(map(psutil.pid_exists, pids))
    assert not any(server.directory.exists() for server in servers)
