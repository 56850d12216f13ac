"""What a ``peers:`` URL may say, and what is said about what it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sojourn.cluster.settings import Settings
from sojourn.connect import connect
from sojourn.core.policy import Policy
from sojourn.errors import ConfigurationError
from sojourn.manager import SessionManager
from sojourn.store.peers import SELF, PeersPair, channel, default_path, is_mine, settings_of
from sojourn.store.peers.start import STARTED

TWO = "peers://127.0.0.1:7001,127.0.0.1:7002"
APPS = "peers://app1,app2:8000,app3?tls=/etc/sojourn"


def read(url: str, **how: Any) -> Settings:
    return Settings.from_url(url, **{"own": None, "is_mine": lambda host: host == "app2", "default_path": path} | how)


def path(me: str) -> str:
    return f"/dev/shm/{me}"


def test_the_same_url_on_all_hosts_says_on_each_which_it_is() -> None:
    settings = read(APPS)
    assert settings.seeds == ("app1:7946", "app2:8000", "app3:7946")
    assert settings.me == settings.listen == "app2:8000"
    assert settings.path == "/dev/shm/app2:8000"
    assert (settings.copies, settings.acks, settings.alone, settings.wait) == (None, 1, "accept", 1.0)


def test_every_setting_arrives() -> None:
    settings = read(
        f"{APPS}&self=App9:1&listen=[::]:7000&path=/var/lib/shop&cluster=shop&members=App1,app2,app3,app9,*.shop&copies=3&acks=2&alone=refuse&wait=250ms"
        "&sync=no&max_size=8GiB&suspect_after=2s&dead_after=30&beat=.5"
    )
    assert settings == Settings(
        seeds=("app1:7946", "app2:8000", "app3:7946"),
        me="app9:1",
        listen="[::]:7000",
        path="/var/lib/shop",
        cluster="shop",
        members=("app1", "app2", "app3", "app9", "*.shop"),
        copies=3,
        acks=2,
        alone="refuse",
        wait=0.25,
        tls="/etc/sojourn",
        sync=False,
        max_size=8 << 30,
        suspect_after=2.0,
        dead_after=30.0,
        beat=0.5,
    )


@pytest.mark.parametrize(
    "url",
    [
        APPS,
        f"{APPS}&members=app1,app2,app3,*.shop.example,[FD00:0::1],10.0.0.1",
        f"{TWO}?self=127.0.0.1:7002&acks=all&path=/srv/a b/c&100%25",
        "peers://[FD00:0::1]:7946?tls=/etc/so%26journ&path=/x?y#z".replace("#", "%23"),
    ],
)
def test_the_full_url_says_the_same_without_any_surroundings(url: str) -> None:
    settings = read(url.replace("&100%25", ""), is_mine=lambda host: host in ("app2", "fd00::1"))
    assert Settings.from_url(settings.url) == settings


def test_commits_wait_for_the_disk_where_a_path_is_named_and_not_in_memory() -> None:
    assert read(APPS).sync is False
    assert read(f"{APPS}&path=/var/lib/shop").sync is True


def test_sessions_of_several_hosts_on_one_machine_lie_apart() -> None:
    paths = {default_path(me) for me in ("127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.2:7001", "[::1]:7001")}
    assert len(paths) == 4
    assert all(path.startswith("/") for path in paths)


def test_a_name_that_the_operator_gives_is_taken_as_it_is() -> None:
    assert read(APPS, own="App3").me == "app3:7946"
    assert read(f"{APPS}&self=new:7946").me == "new:7946"
    assert read(f"{APPS}&self=new", own="new").me == "new:7946"


@pytest.mark.parametrize(
    ("url", "how", "words"),
    [
        ("peers:", {}, "no hosts; write peers://host1:7946"),
        ("peers://", {}, "missing or ill-formed"),
        ("peers://a b", {}, "missing or ill-formed"),
        ("peers://app1:0", {}, "0 is no port"),
        ("peers://[:::]:1", {}, "no IPv6 address"),
        ("peers://joe:secret@app1", {}, "leave it out: hosts know each other by certificates"),
        ("peers://app1/var/lib", {}, "path=/var/lib"),
        ("peers://app1#x", {}, "%23"),
        (f"{APPS}&colour=red", {}, "no setting 'colour' here; there are acks, alone, beat"),
        (f"{APPS}&acks=1&acks=2", {}, "acks is given twice"),
        (f"{APPS}&acks=-1", {}, "acks=-1 is no number of hosts; use 0 to 16, or all"),
        (f"{APPS}&copies=0", {}, "use 1 to 16, or all"),
        (f"{APPS}&copies=0000011", {}, "use 1 to 16, or all"),
        (f"{APPS}&max_size=0000000000041943040", {}, "4MiB to 64TiB"),
        (f"{APPS}&copies=2&acks=2", {}, "use acks=1 at most, or acks=all"),
        (f"{APPS}&alone=wait", {}, "neither accept nor refuse; write one of them"),
        (f"{APPS}&alone=refuse&acks=0", {}, "use acks=1"),
        (f"{APPS}&wait=0", {}, "0.001 to 3600"),
        (f"{APPS}&wait=nan", {}, "0.001 to 3600"),
        (f"{APPS}&path=sessions", {}, "begin it with /"),
        (f"{APPS}&cluster=a b", {}, "no name"),
        (f"{APPS}&members=", {}, r"members= is no name; .* or \*\.example\.com"),
        (f"{APPS}&members=app1,*", {}, r"members=\* is no name"),
        (f"{APPS}&members=app*.example", {}, "is no name"),
        (f"{APPS}&members=*.*.example", {}, "is no name"),
        (f"{APPS}&members=*.0.0.1", {}, "is no name"),
        (f"{APPS}&members=a..b", {}, "is no name"),
        (f"{APPS}&members=app1:7946", {}, "without a port"),
        (f"{APPS}&members=app1,app2", {}, "app3:7946 is no member by members=app1,app2; add its name there"),
        (f"{APPS}&self=app9&members=app1,app2,app3", {}, "app9:7946 is no member"),
        (f"{APPS}&max_size=1KiB", {}, "4MiB to 64TiB"),
        (f"{APPS}&beat=1&suspect_after=1", {}, "half of it at most"),
        (f"{APPS}&sync=maybe", {}, "write yes or no"),
        ("peers://app1,app2", {}, "give tls=DIRECTORY with ca.pem, host.pem and host.key; sojourn cluster certs"),
        (f"{TWO}?self=127.0.0.1:7001&listen=0.0.0.0:7001", {}, "0.0.0.0:7001 is on the network"),
        (APPS, {"is_mine": lambda host: False}, "none of the hosts is this machine; say .* SOJOURN_SELF=host:7946"),
        (TWO, {"is_mine": lambda host: True}, "127.0.0.1:7001 and 127.0.0.1:7002 are all this machine; .* self=127.0"),
        (f"{APPS}&self=app1", {"own": "app2"}, "self=app1:7946, and SOJOURN_SELF is app2:7946; keep one"),
        (APPS, {"default_path": None}, "no path="),
    ],
)
def test_a_wrong_setting_is_named_with_its_cure(url: str, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        read(url, **how)
    assert "secret" not in str(caught.value)


def test_a_pattern_stands_for_names_of_one_label_more_and_a_name_for_itself() -> None:
    settings = Settings(seeds=(), me="", listen="", path="", members=("*.shop.example", "db1", "10.0.0.1", "fd00::1"))
    let_in = ["app1.shop.example", "db1", "10.0.0.1", "fd00::1"]
    refused = ["shop.example", ".shop.example", "a.b.shop.example", "*.shop.example", "xshop.example", "db1.example"]
    assert [name for name in (*let_in, *refused, "db", "10.0.0.2", "") if settings.admits(name)] == let_in


def test_a_machine_knows_its_own_addresses() -> None:
    assert is_mine("127.0.0.1")
    assert is_mine("localhost")
    assert not is_mine("192.0.2.1")  # of a block that is given to nobody (RFC 5737)
    assert not is_mine("host.invalid")


def test_the_environment_names_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SELF, "127.0.0.1:7002")
    assert settings_of(TWO).me == "127.0.0.1:7002"


def test_a_url_becomes_a_store_and_starts_nothing(tmp_path: Path) -> None:
    pair = connect(f"peers://127.0.0.1:7001?path={tmp_path}/store")
    assert isinstance(pair, PeersPair)
    assert repr(pair) == "<PeersPair peers://127.0.0.1:7001>"
    assert pair.merges
    assert pair.places(bytes(32))
    assert not (tmp_path / "store" / STARTED).exists()
    assert channel.agent_of(tmp_path / "store") is None
    pair.tables.close()


def test_the_store_learns_how_long_a_session_can_live(tmp_path: Path) -> None:
    pair = connect(f"peers://127.0.0.1:7001?path={tmp_path}/store")
    assert isinstance(pair, PeersPair)
    SessionManager(pair, policy=Policy(lifetime=1000))
    assert pair.tables.lifetime_ms == 1_000_000
    pair.tables.close()


def test_what_hosts_merge_cannot_be_sealed_as_a_whole(tmp_path: Path) -> None:
    pair = connect(f"peers://127.0.0.1:7001?path={tmp_path}/store")
    with pytest.raises(ConfigurationError, match="leave keys out"):
        SessionManager(pair, keys=["k1." + "A" * 43])
    assert isinstance(pair, PeersPair)
    pair.tables.close()
