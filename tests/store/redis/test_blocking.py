"""RedisStore on real servers: the contract on each kind, and what is its own: round trips, scripts, lent clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from time import process_time

import pytest
import redis
from redis.sentinel import Sentinel
from tests.servers.cluster import RedisCluster
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Sentinels
from tests.store.redis.harness import CAPABILITIES, redis_harness

from sojourn.core.ops import Written
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.redis.blocking import RedisStore
from sojourn.store.redis.settings import RedisSettings
from sojourn.testing import StoreHarness
from sojourn.testing.capability_contract import stories_for
from sojourn.testing.fakes import START
from sojourn.testing.session_contract import SESSION_STORIES
from sojourn.testing.state_machine import check_against_model
from sojourn.testing.store_contract import STORIES, Story, a_key, a_record, name_of

pytestmark = pytest.mark.slow

TAG = b"\x07" * 32
SECRET = "p@ss/w#rd"

# -- the contract --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked_server() -> Iterator[RedisServer]:
    """A server with TLS and a password."""
    with RedisServer(tls=True, password=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def socket_server() -> Iterator[RedisServer]:
    """A server with a unix socket."""
    with RedisServer(unix=True) as server:
        yield server


def locked(server: RedisServer) -> AbstractContextManager[StoreHarness]:
    return redis_harness(server, url=f"{server.url}?ca={server.authority}")


def on_socket(server: RedisServer) -> AbstractContextManager[StoreHarness]:
    return redis_harness(server, url=server.unix_url)


def lent(server: RedisServer) -> AbstractContextManager[StoreHarness]:
    client = server.client(decode_responses=True)
    return redis_harness(server, make=lambda: RedisStore(client))


def lent_sentinel(servers: Sentinels) -> AbstractContextManager[StoreHarness]:
    client = sentinel_client(servers).master_for(servers.name, socket_timeout=5)
    return redis_harness(servers, make=lambda: RedisStore(client))


def lent_cluster(servers: RedisCluster) -> AbstractContextManager[StoreHarness]:
    return redis_harness(servers, make=lambda: RedisStore(cluster_client(servers)))


def sentinel_client(servers: Sentinels) -> Sentinel:
    return Sentinel([("127.0.0.1", sentinel.port) for sentinel in servers.sentinels], socket_timeout=5)


def cluster_client(servers: RedisCluster) -> redis.RedisCluster:
    return redis.RedisCluster(host="127.0.0.1", port=servers.nodes[0].port, socket_timeout=5)


PLACES: dict[str, tuple[str, Callable[..., AbstractContextManager[StoreHarness]]]] = {
    "redis": ("redis_server", redis_harness),
    "sentinel": ("redis_sentinels", redis_harness),
    "cluster": ("redis_cluster", redis_harness),
    "rediss": ("locked_server", locked),
    "unix": ("socket_server", on_socket),
    "lent": ("redis_server", lent),
    "lent-sentinel": ("redis_sentinels", lent_sentinel),
    "lent-cluster": ("redis_cluster", lent_cluster),
}
OWN = ["redis", "sentinel", "cluster"]


def harness_maker(request: pytest.FixtureRequest, place: str) -> Callable[[], AbstractContextManager[StoreHarness]]:
    fixture, make = PLACES[place]
    return partial(make, request.getfixturevalue(fixture))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("story", STORIES, ids=name_of)
def test_store_keeps_its_promise(request: pytest.FixtureRequest, place: str, story: Story) -> None:
    with harness_maker(request, place)() as harness:
        story(harness)


@pytest.mark.parametrize("place", OWN)
@pytest.mark.parametrize("story", stories_for(CAPABILITIES), ids=name_of)
def test_capabilities_keep_their_promise(request: pytest.FixtureRequest, place: str, story: Story) -> None:
    with harness_maker(request, place)() as harness:
        story(harness)


@pytest.mark.parametrize("place", OWN)
@pytest.mark.parametrize("story", SESSION_STORIES, ids=name_of)
def test_sessions_keep_their_promise(request: pytest.FixtureRequest, place: str, story: Story) -> None:
    with harness_maker(request, place)() as harness:
        story(harness)


@pytest.mark.parametrize("place", ["redis", "cluster"])
def test_store_agrees_with_the_model_in_any_order_of_operations(request: pytest.FixtureRequest, place: str) -> None:
    check_against_model(harness_maker(request, place))


# -- a store to play with ------------------------------------------------------------------------------------------


def store_of(url: str, query: str = "timeout=5") -> RedisStore:
    return RedisStore.from_settings(RedisSettings.from_url(f"{url}{'&' if '?' in url else '?'}{query}"))


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[RedisStore]:
    """A store that has spoken with an empty server, so that nothing is left to be done at a first call."""
    redis_server.fresh()
    with closing(store_of(redis_server.url)) as store:
        store.create(a_key(0), a_record())
        for base in (1, None):
            store.update(a_key(9), a_record(), 1)
            store.touch(a_key(9), START, START + 9, 1)
            store.delete(a_key(9), base)
        store.enlist(TAG, a_key(9), START, START + 9)
        store.release(a_key(9), b"")
        redis_server.flush()
        redis_server.reset()
        yield store


def test_it_has_the_capabilities_that_a_session_server_can_have(store: RedisStore) -> None:
    assert all(isinstance(store, capability) for capability in CAPABILITIES)
    assert not hasattr(store, "sweep")


def test_each_verb_is_one_round_trip(store: RedisStore, redis_server: RedisServer) -> None:
    with redis_server.heard() as heard:
        store.create(a_key(), a_record())
        store.create(a_key(), a_record())
        store.load(a_key())
        store.load(a_key(2))
        store.update(a_key(), a_record(version=2), 1)
        store.update(a_key(), a_record(version=2), 1)
        store.touch(a_key(), START, START + 60, 2)
        store.touch(a_key(2), START, START + 60, 2)
        store.delete(a_key(), 1)
        store.delete(a_key(), 2)
        store.delete(a_key())
        store.enlist(TAG, a_key(), START, START + 60)
        store.find(TAG)
        store.delist(TAG, [a_key()])
        store.acquire(a_key(), b"me", START, START + 5)
        store.release(a_key(), b"me")
    assert heard.names() == [
        *("SET", "SET", "GET", "GET", "EVALSHA", "EVALSHA", "EVALSHA", "EVALSHA", "EVALSHA", "EVALSHA", "UNLINK"),
        *("EVALSHA", "ZSCAN", "ZREM", "SET", "EVALSHA"),
    ]


def test_the_statistics_of_the_server_agree(store: RedisStore, redis_server: RedisServer) -> None:
    for number in range(10):
        store.create(a_key(number), a_record())
        store.load(a_key(number))
    assert redis_server.commands() == {"set": 10, "get": 10}


def test_a_server_that_has_forgotten_the_scripts_is_sent_them(store: RedisStore, redis_server: RedisServer) -> None:
    store.create(a_key(), a_record())
    redis_server.admin.script_flush()
    with redis_server.heard() as heard:
        assert store.update(a_key(), a_record(version=2), 1) is Written.DONE
        assert store.update(a_key(), a_record(version=3), 2) is Written.DONE
    assert heard.names() == ["EVALSHA", "EVAL", "EVALSHA"]


def test_it_works_on_after_a_restart_with_the_data(store: RedisStore, redis_server: RedisServer) -> None:
    store.create(a_key(), a_record())
    redis_server.restart(keep_data=True)
    assert store.update(a_key(), a_record(version=2), 1) is Written.DONE
    assert store.load(a_key()) == a_record(version=2)


def test_after_a_restart_without_the_data_sessions_are_gone_and_nothing_is_revived(
    store: RedisStore, redis_server: RedisServer
) -> None:
    store.create(a_key(), a_record())
    redis_server.restart(keep_data=False)
    assert store.load(a_key()) is None
    assert store.update(a_key(), a_record(version=2), 1) is Written.GONE
    assert store.touch(a_key(), START, START + 60, 1) is Written.GONE
    assert store.delete(a_key()) is Written.GONE


def test_ten_thousand_sessions_of_one_principal_are_found_and_ended_in_a_second(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """In a second of our own and the server's time together; and no command takes more than 5 ms of it.

    All commands of a kind are about as many keys. So their mean tells, and other processes of a busy machine do not.
    """
    keys = [a_key(number) for number in range(10_000)]
    fill(redis_server, keys)
    redis_server.reset()
    began = process_time() + cpu_of(redis_server)
    found = [key for page in pages(partial(store.find, TAG)) for key in page]
    records = store.load_many(found)
    ended = store.delete_many(found)
    store.delist(TAG, found)
    took = process_time() + cpu_of(redis_server) - began
    assert set(found) == set(keys)
    assert sum(record is not None for record in records) == ended == len(keys)
    assert redis_server.admin.dbsize() == 0
    stats = redis_server.admin.info("commandstats")
    assert all(entry["usec_per_call"] < 5000 for entry in stats.values())
    assert took < 1


def cpu_of(server: RedisServer) -> float:
    """Return the seconds of CPU time that *server* has used."""
    used = server.admin.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def fill(server: RedisServer, keys: list[bytes]) -> None:
    """Store and index sessions of about two kilobytes as the store does, at once."""
    from sojourn.store.redis.commands import Commands, with_source

    commands, record = Commands(), a_record(values={"data": bytes(2000)})
    with server.admin.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.execute_command(*commands.create(key, record))
            pipe.execute_command(*with_source(commands.enlist(TAG, key, START, START + 9999)))
        pipe.execute()


def pages(ask: Callable[..., object]) -> Iterator[tuple[bytes, ...]]:
    cursor = None
    while True:
        keys, cursor = ask(cursor, 256)  # type: ignore[misc]
        yield keys
        if cursor is None:
            return


@pytest.mark.parametrize("place", OWN)
def test_many_are_loaded_and_ended_in_their_order(request: pytest.FixtureRequest, place: str) -> None:
    servers = request.getfixturevalue(PLACES[place][0])
    keys = [a_key(number) for number in range(1000)]
    with redis_harness(servers), closing(store_of(servers.url)) as store:
        for number in range(0, 1000, 2):
            store.create(keys[number], a_record(principal=f"user {number}"))
        found = store.load_many(keys)
        assert [record and record.principal for record in found] == [
            None if number % 2 else f"user {number}" for number in range(1000)
        ]
        assert store.delete_many(keys[:500]) == 250
        assert store.delete_many(keys) == 250
        assert store.load_many([]) == []
        assert store.delete_many([]) == 0


@pytest.mark.parametrize("place", OWN)
def test_a_scan_sees_every_session_that_is_there_all_the_time_and_no_other_key(
    request: pytest.FixtureRequest, place: str
) -> None:
    servers = request.getfixturevalue(PLACES[place][0])
    keys = {a_key(number) for number in range(500)}
    with redis_harness(servers), closing(store_of(servers.url)) as store:
        for number in range(1000):
            store.create(a_key(number), a_record())
            store.enlist(TAG, a_key(number), START, START + 9999)
        store.acquire(a_key(), b"me", START, START + 60)
        seen: set[bytes] = set()
        for number, page in enumerate(pages(partial(store.scan))):
            seen.update(page)
            store.delete(a_key(500 + number))
            store.create(a_key(5000 + number), a_record())
        assert keys <= seen
        assert all(len(key) == 32 for key in seen)
        assert seen <= {a_key(number) for number in (*range(1000), *range(5000, 6000))}


def test_a_scan_begins_anew_on_a_server_that_another_process_serves(
    store: RedisStore, redis_server: RedisServer
) -> None:
    """A cursor is a place in a table that each process orders by a secret of its own."""
    keys = {a_key(number) for number in range(400)}
    for key in keys:
        store.create(key, a_record())
    page = store.scan(None, 50)
    assert page.cursor
    redis_server.restart(keep_data=True)
    seen: set[bytes] = set()
    cursor: bytes | None = page.cursor
    while cursor is not None:
        page = store.scan(cursor, 50)
        seen.update(page.keys)
        cursor = page.cursor
    assert seen == keys


# -- several servers -----------------------------------------------------------------------------------------------


def test_a_new_primary_is_found_by_the_next_call(redis_sentinels: Sentinels) -> None:
    redis_sentinels.fresh()
    with closing(store_of(redis_sentinels.url)) as store:
        store.create(a_key(), a_record())
        redis_sentinels.settle()
        redis_sentinels.fail_over()
        assert store.load(a_key()) == a_record()
        assert store.update(a_key(), a_record(version=2), 1) is Written.DONE
    redis_sentinels.fresh()


def test_a_primary_that_was_made_a_replica_is_left_at_once(redis_sentinels: Sentinels) -> None:
    """Its connections are still open, as after a REPLICAOF by hand."""
    redis_sentinels.fresh()
    with closing(store_of(redis_sentinels.url)) as store:
        store.create(a_key(), a_record())
        old = redis_sentinels.primary()
        old.admin.config_set("min-replicas-to-write", 3)
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            store.update(a_key(), a_record(version=2), 1)
        old.admin.config_set("min-replicas-to-write", 0)
        redis_sentinels.settle()
        redis_sentinels.sentinels[0].ask("failover", redis_sentinels.name)
        redis_sentinels.successor(old)
        assert store.update(a_key(), a_record(version=2), 1) is Written.DONE
        assert store.load(a_key()) == a_record(version=2)
    redis_sentinels.fresh()


def test_one_hung_sentinel_leaves_time_to_ask_another(redis_sentinels: Sentinels) -> None:
    redis_sentinels.fresh()
    redis_sentinels.sentinels[0].pause()
    try:
        with closing(store_of(redis_sentinels.url, "timeout=3")) as store:
            assert store.create(a_key(), a_record()) is Written.DONE
    finally:
        redis_sentinels.fresh()


def test_a_name_that_no_sentinel_knows_is_said(redis_sentinels: Sentinels) -> None:
    url = redis_sentinels.url.replace(f"/{redis_sentinels.name}", "/other")
    with pytest.raises(StoreUnavailable, match=r"no Sentinel names a primary 'other'.*does not know that name"):
        store_of(url).load(a_key())


def test_a_replica_is_never_taken_for_the_primary(redis_sentinels: Sentinels) -> None:
    redis_sentinels.fresh()
    replica = redis_sentinels.replicas()[0]
    with closing(store_of(replica.url)) as store:
        with pytest.raises(StoreUnavailable, match="is a replica and takes no writes; name the primary"):
            store.create(a_key(), a_record())
        assert any("is a replica" in finding.what for finding in store.examine())


def test_a_node_that_is_lost_fails_its_share_and_the_next_primary_serves_it(redis_cluster: RedisCluster) -> None:
    redis_cluster.fresh()
    with closing(store_of(redis_cluster.url)) as store:
        keys = [a_key(number) for number in range(60)]
        for key in keys:
            store.create(key, a_record())
        redis_cluster.settle()
        name = f"sojourn:{keys[0].hex()}".encode()
        lost = redis_cluster.primary_of(name)
        theirs = {key for key in keys if redis_cluster.primary_of(f"sojourn:{key.hex()}".encode()) is lost}
        lost.kill()
        assert {key for key in keys if not answers(store, key)} <= theirs
        redis_cluster.successor(lost, name)
        assert all(store.load(key) == a_record() for key in keys)
    redis_cluster.fresh()


def answers(store: RedisStore, key: bytes) -> bool:
    try:
        return store.load(key) == a_record()
    except StoreUnavailable:
        return False


def test_a_key_that_moves_is_followed(redis_cluster: RedisCluster) -> None:
    """While its slot is moved (ASK), and after it was (MOVED)."""
    redis_cluster.fresh()
    with closing(store_of(redis_cluster.url)) as store:
        key, other = a_key(1), a_key(2)
        store.create(key, a_record())
        name = f"sojourn:{key.hex()}".encode()
        source = redis_cluster.primary_of(name)
        target = next(node for node in redis_cluster.primaries() if node is not source)
        slot = source.ask("KEYSLOT", name)
        target.ask("SETSLOT", slot, "IMPORTING", source.id())
        source.ask("SETSLOT", slot, "MIGRATING", target.id())
        assert store.load(key) == a_record()
        source.admin.execute_command("MIGRATE", "127.0.0.1", target.port, name, 0, 5000)
        assert store.load(key) == a_record()
        assert store.update(key, a_record(version=2), 1) is Written.DONE
        assert store.load_many([key, other]) == [a_record(version=2), None]
        for node in (target, source):
            node.ask("SETSLOT", slot, "NODE", target.id())
        assert store.load(key) == a_record(version=2)
        assert store.load_many([key]) == [a_record(version=2)]
        assert store.delete(key, 2) is Written.DONE
        for node in (source, target):
            node.ask("SETSLOT", slot, "NODE", source.id())
        for node in redis_cluster:
            node.ask("BUMPEPOCH") if node is source else None
    redis_cluster.settle()


# -- clients of the application ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"protocol": 3}, {"decode_responses": True}, {"single_connection_client": True}, {"health_check_interval": 1}],
    ids=str,
)
def test_a_client_of_the_application_serves(redis_server: RedisServer, options: dict[str, object]) -> None:
    redis_server.fresh()
    with server_client(redis_server, **options) as client:
        store = RedisStore(client, prefix="lent:")
        assert store.create(a_key(), a_record()) is Written.DONE
        assert store.update(a_key(), a_record(version=2), 1) is Written.DONE
        assert store.load(a_key()) == a_record(version=2)
        assert list(pages(store.scan)) == [(a_key(),)]
        assert store.find(TAG) == ((), None)
        assert client.ping()
        assert redis_server.admin.exists(f"lent:{a_key().hex()}")


def server_client(server: RedisServer, **options: object) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=5, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [redis.ConnectionPool, redis.BlockingConnectionPool])
def test_a_pool_of_the_application_serves(redis_server: RedisServer, kind: type[redis.ConnectionPool]) -> None:
    redis_server.fresh()
    with closing(kind(port=redis_server.port, socket_timeout=5)) as pool:
        store = RedisStore(pool)
        assert store.create(a_key(), a_record()) is Written.DONE
        assert store.load(a_key()) == a_record()
        assert repr(store) == f"<RedisStore redis://localhost:{redis_server.port}>"


def test_a_client_that_could_wait_for_ever_or_answer_from_copies_is_refused(redis_server: RedisServer) -> None:
    port = redis_server.port
    with pytest.raises(ConfigurationError, match=r"socket_timeout=1\.0"):
        RedisStore(redis.Redis(port=port, socket_timeout=None))
    with pytest.raises(ConfigurationError, match=r"BlockingConnectionPool\(timeout=1\.0\)"):
        RedisStore(redis.BlockingConnectionPool(port=port, socket_timeout=1, timeout=None))
    cached = redis.Redis(port=port, protocol=3, socket_timeout=1, cache_config=redis.cache.CacheConfig())
    with pytest.raises(ConfigurationError, match="cache_config"):
        RedisStore(cached)
    with pytest.raises(ConfigurationError, match="AsyncRedisStore"):
        RedisStore(redis.asyncio.Redis(port=port))  # type: ignore[arg-type]


# -- what it says --------------------------------------------------------------------------------------------------


def test_the_first_call_examines_the_server_once(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.fresh()
    caplog.set_level(logging.WARNING, "sojourn.store")
    with redis_server.configured(maxmemory_policy="allkeys-lru"), closing(store_of(redis_server.url)) as store:
        for _ in range(3):
            store.load(a_key())
    said = [record.message for record in caplog.records]
    assert [
        f"redis://{redis_server.address} evicts keys: maxmemory-policy is allkeys-lru." in text for text in said
    ] == [
        True,
        False,
    ]
    assert "keeps nothing on disk" in said[1]


def test_a_server_that_may_not_be_examined_serves_all_the_same(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As managed servers, which forbid CONFIG, and here INFO as well."""
    redis_server.fresh()
    allowed = ["+@read", "+@write", "+@scripting", "+@connection", "-@admin", "-@dangerous"]
    redis_server.admin.execute_command("ACL", "SETUSER", "guest", "on", ">guest", "~sojourn:*", *allowed)
    try:
        with closing(store_of(f"redis://guest:guest@{redis_server.address}")) as store:
            assert store.create(a_key(), a_record()) is Written.DONE
            assert store.update(a_key(), a_record(version=2), 1) is Written.DONE
            assert store.delete(a_key(), 2) is Written.DONE
            with pytest.raises(StoreUnavailable, match="does not allow its user"):
                store.examine()
        with closing(store_of(f"redis://guest:wrong@{redis_server.address}")) as store:
            with pytest.raises(StoreUnavailable, match="refuses the user or the password") as caught:
                store.load(a_key())
            assert "wrong" not in f"{caught.value}{caught.value.__cause__}"
        other = f"redis://guest:guest@{redis_server.address}?prefix=other:"
        with closing(store_of(other)) as store, pytest.raises(StoreUnavailable, match="does not allow its user"):
            store.load(a_key())
    finally:
        redis_server.admin.execute_command("ACL", "DELUSER", "guest")


def test_what_the_server_refuses_is_said_with_its_cure(redis_server: RedisServer) -> None:
    redis_server.fresh()
    with closing(store_of(redis_server.url)) as store:
        store.create(a_key(), a_record())
        with redis_server.configured(maxmemory="1"):
            with pytest.raises(StoreUnavailable, match="no memory left"):
                store.create(a_key(2), a_record())
            with pytest.raises(StoreUnavailable, match="no memory left"):
                store.update(a_key(), a_record(version=2), 1)
            assert store.load(a_key()) == a_record()
            assert store.delete(a_key(), 1) is Written.DONE
        redis_server.admin.hset(f"sojourn:{a_key(3).hex()}", "a", "b")
        with pytest.raises(StoreUnavailable, match="something else under a session's key"):
            store.load(a_key(3))


def test_a_node_of_a_cluster_is_told_from_a_single_server(redis_cluster: RedisCluster) -> None:
    redis_cluster.fresh()
    with closing(store_of(redis_cluster.primaries()[0].url)) as store:
        assert any("redis+cluster://" in finding.cure for finding in store.examine())
        with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
            store.load_many([a_key(number) for number in range(20)])


def test_a_certificate_of_another_authority_is_refused(locked_server: RedisServer) -> None:
    with ExitStack() as stack:
        stack.enter_context(closing(store := store_of(locked_server.url)))
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate") as caught:
            store.load(a_key())
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {store!r}"


def test_no_server_no_session_store(redis_server: RedisServer) -> None:
    """Nothing is asked before the first operation; then the reason is said, and no secret."""
    store = store_of("redis://user:hush@127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1:1 cannot be reached.*refused") as caught:
        store.load(a_key())
    assert "hush" not in f"{caught.value!r} {store!r}"
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        store_of("rediss://no.such.host.invalid:1").load(a_key())
