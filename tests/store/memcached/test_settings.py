"""The store URL of memcached: what it says, and what it must not say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.servers.certificates import issue

from sojourn.drive import StorePair
from sojourn.errors import ConfigurationError
from sojourn.store.memcached.blocking import MemcachedStore
from sojourn.store.memcached.loop import AsyncMemcachedStore
from sojourn.store.memcached.settings import MemcachedSettings, MemcachedUrl


def names_in(url: str) -> list[str]:
    return [address.name for address in MemcachedSettings.from_url(url).addresses]


def test_servers_are_named_by_host_and_port_with_11211_as_the_default() -> None:
    assert names_in("memcached://localhost,127.0.0.1:11212,[::1],[::1]:7") == [
        "localhost:11211",
        "127.0.0.1:11212",
        "[::1]:11211",
        "[::1]:7",
    ]


def test_a_host_is_the_same_in_small_and_capital_letters() -> None:
    assert names_in("memcached://LocalHost") == ["localhost:11211"]


def test_a_unix_socket_is_named_by_its_path() -> None:
    assert names_in("memcached+unix:///run/mem%20cached.sock") == ["/run/mem cached.sock"]


def test_defaults() -> None:
    settings = MemcachedSettings.from_url("memcached://localhost")
    assert (settings.prefix, settings.timeout, settings.connect_timeout) == ("sojourn:", 1.0, 1.0)
    assert (settings.pool, settings.max_item, settings.tls) == (32, 1 << 20, False)


def test_settings_are_read_from_the_url() -> None:
    query = "prefix=shop/&timeout=0.25&connect_timeout=0.1&pool=4&max_item=4MiB"
    settings = MemcachedSettings.from_url(f"memcached://localhost?{query}")
    assert (settings.prefix, settings.timeout, settings.connect_timeout) == ("shop/", 0.25, 0.1)
    assert (settings.pool, settings.max_item) == (4, 4 << 20)


def test_connecting_takes_no_longer_than_a_call() -> None:
    assert MemcachedSettings.from_url("memcached://localhost?timeout=0.5&connect_timeout=3").connect_timeout == 0.5


def test_both_colours_are_made_without_a_server() -> None:
    pair = MemcachedUrl.from_url("memcached://localhost:1")
    assert isinstance(pair, StorePair)
    assert isinstance(pair.blocking, MemcachedStore)
    assert pair.blocking is pair.blocking
    assert isinstance(pair.loop, AsyncMemcachedStore)


WRONG = {
    "memcached://": "names no server",
    "memcached:": "names no server",
    "memcached://localhost,": "is no server",
    "memcached://localhost:0": "port from 1 to 65535",
    "memcached://localhost:65536": "port from 1 to 65535",
    "memcached://localhost:11x": "port from 1 to 65535",
    "memcached://localhost:": "port from 1 to 65535",
    "memcached://::1": "is no server",
    "memcached://[localhost]": "cannot be read|is no server",  # as the Python version sees it
    "memcached://[:::1]": "cannot be read|is no server",
    "memcached://local%0d%0ahost": "is no server",
    "memcached://local\r\nhost": "control characters",
    "memcached://local host": "control characters",
    "memcached://a..b": "is no server",
    f"memcached://{'a' * 64}": "is no server",
    "memcached://localhost,localhost:11211": "named twice",
    "memcached://localhost/0": "no path",
    "memcached://user:hunter2@localhost": "no user and password",
    "memcached://localhost#1": "no #",
    "memcached+unix://run/memcached.sock": "three slashes",
    "memcached+unix:///": "three slashes",
    "memcached://localhost?weight=2": "no setting 'weight'",
    "memcached://localhost?pool=1&pool=2": "given twice",
    "memcached://localhost?pool=0": "pool='0'",
    "memcached://localhost?pool=-1": "pool='-1'",
    "memcached://localhost?pool=many": "pool='many'",
    "memcached://localhost?pool=٣": "pool=",
    "memcached://localhost?timeout=0": "timeout='0'",
    "memcached://localhost?timeout=-1": "timeout='-1'",
    "memcached://localhost?timeout=nan": "timeout='nan'",
    "memcached://localhost?timeout=inf": "timeout='inf'",
    "memcached://user:hunter\u21002@localhost": "cannot be read",
    "memcached://user:x/hunter2@localhost": "no user and password",
    "memcached://user:x?hunter2@localhost": "no user and password",
    "memcached://localhost?timeout=": "timeout=''",
    "memcached://localhost?connect_timeout=soon": "connect_timeout='soon'",
    "memcached://localhost?max_item=1": "max_item='1'",
    "memcached://localhost?max_item=2GiB": "max_item='2GiB'",
    "memcached://localhost?max_item=1025MiB": "max_item='1025MiB'",
    "memcached://localhost?max_item=x": "max_item='x'",
    "memcached://localhost?prefix=": "prefix=''",
    "memcached://localhost?prefix=a%20b": "prefix='a b'",
    "memcached://localhost?prefix=a%0d%0aflush_all%0d%0a": "prefix=",
    "memcached://localhost?prefix=a%00b": "prefix=",
    "memcached://localhost?prefix=%7f": "prefix=",
    "memcached://localhost?prefix=schl%C3%BCssel": "prefix=",
    f"memcached://localhost?prefix={'a' * 65}": "prefix=",
    "memcached://localhost?allow_insecure=true": "use yes or no",
    "memcached://localhost?ca=/etc/ca.pem": "memcacheds://",
    "memcacheds://localhost?ca=": "name a file",
    "memcacheds://localhost?ca=/nowhere/ca.pem": "ca=/nowhere/ca.pem cannot be used",
    "memcacheds://localhost?key=/nowhere/key.pem": "give cert=",
}


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_setting_is_refused_with_its_name_and_the_cure(url: str) -> None:
    with pytest.raises(ConfigurationError, match=WRONG[url]) as raised:
        MemcachedUrl.from_url(url)
    assert "hunter" not in str(raised.value)


@pytest.mark.parametrize("url", ["memcached://cache-1", "memcached://localhost,10.0.0.7", "memcached://[2001:db8::1]"])
def test_the_network_without_tls_is_refused_unless_the_url_allows_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_insecure=yes"):
        MemcachedUrl.from_url(url)
    MemcachedUrl.from_url(f"{url}?allow_insecure=yes")
    MemcachedUrl.from_url(url.replace("memcached:", "memcacheds:"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "[::1]"])
def test_the_loopback_needs_no_permission(host: str) -> None:
    MemcachedUrl.from_url(f"memcached://{host}")


def test_certificates_are_read_when_the_store_is_made(tmp_path: Path) -> None:
    files = issue(tmp_path)
    settings = MemcachedSettings.from_url(
        f"memcacheds://cache-1?ca={files.authority}&cert={files.certificate}&key={files.key}"
    )
    context = settings.tls_context
    assert context
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"
