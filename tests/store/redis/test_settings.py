"""What a store URL says about Redis servers, and what it must not say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
import redis
from cryptography.hazmat.primitives import serialization
from tests.servers.certificates import issue

from sojourn.drive import StorePair
from sojourn.errors import ConfigurationError
from sojourn.store.redis.blocking import RedisStore
from sojourn.store.redis.pool import Connector
from sojourn.store.redis.settings import Address, RedisSettings, RedisUrl

SECRET = "hush-hush"


def test_a_host_is_enough() -> None:
    settings = RedisSettings.from_url("redis://localhost")
    assert (settings.mode, settings.addresses, settings.db) == ("standalone", (Address("localhost", 6379),), 0)
    assert (settings.timeout, settings.connect_timeout, settings.pool, settings.prefix) == (1.0, 1.0, 32, "sojourn:")
    assert (settings.tls, settings.username, settings.password, settings.path, settings.master) == (False, *[None] * 4)


def test_one_server_in_full() -> None:
    url = "rediss://shop:p%40ss%2Fw%3Ard@Cache.example:6380/3?ca=/etc/ca.pem&cert=/c.pem&key=/k.pem"
    settings = RedisSettings.from_url(url + "&prefix=shop:&timeout=0.25&connect_timeout=2&pool=8")
    assert settings.addresses == (Address("cache.example", 6380),)
    assert (settings.username, settings.password, settings.db) == ("shop", "p@ss/w:rd", 3)
    assert (settings.tls, settings.ca, settings.cert, settings.key) == (True, "/etc/ca.pem", "/c.pem", "/k.pem")
    assert (settings.prefix, settings.timeout, settings.connect_timeout, settings.pool) == ("shop:", 0.25, 2.0, 8)


def test_connecting_may_take_as_long_as_a_call_unless_told_otherwise() -> None:
    assert RedisSettings.from_url("redis://localhost?timeout=3").connect_timeout == 3.0


def test_a_socket() -> None:
    settings = RedisSettings.from_url(f"unix://:{SECRET}@/run/redis%20one.sock?db=2")
    assert (settings.path, settings.db, settings.password) == ("/run/redis one.sock", 2, SECRET)
    assert not settings.on_network
    assert settings.masked == "unix:///run/redis one.sock"


def test_sentinels() -> None:
    url = f"redis+sentinel://user:{SECRET}@h1,h2:5000,[fe80::1]/main/4?sentinel_username=s&sentinel_password=t"
    settings = RedisSettings.from_url(url)
    assert (settings.mode, settings.master, settings.db) == ("sentinel", "main", 4)
    assert settings.addresses == (Address("h1", 26379), Address("h2", 5000), Address("fe80::1", 26379))
    assert (settings.sentinel_username, settings.sentinel_password) == ("s", "t")
    assert settings.masked == "redis+sentinel://h1:26379,h2:5000,[fe80::1]:26379/main/4"


def test_a_cluster() -> None:
    settings = RedisSettings.from_url(f"rediss+cluster://:{SECRET}@h1,h2:7000,h1")
    assert (settings.mode, settings.tls) == ("cluster", True)
    assert settings.addresses == (Address("h1", 6379), Address("h2", 7000))


@pytest.mark.parametrize("scheme", ["valkey", "valkeys", "valkey+sentinel", "valkey+cluster", "valkeys+cluster"])
def test_valkey_is_the_same(scheme: str) -> None:
    name = "/main" if "sentinel" in scheme else ""
    settings = RedisSettings.from_url(f"{scheme}://localhost{name}")
    assert settings.tls == ("valkeys" in scheme)
    assert settings.masked.startswith(f"{scheme}://localhost:")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "[::1]:6380", "LOCALHOST"])
def test_on_this_host_no_password_is_asked_for(host: str) -> None:
    assert not RedisSettings.from_url(f"redis://{host}").on_network


@pytest.mark.parametrize(
    "url",
    [
        *("redis://cache", "redis://10.0.0.1", "redis://0.0.0.0", "redis://[::]", "redis://localhost.evil.example"),
        *("redis://128.0.0.1", "redis+sentinel://localhost,cache/main", "redis+cluster://localhost,10.0.0.1"),
        "redis://cache?allow_insecure=no",
    ],
)
def test_a_server_on_the_network_needs_tls_or_a_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"without TLS and without a password.*rediss://.*allow_insecure=yes"):
        RedisSettings.from_url(url)
    base, _, _ = url.partition("?")
    assert RedisSettings.from_url(f"{base}?allow_insecure=yes").on_network
    assert RedisSettings.from_url(base.replace("redis", "rediss", 1)).on_network
    asked = "?sentinel_password=x" if "sentinel" in base else ""
    assert RedisSettings.from_url(base.replace("://", f"://:{SECRET}@") + asked).on_network


def test_a_server_of_which_another_tells_is_held_to_the_same() -> None:
    """A Sentinel on this host may name a primary elsewhere."""
    connector = Connector(redis.Connection, {}, 1.0, 1.0, local_only=True)
    with pytest.raises(ConfigurationError, match=r"10\.0\.0\.1:6379 is on the network without TLS"):
        connector.connect(Address("10.0.0.1", 6379), monotonic() + 1)
    for query, refused in (("", True), ("?allow_insecure=yes", False)):
        store = RedisStore.from_settings(RedisSettings.from_url(f"redis+cluster://localhost{query}"))
        assert store._servers._connector.local_only is refused  # type: ignore[attr-defined]
    guarded = RedisStore.from_settings(RedisSettings.from_url(f"redis+cluster://:{SECRET}@localhost"))
    assert not guarded._servers._connector.local_only  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["redis+sentinel://:{}@h1,h2/main", "redis+sentinel://:{}@localhost,h2/main"])
def test_sentinels_on_the_network_need_tls_or_a_password_of_their_own(url: str) -> None:
    """The servers' password does not keep anybody from telling a Sentinel who the primary is."""
    url = url.format(SECRET)
    with pytest.raises(ConfigurationError, match=r"the Sentinels .*h2:26379 .*sentinel_password=.*allow_insecure=yes"):
        RedisSettings.from_url(url)
    for query in ("?allow_insecure=yes", "?sentinel_password=x"):
        assert RedisSettings.from_url(url + query).on_network
    assert RedisSettings.from_url(url.replace("redis", "rediss")).on_network


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    files = issue(tmp_path)
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"a passphrase")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(encoding, form, locked))
    url = f"rediss://localhost?ca={files.authority}&cert={files.certificate}&key={files.key}"
    code = f"from sojourn.store.redis.settings import RedisSettings; RedisSettings.from_url({url!r}).tls_context()"
    # Without a terminal OpenSSL asks its standard input, which says nothing here and does not end.
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            process.wait(20)
            assert process.stderr
            assert b"a key without a passphrase" in process.stderr.read()
        finally:
            process.kill()


BAD = {
    "redis://": "host is missing or ill-formed",
    "redis:///1": "host is missing",
    "redis://a b": "host is missing or ill-formed",
    "redis://localhost:": "host is missing or ill-formed",
    "redis://localhost:x": "host is missing or ill-formed",
    "redis://localhost:0": "0 is no port",
    "redis://localhost:65536": "65536 is no port",
    "redis://localhost:1:2": "host is missing or ill-formed",
    "redis://[::1": "host is missing or ill-formed",
    "redis://::1": "host is missing or ill-formed",
    "redis://localhost,127.0.0.1": r"several hosts.*redis\+sentinel",
    "redis+cluster://localhost,": "host is missing",
    "redis://localhost/x": "no database",
    "redis://localhost/-1": "no database",
    "redis://localhost/1/2": "no database",
    "redis://localhost?db=1": "no setting 'db'",
    "unix:///run/redis.sock?db=x": "no database",
    "unix://run/redis.sock": "three slashes",
    "unix://": "no path",
    "unix:///": "no path",
    "redis+cluster://localhost/1": "no database 1 in a Cluster",
    "redis+sentinel://localhost": "primary's name is missing",
    "redis+sentinel://localhost/": "primary's name is missing",
    "redis+sentinel://localhost//1": "primary's name is missing",
    "redis+sentinel://localhost/main/x": "no database",
    "redis+other://localhost": r"redis\+other:// is none of",
    "rediss+unix:///run/x": "is none of",
    "redis://localhost?timeout=0": "timeout=0 is no time to wait",
    "redis://localhost?timeout=-1": "timeout=-1 is no time",
    "redis://localhost?timeout=nan": "timeout=nan is no time",
    "redis://localhost?timeout=inf": "timeout=inf is no time",
    "redis://localhost?timeout=1e-9": "timeout=1e-9 is no time",
    "redis://localhost?timeout=": "timeout= is no time",
    "redis://localhost?timeout=1s": "timeout=1s is no time",
    "redis://localhost?connect_timeout=-0": "connect_timeout=-0 is no time",
    "redis://localhost?pool=0": "pool=0 is no number of connections",
    "redis://localhost?pool=-3": "pool=-3 is no number",
    "redis://localhost?pool=1.5": "pool=1.5 is no number",
    "redis://localhost?pool=99999999": "pool=99999999 is no number",
    "redis://localhost?pool=٣": "is no number",
    "redis://localhost?timeout=1&timeout=2": "timeout is given twice",
    "redis://localhost?time_out=1": "no setting 'time_out' here; there are allow_insecure, ca",
    "redis://localhost?sentinel_password=x": "no setting 'sentinel_password'",
    "redis://localhost?ssl_cert_reqs=none": "no setting 'ssl_cert_reqs'",
    "redis://localhost?allow_insecure=1": "neither yes nor no",
    "redis://localhost?ca=/x": "rediss, with two s",
    "rediss://localhost?key=/k": "key is given without cert",
    "rediss://localhost?ca=": "ca is empty",
    "redis://user@localhost": "without a password",
    "redis://user:@localhost": "password is empty",
    "redis://localhost?prefix=": "prefix is empty",
    "redis://localhost?prefix=" + "a" * 129: "prefix has 129 bytes",
    "redis+cluster://localhost?prefix={a}": "brace",
    "redis://localhost#x": "write it as %23",
}


@pytest.mark.parametrize("url", BAD)
def test_what_is_wrong_is_named_with_its_cure(url: str) -> None:
    with pytest.raises(ConfigurationError, match=BAD[url]) as caught:
        RedisUrl.from_url(url)
    assert ";" in str(caught.value) or "none of" in str(caught.value), "a cause and a cure"


def leaky() -> Iterator[str]:
    """Give URLs with everything that can be wrong about them, and with passwords that break them apart."""
    yield from (bad.replace("://", f"://user:{SECRET}@", 1) for bad in BAD if "@" not in bad)
    for password in (f"a/{SECRET}", f"a?{SECRET}", f"a#{SECRET}", f"{SECRET}/b", f"{SECRET}?b", f"{SECRET}#b"):
        for scheme in (
            "redis://u:{}@cache/1",
            "redis+sentinel://:{}@h1,h2/main",
            "unix://:{}@/run/x",
            "redis+cluster://u:{}@h",
        ):
            yield scheme.format(password)
    yield f"redis+sentinel://localhost/main?sentinel_password={SECRET}&sentinel_password={SECRET}"


@pytest.mark.parametrize("url", [*leaky()])
def test_no_message_shows_a_password(url: str) -> None:
    try:
        text = repr(RedisSettings.from_url(url))
    except ConfigurationError as error:
        text = repr(error) + repr(error.__cause__) + repr(error.__context__)
    assert SECRET not in text


def test_neither_text_nor_repr_shows_a_secret() -> None:
    url = f"redis+sentinel://user:{SECRET}@localhost/main?sentinel_password={SECRET}"
    settings = RedisSettings.from_url(url)
    store = RedisUrl.from_url(url).blocking
    assert SECRET not in f"{settings} {settings!r} {settings.masked} {store!r}"


def test_a_url_is_a_store_in_both_colours_and_asks_nothing() -> None:
    pair = RedisUrl.from_url("redis://127.0.0.1:1")
    assert isinstance(pair, StorePair)
    assert isinstance(pair.blocking, RedisStore)
    assert pair.blocking is pair.blocking


def test_certificates_that_cannot_be_read_are_said_when_the_store_is_made(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for ca in (tmp_path / "missing.pem", tmp_path / "ca.pem"):
        with pytest.raises(ConfigurationError, match=rf"ca={ca} cannot be used"):
            _ = RedisUrl.from_url(f"rediss://localhost?ca={ca}").blocking


def test_the_other_colour_is_not_paid_for() -> None:
    code = (
        "import sys; from sojourn.store.redis.settings import RedisUrl; "
        "RedisUrl.from_url('redis://localhost').blocking; "
        "assert 'sojourn.store.redis.loop' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_driver_is_said_with_its_cure() -> None:
    """As ``connect`` does it: the first import of the package is that of the driver."""
    code = "import sys; sys.modules['redis'] = None; import sojourn.store.redis.settings"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ModuleNotFoundError: import of redis halted" in done.stderr
