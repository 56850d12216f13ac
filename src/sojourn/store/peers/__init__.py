"""Sessions kept alike on every host of a cluster, without a server: what a ``peers:`` URL becomes.

Round trips: none for what is read here. A write takes one, to the agent of this host, which answers when ``acks`` other
hosts have it; a session that is not on this host takes one to a host that keeps it, by way of the agent.
``cluster.worker`` says which verb does what.

In this package a worker has ``blocking`` or ``loop`` with what both know in ``asking``, the socket to its agent in
``channel``, and ``start``, which starts one. The agent is ``agent``, its sockets are ``engine`` and ``streams``, and
what it decides is ``cluster.node``. Both have the storage: ``tables`` (LMDB) over ``tables_base``, with one transaction
in ``tables_rows``, what stores are asked for in ``tables_verbs`` and what other hosts send in ``tables_merge``, after
``checking``. How a session lies there says ``packing``; ``patching`` and ``wholes`` are shorter ways. ``operators`` and
``examination`` are for the command line.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import lmdb  # noqa: F401  here, so that a missing driver is reported as soon as the URL is read

from sojourn.cluster import worker
from sojourn.cluster.settings import Settings
from sojourn.core.ops import AsyncStore, Store
from sojourn.core.policy import Policy
from sojourn.drive import StorePair
from sojourn.store.local.files import memory_backed_path

if TYPE_CHECKING:
    from sojourn.store.peers.tables import HostTables

SELF = "SOJOURN_SELF"
"""The environment variable that names this host where the URL, which is the same on all, does not."""


class PeersPair(StorePair):
    """Sessions of this host and its cluster, in both colours. They share the storage, and nothing else.

    There are no locks here (``Lockable``): one that holds on every side of a partition would need a majority of the
    hosts to answer, and this store answers also where there is none.
    """

    merges = True
    """Hosts merge what each has written to a session value by value; so a session cannot be sealed as a whole."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(self._blocking, self._loop)
        self.settings = settings

    @cached_property
    def tables(self) -> HostTables:
        """This host's storage."""
        from sojourn.store.peers.tables import HostTables  # noqa: PLC0415  the agent's starter need not pay for it

        settings = self.settings
        return HostTables(settings.path, sync=bool(settings.sync), max_size=settings.max_size)

    def bound_by(self, policy: Policy) -> None:
        """Learn how long a session can live, and so how long an ended one must be remembered."""
        self.tables.lifetime_ms = round(policy.lifetime * 1000)

    def places(self, key: bytes) -> bool:
        """Tell whether this host is one of those that keep the session under the private *key*."""
        return worker.places(self.tables, self.settings, key)

    def __repr__(self) -> str:
        return f"<PeersPair {self.settings}>"

    def _blocking(self) -> Store:
        from sojourn.store.peers.blocking import PeersStore  # noqa: PLC0415  the other colour need not pay for it

        return PeersStore(self.settings, self.tables)

    def _loop(self) -> AsyncStore:
        from sojourn.store.peers.loop import AsyncPeersStore  # noqa: PLC0415

        return AsyncPeersStore(self.settings, self.tables)


class PeersUrl:
    """The store URLs of clusters."""

    @classmethod
    def from_url(cls, url: str) -> PeersPair:
        """Return the store that *url* names, in both colours. Its agent is started by the first operation.

        Makes the directory. Raises ConfigurationError for a wrong setting.
        """
        pair = PeersPair(settings_of(url))
        _ = pair.tables
        return pair


def settings_of(url: str) -> Settings:
    """Return what *url* says on this machine. Raises ConfigurationError."""
    return Settings.from_url(url, own=os.environ.get(SELF) or None, is_mine=is_mine, default_path=default_path)


def is_mine(host: str) -> bool:
    """Tell whether *host*, a name or an address, is one of this machine: a socket can be bound to nothing else."""
    with suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as sock:
                sock.bind(address)
                return True
    return False


def default_path(me: str) -> str:
    """Return where the host *me* keeps its sessions when no path is named: in memory, one place a user and host."""
    name = re.sub(r"[^\w.]+", "-", me).strip("-")
    return f"{memory_backed_path()}-peers-{name}"
