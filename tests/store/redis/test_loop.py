"""AsyncRedisStore on a real server: round trips, connections, event loops, forks, the examination, lent clients."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aredis
from tests.servers.certificates import issue
from tests.servers.process import until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.store.redis.loops import LOOPS, fresh_servers, locked_server, looped, opened, ours, store_at

from sojourn.core.ops import Written
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.redis.commands import BATCH
from sojourn.store.redis.loop import AsyncRedisStore
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

pytestmark = pytest.mark.slow

__all__ = ["fresh_servers", "locked_server"]  # fixtures

DONE, EXISTS = Written.DONE, Written.EXISTS


# -- round trips ---------------------------------------------------------------------------------------------------


@looped
async def test_each_verb_is_one_round_trip_and_one_write(redis_server: RedisServer) -> None:
    key, record = a_key(), a_record()
    async with opened(redis_server.url) as store:
        for number in (1, 2):  # the first turn brings connection, examination and scripts with it
            await store.create(key, record)
            redis_server.reset()
            with redis_server.heard() as heard:
                await store.load(key)
                await store.touch(key, START + 2, START + 1802, 1)
                await store.update(key, record._replace(version=2), 1)
                await store.delete(key, 2)
                await store.create(key, record)
                await store.delete(key)
            trips = ["GET", "EVALSHA", "EVALSHA", "EVALSHA", "SET", "UNLINK"]
            assert heard.names() == trips if number == 2 else len(heard.names()) > len(trips)


@looped
async def test_many_keys_take_one_round_trip_for_each_batch(redis_server: RedisServer) -> None:
    keys = [a_key(number) for number in range(2 * BATCH + 1)]
    async with opened(redis_server.url) as store:
        for key in keys:
            await store.create(key, a_record())
        with redis_server.heard() as heard:
            assert all(await store.load_many(keys))
            assert await store.delete_many(keys) == len(keys)
    assert heard.names() == ["MGET"] * 3 + ["UNLINK"] * 3


@looped
async def test_ten_thousand_sessions_are_listed_and_revoked_in_a_second(redis_server: RedisServer) -> None:
    keys, tag, loop = [a_key(number) for number in range(10_000)], b"t" * 32, asyncio.get_running_loop()
    async with opened(redis_server.url) as store:
        for start in range(0, len(keys), 100):
            await asyncio.gather(*(store.create(key, a_record()) for key in keys[start : start + 100]))
            await asyncio.gather(*(store.enlist(tag, key, START, START + 1800) for key in keys[start : start + 100]))
        redis_server.admin.config_set("slowlog-log-slower-than", 5000)
        redis_server.admin.slowlog_reset()
        begun, found, cursor = loop.time(), set(), None
        while not found or cursor:
            page = await store.find(tag, cursor)
            found, cursor = found | set(page.keys), page.cursor
        assert all(await store.load_many([*found]))
        assert await store.delete_many([*found]) == len(keys)
        took = loop.time() - begun
    assert redis_server.admin.slowlog_len() == 0, "the server was held up for more than 5 ms"
    assert took < 1.0, took


@looped
async def test_a_forgotten_script_is_sent_once_as_text_and_then_known(redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as store:
        await store.create(a_key(), a_record())
        redis_server.admin.script_flush()
        with redis_server.heard() as heard:
            assert await store.touch(a_key(), START + 2, START + 1802, 1) is DONE
            assert await store.touch(a_key(), START + 3, START + 1803, 1) is DONE
    assert heard.names() == ["EVALSHA", "EVAL", "EVALSHA"]


# -- connections ---------------------------------------------------------------------------------------------------


@looped
async def test_concurrent_first_users_share_one_connection(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        async with opened(f"redis://{proxy.address}") as store:
            assert await asyncio.gather(*(store.load(a_key(number)) for number in range(50))) == [None] * 50
            assert proxy.connections == 1


@looped
async def test_a_failed_connect_is_told_to_all_who_wait_and_tried_again_by_the_next_call(
    redis_server: RedisServer,
) -> None:
    with Proxy(redis_server.port) as proxy:
        proxy.refuse()
        async with opened(f"redis://{proxy.address}") as store:
            errors = await asyncio.gather(*(store.load(a_key(n)) for n in range(20)), return_exceptions=True)
            assert {type(error) for error in errors} == {StoreUnavailable}
            assert all(isinstance(error.__cause__, ConnectionRefusedError) for error in errors)
            assert len({id(error) for error in errors}) == 20, "each caller has an exception of its own"
            proxy.accept()
            assert await store.load(a_key()) is None


@looped
async def test_a_caller_that_gives_up_leaves_the_connection_to_the_others(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        proxy.hold_replies()
        async with opened(f"redis://{proxy.address}") as store:
            first, second = (asyncio.create_task(store.load(a_key())) for _ in range(2))
            while not proxy.requested:
                await asyncio.sleep(0.001)
            first.cancel()
            proxy.release()
            assert await second is None
            assert first.cancelled()
            assert proxy.connections == 1


@looped
async def test_a_connection_known_to_be_closed_is_replaced_unnoticed(redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as store:
        assert await store.create(a_key(70), a_record()) in (DONE, EXISTS)
        for _ in range(3):
            redis_server.admin.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.01)  # a request later: the loop has heard of it
            assert await store.update(a_key(70), a_record(), 1) is DONE


@looped
async def test_a_read_is_repeated_once_when_the_connection_turns_out_dead_and_a_write_never(
    redis_server: RedisServer,
) -> None:
    with Proxy(redis_server.port) as proxy:
        async with opened(f"redis://{proxy.address}") as store:
            await store.create(a_key(), a_record())
            proxy.cut_replies(0, reset=True, once=True)
            assert await store.load(a_key()) == a_record()
            proxy.cut_replies(0, reset=True, once=True)
            assert await store.load_many([a_key()]) == [a_record()]
            proxy.cut_replies(0, reset=True, once=True)
            assert (await store.scan()).keys == (a_key(),)
            proxy.cut_replies(0, reset=True, once=True)
            with redis_server.heard() as heard, pytest.raises(StoreUnavailable, match="lost"):
                await store.update(a_key(), a_record(version=2), 1)
            assert [name for name in heard.names() if name != "CLIENT"] in (["EVALSHA"], ["EVALSHA", "EVAL"])
            proxy.heal()
            assert (await store.load(a_key())) in (a_record(version=2), a_record())


@looped
async def test_a_server_that_demands_a_password_says_so_and_the_password_is_never_shown(
    locked_server: RedisServer,
) -> None:
    ca = f"ca={locked_server.authority}"
    async with opened(f"rediss://{locked_server.address}", ca) as store:
        with pytest.raises(StoreUnavailable, match="wants a password"):
            await store.load(a_key())
    async with opened(f"rediss://:s3cret@{locked_server.address}", ca) as store:
        with pytest.raises(StoreUnavailable, match="refuses the user or the password") as raised:
            await store.load(a_key())
        assert "s3cret" not in f"{raised.value!r} {raised.value.__cause__!r} {store!r}"


REFUSALS = {
    "READONLY": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "is a replica and takes no writes"),
    "OOM": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "has no memory left"),
    "NOPERM": (
        ("ACL", "SETUSER", "default", "-set"),
        ("ACL", "SETUSER", "default", "+set"),
        "sessions need",
    ),
}


@pytest.mark.parametrize(("before", "after", "says"), REFUSALS.values(), ids=REFUSALS)
@looped
async def test_what_an_operator_must_fix_is_named(
    redis_server: RedisServer, before: tuple[str, ...], after: tuple[str, ...], says: str
) -> None:
    async with opened(redis_server.url) as store:
        await store.load(a_key())
        redis_server.admin.execute_command(*before)
        try:
            with pytest.raises(StoreUnavailable, match=says):
                await store.create(a_key(), a_record())
        finally:
            redis_server.admin.execute_command(*after)
        assert await store.create(a_key(), a_record()) is DONE


@looped
async def test_a_certificate_of_another_authority_or_for_another_name_is_refused(
    locked_server: RedisServer, tmp_path: Path
) -> None:
    stranger = issue(tmp_path)
    url = f"rediss://:p%40ss%2Fword@{locked_server.address}"
    for query in (f"ca={stranger.authority}", "timeout=5"):
        async with opened(url, query) as store:
            with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                await store.load(a_key())
    with pytest.raises(ConfigurationError, match=r"ca=/nonexistent/ca\.pem cannot be used"):
        store_at(url, "ca=/nonexistent/ca.pem")


# -- event loops, threads, forks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_a_store_outlives_the_loops_that_use_it_and_each_closes_its_own(
    redis_server: RedisServer, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    store = store_at(redis_server.url)

    async def use(version: int) -> Any:
        await store.create(a_key(), a_record())
        return await store.update(a_key(), a_record(version=version + 1), version)

    for version in (1, 2, 3):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(use(version)) is DONE
    gc.collect()  # a connection left open would be a ResourceWarning, which is an error here
    until(lambda: ours(redis_server) == 0, "the connections are closed")


def test_a_loop_that_was_closed_without_a_word_is_forgotten(redis_server: RedisServer) -> None:
    store = store_at(redis_server.url)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(store.create(a_key(), a_record())) is DONE
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio's own, about the transport that was left to it
        assert asyncio.run(store.load(a_key())) == a_record()
        gc.collect()
    until(lambda: ours(redis_server) == 0, "the connections are closed")


def test_two_loops_in_two_threads_share_a_store(redis_server: RedisServer) -> None:
    store, wrong, meet = store_at(redis_server.url), [], threading.Barrier(2)

    async def use(mine: int) -> None:
        records = {a_key(number): a_record(principal=f"user {number}") for number in range(mine, 100, 2)}
        await asyncio.gather(*(store.create(key, record) for key, record in records.items()))
        meet.wait()
        for _ in range(20):
            found = await asyncio.gather(*map(store.load, records))
            wrong.extend(one for one, record in zip(found, records.values(), strict=True) if one != record)
        meet.wait()
        assert ours(redis_server) == 2
        meet.wait()
        if mine:
            await store.aclose()  # also the other loop's, which is running

    threads = [threading.Thread(target=lambda n=n: asyncio.run(use(n))) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    until(lambda: ours(redis_server) == 0, "the connections are closed")


def test_a_child_of_a_fork_never_uses_what_it_inherited(redis_server: RedisServer) -> None:
    store = store_at(redis_server.url)
    runner = asyncio.Runner()
    runner.run(store.create(a_key(), a_record()))
    before = redis_server.admin.client_list()
    child = os.fork()
    if child == 0:
        status = 1
        try:

            async def use() -> bool:
                found = await asyncio.gather(*(store.load(a_key()) for _ in range(20)))
                clients = [
                    client["id"] for client in redis_server.client().client_list() if client["name"] == "sojourn"
                ]
                return found == [a_record()] * 20 and len(clients) == 2

            status = 0 if asyncio.run(use()) else 2
        finally:
            os._exit(status)
    try:
        for _ in range(50):
            assert runner.run(store.load(a_key())) == a_record()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert runner.run(store.load(a_key())) == a_record()
        kept = {client["id"] for client in redis_server.admin.client_list()}
        assert {client["id"] for client in before if client["name"] == "sojourn"} <= kept, "the parent lost its own"
    finally:
        runner.run(store.aclose())
        runner.close()


@looped
async def test_a_closed_store_opens_again_when_it_is_used(redis_server: RedisServer) -> None:
    store = store_at(redis_server.url)
    await store.load(a_key())
    await store.aclose()
    await store.aclose()
    assert ours(redis_server) == 0
    await store.load(a_key())
    await store.aclose()


@looped
async def test_closing_ends_the_calls_under_way(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        store = store_at(f"redis://{proxy.address}")
        await store.load(a_key())
        proxy.hold_replies()
        loads = [asyncio.create_task(store.load(a_key(number))) for number in range(5)]
        await asyncio.sleep(0)
        await store.aclose()
        errors = await asyncio.gather(*loads, return_exceptions=True)
        assert {type(error) for error in errors} == {StoreUnavailable}


# -- the examination -----------------------------------------------------------------------------------------------


@looped
async def test_the_first_call_logs_the_findings_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sojourn.store")
    with redis_server.configured(maxmemory_policy="allkeys-lru"):
        async with opened(redis_server.url) as store:
            for _ in range(3):
                await store.load(a_key())
            found = await store.examine()
    evicting = [message for message in caplog.messages if "allkeys-lru" in message]
    assert len(evicting) == 1
    assert any("allkeys-lru" in finding.what for finding in found)


@looped
async def test_a_server_that_may_not_be_examined_still_serves(redis_server: RedisServer) -> None:
    redis_server.admin.execute_command("ACL", "SETUSER", "default", "-info", "-config")
    try:
        async with opened(redis_server.url) as store:
            assert await store.create(a_key(), a_record()) is DONE
    finally:
        redis_server.admin.execute_command("ACL", "SETUSER", "default", "+@all")


# -- lent clients --------------------------------------------------------------------------------------------------


def test_what_is_no_client_of_asyncio_is_refused(redis_server: RedisServer) -> None:
    with redis_server.client() as client, pytest.raises(ConfigurationError, match="for a blocking one use RedisStore"):
        AsyncRedisStore(client)  # type: ignore[arg-type]


@looped
async def test_a_lent_client_does_not_send_a_write_twice(redis_server: RedisServer) -> None:
    """Its own retries would: three are redis-py's default."""
    with Proxy(redis_server.port) as proxy:
        async with aredis.Redis(host="127.0.0.1", port=proxy.port) as client:
            store = AsyncRedisStore(client, timeout=2)
            await store.create(a_key(), a_record())
            proxy.cut_replies(0, once=True)
            with redis_server.heard() as heard, pytest.raises(StoreUnavailable):
                await store.create(a_key(2), a_record())
            assert heard.names().count("SET") == 1
            assert await store.load(a_key()) == a_record()
