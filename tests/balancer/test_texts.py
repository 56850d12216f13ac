"""The configuration texts say what the balancers are to do, and the real programs accept them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sojourn.balancer.caddy import caddyfile
from sojourn.balancer.nginx import nginx_conf
from sojourn.balancer.nodes import Address, Aside, Site
from sojourn.errors import ConfigurationError
from sojourn.lab.balancers import find_caddy, find_nginx

NODES = (Address("127.0.0.1", 9001), Address("::1", 9002))
SITE = Site(Address("127.0.0.1", 8000), NODES, Aside("/_lab/", Address("127.0.0.1", 9009), "/_lab/down"))
BARE = Site(Address("::1", 8000), NODES[:1])
SECOND = 1_000_000_000


def program(find: Any) -> str:
    try:
        return str(find())
    except ConfigurationError as error:
        pytest.skip(str(error))


def adapted(text: str, directory: Path) -> Any:
    """Return what Caddy itself makes of a Caddyfile."""
    config = directory / "Caddyfile"
    config.write_text(text)
    command = [program(find_caddy), "adapt", "--config", str(config), "--adapter", "caddyfile", "--validate"]
    env = {"HOME": str(directory), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "not formatted" not in done.stderr
    return json.loads(done.stdout)


def handlers(config: Any, kind: str) -> list[Any]:
    """Return every handler of a kind, wherever it stands."""
    if isinstance(config, dict):
        own = [config] if config.get("handler") == kind else []
        return own + [found for value in config.values() for found in handlers(value, kind)]
    return [found for value in config for found in handlers(value, kind)] if isinstance(config, list) else []


def test_caddy_repeats_only_what_is_safe_and_leaves_dead_nodes(tmp_path: Path) -> None:
    proxies = [proxy for proxy in handlers(adapted(caddyfile(SITE), tmp_path), "reverse_proxy") if "transport" in proxy]
    assert len(proxies) == 2  # one for reads, one for writes
    for proxy in proxies:
        assert [upstream["dial"] for upstream in proxy["upstreams"]] == ["127.0.0.1:9001", "[::1]:9002"]
        assert proxy["load_balancing"] == {
            "selection_policy": {"policy": "round_robin"},
            "try_duration": 5 * SECOND,
            "try_interval": SECOND // 20,
            "retry_match": [{"method": ["GET", "HEAD", "OPTIONS"]}],
        }
        assert proxy["health_checks"] == {"passive": {"max_fails": 1, "fail_duration": SECOND}}
        assert proxy["transport"]["keep_alive"] == {"enabled": False}
        assert proxy["transport"]["dial_timeout"] == SECOND


def test_caddy_has_no_remote_control_and_asks_for_no_certificates(tmp_path: Path) -> None:
    config = adapted(caddyfile(SITE), tmp_path)
    assert config["admin"]["disabled"] is True
    assert config["admin"]["config"] == {"persist": False}
    assert config["apps"]["http"]["servers"]["srv0"]["automatic_https"]["disable"] is True


@pytest.mark.parametrize(
    ("site", "fd", "listens"), [(SITE, None, "127.0.0.1:8000"), (BARE, None, "[::1]:8000"), (SITE, 7, "fd/7")]
)
def test_caddy_listens_where_it_is_told(site: Site, fd: int | None, listens: str, tmp_path: Path) -> None:
    config = adapted(caddyfile(site, inherited_fd=fd), tmp_path)
    assert config["apps"]["http"]["servers"]["srv0"]["listen"] == [listens]


@pytest.mark.parametrize("site", [SITE, BARE])
def test_nginx_accepts_its_configuration(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "nginx.conf"
    config.write_text(nginx_conf(site))
    command = [program(find_nginx), "-t", "-p", str(tmp_path), "-e", "stderr", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nginx_repeats_no_post_and_leaves_dead_nodes() -> None:
    text = nginx_conf(SITE)
    assert re.findall(r"proxy_next_upstream (.*);", text) == ["error timeout"]
    assert re.findall(r"server (\S+) (.*);", text) == 2 * [
        ("127.0.0.1:9001", "max_fails=1 fail_timeout=1s"),
        ("[::1]:9002", "max_fails=1 fail_timeout=1s"),
    ]


def test_nginx_keeps_its_files_in_its_directory() -> None:
    """Every path is relative; the directory is given on the command line."""
    paths = re.findall(r"(?:_temp_path|pid|_log) (\S+)", nginx_conf(SITE))
    assert len(paths) == 8
    assert not [path for path in paths if path.startswith("/")]
