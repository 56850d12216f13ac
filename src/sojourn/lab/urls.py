"""What ``--store peers:`` means in a demo: hosts of the demo's own, each with a URL of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlencode

from sojourn.cluster.settings import Settings
from sojourn.errors import ConfigurationError

SCHEME = "peers:"
OURS = ("self", "listen", "path", "tls")  # settings that each host is given by the demo


def is_replicated(store: str) -> bool:
    """Tell whether each node is to be a host with a store of its own."""
    return store.startswith(SCHEME)


def settings_in(store: str) -> dict[str, str]:
    """Return the settings that ``peers:?copies=2&…`` gives all hosts.

    Raises ConfigurationError for what is the demo's to say, and for what no host may be given.
    """
    place, _, query = store.removeprefix(SCHEME).partition("?")
    if place.strip("/"):
        raise ConfigurationError(
            "a demo makes hosts of its own and cannot join those of a cluster; write --store peers: or, with settings, "
            "--store 'peers:?copies=2'"
        )
    settings = dict(parse_qsl(query, keep_blank_values=True))
    for name in OURS:
        if name in settings:
            raise ConfigurationError(f"{name}= is given to each host by the demo; leave it out")
    Settings.from_url(url_of("127.0.0.1:1", ["127.0.0.1:1"], "127.0.0.1:2", "/path", settings))
    return settings


def url_of(name: str, names: Sequence[str], listen: str, path: str, settings: Mapping[str, str]) -> str:
    """Return the store URL of the host that the others know as *name*; it listens elsewhere, behind a relay.

    Commits do not wait for the disk: the store ends with the demo.
    """
    own = {"self": name, "listen": listen, "path": path, "sync": "no"}
    return f"{SCHEME}//{','.join(names)}?{urlencode({**own, **settings}, safe='/:[],')}"
