"""The tests' own servers do what they are told, and nothing of them is left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.servers.memcached import MemcachedServer, MemcachedServers, Refused
from tests.servers.process import LOOPBACK, Server, until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KINDS: dict[str, Callable[[], Server]] = {"redis": RedisServer, "memcached": MemcachedServer}


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[], Server]:
    return KINDS[request.param]


# -- any server


def test_nothing_is_left_behind(make: Callable[[], Server]) -> None:
    with make() as server:
        pid, directory = server.pid, server.directory
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, server.port), 1)


def test_nothing_is_left_of_a_paused_one(make: Callable[[], Server]) -> None:
    with make() as server:
        pid = server.pid
        server.pause()
    assert not psutil.pid_exists(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
@pytest.mark.parametrize("kind", KINDS)
def test_it_dies_with_the_tests_even_by_kill_9(kind: str) -> None:
    program = (
        f"import time; from tests.servers.test_servers import KINDS; server = KINDS[{kind!r}]().__enter__()\n"
        "print(server.pid, server.directory, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout
        pid, directory = tests.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        tests.kill()
    until(lambda: not psutil.pid_exists(int(pid)), "the server is dead")
    shutil.rmtree(directory)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = RedisServer(config=["no-such-setting 1"])
    with pytest.raises(RuntimeError, match="no-such-setting"), server:
        pass
    assert not server.directory.exists()


def test_a_paused_server_accepts_and_does_not_answer(make: Callable[[], Server]) -> None:
    with make() as server:
        server.pause()
        assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
        with socket.create_connection((LOOPBACK, server.port), 1) as sock:
            sock.sendall(b"version\r\n")
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            server.resume()
            sock.settimeout(5)
            assert sock.recv(1)


def test_a_dead_server_refuses_and_comes_back_on_its_port(make: Callable[[], Server]) -> None:
    with make() as server:
        address = server.address
        server.kill()
        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, server.port), 1)
        server.start()
        assert server.address == address
        assert server.answers()


def test_no_other_program_is_given_the_port_of_a_dead_server() -> None:
    with RedisServer() as server:
        server.kill()
        with pytest.raises(OSError, match="in use"), socket.socket() as sock:
            sock.bind((LOOPBACK, server.port))


def test_ctrl_c_in_the_terminal_reaches_the_tests_alone(make: Callable[[], Server]) -> None:
    with make() as server:
        assert os.getsid(server.pid) == server.pid


# -- Redis


@pytest.mark.parametrize("appendonly", [False, True])
def test_redis_keeps_or_loses_its_data(appendonly: bool) -> None:
    with RedisServer(appendonly=appendonly) as server:
        server.admin.set("a", "1")
        server.restart(keep_data=True)
        assert server.dump() == {b"a": b"1"}
        server.restart(keep_data=False)
        assert server.dump() == {}


def test_after_a_crash_only_the_append_only_file_has_the_data() -> None:
    for appendonly, left in ((True, b"1"), (False, None)):
        with RedisServer(appendonly=appendonly) as server:
            server.admin.set("a", "1")
            server.kill()
            server.start()
            assert server.admin.get("a") == left


def test_redis_with_a_password_tls_and_a_socket() -> None:
    with RedisServer(password="pa ss", tls=True, unix=True) as server:
        assert server.url.startswith("rediss://:pa%20ss@")
        with redis.Redis.from_url(server.url, ssl_ca_certs=str(server.authority)) as client:
            assert client.ping()
        stranger = redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises(redis.ConnectionError, match="CERTIFICATE"):
            stranger.ping()
        with redis.Redis.from_url(server.unix_url) as client:
            assert client.ping()
        nobody = redis.Redis(unix_socket_path=str(server.socket_path))
        with nobody, pytest.raises(redis.AuthenticationError):
            nobody.ping()


def test_redis_counts_the_commands(redis_server: RedisServer) -> None:
    redis_server.fresh()
    with redis_server.client() as client:
        client.ping()
        redis_server.reset()
        with redis_server.heard() as heard:
            client.set("a", 1)
            client.eval("return redis.call('get', KEYS[1])", 1, "a")
    assert heard.names() == ["SET", "EVAL"]
    assert heard.scripted == ["get a"]
    counts = redis_server.commands()
    assert (counts["set"], counts["eval"], counts["get"]) == (1, 1, 1)


def test_settings_are_put_back(redis_server: RedisServer) -> None:
    with redis_server.configured(maxmemory="3mb", maxmemory_policy="allkeys-lru"):
        assert redis_server.admin.config_get("maxmemory")["maxmemory"] == str(3 << 20)
    assert redis_server.admin.config_get("maxmemory*")["maxmemory-policy"] == "noeviction"
    assert redis_server.admin.config_get("maxmemory")["maxmemory"] == "0"


def test_a_fresh_redis_is_alive_empty_and_counts_from_zero(redis_server: RedisServer) -> None:
    redis_server.fresh()
    redis_server.admin.set("a", 1, px=5000)
    assert 0 < redis_server.lifetimes()[b"a"] <= 5000
    redis_server.pause()
    redis_server.fresh()
    assert redis_server.dump() == {}
    redis_server.kill()
    redis_server.fresh()
    assert set(redis_server.commands()) <= {"scan"}


def test_a_reply_cut_in_the_middle_of_redis(redis_server: RedisServer) -> None:
    redis_server.fresh()
    redis_server.admin.set("a", "x" * 1000)
    with Proxy(redis_server.port) as proxy, socket.create_connection((LOOPBACK, proxy.port), 5) as sock:
        proxy.cut_replies(100, reset=True)
        sock.sendall(b"GET a\r\n")
        assert sock.recv(100, socket.MSG_WAITALL).startswith(b"$1000\r\nxxx")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


# -- memcached


def test_memcached_loses_its_data_and_cannot_keep_it() -> None:
    with MemcachedServer() as server:
        server.set(b"a", b"1")
        with pytest.raises(ValueError, match="cannot keep"):
            server.restart(keep_data=True)
        server.restart(keep_data=False)
        assert server.dump() == {}


def test_memcached_tells_all_keys_values_and_expiries(memcached_servers: MemcachedServers) -> None:
    memcached_servers.fresh()
    server = memcached_servers[0]
    server.set(b"a", b"END\r\n")
    server.set(b"b=%", b"", 1000)
    memcached_servers[1].set(b"c", b"1")
    assert memcached_servers.dump() == {b"a": b"END\r\n", b"b=%": b"", b"c": b"1"}
    expiries = server.expiries()
    assert expiries[b"a"] == -1
    assert abs(expiries[b"b=%"] - int(server.stats()["time"]) - 1000) < 10  # its own clock: the machine's may be set


def test_memcached_counts_the_commands(memcached_servers: MemcachedServers) -> None:
    memcached_servers.fresh()
    memcached_servers[0].set(b"a", b"1")
    memcached_servers[1].get(b"a")
    assert memcached_servers.commands() == {"set": 1, "get": 1}
    memcached_servers.fresh()
    assert memcached_servers.commands() == {}
    assert memcached_servers.dump() == {}


def test_memcached_refuses_what_is_too_large() -> None:
    with MemcachedServer(max_item=256 << 10) as server:
        server.set(b"a", b"x" * (255 << 10))
        with pytest.raises(Refused, match="too large"):
            server.set(b"a", b"x" * (256 << 10))
