"""``sojourn doctor``: what it prints and its exit status, asked of real private servers."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from tests.servers.cluster import RedisCluster
from tests.servers.fixtures import redis_cluster, redis_sentinels
from tests.servers.memcached import MemcachedServer
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Sentinels

from sojourn.cli import main
from sojourn.connect import connect
from sojourn.core.capability import (
    Acquire,
    DeleteMany,
    Delist,
    Enlist,
    Find,
    LoadMany,
    Release,
    Scan,
)
from sojourn.core.ops import Create, Delete, Load, Performable, Touch, Update
from sojourn.core.record import Record
from sojourn.drive import StorePair, aperform, perform
from sojourn.errors import StoreUnavailable

__all__ = ["redis_cluster", "redis_sentinels"]

PAGE = Path(__file__).parents[2] / "docs" / "stores" / "redis.md"
SECRET = "correct-horse-battery"
CLEAN = "Nothing here puts sessions at risk.\n"


@pytest.fixture(scope="module")
def careful() -> Iterator[RedisServer]:
    """A server that keeps what it acknowledges, with a password."""
    with RedisServer(appendonly=True, password=SECRET, config=["appendfsync always"]) as server:
        yield server


@pytest.fixture(scope="module")
def careless() -> Iterator[RedisServer]:
    """A server that evicts, and that forgets everything when it ends; with a password."""
    with RedisServer(maxmemory="64mb", policy="allkeys-lru", password=SECRET) as server:
        yield server


# -- what it prints --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_without_findings_is_one_line_and_status_0(
    careful: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", careful.url]) == 0
    assert capsys.readouterr() == (CLEAN, "")


@pytest.mark.slow
def test_each_finding_is_printed_with_its_risk_and_its_cure_and_the_status_is_3(
    careless: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", careless.url]) == 3
    out, err = capsys.readouterr()
    eviction, persistence = out.split("\n\n")
    assert "maxmemory-policy is allkeys-lru" in eviction
    assert "keeps nothing on disk" in persistence
    for finding in (eviction, persistence):
        assert [line[:10] for line in finding.splitlines()[1:]] == ["    risk: ", "    cure: "]
    assert err == ""


@pytest.mark.slow
def test_what_is_cured_is_no_longer_found(careless: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    with careless.configured(maxmemory_policy="noeviction"):
        assert main(["doctor", careless.url]) == 3
    assert "evicts" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_memcached_is_examined_too(capsys: pytest.CaptureFixture[str]) -> None:
    with MemcachedServer() as server:
        assert main(["doctor", server.url]) == 0
    assert capsys.readouterr().out == CLEAN
    with MemcachedServer(options=["-C"]) as server:
        assert main(["doctor", server.url]) == 3
    assert "compare-and-swap" in capsys.readouterr().out


def test_a_store_on_this_host_is_examined_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "memory:"]) == 3
    assert "a restart ends them all" in capsys.readouterr().out


# -- secrets ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_url_out_of_the_environment_stands_in_no_list_of_processes(careful: RedisServer) -> None:
    command = [sys.executable, "-m", "sojourn.cli", "doctor", "env:SESSIONS"]
    env = {**os.environ, "SESSIONS": careful.url}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (CLEAN, "", 0)
    assert SECRET not in " ".join(done.args)


@pytest.mark.slow
def test_no_password_is_printed_whatever_goes_wrong(
    careless: RedisServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    urls = [
        careless.url,
        careless.url.replace(SECRET, f"{SECRET}-and-wrong"),
        f"redis://shop:{SECRET}@127.0.0.1:1/0",  # nobody listens there
        f"redis://shop:{SECRET}@{careless.address}/0?timeout=-1",
        f"redis://shop:{SECRET}@{careless.address}/no-number",
        f"redis://shop:{SECRET}@/",
        f"redis://shop:{SECRET}@a,b/",
        f"redis://shop:{SECRET}/@{careless.address}/",
        f"redis://shop:{SECRET}#@{careless.address}/",
        f"redis+sentinel://shop:{SECRET}@127.0.0.1:1/main?timeout=0.2",
        f"redis+cluster://shop:{SECRET}@127.0.0.1:1/?timeout=0.2",
        f"rediss://shop:{SECRET}@{careless.address}/0",  # no TLS there
        f"shoebox://shop:{SECRET}@{careless.address}",
    ]
    statuses = [main(["doctor", url]) for url in urls]
    out, err = capfd.readouterr()
    assert statuses[0] == 3
    assert set(statuses[1:]) == {1, 2}
    assert err.count("\n") == len(urls) - 1, "one line each, but for the first, which has findings"
    assert SECRET not in out + err + caplog.text


# -- what it cannot examine ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_a_failure_and_not_a_clean_bill(capsys: pytest.CaptureFixture[str]) -> None:
    with RedisServer(appendonly=True) as server:
        server.pause()
        try:
            assert main(["doctor", f"{server.url}?timeout=0.2"]) == 1
        finally:
            server.resume()
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"sojourn doctor: redis://{server.address} did not answer within 0.2 s")
        server.stop()
        assert main(["doctor", server.url]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"sojourn doctor: redis://{server.address} cannot be reached")


@pytest.mark.parametrize("url", ["env:NO_SUCH_VARIABLE", "shoebox:", "redis://cache-1.example", "no url at all"])
def test_a_wrong_url_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", url]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("sojourn doctor: ")


def test_an_empty_variable_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONS", "")
    assert main(["doctor", "env:SESSIONS"]) == 2
    assert "'SESSIONS'" in capsys.readouterr().err


class Shoebox:
    """A store that says nothing of itself, and that has been asked for no session."""

    waits = False

    @classmethod
    def from_url(cls, url: str) -> Shoebox:
        return cls()


def test_a_store_that_cannot_examine_itself_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sojourn.connect._plugins", lambda: {"shoebox": lambda: Shoebox.from_url})
    assert main(["doctor", "shoebox:"]) == 2
    assert capsys.readouterr().err == "sojourn doctor: Shoebox has nothing to examine\n"


# -- the smallest user of docs/stores/redis.md -----------------------------------------------------------------


def rule() -> list[str]:
    """Return the words of the page's ACL rule, without the user's name and password."""
    found: list[str] = re.findall(r"^user shop on >secret (.*)$", PAGE.read_text(), re.MULTILINE)
    [words] = found
    return words.split()


def addition(purpose: str) -> list[str]:
    """Return what the page adds for *purpose*."""
    found: list[str] = re.findall(rf"^\| {purpose}[^|]* \| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)
    [words] = found
    return words.replace("\\|", "|").split()


def operations() -> list[Performable]:
    key, tag, owner, now = os.urandom(32), os.urandom(32), os.urandom(16), time.time()
    record = Record(values={"n": b"1"}, created_at=now, accessed_at=now, expires_at=now + 1800, version=1)
    return [
        *(Create(key, record), Load(key), Update(key, record._replace(version=2), 1)),
        *(Touch(key, now + 1, now + 1801, 2), LoadMany([key]), Scan()),
        *(Enlist(tag, key, now, now + 1800), Find(tag), Delist(tag, [key])),
        *(Acquire(key, owner, now, now + 30), Release(key, owner)),
        *(Delete(key, 2), Delete(key), DeleteMany([key])),
    ]


def allow(servers: list[RedisServer], words: list[str]) -> None:
    for server in servers:
        server.admin.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">secret", *words)


def do_everything(url: str) -> None:
    """Perform each operation in both colours as the user. Raises StoreUnavailable for what it may not do."""
    pair = connect(url.replace("://", "://shop:secret@"))
    assert isinstance(pair, StorePair)
    with closing(cast(Any, pair.blocking)) as store:
        for op in operations():
            perform(op, store)

    async def awaited() -> None:
        async with aclosing(cast(Any, pair.loop)) as store:
            for op in operations():
                await aperform(op, store)

    asyncio.run(awaited())


@pytest.mark.slow
def test_the_smallest_user_of_the_page_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with RedisServer(appendonly=True, config=["appendfsync always"]) as server:
        allow([server], rule())
        do_everything(f"redis://{server.address}")
        allow([server], [*rule(), *addition("a database other than 0")])
        do_everything(f"redis://{server.address}/1")
        allow([server], [*rule(), *addition("the doctor")])
        assert main(["doctor", f"redis://shop:secret@{server.address}"]) == 0
        with redis.Redis(port=server.port, username="shop", password="secret") as user:
            for command in (("FLUSHDB",), ("CONFIG", "SET", "save", ""), ("GET", "another"), ("KEYS", "*")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    user.execute_command(*command)
    assert capsys.readouterr().out == CLEAN


@pytest.mark.slow
def test_the_smallest_user_of_the_page_cannot_be_smaller() -> None:
    with RedisServer() as server:
        for word in [word for word in rule() if word.startswith("+")]:
            server.admin.script_flush()
            allow([server], [other for other in rule() if other != word])
            with pytest.raises(StoreUnavailable):
                do_everything(f"redis://{server.address}")


@pytest.mark.slow
def test_the_smallest_user_of_the_page_is_enough_under_sentinel(redis_sentinels: Sentinels) -> None:
    redis_sentinels.fresh()
    allow(redis_sentinels.servers, [*rule(), *addition("Sentinel")])
    try:
        do_everything(redis_sentinels.url)
    finally:
        forget(redis_sentinels.servers)


@pytest.mark.slow
def test_the_smallest_user_of_the_page_is_enough_in_a_cluster(redis_cluster: RedisCluster) -> None:
    redis_cluster.fresh()
    allow([*redis_cluster], [*rule(), *addition("Cluster")])
    try:
        do_everything(redis_cluster.url)
    finally:
        forget([*redis_cluster])


def forget(servers: list[RedisServer]) -> None:
    for server in servers:
        server.admin.acl_deluser("shop")
