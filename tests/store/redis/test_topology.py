"""AsyncRedisStore behind Sentinels and on a Cluster: failovers, hung and lost nodes, slots that move."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from typing import Any

import pytest
from redis.crc import key_slot
from tests.servers.cluster import ClusterNode, RedisCluster
from tests.servers.sentinel import Sentinels
from tests.store.redis.loops import fresh_servers, looped, opened

from sojourn.core.ops import Written
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.redis.blocking import RedisStore
from sojourn.store.redis.commands import Commands
from sojourn.store.redis.loop import AsyncRedisStore
from sojourn.store.redis.settings import RedisSettings
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

pytestmark = pytest.mark.slow

__all__ = ["fresh_servers"]  # a fixture

DONE, STALE = Written.DONE, Written.STALE


@looped
async def test_after_a_failover_the_new_primary_is_found(redis_sentinels: Sentinels) -> None:
    async with opened(redis_sentinels.url, "timeout=1") as store:
        await store.create(a_key(), a_record())
        redis_sentinels.settle()
        await asyncio.to_thread(redis_sentinels.fail_over)
        async with asyncio.timeout(30):
            while await attempt(store.update(a_key(), a_record(version=2), 1)) not in (DONE, STALE):
                await asyncio.sleep(0.01)
        assert await store.load(a_key()) == a_record(version=2)


async def attempt(call: Any) -> Any:
    try:
        return await call
    except StoreUnavailable as error:
        return error


@looped
async def test_a_hung_sentinel_costs_no_time(redis_sentinels: Sentinels) -> None:
    sentinels, loop = redis_sentinels.sentinels, asyncio.get_running_loop()
    sentinels[0].pause()
    try:
        begun = loop.time()
        async with opened(redis_sentinels.url, "timeout=5") as store:
            assert await store.create(a_key(), a_record()) is DONE
        assert loop.time() - begun < 2.5
    finally:
        sentinels[0].resume()


@looped
async def test_a_primary_unknown_to_the_sentinels_is_unavailable_and_named(redis_sentinels: Sentinels) -> None:
    async with opened(redis_sentinels.url.rpartition("/")[0] + "/nobody") as store:
        with pytest.raises(StoreUnavailable, match="no primary called 'nobody'"):
            await store.load(a_key())


@pytest.mark.parametrize("loop", [False, True], ids=["blocking", "async"])
def test_a_primary_beyond_this_host_is_not_spoken_to_without_tls_and_password(
    redis_sentinels: Sentinels, loop: bool
) -> None:
    """0.0.0.0 is this host, too, and is not called so: what the network has to do with it is not waited for."""
    port = redis_sentinels.primary().port
    settings = RedisSettings.from_url(f"{redis_sentinels.url.rpartition('/')[0]}/elsewhere?timeout=5")
    for sentinel in redis_sentinels.sentinels:
        sentinel.admin.execute_command("SENTINEL", "MONITOR", "elsewhere", "0.0.0.0", port, 2)
    try:
        with pytest.raises(ConfigurationError, match=rf"0\.0\.0\.0:{port} is on the network without TLS"):
            asyncio.run(loaded_by_loop(settings)) if loop else loaded(settings)
    finally:
        for sentinel in redis_sentinels.sentinels:
            sentinel.admin.execute_command("SENTINEL", "REMOVE", "elsewhere")


def loaded(settings: RedisSettings) -> None:
    with closing(RedisStore.from_settings(settings)) as store:
        store.load(a_key())


async def loaded_by_loop(settings: RedisSettings) -> None:
    async with aclosing(AsyncRedisStore.from_settings(settings)) as store:
        await store.load(a_key())


@contextmanager
def moving(cluster: RedisCluster, key: bytes) -> Iterator[tuple[ClusterNode, ClusterNode, int]]:
    """Give the node of *key*, another, and the slot, which is on its way from the one to the other."""
    source = cluster.primary_of(key)
    target = next(node for node in cluster.primaries() if node is not source)
    slot = key_slot(key)
    target.ask("SETSLOT", slot, "IMPORTING", source.id())
    source.ask("SETSLOT", slot, "MIGRATING", target.id())
    try:
        yield source, target, slot
    finally:
        for node in cluster.primaries():
            node.ask("SETSLOT", slot, "STABLE")


@looped
async def test_a_slot_that_is_moving_is_followed_and_once_moved_remembered(redis_cluster: RedisCluster) -> None:
    key = a_key(5)
    name = Commands().name(key)
    async with opened(redis_cluster.url) as store:
        with moving(redis_cluster, name) as (source, target, slot):
            assert await store.create(key, a_record()) is DONE  # ASK: the key is not there yet
            assert await store.update(key, a_record(version=2), 1) is DONE  # ASK, NOSCRIPT, and the text with ASKING
            assert await store.load(key) == a_record(version=2)
            for node in (target, source):
                node.ask("SETSLOT", slot, "NODE", target.id())
            assert await store.load(key) == a_record(version=2)  # MOVED
            with source.heard() as asked_in_vain:
                assert await store.touch(key, START + 2, START + 1802, 2) is DONE
            assert asked_in_vain.names() == []
            assert await store.delete(key) is DONE
            for node in redis_cluster.primaries():
                node.ask("SETSLOT", slot, "NODE", source.id())


@looped
async def test_a_lost_node_is_looked_up_anew_and_the_others_go_on(redis_cluster: RedisCluster) -> None:
    keys = [a_key(number) for number in range(60)]
    async with opened(redis_cluster.url, "timeout=1") as store:
        for key in keys:
            await store.create(key, a_record())
        redis_cluster.settle()
        victim = redis_cluster.primary_of(Commands().name(keys[0]))
        its = [key for key in keys if redis_cluster.primary_of(Commands().name(key)) is victim]
        victim.kill()
        answers = await asyncio.gather(*(attempt(store.load(key)) for key in keys))
        for key, answer in zip(keys, answers, strict=True):
            assert isinstance(answer, StoreUnavailable) if key in its else answer == a_record()
        async with asyncio.timeout(30):
            while await attempt(store.load(its[0])) != a_record():
                await asyncio.sleep(0.01)
            for key in its:  # for a while some nodes still name the old primary
                while await attempt(store.update(key, a_record(version=2), 1)) not in (DONE, STALE):
                    await asyncio.sleep(0.01)
        assert await store.load_many(its) == [a_record(version=2)] * len(its)
