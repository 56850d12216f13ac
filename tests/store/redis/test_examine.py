"""What is found out about a server's set-up, from replies as they are given and from real servers."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from tests.servers.cluster import RedisCluster
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Sentinels

from sojourn.core.capability import Finding
from sojourn.store.redis.blocking import RedisStore
from sojourn.store.redis.examine import QUESTIONS, Link, findings
from sojourn.store.redis.settings import RedisSettings

HERE, LOCAL = "redis://cache:6379", Link(network=False, tls=False, password=False)
SOUND = {
    "redis_version": "7.0.15",
    "role": "master",
    "cluster_enabled": "0",
    "maxmemory": "0",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
}
REFUSED = ValueError("NOPERM")  # any exception stands for an error reply


def found(link: Link = LOCAL, *, save: Any = "", fsync: Any = "always", **changes: str) -> list[Finding]:
    info = "# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in (SOUND | changes).items())
    replies = [info.encode(), *(config(name, value) for name, value in (("save", save), ("appendfsync", fsync)))]
    return findings(HERE, replies, link)


def config(name: str, value: Any) -> Any:
    return value if isinstance(value, Exception) else [name.encode(), value.encode()]


def test_a_sound_server_is_passed_over_in_silence() -> None:
    assert found() == []
    assert found(Link(network=True, tls=True, password=True)) == []
    assert found(Link(network=False, tls=False, password=False, cluster=True), cluster_enabled="1") == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lru", "volatile-ttl", "volatile-lfu"])
def test_eviction_ends_live_sessions(policy: str) -> None:
    [finding] = found(maxmemory_policy=policy, maxmemory="1000000")
    assert f"{HERE} evicts keys: maxmemory-policy is {policy}." in finding.what
    assert "1000000 bytes" in finding.risk
    assert "live sessions" in finding.risk
    assert "noeviction" in finding.cure


def test_an_eviction_that_cannot_come_yet_is_said_as_such() -> None:
    [finding] = found(maxmemory_policy="allkeys-lru")
    assert "if it ever gets a maxmemory" in finding.risk


def test_what_a_restart_does_depends_on_what_is_on_disk() -> None:
    [nothing] = found(aof_enabled="0")
    assert "A restart ends every session" in nothing.risk
    [snapshots] = found(aof_enabled="0", save="3600 1 300 100")
    assert "sessions that were ended since are back" not in nothing.risk
    assert "those that were ended since are back" in snapshots.risk
    [unseen] = found(aof_enabled="0", save=REFUSED)
    assert "CONFIG GET" in unseen.what
    assert "could not be seen" in unseen.risk
    [unseen] = found(aof_enabled="1", save=REFUSED, fsync=REFUSED)
    assert "How soon it is on the disk could not be seen" in unseen.risk


@pytest.mark.parametrize(("when", "lost"), [("everysec", "last second"), ("no", "last half minute")])
def test_a_log_that_is_written_later_loses_its_end(when: str, lost: str) -> None:
    [finding] = found(fsync=when)
    assert lost in finding.risk
    assert "are back" in finding.risk


def test_the_network_wants_tls_and_a_password() -> None:
    clear, opened = found(Link(network=True, tls=False, password=False))
    assert "without TLS" in clear.what
    assert "without a password" in opened.what
    assert found(Link(network=False, tls=False, password=False)) == []


@pytest.mark.parametrize("version", ["6.0.16", "5.0.7", "6.1.240"])
def test_an_old_server_is_named(version: str) -> None:
    [finding] = found(redis_version=version)
    assert f"Redis {version}, older than 6.2." in finding.what


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "7.2.4", "8.0.0", "10.1", "255.255.255", "unstable"])
def test_a_newer_one_is_not(version: str) -> None:
    assert found(redis_version=version) == []


def test_a_replica_and_a_lone_node_are_named() -> None:
    [replica] = found(role="slave")
    assert "is a replica" in replica.what
    [node] = found(cluster_enabled="1")
    assert "redis+cluster://" in node.cure


def test_replies_in_resp3_are_read_as_well() -> None:
    replies = [b"aof_enabled:1\r\n", {b"save": b""}, {b"appendfsync": b"everysec"}]
    [finding] = findings(HERE, replies, LOCAL)
    assert "everysec" in finding.what


def test_no_question_can_be_answered_with_a_secret() -> None:
    """CONFIG GET * would bring requirepass and masterauth."""
    assert QUESTIONS == (("INFO",), ("CONFIG", "GET", "save"), ("CONFIG", "GET", "appendfsync"))


# -- real servers --------------------------------------------------------------------------------------------------


def examined(url: str) -> list[str]:
    with closing(RedisStore.from_settings(RedisSettings.from_url(f"{url}?timeout=5"))) as store:
        return [finding.what.partition(" ")[2] for finding in store.examine()]


@pytest.mark.slow
def test_real_servers_say_so_themselves(redis_server: RedisServer) -> None:
    redis_server.fresh()
    url = f"redis://{redis_server.address}"
    assert examined(url) == ["keeps nothing on disk: appendonly is no, and save is empty."]
    with redis_server.configured(save="3600 1"):
        assert examined(url) == ["keeps snapshots only: appendonly is no."]
    with redis_server.configured(appendonly="yes"):
        assert examined(url) == ["writes its append-only file to the disk later: appendfsync is everysec."]
        with redis_server.configured(appendfsync="always"):
            assert examined(url) == []
            with redis_server.configured(maxmemory_policy="volatile-ttl"):
                assert examined(url) == ["evicts keys: maxmemory-policy is volatile-ttl."]


@pytest.mark.slow
def test_each_primary_is_examined_and_no_replica(redis_cluster: RedisCluster, redis_sentinels: Sentinels) -> None:
    redis_cluster.fresh()
    redis_sentinels.fresh()
    assert examined(redis_cluster.url) == ["keeps nothing on disk: appendonly is no, and save is empty."] * 3
    assert examined(redis_sentinels.url) == ["keeps nothing on disk: appendonly is no, and save is empty."]
