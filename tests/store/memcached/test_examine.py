"""What an operator is told about a memcached, and when."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tests.servers.memcached import MemcachedServer, MemcachedServers
from tests.store.memcached.callers import Caller, calling, secret_of

from sojourn.core.capability import Finding
from sojourn.core.ops import Create, Load
from sojourn.errors import StoreUnavailable
from sojourn.store.memcached.examine import findings
from sojourn.store.memcached.protocol import Statistics
from sojourn.store.memcached.settings import MemcachedSettings
from sojourn.testing.store_contract import a_key

HEALTHY = {"evictions": "0", "limit_maxbytes": "67108864", "rejected_connections": "0"}
OPTIONS = {"cas_enabled": "yes", "item_size_max": "1048576", "maxconns": "1024"}


def found(url: str, general: Statistics | None = None, options: Statistics | None = None) -> list[Finding]:
    settings = MemcachedSettings.from_url(url)
    return findings(settings.addresses[0], settings, HEALTHY | (general or {}), OPTIONS | (options or {}))


def test_a_healthy_server_gives_no_cause_to_complain() -> None:
    assert found("memcached://localhost") == []
    assert found("memcached+unix:///run/memcached.sock") == []
    assert found("memcacheds://cache-1") == []


@pytest.mark.parametrize(
    ("url", "general", "options", "words"),
    [
        ("memcached://cache-1?allow_insecure=yes", {}, {}, "without TLS"),
        (
            "memcached://localhost",
            {"evictions": "7"},
            {},
            "has evicted 7 items since it started, for want of memory (-m 64)",
        ),
        ("memcached://localhost", {}, {"cas_enabled": "no"}, "-C"),
        ("memcached://localhost", {}, {"item_size_max": "1000000"}, "takes items of 1000000 bytes (-I)"),
        ("memcached://localhost?max_item=2MiB", {}, {}, "max_item=2097152"),
        ("memcached://localhost", {"rejected_connections": "3"}, {}, "turned 3 connections away"),
        ("memcached://localhost", {"listen_disabled_num": "4"}, {}, "turned 4 connections away"),
    ],
)
def test_what_an_operator_can_change_is_found(url: str, general: Statistics, options: Statistics, words: str) -> None:
    (finding,) = found(url, general, options)
    assert words in finding.what
    assert finding.risk.endswith(".")
    assert finding.cure.endswith(".")


def test_what_a_server_does_not_tell_is_no_finding() -> None:
    settings = MemcachedSettings.from_url("memcached://localhost")
    assert findings(settings.addresses[0], settings, {}, {"item_size_max": "unlimited"}) == []


# -- real servers ------------------------------------------------------------------------------------------------


class Examine:
    def on(self, store: Any) -> Any:
        return store.examine()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "sojourn.store"]


@pytest.mark.slow
def test_real_servers_in_their_usual_set_up_give_no_cause_to_complain(servers: MemcachedServers, loop: bool) -> None:
    with calling(servers.url, loop=loop) as caller:
        assert caller.do(Examine()) == []


@pytest.mark.slow
def test_the_first_operation_on_a_server_logs_what_is_found_and_no_other_does(
    loop: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with MemcachedServer(options=["-C"]) as server, calling(server.url, loop=loop) as caller:
        for _ in range(3):
            caller.all([Load(a_key(number)) for number in range(10)])
        (warning,) = warnings_in(caplog)
        assert "-C" in warning
        assert "Cure: " in warning
        (finding,) = caller.do(Examine())
        assert finding.what in warning
        assert len(warnings_in(caplog)) == 1


@pytest.mark.slow
def test_a_server_that_is_not_asked_anything_is_not_examined(servers: MemcachedServers, loop: bool) -> None:
    """So that a server that hangs delays nobody whose session is elsewhere."""
    key = a_key()
    with calling(f"{servers.url}?timeout=5", loop=loop) as caller:
        placed = caller.store._placement.server_of(key)
        others = [server for server in servers if server.address != placed]
        for server in others:
            server.pause()
        assert caller.do(Load(key)) is None
        for server in others:
            server.resume()
        assert caller.store._unexamined.keys() == {server.address for server in others}


@pytest.mark.slow
def test_an_examination_that_fails_is_no_fault_of_the_request(server: MemcachedServer, loop: bool) -> None:
    with calling(server.url, loop=loop) as caller:
        broken(caller)
        assert caller.do(Create(a_key(), secret_of(a_key()))) is not None
        assert caller.do(Load(a_key())) == secret_of(a_key())


def broken(caller: Caller) -> None:
    async def later(_: object) -> Any:
        raise StoreUnavailable("no statistics today")

    def at_once(_: object) -> Any:
        raise StoreUnavailable("no statistics today")

    caller.store._examine = later if type(caller.store).__name__.startswith("Async") else at_once


@pytest.mark.slow
def test_a_server_that_cannot_be_examined_is_unavailable(servers: MemcachedServers, loop: bool) -> None:
    with calling(f"{servers.url}?timeout=0.5", loop=loop) as caller:
        servers[2].kill()
        with pytest.raises(StoreUnavailable, match=servers[2].address):
            caller.do(Examine())
